//! The desk: takes pushes and orders, one at a time, and lets one deployment a site run while the newest waits.
//!
//! Called by the hooks' endpoint and the admin API; one task owns it. The rule: whatever was answered with a deployment's
//! id is in the store, and of what waits for a site only the newest is ever begun.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot, watch};

use super::notice::{Notice, Notices};
use super::{DeployError, Workshop, pipeline, project_of};
use crate::model::deployment::{Cause, Deployment, DeploymentId, Outcome};
use crate::model::name::{Commit, Site};
use crate::model::project::Origin;
use crate::model::push::Push;

/// Orders that may wait; an asker waits when there are more.
const QUEUE: usize = 1024;

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    Deployment(DeploymentId),
    /// Honest, but nothing follows from it, and why.
    Ignored(String),
    /// Not from the repository that it was, and why that is known.
    Refused(String),
}

/// How a push came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    Hook,
    /// A delivery that a person has judged again: it may have been seen before.
    Replay,
    /// We looked at the branch, and its CI says that it passed.
    Look,
}

/// A handle to the desk; clones are the same.
#[derive(Debug, Clone)]
pub struct Desk {
    orders: mpsc::Sender<Order>,
}

type Reply<T> = oneshot::Sender<Result<T, DeployError>>;

#[derive(Debug)]
enum Order {
    Push(Push, Via, Reply<Accepted>),
    Person(Site, Cause, Option<Commit>, Reply<DeploymentId>),
    Cancel(Site, String, Reply<Vec<DeploymentId>>),
    Automatic(Site, Cause, Reply<Option<DeploymentId>>),
    Ended(Site),
}

impl Desk {
    /// Opens with what an earlier control left unfinished.
    pub fn open(workshop: Arc<Workshop>, unfinished: Vec<Deployment>) -> Self {
        let (orders, queue) = mpsc::channel(QUEUE);
        let clerk = Clerk { workshop, orders: orders.clone(), sites: BTreeMap::new() };
        tokio::spawn(clerk.run(queue, unfinished));
        Self { orders }
    }

    /// Takes a push that is believed. When it returns a deployment, that is stored.
    pub async fn push(&self, push: Push, via: Via) -> Result<Accepted, DeployError> {
        self.ask(|reply| Order::Push(push, via, reply)).await
    }

    /// Takes an order of a person: this commit or the branch's head, or an older release again.
    pub async fn order(&self, site: Site, cause: Cause, commit: Option<Commit>) -> Result<DeploymentId, DeployError> {
        self.ask(|reply| Order::Person(site, cause, commit, reply)).await
    }

    /// Ends what runs and what waits at a site, as far as it has not swapped; tells which. They end a moment later.
    pub async fn cancel(&self, site: Site, by: String) -> Result<Vec<DeploymentId>, DeployError> {
        self.ask(|reply| Order::Cancel(site, by, reply)).await
    }

    /// Takes a rollback that nobody asked for; `None` while another deployment of the site is on its way, which may be better.
    pub async fn roll_back(&self, site: Site, cause: Cause) -> Result<Option<DeploymentId>, DeployError> {
        self.ask(|reply| Order::Automatic(site, cause, reply)).await
    }

    async fn ask<T>(&self, order: impl FnOnce(Reply<T>) -> Order) -> Result<T, DeployError> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(order(reply)).await.map_err(|_| DeployError::Stopping)?;
        answer.await.map_err(|_| DeployError::Stopping)?
    }
}

/// What goes on at one site.
#[derive(Debug)]
struct Line {
    running: Option<Deployment>,
    waiting: Option<Deployment>,
    /// Told to the running one.
    notice: watch::Sender<Notice>,
}

/// Whether a commit was rolled back from by itself when it was deployed last. Only a person may bring it again.
fn was_rolled_back(deployments: &[Deployment], commit: &Commit) -> Option<String> {
    let is_of = |deployment: &&Deployment| {
        deployment.commit.as_ref() == Some(commit) && deployment.cause.brings_back().is_none()
    };
    let last = deployments.iter().filter(is_of).filter_map(|deployment| deployment.release).next_back()?;
    deployments.iter().find_map(|deployment| match &deployment.cause {
        Cause::Automatic { from, reason, .. } if *from == last => {
            let id = &deployment.id;
            let again = format!("`opri deploy {} {commit}` tries it again", id.site);
            Some(format!("this commit was rolled back as {id}: {reason} ({again})"))
        }
        _ => None,
    })
}

#[derive(Debug)]
struct Clerk {
    workshop: Arc<Workshop>,
    orders: mpsc::Sender<Order>,
    sites: BTreeMap<Site, Line>,
}

