//! Chunked bodies: sizes, extensions, ends of lines, trailers, and what comes too early or too late.

use crate::case::{BAD, Case, LARGE, get, post};

const CHUNKED: &[u8] = b"Transfer-Encoding: chunked\r\n";

/// Bodies that are none, with what makes them look whole to somebody.
const MALFORMED: &[&[u8]] = &[
    // Sizes.
    b"0x2\r\nhi\r\n0\r\n\r\n",
    b"0X2\r\nhi\r\n0\r\n\r\n",
    b"+2\r\nhi\r\n0\r\n\r\n",
    b"-2\r\nhi\r\n0\r\n\r\n",
    b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    b" 2\r\nhi\r\n0\r\n\r\n",
    b"\t2\r\nhi\r\n0\r\n\r\n",
    b"2 \r\nhi\r\n0\r\n\r\n",
    b"2\t\r\nhi\r\n0\r\n\r\n",
    b"2 2\r\nhi\r\n0\r\n\r\n",
    b"2,2\r\nhi\r\n0\r\n\r\n",
    b"2.0\r\nhi\r\n0\r\n\r\n",
    b"\"2\"\r\nhi\r\n0\r\n\r\n",
    b"2h\r\nhi\r\n0\r\n\r\n",
    b"g\r\nhi\r\n0\r\n\r\n",
    b"2\0\r\nhi\r\n0\r\n\r\n",
    b"\x002\r\nhi\r\n0\r\n\r\n",
    b"2\x0b\r\nhi\r\n0\r\n\r\n",
    b"\xd9\xa2\r\nhi\r\n0\r\n\r\n",
    b"\xef\xbb\xbf2\r\nhi\r\n0\r\n\r\n",
    b"\r\nhi\r\n0\r\n\r\n",
    b"\r\n2\r\nhi\r\n0\r\n\r\n",
    b";a\r\nhi\r\n0\r\n\r\n",
    b"-0\r\n\r\n",
    b"0 \r\n\r\n",
    b"0x0\r\n\r\n",
    // What overflows 32 or 64 bits, and leaves 2 of it.
    b"100000002\r\nhi\r\n0\r\n\r\n",
    b"10000000000000002\r\nhi\r\n0\r\n\r\n",
    b"ffffffffffffffff\r\nhi\r\n0\r\n\r\n",
    b"fffffffffffffffe\r\nhi\r\n0\r\n\r\n",
    b"8000000000000002\r\nhi\r\n0\r\n\r\n",
    b"100000000000000000000000000000002\r\nhi\r\n0\r\n\r\n",
    // Ends of lines.
    b"2\nhi\r\n0\r\n\r\n",
    b"2\rhi\r\n0\r\n\r\n",
    b"2\r\r\nhi\r\n0\r\n\r\n",
    b"2\n\r\nhi\r\n0\r\n\r\n",
    b"2\r\nhi\n0\r\n\r\n",
    b"2\r\nhi\r0\r\n\r\n",
    b"2\r\nhi0\r\n\r\n",
    b"2\r\nhixx0\r\n\r\n",
    b"2\r\nhi\r\r\n0\r\n\r\n",
    b"2\r\nhi!\r\n0\r\n\r\n",
    b"2\r\nh\r\n0\r\n\r\n",
    b"2\r\nhi \r\n0\r\n\r\n",
    b"2\r\nhi\r\n\r\n0\r\n\r\n",
    b"2\r\nhi\r\n0\n\r\n",
    b"2\r\nhi\r\n0\r\n\n",
    b"2\r\nhi\r\n0\n\n",
    b"2\r\nhi\r\n0\r\r\n\r\n",
    b"2\r\nhi\r\n0\r\n\r\r\n",
    // Extensions.
    b"2;\n\r\nhi\r\n0\r\n\r\n",
    b"2;a=b\nhi\r\n0\r\n\r\n",
    b"2;a\rb\r\nhi\r\n0\r\n\r\n",
    b"2;a\0\r\nhi\r\n0\r\n\r\n",
    b"2;a=\"\r\n0\r\n\r\nGET /{id}/evil HTTP/1.1\r\nHost: shop.test\r\nX: \"\r\nhi\r\n0\r\n\r\n",
    b"2;a=\"\n\"\r\nhi\r\n0\r\n\r\n",
    b"2;a=\x01\r\nhi\r\n0\r\n\r\n",
    b"2;a\x7f\r\nhi\r\n0\r\n\r\n",
    b"2 a=b\r\nhi\r\n0\r\n\r\n",
    b"2a=b\r\nhi\r\n0\r\n\r\n",
    b"2\r\n;a\r\nhi\r\n0\r\n\r\n",
    b"0;a\n\r\n",
    // Trailers that are no fields.
    b"2\r\nhi\r\n0\r\nX: y\n\r\n",
    b"2\r\nhi\r\n0\r\nX: y\r\r\n\r\n",
    b"2\r\nhi\r\n0\r\nX: a\rb\r\n\r\n",
    b"2\r\nhi\r\n0\r\nX: \0\r\n\r\n",
    b"2\r\nhi\r\n0\r\nX : y\r\n\r\n",
    b"2\r\nhi\r\n0\r\nX: y\r\n z\r\n\r\n",
    b"2\r\nhi\r\n0\r\n X: y\r\n\r\n",
    b"2\r\nhi\r\n0\r\nnocolon\r\n\r\n",
    b"2\r\nhi\r\n0\r\n: y\r\n\r\n",
    b"2\r\nhi\r\n0\r\nGET /{id}/evil HTTP/1.1\r\nHost: shop.test\r\n\r\n",
    b"2\r\nhi\r\n0\r\n2\r\nhi\r\n0\r\n\r\n",
];

