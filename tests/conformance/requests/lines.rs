//! Request lines: methods, targets and versions.

use crate::case::{BAD, Case, LARGE, METHOD, VERSION};

const MALFORMED: &[&[u8]] = &[
    b"GET  /{id} HTTP/1.1",
    b"GET /{id}  HTTP/1.1",
    b"GET\t/{id} HTTP/1.1",
    b"GET /{id}\tHTTP/1.1",
    b"GET\x0b/{id} HTTP/1.1",
    b"GET\x0c/{id}\x0cHTTP/1.1",
    b"GET\r/{id} HTTP/1.1",
    b"GET\xa0/{id}\xa0HTTP/1.1",
    b" GET /{id} HTTP/1.1",
    b"\tGET /{id} HTTP/1.1",
    b"\0GET /{id} HTTP/1.1",
    b"\xef\xbb\xbfGET /{id} HTTP/1.1",
    b"GET /{id} HTTP/1.1 ",
    b"GET /{id} HTTP/1.1\t",
    b"GET /{id} HTTP/1.1 HTTP/1.1",
    b"GET /{id} HTTP/1.1 x",
    b"GET /{id} x HTTP/1.1",
    b"GET /{id}?a b HTTP/1.1",
    b"GET /{id}\0 HTTP/1.1",
    b"GET /\0{id} HTTP/1.1",
    b"GET /{id}\x01 HTTP/1.1",
    b"GET /{id}\x1b[2J HTTP/1.1",
    b"GET /{id}\x7f HTTP/1.1",
    b"GET /{id}\rx HTTP/1.1",
    b"GET /{id}\nx HTTP/1.1",
    b"GET /{id}#fragment HTTP/1.1",
    b"GET /{id}# HTTP/1.1",
    b"GET #/{id} HTTP/1.1",
    b"GET /{id}?a#b HTTP/1.1",
    b"GET {id} HTTP/1.1",
    b"GET \\{id} HTTP/1.1",
    b"GET ?{id} HTTP/1.1",
    b"GET * HTTP/1.1",
    b"GET *{id} HTTP/1.1",
    b"OPTIONS *{id} HTTP/1.1",
    b"GET shop.test:80 HTTP/1.1",
    b"GET shop.test/{id} HTTP/1.1",
    b"GET http:/{id} HTTP/1.1",
    b"GET http:{id} HTTP/1.1",
    b"GET http:///{id} HTTP/1.1",
    b"GET ://shop.test/{id} HTTP/1.1",
    b"GET ftp://shop.test/{id} HTTP/1.1",
    b"GET file:///{id} HTTP/1.1",
    b"GET javascript:{id} HTTP/1.1",
    b"GET http://user@shop.test/{id} HTTP/1.1",
    b"GET http://user:word@shop.test/{id} HTTP/1.1",
    b"GET http://shop.test@other.test/{id} HTTP/1.1",
    b"GET http://other.test@shop.test/{id} HTTP/1.1",
    b"GET http://shop.test\\@other.test/{id} HTTP/1.1",
    b"GET http://shop.test#@other.test/{id} HTTP/1.1",
    b"GET http://shop.test/{id}#x HTTP/1.1",
    b"GET http://shop.test:x/{id} HTTP/1.1",
    b"GET http://shop.test /{id} HTTP/1.1",
    b"GET http://shop.test,other.test/{id} HTTP/1.1",
    b"GET http://other.test/{id} HTTP/1.1",
    b"GET http://shop.test.other.test/{id} HTTP/1.1",
    b"GET http://[::1]/{id} HTTP/1.1",
    b"GET http://%73hop.test/{id} HTTP/1.1",
    b"GET http://http://shop.test/{id} HTTP/1.1",
    // Raw Unicode, and the bytes that become CR LF when somebody cuts code points down to bytes.
    b"GET /{id}\xc3\xbc HTTP/1.1",
    b"GET /{id}\xff HTTP/1.1",
    b"GET /{id}\xe5\x98\x8a\xe5\x98\x8dX:y HTTP/1.1",
];

