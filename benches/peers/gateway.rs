//! A gateway that runs: its name, where each kind of request goes, and its processes.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::machine;
use crate::measure;
use crate::origin::Origin;
use crate::running::Running;

/// What a request needs of a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Door {
    /// The answer may come from the cache.
    Hit,
    /// The answer comes from the origin, over TCP.
    Tcp,
    /// The answer comes from the origin, over its Unix socket.
    Unix,
    SecureHit,
    SecureTcp,
}

impl Door {
    pub fn is_secure(self) -> bool {
        matches!(self, Self::SecureHit | Self::SecureTcp)
    }

    /// Whom requests name. It resolves to the loopback everywhere, so that every tool names it in its TLS greeting too.
    pub fn host(self) -> &'static str {
        if self == Self::Unix { "unix.test" } else { "localhost" }
    }
}

/// Behind, beside and around every gateway.
pub struct Stage {
    pub origin: Origin,
    pub ca: Ca,
    /// The one certificate of all gateways.
    pub pair: Pair,
    /// Open to other users, whom some gateways become.
    _directory: TempDir,
}

/// Signs certificates for keys of ECDSA over P-256.
pub struct Ca {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub root: String,
}

pub struct Pair {
    pub chain: String,
    pub key: String,
}

pub struct Gateway {
    pub name: &'static str,
    pub doors: BTreeMap<Door, SocketAddr>,
    pub running: Running,
    /// Where it lives, gone with it.
    pub directory: TempDir,
}

impl Stage {
    pub fn set() -> Self {
        let directory = tempfile::Builder::new().prefix("peers").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let (origin, ca) = (Origin::start(directory.path()), Ca::new());
        let pair = ca.sign([Door::Tcp, Door::Unix].map(|door| door.host().to_owned()).into());
        Self { origin, ca, pair, _directory: directory }
    }
}

impl Ca {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, "the bench's CA");
        let root = ca.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(ca, key), root }
    }

    pub fn sign(&self, hosts: Vec<String>) -> Pair {
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(hosts).unwrap().signed_by(&key, &self.issuer).unwrap();
        Pair { chain: leaf.pem(), key: key.serialize_pem() }
    }
}

impl Gateway {
    pub fn address(&self, door: Door) -> Option<SocketAddr> {
        self.doors.get(&door).copied()
    }

    /// All its processes.
    pub fn processes(&self) -> Vec<u32> {
        measure::family(self.running.pid())
    }
}

/// How a peer is started: its files lie in a directory of its own.
pub struct Recipe {
    pub name: &'static str,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
    pub doors: BTreeMap<Door, SocketAddr>,
    pub directory: TempDir,
}

impl Recipe {
    pub fn start(self, wrapper: &[String]) -> Result<Gateway, String> {
        let mut words = wrapper.to_vec();
        words.push(self.program.display().to_string());
        words.extend(self.arguments);
        let log = log(self.directory.path())?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(self.directory.path()).envs(self.environment);
        command.stdout(log.try_clone().map_err(|error| error.to_string())?).stderr(log);
        let running = Running::start(&mut command, &[machine::GATEWAY])?;
        Ok(Gateway { name: self.name, doors: self.doors, running, directory: self.directory })
    }
}

/// What a gateway says goes into a file.
pub fn log(directory: &Path) -> Result<std::fs::File, String> {
    std::fs::File::create(directory.join("log")).map_err(|error| error.to_string())
}

/// An address that nobody has now.
pub fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}
