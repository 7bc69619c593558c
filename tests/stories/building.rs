//! Builds: told live, kept with their release, limited, one at a time, and ended by whoever changes their mind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use crate::world::{Prime, Repo, World, deployment, opri};

/// A project's file whose builds say where they are and wait while `hold` is there. Whoever waits is a child of the build.
fn holding(world: &World, repo: &Repo) -> String {
    let (hold, pid) = (world.path().join("hold"), world.path().join("pid"));
    let wait = format!("while test -e {}; do sleep 0.05; done", hold.display());
    let line = format!("echo begins; (echo waits; {wait}) & echo $! >{}; wait; echo ends", pid.display());
    format!("repo = \"acme/{}\"\n[app]\nbuild = \"{line}\"\n", repo.name)
}

/// The verb, going on beside the story.
fn beside(prime: &Prime<'_>, arguments: &[&str]) -> Child {
    let mut verb = opri();
    verb.args(arguments).arg("--conf").arg(prime.conf_file(""));
    verb.current_dir(prime.world.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The stage of the site's newest deployment, while it does not serve.
fn is_at(prime: &Prime<'_>, stage: &str) -> bool {
    prime.does(&["list", "--json"]).contains(&format!("\"stage\": \"{stage}\""))
}

#[test]
fn a_deployment_is_cancelled_with_all_it_started_and_what_served_serves_on() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page 1");
    let prime = world.prime().project("shop", &holding(&world, &shop)).start();
    prime.deploys(&shop, "master");

    let output = prime.opri(&["deploy", "--cancel", "shop"]);
    assert_eq!(output.status.code(), Some(4), "nothing is under way: {output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing of shop/master is being deployed"));
    assert_eq!(prime.opri(&["deploy", "--cancel", "nobody"]).status.code(), Some(3));

    fs::write(world.path().join("hold"), "").unwrap();
    fs::remove_file(world.path().join("pid")).unwrap();
    shop.commit("page 2");
    let running = deployment(&prime.push(&shop, "master"));
    prime.until("it builds", || fs::read_to_string(world.path().join("pid")).is_ok_and(|pid| pid.ends_with('\n')));
    let pid = fs::read_to_string(world.path().join("pid")).unwrap();
    shop.commit("page 3");
    let waiting = deployment(&prime.push(&shop, "master"));
    let follower = beside(&prime, &["deploy", "shop"]);
    prime.until_ended(&waiting, "superseded");

    let told = prime.does(&["deploy", "--cancel", "shop"]);
    assert_eq!(told.lines().collect::<Vec<_>>().len(), 2, "the running one and the waiting one: {told}");
    assert!(told.contains(&format!("{running} is cancelled while building")), "{told}");
    assert!(told.contains("is cancelled while queued"), "{told}");
    let output = follower.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{error}");
    assert!(error.contains("was cancelled by "), "{error}");

    let reason = prime.until_ended(&running, "cancelled");
    assert!(reason.contains("\"at\":\"building\""), "{reason}");
    prime.until("what the build had started is gone", || !Path::new(&format!("/proc/{}", pid.trim())).exists());
    let left = || fs::read_dir(world.path().join("state/releases/shop/master")).unwrap().count();
    prime.until("nothing of it is left", || left() == 1);
    prime.says("http://shop.test", "page 1");
    assert!(prime.metrics().contains("outcome=\"cancelled\",project=\"shop\"} 2"), "{}", prime.metrics());

    // And the next one is not held up by it.
    fs::remove_file(world.path().join("hold")).unwrap();
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "page 3");
}

#[test]
fn a_release_that_waits_at_the_gate_is_cancelled_with_its_app() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page 1");
    let prime = world.prime().hosting(&shop, "[app]\nhealth = { path = \"/\", interval = \"50ms\" }\n").start();
    prime.deploys(&shop, "master");
    shop.write("sick", "");
    shop.commit("page 2");
    let id = deployment(&prime.push(&shop, "master"));
    prime.until("it waits at the gate", || is_at(&prime, "gating") && prime.app_pids().len() == 2);
    assert!(prime.does(&["deploy", "--cancel", "shop"]).contains(&format!("{id} is cancelled while gating")));
    prime.until("one app is left", || prime.app_pids().len() == 1);
    prime.says("http://shop.test", "page 1");
}