const VERSIONS: &[&[u8]] = &[
    b"GET /{id}",
    b"GET /{id} ",
    b"GET /{id} HTTP/0.9",
    b"GET /{id} HTTP/1.2",
    b"GET /{id} HTTP/1.9",
    b"GET /{id} HTTP/1.10",
    b"GET /{id} HTTP/2.0",
    b"GET /{id} HTTP/2",
    b"GET /{id} HTTP/3.0",
    b"GET /{id} HTTP/0.1",
    b"GET /{id} HTTP/01.1",
    b"GET /{id} HTTP/1.01",
    b"GET /{id} HTTP/1.",
    b"GET /{id} HTTP/1",
    b"GET /{id} HTTP/11",
    b"GET /{id} HTTP/1,1",
    b"GET /{id} HTTP/1.1.1",
    b"GET /{id} HTTP/+1.1",
    b"GET /{id} HTTP/-1.1",
    b"GET /{id} http/1.1",
    b"GET /{id} Http/1.1",
    b"GET /{id} HTP/1.1",
    b"GET /{id} HTTPS/1.1",
    b"GET /{id} ICY/1.1",
    b"GET /{id} HTTP\\1.1",
    b"GET /{id} HTTP/1.1\x0b",
    b"GET /{id} HTTP/1.\xd9\xa1",
];

const METHODS: &[&[u8]] = &[
    b"get /{id} HTTP/1.1",
    b"Get /{id} HTTP/1.1",
    b"GEt /{id} HTTP/1.1",
    b"post /{id} HTTP/1.1",
    b"G /{id} HTTP/1.1",
    b"GETT /{id} HTTP/1.1",
    b"GET: /{id} HTTP/1.1",
    b"GE(T /{id} HTTP/1.1",
    b"GET,POST /{id} HTTP/1.1",
    b"GET/ /{id} HTTP/1.1",
    b"\"GET\" /{id} HTTP/1.1",
    b"GE\0T /{id} HTTP/1.1",
    b"GE\x80T /{id} HTTP/1.1",
    b"GET\x7f /{id} HTTP/1.1",
    b"{} /{id} HTTP/1.1",
    b"TRACE /{id} HTTP/1.1",
    b"TRACK /{id} HTTP/1.1",
    b"DEBUG /{id} HTTP/1.1",
    b"PURGE /{id} HTTP/1.1",
    b"CONNECT /{id} HTTP/1.1",
    b"CONNECT shop.test:80 HTTP/1.1",
    b"CONNECT http://shop.test/{id} HTTP/1.1",
    b"HTTP/1.1 200 OK",
    b"$%&' /{id} HTTP/1.1",
    b"x\r\n\r\nGET /{id} HTTP/1.1",
];

const HOST: &[u8] = b"\r\nHost: shop.test\r\n\r\n";

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (lines, statuses) in [(MALFORMED, BAD), (VERSIONS, VERSION), (METHODS, METHOD)] {
        cases.extend(lines.iter().map(|line| Case::refused(&[line, HOST], statuses)));
    }
    let long = "A".repeat(300);
    let far = format!("/{{id}}{}", "x".repeat(40_000));
    cases.extend([
        Case::refused(&[long.as_bytes(), b" /{id} HTTP/1.1", HOST], METHOD).named("a method of 300 bytes"),
        Case::refused(&[b"GET ", far.as_bytes(), b" HTTP/1.1", HOST], LARGE).named("a target of 40,000 bytes"),
        Case::refused(&["x".repeat(40_000).as_bytes()], &[400, 414, 431, 501]).named("40,000 bytes without a space"),
        // HTTP/0.9, as it was.
        Case::refused(&[b"GET /{id}\r\n"], &[400, 408, 505]),
        Case::refused(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], &[400, 405, 501, 505]),
        Case::refused(&[b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03{id}"], &[400, 408]).named("TLS on a plain port"),
        // The names agree, and what is said of scheme and port does not.
        Case::either(&[b"GET https://shop.test/{id} HTTP/1.1", HOST], &[400, 421]).get(),
        Case::either(&[b"GET http://shop.test:81/{id} HTTP/1.1", HOST], &[400, 421]).get(),
        Case::either(&[b"GET http://shop.test./{id} HTTP/1.1", HOST], &[400, 421]).get(),
        Case::either(&[b"OPTIONS http://shop.test HTTP/1.1\r\nX-Mark: {id}", HOST], BAD).sees("OPTIONS", "/", ""),
        // A path that looks like an authority is a path.
        Case::passes(&[b"GET //other.test/{id} HTTP/1.1", HOST]).sees("GET", "//other.test/{id}", ""),
        Case::passes(&[b"GET /http://other.test/{id} HTTP/1.1", HOST]).sees("GET", "/http://other.test/{id}", ""),
        Case::passes(&[b"GET /{id}?http://other.test/ HTTP/1.1", HOST]).sees("GET", "/{id}?http://other.test/", ""),
        // A host in the target needs its Host all the same.
        Case::refused(&[b"GET http://shop.test/{id} HTTP/1.1\r\n\r\n"], BAD),
    ]);
    cases
}
