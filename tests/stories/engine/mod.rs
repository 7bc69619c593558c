//! A Docker engine that is played: it answers the calls that Prime makes, over a Unix socket, and has any trouble it is told
//! to have.
//!
//! Its images are directories and its containers processes of this machine, which answer on the socket that is mounted into
//! them; `inside.rs` keeps them. A container outlives its engine's restart, as with `live-restore`.

mod inside;

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::http::{Request, Response, StatusCode};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::world::World;
use inside::{Inside, Said};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody listens.
    Refused,
    /// Who is connected hears nothing any more, in the middle of an answer too.
    Hung,
    /// An answer ends in its middle.
    Half,
    /// 500.
    Failing,
    /// A byte of the answer a second.
    Slow,
    /// It speaks a version from before our time.
    Old,
}

/// What an engine has, and in which calls: those whose method and path hold the text.
type Ailment = Option<(Trouble, &'static str)>;

pub struct Engine {
    socket: PathBuf,
    inside: Arc<Inside>,
    ailment: watch::Sender<Ailment>,
    runtime: tokio::runtime::Handle,
    listening: Mutex<Option<JoinHandle<()>>>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Engine {
    pub fn start(world: &World) -> Self {
        let dir = world.path().join("engine");
        fs::create_dir_all(&dir).unwrap();
        let engine = Self {
            socket: dir.join("docker.sock"),
            inside: Arc::new(Inside::new(&dir)),
            ailment: watch::Sender::new(None),
            runtime: world.runtime.handle().clone(),
            listening: Mutex::new(None),
            connections: Arc::default(),
        };
        engine.listen();
        engine
    }

    /// For `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Has this trouble from now on, in every call.
    pub fn has(&self, trouble: Trouble) {
        self.has_in(trouble, "");
    }

    /// In those calls alone whose method and path hold `part`.
    pub fn has_in(&self, trouble: Trouble, part: &'static str) {
        if trouble == Trouble::Refused {
            self.hang_up();
        }
        self.ailment.send_replace(Some((trouble, part)));
    }

    pub fn is_well(&self) {
        self.ailment.send_replace(None);
        self.listen();
    }

    /// Every connection breaks, and with it every build; who connects anew is answered.
    pub fn restart(&self) {
        self.hang_up();
        self.listen();
    }

    /// The names of its containers, whatever their state.
    pub fn containers(&self) -> Vec<String> {
        self.inside.containers()
    }

    /// The processes that its running containers are.
    pub fn pids(&self) -> Vec<i32> {
        self.inside.pids()
    }

    pub fn images(&self) -> usize {
        self.inside.images()
    }

    fn listen(&self) {
        let mut listening = self.listening.lock().unwrap();
        if listening.is_some() {
            return;
        }
        let _ = fs::remove_file(&self.socket);
        let _inside = self.runtime.enter();
        let listener = UnixListener::bind(&self.socket).unwrap();
        let (inside, ailment) = (self.inside.clone(), self.ailment.clone());
        let connections = self.connections.clone();
        *listening = Some(self.runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = tokio::spawn(serve(stream, inside.clone(), ailment.subscribe()));
                connections.lock().unwrap().push(connection);
            }
        }));
    }

    fn hang_up(&self) {
        if let Some(listening) = self.listening.lock().unwrap().take() {
            listening.abort();
            // The listener is closed once the task is no more.
            while !listening.is_finished() {
                std::thread::yield_now();
            }
        }
        self.connections.lock().unwrap().drain(..).for_each(|connection| connection.abort());
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.hang_up();
        self.inside.end();
    }
}

type Body = BoxBody<Bytes, io::Error>;

async fn serve(stream: UnixStream, inside: Arc<Inside>, ailment: watch::Receiver<Ailment>) {
    let service = service_fn(move |request| {
        let (inside, ailment) = (inside.clone(), ailment.clone());
        async move { Ok::<_, Infallible>(answer(request, inside, ailment).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, inside: Arc<Inside>, ailment: watch::Receiver<Ailment>) -> Response<Body> {
    let call = format!("{} {}", request.method(), request.uri().path());
    let trouble = move |now: &Ailment| now.filter(|(_, part)| call.contains(part)).map(|(trouble, _)| trouble);
    let now = trouble(&ailment.borrow());
    match now {
        Some(Trouble::Hung) => std::future::pending().await,
        Some(Trouble::Failing) => {
            return told(Said::Fault(StatusCode::INTERNAL_SERVER_ERROR, "the engine is unwell".to_owned()), |body| {
                body
            });
        }
        Some(Trouble::Old) if request.uri().path() == "/version" => {
            let old = serde_json::json!({ "ApiVersion": "1.24", "Version": "1.12.6" });
            return told(Said::Json(StatusCode::OK, old), |body| body);
        }
        _ => (),
    }
    let said = inside.answer(request).await;
    told(said, move |parts| match now {
        Some(Trouble::Half) => Box::pin(half(parts)),
        Some(Trouble::Slow) => Box::pin(slow(parts)),
        _ => Box::pin(parts.then(move |part| {
            let (mut ailment, trouble) = (ailment.clone(), trouble.clone());
            async move {
                let _ = ailment.wait_for(|now| trouble(now) != Some(Trouble::Hung)).await;
                part
            }
        })),
    })
}

type Parts = std::pin::Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send + Sync>>;

/// What is said as an answer, through what a trouble makes of its parts.
fn told(said: Said, through: impl FnOnce(Parts) -> Parts) -> Response<Body> {
    let (status, parts): (_, Parts) = match said {
        Said::Nothing(status) => (status, Box::pin(stream::empty())),
        Said::Json(status, value) => (status, Box::pin(stream::iter([Ok(Bytes::from(value.to_string()))]))),
        Said::Fault(status, message) => {
            let value = serde_json::json!({ "message": message });
            (status, Box::pin(stream::iter([Ok(Bytes::from(value.to_string()))])))
        }
        Said::Stream(parts) => {
            let parts = stream::unfold(parts, async |mut parts| Some((Ok(parts.recv().await?), parts)));
            (StatusCode::OK, Box::pin(parts))
        }
    };
    let body = BodyExt::boxed(StreamBody::new(through(parts).map(|part| part.map(Frame::data))));
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

/// Half of the first part, and then no end that could be taken for one.
fn half(parts: Parts) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync {
    let cut = stream::iter([Err(io::Error::other("the engine breaks off"))]);
    parts.take(1).map(|part| part.map(|part| part.slice(..part.len() / 2))).chain(cut)
}

fn slow(parts: Parts) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync {
    let bytes = parts.flat_map(|part| {
        let part = part.unwrap_or_default();
        stream::iter((0..part.len()).map(move |at| Ok(part.slice(at..=at))))
    });
    bytes.then(async |byte| {
        tokio::time::sleep(Duration::from_secs(1)).await;
        byte
    })
}

/// The story app's repository as an image of this engine: its command runs on this machine.
pub fn dockerfile(app: &Path) -> String {
    format!("FROM scratch\nCMD [\"{}\"]\n", app.display())
}
