//! The same question over HTTP/2: fields that would be something else once they stand in an HTTP/1 message.
//!
//! Each case is one stream of raw frames over TLS. A stream that is not right is refused or reset, or its connection is
//! closed; the next stream of a connection that stays open is served.

pub mod client;
mod corpus;
pub mod frames;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::http;
use crate::leaks::leaks;
use crate::origin::{Got, Origin};
use crate::verdict::{Kind, Misses};
use crate::world::{Prime, World};
use client::Talk;
use corpus::{Case, Verdict};

const AT_ONCE: usize = 32;
/// What may be said to a stream that is not right.
const REFUSALS: [u16; 10] = [400, 404, 405, 408, 413, 414, 417, 421, 431, 501];

#[test]
fn streams_carry_nothing_that_http1_would_read_differently() {
    let world = World::new();
    let origin = Origin::start(&world.runtime);
    let prime = crate::serving(&world, &origin);
    let cases = corpus::all();
    let misses = world.runtime.block_on(run(&cases, &prime, &origin));
    crate::hold(cases.len(), &misses, &prime);
}

async fn run(cases: &[Case], prime: &Prime<'_>, origin: &Origin) -> Misses {
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let (address, root) = (prime.address("https"), Arc::new(prime.root()));
    let mut talks = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let mark = format!("q{number:04}hq");
        let case = case.marked(&mark);
        let (at_once, root) = (at_once.clone(), root.clone());
        talks.push(tokio::spawn(async move {
            let _place = at_once.acquire_owned().await.unwrap();
            let stream = http::tls(address, "shop.test", &root, "h2").await.unwrap();
            let talk = client::talk(stream, &case.frames, Some(&corpus::next(&mark))).await;
            (mark, case, talk)
        }));
    }
    let mut misses = Misses::default();
    let mut ended = Vec::new();
    for talk in talks {
        ended.push(talk.await.unwrap());
    }
    origin.is_quiet().await;
    for record in origin.strays() {
        misses.add("nobody's", "", Kind::Dangerous, record.raw.escape_ascii().to_string());
    }
    for (mark, case, talk) in ended {
        for (kind, what) in at_the_app(&case, &mark, origin).into_iter().chain(at_the_client(&case, &talk)) {
            misses.add(&case.name, "HTTP/2", kind, what);
        }
    }
    misses
}

fn at_the_app(case: &Case, mark: &str, origin: &Origin) -> Vec<(Kind, String)> {
    let mut misses = Vec::new();
    for record in origin.got(mark) {
        let raw = record.raw[..record.raw.len().min(400)].escape_ascii().to_string();
        let request = match record.got {
            Got::Cut => continue,
            Got::Wrong(fault) => {
                misses.push((Kind::Dangerous, format!("{fault} in {raw}")));
                continue;
            }
            Got::Whole(request) => request,
        };
        let is_next = request.target == format!("/{mark}{}", crate::client::LAST);
        let carries = |(name, value): &(String, String)| request.values(name).eq([value.as_str()]);
        let is_it = |seen: &crate::case::Seen| {
            (&seen.method, &seen.target, &seen.body) == (&request.method, &request.target, &request.body)
        };
        let is_asked = case.seen.as_ref().is_some_and(is_it) && case.carried.iter().all(carries);
        if !is_next && !is_asked {
            misses.push((Kind::Dangerous, format!("nobody asked for this: {raw}")));
        }
        misses.extend(leaks(&request, true).into_iter().map(|leak| (Kind::Leaked, leak)));
    }
    misses
}

fn at_the_client(case: &Case, talk: &Talk) -> Vec<(Kind, String)> {
    let said = format!("{:?}, reset {}, over {}", talk.case.status, talk.case.is_reset, talk.is_over);
    let passed = talk.case.status == Some(200) && talk.case.is_whole;
    let refused = talk.case.is_reset
        || talk.case.status.is_some_and(|status| REFUSALS.contains(&status))
        || (talk.is_over && !passed);
    let own = case.seen.as_ref().map(|seen| format!("{} {}", seen.method, seen.target));
    let is_own = own.is_some_and(|own| String::from_utf8_lossy(&talk.case.body).ends_with(&own));
    let mut misses = Vec::new();
    if talk.is_late {
        misses.push((Kind::Hung, said));
    } else if passed && !is_own && case.verdict != Verdict::Refused {
        misses.push((Kind::Foreign, talk.case.body.escape_ascii().to_string()));
    } else {
        match case.verdict {
            Verdict::Passes if !passed => misses.push((Kind::Refused, said)),
            Verdict::Refused if !refused => misses.push((Kind::Taken, said)),
            Verdict::Either if !passed && !refused => misses.push((Kind::Taken, said)),
            _ => {}
        }
    }
    let is_served = talk.next.status == Some(200) && talk.next.is_whole;
    let may_be_over = talk.is_over && case.verdict != Verdict::Passes;
    if !talk.is_late && !is_served && !may_be_over {
        misses.push((Kind::Refused, format!("the next stream: {:?}", talk.next)));
    }
    misses
}
