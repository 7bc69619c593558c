//! Answers that nobody takes, or only drop by drop.

use std::time::Duration;

use ::http::Request;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, interval, sleep};

use crate::crowd::{End, Gate, crowd, from};
use crate::field::besiege;
use crate::frames::{PING, Speaker, WINDOW_UPDATE, frame, get, preface, until_reset};
use crate::http;
use crate::origin::LARGE;

/// From the app, and from the cache.
const PATHS: [&str; 2] = ["/large", "/stored-large"];
/// By then it must be over, on a busy machine too.
const LATE: Duration = Duration::from_secs(50);
/// Streams of one connection.
const STREAMS: u32 = 100;

#[test]
fn a_reader_that_is_too_slow_is_cut() {
    besiege("[limits]\nwrite_rate = \"64KiB\"\n", |field| {
        field.prime.get("http://shop.test/stored-large");
        let gate = Gate::new(field.prime.address("http"));
        let ends = field.withstands("1,000 slow readers of 10 MB", 64.0, slow(gate, 1000));
        assert!(ends.iter().all(|end| end.after < LATE), "{ends:?}");
        assert_eq!(field.reached("write_rate"), 1000.0);
        field.prime.until("nobody waits for them", || field.prime.metric("opri_http_requests_in_flight") == 0.0);
    });
}

#[test]
fn streams_that_are_not_read_are_ended() {
    besiege("[limits]\nwrite_timeout = \"3s\"\n", |field| {
        field.prime.get("https://shop.test/stored-large");
        for path in PATHS {
            let speaker = Speaker::new(field.prime);
            let ends = field.withstands(&format!("800 streams of {path}, unread"), 100.0, unread(speaker, 8, path));
            assert!(ends.iter().all(|end| *end < LATE), "{ends:?}");
            let speaker = Speaker::new(field.prime);
            let attack = format!("800 streams of {path}, no window");
            let ends = field.withstands(&attack, 100.0, windowless(speaker, 8, path));
            assert!(ends.iter().all(|end| *end < LATE), "{ends:?}");
        }
        assert!(field.reached("write_timeout") >= 16.0);
    });
}

/// What is read almost to its end, and then no more, stays on its way into the cache.
#[test]
fn answers_that_never_become_stored_have_their_share_of_memory() {
    besiege("[limits]\nwrite_timeout = \"3s\"\n[cache]\nmemory = \"32MiB\"\nobject_max = \"16MiB\"\n", |field| {
        let gate = Gate::new(field.prime.address("http"));
        let ends = field.withstands("100 readers of 9 of 10 MB, to be stored", 64.0, almost(gate, 100));
        assert!(ends.iter().all(|end| *end < LATE), "{ends:?}");
    });
}

/// Twice as quick as it must be, over every way: it takes far longer than a single wait, and than what is granted at first.
#[test]
fn a_reader_that_goes_on_gets_all() {
    besiege("[limits]\nwrite_timeout = \"2s\"\nwrite_rate = \"256KiB\"\n", |field| {
        let (gate, speaker) = (Gate::new(field.prime.address("http")), Speaker::new(field.prime));
        let (secure, root) = (Gate::new(field.prime.address("https")), field.prime.root());
        let reading = field.attack(async move {
            crowd(6, |n| {
                let (gate, secure, speaker, path) = (gate.clone(), secure.clone(), speaker.clone(), PATHS[n % 2]);
                let root = root.clone();
                async move {
                    match n / 2 {
                        0 => read_on(gate.connect_from(from(0), Some(64 << 10)).await.unwrap(), path).await,
                        1 => {
                            let tcp = secure.connect_from(from(0), Some(64 << 10)).await.unwrap();
                            read_on(http::tls_over(tcp, "shop.test", &root, "http/1.1").await.unwrap(), path).await
                        }
                        _ => read_on_by_http2(speaker, path).await,
                    }
                }
            })
            .await
        });
        for (length, took) in field.prime.world.runtime.block_on(reading).unwrap() {
            assert!(length >= LARGE && took > Duration::from_secs(12), "{length} bytes in {took:?}");
        }
        assert_eq!(field.reached("write_rate") + field.reached("write_timeout"), 0.0);
    });
}

