//! `opri list`: every site with its release and traffic.

use std::time::SystemTime;

use super::client::Client;
use super::table::{self, span};
use super::{Common, Done, block_on, hold, print_json};
use crate::control::web::api::SiteLine;
use crate::model::deployment::{Deployment, Outcome};
use crate::report;

pub fn run(common: &Common) -> Done {
    let client = Client::new(common)?;
    let sites: Vec<SiteLine> = block_on(client.get("/v1/list"))?;
    if common.json {
        return print_json(&sites);
    }
    let heading =
        ["PROJECT", "BRANCH", "RELEASE", "COMMIT", "SINCE", "REQ/S", "5XX", "CACHE", "CERT", "URL", "DEPLOYMENT"];
    let rows: Vec<Vec<String>> = sites.iter().map(row).collect();
    table::print(&heading, &rows);
    for site in &sites {
        if let Some(held) = &site.held {
            say!("{}", hold::words(held));
        }
        for address in &site.unwell {
            say!("{}/{} is unwell: {address} does not answer its health check", site.project, site.branch);
        }
        if let Some(how) = site.deployment.as_ref().and_then(Deployment::as_automatic) {
            let first = how.lines().next().unwrap_or_default();
            say!("{}/{}: {}", site.project, site.branch, report::clean(first));
        }
        if let Some(Outcome::Failed { reason, .. }) =
            site.deployment.as_ref().and_then(|newest| newest.outcome.as_ref())
        {
            let first = reason.lines().next().unwrap_or_default();
            say!("{}/{} failed: {}", site.project, site.branch, report::clean(first));
        }
    }
    Ok(())
}

fn row(site: &SiteLine) -> Vec<String> {
    let now = SystemTime::now();
    let dash = || "-".to_owned();
    vec![
        site.project.clone(),
        site.branch.clone(),
        site.release.clone().unwrap_or_else(dash),
        site.commit.as_ref().map_or_else(dash, |commit| commit.short().to_owned()),
        site.since.map_or_else(dash, |since| span(now.duration_since(since).unwrap_or_default())),
        format!("{:.1}", site.requests_per_second),
        format!("{:.1}%", site.errors * 100.0),
        format!("{:.0}%", site.cache_hits * 100.0),
        site.certificate_ends.map_or_else(dash, |ends| span(ends.duration_since(now).unwrap_or_default())),
        site.url.clone(),
        site.deployment.as_ref().map_or_else(String::new, |deployment| match &deployment.outcome {
            _ if deployment.as_automatic().is_some() => format!("#{} rolled back", deployment.id.number),
            None => format!("#{} {}", deployment.id.number, deployment.stage),
            Some(Outcome::Cancelled { at, .. }) => format!("#{} was cancelled while {at}", deployment.id.number),
            Some(Outcome::Failed { at, .. }) => format!("#{} failed while {at}", deployment.id.number),
            Some(outcome) => format!("#{} {}", deployment.id.number, outcome.as_str()),
        }),
    ]
}
