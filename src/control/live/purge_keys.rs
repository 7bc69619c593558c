//! Who may send PURGE requests: what the edge is told of each project's secret.
//!
//! Read by the owner of what is live whenever conf is taken, so that a secret which was changed holds with the next reload.
//! The rule: a secret that cannot be read lets nobody purge.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::control::conf::Conf;
use crate::control::secret;
use crate::model::name::ProjectName;
use crate::model::project::Project;
use crate::model::purge_key::PurgeKey;
use crate::report;

#[derive(Debug, Default)]
pub struct PurgeKeys(BTreeMap<ProjectName, PurgeKey>);

impl PurgeKeys {
    pub async fn read(conf: &Arc<Conf>) -> Self {
        let conf = conf.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let key = |project: &Project| Some((project.name.clone(), read(project)?));
            conf.projects.values().filter_map(key).collect()
        });
        Self(reading.await.unwrap_or_default())
    }

    pub fn of(&self, project: &ProjectName) -> Option<PurgeKey> {
        self.0.get(project).cloned()
    }
}

fn read(project: &Project) -> Option<PurgeKey> {
    match secret::read(project.purge_secret.as_ref()?) {
        Ok(secret) => Some(PurgeKey::of(secret.as_bytes())),
        Err(error) => {
            let error = report::with_causes(&error);
            tracing::error!(project = %project.name, error, "nobody can send PURGE requests");
            None
        }
    }
}
