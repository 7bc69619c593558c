//! Prime as a person runs it: `opri serve` on a conf directory, with log, metrics and policy as they are by default.
//!
//! Only limits that a bench with one address must pass are raised.

use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::gateway::{Door, Gateway, Pair, Stage, log};
use crate::machine;
use crate::running::{Interrupt, Running};

/// A large one makes certificates for some hosts first.
const PATIENCE: Duration = Duration::from_secs(120);
const PROJECTS: usize = 1000;
const HOSTS_OF_EACH: usize = 10;

/// How much there is beside what is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// The two hosts that requests name.
    Small,
    /// 10,000 hosts of 1,000 projects.
    Large,
}

/// A Prime that is ready to start.
pub struct Prime<'p> {
    pub binary: &'p Path,
    pub interrupt: &'p Interrupt,
    cores: Vec<usize>,
    directory: TempDir,
}

impl<'p> Prime<'p> {
    /// Writes its conf.
    pub fn new(binary: &'p Path, interrupt: &'p Interrupt, stage: &Stage, size: Size) -> Self {
        let directory = tempfile::Builder::new().prefix("o").rand_bytes(5).tempdir_in("/tmp").unwrap();
        let prime = Self { binary, interrupt, cores: vec![machine::GATEWAY], directory };
        prime.machine(IN_MEMORY);
        let (tcp, unix) = (stage.origin.address.to_string(), format!("unix:{}", stage.origin.socket.display()));
        let more = if size == Size::Large { HOSTS_OF_EACH } else { 1 };
        prime.project("tcp", &tcp, [vec![Door::Tcp.host().to_owned()], hosts("tcp", 1..more)].concat(), &stage.pair);
        prime.project(
            "unix",
            &unix,
            [vec![Door::Unix.host().to_owned()], hosts("unix", 1..more)].concat(),
            &stage.pair,
        );
        for name in other_projects().filter(|_| size == Size::Large) {
            let hosts = hosts(&name, 0..HOSTS_OF_EACH);
            let pair = stage.ca.sign(hosts.clone());
            prime.project(&name, &tcp, hosts, &pair);
        }
        prime
    }

    /// With this much memory for stored answers, in bytes.
    pub fn with_cache(self, bytes: u64) -> Self {
        self.machine(&format!("{IN_MEMORY}memory = \"{}KiB\"\n", bytes / 1024));
        self
    }

    /// Whose cache keeps nothing in memory.
    pub fn with_disk_alone(self) -> Self {
        self.machine(ON_DISK);
        self
    }

    /// On other cores than the gateway's one.
    pub fn on(mut self, cores: &[usize]) -> Self {
        self.cores = cores.to_vec();
        self
    }

    fn machine(&self, cache: &str) {
        self.write("conf/prime.toml", &format!("{MACHINE}{cache}"));
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.directory.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A project with its hosts and their certificate; the first host is the one that is asked.
    fn project(&self, name: &str, upstream: &str, hosts: Vec<String>, pair: &Pair) {
        let text = format!("upstream = \"{upstream}\"\nhttps = \"both\"\n[branches.master]\nhosts = {hosts:?}\n");
        self.write(&format!("conf/projects/{name}.toml"), &text);
        self.write(&format!("certs/{}/fullchain.pem", hosts[0]), &pair.chain);
        self.write(&format!("certs/{}/privkey.pem", hosts[0]), &pair.key);
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Starts it, and waits until it says where it listens.
    pub fn start(self, name: &'static str) -> Result<Gateway, String> {
        let conf = self.directory.path().join("conf");
        let log = log(self.directory.path())?;
        let mut command = Command::new(self.binary);
        command.args(["serve", "--conf"]).arg(&conf).current_dir(self.directory.path());
        command.stdout(log.try_clone().map_err(|error| error.to_string())?).stderr(log);
        let mut running = Running::start(&mut command, &self.cores)?;
        let mut status = Value::Null;
        let came = self.interrupt.until(PATIENCE, || {
            let asked = Command::new(self.binary).args(["status", "--json", "--conf"]).arg(&conf).output();
            status = asked.ok().and_then(|output| serde_json::from_slice(&output.stdout).ok()).unwrap_or(Value::Null);
            status.is_object() || running.has_ended()
        });
        if !came || !status.is_object() {
            let said = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            return Err(format!("`opri serve` does not come up: {said}"));
        }
        let (http, https) = (address(&status, "http")?, address(&status, "https")?);
        let plain = [Door::Hit, Door::Tcp, Door::Unix].map(|door| (door, http));
        let secure = [Door::SecureHit, Door::SecureTcp].map(|door| (door, https));
        let doors = plain.into_iter().chain(secure).collect();
        Ok(Gateway { name, doors, running, directory: self.directory })
    }
}

/// The projects of a large Prime beside the two that are asked.
fn other_projects() -> impl Iterator<Item = String> {
    (2..PROJECTS).map(|number| format!("p{number}"))
}

fn hosts(project: &str, numbers: Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("h{number}.{project}.test")).collect()
}

/// The first host of each project that a large Prime has beside the two.
pub fn other_hosts() -> Vec<String> {
    other_projects().flat_map(|name| hosts(&name, 0..1)).collect()
}

/// The process that carries the traffic.
pub fn edge(gateway: &Gateway) -> u32 {
    let is_edge = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|byte| *byte == 0).nth(1) == Some(b"edge")
    };
    gateway.processes().into_iter().find(is_edge).unwrap_or_else(|| gateway.running.pid())
}

fn address(status: &Value, kind: &str) -> Result<SocketAddr, String> {
    let address = status["listeners"][kind][0].as_str().and_then(|address| address.parse().ok());
    address.ok_or_else(|| format!("no {kind} address in {status}"))
}

const MACHINE: &str = r#"domain = "test"
runtime = "process"

[listen]
http = "127.0.0.1:0"
https = "127.0.0.1:0"
metrics = "127.0.0.1:0"

[hooks]
travis = { config_url = "https://127.0.0.1:1/config" }

[limits]
keepalive_requests = 1000000
keepalive_timeout = "5m"
connections = 15000
connections_per_address = 15000

[cache]
"#;

/// As the peers' caches are.
const IN_MEMORY: &str = "disk = \"0\"\n";
const ON_DISK: &str = "memory = \"0\"\n";
