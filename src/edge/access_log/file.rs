//! The access log on disk: whole lines, in a file that is begun anew when it is full.
//!
//! Written by `access_log` alone, read by control. The rule: between them the files never take more than conf allows, a
//! line is there whole or not at all, and whatever happens to the disk is healed by the next write.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::link::paths;
use crate::model::machine;

use super::line::LINE_MAX;

#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    length: u64,
}

/// Lines that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}")]
pub struct Lost {
    pub lines: u64,
    path: PathBuf,
    error: io::Error,
}

impl LogFile {
    pub fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    /// Adds lines, in as many files as it takes.
    pub fn write(&mut self, mut lines: &[u8], conf: machine::AccessLog) -> Result<(), Lost> {
        while !lines.is_empty() {
            match self.write_some(lines, conf) {
                Ok(written) => lines = &lines[written..],
                Err(error) => {
                    self.open = None;
                    let lines = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
                    return Err(Lost { lines, path: self.path.clone(), error });
                }
            }
        }
        Ok(())
    }

    /// Writes the lines that the file has room for, one at the least; how many bytes they were.
    fn write_some(&mut self, lines: &[u8], conf: machine::AccessLog) -> io::Result<usize> {
        let mut open = self.opened()?;
        // An edge that was replaced adds its last lines to the same file.
        open.length = open.file.metadata()?.len();
        let room = usize::try_from(conf.size.saturating_sub(open.length)).unwrap_or(usize::MAX);
        let mut fitting = whole_lines(&lines[..room.min(lines.len())]);
        if fitting == 0 {
            if open.length > 0 {
                self.rotate(conf.keep)?;
                open = self.opened()?;
            }
            fitting = lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |end| end + 1);
        }
        let written = open.file.write(&lines[..fitting])?;
        let whole = whole_lines(&lines[..written]);
        open.length += whole as u64;
        if whole < written {
            // The disk is full in the middle of a line.
            open.file.set_len(open.length)?;
        }
        if whole == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(whole) }
    }

    /// The file under its name; one that was moved or removed meanwhile is let go of.
    fn opened(&mut self) -> io::Result<&mut Open> {
        let open = match self.open.take().filter(|open| open.is_at(&self.path)) {
            Some(open) => open,
            None => Open::at(&self.path)?,
        };
        Ok(self.open.insert(open))
    }

    /// Makes room for a new file: `access.log.1` is the newest of the old ones.
    fn rotate(&mut self, keep: u32) -> io::Result<()> {
        self.open = None;
        for number in (1..keep).rev() {
            passing_over_none(fs::rename(paths::rotated(&self.path, number), paths::rotated(&self.path, number + 1)))?;
        }
        match keep {
            0 => fs::remove_file(&self.path)?,
            _ => fs::rename(&self.path, paths::rotated(&self.path, 1))?,
        }
        // Conf may have kept more of them before.
        let mut number = keep + 1;
        while fs::remove_file(paths::rotated(&self.path, number)).is_ok() {
            number += 1;
        }
        Ok(())
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let length = mend(&file)?;
        Ok(Self { file, length })
    }

    fn is_at(&self, path: &Path) -> bool {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        match (self.file.metadata(), fs::metadata(path)) {
            (Ok(own), Ok(there)) => identity(own) == identity(there),
            _ => false,
        }
    }
}

/// Takes away a last line that a crash or a full disk tore; how long the file is then.
fn mend(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(LINE_MAX as u64);
    let mut end = vec![0; (length - from) as usize];
    file.read_exact_at(&mut end, from)?;
    let whole = from + whole_lines(&end) as u64;
    if whole < length {
        file.set_len(whole)?;
    }
    Ok(whole)
}

/// The length of those lines that are whole.
fn whole_lines(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
}

fn passing_over_none(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: machine::AccessLog = machine::AccessLog { enabled: true, size: 100, keep: 2 };

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("logs/access.log")
        }

        fn log(&self) -> LogFile {
            LogFile::new(self.path())
        }

        /// All files, the oldest first.
        fn read(&self) -> Vec<String> {
            let numbers = (0..10).rev();
            let path = |number| if number == 0 { self.path() } else { paths::rotated(&self.path(), number) };
            numbers.filter_map(|number| fs::read_to_string(path(number)).ok()).collect()
        }
    }

    #[test]
    fn a_full_file_is_begun_anew_between_two_lines() {
        let place = Place::new();
        let mut log = place.log();
        let lines: String = (0..25).map(|number| format!("line {number:04}\n")).collect();
        log.write(&lines.as_bytes()[..100], CONF).unwrap();
        log.write(&lines.as_bytes()[100..], CONF).unwrap();
        let files = place.read();
        assert_eq!(files.concat(), lines);
        assert!(files.len() == 3 && files.iter().all(|file| file.len() <= 100 && file.ends_with('\n')), "{files:?}");
        assert_eq!(fs::metadata(place.path()).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn only_so_many_old_files_are_kept() {
        let place = Place::new();
        let mut log = place.log();
        for number in 0..10 {
            log.write(format!("{number}{}\n", "x".repeat(90)).as_bytes(), CONF).unwrap();
        }
        let first = |file: &String| file.chars().next().unwrap();
        assert_eq!(place.read().iter().map(first).collect::<String>(), "789");
        let line = format!("{}\n", "y".repeat(90));
        log.write(line.as_bytes(), machine::AccessLog { keep: 0, ..CONF }).unwrap();
        assert_eq!(place.read(), [line]);
    }

    #[test]
    fn a_line_longer_than_a_file_is_written_all_the_same() {
        let place = Place::new();
        let long = format!("{}\n", "x".repeat(300));
        place.log().write(format!("a\n{long}b\n").as_bytes(), CONF).unwrap();
        assert_eq!(place.read(), ["a\n", &long, "b\n"]);
    }

    #[test]
    fn a_torn_line_is_taken_away() {
        let place = Place::new();
        place.log().write(b"one\n", CONF).unwrap();
        let mut torn = OpenOptions::new().append(true).open(place.path()).unwrap();
        torn.write_all(b"two").unwrap();
        place.log().write(b"three\n", CONF).unwrap();
        assert_eq!(place.read(), ["one\nthree\n"]);
    }

    #[test]
    fn a_directory_that_is_taken_away_costs_what_was_in_it() {
        let place = Place::new();
        let mut log = place.log();
        log.write(b"one\n", CONF).unwrap();
        let logs = place.path().parent().unwrap().to_owned();
        fs::remove_dir_all(&logs).unwrap();
        log.write(b"two\n", CONF).unwrap();
        assert_eq!(place.read(), ["two\n"]);
        fs::remove_dir_all(&logs).unwrap();
        fs::write(&logs, "in the way").unwrap();
        assert_eq!(log.write(b"three\nfour\n", CONF).unwrap_err().lines, 2);
        fs::remove_file(&logs).unwrap();
        log.write(b"five\n", CONF).unwrap();
        assert_eq!(place.read(), ["five\n"]);
    }
}
