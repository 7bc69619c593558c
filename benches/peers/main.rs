//! The edge beside Debian's nginx, HAProxy, Varnish and Caddy: `cargo bench --bench peers`.
//!
//! Prints tables and, with `--write`, puts them into RESULTS.md beside this file. Nothing here fails for being slow; a
//! figure over its target is marked. Everything stays on the loopback.

mod crowd;
mod gateway;
mod instructions;
mod latency;
mod lines;
mod load;
mod machine;
mod many;
mod measure;
mod memory;
mod origin;
mod pace;
mod peers;
mod prime;
mod report;
mod rounds;
mod running;
mod table;
mod workers;

use std::cell::Cell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crowd::Crowd;
use gateway::{Door, Gateway, Stage};
use lines::{DISK, LARGE, LINES, Line, SMALL, Tool};
use load::Load;
use peers::PEERS;
use prime::{Prime, Size};
use report::Results;
use rounds::{Dice, Rounds};
use running::{Interrupt, Interrupted};

/// Samples that a round may take again because something disturbed them: the whole stays below 20 minutes.
const REPEATS: usize = 20;
const QUICK_REPEATS: usize = 8;

/// Until a gateway must answer: with 10,000 hosts there is much to read.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Parser)]
struct Options {
    /// Only these: hit, hit-100k, disk-100k, tcp, unix, tcp-100k, tls-hit, tls-tcp, h2-hit, h2-tcp, handshake, hit-spread,
    /// tcp-spread, large (each line with 10,000 hosts too), memory, latency, workers, many.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How often each line is measured.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long one sample takes.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// How often a sample is taken again that other work or the hypervisor disturbed.
    #[arg(long, default_value_t = 3)]
    retries: usize,
    /// Two rounds of one second, without the 10,000 hosts.
    #[arg(long)]
    quick: bool,
    /// Goes before other work of this machine, where the scheduler and the rights allow it.
    #[arg(long)]
    precedence: bool,
    /// Counts instructions too, by callgrind, and leaves its profiles in target/tmp: a few minutes more.
    #[arg(long)]
    instructions: bool,
    /// Writes RESULTS.md.
    #[arg(long)]
    write: bool,
    /// Only these gateways beside Prime.
    #[arg(long, value_delimiter = ',')]
    peers: Option<Vec<String>>,
    /// Another binary than this workspace's.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_opri"))]
    binary: PathBuf,
    /// Holds the load of one line on a gateway and says its processes, for a profiler.
    #[arg(long, value_name = "LINE")]
    hold: Option<String>,
    /// Which gateway `--hold` is about.
    #[arg(long, default_value = "opri")]
    gateway: String,
    /// How long `--hold` takes.
    #[arg(long, default_value_t = 60)]
    hold_seconds: u64,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    // Gateways are started in directories of their own.
    options.binary = std::path::absolute(&options.binary).unwrap_or(options.binary);
    if options.quick {
        (options.rounds, options.seconds) = (options.rounds.min(2), 1);
    }
    // So that one panic, or a signal, drops every process on its way.
    match std::panic::catch_unwind(|| Bench::new(options).and_then(|bench| bench.run())) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(why)) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
        Err(panic) if panic.is::<Interrupted>() => ExitCode::from(130),
        Err(_) => ExitCode::FAILURE,
    }
}

struct Bench {
    options: Options,
    _precedence: Option<machine::Precedence>,
    stage: Stage,
    load: Load,
    lines: Vec<&'static Line>,
}

impl Bench {
    fn new(options: Options) -> Result<Self, String> {
        if machine::cores() < 2 {
            return Err("a gateway and its load need a core each, and there is one".to_owned());
        }
        raise_descriptors();
        let interrupt = Interrupt::listen();
        machine::keep_to(&[machine::LOAD]);
        let stage = Stage::set();
        let load = Load::new(Crowd::new(&stage.ca.root), interrupt)?;
        let lines = LINES.iter().filter(|line| wants(&options, line.name)).collect();
        let precedence = options.precedence.then(machine::Precedence::take).transpose()?;
        Ok(Self { options, _precedence: precedence, stage, load, lines })
    }

    fn run(&self) -> Result<(), String> {
        if let Some(line) = &self.options.hold {
            return self.hold(line);
        }
        let mut results = Results { conditions: machine::conditions(), ..Results::default() };
        results.conditions.push(format!("{} rounds of {} s", self.options.rounds, self.options.seconds));
        results.names = std::iter::once(SMALL).chain(self.peers().map(|(name, ..)| name)).collect();
        if wants(&self.options, "memory") {
            self.memory(&mut results)?;
        }
        if self.measures_more_than_memory() {
            self.rounds(&mut results)?;
        }
        results.workers = self.workers()?;
        if wants(&self.options, "many") {
            self.many(&mut results)?;
        }
        if self.options.instructions {
            match instructions::count(&self.load, &self.stage, &self.options.binary, &self.lines) {
                Ok(counted) => {
                    eprintln!("profiles: callgrind_annotate --threshold=100 {}/callgrind.…", instructions::PROFILES);
                    results.counted = counted;
                }
                Err(why) => results.samples.failures.push(format!("instructions: {why}")),
            }
        }
        println!("{}", results.plain());
        if self.options.write {
            let file = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/RESULTS.md");
            std::fs::write(file, results.markdown()).map_err(|error| format!("{file}: {error}"))?;
        }
        Ok(())
    }

