//! Where, as whom and by which name a project's CI or forge is asked.

use crate::model::machine::Machine;
use crate::model::project::{Ci, Origin, Project, Repository, Secret};
use crate::model::push::Provider;

/// Comes from conf alone.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub provider: Provider,
    pub(super) base: String,
    pub(super) token: Option<Secret>,
    /// The repository as the API names it: `owner/name`.
    pub(super) name: String,
}

impl Endpoint {
    /// Who says whether a commit of the project passed. `None` where conf has neither token nor address for it.
    pub fn of_ci(project: &Project, machine: &Machine) -> Option<Self> {
        match project.ci {
            Ci::None | Ci::Generic => None,
            Ci::Travis => Self::new(project, machine, Provider::Travis),
            Ci::Github => Self::new(project, machine, Provider::Github),
            Ci::Gitlab => Self::new(project, machine, Provider::Gitlab),
            Ci::Gitea => Self::new(project, machine, Provider::Gitea),
        }
    }

    /// Who is told what became of a commit: where the code lies. `None` without a token.
    pub fn of_forge(project: &Project, machine: &Machine) -> Option<Self> {
        let Origin::Repository(repository) = &project.origin else { return None };
        let provider = match (project.ci, repository.host().as_deref()) {
            (Ci::Github, _) | (_, Some("github.com")) => Provider::Github,
            (Ci::Gitlab, _) | (_, Some("gitlab.com")) => Provider::Gitlab,
            (Ci::Gitea, _) | (_, Some("codeberg.org")) => Provider::Gitea,
            _ => return None,
        };
        Self::new(project, machine, provider).filter(|endpoint| endpoint.token.is_some())
    }

    fn new(project: &Project, machine: &Machine, provider: Provider) -> Option<Self> {
        let Origin::Repository(repository) = &project.origin else { return None };
        let api = machine.hooks.apis.get(&provider);
        if api.is_none() && project.hooks.token.is_none() {
            return None;
        }
        let base = api.and_then(|api| api.base.clone()).or_else(|| usual(repository, provider))?;
        let token = project.hooks.token.clone().or_else(|| api.and_then(|api| api.token.clone()));
        let name = match provider {
            Provider::Gitlab => repository.path(),
            _ => repository.slug(),
        };
        Some(Self { provider, base, token, name: name?.trim_end_matches(".git").to_owned() })
    }
}

/// Where the repository's host usually has its API.
fn usual(repository: &Repository, provider: Provider) -> Option<String> {
    if provider == Provider::Travis {
        return Some("https://api.travis-ci.com".to_owned());
    }
    let host = repository.host()?;
    Some(match provider {
        Provider::Github if host == "github.com" => "https://api.github.com".to_owned(),
        Provider::Github => format!("https://{host}/api/v3"),
        Provider::Gitlab => format!("https://{host}/api/v4"),
        _ => format!("https://{host}/api/v1"),
    })
}
