//! The fields that the edge answers for: who a request comes from, over what it came, and what the client is told.
//!
//! Called by `fetch` and by `gateway`, so that both ways to an app say the same. The rule: what an app is told about a
//! client is never what the client said about itself, unless the client is a trusted proxy.

use bytes::BytesMut;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use pingora::http::{RequestHeader, ResponseHeader};

use super::field::{Fields, Kind};
use super::forwarded;
use super::id::RequestId;
use super::request::Asked;
use super::respond::Told;
use super::visit::Visit;
use crate::model::cache::CdnFields;

/// Where fields are written to: the bytes of a head, or a map.
pub trait Sink {
    /// Adds a field whose value is these parts.
    fn put(&mut self, name: &'static str, value: &[&[u8]]);
}

impl Sink for BytesMut {
    fn put(&mut self, name: &'static str, value: &[&[u8]]) {
        self.extend_from_slice(name.as_bytes());
        self.extend_from_slice(b": ");
        for part in value {
            self.extend_from_slice(part);
        }
        self.extend_from_slice(b"\r\n");
    }
}

impl Sink for RequestHeader {
    fn put(&mut self, name: &'static str, value: &[&[u8]]) {
        // What is written here was judged to be text when it came.
        let _ = HeaderValue::from_bytes(&value.concat()).map(|value| self.append_header(name, value));
    }
}

impl Sink for ResponseHeader {
    fn put(&mut self, name: &'static str, value: &[&[u8]]) {
        let _ = HeaderValue::from_bytes(&value.concat()).map(|value| self.append_header(name, value));
    }
}

impl Sink for HeaderMap {
    fn put(&mut self, name: &'static str, value: &[&[u8]]) {
        let name = known(name).or_else(|| HeaderName::from_bytes(name.as_bytes()).ok());
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_bytes(&value.concat())) {
            self.append(name, value);
        }
    }
}

/// What every answer says: names that need not be read each time.
fn known(name: &'static str) -> Option<HeaderName> {
    const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
    match name {
        "Date" => Some(header::DATE),
        "X-Request-Id" => Some(REQUEST_ID),
        "Cache-Status" => Some(CACHE_STATUS),
        "Via" => Some(header::VIA),
        _ => None,
    }
}

/// The head of an answer as pingora takes it, without the spelling of its names.
pub fn whole(status: StatusCode, headers: HeaderMap) -> Box<ResponseHeader> {
    let mut response = http::Response::new(());
    (*response.status_mut(), *response.headers_mut()) = (status, headers);
    Box::new(ResponseHeader::from(response.into_parts().0))
}

/// Whether a field of a client's goes no further: it is its connection's own, or the edge says it better.
pub fn is_dropped(kind: Kind, is_trusted: bool) -> bool {
    let is_said_anew = matches!(kind, Kind::ForwardedFor | Kind::Forwarded | Kind::RequestId);
    kind.is_hop_by_hop() || (kind.is_claim() && (!is_trusted || is_said_anew))
}

/// Says to an app who asks. What a trusted proxy said stands before it, where there is a list.
pub fn identify(to: &mut impl Sink, asked: &Asked<'_>, visit: &Visit, id: &RequestId) {
    let peer = visit.peer_text();
    let has = |name| asked.is_trusted && asked.fields.has(name);
    joined(to, asked, "X-Forwarded-For", &[peer.as_bytes()]);
    if !has("x-forwarded-proto") {
        to.put("X-Forwarded-Proto", &[asked.scheme.as_bytes()]);
    }
    if !has("x-forwarded-host") {
        to.put("X-Forwarded-Host", &[asked.authority.as_bytes()]);
    }
    let (before, after): (&[u8], &[u8]) = if asked.peer.is_ipv6() { (b"for=\"[", b"]\"") } else { (b"for=", b"") };
    let (scheme, authority) = (asked.scheme.as_bytes(), asked.authority.as_bytes());
    let element = [before, peer.as_bytes(), after, b";host=\"", authority, b"\";proto=", scheme];
    joined(to, asked, "Forwarded", &element);
    to.put("X-Request-Id", &[id.as_bytes()]);
    to.put("Via", &[b"1.1 opri"]);
}

