//! What a person has put between a site's visitors and its app: a pause, or a page that says so.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::name::Site;

/// It holds until it is taken back, whatever is deployed meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    /// Requests wait for what is not stored, each at most this long.
    Pause { within: Duration },
    /// Every request is answered by a page.
    Maintenance(Notice),
}

/// What the page says: the project's own words in place of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notice {
    /// A sentence for visitors.
    pub message: Option<String>,
    /// All of the page, as HTML.
    pub page: Option<String>,
}

impl Hold {
    /// In a word, for lists.
    pub fn as_str(&self) -> &'static str {
        match self {
            Hold::Pause { .. } => "paused",
            Hold::Maintenance(_) => "in maintenance",
        }
    }
}

/// A hold of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub site: Site,
    pub hold: Hold,
    #[serde(with = "super::instant")]
    pub since: SystemTime,
}
