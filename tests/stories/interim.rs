//! What an app says before it answers: 103 and its like reach visitors over HTTP/2 while the answer is still to come.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use ::http::{HeaderMap, Request, Response, StatusCode};
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use tokio::time::timeout;

use crate::http;
use crate::world::{PATIENCE, Prime, World};

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: X-Own\r\nX-Own: 1\r\n\
     Keep-Alive: timeout=5\r\nX-Request-Id: theirs\r\nSurrogate-Control: max-age=1\r\nContent-Length: 0\r\n\r\n";
const MORE: &str = "HTTP/1.1 103 Early Hints\r\nLink: </b.css>; rel=preload\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n\r\nhi";

/// An app that gives hints, and answers when it is told to.
struct App {
    upstream: String,
    answer: Sender<()>,
    asked: Arc<AtomicUsize>,
}

impl App {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = format!("upstream = \"{}\"\n", listener.local_addr().unwrap());
        let (answer, told) = channel();
        let (told, asked) = (Arc::new(Mutex::new(told)), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), told, count) = (stream, told.clone(), count.clone()) else { return };
                std::thread::spawn(move || while exchange(&stream, &told, &count).is_some() {});
            }
        });
        Self { upstream, answer, asked }
    }
}

/// One request and its answer.
fn exchange(mut stream: &TcpStream, told: &Mutex<Receiver<()>>, asked: &AtomicUsize) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    asked.fetch_add(1, Ordering::SeqCst);
    if head.contains("expect: 100-continue") {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let hints = match () {
        () if head.contains("/many") => MORE.repeat(20),
        () if head.contains("/fat") => MORE.replace("</b", &format!("</{}", "b".repeat(3000))).repeat(16),
        () => format!("{HINTS}HTTP/1.1 102 Processing\r\n\r\n{MORE}"),
    };
    stream.write_all(hints.as_bytes()).ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)]).ok()?;
    if head.contains("/held") {
        told.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()?;
    }
    stream.write_all(ANSWER.as_bytes()).ok()
}

