//! What is wrong with what came of a case; nothing, when all is well.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::case::{Case, SILENCE, Seen, Then};
use super::client::{LAST, Talk};
use super::leaks::leaks;
use super::origin::{Got, Record};

/// The kinds of misses, the worst first. Each must be 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An app got bytes that a strict reader refuses, or another request than was sent.
    Dangerous,
    /// A client got an answer that is not its own, or not an answer.
    Foreign,
    /// A field of the connection, or a claim about the client, reached an app.
    Leaked,
    /// A request that breaks no rule was not served.
    Refused,
    /// What breaks the rules was served, or said no to with another status.
    Taken,
    /// Neither answered nor closed in time.
    Hung,
    /// A refusal after which the connection stayed open.
    Open,
}

const KINDS: [Kind; 7] =
    [Kind::Dangerous, Kind::Foreign, Kind::Leaked, Kind::Refused, Kind::Taken, Kind::Hung, Kind::Open];

/// The misses of all cases, as a table that shows each once, with the ways of sending it that it was seen on.
#[derive(Debug, Default)]
pub struct Misses(BTreeMap<(Kind, String), (BTreeSet<&'static str>, String)>);

impl Misses {
    pub fn add(&mut self, case: &str, way: &'static str, kind: Kind, what: String) {
        self.0.entry((kind, case.to_owned())).or_insert_with(|| (BTreeSet::new(), what)).0.insert(way);
    }

    pub fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// How many cases missed in each way.
    pub fn counts(&self) -> String {
        let count = |kind: &Kind| self.0.keys().filter(|(it, _)| it == kind).count();
        KINDS.iter().map(|kind| format!("{} {kind:?}", count(kind)).to_lowercase()).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Misses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|((kind, case), (ways, what))| {
            let ways: Vec<&str> = ways.iter().copied().collect();
            writeln!(f, "{kind:?} | {case} | {what} | {}", ways.join(", "))
        })
    }
}

/// Judges a marked case by what client and origin got of it.
pub fn judge(case: &Case, talk: &Talk, records: &[Record], is_secure: bool) -> Vec<(Kind, String)> {
    let mut misses = at_the_app(case, records, is_secure);
    misses.extend(at_the_client(case, talk));
    misses
}

fn at_the_app(case: &Case, records: &[Record], is_secure: bool) -> Vec<(Kind, String)> {
    let mut misses = Vec::new();
    let mut expected = case.seen.iter().cloned().chain(last(case));
    for record in records {
        let raw = record.raw[..record.raw.len().min(400)].escape_ascii();
        match &record.got {
            Got::Cut => {}
            Got::Wrong(fault) => misses.push((Kind::Dangerous, format!("{fault} in {raw}"))),
            Got::Whole(request) => {
                let got =
                    Seen { method: request.method.clone(), target: request.target.clone(), body: request.body.clone() };
                if !expected.any(|seen| seen == got) {
                    misses.push((Kind::Dangerous, format!("nobody asked for this: {raw}")));
                }
                misses.extend(leaks(request, is_secure).into_iter().map(|leak| (Kind::Leaked, leak)));
            }
        }
    }
    misses
}

fn last(case: &Case) -> Option<Seen> {
    let mark = case.parts.iter().find_map(|part| super::origin::mark(part))?;
    (case.then == Then::Another).then(|| Seen {
        method: "GET".to_owned(),
        target: format!("/{mark}{LAST}"),
        body: Vec::new(),
    })
}

fn at_the_client(case: &Case, talk: &Talk) -> Vec<(Kind, String)> {
    let statuses: Vec<u16> = talk.answers.iter().map(|answer| answer.status).collect();
    if let Some(fault) = &talk.fault {
        // Half an answer is how a client learns that its request was cut.
        return if case.then == Then::Cut { Vec::new() } else { vec![(Kind::Foreign, fault.clone())] };
    }
    let expected: Vec<Seen> = case.seen.iter().cloned().chain(last(case)).collect();
    for (answer, seen) in talk.answers.iter().zip(&expected) {
        let own = format!("{} {}", seen.method, seen.target);
        if answer.status == 200 && seen.method != "HEAD" && !String::from_utf8_lossy(&answer.body).ends_with(&own) {
            return vec![(Kind::Foreign, format!("{own} was answered {}", answer.body.escape_ascii()))];
        }
    }
    let passed = statuses.iter().take_while(|status| **status == 200).count();
    let after = statuses.get(passed).copied();
    // Who is told that this was the last sends no other.
    let is_told = talk.answers.last().is_some_and(|answer| answer.closes());
    let is_right = match case.then {
        Then::Another if is_told && passed == case.seen.len() => after.is_none(),
        Then::Another | Then::Close => passed == expected.len() && after.is_none(),
        Then::Refused(set) => passed == case.seen.len() && after.is_some_and(|status| set.contains(&status)),
        // What it stops in the middle of may take the answers before it along.
        Then::Cut => passed <= case.seen.len() && after.is_none_or(|status| matches!(status, 400 | 408)),
    };
    let is_allowed = passed <= case.seen.len() && case.or_refused.contains(&after.unwrap_or(SILENCE));
    let is_one_too_many = statuses.len() > passed + 1;
    let said = format!("{statuses:?}");
    let mut misses = Vec::new();
    if talk.is_late && (passed < case.seen.len() || after.is_none()) {
        misses.push((Kind::Hung, said.clone()));
    } else if talk.is_late {
        misses.push((Kind::Open, said.clone()));
    }
    if (!is_right && !is_allowed && misses.is_empty()) || is_one_too_many {
        let must_pass = matches!(case.then, Then::Another | Then::Close) || passed < case.seen.len();
        misses.push((if must_pass { Kind::Refused } else { Kind::Taken }, said));
    }
    misses
}
