//! The keeper with the local CA, with a person's files, with a CA that is away, and with Debian's pebble.

use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::model::certificate::Validity;
use crate::model::machine::Challenge;

struct World {
    dir: tempfile::TempDir,
    wanted: watch::Sender<Wanted>,
    published: watch::Receiver<Vec<Certificate>>,
    challenges: Challenges,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn world(dir: tempfile::TempDir, hosts: &[&str], acme: Option<Acme>) -> World {
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    let (wanted, receiver) = watch::channel(Wanted { certs_dir: dir.path().to_owned(), hosts, acme });
    let (out, published) = watch::channel(Vec::new());
    let challenges = Challenges::default();
    let task = tokio::spawn(run(receiver, challenges.clone(), out));
    World { dir, wanted, published, challenges, task }
}

impl World {
    async fn until(&mut self, is_so: impl Fn(&[Certificate]) -> bool) -> Vec<Certificate> {
        let waited = tokio::time::timeout(Duration::from_secs(30), self.published.wait_for(|set| is_so(set))).await;
        waited.expect("not published in time").unwrap().clone()
    }
}

fn issuer_of(host: &str, set: &[Certificate]) -> Option<Issuer> {
    let host: HostPattern = host.parse().unwrap();
    set.iter().find(|certificate| certificate.files.hosts.contains(&host)).map(|certificate| certificate.issuer)
}

fn acme(directory: &str, root: Option<PathBuf>) -> Option<Acme> {
    Some(Acme { email: None, directories: vec![directory.to_owned()], root, challenges: vec![Challenge::Http01] })
}

#[tokio::test]
async fn without_acme_every_host_has_a_local_certificate_and_keeps_it() {
    let hosts = ["a.localhost", "*.a.localhost", "b.test", "127.0.0.1"];
    let mut first = world(tempfile::tempdir().unwrap(), &hosts, None);
    let set = first.until(|set| set.len() == 4).await;
    assert!(hosts.iter().all(|host| issuer_of(host, &set) == Some(Issuer::Local)));
    let again = Wanted { hosts: hosts.iter().map(|h| h.parse().unwrap()).collect(), ..first.wanted.borrow().clone() };
    let (wanted, receiver) = watch::channel(again);
    let (out, mut published) = watch::channel(Vec::new());
    let second = tokio::spawn(run(receiver, Challenges::default(), out));
    assert_eq!(*published.wait_for(|set| !set.is_empty()).await.unwrap(), set);

    // Somebody moved the CA away to have a new one.
    std::fs::remove_dir_all(first.dir.path().join("ca")).unwrap();
    wanted.send_modify(|_| ());
    let is_other = |now: &Vec<Certificate>| now.len() == 4 && now.iter().all(|certificate| !set.contains(certificate));
    published.wait_for(is_other).await.unwrap();
    drop(wanted);
    second.await.unwrap();
}

#[tokio::test]
async fn a_persons_certificate_serves_what_it_names_and_a_new_host_comes_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let pair = LocalCa::open(dir.path(), SystemTime::now())
        .unwrap()
        .issue(&"*.shop.test".parse().unwrap(), SystemTime::now())
        .unwrap();
    std::fs::create_dir(dir.path().join("theirs")).unwrap();
    std::fs::write(dir.path().join("theirs/fullchain.pem"), &pair.chain).unwrap();
    std::fs::write(dir.path().join("theirs/privkey.pem"), &pair.key).unwrap();
    let mut world = world(dir, &["a.shop.test", "*.shop.test"], None);
    let set = world.until(|set| !set.is_empty()).await;
    assert_eq!((set.len(), set[0].issuer, set[0].files.hosts.len()), (1, Issuer::Operator, 2));
    world.wanted.send_modify(|wanted| wanted.hosts.push("shop.test".parse().unwrap()));
    let set = world.until(|set| set.len() == 2).await;
    assert_eq!(issuer_of("shop.test", &set), Some(Issuer::Local));
}

