//! Requests of which nothing may be refused: what browsers, tools, libraries and old clients send.

use crate::case::{Case, get, post};

const BROWSER: &[u8] = b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: he,en-US;q=0.7,en;q=0.3\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\nDNT: 1\r\nSec-GPC: 1\r\nConnection: keep-alive\r\n\
Cookie: sid=0123456789abcdef; theme=dark; consent=a%7Cb\r\nUpgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\n\
Sec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\nSec-Fetch-User: ?1\r\nPriority: u=0, i\r\n\
If-Modified-Since: Tue, 24 Nov 2026 10:00:00 GMT\r\nIf-None-Match: W/\"abc\", \"def\"\r\nCache-Control: max-age=0\r\n";

/// Lines after the Host of a GET.
const FIELDS: &[&[u8]] = &[
    b"",
    BROWSER,
    b"User-Agent: curl/8.5.0\r\nAccept: */*\r\n",
    b"X:\r\n",
    b"X: \r\n",
    b"X:y\r\n",
    b"X: \t y \t \r\n",
    b"X: a\tb\r\n",
    b"x-lower: y\r\nX-UPPER: Y\r\n",
    b"X: a\r\nX: b\r\nX: c\r\n",
    b"X: \"quoted \\\" , ; string\"\r\n",
    b"X: {\"json\": [1, 2]}\r\n",
    b"X: a:b:c\r\n",
    b"X: \xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d\r\n",
    b"X_Custom_Name: y\r\n",
    b"X.Dotted.Name: y\r\n",
    b"!#$%&'*+-.^_`|~09azAZ: y\r\n",
    b"1: 2\r\n",
    b"Range: bytes=0-99,200-\r\n",
    b"Authorization: Basic dXNlcjp3b3Jk\r\n",
    b"Authorization: Bearer eyJhbGciOi.eyJzdWIiOi.x_-~+/=\r\n",
    b"Referer: http://other.test/a?b#c\r\n",
    b"Origin: null\r\n",
    b"TE: trailers\r\n",
    b"Cookie: a=b; c=\"d\"; e=f=g; h\r\n",
    b"Content-Type: text/plain\r\n",
    b"Upgrade-Insecure-Requests: 1\r\n",
];

/// Targets of a GET, as they must arrive.
const TARGETS: &[&str] = &[
    "/{id}?",
    "/{id}?a=b&c=d;e=f",
    "/{id}?a=b?c=/d",
    "/{id}?q=[1]{2}|3^4`5\\6'7",
    "/{id}/a%20b%2Fc%2e%2E%00",
    "/{id}/%zz%",
    "/{id}//a///b/",
    "/{id}/../a/./b/..",
    "/{id};v=1/a,b;c",
    "/{id}:80/a@b",
    "/{id}/~user/(a)*!$&'+=",
    "/{id}%23not-a-fragment",
    "/%D7%A2%D7%9E%D7%95%D7%93/{id}",
    "/?{id}",
    "/{id}/a|b[c]",
];

const METHODS: &[&str] = &["PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "REPORT", "MKCOL", "COPY", "MOVE", "LOCK"];

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = FIELDS.iter().map(|lines| Case::passes(&[&get(lines)]).get()).collect();
    cases.extend(TARGETS.iter().map(|target| {
        Case::passes(&[b"GET ", target.as_bytes(), b" HTTP/1.1\r\nHost: shop.test\r\n\r\n"]).sees("GET", target, "")
    }));
    cases.extend(METHODS.iter().map(|method| {
        let head = format!("{method} /{{id}} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 2\r\n\r\nhi");
        Case::passes(&[head.as_bytes()]).sees(method, "/{id}", "hi")
    }));
    let many: String = (0..99).map(|n| format!("X-{n}: y\r\n")).collect();
    let cookie = format!("Cookie: a={}\r\n", "b".repeat(8000));
    let far = format!("/{{id}}?{}", "x".repeat(8000));
    let body = "x".repeat(200_000);
    let length = format!("Content-Length: {}\r\n", body.len());
    cases.extend([
        Case::passes(&[&get(many.as_bytes())]).get().named("100 fields"),
        Case::passes(&[&get(cookie.as_bytes())]).get().named("a cookie of 8,000 bytes"),
        Case::passes(&[b"GET ", far.as_bytes(), b" HTTP/1.1\r\nHost: shop.test\r\n\r\n"])
            .sees("GET", &far, "")
            .named("a target of 8,000 bytes"),
        Case::passes(&[&post(length.as_bytes(), body.as_bytes())]).post(&body).named("a body of 200,000 bytes"),
        Case::passes(&[&post(b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n", b"a=b&c=d")])
            .post("a=b&c=d"),
        Case::passes(&[b"OPTIONS * HTTP/1.1\r\nHost: shop.test\r\nX-Mark: {id}\r\n\r\n"]).sees("OPTIONS", "*", ""),
        Case::passes(&[b"HEAD /{id} HTTP/1.1\r\nHost: shop.test\r\n\r\n"]).sees("HEAD", "/{id}", ""),
        Case::passes(&[b"GET http://shop.test/{id} HTTP/1.1\r\nHost: shop.test\r\n\r\n"]).get(),
        Case::passes(&[b"GET HTTP://SHOP.TEST/{id} HTTP/1.1\r\nHost: shop.test\r\n\r\n"]).get(),
        Case::passes(&[b"GET http://shop.test:80/{id} HTTP/1.1\r\nHost: shop.test:80\r\n\r\n"]).get(),
        Case::passes(&[b"GET http://shop.test?{id} HTTP/1.1\r\nHost: shop.test\r\n\r\n"]).sees("GET", "/?{id}", ""),
        Case::passes(&[b"GET /{id} HTTP/1.0\r\nHost: shop.test\r\nUser-Agent: ApacheBench/2.3\r\n\r\n"]).get().closes(),
    ]);
    cases
}
