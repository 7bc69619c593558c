//! Whose request it is: the address nearest on its way that is no trusted proxy's.
//!
//! Asked by `answer` for rates, and by the access log. The rule: a word counts only as far as those who handed it on are
//! trusted.

use std::net::IpAddr;

use crate::model::snapshot::Settings;

use super::field::Fields;
use super::forwarded;
use super::visit::Visit;

pub fn visitor(fields: Fields<'_>, visit: &Visit, settings: &Settings) -> IpAddr {
    if !visit.is_trusted(settings) {
        return visit.peer();
    }
    let said: Vec<_> = fields.all("x-forwarded-for").filter_map(|value| std::str::from_utf8(value).ok()).collect();
    forwarded::nearest(visit.peer(), said.into_iter(), |address| settings.trusts(address))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName};

    use super::*;

    #[test]
    fn the_visitor_is_the_nearest_that_is_no_trusted_proxy() {
        let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
        let settings = Settings { trusted_proxies, ..Settings::default() };
        let local = "127.0.0.1:1".parse().unwrap();
        let said = |said: &[&str]| -> HeaderMap {
            said.iter().map(|value| (HeaderName::from_static("x-forwarded-for"), value.parse().unwrap())).collect()
        };
        let of = |client: &str, words: &[&str]| {
            let visit = Visit::new(client.parse().unwrap(), local, None);
            visitor(Fields::Map(&said(words)), &visit, &settings).to_string()
        };
        assert_eq!(of("192.0.2.1:5", &["1.1.1.1"]), "192.0.2.1");
        assert_eq!(of("10.0.0.1:5", &[]), "10.0.0.1");
        assert_eq!(of("10.0.0.1:5", &["9.9.9.9, 1.1.1.1"]), "1.1.1.1");
        assert_eq!(of("10.0.0.1:5", &["1.1.1.1", "10.0.0.2 ,10.0.0.3"]), "1.1.1.1");
        assert_eq!(of("10.0.0.1:5", &["1.1.1.1:80"]), "1.1.1.1");
        assert_eq!(of("10.0.0.1:5", &["[2001:db8::1]:80"]), "2001:db8::1");
        assert_eq!(of("10.0.0.1:5", &["1.1.1.1, unknown, 10.0.0.2"]), "10.0.0.2");
        let unnamed = Visit::unnamed("10.0.0.1:5".parse().unwrap(), local, None);
        assert_eq!(visitor(Fields::Map(&said(&["1.1.1.1"])), &unnamed, &settings).to_string(), "10.0.0.1");
    }
}
