//! One ACME order, HTTP-01, from the account to the chain (RFC 8555).
//!
//! Called by `renew`, one task a host. The rule it keeps: everything ends within a deadline, accounts are made once and
//! kept 0600, and an error says what the CA said.

use std::collections::HashMap;
use std::future::Future;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse, ChallengeType, HttpClient,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use tokio::sync::OnceCell;

use super::challenge::{Challenges, Open};
use super::{CertFault, Pair};
use crate::control::https::Https;
use crate::model::host::HostName;
use crate::model::machine::Acme;

/// Orders certificates. Clones share the accounts.
#[derive(Clone)]
pub struct Orders {
    certs_dir: PathBuf,
    acme: Arc<Acme>,
    challenges: Challenges,
    accounts: Accounts,
}

/// By directory; a cell, so that many hosts that begin together make one account.
type Accounts = Arc<Mutex<HashMap<String, Arc<OnceCell<Account>>>>>;

impl Orders {
    pub fn new(certs_dir: PathBuf, acme: Acme, challenges: Challenges) -> Self {
        Self { certs_dir, acme: Arc::new(acme), challenges, accounts: Accounts::default() }
    }

    /// A certificate for `host` from the first directory that gives one; without any, the last one's reason.
    pub async fn order(&self, host: &HostName) -> Result<Pair, CertFault> {
        let mut last = CertFault::NoDirectory;
        for directory in &self.acme.directories {
            let outcome = tokio::time::timeout(ORDER_TIMEOUT, self.order_patiently(directory, host)).await;
            match outcome.unwrap_or_else(|_| Err(CertFault::Timeout(directory.clone(), ORDER_TIMEOUT))) {
                Ok(pair) => return Ok(pair),
                Err(fault) => {
                    tracing::warn!(%host, %fault, "no certificate from this directory");
                    last = fault;
                }
            }
        }
        Err(last)
    }

    /// Begins anew when the CA kept refusing nonces: the library tries a call four times, and an unlucky one in a long
    /// order is no reason to wait for the next round (RFC 8555 section 6.5 has the client retry).
    async fn order_patiently(&self, directory: &str, host: &HostName) -> Result<Pair, CertFault> {
        for _ in 1..NONCE_ATTEMPTS {
            match self.order_from(directory, host).await {
                Err(CertFault::Acme { error, .. }) if has_type(&error, "badNonce") => {}
                outcome => return outcome,
            }
        }
        self.order_from(directory, host).await
    }

    async fn order_from(&self, directory: &str, host: &HostName) -> Result<Pair, CertFault> {
        let said = |error: instant_acme::Error| CertFault::Acme { directory: directory.to_owned(), error };
        let account = self.account(directory).await?;
        let identifiers = [Identifier::Dns(host.to_string())];
        let mut order = match account.new_order(&NewOrder::new(&identifiers)).await {
            Err(error) if has_type(&error, "accountDoesNotExist") => {
                self.forget_account(directory);
                return Err(said(error));
            }
            outcome => outcome.map_err(said)?,
        };
        let open = self.answer(&mut order).await.map_err(said)?;
        let policy = RetryPolicy::new().timeout(POLL_TIMEOUT);
        let why = match order.poll_ready(&policy).await {
            Ok(OrderStatus::Ready | OrderStatus::Valid) => None,
            // An order that failed is an `Ok` as well.
            Ok(_) => Some(complaint(&mut order).await),
            Err(error) if is_about_the_host(&error) => Some(error.to_string()),
            Err(error) => return Err(said(error)),
        };
        if let Some(why) = why {
            return Err(CertFault::Unproven { directory: directory.to_owned(), host: host.clone(), why });
        }
        drop(open);
        let key = order.finalize().await.map_err(said)?;
        let chain = order.poll_certificate(&policy).await.map_err(said)?;
        Ok(Pair { chain, key })
    }

