//! A child process together with everything it starts: one process group, ended as a whole.
//!
//! `source` runs git in one and `runtime` runs builds in one. The rule: when the leader ends, is given up or is
//! dropped, nothing of its group goes on running, and the leader is reaped.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitStatus;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, waitid};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};

/// A handle on a process, anybody's child: unlike its number it never comes to mean another process (pidfd_open(2)).
#[derive(Debug)]
pub struct Handle(AsyncFd<OwnedFd>);

impl Handle {
    /// On the process that has this number now; an error of kind `ESRCH` when there is none.
    pub fn open(process: Pid) -> io::Result<Self> {
        let handle = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
        // Deprecated for types whose descriptor may change under it, which an `OwnedFd`'s cannot; what replaces it
        // would need `unsafe`.
        #[allow(deprecated)]
        AsyncFd::new(handle).map(Self)
    }

    /// Waits until the process has ended, whether or not its parent has reaped it.
    pub async fn ended(&self) -> io::Result<()> {
        self.0.readable().await.map(drop)
    }

    /// Sends a signal; an ended process is an error of kind `ESRCH`.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        rustix::process::pidfd_send_signal(&self.0, signal).map_err(io::Error::from)
    }
}

/// Sees to it that those children are reaped that a control had which this one took the place of, by exec(2).
pub fn reap_inherited() {
    // Without such a file there are none that can be known (proc_pid_tid_children(5)).
    let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    for child in children.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
        let Ok(handle) = Handle::open(child) else { continue };
        tokio::spawn(async move {
            if handle.ended().await.is_ok() {
                // A child that was reaped meanwhile is no child any more.
                let _ = waitid(WaitId::PidFd(handle.0.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
            }
        });
    }
}

/// A running child that leads a process group of its own. Dropping it kills the group.
#[derive(Debug)]
pub struct Group {
    child: Child,
    leader: Pid,
    handle: Handle,
    is_reaped: bool,
}

impl Group {
    /// Starts `command` as the leader of a new process group.
    pub fn spawn(mut command: Command) -> io::Result<Self> {
        let child = command.process_group(0).kill_on_drop(true).spawn()?;
        let leader = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let leader = leader.ok_or_else(|| io::Error::other("the child has no process id"))?;
        Ok(Self { child, leader, handle: Handle::open(leader)?, is_reaped: false })
    }

    /// The leader, to take its pipes from.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for the leader, kills what it left behind, and reaps it.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.handle.ended().await?;
        // Before the leader is reaped its number cannot be anybody else's.
        self.kill();
        let status = self.child.wait().await;
        self.is_reaped = true;
        status
    }

    fn kill(&self) {
        // Fails only when nobody of the group is left.
        let _ = rustix::process::kill_process_group(self.leader, Signal::KILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.kill();
        }
    }
}
