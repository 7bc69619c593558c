//! The app behind every gateway: answers from memory, on TCP and on a Unix socket, as cheaply as one thread can.
//!
//! Paths say what is wanted: `/hit/…` may be stored, `/pass/…` may not, `…/1k` and `…/100k` are the sizes. It counts what
//! it was asked, which shows whether a gateway answered by itself.

use std::fs::Permissions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

const BUFFER: usize = 16 * 1024;
const TCP: u64 = u64::MAX;
const UNIX: u64 = u64::MAX - 1;

pub struct Origin {
    pub address: SocketAddr,
    pub socket: PathBuf,
    served: Arc<AtomicU64>,
}

impl Origin {
    /// Starts it on this thread's core; it ends with the process.
    pub fn start(directory: &Path) -> Self {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = directory.join("origin");
        let unix = UnixListener::bind(&socket).unwrap();
        // Peers that were started by root work as somebody else.
        std::fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
        let (address, served) = (tcp.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
        let serving = Serving::new(tcp, unix, served.clone());
        std::thread::spawn(move || serving.run());
        Self { address, socket, served }
    }

    /// How many requests it has answered.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

struct Serving {
    epoll: OwnedFd,
    tcp: TcpListener,
    unix: UnixListener,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    answers: [(&'static [u8], Vec<u8>); 4],
    served: Arc<AtomicU64>,
}

struct Connection {
    socket: OwnedFd,
    /// The beginning of a head that has not come whole.
    begun: Vec<u8>,
    unsent: Vec<u8>,
}

impl Serving {
    fn new(tcp: TcpListener, unix: UnixListener, served: Arc<AtomicU64>) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        tcp.set_nonblocking(true).unwrap();
        unix.set_nonblocking(true).unwrap();
        epoll::add(&epoll, &tcp, EventData::new_u64(TCP), EventFlags::IN).unwrap();
        epoll::add(&epoll, &unix, EventData::new_u64(UNIX), EventFlags::IN).unwrap();
        let answers = [
            (b"GET /hit/1k".as_slice(), answer("public, max-age=86400", 1024)),
            (b"GET /hit/100k".as_slice(), answer("public, max-age=86400", 100 * 1024)),
            (b"GET /pass/1k".as_slice(), answer("no-store", 1024)),
            (b"GET /pass/100k".as_slice(), answer("no-store", 100 * 1024)),
        ];
        Self { epoll, tcp, unix, connections: Vec::new(), free: Vec::new(), answers, served }
    }

    fn run(mut self) {
        let mut events = Vec::with_capacity(256);
        let mut buffer = vec![0; BUFFER];
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => (),
                Err(error) => panic!("the origin cannot wait: {error}"),
            }
            for event in &events {
                match event.data.u64() {
                    TCP => self.accept_tcp(),
                    UNIX => self.accept_unix(),
                    at => self.turn(at as usize, event.flags, &mut buffer),
                }
            }
        }
    }

    fn accept_tcp(&mut self) {
        while let Ok((stream, _)) = self.tcp.accept() {
            stream.set_nodelay(true).unwrap();
            stream.set_nonblocking(true).unwrap();
            self.keep(stream.into());
        }
    }

    fn accept_unix(&mut self) {
        while let Ok((stream, _)) = self.unix.accept() {
            stream.set_nonblocking(true).unwrap();
            self.keep(stream.into());
        }
    }

    fn keep(&mut self, socket: OwnedFd) {
        let at = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        epoll::add(&self.epoll, &socket, EventData::new_u64(at as u64), EventFlags::IN).unwrap();
        self.connections[at] = Some(Connection { socket, begun: Vec::new(), unsent: Vec::new() });
    }

    /// Does what a connection is ready for, and forgets it when it is over.
    fn turn(&mut self, at: usize, flags: EventFlags, buffer: &mut [u8]) {
        let Some(mut connection) = self.connections[at].take() else { return };
        let had_unsent = !connection.unsent.is_empty();
        let lives = match flags.contains(EventFlags::OUT) {
            true => connection.send_rest(),
            false => self.read(&mut connection, buffer),
        };
        let has_unsent = !connection.unsent.is_empty();
        if lives && had_unsent != has_unsent {
            let wanted = if has_unsent { EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(&self.epoll, &connection.socket, EventData::new_u64(at as u64), wanted).unwrap();
        }
        match lives {
            true => self.connections[at] = Some(connection),
            false => self.free.push(at),
        }
    }

    fn read(&self, connection: &mut Connection, buffer: &mut [u8]) -> bool {
        let read = match rustix::io::read(&connection.socket, &mut *buffer) {
            Ok(0) => return false,
            Ok(read) => read,
            Err(Errno::AGAIN | Errno::INTR) => return true,
            Err(_) => return false,
        };
        if connection.begun.is_empty() {
            let rest = self.answer_all(connection, &buffer[..read]);
            return rest.map(|rest| connection.begun.extend_from_slice(rest)).is_some();
        }
        let mut begun = std::mem::take(&mut connection.begun);
        begun.extend_from_slice(&buffer[..read]);
        let rest = self.answer_all(connection, &begun).map(<[u8]>::to_vec);
        rest.map(|rest| connection.begun = rest).is_some()
    }

    /// Answers each whole head; gives back what is left, or nothing when the connection is to be closed.
    fn answer_all<'b>(&self, connection: &mut Connection, mut bytes: &'b [u8]) -> Option<&'b [u8]> {
        while let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = &bytes[..end + 4];
            bytes = &bytes[end + 4..];
            let (_, answer) = self.answers.iter().find(|(wish, _)| head.starts_with(wish))?;
            self.served.fetch_add(1, Ordering::Relaxed);
            if !connection.send(answer) {
                return None;
            }
        }
        Some(bytes)
    }
}

impl Connection {
    fn send(&mut self, bytes: &[u8]) -> bool {
        let mut sent = 0;
        while self.unsent.is_empty() && sent < bytes.len() {
            match rustix::io::write(&self.socket, &bytes[sent..]) {
                Ok(more) => sent += more,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => (),
                Err(_) => return false,
            }
        }
        self.unsent.extend_from_slice(&bytes[sent..]);
        true
    }

    fn send_rest(&mut self) -> bool {
        let unsent = std::mem::take(&mut self.unsent);
        self.send(&unsent)
    }
}

fn answer(cache_control: &str, size: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: {}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {size}\r\n\
         Cache-Control: {cache_control}\r\nETag: \"{size:x}-5f3c1a\"\r\n\r\n",
        httpdate::fmt_http_date(std::time::SystemTime::now())
    );
    let mut answer = head.into_bytes();
    answer.extend((0..size).map(|at| b"<p>All that is asked for.</p>\n"[at % 30]));
    answer
}
