//! A shared cache by its rules: RFC 9111, 9213, 9110 and 5861, one row a rule, by every way through the gateway.
//!
//! Judged by what the app was asked and what the client got. Nothing waits for time to pass: the app's `Age`, `Date` and
//! `Expires` say that it has.

mod control;
mod invalidation;
mod keys;
mod origin;
mod renewal;
mod requests;
mod row;
mod times;
mod vary;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use ::http::Request;
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Semaphore;

use crate::http::{self, Answer};
use crate::world::{Prime, World};
use origin::{EMPTY, NOTHING, Origin, STEP, body};
use row::{From, Row, Step, fields};

/// A project as it is without a word about caching.
pub const SHOP: &str = "shop.test";
/// One that lets answers that set a cookie be stored.
pub const JAR: &str = "jar.test";
/// One with a key that leaves out and sorts parameters and has cookies, and one whose key lists what it has.
pub const KEYED: &str = "keyed.test";
pub const LISTED: &str = "listed.test";

/// What their files say of caching; a mark for each.
const PROJECTS: [(&str, &str, &str); 4] = [
    ("q9999lq", SHOP, ""),
    ("q9998lq", JAR, "set_cookie = true"),
    (
        "q9997lq",
        KEYED,
        "key = { ignore = [\"utm_*\", \"fbclid\"], sort = true, cookies = [\"lang\", \"theme\"] }\n\
         rules = [{ path = \"/*\", ttl = \"1m\" }]",
    ),
    (
        "q9996lq",
        LISTED,
        "pass = \"Surrogate-Control\"\nstatus = \"key\"\nrules = [{ path = \"/x\", key = {} }, \
         { path = \"/q*\", key = { allow = [\"q\", \"page\"] } }]",
    ),
];

const AT_ONCE: usize = 16;

/// How a row is asked: every way shares the one cache and must judge alike.
const WAYS: [(char, &str); 3] = [('l', "light"), ('f', "pingora's"), ('h', "HTTP/2")];

#[test]
fn a_cache_keeps_every_rule_by_every_way() {
    let world = World::new();
    let origin = Origin::start(&world.runtime);
    let mut conf = world.prime().with("[limits]\nconnections_per_address = 1000\n");
    for (_, host, cache) in PROJECTS {
        let (name, upstream) = (host.trim_end_matches(".test"), origin.address);
        let text = format!("upstream = \"{upstream}\"\n[branches.master]\nhosts = [\"{host}\"]\n[cache]\n{cache}\n");
        conf = conf.project(name, &text);
    }
    let prime = conf.start();
    for (mark, host, _) in PROJECTS {
        origin.play(mark, &Row::new("it serves").get(""));
        for scheme in ["http", "https"] {
            prime.until("it serves", || ready(&prime, &format!("{scheme}://{host}/{mark}")));
        }
    }
    let rows: Vec<Row> = [
        control::rows(),
        times::rows(),
        requests::rows(),
        vary::rows(),
        invalidation::rows(),
        renewal::rows(),
        keys::rows(),
    ]
    .concat();
    let mut rules = BTreeSet::new();
    let again: Vec<&str> = rows.iter().map(|row| row.rule).filter(|rule| !rules.insert(*rule)).collect();
    assert!(again.is_empty(), "these stand there twice: {again:#?}");
    let misses = world.runtime.block_on(run(&rows, &prime, &origin));
    println!("{} rules by {} ways", rows.len(), WAYS.len());
    assert!(misses.is_empty(), "\n{misses}\n{}", prime.logs());
}

fn ready(prime: &Prime<'_>, url: &str) -> bool {
    let request = Request::get(url).header(STEP, "0").header("cache-control", "no-store");
    prime.try_ask(request.body(Full::default()).unwrap()).is_ok_and(|answer| answer.status == 200)
}

/// All misses, one a line.
async fn run(rows: &[Row], prime: &Prime<'_>, origin: &Origin) -> String {
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let (plain, secure, root) = (prime.address("http"), prime.address("https"), Arc::new(prime.root()));
    let mut playing = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        for (letter, way) in WAYS {
            let (mark, row, origin) = (format!("q{number:04}{letter}q"), row.clone(), origin.clone());
            let (at_once, root) = (at_once.clone(), root.clone());
            origin.play(&mark, &row);
            playing.push(tokio::spawn(async move {
                let _place = at_once.acquire_owned().await.unwrap();
                let mut client = match way {
                    "HTTP/2" => Client::http2(http::tls(secure, row.host, &root, "h2").await.unwrap()).await,
                    way => Client::http1(http::tcp(plain).await.unwrap(), way == "pingora's").await,
                };
                let mut misses = String::new();
                for (at, step) in row.steps.iter().enumerate() {
                    let answer = client.ask(&row, step, &mark, at).await;
                    if answer.as_ref().is_ok_and(|answer| answer.header("connection") == "close") {
                        client = Client::http1(http::tcp(plain).await.unwrap(), way == "pingora's").await;
                    }
                    for miss in judge(&row, &mark, at, &answer, &origin) {
                        writeln!(misses, "{} | step {at} | {way} | {miss}", row.rule).unwrap();
                    }
                }
                misses
            }));
        }
    }
    let mut misses = String::new();
    for row in playing {
        misses += &row.await.unwrap();
    }
    misses
}

