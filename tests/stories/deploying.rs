//! What a deployment does, and what it leaves alone when it fails.

use ::http::{Request, StatusCode};

use crate::world::{World, deployment};

#[test]
fn master_and_dev_are_deployed_and_routed_each_by_itself() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("the master page");
    shop.on("dev").commit("the dev page");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    prime.deploys(&shop, "dev");
    prime.says("http://shop.test", "the master page");
    prime.says("http://dev.shop.test", "the dev page");
}

#[test]
fn a_broken_build_leaves_the_old_release_serving_and_keeps_its_log() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.write("build.sh", "echo all is well\n");
    shop.commit("good");
    let prime = world.prime().hosting(&shop, "[app]\nbuild = \"sh build.sh\"\n").start();
    prime.deploys(&shop, "master");

    shop.write("build.sh", "echo the compiler is not pleased; exit 4\n");
    shop.commit("bad");
    let reason = prime.until_ended(&deployment(&prime.push(&shop, "master")), "failed");
    assert!(reason.contains("exit status 4"), "{reason}");
    assert!(prime.does(&["logs", "--build", "shop"]).contains("the compiler is not pleased"));
    prime.says("http://shop.test", "good");
    assert!(prime.does(&["list"]).contains("failed while building"));
}

#[test]
fn an_app_that_never_gets_healthy_is_not_given_visitors() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("well");
    let prime = world.prime().hosting(&shop, "[app]\nhealth = { timeout = \"5s\", interval = \"100ms\" }\n").start();
    prime.deploys(&shop, "master");
    let well = prime.app_pids();

    shop.write("sick", "");
    shop.commit("unwell");
    let reason = prime.until_ended(&deployment(&prime.push(&shop, "master")), "failed");
    assert!(reason.contains("answered 500"), "{reason}");
    prime.says("http://shop.test", "well");
    assert_eq!(prime.app_pids(), well, "the sick app is gone, the well one untouched");
}

#[test]
fn an_app_that_crashes_at_its_start_fails_at_once_with_its_last_words() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.write("crash", "");
    shop.commit("x");
    let prime = world.prime().hosting(&shop, "").start();
    let reason = prime.until_ended(&deployment(&prime.push(&shop, "master")), "failed");
    assert!(reason.contains("the reason why it crashed"), "{reason}");
    assert!(reason.contains("exit status 3"), "{reason}");
}

#[test]
fn an_app_that_dies_after_the_swap_is_503_and_then_comes_back() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("alive");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    let before = prime.app_pids();
    let _ = prime.try_ask(Request::post("http://shop.test/die").body(Default::default()).unwrap());
    let answer = prime.eventually("http://shop.test", |answer| answer.status != StatusCode::BAD_GATEWAY);
    if answer.status == StatusCode::SERVICE_UNAVAILABLE {
        assert!(!answer.header("retry-after").is_empty());
    }
    prime.says("http://shop.test", "alive");
    assert_ne!(prime.app_pids(), before);
}

#[test]
fn a_release_command_runs_before_the_swap_and_its_failure_ends_the_deployment() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("one");
    let prime = world.prime().hosting(&shop, "[app]\nrelease = \"test ! -e refuse\"\n").start();
    prime.deploys(&shop, "master");
    shop.write("refuse", "");
    shop.commit("two");
    let reason = prime.until_ended(&deployment(&prime.push(&shop, "master")), "failed");
    assert!(reason.contains("release command"), "{reason}");
    prime.says("http://shop.test", "one");
}

#[test]
fn of_what_waits_only_the_newest_is_deployed() {
    let world = World::new();
    let shop = world.repo("shop");
    let first = shop.commit("first");
    let prime = world.prime().hosting(&shop, "[app]\nbuild = \"while test -e /tmp/hold-PATH; do sleep 0.05; done\"\n");
    let hold = world.path().join("hold");
    let prime = prime
        .project(
            "shop",
            &format!(
                "repo = \"acme/shop\"\n[app]\nbuild = \"while test -e {}; do sleep 0.05; done\"\n",
                hold.display()
            ),
        )
        .start();
    std::fs::write(&hold, "").unwrap();
    let running = deployment(&prime.hook(&prime.payload(&shop, "master", &first)));
    let second = deployment(&{
        let commit = shop.commit("second");
        prime.hook(&prime.payload(&shop, "master", &commit))
    });
    let third = deployment(&{
        let commit = shop.commit("third");
        prime.hook(&prime.payload(&shop, "master", &commit))
    });
    prime.until_ended(&second, "superseded");
    std::fs::remove_file(&hold).unwrap();
    prime.until_ended(&running, "superseded");
    prime.until_ended(&third, "live");
    prime.says("http://shop.test", "third");
}

