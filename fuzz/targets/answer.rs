//! Heads of answers: the verdict does not depend on how the bytes come, and pingora's parser reads what is taken the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use open_prime::edge::strict::response::judge;

fuzz_target!(|bytes: &[u8]| {
    let verdict = judge(bytes, false);
    for cut in [1, 2, 3, 5, 8, 13, 21, 34, 55].map(|step| bytes.len().saturating_sub(step)) {
        match judge(&bytes[..cut], false) {
            Ok(Some(early)) => assert_eq!(verdict.as_ref().unwrap().as_ref().unwrap().length, early.length),
            Ok(None) => {}
            Err(_) => assert!(verdict.is_err(), "refused too early"),
        }
    }
    let Ok(Some(head)) = verdict else { return };
    let bytes = &bytes[..head.length];
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut answer = httparse::Response::new(&mut fields);
    assert_eq!(answer.parse(bytes).unwrap(), httparse::Status::Complete(head.length));
    assert_eq!(answer.code, Some(head.status.as_u16()));
    let theirs = answer.headers.iter().map(|field| (field.name.as_bytes(), field.value.trim_ascii()));
    assert!(head.lines(bytes).fields().eq(theirs));
});
