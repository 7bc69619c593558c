//! The start of one app as a process of its own.
//!
//! Used by the process runtime. The rule: the app's first instruction comes after its record is on disk, so that no
//! moment is left in which control could die and the app be forgotten.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::super::Environment;
use super::super::error::RuntimeError;
use super::super::log::{open_append, rotate};
use super::super::places::Places;
use super::super::replica::{Replica, ReplicaId, What};
use super::{directory, kin};
use crate::model::address::Address;
use crate::model::app::Listen;
use crate::model::release::Release;

/// Starts `line`, with `env` and what the contract adds, as the replica of this id and number.
pub async fn launch(
    places: &Places,
    release: &Release,
    (id, number): (ReplicaId, u16),
    (line, env): (&str, &Environment),
) -> Result<(Replica, Child), RuntimeError> {
    let (socket, port) = (places.socket(&id), free_port().map_err(|error| RuntimeError::at("/", error))?);
    let path = places.log(&release.site, release.number);
    let log = rotate(&path).and_then(|()| open_append(&path)).and_then(|log| Ok((log.try_clone()?, log)));
    let (stdout, stderr) = log.map_err(|error| RuntimeError::at(&path, error))?;
    let mut command = shell(directory(release)?, GATE);
    command.args(["opri", line]).envs(env).env("SOCKET", &socket);
    command.env("PORT", port.port().to_string()).env("HOST", port.ip().to_string());
    command.stdin(Stdio::piped()).stdout(stdout).stderr(stderr).process_group(0);
    let failed = |error: io::Error| RuntimeError::Failed { what: "start", why: error.to_string() };
    let mut child = command.spawn().map_err(failed)?;
    crash_point!("replica.begun");

    let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
    let (pid, started) = pid
        .and_then(|pid| Some((pid, kin::started(pid)?)))
        .ok_or(RuntimeError::Failed { what: "start", why: "the process was gone at once".to_owned() })?;
    let replica = Replica {
        site: release.site.clone(),
        release: release.number,
        number,
        what: What::Process { pid, started, boot: kin::boot() },
        candidates: candidates(release.app.listen, socket, port),
        id,
    };
    places.write_record(&replica)?;
    crash_point!("replica.recorded");
    let mut gate = child.stdin.take().ok_or_else(|| failed(io::Error::other("it has no input")))?;
    gate.write_all(b"go\n").await.map_err(failed)?;
    Ok((replica, child))
}

/// A shell in a release's directory, with the bare environment.
pub fn shell(folder: &Path, script: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).current_dir(folder).env_clear().stdin(Stdio::null());
    for name in ["PATH", "HOME", "LANG"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

fn candidates(listen: Listen, socket: PathBuf, port: SocketAddr) -> Vec<Address> {
    match listen {
        Listen::Socket => vec![Address::Unix(socket)],
        Listen::Port => vec![Address::Tcp(port)],
        Listen::Auto => vec![Address::Unix(socket), Address::Tcp(port)],
    }
}

/// A loopback port that nobody listens on now. Somebody might before the app does; then the app fails its gate.
fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Waits for the word that the record is written, then becomes the app. When control dies before, the pipe closes and
/// the app never began.
const GATE: &str = r#"read -r go && exec sh -c "$1" </dev/null"#;
