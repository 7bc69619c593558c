//! The gate: a replica is asked over the very socket that the edge will use, until it answers as it should.
//!
//! Called by the pipeline before a swap, and by the supervisor after a restart. An app that ends while it is waited for
//! fails at once; one that answers wrongly fails when its time is over, with what it answered last.

use std::future::Future;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::control::runtime::RuntimeError;
use crate::dial;
use crate::model::address::Address;
use crate::model::app::HealthCheck;

/// While nothing listens yet the gate looks often: most apps are up within a second.
const EAGER: Duration = Duration::from_millis(20);
/// How long it looks often.
const EAGER_FOR: Duration = Duration::from_secs(2);
/// How much of an answer's body is read, and for how long.
const BODY_READ: usize = 64 << 10;
const BODY_WAIT: Duration = Duration::from_secs(1);
/// One asking takes no longer than this, and no longer than what is left.
const ASKING: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error("the app ended before it was ready: {0}")]
    Ended(String),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("the app was not ready within {} s: {last}", .timeout.as_secs_f32())]
    NotReady { timeout: Duration, last: String },
}

/// Who is asked, and how.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Where it may answer.
    pub candidates: &'a [Address],
    pub check: &'a HealthCheck,
    /// The Host that the health check names.
    pub host: &'a str,
}

/// Waits until a candidate answers the health check; tells which. `prepare` is called before each asking, `ended`
/// resolves when the replica is gone.
pub async fn pass(
    asked: Asked<'_>,
    prepare: impl Fn() -> Result<(), RuntimeError>,
    ended: impl Future<Output = String>,
) -> Result<Address, GateError> {
    tokio::select! {
        how = ended => Err(GateError::Ended(how)),
        answer = ask_until_ready(asked, prepare) => answer,
    }
}

async fn ask_until_ready(
    asked: Asked<'_>,
    prepare: impl Fn() -> Result<(), RuntimeError>,
) -> Result<Address, GateError> {
    let Asked { candidates, check, host } = asked;
    let since = Instant::now();
    let deadline = since + check.timeout;
    let mut pause = EAGER.min(check.interval);
    let mut last = "nothing listened on $SOCKET or $PORT".to_owned();
    loop {
        prepare()?;
        for address in candidates {
            let left = deadline.saturating_duration_since(Instant::now()).min(ASKING);
            match timeout(left, ask(address, check, host)).await {
                Ok(Ok(status)) if check.accepts(status) => return Ok(address.clone()),
                Ok(Ok(status)) => last = format!("GET {} answered {status}", check.path),
                Ok(Err(Asking::NotListening)) => {}
                Ok(Err(Asking::Broken(reason))) => last = format!("GET {} got no answer: {reason}", check.path),
                Err(_) => last = format!("GET {} was not answered in time", check.path),
            }
        }
        if Instant::now() + pause >= deadline {
            return Err(GateError::NotReady { timeout: check.timeout, last });
        }
        sleep(pause).await;
        if since.elapsed() >= EAGER_FOR {
            pause = (pause * 2).min(check.interval);
        }
    }
}

enum Asking {
    NotListening,
    Broken(String),
}

async fn ask(address: &Address, check: &HealthCheck, host: &str) -> Result<u16, Asking> {
    let closed = |_| Asking::NotListening;
    match address {
        Address::Unix(path) => exchange(dial::unix(path).await.map_err(closed)?, check, host).await,
        Address::Tcp(address) => exchange(TcpStream::connect(address).await.map_err(closed)?, check, host).await,
    }
}

async fn exchange<S>(stream: S, check: &HealthCheck, host: &str) -> Result<u16, Asking>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| Asking::Broken(error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = http::Request::get(&check.path)
        .header("host", host)
        .header("user-agent", "opri-health")
        .header("x-forwarded-proto", "https")
        .header("connection", "close")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| Asking::Broken(error.to_string()))?;
    let asking = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        // Leaving in the middle of a body would put a complaint into the log of many an app.
        let rest = Limited::new(answer.into_body(), BODY_READ).collect();
        let _ = timeout(BODY_WAIT, rest).await;
        Ok(status)
    };
    tokio::select! {
        biased;
        status = asking => status.map_err(broken),
        Err(error) = connection => Err(broken(error)),
    }
}
