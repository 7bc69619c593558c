//! The meaning of a project's `[cache]`: what is stored, for how long, under which key, and what is said of it.
//!
//! Called by `project`. The rule it keeps: a line that could do nothing is a fault, for whoever wrote it expects something.

use std::time::Duration;

use crate::model::cache::{CachePolicy, CacheRule, CacheVerdict, CdnFields};
use crate::model::cache_key::{CacheKey, QueryKey};
use crate::model::pattern::Pattern;

use super::machine::Ground;
use super::raw::{Table, Word};

pub fn read(mut table: Table<'_>, ground: &Ground<'_>) -> CachePolicy {
    let mut policy = ground.cache_policy();
    if let Some(enabled) = table.word("enabled").and_then(|word| word.flag()) {
        policy.enabled = enabled;
    }
    if let Some(bytes) = table.word("object_max").and_then(|word| word.size(1)) {
        policy.object_max = bytes;
    }
    if let Some(set_cookie) = table.word("set_cookie").and_then(|word| word.flag()) {
        policy.set_cookie = set_cookie;
    }
    if let Some(words) = table.list("pass") {
        let names: Vec<_> = words.iter().filter_map(|word| word.choice(&CDN_FIELDS)).collect();
        let has = |field| names.contains(&field);
        policy.passes =
            CdnFields { cdn_cache_control: has(CdnField::Cdn), surrogate_control: has(CdnField::Surrogate) };
    }
    if let Some(shows_key) = table.word("status").and_then(|word| word.choice(&STATUSES)) {
        policy.shows_key = shows_key;
    }
    if let Some(grace) = table.word("assets_grace").and_then(|word| word.duration(Duration::ZERO..=GRACE_MAX)) {
        policy.assets_grace = grace;
    }
    for word in table.list("rules").unwrap_or_default() {
        add_rule(&mut policy, &word);
    }
    // Behind those of the rules, of which the first holds.
    if let Some(key) = table.word("key").and_then(key) {
        policy.keys.push(CacheRule { path: Pattern::Prefix(String::new()), verdict: key });
    }
    table.close();
    policy
}

fn add_rule(policy: &mut CachePolicy, word: &Word<'_>) {
    let Some(mut table) = word.clone().table() else { return };
    let (path, ttl, bypass) = (table.word("path"), table.word("ttl"), table.word("bypass"));
    let (tags, own_key) = (table.list("tags"), table.word("key"));
    table.close();
    let says_more = tags.is_some() || own_key.is_some();
    let path = match path {
        Some(path) => path_pattern(&path, "for a cache rule"),
        None => word.wrong("a cache rule needs a `path`", "path = \"/static/*\"".to_owned()),
    };
    let verdict = match (ttl, bypass) {
        (None, None) if says_more => None,
        (None, Some(bypass)) if says_more => {
            bypass.wrong("what is not stored has neither tags nor a key", "keep `bypass` alone".to_owned())
        }
        (Some(ttl), None) => ttl.duration(Duration::ZERO..=TTL_MAX).map(CacheVerdict::Ttl),
        (None, Some(bypass)) => bypass.flag().and_then(|flag| match flag {
            true => Some(CacheVerdict::Bypass),
            false => bypass.wrong("`bypass` can only be true", "leave the rule out".to_owned()),
        }),
        (Some(_), Some(_)) => word.wrong("a cache rule has either a `ttl` or `bypass = true`", None),
        (None, None) => {
            word.wrong("a cache rule says nothing", "it has a `ttl`, `bypass`, `tags` or a `key`".to_owned())
        }
    };
    let tags = tags.map(|words| words.iter().filter_map(tag).collect());
    let own_key = own_key.and_then(key);
    let Some(path) = path else { return };
    policy.rules.extend(verdict.map(|verdict| CacheRule { path: path.clone(), verdict }));
    policy.tags.extend(tags.map(|verdict| CacheRule { path: path.clone(), verdict }));
    policy.keys.extend(own_key.map(|verdict| CacheRule { path, verdict }));
}

/// A word as apps list them, so that a purge can name it.
fn tag(word: &Word<'_>) -> Option<String> {
    let text = word.line()?;
    match text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',') && text.len() <= TAG_MAX {
        true => Some(text.to_owned()),
        false => {
            let hint = format!("up to {TAG_MAX} printable characters of ASCII, without spaces and commas");
            word.wrong(format!("`{text}` is not a tag"), hint)
        }
    }
}

fn key(word: Word<'_>) -> Option<CacheKey> {
    let mut table = word.clone().table()?;
    let (ignore, allow) = (table.list("ignore"), table.list("allow"));
    let sort = table.word("sort").map_or(Some(false), |word| word.flag());
    let cookies = table.list("cookies").unwrap_or_default();
    table.close();
    let names = |words: Vec<Word<'_>>| words.iter().filter_map(parameter).collect();
    let query = match (ignore, allow) {
        (None, None) => QueryKey::Whole,
        (Some(ignore), None) => QueryKey::Without(names(ignore)),
        (None, Some(allow)) => QueryKey::Only(names(allow)),
        (Some(_), Some(_)) => {
            return word.wrong("a key has either `ignore` or `allow`", "`allow` ignores all others".to_owned());
        }
    };
    Some(CacheKey { query, sort: sort?, cookies: cookies.iter().filter_map(cookie).collect() })
}

/// The name of a query's parameter.
fn parameter(word: &Word<'_>) -> Option<Pattern> {
    let text = word.line()?;
    match text.strip_suffix('*').unwrap_or(text).contains(['*', '&', '=']) {
        false => Some(Pattern::from(text.to_owned())),
        true => {
            let hint = "as it reads decoded, without `&` and `=`; it may end with one `*`";
            word.wrong(format!("`{text}` is not the name of a parameter"), hint.to_owned())
        }
    }
}

/// RFC 6265 section 4.1.1.
fn cookie(word: &Word<'_>) -> Option<String> {
    let text = word.line()?;
    let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&byte);
    match text.bytes().all(is_good) {
        true => Some(text.to_owned()),
        false => word.wrong(format!("`{text}` is not the name of a cookie"), "a whole name: \"lang\"".to_owned()),
    }
}

/// `what` says what the path is for, in a fault.
pub fn path_pattern(word: &Word<'_>, what: &str) -> Option<Pattern> {
    let text = word.line()?;
    let before = text.strip_suffix('*').unwrap_or(text);
    match before.starts_with('/') && !before.contains(['*', '?', '#', ' ']) {
        true => Some(Pattern::from(text.to_owned())),
        false => {
            let hint = "it begins with `/`, without a query, and may end with one `*`";
            word.wrong(format!("`{text}` is not a path {what}"), hint.to_owned())
        }
    }
}

/// The fields that `pass` may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CdnField {
    Cdn,
    Surrogate,
}

const CDN_FIELDS: [(&str, CdnField); 2] =
    [("CDN-Cache-Control", CdnField::Cdn), ("Surrogate-Control", CdnField::Surrogate)];
/// Whether the key is shown.
const STATUSES: [(&str, bool); 2] = [("plain", false), ("key", true)];
const TTL_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Nobody keeps a page open for longer.
const GRACE_MAX: Duration = Duration::from_secs(30 * 86_400);
const TAG_MAX: usize = 128;
