//! What an app says of storing its answers.

use super::JAR;
use super::row::From::{App, Renewed, Store};
use super::row::{Row, Step, twice};

const FRESH: &str = "Cache-Control: max-age=60";

pub fn rows() -> Vec<Row> {
    let mut rows = said();
    rows.extend(statuses());
    rows.extend(fields());
    rows.extend(credentials());
    rows.extend(targeted());
    rows.extend(tagged());
    rows
}

fn said() -> Vec<Row> {
    let stored = [
        ("max-age", FRESH),
        ("max-age in any case", "cache-control: MAX-AGE=60"),
        ("max-age in quotes", "Cache-Control: max-age=\"60\""),
        ("max-age with zeros before", "Cache-Control: max-age=0060"),
        ("max-age of 31 bits and more", "Cache-Control: max-age=2147483649"),
        ("max-age beyond all counting", "Cache-Control: max-age=99999999999999999999999"),
        ("max-age among what nobody knows", "Cache-Control: a, b=c, max-age=60, d=\"e, f\""),
        ("max-age among empty members", "Cache-Control: , ,max-age=60,"),
        ("max-age on the second line", "Cache-Control: public\nCache-Control: max-age=60"),
        ("s-maxage", "Cache-Control: s-maxage=60"),
        ("s-maxage before max-age", "Cache-Control: s-maxage=60, max-age=0"),
        ("immutable takes nothing away", "Cache-Control: max-age=60, immutable"),
        ("must-revalidate takes nothing away while it is fresh", "Cache-Control: max-age=60, must-revalidate"),
        ("proxy-revalidate takes nothing away while it is fresh", "Cache-Control: max-age=60, proxy-revalidate"),
        ("no-store within quotes is not said", "Cache-Control: a=\"no-store\", max-age=60"),
        ("no-stores is not no-store", "Cache-Control: no-stores, max-age=60"),
        ("must-understand lifts no-store", "Cache-Control: must-understand, no-store, max-age=60"),
        ("Pragma says nothing in an answer", "Pragma: no-cache\nCache-Control: max-age=60"),
        ("no-cache with a name", "Cache-Control: max-age=60, no-cache=\"x-own\""),
        ("private with a name", "Cache-Control: max-age=60, private=\"x-own\""),
    ];
    let asked = [
        ("nothing", ""),
        ("public without a time", "Cache-Control: public"),
        ("no-store", "Cache-Control: no-store, max-age=60"),
        ("no-store in any case", "Cache-Control: max-age=60, No-Store"),
        ("no-store with a value", "Cache-Control: max-age=60, no-store=x"),
        ("no-store on the second line", "Cache-Control: max-age=60\nCache-Control: no-store"),
        ("no-store behind a quote without an end", "Cache-Control: max-age=60, a=\"b, no-store"),
        ("private", "Cache-Control: private, max-age=60"),
        ("private with s-maxage", "Cache-Control: private, s-maxage=60"),
        ("private with an odd name", "Cache-Control: private=\"a b\", max-age=60"),
        ("private with a name that is not quoted", "Cache-Control: private=x-own, max-age=60"),
        ("no-cache", "Cache-Control: no-cache, max-age=60"),
        ("max-age=0", "Cache-Control: max-age=0"),
        ("max-age that is no number", "Cache-Control: max-age=x"),
        ("max-age below zero", "Cache-Control: max-age=-60"),
        ("max-age with a sign", "Cache-Control: max-age=+60"),
        ("max-age with a fraction", "Cache-Control: max-age=60.5"),
        ("max-age with a unit", "Cache-Control: max-age=60s"),
        ("max-age in single quotes", "Cache-Control: max-age='60'"),
        ("max-age without a value", "Cache-Control: max-age"),
        ("max-age with a space before its value", "Cache-Control: max-age= 60"),
        ("max-age within quotes", "Cache-Control: a=\"max-age=60\""),
        ("max-age twice, the shorter last", "Cache-Control: max-age=60, max-age=0"),
        ("max-age twice, the shorter first", "Cache-Control: max-age=0, max-age=60"),
        ("max-age twice, once odd", "Cache-Control: max-age=60, max-age=x"),
        ("s-maxage=0", "Cache-Control: s-maxage=0, max-age=60"),
        ("s-maxage that is no number", "Cache-Control: s-maxage=x, max-age=60"),
        ("must-understand alone stores nothing", "Cache-Control: must-understand"),
    ];
    let stored = stored.map(|(rule, answers)| twice(rule, "", 200, answers, Store(0)));
    let asked = asked.map(|(rule, answers)| twice(rule, "", 200, answers, App));
    stored.into_iter().chain(asked).collect()
}

