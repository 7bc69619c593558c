//! Apps that answer wrongly: a client never gets a wrong answer that looks whole, and nobody else's request meets what is
//! left on the connection.
//!
//! Each case is a project with an app of its own. It is asked for `/good`, for `/bad`, and for `/good` again.

mod corpus;
mod origin;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tokio_rustls::client::TlsStream;

use crate::case::{Case as Asked, Seen, Then};
use crate::client;
use crate::http;
use crate::message::Answer;
use crate::streams::client as streams;
use crate::streams::frames::{END_STREAM, headers};
use crate::verdict::{Kind, Misses};
use crate::world::{LOOK_AGAIN, PATIENCE, Prime, World};
use corpus::{Case, Verdict};
use origin::Origin;

const AT_ONCE: usize = 32;
const LIMITS: &str = "[limits]\nupstream_timeout = \"1s\"\nconnections_per_address = 1000\n";
const HOP_BY_HOP: [&str; 6] = ["keep-alive", "proxy-connection", "trailer", "te", "upgrade", "x-hop"];
/// How much the edge may grow while the worst of it goes on and on, in MiB.
const GROWTH: u64 = 48;
const ROUNDS: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain(&'static str),
    Http2,
}

#[test]
fn a_broken_answer_never_looks_whole_and_meets_nobody_else() {
    let world = World::new();
    let cases = corpus::all();
    let (prime, origins) = serving(&world, &cases);
    let misses = world.runtime.block_on(run(&cases, &origins, &prime));
    crate::hold(cases.len(), &misses, &prime);
}

#[test]
fn apps_that_never_stop_do_not_grow_the_edge() {
    let world = World::new();
    let cases = corpus::endless();
    let (prime, _origins) = serving(&world, &cases);
    let round = || {
        world.runtime.block_on(async {
            let asked =
                (0..cases.len()).flat_map(|number| [Way::Plain("GET"), Way::Plain("POST")].map(|way| (number, way)));
            let asked = asked.map(|(number, way)| tokio::spawn(ask(Place::of(&prime), number, way, "/bad")));
            for answer in asked.collect::<Vec<_>>() {
                answer.await.unwrap();
            }
        });
    };
    round();
    let before = resident(&prime);
    (0..ROUNDS).for_each(|_| round());
    prime.until("the edge is as large as before", || resident(&prime) <= before + GROWTH);
}

/// A Prime with a project for each case.
fn serving<'w>(world: &'w World, cases: &[Case]) -> (Prime<'w>, Vec<Origin>) {
    let mut conf = world.prime().with(LIMITS);
    let mut origins = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let origin = world.runtime.block_on(Origin::start(case.script.clone()));
        let host = host(number);
        let text = format!("upstream = \"{}\"\n[branches.master]\nhosts = [\"{host}\"]\n", origin.address);
        conf = conf.project(&format!("b{number}"), &text);
        origins.push(origin);
    }
    let prime = conf.start();
    prime.says(&format!("http://{}/good", host(0)), "good");
    (prime, origins)
}

fn host(number: usize) -> String {
    format!("b{number}.test")
}

/// Where and as whom to ask.
#[derive(Clone)]
struct Place {
    plain: std::net::SocketAddr,
    secure: std::net::SocketAddr,
    root: Arc<String>,
}

impl Place {
    fn of(prime: &Prime<'_>) -> Self {
        Self { plain: prime.address("http"), secure: prime.address("https"), root: Arc::new(prime.root()) }
    }
}

async fn run(cases: &[Case], origins: &[Origin], prime: &Prime<'_>) -> Misses {
    let (at_once, place) = (Arc::new(Semaphore::new(AT_ONCE)), Place::of(prime));
    let mut asked = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let (at_once, place, case, told) = (at_once.clone(), place.clone(), case.clone(), origins[number].told.clone());
        asked.push(tokio::spawn(async move {
            let _turn = at_once.acquire_owned().await.unwrap();
            let ways: Vec<Way> = match case.method {
                "" => vec![Way::Plain("GET"), Way::Plain("POST"), Way::Http2],
                method => vec![Way::Plain(method)],
            };
            let mut found = Vec::new();
            for way in ways {
                // The answer in between may spoil a connection that was good.
                let before = ask(place.clone(), number, way, "/good").await;
                let since = told.load(Ordering::SeqCst);
                let bad = ask(place.clone(), number, way, "/bad").await;
                // What the app says late lies there before anybody asks again.
                until(|| told.load(Ordering::SeqCst) > since).await;
                let mut after = Vec::new();
                for _ in 0..3 {
                    after.push(ask(place.clone(), number, way, "/good").await);
                }
                found.push((way, before, bad, after));
            }
            found
        }));
    }
    let mut misses = Misses::default();
    for ((case, origin), asked) in cases.iter().zip(origins).zip(asked) {
        for (way, before, bad, after) in asked.await.unwrap() {
            let way = match way {
                Way::Plain(method) => method,
                Way::Http2 => "HTTP/2",
            };
            for (kind, what) in judge(case, &bad) {
                misses.add(&case.name, way, kind, what);
            }
            let good = |got: &Got| matches!(got, Got::Whole(200, body, _) if matches!(&body[..], b"good" | b""));
            for got in std::iter::once(&before).chain(&after).filter(|got| !good(got)) {
                misses.add(&case.name, way, Kind::Foreign, format!("a good request got {got:?}"));
            }
        }
        if origin.was_reused.load(Ordering::SeqCst) && !case.is_sound {
            misses.add(&case.name, "", Kind::Dangerous, "the connection was used again".to_owned());
        }
    }
    misses
}

