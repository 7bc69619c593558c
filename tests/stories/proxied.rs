//! Behind a proxy that writes a PROXY header, visitors are who the header says they are, and nobody else can write one.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http;
use crate::world::{PATIENCE, Prime, World};

/// Version 1, for a visitor 192.0.2.7 that connected to 198.51.100.1.
const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 40000 80\r\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const PROXIES: &str = "[trust]\nproxies = \"127.0.0.1\"\n";
const LISTENERS: &str = "proxied_http = \"127.0.0.1:0\"\nproxied_https = \"127.0.0.1:0\"\n";

/// An app that answers with the head it was sent, and counts the bytes that reached it.
struct Echo {
    address: String,
    bytes: Arc<AtomicU64>,
}

impl Echo {
    fn start(world: &World) -> Self {
        let listener = world.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let bytes = Arc::new(AtomicU64::new(0));
        let counter = bytes.clone();
        world.runtime.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counter = counter.clone();
                tokio::spawn(async move {
                    let mut head = [0; 4096];
                    let read = stream.read(&mut head).await.unwrap_or(0);
                    counter.fetch_add(read as u64, Ordering::SeqCst);
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {read}\r\nconnection: close\r\n\r\n");
                    let _ = stream.write_all(&[answer.as_bytes(), &head[..read]].concat()).await;
                });
            }
        });
        Self { address, bytes }
    }

    fn prime<'w>(&self, world: &'w World, proxies: &str) -> Prime<'w> {
        let project = format!("upstream = \"{}\"\n", self.address);
        world.prime().listening(LISTENERS).with(proxies).project("shop", &project).start()
    }
}

/// A header of version 2 with these addresses and extensions.
fn version_2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

