//! The streams: pseudo-header fields, names and values, hosts, lengths, trailers.

use super::client::{CASE, data};
use super::frames::{END_STREAM, PADDED, headers};
use crate::case::Seen;
use crate::client::LAST;

pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(Debug, Clone)]
pub struct Case {
    pub name: String,
    fields: Fields,
    rest: Rest,
    /// What is sent, once it is marked.
    pub frames: Vec<u8>,
    pub verdict: Verdict,
    /// What an app sees, if it sees anything.
    pub seen: Option<Seen>,
    /// Fields that it must see once, with these values.
    pub carried: Vec<(String, String)>,
}

/// What follows the first header block.
#[derive(Debug, Clone)]
enum Rest {
    Nothing,
    Body(Vec<Vec<u8>>),
    /// A body and trailers; whether they end the stream.
    Trailers(Vec<u8>, Fields, bool),
    Frames(Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Passes,
    Refused,
    /// Both are right, as long as what an app gets is sound.
    Either,
}

impl Case {
    fn new(name: &str, fields: Fields) -> Self {
        let seen = Seen { method: "GET".to_owned(), target: "/{id}".to_owned(), body: Vec::new() };
        Self {
            name: name.to_owned(),
            fields,
            rest: Rest::Nothing,
            frames: Vec::new(),
            verdict: Verdict::Refused,
            seen: Some(seen),
            carried: Vec::new(),
        }
    }

    fn passes(self) -> Self {
        Self { verdict: Verdict::Passes, ..self }
    }

    fn either(self) -> Self {
        Self { verdict: Verdict::Either, ..self }
    }

    fn sees(self, method: &str, target: &str, body: &[u8]) -> Self {
        let seen = Seen { method: method.to_owned(), target: target.to_owned(), body: body.to_vec() };
        Self { seen: Some(seen), ..self }
    }

    fn carries(mut self, name: &str, value: &str) -> Self {
        self.carried.push((name.to_owned(), value.to_owned()));
        self
    }

    fn rest(self, rest: Rest) -> Self {
        Self { rest, ..self }
    }

    pub fn marked(&self, mark: &str) -> Self {
        let mut case = self.clone();
        if let Some(seen) = &mut case.seen {
            seen.target = seen.target.replace("{id}", mark);
        }
        let fields = marked(&self.fields, mark);
        let first = |flags| headers(CASE, flags, &fields);
        case.frames = match &self.rest {
            Rest::Nothing => first(END_STREAM),
            Rest::Frames(frames) => [&first(0), &frames[..]].concat(),
            Rest::Body(parts) => {
                let last = parts.len() - 1;
                let flags = |number| if number == last { END_STREAM } else { 0 };
                let parts = parts.iter().enumerate().map(|(number, part)| data(part, flags(number)));
                std::iter::once(first(0)).chain(parts).collect::<Vec<_>>().concat()
            }
            Rest::Trailers(body, trailers, is_end) => {
                let flags = if *is_end { END_STREAM } else { 0 };
                [first(0), data(body, 0), headers(CASE, flags, &marked(trailers, mark))].concat()
            }
        };
        case
    }
}

fn marked(fields: &[(Vec<u8>, Vec<u8>)], mark: &str) -> Fields {
    let marked = |bytes: &[u8]| crate::case::replaced(bytes, mark);
    fields.iter().map(|(name, value)| (marked(name), marked(value))).collect()
}

/// The request that follows every case.
pub fn next(mark: &str) -> Fields {
    let target = format!("/{mark}{LAST}");
    pairs(&[(b":method", b"GET"), (b":scheme", b"https"), (b":path", target.as_bytes()), (b":authority", b"shop.test")])
}

fn pairs(fields: &[(&[u8], &[u8])]) -> Fields {
    fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

const METHOD: (&[u8], &[u8]) = (b":method", b"GET");
const POST: (&[u8], &[u8]) = (b":method", b"POST");
const SCHEME: (&[u8], &[u8]) = (b":scheme", b"https");
const PATH: (&[u8], &[u8]) = (b":path", b"/{id}");
const AUTHORITY: (&[u8], &[u8]) = (b":authority", b"shop.test");
/// So that a request whose path is odd is known by its mark.
const MARK: (&[u8], &[u8]) = (b"x-mark", b"{id}");

/// A GET with further fields.
fn get(more: &[(&[u8], &[u8])]) -> Case {
    let name = more.iter().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii()));
    let name = name.collect::<Vec<_>>().join(", ").chars().take(100).collect::<String>();
    Case::new(&format!("GET with {name}"), pairs(&[&[METHOD, SCHEME, PATH, AUTHORITY], more].concat()))
}

