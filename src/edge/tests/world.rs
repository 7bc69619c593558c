//! What the tests play with: an edge, a control that talks to it, apps, and visitors.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::edge::{EdgeError, Options, Start, run};
use crate::link::{self, Down, Receiver, Sender, Up, paths};
use crate::model::address::Address;
use crate::model::cache::CachePolicy;
use crate::model::machine::{Limits, Listeners};
use crate::model::route::{Route, Target, UpstreamId};
use crate::model::snapshot::{Certificates, Routing, Section, Settings, Upstream};

/// Nothing here takes this long.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct World {
    pub directory: TempDir,
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub metrics: SocketAddr,
    sender: Sender,
    receiver: Receiver,
    generation: u64,
    edge: JoinHandle<Result<(), EdgeError>>,
}

impl World {
    pub async fn start() -> Self {
        Self::with(Settings::default()).await
    }

    pub async fn with(settings: Settings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { state_dir: directory.path().to_owned(), start: Start::Led };
        let edge = tokio::spawn(run(options));
        let path = paths::edge_socket(directory.path());
        let stream = eventually(async || UnixStream::connect(&path).await.ok()).await;
        let (sender, receiver) = link::split(stream);
        let sockets: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let [http, https, metrics] = [0, 1, 2].map(|at: usize| sockets[at].local_addr().unwrap());
        let mut world = Self { directory, http, https, metrics, sender, receiver, generation: 0, edge };
        assert!(matches!(world.hear().await, Up::Hello { .. }));
        assert_eq!(world.tell(Section::Settings(settings)).await, None);
        let listeners =
            Listeners { http: vec![http], https: vec![https], metrics: Some(metrics), ..Listeners::default() };
        world.generation += 1;
        let section = Down::Section { generation: 1, section: Section::Listeners(listeners) };
        let descriptors: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        world.sender.send(&section, &descriptors).await.unwrap();
        assert!(matches!(
            world.hear_until(|up| matches!(up, Up::Applied { .. })).await,
            Up::Applied { fault: None, .. }
        ));
        world
    }

    /// Another control takes over; whether the one before was left.
    pub async fn replace_control(&mut self) -> bool {
        let stream = UnixStream::connect(paths::edge_socket(self.directory.path())).await.unwrap();
        let (sender, receiver) = link::split(stream);
        self.sender = sender;
        let mut before = std::mem::replace(&mut self.receiver, receiver);
        match self.hear().await {
            Up::Hello { generation, listeners, .. } => {
                assert_eq!(
                    (generation, listeners.http, listeners.metrics),
                    (self.generation, vec![self.http], Some(self.metrics))
                );
            }
            other => panic!("{other:?}"),
        }
        let end = async { while let Ok(Some(_)) = before.receive::<Up>().await {} };
        tokio::time::timeout(PATIENCE, end).await.is_ok()
    }

    /// Sends a section and waits until it holds; its fault.
    pub async fn tell(&mut self, section: Section) -> Option<String> {
        self.generation += 1;
        let generation = self.generation;
        self.sender.send(&Down::Section { generation, section }, &[]).await.unwrap();
        match self.hear_until(|up| matches!(up, Up::Applied { .. })).await {
            Up::Applied { fault, .. } => fault,
            other => panic!("{other:?}"),
        }
    }

    pub async fn say(&mut self, down: Down) {
        self.sender.send(&down, &[]).await.unwrap();
    }

    pub async fn hear_until(&mut self, is_it: impl Fn(&Up) -> bool) -> Up {
        loop {
            let up = self.hear().await;
            if is_it(&up) {
                return up;
            }
        }
    }

    async fn hear(&mut self) -> Up {
        let message = tokio::time::timeout(PATIENCE, self.receiver.receive()).await.unwrap();
        message.unwrap().unwrap().message
    }

    pub async fn route(&mut self, routes: Vec<Route>, upstreams: Vec<Upstream>) {
        assert_eq!(self.tell(Section::Routing(Routing { upstreams, routes })).await, None);
    }

