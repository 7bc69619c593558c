//! The edge as control sees it: a process that is found running or is started, and a connection to it.
//!
//! Called by the owner of what is live. The rule: an edge is never started while another answers on its socket; it
//! shares nothing with this process that would end with it (no terminal, no pipe, no process group), and is given
//! nothing of it that it does not need.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group, test_kill_process};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::rights::{Home, RightsError};
use crate::link::keys::{Packing, digest};
use crate::link::{self, Down, Generation, LinkError, Message, Receiver, Sender, Up, paths};
use crate::model::certificate::CertificateFiles;
use crate::model::machine::Listeners;
use crate::model::snapshot::{Certificates, Section, SectionKind};
use crate::model::user::User;

/// From its start until an edge must have said hello. It needs about 20 ms.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long another edge may take to answer when the one that was started found the place taken.
const GIVEN_WAY: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Between two attempts to get an edge again.
const TRY_AGAIN: Duration = Duration::from_millis(200);
/// How long a message may take to be written: an edge that does not read is broken.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// What an edge is told of our environment. The rest may hold secrets of ours: it is where `{ env = "…" }` finds them.
const ENVIRONMENT: [&str; 4] = ["OPRI_LOG", "RUST_BACKTRACE", "TOKIO_WORKER_THREADS", "MALLOC_ARENA_MAX"];

#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("the edge process cannot be started: {0}")]
    Spawn(io::Error),
    #[error("the edge process ended at once ({status}); its last words are in {log}: {words}")]
    Ended { status: String, log: PathBuf, words: String },
    #[error("the edge process did not answer within {} s", START_TIMEOUT.as_secs())]
    Silent,
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Rights(#[from] RightsError),
}

/// A connection to an edge that said hello.
#[derive(Debug)]
pub struct Edge {
    home: Home,
    sender: Sender,
    receiver: Receiver,
    /// The digests of the certificates that it has by this connection.
    given: HashSet<String>,
    pub pid: u32,
    pub version: String,
    /// The highest generation it has seen.
    pub generation: Generation,
    /// What it listened on when the connection began.
    pub listeners: Listeners,
    /// The sockets of `listeners`, in its order, until they are taken.
    pub sockets: Vec<OwnedFd>,
    /// Whether it was running before.
    pub was_adopted: bool,
    /// Which file it was started from; `None` where it does not say.
    pub binary: Option<String>,
    pub is_stopping: bool,
}

impl Edge {
    /// The edge that serves here, or was to when the one before it died, or a new one.
    pub async fn find(home: &Home) -> Result<Self, EdgeError> {
        let serving = Self::at(home, &paths::edge_socket(&home.state_dir)).await;
        match serving {
            Some(edge) => Ok(edge),
            None => match Self::heir(home).await {
                Some(edge) => Ok(edge),
                None => Self::connect(home).await,
            },
        }
    }

    /// Connects to the edge of this state directory, and starts one when none answers.
    pub async fn connect(home: &Home) -> Result<Self, EdgeError> {
        let socket = paths::edge_socket(&home.state_dir);
        if let Ok(stream) = UnixStream::connect(&socket).await {
            return Self::greet(home, stream, true).await;
        }
        home.open_to(home.wanted())?;
        let log = log(home);
        let mut child = spawn(home, &log, &[]).map_err(EdgeError::Spawn)?;
        let deadline = Instant::now() + START_TIMEOUT;
        let mut ended = None;
        while Instant::now() < deadline {
            if let Ok(stream) = UnixStream::connect(&socket).await {
                return Self::greet(home, stream, ended.is_some()).await;
            }
            if ended.is_none() {
                // It may have given way to one that a control before this one had just started, and that answers soon.
                ended = child.try_wait().ok().flatten().map(|status| (status, Instant::now()));
            }
            if let Some((status, _)) = ended.filter(|(_, at)| at.elapsed() >= GIVEN_WAY) {
                let words = last_words(&log);
                return Err(EdgeError::Ended { status: status.to_string(), log, words });
            }
            sleep(LOOK_AGAIN).await;
        }
        Err(EdgeError::Silent)
    }

