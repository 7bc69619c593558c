//! One running instance, as a value that `deploy` stores and a later control finds it by.
//!
//! The rule: it says enough to be sure that what runs now is the very thing that was started.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use serde::{Deserialize, Serialize};

use super::error::RuntimeError;
use crate::model::address::Address;
use crate::model::name::Site;

/// A replica of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    pub id: ReplicaId,
    pub site: Site,
    /// The release's number.
    pub release: u64,
    /// Which of the release's replicas, from 0.
    pub number: u16,
    pub what: What,
    /// Where it may answer, by the release's `listen`; with `auto` the socket comes first.
    pub candidates: Vec<Address>,
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// By the container's full id.
    Container(String),
    /// By the number of the process that leads the group, when it started (clock ticks since boot, proc_pid_stat(5))
    /// and in which boot: together they mean one process for ever.
    Process { pid: i32, started: u64, boot: String },
}

/// Eight hexadecimal digits that no other replica has: a directory, and part of a container's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReplicaId(String);

impl ReplicaId {
    pub(super) fn random() -> Result<Self, RuntimeError> {
        let mut bytes = [0; 4];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| RuntimeError::NoRandomness)?;
        Ok(Self(format!("{:08x}", u32::from_be_bytes(bytes))))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ReplicaId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let is_id = text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if is_id { Ok(Self(text)) } else { Err(format!("`{text}` is not a replica's id")) }
    }
}

impl From<ReplicaId> for String {
    fn from(id: ReplicaId) -> String {
        id.0
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// Gone, and nobody was there to see how.
    Unknown,
}

impl Exit {
    pub fn is_success(self) -> bool {
        self == Exit::Code(0)
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(signal)) => Exit::Signal(signal),
            (None, None) => Exit::Unknown,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit status {code}"),
            Exit::Signal(signal) => write!(f, "signal {signal}"),
            Exit::Unknown => f.write_str("an unknown status"),
        }
    }
}
