//! The command line's end of the admin API: one request a connection over the Unix socket of the state directory.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Common, Exit, Failure, conf_dir};
use crate::control::conf;
use crate::control::web::api::Refusal;
use crate::link::paths;

/// From a request until the head of its answer; a reload that binds sockets and waits for the edge takes longest.
const ANSWER: Duration = Duration::from_secs(60);

/// Where control listens.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// For the state directory that conf names.
    pub fn new(common: &Common) -> Result<Self, Failure> {
        let dir = conf_dir(common)?;
        let state_dir = conf::state_dir(&dir).map_err(|error| Failure::new(format!("{}: {error}", dir.display())))?;
        Ok(Self { socket: paths::admin_socket(&state_dir) })
    }

    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        read(self.send(Method::GET, path, Bytes::new()).await?).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(Failure::new)?;
        read(self.send(Method::POST, path, body.into()).await?).await
    }

    /// A stream, to be read with `piece`.
    pub async fn open(&self, path: &str) -> Result<Incoming, Failure> {
        let response = self.send(Method::GET, path, Bytes::new()).await?;
        if response.status().is_success() { Ok(response.into_body()) } else { Err(refusal(response).await) }
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(Failure::new)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "opri")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(Failure::new)?;
        match timeout(ANSWER, sender.send_request(request)).await {
            Ok(answer) => answer.map_err(Failure::new),
            Err(_) => Err(Failure::Said {
                exit: Exit::TimedOut,
                error: format!("`opri serve` did not answer within {} s", ANSWER.as_secs()),
                hint: None,
            }),
        }
    }

    fn unreachable(&self, error: &std::io::Error) -> Failure {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Failure::hinted(
                format!("no `opri serve` is running here: nothing answers on {}", self.socket.display()),
                "start it with `opri serve`, or name its conf with --conf DIR",
            ),
            ErrorKind::PermissionDenied => Failure::hinted(
                format!("{} belongs to another user", self.socket.display()),
                "run this as the user that runs `opri serve`",
            ),
            _ => Failure::new(format!("{}: {error}", self.socket.display())),
        }
    }
}

/// The next piece of a stream; `None` at its end.
pub async fn piece(body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame.map_err(|_| Failure::new("control ended in the middle of its answer"))?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

async fn read<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, Failure> {
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    let bytes = response.into_body().collect().await.map_err(Failure::new)?.to_bytes();
    serde_json::from_slice(&bytes).map_err(Failure::new)
}

async fn refusal(response: Response<Incoming>) -> Failure {
    let exit = match response.status() {
        StatusCode::BAD_REQUEST => Exit::Usage,
        StatusCode::NOT_FOUND => Exit::NotFound,
        StatusCode::CONFLICT => Exit::Refused,
        _ => Exit::Failed,
    };
    let status = response.status();
    let bytes = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    match serde_json::from_slice::<Refusal>(&bytes) {
        Ok(Refusal { error, hint }) => Failure::Said { exit, error, hint },
        Err(_) => Failure::Said { exit, error: format!("control answered {status}"), hint: None },
    }
}

/// A value as one segment of a query.
pub fn quoted(value: impl ToString) -> String {
    form_urlencoded::byte_serialize(value.to_string().as_bytes()).collect()
}
