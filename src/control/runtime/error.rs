//! Why something could not be built, started, watched or stopped. Read by `deploy` and by people.
//!
//! The rule: what a person can mend carries a hint; what the engine or the system said is passed on in its own words.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::replica::Exit;

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error(
        "no Docker engine answers at {socket}: {why} (hint: start it, or set `runtime = \"process\"` in prime.toml)"
    )]
    NoEngine { socket: String, why: String },
    #[error("the Docker engine speaks API {spoken:?}, and 1.41 is the least (hint: install Docker 20.10 or newer)")]
    EngineOld { spoken: String },
    #[error("docker could not {step}: {why}")]
    Engine { step: &'static str, status: Option<u16>, why: String },
    #[error("docker did not {step} within {} s", .limit.as_secs())]
    EngineSlow { step: &'static str, limit: Duration },
    #[error("the repository has no {path} (hint: add one, or say where it is with `dockerfile` in opri.toml)")]
    NoDockerfile { path: String },
    #[error(
        "no Dockerfile and no run line: nothing says how to start it (hint: give `run` in opri.toml, or a Procfile with a \
         `web:` line)"
    )]
    NothingToRun,
    #[error(
        "there is a Dockerfile, but this machine runs processes, and there is no run line for one (hint: start Docker and \
         set `runtime = \"docker\"` in prime.toml, or give `run` in opri.toml)"
    )]
    NeedsDocker,
    #[error("the {what} failed: {why}")]
    Failed { what: &'static str, why: String },
    #[error("the {what} ended with {exit}")]
    Ended { what: &'static str, exit: Exit },
    #[error("the {what} took longer than {} s and was stopped", .limit.as_secs())]
    TimedOut { what: &'static str, limit: Duration },
    #[error("the {what} took more than {most} and was stopped (hint: see [build] in prime.toml)")]
    TooMuch { what: &'static str, most: String },
    #[error("the source ended early: {0}")]
    Source(#[source] io::Error),
    #[error("the repository cannot be unpacked: {0}")]
    Unpack(String),
    #[error("{path} is too long for a Unix socket (hint: choose a shorter `state_dir`)")]
    SocketPath { path: PathBuf },
    #[error("the app put something at {path} that is not a socket")]
    NotASocket { path: PathBuf },
    #[error("{0} is in use")]
    InUse(String),
    #[error("{what} was made for another runtime than this machine's {runtime} (hint: deploy it again)")]
    OtherRuntime { what: String, runtime: &'static str },
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: io::Error },
    #[error("the system gives no random numbers")]
    NoRandomness,
}

impl RuntimeError {
    pub(super) fn at(path: impl Into<PathBuf>, error: io::Error) -> Self {
        Self::Io { path: path.into(), error }
    }
}
