//! The files of the access log as one: read from the end, then forward across whatever is begun anew meanwhile.
//!
//! Used by `access`. The rule: a place in the log is always the beginning of a line, and reading takes bounded memory. The
//! edge that writes the files may be another user, so nothing but a plain file is opened.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::link::paths;

/// Bytes read at once. A line of the edge has 4 KiB at most.
const BLOCK: usize = 64 << 10;
/// More old files than conf can ask for.
const FILES_MAX: u32 = 1001;

/// What somebody who reads from the end says of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Pass,
    /// Reading shall begin here, or earlier.
    Wanted,
    /// No earlier line is of interest.
    Enough,
}

/// A place in the log.
#[derive(Debug)]
pub struct Reader {
    log: PathBuf,
    file: Option<Opened>,
    offset: u64,
}

#[derive(Debug)]
struct Opened {
    file: File,
    identity: (u64, u64),
}

impl Reader {
    /// Stands at the earliest line that `seen` wants, having shown it every line from the last on; at the end when it
    /// wants none.
    pub fn from_end(log: PathBuf, mut seen: impl FnMut(&[u8]) -> Seen) -> io::Result<Self> {
        let mut reader = Self { log, file: None, offset: 0 };
        for opened in all(&reader.log)? {
            let mut wanted = None;
            let end = end_of_lines(&opened.file)?;
            let is_enough = backwards(&opened.file, end, |offset, line| {
                let seen = seen(line);
                if seen == Seen::Wanted {
                    wanted = Some(offset);
                }
                seen == Seen::Enough
            })?;
            if let Some(offset) = wanted.or(reader.file.is_none().then_some(end)) {
                (reader.file, reader.offset) = (Some(opened), offset);
            }
            if is_enough {
                break;
            }
        }
        Ok(reader)
    }

    /// The next lines, each whole; none when there are none yet.
    pub fn more(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let lines = self.read()?;
            if !lines.is_empty() {
                return Ok(lines);
            }
            let Some(newer) = self.newer()? else { return Ok(lines) };
            // What was written before it was moved away.
            let lines = self.read()?;
            if !lines.is_empty() {
                return Ok(lines);
            }
            (self.file, self.offset) = (Some(newer), 0);
        }
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let Some(opened) = &self.file else { return Ok(Vec::new()) };
        let mut bytes = vec![0; BLOCK];
        let read = read_at(&opened.file, &mut bytes, self.offset)?;
        // What has no end in a whole block is nobody's line.
        let is_foreign = read == BLOCK && !bytes.contains(&b'\n');
        bytes.truncate(if is_foreign { read } else { whole_lines(&bytes[..read]) });
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }

    /// The file that was begun after the one at hand.
    fn newer(&self) -> io::Result<Option<Opened>> {
        let mut files = all(&self.log)?;
        let Some(at_hand) = &self.file else { return Ok(files.pop()) };
        if let Some(place) = files.iter().position(|opened| opened.identity == at_hand.identity) {
            files.truncate(place);
            return Ok(files.pop());
        }
        // It is gone: the oldest of those that were written after it.
        let last = modified(&at_hand.file)?;
        while let Some(opened) = files.pop() {
            if modified(&opened.file)? > last {
                return Ok(Some(opened));
            }
        }
        Ok(None)
    }
}

/// All files, the newest first, each once.
fn all(log: &Path) -> io::Result<Vec<Opened>> {
    let mut files: Vec<Opened> = Vec::new();
    // In this order one that is moved on meanwhile is met twice and none is missed.
    for number in 0..=FILES_MAX {
        let path = if number == 0 { log.to_owned() } else { paths::rotated(log, number) };
        match open(&path)? {
            Some(opened) if files.iter().all(|other| other.identity != opened.identity) => files.push(opened),
            Some(_) => {}
            None if number > 0 => break,
            None => {}
        }
    }
    Ok(files)
}

fn open(path: &Path) -> io::Result<Option<Opened>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(descriptor) => File::from(descriptor),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other(format!("{} is no file", path.display())));
    }
    Ok(Some(Opened { identity: (metadata.dev(), metadata.ino()), file }))
}

fn modified(file: &File) -> io::Result<(i64, i64)> {
    let metadata = file.metadata()?;
    Ok((metadata.mtime(), metadata.mtime_nsec()))
}

/// Where the last whole line ends.
fn end_of_lines(file: &File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(BLOCK as u64);
    let mut bytes = vec![0; (length - from) as usize];
    let read = read_at(file, &mut bytes, from)?;
    Ok(from + whole_lines(&bytes[..read]) as u64)
}

/// Shows lines with their places, from the one before `end` to the first, until `seen` has enough; whether it had.
fn backwards(file: &File, end: u64, mut seen: impl FnMut(u64, &[u8]) -> bool) -> io::Result<bool> {
    let mut from = end;
    // What was read and not shown yet: from `from` on, and its last line is whole.
    let mut rest = Vec::new();
    while from > 0 {
        let length = from.min(BLOCK as u64) as usize;
        from -= length as u64;
        let mut block = vec![0; length];
        file.read_exact_at(&mut block, from)?;
        // A line that is longer than a block is nobody's.
        block.extend(rest.drain(..).take(BLOCK));
        rest = block;
        while let Some(start) = last_line(&rest, from == 0) {
            if seen(from + start as u64, &rest[start..]) {
                return Ok(true);
            }
            rest.truncate(start);
        }
    }
    Ok(false)
}

