//! What has been deployed: the deployments, releases and active replicas of every site, as they lie in the store.
//!
//! Called by the desk and the pipeline. The rule: every transition is one batch that is on disk before its effects begin.

use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::control::runtime::Replica;
use crate::control::store::{Batch, Store, StoreError};
use crate::model::address::Address;
use crate::model::deployment::{Deployment, DeploymentId};
use crate::model::hold::{Held, Hold};
use crate::model::name::{ProjectName, Site};
use crate::model::push::{DELIVERIES_KEPT, Provider, Push};
use crate::model::release::Release;

/// Deployments that are kept for each site.
const DEPLOYMENTS_KEPT: usize = 100;

/// Releases that are remembered as having served before.
const REPLACED_KEPT: usize = 8;

/// There while the apps are stopped on purpose.
const STOPPED: &str = "stopped";
const HOOK_LOG: &str = "hook-log/";

/// What the desk counts for a site; nobody else writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Numbers {
    pub last_deployment: u64,
    /// The build number of the newest push that was accepted.
    pub last_build: Option<u64>,
}

/// The release that serves, with its replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveRecord {
    pub release: u64,
    #[serde(with = "crate::model::instant")]
    pub since: SystemTime,
    pub replicas: Vec<Placed>,
    /// Releases that served before, the last first.
    #[serde(default)]
    pub replaced: Vec<Replaced>,
    /// Whether it may be rolled back by itself: it is new, and there is something to go back to.
    #[serde(default)]
    pub is_monitored: bool,
}

/// A release that served until then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    pub release: u64,
    #[serde(with = "crate::model::instant")]
    pub at: SystemTime,
}

impl ActiveRecord {
    /// The release that served before.
    pub fn before(&self) -> Option<u64> {
        self.replaced.first().map(|replaced| replaced.release)
    }

    /// What will have been replaced when this release serves in its place.
    pub fn replaced_by(&self, release: u64, now: SystemTime) -> Vec<Replaced> {
        let last = Replaced { release: self.release, at: now };
        let earlier = self.replaced.iter().filter(|earlier| ![release, self.release].contains(&earlier.release));
        std::iter::once(last).chain(earlier.cloned()).take(REPLACED_KEPT).collect()
    }
}

/// A replica and the address at which it passed the gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    pub replica: Replica,
    pub address: Address,
}

/// A branch that no file names and that has a host all the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    pub site: Site,
    /// The last push to it.
    #[serde(with = "crate::model::instant")]
    pub pushed_at: SystemTime,
    /// It has no host any more, and what it was made of goes.
    #[serde(default)]
    pub is_over: bool,
}

/// A delivery that was accepted before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    pub deployment: DeploymentId,
    #[serde(with = "crate::model::instant")]
    pub accepted_at: SystemTime,
}

/// Typed access to the store; clones are the same history.
#[derive(Debug, Clone)]
pub struct History {
    store: Store,
}

impl History {
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    pub async fn numbers(&self, site: &Site) -> Result<Numbers, StoreError> {
        Ok(self.store.get(numbers_key(site)).await?.unwrap_or_default())
    }

    /// The number of a new release of this site; never given twice.
    pub async fn next_release(&self, site: &Site) -> Result<u64, StoreError> {
        let next = |last: Option<u64>| Some(last.unwrap_or(0) + 1);
        Ok(self.store.update(format!("last-release/{}", path(site)), next).await?.unwrap_or(1))
    }

    /// What serves the site.
    pub async fn active(&self, site: &Site) -> Result<Option<ActiveRecord>, StoreError> {
        self.store.get(active_key(site)).await
    }

    /// Puts a restarted replica in the place of the one that ended; `None` when that one serves no more, and then
    /// nothing is changed.
    pub async fn replace_replica(
        &self,
        site: &Site,
        ended: &Replica,
        with: Placed,
    ) -> Result<Option<ActiveRecord>, StoreError> {
        let (ended, new) = (ended.id.clone(), with.replica.id.clone());
        let change = move |active: Option<ActiveRecord>| {
            let mut active = active?;
            if let Some(place) = active.replicas.iter_mut().find(|placed| placed.replica.id == ended) {
                *place = with;
            }
            Some(active)
        };
        let active = self.store.update(active_key(site), change).await?;
        Ok(active.filter(|active| active.replicas.iter().any(|placed| placed.replica.id == new)))
    }

    pub async fn deployment(&self, id: &DeploymentId) -> Result<Option<Deployment>, StoreError> {
        self.store.get(deployment_key(id)).await
    }

    /// Those of a site that are kept, oldest first.
    pub async fn deployments(&self, site: &Site) -> Result<Vec<Deployment>, StoreError> {
        self.store.list(format!("deployment/{}/", path(site))).await
    }

    /// The last that was taken, whatever became of it.
    pub async fn newest(&self, site: &Site) -> Result<Option<Deployment>, StoreError> {
        let number = self.numbers(site).await?.last_deployment;
        self.deployment(&DeploymentId { site: site.clone(), number }).await
    }

