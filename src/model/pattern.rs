//! What conf says names by: one of them, or all that begin alike.
//!
//! Used by the policies of a project, for paths and for the names of a query's parameters.

use serde::{Deserialize, Serialize};

/// A text, or with a final `*` everything that begins with what stands before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Pattern {
    Exact(String),
    Prefix(String),
}

impl Pattern {
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Pattern::Exact(exact) => text == exact.as_bytes(),
            Pattern::Prefix(prefix) => text.starts_with(prefix.as_bytes()),
        }
    }
}

impl From<String> for Pattern {
    fn from(text: String) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Pattern::Prefix(prefix.to_owned()),
            None => Pattern::Exact(text),
        }
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        match pattern {
            Pattern::Exact(exact) => exact,
            Pattern::Prefix(prefix) => prefix + "*",
        }
    }
}