/// For the visitor 2001:db8::7, with an extension.
fn version_2_of_v6() -> Vec<u8> {
    let mut block = [0; 36 + 5];
    block[..16].copy_from_slice(&"2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets());
    block[16..32].copy_from_slice(&"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    block[36..].copy_from_slice(&[0x04, 0, 2, 1, 2]);
    version_2(0x21, 0x21, &block)
}

fn request(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{fields}Connection: close\r\n\r\n")
}

/// What comes back for these bytes, until the end.
fn sends(prime: &Prime<'_>, kind: &str, parts: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(prime.address(kind)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for part in parts {
        // A peer that has closed may refuse the rest.
        let _ = stream.write_all(part);
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).to_ascii_lowercase()
}

fn limited(prime: &Prime<'_>, limit: &str) -> f64 {
    let series = format!("opri_edge_limits_total{{limit=\"{limit}\"}} ");
    let metrics = prime.metrics();
    metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or(0.0)
}

#[test]
fn a_trusted_proxy_says_who_the_visitor_is_by_either_version() {
    let world = World::new();
    let prime = Echo::start(&world).prime(&world, PROXIES);
    let visit = |header: &[u8], fields: &str| {
        let answer = sends(&prime, "proxied_http", &[header, request(fields).as_bytes()]);
        assert!(answer.starts_with("http/1.1 200"), "{answer}\n{}", prime.logs());
        answer
    };
    let told = visit(LINE.as_bytes(), "");
    assert!(told.contains("\r\nx-forwarded-for: 192.0.2.7\r\n"), "{told}");
    let told = visit(&version_2_of_v6(), "");
    assert!(told.contains("\r\nx-forwarded-for: 2001:db8::7\r\n"), "{told}");
    // In one piece with the request, and byte by byte.
    let whole = format!("{LINE}{}", request(""));
    assert!(sends(&prime, "proxied_http", &[whole.as_bytes()]).contains("x-forwarded-for: 192.0.2.7\r\n"));
    let bytes: Vec<&[u8]> = whole.as_bytes().chunks(1).collect();
    assert!(sends(&prime, "proxied_http", &bytes).contains("x-forwarded-for: 192.0.2.7\r\n"));
    // The visitor is not the proxy: what it says of itself is not believed. What the proxy itself asks is.
    let claim = "X-Forwarded-For: 203.0.113.9\r\n";
    assert!(visit(LINE.as_bytes(), claim).contains("x-forwarded-for: 192.0.2.7\r\n"));
    assert!(visit(b"PROXY UNKNOWN\r\n", claim).contains("x-forwarded-for: 127.0.0.1\r\n"));
    let own = version_2(0x20, 0x00, &[]);
    assert!(visit(&own, claim).contains("x-forwarded-for: 203.0.113.9, 127.0.0.1\r\n"));
    // The other listeners know nothing of such headers.
    assert!(sends(&prime, "http", &[whole.as_bytes()]).starts_with("http/1.1 501"));
}

#[test]
fn tls_goes_on_behind_the_header() {
    let world = World::new();
    let prime = Echo::start(&world).prime(&world, PROXIES);
    prime.eventually("https://shop.test", |answer| answer.status == StatusCode::OK);
    for protocol in ["http/1.1", "h2"] {
        let answer = world.runtime.block_on(async {
            let mut tcp = http::tcp(prime.address("proxied_https")).await?;
            tcp.write_all(&version_2_of_v6()).await.map_err(|error| error.to_string())?;
            let stream = http::tls_over(tcp, "shop.test", &prime.root(), protocol).await?;
            let request =
                |target: &str| Request::get(target).header("host", "shop.test").body(Full::<Bytes>::default());
            match protocol {
                "h2" => http::send2(stream, request("https://shop.test/").unwrap()).await,
                _ => http::send(&mut http::http1(stream).await?, request("/").unwrap()).await,
            }
        });
        let answer = answer.unwrap();
        let head = answer.body.to_ascii_lowercase();
        assert_eq!(answer.status, StatusCode::OK);
        assert!(
            head.contains("x-forwarded-for: 2001:db8::7\r\n") && head.contains("x-forwarded-proto: https"),
            "{head}"
        );
    }
}

#[test]
fn a_stranger_cannot_say_that_it_is_somebody() {
    let world = World::new();
    let echo = Echo::start(&world);
    let prime = echo.prime(&world, "[trust]\nproxies = \"192.0.2.0/24\"\n");
    let before = Instant::now();
    let answer = sends(&prime, "proxied_http", &[LINE.as_bytes(), request("").as_bytes()]);
    assert_eq!(answer, "");
    assert!(before.elapsed() < PATIENCE / 2, "it is closed at once");
    assert_eq!((limited(&prime, "proxy_untrusted"), echo.bytes.load(Ordering::SeqCst)), (1.0, 0));
}

#[test]
fn what_is_no_header_reaches_no_app() {
    let world = World::new();
    let echo = Echo::start(&world);
    let prime = echo.prime(&world, PROXIES);
    let garbage: [&[u8]; 5] =
        [b"", b"PROXY TCP4 192.0.2.7 198.51.100.1 40000\r\n", b"PROXY UNKNOWN\n", &[b'P'; 200], SIGNATURE];
    for bytes in garbage {
        let mut stream = TcpStream::connect(prime.address("proxied_http")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(&[bytes, request("").as_bytes()].concat());
        // The last is only the beginning of a header.
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    prime.until("each is counted", || limited(&prime, "proxy_malformed") == 5.0);
    // Who comes only to see whether somebody listens is no fault.
    drop(TcpStream::connect(prime.address("proxied_http")).unwrap());
    let plain = sends(&prime, "proxied_https", &[LINE.as_bytes(), request("").as_bytes()]);
    assert!(!plain.contains("http"), "there it must be TLS: {plain}");
    assert_eq!((limited(&prime, "proxy_malformed"), echo.bytes.load(Ordering::SeqCst)), (5.0, 0));
}

#[test]
fn a_header_that_does_not_come_holds_nothing_for_long() {
    let world = World::new();
    let echo = Echo::start(&world);
    let prime = echo.prime(&world, PROXIES);
    let before = Instant::now();
    assert_eq!(sends(&prime, "proxied_http", &[&LINE.as_bytes()[..20]]), "");
    assert!(before.elapsed() < PATIENCE / 2, "{:?}", before.elapsed());
    assert_eq!((limited(&prime, "proxy_timeout"), echo.bytes.load(Ordering::SeqCst)), (1.0, 0));
}

#[test]
fn the_limit_of_one_address_is_its_visitors_and_not_the_proxys() {
    let world = World::new();
    let limits = format!("{PROXIES}[limits]\nconnections_per_address = 2\n");
    let prime = Echo::start(&world).prime(&world, &limits);
    let connect = |visitor: &str| {
        let mut stream = TcpStream::connect(prime.address("proxied_http")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("PROXY TCP4 {visitor} 198.51.100.1 1 80\r\n").as_bytes()).unwrap();
        stream
    };
    let is_answered = |stream: &mut TcpStream| {
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n");
        stream.read(&mut [0; 16]).unwrap_or(0) > 0
    };
    let mut held: Vec<_> = (1..=8).map(|n| connect(&format!("192.0.2.{n}"))).collect();
    assert!(held.iter_mut().all(is_answered), "eight visitors come by one proxy");
    let mut second = connect("192.0.2.1");
    assert!(is_answered(&mut second));
    assert!(!is_answered(&mut connect("192.0.2.1")), "the third of one visitor");
    assert_eq!(limited(&prime, "connections_per_address"), 1.0);
}

#[test]
fn an_address_changes_its_kind_with_conf_and_outlives_control() {
    let world = World::new();
    let echo = Echo::start(&world);
    let prime = echo.prime(&world, PROXIES);
    let (http, proxied) = (prime.address("http"), prime.address("proxied_http"));
    let conf = |http: &str, proxied: &str| {
        let listen = format!("[listen]\nhttp = {http}\nhttps = []\nmetrics = \"none\"\nproxied_http = {proxied}\n");
        std::fs::write(
            prime.conf_file("prime.toml"),
            format!("domain = \"test\"\nruntime = \"process\"\n{listen}{PROXIES}"),
        )
        .unwrap();
        prime.does(&["reload"]);
    };
    conf(&format!("\"{http}\""), &format!("\"{proxied}\""));
    conf("[]", &format!("[\"{http}\", \"{proxied}\"]"));
    prime.kill_control();
    prime.start();
    for address in [http, proxied] {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("{LINE}{}", request("")).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.to_ascii_lowercase().contains("x-forwarded-for: 192.0.2.7\r\n"), "{answer}\n{}", prime.logs());
    }
}

/// A process that ends with its story.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn haproxy_in_front_is_understood() {
    if Command::new("haproxy").arg("-v").output().is_err() {
        eprintln!("SKIPPED: haproxy is missing, so that a real proxy is understood was not tested");
        return;
    }
    let world = World::new();
    let prime = Echo::start(&world).prime(&world, PROXIES);
    let proxied = prime.address("proxied_http");
    let free = |_| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let fronts = ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"].map(|option| (option, free(option)));
    let listen = |(option, front): &(&str, SocketAddr)| {
        format!(
            "listen {option}\n  bind {front}\n  server prime {proxied} {option} check check-send-proxy inter 50ms\n"
        )
    };
    let defaults = "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n";
    let conf = world.path().join("haproxy.cfg");
    std::fs::write(&conf, format!("{defaults}{}", fronts.iter().map(listen).collect::<String>())).unwrap();
    let _haproxy = Running(Command::new("haproxy").arg("-f").arg(&conf).stderr(Stdio::null()).spawn().unwrap());
    for (option, front) in fronts {
        let mut answer = String::new();
        prime.until(option, || {
            answer.clear();
            let Ok(mut stream) = TcpStream::connect(front) else { return false };
            let _ = stream.write_all(request("X-Forwarded-For: 203.0.113.9\r\n").as_bytes());
            stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
        });
        // Its visitor comes from the loopback, which is trusted as well.
        assert!(answer.to_ascii_lowercase().contains("x-forwarded-for: 203.0.113.9, 127.0.0.1\r\n"), "{answer}");
    }
    assert_eq!(limited(&prime, "proxy_malformed"), 0.0, "neither visitors nor checks");
}
