//! Travis' public key: pinned in a file, or fetched from Travis' configuration and kept.
//!
//! Called by `Hooks`. The rule it keeps: a fetched key replaces the known one only when it is whole, a failed fetch
//! changes nothing, and forged deliveries cause one fetch in 10 minutes at most.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest;
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, UnparsedPublicKey};
use bytes::Bytes;
use http::{Request, StatusCode};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use tokio::sync::Semaphore;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::Refusal;
use crate::control::https::{Https, HttpsError};

/// An RSA key of 2048 bits or more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    spki: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
enum KeyFault {
    #[error("no public key in PEM (`BEGIN PUBLIC KEY`)")]
    NotPem,
    #[error("not an RSA key of 2048 bits or more")]
    Weak,
    #[error("{0}")]
    Fetch(#[from] HttpsError),
    #[error("`{0}` is not a URL")]
    Url(String),
    #[error("the answer was {0}")]
    Status(StatusCode),
    #[error("the answer holds no key: {0}")]
    Answer(#[from] serde_json::Error),
}

impl Key {
    fn from_pem(pem: &[u8]) -> Result<Self, KeyFault> {
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| KeyFault::NotPem)?;
        let parsed = SubjectPublicKeyInfo::from_der(&spki).map_err(|_| KeyFault::NotPem)?.1;
        match parsed.parsed() {
            Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= 2048 => Ok(Self { spki: spki.to_vec() }),
            _ => Err(KeyFault::Weak),
        }
    }

    /// Whether `signature` is this key's over `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, &self.spki);
        key.verify(message, signature).is_ok()
    }

    /// SHA-256 of the SubjectPublicKeyInfo, in hexadecimal.
    fn fingerprint(&self) -> String {
        let digest = digest::digest(&digest::SHA256, &self.spki);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The key a person pinned. Read anew each time, so that a changed file counts at once.
pub fn pinned(path: &Path) -> Result<Key, Refusal> {
    let unready = |why: String| Refusal::Unready(format!("Travis' key {}: {why}", path.display()));
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| unready(error.to_string()))?;
    file.take(FILE_MAX).read_to_end(&mut pem).map_err(|error| unready(error.to_string()))?;
    Key::from_pem(&pem).map_err(|fault| unready(fault.to_string()))
}

/// Keeps the key of one configuration URL: in memory, and on disk as the last one that was good.
#[derive(Debug)]
pub struct Keeper {
    known: Mutex<Known>,
    /// Whose permit is held fetches; the others wait for it, at most as long as a fetch may take.
    fetching: Semaphore,
}

impl Default for Keeper {
    fn default() -> Self {
        Self { known: Mutex::default(), fetching: Semaphore::new(1) }
    }
}

#[derive(Debug, Clone, Default)]
struct Known {
    url: String,
    key: Option<Key>,
    /// When the key came from the URL; by the wall clock, because it is kept over restarts.
    fetched: Option<SystemTime>,
    attempted: Option<Instant>,
}

impl Keeper {
    /// Whether `check` holds for the key of `url`, after a new fetch if it does not and one is due.
    pub async fn verifies(&self, url: &str, state_dir: &Path, check: impl Fn(&Key) -> bool) -> Result<bool, Refusal> {
        let first = self.known(url, state_dir).key;
        if first.as_ref().is_some_and(&check) {
            return Ok(true);
        }
        let _permit = self.fetching.acquire().await;
        // Somebody else may have fetched while this one waited.
        let known = self.known(url, state_dir);
        let pause = if known.key.is_some() { REFETCH_EVERY } else { RETRY_EVERY };
        let is_due = known.attempted.is_none_or(|attempt| attempt.elapsed() >= pause);
        if known.key == first && is_due {
            self.fetch(url, state_dir).await;
        }
        match self.known(url, state_dir).key {
            Some(key) => Ok(check(&key)),
            None => Err(Refusal::Unready(format!("Travis' key could not be had from {url}"))),
        }
    }

