//! Asking an app how it is: one request over a connection of its own, on the very socket that visitors' requests take.
//!
//! Called by both planes: by control's gate before an app has visitors, by the edge while it has. The rule: what the app
//! sends is bounded here in bytes; how long all of it may take is for the caller to say.

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dial;
use crate::model::address::Address;
use crate::model::app::Protocol;

/// How much of an answer's head is read, in bytes.
const HEAD_READ: usize = 64 << 10;
/// How much of its body is read, and for how long.
const BODY_READ: usize = 64 << 10;
const BODY_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("nobody listens: {0}")]
    NotListening(io::Error),
    #[error("it gave no answer: {0}")]
    Broken(String),
}

/// `GET path`, with this Host.
#[derive(Debug, Clone, Copy)]
pub struct Question<'q> {
    pub protocol: Protocol,
    pub path: &'q str,
    pub host: &'q str,
}

type Request = http::Request<Empty<bytes::Bytes>>;

impl Question<'_> {
    /// The status of the app's answer.
    pub async fn ask(&self, address: &Address) -> Result<u16, AskError> {
        let closed = AskError::NotListening;
        match address {
            Address::Unix(path) => self.exchange(dial::unix(path).await.map_err(closed)?).await,
            Address::Tcp(address) => self.exchange(TcpStream::connect(address).await.map_err(closed)?).await,
        }
    }

    async fn exchange<S>(&self, stream: S) -> Result<u16, AskError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match self.protocol {
            Protocol::Http1 => self.by_http1(stream).await,
            Protocol::H2c => self.by_http2(stream).await,
        }
    }

    async fn by_http1<S>(&self, stream: S) -> Result<u16, AskError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut client = hyper::client::conn::http1::Builder::new();
        let (mut sender, connection) = client.max_buf_size(HEAD_READ).handshake(TokioIo::new(stream)).await?;
        let mut request = self.request()?;
        let host = self.host.parse().map_err(|_| AskError::Broken("its host cannot be one".to_owned()))?;
        request.headers_mut().insert(http::header::HOST, host);
        request.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
        tokio::select! {
            biased;
            status = async { status(sender.send_request(request).await?).await } => status,
            Err(error) = connection => Err(error.into()),
        }
    }

    async fn by_http2<S>(&self, stream: S) -> Result<u16, AskError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken?;
        let mut request = self.request()?;
        let target = format!("http://{}{}", self.host, self.path).parse();
        *request.uri_mut() = target.map_err(|_| AskError::Broken("its host cannot be one".to_owned()))?;
        tokio::select! {
            biased;
            status = async { status(sender.send_request(request).await?).await } => status,
            Err(error) = connection => Err(error.into()),
        }
    }

    fn request(&self) -> Result<Request, AskError> {
        let request = http::Request::get(self.path)
            .header("user-agent", "opri-health")
            .header("x-forwarded-proto", "https")
            .body(Empty::new());
        request.map_err(|error| AskError::Broken(error.to_string()))
    }
}

async fn status(answer: http::Response<hyper::body::Incoming>) -> Result<u16, AskError> {
    let status = answer.status().as_u16();
    // Leaving in the middle of a body would put a complaint into the log of many an app.
    let rest = Limited::new(answer.into_body(), BODY_READ).collect();
    let _ = timeout(BODY_WAIT, rest).await;
    Ok(status)
}

impl From<hyper::Error> for AskError {
    fn from(error: hyper::Error) -> Self {
        AskError::Broken(crate::report::with_causes(&error))
    }
}
