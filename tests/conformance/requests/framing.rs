//! Where a body ends: Content-Length against Transfer-Encoding, twice, odd, hidden, or not there.

use crate::case::{BAD, Case, LARGE, get, post};

/// Fields of a POST whose body is `5\r\nhello\r\n0\r\n\r\n`, of which every reading is another one.
const MALFORMED: &[&[u8]] = &[
    // CL.TE and TE.CL.
    b"Content-Length: 15\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nContent-Length: 15\r\n",
    b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    b"content-length: 4\r\ntransfer-encoding: Chunked\r\n",
    b"Content-Length: 4\r\nTransfer-Encoding: identity\r\n",
    b"Content-Length: 4\r\nTransfer-Encoding:\r\n",
    b"Content-Length: 4\r\nTransfer-Encoding: xchunked\r\n",
    b"Content-Length: 4\r\nX: y\r\nTransfer-Encoding: chunked\r\n",
    // Content-Length more than once.
    b"Content-Length: 5\r\nContent-Length: 5\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n",
    b"Content-Length: 0\r\nContent-Length: 5\r\n",
    b"Content-Length: 5\r\ncontent-length: 0\r\n",
    b"Content-Length: 5\r\nContent-Length:\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Content-Length: 5,6\r\n",
    b"Content-Length: 5,\r\n",
    b"Content-Length: ,5\r\n",
    // Content-Length that is no number.
    b"Content-Length:\r\n",
    b"Content-Length: \t\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: -5\r\n",
    b"Content-Length: -0\r\n",
    b"Content-Length: 5 5\r\n",
    b"Content-Length: 5 ;\r\n",
    b"Content-Length: 5;x\r\n",
    b"Content-Length: 5x\r\n",
    b"Content-Length: 0x5\r\n",
    b"Content-Length: 0o5\r\n",
    b"Content-Length: 5.0\r\n",
    b"Content-Length: 5e0\r\n",
    b"Content-Length: 1_0\r\n",
    b"Content-Length: \"5\"\r\n",
    b"Content-Length: '5'\r\n",
    b"Content-Length: (5)\r\n",
    b"Content-Length: five\r\n",
    b"Content-Length: chunked\r\n",
    b"Content-Length: \xd9\xa5\r\n",
    b"Content-Length: \xef\xbc\x95\r\n",
    b"Content-Length: \xc2\xa05\r\n",
    b"Content-Length: 5\0\r\n",
    b"Content-Length: \x0b5\r\n",
    b"Content-Length: 5\x0c\r\n",
    b"Content-Length: 5\r\r\n",
    b"Content-Length: 5\n\r\n",
    b"Content-Length:\r\n 5\r\n",
    b"Content-Length: 1\r\n 5\r\n",
    b"Content-Length : 5\r\n",
    b"Content-Length\t: 5\r\n",
    b" Content-Length: 5\r\n",
    b"Content-Length\0: 5\r\n",
    b"Content-Length\x0b: 5\r\n",
    b"Content-Length\xff: 5\r\n",
    b"Content Length: 5\r\n",
    b"X: y\rContent-Length: 5\r\n",
    b"X: y\nContent-Length: 5\r\n",
    b"X: y\0Content-Length: 5\r\n",
    // Transfer-Encoding that is not chunked, once.
    b"Transfer-Encoding:\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: chunked, gzip\r\n",
    b"Transfer-Encoding: identity, chunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-encoding: x\r\n",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n",
    b"Transfer-Encoding: chunked,\r\n",
    b"Transfer-Encoding: ,chunked\r\n",
    b"Transfer-Encoding: chunked;q=1\r\n",
    b"Transfer-Encoding: chunked;\r\n",
    b"Transfer-Encoding: x chunked\r\n",
    b"Transfer-Encoding: chunked x\r\n",
    b"Transfer-Encoding: xchunked\r\n",
    b"Transfer-Encoding: chunkedx\r\n",
    b"Transfer-Encoding: chunke\r\n",
    b"Transfer-Encoding: chun ked\r\n",
    b"Transfer-Encoding: \"chunked\"\r\n",
    b"Transfer-Encoding: 'chunked'\r\n",
    b"Transfer-Encoding: {chunked}\r\n",
    b"Transfer-Encoding: cow\r\n",
    b"Transfer-Encoding: chun\xe2\x84\xaaed\r\n",
    b"Transfer-Encoding: chunked\0\r\n",
    b"Transfer-Encoding: \0chunked\r\n",
    b"Transfer-Encoding: \x0bchunked\r\n",
    b"Transfer-Encoding: chunked\x0b\r\n",
    b"Transfer-Encoding: \x0cchunked\r\n",
    b"Transfer-Encoding: \xa0chunked\r\n",
    b"Transfer-Encoding: \xc2\x85chunked\r\n",
    b"Transfer-Encoding: chunked\x7f\r\n",
    b"Transfer-Encoding: chunked\r\r\n",
    b"Transfer-Encoding: chunked\n\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n",
    b"Transfer-Encoding:\n chunked\r\n",
    b"Transfer-Encoding: chunked\r\n ,identity\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding\t: chunked\r\n",
    b"Transfer-Encoding\r\n : chunked\r\n",
    b" Transfer-Encoding: chunked\r\n",
    b"\tTransfer-Encoding: chunked\r\n",
    b"Transfer-Encoding\0: chunked\r\n",
    b"Transfer-Encoding\x0b: chunked\r\n",
    b"Transfer\rEncoding: chunked\r\n",
    b"Transfer Encoding: chunked\r\n",
    b"X: y\rTransfer-Encoding: chunked\r\n",
    b"X: y\nTransfer-Encoding: chunked\r\n",
    b"X: y\r\n\rTransfer-Encoding: chunked\r\n",
    b"X: y\0Transfer-Encoding: chunked\r\n",
    b"X:\x0bTransfer-Encoding: chunked\r\n",
];

