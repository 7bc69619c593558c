use std::time::Duration;

use super::world::{App, World, eventually, limits, route, to, upstream};
use crate::link::{Down, Purge, PurgeScope, Up};

const DRAIN: Duration = Duration::from_secs(5);

async fn world() -> (World, App) {
    let (mut world, app) = (World::start().await, App::on_tcp("one").await);
    world.route(vec![route("shop.test", "/", to("shop#1"))], vec![upstream("shop#1", &[&app], DRAIN)]).await;
    (world, app)
}

async fn status(world: &World, target: &str) -> String {
    world.get("shop.test", target).await.field("cache-status").unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_answer_is_stored_and_a_swap_forgets_it() {
    let (mut world, app) = world().await;
    assert_eq!(status(&world, "/cached").await, "opri; fwd=miss; stored");
    let hit = world.get("shop.test", "/cached").await;
    assert!(hit.field("cache-status").unwrap().starts_with("opri; hit; ttl="), "{}", hit.head);
    assert_eq!((hit.body.as_str(), hit.field("age").is_some(), app.asked()), ("one", true, 1));
    let mut visitor = super::world::Visitor::new(world.http).await;
    visitor
        .send("HEAD /cached HTTP/1.1\r\nHost: shop.test\r\n\r\nGET /cached HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        .await;
    let head = visitor.head().await;
    assert!(head.contains("opri; hit") && head.to_lowercase().contains("content-length: 3"), "{head}");
    assert_eq!(visitor.answer().await.body, "one");
    let conditional = "GET /cached HTTP/1.1\r\nHost: shop.test\r\nIf-None-Match: \"e1\"\r\n\r\n";
    let unchanged = world.ask(conditional).await;
    assert_eq!((unchanged.status, unchanged.field("etag").as_deref(), app.asked()), (304, Some("\"e1\""), 1));
    let new = App::on_socket("two").await;
    world.route(vec![route("shop.test", "/", to("shop#2"))], vec![upstream("shop#2", &[&new], DRAIN)]).await;
    assert_eq!(world.get("shop.test", "/cached").await.body, "two");
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_personal_or_cut_off_is_not_stored() {
    let (world, app) = world().await;
    for _ in 0..2 {
        assert_eq!(status(&world, "/private").await, "opri; fwd=miss");
        assert_eq!(status(&world, "/").await, "opri; fwd=miss");
    }
    assert_eq!(app.asked(), 4);
    let mut visitor = super::world::Visitor::new(world.http).await;
    visitor.send("GET /truncated HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert!(visitor.try_answer().await.is_none());
    let mut visitor = super::world::Visitor::new(world.http).await;
    visitor.send("GET /truncated HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert!(visitor.try_answer().await.is_none());
    assert_eq!(app.asked(), 6);
    let personal = "GET /cached HTTP/1.1\r\nHost: shop.test\r\nAuthorization: x\r\nConnection: close\r\n\r\n";
    assert_eq!(world.ask(personal).await.field("cache-status").as_deref(), Some("opri; fwd=miss"));
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_stand_in_for_errors_does_when_nobody_can_be_asked() {
    let (mut world, _app) = world().await;
    assert_eq!(status(&world, "/spare").await, "opri; fwd=miss; stored");
    world.route(vec![route("shop.test", "/", to("shop#1"))], vec![upstream("shop#1", &[], DRAIN)]).await;
    let spare = world.get("shop.test", "/spare").await;
    assert_eq!((spare.status, spare.body.as_str()), (200, "one"), "{}", spare.head);
    let said = spare.field("cache-status").unwrap();
    assert!(said.starts_with("opri; hit; ttl=") && said.ends_with("; detail=stale-if-error"), "{said}");
    assert_eq!(world.get("shop.test", "/cached").await.status, 503);
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purge_is_over_when_it_is_answered() {
    let (mut world, _app) = world().await;
    let scopes = [PurgeScope::All, PurgeScope::Url("/cached?a".to_owned()), PurgeScope::Prefix("/cach".to_owned())];
    for (token, scope) in (1..).zip(scopes) {
        assert_eq!(status(&world, "/cached?a").await, "opri; fwd=miss; stored");
        assert!(status(&world, "/cached?a").await.starts_with("opri; hit"));
        let purge = Purge { project: "shop".parse().unwrap(), branch: None, scope, is_soft: false };
        world.say(Down::Purge { token, purge }).await;
        let purged = world.hear_until(|up| matches!(up, Up::Purged { .. })).await;
        assert_eq!(purged, Up::Purged { token });
    }
    // A write makes its page unreachable as well (RFC 9111 section 4.4).
    assert_eq!(status(&world, "/cached").await, "opri; fwd=miss; stored");
    let post = "POST /cached HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(world.ask(post).await.field("cache-status").as_deref(), Some("opri; fwd=method"));
    assert_eq!(status(&world, "/cached").await, "opri; fwd=miss; stored");
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_are_shown_with_controls_own() {
    let (world, _app) = world().await;
    world.get("shop.test", "/cached").await;
    world.get("evil\".test", "/").await;
    world.get("unknown.test", "/").await;
    let mut operator = super::world::Visitor::new(world.metrics).await;
    let lines = [
        "opri_http_requests_total{branch=\"master\",code=\"200\",method=\"GET\",project=\"shop\"} 1",
        "opri_http_requests_total{branch=\"\",code=\"404\",method=\"GET\",project=\"_unknown\"} 1",
        "opri_cache_requests_total{project=\"shop\",status=\"miss\"} 1",
        "opri_upstream_up{branch=\"master\",project=\"shop\"} 1",
        "opri_http_requests_in_flight 0",
    ];
    // A request is counted when it is over, a moment after its answer was read.
    eventually(async || {
        operator.send("GET /metrics HTTP/1.1\r\nHost: m\r\n\r\n").await;
        let text = operator.answer().await.body;
        lines.iter().all(|line| text.contains(line)).then_some(())
    })
    .await;
    for path in ["/healthz", "/readyz"] {
        operator.send(&format!("GET {path} HTTP/1.1\r\nHost: m\r\n\r\n")).await;
        assert_eq!(operator.answer().await.status, 200);
    }
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_ready_before_there_are_routes() {
    let world = World::with(limits(|_| {})).await;
    let mut operator = super::world::Visitor::new(world.metrics).await;
    operator.send("GET /readyz HTTP/1.1\r\nHost: m\r\n\r\n").await;
    assert_eq!(operator.answer().await.status, 503);
    world.stop(DRAIN).await;
}
