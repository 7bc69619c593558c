//! What is told of one request, and in which order.
//!
//! Made by whoever ends a request, written by `access_log`. The rule: no Authorization, no Cookie and no token of a hook
//! ever comes here, and a client may fill only so much of a line.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::model::address::Address;
use crate::model::name::Site;

use super::line::{Clock, LINE_MAX, Line};

/// The status of a request whose client left before it had an answer, as nginx has it.
const GONE: u16 = 499;
/// What a client may fill of a line in all and with each word, in bytes as written.
const CALL_MAX: usize = LINE_MAX - 512;
const TARGET_MAX: usize = 2048;
const FIELD_MAX: usize = 512;
const ID_MAX: usize = 128;
const WORD_MAX: usize = 32;
/// Where a provider that cannot sign posts to: what follows is as good as a password (`control/web/public.rs`).
const TOKENS: &str = "/events/";

/// What a client asked for.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// `None` for unknown hosts and Prime's own routes.
    pub site: Option<&'a Site>,
    pub client: IpAddr,
    pub method: &'a str,
    pub scheme: &'static str,
    pub host: &'a str,
    /// As the client sent it.
    pub target: &'a str,
    /// `HTTP/1.1`.
    pub protocol: &'static str,
    pub id: &'a [u8],
    pub user_agent: Option<&'a [u8]>,
    pub referer: Option<&'a [u8]>,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    pub at: SystemTime,
    pub duration: Duration,
    /// `None` when the client left before there was one.
    pub status: Option<StatusCode>,
    /// Bytes of bodies.
    pub sent: u64,
    pub received: u64,
    /// What the cache did: `hit`, `miss`, `stale` …
    pub cache: Option<&'static str>,
    pub upstream: Option<&'a Address>,
}

impl Call<'_> {
    /// Writes the end of a line.
    pub fn write(&self, line: &mut Line<'_>) {
        line.bound(CALL_MAX);
        if let Some(site) = self.site {
            line.put(b",\"site\":\"");
            line.raw(site.project.as_str().as_bytes());
            line.put(b"/");
            line.raw(site.branch.as_str().as_bytes());
            line.put(b"\"");
        }
        line.put(b",\"client\":\"");
        line.ip(self.client);
        line.put(b"\",\"method\":\"");
        line.text(self.method.as_bytes(), WORD_MAX);
        match self.scheme {
            "https" => line.put(b"\",\"scheme\":\"https\",\"host\":\""),
            _ => line.put(b"\",\"scheme\":\"http\",\"host\":\""),
        }
        line.text(self.host.as_bytes(), FIELD_MAX);
        line.put(b"\",\"target\":\"");
        self.write_target(line);
        match self.protocol {
            "HTTP/2" => line.put(b"\",\"protocol\":\"HTTP/2\",\"id\":\""),
            "HTTP/1.0" => line.put(b"\",\"protocol\":\"HTTP/1.0\",\"id\":\""),
            _ => line.put(b"\",\"protocol\":\"HTTP/1.1\",\"id\":\""),
        }
        line.text(self.id, ID_MAX);
        line.put(b"\"");
        if let Some(user_agent) = self.user_agent {
            line.field(b",\"user_agent\":\"", user_agent, FIELD_MAX);
        }
        if let Some(referer) = self.referer {
            line.field(b",\"referer\":\"", referer, FIELD_MAX);
        }
        line.put(b"}\n");
    }

    /// A target outside of all sites may be that of a hook, whose token nobody is to read in a log.
    fn write_target(&self, line: &mut Line<'_>) {
        let token = self.site.is_none().then(|| self.target.find(TOKENS)).flatten();
        match token {
            Some(at) => {
                line.text(&self.target.as_bytes()[..at + TOKENS.len()], TARGET_MAX);
                line.put(b"...");
            }
            None => line.text(self.target.as_bytes(), TARGET_MAX),
        }
    }
}