/// A POST with further fields and what follows them.
fn post(more: &[(&[u8], &[u8])], rest: Rest) -> Case {
    let name = more.iter().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii()));
    let name = format!("POST with {} and {rest:?}", name.collect::<Vec<_>>().join(", "));
    let name = name.chars().take(200).collect::<String>();
    Case::new(&name, pairs(&[&[POST, SCHEME, PATH, AUTHORITY], more].concat()))
        .rest(rest)
        .sees("POST", "/{id}", b"hello")
}

fn body(parts: &[&[u8]]) -> Rest {
    Rest::Body(parts.iter().map(|part| part.to_vec()).collect())
}

/// A request with one pseudo-header field in place of the usual one.
fn with(name: &'static [u8], value: &[u8]) -> Case {
    let usual = [METHOD, SCHEME, PATH, AUTHORITY];
    let fields: Vec<_> = usual.iter().map(|it| if it.0 == name { (name, value) } else { *it }).chain([MARK]).collect();
    let label = format!("{} {}", name.escape_ascii(), value.escape_ascii()).chars().take(100).collect::<String>();
    Case::new(&label, pairs(&fields))
}

pub fn all() -> Vec<Case> {
    let mut cases = pseudo();
    cases.extend(fields());
    cases.extend(hosts());
    cases.extend(lengths());
    cases.extend(trailers());
    cases.extend(valid());
    cases
}

