//! What is one key and what are two, where conf says so; and what the app is shown of a request then.

use super::row::From::{App, Renewed, Store};
use super::row::{Row, twice};
use super::{KEYED, LISTED};

const FRESH: &str = "Cache-Control: max-age=60";

pub fn rows() -> Vec<Row> {
    [alike(), different(), told(), writes(), cookies(), shown(), passed()].concat()
}

/// Two URLs, of which the second finds what is stored for the first.
fn alike() -> Vec<Row> {
    let keyed = [
        ("key: what is ignored is not in it", "?utm_source=a", ""),
        ("key: what is ignored is not in it, later", "", "?fbclid=1&utm_a=b"),
        ("key: what is ignored between others", "?a=1&utm_source=x&b=2", "?a=1&b=2"),
        ("key: what is ignored and spelled otherwise", "?%75tm%5Fsource=x&a=1", "?a=1"),
        ("key: what is ignored with a semicolon in it", "?utm_source=x;a=2&a=1", "?a=1"),
        ("key: what is ignored without a value", "?fbclid&a=1", "?a=1&fbclid="),
        ("key: empty parameters", "?&&a=1&", "?a=1"),
        ("key: an empty query", "?", ""),
        ("key: another order", "?b=1&a=2", "?a=2&b=1"),
        ("key: another order beside what is ignored", "?b=1&utm_x=1&a=2", "?a=2&fbclid=1&b=1"),
    ];
    let listed = [
        ("allow: what is not listed", "?x=1&q=2", "?q=2&y=3"),
        ("allow: nothing that is listed", "?x=1", ""),
        ("allow: a list of its own", "?q[]=1", ""),
    ];
    let row = |(rule, one, other), host| {
        Row::new(rule).at(host).ask("GET", one, "").app(200, FRESH).ask("GET", other, "").from(Store(0))
    };
    keyed.map(|each| row(each, KEYED)).into_iter().chain(listed.map(|each| row(each, LISTED))).collect()
}

/// Two URLs that are not to be taken for each other.
fn different() -> Vec<Row> {
    let keyed = [
        ("key: another value", "?a=1", "?a=2"),
        ("key: a value and none", "?a", "?a="),
        ("key: one name twice, in another order", "?a=1&a=2", "?a=2&a=1"),
        ("key: one name in two spellings, in another order", "?a=1&%61=2", "?%61=2&a=1"),
        ("key: an ampersand that is escaped", "?a=1%26b=2", "?a=1&b=2"),
        ("key: a semicolon", "?a=1;b=2", "?a=1&b=2"),
        ("key: what is ignored, behind a semicolon", "?a=1;utm_source=b", "?a=1"),
        ("key: what is ignored, in other letters", "?UTM_source=a", ""),
        ("key: what is ignored, escaped twice", "?%2575tm_source=a", ""),
        ("key: what is ignored, within a value", "?a=utm_source=1", "?a=utm_source=2"),
    ];
    let listed = [
        ("allow: another value", "?q=1", "?q=2"),
        ("allow: what hides behind a semicolon", "?q=1;x=2", "?q=1"),
        ("allow: another spelling", "?%71=1", "?q=1"),
        ("allow: another order", "?q=1&page=2", "?page=2&q=1"),
    ];
    let row = |(rule, one, other), host| {
        Row::new(rule).at(host).ask("GET", one, "").app(200, FRESH).ask("GET", other, "").app(200, FRESH)
    };
    keyed.map(|each| row(each, KEYED)).into_iter().chain(listed.map(|each| row(each, LISTED))).collect()
}

