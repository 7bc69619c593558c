//! One request head: its line, its one host, its one framing, and what `Connection` may say.
//!
//! Pure. Called by `door` with all that was read so far. The rule: a head that is refused is refused as early as its bytes
//! show it, and one that is taken has exactly one reading.

use std::ops::Range;

use bytes::BytesMut;
use http::Method;

use crate::edge::failure::Failure;
use crate::edge::field::{Fields, Kind};
use crate::model::host::HostName;
use crate::model::machine::Limits;

use super::lines::{self, Fault, Index, Lines, is_token};

/// A longer target gets 414, in bytes: what every server and browser is known to take (RFC 9110 section 4.1).
pub const TARGET_MAX: usize = 8 << 10;
/// The longest method there is, `UPDATEREDIRECTREF`, and some.
const METHOD_MAX: usize = 24;

/// A head that may enter. It says where things lie in the bytes that were judged.
#[derive(Debug)]
pub struct Head {
    pub method: Method,
    pub version: Version,
    /// The head's own length in those bytes, with its empty line.
    pub length: usize,
    pub framing: Framing,
    /// Whether the client is willing to send another request (RFC 9112 section 9.3).
    pub keeps_alive: bool,
    /// Whether `Connection` names fields that are none of the connection's own.
    pub has_nominations: bool,
    /// `http://host/path` in place of a path; see [`in_origin_form`].
    pub is_absolute: bool,
    target: Range<usize>,
    index: Index,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// What follows the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A body of so many bytes, then the next request.
    Length(u64),
    Chunked,
    /// No body, and another protocol if the app agrees.
    WebSocket,
}

impl Framing {
    /// How much of a body is announced; `None` when nobody knows.
    pub fn length(self) -> Option<u64> {
        match self {
            Framing::Length(length) => Some(length),
            Framing::WebSocket => Some(0),
            Framing::Chunked => None,
        }
    }
}

impl Head {
    /// The fields; `bytes` are those that were judged.
    pub fn lines<'b>(&'b self, bytes: &'b [u8]) -> Lines<'b> {
        self.index.of(bytes)
    }

    pub fn fields<'b>(&'b self, bytes: &'b [u8]) -> Fields<'b> {
        Fields::Raw(self.lines(bytes))
    }

