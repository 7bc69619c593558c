//! What a client asks of a cache.

use super::row::From::{Edge, Store};
use super::row::Row;

const FRESH: &str = "Cache-Control: max-age=60";
/// Half a minute old, and good for as long.
const HALF: &str = "Cache-Control: max-age=60\nAge: 30";
/// Stale for ten seconds when it came, and worth keeping.
const STALE: &str = "Cache-Control: max-age=60, stale-if-error=9\nAge: 70";

pub fn rows() -> Vec<Row> {
    let mut rows = wishes();
    rows.extend(conditions());
    rows.extend(methods());
    rows
}

fn wishes() -> Vec<Row> {
    let stored = [
        ("a request without a wish", FRESH, ""),
        ("max-age that is kept", HALF, "Cache-Control: max-age=40"),
        ("min-fresh that is kept", HALF, "Cache-Control: min-fresh=20"),
        ("max-stale of what is fresh", HALF, "Cache-Control: max-stale=0"),
        ("max-stale of what is stale", STALE, "Cache-Control: max-stale=100"),
        ("max-stale without a bound", STALE, "Cache-Control: max-stale"),
        ("only-if-cached of what is", FRESH, "Cache-Control: only-if-cached"),
        ("a wish that nobody knows", FRESH, "Cache-Control: please"),
        ("Pragma beside Cache-Control", FRESH, "Pragma: no-cache\nCache-Control: please"),
        ("Pragma that nobody knows", FRESH, "Pragma: please"),
    ];
    let asked = [
        ("no-cache asks", FRESH, "Cache-Control: no-cache"),
        ("no-store asks", FRESH, "Cache-Control: no-store"),
        ("Pragma: no-cache asks", FRESH, "Pragma: no-cache"),
        ("max-age that is exceeded", HALF, "Cache-Control: max-age=20"),
        ("max-age=0 asks", FRESH, "Cache-Control: max-age=0"),
        ("max-age that is no number asks", FRESH, "Cache-Control: max-age=x"),
        ("min-fresh that is not there", HALF, "Cache-Control: min-fresh=40"),
        ("min-fresh that is no number asks", FRESH, "Cache-Control: min-fresh=x"),
        ("max-stale that is exceeded", STALE, "Cache-Control: max-stale=5"),
        ("max-stale that is no number", STALE, "Cache-Control: max-stale=x"),
        ("max-stale and max-age", STALE, "Cache-Control: max-stale=100, max-age=60"),
        (
            "max-stale of what must not be stale",
            "Cache-Control: max-age=60, must-revalidate\nAge: 70\nETag: \"a\"",
            "Cache-Control: max-stale=100",
        ),
        (
            "max-stale of what proxies must not show stale",
            "Cache-Control: max-age=60, proxy-revalidate\nAge: 70\nETag: \"a\"",
            "Cache-Control: max-stale=100",
        ),
        (
            "max-stale beside s-maxage",
            "Cache-Control: s-maxage=60\nAge: 70\nETag: \"a\"",
            "Cache-Control: max-stale=100",
        ),
        (
            "max-stale of what must always be asked for",
            "Cache-Control: no-cache, max-age=60\nETag: \"a\"",
            "Cache-Control: max-stale=100",
        ),
    ];
    let row = |rule, answers, asks| Row::new(rule).get("").app(200, answers).get(asks);
    let rows = stored.map(|(rule, answers, asks)| row(rule, answers, asks).from(Store(0)));
    let rows = rows.into_iter().chain(asked.map(|(rule, answers, asks)| row(rule, answers, asks).app(200, answers)));
    rows.chain([
        Row::new("only-if-cached of what is not").get("Cache-Control: only-if-cached").from(Edge(504)),
        Row::new("only-if-cached of what is stale")
            .get("")
            .app(200, STALE)
            .get("Cache-Control: only-if-cached")
            .from(Edge(504)),
        Row::new("only-if-cached with no-cache")
            .get("")
            .app(200, FRESH)
            .get("Cache-Control: only-if-cached, no-cache")
            .from(Edge(504)),
        Row::new("what was asked for with no-store is not stored")
            .get("Cache-Control: no-store")
            .app(200, FRESH)
            .get("")
            .app(200, FRESH),
        Row::new("what was asked for with no-cache is stored")
            .get("Cache-Control: no-cache")
            .app(200, FRESH)
            .get("")
            .from(Store(0)),
        Row::new("a newer answer takes the place of an older one")
            .get("")
            .app(200, FRESH)
            .get("Cache-Control: no-cache")
            .app(200, FRESH)
            .get("")
            .from(Store(1)),
        Row::new("a stale answer shown says so")
            .get("")
            .app(200, STALE)
            .gets("cache-status: opri; fwd=miss; stored")
            .get("Cache-Control: max-stale=100")
            .from(Store(0))
            .gets("cache-status: opri; hit; ttl=-1*"),
    ])
    .collect()
}

