//! Standard Webhooks (standardwebhooks.com): an HMAC over id, time and body.
//!
//! Called by `gitlab` and `generic`. The time is signed, so a recorded delivery is good for five minutes; the id is signed
//! as well, and tells one delivery from another.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::secrets::{is_hmac, to_hex};
use super::{Delivery, Refusal, single};
use aws_lc_rs::digest;

/// A delivery taken apart as far as one may before it is believed.
pub struct Signed {
    id: String,
    content: Vec<u8>,
    signatures: Vec<Vec<u8>>,
}

impl Signed {
    /// Whether a delivery is signed so at all.
    pub fn is(delivery: &Delivery<'_>) -> bool {
        delivery.headers.contains_key("webhook-signature")
    }

    pub fn open(delivery: &Delivery<'_>) -> Result<Self, Refusal> {
        let header = |name: &str| match single(delivery.headers, name)?.map(std::str::from_utf8) {
            Some(Ok(value)) => Ok(value.to_owned()),
            Some(Err(_)) => Err(Refusal::BadSignature),
            None => Err(Refusal::Unsigned(format!("no `{name}` header"))),
        };
        let (id, time, signatures) =
            (header("webhook-id")?, header("webhook-timestamp")?, header("webhook-signature")?);
        if id.is_empty() || id.len() > ID_MAX || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Refusal::BadSignature);
        }
        is_now(&time, delivery.at)?;
        let content = [id.as_bytes(), b".", time.as_bytes(), b".", delivery.body].concat();
        let decoded = |signature: &str| STANDARD.decode(signature.strip_prefix("v1,")?).ok();
        let signatures = signatures.split(' ').take(SIGNATURES_MAX).filter_map(decoded).collect();
        Ok(Self { id, content, signatures })
    }

    /// Whether one of the signatures is by this secret: `whsec_` and base64, or what else it is as it stands.
    pub fn holds(&self, secret: &[u8]) -> Result<bool, Refusal> {
        let key = match secret.strip_prefix(WHSEC) {
            Some(base64) => STANDARD
                .decode(base64)
                .map_err(|_| Refusal::Unready("a secret begins with `whsec_` and is no base64 behind it".to_owned()))?,
            None => secret.to_vec(),
        };
        Ok(self.signatures.iter().any(|signature| is_hmac(&key, &self.content, signature)))
    }

    /// Tells one delivery from another: the id in a form that can be a key.
    pub fn identity(&self) -> String {
        to_hex(digest::digest(&digest::SHA256, self.id.as_bytes()).as_ref())
    }
}

/// Seconds since 1970, in digits alone, at most five minutes from `now`.
fn is_now(time: &str, now: SystemTime) -> Result<(), Refusal> {
    let is_number = !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = time.parse::<u64>().ok().filter(|_| is_number).ok_or(Refusal::BadSignature)?;
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or(Refusal::BadSignature)?;
    let apart = now.duration_since(at).unwrap_or_else(|earlier| earlier.duration());
    if apart <= TOLERANCE { Ok(()) } else { Err(Refusal::Expired) }
}

/// How a secret for this begins.
pub const WHSEC: &[u8] = b"whsec_";
const ID_MAX: usize = 256;
/// While a secret is being changed there are two.
const SIGNATURES_MAX: usize = 8;
const TOLERANCE: Duration = Duration::from_secs(300);
