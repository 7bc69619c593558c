//! `application/x-www-form-urlencoded`, read strictly: the bytes a signature covers are the bytes that are parsed.
//!
//! Called by `travis`, `github` and `gitea`. Nothing is repaired: a lone `%` or a second `payload` refuses the delivery, because a
//! reader that guesses may verify one text and obey another.

use super::Refusal;

/// The bytes of the one field `payload`, decoded once (`+` is a space).
pub fn payload(body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut found = None;
    for field in body.split(|byte| *byte == b'&') {
        let (name, value) = match field.iter().position(|byte| *byte == b'=') {
            Some(at) => (&field[..at], &field[at + 1..]),
            None => (field, &field[..0]),
        };
        if decode(name)? != b"payload" {
            continue;
        }
        if found.replace(decode(value)?).is_some() {
            return Err(Refusal::malformed("more than one `payload` field"));
        }
    }
    found.ok_or_else(|| Refusal::malformed("no `payload` field"))
}

fn decode(text: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => match (bytes.next().and_then(digit), bytes.next().and_then(digit)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(Refusal::malformed("a `%` without its two digits")),
            },
            other => *other,
        });
    }
    Ok(decoded)
}

fn digit(byte: &u8) -> Option<u8> {
    char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_payload_is_decoded_once() {
        assert_eq!(payload(b"payload=a+b%2B%25%32%35&x=1").unwrap(), b"a b+%25");
        assert_eq!(payload(b"x&%70ayload=%ff").unwrap(), [0xff]);
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for odd in ["", "x=1", "payload=1&payload=1", "payload=1&%70ayload=2", "payload=%", "payload=%4", "payload=%zz"]
        {
            assert!(payload(odd.as_bytes()).is_err(), "{odd}");
        }
    }
}
