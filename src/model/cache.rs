//! What conf says about caching a project's responses. How a response is judged is the edge's business (RFC 9111).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cache_key::CacheKey;
use super::pattern::Pattern;

/// A project's `[cache]`.
///
/// A path may be matched by several rules. Each thing is taken from the first of them that says it: a rule that only tags
/// takes nothing from a later one that gives a time. Times and bypasses are one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CachePolicy {
    pub enabled: bool,
    pub rules: Vec<CacheRule<CacheVerdict>>,
    pub tags: Vec<CacheRule<Vec<String>>>,
    /// The project's own key stands last, for every path.
    pub keys: Vec<CacheRule<CacheKey>>,
    /// Responses with a larger body are passed on and not stored, in bytes.
    pub object_max: u64,
    /// Whether a response that sets a cookie is stored where the app says that it is for everybody.
    pub set_cookie: bool,
    pub passes: CdnFields,
    /// Whether answers say in `Cache-Status` by which key they are stored.
    pub shows_key: bool,
    /// For how long after a release was replaced what it called immutable answers where the newer one knows nothing.
    pub assets_grace: Duration,
}

/// What conf says of the paths that a pattern matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRule<T> {
    pub path: Pattern,
    pub verdict: T,
}

/// Whether responses are stored at all, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheVerdict {
    /// Neither looked up nor stored.
    Bypass,
    /// Fresh for this long when the app itself says nothing about it.
    Ttl(Duration),
}

/// Which of the fields that speak to shared caches alone go on to whoever asks: to a CDN in front, for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CdnFields {
    pub cdn_cache_control: bool,
    pub surrogate_control: bool,
}

impl CachePolicy {
    /// Whether responses for `path`, which carries no query, are stored; `None` when that is the app's to say alone.
    pub fn rule(&self, path: &str) -> Option<&CacheRule<CacheVerdict>> {
        first(&self.rules, path)
    }

    /// What responses for `path` are tagged with, beside what the app says.
    pub fn tags(&self, path: &str) -> &[String] {
        first(&self.tags, path).map_or(&[], |rule| &rule.verdict)
    }

    /// How the key for `path` is made; `None` when it is the URL as it was sent.
    pub fn key(&self, path: &str) -> Option<&CacheRule<CacheKey>> {
        first(&self.keys, path)
    }

    /// A whole URL, or a path with its query, as what answers it is stored.
    pub fn stored_url(&self, url: &str) -> String {
        let authority = if url.starts_with('/') { 0 } else { url.find("://").map_or(0, |at| at + "://".len()) };
        let (before, target) = url.split_at(url[authority..].find(['/', '?']).map_or(url.len(), |at| authority + at));
        stored_target(&self.keys, target).map_or_else(|| url.to_owned(), |own| format!("{before}{own}"))
    }
}

/// The target by which what answers this one is stored, by a policy's `keys`; `None` when it is the same.
pub fn stored_target(keys: &[CacheRule<CacheKey>], target: &str) -> Option<String> {
    let path = target.split('?').next().unwrap_or_default();
    first(keys, path)?.verdict.target(target)
}

fn first<'r, T>(rules: &'r [CacheRule<T>], path: &str) -> Option<&'r CacheRule<T>> {
    rules.iter().find(|rule| rule.path.matches(path.as_bytes()))
}

impl Default for CachePolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            rules: Vec::new(),
            tags: Vec::new(),
            keys: Vec::new(),
            object_max: 64 << 20,
            set_cookie: false,
            passes: CdnFields::default(),
            shows_key: false,
            assets_grace: Duration::from_secs(24 * 60 * 60),
        }
    }
}

impl Default for CdnFields {
    /// CDNs hand `CDN-Cache-Control` on (RFC 9213 section 3); whoever obeys `Surrogate-Control` takes it off, for it is meant
    /// for him (Edge Architecture Specification, W3C 2001, section 2.2).
    fn default() -> Self {
        Self { cdn_cache_control: true, surrogate_control: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_taken_from_the_first_rule_that_says_it() {
        let rule = |path: &str| Pattern::from(path.to_owned());
        let minute = CacheVerdict::Ttl(Duration::from_secs(60));
        let policy = CachePolicy {
            rules: vec![
                CacheRule { path: rule("/static/*"), verdict: minute.clone() },
                CacheRule { path: rule("/*"), verdict: CacheVerdict::Bypass },
            ],
            tags: vec![
                CacheRule { path: rule("/static/app.css"), verdict: vec!["css".to_owned()] },
                CacheRule { path: rule("*"), verdict: vec!["all".to_owned()] },
            ],
            ..CachePolicy::default()
        };
        let verdict = |path: &str| policy.rule(path).map(|rule| rule.verdict.clone());
        assert_eq!(
            (verdict("/static/app.css"), policy.tags("/static/app.css")),
            (Some(minute), &["css".to_owned()][..])
        );
        assert_eq!((verdict("/"), policy.tags("/")), (Some(CacheVerdict::Bypass), &["all".to_owned()][..]));
        assert_eq!(CachePolicy::default().tags("/"), &[] as &[String]);
    }

    #[test]
    fn a_url_is_purged_as_it_is_stored() {
        let key = CacheKey { sort: true, ..CacheKey::default() };
        let keys = vec![CacheRule { path: Pattern::from("/s*".to_owned()), verdict: key }];
        let policy = CachePolicy { keys, ..CachePolicy::default() };
        for (url, stored) in [
            ("/s?b=1&a=2", "/s?a=2&b=1"),
            ("https://a.test/s?b=1&a=2", "https://a.test/s?a=2&b=1"),
            ("/s?b=http://x/s?b&a=2", "/s?a=2&b=http://x/s?b"),
            ("/x?b=1&a=2", "/x?b=1&a=2"),
            ("https://a.test", "https://a.test"),
        ] {
            assert_eq!(policy.stored_url(url), stored);
        }
    }
}
