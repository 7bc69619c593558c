//! Compression: what can be compressed arrives so for whoever takes it, by both ways to an app, and nothing else does.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};

use ::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::http;
use crate::world::{PATIENCE, Prime, World};

const CODINGS: [&str; 3] = ["br", "zstd", "gzip"];
/// What a browser sends; the edge likes the third best.
const BROWSER: &str = "gzip, deflate, br, zstd";
const LARGE: usize = 32 << 20;

#[test]
fn a_page_arrives_in_the_coding_a_visitor_takes_by_every_way() {
    let world = World::new();
    let app = App::new();
    let prime = app.prime(&world, "");
    for way in Way::ALL {
        for coding in CODINGS {
            for path in ["/page", "/open", "/closed", "/lost"] {
                let reply = prime.ask_by(way, path, &[("accept-encoding", coding)]);
                let context = format!("{path} in {coding} by {way:?}: {:?}", reply.headers);
                assert_eq!(reply.field("content-encoding"), coding, "{context}");
                assert_eq!(reply.field("vary"), "Accept-Encoding", "{context}");
                assert_eq!(reply.field("accept-ranges"), "", "{context}");
                assert!(reply.decoded() == page(path), "{context}");
                assert!(reply.body.len() * 3 < page(path).len(), "{context}: {} bytes", reply.body.len());
            }
            let tagged = prime.ask_by(way, "/page", &[("accept-encoding", coding)]);
            assert_eq!(tagged.field("etag"), "W/\"v1\"");
        }
        let plain = prime.ask_by(way, "/page", &[]);
        assert!(plain.body == page("/page") && plain.field("content-encoding").is_empty(), "{:?}", plain.headers);
        assert_eq!((plain.field("vary"), plain.field("etag")), ("Accept-Encoding", "\"v1\""));
        let liked = prime.ask_by(way, "/lost", &[("accept-encoding", BROWSER)]);
        assert_eq!((liked.status, liked.field("content-encoding")), (StatusCode::NOT_FOUND, "br"));
    }
}

#[test]
fn nothing_is_compressed_twice_or_against_anybodys_will() {
    let world = World::new();
    let app = App::new();
    let prime = app.prime(&world, "[compression]\nskip = [\"/account/*\"]\n");
    for way in Way::ALL {
        for path in ["/coded", "/cookie", "/sealed", "/small", "/picture", "/unbuffered", "/account/me", "/part"] {
            let reply = prime.ask_by(way, path, &[("accept-encoding", BROWSER)]);
            let context = format!("{path} by {way:?}: {:?}", reply.headers);
            assert!(reply.body == page(path), "{context}");
            assert_eq!(reply.field("content-encoding"), if path == "/coded" { "gzip" } else { "" }, "{context}");
            assert_eq!(reply.field("vary"), "", "{context}");
        }
        for refused in ["deflate", "gzip;q=0, br;q=0", "identity, gzip;q=0.5", ""] {
            let reply = prime.ask_by(way, "/page", &[("accept-encoding", refused)]);
            assert!(reply.body == page("/page") && reply.field("content-encoding").is_empty(), "{refused:?}");
            assert_eq!(reply.field("vary"), "Accept-Encoding", "what another visitor gets is something else");
        }
    }
}

#[test]
fn a_site_can_do_without_compression() {
    let world = World::new();
    let app = App::new();
    let prime = app.prime(&world, "[compression]\nenabled = false\n");
    for way in Way::ALL {
        let reply = prime.ask_by(way, "/page", &[("accept-encoding", BROWSER)]);
        assert!(reply.body == page("/page") && reply.field("vary").is_empty(), "{:?}", reply.headers);
    }
}