    /// The target; text, because it was judged to be visible ASCII.
    pub fn target<'b>(&self, bytes: &'b [u8]) -> &'b str {
        bytes.get(self.target.clone()).and_then(|target| std::str::from_utf8(target).ok()).unwrap_or_default()
    }

    /// Whether nothing but its fields must be carried, so that it can go the light way.
    pub fn is_plain(&self, bytes: &[u8]) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
            && self.version == Version::Http11
            && self.framing == Framing::Length(0)
            && !self.has_nominations
            && self.lines(bytes).of_kind(Kind::Expect).next().is_none()
    }

    /// The head as pingora is given it: without what asks for a protocol that nobody here speaks, which would only be
    /// taken for a body without end.
    pub fn settled(&self, bytes: &[u8]) -> BytesMut {
        let mut head = BytesMut::with_capacity(self.length);
        let lines = self.lines(bytes);
        let first = lines.iter().next().map_or(self.length - 2, |line| line.range().start);
        head.extend_from_slice(bytes.get(self.line_start()..first).unwrap_or_default());
        let is_kept = |kind| kind != Kind::Upgrade || self.framing == Framing::WebSocket;
        for line in lines.iter().filter(|line| is_kept(line.kind)) {
            head.extend_from_slice(bytes.get(line.range()).unwrap_or_default());
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    /// Where the request line begins: an empty line may stand before it.
    fn line_start(&self) -> usize {
        self.target.start - self.method.as_str().len() - 1
    }
}

/// Judges what was read; `None` when more must come.
pub fn judge(bytes: &[u8], limits: &Limits) -> Result<Option<Head>, Failure> {
    let most = usize::try_from(limits.header_bytes).unwrap_or(usize::MAX);
    let head = whole(bytes, limits)?;
    match &head {
        Some(head) if head.length > most => Err(Failure::HeadTooLarge),
        None if bytes.len() > most => Err(Failure::HeadTooLarge),
        _ => Ok(head),
    }
}

fn whole(bytes: &[u8], limits: &Limits) -> Result<Option<Head>, Failure> {
    // One empty line before a request is passed over (RFC 9112 section 2.2).
    let start = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let Some((line, next)) = lines::line(bytes, start)? else {
        return beginning(bytes.get(start..).unwrap_or_default()).map(|()| None);
    };
    let (method, target, version) = request_line(line)?;
    let mut index = Index::default();
    let Some(length) = lines::fields(bytes, next, &mut index, limits.headers as usize)? else { return Ok(None) };
    let is_absolute = !target.starts_with(b"/") && target != b"*";
    let target_start = start + method.as_str().len() + 1;
    let said = said(index.of(bytes), version)?;
    let framing = said.framing(&method)?;
    Ok(Some(Head {
        target: target_start..target_start + target.len(),
        method,
        version,
        length,
        framing,
        keeps_alive: said.keeps_alive,
        has_nominations: said.has_nominations,
        is_absolute,
        index,
    }))
}

/// What can be said of a request line that is not whole.
fn beginning(bytes: &[u8]) -> Result<(), Failure> {
    // The CR of an empty line whose LF is still to come.
    if bytes == b"\r" {
        return Ok(());
    }
    let method = bytes.iter().position(|byte| *byte == b' ').unwrap_or(bytes.len());
    if method > METHOD_MAX || !bytes.iter().take(method).all(u8::is_ascii_uppercase) {
        // TLS that came to a plain port, among others.
        let is_token = bytes.iter().take(method).all(|byte| is_token(*byte));
        return Err(if is_token { Failure::NotImplemented } else { Failure::Malformed });
    }
    match bytes.len() > METHOD_MAX + TARGET_MAX {
        true => Err(Failure::TargetTooLong),
        false => Ok(()),
    }
}

fn request_line(line: &[u8]) -> Result<(Method, &[u8], Version), Failure> {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Err(Failure::Malformed);
    };
    let method = self::method(method)?;
    let version = self::version(version)?;
    if target.len() > TARGET_MAX {
        return Err(Failure::TargetTooLong);
    }
    if !is_target(target) {
        return Err(Failure::Malformed);
    }
    if matches!(method, Method::CONNECT | Method::TRACE) {
        return Err(Failure::Method);
    }
    if target == b"*" && method != Method::OPTIONS {
        return Err(Failure::Malformed);
    }
    Ok((method, target, version))
}

/// Whether it is visible ASCII without a fragment, which is never sent (RFC 9110 section 7.1), and without what no client
/// leaves unescaped (RFC 3986 section 2): the `http` crate, and so pingora, takes no such target.
pub fn is_target(target: &[u8]) -> bool {
    let (path, query) = target.split_at(memchr::memchr(b'?', target).unwrap_or(target.len()));
    let is_good = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'<' | b'>');
    let is_escaped = memchr::memchr(b'`', path).is_none() && memchr::memchr(b'"', query).is_none();
    !target.is_empty() && target.iter().all(is_good) && is_escaped
}

fn method(word: &[u8]) -> Result<Method, Failure> {
    if word.is_empty() || !word.iter().all(|byte| is_token(*byte)) {
        return Err(Failure::Malformed);
    }
    let method = Method::from_bytes(word).map_err(|_| Failure::Malformed)?;
    match is_known(&method) {
        true => Ok(method),
        false => Err(Failure::NotImplemented),
    }
}

