//! Host names: how they are read from conf and from requests, and when a pattern matches one.
//!
//! A request's Host is hostile until it has been through [`HostName::from_authority`]; after that, two spellings of one
//! host are one value.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a host was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    #[error("`{0}` is not a host name")]
    Malformed(String),
    #[error("`{0}` has a wildcard that is not the whole first label")]
    Wildcard(String),
}

/// A host as it is compared: lower-case ASCII (IDNA A-labels), without port and final dot. IPv6 stands without brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

impl HostName {
    /// Reads the Host field of a request, or the authority of its target: `name[:port]`, `[v6][:port]`
    /// (RFC 9110 section 7.2, RFC 3986 section 3.2). User information, odd bytes and empty names are refused.
    pub fn from_authority(authority: &str) -> Result<Self, HostFault> {
        let wrong = || HostFault::Malformed(authority.chars().take(100).collect());
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (v6, after) = rest.split_once(']').ok_or_else(wrong)?;
                let address: Ipv6Addr = v6.parse().map_err(|_| wrong())?;
                let port = match after {
                    "" => None,
                    _ => Some(after.strip_prefix(':').ok_or_else(wrong)?),
                };
                (address.to_string(), port)
            }
            None => {
                let colon = authority.bytes().position(|byte| byte == b':');
                let (name, port) = match colon {
                    Some(colon) => (&authority[..colon], Some(&authority[colon + 1..])),
                    None => (authority, None),
                };
                (ascii_name(name).ok_or_else(wrong)?, port)
            }
        };
        let port_is_good = port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.len() <= 5);
        if port_is_good { Ok(Self(host)) } else { Err(wrong()) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host as the address it spells, if it spells one.
    pub fn as_ip(&self) -> Option<IpAddr> {
        self.0.parse().ok()
    }

    /// The host as it stands in a URL: IPv6 in brackets.
    pub fn in_url(&self) -> String {
        match self.as_ip() {
            Some(IpAddr::V6(v6)) => format!("[{v6}]"),
            _ => self.0.clone(),
        }
    }

    /// What is left after the first label: `b.c` of `a.b.c`.
    pub fn parent(&self) -> Option<&str> {
        self.0.split_once('.').map(|(_, parent)| parent)
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = HostFault;
    /// Reads a name as a person writes it in conf: Unicode is converted by IDNA, a port is a fault.
    fn from_str(text: &str) -> Result<Self, HostFault> {
        let wrong = || HostFault::Malformed(text.chars().take(100).collect());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self(address.to_string()));
        }
        let ascii = idna::domain_to_ascii_strict(text).map_err(|_| wrong())?;
        ascii_name(&ascii).map(Self).ok_or_else(wrong)
    }
}

impl TryFrom<String> for HostName {
    type Error = HostFault;
    fn try_from(text: String) -> Result<Self, HostFault> {
        text.parse()
    }
}

impl From<HostName> for String {
    fn from(host: HostName) -> String {
        host.0
    }
}

/// A host, or `*.host`: exactly one label in front, as in certificates (RFC 9525 section 6.3).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostPattern {
    Exact(HostName),
    /// Holds what follows `*.`.
    Wildcard(HostName),
}

impl HostPattern {
    pub fn matches(&self, host: &HostName) -> bool {
        match self {
            HostPattern::Exact(name) => name == host,
            HostPattern::Wildcard(parent) => host.as_ip().is_none() && host.parent() == Some(parent.as_str()),
        }
    }

    /// The one host that this pattern names, if it names just one.
    pub fn exact(&self) -> Option<&HostName> {
        match self {
            HostPattern::Exact(name) => Some(name),
            HostPattern::Wildcard(_) => None,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Exact(name) => name.fmt(f),
            HostPattern::Wildcard(parent) => write!(f, "*.{parent}"),
        }
    }
}

