//! The fields that the edge answers for: who a request comes from, over what it came, and what the client is told.
//!
//! Called by `gateway`. The rule: what an app is told about a client is never what the client said about itself, unless
//! the client is a trusted proxy.

use http::header::{self, HeaderMap, HeaderName};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::{Error, ErrorType, Result};

use super::request::Asked;
use super::visit::Visit;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Fields whose twins in CGI's spelling could change what a message is.
const FRAMING: [&str; 5] = ["host", "connection", "content-length", "transfer-encoding", "upgrade"];
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// What a request id of somebody else's may be at most, in bytes.
const ID_MAX: usize = 128;

/// Sets what the app is told, in the request as it leaves. `trusted` says whether the client is a trusted proxy.
pub fn to_app(header: &mut RequestHeader, asked: &Asked, visit: &Visit, trusted: bool, id: &str) -> Result<()> {
    drop_claims(header, trusted);
    let client = visit.client.ip().to_canonical().to_string();
    let via = match joined(header, &FORWARDED_FOR) {
        Some(before) => format!("{before}, {client}"),
        None => client,
    };
    header.insert_header(FORWARDED_FOR, via)?;
    if !header.headers.contains_key(FORWARDED_PROTO) {
        header.insert_header(FORWARDED_PROTO, asked.scheme)?;
    }
    if !header.headers.contains_key(FORWARDED_HOST) {
        header.insert_header(FORWARDED_HOST, asked.authority.as_str())?;
    }
    // HTTP/2 may send cookies in crumbs; an HTTP/1 app must see one field (RFC 9113 section 8.2.3).
    if header.headers.get_all(header::COOKIE).iter().nth(1).is_some() {
        let crumbs = header.headers.get_all(header::COOKIE).iter().map(|crumb| crumb.as_bytes());
        let cookie = crumbs.collect::<Vec<_>>().join(&b"; "[..]);
        header.insert_header(header::COOKIE, cookie)?;
    }
    header.insert_header(REQUEST_ID, id)?;
    header.append_header(header::VIA, "1.1 opri")?;
    let target = asked.target.parse().map_err(|_| Error::new_down(ErrorType::InvalidHTTPHeader))?;
    if header.uri.authority().is_some() {
        header.set_uri(target);
    }
    // `Host` goes as it was sent; HTTP/2 sends it as `:authority`.
    header.insert_header(header::HOST, asked.authority.as_str())?;
    Ok(())
}

