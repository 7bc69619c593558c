//! Watches the conf directory, and says when the content of its files has changed.
//!
//! Used by control. The rule it keeps: events only wake it; what counts is the content, hashed after the directory has
//! been still for a moment, so that an editor's way of saving, a checkout or a touched file is one change or none.
//! Directories are watched, not files: editors rename over them. Where the kernel gives no events (NFS, overlays, no
//! watches left) the content is looked at every half minute all the same.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::files;

/// Watches the conf directory `dir`. The receiver sees a new number when the content of a file has changed since this
/// was called: call it before the conf is loaded. The watch ends when the last receiver is dropped.
pub async fn watch(dir: PathBuf) -> watch::Receiver<u64> {
    let (wake, woken) = mpsc::channel(1);
    let open = move || {
        let mut eyes = Eyes::open(dir, wake);
        let seen = eyes.look();
        (eyes, seen)
    };
    match spawn_blocking(open).await {
        Ok((eyes, seen)) => {
            let (sender, receiver) = watch::channel(seen);
            tokio::spawn(follow(eyes, woken, sender));
            receiver
        }
        // The runtime is ending, and the receiver says so.
        Err(_) => watch::channel(0).1,
    }
}

async fn follow(mut eyes: Eyes, mut woken: mpsc::Receiver<()>, sender: watch::Sender<u64>) {
    loop {
        tokio::select! {
            () = sender.closed() => return,
            Some(()) = woken.recv() => settle(&mut woken).await,
            () = sleep(GLANCE) => {}
        }
        let look = move || {
            let seen = eyes.look();
            (eyes, seen)
        };
        let Ok((back, seen)) = spawn_blocking(look).await else { return };
        eyes = back;
        sender.send_if_modified(|before| std::mem::replace(before, seen) != seen);
    }
}

/// Waits until nothing has happened for a moment.
async fn settle(woken: &mut mpsc::Receiver<()>) {
    let latest = Instant::now() + PATIENCE;
    while Instant::now() < latest && matches!(timeout(STILL, woken.recv()).await, Ok(Some(()))) {}
}

/// The watcher with what it watches. Its methods block.
struct Eyes {
    dir: PathBuf,
    watcher: Option<RecommendedWatcher>,
    watched: HashMap<PathBuf, Identity>,
}

/// Device, inode and birth: tells a directory from another that was made in its place.
type Identity = (u64, u64, Option<SystemTime>);

impl Eyes {
    fn open(dir: PathBuf, wake: mpsc::Sender<()>) -> Self {
        let on_event = move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, is_a_change) {
                // A full queue has woken us already.
                let _ = wake.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(on_event)
            .inspect_err(|error| tracing::warn!(%error, "conf cannot be watched: looking at it every {GLANCE:?}"));
        Self { dir, watcher: watcher.ok(), watched: HashMap::new() }
    }

    /// Watches what is there by now, then hashes all files.
    fn look(&mut self) -> u64 {
        for path in [self.dir.clone(), files::projects_dir(&self.dir)] {
            self.watch_directory(path);
        }
        files::fingerprint(&self.dir)
    }

    fn watch_directory(&mut self, path: PathBuf) {
        let Some(watcher) = &mut self.watcher else { return };
        let identity = identity(&path);
        if self.watched.get(&path) == identity.as_ref() {
            return;
        }
        if self.watched.remove(&path).is_some() {
            // The kernel drops the watch of a directory that is gone by itself.
            let _ = watcher.unwatch(&path);
        }
        let Some(identity) = identity else { return };
        match watcher.watch(&path, RecursiveMode::NonRecursive) {
            Ok(()) => drop(self.watched.insert(path, identity)),
            Err(error) => tracing::debug!(%error, path = %path.display(), "a directory of conf cannot be watched"),
        }
    }
}

/// Our own reading of the files makes events as well, which must not wake us.
fn is_a_change(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.created().ok()))
}

/// How long the directory must be still before it is read.
const STILL: Duration = Duration::from_millis(300);
/// How long to wait for that at most.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often to look without being woken.
const GLANCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    async fn changes(receiver: &mut watch::Receiver<u64>) -> bool {
        timeout(Duration::from_secs(10), receiver.changed()).await.is_ok_and(|changed| changed.is_ok())
    }

    #[tokio::test]
    async fn new_content_is_told_wherever_it_appears() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("prime.toml"), "a = 1").unwrap();
        let mut receiver = watch(home.path().to_owned()).await;
        fs::write(home.path().join("prime.toml"), "a = 2").unwrap();
        assert!(changes(&mut receiver).await, "a file in place");
        fs::write(home.path().join("new"), "a = 3").unwrap();
        fs::rename(home.path().join("new"), home.path().join("prime.toml")).unwrap();
        assert!(changes(&mut receiver).await, "a file renamed over");
        let projects = home.path().join("projects");
        for round in ["a directory that was not there", "a directory made anew"] {
            fs::create_dir(&projects).unwrap();
            fs::write(projects.join("a.toml"), round).unwrap();
            assert!(changes(&mut receiver).await, "{round}");
            fs::write(projects.join("b.toml"), round).unwrap();
            assert!(changes(&mut receiver).await, "a second file in {round}");
            fs::remove_dir_all(&projects).unwrap();
            assert!(changes(&mut receiver).await, "{round}, removed");
        }
    }

    #[tokio::test]
    async fn the_same_content_is_no_change_and_a_dropped_receiver_ends_the_watch() {
        let home = tempfile::tempdir().unwrap();
        let (wake, woken) = mpsc::channel(1);
        let mut eyes = Eyes::open(home.path().to_owned(), wake.clone());
        let (sender, mut receiver) = watch::channel(eyes.look());
        let following = tokio::spawn(follow(eyes, woken, sender));
        wake.send(()).await.unwrap();
        wake.send(()).await.unwrap();
        assert!(timeout(STILL * 3, receiver.changed()).await.is_err());
        drop(receiver);
        timeout(Duration::from_secs(10), following).await.unwrap().unwrap();
    }

    #[test]
    fn reading_is_not_a_change() {
        let event = |kind| Event { kind, ..Event::default() };
        assert!(!is_a_change(&event(EventKind::Access(AccessKind::Open(AccessMode::Any)))));
        assert!(is_a_change(&event(EventKind::Access(AccessKind::Close(AccessMode::Write)))));
        assert!(is_a_change(&event(EventKind::Any)));
    }
}
