//! What the edge must know about a field by its name, and how the fields of a message are looked at, whoever parsed it.
//!
//! Used by `strict`, `request`, `headers` and the cache. The rule: a name is judged here and nowhere else, so that no two
//! ways to an app differ in what they let through.

use http::HeaderMap;

use super::strict::Lines;

/// What a field is to a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// None of our business: passes as it is.
    Plain,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    /// Belongs to one connection alone, as the ones before (RFC 9110 section 7.6.1).
    HopByHop,
    Expect,
    Cookie,
    ForwardedFor,
    ForwardedProto,
    ForwardedHost,
    /// RFC 7239.
    Forwarded,
    RequestId,
    /// Speaks to shared caches alone: RFC 9213, and W3C's Edge Architecture Specification.
    CdnCacheControl,
    SurrogateControl,
    /// Says to caches what a response is made of.
    Tags,
    /// Says who a client is or where a request belongs, and is believed of trusted proxies alone.
    Claim,
    /// Another spelling of one of the above: CGI and WSGI read `X_Forwarded_For` and `X.Forwarded.For` as `X-Forwarded-For`.
    Twin,
}

impl Kind {
    /// What `name` is, in any case. Names of 64 bytes and more are plain: no managed one is so long.
    pub fn of(name: &[u8]) -> Self {
        let letter = name.first().map_or(0, |first| usize::from((first | 0x20).wrapping_sub(b'a')));
        let lengths = LENGTHS.get(letter).copied().unwrap_or(0);
        // Most names end here: no managed one begins so and is so long.
        if name.len() >= NAME_MAX || lengths & (1 << name.len()) == 0 {
            return Kind::Plain;
        }
        let mut lower = [0; NAME_MAX];
        let lower = &mut lower[..name.len()];
        let mut is_twin = false;
        for (to, from) in lower.iter_mut().zip(name) {
            is_twin |= matches!(from, b'_' | b'.');
            *to = if matches!(from, b'_' | b'.') { b'-' } else { from.to_ascii_lowercase() };
        }
        match (known(lower), is_twin) {
            (Kind::Plain, _) => Kind::Plain,
            // Too common in APIs to be taken for more than it is, and no framework reads it as `Cookie` for itself.
            (Kind::Cookie | Kind::Expect | Kind::Tags, true) => Kind::Plain,
            (Kind::CdnCacheControl | Kind::SurrogateControl, true) => Kind::Plain,
            (_, true) => Kind::Twin,
            (kind, false) => kind,
        }
    }

    /// Whether it says who a client is: replaced, unless a trusted proxy sent it.
    pub fn is_claim(self) -> bool {
        use Kind::{Claim, Forwarded, ForwardedFor, ForwardedHost, ForwardedProto, RequestId, Twin};
        matches!(self, ForwardedFor | ForwardedProto | ForwardedHost | Forwarded | RequestId | Claim | Twin)
    }

    /// Whether it ends with the connection it came over.
    pub fn is_hop_by_hop(self) -> bool {
        matches!(self, Kind::Connection | Kind::TransferEncoding | Kind::Upgrade | Kind::HopByHop)
    }

    /// Whether `Connection` may ask for it to be dropped on the way. What frames a message or says who sent it may not.
    pub fn may_be_nominated(self) -> bool {
        matches!(
            self,
            Kind::Plain | Kind::Tags | Kind::Upgrade | Kind::HopByHop | Kind::CdnCacheControl | Kind::SurrogateControl
        )
    }
}

const NAME_MAX: usize = 64;

/// The managed names, in small letters.
const KNOWN: [(&[u8], Kind); 36] = [
    (b"host", Kind::Host),
    (b"content-length", Kind::ContentLength),
    (b"transfer-encoding", Kind::TransferEncoding),
    (b"connection", Kind::Connection),
    (b"upgrade", Kind::Upgrade),
    (b"te", Kind::HopByHop),
    (b"trailer", Kind::HopByHop),
    (b"keep-alive", Kind::HopByHop),
    (b"proxy-connection", Kind::HopByHop),
    (b"http2-settings", Kind::HopByHop),
    // No field of HTTP: CGI would make it the HTTP_PROXY of what the app asks of others.
    (b"proxy", Kind::HopByHop),
    (b"expect", Kind::Expect),
    (b"cookie", Kind::Cookie),
    (b"forwarded", Kind::Forwarded),
    (b"x-request-id", Kind::RequestId),
    (b"cdn-cache-control", Kind::CdnCacheControl),
    (b"surrogate-control", Kind::SurrogateControl),
    (b"surrogate-key", Kind::Tags),
    (b"cache-tag", Kind::Tags),
    (b"x-forwarded-for", Kind::ForwardedFor),
    (b"x-forwarded-proto", Kind::ForwardedProto),
    (b"x-forwarded-host", Kind::ForwardedHost),
    (b"x-forwarded", Kind::Claim),
    (FORWARDED, Kind::Claim),
    (b"x-real-ip", Kind::Claim),
    (b"x-client-ip", Kind::Claim),
    // What Rails, PHP and others look at for the client's address, beside the ones above.
    (b"client-ip", Kind::Claim),
    (b"true-client-ip", Kind::Claim),
    (b"cf-connecting-ip", Kind::Claim),
    (b"fastly-client-ip", Kind::Claim),
    (b"x-cluster-client-ip", Kind::Claim),
    (b"forwarded-for", Kind::Claim),
    // These make some frameworks route by another path than ours.
    (b"x-original-url", Kind::Claim),
    (b"x-rewrite-url", Kind::Claim),
    // These put a request among others.
    (b"traceparent", Kind::Claim),
    (b"tracestate", Kind::Claim),
];

