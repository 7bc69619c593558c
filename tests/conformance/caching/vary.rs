//! What of a request an answer depends on.

use super::row::From::{App, Store};
use super::row::Row;

pub fn rows() -> Vec<Row> {
    let alike = [
        ("Vary: the same", "Vary: X-A", "X-A: 1", "X-A: 1"),
        ("Vary: white space around does not count", "Vary: X-A", "X-A: 1", "X-A:   1  "),
        ("Vary: neither there", "Vary: X-A", "", "X-B: 1"),
        ("Vary: names in any case", "vary: x-a", "X-A: 1", "x-a: 1"),
        ("Vary: several", "Vary: X-A, X-B", "X-A: 1\nX-B: 2", "X-B: 2\nX-A: 1"),
        ("Vary: several lines", "Vary: X-A\nVary: X-B", "X-A: 1\nX-B: 2", "X-A: 1\nX-B: 2"),
        ("Vary: lines that make one list", "Vary: X-A", "X-A: 1\nX-A: 2", "X-A: 1, 2"),
        ("Vary: nothing named", "Vary:", "X-A: 1", "X-A: 2"),
        ("Vary: empty members", "Vary: , X-A,,", "X-A: 1", "X-A: 1"),
        (
            "Vary: codings in another order",
            "Vary: Accept-Encoding",
            "Accept-Encoding: gzip, br",
            "Accept-Encoding: br,gzip",
        ),
        (
            "Vary: codings in another spelling",
            "Vary: Accept-Encoding",
            "Accept-Encoding: gzip",
            "Accept-Encoding: X-GZIP;q=1.0",
        ),
        (
            "Vary: languages in another spelling",
            "Vary: Accept-Language",
            "Accept-Language: en-GB, en;q=0.9",
            "Accept-Language: EN-gb,en; q=0.90",
        ),
        (
            "Vary: types in another spelling",
            "Vary: Accept",
            "Accept: text/html, */*;q=0.1",
            "Accept: TEXT/HTML,*/*; q=0.1",
        ),
        ("Vary: the host is in the key", "Vary: Host", "", "X-A: 1"),
    ];
    let different = [
        ("Vary: another value", "Vary: X-A", "X-A: 1", "X-A: 2"),
        ("Vary: case counts where nobody knows", "Vary: X-A", "X-A: a", "X-A: A"),
        ("Vary: there and not there", "Vary: X-A", "X-A: 1", ""),
        ("Vary: not there and there", "Vary: X-A", "", "X-A: 1"),
        ("Vary: the second of several", "Vary: X-A, X-B", "X-A: 1\nX-B: 2", "X-A: 1\nX-B: 3"),
        ("Vary: the second line", "Vary: X-A\nVary: X-B", "X-A: 1\nX-B: 2", "X-A: 1\nX-B: 3"),
        ("Vary: anything", "Vary: *", "", ""),
        ("Vary: anything among others", "Vary: X-A, *", "X-A: 1", "X-A: 1"),
        ("Vary: what is no name", "Vary: X A", "", ""),
        ("Vary: what the edge says itself", "Vary: X-Forwarded-For", "", ""),
        (
            "Vary: languages of another weight",
            "Vary: Accept-Language",
            "Accept-Language: en, de;q=0.5",
            "Accept-Language: de, en;q=0.5",
        ),
        (
            "Vary: languages in another order",
            "Vary: Accept-Language",
            "Accept-Language: en, de",
            "Accept-Language: de, en",
        ),
        ("Vary: fewer codings", "Vary: Accept-Encoding", "Accept-Encoding: gzip, br", "Accept-Encoding: gzip"),
        ("Vary: a cookie", "Vary: Cookie", "Cookie: a=b", "Cookie: a=c"),
    ];
    // The tables name the rows' `Vary` alone: each is fresh for a minute.
    let row = |rule, vary: &'static str, one, other, from| {
        let answers: &'static str = format!("Cache-Control: max-age=60\n{vary}").leak();
        Row::new(rule).get(one).app(200, answers).get(other).app(200, answers).from(from)
    };
    let alike = alike.map(|(rule, vary, one, other)| row(rule, vary, one, other, Store(0)));
    let different = different.map(|(rule, vary, one, other)| row(rule, vary, one, other, App));
    alike.into_iter().chain(different).chain(several()).collect()
}

fn several() -> Vec<Row> {
    const BY_A: &str = "Cache-Control: max-age=60\nVary: X-A";
    vec![
        Row::new("Vary: several variants are kept beside each other")
            .get("X-A: 1")
            .app(200, BY_A)
            .get("X-A: 2")
            .app(200, BY_A)
            .get("")
            .app(200, BY_A)
            .get("X-A: 1")
            .from(Store(0))
            .get("X-A: 2")
            .from(Store(1))
            .get("")
            .from(Store(2)),
        Row::new("Vary: an answer for all takes the place of the others")
            .get("X-A: 1")
            .app(200, BY_A)
            .get("X-A: 2")
            .app(200, "Cache-Control: max-age=60")
            .get("X-A: 1")
            .from(Store(1)),
        Row::new("Vary: a newer variant takes the place of its own")
            .get("X-A: 1")
            .app(200, BY_A)
            .get("X-A: 2")
            .app(200, BY_A)
            .get("X-A: 1\nCache-Control: no-cache")
            .app(200, BY_A)
            .get("X-A: 1")
            .from(Store(2))
            .get("X-A: 2")
            .from(Store(1)),
        Row::new("Vary: HEAD finds its variant")
            .get("X-A: 1")
            .app(200, BY_A)
            .ask("HEAD", "", "X-A: 1")
            .from(Store(0))
            .ask("HEAD", "", "X-A: 2")
            .app(200, BY_A),
        Row::new("Vary: a write makes all variants untrue")
            .get("X-A: 1")
            .app(200, BY_A)
            .get("X-A: 2")
            .app(200, BY_A)
            .ask("DELETE", "", "")
            .app(204, "")
            .get("X-A: 1")
            .app(200, BY_A)
            .get("X-A: 2")
            .app(200, BY_A),
    ]
}
