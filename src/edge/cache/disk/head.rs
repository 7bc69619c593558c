//! What a record says of a response beside its key and its body.
//!
//! Pure. Written and read by `disk`. The rule: what cannot be read whole is not there, and a response comes back as old as
//! it has become meanwhile.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::time::{Time, millis};
use crate::edge::cache::freshness::Freshness;
use crate::edge::cache::stored::{Head, Stored};
use crate::edge::cache::vary::Variant;
use crate::edge::compress::Coding;
use crate::model::cache::CdnFields;

/// The yes and no of a freshness, each a bit.
const IS_ALWAYS_ASKED: u8 = 1;
const IS_STRICT: u8 = 2;
const IS_FOR_EVERYBODY: u8 = 4;
const IS_DOUBTFUL: u8 = 8;

/// In the form of a record; `at` is the time now.
pub fn write(stored: &Stored, at: Time, now: Instant) -> Vec<u8> {
    let mut to = Vec::with_capacity(128 + stored.head.len());
    to.extend_from_slice(&at.to_le_bytes());
    to.extend_from_slice(&stored.status.as_u16().to_le_bytes());
    write_freshness(&mut to, &stored.freshness(), stored.age(now));
    to.push(u8::from(stored.passes.cdn_cache_control) | u8::from(stored.passes.surrogate_control) << 1);
    put(&mut to, stored.tag());
    to.extend_from_slice(&variant(&stored.variant));
    to.extend_from_slice(&(stored.standing.tags().len() as u64).to_le_bytes());
    stored.standing.tags().iter().for_each(|tag| to.extend_from_slice(&tag.to_le_bytes()));
    for (name, value) in &stored.said() {
        put(&mut to, Some(name.as_str().as_bytes()));
        put(&mut to, Some(value.as_bytes()));
    }
    to
}

/// A variant as bytes, which are the same for the same variant.
pub fn variant(variant: &Variant) -> Vec<u8> {
    let coding = match variant.coding {
        None => 0,
        Some(None) => 1,
        Some(Some(Coding::Gzip)) => 2,
        Some(Some(Coding::Zstd)) => 3,
        Some(Some(Coding::Brotli)) => 4,
    };
    let mut to = vec![coding];
    put(&mut to, variant.cookies());
    for (name, value) in variant.fields() {
        put(&mut to, Some(name.as_str().as_bytes()));
        put(&mut to, value.as_deref());
    }
    // No name is empty.
    put(&mut to, Some(b""));
    to
}

/// Reads one; `since` says how long ago a time was.
pub fn read(bytes: &[u8], since: impl Fn(Time) -> Duration, now: Instant) -> Option<Head> {
    let mut from = Reader(bytes);
    let elapsed = since(from.u64()?);
    let status = StatusCode::from_u16(u16::from_le_bytes(*from.array()?)).ok()?;
    let mut freshness = read_freshness(&mut from)?;
    freshness.age = freshness.age.saturating_add(elapsed);
    let [passes] = *from.array()?;
    let passes = CdnFields { cdn_cache_control: passes & 1 != 0, surrogate_control: passes & 2 != 0 };
    let tag = from.field()?.map(HeaderValue::from_bytes).transpose().ok()?;
    let variant = read_variant(&mut from)?;
    let tags = (0..from.u64()?).map(|_| from.u64()).collect::<Option<_>>()?;
    let mut headers = HeaderMap::new();
    while !from.0.is_empty() {
        let (name, value) = (from.field()??, from.field()??);
        headers.append(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    Some(Head { status, headers, variant, tag, freshness, passes, since: now, part: None, tags, purges: 0 })
}

fn write_freshness(to: &mut Vec<u8>, freshness: &Freshness, age: Duration) {
    for time in [freshness.lifetime, age, freshness.while_revalidate, freshness.if_error] {
        to.extend_from_slice(&millis(time).to_le_bytes());
    }
    let flags = [
        (freshness.is_always_asked, IS_ALWAYS_ASKED),
        (freshness.is_strict, IS_STRICT),
        (freshness.is_for_everybody, IS_FOR_EVERYBODY),
        (freshness.is_doubtful, IS_DOUBTFUL),
    ];
    to.push(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, flag)| flag).sum());
}

fn read_freshness(from: &mut Reader<'_>) -> Option<Freshness> {
    let mut times = [Duration::ZERO; 4];
    for time in &mut times {
        *time = Duration::from_millis(from.u64()?);
    }
    let [lifetime, age, while_revalidate, if_error] = times;
    let [flags] = *from.array()?;
    let is = |flag| flags & flag != 0;
    Some(Freshness {
        lifetime,
        age,
        while_revalidate,
        if_error,
        is_always_asked: is(IS_ALWAYS_ASKED),
        is_strict: is(IS_STRICT),
        is_for_everybody: is(IS_FOR_EVERYBODY),
        is_doubtful: is(IS_DOUBTFUL),
    })
}