#[tokio::test]
async fn a_bad_pair_and_an_absent_ca_leave_every_host_with_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("shop.test")).unwrap();
    std::fs::write(dir.path().join("shop.test/fullchain.pem"), "garbage").unwrap();
    let mut world = world(dir, &["shop.test", "blog.test"], acme("http://127.0.0.1:1/dir", None));
    let set = world.until(|set| set.len() == 2).await;
    assert_eq!(issuer_of("shop.test", &set), Some(Issuer::Local));
    assert_eq!(std::fs::read_to_string(world.dir.path().join("shop.test/fullchain.pem")).unwrap(), "garbage");
}

#[test]
fn the_best_certificate_is_a_persons_then_a_cas_then_our_own_and_never_one_that_ran_out() {
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    let local = certificate(Issuer::Local, now - day, now + day * 300, "a.test");
    let ca = certificate(Issuer::Acme, now - day, now + day, "a.test");
    let person = certificate(Issuer::Operator, now - day, now + day, "*.test");
    let over = certificate(Issuer::Operator, now - day * 2, now - day, "a.test");
    let best = |set: &[Certificate]| Shelf::new(set, now).best(&"a.test".parse().unwrap()).cloned();
    assert_eq!(best(&[local.clone(), person.clone(), ca.clone(), over.clone()]), Some(person));
    assert_eq!(best(&[ca.clone(), local.clone(), over.clone()]), Some(ca));
    assert_eq!(best(&[over]), None);
}

#[test]
fn an_order_is_due_after_two_thirds_of_a_cas_certificate_and_at_once_for_our_own() {
    let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3600));
    let aged = |issuer, days: u32| certificate(issuer, now - day * days, now + day * (90 - days), "a.test");
    assert!(!is_order_due(Some(&aged(Issuer::Acme, 59)), now));
    assert!(is_order_due(Some(&aged(Issuer::Acme, 60)), now));
    assert!(!is_order_due(Some(&aged(Issuer::Operator, 89)), now));
    assert!(is_order_due(Some(&aged(Issuer::Local, 0)), now));
    assert!(is_order_due(None, now));
}

fn certificate(issuer: Issuer, from: SystemTime, until: SystemTime, name: &str) -> Certificate {
    let hosts = vec![name.parse().unwrap()];
    let (chain, key, digest) = (format!("/{issuer:?}").into(), PathBuf::new(), String::new());
    let files = CertificateFiles { hosts, chain, key, digest };
    Certificate { files, issuer, validity: Validity { not_before: from, not_after: until } }
}

#[test]
fn pauses_grow_and_stay_within_the_cas_limits() {
    let first_hour: Duration = (1..6).map(pause).sum();
    assert!(first_hour >= Duration::from_secs(38 * 60), "{first_hour:?}");
    assert!(pause(1) >= Duration::from_secs(60) && pause(1) <= Duration::from_secs(72));
    assert!(pause(1000) >= Duration::from_secs(6 * 3600));
}

/// Answers `/.well-known/acme-challenge/<token>` as the web server does.
async fn challenge_server(listener: TcpListener, challenges: Challenges) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        let mut head = [0; 2048];
        let read = stream.read(&mut head).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&head[..read]).into_owned();
        let token = text.split(' ').nth(1).and_then(|path| path.strip_prefix("/.well-known/acme-challenge/"));
        let body = token.and_then(|token| challenges.get(token));
        let status = if body.is_some() { "200 OK" } else { "404 Not Found" };
        let body = body.unwrap_or_default();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

/// Debian's pebble with its DNS, where every name is 127.0.0.1. Ends with the value.
struct Pebble {
    _processes: [tokio::process::Child; 2],
    directory: String,
}

