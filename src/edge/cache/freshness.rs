//! How long a response is fresh, how old it was when it came, and for whom that is good enough.
//!
//! Pure. Reckoned by `policy` when a response comes, asked by `cache` at every hit. The rule: a time that cannot be read has
//! passed, and an age is never taken for less than it was (RFC 9111 section 4.2).

use std::time::{Duration, SystemTime};

use super::control::{self, Control};
use super::reason::Reason;
use super::wish::Wish;
use crate::edge::field::Fields;

/// What is taken for fresh of the time for which a response has not changed, and at most (RFC 9111 section 4.2.2).
const HEURISTIC: u64 = 10;
const HEURISTIC_MAX: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    pub lifetime: Duration,
    /// When it came.
    pub age: Duration,
    /// For how long after its lifetime it may still be used while a newer one is fetched, or when there is none (RFC 5861).
    pub while_revalidate: Duration,
    pub if_error: Duration,
    /// Whether it answers nobody before the app has been asked.
    pub is_always_asked: bool,
    /// Whether it answers nobody once it is stale, whatever the request allows.
    pub is_strict: bool,
    /// Whether it answers requests with credentials.
    pub is_for_everybody: bool,
    /// Whether nobody has said that it is fresh for a time, or everybody's: then it answers no request with a cookie, which
    /// may have an answer of its own.
    pub is_doubtful: bool,
}

impl Freshness {
    /// Whether a response of this age answers a request: for how many seconds it is still fresh, else why it does not.
    pub fn answers(&self, wish: &Wish, age: Duration) -> Result<i64, Reason> {
        if wish.is_authorized && !self.is_for_everybody {
            return Err(Reason::Credentials);
        }
        if wish.has_cookie && self.is_doubtful {
            return Err(Reason::Cookie);
        }
        let is_stale = self.is_always_asked || age >= self.lifetime;
        if is_stale {
            let may_be = wish.takes_stored && !self.is_strict && !self.is_always_asked && wish.min_fresh.is_zero();
            let staleness = age.saturating_sub(self.lifetime);
            let is_taken = may_be && !wish.max_stale.is_zero() && staleness <= wish.max_stale && age <= wish.max_age;
            return if is_taken { Ok(self.ttl(age)) } else { Err(self.over()) };
        }
        match wish.takes_stored {
            false => Err(Reason::Unwanted),
            true if age > wish.max_age => Err(Reason::TooOld),
            true if self.lifetime - age < wish.min_fresh => Err(Reason::TooShort),
            true => Ok(self.ttl(age)),
        }
    }

    fn over(&self) -> Reason {
        if self.is_always_asked { Reason::AlwaysAsked } else { Reason::Stale }
    }

    /// Whether it is good for others than whoever asked for it.
    pub fn is_fresh(&self) -> bool {
        !self.is_always_asked && self.age < self.lifetime
    }

    /// Whether a stale one of this age answers a request, as long as a newer one is being fetched (RFC 5861 section 3).
    pub fn answers_meanwhile(&self, wish: &Wish, age: Duration) -> bool {
        let is_in_time = age.saturating_sub(self.lifetime) < self.while_revalidate;
        let is_taken = wish.takes_stored && wish.min_fresh.is_zero() && age <= wish.max_age;
        is_in_time && is_taken && !self.is_always_asked
    }

    /// Whether a stale one is better than no answer (RFC 5861 section 4).
    pub fn covers_errors(&self, age: Duration) -> bool {
        !self.if_error.is_zero() && age.saturating_sub(self.lifetime) <= self.if_error
    }

    /// For how many seconds it is still fresh; below zero once it is stale.
    pub fn ttl(&self, age: Duration) -> i64 {
        let whole = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        match self.lifetime.checked_sub(age) {
            Some(left) => whole(left),
            None => -whole(age - self.lifetime),
        }
    }
}

/// The same in little room. All but the age are whole seconds.
#[derive(Debug, Clone, Copy)]
pub struct Packed {
    age_ms: u64,
    lifetime: u32,
    while_revalidate: u32,
    if_error: u32,
    flags: u8,
}

impl Packed {
    pub fn of(freshness: Freshness) -> Self {
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let Freshness { lifetime, age, while_revalidate, if_error, .. } = freshness;
        let flags = [freshness.is_always_asked, freshness.is_strict, freshness.is_for_everybody, freshness.is_doubtful];
        Self {
            // Rounded up: never taken for less than it was.
            age_ms: u64::try_from(age.as_micros().div_ceil(1000)).unwrap_or(u64::MAX),
            lifetime: seconds(lifetime),
            while_revalidate: seconds(while_revalidate),
            if_error: seconds(if_error),
            flags: flags.iter().rev().fold(0, |all, flag| all << 1 | u8::from(*flag)),
        }
    }

