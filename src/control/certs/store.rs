//! Certificates on disk: `certs/<host>/fullchain.pem`, `privkey.pem` and, for our own, `meta.json`.
//!
//! Called by `renew`. Our own pairs lie in a directory named after their digest and are never changed; `current` is a
//! link to the newest, and moving that link is the one step that replaces a pair. So a pair is whole at every instant,
//! and a reader of yesterday's path finds yesterday's bytes. A person's files are never written to.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use x509_parser::extensions::GeneralName;

use super::{CertFault, Certificate, Pair};
use crate::link::keys::digest;
use crate::model::certificate::{CertificateFiles, Issuer, Validity};
use crate::model::host::HostPattern;

/// What a look into the certificates' directory found.
#[derive(Debug, Default)]
pub struct Found {
    pub certificates: Vec<Certificate>,
    /// One for each directory that cannot be used.
    pub faults: Vec<CertFault>,
}

/// What our own pairs carry beside them.
#[derive(Debug, Serialize, Deserialize)]
struct Meta {
    issuer: Issuer,
    /// Of the pair it was written with: when a person copied other files over ours, it no longer fits.
    digest: String,
}

/// Reads every certificate there is. A directory that does not exist holds none.
pub fn scan(certs_dir: &Path) -> Found {
    let mut found = Found::default();
    for directory in host_directories(certs_dir) {
        match read(&directory) {
            Ok(certificate) => found.certificates.push(certificate),
            Err(fault) => found.faults.push(fault),
        }
    }
    found
}

/// Something that differs whenever `scan` might find something else: cheap enough to ask often.
pub fn state(certs_dir: &Path) -> Vec<(PathBuf, u64, SystemTime)> {
    let mut state = Vec::new();
    for directory in host_directories(certs_dir) {
        for name in [CHAIN, KEY] {
            let path = pair_directory(&directory).join(name);
            if let Ok(metadata) = fs::metadata(&path) {
                state.push((path, metadata.len(), metadata.modified().unwrap_or(UNIX_EPOCH)));
            }
        }
    }
    state
}

/// Puts a pair of our own in place and reads it back. The one before stays on disk until the next.
pub fn save(certs_dir: &Path, host: &HostPattern, pair: &Pair, issuer: Issuer) -> Result<Certificate, CertFault> {
    let directory = own_directory(certs_dir, host);
    write(&directory, pair, issuer).map_err(|error| CertFault::Write(directory.clone(), error))?;
    read(&directory)
}

/// Directories that may hold a pair, in the order of their names.
fn host_directories(certs_dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(certs_dir) else { return Vec::new() };
    let is_host = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        !name.starts_with('.') && name != "acme" && name != "ca" && path.is_dir()
    };
    let mut directories: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_host).collect();
    directories.sort();
    directories
}

/// Where the pair of a host's directory really lies: with ours, behind the link.
fn pair_directory(directory: &Path) -> PathBuf {
    let current = directory.join(CURRENT);
    match fs::canonicalize(&current) {
        Ok(target) if !has_persons_files(directory) => target,
        _ => directory.to_owned(),
    }
}

/// Whether somebody put plain files, or links of another tool's, where our own links would be.
fn has_persons_files(directory: &Path) -> bool {
    let is_ours = |name: &str| {
        let path = directory.join(name);
        match fs::symlink_metadata(&path) {
            Ok(_) => fs::read_link(&path).is_ok_and(|target| target.starts_with(CURRENT)),
            Err(_) => true,
        }
    };
    !(is_ours(CHAIN) && is_ours(KEY))
}

/// The directory to write our own pair of a host to: beside a person's, when there is one.
fn own_directory(certs_dir: &Path, host: &HostPattern) -> PathBuf {
    let name = host.to_string().replacen("*.", "_wildcard.", 1);
    let directory = certs_dir.join(&name);
    if has_persons_files(&directory) { certs_dir.join(name + ".opri") } else { directory }
}

fn read(directory: &Path) -> Result<Certificate, CertFault> {
    let directory = pair_directory(directory);
    let (chain_path, key_path) = (directory.join(CHAIN), directory.join(KEY));
    let bytes = |path: &Path| fs::read(path).map_err(|error| CertFault::Read(path.to_owned(), error));
    let (chain_pem, key_pem) = (bytes(&chain_path)?, bytes(&key_path)?);

    let no_certificate = || CertFault::NoCertificate(chain_path.clone());
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&chain_pem).collect::<Result<_, _>>().map_err(|_| no_certificate())?;
    let (_, leaf) =
        chain.first().and_then(|leaf| x509_parser::parse_x509_certificate(leaf).ok()).ok_or_else(no_certificate)?;
    let hosts = names(&leaf);
    let validity = validity(&leaf);
    let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|_| CertFault::NoKey(key_path.clone()))?;
    let fit = CertifiedKey::from_der(chain.clone(), key, &rustls::crypto::aws_lc_rs::default_provider());
    fit.map_err(|error| CertFault::Mismatch {
        chain: chain_path.clone(),
        key: key_path.clone(),
        why: error.to_string(),
    })?;
    if hosts.is_empty() {
        return Err(CertFault::NoNames(chain_path));
    }
    let digest = digest(&chain_pem, &key_pem);
    let issuer = issuer(&directory, &digest);
    Ok(Certificate { files: CertificateFiles { hosts, chain: chain_path, key: key_path, digest }, issuer, validity })
}

