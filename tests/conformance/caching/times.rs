//! How old an answer is, and how old it may become.

use super::row::From::{App, Store};
use super::row::{Row, twice};

pub fn rows() -> Vec<Row> {
    let mut rows = ages();
    rows.extend(expiry());
    rows.extend(guesses());
    rows
}

fn ages() -> Vec<Row> {
    let stored = [
        ("Age below max-age", "Cache-Control: max-age=60\nAge: 30"),
        ("Age that is no number", "Cache-Control: max-age=60\nAge: x"),
        ("Age below zero", "Cache-Control: max-age=60\nAge: -100"),
        ("Age with a fraction", "Cache-Control: max-age=60\nAge: 100.5"),
        ("Age that is empty", "Cache-Control: max-age=60\nAge:"),
        ("Age as a list counts by its first", "Cache-Control: max-age=60\nAge: 0, 100"),
        ("Age twice counts by its first", "Cache-Control: max-age=60\nAge: 0\nAge: 100"),
        ("Date in the past", "Cache-Control: max-age=60\nDate: {now-30}"),
        ("Date in the future", "Cache-Control: max-age=60\nDate: {now+3600}"),
        ("Date that is none", "Cache-Control: max-age=60\nDate: now"),
    ];
    let asked = [
        ("Age above max-age", "Cache-Control: max-age=60\nAge: 61"),
        ("Age of max-age", "Cache-Control: max-age=60\nAge: 60"),
        ("Age beyond all counting", "Cache-Control: max-age=60\nAge: 99999999999999999999999"),
        ("Age of 31 bits", "Cache-Control: max-age=60\nAge: 2147483648"),
        ("Age that begins a list", "Cache-Control: max-age=60\nAge: 100, 0"),
        ("Date that is too old", "Cache-Control: max-age=60\nDate: {now-61}"),
        ("Date too old in RFC 850's form", "Cache-Control: max-age=60\nDate: {850-61}"),
        ("Date too old in C's form", "Cache-Control: max-age=60\nDate: {asc-61}"),
        ("Date too old for s-maxage", "Cache-Control: s-maxage=60\nDate: {now-61}"),
    ];
    let rows = stored.map(|(rule, answers)| twice(rule, "", 200, answers, Store(0)));
    let rows = rows.into_iter().chain(asked.map(|(rule, answers)| twice(rule, "", 200, answers, App)));
    rows.chain([
        Row::new("Age goes on from where it was")
            .get("")
            .app(200, "Cache-Control: max-age=90000\nAge: 9900")
            .get("")
            .from(Store(0))
            .gets("age: 99*"),
        Row::new("Age is counted from Date")
            .get("")
            .app(200, "Cache-Control: max-age=90000\nDate: {now-9900}")
            .get("")
            .from(Store(0))
            .gets("age: 99*"),
    ])
    .collect()
}

fn expiry() -> Vec<Row> {
    let stored = [
        ("Expires to come", "Expires: {now+60}"),
        ("Expires to come in RFC 850's form", "Expires: {850+60}"),
        ("Expires to come in C's form", "Expires: {asc+60}"),
        ("Expires by the app's own clock", "Expires: {now+3660}\nDate: {now+3600}"),
        ("Expires is nothing beside max-age", "Expires: {now-60}\nCache-Control: max-age=60"),
        ("Expires is nothing beside s-maxage", "Expires: 0\nCache-Control: s-maxage=60"),
    ];
    let asked = [
        ("Expires in the past", "Expires: {now-60}"),
        ("Expires at once", "Expires: {now-0}\nDate: {now-0}"),
        ("Expires: 0", "Expires: 0"),
        ("Expires: -1", "Expires: -1"),
        ("Expires that is no date", "Expires: tomorrow"),
        ("Expires that is empty", "Expires:"),
        ("Expires in another zone", "Expires: Thu, 18 Aug 2050 02:01:18 CET"),
        ("Expires in small letters", "Expires: thu, 18 aug 2050 02:01:18 gmt"),
        ("Expires twice, once past", "Expires: {now+60}\nExpires: {now-60}"),
        ("Expires twice, once odd", "Expires: {now+60}\nExpires: 0"),
        ("Expires is nothing beside max-age=0", "Expires: {now+60}\nCache-Control: max-age=0"),
        ("Expires is nothing beside an odd max-age", "Expires: {now+60}\nCache-Control: max-age=x"),
        ("Expires with an Age as long", "Expires: {now+60}\nAge: 60"),
    ];
    let stored = stored.map(|(rule, answers)| twice(rule, "", 200, answers, Store(0)));
    let asked = asked.map(|(rule, answers)| twice(rule, "", 200, answers, App));
    stored.into_iter().chain(asked).collect()
}

fn guesses() -> Vec<Row> {
    let stored = [
        ("what has not changed for a day", "Last-Modified: {now-86400}"),
        ("what has not changed for years", "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT"),
        ("what has not changed, with must-revalidate", "Last-Modified: {now-86400}\nCache-Control: must-revalidate"),
    ];
    let asked = [
        ("what has only a tag", "X-No: last-modified"),
        ("what changed just now", "Last-Modified: {now-0}"),
        ("what changes in the future", "Last-Modified: {now+3600}"),
        ("what changed nobody knows when", "Last-Modified: once"),
        ("what changed twice", "Last-Modified: {now-86400}\nLast-Modified: {now-86401}"),
        ("what has not changed and is old", "Last-Modified: {now-86400}\nDate: {now-80000}"),
    ];
    let rows = stored.map(|(rule, answers)| twice(rule, "", 200, answers, Store(0)));
    let rows = rows.into_iter().chain(asked.map(|(rule, answers)| twice(rule, "", 200, answers, App)));
    rows.chain([Row::new("what has not changed is guessed for a day at most")
        .get("")
        .app(200, "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\nDate: {now-86401}")
        .get("")
        .app(200, "")])
        .collect()
}
