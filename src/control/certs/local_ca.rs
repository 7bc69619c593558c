//! Prime's own CA: certificates for hosts that no public CA vouches for, or does not yet.
//!
//! Called by `renew`. Its root lies in `certs/ca/`, is made once, and is trusted only where somebody installs it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use super::{CertFault, Pair};
use crate::model::host::HostPattern;

/// The local CA, with its key in memory.
pub struct LocalCa {
    issuer: rcgen::Issuer<'static, KeyPair>,
}

impl LocalCa {
    /// Whether this certificates' directory has its CA already.
    pub fn exists(certs_dir: &Path) -> bool {
        certs_dir.join("ca").exists()
    }

    /// The CA of this certificates' directory, made at the first time: `ca/root.pem` and `ca/key.pem` (0600).
    pub fn open(certs_dir: &Path, now: SystemTime) -> Result<Self, CertFault> {
        let directory = certs_dir.join("ca");
        if !Self::exists(certs_dir) {
            make(certs_dir, now)?;
        }
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path).map_err(|error| CertFault::Read(path, error))
        };
        let wrong = |error: rcgen::Error| CertFault::LocalCa(directory.clone(), error.to_string());
        let key = KeyPair::from_pem(&read("key.pem")?).map_err(wrong)?;
        let issuer = rcgen::Issuer::from_ca_cert_pem(&read("root.pem")?, key).map_err(wrong)?;
        Ok(Self { issuer })
    }

    /// A certificate for one host or wildcard, with a key of its own.
    pub fn issue(&self, host: &HostPattern, now: SystemTime) -> Result<Pair, CertFault> {
        let key = KeyPair::generate()?;
        let mut params = params(vec![host.to_string()], now, LEAF_LIFETIME)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(Pair { chain: leaf.pem(), key: key.serialize_pem() })
    }
}

/// Makes the CA beside its place and moves it there whole. When another process was faster, that one's CA stands.
fn make(certs_dir: &Path, now: SystemTime) -> Result<(), CertFault> {
    let key = KeyPair::generate()?;
    let mut params = params(Vec::new(), now, ROOT_LIFETIME)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Two roots in one browser must be told apart, so each carries a part of its key's digest.
    let id: String = params.key_identifier(&key).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("Open Prime local CA {id}"));
    let root = params.self_signed(&key)?;

    let place = certs_dir.join("ca");
    let wrong = |error| CertFault::Write(place.clone(), error);
    std::fs::create_dir_all(certs_dir).map_err(wrong)?;
    let aside = tempfile::Builder::new().prefix(".ca-").tempdir_in(certs_dir).map_err(wrong)?;
    let write = |name: &str, text: &str| -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(aside.path())?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(aside.path().join(name))?;
        Ok(())
    };
    write("key.pem", &key.serialize_pem()).map_err(wrong)?;
    write("root.pem", &root.pem()).map_err(wrong)?;
    // The root is for everybody to read and install.
    let readable = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode));
    readable(&aside.path().join("root.pem"), 0o644).map_err(wrong)?;
    readable(aside.path(), 0o755).map_err(wrong)?;
    match std::fs::rename(aside.path(), &place) {
        Err(error) if !place.exists() => Err(wrong(error)),
        _ => Ok(()),
    }
}

fn params(names: Vec<String>, now: SystemTime, lifetime: Duration) -> Result<CertificateParams, CertFault> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Open Prime");
    // A visitor's clock may be somewhat behind ours.
    params.not_before = (now - SKEW).into();
    params.not_after = (now - SKEW + lifetime).into();
    Ok(params)
}

const SKEW: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const ROOT_LIFETIME: Duration = DAY.saturating_mul(3650);
/// Browsers refuse more than 398 days even from a root somebody installed (Apple, since 2020).
const LEAF_LIFETIME: Duration = DAY.saturating_mul(365);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ca_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join("ca").join(name)).unwrap();
        LocalCa::open(dir.path(), SystemTime::now()).unwrap();
        let (root, key) = (read("root.pem"), read("key.pem"));
        LocalCa::open(dir.path(), SystemTime::now()).unwrap();
        assert_eq!((root, key), (read("root.pem"), read("key.pem")));
        let mode = dir.path().join("ca/key.pem").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_leaf_holds_for_its_host_under_the_root() {
        use rustls::client::danger::ServerCertVerifier;
        use rustls::pki_types::pem::PemObject;
        use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

        let dir = tempfile::tempdir().unwrap();
        let ca = LocalCa::open(dir.path(), SystemTime::now()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(dir.path().join("ca/root.pem")).unwrap()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
        for (pattern, host) in [
            ("shop.localhost", "shop.localhost"),
            ("*.shop.test", "a.shop.test"),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
        ] {
            let pair = ca.issue(&pattern.parse().unwrap(), SystemTime::now()).unwrap();
            let leaf = CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap();
            let name = ServerName::try_from(host).unwrap();
            verifier.verify_server_cert(&leaf, &[], &name, &[], UnixTime::now()).expect(pattern);
        }
    }
}