/// A list field: what a trusted proxy said, and then this element.
fn joined(to: &mut impl Sink, asked: &Asked<'_>, name: &'static str, element: &[&[u8]]) {
    let before = match (asked.is_trusted, name) {
        (false, _) => Vec::new(),
        (true, "Forwarded") => asked.fields.all("forwarded").collect(),
        (true, _) => asked.fields.all("x-forwarded-for").collect(),
    };
    // What is no list would hide what follows it.
    let is_list = name != "Forwarded" || before.iter().all(|said| forwarded::is_list(said));
    if before.is_empty() || !is_list {
        return to.put(name, element);
    }
    let parts: Vec<&[u8]> = before.iter().flat_map(|said| [*said, b", "]).chain(element.iter().copied()).collect();
    to.put(name, &parts);
}

/// Does for a request of pingora's what `fetch` does while it copies a head.
pub fn to_app(header: &mut RequestHeader, passing: &Passing) {
    let kind = |name: &HeaderName| Kind::of(name.as_str().as_bytes());
    // Hop-by-hop fields are pingora's to drop: it reads an upgrade from them.
    let is_gone = |name: &&HeaderName| !kind(name).is_hop_by_hop() && is_dropped(kind(name), passing.is_trusted);
    let gone: Vec<_> = header.headers.keys().filter(is_gone).cloned().collect();
    for name in gone {
        header.remove_header(&name);
    }
    // HTTP/2 may send cookies in crumbs; an HTTP/1 app must see one field (RFC 9113 section 8.2.3).
    if passing.is_http2
        && let Some(cookie) = crumbs(&header.headers)
    {
        let _ = HeaderValue::from_bytes(&cookie).map(|cookie| header.insert_header(header::COOKIE, cookie));
    }
    for (name, value) in &passing.told {
        let _ = header.append_header(*name, value.clone());
    }
    if (header.uri.authority().is_some() || header.raw_path() != passing.target.as_bytes())
        && let Ok(target) = passing.target.parse()
    {
        header.set_uri(target);
    }
    // `Host` goes as it was sent; HTTP/2 sends it as `:authority`.
    let _ = header.insert_header(header::HOST, passing.authority.as_str());
}

/// The crumbs of a cookie as one, when there is more than one.
pub fn crumbs(headers: &HeaderMap) -> Option<Vec<u8>> {
    headers.get_all(header::COOKIE).iter().nth(1)?;
    let crumbs = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    Some(crumbs.collect::<Vec<_>>().join(&b"; "[..]))
}

/// What an app is to be told of a request that goes pingora's way, kept until pingora asks.
#[derive(Debug)]
pub struct Passing {
    told: Vec<(&'static str, HeaderValue)>,
    authority: String,
    target: String,
    is_trusted: bool,
    is_http2: bool,
}

impl Sink for Vec<(&'static str, HeaderValue)> {
    fn put(&mut self, name: &'static str, value: &[&[u8]]) {
        self.extend(HeaderValue::from_bytes(&value.concat()).map(|value| (name, value)));
    }
}

impl Passing {
    /// `target` is the one by which the app is asked, where that is another than was sent.
    pub fn new(asked: &Asked<'_>, visit: &Visit, id: &RequestId, target: Option<&str>) -> Self {
        let mut told = Vec::new();
        identify(&mut told, asked, visit, id);
        let (authority, target) = (asked.authority.to_owned(), target.unwrap_or(asked.target).to_owned());
        let is_http2 = matches!(asked.fields, Fields::Map(_));
        Self { told, authority, target, is_trusted: asked.is_trusted, is_http2 }
    }
}

/// Says to a client by what way its answer came, and what the edge has to say of it.
pub fn to_client(to: &mut impl Sink, told: Told<'_>) {
    to.put("X-Request-Id", &[told.id.as_bytes()]);
    to.put("Via", &[b"1.1 opri"]);
    if told.is_unlisted {
        to.put("X-Robots-Tag", &[b"noindex"]);
    }
    if let Some(cache) = told.cache {
        cache.put(to);
    }
}

/// Those that conf says to pass or not to pass.
pub const CDN_FIELDS: [HeaderName; 2] =
    [HeaderName::from_static("cdn-cache-control"), HeaderName::from_static("surrogate-control")];

/// Whether a field of an app's goes no further than the edge. Transfer-Encoding is each way's own to judge: the body is
/// framed by it.
pub fn is_kept_back(kind: Kind, passes: CdnFields) -> bool {
    match kind {
        Kind::CdnCacheControl => !passes.cdn_cache_control,
        Kind::SurrogateControl => !passes.surrogate_control,
        Kind::RequestId | Kind::Tags => true,
        kind => kind.is_hop_by_hop() && kind != Kind::TransferEncoding,
    }
}

/// Does for an answer of pingora's what `fetch` does while it copies a head.
pub fn drop_kept_back(header: &mut ResponseHeader, passes: CdnFields) {
    let nominated = nominations(&header.headers);
    let is_own = |name: &HeaderName| is_kept_back(Kind::of(name.as_str().as_bytes()), passes);
    let is_gone = |name: &&HeaderName| is_own(name) || nominated.contains(name);
    let gone: Vec<_> = header.headers.keys().filter(is_gone).cloned().collect();
    for name in gone {
        // What says where the body ends is not the app's to take away.
        if name != header::TRANSFER_ENCODING && name != header::CONTENT_LENGTH {
            header.remove_header(&name);
        }
    }
}

/// Does so for an interim answer, and drops what is only said of an answer with a body, or by the edge.
pub fn drop_of_interim(header: &mut ResponseHeader) {
    drop_kept_back(header, CdnFields::default());
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::DATE] {
        header.remove_header(&name);
    }
}

