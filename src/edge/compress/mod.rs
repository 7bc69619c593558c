//! Compression: in which coding an answer leaves, and what its head says of that.
//!
//! Pure, but for the encoders. `answer` asks it about a request, `fetch` and `gateway` about the app's answer, and the cache
//! about which of the codings of a page a visitor takes. The rule: whatever leaves in a coding of ours would have left
//! without it as well, and nothing is encoded that is coded already, is somebody's own, or must not be changed.

mod eligible;
mod encoder;
mod head;

pub use eligible::{LENGTH_MIN, is_eligible};
pub use encoder::{Encoder, Encoders};
pub use head::{mark, rewrite, rewrite_map};

use crate::model::compression::CompressionPolicy;

use super::field::Fields;
use super::request::Asked;

/// A content coding that the edge can apply, in the order of its own liking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Gzip,
    Zstd,
    Brotli,
}

impl Coding {
    /// Worst first.
    const ALL: [Coding; 3] = [Coding::Gzip, Coding::Zstd, Coding::Brotli];

    /// As `Content-Encoding` says it.
    pub fn name(self) -> &'static str {
        match self {
            Coding::Gzip => "gzip",
            Coding::Zstd => "zstd",
            Coding::Brotli => "br",
        }
    }

    fn of(name: &[u8]) -> Option<Self> {
        // RFC 9110 section 8.4.1.3.
        let name = if name.eq_ignore_ascii_case(b"x-gzip") { b"gzip" } else { name };
        Self::ALL.into_iter().find(|coding| name.eq_ignore_ascii_case(coding.name().as_bytes()))
    }
}

/// What becomes of an answer that can be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Negotiation {
    /// It leaves as it came.
    Off,
    /// It leaves in this coding, or in none, and says that this depended on the client.
    On(Option<Coding>),
}

impl Negotiation {
    /// What a site's policy and a request make of it.
    pub fn of(policy: &CompressionPolicy, asked: &Asked<'_>) -> Self {
        match policy.allows(asked.path) {
            true => Negotiation::On(choose(asked.fields)),
            false => Negotiation::Off,
        }
    }

    pub fn coding(self) -> Option<Coding> {
        match self {
            Negotiation::Off => None,
            Negotiation::On(coding) => coding,
        }
    }
}

/// The coding that a client likes best, by RFC 9110 section 12.5.3; `None` for none at all. A part is a part of what has no
/// coding.
pub fn choose(fields: Fields<'_>) -> Option<Coding> {
    let mut weights = [None; Coding::ALL.len()];
    let (mut others, mut identity) = (0, 0);
    let values = fields.all("accept-encoding");
    for element in values.flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii) {
        let mut parts = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let name = parts.next().unwrap_or_default();
        let weight = parts.next().map_or(1000, weight);
        match Coding::of(name) {
            Some(coding) => weights[coding as usize] = Some(weight),
            None if name == b"*" => others = weight,
            None if name.eq_ignore_ascii_case(b"identity") => identity = weight,
            None => {}
        }
    }
    let weighed = Coding::ALL.into_iter().map(|coding| (weights[coding as usize].unwrap_or(others), coding));
    let (weight, coding) = weighed.max_by_key(|(weight, coding)| (*weight, *coding as usize))?;
    (weight > 0 && weight >= identity && !fields.has("range")).then_some(coding)
}

/// `q=0.5` in thousandths; what is no weight counts as none.
pub fn weight(parameter: &[u8]) -> u16 {
    thousandths(parameter).unwrap_or(0)
}

/// Whether it is one (RFC 9110 section 12.4.2).
pub fn is_weight(parameter: &[u8]) -> bool {
    thousandths(parameter).is_some()
}

fn thousandths(parameter: &[u8]) -> Option<u16> {
    let value = parameter.strip_prefix(b"q=").or_else(|| parameter.strip_prefix(b"Q="))?;
    let (whole, fraction) = match value {
        [whole] | [whole, b'.'] => (whole, &[][..]),
        [whole, b'.', fraction @ ..] if fraction.len() <= 3 => (whole, fraction),
        _ => return None,
    };
    let mut weight = 0;
    for place in 0..4 {
        let digit = if place == 0 { *whole } else { fraction.get(place - 1).copied().unwrap_or(b'0') };
        match digit {
            b'0'..=b'9' => weight = weight * 10 + u16::from(digit - b'0'),
            _ => return None,
        }
    }
    (weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::*;

    fn chosen(accepted: &str) -> &'static str {
        let value = HeaderValue::from_str(accepted).unwrap();
        let map = HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]);
        choose(Fields::Map(&map)).map_or("", Coding::name)
    }

    #[test]
    fn a_client_gets_the_coding_it_likes_best() {
        for (accepted, coding) in [
            ("gzip, deflate, br, zstd", "br"),
            ("gzip, deflate, zstd", "zstd"),
            ("gzip, deflate", "gzip"),
            ("x-gzip", "gzip"),
            ("GZIP", "gzip"),
            ("br;q=0.5, gzip;q=0.501", "gzip"),
            ("br;q=1.0,gzip ; q=0.8", "br"),
            ("*", "br"),
            ("*, br;q=0", "zstd"),
            ("gzip;q=0.1, *;q=0", "gzip"),
            ("identity;q=0, gzip", "gzip"),
            ("gzip, identity;q=0.5", "gzip"),
        ] {
            assert_eq!(chosen(accepted), coding, "{accepted}");
        }
    }

    #[test]
    fn who_takes_no_coding_of_ours_gets_none() {
        for accepted in [
            "",
            "deflate",
            "identity",
            "gzip;q=0",
            "*;q=0",
            "gzip;q=0.5, identity",
            "gzip;q=2",
            "gzip;q=x",
            "gzip;q=0.0001",
            "gzip;level=9",
            "gzip br",
        ] {
            assert_eq!(chosen(accepted), "", "{accepted}");
        }
        assert_eq!(choose(Fields::Map(&HeaderMap::new())), None);
        let both = [
            (header::ACCEPT_ENCODING, HeaderValue::from_static("gzip")),
            (header::RANGE, HeaderValue::from_static("bytes=0-9")),
        ];
        assert_eq!(choose(Fields::Map(&HeaderMap::from_iter(both))), None, "a part");
    }
}
