//! Ranges of bytes, as clients ask for them and as apps answer (RFC 9110 section 14).
//!
//! Pure. Used by `condition` and `fill`. The rule: what cannot be understood asks for the whole, and however many ranges are
//! asked for, no byte is sent twice.

use std::ops::Range;

/// More of them are answered by the whole.
const RANGES_MAX: usize = 32;
/// What stands around each part of several, in bytes, about: what lies between two is sent along when it is less.
const BETWEEN: usize = 80;

/// What a `Range` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    Whole,
    /// At least one, none empty, none beyond the end, no two that touch.
    Parts(Vec<Range<usize>>),
    /// Nothing that there is.
    Nothing,
}

/// Of a body of this length.
pub fn wanted(value: &str, length: usize) -> Wanted {
    let Some((unit, list)) = value.split_once('=') else { return Wanted::Whole };
    let specs: Vec<&str> = list.split(',').map(str::trim).filter(|spec| !spec.is_empty()).collect();
    if !unit.trim().eq_ignore_ascii_case("bytes") || specs.is_empty() || specs.len() > RANGES_MAX {
        return Wanted::Whole;
    }
    let mut parts = Vec::new();
    for spec in specs {
        match one(spec, length) {
            None => return Wanted::Whole,
            Some(range) if range.is_empty() => {}
            Some(range) => join(&mut parts, range),
        }
    }
    if parts.is_empty() { Wanted::Nothing } else { Wanted::Parts(parts) }
}

/// One of them; empty when there are no such bytes, `None` when it says nothing.
fn one(spec: &str, length: usize) -> Option<Range<usize>> {
    let (first, last) = spec.split_once('-')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let (first, last): (&str, &str) = (first.trim(), last.trim());
    match (number(first), number(last)) {
        // The last so many bytes.
        (None, Some(count)) if first.is_empty() => Some(length.saturating_sub(count)..length),
        (Some(first), Some(last)) if last < first => None,
        (Some(first), Some(last)) => Some(first.min(length)..last.saturating_add(1).min(length)),
        (Some(first), None) if last.is_empty() => Some(first.min(length)..length),
        _ => None,
    }
}

/// Adds one, in the place of those that it touches.
fn join(parts: &mut Vec<Range<usize>>, mut range: Range<usize>) {
    let touches = |one: &Range<usize>, other: &Range<usize>| {
        one.start <= other.end.saturating_add(BETWEEN) && other.start <= one.end.saturating_add(BETWEEN)
    };
    let mut place = parts.len();
    while let Some(at) = parts.iter().position(|part| touches(part, &range)) {
        let part = parts.remove(at);
        range = part.start.min(range.start)..part.end.max(range.end);
        place = place.min(at).min(parts.len());
    }
    parts.insert(place, range);
}

/// What a `Content-Range` says: which bytes, and of how many.
pub fn content(value: &str) -> Option<(Range<u64>, u64)> {
    let (unit, rest) = value.trim().split_once(' ')?;
    let (range, total) = rest.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let (first, last, total) = (number(first.trim())?, number(last.trim())?, number(total.trim())?);
    (unit.eq_ignore_ascii_case("bytes") && first <= last && last < total).then_some((first..last + 1, total))
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(value: &str) -> Vec<Range<usize>> {
        match wanted(value, 1000) {
            Wanted::Parts(parts) => parts,
            other => panic!("{value}: {other:?}"),
        }
    }

    #[test]
    fn what_is_asked_for_is_what_there_is_of_it() {
        for (value, range) in [
            ("bytes=0-9", 0..10),
            ("Bytes = 0 - 9 ", 0..10),
            ("bytes=900-", 900..1000),
            ("bytes=900-9000", 900..1000),
            ("bytes=-100", 900..1000),
            ("bytes=-10000", 0..1000),
            ("bytes=0-18446744073709551615", 0..1000),
            ("bytes=,0-9,", 0..10),
        ] {
            assert_eq!(parts(value), [range], "{value}");
        }
        for none in ["bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=1000-,-0"] {
            assert_eq!(wanted(none, 1000), Wanted::Nothing, "{none}");
        }
        assert_eq!(wanted("bytes=-5", 0), Wanted::Nothing);
        for whole in ["bytes=5-4", "bytes=a-b", "items=0-1", "bytes=", "bytes=-", "bytes=+1-2", "0-1", "bytes=0-1,x"] {
            assert_eq!(wanted(whole, 1000), Wanted::Whole, "{whole}");
        }
        let many = |count: usize| format!("bytes={}", vec!["0-0"; count].join(","));
        assert_eq!((wanted(&many(32), 9), wanted(&many(33), 9)), (Wanted::Parts(vec![0..1]), Wanted::Whole));
    }

    #[test]
    fn several_are_joined_where_they_touch_and_else_keep_their_order() {
        assert_eq!(parts("bytes=500-509, 0-9"), [500..510, 0..10]);
        assert_eq!(parts("bytes=500-509, 0-9, 2000-"), [500..510, 0..10]);
        assert_eq!(parts("bytes=0-9,5-20"), [0..21]);
        assert_eq!(parts("bytes=0-9,89-99"), [0..100], "the gap is cheaper than two parts");
        assert_eq!(parts("bytes=0-9,200-209,800-809,5-205"), [0..210, 800..810]);
    }

    #[test]
    fn an_app_says_which_part_it_sends() {
        assert_eq!(content("bytes 0-9/100"), Some((0..10, 100)));
        assert_eq!(content("bytes 99-99/100"), Some((99..100, 100)));
        for odd in
            ["bytes 0-9/*", "bytes */100", "bytes 9-0/100", "bytes 0-100/100", "items 0-9/100", "bytes=0-9/100", ""]
        {
            assert_eq!(content(odd), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn no_byte_is_sent_twice(specs in proptest::collection::vec((0..2000usize, 0..2000usize), 1..40), length in 0..1500usize) {
            let specs: Vec<String> = specs.iter().map(|(first, last)| format!("{first}-{last}")).collect();
            if let Wanted::Parts(parts) = wanted(&format!("bytes={}", specs.join(",")), length) {
                prop_assert!(!parts.is_empty());
                let mut sorted = parts.clone();
                sorted.sort_by_key(|part| part.start);
                prop_assert!(sorted.iter().all(|part| part.start < part.end && part.end <= length));
                prop_assert!(sorted.windows(2).all(|two| two[0].end + BETWEEN < two[1].start));
            }
        }
    }
}
