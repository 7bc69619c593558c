//! The good clients: each asks for the page again and again in its own way, and writes down how long it took.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;

use crate::http::{self, Answer};
use crate::origin::PAGE;
use crate::world::{LOOK_AGAIN, Prime};

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two requests of one guest.
const PAUSE: Duration = Duration::from_millis(5);

/// How a guest comes: over HTTP/1 or HTTP/2, with TLS or without, and whether it keeps its connection.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Plain { keeps: bool },
    Secure { keeps: bool },
    Http2,
}

const WAYS: [Way; 5] = [
    Way::Plain { keeps: true },
    Way::Plain { keeps: false },
    Way::Secure { keeps: true },
    Way::Secure { keeps: false },
    Way::Http2,
];

/// What hyper says of a request that has not left (`hyper::Error::is_canceled`).
const UNSENT: &str = "operation was canceled";

#[derive(Default)]
struct Book {
    answers: Vec<(Instant, Duration)>,
    failures: Vec<String>,
}

impl Book {
    fn write(&mut self, began: Instant, asked: Result<(), String>) {
        match asked {
            Ok(()) => self.answers.push((began, began.elapsed())),
            Err(error) => self.failures.push(error),
        }
    }
}

/// How long answers took.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub count: usize,
    pub p50: Duration,
    pub p99: Duration,
}

pub struct Guests<'p> {
    prime: &'p Prime<'p>,
    book: Arc<Mutex<Book>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// What a guest needs to know to come.
struct House {
    http: SocketAddr,
    https: SocketAddr,
    root: String,
}

enum Kept {
    Http1(http::Sender),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl<'p> Guests<'p> {
    pub fn come(prime: &'p Prime<'p>) -> Self {
        let house = Arc::new(House { http: prime.address("http"), https: prime.address("https"), root: prime.root() });
        let (book, stop) = (Arc::new(Mutex::new(Book::default())), Arc::new(AtomicBool::new(false)));
        let visit = |way: Way| {
            let (house, book, stop) = (house.clone(), book.clone(), stop.clone());
            prime.world.runtime.spawn(async move {
                let mut kept = None;
                while !stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let asked = timeout(PATIENCE, ask(&mut kept, way, &house)).await;
                    let asked = asked.unwrap_or_else(|_| Err("no answer".to_owned()));
                    book.lock().unwrap().write(began, asked.map_err(|error| format!("{way:?}: {error}")));
                    tokio::time::sleep(PAUSE).await;
                }
            })
        };
        let tasks = WAYS.into_iter().map(visit).collect();
        Self { prime, book, stop, tasks }
    }

    /// Waits until so many more answers are there.
    pub fn ask_more(&self, more: usize) {
        let until = self.book.lock().unwrap().answers.len() + more;
        let deadline = Instant::now() + PATIENCE * 12;
        while self.book.lock().unwrap().answers.len() < until {
            assert!(Instant::now() < deadline, "the guests get no answers\n{}", self.prime.logs());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// How long those answers took that were asked for between the two.
    pub fn times(&self, from: Instant, to: Instant) -> Times {
        let book = self.book.lock().unwrap();
        let asked = book.answers.iter().filter(|(began, _)| (from..to).contains(began));
        let mut times: Vec<Duration> = asked.map(|(_, took)| *took).collect();
        times.sort();
        let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
        Times { count: times.len(), p50: at(50), p99: at(99) }
    }

    /// Sends them home; what they could not get.
    pub fn go(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            self.prime.world.runtime.block_on(task).unwrap();
        }
        std::mem::take(&mut self.book.lock().unwrap().failures)
    }
}

async fn ask(kept: &mut Option<Kept>, way: Way, house: &House) -> Result<(), String> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => connect(way, house).await?,
    };
    let answer = match send(&mut connection, way).await {
        // A thousand requests had come over it, and its end came in between: hyper says so of what it never sent, and any
        // browser asks again (RFC 9113 section 9.1).
        Err(error) if error == UNSENT => {
            connection = connect(way, house).await?;
            send(&mut connection, way).await?
        }
        answer => answer?,
    };
    if answer.status != StatusCode::OK || answer.body != PAGE {
        return Err(format!("{} {:?}", answer.status, answer.body));
    }
    // What the server said it will close is not used again.
    let keeps = !matches!(way, Way::Plain { keeps: false } | Way::Secure { keeps: false });
    if keeps && answer.header("connection") != "close" && connection.is_ready().await {
        *kept = Some(connection);
    }
    Ok(())
}

async fn connect(way: Way, house: &House) -> Result<Kept, String> {
    let tls = |protocol| http::tls(house.https, "shop.test", &house.root, protocol);
    match way {
        Way::Plain { .. } => http::http1(http::tcp(house.http).await?).await.map(Kept::Http1),
        Way::Secure { .. } => http::http1(tls("http/1.1").await?).await.map(Kept::Http1),
        Way::Http2 => {
            let stream = TokioIo::new(tls("h2").await?);
            let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
            let (sender, connection) = shaken.map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            Ok(Kept::Http2(sender))
        }
    }
}

async fn send(connection: &mut Kept, way: Way) -> Result<Answer, String> {
    let request = |target| Request::get(target).header("host", "shop.test").body(Full::default()).unwrap();
    match (connection, way) {
        (Kept::Http1(sender), _) => http::send(sender, request("/")).await,
        (Kept::Http2(sender), _) => {
            let request = Request::get("https://shop.test/").body(Full::default()).unwrap();
            http::whole(sender.send_request(request).await.map_err(|error| error.to_string())?).await
        }
    }
}

impl Kept {
    async fn is_ready(&mut self) -> bool {
        match self {
            Kept::Http1(sender) => sender.ready().await.is_ok(),
            Kept::Http2(sender) => sender.ready().await.is_ok(),
        }
    }
}
