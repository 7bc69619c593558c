//! Which files conf is made of, and their text.
//!
//! Used by `load` and by the watcher, so that both see the same files. The rule it keeps: nothing in the directory can
//! make the reading wait or fill the memory: only regular files up to a size are read.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Why a file of conf cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileFault {
    #[error("the file cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("this is not a regular file")]
    NotAFile,
    #[error("the file is larger than {FILE_MAX} bytes")]
    TooLarge,
    #[error("the file is not UTF-8: line {0} has other bytes")]
    NotText(usize),
}

/// The machine's file.
pub fn prime(dir: &Path) -> PathBuf {
    dir.join("prime.toml")
}

/// The directory of the projects' files.
pub fn projects_dir(dir: &Path) -> PathBuf {
    dir.join("projects")
}

/// The projects' files in alphabetical order; none when there is no such directory. Hidden files, and names that do not
/// end in `.toml`, are an editor's own.
pub fn projects(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(projects_dir(dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_hidden = path.file_name().is_none_or(|name| name.as_bytes().starts_with(b"."));
        if !is_hidden && path.extension() == Some(OsStr::new("toml")) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The text of one file.
pub fn read(path: &Path) -> Result<String, FileFault> {
    // Asked first: opening a pipe would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(FileFault::NotAFile);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(FileFault::TooLarge);
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        FileFault::NotText(good.iter().filter(|byte| **byte == b'\n').count() + 1)
    })
}

/// A number that differs when the content of any file differs, or the set of files. Holds within one process.
pub fn fingerprint(dir: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    let projects = projects(dir);
    let kind = |error: &FileFault| match error {
        FileFault::Unreadable(error) => error.kind().to_string(),
        other => other.to_string(),
    };
    projects.as_ref().map_err(io::Error::kind).map(Vec::len).map_err(|kind| kind.to_string()).hash(&mut hasher);
    for path in std::iter::once(prime(dir)).chain(projects.unwrap_or_default()) {
        path.hash(&mut hasher);
        read(&path).as_ref().map_err(kind).hash(&mut hasher);
    }
    hasher.finish()
}

/// The largest file of conf, in bytes: some thousand hosts have room in it.
const FILE_MAX: u64 = 1 << 20;