#[test]
fn each_coding_of_a_page_is_stored_once() {
    let world = World::new();
    let app = App::new();
    let prime = app.prime(&world, "");
    let get = |accepted: &str| prime.ask_by(Way::Light, "/stored", &[("accept-encoding", accepted)]);
    for (number, accepted) in ["br", "gzip", "zstd", "identity"].into_iter().enumerate() {
        let first = get(accepted);
        let reason = if number == 0 { "miss" } else { "vary-miss" };
        assert_eq!(first.field("cache-status"), format!("opri; fwd={reason}; stored"));
        assert_eq!(app.asked("/stored"), number + 1);
        let again = get(accepted);
        assert!(again.field("cache-status").starts_with("opri; hit"), "{:?}", again.headers);
        assert!(again.body == first.body && again.decoded() == page("/stored"));
        for name in ["content-encoding", "vary", "etag"] {
            assert_eq!(again.field(name), first.field(name), "{name}");
        }
        assert_eq!(again.field("content-length"), again.body.len().to_string());
    }
    // However it is said, who takes the same gets the same.
    for accepted in ["gzip, deflate, br", BROWSER, "br;q=1.0, *;q=0.1", "GZIP", "gzip;q=0.9, identity;q=0.1", "deflate"]
    {
        for way in [Way::Light, Way::Full] {
            let reply = prime.ask_by(way, "/stored", &[("accept-encoding", accepted)]);
            assert!(reply.field("cache-status").contains("hit") && reply.decoded() == page("/stored"), "{accepted}");
        }
    }
    assert_eq!(app.asked("/stored"), 4);
    // By pingora's way it is stored as well.
    prime.does(&["purge", "shop", "--all"]);
    prime.ask_by(Way::Full, "/stored", &[("accept-encoding", "gzip")]);
    let hit = get("gzip");
    assert!(hit.field("cache-status").contains("hit") && hit.decoded() == page("/stored"), "{:?}", hit.headers);
    assert_eq!(app.asked("/stored"), 5);
}

#[test]
fn conditions_and_parts_keep_to_what_a_visitor_has() {
    let world = World::new();
    let app = App::new();
    let prime = app.prime(&world, "");
    let coded = prime.ask_by(Way::Light, "/stored", &[("accept-encoding", "br")]);
    let tag = coded.field("etag").to_owned();
    assert_eq!(tag, "W/\"v1\"");
    let has = prime.ask_by(Way::Light, "/stored", &[("accept-encoding", "br"), ("if-none-match", &tag)]);
    assert_eq!((has.status, has.field("etag"), app.asked("/stored")), (StatusCode::NOT_MODIFIED, &tag[..], 1));
    // A part of what is coded would be of use to nobody: it is the app's to cut.
    let range = [("accept-encoding", "br"), ("range", "bytes=0-9")];
    let whole = prime.ask_by(Way::Light, "/stored", &range);
    assert!(whole.status == StatusCode::OK && whole.field("content-encoding").is_empty(), "{:?}", whole.headers);
    assert!(whole.body == page("/stored"));
    prime.ask_by(Way::Light, "/stored", &[]);
    let part = prime.ask_by(Way::Light, "/stored", &range);
    assert_eq!((part.status, &part.body[..]), (StatusCode::PARTIAL_CONTENT, &page("/stored")[..10]));
    assert!(part.field("cache-status").contains("hit"), "out of what is stored plain: {:?}", part.headers);
    let head = prime.ask_with("HEAD", Way::Light, "/stored", &[("accept-encoding", "br")]);
    assert_eq!(head.field("content-length"), coded.body.len().to_string());
    let uncached = prime.ask_with("HEAD", Way::Light, "/page", &[("accept-encoding", "br")]);
    assert_eq!(uncached.field("content-length"), page("/page").len().to_string());
}

#[test]
fn what_an_app_sends_bit_by_bit_arrives_bit_by_bit() {
    let world = World::new();
    let app = App::new();
    let prime = app.prime(&world, "");
    for (path, coding) in [("/lines", "gzip"), ("/lines", "br"), ("/lines", "zstd"), ("/events", "")] {
        for connection in ["", "Connection: x-none\r\n"] {
            let accepted = if coding.is_empty() { BROWSER } else { coding };
            let _waiting = begun(&prime, path, &format!("Accept-Encoding: {accepted}\r\n{connection}"), coding);
            app.goes_on();
        }
    }
}

