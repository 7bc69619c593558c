//! A project takes as much as its conf says, and says so to whoever asks for more.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use ::http::{Request, StatusCode};
use axum::Router;
use axum::body::Body;
use axum::http::header;
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};

use crate::http::Answer;
use crate::world::{PATIENCE, Prime, World};

/// An app that runs already; its line for a project's file.
fn app(world: &World) -> String {
    let listener = world.runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let stored = async || ([(header::CACHE_CONTROL, "max-age=60")], "stored");
    let count = async |body: Body| {
        let whole = body.collect().await.map(|body| body.to_bytes().len().to_string());
        whole.map_err(|_| StatusCode::BAD_REQUEST)
    };
    let router = Router::new().route("/", get("page")).route("/stored", get(stored)).route("/count", post(count));
    world.runtime.spawn(async { axum::serve(listener, router).await });
    format!("upstream = \"{address}\"\n")
}

fn asks(prime: &Prime<'_>, host: &str, path: &str, visitor: &str) -> Answer {
    let request = Request::get(format!("http://{host}{path}")).header("x-forwarded-for", visitor);
    prime.ask(request.body(Full::<Bytes>::default()).unwrap())
}

/// How many of so many requests are answered, and how many seconds they took. None of the others is lost.
fn answered(prime: &Prime<'_>, path: &str, visitor: &str, count: u32) -> (u32, f64) {
    let began = Instant::now();
    let mut answered = 0;
    for _ in 0..count {
        let answer = asks(prime, "shop.test", path, visitor);
        match answer.status {
            StatusCode::OK => answered += 1,
            StatusCode::TOO_MANY_REQUESTS => {
                let seconds: u32 = answer.header("retry-after").parse().unwrap();
                assert!((1..=2).contains(&seconds), "{seconds}");
                assert!(answer.body.contains("asked too often"), "{}", answer.body);
                assert!(!answer.header("x-request-id").is_empty());
            }
            other => panic!("{other}: {}\n{}", answer.body, prime.logs()),
        }
    }
    (answered, began.elapsed().as_secs_f64())
}

/// What a rate lets through in so many seconds: one second's worth at once, and then as many as come up.
fn most(rate: u32, seconds: f64) -> u32 {
    (f64::from(rate) * (1.0 + seconds)).ceil() as u32 + 1
}

#[test]
fn a_site_is_asked_so_often_in_a_second_and_no_more_also_where_it_is_cached() {
    let world = World::new();
    let limits = format!("{}[limits]\nrequests_per_second = 20\n", app(&world));
    let prime = world.prime().project("shop", &limits).project("blog", &app(&world)).start();
    for path in ["/", "/stored"] {
        let (served, seconds) = answered(&prime, path, "", 100);
        assert!(served >= 20 || path == "/stored", "{served} of a burst");
        assert!(served <= most(20, seconds), "{served} in {seconds} s");
    }
    assert!(prime.metrics().contains("opri_edge_limits_total{limit=\"rate\"}"), "{}", prime.metrics());
    assert_eq!(prime.get("http://blog.test").status, StatusCode::OK, "others are not touched");
    prime.eventually("http://shop.test", |answer| answer.status == StatusCode::OK);
}

#[test]
fn one_address_cannot_take_the_share_of_the_others() {
    let world = World::new();
    let limits = format!("{}[limits]\nrequests_per_second_per_address = 10\n", app(&world));
    let prime = world.prime().with("[trust]\nproxies = \"127.0.0.1\"\n").project("shop", &limits).start();
    let (served, seconds) = answered(&prime, "/", "192.0.2.1", 60);
    assert!((10..=most(10, seconds)).contains(&served), "{served} in {seconds} s");
    assert!(prime.metrics().contains("opri_edge_limits_total{limit=\"rate_per_address\"}"));
    // Others come by the same proxy, and a visitor who makes itself out to be another is known by what the proxy adds.
    assert_eq!(asks(&prime, "shop.test", "/", "192.0.2.2").status, StatusCode::OK);
    let (served, seconds) = (0..60).map(|n| format!("10.9.9.{n}, 192.0.2.3")).fold((0, 0.0), |(all, took), visitor| {
        let (served, seconds) = answered(&prime, "/", &visitor, 1);
        (all + served, took + seconds)
    });
    assert!(served <= most(10, seconds), "{served} in {seconds} s");
}

#[test]
fn a_reload_does_not_begin_to_count_anew() {
    let world = World::new();
    let limits = format!("{}[limits]\nrequests_per_second = 50\n", app(&world));
    let prime = world.prime().project("shop", &limits).start();
    let began = Instant::now();
    let (mut served, _) = answered(&prime, "/", "", 100);
    for n in 0..3 {
        std::fs::write(prime.conf_file(&format!("projects/p{n}.toml")), "upstream = \"127.0.0.1:1\"\n").unwrap();
        prime.does(&["reload"]);
        served += answered(&prime, "/", "", 60).0;
    }
    let seconds = began.elapsed().as_secs_f64();
    assert!(served <= most(50, seconds), "{served} in {seconds} s");
}

#[test]
fn a_project_takes_larger_or_smaller_bodies_than_the_machine_does() {
    let world = World::new();
    let with = |limits: &str| format!("{}{limits}", app(&world));
    let prime = world
        .prime()
        .with("[limits]\nbody_max = \"4KiB\"\n")
        .project("large", &with("[limits]\nbody_max = \"64KiB\"\n"))
        .project("small", &with("[limits]\nbody_max = \"1KiB\"\n"))
        .project("usual", &with(""))
        .start();
    let sends = |project: &str, length: usize| {
        let request = Request::post(format!("http://{project}.test/count")).body(Full::new(vec![b'x'; length].into()));
        let answer = prime.ask(request.unwrap());
        match answer.status {
            StatusCode::OK => assert_eq!(answer.body, length.to_string()),
            other => assert_eq!(other, StatusCode::PAYLOAD_TOO_LARGE, "{}", answer.body),
        }
        answer.status == StatusCode::OK
    };
    for (project, most) in [("large", 64 << 10), ("small", 1 << 10), ("usual", 4 << 10)] {
        assert!(sends(project, most), "{project} takes {most}");
        assert!(!sends(project, most + 1), "{project} takes no more than {most}");
        let answer = sends_chunked(&prime, project, most + 1);
        assert!(answer.starts_with("HTTP/1.1 413"), "{project}: {answer}\n{}", prime.logs());
        assert!(sends_chunked(&prime, project, most).starts_with("HTTP/1.1 200"));
    }
}

/// As a client that does not say beforehand how much there will be.
fn sends_chunked(prime: &Prime<'_>, project: &str, length: usize) -> String {
    let mut stream = TcpStream::connect(prime.address("http")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("POST /count HTTP/1.1\r\nHost: {project}.test\r\nTransfer-Encoding: chunked\r\n");
    let body = format!("{length:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(length));
    // A refusal may come before all of it is sent.
    let _ = stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}
