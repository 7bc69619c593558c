//! The first minutes of a release: one that crash-loops, or answers mostly 5xx, is rolled back by itself to the release
//! before, if that did neither.
//!
//! One task, told by `supervise` what serves and what does not stay up; what apps answered it hears from the edge. The rule:
//! what was brought back is not judged, so that nothing is rolled back twice; and a newer deployment goes first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::desk::Desk;
use super::history::ActiveRecord;
use super::{DeployError, Workshop};
use crate::link::UpstreamTraffic;
use crate::model::deployment::Cause;
use crate::model::name::Site;
use crate::model::release::Release;
use crate::model::route::UpstreamId;

/// Words that may wait; a supervisor never does.
const QUEUE: usize = 1024;
/// Between two looks at what is monitored.
const LOOK: Duration = Duration::from_secs(1);
/// What apps answered is remembered at this distance, so often: together a minute, which is what a share is of.
const EVERY: Duration = Duration::from_secs(5);
const SAMPLES: usize = 12;
/// A release is not judged by its answers before: it may stumble while it fills its caches.
const SETTLING: Duration = Duration::from_secs(3);
/// With fewer answers within a minute nothing can be said.
const ENOUGH: u64 = 20;

/// A handle for whoever sees what serves; clones are the same.
#[derive(Debug, Clone)]
pub struct Monitor {
    words: mpsc::Sender<Word>,
}

/// What the task is told, to be handed to `run`.
#[derive(Debug)]
pub struct Words(mpsc::Receiver<Word>);

#[derive(Debug)]
enum Word {
    /// This serves from now on; the trial of what may be rolled back.
    Serves(Site, Option<Box<Trial>>),
    Loops(Site, u64, String),
}

/// A release that may still be rolled back by itself.
#[derive(Debug)]
struct Trial {
    release: Release,
    before: u64,
    since: Instant,
    until: Instant,
    /// How the release before did last.
    looped_before: bool,
    share_before: Share,
    /// Why it is to be rolled back.
    verdict: Option<String>,
}

/// What an app made of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Share {
    answers: u64,
    /// Those that were 5xx, or failed to come.
    errors: u64,
}

impl Monitor {
    pub fn new() -> (Self, Words) {
        let (words, queue) = mpsc::channel(QUEUE);
        (Self { words }, Words(queue))
    }

    /// A release serves, or serves on after control began.
    pub fn serves(&self, release: &Release, active: &ActiveRecord) {
        let left = release.app.monitor.saturating_sub(active.since.elapsed().unwrap_or_default());
        let before = active.before().filter(|_| active.is_monitored && !left.is_zero());
        self.tell(Word::Serves(release.site.clone(), before.map(|before| Trial::begin(release, before, left))));
    }

    /// A replica was started again and has ended again, or did not come up.
    pub fn loops(&self, release: &Release, how: String) {
        self.tell(Word::Loops(release.site.clone(), release.number, how));
    }

    /// A word that finds no place is lost: nobody waits for what may be rolled back.
    fn tell(&self, word: Word) {
        if self.words.try_send(word).is_err() {
            tracing::warn!("a release could not be monitored");
        }
    }
}

/// Monitors until control ends.
pub async fn run(workshop: Arc<Workshop>, desk: Desk, words: Words) {
    let (trials, looped, samples) = Default::default();
    let task = Task { workshop: workshop.clone(), desk, trials, looped, samples };
    workshop.while_running(task.run(words)).await;
}

struct Task {
    workshop: Arc<Workshop>,
    desk: Desk,
    trials: BTreeMap<Site, Box<Trial>>,
    /// Which release of a site did not stay up last, and when that was.
    looped: BTreeMap<Site, (u64, Instant)>,
    samples: VecDeque<(Instant, Vec<UpstreamTraffic>)>,
}

