//! The access log: a line for each request, on its way to the disk without a request ever waiting for it.
//!
//! Whoever ends a request calls `record`; one task, started by `edge::run`, carries the lines to the file. The rule:
//! lines wait in a bounded place, and what finds it full is counted and gone.

mod file;
mod line;
mod record;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::model::machine;

use super::shared::Complaints;
use file::LogFile;
use line::{Clock, LINE_MAX, Line};

pub use record::{Call, End};

/// What may wait of one worker, in bytes.
const WAITING_MAX: usize = 1 << 20;
/// Half of it sends for the writer before its time.
const HURRY: usize = WAITING_MAX / 2;
/// Between two rounds of the writer.
const ROUND: Duration = Duration::from_millis(150);

#[derive(Debug)]
pub struct AccessLog {
    is_on: AtomicBool,
    conf: Mutex<machine::AccessLog>,
    waiting: Box<[Mutex<Waiting>]>,
    dropped: IntCounter,
    hurry: Notify,
    is_ending: AtomicBool,
    complaints: Complaints,
}

/// The end of a line.
#[derive(Debug)]
pub struct Kept(Box<[u8]>);

/// One worker's lines, and its clock. Alone in its cache lines, so that workers do not slow each other down.
#[derive(Debug)]
#[repr(align(128))]
struct Waiting {
    lines: Lines,
    /// How much of them is written.
    length: usize,
    clock: Clock,
    scratch: Box<[u8; LINE_MAX]>,
}

/// Room for `WAITING_MAX` bytes. It is zero, so that no memory is taken before it is used.
type Lines = Box<[u8]>;

fn room() -> Lines {
    vec![0; WAITING_MAX].into()
}

impl Waiting {
    fn new() -> Mutex<Self> {
        Mutex::new(Self { lines: room(), length: 0, clock: Clock::default(), scratch: [0; LINE_MAX].into() })
    }
}

impl AccessLog {
    /// For so many workers; lost lines are counted in `dropped`.
    pub fn new(workers: usize, conf: machine::AccessLog, dropped: IntCounter) -> Arc<Self> {
        Arc::new(Self {
            is_on: AtomicBool::new(conf.enabled),
            conf: Mutex::new(conf),
            waiting: (0..workers.max(1)).map(|_| Waiting::new()).collect(),
            dropped,
            hurry: Notify::new(),
            is_ending: AtomicBool::new(false),
            complaints: Complaints::default(),
        })
    }

    /// Makes new conf hold, from the next request and the next round on.
    pub fn configure(&self, conf: machine::AccessLog) {
        *self.conf.lock().unwrap_or_else(PoisonError::into_inner) = conf;
        self.is_on.store(conf.enabled, Ordering::Relaxed);
    }

    /// Notes a request that is over. Never waits for a disk.
    pub fn record(&self, worker: usize, call: &Call<'_>, end: &End<'_>) {
        if self.is_on.load(Ordering::Relaxed) {
            self.add(worker, end, |line| call.write(line));
        }
    }

    /// What is to be noted of a request that is not over yet, and whose bytes will be gone by then.
    pub fn keep(&self, worker: usize, call: &Call<'_>) -> Option<Kept> {
        if !self.is_on.load(Ordering::Relaxed) {
            return None;
        }
        let mut waiting = self.waiting(worker);
        let mut line = Line::new(&mut waiting.scratch);
        call.write(&mut line);
        let length = line.length();
        Some(Kept(waiting.scratch[..length].into()))
    }

    pub fn record_kept(&self, worker: usize, kept: &Kept, end: &End<'_>) {
        self.add(worker, end, |line| line.raw(&kept.0));
    }

