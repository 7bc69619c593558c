//! What was purged, for as long as anything lies on disk that was stored before it.
//!
//! Opened by `directory` with the rest, told by `cache` of every purge before the memory is, asked by `disk` at every hit. The
//! rule: a purge is in the file when `add` returns; when it cannot be, nothing of the directory is believed any more after a
//! restart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::directory;
use crate::edge::cache::key::Key;
use crate::edge::cache::purges::{Purges, Standing};
use crate::link::Purge;
use crate::model::route::UpstreamId;

const FILE: &str = "purges.log";
/// What is remembered one by one; then everything before is taken for purged.
const LINES_MAX: usize = 32 << 10;

/// What becomes unreachable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    Purge(Purge),
    Release(UpstreamId),
    /// Whatever was asked for before.
    Everything,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    number: u64,
    event: Event,
}

#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    /// And how many lines it has.
    file: Mutex<(File, usize)>,
    purges: Purges,
    /// What was asked for after fewer purges is gone.
    floor: AtomicU64,
}

impl Journal {
    /// Opens the one of a directory, or begins it. `InvalidData` when it is none.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE);
        let mut file = OpenOptions::new();
        let file = file.read(true).append(true).create(true).mode(0o600).open(&path)?;
        let bytes = fs::read(&path)?;
        // A line that was torn was never acknowledged.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64)?;
        let (purges, floor, mut count) = (Purges::new(), AtomicU64::new(0), 0);
        for line in bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Line { number, event } = serde_json::from_slice(line)?;
            note(&purges, &floor, number, &event);
            count += 1;
        }
        Ok(Self { dir: dir.to_owned(), file: Mutex::new((file, count)), purges, floor })
    }

    /// The number of the newest purge.
    pub fn newest(&self) -> u64 {
        self.purges.newest()
    }

    /// Whether no purge has taken what was asked for after so many of them.
    pub fn allows(&self, key: &Key, standing: &Standing, asked: u64) -> bool {
        asked >= self.floor.load(Ordering::Acquire) && self.purges.allow(key, standing)
    }

    /// Writes down what is purged under this number, which is higher than all before.
    pub fn add(&self, number: u64, event: &Event) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let event = if file.1 < LINES_MAX { event } else { &Event::Everything };
        note(&self.purges, &self.floor, number, event);
        let written = match event {
            Event::Everything => begin_anew(&self.dir, number).map(|begun| *file = (begun, 1)),
            event => append(&mut file.0, number, event).inspect(|()| file.1 += 1),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "a purge cannot be kept, so the cache on disk ends with this process");
            directory::disown(&self.dir);
        }
    }
}

fn note(purges: &Purges, floor: &AtomicU64, number: u64, event: &Event) {
    purges.go_on_from(number.saturating_sub(1));
    match event {
        Event::Purge(purge) => purges.add(purge, Instant::now()),
        Event::Release(release) => purges.add_release(release),
        Event::Everything => drop(floor.fetch_max(number, Ordering::AcqRel)),
    }
    purges.go_on_from(number);
}

fn append(file: &mut File, number: u64, event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Line { number, event: event.clone() })?;
    line.push(b'\n');
    let before = file.metadata()?.len();
    file.write_all(&line).inspect_err(|_| drop(file.set_len(before)))
}

/// With one line, in the place of all others.
fn begin_anew(dir: &Path, number: u64) -> io::Result<File> {
    let (path, aside) = (dir.join(FILE), dir.join("purges.new"));
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&aside)?;
    file.set_len(0)?;
    append(&mut file, number, &Event::Everything)?;
    fs::rename(&aside, &path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::request::tests::asking;
    use crate::link::PurgeScope;

    fn key(target: &str) -> Key {
        let id = UpstreamId("shop/master#r1".to_owned());
        asking(target, "Host: shop.test\r\n", false, |asked| Key::new(&"shop".parse().unwrap(), &id, &asked.unwrap()))
    }

    fn url(target: &str) -> Event {
        let scope = PurgeScope::Url(target.to_owned());
        Event::Purge(Purge { project: "shop".parse().unwrap(), branch: None, scope, is_soft: false })
    }

    fn allows(journal: &Journal, target: &str, asked: u64) -> bool {
        journal.allows(&key(target), &Standing::new(Box::default(), std::time::Instant::now(), asked), asked)
    }

    #[test]
    fn a_purge_holds_over_restarts_and_a_torn_line_is_none() {
        let dir = tempfile::tempdir().unwrap();
        Journal::open(dir.path()).unwrap().add(4, &url("/a"));
        for _ in 0..2 {
            let journal = Journal::open(dir.path()).unwrap();
            assert_eq!(journal.newest(), 4);
            assert!(!allows(&journal, "/a", 3) && allows(&journal, "/a", 4) && allows(&journal, "/b", 0));
            let path = dir.path().join(FILE);
            let torn = [fs::read(&path).unwrap(), b"{\"number\":5,".to_vec()].concat();
            fs::write(&path, torn).unwrap();
        }
        Journal::open(dir.path()).unwrap().add(7, &Event::Everything);
        let journal = Journal::open(dir.path()).unwrap();
        assert!(!allows(&journal, "/b", 6) && allows(&journal, "/b", 7) && journal.newest() == 7);
        fs::write(dir.path().join(FILE), "something else entirely\n").unwrap();
        assert!(Journal::open(dir.path()).is_err());
    }

    #[test]
    fn too_many_purges_are_taken_for_one_of_everything() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        (1..=LINES_MAX as u64).for_each(|number| journal.add(number, &url("/a")));
        assert!(allows(&journal, "/b", 0));
        journal.add(LINES_MAX as u64 + 1, &url("/a"));
        assert!(!allows(&journal, "/b", LINES_MAX as u64));
        assert!(fs::metadata(dir.path().join(FILE)).unwrap().len() < 100);
    }
}
