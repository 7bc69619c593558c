//! The two ways to an app are one: what `fetch` carries and what pingora carries cannot be told apart, neither by the app nor
//! by the visitor.
//!
//! A request that names a field of its own in `Connection` goes pingora's way; without that it goes the light one.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::world::World;

const REQUESTS: usize = 10_000;
const ASKERS: usize = 4;

/// Heads as the app saw them, by the request's number and way.
type Seen = Arc<Mutex<HashMap<String, String>>>;

#[test]
fn ten_thousand_requests_are_the_same_by_both_ways() {
    let world = World::new();
    let seen = Seen::default();
    let app = app(seen.clone());
    let prime = world.prime().project("shop", &format!("upstream = \"{app}\"\n")).start();
    let address = prime.address("http");
    prime.until("the app is routed", || ask(address, &request(0, "light")).contains("HTTP/1.1"));
    std::thread::scope(|scope| {
        for asker in 0..ASKERS {
            let seen = &seen;
            scope.spawn(move || {
                let mut visitor = Visitor::new(address);
                for number in (asker..REQUESTS).step_by(ASKERS) {
                    let light = visitor.exchange(number, "light");
                    let full = visitor.exchange(number, "full");
                    assert_eq!(light, full, "answers to\n{}", request(number, "light"));
                    let app_saw = |way: &str| {
                        let head = seen.lock().unwrap().remove(&format!("{number}/{way}"));
                        comparable(&head.unwrap_or_else(|| panic!("{number} by the {way} way reached no app")))
                    };
                    assert_eq!(app_saw("light"), app_saw("full"), "the app's sight of\n{}", request(number, "light"));
                }
            });
        }
    });
}

/// The same numbers for the same seed, and far from each other.
fn dice(seed: usize) -> impl FnMut(usize) -> usize {
    let mut state = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move |sides| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % sides
    }
}

fn request(number: usize, way: &str) -> String {
    let mut dice = dice(number);
    let method = if dice(5) == 0 { "HEAD" } else { "GET" };
    let paths = ["", "/a/b", "//x", "/../y", "/%2e%2F", "/a;b=c", "/~'()*", "/|{}^"];
    let queries = ["", "&a=b", "&a=%00", "&&==", "&x=http://evil.test/"];
    let target = format!("/n{}?n={number}&way={way}{}", paths[dice(paths.len())], queries[dice(queries.len())]);
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: Shop.test\r\n");
    let fields = [
        "Accept: text/html, */*;q=0.1",
        "accept-encoding: gzip, br",
        "Cookie: a=b; c=\"d\"",
        "Cookie: e=f",
        "X-Custom:   spaces around  ",
        "X-Empty:",
        "x-UPPER-lower: 1",
        "X-Twice: 1\r\nX-Twice: 2",
        "User-Agent: \u{e9}\u{fc} obs-text",
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Port: 1",
        "Forwarded: for=6.6.6.6",
        "X-Request-Id: mine",
        "X-Real-IP: 6.6.6.6",
        "Traceparent: 00-0-0-01",
        "Keep-Alive: timeout=5",
        "TE: trailers",
        "Proxy-Connection: keep-alive",
        "Range: bytes=0-3",
        "If-None-Match: \"x\"",
        "Cache-Control: no-cache",
        "Authorization: Basic YTpi",
        "Referer: http://shop.test/",
        "Content-Length: 0",
        "Via: 1.0 elsewhere",
        "Upgrade-Insecure-Requests: 1",
        "sec-ch-ua: \"a\";v=\"1\"",
    ];
    for field in fields {
        if dice(3) == 0 {
            head.push_str(&format!("{field}\r\n"));
        }
    }
    if way == "full" {
        head.push_str("Connection: x-none\r\n");
    }
    head + "\r\n"
}

/// What the app answers to a number: head and body as they leave.
fn answer(number: usize, is_head: bool) -> String {
    let mut dice = dice(number + 77_777_777);
    let status = ["200 OK", "200 Fine", "204 No Content", "304 Not Modified", "404 Not Found", "500 Oops", "206 Part"];
    let status = status[dice(status.len())];
    let mut head = format!("HTTP/1.1 {status}\r\n");
    let fields = [
        "Content-Type: text/plain",
        "Set-Cookie: a=b\r\nSet-Cookie: c=d",
        "X-App: \u{e9}",
        "Server: app/1",
        "ETag: \"x\"",
        "Vary: Accept-Encoding",
        "Cache-Control: max-age=60",
        "Cache-Control: no-store",
        "Keep-Alive: timeout=9",
        "Connection: X-Own\r\nX-Own: 1",
        "X-Request-Id: the-app's",
        "Via: 1.1 inner",
        "Cache-Status: inner; hit",
        "Date: Sun, 06 Nov 1994 08:49:37 GMT",
    ];
    for field in fields {
        if dice(3) == 0 {
            head.push_str(&format!("{field}\r\n"));
        }
    }
    let body: String = (0..dice(3) * dice(2000)).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    let has_body = !is_head && !status.starts_with("204") && !status.starts_with("304");
    match (has_body, dice(2)) {
        (true, 0) => {
            let chunks: String = body
                .as_bytes()
                .chunks(700)
                .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), String::from_utf8_lossy(chunk)))
                .collect();
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
        }
        (true, _) => format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()),
        (false, _) if status.starts_with("204") => format!("{head}\r\n"),
        (false, _) => format!("{head}Content-Length: {}\r\n\r\n", body.len()),
    }
}