    fn add(&self, worker: usize, end: &End<'_>, write_call: impl FnOnce(&mut Line<'_>)) {
        let mut guard = self.waiting(worker);
        let Waiting { lines, length, clock, .. } = &mut *guard;
        let before = *length;
        let Some(room) = lines.get_mut(before..).and_then(|room| room.first_chunk_mut()) else {
            drop(guard);
            return self.dropped.inc();
        };
        let mut line = Line::new(room);
        end.write(&mut line, clock);
        write_call(&mut line);
        *length += line.length();
        let is_half_full = before < HURRY && *length >= HURRY;
        drop(guard);
        if is_half_full {
            self.hurry.notify_one();
        }
    }

    fn waiting(&self, worker: usize) -> MutexGuard<'_, Waiting> {
        self.waiting[worker % self.waiting.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries lines to the file until `end`, and then the last ones.
    pub async fn carry(self: Arc<Self>, path: PathBuf) {
        let mut carrier = Carrier { file: LogFile::new(path), spare: room() };
        loop {
            let is_last = self.is_ending.load(Ordering::Relaxed);
            if self.is_anything_waiting() {
                let log = self.clone();
                let round = spawn_blocking(move || {
                    log.round(&mut carrier);
                    carrier
                });
                let Ok(back) = round.await else { return };
                carrier = back;
            }
            if is_last {
                return;
            }
            // Over time or called for, it looks.
            let _ = timeout(ROUND, self.hurry.notified()).await;
        }
    }

    /// Lets `carry` return once everything that waits is written.
    pub fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        self.hurry.notify_one();
    }

    fn is_anything_waiting(&self) -> bool {
        self.waiting.iter().any(|waiting| !waiting.lock().unwrap_or_else(PoisonError::into_inner).length > 0)
    }

    fn round(&self, carrier: &mut Carrier) {
        let conf = *self.conf.lock().unwrap_or_else(PoisonError::into_inner);
        for waiting in &self.waiting {
            let length = {
                let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                std::mem::swap(&mut waiting.lines, &mut carrier.spare);
                std::mem::take(&mut waiting.length)
            };
            if let Err(lost) = carrier.file.write(&carrier.spare[..length], conf) {
                self.dropped.inc_by(lost.lines);
                self.complaints.say("access log", || tracing::warn!(error = %lost, "lines of the access log are lost"));
            }
        }
    }
}

/// What the writer has at hand: the file, and room to hand to a worker for its full one.
#[derive(Debug)]
struct Carrier {
    file: LogFile,
    spare: Lines,
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::link::paths;

    const CONF: machine::AccessLog = machine::AccessLog { enabled: true, size: 256 << 10, keep: 100 };

    fn log(conf: machine::AccessLog) -> Arc<AccessLog> {
        AccessLog::new(2, conf, IntCounter::new("dropped", "dropped").unwrap())
    }

    fn note(log: &AccessLog, worker: usize, number: usize) {
        let id = number.to_string();
        let call = Call {
            site: None,
            client: [127, 0, 0, 1].into(),
            method: "GET",
            scheme: "http",
            host: "shop.test",
            target: "/",
            protocol: "HTTP/1.1",
            id: id.as_bytes(),
            user_agent: None,
            referer: None,
        };
        let at = SystemTime::now();
        let end = End { at, duration: Duration::ZERO, status: None, sent: 0, received: 0, cache: None, upstream: None };
        match number % 2 {
            0 => log.record(worker, &call, &end),
            _ => log.keep(worker, &call).iter().for_each(|kept| log.record_kept(worker, kept, &end)),
        }
    }

    /// The ids in all files, in order.
    fn ids(path: &std::path::Path) -> Vec<usize> {
        let files = (1..=200).map(|number| paths::rotated(path, number)).chain([path.to_owned()]);
        let text: String = files.filter_map(|file| std::fs::read_to_string(file).ok()).collect();
        let id = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["id"].as_str().unwrap().parse().unwrap()
        };
        let mut ids: Vec<usize> = text.lines().map(id).collect();
        ids.sort_unstable();
        ids
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn under_load_and_rotation_every_line_is_there_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let log = log(CONF);
        let carrying = tokio::spawn(log.clone().carry(path.clone()));
        let workers = (0..2).map(|worker| {
            let log = log.clone();
            spawn_blocking(move || {
                for number in 0..10_000 {
                    note(&log, worker, worker * 10_000 + number);
                    // As many as a disk takes: the bound is another test's.
                    while log.waiting[worker].lock().unwrap().length > HURRY {
                        std::thread::yield_now();
                    }
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.unwrap();
        }
        log.end();
        carrying.await.unwrap();
        assert_eq!(ids(&path), (0..20_000).collect::<Vec<_>>());
        assert_eq!(log.dropped.get(), 0);
        assert!(paths::rotated(&path, 10).exists());
    }

    #[tokio::test]
    async fn what_finds_its_place_full_is_dropped_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let log = log(CONF);
        for number in 0..10_000 {
            note(&log, 0, number);
        }
        let dropped = log.dropped.get() as usize;
        assert!(dropped > 0);
        log.end();
        log.clone().carry(path.clone()).await;
        assert_eq!(ids(&path), (0..10_000 - dropped).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_costs_the_lines_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        std::fs::create_dir(&path).unwrap();
        let log = log(CONF);
        for number in 0..5 {
            note(&log, number, number);
        }
        log.end();
        log.clone().carry(path).await;
        assert_eq!(log.dropped.get(), 5);
    }

    #[tokio::test]
    async fn a_log_that_is_off_makes_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let log = log(CONF);
        log.configure(machine::AccessLog { enabled: false, ..CONF });
        note(&log, 0, 0);
        log.end();
        log.clone().carry(path.clone()).await;
        assert!(!path.exists());
        log.configure(CONF);
        note(&log, 0, 1);
        log.clone().carry(path.clone()).await;
        assert_eq!(ids(&path), [1]);
    }
}
