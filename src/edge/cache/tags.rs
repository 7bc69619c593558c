//! The names that an app gives to what a response is made of, so that it can be purged by them.
//!
//! Pure. Read by `fill` and `refresh` of an app's answer, and by `purging` of a PURGE request. The rule: they are said to
//! caches alone and leave with no answer; one that says more than can be kept is not stored, for it could not be purged.

use crate::edge::field::Fields;

/// Tags of one response.
const TAGS_MAX: usize = 1024;
/// Bytes of one tag, as Fastly and Cloudflare have it.
const TAG_MAX: usize = 1024;

/// Where they are listed, and what stands between two of them.
const FIELDS: [(&str, &[u8]); 2] = [("surrogate-key", b" \t"), ("cache-tag", b",")];

/// Whether a message names tags at all.
pub fn are_said(fields: Fields<'_>) -> bool {
    FIELDS.iter().any(|(field, _)| fields.has(field))
}

/// All tags that a message names; `None` when there are too many, or one is too long.
pub fn said(fields: Fields<'_>) -> Option<Vec<&[u8]>> {
    let mut tags = Vec::new();
    for (field, between) in FIELDS {
        for value in fields.all(field) {
            let said = value.split(|byte| between.contains(byte)).map(<[u8]>::trim_ascii).filter(|tag| !tag.is_empty());
            // Never more of them than will be looked at.
            tags.extend(said.take(TAGS_MAX + 1 - tags.len()));
        }
    }
    let is_kept = tags.len() <= TAGS_MAX && tags.iter().all(|tag| tag.len() <= TAG_MAX);
    is_kept.then_some(tags)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    fn of(lines: &[(&'static str, &str)]) -> Option<Vec<String>> {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        let mut map = HeaderMap::new();
        lines.iter().map(field).for_each(|(name, value)| _ = map.append(name, value));
        let tags = said(Fields::Map(&map))?;
        Some(tags.into_iter().map(|tag| String::from_utf8_lossy(tag).into_owned()).collect())
    }

    #[test]
    fn each_field_has_its_own_kind_of_list() {
        for (lines, tags) in [
            (&[][..], &[][..]),
            (&[("surrogate-key", "a b")], &["a", "b"]),
            (&[("surrogate-key", "  a\t b,c ")], &["a", "b,c"]),
            (&[("surrogate-key", "")], &[]),
            (&[("cache-tag", "a,b")], &["a", "b"]),
            (&[("cache-tag", " a b ,, c")], &["a b", "c"]),
            (&[("cache-tag", "b"), ("surrogate-key", "a"), ("cache-tag", "ü")], &["a", "b", "ü"]),
        ] {
            assert_eq!(of(lines).unwrap(), tags, "{lines:?}");
        }
    }

    #[test]
    fn what_says_too_much_says_nothing_that_could_be_kept() {
        let (long, longer) = ("x".repeat(TAG_MAX), "x".repeat(TAG_MAX + 1));
        assert!(of(&[("cache-tag", &long)]).is_some() && of(&[("cache-tag", &longer)]).is_none());
        let (many, more) = ("x ".repeat(TAGS_MAX), "x ".repeat(TAGS_MAX + 1));
        assert!(of(&[("surrogate-key", &many)]).is_some() && of(&[("surrogate-key", &more)]).is_none());
        let both = [("surrogate-key", &many[..]), ("surrogate-key", &many), ("cache-tag", "y")];
        assert!(of(&both).is_none());
    }
}
