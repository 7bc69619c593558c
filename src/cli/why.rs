//! `opri why`: what would come of a request right now, and which word decides.

use std::time::SystemTime;

use clap::Args;

use super::argument::{self, WebUrl};
use super::client::Client;
use super::table::span;
use super::{Common, Done, block_on, hold, print_json};
use crate::control::web::api::Why;
use crate::link::why::{CacheOutlook, Outlook, Question, StoredOutlook};
use crate::model::cache::CacheVerdict;
use crate::model::cache_key::{CacheKey, QueryKey};
use crate::model::certificate::Issuer;
use crate::model::pattern::Pattern;
use crate::report;

#[derive(Debug, Args)]
pub struct Request {
    /// As a visitor would ask for it: http://… or https://…
    #[arg(value_parser = argument::web_url)]
    url: WebUrl,
    /// A field of the request; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = argument::field)]
    fields: Vec<(String, String)>,
    #[arg(long, default_value = "GET", value_parser = argument::method)]
    method: String,
}

pub fn run(common: &Common, request: Request) -> Done {
    let client = Client::new(common)?;
    let WebUrl { is_secure, authority, target } = request.url;
    let question = Question { method: request.method, is_secure, authority, target, fields: request.fields };
    let why: Why = block_on(client.post("/v1/why", &question))?;
    if common.json {
        return print_json(&why);
    }
    let text = lines(&why, SystemTime::now());
    text.iter().for_each(|line| say!("{}", report::clean(line)));
    Ok(())
}

/// The report, from the host to the cache.
fn lines(why: &Why, now: SystemTime) -> Vec<String> {
    let Question { method, is_secure, authority, target, .. } = &why.question;
    let scheme = if *is_secure { "https" } else { "http" };
    let mut lines = vec![format!("{method} {scheme}://{authority}{target}")];
    let mut say = |name: &str, text: String| lines.push(format!("{name:<12} {text}"));
    match &why.verdict.site {
        Some(site) => say("site", site.to_string()),
        None if matches!(why.verdict.answer, Outlook::Upstream { .. }) => say("site", "Prime itself".to_owned()),
        None => {}
    }
    if let Some(release) = &why.release {
        let since = now.duration_since(release.since).unwrap_or_default();
        say("release", format!("{} of commit {}, serves for {}", release.name, release.commit.short(), span(since)));
    }
    if let Some(held) = &why.held {
        say("held", hold::words(held));
    }
    if let Outlook::Upstream { upstream, replicas, .. } = &why.verdict.answer {
        let unwell = if why.unwell.is_empty() { String::new() } else { format!(", {} unwell", why.unwell.len()) };
        say("upstream", format!("{}, {} running{unwell}", upstream.0, counted(replicas.len(), "replica")));
    }
    if let Some(certificate) = &why.certificate {
        let ends = certificate.ends.duration_since(now).map(|left| format!("ends in {}", span(left)));
        let ends = ends.unwrap_or_else(|_| "is over".to_owned());
        say("certificate", format!("{}, {ends}", issuer(certificate.issuer)));
    }
    match &why.verdict.answer {
        Outlook::UnknownHost => say("answer", "404: no route knows the host".to_owned()),
        Outlook::Refusal { status, why } => say("answer", format!("{status}: {why}")),
        Outlook::Redirect { location } => say("answer", format!("308 to {location}")),
        Outlook::Upstream { cache, .. } => of_cache(cache, say),
        Outlook::Unknown => {
            say("answer", "the edge is newer than this command and says what it does not know".to_owned())
        }
    }
    lines
}

fn of_cache(cache: &CacheOutlook, mut say: impl FnMut(&str, String)) {
    if let Some(key) = &cache.key {
        say("key", key.clone());
    }
    if let Some(rule) = &cache.key_rule {
        say("", format!("made by {}: {}", place(&rule.path), key(&rule.verdict)));
    }
    if let Some(rule) = &cache.rule {
        let verdict = match &rule.verdict {
            CacheVerdict::Bypass => "bypass".to_owned(),
            CacheVerdict::Ttl(ttl) => format!("ttl {} s", ttl.as_secs()),
        };
        say("rule", format!("{}: {verdict}", place(&rule.path)));
    }
    if !cache.tags.is_empty() {
        say("tags", cache.tags.join(", "));
    }
    match &cache.stored {
        Some(stored) => say("stored", self::stored(stored)),
        None if cache.variants > 0 => {
            say("stored", format!("{} for other requests", counted(cache.variants, "response")))
        }
        None => {}
    }
    say("cache", format!("{}: {}", cache.verdict, cache.why));
    if !cache.then.is_empty() {
        say("", cache.then.clone());
    }
}

