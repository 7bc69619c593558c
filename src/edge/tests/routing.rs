use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;

use super::world::{App, PATIENCE, Visitor, World, eventually, limits, route, to, upstream};
use crate::edge::{Options, Start, run};
use crate::link::{Up, paths};
use crate::model::machine::Listeners;
use crate::model::route::{Target, UpstreamId};
use crate::model::snapshot::{Section, Settings};

const DRAIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_and_paths_find_their_answers() {
    let (mut world, app, other) = (World::start().await, App::on_tcp("one").await, App::on_socket("two").await);
    let routes = vec![
        route("shop.test", "/", to("shop#1")),
        route("shop.test", "/api", to("api#1")),
        route("www.shop.test", "/", Target::Redirect("shop.test".parse().unwrap())),
        route("off.test", "/", Target::Absent),
        route("empty.test", "/", to("empty#1")),
    ];
    let upstreams =
        vec![upstream("shop#1", &[&app], DRAIN), upstream("api#1", &[&other], DRAIN), upstream("empty#1", &[], DRAIN)];
    world.route(routes, upstreams).await;
    let shop = world.get("Shop.test:80", "/").await;
    assert_eq!((shop.status, shop.body.as_str()), (200, "one"));
    assert!(shop.field("x-request-id").is_some() && shop.field("via").is_some());
    assert_eq!(world.get("shop.test", "/api/x").await.body, "two");
    let moved = world.get("www.shop.test:8080", "/a?b").await;
    assert_eq!((moved.status, moved.field("location").as_deref()), (308, Some("http://shop.test:8080/a?b")));
    let off = world.get("off.test", "/").await;
    assert_eq!((off.status, off.field("retry-after").is_some()), (503, true));
    assert!(off.body.contains("not running") && off.field("x-request-id").is_some());
    assert_eq!(world.get("empty.test", "/").await.status, 503);
    assert_eq!(world.get("unknown.test", "/").await.status, 404);
    assert_eq!(world.get("a b", "/").await.status, 400);
    assert_eq!(world.ask("GET / HTTP/1.1\r\n\r\n").await.status, 400);
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_apps_are_told_apart() {
    let settings = limits(|limits| limits.upstream_timeout = Duration::from_millis(100));
    let (mut world, mut app) = (World::with(settings).await, App::on_tcp("one").await);
    world.route(vec![route("shop.test", "/", to("shop#1"))], vec![upstream("shop#1", &[&app], DRAIN)]).await;
    assert_eq!(world.get("shop.test", "/garbage").await.status, 502);
    assert_eq!(world.get("shop.test", "/never").await.status, 504);
    app.die().await;
    let answer = world.ask("GET / HTTP/1.1\r\nHost: shop.test\r\nAccept: application/json\r\n\r\n").await;
    assert_eq!((answer.status, answer.field("retry-after").is_some()), (503, true));
    assert!(answer.body.starts_with("{\"status\":503"));
    // Another replica takes what the dead one cannot, bodies as well.
    let other = App::on_socket("two").await;
    world.route(vec![route("shop.test", "/", to("shop#1"))], vec![upstream("shop#1", &[&app, &other], DRAIN)]).await;
    for _ in 0..4 {
        let post = "POST /echo HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(world.ask(post).await.body, "hello");
    }
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_is_gone_is_an_app_that_is_not_running() {
    let (mut world, mut app) = (World::start().await, App::on_socket("one").await);
    world.route(vec![route("shop.test", "/", to("shop#1"))], vec![upstream("shop#1", &[&app], DRAIN)]).await;
    assert_eq!(world.get("shop.test", "/").await.status, 200);
    app.die().await;
    drop(app);
    // A connection that was pooled may still be there; the next one is refused.
    eventually(async || (world.get("shop.test", "/").await.status == 503).then_some(())).await;
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_under_visitors_fails_nobody() {
    let mut world = World::start().await;
    let (apps, done) = ([App::on_tcp("a").await, App::on_socket("b").await], Arc::new(AtomicBool::new(false)));
    let swap = |number: usize| {
        let id = format!("shop#{number}");
        (vec![route("shop.test", "/", to(&id))], vec![upstream(&id, &[&apps[number % 2]], DRAIN)])
    };
    let (routes, upstreams) = swap(0);
    world.route(routes, upstreams).await;
    let answered = Arc::new(AtomicU64::new(0));
    let visitors: Vec<_> = (0..16)
        .map(|number| {
            let (http, done, answered) = (world.http, done.clone(), answered.clone());
            tokio::spawn(async move {
                let mut visitor = Visitor::new(http).await;
                while !done.load(Ordering::SeqCst) {
                    visitor.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
                    assert_eq!(visitor.answer().await.status, 200);
                    answered.fetch_add(1, Ordering::SeqCst);
                    if number % 2 == 0 {
                        visitor = Visitor::new(http).await;
                    }
                }
            })
        })
        .collect();
    for number in 1..=20 {
        let (routes, upstreams) = swap(number);
        world.route(routes, upstreams).await;
        let name = ["a", "b"][number % 2];
        assert_eq!(world.get("shop.test", "/").await.body, name, "the next request is for the new release");
        let gone = UpstreamId(format!("shop#{}", number - 1));
        let drained = world.hear_until(|up| matches!(up, Up::Drained { upstream, .. } if *upstream == gone)).await;
        assert!(matches!(drained, Up::Drained { upstream, cut: 0, .. } if upstream == gone));
    }
    done.store(true, Ordering::SeqCst);
    for visitor in visitors {
        visitor.await.unwrap();
    }
    assert!(answered.load(Ordering::SeqCst) > 100);
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_and_then_cuts_whoever_has_no_answer() {
    let (mut world, app) = (World::start().await, App::on_tcp("one").await);
    let routes = || vec![route("shop.test", "/", Target::Absent)];
    let serving = |id: &str, drain| (vec![route("shop.test", "/", to(id))], vec![upstream(id, &[&app], drain)]);
    let (first, upstreams) = serving("shop#1", DRAIN);
    world.route(first, upstreams).await;
    let mut patient = Visitor::new(world.http).await;
    patient.send("GET /slow HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    eventually(async || (app.asked() == 1).then_some(())).await;
    world.route(routes(), Vec::new()).await;
    assert_eq!(patient.answer().await.status, 200);
    let drained = |up: &Up| matches!(up, Up::Drained { .. });
    assert!(matches!(world.hear_until(drained).await, Up::Drained { cut: 0, .. }));
    let (second, upstreams) = serving("shop#2", Duration::from_millis(50));
    world.route(second, upstreams).await;
    let mut tunnel = Visitor::new(world.http).await;
    tunnel.send("GET /socket HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
    assert_eq!(tunnel.answer().await.status, 101);
    let mut waiting = Visitor::new(world.http).await;
    waiting.send("GET /never HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    eventually(async || (app.asked() == 3).then_some(())).await;
    world.route(routes(), Vec::new()).await;
    assert!(matches!(world.hear_until(drained).await, Up::Drained { cut: 2, .. }));
    assert_eq!(waiting.answer().await.status, 504, "who has nothing yet is told why");
    // The tunnel is the app's to end first; see `upstream`.
    drop(tunnel);
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identity_cannot_be_spoofed() {
    let (mut world, app) = (World::start().await, App::on_tcp("one").await);
    world.route(vec![route("shop.test", "/", to("shop#1"))], vec![upstream("shop#1", &[&app], DRAIN)]).await;
    let request = "GET /head HTTP/1.1\r\nHost: Shop.test\r\nX-Forwarded-For: 6.6.6.6\r\n\
                   X-Real-IP: 6.6.6.6\r\nX-Request-Id: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
                   Connection: close\r\n\r\n";
    let seen = world.ask(request).await;
    assert!(!seen.body.contains("6.6.6.6"), "{}", seen.body);
    let app_sees = |name: &str| super::world::field(&seen.body, name);
    assert_eq!(app_sees("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    assert_eq!(app_sees("x-forwarded-proto").as_deref(), Some("http"));
    assert_eq!(app_sees("host").as_deref(), Some("Shop.test"));
    assert_eq!(app_sees("x-request-id"), seen.field("x-request-id"));
    // Twins that CGI would read as ours, and hops told to drop them, mean no good.
    for odd in ["X_Forwarded_For: 6.6.6.6", "x.request.id: 6", "Connection: X-Request-Id", "Connection: forwarded"] {
        let request = format!("GET /head HTTP/1.1\r\nHost: shop.test\r\n{odd}\r\n\r\n");
        assert_eq!(world.ask(&request).await.status, 400, "{odd}");
    }
    world.stop(DRAIN).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_edge_goes_on_without_control_and_starts_from_what_it_kept() {
    let (mut world, app) = (World::start().await, App::on_tcp("one").await);
    world.route(vec![route("shop.test", "/", to("shop#1"))], vec![upstream("shop#1", &[&app], DRAIN)]).await;
    let kept = paths::snapshot(world.directory.path());
    eventually(async || std::fs::read_to_string(&kept).ok().filter(|text| text.contains("shop.test"))).await;
    let http = world.http;
    let (directory, edge) = world.abandon().await;
    let mut visitor = Visitor::new(http).await;
    visitor.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert_eq!(visitor.answer().await.body, "one");
    drop(visitor);
    let second = run(Options { state_dir: directory.path().to_owned(), start: Start::Alone }).await;
    assert!(second.is_err_and(|error| error.to_string().contains("another edge runs")));
    edge.abort();
    assert!(edge.await.is_err());
    let again = tokio::spawn(run(Options { state_dir: directory.path().to_owned(), start: Start::Alone }));
    eventually(async || {
        let mut visitor = Visitor::over(Box::new(tokio::net::TcpStream::connect(http).await.ok()?));
        visitor.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        visitor.try_answer().await.filter(|answer| answer.body == "one")
    })
    .await;
    again.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_lets_requests_finish() {
    let (mut world, app) = (World::start().await, App::on_tcp("one").await);
    world.route(vec![route("shop.test", "/", to("shop#1"))], vec![upstream("shop#1", &[&app], DRAIN)]).await;
    let mut visitor = Visitor::new(world.http).await;
    visitor.send("GET /slow HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    eventually(async || (app.asked() == 1).then_some(())).await;
    let stopped = tokio::spawn(world.stop(PATIENCE));
    let answer = visitor.answer().await;
    assert_eq!((answer.status, answer.field("connection").as_deref()), (200, Some("close")));
    stopped.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_section_that_cannot_hold_changes_nothing() {
    let (mut world, app) = (World::start().await, App::on_tcp("one").await);
    world.route(vec![route("shop.test", "/", to("shop#1"))], vec![upstream("shop#1", &[&app], DRAIN)]).await;
    let routes = vec![route("shop.test", "/", to("missing#1"))];
    let section = crate::model::snapshot::Routing { upstreams: Vec::new(), routes };
    assert!(world.tell(Section::Routing(section)).await.is_some_and(|fault| fault.contains("missing#1")));
    assert!(world.replace_control().await, "the newest control is obeyed, and no other");
    assert_eq!(world.tell(Section::Settings(Settings::default())).await, None);
    assert_eq!(world.get("shop.test", "/").await.body, "one");
    // Listeners that disappear are closed; the others stay, without new sockets.
    let listeners = Listeners { http: vec![world.http], ..Listeners::default() };
    assert_eq!(world.tell(Section::Listeners(listeners)).await, None);
    assert_eq!(world.get("shop.test", "/").await.body, "one");
    let (https, metrics) = (world.https, world.metrics);
    eventually(async || TcpStream::connect(https).await.is_err().then_some(())).await;
    eventually(async || TcpStream::connect(metrics).await.is_err().then_some(())).await;
    world.stop(DRAIN).await;
}
