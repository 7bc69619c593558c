//! Who has the processor: times mean something only where nobody else wants it.

use std::fs;

/// Processor time since the machine began, in its ticks.
#[derive(Debug, Clone, Copy)]
pub struct Processor {
    all: u64,
    used: u64,
    /// By the story and the gateway.
    ours: u64,
}

impl Processor {
    pub fn look(edge: u64) -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap();
        let numbers: Vec<u64> = stat.lines().next().unwrap().split(' ').filter_map(|word| word.parse().ok()).collect();
        // user, nice, system, idle, iowait, irq, softirq, steal (proc(5)). What interrupts do belongs to nobody.
        let used = [0, 1, 2, 7].iter().filter_map(|at| numbers.get(*at)).sum();
        let ours = of_process("self") + of_process(&edge.to_string());
        Self { all: numbers.iter().sum(), used, ours }
    }

    /// What others have taken since, as a part of all.
    pub fn taken_by_others(self, now: Self) -> f64 {
        let others = (now.used - self.used).saturating_sub(now.ours - self.ours);
        others as f64 / (now.all - self.all).max(1) as f64
    }
}

/// What a process has used, itself and in the kernel.
fn of_process(pid: &str) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    after_name.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}
