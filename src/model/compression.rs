//! What conf says about compressing a project's responses. Which responses can be compressed is the edge's business.

use serde::{Deserialize, Serialize};

use super::pattern::Pattern;

/// A project's `[compression]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CompressionPolicy {
    pub enabled: bool,
    /// Paths whose responses are left as they are: those that carry a secret beside what the visitor sent.
    pub skip: Vec<Pattern>,
}

impl CompressionPolicy {
    /// Whether a response for `path`, which carries no query, may be compressed.
    pub fn allows(&self, path: &str) -> bool {
        self.enabled && !self.skip.iter().any(|pattern| pattern.matches(path.as_bytes()))
    }
}

impl Default for CompressionPolicy {
    fn default() -> Self {
        Self { enabled: true, skip: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_or_off_is_not_compressed() {
        let policy = CompressionPolicy { skip: vec!["/account/*".to_owned().into()], ..Default::default() };
        assert!(policy.allows("/") && !policy.allows("/account/me"));
        assert!(!CompressionPolicy { enabled: false, ..policy }.allows("/"));
    }
}
