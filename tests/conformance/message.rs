//! HTTP/1.1 messages as RFC 9112 spells them, and not one byte otherwise.
//!
//! The judge of what the gateway sends, to apps and to clients. It shares nothing with the gateway's own parsers. The
//! rule: where the grammar leaves a choice that anybody is known to read differently, there is none here.

/// What was read and how many bytes it took; `None` when it is not whole yet; else what is wrong with it.
pub type Read<T> = Result<Option<(T, usize)>, String>;

/// What stands behind something that must be read first; gives back `None` when that is not whole.
macro_rules! whole {
    ($read:expr) => {
        match $read? {
            Some(read) => read,
            None => return Ok(None),
        }
    };
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub fields: Vec<Field>,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub fields: Vec<Field>,
    pub body: Vec<u8>,
}

/// Where a body ends.
enum Framing {
    Nothing,
    Length(usize),
    Chunked,
    /// Only an answer may.
    Close,
}

/// Reads one request off the front.
pub fn request(bytes: &[u8]) -> Read<Request> {
    let (line, mut at) = whole!(line(bytes));
    let words: Vec<&str> = line.split(' ').collect();
    let &[method, target, "HTTP/1.1"] = &words[..] else { return Err(format!("the request line {line:?}")) };
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-') {
        return Err(format!("the method {method:?}"));
    }
    let is_path = target.starts_with('/') || (target == "*" && method == "OPTIONS");
    if !is_path || !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(format!("the target {target:?}"));
    }
    let (fields, length) = whole!(fields(&bytes[at..]));
    at += length;
    host(&fields)?;
    let (body, length) = whole!(body(&bytes[at..], &framing(&fields, Framing::Nothing)?, is_plain, false));
    let request = Request { method: method.to_owned(), target: target.to_owned(), fields, body };
    Ok(Some((request, at + length)))
}

/// Reads one answer to a request of this method off the front, or an informational one before it.
pub fn answer(bytes: &[u8], method: &str, is_at_end: bool) -> Read<Answer> {
    let (line, mut at) = whole!(line(bytes));
    let code = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split_once(' ')).map(|(code, _)| code);
    let code = code.filter(|code| code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit()));
    let status: u16 = code.and_then(|code| code.parse().ok()).ok_or_else(|| format!("the status line {line:?}"))?;
    let (fields, length) = whole!(fields(&bytes[at..]));
    at += length;
    let framing = match framing(&fields, Framing::Close)? {
        _ if method == "HEAD" || matches!(status, 100..200 | 204 | 304) => Framing::Nothing,
        framing => framing,
    };
    let (body, length) = whole!(body(&bytes[at..], &framing, |_| true, is_at_end));
    Ok(Some((Answer { status, fields, body }, at + length)))
}

impl Request {
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        values(&self.fields, name)
    }
}

impl Answer {
    pub fn closes(&self) -> bool {
        values(&self.fields, "connection").any(|option| option.eq_ignore_ascii_case("close"))
    }
}

pub fn values<'a>(fields: &'a [Field], name: &'a str) -> impl Iterator<Item = &'a str> {
    fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value.as_str())
}

/// One line without its CR LF. Bytes beyond ASCII stand as Latin-1.
fn line(bytes: &[u8]) -> Read<String> {
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\r' => match bytes.get(at + 1) {
                None => return Ok(None),
                Some(b'\n') => return Ok(Some((bytes[..at].iter().map(|byte| char::from(*byte)).collect(), at + 2))),
                Some(_) => return Err("a bare CR".to_owned()),
            },
            b'\n' => return Err("a bare LF".to_owned()),
            b'\t' => {}
            0..0x20 | 0x7f => return Err(format!("the control byte {byte:#04x}")),
            _ => {}
        }
    }
    Ok(None)
}

/// A block of fields with its empty line.
fn fields(bytes: &[u8]) -> Read<Vec<Field>> {
    let (mut fields, mut at) = (Vec::new(), 0);
    loop {
        let (line, length) = whole!(line(&bytes[at..]));
        at += length;
        if line.is_empty() {
            return Ok(Some((fields, at)));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| format!("the field {line:?}"))?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("the field name {name:?}"));
        }
        fields.push(Field { name: name.to_owned(), value: value.trim_matches([' ', '\t']).to_owned() });
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Exactly one Host, which is one (RFC 9112 section 3.2).
fn host(fields: &[Field]) -> Result<(), String> {
    let hosts: Vec<&str> = values(fields, "host").collect();
    let &[host] = &hosts[..] else { return Err(format!("the hosts {hosts:?}")) };
    let end = host.rfind(']').unwrap_or(0);
    let (name, port) =
        host[end..].split_once(':').map_or((host, ""), |(_, port)| (&host[..host.len() - port.len() - 1], port));
    let address = name.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
    let is_text = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let is_name = address.map_or(is_text(name), |address| address.parse::<std::net::Ipv6Addr>().is_ok());
    let is_port = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    if is_name && is_port { Ok(()) } else { Err(format!("the host {host:?}")) }
}