fn statuses() -> Vec<Row> {
    let explicit = [
        ("201 with a time", 201),
        ("202 with a time", 202),
        ("203 with a time", 203),
        ("204 with a time", 204),
        ("299 with a time", 299),
        ("301 with a time", 301),
        ("302 with a time", 302),
        ("303 with a time", 303),
        ("307 with a time", 307),
        ("308 with a time", 308),
        ("400 with a time", 400),
        ("403 with a time", 403),
        ("404 with a time", 404),
        ("410 with a time", 410),
        ("429 with a time", 429),
        ("499 with a time", 499),
        ("500 with a time", 500),
        ("502 with a time", 502),
        ("503 with a time", 503),
        ("504 with a time", 504),
        ("599 with a time", 599),
    ];
    let explicit = explicit.map(|(rule, status)| twice(rule, "", status, FRESH, Store(0)));
    let guessed = [
        ("203 that has not changed", 203),
        ("204 that has not changed", 204),
        ("300 that has not changed", 300),
        ("301 that has not changed", 301),
        ("308 that has not changed", 308),
        ("404 that has not changed", 404),
        ("405 that has not changed", 405),
        ("410 that has not changed", 410),
        ("414 that has not changed", 414),
        ("501 that has not changed", 501),
    ];
    const OLD: &str = "Last-Modified: {now-100000}\nDate: {now-1}";
    let guessed = guessed.map(|(rule, status)| twice(rule, "", status, OLD, Store(0)));
    let asked = [
        ("201 that has not changed", 201, OLD),
        ("302 that has not changed", 302, OLD),
        ("403 that has not changed", 403, OLD),
        ("500 that has not changed", 500, OLD),
        ("599 that has not changed", 599, OLD),
        ("206 is no whole", 206, "Cache-Control: max-age=60\nContent-Range: bytes 0-8/100"),
        ("must-understand of a status that is not", 299, "Cache-Control: max-age=60, must-understand"),
        ("must-understand lifts nothing of it", 299, "Cache-Control: max-age=60, must-understand, no-store"),
    ];
    let asked = asked.map(|(rule, status, answers)| twice(rule, "", status, answers, App));
    let public = twice("500 that is public", "", 500, "Cache-Control: public\nLast-Modified: {now-100000}", Store(0));
    explicit.into_iter().chain(guessed).chain(asked).chain([public]).collect()
}

