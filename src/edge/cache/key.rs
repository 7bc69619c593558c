//! What a stored response is found by.
//!
//! Made by `cache` for each request that may be answered from it. The rule: the key begins with site and upstream, so
//! that no project can see another's responses and no release an older one's.

use crate::edge::request::Asked;
use crate::model::name::Site;
use crate::model::route::UpstreamId;

/// Site, upstream, scheme, authority and target, separated by NUL, which none of them can contain. The authority stands
/// as it was sent, because an app sees it so and may write it into its answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(Box<str>);

impl Key {
    pub fn new(site: &Site, upstream: &UpstreamId, asked: &Asked<'_>) -> Self {
        let parts = [site.project.as_str(), &upstream.0, asked.scheme, asked.authority, asked.target];
        Self(parts.join("\0").into_boxed_str())
    }

    /// Of another URL of the same site and release.
    pub fn beside(&self, scheme: &str, authority: &str, target: &str) -> Self {
        let [project, upstream, ..] = self.parts();
        Self([project, upstream, scheme, authority, target].join("\0").into_boxed_str())
    }

    /// Of the same URL under another release.
    pub fn under(&self, upstream: &UpstreamId) -> Self {
        let [project, _, scheme, authority, target] = self.parts();
        Self([project, &upstream.0, scheme, authority, target].join("\0").into_boxed_str())
    }

    pub fn project(&self) -> &str {
        self.parts()[0]
    }

    /// The name of its site, as `UpstreamId` has it.
    pub fn site(&self) -> &str {
        self.parts()[1].split(['#', '@']).next().unwrap_or_default()
    }

    /// Project, upstream, scheme, authority and target.
    pub fn parts(&self) -> [&str; 5] {
        let mut parts = self.0.splitn(5, '\0');
        std::array::from_fn(|_| parts.next().unwrap_or_default())
    }

    pub fn text(&self) -> &str {
        &self.0
    }

    /// Bytes it takes.
    pub fn weight(&self) -> usize {
        self.0.len()
    }
}
