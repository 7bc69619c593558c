//! Whether a response is stored, and on what terms: RFC 9111 section 3, for a cache that many share.
//!
//! Pure. Called by `fill` when a head has come, and by `refresh`. The rule: in doubt a response is not stored; nothing that
//! could be one visitor's own is ever shown to another.

use std::time::Duration;

use http::{HeaderName, StatusCode, header};

use super::control::Control;
use super::freshness::{self, Arrival, Freshness};
use super::wish::Wish;
use crate::edge::field::Fields;
use crate::model::cache::{CacheVerdict, CdnFields};

/// Fields that speak to shared caches alone, the first that is valid before `Cache-Control` (RFC 9213 section 2.2).
const TARGETED: [&str; 2] = ["cdn-cache-control", "surrogate-control"];

/// What beside the response bears on it.
#[derive(Debug, Clone)]
pub struct Terms {
    pub wish: Wish,
    pub rule: Option<CacheVerdict>,
    /// Whether the project lets answers that set a cookie be stored.
    pub takes_cookies: bool,
    /// Whether conf says which cookies the key has: then the others may bear on the answer, and it is in doubt for whom it is.
    pub keys_cookies: bool,
    /// Conf's own, beside the app's.
    pub tags: Vec<String>,
    pub passes: CdnFields,
}

/// How a response is kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Keeping {
    pub freshness: Freshness,
    /// Fields that are not.
    pub withheld: Vec<HeaderName>,
}

impl Terms {
    /// Judges a response; `None` when it is not to be stored.
    pub fn judge(&self, status: StatusCode, fields: Fields<'_>, arrival: &Arrival) -> Option<Keeping> {
        let (control, field) = control(fields);
        let is_targeted = field.is_some();
        if !self.allows(status, &control) || !self.allows_cookies(fields, &control, is_targeted) {
            return None;
        }
        let explicit = freshness::explicit(&control, is_targeted, fields, arrival);
        let is_usual = is_usual(status) || control.is_public;
        let said = explicit.or(self.ttl().filter(|_| is_usual));
        let guess = || arrival.heuristic(fields).filter(|_| is_usual);
        // Without a word about its time it can be kept for what the app says when it is asked about it.
        let lifetime = said.or_else(guess).or(is_usual.then_some(Duration::ZERO))?;
        let freshness = freshness(&control, lifetime, arrival.age(fields));
        let is_fresh = !freshness.is_always_asked && freshness.lifetime > freshness.age;
        let is_of_use =
            is_fresh || has_validator(fields) || !(freshness.if_error + freshness.while_revalidate).is_zero();
        let is_for_many = control.is_public || control.s_maxage.is_some();
        // Conf's word on the time is one for those requests whose cookies it knows.
        let is_said = if self.keys_cookies { explicit.is_some() } else { said.is_some() };
        let is_doubtful = (!is_said || !is_fresh) && !is_for_many;
        let is_ones_own = (is_doubtful || self.keys_cookies) && self.wish.has_cookie;
        let keeping = Keeping { freshness: Freshness { is_doubtful, ..freshness }, withheld: control.withheld };
        (is_of_use && !is_ones_own).then_some(keeping)
    }

    fn ttl(&self) -> Option<Duration> {
        match self.rule {
            Some(CacheVerdict::Ttl(ttl)) => Some(ttl),
            _ => None,
        }
    }

    fn allows(&self, status: StatusCode, control: &Control) -> bool {
        let is_understood = is_understood(status);
        let is_storable = !status.is_informational() && !matches!(status.as_u16(), 206 | 304);
        // RFC 9111 section 5.2.2.3.
        let is_forbidden = control.no_store && !(control.must_understand && is_understood);
        let may_be_read = !self.wish.is_authorized || control.is_for_everybody;
        let is_known = is_understood || !control.must_understand;
        is_storable && !is_forbidden && !control.is_private && is_known && may_be_read
    }

    fn allows_cookies(&self, fields: Fields<'_>, control: &Control, is_targeted: bool) -> bool {
        let is_for_many = control.is_public || control.s_maxage.is_some() || (is_targeted && control.max_age.is_some());
        let is_withheld = || control.withheld.contains(&header::SET_COOKIE);
        !fields.has("set-cookie") || is_withheld() || (self.takes_cookies && is_for_many)
    }
}

/// What counts of all that a response says, and in which of the targeted fields it does.
fn control(fields: Fields<'_>) -> (Control, Option<&'static str>) {
    let targeted = TARGETED.into_iter().find_map(|field| Some((Control::targeted(fields, field)?, Some(field))));
    targeted.unwrap_or_else(|| (Control::of(fields, "cache-control"), None))
}

