//! What a `Cache-Control` field says, and the fields that say the same to shared caches alone.
//!
//! Pure. Read by `wish` of requests and by `policy` of responses, each field once. The rule: what cannot be read never makes
//! anything stored or reused: of two values the stricter holds, a time that is none is zero, and a name that is none stands
//! for everything (RFC 9111 sections 1.2.2, 4.2.1 and 5.2).

use std::time::Duration;

use http::HeaderName;
use sfv::{BareItem, Dictionary, ListEntry, ParseMore};

use crate::edge::field::Fields;

/// Times are counted in seconds of 31 bits (RFC 9111 section 1.2.2).
pub const FOREVER: Duration = Duration::from_secs(1 << 31);

/// All that is said, whichever side may say it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Control {
    pub no_store: bool,
    /// Without names.
    pub no_cache: bool,
    /// Without names.
    pub is_private: bool,
    pub is_public: bool,
    pub must_revalidate: bool,
    /// RFC 8246.
    pub is_immutable: bool,
    pub must_understand: bool,
    pub only_if_cached: bool,
    pub max_age: Option<Duration>,
    pub s_maxage: Option<Duration>,
    pub max_stale: Option<Duration>,
    pub min_fresh: Option<Duration>,
    pub stale_while_revalidate: Option<Duration>,
    pub stale_if_error: Option<Duration>,
    /// Fields that `private` and `no-cache` name.
    pub withheld: Vec<HeaderName>,
    /// Whether what credentials were sent for may be stored as well (RFC 9111 section 3.5).
    pub is_for_everybody: bool,
}

/// What stands behind the name of a directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Argument<'v> {
    None,
    Token(&'v [u8]),
    /// Without its quotes.
    Quoted(&'v [u8]),
    /// Something that the directive cannot have.
    Odd,
}

impl Control {
    /// Of all the lines of a field.
    pub fn of(fields: Fields<'_>, field: &'static str) -> Self {
        let mut control = Self::default();
        fields.all(field).for_each(|value| control.read(value));
        control
    }

    /// Takes in one line of `Cache-Control`.
    pub fn read(&mut self, value: &[u8]) {
        // An unreadable field could say anything.
        self.no_store |= !value.is_ascii();
        let mut rest = value;
        while !rest.is_empty() {
            let Some(end) = member_end(rest) else {
                self.no_store = true;
                return;
            };
            self.member(rest[..end].trim_ascii());
            rest = rest.get(end + 1..).unwrap_or_default();
        }
    }

    fn member(&mut self, member: &[u8]) {
        let equals = memchr::memchr(b'=', member);
        let (name, value) = equals.map_or((member, None), |at| (&member[..at], Some(&member[at + 1..])));
        let argument = match value {
            None => Argument::None,
            Some([b'"', quoted @ .., b'"']) if !quoted.contains(&b'\\') => Argument::Quoted(quoted),
            Some(token) if !token.is_empty() && token.iter().all(is_of_token) && !name.ends_with(b" ") => {
                Argument::Token(token)
            }
            Some(_) => Argument::Odd,
        };
        self.take(name.trim_ascii_end(), argument);
    }

    fn take(&mut self, name: &[u8], argument: Argument<'_>) {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        let is_bare = argument == Argument::None;
        if is("max-age") {
            lower(&mut self.max_age, argument.seconds());
        } else if is("no-cache") {
            self.no_cache |= !self.withhold(argument);
        } else if is("no-store") {
            self.no_store = true;
        } else if is("private") {
            self.is_private |= !self.withhold(argument);
        } else if is("public") {
            self.is_public |= is_bare;
            self.is_for_everybody |= is_bare;
        } else if is("s-maxage") {
            lower(&mut self.s_maxage, argument.seconds());
            self.is_for_everybody |= argument.is_time();
        } else if is("must-revalidate") {
            self.must_revalidate = true;
            self.is_for_everybody |= is_bare;
        } else if is("proxy-revalidate") {
            self.must_revalidate = true;
        } else if is("immutable") {
            self.is_immutable |= is_bare;
        } else if is("must-understand") {
            self.must_understand = true;
        } else if is("stale-while-revalidate") {
            lower(&mut self.stale_while_revalidate, argument.seconds());
        } else if is("stale-if-error") {
            lower(&mut self.stale_if_error, argument.seconds());
        } else if is("only-if-cached") {
            self.only_if_cached = true;
        } else if is("max-stale") {
            lower(&mut self.max_stale, if is_bare { FOREVER } else { argument.seconds() });
        } else if is("min-fresh") {
            let wanted = if argument.is_time() { argument.seconds() } else { FOREVER };
            self.min_fresh = Some(self.min_fresh.map_or(wanted, |before| before.max(wanted)));
        }
    }

    /// Writes down the fields that a directive names; false when it stands for everything.
    fn withhold(&mut self, argument: Argument<'_>) -> bool {
        let Argument::Quoted(list) = argument else { return false };
        let names = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty());
        let names: Result<Vec<HeaderName>, _> = names.map(HeaderName::from_bytes).collect();
        match names {
            Ok(names) if !names.is_empty() => {
                self.withheld.extend(names);
                true
            }
            _ => false,
        }
    }

    /// Of a field that RFC 9213 defines or that is read as if it did: `None` when it is not there, empty, or not valid.
    pub fn targeted(fields: Fields<'_>, field: &'static str) -> Option<Self> {
        if !fields.has(field) {
            return None;
        }
        let mut dictionary = Dictionary::new();
        for value in fields.all(field) {
            let is_empty = value.trim_ascii().is_empty();
            match if is_empty { Ok(()) } else { dictionary.parse_more(value) } {
                Ok(()) => {}
                Err(_) => return None,
            }
        }
        let mut control = Self::default();
        for (name, entry) in &dictionary {
            control.take_item(name.as_bytes(), entry);
        }
        (!dictionary.is_empty()).then_some(control)
    }

    fn take_item(&mut self, name: &[u8], entry: &ListEntry) {
        let ListEntry::Item(item) = entry else { return self.take(name, Argument::Odd) };
        match &item.bare_item {
            BareItem::Boolean(true) => self.take(name, Argument::None),
            BareItem::Integer(number) => {
                self.take(name, Argument::Token(itoa::Buffer::new().format(*number).as_bytes()));
            }
            BareItem::String(text) => self.take(name, Argument::Quoted(text.as_bytes())),
            _ => self.take(name, Argument::Odd),
        }
    }
}

