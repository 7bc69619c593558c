//! Certificates: found in `certs/`, ordered over ACME, or made by Prime's own local CA, so that every host has one.
//!
//! Called by control's composition root, which runs `renew::run` and sends what it publishes to the edge. The rule it
//! keeps: a pair on disk is whole at every instant, and a failure leaves the certificate that serves in place.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::control::https::HttpsError;
use crate::model::certificate::{CertificateFiles, Issuer, Validity};
use crate::model::host::HostName;

pub mod challenge;
pub mod issue;
pub mod local_ca;
pub mod renew;
pub mod store;

/// A certificate that can be served, and what there is to know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// `hosts` are the leaf's names when it comes from `store::scan`, and the hosts it is to serve when it comes from
    /// `renew::run`.
    pub files: CertificateFiles,
    pub issuer: Issuer,
    pub validity: Validity,
}

/// A key with its certificate, PEM, not yet on disk.
pub struct Pair {
    /// Leaf first.
    pub chain: String,
    pub key: String,
}

#[derive(Debug, thiserror::Error)]
pub enum CertFault {
    #[error("{0} cannot be read: {1}")]
    Read(PathBuf, #[source] io::Error),
    #[error("{0} cannot be written: {1}")]
    Write(PathBuf, #[source] io::Error),
    #[error("{0} holds no certificate in PEM (hint: fullchain.pem is the leaf followed by its intermediates)")]
    NoCertificate(PathBuf),
    #[error("{0} holds no private key in PEM")]
    NoKey(PathBuf),
    #[error("the key {key} does not fit the certificate {chain}: {why} (hint: copy both files of one order)")]
    Mismatch { chain: PathBuf, key: PathBuf, why: String },
    #[error("the certificate {0} names no host (hint: it needs subject alternative names)")]
    NoNames(PathBuf),
    #[error("the local CA in {0} cannot be used: {1} (hint: move the directory away, and a new CA is made)")]
    LocalCa(PathBuf, String),
    #[error("a certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("the ACME account {0} cannot be read: {1} (hint: move the file away, and a new account is made)")]
    Account(PathBuf, String),
    #[error("{directory}: {error}")]
    Acme {
        directory: String,
        #[source]
        error: instant_acme::Error,
    },
    #[error("{directory} would not vouch for {host}: {why} (hint: port 80 of {host} must reach this machine)")]
    Unproven { directory: String, host: HostName, why: String },
    #[error("{0} did not finish the order within {1:?}")]
    Timeout(String, Duration),
    #[error(transparent)]
    Https(#[from] HttpsError),
    #[error("no ACME directory is configured")]
    NoDirectory,
}
