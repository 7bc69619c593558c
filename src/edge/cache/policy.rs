//! Whether a request may be answered from the cache, and a response stored: RFC 9111, with explicit freshness only.
//!
//! Pure. Called by `cache`. The rule: in doubt a response is not stored; nothing that could be one visitor's own is ever
//! shown to another.

use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode};

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

/// Judges a request (RFC 9111 section 5.2.1). Ranges and credentials are the app's business.
pub fn wish(method: &Method, headers: &HeaderMap, rule: Option<&CacheVerdict>) -> Wish {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Wish::Bypass("method");
    }
    // A body could have decided about the answer, and is not in the key.
    let has_length = headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    if has_length || headers.contains_key(header::TRANSFER_ENCODING) || headers.contains_key(OVERRIDE) {
        return Wish::Bypass("bypass");
    }
    let personal =
        [header::AUTHORIZATION, header::RANGE, header::UPGRADE, header::IF_MATCH, header::IF_UNMODIFIED_SINCE];
    if rule == Some(&CacheVerdict::Bypass) || personal.iter().any(|name| headers.contains_key(name)) {
        return Wish::Bypass("bypass");
    }
    let directives = Directives::of(headers, &header::CACHE_CONTROL);
    // Only a GET brings the body that a stored response needs.
    let may_store = *method == Method::GET && !directives.no_store;
    let pragma = || !headers.contains_key(header::CACHE_CONTROL) && Directives::of(headers, &header::PRAGMA).no_cache;
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
    headers: &HeaderMap,
    rule: Option<&CacheVerdict>,
    now: SystemTime,
) -> Option<Freshness> {
    if !matches!(status.as_u16(), 200 | 203 | 204 | 301 | 308 | 404 | 410) {
        return None;
    }
    let directives = Directives::of(headers, &header::CACHE_CONTROL);
    if directives.no_store || directives.no_cache || directives.private {
        return None;
    }
    if headers.contains_key(header::SET_COOKIE) || vary(headers) == Vary::More || !is_delimited(status, headers) {
        return None;
    }
    let date = date(headers, &header::DATE).unwrap_or(now);
    let expires = || match headers.contains_key(header::EXPIRES) {
        // A date that does not parse lies in the past (RFC 9111 section 5.3).
        true => Some(date_after(headers, date)),
        false => None,
    };
    let explicit = directives.s_maxage.or(directives.max_age).map(Duration::from_secs).or_else(expires);
    let lifetime = match (explicit, rule) {
        (Some(lifetime), _) => lifetime,
        (None, Some(CacheVerdict::Ttl(ttl))) => *ttl,
        (None, _) => return None,
    };
    let apparent = now.duration_since(date).unwrap_or_default();
    let age = apparent.max(Duration::from_secs(seconds(headers.get(header::AGE)).unwrap_or(0)));
    (lifetime > age).then_some(Freshness { lifetime, age })
}

/// What a response depends on beside its URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vary {
    Nothing,
    AcceptEncoding,
    More,
}

pub fn vary(headers: &HeaderMap) -> Vary {
    let mut vary = Vary::Nothing;
    for name in tokens(headers, &header::VARY) {
        if !name.eq_ignore_ascii_case("accept-encoding") {
            return Vary::More;
        }
        vary = Vary::AcceptEncoding;
    }
    vary
}

/// A body that ends with its connection may have been cut off by a crash: it is never known to be whole.
fn is_delimited(status: StatusCode, headers: &HeaderMap) -> bool {
    // Of the codings only chunks have an end of their own.
    let is_chunked = |coding: &header::HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    match headers.get(header::TRANSFER_ENCODING) {
        Some(coding) => is_chunked(coding) && headers.get_all(header::TRANSFER_ENCODING).iter().count() == 1,
        None => status == StatusCode::NO_CONTENT || headers.contains_key(header::CONTENT_LENGTH),
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
    fn of(headers: &HeaderMap, field: &HeaderName) -> Self {
        // An unreadable field could say anything.
        let no_store = headers.get_all(field).iter().any(|value| value.to_str().is_err());
        let mut all = Self { no_store, ..Self::default() };
        for directive in tokens(headers, field) {
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

fn tokens<'a>(headers: &'a HeaderMap, field: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(field).into_iter();
    values.flat_map(|value| value.to_str().unwrap_or("*").split(',')).map(str::trim).filter(|token| !token.is_empty())
}

fn date(headers: &HeaderMap, field: &HeaderName) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(field)?.to_str().ok()?).ok()
}

fn date_after(headers: &HeaderMap, date_of_response: SystemTime) -> Duration {
    date(headers, &header::EXPIRES).and_then(|at| at.duration_since(date_of_response).ok()).unwrap_or_default()
}

fn seconds(value: Option<&http::HeaderValue>) -> Option<u64> {
    value?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
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
        freshness(StatusCode::OK, &headers, None, now).map(|fresh| (fresh.lifetime - fresh.age).as_secs())
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
            let fresh = freshness(StatusCode::OK, &headers(fields), Some(&rule), SystemTime::now());
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
        let wish = |method: Method, fields: &[(&str, &str)]| wish(&method, &headers(fields), None);
        let any = Duration::from_secs(FOREVER);
        assert_eq!(wish(Method::GET, &[]), Wish::Stored { max_age: any, may_store: true });
        assert_eq!(wish(Method::HEAD, &[]), Wish::Stored { max_age: any, may_store: false });
        assert_eq!(wish(Method::POST, &[]), Wish::Bypass("method"));
        assert_eq!(wish(Method::GET, &[("authorization", "x")]), Wish::Bypass("bypass"));
        assert_eq!(wish(Method::GET, &[("cache-control", "no-cache")]), Wish::Fresh { may_store: true });
        assert_eq!(wish(Method::GET, &[("pragma", "no-cache")]), Wish::Fresh { may_store: true });
        assert_eq!(wish(Method::GET, &[("cache-control", "no-store")]), Wish::Fresh { may_store: false });
        let zero = Wish::Stored { max_age: Duration::ZERO, may_store: true };
        assert_eq!(wish(Method::GET, &[("cache-control", "max-age=0")]), zero);
    }
}
