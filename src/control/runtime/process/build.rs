//! A checkout, made into something that can run: unpacked, then the `build` line in it.
//!
//! Used by the process runtime. The rule: a directory is there under its name only as long as its build goes on or has
//! succeeded; a build that fails, takes too long or is dropped takes its directory and all its processes with it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::super::error::RuntimeError;
use super::super::places::{Places, make_private, remove_tree};
use super::super::unpack::unpack;
use super::super::{BuildLog, BuildOrder, ByteStream};
use super::running::Running;
use super::shell;
use crate::model::app::AppSpec;

/// Gives the directory of the built checkout.
pub async fn build(
    places: &Places,
    order: &BuildOrder,
    source: ByteStream,
    log: &BuildLog,
) -> Result<PathBuf, RuntimeError> {
    let folder = places.release(&order.site, order.number);
    let limit = order.limits.timeout;
    let work = async {
        log.line(&format!("unpacking {} into {}", order.commit.short(), folder.display()));
        let unfinished = place(&folder, source).await?;
        // Before the build: nothing is gained by building what cannot be started.
        if order.app.build.is_none() {
            run_line(&order.app, &folder)?;
        }
        if let Some(line) = &order.app.build {
            log.line(&format!("$ {line}"));
            let mut command = leashed(&folder, line);
            command.arg("idle");
            command.env("OPRI_PROJECT", order.site.project.as_str()).env("OPRI_BRANCH", order.site.branch.as_str());
            command.env("OPRI_COMMIT", order.commit.as_str());
            let running = Running::begin("build", command)?;
            running.yield_to_others();
            let too_much = running.too_much(order.limits.memory, order.limits.pids);
            running.end(limit, too_much, log).await?;
            run_line(&order.app, &folder)?;
        }
        unfinished.keep();
        Ok(folder.clone())
    };
    match tokio::time::timeout(limit, work).await {
        Ok(built) => built,
        Err(_) => Err(RuntimeError::TimedOut { what: "build", limit }),
    }
}

/// A shell line for `Running`: should control be killed, all that the line started goes too.
pub fn leashed(folder: &Path, line: &str) -> Command {
    let mut command = shell(folder, LEASH);
    command.args(["opri", line]).stdin(Stdio::piped());
    command
}

/// What starts the app: `run`, else the Procfile's `web` line.
pub fn run_line(app: &AppSpec, folder: &Path) -> Result<String, RuntimeError> {
    let procfile = || std::fs::read_to_string(folder.join("Procfile")).ok();
    let line = app.run.clone().or_else(|| web_line(&procfile()?));
    line.filter(|line| !line.trim().is_empty()).ok_or_else(|| match folder.join(&app.dockerfile).is_file() {
        true => RuntimeError::NeedsDocker,
        false => RuntimeError::NothingToRun,
    })
}

fn web_line(procfile: &str) -> Option<String> {
    procfile.lines().find_map(|line| line.strip_prefix("web:")).map(|line| line.trim().to_owned())
}

/// Unpacks beside, then takes the name at once.
async fn place(folder: &Path, source: ByteStream) -> Result<Unfinished, RuntimeError> {
    let parent = folder.parent().unwrap_or(folder);
    make_private(parent)?;
    let aside = tempfile::Builder::new().prefix(".unpacking-").tempdir_in(parent);
    let aside = aside.map_err(|error| RuntimeError::at(parent, error))?;
    let fresh = aside.path().join("r");
    make_private(&fresh)?;
    unpack(source, &fresh).await?;
    // The number is only being given: what lies there is left over from a control that was killed.
    remove_tree(folder)?;
    std::fs::rename(&fresh, folder).map_err(|error| RuntimeError::at(folder, error))?;
    Ok(Unfinished { folder: folder.to_owned(), is_kept: false })
}

/// Removes the directory unless it is kept.
struct Unfinished {
    folder: PathBuf,
    is_kept: bool,
}

impl Unfinished {
    fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.is_kept
            && let Err(error) = remove_tree(&self.folder)
        {
            tracing::warn!(%error, "a failed build's directory stays until the next start");
        }
    }
}

/// Nobody writes into the pipe that stands at the input: it ends with the control that holds it, and then its reader ends
/// the group. The reader is nobody's child, so that the line does not wait for it.
///
/// What is to be idle runs only when nothing else wants the processor, and stops at once when something does (sched(7));
/// the lowest priority alone still lets it finish its turn.
const LEASH: &str = r#"exec 3<&0; ( (read -r never <&3; kill -9 -$$) & )
[ "$2" = idle ] && command -v chrt >/dev/null && exec chrt --idle 0 sh -c "$1" </dev/null 3<&-
exec sh -c "$1" </dev/null 3<&-"#;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_build_ends_with_the_control_that_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = leashed(dir.path(), "sleep 1000 & echo $! >child; wait; wait");
        let mut leader = command.process_group(0).spawn().unwrap();
        let child = dir.path().join("child");
        let looking = async {
            loop {
                let read = std::fs::read_to_string(&child).unwrap_or_default();
                match read.trim().parse::<i32>() {
                    Ok(pid) if read.ends_with('\n') => return pid,
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let pid = tokio::time::timeout(Duration::from_secs(10), looking).await.unwrap();
        let handle = crate::control::child::Handle::open(rustix::process::Pid::from_raw(pid).unwrap()).unwrap();
        assert_eq!(leader.try_wait().unwrap(), None);
        drop(leader.stdin.take());
        tokio::time::timeout(Duration::from_secs(10), leader.wait()).await.unwrap().unwrap();
        tokio::time::timeout(Duration::from_secs(10), handle.ended()).await.unwrap().unwrap();
    }

    #[test]
    fn a_procfile_says_what_to_start() {
        assert_eq!(web_line("release: x\nweb:  ./serve -p $PORT \n").as_deref(), Some("./serve -p $PORT"));
        assert_eq!(web_line("worker: x\n# web: y\n"), None);
    }
}
