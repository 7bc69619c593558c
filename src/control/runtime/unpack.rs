//! A tar stream into a directory, for the process runtime.
//!
//! The rule: the archive is a committer's word. Only directories, regular files and symbolic links come out of it, no
//! write leaves the directory (not through a link either), and size and number are bounded.

use std::error::Error;
use std::io::{self, Read};
use std::path::Path;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tar::EntryType;
use tokio::sync::mpsc;

use super::ByteStream;
use super::error::RuntimeError;

/// Unpacks everything into `into`, which exists and is empty.
pub async fn unpack(mut source: ByteStream, into: &Path) -> Result<(), RuntimeError> {
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    let target = into.to_owned();
    let work = tokio::task::spawn_blocking(move || {
        let mut archive = tar::Archive::new(Chunks { receiver, chunk: Bytes::new() });
        write_all(&mut archive, &target)?;
        // To the end of the stream, which is where its maker says whether it was whole.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop).map_err(told)
    });
    let mut source_fault = None;
    while let Some(chunk) = source.next().await {
        match chunk {
            Ok(chunk) => {
                if sender.send(chunk).await.is_err() {
                    // Nobody takes it any more: the other side says why.
                    break;
                }
            }
            Err(error) => {
                source_fault = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let written = work.await.map_err(|error| RuntimeError::Unpack(error.to_string()))?;
    match source_fault {
        Some(error) => Err(RuntimeError::Source(error)),
        None => written.map_err(RuntimeError::Unpack),
    }
}

fn write_all(archive: &mut tar::Archive<Chunks>, target: &Path) -> Result<(), String> {
    let (mut count, mut size) = (0_u64, 0_u64);
    for entry in archive.entries().map_err(told)? {
        let mut entry = entry.map_err(told)?;
        let path = entry.path().map_err(told)?.display().to_string();
        match entry.header().entry_type() {
            // The commit's id, which git puts first.
            EntryType::XGlobalHeader => continue,
            EntryType::Directory | EntryType::Regular | EntryType::Symlink => (),
            other => return Err(format!("`{path}` is neither a file, a directory nor a link ({other:?})")),
        }
        count += 1;
        size = size.saturating_add(entry.size());
        if count > COUNT_MAX || size > SIZE_MAX {
            return Err(format!("it is larger than {} GiB or {COUNT_MAX} files", SIZE_MAX >> 30));
        }
        match entry.unpack_in(target) {
            Ok(true) => (),
            Ok(false) => return Err(format!("`{path}` leads out of it")),
            Err(error) => return Err(format!("`{path}`: {}", told(error))),
        }
    }
    Ok(())
}

/// An error with its causes: the archive's reader says what it did, and only its cause says "no space left".
fn told(error: io::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The stream for a reader on a thread of its own.
struct Chunks {
    receiver: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let size = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..size]);
        Ok(size)
    }
}

const SIZE_MAX: u64 = 8 << 30;
const COUNT_MAX: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> ByteStream {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        let bytes: Bytes = builder.into_inner().unwrap().into();
        Box::pin(futures_util::stream::iter([Ok(bytes)]))
    }

    fn header(kind: EntryType, name: &[u8], link: &[u8], size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        // Written by hand: the builder itself refuses such names.
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header
    }

    async fn refused(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("t");
        std::fs::create_dir(&target).unwrap();
        let error = unpack(stream(build), &target).await.unwrap_err();
        let outside: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(outside, ["t"], "something came out");
        error.to_string()
    }

    #[tokio::test]
    async fn nothing_leaves_the_directory() {
        let dots = refused(|tar| tar.append(&header(EntryType::Regular, b"../x", b"", 1), &b"x"[..]).unwrap()).await;
        assert!(dots.contains("leads out"), "{dots}");
        refused(|tar| {
            tar.append(&header(EntryType::Symlink, b"out", b"..", 0), io::empty()).unwrap();
            tar.append(&header(EntryType::Regular, b"out/x", b"", 1), &b"x"[..]).unwrap();
        })
        .await;
        for kind in [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::Link] {
            refused(|tar| tar.append(&header(kind, b"x", b"/etc/passwd", 0), io::empty()).unwrap()).await;
        }
        let cause = refused(|tar| {
            tar.append(&header(EntryType::Regular, b"x", b"", 1), &b"x"[..]).unwrap();
            tar.append(&header(EntryType::Regular, b"x/y", b"", 1), &b"x"[..]).unwrap();
        })
        .await;
        assert!(cause.contains("os error"), "{cause}");
    }

    #[tokio::test]
    async fn a_source_that_fails_is_an_error_though_all_files_came() {
        let dir = tempfile::tempdir().unwrap();
        let whole = stream(|tar| tar.append(&header(EntryType::Regular, b"a", b"", 1), &b"x"[..]).unwrap());
        let failing = whole.chain(futures_util::stream::iter([Err(io::Error::other("git failed"))]));
        let error = unpack(Box::pin(failing), dir.path()).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Source(_)), "{error}");
    }
}
