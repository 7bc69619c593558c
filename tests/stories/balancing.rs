//! Several replicas of a site, some of which are not well: the others serve, and what can be mended is.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::http;
use crate::visitors::Visitors;
use crate::world::{LOOK_AGAIN, Prime, World};

/// How a server behaves.
const WELL: u8 = 0;
/// Takes every request and answers none.
const HANGS: u8 = 1;
/// Answers health checks with 503.
const SICK: u8 = 2;

/// A small server that runs somewhere already.
struct Server {
    address: SocketAddr,
    manner: Arc<AtomicU8>,
    visits: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Server {
    fn start(world: &World) -> Self {
        Self::start_at(world, "127.0.0.1:0".parse().unwrap())
    }

    fn start_at(world: &World, address: SocketAddr) -> Self {
        let listener = world.runtime.block_on(TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let (manner, visits) = (Arc::new(AtomicU8::new(WELL)), Arc::new(AtomicU64::new(0)));
        let (how, count) = (manner.clone(), visits.clone());
        let task = world.runtime.spawn(async move {
            let mut talks = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                talks.spawn(talk(stream, how.clone(), count.clone()));
            }
        });
        Self { address, manner, visits, task }
    }

    fn is(&self, manner: u8) {
        self.manner.store(manner, Ordering::SeqCst);
    }

    fn visits(&self) -> u64 {
        self.visits.load(Ordering::SeqCst)
    }

    /// Ends with all its connections.
    fn end(self, world: &World) -> SocketAddr {
        self.task.abort();
        let _ = world.runtime.block_on(self.task);
        self.address
    }
}

async fn talk(mut stream: TcpStream, manner: Arc<AtomicU8>, visits: Arc<AtomicU64>) {
    let mut bytes = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        let Some(head) = bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|end| end + 4) else { continue };
        let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse::<usize>().ok());
        if bytes.len() < head + length.unwrap_or(0) {
            continue;
        }
        let is_check = bytes.starts_with(b"GET /up ");
        visits.fetch_add((!is_check).into(), Ordering::SeqCst);
        let answer: &[u8] = match manner.load(Ordering::SeqCst) {
            HANGS => b"",
            SICK if is_check => b"HTTP/1.1 503 Sick\r\ncontent-length: 0\r\n\r\n",
            _ => b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncache-control: no-store\r\n\r\npage",
        };
        let _ = stream.write_all(answer).await;
        bytes.clear();
    }
}