/// Asks, and waits for the first line.
fn begun(prime: &Prime<'_>, path: &str, fields: &str, coding: &str) -> TcpStream {
    let mut stream = TcpStream::connect(prime.address("http")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n").as_bytes()).unwrap();
    let mut seen = Vec::new();
    // The app sends the second line only when it is told that the first has come.
    while !decoded_start(coding, &body_of(&seen)).starts_with(b"the first line") {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).unwrap_or(0);
        assert!(read > 0, "{path} in {coding:?}: {:?}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&part[..read]);
    }
    stream
}

#[test]
fn while_too_many_take_their_time_others_get_a_page_as_it_is() {
    let world = World::new();
    let app = App::new();
    let prime = app.prime(&world, "");
    let is_coded = || {
        let reply = prime.ask_by(Way::Light, "/page", &[("accept-encoding", "gzip")]);
        assert!(reply.decoded() == page("/page"));
        reply.field("content-encoding") == "gzip"
    };
    let waiting: Vec<_> = (0..64).map(|_| begun(&prime, "/lines", "Accept-Encoding: gzip\r\n", "gzip")).collect();
    assert!(!is_coded());
    waiting.iter().for_each(|_| app.goes_on());
    prime.until("there is room again", is_coded);
}

#[test]
fn a_large_body_is_never_held_whole() {
    let world = World::new();
    let app = App::new();
    let prime = app.prime(&world, "");
    prime.ask_by(Way::Light, "/page", &[("accept-encoding", "gzip")]);
    for way in [Way::Light, Way::Full] {
        let before = peak(prime.edge_pid());
        let reply = prime.ask_by(way, "/large", &[("accept-encoding", "gzip")]);
        assert!(reply.field("content-encoding") == "gzip" && reply.decoded() == page("/large"));
        let grown = peak(prime.edge_pid()) - before;
        assert!(grown < LARGE as u64 / 2, "the edge grew by {grown} bytes by {way:?}");
    }
}

#[test]
fn the_access_log_says_how_much_left() {
    let world = World::new();
    let app = App::new();
    let prime = app.prime(&world, "");
    let reply = prime.ask_by(Way::Light, "/page", &[("accept-encoding", "gzip")]);
    let sent = format!("\"sent\":{}", reply.body.len());
    prime.until("the log says what left", || {
        let log = world.path().join("state/edge/access.log");
        std::fs::read_to_string(log).unwrap_or_default().lines().any(|line| line.contains(&sent))
    });
}

/// How a request travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Light,
    /// By pingora.
    Full,
    Posted,
    Http2,
    Http2Posted,
}

impl Way {
    const ALL: [Way; 5] = [Way::Light, Way::Full, Way::Posted, Way::Http2, Way::Http2Posted];
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Reply {
    /// All values of a field.
    fn field(&self, name: &str) -> &str {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next().map_or("", |value| value.to_str().unwrap());
        assert!(values.next().is_none(), "{name} stands twice in {:?}", self.headers);
        first
    }

    fn decoded(&self) -> Vec<u8> {
        decoded(self.field("content-encoding"), &self.body).unwrap()
    }
}

trait Asking {
    fn ask_by(&self, way: Way, path: &str, fields: &[(&str, &str)]) -> Reply;
    fn ask_with(&self, method: &str, way: Way, path: &str, fields: &[(&str, &str)]) -> Reply;
}

impl Asking for Prime<'_> {
    fn ask_by(&self, way: Way, path: &str, fields: &[(&str, &str)]) -> Reply {
        let is_posted = matches!(way, Way::Posted | Way::Http2Posted);
        self.ask_with(if is_posted { "POST" } else { "GET" }, way, path, fields)
    }

