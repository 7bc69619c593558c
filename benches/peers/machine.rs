//! The machine: which core is whose, how busy it was and by whom, and what it is.
//!
//! The rule: the gateway has one core to itself, and everything else of the bench has the other.

use std::fs;
use std::process::Command;
use std::time::Instant;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The core of the load, the origin and this process.
pub const LOAD: usize = 0;
/// The core of the gateway.
pub const GATEWAY: usize = 1;
/// USER_HZ, which /proc counts in: a constant of Linux's interface.
const TICKS: f64 = 100.0;

pub fn cores() -> usize {
    fs::read_to_string("/proc/stat").unwrap().lines().filter(|line| is_core(line)).count()
}

fn is_core(line: &str) -> bool {
    line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|letter: char| letter.is_ascii_digit()))
}

/// Gives this thread, and what it starts from now on, these cores.
pub fn keep_to(cores: &[usize]) {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).unwrap_or_else(|error| panic!("cores {cores:?} cannot be had: {error}"));
}

/// Starts something on these cores, and comes back.
pub fn on_cores<T>(cores: &[usize], start: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(None).unwrap();
    keep_to(cores);
    let started = start();
    sched_setaffinity(None, &before).unwrap();
    started
}

/// Goes before other work of the machine, as far as the scheduler groups by sessions; dropped, it steps back.
pub struct Precedence;

impl Precedence {
    const GROUP: &str = "/proc/self/autogroup";

    pub fn take() -> Result<Self, String> {
        let taken = fs::write(Self::GROUP, "-15");
        taken.map(|()| Self).map_err(|error| format!("no precedence over other work: {}: {error}", Self::GROUP))
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        let _ = fs::write(Self::GROUP, "0");
    }
}

/// What the cores did up to a moment.
pub struct Look {
    at: Instant,
    /// Of the load's core and the gateway's, in ticks.
    busy: f64,
    stolen: Vec<f64>,
    /// Of this process and of its children that have ended, in ticks.
    own: f64,
}

/// What disturbed a measurement, in parts of one core.
#[derive(Clone, Copy, Default)]
pub struct Noise {
    /// By the hypervisor, of the core that lost more.
    pub stolen: f64,
    /// By processes that are not the bench's, on both cores.
    pub foreign: f64,
}

impl Look {
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap();
        let cores: Vec<Vec<f64>> = stat.lines().filter(|line| is_core(line)).take(2).map(numbers).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal: proc_stat(5).
        let busy = cores.iter().map(|core| [0, 1, 2, 5, 6].iter().map(|field| core[*field]).sum::<f64>()).sum();
        let stolen = cores.iter().map(|core| core[7]).collect();
        let own = fs::read_to_string("/proc/self/stat").unwrap();
        let own = numbers(own.rsplit_once(')').unwrap().1);
        // utime, stime, cutime, cstime are the fields 14 to 17 of proc_pid_stat(5); here the first is 4.
        Self { at: Instant::now(), busy, stolen, own: own[10..14].iter().sum() }
    }

    /// What disturbed since then, when the gateway itself took this many seconds.
    pub fn noise(&self, gateway: f64) -> Noise {
        let now = Self::now();
        let ticks = (now.at - self.at).as_secs_f64() * TICKS;
        let stolen = now.stolen.iter().zip(&self.stolen).map(|(now, then)| now - then).fold(0.0, f64::max);
        let foreign = (now.busy - self.busy) - (now.own - self.own) - gateway * TICKS;
        Noise { stolen: stolen / ticks, foreign: (foreign / ticks).max(0.0) }
    }
}

/// The words of a line that are numbers, 0 for a state; the first word of a core's line is its name.
fn numbers(line: &str) -> Vec<f64> {
    line.split_whitespace()
        .filter(|word| !word.starts_with("cpu"))
        .skip_while(|word| word.parse::<f64>().is_err())
        .map(|word| word.parse().unwrap_or(0.0))
        .collect()
}

/// Conditions that the figures depend on, one a line.
pub fn conditions() -> Vec<String> {
    let first = |file: &str, key: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
        line.split_once(':').map_or(line.clone(), |(_, value)| value.trim().to_owned())
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let virtual_machine = first("/proc/cpuinfo", "flags").split(' ').any(|flag| flag == "hypervisor");
    let kind = if virtual_machine { "virtual" } else { "real" };
    vec![
        format!("Linux {}, {} {kind} cores, {}", kernel.trim(), cores(), first("/proc/cpuinfo", "model name")),
        versions(),
    ]
}

fn versions() -> String {
    let asked = [
        ("nginx", "-v"),
        ("haproxy", "-v"),
        ("varnishd", "-V"),
        ("caddy", "version"),
        ("wrk", "-v"),
        ("h2load", "--version"),
    ];
    let said = asked.iter().map(|(name, flag)| format!("{name} {}", version(name, flag)));
    said.collect::<Vec<_>>().join(", ")
}

/// The first number with a point in what a program says of itself.
fn version(name: &str, flag: &str) -> String {
    let Some(program) = crate::running::program(name) else { return "is missing".to_owned() };
    let Ok(output) = Command::new(program).arg(flag).output() else { return "?".to_owned() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let words = text.split(|letter: char| !(letter.is_ascii_digit() || letter == '.'));
    words.map(|word| word.trim_matches('.')).find(|word| word.contains('.')).unwrap_or("?").to_owned()
}
