//! What a request allows the cache to do.
//!
//! Pure. Judged by `cache` for every request, hits too, so it looks at each name once and keeps nothing. The rule: what could
//! decide about the answer and is not in the key keeps the cache out of it.

use std::time::Duration;

use http::Method;

use super::control::{Control, FOREVER};
use super::reason::Reason;
use crate::edge::field::{Fields, Kind};
use crate::edge::request::Asked;
use crate::model::cache::CacheVerdict;

/// RFC 9111 section 5.2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Whether anything stored will do without asking the app.
    pub takes_stored: bool,
    /// How old it may be, how long it must stay fresh, and how long it may have been stale.
    pub max_age: Duration,
    pub min_fresh: Duration,
    pub max_stale: Duration,
    /// Whether nothing but what is stored will do.
    pub only_if_cached: bool,
    /// Whether anything that its answer says may be kept.
    pub may_be_kept: bool,
    /// Whether the answer may be stored, and whether it may renew what is.
    pub may_store: bool,
    pub may_renew: bool,
    /// Whether a part may be that was asked for as one.
    pub may_store_part: bool,
    /// Credentials were sent.
    pub is_authorized: bool,
    pub has_cookie: bool,
    /// Whether neither a condition nor a range asks for less than the whole.
    pub is_for_whole: bool,
}

/// What its fields say, each looked at once.
#[derive(Debug, Default)]
struct Said {
    control: Control,
    has_control: bool,
    has_pragma: bool,
    /// A field that only the app can judge: a condition, another protocol, another method.
    for_app: Option<&'static str>,
    has_body: bool,
    has_nominations: bool,
    has_condition: bool,
    has_range: bool,
    has_cookie: bool,
    is_authorized: bool,
}

impl Wish {
    /// Judges a request; `Err` with the reason when the cache has no part in it.
    pub fn of(asked: &Asked<'_>, rule: Option<&CacheVerdict>) -> Result<Self, Reason> {
        let is_get = asked.method == Method::GET;
        if !is_get && asked.method != Method::HEAD {
            return Err(Reason::Method);
        }
        if rule == Some(&CacheVerdict::Bypass) {
            return Err(Reason::Rule);
        }
        let mut said = Said::default();
        asked.fields.each(|name, value| said.note(name, value));
        if let Some(field) = said.for_app {
            return Err(Reason::ForApp(field));
        }
        if said.has_body {
            return Err(Reason::Body);
        }
        let control = &said.control;
        // RFC 9111 section 5.4. In a request there is nothing that `no-cache` could name.
        let is_fresh = control.no_cache
            || !control.withheld.is_empty()
            || control.no_store
            || (said.has_pragma && !said.has_control);
        // What `Connection` names, the app never sees.
        let is_seen_whole = !said.has_nominations || !drops_fields(asked.fields);
        let may_be_kept = !control.no_store && is_seen_whole;
        let may_renew = may_be_kept && !said.has_range;
        Ok(Self {
            takes_stored: !is_fresh,
            max_age: control.max_age.unwrap_or(FOREVER),
            min_fresh: control.min_fresh.unwrap_or_default(),
            max_stale: control.max_stale.unwrap_or_default(),
            only_if_cached: control.only_if_cached,
            may_be_kept,
            // Only a GET brings the body that a stored response needs, and only one for all of it.
            may_store: is_get && may_renew,
            may_renew,
            may_store_part: is_get && may_be_kept && said.has_range && !said.has_condition,
            is_authorized: said.is_authorized,
            has_cookie: said.has_cookie,
            is_for_whole: !said.has_condition && !said.has_range,
        })
    }
}

impl Said {
    fn note(&mut self, name: &[u8], value: &[u8]) {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        let named = |other: &'static str| is(other).then_some(other);
        // By length and first letter most names are none of these.
        match (name.len(), name.first().map_or(0, |first| first | 0x20)) {
            (5, b'r') => self.has_range |= is("range"),
            (6, b'c') => self.has_cookie |= is("cookie"),
            (6, b'p') if is("pragma") => {
                let mut words = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
                self.has_pragma |= words.any(|word| word.eq_ignore_ascii_case(b"no-cache"));
            }
            (7, b'u') => self.for_app = self.for_app.or(named("upgrade")),
            (8, b'i') => self.for_app = self.for_app.or(named("if-match")),
            (10, b'c') => self.has_nominations |= is("connection") && !is_of_connection(value),
            (13, b'a') => self.is_authorized |= is("authorization"),
            (13, b'c') if is("cache-control") => {
                self.has_control = true;
                self.control.read(value);
            }
            (13, b'i') => self.has_condition |= is("if-none-match"),
            // A body could have decided about the answer.
            (14, b'c') => self.has_body |= is("content-length") && value != b"0",
            (17, b'i') => self.has_condition |= is("if-modified-since"),
            (17, b't') => self.has_body |= is("transfer-encoding"),
            (19, b'i') => self.for_app = self.for_app.or(named("if-unmodified-since")),
            // A GET that says it means another method.
            (22, b'x') => self.for_app = self.for_app.or(named("x-http-method-override")),
            _ => {}
        }
    }
}

