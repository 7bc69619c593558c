//! Previews come and go: a push to a branch that no file names gives it a host, and who is pushed to no more loses it.
//!
//! Admitted by `web` with a push; what is over is let go by a task of its own. The rule: what is stored comes
//! first, then a reload routes it, and a preview is forgotten only when nothing of it is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

use crate::control::conf::Conf;
use crate::control::deploy::history::Preview;
use crate::control::deploy::{DeployError, Workshop, supervise};
use crate::control::reload::Reload;
use crate::model::name::{ProjectName, Site};
use crate::model::project::{Origin, Previews as Bounds};

/// A handle to the one who keeps them; clones are the same.
#[derive(Debug, Clone)]
pub struct Previews {
    workshop: Arc<Workshop>,
    reload: Reload,
    /// One change at a time.
    turn: Arc<Mutex<()>>,
    changed: Arc<Notify>,
    /// Those that are being let go of, which may take as long as somebody is answered.
    leaving: Arc<Mutex<BTreeSet<Site>>>,
}

impl Previews {
    /// Begins to let go of what is over.
    pub fn begin(workshop: Arc<Workshop>, reload: Reload) -> Self {
        let (turn, changed, leaving) = Default::default();
        let previews = Self { workshop: workshop.clone(), reload, turn, changed, leaving };
        let keeper = previews.clone();
        tokio::spawn(async move { workshop.while_running(keeper.keep()).await });
        previews
    }

    /// Gives the site of a push a host, where no file does, or lets the one it has stay longer; whether it has one now.
    pub async fn admit(&self, site: &Site) -> Result<bool, DeployError> {
        let conf = self.workshop.conf();
        let Some(project) = conf.projects.get(&site.project) else { return Ok(false) };
        if has_own_host(&conf, site) {
            return Ok(true);
        }
        let Some(bounds) = project.previews else { return Ok(false) };
        let _turn = self.turn.lock().await;
        let now = SystemTime::now();
        let mut all = self.workshop.history.previews().await?;
        all.retain(|preview| preview.site != *site);
        all.push(Preview { site: site.clone(), pushed_at: now, is_over: false });
        bound(&mut all, &site.project, bounds, now);
        self.workshop.history.save_previews(&all).await?;
        self.changed.notify_one();
        if !project.is_preview(&site.branch) {
            self.reload.now().await;
        }
        Ok(self.workshop.conf().projects.get(&site.project).is_some_and(|project| project.is_preview(&site.branch)))
    }

    async fn keep(self) {
        loop {
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "previews could not be looked at");
            }
            // Either is a reason to look.
            let _ = timeout(self.next().await, self.changed.notified()).await;
        }
    }

    /// How long until the next one may be over.
    async fn next(&self) -> Duration {
        let conf = self.workshop.conf();
        let all = self.workshop.history.previews().await.unwrap_or_default();
        let left = all.iter().filter(|preview| !preview.is_over).filter_map(|preview| {
            let ttl = conf.projects.get(&preview.site.project)?.previews?.ttl;
            Some(ttl.saturating_sub(preview.pushed_at.elapsed().unwrap_or_default()))
        });
        left.chain([conf.machine.hooks.reconcile]).min().unwrap_or_default()
    }

    async fn look(&self) -> Result<(), DeployError> {
        let gone = self.branches_gone().await?;
        let over = {
            let _turn = self.turn.lock().await;
            let before = self.workshop.history.previews().await?;
            let mut all = before.clone();
            let (conf, now) = (self.workshop.conf(), SystemTime::now());
            for preview in all.iter_mut().filter(|preview| gone.contains(&preview.site)) {
                preview.is_over = true;
            }
            for (name, bounds) in bounds(&conf, &all) {
                bound(&mut all, &name, bounds, now);
            }
            if all != before {
                self.workshop.history.save_previews(&all).await?;
                self.reload.now().await;
            }
            all.into_iter().filter(|preview| preview.is_over).map(|preview| preview.site).collect::<Vec<_>>()
        };
        for site in over {
            if self.leaving.lock().await.insert(site.clone()) {
                let previews = self.clone();
                tokio::spawn(async move {
                    if let Err(error) = previews.let_go(&site).await {
                        tracing::warn!(%error, %site, "a preview that is over could not be removed yet");
                    }
                    previews.leaving.lock().await.remove(&site);
                });
            }
        }
        Ok(())
    }

    /// Those whose branch the repository does not have any more. One that cannot be asked has all.
    async fn branches_gone(&self) -> Result<Vec<Site>, DeployError> {
        let conf = self.workshop.conf();
        let mut gone = Vec::new();
        for preview in self.workshop.history.previews().await?.into_iter().filter(|preview| !preview.is_over) {
            let Some(project) = conf.projects.get(&preview.site.project) else { continue };
            let Origin::Repository(repository) = &project.origin else { continue };
            let site = preview.site;
            if self.workshop.source.has_lost(&site.project, repository, &site.branch).await {
                gone.push(site);
            }
        }
        Ok(gone)
    }

    /// Removes all of one that is over, unless it was pushed to meanwhile.
    async fn let_go(&self, site: &Site) -> Result<(), DeployError> {
        supervise::end_unnamed(&self.workshop, site).await?;
        let _turn = self.turn.lock().await;
        let all = self.workshop.history.previews().await?;
        if all.iter().any(|preview| preview.site == *site && preview.is_over) {
            supervise::dismantle(&self.workshop, site).await?;
            self.workshop.history.forget_preview(site).await?;
            tracing::info!(%site, "a preview is over");
        }
        Ok(())
    }
}

