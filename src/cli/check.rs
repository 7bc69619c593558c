//! `opri check`: reads conf as `opri serve` would, and says everything that is wrong with it.
//!
//! The rule it keeps: it only reads. Exit 0 when conf is good, 1 when anything is wrong. What conf names and this machine
//! does not have is a warning, for it may well be another machine that serves.

use std::path::Path;

use serde::Serialize;

use crate::control::conf;
use crate::report::{self, Fault, Warning};

#[derive(Debug, Default, Serialize)]
struct Findings {
    /// Projects that can be hosted.
    projects: usize,
    /// Their hosts, those by default included.
    hosts: usize,
    faults: Vec<Fault>,
    warnings: Vec<Warning>,
}

/// Checks the conf directory `dir`; tells whether it is good. With `json` the findings go to standard output as one
/// object.
pub fn run(dir: &Path, json: bool) -> bool {
    let findings = check(dir);
    if json {
        match serde_json::to_string(&findings) {
            Ok(text) => say!("{text}"),
            Err(error) => report::print(&error, None),
        }
    } else {
        report::print_findings(&findings.faults, &findings.warnings);
        if findings.faults.is_empty() {
            say!("{}", findings.praise());
        }
    }
    findings.faults.is_empty()
}

fn check(dir: &Path) -> Findings {
    let (loaded, warnings) = conf::check(dir);
    match loaded {
        Ok(loaded) => {
            let branches = loaded.conf.projects.values().flat_map(|project| project.branches.values());
            let hosts = branches.map(|branch| branch.hosts.len()).sum();
            Findings { projects: loaded.conf.projects.len(), hosts, faults: loaded.faults, warnings }
        }
        Err(faults) => Findings { faults, warnings, ..Findings::default() },
    }
}

impl Findings {
    fn praise(&self) -> String {
        let count = |number: usize, noun: &str| match number {
            1 => format!("1 {noun}"),
            _ => format!("{number} {noun}s"),
        };
        let warnings = match self.warnings.len() {
            0 => String::new(),
            number => format!("; {}", count(number, "warning")),
        };
        format!("conf is good: {}, {}{warnings}", count(self.projects, "project"), count(self.hosts, "host"))
    }
}
