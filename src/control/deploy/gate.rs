//! The gate: a replica is asked over the very socket that the edge will use, until it answers as it should.
//!
//! Called by the pipeline before a swap, and by the supervisor after a restart. An app that ends while it is waited for
//! fails at once; one that answers wrongly fails when its time is over, with what it answered last.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::ask::{AskError, Question};
use crate::control::runtime::RuntimeError;
use crate::model::address::Address;
use crate::model::app::{HealthCheck, Protocol};

/// While nothing listens yet the gate looks often: most apps are up within a second.
const EAGER: Duration = Duration::from_millis(20);
/// How long it looks often.
const EAGER_FOR: Duration = Duration::from_secs(2);
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
    pub protocol: Protocol,
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
    let Asked { candidates, check, protocol, host } = asked;
    let question = Question { protocol, path: &check.path, host };
    let since = Instant::now();
    let deadline = since + check.timeout;
    let mut pause = EAGER.min(check.interval);
    let mut last = "nothing listened on $SOCKET or $PORT".to_owned();
    loop {
        prepare()?;
        for address in candidates {
            let left = deadline.saturating_duration_since(Instant::now()).min(ASKING);
            match timeout(left, question.ask(address)).await {
                Ok(Ok(status)) if check.accepts(status) => return Ok(address.clone()),
                Ok(Ok(status)) => last = format!("GET {} answered {status}", check.path),
                Ok(Err(AskError::NotListening(_))) => {}
                Ok(Err(AskError::Broken(reason))) => last = asked.without_answer(&reason),
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

impl Asked<'_> {
    fn without_answer(&self, reason: &str) -> String {
        let path = &self.check.path;
        match self.protocol {
            Protocol::Http1 => format!("GET {path} got no answer: {reason}"),
            Protocol::H2c => {
                format!("GET {path} got no answer by HTTP/2, which `protocol = \"h2c\"` asks for: {reason}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::model::app::AppWish;

    #[tokio::test]
    async fn an_app_that_speaks_http_2_alone_is_asked_by_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let candidates = [Address::Tcp(listener.local_addr().unwrap())];
        let check = AppWish::default().settle().health;
        let serving = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            respond.send_response(http::Response::new(()), true).unwrap();
            while connection.accept().await.is_some() {}
            request.uri().to_string()
        };
        let asked = Asked { candidates: &candidates, check: &check, protocol: Protocol::H2c, host: "shop.test" };
        let (passed, target) = tokio::join!(pass(asked, || Ok(()), std::future::pending()), serving);
        assert!(passed.is_ok(), "{passed:?}");
        assert_eq!(target, "http://shop.test/");
    }

    #[tokio::test]
    async fn an_app_that_does_not_speak_http_2_is_told_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let serving = async {
            let (mut far, _) = listener.accept().await.unwrap();
            let _ = far.read(&mut [0; 1024]).await;
            let _ = far.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        };
        let check = AppWish::default().settle().health;
        let asked = Asked { candidates: &[], check: &check, protocol: Protocol::H2c, host: "shop.test" };
        let question = Question { protocol: Protocol::H2c, path: &check.path, host: "shop.test" };
        let (answer, ()) = tokio::join!(question.ask(&address), serving);
        let Err(AskError::Broken(reason)) = answer else { panic!("{answer:?}") };
        let refused = asked.without_answer(&reason);
        assert!(refused.contains("by HTTP/2, which `protocol = \"h2c\"` asks for"), "{refused}");
    }
}
