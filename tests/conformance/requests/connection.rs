//! What belongs to one connection: its fields, upgrades, expectations, and requests that follow each other.

use crate::case::{BAD, Case, METHOD, SILENCE, get, post};

/// Fields that must not go on, of requests that are sound.
const HOP_BY_HOP: &[&[u8]] = &[
    b"Connection: keep-alive\r\nKeep-Alive: timeout=5, max=canary\r\n",
    b"Keep-Alive: canary\r\n",
    b"Proxy-Connection: keep-alive\r\n",
    b"Connection: TE\r\nTE: trailers\r\n",
    b"TE: trailers, deflate;q=0.5\r\n",
    b"TE: gzip\r\n",
    b"Trailer: X-Canary\r\n",
    b"Connection: X-Hop\r\nX-Hop: canary\r\n",
    b"Connection: x-hop\r\nX-HOP: canary\r\nX-Hop: canary\r\n",
    b"X-Hop: canary\r\nConnection: keep-alive, X-Hop\r\n",
    b"Connection: X-Hop\r\nConnection: X-Other\r\nX-Hop: canary\r\nX-Other: canary\r\n",
    b"Connection:X-Hop,,\t X-Other ,\r\nX-Hop: canary\r\nX-Other: canary\r\n",
    b"Connection: ,X-Hop\r\nX-Hop: canary\r\n",
    b"Connection: Upgrade\r\nUpgrade: canary\r\n",
    b"Upgrade: canary\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    b"Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n",
    b"Connection: Upgrade\r\nUpgrade: HTTP/1.1\r\n",
];

/// Connection fields that would take away what others rely on, or that are odd.
const NOMINATIONS: &[&[u8]] = &[
    b"Connection: Host\r\n",
    b"Connection: X-Forwarded-For\r\n",
    b"Connection: x-forwarded-for, x-forwarded-proto, x-forwarded-host\r\n",
    b"Connection: X-Real-IP\r\n",
    b"Connection: Forwarded\r\n",
    b"Connection: X-Request-Id\r\n",
    b"Connection: Via\r\n",
    b"Connection: traceparent\r\n",
    b"Connection: Connection\r\n",
    b"Connection: :authority\r\n",
    b"Connection: \"X-Forwarded-For\"\r\n",
    b"Connection: X-Forwarded-For;q=1\r\n",
    b"Connection: X Forwarded For\r\n",
    b"Connection:\r\n",
    b"Connection: ,,,\r\n",
    b"Connection: keep-alive, keep-alive\r\n",
    b"Connection: \xff\r\n",
    b"Connection: keep-alive\r\nConnection: \xff, X-Hop\r\nX-Hop: canary\r\n",
];