/// Where the last line begins; unknown for the first of the bytes, unless they are the first of all.
fn last_line(bytes: &[u8], is_beginning: bool) -> Option<usize> {
    let before = bytes.len().checked_sub(1)?;
    let newline = bytes[..before].iter().rposition(|byte| *byte == b'\n');
    newline.map(|newline| newline + 1).or(is_beginning.then_some(0))
}

/// The length of those lines that are whole.
fn whole_lines(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
}

fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], offset + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    struct Log(tempfile::TempDir);

    impl Log {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("access.log")
        }

        fn add(&self, text: &str) {
            let file = fs::OpenOptions::new().append(true).create(true).open(self.path());
            file.unwrap().write_all(text.as_bytes()).unwrap();
        }

        /// Begins the file anew, later than the one at hand was written by the clock of the disk.
        fn begin_after(&self, reader: &Reader, text: &str) {
            let last = modified(&reader.file.as_ref().unwrap().file).unwrap();
            while fs::metadata(self.path()).map_or(last, |there| (there.mtime(), there.mtime_nsec())) <= last {
                let _ = fs::remove_file(self.path());
                self.add(text);
            }
        }

        /// As the edge does it, keeping two.
        fn rotate(&self) {
            let _ = fs::rename(paths::rotated(&self.path(), 1), paths::rotated(&self.path(), 2));
            fs::rename(self.path(), paths::rotated(&self.path(), 1)).unwrap();
        }

        /// A reader of the last lines that contain `word`.
        fn last(&self, lines: usize, word: &str) -> Reader {
            let mut left = lines;
            let seen = |line: &[u8]| match String::from_utf8_lossy(line).contains(word) {
                _ if left == 0 => Seen::Enough,
                false => Seen::Pass,
                true => {
                    left -= 1;
                    Seen::Wanted
                }
            };
            Reader::from_end(self.path(), seen).unwrap()
        }
    }

    fn rest(reader: &mut Reader) -> String {
        let mut text = String::new();
        loop {
            let lines = reader.more().unwrap();
            if lines.is_empty() {
                return text;
            }
            text.push_str(&String::from_utf8(lines).unwrap());
        }
    }

    #[test]
    fn the_last_lines_are_found_across_files_and_blocks() {
        let log = Log::new();
        let line = |number: usize| format!("{number:09}{}\n", "x".repeat(90));
        for number in 0..6000 {
            log.add(&line(number));
            if number % 2500 == 2499 {
                log.rotate();
            }
        }
        for wanted in [0, 1, 2, 700, 1000, 1001, 3499, 3500, 3501, 6000, 7000] {
            let expected: String = (6000 - wanted.min(6000)..6000).map(line).collect();
            assert!(rest(&mut log.last(wanted, "")) == expected, "{wanted}");
        }
        assert!(rest(&mut log.last(1, "000002499")) == (2499..6000).map(line).collect::<String>());
        assert_eq!(rest(&mut log.last(1, "nowhere")), "");
    }

    #[test]
    fn reading_goes_on_across_files_that_are_begun_anew() {
        let log = Log::new();
        let mut reader = log.last(10, "");
        assert_eq!(rest(&mut reader), "");
        log.add("one\ntw");
        assert_eq!(rest(&mut reader), "one\n");
        log.add("o\n");
        log.rotate();
        assert_eq!(rest(&mut reader), "two\n");
        log.add("three\n");
        log.rotate();
        log.add("four\n");
        assert_eq!(rest(&mut reader), "three\nfour\n");
    }

    #[test]
    fn whoever_fell_behind_goes_on_with_what_is_left() {
        let log = Log::new();
        log.add("one\n");
        let mut reader = log.last(10, "");
        assert_eq!(rest(&mut reader), "one\n");
        for word in ["two\n", "three\n", "four\n", "five\n"] {
            log.rotate();
            log.begin_after(&reader, word);
        }
        assert_eq!(rest(&mut reader), "three\nfour\nfive\n");
    }

    #[test]
    fn a_log_that_somebody_removed_is_read_from_its_new_beginning() {
        let log = Log::new();
        log.add("one\n");
        log.rotate();
        log.add("two\n");
        let mut reader = log.last(1, "");
        assert_eq!(rest(&mut reader), "two\n");
        fs::remove_file(log.path()).unwrap();
        assert_eq!(rest(&mut reader), "");
        log.begin_after(&reader, "three\n");
        assert_eq!(rest(&mut reader), "three\n");
    }

    #[test]
    fn nothing_but_a_plain_file_is_opened() {
        let log = Log::new();
        std::os::unix::fs::symlink("/etc/passwd", log.path()).unwrap();
        assert!(Reader::from_end(log.path(), |_| Seen::Wanted).is_err());
        fs::remove_file(log.path()).unwrap();
        fs::create_dir(log.path()).unwrap();
        assert!(Reader::from_end(log.path(), |_| Seen::Wanted).is_err());
    }
}
