//! `opri deploy` and `opri rollback`: the same pipeline as a hook, followed live.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::client::{Client, piece, quoted};
use super::{Common, Done, Exit, Failure, block_on, print_json};
use crate::control::web::api::{CancelOrder, Cancelled, DeployOrder, Followed, Ordered, RollbackOrder};
use crate::model::deployment::{Deployment, DeploymentId, Outcome, Stage};
use crate::model::name::{Commit, Site};
use crate::report;

/// An app that was started is given ten seconds to end, and a container the same with the engine's own time.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

pub fn deploy(common: &Common, site: Site, commit: Option<Commit>) -> Done {
    let client = Client::new(common)?;
    block_on(async {
        let ordered: Ordered = client.post("/v1/deploy", &DeployOrder { site, commit }).await?;
        follow(&client, &ordered.deployment, common.json).await
    })
}

pub fn rollback(common: &Common, site: Site, release: Option<u64>) -> Done {
    let client = Client::new(common)?;
    block_on(async {
        let ordered: Ordered = client.post("/v1/rollback", &RollbackOrder { site, release }).await?;
        follow(&client, &ordered.deployment, common.json).await
    })
}

/// Ends what is under way, and waits until it has ended.
pub fn cancel(common: &Common, site: Site) -> Done {
    let client = Client::new(common)?;
    let ended = block_on(async {
        let cancelled: Cancelled = client.post("/v1/cancel", &CancelOrder { site, by: who_asks() }).await?;
        let mut ended = Vec::new();
        for id in &cancelled.deployments {
            let late = |_| Failure::Said {
                exit: Exit::TimedOut,
                error: format!("{id} has not ended within {} s", ENDS_WITHIN.as_secs()),
                hint: Some("it was told to: `opri list` shows where it is".to_owned()),
            };
            ended.extend(timeout(ENDS_WITHIN, ending(&client, id)).await.map_err(late)??);
        }
        Ok(ended)
    })?;
    if common.json {
        print_json(&ended)?;
    }
    for deployment in &ended {
        match &deployment.outcome {
            Some(Outcome::Cancelled { at, .. }) if !common.json => say!("{} is cancelled while {at}", deployment.id),
            Some(Outcome::Cancelled { .. }) => {}
            Some(Outcome::Live { .. }) | None => {
                let (error, hint) = (format!("{} serves: it was too late", deployment.id), "`opri rollback` goes back");
                return Err(Failure::Said { exit: Exit::Refused, error, hint: Some(hint.to_owned()) });
            }
            Some(Outcome::Failed { .. } | Outcome::Superseded { .. }) if common.json => {}
            Some(Outcome::Failed { .. } | Outcome::Superseded { .. }) => say!("{} had ended by itself", deployment.id),
        }
    }
    Ok(())
}

/// The person at the shell, whoever they became by sudo.
fn who_asks() -> String {
    let own = || nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    let name = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty()).or_else(own);
    name.unwrap_or_else(|| format!("user {}", nix::unistd::getuid()))
}

/// Prints a line a stage and the build's output, until the deployment serves or has ended.
pub async fn follow(client: &Client, id: &DeploymentId, json: bool) -> Done {
    let mut telling = Telling { json, since: Instant::now(), ending: None };
    each_line(client, id, |line| telling.tell(line)).await?;
    telling.ending.unwrap_or_else(|| Err(Failure::new("control ended before the deployment did")))
}

/// How a deployment stands at last.
async fn ending(client: &Client, id: &DeploymentId) -> Result<Option<Deployment>, Failure> {
    let mut last = None;
    let hear = |line: &[u8]| {
        if let Followed::Stage(deployment) = serde_json::from_slice(line).map_err(Failure::new)? {
            last = Some(*deployment);
        }
        Ok(())
    };
    each_line(client, id, hear).await?;
    Ok(last)
}

/// The JSON lines that tell a deployment.
async fn each_line(client: &Client, id: &DeploymentId, mut hear: impl FnMut(&[u8]) -> Done) -> Done {
    let mut body = client.open(&format!("/v1/follow?deployment={}", quoted(id))).await?;
    let mut rest = Vec::new();
    while let Some(bytes) = piece(&mut body).await? {
        rest.extend_from_slice(&bytes);
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            hear(&line)?;
        }
    }
    Ok(())
}

struct Telling {
    json: bool,
    since: Instant,
    ending: Option<Done>,
}

impl Telling {
    fn tell(&mut self, line: &[u8]) -> Done {
        let followed: Followed = serde_json::from_slice(line).map_err(Failure::new)?;
        if self.json {
            say_on!("{}", String::from_utf8_lossy(line));
        }
        match followed {
            Followed::Log(text) if !self.json => say!("    {}", report::clean(&text)),
            Followed::Log(_) => {}
            Followed::Stage(deployment) => self.stage(&deployment),
        }
        Ok(())
    }

    fn stage(&mut self, deployment: &Deployment) {
        let release = deployment.release.map_or_else(String::new, |release| format!("r{release}"));
        let serves = deployment.stage >= Stage::Draining;
        let words = match &deployment.outcome {
            Some(Outcome::Failed { at, reason }) => {
                let error = format!("{} failed while {at}: {reason}", deployment.id);
                let hint = Some(format!(
                    "nothing that served was touched; `opri logs --build {}` shows more",
                    deployment.id.site
                ));
                self.ending = Some(Err(Failure::Said { exit: Exit::Failed, error, hint }));
                return;
            }
            Some(Outcome::Cancelled { at, by }) => {
                let error = format!("{} was cancelled by {by} while {at}", deployment.id);
                let hint = Some("nothing that served was touched".to_owned());
                self.ending = Some(Err(Failure::Said { exit: Exit::Refused, error, hint }));
                return;
            }
            Some(Outcome::Superseded { by }) => {
                let error = format!("{} gave way to the newer #{by}", deployment.id);
                self.ending = Some(Err(Failure::Said { exit: Exit::Refused, error, hint: None }));
                return;
            }
            Some(Outcome::Live { .. }) | None if serves => {
                self.ending = Some(Ok(()));
                let swap = deployment.swap.unwrap_or_default().as_secs_f64() * 1000.0;
                format!("{release} serves (swap {swap:.1} ms)")
            }
            _ => deployment.stage.to_string(),
        };
        if !self.json {
            let commit = deployment.commit.as_ref().map_or("", |commit| commit.short());
            let line = format!("{words} {commit}");
            say!("{:>7.2}s  {}  {}", self.since.elapsed().as_secs_f32(), deployment.id, line.trim_end());
        }
    }
}