const NEXT: &[u8] = b"GET /{id}/next HTTP/1.1\r\nHost: shop.test\r\n\r\n";

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = HOP_BY_HOP.iter().map(|lines| Case::passes(&[&get(lines)]).get()).collect();
    cases.extend(NOMINATIONS.iter().map(|lines| Case::either(&[&get(lines)], BAD).get()));
    let many: String = (0..1500).map(|n| format!("x{n},")).collect();
    let hidden = format!("Connection: {many}X-Hop\r\nX-Hop: canary\r\n");
    cases.extend([
        Case::either(&[&get(hidden.as_bytes())], &[400, 431]).get().named("a name behind 1,500 others in Connection"),
        Case::either(&[&post(b"Connection: Content-Length\r\nContent-Length: 5\r\n", b"hello")], BAD).post("hello"),
        Case::either(
            &[&post(b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n", b"2\r\nhi\r\n0\r\n\r\n")],
            BAD,
        )
        .post("hi"),
        Case::either(&[&post(b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", b"hello")], BAD)
            .post("hello")
            .named("a WebSocket with a body"),
        Case::either(&[&post(b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n", b"hello"), NEXT], BAD)
            .post("hello")
            .sees("GET", "/{id}/next", "")
            .named("an upgrade with a body, and a request behind it"),
        Case::either(&[&get(b"Connection: Upgrade\r\nUpgrade: h2c\r\n"), NEXT], BAD)
            .get()
            .sees("GET", "/{id}/next", "")
            .named("an upgrade to h2c and a request behind it"),
        // The app answers 200, so the bytes behind are a request or nothing; never a tunnel.
        Case::either(&[&get(b"Connection: Upgrade\r\nUpgrade: websocket\r\n"), NEXT], &[400, SILENCE])
            .get()
            .sees("GET", "/{id}/next", "")
            .named("a WebSocket that is none, and a request behind it"),
    ]);
    cases.extend(expectations());
    cases.extend(pipelines());
    cases
}

fn expectations() -> Vec<Case> {
    let odd: [&[u8]; 8] = [
        b"Expect: y 100-continue\r\n",
        b"Expect: 100-continue, y\r\n",
        b"Expect: 100-continue\r\nExpect: y\r\n",
        b"Expect: 200-ok\r\n",
        b"Expect:\r\n",
        b"Expect: 100-continue;q=1\r\n",
        b"Expect: \"100-continue\"\r\n",
        b"Expect: 100-continu\r\n",
    ];
    let with_body = |lines: &[u8]| post(&[lines, b"Content-Length: 5\r\n"].concat(), b"hello");
    let mut cases: Vec<Case> = odd.map(|lines| Case::refused(&[&with_body(lines), NEXT], &[400, 417])).into();
    cases.extend([
        Case::malformed(&[&with_body(b"Expect:\r\n 100-continue\r\n")]),
        Case::malformed(&[&with_body(b"Expect : 100-continue\r\n")]),
        Case::passes(&[&with_body(b"Expect: 100-continue\r\n")]).post("hello"),
        Case::passes(&[&with_body(b"expect: 100-Continue\r\n")]).post("hello"),
        Case::passes(&[&post(b"Expect: 100-continue\r\nContent-Length: 5\r\n", b"")])
            .part(b"hello")
            .post("hello")
            .named("a body after its expectation"),
        Case::passes(&[&get(b"Expect: 100-continue\r\n")]).get(),
        Case::passes(&[&with_body(b"Expect: 100-continue\r\n"), NEXT]).post("hello").sees("GET", "/{id}/next", ""),
    ]);
    cases
}

fn pipelines() -> Vec<Case> {
    let old = |lines: &[u8]| [b"GET /{id} HTTP/1.0\r\nHost: shop.test\r\n", lines, b"\r\n"].concat();
    let head = b"HEAD /{id} HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    let five = [&get(b"")[..], &post(b"Content-Length: 2\r\n", b"hi"), head, &get(b""), NEXT].concat();
    let many = (0..40).fold(Case::passes(&[&get(b"").repeat(40)]), |case, _| case.get());
    vec![
        Case::passes(&[&five]).get().post("hi").sees("HEAD", "/{id}", "").get().sees("GET", "/{id}/next", ""),
        many.named("40 requests at once"),
        Case::passes(&[head, NEXT]).sees("HEAD", "/{id}", "").sees("GET", "/{id}/next", ""),
        Case::passes(&[&get(b"")]).part(NEXT).get().sees("GET", "/{id}/next", "").named("two requests in two parts"),
        Case::passes(&[&get(b""), b"GET /{id}/ne"])
            .part(b"xt HTTP/1.1\r\nHost: shop.test\r\n\r\n")
            .get()
            .sees("GET", "/{id}/next", "")
            .named("one request and a half, then the rest"),
        Case::refused(&[&get(b""), b"GET /{id}/next HTTP/1.1\r\nHost: shop.test\r\nX : y\r\n\r\n"], BAD).get(),
        Case::refused(&[b"GET /{id}/next HTTP/1.1\r\nHost: shop.test\r\nX : y\r\n\r\n", &get(b"")], BAD),
        Case::refused(&[&get(b""), b"\r\n\r\nhello\r\n\r\n"], METHOD).get(),
        // Who says that this was the last is taken at the word.
        Case::passes(&[&get(b"Connection: close\r\n"), NEXT]).get().closes(),
        Case::passes(&[&get(b"Connection: keep-alive, close\r\n"), NEXT]).get().closes(),
        Case::passes(&[&get(b"Connection: close, keep-alive\r\n"), NEXT]).get().closes(),
        Case::passes(&[&get(b"Connection: close\r\nConnection: keep-alive\r\n"), NEXT]).get().closes(),
        Case::passes(&[&get(b"Connection: CLOSE\r\n"), NEXT]).get().closes(),
        Case::passes(&[&old(b"")]).get().closes(),
        Case::passes(&[&old(b""), NEXT]).get().closes(),
        Case::passes(&[&old(b"Connection: close\r\n"), NEXT]).get().closes(),
        Case::either(&[&old(b"Connection: keep-alive\r\n"), NEXT], &[]).get().sees("GET", "/{id}/next", ""),
        Case::cut(&[b""]).named("nothing at all"),
        Case::cut(&[&get(b""), b"GET /{id}/next HTTP/1.1\r\n"]).get(),
    ]
}
