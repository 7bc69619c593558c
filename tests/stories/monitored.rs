//! A release that does badly in its first minutes is rolled back by itself; any other is left alone.

use std::fs;

use ::http::Request;
use serde_json::Value;

use crate::world::{Prime, Repo, World, ignored};

/// More than enough answers to judge by.
const MANY: usize = 25;

/// A repository whose path `/fails` fails, or does not.
fn repo(world: &World, name: &str, fails: bool) -> Repo {
    let repo = world.repo(name);
    commit(&repo, fails);
    repo
}

fn commit(repo: &Repo, fails: bool) -> String {
    match fails {
        true => repo.write("fails", ""),
        false => drop(fs::remove_file(repo.path.join("fails"))),
    }
    repo.commit(if fails { "bad" } else { "good" })
}

fn ask(prime: &Prime<'_>, name: &str, path: &str, times: usize) {
    for _ in 0..times {
        let _ = prime.try_ask(Request::get(format!("http://{name}.test{path}")).body(Default::default()).unwrap());
    }
}

/// The release that serves a project's master.
fn release(prime: &Prime<'_>, name: &str) -> String {
    let list: Vec<Value> = serde_json::from_str(&prime.does(&["list", "--json"])).unwrap();
    let line = list.into_iter().find(|line| line["project"] == name && line["branch"] == "master").unwrap();
    line["release"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_release_that_answers_500_is_rolled_back_and_comes_again_only_when_a_person_says_so() {
    let world = World::new();
    let shop = repo(&world, "shop", false);
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    ask(&prime, "shop", "/fails", 5);
    let bad = commit(&shop, true);
    prime.deploys(&shop, "master");
    ask(&prime, "shop", "/fails", MANY);
    prime.until("it is rolled back", || release(&prime, "shop") == "r1");
    assert_eq!(prime.get("http://shop.test/fails").body, "good");
    for verb in ["list", "status"] {
        let said = prime.does(&[verb]);
        assert!(said.contains("was rolled back to r1 by itself: 25 of "), "{said}");
    }
    prime.until("it is counted", || prime.metric("opri_automatic_rollbacks_total") == 1.0);

    let again = prime.hook(&prime.payload(&shop, "master", &bad));
    assert!(ignored(&again).contains("this commit was rolled back as shop/master#3"), "{}", again.body);
    prime.does(&["deploy", "shop", &bad]);
    assert_eq!(release(&prime, "shop"), "r3");
    commit(&shop, false);
    prime.deploys(&shop, "master");
    assert_eq!(release(&prime, "shop"), "r4");
}

#[test]
fn a_release_that_does_not_stay_up_is_rolled_back_also_by_the_next_control() {
    let world = World::new();
    let shop = repo(&world, "shop", false);
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    shop.write("frail", "");
    shop.commit("frail");
    prime.deploys(&shop, "master");
    prime.kill_control();
    prime.start();
    prime.until("it is rolled back", || {
        ask(&prime, "shop", "/", 1);
        release(&prime, "shop") == "r1"
    });
    prime.says("http://shop.test", "good");
    let said = prime.does(&["list"]);
    assert!(said.contains("it does not stay up: exit status"), "{said}");
}

#[test]
fn what_did_so_before_is_hardly_asked_was_brought_back_or_is_not_monitored_is_left_alone() {
    let world = World::new();
    let [same, few, back, off, shop] =
        [("same", true), ("few", false), ("back", true), ("off", false), ("shop", false)]
            .map(|(name, fails)| repo(&world, name, fails));
    let prime = world.prime().hosting(&same, "").hosting(&few, "").hosting(&back, "").hosting(&shop, "");
    let prime = prime.hosting(&off, "[app]\nmonitor = \"0s\"\n").start();
    for repo in [&same, &few, &back, &off, &shop] {
        prime.deploys(repo, "master");
        ask(&prime, &repo.name, "/fails", MANY);
    }
    commit(&back, false);
    for repo in [&same, &few, &off, &shop] {
        commit(repo, true);
    }
    for repo in [&back, &same, &few, &off, &shop] {
        prime.deploys(repo, "master");
    }
    prime.does(&["rollback", "back"]);
    for (name, times) in [("same", MANY), ("few", 15), ("back", MANY), ("off", MANY), ("shop", MANY)] {
        ask(&prime, name, "/fails", times);
    }
    // Judged last, and in the same look or a later one.
    prime.until("the one that did badly is rolled back", || release(&prime, "shop") == "r1");
    for (name, expected) in [("same", "r2"), ("few", "r2"), ("back", "r1"), ("off", "r2")] {
        assert_eq!(release(&prime, name), expected, "{name}");
    }
    assert_eq!(prime.metric("opri_automatic_rollbacks_total"), 1.0);
}