/// IANA's registry of methods (RFC 9110 section 16.1, as of 2026), without `PRI`, and what caches are asked to purge with.
pub fn is_known(method: &Method) -> bool {
    const COMMON: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::OPTIONS,
        Method::PATCH,
        Method::CONNECT,
        Method::TRACE,
    ];
    const RARE: [&str; 32] = [
        "ACL",
        "BASELINE-CONTROL",
        "BIND",
        "CHECKIN",
        "CHECKOUT",
        "COPY",
        "LABEL",
        "LINK",
        "LOCK",
        "MERGE",
        "MKACTIVITY",
        "MKCALENDAR",
        "MKCOL",
        "MKREDIRECTREF",
        "MKWORKSPACE",
        "MOVE",
        "ORDERPATCH",
        "PROPFIND",
        "PROPPATCH",
        "QUERY",
        "REBIND",
        "REPORT",
        "SEARCH",
        "UNBIND",
        "UNCHECKOUT",
        "UNLINK",
        "UNLOCK",
        "UPDATE",
        "UPDATEREDIRECTREF",
        "VERSION-CONTROL",
        "MKCONTAINER",
        "PURGE",
    ];
    COMMON.contains(method) || RARE.contains(&method.as_str())
}

fn version(word: &[u8]) -> Result<Version, Failure> {
    match word {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(Failure::Version)
        }
        _ => Err(Failure::Malformed),
    }
}

/// What the fields that decide about a message say.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    is_chunked: bool,
    /// Whether all protocols that are offered in place of HTTP are WebSocket.
    is_websocket: Option<bool>,
    may_upgrade: bool,
    is_expecting: bool,
    closes: bool,
    keeps_alive: bool,
    has_nominations: bool,
}

fn said(lines: Lines<'_>, version: Version) -> Result<Said, Failure> {
    let is_11 = version == Version::Http11;
    let mut said = Said { keeps_alive: is_11, ..Said::default() };
    let mut hosts = 0;
    for line in lines.iter() {
        let value = line.value(lines.bytes());
        match line.kind {
            Kind::Host => hosts += 1,
            Kind::ContentLength if said.length.is_none() => said.length = Some(length(value)?),
            Kind::TransferEncoding if is_11 && !said.is_chunked && value.eq_ignore_ascii_case(b"chunked") => {
                said.is_chunked = true;
            }
            Kind::ContentLength | Kind::TransferEncoding | Kind::Twin => return Err(Failure::Malformed),
            Kind::Upgrade => said.upgrade(value),
            Kind::Expect => said.expectation(value)?,
            Kind::Connection => said.connection(value)?,
            _ => {}
        }
    }
    said.keeps_alive &= !said.closes;
    if hosts == 1 { Ok(said) } else { Err(Failure::BadHost) }
}

/// Digits alone: `+4`, `4, 4` and `0x4` are read differently here and there (RFC 9112 section 6.3).
pub fn length(value: &[u8]) -> Result<u64, Failure> {
    let is_number = !value.is_empty() && value.len() < 20 && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| is_number);
    text.and_then(|text| text.parse().ok()).ok_or(Failure::Malformed)
}

impl Said {
    fn upgrade(&mut self, protocol: &[u8]) {
        self.is_websocket = Some(self.is_websocket != Some(false) && protocol.eq_ignore_ascii_case(b"websocket"));
    }

    /// One expectation is known (RFC 9110 section 10.1.1). Of any other the app would not say what the client waits for.
    fn expectation(&mut self, value: &[u8]) -> Result<(), Failure> {
        if self.is_expecting || !value.eq_ignore_ascii_case(b"100-continue") {
            return Err(Failure::Malformed);
        }
        self.is_expecting = true;
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), Failure> {
        for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|option| !option.is_empty()) {
            if option.eq_ignore_ascii_case(b"close") {
                self.closes = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keeps_alive = true;
            } else if !option.iter().all(|byte| is_token(*byte)) || !Kind::of(option).may_be_nominated() {
                return Err(Failure::Malformed);
            } else {
                self.may_upgrade |= option.eq_ignore_ascii_case(b"upgrade");
                self.has_nominations |= Kind::of(option) == Kind::Plain;
            }
        }
        Ok(())
    }

    fn framing(&self, method: &Method) -> Result<Framing, Failure> {
        match (self.length, self.is_chunked) {
            (Some(_), true) => Err(Failure::Malformed),
            (None, true) => Ok(Framing::Chunked),
            (None | Some(0), false) if self.is_websocket == Some(true) && self.may_upgrade && method == Method::GET => {
                Ok(Framing::WebSocket)
            }
            (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Malformed => Failure::Malformed,
            Fault::TooManyFields => Failure::HeadTooLarge,
        }
    }
}

