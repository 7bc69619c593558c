//! The words a person types, and what they answer.

use crate::world::{World, opri};

#[test]
fn the_demo_tells_the_whole_story_and_nobody_fails() {
    let output = opri().args(["demo", "--once"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let last = text.lines().last().unwrap();
    let is_right = last.starts_with("demo: ") && last.contains(" requests, 0 failed, swap ") && last.ends_with(" ms");
    assert!(is_right, "{text}");
}

#[test]
fn a_project_is_hosted_with_one_command() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("hosted");
    shop.on("dev").commit("hosted dev");
    let prime = world.prime().start();
    let text = prime.does(&["host", "shop", "acme/shop"]);
    assert!(text.contains("http://shop.test") || text.contains("https://shop.test"), "{text}");
    assert!(text.contains("notifications:") && text.contains("/events"), "{text}");
    prime.says("http://shop.test", "hosted");
    prime.says("http://dev.shop.test", "hosted dev");
    let again = prime.opri(&["host", "shop", "acme/shop"]);
    assert_eq!(again.status.code(), Some(4));
}

#[test]
fn a_repository_without_master_is_hosted_by_the_branch_it_has() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.on("main").commit("hosted");
    let prime = world.prime().start();
    let text = prime.does(&["host", "shop", "acme/shop"]);
    assert!(text.contains("`main` takes its place") && text.contains("shop.test"), "{text}");
    prime.says("http://shop.test", "hosted");
    let file = std::fs::read_to_string(prime.conf_file("projects/shop.toml")).unwrap();
    assert!(file.ends_with("\n[branches.main]\nhosts = [\"shop.test\"]\n"), "{file}");
    let bare = prime.opri(&["deploy", "shop"]);
    let error = String::from_utf8_lossy(&bare.stderr);
    assert_eq!(bare.status.code(), Some(3));
    assert!(error.contains("no branch `master`, only `main`"), "{error}");
}

#[test]
fn hosting_that_fails_leaves_no_file_behind() {
    let world = World::new();
    let shop = world.repo("shop");
    world.empty_repo("empty");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "").start();
    let fails = |arguments: &[&str], code: i32, why: &str| {
        let output = prime.opri(&[&["host", "new"], arguments].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(why), "{arguments:?}: {error}");
        assert!(!prime.conf_file("projects/new.toml").exists(), "{arguments:?}");
        assert_eq!(prime.status()["faults"].as_array().map(Vec::len), Some(0), "{arguments:?}");
    };
    fails(&["acme/nowhere"], 1, "cannot reach");
    fails(&["acme/empty"], 1, "push a first commit");
    fails(&["ext::sh -c true"], 2, "names a helper of git");
    fails(&["acme/shop", "https://shop.test"], 1, "two projects claim the same host");
    assert!(prime.does(&["list"]).contains("shop"));
}

#[test]
fn a_deployment_is_followed_live() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "[app]\nbuild = \"echo the compiler speaks\"\n").start();
    let text = prime.does(&["deploy", "shop"]);
    for word in ["fetching", "building", "the compiler speaks", "starting", "gating", "r1 serves"] {
        assert!(text.contains(word), "{word} in\n{text}");
    }
    assert!(prime.does(&["logs", "shop"]).contains("started as release r1"));
    assert_eq!(prime.does(&["logs", "shop", "-n", "1"]).lines().count(), 1);
    assert_eq!(prime.does(&["logs", "--build", "shop", "-n", "2"]).lines().count(), 2);
    let list: serde_json::Value = serde_json::from_str(&prime.does(&["list", "--json"])).unwrap();
    let master = list.as_array().unwrap().iter().find(|line| line["branch"] == "master").unwrap().clone();
    assert_eq!((master["project"].as_str(), master["release"].as_str()), (Some("shop"), Some("r1")));
}

#[test]
fn the_log_that_two_processes_share_is_shown_once() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "[app]\nreplicas = 2\n").start();
    prime.deploys(&shop, "master");
    assert_eq!(prime.does(&["logs", "shop"]).matches("started as release r1").count(), 2);
}