#[test]
fn a_repository_that_cannot_be_fetched_or_run_says_so() {
    let world = World::new();
    let shop = world.repo("shop");
    std::fs::remove_file(shop.path.join("Procfile")).unwrap();
    shop.commit("x");
    let prime = world.prime().hosting(&shop, "").project("gone", "repo = \"acme/gone\"\n").start();
    let reason = prime.until_ended(&deployment(&prime.push(&shop, "master")), "failed");
    assert!(reason.contains("no Dockerfile and no run line"), "{reason}");
    let output = prime.opri(&["deploy", "gone"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("fetching") && error.contains("acme/gone"), "{error}");
}

#[test]
fn an_app_is_told_who_it_is_and_what_conf_gives_it() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.write("opri.toml", "run = \"env > seen; exec $(sed 's/web: exec //' Procfile | tr -d \\\"'\\\")\"\n");
    let commit = shop.commit("x");
    let prime = world.prime().hosting(&shop, "[app]\nenv = { COLOUR = \"blue\" }\n").start();
    prime.deploys(&shop, "master");
    let seen = std::fs::read_to_string(world.path().join("state/releases/shop/master/r1/seen")).unwrap();
    let expected = ["OPRI_PROJECT=shop", "OPRI_BRANCH=master", "OPRI_RELEASE=r1", "COLOUR=blue", "PORT=", "SOCKET=/"];
    for line in expected.map(str::to_owned).into_iter().chain([format!("OPRI_COMMIT={commit}")]) {
        assert!(seen.lines().any(|seen| seen.starts_with(&line)), "{line} in\n{seen}");
    }
    assert!(!seen.contains("CARGO"), "nothing of Prime's own environment:\n{seen}");
}

#[test]
fn releases_are_kept_for_a_rollback_and_older_ones_are_removed() {
    let world = World::new();
    let shop = world.repo("shop");
    let prime = world.prime();
    shop.commit("0");
    let text = std::fs::read_to_string(world.path().join("conf/prime.toml")).unwrap_or_default();
    assert!(text.is_empty());
    let prime = prime.hosting(&shop, "[app]\ndrain = \"1s\"\n").start();
    std::fs::write(prime.conf_file("prime.toml"), {
        let text = std::fs::read_to_string(prime.conf_file("prime.toml")).unwrap();
        format!("keep_releases = 2\n{text}")
    })
    .unwrap();
    prime.does(&["reload"]);
    for n in 1..=5 {
        shop.commit(&n.to_string());
        prime.deploys(&shop, "master");
    }
    let dir = world.path().join("state/releases/shop/master");
    prime.until("three releases are left", || {
        let names = std::fs::read_dir(&dir).unwrap().flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().starts_with('r')).count() == 3
    });
    assert_eq!(prime.does(&["releases", "shop"]).lines().count(), 4);
}

#[test]
fn environment_and_conf_belong_to_the_release_and_come_back_with_it() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.write("opri.toml", "run = \"env > seen; exec $(sed 's/web: exec //' Procfile | tr -d \\\"'\\\")\"\n");
    shop.commit("one");
    let conf = |app: &str| format!("repo = \"acme/shop\"\n[app]\n{app}\n");
    let prime = world.prime().project("shop", &conf("env = { COLOUR = \"blue\", OLD = \"1\" }")).start();
    prime.deploys(&shop, "master");
    // What the newest start of a release was given; nothing when there was none since it was asked last.
    let given = |release: &str| {
        let seen = world.path().join(format!("state/releases/shop/master/{release}/seen"));
        let text = std::fs::read_to_string(&seen).unwrap_or_default();
        if !text.is_empty() {
            std::fs::remove_file(seen).unwrap();
        }
        let is_said = |line: &&str| ["COLOUR", "OLD", "OPRI_REPLICA"].contains(&line.split('=').next().unwrap());
        let mut lines: Vec<String> = text.lines().filter(is_said).map(str::to_owned).collect();
        lines.sort();
        lines.join(" ")
    };
    let first = "COLOUR=blue OLD=1 OPRI_REPLICA=0";
    assert_eq!(given("r1"), first);
    std::fs::write(prime.conf_file("projects/shop.toml"), conf("env = { COLOUR = \"red\" }\nreplicas = 2")).unwrap();
    prime.does(&["reload"]);
    // A restart starts what was released, whatever conf says by now.
    let _ = prime.try_ask(Request::post("http://shop.test/die").body(Default::default()).unwrap());
    let mut again = String::new();
    prime.until("it is started again", || {
        again = given("r1");
        !again.is_empty()
    });
    assert_eq!(again, first);
    prime.says("http://shop.test", "one");

    shop.commit("two");
    prime.deploys(&shop, "master");
    assert!(given("r2").starts_with("COLOUR=red OPRI_REPLICA="));
    prime.does(&["rollback", "shop"]);
    prime.says("http://shop.test", "one");
    assert_eq!(given("r1"), first);
    let list: Vec<serde_json::Value> = serde_json::from_str(&prime.does(&["list", "--json"])).unwrap();
    assert_eq!(list.iter().find(|line| line["branch"] == "master").unwrap()["replicas"], 1);
}
