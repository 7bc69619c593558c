//! Travis' side of a webhook, with a key of one's own: what the demo sends to the Prime it has started.
//!
//! Called by `demo`. The rule it keeps: the payload has the fields, and the delivery the form, that travis-tasks
//! (`addons/webhook/{task,payload}.rb`) gives them, so the server needs no special way in.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use x509_parser::der_parser::parse_der;
use x509_parser::num_bigint::BigUint;

/// A throw-away key that signs as Travis does. Not for a key that matters: the arithmetic takes no care of its timing,
/// and it is done here because aws-lc-rs verifies SHA-1 signatures but makes none.
pub struct TravisKey {
    public_pem: String,
    modulus: BigUint,
    exponent: BigUint,
}

impl TravisKey {
    /// A new RSA key of 2048 bits. Takes some tenths of a second.
    pub fn generate() -> Result<Self, Unspecified> {
        let pair = KeyPair::generate(KeySize::Rsa2048)?;
        let (modulus, exponent) = private_parts(pair.as_der()?.as_ref()).ok_or(Unspecified)?;
        Ok(Self { public_pem: pem(pair.public_key().as_der()?.as_ref()), modulus, exponent })
    }

    /// The public key, as `hooks.travis = { public_key = … }` takes it.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// The `Signature` header's value for a payload: RSASSA-PKCS1-v1_5 with SHA-1 (RFC 8017 section 8.2.1).
    pub fn sign(&self, payload: &str) -> String {
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, payload.as_bytes());
        let length = self.modulus.bits().div_ceil(8) as usize;
        let tail = [&[0][..], &SHA1_DIGEST_INFO, hash.as_ref()].concat();
        let mut encoded = vec![0xff; length];
        encoded[..2].copy_from_slice(&[0, 1]);
        encoded[length - tail.len()..].copy_from_slice(&tail);
        let signature = BigUint::from_bytes_be(&encoded).modpow(&self.exponent, &self.modulus).to_bytes_be();
        let padded = [vec![0; length - signature.len()], signature].concat();
        STANDARD.encode(padded)
    }
}

/// Modulus and private exponent of a PKCS#8 document that holds an RSAPrivateKey (RFC 8017 appendix A.1.2).
fn private_parts(pkcs8: &[u8]) -> Option<(BigUint, BigUint)> {
    let (_, outer) = parse_der(pkcs8).ok()?;
    let (_, key) = parse_der(outer.as_sequence().ok()?.get(2)?.as_slice().ok()?).ok()?;
    let number = |at: usize| Some(BigUint::from_bytes_be(key.as_sequence().ok()?.get(at)?.as_slice().ok()?));
    Some((number(1)?, number(3)?))
}

fn pem(spki: &[u8]) -> String {
    let base64 = STANDARD.encode(spki);
    let lines: Vec<&str> = base64.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
}

/// The payload of a build that passed. `slug` is `owner/name`, `finished_at` as RFC 3339.
pub fn passed(slug: &str, branch: &str, commit: &str, number: u64, finished_at: &str) -> String {
    let (owner, name) = slug.split_once('/').unwrap_or(("", slug));
    let url = format!("https://app.travis-ci.com/github/{slug}/builds/{number}");
    json!({
        "id": number, "number": number.to_string(), "config": {}, "type": "push", "state": "passed",
        "status": 0, "result": 0, "status_message": "Passed", "result_message": "Passed",
        "started_at": finished_at, "finished_at": finished_at, "duration": 1, "build_url": url,
        "commit_id": number, "commit": commit, "base_commit": null, "head_commit": null, "branch": branch,
        "message": "A change", "compare_url": format!("https://github.com/{slug}/commit/{commit}"),
        "committed_at": finished_at, "author_name": "Demo", "author_email": "demo@localhost",
        "committer_name": "Demo", "committer_email": "demo@localhost",
        "pull_request": false, "pull_request_number": null, "pull_request_title": null, "tag": null,
        "repository": {"id": 1, "name": name, "owner_name": owner, "url": null}, "matrix": []
    })
    .to_string()
}

/// The body of a delivery: the payload as the one field of a form.
pub fn body(payload: &str) -> String {
    form_urlencoded::Serializer::new(String::new()).append_pair("payload", payload).finish()
}

/// The DER of DigestInfo up to the hash, for SHA-1 (RFC 8017 section 9.2, note 1).
const SHA1_DIGEST_INFO: [u8; 15] = *b"\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14";
