//! Whether a request may be answered from the cache, and a response stored: RFC 9111, with explicit freshness only.
//!
//! Pure. Called by `cache`. The rule: in doubt a response is not stored; nothing that could be one visitor's own is ever
//! shown to another.

use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};

use crate::edge::field::Fields;
use crate::model::cache::CacheVerdict;

/// Freshness is counted in seconds of 31 bits (RFC 9111 section 1.2.2).
const FOREVER: u64 = 1 << 31;

/// What a request allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// A stored response, and that the answer is stored.
    Stored { max_age: Duration, may_store: bool },
    /// An answer from the app, which may be stored.
    Fresh { may_store: bool },
    /// The cache has no part in it; for this reason, in the words of RFC 9211 section 2.2.
    Bypass(&'static str),
}

/// How long a response stays fresh, and how old it was when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    pub lifetime: Duration,
    pub age: Duration,
}

/// Judges a request (RFC 9111 section 5.2.1). Credentials are the app's business; a part is cut out of what is stored whole.
pub fn wish(method: &Method, fields: Fields<'_>, rule: Option<&CacheVerdict>) -> Wish {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Wish::Bypass("method");
    }
    // A body could have decided about the answer, and is not in the key.
    let has_length = fields.first("content-length").is_some_and(|length| length != b"0");
    if has_length || fields.has("transfer-encoding") || fields.has(OVERRIDE) {
        return Wish::Bypass("bypass");
    }
    let personal = ["authorization", "upgrade", "if-match", "if-unmodified-since"];
    if rule == Some(&CacheVerdict::Bypass) || personal.into_iter().any(|name| fields.has(name)) {
        return Wish::Bypass("bypass");
    }
    let directives = Directives::of(fields, "cache-control");
    // Only a GET brings the body that a stored response needs, and only one for all of it.
    let may_store = *method == Method::GET && !directives.no_store && !fields.has("range");
    let pragma = || !fields.has("cache-control") && Directives::of(fields, "pragma").no_cache;
    if directives.no_cache || directives.no_store || pragma() {
        return Wish::Fresh { may_store };
    }
    let max_age = Duration::from_secs(directives.max_age.unwrap_or(FOREVER));
    Wish::Stored { max_age, may_store }
}

/// A GET that says it means another method.
const OVERRIDE: &str = "x-http-method-override";

/// Judges a response (RFC 9111 section 3); `None` when it is not to be stored.
pub fn freshness(
    status: StatusCode,
    fields: Fields<'_>,
    rule: Option<&CacheVerdict>,
    now: SystemTime,
) -> Option<Freshness> {
    if !matches!(status.as_u16(), 200 | 203 | 204 | 301 | 308 | 404 | 410) {
        return None;
    }
    let directives = Directives::of(fields, "cache-control");
    if directives.no_store || directives.no_cache || directives.private {
        return None;
    }
    if fields.has("set-cookie") || vary(fields) == Vary::More || !is_delimited(status, fields) {
        return None;
    }
    let date = date(fields, "date").unwrap_or(now);
    let expires = || match fields.has("expires") {
        // A date that does not parse lies in the past (RFC 9111 section 5.3).
        true => Some(date_after(fields, date)),
        false => None,
    };
    let explicit = directives.s_maxage.or(directives.max_age).map(Duration::from_secs).or_else(expires);
    let lifetime = match (explicit, rule) {
        (Some(lifetime), _) => lifetime,
        (None, Some(CacheVerdict::Ttl(ttl))) => *ttl,
        (None, _) => return None,
    };
    let apparent = now.duration_since(date).unwrap_or_default();
    let age = apparent.max(Duration::from_secs(seconds(fields.text("age")).unwrap_or(0)));
    (lifetime > age).then_some(Freshness { lifetime, age })
}

/// What a response depends on beside its URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vary {
    Nothing,
    AcceptEncoding,
    More,
}

pub fn vary(fields: Fields<'_>) -> Vary {
    let mut vary = Vary::Nothing;
    for name in tokens(fields, "vary") {
        if !name.eq_ignore_ascii_case("accept-encoding") {
            return Vary::More;
        }
        vary = Vary::AcceptEncoding;
    }
    vary
}

/// A body that ends with its connection may have been cut off by a crash: it is never known to be whole.
fn is_delimited(status: StatusCode, fields: Fields<'_>) -> bool {
    // Of the codings only chunks have an end of their own.
    let mut codings = fields.all("transfer-encoding");
    match (codings.next(), codings.next()) {
        (Some(coding), None) => coding.eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
        (None, _) => status == StatusCode::NO_CONTENT || fields.has("content-length"),
    }
}

#[derive(Debug, Default)]
struct Directives {
    no_store: bool,
    no_cache: bool,
    private: bool,
    max_age: Option<u64>,
    s_maxage: Option<u64>,
}

impl Directives {
    fn of(fields: Fields<'_>, field: &'static str) -> Self {
        // An unreadable field could say anything.
        let no_store = fields.all(field).any(|value| text(value).is_none());
        let mut all = Self { no_store, ..Self::default() };
        for directive in tokens(fields, field) {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            let seconds = || value.trim().trim_matches('"').parse::<u64>().unwrap_or(0).min(FOREVER);
            // Said twice, the shorter holds (RFC 9111 section 4.2.1).
            let shorter = |before: Option<u64>| Some(before.map_or(seconds(), |before| before.min(seconds())));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" => all.no_store = true,
                "no-cache" => all.no_cache = true,
                "private" => all.private = true,
                "max-age" => all.max_age = shorter(all.max_age),
                "s-maxage" => all.s_maxage = shorter(all.s_maxage),
                _ => {}
            }
        }
        all
    }
}

