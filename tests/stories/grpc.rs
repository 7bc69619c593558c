//! Apps that speak HTTP/2: gRPC with its streams and trailers, and every visitor all the same.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, Request, Response, StatusCode};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http_body_util::Full;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::http;
use crate::world::{PATIENCE, Prime, World};

/// How large an answer must be that no buffer on its way holds.
const LARGE: usize = 8 << 20;
const LINGER: Duration = Duration::from_secs(1);

/// An app that speaks HTTP/2 and nothing else.
struct App {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
}

impl App {
    /// Each connection is ended in good order after so many requests.
    fn start(world: &World, requests: usize) -> Self {
        let listener = world.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicU64::new(0));
        let counter = connections.clone();
        world.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, requests));
            }
        });
        Self { address, connections }
    }

    fn project(&self) -> String {
        format!("upstream = \"{}\"\n[app]\nprotocol = \"h2c\"\n", self.address)
    }
}

async fn serve(stream: TcpStream, requests: usize) {
    // Closed a moment after its end was said, as RFC 9113 (section 6.8) would have it: else what is on its way meets a
    // reset, which takes the words before it along.
    let stream = stream.into_std().unwrap();
    let lingering = stream.try_clone().unwrap();
    let stream = TcpStream::from_std(stream).unwrap();
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut count = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        count += 1;
        if count == requests {
            connection.graceful_shutdown();
        }
        tokio::spawn(answer(request, respond));
    }
    tokio::time::sleep(LINGER).await;
    drop(lingering);
}

async fn answer(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) -> Option<()> {
    let (head, mut body) = request.into_parts();
    let ok = || Response::builder().header("content-type", "application/grpc");
    match head.uri.path() {
        "/unary" => {
            let te = head.headers.get("te").is_some_and(|te| te == "trailers");
            let whole = read(&mut body).await?;
            let mut stream = respond.send_response(ok().body(()).unwrap(), false).ok()?;
            send(&mut stream, whole).await?;
            stream.send_trailers(status(if te { "0" } else { "13" })).ok()
        }
        "/stream" => {
            let mut stream = respond.send_response(ok().body(()).unwrap(), false).ok()?;
            while let Some(part) = body.data().await {
                let part = part.ok()?;
                let _ = body.flow_control().release_capacity(part.len());
                send(&mut stream, part).await?;
            }
            stream.send_trailers(status("0")).ok()
        }
        "/unknown" => respond.send_response(ok().header("grpc-status", "12").body(()).unwrap(), true).map(drop).ok(),
        "/sized" => {
            let response = Response::builder().header("content-length", "5").body(()).unwrap();
            respond.send_response(response, false).ok()?.send_data(Bytes::from_static(b"sized"), true).ok()
        }
        "/large" => {
            let mut stream = respond.send_response(Response::new(()), false).ok()?;
            for _ in 0..LARGE >> 14 {
                send(&mut stream, Bytes::from_static(&[b'x'; 1 << 14])).await?;
            }
            stream.send_data(Bytes::new(), true).ok()
        }
        _ => {
            let length = read(&mut body).await?.len();
            let fields: HashSet<_> = head.headers.keys().map(|name| name.as_str().to_owned()).collect();
            let text = format!("{} {} {:?} {length} {fields:?}", head.method, head.uri, head.version);
            let response = Response::builder().header("cache-control", "max-age=60").body(()).unwrap();
            respond.send_response(response, false).ok()?.send_data(text.into(), true).ok()
        }
    }
}

fn status(code: &str) -> HeaderMap {
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), code.parse().unwrap())])
}

async fn read(body: &mut RecvStream) -> Option<Bytes> {
    let mut whole = Vec::new();
    while let Some(part) = body.data().await {
        let part = part.ok()?;
        let _ = body.flow_control().release_capacity(part.len());
        whole.extend_from_slice(&part);
    }
    Some(whole.into())
}

/// Sends as the other side has room for it.
async fn send(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Option<()> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
        stream.send_data(bytes.split_to(room.min(bytes.len())), false).ok()?;
    }
    Some(())
}

