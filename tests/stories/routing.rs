//! Hostnames go to what conf says.

use ::http::{Request, StatusCode};

use crate::world::World;

#[test]
fn hosts_go_to_their_release_and_the_others_redirect_to_the_canonical_one() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("shop");
    let prime = world
        .prime()
        .hosting(&shop, "[branches.master]\nhosts = [\"shop.test\", \"www.shop.test\", \"*.shop.test\"]\n");
    let prime = prime.start();
    prime.deploys(&shop, "master");
    prime.says("http://SHOP.test", "shop");
    prime.says("http://anything.shop.test", "shop");
    let redirect = prime.get("http://www.shop.test/a?b=c");
    assert_eq!(redirect.status, StatusCode::PERMANENT_REDIRECT);
    let location = redirect.header("location").to_owned();
    assert!(location.starts_with("http://shop.test") && location.ends_with("/a?b=c"), "{location}");
}

#[test]
fn an_unknown_host_is_404_and_a_known_one_with_nothing_running_is_503() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("shop");
    let prime = world.prime().hosting(&shop, "").start();
    assert_eq!(prime.get("http://stranger.test").status, StatusCode::NOT_FOUND);
    let absent = prime.get("http://shop.test");
    assert_eq!(absent.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!absent.header("retry-after").is_empty());
    assert!(absent.header("content-type").starts_with("text/html"), "{:?}", absent.headers);
    let json = Request::get("http://shop.test").header("accept", "application/json").body(Default::default());
    assert!(prime.ask(json.unwrap()).header("content-type").starts_with("application/json"));
}

#[test]
fn a_legacy_upstream_is_routed_and_502_when_it_is_broken() {
    let world = World::new();
    let listener = world.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    world.runtime.spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                let read = stream.read(&mut bytes).await.unwrap_or(0);
                let answer: &[u8] = match bytes[..read].starts_with(b"GET /broken") {
                    true => b"nonsense\r\n\r\n",
                    false => b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nlegacy",
                };
                let _ = stream.write_all(answer).await;
            });
        }
    });
    let prime = world.prime().project("old", &format!("upstream = \"{address}\"\n")).start();
    prime.says("http://old.test", "legacy");
    assert_eq!(prime.get("http://old.test/broken").status, StatusCode::BAD_GATEWAY);
    assert_eq!(prime.opri(&["deploy", "old"]).status.code(), Some(4));
}

#[test]
fn two_projects_that_claim_one_host_are_told_and_the_first_keeps_it() {
    let world = World::new();
    let (shop, blog) = (world.repo("shop"), world.repo("blog"));
    shop.commit("shop");
    blog.commit("blog");
    let prime = world.prime().hosting(&shop, "").hosting(&blog, "").start();
    prime.deploys(&shop, "master");
    prime.deploys(&blog, "master");
    std::fs::write(
        prime.conf_file("projects/blog.toml"),
        "repo = \"acme/blog\"\n[branches.master]\nhosts = [\"shop.test\"]\n",
    )
    .unwrap();
    let output = prime.opri(&["reload"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("two projects claim the same host") && error.contains("projects/blog.toml:3:10"), "{error}");
    assert!(error.contains("hint:"), "{error}");
    prime.says("http://shop.test", "shop");
    prime.says("http://blog.test", "blog");
}

#[test]
fn a_link_in_the_place_of_a_socket_is_not_followed() {
    let world = World::new();
    let secret = world.path().join("engine.sock");
    let listener = world.runtime.block_on(async { tokio::net::UnixListener::bind(&secret).unwrap() });
    let (socket, link) = (world.path().join("app.sock"), world.path().join("link.sock"));
    std::fs::hard_link(&secret, &socket).unwrap();
    std::os::unix::fs::symlink(&secret, &link).unwrap();
    world.runtime.spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = [0; 4096];
            let _ = stream.read(&mut bytes).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok").await;
        }
    });
    let prime = world
        .prime()
        .project("real", &format!("upstream = \"unix:{}\"\n", socket.display()))
        .project("linked", &format!("upstream = \"unix:{}\"\n", link.display()))
        .start();
    prime.says("http://real.test", "ok");
    assert!(prime.get("http://linked.test").status.is_server_error());
}
