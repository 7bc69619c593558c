//! From what a verified delivery claims to pushes: the rules that hold for every provider.
//!
//! Called by `travis` and `github` with claims whose signature held. The rule it keeps: a branch and a commit leave here
//! only as names that conf knows or that are well formed.

use std::collections::BTreeMap;

use super::{Refusal, Verdict, shown};
use crate::model::name::{BranchName, Commit, ProjectName};
use crate::model::project::{Ci, Origin, Project};
use crate::model::push::{Provider, Push};

/// What a provider says happened.
#[derive(Debug)]
pub struct Claim<'a> {
    pub provider: Provider,
    /// The `ci` of the projects that this event deploys.
    pub ci: Ci,
    pub delivery: String,
    pub branch: &'a str,
    pub commit: &'a str,
    pub number: Option<u64>,
    pub repository_id: Option<u64>,
}

/// The projects of a repository, named `owner/name` in any case. Several may share one.
pub fn hosted<'p>(projects: &'p BTreeMap<ProjectName, Project>, slug: &str) -> Vec<&'p Project> {
    let is_of = |project: &&Project| match &project.origin {
        Origin::Repository(repository) => repository.slug().is_some_and(|own| own.eq_ignore_ascii_case(slug)),
        Origin::Upstream(_) => false,
    };
    projects.values().filter(is_of).collect()
}

/// One push for each of `projects` that takes this claim; without any, why not.
pub fn judge(claim: &Claim<'_>, projects: &[&Project]) -> Result<Verdict, Refusal> {
    let commit: Commit = claim.commit.parse().map_err(|fault| Refusal::Malformed(format!("{fault}")))?;
    let mut pushes = Vec::new();
    let mut reasons = Vec::new();
    for project in projects {
        match branch(claim, project) {
            Ok(branch) => pushes.push(Push {
                provider: claim.provider,
                delivery: claim.delivery.clone(),
                project: project.name.clone(),
                branch: branch.clone(),
                commit: commit.clone(),
                number: claim.number,
                repository_id: claim.repository_id,
            }),
            Err(reason) => reasons.push(reason),
        }
    }
    if pushes.is_empty() { Ok(Verdict::Ignored(reasons.join("; "))) } else { Ok(Verdict::Push(pushes)) }
}

/// The project's own name for the branch, or why this is nothing for the project.
fn branch<'p>(claim: &Claim<'_>, project: &'p Project) -> Result<&'p BranchName, String> {
    if project.ci != claim.ci {
        let said = match claim.ci {
            Ci::None => "plain pushes".to_owned(),
            _ => claim.provider.to_string(),
        };
        return Err(format!("project `{}` does not deploy on the word of {said}", project.name));
    }
    let is_same = |branch: &&BranchName| branch.as_str() == claim.branch;
    project
        .branches
        .keys()
        .find(is_same)
        .ok_or_else(|| format!("project `{}` has no branch `{}`", project.name, shown(claim.branch)))
}
