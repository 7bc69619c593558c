//! A commit's tar stream into an image, by the engine's classic builder.
//!
//! Used by the Docker runtime. The rule: a Dockerfile is a committer's word, so memory, processor, processes and time are
//! limited, and only an answer that names an image counts as built. The classic builder holds those limits; BuildKit in old
//! engines does not.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::models::{ContainerStateStatusEnum, ContainerUpdateBody};
use bollard::query_parameters::{BuildImageOptionsBuilder, TagImageOptionsBuilder};
use futures_util::StreamExt;

use super::super::error::RuntimeError;
use super::super::{BuildLog, BuildOrder, ByteStream};
use super::{Docker, LIST_LIMIT, call, fault, labels, short_hash};
use crate::model::name::Site;
use crate::model::release::Artifact;

impl Docker {
    pub(in super::super) async fn build(
        &self,
        order: &BuildOrder,
        source: ByteStream,
        log: &BuildLog,
    ) -> Result<Artifact, RuntimeError> {
        let limit = order.limits.timeout;
        // Dropping the stream of a build cancels it in the engine, so a limit and a dropped future do.
        match tokio::time::timeout(limit, self.attended(self.build_image(order, source, log))).await {
            Ok(built) => built.map(Artifact::Image),
            Err(_) => Err(RuntimeError::TimedOut { what: "build", limit }),
        }
    }

    async fn build_image(
        &self,
        order: &BuildOrder,
        source: ByteStream,
        log: &BuildLog,
    ) -> Result<String, RuntimeError> {
        let limits = &order.limits;
        let memory = i32::try_from(limits.memory).unwrap_or(i32::MAX);
        let options = BuildImageOptionsBuilder::default()
            .t(&tag(&order.site, order.number, &self.state))
            .dockerfile(&order.app.dockerfile)
            .labels(&labels::of_image(&order.site, order.number, &self.state))
            .memory(memory)
            .memswap(memory)
            .cpuperiod(CPU_PERIOD)
            .cpuquota((limits.cpus * f64::from(CPU_PERIOD)).clamp(1000.0, f64::from(i32::MAX)) as i32)
            .cpushares(CPU_SHARES)
            .networkmode("default")
            .rm(true)
            .forcerm(true)
            .build();
        let source_fault = Arc::new(Mutex::new(None));
        let body = bollard::body_try_stream(keeping_fault(source, source_fault.clone()));
        // The head comes once the engine has the whole archive.
        let client = self.patient(limits.timeout);
        let mut answers = std::pin::pin!(client.build_image(options, None, Some(body)));
        let mut image = None;
        let mut leftover = Leftover { docker: self.clone(), tag: leftover(&order.site, &self.state), last: None };
        while let Some(answer) = answers.next().await {
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    // What the engine says of an archive that was cut off is not the reason.
                    let source_fault = source_fault.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
                    return Err(source_fault.map_or_else(|| build_fault(order, error, log), RuntimeError::Source));
                }
            };
            if let Some(text) = answer.stream {
                if let Some(step) = step_of(&text) {
                    self.limit_processes(step, limits.pids).await?;
                }
                leftover.last = layer_of(&text).map(str::to_owned).or(leftover.last.take());
                log.write(text.as_bytes());
            } else if let Some(status) = answer.status {
                log.line(&status);
            }
            image = answer.aux.and_then(|aux| aux.id).or(image);
        }
        let why = || "the engine ended it without naming an image".to_owned();
        let image = image.ok_or_else(|| RuntimeError::Failed { what: "build", why: why() })?;
        // Now they are layers of an image, or of no use.
        leftover.last = None;
        if let Err(error) = self.remove_tag(&leftover.tag).await {
            tracing::warn!(%error, tag = leftover.tag, "the layers of an earlier build stay");
        }
        Ok(image)
    }
}

impl Docker {
    /// Of one step of a build, whose options have no such limit. The engine names its container before it starts it, and
    /// while it starts it an update may come too early, so one must come once it runs.
    async fn limit_processes(&self, container: &str, pids: u32) -> Result<(), RuntimeError> {
        let limiting = async {
            let mut was_running = false;
            loop {
                let update = ContainerUpdateBody { pids_limit: Some(i64::from(pids)), ..Default::default() };
                let updated = self.client.update_container(container, update).await;
                let looked = self.client.inspect_container(container, None).await;
                let state = match looked {
                    Err(EngineError::DockerResponseServerError { status_code: 404, .. }) => return Ok(()),
                    looked => looked?.state.and_then(|state| state.status),
                };
                match state {
                    Some(ContainerStateStatusEnum::CREATED) => tokio::time::sleep(STARTS_SOON).await,
                    Some(ContainerStateStatusEnum::RUNNING) if was_running => return updated,
                    Some(ContainerStateStatusEnum::RUNNING) => was_running = true,
                    // A step that is over already.
                    _ => return Ok(()),
                }
            }
        };
        call("limit the build", LIST_LIMIT, limiting).await
    }
}

