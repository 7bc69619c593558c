//! Control dies, the edge dies: what serves goes on.

use crate::visitors::Visitors;
use crate::world::{World, deployment};

#[test]
fn control_is_killed_under_load_and_the_next_one_adopts_the_edge() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page 1");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    let (edge, apps) = (prime.edge_pid(), prime.app_pids());

    let visitors = Visitors::come(&prime, 16, "shop.test", "page");
    prime.kill_control();
    visitors.ask_more(200);
    prime.start();
    visitors.ask_more(200);
    assert_eq!(prime.edge_pid(), edge, "the same edge");
    assert_eq!(prime.app_pids(), apps, "the same app");
    shop.commit("page 2");
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "page 2");
    visitors.go().is_flawless();
}

#[test]
fn control_is_killed_in_the_middle_of_a_deployment_and_finishes_it_later() {
    for place in ["build", "gate", "drain"] {
        let world = World::new();
        let shop = world.repo("shop");
        let hold = world.path().join("hold");
        let wait = format!("while test -e {}; do sleep 0.02; done", hold.display());
        shop.commit("page 1");
        let app = match place {
            "build" => format!("[app]\nbuild = \"{wait}\"\n"),
            "gate" => format!("[app]\nrelease = \"{wait}\"\n"),
            _ => "[app]\ndrain = \"20s\"\n".to_owned(),
        };
        let prime = world.prime().hosting(&shop, &app).start();
        prime.deploys(&shop, "master");
        let visitors = Visitors::come(&prime, 8, "shop.test", "page");
        let slow = (place == "drain").then(|| prime.begin("shop.test", "/slow?ms=3000"));
        if slow.is_some() {
            prime.until("a request is in flight", || prime.metric("opri_http_requests_in_flight") >= 1.0);
        } else {
            std::fs::write(&hold, "").unwrap();
        }
        shop.commit("page 2");
        let id = deployment(&prime.push(&shop, "master"));
        let stage = match place {
            "build" => "building",
            "gate" => "starting",
            _ => "draining",
        };
        prime.until(stage, || {
            prime.does(&["list", "--json"]).contains(&format!("\"stage\": \"{stage}\"")) || slow.is_some()
        });
        if slow.is_some() {
            prime.says("http://shop.test", "page 2");
        }
        prime.kill_control();
        visitors.ask_more(50);
        let _ = std::fs::remove_file(&hold);
        prime.start();
        prime.until_ended(&id, "live");
        prime.says("http://shop.test", "page 2");
        if let Some(slow) = slow {
            assert_eq!(prime.answer(slow).body, "page 1", "what was in flight is answered");
        }
        visitors.go().is_flawless();
        prime.until("one app is left", || prime.app_pids().len() == 1);
        let left = std::fs::read_dir(world.path().join("state/releases/shop/master")).unwrap().flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert_eq!(left.len(), 2, "only what served is left of the releases: {left:?}");
    }
}

#[test]
fn an_edge_that_dies_is_replaced_with_the_same_sockets() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    let (edge, address) = (prime.edge_pid(), prime.address("http"));
    assert!(std::process::Command::new("kill").args(["-9", &edge.to_string()]).status().unwrap().success());
    prime.says("http://shop.test", "page");
    let status = prime.status();
    assert_ne!(status["edge"]["pid"].as_u64(), Some(edge));
    assert_eq!(status["listeners"]["http"][0].as_str(), Some(address.to_string().as_str()));
    let _ = std::process::Command::new("kill").args(["-9", &status["edge"]["pid"].to_string()]).status();
    prime.says("http://shop.test", "page");
}

#[test]
fn a_control_that_leaves_lets_the_sites_go_on() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    let edge = prime.edge_pid();
    let visitors = Visitors::come(&prime, 8, "shop.test", "page");
    prime.signal("USR2");
    prime.control_ends();
    visitors.ask_more(50);
    prime.start();
    assert_eq!(prime.edge_pid(), edge);
    visitors.go().is_flawless();
}

#[test]
fn ctrl_c_ends_edge_and_apps() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    let edge = prime.edge_pid();
    prime.signal("INT");
    prime.control_ends();
    assert!(!std::path::Path::new(&format!("/proc/{edge}")).exists());
    assert!(prime.app_pids().is_empty());
    // And when it is started again, it serves again, and nobody calls it a crash.
    prime.start();
    prime.says("http://shop.test", "page");
    let logs = prime.logs();
    assert!(logs.contains("the app was stopped by Prime; it is started again"), "{logs}");
    assert!(!logs.contains("WARN") && !logs.contains("unknown status"), "{logs}");
}

#[test]
fn an_app_that_ended_while_control_was_away_is_started_and_told() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    // An earlier stop on purpose is no reason for what happens later.
    prime.signal("TERM");
    prime.control_ends();
    prime.start();
    prime.until("it is known that the apps are started", || prime.logs().contains("the app is back"));
    prime.kill_control();
    let app = prime.app_pids()[0];
    assert!(std::process::Command::new("kill").args(["-9", &app.to_string()]).status().unwrap().success());
    prime.start();
    prime.says("http://shop.test", "page");
    assert_eq!(prime.logs().matches("the app ended while Prime was away").count(), 1, "{}", prime.logs());
}

#[test]
fn a_project_whose_file_broke_while_control_was_away_stays_as_it_was() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    prime.kill_control();
    std::fs::write(prime.conf_file("projects/shop.toml"), "repo = \n").unwrap();
    prime.start();
    prime.says("http://shop.test", "page");
    assert!(prime.status()["faults"][0]["file"].as_str().is_some_and(|file| file.ends_with("shop.toml")));
    assert!(!prime.opri(&["reload"]).status.success());
    prime.says("http://shop.test", "page");
}

#[test]
fn an_edge_that_hangs_is_noticed_and_replaced_without_anybody_asking_for_anything() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    let edge = prime.edge_pid();
    assert!(std::process::Command::new("kill").args(["-STOP", &edge.to_string()]).status().unwrap().success());
    // Until its last thread stands, it may still take the connection, and the connection ends with it.
    prime.until("the edge stands", || threads_of(edge).iter().all(|state| *state == 'T'));
    let begun = prime.begin("shop.test", "/");
    assert_eq!(prime.answer(begun).body, "page", "whoever came meanwhile waited in the queue");
    let status = prime.status();
    assert_ne!(status["edge"]["pid"].as_u64(), Some(edge));
    let _ = std::process::Command::new("kill").args(["-9", &status["edge"]["pid"].to_string()]).status();
    prime.says("http://shop.test", "page");
}

/// The state of each thread of a process (proc_pid_stat(5): what follows the name in parentheses).
fn threads_of(pid: u64) -> Vec<char> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    stats.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
}
