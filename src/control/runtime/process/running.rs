//! A command of a build or a release while it runs: its output, its limits, its end.
//!
//! Used by the process runtime. The rule: when it is over, took too much or is dropped, nothing of its group runs any more.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{ChildStdin, Command};

use super::super::BuildLog;
use super::super::error::RuntimeError;
use super::super::replica::Exit;
use super::kin;
use crate::control::child::Group;

#[derive(Debug)]
pub struct Running {
    what: &'static str,
    group: Group,
    leader: Option<Pid>,
    output: pipe::Receiver,
    /// Ends the group when control goes.
    _leash: Option<ChildStdin>,
}

impl Running {
    /// Starts a command that `leashed` made; `what` names it for people.
    pub fn begin(what: &'static str, mut command: Command) -> Result<Self, RuntimeError> {
        let failed = |error: io::Error| RuntimeError::Failed { what, why: error.to_string() };
        let (reader, writer) = io::pipe().map_err(failed)?;
        command.stdout(writer.try_clone().map_err(failed)?).stderr(writer);
        // The command, and with it our ends of the pipe, goes as soon as the child has its own.
        let mut group = Group::spawn(command).map_err(failed)?;
        let _leash = group.child().stdin.take();
        let leader = group.child().id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(failed)?;
        Ok(Self { what, group, leader, output, _leash })
    }

    /// Gives it, and all it will start, the lowest priority: the sites need the machine too.
    pub fn yield_to_others(&self) {
        if let Err(error) = rustix::process::setpriority_pgrp(self.leader, LOWEST_PRIORITY) {
            tracing::warn!(%error, what = self.what, "it runs with the priority of everything else");
        }
    }

    /// Waits until its processes are more than `pids`, or hold more than `memory` bytes.
    pub fn too_much(&self, memory: u64, pids: u32) -> impl Future<Output = RuntimeError> + Send + use<> {
        let (what, leader) = (self.what, self.leader);
        async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let Some(leader) = leader else { return std::future::pending().await };
                let group = kin::group(leader.as_raw_nonzero().get());
                let too_much = |most| RuntimeError::TooMuch { what, most };
                if group.processes > pids as usize {
                    return too_much(format!("{pids} processes"));
                }
                if group.memory > memory {
                    return too_much(format!("{} MiB of memory", memory >> 20));
                }
            }
        }
    }

    /// Until it ends, its output into the log; `too_much` and the limit stop it. An exit other than 0 is an error.
    pub async fn end(
        mut self,
        limit: Duration,
        too_much: impl Future<Output = RuntimeError>,
        log: &BuildLog,
    ) -> Result<(), RuntimeError> {
        let what = self.what;
        let output = &mut self.output;
        let mut copying = std::pin::pin!(async {
            let mut buffer = [0; 8192];
            while let Ok(read @ 1..) = output.read(&mut buffer).await {
                log.write(&buffer[..read]);
            }
        });
        let group = &mut self.group;
        let work = async {
            tokio::select! {
                status = group.wait() => {
                    // What is still in the pipe. A process that left the group may hold it open for ever.
                    let _ = tokio::time::timeout(LAST_WORDS, copying).await;
                    status
                }
                // Closed by a command that goes on in silence.
                () = &mut copying => group.wait().await,
            }
        };
        let ended = tokio::select! {
            ended = tokio::time::timeout(limit, work) => ended,
            error = too_much => return Err(error),
        };
        match ended {
            Err(_) => Err(RuntimeError::TimedOut { what, limit }),
            Ok(Err(error)) => Err(RuntimeError::Failed { what, why: error.to_string() }),
            Ok(Ok(status)) => match Exit::from(status) {
                exit if exit.is_success() => Ok(()),
                exit => Err(RuntimeError::Ended { what, exit }),
            },
        }
    }
}

const LAST_WORDS: Duration = Duration::from_secs(2);
/// Between two looks at what a build takes.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// nice(2).
const LOWEST_PRIORITY: i32 = 19;
