use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use http::StatusCode;
use tempfile::TempDir;

use super::*;
use crate::edge::cache::memory::tests::{key, key_of, stored_head};

const LIMIT: u64 = 64 << 20;
const LONG: Duration = Duration::from_secs(30);

fn stored(body: impl Into<Bytes>) -> Arc<Stored> {
    Arc::new(Stored::new(stored_head(Variant::default()), Body::Here(body.into())))
}

/// A tier that is opened anew as often as one likes.
struct Tier(TempDir, u64);

impl Tier {
    fn new(limit: u64) -> Self {
        Self(tempfile::tempdir().unwrap(), limit)
    }

    fn opened(&self) -> Disk {
        Disk::open(self.0.path(), self.1).unwrap()
    }

    /// What is written by `work`, and on disk when this returns.
    fn written(&self, work: impl FnOnce(&Disk)) {
        let disk = self.opened();
        work(&disk);
        disk.close(LONG);
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.0.path().join("objects")).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.filter(|path| path.extension().unwrap() == "seg").collect();
        files.sort();
        files
    }
}

fn until_written(disk: &Disk) {
    let until = Instant::now() + LONG;
    while disk.shelves.queued.load(Ordering::Relaxed) > 0 && Instant::now() < until {
        std::thread::yield_now();
    }
}

/// The body of what is found, read whole.
fn attempt(disk: &Disk, target: &str) -> Option<io::Result<Vec<u8>>> {
    match disk.find(&key(target), |_| true, Reading::Patient) {
        Found::Response(loaded) => Some(match loaded.body {
            Body::Here(bytes) => Ok(bytes.into()),
            body => body.kept().map(|kept| read(kept, 0..kept.len())).expect("it lies in one piece"),
        }),
        Found::Nothing => None,
        Found::Away(_) => panic!("whoever waits is told"),
    }
}

fn body(disk: &Disk, target: &str) -> Option<Vec<u8>> {
    attempt(disk, target).map(Result::unwrap)
}

fn read(kept: &Kept, range: Range<u64>) -> io::Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut part, mut bytes) = (kept.slice(range), Vec::new());
    while part.len() > 0 {
        bytes.extend_from_slice(&runtime.block_on(part.next())?);
    }
    Ok(bytes)
}

fn long(length: usize) -> Vec<u8> {
    (0..length).map(|number| (number / 7) as u8).collect()
}

#[test]
fn what_was_stored_is_there_after_a_restart() {
    let tier = Tier::new(LIMIT);
    tier.written(|disk| {
        disk.store(&key("/a"), &stored("first"), 3);
        disk.store(&key("/b"), &stored(long(1 << 20)), 0);
        disk.store(&key("/a"), &stored("second"), 4);
        disk.store(&key("/empty"), &stored(""), 0);
    });
    let disk = tier.opened();
    assert_eq!((body(&disk, "/a").unwrap(), body(&disk, "/empty").unwrap()), (b"second".to_vec(), Vec::new()));
    assert_eq!((body(&disk, "/b").unwrap(), body(&disk, "/c")), (long(1 << 20), None));
    let Found::Response(found) = disk.find(&key("/a"), |_| true, Reading::Patient) else { panic!() };
    assert_eq!((found.head.purges, found.head.status), (4, StatusCode::OK));
    assert!(found.head.freshness.age < LONG);
}

#[test]
fn what_was_removed_does_not_come_back() {
    let tier = Tier::new(LIMIT);
    tier.written(|disk| {
        disk.store(&key("/a"), &stored("a"), 0);
        disk.store(&key("/b"), &stored("b"), 0);
        // Whether it is written by now or not.
        disk.remove(&key("/a"));
    });
    let disk = tier.opened();
    assert_eq!((body(&disk, "/a"), body(&disk, "/b")), (None, Some(b"b".to_vec())));
    disk.remove(&key("/b"));
    assert_eq!(body(&disk, "/b"), None);
    disk.close(LONG);
    let disk = tier.opened();
    assert_eq!((body(&disk, "/b"), disk.shelves.index.len()), (None, 0));
    disk.store(&key("/b"), &stored("again"), 0);
    disk.close(LONG);
    assert_eq!(body(&tier.opened(), "/b").unwrap(), b"again");
}

#[test]
fn whatever_becomes_of_the_files_nothing_torn_is_shown() {
    let tier = Tier::new(LIMIT);
    let bodies = [long(3000), long(300 << 10)];
    tier.written(|disk| {
        disk.store(&key("/small"), &stored(bodies[0].clone()), 0);
        disk.store(&key("/large"), &stored(bodies[1].clone()), 0);
    });
    let [file] = &tier.files()[..] else { panic!() };
    let whole = fs::read(file).unwrap();
    let is_sound = |bytes: &[u8]| {
        fs::write(file, bytes).unwrap();
        let disk = tier.opened();
        let found = ["/small", "/large"].map(|target| attempt(&disk, target));
        disk.close(LONG);
        found.into_iter().zip(&bodies).all(|(found, body)| match found {
            Some(Ok(found)) => found == *body,
            Some(Err(_)) | None => true,
        })
    };
    assert!(is_sound(&whole));
    for at in (0..whole.len()).step_by(9_701).chain(whole.len() - 100..whole.len()).chain(0..80) {
        assert!(is_sound(&whole[..at]), "cut off at {at}");
        // The segment's own first bytes decide whether it is one at all.
        if at >= 16 {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            assert!(is_sound(&bytes), "byte {at}");
        }
    }
}

