//! Every site in one list, as `opri list` and the dashboard show it.

use std::time::SystemTime;

use super::admin::Office;
use super::api::SiteLine;
use crate::control::conf::Conf;
use crate::control::deploy::{DeployError, host_of};
use crate::model::deployment::Outcome;
use crate::model::host::HostName;
use crate::model::name::Site;
use crate::model::project::{Origin, Project};

pub async fn sites(office: &Office) -> Result<Vec<SiteLine>, DeployError> {
    let conf = office.workshop.conf();
    let held = office.workshop.history.held().await?;
    let mut lines = Vec::new();
    for project in conf.projects.values() {
        for (site, _) in project.sites() {
            let held = held.iter().find(|held| held.site == site).cloned();
            lines.push(SiteLine { held, ..line(office, &conf, project, site).await? });
        }
    }
    Ok(lines)
}

async fn line(office: &Office, conf: &Conf, project: &Project, site: Site) -> Result<SiteLine, DeployError> {
    let history = &office.workshop.history;
    let active = history.active(&site).await?;
    let release = match &active {
        Some(active) => history.release(&site, active.release).await?,
        None => None,
    };
    let newest = history.newest(&site).await?;
    let rate = office.rates.of(&site, &office.workshop.live.view().traffic);
    let unwell = office.workshop.live.unwell();
    let host = host_of(conf, &site);
    Ok(SiteLine {
        project: site.project.to_string(),
        branch: site.branch.to_string(),
        release: release.as_ref().map(|release| release.name()),
        commit: release.map(|release| release.commit),
        since: active.as_ref().map(|active| active.since),
        replicas: match project.origin {
            Origin::Repository(_) => Some(active.map_or(0, |active| active.replicas.len())),
            Origin::Upstream(_) => None,
        },
        unwell: unwell.into_iter().filter(|one| one.upstream.is_of(&site)).map(|one| one.address).collect(),
        requests_per_second: rate.requests_per_second,
        errors: rate.errors,
        cache_hits: rate.cache_hits,
        certificate_ends: host.as_ref().and_then(|host| certificate_ends(office, host)),
        url: host.map(|host| office.workshop.live.url(&host)).unwrap_or_default(),
        held: None,
        deployment: newest.filter(|deployment| {
            deployment.as_automatic().is_some() || !matches!(deployment.outcome, Some(Outcome::Live { .. }))
        }),
    })
}

fn certificate_ends(office: &Office, host: &HostName) -> Option<SystemTime> {
    let certificates = office.certificates.borrow();
    let covering =
        certificates.iter().filter(|certificate| certificate.files.hosts.iter().any(|name| name.matches(host)));
    covering.map(|certificate| certificate.validity.not_after).max()
}