fn fields() -> Vec<Row> {
    const OWN: &str = "X-Own: 1\nX-All: 2\nSet-Cookie: a=b";
    const COOKIE: &str = "Cache-Control: max-age=60\nSet-Cookie: a=b";
    vec![
        Row::new("a field that private names is not stored")
            .get("")
            .app(200, "Cache-Control: max-age=60, private=\"X-Own, x-other\"\nX-Own: 1\nX-All: 2")
            .gets("x-own: 1")
            .get("")
            .from(Store(0))
            .gets("x-all: 2")
            .lacks("x-own"),
        Row::new("a field that no-cache names is not used again")
            .get("")
            .app(200, "Cache-Control: max-age=60, no-cache=\"x-own\"\nX-Own: 1\nX-All: 2")
            .gets("x-own: 1")
            .get("")
            .from(Store(0))
            .gets("x-all: 2")
            .lacks("x-own"),
        Row::new("a cookie that private names leaves the rest")
            .get("")
            .app(200, "Cache-Control: max-age=60, private=\"set-cookie\"\nSet-Cookie: a=b")
            .gets("set-cookie: a=b")
            .get("")
            .from(Store(0))
            .lacks("set-cookie"),
        Row::new("what the connection names is not stored")
            .get("")
            .app(200, "Cache-Control: max-age=60\nConnection: X-Hop\nX-Hop: 1\nKeep-Alive: timeout=5\nX-All: 2")
            .lacks("x-hop")
            .get("")
            .from(Store(0))
            .gets("x-all: 2")
            .lacks("x-hop")
            .lacks("keep-alive"),
        Row::new("what is a proxy's is not stored")
            .get("")
            .app(200, "Cache-Control: max-age=60\nProxy-Authenticate: Basic\nX-All: 2")
            .get("")
            .from(Store(0))
            .gets("x-all: 2")
            .lacks("proxy-auth"),
        Row::new("fields nobody knows are stored as they are")
            .get("")
            .app(200, "Cache-Control: max-age=60\nX-Odd:  a, \"b\" ;c\nX-Odd: d\nServer: s/1")
            .get("")
            .from(Store(0))
            .gets("x-odd: a, \"b\" ;c")
            .gets("x-odd: d")
            .gets("server: s/1"),
        twice("what sets a cookie", "", 200, COOKIE, App),
        twice("what sets a cookie and is public", "", 200, "Cache-Control: max-age=60, public\nSet-Cookie: a=b", App),
        twice("what sets a cookie with s-maxage", "", 200, "Cache-Control: s-maxage=60\nSet-Cookie: a=b", App),
        twice("what sets a cookie, where it may", "", 200, COOKIE, App).at(JAR),
        Row::new("what sets a cookie and is public, where it may")
            .at(JAR)
            .get("")
            .app(200, "Cache-Control: max-age=60, public\nSet-Cookie: a=b")
            .get("")
            .from(Store(0))
            .gets("set-cookie: a=b"),
        twice(
            "what sets a cookie with s-maxage, where it may",
            "",
            200,
            "Cache-Control: s-maxage=60\nSet-Cookie: a=b",
            Store(0),
        )
        .at(JAR),
        twice(
            "what sets a cookie for CDNs, where it may",
            "",
            200,
            "CDN-Cache-Control: max-age=60\nSet-Cookie: a=b",
            Store(0),
        )
        .at(JAR),
        twice("what sets a cookie and is private, where it may", "", 200, "Cache-Control: private, max-age=60", App)
            .at(JAR),
        Row::new("a cookie beside fields of one visitor")
            .get("")
            .app(200, "Cache-Control: max-age=60, private=\"x-own, set-cookie\"\nX-Own: 1\nX-All: 2\nSet-Cookie: a=b")
            .get("")
            .from(Store(0))
            .gets("x-all: 2")
            .lacks("x-own")
            .lacks("set-cookie"),
        Row::new("an empty body is stored as well")
            .ask("GET", "/empty", "")
            .app(200, FRESH)
            .ask("GET", "/empty", "")
            .from(Store(0)),
        Row::new("without a time nothing of it is stored").get("").app(200, OWN).get("").app(200, OWN).gets("x-own: 1"),
    ]
}

fn credentials() -> Vec<Row> {
    const ASKS: &str = "Authorization: Basic YTpi";
    let anybodys = [
        ("credentials, public", "Cache-Control: max-age=60, public"),
        ("credentials, s-maxage", "Cache-Control: s-maxage=60"),
        ("credentials, must-revalidate", "Cache-Control: max-age=60, must-revalidate"),
    ];
    let ones = [
        ("credentials, max-age alone", FRESH),
        ("credentials, proxy-revalidate", "Cache-Control: max-age=60, proxy-revalidate"),
        ("credentials, s-maxage that is none", "Cache-Control: max-age=60, s-maxage=x"),
        ("credentials, public with a value", "Cache-Control: max-age=60, public=yes"),
        ("credentials, Expires", "Expires: {now+60}"),
        ("credentials, not changed", "Last-Modified: {now-100000}"),
    ];
    let rows = anybodys.map(|(rule, answers)| twice(rule, ASKS, 200, answers, Store(0)));
    let rows = rows.into_iter().chain(ones.map(|(rule, answers)| twice(rule, ASKS, 200, answers, App)));
    rows.chain([
        Row::new("what answered credentials answers everybody, where it is public")
            .get(ASKS)
            .app(200, "Cache-Control: max-age=60, public")
            .get("")
            .from(Store(0)),
        Row::new("credentials get nothing that is stored for those without")
            .get("")
            .app(200, FRESH)
            .get(ASKS)
            .app(200, FRESH),
        Row::new("a cookie without a time is one visitor's own")
            .get("Cookie: a=b")
            .app(200, "Last-Modified: {now-100000}")
            .get("")
            .app(200, "Last-Modified: {now-100000}")
            .get("Cookie: a=b")
            .app(200, "Last-Modified: {now-100000}")
            .get("")
            .from(Store(1)),
        Row::new("a cookie gets nothing of others that must be asked about")
            .get("")
            .app(200, "Cache-Control: no-cache\nETag: \"a\"")
            .get("Cookie: a=b")
            .app(200, "Cache-Control: no-cache\nETag: \"a\"")
            .hides("if-none-match"),
        Row::new("a cookie gets what is everybody's and must be asked about")
            .get("")
            .app(200, "Cache-Control: no-cache, public\nETag: \"a\"")
            .get("Cookie: a=b")
            .app(304, "")
            .from(Renewed(0))
            .shows("if-none-match: \"a\""),
        Row::new("a cookie with a time is not").get("Cookie: a=b").app(200, FRESH).get("Cookie: c=d").from(Store(0)),
    ])
    .collect()
}