#[test]
fn what_is_oldest_makes_room_unless_it_was_asked_for() {
    let tier = Tier::new(2 << 20);
    let disk = Arc::new(tier.opened());
    disk.store(&key("/wanted"), &stored("wanted"), 0);
    let stream = disk.begin(&key("/parts"), &stored(""), 0, 8 << 20).unwrap();
    assert!(stream.add(long(20 << 10).into()));
    stream.end();
    for number in 0..1000 {
        disk.store(&key(&format!("/{number}")), &stored(long(20 << 10)), 0);
        until_written(&disk);
        assert!(disk.bytes() <= 2 << 20, "{}", disk.bytes());
        // It may be on its way to its new place.
        body(&disk, "/wanted");
        body(&disk, "/parts");
    }
    assert!(body(&disk, "/0").is_none() && body(&disk, "/999").is_some());
    disk.close(LONG);
    let lengths = tier.files().into_iter().map(|file| fs::metadata(file).unwrap().len());
    assert!(lengths.sum::<u64>() <= 2 << 20);
    let disk = tier.opened();
    assert_eq!((body(&disk, "/wanted").unwrap(), body(&disk, "/999").unwrap()), (b"wanted".to_vec(), long(20 << 10)));
    assert_eq!(body(&disk, "/parts").unwrap(), long(20 << 10));
    assert!(disk.shelves.index.len() >= 40, "{} of about 100", disk.shelves.index.len());
}

#[test]
fn what_is_of_a_guarded_share_outlives_what_others_store() {
    let tier = Tier::new(8 << 20);
    let store = |disk: &Disk, project, numbers: Range<u32>| {
        for number in numbers {
            disk.store(&key_of(project, &format!("/{number}")), &stored(long(20 << 10)), 0);
            until_written(disk);
        }
    };
    let left = |disk: &Disk, project, count| {
        let is_there = |number: &u32| {
            let key = key_of(project, &format!("/{number}"));
            matches!(disk.find(&key, |_| true, Reading::Patient), Found::Response(_))
        };
        (0..count).filter(is_there).count()
    };
    // Half in three shares: about 65 responses for each. The first has fewer, the second more.
    tier.written(|disk| store(disk, "quiet", 0..50));
    tier.written(|disk| store(disk, "middle", 0..150));
    tier.written(|disk| store(disk, "loud", 0..1000));
    tier.written(|disk| {
        store(disk, "loud", 1000..2000);
        assert!(disk.bytes() <= 8 << 20, "{}", disk.bytes());
        assert_eq!(left(disk, "quiet", 50), 50);
        let middle = left(disk, "middle", 150);
        assert!((50..90).contains(&middle), "{middle} of what was more than its share");
        assert!(left(disk, "loud", 2000) > 100);
    });
}

#[test]
fn what_is_too_large_for_the_whole_is_not_stored_and_takes_nothing_away() {
    let tier = Tier::new(2 << 20);
    let disk = tier.opened();
    disk.store(&key("/a"), &stored("a"), 0);
    disk.store(&key("/a"), &stored(long(1 << 20)), 0);
    disk.store(&key("/b"), &stored("b"), 0);
    disk.close(LONG);
    let disk = tier.opened();
    assert_eq!((body(&disk, "/a"), body(&disk, "/b")), (None, Some(b"b".to_vec())), "nor is the older one shown");
}

#[test]
fn a_body_that_comes_in_parts_is_there_once_it_has_come_whole() {
    let tier = Tier::new(LIMIT);
    let whole = long(3 << 20);
    let begin = |disk: &Arc<Disk>, target| {
        let stream = disk.begin(&key(target), &stored(""), 0, 8 << 20).unwrap();
        whole.chunks(100_000).for_each(|part| assert!(stream.add(Bytes::copy_from_slice(part))));
        stream
    };
    let disk = Arc::new(tier.opened());
    let [kept, torn, removed, replaced] =
        ["/kept", "/torn", "/removed", "/replaced"].map(|target| begin(&disk, target));
    assert_eq!(body(&disk, "/kept"), None);
    drop(torn);
    disk.remove(&key("/removed"));
    disk.store(&key("/replaced"), &stored("newer"), 0);
    [kept, removed, replaced].into_iter().for_each(Stream::end);
    let left = begin(&disk, "/left");
    disk.close(LONG);
    drop(left);
    for disk in [disk, Arc::new(tier.opened())] {
        assert_eq!(body(&disk, "/kept").unwrap(), whole);
        assert_eq!(body(&disk, "/replaced").unwrap(), b"newer");
        assert!(["/torn", "/removed", "/left"].iter().all(|target| body(&disk, target).is_none()));
    }
    assert_eq!(tier.files().len(), 2, "of what is not there nothing is left");
}

#[test]
fn a_part_is_read_without_the_rest() {
    let tier = Tier::new(LIMIT);
    let whole = long(5 << 20);
    tier.written(|disk| disk.store(&key("/"), &stored(whole.clone()), 0));
    let disk = tier.opened();
    let Found::Response(found) = disk.find(&key("/"), |_| true, Reading::Patient) else { panic!() };
    let kept = found.body.kept().expect("too long to be read at once");
    for range in [0..1, 70_000..70_001, 65_535..65_537, 1_000_000..3_000_000, (5 << 20) - 1..5 << 20] {
        assert_eq!(read(kept, range.clone()).unwrap(), whole[range.start as usize..range.end as usize], "{range:?}");
    }
}