/// A drop every half second, into a small bucket. Every second of them asks the app, the others the cache.
pub async fn slow(gate: Gate, count: usize) -> Vec<End> {
    crowd(count, |n| {
        let gate = gate.clone();
        async move {
            let mut stream = gate.connect_from(from(n), Some(4096)).await.unwrap();
            let asking = format!("GET {} HTTP/1.1\r\nhost: shop.test\r\n\r\n", PATHS[n % 2]);
            stream.write_all(asking.as_bytes()).await.unwrap();
            let began = Instant::now();
            let mut drop = [0; 1024];
            while let Ok(1..) = stream.read(&mut drop).await {
                sleep(Duration::from_millis(500)).await;
            }
            End { after: began.elapsed(), answer: Vec::new() }
        }
    })
    .await
}

/// Reads nine tenths of an answer that nobody has asked for, and waits. How long until each was closed.
pub async fn almost(gate: Gate, count: usize) -> Vec<Duration> {
    crowd(count, |n| {
        let gate = gate.clone();
        async move {
            let mut stream = gate.connect_from(from(n), Some(64 << 10)).await.unwrap();
            let asking = format!("GET /stored-large?{n} HTTP/1.1\r\nhost: shop.test\r\n\r\n");
            stream.write_all(asking.as_bytes()).await.unwrap();
            stream.read_exact(&mut vec![0; LARGE / 10 * 9]).await.unwrap();
            let began = Instant::now();
            // Whoever does not read learns of the end by writing; what is written is the beginning of another request.
            let mut every = interval(Duration::from_millis(200));
            while stream.write_all(b"G").await.is_ok() {
                every.tick().await;
            }
            began.elapsed()
        }
    })
    .await
}

/// With windows as large as can be; nothing is read. How long until each connection was closed.
pub async fn unread(speaker: Speaker, count: usize, path: &'static str) -> Vec<Duration> {
    crowd(count, |n| {
        let speaker = speaker.clone();
        async move {
            let mut stream = speaker.connect(n).await.unwrap();
            let began = Instant::now();
            let window = frame(WINDOW_UPDATE, 0, 0, &0x7000_0000u32.to_be_bytes());
            let asking: Vec<u8> = (0..STREAMS).flat_map(|n| get(n * 2 + 1, path)).collect();
            stream.write_all(&[preface(&[(4, 0x7fff_ffff)]), window, asking].concat()).await.unwrap();
            // Whoever does not read learns of the end by writing.
            let (mut every, ping) = (interval(Duration::from_millis(200)), frame(PING, 0, 0, &[0; 8]));
            while stream.write_all(&ping).await.is_ok() && stream.flush().await.is_ok() {
                every.tick().await;
            }
            began.elapsed()
        }
    })
    .await
}

/// Without a window for any answer. How long until all streams of each connection were ended.
pub async fn windowless(speaker: Speaker, count: usize, path: &'static str) -> Vec<Duration> {
    crowd(count, |n| {
        let speaker = speaker.clone();
        async move {
            let mut stream = speaker.connect(n).await.unwrap();
            let began = Instant::now();
            let asking: Vec<u8> = (0..STREAMS).flat_map(|n| get(n * 2 + 1, path)).collect();
            stream.write_all(&[preface(&[(4, 0)]), asking].concat()).await.unwrap();
            stream.flush().await.unwrap();
            until_reset(&mut stream, STREAMS).await;
            began.elapsed()
        }
    })
    .await
}

/// What a reader that goes on takes, and how often: half a megabyte a second.
const PART: usize = 64 << 10;
const PAUSE: Duration = Duration::from_millis(125);

/// How much there was, and how long it took.
async fn read_on(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> (usize, Duration) {
    let asking = format!("GET {path} HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\r\n");
    stream.write_all(asking.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let (began, mut length) = (Instant::now(), 0);
    let mut part = Vec::with_capacity(PART);
    let mut every = interval(PAUSE);
    loop {
        part.clear();
        let read = (&mut stream).take(PART as u64).read_to_end(&mut part).await.unwrap();
        length += read;
        if read < PART {
            return (length, began.elapsed());
        }
        every.tick().await;
    }
}

async fn read_on_by_http2(speaker: Speaker, path: &str) -> (usize, Duration) {
    let stream = TokioIo::new(speaker.connect(0).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get(format!("https://shop.test{path}")).body(Empty::<Bytes>::new()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let (began, mut length, mut taken) = (Instant::now(), 0, 0);
    let mut every = interval(PAUSE);
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().into_data().map_or(0, |data| data.len());
        while length - taken > PART {
            taken += PART;
            every.tick().await;
        }
    }
    (length, began.elapsed())
}
