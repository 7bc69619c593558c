//! What is stale is asked about, and shown where nothing better is to be had.

use super::origin::NOTHING;
use super::row::From::{App, Renewed, Store};
use super::row::Row;

const TAGGED: &str = "Cache-Control: max-age=60\nAge: 60\nETag: \"a\"\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
const DATED: &str = "Cache-Control: max-age=60\nAge: 60\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
const FRESH: &str = "Cache-Control: max-age=60";

pub fn rows() -> Vec<Row> {
    let mut rows = questions();
    rows.extend(updates());
    rows.extend(conditions());
    rows.extend(errors());
    rows
}

fn questions() -> Vec<Row> {
    vec![
        Row::new("what HEAD shows to be still right is fresh again")
            .get("")
            .app(200, TAGGED)
            .ask("HEAD", "", "")
            .app(200, "Cache-Control: max-age=60\nETag: \"a\"")
            .gets("cache-status: opri; fwd=stale; fwd-status=200; stored")
            .get("")
            .from(Store(0)),
        Row::new("what HEAD says nothing certain of is not")
            .get("")
            .app(200, TAGGED)
            .ask("HEAD", "", "")
            .app(200, FRESH)
            .get("")
            .app(304, FRESH)
            .from(Renewed(0)),
        Row::new("what is stale is asked about by tag and date")
            .get("")
            .app(200, TAGGED)
            .get("")
            .app(304, FRESH)
            .from(Renewed(0))
            .shows("if-none-match: \"a\"")
            .shows("if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT")
            .gets("cache-status: opri; fwd=stale; fwd-status=304; stored")
            .get("")
            .from(Store(0))
            .gets("etag: \"a\""),
        Row::new("what has no tag is asked about by its date")
            .get("")
            .app(200, DATED)
            .get("")
            .app(304, FRESH)
            .from(Renewed(0))
            .shows("if-modified-since: Sun, 06 Nov 1994 08:49:37 GMT")
            .hides("if-none-match")
            .get("")
            .from(Store(0)),
        Row::new("what has changed takes the place of what was stored")
            .get("")
            .app(200, TAGGED)
            .get("")
            .app(200, "Cache-Control: max-age=60\nETag: \"b\"")
            .gets("cache-status: opri; fwd=stale; stored")
            .get("")
            .from(Store(1)),
        Row::new("what must always be asked for is")
            .get("")
            .app(200, "Cache-Control: no-cache\nETag: \"a\"")
            .get("")
            .app(304, "Cache-Control: no-cache")
            .from(Renewed(0))
            .get("")
            .app(304, "")
            .from(Renewed(0)),
        Row::new("what says nothing of its time is asked for")
            .get("")
            .app(200, "ETag: \"a\"")
            .get("")
            .app(304, "ETag: \"a\"")
            .from(Renewed(0))
            .shows("if-none-match: \"a\""),
        Row::new("a weak tag is asked about as it is")
            .get("")
            .app(200, "Cache-Control: max-age=0\nETag: W/\"a\"")
            .get("")
            .app(304, "ETag: \"a\"")
            .from(Renewed(0))
            .shows("if-none-match: W/\"a\""),
        Row::new("a client that wants the newest has what is stored asked about")
            .get("")
            .app(200, "Cache-Control: max-age=60\nETag: \"a\"")
            .get("Cache-Control: no-cache")
            .app(304, FRESH)
            .from(Renewed(0))
            .gets("cache-status: opri; fwd=request; fwd-status=304; stored"),
        Row::new("a client that wants nothing stored is passed on")
            .get("")
            .app(200, "Cache-Control: max-age=60\nETag: \"a\"")
            .get("Cache-Control: no-store")
            .app(200, FRESH)
            .hides("if-none-match"),
        Row::new("a client that wants a part is passed on")
            .get("")
            .app(200, TAGGED)
            .get("Range: bytes=0-1")
            .app(206, "Content-Range: bytes 0-8/100")
            .shows("range: bytes=0-1")
            .hides("if-none-match"),
        Row::new("only the variant that was asked about is renewed")
            .get("X-A: 1")
            .app(200, "Cache-Control: max-age=60\nAge: 60\nVary: X-A\nETag: \"a\"")
            .get("X-A: 2")
            .app(200, "Cache-Control: max-age=60\nAge: 60\nVary: X-A\nETag: \"b\"")
            .get("X-A: 1")
            .app(304, FRESH)
            .from(Renewed(0))
            .shows("if-none-match: \"a\"")
            .get("X-A: 1")
            .from(Store(0))
            .get("X-A: 2")
            .app(304, FRESH)
            .from(Renewed(1))
            .shows("if-none-match: \"b\""),
        Row::new("HEAD asks about what is stored as well")
            .get("")
            .app(200, TAGGED)
            .ask("HEAD", "", "")
            .app(304, FRESH)
            .from(Renewed(0))
            .get("")
            .from(Store(0)),
    ]
}

