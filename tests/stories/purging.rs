//! What was purged is not seen again by whoever asks later, whatever the way, and whoever may not purge does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ::http::{Request, StatusCode};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::Full;
use tokio::sync::Semaphore;

use crate::http::{self, Answer};
use crate::world::{Prime, World};

const WAYS: [&str; 3] = ["light", "full", "http2"];
const SECRET: &str = "0b9b8b5a4c1f4c5e8d8e0e1c2f3a4b5c";

/// An app that runs already, and says something else each time it is asked.
#[derive(Default)]
struct App {
    asked: AtomicUsize,
    is_sick: AtomicBool,
}

struct Running {
    app: Arc<App>,
    /// Requests for `/gated` that may go on, and that have come.
    gate: Arc<(Semaphore, Semaphore)>,
    upstream: String,
}

fn start(world: &World) -> Running {
    let (app, gate) = (Arc::new(App::default()), Arc::new((Semaphore::new(0), Semaphore::new(0))));
    let listener = world.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let upstream = format!("upstream = \"{}\"\n", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state((app.clone(), gate.clone()));
    world.runtime.spawn(async { axum::serve(listener, router).await });
    Running { app, gate, upstream }
}

type Shared = State<(Arc<App>, Arc<(Semaphore, Semaphore)>)>;

/// Each path has a tag of its own in either field, `p-a` and `c a`, and one that all have.
async fn answer(State((app, gate)): Shared, request: axum::extract::Request) -> Response {
    let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let number = app.asked.fetch_add(1, Ordering::SeqCst);
    if name == "gated" {
        gate.1.add_permits(1);
        gate.0.acquire().await.unwrap().forget();
    }
    if app.is_sick.load(Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let control = match name.as_str() {
        "never" => "no-store",
        "behind" => "max-age=600, stale-while-revalidate=600",
        _ => "max-age=600, stale-if-error=600",
    };
    let many = if name == "many" { "x ".repeat(2000) } else { format!("p-{name} page") };
    let fields = [("cache-control", control), ("surrogate-key", &many), ("cache-tag", &format!("c {name}, Every"))];
    (fields, format!("answer {number}")).into_response()
}

fn ask(prime: &Prime<'_>, world: &World, way: &str, path: &str) -> Answer {
    match way {
        "http2" => {
            let request = Request::get(format!("https://shop.test{path}")).body(Full::default()).unwrap();
            over_http2(prime, world, request)
        }
        way => {
            let request = Request::get(format!("http://shop.test{path}"));
            // What names a field of its own goes pingora's way.
            let request = if way == "full" { request.header("connection", "x-none") } else { request };
            prime.ask(request.body(Full::default()).unwrap())
        }
    }
}

fn over_http2(prime: &Prime<'_>, world: &World, request: Request<Full<Bytes>>) -> Answer {
    let asking = async {
        let stream = http::tls(prime.address("https"), "shop.test", &prime.root(), "h2").await?;
        http::send2(stream, request).await
    };
    world.runtime.block_on(asking).unwrap()
}

fn purges(host: &str, path: &str, secret: &str, fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let request = Request::builder().method("PURGE").uri(format!("http://{host}{path}"));
    let request = if secret.is_empty() { request } else { request.header("authorization", format!("Bearer {secret}")) };
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Full::default()).unwrap()
}

fn is_hit(answer: &Answer) -> bool {
    answer.header("cache-status").starts_with("opri; hit")
}

#[test]
fn every_kind_of_purge_holds_for_whoever_asks_later_whatever_the_way() {
    let world = World::new();
    let running = start(&world);
    let prime = world.prime().project("shop", &running.upstream).start();
    let (kinds, others) = (["--url", "--url", "--prefix", "--tag", "--tag", "--tag", "--all"], "/other");
    for (way, kind) in WAYS.into_iter().flat_map(|way| (0..kinds.len()).map(move |kind| (way, kind))) {
        let path = format!("/{way}/n{kind}?q");
        let what = match kind {
            0 => vec![path.clone()],
            1 => vec![format!("http://SHOP.test:8080{path}")],
            2 => vec![format!("/{way}/n{kind}")],
            3 => vec![format!("p-n{kind}")],
            4 => vec![format!("C N{kind}")],
            5 => vec!["every".to_owned()],
            _ => vec![],
        };
        for (is_soft, reason) in [(false, "opri; fwd=miss; stored"), (true, "opri; fwd=stale; stored")] {
            ask(&prime, &world, way, &path);
            ask(&prime, &world, way, others);
            let stored = ask(&prime, &world, way, &path);
            assert!(is_hit(&stored), "{way} {kind}: {:?}", stored.headers);
            let mut line = vec!["purge", "shop", kinds[kind]];
            line.extend(what.iter().map(String::as_str));
            line.extend(is_soft.then_some("--soft"));
            prime.does(&line);
            let newer = ask(&prime, &world, way, &path);
            assert_eq!(newer.header("cache-status"), reason, "{way} {line:?}: {:?}", newer.headers);
            assert_ne!(newer.body, stored.body, "{way} {line:?}");
            let again = ask(&prime, &world, way, &path);
            assert!(is_hit(&again) && again.body == newer.body, "{way} {line:?}");
            assert_eq!(is_hit(&ask(&prime, &world, way, others)), kind < 5, "{way} {line:?}");
        }
    }
}

#[test]
fn a_url_in_a_path_or_a_query_is_a_part_of_it() {
    let world = World::new();
    let running = start(&world);
    std::fs::write(world.path().join("purge"), SECRET).unwrap();
    let conf = format!("{}[cache]\npurge = {{ file = \"purge\" }}\n", running.upstream);
    let prime = world.prime().project("shop", &conf).start();
    for path in ["/go?to=http://other.test/x", "/http://other.test/x", "/a://b?c://d"] {
        for (line, is_soft) in [
            (&["--url", path][..], false),
            (&["--url", path, "--soft"], true),
            (&["--url", &format!("http://shop.test{path}")], false),
            (&["--prefix", path], false),
            (&[], false),
        ] {
            ask(&prime, &world, "light", path);
            ask(&prime, &world, "light", "/x");
            assert!(is_hit(&ask(&prime, &world, "light", path)));
            match line {
                [] => assert_eq!(prime.ask(purges("shop.test", path, SECRET, &[])).status, 200),
                line => drop(prime.does(&[&["purge", "shop"], line].concat())),
            }
            let reason = if is_soft { "opri; fwd=stale; stored" } else { "opri; fwd=miss; stored" };
            assert_eq!(ask(&prime, &world, "light", path).header("cache-status"), reason, "{path} {line:?}");
            assert!(is_hit(&ask(&prime, &world, "light", "/x")), "{path} {line:?}");
        }
    }
}

#[test]
fn what_was_purged_softly_stands_in_for_a_failure_and_what_was_purged_does_not() {
    let world = World::new();
    let running = start(&world);
    let prime = world.prime().project("shop", &running.upstream).start();
    for way in WAYS {
        let path = format!("/{way}/page");
        let stored = ask(&prime, &world, way, &path);
        prime.does(&["purge", "shop", "--tag", "p-page", "--soft"]);
        running.app.is_sick.store(true, Ordering::SeqCst);
        let spare = ask(&prime, &world, way, &path);
        assert_eq!((spare.status.as_u16(), &spare.body), (200, &stored.body), "{way}: {:?}", spare.headers);
        assert_eq!(spare.header("cache-status"), "opri; fwd=stale; fwd-status=503; detail=stale-if-error", "{way}");
        prime.does(&["purge", "shop", "--tag", "p-page"]);
        assert_eq!(ask(&prime, &world, way, &path).status, 503, "{way}");
        running.app.is_sick.store(false, Ordering::SeqCst);
    }
}

#[test]
fn what_was_purged_softly_is_shown_while_a_newer_one_is_fetched_behind_it() {
    let world = World::new();
    let prime = world.prime().project("shop", &start(&world).upstream).start();
    for way in ["light", "http2"] {
        let path = format!("/{way}/behind");
        let stored = ask(&prime, &world, way, &path);
        prime.does(&["purge", "shop", "--url", &path, "--soft"]);
        let meanwhile = ask(&prime, &world, way, &path);
        assert_eq!(meanwhile.body, stored.body, "{way}: {:?}", meanwhile.headers);
        prime.until("a newer one is stored", || ask(&prime, &world, way, &path).body != stored.body);
        prime.does(&["purge", "shop", "--url", &path]);
        assert_eq!(ask(&prime, &world, way, &path).header("cache-status"), "opri; fwd=miss; stored", "{way}");
    }
}

#[test]
fn an_answer_on_its_way_is_no_newer_than_the_purge_that_overtook_it() {
    let world = World::new();
    let Running { gate, upstream, .. } = start(&world);
    let prime = world.prime().project("shop", &upstream).start();
    for (number, line) in [&["--all"][..], &["--tag", "p-gated"], &["--url", "/2/gated"], &["--prefix", "/", "--soft"]]
        .into_iter()
        .enumerate()
    {
        let path = format!("/{number}/gated");
        let begun = prime.begin("shop.test", &path);
        world.runtime.block_on(gate.1.acquire()).unwrap().forget();
        prime.does(&[&["purge", "shop"], line].concat());
        gate.0.add_permits(2);
        let overtaken = prime.answer(begun);
        let newer = prime.get(&format!("http://shop.test{path}"));
        assert!(!is_hit(&newer) && newer.body != overtaken.body, "{line:?}: {:?}", newer.headers);
        world.runtime.block_on(gate.1.acquire()).unwrap().forget();
        assert!(is_hit(&prime.get(&format!("http://shop.test{path}"))), "{line:?}");
    }
}

#[test]
fn an_answer_on_its_way_is_stored_when_what_was_purged_meanwhile_is_another() {
    let world = World::new();
    let Running { gate, upstream, .. } = start(&world);
    let prime = world.prime().with("[cache]\ndisk = \"0\"\n").project("shop", &upstream).start();
    prime.get("http://shop.test/other");
    let begun = prime.begin("shop.test", "/gated");
    world.runtime.block_on(gate.1.acquire()).unwrap().forget();
    prime.does(&["purge", "shop", "--url", "/other"]);
    prime.until("the room of what was purged is given back", || prime.metric("opri_cache_bytes") == 0.0);
    gate.0.add_permits(1);
    prime.answer(begun);
    assert!(is_hit(&prime.get("http://shop.test/gated")));
}

#[test]
fn a_branch_is_purged_by_itself_and_a_project_with_all_its_branches() {
    let world = World::new();
    let hosts = "[branches.master]\nhosts = [\"shop.test\"]\n[branches.dev]\nhosts = [\"dev.shop.test\"]\n";
    let prime = world.prime().project("shop", &format!("{}{hosts}", start(&world).upstream)).start();
    let urls = ["http://shop.test/a", "http://dev.shop.test/a"];
    let look = || urls.map(|url| is_hit(&prime.get(url)));
    for (line, left) in [
        (&["shop/dev", "--all"][..], [true, false]),
        (&["shop/master", "--url", "/a"], [false, true]),
        (&["shop", "--url", "http://dev.shop.test/a"], [true, false]),
        (&["shop", "--tag", "p-a", "--soft"], [false, false]),
    ] {
        look();
        assert_eq!(look(), [true, true]);
        prime.does(&[&["purge"], line].concat());
        assert_eq!(look(), left, "{line:?}");
    }
    look();
    for (line, code) in [
        (&["shop/feature", "--all"][..], 3),
        (&["shop/dev", "--url", "http://shop.test/a"], 3),
        (&["shop", "--url", "http://other.test/a"], 3),
        (&["shop", "--url", "http://"], 2),
        (&["shop", "--url", "http:///a"], 2),
        (&["shop", "--url", "http://sh op.test/a"], 2),
        (&["shop", "--url", "http://shop.test:99999/a"], 2),
    ] {
        assert_eq!(prime.opri(&[&["purge"], line].concat()).status.code(), Some(code), "{line:?}");
        assert_eq!(look(), [true, true], "{line:?}");
    }
    let said = prime.does(&["purge", "shop/dev", "--tag", "p-a", "--soft"]);
    assert_eq!(said, "what is tagged `p-a` of shop/dev is stale now\n");
    let json: serde_json::Value = serde_json::from_str(&prime.does(&["purge", "shop", "--all", "--json"])).unwrap();
    assert_eq!((&json["project"], &json["is_soft"]), (&"shop".into(), &false.into()));
}

#[test]
fn tags_are_said_to_the_edge_and_to_no_visitor() {
    let world = World::new();
    let running = start(&world);
    let prime = world.prime().project("shop", &running.upstream).start();
    for way in WAYS {
        for path in ["page", "page", "never", "many", "many"].map(|name| format!("/{way}/{name}")) {
            let answer = ask(&prime, &world, way, &path);
            let tags = ["surrogate-key", "cache-tag"].map(|name| answer.headers.contains_key(name));
            assert_eq!((answer.status.as_u16(), tags), (200, [false; 2]), "{way} {path}: {:?}", answer.headers);
            if !path.ends_with("page") {
                let why = "no-store, and more tags than can be purged";
                assert_eq!(answer.header("cache-status"), "opri; fwd=miss", "{way} {path}: {why}");
            }
        }
    }
    let post = Request::post("http://shop.test/form").body(Full::from("a=b")).unwrap();
    let post = prime.ask(post);
    assert!(post.status == 200 && !post.headers.contains_key("surrogate-key"), "{:?}", post.headers);
}

#[test]
fn whoever_shows_the_secret_of_a_site_purges_it_and_nobody_else_does() {
    let world = World::new();
    let (running, blog, shut) = (start(&world), start(&world), start(&world));
    std::fs::write(world.path().join("purge"), format!("{SECRET}\n")).unwrap();
    std::fs::write(world.path().join("other"), SECRET.replace('0', "1")).unwrap();
    let may = |file: &str| format!("[cache]\npurge = {{ file = \"{file}\" }}\n");
    let prime = world
        .prime()
        .project("shop", &format!("{}{}", running.upstream, may("purge")))
        .project("blog", &format!("{}{}", blog.upstream, may("other")))
        .project("shut", &shut.upstream)
        .start();
    let look = |path: &str| is_hit(&prime.get(&format!("http://shop.test{path}")));
    let both = || (look("/a"), look("/b"));
    let ask = |host: &str, path: &str, secret: &str, fields: &[(&str, &str)]| {
        let answer = prime.ask(purges(host, path, secret, fields));
        (answer.status.as_u16(), answer)
    };
    both();
    for (secret, host) in
        [("", "shop.test"), ("wrong", "shop.test"), (&SECRET[1..], "shop.test"), (SECRET, "blog.test")]
    {
        let (status, answer) = ask(host, "/a", secret, &[]);
        assert_eq!((status, answer.header("www-authenticate")), (401, "Bearer realm=\"purge\""), "{secret} {host}");
    }
    assert_eq!(ask("shut.test", "/a", SECRET, &[]).0, 405);
    assert_eq!(ask("nobody.test", "/a", SECRET, &[]).0, 404);
    assert_eq!(both(), (true, true), "nothing of it is purged");
    let refused = "opri_edge_refusals_total{reason=\"unauthorized\"} 4";
    assert!(prime.metrics().contains(refused), "{}", prime.metrics());

    let (status, answer) = ask("shop.test", "/a", SECRET, &[]);
    assert_eq!((status, answer.body.as_str()), (200, "{\"status\":\"ok\"}\n"), "{:?}", answer.headers);
    assert_eq!(both(), (false, true));
    for (fields, left) in [
        (&[("surrogate-key", "p-b nothing")][..], (true, false)),
        (&[("cache-tag", "c a, c b")], (false, false)),
        (&[("cache-tag", "every"), ("fastly-soft-purge", "1")], (false, false)),
    ] {
        assert_eq!(both(), (true, true));
        assert_eq!(ask("shop.test", "/", SECRET, fields).0, 200);
        assert_eq!(both(), left, "{fields:?}");
    }
    assert_eq!(ask("shop.test", "/a", SECRET, &[("fastly-soft-purge", "1")]).0, 200);
    assert_eq!(prime.get("http://shop.test/a").header("cache-status"), "opri; fwd=stale; stored");
    assert_eq!(ask("shop.test", "/a", SECRET, &[("surrogate-key", "")]).0, 400);

    let mut request = purges("shop.test", "/b", SECRET, &[]);
    *request.uri_mut() = "https://shop.test/b".parse().unwrap();
    assert_eq!(over_http2(&prime, &world, request).status, 200);
    assert_eq!(both(), (true, false));
    let kept = std::fs::read_to_string(world.path().join("state/edge/edge.json")).unwrap();
    assert!(kept.contains("purge_key") && !kept.contains(SECRET), "{kept}");
    for running in [running, blog, shut] {
        assert!(running.app.asked.load(Ordering::SeqCst) < 50);
    }

    std::fs::write(world.path().join("purge"), "another").unwrap();
    prime.does(&["reload"]);
    assert_eq!(ask("shop.test", "/a", SECRET, &[]).0, 401);
    assert_eq!(ask("shop.test", "/a", "another", &[]).0, 200);
}

#[test]
fn guessing_a_secret_is_held_to_the_rates_of_its_site() {
    let world = World::new();
    std::fs::write(world.path().join("purge"), SECRET).unwrap();
    let lines = "[cache]\npurge = { file = \"purge\" }\n[limits]\nrequests_per_second = 5\n";
    let prime = world.prime().project("shop", &format!("{}{lines}", start(&world).upstream)).start();
    let guesses = (0..50).map(|n| prime.ask(purges("shop.test", "/", &n.to_string(), &[])).status.as_u16());
    let guesses: Vec<u16> = guesses.collect();
    assert!(guesses.contains(&401) && guesses.contains(&429), "{guesses:?}");
}

#[test]
fn a_release_that_comes_back_finds_what_it_stored_and_what_was_purged_meanwhile_is_gone() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("one");
    let prime = world.prime().hosting(&shop, "[app]\ndrain = \"1s\"\n").start();
    prime.deploys(&shop, "master");
    let page = "http://shop.test/stored";
    let one = prime.eventually(page, |answer| answer.body.starts_with("one"));
    shop.commit("two");
    prime.deploys(&shop, "master");
    let two = prime.eventually(page, |answer| answer.body.starts_with("two"));
    // Both releases count their answers from the beginning: an app that is asked again says a higher number.
    prime.does(&["rollback", "shop"]);
    let back = prime.get(page);
    assert!(is_hit(&back) && back.body == one.body, "{:?} {}", back.headers, back.body);
    prime.does(&["rollback", "shop", "r2"]);
    let forth = prime.get(page);
    assert!(is_hit(&forth) && forth.body == two.body, "{:?} {}", forth.headers, forth.body);

    prime.does(&["purge", "shop", "--url", "/stored"]);
    prime.does(&["rollback", "shop", "r1"]);
    assert_eq!(prime.get(page).header("cache-status"), "opri; fwd=miss; stored", "the purge holds for every release");
    // A write to one release makes its URL untrue in all.
    prime.does(&["rollback", "shop", "r2"]);
    assert_eq!(prime.ask(Request::put(page).body(Full::default()).unwrap()).status, 200);
    prime.does(&["rollback", "shop", "r1"]);
    assert_eq!(prime.get(page).header("cache-status"), "opri; fwd=miss; stored");
}

#[test]
fn what_was_purged_gives_back_its_room() {
    let world = World::new();
    let prime = world.prime().with("[cache]\ndisk = \"0\"\n").project("shop", &start(&world).upstream).start();
    let bytes = || prime.metric("opri_cache_bytes");
    for number in 0..20 {
        prime.get(&format!("http://shop.test/{number}"));
    }
    let full = bytes();
    assert!(full > 5000.0, "{full}");
    prime.does(&["purge", "shop", "--prefix", "/1"]);
    prime.until("a part of it is free", || bytes() < full / 2.0 + 100.0);
    assert!(is_hit(&prime.get("http://shop.test/2")));
    prime.does(&["purge", "shop", "--tag", "page"]);
    prime.until("all of it is free", || bytes() == 0.0);
}