    fn ask_with(&self, method: &str, way: Way, path: &str, fields: &[(&str, &str)]) -> Reply {
        let mut request = Request::builder().method(method);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        if way == Way::Full {
            request = request.header("connection", "x-none");
        }
        let body = Full::new(Bytes::from_static(if method == "POST" { b"a" } else { b"" }));
        let response = async {
            let response = match way {
                Way::Http2 | Way::Http2Posted => {
                    let stream = http::tls(self.address("https"), "shop.test", &self.root(), "h2").await?;
                    let shaken =
                        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
                    let (mut sender, connection) = shaken.map_err(|error| error.to_string())?;
                    tokio::spawn(connection);
                    let request = request.uri(format!("https://shop.test{path}")).body(body).unwrap();
                    sender.send_request(request).await
                }
                Way::Light | Way::Full | Way::Posted => {
                    let mut sender = http::http1(http::tcp(self.address("http")).await?).await?;
                    let request = request.uri(path).header("host", "shop.test").body(body).unwrap();
                    sender.send_request(request).await
                }
            };
            let (parts, body) = response.map_err(|error| error.to_string())?.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            Ok::<_, String>(Reply { status: parts.status, headers: parts.headers, body })
        };
        let reply = self.world.runtime.block_on(async { tokio::time::timeout(PATIENCE, response).await });
        let reply = reply.unwrap_or_else(|_| Err("no answer".to_owned()));
        reply.unwrap_or_else(|error| panic!("{method} {path} by {way:?}: {error}\n{}", self.logs()))
    }
}

/// An app of bytes: what it answers depends on the path alone.
struct App {
    address: SocketAddr,
    asked: Arc<Mutex<HashMap<String, usize>>>,
    going_on: mpsc::Sender<()>,
}

impl App {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (going_on, told) = mpsc::channel();
        let (asked, told) = (Arc::<Mutex<HashMap<String, usize>>>::default(), Arc::new(Mutex::new(told)));
        let counting = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), asked, told) = (stream, counting.clone(), told.clone()) else { return };
                std::thread::spawn(move || serve(stream, &asked, &told));
            }
        });
        Self { address, asked, going_on }
    }

    fn prime<'w>(&self, world: &'w World, lines: &str) -> Prime<'w> {
        let prime = world.prime().project("shop", &format!("upstream = \"{}\"\n{lines}", self.address)).start();
        prime.until("the app is routed", || {
            let request = Request::get("http://shop.test/small").body(Full::default()).unwrap();
            prime.try_ask(request).is_ok_and(|answer| answer.status == StatusCode::OK)
        });
        prime
    }

    fn asked(&self, path: &str) -> usize {
        self.asked.lock().unwrap().get(path).copied().unwrap_or(0)
    }

    fn goes_on(&self) {
        self.going_on.send(()).unwrap();
    }
}

fn serve(mut stream: TcpStream, asked: &Mutex<HashMap<String, usize>>, told: &Mutex<mpsc::Receiver<()>>) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break String::from_utf8(bytes.drain(..end + 4).collect()).unwrap();
            }
            read_some(&mut stream, &mut bytes)?;
        };
        while head.starts_with("POST") && bytes.is_empty() {
            read_some(&mut stream, &mut bytes)?;
        }
        bytes.clear();
        let path = head.split(' ').nth(1).unwrap();
        *asked.lock().unwrap().entry(path.to_owned()).or_default() += 1;
        let is_over = answer(&mut stream, path, head.starts_with("HEAD"), told).ok()?;
        if is_over {
            return None;
        }
    }
}

fn read_some(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let mut part = [0; 4096];
    let read = stream.read(&mut part).ok().filter(|read| *read > 0)?;
    bytes.extend_from_slice(&part[..read]);
    Some(())
}

