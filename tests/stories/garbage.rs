//! Garbage: what is kept, what goes, and how much there is; never what serves or what a rollback needs.

use std::fs;

use crate::world::{Prime, World, deployment};

/// The names in a directory that begin so, sorted.
fn names(prime: &Prime<'_>, dir: &str, begin: &str) -> Vec<String> {
    let entries = fs::read_dir(prime.world.path().join("state").join(dir)).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(begin)).collect();
    names.sort();
    names
}

#[test]
fn the_release_that_a_rollback_goes_to_is_kept_and_logs_go_with_their_releases() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("0");
    let prime = world.prime().above("keep_releases = 2\n").hosting(&shop, "[app]\ndrain = \"1s\"\n").start();
    for number in 1..=4 {
        shop.commit(&number.to_string());
        prime.deploys(&shop, "master");
    }
    prime.until("r1 is gone", || names(&prime, "releases/shop/master", "r") == ["r2", "r3", "r4"]);
    prime.until("its logs too", || names(&prime, "logs/shop/master", "r") == ["r2.log", "r3.log", "r4.log"]);

    // From here, the release before the one that serves is one of the oldest there are.
    prime.does(&["rollback", "shop", "r3"]);
    prime.says("http://shop.test", "3");
    shop.write("opri.toml", "build = \"exit 3\"\n");
    for number in 0..12 {
        shop.commit(&format!("broken {number}"));
        prime.until_ended(&deployment(&prime.push(&shop, "master")), "failed");
    }
    // Those of r2, r3 and r4, and the ten newest others.
    prime.until("old failures are forgotten", || names(&prime, "logs/shop/master", "build-").len() == 13);
    assert_eq!(names(&prime, "releases/shop/master", "r"), ["r2", "r3", "r4"]);
    prime.does(&["rollback", "shop"]);
    prime.says("http://shop.test", "2");
    assert_eq!(prime.opri(&["logs", "--build", "--release", "r2", "shop"]).status.code(), Some(0));
}

#[test]
fn when_room_is_short_one_release_is_kept_beside_the_one_that_serves() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("1");
    let prime = world.prime().above("keep_free = \"0\"\n").hosting(&shop, "[app]\ndrain = \"1s\"\n").start();
    prime.deploys(&shop, "master");
    for number in 2..=4 {
        shop.commit(&number.to_string());
        prime.deploys(&shop, "master");
    }
    assert_eq!(prime.does(&["releases", "shop"]).lines().count(), 5);
    // No disk of a test machine has as much.
    let conf = fs::read_to_string(prime.conf_file("prime.toml")).unwrap();
    fs::write(prime.conf_file("prime.toml"), conf.replace("keep_free = \"0\"", "keep_free = \"900TiB\"")).unwrap();
    prime.does(&["reload"]);
    shop.commit("5");
    prime.deploys(&shop, "master");
    prime.until("two are left", || names(&prime, "releases/shop/master", "r") == ["r4", "r5"]);
    prime.says("http://shop.test", "5");
    prime.does(&["rollback", "shop"]);
    prime.says("http://shop.test", "4");
    prime.until("it is said", || prime.logs().contains("less room is left than `keep_free`"));
}

#[test]
fn what_lies_on_disk_is_told() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.write("large", &"x".repeat(8 << 20));
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    let series = |kind: &str| {
        let begin = format!("opri_disk_bytes{{kind=\"{kind}\"}} ");
        let value = prime.metrics().lines().find_map(|line| line.strip_prefix(&begin)?.parse::<f64>().ok());
        value.unwrap_or(0.0)
    };
    prime.until("the release is measured", || series("releases") >= f64::from(8 << 20));
    assert!(series("git") > 0.0 && series("logs") > 0.0, "{}", prime.metrics());
    assert!(prime.status()["disk"]["releases"].as_u64().unwrap() >= 8 << 20);
    assert!(prime.does(&["status"]).lines().any(|line| line.starts_with("disk ") && line.contains("releases 9 MiB")));
}
