//! Ambiguous and hostile messages, sent through the real binary: whatever a client or an app says, the other side gets
//! sound messages or none.
//!
//! `requests` go from a raw client to a raw origin over HTTP/1, `streams` over HTTP/2; `upstreams` are the
//! apps that answer wrongly; `caching` is what a shared cache owes to both sides. Each test shows all misses at once.

mod caching;
mod case;
mod client;
#[allow(dead_code)]
#[path = "../stories/http.rs"]
mod http;
mod leaks;
mod message;
mod origin;
mod requests;
mod streams;
mod upstreams;
mod verdict;
#[allow(dead_code)]
#[path = "../stories/world.rs"]
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::Semaphore;

use case::Case;
use origin::Origin;
use verdict::{Kind, Misses};
use world::{Prime, World};

/// Connections at once.
const AT_ONCE: usize = 32;
/// Short, so that what is never whole is soon late; long enough for a machine with other things to do.
const LIMITS: &str = "[limits]\nheader_timeout = \"6s\"\nbody_timeout = \"6s\"\nupstream_timeout = \"20s\"\n";

/// How a case is sent: the same bytes must mean the same, however they arrive.
const WAYS: [(char, &str, usize); 3] = [('w', "whole", usize::MAX), ('b', "in bytes", 1), ('t', "over TLS", 1000)];

#[test]
fn ambiguous_requests_reach_no_app_and_valid_ones_do() {
    let world = World::new();
    let origin = Origin::start(&world.runtime);
    let prime = serving(&world, &origin);
    let cases = requests::all();
    let mut names = BTreeSet::new();
    let twice: Vec<&str> = cases.iter().map(|case| case.name.as_str()).filter(|name| !names.insert(*name)).collect();
    assert!(twice.is_empty(), "these stand there twice: {twice:#?}");
    let misses = world.runtime.block_on(run(&cases, &prime, &origin));
    hold(cases.len(), &misses, &prime);
}

fn serving<'w>(world: &'w World, origin: &Origin) -> Prime<'w> {
    let project = format!("upstream = \"{}\"\n[branches.master]\nhosts = [\"shop.test\"]\n", origin.address);
    let prime = world.prime().project("shop", &project).with(LIMITS).start();
    prime.says("http://shop.test/q0000sq", "q0000sq GET /q0000sq");
    prime
}

async fn run(cases: &[Case], prime: &Prime<'_>, origin: &Origin) -> Misses {
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let (plain, secure, root) = (prime.address("http"), prime.address("https"), Arc::new(prime.root()));
    let mut talks = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        for (letter, way, piece) in WAYS {
            let mark = format!("q{number:04}{letter}q");
            let case = case.marked(&mark);
            let (at_once, root) = (at_once.clone(), root.clone());
            // One byte at a time takes its time: large cases come in larger parts.
            let piece = piece.max(case.parts.iter().map(Vec::len).sum::<usize>() / 300).max(1);
            talks.push(tokio::spawn(async move {
                let _place = at_once.acquire_owned().await.unwrap();
                let talk = match way {
                    "over TLS" => {
                        client::talk(http::tls(secure, "shop.test", &root, "http/1.1").await.unwrap(), &case, piece)
                            .await
                    }
                    _ => {
                        let stream = http::tcp(plain).await.unwrap();
                        stream.set_nodelay(true).unwrap();
                        client::talk(stream, &case, piece).await
                    }
                };
                (mark, way, case, talk)
            }));
        }
    }
    let mut ended = Vec::new();
    for talk in talks {
        ended.push(talk.await.unwrap());
    }
    origin.is_quiet().await;
    let mut misses = Misses::default();
    for record in origin.strays() {
        misses.add("nobody's", "", Kind::Dangerous, record.raw.escape_ascii().to_string());
    }
    for (mark, way, case, talk) in ended {
        for (kind, what) in verdict::judge(&case, &talk, &origin.got(&mark), way == "over TLS") {
            misses.add(&case.name, way, kind, what);
        }
    }
    misses
}

/// Fails with a table of everything that is not as it should be.
fn hold(cases: usize, misses: &Misses, prime: &Prime<'_>) {
    println!("{cases} cases: {}", misses.counts());
    assert!(misses.are_none(), "\n{misses}\n{}", prime.logs());
}
