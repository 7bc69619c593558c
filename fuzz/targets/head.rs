//! Request heads: the verdict does not depend on how the bytes come, what is taken is read the same by the judge of the
//! conformance tests and by pingora's parser, and it means the same once it is written anew.
#![no_main]

#[path = "../../tests/conformance/message.rs"]
#[allow(dead_code)]
mod message;

use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;
use open_prime::edge::strict::request::{Framing, Head, in_origin_form, judge};
use open_prime::model::host::HostName;
use open_prime::model::machine::Limits;

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits::default();
    let verdict = judge(bytes, &limits);
    for cut in [1, 2, 3, 5, 8, 13, 21, 34, 55].map(|step| bytes.len().saturating_sub(step)) {
        match judge(&bytes[..cut], &limits) {
            Ok(Some(early)) => assert_eq!(verdict.as_ref().unwrap().as_ref().unwrap().length, early.length),
            Ok(None) => {}
            Err(_) => assert!(verdict.is_err(), "refused too early"),
        }
    }
    if let Ok(Some(head)) = &verdict {
        taken(head, &bytes[..head.length]);
    }
});

fn taken(head: &Head, bytes: &[u8]) {
    if head.is_absolute {
        if let Ok(path) = in_origin_form(head, bytes) {
            let settled = judge(&path, &Limits::default()).unwrap().unwrap();
            assert!(!settled.is_absolute && settled.framing == head.framing && settled.length == path.len());
            taken(&settled, &path);
        }
        return;
    }
    written_anew(head, bytes);
    by_pingora(head, bytes);
    by_the_judge(head, bytes);
}

fn written_anew(head: &Head, bytes: &[u8]) {
    let mut anew = format!("{} {} HTTP/1.1\r\n", head.method, head.target(bytes)).into_bytes();
    for (name, value) in head.lines(bytes).fields() {
        anew.extend([name, b":", value, b"\r\n"].concat());
    }
    anew.extend(b"\r\n");
    let again = judge(&anew, &Limits::default()).unwrap().unwrap();
    assert_eq!((&again.method, again.framing, again.length), (&head.method, head.framing, anew.len()));
    assert_eq!(again.target(&anew), head.target(bytes));
    assert!(again.lines(&anew).fields().eq(head.lines(bytes).fields()));
}

/// What pingora is given it must read as it is: it makes a `Uri` of the target and the fields of the lines.
fn by_pingora(head: &Head, bytes: &[u8]) {
    let settled = head.settled(bytes);
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut request = httparse::Request::new(&mut fields);
    let status = request.parse(&settled).unwrap();
    assert_eq!(status, httparse::Status::Complete(settled.len()));
    assert_eq!((request.method, request.path), (Some(head.method.as_str()), Some(head.target(bytes))));
    PathAndQuery::try_from(head.target(bytes)).unwrap();
    let kept = |name: &[u8]| !name.eq_ignore_ascii_case(b"upgrade") || head.framing == Framing::WebSocket;
    let ours = head.lines(bytes).fields().filter(|(name, _)| kept(name));
    assert!(ours.eq(request.headers.iter().map(|field| (field.name.as_bytes(), field.value.trim_ascii()))));
}

/// Whoever stands behind and is strict takes it, with the same end.
fn by_the_judge(head: &Head, bytes: &[u8]) {
    let host = head.fields(bytes).text("host").and_then(|host| HostName::from_authority(host).ok());
    let start = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let is_11 = bytes[start..].split(|byte| *byte == b'\r').next().unwrap().ends_with(b"HTTP/1.1");
    let body = match head.framing {
        Framing::Length(length @ 0..100) => b"x".repeat(usize::try_from(length).unwrap()),
        Framing::Chunked => b"0\r\n\r\n".to_vec(),
        Framing::WebSocket => Vec::new(),
        Framing::Length(_) => return,
    };
    // Another spelling of `chunked` goes no further: pingora writes its own, which the conformance tests see.
    let is_spelt_otherwise = head.fields(bytes).first("transfer-encoding").is_some_and(|coding| coding != b"chunked");
    if host.is_none() || !is_11 || is_spelt_otherwise {
        return;
    }
    let whole = [&bytes[start..], &body, b"GET"].concat();
    let (request, length) = message::request(&whole).unwrap().unwrap();
    assert_eq!((request.method.as_str(), request.target.as_str()), (head.method.as_str(), head.target(bytes)));
    assert_eq!(length, whole.len() - 3);
}
