//! More connections than there may be: from one address, and than the process has descriptors for.

use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ::http::Request;
use http_body_util::Full;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::crowd::{Gate, crowd};
use crate::field::{Field, besiege};
use crate::frames::{Speaker, get, preface};
use crate::http;
use crate::origin::PAGE;

/// What the gateway has for everything.
const DESCRIPTORS: u64 = 256;
/// After the attackers have left.
const SOON: Duration = Duration::from_secs(1);

#[test]
fn one_address_has_its_share_of_connections_and_others_do_not_notice() {
    besiege("[limits]\nconnections_per_address = 100\n", |field| {
        let gate = Gate::new(field.prime.address("http"));
        let kept = field.withstands("1,000 connections of one address", 10.0, async move {
            let greedy = Ipv4Addr::new(127, 0, 9, 9);
            let connections = crowd(1000, |_| {
                let gate = gate.clone();
                async move { gate.connect_from(greedy, None).await.unwrap() }
            });
            let mut connections = connections.await;
            let mut kept = 0;
            for connection in &mut connections {
                kept += usize::from(!is_closed(connection).await);
            }
            kept
        });
        assert_eq!(kept, 100);
        assert_eq!(field.reached("connections_per_address"), 900.0);
    });
}

#[test]
fn without_descriptors_it_tells_that_it_is_well_and_comes_back_at_once() {
    besiege("", |field| {
        restart_with_few(field);
        let gate = Gate::new(field.prime.address("http"));
        exhaust(field, move |n| {
            let gate = gate.clone();
            async move { gate.connect(n * 50).await.unwrap() }
        });
        assert!(field.reached("descriptors") > 200.0);
    });
}

/// A connection of HTTP/2 may need a hundred more, to the app.
#[test]
fn streams_need_descriptors_too() {
    besiege("", |field| {
        restart_with_few(field);
        let speaker = Speaker::new(field.prime);
        let greedy = [preface(&[]), (0..90).flat_map(|n| get(n * 2 + 1, "/large")).collect()].concat();
        exhaust(field, move |n| {
            let (speaker, greedy) = (speaker.clone(), greedy.clone());
            async move {
                let mut stream = speaker.connect(n * 50).await?;
                stream.write_all(&greedy).await?;
                io::Result::Ok(stream)
            }
        });
        assert!(field.reached("streams_per_address") + field.reached("descriptors") > 0.0);
    });
}

/// Opens far more connections than there is room for, and lets go of them again.
fn exhaust<F, T>(field: &Field<'_>, open: impl Fn(usize) -> F + Send + 'static)
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let ((opened, is_open), (leave, left)) = (oneshot::channel(), oneshot::channel::<()>());
    let attack = field.attack(async move {
        let connections = crowd(400, open).await;
        opened.send(()).unwrap();
        left.await.unwrap();
        drop(connections);
    });
    let runtime = &field.prime.world.runtime;
    runtime.block_on(is_open).unwrap();
    for _ in 0..20 {
        let answer = operator(field);
        assert!(answer.as_ref().is_ok_and(|body| body == "ok\n"), "{answer:?}\n{}", field.prime.logs());
    }
    leave.send(()).unwrap();
    runtime.block_on(attack).unwrap();
    let since = Instant::now();
    field.prime.says("http://shop.test", PAGE);
    println!("the next answer {:?} after the attack", since.elapsed());
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
}

/// A new edge, with few descriptors.
fn restart_with_few(field: &Field<'_>) {
    field.restart(|control| {
        let few = Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
        prlimit(Pid::from_raw(i32::try_from(control).unwrap()), Resource::Nofile, few).unwrap();
    });
}

/// What the operators' listener says of the gateway's health.
fn operator(field: &Field<'_>) -> Result<String, String> {
    let address = field.prime.address("metrics");
    field.prime.world.runtime.block_on(async {
        let asking = async {
            let mut sender = http::http1(http::tcp(address).await?).await?;
            let request = Request::get("/healthz").header("host", "metrics").body(Full::default()).unwrap();
            http::send(&mut sender, request).await.map(|answer| answer.body)
        };
        timeout(SOON, asking).await.unwrap_or_else(|_| Err("no answer".to_owned()))
    })
}

/// Whether the other side has closed. What was turned away is closed before the last one of a crowd has connected.
async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    timeout(Duration::from_millis(20), stream.read(&mut byte)).await.is_ok()
}
