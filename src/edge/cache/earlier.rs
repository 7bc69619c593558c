//! What an earlier release has said of a URL for good, for pages that are still open when the next one does not know it.
//!
//! Made by `cache` with a request for which nothing is stored; `fetch` and `gateway` take it when the app answers 404. The
//! rule: only what its app called `immutable`, only under the releases that the route names, and no longer than their grace.

use std::time::{Instant, SystemTime};

use http::{HeaderMap, Method, StatusCode, header};

use super::Cache;
use super::control::Control;
use super::disk::Reading;
use super::key::Key;
use super::refresh::for_less;
use super::seen::Seen;
use super::status::CacheStatus;
use super::stored::Stored;
use super::vary::{Asking, Variant};
use super::wish::Wish;
use crate::edge::compress::{Coding, Negotiation};
use crate::edge::field::Fields;
use crate::edge::request::Asked;
use crate::edge::respond::Own;
use crate::edge::routing::Entry;

#[derive(Debug)]
pub struct Earlier {
    /// Of the same URL, the newest release first.
    keys: Vec<Key>,
    asking: Asking,
    coding: Option<Coding>,
    wish: Wish,
    status: CacheStatus,
    method: Method,
    conditions: HeaderMap,
}

impl Earlier {
    /// `None` where no earlier release counts any more.
    pub fn of(entry: &Entry, seen: &Seen<'_>, asked: &Asked<'_>, key: &Key, status: CacheStatus) -> Option<Self> {
        if entry.replaced.is_empty() {
            return None;
        }
        let (now, grace) = (SystemTime::now(), entry.cache.assets_grace);
        let counts = |at: SystemTime| now.duration_since(at).is_ok_and(|since| since < grace);
        let keys: Vec<Key> =
            entry.replaced.iter().filter(|one| counts(one.at)).map(|one| key.under(&one.upstream)).collect();
        let wish = seen.wish.ok().filter(|_| !keys.is_empty())?;
        let coding = Negotiation::of(&entry.compression, asked).coding();
        let (asking, method, conditions) = (seen.asking(asked), asked.method.clone(), for_less(asked));
        Some(Self { keys, asking, coding, wish, status, method, conditions })
    }

    /// What the client gets in place of the app's answer, and what is said of it. It may have to be read from disk, which is
    /// waited for: that is rare.
    pub fn instead(&self, cache: &Cache, status: StatusCode) -> Option<(Own, CacheStatus)> {
        if status != StatusCode::NOT_FOUND {
            return None;
        }
        let is_right = |variant: &Variant| variant.alike(&self.asking, self.coding) == *variant;
        let find = |key: &Key| cache.tiers.find(key, is_right, Reading::Patient).ok().flatten();
        let now = Instant::now();
        let is_good = |stored: &Stored| is_asset(stored) && stored.answers(&self.wish, now).is_ok();
        let stored = self.keys.iter().filter_map(find).find(|stored| is_good(stored))?;
        let own = Own::stored(&stored, &self.method, Fields::Map(&self.conditions), now);
        Some((own, self.status.answered(Some(status)).of_earlier()))
    }
}

/// Whether it stays what it is under its name (RFC 8246).
fn is_asset(stored: &Stored) -> bool {
    let says_so = |value: &[u8]| {
        let mut control = Control::default();
        control.read(value);
        control.is_immutable
    };
    stored.status == StatusCode::OK && !stored.is_part() && stored.field(&header::CACHE_CONTROL).is_some_and(says_so)
}