impl Clerk {
    async fn run(mut self, mut queue: mpsc::Receiver<Order>, unfinished: Vec<Deployment>) {
        for deployment in unfinished {
            self.resume(deployment).await;
        }
        while let Some(order) = queue.recv().await {
            match order {
                Order::Push(push, via, reply) => {
                    let _ = reply.send(self.take_push(push, via).await);
                }
                Order::Person(site, cause, commit, reply) => {
                    let _ = reply.send(self.take(site, cause, commit, None).await);
                }
                Order::Cancel(site, by, reply) => {
                    let _ = reply.send(self.cancel(&site, &by).await);
                }
                Order::Automatic(site, cause, reply) => {
                    let is_idle =
                        self.sites.get(&site).is_none_or(|line| line.running.is_none() && line.waiting.is_none());
                    let _ = reply.send(match is_idle {
                        true => self.take(site, cause, None, None).await.map(Some),
                        false => Ok(None),
                    });
                }
                Order::Ended(site) => {
                    if let Some(line) = self.sites.get_mut(&site) {
                        line.running = None;
                    }
                    self.begin_next(&site);
                }
            }
        }
    }

    /// The accept rules that need memory: not seen before, from the repository it always was, and newer.
    async fn take_push(&mut self, push: Push, via: Via) -> Result<Accepted, DeployError> {
        let history = &self.workshop.history;
        if via == Via::Hook
            && let Some(seen) = history.delivery(&push).await?
        {
            return Ok(Accepted::Ignored(format!("this delivery was accepted before, as {}", seen.deployment)));
        }
        if let Some(reason) = self.is_another_repository(&push).await? {
            tracing::error!(project = %push.project, provider = %push.provider, reason, "a push is refused");
            return Ok(Accepted::Refused(reason));
        }
        let numbers = history.numbers(&push.site()).await?;
        if let (Some(last), Some(number)) = (numbers.last_build, push.number)
            && number < last
        {
            return Ok(Accepted::Ignored(format!(
                "build {number} is older than build {last}, which was accepted before"
            )));
        }
        if let Some(reason) = self.is_known_commit(&push).await? {
            return Ok(Accepted::Ignored(reason));
        }
        if let Some(reason) = was_rolled_back(&history.deployments(&push.site()).await?, &push.commit) {
            return Ok(Accepted::Ignored(reason));
        }
        let cause = match via {
            Via::Hook | Via::Replay => Cause::Hook { provider: push.provider, delivery: push.delivery.clone() },
            Via::Look => Cause::Reconcile,
        };
        let id = self.take(push.site(), cause, Some(push.commit.clone()), Some(&push)).await?;
        Ok(Accepted::Deployment(id))
    }

    /// Whether the repository's id is not the one that conf says, or that the first accepted push said. One that says
    /// none cannot be told from another; generic deliveries and branches we looked at ourselves have none to say.
    async fn is_another_repository(&self, push: &Push) -> Result<Option<String>, DeployError> {
        let conf = self.workshop.conf();
        let said = conf.projects.get(&push.project).and_then(|project| project.hooks.repository_id);
        let known = match said {
            Some(id) => Some(id),
            None => self.workshop.history.pinned(&push.project, push.provider).await?,
        };
        Ok(match (known, push.repository_id) {
            (Some(known), Some(id)) if known != id => Some(format!(
                "the repository's id is {id}, and of project `{}` it is {known} (hint: if it was made anew under its \
                 name, say so in the project's file: [hooks] repository_id = {id})",
                push.project
            )),
            _ => None,
        })
    }

    /// Whether the commit serves already, or is what will serve next.
    async fn is_known_commit(&self, push: &Push) -> Result<Option<String>, DeployError> {
        let site = push.site();
        let line = self.sites.get(&site);
        if let Some(next) = line.and_then(|line| line.waiting.as_ref().or(line.running.as_ref())) {
            let is_same = next.commit.as_ref() == Some(&push.commit);
            return Ok(is_same.then(|| format!("this commit is being deployed as {}", next.id)));
        }
        let Some(active) = self.workshop.history.active(&site).await? else { return Ok(None) };
        let release = self.workshop.history.release(&site, active.release).await?;
        let serves = release.is_some_and(|release| release.commit == push.commit);
        Ok(serves.then(|| format!("this commit serves already, as r{}", active.release)))
    }

