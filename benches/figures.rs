//! The figures that Prime promises, measured on this machine and printed: `cargo bench --bench figures`, or with `-- NAME …`
//! some of them.
//!
//! Nothing here fails for being slow; a figure over its promise is marked.

#[allow(dead_code)]
#[path = "../tests/stories/http.rs"]
mod http;
#[allow(dead_code)]
#[path = "../tests/stories/visitors.rs"]
mod visitors;
#[allow(dead_code)]
#[path = "../tests/stories/world.rs"]
mod world;

use std::time::{Duration, Instant};

use ::http::StatusCode;

use visitors::{Visitors, Way};
use world::{Prime, Repo, World, opri};

const SWAPS: usize = 100;
/// While they happen.
const REQUESTS: u64 = 200_000;
const BUILDS: usize = 5;
const PROJECTS: usize = 1000;
/// Stored responses that have one tag.
const TAGGED: usize = 100_000;
/// Responses on disk.
const KEPT: usize = 1_000_000;
const SECRET: &str = "c3a1f0e2d4b5968778695a4b3c2d1e0f";

fn main() {
    println!("{:<62} {:>12} {:>12}", "", "measured", "promised");
    let all: [(&str, fn()); 6] = [
        ("swaps", swaps),
        ("building", building),
        ("start", start),
        ("many_projects", many_projects),
        ("purges", purges),
        ("kept", kept),
    ];
    // Those that are named, or all.
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for (_, measure) in all.iter().filter(|(name, _)| named.is_empty() || named.iter().any(|named| named == name)) {
        measure();
    }
}

fn line(what: &str, measured: f64, promised: f64, unit: &str) {
    let mark = if measured > promised { "  MISSED" } else { "" };
    println!("{what:<62} {:>12} {:>12}{mark}", format!("{measured:.1} {unit}"), format!("{promised} {unit}"));
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// A repository whose app is the demo's, so that nothing but `opri` must be built.
fn repository(world: &World, name: &str) -> Repo {
    let repo = world.empty_repo(name);
    repo.write("Procfile", &format!("web: exec '{}' demo-app\n", env!("CARGO_BIN_EXE_opri")));
    repo
}

fn commit(repo: &Repo, page: &str) {
    repo.write("page.html", page);
    repo.commit(page);
}

fn swaps() {
    let world = World::new();
    let shop = repository(&world, "shop");
    commit(&shop, "page 0");
    let prime = world.prime().hosting(&shop, "[app]\ndrain = \"1s\"\n").start();
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "page 0");
    let visitors = Visitors::come_by(&Way::ALL, &prime, 32, ("shop.test", "page "));
    for n in 1..=SWAPS {
        commit(&shop, &format!("page {n}"));
        prime.deploys(&shop, "master");
        visitors.tally.newest.store(n as u64, std::sync::atomic::Ordering::Release);
        let due = REQUESTS / SWAPS as u64 * n as u64;
        while visitors.tally.requests.load(std::sync::atomic::Ordering::Relaxed) < due {
            visitors.ask_more(100);
        }
    }
    let since = Instant::now();
    prime.does(&["rollback", "shop"]);
    let rollback = milliseconds(since.elapsed());
    assert_eq!(prime.get("http://shop.test").body, format!("page {}", SWAPS - 1));
    let tally = visitors.go();
    let count = prime.metric("opri_swap_seconds_count");
    let mean = prime.metric("opri_swap_seconds_sum") / count * 1000.0;
    line(&format!("swap, mean of {count} (decision to the edge serving it)"), mean, 5.0, "ms");
    let failed = tally.failed() as f64;
    let requests = tally.requests.load(std::sync::atomic::Ordering::Relaxed);
    let what = format!("failed or old, of {requests} by HTTP/1, HTTP/2 and TLS over {SWAPS} swaps and a rollback");
    line(&what, failed, 0.0, "");
    line("control's share of a deployment, mean (not fetch, build, the app's start)", share(&prime), 150.0, "ms");
    line("`opri rollback` until all is answered by the release before", rollback, 2000.0, "ms");
    line("edge at rest, resident", resident(&prime), 30.0, "MB");
}

