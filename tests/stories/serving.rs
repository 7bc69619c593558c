//! What passes through: protocols, bodies, upgrades, caching, identity, metrics.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use ::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http;
use crate::world::{Prime, Repo, World};

fn begin(world: &World) -> (Prime<'_>, Repo) {
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    (prime, shop)
}

#[test]
fn a_websocket_passes_both_ways() {
    let world = World::new();
    let (prime, _) = begin(&world);
    let echoed = world.runtime.block_on(async {
        let mut sender = http::http1(http::tcp(prime.address("http")).await?).await?;
        let request = Request::get("/ws")
            .header("host", "shop.test")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .body(Full::<Bytes>::default())
            .unwrap();
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| error.to_string())?;
        let mut stream = TokioIo::new(upgraded);
        stream.write_all(b"hello").await.map_err(|error| error.to_string())?;
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(bytes)
    });
    assert_eq!(&echoed.unwrap(), b"hello");
}

#[test]
fn server_sent_events_arrive_as_they_are_sent() {
    let world = World::new();
    let (prime, _) = begin(&world);
    let took = world.runtime.block_on(async {
        let mut sender = http::http1(http::tcp(prime.address("http")).await.unwrap()).await.unwrap();
        let request = Request::get("/sse").header("host", "shop.test").body(Full::<Bytes>::default()).unwrap();
        let since = Instant::now();
        let mut body = sender.send_request(request).await.unwrap().into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(first.starts_with(b"data: 0"), "{first:?}");
        let first_after = since.elapsed();
        while body.frame().await.is_some() {}
        (first_after, since.elapsed())
    });
    // The app takes two seconds for all of them.
    assert!(took.0 * 2 < took.1, "the first event waited for the others: {took:?}");
}

#[test]
fn large_bodies_stream_through_unchanged_over_http1_and_http2() {
    let world = World::new();
    let (prime, _) = begin(&world);
    let body: String = (0..500_000).map(|n| format!("{n:010}")).collect();
    for _ in 0..5 {
        let request = Request::post("http://shop.test/echo").body(Full::new(body.clone().into())).unwrap();
        assert!(prime.ask(request).body == body);
    }
    let answer = world.runtime.block_on(async {
        let stream = http::tls(prime.address("https"), "shop.test", &prime.root(), "h2").await?;
        let request = Request::post("https://shop.test/echo").body(Full::new(body.clone().into())).unwrap();
        http::send2(stream, request).await
    });
    assert!(answer.unwrap().body == body);
}

#[test]
fn cacheable_responses_are_cached_and_say_so_and_others_are_not() {
    let world = World::new();
    let (prime, _) = begin(&world);
    let first = prime.get("http://shop.test/stored");
    assert_eq!(first.header("cache-status"), "opri; fwd=miss; stored");
    let second = prime.get("http://shop.test/stored");
    assert!(second.header("cache-status").starts_with("opri; hit; ttl="), "{:?}", second.headers);
    assert_eq!(first.body, second.body);
    assert!(!second.header("age").is_empty());
    let head = prime.ask(Request::head("http://shop.test/stored").body(Full::default()).unwrap());
    assert!(head.header("cache-status").contains("hit") && head.body.is_empty());
    // What sets a cookie is somebody's own.
    assert_ne!(prime.get("http://shop.test/private").body, prime.get("http://shop.test/private").body);

    prime.does(&["purge", "shop", "--all"]);
    let third = prime.get("http://shop.test/stored");
    assert_ne!(third.body, first.body, "purged");
    prime.does(&["purge", "shop", "--url", "/stored"]);
    assert_ne!(prime.get("http://shop.test/stored").body, third.body);
}

