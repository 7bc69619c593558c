//! What would come of a request that nobody makes.
//!
//! Called by `control_link` for control, which shows it to a person. The rule: it is understood and judged by the same
//! pieces as any request, and neither counted, claimed, fetched nor stored.

use std::net::{Ipv4Addr, SocketAddr};

use crate::link::why::{Outlook, Question, Verdict};
use crate::model::address::Address;

use super::answer;
use super::cache;
use super::failure::Failure;
use super::hold::Hold;
use super::request::Asked;
use super::routing::{Answerer, Entry};
use super::shared::Shared;
use super::strict::request::judge;
use super::upstream::Upstream;
use super::visit::Visit;

/// Who asks: an address that no visitor has (RFC 5737), so that nothing is believed of it.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 0);

pub fn why(state: &Shared, question: &Question) -> Verdict {
    let bytes = head(question);
    let (visit, settings) = (Visit::new(NOBODY, NOBODY, None), state.settings.load());
    let head = match judge(&bytes, &settings.limits) {
        Ok(Some(head)) if head.length == bytes.len() => head,
        Ok(_) => return refused(Failure::Malformed),
        Err(failure) => return refused(failure),
    };
    match Asked::http1(&head, &bytes, &visit, &settings) {
        Ok(asked) => {
            let scheme = if question.is_secure { "https" } else { "http" };
            routed(state, &Asked { scheme, ..asked })
        }
        Err(failure) => refused(failure),
    }
}

/// As HTTP/1.1 would send it.
fn head(question: &Question) -> Vec<u8> {
    let Question { method, authority, target, fields, .. } = question;
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {authority}\r\n");
    for (name, value) in fields {
        head += &format!("{name}: {value}\r\n");
    }
    (head + "\r\n").into()
}

fn refused(failure: Failure) -> Verdict {
    let (status, why) = (failure.status().as_u16(), failure.explanation().to_owned());
    Verdict { site: None, answer: Outlook::Refusal { status, why } }
}

fn routed(state: &Shared, asked: &Asked<'_>) -> Verdict {
    let table = state.table.load();
    let Some(entry) = table.routes.lookup(&asked.host, asked.path) else {
        return Verdict { site: None, answer: Outlook::UnknownHost };
    };
    let answer = match (answer::https_location(state, entry, asked), &entry.to) {
        (Some(location), _) => Outlook::Redirect { location },
        (None, Answerer::Redirect(host)) => Outlook::Redirect { location: answer::elsewhere(host.in_url(), asked) },
        _ if matches!(entry.hold, Some(Hold::Maintenance(_))) => refused(Failure::Maintenance).answer,
        (None, Answerer::Absent) => refused(Failure::Absent).answer,
        (None, Answerer::Upstream(upstream)) => from_upstream(state, entry, upstream, asked),
    };
    Verdict { site: entry.site.clone(), answer }
}

fn from_upstream(state: &Shared, entry: &Entry, upstream: &Upstream, asked: &Asked<'_>) -> Outlook {
    let replicas: Vec<Address> = upstream.replicas().iter().map(|replica| replica.address.clone()).collect();
    let cache = Box::new(cache::explain(&state.cache, entry, &upstream.id, asked));
    Outlook::Upstream { upstream: upstream.id.clone(), replicas, cache }
}
