//! Where a replica answers: a Unix socket, or a TCP address that is already resolved.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest path a Unix socket can be bound to or dialled at, in bytes: `sun_path` holds 108 with its NUL (unix(7)).
pub const SOCKET_PATH_MAX: usize = 107;

/// The address of one replica. Never a name: resolving on the way of a request would wait.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressFault {
    #[error("`{0}` is not an address: give `IP:PORT` or `unix:/path/to/socket`")]
    Malformed(String),
    #[error("`{0}` is too long for a Unix socket: at most {SOCKET_PATH_MAX} bytes")]
    TooLong(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(address) => address.fmt(f),
        }
    }
}

impl FromStr for Address {
    type Err = AddressFault;
    fn from_str(text: &str) -> Result<Self, AddressFault> {
        match text.strip_prefix("unix:") {
            Some(path) if path.len() > SOCKET_PATH_MAX => Err(AddressFault::TooLong(path.to_owned())),
            Some(path) if path.starts_with('/') => Ok(Address::Unix(PathBuf::from(path))),
            Some(_) => Err(AddressFault::Malformed(text.to_owned())),
            None => text.parse().map(Address::Tcp).map_err(|_| AddressFault::Malformed(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = AddressFault;
    fn try_from(text: String) -> Result<Self, AddressFault> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}
