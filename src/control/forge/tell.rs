//! What a forge is told of a commit: a commit status, and on GitHub a Deployment.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::passed::OWN_CONTEXT;
use super::{Endpoint, Forge, ForgeError, quoted};
use crate::model::name::{Commit, Site};
use crate::model::push::Provider;

/// How a deployment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Pending,
    Success,
    Failure,
    /// To a newer one, before it was done.
    GaveWay,
}

/// What is told.
#[derive(Debug, Clone)]
pub struct Report {
    pub site: Site,
    pub commit: Commit,
    pub state: State,
    /// A few words of ours: nothing that an app or a build has said.
    pub description: String,
    /// Where the site answers.
    pub url: String,
}

impl Forge {
    /// Writes a commit status.
    pub async fn status(&self, at: &Endpoint, report: &Report) -> Result<(), ForgeError> {
        let context = format!("{OWN_CONTEXT}{}", report.site);
        let Report { commit, description, url, .. } = report;
        let (path, body) = match at.provider {
            Provider::Gitlab => {
                let state = match report.state {
                    State::Pending => "running",
                    State::Success => "success",
                    State::Failure => "failed",
                    State::GaveWay => "canceled",
                };
                let body = json!({ "state": state, "name": context, "ref": report.site.branch.as_str(),
                    "description": description, "target_url": url });
                (format!("/projects/{}/statuses/{commit}", quoted(&at.name)), body)
            }
            _ => {
                let state = match report.state {
                    State::Pending => "pending",
                    State::Success => "success",
                    State::Failure => "failure",
                    State::GaveWay => "error",
                };
                let body = json!({ "state": state, "context": context, "description": description, "target_url": url });
                (format!("/repos/{}/statuses/{commit}", at.name), body)
            }
        };
        self.post::<IgnoredAny>(at, &path, &body).await.map(drop)
    }

    /// Begins a Deployment at GitHub; tells its id. Without `required_contexts` GitHub would refuse it for our own pending
    /// status.
    pub async fn begin_deployment(&self, at: &Endpoint, report: &Report) -> Result<u64, ForgeError> {
        #[derive(Deserialize)]
        struct Begun {
            id: u64,
        }
        let body = json!({ "ref": report.commit.as_str(), "environment": report.site.to_string(), "auto_merge": false,
            "required_contexts": [], "description": "Open Prime" });
        let begun: Begun = self.post(at, &format!("/repos/{}/deployments", at.name), &body).await?;
        Ok(begun.id)
    }

    /// Says how a Deployment stands.
    pub async fn deployment_status(&self, at: &Endpoint, id: u64, report: &Report) -> Result<(), ForgeError> {
        let state = match report.state {
            State::Pending => "in_progress",
            State::Success => "success",
            State::Failure => "failure",
            State::GaveWay => "inactive",
        };
        let body = json!({ "state": state, "environment_url": report.url, "description": report.description });
        let path = format!("/repos/{}/deployments/{id}/statuses", at.name);
        self.post::<IgnoredAny>(at, &path, &body).await.map(drop)
    }
}
