//! Everything at once, with little memory.

use std::fs;
use std::path::{Path, PathBuf};

use crate::crowd::Gate;
use crate::field::besiege;
use crate::frames::Speaker;
use crate::{bodies, floods, handshakes, heads, unread};

/// What the gateway has, with what the kernel keeps for it.
const MEMORY: u64 = 256 << 20;
const LIMITS: &str = "[limits]\nheader_timeout = \"5s\"\nhandshake_timeout = \"5s\"\nwrite_rate = \"64KiB\"\n\
    write_timeout = \"5s\"\nconnections_per_address = 5000\n[cache]\nmemory = \"64MiB\"\nobject_max = \"16MiB\"\n";

#[test]
fn everything_at_once_in_256_megabytes_kills_nobody() {
    besiege(LIMITS, |field| {
        let Some(cage) = Cage::new() else {
            return eprintln!("SKIPPED: no memory cgroup can be made here, so the gateway was not kept at 256 MB");
        };
        field.restart(|control| cage.enter(control));
        let edge = field.edge();
        let (http, https) = (Gate::new(field.prime.address("http")), Gate::new(field.prime.address("https")));
        let speaker = Speaker::new(field.prime);
        field.withstands("all of them, in 256 MB", 200.0, async move {
            tokio::join!(
                heads::endless(http.clone(), 1000),
                heads::overfull(http.clone(), 100),
                handshakes::half(https, 500),
                bodies::slow(http.clone(), 300),
                bodies::slow_streams(speaker.clone(), 10),
                unread::slow(http.clone(), 300),
                unread::almost(http, 30),
                unread::unread(speaker.clone(), 2, "/large"),
                unread::windowless(speaker.clone(), 2, "/large"),
                floods::all(speaker),
            );
        });
        assert_eq!(field.edge(), edge, "the same process all the time");
        println!("    {:.0} MB at most with the kernel's share, {} times at the limit", cage.most(), cage.failed());
    });
}

/// A group of processes with a bound on its memory (cgroup v1, or v2), removed in the end.
struct Cage {
    path: PathBuf,
    is_v2: bool,
}

impl Cage {
    fn new() -> Option<Self> {
        let name = format!("opri-attack-{}", std::process::id());
        let (v1, v2) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        let is_v2 = !v1.exists();
        let path = if is_v2 { v2 } else { v1 }.join(name);
        fs::create_dir(&path).ok()?;
        let cage = Self { path, is_v2 };
        fs::write(cage.file("memory.limit_in_bytes", "memory.max"), MEMORY.to_string()).ok()?;
        Some(cage)
    }

    fn file(&self, v1: &str, v2: &str) -> PathBuf {
        self.path.join(if self.is_v2 { v2 } else { v1 })
    }

    /// With all that it starts from now on.
    fn enter(&self, process: u64) {
        fs::write(self.path.join("cgroup.procs"), process.to_string()).unwrap();
    }

    /// Megabytes.
    fn most(&self) -> f64 {
        let most = fs::read_to_string(self.file("memory.max_usage_in_bytes", "memory.peak")).unwrap_or_default();
        most.trim().parse::<f64>().unwrap_or(0.0) / 1e6
    }

    fn failed(&self) -> String {
        fs::read_to_string(self.file("memory.failcnt", "memory.events")).unwrap_or_default().trim().replace('\n', ", ")
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // Whoever is still in it is let out; a group with processes cannot be removed.
        let outside = self.path.parent().unwrap().join("cgroup.procs");
        for process in fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(&outside, process);
        }
        let _ = fs::remove_dir(&self.path);
    }
}
