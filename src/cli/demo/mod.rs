//! `opri demo`: the whole story on one machine, with real processes, repositories, hooks and visitors.
//!
//! The rule: nothing is played. What the demo shows goes through the sockets, files and processes that a real Prime uses,
//! and a visitor who got anything but a whole, right page is counted as failed.

mod app;
mod docker;
mod scene;
mod visitors;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use clap::Args;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use super::client::Client;
use super::{Done, Exit, Failure, travis};
use crate::control::web::api::{SiteLine, Status};
use crate::link::paths;
use crate::model::deployment::{Deployment, DeploymentId, Outcome, Stage};

use scene::{BRANCHES, PROJECTS, Scene};
use visitors::{Tally, Visitors};

/// For Prime to answer, and for each deployment to serve; the engine takes longest.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long visitors ask before and after the swap.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Options {
    /// Stop after the story; exit 0 if no request failed, 1 otherwise
    #[arg(long)]
    once: bool,
    /// Use the Docker engine instead of processes
    #[arg(long)]
    docker: bool,
}

pub fn app() -> Done {
    app::run()
}

pub fn run(options: Options) -> Done {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::new)?;
    runtime.block_on(tell(options))
}

async fn tell(options: Options) -> Done {
    say!("1. Two repositories, open-knesset and open-pension, each with a master and a dev branch");
    if options.docker {
        docker::import_base().await?;
    }
    let scene = Scene::set(options.docker)?;
    say!("2. `opri serve` starts on their conf");
    let mut prime = Prime::start(&scene).await?;
    let ending = tokio::select! {
        ending = story(&scene, &prime, &options) => ending,
        interrupted = interrupted() => interrupted,
    };
    prime.end().await;
    if options.docker {
        docker::clear_away(&scene.conf()).await?;
    }
    ending
}

/// Returns at Ctrl-C, or when it is asked to end otherwise.
async fn interrupted() -> Done {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::new)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::new)?;
    tokio::select! {
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

async fn story(scene: &Scene, prime: &Prime, options: &Options) -> Done {
    prime.tell_addresses().await?;
    say!("3. Travis says that all four branches passed: each is fetched, built, started and asked whether it is well");
    let mut number = 0;
    for project in PROJECTS {
        for branch in BRANCHES {
            number += 1;
            let commit = scene.commit(project, branch, 1);
            deploy(scene, prime, project, branch, &commit?, number).await?;
        }
    }
    say!("4. Sixteen visitors come and ask without a pause: plain and over HTTPS, keeping their connections or not");
    let visitors = Visitors::begin(scene.ports, &scene.root_certificate())?;
    sleep(BEFORE).await;
    say!("5. A committer pushes version 2 to open-knesset's master; Travis signs that it passed");
    let commit = scene.commit(PROJECTS[0], BRANCHES[0], 2)?;
    let swapped = deploy(scene, prime, PROJECTS[0], BRANCHES[0], &commit, number + 1).await;
    sleep(AFTER).await;
    let tally = visitors.end().await;
    let swap = swapped?.swap.unwrap_or_default();
    let failed = sum_up(&tally, swap);
    if options.once {
        say!("{}", last_line(&tally, swap));
    } else if failed == 0 {
        say!("7. Prime goes on serving; look at the addresses above. Ctrl-C ends it, and removes everything");
        say!("   HTTPS on port {}, by the CA in {}", scene.ports.https, scene.root_certificate().display());
        say!("   metrics on http://127.0.0.1:{}/metrics", scene.ports.metrics);
        say!("   the command line works on it: opri list --conf {}", scene.conf().display());
        std::future::pending::<()>().await;
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Told(Exit::Failed)) }
}

/// Tells what the visitors saw, and how many of them saw something wrong.
fn sum_up(tally: &Tally, swap: Duration) -> u64 {
    let seen = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    say!(
        "6. {} requests, {} failed, swap took {:.1} ms",
        seen(&tally.requests),
        seen(&tally.failed),
        swap.as_secs_f64() * 1000.0
    );
    say!(
        "   on {}: {} answers of version 1, then {} of version 2; the other three sites had the rest",
        visitors::host(PROJECTS[0], BRANCHES[0]),
        seen(&tally.old),
        seen(&tally.new)
    );
    for failure in tally.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
        say!("   failed: {}", crate::report::clean(failure));
    }
    let never_swapped = u64::from(seen(&tally.new) == 0);
    seen(&tally.failed) + never_swapped
}

