//! Whoever wonders why a page is or is not answered from the cache is told, and nothing changes by asking.

use ::http::Request;
use http_body_util::Full;
use serde_json::Value;

use crate::world::{Prime, World};

const CACHE: &str = "[cache]\nstatus = \"key\"\nkey = { ignore = [\"utm_*\"], cookies = [\"lang\"] }\nrules = [\n  \
    { path = \"/private\", bypass = true },\n  { path = \"/headers\", ttl = \"1h\", tags = [\"a\", \"b\"] },\n]\n";

#[test]
fn a_request_is_explained_from_the_host_to_the_cache() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, CACHE).start();
    prime.deploys(&shop, "master");
    prime.says("http://shop.test/", "page");
    let url = "http://shop.test/stored?utm_source=a";
    let text = prime.does(&["why", url]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], [&format!("GET {url}"), "site         shop/master"]);
    assert!(lines[2].starts_with("release      r1 of commit ") && lines[2].contains("serves for "), "{text}");
    assert_eq!(lines[3], "upstream     shop/master#r1, 1 replica running");
    assert!(lines[4].starts_with("certificate  of the local CA, ends in "), "{text}");
    let rest = [
        "key          http://shop.test/stored",
        "             made by the project's key: without utm_*, with the cookies lang",
        "cache        miss: nothing is stored for this URL",
        "             the app's answer is stored when it says for how long, or can be asked about",
    ];
    assert_eq!(lines[5..], rest);
    let first = prime.get(url);
    assert_eq!(first.header("cache-status"), "opri; fwd=miss; stored; key=\"http://shop.test/stored\"");
    says(&prime, &[url], "\nstored       200, 13 bytes, ");
    says(&prime, &[url], "\ncache        hit: fresh for ");
    says(&prime, &["http://SHOP.test:80/stored?utm_x=y#z"], " s more by `max-age` of `cache-control`\n");
    let hit = prime.get(url);
    assert!(hit.header("cache-status").starts_with("opri; hit; ttl="), "{:?}", hit.headers);
    assert!(hit.header("cache-status").ends_with("; key=\"http://shop.test/stored\""), "{:?}", hit.headers);
    prime.does(&["purge", "shop", "--url", "/stored?utm_medium=b"]);
    says(&prime, &[url], "cache        miss: ");
    let tagged = "http://shop.test/headers";
    prime.get(tagged);
    says(&prime, &[tagged], "\ncache        hit: fresh for 3");
    says(&prime, &[tagged], " s more by conf's rule for the path\n");
    prime.does(&["purge", "shop", "--tag", "b"]);
    says(&prime, &[tagged], "cache        miss: ");
}

