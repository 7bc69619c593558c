//! A push becomes a served release, and no visitor notices.

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ::http::{Request, StatusCode};
use http_body_util::Full;

use crate::http;
use crate::visitors::{Visitors, Way};
use crate::world::{PATIENCE, World};

/// How many swaps there are: a few, or as many as `OPRI_SWAPS` says.
fn swaps() -> u64 {
    std::env::var("OPRI_SWAPS").ok().and_then(|count| count.parse().ok()).unwrap_or(5)
}

#[test]
fn twenty_swaps_under_thirty_two_visitors_fail_nobody() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page 0");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "page 0");

    let visitors = Visitors::come(&prime, 32, "shop.test", "page ");
    for n in 1..=20 {
        shop.commit(&format!("page {n}"));
        prime.deploys(&shop, "master");
        // Whoever asks after the swap was answered for sees the new release.
        assert_eq!(prime.get("http://shop.test").body, format!("page {n}"));
    }
    visitors.go().is_flawless();
    prime.until("only the last release's app runs", || prime.app_pids().len() == 1);
}

/// With 100 swaps it goes on until 200,000 requests are through.
#[test]
fn whoever_asks_after_a_swap_sees_the_new_release_by_every_protocol() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page 0");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "page 0");
    let visitors = Visitors::come_by(&Way::ALL, &prime, 32, ("shop.test", "page "));
    for number in 1..=swaps() {
        shop.commit(&format!("page {number}"));
        prime.deploys(&shop, "master");
        visitors.tally.newest.store(number, Ordering::Release);
        let due = number * 2000;
        let through = visitors.tally.requests.load(Ordering::Relaxed);
        if swaps() >= 100 && through < due {
            visitors.ask_more((due - through).min(2000));
        }
    }
    let tally = visitors.go();
    println!("{} swaps, {:?} requests, {} failed or old", swaps(), tally.requests, tally.failed());
    tally.is_flawless();
}

/// With 100 swaps it is 50,000 posts.
#[test]
fn nothing_is_posted_twice_though_releases_are_killed_while_they_drain() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page 0");
    let ids = world.path().join("ids");
    let conf = format!("[app]\ndrain = \"2s\"\nenv = {{ ONCE = \"{}\" }}\n", ids.display());
    let prime = world.prime().hosting(&shop, &conf).start();
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "page 0");
    let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let answers = Arc::new(Mutex::new(HashMap::new()));
    let poster = |_| {
        let (next, stop, answers, address) = (next.clone(), stop.clone(), answers.clone(), prime.address("http"));
        world.runtime.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let id = next.fetch_add(1, Ordering::Relaxed);
                let answer = async {
                    let mut sender = http::http1(http::tcp(address).await?).await?;
                    let request = Request::post("/once").header("host", "shop.test");
                    http::send(&mut sender, request.body(Full::new(id.to_string().into())).unwrap()).await
                };
                let status = tokio::time::timeout(PATIENCE, answer).await.map_err(|error| error.to_string());
                answers.lock().unwrap().insert(id, status.flatten().map(|answer| answer.status));
            }
        })
    };
    let posters: Vec<_> = (0..32).map(poster).collect();
    for number in 1..=swaps() {
        let before = prime.app_pids();
        shop.commit(&format!("page {number}"));
        prime.deploys(&shop, "master");
        if number % 5 == 0 {
            for app in before {
                let _ =
                    std::process::Command::new("kill").args(["-9", &app.to_string()]).stderr(Stdio::null()).status();
            }
        }
        if swaps() >= 100 {
            prime.until("enough is posted", || next.load(Ordering::Relaxed) >= number * 500);
        }
    }
    stop.store(true, Ordering::Relaxed);
    posters.into_iter().for_each(|poster| world.runtime.block_on(poster).unwrap());
    let answers = answers.lock().unwrap();
    let mut done: HashMap<u64, usize> = HashMap::new();
    for line in std::fs::read_to_string(&ids).unwrap().lines() {
        *done.entry(line.parse().unwrap()).or_default() += 1;
    }
    let lost = answers.values().filter(|answer| **answer != Ok(StatusCode::OK)).count();
    println!("{} swaps, {} posts, {lost} answered 502", swaps(), answers.len());
    assert_eq!(done.values().filter(|times| **times > 1).count(), 0, "done twice");
    assert!(swaps() < 100 || lost > 0, "nobody was killed in time");
    for (id, answer) in answers.iter() {
        match answer {
            Ok(StatusCode::OK) => assert_eq!(done.get(id), Some(&1), "{id} was answered and not done"),
            other => assert_eq!(*other, Ok(StatusCode::BAD_GATEWAY), "{id}\n{}", prime.logs()),
        }
    }
}