enum Client {
    Http1(http::Sender, bool),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Client {
    async fn http1(stream: tokio::net::TcpStream, is_full: bool) -> Self {
        Self::Http1(http::http1(stream).await.unwrap(), is_full)
    }

    async fn http2(stream: tokio_rustls::client::TlsStream<tokio::net::TcpStream>) -> Self {
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (sender, connection) = shaken.unwrap();
        tokio::spawn(connection);
        Self::Http2(sender)
    }

    async fn ask(&mut self, row: &Row, step: &Step, mark: &str, at: usize) -> Result<Answer, String> {
        let path = format!("/{mark}{}", step.path);
        let is_http2 = matches!(self, Self::Http2(_));
        let url = if is_http2 { format!("https://{}{path}", row.host) } else { path };
        let mut request = Request::builder().method(step.method).uri(url).header(STEP, at.to_string());
        for (name, value) in fields(step.asks) {
            request = request.header(name, value.replace("{mark}", mark));
        }
        match self {
            Self::Http1(sender, is_full) => {
                request = request.header("host", row.host);
                if *is_full {
                    // Who names a field of the connection's own is not asked for by the light way.
                    request = request.header("connection", "x-none");
                }
                http::send(sender, request.body(Full::default()).unwrap()).await
            }
            Self::Http2(sender) => {
                let response = sender.send_request(request.body(Full::default()).unwrap()).await;
                http::whole(response.map_err(|error| error.to_string())?).await
            }
        }
    }
}

/// What is wrong with a step.
fn judge(row: &Row, mark: &str, at: usize, answer: &Result<Answer, String>, origin: &Origin) -> Vec<String> {
    let (step, mut misses) = (&row.steps[at], Vec::new());
    let asked = origin.asked(mark, at);
    let is_asked = matches!(step.from, From::App | From::Renewed(_));
    // What ends without an answer is asked again over another connection.
    let is_right = if step.status == NOTHING { !asked.is_empty() } else { asked.len() == usize::from(is_asked) };
    if !is_right {
        misses.push(format!("the app was asked {} times", asked.len()));
    }
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return vec![error.clone()],
    };
    let said = match step.from {
        From::App => Some(at),
        From::Store(step) | From::Renewed(step) => Some(step),
        From::Edge(_) => None,
    };
    let status = match (step.from, step.told) {
        (From::Edge(status), _) | (_, Some(status)) => status,
        _ => row.steps[said.unwrap_or(at)].status,
    };
    if answer.status.as_u16() != status {
        misses.push(format!("status {} for {status}: {:?}", answer.status, answer.headers));
    }
    if let Some(said) = said.filter(|_| step.method != "HEAD") {
        let body = if step.told.is_some() || step.path == EMPTY {
            String::new()
        } else {
            body(mark, said, row.steps[said].status)
        };
        if answer.body != body {
            misses.push(format!("the body {:?} for {body:?}: {:?}", answer.body, answer.headers));
        }
    }
    misses.extend(judge_lines(step, answer));
    for request in &asked {
        let as_sent = || matches!(row.host, SHOP | JAR).then_some(step.path);
        let target = step.under.or_else(as_sent).map(|path| format!("/{mark}{path}"));
        if target.as_ref().is_some_and(|target| *target != request.target) {
            misses.push(format!("the app was asked for {} instead of {target:?}", request.target));
        }
        let lines: Vec<_> = request.fields.iter().map(|field| (field.name.as_str(), field.value.clone())).collect();
        misses.extend(compare("the app saw", &lines, &step.shows, &step.hides));
    }
    misses
}

fn judge_lines(step: &Step, answer: &Answer) -> Vec<String> {
    let text = |value: &::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let lines: Vec<_> = answer.headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
    compare("the client got", &lines, &step.gets, &step.lacks)
}

/// Lines that must be there, `*` standing for any end of one, and beginnings of lines that must not.
fn compare(what: &str, lines: &[(&str, String)], there: &[&str], absent: &[&str]) -> Vec<String> {
    let lines: Vec<String> =
        lines.iter().map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())).collect();
    let is_it = |line: &str, wanted: &str| match wanted.strip_suffix('*') {
        Some(begin) => line.starts_with(begin),
        None => line == wanted,
    };
    let missing = there.iter().filter(|wanted| !lines.iter().any(|line| is_it(line, wanted)));
    let missing = missing.map(|wanted| format!("{what} no {wanted:?}: {lines:?}"));
    let surplus = lines.iter().filter(|line| absent.iter().any(|gone| line.starts_with(gone)));
    missing.chain(surplus.map(|line| format!("{what} {line:?}"))).collect()
}