fn read_variant(from: &mut Reader<'_>) -> Option<Variant> {
    let coding = match *from.array()? {
        [0] => None,
        [1] => Some(None),
        [2] => Some(Some(Coding::Gzip)),
        [3] => Some(Some(Coding::Zstd)),
        [4] => Some(Some(Coding::Brotli)),
        _ => return None,
    };
    let cookies = from.field()?.map(Box::from);
    let mut fields = Vec::new();
    loop {
        let name = from.field()??;
        if name.is_empty() {
            return Some(Variant::again(coding, cookies, fields));
        }
        fields.push((HeaderName::from_bytes(name).ok()?, from.field()?.map(Box::from)));
    }
}

/// Length and bytes; the length alone, and none there can be, for what is not there.
fn put(to: &mut Vec<u8>, field: Option<&[u8]>) {
    let length = field.map_or(u32::MAX, |field| u32::try_from(field.len()).unwrap_or(u32::MAX));
    to.extend_from_slice(&length.to_le_bytes());
    to.extend_from_slice(field.unwrap_or_default());
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn array<const LENGTH: usize>(&mut self) -> Option<&'b [u8; LENGTH]> {
        let (here, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(here)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// What `put` wrote.
    fn field(&mut self) -> Option<Option<&'b [u8]>> {
        let length = u32::from_le_bytes(*self.array()?);
        if length == u32::MAX {
            return Some(None);
        }
        let (here, rest) = self.0.split_at_checked(length as usize)?;
        self.0 = rest;
        Some(Some(here))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::header;

    use super::*;
    use crate::edge::cache::vary::Asking;
    use crate::edge::field::Fields;
    use crate::edge::request::tests::asking;

    fn stored() -> Stored {
        let vary = HeaderMap::from_iter([(header::VARY, "accept-language, x-none".parse().unwrap())]);
        let variant = asking("/", "Host: a\r\nAccept-Language: he\r\n", false, |asked| {
            Variant::of(
                Fields::Map(&vary),
                &Asking::of(&asked.unwrap(), Some(b"lang=he"[..].into())),
                Some(Some(Coding::Zstd)),
            )
            .unwrap()
        });
        let mut headers = vary;
        headers.append("x-twice", "one".parse().unwrap());
        headers.append("x-twice", "".parse().unwrap());
        let freshness = Freshness {
            lifetime: Duration::from_secs(60),
            age: Duration::from_secs(2),
            while_revalidate: Duration::from_secs(3),
            if_error: Duration::from_secs(4),
            is_always_asked: false,
            is_strict: true,
            is_for_everybody: false,
            is_doubtful: true,
        };
        let passes = CdnFields { cdn_cache_control: false, surrogate_control: true };
        headers.append("cdn-cache-control", "max-age=60".parse().unwrap());
        let (status, tag, since) = (StatusCode::NOT_FOUND, Some("\"a\"".parse().unwrap()), Instant::now());
        Stored::new(
            Head {
                status,
                headers,
                variant,
                tag,
                freshness,
                passes,
                since,
                part: None,
                tags: [7, 8].into(),
                purges: 0,
            },
            Bytes::from_static(b"body").into(),
        )
    }

    #[test]
    fn a_response_comes_back_as_it_was_but_older() {
        let (before, now) = (stored(), Instant::now());
        let bytes = write(&before, 1000, now);
        let head = read(&bytes, |time| Duration::from_millis(6000 - time), now).unwrap();
        let after = Stored::new(head, before.body.clone());
        assert_eq!((after.status, after.headers(), after.tag()), (before.status, before.headers(), before.tag()));
        assert_eq!((&after.variant, &after.head), (&before.variant, &before.head));
        assert_eq!((after.standing.tags().len(), after.said(), after.passes), (2, before.said(), before.passes));
        assert_eq!(after.standing.tags(), before.standing.tags());
        assert_eq!(after.age(now).as_secs(), before.age(now).as_secs() + 5);
        let age = Duration::ZERO;
        assert_eq!(Freshness { age, ..after.freshness() }, Freshness { age, ..before.freshness() });
    }

    #[test]
    fn what_is_not_whole_is_not_there() {
        let bytes = write(&stored(), 1000, Instant::now());
        let read = |bytes: &[u8]| read(bytes, |_| Duration::ZERO, Instant::now());
        let wholes = (0..bytes.len()).filter(|length| read(&bytes[..*length]).is_some());
        // Between two fields a head could have ended as well: how long it is says the record.
        assert_eq!(wholes.count(), 5);
        assert!(read(&[0xff; 200]).is_none() && read(&[0; 200]).is_none());
    }
}