    pub fn unpacked(self) -> Freshness {
        let seconds = |time: u32| Duration::from_secs(time.into());
        let flag = |number: u8| self.flags & (1 << number) != 0;
        Freshness {
            lifetime: seconds(self.lifetime),
            age: Duration::from_millis(self.age_ms),
            while_revalidate: seconds(self.while_revalidate),
            if_error: seconds(self.if_error),
            is_always_asked: flag(0),
            is_strict: flag(1),
            is_for_everybody: flag(2),
            is_doubtful: flag(3),
        }
    }
}

/// When a response came, and how long it was waited for.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub at: SystemTime,
    pub delay: Duration,
}

impl Arrival {
    /// When the response says that it was made; when it came, where it does not.
    pub fn date(&self, fields: Fields<'_>) -> SystemTime {
        date(fields, "date").unwrap_or(self.at)
    }

    /// How old it was when it came (RFC 9111 section 4.2.3).
    pub fn age(&self, fields: Fields<'_>) -> Duration {
        let apparent = self.at.duration_since(self.date(fields)).unwrap_or_default();
        let said = fields.first("age").and_then(first_age).unwrap_or_default();
        apparent.max(said + self.delay)
    }

    /// By `Expires`; `None` when it is not there.
    pub fn until_expiry(&self, fields: Fields<'_>) -> Option<Duration> {
        let made = self.date(fields);
        let until = |value: &[u8]| parse(value).and_then(|at| at.duration_since(made).ok()).unwrap_or_default();
        fields.all("expires").map(until).min()
    }

    /// By how long it has not changed; `None` when it does not say so.
    pub fn heuristic(&self, fields: Fields<'_>) -> Option<Duration> {
        let unchanged = self.date(fields).duration_since(date(fields, "last-modified")?).ok()?;
        Some(Duration::from_secs(unchanged.as_secs() / HEURISTIC).min(HEURISTIC_MAX))
    }
}

/// What the response says about it itself (RFC 9111 section 4.2.1). Who speaks to shared caches alone has the last word, and
/// then `Expires` counts for nothing.
pub fn explicit(control: &Control, is_targeted: bool, fields: Fields<'_>, arrival: &Arrival) -> Option<Duration> {
    let expires = || if is_targeted { None } else { arrival.until_expiry(fields) };
    control.s_maxage.or(control.max_age).or_else(expires)
}

/// The first of a list; one that is no number is none (RFC 9111 section 5.1).
fn first_age(value: &[u8]) -> Option<Duration> {
    control::seconds(value.split(|byte| *byte == b',').next()?.trim_ascii())
}

/// In every form that a date may have; one that is said twice is no date.
pub fn date(fields: Fields<'_>, field: &'static str) -> Option<SystemTime> {
    let mut values = fields.all(field);
    match (values.next(), values.next()) {
        (Some(value), None) => parse(value),
        _ => None,
    }
}

