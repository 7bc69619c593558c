//! What a write that did not fail makes untrue, and what an answer to HEAD does.
//!
//! Pure. Called by `fill` with the answer's head. The rule: a write reaches the stored responses of its own host and no
//! other (RFC 9111 sections 4.3.5 and 4.4).

use http::{StatusCode, header};

use super::key::Key;
use super::stored::Stored;
use crate::edge::field::Fields;
use crate::model::cache::{CacheRule, stored_target};
use crate::model::cache_key::CacheKey;
use crate::model::host::HostName;

/// The keys of everything that has changed with a request for `key` that was answered so; `rules` say how conf has keys made.
pub fn changed(key: &Key, status: StatusCode, fields: Fields<'_>, rules: &[CacheRule<CacheKey>]) -> Vec<Key> {
    if !status.is_success() && !status.is_redirection() {
        return Vec::new();
    }
    let [.., scheme, authority, target] = key.parts();
    let mut keys = spellings(key, scheme, authority, authority, target);
    for name in ["location", "content-location"] {
        let Some(reference) = fields.text(name) else { continue };
        let (own_scheme, own, target) = resolved(scheme, authority, target, reference);
        if is_same_host(own, authority) {
            let target = stored_target(rules, &target).unwrap_or(target);
            keys.extend(spellings(key, own_scheme, own, authority, &target));
        }
    }
    keys.dedup();
    keys
}

/// A URL may have been asked for by the authority as it stands there, as the writer spelled it, and as most do.
fn spellings(key: &Key, scheme: &str, own: &str, asked: &str, target: &str) -> Vec<Key> {
    let usual = usual(scheme, own);
    let mut authorities = vec![own, asked];
    authorities.extend(usual.as_deref());
    authorities.dedup();
    authorities.into_iter().map(|authority| key.beside(scheme, authority, target)).collect()
}

/// Lower case, and without the port that goes without saying.
fn usual(scheme: &str, authority: &str) -> Option<String> {
    let host = HostName::from_authority(authority).ok()?.in_url();
    let after_host = authority.rfind(']').map_or(0, |end| end + 1);
    let port = authority[after_host..].find(':').map_or("", |colon| &authority[after_host + colon..]);
    let is_said = !matches!((scheme, port), ("http", ":80") | ("https", ":443") | (_, ":"));
    Some(format!("{host}{}", if is_said { port } else { "" }))
}

fn is_same_host(one: &str, other: &str) -> bool {
    matches!((HostName::from_authority(one), HostName::from_authority(other)), (Ok(one), Ok(other)) if one == other)
}

/// Scheme, authority and target that a reference means (RFC 3986 section 5.2).
fn resolved<'r>(scheme: &'r str, authority: &'r str, base: &str, reference: &'r str) -> (&'r str, &'r str, String) {
    let reference = reference.split('#').next().unwrap_or_default();
    let (scheme, rest) = match reference.split_once("://") {
        Some((own, _)) if own.eq_ignore_ascii_case("http") => ("http", &reference[own.len() + 1..]),
        Some((own, _)) if own.eq_ignore_ascii_case("https") => ("https", &reference[own.len() + 1..]),
        _ => (scheme, reference),
    };
    if let Some(rest) = rest.strip_prefix("//") {
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let slash = if target.starts_with('/') { "" } else { "/" };
        return (scheme, authority, plain(&format!("{slash}{target}")));
    }
    let path = base.split('?').next().unwrap_or_default();
    let target = match rest {
        "" => base.to_owned(),
        rest if rest.starts_with('/') => plain(rest),
        rest if rest.starts_with('?') => format!("{path}{rest}"),
        rest => plain(&format!("{}{rest}", &path[..path.rfind('/').map_or(0, |slash| slash + 1)])),
    };
    (scheme, authority, target)
}

/// Without `.` and `..` (RFC 3986 section 5.2.4).
fn plain(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let (mut segments, mut is_directory) = (Vec::new(), false);
    for segment in path.split('/').skip(1) {
        is_directory = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    if is_directory {
        segments.push("");
    }
    format!("/{}{query}", segments.join("/"))
}

/// Whether what HEAD was answered shows that a stored response to GET is not what is there any more.
pub fn contradicts(stored: &Stored, status: StatusCode, fields: Fields<'_>) -> bool {
    if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
        return stored.status.is_success();
    }
    if status != StatusCode::OK || stored.status != status {
        return false;
    }
    let differs =
        |own: Option<&[u8]>, said: Option<&[u8]>| matches!((own, said), (Some(own), Some(said)) if own != said);
    let is_other_tag = match (stored.tag(), fields.first("etag")) {
        (Some(own), Some(said)) => !is_same_tag(own, said),
        _ => false,
    };
    let modified = stored.field(&header::LAST_MODIFIED);
    let length = fields.text("content-length").and_then(|length| length.parse::<usize>().ok());
    is_other_tag
        || differs(modified, fields.first("last-modified"))
        || length.is_some_and(|length| !stored.is_coded() && length != stored.length())
}

/// Weak comparison (RFC 9110 section 8.8.3.2).
pub fn is_same_tag(one: &[u8], other: &[u8]) -> bool {
    let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").map_or(tag.len(), <[u8]>::len);
    one[one.len() - opaque(one)..] == other[other.len() - opaque(other)..]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::{HeaderMap, HeaderName};

    use super::*;
    use crate::edge::request::tests::asking;
    use crate::model::route::UpstreamId;

    fn key(target: &str, host: &str) -> Key {
        let id = UpstreamId("shop/master#r1".to_owned());
        let lines = format!("Host: {host}\r\n");
        asking(target, &lines, false, |asked| Key::new(&"shop".parse().unwrap(), &id, &asked.unwrap()))
    }

    fn urls(status: u16, fields: &[(&'static str, &str)]) -> BTreeSet<String> {
        let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let fields: HeaderMap = fields.collect();
        let status = StatusCode::from_u16(status).unwrap();
        let keys = changed(&key("/a/b?c", "Shop.test:80"), status, Fields::Map(&fields), &[]);
        let url = |key: &Key| {
            let [_, _, scheme, authority, target] = key.parts();
            format!("{scheme}://{authority}{target}")
        };
        keys.iter().map(url).filter(|url| *url == url.to_lowercase().replace(":80/", "/")).collect()
    }

    #[test]
    fn a_write_changes_its_own_url_and_those_it_names_on_its_host() {
        let own = "http://shop.test/a/b?c";
        for (name, reference, url) in [
            ("location", "/x", "http://shop.test/x"),
            ("content-location", "/x?y#z", "http://shop.test/x?y"),
            ("location", "x", "http://shop.test/a/x"),
            ("location", "../x", "http://shop.test/x"),
            ("location", "../../../x/./y/..", "http://shop.test/x/"),
            ("location", "?d", "http://shop.test/a/b?d"),
            ("location", "//SHOP.test/x", "http://shop.test/x"),
            ("location", "http://shop.test:80/x", "http://shop.test/x"),
            ("location", "HTTP://shop.test", "http://shop.test/"),
        ] {
            assert_eq!(urls(201, &[(name, reference)]), [own, url].map(str::to_owned).into(), "{reference}");
        }
        for other in ["http://other.test/x", "//other.test/x", "http://shop.test@other.test/x", ""] {
            assert_eq!(urls(303, &[("location", other)]), [own.to_owned()].into(), "{other}");
        }
        assert!([400, 404, 500, 503].iter().all(|status| urls(*status, &[("location", "/x")]).is_empty()));
    }
}