const CHUNKED: &[u8] = b"5\r\nhello\r\n0\r\n\r\n";
const EVIL: &[u8] = b"GET /{id}/evil HTTP/1.1\r\nHost: shop.test\r\n\r\n";

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = MALFORMED.iter().map(|lines| Case::malformed(&[&post(lines, CHUNKED)])).collect();
    cases.extend(lengths());
    cases.extend(smuggled());
    cases.extend(bodies());
    cases
}

fn lengths() -> Vec<Case> {
    // 2^64 + 5 is 5 to whoever does not look; 2^63 is negative to some; the rest is too much for anybody.
    let huge = [
        &b"Content-Length: 18446744073709551621\r\n"[..],
        b"Content-Length: 18446744073709551616\r\n",
        b"Content-Length: 18446744073709551615\r\n",
        b"Content-Length: 9223372036854775808\r\n",
        b"Content-Length: 4294967301\r\n",
        b"Content-Length: 99999999999999999999999999999999999999\r\n",
    ];
    let mut cases: Vec<Case> = huge.map(|line| Case::refused(&[&post(line, b"hello")], LARGE)).into();
    let zeros = format!("Content-Length: {}5\r\n", "0".repeat(1000));
    cases.extend([
        Case::either(&[&post(b"Content-Length: 00005\r\n", b"hello")], BAD).post("hello"),
        Case::either(&[&post(zeros.as_bytes(), b"hello")], LARGE)
            .post("hello")
            .named("a length of 1,000 zeros and a 5"),
        Case::passes(&[&post(b"Content-Length:5\r\n", b"hello")]).post("hello"),
        Case::passes(&[&post(b"Content-Length: \t 5 \t\r\n", b"hello")]).post("hello"),
        Case::passes(&[&post(b"CONTENT-LENGTH: 5\r\n", b"hello")]).post("hello"),
        Case::passes(&[&post(b"Transfer-Encoding:chunked\r\n", CHUNKED)]).post("hello"),
        Case::passes(&[&post(b"transfer-encoding: \t CHUNKED \t\r\n", CHUNKED)]).post("hello"),
        Case::refused(&[b"POST /{id} HTTP/1.0\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n", CHUNKED], BAD),
        // Twins in the spelling of CGI say nothing of the body.
        Case::either(&[&post(b"Content_Length: 5\r\n", b"")], BAD).post(""),
        Case::either(&[&post(b"Content.Length: 5\r\n", b"")], BAD).post(""),
        Case::either(&[&post(b"Content_Length: 50\r\nContent-Length: 5\r\n", b"hello")], BAD).post("hello"),
        Case::either(&[&post(b"Transfer_Encoding: chunked\r\nContent-Length: 15\r\n", CHUNKED)], BAD).post(CHUNKED),
        Case::either(&[&post(b"Transfer.Encoding: chunked\r\nContent-Length: 15\r\n", CHUNKED)], BAD).post(CHUNKED),
        Case::either(&[&post(b"Transfer-Encoding_: chunked\r\nContent-Length: 5\r\n", b"hello")], BAD).post("hello"),
    ]);
    cases
}

