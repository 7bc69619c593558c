//! `opri logs --access`: what visitors asked for, and how it went.
//!
//! The rule: whatever a client sent reaches the terminal escaped, in columns and with `--json`.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use super::client::Client;
use super::{Common, Done, argument, block_on, logs};
use crate::control::web::api::{AccessLine, AccessQuery, Statuses};
use crate::model::name::Site;
use crate::report;

/// How far back it is shown, in lines, when nobody says how far.
const LINES: usize = 1000;

#[derive(Debug, Args)]
pub struct Filter {
    /// Requests answered so: 404, 5xx or 500-599
    #[arg(long, requires = "access")]
    status: Option<Statuses>,
    /// Requests whose target begins so
    #[arg(long, requires = "access", value_name = "PREFIX", value_parser = argument::prefix)]
    path: Option<String>,
    /// Requests from this address or network
    #[arg(long, requires = "access", value_name = "ADDRESS", value_parser = network)]
    client: Option<IpNet>,
    /// Requests that took this long or longer, as in 500ms
    #[arg(long, requires = "access", value_name = "TIME", value_parser = argument::span)]
    slow: Option<Duration>,
    /// Requests of the last while, as in 10m
    #[arg(long, requires = "access", value_name = "TIME", value_parser = argument::span)]
    since: Option<Duration>,
}

impl Filter {
    pub fn query(self, site: Option<Site>, follow: bool, lines: Option<usize>) -> AccessQuery {
        let milliseconds = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        AccessQuery {
            lines: lines.or(self.since.is_none().then_some(LINES)),
            follow,
            site,
            status: self.status,
            path: self.path,
            client: self.client,
            slow: self.slow.map(milliseconds),
            since: self.since.map(milliseconds),
        }
    }
}

pub fn run(common: &Common, query: &AccessQuery) -> Done {
    let client = Client::new(common)?;
    block_on(async {
        let body = client.open(&format!("/v1/access?{}", query.to_url())).await?;
        if common.json {
            return logs::print(body, report::clean).await;
        }
        say!("{}", row(["TIME", "CLIENT", "STATUS", "MS", "SENT", "CACHE", "SITE", "REQUEST"]));
        logs::print(body, columns).await
    })
}

/// A line for people.
fn columns(text: &str) -> String {
    let Ok(line) = serde_json::from_str::<AccessLine<'_>>(text) else { return report::clean(text) };
    let request = format!("{} {}://{}{}", line.method, line.scheme, line.host, line.target);
    report::clean(&row([
        &line.time,
        &line.client,
        &line.status.to_string(),
        &format!("{:.3}", line.ms),
        &line.sent.to_string(),
        line.cache.as_deref().unwrap_or("-"),
        line.site.as_deref().unwrap_or("-"),
        &request,
    ]))
}

/// Columns as wide as what is usual, for nobody knows what is still to come.
fn row([time, client, status, ms, sent, cache, site, request]: [&str; 8]) -> String {
    format!("{time:24}  {client:15}  {status:6}  {ms:>10}  {sent:>10}  {cache:7}  {site:16}  {request}")
}

/// An address, or a network of them.
fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| format!("`{text}` is no address and no network"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_may_be_many() {
        assert_eq!(network("10.0.0.1"), Ok("10.0.0.1/32".parse().unwrap()));
        assert_eq!(network("10.0.0.0/8"), Ok("10.0.0.0/8".parse().unwrap()));
        assert!(network("shop.test").is_err());
    }

    #[test]
    fn what_a_client_sent_is_shown_and_never_obeyed() {
        let line = r#"{"time":"t","client":"1.2.3.4","method":"GET","scheme":"http","host":"a","target":"/\u001b[2J\u202e",
            "protocol":"HTTP/1.1","status":404,"ms":1.5,"sent":1,"received":0,"id":"1"}"#;
        let shown = columns(line);
        assert!(shown.ends_with("GET http://a/\\u{1b}[2J\\u{202e}"), "{shown}");
        assert_eq!(columns("no\x1bline"), "no\\u{1b}line");
    }
}
