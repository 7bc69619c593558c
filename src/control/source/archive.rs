//! A commit as a stream of tar bytes, straight from git's pipe.
//!
//! Made by `source`, read by a runtime's build. The rule: a reader never takes half an archive for a whole one, since
//! git's failure and its deadline arrive as the stream's last item, and dropping the stream ends git.

use std::ffi::OsString;
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::SourceError;
use super::git::Git;
use super::step::last_words;
use crate::control::child::Group;
use crate::model::name::Commit;

/// The bytes of a tar file.
pub type Archive = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// Starts git on the commit, which must be in the mirror.
pub fn start(git: Git, commit: &Commit) -> Result<Archive, SourceError> {
    let arguments = ["archive", "--format=tar", commit.as_str()].map(OsString::from);
    let mut command = git.command(&arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let group = Group::spawn(command).map_err(SourceError::NoGit)?;
    let (sender, mut receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let end = tokio::select! {
            end = pump(group, &sender) => end,
            () = tokio::time::sleep(LIMIT) => Err(io::Error::other("git archive took too long and was stopped")),
            () = sender.closed() => return,
        };
        if let Err(error) = end {
            // A reader that has gone needs no reason.
            let _ = sender.send(Err(error)).await;
        }
    });
    Ok(Box::pin(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context))))
}

async fn pump(mut group: Group, sender: &mpsc::Sender<io::Result<Bytes>>) -> io::Result<()> {
    let (stdout, stderr) = (group.child().stdout.take(), group.child().stderr.take());
    let (Some(mut stdout), Some(stderr)) = (stdout, stderr) else {
        return Err(io::Error::other("git archive has no output"));
    };
    let reading = async {
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            if stdout.read_buf(&mut chunk).await? == 0 || sender.send(Ok(chunk.freeze())).await.is_err() {
                return io::Result::Ok(());
            }
        }
    };
    let (read, why, status) = tokio::join!(reading, last_words(stderr, 4096), group.wait());
    read?;
    match status?.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!("git archive failed: {why}"))),
    }
}

const CHUNK: usize = 64 << 10;

/// Covers the reader's own time too: a build that takes the archive in slowly is given up in the end.
const LIMIT: Duration = Duration::from_secs(15 * 60);
