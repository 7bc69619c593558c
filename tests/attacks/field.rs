//! The field: a real Prime with an app behind it, good clients beside every attack, and what the attack took from them.

use std::fmt;
use std::fs;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, nice, setrlimit};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::guests::{Guests, Times};
use crate::origin;
use crate::processor::Processor;
use crate::world::{LOOK_AGAIN, Prime, World};

/// Answers that are measured before an attack, and at least with it.
const MEASURED: usize = 300;
/// What may be added to twice the p50 and p99 of before: a test machine of two cores runs thousands of attackers, the guests,
/// the app and a gateway that is not optimised on the same two. A gateway that really is hurt lets its guests wait for
/// seconds.
const SLACK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// The part of the processor that others may take while times are judged.
const OTHERS: f64 = 0.2;

/// One story at a time: they measure.
static ALONE: Mutex<()> = Mutex::new(());

pub struct Field<'w> {
    pub prime: &'w Prime<'w>,
    attackers: Runtime,
}

/// Tells a story on a fresh field, with these further lines in `prime.toml`.
pub fn besiege(lines: &str, story: impl FnOnce(&Field<'_>)) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    let world = World::new();
    let app = origin::start(&world);
    let shop = format!("upstream = \"{app}\"\n[branches.master]\nhosts = [\"shop.test\"]\n");
    let prime = world.prime().project("shop", &shop).with(lines).start();
    prime.says("http://shop.test", origin::PAGE);
    prime.says("https://shop.test", origin::PAGE);
    story(&Field { prime: &prime, attackers: attackers() });
}

/// Attackers give way to the others: they would have machines of their own.
fn attackers() -> Runtime {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    let give_way = || {
        nice(10).unwrap();
    };
    threads.worker_threads(2).on_thread_start(give_way).enable_all().build().unwrap()
}

impl Field<'_> {
    /// Lets the attack happen. The guests get every answer, with a p99 below twice the one before, and the gateway takes no
    /// more memory than so many megabytes.
    pub fn withstands<T, F>(&self, attack: &str, megabytes: f64, attacking: F) -> T
    where
        F: Future<Output = T> + Send + 'static,
        T: Send + 'static,
    {
        let guests = Guests::come(self.prime);
        let (began, processor) = (Instant::now(), Processor::look(self.edge()));
        guests.ask_more(MEASURED);
        let (at_rest, attacked) = (self.memory(), Instant::now());
        let most = self.watch_memory();
        let attacking = self.attack(attacking);
        guests.ask_more(MEASURED);
        let outcome = self.prime.world.runtime.block_on(attacking).unwrap();
        let ended = Instant::now();
        let toll = Toll {
            grown: most.stop() - at_rest,
            others: processor.taken_by_others(Processor::look(self.edge())),
            before: guests.times(began, attacked),
            during: guests.times(attacked, ended),
            took: ended - attacked,
            failures: guests.go(),
        };
        println!("{attack:<44} {toll}");
        toll.judge(megabytes, &self.prime.logs());
        outcome
    }

    /// The process under attack.
    pub fn edge(&self) -> u64 {
        self.prime.status()["edge"]["pid"].as_u64().unwrap()
    }

    /// Lets another edge begin, by a control of which something is changed before.
    pub fn restart(&self, change: impl FnOnce(u64)) {
        let edge = self.edge();
        let status = fs::read_to_string(format!("/proc/{edge}/status")).unwrap();
        let control = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
        change(control.trim().parse().unwrap());
        kill_process(Pid::from_raw(i32::try_from(edge).unwrap()).unwrap(), Signal::KILL).unwrap();
        self.prime.until("another edge", || self.prime.status()["edge"]["pid"].as_u64().is_some_and(|pid| pid != edge));
        self.prime.says("http://shop.test", origin::PAGE);
        self.prime.says("https://shop.test", origin::PAGE);
    }

    /// Runs what attackers do beside what the story goes on to look at.
    pub fn attack<F>(&self, attacking: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.attackers.spawn(attacking)
    }

    /// Megabytes that the edge has now.
    fn memory(&self) -> f64 {
        resident(self.edge())
    }

    /// Looks again and again at the memory of the edge.
    fn watch_memory(&self) -> Watch {
        let (edge, stop) = (self.edge(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let looking = std::thread::spawn(move || {
            let mut most = resident(edge);
            while !stopped.load(Ordering::Relaxed) {
                most = most.max(resident(edge));
                std::thread::sleep(LOOK_AGAIN);
            }
            most
        });
        Watch { stop, looking }
    }

    /// How often a limit was reached.
    pub fn reached(&self, limit: &str) -> f64 {
        self.counted("opri_edge_limits_total", &format!("limit=\"{limit}\""))
    }

    pub fn refused(&self, reason: &str) -> f64 {
        self.counted("opri_edge_refusals_total", &format!("reason=\"{reason}\""))
    }

    fn counted(&self, name: &str, label: &str) -> f64 {
        let text = self.prime.metrics();
        let line = text.lines().find(|line| line.starts_with(name) && line.contains(label));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }
}

/// A look at the memory of the edge.
struct Watch {
    stop: Arc<AtomicBool>,
    looking: std::thread::JoinHandle<f64>,
}

impl Watch {
    /// The most that was seen, in megabytes.
    fn stop(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        self.looking.join().unwrap()
    }
}

fn resident(process: u64) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// What an attack took.
struct Toll {
    /// Megabytes.
    grown: f64,
    /// The part of the processor that neither the story nor the gateway had.
    others: f64,
    before: Times,
    during: Times,
    took: Duration,
    failures: Vec<String>,
}

impl Toll {
    fn judge(&self, megabytes: f64, logs: &str) {
        let Self { grown, before, during, failures, .. } = self;
        assert!(failures.is_empty(), "{} failed: {:?}\n{logs}", failures.len(), &failures[..failures.len().min(5)]);
        assert!(*grown <= megabytes, "{grown:.1} MB more, and {megabytes} are the most\n{logs}");
        if self.others > OTHERS {
            return eprintln!("SKIPPED: the machine is busy, so the guests' times were not judged");
        }
        let is_slow = during.p50 > before.p50 * 2 + SLACK.0 || during.p99 > before.p99 * 2 + SLACK.1;
        assert!(!is_slow, "it took {during:?}, and {before:?} before\n{logs}");
    }
}

impl fmt::Display for Toll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let (before, during) = (self.before, self.during);
        write!(f, "{:>5.1} s  +{:>5.1} MB  ", self.took.as_secs_f64(), self.grown)?;
        write!(
            f,
            "p50 {:.1} -> {:.1} ms  p99 {:.1} -> {:.1} ms  ",
            ms(before.p50),
            ms(during.p50),
            ms(before.p99),
            ms(during.p99)
        )?;
        write!(
            f,
            "{} of {} failed  others {:.0} %",
            self.failures.len(),
            before.count + during.count,
            self.others * 100.0
        )
    }
}
