//! Whether a commit has passed, as each CI says it.
//!
//! The rule: what is not known to be good is not: a state that nobody here has heard of, more answers than one page
//! holds, or nobody who has said anything.

use serde::Deserialize;

use super::{Endpoint, Forge, ForgeError, Word, quoted};
use crate::model::name::{BranchName, Commit};
use crate::model::push::Provider;

/// What our own statuses begin with: they say nothing of the commit.
pub const OWN_CONTEXT: &str = "opri/";

impl Forge {
    /// What the CI says of `commit`, pushed to `branch`.
    pub async fn word_on(&self, at: &Endpoint, branch: &BranchName, commit: &Commit) -> Result<Word, ForgeError> {
        match at.provider {
            Provider::Travis => self.travis(at, branch, commit).await,
            Provider::Github => self.github(at, commit).await,
            Provider::Gitlab => self.gitlab(at, branch, commit).await,
            Provider::Gitea => self.gitea(at, commit).await,
            Provider::Generic => Ok(Word::Not("this CI cannot be asked".to_owned())),
        }
    }

    /// API v3, "builds by repository": the newest for the commit.
    async fn travis(&self, at: &Endpoint, branch: &BranchName, commit: &Commit) -> Result<Word, ForgeError> {
        #[derive(Deserialize)]
        struct Answer {
            builds: Vec<Build>,
        }
        #[derive(Deserialize)]
        struct Build {
            number: String,
            state: String,
            event_type: String,
            commit: Sha,
            repository: Id,
            tag: Option<serde::de::IgnoredAny>,
        }
        #[derive(Deserialize)]
        struct Sha {
            sha: String,
        }
        let query = format!("branch.name={}&build.event_type=push&sort_by=id:desc&limit=25", quoted(branch.as_str()));
        let answer: Answer = self.get(at, &format!("/repo/{}/builds?{query}", quoted(&at.name))).await?;
        let is_of = |build: &&Build| build.commit.sha == commit.as_str() && build.event_type == "push";
        let build = answer.builds.iter().filter(is_of).find(|build| build.tag.is_none());
        Ok(match build {
            Some(build) if build.state == "passed" => {
                let number = build.number.parse().ok();
                Word::Passed { number, repository_id: build.repository.id }
            }
            Some(build) => Word::Not(format!("its build is {}", known(&build.state))),
            None => Word::Not("it has no build".to_owned()),
        })
    }

    /// All commit statuses and all check runs, each the latest of its kind.
    async fn github(&self, at: &Endpoint, commit: &Commit) -> Result<Word, ForgeError> {
        #[derive(Deserialize)]
        struct Runs {
            total_count: usize,
            check_runs: Vec<Run>,
        }
        #[derive(Deserialize)]
        struct Run {
            status: String,
            conclusion: Option<String>,
        }
        let commits = format!("/repos/{}/commits/{commit}", at.name);
        let combined: Combined = self.get(at, &format!("{commits}/status?per_page=100")).await?;
        let runs: Runs = self.get(at, &format!("{commits}/check-runs?per_page=100")).await?;
        if runs.total_count > runs.check_runs.len() {
            return Err(ForgeError::TooMuch);
        }
        let mut said = combined.said()?;
        for run in &runs.check_runs {
            said.push(match (run.status.as_str(), run.conclusion.as_deref()) {
                ("completed", Some("success")) => Said::Good,
                ("completed", Some("neutral" | "skipped")) => Said::Nothing,
                ("completed", conclusion) => Said::Bad(known(conclusion.unwrap_or_default())),
                (status, _) => Said::Bad(known(status)),
            });
        }
        Ok(all(&said, combined.repository.id))
    }

    /// The newest pipeline that a push of the commit to the branch began.
    async fn gitlab(&self, at: &Endpoint, branch: &BranchName, commit: &Commit) -> Result<Word, ForgeError> {
        #[derive(Deserialize)]
        struct Pipeline {
            id: u64,
            project_id: u64,
            status: String,
            source: String,
            #[serde(rename = "ref")]
            branch: String,
            sha: String,
        }
        let query = format!("ref={}&sha={commit}&source=push&order_by=id&sort=desc", quoted(branch.as_str()));
        let pipelines: Vec<Pipeline> =
            self.get(at, &format!("/projects/{}/pipelines?{query}", quoted(&at.name))).await?;
        let is_of =
            |one: &&Pipeline| one.source == "push" && one.branch == branch.as_str() && one.sha == commit.as_str();
        Ok(match pipelines.iter().filter(is_of).max_by_key(|one| one.id) {
            Some(one) if one.status == "success" => {
                Word::Passed { number: Some(one.id), repository_id: one.project_id }
            }
            Some(one) => Word::Not(format!("its pipeline is {}", known(&one.status))),
            None => Word::Not("it has no pipeline".to_owned()),
        })
    }

    /// All commit statuses, which Gitea's and Forgejo's own actions write as well.
    async fn gitea(&self, at: &Endpoint, commit: &Commit) -> Result<Word, ForgeError> {
        let combined: Combined = self.get(at, &format!("/repos/{}/commits/{commit}/status?limit=50", at.name)).await?;
        Ok(all(&combined.said()?, combined.repository.id))
    }
}

#[derive(Debug, Deserialize)]
struct Id {
    id: u64,
}

/// GitHub's combined status, and Gitea's, which is made after it.
#[derive(Debug, Deserialize)]
struct Combined {
    total_count: usize,
    #[serde(default)]
    statuses: Option<Vec<Status>>,
    repository: Id,
}

#[derive(Debug, Deserialize)]
struct Status {
    /// Gitea says `status`.
    #[serde(alias = "status")]
    state: String,
    context: String,
}

impl Combined {
    fn said(&self) -> Result<Vec<Said>, ForgeError> {
        let statuses = self.statuses.as_deref().unwrap_or_default();
        if self.total_count > statuses.len() {
            return Err(ForgeError::TooMuch);
        }
        let of_others = statuses.iter().filter(|status| !status.context.starts_with(OWN_CONTEXT));
        Ok(of_others
            .map(|status| match status.state.as_str() {
                "success" => Said::Good,
                state => Said::Bad(known(state)),
            })
            .collect())
    }
}

#[derive(Debug)]
enum Said {
    Good,
    /// Did not look, on purpose.
    Nothing,
    Bad(String),
}

fn all(said: &[Said], repository_id: u64) -> Word {
    let bad = said.iter().find_map(|one| if let Said::Bad(state) = one { Some(state) } else { None });
    match bad {
        Some(state) => Word::Not(format!("one of its checks is {state}")),
        None if said.iter().any(|one| matches!(one, Said::Good)) => Word::Passed { number: None, repository_id },
        None => Word::Not("nothing has checked it".to_owned()),
    }
}

/// A state as it may be shown.
fn known(state: &str) -> String {
    state.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect()
}
