//! Whose secret signed a delivery, and the HMAC that most providers sign with.
//!
//! Called by every provider but Travis. The rule: the repository named in a body that is not yet believed serves only to
//! choose the secrets that are tried, and whoever knows no secret learns nothing of what is hosted.

use aws_lc_rs::hmac;

use super::Refusal;
use crate::control::secret;
use crate::model::project::{Project, Secret};

/// The `hosted` projects whose secret `signs`; `machine` is the secret of those that have none of their own. Empty when
/// the machine's secret did and the repository is none of ours.
pub fn believers<'p>(
    hosted: &[&'p Project],
    machine: Option<&Secret>,
    signs: impl Fn(&[u8]) -> Result<bool, Refusal>,
) -> Result<Vec<&'p Project>, Refusal> {
    let holds = |at: &Secret| {
        let secret = secret::read(at).map_err(|fault| Refusal::Unready(fault.to_string()))?;
        signs(secret.as_bytes())
    };
    let mut believers = Vec::new();
    for project in hosted {
        let secret = project.hooks.secret.as_ref().or(machine);
        if secret.map(holds).transpose()? == Some(true) {
            believers.push(*project);
        }
    }
    match (believers.is_empty(), hosted.is_empty(), machine) {
        (false, _, _) => Ok(believers),
        (true, true, Some(machine)) if holds(machine)? => Ok(believers),
        _ => Err(Refusal::BadSignature),
    }
}

/// Whether `tag` is the HMAC-SHA256 of `message`; compares in constant time.
pub fn is_hmac(secret: &[u8], message: &[u8], tag: &[u8]) -> bool {
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), message, tag).is_ok()
}

/// The 32 bytes of an HMAC-SHA256 written in 64 hexadecimal digits.
pub fn from_hex(digits: &[u8]) -> Result<Vec<u8>, Refusal> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let is_hex = digits.len() == 64 && digits.iter().all(u8::is_ascii_hexdigit);
    let bytes = || digits.chunks(2).map(pair).collect::<Option<Vec<u8>>>();
    if is_hex { bytes().ok_or(Refusal::BadSignature) } else { Err(Refusal::BadSignature) }
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
