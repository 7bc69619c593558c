//! Hosts: what is taken is a name or an address that everybody reads the same, whatever was around it.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use open_prime::model::host::{HostName, HostPattern};

fuzz_target!(|text: &str| {
    // What a person writes in conf never panics, and stays itself.
    if let Ok(pattern) = text.parse::<HostPattern>() {
        assert_eq!(pattern.to_string().parse::<HostPattern>(), Ok(pattern));
    }
    let Ok(host) = HostName::from_authority(text) else { return };
    let name = host.as_str();
    assert!(text.is_ascii() && !name.is_empty() && name.len() <= 253);
    assert!(!text.contains(['@', '/', '?', '#', '\\', '%', ',', ' ', '\t', '\r', '\n', '\0', '*']));
    assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
    // One value, in whatever spelling.
    for spelling in [host.in_url(), host.in_url().to_ascii_uppercase(), format!("{}:80", host.in_url())] {
        assert_eq!(HostName::from_authority(&spelling).as_ref(), Ok(&host), "{spelling}");
    }
    match host.as_ip() {
        Some(IpAddr::V6(_)) => assert!(text.starts_with('[')),
        Some(IpAddr::V4(address)) => assert!(text.starts_with(&address.to_string())),
        None => {
            let (before, port) = text.split_once(':').unwrap_or((text, ""));
            assert_eq!(before.strip_suffix('.').unwrap_or(before).to_ascii_lowercase(), name);
            assert!(port.bytes().all(|byte| byte.is_ascii_digit()));
            assert!(name.split('.').all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')));
            assert!(name.rsplit('.').next().unwrap().bytes().any(|byte| !byte.is_ascii_digit()), "an address to some");
        }
    }
    if let Some(parent) = host.parent().filter(|_| host.as_ip().is_none())
        && let Ok(pattern) = format!("*.{parent}").parse::<HostPattern>()
    {
        assert!(pattern.matches(&host));
    }
});
