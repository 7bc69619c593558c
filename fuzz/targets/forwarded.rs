//! What proxies say about a visitor: nobody who is not trusted is believed, and no list hides what is added to it.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use open_prime::edge::forwarded::{is_list, nearest};

const OURS: &str = "for=192.0.2.7;host=\"a:80\";proto=http";

fuzz_target!(|text: &str| {
    let said: Vec<&str> = text.split('\n').collect();
    let is_trusted = |address: IpAddr| matches!(address, IpAddr::V4(address) if address.octets()[0] == 10);
    let peer: IpAddr = "10.0.0.1".parse().unwrap();
    let visitor = nearest(peer, said.iter().copied(), is_trusted);
    let words: Vec<&str> = said.iter().flat_map(|value| value.split(',')).map(str::trim).collect();
    // Whoever is believed to be the visitor was named, and everybody behind it is a trusted proxy.
    let is_it = |word: &&str| address(word) == Some(visitor);
    if visitor != peer {
        let named = words.iter().rposition(|word| is_it(word)).unwrap();
        assert!(words[named + 1..].iter().all(|word| is_trusted(address(word).unwrap())));
    }
    let stranger: IpAddr = "192.0.2.1".parse().unwrap();
    assert_eq!(nearest(stranger, said.iter().copied(), is_trusted), stranger);
    // Another proxy in front changes nothing of what those before it said.
    let more: Vec<&str> = said.iter().copied().chain(["10.9.9.9"]).collect();
    let again = nearest(peer, more.iter().copied(), is_trusted);
    assert!(again == visitor || (visitor == peer && again == "10.9.9.9".parse::<IpAddr>().unwrap()));
    for value in said {
        assert_eq!(is_list(value.as_bytes()), elements(value).is_some(), "{value:?}");
        if let Some(before) = elements(value) {
            let after = elements(&format!("{value}, {OURS}")).unwrap();
            assert_eq!(after.last().map(String::as_str), Some(OURS));
            assert_eq!(after.len(), before.len() + 1);
        }
    }
});

fn address(word: &str) -> Option<IpAddr> {
    let bare = word.trim_start_matches('[').trim_end_matches(']');
    let plain = bare.parse().ok().filter(|_| word.len() == bare.len() || (word.len() == bare.len() + 2));
    let address: Option<IpAddr> = plain.or_else(|| Some(word.parse::<std::net::SocketAddr>().ok()?.ip()));
    address.map(|address| address.to_canonical())
}

/// The elements of a list by RFC 7239, character by character; `None` when it is none.
fn elements(value: &str) -> Option<Vec<String>> {
    let (mut elements, mut element, mut is_quoted, mut is_escaped) = (Vec::new(), String::new(), false, false);
    for c in value.chars() {
        match (is_quoted, c) {
            (true, _) if is_escaped => is_escaped = false,
            (true, '\\') => is_escaped = true,
            (_, '"') => is_quoted = !is_quoted,
            (false, ',') => {
                elements.push(std::mem::take(&mut element));
                continue;
            }
            _ => {}
        }
        element.push(c);
    }
    elements.push(element);
    let is_sound = !is_quoted && elements.iter().all(|element| is_element(element));
    is_sound.then(|| elements.iter().map(|element| element.trim_matches([' ', '\t']).to_owned()).collect())
}

fn is_element(element: &str) -> bool {
    let (mut pairs, mut pair, mut is_quoted, mut is_escaped) = (Vec::new(), String::new(), false, false);
    for c in element.chars() {
        match (is_quoted, c) {
            (true, _) if is_escaped => is_escaped = false,
            (true, '\\') => is_escaped = true,
            (_, '"') => is_quoted = !is_quoted,
            (false, ';') => {
                pairs.push(std::mem::take(&mut pair));
                continue;
            }
            _ => {}
        }
        pair.push(c);
    }
    pairs.push(pair);
    pairs.iter().map(|pair| pair.trim_matches([' ', '\t'])).all(|pair| pair.is_empty() || is_pair(pair))
}

fn is_pair(pair: &str) -> bool {
    let is_token = |text: &str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        !text.is_empty() && text.bytes().all(is_part)
    };
    let Some((name, value)) = pair.split_once('=') else { return false };
    let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    let is_closed_once = inner.is_some_and(|inner| !inner.replace("\\\\", "").replace("\\\"", "").contains('"'));
    is_token(name) && (is_token(value) || is_closed_once)
}
