//! Latency at a fixed rate: requests leave when they are due, whether answers came or not.
//!
//! A request that had to wait for a free connection is late from the moment it was due, so nothing is left out that a
//! visitor would have felt.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

const CONNECTIONS: usize = 32;
/// Connections open and buffers grow in this time; it does not count.
const WARM_UP: Duration = Duration::from_millis(300);

/// Milliseconds from the moment that a request was due to the end of its answer.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    pub half: f64,
    pub hundredth: f64,
}

struct Connection {
    socket: OwnedFd,
    due: Instant,
    /// What has come of an answer's head.
    head: Vec<u8>,
    /// Of its body, when the head is known.
    left: Option<usize>,
}

/// Sends `request` this often for this long.
pub fn run(address: SocketAddr, request: &[u8], rate: f64, duration: Duration) -> Result<Latency, String> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(wrong)?;
    let mut connections = Vec::new();
    for at in 0..CONNECTIONS {
        let stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        stream.set_nonblocking(true).map_err(|error| error.to_string())?;
        epoll::add(&epoll, &stream, EventData::new_u64(at as u64), EventFlags::IN).map_err(wrong)?;
        connections.push(Connection { socket: stream.into(), due: Instant::now(), head: Vec::new(), left: None });
    }
    let start = Instant::now();
    let paced = Paced { epoll, connections, start, interval: Duration::from_secs_f64(1.0 / rate), taken: Vec::new() };
    paced.run(request, duration + WARM_UP)
}

struct Paced {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    start: Instant,
    interval: Duration,
    taken: Vec<Duration>,
}

impl Paced {
    fn run(mut self, request: &[u8], duration: Duration) -> Result<Latency, String> {
        let (mut free, mut due) = ((0..CONNECTIONS).collect::<Vec<_>>(), self.start);
        let (mut events, mut buffer) = (Vec::with_capacity(CONNECTIONS), vec![0; 16 * 1024]);
        let end = self.start + duration;
        while due < end || free.len() < CONNECTIONS {
            let now = Instant::now();
            if now > end + Duration::from_secs(2) {
                return Err("answers are missing at the end".to_owned());
            }
            while due <= now && due < end && !free.is_empty() {
                let Some(at) = free.pop() else { break };
                self.connections[at].ask(request, due)?;
                due += self.interval;
            }
            let is_waiting_for_time = due < end && !free.is_empty();
            let pause = if is_waiting_for_time { due.saturating_duration_since(now) } else { Duration::from_secs(1) };
            let pause = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: i64::from(pause.subsec_nanos()) };
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&pause)) {
                Ok(_) | Err(Errno::INTR) => (),
                Err(error) => return Err(wrong(error)),
            }
            for event in &events {
                let at = event.data.u64() as usize;
                if self.connections[at].read(&mut buffer)? {
                    free.push(at);
                    self.note(at);
                }
            }
        }
        Ok(self.latency())
    }

    fn note(&mut self, at: usize) {
        let due = self.connections[at].due;
        if due >= self.start + WARM_UP {
            self.taken.push(due.elapsed());
        }
    }

    fn latency(mut self) -> Latency {
        self.taken.sort_unstable();
        let part = |part: f64| {
            let at = (self.taken.len() as f64 * part) as usize;
            self.taken.get(at).map_or(f64::NAN, |taken| taken.as_secs_f64() * 1000.0)
        };
        Latency { half: part(0.5), hundredth: part(0.99) }
    }
}

impl Connection {
    fn ask(&mut self, request: &[u8], due: Instant) -> Result<(), String> {
        (self.due, self.left) = (due, None);
        self.head.clear();
        match rustix::io::write(&self.socket, request) {
            Ok(written) if written == request.len() => Ok(()),
            Ok(_) => Err("a request was not taken whole".to_owned()),
            Err(error) => Err(wrong(error)),
        }
    }

    /// Takes what has come; tells whether the answer is whole.
    fn read(&mut self, buffer: &mut [u8]) -> Result<bool, String> {
        let read = match rustix::io::read(&self.socket, &mut *buffer) {
            Ok(0) => return Err("a connection was closed".to_owned()),
            Ok(read) => read,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(error) => return Err(wrong(error)),
        };
        match &mut self.left {
            Some(left) => *left = left.saturating_sub(read),
            None => {
                self.head.extend_from_slice(&buffer[..read]);
                self.left = body_left(&self.head)?;
            }
        }
        Ok(self.left == Some(0))
    }
}

/// How much of the body is still to come, once the head is whole.
fn body_left(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200") {
        return Err(format!("the answer was {}", head.lines().next().unwrap_or_default()));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let length = length.ok_or("an answer has no length")?;
    Ok(Some((end + 4 + length).saturating_sub(bytes.len())))
}

fn wrong(error: Errno) -> String {
    error.to_string()
}
