//! What the demo plays on: a throw-away directory with two repositories, a Travis key and a conf.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::{Failure, travis};

/// The projects of the demo, each with a master and a dev branch.
pub const PROJECTS: [&str; 2] = ["open-knesset", "open-pension"];
pub const BRANCHES: [&str; 2] = ["master", "dev"];

/// Everything but the running Prime.
pub struct Scene {
    /// Removed when the demo ends.
    dir: tempfile::TempDir,
    pub travis: travis::TravisKey,
    pub ports: Ports,
}

/// Free ports, at or above the usual ones.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub http: u16,
    pub https: u16,
    pub metrics: u16,
}

impl Scene {
    pub fn set(docker: bool) -> Result<Self, Failure> {
        let dir = tempfile::Builder::new().prefix("opri-demo-").tempdir().map_err(Failure::new)?;
        let travis = travis::TravisKey::generate().map_err(|_| Failure::new("no RSA key could be made"))?;
        let ports = Ports { http: free_port(8080)?, https: free_port(8443)?, metrics: free_port(9464)? };
        let scene = Self { dir, travis, ports };
        for project in PROJECTS {
            scene.make_repository(project, docker)?;
        }
        scene.write_conf(docker)?;
        Ok(scene)
    }

    pub fn conf(&self) -> PathBuf {
        self.dir.path().join("conf")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The root that visitors over HTTPS trust.
    pub fn root_certificate(&self) -> PathBuf {
        self.dir.path().join("certs/ca/root.pem")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("serve.log")
    }

    /// Commits another version of a branch's page; tells the commit.
    pub fn commit(&self, project: &str, branch: &str, version: u32) -> Result<String, Failure> {
        let repository = self.repository(project);
        git(&repository, &["checkout", "--quiet", "-B", branch])?;
        let page = format!(
            "<!doctype html><html lang=en><title>{project}</title><h1>{project}/{branch}</h1><p>version {version}</p>\n"
        );
        fs::write(repository.join("page.html"), page).map_err(Failure::new)?;
        git(&repository, &["add", "--all"])?;
        git(&repository, &["commit", "--quiet", "--message", &format!("Version {version} of {branch}")])?;
        Ok(git(&repository, &["rev-parse", "HEAD"])?.trim().to_owned())
    }

    /// As Travis would name it: the directory's owner and name.
    pub fn slug(&self, project: &str) -> String {
        format!("demo/{project}")
    }

    fn repository(&self, project: &str) -> PathBuf {
        self.dir.path().join("demo").join(project)
    }

    fn make_repository(&self, project: &str, docker: bool) -> Result<(), Failure> {
        let repository = self.repository(project);
        fs::create_dir_all(&repository).map_err(Failure::new)?;
        git(&repository, &["init", "--quiet", "--initial-branch", "master"])?;
        if docker {
            fs::write(repository.join("Dockerfile"), super::docker::DOCKERFILE).map_err(Failure::new)?;
        } else {
            let opri = std::env::current_exe().map_err(Failure::new)?;
            let line = format!("web: exec '{}' demo-app\n", opri.display());
            fs::write(repository.join("Procfile"), line).map_err(Failure::new)?;
        }
        for branch in BRANCHES {
            self.commit(project, branch, 1)?;
        }
        Ok(())
    }

    fn write_conf(&self, docker: bool) -> Result<(), Failure> {
        let Ports { http, https, metrics } = self.ports;
        let runtime = if docker { "docker" } else { "process" };
        let conf = self.conf();
        fs::create_dir_all(conf.join("projects")).map_err(Failure::new)?;
        let prime = format!(
            "domain = \"localhost\"\nruntime = \"{runtime}\"\n\n[listen]\nhttp = \"127.0.0.1:{http}\"\n\
             https = \"127.0.0.1:{https}\"\nmetrics = \"127.0.0.1:{metrics}\"\n\n[hooks]\nhost = \"opri.localhost\"\n\
             travis = {{ public_key = \"conf/travis.pem\" }}\n\n[dashboard]\nhost = \"prime.localhost\"\n"
        );
        fs::write(conf.join("prime.toml"), prime).map_err(Failure::new)?;
        fs::write(conf.join("travis.pem"), self.travis.public_pem()).map_err(Failure::new)?;
        for project in PROJECTS {
            let text = format!("repo = \"demo/{project}\"\nci = \"travis\"\n\n[app]\nlisten = \"socket\"\n");
            fs::write(conf.join(format!("projects/{project}.toml")), text).map_err(Failure::new)?;
        }
        Ok(())
    }
}

/// The first free port from `from` on, of the next hundred.
fn free_port(from: u16) -> Result<u16, Failure> {
    let is_free = |port: &u16| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, *port))).is_ok();
    let port = (from..from + 100).find(is_free);
    let port = port.ok_or_else(|| Failure::new(format!("no port is free from {from} to {}", from + 99)))?;
    if port != from {
        say!("   port {from} is busy; {port} is taken instead");
    }
    Ok(port)
}

/// git with an author of its own and nobody's settings.
fn git(repository: &Path, arguments: &[&str]) -> Result<String, Failure> {
    let output = Command::new("git")
        .args(["-c", "user.name=Open Prime demo", "-c", "user.email=demo@localhost", "-c", "commit.gpgSign=false"])
        .args(arguments)
        .current_dir(repository)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .map_err(|error| Failure::hinted(format!("git cannot be started: {error}"), "install git"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("git {} failed: {}", arguments.join(" "), words.trim())))
}
