//! Both runtimes against the real thing: processes of this machine, and the Docker engine when it is there.

mod docker;
mod process;

use std::path::Path;
use std::time::SystemTime;

use tokio::time::timeout;

use super::*;
use crate::model::app::{AppWish, Listen};

/// A state directory with a runtime in it.
struct World {
    dir: tempfile::TempDir,
    runtime: Runtime,
}

impl World {
    fn places(&self) -> Places {
        Places::new(self.dir.path())
    }

    /// Files by name and content; a name that ends in `!` can be executed.
    async fn build(&self, app: AppWish, files: &[(&str, &[u8])]) -> Result<Release, RuntimeError> {
        self.build_within(app, files, Duration::from_secs(60)).await
    }

    async fn build_within(
        &self,
        app: AppWish,
        files: &[(&str, &[u8])],
        limit: Duration,
    ) -> Result<Release, RuntimeError> {
        self.build_of(app, files, BuildLimits { timeout: limit, ..limits() }).await
    }

    async fn build_of(
        &self,
        app: AppWish,
        files: &[(&str, &[u8])],
        limits: BuildLimits,
    ) -> Result<Release, RuntimeError> {
        let commit: Commit = "0123456789012345678901234567890123456789".parse().unwrap();
        let site: Site = "shop/feature/x".parse().unwrap();
        let app = AppWish { listen: Some(Listen::Auto), ..app }.settle();
        let order = BuildOrder { site: site.clone(), number: 7, commit: commit.clone(), app: app.clone(), limits };
        let log = self.runtime.build_log(&site, 7).unwrap();
        let artifact = self.runtime.build(&order, tar_of(files), &log).await?;
        Ok(Release { site, number: 7, commit, artifact, app, built_at: SystemTime::UNIX_EPOCH })
    }

    fn build_output(&self) -> String {
        tail_file(&self.places().build_log(&"shop/feature/x".parse().unwrap(), 7), 1000).unwrap()
    }
}

fn limits() -> BuildLimits {
    BuildLimits { parallel: 1, timeout: Duration::from_secs(60), memory: 512 << 20, cpus: 1.5, pids: 1024 }
}

fn tar_of(files: &[(&str, &[u8])]) -> ByteStream {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(if name.ends_with('!') { 0o755 } else { 0o644 });
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name.trim_end_matches('!'), *content).unwrap();
    }
    let bytes: Bytes = builder.into_inner().unwrap().into();
    Box::pin(futures_util::stream::iter([Ok(bytes)]))
}

fn run(line: &str) -> AppWish {
    AppWish { run: Some(line.to_owned()), ..Default::default() }
}

fn env(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// Polls until `what` gives something, for ten seconds.
async fn eventually<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let polling = async {
        loop {
            if let Some(found) = what() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(10), polling).await.expect("it did not come about within 10 s")
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), what).await.expect("it took longer than 20 s")
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'))
}
