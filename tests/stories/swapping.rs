//! A push becomes a served release, and no visitor notices.

use std::process::Command;

use ::http::Request;

use crate::visitors::Visitors;
use crate::world::World;

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
