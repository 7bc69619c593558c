//! Bodies that come drop by drop.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, interval};

use crate::crowd::{End, Gate, crowd, trickle};
use crate::field::besiege;
use crate::frames::{DATA, END_HEADERS, HEADERS, Speaker, frame, preface, request, until_reset};

/// What every body has, whatever it brings (`edge/pace.rs`).
const GRACE: Duration = Duration::from_secs(10);
/// By then it must be over, on a busy machine too.
const LATE: Duration = Duration::from_secs(50);
const STREAMS: u32 = 5;

#[test]
fn a_body_that_comes_too_slowly_is_answered_408() {
    besiege("", |field| {
        let gate = Gate::new(field.prime.address("http"));
        let ends = field.withstands("1,000 slow bodies", 100.0, slow(gate, 1000));
        for end in &ends {
            assert!(end.status() == 408 && (GRACE..LATE).contains(&end.after), "{end:?}");
        }
        assert_eq!(field.reached("body_rate"), 1000.0);
    });
}

#[test]
fn a_slow_body_over_http2_ends_with_its_stream() {
    besiege("", |field| {
        let speaker = Speaker::new(field.prime);
        let ends = field.withstands("100 slow bodies over HTTP/2", 50.0, slow_streams(speaker, 20));
        for end in &ends {
            assert!(*end < LATE, "{end:?}");
        }
        assert_eq!(field.reached("body_rate"), 100.0);
    });
}

/// Of a length that is announced, or in chunks.
pub async fn slow(gate: Gate, count: usize) -> Vec<End> {
    crowd(count, |n| {
        let gate = gate.clone();
        async move {
            let (framing, drop) = match n % 2 {
                0 => ("content-length: 1000000", &b"a"[..]),
                _ => ("transfer-encoding: chunked", &b"1\r\na\r\n"[..]),
            };
            let head = format!("POST /sink HTTP/1.1\r\nhost: shop.test\r\n{framing}\r\n\r\n");
            trickle(gate.connect(n).await.unwrap(), head.as_bytes(), Some((drop, Duration::from_millis(500)))).await
        }
    })
    .await
}

/// Some on each of so many connections; how long until all of one were ended.
pub async fn slow_streams(speaker: Speaker, count: usize) -> Vec<Duration> {
    crowd(count, |n| {
        let speaker = speaker.clone();
        async move {
            let (mut reader, mut writer) = tokio::io::split(speaker.connect(n).await.unwrap());
            let each = |part: fn(u32) -> Vec<u8>| (0..STREAMS).flat_map(|n| part(n * 2 + 1)).collect::<Vec<u8>>();
            let began = Instant::now();
            let begin = each(|stream| frame(HEADERS, END_HEADERS, stream, &request("POST", "/sink")));
            writer.write_all(&[preface(&[]), begin].concat()).await.unwrap();
            let sending = async {
                let mut every = interval(Duration::from_millis(500));
                let drops = each(|stream| frame(DATA, 0, stream, b"a"));
                while writer.write_all(&drops).await.is_ok() && writer.flush().await.is_ok() {
                    every.tick().await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = sending => {}
                () = until_reset(&mut reader, STREAMS) => {}
            }
            began.elapsed()
        }
    })
    .await
}