fn targeted() -> Vec<Row> {
    let stored = [
        ("CDN-Cache-Control", "CDN-Cache-Control: max-age=60"),
        ("CDN-Cache-Control before no-store", "CDN-Cache-Control: max-age=60\nCache-Control: no-store"),
        ("CDN-Cache-Control before Expires", "CDN-Cache-Control: max-age=60\nExpires: 0"),
        ("CDN-Cache-Control with parameters", "CDN-Cache-Control: max-age=60;x=\"y\", a"),
        ("CDN-Cache-Control on two lines", "CDN-Cache-Control: a=1\nCDN-Cache-Control: max-age=60"),
        ("CDN-Cache-Control before Surrogate-Control", "CDN-Cache-Control: max-age=60\nSurrogate-Control: no-store"),
        ("CDN-Cache-Control that is not valid", "CDN-Cache-Control: no-store no-cache\nCache-Control: max-age=60"),
        ("CDN-Cache-Control that is empty", "CDN-Cache-Control:\nCache-Control: max-age=60"),
        ("CDN-Cache-Control in large letters", "CDN-Cache-Control: No-Store\nCache-Control: max-age=60"),
        ("Surrogate-Control", "Surrogate-Control: max-age=60, content=\"ESI/1.0\"\nCache-Control: no-store"),
        ("Surrogate-Control that is not valid", "Surrogate-Control: no-store, max-age=60+5\nCache-Control: max-age=60"),
    ];
    let asked = [
        ("CDN-Cache-Control: no-store", "CDN-Cache-Control: no-store\nCache-Control: max-age=60"),
        ("CDN-Cache-Control: private", "CDN-Cache-Control: private, max-age=60\nCache-Control: max-age=60"),
        ("CDN-Cache-Control: max-age=0", "CDN-Cache-Control: max-age=0\nCache-Control: max-age=60"),
        ("CDN-Cache-Control with text for a time", "CDN-Cache-Control: max-age=\"x\"\nCache-Control: max-age=60"),
        ("CDN-Cache-Control with a fraction", "CDN-Cache-Control: max-age=60.5\nCache-Control: max-age=60"),
        (
            "CDN-Cache-Control that is not valid with no-store",
            "CDN-Cache-Control: max-age=60;;\nCache-Control: no-store",
        ),
        ("Surrogate-Control: no-store", "Surrogate-Control: no-store\nCache-Control: max-age=60"),
    ];
    let stored = stored.map(|(rule, answers)| twice(rule, "", 200, answers, Store(0)));
    let asked = asked.map(|(rule, answers)| twice(rule, "", 200, answers, App));
    stored.into_iter().chain(asked).collect()
}

/// Names for what a response is made of are said to caches, and to nobody behind them.
fn tagged() -> Vec<Row> {
    const LACKS: [&str; 2] = ["surrogate-key", "cache-tag"];
    let row = |rule, answers| {
        let row = twice(rule, "", 200, answers, Store(0));
        Row { steps: row.steps.into_iter().map(|step| Step { lacks: LACKS.to_vec(), ..step }).collect(), ..row }
    };
    vec![
        row("Surrogate-Key is kept back", "Cache-Control: max-age=60\nSurrogate-Key: a b\nSURROGATE-KEY: c"),
        row("Cache-Tag is kept back", "Cache-Control: max-age=60\nCache-Tag: a, b"),
        Row::new("Surrogate-Key of what is not stored is kept back")
            .get("")
            .app(200, "Surrogate-Key: a")
            .lacks(LACKS[0]),
        Row::new("Cache-Tag of an answer to POST is kept back")
            .ask("POST", "", "Content-Length: 0")
            .app(200, "Cache-Tag: a")
            .lacks(LACKS[1]),
        Row::new("Cache-Tag of a 304 is kept back")
            .get("")
            .app(200, "Cache-Control: max-age=0\nETag: \"a\"\nCache-Tag: a")
            .lacks(LACKS[1])
            .get("")
            .app(304, "Cache-Control: max-age=60\nETag: \"a\"\nCache-Tag: b")
            .from(Renewed(0))
            .lacks(LACKS[1])
            .get("")
            .from(Store(0))
            .lacks(LACKS[1]),
    ]
}
