//! PROXY headers: nothing behind one is looked at, the verdict does not depend on how the bytes come, and what is taken means
//! the same once it is written anew, in either version.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use open_prime::edge::proxy_protocol::{HEADER_MAX, Origin, parse};

fuzz_target!(|bytes: &[u8]| {
    let verdict = parse(bytes);
    for cut in (0..bytes.len().min(300)).chain([bytes.len().saturating_sub(1)]) {
        match parse(&bytes[..cut]) {
            Ok(Some(early)) => assert_eq!(verdict, Ok(Some(early))),
            Ok(None) => {}
            Err(_) => assert!(verdict.is_err(), "refused too early"),
        }
    }
    assert!(verdict != Ok(None) || bytes.len() < HEADER_MAX, "waited for more than there may be");
    let Ok(Some(header)) = verdict else { return };
    assert!(header.length <= bytes.len().min(HEADER_MAX));
    assert_eq!(parse(&bytes[..header.length]), Ok(Some(header)));
    assert_eq!(parse(&[&bytes[..header.length], b"\r\n\r\nPROXY "].concat()), Ok(Some(header)));
    let Origin::Visitor { source, destination } = header.origin else { return };
    assert_eq!(source.is_ipv4(), destination.is_ipv4());
    for anew in [version_1(source, destination), version_2(source, destination)] {
        let again = parse(&anew).unwrap().unwrap();
        assert_eq!((again.length, again.origin), (anew.len(), header.origin));
    }
});

fn version_1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

fn version_2(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let address = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let block = [address(source.ip()), address(destination.ip()), ports].concat();
    let family = if source.is_ipv4() { 0x11 } else { 0x21 };
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[0x21, family][..], &length, &block].concat()
}