/// By which target the app is asked.
fn told() -> Vec<Row> {
    vec![
        Row::new("key: the app is not shown what is ignored, or it would be stored for everybody")
            .at(KEYED)
            .ask("GET", "?b=1&utm_source=%3Cscript%3E&a=2", "")
            .app(200, FRESH)
            .under("?a=2&b=1")
            .ask("HEAD", "?a=2&b=1&utm_source=x", "")
            .from(Store(0)),
        Row::new("key: nor when its answer turns out not to be stored")
            .at(KEYED)
            .ask("GET", "?utm_source=a", "")
            .app(200, "Cache-Control: no-store")
            .under(""),
        Row::new("key: nor for a part").at(KEYED).ask("GET", "?utm_source=a", "Range: bytes=0-1").under(""),
        Row::new("allow: the app is shown what is listed")
            .at(LISTED)
            .ask("GET", "?x=1&q=2;z=3&page=4&y", "")
            .app(200, FRESH)
            .under("?q=2;z=3&page=4"),
        Row::new("key: what only the app can judge is asked as it was sent")
            .at(KEYED)
            .ask("GET", "?b&utm_source=a", "If-Match: \"a\"")
            .under("?b&utm_source=a"),
        Row::new("key: a write is asked as it was sent")
            .at(KEYED)
            .ask("POST", "?b=1&utm_source=a&a=2", "")
            .under("?b=1&utm_source=a&a=2"),
        Row::new("without a key the URL is asked as it was sent")
            .ask("GET", "?b&&utm_source=a&a", "")
            .app(200, FRESH)
            .under("?b&&utm_source=a&a"),
        Row::new("key: what is stale is asked about under its key")
            .at(KEYED)
            .ask("GET", "?utm_source=a", "")
            .app(200, "Cache-Control: no-cache\nETag: \"a\"")
            .ask("GET", "?utm_source=b", "")
            .app(304, "")
            .from(Renewed(0))
            .under("")
            .shows("if-none-match: \"a\""),
    ]
}

fn writes() -> Vec<Row> {
    vec![
        Row::new("key: a write makes untrue what is stored under its key")
            .at(KEYED)
            .ask("GET", "?a=1&b=2", "")
            .app(200, FRESH)
            .ask("DELETE", "?b=2&utm_source=x&a=1", "")
            .app(204, "")
            .ask("GET", "?a=1&b=2", "")
            .app(200, FRESH),
        Row::new("key: a write makes untrue what is stored for all cookies")
            .at(KEYED)
            .get("Cookie: lang=de")
            .app(200, FRESH)
            .get("Cookie: lang=en")
            .app(200, FRESH)
            .ask("DELETE", "", "Cookie: session=1")
            .app(204, "")
            .get("Cookie: lang=de")
            .app(200, FRESH)
            .get("Cookie: lang=en")
            .app(200, FRESH),
    ]
}

fn cookies() -> Vec<Row> {
    const OLD: &str = "Last-Modified: {now-100000}";
    let row = |rule| Row::new(rule).at(KEYED);
    vec![
        row("cookies: each value has its own")
            .get("Cookie: lang=de")
            .app(200, FRESH)
            .get("Cookie: lang=en")
            .app(200, FRESH)
            .get("")
            .app(200, FRESH)
            .get("Cookie: lang=de")
            .from(Store(0))
            .get("Cookie: lang=en")
            .from(Store(1))
            .get("")
            .from(Store(2)),
        row("cookies: those in the key in another order")
            .get("Cookie: lang=de; theme=x")
            .app(200, FRESH)
            .get("Cookie: theme=x; lang=de")
            .from(Store(0)),
        row("cookies: one name twice, in another order")
            .get("Cookie: lang=de; lang=en")
            .app(200, FRESH)
            .get("Cookie: lang=en; lang=de")
            .app(200, FRESH),
        row("cookies: those in the key leave no doubt")
            .get("Cookie: lang=de")
            .app(200, OLD)
            .get("Cookie: lang=de")
            .from(Store(0)),
        row("cookies: what others may have decided is not stored")
            .get("Cookie: lang=de; session=1")
            .app(200, FRESH)
            .get("Cookie: lang=de")
            .app(200, FRESH),
        row("cookies: not even when it says that it is public")
            .get("Cookie: session=1")
            .app(200, "Cache-Control: public, max-age=60")
            .get("")
            .app(200, FRESH),
        row("cookies: what the app says is fresh answers those with others")
            .get("Cookie: lang=de")
            .app(200, FRESH)
            .get("Cookie: session=1; lang=de")
            .from(Store(0)),
        row("cookies: what only conf says is fresh does not")
            .get("Cookie: lang=de")
            .app(200, "")
            .get("Cookie: session=1; lang=de")
            .app(200, "")
            .get("Cookie: lang=de")
            .from(Store(0)),
        row("cookies: a name in another spelling is another")
            .get("Cookie: l%61ng=de")
            .app(200, FRESH)
            .get("")
            .app(200, FRESH),
        row("cookies: the app is shown them all")
            .get("Cookie: session=1; lang=de")
            .app(200, FRESH)
            .shows("cookie: session=1; lang=de"),
    ]
}