async fn connect(prime: &Prime<'_>) -> SendRequest<Bytes> {
    let stream = http::tls(prime.address("https"), "shop.test", &prime.root(), "h2").await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

/// The next answer before the answer, if there is one more.
async fn interim(response: &mut ResponseFuture) -> Option<Response<()>> {
    poll_fn(|cx| response.poll_informational(cx)).await.transpose().unwrap()
}

async fn links(response: &mut ResponseFuture) -> Vec<String> {
    let mut links = Vec::new();
    while let Some(hint) = interim(response).await {
        assert_eq!(hint.status(), StatusCode::EARLY_HINTS);
        links.push(hint.headers()["link"].to_str().unwrap().to_owned());
    }
    links
}

fn began(world: &World) -> (Prime<'_>, App) {
    let app = App::start();
    let prime = world.prime().project("shop", &app.upstream).start();
    prime.eventually("https://shop.test/first", |answer| answer.status == StatusCode::OK);
    (prime, app)
}

/// What the two first hints must be: the app's, in its order, without what is a connection's own, or the edge's.
async fn are_hints(response: &mut ResponseFuture) {
    let first = interim(response).await.unwrap();
    let fields = HeaderMap::from_iter([("link".parse().unwrap(), "</a.css>; rel=preload".parse().unwrap())]);
    assert_eq!((first.status(), first.headers()), (StatusCode::EARLY_HINTS, &fields));
    let second = interim(response).await.unwrap();
    assert_eq!((second.status(), second.headers().len()), (StatusCode::PROCESSING, 0));
    let third = interim(response).await.unwrap();
    assert_eq!(third.headers()["link"], "</b.css>; rel=preload");
}

#[test]
fn hints_reach_a_visitor_over_http_2_before_the_answer() {
    let world = World::new();
    let (prime, app) = began(&world);
    let visit = async {
        let mut client = connect(&prime).await;
        let get = Request::get("https://shop.test/held").body(()).unwrap();
        let (mut response, _) = client.send_request(get, true).unwrap();
        are_hints(&mut response).await;
        app.answer.send(()).unwrap();
        assert!(interim(&mut response).await.is_none());
        let response = response.await.unwrap();
        assert_eq!((response.status(), &response.headers()["content-length"]), (StatusCode::OK, &"2".parse().unwrap()));

        // What is stored is answered without the app, and so without its hints.
        let asked = app.asked.load(Ordering::SeqCst);
        let get = Request::get("https://shop.test/held").body(()).unwrap();
        let (mut response, _) = client.send_request(get, true).unwrap();
        assert!(interim(&mut response).await.is_none());
        let cache_status = response.await.unwrap().headers()["cache-status"].clone();
        assert!(cache_status.to_str().unwrap().contains("hit"), "{cache_status:?}");
        assert_eq!(app.asked.load(Ordering::SeqCst), asked);
    };
    world.runtime.block_on(async { timeout(PATIENCE, visit).await }).unwrap();
}

#[test]
fn whoever_asks_over_http_2_whether_to_go_on_hears_the_app_say_so() {
    let world = World::new();
    let (prime, app) = began(&world);
    let visit = async {
        let mut client = connect(&prime).await;
        let post = Request::post("https://shop.test/held").header("expect", "100-continue");
        let post = post.header("content-length", "5").body(()).unwrap();
        let (mut response, mut body) = client.send_request(post, false).unwrap();
        let go_on = interim(&mut response).await.unwrap();
        assert_eq!((go_on.status(), go_on.headers().len()), (StatusCode::CONTINUE, 0));
        body.send_data(Bytes::from_static(b"hello"), true).unwrap();
        are_hints(&mut response).await;
        app.answer.send(()).unwrap();
        assert!(interim(&mut response).await.is_none());
        let response = response.await.unwrap();
        assert_eq!((response.status(), response.headers().contains_key("date")), (StatusCode::OK, true));
    };
    world.runtime.block_on(async { timeout(PATIENCE, visit).await }).unwrap();
}

#[test]
fn an_app_that_hints_without_end_gets_no_further_than_its_visitor_has_room() {
    let world = World::new();
    let (prime, _app) = began(&world);
    let visit = async {
        let mut client = connect(&prime).await;
        for (method, body) in [("GET", ""), ("POST", "hello")] {
            let ask = |path: &str| {
                let request = Request::builder().method(method).uri(format!("https://shop.test{path}"));
                request.header("content-length", body.len()).body(()).unwrap()
            };
            // Sixteen are the app's to give; more make an answer that is none.
            let (mut response, mut sending) = client.send_request(ask("/many"), false).unwrap();
            sending.send_data(Bytes::from(body), true).unwrap();
            assert_eq!(links(&mut response).await.len(), 16, "{method}");
            assert_eq!(response.await.unwrap().status(), StatusCode::BAD_GATEWAY, "{method}");
            // Of large ones, those that a stream has room for.
            let (mut response, mut sending) = client.send_request(ask("/fat"), false).unwrap();
            sending.send_data(Bytes::from(body), true).unwrap();
            assert_eq!(links(&mut response).await.len(), 5, "{method}");
            assert_eq!(response.await.unwrap().status(), StatusCode::OK, "{method}");
        }
    };
    world.runtime.block_on(async { timeout(PATIENCE, visit).await }).unwrap();
}

#[test]
fn hints_over_http_1_are_the_same_by_both_ways() {
    let world = World::new();
    let (prime, _app) = began(&world);
    for request in ["GET /plain HTTP/1.1\r\n", "POST /plain HTTP/1.1\r\nContent-Length: 5\r\n"] {
        let mut stream = TcpStream::connect(prime.address("http")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let body = if request.starts_with("POST") { "hello" } else { "" };
        write!(stream, "{request}Host: shop.test\r\nConnection: close\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let hints = "http/1.1 103 early hints\r\nlink: </a.css>; rel=preload\r\n\r\nhttp/1.1 102 processing\r\n\r\n\
             http/1.1 103 early hints\r\nlink: </b.css>; rel=preload\r\n\r\nhttp/1.1 200 ok\r\n";
        assert!(answer.to_lowercase().starts_with(hints), "{request}{answer}");
    }
}
