//! The facts of one request, whoever parsed it.
//!
//! Read by `gateway` (later by the door as well) and judged by `answer`. The rule: the host of a request is known
//! exactly or the request is refused.

use http::{Method, header};
use pingora::http::RequestHeader;

use crate::model::host::HostName;

use super::failure::Failure;
use super::visit::Visit;

#[derive(Debug)]
pub struct Asked {
    pub method: Method,
    pub host: HostName,
    /// The host as the client wrote it, with its port.
    pub authority: String,
    pub path: String,
    /// Path and query as the client wrote them.
    pub target: String,
    /// What the visitor used, by the word of a trusted proxy where there is one in front.
    pub scheme: &'static str,
}

impl Asked {
    /// Reads the facts, or says why the request is not taken.
    pub fn read(header: &RequestHeader, visit: &Visit, is_trusted: bool) -> Result<Self, Failure> {
        if matches!(header.method, Method::CONNECT | Method::TRACE) {
            return Err(Failure::Method);
        }
        let authority = authority(header).ok_or(Failure::BadHost)?;
        let host = HostName::from_authority(&authority).map_err(|_| Failure::BadHost)?;
        let target = std::str::from_utf8(header.raw_path()).map_err(|_| Failure::Malformed)?;
        let target = origin_form(target).to_owned();
        if !target.starts_with('/') && target != "*" {
            return Err(Failure::Malformed);
        }
        let path = target.split('?').next().unwrap_or_default().to_owned();
        let scheme = forwarded_scheme(header).filter(|_| is_trusted).unwrap_or(visit.scheme());
        Ok(Self { method: header.method.clone(), host, authority, path, target, scheme })
    }

    /// The port the client wrote, with its colon; nothing when it wrote none.
    pub fn port(&self) -> &str {
        let after_host = self.authority.rfind(']').map_or(0, |end| end + 1);
        self.authority[after_host..].find(':').map_or("", |colon| &self.authority[after_host + colon..])
    }
}

/// HTTP/2's `:authority`, else the one Host field there may be (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
fn authority(header: &RequestHeader) -> Option<String> {
    let mut hosts = header.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => None,
        (Some(host), None) => host.to_str().ok().map(str::to_owned),
        (None, _) => header.uri.authority().map(|authority| authority.as_str().to_owned()),
    }
}

fn forwarded_scheme(header: &RequestHeader) -> Option<&'static str> {
    match header.headers.get("x-forwarded-proto")?.as_bytes() {
        b"https" => Some("https"),
        b"http" => Some("http"),
        _ => None,
    }
}

/// `http://host/path` as `/path` (RFC 9112 section 3.2.2).
fn origin_form(target: &str) -> &str {
    match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |slash| &rest[slash..]),
        _ => target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(target: &str, hosts: &[&str]) -> Result<Asked, Failure> {
        let mut header = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        for host in hosts {
            header.append_header("Host", *host).unwrap();
        }
        let address = "127.0.0.1:1".parse().unwrap();
        Asked::read(&header, &Visit::new(address, address, None), false)
    }

    #[test]
    fn host_port_and_path_are_told_apart() {
        let shop = asked("/a?b=/c", &["Shop.test:8080"]).unwrap();
        assert_eq!((shop.host.as_str(), shop.port(), shop.path.as_str()), ("shop.test", ":8080", "/a"));
        assert_eq!(shop.target, "/a?b=/c");
        assert_eq!(asked("/", &["[::1]:80"]).unwrap().port(), ":80");
        assert_eq!(asked("/", &["[::1]"]).unwrap().port(), "");
        assert_eq!(asked("http://shop.test/a?b", &["shop.test"]).unwrap().target, "/a?b");
        assert_eq!(asked("http://shop.test", &["shop.test"]).unwrap().target, "/");
    }

    #[test]
    fn only_a_trusted_proxy_says_what_the_visitor_used() {
        let mut header = RequestHeader::build("GET", b"/", None).unwrap();
        header.insert_header("Host", "shop.test").unwrap();
        header.insert_header("X-Forwarded-Proto", "https").unwrap();
        let address = "127.0.0.1:1".parse().unwrap();
        let scheme = |is_trusted| Asked::read(&header, &Visit::new(address, address, None), is_trusted).unwrap().scheme;
        assert_eq!((scheme(false), scheme(true)), ("http", "https"));
    }

    #[test]
    fn a_request_without_one_good_host_is_refused() {
        for hosts in [&[][..], &["a.test", "a.test"], &[""], &["a b"], &["a.test@b"]] {
            assert_eq!(asked("/", hosts).unwrap_err(), Failure::BadHost, "{hosts:?}");
        }
    }
}
