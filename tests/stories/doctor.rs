//! `opri doctor`: what the machine lacks, with and without a running Prime, and without a network.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::world::{World, opri};

/// What the doctor says, and how it ends. Each finding is `<verdict> <what> <says>`.
fn findings(world: &World) -> (Vec<String>, Option<i32>) {
    let output = opri().args(["doctor", "--json", "--conf"]).arg(world.path().join("conf")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let all: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{output:?}"));
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    for finding in &all {
        assert_eq!(finding["hint"].is_string(), word(finding, "verdict") != "ok", "whoever complains helps: {finding}");
    }
    let line = |finding: &Value| ["verdict", "what", "says"].map(|key| word(finding, key)).join(" ");
    (all.iter().map(line).collect(), output.status.code())
}

/// A line that begins with one text and has the other.
fn one<'l>(lines: &'l [String], begins: &str, has: &str) -> &'l str {
    let found = lines.iter().find(|line| line.starts_with(begins) && line.contains(has));
    found.unwrap_or_else(|| panic!("no `{begins} … {has}` in {lines:#?}"))
}

#[test]
fn a_machine_before_its_first_start_and_one_that_serves_are_well() {
    let world = World::new();
    let shop = world.repo("shop");
    shop.commit("page");
    let conf = world.prime().hosting(&shop, "");
    conf.write("process");
    let (lines, code) = findings(&world);
    assert_eq!(code, Some(0), "{lines:#?}");
    one(&lines, "ok conf", "is good");
    one(&lines, "warn server", "no `opri serve` is running");
    one(&lines, "ok engine", "plain processes");
    assert!(lines.iter().any(|line| line.contains(" git version ")), "{lines:#?}");
    one(&lines, "ok disk", "GiB are free");
    one(&lines, "ok state_dir", "will be made");
    // Nothing was made by being looked at.
    assert!(!world.path().join("state").exists());

    let prime = conf.start();
    prime.deploys(&shop, "master");
    let (lines, code) = findings(&world);
    assert_eq!(code, Some(0), "{lines:#?}");
    one(&lines, "ok server", "1 sites serve");
    one(&lines, "ok state_dir", "mode 0700");
    one(&lines, "ok keys", "each closed to others");
    one(&lines, "ok hooks", "/events is heard");
    // `.test` is nobody's (RFC 6761), and no CA is asked for its certificates.
    one(&lines, "warn name", "shop.test does not resolve");
    let told = prime.does(&["doctor"]);
    assert!(told.lines().any(|line| line.starts_with("ok    hooks ")), "{told}");
}

#[test]
fn what_keeps_prime_from_its_work_fails_with_a_hint() {
    let world = World::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let project = "repo = \"acme/gone\"\n[hooks]\nsecret = { file = \"secrets/gone\" }\n";
    let machine = "[edge]\nuser = \"nobody-of-that-name\"\n";
    let conf = world.prime().project("shop", project).http(&taken.local_addr().unwrap().to_string()).with(machine);
    conf.listening(&format!("proxied_http = [\"{free}\"]\n[trust]\nproxies = [\"127.0.0.1\"]\n")).write("process");
    let (state, certs) = (world.path().join("state"), world.path().join("certs/shop.test"));
    for dir in [&state, &certs] {
        fs::create_dir_all(dir).unwrap();
    }
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(certs.join("privkey.pem"), "").unwrap();
    fs::set_permissions(certs.join("privkey.pem"), fs::Permissions::from_mode(0o644)).unwrap();

    let (lines, code) = findings(&world);
    assert_eq!(code, Some(1), "{lines:#?}");
    for (what, has) in [
        ("conf", "secrets/gone"),
        ("conf", "acme/gone is not there"),
        ("conf", "`nobody-of-that-name` is not a user"),
        ("port", "cannot be bound"),
        ("state_dir", "is open to others (mode 0755)"),
        ("keys", "privkey.pem can be read by others"),
    ] {
        one(&lines, &format!("fail {what}"), has);
    }
    one(&lines, "ok port", &format!("{free} is free"));
}

#[test]
fn faults_of_conf_and_an_engine_that_is_not_there_fail() {
    let world = World::new();
    let conf = world.prime();
    conf.write("docker");
    let doctor = |socket: &str| {
        let mut doctor = opri();
        doctor.args(["doctor", "--conf"]).arg(world.path().join("conf")).env("DOCKER_HOST", socket);
        let output = doctor.output().unwrap();
        (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code())
    };
    let (told, code) = doctor("unix:///nowhere/docker.sock");
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("FAIL  engine     no Docker engine answers at /nowhere/docker.sock"), "{told}");

    fs::write(world.path().join("conf/projects/shop.toml"), "rep = 1\n").unwrap();
    let (told, code) = doctor("unix:///nowhere/docker.sock");
    assert_eq!(code, Some(1), "{told}");
    assert!(told.lines().any(|line| line.starts_with("FAIL  conf") && line.contains("the first: ")), "{told}");
}

#[test]
fn a_clock_that_is_off_is_told_by_the_clock_of_the_ca() {
    let world = World::new();
    let ca = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = format!("http://{}/directory", ca.local_addr().unwrap());
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for mut stream in ca.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1024]);
            let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT";
            let _ = write!(stream, "HTTP/1.1 200 OK\r\n{date}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}");
        }
    });
    let conf = world.prime().with(&format!("[acme]\ndirectory = [\"{directory}\"]\n"));
    conf.write("process");
    let (lines, code) = findings(&world);
    assert_eq!(code, Some(1), "{lines:#?}");
    one(&lines, "fail clock", "by the clock of 127.0.0.1");
}