fn app(seen: Seen) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), seen) = (stream, seen.clone()) else { return };
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                while let Some(head) = next_head(&mut stream, &mut bytes) {
                    let value = |name: &str| head.split(name).nth(1).and_then(|rest| rest.split(['&', ' ']).next());
                    let number = value("n=").unwrap().parse().unwrap();
                    seen.lock().unwrap().insert(format!("{number}/{}", value("way=").unwrap()), head.clone());
                    // As bytes of Latin-1, so that what is not ASCII is obs-text.
                    let answer: Vec<u8> = answer(number, head.starts_with("HEAD")).chars().map(|c| c as u8).collect();
                    if stream.write_all(&answer).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// Reads up to an empty line; every byte is one character.
fn next_head(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            return Some(bytes.drain(..end + 4).map(char::from).collect());
        }
        let mut part = [0; 4096];
        match stream.read(&mut part) {
            Ok(read @ 1..) => bytes.extend_from_slice(&part[..read]),
            _ => return None,
        }
    }
}

/// A head without what is each request's own, its lines in order of their names.
fn comparable(head: &str) -> Vec<String> {
    let own = |line: &str| {
        let lower = line.to_ascii_lowercase();
        ["x-request-id: ", "connection: ", "date: "].iter().any(|name| lower.starts_with(name))
    };
    let mut lines: Vec<String> = head
        .trim_end()
        .lines()
        .filter(|line| !own(line))
        .map(|line| {
            let line = line.replace("way=light", "way=").replace("way=full", "way=");
            match line.split_once(':') {
                Some((name, value)) if !line.contains(" HTTP/1.1") => {
                    format!("{}:{}", name.to_ascii_lowercase(), value.trim())
                }
                _ => line,
            }
        })
        .collect();
    lines[1..].sort();
    lines
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    next_head(&mut stream, &mut Vec::new()).unwrap_or_default()
}

fn decoded(body: &str) -> String {
    let (bytes, mut plain): (Vec<u8>, _) = (body.chars().map(|c| c as u8).collect(), String::new());
    brotli::Decompressor::new(&bytes[..], 4096).read_to_string(&mut plain).unwrap();
    plain
}

struct Visitor {
    address: SocketAddr,
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Visitor {
    fn new(address: SocketAddr) -> Self {
        Self { address, stream: TcpStream::connect(address).unwrap(), bytes: Vec::new() }
    }

    /// The answer's head and body, without what is each answer's own.
    fn exchange(&mut self, number: usize, way: &str) -> (Vec<String>, String) {
        let request: Vec<u8> = request(number, way).chars().map(|c| c as u8).collect();
        self.stream.write_all(&request).unwrap();
        let head = next_head(&mut self.stream, &mut self.bytes).unwrap_or_else(|| panic!("{number}/{way}: no answer"));
        let lower = head.to_ascii_lowercase();
        let status = &head[9..12];
        let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let body = match length {
            _ if request.starts_with(b"HEAD") || status == "204" || status == "304" => String::new(),
            Some(length) => self.take(length),
            None => self.chunks(),
        };
        if lower.contains("connection: close") {
            *self = Self::new(self.address);
        }
        // An encoder sees other parts by another way, and says the same by other bytes.
        let body = if lower.contains("content-encoding: br") { decoded(&body) } else { body };
        (comparable(&head), body)
    }

    fn take(&mut self, length: usize) -> String {
        while self.bytes.len() < length {
            let mut part = [0; 4096];
            let read = self.stream.read(&mut part).unwrap();
            assert!(read > 0, "a body broke off");
            self.bytes.extend_from_slice(&part[..read]);
        }
        self.bytes.drain(..length).map(char::from).collect()
    }

    fn chunks(&mut self) -> String {
        let mut body = String::new();
        loop {
            let mut line = String::new();
            while !line.ends_with("\r\n") {
                line += &self.take(1);
            }
            let size = usize::from_str_radix(line.trim(), 16).unwrap();
            body += &self.take(size);
            assert_eq!(self.take(2), "\r\n");
            if size == 0 {
                return body;
            }
        }
    }
}
