//! Parts of a body: cut out of what is stored, kept as they come, and put together.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::Request;
use http_body_util::Full;

use crate::http::{self, Answer};
use crate::world::{Prime, World};

const LENGTH: usize = 20_000;

#[test]
fn parts_are_cut_out_of_what_is_stored() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    assert!(part(&prime, "/a", &[]).body == content("/a"));
    for (range, expected) in [
        ("bytes=0-9", &[(0, 10)][..]),
        ("bytes=-5", &[(LENGTH - 5, LENGTH)]),
        ("bytes=19990-", &[(19_990, LENGTH)]),
        ("bytes=0-9, 1000-1009", &[(0, 10), (1000, 1010)]),
        ("bytes=5000-5009,0-9,90000-", &[(5000, 5010), (0, 10)]),
        ("bytes=0-9,5-30", &[(0, 31)]),
    ] {
        let answer = part(&prime, "/a", &[("range", range)]);
        assert_eq!(
            (answer.status.as_u16(), answer.header("cache-status").starts_with("opri; hit")),
            (206, true),
            "{range}"
        );
        assert_eq!(
            parts(&answer),
            expected.iter().map(|(from, to)| piece("/a", *from..*to)).collect::<Vec<_>>(),
            "{range}"
        );
    }
    let none = part(&prime, "/a", &[("range", "bytes=20000-")]);
    assert_eq!((none.status.as_u16(), none.header("content-range")), (416, "bytes */20000"));
    let tag = part(&prime, "/a", &[]).header("etag").to_owned();
    for (condition, status) in [(tag.as_str(), 206), ("\"other\"", 200), ("W/\"a\"", 200)] {
        let answer = part(&prime, "/a", &[("range", "bytes=0-9"), ("if-range", condition)]);
        assert_eq!(answer.status.as_u16(), status, "{condition}");
    }
    assert_eq!(app.asked(), 1);
}

#[test]
fn parts_are_kept_and_put_together_until_they_are_the_whole() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    for (range, status, asked) in [
        ("bytes=0-99", "opri; fwd=miss; stored", 1),
        ("bytes=10-19", "opri; hit", 1),
        ("bytes=50-149", "opri; fwd=partial; stored", 2),
        ("bytes=20-140", "opri; hit", 2),
        ("bytes=20-40,100-149", "opri; hit", 2),
        ("bytes=140-150", "opri; fwd=partial; stored", 3),
        ("bytes=150-9999", "opri; fwd=partial; stored", 4),
        ("bytes=10000-", "opri; fwd=partial; stored", 5),
        ("bytes=-100", "opri; hit", 5),
    ] {
        let answer = part(&prime, "/a", &[("range", range)]);
        assert!(answer.header("cache-status").starts_with(status), "{range}: {:?}", answer.headers);
        assert_eq!(app.asked(), asked, "{range}");
        parts(&answer).iter().for_each(|(range, body)| assert_eq!(*body, content("/a")[range.clone()], "{range:?}"));
    }
    let whole = part(&prime, "/a", &[]);
    assert_eq!((whole.status.as_u16(), app.asked()), (200, 5), "without asking");
    assert!(whole.body == content("/a"));
    // What is only a part is never taken for the whole.
    part(&prime, "/b", &[("range", "bytes=0-99")]);
    let whole = part(&prime, "/b", &[]);
    assert_eq!((whole.status.as_u16(), whole.header("cache-status")), (200, "opri; fwd=partial; stored"));
    assert!(whole.body == content("/b") && app.asked() == 7);
    assert!(part(&prime, "/b", &[("range", "bytes=5-6")]).header("cache-status").starts_with("opri; hit"));
}

#[test]
fn parts_of_different_versions_are_never_put_together() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    let of = |version: &str, range: &str| {
        part(&prime, "/v", &[("range", range), ("x-version", version)]).header("cache-status").to_owned()
    };
    assert_eq!(of("1", "bytes=0-99"), "opri; fwd=miss; stored");
    assert_eq!(of("2", "bytes=100-199"), "opri; fwd=partial; stored");
    assert_eq!(of("2", "bytes=0-99"), "opri; fwd=partial; stored", "the newer has taken the place of the older");
    assert!(of("2", "bytes=0-199").starts_with("opri; hit"));
}

