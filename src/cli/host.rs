//! `opri host`: one command, and a project is live: writes its file, has it taken, deploys what there is, and says what
//! to tell its CI.

use std::fs;
use std::path::Path;

use super::client::Client;
use super::{Common, Done, Exit, Failure, block_on, conf_dir, deploy};
use crate::control::web::api::{DeployOrder, LookOrder, Ordered, Reloaded, Seen, SiteLine, Status};
use crate::model::host::HostName;
use crate::model::name::{BranchName, ProjectName, Site};
use crate::report;

pub fn run(common: &Common, name: &ProjectName, repository: &str, main_url: Option<&str>) -> Done {
    let dir = conf_dir(common)?;
    let path = dir.join("projects").join(format!("{name}.toml"));
    if path.exists() {
        return Err(exists(&path));
    }
    let repository = whole(repository)?;
    let host = main_url.map(host_of).transpose()?;
    let client = Client::new(common)?;
    block_on(async {
        // Before anything is written: what cannot be had, or while nobody would take it, leaves no file.
        let order = LookOrder { project: name.clone(), repository: repository.clone() };
        let seen: Seen = client.post("/v1/look", &order).await?;
        write_new(&path, &project_file(&repository, host, &seen))?;
        say!("wrote {}", path.display());
        if seen.main != BranchName::master() {
            say!("the repository has no branch `master`: `{}` takes its place", seen.main);
        }
        let sites = hosted(&client, name, &seen.main, &path).await?;
        deploy_each(&client, &sites, &seen.main).await.inspect_err(|_| {
            let site = Site::new(name.clone(), seen.main.clone());
            say!(
                "{site} is hosted and does not serve yet: mend it, or edit {}, and `opri deploy {site}`",
                path.display()
            );
        })?;
        for site in &sites {
            say!("{:8} {}", site.branch, site.url);
        }
        let status: Status = client.get("/v1/status").await?;
        say_on!("{}", travis_lines(&status.hooks));
        Ok(())
    })
}

/// A directory is named in full, so that it means the same from wherever conf is read.
fn whole(repository: &str) -> Result<String, Failure> {
    match Path::new(repository).is_dir() {
        true => Ok(fs::canonicalize(repository).map_err(Failure::new)?.display().to_string()),
        false => Ok(repository.to_owned()),
    }
}

fn host_of(url: &str) -> Result<HostName, Failure> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or_default();
    HostName::from_authority(authority).map_err(|error| Failure::Said {
        exit: Exit::Usage,
        error: error.to_string(),
        hint: Some("give an address like https://next.example.org".to_owned()),
    })
}

/// Without branches a project has master and dev, each with its default host. A branch in master's place is named, and
/// has master's host.
fn project_file(repository: &str, host: Option<HostName>, seen: &Seen) -> String {
    let text = format!("repo = {}\nci   = \"travis\"\n", toml::Value::String(repository.to_owned()));
    let is_usual = seen.main == BranchName::master();
    let host = match host {
        None if is_usual => return text,
        None => seen.host.clone(),
        Some(host) => host.to_string(),
    };
    let is_bare = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
    let main = seen.main.as_str();
    let key = if main.bytes().all(is_bare) { main.to_owned() } else { format!("\"{main}\"") };
    let has_dev = (is_usual || seen.has_dev) && seen.main != BranchName::dev();
    let dev = if has_dev { "\n[branches.dev]\n" } else { "" };
    format!("{text}\n[branches.{key}]\nhosts = [\"{host}\"]\n{dev}")
}

fn write_new(path: &Path, text: &str) -> Done {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(Failure::new)?;
    }
    match fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => std::io::Write::write_all(&mut file, text.as_bytes()).map_err(|error| {
            // Half a file is worse than none.
            let _ = fs::remove_file(path);
            Failure::new(format!("{}: {error}", path.display()))
        }),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists(path)),
        Err(error) => Err(Failure::new(format!("{}: {error}", path.display()))),
    }
}

fn exists(path: &Path) -> Failure {
    Failure::Said {
        exit: Exit::Refused,
        error: format!("{} exists already", path.display()),
        hint: Some("edit it, and `opri reload`".to_owned()),
    }
}

/// Has the new file taken; one that is not is taken away again, for nobody would know whose fault it is later.
async fn hosted(client: &Client, name: &ProjectName, main: &BranchName, path: &Path) -> Result<Vec<SiteLine>, Failure> {
    let outcome = take(client, name, main).await;
    if outcome.is_err() {
        fs::remove_file(path).map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        say!("`{name}` is not hosted, and {} is taken away again", path.display());
        // What was wrong with it is no fault of conf any more.
        let _: Result<Reloaded, Failure> = client.post("/v1/reload", &()).await;
    }
    outcome
}

async fn take(client: &Client, name: &ProjectName, main: &BranchName) -> Result<Vec<SiteLine>, Failure> {
    let reloaded: Reloaded = client.post("/v1/reload", &()).await?;
    report::print_faults(&reloaded.faults);
    let sites: Vec<SiteLine> = client.get("/v1/list").await?;
    let mut sites: Vec<SiteLine> = sites.into_iter().filter(|site| site.project == name.as_str()).collect();
    sites.sort_by_key(|site| site.branch != main.as_str());
    if sites.is_empty() { Err(Failure::Told(Exit::Failed)) } else { Ok(sites) }
}

/// The main branch must come up; others may not exist yet.
async fn deploy_each(client: &Client, sites: &[SiteLine], main: &BranchName) -> Done {
    let mut outcome = Ok(());
    for line in sites {
        let name = format!("{}/{}", line.project, line.branch);
        let site: Site = name.parse().map_err(Failure::new)?;
        let ordered: Ordered = client.post("/v1/deploy", &DeployOrder { site, commit: None }).await?;
        match deploy::follow(client, &ordered.deployment, false).await {
            Ok(()) => {}
            Err(failure) if line.branch == main.as_str() => outcome = Err(failure),
            Err(Failure::Said { error, .. }) => say!("{name} does not serve: {}", report::clean(&error)),
            Err(Failure::Told(_)) => {}
        }
    }
    outcome
}

/// What a `.travis.yml` needs. Words, not booleans: Travis reads `never` (docs, user/notifications).
fn travis_lines(hooks: &str) -> String {
    format!(
        "\nadd to .travis.yml:\n\nnotifications:\n  webhooks:\n    urls: [ \"{hooks}\" ]\n    on_success: always\n    \
         on_failure: never\n    on_start: never\n    on_cancel: never\n    on_error: never\n"
    )
}
