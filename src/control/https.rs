//! One bounded request to somebody else's server: HTTPS, or plain HTTP to this machine alone.
//!
//! Called by `hooks` (Travis' key), `certs` (ACME) and `forge` (what CIs and forges say). The rule it keeps: every exchange has a deadline and a largest
//! body, a redirect is an answer like any other, and trust comes from the system's roots and what conf adds.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    #[error("`{0}` is not a URL with a host")]
    Malformed(Uri),
    #[error("`{0}` is not https (plain http is taken for this machine's own addresses only)")]
    NotHttps(Uri),
    #[error("no root certificates are installed (hint: install the package ca-certificates)")]
    NoRoots,
    #[error("{0} holds no root certificate in PEM: {1}")]
    Root(PathBuf, String),
    #[error("no connection: {0}")]
    Connect(#[source] io::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the exchange broke off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the answer broke off or is longer than {0} bytes")]
    Body(usize),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// A client with its trust and its bounds. Cheap to clone; every request opens a connection of its own.
#[derive(Debug, Clone)]
pub struct Https {
    tls: Arc<ClientConfig>,
    has_roots: bool,
    timeout: Duration,
    body_max: usize,
}

impl Https {
    /// Trusts the system's roots and those in the PEM file `root`. `timeout` is for a whole exchange, `body_max` in bytes.
    pub fn new(root: Option<&Path>, timeout: Duration, body_max: usize) -> Result<Self, HttpsError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = root {
            add_roots(&mut roots, path)?;
        }
        let has_roots = !roots.is_empty();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls), has_roots, timeout, body_max })
    }

    /// Sends `request`, whose URI is absolute, and reads the whole answer, whatever its status.
    pub async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpsError> {
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(HttpsError::Timeout(self.timeout)),
        }
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpsError> {
        let uri = request.uri().clone();
        let wrong = || HttpsError::Malformed(uri.clone());
        let host = uri.host().ok_or_else(wrong)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let request = in_origin_form(request).ok_or_else(wrong)?;
        let connect = |port| TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(port)));
        match uri.scheme_str() {
            Some("https") if !self.has_roots => Err(HttpsError::NoRoots),
            Some("https") => {
                let tcp = connect(443).await.map_err(HttpsError::Connect)?;
                let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
                let connector = tokio_rustls::TlsConnector::from(self.tls.clone());
                let stream = connector.connect(name, tcp).await.map_err(HttpsError::Connect)?;
                self.converse(stream, request).await
            }
            Some("http") if is_this_machine(&host) => {
                let stream = connect(80).await.map_err(HttpsError::Connect)?;
                self.converse(stream, request).await
            }
            _ => Err(HttpsError::NotHttps(uri)),
        }
    }

    async fn converse<S>(&self, stream: S, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, HttpsError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let exchange = async {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, self.body_max).collect().await;
            let body = body.map_err(|_| HttpsError::Body(self.body_max))?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        // A connection that ends early fails the exchange itself, so its own end says nothing more.
        let driver = async {
            let _ = connection.await;
            std::future::pending().await
        };
        tokio::select! {
            outcome = exchange => outcome,
            never = driver => never,
        }
    }
}

fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<(), HttpsError> {
    let wrong = |error: String| HttpsError::Root(path.to_owned(), error);
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    let mut added = 0;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        added += 1;
    }
    if added == 0 { Err(wrong("no certificate in it".to_owned())) } else { Ok(()) }
}

/// RFC 9112 section 3.2.1: the path as the target, the authority as the Host field.
fn in_origin_form(request: Request<Bytes>) -> Option<Request<Full<Bytes>>> {
    let (mut head, body) = request.into_parts();
    let authority = HeaderValue::from_str(head.uri.authority()?.as_str()).ok()?;
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    head.uri = target.parse().ok()?;
    head.headers.insert(HOST, authority);
    Some(Request::from_parts(head, Full::new(body)))
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn get(url: &str, root: Option<&Path>) -> Result<Response<Bytes>, HttpsError> {
        let https = Https::new(root, Duration::from_millis(300), 1000)?;
        https.send(Request::get(url).body(Bytes::new()).unwrap()).await
    }

    /// Answers every connection with `answer` and keeps it open.
    async fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/path?query", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 1000];
                let read = stream.read(&mut head).await.unwrap();
                assert!(head[..read].starts_with(b"GET /path?query HTTP/1.1\r\nhost: 127.0.0.1:"));
                stream.write_all(answer.as_bytes()).await.unwrap();
                open.push(stream);
            }
        });
        url
    }

    #[tokio::test]
    async fn an_answer_is_read_whole_and_a_redirect_is_an_answer() {
        let answer = get(&server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await, None).await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.body()[..]), (200, &b"hi"[..]));
        let redirect = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(get(&server(redirect).await, None).await.unwrap().status().as_u16(), 302);
    }

    #[tokio::test]
    async fn what_is_slow_long_plain_or_no_url_is_an_error() {
        assert!(matches!(get(&server("").await, None).await, Err(HttpsError::Timeout(_))));
        let stuck = server("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nh").await;
        assert!(matches!(get(&stuck, None).await, Err(HttpsError::Timeout(_))));
        let endless = server("HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n").await;
        assert!(matches!(get(&endless, None).await, Err(HttpsError::Body(1000) | HttpsError::Timeout(_))));
        assert!(matches!(get("http://192.0.2.1/", None).await, Err(HttpsError::NotHttps(_))));
        assert!(matches!(get("http://localhost.evil.test/", None).await, Err(HttpsError::NotHttps(_))));
        assert!(matches!(get("ftp://127.0.0.1/", None).await, Err(HttpsError::NotHttps(_))));
        assert!(matches!(get("/path", None).await, Err(HttpsError::Malformed(_))));
        assert!(matches!(get("http://127.0.0.1:1/", None).await, Err(HttpsError::Connect(_))));
    }

    #[tokio::test]
    async fn a_certificate_counts_only_under_a_trusted_root_and_for_its_name() {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root.pem");
        std::fs::write(&root, certificate.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(tcp).await else { continue };
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                let _ = stream.read(&mut [0; 1000]).await;
            }
        });
        let own = format!("https://127.0.0.1:{port}/");
        assert_eq!(get(&own, Some(&root)).await.unwrap().status().as_u16(), 200);
        assert!(get(&own, None).await.is_err());
        assert!(matches!(
            get(&format!("https://localhost:{port}/"), Some(&root)).await,
            Err(HttpsError::Connect(error)) if error.kind() == io::ErrorKind::InvalidData
        ));
    }
}
