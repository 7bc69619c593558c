//! The directory of the cache: whose it is, whether it can be believed, and what an earlier process left in it.
//!
//! Opened by `disk`. The rule: after a restart, however the edge ended, what is there is what was there; after a machine
//! that ended without warning nothing is believed, for its last notes of what was purged may be missing; and what is no
//! cache of ours is set aside, never read and never mended.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::journal::Journal;
use super::segment::{Listed, Segment, SegmentError};
use super::time::{Clock, Time};

/// Of the files; another is not read.
const FORM: u32 = 2;
const MARK: &str = "mark.json";
/// In place of the mark, where nothing is believed any more.
const DISOWNED: &str = "disowned.json";
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
    #[error("no random bytes are to be had")]
    Random,
}

/// An open directory. It is marked as one that is in use until it is closed.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    mark: Mark,
}

/// What is known of the directory as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    form: u32,
    /// Of the names: nobody outside can foresee them.
    key: [u8; 32],
    /// The boot in which it was used last, and when that began.
    boot: String,
    booted: Time,
    /// When it was closed; `None` while it is in use.
    closed: Option<Time>,
}

/// What lies in the segments, the oldest first.
#[derive(Debug)]
pub struct Left {
    pub segments: Vec<(Segment, Vec<Listed>)>,
    pub journal: Journal,
}

/// Why a directory is not gone on with.
#[derive(Debug)]
enum Unfit {
    /// It is as it should be, and nothing in it holds any more.
    Void(&'static str),
    Damaged(String),
}

impl Directory {
    /// Opens the cache below `root`, which is the edge's own, or begins one.
    pub fn open(root: &Path) -> Result<(Self, Left), DirectoryError> {
        let path = root.join("objects");
        let boot = fs::read_to_string(BOOT).unwrap_or_default().trim().to_owned();
        let gone_on = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            _ => match go_on(&path, &boot) {
                Ok(found) => Some(found),
                Err(unfit) => {
                    clear(root, &path, unfit).map_err(|error| DirectoryError::Io(path.clone(), error))?;
                    None
                }
            },
        };
        let (mark, left) = match gone_on {
            Some((mark, left)) => (mark, left),
            None => {
                let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
                made.map_err(|error| DirectoryError::Io(path.clone(), error))?;
                let journal = Journal::open(&path).map_err(|error| DirectoryError::Io(path.clone(), error))?;
                (Mark::new(boot)?, Left { segments: Vec::new(), journal })
            }
        };
        let directory = Self { path, mark };
        directory.write_mark(None)?;
        Ok((directory, left))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn key(&self) -> &[u8; 32] {
        &self.mark.key
    }

    pub fn clock(&self) -> Clock {
        Clock { booted: self.mark.booted }
    }

    /// Says that everything is on disk.
    pub fn close(&self) -> Result<(), DirectoryError> {
        // What was disowned stays so, by its own mark.
        self.write_mark(Some(self.clock().now()))
    }

    fn write_mark(&self, closed: Option<Time>) -> Result<(), DirectoryError> {
        let path = self.path.join(MARK);
        let written = write(&self.path, &path, &Mark { closed, ..self.mark.clone() });
        written.map_err(|error| DirectoryError::Io(path, error))
    }
}

impl Mark {
    fn new(boot: String) -> Result<Self, DirectoryError> {
        let mut key = [0; 32];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| DirectoryError::Random)?;
        Ok(Self { form: FORM, key, boot, booted: Clock::set().booted, closed: None })
    }

    /// For this boot.
    fn carried_over(self, boot: &str) -> Result<Self, Unfit> {
        if self.form != FORM {
            return Err(Unfit::Void("it is of another version"));
        }
        if self.boot == boot && !boot.is_empty() {
            return Ok(self);
        }
        let clock = Clock::set();
        match self.closed {
            None => Err(Unfit::Void("the machine ended without warning, so its last purges may be missing")),
            Some(closed) if closed > clock.now() => {
                Err(Unfit::Void("the clock went back, so nobody knows how old anything is"))
            }
            Some(_) => Ok(Self { boot: boot.to_owned(), booted: clock.booted, ..self }),
        }
    }
}

/// Reads what is there.
fn go_on(path: &Path, boot: &str) -> Result<(Mark, Left), Unfit> {
    let damaged = |error: io::Error| Unfit::Damaged(error.to_string());
    if path.join(DISOWNED).exists() {
        return Err(Unfit::Void("a purge could not be kept"));
    }
    let mark = fs::read(path.join(MARK)).map_err(damaged)?;
    let mark: Mark = serde_json::from_slice(&mark).map_err(|error| Unfit::Damaged(format!("{MARK}: {error}")))?;
    let mark = mark.carried_over(boot)?;
    let journal = Journal::open(path).map_err(|error| Unfit::Damaged(error.to_string()))?;
    let mut segments = Vec::new();
    for entry in fs::read_dir(path).map_err(damaged)? {
        let path = entry.map_err(damaged)?.path();
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let (segment, listed) =
            Segment::open(&path).map_err(|error: SegmentError| Unfit::Damaged(error.to_string()))?;
        match listed.is_empty() {
            true => segment.remove(),
            false => segments.push((segment, listed)),
        }
    }
    segments.sort_unstable_by_key(|(segment, _)| segment.id);
    Ok((mark, Left { segments, journal }))
}

