//! What can go wrong for a visitor: the only place that turns a failure into a status and a page.
//!
//! `answer`, `door`, `fetch` and `gateway` name a `Failure`; nothing else in the edge picks a status of its own. The pages say
//! what happened in words a visitor understands, and never anything about the machine behind.

use std::io;

use bytes::Bytes;
use http::StatusCode;
use pingora::{Error, ErrorSource, ErrorType};

use crate::model::hold::Notice;

/// How long a visitor of a site with nothing running is asked to wait before trying again, in seconds.
const RETRY_AFTER: u32 = 5;
/// The same for a site in maintenance: people work more slowly.
const MAINTENANCE: u32 = 60;

const HTML: &str = "text/html; charset=utf-8";
/// pingora's name for a chunk that is none.
const INVALID_CHUNK: &str = "InvalidChunk";

/// Why a request gets no answer from an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The head breaks the rules of HTTP.
    Malformed,
    /// No Host, more than one, or one that is no host.
    BadHost,
    /// No route knows the host.
    UnknownHost,
    /// The head was not whole within its time.
    HeadTimeout,
    /// The next part of the body did not come in time.
    BodyTimeout,
    BodyTooLarge,
    HeadTooLarge,
    TargetTooLong,
    /// A method that no registry knows.
    NotImplemented,
    /// Neither HTTP/1.0 nor HTTP/1.1, in an HTTP/1 head.
    Version,
    /// The host is not one that the connection's certificate stands for.
    Misdirected,
    /// CONNECT and TRACE, and PURGE where nobody may.
    Method,
    /// PURGE without the secret.
    Unauthorized,
    /// More than the site takes in a second; after so many seconds there is room again.
    TooMany(u32),
    /// Known, with nothing running, or nobody listens where it should.
    Absent,
    /// Paused by a person for longer than a request waits, or for more requests than may.
    Paused,
    /// Taken away by a person for a while.
    Maintenance,
    /// The app broke off, or answered with something that is not HTTP.
    Broken,
    /// The app did not answer in time.
    Slow,
    /// The client wants what is stored or nothing, and nothing is that would do.
    NotStored,
}

impl Failure {
    pub fn status(self) -> StatusCode {
        match self {
            Failure::Malformed | Failure::BadHost => StatusCode::BAD_REQUEST,
            Failure::UnknownHost => StatusCode::NOT_FOUND,
            Failure::HeadTimeout | Failure::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Failure::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Failure::TargetTooLong => StatusCode::URI_TOO_LONG,
            Failure::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Failure::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Failure::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Failure::Method => StatusCode::METHOD_NOT_ALLOWED,
            Failure::Unauthorized => StatusCode::UNAUTHORIZED,
            Failure::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Failure::Absent | Failure::Paused | Failure::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
            Failure::Broken => StatusCode::BAD_GATEWAY,
            // RFC 9111 section 5.2.1.7.
            Failure::Slow | Failure::NotStored => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Failure::Malformed => "malformed",
            Failure::BadHost => "bad_host",
            Failure::UnknownHost => "unknown_host",
            Failure::HeadTimeout => "header_timeout",
            Failure::BodyTimeout => "body_timeout",
            Failure::BodyTooLarge => "body_max",
            Failure::HeadTooLarge => "header_bytes",
            Failure::TargetTooLong => "target_bytes",
            Failure::NotImplemented => "unknown_method",
            Failure::Version => "version",
            Failure::Misdirected => "misdirected",
            Failure::Method => "method",
            Failure::Unauthorized => "unauthorized",
            Failure::TooMany(_) => "rate",
            Failure::Absent => "absent",
            Failure::Paused => "paused",
            Failure::Maintenance => "maintenance",
            Failure::Broken => "upstream_broken",
            Failure::Slow => "upstream_timeout",
            Failure::NotStored => "not_stored",
        }
    }

    /// After how many seconds it is worth to try again, where that can be said.
    pub fn retry_after(self) -> Option<u32> {
        match self {
            Failure::Absent | Failure::Paused => Some(RETRY_AFTER),
            Failure::Maintenance => Some(MAINTENANCE),
            Failure::TooMany(seconds) => Some(seconds),
            _ => None,
        }
    }

    /// Whether what follows on the connection cannot be trusted to be the next request.
    pub fn closes(self) -> bool {
        let is_sound = matches!(
            self,
            Failure::BadHost
                | Failure::UnknownHost
                | Failure::Misdirected
                | Failure::Unauthorized
                | Failure::TooMany(_)
                | Failure::Absent
                | Failure::Paused
                | Failure::Maintenance
                | Failure::Broken
                | Failure::Slow
                | Failure::NotStored
        );
        !is_sound
    }

    /// For whoever is refused.
    pub fn explanation(self) -> &'static str {
        match self {
            Failure::Malformed => "The request could not be understood.",
            Failure::BadHost => "The request does not say which site it is for.",
            Failure::UnknownHost => "There is no site with this name here.",
            Failure::HeadTimeout | Failure::BodyTimeout => "The request took too long to arrive.",
            Failure::BodyTooLarge => "What was sent is larger than this site takes.",
            Failure::HeadTooLarge => "The header of the request is larger than this server takes.",
            Failure::TargetTooLong => "The address of the request is longer than this server takes.",
            Failure::NotImplemented => "This server does not know requests of this kind.",
            Failure::Version => "This server speaks HTTP/1.0, HTTP/1.1 and HTTP/2.",
            Failure::Misdirected => "This connection was made for another site.",
            Failure::Method => "This server does not take requests of this kind.",
            Failure::Unauthorized => "This request must show a secret, and has not.",
            Failure::TooMany(_) => "This site was asked too often in a moment. Please try again soon.",
            Failure::Absent => "This site is not running at the moment. Please try again soon.",
            Failure::Paused => "This site is paused for a moment. Please try again soon.",
            Failure::Maintenance => "This site is being worked on. Please try again later.",
            Failure::Broken => "This site broke off before it had answered. Please try again.",
            Failure::Slow => "This site did not answer in time. Please try again.",
            Failure::NotStored => "This server keeps no answer to this request that is fresh enough.",
        }
    }
}

