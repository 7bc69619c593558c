//! Another edge, or another control, takes over: nobody who visits notices.

use std::path::Path;

use ::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http;
use crate::visitors::{Visitors, Way};
use crate::world::{Prime, Repo, World};

/// How often the edge is replaced: three times, or as often as `OPRI_UPGRADES` says.
fn upgrades() -> usize {
    std::env::var("OPRI_UPGRADES").ok().and_then(|count| count.parse().ok()).unwrap_or(3)
}

fn begin(world: &World) -> (Prime<'_>, Repo) {
    let shop = world.repo("shop");
    shop.commit("page 1");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "page 1");
    (prime, shop)
}

#[test]
fn the_edge_is_replaced_again_and_again_under_visitors_of_every_kind() {
    let world = World::new();
    let (prime, _) = begin(&world);
    let descriptors = descriptors_of(prime.control_pid());
    let mut socket = WebSocket::open(&prime, "shop.test");
    let visitors = Visitors::come_by(&Way::ALL, &prime, 16, ("shop.test", "page 1"));
    let mut edges = vec![serving(&prime)];
    for _ in 0..upgrades() {
        let said = prime.does(&["upgrade"]);
        edges.push(serving(&prime));
        assert!(said.contains(&format!("(pid {}) serves", edges[edges.len() - 1])), "{said}");
        visitors.ask_more(200);
        assert_eq!(socket.echoes("hello"), "hello", "it lives on in the edge that it began with");
    }
    let tally = visitors.go();
    tally.is_flawless();
    println!("{} upgrades, {:?} requests, {} failed", upgrades(), tally.requests, tally.failed());
    edges.sort_unstable();
    edges.dedup();
    assert_eq!(edges.len(), upgrades() + 1, "another one each time");
    drop(socket);
    prime.until("only one edge is left", || prime.edge_pids() == [serving(&prime)]);
    prime.until("no socket is left of the others", || sockets(&world) == ["edge.sock"]);
    prime.until("no descriptor is left of the others", || descriptors_of(prime.control_pid()) <= descriptors);
    assert_eq!(children_that_ended(prime.control_pid()), 0);
}

/// The pid of the edge that serves now.
fn serving(prime: &Prime<'_>) -> u32 {
    prime.status()["edge"]["pid"].as_u64().unwrap().try_into().unwrap()
}

/// Where edges listen for control.
fn sockets(world: &World) -> Vec<String> {
    let entries = std::fs::read_dir(world.path().join("state/run")).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("edge.") && name.ends_with(".sock")).collect()
}

fn descriptors_of(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// How many children a process has that nobody has reaped.
fn children_that_ended(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let children = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let children = children.collect::<Vec<_>>().join(" ");
    let is_zombie = |child: &&str| {
        let stat = std::fs::read_to_string(Path::new("/proc").join(child).join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))
    };
    children.split_whitespace().filter(is_zombie).count()
}

/// A connection that an app echoes.
struct WebSocket<'p> {
    prime: &'p Prime<'p>,
    stream: TokioIo<Upgraded>,
}

impl<'p> WebSocket<'p> {
    fn open(prime: &'p Prime<'p>, host: &str) -> Self {
        let stream = prime.world.runtime.block_on(async {
            let mut sender = http::http1(http::tcp(prime.address("http")).await?).await?;
            let request = Request::get("/ws")
                .header("host", host)
                .header("connection", "Upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
                .body(Full::<Bytes>::default())
                .unwrap();
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
            hyper::upgrade::on(response).await.map_err(|error| error.to_string())
        });
        Self { prime, stream: TokioIo::new(stream.unwrap()) }
    }

    fn echoes(&mut self, text: &str) -> String {
        let mut back = vec![0; text.len()];
        let echoed = self.prime.world.runtime.block_on(async {
            self.stream.write_all(text.as_bytes()).await?;
            self.stream.read_exact(&mut back).await
        });
        echoed.unwrap_or_else(|error| panic!("{error}\n{}", self.prime.logs()));
        String::from_utf8(back).unwrap()
    }
}