/// Answers; whether the connection ends with that.
fn answer(
    stream: &mut TcpStream,
    path: &str,
    is_head: bool,
    told: &Mutex<mpsc::Receiver<()>>,
) -> std::io::Result<bool> {
    let (status, fields) = match path {
        "/page" => (200, "Content-Type: text/html; charset=utf-8\r\nETag: \"v1\"\r\nAccept-Ranges: bytes\r\n"),
        "/stored" => (200, "Content-Type: text/html\r\nETag: \"v1\"\r\nCache-Control: max-age=60\r\n"),
        "/lost" => (404, "Content-Type: application/problem+json\r\n"),
        "/coded" => (200, "Content-Type: text/html\r\nContent-Encoding: gzip\r\n"),
        "/cookie" => (200, "Content-Type: text/html\r\nSet-Cookie: a=b\r\n"),
        "/sealed" => (200, "Content-Type: text/html\r\nCache-Control: no-transform\r\n"),
        "/unbuffered" => (200, "Content-Type: text/html\r\nX-Accel-Buffering: no\r\n"),
        "/part" => (206, "Content-Type: text/html\r\nContent-Range: bytes 0-1/*\r\n"),
        "/picture" => (200, "Content-Type: image/png\r\n"),
        "/events" => (200, "Content-Type: text/event-stream\r\n"),
        _ => (200, "Content-Type: text/html\r\n"),
    };
    let is_chunked = matches!(path, "/open" | "/lines" | "/events");
    let body = page(path);
    let framing = match path {
        _ if is_chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        "/closed" => "Connection: close\r\n".to_owned(),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    stream.write_all(format!("HTTP/1.1 {status} Said\r\n{fields}{framing}\r\n").as_bytes())?;
    if is_head {
        return Ok(false);
    }
    if !is_chunked {
        stream.write_all(&body)?;
        return Ok(path == "/closed");
    }
    let pieces: Vec<&[u8]> =
        if path == "/open" { body.chunks(3000).collect() } else { vec![b"the first line\n", b"the second\n"] };
    for (number, piece) in pieces.into_iter().enumerate() {
        if number > 0 && path != "/open" {
            // Nobody tells when the story has failed.
            told.lock().unwrap().recv_timeout(PATIENCE).map_err(|_| std::io::ErrorKind::TimedOut)?;
        }
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
        stream.write_all(piece)?;
        stream.write_all(b"\r\n")?;
    }
    stream.write_all(b"0\r\n\r\n")?;
    Ok(false)
}

/// The body that the app sends for a path.
fn page(path: &str) -> Vec<u8> {
    let lines = |least: usize| {
        let mut text = String::new();
        while text.len() < least {
            let number = text.len().wrapping_mul(2_654_435_761) % 1000;
            text += &format!("<li class=\"item\"><a href=\"{path}/{number}\">Number {number} of {path}</a></li>\n");
        }
        text.into_bytes()
    };
    match path {
        "/small" => b"small".to_vec(),
        "/large" => lines(LARGE),
        "/coded" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(1));
            encoder.write_all(&lines(20_000)).unwrap();
            encoder.finish().unwrap()
        }
        _ => lines(20_000),
    }
}

fn decoded(coding: &str, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    reader(coding, bytes).read_to_end(&mut plain)?;
    Ok(plain)
}

/// What the beginning of a coded body says.
fn decoded_start(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let (mut reader, mut plain, mut byte) = (reader(coding, bytes), Vec::new(), [0]);
    while let Ok(1) = reader.read(&mut byte) {
        plain.push(byte[0]);
    }
    plain
}

fn reader<'b>(coding: &str, bytes: &'b [u8]) -> Box<dyn Read + 'b> {
    match coding {
        "gzip" => Box::new(flate2::read::GzDecoder::new(bytes)),
        "br" => Box::new(brotli::Decompressor::new(bytes, 4096)),
        "zstd" => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        "" => Box::new(bytes),
        other => panic!("nobody asked for {other}"),
    }
}

/// The whole chunks of an answer that is not over yet, without their framing.
fn body_of(answer: &[u8]) -> Vec<u8> {
    let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { return Vec::new() };
    let (mut rest, mut body) = (&answer[head + 4..], Vec::new());
    while let Some(line) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        let Some(chunk) = rest.get(line + 2..line + 2 + size) else { break };
        body.extend_from_slice(chunk);
        rest = rest.get(line + size + 4..).unwrap_or_default();
    }
    body
}

/// The most memory that a process ever had, in bytes.
fn peak(pid: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}