    /// Starts an edge beside the one that serves, from the file that is on disk now. It listens nowhere yet. One that does
    /// not say hello is ended.
    pub async fn beside(home: &Home) -> Result<Self, EdgeError> {
        home.open_to(home.wanted())?;
        let log = log(home);
        let mut child = spawn(home, &log, &["--beside"]).map_err(EdgeError::Spawn)?;
        let pid = child.id().unwrap_or_default();
        let socket = paths::edge_beside(&home.state_dir, pid);
        let greeted = timeout(START_TIMEOUT, async {
            loop {
                if let Ok(stream) = UnixStream::connect(&socket).await {
                    return Self::greet(home, stream, false).await;
                }
                if let Some(status) = child.try_wait().map_err(EdgeError::Spawn)? {
                    return Err(EdgeError::Ended {
                        status: status.to_string(),
                        words: last_words(&log),
                        log: log.clone(),
                    });
                }
                sleep(LOOK_AGAIN).await;
            }
        });
        let greeted = greeted.await.unwrap_or(Err(EdgeError::Silent));
        if greeted.is_err() {
            kill_group(pid);
            remove(&socket);
        }
        greeted
    }

    /// The edges that an earlier control left beside this one.
    pub async fn others(&self) -> Vec<Self> {
        let mut others = Vec::new();
        for socket in paths::edges_beside(&self.home.state_dir) {
            match Self::at(&self.home, &socket).await {
                Some(edge) if edge.pid != self.pid => others.push(edge),
                // Another name of this one, or what one that is gone has left.
                _ => remove(&socket),
            }
        }
        others
    }

    /// The edge of this state directory whose own socket is gone with the one before it: it was to take its place.
    async fn heir(home: &Home) -> Option<Self> {
        for socket in paths::edges_beside(&home.state_dir) {
            if let Some(edge) = Self::at(home, &socket).await.filter(|edge| !edge.is_stopping) {
                let moved = fs::rename(&socket, paths::edge_socket(&home.state_dir));
                return moved.is_ok().then_some(edge);
            }
        }
        None
    }

    async fn at(home: &Home, socket: &Path) -> Option<Self> {
        let stream = UnixStream::connect(socket).await.ok()?;
        Self::greet(home, stream, true).await.ok()
    }

    /// Makes this the one that serves, in place of `before`. At every instant there is one.
    pub fn promote(&self, before: &Self) -> io::Result<()> {
        let state_dir = &self.home.state_dir;
        let own = paths::edge_socket(state_dir);
        fs::hard_link(&own, paths::edge_beside(state_dir, before.pid))?;
        fs::rename(paths::edge_beside(state_dir, self.pid), own)
    }

    /// Takes away the socket of one that is gone.
    pub fn remove_socket(&self) {
        remove(&paths::edge_beside(&self.home.state_dir, self.pid));
    }

    pub fn home(&self) -> &Home {
        &self.home
    }

    async fn greet(home: &Home, stream: UnixStream, was_adopted: bool) -> Result<Self, EdgeError> {
        // The kernel's word, not the edge's: by this number it is ended when it does not answer.
        let peer = stream.peer_cred().map_err(LinkError::Io)?;
        let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
        let (sender, mut receiver) = link::split(stream);
        let hello = timeout(START_TIMEOUT, receiver.receive()).await.map_err(|_| EdgeError::Silent)??;
        let Some(Message {
            message: Up::Hello { version, generation, listeners, binary, is_stopping, .. },
            descriptors,
        }) = hello
        else {
            return Err(EdgeError::Silent);
        };
        let user = User { uid: peer.uid(), gid: peer.gid() };
        if user.uid != home.wanted().uid {
            tracing::warn!(%user, wanted = %home.wanted(), "the edge that runs has another user than conf says; \
                stop `opri serve` and start it again to change that");
        }
        home.open_to(user)?;
        let (home, given) = (home.clone(), HashSet::new());
        Ok(Self {
            home,
            sender,
            receiver,
            given,
            pid,
            version,
            generation,
            listeners,
            sockets: descriptors,
            was_adopted,
            binary,
            is_stopping,
        })
    }

    /// The edge that comes after this one, which is gone; however long that takes.
    pub async fn successor(&self) -> Self {
        loop {
            match Self::connect(&self.home).await {
                Ok(edge) => return edge,
                Err(error) => tracing::error!(%error, "no edge"),
            }
            sleep(TRY_AGAIN).await;
        }
    }

    /// Has it listen there; `descriptors` are the sockets that it does not hold yet, in the order of the section.
    pub async fn listen(
        &mut self,
        generation: Generation,
        listeners: Listeners,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), EdgeError> {
        let section = Section::Listeners(listeners.clone());
        self.listeners = listeners;
        self.send(&Down::Section { generation, section }, descriptors).await
    }

