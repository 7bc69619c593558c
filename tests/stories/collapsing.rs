//! Many who want one page cost its app one request, and none of them waits for another's pace.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use ::http::Request;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinHandle;

use crate::http::{self, Answer};
use crate::world::{PATIENCE, Prime, World};

const FRESH: &str = "Cache-Control: max-age=600\r\nConnection: close\r\n";

#[test]
fn a_thousand_who_want_one_page_cost_its_app_one_request() {
    let (world, app) = (World::new(), App::start());
    let limits = "[limits]\nconnections_per_address = 5000\n";
    let prime = world.prime().with(limits).project("shop", &app.project()).start();
    let over_http1 = (0..100).map(|_| begin(&prime, "http/1.1", 1));
    let over_http2 = (0..10).map(|_| begin(&prime, "h2", 90));
    let askers: Vec<_> = over_http1.chain(over_http2).collect();
    in_flight(&prime, 1000);
    let mut asked = app.asked();
    asked.say(&format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: 10\r\n\r\nhello"));
    asked.say("world");
    let mut answers: Vec<Answer> = Vec::new();
    for asker in askers {
        answers.extend(world.runtime.block_on(asker).unwrap().unwrap());
    }
    assert_eq!(answers.len(), 1000);
    assert!(answers.iter().all(|answer| answer.body == "helloworld" && answer.status == 200));
    let collapsed = answers.iter().filter(|answer| answer.header("cache-status") == "opri; fwd=miss; collapsed");
    assert_eq!(collapsed.count(), 999, "and one has asked");
    prime.until("each is counted as what it was", || {
        let (text, counted) = (prime.metrics(), |status: &str, count: u32| {
            format!("opri_cache_requests_total{{project=\"shop\",status=\"{status}\"}} {count}\n")
        });
        text.contains(&counted("collapsed", 999)) && text.contains(&counted("miss", 1))
    });
    app.was_not_asked();
}

#[test]
fn who_asked_first_may_leave_and_the_others_get_all_of_it() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    for has_begun in [true, false] {
        let path = format!("/{has_begun}");
        let mut first = Visitor::asks(&prime, &path, "");
        let mut asked = app.asked();
        let others: Vec<_> = (0..5).map(|_| prime.begin("shop.test", &path)).collect();
        in_flight(&prime, 6);
        if has_begun {
            asked.say(&format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: 10\r\n\r\nhello"));
            first.reads_until("hello");
        }
        drop(first);
        in_flight(&prime, if has_begun { 6 } else { 5 });
        if has_begun {
            asked.say("world");
        } else {
            let mut again = app.asked();
            again.say(&format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: 10\r\n\r\nhelloworld"));
        }
        others.into_iter().for_each(|other| assert_eq!(prime.answer(other).body, "helloworld"));
        app.was_not_asked();
    }
}

#[test]
fn an_answer_for_one_alone_lets_everybody_ask_at_once_and_is_remembered() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    let own = |body: &str| {
        format!("HTTP/1.1 200 OK\r\nCache-Control: private\r\nConnection: close\r\nContent-Length: 3\r\n\r\n{body}")
    };
    let first = prime.begin("shop.test", "/own");
    let mut asked = app.asked();
    let others: Vec<_> = (0..5).map(|_| prime.begin("shop.test", "/own")).collect();
    in_flight(&prime, 6);
    asked.say(&own("one"));
    assert_eq!(prime.answer(first).body, "one");
    // All five are there before one of them is answered.
    let waiting: Vec<_> = (0..5).map(|_| app.asked()).collect();
    waiting.into_iter().for_each(|mut asked| asked.say(&own("two")));
    others.into_iter().for_each(|other| assert_eq!(prime.answer(other).body, "two"));
    let again: Vec<_> = (0..2).map(|_| prime.begin("shop.test", "/own")).collect();
    let waiting: Vec<_> = (0..2).map(|_| app.asked()).collect();
    waiting
        .into_iter()
        .for_each(|mut asked| asked.say(&format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: 3\r\n\r\nall")));
    again.into_iter().for_each(|other| assert_eq!(prime.answer(other).body, "all"));
    assert_eq!(prime.get("http://shop.test/own").body, "all", "and it is for everybody since");
    app.was_not_asked();
}

#[test]
fn who_gets_another_variant_asks_for_it_once() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    let mut english = Visitor::asks(&prime, "/", "X-Lang: en\r\n");
    let mut asked = app.asked();
    let mut others: Vec<_> = (0..4).map(|_| Visitor::asks(&prime, "/", "X-Lang: he\r\n")).collect();
    in_flight(&prime, 5);
    let page = |text: &str| format!("HTTP/1.1 200 OK\r\n{FRESH}Vary: X-Lang\r\nContent-Length: 6\r\n\r\n{text}");
    asked.say(&page("hello."));
    let mut asked = app.asked();
    english.reads_until("hello.");
    asked.say(&page("shalom"));
    others.iter_mut().for_each(|other| other.reads_until("shalom"));
    app.was_not_asked();
}

#[test]
fn who_reads_nothing_keeps_nobody_waiting() {
    const SIZE: usize = 8 << 20;
    let (world, app) = (World::new(), App::start());
    for (number, length) in
        [format!("Content-Length: {SIZE}\r\n"), "Transfer-Encoding: chunked\r\n".to_owned()].iter().enumerate()
    {
        let prime = world.prime().project("shop", &app.project()).start();
        // What the other Prime has stored lies in the same place.
        let path = format!("/large{number}");
        let slow = Visitor::asks(&prime, &path, "");
        let mut asked = app.asked();
        let mut other = Visitor::asks(&prime, &path, "");
        in_flight(&prime, 2);
        asked.say(&format!("HTTP/1.1 200 OK\r\n{FRESH}{length}\r\n"));
        if number == 1 {
            asked.say(&format!("{SIZE:x}\r\n"));
        }
        let app_writes = std::thread::spawn(move || {
            asked.say(&"x".repeat(SIZE));
            asked.say(if number == 1 { "\r\n0\r\n\r\n" } else { "" });
        });
        assert!(other.reads_to_the_end(number == 1) >= SIZE);
        app_writes.join().unwrap();
        drop(slow);
        app.was_not_asked();
    }
}

#[test]
fn an_answer_that_breaks_off_looks_whole_to_nobody() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    let first = prime.begin("shop.test", "/");
    let mut asked = app.asked();
    let mut other = Visitor::asks(&prime, "/", "");
    in_flight(&prime, 2);
    asked.say(&format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: 10\r\n\r\nhello"));
    other.reads_until("hello");
    drop(asked);
    other.is_cut();
    assert!(world.runtime.block_on(first).unwrap().is_err());
    let next = prime.begin("shop.test", "/");
    app.asked().say(&format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: 2\r\n\r\nok"));
    assert_eq!(prime.answer(next).body, "ok");
}

#[test]
fn what_grows_too_large_to_be_stored_reaches_all_who_began_to_read_it() {
    let (world, app) = (World::new(), App::start());
    let conf = format!("{}[cache]\nobject_max = \"1MiB\"\n", app.project());
    let prime = world.prime().project("shop", &conf).start();
    let mut first = Visitor::asks(&prime, "/", "");
    let mut asked = app.asked();
    let mut other = Visitor::asks(&prime, "/", "");
    in_flight(&prime, 2);
    asked.say(&format!("HTTP/1.1 200 OK\r\n{FRESH}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"));
    other.reads_until("hello");
    let app_writes = std::thread::spawn(move || {
        for _ in 0..64 {
            asked.say(&format!("10000\r\n{}\r\n", "x".repeat(0x10000)));
        }
        asked.say("0\r\n\r\n");
    });
    let reading = std::thread::spawn(move || first.reads_to_the_end(true));
    assert!(other.reads_to_the_end(true) >= 4 << 20);
    assert!(reading.join().unwrap() >= 4 << 20);
    app_writes.join().unwrap();
    let next = prime.begin("shop.test", "/");
    app.asked().say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(prime.answer(next).body, "ok", "it is not stored");
}

#[test]
fn who_reads_nothing_of_what_cannot_be_kept_is_cut_off_and_the_others_get_all_of_it() {
    const PARTS: usize = 2048;
    let (world, app) = (World::new(), App::start());
    let conf = format!("{}[cache]\nobject_max = \"1MiB\"\n", app.project());
    let prime = world.prime().project("shop", &conf).start();
    for is_first_slow in [true, false] {
        let path = format!("/{is_first_slow}");
        let mut first = Visitor::asks(&prime, &path, "");
        let mut asked = app.asked();
        let mut other = Visitor::asks(&prime, &path, "");
        in_flight(&prime, 2);
        asked.say(&format!("HTTP/1.1 200 OK\r\n{FRESH}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"));
        first.reads_until("hello");
        other.reads_until("hello");
        let (mut slow, mut quick) = if is_first_slow { (first, other) } else { (other, first) };
        let app_writes = std::thread::spawn(move || {
            // More than the kernel keeps for somebody who reads nothing.
            for _ in 0..PARTS {
                asked.say(&format!("10000\r\n{}\r\n", "x".repeat(0x10000)));
            }
            asked.say("0\r\n\r\n");
        });
        assert!(quick.reads_to_the_end(true) >= PARTS * 0x10000);
        app_writes.join().unwrap();
        assert!(slow.reads_until_cut() < PARTS * 0x10000, "and it does not look whole");
        app.was_not_asked();
    }
}

#[test]
fn a_stale_page_is_shown_while_one_request_fetches_a_newer() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    let page = |age: u32, text: &str| {
        let control = "Cache-Control: s-maxage=10, stale-while-revalidate=900\r\nConnection: close\r\n";
        format!("HTTP/1.1 200 OK\r\n{control}Age: {age}\r\nContent-Length: 6\r\n\r\n{text}")
    };
    let first = prime.begin("shop.test", "/");
    app.asked().say(&page(20, "page 1"));
    assert_eq!(prime.answer(first).body, "page 1");
    let mut asked = None;
    for _ in 0..5 {
        let shown = prime.get("http://shop.test/");
        assert_eq!((shown.body.as_str(), shown.header("cache-status")), ("page 1", "opri; hit; ttl=-10"), "{shown:?}");
        asked.get_or_insert_with(|| app.asked());
    }
    app.was_not_asked();
    asked.unwrap().say(&page(0, "page 2"));
    prime.says("http://shop.test/", "page 2");
    app.was_not_asked();
}

#[test]
fn a_stale_page_is_renewed_behind_whoever_gets_a_part_of_it_or_its_head() {
    let (world, app) = (World::new(), App::start());
    let prime = world.prime().project("shop", &app.project()).start();
    let page = |age: u32, text: &str| {
        let control = "Cache-Control: s-maxage=10, stale-while-revalidate=900\r\nConnection: close\r\nETag: \"a\"\r\n";
        format!("HTTP/1.1 200 OK\r\n{control}Age: {age}\r\nContent-Length: 6\r\n\r\n{text}")
    };
    for (number, (method, name, value, status, body)) in [
        ("HEAD", "x-a", "", 200, ""),
        ("HEAD", "range", "bytes=0-3", 200, ""),
        ("GET", "range", "bytes=0-3", 206, "page"),
        ("GET", "if-none-match", "\"a\"", 304, ""),
        ("GET", "authorization", "Basic eDp5", 200, "page 1"),
    ]
    .into_iter()
    .enumerate()
    {
        for scheme in ["http", "https"] {
            let path = format!("/{number}");
            let url = format!("{scheme}://shop.test{path}");
            let asks = |request: ::http::request::Builder| {
                let request = request.uri(&url).body(Full::default()).unwrap();
                if scheme == "http" { prime.begin_with(request) } else { over_http2(&prime, request) }
            };
            let first = asks(Request::builder());
            app.asked().say(&page(20, "page 1"));
            assert_eq!(prime.answer(first).body, "page 1");
            let shown = prime.answer(asks(Request::builder().method(method).header(name, value)));
            assert_eq!((shown.status.as_u16(), shown.body.as_str()), (status, body), "{method} {name} {shown:?}");
            let hit = if status == 304 { "" } else { "opri; hit; ttl=-10" };
            assert!(shown.header("cache-status").starts_with(hit), "{method} {name} {shown:?}");
            let mut asked = app.asked();
            let head = asked.head.to_lowercase();
            assert!(head.starts_with(&format!("get {path} ")) && !head.contains("\r\nrange:"), "{head}");
            assert!(head.contains("\r\nif-none-match: \"a\"\r\n"), "{head}");
            asked.say(&page(0, "page 2"));
            prime.says(&url, "page 2");
        }
    }
    app.was_not_asked();
}

fn over_http2(prime: &Prime<'_>, request: Request<Full<bytes::Bytes>>) -> JoinHandle<Result<Answer, String>> {
    let (address, root) = (prime.address("https"), prime.root());
    prime.world.runtime.spawn(async move {
        let stream = http::tls(address, "shop.test", &root, "h2").await?;
        http::send2(stream, request).await
    })
}

/// An app whose every answer is written by the story.
struct App {
    address: SocketAddr,
    asked: Receiver<Asked>,
}

/// One request that the app has got.
struct Asked {
    stream: TcpStream,
    head: String,
}

impl App {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, asked) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    if let Some(head) = head(&stream)
                        && !head.starts_with("GET /health")
                    {
                        let _ = sender.send(Asked { stream, head });
                    }
                });
            }
        });
        Self { address, asked }
    }

    fn project(&self) -> String {
        format!("upstream = \"{}\"\n", self.address)
    }

    fn asked(&self) -> Asked {
        self.asked.recv_timeout(PATIENCE).expect("the app is asked")
    }

    /// So far, and nobody is on the way.
    fn was_not_asked(&self) {
        assert!(self.asked.try_recv().is_err(), "the app was asked once more");
    }
}