    fn measures_more_than_memory(&self) -> bool {
        !self.lines.is_empty() || wants(&self.options, "latency")
    }

    fn peers(&self) -> impl Iterator<Item = peers::Peer> {
        let is_wanted = |name: &str| self.options.peers.as_ref().is_none_or(|names| names.iter().any(|n| n == name));
        let wanted = PEERS.into_iter().filter(move |(name, ..)| is_wanted(name));
        wanted.filter(|(_, program, _)| running::program(program).is_some())
    }

    /// Prime first, then every peer that is installed.
    fn gateways(&self) -> Result<Vec<Gateway>, String> {
        let mut gateways = vec![self.prime(SMALL, Size::Small)?];
        for (name, program, _) in PEERS {
            if running::program(program).is_none() {
                eprintln!("!!! {name} IS NOT INSTALLED and is left out: apt-get install {name}");
            }
        }
        for peer in self.peers() {
            gateways.push(self.peer(peer)?);
        }
        Ok(gateways)
    }

    fn prime(&self, name: &'static str, size: Size) -> Result<Gateway, String> {
        self.prime_on(name, size, &[machine::GATEWAY])
    }

    fn prime_on(&self, name: &'static str, size: Size, cores: &[usize]) -> Result<Gateway, String> {
        let prime = Prime::new(&self.options.binary, &self.load.interrupt, &self.stage, size);
        self.comes_up(prime.on(cores).start(name)?)
    }

    fn peer(&self, peer: peers::Peer) -> Result<Gateway, String> {
        let recipe = peers::recipe(peer, &self.stage).ok_or_else(|| format!("{} is not installed", peer.0))?;
        self.comes_up(recipe.start(&[])?)
    }

    /// Waits until a gateway answers at each of its doors.
    fn comes_up(&self, mut gateway: Gateway) -> Result<Gateway, String> {
        for (door, address) in &gateway.doors {
            let mut last = String::new();
            let running = &mut gateway.running;
            let mut is_well = false;
            self.load.interrupt.until(PATIENCE, || {
                is_well = self.load.crowd.ask(*door, *address, "/pass/1k").map_err(|why| last = why).is_ok();
                is_well || running.has_ended()
            });
            if !is_well {
                let said = std::fs::read_to_string(gateway.directory.path().join("log")).unwrap_or_default();
                return Err(format!("{} does not answer at its {door:?} door: {last}\n{said}", gateway.name));
            }
        }
        Ok(gateway)
    }

    fn memory(&self, results: &mut Results) -> Result<(), String> {
        for door in [Door::Tcp, Door::SecureTcp] {
            let mut emptying = Vec::new();
            for gateway in self.gateways()? {
                let name = gateway.name;
                if gateway.address(door).is_none() {
                    continue;
                }
                eprintln!("memory of {name}, {door:?}");
                match memory::measure(&self.load, gateway, door, "/pass/1k") {
                    Ok(measured) => emptying.push((name, measured)),
                    Err(why) => results.samples.failures.push(format!("memory of {name}, {door:?}: {why}")),
                }
            }
            results.memory.extend(emptying.into_iter().map(|(name, one)| (door.is_secure(), name, one.memory())));
        }
        Ok(())
    }

    fn rounds(&self, results: &mut Results) -> Result<(), String> {
        let mut gateways = self.gateways()?;
        let needs_large = self.lines.iter().any(|line| line.tool == Tool::Spread);
        if needs_large || (wants(&self.options, "large") && !self.lines.is_empty()) {
            eprintln!("10,000 hosts of 1,000 projects");
            gateways.push(self.large()?);
        }
        if self.lines.iter().any(|line| line.prime == DISK) {
            gateways.push(self.disk()?);
        }
        let gateways: Vec<&Gateway> = gateways.iter().collect();
        let (load, stage, seconds) = (&self.load, &self.stage, self.options.seconds);
        let (retries, repeats) = (self.options.retries, if self.options.quick { QUICK_REPEATS } else { REPEATS });
        let repeats_left = Cell::new(repeats);
        let mut rounds = Rounds { load, stage, seconds, retries, repeats, repeats_left, dice: Dice::new() };
        let failures = std::mem::take(&mut results.samples.failures);
        results.samples = rounds.run(self.options.rounds, &self.lines, &gateways);
        results.samples.failures.extend(failures);
        if wants(&self.options, "latency") {
            let count = if self.options.quick { 1 } else { self.options.rounds };
            let gateways: Vec<&Gateway> = gateways.iter().copied().filter(|g| g.name != LARGE).collect();
            for line in LINES.iter().filter(|line| ["hit", "tcp"].contains(&line.name)) {
                eprintln!("latency of {}", line.name);
                results.paced.push(latency::measure(&mut rounds, count, line, &gateways));
            }
        }
        Ok(())
    }

