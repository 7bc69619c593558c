//! Log files: written by builds and by apps, read from the end, followed, and kept small.
//!
//! Used within `runtime`, and by whoever shows a build's log. The rule: no log grows without bound, and reading one
//! takes bounded memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::ByteStream;

/// The log of one build, at most 16 MiB; what comes after is counted out.
#[derive(Debug)]
pub struct BuildLog {
    path: PathBuf,
    file: File,
    written: AtomicU64,
}

impl BuildLog {
    /// Begins the file anew, with the directories above it.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = open_append(path)?;
        file.set_len(0)?;
        Ok(Self { path: path.to_owned(), file, written: AtomicU64::new(0) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds output. A disk that is full costs the log, not the build.
    pub fn write(&self, bytes: &[u8]) {
        let before = self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let after = before + bytes.len() as u64;
        let mut file = &self.file;
        if after <= LOG_MAX {
            let _ = file.write_all(bytes);
        } else if before <= LOG_MAX {
            let _ = file.write_all(b"\n[the log ends here: it has reached 16 MiB]\n");
        }
    }

    /// Adds a line of our own.
    pub fn line(&self, text: &str) {
        self.write(format!("{text}\n").as_bytes());
    }
}

/// The last lines of a file, from its last 256 KiB; nothing when there is no file.
pub fn tail_file(path: &Path, lines: usize) -> io::Result<String> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        file => file?,
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_MAX)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_MAX).read_to_end(&mut bytes)?;
    Ok(last_lines(&String::from_utf8_lossy(&bytes), lines).to_owned())
}

/// The last lines of a file and then what is added to it, until the stream is dropped. Looks four times a second.
pub fn follow_file(path: PathBuf, lines: usize) -> ByteStream {
    let start = async move {
        let tail = tail_file(&path, lines)?;
        let offset = length(&path)?;
        Ok::<_, io::Error>((path, tail, offset))
    };
    let state = Follow::Start(Box::pin(start));
    Box::pin(futures_util::stream::unfold(state, |state| async move {
        match state {
            Follow::Start(start) => match start.await {
                Ok((path, tail, offset)) => Some((Ok(tail.into()), Follow::On { path, offset })),
                Err(error) => Some((Err(error), Follow::End)),
            },
            Follow::On { path, offset } => match added(&path, offset).await {
                Ok((bytes, offset)) => Some((Ok(bytes), Follow::On { path, offset })),
                Err(error) => Some((Err(error), Follow::End)),
            },
            Follow::End => None,
        }
    }))
}

/// The end of a text, in whole lines.
pub fn last_lines(text: &str, lines: usize) -> &str {
    let end = text.strip_suffix('\n').unwrap_or(text);
    match end.rmatch_indices('\n').nth(lines.saturating_sub(1)) {
        _ if lines == 0 => "",
        Some((newline, _)) => &text[newline + 1..],
        None => text,
    }
}

/// Opens a log to add to, with the directories above it, for our eyes only.
pub fn open_append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::DirBuilderExt;
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Once a log has reached 16 MiB, its last half goes to `<name>.1` and it begins anew. The app keeps its descriptor,
/// which appends, so it needs not know; a line written in that very moment may be lost.
pub fn rotate(path: &Path) -> io::Result<()> {
    if length(path)? < LOG_MAX {
        return Ok(());
    }
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    file.seek(SeekFrom::End(-((LOG_MAX / 2) as i64)))?;
    let mut kept = path.as_os_str().to_owned();
    kept.push(".1");
    let mut older = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(kept)?;
    io::copy(&mut Read::by_ref(&mut file).take(LOG_MAX / 2), &mut older)?;
    file.set_len(0)
}

enum Follow<F> {
    Start(F),
    On { path: PathBuf, offset: u64 },
    End,
}

async fn added(path: &Path, mut offset: u64) -> io::Result<(Bytes, u64)> {
    loop {
        let length = length(path)?;
        if length < offset {
            // It was begun anew.
            offset = 0;
        }
        if length > offset {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = Vec::new();
            file.take(TAIL_MAX).read_to_end(&mut bytes)?;
            offset += bytes.len() as u64;
            return Ok((bytes.into(), offset));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn length(path: &Path) -> io::Result<u64> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        metadata => metadata.map(|metadata| metadata.len()),
    }
}

const LOG_MAX: u64 = 16 << 20;
const TAIL_MAX: u64 = 256 << 10;
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole_lines() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last_lines("a\nb\nc", 2), "b\nc");
        assert_eq!(last_lines("a\n", 5), "a\n");
        assert_eq!(last_lines("a\nb\n", 0), "");
        assert_eq!(last_lines("", 3), "");
    }

    #[test]
    fn a_large_log_begins_anew_under_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r1.log");
        let mut writer = open_append(&path).unwrap();
        writer.write_all(&vec![b'x'; LOG_MAX as usize]).unwrap();
        rotate(&path).unwrap();
        writer.write_all(b"after\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"after\n");
        assert_eq!(length(&dir.path().join("r1.log.1")).unwrap(), LOG_MAX / 2);
        rotate(&path).unwrap();
        assert_eq!(tail_file(&path, 1).unwrap(), "after\n");
    }

    #[test]
    fn a_build_cannot_fill_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let log = BuildLog::create(&dir.path().join("a/b.log")).unwrap();
        for _ in 0..20 {
            log.write(&vec![b'x'; 1 << 20]);
        }
        assert!(length(log.path()).unwrap() < LOG_MAX + 100);
        assert!(tail_file(log.path(), 1).unwrap().contains("the log ends here"));
    }
}