/// Who said how long a response is fresh, in words.
pub fn said_by(fields: Fields<'_>, rule: Option<&CacheVerdict>) -> String {
    let (control, targeted) = control(fields);
    let field = targeted.unwrap_or("cache-control");
    match control {
        Control { s_maxage: Some(_), .. } => format!("`s-maxage` of `{field}`"),
        Control { max_age: Some(_), .. } => format!("`max-age` of `{field}`"),
        _ if targeted.is_none() && fields.has("expires") => "`expires`".to_owned(),
        _ if matches!(rule, Some(CacheVerdict::Ttl(_))) => "conf's rule for the path".to_owned(),
        _ if fields.has("last-modified") => "the time since `last-modified`".to_owned(),
        _ => "nobody".to_owned(),
    }
}

fn freshness(control: &Control, lifetime: Duration, age: Duration) -> Freshness {
    let is_strict = control.must_revalidate || control.no_cache;
    let stale = |said: Option<Duration>| said.filter(|_| !is_strict).unwrap_or_default();
    Freshness {
        lifetime,
        age,
        while_revalidate: stale(control.stale_while_revalidate),
        if_error: stale(control.stale_if_error),
        is_always_asked: control.no_cache,
        // RFC 9111 section 5.2.2.10.
        is_strict: is_strict || control.s_maxage.is_some(),
        is_for_everybody: control.is_for_everybody,
        is_doubtful: false,
    }
}

/// Whether an app can be asked if it is still right.
pub fn has_validator(fields: Fields<'_>) -> bool {
    fields.has("etag") || freshness::date(fields, "last-modified").is_some()
}

