//! Another edge, or another control, takes over: nobody who visits notices.

use std::path::Path;

use crate::long_lived::WebSocket;
use crate::visitors::{Visitors, Way};
use crate::world::{Prime, Repo, World, story_app};

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

#[test]
fn a_binary_that_ends_hangs_or_refuses_never_takes_over() {
    let world = World::new();
    world.install();
    let (prime, shop) = begin(&world);
    let edge = serving(&prime);
    let visitors = Visitors::come_by(&Way::ALL, &prime, 8, ("shop.test", "page"));
    let refusing = format!("exec {} refusing-edge \"$@\"", story_app().display());
    for (script, why) in [
        ("echo the reason why it ends; exit 3", "the reason why it ends"),
        ("sleep 1000", "did not answer within 10 s"),
        (refusing.as_str(), "this conf is not for me"),
    ] {
        world.install_script(script);
        let output = prime.opri(&["upgrade"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(why) && said.contains("the edge that serves goes on"), "{script}: {said}");
        assert_eq!(serving(&prime), edge, "{script}");
        visitors.ask_more(100);
        prime.until("nothing is left of it", || prime.edge_pids() == [edge] && sockets(&world) == ["edge.sock"]);
    }
    // What serves can still be changed, and a binary that is well can still take over.
    shop.commit("page 2");
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "page 2");
    world.install();
    prime.does(&["upgrade"]);
    assert_ne!(serving(&prime), edge);
    visitors.ask_more(100);
    visitors.go().is_flawless();
}

#[test]
fn a_newer_binary_takes_the_place_of_edge_and_control() {
    let world = World::new();
    world.install();
    let (prime, shop) = begin(&world);
    let (edge, control, apps) = (serving(&prime), prime.control_pid(), prime.app_pids());
    let binary = prime.status()["binary"].clone();
    let visitors = Visitors::come_by(&Way::ALL, &prime, 8, ("shop.test", "page"));
    world.install();
    let said = prime.does(&["upgrade"]);
    assert!(said.contains(&format!("control {} (pid {control}) goes on", env!("CARGO_PKG_VERSION"))), "{said}");
    assert_ne!(prime.status()["binary"], binary);
    let renewed = serving(&prime);
    assert_ne!(renewed, edge);
    assert_eq!(prime.app_pids(), apps);
    // The next upgrade finds nothing newer for control.
    prime.does(&["upgrade"]);
    visitors.ask_more(100);
    // Children of the control before are this one's, and are reaped.
    shop.commit("page 2");
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "page 2");
    prime.until("the app before is gone", || prime.app_pids().len() == 1);
    visitors.go().is_flawless();
    prime.until("no edge is left but one", || prime.edge_pids() == [serving(&prime)]);
    prime.until("nobody is left unreaped", || children_that_ended(control) == 0);
}

#[test]
fn a_control_from_another_file_replaces_the_edge_that_it_finds() {
    let world = World::new();
    world.install();
    let (prime, _) = begin(&world);
    let edge = serving(&prime);
    let visitors = Visitors::come_by(&Way::ALL, &prime, 8, ("shop.test", "page"));
    prime.signal("USR2");
    prime.control_ends();
    world.install();
    prime.start();
    prime.until("another edge serves", || serving(&prime) != edge);
    visitors.ask_more(100);
    visitors.go().is_flawless();
    prime.until("the one before is gone", || prime.edge_pids() == [serving(&prime)]);
}

