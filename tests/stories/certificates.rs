//! HTTPS works from the first minute, and certificates are exchanged without a restart.

use std::process::{Child, Command};
use std::time::Instant;

use ::http::{Request, StatusCode};
use serde_json::json;

use crate::http;
use crate::world::{LOOK_AGAIN, PATIENCE, World};

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
    let root = prime.root();
    let stranger = http::tls(prime.address("https"), "stranger.test", &root, "http/1.1");
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
pub fn issue(host: &str) -> (String, String, String) {
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
    let http_port = free_port();
    let pebble = Pebble::start(&world, http_port);
    let root = pebble.issuing_root(&world);
    let acme = format!("\n[acme]\ndirectory = \"{}\"\nroot = \"pebble-root.pem\"\n", pebble.directory);
    let prime = world.prime().http(&format!("127.0.0.1:{http_port}")).with(&acme).hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    prime.until("pebble's certificate is served", || {
        let shaken = http::tls(prime.address("https"), "shop.test", &root, "http/1.1");
        world.runtime.block_on(shaken).is_ok()
    });
    // It is one that browsers trust, as far as Prime can know.
    prime.eventually("http://shop.test", |answer| answer.status == StatusCode::PERMANENT_REDIRECT);
    assert!(prime.metrics().contains("opri_certificate_expiry_timestamp_seconds{host=\"shop.test\"}"));
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Debian's pebble with its DNS, in which every name is 127.0.0.1.
struct Pebble {
    children: Vec<Child>,
    directory: String,
    management: u16,
    api_root: String,
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
    fn start(world: &World, http_port: u16) -> Self {
        let (api, management, dns) = (free_port(), free_port(), free_port());
        let (api_root, chain, key) = issue("localhost");
        std::fs::write(world.path().join("pebble-root.pem"), &api_root).unwrap();
        std::fs::write(world.path().join("api.crt"), chain).unwrap();
        std::fs::write(world.path().join("api.key"), key).unwrap();
        let config = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{api}"), "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": "api.crt", "privateKey": "api.key", "httpPort": http_port, "tlsPort": 1,
            "ocspResponderURL": "", "externalAccountBindingRequired": false
        }});
        std::fs::write(world.path().join("pebble.json"), config.to_string()).unwrap();
        let dns = format!("127.0.0.1:{dns}");
        let names = ["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", &dns, "-management", ""];
        let off = ["-http01", "", "-https01", "", "-tlsalpn01", ""];
        let run = |program: &str, arguments: &[&str]| {
            let log = std::fs::File::create(world.path().join(format!("{program}.log"))).unwrap();
            let mut command = Command::new(program);
            command.args(arguments).current_dir(world.path()).env("PEBBLE_VA_NOSLEEP", "1");
            command.env("PEBBLE_WFE_NONCEREJECT", "20").stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
        };
        let children = vec![
            run("pebble-challtestsrv", &[&names[..], &off[..]].concat()),
            run("pebble", &["-config", "pebble.json", "-dnsserver", &dns]),
        ];
        Self { children, directory: format!("https://localhost:{api}/dir"), management, api_root }
    }

    /// The root under which it issues, new at each start.
    fn issuing_root(&self, world: &World) -> String {
        let address = format!("127.0.0.1:{}", self.management).parse().unwrap();
        let ask = || {
            world.runtime.block_on(async {
                let mut sender =
                    http::http1(http::tls(address, "localhost", &self.api_root, "http/1.1").await?).await?;
                let request = Request::get("/roots/0").header("host", "localhost").body(Default::default()).unwrap();
                http::send(&mut sender, request).await
            })
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            match ask() {
                Ok(answer) => return answer.body,
                Err(error) => assert!(Instant::now() < deadline, "pebble does not answer: {error}"),
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}