/// The head with its absolute target as a path, so that route, cache and app all judge the same bytes; refused when its
/// host is not the one that Host names (RFC 9112 section 3.2.2).
pub fn in_origin_form(head: &Head, bytes: &[u8]) -> Result<BytesMut, Failure> {
    let (scheme, rest) = head.target(bytes).split_once("://").ok_or(Failure::Malformed)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(Failure::Malformed);
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let host = head.fields(bytes).text("host").and_then(|host| HostName::from_authority(host).ok());
    if host.is_none() || HostName::from_authority(authority).ok() != host {
        return Err(Failure::BadHost);
    }
    let mut rewritten = BytesMut::with_capacity(head.length + 1);
    rewritten.extend_from_slice(head.method.as_str().as_bytes());
    rewritten.extend_from_slice(if path.starts_with('/') { b" " } else { b" /" });
    rewritten.extend_from_slice(path.as_bytes());
    rewritten.extend_from_slice(bytes.get(head.target.end..head.length).unwrap_or_default());
    Ok(rewritten)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<Option<Framing>, Failure> {
        let limits = Limits { header_bytes: 300, headers: 4, ..Limits::default() };
        judge(text.as_bytes(), &limits).map(|head| head.map(|head| head.framing))
    }

    fn with(line: &str) -> String {
        format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n")
    }

    #[test]
    fn a_good_head_says_what_follows() {
        let good = [
            (with("A: b"), Framing::Length(0)),
            (format!("\r\n{}", with("A: b")), Framing::Length(0)),
            (with("content-length: 12"), Framing::Length(12)),
            (with("Transfer-Encoding: Chunked"), Framing::Chunked),
            (with("Connection: Upgrade\r\nUpgrade: websocket"), Framing::WebSocket),
            (with("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c"), Framing::Length(0)),
            (with("Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket"), Framing::Length(0)),
            (with("Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c"), Framing::Length(0)),
            (with("Expect: 100-Continue"), Framing::Length(0)),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Framing::Length(0)),
            ("PROPFIND /x HTTP/1.0\r\nHost: a\r\n\r\n".to_owned(), Framing::Length(0)),
        ];
        for (text, framing) in good {
            assert_eq!(read(&text), Ok(Some(framing)), "{text:?}");
        }
        assert_eq!(read("GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
    }

    #[test]
    fn a_client_that_says_close_sends_no_other_request() {
        let keeps_alive = |version: &str, value: &str| {
            let text = format!("GET / {version}\r\nHost: a\r\nConnection: {value}\r\n\r\n");
            judge(text.as_bytes(), &Limits::default()).unwrap().unwrap().keeps_alive
        };
        for value in ["close", "Close, keep-alive", "keep-alive, close", "close\r\nConnection: keep-alive"] {
            assert!(!keeps_alive("HTTP/1.1", value) && !keeps_alive("HTTP/1.0", value), "{value}");
        }
        assert!(
            keeps_alive("HTTP/1.1", "") && keeps_alive("HTTP/1.0", "x, Keep-Alive") && !keeps_alive("HTTP/1.0", "")
        );
    }

    #[test]
    fn a_doubtful_head_is_refused_for_its_reason() {
        use Failure::{BadHost, HeadTooLarge, Malformed, Method, NotImplemented, TargetTooLong, Version};
        let long = "x".repeat(9000);
        let doubtful = [
            ("GET / HTTP/1.1\r\n\r\n".to_owned(), BadHost),
            ("GET / HTTP/1.0\r\n\r\n".to_owned(), BadHost),
            (with("Host: a"), BadHost),
            (with("Content-Length: 1\r\nContent-Length: 1"), Malformed),
            (with("Content-Length: +1"), Malformed),
            (with("Content-Length: 1, 1"), Malformed),
            (with("Content-Length:"), Malformed),
            (with("Content-Length: 99999999999999999999"), Malformed),
            (with("Content-Length: 1\r\nTransfer-Encoding: chunked"), Malformed),
            (with("Transfer-Encoding: gzip, chunked"), Malformed),
            (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), Malformed),
            (with("Transfer-Encoding: identity"), Malformed),
            (with("Content_Length: 1"), Malformed),
            (with("X_Forwarded_For: 1"), Malformed),
            (with("Connection: x-forwarded-for"), Malformed),
            (with("Connection: content-length"), Malformed),
            (with("Expect: y 100-continue"), Malformed),
            (with("Expect: 100-continue\r\nExpect: 100-continue"), Malformed),
            (with("Expect:"), Malformed),
            ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), Malformed),
            ("GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned(), Malformed),
            ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Malformed),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Malformed),
            ("GET /<a> HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Malformed),
            ("GET /`a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Malformed),
            ("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Malformed),
            ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Malformed),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Malformed),
            ("GET /\r\n\r\n".to_owned(), Malformed),
            ("GET / http/1.1\r\nHost: a\r\n\r\n".to_owned(), Malformed),
            ("GET / HTTP/1.10\r\nHost: a\r\n\r\n".to_owned(), Malformed),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(), Version),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n".to_owned(), Version),
            ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Method),
            ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), Method),
            ("get / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), NotImplemented),
            ("BREW / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), NotImplemented),
            ("\r\n\r\nGET / HTTP/1.1\r\n".to_owned(), Malformed),
            ("\x16\x03\x01".to_owned(), Malformed),
            (with("A:1\r\nB:2\r\nC:3\r\nD:4"), HeadTooLarge),
            (with(&format!("A: {}", "x".repeat(300))), HeadTooLarge),
            (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), TargetTooLong),
        ];
        for (text, failure) in doubtful {
            assert_eq!(read(&text), Err(failure), "{text:?}");
        }
    }

    #[test]
    fn an_absolute_target_leaves_as_a_path() {
        let settled = |target: &str| {
            let bytes = format!("GET {target} HTTP/1.1\r\nHost: shop.test:80\r\n\r\n");
            let head = judge(bytes.as_bytes(), &Limits::default())?.unwrap();
            assert!(head.is_absolute);
            let settled = in_origin_form(&head, bytes.as_bytes())?;
            let again = judge(&settled, &Limits::default())?.unwrap();
            Ok::<_, Failure>(again.target(&settled).to_owned())
        };
        assert_eq!(settled("http://SHOP.test/a").unwrap(), "/a");
        assert_eq!(settled("http://shop.test").unwrap(), "/");
        assert_eq!(settled("http://shop.test?x=/static/app.js").unwrap(), "/?x=/static/app.js");
        for target in ["http://other.test/", "ftp://shop.test/", "shop.test", "http://u@shop.test/", "http:/a"] {
            assert!(settled(target).is_err(), "{target}");
        }
    }

    #[test]
    fn pingora_is_given_no_upgrade_but_a_websocket() {
        let settled = |text: &str| {
            let head = judge(text.as_bytes(), &Limits::default()).unwrap().unwrap();
            String::from_utf8(head.settled(text.as_bytes()).to_vec()).unwrap()
        };
        let java = with("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nA: b");
        assert_eq!(settled(&java), with("Connection: Upgrade, HTTP2-Settings\r\nA: b"));
        let socket = with("Connection: Upgrade\r\nUpgrade: websocket");
        assert_eq!(settled(&format!("\r\n{socket}")), socket);
    }

    proptest! {
        #[test]
        fn the_verdict_does_not_depend_on_how_the_bytes_come(bytes in proptest::collection::vec(prop_oneof![
            Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), any::<u8>()
        ], 0..80), cut in 0_usize..100) {
            let all = [b"GET / HTTP/1.1\r\nHost: a\r\n", &bytes[..], b"\r\n\r\n"].concat();
            let limits = Limits::default();
            let whole = judge(&all, &limits).map(|head| head.map(|head| head.length));
            match judge(&all[..cut.min(all.len())], &limits) {
                Ok(Some(head)) => prop_assert_eq!(Ok(Some(head.length)), whole),
                Ok(None) => {}
                Err(_) => prop_assert!(whole.is_err()),
            }
        }
    }
}
