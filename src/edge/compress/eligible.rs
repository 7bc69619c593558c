//! Whether an answer of an app can be compressed.
//!
//! Pure. Called through `compress` by `fetch` and `gateway`. The rule: what a visitor could notice beside the size is left
//! alone: cookies, parts, digests, streams, and all that is small or dense already.

use http::StatusCode;

use crate::edge::field::Fields;

/// Shorter bodies fit into a packet or two whatever is done to them, in bytes.
pub const LENGTH_MIN: u64 = 512;

/// With one of these an answer is coded already, a part, one visitor's own, or sealed.
const SEALED: [&str; 7] =
    ["content-encoding", "content-range", "set-cookie", "content-digest", "repr-digest", "digest", "content-md5"];

/// Beside all `text/…`, `…+json` and `…+xml`.
const TYPES: [&str; 12] = [
    "application/json",
    "application/javascript",
    "application/x-javascript",
    "application/ecmascript",
    "application/xml",
    "application/wasm",
    "application/vnd.ms-fontobject",
    "application/x-font-ttf",
    "font/ttf",
    "font/otf",
    "image/bmp",
    "image/x-icon",
];

/// Streams, of which each line is waited for.
const STREAMS: [&str; 2] = ["text/event-stream", "application/stream+json"];

/// Judges a head; of most it looks at the type alone.
pub fn is_eligible(status: StatusCode, fields: Fields<'_>) -> bool {
    let is_whole = !status.is_informational() && !matches!(status.as_u16(), 204 | 205 | 206 | 304 | 416);
    let has_type = || fields.first("content-type").is_some_and(is_compressible);
    is_whole && has_type() && is_long(fields) && !SEALED.iter().any(|name| fields.has(name)) && may_change(fields)
}

fn is_long(fields: Fields<'_>) -> bool {
    let length = fields.text("content-length").and_then(|length| length.parse::<u64>().ok());
    length.is_none_or(|length| length >= LENGTH_MIN)
}

/// Whether the app has nothing against it. A field that `Connection` names would not reach the client.
fn may_change(fields: Fields<'_>) -> bool {
    let says = |name, word: &str| {
        let mut words = fields.all(name).flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        fields.has(name) && words.any(|own| own.eq_ignore_ascii_case(word.as_bytes()))
    };
    let is_hidden = says("connection", "content-encoding") || says("connection", "vary");
    !is_hidden && !says("cache-control", "no-transform") && !says("x-accel-buffering", "no")
}

fn is_compressible(value: &[u8]) -> bool {
    let kind = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is_among = |list: &[&str]| list.iter().any(|other| kind.eq_ignore_ascii_case(other.as_bytes()));
    let begins = kind.get(..5).is_some_and(|begin| begin.eq_ignore_ascii_case(b"text/"));
    let ends = |end: &[u8]| kind.len() > end.len() && kind[kind.len() - end.len()..].eq_ignore_ascii_case(end);
    (begins || ends(b"+json") || ends(b"+xml") || is_among(&TYPES)) && !is_among(&STREAMS)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName};

    use super::*;

    fn judge(status: u16, fields: &[(&'static str, &str)]) -> bool {
        let fields = fields.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        is_eligible(StatusCode::from_u16(status).unwrap(), Fields::Map(&HeaderMap::from_iter(fields)))
    }

    #[test]
    fn text_in_all_its_kinds_is_compressed() {
        for kind in [
            "text/html; charset=utf-8",
            "TEXT/CSS",
            "application/json",
            "application/ld+json",
            "image/svg+xml",
            "application/wasm",
            "font/ttf",
        ] {
            assert!(judge(200, &[("content-type", kind)]), "{kind}");
        }
        for kind in [
            "image/png",
            "font/woff2",
            "application/gzip",
            "application/grpc",
            "text/event-stream",
            "text/event-stream;charset=utf-8",
            "application/x-ndjson",
            "application/octet-stream",
            "+json",
            "",
        ] {
            assert!(!judge(200, &[("content-type", kind)]), "{kind}");
        }
        assert!(!judge(200, &[]));
    }

    #[test]
    fn only_whole_answers_of_some_length_are() {
        let text = ("content-type", "text/plain");
        for status in [200, 201, 404, 500] {
            assert!(judge(status, &[text]), "{status}");
        }
        for status in [103, 204, 205, 206, 304, 416] {
            assert!(!judge(status, &[text]), "{status}");
        }
        assert!(judge(200, &[text, ("content-length", "512")]) && !judge(200, &[text, ("content-length", "511")]));
    }

    #[test]
    fn what_is_coded_sealed_or_somebodys_own_is_left_alone() {
        for field in [
            ("content-encoding", "gzip"),
            ("content-encoding", "identity"),
            ("set-cookie", "a=b"),
            ("content-range", "bytes 0-1/2"),
            ("content-digest", "sha-256=:x:"),
            ("cache-control", "public, No-Transform"),
            ("x-accel-buffering", "no"),
            ("connection", "close, content-encoding"),
        ] {
            assert!(!judge(200, &[("content-type", "text/plain"), field]), "{field:?}");
        }
        assert!(judge(200, &[("content-type", "text/plain"), ("cache-control", "public, max-age=5")]));
    }
}