fn issuer(directory: &Path, digest: &str) -> Issuer {
    let meta = fs::read(directory.join(META)).ok().and_then(|bytes| serde_json::from_slice::<Meta>(&bytes).ok());
    meta.filter(|meta| meta.digest == digest).map_or(Issuer::Operator, |meta| meta.issuer)
}

fn names(leaf: &x509_parser::certificate::X509Certificate<'_>) -> Vec<HostPattern> {
    let alternative = leaf.subject_alternative_name().ok().flatten();
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => name.parse().ok(),
        GeneralName::IPAddress(bytes) => address(bytes)?.to_string().parse().ok(),
        _ => None,
    };
    alternative.map(|names| names.value.general_names.iter().filter_map(name).collect()).unwrap_or_default()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok();
    v4.or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
}

fn validity(leaf: &x509_parser::certificate::X509Certificate<'_>) -> Validity {
    let time = |at: x509_parser::time::ASN1Time| {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(at.timestamp()).unwrap_or_default())
    };
    Validity { not_before: time(leaf.validity().not_before), not_after: time(leaf.validity().not_after) }
}

fn write(directory: &Path, pair: &Pair, issuer: Issuer) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let digest = digest(pair.chain.as_bytes(), pair.key.as_bytes());
    let version = directory.join(&digest[..16]);
    if !version.exists() {
        // 0700, with files of 0600, from the first byte.
        let aside = tempfile::Builder::new().prefix(ASIDE).tempdir_in(directory)?;
        let meta = serde_json::to_vec(&Meta { issuer, digest })?;
        for (name, bytes) in [(CHAIN, pair.chain.as_bytes()), (KEY, pair.key.as_bytes()), (META, &meta)] {
            let mut file = tempfile::NamedTempFile::new_in(aside.path())?;
            file.write_all(bytes)?;
            file.as_file().sync_all()?;
            file.persist(aside.path().join(name))?;
        }
        fs::File::open(aside.path())?.sync_all()?;
        fs::rename(aside.path(), &version)?;
    }
    let before = fs::read_link(directory.join(CURRENT)).ok();
    let target = version.file_name().map(PathBuf::from).unwrap_or_default();
    link(directory, &target, CURRENT)?;
    for name in [CHAIN, KEY, META] {
        if fs::symlink_metadata(directory.join(name)).is_err() {
            link(directory, &Path::new(CURRENT).join(name), name)?;
        }
    }
    fs::File::open(directory)?.sync_all()?;
    prune(directory, &[Some(target), before])
}

/// Makes or replaces a link in one step.
fn link(directory: &Path, target: &Path, name: &str) -> io::Result<()> {
    let aside = directory.join(format!("{ASIDE}{name}"));
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(target, &aside)?;
    fs::rename(&aside, directory.join(name))
}

/// Removes older versions, and what a kill in the middle of a write left.
fn prune(directory: &Path, kept: &[Option<PathBuf>]) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        if entry.file_type()?.is_dir() && !kept.contains(&Some(name)) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