/// Whatever begins so is a claim.
const FORWARDED: &[u8] = b"x-forwarded-";

/// How long the managed names are that begin with a letter, a bit for each length.
const LENGTHS: [u64; 26] = {
    let (mut lengths, mut at) = ([0; 26], 0);
    while at < KNOWN.len() {
        let name = KNOWN[at].0;
        lengths[(name[0] - b'a') as usize] |= 1 << name.len();
        at += 1;
    }
    // What follows X-Forwarded- may have any length.
    lengths[(b'x' - b'a') as usize] = !0;
    lengths
};

/// By the lower-case name.
fn known(name: &[u8]) -> Kind {
    let listed = KNOWN.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
    let claim = || if name.starts_with(FORWARDED) { Kind::Claim } else { Kind::Plain };
    listed.unwrap_or_else(claim)
}

/// The fields of a message: as they stand in the bytes of a head, or in a map.
#[derive(Debug, Clone, Copy)]
pub enum Fields<'r> {
    Raw(Lines<'r>),
    Map(&'r HeaderMap),
}

impl<'r> Fields<'r> {
    /// All values of a field, in order. `name` in lower case.
    pub fn all(self, name: &'static str) -> impl Iterator<Item = &'r [u8]> {
        let (raw, map) = match self {
            Fields::Raw(lines) => (Some(lines.values(name.as_bytes())), None),
            Fields::Map(map) => (None, Some(map.get_all(name).into_iter().map(http::HeaderValue::as_bytes))),
        };
        raw.into_iter().flatten().chain(map.into_iter().flatten())
    }

    /// The first value of a field.
    pub fn first(self, name: &'static str) -> Option<&'r [u8]> {
        match self {
            Fields::Raw(lines) => lines.values(name.as_bytes()).next(),
            // A request has few: looking at them takes less time than making a key of the name.
            Fields::Map(map) => map.iter().find(|(own, _)| own.as_str() == name).map(|(_, value)| value.as_bytes()),
        }
    }

    /// Calls `take` with each name and value, in order.
    pub fn each(self, mut take: impl FnMut(&'r [u8], &'r [u8])) {
        match self {
            Fields::Raw(lines) => lines.fields().for_each(|(name, value)| take(name, value)),
            Fields::Map(map) => map.iter().for_each(|(name, value)| take(name.as_str().as_bytes(), value.as_bytes())),
        }
    }

    pub fn has(self, name: &'static str) -> bool {
        self.first(name).is_some()
    }

    /// The first value as text, when it is ASCII.
    pub fn text(self, name: &'static str) -> Option<&'r str> {
        std::str::from_utf8(self.first(name)?).ok().filter(|text| text.is_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_every_spelling() {
        assert_eq!(Kind::of(b"HOST"), Kind::Host);
        assert_eq!(Kind::of(b"X-Forwarded-For"), Kind::ForwardedFor);
        assert_eq!(Kind::of(b"x-forwarded-port"), Kind::Claim);
        assert_eq!(Kind::of(b"Accept"), Kind::Plain);
        assert_eq!(Kind::of(b"Proxy"), Kind::HopByHop);
        for claim in ["Client-IP", "True-Client-IP", "CF-Connecting-IP", "X-Cluster-Client-IP", "X-Forwarded"] {
            assert_eq!(Kind::of(claim.as_bytes()), Kind::Claim, "{claim}");
        }
        assert_eq!(Kind::of(&[b'x'; 100]), Kind::Plain);
        for twin in ["X_Forwarded_For", "x.forwarded.for", "Content_Length", "transfer.encoding", "X-Real_IP"] {
            assert_eq!(Kind::of(twin.as_bytes()), Kind::Twin, "{twin}");
        }
        for (name, kind) in KNOWN {
            assert_eq!(Kind::of(&name.to_ascii_uppercase()), kind, "{name:?}");
        }
        for plain in ["user_id", "x.custom", "api_key", ""] {
            assert_eq!(Kind::of(plain.as_bytes()), Kind::Plain, "{plain}");
        }
    }

    #[test]
    fn no_hop_may_be_told_to_drop_what_says_who_sent_it() {
        for name in ["x-forwarded-for", "X-Request-Id", "Host", "Cookie", "Content-Length", "forwarded"] {
            assert!(!Kind::of(name.as_bytes()).may_be_nominated(), "{name}");
        }
        assert!(Kind::of(b"X-Whatever").may_be_nominated() && Kind::of(b"Keep-Alive").may_be_nominated());
    }
}