#[test]
fn every_word_that_decides_is_named() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, CACHE).start();
    prime.deploys(&shop, "master");
    prime.says("http://shop.test/", "page");
    let url = "http://shop.test/stored";
    prime.get(url);
    // The hook, the page and this: each is counted after its answer is read.
    let asked = || prime.metric("opri_http_requests_total");
    prime.until("all three are counted", || asked() == 3.0);
    let hits = [(&[][..], "hit: fresh for "), (&["-H", "Cookie: session=1"], "hit: fresh for ")];
    for (more, word) in hits.into_iter().chain([
        (&["-H", "Cache-Control: no-cache"][..], "request: the request says `no-cache`"),
        (&["-H", "Cache-Control: min-fresh=61"], "request: the request's `min-fresh`"),
        (
            &["-H", "cookie: lang=de"],
            "vary-miss: what is stored for this URL is for requests with other fields or cookies",
        ),
        (&["-H", "If-Match: \"a\""], "bypass: the request has `if-match`"),
        (&["-H", "Content-Length: 3"], "bypass: the request has a body"),
        (&["--method", "POST"], "method: only GET and HEAD"),
        (&["--method", "HEAD"], "hit: fresh for "),
    ]) {
        says(&prime, &[&[url], more].concat(), &format!("\ncache        {word}"));
    }
    for (url, more, word) in [
        (
            "http://shop.test/private",
            &[][..],
            "\nrule         the rule for /private: bypass\ncache        bypass: the rule for /private leaves it out\n",
        ),
        ("http://shop.test/headers", &[], "\ntags         a, b\ncache        miss: "),
        ("http://shop.test/headers", &[], "or else for 3600 s by the rule for /headers\n"),
        (
            "http://shop.test/x",
            &["-H", "Cookie: lang=de; s=1"],
            "is not stored: the request has a cookie that is not in the key\n",
        ),
        ("http://shop.test/x", &["-H", "Authorization: a"], "is stored when it says `public`, "),
        (
            "http://shop.test/x",
            &["-H", "Range: bytes=0-1"],
            "the part that the app sends is stored as the whole would be\n",
        ),
        (
            "http://shop.test/x",
            &["-H", "Cache-Control: only-if-cached"],
            "\ncache        unavailable: nothing is stored",
        ),
        ("https://shop.test/stored", &[], "\ncache        miss: nothing is stored for this URL\n"),
        ("http://dev.shop.test/", &[], "\nanswer       503: "),
        ("http://shop.test/", &["-H", "X_Forwarded_For: 1"], "\nanswer       400: "),
        ("http://opri.test/events", &[], "\nsite         Prime itself\n"),
    ] {
        says(&prime, &[&[url], more].concat(), word);
    }
    assert_eq!(asked(), 3.0, "asking why is no request");
    let json: Value = serde_json::from_str(&prime.does(&["why", url, "--json"])).unwrap();
    let answer = &json["verdict"]["answer"];
    assert_eq!((json["release"]["name"].as_str(), answer["by"].as_str()), (Some("r1"), Some("upstream")));
    assert_eq!(
        (answer["cache"]["verdict"].as_str(), answer["cache"]["stored"]["status"].as_u64()),
        (Some("hit"), Some(200))
    );
    for (arguments, code) in [
        (&["why", "http://stranger.test/"][..], 3),
        (&["why", "/stored"], 2),
        (&["why", url, "-H", "x"], 2),
        (&["why", "http://shop.test:99999/"], 2),
        (&["why", url, "--method", "PURGE"], 2),
    ] {
        let output = prime.opri(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn what_lies_on_disk_alone_is_a_hit_as_well() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "").with("[cache]\nmemory = \"0\"\ndisk = \"64MiB\"\n").start();
    prime.deploys(&shop, "master");
    prime.says("http://shop.test/", "page");
    let url = "http://shop.test/stored";
    prime.until("it is on disk", || {
        prime.get(url);
        prime.does(&["why", url]).contains("\ncache        hit: fresh for ")
    });
    assert!(prime.get(url).header("cache-status").starts_with("opri; hit"));
    prime.does(&["purge", "shop", "--url", "/stored"]);
    says(&prime, &[url], "cache        miss: nothing is stored for this URL");
}

#[test]
fn what_lies_on_disk_for_other_requests_is_named_as_that() {
    let (world, variants) = (World::new(), "[cache]\nkey = { cookies = [\"lang\"] }\n");
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, variants).with("[cache]\nmemory = \"0\"\ndisk = \"64MiB\"\n").start();
    prime.deploys(&shop, "master");
    prime.says("http://shop.test/", "page");
    let url = "http://shop.test/stored";
    prime.until("it is on disk", || {
        prime.get(url);
        prime.does(&["why", url]).contains("\ncache        hit: fresh for ")
    });
    let other = ["why", url, "-H", "Cookie: lang=de"];
    let text = prime.does(&other);
    assert!(text.contains("\nstored       1 response for other requests\ncache        vary-miss: "), "{text}");
    let request = Request::get(url).header("cookie", "lang=de").body(Full::default()).unwrap();
    assert_eq!(prime.ask(request).header("cache-status"), "opri; fwd=vary-miss; stored");
    prime.does(&["purge", "shop", "--url", "/stored"]);
    let text = prime.does(&["why", url, "-H", "Cookie: lang=he"]);
    assert!(text.contains("\ncache        miss: "), "{text}");
}

fn says(prime: &Prime<'_>, arguments: &[&str], words: &str) {
    let text = prime.does(&[&["why"], arguments].concat());
    assert!(text.contains(words), "{arguments:?}: no {words:?} in\n{text}");
}