impl End<'_> {
    /// Writes the beginning of a line.
    pub fn write(&self, line: &mut Line<'_>, clock: &mut Clock) {
        line.put(b"{\"time\":\"");
        line.time(self.at, clock);
        line.put(b"\",\"status\":");
        line.small(self.status.map_or(GONE, |status| status.as_u16()).into());
        line.put(b",\"ms\":");
        line.milliseconds(self.duration);
        line.put(b",\"sent\":");
        line.number(self.sent);
        line.put(b",\"received\":");
        line.number(self.received);
        if let Some(cache) = self.cache {
            line.put(b",\"cache\":\"");
            line.raw(cache.as_bytes());
            line.put(b"\"");
        }
        if let Some(upstream) = self.upstream {
            line.put(b",\"upstream\":\"");
            line.address(upstream);
            line.put(b"\"");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::report;

    fn call<'a>() -> Call<'a> {
        Call {
            site: None,
            client: [203, 0, 113, 7].into(),
            method: "GET",
            scheme: "https",
            host: "shop.test",
            target: "/a?b=c",
            protocol: "HTTP/1.1",
            id: b"1",
            user_agent: None,
            referer: None,
        }
    }

    fn end<'a>() -> End<'a> {
        End {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_007),
            duration: Duration::from_micros(1_234_056),
            status: Some(StatusCode::OK),
            sent: 1024,
            received: 0,
            cache: None,
            upstream: None,
        }
    }

    fn line(call: &Call<'_>, end: &End<'_>) -> String {
        let mut out = [0; LINE_MAX];
        let mut line = Line::new(&mut out);
        end.write(&mut line, &mut Clock::default());
        call.write(&mut line);
        let length = line.length();
        String::from_utf8(out[..length].to_vec()).unwrap()
    }

    fn called(call: &Call<'_>) -> serde_json::Value {
        serde_json::from_str(&line(call, &end())).unwrap()
    }

    fn ended(end: &End<'_>) -> serde_json::Value {
        serde_json::from_str(&line(&call(), end)).unwrap()
    }

    /// Numbers without an order, the same each time.
    struct Random(u64);

    impl Random {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % end
        }

        /// Text of up to `max` bytes: plain, hostile, or no text at all.
        fn bytes(&mut self, max: usize) -> Vec<u8> {
            let hostile = ["\"", "\\", "\n", "\x1b[2J", "\u{9b}", "\u{202e}", "\u{2028}", "\u{7f}", "é", "漢", "\0"];
            let (length, kind) = (self.below(max + 1), self.below(4));
            let mut bytes = Vec::new();
            while bytes.len() < length {
                match (kind, self.below(8)) {
                    (0, _) => bytes.push(b' ' + self.below(95) as u8),
                    (1, _) => bytes.push(self.below(256) as u8),
                    (_, 0..6) => bytes.extend(hostile[self.below(hostile.len())].as_bytes()),
                    _ => bytes.push(b'a'),
                }
            }
            bytes
        }
    }

    #[test]
    fn a_request_is_one_line_with_its_facts() {
        let site = "shop/dev".parse().unwrap();
        let upstream = "127.0.0.1:8080".parse().unwrap();
        let end = End { cache: Some("miss"), upstream: Some(&upstream), ..end() };
        let (user_agent, referer) = (Some(&b"curl/8"[..]), Some(&b"https://a.test/"[..]));
        assert_eq!(
            line(&Call { site: Some(&site), user_agent, referer, ..call() }, &end),
            "{\"time\":\"2026-09-21T14:13:20.007Z\",\"status\":200,\"ms\":1234.056,\"sent\":1024,\"received\":0,\
             \"cache\":\"miss\",\"upstream\":\"127.0.0.1:8080\",\"site\":\"shop/dev\",\"client\":\"203.0.113.7\",\
             \"method\":\"GET\",\"scheme\":\"https\",\"host\":\"shop.test\",\"target\":\"/a?b=c\",\
             \"protocol\":\"HTTP/1.1\",\"id\":\"1\",\"user_agent\":\"curl/8\",\"referer\":\"https://a.test/\"}\n"
        );
        let upstream = "unix:/run/a\"b".parse().unwrap();
        assert_eq!(ended(&End { upstream: Some(&upstream), ..end })["upstream"], "unix:/run/a\"b");
        assert_eq!(ended(&End { duration: Duration::ZERO, ..end })["ms"], 0.0);
        assert_eq!(ended(&End { sent: u64::MAX, ..end })["sent"], u64::MAX);
        assert_eq!(ended(&End { status: None, ..end })["status"], 499);
    }

    #[test]
    fn ten_thousand_hostile_requests_make_ten_thousand_whole_lines() {
        let mut random = Random(1);
        for _ in 0..10_000 {
            let [user_agent, referer, target] = [random.bytes(700), random.bytes(700), random.bytes(3000)];
            let [method, host, id] = [random.bytes(64), random.bytes(600), random.bytes(200)];
            let texts = [&target, &method, &host, &id].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            let site = format!("{}/{}", "a".repeat(40), "b".repeat(100)).parse().unwrap();
            let upstream = format!("unix:/{}", "c".repeat(100)).parse().unwrap();
            let call = Call {
                site: Some(&site),
                client: Ipv6Addr::from_bits(u128::MAX - 1).into(),
                method: &texts[1],
                host: &texts[2],
                target: &texts[0],
                id: texts[3].as_bytes(),
                user_agent: Some(&user_agent),
                referer: Some(&referer),
                ..call()
            };
            let upstream = Some(&upstream);
            let line =
                line(&call, &End { sent: u64::MAX, received: u64::MAX, cache: Some("bypass"), upstream, ..end() });
            assert!(line.len() <= LINE_MAX, "{} bytes: {line}", line.len());
            assert_eq!(line.find('\n'), Some(line.len() - 1));
            assert_eq!(report::clean(line.trim_end()), line.trim_end());
            let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
            let shown = parsed["target"].as_str().unwrap();
            let is_right =
                shown.strip_suffix('…').is_some_and(|start| texts[0].starts_with(start)) || shown == texts[0];
            assert!(is_right, "{shown:?} of {:?}", texts[0]);
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown_and_what_is_no_text_is_marked() {
        let hostile = b"a\x1b[2J\r\n\xc2\x9b\xe2\x80\xae\x7f\x9b\xff\"\\\xc3\xa9";
        let line = line(&Call { user_agent: Some(hostile), ..call() }, &end());
        let expected = "\"a\\u001b[2J\\u000d\\u000a\\u009b\\u202e\\u007f\\ufffd\\ufffd\\\"\\\\é\"";
        assert!(line.contains(expected), "{line}");
    }

    #[test]
    fn long_fields_are_cut_and_say_so() {
        let long = "x".repeat(5000);
        let parsed = called(&Call { target: &long, user_agent: Some(long.as_bytes()), ..call() });
        let shown = |field: &str| parsed[field].as_str().unwrap().to_owned();
        assert_eq!(shown("target").len(), TARGET_MAX);
        assert_eq!(shown("user_agent").len(), FIELD_MAX);
        assert!(shown("target").ends_with("x…"));
    }

    #[test]
    fn the_token_of_a_hook_is_not_told() {
        let site = "shop".parse().unwrap();
        let target = |target, site| called(&Call { target, site, ..call() })["target"].as_str().unwrap().to_owned();
        assert_eq!(target("/events/secret?x", None), "/events/...");
        assert_eq!(target("http://opri.test/events/secret", None), "http://opri.test/events/...");
        assert_eq!(target("/events", None), "/events");
        assert_eq!(target("/events/1", Some(&site)), "/events/1");
    }

    #[test]
    fn addresses_are_written_as_everybody_writes_them() {
        let mut random = Random(2);
        let mut addresses: Vec<IpAddr> =
            ["::", "::1", "1::", "1::2:0:0:3", "1:0:0:2::", "0:1::", "1:2:3:4:5:6:7:8", "1:0:2::", "255.0.10.1"]
                .map(|text| text.parse().unwrap())
                .into();
        for _ in 0..1000 {
            let group = |_| if random.below(2) == 0 { 0 } else { random.below(65536) as u16 };
            addresses.push(Ipv6Addr::from_segments(std::array::from_fn(group)).to_canonical());
        }
        for client in addresses {
            assert_eq!(called(&Call { client, ..call() })["client"], client.to_string());
        }
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(called(&Call { client: mapped, ..call() })["client"], "10.0.0.1");
        let upstream = "[::1]:80".parse().unwrap();
        assert_eq!(ended(&End { upstream: Some(&upstream), ..end() })["upstream"], "[::1]:80");
    }
}
