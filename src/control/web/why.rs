//! What would come of a request, from the edge's word and what control knows of the site.
//!
//! Called by `admin` for `opri why`. The rule: who answers is said by the edge alone; control only names what it is.

use super::admin::Office;
use super::api::{HostCertificate, ServingRelease, Why};
use crate::control::deploy::DeployError;
use crate::link::why::{Outlook, Question};
use crate::model::host::HostName;
use crate::model::name::Site;

/// `None` when no route knows the host.
pub async fn why(office: &Office, question: Question) -> Result<Option<Why>, DeployError> {
    let verdict = office.workshop.live.why(question.clone()).await?;
    let upstream = match &verdict.answer {
        Outlook::UnknownHost => return Ok(None),
        Outlook::Upstream { upstream, .. } => Some(upstream.clone()),
        _ => None,
    };
    let unwell = office.workshop.live.unwell().into_iter().filter(|one| Some(&one.upstream) == upstream.as_ref());
    let unwell = unwell.map(|one| one.address).collect();
    let release = match &verdict.site {
        Some(site) => release(office, site).await?,
        None => None,
    };
    let held = office.workshop.history.held().await?;
    let held = held.into_iter().find(|held| verdict.site.as_ref() == Some(&held.site));
    let host = HostName::from_authority(&question.authority).ok();
    let certificate = host.and_then(|host| certificate(office, &host));
    Ok(Some(Why { question, release, held, unwell, certificate, verdict }))
}

async fn release(office: &Office, site: &Site) -> Result<Option<ServingRelease>, DeployError> {
    let history = &office.workshop.history;
    let Some(active) = history.active(site).await? else { return Ok(None) };
    let release = history.release(site, active.release).await?;
    Ok(release.map(|release| ServingRelease { name: release.name(), commit: release.commit, since: active.since }))
}

fn certificate(office: &Office, host: &HostName) -> Option<HostCertificate> {
    let certificates = office.certificates.borrow();
    let covering =
        certificates.iter().filter(|certificate| certificate.files.hosts.iter().any(|name| name.matches(host)));
    let last = covering.max_by_key(|certificate| certificate.validity.not_after)?;
    Some(HostCertificate { issuer: last.issuer, ends: last.validity.not_after })
}