#[test]
fn what_cannot_be_done_says_why_and_exits_accordingly() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "").start();
    let code = |arguments: &[&str]| {
        let output = prime.opri(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("error:") || error.contains("Usage"), "{arguments:?}: {error}");
        output.status.code()
    };
    assert_eq!(code(&["deploy", "stranger"]), Some(3));
    assert_eq!(code(&["deploy", "shop/feature"]), Some(3));
    assert_eq!(code(&["rollback", "shop"]), Some(4));
    assert_eq!(code(&["rollback", "stranger"]), Some(3));
    assert_eq!(code(&["rollback", "shop/feature", "r1"]), Some(3));
    assert_eq!(code(&["purge", "stranger", "--all"]), Some(3));
    assert_eq!(code(&["rollback", "shop", "r9"]), Some(3));
    assert_eq!(code(&["logs", "shop"]), Some(3));
    assert_eq!(code(&["deploy", "../shop"]), Some(2));
    assert_eq!(code(&["purge", "shop/feature", "--all"]), Some(3));
    assert_eq!(code(&["purge", "shop", "--tag", "a, b"]), Some(2));
    assert_eq!(code(&["purge", "shop", "--prefix", "/static/*"]), Some(2));
    assert_eq!(code(&["purge", "shop", "--url", "about"]), Some(2));
    assert_eq!(code(&["frobnicate"]), Some(2));
}

#[test]
fn without_a_server_that_is_said_plainly() {
    let world = World::new();
    world.prime().write("process");
    let output = opri().args(["status", "--conf"]).arg(world.path().join("conf")).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("no `opri serve` is running") && error.contains("hint:"), "{error}");
    let output = opri().args(["host", "shop", "/srv/shop", "--conf"]).arg(world.path().join("conf")).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(!world.path().join("conf/projects/shop.toml").exists(), "a second try is not refused");
}

#[test]
fn a_second_serve_on_the_same_state_is_refused() {
    let world = World::new();
    let prime = world.prime().start();
    let output = prime.opri(&["serve"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("another `opri serve`"), "{error}");
    assert!(prime.status()["pid"].is_u64(), "the first is unharmed");
}

#[test]
fn a_port_in_use_is_told_with_its_holder() {
    let world = World::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    world.prime().http(&address).write("process");
    let output = opri().args(["serve", "--conf"]).arg(world.path().join("conf")).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains(&address) && error.contains(&format!("pid {}", std::process::id())), "{error}");
}

#[test]
fn no_engine_where_docker_is_demanded_is_told() {
    let world = World::new();
    world.prime().write("docker");
    let output = opri()
        .args(["serve", "--conf"])
        .arg(world.path().join("conf"))
        .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("no Docker engine answers"), "{error}");
}

#[test]
fn conf_that_does_not_parse_starts_nothing() {
    let world = World::new();
    world.prime().write("process");
    std::fs::write(world.path().join("conf/prime.toml"), "domain = \n").unwrap();
    for verb in ["serve", "check"] {
        let output = opri().args([verb, "--conf"]).arg(world.path().join("conf")).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(error.contains("prime.toml:1:"), "{verb}: {error}");
    }
}

#[test]
fn what_conf_names_and_is_not_here_is_a_warning() {
    let world = World::new();
    world.prime().project("shop", "repo = \"acme/nowhere\"\n").write("process");
    let check = |json: &[&str]| {
        let conf = world.path().join("conf");
        opri().arg("check").args(json).arg("--conf").arg(conf).output().unwrap()
    };
    let output = check(&[]);
    let (said, warned) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "conf is checked on other machines, too: {warned}");
    assert!(said.contains("conf is good: 1 project, 2 hosts; 1 warning"), "{said}");
    assert!(warned.starts_with("warning: ") && warned.contains("acme/nowhere is not there"), "{warned}");
    let json: serde_json::Value = serde_json::from_slice(&check(&["--json"]).stdout).unwrap();
    assert_eq!(json["warnings"][0]["excerpt"]["line"], 1);
}

#[test]
fn completions_are_printed() {
    let output = opri().args(["completions", "bash"]).output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("opri"));
}
