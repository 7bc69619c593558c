//! No project's bytes ever answer another's request, whatever is asked, purged and changed meanwhile.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::{HeaderMap, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::http::{self, Answer};
use crate::world::{Prime, World};

const PROJECTS: usize = 50;
/// Of the requests at once.
const CLIENTS: usize = 8;
/// In all. The promise is a million: `OPRI_ISOLATION=1000000` asks for them.
const REQUESTS: usize = 30_000;

#[test]
fn no_project_ever_gets_another_s_bytes() {
    let requests = std::env::var("OPRI_ISOLATION").map_or(REQUESTS, |number| number.parse().unwrap());
    let world = World::new();
    // Two apps a project: it is moved from one to the other and back.
    let apps: Vec<[SocketAddr; 2]> = (0..PROJECTS).map(|number| [0, 1].map(|_| app(&world, number))).collect();
    let conf = |number: usize, which: usize| {
        let hosts = format!("[branches.master]\nhosts = [\"p{number}.test\", \"*.p{number}.test\"]\n");
        format!("upstream = \"{}\"\n{hosts}", apps[number][which])
    };
    let mut prime = world.prime().with("[cache]\nmemory = \"4MiB\"\n");
    for number in 0..PROJECTS {
        prime = prime.project(&format!("p{number}"), &conf(number, 0));
    }
    let prime = prime.start();
    let asked = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            world.runtime.spawn(visit(prime.address("http"), client as u64, requests / CLIENTS, asked.clone()))
        })
        .collect();
    let waiting = world.runtime.spawn(async move {
        let mut seen = Seen::default();
        for client in clients {
            seen.add(client.await.unwrap());
        }
        seen
    });
    let mut random = Random(99);
    while !waiting.is_finished() {
        disturb(&prime, &mut random, &conf);
    }
    let seen = world.runtime.block_on(waiting).unwrap();
    println!("{} requests: {seen:?}", asked.load(Ordering::SeqCst));
    assert_eq!(seen.foreign, Vec::<String>::new(), "bytes that are not the project's own");
    assert!(seen.hits > requests / 20 && seen.parts > requests / 50, "{seen:?}");
}

/// What was seen of all answers.
#[derive(Debug, Default)]
struct Seen {
    hits: usize,
    parts: usize,
    others: usize,
    foreign: Vec<String>,
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.hits += other.hits;
        self.parts += other.parts;
        self.others += other.others;
        self.foreign.extend(other.foreign);
    }
}

/// Purges something, or moves a project to its other app.
fn disturb(prime: &Prime<'_>, random: &mut Random, conf: &dyn Fn(usize, usize) -> String) {
    let number = random.below(PROJECTS);
    let name = format!("p{number}");
    match random.below(4) {
        0 => drop(prime.does(&["purge", &name, "--all"])),
        1 => drop(prime.does(&["purge", &name, "--prefix", "/page"])),
        2 => drop(prime.does(&["purge", &name, "--url", "/page/1"])),
        _ => {
            std::fs::write(prime.conf_file(&format!("projects/{name}.toml")), conf(number, random.below(2))).unwrap();
            prime.does(&["reload"]);
        }
    }
}

async fn visit(address: SocketAddr, seed: u64, requests: usize, asked: Arc<AtomicUsize>) -> Seen {
    let (mut random, mut seen) = (Random(seed * 7919 + 1), Seen::default());
    let mut sender = None;
    for _ in 0..requests {
        let wanted = Wanted::any(&mut random);
        if sender.is_none() {
            let stream = http::tcp(address).await.unwrap();
            sender = Some(http::http1(stream).await.unwrap());
        }
        let answer = http::send(sender.as_mut().unwrap(), wanted.request()).await;
        asked.fetch_add(1, Ordering::Relaxed);
        match answer {
            Ok(answer) => wanted.judge(&answer, &mut seen),
            // The gateway may close a connection after an answer.
            Err(_) => sender = None,
        }
    }
    seen
}

/// One request.
#[derive(Debug)]
struct Wanted {
    project: usize,
    method: &'static str,
    host: String,
    path: String,
    variant: usize,
    range: Option<(usize, usize)>,
}

