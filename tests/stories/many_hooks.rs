//! Hooks in a crowd and out of order: one deployment at a time, the newest wins, and nothing moves backwards.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use open_prime::cli::travis;
use serde_json::{Value, json};

use crate::forges::{believing, fixture, signed};
use crate::http;
use crate::world::{Prime, Repo, World, deployment, today};

impl Repo {
    /// So many commits more on master, each with a page that says its number; tells them in order.
    fn commits(&self, names: impl Iterator<Item = String>, from: Option<&str>) -> Vec<String> {
        let (mut script, mut count) = (String::new(), 0);
        for name in names {
            count += 1;
            let from = from.filter(|_| count == 1).map(|from| format!("from {from}\n")).unwrap_or_default();
            let _ = write!(
                script,
                "commit refs/heads/master\ncommitter Story <story@localhost> {} +0000\ndata 1\nx\n{from}M 100644 inline \
                 page.txt\ndata {}\n{name}\n",
                1_700_000_000 + count,
                name.len()
            );
        }
        let mut import = Command::new("git")
            .args(["fast-import", "--quiet", "--force"])
            .current_dir(&self.path)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        import.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(import.wait().unwrap().success());
        let listed = self.git(&["rev-list", "--reverse", &format!("--max-count={count}"), "master"]);
        listed.lines().map(str::to_owned).collect()
    }
}

fn travis_request(world: &World, commit: &str, number: usize) -> Request<Full<Bytes>> {
    let payload = travis::passed("acme/shop", "master", commit, number as u64, &today());
    Request::post("/events")
        .header("host", "opri.test")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("signature", world.travis.sign(&payload))
        .body(Full::new(travis::body(&payload).into()))
        .unwrap()
}

/// Sends them over so many connections at once, each in its turn; tells how long each took, and the bodies of those that
/// were accepted.
fn deliver(prime: &Prime<'_>, requests: Vec<Request<Full<Bytes>>>, connections: usize) -> (Vec<Duration>, Vec<Value>) {
    let address = prime.address("http");
    let queue = Arc::new(Mutex::new(requests.into_iter().rev().collect::<Vec<_>>()));
    let sending = (0..connections).map(|_| {
        let queue = queue.clone();
        prime.world.runtime.spawn(async move {
            let mut sender = http::http1(http::tcp(address).await.unwrap()).await.unwrap();
            let (mut took, mut accepted) = (Vec::new(), Vec::new());
            loop {
                let Some(request) = queue.lock().unwrap().pop() else { return (took, accepted) };
                let since = Instant::now();
                let answer = http::send(&mut sender, request).await.unwrap();
                took.push(since.elapsed());
                assert!(answer.status.is_success(), "{}: {}", answer.status, answer.body);
                if answer.status == StatusCode::ACCEPTED {
                    accepted.push(serde_json::from_str(&answer.body).unwrap());
                }
            }
        })
    });
    let sending: Vec<_> = sending.collect();
    let (mut took, mut accepted) = (Vec::new(), Vec::new());
    for one in sending {
        let (times, bodies) = prime.world.runtime.block_on(one).unwrap();
        took.extend(times);
        accepted.extend(bodies);
    }
    took.sort();
    (took, accepted)
}