/// Makes room for a new one.
fn clear(root: &Path, path: &Path, unfit: Unfit) -> io::Result<()> {
    let aside = root.join("damaged");
    match unfit {
        Unfit::Void(why) => {
            tracing::warn!(path = %path.display(), "the cache on disk begins anew: {why}");
            remove(path)
        }
        Unfit::Damaged(why) => {
            tracing::warn!(path = %aside.display(), "the cache on disk is damaged: {why}; it is set aside, and a new one begins");
            remove(&aside)?;
            fs::rename(path, &aside)
        }
    }
}

/// Has a directory begun anew after this process. Takes no room on a disk that has none.
pub fn disown(dir: &Path) {
    if let Err(error) = fs::rename(dir.join(MARK), dir.join(DISOWNED)) {
        tracing::error!(%error, "what was purged may come back with a restart");
    }
}

/// Whatever it is.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// In one step, and on disk when this returns.
fn write(dir: &Path, path: &Path, mark: &Mark) -> io::Result<()> {
    let aside = path.with_extension("json.new");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
    file.write_all(&serde_json::to_vec(mark)?)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    File::open(dir)?.sync_all()
}

/// Removes the cache below `root`: conf wants none.
pub fn discard(root: &Path) -> io::Result<()> {
    remove(&root.join("objects"))
}

#[cfg(test)]
mod tests {
    use super::super::segment::START;
    use super::*;
    use crate::edge::cache::disk::record::Prefix;

    /// A directory with one segment in it.
    fn used(root: &Path) -> Directory {
        let (directory, left) = Directory::open(root).unwrap();
        assert!(left.segments.is_empty());
        let segment = Segment::create(directory.path(), 3).unwrap();
        segment.write(&Prefix::removal(5).bytes().unwrap(), START).unwrap();
        directory
    }

    fn rewrite(directory: &Directory, change: impl FnOnce(&mut Mark)) {
        let path = directory.path().join(MARK);
        let mut mark: Mark = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut mark);
        fs::write(&path, serde_json::to_vec(&mark).unwrap()).unwrap();
    }

    #[test]
    fn what_an_edge_left_is_found_with_its_names_and_its_time() {
        let root = tempfile::tempdir().unwrap();
        let before = used(root.path());
        let (after, left) = Directory::open(root.path()).unwrap();
        assert_eq!((after.key(), after.clock()), (before.key(), before.clock()));
        assert_eq!(
            left.segments.iter().map(|(segment, listed)| (segment.id, listed.len())).collect::<Vec<_>>(),
            [(3, 1)]
        );
    }

    #[test]
    fn over_a_boot_only_what_was_closed_counts_and_only_while_time_goes_on() {
        let root = tempfile::tempdir().unwrap();
        let found = || Directory::open(root.path()).unwrap().1.segments.len();
        let other = |mark: &mut Mark| mark.boot = "another".to_owned();
        rewrite(&used(root.path()), other);
        assert_eq!(found(), 0, "its last notes may be missing");
        let directory = used(root.path());
        directory.close().unwrap();
        rewrite(&directory, other);
        assert_eq!(found(), 1);
        let later = directory.clock().now() + 1_000_000;
        rewrite(&directory, |mark| (mark.boot, mark.closed) = ("another".to_owned(), Some(later)));
        assert_eq!(found(), 0, "the clock went back");
        rewrite(&used(root.path()), |mark| mark.form += 1);
        assert_eq!(found(), 0, "of another version");
        disown(used(root.path()).path());
        assert_eq!(found(), 0, "a purge is missing");
        assert!(!root.path().join("damaged").exists());
    }

    #[test]
    fn what_is_damaged_is_set_aside_and_only_the_last() {
        let root = tempfile::tempdir().unwrap();
        for (number, damage) in ["mark.json", "00000003.seg"].into_iter().enumerate() {
            let directory = used(root.path());
            fs::write(directory.path().join(damage), format!("damage {number}, and a good deal of it")).unwrap();
            let (_, left) = Directory::open(root.path()).unwrap();
            assert!(left.segments.is_empty());
            let aside = fs::read_to_string(root.path().join("damaged").join(damage)).unwrap();
            assert_eq!(aside, format!("damage {number}, and a good deal of it"));
            assert_eq!(Directory::open(root.path()).unwrap().1.segments.len(), 0, "and the new one holds");
        }
        fs::remove_dir_all(root.path().join("objects")).unwrap();
        fs::write(root.path().join("objects"), "a file").unwrap();
        assert!(Directory::open(root.path()).unwrap().1.segments.is_empty() && root.path().join("damaged").is_file());
        discard(root.path()).unwrap();
        assert!(!root.path().join("objects").exists());
    }
}
