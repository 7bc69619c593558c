//! What proxies in front say about a visitor: `X-Forwarded-For` and `Forwarded` (RFC 7239).
//!
//! Pure. Called by `visitor` and `headers` for the fields of trusted proxies. The rule: a word counts only as far as those
//! who handed it on are trusted, and no word hides the ones behind it.

use std::net::{IpAddr, SocketAddr};

use super::strict::is_token;

/// The address nearest to `peer` that is no trusted proxy's, by the words of those that are. `said` are the values of
/// `X-Forwarded-For` in their order.
pub fn nearest<'s>(
    peer: IpAddr,
    said: impl DoubleEndedIterator<Item = &'s str>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> IpAddr {
    let mut visitor = peer;
    for word in said.rev().flat_map(|value| value.rsplit(',')) {
        if !is_trusted(visitor) {
            break;
        }
        // What is no address was not written by a proxy that keeps to the rules: the last that did is asked for.
        let Some(before) = address(word.trim()) else { break };
        visitor = before;
    }
    visitor
}

/// An address, which some proxies write with its port.
fn address(word: &str) -> Option<IpAddr> {
    let bare = word.strip_prefix('[').and_then(|word| word.strip_suffix(']')).unwrap_or(word);
    let address = bare.parse::<IpAddr>().ok().or_else(|| Some(word.parse::<SocketAddr>().ok()?.ip()));
    address.map(|address| address.to_canonical())
}

/// Whether a value of `Forwarded` is a list to which another element can be added: a quote that is never closed would take
/// the next element in (RFC 7239 section 4).
pub fn is_list(value: &[u8]) -> bool {
    let mut rest = value;
    loop {
        rest = after_white(rest);
        let name = rest.iter().position(|byte| !is_token(*byte)).unwrap_or(rest.len());
        if name > 0 {
            match after_pair(rest, name) {
                Some(after) => rest = after_white(after),
                None => return false,
            }
        }
        match rest.split_first() {
            None => return true,
            Some((b',' | b';', after)) => rest = after,
            Some(_) => return false,
        }
    }
}

/// What follows `name=value`, where the name ends at `name`.
fn after_pair(rest: &[u8], name: usize) -> Option<&[u8]> {
    let value = rest.get(name..)?.strip_prefix(b"=")?;
    if let Some(mut quoted) = value.strip_prefix(b"\"") {
        loop {
            quoted = match quoted {
                [b'"', rest @ ..] => return Some(rest),
                [b'\\', _, rest @ ..] | [_, rest @ ..] => rest,
                [] => return None,
            };
        }
    }
    let end = value.iter().position(|byte| !is_token(*byte)).unwrap_or(value.len());
    value.get(end..).filter(|_| end > 0)
}

fn after_white(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_visitor_is_the_nearest_that_is_no_trusted_proxy() {
        let of = |peer: &str, said: &[&str]| {
            let is_trusted = |address: IpAddr| address.to_string().starts_with("10.");
            nearest(peer.parse().unwrap(), said.iter().copied(), is_trusted).to_string()
        };
        assert_eq!(of("192.0.2.1", &["1.1.1.1"]), "192.0.2.1");
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(of("10.0.0.1", &["9.9.9.9, 1.1.1.1"]), "1.1.1.1");
        assert_eq!(of("10.0.0.1", &["1.1.1.1", "10.0.0.2 ,10.0.0.3"]), "1.1.1.1");
        assert_eq!(of("10.0.0.1", &["1.1.1.1:80"]), "1.1.1.1");
        assert_eq!(of("10.0.0.1", &["[2001:db8::1]:80"]), "2001:db8::1");
        assert_eq!(of("10.0.0.1", &["1.1.1.1, unknown, 10.0.0.2"]), "10.0.0.2");
    }

    #[test]
    fn a_list_ends_where_it_can_go_on() {
        let lists = [
            "",
            "for=1.1.1.1",
            "for=1.1.1.1;proto=https, for=\"[2001:db8::1]:80\";host=a",
            "a=\"b\\\"c,d\" , e=f",
            ", ,a=b;",
        ];
        for list in lists {
            assert!(is_list(list.as_bytes()), "{list:?}");
        }
        for odd in ["for", "for=", "for=\"a", "for=\"a\\\"", "for=a b", "for =a", "=a", "for=a\"b\"", "a=b,c", "[::1]"]
        {
            assert!(!is_list(odd.as_bytes()), "{odd:?}");
        }
    }
}
