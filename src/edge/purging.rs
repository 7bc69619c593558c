//! PURGE requests: whoever shows a site's secret may purge what is stored of it.
//!
//! Called by `answer`, on the site's own host. The rule: without the secret nothing is purged, with it nothing of another
//! site; and no PURGE ever reaches an app.

use super::answer::What;
use super::cache::{Cache, tags};
use super::failure::Failure;
use super::field::Fields;
use super::request::Asked;
use super::routing::Entry;
use crate::link::{Purge, PurgeScope};
use crate::model::purge_key::PurgeKey;

/// Makes what is purged stale instead, as for Fastly.
const SOFT: &str = "fastly-soft-purge";

pub fn is_asked(asked: &Asked<'_>) -> bool {
    asked.method.as_str() == "PURGE"
}

/// Purges the URL, or what has the tags that the request names.
pub fn purge(cache: &Cache, entry: &Entry, asked: &Asked<'_>) -> What {
    let (Some(site), Some(key)) = (&entry.site, &entry.purge_key) else { return What::Refuse(Failure::Method) };
    if !shows(key, asked.fields) {
        return What::Refuse(Failure::Unauthorized);
    }
    let Some(scopes) = scopes(asked) else { return What::Refuse(Failure::Malformed) };
    let is_soft = asked.fields.first(SOFT) == Some(b"1");
    for scope in scopes {
        let scope = match scope {
            PurgeScope::Url(url) => PurgeScope::Url(entry.cache.stored_url(&url)),
            scope => scope,
        };
        let (project, branch) = (site.project.clone(), Some(site.branch.clone()));
        cache.purge(&Purge { project, branch, scope, is_soft });
    }
    What::Purged
}

/// Whether the request shows the secret (RFC 6750 section 2.1).
fn shows(key: &PurgeKey, fields: Fields<'_>) -> bool {
    let mut said = fields.all("authorization");
    let (Some(credentials), None) = (said.next(), said.next()) else { return false };
    match credentials.split_at_checked(7) {
        Some((scheme, token)) => scheme.eq_ignore_ascii_case(b"bearer ") && key.fits(token.trim_ascii()),
        None => false,
    }
}

/// `None` for tags that no response can have.
fn scopes(asked: &Asked<'_>) -> Option<Vec<PurgeScope>> {
    if !tags::are_said(asked.fields) {
        let host = asked.host.in_url();
        return Some(vec![PurgeScope::Url(format!("{}://{host}{}", asked.scheme, asked.target))]);
    }
    let tags = tags::said(asked.fields).filter(|tags| !tags.is_empty())?;
    tags.into_iter().map(|tag| String::from_utf8(tag.to_vec()).ok().map(PurgeScope::Tag)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::asking;
    use super::*;

    #[test]
    fn only_the_secret_itself_opens() {
        let key = PurgeKey::of(b"0123456789abcdef");
        let shows = |lines: &str| {
            asking("/", &format!("Host: a\r\n{lines}"), false, |asked| shows(&key, asked.unwrap().fields))
        };
        assert!(shows("Authorization: Bearer 0123456789abcdef\r\n"));
        assert!(shows("authorization: bearer  0123456789abcdef\r\n"));
        for other in [
            "",
            "Authorization: 0123456789abcdef\r\n",
            "Authorization: Basic 0123456789abcdef\r\n",
            "Authorization: Bearer\r\n",
            "Authorization: Bearer 0123456789abcdeF\r\n",
            "Authorization: Bearer 0123456789abcdef0\r\n",
            "Authorization: Bearer 0123456789abcde\r\n",
            "Authorization: Bearer x\r\nAuthorization: Bearer 0123456789abcdef\r\n",
            "X-Authorization: Bearer 0123456789abcdef\r\n",
        ] {
            assert!(!shows(other), "{other:?}");
        }
    }

    #[test]
    fn tags_are_purged_in_place_of_the_url() {
        let scopes = |lines: &str| {
            asking("/a?b", &format!("Host: Shop.test:80\r\n{lines}"), false, |asked| scopes(&asked.unwrap()))
        };
        let tag = |tag: &str| PurgeScope::Tag(tag.to_owned());
        assert_eq!(scopes(""), Some(vec![PurgeScope::Url("http://shop.test/a?b".to_owned())]));
        assert_eq!(scopes("Surrogate-Key: a b\r\nCache-Tag: c d, e\r\n"), Some(["a", "b", "c d", "e"].map(tag).into()));
        assert_eq!(scopes("Surrogate-Key: \r\n"), None);
        assert_eq!(scopes(&format!("Cache-Tag: {}\r\n", "x".repeat(2000))), None);
    }
}