fn tokens<'r>(fields: Fields<'r>, field: &'static str) -> impl Iterator<Item = &'r str> {
    let values = fields.all(field);
    values.flat_map(|value| text(value).unwrap_or("*").split(',')).map(str::trim).filter(|token| !token.is_empty())
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|text| text.is_ascii())
}

fn date(fields: Fields<'_>, field: &'static str) -> Option<SystemTime> {
    httpdate::parse_http_date(fields.text(field)?).ok()
}

fn date_after(fields: Fields<'_>, date_of_response: SystemTime) -> Duration {
    date(fields, "expires").and_then(|at| at.duration_since(date_of_response).ok()).unwrap_or_default()
}

fn seconds(value: Option<&str>) -> Option<u64> {
    value?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderMap, HeaderName};

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn lifetime(fields: &[(&str, &str)]) -> Option<u64> {
        let mut headers = headers(fields);
        headers.insert("content-length", "0".parse().unwrap());
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        freshness(StatusCode::OK, Fields::Map(&headers), None, now).map(|fresh| (fresh.lifetime - fresh.age).as_secs())
    }

    #[test]
    fn only_explicit_freshness_counts_and_the_most_precise_wins() {
        assert_eq!(lifetime(&[("cache-control", "max-age=60")]), Some(60));
        assert_eq!(lifetime(&[("cache-control", "max-age=60, s-maxage=10")]), Some(10));
        assert_eq!(lifetime(&[("cache-control", "max-age=60"), ("age", "15")]), Some(45));
        assert_eq!(lifetime(&[("cache-control", "MAX-AGE=\"60\"")]), Some(60));
        let expires = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
        assert_eq!(lifetime(&[expires]), Some(60));
        assert_eq!(lifetime(&[expires, ("cache-control", "max-age=5")]), Some(5));
        assert_eq!(lifetime(&[("date", "Sun, 06 Nov 1994 08:49:07 GMT"), ("cache-control", "max-age=60")]), Some(30));
        for never in [
            &[][..],
            &[("cache-control", "max-age=60"), ("age", "60")],
            &[("cache-control", "max-age=0")],
            &[("cache-control", "max-age=x")],
            &[("cache-control", "max-age=60, max-age=0")],
            &[("expires", "0")],
            &[("cache-control", "public")],
        ] {
            assert_eq!(lifetime(never), None, "{never:?}");
        }
    }

    #[test]
    fn what_could_be_personal_is_not_stored() {
        let fresh = ("cache-control", "max-age=60");
        for extra in [
            ("set-cookie", "a=b"),
            ("cache-control", "private"),
            ("cache-control", "private=\"a, b\""),
            ("cache-control", "no-cache=\"set-cookie\""),
            ("cache-control", "no-store"),
            ("vary", "*"),
            ("vary", "accept-encoding, cookie"),
        ] {
            assert_eq!(lifetime(&[fresh, extra]), None, "{extra:?}");
        }
        assert_eq!(lifetime(&[fresh, ("vary", "Accept-Encoding")]), Some(60));
    }

    #[test]
    fn a_rule_helps_only_where_the_app_is_silent() {
        let rule = CacheVerdict::Ttl(Duration::from_secs(7));
        let judge = |fields: &[(&str, &str)]| {
            let fresh = freshness(StatusCode::OK, Fields::Map(&headers(fields)), Some(&rule), SystemTime::now());
            fresh.map(|fresh| fresh.lifetime.as_secs())
        };
        assert_eq!(judge(&[("content-length", "1")]), Some(7));
        assert_eq!(judge(&[]), None, "a body that ends with its connection");
        assert_eq!(judge(&[("content-length", "1"), ("cache-control", "max-age=3")]), Some(3));
        assert_eq!(judge(&[("content-length", "1"), ("cache-control", "no-cache")]), None);
        assert_eq!(judge(&[("content-length", "1"), ("set-cookie", "a=b")]), None);
    }

    #[test]
    fn requests_are_judged_by_what_they_carry() {
        let wish = |method: Method, fields: &[(&str, &str)]| wish(&method, Fields::Map(&headers(fields)), None);
        let any = Duration::from_secs(FOREVER);
        assert_eq!(wish(Method::GET, &[]), Wish::Stored { max_age: any, may_store: true });
        assert_eq!(wish(Method::HEAD, &[]), Wish::Stored { max_age: any, may_store: false });
        assert_eq!(wish(Method::POST, &[]), Wish::Bypass("method"));
        assert_eq!(wish(Method::GET, &[("range", "bytes=0-1")]), Wish::Stored { max_age: any, may_store: false });
        assert_eq!(wish(Method::GET, &[("authorization", "x")]), Wish::Bypass("bypass"));
        assert_eq!(wish(Method::GET, &[("cache-control", "no-cache")]), Wish::Fresh { may_store: true });
        assert_eq!(wish(Method::GET, &[("pragma", "no-cache")]), Wish::Fresh { may_store: true });
        assert_eq!(wish(Method::GET, &[("cache-control", "no-store")]), Wish::Fresh { may_store: false });
        let zero = Wish::Stored { max_age: Duration::ZERO, may_store: true };
        assert_eq!(wish(Method::GET, &[("cache-control", "max-age=0")]), zero);
    }
}