    /// A million objects.
    fn many(&self, results: &mut Results) -> Result<(), String> {
        let prime = |bytes: u64| {
            let prime = Prime::new(&self.options.binary, &self.load.interrupt, &self.stage, Size::Small);
            self.comes_up(prime.with_cache(bytes).start(SMALL)?)
        };
        let mut gateways = vec![prime(many::ROOM)?];
        for (name, recipe) in many::PEERS {
            match recipe(&self.stage) {
                Some(recipe) => gateways.push(self.comes_up(recipe.start(&[])?)?),
                None => eprintln!("!!! {name} IS NOT INSTALLED and is left out: apt-get install {name}"),
            }
        }
        for gateway in &gateways {
            eprintln!("a skewed load on {}", gateway.name);
            let address = gateway.address(Door::Hit).ok_or("it has no such door")?;
            match many::hit_ratio(&self.load.interrupt, &self.stage, address) {
                Ok(ratio) => results.ratios.push((gateway.name, ratio)),
                Err(why) => results.samples.failures.push(format!("hit ratio of {}: {why}", gateway.name)),
            }
        }
        drop(gateways);
        eprintln!("memory of a million objects");
        match many::overhead(&self.load.interrupt, &self.stage, &prime(8 << 30)?) {
            Ok(bytes) => results.overhead = Some(bytes),
            Err(why) => results.samples.failures.push(format!("memory of a million objects: {why}")),
        }
        Ok(())
    }

    /// A Prime with 10,000 hosts and as many stored answers.
    fn large(&self) -> Result<Gateway, String> {
        let large = self.prime(LARGE, Size::Large)?;
        let paths: Vec<String> = (0..10).map(|number| format!("/hit/1k?{number}")).collect();
        let address = large.address(Door::Hit).ok_or("it has no such door")?;
        self.load.crowd.fill(address, &prime::other_hosts(), &paths)?;
        Ok(large)
    }

    fn disk(&self) -> Result<Gateway, String> {
        let prime = Prime::new(&self.options.binary, &self.load.interrupt, &self.stage, Size::Small);
        self.comes_up(prime.with_disk_alone().start(DISK)?)
    }

    fn workers(&self) -> Result<Option<String>, String> {
        let Some(line) = LINES.iter().find(|line| line.name == "hit" && wants(&self.options, "workers")) else {
            return Ok(None);
        };
        let cores = machine::cores();
        if cores < workers::CORES {
            return Ok(Some(format!(
                "two workers: not measured, it takes {} cores and here are {cores}",
                workers::CORES
            )));
        }
        let one = self.prime_on(SMALL, Size::Small, workers::ONE)?;
        let two = self.prime_on(SMALL, Size::Small, workers::TWO)?;
        let (rounds, seconds) = (self.options.rounds, self.options.seconds);
        workers::compare(&self.load, line, rounds, seconds, [&one, &two]).map(Some)
    }

    fn hold(&self, line: &str) -> Result<(), String> {
        let line = LINES.iter().find(|known| known.name == line).ok_or_else(|| format!("there is no line `{line}`"))?;
        let gateway = match self.peers().find(|(name, ..)| *name == self.options.gateway) {
            Some(peer) => self.peer(peer)?,
            None if self.options.gateway == LARGE => self.large()?,
            None if self.options.gateway == DISK => self.disk()?,
            None => self.prime(SMALL, Size::Small)?,
        };
        let address =
            gateway.address(line.door).ok_or_else(|| format!("{} has no door for {}", gateway.name, line.name))?;
        self.load.crowd.ask(line.door, address, line.path)?;
        println!(
            "{} of {}: processes {:?}, traffic in {}",
            line.name,
            gateway.name,
            gateway.processes(),
            prime::edge(&gateway)
        );
        let answered = self.load.run(line, address, self.options.hold_seconds)?;
        println!("{} requests in {:.1} s", answered.requests, answered.seconds);
        Ok(())
    }
}

/// Everything, or what was asked for.
fn wants(options: &Options, name: &str) -> bool {
    let is_long = ["large", "hit-spread", "tcp-spread", "many"].contains(&name);
    (options.only.is_empty() && !(options.quick && is_long)) || options.only.iter().any(|only| only == name)
}

/// Thousands of connections are held by this process.
fn raise_descriptors() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
}
