//! Header fields: where lines end, what a name may be, and how many there may be.

use crate::case::{BAD, Case, LARGE, get};

/// Lines after the Host; each that needs an end of its own brings it.
const MALFORMED: &[&[u8]] = &[
    // Ends of lines.
    b"X: y\n",
    b"X: y\r",
    b"X: y\r\r\n",
    b"X: y\n\r",
    b"\nX: y\r\n",
    b"X: y\n\r\n",
    b"X: a\rb\r\n",
    b"X: a\r Y: b\r\n",
    b"X: a\rContent-Length: 5\r\n",
    b"X: a\nContent-Length: 5\r\n",
    b"X\r: y\r\n",
    b"X:\ry\r\n",
    b"\rX: y\r\n",
    b"X: y\0\r\n",
    b"X: \0y\r\n",
    b"X\0: y\r\n",
    b"\0X: y\r\n",
    b"\0\r\n",
    // Control bytes.
    b"X: \x01\r\n",
    b"X: \x08\r\n",
    b"X: a\x0bb\r\n",
    b"X: a\x0cb\r\n",
    b"X: \x1b[2J\r\n",
    b"X: a\x7fb\r\n",
    // Folded lines.
    b"X: y\r\n z\r\n",
    b"X: y\r\n\tz\r\n",
    b"X: y\r\n \r\n",
    b"X:\r\n y\r\n",
    b"X: y\r\n Host: other.test\r\n",
    b"X: y\r\n\x0bz\r\n",
    b" X: y\r\n",
    b"\tX: y\r\n",
    b" \r\n",
    // Names.
    b"X : y\r\n",
    b"X\t: y\r\n",
    b"X\x0b: y\r\n",
    b"X\xa0: y\r\n",
    b"X Y: z\r\n",
    b": y\r\n",
    b":\r\n",
    b" : y\r\n",
    b"no colon\r\n",
    b"nocolon\r\n",
    b"GET /evil HTTP/1.1\r\n",
    b"X(: y\r\n",
    b"X@: y\r\n",
    b"\"X\": y\r\n",
    b"X/Y: z\r\n",
    b"X[]: y\r\n",
    b"{X}: y\r\n",
    b"X\\: y\r\n",
    b"X,Y: z\r\n",
    b"X;: y\r\n",
    b"X=y: z\r\n",
    b"<X>: y\r\n",
    b"X?: y\r\n",
    b"X\x01: y\r\n",
    b"X\x7f: y\r\n",
    b"X\xff: y\r\n",
    b"\xef\xbb\xbfX: y\r\n",
    b"\xe2\x84\xaaeep: y\r\n",
];

/// Whole heads.
const HEADS: &[&[u8]] = &[
    b"GET /{id} HTTP/1.1\nHost: shop.test\n\n",
    b"GET /{id} HTTP/1.1\nHost: shop.test\r\n\r\n",
    b"GET /{id} HTTP/1.1\r\nHost: shop.test\n\r\n",
    b"GET /{id} HTTP/1.1\r\nHost: shop.test\r\n\n",
    b"GET /{id} HTTP/1.1\r\nHost: shop.test\n\n",
    b"GET /{id} HTTP/1.1\rHost: shop.test\r\r",
    b"GET /{id} HTTP/1.1\rHost: shop.test\r\n\r\n",
    b"GET /{id} HTTP/1.1\r\r\nHost: shop.test\r\n\r\n",
    b"GET /{id} HTTP/1.1\n\rHost: shop.test\r\n\r\n",
    b"GET /{id} HTTP/1.1\r\n\tX: y\r\nHost: shop.test\r\n\r\n",
    b"GET /{id} HTTP/1.1\r\n \r\nHost: shop.test\r\n\r\n",
    b"\nGET /{id} HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    b"\rGET /{id} HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    b"\r\r\nGET /{id} HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    b"\n\nGET /{id} HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    b" \r\nGET /{id} HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    b"\r\n GET /{id} HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    b"\r\n\r\n\nGET /{id} HTTP/1.1\r\nHost: shop.test\r\n\r\n",
];

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = MALFORMED.iter().map(|lines| Case::malformed(&[&get(lines)])).collect();
    cases.extend(HEADS.iter().map(|head| Case::malformed(&[head])));
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: y\r\n")).collect::<String>();
    let long = format!("X: {}\r\n", "y".repeat(40_000));
    let named = format!("{}: y\r\n", "X".repeat(40_000));
    cases.extend([
        Case::refused(&[&get(many(100).as_bytes())], LARGE).named("101 fields"),
        Case::refused(&[&get(many(3000).as_bytes())], LARGE).named("3,000 fields"),
        Case::refused(&[&get(long.as_bytes())], LARGE).named("a value of 40,000 bytes"),
        Case::refused(&[&get(named.as_bytes())], LARGE).named("a name of 40,000 bytes"),
        Case::refused(&[&get(&[b'x'; 40_000])], LARGE).named("40,000 bytes without a colon"),
        Case::refused(&[&get(b""), b"x"], &[400, 408, 501]).get().named("a byte after a request"),
        // One empty line before a request is what old clients send (RFC 9112 section 2.2).
        Case::either(&[b"\r\n", &get(b"")], BAD).get(),
        Case::either(&[b"\r\n\r\n\r\n", &get(b"")], BAD).get(),
        Case::either(&["\r\n".repeat(5000).as_bytes(), &get(b"")], LARGE).get().named("5,000 empty lines first"),
        Case::either(&[&get(b"X: \xff\r\n")], BAD).get(),
        Case::either(&[&get(b"X: \x80\x81\r\n")], BAD).get(),
        Case::cut(&[b"GET /{id} HT"]),
        Case::cut(&[b"GET /{id} HTTP/1.1\r\nHost: shop.test\r\n"]),
        Case::cut(&[b"GET /{id} HTTP/1.1\r\nHost: shop.test\r\n\r"]),
        Case::cut(&[b"\r\n"]),
    ]);
    cases
}