/// With a second request hidden where one of two readings would find it.
fn smuggled() -> Vec<Case> {
    let hidden = EVIL.len() - "{id}".len() + 7;
    let length = |more: usize| format!("Content-Length: {}\r\n", hidden + more);
    let chunk = format!("{hidden:x}\r\n");
    let in_chunk = [chunk.as_bytes(), EVIL, b"\r\n0\r\n\r\n"].concat();
    let both = |length: &str, rest: &[&[u8]]| {
        Case::refused(&[&post(format!("{length}Transfer-Encoding: chunked\r\n").as_bytes(), &rest.concat())], BAD)
    };
    vec![
        both(&length(5), &[b"0\r\n\r\n", EVIL]).named("CL.TE"),
        both("Content-Length: 4\r\n", &[&in_chunk]).named("TE.CL"),
        both("Content-Length: 0\r\n", &[&in_chunk]).named("TE.0"),
        Case::passes(&[&post(b"Content-Length: 0\r\n", b""), EVIL])
            .post("")
            .sees("GET", "/{id}/evil", "")
            .named("what follows an empty body is a request of its own"),
        Case::passes(&[&get(length(0).as_bytes()), EVIL]).sees("GET", "/{id}", EVIL).named("CL.0 with GET"),
        Case::passes(&[&post(length(0).as_bytes(), EVIL)]).post(EVIL).named("CL.0 with POST"),
        Case::passes(&[&post(b"Transfer-Encoding: chunked\r\n", &in_chunk)]).post(EVIL).named("TE.0 in a chunk"),
        Case::passes(&[b"HEAD /{id} HTTP/1.1\r\nHost: shop.test\r\n", length(0).as_bytes(), b"\r\n", EVIL])
            .sees("HEAD", "/{id}", EVIL)
            .named("CL.0 with HEAD"),
        Case::passes(&[b"OPTIONS /{id} HTTP/1.1\r\nHost: shop.test\r\n", length(0).as_bytes(), b"\r\n", EVIL])
            .sees("OPTIONS", "/{id}", EVIL)
            .named("CL.0 with OPTIONS"),
        Case::either(&[&post([b"Expect: 100-continue\r\n", length(0).as_bytes()].concat().as_slice(), EVIL)], &[417])
            .post(EVIL)
            .named("CL.0 with an expectation"),
        Case::refused(&[&get(b""), b"hello", &get(b"")], &[400, 405, 501]).get().named("a body that nothing announced"),
    ]
}

/// Bodies that end before or after what was announced.
fn bodies() -> Vec<Case> {
    vec![
        Case::cut(&[&post(b"Content-Length: 5\r\n", b"hell")]),
        Case::cut(&[&post(b"Content-Length: 5\r\n", b"")]),
        Case::cut(&[&post(b"Content-Length: 50000\r\n", &[b'x'; 40_000])]).named("40,000 bytes of 50,000"),
        Case::refused(&[&post(b"Content-Length: 5\r\n", b"hello, world\r\n\r\n")], &[400, 405, 501]).post("hello"),
        Case::refused(&[&post(b"Content-Length: 5\r\n", b"hello\0\r\n\r\n")], &[400, 405, 501]).post("hello"),
        Case::passes(&[&post(b"Content-Length: 5\r\n", b"hello"), &get(b"")]).post("hello").get(),
        Case::passes(&[&post(b"", b"")]).post("").named("a POST that announces no body"),
        Case::passes(&[&get(b"Content-Length: 0\r\n")]).get(),
        Case::passes(&[&get(b"Content-Length: 5\r\n"), b"hello"]).sees("GET", "/{id}", "hello"),
        Case::passes(&[&get(b"Transfer-Encoding: chunked\r\n"), CHUNKED]).sees("GET", "/{id}", "hello"),
        Case::passes(&[b"DELETE /{id} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nhello"])
            .sees("DELETE", "/{id}", "hello"),
        Case::either(&[b"POST /{id} HTTP/1.0\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nhello"], BAD)
            .post("hello")
            .closes(),
    ]
}
