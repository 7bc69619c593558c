//! Conf is edited, and what changed holds; what did not change is not touched.

use ::http::StatusCode;

use crate::visitors::Visitors;
use crate::world::World;

#[test]
fn a_new_project_file_is_taken_by_itself_and_touches_nobody() {
    let world = World::new();
    let (shop, blog) = (world.repo("shop"), world.repo("blog"));
    shop.commit("shop");
    blog.commit("blog");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    let (apps, edge) = (prime.app_pids(), prime.edge_pid());

    let visitors = Visitors::come(&prime, 8, "shop.test", "shop");
    std::fs::write(prime.conf_file("projects/blog.toml"), "repo = \"acme/blog\"\n").unwrap();
    prime.eventually("http://blog.test", |answer| answer.status == StatusCode::SERVICE_UNAVAILABLE);
    prime.deploys(&blog, "master");
    prime.says("http://blog.test", "blog");
    visitors.ask_more(50);
    visitors.go().is_flawless();
    assert!(apps.iter().all(|app| prime.app_pids().contains(app)));
    assert_eq!(prime.status()["edge"]["pid"].as_u64(), Some(edge));
}

#[test]
fn a_bad_file_changes_nothing_and_is_reported_with_its_place() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("shop");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");

    let good = std::fs::read_to_string(prime.conf_file("prime.toml")).unwrap();
    std::fs::write(prime.conf_file("prime.toml"), format!("domian = \"x.test\"\n{good}")).unwrap();
    let output = prime.opri(&["reload"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("prime.toml:1:1") && error.contains("domain"), "{error}");
    prime.says("http://shop.test", "shop");
    assert_eq!(prime.metric("opri_config_last_reload_success"), 0.0);

    std::fs::write(prime.conf_file("prime.toml"), good).unwrap();
    prime.until("the good conf is back", || prime.metric("opri_config_last_reload_success") == 1.0);
}

#[test]
fn sighup_reloads_and_a_removed_project_ends() {
    let world = World::new();
    let (shop, blog) = (world.repo("shop"), world.repo("blog"));
    shop.commit("shop");
    blog.commit("blog");
    let prime = world.prime().hosting(&shop, "").hosting(&blog, "[app]\ndrain = \"1s\"\n").start();
    prime.deploys(&shop, "master");
    prime.deploys(&blog, "master");
    assert_eq!(prime.app_pids().len(), 2);

    std::fs::remove_file(prime.conf_file("projects/blog.toml")).unwrap();
    prime.signal("HUP");
    prime.eventually("http://blog.test", |answer| answer.status == StatusCode::NOT_FOUND);
    prime.until("its app ends", || prime.app_pids().len() == 1);
    prime.says("http://shop.test", "shop");

    // When it is named again, what served before serves again.
    std::fs::write(prime.conf_file("projects/blog.toml"), "repo = \"acme/blog\"\n").unwrap();
    prime.does(&["reload"]);
    prime.says("http://blog.test", "blog");
}

#[test]
fn listeners_come_and_go_while_it_runs() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("shop");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    let old = prime.address("http");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = std::fs::read_to_string(prime.conf_file("prime.toml")).unwrap();
    let text = text.replace("http = \"127.0.0.1:0\"", &format!("http = \"{free}\""));
    std::fs::write(prime.conf_file("prime.toml"), text).unwrap();
    prime.does(&["reload"]);
    let ask = |address: std::net::SocketAddr| {
        world.runtime.block_on(async {
            let mut sender = crate::http::http1(crate::http::tcp(address).await?).await?;
            let request = ::http::Request::get("/").header("host", "shop.test").body(Default::default()).unwrap();
            crate::http::send(&mut sender, request).await
        })
    };
    assert_eq!(ask(free).unwrap().body, "shop");
    prime.until("the old address is closed", || ask(old).is_err());
}

#[test]
fn a_projects_directory_that_is_gone_ends_nobody() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("shop");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    std::fs::rename(prime.conf_file("projects"), prime.conf_file("moved")).unwrap();
    assert_eq!(prime.opri(&["reload"]).status.code(), Some(1));
    prime.says("http://shop.test", "shop");
}