/// What visitors notice of a build beside them, that takes all the processor it gets.
fn building() {
    let world = World::new();
    let (shop, mill) = (repository(&world, "shop"), repository(&world, "mill"));
    commit(&shop, "page");
    commit(&mill, "page");
    let burn = "for burner in 1 2 3 4; do while :; do :; done & done; wait";
    let prime = world.prime().hosting(&shop, "").hosting(&mill, &format!("[app]\nbuild = \"{burn}\"\n")).start();
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "page");
    let address = prime.address("http");
    // Interleaved, so that what else the machine does falls on both.
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..BUILDS {
        alone.push(slowest_percent(address));
        let id = world::deployment(&prime.push(&mill, "master"));
        prime.until("it builds", || prime.does(&["list", "--json"]).contains("\"stage\": \"building\""));
        beside.push(slowest_percent(address));
        prime.does(&["deploy", "--cancel", "mill"]);
        prime.until_ended(&id, "cancelled");
    }
    let (alone, beside) = (median(alone), median(beside));
    let what = format!("p99 beside a build, in p99 without ({alone:.1} ms), median of {BUILDS}");
    line(&what, beside / alone, 2.0, "x");
}

/// Milliseconds that 99 of 100 requests took at most, of eight visitors who ask every few milliseconds.
fn slowest_percent(address: std::net::SocketAddr) -> f64 {
    let visit = || {
        let mut visitor = Asker::new(address);
        let ask = |_| {
            std::thread::sleep(Duration::from_millis(4));
            let since = Instant::now();
            assert!(visitor.ask("GET / HTTP/1.1\r\n", "").contains(" 200 OK"));
            milliseconds(since.elapsed())
        };
        (0..500).map(ask).collect::<Vec<_>>()
    };
    let mut took: Vec<f64> = std::thread::scope(|scope| {
        let visitors: Vec<_> = (0..8).map(|_| scope.spawn(visit)).collect();
        visitors.into_iter().flat_map(|visitor| visitor.join().unwrap()).collect()
    });
    took.sort_by(f64::total_cmp);
    took[took.len() * 99 / 100]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The stages of a deployment that are control's own, in milliseconds.
fn share(prime: &Prime<'_>) -> f64 {
    let text = prime.metrics();
    let of = |name: &str, stage: &str| -> f64 {
        let series = format!("opri_deployment_stage_seconds_{name}{{stage=\"{stage}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or(0.0)
    };
    let mean = |stage| of("sum", stage) / of("count", stage).max(1.0) * 1000.0;
    ["queued", "starting", "swapping"].into_iter().map(mean).sum()
}

/// With four projects that run, control having ended before.
fn start() {
    let world = World::new();
    let repositories: Vec<Repo> = ["a", "b", "c", "d"].iter().map(|name| repository(&world, name)).collect();
    let mut conf = world.prime();
    for repo in &repositories {
        commit(repo, "page");
        conf = conf.hosting(repo, "");
    }
    let prime = conf.http(&format!("127.0.0.1:{}", free_port())).start();
    for repo in &repositories {
        prime.deploys(repo, "master");
    }
    prime.signal("INT");
    prime.control_ends();
    let (address, since) = (prime.address("http"), Instant::now());
    std::thread::scope(|scope| {
        let answered = scope.spawn(move || first_answer(address, since));
        prime.start();
        line(
            "`opri serve` to the first answered request, 4 projects",
            milliseconds(answered.join().unwrap()),
            500.0,
            "ms",
        );
    });
}

/// When the port first answers anything for a project.
fn first_answer(address: std::net::SocketAddr, since: Instant) -> Duration {
    use std::io::{Read, Write};
    loop {
        if let Ok(mut stream) = std::net::TcpStream::connect(address) {
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n");
            let mut head = [0; 12];
            if stream.read_exact(&mut head).is_ok() && head.ends_with(b"200") {
                return since.elapsed();
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn many_projects() {
    let world = World::new();
    let mut conf = world.prime();
    for n in 0..PROJECTS {
        conf = conf.project(&format!("p{n}"), &upstream(n, 1));
    }
    conf.write("process");
    let since = Instant::now();
    let output = opri().args(["check", "--conf"]).arg(world.path().join("conf")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    line(&format!("`opri check` on {PROJECTS} project files"), milliseconds(since.elapsed()), 1000.0, "ms");

    let prime = conf.start();
    let answer = prime.get("http://p7.test");
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    std::fs::write(prime.conf_file("projects/p7.toml"), upstream(7, 2)).unwrap();
    let since = Instant::now();
    prime.does(&["reload"]);
    line(&format!("`opri reload` that changes one of {PROJECTS}"), milliseconds(since.elapsed()), 200.0, "ms");
}

fn purges() {
    let world = World::new();
    std::fs::write(world.path().join("secret"), SECRET).unwrap();
    let lines = format!("upstream = \"{}\"\n[cache]\npurge = {{ file = \"secret\" }}\n", tagging_app(100));
    let machine = "[limits]\nkeepalive_requests = 1000000\n[cache]\ndisk = \"0\"\n";
    let prime = world.prime().project("shop", &lines).with(machine).start();
    let address = prime.address("http");
    let fill = || ask_for(address, TAGGED);
    let mut took = Vec::new();
    let mut visitor = Asker::new(address);
    for _ in 0..3 {
        fill();
        let bytes = prime.metric("opri_cache_bytes");
        assert!(bytes > (TAGGED * 100) as f64, "only {bytes} bytes are stored");
        let fields = format!("Authorization: Bearer {SECRET}\r\nSurrogate-Key: list\r\n");
        let since = Instant::now();
        assert!(visitor.ask("PURGE / HTTP/1.1\r\n", &fields).contains(" 200 OK"));
        took.push(milliseconds(since.elapsed()));
        assert!(visitor.ask("GET /7 HTTP/1.1\r\n", "").contains("fwd=miss"), "it is seen after it was purged");
        prime.until("the room is back", || prime.metric("opri_cache_bytes") < bytes / 100.0);
    }
    let worst = took.into_iter().fold(0.0, f64::max);
    line(&format!("purge of a tag with {TAGGED} objects, acknowledged; worst of 3"), worst, 1.0, "ms");
}

/// What lies on disk alone, and what becomes of it when the edge is killed.
fn kept() {
    let world = World::new();
    let machine = "[limits]\nkeepalive_requests = 10000000\n[cache]\nmemory = \"1MiB\"\n";
    let lines = format!("upstream = \"{}\"\n", tagging_app(1024));
    let prime = world.prime().project("shop", &lines).with(machine).start();
    let address = prime.address("http");
    ask_for(address, 1000);
    let (edge, before) = (prime.edge_pid(), resident(&prime));
    ask_for(address, KEPT);
    let mut last = 0.0;
    prime.until("all is written", || {
        let now = prime.metric("opri_cache_bytes");
        std::mem::replace(&mut last, now) == now
    });
    let each = (resident(&prime) - before) * 1e6 / KEPT as f64;
    line(&format!("memory of an object on disk, {KEPT} of 1 KB"), each, 300.0, "B");
    assert!(std::process::Command::new("kill").args(["-9", &edge.to_string()]).status().unwrap().success());
    let since = Instant::now();
    let mut visitor = Asker::new(address);
    visitor.ask("GET /7 HTTP/1.1\r\n", "");
    line(
        "an edge that is killed, until the next one answers with all of them",
        milliseconds(since.elapsed()),
        2000.0,
        "ms",
    );
    let hits = (0..1000).filter(|number| {
        let path = number * (KEPT / 1000);
        visitor.ask(&format!("GET /{path} HTTP/1.1\r\n"), "").contains("opri; hit")
    });
    line("of 1,000 of them not found again", 1000.0 - hits.count() as f64, 0.0, "");
}

/// Asks for so many pages over eight connections.
fn ask_for(address: std::net::SocketAddr, count: usize) {
    std::thread::scope(|scope| {
        for from in 0..8 {
            scope.spawn(move || {
                let mut visitor = Asker::new(address);
                for number in (from..count).step_by(8) {
                    assert!(visitor.ask(&format!("GET /{number} HTTP/1.1\r\n"), "").contains(" 200 OK"));
                }
            });
        }
    });
}

/// An app that gives everything one tag and so many bytes; its address.
fn tagging_app(length: usize) -> std::net::SocketAddr {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nSurrogate-Key: list\r\nContent-Length: {length}\r\n\r\n{}",
        "x".repeat(length)
    );
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                for _ in lines.filter(|line| line.is_empty()) {
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// One connection, and one request at a time.
struct Asker(std::io::BufReader<std::net::TcpStream>);

impl Asker {
    fn new(address: std::net::SocketAddr) -> Self {
        let stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(std::io::BufReader::new(stream))
    }

    /// The head of the answer.
    fn ask(&mut self, line: &str, fields: &str) -> String {
        use std::io::{BufRead, Read, Write};
        let request = format!("{line}Host: shop.test\r\n{fields}\r\n");
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut head).unwrap(), 0, "closed after {head}");
        }
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        self.0.read_exact(&mut vec![0; length.unwrap_or(0)]).unwrap();
        head
    }
}

/// A project that is only routed, to a port where nobody listens.
fn upstream(project: usize, port: u16) -> String {
    format!("upstream = \"127.0.0.1:{port}\"\n[branches.master]\nhosts = [\"p{project}.test\"]\n")
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Megabytes, from /proc.
fn resident(prime: &Prime<'_>) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", prime.edge_pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}
