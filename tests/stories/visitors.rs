//! Visitors who ask without a pause while something happens, and write down whatever is not a whole, right answer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::http::{self, Answer, Sender};
use crate::world::Prime;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Tally {
    pub requests: AtomicU64,
    /// The number of the page that every request which begins from now on must see, or a later one.
    pub newest: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Tally {
    pub fn failed(&self) -> usize {
        self.failures.lock().unwrap().len()
    }

    pub fn is_flawless(&self) {
        let (failed, requests) = (self.failed(), self.requests.load(Ordering::Relaxed));
        let failures = self.failures.lock().unwrap();
        assert!(failed == 0, "{failed} of {requests} failed: {:?}", &failures[..failed.min(5)]);
        assert!(requests > 0, "nobody asked");
    }
}

/// How a visitor comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// HTTP/1.1, over one connection for as long as that lasts.
    Kept,
    /// HTTP/1.1, over a connection for each request.
    Closing,
    /// As `Kept`, by TLS.
    Secure,
    /// HTTP/2, by TLS.
    Http2,
}

impl Way {
    pub const ALL: [Way; 4] = [Way::Kept, Way::Closing, Way::Secure, Way::Http2];
}

pub struct Visitors<'p> {
    prime: &'p Prime<'p>,
    pub tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl<'p> Visitors<'p> {
    /// `count` visitors of `host`, every second of whom keeps its connection; a right answer is 200 and begins with
    /// `page`.
    pub fn come(prime: &'p Prime<'p>, count: usize, host: &str, page: &'static str) -> Self {
        Self::come_by(&[Way::Kept, Way::Closing], prime, count, (host, page))
    }

    /// As `come`, in turn by each of these ways.
    pub fn come_by(ways: &[Way], prime: &'p Prime<'p>, count: usize, (host, page): (&str, &'static str)) -> Self {
        let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let is_secure = ways.iter().any(|way| matches!(way, Way::Secure | Way::Http2));
        let root = if is_secure { prime.root() } else { String::new() };
        let visit = |index: usize| {
            let way = ways[index % ways.len()];
            let address = prime.address(if matches!(way, Way::Secure | Way::Http2) { "https" } else { "http" });
            let mut visitor = Visitor { way, address, host: host.to_owned(), root: root.clone(), page, kept: None };
            let (tally, stop) = (tally.clone(), stop.clone());
            prime.world.runtime.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let asking = visitor.ask(tally.newest.load(Ordering::Acquire));
                    let outcome = timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err("no answer".to_owned()));
                    tally.requests.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = outcome {
                        visitor.kept = None;
                        tally.failures.lock().unwrap().push(format!("{:?}: {error}", visitor.way));
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        };
        let tasks = (0..count).map(visit).collect();
        let visitors = Self { prime, tally, stop, tasks };
        visitors.ask_more(count as u64 * 3);
        visitors
    }

    /// Waits until so many more requests are through.
    pub fn ask_more(&self, more: u64) {
        let until = self.tally.requests.load(Ordering::Relaxed) + more;
        self.prime.until("the visitors ask", || self.tally.requests.load(Ordering::Relaxed) >= until);
    }

    pub fn go(self) -> Arc<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            self.prime.world.runtime.block_on(task).unwrap();
        }
        self.tally
    }
}

struct Visitor {
    way: Way,
    address: SocketAddr,
    host: String,
    root: String,
    page: &'static str,
    kept: Option<Kept>,
}

enum Kept {
    Http1(Sender),
    Http2(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Visitor {
    /// Asks for the page, whose number must not be below `newest`.
    async fn ask(&mut self, newest: u64) -> Result<(), String> {
        let answer = loop {
            let (mut kept, is_new) = match self.kept.take() {
                Some(kept) => (kept, false),
                None => (self.connect().await?, true),
            };
            match self.send(&mut kept).await? {
                Some(answer) => {
                    // What the server said it will close is not used again.
                    let keeps = self.way != Way::Closing && answer.header("connection") != "close";
                    self.kept = keeps.then_some(kept);
                    break answer;
                }
                // The connection was over before a byte was sent, as the server is free to say at any time.
                None if is_new => return Err("a new connection took no request".to_owned()),
                None => {}
            }
        };
        if answer.status != StatusCode::OK || !answer.body.starts_with(self.page) {
            return Err(format!("{} {:?}", answer.status, answer.body));
        }
        let number = answer.body[self.page.len()..].trim().parse::<u64>();
        match number {
            Ok(number) if number < newest => Err(format!("page {number} after page {newest} was acknowledged")),
            _ => Ok(()),
        }
    }

    async fn connect(&self) -> Result<Kept, String> {
        let tls = |alpn| http::tls(self.address, &self.host, &self.root, alpn);
        match self.way {
            Way::Kept | Way::Closing => Ok(Kept::Http1(http::http1(http::tcp(self.address).await?).await?)),
            Way::Secure => Ok(Kept::Http1(http::http1(tls("http/1.1").await?).await?)),
            Way::Http2 => Ok(Kept::Http2(http::http2(tls("h2").await?).await?)),
        }
    }

    /// The answer; `None` when the request was not sent.
    async fn send(&self, kept: &mut Kept) -> Result<Option<Answer>, String> {
        let request = Request::get(match self.way {
            Way::Http2 => format!("https://{}/", self.host),
            _ => "/".to_owned(),
        });
        let request = match self.way {
            Way::Http2 => request,
            Way::Closing => request.header("host", &self.host).header("connection", "close"),
            Way::Kept | Way::Secure => request.header("host", &self.host),
        };
        let request = request.body(Full::default()).unwrap();
        let sent = match kept {
            Kept::Http1(sender) => match sender.ready().await {
                Ok(()) => sender.try_send_request(request).await,
                Err(_) => return Ok(None),
            },
            Kept::Http2(sender) => match sender.ready().await {
                Ok(()) => sender.try_send_request(request).await,
                Err(_) => return Ok(None),
            },
        };
        match sent {
            Ok(response) => http::whole(response).await.map(Some),
            Err(mut error) => match error.take_message() {
                Some(_) => Ok(None),
                None => not_taken(error.into_error()).map(|()| None),
            },
        }
    }
}

/// Whether a request over HTTP/2 was not looked at, by the server's word: then every client asks again (RFC 9113 section 8.7).
fn not_taken(error: hyper::Error) -> Result<(), String> {
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    let is_announced = |cause: &h2::Error| cause.is_go_away() && cause.reason() == Some(h2::Reason::NO_ERROR);
    match cause {
        Some(cause) if is_announced(cause) || cause.reason() == Some(h2::Reason::REFUSED_STREAM) => Ok(()),
        Some(cause) => Err(format!("{error}: {cause}")),
        None => Err(error.to_string()),
    }
}