impl Argument<'_> {
    /// What is no time is none at all.
    fn seconds(self) -> Duration {
        let (Argument::Token(text) | Argument::Quoted(text)) = self else { return Duration::ZERO };
        seconds(text).unwrap_or_default()
    }

    fn is_time(self) -> bool {
        matches!(self, Argument::Token(text) | Argument::Quoted(text) if seconds(text).is_some())
    }
}

/// Digits and nothing else; those beyond all counting are for ever.
pub fn seconds(text: &[u8]) -> Option<Duration> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    is_number.then(|| Duration::from_secs(text.iter().fold(0, add)).min(FOREVER))
}

fn lower(kept: &mut Option<Duration>, said: Duration) {
    *kept = Some(kept.map_or(said, |before| before.min(said)));
}

/// Where the comma stands that ends the first member; `None` when a quoted string in it has no end.
fn member_end(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b',' => break,
            b'"' => at += quoted_length(&text[at..])?,
            _ => at += 1,
        }
    }
    Some(at)
}

/// With both quotes.
fn quoted_length(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn is_of_token(byte: &u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(byte, b'"' | b'(' | b')' | b',' | b'/' | b':'..=b'@' | b'['..=b']' | b'{' | b'}')
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn read(lines: &[&str]) -> Control {
        let mut control = Control::default();
        lines.iter().for_each(|line| control.read(line.as_bytes()));
        control
    }

    fn targeted(lines: &[&str]) -> Option<Control> {
        let lines = lines.iter().map(|line| (HeaderName::from_static("cdn-cache-control"), line.parse().unwrap()));
        Control::targeted(Fields::Map(&lines.collect::<HeaderMap>()), "cdn-cache-control")
    }

    fn max_age(lines: &[&str]) -> Option<u64> {
        read(lines).max_age.map(|age| age.as_secs())
    }

    #[test]
    fn a_time_is_digits_and_anything_else_is_none() {
        for (line, seconds) in [
            ("max-age=60", 60),
            ("MAX-AGE=60", 60),
            ("max-age=\"60\"", 60),
            ("max-age=0060", 60),
            (",, a=b,max-age=60 ,", 60),
            ("max-age=60, max-age=5", 5),
            ("max-age=5, max-age=60", 5),
            ("max-age=2147483648", 1 << 31),
            ("max-age=99999999999999999999999", 1 << 31),
            ("max-age", 0),
            ("max-age=", 0),
            ("max-age=-1", 0),
            ("max-age=+60", 0),
            ("max-age=60.5", 0),
            ("max-age='60'", 0),
            ("max-age=60s", 0),
            ("max-age = 60", 0),
            ("max-age= 60", 0),
            ("max-age=60 s", 0),
            ("max-age=\"6\\0\"", 0),
            ("max-age=60, max-age=x", 0),
        ] {
            assert_eq!(max_age(&[line]), Some(seconds), "{line}");
        }
        assert_eq!(max_age(&["max-age=60", "max-age=7"]), Some(7), "two lines are one list");
        for none in ["", "a=\"max-age=60\"", "a=\"b, max-age=60\"", "x-max-age=60", "max-ages=60", "max_age=60"] {
            assert_eq!(max_age(&[none]), None, "{none}");
        }
    }

    #[test]
    fn what_forbids_holds_in_every_form_and_what_allows_in_its_own_alone() {
        for line in ["no-store", "No-Store", "no-store=x", "no-store =\"\"", "a=\"b, no-store", "a=\"\\\"", "x=\u{e9}"]
        {
            assert!(read(&[line]).no_store, "{line}");
        }
        assert!(!read(&["a=\"no-store\", no-stored"]).no_store);
        assert!(read(&["public"]).is_public && !read(&["public=x"]).is_public);
        for (line, is_for_everybody) in [
            ("public", true),
            ("s-maxage=0", true),
            ("must-revalidate", true),
            ("public=1", false),
            ("s-maxage=x", false),
            ("must-revalidate=x", false),
            ("proxy-revalidate", false),
            ("max-age=60", false),
        ] {
            assert_eq!(read(&[line]).is_for_everybody, is_for_everybody, "{line}");
        }
        assert!(read(&["must-revalidate=x"]).must_revalidate && read(&["proxy-revalidate"]).must_revalidate);
    }

    #[test]
    fn names_are_withheld_and_what_names_nothing_means_everything() {
        let both = read(&["private=\"A, b\"", "no-cache=\"c\""]);
        assert_eq!(both.withheld, ["a", "b", "c"]);
        assert!(!both.is_private && !both.no_cache);
        for all in ["private", "private=a", "private=\"\"", "private=\"a b\"", "private=", "private=\"a\", private"] {
            assert!(read(&[all]).is_private, "{all}");
        }
        assert!(read(&["no-cache=x"]).no_cache && !read(&["no-cache=x"]).is_private);
    }

    #[test]
    fn a_request_that_cannot_be_read_gets_the_freshest() {
        let seconds = |said: Option<Duration>| said.map(|said| said.as_secs());
        let forever = FOREVER.as_secs();
        for (line, max_stale, min_fresh) in [
            ("max-stale", Some(forever), None),
            ("max-stale=5", Some(5), None),
            ("max-stale, max-stale=5", Some(5), None),
            ("max-stale=x", Some(0), None),
            ("min-fresh=5", None, Some(5)),
            ("min-fresh=5, min-fresh=9", None, Some(9)),
            ("min-fresh=x", None, Some(forever)),
        ] {
            let control = read(&[line]);
            assert_eq!((seconds(control.max_stale), seconds(control.min_fresh)), (max_stale, min_fresh), "{line}");
        }
    }

    #[test]
    fn a_targeted_field_is_a_dictionary_or_not_there() {
        let said = targeted(&["max-age=60, stale-if-error=9;x=1", "must-revalidate"]).unwrap();
        assert_eq!((said.max_age, said.stale_if_error), (Some(Duration::from_secs(60)), Some(Duration::from_secs(9))));
        assert!(said.must_revalidate);
        assert_eq!(targeted(&["max-age=60", "max-age=5"]).unwrap().max_age, Some(Duration::from_secs(5)), "the last");
        assert_eq!(targeted(&["private=\"a\""]).unwrap().withheld, ["a"]);
        for odd in ["max-age=\"x\"", "max-age=1.5", "max-age", "max-age=-1", "max-age=(1)", "max-age=?0"] {
            assert_eq!(targeted(&[odd]).unwrap().max_age, Some(Duration::ZERO), "{odd}");
        }
        assert!(targeted(&["no-store=?0"]).unwrap().no_store, "what forbids holds in every form");
        for invalid in ["", "max-age=60,", "Max-Age=60", "max-age=60 no-store", "max-age=", "a=\"", "max-age = 1"] {
            assert_eq!(targeted(&[invalid]), None, "{invalid}");
        }
        assert_eq!(targeted(&["max-age=60", "&"]), None, "all of it");
    }
}