/// What `Cache-Status` says.
fn shown() -> Vec<Row> {
    vec![
        Row::new("status: nothing is stored for the URL")
            .get("")
            .app(200, FRESH)
            .gets("cache-status: opri; fwd=miss; stored"),
        Row::new("status: what is stored for the URL is for others")
            .get("X-A: 1")
            .app(200, "Cache-Control: max-age=60\nVary: X-A")
            .get("X-A: 2")
            .app(200, "Cache-Control: max-age=60\nVary: X-A")
            .gets("cache-status: opri; fwd=vary-miss; stored"),
        Row::new("status: other cookies in the key")
            .at(KEYED)
            .get("Cookie: lang=de")
            .app(200, FRESH)
            .get("Cookie: lang=en")
            .app(200, FRESH)
            .gets("cache-status: opri; fwd=vary-miss; stored"),
        Row::new("status: the request wants another")
            .get("")
            .app(200, FRESH)
            .get("Cache-Control: no-cache")
            .app(200, FRESH)
            .gets("cache-status: opri; fwd=request; stored")
            .get("")
            .from(Store(1))
            .gets("cache-status: opri; hit; ttl=*"),
        Row::new("status: its time is over")
            .get("")
            .app(200, "Cache-Control: no-cache\nETag: \"a\"")
            .get("")
            .app(304, "")
            .from(Renewed(0))
            .gets("cache-status: opri; fwd=stale; fwd-status=304; stored"),
        Row::new("status: a write").ask("POST", "", "").gets("cache-status: opri; fwd=method"),
        Row::new("status: what only the app can judge")
            .get("If-Match: \"a\"")
            .app(200, FRESH)
            .gets("cache-status: opri; fwd=bypass"),
        Row::new("status: the key where conf asks for it")
            .at(LISTED)
            .ask("GET", "?x=1&q=2", "")
            .app(200, FRESH)
            .gets("cache-status: opri; fwd=miss; stored; key=\"http*")
            .ask("GET", "?q=2&y=1", "")
            .from(Store(0))
            .gets("cache-status: opri; hit; ttl=*")
            .ask("POST", "?q=2", "")
            .gets("cache-status: opri; fwd=method"),
    ]
}

/// The fields that speak to caches alone.
fn passed() -> Vec<Row> {
    const BOTH: &str = "CDN-Cache-Control: max-age=60\nSurrogate-Control: max-age=50, content=\"ESI/1.0\"\nX-Own: 1";
    let usual = |row: Row| row.gets("cdn-cache-control: max-age=60").gets("x-own: 1").lacks("surrogate-control");
    let turned = |row: Row| {
        row.gets("surrogate-control: max-age=50, content=\"ESI/1.0\"").gets("x-own: 1").lacks("cdn-cache-control")
    };
    let pair = |rule| Row::new(rule).get("").app(200, BOTH);
    vec![
        usual(usual(pair("pass: CDN-Cache-Control goes on, Surrogate-Control does not")).get("").from(Store(0))),
        turned(turned(pair("pass: as conf says").at(LISTED)).get("").from(Store(0))),
        usual(
            Row::new("pass: nor on what is not stored")
                .get("")
                .app(201, BOTH.trim())
                .get("Cache-Control: no-store")
                .app(200, BOTH),
        ),
        usual(Row::new("pass: nor on the answer to a write").ask("POST", "", "").app(200, BOTH)),
        Row::new("pass: what does not leave still counts when it is asked about")
            .get("")
            .app(200, "Surrogate-Control: no-cache\nCache-Control: max-age=60\nETag: \"a\"")
            .lacks("surrogate-control")
            .get("")
            .app(304, "")
            .from(Renewed(0))
            .lacks("surrogate-control")
            .get("")
            .app(304, "")
            .from(Renewed(0))
            .lacks("surrogate-control"),
        twice(
            "pass: a field that is not valid does not leave either",
            "",
            200,
            "Surrogate-Control: max-age=;\nX-Own: 1",
            App,
        ),
    ]
}
