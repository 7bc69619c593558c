//! What was begun with the release before goes on, for as long as conf lets it.

use crate::long_lived::{Download, EventStream, WebSocket};
use crate::world::{Prime, Repo, World};

/// WebSockets, event streams and downloads: a few, or 200, 200 and 20 where `OPRI_LONG` is set.
fn counts() -> (usize, usize, usize) {
    if std::env::var_os("OPRI_LONG").is_some() { (200, 200, 20) } else { (8, 8, 3) }
}

fn begin<'w>(world: &'w World, app: &str) -> (Prime<'w>, Repo) {
    let shop = world.repo("shop");
    shop.commit("page 1");
    // All of them come from one address.
    let machine = "[limits]\nconnections_per_address = 1000\n";
    let prime = world.prime().hosting(&shop, &format!("[app]\n{app}\n")).with(machine).start();
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "page 1");
    (prime, shop)
}

fn deploy(prime: &Prime<'_>, shop: &Repo, page: &str) {
    shop.commit(page);
    prime.deploys(shop, "master");
    prime.says("http://shop.test", page);
}

#[test]
fn answers_that_have_begun_go_on_across_swaps_and_another_control() {
    let world = World::new();
    let (prime, shop) = begin(&world, "drain = \"100ms\"");
    let (sockets, streams, downloads) = counts();
    let mut sockets: Vec<_> = (0..sockets).map(|_| WebSocket::open(&prime, "shop.test")).collect();
    let streams: Vec<_> = (0..streams).map(|_| EventStream::open(&prime, "shop.test")).collect();
    let downloads: Vec<_> = (0..downloads).map(|_| Download::open(&prime, "shop.test")).collect();
    prime.until("all streams have begun", || streams.iter().all(|stream| stream.count() > 0));

    deploy(&prime, &shop, "page 2");
    // By then the ordinary drain is over.
    prime.until("the deployment is over", || prime.metric("opri_deployments_total") >= 2.0);
    deploy(&prime, &shop, "page 3");
    prime.kill_control();
    prime.start();
    prime.says("http://shop.test", "page 3");

    let counted: Vec<_> = streams.iter().map(EventStream::count).collect();
    prime.until("all streams go on", || {
        streams.iter().zip(&counted).all(|(stream, counted)| stream.count() > counted + 5 && !stream.is_over())
    });
    for socket in &mut sockets {
        assert_eq!(socket.echoes("hello"), "hello");
    }
    for download in downloads {
        assert_eq!(download.finish(&prime), Ok(16 << 20));
    }
    assert!(prime.app_pids().len() >= 2, "the first release runs for them");
    drop(sockets);
    streams.into_iter().for_each(EventStream::close);
    prime.until("one app is left", || prime.app_pids().len() == 1);
}

#[test]
fn what_takes_longer_than_the_long_drain_is_ended_in_the_apps_own_words() {
    let world = World::new();
    let (prime, shop) = begin(&world, "drain = \"100ms\"\ndrain_long = \"1s\"");
    let mut socket = WebSocket::open(&prime, "shop.test");
    let stream = EventStream::open(&prime, "shop.test");
    prime.until("the stream has begun", || stream.count() > 0);
    deploy(&prime, &shop, "page 2");
    assert_eq!(stream.end(&prime), Ok("data: goodbye\n\n".to_owned()));
    socket.is_ended();
    prime.until("one app is left", || prime.app_pids().len() == 1);
}

#[test]
fn whoever_waits_for_an_answer_has_the_ordinary_drain_alone() {
    let world = World::new();
    let (prime, shop) = begin(&world, "drain = \"300ms\"");
    let slow = prime.begin("shop.test", "/slow?ms=60000");
    prime.until("the slow request is in flight", || prime.metric("opri_http_requests_in_flight") >= 1.0);
    deploy(&prime, &shop, "page 2");
    assert_eq!(prime.answer(slow).status, ::http::StatusCode::GATEWAY_TIMEOUT);
    prime.until("one app is left", || prime.app_pids().len() == 1);
}

#[test]
fn the_oldest_release_gives_way_when_too_many_drain() {
    let world = World::new();
    let (prime, shop) = begin(&world, "drain = \"100ms\"\ndrain_max = 1");
    let mut first = WebSocket::open(&prime, "shop.test");
    deploy(&prime, &shop, "page 2");
    assert_eq!(first.echoes("hello"), "hello");
    let mut second = WebSocket::open(&prime, "shop.test");
    deploy(&prime, &shop, "page 3");
    first.is_ended();
    assert_eq!(second.echoes("hello"), "hello");
}

#[test]
fn a_rollback_to_a_release_that_drains_cuts_nobody() {
    let world = World::new();
    let (prime, shop) = begin(&world, "drain = \"100ms\"");
    let mut socket = WebSocket::open(&prime, "shop.test");
    deploy(&prime, &shop, "page 2");
    prime.does(&["rollback", "shop"]);
    prime.says("http://shop.test", "page 1");
    // By then every ordinary drain is over.
    prime.until("all deployments are over", || prime.metric("opri_deployments_total") >= 3.0);
    // The app that drains serves again, and goes on with whom it answers.
    prime.until("the second release is stopped", || prime.app_pids().len() == 1);
    assert_eq!(socket.echoes("hello"), "hello");
    drop(socket);
    deploy(&prime, &shop, "page 3");
    prime.until("one app is left", || prime.app_pids().len() == 1);
}