    /// The deployment that built a release.
    pub async fn builder(&self, site: &Site, release: u64) -> Result<Option<Deployment>, StoreError> {
        let has_built = |one: &Deployment| one.release == Some(release) && one.cause.brings_back().is_none();
        Ok(self.deployments(site).await?.into_iter().rev().find(has_built))
    }

    /// Removes what is too old to matter: deployments that ended, but for the newest; deliveries of long ago.
    pub async fn sweep(&self, site: &Site, now: SystemTime) -> Result<(), StoreError> {
        let all = self.deployments(site).await?;
        let old = all.len().saturating_sub(DEPLOYMENTS_KEPT);
        let gone: Vec<Deployment> = all.into_iter().take(old).filter(Deployment::is_over).collect();
        let mut batch = Batch::default();
        for deployment in &gone {
            batch = batch.delete(deployment_key(&deployment.id));
        }
        let is_old =
            move |delivery: &Delivery| now.duration_since(delivery.accepted_at).is_ok_and(|age| age > DELIVERIES_KEPT);
        for key in self.store.keys("delivery/", is_old).await? {
            batch = batch.delete(key);
        }
        self.store.write(batch).await
    }

    /// All previews, those that are over as well.
    pub async fn previews(&self) -> Result<Vec<Preview>, StoreError> {
        self.store.list("preview/").await
    }

    /// The sites of those that are not.
    pub async fn previewed(&self) -> Result<Vec<Site>, StoreError> {
        let all = self.previews().await?.into_iter();
        Ok(all.filter(|preview| !preview.is_over).map(|preview| preview.site).collect())
    }

    pub async fn save_previews(&self, previews: &[Preview]) -> Result<(), StoreError> {
        let put = |batch: Batch, preview: &Preview| batch.put(preview_key(&preview.site), preview);
        self.store.write(previews.iter().fold(Batch::default(), put)).await
    }

    /// Forgets a preview of which nothing runs any more, and what served it.
    pub async fn forget_preview(&self, site: &Site) -> Result<(), StoreError> {
        self.store.write(Batch::default().delete(preview_key(site)).delete(active_key(site))).await
    }

    /// Oldest first: those that served.
    pub async fn releases(&self, site: &Site) -> Result<Vec<Release>, StoreError> {
        self.store.list(format!("release/{}/", path(site))).await
    }

    pub async fn release(&self, site: &Site, number: u64) -> Result<Option<Release>, StoreError> {
        self.store.get(release_key(site, number)).await
    }

    /// Every deployment that is not over, of every site.
    pub async fn unfinished(&self) -> Result<Vec<Deployment>, StoreError> {
        let all: Vec<Deployment> = self.store.list("deployment/").await?;
        Ok(all.into_iter().filter(|deployment| !deployment.is_over()).collect())
    }

    /// Every release of every site.
    pub async fn all_releases(&self) -> Result<Vec<Release>, StoreError> {
        self.store.list("release/").await
    }

    pub async fn delivery(&self, push: &Push) -> Result<Option<Delivery>, StoreError> {
        self.store.get(delivery_key(push)).await
    }

    /// The id by which a provider knows the repository, since the first push that was accepted.
    pub async fn pinned(&self, project: &ProjectName, provider: Provider) -> Result<Option<u64>, StoreError> {
        self.store.get(pin_key(project, provider)).await
    }

    /// The projects whose repository a provider knows by this id.
    pub async fn pinned_as(&self, provider: Provider, id: u64) -> Result<Vec<String>, StoreError> {
        let prefix = format!("pin/{provider}/");
        let keys = self.store.keys(prefix.clone(), move |pinned: &u64| *pinned == id).await?;
        Ok(keys.into_iter().map(|key| key[prefix.len()..].to_owned()).collect())
    }

    /// The log of deliveries, oldest first; what one is, `web` knows.
    pub async fn deliveries<T: DeserializeOwned>(&self) -> Result<Vec<T>, StoreError> {
        self.store.list(HOOK_LOG).await
    }

    /// Adds to the log of deliveries, by their numbers, and forgets others.
    pub async fn keep_deliveries<T: Serialize>(&self, new: &[(u64, T)], gone: &[u64]) -> Result<(), StoreError> {
        let key = |number: &u64| format!("{HOOK_LOG}{number:010}");
        let batch = new.iter().fold(Batch::default(), |batch, (number, one)| batch.put(key(number), one));
        self.store.write(gone.iter().fold(batch, |batch, number| batch.delete(key(number)))).await
    }

    pub async fn save(&self, deployment: &Deployment) -> Result<(), StoreError> {
        self.store.write(Batch::default().put(deployment_key(&deployment.id), deployment)).await
    }

    /// A new attempt, with the push it came from, and the older one that it replaces in the queue.
    pub async fn admit(
        &self,
        deployment: &Deployment,
        numbers: &Numbers,
        push: Option<&Push>,
        replaced: Option<&Deployment>,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::default()
            .put(deployment_key(&deployment.id), deployment)
            .put(numbers_key(&deployment.id.site), numbers);
        if let Some(push) = push {
            let delivery = Delivery { deployment: deployment.id.clone(), accepted_at: deployment.accepted_at };
            batch = batch.put(delivery_key(push), &delivery);
            if let Some(id) = push.repository_id {
                batch = batch.put(pin_key(&push.project, push.provider), &id);
            }
        }
        if let Some(replaced) = replaced {
            batch = batch.put(deployment_key(&replaced.id), replaced);
        }
        self.store.write(batch).await
    }

