//! Looks at the heads of branches, and makes good what no hook told: no CI tells twice.
//!
//! One task, from the start on, every few minutes, whenever a hook says that it is worth it, and after a hook's commit was
//! not to be had. The rule: what has not passed is not deployed, also when nobody can be asked; and what was tried, or
//! rolled back from, is left alone until the branch moves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep_until};

use super::desk::{Accepted, Desk, Via};
use super::{DeployError, Workshop};
use crate::control::forge::{Endpoint, Forge, Word};
use crate::model::deployment::{Cause, Deployment, Outcome, Stage};
use crate::model::name::{Commit, ProjectName, Site};
use crate::model::project::{Ci, Origin, Project, Repository};
use crate::model::push::{Provider, Push};

/// Looks that may wait; one more finds them all done.
const QUEUE: usize = 256;

/// A handle to the one who looks; clones are the same.
#[derive(Debug, Clone)]
pub struct Looker {
    asks: mpsc::Sender<ProjectName>,
    unjudged: Arc<Mutex<BTreeMap<Site, String>>>,
}

impl Looker {
    /// Begins to look. `forge` is `None` where nobody can be asked.
    pub fn begin(workshop: Arc<Workshop>, desk: Desk, forge: Option<Forge>) -> Self {
        let (asks, asked) = mpsc::channel(QUEUE);
        let unjudged = Arc::default();
        let looks =
            Looks { desk, forge, unjudged: Arc::clone(&unjudged), progress: workshop.progress.subscribe(), workshop };
        tokio::spawn(async move {
            let workshop = looks.workshop.clone();
            workshop.while_running(looks.run(asked)).await;
        });
        Self { asks, unjudged }
    }

    /// Has a project's branches looked at soon.
    pub fn ask(&self, project: ProjectName) {
        let _ = self.asks.try_send(project);
    }

