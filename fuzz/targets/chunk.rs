//! Chunked bodies: the verdict does not depend on how the bytes come, and a parser that was written for nothing but to be
//! plain takes the same bodies with the same data.
#![no_main]

use libfuzzer_sys::fuzz_target;
use open_prime::edge::strict::chunks::{Broken, Chunks};

fuzz_target!(|input: &[u8]| {
    // The first byte says how large the parts are in which the others come.
    let Some((part, bytes)) = input.split_first() else { return };
    let at_once = read(bytes, bytes.len().max(1));
    assert_eq!(at_once, read(bytes, usize::from(*part).max(1)));
    assert_eq!(at_once, read(bytes, 1));
    // Bounds on what is long and means nothing are the one thing that the plain parser does not know.
    if bytes.len() < 256 {
        assert_eq!(at_once, plain(bytes));
    }
});

/// The data and the length of a whole body.
type Body = Result<Option<(Vec<u8>, usize)>, Broken>;

fn read(bytes: &[u8], part: usize) -> Body {
    let (mut chunks, mut data, mut passed) = (Chunks::new(), Vec::new(), 0);
    for part in bytes.chunks(part) {
        let mut at = 0;
        while at < part.len() && !chunks.is_done() {
            let step = chunks.step(&part[at..])?;
            let from = at + step.framing;
            data.extend_from_slice(&part[from..from + step.data]);
            at = from + step.data;
        }
        passed += at;
    }
    Ok(chunks.is_done().then_some((data, passed)))
}

fn plain(bytes: &[u8]) -> Body {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let Some((line, next)) = line(bytes, at)? else {
            let begun = &bytes[at..];
            let digits = begun.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let rest = &begun[digits..];
            let may_become = match rest.first() {
                None => true,
                Some(b'\r') => digits > 0,
                Some(b';') => digits > 0 && is_text(rest),
                Some(_) => false,
            };
            return if may_become && digits <= 15 { Ok(None) } else { Err(Broken) };
        };
        at = next;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let is_size = (1..=15).contains(&digits) && matches!(line.get(digits), None | Some(b';'));
        if !is_size || !is_text(&line[digits..]) {
            return Err(Broken);
        }
        let size = u64::from_str_radix(std::str::from_utf8(&line[..digits]).unwrap(), 16).unwrap();
        if size == 0 {
            return trailers(bytes, at).map(|end| end.map(|end| (data, end)));
        }
        let here = usize::try_from(size).unwrap().min(bytes.len() - at);
        data.extend_from_slice(&bytes[at..at + here]);
        at += here;
        match (here as u64 == size, &bytes[at..]) {
            (false, _) | (true, [] | [b'\r']) => return Ok(None),
            (true, [b'\r', b'\n', ..]) => at += 2,
            (true, _) => return Err(Broken),
        }
    }
}

fn trailers(bytes: &[u8], mut at: usize) -> Result<Option<usize>, Broken> {
    loop {
        let (line, next) = match line(bytes, at)? {
            Some((b"", next)) => return Ok(Some(next)),
            Some((line, next)) => (line, Some(next)),
            None => (&bytes[at..], None),
        };
        let line = line.strip_suffix(b"\r").filter(|_| next.is_none()).unwrap_or(line);
        let name = line.iter().position(|byte| *byte == b':');
        let is_name =
            |name: &[u8]| name.iter().all(|byte| b"!#$%&'*+-.^_`|~".contains(byte) || byte.is_ascii_alphanumeric());
        let is_field = match name {
            Some(0) => false,
            Some(colon) => is_name(&line[..colon]) && is_text(&line[colon..]),
            None => next.is_none() && is_name(line) && (line.is_empty() || bytes.last() != Some(&b'\r')),
        };
        match (is_field, next) {
            (true, Some(next)) => at = next,
            (true, None) => return Ok(None),
            (false, _) => return Err(Broken),
        }
    }
}

/// A line that ends with CR LF and has neither in it.
fn line(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, Broken> {
    let rest = &bytes[at..];
    match rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        None => Ok(None),
        Some(end) if rest[end] == b'\r' && end + 1 == rest.len() => Ok(None),
        Some(end) if rest[end..].starts_with(b"\r\n") => Ok(Some((&rest[..end], at + end + 2))),
        Some(_) => Err(Broken),
    }
}

fn is_text(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    bytes.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}
