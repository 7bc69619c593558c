//! Reads secrets from where conf says they lie.
//!
//! Called by whoever needs one, when it is needed, so that a secret that was changed holds without a reload. The rule it
//! keeps: a secret is never printed, and an empty one is an error, never a key that signs everything.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::model::project::Secret;

/// The bytes of a secret. `Debug` shows none of them.
#[derive(Clone)]
pub struct SecretBytes(Vec<u8>);

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("the secret file {0} cannot be read")]
    Unreadable(PathBuf, #[source] std::io::Error),
    #[error("the secret file {0} is not a regular file")]
    NotAFile(PathBuf),
    #[error("the environment variable `{0}`, which holds a secret, is not set")]
    Unset(String),
    #[error("the secret in {0} is empty")]
    Empty(String),
    #[error("the secret in {0} is longer than {SECRET_MAX} bytes")]
    TooLong(String),
}

/// Reads a secret, without one final newline. Blocks on the file system.
pub fn read(secret: &Secret) -> Result<SecretBytes, SecretError> {
    let (mut bytes, place) = match secret {
        Secret::File(path) => (read_file(path)?, path.display().to_string()),
        Secret::Env(name) => (read_env(name)?, format!("the environment variable `{name}`")),
    };
    if bytes.len() > SECRET_MAX {
        return Err(SecretError::TooLong(place));
    }
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.is_empty() { Err(SecretError::Empty(place)) } else { Ok(SecretBytes(bytes)) }
}

fn read_file(path: &Path) -> Result<Vec<u8>, SecretError> {
    let unreadable = |error| SecretError::Unreadable(path.to_owned(), error);
    // Asked first: opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(SecretError::NotAFile(path.to_owned()));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(SECRET_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

fn read_env(name: &str) -> Result<Vec<u8>, SecretError> {
    use std::os::unix::ffi::OsStringExt;
    std::env::var_os(name).map(OsStringExt::into_vec).ok_or_else(|| SecretError::Unset(name.to_owned()))
}

impl SecretBytes {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes(…)")
    }
}

/// The longest secret, in bytes: an RSA-8192 key in PEM has 6 KiB.
const SECRET_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Result<SecretBytes, SecretError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        fs::write(&path, bytes).unwrap();
        read(&Secret::File(path))
    }

    #[test]
    fn one_final_newline_is_not_part_of_a_secret() {
        assert_eq!(of(b"key\n").unwrap().as_bytes(), b"key");
        assert_eq!(of(b"key\r\n").unwrap().as_bytes(), b"key");
        assert_eq!(of(b" key \n\n").unwrap().as_bytes(), b" key \n");
    }

    #[test]
    fn empty_and_endless_secrets_are_refused() {
        assert!(matches!(of(b""), Err(SecretError::Empty(_))));
        assert!(matches!(of(b"\n"), Err(SecretError::Empty(_))));
        assert!(matches!(of(&[b'x'; SECRET_MAX + 1]), Err(SecretError::TooLong(_))));
        assert!(matches!(read(&Secret::File("/".into())), Err(SecretError::NotAFile(_))));
        assert!(matches!(read(&Secret::File("/no/such".into())), Err(SecretError::Unreadable(..))));
        assert!(matches!(read(&Secret::Env("OPRI_NO_SUCH_SECRET".into())), Err(SecretError::Unset(_))));
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert!(!format!("{:?}", of(b"hunter2").unwrap()).contains("hunter2"));
    }
}
