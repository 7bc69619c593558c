//! Reading a shared webhook secret from where conf says it lies.
//!
//! Called by `github`. The rule it keeps: the bytes are never printed, and an empty secret is no secret.

use std::path::PathBuf;

use crate::model::project::Secret;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    #[error("the secret file {0} cannot be read: {1}")]
    File(PathBuf, std::io::ErrorKind),
    #[error("the environment variable {0} that holds a secret is not set")]
    Env(String),
    #[error("the secret at {0} is empty")]
    Empty(String),
}

/// The secret's bytes, without the line end that editors leave.
pub fn read(secret: &Secret) -> Result<Vec<u8>, SecretFault> {
    let (mut bytes, place) = match secret {
        Secret::File(path) => {
            let bytes = std::fs::read(path).map_err(|error| SecretFault::File(path.clone(), error.kind()))?;
            (bytes, path.display().to_string())
        }
        Secret::Env(name) => {
            let value = std::env::var_os(name).ok_or_else(|| SecretFault::Env(name.clone()))?;
            (value.into_encoded_bytes(), name.clone())
        }
    };
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    if bytes.is_empty() { Err(SecretFault::Empty(place)) } else { Ok(bytes) }
}