impl Asked {
    fn say(&mut self, text: &str) {
        // A connection that nobody reads any more is the story's own doing.
        let _ = self.stream.write_all(text.as_bytes());
    }
}

/// A client of few words, who reads when told to.
struct Visitor {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Visitor {
    fn asks(prime: &Prime<'_>, path: &str, fields: &str) -> Self {
        let mut stream = TcpStream::connect(prime.address("http")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: shop.test\r\n{fields}\r\n").unwrap();
        Self { stream, read: Vec::new() }
    }

    fn reads_until(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.read).contains(text) {
            assert!(self.reads_some() > 0, "{}", String::from_utf8_lossy(&self.read));
        }
    }

    /// Bytes of all that came.
    fn reads_to_the_end(&mut self, is_chunked: bool) -> usize {
        loop {
            let head = self.read.windows(4).position(|end| end == b"\r\n\r\n");
            let is_over = match (head, is_chunked) {
                (None, _) => false,
                (Some(_), true) => self.read.ends_with(b"\r\n0\r\n\r\n"),
                (Some(at), false) => {
                    let head = String::from_utf8_lossy(&self.read[..at]).to_ascii_lowercase();
                    let length = head.split_once("content-length: ").unwrap().1.lines().next().unwrap();
                    self.read.len() >= at + 4 + length.parse::<usize>().unwrap()
                }
            };
            if is_over {
                return self.read.len();
            }
            assert!(self.reads_some() > 0, "it ends after {} bytes", self.read.len());
        }
    }