impl FromStr for HostPattern {
    type Err = HostFault;
    fn from_str(text: &str) -> Result<Self, HostFault> {
        match text.strip_prefix("*.") {
            Some(parent) if parent.parse::<IpAddr>().is_ok() => Err(HostFault::Malformed(text.to_owned())),
            Some(parent) if !parent.contains('*') => Ok(HostPattern::Wildcard(parent.parse()?)),
            _ if text.contains('*') => Err(HostFault::Wildcard(text.to_owned())),
            _ => Ok(HostPattern::Exact(text.parse()?)),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = HostFault;
    fn try_from(text: String) -> Result<Self, HostFault> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> String {
        pattern.to_string()
    }
}

impl From<HostName> for HostPattern {
    fn from(host: HostName) -> Self {
        HostPattern::Exact(host)
    }
}

/// Lower-cases and checks an ASCII name: labels of 1 to 63 bytes of letters, digits, `-` and `_` (which real names of
/// containers and CNAMEs carry), 253 in all; one final dot is dropped.
fn ascii_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &[u8]| {
        (1..=63).contains(&label.len())
            && label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with(b"-")
            && !label.ends_with(b"-")
    };
    let labels = || name.as_bytes().split(|b| *b == b'.');
    let is_name = name.len() <= 253 && labels().all(label);
    // A last label of digits alone is an address written badly (WHATWG URL, "ends in a number"): `127.1`, `0x7f.1`.
    let ends_in_number = || labels().next_back().is_some_and(|last| last.iter().all(u8::is_ascii_digit));
    match is_name {
        false => None,
        true if ends_in_number() => name.parse::<IpAddr>().ok().map(|address| address.to_string()),
        true => Some(name.to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn host(text: &str) -> Option<String> {
        HostName::from_authority(text).ok().map(String::from)
    }

    #[test]
    fn spellings_of_one_host_are_one_value() {
        for spelling in ["shop.test", "SHOP.test", "shop.test.", "shop.test:8080", "ShOp.TeSt.:1"] {
            assert_eq!(host(spelling).as_deref(), Some("shop.test"), "{spelling}");
        }
        assert_eq!(host("[::1]:80").as_deref(), Some("::1"));
        assert_eq!(host("127.0.0.1:80").as_deref(), Some("127.0.0.1"));
    }

    #[test]
    fn odd_authorities_are_refused() {
        let odd = [
            "",
            ".",
            "a..b",
            "a b",
            "a/b",
            "b@a",
            "a,b",
            "a\0",
            "a:x",
            "a:80:80",
            "[::1",
            "[::1]x",
            "::1",
            "ü.test",
            "-a.test",
            "127.1",
            "1.2.3.256",
            "a:123456",
            "*.test",
        ];
        for text in odd {
            assert_eq!(host(text), None, "{text:?}");
        }
    }

    #[test]
    fn conf_takes_unicode_and_no_port() {
        assert_eq!("בגרות.test".parse::<HostName>().map(|h| h.as_str().starts_with("xn--")), Ok(true));
        assert!("shop.test:80".parse::<HostName>().is_err());
    }

    #[test]
    fn a_wildcard_stands_for_exactly_one_label() {
        let pattern: HostPattern = "*.shop.test".parse().unwrap();
        let matches = |name: &str| pattern.matches(&HostName::from_authority(name).unwrap());
        assert!(matches("a.shop.test") && matches("A.SHOP.TEST."));
        assert!(!matches("shop.test") && !matches("a.b.shop.test") && !matches("ashop.test"));
        assert!("a.*.test".parse::<HostPattern>().is_err());
        assert!("*".parse::<HostPattern>().is_err());
    }

    proptest! {
        #[test]
        fn no_authority_panics_and_a_good_one_is_a_fixed_point(text in "\\PC{0,40}") {
            if let Ok(first) = HostName::from_authority(&text) {
                let again = HostName::from_authority(&first.in_url()).unwrap();
                prop_assert_eq!(&again, &first);
                prop_assert!(first.as_str().bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()));
            }
        }
    }
}