fn parse(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName};

    use super::*;

    pub const NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn arrival(delay: u64) -> Arrival {
        Arrival { at: httpdate::parse_http_date(NOW).unwrap(), delay: Duration::from_secs(delay) }
    }

    #[test]
    fn an_age_is_what_is_said_or_seen_whichever_is_more() {
        for (fields, age) in [
            (&[][..], 3),
            (&[("age", "15")], 18),
            (&[("age", " 15 ,20")], 18),
            (&[("age", "15"), ("age", "20")], 18),
            (&[("age", "x")], 3),
            (&[("age", "-5")], 3),
            (&[("age", "5.5")], 3),
            (&[("age", "")], 3),
            (&[("age", "99999999999999999999999999")], (1 << 31) + 3),
            (&[("date", "Sun, 06 Nov 1994 08:48:37 GMT")], 60),
            (&[("date", "Sunday, 06-Nov-94 08:48:37 GMT")], 60),
            (&[("date", "Sun Nov  6 08:48:37 1994")], 60),
            (&[("date", "Sun, 06 Nov 1994 09:48:37 GMT")], 3),
            (&[("date", "yesterday")], 3),
            (&[("date", "Sun, 06 Nov 1994 08:48:37 GMT"), ("age", "90")], 93),
        ] {
            assert_eq!(arrival(3).age(Fields::Map(&map(fields))).as_secs(), age, "{fields:?}");
        }
    }

    #[test]
    fn a_date_that_is_none_has_passed() {
        let until = |fields: &[(&'static str, &str)]| {
            arrival(0).until_expiry(Fields::Map(&map(fields))).map(|until| until.as_secs())
        };
        for form in ["Sun, 06 Nov 1994 08:50:37 GMT", "Sunday, 06-Nov-94 08:50:37 GMT", "Sun Nov  6 08:50:37 1994"] {
            assert_eq!(until(&[("expires", form)]), Some(60), "{form}");
        }
        let skewed = [("date", "Sun, 06 Nov 1994 07:49:37 GMT"), ("expires", "Sun, 06 Nov 1994 07:50:37 GMT")];
        assert_eq!(until(&skewed), Some(60), "by the app's clock");
        for passed in ["0", "-1", "", "tomorrow", NOW, "Sun, 06 Nov 1994 08:49:36 GMT", "Sun, 06 Nov 1994 08:50:37 CET"]
        {
            assert_eq!(until(&[("expires", passed)]), Some(0), "{passed}");
        }
        assert_eq!(until(&[("expires", "Sun, 06 Nov 1994 08:50:37 GMT"), ("expires", "0")]), Some(0));
        assert_eq!(until(&[]), None);
    }

    #[test]
    fn what_has_not_changed_for_long_is_fresh_for_a_while() {
        let heuristic = |value: &str| arrival(0).heuristic(Fields::Map(&map(&[("last-modified", value)])));
        assert_eq!(heuristic("Sun, 06 Nov 1994 08:39:37 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(heuristic("Sun, 06 Nov 1988 08:39:37 GMT"), Some(HEURISTIC_MAX));
        for none in ["Sun, 06 Nov 1994 08:49:38 GMT", "once", ""] {
            assert_eq!(heuristic(none), None, "{none}");
        }
    }

    #[test]
    fn nothing_is_lost_in_little_room() {
        let seconds = Duration::from_secs;
        for flag in 0..4 {
            let freshness = Freshness {
                lifetime: control::FOREVER,
                age: Duration::from_millis(1500),
                while_revalidate: seconds(2),
                if_error: seconds(3),
                is_always_asked: flag == 0,
                is_strict: flag == 1,
                is_for_everybody: flag == 2,
                is_doubtful: flag == 3,
            };
            assert_eq!(Packed::of(freshness).unpacked(), freshness);
        }
    }

    #[test]
    fn a_request_may_want_more_and_may_take_less() {
        let seconds = Duration::from_secs;
        let fresh = Freshness {
            lifetime: seconds(60),
            age: seconds(0),
            while_revalidate: seconds(0),
            if_error: seconds(10),
            is_always_asked: false,
            is_strict: false,
            is_for_everybody: false,
            is_doubtful: false,
        };
        let wish =
            crate::edge::request::tests::asking("/", "Host: a\r\n", false, |asked| Wish::of(&asked.unwrap(), None));
        let wish = wish.unwrap();
        let answers = |freshness: Freshness, wish: Wish, age: u64| freshness.answers(&wish, seconds(age));
        let at = |freshness, wish, age| answers(freshness, wish, age).map_err(Reason::word);
        assert_eq!(
            (at(fresh, wish, 20), at(fresh, wish, 60), at(fresh, wish, 70)),
            (Ok(40), Err("stale"), Err("stale"))
        );
        let young = Wish { max_age: seconds(20), ..wish };
        assert_eq!((at(fresh, young, 20), at(fresh, young, 21)), (Ok(40), Err("request")));
        let lasting = Wish { min_fresh: seconds(40), ..wish };
        assert_eq!((at(fresh, lasting, 20), at(fresh, lasting, 21)), (Ok(40), Err("request")));
        let modest = Wish { max_stale: seconds(10), ..wish };
        assert_eq!((at(fresh, modest, 70), at(fresh, modest, 71)), (Ok(-10), Err("stale")));
        let both = Wish { max_age: seconds(65), ..modest };
        assert_eq!((at(fresh, both, 65), at(fresh, both, 66)), (Ok(-5), Err("stale")));
        let strict = Freshness { is_strict: true, ..fresh };
        assert_eq!((at(strict, modest, 20), at(strict, modest, 61)), (Ok(40), Err("stale")));
        let asked = Freshness { is_always_asked: true, ..fresh };
        assert_eq!((at(asked, wish, 0), at(asked, modest, 0)), (Err("stale"), Err("stale")));
        let personal = Wish { is_authorized: true, ..wish };
        assert_eq!(at(fresh, personal, 0), Err("bypass"));
        assert_eq!(at(Freshness { is_for_everybody: true, ..fresh }, personal, 0), Ok(60));
        let known = Wish { has_cookie: true, ..wish };
        assert_eq!(
            (at(fresh, known, 0), at(Freshness { is_doubtful: true, ..fresh }, known, 0)),
            (Ok(60), Err("bypass"))
        );
        let newest = Wish { takes_stored: false, ..wish };
        assert_eq!(at(fresh, newest, 0), Err("request"));
        assert!(fresh.covers_errors(seconds(70)) && !fresh.covers_errors(seconds(71)));
        assert!(!Freshness { if_error: seconds(0), ..fresh }.covers_errors(seconds(60)));
    }
}
