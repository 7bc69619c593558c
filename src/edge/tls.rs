//! Certificates: handed over by control or read from disk, checked, and found by the name a client asks for.
//!
//! `control_link` applies the section (off the async threads), `connection` looks up. The rule: a certificate that
//! cannot be used never pushes out one that can, and a name without one gets a refused handshake, never another's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, version};

use crate::link::keys::{Keys, digest};
use crate::model::certificate::CertificateFiles;
use crate::model::host::{HostName, HostPattern};

/// TLS 1.2 sessions that can be taken up again without a ticket, over all certificates.
const SESSIONS: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read `{path}`: {error}")]
    Unreadable { path: String, error: std::io::Error },
    #[error("the bytes of `{0}` and its key are not the ones that were announced; are they being written?")]
    Digest(String),
    #[error("`{path}` is no PEM chain with its key: {error}")]
    Pem { path: String, error: rustls::pki_types::pem::Error },
    #[error("`{path}` cannot be used: {error}")]
    Unusable { path: String, error: rustls::Error },
    #[error("the TLS library cannot be set up: {0}")]
    Library(#[from] rustls::Error),
}

/// A certificate with the names it is served for.
#[derive(Debug)]
pub struct Certified {
    files: CertificateFiles,
    pub config: Arc<ServerConfig>,
}

impl Certified {
    /// Whether requests for this host may come over a connection that was made with it (RFC 9110 section 7.4).
    pub fn covers(&self, host: &HostName) -> bool {
        self.files.hosts.iter().any(|pattern| pattern.matches(host))
    }
}

/// All certificates, by name. Exact names win over wildcards.
#[derive(Debug, Default)]
pub struct CertTable {
    exact: HashMap<String, Arc<Certified>>,
    wildcard: HashMap<String, Arc<Certified>>,
}

impl CertTable {
    /// The certificate for a connection; without a name it is looked up by the address that was dialled.
    pub fn find(&self, name: Option<&str>, local: IpAddr) -> Option<&Arc<Certified>> {
        let host = match name {
            Some(name) => HostName::from_authority(name).ok()?,
            None => HostName::from_authority(&bracketed(local.to_canonical())).ok()?,
        };
        self.exact.get(host.as_str()).or_else(|| self.wildcard.get(host.parent()?))
    }

    fn put(&mut self, pattern: &HostPattern, certified: &Arc<Certified>) {
        let (index, name) = match pattern {
            HostPattern::Exact(name) => (&mut self.exact, name),
            HostPattern::Wildcard(parent) => (&mut self.wildcard, parent),
        };
        index.insert(name.as_str().to_owned(), certified.clone());
    }

    /// What handshakes with each pair, by its digest: the same pair is never read twice, whatever hosts it serves.
    fn configs(&self) -> HashMap<&str, &Arc<ServerConfig>> {
        let all = self.exact.values().chain(self.wildcard.values());
        all.map(|certified| (certified.files.digest.as_str(), &certified.config)).collect()
    }

    fn get(&self, pattern: &HostPattern) -> Option<&Arc<Certified>> {
        match pattern {
            HostPattern::Exact(name) => self.exact.get(name.as_str()),
            HostPattern::Wildcard(parent) => self.wildcard.get(parent.as_str()),
        }
    }
}

/// What all certificates share: the library's settings and the keys of its tickets.
#[derive(Debug)]
pub struct TlsSetup {
    provider: Arc<CryptoProvider>,
    ticketer: Arc<dyn ProducesTickets>,
    sessions: Arc<ServerSessionMemoryCache>,
    /// Refuses every handshake, with an alert.
    pub refusing: Arc<ServerConfig>,
}

impl TlsSetup {
    pub fn new() -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        let sessions = ServerSessionMemoryCache::new(SESSIONS);
        let mut refusing = config(&provider, Arc::new(NoCertificate))?;
        refusing.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self { provider, ticketer, sessions, refusing: Arc::new(refusing) })
    }

    /// The table of a section. A pair whose digest is known is not read again; what fails leaves its hosts with the
    /// certificate they had, and is named in the second part. May read files: not for async threads.
    pub fn table(
        &self,
        section: &[CertificateFiles],
        keys: Option<&Keys>,
        before: &CertTable,
    ) -> (CertTable, Vec<TlsError>) {
        let (mut table, mut faults, known) = (CertTable::default(), Vec::new(), before.configs());
        for files in section {
            let config = match known.get(files.digest.as_str()) {
                Some(config) => Ok(Arc::clone(config)),
                None => self.certify(files, keys),
            };
            match config.map(|config| Arc::new(Certified { files: files.clone(), config })) {
                Ok(certified) => files.hosts.iter().for_each(|host| table.put(host, &certified)),
                Err(fault) => {
                    faults.push(fault);
                    for host in &files.hosts {
                        before.get(host).cloned().iter().for_each(|old| table.put(host, old));
                    }
                }
            }
        }
        (table, faults)
    }

    fn certify(&self, files: &CertificateFiles, keys: Option<&Keys>) -> Result<Arc<ServerConfig>, TlsError> {
        let path = || files.chain.display().to_string();
        let (chain, key) = match keys.and_then(|keys| keys.pair(&files.digest)) {
            Some(pair) => pair.map_err(|error| TlsError::Unreadable { path: path(), error })?,
            None => (read(&files.chain)?, read(&files.key)?),
        };
        if digest(&chain, &key) != files.digest {
            return Err(TlsError::Digest(path()));
        }
        let pem = |error| TlsError::Pem { path: path(), error };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>().map_err(pem)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(pem)?;
        let key = CertifiedKey::from_der(chain, key, &self.provider)
            .map_err(|error| TlsError::Unusable { path: path(), error })?;
        let mut config = config(&self.provider, Arc::new(SingleCertAndKey::from(key)))?;
        config.ticketer = self.ticketer.clone();
        config.session_storage = self.sessions.clone();
        Ok(Arc::new(config))
    }
}