    /// Says what is routed, and goes on.
    pub async fn say_routing(&mut self, routes: Vec<Route>, upstreams: Vec<Upstream>) {
        self.generation += 1;
        let section = Section::Routing(Routing { upstreams, routes });
        self.say(Down::Section { generation: self.generation, section }).await;
    }

    pub async fn certify(&mut self, hosts: &[&[&str]]) {
        let certificates =
            hosts.iter().map(|hosts| crate::edge::tls::tests::certificate(self.directory.path(), hosts)).collect();
        assert_eq!(self.tell(Section::Certificates(Certificates { certificates })).await, None);
    }

    /// One request on a connection of its own.
    pub async fn get(&self, host: &str, target: &str) -> Answer {
        self.ask(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
    }

    pub async fn ask(&self, request: &str) -> Answer {
        let mut visitor = Visitor::new(self.http).await;
        visitor.send(request).await;
        visitor.answer().await
    }

    /// Leaves without a word, as a control that crashed.
    pub async fn abandon(self) -> (TempDir, JoinHandle<Result<(), EdgeError>>) {
        (self.directory, self.edge)
    }

    pub async fn stop(mut self, within: Duration) {
        self.say(Down::Stop { within, has_successor: false }).await;
        tokio::time::timeout(PATIENCE, self.edge).await.unwrap().unwrap().unwrap();
    }
}

pub fn limits(change: impl FnOnce(&mut Limits)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings.limits);
    settings
}

pub fn route(host: &str, path: &str, to: Target) -> Route {
    let site = Some("shop".parse().unwrap());
    Route {
        host: host.parse().unwrap(),
        path: path.to_owned(),
        to,
        site,
        https_only: false,
        cache: CachePolicy::default(),
        limits: Default::default(),
        compression: Default::default(),
        purge_key: None,
        is_unlisted: false,
        replaced: Vec::new(),
        hold: None,
    }
}

pub fn to(id: &str) -> Target {
    Target::Upstream(UpstreamId(id.to_owned()))
}

pub fn upstream(id: &str, replicas: &[&App], drain: Duration) -> Upstream {
    let replicas = replicas.iter().map(|app| app.address.clone()).collect();
    let (id, protocol, drain_long) = (UpstreamId(id.to_owned()), Default::default(), drain);
    Upstream { id, replicas, protocol, drain, drain_long, health: None }
}

/// Asks again and again until there is an answer.
pub async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            match ask().await {
                Some(answer) => return answer,
                None => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap()
}

/// An app: answers each request by what its path says, and counts them.
pub struct App {
    pub address: Address,
    pub requests: Arc<AtomicU64>,
    task: JoinHandle<()>,
    _directory: Option<TempDir>,
}