fn last_line(tally: &Tally, swap: Duration) -> String {
    let (requests, failed) = (tally.requests.load(Ordering::Relaxed), tally.failed.load(Ordering::Relaxed));
    format!("demo: {requests} requests, {failed} failed, swap {:.1} ms", swap.as_secs_f64() * 1000.0)
}

/// Sends the hook, and follows the deployment until it serves.
async fn deploy(
    scene: &Scene,
    prime: &Prime,
    project: &str,
    branch: &str,
    commit: &str,
    number: u64,
) -> Result<Deployment, Failure> {
    let finished_at = rfc3339(SystemTime::now())?;
    let payload = travis::passed(&scene.slug(project), branch, commit, number, &finished_at);
    let signature = scene.travis.sign(&payload);
    let (status, answer) = visitors::post_hook(scene.ports, travis::body(&payload), &signature).await?;
    say!("   POST /events -> {status} {}", answer.trim());
    let id = serde_json::from_str::<serde_json::Value>(&answer).ok();
    let id = id.and_then(|answer| answer["deployment"].as_str().and_then(|id| id.parse::<DeploymentId>().ok()));
    let id = id.ok_or_else(|| Failure::new(format!("the hook was not accepted: {status} {answer}")))?;
    prime.until_serves(&id).await
}

/// The Prime of the demo: a real `opri serve` of its own.
struct Prime {
    child: Child,
    client: Client,
    log: std::path::PathBuf,
}

impl Prime {
    async fn start(scene: &Scene) -> Result<Self, Failure> {
        let log = fs::File::create(scene.log()).map_err(Failure::new)?;
        let opri = std::env::current_exe().map_err(Failure::new)?;
        let child = Command::new(opri)
            .args([Path::new("serve"), Path::new("--conf"), &scene.conf()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(Failure::new)?;
        let client = Client::at(paths::admin_socket(&scene.state()));
        let mut prime = Self { child, client, log: scene.log() };
        let deadline = Instant::now() + PATIENCE;
        while prime.client.get::<Status>("/v1/status").await.is_err() {
            if prime.child.try_wait().ok().flatten().is_some() || Instant::now() > deadline {
                return Err(prime.broken("`opri serve` does not come up"));
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(prime)
    }

    async fn tell_addresses(&self) -> Done {
        let status: Status = self.client.get("/v1/status").await?;
        let sites: Vec<SiteLine> = self.client.get("/v1/list").await?;
        for site in sites {
            say!("   {}", site.url);
        }
        say!("   {}  (the dashboard)", status.dashboard.unwrap_or_default());
        Ok(())
    }

    async fn until_serves(&self, id: &DeploymentId) -> Result<Deployment, Failure> {
        let path = format!("/v1/follow?deployment={}", super::client::quoted(id));
        let mut telling = Telling::default();
        let following = async {
            let mut body = self.client.open(&path).await?;
            while let Some(bytes) = super::client::piece(&mut body).await? {
                telling.hear(&bytes)?;
            }
            Ok::<_, Failure>(())
        };
        timeout(PATIENCE, following).await.map_err(|_| self.broken(&format!("{id} takes too long")))??;
        match telling.last {
            Some(deployment) if deployment.stage >= Stage::Draining => Ok(deployment),
            Some(Deployment { outcome: Some(Outcome::Failed { at, reason }), .. }) => {
                Err(Failure::new(format!("{id} failed while {at}: {reason}")))
            }
            _ => Err(self.broken(&format!("{id} did not come to serve"))),
        }
    }

    /// Ends Prime and everything that it started.
    async fn end(&mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = timeout(PATIENCE, self.child.wait()).await;
    }

    fn broken(&self, what: &str) -> Failure {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(10).collect();
        let words = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
        Failure::hinted(what, format!("its last words were:\n{words}"))
    }
}

/// Prints each stage once.
#[derive(Default)]
struct Telling {
    rest: Vec<u8>,
    last: Option<Deployment>,
}

impl Telling {
    fn hear(&mut self, bytes: &[u8]) -> Done {
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let followed = serde_json::from_slice(&line).map_err(Failure::new)?;
            if let crate::control::web::api::Followed::Stage(deployment) = followed {
                say_on!("{} {}", if self.last.is_none() { "  " } else { " ->" }, deployment.stage);
                self.last = Some(*deployment);
            }
        }
        if self.last.as_ref().is_some_and(|last| last.is_over() || last.stage >= Stage::Draining) {
            say!();
        }
        Ok(())
    }
}

fn rfc3339(at: SystemTime) -> Result<String, Failure> {
    let at = time::OffsetDateTime::from(at);
    at.format(&time::format_description::well_known::Rfc3339).map_err(Failure::new)
}
