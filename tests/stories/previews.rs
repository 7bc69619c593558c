//! A branch that no file names has a host while somebody pushes to it.

use ::http::{Request, StatusCode};
use http_body_util::Full;

use crate::http::Answer;
use crate::long_lived::WebSocket;
use crate::world::{Prime, Repo, World, deployment, ignored};

/// Commits and pushes a page to a branch, and waits until it serves.
fn pushes(prime: &Prime<'_>, shop: &Repo, branch: &str, text: &str) {
    shop.on(branch).commit(text);
    prime.deploys(shop, branch);
    prime.says(&format!("http://{branch}.shop.test"), text);
}

fn robots(answer: &Answer) -> &str {
    answer.header("x-robots-tag")
}

fn is_gone(prime: &Prime<'_>, branch: &str) {
    prime.eventually(&format!("http://{branch}.shop.test"), |answer| answer.status == StatusCode::NOT_FOUND);
    let releases = prime.world.path().join("state/releases/shop").join(branch);
    prime.until("nothing of it is left", || std::fs::read_dir(&releases).is_ok_and(|mut left| left.next().is_none()));
}

#[test]
fn a_branch_is_shown_to_people_and_to_no_search_engine() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("master");
    shop.write("opri.toml", "run = \"env > seen; exec $(sed 's/web: exec //' Procfile | tr -d \\\"'\\\")\"\n");
    let env = "[previews]\n[app]\nenv = { SECRET_KEY = \"of the machine\" }\n";
    let prime = world.prime().hosting(&shop, env).start();
    prime.deploys(&shop, "master");
    pushes(&prime, &shop, "new-look", "a preview");

    for scheme in ["http", "https"] {
        let url = |path: &str| format!("{scheme}://new-look.shop.test{path}");
        for (path, cache) in [("/", "fwd=miss"), ("/stored", "opri;"), ("/stored", "hit"), ("/nothing", "fwd")] {
            let shown = prime.get(&url(path));
            assert_eq!(robots(&shown), "noindex", "{path} {cache} {shown:?}");
            assert!(shown.header("cache-status").contains(cache), "{path} {cache} {shown:?}");
        }
        let posted = Request::post(url("/echo")).body(Full::from("a body")).unwrap();
        assert_eq!(robots(&prime.ask(posted)), "noindex");
    }
    assert_eq!(robots(&prime.get("http://shop.test/")), "");
    let seen = world.path().join("state/releases/shop/new-look/r1/seen");
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains("OPRI_BRANCH=new-look") && seen.contains("OPRI_URL=http://new-look.shop.test"), "{seen}");
    assert!(!seen.contains("of the machine"), "{seen}");

    prime.kill_control();
    prime.start();
    prime.says("http://new-look.shop.test", "a preview");
    prime.does(&["reload"]);
    prime.says("http://new-look.shop.test", "a preview");
    assert!(prime.does(&["list"]).contains("new-look"));
}

#[test]
fn the_one_that_was_pushed_to_longest_ago_makes_room() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("master");
    let prime = world.prime().hosting(&shop, "[previews]\nmax = 2\n").start();
    prime.deploys(&shop, "master");
    pushes(&prime, &shop, "one", "page 1");
    pushes(&prime, &shop, "two", "page 2");
    pushes(&prime, &shop, "one", "page 3");
    pushes(&prime, &shop, "three", "page 4");
    is_gone(&prime, "two");
    prime.says("http://one.shop.test", "page 3");
    pushes(&prime, &shop, "two", "page 5");
    is_gone(&prime, "one");
    prime.says("http://shop.test", "master");
    prime.until("three apps are left", || prime.app_pids().len() == 3);
}

#[test]
fn one_that_comes_back_while_somebody_listens_to_it_stays_and_others_go() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("master");
    let prime = world.prime().hosting(&shop, "[previews]\nmax = 1\n").start();
    prime.deploys(&shop, "master");
    pushes(&prime, &shop, "one", "page 1");
    let mut socket = WebSocket::open(&prime, "one.shop.test");
    pushes(&prime, &shop, "two", "page 2");
    assert_eq!(socket.echoes("still here"), "still here");
    pushes(&prime, &shop, "one", "page 3");
    is_gone(&prime, "two");
    drop(socket);
    pushes(&prime, &shop, "one", "page 4");
    prime.until("two apps are left", || prime.app_pids().len() == 2);
    prime.kill_control();
    prime.start();
    prime.says("http://one.shop.test", "page 4");
}

#[test]
fn a_preview_ends_with_its_time_or_its_branch_or_its_file() {
    let world = World::new();
    let (shop, blog) = (world.repo("shop"), world.repo("blog"));
    shop.commit("master");
    blog.commit("master");
    let prime = world.prime().with("reconcile = \"1s\"\n").hosting(&shop, "[previews]\n").hosting(&blog, "").start();
    prime.deploys(&shop, "master");
    pushes(&prime, &shop, "merged", "page 1");
    shop.on("other").git(&["branch", "--quiet", "--delete", "--force", "merged"]);
    is_gone(&prime, "merged");

    pushes(&prime, &shop, "old", "page 2");
    let file = prime.conf_file("projects/shop.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("[previews]", "[previews]\nttl = \"1s\"")).unwrap();
    is_gone(&prime, "old");

    std::fs::write(&file, &text).unwrap();
    prime.does(&["reload"]);
    pushes(&prime, &shop, "last", "page 3");
    std::fs::write(&file, text.replace("[previews]", "")).unwrap();
    is_gone(&prime, "last");
    for (repo, branch) in [(&shop, "last"), (&blog, "never")] {
        repo.on(branch).commit("page 4");
        assert!(ignored(&prime.push(repo, branch)).contains("has no branch"));
    }
}

#[test]
fn a_preview_takes_nobodys_host() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("master");
    let hosts = "[previews]\n[branches.master]\nhosts = [\"shop.test\", \"help.shop.test\"]\n";
    let prime = world.prime().hosting(&shop, hosts).start();
    prime.deploys(&shop, "master");
    shop.on("help").commit("not the help");
    assert!(ignored(&prime.push(&shop, "help")).contains("its host is another's"));
    assert_eq!(prime.get("http://help.shop.test").status, StatusCode::PERMANENT_REDIRECT);
    let commit = shop.on("feature/Look").commit("a slash");
    let answer = prime.hook(&prime.payload(&shop, "feature/Look", &commit));
    prime.until_ended(&deployment(&answer), "live");
    let list = prime.does(&["list", "--json"]);
    let host = list.split('"').find(|word| word.contains("feature-look-")).unwrap();
    prime.says(host, "a slash");
}