/// One way to find the end of the body, said once (RFC 9112 section 6.3).
fn framing(fields: &[Field], otherwise: Framing) -> Result<Framing, String> {
    let lengths: Vec<&str> = values(fields, "content-length").collect();
    let codings: Vec<&str> = values(fields, "transfer-encoding").collect();
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(otherwise),
        ([length], []) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse().map(Framing::Length).map_err(|_| format!("the length {length:?}"))
        }
        ([], ["chunked"]) => Ok(Framing::Chunked),
        _ => Err(format!("the lengths {lengths:?} and the codings {codings:?}")),
    }
}

fn body(bytes: &[u8], framing: &Framing, is_trailer: fn(&str) -> bool, is_at_end: bool) -> Read<Vec<u8>> {
    match framing {
        Framing::Nothing => Ok(Some((Vec::new(), 0))),
        Framing::Length(length) => Ok(bytes.get(..*length).map(|body| (body.to_vec(), *length))),
        Framing::Chunked => chunked(bytes, is_trailer),
        Framing::Close => Ok(is_at_end.then(|| (bytes.to_vec(), bytes.len()))),
    }
}

/// Trailers that say nothing about the message or where it came from.
fn is_plain(trailer: &str) -> bool {
    ["x-checksum", "grpc-status", "grpc-message"].iter().any(|plain| plain.eq_ignore_ascii_case(trailer))
}

/// Chunks without extensions, and trailers of which each may be there.
fn chunked(bytes: &[u8], is_trailer: fn(&str) -> bool) -> Read<Vec<u8>> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let (line, length) = whole!(line(&bytes[at..]));
        at += length;
        let is_size = (1..=8).contains(&line.len()) && line.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = usize::from_str_radix(&line, 16).ok().filter(|_| is_size);
        let size = size.ok_or_else(|| format!("the chunk {line:?}"))?;
        if size == 0 {
            break;
        }
        let Some(data) = bytes.get(at..at + size + 2) else { return Ok(None) };
        let data = data.strip_suffix(b"\r\n").ok_or("a chunk that does not end where it says")?;
        body.extend_from_slice(data);
        at += size + 2;
    }
    let (trailers, length) = whole!(fields(&bytes[at..]));
    match trailers.iter().find(|trailer| !is_trailer(&trailer.name)) {
        Some(trailer) => Err(format!("the trailer {trailer:?}")),
        None => Ok(Some((body, at + length))),
    }
}

#[test]
fn the_judge_takes_what_is_right_and_nothing_else() {
    let take = |text: &str| request(text.as_bytes()).map(|read| read.map(|(_, length)| length));
    let right = "POST /a?b HTTP/1.1\r\nHost: a.test:80\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    assert_eq!(take(right), Ok(Some(right.len())));
    assert_eq!(take(&right[..right.len() - 1]), Ok(None));
    let wrong = [
        ("a?b", "a b"),
        ("/a", "a"),
        ("1.1", "1.0"),
        ("POST", "post"),
        ("Host: a", "Host: a@a"),
        ("Host: a", "Host: b\r\nHost: a"),
        ("Host: a", "Content-Length: 2\r\nHost: a"),
        ("chunked", "gzip, chunked"),
        ("\r\n\r\n2", "\n\r\n2"),
        (": chunked", " : chunked"),
        ("2\r\n", "2;a\r\n"),
        ("hi\r\n", "hi \r\n"),
        ("0\r\n", "0\r\nHost: b\r\n"),
    ];
    for (from, to) in wrong {
        let text = right.replacen(from, to, 1);
        assert!(take(&text).is_err(), "{text:?}: {:?}", take(&text));
    }
}

#[test]
fn an_answer_ends_where_it_says() {
    let take = |text: &str, method: &str, is_at_end| {
        let read = answer(text.as_bytes(), method, is_at_end);
        read.map(|read| read.map(|(answer, length)| (answer.status, answer.body.len(), text.len() - length)))
    };
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(take(length, "GET", false), Ok(Some((200, 2, 0))));
    assert_eq!(take(length, "HEAD", false), Ok(Some((200, 0, 2))));
    assert_eq!(take(&length[..length.len() - 1], "GET", true), Ok(None));
    assert_eq!(take("HTTP/1.1 200 OK\r\n\r\nhi", "GET", true), Ok(Some((200, 2, 0))));
    assert_eq!(take("HTTP/1.1 200 OK\r\n\r\nhi", "GET", false), Ok(None));
    assert_eq!(take("HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP", "GET", false), Ok(Some((103, 0, 4))));
}
