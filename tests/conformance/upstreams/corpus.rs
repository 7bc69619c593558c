//! What apps answer that break the rules, are broken, or mean harm.

#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    /// The method it is an answer to; GET over both versions, and POST, when it is empty.
    pub method: &'static str,
    pub script: Vec<Step>,
    pub verdict: Verdict,
    /// Nothing is wrong with it: its connection may carry another request.
    pub is_sound: bool,
}

#[derive(Debug, Clone)]
pub enum Step {
    Send(Vec<u8>),
    Repeat(Vec<u8>, usize),
    Pause,
    Close,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The client is told that the app failed, or sees the answer break off.
    Broken,
    /// The client gets this, whole.
    Whole(u16, &'static str),
    /// One of both.
    Either(u16, &'static str),
}

impl Case {
    fn new(answer: &[u8], verdict: Verdict) -> Self {
        let name = answer.escape_ascii().to_string().replace("\\r\\n", "⏎").replace("HTTP/1.1 200 OK⏎", "·");
        Self {
            name: name.chars().take(120).collect(),
            method: "",
            script: vec![Step::Send(answer.to_vec())],
            verdict,
            is_sound: false,
        }
    }

    fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }

    fn then(mut self, steps: &[Step]) -> Self {
        let steps_told: String = steps.iter().map(|step| format!(", {step:?}")).collect();
        self.name.push_str(&steps_told.chars().take(60).collect::<String>());
        self.script.extend_from_slice(steps);
        self
    }

    fn to(self, method: &'static str) -> Self {
        Self { method, name: format!("{method}: {}", self.name), ..self }
    }

    fn sound(self) -> Self {
        Self { is_sound: true, ..self }
    }
}

use Verdict::{Broken, Either, Whole};

const HELLO: Verdict = Whole(200, "hello");
const HELLO_OR_BROKEN: Verdict = Either(200, "hello");
/// A second answer that nobody asked for.
const EVIL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

pub fn all() -> Vec<Case> {
    let mut cases = status_lines();
    cases.extend(heads());
    cases.extend(lengths());
    cases.extend(chunks());
    cases.extend(ends());
    cases.extend(bodiless());
    cases.extend(surplus());
    cases.extend(endless());
    cases
}

fn status_lines() -> Vec<Case> {
    let odd: [&[u8]; 22] = [
        b"HTTP/2.0 200 OK",
        b"HTTP/2 200",
        b"HTTP/1.2 200 OK",
        b"HTTP/0.9 200 OK",
        b"HTTP/11 200 OK",
        b"http/1.1 200 OK",
        b"ICY 200 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1 0x1 OK",
        b"HTTP/1.1 000 OK",
        b"HTTP/1.1 099 OK",
        b"HTTP/1.1 999 OK",
        b"HTTP/1.1 OK",
        b"HTTP/1.1",
        b"HTTP/1.1 200 O\0K",
        b"HTTP/1.1 200 O\rK",
        b" HTTP/1.1 200 OK",
        b"\xef\xbb\xbfHTTP/1.1 200 OK",
        b"GET / HTTP/1.1",
        b"nonsense",
    ];
    let head = |line: &[u8]| [line, b"\r\nContent-Length: 5\r\n\r\nhello"].concat();
    let mut cases: Vec<Case> = odd.iter().map(|line| Case::new(&head(line), Broken)).collect();
    // Sloppy, with one meaning.
    let sloppy: [&[u8]; 6] = [
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 ",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1\t200 OK",
        b"HTTP/1.1 200 \xd7\x90",
        b"\r\nHTTP/1.1 200 OK",
    ];
    cases.extend(sloppy.iter().map(|line| Case::new(&head(line), HELLO_OR_BROKEN).sound()));
    cases.extend([
        Case::new(b"hello", Broken).then(&[Step::Close]),
        Case::new(b"<html>hello</html>\r\n\r\n", Broken).then(&[Step::Close]),
        Case::new(b"", Broken).then(&[Step::Close]),
        Case::new(b"", Broken).named("silence"),
        Case::new(b"\0\0\0\0", Broken),
        Case::new(&head(b"HTTP/1.0 200 OK"), HELLO).sound(),
        Case::new(&head(b"HTTP/1.1 200 OK"), HELLO).sound(),
        Case::new(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello",
            Broken,
        ),
        Case::new(b"HTTP/1.1 101 Switching Protocols\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Broken),
    ]);
    cases
}

fn heads() -> Vec<Case> {
    let malformed: [&[u8]; 22] = [
        b"X: a\0b\r\n",
        b"X: a\rb\r\n",
        b"X: a\r\r\n",
        b"X: \x01\r\n",
        b"X: \x1b[2J\r\n",
        b"X: \x7f\r\n",
        b"X\0: y\r\n",
        b"X : y\r\n",
        b"X Y: z\r\n",
        b": y\r\n",
        b"nocolon\r\n",
        b"X(: y\r\n",
        b"X\xff: y\r\n",
        b"\rX: y\r\n",
        b" X: y\r\n",
        b"Content-Length : 6\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Content-Length\0: 6\r\n",
        b"X: y\rContent-Length: 6\r\n",
        b"X: y\rTransfer-Encoding: chunked\r\n",
        b"X: y\r\n\rTransfer-Encoding: chunked\r\n",
        b"\0\r\n",
    ];
    let answer = |lines: &[u8]| [b"HTTP/1.1 200 OK\r\n", lines, b"Content-Length: 5\r\n\r\nhello"].concat();
    let mut cases: Vec<Case> = malformed.iter().map(|lines| Case::new(&answer(lines), Broken)).collect();
    // May be settled on the way; a client never sees these.
    let sloppy: [&[u8]; 6] = [
        b"X: y\r\n z\r\n",
        b"X: y\r\n\tz\r\n",
        b"X:\r\n y\r\n",
        b"X: y\n",
        b"X: \xff\r\n",
        b"X: y\r\n Content-Length: 6\r\n",
    ];
    cases.extend(sloppy.iter().map(|lines| Case::new(&answer(lines), HELLO_OR_BROKEN).sound()));
    cases.push(Case::new(b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", HELLO_OR_BROKEN).sound());
    let of_connection: [&[u8]; 7] = [
        b"Connection: keep-alive\r\nKeep-Alive: timeout=5, max=canary\r\n",
        b"Connection: X-Hop\r\nX-Hop: canary\r\n",
        b"Proxy-Connection: canary\r\n",
        b"Trailer: canary\r\n",
        b"TE: canary\r\n",
        b"Connection: Upgrade\r\nUpgrade: canary\r\n",
        b"Connection: Content-Length\r\n",
    ];
    cases.extend(of_connection.iter().map(|lines| Case::new(&answer(lines), HELLO).sound()));
    cases
}

fn lengths() -> Vec<Case> {
    let odd: [&[u8]; 22] = [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 15\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 0\r\nContent-Length: 5\r\n",
        b"Content-Length: 5, 6\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: -5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Content-Length: 5.0\r\n",
        b"Content-Length: 5 5\r\n",
        b"Content-Length: 5;\r\n",
        b"Content-Length: 1_0\r\n",
        b"Content-Length:\r\n",
        b"Content-Length: 18446744073709551621\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: \x0bchunked\r\n",
        b"Transfer-Encoding: \"chunked\"\r\n",
        b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n",
        b"Transfer-Encoding:\r\nContent-Length: 5\r\n",
    ];
    let answer = |lines: &[u8]| [b"HTTP/1.1 200 OK\r\n", lines, b"\r\n5\r\nhello\r\n0\r\n\r\n"].concat();
    let mut cases: Vec<Case> = odd.iter().map(|lines| Case::new(&answer(lines), Broken)).collect();
    let plain = |lines: &[u8]| [b"HTTP/1.1 200 OK\r\n", lines, b"\r\nhello"].concat();
    cases.extend([
        Case::new(&plain(b"Content-Length: 5\r\nContent-Length: 5\r\n"), HELLO_OR_BROKEN),
        Case::new(&plain(b"Content-Length: 5, 5\r\n"), HELLO_OR_BROKEN),
        Case::new(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Broken),
        Case::new(&answer(b"Transfer-Encoding: chunked\r\n"), HELLO).sound(),
    ]);
    cases
}

fn chunks() -> Vec<Case> {
    let malformed: [&[u8]; 22] = [
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"g\r\nhello\r\n0\r\n\r\n",
        b"5_\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello\r\n0\r\n\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
        b"5\0\r\nhello\r\n0\r\n\r\n",
        b"5\rhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhell\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n-0\r\n\r\n",
        b"5\r\nhello\r\nx\r\n\r\n",
        b"hello",
        b"\0",
    ];
    let chunked = |body: &[u8]| [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", body].concat();
    let mut cases: Vec<Case> = malformed.iter().map(|body| Case::new(&chunked(body), Broken)).collect();
    let trailers: [&[u8]; 6] = [
        b"X-Checksum: y\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"X : y\r\n",
        b"nocolon\r\n",
        b"X: y\r\n z\r\n",
    ];
    let trailed = |lines: &[u8]| chunked(&[b"5\r\nhello\r\n0\r\n", lines, b"\r\n"].concat());
    cases.extend(trailers.iter().map(|lines| Case::new(&trailed(lines), HELLO_OR_BROKEN).sound()));
    cases
}

/// Answers that end, or stall, before they are whole.
fn ends() -> Vec<Case> {
    let length = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cut: [&[u8]; 11] = [
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
        length,
        &[length, &b"hell"[..]].concat(),
        chunked,
        &[chunked, &b"5"[..]].concat(),
        &[chunked, &b"5\r\nhel"[..]].concat(),
        &[chunked, &b"5\r\nhello\r\n"[..]].concat(),
        &[chunked, &b"5\r\nhello\r\n0\r\n"[..]].concat(),
        &[chunked, &b"5\r\nhello\r\n0\r\nX: y\r\n"[..]].concat(),
    ];
    let mut cases: Vec<Case> = cut.iter().map(|part| Case::new(part, Broken).then(&[Step::Close])).collect();
    cases.extend(cut.iter().map(|part| Case::new(part, Broken)));
    let large = b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n";
    let half = [Step::Repeat(b"x".to_vec(), 1_000_000), Step::Close];
    cases.extend([
        Case::new(large, Broken).then(&half).named("a million bytes of two"),
        Case::new(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello", HELLO).then(&[Step::Close]),
        Case::new(b"HTTP/1.1 200 OK\r\n\r\nhello", HELLO).then(&[Step::Close]),
        Case::new(b"HTTP/1.0 200 OK\r\n\r\nhello", HELLO).then(&[Step::Close]),
        Case::new(length, HELLO).then(&[Step::Pause, Step::Send(b"hello".to_vec())]).sound(),
    ]);
    cases
}

/// Answers without a body, with one.
fn bodiless() -> Vec<Case> {
    let hello = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let evil = String::from_utf8_lossy(EVIL);
    let none = |line: &str| format!("HTTP/1.1 {line}\r\n\r\n{evil}").into_bytes();
    vec![
        Case::new(hello, Whole(200, "")).to("HEAD"),
        Case::new(chunked, Whole(200, "")).to("HEAD"),
        Case::new(b"HTTP/1.1 200 OK\r\n\r\nhello", Whole(200, "")).to("HEAD"),
        Case::new(&none("200 OK\r\nContent-Length: 43"), Whole(200, "")).to("HEAD"),
        Case::new(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Whole(200, "")).to("HEAD").sound(),
        Case::new(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", Either(200, ""))
            .to("HEAD"),
        Case::new(&none("204 No Content"), Either(204, "")),
        Case::new(&none("204 No Content\r\nContent-Length: 43"), Either(204, "")),
        Case::new(
            b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            Either(204, ""),
        ),
        Case::new(&none("304 Not Modified"), Either(304, "")),
        Case::new(&none("304 Not Modified\r\nContent-Length: 43"), Either(304, "")),
        Case::new(b"HTTP/1.1 204 No Content\r\n\r\n", Whole(204, "")).sound(),
        Case::new(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Whole(304, "")).sound(),
    ]
}

/// Bytes behind the end: the next answer, if anybody waits for one.
fn surplus() -> Vec<Case> {
    let hello = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let late = [Step::Pause, Step::Send(EVIL.to_vec())];
    vec![
        Case::new(&[&hello[..], EVIL].concat(), HELLO),
        Case::new(&[&chunked[..], EVIL].concat(), HELLO),
        Case::new(&[&hello[..], b"x"].concat(), HELLO),
        Case::new(&[&hello[..], b"\r\n"].concat(), HELLO),
        Case::new(&[&chunked[..], b"\r\n"].concat(), HELLO),
        Case::new(&[&chunked[..], b"0\r\n\r\n"].concat(), HELLO),
        Case::new(hello, HELLO).then(&late),
        Case::new(chunked, HELLO).then(&late),
        Case::new(hello, HELLO).then(&[Step::Pause, Step::Send(b"\0".to_vec())]),
        Case::new(hello, HELLO).then(&[Step::Repeat(EVIL.to_vec(), 10_000)]),
        Case::new(&[EVIL, hello].concat(), Whole(200, "evil")).named("two whole answers"),
    ]
}

/// More than anybody can need.
pub fn endless() -> Vec<Case> {
    let head = b"HTTP/1.1 200 OK\r\n";
    let hello = Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_vec());
    let continues = b"HTTP/1.1 100 Continue\r\n\r\n";
    let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    vec![
        Case::new(b"", HELLO_OR_BROKEN)
            .then(&[Step::Repeat(continues.to_vec(), 1000), hello.clone()])
            .sound()
            .named("1,000 times 100"),
        Case::new(b"", HELLO_OR_BROKEN)
            .then(&[Step::Repeat(hints.to_vec(), 1000), hello])
            .sound()
            .named("1,000 times 103"),
        Case::new(b"", Broken).then(&[Step::Repeat(hints.to_vec(), 50_000)]).named("50,000 times 103"),
        Case::new(head, Broken).then(&[Step::Repeat(b"X: y\r\n".to_vec(), 350_000)]).named("2 MB of fields"),
        Case::new(head, Broken).then(&[Step::Repeat(b"x".to_vec(), 2_000_000)]).named("a name of 2 MB"),
        Case::new(b"X: ", Broken).then(&[Step::Repeat(b"x".to_vec(), 2_000_000)]).named("a first line of 2 MB"),
        Case::new(&[&head[..], b"X: "].concat(), Broken)
            .then(&[Step::Repeat(b"y".to_vec(), 2_000_000)])
            .named("a value of 2 MB"),
        Case::new(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;", Broken)
            .then(&[Step::Repeat(b"x".to_vec(), 2_000_000)])
            .named("an extension of 2 MB"),
        Case::new(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Broken)
            .then(&[Step::Repeat(b"0".to_vec(), 2_000_000)])
            .named("a size of 2 million zeros"),
        Case::new(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", Broken)
            .then(&[Step::Repeat(b"X: y\r\n".to_vec(), 350_000)])
            .named("2 MB of trailers"),
    ]
}
