//! Load over replicas, some of which are not well.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::world::{Visitor, World, eventually, limits, route, to};
use crate::link::{Unwell, Up};
use crate::model::address::Address;
use crate::model::route::UpstreamId;
use crate::model::snapshot::{Health, Upstream};

const DRAIN: Duration = Duration::from_secs(20);
/// A status that is none: it takes what comes and says nothing.
const SILENT: u16 = 0;

/// An app that answers everything with one status, which can be changed.
struct Patient {
    address: Address,
    status: Arc<AtomicU16>,
    /// But health checks.
    requests: Arc<AtomicU64>,
}

impl Patient {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let (status, requests) = (Arc::new(AtomicU16::new(200)), Arc::new(AtomicU64::new(0)));
        let (said, counter) = (status.clone(), requests.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, said.clone(), counter.clone()));
            }
        });
        Self { address, status, requests }
    }

    fn is(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn asked(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn talk(mut stream: TcpStream, status: Arc<AtomicU16>, requests: Arc<AtomicU64>) {
    let mut bytes = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        if !bytes.ends_with(b"\r\n\r\n") {
            continue;
        }
        let status = status.load(Ordering::SeqCst);
        // Health checks are for a path of their own.
        let is_visitor = !bytes.starts_with(b"GET /up");
        requests.fetch_add(is_visitor.into(), Ordering::SeqCst);
        let status = if is_visitor && status != SILENT { 200 } else { status };
        if status != SILENT {
            let answer = format!("HTTP/1.1 {status} Said\r\nContent-Length: 2\r\n\r\nok");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        bytes.clear();
    }
}

fn upstream(replicas: &[Address], is_watched: bool) -> Upstream {
    let health = Health {
        path: "/up".to_owned(),
        status: (200, 399),
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(1),
        host: "shop.test".to_owned(),
    };
    let (id, replicas) = (UpstreamId("shop#1".to_owned()), replicas.to_vec());
    Upstream {
        id,
        replicas,
        protocol: Default::default(),
        drain: DRAIN,
        drain_long: DRAIN,
        health: is_watched.then_some(health),
    }
}

async fn serve(world: &mut World, upstream: Upstream) {
    world.route(vec![route("shop.test", "/", to("shop#1"))], vec![upstream]).await;
}

/// Hears until these are the ones that are unwell.
async fn until_unwell(world: &mut World, addresses: &[&Address]) {
    let is_it = |up: &Up| matches!(up, Up::Unwell { replicas } if names(replicas) == addresses);
    world.hear_until(is_it).await;
}

fn names(replicas: &[Unwell]) -> Vec<&Address> {
    replicas.iter().map(|unwell| &unwell.address).collect()
}

async fn metric(world: &World, line: &str) -> Option<()> {
    let mut operator = Visitor::new(world.metrics).await;
    operator.send("GET /metrics HTTP/1.1\r\nHost: m\r\n\r\n").await;
    operator.answer().await.body.lines().any(|one| one == line).then_some(())
}

const UP: &str = "opri_upstream_up{branch=\"master\",project=\"shop\"} 1";
const DOWN: &str = "opri_upstream_up{branch=\"master\",project=\"shop\"} 0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sick_replica_has_no_visitors_until_it_is_well() {
    let (mut world, sick, well) = (World::start().await, Patient::new().await, Patient::new().await);
    serve(&mut world, upstream(&[sick.address.clone(), well.address.clone()], true)).await;
    for status in [503, SILENT] {
        sick.is(status);
        until_unwell(&mut world, &[&sick.address]).await;
        let before = (sick.asked(), well.asked());
        for _ in 0..50 {
            assert_eq!(world.get("shop.test", "/").await.status, 200);
        }
        assert_eq!((sick.asked(), well.asked()), (before.0, before.1 + 50));
        assert!(metric(&world, UP).await.is_some(), "the other one is up");
        sick.is(200);
        until_unwell(&mut world, &[]).await;
        eventually(async || {
            assert_eq!(world.get("shop.test", "/").await.status, 200);
            (sick.asked() > before.0).then_some(())
        })
        .await;
    }
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_are_sick_visitors_are_answered_all_the_same() {
    let (mut world, only) = (World::start().await, Patient::new().await);
    serve(&mut world, upstream(std::slice::from_ref(&only.address), true)).await;
    only.is(500);
    until_unwell(&mut world, &[&only.address]).await;
    assert_eq!(world.get("shop.test", "/").await.status, 200);
    assert!(metric(&world, DOWN).await.is_some());
    // Asked no more, it is not held against it.
    serve(&mut world, upstream(std::slice::from_ref(&only.address), false)).await;
    eventually(async || metric(&world, UP).await).await;
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_taken_out_is_forgotten_before_that_is_said() {
    let (mut world, sick, other) = (World::start().await, Patient::new().await, Patient::new().await);
    serve(&mut world, upstream(&[sick.address.clone(), other.address.clone()], true)).await;
    sick.is(500);
    until_unwell(&mut world, &[&sick.address]).await;
    assert!(world.replace_control().await);
    until_unwell(&mut world, &[&sick.address]).await;
    world.say_routing(vec![route("shop.test", "/", to("shop#1"))], vec![upstream(&[other.address], true)]).await;
    let first = world.hear_until(|up| matches!(up, Up::Unwell { .. } | Up::Applied { .. })).await;
    assert_eq!(first, Up::Unwell { replicas: Vec::new() });
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_hangs_fails_few_and_is_left_alone_then() {
    let settings = limits(|limits| limits.upstream_timeout = Duration::from_millis(500));
    let (mut world, hung, well) = (World::with(settings).await, Patient::new().await, Patient::new().await);
    serve(&mut world, upstream(&[hung.address.clone(), well.address.clone()], false)).await;
    hung.is(SILENT);
    let mut slow = 0;
    eventually(async || {
        slow += u32::from(world.get("shop.test", "/").await.status == 504);
        metric(&world, "opri_edge_ejections_total{branch=\"master\",project=\"shop\"} 1").await
    })
    .await;
    assert_eq!(slow, 3);
    hung.is(200);
    let before = hung.asked();
    // Once its second is over, one request tries it, and then it has its share again.
    eventually(async || {
        assert_eq!(world.get("shop.test", "/").await.status, 200);
        (hung.asked() > before + 3).then_some(())
    })
    .await;
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_sends_slowly_is_not_held_against_an_app() {
    let settings = limits(|limits| limits.upstream_timeout = Duration::from_millis(50));
    let (mut world, one, other) = (World::with(settings).await, Patient::new().await, Patient::new().await);
    serve(&mut world, upstream(&[one.address.clone(), other.address.clone()], false)).await;
    one.is(SILENT);
    other.is(SILENT);
    for _ in 0..10 {
        let post = "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 10\r\n\r\nhalf";
        assert_eq!(world.ask(post).await.status, 504);
    }
    assert!(metric(&world, "opri_edge_ejections_total{branch=\"master\",project=\"shop\"} 0").await.is_some());
    assert!(metric(&world, UP).await.is_some());
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_listens_nobody_is_sent_and_nothing_is_lost() {
    let (mut world, well) = (World::start().await, Patient::new().await);
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = Address::Tcp(gone);
    serve(&mut world, upstream(&[gone.clone(), well.address.clone()], false)).await;
    for number in 0..200 {
        let request = match number % 2 {
            0 => "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n",
            _ => "POST / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        };
        assert_eq!(world.ask(request).await.status, 200);
    }
    assert_eq!(well.asked(), 200);
    serve(&mut world, upstream(&[gone], false)).await;
    for _ in 0..5 {
        assert_eq!(world.get("shop.test", "/").await.status, 503);
    }
    assert!(metric(&world, DOWN).await.is_some());
    world.stop(DRAIN).await;
}