/// TLS 1.2 and 1.3, HTTP/2 before HTTP/1.1, and no early data: a replayed request could act twice (RFC 8470).
fn config(provider: &Arc<CryptoProvider>, resolver: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.max_early_data_size = 0;
    Ok(config)
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| TlsError::Unreadable { path: path.display().to_string(), error })
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::link::keys::Packing;

    /// A self-signed certificate for these names in `directory`, as control would announce it.
    pub fn certificate(directory: &Path, names: &[&str]) -> CertificateFiles {
        let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
        let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
        let stem = names[0].replace('*', "any");
        let (chain, key) = (directory.join(format!("{stem}.pem")), directory.join(format!("{stem}.key")));
        std::fs::write(&chain, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let digest = digest(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes());
        CertificateFiles { hosts: names.iter().map(|name| name.parse().unwrap()).collect(), chain, key, digest }
    }

    #[test]
    fn names_find_their_certificate_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let files =
            [certificate(directory.path(), &["a.test", "*.b.test"]), certificate(directory.path(), &["127.0.0.1"])];
        let (table, faults) = TlsSetup::new().unwrap().table(&files, None, &CertTable::default());
        assert!(faults.is_empty());
        let (here, there) = ("127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap());
        let hosts = |name, local| table.find(name, local).map(|found| found.files.hosts[0].to_string());
        assert_eq!(hosts(Some("A.test"), there).as_deref(), Some("a.test"));
        assert_eq!(hosts(Some("x.b.test"), there).as_deref(), Some("a.test"));
        assert_eq!(hosts(Some("b.test"), here), None);
        assert_eq!(hosts(None, here).as_deref(), Some("127.0.0.1"));
        assert_eq!(hosts(None, there), None);
    }

    #[test]
    fn a_broken_pair_keeps_the_one_before_and_does_not_stop_others() {
        let directory = tempfile::tempdir().unwrap();
        let setup = TlsSetup::new().unwrap();
        let first = certificate(directory.path(), &["a.test"]);
        let (before, _) = setup.table(std::slice::from_ref(&first), None, &CertTable::default());
        let changed = CertificateFiles { digest: "0".repeat(64), ..first.clone() };
        let (after, faults) = setup.table(&[changed, certificate(directory.path(), &["b.test"])], None, &before);
        let anywhere = "127.0.0.1".parse().unwrap();
        assert_eq!(faults.len(), 1);
        assert!(Arc::ptr_eq(
            after.find(Some("a.test"), anywhere).unwrap(),
            before.find(Some("a.test"), anywhere).unwrap()
        ));
        assert!(after.find(Some("b.test"), anywhere).is_some());
    }

    #[test]
    fn a_pair_that_was_handed_over_needs_no_file_and_is_taken_once() {
        let directory = tempfile::tempdir().unwrap();
        let setup = TlsSetup::new().unwrap();
        let files = certificate(directory.path(), &["a.test", "b.test"]);
        let mut packing = Packing::begin().unwrap();
        packing.add(&files.digest, &read(&files.chain).unwrap(), &read(&files.key).unwrap()).unwrap();
        let keys = Keys::open(packing.seal().unwrap()).unwrap();
        std::fs::remove_file(&files.key).unwrap();
        let none = CertTable::default();
        assert_eq!(setup.table(std::slice::from_ref(&files), None, &none).1.len(), 1);
        let (first, faults) = setup.table(std::slice::from_ref(&files), Some(&keys), &none);
        assert!(faults.is_empty());
        // The same pair for other hosts, without having travelled again.
        let other = CertificateFiles { hosts: vec!["b.test".parse().unwrap(), "c.test".parse().unwrap()], ..files };
        let (second, faults) = setup.table(&[other], None, &first);
        assert!(faults.is_empty());
        let config = |table: &CertTable, name| table.find(Some(name), "::1".parse().unwrap()).unwrap().config.clone();
        assert!(Arc::ptr_eq(&config(&first, "a.test"), &config(&second, "c.test")));
    }

    #[test]
    fn bytes_that_are_not_the_announced_ones_are_refused_however_they_came() {
        let directory = tempfile::tempdir().unwrap();
        let (files, other) = (certificate(directory.path(), &["a.test"]), certificate(directory.path(), &["b.test"]));
        let mut packing = Packing::begin().unwrap();
        packing.add(&files.digest, &read(&other.chain).unwrap(), &read(&other.key).unwrap()).unwrap();
        let keys = Keys::open(packing.seal().unwrap()).unwrap();
        let (table, faults) = TlsSetup::new().unwrap().table(&[files], Some(&keys), &CertTable::default());
        assert!(matches!(faults[..], [TlsError::Digest(_)]) && table.exact.is_empty());
    }
}
