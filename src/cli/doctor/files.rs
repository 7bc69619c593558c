//! Who owns what Prime keeps on disk, and who else could read it.
//!
//! Used by `doctor`, which is to be run as the user that runs `opri serve`.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User, geteuid};

use super::Finding;
use crate::model::machine::Machine;

/// Below `certs_dir`: a directory a host, in it a pair or directories with pairs.
const CERTS_DEPTH: usize = 3;

pub fn look(machine: &Machine) -> Vec<Finding> {
    let mut findings =
        vec![directory("state_dir", &machine.state_dir, 0o066), directory("certs_dir", &machine.certs_dir, 0o022)];
    findings.push(keys(&machine.certs_dir));
    if geteuid().is_root() && machine.edge_user.is_none() {
        let hint = "make a user for it, and name it: [edge] user = \"opri-edge\" in prime.toml";
        findings.push(Finding::warn("edge", "what reads strangers' bytes would run as root", hint));
    }
    findings
}

/// `closed`: what nobody but the owner may do with it.
fn directory(what: &str, path: &Path, closed: u32) -> Finding {
    let place = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return missing(what, path),
        Err(error) => return Finding::fail(what, format!("{place}: {error}"), "see that its owner can enter it"),
    };
    let mode = metadata.mode() & 0o7777;
    if !metadata.is_dir() {
        Finding::fail(what, format!("{place} is not a directory"), "name another in prime.toml")
    } else if let Some(owner) = other_owner(&metadata) {
        let hint = "run this as the user that runs `opri serve`, or give it to that user with chown -R";
        Finding::fail(what, format!("{place} belongs to {owner}"), hint)
    } else if mode & closed != 0 {
        let hint = format!("chmod go-{} {place}", if closed & 0o044 == 0 { "w" } else { "rw" });
        Finding::fail(what, format!("{place} is open to others (mode {mode:04o})"), hint)
    } else {
        Finding::ok(what, format!("{place} (mode {mode:04o})"))
    }
}

fn missing(what: &str, path: &Path) -> Finding {
    let above = path.ancestors().skip(1).find(|above| above.exists()).unwrap_or(Path::new("/"));
    let place = path.display();
    match rustix::fs::access(above, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK) {
        Ok(()) => Finding::ok(what, format!("{place} will be made")),
        Err(_) => {
            let says = format!("{place} is not there, and cannot be made in {}", above.display());
            Finding::fail(what, says, format!("as root: install -d -m 0700 -o <user> {place}"))
        }
    }
}

/// The owner's name, unless that is who asks.
fn other_owner(metadata: &Metadata) -> Option<String> {
    let owner = Uid::from_raw(metadata.uid());
    let name = || User::from_uid(owner).ok().flatten().map_or_else(|| format!("user {owner}"), |user| user.name);
    (owner != geteuid()).then(name)
}

fn keys(certs_dir: &Path) -> Finding {
    let mut found = Vec::new();
    private_keys(certs_dir, CERTS_DEPTH, &mut found);
    let is_open = |path: &&PathBuf| fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0);
    let is_closed_to_us = |path: &&PathBuf| fs::File::open(path).is_err();
    if let Some(path) = found.iter().find(is_open) {
        let says = format!("the private key {} can be read by others", path.display());
        Finding::fail("keys", says, format!("chmod 600 {}", path.display()))
    } else if let Some(path) = found.iter().find(is_closed_to_us) {
        let says = format!("the private key {} cannot be read", path.display());
        Finding::fail("keys", says, "it must be readable for the user that runs `opri serve`")
    } else {
        Finding::ok("keys", format!("{} private keys, each closed to others", found.len()))
    }
}

fn private_keys(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() && depth > 1 => private_keys(&path, depth - 1, found),
            Ok(metadata) if metadata.is_file() && path.file_name().is_some_and(is_key) => found.push(path),
            _ => {}
        }
    }
}

fn is_key(name: &std::ffi::OsStr) -> bool {
    name == "privkey.pem" || name.to_str().is_some_and(|name| name.ends_with("key.pem"))
}