    async fn take(
        &mut self,
        site: Site,
        cause: Cause,
        commit: Option<Commit>,
        push: Option<&Push>,
    ) -> Result<DeploymentId, DeployError> {
        self.check_site(&site)?;
        if let Some(release) = cause.brings_back() {
            let known = self.workshop.history.release(&site, release).await?;
            known.ok_or_else(|| DeployError::NoRelease(site.clone(), release))?;
            let is_idle = self.sites.get(&site).is_none_or(|line| line.running.is_none());
            let active = self.workshop.history.active(&site).await?.map(|active| active.release);
            if is_idle && active == Some(release) {
                return Err(DeployError::ServesAlready(site, release));
            }
        }
        let mut numbers = self.workshop.history.numbers(&site).await?;
        numbers.last_deployment += 1;
        if let Some(number) = push.and_then(|push| push.number) {
            numbers.last_build = Some(number);
        }
        let id = DeploymentId { site: site.clone(), number: numbers.last_deployment };
        let deployment = Deployment::queued(id.clone(), cause, commit, SystemTime::now());
        let waiting = self.sites.get(&site).and_then(|line| line.waiting.clone());
        let replaced = waiting.map(|waiting| ended(waiting, Outcome::Superseded { by: id.number }));
        crash_point!("admit.before");
        self.workshop.history.admit(&deployment, &numbers, push, replaced.as_ref()).await?;
        crash_point!("admit.after");
        if let Some(replaced) = replaced {
            self.tell_end(replaced);
        }
        let _ = self.workshop.progress.send(deployment.clone());
        let line = self.line(&site);
        line.notice.send_modify(|notice| notice.newest = id.number);
        line.waiting = Some(deployment);
        self.begin_next(&site);
        Ok(id)
    }

    async fn cancel(&mut self, site: &Site, by: &str) -> Result<Vec<DeploymentId>, DeployError> {
        self.check_site(site)?;
        let line = self.line(site);
        let running = line.running.as_ref().map(|running| running.id.clone());
        let waiting = line.waiting.clone();
        if let Some(waiting) = &waiting {
            let outcome = Outcome::Cancelled { at: waiting.stage, by: by.to_owned() };
            let cancelled = ended(waiting.clone(), outcome);
            self.workshop.history.save(&cancelled).await?;
            self.line(site).waiting = None;
            self.tell_end(cancelled);
        }
        if let Some(running) = &running {
            self.line(site).notice.send_modify(|notice| notice.cancelled = Some((running.number, by.to_owned())));
        }
        let all: Vec<DeploymentId> = running.into_iter().chain(waiting.map(|waiting| waiting.id)).collect();
        if all.is_empty() { Err(DeployError::NothingUnderWay(site.clone())) } else { Ok(all) }
    }

    fn tell_end(&self, deployment: Deployment) {
        self.workshop.observed.ended(&deployment);
        let _ = self.workshop.progress.send(deployment);
    }

    fn check_site(&self, site: &Site) -> Result<(), DeployError> {
        match project_of(&self.workshop.conf(), site)?.origin {
            Origin::Repository(_) => Ok(()),
            Origin::Upstream(_) => Err(DeployError::NotOurs(site.clone())),
        }
    }

    /// A deployment that an earlier control left: the newest of its site is begun again, the others are superseded.
    async fn resume(&mut self, deployment: Deployment) {
        let site = deployment.id.site.clone();
        let number = deployment.id.number;
        let line = self.line(&site);
        line.notice.send_modify(|notice| notice.newest = number);
        if let Some(older) = line.waiting.replace(deployment) {
            let older = ended(older, Outcome::Superseded { by: number });
            if let Err(error) = self.workshop.history.save(&older).await {
                tracing::error!(%error, deployment = %older.id, "could not be stored");
            }
        }
        self.begin_next(&site);
    }

    fn line(&mut self, site: &Site) -> &mut Line {
        let empty = || Line { running: None, waiting: None, notice: watch::Sender::default() };
        self.sites.entry(site.clone()).or_insert_with(empty)
    }

    fn begin_next(&mut self, site: &Site) {
        let (workshop, orders) = (self.workshop.clone(), self.orders.clone());
        let line = self.line(site);
        if line.running.is_some() {
            return;
        }
        let Some(deployment) = line.waiting.take() else { return };
        line.running = Some(deployment.clone());
        let (notices, site) = (Notices::new(deployment.id.number, line.notice.subscribe()), site.clone());
        tokio::spawn(async move {
            workshop.while_running(pipeline::run(workshop.clone(), deployment, notices)).await;
            let _ = orders.send(Order::Ended(site)).await;
        });
    }
}

/// One that ends before it was begun.
fn ended(mut waiting: Deployment, outcome: Outcome) -> Deployment {
    waiting.outcome = Some(outcome);
    waiting.ended_at = Some(SystemTime::now());
    waiting
}
