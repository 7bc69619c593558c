//! Targets: a target that is taken leaves as a path, and an absolute one names the host that it was taken for.
#![no_main]

use http::Uri;
use libfuzzer_sys::fuzz_target;
use open_prime::edge::strict::request::{in_origin_form, judge};
use open_prime::model::machine::Limits;

fuzz_target!(|target: &[u8]| {
    // With a line's end in it, it is a head of its own.
    if target.windows(2).any(|pair| pair == b"\r\n") {
        return;
    }
    let bytes = [b"GET ", target, b" HTTP/1.1\r\nHost: shop.test\r\n\r\n"].concat();
    let Ok(Some(head)) = judge(&bytes, &Limits::default()) else { return };
    // Whatever stands in a target, the head ends where it was meant to.
    assert_eq!((head.length, head.target(&bytes).as_bytes()), (bytes.len(), target));
    let uri: Uri = head.target(&bytes).parse().unwrap_or_default();
    if !head.is_absolute {
        assert!(target.starts_with(b"/"));
        return;
    }
    let Ok(settled) = in_origin_form(&head, &bytes) else { return };
    let again = judge(&settled, &Limits::default()).unwrap().unwrap();
    let path = again.target(&settled);
    assert!(!again.is_absolute && path.starts_with('/') && again.length == settled.len());
    assert_eq!(uri.host().map(|host| host.trim_end_matches('.').to_ascii_lowercase()).as_deref(), Some("shop.test"));
    assert!(uri.authority().is_some_and(|authority| !authority.as_str().contains('@')));
    let theirs = uri.path_and_query().unwrap().as_str();
    assert_eq!(path, if theirs.starts_with('/') { theirs.to_owned() } else { format!("/{theirs}") });
});