const CHAIN: &str = "fullchain.pem";
const KEY: &str = "privkey.pem";
const META: &str = "meta.json";
const CURRENT: &str = "current";
const ASIDE: &str = ".new-";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::local_ca::LocalCa;
    use super::*;

    fn pair(dir: &Path, host: &str) -> Pair {
        LocalCa::open(dir, SystemTime::now()).unwrap().issue(&host.parse().unwrap(), SystemTime::now()).unwrap()
    }

    fn hosts(found: &Found) -> Vec<String> {
        found.certificates.iter().flat_map(|c| &c.files.hosts).map(HostPattern::to_string).collect()
    }

    #[test]
    fn what_is_saved_is_found_and_private() {
        let dir = tempfile::tempdir().unwrap();
        for host in ["shop.test", "*.shop.test", "127.0.0.1", "::1"] {
            let pair = pair(dir.path(), host);
            save(dir.path(), &host.parse().unwrap(), &pair, Issuer::Local).unwrap();
        }
        let found = scan(dir.path());
        assert!(found.faults.is_empty(), "{:?}", found.faults);
        assert_eq!(hosts(&found), ["127.0.0.1", "::1", "*.shop.test", "shop.test"]);
        for certificate in &found.certificates {
            assert_eq!(certificate.issuer, Issuer::Local);
            assert_eq!(fs::metadata(&certificate.files.key).unwrap().permissions().mode() & 0o777, 0o600);
            let read = |path: &Path| fs::read(path).unwrap();
            assert_eq!(
                digest(&read(&certificate.files.chain), &read(&certificate.files.key)),
                certificate.files.digest
            );
        }
        assert!(fs::read_to_string(dir.path().join("shop.test/privkey.pem")).unwrap().contains("PRIVATE KEY"));
    }

    #[test]
    fn a_renewed_pair_replaces_the_old_one_which_stays_readable_once_more() {
        let dir = tempfile::tempdir().unwrap();
        let host: HostPattern = "shop.test".parse().unwrap();
        let saved: Vec<_> =
            (0..3).map(|_| save(dir.path(), &host, &pair(dir.path(), "shop.test"), Issuer::Acme).unwrap()).collect();
        let found = scan(dir.path()).certificates;
        assert_eq!(found, [saved[2].clone()]);
        assert!(saved[1].files.key.exists() && !saved[0].files.key.exists());
    }

    #[test]
    fn a_kill_at_any_step_leaves_a_pair_that_loads() {
        let dir = tempfile::tempdir().unwrap();
        let host: HostPattern = "shop.test".parse().unwrap();
        let old = save(dir.path(), &host, &pair(dir.path(), "shop.test"), Issuer::Acme).unwrap();
        let directory = dir.path().join("shop.test");
        // Half a version, a whole version that is not current, a link that was not moved.
        fs::create_dir(directory.join(".new-abc")).unwrap();
        fs::write(directory.join(".new-abc/fullchain.pem"), "half").unwrap();
        let next = pair(dir.path(), "shop.test");
        let version = directory.join(&digest(next.chain.as_bytes(), next.key.as_bytes())[..16]);
        fs::create_dir(&version).unwrap();
        fs::write(version.join(CHAIN), &next.chain).unwrap();
        fs::write(version.join(KEY), &next.key).unwrap();
        std::os::unix::fs::symlink(&version, directory.join(".new-current")).unwrap();
        assert_eq!(scan(dir.path()).certificates, [old]);
        save(dir.path(), &host, &next, Issuer::Acme).unwrap();
        assert_eq!(hosts(&scan(dir.path())), ["shop.test"]);
        assert!(!directory.join(".new-abc").exists());
        // The links of the first write are missing: the pair is found all the same.
        fs::remove_file(directory.join(CHAIN)).unwrap();
        assert_eq!(hosts(&scan(dir.path())), ["shop.test"]);
    }

    #[test]
    fn a_persons_files_are_read_and_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, ours) = (pair(dir.path(), "shop.test"), pair(dir.path(), "shop.test"));
        let directory = dir.path().join("shop.test");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join(CHAIN), &theirs.chain).unwrap();
        fs::write(directory.join(KEY), &theirs.key).unwrap();
        assert_eq!(scan(dir.path()).certificates[0].issuer, Issuer::Operator);
        save(dir.path(), &"shop.test".parse().unwrap(), &ours, Issuer::Acme).unwrap();
        assert_eq!(fs::read_to_string(directory.join(CHAIN)).unwrap(), theirs.chain);
        let issuers: Vec<_> = scan(dir.path()).certificates.iter().map(|c| c.issuer).collect();
        assert_eq!(issuers, [Issuer::Operator, Issuer::Acme]);
    }

    #[test]
    fn files_copied_over_ours_are_a_persons() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &"shop.test".parse().unwrap(), &pair(dir.path(), "shop.test"), Issuer::Acme).unwrap();
        let theirs = pair(dir.path(), "shop.test");
        let before = state(dir.path());
        fs::write(dir.path().join("shop.test/fullchain.pem"), &theirs.chain).unwrap();
        fs::write(dir.path().join("shop.test/privkey.pem"), &theirs.key).unwrap();
        assert_ne!(state(dir.path()), before);
        assert_eq!(scan(dir.path()).certificates[0].issuer, Issuer::Operator);
    }

    #[test]
    fn one_bad_directory_is_named_and_harms_no_other() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), &"good.test".parse().unwrap(), &pair(dir.path(), "good.test"), Issuer::Local).unwrap();
        let write = |host: &str, chain: &str, key: &str| {
            fs::create_dir(dir.path().join(host)).unwrap();
            fs::write(dir.path().join(host).join(CHAIN), chain).unwrap();
            fs::write(dir.path().join(host).join(KEY), key).unwrap();
        };
        let (one, two) = (pair(dir.path(), "a.test"), pair(dir.path(), "b.test"));
        write("mixed.test", &one.chain, &two.key);
        write("nokey.test", &one.chain, "");
        write("nochain.test", "garbage", &one.key);
        fs::create_dir(dir.path().join("empty.test")).unwrap();
        let found = scan(dir.path());
        assert_eq!(hosts(&found), ["good.test"]);
        let faults: Vec<String> = found.faults.iter().map(ToString::to_string).collect();
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(faults.iter().any(|fault| fault.contains("mixed.test/privkey.pem does not fit")), "{faults:?}");
        assert!(faults.iter().any(|fault| fault.contains("nokey.test/privkey.pem holds no private key")), "{faults:?}");
    }
}
