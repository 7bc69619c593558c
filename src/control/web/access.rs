//! The access log for the command line: the last lines that match, and then what is added.
//!
//! Called by the admin API. The rule: a line is passed on as the edge wrote it, and what is no such line is not.

mod files;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt, stream};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::api::{AccessLine, AccessQuery};
use files::{Reader, Seen};

/// Between two looks for more lines.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Lines of different workers are this much out of order, and a little more.
const DISORDER: Duration = Duration::from_secs(5);

/// JSON lines, until there are no more or, where they are followed, until nobody reads them.
pub fn body(log: PathBuf, query: AccessQuery) -> Body {
    let filter = Filter::new(&query, SystemTime::now());
    let begun = stream::once(apart(move || Reading::begin(log, query.lines, filter)));
    Body::from_stream(begun.map_ok(move |reading| pieces(reading, query.follow)).try_flatten())
}

fn pieces(reading: Reading, is_followed: bool) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold(reading, move |mut reading| async move {
        loop {
            let lines;
            (reading, lines) = apart(move || reading.more()).await?;
            if !lines.is_empty() {
                return Ok(Some((Bytes::from(lines), reading)));
            }
            if !is_followed {
                return Ok(None);
            }
            sleep(LOOK_AGAIN).await;
        }
    })
}

/// Reads where waiting for a disk keeps nobody up.
async fn apart<T: Send + 'static>(read: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(read).await?
}

#[derive(Debug)]
struct Reading {
    reader: Reader,
    filter: Filter,
}

impl Reading {
    fn begin(log: PathBuf, lines: Option<usize>, filter: Filter) -> io::Result<Self> {
        let mut left = lines.unwrap_or(usize::MAX);
        let reader = Reader::from_end(log, |line| match filter.judge(line) {
            _ if left == 0 => Seen::Enough,
            Verdict::TooOld => Seen::Enough,
            Verdict::Other => Seen::Pass,
            Verdict::Matches => {
                left -= 1;
                Seen::Wanted
            }
        })?;
        Ok(Self { reader, filter })
    }

    /// The next lines that match; none when there are none yet.
    fn more(mut self) -> io::Result<(Self, Vec<u8>)> {
        loop {
            let lines = self.reader.more()?;
            let is_end = lines.is_empty();
            let matches = |line: &&[u8]| self.filter.judge(line) == Verdict::Matches;
            let matching = lines.split_inclusive(|byte| *byte == b'\n').filter(matches).collect::<Vec<_>>().concat();
            if is_end || !matching.is_empty() {
                return Ok((self, matching));
            }
        }
    }
}

/// What is asked for, in the form in which lines say it.
#[derive(Debug, Clone)]
struct Filter {
    query: AccessQuery,
    site: Option<String>,
    since: Option<String>,
    /// No line after this one can be from `since` on.
    too_old: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Matches,
    Other,
    /// So are all lines before it.
    TooOld,
}

impl Filter {
    fn new(query: &AccessQuery, now: SystemTime) -> Self {
        let since = query.since.and_then(|since| now.checked_sub(Duration::from_millis(since)));
        let since = since.filter(|since| *since > SystemTime::UNIX_EPOCH);
        Self {
            site: query.site.as_ref().map(ToString::to_string),
            since: since.and_then(written),
            too_old: since.and_then(|since| since.checked_sub(DISORDER)).and_then(written),
            query: query.clone(),
        }
    }

    fn judge(&self, line: &[u8]) -> Verdict {
        let Ok(line) = serde_json::from_slice::<AccessLine<'_>>(line) else { return Verdict::Other };
        let is_before = |time: &Option<String>| time.as_ref().is_some_and(|time| *line.time < **time);
        if is_before(&self.too_old) {
            return Verdict::TooOld;
        }
        let query = &self.query;
        let is_from = |net: &ipnet::IpNet| line.client.parse::<IpAddr>().is_ok_and(|client| net.contains(&client));
        let matches = !is_before(&self.since)
            && (self.site.is_none() || self.site == line.site)
            && query.status.is_none_or(|statuses| (statuses.from..=statuses.to).contains(&line.status))
            && query.path.as_ref().is_none_or(|path| line.target.starts_with(path))
            && query.client.as_ref().is_none_or(is_from)
            && query.slow.is_none_or(|slow| line.ms >= slow as f64);
        if matches { Verdict::Matches } else { Verdict::Other }
    }
}

/// A point in time in the form of the log; texts of it are in the order of time.
fn written(at: SystemTime) -> Option<String> {
    OffsetDateTime::from(at).format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(query: AccessQuery) -> Verdict {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let line = br#"{"time":"2026-09-21T14:13:10.500Z","client":"10.0.0.7","method":"GET","scheme":"http",
            "host":"shop.test","target":"/a/b?c","protocol":"HTTP/2","status":503,"ms":12.5,"sent":1,"received":0,
            "site":"shop/dev","cache":"miss","id":"1","user_agent":"x"}"#;
        Filter::new(&query, now).judge(line)
    }

    #[test]
    fn a_line_matches_what_is_asked_for_and_nothing_else() {
        let queries = |status: &str, path: &str, client: &str, slow, site: &str| AccessQuery {
            status: Some(status.parse().unwrap()),
            path: Some(path.to_owned()),
            client: Some(client.parse().unwrap()),
            slow: Some(slow),
            site: Some(site.parse().unwrap()),
            ..AccessQuery::default()
        };
        assert_eq!(verdict(AccessQuery::default()), Verdict::Matches);
        assert_eq!(verdict(queries("5xx", "/a/", "10.0.0.0/8", 12, "shop/dev")), Verdict::Matches);
        for other in [
            queries("500-502", "/a/", "10.0.0.0/8", 12, "shop/dev"),
            queries("5xx", "/b", "10.0.0.0/8", 12, "shop/dev"),
            queries("5xx", "/a/", "10.0.0.8/32", 12, "shop/dev"),
            queries("5xx", "/a/", "10.0.0.0/8", 13, "shop/dev"),
            queries("5xx", "/a/", "10.0.0.0/8", 12, "shop"),
        ] {
            assert_eq!(verdict(other.clone()), Verdict::Other, "{other:?}");
        }
    }

    #[test]
    fn lines_before_a_time_end_the_search_but_for_a_little_disorder() {
        let since = |since| verdict(AccessQuery { since: Some(since), ..AccessQuery::default() });
        assert_eq!(since(9_501), Verdict::Matches);
        assert_eq!(since(9_499), Verdict::Other);
        assert_eq!(since(4_499), Verdict::TooOld);
        assert_eq!(since(u64::MAX), Verdict::Matches);
    }
}
