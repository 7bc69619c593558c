//! The time as records carry it: it goes on over restarts, and is not moved by whoever sets the clock.
//!
//! Made by `directory`, read by `disk`. Within one boot it is counted by the kernel from a moment that is written down once;
//! over a boot only the wall clock is left, and `directory` judges whether that went back. The rule: what carries a time
//! that has not come yet is older than anything.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Between two times that cannot be compared: nothing is fresh for so long.
const FOREVER: Duration = Duration::from_secs(1 << 40);

/// Milliseconds since 1970, more or less.
pub type Time = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// When the machine was started.
    pub booted: Time,
}

impl Clock {
    /// By the wall clock as it is now.
    pub fn set() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { booted: millis(wall).saturating_sub(up()) }
    }

    pub fn now(&self) -> Time {
        self.booted + up()
    }

    /// How long ago that was.
    pub fn since(&self, time: Time) -> Duration {
        self.now().checked_sub(time).map_or(FOREVER, Duration::from_millis)
    }
}

/// For how long the machine has been up, asleep or not.
fn up() -> u64 {
    let up = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) =
        (u64::try_from(up.tv_sec).unwrap_or_default(), u64::try_from(up.tv_nsec).unwrap_or_default());
    seconds * 1000 + nanos / 1_000_000
}

pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_has_not_come_yet_is_long_ago() {
        let clock = Clock::set();
        let now = clock.now();
        assert!(clock.since(now) < Duration::from_secs(60) && clock.since(now - 5000) >= Duration::from_secs(5));
        assert_eq!(clock.since(now + 60_000), FOREVER);
    }
}
