//! What is said to the client in `Cache-Status` (RFC 9211), and counted.
//!
//! Made by `mod`, put on every answer by `headers`. The rule: a key is shown only where conf asks for it, and says nothing but
//! what the request says itself.

use http::StatusCode;

use super::reason::Reason;
use crate::edge::headers::Sink;

/// Why an answer leaves that is stale.
const SPARED: &[u8] = b"; detail=stale-if-error";
/// Or that is of a release which was replaced.
const EARLIER: &[u8] = b"; detail=earlier-release";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheStatus {
    /// For so many seconds it is still fresh; shown because nothing better is to be had, or as any other.
    Hit { ttl: i64, is_spare: bool },
    /// Asked for at the app, for this reason.
    Forward { reason: Reason, answer: Answer },
}

/// What became of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Answer {
    /// The app's, where the client gets another.
    status: Option<StatusCode>,
    is_stored: bool,
    /// A stale one leaves in its place.
    is_spared: bool,
    /// One of an earlier release leaves in its place.
    is_earlier: bool,
    /// It was asked for by another request.
    is_collapsed: bool,
}

impl CacheStatus {
    pub fn forward(reason: Reason) -> Self {
        CacheStatus::Forward { reason, answer: Answer::default() }
    }

    /// With the status of an answer that itself does not leave.
    pub fn answered(self, status: Option<StatusCode>) -> Self {
        self.with(|answer| answer.status = status)
    }

    /// A stale one leaves in place of a failure.
    pub fn spared(self) -> Self {
        self.with(|answer| answer.is_spared = true)
    }

    /// One of an earlier release leaves in place of the app's answer.
    pub fn of_earlier(self) -> Self {
        self.with(|answer| answer.is_earlier = true)
    }

    /// The app was not asked: it had been already, by another request.
    pub fn collapsed(self) -> Self {
        self.with(|answer| answer.is_collapsed = true)
    }

    /// With what became of the app's answer.
    pub fn stored(self, is_stored: bool) -> Self {
        self.with(|answer| answer.is_stored = is_stored)
    }

    fn with(self, change: impl FnOnce(&mut Answer)) -> Self {
        match self {
            CacheStatus::Forward { reason, mut answer } => {
                change(&mut answer);
                CacheStatus::Forward { reason, answer }
            }
            hit => hit,
        }
    }

    /// Whether anything was looked for.
    fn has_key(self) -> bool {
        !matches!(self, CacheStatus::Forward { reason, .. } if reason.is_without_key())
    }

    /// The name it is counted under.
    pub fn name(self) -> &'static str {
        match self {
            CacheStatus::Hit { .. } => "hit",
            CacheStatus::Forward { answer: Answer { is_collapsed: true, .. }, .. } => "collapsed",
            CacheStatus::Forward { reason, .. } => reason.word(),
        }
    }
}

/// What an answer says of the cache.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    pub status: CacheStatus,
    /// As a string of RFC 8941, where it is to be shown.
    pub key: Option<&'a str>,
}

impl Said<'_> {
    /// Writes the field.
    pub fn put(self, to: &mut impl Sink) {
        let key = self.key.filter(|_| self.status.has_key());
        let (label, key): (&[u8], &[u8]) = key.map_or((b"", b""), |key| (b"; key=", key.as_bytes()));
        match self.status {
            CacheStatus::Hit { ttl, is_spare } => {
                let mut digits = itoa::Buffer::new();
                let spare: &[u8] = if is_spare { SPARED } else { b"" };
                to.put("Cache-Status", &[b"opri; hit; ttl=", digits.format(ttl).as_bytes(), spare, label, key]);
            }
            CacheStatus::Forward { reason, answer } => {
                let (by, status): (&[u8], &str) = match &answer.status {
                    Some(status) => (b"; fwd-status=", status.as_str()),
                    None => (b"", ""),
                };
                let stored: &[u8] = if answer.is_stored { b"; stored" } else { b"" };
                let detail: &[u8] = match answer {
                    Answer { is_spared: true, .. } => SPARED,
                    Answer { is_earlier: true, .. } => EARLIER,
                    _ => b"",
                };
                let collapsed: &[u8] = if answer.is_collapsed { b"; collapsed" } else { b"" };
                let (fwd, status) = (reason.word().as_bytes(), status.as_bytes());
                let forwarded: [&[u8]; 9] = [b"opri; fwd=", fwd, by, status, stored, collapsed, detail, label, key];
                to.put("Cache-Status", &forwarded);
            }
        }
    }
}

/// A string as structured fields have it (RFC 8941 section 3.3.3); what that cannot hold is escaped as in a URL.
pub fn quoted(text: &[u8]) -> Box<str> {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for byte in text {
        match byte {
            b'"' | b'\\' => quoted.extend(['\\', char::from(*byte)]),
            b' '..=b'~' => quoted.push(char::from(*byte)),
            _ => quoted.push_str(&format!("%{byte:02X}")),
        }
    }
    quoted.push('"');
    quoted.into()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    #[test]
    fn a_key_is_said_where_there_is_one_and_cannot_say_more() {
        let said = |status: CacheStatus, key: &str| {
            let (mut head, key) = (BytesMut::new(), quoted(key.as_bytes()));
            Said { status, key: Some(&key) }.put(&mut head);
            String::from_utf8(head.to_vec()).unwrap()
        };
        let hit = CacheStatus::Hit { ttl: 5, is_spare: false };
        assert_eq!(said(hit, "http://a/x?b"), "Cache-Status: opri; hit; ttl=5; key=\"http://a/x?b\"\r\n");
        assert_eq!(said(hit, "a\"\\\r\n;\u{e9}"), "Cache-Status: opri; hit; ttl=5; key=\"a\\\"\\\\%0D%0A;%C3%A9\"\r\n");
        let missed = CacheStatus::forward(Reason::Missing).stored(true);
        assert_eq!(said(missed, "k"), "Cache-Status: opri; fwd=miss; stored; key=\"k\"\r\n");
        assert_eq!(said(CacheStatus::forward(Reason::Rule), "k"), "Cache-Status: opri; fwd=bypass\r\n");
        assert_eq!(
            said(CacheStatus::forward(Reason::Variant), "k"),
            "Cache-Status: opri; fwd=vary-miss; key=\"k\"\r\n"
        );
    }
}