    /// Fetches the key when it is missing or a day old.
    pub async fn refresh(&self, url: &str, state_dir: &Path) {
        let is_fresh = |at: SystemTime| at.elapsed().is_ok_and(|age| age < REFRESH_EVERY);
        if self.known(url, state_dir).fetched.is_none_or(|at| !is_fresh(at)) {
            let _permit = self.fetching.acquire().await;
            self.fetch(url, state_dir).await;
        }
    }

    /// What is known for `url`. Another URL than before means another sender: nothing carries over to it.
    fn known(&self, url: &str, state_dir: &Path) -> Known {
        if self.lock().url != url {
            let stored = stored(url, state_dir);
            let (key, fetched) = stored.map_or((None, None), |(key, at)| (Some(key), Some(at)));
            *self.lock() = Known { url: url.to_owned(), key, fetched, attempted: None };
        }
        self.lock().clone()
    }

    async fn fetch(&self, url: &str, state_dir: &Path) {
        self.lock().attempted = Some(Instant::now());
        let (pem, key) = match fetch(url).await {
            Ok(fetched) => fetched,
            Err(error) => {
                tracing::warn!(url, %error, "Travis' key could not be fetched; the known one stays");
                return;
            }
        };
        if let Err(error) = store(url, state_dir, &pem) {
            tracing::warn!(%error, "Travis' key could not be stored");
        }
        let mut known = self.lock();
        if known.key.as_ref() != Some(&key) {
            let before = known.key.as_ref().map(Key::fingerprint);
            tracing::warn!(url, before, now = key.fingerprint(), "Travis' key is new");
        }
        known.key = Some(key);
        known.fetched = Some(SystemTime::now());
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn fetch(url: &str) -> Result<(String, Key), KeyFault> {
    #[derive(Deserialize)]
    struct Answer {
        config: Config,
    }
    #[derive(Deserialize)]
    struct Config {
        notifications: Notifications,
    }
    #[derive(Deserialize)]
    struct Notifications {
        webhook: Webhook,
    }
    #[derive(Deserialize)]
    struct Webhook {
        public_key: String,
    }
    let request = Request::get(url).header("accept", "application/json").header("user-agent", "open-prime");
    let request = request.body(Bytes::new()).map_err(|_| KeyFault::Url(url.to_owned()))?;
    let answer = Https::new(None, FETCH_TIMEOUT, ANSWER_MAX)?.send(request).await?;
    if answer.status() != StatusCode::OK {
        return Err(KeyFault::Status(answer.status()));
    }
    let answer: Answer = serde_json::from_slice(answer.body())?;
    let pem = answer.config.notifications.webhook.public_key;
    let key = Key::from_pem(pem.as_bytes())?;
    Ok((pem, key))
}

/// Whether a key of this URL is kept.
pub fn is_stored(url: &str, state_dir: &Path) -> bool {
    stored(url, state_dir).is_some()
}

/// The key stored for this URL, and when it was. The URL stands above the PEM, where the format allows any text.
fn stored(url: &str, state_dir: &Path) -> Option<(Key, SystemTime)> {
    let path = path(state_dir);
    let text = std::fs::read_to_string(&path).ok()?;
    let (source, pem) = text.split_once('\n')?;
    let key = Key::from_pem(pem.as_bytes()).ok().filter(|_| source == url)?;
    Some((key, std::fs::metadata(&path).ok()?.modified().ok()?))
}

fn store(url: &str, state_dir: &Path, pem: &str) -> std::io::Result<()> {
    // A temporary file has mode 0600 from its first byte.
    let mut file = tempfile::NamedTempFile::new_in(state_dir)?;
    file.write_all(format!("{url}\n{pem}").as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path(state_dir))?;
    std::fs::File::open(state_dir)?.sync_all()
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("travis-key.pem")
}

const FILE_MAX: u64 = 64 << 10;
const ANSWER_MAX: usize = 64 << 10;
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const REFETCH_EVERY: Duration = Duration::from_secs(600);
/// While no key is known at all.
const RETRY_EVERY: Duration = Duration::from_secs(60);
const REFRESH_EVERY: Duration = Duration::from_secs(24 * 3600);