/// The layers that a build leaves which fails or is dropped. They get a tag of their site's, so that the next build finds
/// them, and only those of the last failure stay.
struct Leftover {
    docker: Docker,
    tag: String,
    last: Option<String>,
}

impl Drop for Leftover {
    fn drop(&mut self) {
        let (Some(last), Ok(runtime)) = (self.last.take(), tokio::runtime::Handle::try_current()) else { return };
        let (docker, tag) = (self.docker.clone(), std::mem::take(&mut self.tag));
        runtime.spawn(async move {
            let keep = async {
                docker.remove_tag(&tag).await?;
                let (repo, name) = tag.rsplit_once(':').unwrap_or((&tag, "latest"));
                let options = TagImageOptionsBuilder::default().repo(repo).tag(name).build();
                call("tag the layers", LIST_LIMIT, docker.client.tag_image(&last, Some(options))).await
            };
            if let Err(error) = keep.await {
                tracing::warn!(%error, tag, "the layers of a failed build stay without a name");
            }
        });
    }
}

fn leftover(site: &Site, state: &str) -> String {
    format!("opri-{state}/{}:{}{LEFTOVER}", site.project, branch_part(site))
}

/// For the engine to choose by.
pub(super) fn leftovers(state: &str) -> String {
    format!("opri-{state}/*")
}

pub(super) fn is_leftover(tag: &str, state: &str) -> bool {
    tag.starts_with(&format!("opri-{state}/")) && tag.ends_with(LEFTOVER)
}

/// The layer that a step has made or found, out of the builder's own line.
fn layer_of(text: &str) -> Option<&str> {
    let id = text.strip_prefix(" ---> ")?.trim_end();
    (id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// The container that a step runs in, out of the builder's own line.
fn step_of(text: &str) -> Option<&str> {
    let id = text.strip_prefix(" ---> Running in ")?.trim_end();
    (id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

fn build_fault(order: &BuildOrder, error: bollard::errors::Error, log: &BuildLog) -> RuntimeError {
    let fault = fault("build the image", error);
    let RuntimeError::Engine { why, .. } = &fault else { return fault };
    log.line(why);
    let is_missing = why.contains("Cannot locate specified Dockerfile") || why.contains("no such file or directory");
    match is_missing && why.contains("ockerfile") {
        true => RuntimeError::NoDockerfile { path: order.app.dockerfile.clone() },
        false => fault,
    }
}

/// The stream as it is; its fault is also put by, since the engine's answer hides it.
fn keeping_fault(source: ByteStream, kept: Arc<Mutex<Option<io::Error>>>) -> ByteStream {
    Box::pin(source.map(move |chunk| {
        chunk.map_err(|error| {
            let shown = io::Error::new(error.kind(), error.to_string());
            *kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(error);
            shown
        })
    }))
}

/// Keeps an image from being taken for a dangling one. Nothing is found by it: a tag can be moved.
fn tag(site: &Site, number: u64, state: &str) -> String {
    format!("opri-{state}/{}:{}-r{number}", site.project, branch_part(site))
}

/// The branch, as the engine's names allow it, and distinct for distinct branches.
pub(super) fn branch_part(site: &Site) -> String {
    let branch = site.branch.as_str();
    let is_plain = !branch.contains('/') && branch.starts_with(|first: char| first.is_ascii_alphanumeric());
    match is_plain {
        true => branch.to_owned(),
        false => format!("b-{}-{}", branch.replace('/', "-"), short_hash(branch.as_bytes())),
    }
}

/// Between two looks whether a step has begun.
const STARTS_SOON: Duration = Duration::from_millis(10);
/// No tag of a release ends so.
const LEFTOVER: &str = ".failed";
/// In microseconds; the engine's own default.
const CPU_PERIOD: i32 = 100_000;
/// An eighth of what a container has that serves, when both want the processor.
const CPU_SHARES: i32 = 128;