fn outcomes(prime: &Prime<'_>, outcome: &str) -> f64 {
    let text = prime.metrics();
    let is_of =
        |line: &&str| line.starts_with("opri_deployments_total") && line.contains(&format!("outcome=\"{outcome}\""));
    text.lines().filter(is_of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn of_five_hundred_hooks_one_is_built_one_waits_and_the_newest_wins() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page 0");
    let commits = shop.commits((1..=500).map(|n| format!("page {n}")), Some("refs/heads/master^0"));
    let (hold, busy, twice) = (world.path().join("hold"), world.path().join("busy"), world.path().join("twice"));
    let build = format!(
        "mkdir {busy} || touch {twice}; while test -e {hold}; do sleep 0.02; done; rmdir {busy}",
        busy = busy.display(),
        twice = twice.display(),
        hold = hold.display()
    );
    let prime = world.prime().hosting(&shop, &format!("[app]\nbuild = \"{build}\"\n")).start();
    std::fs::write(&hold, "").unwrap();
    deployment(&prime.hook(&prime.payload(&shop, "master", &commits[0])));
    prime.until("the first is being built", || busy.exists());
    // Signing in Rust without care takes milliseconds each: before, and not while the clock runs.
    let requests = commits.iter().enumerate().map(|(n, commit)| travis_request(&world, commit, n + 1)).collect();
    let since = Instant::now();
    let (took, accepted) = deliver(&prime, requests, 16);
    let (all, p99) = (since.elapsed(), took[took.len() * 99 / 100 - 1]);
    println!("{} hooks in {all:?}: acknowledged within {p99:?} (p99), {:?} at most", took.len(), took[took.len() - 1]);
    // All that were accepted gave way but the one that is built and the one that waits.
    prime.until("one waits", || outcomes(&prime, "superseded") == accepted.len() as f64 - 1.0);
    std::fs::remove_file(&hold).unwrap();
    prime.says("http://shop.test", "page 500");
    // It is too long ago by then for its own word to be kept.
    prime.until("the first gave way too", || outcomes(&prime, "superseded") == accepted.len() as f64);
    assert!(!twice.exists(), "two builds at once");
    let releases: Value = serde_json::from_str(&prime.does(&["releases", "shop", "--json"])).unwrap();
    assert_eq!(releases.as_array().unwrap().len(), 1, "only the newest ever served: {releases}");
    assert_eq!(releases[0]["commit"], json!(commits[499]));
}

/// The same order in every run.
fn shuffled<T>(mut all: Vec<T>, seed: u64) -> Vec<T> {
    let mut dice = seed;
    for at in (1..all.len()).rev() {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        all.swap(at, usize::try_from(dice >> 33).unwrap() % (at + 1));
    }
    all
}

/// A push each, three times over, in any order, and in the middle of it the branch is moved: what serves never goes back.
fn out_of_order(ci: &str, seed: u64) {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page 0");
    let old = shop.commits((1..=16).map(|n| format!("old {n}")), Some("refs/heads/master^0"));
    let prime = believing(&world, "").hosting(&shop, &format!("ci = \"{ci}\"\n[app]\ndrain = \"0s\"\n")).start();
    let file = prime.conf_file("prime.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("keep_releases = 1000\n{text}")).unwrap();
    prime.does(&["reload"]);
    let request = |commit: &String, rank: usize| match ci {
        "travis" => travis_request(&world, commit, rank),
        _ => {
            let mut push = fixture("github-push", commit);
            push["pusher"]["name"] = json!(format!("{rank}"));
            let body = push.to_string();
            let mut request =
                Request::post("/events").header("host", "opri.test").header("content-type", "application/json");
            for (name, value) in signed("github", "push", &body, "1") {
                request = request.header(name, value);
            }
            request.body(Full::new(body.into())).unwrap()
        }
    };
    let thrice = |all: &[(&String, usize)]| {
        let copies: Vec<_> = all.iter().chain(all).chain(all).map(|(commit, rank)| request(commit, *rank)).collect();
        shuffled(copies, seed)
    };
    let ranked: Vec<(&String, usize)> = old.iter().zip(1..).collect();
    let (early, late) = ranked.split_at(10);
    deliver(&prime, thrice(early), 3);
    let new = shop.commits((1..=12).map(|n| format!("new {n}")), Some(&old[7]));
    let ranked: Vec<(&String, usize)> = late.iter().copied().chain(new.iter().zip(17..)).collect();
    deliver(&prime, thrice(&ranked), 3);
    prime.says("http://shop.test", "new 12");
    // Whatever is still under way ends, and changes nothing.
    prime.until("all are over", || !prime.does(&["list", "--json"]).contains("\"outcome\": null"));
    prime.says("http://shop.test", "new 12");
    let releases: Value = serde_json::from_str(&prime.does(&["releases", "shop", "--json"])).unwrap();
    let rank = |release: &Value| {
        let commit = release["commit"].as_str().unwrap().to_owned();
        let of_old = old.iter().position(|one| *one == commit);
        of_old.or_else(|| Some(16 + new.iter().position(|one| *one == commit)?)).unwrap()
    };
    let ranks: Vec<usize> = releases.as_array().unwrap().iter().rev().map(rank).collect();
    assert!(ranks.is_sorted(), "seed {seed}: went backwards: {ranks:?}");
}

#[test]
fn builds_that_are_told_out_of_order_never_move_a_site_backwards() {
    (1..=3).for_each(|seed| out_of_order("travis", seed));
}

#[test]
fn pushes_that_are_told_out_of_order_never_move_a_site_backwards() {
    (1..=3).for_each(|seed| out_of_order("none", seed));
}
