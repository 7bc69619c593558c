//! The demo's visitors: they ask without a pause, over connections that they keep or not, plain and over TLS, and write
//! down whatever is not a whole, right answer.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::super::Failure;
use super::scene::{BRANCHES, PROJECTS, Ports};

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two requests of one visitor: 16 of them ask about 3,000 times a second.
const PAUSE: Duration = Duration::from_millis(5);
/// Failures that are kept word for word.
const KEPT: usize = 5;

/// What all visitors saw.
#[derive(Debug, Default)]
pub struct Tally {
    pub requests: AtomicU64,
    pub failed: AtomicU64,
    /// Answers of the first and of the second version of the site that is swapped.
    pub old: AtomicU64,
    pub new: AtomicU64,
    pub failures: std::sync::Mutex<Vec<String>>,
}

/// The visitors at work.
#[derive(Debug)]
pub struct Visitors {
    pub tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Visitor {
    host: String,
    project: &'static str,
    branch: &'static str,
    address: SocketAddr,
    /// Over TLS when there is a connector.
    tls: Option<TlsConnector>,
    keeps_connection: bool,
    tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
}

impl Visitors {
    /// Four for each site: with and without keep-alive, plain and over TLS.
    pub fn begin(ports: Ports, root: &Path) -> Result<Self, Failure> {
        let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let connector = connector(root)?;
        let mut tasks = Vec::new();
        for (project, branch) in PROJECTS.iter().flat_map(|project| BRANCHES.map(|branch| (*project, branch))) {
            for (is_secure, keeps_connection) in [(false, true), (false, false), (true, true), (true, false)] {
                let port = if is_secure { ports.https } else { ports.http };
                let visitor = Visitor {
                    host: host(project, branch),
                    project,
                    branch,
                    address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                    tls: is_secure.then(|| connector.clone()),
                    keeps_connection,
                    tally: tally.clone(),
                    stop: stop.clone(),
                };
                tasks.push(tokio::spawn(visitor.visit()));
            }
        }
        Ok(Self { tally, stop, tasks })
    }

    /// Lets every visitor finish the request it is at.
    pub async fn end(self) -> Arc<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let _ = task.await;
        }
        self.tally
    }
}

pub fn host(project: &str, branch: &str) -> String {
    if branch == "master" { format!("{project}.localhost") } else { format!("{branch}.{project}.localhost") }
}

/// Posts a hook as Travis does, and tells status and body.
pub async fn post_hook(ports: Ports, body: String, signature: &str) -> Result<(StatusCode, String), Failure> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ports.http)).await.map_err(Failure::new)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Failure::new)?;
    tokio::spawn(connection);
    let request = Request::post("/events")
        .header("host", "opri.localhost")
        .header("user-agent", "Travis CI Notifications")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("signature", signature)
        .body(Full::new(Bytes::from(body)))
        .map_err(Failure::new)?;
    let response = sender.send_request(request).await.map_err(Failure::new)?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(Failure::new)?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

impl Visitor {
    async fn visit(self) {
        let mut kept = None;
        while !self.stop.load(Ordering::Relaxed) {
            let outcome = timeout(PATIENCE, self.ask(&mut kept)).await;
            self.tally.requests.fetch_add(1, Ordering::Relaxed);
            match outcome {
                Ok(Ok(page)) => self.judge(&page),
                Ok(Err(error)) => self.fail(error),
                Err(_) => self.fail(format!("no answer within {} s", PATIENCE.as_secs())),
            }
            sleep(PAUSE).await;
        }
    }

    /// A page is right when it is whole, of this site, and of a version that was ever deployed.
    fn judge(&self, page: &str) {
        let is_whole = page.contains(&format!("<h1>{}/{}</h1>", self.project, self.branch)) && page.ends_with("</p>\n");
        let is_swapped = (self.project, self.branch) == (PROJECTS[0], BRANCHES[0]);
        match (is_whole, page.contains("version 1<"), page.contains("version 2<")) {
            (true, true, false) if is_swapped => drop(self.tally.old.fetch_add(1, Ordering::Relaxed)),
            (true, false, true) if is_swapped => drop(self.tally.new.fetch_add(1, Ordering::Relaxed)),
            (true, true, false) => {}
            _ => self.fail(format!("a wrong page: {page:?}")),
        }
    }

    fn fail(&self, reason: String) {
        self.tally.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.tally.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if failures.len() < KEPT {
            failures.push(format!("{}: {reason}", self.host));
        }
    }

    async fn ask(&self, kept: &mut Option<SendRequest<Empty<Bytes>>>) -> Result<String, String> {
        let mut sender = match kept.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let mut request = Request::get("/").header("host", &self.host);
        if !self.keeps_connection {
            request = request.header("connection", "close");
        }
        let request = request.body(Empty::new()).map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        if status != StatusCode::OK {
            return Err(format!("status {status}"));
        }
        if self.keeps_connection && sender.ready().await.is_ok() {
            *kept = Some(sender);
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, String> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
        let Some(tls) = &self.tls else { return shake(stream).await };
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        shake(tls.connect(name, stream).await.map_err(|error| error.to_string())?).await
    }
}

async fn shake<S>(stream: S) -> Result<SendRequest<Empty<Bytes>>, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Trusts Prime's own local CA and nobody else.
fn connector(root: &Path) -> Result<TlsConnector, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(root).map_err(|error| {
        Failure::new(format!("the local CA's root cannot be read from {}: {error}", root.display()))
    })?;
    roots.add(certificate).map_err(Failure::new)?;
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