/// The last chunk, with trailers that would say something of the message or of the client if they were fields.
const TRAILERS: &[&[u8]] = &[
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: other.test\r\n",
    b"Connection: close\r\n",
    b"Trailer: X\r\n",
    b"Authorization: Basic canary\r\n",
    b"Cookie: canary\r\n",
    b"Content-Type: text/canary\r\n",
    b"X-Forwarded-For: 6.6.6.6\r\n",
    b"X-Real-IP: 6.6.6.6\r\n",
    b"X-Request-Id: canary\r\n",
];

pub fn cases() -> Vec<Case> {
    let chunked = |body: &[u8]| post(CHUNKED, body);
    let mut cases: Vec<Case> =
        MALFORMED.iter().map(|body| Case::refused(&[&chunked(body)], &[400, 408, 413])).collect();
    cases.extend(TRAILERS.iter().map(|trailer| {
        let body = [b"2\r\nhi\r\n0\r\n", *trailer, b"\r\n"].concat();
        Case::either(&[&chunked(&body)], BAD).post("hi")
    }));
    cases.extend(right(chunked));
    cases.extend(large(chunked));
    for (end, _) in b"2;a=b\r\nhi\r\n0\r\nX: y\r\n\r\n".iter().enumerate() {
        cases.push(Case::cut(&[&chunked(&b"2;a=b\r\nhi\r\n0\r\nX: y\r\n\r\n"[..end])]));
    }
    cases
}