/// The fields that `Connection` names (RFC 9110 section 7.6.1).
pub fn nominations(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::id::RequestIds;
    use super::super::request::tests::asking;
    use super::*;

    const CLAIMS: &str = "Host: Shop.test:80\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: evil.test\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 3.3.3.3\r\nForwarded: for=4.4.4.4\r\n\
         X-Request-Id: theirs\r\nTraceparent: 00-1-1-01\r\nAccept: */*\r\n";

    /// The fields that an app is shown, by both ways: what is kept of the client's, and what is said.
    fn seen(is_trusted: bool) -> Vec<(String, String)> {
        asking("/", CLAIMS, is_trusted, |asked| {
            let asked = asked.unwrap();
            let visit = Visit::new("10.0.0.9:5".parse().unwrap(), "127.0.0.1:1".parse().unwrap(), None);
            let id = RequestIds::new().of(asked.fields, is_trusted);
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            for line in CLAIMS.lines() {
                let (name, value) = line.trim().split_once(": ").unwrap();
                request.append_header(name.to_owned(), value).unwrap();
            }
            to_app(&mut request, &Passing::new(&asked, &visit, &id, None));
            let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
            request.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
        })
    }

    fn values<'s>(seen: &'s [(String, String)], name: &str) -> Vec<&'s str> {
        seen.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str()).collect()
    }

    #[test]
    fn a_client_cannot_say_who_it_is() {
        let seen = seen(false);
        assert_eq!(values(&seen, "x-forwarded-for"), ["10.0.0.9"]);
        assert_eq!(values(&seen, "x-forwarded-proto"), ["http"]);
        assert_eq!(values(&seen, "x-forwarded-host"), ["Shop.test:80"]);
        assert_eq!(values(&seen, "forwarded"), ["for=10.0.0.9;host=\"Shop.test:80\";proto=http"]);
        assert_eq!(values(&seen, "host"), ["Shop.test:80"]);
        assert_ne!(values(&seen, "x-request-id"), ["theirs"]);
        assert_eq!(values(&seen, "accept"), ["*/*"]);
        for gone in ["x-forwarded-port", "x-real-ip", "traceparent"] {
            assert!(values(&seen, gone).is_empty(), "{gone}");
        }
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_added_to() {
        let seen = seen(true);
        assert_eq!(values(&seen, "x-forwarded-for"), ["1.1.1.1, 10.0.0.9"]);
        assert_eq!(values(&seen, "x-forwarded-proto"), ["https"]);
        assert_eq!(values(&seen, "x-forwarded-host"), ["evil.test"]);
        assert_eq!(values(&seen, "forwarded"), ["for=4.4.4.4, for=10.0.0.9;host=\"Shop.test:80\";proto=https"]);
        assert_eq!(values(&seen, "x-request-id"), ["theirs"]);
        assert_eq!(values(&seen, "traceparent"), ["00-1-1-01"]);
    }
}
