//! The time as answers say it, written once a second.
//!
//! Each worker has one. The rule: every answer of the edge carries the time at which it left, whatever way it took; pingora
//! does so by itself over HTTP/1 (0.9.1) and cannot be told otherwise.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// As in `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7).
pub type Date = [u8; 29];

#[derive(Debug)]
pub struct Clock(Mutex<(u64, Date)>);

impl Clock {
    pub fn new() -> Self {
        Self(Mutex::new((0, written(0))))
    }

    pub fn date(&self) -> Date {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != now {
            *last = (now, written(now));
        }
        last.1
    }
}

fn written(seconds: u64) -> Date {
    let text = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
    let mut date = [b' '; 29];
    for (to, from) in date.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    date
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_written_as_http_wants_it() {
        assert_eq!(&written(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        let date = Clock::new().date();
        assert!(httpdate::parse_http_date(std::str::from_utf8(&date).unwrap()).is_ok());
    }
}
