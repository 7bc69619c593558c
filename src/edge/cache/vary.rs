//! What of its request a response depends on, beside its URL: `Vary`, the cookies that conf names, and the coding that the
//! edge itself gave it.
//!
//! Pure. Written by `fill` when a response is stored, compared by `memory` at a hit. The rule: two requests are taken for
//! alike only where every app must take them so (RFC 9111 section 4.1); where that cannot be known nothing is stored.

use std::cmp::Reverse;

use http::HeaderName;

use crate::edge::compress::{self, Coding};
use crate::edge::field::{Fields, Kind};
use crate::edge::headers;
use crate::edge::request::Asked;

/// More fields than this are taken for all.
const NAMES_MAX: usize = 16;

/// Which of the requests for its URL a response answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Variant {
    /// The coding of ours that it got, or none, where that depended on the request.
    pub coding: Option<Option<Coding>>,
    /// What its request said, where that counts; most have nothing of the kind.
    said: Option<Box<Said>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    /// The cookies that conf makes a part of the key, where it names any.
    cookies: Option<Box<[u8]>>,
    /// The fields that the app looked at.
    fields: Box<[(HeaderName, Value)]>,
}

/// What a field said, in normal form; `None` when it was not there.
pub type Value = Option<Box<[u8]>>;

/// The fields of a request, for as long as nobody knows which of them will matter.
#[derive(Debug, Clone)]
pub struct Asking {
    lines: Vec<u8>,
    cookies: Option<Box<[u8]>>,
    is_trusted: bool,
}

impl Asking {
    /// `cookies` are those that are part of the key.
    pub fn of(asked: &Asked<'_>, cookies: Option<Box<[u8]>>) -> Self {
        let mut lines = Vec::new();
        match asked.fields {
            Fields::Raw(raw) => {
                let ends =
                    (raw.iter().next().map(|line| line.range().start), raw.iter().last().map(|line| line.range().end));
                if let (Some(start), Some(end)) = ends {
                    lines.extend_from_slice(raw.bytes().get(start..end).unwrap_or_default());
                }
            }
            Fields::Map(map) => {
                for (name, value) in map {
                    for part in [name.as_str().as_bytes(), b":", value.as_bytes(), b"\r\n"] {
                        lines.extend_from_slice(part);
                    }
                }
            }
        }
        Self { lines, cookies, is_trusted: asked.is_trusted }
    }

    fn normal(&self, name: &HeaderName) -> Value {
        let mut normal = Normal::new(name, self.is_trusted);
        for line in self.lines.split(|byte| *byte == b'\n') {
            if let Some(colon) = memchr::memchr(b':', line) {
                normal.note(&line[..colon], &line[colon + 1..]);
            }
        }
        normal.end()
    }
}

impl Variant {
    /// Of a response to `asking`; `None` when it depends on what cannot be known.
    pub fn of(response: Fields<'_>, asking: &Asking, coding: Option<Option<Coding>>) -> Option<Self> {
        let mut fields = Vec::new();
        for name in names(response)? {
            // The coding says it better.
            if coding.is_some() && name == http::header::ACCEPT_ENCODING {
                continue;
            }
            let normal = asking.normal(&name);
            fields.push((name, normal));
        }
        Some(Self::again(coding, asking.cookies.clone(), fields))
    }

    /// The variant that `asking` gets, where the app looks at what it looked at for this one.
    pub fn alike(&self, asking: &Asking, coding: Option<Coding>) -> Self {
        let fields = self.fields().iter().map(|(name, _)| (name.clone(), asking.normal(name)));
        Self::again(self.coding.map(|_| coding), asking.cookies.clone(), fields.collect())
    }

    /// As it was taken apart: by its coding, its cookies and its fields.
    pub fn again(coding: Option<Option<Coding>>, cookies: Option<Box<[u8]>>, fields: Vec<(HeaderName, Value)>) -> Self {
        let is_said = cookies.is_some() || !fields.is_empty();
        Self { coding, said: is_said.then(|| Box::new(Said { cookies, fields: fields.into() })) }
    }

    pub fn cookies(&self) -> Option<&[u8]> {
        self.said.as_ref()?.cookies.as_deref()
    }

    pub fn fields(&self) -> &[(HeaderName, Value)] {
        self.said.as_ref().map_or(&[], |said| &said.fields)
    }

    pub fn is_for_all(&self) -> bool {
        self.coding.is_none() && self.said.is_none()
    }

    /// Whether it answers a request with these cookies in its key; `coding` is what the edge would give to that one.
    pub fn answers(&self, asked: &Asked<'_>, cookies: Option<&[u8]>, coding: impl FnOnce() -> Option<Coding>) -> bool {
        if self.cookies() != cookies {
            return false;
        }
        let is_alike = |(name, own): &(HeaderName, Value)| {
            let mut normal = Normal::new(name, asked.is_trusted);
            asked.fields.each(|name, value| normal.note(name, value));
            normal.end() == *own
        };
        self.coding.is_none_or(|own| own == coding()) && self.fields().iter().all(is_alike)
    }