impl Task {
    async fn run(mut self, Words(mut words): Words) {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(word) = words.recv() => self.hear(word),
                _ = tick.tick() => self.look(),
            }
            self.roll_back().await;
        }
    }

    fn hear(&mut self, word: Word) {
        match word {
            Word::Serves(site, None) => drop(self.trials.remove(&site)),
            Word::Serves(site, Some(mut trial)) => {
                trial.share_before = self.share(&UpstreamId::of_release(&site, trial.before));
                let looped = self.looped.get(&site).filter(|(release, _)| *release == trial.before);
                trial.looped_before = looped.is_some_and(|(_, at)| at.elapsed() < trial.release.app.monitor);
                self.trials.insert(site, trial);
            }
            Word::Loops(site, release, how) => {
                self.looped.insert(site.clone(), (release, Instant::now()));
                let trial = self.trials.get_mut(&site).filter(|trial| trial.release.number == release);
                if let Some(trial) = trial.filter(|trial| !trial.looped_before) {
                    trial.verdict.get_or_insert_with(|| format!("it does not stay up: {how}"));
                }
            }
        }
    }

    fn look(&mut self) {
        if self.samples.back().is_none_or(|(at, _)| at.elapsed() >= EVERY) {
            self.samples.push_back((Instant::now(), self.workshop.live.view().upstreams));
        }
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
        let mut trials = std::mem::take(&mut self.trials);
        trials.retain(|_, trial| trial.verdict.is_some() || Instant::now() < trial.until);
        for trial in trials.values_mut().filter(|trial| trial.since.elapsed() >= SETTLING) {
            let share = self.share(&trial.release.upstream());
            if trial.verdict.is_none() && share.is_bad(trial.share_before) {
                let Share { answers, errors } = share;
                trial.verdict = Some(format!("{errors} of {answers} answers within a minute were 5xx"));
            }
        }
        self.trials = trials;
    }

    /// What an app made of the last minute's requests.
    fn share(&self, upstream: &UpstreamId) -> Share {
        let counted = |all: &[UpstreamTraffic]| {
            let traffic = all.iter().find(|traffic| traffic.upstream == *upstream);
            traffic.map_or(Share::default(), |traffic| Share { answers: traffic.answers, errors: traffic.errors })
        };
        // An upstream that was not there then has had nothing before; one that is not there now was replaced a moment ago.
        let first = self.samples.front().map(|(_, all)| counted(all)).unwrap_or_default();
        let now = counted(&self.workshop.live.view().upstreams);
        let last = self.samples.iter().rev().map(|(_, all)| counted(all)).find(|share| share.answers > 0);
        let last = if now.answers > 0 { now } else { last.unwrap_or_default() };
        // An edge that began anew counts from zero again.
        Share { answers: last.answers.saturating_sub(first.answers), errors: last.errors.saturating_sub(first.errors) }
    }

    /// Orders what is due; what has to wait for another deployment is ordered at a later look, if it still serves then.
    async fn roll_back(&mut self) {
        let due: Vec<Site> =
            self.trials.iter().filter(|(_, trial)| trial.verdict.is_some()).map(|(site, _)| site.clone()).collect();
        for site in due {
            let Some(trial) = self.trials.get(&site) else { continue };
            match self.order(&site, trial).await {
                Ok(true) => drop(self.trials.remove(&site)),
                Ok(false) => {}
                Err(error) => {
                    let error = crate::report::with_causes(&error);
                    tracing::error!(%site, error, "what does badly cannot be rolled back");
                    self.trials.remove(&site);
                }
            }
        }
    }

    async fn order(&self, site: &Site, trial: &Trial) -> Result<bool, DeployError> {
        let Some(reason) = trial.verdict.clone() else { return Ok(false) };
        let (release, from) = (trial.before, trial.release.number);
        let from_commit = trial.release.commit.clone();
        let cause = Cause::Automatic { release, from, from_commit, reason: reason.clone() };
        let Some(id) = self.desk.roll_back(site.clone(), cause).await? else { return Ok(false) };
        tracing::error!(%site, deployment = %id, "r{from} is rolled back to r{release} by itself: {reason}");
        self.workshop.observed.rolled_back(site);
        Ok(true)
    }
}

impl Trial {
    fn begin(release: &Release, before: u64, left: Duration) -> Box<Self> {
        let (since, release) = (Instant::now(), release.clone());
        let (looped_before, share_before, verdict) = Default::default();
        Box::new(Self { release, before, since, until: since + left, looped_before, share_before, verdict })
    }
}

impl Share {
    /// Whether half of it and more went wrong, and twice as much as before.
    fn is_bad(self, before: Share) -> bool {
        let is_mostly = self.answers >= ENOUGH && self.errors * 2 >= self.answers;
        is_mostly && self.errors * before.answers >= 2 * before.errors * self.answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mostly_wrong_is_bad_unless_it_was_so_before() {
        let cases = [
            // Errors and answers now, and before.
            ((20, 20), (0, 0), true),
            ((19, 19), (0, 0), false),
            ((10, 20), (0, 50), true),
            ((9, 20), (0, 50), false),
            ((20, 20), (50, 50), false),
            ((20, 20), (25, 50), true),
            ((15, 20), (25, 50), false),
            ((10, 20), (1, 3), false),
            ((0, 1000), (0, 0), false),
        ];
        for ((errors, answers), before, is_bad) in cases {
            let before = Share { errors: before.0, answers: before.1 };
            assert_eq!(Share { answers, errors }.is_bad(before), is_bad, "{errors} of {answers}, {before:?}");
        }
    }
}