fn right(chunked: impl Fn(&[u8]) -> Vec<u8>) -> Vec<Case> {
    let alphabet = b"1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n";
    vec![
        Case::passes(&[&chunked(b"0\r\n\r\n")]).post(""),
        Case::passes(&[&chunked(b"2\r\nhi\r\n0\r\n\r\n")]).post("hi"),
        Case::passes(&[&chunked(b"1\r\nh\r\n1\r\ni\r\n0\r\n\r\n")]).post("hi"),
        Case::passes(&[&chunked(b"a\r\n0123456789\r\n0\r\n\r\n")]).post("0123456789"),
        Case::passes(&[&chunked(alphabet)]).post("abcdefghijklmnopqrstuvwxyz"),
        Case::passes(&[&chunked(b"2\r\n\r\n\r\n0\r\n\r\n")]).post("\r\n").named("a chunk of CR LF"),
        Case::passes(&[&chunked(b"5\r\n0\r\n\r\n\r\n0\r\n\r\n")])
            .post("0\r\n\r\n")
            .named("a chunk that looks like the last"),
        Case::passes(&[&chunked(b"2\r\nhi\r\n0\r\n\r\n"), &get(b"")]).post("hi").get(),
        Case::passes(&[&chunked(b"2;a=b\r\nhi\r\n0\r\n\r\n")]).post("hi"),
        Case::passes(&[&chunked(b"2;a;b=c;d=\"e;f\"\r\nhi\r\n0;g\r\n\r\n")]).post("hi"),
        Case::passes(&[&chunked(b"2\r\nhi\r\n0\r\nX-Checksum: y\r\n\r\n")]).post("hi"),
        Case::passes(&[&chunked(b"2\r\nhi\r\n0\r\nX-Checksum: y\r\n\r\n"), &get(b"")]).post("hi").get(),
        // Right by the letter, and of no use.
        Case::either(&[&chunked(b"02\r\nhi\r\n0\r\n\r\n")], BAD).post("hi"),
        Case::either(&[&chunked(b"0000000000000002\r\nhi\r\n0\r\n\r\n")], BAD).post("hi"),
        Case::either(&[&chunked(b"2\r\nhi\r\n000\r\n\r\n")], BAD).post("hi"),
        Case::either(&[&chunked(b"2;\r\nhi\r\n0\r\n\r\n")], BAD).post("hi"),
        Case::either(&[&chunked(b"2;a=\"\r\nhi\r\n0\r\n\r\n")], BAD).post("hi"),
        Case::either(&[&chunked(b"2 ; a = b\r\nhi\r\n0\r\n\r\n")], BAD).post("hi"),
        Case::either(&[&chunked(b"2;a=\"\xff\"\r\nhi\r\n0\r\n\r\n")], BAD).post("hi"),
        // What follows the last chunk is the next request, or none.
        Case::refused(&[&chunked(b"2\r\nhi\r\n0\r\n\r\nx\r\n\r\n")], &[400, 405, 501]).post("hi"),
        Case::refused(&[&chunked(b"2\r\nhi\r\n0\r\n\r\n0\r\n\r\n")], &[400, 405, 501]).post("hi"),
    ]
}

/// What is bounded although each of its bytes is right.
fn large(chunked: impl Fn(&[u8]) -> Vec<u8>) -> Vec<Case> {
    let extension = format!("2;{}\r\nhi\r\n0\r\n\r\n", "a".repeat(40_000));
    let extensions = format!("1;{}\r\nx\r\n", "a".repeat(2000)).repeat(100) + "0\r\n\r\n";
    let trailer = format!("2\r\nhi\r\n0\r\nX: {}\r\n\r\n", "y".repeat(100_000));
    let trailers = format!("2\r\nhi\r\n0\r\n{}\r\n", "X: y\r\n".repeat(20_000));
    let zeros = format!("{}2\r\nhi\r\n0\r\n\r\n", "0".repeat(40_000));
    let ones = "1\r\nx\r\n".repeat(2000) + "0\r\n\r\n";
    vec![
        Case::refused(&[&chunked(extension.as_bytes())], LARGE).named("an extension of 40,000 bytes"),
        Case::either(&[&chunked(extensions.as_bytes())], LARGE).post("x".repeat(100)).named("200 KB of extensions"),
        Case::refused(&[&chunked(trailer.as_bytes())], LARGE).named("a trailer of 100,000 bytes"),
        Case::refused(&[&chunked(trailers.as_bytes())], LARGE).named("20,000 trailers"),
        Case::refused(&[&chunked(zeros.as_bytes())], LARGE).named("a size with 40,000 zeros"),
        Case::passes(&[&chunked(ones.as_bytes())]).post("x".repeat(2000)).named("2,000 chunks of a byte"),
    ]
}