    /// The decision of a swap: from here on this release is the one that serves, whatever happens to control.
    pub async fn decide(
        &self,
        deployment: &Deployment,
        release: &Release,
        active: &ActiveRecord,
    ) -> Result<(), StoreError> {
        let batch = Batch::default()
            .put(deployment_key(&deployment.id), deployment)
            .put(release_key(&release.site, release.number), release)
            .put(active_key(&release.site), active);
        self.store.write(batch).await
    }

    /// Keeps that the apps which run now are stopped on purpose, for the next control to know.
    pub async fn stopping(&self) -> Result<(), StoreError> {
        self.store.write(Batch::default().put(STOPPED, &true)).await
    }

    /// Whether the control before stopped its apps on purpose.
    pub async fn was_stopped(&self) -> Result<bool, StoreError> {
        Ok(self.store.get(STOPPED).await?.unwrap_or(false))
    }

    /// The apps were started anew: from now on whatever ends does so by itself.
    pub async fn started(&self) -> Result<(), StoreError> {
        self.store.write(Batch::default().delete(STOPPED)).await
    }

    /// What is before sites' apps, of all sites.
    pub async fn held(&self) -> Result<Vec<Held>, StoreError> {
        self.store.list("hold/").await
    }

    /// What is before a site's app from now on; what was, until now.
    pub async fn hold(&self, site: &Site, hold: Option<Hold>) -> Result<Option<Held>, StoreError> {
        let key = hold_key(site);
        let before = self.store.get(key.clone()).await?;
        let since = SystemTime::now();
        let batch = match hold {
            Some(hold) => Batch::default().put(key, &Held { site: site.clone(), hold, since }),
            None => Batch::default().delete(key),
        };
        self.store.write(batch).await?;
        Ok(before)
    }

    /// Undoes a decision that the edge refused.
    pub async fn take_back(&self, site: &Site, before: Option<ActiveRecord>) -> Result<(), StoreError> {
        self.store.update(active_key(site), move |_| before).await.map(drop)
    }

    pub async fn forget(&self, release: &Release) -> Result<(), StoreError> {
        self.store.write(Batch::default().delete(release_key(&release.site, release.number))).await
    }
}

/// A site as part of a key: `/` in a branch would make one site's prefix hold another's keys.
fn path(site: &Site) -> String {
    format!("{}/{}", site.project, site.branch.as_component())
}

fn numbers_key(site: &Site) -> String {
    format!("numbers/{}", path(site))
}

fn hold_key(site: &Site) -> String {
    format!("hold/{}", path(site))
}

fn active_key(site: &Site) -> String {
    format!("active/{}", path(site))
}

fn preview_key(site: &Site) -> String {
    format!("preview/{}", path(site))
}

/// Numbers are padded so that keys come in their order.
fn deployment_key(id: &DeploymentId) -> String {
    format!("deployment/{}/{:010}", path(&id.site), id.number)
}

fn release_key(site: &Site, number: u64) -> String {
    format!("release/{}/{number:010}", path(site))
}

fn delivery_key(push: &Push) -> String {
    format!("delivery/{}/{}/{}", push.provider, push.project, push.delivery)
}

fn pin_key(project: &ProjectName, provider: Provider) -> String {
    format!("pin/{provider}/{project}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_before_there_was_monitoring_is_not_monitored() {
        let since = serde_json::to_value(Replaced { release: 1, at: SystemTime::UNIX_EPOCH }).unwrap()["at"].clone();
        let stored = serde_json::json!({ "release": 7, "since": since, "replicas": [] });
        let active: ActiveRecord = serde_json::from_value(stored).unwrap();
        assert_eq!((active.before(), active.is_monitored), (None, false));
    }

    #[test]
    fn what_was_replaced_is_named_once_and_not_while_it_serves() {
        let now = SystemTime::UNIX_EPOCH;
        let serving = |release, replaced| ActiveRecord {
            release,
            since: now,
            replicas: Vec::new(),
            replaced,
            is_monitored: false,
        };
        let swapped = |before: &ActiveRecord, release| serving(release, before.replaced_by(release, now));
        let numbers = |active: &ActiveRecord| active.replaced.iter().map(|one| one.release).collect::<Vec<_>>();
        let third = swapped(&swapped(&serving(1, Vec::new()), 2), 3);
        assert_eq!(numbers(&third), [2, 1]);
        let back = swapped(&third, 1);
        assert_eq!((numbers(&back), back.before()), (vec![3, 2], Some(3)));
        let many = (4..20).fold(back, |before, release| swapped(&before, release));
        assert_eq!(numbers(&many), [18, 17, 16, 15, 14, 13, 12, 11]);
    }
}