    /// Puts the answer to every challenge in place, then asks the CA to look. They stay while the returned value lives.
    async fn answer(&self, order: &mut Order) -> Result<Vec<Open>, instant_acme::Error> {
        let mut open = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let http01 = authorization.challenge(ChallengeType::Http01);
            let mut challenge = http01.ok_or(instant_acme::Error::Unsupported("http-01 for this host"))?;
            open.push(self.challenges.open(&challenge.token, challenge.key_authorization().as_str()));
            challenge.set_ready().await?;
        }
        Ok(open)
    }

    async fn account(&self, directory: &str) -> Result<Account, CertFault> {
        let cell = self
            .accounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(directory.to_owned())
            .or_default()
            .clone();
        cell.get_or_try_init(|| self.open_account(directory)).await.cloned()
    }

    /// The stored account of a directory, or a new one, stored before it is used.
    async fn open_account(&self, directory: &str) -> Result<Account, CertFault> {
        let said = |error: instant_acme::Error| CertFault::Acme { directory: directory.to_owned(), error };
        let http = || -> Result<Box<dyn HttpClient>, CertFault> {
            Ok(Box::new(Client(Https::new(self.acme.root.as_deref(), CALL_TIMEOUT, ANSWER_MAX)?)))
        };
        let path = self.account_path(directory);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let wrong = |error: serde_json::Error| CertFault::Account(path.clone(), error.to_string());
                let credentials: AccountCredentials = serde_json::from_slice(&bytes).map_err(wrong)?;
                Account::builder_with_http(http()?).from_credentials(credentials).await.map_err(said)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let contact: Vec<String> = self.acme.email.iter().map(|email| format!("mailto:{email}")).collect();
                let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
                let new = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
                let builder = Account::builder_with_http(http()?);
                let (account, credentials) = builder.create(&new, directory.to_owned(), None).await.map_err(said)?;
                store(&path, &credentials).map_err(|error| CertFault::Write(path, error))?;
                Ok(account)
            }
            Err(error) => Err(CertFault::Read(path, error)),
        }
    }

    /// The CA does not know the account any more: the next order makes a new one, and the old file is kept aside.
    fn forget_account(&self, directory: &str) {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner).remove(directory);
        let path = self.account_path(directory);
        if let Err(error) = std::fs::rename(&path, path.with_extension("json.unknown")) {
            tracing::warn!(path = %path.display(), %error, "the unknown ACME account could not be put aside");
        }
    }

    fn account_path(&self, directory: &str) -> PathBuf {
        let digest = digest(&SHA256, directory.as_bytes());
        let name: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        self.certs_dir.join("acme").join(name).join("account.json")
    }
}

/// Whether this is a problem that the CA reported under this type of RFC 8555 section 6.7.
fn has_type(error: &instant_acme::Error, kind: &str) -> bool {
    let instant_acme::Error::Api(problem) = error else { return false };
    problem.r#type.as_deref().and_then(|full| full.strip_prefix("urn:ietf:params:acme:error:")) == Some(kind)
}

/// Whether the CA came to the host and did not find what it looked for.
fn is_about_the_host(error: &instant_acme::Error) -> bool {
    ["caa", "connection", "dns", "incorrectResponse", "tls", "unauthorized"].iter().any(|kind| has_type(error, kind))
}

/// What the CA has against an order that failed.
async fn complaint(order: &mut Order) -> String {
    let mut complaints = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if let Ok(state) = authorization.refresh().await {
            complaints.extend(
                state.challenges.iter().filter_map(|challenge| challenge.error.as_ref()).map(ToString::to_string),
            );
        }
    }
    if complaints.is_empty() { "the order became invalid".to_owned() } else { complaints.join("; ") }
}

fn store(path: &Path, credentials: &AccountCredentials) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(path);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    // A temporary file has mode 0600 from its first byte.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(&serde_json::to_vec(credentials)?)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(directory)?.sync_all()
}

/// Our bounded client in the place of the library's, which has no timeout.
struct Client(Https);

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let https = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let sent = https.send(Request::from_parts(head, body.to_bytes())).await;
            let answer = sent.map_err(|error| instant_acme::Error::Other(Box::new(error)))?;
            Ok(BytesResponse::from(answer.map(Full::new)))
        })
    }
}

/// One call to the CA.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Until the CA has looked at our answers, and until it has signed.
const POLL_TIMEOUT: Duration = Duration::from_secs(60);
/// A whole order at one directory.
const ORDER_TIMEOUT: Duration = Duration::from_secs(180);
const NONCE_ATTEMPTS: usize = 10;
const ANSWER_MAX: usize = 1 << 20;
