//! Processes that the bench starts, each on a core, and the wish of a person to stop.
//!
//! The rule: whatever was started is ended when its `Running` is dropped, and a signal unwinds through every one of them.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::machine;

const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Prime finishes requests for 10 s at most.
const GOODBYE: Duration = Duration::from_secs(15);

/// Whether a person, or the system, wants the bench to end.
#[derive(Clone)]
pub struct Interrupt(Arc<AtomicBool>);

/// What the bench unwinds with when it is interrupted.
pub struct Interrupted;

impl Interrupt {
    /// Listens for the signals that ask to end.
    pub fn listen() -> Self {
        let interrupt = Self(Arc::new(AtomicBool::new(false)));
        let raised = interrupt.0.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
                let [mut interrupt, mut terminate, mut hangup] = kinds.map(|kind| signal(kind).unwrap());
                tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => (), _ = hangup.recv() => () }
            });
            raised.store(true, Ordering::Relaxed);
        });
        interrupt
    }

    /// Unwinds when the bench is to end.
    pub fn check(&self) {
        if self.0.load(Ordering::Relaxed) {
            std::panic::resume_unwind(Box::new(Interrupted));
        }
    }

    /// Looks again until it holds; tells whether it did within this time.
    pub fn until(&self, patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
        let deadline = Instant::now() + patience;
        while !holds() {
            self.check();
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        true
    }

    /// Runs a tool on these cores to its end; tells what it printed.
    pub fn run(&self, command: &mut Command, cores: &[usize], patience: Duration) -> Result<String, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut tool = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::null()), cores)?;
        let mut output = String::new();
        // What these tools print fits into a pipe, so they end without being read.
        let ended = self.until(patience, || !matches!(tool.child.try_wait(), Ok(None)));
        if !ended {
            return Err(format!("{name} does not end"));
        }
        tool.child.stdout.take().unwrap().read_to_string(&mut output).map_err(|error| error.to_string())?;
        Ok(output)
    }
}

/// A process of ours.
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts a process that keeps to these cores, in a group of its own, so that Ctrl-C reaches the bench alone.
    pub fn start(command: &mut Command, cores: &[usize]) -> Result<Self, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = machine::on_cores(cores, || command.stdin(Stdio::null()).process_group(0).spawn());
        Ok(Self { child: child.map_err(|error| format!("{name} cannot be started: {error}"))? })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        let family = crate::measure::family(self.pid());
        send(self.pid(), Signal::TERM);
        let deadline = Instant::now() + GOODBYE;
        while !self.has_ended() && Instant::now() < deadline {
            std::thread::sleep(LOOK_AGAIN);
        }
        if !self.has_ended() {
            family.into_iter().for_each(|pid| send(pid, Signal::KILL));
            let _ = self.child.wait();
        }
    }
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Where Debian puts a program; users other than root do not search all of these.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    places.map(|place| place.join(name)).find(|file| file.is_file())
}
