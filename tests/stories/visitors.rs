//! Visitors who ask without a pause while something happens, and write down whatever is not a whole, right answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::http::{self, Sender};
use crate::world::Prime;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Tally {
    pub requests: AtomicU64,
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
        let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let address = prime.address("http");
        let visit = |index: usize| {
            let (tally, stop, host) = (tally.clone(), stop.clone(), host.to_owned());
            prime.world.runtime.spawn(async move {
                let mut kept: Option<Sender> = None;
                while !stop.load(Ordering::Relaxed) {
                    let asking = ask(&mut kept, address, &host, index.is_multiple_of(2), page);
                    let outcome = timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err("no answer".to_owned()));
                    tally.requests.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = outcome {
                        tally.failures.lock().unwrap().push(error);
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

async fn ask(
    kept: &mut Option<Sender>,
    address: std::net::SocketAddr,
    host: &str,
    keeps: bool,
    page: &str,
) -> Result<(), String> {
    let mut sender = match kept.take() {
        Some(sender) => sender,
        None => http::http1(http::tcp(address).await?).await?,
    };
    let mut request = Request::get("/").header("host", host);
    if !keeps {
        request = request.header("connection", "close");
    }
    let request: Request<Full<Bytes>> = request.body(Full::default()).unwrap();
    let answer = http::send(&mut sender, request).await?;
    if answer.status != StatusCode::OK || !answer.body.starts_with(page) {
        return Err(format!("{} {:?}", answer.status, answer.body));
    }
    // What the server said it will close is not used again.
    if keeps && answer.header("connection") != "close" && sender.ready().await.is_ok() {
        *kept = Some(sender);
    }
    Ok(())
}
