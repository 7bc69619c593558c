//! The figures that Prime promises, measured on this machine and printed: `cargo bench --bench figures`.
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

use visitors::Visitors;
use world::{Prime, Repo, World, opri};

const SWAPS: usize = 20;
const PROJECTS: usize = 1000;

fn main() {
    println!("{:<62} {:>12} {:>12}", "", "measured", "promised");
    swaps();
    start();
    many_projects();
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
    let visitors = Visitors::come(&prime, 32, "shop.test", "page ");
    for n in 1..=SWAPS {
        commit(&shop, &format!("page {n}"));
        prime.deploys(&shop, "master");
    }
    let tally = visitors.go();
    let count = prime.metric("opri_swap_seconds_count");
    let mean = prime.metric("opri_swap_seconds_sum") / count * 1000.0;
    line(&format!("swap, mean of {count} (decision to the edge serving it)"), mean, 5.0, "ms");
    let failed = tally.failed() as f64;
    let requests = tally.requests.load(std::sync::atomic::Ordering::Relaxed);
    line(&format!("failed of {requests} requests by 32 visitors over {SWAPS} swaps"), failed, 0.0, "");
    line("edge at rest, resident", resident(&prime), 30.0, "MB");
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