/// What pingora's errors mean for the visitor; `None` when the visitor is gone and nobody is left to tell.
pub fn of_proxy(error: &Error) -> Option<Failure> {
    use ErrorType::{ConnectRefused, ConnectTimedout, ReadTimedout, WriteTimedout};
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ErrorType::InvalidHTTPHeader | ErrorType::Custom(INVALID_CHUNK)) => {
            Some(Failure::Malformed)
        }
        // What `stream` says of a chunk that is none.
        (ErrorSource::Downstream, _) if io_kind(error) == Some(io::ErrorKind::InvalidData) => Some(Failure::Malformed),
        // What `wire` says of a client that is too slow with its body.
        (ErrorSource::Downstream, _) if io_kind(error) == Some(io::ErrorKind::TimedOut) => Some(Failure::BodyTimeout),
        (ErrorSource::Downstream, ReadTimedout) => Some(Failure::BodyTimeout),
        (ErrorSource::Downstream, _) => None,
        (_, ConnectRefused) => Some(Failure::Absent),
        (_, ErrorType::ConnectError | ErrorType::ConnectNoRoute) if is_nobody_there(error) => Some(Failure::Absent),
        (_, ConnectTimedout | ReadTimedout | WriteTimedout) => Some(Failure::Slow),
        _ => Some(Failure::Broken),
    }
}

/// Whether an error after connecting speaks against the app. A connection that was used before may just have been closed
/// for its age, which says nothing.
pub fn is_of_app(error: &Error, is_reused: bool) -> bool {
    use ErrorType::{ConnectionClosed, H2Error, ReadError, WriteError};
    let may_be_of_age = matches!(error.etype(), ConnectionClosed | H2Error | ReadError | WriteError);
    *error.esource() == ErrorSource::Upstream && !(is_reused && may_be_of_age)
}

/// Whether a connection failed because no process listens: its socket file is gone, or nobody accepts on it.
fn is_nobody_there(error: &Error) -> bool {
    matches!(io_kind(error), Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound))
}

/// The kind of the system's own error behind one of pingora's, if there is one.
fn io_kind(error: &Error) -> Option<io::ErrorKind> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.root_cause());
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        cause = error.source();
    }
    None
}

/// A page about it and its content type: JSON when the visitor's `Accept` names that and not HTML.
pub fn page(failure: Failure, accept: &str, id: &str) -> (&'static str, Bytes) {
    page_saying(failure.explanation(), failure, accept, id)
}

/// The page of a site in maintenance: the project's own, or ours with its words.
pub fn notice(notice: &Notice, accept: &str, id: &str) -> (&'static str, Bytes) {
    match &notice.page {
        Some(page) if !prefers_json(accept) => (HTML, page.clone().into()),
        _ => {
            let text = notice.message.as_deref().unwrap_or(Failure::Maintenance.explanation());
            page_saying(text, Failure::Maintenance, accept, id)
        }
    }
}

fn page_saying(text: &str, failure: Failure, accept: &str, id: &str) -> (&'static str, Bytes) {
    let status = failure.status();
    let (code, reason) = (status.as_u16(), status.canonical_reason().unwrap_or("Error"));
    if prefers_json(accept) {
        let text = serde_json::Value::from(text);
        let body = format!("{{\"status\":{code},\"error\":\"{reason}\",\"message\":{text},\"request\":\"{id}\"}}\n");
        return ("application/json", body.into());
    }
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let body = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{code} {reason}</title>\n\
         <style>body{{font:1.1em/1.5 system-ui,sans-serif;max-width:34em;margin:15vh auto;padding:0 1em}}\
         small{{color:#777}}</style>\n<h1>{reason}</h1>\n<p>{text}</p>\n<p><small>{code} · request {id}</small></p>\n</html>\n"
    );
    (HTML, body.into())
}

fn prefers_json(accept: &str) -> bool {
    match (accept.find("json"), accept.find("text/html")) {
        (Some(json), Some(html)) => json < html,
        (json, _) => json.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_the_projects_own_page_or_ours_with_its_words() {
        let of = |page: Option<&str>, accept: &str| {
            let notice = Notice { message: Some("<b> \"soon\"".to_owned()), page: page.map(str::to_owned) };
            String::from_utf8(super::notice(&notice, accept, "1").1.into()).unwrap()
        };
        assert_eq!(of(Some("<p>own"), "*/*"), "<p>own");
        assert!(of(None, "*/*").contains("<p>&lt;b&gt; \"soon\"</p>"));
        let json: serde_json::Value = serde_json::from_str(&of(Some("<p>own"), "application/json")).unwrap();
        assert_eq!(json["message"], "<b> \"soon\"");
        assert!(page(Failure::Maintenance, "", "1").1.starts_with(b"<!doctype"));
    }

    #[test]
    fn a_page_is_json_only_for_those_who_ask_for_it() {
        let kind = |accept: &str| page(Failure::Absent, accept, "1").0;
        assert_eq!(kind("application/json"), "application/json");
        assert_eq!(kind("application/problem+json, */*"), "application/json");
        assert!(kind("text/html,application/json;q=0.9").starts_with("text/html"));
        assert!(kind("*/*").starts_with("text/html"));
    }
}
