//! Instructions of a gateway's own code a request, counted by callgrind, which no other load disturbs. The kernel's are
//! not in it.
//!
//! What 2,000 requests took less what 500 took, over 1,500: opening connections and waking up is in both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::gateway::{Gateway, Stage};
use crate::lines::{LINES, Line};
use crate::load::Load;
use crate::machine;
use crate::peers::{self, PEERS};
use crate::prime::{Prime, Size};
use crate::running::{Running, program};

const FEW: u64 = 500;
const MANY: u64 = 2000;
/// A program under callgrind is 50 times slower.
const PATIENCE: Duration = Duration::from_secs(180);
/// Where the profile of each line is left.
pub const PROFILES: &str = env!("CARGO_TARGET_TMPDIR");
const COUNTED: [&str; 7] = ["hit", "tcp", "unix", "tls-hit", "tls-tcp", "h2-hit", "h2-tcp"];

pub struct Counted {
    pub line: &'static Line,
    pub gateway: &'static str,
    pub instructions: f64,
}

/// A gateway under callgrind, and the process that is counted.
struct Watched {
    gateway: Gateway,
    pid: u32,
    directory: PathBuf,
    vgdb: PathBuf,
    /// Prime's edge, which is started before the control that adopts it.
    _edge: Option<Running>,
}

pub fn count(load: &Load, stage: &Stage, binary: &Path, wanted: &[&'static Line]) -> Result<Vec<Counted>, String> {
    let valgrind = program("valgrind").ok_or("valgrind is missing: apt-get install valgrind")?;
    let vgdb = program("vgdb").ok_or("vgdb is missing: apt-get install valgrind")?;
    let lines: Vec<&Line> = LINES
        .iter()
        .filter(|line| COUNTED.contains(&line.name))
        .filter(|line| wanted.iter().any(|w| w.name == line.name))
        .collect();
    let mut counted = Vec::new();
    for name in ["opri", "nginx", "haproxy"] {
        eprintln!("instructions of {name}");
        let watched = match name {
            "opri" => prime(load, stage, binary, (&valgrind, &vgdb))?,
            _ => match peer(stage, name, (&valgrind, &vgdb))? {
                Some(watched) => watched,
                None => continue,
            },
        };
        for line in &lines {
            let instructions = watched.count(load, line)?;
            counted.push(Counted { line, gateway: watched.gateway.name, instructions });
        }
    }
    Ok(counted)
}

fn wrapper(valgrind: &Path, directory: &Path) -> Vec<String> {
    let out = directory.join("callgrind.%p");
    vec![
        valgrind.display().to_string(),
        "--tool=callgrind".to_owned(),
        format!("--callgrind-out-file={}", out.display()),
        format!("--vgdb-prefix={}", directory.join("vgdb").display()),
    ]
}

fn peer(stage: &Stage, name: &str, (valgrind, vgdb): (&Path, &Path)) -> Result<Option<Watched>, String> {
    let Some(peer) = PEERS.iter().find(|(peer, ..)| *peer == name) else { return Ok(None) };
    let Some(mut recipe) = peers::recipe(*peer, stage) else { return Ok(None) };
    if name == "nginx" {
        recipe.arguments.extend(["-g".to_owned(), "master_process off;".to_owned()]);
    }
    let directory = recipe.directory.path().to_owned();
    let gateway = recipe.start(&wrapper(valgrind, &directory))?;
    let pid = gateway.running.pid();
    Ok(Some(Watched { gateway, pid, directory, vgdb: vgdb.to_owned(), _edge: None }))
}

fn prime(load: &Load, stage: &Stage, binary: &Path, (valgrind, vgdb): (&Path, &Path)) -> Result<Watched, String> {
    let prime = Prime::new(binary, &load.interrupt, stage, Size::Small);
    let state = prime.state();
    let directory = state.parent().unwrap_or(&state).to_owned();
    let words = wrapper(valgrind, &directory);
    let mut command = Command::new(&words[0]);
    let log = crate::gateway::log(&directory)?;
    command.args(&words[1..]).arg(binary).args(["edge", "--await-sockets", "--state"]).arg(&state);
    command.current_dir(&directory).stdout(log.try_clone().map_err(|error| error.to_string())?).stderr(log);
    let mut edge = Running::start(&mut command, &[machine::GATEWAY])?;
    let socket = state.join("run/edge.sock");
    if !load.interrupt.until(PATIENCE, || socket.exists() || edge.has_ended()) || edge.has_ended() {
        let said = fs::read_to_string(directory.join("log")).unwrap_or_default();
        return Err(format!("the edge does not come up under valgrind: {said}"));
    }
    let pid = edge.pid();
    let gateway = prime.start("opri")?;
    Ok(Watched { gateway, pid, directory, vgdb: vgdb.to_owned(), _edge: Some(edge) })
}

impl Watched {
    fn count(&self, load: &Load, line: &Line) -> Result<f64, String> {
        let address = self.gateway.address(line.door).ok_or("it has no such door")?;
        let mut last = String::new();
        let is_ready = load
            .interrupt
            .until(PATIENCE, || load.crowd.ask(line.door, address, line.path).map_err(|why| last = why).is_ok());
        if !is_ready {
            return Err(format!("{} under valgrind: {last}", self.gateway.name));
        }
        load.count(200, line, address)?;
        let few = self.during(|| load.count(FEW, line, address))?;
        let many = self.during(|| load.count(MANY, line, address))?;
        self.keep(line)?;
        Ok((many - few) as f64 / (MANY - FEW) as f64)
    }

    /// Instructions that were carried out while something was done.
    fn during(&self, what: impl FnOnce() -> Result<(), String>) -> Result<u64, String> {
        self.say("zero")?;
        what()?;
        for dump in self.dumps() {
            let _ = fs::remove_file(dump);
        }
        self.say("dump")?;
        let text: Vec<String> = self.dumps().iter().filter_map(|dump| fs::read_to_string(dump).ok()).collect();
        let totals = text.iter().flat_map(|text| text.lines()).filter_map(|line| line.strip_prefix("totals: "));
        let total: u64 = totals.filter_map(|total| total.trim().parse::<u64>().ok()).sum();
        if total == 0 { Err("callgrind counted nothing".to_owned()) } else { Ok(total) }
    }

    /// Leaves the last dump where `callgrind_annotate` finds it when all is over.
    fn keep(&self, line: &Line) -> Result<(), String> {
        let file = Path::new(PROFILES).join(format!("callgrind.{}.{}", self.gateway.name, line.name));
        let last = self.dumps().into_iter().max().ok_or("callgrind left no dump")?;
        fs::copy(last, file).map(drop).map_err(|error| error.to_string())
    }

    fn dumps(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(&self.directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_dump =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("callgrind."));
        files.filter(is_dump).collect()
    }

    fn say(&self, word: &str) -> Result<(), String> {
        let mut command = Command::new(&self.vgdb);
        command
            .arg(format!("--pid={}", self.pid))
            .arg(format!("--vgdb-prefix={}", self.directory.join("vgdb").display()));
        let output = command.arg(word).output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("vgdb {word}: {}", String::from_utf8_lossy(&output.stderr))),
        }
    }
}