fn is_of_connection(value: &[u8]) -> bool {
    [&b"keep-alive"[..], b"close"].iter().any(|usual| value.eq_ignore_ascii_case(usual))
}

/// Whether `Connection` names a field that is there.
fn drops_fields(fields: Fields<'_>) -> bool {
    let mut names =
        fields.all("connection").flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    names.any(|named| {
        let mut is_there = false;
        fields.each(|name, _| is_there |= name.eq_ignore_ascii_case(named));
        is_there && !Kind::of(named).is_hop_by_hop()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::request::tests::asking;

    fn of(lines: &str) -> Result<Wish, Reason> {
        asking("/", &format!("Host: shop.test\r\n{lines}"), false, |asked| Wish::of(&asked.unwrap(), None))
    }

    fn any() -> Wish {
        of("").unwrap()
    }

    #[test]
    fn an_ordinary_request_takes_whatever_is_fresh() {
        let browser = "Connection: keep-alive\r\nUpgrade-Insecure-Requests: 1\r\nAccept: */*\r\nUser-Agent: x\r\n";
        assert_eq!(of(browser).unwrap(), any());
        assert!(any().takes_stored && any().may_store && any().is_for_whole && !any().only_if_cached);
        assert_eq!((any().max_age, any().min_fresh, any().max_stale), (FOREVER, Duration::ZERO, Duration::ZERO));
    }

    fn kept_nowhere() -> Wish {
        Wish { may_be_kept: false, may_store: false, may_renew: false, ..any() }
    }

    #[test]
    fn a_request_says_what_it_takes() {
        let seconds = Duration::from_secs;
        for (lines, wish) in [
            ("Cache-Control: no-cache\r\n", Wish { takes_stored: false, ..any() }),
            ("Cache-Control: no-cache=\"a\"\r\n", Wish { takes_stored: false, ..any() }),
            ("cache-control: NO-STORE\r\n", Wish { takes_stored: false, ..kept_nowhere() }),
            ("Pragma: no-cache\r\n", Wish { takes_stored: false, ..any() }),
            ("Pragma: x, No-Cache\r\n", Wish { takes_stored: false, ..any() }),
            ("Pragma: no-cache\r\nCache-Control: max-age=5\r\n", Wish { max_age: seconds(5), ..any() }),
            ("Pragma: nothing\r\n", any()),
            ("Cache-Control: max-age=0\r\n", Wish { max_age: Duration::ZERO, ..any() }),
            ("Cache-Control: max-age=x\r\n", Wish { max_age: Duration::ZERO, ..any() }),
            ("Cache-Control: min-fresh=5\r\n", Wish { min_fresh: seconds(5), ..any() }),
            ("Cache-Control: max-stale=5\r\n", Wish { max_stale: seconds(5), ..any() }),
            ("Cache-Control: max-stale\r\n", Wish { max_stale: FOREVER, ..any() }),
            ("Cache-Control: only-if-cached\r\n", Wish { only_if_cached: true, ..any() }),
            ("Cache-Control: a\r\nCache-Control: no-cache\r\n", Wish { takes_stored: false, ..any() }),
            (
                "Range: bytes=0-1\r\n",
                Wish { may_store: false, may_renew: false, may_store_part: true, is_for_whole: false, ..any() },
            ),
            ("If-None-Match: \"a\"\r\n", Wish { is_for_whole: false, ..any() }),
            ("Authorization: Basic x\r\n", Wish { is_authorized: true, ..any() }),
            ("Cookie: a=b\r\n", Wish { has_cookie: true, ..any() }),
            ("Connection: X-Own\r\nX-Own: 1\r\n", kept_nowhere()),
            ("Connection: x-none\r\n", any()),
            ("Content-Length: 0\r\n", any()),
        ] {
            assert_eq!(of(lines).unwrap(), wish, "{lines:?}");
        }
    }

    #[test]
    fn what_only_the_app_can_judge_is_left_to_it() {
        for lines in [
            "If-Match: \"a\"\r\n",
            "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
            "X-HTTP-Method-Override: DELETE\r\n",
            "Content-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        ] {
            assert_eq!(of(lines).unwrap_err().word(), "bypass", "{lines:?}");
        }
        let rule = Some(&CacheVerdict::Bypass);
        asking("/", "Host: a\r\n", false, |asked| assert_eq!(Wish::of(&asked.unwrap(), rule), Err(Reason::Rule)));
    }
}