fn stored(stored: &StoredOutlook) -> String {
    let StoredOutlook { status, bytes, age, ttl, said_by, vary } = stored;
    let ttl = if *ttl < 0 { format!("stale for {} s", -ttl) } else { format!("fresh for {ttl} s more") };
    let vary = if vary.is_empty() { String::new() } else { format!("; for requests alike in {}", vary.join(", ")) };
    format!("{status}, {bytes} bytes, {age} s old, {ttl} by {said_by}{vary}")
}

fn place(path: &Pattern) -> String {
    match String::from(path.clone()).as_str() {
        "*" => "the project's key".to_owned(),
        path => format!("the rule for {path}"),
    }
}

fn key(key: &CacheKey) -> String {
    let names = |names: &[Pattern]| names.iter().cloned().map(String::from).collect::<Vec<_>>().join(", ");
    let mut parts = Vec::new();
    match &key.query {
        QueryKey::Whole => {}
        QueryKey::Without(ignored) => parts.push(format!("without {}", names(ignored))),
        QueryKey::Only(allowed) if allowed.is_empty() => parts.push("without a query".to_owned()),
        QueryKey::Only(allowed) => parts.push(format!("of the query only {}", names(allowed))),
    }
    if key.sort {
        parts.push("sorted".to_owned());
    }
    if !key.cookies.is_empty() {
        parts.push(format!("with the cookies {}", key.cookies.join(", ")));
    }
    if parts.is_empty() { "the URL as it is sent".to_owned() } else { parts.join(", ") }
}

fn issuer(issuer: Issuer) -> &'static str {
    match issuer {
        Issuer::Acme => "ordered by ACME",
        Issuer::Operator => "your own",
        Issuer::Local => "of the local CA",
    }
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::control::web::api::{HostCertificate, ServingRelease};
    use crate::link::why::Verdict;
    use crate::model::cache::CacheRule;
    use crate::model::route::UpstreamId;

    fn why(answer: Outlook) -> Why {
        let question = Question {
            method: "GET".to_owned(),
            is_secure: true,
            authority: "shop.test".to_owned(),
            target: "/a?utm_x=1".to_owned(),
            fields: Vec::new(),
        };
        let hour = SystemTime::UNIX_EPOCH + Duration::from_secs(3600);
        Why {
            question,
            held: None,
            release: Some(ServingRelease {
                name: "r7".to_owned(),
                commit: "1".repeat(40).parse().unwrap(),
                since: hour,
            }),
            unwell: Vec::new(),
            certificate: Some(HostCertificate { issuer: Issuer::Local, ends: hour }),
            verdict: Verdict { site: Some("shop".parse().unwrap()), answer },
        }
    }

    fn text(answer: Outlook) -> String {
        lines(&why(answer), SystemTime::UNIX_EPOCH + Duration::from_secs(3720)).join("\n")
    }

    #[test]
    fn a_report_goes_from_the_host_to_the_cache() {
        let rule = |path: &str| Pattern::from(path.to_owned());
        let utm = CacheKey { query: QueryKey::Without(vec![rule("utm_*")]), ..CacheKey::default() };
        let stored = StoredOutlook {
            status: 200,
            bytes: 1234,
            age: 12,
            ttl: 48,
            said_by: "`max-age` of `cache-control`".to_owned(),
            vary: vec!["accept-language".to_owned()],
        };
        let cache = CacheOutlook {
            verdict: "hit".to_owned(),
            why: "fresh for 48 s more by `max-age` of `cache-control`".to_owned(),
            key: Some("https://shop.test/a".to_owned()),
            rule: Some(CacheRule { path: rule("/a*"), verdict: CacheVerdict::Ttl(Duration::from_secs(60)) }),
            key_rule: Some(CacheRule { path: rule("*"), verdict: utm }),
            tags: vec!["a".to_owned(), "b".to_owned()],
            stored: Some(stored),
            variants: 1,
            ..CacheOutlook::default()
        };
        let (upstream, replicas) = (UpstreamId("shop/master#r7".to_owned()), vec!["127.0.0.1:1".parse().unwrap()]);
        let upstream = Outlook::Upstream { upstream, replicas, cache: Box::new(cache) };
        let report = "GET https://shop.test/a?utm_x=1
site         shop/master
release      r7 of commit 1111111, serves for 2m
upstream     shop/master#r7, 1 replica running
certificate  of the local CA, is over
key          https://shop.test/a
             made by the project's key: without utm_*
rule         the rule for /a*: ttl 60 s
tags         a, b
stored       200, 1234 bytes, 12 s old, fresh for 48 s more by `max-age` of `cache-control`; for requests alike in accept-language
cache        hit: fresh for 48 s more by `max-age` of `cache-control`";
        assert_eq!(text(upstream), report);
        let location = "https://shop.test/".to_owned();
        assert!(text(Outlook::Redirect { location }).ends_with("\nanswer       308 to https://shop.test/"));
        assert!(text(Outlook::Refusal { status: 400, why: "No.".to_owned() }).ends_with("\nanswer       400: No."));
    }
}
