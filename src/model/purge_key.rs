//! What is known of a secret by which strangers may purge: enough to tell it when it is shown, and no more.
//!
//! Made by control, which reads the secret, and shown one by the edge for each PURGE request. The rule: the secret itself
//! goes nowhere and is not to be found out of this, which takes for granted that it is long and random.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The SHA-256 of a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PurgeKey([u8; SHA256_OUTPUT_LEN]);

/// What stands in the place of a key is none.
#[derive(Debug, thiserror::Error)]
#[error("not the SHA-256 of a secret in base64")]
pub struct NotAKey;

impl PurgeKey {
    pub fn of(secret: &[u8]) -> Self {
        let mut key = [0; SHA256_OUTPUT_LEN];
        key.copy_from_slice(digest(&SHA256, secret).as_ref());
        Self(key)
    }

    /// Whether this is the secret. Takes the same time whichever of its bytes are right.
    pub fn fits(&self, shown: &[u8]) -> bool {
        verify_slices_are_equal(&self.0, digest(&SHA256, shown).as_ref()).is_ok()
    }
}

impl TryFrom<String> for PurgeKey {
    type Error = NotAKey;

    fn try_from(text: String) -> Result<Self, NotAKey> {
        let bytes = STANDARD.decode(text).map_err(|_| NotAKey)?;
        bytes.try_into().map(Self).map_err(|_| NotAKey)
    }
}

impl From<PurgeKey> for String {
    fn from(key: PurgeKey) -> String {
        STANDARD.encode(key.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_told_and_not_kept() {
        let key = PurgeKey::of(b"hunter2");
        assert!(key.fits(b"hunter2") && !key.fits(b"hunter3") && !key.fits(b"") && !key.fits(b"hunter2\n"));
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(text, "\"9S+9MrKzuG/4jvbEkGKChfSCrxXdyylUH5S89Saj9sc=\"");
        assert_eq!(serde_json::from_str::<PurgeKey>(&text).unwrap(), key);
        for odd in ["\"\"", "\"hunter2\"", "\"AAAA\"", "7"] {
            assert!(serde_json::from_str::<PurgeKey>(odd).is_err(), "{odd}");
        }
    }
}
