//! Many clients in this process: those that only shake hands, those that stay and say nothing, and the one that looks
//! whether an answer is right.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::gateway::Door;

const PATIENCE: Duration = Duration::from_secs(10);
/// Clients that shake hands at once.
const AT_ONCE: usize = 16;
const REQUESTS_OF_EACH: usize = 100;

pub struct Crowd {
    runtime: Runtime,
    tls: TlsConnector,
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// A connection that stays open for as long as this is kept.
pub struct Connection(Box<dyn Wire>);

pub struct Answer {
    pub head: String,
    pub length: usize,
}

impl Crowd {
    /// Clients that know this root, and begin each session anew.
    pub fn new(root: &str) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
        let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { runtime, tls: TlsConnector::from(Arc::new(config)) }
    }

    pub fn ask(&self, door: Door, address: SocketAddr, path: &str) -> Result<Answer, String> {
        self.runtime.block_on(self.ask_once(door, address, request(door.host(), path)))
    }

    /// New connections with one request each, for this long; tells how many.
    pub fn shake_hands(&self, address: SocketAddr, path: &str, duration: Duration) -> Result<u64, String> {
        let end = Instant::now() + duration;
        let text = request(Door::SecureHit.host(), path).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        let client = async || {
            let mut count = 0;
            while Instant::now() < end {
                self.ask_once(Door::SecureHit, address, text.clone()).await?;
                count += 1;
            }
            Ok::<u64, String>(count)
        };
        let clients = futures_util::future::try_join_all((0..AT_ONCE).map(|_| client()));
        Ok(self.runtime.block_on(clients)?.into_iter().sum())
    }

    /// Opens this many connections, asks once over each, and keeps them.
    pub fn stay(&self, door: Door, address: SocketAddr, path: &str, count: usize) -> Result<Vec<Connection>, String> {
        let one = async || {
            let mut wire = self.open(door, address).await?;
            ask(&mut wire, &request(door.host(), path)).await?;
            Ok::<Connection, String>(Connection(wire))
        };
        self.runtime.block_on(async {
            let mut staying = Vec::with_capacity(count);
            while staying.len() < count {
                let some = (count - staying.len()).min(AT_ONCE);
                staying.extend(futures_util::future::try_join_all((0..some).map(|_| one())).await?);
            }
            Ok(staying)
        })
    }

    /// Closes all of these, as visitors do who leave.
    pub fn leave(&self, staying: Vec<Connection>) {
        self.runtime.block_on(async {
            let mut leaving = JoinSet::new();
            for mut connection in staying {
                leaving.spawn(async move { connection.0.shutdown().await });
            }
            let _ = tokio::time::timeout(PATIENCE, leaving.join_all()).await;
        });
    }

    /// Asks for each path of each host once, so that a cache has them.
    pub fn fill(&self, address: SocketAddr, hosts: &[String], paths: &[String]) -> Result<(), String> {
        self.runtime.block_on(async {
            for some in hosts.chunks(REQUESTS_OF_EACH) {
                let mut wire = self.open(Door::Hit, address).await?;
                for (host, path) in some.iter().flat_map(|host| paths.iter().map(move |path| (host, path))) {
                    ask(&mut wire, &request(host, path)).await?;
                }
            }
            Ok(())
        })
    }

    async fn ask_once(&self, door: Door, address: SocketAddr, request: String) -> Result<Answer, String> {
        let mut wire = self.open(door, address).await?;
        ask(&mut wire, &request).await
    }

    async fn open(&self, door: Door, address: SocketAddr) -> Result<Box<dyn Wire>, String> {
        let opening = async {
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            if !door.is_secure() {
                return Ok(Box::new(stream) as Box<dyn Wire>);
            }
            let name = ServerName::try_from(door.host()).map_err(|error| error.to_string())?;
            let stream = self.tls.connect(name, stream).await.map_err(|error| error.to_string())?;
            Ok(Box::new(stream) as Box<dyn Wire>)
        };
        tokio::time::timeout(PATIENCE, opening).await.unwrap_or_else(|_| Err("no connection in time".to_owned()))
    }
}

/// As `wrk` writes it.
pub fn request(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// One request, one whole answer, which must be 200.
async fn ask(wire: &mut Box<dyn Wire>, request: &str) -> Result<Answer, String> {
    let answering = async {
        wire.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let (mut bytes, mut part) = (Vec::new(), vec![0; 16 * 1024]);
        loop {
            let read = wire.read(&mut part).await.map_err(|error| error.to_string())?;
            if read == 0 {
                return Err("closed before the answer was whole".to_owned());
            }
            bytes.extend_from_slice(&part[..read]);
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            if !head.starts_with("http/1.1 200") {
                return Err(format!("the answer was {head}"));
            }
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let length: usize = length.ok_or_else(|| format!("no length in {head}"))?;
            if bytes.len() >= end + 4 + length {
                return Ok(Answer { head, length });
            }
        }
    };
    tokio::time::timeout(PATIENCE, answering).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
}