/// May be stored without a word about it (RFC 9110 section 15.1); a part is never stored as the whole.
fn is_usual(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Of these is known what they ask of a cache: nothing.
fn is_understood(status: StatusCode) -> bool {
    let code = status.as_u16();
    matches!(code, 200..=205 | 300..=303 | 305 | 307 | 308 | 400..=417 | 421..=426 | 428 | 429 | 431 | 451)
        || matches!(code, 500..=508 | 510 | 511)
}

/// A body that ends with its connection may have been cut off by a crash: it is never known to be whole.
pub fn is_delimited(status: StatusCode, fields: Fields<'_>) -> bool {
    // Of the codings only chunks have an end of their own.
    let mut codings = fields.all("transfer-encoding");
    match (codings.next(), codings.next()) {
        (Some(coding), None) => coding.eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
        (None, _) => status == StatusCode::NO_CONTENT || fields.has("content-length"),
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderMap;

    use super::*;
    use crate::edge::request::tests::asking;

    type Head<'a> = &'a [(&'static str, &'a str)];

    fn terms(lines: &str) -> Terms {
        let lines = format!("Host: a\r\n{lines}");
        let wish = asking("/", &lines, false, |asked| Wish::of(&asked.unwrap(), None)).unwrap();
        Terms {
            wish,
            rule: None,
            takes_cookies: false,
            keys_cookies: false,
            tags: Vec::new(),
            passes: CdnFields::default(),
        }
    }

    fn judge(terms: &Terms, status: u16, fields: Head<'_>) -> Option<Keeping> {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().unwrap());
        }
        let at = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let arrival = Arrival { at, delay: Duration::ZERO };
        terms.judge(StatusCode::from_u16(status).unwrap(), Fields::Map(&map), &arrival)
    }

    /// For how many seconds a 200 to an ordinary request is fresh; `None` when it is not stored.
    fn left(fields: Head<'_>) -> Option<i64> {
        judge(&terms(""), 200, fields).map(|kept| kept.freshness.ttl(kept.freshness.age))
    }

    const OLD: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:39:37 GMT");
    const TAG: (&str, &str) = ("etag", "\"a\"");
    const MINUTE: (&str, &str) = ("cache-control", "max-age=60");

    #[test]
    fn the_most_precise_time_wins() {
        let expires = ("expires", "Sun, 06 Nov 1994 08:50:07 GMT");
        for (fields, seconds) in [
            (&[MINUTE][..], 60),
            (&[("cache-control", "max-age=60, s-maxage=10")], 10),
            (&[expires], 30),
            (&[expires, MINUTE], 60),
            (&[expires, ("cache-control", "max-age=5")], 5),
            (&[MINUTE, ("age", "15")], 45),
            (&[MINUTE, ("date", "Sun, 06 Nov 1994 08:49:07 GMT")], 30),
            (&[OLD], 60),
            (&[OLD, ("cache-control", "max-age=5")], 5),
            (&[OLD, ("expires", "0")], 0),
            (&[TAG], 0),
            (&[TAG, ("cache-control", "max-age=0")], 0),
            (&[MINUTE, ("cdn-cache-control", "max-age=7")], 7),
            (&[MINUTE, ("cdn-cache-control", "max-age=7 x")], 60),
            (&[MINUTE, ("cdn-cache-control", "")], 60),
            (&[MINUTE, ("surrogate-control", "max-age=8, content=\"ESI/1.0\"")], 8),
            (&[MINUTE, ("surrogate-control", "max-age=8+600")], 60),
            (&[("cdn-cache-control", "max-age=7"), ("surrogate-control", "max-age=8")], 7),
            (&[("cdn-cache-control", "max-age=7"), ("cache-control", "no-store")], 7),
            (&[("cdn-cache-control", "must-revalidate"), expires, OLD], 60),
        ] {
            assert_eq!(left(fields), Some(seconds), "{fields:?}");
        }
    }

    #[test]
    fn what_is_of_no_use_is_not_stored() {
        for fields in [
            &[][..],
            &[MINUTE, ("age", "60")],
            &[("cache-control", "max-age=0")],
            &[("cache-control", "max-age=x")],
            &[("cache-control", "max-age=60, max-age=0")],
            &[("expires", "0")],
            &[("cache-control", "public")],
            &[("cache-control", "no-cache")],
            &[("cache-control", "max-age=60, no-cache")],
            &[("last-modified", "once")],
        ] {
            assert_eq!(left(fields), None, "{fields:?}");
        }
        for fields in [&[("cache-control", "no-cache"), TAG][..], &[("cache-control", "max-age=0"), OLD]] {
            assert_eq!(left(fields), Some(0), "can be asked about: {fields:?}");
        }
        assert_eq!(left(&[("cache-control", "max-age=0, stale-if-error=9")]), Some(0));
    }

    #[test]
    fn what_could_be_personal_is_not_stored() {
        for extra in [
            ("set-cookie", "a=b"),
            ("cache-control", "private"),
            ("cache-control", "private=x"),
            ("cache-control", "no-store"),
            ("cdn-cache-control", "private, max-age=60"),
            ("cdn-cache-control", "no-store"),
        ] {
            assert_eq!(left(&[MINUTE, TAG, extra]), None, "{extra:?}");
        }
        let named =
            judge(&terms(""), 200, &[("cache-control", "max-age=60, private=\"X-Own\", no-cache=\"x\"")]).unwrap();
        assert_eq!(named.withheld, ["x-own", "x"]);
        assert_eq!(left(&[("set-cookie", "a=b"), ("cache-control", "max-age=60, private=\"set-cookie\"")]), Some(60));
    }

    #[test]
    fn a_cookie_is_stored_where_app_and_project_say_so() {
        let cookie = ("set-cookie", "a=b");
        let allowed = Terms { takes_cookies: true, ..terms("") };
        for (said, is_stored) in [
            (("cache-control", "max-age=60, public"), true),
            (("cache-control", "s-maxage=60"), true),
            (("cdn-cache-control", "max-age=60"), true),
            (MINUTE, false),
            (("expires", "Sun, 06 Nov 1994 08:50:07 GMT"), false),
        ] {
            assert_eq!(judge(&allowed, 200, &[cookie, said]).is_some(), is_stored, "{said:?}");
            assert_eq!(judge(&terms(""), 200, &[cookie, said]), None, "{said:?}");
        }
    }

    #[test]
    fn what_answers_credentials_or_a_cookie_must_say_that_it_is_anybodys() {
        let (authorized, known) = (terms("Authorization: x\r\n"), terms("Cookie: a=b\r\n"));
        for (said, for_authorized, for_known) in [
            ("max-age=60", false, true),
            ("max-age=60, public", true, true),
            ("s-maxage=60", true, true),
            ("max-age=60, must-revalidate", true, true),
            ("max-age=60, proxy-revalidate", false, true),
            ("max-age=0", false, false),
            ("no-cache", false, false),
            ("no-cache, public", true, true),
            ("immutable", false, false),
            ("public", true, true),
        ] {
            let judge = |terms: &Terms| judge(terms, 200, &[("cache-control", said), TAG, OLD]).is_some();
            assert_eq!((judge(&authorized), judge(&known)), (for_authorized, for_known), "{said}");
            assert!(judge(&terms("")), "{said}");
        }
    }

    #[test]
    fn every_final_status_is_stored_that_says_how_long_and_some_without() {
        for status in [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501] {
            assert!(judge(&terms(""), status, &[OLD]).is_some(), "{status}");
        }
        for status in [201, 202, 302, 303, 307, 400, 403, 418, 429, 500, 502, 503, 504, 299, 599] {
            assert!(judge(&terms(""), status, &[MINUTE]).is_some(), "{status}");
            assert_eq!(judge(&terms(""), status, &[OLD]), None, "{status}");
            assert!(judge(&terms(""), status, &[OLD, ("cache-control", "public")]).is_some(), "{status}");
        }
        for status in [100, 103, 206, 304] {
            assert_eq!(judge(&terms(""), status, &[MINUTE, OLD]), None, "{status}");
        }
    }

    #[test]
    fn who_must_be_understood_is_stored_by_whoever_does() {
        let said = [("cache-control", "max-age=60, no-store, must-understand")];
        assert!(judge(&terms(""), 200, &said).is_some() && judge(&terms(""), 404, &said).is_some());
        assert_eq!(judge(&terms(""), 299, &said), None);
        assert_eq!(judge(&terms(""), 299, &[("cache-control", "max-age=60, must-understand")]), None);
        assert_eq!(judge(&terms(""), 206, &said), None);
    }

    #[test]
    fn what_holds_once_it_is_stale_is_kept_with_it() {
        let kept = |said: &str| {
            let said = [("cache-control", said)];
            let fresh = judge(&terms(""), 200, &said).unwrap().freshness;
            (fresh.while_revalidate.as_secs(), fresh.if_error.as_secs(), fresh.is_strict)
        };
        assert_eq!(kept("max-age=60"), (0, 0, false));
        assert_eq!(kept("max-age=60, stale-while-revalidate=5, stale-if-error=9"), (5, 9, false));
        assert_eq!(kept("s-maxage=60, stale-while-revalidate=5, stale-if-error=9"), (5, 9, true));
        assert_eq!(kept("max-age=60, stale-if-error=x"), (0, 0, false));
        for strict in ["must-revalidate", "proxy-revalidate"] {
            assert_eq!(kept(&format!("max-age=60, stale-if-error=9, {strict}")), (0, 0, true), "{strict}");
        }
        assert_eq!(kept("max-age=60, immutable"), (0, 0, false));
    }

    #[test]
    fn a_rule_helps_only_where_the_app_is_silent() {
        let ruled = Terms { rule: Some(CacheVerdict::Ttl(Duration::from_secs(7))), ..terms("Cookie: a=b\r\n") };
        let lifetime =
            |status, fields: Head<'_>| judge(&ruled, status, fields).map(|kept| kept.freshness.lifetime.as_secs());
        assert_eq!(lifetime(200, &[]), Some(7));
        assert_eq!(lifetime(200, &[OLD]), Some(7));
        assert_eq!(lifetime(200, &[("cache-control", "max-age=3")]), Some(3));
        assert_eq!(lifetime(200, &[("cache-control", "no-cache")]), None);
        assert_eq!(lifetime(200, &[("set-cookie", "a=b")]), None);
        assert_eq!(lifetime(500, &[]), None);
    }

    #[test]
    fn where_the_key_has_cookies_nothing_is_stored_that_could_depend_on_others() {
        let rule = Some(CacheVerdict::Ttl(Duration::from_secs(7)));
        let (keyed, other) = (terms(""), terms("Cookie: a=b\r\n"));
        let [keyed, other] = [keyed, other].map(|terms| Terms { rule: rule.clone(), keys_cookies: true, ..terms });
        for (fields, is_doubtful) in [(&[][..], true), (&[MINUTE], false), (&[("cache-control", "public")], false)] {
            let kept = judge(&keyed, 200, fields).map(|kept| kept.freshness.is_doubtful);
            assert_eq!((kept, judge(&other, 200, fields)), (Some(is_doubtful), None), "{fields:?}");
        }
    }

    #[test]
    fn a_body_without_an_end_of_its_own_is_never_known_to_be_whole() {
        let is = |status, fields: &[(&'static str, &str)]| {
            let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            is_delimited(StatusCode::from_u16(status).unwrap(), Fields::Map(&fields.collect::<HeaderMap>()))
        };
        assert!(is(200, &[("content-length", "1")]) && is(200, &[("transfer-encoding", "chunked")]) && is(204, &[]));
        assert!(!is(200, &[]) && !is(200, &[("transfer-encoding", "gzip")]));
    }
}
