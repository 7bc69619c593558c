//! The facts of one request, whoever parsed it.
//!
//! Read by `door` from the raw bytes of an HTTP/1 head and by `http2` from the codec's map; judged by `answer`. The rule:
//! what a request is for is known exactly, or the request is refused.

use std::net::IpAddr;
use std::time::Instant;

use http::Method;
use http::request::Parts;

use crate::model::host::HostName;
use crate::model::snapshot::Settings;

use super::failure::Failure;
use super::field::Fields;
use super::strict::request::{Head, Version};
use super::strict::stream;
use super::visit::Visit;

#[derive(Debug)]
pub struct Asked<'r> {
    pub method: Method,
    pub host: HostName,
    /// The host as the client wrote it, with its port.
    pub authority: &'r str,
    /// Path and query as the client wrote them.
    pub target: &'r str,
    /// The target without its query.
    pub path: &'r str,
    pub fields: Fields<'r>,
    /// As the log names it.
    pub protocol: &'static str,
    /// What the visitor used, by the word of a trusted proxy where there is one in front.
    pub scheme: &'static str,
    /// Who is on the other end of the connection: a visitor, or a trusted proxy.
    pub peer: IpAddr,
    /// Whether that is a proxy whose word counts.
    pub is_trusted: bool,
    /// When it was understood.
    pub at: Instant,
}

impl<'r> Asked<'r> {
    /// Of a head that was judged; `bytes` are those it was judged by.
    pub fn http1(head: &'r Head, bytes: &'r [u8], visit: &Visit, settings: &Settings) -> Result<Self, Failure> {
        let fields = head.fields(bytes);
        let authority = fields.text("host").ok_or(Failure::BadHost)?;
        let protocol = match head.version {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
        };
        Self::new((head.method.clone(), protocol), (authority, head.target(bytes)), fields, (visit, settings))
    }

    /// Of a head that the HTTP/2 codec has read and found sound (RFC 9113 section 8.2), judged here for what it becomes.
    pub fn http2(header: &'r Parts, visit: &Visit, settings: &Settings) -> Result<Self, Failure> {
        if header.headers.len() > settings.limits.headers as usize {
            return Err(Failure::HeadTooLarge);
        }
        stream::judge(header)?;
        let authority = authority(header).ok_or(Failure::BadHost)?;
        let target = header.uri.path_and_query().ok_or(Failure::Malformed)?.as_str();
        let fields = Fields::Map(&header.headers);
        Self::new((header.method.clone(), "HTTP/2"), (authority, target), fields, (visit, settings))
    }

    fn new(
        (method, protocol): (Method, &'static str),
        (authority, target): (&'r str, &'r str),
        fields: Fields<'r>,
        (visit, settings): (&Visit, &Settings),
    ) -> Result<Self, Failure> {
        let host = HostName::from_authority(authority).map_err(|_| Failure::BadHost)?;
        let peer = visit.peer();
        let is_trusted = visit.is_trusted(settings);
        let scheme = forwarded_scheme(fields).filter(|_| is_trusted).unwrap_or(visit.scheme());
        let path = &target[..memchr::memchr(b'?', target.as_bytes()).unwrap_or(target.len())];
        let at = Instant::now();
        Ok(Self { method, host, authority, target, path, fields, protocol, scheme, peer, is_trusted, at })
    }

    /// The port the client wrote, with its colon; nothing when it wrote none.
    pub fn port(&self) -> &'r str {
        let after_host = self.authority.rfind(']').map_or(0, |end| end + 1);
        self.authority[after_host..].find(':').map_or("", |colon| &self.authority[after_host + colon..])
    }
}

/// `:authority`, else the one Host field there may be (RFC 9113 section 8.3.1).
fn authority(header: &Parts) -> Option<&str> {
    let mut hosts = header.headers.get_all(http::header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => None,
        (Some(host), None) => host.to_str().ok(),
        (None, _) => header.uri.authority().map(http::uri::Authority::as_str),
    }
}

fn forwarded_scheme(fields: Fields<'_>) -> Option<&'static str> {
    match fields.first("x-forwarded-proto")? {
        b"https" => Some("https"),
        b"http" => Some("http"),
        _ => None,
    }
}

#[cfg(test)]
pub mod tests {
    use crate::model::machine::Limits;

    use super::super::strict::request::judge;
    use super::*;

    /// Asks `then` about the request that these lines make.
    pub fn asking<T>(
        target: &str,
        lines: &str,
        is_trusted: bool,
        then: impl FnOnce(Result<Asked<'_>, Failure>) -> T,
    ) -> T {
        let bytes = format!("GET {target} HTTP/1.1\r\n{lines}\r\n");
        let visit = Visit::new("10.0.0.9:5".parse().unwrap(), "127.0.0.1:1".parse().unwrap(), None);
        let trusted_proxies = if is_trusted { vec!["10.0.0.0/8".parse().unwrap()] } else { Vec::new() };
        let settings = Settings { trusted_proxies, ..Settings::default() };
        let head = match judge(bytes.as_bytes(), &Limits::default()) {
            Ok(head) => head.unwrap(),
            Err(failure) => return then(Err(failure)),
        };
        then(Asked::http1(&head, bytes.as_bytes(), &visit, &settings))
    }

    #[test]
    fn host_port_and_path_are_told_apart() {
        asking("/a?b=/c", "Host: Shop.test:8080\r\n", false, |shop| {
            let shop = shop.unwrap();
            assert_eq!((shop.host.as_str(), shop.port(), shop.path), ("shop.test", ":8080", "/a"));
            assert_eq!(shop.target, "/a?b=/c");
        });
        asking("/", "Host: [::1]:80\r\n", false, |asked| assert_eq!(asked.unwrap().port(), ":80"));
        asking("/", "Host: [::1]\r\n", false, |asked| assert_eq!(asked.unwrap().port(), ""));
    }

    #[test]
    fn only_a_trusted_proxy_says_what_the_visitor_used() {
        let scheme = |is_trusted| {
            asking("/", "Host: a\r\nX-Forwarded-Proto: https\r\n", is_trusted, |asked| asked.unwrap().scheme)
        };
        assert_eq!((scheme(false), scheme(true)), ("http", "https"));
    }

    #[test]
    fn a_request_without_one_good_host_is_refused() {
        for lines in ["", "Host: a.test\r\nHost: a.test\r\n", "Host:\r\n", "Host: a b\r\n", "Host: a.test@b\r\n"] {
            asking("/", lines, false, |asked| assert_eq!(asked.unwrap_err(), Failure::BadHost, "{lines:?}"));
        }
    }
}
