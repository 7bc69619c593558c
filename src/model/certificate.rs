//! Certificates as both planes speak of them, and when one is due for renewal.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::host::HostPattern;

/// A key pair on disk, as the edge is told of it. The edge reads the files itself and takes them only when their bytes
/// have this digest, so a pair half written is never served and no key travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateFiles {
    pub hosts: Vec<HostPattern>,
    /// Leaf first, PEM.
    pub chain: PathBuf,
    /// PKCS#8, SEC1 or PKCS#1, PEM, mode 0600.
    pub key: PathBuf,
    /// SHA-256 over the chain file's bytes, then the key file's, in lower-case hexadecimal.
    pub digest: String,
}

/// Who made a certificate: decides whether browsers are sent to HTTPS because of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Issuer {
    /// Ordered from a CA over ACME.
    Acme,
    /// Put into the certificates' directory by a person.
    Operator,
    /// Prime's own local CA: trusted only where somebody installed its root.
    Local,
}

/// The time a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Validity {
    /// When to renew without advice from the CA: after two thirds of the lifetime, whatever the lifetime is
    /// (6, 45, 64 and 90 days are all in use; RFC 9773 section 4.2 leaves it to the client).
    pub fn renew_at(&self) -> SystemTime {
        let lifetime = self.not_after.duration_since(self.not_before).unwrap_or(Duration::ZERO);
        self.not_before + lifetime * 2 / 3
    }

    pub fn holds_at(&self, now: SystemTime) -> bool {
        (self.not_before..self.not_after).contains(&now)
    }
}
