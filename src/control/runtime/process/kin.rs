//! An app's processes, recognised without a doubt: the leader by number, start time and boot, its group by the leader.
//!
//! Used by the process runtime. The rule: numbers are used again, so a group is signalled only while its leader was just
//! seen alive. Where the leader is gone, only a process that carries the replica's own socket in its environment belongs
//! to it, and is signalled through a handle that was checked after it was opened.

use std::io;
use std::path::Path;

use rustix::process::{Pid, Signal};

use crate::control::child::Handle;

/// The leader of an app's process group.
#[derive(Debug, Clone)]
pub struct Leader<'a> {
    pub pid: i32,
    pub started: u64,
    pub boot: &'a str,
}

impl Leader<'_> {
    /// A handle on the leader; `None` when it is no more, or the number is somebody else's now.
    pub fn handle(&self) -> io::Result<Option<Handle>> {
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.boot == boot()) else { return Ok(None) };
        match Handle::open(pid) {
            Ok(handle) => Ok(self.stat().filter(|stat| stat.is_alive).map(|_| handle)),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn is_alive(&self) -> bool {
        self.boot == boot() && self.stat().is_some_and(|stat| stat.is_alive)
    }

    /// Sends a signal to everybody of the group that lives, and gives their number. `socket` marks them when the leader
    /// is no more.
    pub fn signal_group(&self, signal: Signal, socket: &Path) -> usize {
        let members = self.members(socket);
        if let (Ok(Some(_)), Some(pid)) = (self.handle(), Pid::from_raw(self.pid)) {
            // At once for all: one by one would miss a process that is forked meanwhile. All numbers there are would
            // have to be given out since the line above for this to meet somebody else.
            let _ = rustix::process::kill_process_group(pid, signal);
        } else {
            members.iter().for_each(|member| drop(member.signal(signal)));
        }
        members.len()
    }

    /// How many of the group live.
    pub fn count(&self, socket: &Path) -> usize {
        self.members(socket).len()
    }

    fn members(&self, socket: &Path) -> Vec<Handle> {
        if self.boot != boot() {
            return Vec::new();
        }
        // A leader that is dead and not reaped still keeps the number.
        let has_leader = self.stat().is_some();
        let belongs = |pid| {
            let is_member = stat(pid).is_some_and(|stat| stat.group == self.pid && stat.is_alive);
            is_member && (has_leader || carries(pid, socket))
        };
        let open = |pid| Handle::open(Pid::from_raw(pid)?).ok();
        // Asked twice: the second answer is about the process that the handle holds.
        pids().into_iter().filter(|pid| belongs(*pid)).filter_map(|pid| open(pid).filter(|_| belongs(pid))).collect()
    }

    fn stat(&self) -> Option<Stat> {
        stat(self.pid).filter(|stat| stat.started == self.started)
    }
}

/// What the processes of a group take together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    pub processes: usize,
    /// Bytes that are theirs alone, or shared with those they were forked from.
    pub memory: u64,
}

/// The group of this leader as it is now; to be asked only while the leader is not reaped.
pub fn group(leader: i32) -> Group {
    let members = pids().into_iter().filter(|pid| stat(*pid).is_some_and(|stat| stat.group == leader && stat.is_alive));
    members.fold(Group::default(), |group, pid| Group {
        processes: group.processes + 1,
        memory: group.memory + own_memory(pid).unwrap_or(0),
    })
}

/// proc_pid_statm(5): what is resident, without what files back.
fn own_memory(pid: i32) -> Option<u64> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut fields = line.split(' ').skip(1).map(|field| field.parse::<u64>());
    let (resident, shared) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(resident.saturating_sub(shared) * rustix::param::page_size() as u64)
}

/// The numbers of all processes.
fn pids() -> Vec<i32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// When a process started, in clock ticks since boot.
pub fn started(pid: i32) -> Option<u64> {
    stat(pid).map(|stat| stat.started)
}

/// This boot's id; empty, which matches none, where the system has no such file.
pub fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

struct Stat {
    group: i32,
    started: u64,
    /// Not a zombie, nor on the way out.
    is_alive: bool,
}

/// The fields of proc_pid_stat(5) behind the program's name, which may hold anything, parentheses too.
fn stat(pid: i32) -> Option<Stat> {
    let line = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let line = String::from_utf8_lossy(&line);
    let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(16)?.parse().ok()?;
    Some(Stat { group, started, is_alive: !matches!(state, "Z" | "X" | "x") })
}

fn carries(pid: i32, socket: &Path) -> bool {
    let mark = [b"SOCKET=", socket.as_os_str().as_encoded_bytes()].concat();
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_number_start_and_boot() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let (started, boot) = (started(pid).unwrap(), boot());
        assert!(Leader { pid, started, boot: &boot }.is_alive());
        assert!(!Leader { pid, started: started + 1, boot: &boot }.is_alive());
        assert!(!Leader { pid, started, boot: "another" }.is_alive());
        assert!(!Leader { pid: 0, started, boot: &boot }.is_alive());
    }
}
