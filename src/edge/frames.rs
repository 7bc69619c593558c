//! What an HTTP/2 client may do for nothing: frames that bring no request and no body, counted on the bytes as they pass.
//!
//! Used by `watched`. The h2 library bounds CONTINUATION, empty and small DATA, streams reset before they were taken, and
//! resets of its own. PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM and unknown frames it takes without end. The rule:
//! pure, and no clock of its own.

use std::time::{Duration, Instant};

/// What a client says before its first frame (RFC 9113 section 3.4), in bytes.
const PREFACE: usize = 24;
/// The head of a frame (RFC 9113 section 4.1), in bytes.
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;

/// Points that a connection has at first, and never more than. A browser that leaves a page with 100 requests open spends
/// half of them at once.
const BURST: u32 = 1000;
/// The time in which one comes back.
const POINT: Duration = Duration::from_millis(10);
/// Bytes sent to the client that earn one: whoever is sent much acknowledges much, and measures it by PINGs.
const EARNING: usize = 512;

/// What some bytes brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Brought {
    /// HEADERS frames that began.
    pub requests: u32,
    /// The price of all frames.
    pub points: u32,
}

/// Finds the heads of frames in a stream of bytes.
#[derive(Debug)]
pub struct Frames {
    head: [u8; HEAD],
    /// Bytes of the head that are there.
    have: usize,
    /// Bytes before the next head.
    skip: usize,
}

impl Frames {
    pub fn new() -> Self {
        Self { head: [0; HEAD], have: 0, skip: PREFACE }
    }

    /// What these bytes bring, whatever they are cut into: a frame counts where its head ends.
    pub fn pass(&mut self, mut bytes: &[u8]) -> Brought {
        let mut brought = Brought::default();
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return brought;
            }
            let part = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + part].copy_from_slice(&bytes[..part]);
            self.have += part;
            bytes = &bytes[part..];
            if self.have == HEAD {
                let [long, length @ .., kind, flags, _, _, _, _] = self.head;
                self.have = 0;
                self.skip = usize::from(long) << 16 | usize::from(u16::from_be_bytes(length));
                brought.requests += u32::from(kind == HEADERS);
                brought.points = brought.points.saturating_add(points(kind, flags, self.skip));
            }
        }
    }
}

/// What a frame costs. Requests and bodies are free: they have limits of their own.
fn points(kind: u8, flags: u8, length: usize) -> u32 {
    match kind {
        HEADERS => 0,
        // Padding counts as a body for the length alone; who pads brings little else.
        DATA if flags & PADDED == 0 && (length > 0 || flags & END_STREAM != 0) => 0,
        // A request that was begun for nothing.
        RST_STREAM => 5,
        // Each may change the window of every stream.
        SETTINGS => 10,
        _ => 1,
    }
}

/// The points that are left to a connection.
#[derive(Debug)]
pub struct Budget {
    points: u32,
    /// Bytes sent that have not earned a point yet.
    sent: usize,
    /// When points came back last.
    at: Instant,
}

impl Budget {
    pub fn new(now: Instant) -> Self {
        Self { points: BURST, sent: 0, at: now }
    }

    /// Takes the cost; false when there is not enough left.
    pub fn spend(&mut self, cost: u32, now: Instant) -> bool {
        let back = now.saturating_duration_since(self.at).as_millis() / POINT.as_millis();
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        self.add(back);
        self.at += POINT * back;
        match self.points.checked_sub(cost) {
            Some(left) => self.points = left,
            None => return false,
        }
        true
    }

    /// Bytes have been sent to the client.
    pub fn earn(&mut self, sent: usize) {
        self.sent += sent;
        self.add(u32::try_from(self.sent / EARNING).unwrap_or(BURST));
        self.sent %= EARNING;
    }

    fn add(&mut self, points: u32) {
        self.points = self.points.saturating_add(points).min(BURST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = (payload as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], &vec![0; payload]].concat()
    }

    #[test]
    fn frames_are_found_however_the_bytes_are_cut() {
        let frames = [frame(4, 0, 6), frame(1, 4, 70_000), frame(3, 0, 4), frame(6, 0, 8), frame(0, 0, 0)];
        let bytes = [vec![b'P'; PREFACE], frames.concat()].concat();
        for size in [1, 2, 7, 8, 9, 10, 100, 4096, bytes.len()] {
            let mut frames = Frames::new();
            let brought: Vec<Brought> = bytes.chunks(size).map(|part| frames.pass(part)).collect();
            assert_eq!(brought.iter().map(|part| part.points).sum::<u32>(), 10 + 5 + 1 + 1, "in parts of {size}");
            assert_eq!(brought.iter().map(|part| part.requests).sum::<u32>(), 1, "in parts of {size}");
        }
    }

    #[test]
    fn what_brings_something_is_free() {
        for (kind, flags, length) in [(1, 5, 100), (0, 0, 1), (0, 1, 0), (0, 1, 16_384)] {
            assert_eq!(points(kind, flags, length), 0, "{kind} {flags} {length}");
        }
        for (kind, flags, length) in [(0, 0, 0), (0, 8, 200), (2, 0, 5), (6, 1, 8), (8, 0, 4), (9, 0, 0), (16, 0, 9)] {
            assert_eq!(points(kind, flags, length), 1, "{kind} {flags} {length}");
        }
    }

    #[test]
    fn points_come_back_with_time_and_with_what_is_sent() {
        let began = Instant::now();
        let after = |milliseconds| began + Duration::from_millis(milliseconds);
        let mut budget = Budget::new(began);
        assert!(budget.spend(BURST, began) && !budget.spend(1, after(9)));
        assert!(budget.spend(1, after(10)) && !budget.spend(1, after(10)));
        assert!(budget.spend(100, after(1010)) && !budget.spend(1, after(1010)));
        budget.earn(EARNING - 1);
        assert!(!budget.spend(1, after(1010)));
        budget.earn(1);
        assert!(budget.spend(1, after(1010)) && !budget.spend(1, after(1010)));
        assert!(!budget.spend(BURST + 1, after(3_600_000)), "it never grows beyond a burst");
    }

    /// A client that asks little more often than points come back has them back all the same.
    #[test]
    fn many_small_waits_add_up() {
        let began = Instant::now();
        let mut budget = Budget::new(began);
        assert!(budget.spend(BURST, began));
        let free = (1..=1000).filter(|n| budget.spend(1, began + Duration::from_millis(n * 3))).count();
        assert!((290..=300).contains(&free), "{free} in three seconds");
    }
}