    /// Branches whose head is not what serves and cannot be judged, and why.
    pub fn unjudged(&self) -> BTreeMap<Site, String> {
        self.unjudged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Looks {
    workshop: Arc<Workshop>,
    desk: Desk,
    forge: Option<Forge>,
    unjudged: Arc<Mutex<BTreeMap<Site, String>>>,
    progress: broadcast::Receiver<Deployment>,
}

/// What the CI says of a branch's head.
#[derive(Debug)]
pub enum Judged {
    Passed {
        number: Option<u64>,
        repository_id: Option<u64>,
    },
    Not(String),
    /// Nobody can be asked, and why.
    Unknown(String),
}

impl Looks {
    async fn run(mut self, mut asked: mpsc::Receiver<ProjectName>) {
        let mut next = Instant::now();
        loop {
            let project = tokio::select! {
                () = sleep_until(next) => None,
                Some(project) = asked.recv() => Some(project),
                project = lost(&mut self.progress) => Some(project),
            };
            let conf = self.workshop.conf();
            match project {
                Some(name) => self.project(conf.projects.get(&name)).await,
                None => {
                    let is_there = |site: &Site| {
                        conf.projects.get(&site.project).is_some_and(|one| one.branches.contains_key(&site.branch))
                    };
                    self.unjudged.lock().unwrap_or_else(PoisonError::into_inner).retain(|site, _| is_there(site));
                    for project in conf.projects.values() {
                        self.project(Some(project)).await;
                    }
                    next = Instant::now() + self.workshop.conf().machine.hooks.reconcile;
                }
            }
        }
    }

    async fn project(&self, project: Option<&Project>) {
        let Some(project) = project else { return };
        let Origin::Repository(repository) = &project.origin else { return };
        for (site, _) in project.sites() {
            let said = self.site(project, repository, &site).await;
            let unjudged = said.unwrap_or_else(|error| Some(crate::report::with_causes(&error)));
            let mut all = self.unjudged.lock().unwrap_or_else(PoisonError::into_inner);
            match unjudged {
                Some(why) => {
                    if all.insert(site.clone(), why.clone()).as_ref() != Some(&why) {
                        tracing::warn!(%site, why, "the branch's head cannot be judged");
                    }
                }
                None => drop(all.remove(&site)),
            }
        }
    }

    /// Deploys a head that is news and has passed. Tells why it could not be judged, if that is so.
    async fn site(
        &self,
        project: &Project,
        repository: &Repository,
        site: &Site,
    ) -> Result<Option<String>, DeployError> {
        let deployments = self.workshop.history.deployments(site).await?;
        if deployments.is_empty() {
            // A new project is deployed by its first hook, or by a person.
            return Ok(None);
        }
        let head = self.workshop.source.head(&site.project, repository, &site.branch).await?;
        if !is_news(&deployments, &head) {
            return Ok(None);
        }
        let machine = &self.workshop.conf().machine;
        let judged = match Endpoint::of_ci(project, machine) {
            _ if project.ci == Ci::None => Judged::Passed { number: None, repository_id: None },
            endpoint => judge(self.forge.as_ref(), endpoint, site, &head).await,
        };
        let Judged::Passed { number, repository_id } = judged else {
            return Ok(match judged {
                Judged::Unknown(why) => Some(format!("the head is {}, which does not serve, and {why}", head.short())),
                _ => None,
            });
        };
        let push = Push {
            provider: provider(project.ci),
            delivery: format!("head {head}"),
            project: site.project.clone(),
            branch: site.branch.clone(),
            commit: head,
            number,
            repository_id,
        };
        match self.desk.push(push, Via::Look).await? {
            Accepted::Deployment(id) => {
                tracing::warn!(deployment = %id, "the branch's head was news: a hook was lost");
                Ok(None)
            }
            Accepted::Ignored(_) => Ok(None),
            Accepted::Refused(why) => Ok(Some(why)),
        }
    }
}

/// What the CI says of a commit, and where nobody can be asked, why.
pub async fn judge(forge: Option<&Forge>, endpoint: Option<Endpoint>, site: &Site, head: &Commit) -> Judged {
    let (Some(forge), Some(endpoint)) = (forge, endpoint) else {
        return Judged::Unknown("its CI cannot be asked: [hooks] has no token for it".to_owned());
    };
    match forge.word_on(&endpoint, &site.branch, head).await {
        Ok(Word::Passed { number, repository_id }) => Judged::Passed { number, repository_id: Some(repository_id) },
        Ok(Word::Not(why)) => Judged::Not(why),
        Err(error) => Judged::Unknown(format!("its CI could not be asked: {}", crate::report::with_causes(&error))),
    }
}

/// Whether nothing was tried with this head since it is the head. A deployment that gave way, or whose commit could not be
/// fetched, tried nothing; a rollback is about what was there before.
fn is_news(deployments: &[Deployment], head: &Commit) -> bool {
    if deployments.iter().any(|deployment| !deployment.is_over()) {
        return false;
    }
    let has_tried = |deployment: &&Deployment| {
        let is_rollback = deployment.cause.brings_back().is_some();
        let gave_way = matches!(deployment.outcome, Some(Outcome::Superseded { .. }));
        let was_not_had =
            matches!(deployment.outcome, Some(Outcome::Failed { at: Stage::Queued | Stage::Fetching, .. }));
        !(is_rollback || gave_way || was_not_had)
    };
    let mut tried = deployments.iter().filter(has_tried).rev();
    match tried.next() {
        Some(last) if last.commit.as_ref() == Some(head) => false,
        // Somebody chose an older commit on purpose, knowing this one.
        Some(last) if last.cause == Cause::Person => !tried.any(|earlier| earlier.commit.as_ref() == Some(head)),
        _ => true,
    }
}

/// Waits for a hook's deployment whose commit could not be had: what gave way to it may be the head.
async fn lost(progress: &mut broadcast::Receiver<Deployment>) -> ProjectName {
    loop {
        match progress.recv().await {
            Ok(deployment) => {
                let was_not_had = matches!(deployment.outcome, Some(Outcome::Failed { at: Stage::Fetching, .. }));
                if was_not_had && matches!(deployment.cause, Cause::Hook { .. }) {
                    return deployment.id.site.project;
                }
            }
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn provider(ci: Ci) -> Provider {
    match ci {
        Ci::Travis => Provider::Travis,
        Ci::Github => Provider::Github,
        Ci::Gitlab => Provider::Gitlab,
        Ci::Gitea => Provider::Gitea,
        Ci::Generic | Ci::None => Provider::Generic,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::model::deployment::DeploymentId;

    /// Cause, commit and end of each, in their order: `hook a live`.
    fn history(lines: &[&str]) -> Vec<Deployment> {
        let one = |(number, line): (usize, &&str)| {
            let words: Vec<&str> = line.split(' ').collect();
            let cause = match words[0] {
                "hook" => Cause::Hook { provider: Provider::Travis, delivery: number.to_string() },
                "person" => Cause::Person,
                "reconcile" => Cause::Reconcile,
                _ => Cause::Rollback { release: 1 },
            };
            let id = DeploymentId { site: "shop".parse().unwrap(), number: number as u64 };
            let mut deployment = Deployment::queued(id, cause, Some(commit(words[1])), SystemTime::UNIX_EPOCH);
            deployment.outcome = match words[2] {
                "live" => Some(Outcome::Live { release: 1 }),
                "superseded" => Some(Outcome::Superseded { by: 9 }),
                "unfetched" => Some(Outcome::Failed { at: Stage::Fetching, reason: String::new() }),
                "cancelled" => Some(Outcome::Cancelled { at: Stage::Building, by: String::new() }),
                "broken" => Some(Outcome::Failed { at: Stage::Building, reason: String::new() }),
                _ => None,
            };
            deployment
        };
        lines.iter().enumerate().map(one).collect()
    }

    fn commit(letter: &str) -> Commit {
        letter.repeat(40).parse().unwrap()
    }

    #[test]
    fn a_head_is_news_until_it_was_tried() {
        let cases: [(&[&str], &str, bool); 15] = [
            (&["hook a live"], "a", false),
            (&["hook a live"], "b", true),
            (&["hook a live", "hook b broken"], "b", false),
            (&["hook a live", "reconcile b broken"], "b", false),
            (&["hook a live", "hook b broken"], "c", true),
            (&["hook a live", "hook b cancelled"], "b", false),
            (&["hook a live", "hook b cancelled"], "c", true),
            (&["hook a live", "hook b running"], "c", false),
            // Gave way to one that was not to be had.
            (&["hook a live", "hook b superseded", "hook c unfetched"], "b", true),
            (&["hook a live", "hook b live", "hook a unfetched"], "b", false),
            // A rollback is meant, until the branch moves.
            (&["hook a live", "hook b live", "rollback a live"], "b", false),
            (&["hook a live", "hook b live", "rollback a live"], "c", true),
            // So is an older commit that a person names.
            (&["hook a live", "hook b live", "person a live"], "b", false),
            (&["hook a live", "hook b live", "person a live"], "c", true),
            // The branch was moved back.
            (&["hook a live", "hook b live"], "a", true),
        ];
        for (lines, head, expected) in cases {
            assert_eq!(is_news(&history(lines), &commit(head)), expected, "{lines:?}, {head}");
        }
    }
}
