//! One request head of an HTTP/2 stream, as its codec took it apart.
//!
//! Pure. Called by `request`. The rule: what enters over HTTP/2 is what could have entered over HTTP/1, because it leaves as
//! HTTP/1 (RFC 9113 section 10.3). The codec keeps the rules of HTTP/2 itself; it knows none of a field's meaning.

use http::request::Parts;
use http::{HeaderMap, Method, header};

use crate::edge::failure::Failure;
use crate::edge::field::Kind;

use super::lines::{is_text, is_token};
use super::request::{TARGET_MAX, is_known, is_target, length};

/// Says why a stream is not taken, if it is not.
pub fn judge(head: &Parts) -> Result<(), Failure> {
    method(&head.method)?;
    whom(head)?;
    let target = target(head);
    if !is_target(target.as_bytes()) {
        return Err(Failure::Malformed);
    }
    if target.len() > TARGET_MAX {
        return Err(Failure::TargetTooLong);
    }
    if !matches!(head.uri.scheme_str(), Some("http" | "https")) {
        return Err(Failure::Malformed);
    }
    once(&head.headers)?;
    head.headers.iter().try_for_each(|(name, value)| field(name.as_str(), value.as_bytes()))
}

fn method(method: &Method) -> Result<(), Failure> {
    match is_known(method) {
        true if matches!(*method, Method::CONNECT | Method::TRACE) => Err(Failure::Method),
        true => Ok(()),
        false => Err(Failure::NotImplemented),
    }
}

/// What would be read as a list, or as whichever comes first, must not stand there twice.
fn once(fields: &HeaderMap) -> Result<(), Failure> {
    let is_twice = |name| fields.get_all(name).iter().nth(1).is_some();
    let is_odd = [header::CONTENT_LENGTH, header::EXPECT, header::TE].into_iter().any(is_twice);
    if is_odd { Err(Failure::Malformed) } else { Ok(()) }
}

/// Whether nobody can be in doubt who is meant: a Host beside `:authority` says the same, and the path names no host (RFC
/// 9113 section 8.3.1).
pub fn whom(head: &Parts) -> Result<(), Failure> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next(), head.uri.authority()) {
        (_, Some(_), _) | (None, _, None) => return Err(Failure::BadHost),
        (Some(host), None, Some(authority)) if host.as_bytes() != authority.as_str().as_bytes() => {
            return Err(Failure::BadHost);
        }
        _ => {}
    }
    let target = target(head);
    let is_path = match head.method {
        Method::CONNECT => true,
        Method::OPTIONS if target == "*" => true,
        _ => target.starts_with('/'),
    };
    if is_path { Ok(()) } else { Err(Failure::Malformed) }
}

fn target(head: &Parts) -> &str {
    head.uri.path_and_query().map_or("", |target| target.as_str())
}

fn field(name: &str, value: &[u8]) -> Result<(), Failure> {
    let is_right = match Kind::of(name.as_bytes()) {
        Kind::ContentLength => length(value).is_ok(),
        Kind::Expect => value.eq_ignore_ascii_case(b"100-continue"),
        // Fields of a connection have no place in a stream (RFC 9113 section 8.2.2).
        Kind::Connection | Kind::TransferEncoding | Kind::Upgrade | Kind::Twin => false,
        Kind::HopByHop if name == "te" => value == b"trailers",
        _ => true,
    };
    // The codec's names may hold `"`, which no token has.
    match is_right && is_text(value) && name.bytes().all(is_token) {
        true => Ok(()),
        false => Err(Failure::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Lines = &'static [(&'static str, &'static str)];

    fn read(method: &str, uri: &str, fields: Lines) -> Result<(), Failure> {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        judge(&request.body(()).unwrap().into_parts().0)
    }

    const SHOP: &str = "https://shop.test/a?b";

    #[test]
    fn what_http1_would_let_in_is_let_in() {
        let right: [Lines; 6] = [
            &[],
            &[("host", "shop.test")],
            &[("te", "trailers"), ("trailer", "x-checksum")],
            &[("content-length", "5"), ("expect", "100-continue")],
            &[("cookie", "a=b"), ("cookie", "c=d")],
            &[("x_custom", "\t")],
        ];
        for fields in right {
            assert_eq!(read("POST", SHOP, fields), Ok(()), "{fields:?}");
        }
        assert_eq!(read("OPTIONS", "*", &[("host", "a")]), Err(Failure::Malformed), "it has no scheme");
        assert_eq!(read("PROPFIND", SHOP, &[]), Ok(()));
    }

    #[test]
    fn what_http1_would_not_let_in_is_refused() {
        use Failure::{BadHost, Malformed, Method, NotImplemented, TargetTooLong};
        let far = format!("https://shop.test/{}", "x".repeat(9000));
        let wrong: [(&str, &str, Lines, Failure); 19] = [
            ("get", SHOP, &[], NotImplemented),
            ("PRI", SHOP, &[], NotImplemented),
            ("TRACE", SHOP, &[], Method),
            ("GET", "https://shop.test/\u{fc}", &[], Malformed),
            ("GET", "ftp://shop.test/", &[], Malformed),
            ("GET", "/a", &[("host", "shop.test")], Malformed),
            ("GET", &far, &[], TargetTooLong),
            ("GET", SHOP, &[("host", "other.test")], BadHost),
            ("GET", SHOP, &[("host", "SHOP.test")], BadHost),
            ("GET", SHOP, &[("host", "shop.test"), ("host", "shop.test")], BadHost),
            ("GET", SHOP, &[("content-length", "5"), ("content-length", "5")], Malformed),
            ("GET", SHOP, &[("content-length", "+5")], Malformed),
            ("GET", SHOP, &[("expect", "100-continue, x")], Malformed),
            ("GET", SHOP, &[("expect", "100-continue"), ("expect", "100-continue")], Malformed),
            ("GET", SHOP, &[("te", "gzip")], Malformed),
            ("GET", SHOP, &[("connection", "close")], Malformed),
            ("GET", SHOP, &[("transfer-encoding", "chunked")], Malformed),
            ("GET", SHOP, &[("upgrade", "websocket")], Malformed),
            ("GET", SHOP, &[("x_forwarded_for", "1.1.1.1")], Malformed),
        ];
        for (method, uri, fields, failure) in wrong {
            assert_eq!(read(method, uri, fields), Err(failure), "{method} {uri} {fields:?}");
        }
        let mut head = http::Request::get(SHOP).body(()).unwrap().into_parts().0;
        let quoted = http::HeaderName::from_lowercase(b"x\"y").unwrap();
        head.headers.insert(quoted, http::HeaderValue::from_static("z"));
        assert_eq!(judge(&head), Err(Malformed));
    }
}