fn pseudo() -> Vec<Case> {
    let odd: [(&'static [u8], &[&[u8]]); 4] = [
        (
            b":path",
            &[
                b"",
                b"{id}",
                b"*",
                b"/{id} x",
                b"/{id} HTTP/1.1\r\nHost: other.test\r\n\r\nGET /evil",
                b"/{id}\r\nX: y",
                b"/{id}\n",
                b"/{id}\0",
                b"/{id}\t",
                b"/{id}\x7f",
                b"/{id}\xc3\xbc",
                b"/\xff{id}",
                b"\\{id}",
                b"http://other.test/{id}",
                b"http://shop.test/{id}",
            ],
        ),
        (
            b":method",
            &[
                b"",
                b"get",
                b"GET /{id} HTTP/1.1\r\nHost: shop.test\r\n\r\nGET",
                b"GET\r\n",
                b"GET\0",
                b"G ET",
                b" GET",
                b"GE:T",
                b"CONNECT",
                b"TRACE",
                b"PURGE",
                b"PRI",
                b"\xff",
            ],
        ),
        (b":scheme", &[b"", b"https\r\nX: y", b"https\0", b"https://other.test/?", b"ftp", b"https ", b"javascript"]),
        (
            b":authority",
            &[
                b"",
                b"shop.test\r\nX: y",
                b"shop.test\n",
                b"shop.test\0",
                b"shop.test x",
                b" shop.test",
                b"shop.test/x",
                b"shop.test?x",
                b"shop.test#x",
                b"shop.test\\x",
                b"user@shop.test",
                b"shop.test@other.test",
                b"shop.test,other.test",
                b"shop.test:x",
                b"shop.test:80:80",
                b"sh\xc3\xb6p.test",
                b"other.test",
            ],
        ),
    ];
    let mut cases: Vec<Case> =
        odd.iter().flat_map(|(name, values)| values.iter().map(|value| with(name, value))).collect();
    for twice in [METHOD, SCHEME, PATH, AUTHORITY] {
        let fields = pairs(&[METHOD, SCHEME, PATH, AUTHORITY, twice]);
        cases.push(Case::new(&format!("{} twice", twice.0.escape_ascii()), fields));
    }
    for missing in [METHOD, SCHEME, PATH] {
        let fields: Vec<_> = [METHOD, SCHEME, PATH, AUTHORITY].into_iter().filter(|it| *it != missing).collect();
        let fields = pairs(&[&fields[..], &[MARK]].concat());
        cases.push(Case::new(&format!("without {}", missing.0.escape_ascii()), fields));
    }
    let other = pairs(&[METHOD, SCHEME, PATH, AUTHORITY, (b":path", b"/{id}/evil")]);
    let late = pairs(&[METHOD, SCHEME, AUTHORITY, MARK, PATH]);
    let socket = [(&b":method"[..], &b"CONNECT"[..]), (b":protocol", b"websocket"), SCHEME, PATH, AUTHORITY];
    cases.extend([
        Case::new("two different paths", other),
        Case::new("a pseudo-header field behind the others", late),
        Case::new("an extended CONNECT that nobody offered", pairs(&socket)),
        get(&[(b":status", b"200")]),
        get(&[(b":unknown", b"x")]),
        get(&[(b":", b"x")]),
        with(b":scheme", b"http").either(),
        // The codec drops it.
        with(b":path", b"/{id}#x").either(),
    ]);
    cases
}

fn fields() -> Vec<Case> {
    let names: [&[u8]; 18] = [
        b"X-Upper",
        b"x-uppeR",
        b"",
        b"x y",
        b"x ",
        b" x",
        b"x:y",
        b"x\r\ny",
        b"x\r",
        b"x\ny: z\r\nw",
        b"x\0",
        b"x\t",
        b"x\x7f",
        b"x\x80",
        b"x(y",
        b"x\"y",
        b"x/y",
        b"x: y\r\ntransfer-encoding",
    ];
    let values: [&[u8]; 12] = [
        b"y\r\nx-evil: z",
        b"y\r\n\r\nGET /{id}/evil HTTP/1.1\r\nHost: shop.test\r\n\r\n",
        b"y\r",
        b"y\n",
        b"\ny",
        b"y\nz: w",
        b"y\0",
        b"\0",
        b"y\x01",
        b"\x1b[2J",
        b"y\x7f",
        b"y\x0bz",
    ];
    let connection: [(&[u8], &[u8]); 9] = [
        (b"connection", b"close"),
        (b"connection", b"x-hop"),
        (b"keep-alive", b"timeout=5"),
        (b"proxy-connection", b"keep-alive"),
        (b"transfer-encoding", b"chunked"),
        (b"transfer-encoding", b"identity"),
        (b"upgrade", b"websocket"),
        (b"te", b"gzip"),
        (b"te", b"trailers, gzip"),
    ];
    let mut cases: Vec<Case> = names.iter().map(|name| get(&[(name, b"y")])).collect();
    cases.extend(values.iter().map(|value| get(&[(b"x", value)])));
    cases.extend(connection.iter().map(|field| get(&[*field])));
    let claims: [(&[u8], &[u8]); 8] = [
        (b"x-forwarded-for", b"6.6.6.6"),
        (b"x_forwarded_for", b"6.6.6.6"),
        (b"x.forwarded.for", b"6.6.6.6"),
        (b"forwarded", b"for=6.6.6.6"),
        (b"x-request-id", b"canary"),
        (b"content_length", b"5"),
        (b"transfer_encoding", b"chunked"),
        (b"http2-settings", b"canary"),
    ];
    cases.extend(claims.iter().map(|claim| get(&[*claim]).either()));
    let many: Vec<(Vec<u8>, Vec<u8>)> = (0..101).map(|n| (format!("x-{n}").into_bytes(), b"y".to_vec())).collect();
    let many: Vec<(&[u8], &[u8])> = many.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    cases.extend([
        get(&many),
        get(&[(b"x", &[b'y'; 40_000])]),
        get(&[(b"x", b" y")]).either(),
        get(&[(b"x", b"y ")]).either(),
        get(&[(b"x", b"\xff")]).either(),
        get(&[(b"expect", b"y 100-continue")]),
    ]);
    cases
}

fn hosts() -> Vec<Case> {
    let alone = pairs(&[METHOD, SCHEME, PATH, (b"host", b"shop.test")]);
    vec![
        get(&[(b"host", b"other.test")]),
        get(&[(b"host", b"")]),
        get(&[(b"host", b"shop.test\r\nx: y")]),
        get(&[(b"host", b"shop.test"), (b"host", b"other.test")]),
        get(&[(b"host", b"shop.test"), (b"host", b"shop.test")]).either(),
        get(&[(b"host", b"shop.test")]).either(),
        Case::new("a host and no authority", alone).either(),
        Case::new("neither host nor authority", pairs(&[METHOD, SCHEME, PATH])),
        with(b":authority", b"SHOP.test").passes(),
        with(b":authority", b"shop.test:443").passes(),
    ]
}

fn lengths() -> Vec<Case> {
    let length = |value: &'static [u8], rest: Rest| post(&[(b"content-length", value)], rest);
    vec![
        length(b"4", body(&[b"hello"])),
        length(b"6", body(&[b"hello"])),
        // The app has the whole request before anything can be known to be wrong; the stream is reset.
        length(b"0", body(&[b"hello"])).sees("POST", "/{id}", b"").either(),
        length(b"10", body(&[b"he", b"llo"])),
        length(b"3", body(&[b"he", b"llo"])),
        length(b"5", Rest::Nothing),
        length(b"1", Rest::Nothing),
        length(b"5", body(&[b""])),
        length(b"+5", body(&[b"hello"])),
        length(b"-5", body(&[b"hello"])),
        length(b"5, 5", body(&[b"hello"])),
        length(b"0x5", body(&[b"hello"])),
        length(b"5 ", body(&[b"hello"])).either(),
        length(b"", body(&[b"hello"])),
        length(b"18446744073709551621", body(&[b"hello"])),
        length(b"99999999999", body(&[b"hello"])),
        post(&[(b"content-length", b"5"), (b"content-length", b"6")], body(&[b"hello"])),
        post(&[(b"content-length", b"5"), (b"content-length", b"5")], body(&[b"hello"])).either(),
        post(&[(b"content-length", b"5"), (b"transfer-encoding", b"chunked")], body(&[b"hello"])),
        get(&[(b"content-length", b"5")]),
        length(b"5", body(&[b"he", b"", b"llo"])).passes(),
        length(b"5", Rest::Frames(data(b"\x03hello\0\0\0", END_STREAM | PADDED))).passes(),
        length(b"5", Rest::Frames(data(b"\x08hello\0\0\0", END_STREAM | PADDED))),
        post(&[], body(&[b"he", b"llo"])).passes(),
        post(&[], body(&[b"hello", b""])).passes(),
        length(b"0", Rest::Nothing).sees("POST", "/{id}", b"").passes(),
        post(&[], Rest::Nothing).sees("POST", "/{id}", b"").passes(),
        get(&[]).rest(body(&[b"hello"])).sees("GET", "/{id}", b"hello").either(),
    ]
}

fn trailers() -> Vec<Case> {
    let with =
        |trailer: (&[u8], &[u8]), is_end| post(&[], Rest::Trailers(b"hello".to_vec(), pairs(&[trailer]), is_end));
    let forbidden: [(&[u8], &[u8]); 10] = [
        (b"content-length", b"0"),
        (b"transfer-encoding", b"chunked"),
        (b"host", b"other.test"),
        (b"connection", b"close"),
        (b"te", b"gzip"),
        (b"authorization", b"canary"),
        (b"cookie", b"canary"),
        (b"x-forwarded-for", b"6.6.6.6"),
        (b"x-real-ip", b"6.6.6.6"),
        (b"x-request-id", b"canary"),
    ];
    let mut cases: Vec<Case> = forbidden.iter().map(|trailer| with(*trailer, true).either()).collect();
    cases.extend([
        // Nothing of trailers goes on, so that nothing comes of this one.
        with((b":path", b"/{id}/evil"), true).either(),
        with((b"X-Upper", b"y"), true),
        with((b"x\r\ny", b"z"), true),
        with((b"x", b"y\r\nz: w"), true),
        with((b"x", b"y\0"), true),
        with((b"x-checksum", b"y"), false),
        with((b"x-checksum", b"y"), true).passes(),
        post(&[(b"content-length", b"6")], Rest::Trailers(b"hello".to_vec(), pairs(&[(b"x-checksum", b"y")]), true)),
    ]);
    cases
}

fn valid() -> Vec<Case> {
    let fine = |more: &[(&[u8], &[u8])]| get(more).passes();
    vec![
        fine(&[]).named("a GET"),
        fine(&[(b"te", b"trailers")]),
        fine(&[(b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"cookie", b"c=3")]).carries("cookie", "a=1; b=2; c=3"),
        fine(&[(b"x", b"")]),
        fine(&[(b"x", b"a"), (b"x", b"b")]),
        fine(&[(b"x_custom", b"y")]),
        fine(&[(b"user-agent", b"Mozilla/5.0"), (b"accept", b"*/*"), (b"priority", b"u=1, i")]),
        with(b":path", b"/{id}?a=b&c=[d]|e").sees("GET", "/{id}?a=b&c=[d]|e", b"").passes(),
        with(b":path", b"//{id}/../x").sees("GET", "//{id}/../x", b"").passes(),
        with(b":path", b"/{id}?").sees("GET", "/{id}?", b"").passes(),
        with(b":method", b"OPTIONS").sees("OPTIONS", "/{id}", b"").passes(),
        with(b":method", b"DELETE").sees("DELETE", "/{id}", b"").passes(),
        with(b":method", b"PROPFIND").sees("PROPFIND", "/{id}", b"").passes(),
        post(&[(b"expect", b"100-continue"), (b"content-length", b"5")], body(&[b"hello"])).passes(),
        post(&[], body(&[b"hello"])).named("a POST").passes(),
    ]
}

impl Case {
    fn named(self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self }
    }
}
