//! A request as the cache sees it: what conf says of its path, and what it allows itself.
//!
//! Made by `mod` for every request to a site that is cached, and by `explain`. The rule: where conf says nothing of keys it
//! costs nothing.

use std::cell::LazyCell;
use std::sync::Arc;

use super::key::Key;
use super::policy::Terms;
use super::reason::Reason;
use super::stored::Stored;
use super::vary::{Asking, Variant};
use super::wish::Wish;
use crate::edge::compress::Negotiation;
use crate::edge::request::Asked;
use crate::edge::routing::Entry;
use crate::model::cache::{CacheRule, CacheVerdict};
use crate::model::cache_key::{CacheKey, Cookies};
use crate::model::name::Site;
use crate::model::route::UpstreamId;

#[derive(Debug)]
pub struct Seen<'e> {
    entry: &'e Entry,
    site: &'e Site,
    pub rule: Option<&'e CacheRule<CacheVerdict>>,
    pub key_rule: Option<&'e CacheRule<CacheKey>>,
    /// The target in the key, where it is not the one that was sent.
    pub target: Option<String>,
    /// Where some are part of the key.
    cookies: Option<Cookies>,
    /// What conf has its responses tagged with.
    pub tags: &'e [String],
    /// What it allows, or why the cache has no part in it.
    pub wish: Result<Wish, Reason>,
}

impl<'e> Seen<'e> {
    /// `None` where nothing of the site is stored.
    pub fn of(entry: &'e Entry, asked: &Asked<'_>) -> Option<Self> {
        let site = entry.site.as_ref().filter(|_| entry.cache.enabled)?;
        let (rule, key_rule) = (entry.cache.rule(asked.path), entry.cache.key(asked.path));
        let tags = entry.cache.tags(asked.path);
        let key = key_rule.map(|rule| &rule.verdict);
        let target = key.and_then(|key| key.target(asked.target));
        let cookies = key.and_then(|key| key.cookies(asked.fields.all("cookie")));
        let mut wish = Wish::of(asked, rule.map(|rule| &rule.verdict));
        if let (Ok(wish), Some(cookies)) = (&mut wish, &cookies) {
            wish.has_cookie = cookies.has_others;
        }
        Some(Self { entry, site, rule, key_rule, target, cookies, tags, wish })
    }

    pub fn key(&self, upstream: &UpstreamId, asked: &Asked<'_>) -> Key {
        let key = Key::new(self.site, upstream, asked);
        match &self.target {
            None => key,
            Some(target) => key.beside(asked.scheme, asked.authority, target),
        }
    }

    /// Judges variants; of the request only what a variant depends on is looked at.
    pub fn is_right(&self, asked: &Asked<'_>) -> impl Fn(&Variant) -> bool {
        let coding = LazyCell::new(|| Negotiation::of(&self.entry.compression, asked).coding());
        let cookies = self.cookies();
        move |variant| variant.answers(asked, cookies, || *coding)
    }

    /// Whether what was found answers the request: for how many seconds it is still fresh, else why it does not. `has_others`
    /// says whether anything is stored for the URL.
    pub fn judge<'f>(
        &self,
        wish: &Wish,
        found: Option<&'f Arc<Stored>>,
        has_others: impl FnOnce() -> bool,
        asked: &Asked<'_>,
    ) -> Result<(&'f Arc<Stored>, i64), Reason> {
        let is_here = |stored: &Stored| !stored.is_part() || stored.shape(&asked.method, asked.fields).is_some();
        match found.map(|stored| (stored, stored.answers(wish, asked.at))) {
            Some((stored, Ok(_))) if !is_here(stored) => Err(Reason::Partial),
            Some((stored, Ok(ttl))) => Ok((stored, ttl)),
            Some((_, Err(reason))) if reason.is_of_visitor() => Err(reason),
            _ if !wish.takes_stored => Err(Reason::Unwanted),
            Some((_, Err(reason))) => Err(reason),
            None if has_others() => Err(Reason::Variant),
            None => Err(Reason::Missing),
        }
    }

    /// What bears on an answer that may be stored.
    pub fn terms(&self, wish: Wish) -> Terms {
        Terms {
            wish,
            rule: self.rule.map(|rule| rule.verdict.clone()),
            takes_cookies: self.entry.cache.set_cookie,
            keys_cookies: self.keys_cookies(),
            tags: self.tags.to_vec(),
            passes: self.entry.cache.passes,
        }
    }

    /// Whether conf says which cookies are part of the key.
    pub fn keys_cookies(&self) -> bool {
        self.cookies.is_some()
    }

    pub fn asking(&self, asked: &Asked<'_>) -> Asking {
        Asking::of(asked, self.cookies().map(Box::from))
    }

    /// The key as people read it: the URL, and the cookies behind it.
    pub fn text(&self, asked: &Asked<'_>) -> Vec<u8> {
        let target = self.target.as_deref().unwrap_or(asked.target);
        let url = [asked.scheme, "://", asked.authority, target].concat().into_bytes();
        match self.cookies().filter(|cookies| !cookies.is_empty()) {
            Some(cookies) => [&url[..], b" ", cookies].concat(),
            None => url,
        }
    }

    /// Those in the key.
    fn cookies(&self) -> Option<&[u8]> {
        self.cookies.as_ref().map(|cookies| &*cookies.keyed)
    }
}
