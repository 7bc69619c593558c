//! What makes stored answers untrue.

use super::KEYED;
use super::row::From::{App, Store};
use super::row::Row;

const FRESH: &str = "Cache-Control: max-age=60";

pub fn rows() -> Vec<Row> {
    let mut rows = methods();
    rows.extend(others());
    rows.extend(heads());
    rows
}

fn methods() -> Vec<Row> {
    let row = |rule, method, status| {
        Row::new(rule).get("").app(200, FRESH).ask(method, "", "").app(status, "").get("").app(200, FRESH)
    };
    let untrue = [
        ("POST makes it untrue", "POST", 200),
        ("PUT makes it untrue", "PUT", 201),
        ("PATCH makes it untrue", "PATCH", 204),
        ("DELETE makes it untrue", "DELETE", 202),
        ("POST that leads on makes it untrue", "POST", 303),
        ("POST that moved makes it untrue", "POST", 301),
    ];
    let true_still = [
        ("POST that is refused leaves it", "POST", 400),
        ("DELETE of nothing leaves it", "DELETE", 404),
        ("PUT that fails leaves it", "PUT", 500),
        ("PUT that is not taken leaves it", "PUT", 503),
        ("OPTIONS leaves it", "OPTIONS", 200),
    ];
    let rows = untrue.map(|(rule, method, status)| row(rule, method, status));
    rows.into_iter().chain(true_still.map(|(rule, method, status)| row(rule, method, status).from(Store(0)))).collect()
}

fn others() -> Vec<Row> {
    // Both are relative to the row's own path, `/<mark>/made`.
    let row = |rule, status, answers| {
        let row = Row::new(rule).ask("GET", "/page", "").app(200, FRESH);
        row.ask("POST", "/made", "Content-Length: 0").app(status, answers).ask("GET", "/page", "").app(200, FRESH)
    };
    let untrue = [
        ("Location that a write names", 201, "Location: page"),
        ("Content-Location that a write names", 200, "Content-Location: page"),
        ("Location with dots", 303, "Location: ./x/../page"),
        ("Location with a fragment", 201, "Location: page#there"),
    ];
    let true_still = [
        ("Location of a write that failed", 500, "Location: page"),
        ("Location of a write that was refused", 409, "Location: page"),
        ("Location on another host", 201, "Location: http://other.test/page"),
        ("Location of something else", 201, "Location: pages"),
        ("Link is no Location", 201, "Link: <page>"),
    ];
    let by_key = Row::new("Location by the key that conf has made of it").at(KEYED).ask("GET", "/page?a=1&b=2", "");
    let by_key = by_key.app(200, FRESH).ask("POST", "/made", "Content-Length: 0");
    let by_key = by_key.app(201, "Location: page?b=2&utm_source=x&a=1").ask("GET", "/page?a=1&b=2", "").app(200, FRESH);
    let rows = untrue.map(|(rule, status, answers)| row(rule, status, answers).from(App));
    rows.into_iter()
        .chain([by_key])
        .chain(true_still.map(|(rule, status, answers)| row(rule, status, answers).from(Store(0))))
        .collect()
}

fn heads() -> Vec<Row> {
    const TAGGED: &str = "Cache-Control: max-age=60\nETag: \"a\"\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT";
    let row = |rule, status, answers| {
        let row = Row::new(rule).get("").app(200, TAGGED);
        row.ask("HEAD", "", "Cache-Control: no-cache").app(status, answers).get("").app(200, TAGGED)
    };
    let untrue = [
        ("HEAD with another tag", 200, "ETag: \"b\""),
        ("HEAD with another date", 200, "Last-Modified: Sun, 06 Nov 1994 08:49:38 GMT"),
        ("HEAD with another length", 200, "ETag: \"a\"\nContent-Length: 5"),
        ("HEAD of what is gone", 410, ""),
        ("HEAD of what is not there", 404, ""),
    ];
    let true_still = [
        ("HEAD with the same tag", 200, "ETag: \"a\""),
        ("HEAD with the same tag, weakly", 200, "ETag: W/\"a\""),
        ("HEAD that says nothing", 200, ""),
        ("HEAD that fails", 500, "ETag: \"b\""),
    ];
    let rows = untrue.map(|(rule, status, answers)| row(rule, status, answers));
    rows.into_iter()
        .chain(true_still.map(|(rule, status, answers)| row(rule, status, answers).from(Store(0))))
        .collect()
}
