use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::model::route::Target;

use super::world::{App, Visitor, World, limits, route, to, upstream};

const DRAIN: Duration = Duration::from_secs(5);

async fn shop(mut world: World) -> (World, App) {
    let app = App::on_tcp("one").await;
    let routes = vec![
        route("shop.test", "/", to("shop#1")),
        route("blog.test", "/", to("shop#1")),
        route("shop.test", "/off", Target::Absent),
    ];
    world.route(routes, vec![upstream("shop#1", &[&app], DRAIN)]).await;
    (world, app)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_their_order() {
    let (world, app) = shop(World::start().await).await;
    let mut visitor = Visitor::new(world.http).await;
    let get = "GET /echo HTTP/1.1\r\nHost: shop.test\r\n\r\n";
    let post =
        |body: &str| format!("POST /echo HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    visitor.send(&[get, &post("first"), &post(&"x".repeat(100_000)), get, &post("last")].concat()).await;
    let lengths = [0, 5, 100_000, 0, 4];
    for length in lengths {
        let answer = visitor.answer().await;
        assert_eq!((answer.status, answer.body.len()), (200, length));
    }
    assert_eq!(app.asked(), 5);
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_carries_bytes_both_ways() {
    let (world, _app) = shop(World::start().await).await;
    let mut visitor = Visitor::new(world.http).await;
    visitor.send("GET /socket HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(visitor.answer().await.status, 101);
    for word in ["one", "two"] {
        visitor.send(word).await;
        assert_eq!(visitor.bytes(3).await, word.to_uppercase());
    }
    drop(visitor);
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_arrive_while_the_answer_goes_on() {
    let (world, _app) = shop(World::start().await).await;
    let mut visitor = Visitor::new(world.http).await;
    visitor.send("GET /events HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert_eq!(visitor.answer().await.status, 200);
    assert!(visitor.bytes(8).await.contains("one"));
    // A client of HTTP/1.0 knows no chunks: it is given the bytes alone.
    let mut old = Visitor::new(world.http).await;
    old.send("GET /events HTTP/1.0\r\nHost: shop.test\r\n\r\n").await;
    let answer = old.answer().await;
    assert_eq!((answer.field("transfer-encoding"), answer.field("connection").as_deref()), (None, Some("close")));
    assert_eq!(old.bytes(3).await, "one");
    drop((visitor, old));
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_answer_and_close() {
    let settings = limits(|limits| {
        limits.header_timeout = Duration::from_millis(300);
        limits.header_bytes = 1000;
        limits.body_max = 10;
        limits.body_timeout = Duration::from_millis(100);
    });
    let (world, app) = shop(World::with(settings).await).await;
    let mut slow = Visitor::new(world.http).await;
    let began = Instant::now();
    slow.send("GET / HT").await;
    assert_eq!(slow.answer().await.status, 408);
    assert!(began.elapsed() < Duration::from_secs(2) && slow.is_closed().await);
    let long = format!("GET / HTTP/1.1\r\nHost: shop.test\r\nA: {}\r\n\r\n", "x".repeat(2000));
    assert_eq!(world.ask(&long).await.status, 431);
    let doubtful = "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(world.ask(doubtful).await.status, 400);
    let large = "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 11\r\n\r\n";
    assert_eq!(world.ask(large).await.status, 413);
    assert_eq!(app.asked(), 0);
    let chunked =
        "POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\nb\r\nhello world\r\n0\r\n\r\n";
    assert_eq!(world.ask(chunked).await.status, 413);
    let wrong = "POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\n";
    assert_eq!(world.ask(wrong).await.status, 400);
    assert_eq!(world.ask("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nab").await.status, 408);
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_found_by_name_and_hosts_must_agree() {
    let mut world = World::start().await;
    world.certify(&[&["shop.test", "www.shop.test"], &["blog.test"]]).await;
    let (mut world, _app) = shop(world).await;
    for host in ["shop.test", "blog.test"] {
        let tls = connect(&world, host, &["http/1.1"]).await.unwrap();
        let mut visitor = Visitor::over(Box::new(tls));
        for _ in 0..2 {
            visitor.send(&format!("GET /head HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            assert!(visitor.answer().await.body.to_lowercase().contains("x-forwarded-proto: https"));
        }
        let other = if host == "shop.test" { "blog.test" } else { "shop.test" };
        visitor.send(&format!("GET / HTTP/1.1\r\nHost: {other}\r\n\r\n")).await;
        assert_eq!(visitor.answer().await.status, 421);
    }
    assert!(connect(&world, "unknown.test", &["http/1.1"]).await.is_err());
    let mut routes = vec![route("shop.test", "/", to("shop#1"))];
    routes[0].https_only = true;
    world.route(routes, vec![upstream("shop#1", &[&_app], DRAIN)]).await;
    let moved = world.get("shop.test", "/a?b").await;
    let location = format!("https://shop.test:{}/a?b", world.https.port());
    assert_eq!((moved.status, moved.field("location")), (308, Some(location)));
    assert_eq!(world.get("shop.test", "/.well-known/acme-challenge/x").await.status, 200);
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_streams_share_a_connection() {
    let mut world = World::start().await;
    world.certify(&[&["shop.test"], &["blog.test"]]).await;
    let (world, app) = shop(world).await;
    let tls = connect(&world, "shop.test", &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) = h2::client::handshake(tls).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = |path: &str, body: &'static [u8]| {
        let request = http::Request::post(format!("https://shop.test{path}")).header("content-length", body.len());
        let request = request.body(()).unwrap();
        let mut client = client.clone();
        async move {
            client = client.ready().await.unwrap();
            let (response, mut stream) = client.send_request(request, false).unwrap();
            stream.send_data(body.into(), true).unwrap();
            let mut response = response.await.unwrap();
            let mut whole = Vec::new();
            while let Some(part) = response.body_mut().data().await {
                whole.extend_from_slice(&part.unwrap());
            }
            (response.status().as_u16(), String::from_utf8(whole).unwrap())
        }
    };
    let (one, two, head) = tokio::join!(ask("/echo", b"one"), ask("/echo", b"two"), ask("/head", b""));
    assert_eq!((one, two), ((200, "one".to_owned()), (200, "two".to_owned())));
    assert!(head.1.to_lowercase().contains("host: shop.test"), "{}", head.1);
    let wrong = http::Request::get("https://blog.test/").body(()).unwrap();
    let mut sender = client.clone().ready().await.unwrap();
    let (response, _) = sender.send_request(wrong, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 421);
    assert_eq!(app.asked(), 3);
    // An answer that does not wait for the body arrives all the same.
    let early = http::Request::post("https://shop.test/off").body(()).unwrap();
    let (response, mut body) = sender.ready().await.unwrap().send_request(early, false).unwrap();
    body.send_data("some of it".into(), false).unwrap();
    assert_eq!(response.await.unwrap().status(), 503);
    drop((client, body));
    world.stop(DRAIN).await;
    let _ = connection.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_of_http2_ends_after_its_requests_and_loses_none() {
    let mut world = World::with(limits(|limits| limits.keepalive_requests = 3)).await;
    world.certify(&[&["shop.test"]]).await;
    let (world, app) = shop(world).await;
    let tls = connect(&world, "shop.test", &["h2"]).await.unwrap();
    let (client, connection) = h2::client::handshake(tls).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut answered = 0;
    while let Ok(mut ready) = client.clone().ready().await {
        let request = http::Request::get("https://shop.test/head").body(()).unwrap();
        let Ok((response, _)) = ready.send_request(request, true) else { break };
        match response.await {
            Ok(response) => answered += u32::from(response.status() == 200),
            // It was on its way when the end was announced, and may be sent again.
            Err(error) => assert!(error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM), "{error}"),
        }
    }
    assert_eq!((answered, app.asked()), (3, 3));
    drop(client);
    connection.await.unwrap().unwrap();
    world.stop(DRAIN).await;
}

async fn connect(world: &World, name: &str, protocols: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OnlyTheName(name.to_owned())))
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let tcp = TcpStream::connect(world.https).await?;
    TlsConnector::from(Arc::new(config)).connect(name.to_owned().try_into().unwrap(), tcp).await
}

/// Takes a self-signed certificate when it has the name that was asked for.
#[derive(Debug)]
struct OnlyTheName(String);

impl ServerCertVerifier for OnlyTheName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let has_name = certificate.windows(self.0.len()).any(|window| window == self.0.as_bytes());
        has_name.then(ServerCertVerified::assertion).ok_or(rustls::Error::General("another name".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519, SignatureScheme::RSA_PSS_SHA256]
    }
}