#[test]
fn a_control_that_dies_in_the_midst_of_an_upgrade_leaves_nothing_unsettled() {
    let world = World::new();
    world.install();
    let (prime, shop) = begin(&world);
    let (edge, hold) = (serving(&prime), world.path().join("hold"));
    let visitors = Visitors::come_by(&Way::ALL, &prime, 8, ("shop.test", "page"));
    // The new edge comes up only after the control that started it is gone.
    std::fs::write(&hold, "").unwrap();
    let real = world.path().join("opri.real");
    std::fs::copy(world.binary(), &real).unwrap();
    let wait = format!("while test -e {}; do sleep 0.02; done", hold.display());
    world.install_script(&format!("{wait}; exec {} \"$@\"", real.display()));
    let upgrading = prime.begin_opri(&["upgrade"]);
    prime.until("the new edge is started", || prime.edge_pids().len() == 2);
    prime.kill_control();
    std::fs::remove_file(&hold).unwrap();
    assert!(!upgrading.wait_with_output().unwrap().status.success());
    prime.until("the new edge can be reached", || sockets(&world).len() == 2);
    world.install();
    prime.start();
    prime.until("one edge is left", || prime.edge_pids() == [serving(&prime)] && sockets(&world) == ["edge.sock"]);
    visitors.ask_more(100);

    // One that finishes is found again, and goes on until what it began is over.
    let before = serving(&prime);
    let mut socket = WebSocket::open(&prime, "shop.test");
    prime.does(&["upgrade"]);
    assert!(before != edge || prime.edge_pids().len() == 2);
    prime.kill_control();
    prime.start();
    shop.commit("page 2");
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "page 2");
    assert_eq!(socket.echoes("hello"), "hello");
    visitors.go().is_flawless();
    drop(socket);
    prime.until("one edge and one app are left", || {
        prime.edge_pids() == [serving(&prime)] && sockets(&world) == ["edge.sock"] && prime.app_pids().len() == 1
    });
}

#[test]
fn any_number_of_listeners_is_handed_on() {
    for count in [33, 300] {
        let world = World::new();
        let shop = world.repo("shop");
        shop.commit("page");
        let many = vec!["\"127.0.0.1:0\""; count].join(", ");
        let prime = world.prime().hosting(&shop, "").listening(&format!("proxied_http = [{many}]\n"));
        let prime = prime.with("[trust]\nproxies = [\"127.0.0.1\"]\n").start();
        let addresses = || prime.status()["listeners"]["proxied_http"].as_array().unwrap().clone();
        let before = addresses();
        assert_eq!(before.len(), count);
        prime.does(&["upgrade"]);
        assert_eq!(addresses(), before);
        prime.until("one edge is left", || prime.edge_pids() == [serving(&prime)]);
        let lines = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let listens = |address: &serde_json::Value| {
            let port: u16 = address.as_str().unwrap().rsplit_once(':').unwrap().1.parse().unwrap();
            lines.contains(&format!(":{port:04X} 00000000:0000 0A"))
        };
        assert!(before.iter().all(listens));
    }
}

#[test]
fn sockets_that_a_service_manager_opened_are_used_and_strays_are_closed() {
    use std::os::fd::OwnedFd;
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page 1");
    let web = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = web.local_addr().unwrap();
    // Its port is free for a moment, so that Prime comes up and deploys by itself first.
    drop(web);
    let prime = world.prime().hosting(&shop, "").http(&address.to_string()).start();
    prime.deploys(&shop, "master");
    prime.signal("TERM");
    prime.control_ends();
    let web = std::net::TcpListener::bind(address).unwrap();
    let mut shell = std::process::Command::new("sh");
    // 3 is the socket, 4 is none.
    let open =
        "exec 3<&0 4</dev/null 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:stray exec \"$0\" \"$@\"";
    shell.args(["-c", open]).arg(world.binary());
    prime.start_by(shell, OwnedFd::from(web).into());
    prime.says("http://shop.test", "page 1");
    assert!(prime.logs().contains("is no TCP socket that listens; it is closed name=\"stray\""), "{}", prime.logs());
    // It is the very socket: what comes after control and edge have it as well.
    prime.does(&["upgrade"]);
    prime.says("http://shop.test", "page 1");
    // Another address than conf names is closed: whoever connects is refused.
    prime.signal("TERM");
    prime.control_ends();
    let (web, other) =
        (std::net::TcpListener::bind(address).unwrap(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let elsewhere = other.local_addr().unwrap();
    drop(web);
    let mut shell = std::process::Command::new("sh");
    let open = "exec 3<&0 0</dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=other exec \"$0\" \"$@\"";
    shell.args(["-c", open]).arg(world.binary());
    prime.start_by(shell, OwnedFd::from(other).into());
    prime.says("http://shop.test", "page 1");
    assert!(std::net::TcpStream::connect(elsewhere).is_err(), "{}", prime.logs());
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