fn updates() -> Vec<Row> {
    vec![
        Row::new("a 304 brings newer fields")
            .get("")
            .app(200, "Cache-Control: max-age=0\nETag: \"a\"\nX-A: 1\nX-B: 1\nContent-Type: text/x")
            .get("")
            .app(304, "Cache-Control: max-age=60\nX-A: 2\nX-A: 3\nContent-Encoding: x\nConnection: X-Hop\nX-Hop: 1")
            .from(Renewed(0))
            .gets("x-a: 2")
            .gets("x-a: 3")
            .gets("x-b: 1")
            .lacks("x-hop")
            .lacks("content-encoding")
            .get("")
            .from(Store(0))
            .gets("x-a: 2")
            .gets("x-b: 1")
            .gets("content-type: text/x")
            .gets("cache-control: max-age=60")
            .lacks("x-a: 1")
            .lacks("x-hop"),
        Row::new("a 304 has an age of its own")
            .get("")
            .app(200, TAGGED)
            .get("")
            .app(304, "Cache-Control: max-age=60\nAge: 60")
            .from(Renewed(0))
            .get("")
            .app(304, FRESH)
            .from(Renewed(0)),
        Row::new("a 304 that forbids to store is the last that is shown")
            .get("")
            .app(200, TAGGED)
            .get("")
            .app(304, "Cache-Control: no-store")
            .from(Renewed(0))
            .gets("cache-status: opri; fwd=stale; fwd-status=304")
            .get("")
            .app(200, FRESH)
            .hides("if-none-match"),
        Row::new("a 304 that sets a cookie is its visitor's own")
            .get("")
            .app(200, TAGGED)
            .get("")
            .app(304, "Cache-Control: max-age=60\nSet-Cookie: a=b")
            .from(Renewed(0))
            .gets("set-cookie: a=b")
            .get("")
            .app(200, FRESH)
            .hides("if-none-match"),
        Row::new("a 304 about another tag renews nothing")
            .get("")
            .app(200, TAGGED)
            .get("")
            .app(304, "Cache-Control: max-age=60\nETag: \"b\"")
            .from(Renewed(0))
            .get("")
            .app(200, FRESH)
            .hides("if-none-match"),
    ]
}

fn conditions() -> Vec<Row> {
    let row = |rule, asks| Row::new(rule).get("").app(200, TAGGED).get(asks).app(304, FRESH).from(Renewed(0));
    vec![
        row("a client that has what was asked about is told so", "If-None-Match: \"a\"").told(304),
        row("a client that has another gets what was asked about", "If-None-Match: \"b\"")
            .shows("if-none-match: \"a\""),
        row("a client that has it by date is told so", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT").told(304),
        Row::new("a client's own condition is passed on when nothing is stored")
            .get("If-None-Match: \"a\"")
            .app(304, "ETag: \"a\"")
            .shows("if-none-match: \"a\""),
        Row::new("a client's own condition is passed on when there is nothing to ask about")
            .get("")
            .app(200, "Cache-Control: max-age=60, stale-if-error=60\nAge: 60")
            .get("If-None-Match: \"b\"")
            .app(304, "ETag: \"b\"")
            .shows("if-none-match: \"b\""),
        Row::new("what has changed comes whole to a client with a condition")
            .get("")
            .app(200, TAGGED)
            .get("If-None-Match: \"a\"")
            .app(200, "Cache-Control: max-age=60\nETag: \"b\"")
            .get("")
            .from(Store(1)),
    ]
}

fn errors() -> Vec<Row> {
    const SPARE: &str = "Cache-Control: max-age=60, stale-if-error=60\nAge: 70";
    let spared = [
        (
            "500 while a stale one is good enough",
            500,
            "cache-status: opri; fwd=stale; fwd-status=500; detail=stale-if-error",
        ),
        (
            "502 while a stale one is good enough",
            502,
            "cache-status: opri; fwd=stale; fwd-status=502; detail=stale-if-error",
        ),
        (
            "503 while a stale one is good enough",
            503,
            "cache-status: opri; fwd=stale; fwd-status=503; detail=stale-if-error",
        ),
        (
            "504 while a stale one is good enough",
            504,
            "cache-status: opri; fwd=stale; fwd-status=504; detail=stale-if-error",
        ),
        ("no answer while a stale one is good enough", NOTHING, "cache-status: opri; fwd=stale; detail=stale-if-error"),
    ];
    let spared = spared.map(|(rule, status, says)| {
        Row::new(rule).get("").app(200, SPARE).get("").app(status, "").from(Renewed(0)).gets(says).gets("age: 7*")
    });
    let shown = [
        ("404 is an answer", 404, SPARE, ""),
        ("501 is an answer", 501, SPARE, ""),
        (
            "500 beyond stale-if-error",
            500,
            "Cache-Control: max-age=60, stale-if-error=5, stale-while-revalidate=9\nAge: 70",
            "",
        ),
        ("500 without stale-if-error", 500, TAGGED, ""),
        (
            "500 with must-revalidate",
            500,
            "Cache-Control: max-age=60, stale-if-error=60, must-revalidate\nAge: 70\nETag: \"a\"",
            "",
        ),
        (
            "500 with proxy-revalidate",
            500,
            "Cache-Control: max-age=60, stale-if-error=60, proxy-revalidate\nAge: 70\nETag: \"a\"",
            "",
        ),
        ("500 with no-cache", 500, "Cache-Control: no-cache, stale-if-error=60\nETag: \"a\"", ""),
        ("500 for who wants the newest", 500, SPARE, "Cache-Control: no-cache"),
    ];
    let shown = shown
        .map(|(rule, status, said, asks)| Row::new(rule).get("").app(200, said).get(asks).app(status, "").from(App));
    let with_s_maxage = Row::new("500 with s-maxage while a stale one is good enough")
        .get("")
        .app(200, "Cache-Control: s-maxage=60, stale-if-error=60\nAge: 70")
        .get("")
        .app(500, "")
        .from(Renewed(0));
    let for_cdns = Row::new("500 with CDN-Cache-Control while a stale one is good enough")
        .get("")
        .app(200, "CDN-Cache-Control: max-age=60, stale-if-error=60\nAge: 70")
        .get("")
        .app(500, "")
        .from(Renewed(0));
    spared.into_iter().chain(shown).chain([with_s_maxage, for_cdns]).collect()
}
