//! What the cache would make of a request that nobody makes, and which word decided.
//!
//! Called by `why`, from where the disk may be waited for. The rule: it is judged by the same pieces as any request, and
//! leaves no trace.

use std::sync::Arc;

use super::Cache;
use super::policy;
use super::reason::Reason;
use super::seen::Seen;
use super::stored::Stored;
use super::wish::Wish;
use crate::edge::field::Fields;
use crate::edge::request::Asked;
use crate::edge::routing::Entry;
use crate::link::why::{CacheOutlook, StoredOutlook};
use crate::model::cache::CacheVerdict;
use crate::model::route::UpstreamId;

pub fn explain(cache: &Cache, entry: &Entry, upstream: &UpstreamId, asked: &Asked<'_>) -> CacheOutlook {
    let Some(seen) = Seen::of(entry, asked) else {
        let (verdict, why) = (Reason::Off.word().to_owned(), Reason::Off.explained());
        return CacheOutlook { verdict, why, ..CacheOutlook::default() };
    };
    let key = seen.key(upstream, asked);
    let (variants, is_right) = (cache.tiers.variants(&key), seen.is_right(asked));
    let found = variants.iter().find(|stored| is_right(&stored.variant));
    let judged =
        seen.wish.and_then(|wish| seen.judge(&wish, found, || !variants.is_empty(), asked).map(|(_, ttl)| ttl));
    let rule = seen.rule.map(|rule| &rule.verdict);
    let stored = found.map(|stored| outlook(stored, rule, asked));
    let said_by = stored.as_ref().map(|stored| stored.said_by.as_str()).unwrap_or_default();
    let (verdict, why) = match judged {
        Ok(ttl) if ttl < 0 => ("hit", "stale, which the request's `max-stale` allows".to_owned()),
        Ok(ttl) => ("hit", format!("fresh for {ttl} s more by {said_by}")),
        Err(reason) => (reason.word(), why(reason, &seen, found, asked)),
    };
    let is_unavailable = judged.is_err() && seen.wish.is_ok_and(|wish| wish.only_if_cached);
    CacheOutlook {
        verdict: if is_unavailable { "unavailable" } else { verdict }.to_owned(),
        why,
        then: if judged.is_ok() || is_unavailable { String::new() } else { then(&seen) },
        key: Some(String::from_utf8_lossy(&seen.text(asked)).into_owned()),
        rule: seen.rule.cloned(),
        key_rule: seen.key_rule.cloned(),
        tags: seen.tags.to_vec(),
        stored,
        variants: variants.len(),
    }
}

fn outlook(stored: &Arc<Stored>, rule: Option<&CacheVerdict>, asked: &Asked<'_>) -> StoredOutlook {
    StoredOutlook {
        status: stored.status.as_u16(),
        bytes: stored.body.len() as u64,
        age: stored.age(asked.at).as_secs(),
        ttl: stored.ttl(asked.at),
        said_by: policy::said_by(Fields::Map(&stored.said()), rule),
        vary: stored.variant.names().map(ToString::to_string).collect(),
    }
}

/// The reason with what can be named of it.
fn why(reason: Reason, seen: &Seen<'_>, found: Option<&Arc<Stored>>, asked: &Asked<'_>) -> String {
    match (reason, seen.rule, found) {
        (Reason::Rule, Some(rule), _) => format!("the rule for {} leaves it out", String::from(rule.path.clone())),
        (Reason::Stale, _, Some(stored)) => format!("what is stored was fresh until {} s ago", -stored.ttl(asked.at)),
        _ => reason.explained(),
    }
}

/// What would become of the app's answer, as far as that can be known before.
fn then(seen: &Seen<'_>) -> String {
    let Ok(wish) = seen.wish else { return "the app is asked as it is sent, and its answer is not stored".to_owned() };
    match wish {
        Wish { may_store: false, may_store_part: false, .. } => {
            "the app's answer is not stored: only one to a GET is, and not where the request forbids it".to_owned()
        }
        Wish { has_cookie: true, .. } if seen.keys_cookies() => {
            "the app's answer is not stored: the request has a cookie that is not in the key".to_owned()
        }
        Wish { may_store: false, .. } => "the part that the app sends is stored as the whole would be".to_owned(),
        Wish { is_authorized: true, .. } => {
            "the app's answer is stored when it says `public`, `s-maxage` or `must-revalidate`".to_owned()
        }
        _ => match seen.rule.map(|rule| (&rule.verdict, &rule.path)) {
            Some((CacheVerdict::Ttl(ttl), path)) => {
                let (ttl, path) = (ttl.as_secs(), String::from(path.clone()));
                format!("the app's answer is stored as it says, or else for {ttl} s by the rule for {path}")
            }
            _ => "the app's answer is stored when it says for how long, or can be asked about".to_owned(),
        },
    }
}