    fn is_cut(&mut self) {
        let mut rest = [0; 100];
        assert!(matches!(self.stream.read(&mut rest), Ok(0) | Err(_)), "nothing more comes");
    }

    /// Bytes of all that came before the connection ended, which must not look like the end of the answer.
    fn reads_until_cut(&mut self) -> usize {
        let mut some = vec![0; 256 << 10];
        while let Ok(read @ 1..) = self.stream.read(&mut some) {
            self.read.extend_from_slice(&some[..read]);
        }
        assert!(!self.read.ends_with(b"\r\n0\r\n\r\n"));
        self.read.len()
    }

    fn reads_some(&mut self) -> usize {
        let mut some = vec![0; 256 << 10];
        let read = self.stream.read(&mut some).unwrap();
        self.read.extend_from_slice(&some[..read]);
        read
    }
}

fn head(mut stream: &TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// So many requests over one connection, all at once.
fn begin(prime: &Prime<'_>, protocol: &'static str, requests: usize) -> JoinHandle<Result<Vec<Answer>, String>> {
    let (address, root) = (prime.address("https"), prime.root());
    prime.world.runtime.spawn(async move {
        let stream = http::tls(address, "shop.test", &root, protocol).await?;
        if protocol == "http/1.1" {
            let mut sender = http::http1(stream).await?;
            let request = Request::get("/").header("host", "shop.test").body(Full::default()).unwrap();
            return Ok(vec![http::send(&mut sender, request).await?]);
        }
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let asking = (0..requests).map(|_| {
            let mut sender = sender.clone();
            let request = Request::get("https://shop.test/").body(Full::<bytes::Bytes>::default()).unwrap();
            tokio::spawn(async move {
                let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
                http::whole(response).await
            })
        });
        let asking: Vec<_> = asking.collect();
        let mut answers = Vec::new();
        for answer in asking {
            answers.push(answer.await.map_err(|error| error.to_string())??);
        }
        Ok(answers)
    })
}

fn in_flight(prime: &Prime<'_>, number: u32) {
    prime.until(&format!("{number} requests are in flight"), || {
        prime.metric("opri_http_requests_in_flight") == f64::from(number)
    });
}