impl Wanted {
    fn any(random: &mut Random) -> Self {
        let project = random.below(PROJECTS);
        let host = match random.below(4) {
            0 => {
                let sub = ["", "www.", "p1.", "P2.test."][random.below(4)];
                let (name, domain) = (["p", "P"][random.below(2)], ["test", "TEST", "test."][random.below(3)]);
                format!("{sub}{name}{project}.{domain}{}", ["", ":80", ":8080"][random.below(3)])
            }
            _ => format!("p{project}.test"),
        };
        let path = ["/page/1", "/page/2", "/Page/1", "/vary/1", "/none/1"][random.below(5)];
        let query = ["", "", "", "?p=1", "?p=p2.test"][random.below(5)];
        let (from, length) = (random.below(300), random.below(300));
        Self {
            project,
            method: if random.below(20) > 1 { "GET" } else { ["HEAD", "POST"][random.below(2)] },
            host,
            path: format!("{path}{query}"),
            variant: random.below(3),
            range: (random.below(4) == 0).then_some((from, from + length)),
        }
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(self.method).uri(&self.path).header("host", &self.host);
        request = request.header("x-variant", self.variant);
        if let Some((first, last)) = self.range {
            request = request.header("range", format!("bytes={first}-{last}"));
        }
        request.body(Full::default()).unwrap()
    }

    fn judge(&self, answer: &Answer, seen: &mut Seen) {
        seen.hits += usize::from(answer.header("cache-status").starts_with("opri; hit"));
        let whole = content(self.project, self.variant, &self.path);
        let is_own = match answer.status {
            StatusCode::OK if self.method == "HEAD" => true,
            StatusCode::OK => answer.body == whole,
            StatusCode::PARTIAL_CONTENT => {
                seen.parts += 1;
                let (first, last) = self.range.unwrap();
                whole.get(first..=last.min(whole.len() - 1)) == Some(&answer.body)
            }
            // A moment between two apps, or nothing there.
            _ => {
                seen.others += 1;
                true
            }
        };
        let is_own = is_own
            && answer.header("x-project").split(',').all(|name| name.is_empty() || name == self.project.to_string());
        if !is_own {
            seen.foreign.truncate(9);
            seen.foreign.push(format!("{self:?}: {} {:?} {}", answer.status, answer.headers, answer.body));
        }
    }
}

/// What an app answers, in which every few bytes say whose they are.
fn content(project: usize, variant: usize, path: &str) -> String {
    let variant = if path.starts_with("/vary") { variant } else { 0 };
    format!("<{project} {variant} {path}>").repeat(20)
}

/// An app of one project, which does not look at the host.
fn app(world: &World, project: usize) -> SocketAddr {
    let listener = world.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    world.runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request| async move { Ok::<_, Infallible>(answer(project, &request)) });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

fn answer(project: usize, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let fields: HashMap<&str, &str> =
        request.headers().iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?))).collect();
    let variant = fields.get("x-variant").and_then(|variant| variant.parse().ok()).unwrap_or(0);
    let whole = content(project, variant, path);
    let mut headers = HeaderMap::new();
    headers.insert("x-project", project.into());
    // The same tag for all projects: that of another is never taken for one's own.
    headers
        .insert("etag", format!("\"{path}{}\"", if path.starts_with("/vary") { variant } else { 0 }).parse().unwrap());
    let control = if path.starts_with("/none") { "no-store" } else { "max-age=60" };
    headers.insert("cache-control", control.parse().unwrap());
    if path.starts_with("/vary") {
        headers.insert("vary", "x-variant".parse().unwrap());
    }
    let range = fields.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let range = range.and_then(|(first, last)| {
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        (first < whole.len()).then_some(first..last.min(whole.len() - 1) + 1)
    });
    let (status, body) = match range {
        Some(range) if request.method() == "GET" => {
            let said = format!("bytes {}-{}/{}", range.start, range.end - 1, whole.len());
            headers.insert("content-range", said.parse().unwrap());
            (StatusCode::PARTIAL_CONTENT, whole[range].to_owned())
        }
        _ => (StatusCode::OK, whole),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}