fn upstream(addresses: &[SocketAddr], lines: &str) -> String {
    let list: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!("upstream = [{}]\n{lines}", list.join(", "))
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// So many requests over one connection, every second a POST, each of which must be answered with 200.
fn all_are_answered(prime: &Prime<'_>, host: &str, count: usize) {
    let address = prime.address("http");
    prime.world.runtime.block_on(async {
        let mut sender = http::http1(http::tcp(address).await.unwrap()).await.unwrap();
        for number in 0..count {
            let request = if number % 2 == 0 { Request::get("/") } else { Request::post("/") };
            let body = if number % 2 == 0 { Bytes::new() } else { Bytes::from_static(b"a form") };
            let request = request.header("host", host).body(Full::new(body)).unwrap();
            if sender.ready().await.is_err() {
                sender = http::http1(http::tcp(address).await.unwrap()).await.unwrap();
            }
            let status = http::send(&mut sender, request).await.unwrap().status;
            assert_eq!(status, StatusCode::OK, "request {number} of {count}\n{}", prime.logs());
        }
    });
}

fn until_within(prime: &Prime<'_>, what: &str, patience: Duration, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < patience, "never: {what}\n{}", prime.logs());
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn kill(pid: i32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

#[test]
fn one_of_two_replicas_is_not_there_and_no_request_fails() {
    let world = World::new();
    let (server, other) = (Server::start(&world), Server::start(&world));
    let lines = upstream(&[nobody(), server.address], "");
    let both = upstream(&[other.address, server.address], "");
    let prime = world.prime().project("shop", &lines).project("both", &both).start();
    all_are_answered(&prime, "shop.test", 1000);
    assert_eq!(server.visits(), 1000, "each request was sent once");
    assert!(prime.metric("opri_edge_ejections_total") >= 1.0);

    all_are_answered(&prime, "both.test", 100);
    assert!(other.visits() >= 25, "two that are well share");
    // And when one of them ends, nobody notices.
    other.end(&world);
    all_are_answered(&prime, "both.test", 1000);
    assert_eq!(prime.metric("opri_upstream_up"), 2.0);
}

#[test]
fn where_all_are_gone_it_is_503_at_once_and_200_as_soon_as_one_is_back() {
    let world = World::new();
    let (one, other) = (Server::start(&world), Server::start(&world));
    let prime = world.prime().project("shop", &upstream(&[one.address, other.address], "")).start();
    all_are_answered(&prime, "shop.test", 10);
    let (address, _) = (one.end(&world), other.end(&world));
    // A connection that was kept may break in the middle of the first requests.
    prime.eventually("http://shop.test", |answer| answer.status == StatusCode::SERVICE_UNAVAILABLE);
    let since = Instant::now();
    for _ in 0..20 {
        assert_eq!(prime.get("http://shop.test").status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(since.elapsed() < Duration::from_secs(10), "20 refusals took {:?}", since.elapsed());
    assert_eq!(prime.metric("opri_upstream_up"), 0.0);
    let _back = Server::start_at(&world, address);
    all_are_answered(&prime, "shop.test", 100);
    assert_eq!(prime.metric("opri_upstream_up"), 1.0);
}

#[test]
fn a_replica_that_hangs_fails_a_few_and_then_the_others_serve() {
    let world = World::new();
    let (hung, one, other) = (Server::start(&world), Server::start(&world), Server::start(&world));
    let prime = world
        .prime()
        .with("[limits]\nupstream_timeout = \"2s\"\n")
        .project("shop", &upstream(&[hung.address, one.address, other.address], ""))
        .start();
    hung.is(HANGS);
    let visitors = Visitors::come(&prime, 8, "shop.test", "page");
    prime.until("it is left alone", || prime.metric("opri_edge_ejections_total") >= 1.0);
    let failed = visitors.tally.failed();
    let since = Instant::now();
    visitors.ask_more(1000);
    let (more, took) = (visitors.tally.failed() - failed, since.elapsed());
    // Those that were under way, and one for each time that it was tried again.
    let tries = 1 + usize::try_from(took.as_secs()).unwrap();
    assert!(more <= 8 + tries, "{more} more failed in {took:?}");
    hung.is(WELL);
    let visits = hung.visits();
    prime.until("it has its share again", || hung.visits() > visits + 100);
    let failed = visitors.tally.failed();
    visitors.ask_more(200);
    assert_eq!(visitors.tally.failed(), failed);
    visitors.go();
}

#[test]
fn a_replica_that_fails_its_health_check_has_no_visitors_until_it_is_well() {
    let world = World::new();
    let (sick, well) = (Server::start(&world), Server::start(&world));
    let lines = upstream(&[sick.address, well.address], "[app]\nhealth = { path = \"/up\" }\n");
    let prime = world.prime().project("shop", &lines).start();
    let visitors = Visitors::come(&prime, 4, "shop.test", "page");
    sick.is(SICK);
    let said = format!("shop/master is unwell: {}", sick.address);
    prime.until("it is said", || prime.does(&["list"]).contains(&said));
    assert!(prime.does(&["status"]).contains("unwell"));
    let before = sick.visits();
    visitors.ask_more(200);
    assert!(sick.visits() <= before + 4, "only what was under way");
    assert_eq!(prime.metric("opri_upstream_up"), 1.0);
    assert_eq!(prime.logs().matches("a replica fails its health check").count(), 1);

    sick.is(WELL);
    // One interval is five seconds and a tenth; the second good answer is asked for a second later.
    until_within(&prime, "it is back", Duration::from_secs(10), || !prime.does(&["list"]).contains(&said));
    prime.until("it has its share again", || sick.visits() > before + 100);
    visitors.go().is_flawless();
}

#[test]
fn a_replica_that_is_killed_costs_what_it_had_in_hand_and_comes_back() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "[app]\nreplicas = 2\n").start();
    prime.deploys(&shop, "master");
    let pids = prime.app_pids();
    assert_eq!(pids.len(), 2);
    let visitors = Visitors::come(&prime, 8, "shop.test", "page");
    kill(pids[0]);
    prime.until("it is started again", || {
        let now = prime.app_pids();
        now.len() == 2 && !now.contains(&pids[0]) && now.contains(&pids[1])
    });
    let failed = visitors.tally.failed();
    assert!(failed <= 8, "{failed} failed: more than were under way");
    visitors.ask_more(500);
    assert_eq!(visitors.go().failed(), failed);
}

/// Takes three quarters of a minute, as long as an app is given to show life.
#[test]
fn an_app_that_lives_and_answers_nothing_is_started_again_and_a_busy_one_is_not() {
    let world = World::new();
    let (deaf, busy) = (world.repo("deaf"), world.repo("busy"));
    deaf.commit("page");
    busy.commit("page");
    let health = "[app]\nhealth = { path = \"/up\" }\n";
    let prime = world.prime().hosting(&deaf, health).hosting(&busy, health).start();
    prime.deploys(&busy, "master");
    let busy_pid = prime.app_pids();
    prime.deploys(&deaf, "master");
    let both = prime.app_pids();
    let visitors = Visitors::come(&prime, 1, "busy.test", "page");
    for url in ["http://busy.test/busy", "http://deaf.test/deaf"] {
        assert_eq!(prime.ask(Request::post(url).body(Full::default()).unwrap()).status, StatusCode::OK);
    }
    let list = || prime.does(&["list"]);
    let unwell = |list: &str, name: &str| list.contains(&format!("{name}/master is unwell"));
    prime.until("both are seen to be unwell", || unwell(&list(), "deaf") && unwell(&list(), "busy"));
    assert_eq!(prime.app_pids().len(), 2, "nothing is started again in haste");
    until_within(&prime, "the deaf one is started again", Duration::from_secs(60), || {
        let now = prime.app_pids();
        now.len() == 2 && now.iter().filter(|pid| both.contains(pid)).count() == 1
    });
    prime.says("http://deaf.test", "page");
    prime.until("it is well", || !unwell(&list(), "deaf"));
    assert!(unwell(&list(), "busy"), "the busy one is still as it was");
    assert!(prime.app_pids().contains(&busy_pid[0]), "and runs on, because it answers its visitors");
    visitors.go().is_flawless();
}