    /// The names of the fields that it depends on.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.fields().iter().map(|(name, _)| name)
    }

    /// Bytes it takes.
    pub fn weight(&self) -> usize {
        let fields = self.fields().iter();
        let fields =
            fields.map(|(name, value)| name.as_str().len() + value.as_ref().map_or(0, |value| value.len()) + 64);
        fields.sum::<usize>() + self.cookies().map_or(0, <[u8]>::len)
    }
}

/// Whether what a response depends on can be known.
pub fn is_known(response: Fields<'_>) -> bool {
    names(response).is_some()
}

/// The fields that a response names, sorted, but for those that the key says already.
fn names(response: Fields<'_>) -> Option<Vec<HeaderName>> {
    let mut names = Vec::new();
    for name in response.all("vary").flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii) {
        if name.is_empty() {
            continue;
        }
        let name = HeaderName::from_bytes(name).ok().filter(|name| name != "*" && names.len() < NAMES_MAX)?;
        match Kind::of(name.as_str().as_bytes()) {
            Kind::Host => {}
            // The edge says these itself, to every app anew.
            Kind::ForwardedFor | Kind::Forwarded | Kind::RequestId => return None,
            _ => names.push(name),
        }
    }
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    Some(names)
}

/// A field of a request as it is compared.
struct Normal<'n> {
    name: &'n HeaderName,
    form: Form,
    /// The app never sees it.
    is_dropped: bool,
    bytes: Option<Vec<u8>>,
}

/// What is known of how a field is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Nothing: only that several lines are one list.
    Any,
    /// A list in which neither case nor white space counts.
    List,
    /// One whose weights alone give the order.
    Weighed,
    /// One in which equal weights are told apart by their order by some.
    Ordered,
}

impl<'n> Normal<'n> {
    fn new(name: &'n HeaderName, is_trusted: bool) -> Self {
        let form = match name.as_str() {
            "accept" | "accept-charset" => Form::List,
            "accept-encoding" => Form::Weighed,
            "accept-language" => Form::Ordered,
            _ => Form::Any,
        };
        let is_dropped = headers::is_dropped(Kind::of(name.as_str().as_bytes()), is_trusted);
        Self { name, form, is_dropped, bytes: None }
    }

    fn note(&mut self, name: &[u8], value: &[u8]) {
        if self.is_dropped || !name.eq_ignore_ascii_case(self.name.as_str().as_bytes()) {
            return;
        }
        if let Some(bytes) = &mut self.bytes {
            bytes.extend_from_slice(b", ");
        }
        self.bytes.get_or_insert_default().extend_from_slice(value.trim_ascii());
    }

    fn end(self) -> Value {
        let mut bytes = self.bytes?;
        // Within quotes everything counts.
        if self.form == Form::Any || bytes.contains(&b'"') {
            return Some(bytes.into());
        }
        bytes.make_ascii_lowercase();
        Some(in_order(&compact(&bytes), self.form).into())
    }
}

/// Without the white space beside commas and semicolons.
fn compact(list: &[u8]) -> Vec<u8> {
    let trimmed = |bytes: &[u8], by: u8| {
        let parts: Vec<_> = bytes.split(|byte| *byte == by).map(<[u8]>::trim_ascii).collect();
        parts.join(&[by][..])
    };
    trimmed(&trimmed(list, b';'), b',')
}