fn conditions() -> Vec<Row> {
    const TAGGED: &str = "Cache-Control: max-age=60\nETag: \"a\"\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
    const WEAK: &str = "Cache-Control: max-age=60\nETag: W/\"a\"";
    let same = [
        ("If-None-Match of what is stored", TAGGED, "If-None-Match: \"a\""),
        ("If-None-Match compares weakly", TAGGED, "If-None-Match: W/\"a\""),
        ("If-None-Match of a weak tag", WEAK, "If-None-Match: \"a\""),
        ("If-None-Match in a list", TAGGED, "If-None-Match: \"x\", \"a\""),
        ("If-None-Match on two lines", TAGGED, "If-None-Match: \"x\"\nIf-None-Match: \"a\""),
        ("If-None-Match of anything", TAGGED, "If-None-Match: *"),
        ("If-Modified-Since of what has not", TAGGED, "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"),
        ("If-Modified-Since in RFC 850's form", TAGGED, "If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT"),
    ];
    let other = [
        ("If-None-Match of another", TAGGED, "If-None-Match: \"b\""),
        ("If-None-Match before If-Modified-Since", TAGGED, "If-None-Match: \"b\"\nIf-Modified-Since: {now-0}"),
        ("If-Modified-Since before that", TAGGED, "If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT"),
        ("If-Modified-Since that is no date", TAGGED, "If-Modified-Since: once"),
    ];
    let row = |rule, answers, asks| Row::new(rule).get("").app(200, answers).get(asks).from(Store(0));
    let rows = same.map(|(rule, answers, asks)| row(rule, answers, asks).told(304).lacks("content-length"));
    rows.into_iter().chain(other.map(|(rule, answers, asks)| row(rule, answers, asks))).collect()
}

fn methods() -> Vec<Row> {
    vec![
        Row::new("HEAD is answered by a stored GET").get("").app(200, FRESH).ask("HEAD", "", "").from(Store(0)),
        Row::new("HEAD stores nothing").ask("HEAD", "", "").app(200, FRESH).get("").app(200, FRESH),
        Row::new("POST is never answered from what is stored")
            .get("")
            .app(200, FRESH)
            .ask("POST", "", "Content-Length: 0")
            .app(400, FRESH),
        Row::new("POST stores nothing").ask("POST", "", "Content-Length: 0").app(200, FRESH).get("").app(200, FRESH),
        Row::new("OPTIONS stores nothing").ask("OPTIONS", "", "").app(200, FRESH).get("").app(200, FRESH),
        Row::new("a query is part of the URL")
            .ask("GET", "?a", "")
            .app(200, FRESH)
            .ask("GET", "?b", "")
            .app(200, FRESH)
            .ask("GET", "?a", "")
            .from(Store(0)),
        part(
            "a part of which it is said twice what it is a part of",
            "ETag: \"a\"\nETag: \"b\"\nContent-Range: bytes 0-8/100",
        ),
        part(
            "a part of which it is said twice where it lies",
            "ETag: \"a\"\nContent-Range: bytes 0-8/100\nContent-Range: bytes 9-17/100",
        ),
        part("a part of another length than it says", "ETag: \"a\"\nContent-Range: bytes 0-7/100"),
        Row::new("a part is not stored as the whole")
            .get("Range: bytes=0-1")
            .app(206, "Cache-Control: max-age=60\nContent-Range: bytes 0-8/100")
            .get("")
            .app(200, FRESH),
    ]
}

/// One that nobody else can do with.
fn part(rule: &'static str, said: &'static str) -> Row {
    let row = Row::new(rule)
        .get("Range: bytes=0-8")
        .app(206, said)
        .gets("cache-status: opri; fwd=miss")
        .lacks("cache-status: opri; fwd=miss; stored");
    row.get("Range: bytes=0-8").app(206, said)
}
