//! Heads: those that never end, and those that are too much.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::crowd::{End, Gate, crowd, trickle};
use crate::field::besiege;
use crate::origin::PAGE;

const ASKING: &str = "GET / HTTP/1.1\r\nhost: shop.test\r\n";

#[test]
fn a_head_that_never_ends_is_answered_408_at_its_deadline() {
    const DEADLINE: Duration = Duration::from_secs(3);
    besiege("[limits]\nheader_timeout = \"3s\"\n", |field| {
        let gate = Gate::new(field.prime.address("http"));
        let ends = field.withstands("4,000 slow heads", 64.0, endless(gate, 4000));
        for end in &ends {
            let late = DEADLINE + Duration::from_secs(5);
            assert!(end.status() == 408 && (DEADLINE..late).contains(&end.after), "{end:?}");
        }
        assert_eq!(field.refused("header_timeout"), 4000.0);
    });
}

#[test]
fn a_head_of_too_much_is_refused_before_it_is_read() {
    besiege("", |field| {
        let gate = Gate::new(field.prime.address("http"));
        let ends = field.withstands("500 heads of 100,000 fields or 2 MB", 64.0, overfull(gate, 500));
        for end in &ends {
            // A client that goes on sending may not come to read why.
            assert!(matches!(end.status(), 431 | 0) && end.after < Duration::from_secs(10), "{end:?}");
        }
        assert_eq!(field.refused("header_bytes"), 500.0);
    });
}

/// A byte from time to time. Every second of them has asked properly before.
pub async fn endless(gate: Gate, count: usize) -> Vec<End> {
    crowd(count, |n| {
        let gate = gate.clone();
        async move {
            let mut stream = gate.connect(n).await.unwrap();
            if n.is_multiple_of(2) {
                stream.write_all(format!("{ASKING}\r\n").as_bytes()).await.unwrap();
                until_read(&mut stream, PAGE).await;
            }
            let beginning = format!("{ASKING}x: ");
            trickle(stream, beginning.as_bytes(), Some((b"a", Duration::from_millis(250)))).await
        }
    })
    .await
}

/// Everything at once, in many fields or in one.
pub async fn overfull(gate: Gate, count: usize) -> Vec<End> {
    let many = format!("{ASKING}{}", "a: b\r\n".repeat(100_000));
    let long = format!("{ASKING}x: {}", "a".repeat(2 << 20));
    let heads = [Arc::new(many), Arc::new(long)];
    crowd(count, |n| {
        let (gate, head) = (gate.clone(), heads[n % 2].clone());
        async move { trickle(gate.connect(n).await.unwrap(), head.as_bytes(), None).await }
    })
    .await
}

async fn until_read(stream: &mut TcpStream, end: &str) {
    let mut all = Vec::new();
    while !all.ends_with(end.as_bytes()) {
        let mut part = [0; 1024];
        match stream.read(&mut part).await.unwrap() {
            0 => panic!("closed after {}", String::from_utf8_lossy(&all)),
            read => all.extend_from_slice(&part[..read]),
        }
    }
}
