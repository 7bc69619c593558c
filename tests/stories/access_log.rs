//! What visitors asked for is told: a line each, whole, harmless, bounded, and found again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use ::http::Request;
use axum::Router;
use axum::body::Bytes;
use axum::http::header;
use axum::routing::{get, post};
use http_body_util::Full;
use serde_json::Value;

use crate::full_disk::SmallDisk;
use crate::http;
use crate::visitors::Visitors;
use crate::world::{Conf, Prime, World, opri};

/// A Prime with a project `shop` whose app runs already.
fn hosting<'w>(world: &'w World) -> Conf<'w> {
    let stored = async || ([(header::CACHE_CONTROL, "max-age=60")], "stored");
    let slow = async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        "slow"
    };
    let never = async || -> &'static str { std::future::pending().await };
    let router = Router::new()
        .route("/", get(async || "page"))
        .route("/stored", get(stored))
        .route("/slow", get(slow))
        .route("/never", get(never))
        .route("/echo", post(async |body: Bytes| body));
    let listener = world.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let upstream = format!("upstream = \"{}\"\n", listener.local_addr().unwrap());
    world.runtime.spawn(async { axum::serve(listener, router).await });
    world.prime().project("shop", &upstream)
}

/// All lines that were written, the oldest first. Each is JSON and nothing that a terminal would obey.
fn lines(prime: &Prime<'_>) -> Vec<Value> {
    let log = prime.world.path().join("state/edge/access.log");
    let old = (1..=200).rev().map(|number| log.with_extension(format!("log.{number}")));
    let read = old.chain([log.clone()]).filter_map(|path| std::fs::read_to_string(path).ok());
    let text: String = read.collect();
    let parse = |line: &str| {
        assert!(line.len() < 4096 && !line.chars().any(char::is_control), "{line:?}");
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    // Behind the last newline is what is being written.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(parse).collect()
}

/// The one line that there comes to be of requests with this target.
fn line(prime: &Prime<'_>, target: &str) -> Value {
    let mut found = Vec::new();
    prime.until(&format!("a line of {target}"), || {
        found = lines(prime).into_iter().filter(|line| line["target"] == target).collect();
        !found.is_empty()
    });
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// Sends bytes and reads until the edge closes.
fn raw(prime: &Prime<'_>, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(prime.address("http")).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

fn targets(text: &str) -> Vec<String> {
    let target = |line: &str| serde_json::from_str::<Value>(line).unwrap()["target"].as_str().unwrap().to_owned();
    text.lines().map(target).collect()
}

#[test]
fn every_request_is_one_line_with_its_facts() {
    let world = World::new();
    let broken = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = format!("upstream = \"{}\"\n", broken.local_addr().unwrap());
    std::thread::spawn(move || while broken.accept().is_ok() {});
    let prime = hosting(&world).project("broken", &upstream).start();

    let page = prime.ask(
        Request::get("http://shop.test/?a=1")
            .header("user-agent", "story/1")
            .header("referer", "https://a.test/b")
            .body(Full::default())
            .unwrap(),
    );
    let seen = line(&prime, "/?a=1");
    for (field, value) in [
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("scheme", "http"),
        ("host", "shop.test"),
        ("protocol", "HTTP/1.1"),
        ("site", "shop/master"),
        ("cache", "miss"),
        ("id", page.header("x-request-id")),
        ("user_agent", "story/1"),
        ("referer", "https://a.test/b"),
    ] {
        assert_eq!(seen[field], value, "{field} of {seen}");
    }
    assert_eq!((&seen["status"], &seen["sent"], &seen["received"]), (&200.into(), &4.into(), &0.into()), "{seen}");
    assert!(seen["upstream"].as_str().unwrap().starts_with("127.0.0.1:"), "{seen}");
    assert!(seen["time"].as_str().unwrap().ends_with('Z'), "{seen}");

    prime.get("http://shop.test/stored?b");
    prime.get("http://shop.test/stored?b");
    prime.until("both", || lines(&prime).iter().filter(|line| line["target"] == "/stored?b").count() == 2);
    // Each worker's lines come together, so that those of two may stand in another order.
    let of = |cache: &str| {
        let is_it = |line: &Value| line["target"] == "/stored?b" && line["cache"] == cache;
        lines(&prime).into_iter().find(is_it).unwrap_or_else(|| panic!("no {cache} in {:?}", lines(&prime)))
    };
    let (miss, hit) = (of("miss"), of("hit"));
    assert!(miss["upstream"].is_string() && hit["upstream"].is_null(), "{miss} {hit}");
    assert_eq!((&miss["sent"], &hit["sent"], &hit["status"]), (&6.into(), &6.into(), &200.into()), "{miss} {hit}");

    prime.ask(Request::post("http://shop.test/echo?c").body(Full::from("12345")).unwrap());
    let echo = line(&prime, "/echo?c");
    assert_eq!((&echo["method"], &echo["sent"], &echo["received"]), (&"POST".into(), &5.into(), &5.into()), "{echo}");

    prime.get("http://nowhere.test/d");
    let unknown = line(&prime, "/d");
    assert_eq!(
        (&unknown["status"], &unknown["site"], &unknown["host"]),
        (&404.into(), &Value::Null, &"nowhere.test".into())
    );

    prime.get("http://broken.test/e");
    assert_eq!(line(&prime, "/e")["status"], 502);

    let answer = world.runtime.block_on(async {
        let stream = http::tls(prime.address("https"), "shop.test", &prime.root(), "h2").await?;
        http::send2(stream, Request::get("https://shop.test/slow?f").body(Full::default()).unwrap()).await
    });
    answer.unwrap();
    let secure = line(&prime, "/slow?f");
    assert_eq!((&secure["scheme"], &secure["protocol"]), (&"https".into(), &"HTTP/2".into()));
    assert!(secure["ms"].as_f64().unwrap() >= 300.0, "{secure}");
}

#[test]
fn a_client_that_leaves_before_its_answer_is_told_of() {
    let world = World::new();
    let prime = hosting(&world).start();
    let mut leaving = TcpStream::connect(prime.address("http")).unwrap();
    leaving.write_all(b"GET /never HTTP/1.1\r\nHost: shop.test\r\n\r\n").unwrap();
    prime.until("the app is asked", || prime.metric("opri_http_requests_in_flight") >= 1.0);
    drop(leaving);
    assert_eq!(line(&prime, "/never")["status"], 499);
}

#[test]
fn nothing_that_a_client_sends_makes_a_line_more_or_a_terminal_obey() {
    let world = World::new();
    let prime = hosting(&world).start();
    let head = |target: &str, value: &[u8]| {
        let start = format!("GET {target} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\nUser-Agent: ");
        [start.as_bytes(), value, b"\r\nReferer: ", value, b"\r\n\r\n"].concat()
    };
    let hostile: [&[u8]; 5] = [
        b"\"}\\u001b\\",
        "\u{9b}2J\u{202e}\u{2028}\u{feff}".as_bytes(),
        b"\x9b\x80\xff\xc0\xaf\xed\xa0\x80",
        "\u{7f6}\u{10ffff}é漢".as_bytes(),
        &[b'x'; 10_000],
    ];
    for (number, value) in hostile.into_iter().enumerate() {
        let answer = raw(&prime, &head(&format!("/{number}"), value));
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        let line = line(&prime, &format!("/{number}"));
        assert_eq!(line["user_agent"], line["referer"]);
    }
    assert_eq!(line(&prime, "/0")["user_agent"], "\"}\\u001b\\");
    assert!(line(&prime, "/4")["user_agent"].as_str().unwrap().ends_with("x…"));
    // What is no request at all is a line as well.
    let before = lines(&prime).len();
    raw(&prime, b"GET /\x1b[2J HTTP/1.1\r\nHost: shop.test\r\n\r\n");
    raw(&prime, b"\r\nnonsense\x07\r\n\r\n");
    prime.until("lines of both", || lines(&prime).len() == before + 2);
    assert!(lines(&prime).iter().rev().take(2).all(|line| line["status"] == 400));
    for arguments in [&["logs", "--access"][..], &["logs", "--access", "--json"]] {
        let shown = prime.does(arguments);
        assert!(shown.lines().count() >= before + 2, "{shown}");
        assert!(!shown.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}')), "{shown:?}");
    }
    // A hook's token is a password.
    prime.ask(Request::post("http://opri.test/events/secret").body(Full::default()).unwrap());
    prime.until("a line of the hook", || lines(&prime).iter().any(|line| line["target"] == "/events/..."));
    let log = std::fs::read_to_string(world.path().join("state/edge/access.log")).unwrap();
    assert!(!log.contains("secret"));
}

/// `opri logs --access -f`, running.
struct Follower {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Follower {
    fn start(prime: &Prime<'_>, arguments: &[&str]) -> Self {
        let mut child = opri()
            .args(["logs", "--access", "--follow", "--json"])
            .args(arguments)
            .arg("--conf")
            .arg(prime.world.path().join("conf"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// The targets that were told by now.
    fn targets(&self) -> Vec<String> {
        targets(&self.lines.try_iter().collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn files_are_begun_anew_under_load_and_no_line_is_lost_torn_or_missed_by_who_follows() {
    const EACH: usize = 600;
    let world = World::new();
    let prime = hosting(&world).with("[log]\nsize = \"64KiB\"\nkeep = 100\n").start();
    prime.get("http://shop.test/first");
    let follower = Follower::start(&prime, &["shop"]);
    let mut told = Vec::new();
    prime.until("it follows", || {
        told.extend(follower.targets());
        !told.is_empty()
    });
    let address = prime.address("http");
    let visiting = (0..4).map(|visitor| {
        world.runtime.spawn(async move {
            let mut sender = http::http1(http::tcp(address).await?).await?;
            for number in 0..EACH {
                let request = Request::get(format!("/{visitor}/{number}")).header("host", "shop.test");
                http::send(&mut sender, request.body(Full::default()).unwrap()).await?;
            }
            Ok::<_, String>(())
        })
    });
    for visitor in visiting.collect::<Vec<_>>() {
        world.runtime.block_on(visitor).unwrap().unwrap();
    }
    let mut expected: Vec<String> = (0..4).flat_map(|v| (0..EACH).map(move |n| format!("/{v}/{n}"))).collect();
    expected.push("/first".to_owned());
    expected.sort();
    let sorted = |mut targets: Vec<String>| {
        targets.sort();
        targets
    };
    prime.until("every line", || lines(&prime).len() >= expected.len());
    let written = lines(&prime).iter().map(|line| line["target"].as_str().unwrap().to_owned()).collect();
    assert!(sorted(written) == expected, "lines were lost or written twice");
    prime.until("every line is told", || {
        told.extend(follower.targets());
        told.len() >= expected.len()
    });
    assert!(sorted(told) == expected, "lines were missed or told twice");
    let log = world.path().join("state/edge/access.log");
    let files: Vec<u64> =
        (1..).map_while(|n| Some(std::fs::metadata(log.with_extension(format!("log.{n}"))).ok()?.len())).collect();
    assert!(files.len() > 5 && files.iter().all(|length| *length <= 64 << 10), "{files:?}");
    assert_eq!(prime.metric("opri_access_log_dropped_total"), 0.0);
}

#[test]
fn a_full_disk_costs_lines_and_no_request_and_heals_by_itself() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world) else { return };
    let prime = hosting(&world).start();
    prime.get("http://shop.test/before");
    line(&prime, "/before");

    disk.fill();
    let visitors = Visitors::come(&prime, 4, "shop.test", "page");
    prime.until("lines are lost", || prime.metric("opri_access_log_dropped_total") > 0.0);
    visitors.go().is_flawless();
    disk.make_room();
    let mut number = 0;
    prime.until("lines are written again", || {
        number += 1;
        prime.get(&format!("http://shop.test/after/{number}"));
        lines(&prime).iter().any(|line| line["target"].as_str().unwrap().starts_with("/after/"))
    });
    // Every line that is there is whole: `lines` has read them.
    std::fs::remove_dir_all(world.path().join("state/logs")).unwrap();
    prime.until("the directory is there again", || {
        number += 1;
        prime.get(&format!("http://shop.test/again/{number}"));
        lines(&prime).iter().any(|line| line["target"].as_str().unwrap().starts_with("/again/"))
    });
    drop(prime);
}

#[test]
fn what_is_looked_for_is_found() {
    let world = World::new();
    let prime = hosting(&world).start();
    for path in ["/", "/stored", "/nothing", "/slow"] {
        prime.get(&format!("http://shop.test{path}"));
    }
    prime.get("http://nowhere.test/else");
    line(&prime, "/else");
    let shown = |arguments: &[&str]| {
        let mut targets = targets(&prime.does(&[&["logs", "--access", "--json"], arguments].concat()));
        targets.sort();
        targets
    };
    assert_eq!(shown(&[]), ["/", "/else", "/nothing", "/slow", "/stored"]);
    assert_eq!(shown(&["shop"]), ["/", "/nothing", "/slow", "/stored"]);
    assert_eq!(shown(&["--status", "404"]), ["/else", "/nothing"]);
    assert_eq!(shown(&["--status", "4xx", "shop"]), ["/nothing"]);
    assert_eq!(shown(&["--status", "200-299", "-n", "2"]).len(), 2);
    assert_eq!(shown(&["--path", "/s"]), ["/slow", "/stored"]);
    assert_eq!(shown(&["--slow", "250ms"]), ["/slow"]);
    assert_eq!(shown(&["--client", "127.0.0.0/8"]).len(), 5);
    assert_eq!(shown(&["--client", "192.0.2.1"]), Vec::<String>::new());
    assert_eq!(shown(&["--since", "1h"]).len(), 5);
    assert_eq!(shown(&["--since", "0ms"]), Vec::<String>::new());

    let columns = prime.does(&["logs", "--access", "shop", "--path", "/slow"]);
    let columns: Vec<&str> = columns.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(columns[1..3], ["127.0.0.1", "200"]);
    assert_eq!(columns[5..], ["miss", "shop/master", "GET", "http://shop.test/slow"]);

    let code = |arguments: &[&str]| prime.opri(arguments).status.code();
    assert_eq!(code(&["logs", "--access", "stranger"]), Some(3));
    assert_eq!(code(&["logs"]), Some(2));
    assert_eq!(code(&["logs", "shop", "--status", "404"]), Some(2));
    assert_eq!(code(&["logs", "--access", "--status", "many"]), Some(2));
    assert_eq!(code(&["logs", "--access", "--since", "5"]), Some(2));
    assert_eq!(code(&["logs", "--access", "--path", "s"]), Some(2));
    assert_eq!(code(&["logs", "--access", "--path", "/s*"]), Some(2));
    assert_eq!(code(&["logs", "--access", "--build", "shop"]), Some(2));
}

#[test]
fn a_log_is_written_as_conf_says_and_from_the_next_reload_on() {
    let world = World::new();
    let prime = hosting(&world).with("[log]\naccess = false\n").start();
    let log = world.path().join("state/edge/access.log");
    prime.get("http://shop.test/");
    let output = prime.opri(&["logs", "--access"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("[log] access = true"));

    let off = std::fs::read_to_string(prime.conf_file("prime.toml")).unwrap();
    std::fs::write(prime.conf_file("prime.toml"), off.replace("access = false", "access = true")).unwrap();
    prime.does(&["reload"]);
    prime.get("http://shop.test/on");
    line(&prime, "/on");
    assert_eq!(lines(&prime).len(), 1, "what came before is not told");
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&log).unwrap());
    assert_eq!(mode & 0o777, 0o600);

    std::fs::write(prime.conf_file("prime.toml"), &off).unwrap();
    prime.does(&["reload"]);
    prime.get("http://shop.test/off");
    // When this is counted, that one would have been written.
    std::fs::write(prime.conf_file("prime.toml"), off.replace("access = false", "access = true")).unwrap();
    prime.does(&["reload"]);
    prime.get("http://shop.test/last");
    line(&prime, "/last");
    assert_eq!(lines(&prime).len(), 2);
}

#[test]
fn the_noise_of_the_internet_does_not_fill_the_edges_own_log() {
    const NOISE: usize = 1000;
    let world = World::new();
    let prime = hosting(&world).start();
    let noise = |kind: &str, bytes: &[u8]| {
        for _ in 0..NOISE {
            let mut stream = TcpStream::connect(prime.address(kind)).unwrap();
            let _ = stream.write_all(bytes);
            let _ = stream.read(&mut [0; 64]);
        }
    };
    noise("https", b"GET / HTTP/1.0\r\n\r\n");
    noise("https", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00");
    noise("http", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n");
    prime.says("http://shop.test", "page");
    let said = std::fs::read_to_string(world.path().join("state/logs/edge.log")).unwrap();
    assert!(said.lines().count() < 20, "{said}");
}
