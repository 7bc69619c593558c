//! `opri demo --docker`: a base image made of this very program, so that no registry is needed.
//!
//! The image holds `opri` and the shared libraries that it was started with, as /proc shows them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use bollard::Docker;
use bollard::query_parameters::CreateImageOptionsBuilder;
use bytes::Bytes;
use futures_util::StreamExt;

use super::super::Failure;
use crate::control::conf;
use crate::control::runtime::Runtime;

/// What the demo's repositories carry; `FROM` names the image made here.
pub const DOCKERFILE: &str =
    "FROM opri-demo/base:1\nCOPY page.html /app/page.html\nWORKDIR /app\nCMD [\"/opri\", \"demo-app\"]\n";

const REPOSITORY: &str = "opri-demo/base";

/// Makes the base image in the engine.
pub async fn import_base() -> Result<(), Failure> {
    let hint = "start the Docker engine, or leave --docker away: the demo runs with processes too";
    let docker = Docker::connect_with_local_defaults().map_err(|error| Failure::hinted(error, hint))?;
    docker.ping().await.map_err(|error| Failure::hinted(format!("no Docker engine answers: {error}"), hint))?;
    let tar = Bytes::from(root_file_system().map_err(Failure::new)?);
    let options = CreateImageOptionsBuilder::default().from_src("-").repo(REPOSITORY).tag("1").build();
    let mut importing = docker.create_image(Some(options), Some(bollard::body_full(tar)), None);
    while let Some(step) = importing.next().await {
        step.map_err(|error| Failure::new(format!("the base image cannot be imported: {error}")))?;
    }
    Ok(())
}

/// Removes what the demo's Prime, which has ended, made in the engine. The base image stays: the next demo needs it.
pub async fn clear_away(conf: &Path) -> Result<(), Failure> {
    let Ok(loaded) = conf::load(conf, None) else { return Ok(()) };
    let runtime = Runtime::choose(&loaded.conf.machine).await.map_err(Failure::new)?;
    runtime.clean(&[]).await.map_err(Failure::new)
}

fn root_file_system() -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    // Engines do not read the form in which holes are kept.
    tar.sparse(false);
    tar.append_path_with_name(std::env::current_exe()?, "opri")?;
    for library in libraries()? {
        let name = library.strip_prefix("/").unwrap_or(&library);
        tar.append_path_with_name(fs::canonicalize(&library)?, name)?;
    }
    tar.into_inner()
}

/// The shared objects this process has mapped, and the loader under the name that programs ask for it.
fn libraries() -> std::io::Result<BTreeSet<PathBuf>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mapped = maps.lines().filter_map(|line| line.split_whitespace().nth(5)).filter(|path| path.contains(".so"));
    let mut libraries: BTreeSet<PathBuf> = mapped.map(PathBuf::from).collect();
    for loader in ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"] {
        if Path::new(loader).exists() {
            libraries.insert(loader.into());
        }
    }
    Ok(libraries)
}
