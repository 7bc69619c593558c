//! A commit's tar stream into an image, by the engine's classic builder.
//!
//! Used by the Docker runtime. The rule: a Dockerfile is a committer's word, so memory, processor and time are limited,
//! and only an answer that names an image counts as built. The classic builder holds those limits; BuildKit in old
//! engines does not.

use std::io;
use std::sync::{Arc, Mutex};

use bollard::query_parameters::BuildImageOptionsBuilder;
use futures_util::StreamExt;

use super::super::error::RuntimeError;
use super::super::{BuildLog, BuildOrder, ByteStream};
use super::{Docker, fault, labels, short_hash};
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
                log.write(text.as_bytes());
            } else if let Some(status) = answer.status {
                log.line(&status);
            }
            image = answer.aux.and_then(|aux| aux.id).or(image);
        }
        image.ok_or_else(|| RuntimeError::Failed {
            what: "build",
            why: "the engine ended it without naming an image".to_owned(),
        })
    }
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

/// In microseconds; the engine's own default.
const CPU_PERIOD: i32 = 100_000;