/// A gRPC client's connection: HTTP/2 over TLS.
async fn connect(prime: &Prime<'_>) -> SendRequest<Bytes> {
    let stream = http::tls(prime.address("https"), "api.test", &prime.root(), "h2").await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

fn call(path: &str) -> Request<()> {
    let request = Request::post(format!("https://api.test{path}")).header("content-type", "application/grpc");
    request.header("te", "trailers").body(()).unwrap()
}

fn begin(world: &World, requests: usize) -> (Prime<'_>, App) {
    let app = App::start(world, requests);
    let prime = world.prime().project("api", &app.project()).start();
    prime.eventually("https://api.test", |answer| answer.status == StatusCode::OK);
    (prime, app)
}

#[test]
fn grpc_passes_with_its_streams_and_trailers() {
    let world = World::new();
    let (prime, app) = begin(&world, usize::MAX);
    let calls = async {
        let mut client = connect(&prime).await;
        let (response, mut body) = client.send_request(call("/unary"), false).unwrap();
        body.send_data(Bytes::from_static(b"a message"), true).unwrap();
        let mut response = response.await.unwrap();
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(read(response.body_mut()).await.unwrap(), "a message");
        assert_eq!(response.body_mut().trailers().await.unwrap().unwrap()["grpc-status"], "0");

        // Each message is answered before the next is sent.
        let (response, mut body) = client.send_request(call("/stream"), false).unwrap();
        let mut response = response.await.unwrap();
        for n in 0..50 {
            let message = Bytes::from(format!("message {n}"));
            body.send_data(message.clone(), false).unwrap();
            let back = response.body_mut().data().await.unwrap().unwrap();
            let _ = response.body_mut().flow_control().release_capacity(back.len());
            assert_eq!(back, message);
        }
        body.send_data(Bytes::new(), true).unwrap();
        assert!(response.body_mut().data().await.is_none());
        assert_eq!(response.body_mut().trailers().await.unwrap().unwrap()["grpc-status"], "0");

        let (response, _) = client.send_request(call("/unknown"), true).unwrap();
        assert_eq!(response.await.unwrap().headers()["grpc-status"], "12");
    };
    world.runtime.block_on(async { timeout(PATIENCE, calls).await }).unwrap();
    assert!(app.connections.load(Ordering::SeqCst) <= 3, "requests share connections");
}

#[test]
fn visitors_who_speak_http_1_are_answered_too() {
    let world = World::new();
    let (prime, _) = begin(&world, usize::MAX);
    let page = prime.get("http://api.test/page?a=b");
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.body.starts_with("GET http://api.test/page?a=b HTTP/2.0 0 "), "{}", page.body);
    for field in ["x-forwarded-for", "x-forwarded-proto", "x-request-id"] {
        assert!(page.body.contains(field), "{}", page.body);
    }
    let body = Full::new(Bytes::from(vec![b'x'; 300_000]));
    let request = Request::post("https://api.test/form").header("connection", "x-own").header("x-own", "1");
    let form = prime.ask(request.body(body).unwrap());
    assert!(form.body.starts_with("POST http://api.test/form HTTP/2.0 300000 "), "{}", form.body);
    assert!(!form.body.contains("x-own") && !form.body.contains("\"connection\""), "{}", form.body);
    let large = prime.get("http://api.test/large");
    assert_eq!(large.body.len(), LARGE);
    let head = prime.ask(Request::head("http://api.test/").body(Default::default()).unwrap());
    assert_eq!((head.status, head.body.as_str()), (StatusCode::OK, ""));
    let stored = prime.get("http://api.test/page?a=b");
    assert!(stored.body == page.body && stored.header("cache-status").contains("hit"), "{:?}", stored.headers);
    // Without a length there is no way to say to HTTP/1.0 where a body ends but the connection's end, which pingora lacks.
    assert!(by_http10(&prime, "/page?b").starts_with("HTTP/1.1 505"));
    let sized = by_http10(&prime, "/sized");
    assert!(sized.starts_with("HTTP/1.1 200") && sized.ends_with("\r\n\r\nsized"), "{sized}");
    // HTTP/2 knows no upgrade: the app is asked without one, as RFC 9110 section 7.8 leaves it to do.
    let upgrade = Request::get("http://api.test/ws").header("connection", "upgrade").header("upgrade", "websocket");
    let plain = prime.ask(upgrade.body(Default::default()).unwrap());
    assert!(plain.status == StatusCode::OK && !plain.body.contains("\"upgrade\""), "{}", plain.body);
}

