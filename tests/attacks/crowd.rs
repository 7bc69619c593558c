//! Attackers by the thousand, from many addresses, each of whom writes down how it ended.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until};

/// Attackers of one address: fewer than one address may have.
const OF_ONE: usize = 250;
/// How many connect at once: fewer than may wait to be accepted.
const AT_ONCE: usize = 200;
/// An attacker that was not stopped by then never is.
const PATIENCE: Duration = Duration::from_secs(60);
/// What an attacker keeps of an answer, in bytes.
const KEPT: usize = 4 << 10;

/// What became of an attacker: when it was closed on, and what it was told.
#[derive(Debug)]
pub struct End {
    pub after: Duration,
    pub answer: Vec<u8>,
}

impl End {
    /// The status of the last answer; 0 when there was none.
    pub fn status(&self) -> u16 {
        let answer = String::from_utf8_lossy(&self.answer);
        let status = answer.rfind("HTTP/1.1 ").and_then(|at| answer.get(at + 9..at + 12)?.parse().ok());
        status.unwrap_or(0)
    }
}

/// So many attackers at once.
pub async fn crowd<F, T>(count: usize, attack: impl Fn(usize) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let mut attackers = JoinSet::new();
    for n in 0..count {
        attackers.spawn(attack(n));
    }
    attackers.join_all().await
}

/// The address of the n-th of a crowd, which it shares with few.
pub fn from(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, u8::try_from(n / OF_ONE).unwrap())
}

/// Where a crowd comes in.
#[derive(Debug, Clone)]
pub struct Gate {
    to: SocketAddr,
    turns: Arc<Semaphore>,
}

impl Gate {
    pub fn new(to: SocketAddr) -> Self {
        Self { to, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    pub async fn connect(&self, n: usize) -> io::Result<TcpStream> {
        self.connect_from(from(n), None).await
    }

    /// With so many bytes of room for what comes.
    pub async fn connect_from(&self, from: Ipv4Addr, room: Option<u32>) -> io::Result<TcpStream> {
        let _turn = self.turns.acquire().await.unwrap();
        let socket = TcpSocket::new_v4()?;
        if let Some(room) = room {
            socket.set_recv_buffer_size(room)?;
        }
        socket.bind((from, 0).into())?;
        let stream = socket.connect(self.to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Sends a beginning and then, if given, these bytes again and again; never closes by itself.
pub async fn trickle<S>(stream: S, beginning: &[u8], then: Option<(&[u8], Duration)>) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let began = Instant::now();
    let mut answer = Vec::new();
    let sending = async {
        let _ = writer.write_all(beginning).await;
        if let Some((bytes, every)) = then {
            let mut every = interval(every);
            while writer.write_all(bytes).await.is_ok() {
                every.tick().await;
            }
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        let mut part = [0; 1024];
        while let Ok(read @ 1..) = reader.read(&mut part).await {
            answer.extend_from_slice(&part[..read]);
            answer.truncate(KEPT);
        }
    };
    tokio::select! {
        () = sending => {}
        () = reading => {}
        () = sleep_until(began + PATIENCE) => {}
    }
    End { after: began.elapsed(), answer }
}