#[test]
fn whatever_was_asked_for_before_every_byte_is_the_app_s() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    let mut random = 7_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) as usize % below
    };
    for turn in 0..600 {
        let path = ["/a", "/b", "/c", "/d"][next(4)];
        let specs: Vec<String> = (0..=next(3)).map(|_| format!("{}-{}", next(LENGTH), next(LENGTH + 100))).collect();
        let range = format!("bytes={}", specs.join(","));
        let fields = if next(40) == 0 { vec![] } else { vec![("range", range.as_str())] };
        let answer = match turn % 2 {
            0 => part(&prime, path, &fields),
            _ => over_http2(&prime, path, &fields),
        };
        match answer.status.as_u16() {
            200 => assert!(answer.body == content(path)),
            206 => {
                let parts = parts(&answer);
                parts.iter().for_each(|(range, body)| assert_eq!(*body, content(path)[range.clone()], "{fields:?}"));
            }
            416 => {}
            other => panic!("{other}: {fields:?}"),
        }
    }
    assert!(app.asked() < 300, "most of it was there: {}", app.asked());
}

fn content(path: &str) -> String {
    (0..)
        .map(|line| format!("{path} {line}\n"))
        .flat_map(|line| line.into_bytes())
        .take(LENGTH)
        .map(char::from)
        .collect()
}

fn piece(path: &str, range: std::ops::Range<usize>) -> (std::ops::Range<usize>, String) {
    (range.clone(), content(path)[range].to_owned())
}

/// What a 206 brings: each part, and where it belongs.
fn parts(answer: &Answer) -> Vec<(std::ops::Range<usize>, String)> {
    let range = |said: &str| {
        let (first, last) =
            said.strip_prefix("bytes ").unwrap().strip_suffix("/20000").unwrap().split_once('-').unwrap();
        first.parse::<usize>().unwrap()..last.parse::<usize>().unwrap() + 1
    };
    let Some(boundary) = answer.header("content-type").strip_prefix("multipart/byteranges; boundary=") else {
        assert_eq!(answer.header("content-type"), "text/plain");
        return vec![(range(answer.header("content-range")), answer.body.clone())];
    };
    assert_eq!(answer.header("content-range"), "");
    let body = answer.body.strip_suffix(&format!("\r\n--{boundary}--\r\n")).unwrap();
    let between = format!("\r\n--{boundary}\r\n");
    let parts = body.split(&between).skip(1).map(|part| {
        let (head, body) = part.split_once("\r\n\r\n").unwrap();
        let said = head.strip_prefix("Content-Type: text/plain\r\nContent-Range: ").unwrap();
        (range(said), body.to_owned())
    });
    parts.collect()
}

fn part(prime: &Prime<'_>, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(format!("https://shop.test{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    prime.ask(request.body(Full::default()).unwrap())
}

fn over_http2(prime: &Prime<'_>, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut request = Request::get(format!("https://shop.test{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let asking = async {
        let stream = http::tls(prime.address("https"), "shop.test", &prime.root(), "h2").await?;
        http::send2(stream, request.body(Full::default()).unwrap()).await
    };
    prime.world.runtime.block_on(asking).unwrap()
}

/// An app with files of one length, that sends the part it is asked for.
struct App {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl App {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counting = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                answer(stream, &counting);
            }
        });
        Self { address, asked }
    }

    fn project(&self) -> String {
        format!("upstream = \"{}\"\n", self.address)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn answer(stream: TcpStream, asked: &AtomicUsize) {
    let lines: Vec<String> =
        BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let Some(path) = lines.first().and_then(|line| line.split(' ').nth(1)) else { return };
    asked.fetch_add(1, Ordering::SeqCst);
    let field = |name: &str| lines.iter().find_map(|line| line.to_lowercase().strip_prefix(name).map(str::to_owned));
    let version = field("x-version: ").unwrap_or_default();
    let body = content(path);
    let range = field("range: bytes=").filter(|range| !range.contains(',')).and_then(|range| {
        let (first, last) = range.split_once('-')?;
        let first: usize = first.parse().ok()?;
        let last = last.parse::<usize>().map_or(LENGTH, |last| (last + 1).min(LENGTH));
        (first < last).then_some(first..last)
    });
    let head = format!(
        "ETag: \"{path}{version}\"\r\nCache-Control: max-age=600\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    );
    let answer = match range {
        Some(range) => format!(
            "HTTP/1.1 206 Partial Content\r\n{head}Content-Range: bytes {}-{}/{LENGTH}\r\nContent-Length: {}\r\n\r\n{}",
            range.start,
            range.end - 1,
            range.len(),
            &body[range.clone()]
        ),
        None => format!("HTTP/1.1 200 OK\r\n{head}Content-Length: {LENGTH}\r\n\r\n{body}"),
    };
    let mut stream = stream;
    // A client that is gone has had enough.
    let _ = stream.write_all(answer.as_bytes());
}
