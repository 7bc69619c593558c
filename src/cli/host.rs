//! `opri host`: one command, and a project is live: writes its file, has it taken, deploys what there is, and says what
//! to tell its CI.

use std::fs;
use std::path::Path;

use super::client::Client;
use super::{Common, Done, Exit, Failure, block_on, conf_dir, deploy};
use crate::control::web::api::{DeployOrder, Ordered, Reloaded, SiteLine, Status};
use crate::model::host::HostName;
use crate::model::name::{ProjectName, Site};
use crate::report;

pub fn run(common: &Common, name: &ProjectName, repository: &str, main_url: Option<&str>) -> Done {
    let dir = conf_dir(common)?;
    let path = dir.join("projects").join(format!("{name}.toml"));
    let text = project_file(repository, main_url)?;
    write_new(&path, &text)?;
    say!("wrote {}", path.display());
    let client = Client::new(common)?;
    block_on(async {
        let reloaded: Reloaded = match client.post("/v1/reload", &()).await {
            Ok(reloaded) => reloaded,
            Err(failure) => {
                say!("it will be hosted when `opri serve` runs; then `opri deploy {name}`");
                return Err(failure);
            }
        };
        report::print_faults(&reloaded.faults);
        let sites: Vec<SiteLine> = client.get("/v1/list").await?;
        let mut sites: Vec<SiteLine> = sites.into_iter().filter(|site| site.project == name.as_str()).collect();
        sites.sort_by_key(|site| site.branch != "master");
        if sites.is_empty() {
            return Err(Failure::Told(Exit::Failed));
        }
        deploy_each(&client, &sites).await.inspect_err(|_| {
            say!("edit {} and `opri deploy {name}` again", path.display());
        })?;
        for site in &sites {
            say!("{:8} {}", site.branch, site.url);
        }
        let status: Status = client.get("/v1/status").await?;
        say_on!("{}", travis_lines(&status.hooks));
        Ok(())
    })
}

/// `master` must come up; other branches may not exist yet.
async fn deploy_each(client: &Client, sites: &[SiteLine]) -> Done {
    let mut outcome = Ok(());
    for line in sites {
        let name = format!("{}/{}", line.project, line.branch);
        let site: Site = name.parse().map_err(Failure::new)?;
        let ordered: Ordered = client.post("/v1/deploy", &DeployOrder { site, commit: None }).await?;
        match deploy::follow(client, &ordered.deployment, false).await {
            Ok(()) => {}
            Err(failure) if line.branch == "master" => outcome = Err(failure),
            Err(Failure::Said { error, .. }) => say!("{name} does not serve: {}", report::clean(&error)),
            Err(Failure::Told(_)) => {}
        }
    }
    outcome
}

fn project_file(repository: &str, main_url: Option<&str>) -> Result<String, Failure> {
    // A directory is named in full, so that it means the same from wherever conf is read.
    let repository = match Path::new(repository).is_dir() {
        true => fs::canonicalize(repository).map_err(Failure::new)?.display().to_string(),
        false => repository.to_owned(),
    };
    let mut text = format!("repo = {}\nci   = \"travis\"\n", toml::Value::String(repository));
    if let Some(url) = main_url {
        let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = authority.split('/').next().unwrap_or_default();
        let host = HostName::from_authority(authority).map_err(|error| Failure::Said {
            exit: Exit::Usage,
            error: error.to_string(),
            hint: Some("give an address like https://next.example.org".to_owned()),
        })?;
        text.push_str(&format!("\n[branches.master]\nhosts = [\"{host}\"]\n\n[branches.dev]\n"));
    }
    Ok(text)
}

fn write_new(path: &Path, text: &str) -> Done {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(Failure::new)?;
    }
    match fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => std::io::Write::write_all(&mut file, text.as_bytes()).map_err(Failure::new),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Failure::Said {
            exit: Exit::Refused,
            error: format!("{} exists already", path.display()),
            hint: Some("edit it, and `opri reload`".to_owned()),
        }),
        Err(error) => Err(Failure::new(format!("{}: {error}", path.display()))),
    }
}

/// What a `.travis.yml` needs. Words, not booleans: Travis reads `never` (docs, user/notifications).
fn travis_lines(hooks: &str) -> String {
    format!(
        "\nadd to .travis.yml:\n\nnotifications:\n  webhooks:\n    urls: [ \"{hooks}\" ]\n    on_success: always\n    \
         on_failure: never\n    on_start: never\n    on_cancel: never\n    on_error: never\n"
    )
}