async fn pebble(dir: &Path, http_port: u16) -> Option<Pebble> {
    if !Path::new("/usr/bin/pebble").exists() {
        eprintln!("SKIPPED: pebble is not installed (apt-get install pebble), so no real ACME order was made");
        return None;
    }
    let ca = LocalCa::open(dir, SystemTime::now()).unwrap();
    let pair = ca.issue(&"127.0.0.1".parse().unwrap(), SystemTime::now()).unwrap();
    std::fs::write(dir.join("api.crt"), pair.chain).unwrap();
    std::fs::write(dir.join("api.key"), pair.key).unwrap();
    let [api, management, dns, dns_management] = [(); 4].map(|()| free_port());
    let config = json!({"pebble": {"listenAddress": format!("127.0.0.1:{api}"),
        "managementListenAddress": format!("127.0.0.1:{management}"), "certificate": dir.join("api.crt"),
        "privateKey": dir.join("api.key"), "httpPort": http_port, "tlsPort": 1, "ocspResponderURL": "",
        "externalAccountBindingRequired": false}});
    std::fs::write(dir.join("pebble.json"), config.to_string()).unwrap();
    let start = |program: &str, arguments: &[&str]| {
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "20").kill_on_drop(true);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let (dns_port, dns, management) = (dns, format!("127.0.0.1:{dns}"), format!("127.0.0.1:{dns_management}"));
    let off = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""];
    let names = ["-defaultIPv4", "127.0.0.1", "-dns01", &dns, "-management", &management];
    let processes = [
        start("/usr/bin/pebble-challtestsrv", &[&names[..], &off[..]].concat()),
        start("/usr/bin/pebble", &["-config", dir.join("pebble.json").to_str().unwrap(), "-dnsserver", &dns]),
    ];
    // Its names are asked for over UDP, which opens with TCP; an order that came before would fail and wait a minute.
    wait_for_port(dns_port).await;
    wait_for_port(api).await;
    Some(Pebble { _processes: processes, directory: format!("https://127.0.0.1:{api}/dir") })
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn wait_for_port(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        assert!(Instant::now() < deadline, "pebble does not listen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn pebble_gives_a_certificate_for_what_it_can_reach_and_the_rest_stays_local() {
    let (dir, listener) = (tempfile::tempdir().unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let Some(pebble) = pebble(dir.path(), listener.local_addr().unwrap().port()).await else { return };
    let root = dir.path().join("ca/root.pem");
    let hosts = ["shop.test", "blog.test", "*.shop.test", "a.localhost", "127.0.0.1"];
    let mut world = world(dir, &hosts, acme(&pebble.directory, Some(root)));
    let serve = tokio::spawn(challenge_server(listener, world.challenges.clone()));
    let is_acme = |set: &[Certificate], host| issuer_of(host, set) == Some(Issuer::Acme);
    let set = world.until(|set| is_acme(set, "shop.test") && is_acme(set, "blog.test")).await;
    for host in ["*.shop.test", "a.localhost", "127.0.0.1"] {
        assert_eq!(issuer_of(host, &set), Some(Issuer::Local), "{host}");
    }
    let accounts: Vec<_> = std::fs::read_dir(world.dir.path().join("acme")).unwrap().flatten().collect();
    let account = accounts[0].path().join("account.json");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&account).unwrap().permissions());
    assert_eq!((accounts.len(), mode & 0o777), (1, 0o600));

    // A host that comes later is ordered with the account that is there.
    let before = std::fs::read(&account).unwrap();
    world.wanted.send_modify(|wanted| wanted.hosts.push("wiki.test".parse().unwrap()));
    world.until(|set| is_acme(set, "wiki.test")).await;
    assert_eq!(std::fs::read(&account).unwrap(), before);

    // Nobody answers the challenge any more: the reason is the CA's, and what serves stays.
    serve.abort();
    let _ = serve.await;
    let orders =
        Orders::new(world.dir.path().to_owned(), world.wanted.borrow().acme.clone().unwrap(), Challenges::default());
    let refused = orders.order(&"away.test".parse().unwrap()).await.err().map(|fault| fault.to_string());
    assert!(refused.as_ref().is_some_and(|why| why.contains("would not vouch for away.test")), "{refused:?}");
}