    /// Says something; certificates that are new to this edge travel with the section that names them.
    pub async fn send(&mut self, message: &Down, descriptors: &[BorrowedFd<'_>]) -> Result<(), EdgeError> {
        let keys = match message {
            Down::Section { section: Section::Certificates(section), .. } => self.keys_for(section).await,
            _ => None,
        };
        let beside: Vec<_> = descriptors.iter().copied().chain(keys.as_ref().map(AsFd::as_fd)).collect();
        let sent = timeout(SEND_TIMEOUT, self.sender.send(message, &beside)).await;
        Ok(sent.map_err(|_| EdgeError::Silent)??)
    }

    /// The pairs of a section that this edge was not given yet. It may not be able to read the files itself.
    async fn keys_for(&mut self, section: &Certificates) -> Option<OwnedFd> {
        // What a section does not name the edge forgets.
        let named: HashSet<&String> = section.certificates.iter().map(|files| &files.digest).collect();
        self.given.retain(|digest| named.contains(digest));
        let is_new = |files: &&CertificateFiles| !self.given.contains(&files.digest);
        let new: Vec<_> = section.certificates.iter().filter(is_new).cloned().collect();
        if new.is_empty() {
            return None;
        }
        let packing = tokio::task::spawn_blocking(move || pack(&new)).await.map_err(io::Error::other).flatten();
        let (packed, keys) = packing
            .inspect_err(|error| tracing::error!(%error, "the certificates could not be handed to the edge"))
            .ok()?;
        self.given.extend(packed);
        Some(keys)
    }

    /// Returns when the process is no more.
    pub async fn gone(&self) {
        let Some(pid) = self.process() else { return };
        while test_kill_process(pid).is_ok() {
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Ends a process that does not answer.
    pub fn kill(&self) {
        if let Some(Err(error)) = self.process().map(|pid| kill_process(pid, Signal::KILL)) {
            tracing::error!(%error, pid = self.pid, "the edge cannot be ended");
        }
    }

    fn process(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }

    /// What the edge says next; `None` when it is gone. May be dropped and asked again.
    pub async fn receive(&mut self) -> Option<Up> {
        match self.receiver.receive().await {
            Ok(message) => {
                let up = message.map(|message| message.message);
                if let Some(Up::Applied { kind: SectionKind::Certificates, fault: Some(_), .. }) = up {
                    // Which of them it has is not known.
                    self.given.clear();
                }
                up
            }
            Err(error) => {
                tracing::warn!(%error, "the link to the edge is lost");
                None
            }
        }
    }
}

/// Starts an edge in a process group of its own, so that Ctrl-C in a terminal reaches control alone, which then decides.
fn spawn(home: &Home, log: &Path, further: &[&str]) -> io::Result<Child> {
    if let Some(dir) = log.parent() {
        fs::create_dir_all(dir)?;
    }
    let output = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
    let mut edge = Command::new(&home.binary);
    edge.arg("edge").arg("--state").arg(&home.state_dir).arg("--await-sockets").args(further);
    if let Some(user) = home.user {
        edge.arg("--user").arg(user.to_string());
    }
    let environment = ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    edge.env_clear().envs(environment).current_dir("/");
    edge.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0).spawn()
}

/// The digests and the bytes of those pairs whose files are as they were announced.
fn pack(certificates: &[CertificateFiles]) -> io::Result<(HashSet<String>, OwnedFd)> {
    let (mut packing, mut packed) = (Packing::begin()?, HashSet::new());
    for files in certificates {
        let read = fs::read(&files.chain).and_then(|chain| Ok((chain, fs::read(&files.key)?)));
        match read {
            _ if packed.contains(&files.digest) => {}
            Ok((chain, key)) if digest(&chain, &key) == files.digest => {
                packing.add(&files.digest, &chain, &key)?;
                packed.insert(files.digest.clone());
            }
            Ok(_) => tracing::warn!(chain = %files.chain.display(), "this pair is being replaced"),
            Err(error) => tracing::error!(chain = %files.chain.display(), %error, "this pair cannot be read"),
        }
    }
    Ok((packed, packing.seal()?))
}

fn log(home: &Home) -> PathBuf {
    home.state_dir.join("logs/edge.log")
}

/// Ends what was started in a process group of its own.
fn kill_group(leader: u32) {
    if let Some(leader) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        // Fails only when nobody of the group is left.
        let _ = kill_process_group(leader, Signal::KILL);
    }
}

fn remove(socket: &Path) {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %socket.display(), %error, "a socket that nobody answers on stays behind");
        }
        _ => {}
    }
}

fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}
