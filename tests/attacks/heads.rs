//! Heads: those that never end, and those that are too much.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::crowd::{End, Gate, crowd, trickle};
use crate::field::besiege;
use crate::origin::PAGE;

const HEAD: &[u8] = b"GET / HTTP/1.1\r\nhost: shop.test\r\nx: ";

/// Every second of them has asked properly before.
#[test]
fn a_head_that_never_ends_is_answered_408_at_its_deadline() {
    const DEADLINE: Duration = Duration::from_secs(3);
    besiege("[limits]\nheader_timeout = \"3s\"\n", |field| {
        let gate = Gate::new(field.prime.address("http"));
        let ends: Vec<End> = field.withstands("4,000 slow heads", 64.0, async move {
            crowd(4000, |n| {
                let gate = gate.clone();
                async move {
                    let mut stream = gate.connect(n).await.unwrap();
                    if n.is_multiple_of(2) {
                        stream.write_all(b"GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await.unwrap();
                        until_read(&mut stream, PAGE).await;
                    }
                    trickle(stream, HEAD, Some((b'a', Duration::from_millis(250)))).await
                }
            })
            .await
        });
        for end in &ends {
            let late = DEADLINE + Duration::from_secs(3);
            assert!(end.status() == 408 && (DEADLINE..late).contains(&end.after), "{end:?}");
        }
        assert_eq!(field.refused("header_timeout"), 4000.0);
    });
}

#[test]
fn a_head_of_too_much_is_refused_before_it_is_read() {
    besiege("", |field| {
        let gate = Gate::new(field.prime.address("http"));
        let many = [&HEAD[..HEAD.len() - 3], "a: b\r\n".repeat(100_000).as_bytes()].concat();
        let long = [HEAD, &vec![b'a'; 2 << 20]].concat();
        let heads = [Arc::new(many), Arc::new(long)];
        let ends: Vec<End> = field.withstands("500 heads of 100,000 fields or 2 MB", 64.0, async move {
            crowd(500, |n| {
                let (gate, head) = (gate.clone(), heads[n % 2].clone());
                async move { trickle(gate.connect(n).await.unwrap(), &head, None).await }
            })
            .await
        });
        for end in &ends {
            assert!(matches!(end.status(), 431 | 0) && end.after < Duration::from_secs(10), "{end:?}");
        }
        let told = ends.iter().filter(|end| end.status() == 431).count();
        println!("{told} of {} were told why", ends.len());
        assert_eq!(field.refused("header_bytes"), 500.0);
    });
}

async fn until_read(stream: &mut tokio::net::TcpStream, end: &str) {
    let mut all = Vec::new();
    while !all.ends_with(end.as_bytes()) {
        let mut part = [0; 1024];
        match stream.read(&mut part).await.unwrap() {
            0 => panic!("closed after {}", String::from_utf8_lossy(&all)),
            read => all.extend_from_slice(&part[..read]),
        }
    }
}