/// The members of a list without empty ones, in the order in which they count.
fn in_order(list: &[u8], form: Form) -> Vec<u8> {
    let members = list.split(|byte| *byte == b',').filter(|member| !member.is_empty());
    if form == Form::List {
        return members.collect::<Vec<_>>().join(&b","[..]);
    }
    let mut weighed = Vec::new();
    for member in members {
        let (name, weight) = match memchr::memchr(b';', member) {
            None => (member, 1000),
            // What is no weight is compared as it stands.
            Some(at) => match member.get(at + 1..).unwrap_or_default() {
                parameter @ [b'q', b'=', ..] if compress::is_weight(parameter) => {
                    (&member[..at], compress::weight(parameter))
                }
                _ => (member, 0),
            },
        };
        let name = if name == b"x-gzip" { b"gzip" } else { name };
        weighed.push((Reverse(weight), name));
    }
    match form {
        Form::Weighed => weighed.sort_unstable(),
        _ => weighed.sort_by_key(|(weight, _)| *weight),
    }
    let mut bytes = Vec::with_capacity(list.len());
    for (Reverse(weight), name) in weighed {
        bytes.extend_from_slice(name);
        if weight != 1000 {
            bytes.extend_from_slice(format!(";{weight}").as_bytes());
        }
        bytes.push(b',');
    }
    bytes
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::edge::request::tests::asking;

    fn variant(vary: &[&str], lines: &str, is_trusted: bool) -> Option<Variant> {
        let vary: HeaderMap = vary.iter().map(|value| (http::header::VARY, value.parse().unwrap())).collect();
        asking("/", &format!("Host: a\r\n{lines}"), is_trusted, |asked| {
            Variant::of(Fields::Map(&vary), &Asking::of(&asked.unwrap(), None), None)
        })
    }

    fn answers(variant: &Variant, lines: &str) -> bool {
        asking("/", &format!("Host: a\r\n{lines}"), false, |asked| variant.answers(&asked.unwrap(), None, || None))
    }

    #[test]
    fn a_response_is_for_those_whose_fields_are_alike() {
        for (vary, own, alike, others) in [
            ("", "A: 1\r\n", &["A: 2\r\n", ""][..], &[][..]),
            ("x-a", "X-A: 1\r\n", &["x-a:  1\r\nX-B: 2\r\n"], &["X-A: 2\r\n", "", "X-A:\r\n", "X-A: 1\r\nX-A: 1\r\n"]),
            ("X-A", "", &["X-B: 1\r\n"], &["X-A:\r\n"]),
            ("X-A, x-b", "X-A: 1\r\nX-B: 2\r\n", &["X-B: 2\r\nX-A: 1\r\n"], &["X-A: 1\r\n", "X-A: 2\r\nX-B: 2\r\n"]),
            ("X-A", "X-A: 1\r\nX-A: 2\r\n", &["X-A: 1, 2\r\n"], &["X-A: 2\r\nX-A: 1\r\n", "X-A: 1,2\r\n"]),
            ("X-A", "X-A: b\r\n", &[], &["X-A: B\r\n"]),
            ("Host", "", &["A: 2\r\n"], &[]),
            ("Accept", "Accept: text/html, */*;q=0.1\r\n", &["Accept: TEXT/html,*/*; q=0.1\r\n"], &["Accept: */*\r\n"]),
            ("accept", "Accept: a;b=\"C\"\r\n", &[], &["Accept: a;b=\"c\"\r\n"]),
            (
                "accept-encoding",
                "Accept-Encoding: gzip, deflate, br\r\n",
                &[
                    "accept-encoding: BR,gzip;q=1.0 ,deflate\r\n",
                    "Accept-Encoding: x-gzip,br\r\nAccept-Encoding: deflate\r\n",
                ],
                &[
                    "",
                    "Accept-Encoding: gzip\r\n",
                    "Accept-Encoding: gzip, deflate, br;q=0.9\r\n",
                    "Accept-Encoding:\r\n",
                ],
            ),
            (
                "accept-language",
                "Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n",
                &["Accept-Language: de;q=0.80, en-gb, en;q=0.9\r\n"],
                &["Accept-Language: en,en-gb;q=0.9,de;q=0.8\r\n", "Accept-Language: en-GB,en;q=0.9\r\n"],
            ),
            ("accept-language", "Accept-Language: en, de\r\n", &[], &["Accept-Language: de, en\r\n"]),
            ("accept-encoding", "Accept-Encoding: gzip br\r\n", &[], &["Accept-Encoding: gzipbr\r\n"]),
            ("accept-language", "Accept-Language: en;q=x\r\n", &[], &["Accept-Language: en;q=0\r\n"]),
        ] {
            let variant = variant(&[vary], own, false).unwrap();
            assert!(answers(&variant, own), "{vary}: {own}");
            alike.iter().for_each(|lines| assert!(answers(&variant, lines), "{vary}: {own} is {lines}"));
            others.iter().for_each(|lines| assert!(!answers(&variant, lines), "{vary}: {own} is not {lines}"));
        }
        assert!(variant(&["x-b, x-a", "X-A"], "", false) == variant(&["x-a,, x-b"], "", false));
    }

    #[test]
    fn what_cannot_be_known_is_for_nobody() {
        for vary in [&["*"][..], &["x-a, *"], &["x-a", "*"], &["x a"], &["x-forwarded-for"], &["Forwarded"]] {
            assert_eq!(variant(vary, "", false), None, "{vary:?}");
        }
        let many: Vec<String> = (0..=NAMES_MAX).map(|number| format!("x-{number}")).collect();
        assert_eq!(variant(&[&many.join(",")], "", false), None);
    }

    #[test]
    fn what_an_app_never_saw_makes_no_difference() {
        let said = "X-Forwarded-Proto: https\r\n";
        let vary = ["x-forwarded-proto"];
        assert_eq!(variant(&vary, said, false), variant(&vary, "", false));
        assert_ne!(variant(&vary, said, true), variant(&vary, "", true));
        assert_eq!(variant(&["te"], "TE: trailers\r\n", true), variant(&["te"], "", true));
    }

    #[test]
    fn a_coding_of_ours_takes_the_place_of_what_is_accepted() {
        let vary: HeaderMap = [(http::header::VARY, "accept-encoding, x-a".parse().unwrap())].into_iter().collect();
        let of = |lines: &str, coding| {
            asking("/", &format!("Host: a\r\n{lines}"), false, |asked| {
                Variant::of(Fields::Map(&vary), &Asking::of(&asked.unwrap(), None), Some(coding)).unwrap()
            })
        };
        let brotli = of("Accept-Encoding: br, x\r\n", Some(Coding::Brotli));
        assert_eq!(brotli, of("Accept-Encoding: br\r\n", Some(Coding::Brotli)));
        assert_ne!(brotli, of("Accept-Encoding: br\r\n", None));
        assert_ne!(brotli, of("X-A: 1\r\n", Some(Coding::Brotli)));
    }
}
