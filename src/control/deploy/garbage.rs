//! Garbage: what nobody can ask for any more is removed, and what the rest takes on disk is measured.
//!
//! Called behind each deployment, and by a task of its own that watches over the room that is left. The rule: what serves,
//! what still runs or drains, what a deployment under way is about, and the release before the one that serves, which a
//! rollback brings back, are never removed.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::broadcast::error::RecvError;
use tokio::time::sleep;

use super::history::ActiveRecord;
use super::{DeployError, Workshop};
use crate::control::observe::DiskUse;
use crate::control::source::Source;
use crate::link::paths;
use crate::model::deployment::{Deployment, Outcome};
use crate::model::name::{ProjectName, Site};
use crate::model::release::{Artifact, Release, prunable};

/// Build logs that are kept for each site beside those of its releases: most of them tell of failures.
const OTHER_LOGS_KEPT: usize = 10;
/// Releases that are kept for each site while room is short, beside the one that serves.
const KEPT_WHEN_SHORT: usize = 1;
/// Between two looks at the room that is left, when nothing is deployed.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Between two of them at the least, however much is deployed.
const LOOK_LEAST: Duration = Duration::from_secs(5);

/// Watches over the room until control ends.
pub async fn run(workshop: Arc<Workshop>) {
    let mut progress = workshop.progress.subscribe();
    let mut was_short = false;
    loop {
        was_short = make_room(&workshop, was_short).await;
        let since = Instant::now();
        measure(&workshop).await;
        // Large trees are walked through more seldom.
        sleep(LOOK_LEAST.max(since.elapsed() * 20)).await;
        let ended = async {
            loop {
                match progress.recv().await {
                    Ok(deployment) if !deployment.is_over() => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => return,
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let _ = tokio::time::timeout(LOOK_EVERY, ended).await;
    }
}

/// Removes what is neither needed nor among those kept for a rollback, and what is too old to be asked for.
pub async fn sweep(workshop: &Workshop, site: &Site) {
    crash_point!("prune.before");
    if let Err(error) = workshop.source.prune(&site.project).await {
        tracing::warn!(%error, %site, "the mirror could not be packed");
    }
    let keep = if is_short(workshop) { KEPT_WHEN_SHORT } else { usize::MAX };
    if let Err(error) = sweep_to(workshop, site, keep).await {
        tracing::warn!(%error, %site, "what nobody needs could not be removed");
    }
    crash_point!("prune.after");
}

/// Keeps no more than `most` releases beside the one that serves.
async fn sweep_to(workshop: &Workshop, site: &Site, most: usize) -> Result<(), DeployError> {
    let keep = workshop.conf().machine.keep_releases.min(most);
    let history = &workshop.history;
    history.sweep(site, SystemTime::now()).await?;
    // In this order: whatever begins meanwhile is not listed, or known to be needed.
    let logs = logs(&super::logs(&workshop.state_dir, site));
    let releases = history.releases(site).await?;
    let active = history.active(site).await?;
    let (before, active) = (active.as_ref().and_then(ActiveRecord::before), active.as_ref().map(|one| one.release));
    let needed = needed(workshop, site).await?;
    for release in prunable(releases, active, before, keep) {
        if !needed.contains(&release.number) {
            remove(workshop, &release).await?;
        }
    }
    let mut releases: BTreeSet<u64> = history.releases(site).await?.iter().map(|release| release.number).collect();
    releases.extend(needed);
    let builds = kept_builds(&history.deployments(site).await?, &releases, most.min(OTHER_LOGS_KEPT));
    for (log, path) in logs {
        let is_kept = match log {
            Log::Build(number) => builds.contains(&number),
            Log::Release(number) => releases.contains(&number),
        };
        if !is_kept && let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(%error, path = %path.display(), "an old log stays");
        }
    }
    Ok(())
}

/// The releases that something runs of, or that a deployment under way is about.
async fn needed(workshop: &Workshop, site: &Site) -> Result<BTreeSet<u64>, DeployError> {
    let running = workshop.runtime.running().await?.into_iter();
    let running = running.filter(|replica| replica.site == *site).map(|replica| replica.release);
    let unfinished = workshop.history.unfinished().await?.into_iter();
    let unfinished = unfinished.filter(|deployment| deployment.id.site == *site);
    Ok(running.chain(unfinished.filter_map(|deployment| deployment.release)).collect())
}

/// The deployments whose build's log is kept: those under way, those that built a release that there is, and the newest
/// others.
fn kept_builds(deployments: &[Deployment], releases: &BTreeSet<u64>, others: usize) -> BTreeSet<u64> {
    let has_built = |one: &&Deployment| {
        let is_rollback = one.cause.brings_back().is_some();
        let is_live = matches!(one.outcome, Some(Outcome::Live { release }) if releases.contains(&release));
        !one.is_over() || (is_live && !is_rollback)
    };
    let kept = deployments.iter().filter(has_built);
    let newest = deployments.iter().rev().filter(|one| !has_built(one)).take(others);
    kept.chain(newest).map(|deployment| deployment.id.number).collect()
}

/// A log by its name.
enum Log {
    /// `build-12.log`, of a deployment.
    Build(u64),
    /// `r7.log` and `r7.log.1`, of a release.
    Release(u64),
}

/// The logs of a site.
fn logs(dir: &Path) -> Vec<(Log, PathBuf)> {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|file| Some((Log::of(&file.file_name().to_string_lossy())?, file.path()))).collect()
}

impl Log {
    fn of(name: &str) -> Option<Self> {
        let number = |prefix: &str, suffix: &str| name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok();
        let release = number("r", ".log").or_else(|| number("r", ".log.1"));
        number("build-", ".log").map(Log::Build).or_else(|| release.map(Log::Release))
    }
}

/// Removes a release that serves no more, with what it was made of.
pub async fn remove(workshop: &Workshop, release: &Release) -> Result<(), DeployError> {
    workshop.history.forget(release).await?;
    crash_point!("forgotten");
    workshop.live.forget(release.upstream()).await;
    discard(workshop, &release.artifact).await;
    Ok(())
}

/// Removes an artifact, unless a release has the same: two commits can make one image.
pub async fn discard(workshop: &Workshop, artifact: &Artifact) {
    let is_used = match workshop.history.all_releases().await {
        Ok(releases) => releases.iter().any(|release| release.artifact == *artifact),
        Err(_) => true,
    };
    if !is_used && let Err(error) = workshop.runtime.discard(artifact).await {
        tracing::warn!(%error, ?artifact, "could not be removed");
    }
}

/// Removes more when room is short; tells whether it is. Said once, and not at each look.
async fn make_room(workshop: &Workshop, was_short: bool) -> bool {
    if !is_short(workshop) {
        return false;
    }
    if !was_short {
        let at = workshop.state_dir.display();
        tracing::warn!(%at, "less room is left than `keep_free`: one release a branch is kept beside the one that serves");
    }
    let sites: BTreeSet<Site> = match workshop.history.all_releases().await {
        Ok(releases) => releases.into_iter().map(|release: Release| release.site).collect(),
        Err(error) => {
            tracing::warn!(%error, "no room could be made");
            return true;
        }
    };
    for site in &sites {
        if let Err(error) = sweep_to(workshop, site, KEPT_WHEN_SHORT).await {
            tracing::warn!(%error, %site, "no room could be made");
        }
    }
    true
}

/// Whether less room is left than conf wants.
fn is_short(workshop: &Workshop) -> bool {
    let wanted = workshop.conf().machine.keep_free;
    let free = rustix::fs::statvfs(&workshop.state_dir).map(|disk| disk.f_bavail * disk.f_frsize);
    free.is_ok_and(|free| free < wanted)
}

/// Adds up what is on disk, and takes away the networks of projects that are no more.
async fn measure(workshop: &Workshop) {
    let (state, source) = (workshop.state_dir.clone(), workshop.source.clone());
    let walking = tokio::task::spawn_blocking(move || walked(&state, &source));
    let mut disk = walking.await.unwrap_or_default();
    let projects: BTreeSet<ProjectName> = workshop.conf().projects.keys().cloned().collect();
    let measured = workshop.runtime.images().await;
    match measured {
        Ok(bytes) => disk.images = bytes,
        Err(error) => tracing::debug!(%error, "the engine does not say what its images take"),
    }
    if let Err(error) = workshop.runtime.forget_projects_but(&projects).await {
        tracing::debug!(%error, "the networks of projects that are no more stay");
    }
    workshop.observed.disk(disk);
}

fn walked(state: &Path, source: &Source) -> DiskUse {
    DiskUse {
        releases: size_of(&state.join("releases")),
        images: 0,
        git: size_of(source.dir()),
        logs: size_of(&state.join("logs")) + size_of(&paths::edge_dir(state)),
        cache: size_of(&paths::cache(state)),
    }
}

/// What a file or a directory takes on disk, in bytes; links are not followed.
fn size_of(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    // stat(2): blocks are of 512 bytes.
    let own = metadata.blocks() * 512;
    let entries = std::fs::read_dir(path).ok().filter(|_| metadata.is_dir()).into_iter().flatten().flatten();
    entries.map(|entry| size_of(&entry.path())).fold(own, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::deployment::{Cause, DeploymentId, Stage};

    #[test]
    fn logs_stay_as_long_as_their_releases_and_of_others_the_newest() {
        let one = |number: u64, outcome: Option<Outcome>| {
            let id = DeploymentId { site: "shop".parse().unwrap(), number };
            let mut deployment = Deployment::queued(id, Cause::Person, None, SystemTime::UNIX_EPOCH);
            deployment.outcome = outcome;
            deployment
        };
        let live = |release| Some(Outcome::Live { release });
        let failed = || Some(Outcome::Failed { at: Stage::Building, reason: String::new() });
        let all = [
            one(1, live(1)),
            one(2, failed()),
            one(3, live(2)),
            one(4, failed()),
            one(5, failed()),
            one(6, live(3)),
            one(7, None),
        ];
        let kept = |releases: &[u64], others| {
            kept_builds(&all, &releases.iter().copied().collect(), others).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(kept(&[2, 3], 1), [3, 5, 6, 7]);
        assert_eq!(kept(&[3], 10), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(kept(&[], 0), [7]);
    }

    #[test]
    fn only_files_that_are_logs_are_taken_for_some() {
        let kind = |name: &str| match Log::of(name) {
            Some(Log::Build(number)) => format!("build {number}"),
            Some(Log::Release(number)) => format!("release {number}"),
            None => String::new(),
        };
        let names = ["build-12.log", "r7.log", "r7.log.1", "r7.log.2", "edge.log", "build-x.log", "r.log"];
        assert_eq!(names.map(kind), ["build 12", "release 7", "release 7", "", "", "", ""]);
    }
}