#[test]
fn nobody_can_pretend_to_be_somebody_else() {
    let world = World::new();
    let (prime, _) = begin(&world);
    let request = Request::get("http://shop.test/headers")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "evil.test")
        .header("forwarded", "for=6.6.6.6")
        .header("traceparent", "00-6.6.6.6")
        .header("x-request-id", "mine");
    let answer = prime.ask(request.body(Full::default()).unwrap());
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let seen = |name: &str| {
        let lines = answer.body.lines().filter_map(|line| line.strip_prefix(&format!("{name}: ")));
        lines.collect::<Vec<_>>()
    };
    assert_eq!(seen("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen("x-forwarded-proto"), ["http"]);
    assert_eq!(seen("x-forwarded-host"), ["shop.test"]);
    assert_eq!(seen("host"), ["shop.test"]);
    assert_ne!(seen("x-request-id"), ["mine"]);
    assert!(!answer.body.contains("6.6.6.6"), "{}", answer.body);
    assert_eq!(answer.header("x-request-id"), seen("x-request-id")[0]);
    // Whoever wants a hop to drop what says who it is, is not served at all.
    let request = Request::get("http://shop.test/headers").header("connection", "x-forwarded-for");
    assert_eq!(prime.ask(request.body(Full::default()).unwrap()).status, StatusCode::BAD_REQUEST);
}

#[test]
fn metrics_are_clean_and_tell_what_happened() {
    let world = World::new();
    let (prime, _) = begin(&world);
    prime.get("http://shop.test/stored");
    prime.get("http://shop.test/stored");
    prime.get("http://stranger.test/");
    // A deployment counts once it is over, a moment after it serves.
    prime.until("the deployment is over", || prime.metric("opri_deployments_total") >= 1.0);
    let text = prime.metrics();
    for name in [
        "opri_http_requests_total",
        "opri_http_request_duration_seconds_count",
        "opri_http_requests_in_flight",
        "opri_cache_requests_total",
        "opri_cache_bytes",
        "opri_upstream_up",
        "opri_deployments_total",
        "opri_deployment_stage_seconds_count",
        "opri_swap_seconds_count",
        "opri_hooks_total",
        "opri_certificate_expiry_timestamp_seconds",
        "opri_config_last_reload_success",
        "opri_build_info",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "no {name} in\n{text}");
    }
    assert!(text.contains("project=\"_unknown\""), "{text}");
    assert!(!text.contains("stranger"), "labels come from conf alone:\n{text}");
    let Ok(mut judge) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        eprintln!("SKIPPED: Debian's promtool is not installed, so the metrics were not judged by it");
        return;
    };
    judge.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let verdict = judge.wait_with_output().unwrap();
    let words = format!("{}{}", String::from_utf8_lossy(&verdict.stdout), String::from_utf8_lossy(&verdict.stderr));
    assert!(verdict.status.success() && words.trim().is_empty(), "{words}");
}

#[test]
fn no_spelling_of_a_request_poisons_another_s_answer() {
    use std::io::{Read, Write};
    let world = World::new();
    let (prime, _) = begin(&world);
    let raw = |request: &str| {
        let mut stream = std::net::TcpStream::connect(prime.address("http")).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    // An absolute target is a path by the time anything judges it, and one for another host is refused.
    let end = "connection: close\r\n\r\n";
    let absolute = raw(&format!("GET http://shop.test?x=/stored HTTP/1.1\r\nhost: shop.test\r\n{end}"));
    assert!(absolute.ends_with("page") && absolute.contains("fwd="), "{absolute}");
    assert!(raw(&format!("GET http://other.test/ HTTP/1.1\r\nhost: shop.test\r\n{end}")).contains(" 400 "));
    assert!(raw(&format!("GET ftp://shop.test/ HTTP/1.1\r\nhost: shop.test\r\n{end}")).contains(" 400 "));
    assert!(prime.get("http://shop.test/stored").header("cache-status").contains("fwd=miss"));
    // An app may answer a body, or write the Host as it came: neither is anybody else's answer.
    let fat = format!("GET /stored?fat HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 3\r\n{}fat", end);
    assert!(raw(&fat).contains("fwd=bypass"), "{}", raw(&fat));
    raw(&format!("GET /stored?port HTTP/1.1\r\nhost: shop.test:6666\r\n{end}"));
    assert!(prime.get("http://shop.test/stored?port").header("cache-status").contains("fwd=miss"));
}

#[test]
fn what_an_app_breaks_off_or_says_too_much_of_is_mended_for_old_clients_too() {
    use std::io::{Read, Write};
    let app = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("upstream = \"{}\"\n", app.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in app.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 4096];
            let read = stream.read(&mut head).unwrap_or(0);
            let answer: &[&[u8]] = match &head[..read] {
                head if head.windows(5).any(|path| path == b"/torn") => {
                    &[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"]
                }
                head if head.windows(6).any(|path| path == b"/hints") => {
                    &[b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"]
                }
                _ => &[b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"],
            };
            let _ = stream.write_all(answer[0]);
        }
    });
    let world = World::new();
    let prime = world.prime().project("shop", &upstream).start();
    let ask = |request: &str| {
        let mut stream = std::net::TcpStream::connect(prime.address("http")).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let whole = stream.read_to_end(&mut answer);
        (String::from_utf8_lossy(&answer).into_owned(), whole.is_ok())
    };
    for version in ["1.0", "1.1"] {
        let request = |path: &str| format!("GET {path} HTTP/{version}\r\nHost: shop.test\r\nConnection: close\r\n\r\n");
        // The end of the connection is all that an old client knows of the end of an answer.
        let (answer, is_whole) = ask(&request("/torn"));
        assert!(!is_whole, "{version}: {answer}");
        let (answer, _) = ask(&request("/hints"));
        assert_eq!(answer.starts_with("HTTP/1.1 103"), version == "1.1", "{answer}");
        assert!(answer.ends_with("hi"), "{answer}");
        let (answer, _) = ask(&request("/nothing"));
        assert!(answer.contains(" 204 ") && !answer.to_lowercase().contains("content-length"), "{answer}");
    }
}
