//! Pages that are open while a new release is swapped in find the files that they name.

use ::http::{Method, Request, StatusCode};
use http_body_util::Full;

use crate::http::Answer;
use crate::world::{Prime, World};

fn ask(prime: &Prime<'_>, method: Method, host: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
    let mut request = Request::builder().method(method).uri(format!("http://{host}{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    prime.ask(request.body(Full::default()).unwrap())
}

fn get(prime: &Prime<'_>, path: &str) -> Answer {
    ask(prime, Method::GET, "shop.test", path, &[])
}

/// Whether it is the first release's, though the app knows nothing of it.
fn is_earlier(answer: &Answer) -> bool {
    let status = "opri; fwd=miss; fwd-status=404; detail=earlier-release";
    (answer.status, &*answer.body, answer.header("cache-status")) == (StatusCode::OK, "the first", status)
}

fn restart_edge(prime: &Prime<'_>) {
    let edge = prime.status()["edge"]["pid"].clone();
    assert!(std::process::Command::new("kill").args(["-9", &edge.to_string()]).status().unwrap().success());
    prime.until("another edge serves", || {
        let now = prime.status()["edge"]["pid"].clone();
        !now.is_null() && now != edge
    });
}

fn serving<'w>(world: &'w World, cache: &str) -> (crate::world::Repo, Prime<'w>) {
    let shop = world.repo("shop");
    for name in ["i-old", "i-unasked", "plain"] {
        shop.write(name, "the first");
    }
    shop.commit("one");
    let prime = world.prime().with(cache).hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    shop.on("dev");
    for name in ["i-old", "i-unasked", "plain"] {
        std::fs::remove_file(shop.path.join(name)).unwrap();
    }
    shop.commit("dev");
    prime.deploys(&shop, "dev");
    for path in ["/asset/i-old", "/asset/plain"] {
        assert_eq!(get(&prime, path).header("cache-status"), "opri; fwd=miss; stored");
    }
    shop.on("master");
    shop.commit("two");
    prime.deploys(&shop, "master");
    (shop, prime)
}

#[test]
fn what_a_release_called_immutable_answers_a_404_of_the_next_ones() {
    let world = World::new();
    let (shop, prime) = serving(&world, "");
    let old = get(&prime, "/asset/i-old");
    assert!(is_earlier(&old), "{old:?}");
    assert!(old.header("cache-control").contains("immutable") && !old.header("age").is_empty());
    let head = ask(&prime, Method::HEAD, "shop.test", "/asset/i-old", &[]);
    assert_eq!((head.status, head.header("content-length"), &*head.body), (StatusCode::OK, "9", ""));
    let part = ask(&prime, Method::GET, "shop.test", "/asset/i-old", &[("range", "bytes=0-2")]);
    assert_eq!((part.status, &*part.body), (StatusCode::PARTIAL_CONTENT, "the"));
    // For other visitors, never asked for, not called so, or of another branch.
    let others = ask(&prime, Method::GET, "shop.test", "/asset/i-old", &[("accept-language", "he")]);
    let dev = ask(&prime, Method::GET, "dev.shop.test", "/asset/i-old", &[]);
    for answer in [others, dev, get(&prime, "/asset/i-unasked"), get(&prime, "/asset/plain")] {
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{answer:?}");
    }
    shop.write("i-old", "the third");
    shop.commit("three");
    prime.deploys(&shop, "master");
    assert_eq!(get(&prime, "/asset/i-old").body, "the third", "the app's own word is the last");
    std::fs::remove_file(shop.path.join("i-old")).unwrap();
    shop.commit("four");
    prime.deploys(&shop, "master");
    assert_eq!(get(&prime, "/asset/i-old").body, "the third", "the last that knew it");
    prime.does(&["purge", "shop", "--url", "/asset/i-old"]);
    assert_eq!(get(&prime, "/asset/i-old").status, StatusCode::NOT_FOUND);
}

#[test]
fn it_does_so_from_disk_and_after_restarts_of_both_planes_until_its_grace_is_over() {
    let world = World::new();
    let (_shop, prime) = serving(&world, "[cache]\nmemory = \"0\"\n");
    prime.until("it is written", || {
        let text = prime.metrics();
        let bytes = text.lines().find_map(|line| line.strip_prefix("opri_cache_bytes{tier=\"disk\"} "));
        bytes.is_some_and(|bytes| bytes.parse::<u64>().unwrap() > 0)
    });
    assert!(is_earlier(&get(&prime, "/asset/i-old")));
    prime.kill_control();
    prime.start();
    assert!(is_earlier(&get(&prime, "/asset/i-old")));
    restart_edge(&prime);
    let old = prime.eventually("http://shop.test/asset/i-old", |answer| answer.status == StatusCode::OK);
    assert!(is_earlier(&old), "{old:?}");
    std::fs::write(prime.conf_file("projects/shop.toml"), "repo = \"acme/shop\"\n[cache]\nassets_grace = \"0s\"\n")
        .unwrap();
    prime.does(&["reload"]);
    assert_eq!(get(&prime, "/asset/i-old").status, StatusCode::NOT_FOUND);
}
