//! HTTP/2 as bytes: frames that no honest library would send, and how a connection takes them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::crowd::Gate;
use crate::world::Prime;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// An attacker that was not stopped by then never is.
const PATIENCE: Duration = Duration::from_secs(20);
/// Parts of a flood that are written at once, and how long the next ones wait: some 20,000 a second.
const AT_ONCE: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// One frame (RFC 9113 section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What a connection begins with; `settings` by their number.
pub fn preface(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &payload)[..]].concat()
}

/// The fields of a request for `shop.test`, as HPACK (RFC 7541).
pub fn request(method: &str, path: &str) -> Vec<u8> {
    let method = if method == "GET" { vec![0x82] } else { literal(2, method) };
    [method, vec![0x87], literal(4, path), literal(1, "shop.test")].concat()
}

/// A whole request without a body.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &request("GET", path))
}

/// A value for a name of the static table, not to be kept.
fn literal(name: u8, value: &str) -> Vec<u8> {
    [vec![name], string(value)].concat()
}

/// A field of which neither name nor value is known.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    [vec![0], string(name), string(value)].concat()
}

/// The same, to be kept: from now on the byte `KEPT` stands for it.
pub fn kept_field(name: &str, value: &str) -> Vec<u8> {
    [vec![0x40], string(name), string(value)].concat()
}
pub const KEPT: u8 = 0x80 | 62;

fn string(text: &str) -> Vec<u8> {
    let mut length = text.len();
    let mut bytes = Vec::new();
    if length < 0x7f {
        bytes.push(length as u8);
    } else {
        bytes.push(0x7f);
        length -= 0x7f;
        while length >= 0x80 {
            bytes.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
    }
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// Connects over TLS, for HTTP/2.
#[derive(Clone)]
pub struct Speaker {
    gate: Gate,
    connector: TlsConnector,
}

impl Speaker {
    pub fn new(prime: &Prime<'_>) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(prime.root().as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { gate: Gate::new(prime.address("https")), connector: Arc::new(config).into() }
    }

    pub async fn connect(&self, n: usize) -> io::Result<TlsStream<TcpStream>> {
        let tcp = self.gate.connect(n).await?;
        self.connector.connect("shop.test".try_into().unwrap(), tcp).await
    }
}

/// How a flood ended.
#[derive(Debug)]
pub struct Fate {
    pub after: Duration,
    /// The code of the GOAWAY, when there was one.
    pub code: Option<u32>,
}

/// Writes a beginning and then one part after the other, until the other side has enough.
pub async fn flood(stream: TlsStream<TcpStream>, beginning: Vec<u8>, part: impl Fn(u32) -> Vec<u8>) -> Fate {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let began = Instant::now();
    let mut parts = 0;
    let writing = async {
        let mut next = beginning;
        while write(&mut writer, &next).await {
            next = (0..AT_ONCE).flat_map(|n| part(parts + n)).collect();
            parts += AT_ONCE;
            sleep(PAUSE).await;
        }
        // What the other side said before it closed may be on its way still.
        std::future::pending::<()>().await;
    };
    let code = tokio::select! {
        () = writing => None,
        code = until_closed(&mut reader) => code,
        () = sleep_until(began + PATIENCE) => None,
    };
    Fate { after: began.elapsed(), code }
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    writer.write_all(bytes).await.is_ok() && writer.flush().await.is_ok()
}

/// Reads to the end; the code of the last GOAWAY.
pub async fn until_closed(reader: &mut (impl AsyncRead + Unpin)) -> Option<u32> {
    let mut code = None;
    read(reader, |kind, payload| {
        if kind == GOAWAY {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        true
    })
    .await;
    code
}

/// Reads until so many streams were reset, or to the end.
pub async fn until_reset(reader: &mut (impl AsyncRead + Unpin), count: u32) {
    let mut left = count;
    let reading = read(reader, |kind, _| {
        left -= u32::from(kind == RST_STREAM);
        left > 0
    });
    let _ = timeout(PATIENCE * 2, reading).await;
}

/// Shows each frame until that is enough.
async fn read(reader: &mut (impl AsyncRead + Unpin), mut show: impl FnMut(u8, &[u8]) -> bool) {
    let (mut bytes, mut part) = (Vec::new(), [0; 16 << 10]);
    while let Ok(read @ 1..) = reader.read(&mut part).await {
        bytes.extend_from_slice(&part[..read]);
        while let Some((kind, payload)) = take(&mut bytes) {
            if !show(kind, &payload) {
                return;
            }
        }
    }
}

/// The first whole frame.
fn take(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let head = bytes.get(..9)?;
    let end = 9 + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let kind = head[3];
    let payload = bytes.get(9..end)?.to_vec();
    bytes.drain(..end);
    Some((kind, payload))
}
