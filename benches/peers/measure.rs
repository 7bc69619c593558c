//! What a gateway costs: CPU time and memory of a process with all that it started.

use std::collections::HashMap;
use std::fs;

/// CPU time by thread, in nanoseconds.
pub struct Spent(HashMap<u32, u64>);

impl Spent {
    /// Of these processes, up to now.
    pub fn now(pids: &[u32]) -> Self {
        let threads =
            pids.iter().flat_map(|pid| entries(&format!("/proc/{pid}/task")).map(move |thread| (*pid, thread)));
        let spent = |(pid, thread): (u32, u32)| {
            // The first number is the time on a core: Documentation/scheduler/sched-stats.rst.
            let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")).ok()?;
            Some((thread, text.split(' ').next()?.parse().ok()?))
        };
        Self(threads.filter_map(spent).collect())
    }

    /// Seconds since then, of threads that still run.
    pub fn since(&self, then: &Self) -> f64 {
        let spent = self.0.iter().map(|(thread, spent)| spent - then.0.get(thread).copied().unwrap_or(0));
        spent.sum::<u64>() as f64 / 1e9
    }
}

/// A process and everything that it started, and that those started.
pub fn family(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = entries("/proc").filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut family = vec![root];
    let mut at = 0;
    while at < family.len() {
        let one = family[at];
        family.extend(parents.iter().filter(|(_, parent)| *parent == one).map(|(pid, _)| *pid));
        at += 1;
    }
    family
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn entries(directory: &str) -> impl Iterator<Item = u32> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Memory in KiB, where pages that several share count once.
pub fn memory(pids: &[u32]) -> f64 {
    pids.iter().filter_map(|pid| proportional(*pid)).sum()
}

fn proportional(pid: u32) -> Option<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    rollup.lines().find(|line| line.starts_with("Pss:"))?.split_whitespace().nth(1)?.parse().ok()
}

pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}