fn by_http10(prime: &Prime<'_>, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(prime.address("http")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: api.test\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_app_that_does_not_speak_http_2_after_all_is_broken_and_one_that_is_gone_absent() {
    let world = World::new();
    let listener = world.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    world.runtime.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ =
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        }
    });
    let project = |address: &str| format!("upstream = \"{address}\"\n[app]\nprotocol = \"h2c\"\n");
    let prime = world
        .prime()
        .project("api", &project(&address.to_string()))
        .project("gone", &project("unix:/no/such/socket"))
        .start();
    assert_eq!(prime.get("http://api.test").status, StatusCode::BAD_GATEWAY);
    assert_eq!(prime.get("http://gone.test").status, StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn a_connection_that_the_app_ends_takes_no_request_along() {
    let world = World::new();
    let (prime, app) = begin(&world, 7);
    let before = app.connections.load(Ordering::SeqCst);
    let calls = async {
        let client = connect(&prime).await;
        for _ in 0..30 {
            let calls = (0..10).map(|_| {
                let mut client = client.clone();
                tokio::spawn(async move {
                    let (response, mut body) = client.send_request(call("/unary"), false).unwrap();
                    body.send_data(Bytes::from_static(b"a message"), true).unwrap();
                    let mut response = response.await.unwrap();
                    assert_eq!(response.status(), StatusCode::OK);
                    read(response.body_mut()).await.unwrap()
                })
            });
            for call in calls.collect::<Vec<_>>() {
                assert_eq!(call.await.unwrap_or_default(), "a message", "{}", prime.logs());
            }
        }
    };
    let done = world.runtime.block_on(async { timeout(PATIENCE, calls).await });
    assert!(done.is_ok(), "{}", prime.logs());
    assert!(app.connections.load(Ordering::SeqCst) > before + 20, "the app did end connections");
}

#[test]
fn clients_that_do_not_read_keep_nobody_waiting() {
    let world = World::new();
    let (prime, _) = begin(&world, usize::MAX);
    let calls = async {
        let mut idle = connect(&prime).await;
        let mut held = Vec::new();
        for _ in 0..50 {
            idle = idle.ready().await.unwrap();
            held.push(idle.send_request(call("/large"), true).unwrap().0.await.unwrap());
        }
        let mut client = connect(&prime).await;
        let (response, mut body) = client.send_request(call("/unary"), false).unwrap();
        body.send_data(Bytes::from_static(b"a message"), true).unwrap();
        assert_eq!(read(response.await.unwrap().body_mut()).await.unwrap(), "a message");
    };
    world.runtime.block_on(async { timeout(PATIENCE, calls).await }).unwrap();
}

/// An app whose window is full says `true`, and `false` when its client has let go.
async fn deaf(listener: TcpListener, tells: tokio::sync::mpsc::Sender<bool>) {
    while let Ok((stream, _)) = listener.accept().await {
        let tells = tells.clone();
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((mut request, mut respond))) = connection.accept().await {
                if request.uri().path() != "/deaf" {
                    respond.send_response(Response::new(()), true).unwrap();
                    continue;
                }
                let hearing = async {
                    let mut room = 65_535;
                    while let Some(Ok(part)) = request.body_mut().data().await {
                        room -= part.len();
                        if room == 0 {
                            tells.send(true).await.unwrap();
                        }
                    }
                };
                let gone = std::future::poll_fn(|cx| respond.poll_reset(cx));
                let driving = std::future::poll_fn(|cx| connection.poll_closed(cx));
                tokio::select! {
                    _ = async { tokio::join!(hearing, gone) } => tells.send(false).await.unwrap(),
                    _ = driving => {}
                }
            }
        });
    }
}

#[test]
fn a_client_that_lets_go_while_its_app_takes_no_more_is_not_waited_for() {
    let world = World::new();
    let listener = world.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let project = format!("upstream = \"{}\"\n[app]\nprotocol = \"h2c\"\n", listener.local_addr().unwrap());
    let (tells, mut told) = tokio::sync::mpsc::channel(2);
    world.runtime.spawn(deaf(listener, tells));
    let prime = world.prime().project("api", &project).start();
    prime.eventually("https://api.test", |answer| answer.status == StatusCode::OK);
    let calls = async {
        let (_response, mut body) = connect(&prime).await.send_request(call("/deaf"), false).unwrap();
        send(&mut body, Bytes::from_static(&[b'x'; 96 << 10])).await.unwrap();
        assert_eq!(told.recv().await, Some(true), "{}", prime.logs());
        body.send_reset(h2::Reason::CANCEL);
        assert_eq!(told.recv().await, Some(false), "{}", prime.logs());
    };
    world.runtime.block_on(async { timeout(PATIENCE, calls).await }).unwrap();
}

#[test]
fn a_release_that_speaks_http_2_goes_through_the_gate_and_a_rollback_knows_what_each_speaks() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("by HTTP/1");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    shop.write("h2c", "");
    shop.write("opri.toml", "protocol = \"h2c\"\n");
    shop.commit("by HTTP/2");
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "by HTTP/2");
    prime.does(&["rollback", "shop"]);
    prime.says("http://shop.test", "by HTTP/1");
    prime.does(&["rollback", "shop", "r2"]);
    prime.says("http://shop.test", "by HTTP/2");
}
