//! From a believed delivery to pushes: the rules that hold for every provider.
//!
//! Called by `Hooks` with claims whose signature held. The rule it keeps: a branch and a commit leave here only as names
//! that conf knows or that are well formed, and a repository that does not say its id is none that could be pinned.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Refusal, Verdict, shown};
use crate::model::name::{BranchName, Commit, ProjectName};
use crate::model::project::{Ci, Origin, Project};
use crate::model::push::{Provider, Push};

/// What a provider says happened, after its signature held. Kept in the log of deliveries, to be judged again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub provider: Provider,
    /// The `ci` of the projects that this event deploys.
    pub ci: Ci,
    pub delivery: String,
    /// As the provider names it; for a generic delivery the project.
    pub repository: String,
    /// As it was sent: only one that is wholly the same as a branch in conf counts.
    pub branch: String,
    pub commit: Commit,
    pub number: Option<u64>,
    pub repository_id: Option<u64>,
    /// The hosted projects whose secret signed it.
    pub projects: Vec<ProjectName>,
}

/// What a provider says of a commit, before it is known which.
pub struct Said<'a> {
    pub provider: Provider,
    pub ci: Ci,
    pub delivery: String,
    pub repository: &'a str,
    pub branch: &'a str,
    pub commit: &'a str,
    pub number: Option<u64>,
    pub repository_id: Option<u64>,
}

impl Said<'_> {
    /// A claim for these projects, if it names a commit and its repository's id.
    pub fn of(self, projects: &[&Project]) -> Result<Claim, Refusal> {
        let commit = self.commit.parse().map_err(|fault| Refusal::Malformed(format!("{fault}")))?;
        if self.repository_id.is_none() && self.provider != Provider::Generic {
            return Err(Refusal::malformed("the repository has no id"));
        }
        Ok(Claim {
            provider: self.provider,
            ci: self.ci,
            delivery: self.delivery,
            repository: shown(self.repository),
            branch: self.branch.chars().take(BRANCH_KEPT).collect(),
            commit,
            number: self.number,
            repository_id: self.repository_id,
            projects: projects.iter().map(|project| project.name.clone()).collect(),
        })
    }
}

/// The projects of a repository, as a CI or forge names it. Several may share one.
pub fn hosted<'p>(projects: &'p BTreeMap<ProjectName, Project>, name: &str) -> Vec<&'p Project> {
    let is_of = |project: &&Project| match &project.origin {
        Origin::Repository(repository) => repository.is_called(name),
        Origin::Upstream(_) => false,
    };
    projects.values().filter(is_of).collect()
}

/// One push for each of its projects that takes this claim; without any, why not. By what conf states now: a claim may
/// be an old one that is judged again.
pub fn judge(claim: &Claim, projects: &BTreeMap<ProjectName, Project>) -> Result<Verdict, Refusal> {
    let named = || claim.projects.iter().filter_map(|name| projects.get(name));
    let projects: Vec<&Project> = match claim.provider {
        Provider::Generic => named().collect(),
        _ => hosted(projects, &claim.repository).into_iter().filter(|one| claim.projects.contains(&one.name)).collect(),
    };
    if projects.is_empty() {
        return Err(Refusal::UnknownRepository { name: claim.repository.clone(), id: claim.repository_id });
    }
    let mut pushes = Vec::new();
    let mut reasons = Vec::new();
    for project in projects {
        match branch(claim, project) {
            Ok(branch) => pushes.push(Push {
                provider: claim.provider,
                delivery: claim.delivery.clone(),
                project: project.name.clone(),
                branch,
                commit: claim.commit.clone(),
                number: claim.number,
                repository_id: claim.repository_id,
            }),
            Err(reason) => reasons.push(reason),
        }
    }
    if pushes.is_empty() { Ok(Verdict::Ignored(reasons.join("; "))) } else { Ok(Verdict::Push(pushes)) }
}

/// The branch that the project has or could have, or why this is nothing for the project.
fn branch(claim: &Claim, project: &Project) -> Result<BranchName, String> {
    if project.ci != claim.ci {
        let said = match claim.ci {
            Ci::None => "plain pushes".to_owned(),
            _ => claim.provider.to_string(),
        };
        return Err(format!("project `{}` does not deploy on the word of {said}", project.name));
    }
    let is_same = |branch: &&BranchName| branch.as_str() == claim.branch;
    let known = project.branches.keys().find(is_same).cloned();
    let preview = || claim.branch.parse().ok().filter(|_| project.previews.is_some());
    known.or_else(preview).ok_or_else(|| format!("project `{}` has no branch `{}`", project.name, shown(&claim.branch)))
}

/// Longer than any branch that conf can name, so that cutting makes no name of one.
const BRANCH_KEPT: usize = 200;
