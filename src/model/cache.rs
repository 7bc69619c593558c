//! What conf says about caching a project's responses. How a response is judged is the edge's business (RFC 9111).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A project's `[cache]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CachePolicy {
    pub enabled: bool,
    /// In the order of the conf file; the first that matches a path holds.
    pub rules: Vec<CacheRule>,
    /// Responses with a larger body are passed on and not stored, in bytes.
    pub object_max: u64,
}

/// One line of `[cache] rules`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRule {
    pub path: PathPattern,
    pub verdict: CacheVerdict,
}

/// What a rule says of the paths it matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheVerdict {
    /// Neither looked up nor stored.
    Bypass,
    /// Fresh for this long when the app itself says nothing about it.
    Ttl(Duration),
}

/// A path, or with a final `*` everything that begins with what stands before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum PathPattern {
    Exact(String),
    Prefix(String),
}

impl PathPattern {
    pub fn matches(&self, path: &str) -> bool {
        match self {
            PathPattern::Exact(exact) => path == exact,
            PathPattern::Prefix(prefix) => path.starts_with(prefix.as_str()),
        }
    }
}

impl From<String> for PathPattern {
    fn from(text: String) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => PathPattern::Prefix(prefix.to_owned()),
            None => PathPattern::Exact(text),
        }
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> String {
        match pattern {
            PathPattern::Exact(exact) => exact,
            PathPattern::Prefix(prefix) => prefix + "*",
        }
    }
}

impl CachePolicy {
    /// The rule for `path`, which carries no query.
    pub fn rule(&self, path: &str) -> Option<&CacheVerdict> {
        self.rules.iter().find(|rule| rule.path.matches(path)).map(|rule| &rule.verdict)
    }
}

impl Default for CachePolicy {
    fn default() -> Self {
        Self { enabled: true, rules: Vec::new(), object_max: 64 << 20 }
    }
}