/// The id of a request: a trusted proxy's own, if it is harmless to pass on and to log, else a new one.
pub fn request_id(header: &RequestHeader, trusted: bool, fresh: impl FnOnce() -> String) -> String {
    let theirs = header.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let is_harmless = |id: &&str| (1..=ID_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    theirs.filter(|_| trusted).filter(is_harmless).map_or_else(fresh, str::to_owned)
}

/// Sets what the client is told about the way of its answer.
pub fn to_client(header: &mut ResponseHeader, cache: Option<&str>, id: &str) -> Result<()> {
    header.insert_header(REQUEST_ID, id)?;
    header.append_header(header::VIA, "1.1 opri")?;
    if let Some(cache) = cache {
        header.append_header(CACHE_STATUS, cache)?;
    }
    Ok(())
}

/// Drops what an app said to the edge and not to the client (RFC 9110 section 7.6.1). Transfer-Encoding stays: pingora
/// frames the answer by it.
pub fn drop_hop_by_hop(header: &mut ResponseHeader) {
    for name in hop_by_hop(&header.headers) {
        // What says where the body ends is not the app's to take away.
        if name != header::TRANSFER_ENCODING && name != header::CONTENT_LENGTH {
            header.remove_header(&name);
        }
    }
}

/// The fields that belong to one connection, with those that `Connection` names.
pub fn hop_by_hop(headers: &HeaderMap) -> Vec<HeaderName> {
    let nominations = headers.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    let nominated = nominations.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
    nominated.chain(HOP_BY_HOP).filter(|name| headers.contains_key(name)).collect()
}

/// Drops every field that speaks of a client, and every field that an app could take for one: `X_Forwarded_For` and
/// `X.Forwarded.For` are one name to CGI and WSGI.
fn drop_claims(header: &mut RequestHeader, trusted: bool) {
    let is_dropped = |name: &HeaderName| {
        let canonical = name.as_str().replace(['_', '.'], "-");
        let is_twin = canonical != name.as_str();
        (is_claim(&canonical) && (is_twin || !trusted)) || (is_twin && FRAMING.contains(&canonical.as_str()))
    };
    let dropped: Vec<_> = header.headers.keys().filter(|name| is_dropped(name)).cloned().collect();
    for name in dropped {
        header.remove_header(&name);
    }
}

/// Beside `X-Forwarded-…`. The last two make some frameworks route by another path than ours.
const CLAIMS: [&str; 6] = ["forwarded", "x-real-ip", "x-request-id", "x-client-ip", "x-original-url", "x-rewrite-url"];

fn is_claim(name: &str) -> bool {
    name.starts_with("x-forwarded-") || CLAIMS.contains(&name)
}

fn joined(header: &RequestHeader, name: &HeaderName) -> Option<String> {
    let values: Vec<_> = header.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(trusted: bool, fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut header = RequestHeader::build("GET", b"/", None).unwrap();
        header.insert_header("Host", "Shop.test:80").unwrap();
        for (name, value) in fields {
            header.append_header(*name, *value).unwrap();
        }
        let visit = Visit::new("[::ffff:10.0.0.9]:5".parse().unwrap(), "127.0.0.1:1".parse().unwrap(), None);
        let asked = Asked::read(&header, &visit, trusted).unwrap();
        to_app(&mut header, &asked, &visit, trusted, "id-1").unwrap();
        header
    }

    fn value<'a>(header: &'a RequestHeader, name: &str) -> Vec<&'a str> {
        header.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    const CLAIMS: &[(&str, &str)] = &[
        ("X-Forwarded-For", "1.1.1.1"),
        ("X_Forwarded_For", "2.2.2.2"),
        ("X.Forwarded.For", "2.2.2.2"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Port", "1"),
        ("X-Real-IP", "3.3.3.3"),
        ("Forwarded", "for=4.4.4.4"),
        ("X-Request-Id", "theirs"),
        ("X-Request_Id", "theirs"),
        ("Content_Length", "5"),
    ];

    #[test]
    fn a_client_cannot_say_who_it_is() {
        let header = sent(false, CLAIMS);
        assert_eq!(value(&header, "x-forwarded-for"), ["10.0.0.9"]);
        assert_eq!(value(&header, "x-forwarded-proto"), ["http"]);
        assert_eq!(value(&header, "x-forwarded-host"), ["Shop.test:80"]);
        assert_eq!(value(&header, "x-request-id"), ["id-1"]);
        assert_eq!(value(&header, "host"), ["Shop.test:80"]);
        for gone in [
            "content_length",
            "x_forwarded_for",
            "x.forwarded.for",
            "x-forwarded-port",
            "x-real-ip",
            "forwarded",
            "x-request_id",
        ] {
            assert!(value(&header, gone).is_empty(), "{gone}");
        }
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_added_to() {
        let header = sent(true, CLAIMS);
        assert_eq!(value(&header, "x-forwarded-for"), ["1.1.1.1, 10.0.0.9"]);
        assert_eq!(value(&header, "x-forwarded-proto"), ["https"]);
        assert_eq!(value(&header, "forwarded"), ["for=4.4.4.4"]);
        assert!(value(&header, "x_forwarded_for").is_empty());
    }

    #[test]
    fn only_a_trusted_proxy_names_a_request_and_only_in_harmless_words() {
        let id = |trusted, theirs: &str| {
            let mut header = RequestHeader::build("GET", b"/", None).unwrap();
            header.insert_header("X-Request-Id", theirs).unwrap();
            request_id(&header, trusted, || "ours".to_owned())
        };
        assert_eq!(id(true, "theirs"), "theirs");
        assert_eq!(id(false, "theirs"), "ours");
        assert_eq!(id(true, "a b"), "ours");
        assert_eq!(id(true, &"a".repeat(129)), "ours");
    }
}
