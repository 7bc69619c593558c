//! One run of git: a clean environment, arguments as a list, a process group, a deadline, bounded output.
//!
//! Used by `source` alone. The rule: no configuration but ours is read, and what a step may reach is said by its caller.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::SourceError;
use crate::control::child::Group;

/// One run of git.
pub struct Step {
    pub name: &'static str,
    pub limit: Duration,
    pub arguments: Vec<OsString>,
}

/// What a finished git left.
pub struct Output {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    /// Its last words.
    pub why: String,
}

/// Git with these arguments, in the directory that holds all mirrors.
pub fn command(home: &Path, arguments: &[OsString]) -> Command {
    let mut command = Command::new("git");
    command.env_clear().current_dir(home).stdin(Stdio::null());
    for name in KEPT_ENVIRONMENT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(ENVIRONMENT).env("HOME", home).env("GIT_CEILING_DIRECTORIES", home);
    command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting])).args(arguments);
    command
}

/// Reads a stream to its end but keeps only the last `keep` bytes.
pub async fn last_words(mut stream: impl AsyncRead + Unpin, keep: usize) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        let surplus = kept.len().saturating_sub(keep);
        kept.drain(..surplus);
    }
    let text = String::from_utf8_lossy(&kept);
    let text = text.trim();
    if text.is_empty() { "it gave no reason".to_owned() } else { text.lines().collect::<Vec<_>>().join("; ") }
}

/// Runs a command of git to its end, within `limit`.
pub async fn run(mut command: Command, step: &'static str, limit: Duration) -> Result<Output, SourceError> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group::spawn(command).map_err(SourceError::NoGit)?;
    let (stdout, stderr) = (group.child().stdout.take(), group.child().stderr.take());
    let (Some(stdout), Some(stderr)) = (stdout, stderr) else {
        return Err(SourceError::Git { step, why: "it has no output".to_owned() });
    };
    let work = async {
        // A reader that stops early drops git's pipe, which ends git.
        let reading = async move {
            let mut kept = Vec::new();
            match stdout.take(OUTPUT_MAX).read_to_end(&mut kept).await? as u64 {
                OUTPUT_MAX => Err(io::Error::other("it said too much")),
                _ => Ok(kept),
            }
        };
        let (stdout, why, status) = tokio::join!(reading, last_words(stderr, 4096), group.wait());
        Ok::<_, io::Error>(Output { stdout: stdout?, code: status?.code(), why })
    };
    match tokio::time::timeout(limit, work).await {
        Ok(finished) => finished.map_err(|error| SourceError::Git { step, why: error.to_string() }),
        Err(_) => Err(SourceError::TimedOut { step, limit }),
    }
}

/// What it said, if it went well.
pub fn succeeded(output: Output, step: &'static str) -> Result<Vec<u8>, SourceError> {
    match output.code {
        Some(0) => Ok(output.stdout),
        _ => Err(SourceError::Git { step, why: output.why }),
    }
}

/// Far above what any step but an archive says.
const OUTPUT_MAX: u64 = 8 << 20;

/// What git and ssh may know of our own environment: where programs lie and which proxy leads out.
const KEPT_ENVIRONMENT: [&str; 6] = ["PATH", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "SSH_AUTH_SOCK"];

const ENVIRONMENT: [(&str, &str); 9] = [
    ("LC_ALL", "C"),
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_ASKPASS", "/bin/false"),
    ("SSH_ASKPASS", "/bin/false"),
    ("GIT_HTTP_LOW_SPEED_LIMIT", "1000"),
    ("GIT_HTTP_LOW_SPEED_TIME", "30"),
    ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=10"),
];

const SETTINGS: [&str; 8] = [
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "transfer.fsckObjects=true",
    "protocol.version=2",
    "protocol.ext.allow=never",
    "http.followRedirects=initial",
    // Only `prune` tidies up, in its turn.
    "gc.auto=0",
    "maintenance.auto=false",
];
