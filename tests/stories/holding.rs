//! A site that is paused lets its requests wait; one in maintenance answers them with a page. Both until it is resumed.

use std::time::{Duration, Instant};

use ::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::http::{self, Answer};
use crate::world::{Prime, Repo, World, ignored};

fn serving<'w>(world: &'w World, lines: &str) -> (Repo, Prime<'w>) {
    let shop = world.repo("shop");
    shop.commit("old");
    let prime = world.prime().hosting(&shop, lines).start();
    prime.deploys(&shop, "master");
    (shop, prime)
}

fn in_flight(prime: &Prime<'_>, count: u32) {
    prime.until(&format!("{count} requests are under way"), || {
        prime.metric("opri_http_requests_in_flight") == f64::from(count)
    });
}

/// Begins a request over HTTP/2.
fn two(prime: &Prime<'_>, path: &str) -> JoinHandle<Result<Answer, String>> {
    let (address, root, url) = (prime.address("https"), prime.root(), format!("https://shop.test{path}"));
    prime.world.runtime.spawn(async move {
        let stream = http::tls(address, "shop.test", &root, "h2").await?;
        http::send2(stream, Request::get(url).body(Full::default()).unwrap()).await
    })
}

/// Starts another edge with the same sockets, as after a crash.
fn kill_edge(prime: &Prime<'_>) {
    let before = prime.status()["edge"]["pid"].clone();
    let pid = before.to_string();
    assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    prime.until("another edge serves", || {
        let now = prime.status()["edge"]["pid"].clone();
        !now.is_null() && now != before
    });
}

#[test]
fn requests_wait_through_a_swap_and_are_answered_by_what_serves_then() {
    let world = World::new();
    let (shop, prime) = serving(&world, "");
    prime.get("http://shop.test/stored");
    assert!(prime.does(&["pause", "shop"]).contains("30s"));
    let pages: Vec<_> = (0..20).map(|_| prime.begin("shop.test", "/")).collect();
    let post = Request::post("http://shop.test/echo").body(Full::new(Bytes::from_static(b"words"))).unwrap();
    let post = prime.begin_with(post);
    let h2 = two(&prime, "/");
    let gone = prime.begin("shop.test", "/");
    in_flight(&prime, 23);
    gone.abort();
    in_flight(&prime, 22);
    // What is stored needs no app.
    assert!(prime.get("http://shop.test/stored").header("cache-status").contains("hit"));
    shop.commit("new");
    prime.deploys(&shop, "master");
    in_flight(&prime, 22);
    let said = prime.does(&["list"]) + &prime.does(&["status"]) + &prime.does(&["why", "http://shop.test/"]);
    assert_eq!(said.matches("shop/master is paused").count(), 3, "{said}");
    assert!(prime.does(&["resume", "shop"]).contains("it was paused"));
    for page in pages {
        let answer = prime.answer(page);
        assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, "new"));
    }
    assert_eq!(prime.answer(post).body, "words");
    assert_eq!(prime.answer(h2).body, "new");
    assert!(prime.does(&["resume", "shop"]).contains("was neither"));
}

#[test]
fn a_pause_is_bounded_in_time_and_number_and_outlives_both_planes() {
    let world = World::new();
    let (shop, prime) = serving(&world, "");
    prime.does(&["pause", "shop", "--max", "200ms"]);
    let since = Instant::now();
    let answer = prime.get("http://shop.test/");
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("retry-after"), "5");
    assert!(since.elapsed() >= Duration::from_millis(200));

    kill_edge(&prime);
    assert_eq!(prime.get("http://shop.test/").status, StatusCode::SERVICE_UNAVAILABLE);
    prime.kill_control();
    prime.start();
    assert_eq!(prime.get("http://shop.test/").status, StatusCode::SERVICE_UNAVAILABLE);
    // Hooks are never held.
    let hook = prime.push(&shop, "master");
    assert!(ignored(&hook).contains("serves already"), "{}", hook.body);
    assert_eq!(prime.opri(&["pause", "shop", "--max", "1d"]).status.code(), Some(2));
    assert_eq!(prime.opri(&["pause", "stranger"]).status.code(), Some(3));
    prime.does(&["resume", "shop"]);
    prime.says("http://shop.test/", "old");
}

#[test]
fn a_site_in_maintenance_answers_with_a_page_and_outlives_both_planes() {
    let world = World::new();
    let (shop, prime) = serving(&world, "");
    prime.get("http://shop.test/stored");
    prime.does(&["maintenance", "shop", "--message", "Back at <noon>"]);
    let page = prime.get("http://shop.test/stored");
    assert_eq!((page.status, page.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "60"));
    assert!(page.body.contains("Back at &lt;noon&gt;"), "{}", page.body);
    let post = Request::post("http://shop.test/echo").header("accept", "application/json");
    let json = prime.ask(post.body(Full::new(Bytes::from_static(b"words"))).unwrap());
    let body: Value = serde_json::from_str(&json.body).unwrap();
    assert_eq!((json.status, body["message"].as_str()), (page.status, Some("Back at <noon>")));
    assert!(prime.answer(two(&prime, "/")).body.contains("Back at"));
    assert!(prime.does(&["why", "http://shop.test/"]).contains("503: This site is being worked on"));
    assert!(prime.does(&["list"]).contains("shop/master is in maintenance"));

    kill_edge(&prime);
    prime.kill_control();
    assert!(prime.get("http://shop.test/").body.contains("Back at"));
    prime.start();
    assert!(prime.get("http://shop.test/").body.contains("Back at"));

    // A page of its own comes with the release.
    std::fs::create_dir(shop.path.join("errors")).unwrap();
    shop.write("errors/maintenance.html", "<h1>our own</h1>");
    shop.commit("new");
    prime.deploys(&shop, "master");
    prime.does(&["maintenance", "shop"]);
    let page = prime.get("http://shop.test/");
    assert_eq!((page.status, page.body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "<h1>our own</h1>"));
    prime.does(&["resume", "shop"]);
    prime.says("http://shop.test/", "new");
}