impl App {
    pub async fn on_tcp(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let requests = Arc::new(AtomicU64::new(0));
        let counter = requests.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(Box::new(stream), name, counter.clone()));
            }
        });
        Self { address, requests, task, _directory: None }
    }

    pub async fn on_socket(name: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path: PathBuf = directory.path().join("app.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let requests = Arc::new(AtomicU64::new(0));
        let counter = requests.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(Box::new(stream), name, counter.clone()));
            }
        });
        Self { address: Address::Unix(path), requests, task, _directory: Some(directory) }
    }

    /// Listens no more.
    pub async fn die(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    pub fn asked(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

pub trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Io for T {}

async fn talk(mut stream: Box<dyn Io>, name: &'static str, requests: Arc<AtomicU64>) {
    let mut bytes = Vec::new();
    loop {
        let Some(head) = read_head(&mut stream, &mut bytes).await else { return };
        requests.fetch_add(1, Ordering::SeqCst);
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let length: usize = field(&head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        while bytes.len() < length {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body: Vec<u8> = bytes.drain(..length).collect();
        if !answer(&mut stream, name, &head, &path, &body).await {
            return;
        }
    }
}

async fn answer(stream: &mut Box<dyn Io>, name: &str, head: &str, path: &str, body: &[u8]) -> bool {
    let plain =
        |extra: &str, body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{extra}\r\n{body}", body.len());
    let text = match path.split('?').next().unwrap_or_default() {
        "/head" => plain("", head),
        "/echo" => plain("", &String::from_utf8_lossy(body)),
        "/cached" => plain("Cache-Control: max-age=60\r\nETag: \"e1\"\r\n", name),
        "/spare" => plain("Cache-Control: max-age=0, stale-if-error=60\r\n", name),
        "/private" => plain("Cache-Control: max-age=60\r\nSet-Cookie: a=b\r\n", name),
        "/truncated" => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nCache-Control: max-age=60\r\n\r\nhalf".to_owned(),
        "/garbage" => "ÿ nonsense\r\n\r\n".to_owned(),
        "/never" => {
            let _ = stream.read_u8().await;
            return false;
        }
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(200)).await;
            plain("", name)
        }
        "/events" => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            let _ = stream.write_all(format!("{head}3\r\none\r\n").as_bytes()).await;
            let _ = stream.read_u8().await;
            return false;
        }
        "/socket" => {
            let upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            let _ = stream.write_all(upgrade.as_bytes()).await;
            let mut bytes = [0; 1024];
            while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                let _ = stream.write_all(&bytes[..read].to_ascii_uppercase()).await;
            }
            return false;
        }
        _ => plain("", name),
    };
    let is_head = head.starts_with("HEAD");
    let text = if is_head { text.split_inclusive("\r\n\r\n").next().unwrap_or_default() } else { &text };
    let closes = matches!(path, "/truncated" | "/garbage");
    stream.write_all(text.as_bytes()).await.is_ok() && !closes
}

async fn read_head(stream: &mut Box<dyn Io>, bytes: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = bytes.drain(..end + 4).collect();
            return Some(String::from_utf8_lossy(&head).into_owned());
        }
        match stream.read_buf(bytes).await {
            Ok(1..) => {}
            _ => return None,
        }
    }
}

pub fn field(head: &str, name: &str) -> Option<String> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next_back()
}

/// A visitor on one connection.
pub struct Visitor {
    stream: Box<dyn Io>,
    bytes: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<String> {
        field(&self.head, name)
    }
}

impl Visitor {
    pub async fn new(address: SocketAddr) -> Self {
        Self::over(Box::new(TcpStream::connect(address).await.unwrap()))
    }

    pub fn over(stream: Box<dyn Io>) -> Self {
        Self { stream, bytes: Vec::new() }
    }

    pub async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    pub async fn answer(&mut self) -> Answer {
        self.try_answer().await.expect("the edge closed without an answer")
    }

    pub async fn try_answer(&mut self) -> Option<Answer> {
        let head = tokio::time::timeout(PATIENCE, read_head(&mut self.stream, &mut self.bytes)).await.unwrap()?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length: usize = field(&head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        let length = if status == 304 || head.starts_with("HTTP/1.1 101") { 0 } else { length };
        while self.bytes.len() < length {
            if self.stream.read_buf(&mut self.bytes).await.ok()? == 0 {
                return None;
            }
        }
        let body: Vec<u8> = self.bytes.drain(..length).collect();
        Some(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() })
    }

    /// The head of an answer to a HEAD, which has no body.
    pub async fn head(&mut self) -> String {
        tokio::time::timeout(PATIENCE, read_head(&mut self.stream, &mut self.bytes)).await.unwrap().unwrap()
    }

    /// Reads until these many bytes are there.
    pub async fn bytes(&mut self, count: usize) -> String {
        while self.bytes.len() < count {
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.bytes)).await.unwrap();
            assert_ne!(read.unwrap(), 0, "closed after {:?}", String::from_utf8_lossy(&self.bytes));
        }
        String::from_utf8_lossy(&self.bytes.drain(..count).collect::<Vec<_>>()).into_owned()
    }

    /// Waits until the edge closes.
    pub async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await;
        end.is_ok_and(|read| read.is_err() || rest.is_empty())
    }
}
