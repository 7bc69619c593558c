//! `opri serve`, and the edge that it starts.

use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::{Done, Exit, Failure};
use crate::control::web::api::{Status, shown};
use crate::control::{self, Ending, ServeError};
use crate::model::user::User;
use crate::{edge, report};

/// How long what is under way may take to end before another control takes the place of this one.
const LAST: Duration = Duration::from_secs(5);

pub fn run(dir: &Path) -> Done {
    log_to_stderr();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let inherited = control::live::inherited();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::new)?;
    let ended = runtime.block_on(control::serve(dir.to_owned(), inherited, announce)).map_err(|error| match error {
        ServeError::Conf(faults) => {
            report::print_faults(&faults);
            Failure::Told(Exit::Failed)
        }
        error => Failure::new(report::with_causes(&error)),
    });
    if matches!(ended, Ok(Ending::Again)) {
        // Whatever was under way ends as it does when control leaves.
        runtime.shutdown_timeout(LAST);
        return Err(begin_again());
    }
    ended.map(drop)
}

/// Puts the program that is on disk now in the place of this one, under the same number. Returns only when that fails.
fn begin_again() -> Failure {
    let binary = match control::live::binary() {
        Ok(binary) => binary,
        Err(error) => return Failure::new(error),
    };
    let mut control = Command::new(&binary);
    control.args(std::env::args_os().skip(1));
    // It speaks of descriptors that this process has taken.
    control.env_remove("LISTEN_FDNAMES");
    Failure::new(format!("{} cannot take the place of this control: {}", binary.display(), control.exec()))
}

/// The data plane, as a process of its own.
pub fn edge(state_dir: PathBuf, start: edge::Start, user: Option<User>) -> Done {
    log_to_stderr();
    let options = edge::Options { state_dir, start };
    edge::main_loop(options, user).map_err(|error| Failure::new(report::with_causes(&error)))
}

/// What a person wants to know once everything is served.
fn announce(status: &Status) {
    report::print_faults(&status.faults);
    let projects = if status.projects == 1 { "project" } else { "projects" };
    say!("opri {} serves {} {projects}", status.version, status.projects);
    for (name, addresses) in [
        ("http", shown(&status.listeners.http)),
        ("https", shown(&status.listeners.https)),
        ("proxied http", shown(&status.listeners.proxied_http)),
        ("proxied https", shown(&status.listeners.proxied_https)),
        ("metrics", shown(status.listeners.metrics.as_slice())),
        ("runtime", status.runtime.clone()),
        ("webhooks", status.hooks.clone()),
        ("dashboard", status.dashboard.clone().unwrap_or_default()),
    ] {
        if !addresses.is_empty() {
            say!("  {name:13} {addresses}");
        }
    }
    if status.edge.was_adopted {
        say!("  the edge (pid {}) was running and goes on", status.edge.pid);
    }
}

/// `OPRI_LOG` chooses what is said, as in `OPRI_LOG=debug`; pingora's own words only when something is wrong.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("OPRI_LOG").unwrap_or_else(|_| EnvFilter::new("info,pingora=error,h2=error"));
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_terminal)
        .with_writer(std::io::stderr)
        // A log on a full disk costs its lines: complaining about that would panic for want of a place to complain to.
        .log_internal_errors(false)
        .init();
}