/// Whether a file names the site's branch.
fn has_own_host(conf: &Conf, site: &Site) -> bool {
    let project = conf.projects.get(&site.project);
    project.and_then(|project| project.branches.get(&site.branch)).is_some_and(|branch| !branch.is_preview)
}

/// What holds for each project of which there are previews; nothing at all where it has none any more.
fn bounds(conf: &Conf, all: &[Preview]) -> BTreeMap<ProjectName, Bounds> {
    let none = Bounds { max: 0, ttl: Duration::ZERO };
    let of = |name: &ProjectName| conf.projects.get(name).and_then(|project| project.previews).unwrap_or(none);
    all.iter().map(|preview| (preview.site.project.clone(), of(&preview.site.project))).collect()
}

/// Lets those of a project be over that are too old or too many: who was pushed to last stays.
fn bound(all: &mut [Preview], project: &ProjectName, bounds: Bounds, now: SystemTime) {
    let mut own: Vec<&mut Preview> =
        all.iter_mut().filter(|preview| preview.site.project == *project && !preview.is_over).collect();
    own.sort_by_key(|preview| std::cmp::Reverse(preview.pushed_at));
    for (place, preview) in own.into_iter().enumerate() {
        let is_old = now.duration_since(preview.pushed_at).is_ok_and(|age| age >= bounds.ttl);
        preview.is_over = is_old || place >= bounds.max;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room_and_none_outlives_its_time() {
        let now = SystemTime::now();
        let preview = |name: &str, age: u64, is_over: bool| Preview {
            site: name.parse().unwrap(),
            pushed_at: now - Duration::from_secs(age),
            is_over,
        };
        let mut all = [
            preview("shop/a", 30, false),
            preview("shop/b", 20, false),
            preview("shop/c", 10, false),
            preview("shop/d", 1, true),
            preview("blog/a", 40, false),
        ];
        let left = |all: &[Preview]| -> Vec<String> {
            all.iter().filter(|preview| !preview.is_over).map(|preview| preview.site.to_string()).collect()
        };
        bound(&mut all, &"shop".parse().unwrap(), Bounds { max: 2, ttl: Duration::from_secs(60) }, now);
        assert_eq!(left(&all), ["shop/b", "shop/c", "blog/a"]);
        bound(&mut all, &"shop".parse().unwrap(), Bounds { max: 2, ttl: Duration::from_secs(20) }, now);
        assert_eq!(left(&all), ["shop/c", "blog/a"]);
    }
}