#[test]
fn a_build_is_told_line_by_line_and_its_log_is_kept_with_its_release() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page 1");
    let prime = world.prime().project("shop", &holding(&world, &shop)).start();
    prime.deploys(&shop, "master");
    fs::write(world.path().join("hold"), "").unwrap();
    shop.commit("page 2");
    let id = deployment(&prime.push(&shop, "master"));
    prime.until("it builds", || is_at(&prime, "building"));

    let mut follower = beside(&prime, &["logs", "--build", "-f", "shop"]);
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == "waits"), "while the build goes on");
    fs::remove_file(world.path().join("hold")).unwrap();
    assert!(lines.any(|line| line == "ends"));
    assert_eq!(lines.count(), 0);
    assert!(follower.wait().unwrap().success(), "it ends with the build");
    prime.until_ended(&id, "live");

    let mut deploying = beside(&prime, &["deploy", "shop"]);
    let told = BufReader::new(deploying.stdout.take().unwrap()).lines().map(Result::unwrap).collect::<Vec<_>>();
    assert!(deploying.wait().unwrap().success());
    assert!(told.iter().any(|line| line.trim() == "begins"), "{told:?}");
    shop.write("opri.toml", "release = \"exit 3\"\n");
    shop.commit("page 3");
    prime.until_ended(&deployment(&prime.push(&shop, "master")), "failed");
    assert!(prime.does(&["logs", "--build", "shop"]).contains("failed while starting"));
    let of_release = prime.does(&["logs", "--build", "--release", "r2", "shop"]);
    assert!(of_release.contains("ends") && !of_release.contains("failed"), "{of_release}");
    assert_eq!(prime.opri(&["logs", "--build", "--release", "r99", "shop"]).status.code(), Some(3));
}

#[test]
fn a_build_that_takes_more_than_it_may_is_ended_and_says_what() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page");
    let machine = "[build]\ntimeout = \"10s\"\nmemory = \"64MiB\"\npids = 20\n";
    let prime = world.prime().hosting(&shop, "").with(machine).start();
    prime.deploys(&shop, "master");
    let cases = [
        ("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 100 & done; wait", "20 processes"),
        // A string of 128 MiB in the shell's own memory.
        ("x=$(head -c 134217728 /dev/zero | tr '\\\\0' x); sleep 100; echo $x", "64 MiB of memory"),
        ("sleep 100", "10 s"),
    ];
    for (line, most) in cases {
        shop.write("opri.toml", &format!("build = \"{line}\"\n"));
        shop.commit(most);
        let reason = prime.until_ended(&deployment(&prime.push(&shop, "master")), "failed");
        assert!(reason.contains(&format!("the build took more than {most}")) || reason.contains("longer than 10 s"));
        assert_eq!(reason.contains("longer than 10 s"), most == "10 s", "{reason}");
        prime.says("http://shop.test", "page");
    }
}

#[test]
fn builds_run_one_at_a_time() {
    let world = World::new();
    let (shop, blog) = (world.repo("shop"), world.repo("blog"));
    for repo in [&shop, &blog] {
        repo.commit("page");
    }
    let prime = world.prime().project("shop", &holding(&world, &shop)).project("blog", &holding(&world, &blog)).start();
    let hold = world.path().join("hold");
    fs::write(&hold, "").unwrap();
    let first = deployment(&prime.push(&shop, "master"));
    prime.until("shop builds", || is_at(&prime, "building"));
    let second = deployment(&prime.push(&blog, "master"));
    let fetched = world.path().join("state/git/blog.git/refs/opri/heads/master");
    prime.until("blog has its source", || fetched.exists());
    // Again and again: what could build now would do so at once.
    for _ in 0..20 {
        let list = prime.does(&["list", "--json"]);
        assert_eq!(list.matches("\"stage\": \"building\"").count(), 1, "{list}");
    }
    fs::remove_file(&hold).unwrap();
    prime.until_ended(&first, "live");
    prime.until_ended(&second, "live");
}
