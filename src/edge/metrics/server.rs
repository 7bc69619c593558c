//! The listener for operators: `/metrics` of both planes, `/healthz` and `/readyz`.
//!
//! Started by `listen` for the metrics address. The rule: it answers from the edge alone when control is away, and no
//! family of metrics appears twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State as Extracted;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UnixStream};

use crate::edge::shared::Shared;
use crate::link::paths;

/// How long control may take.
const CONTROL: Duration = Duration::from_secs(1);
/// What control may send, in bytes.
const CONTROL_MAX: usize = 16 << 20;
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Answers until it is aborted.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .with_state(shared);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the metrics listener ended");
    }
}

async fn metrics(Extracted(shared): Extracted<Arc<Shared>>) -> impl IntoResponse {
    let own = match shared.metrics.text(&shared.cache, &shared.table.load()) {
        Ok(own) => own,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, TEXT)], error.to_string()),
    };
    let theirs = match tokio::time::timeout(CONTROL, fetch(&shared)).await {
        Ok(Ok(theirs)) => theirs,
        // Control may be away: the edge's own figures are worth having then more than ever.
        Ok(Err(_)) | Err(_) => String::new(),
    };
    (StatusCode::OK, [(header::CONTENT_TYPE, TEXT)], merge(own, &theirs))
}

async fn ready(Extracted(shared): Extracted<Arc<Shared>>) -> (StatusCode, &'static str) {
    match shared.table.load().is_ready {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "no routes yet\n"),
    }
}

/// Control's part, over its Unix socket.
async fn fetch(shared: &Shared) -> Result<String, Fault> {
    let stream = UnixStream::connect(paths::metrics_socket(&shared.state_dir)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = hyper::Request::get("/metrics").header("host", "control").body(Empty::<bytes::Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let body = Limited::new(response.into_body(), CONTROL_MAX).collect().await?;
        Ok(String::from_utf8(body.to_bytes().into())?)
    };
    tokio::select! {
        answer = answer => answer,
        ended = connection => Err(ended.err().map_or_else(|| "control closed".into(), Into::into)),
    }
}

/// Adds to `own` those families of `theirs` that it does not have.
fn merge(mut own: String, theirs: &str) -> String {
    let known: HashSet<String> = own.lines().filter_map(family).map(str::to_owned).collect();
    let mut is_new = true;
    for line in theirs.lines() {
        if let Some(family) = family(line) {
            is_new = !known.contains(family);
        }
        if is_new && !line.is_empty() {
            own.push_str(line);
            own.push('\n');
        }
    }
    own
}

/// The name after `# HELP` or `# TYPE`.
fn family(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "))?;
    rest.split(' ').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_family_appears_twice() {
        let own = "# HELP a A.\n# TYPE a gauge\na 1\n".to_owned();
        let theirs = "# HELP a A.\n# TYPE a gauge\na 2\n# HELP b B.\n# TYPE b gauge\nb{x=\"y\"} 3\n";
        assert_eq!(merge(own, theirs), "# HELP a A.\n# TYPE a gauge\na 1\n# HELP b B.\n# TYPE b gauge\nb{x=\"y\"} 3\n");
    }
}
