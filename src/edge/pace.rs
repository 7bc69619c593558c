//! Whether a client is quick enough with what is waited for: a body that it sends, or an answer that it takes.
//!
//! Used by `patience`, and by `gateway` for bodies over HTTP/2. The rule: pure, and only the time in which nothing is missing
//! but the client counts, so that an app may be as slow as it likes.

use std::time::{Duration, Instant};

/// What a client may let us wait at first, whatever it brings.
const GRACE: Duration = Duration::from_secs(10);
/// What it can save up by being quicker: one that was quick may have a moment without reception, and not an hour.
const SAVED: Duration = Duration::from_secs(60);

/// The time that a client has left.
#[derive(Debug)]
pub struct Pace {
    /// Bytes a second; 0 for any.
    rate: u64,
    left: Duration,
    /// Since when it is waited for.
    since: Option<Instant>,
}

impl Pace {
    pub fn new(rate: u64) -> Self {
        Self { rate, left: GRACE, since: None }
    }

    /// From now on nothing is missing but the client; how long that may be, if it was not so before.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        match self.since {
            Some(_) => None,
            None => {
                self.since = Some(now);
                Some(if self.rate > 0 { self.left } else { Duration::MAX })
            }
        }
    }

    /// The client moved so many bytes, and is not waited for any more.
    pub fn moved(&mut self, bytes: usize, now: Instant) {
        let waited = self.since.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let earned = bytes.saturating_mul(1_000_000).checked_div(self.rate).map_or(SAVED, Duration::from_micros);
        self.left = (self.left.saturating_sub(waited) + earned.min(SAVED)).min(SAVED);
    }

    pub fn is_too_slow(&self, now: Instant) -> bool {
        let waited = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        self.rate > 0 && self.since.is_some() && waited >= self.left
    }
}

/// A wait that is followed by so much was none for the client, in bytes: it had more than it could send, and whoever reads
/// it was not there. One whole frame of HTTP/2.
const WAITING: usize = 16_000;
/// Parts that come within so little came together.
const TOGETHER: Duration = Duration::from_millis(50);

/// The pace of a body of which nothing is seen but its parts, when somebody takes them.
#[derive(Debug)]
pub struct Arrivals {
    pace: Pace,
    /// When the last part came.
    last: Instant,
    /// The wait before those that came together last, and how many bytes they are.
    wait: Duration,
    together: usize,
}

impl Arrivals {
    pub fn new(rate: u64, now: Instant) -> Self {
        Self { pace: Pace::new(rate), last: now, wait: Duration::ZERO, together: 0 }
    }

    /// A part came; whether the body is quick enough.
    pub fn come(&mut self, bytes: usize, now: Instant) -> bool {
        let wait = now.saturating_duration_since(self.last);
        self.last = now;
        if wait <= TOGETHER {
            self.together += bytes;
            return true;
        }
        let (before, came) = (std::mem::replace(&mut self.wait, wait), std::mem::replace(&mut self.together, bytes));
        if came >= WAITING {
            self.pace.moved(came, now);
            return true;
        }
        self.pace.wait(now.checked_sub(before).unwrap_or(now));
        let is_quick_enough = !self.pace.is_too_slow(now);
        self.pace.moved(came, now);
        is_quick_enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that moves `bytes` after each wait of `milliseconds`: when it was found too slow, within an hour.
    fn cut(rate: u64, bytes: usize, milliseconds: u64) -> Option<Duration> {
        let began = Instant::now();
        let mut pace = Pace::new(rate);
        let mut now = began;
        while now - began < Duration::from_secs(3600) {
            pace.wait(now);
            now += Duration::from_millis(milliseconds);
            if pace.is_too_slow(now) {
                return Some(now - began);
            }
            pace.moved(bytes, now);
        }
        None
    }

    #[test]
    fn the_average_counts_and_not_the_single_wait() {
        assert_eq!(cut(1024, 1, 500), Some(Duration::from_millis(10_500)), "a trickle");
        assert_eq!(cut(1024, 1000, 1000), Some(Duration::from_secs(385)), "a little too slow");
        assert_eq!(cut(1024, 1024, 1000), None, "just quick enough");
        assert_eq!(cut(1024, 10_000, 9_000), None, "in lumps");
        assert_eq!(cut(1024, 0, 20_000), Some(Duration::from_secs(20)), "nothing at all");
        assert_eq!(cut(0, 1, 60_000), None, "any rate will do");
    }

    #[test]
    fn time_in_which_nobody_waits_for_the_client_is_free() {
        let mut now = Instant::now();
        let mut pace = Pace::new(1024);
        for _ in 0..1000 {
            pace.wait(now);
            now += Duration::from_millis(1);
            pace.moved(2, now);
            assert!(!pace.is_too_slow(now));
            // The app takes its time.
            now += Duration::from_secs(100);
        }
    }

    #[test]
    fn what_is_saved_ends() {
        let began = Instant::now();
        let mut pace = Pace::new(1024);
        pace.moved(usize::MAX, began);
        assert_eq!(pace.wait(began), Some(SAVED));
        assert_eq!(pace.wait(began + Duration::from_secs(30)), None, "one wait, however often it is looked at");
        assert!(!pace.is_too_slow(began + SAVED - Duration::from_millis(1)) && pace.is_too_slow(began + SAVED));
    }

    /// A body that comes in parts of these sizes, one after each of these waits in seconds, again and again: when it was found
    /// too slow, within an hour.
    fn refused(parts: &[(u64, usize)]) -> Option<u64> {
        let began = Instant::now();
        let mut arrivals = Arrivals::new(1024, began);
        let mut seconds = 0;
        for (wait, bytes) in parts.iter().cycle() {
            seconds += wait;
            if seconds > 3600 {
                return None;
            }
            if !arrivals.come(*bytes, began + Duration::from_secs(seconds)) {
                return Some(seconds);
            }
        }
        None
    }

    #[test]
    fn a_body_of_which_only_parts_are_seen_has_its_pace_too() {
        assert_eq!(refused(&[(5, 1)]), Some(20), "a trickle, a part late");
        assert_eq!(refused(&[(5, 1), (0, 1)]), Some(20), "of two drops at once");
        assert_eq!(refused(&[(1, 2000)]), None);
        assert_eq!(refused(&[(10, 16_384)]), None, "in lumps");
        assert_eq!(refused(&[(300, 16_384), (0, 16_384), (0, 16_384)]), None, "an app that takes its time");
    }
}