#[test]
fn what_was_asked_before_the_swap_is_answered_by_the_old_release() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("old");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");

    let slow = prime.begin("shop.test", "/slow?ms=1500");
    prime.until("the slow request is in flight", || prime.metric("opri_http_requests_in_flight") >= 1.0);
    shop.commit("new");
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "new");
    assert_eq!(prime.answer(slow).body, "old");
}

#[test]
fn a_swap_makes_every_stored_response_of_the_branch_unreachable_at_once() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("old");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    let first = prime.get("http://shop.test/stored");
    let again = prime.get("http://shop.test/stored");
    assert_eq!(first.body, again.body, "the second is a hit");
    assert!(again.header("cache-status").contains("hit"), "{:?}", again.headers);

    shop.commit("new");
    prime.deploys(&shop, "master");
    let after = prime.get("http://shop.test/stored");
    assert!(after.body.starts_with("new"), "{}", after.body);
    assert!(after.header("cache-status").contains("fwd=miss"), "{:?}", after.headers);
}

#[test]
fn a_rollback_brings_the_release_before_back_without_a_build() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("one");
    let prime = world.prime().hosting(&shop, "[app]\nbuild = \"echo built >> ../builds\"\n").start();
    prime.deploys(&shop, "master");
    shop.commit("two");
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "two");

    let visitors = Visitors::come(&prime, 8, "shop.test", "");
    prime.does(&["rollback", "shop"]);
    assert_eq!(prime.get("http://shop.test").body, "one");
    visitors.go().is_flawless();
    let builds = std::fs::read_to_string(world.path().join("state/releases/shop/master/builds")).unwrap();
    assert_eq!(builds.lines().count(), 2);
    prime.does(&["rollback", "shop", "r2"]);
    prime.says("http://shop.test", "two");
    // What serves already is not swapped with itself.
    let apps = prime.app_pids();
    assert_eq!(prime.opri(&["rollback", "shop", "r2"]).status.code(), Some(4));
    assert!(apps.iter().any(|app| prime.app_pids().contains(app)));
    prime.says("http://shop.test", "two");
}

#[test]
fn a_rollback_to_what_still_runs_starts_nothing() {
    let world = World::new();
    let shop = world.repo("shop");
    // It takes its time to start.
    let procfile = std::fs::read_to_string(shop.path.join("Procfile")).unwrap();
    shop.write("Procfile", &procfile.replace("web: ", "web: sleep 3; "));
    shop.commit("one");
    let prime = world.prime().hosting(&shop, "[app]\nreplicas = 2\nstandby = \"10m\"\n").start();
    prime.deploys(&shop, "master");
    let one = prime.app_pids();
    shop.commit("two");
    prime.deploys(&shop, "master");
    let all = || std::collections::BTreeSet::from_iter(prime.app_pids());
    let both = all();
    let two: Vec<_> = both.iter().filter(|pid| !one.contains(pid)).collect();
    assert_eq!((one.len(), two.len()), (2, 2));
    let visitors = Visitors::come(&prime, 8, "shop.test", "");
    for (release, page) in [("r1", "one"), ("r2", "two"), ("r1", "one")] {
        prime.does(&["rollback", "shop", release]);
        assert_eq!(prime.get("http://shop.test").body, page);
        assert_eq!(all(), both, "nothing is started, and nothing ends");
    }
    visitors.go().is_flawless();
    // It is watched over as before.
    let die = Request::post("http://shop.test/die").body(Default::default()).unwrap();
    let _ = prime.try_ask(die);
    prime.until("another replica has taken its place", || {
        let now = prime.app_pids();
        now.len() == 4 && one.iter().filter(|pid| now.contains(pid)).count() == 1
    });
    prime.says("http://shop.test", "one");
    // What ended while it stood by is started anew.
    for pid in two {
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    }
    prime.does(&["rollback", "shop", "r2"]);
    prime.says("http://shop.test", "two");
}