/// What a client got.
#[derive(Debug)]
enum Got {
    Whole(u16, Vec<u8>, Vec<String>),
    /// It can see that something is missing.
    Half,
    Odd(String),
    Late,
}

fn judge(case: &Case, got: &Got) -> Vec<(Kind, String)> {
    let is_told = matches!(got, Got::Half | Got::Whole(502 | 504, ..));
    let is =
        |status: u16, text: &str| matches!(got, Got::Whole(it, body, _) if *it == status && body == text.as_bytes());
    let is_right = match case.verdict {
        Verdict::Broken => is_told,
        Verdict::Whole(status, text) => is(status, text),
        Verdict::Either(status, text) => is_told || is(status, text),
    };
    let mut misses = Vec::new();
    match got {
        Got::Late => misses.push((Kind::Hung, String::new())),
        Got::Odd(fault) => misses.push((Kind::Foreign, fault.clone())),
        _ if !is_right => misses.push((Kind::Taken, format!("{got:?}").chars().take(200).collect())),
        Got::Whole(.., fields) => misses.extend(fields.iter().map(|field| (Kind::Leaked, field.clone()))),
        Got::Half => {}
    }
    misses
}

async fn ask(place: Place, number: usize, way: Way, path: &str) -> Got {
    let host = host(number);
    let method = match way {
        Way::Http2 => return ask_http2(place, &host, path).await,
        Way::Plain(method) => method,
    };
    let body = if method == "POST" { "Content-Length: 2\r\n\r\nhi" } else { "\r\n" };
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{body}");
    let asked = Asked {
        name: String::new(),
        parts: vec![request.into_bytes()],
        seen: vec![Seen { method: method.to_owned(), target: path.to_owned(), body: Vec::new() }],
        then: Then::Close,
        or_refused: &[],
    };
    let talk = client::talk(http::tcp(place.plain).await.unwrap(), &asked, usize::MAX).await;
    match (&talk.answers[..], &talk.fault) {
        ([answer], None) => Got::Whole(answer.status, answer.body.clone(), hop_by_hop(answer)),
        ([], Some(fault)) if fault.starts_with(client::HALF) => Got::Half,
        ([], None) if talk.is_closed => Got::Half,
        (_, None) if talk.is_late => Got::Late,
        (answers, fault) => Got::Odd(format!("{answers:?} {fault:?}").chars().take(300).collect()),
    }
}

fn hop_by_hop(answer: &Answer) -> Vec<String> {
    let is_hop = |name: &str| HOP_BY_HOP.iter().any(|hop| hop.eq_ignore_ascii_case(name));
    let leaked = answer.fields.iter().filter(|field| is_hop(&field.name) || field.value.contains("canary"));
    leaked.map(|field| format!("{field:?}")).collect()
}

async fn ask_http2(place: Place, host: &str, path: &str) -> Got {
    let fields = |path: &str| {
        let fields = [(":method", "GET"), (":scheme", "https"), (":path", path), (":authority", host)];
        fields.map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
    };
    let stream = certified(&place, host).await;
    let case = headers(streams::CASE, END_STREAM, &fields(path));
    let talk = streams::talk(stream, &case, None).await;
    match talk.case.status {
        _ if talk.is_late => Got::Late,
        Some(status) if talk.case.is_whole && !talk.case.is_reset => Got::Whole(status, talk.case.body, Vec::new()),
        _ => Got::Half,
    }
}

/// A connection over TLS; certificates come one by one after the start.
async fn certified(place: &Place, host: &str) -> TlsStream<TcpStream> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match http::tls(place.secure, host, &place.root, "h2").await {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "no certificate for {host}: {error}"),
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() && Instant::now() < deadline {
        sleep(LOOK_AGAIN).await;
    }
}

/// What the edge takes of memory, in MiB.
fn resident(prime: &Prime<'_>) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", prime.edge_pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
