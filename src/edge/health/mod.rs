//! Active health: asks the replicas that serve, again and again, whether they are well.
//!
//! One task for all, started by `mod.rs`; what it finds goes to the replicas, to the log, and by `control_link` to control.
//! The rules: the routed table alone says who is asked, so that nothing changes when control is away; and being asked
//! costs the machine a bounded share, however many replicas there are.

mod standing;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::ask::Question;
use crate::model::route::UpstreamId;
use crate::model::snapshot::Health;

use super::routing::Table;
use super::shared::Shared;
use super::upstream::Replica;
use standing::{Change, Heard, Standing};

/// Between two looks at who is due.
const LOOK: Duration = Duration::from_millis(250);
/// So many are asked at once.
const AT_ONCE: usize = 64;
/// More replicas than this many a second are asked at longer intervals.
const A_SECOND: u32 = 50;
/// More than these, and more than half of all, sick at once are the machine's fault: to start them again would make it
/// worse.
const FEW: usize = 3;

/// A replica that is not well.
#[derive(Debug, Clone)]
pub struct Ailing {
    pub upstream: UpstreamId,
    pub replica: Arc<Replica>,
    /// It answers nothing at all any more.
    pub is_stuck: bool,
}

/// Watches for ever; `tell` holds those that are not well.
pub async fn watch(shared: Arc<Shared>, tell: watch::Sender<Vec<Ailing>>) {
    let mut watcher = Watcher { table: Arc::default(), watched: HashMap::new(), began: Instant::now(), tell };
    let mut asking = JoinSet::new();
    let mut tick = interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                watcher.follow(shared.table.load_full());
                for (replica, health) in watcher.due(AT_ONCE.saturating_sub(asking.len())) {
                    asking.spawn(async move { (replica.id, ask(&replica, &health).await) });
                }
            }
            Some(answer) = asking.join_next(), if !asking.is_empty() => match answer {
                Ok((id, heard)) => watcher.hear(id, &heard),
                Err(error) => tracing::error!(%error, "a health check broke off"),
            },
        }
    }
}

struct Watcher {
    table: Arc<Table>,
    /// By the replicas' numbers.
    watched: HashMap<u64, Watched>,
    began: Instant,
    tell: watch::Sender<Vec<Ailing>>,
}

struct Watched {
    upstream: UpstreamId,
    replica: Arc<Replica>,
    health: Arc<Health>,
    standing: Standing,
    due: Duration,
}

impl Watcher {
    /// Watches whoever is routed in this table, and nobody else.
    fn follow(&mut self, table: Arc<Table>) {
        if Arc::ptr_eq(&self.table, &table) {
            return;
        }
        let (now, mut before) = (self.began.elapsed(), std::mem::take(&mut self.watched));
        for routed in table.upstreams.values() {
            let Some(health) = routed.upstream.health() else { continue };
            for replica in routed.upstream.replicas().iter() {
                let watched = match before.remove(&replica.id) {
                    Some(known) => Watched { health: health.clone(), ..known },
                    None => Watched::new(&routed.upstream.id, replica, &health, now),
                };
                self.watched.insert(replica.id, watched);
            }
        }
        self.table = table;
        let was_ailing = before.values().any(|gone| gone.standing.is_sick());
        before.values().for_each(|gone| gone.replica.recover());
        if was_ailing {
            self.say();
        }
    }

    /// Those whose time has come, at most so many, the longest waiting first.
    fn due(&mut self, most: usize) -> Vec<(Arc<Replica>, Arc<Health>)> {
        let now = self.began.elapsed();
        let mut due: Vec<_> = self.watched.values_mut().filter(|watched| watched.due <= now).collect();
        due.sort_by_key(|watched| watched.due);
        let ask = |watched: &mut Watched| {
            // Until the answer is heard, which takes less.
            watched.due = now + watched.health.timeout + watched.health.interval;
            (watched.replica.clone(), watched.health.clone())
        };
        due.into_iter().take(most).map(ask).collect()
    }

    fn hear(&mut self, id: u64, heard: &Heard) {
        let (now, fair) = (self.began.elapsed(), fair_interval(self.watched.len()));
        let sick = self.watched.values().filter(|watched| watched.standing.is_sick()).count();
        let is_excused = is_general(sick, self.watched.len());
        // Gone meanwhile.
        let Some(watched) = self.watched.get_mut(&id) else { return };
        let change = watched.standing.hear(heard, watched.replica.shows_life() || is_excused, now);
        let pause = watched.standing.pause(watched.health.interval.max(fair));
        watched.due = now + jittered(pause, id ^ u64::from(now.subsec_nanos()));
        if let Some(change) = change {
            watched.take(change, heard);
            self.say();
        }
    }

    fn say(&self) {
        let ailing = self.watched.values().filter(|watched| watched.standing.is_sick()).map(|watched| Ailing {
            upstream: watched.upstream.clone(),
            replica: watched.replica.clone(),
            is_stuck: watched.standing.is_stuck(),
        });
        self.tell.send_replace(ailing.collect());
    }
}

impl Watched {
    /// The first time somewhere within an interval, so that what is routed together is not asked together.
    fn new(upstream: &UpstreamId, replica: &Arc<Replica>, health: &Arc<Health>, now: Duration) -> Self {
        Self {
            upstream: upstream.clone(),
            replica: replica.clone(),
            health: health.clone(),
            standing: Standing::new(now),
            due: now + health.interval.mul_f64(share(replica.id)),
        }
    }

    fn take(&self, change: Change, heard: &Heard) {
        let (upstream, address) = (&self.upstream.0, &self.replica.address);
        match change {
            Change::Sick => {
                self.replica.sicken();
                let reason = heard.reason();
                tracing::warn!(upstream, %address, reason, "a replica fails its health check; others serve for it, if there are any");
            }
            Change::Well => {
                self.replica.recover();
                tracing::info!(upstream, %address, "a replica is well again");
            }
            Change::Stuck => tracing::warn!(upstream, %address, "a replica answers nothing any more"),
            Change::Unstuck => {}
        }
    }
}

impl Heard {
    fn reason(&self) -> &str {
        match self {
            Heard::Good => "",
            Heard::Wrong(reason) | Heard::Silence(reason) => reason,
        }
    }
}

async fn ask(replica: &Replica, health: &Health) -> Heard {
    let question = Question { protocol: replica.protocol, path: &health.path, host: &health.host };
    let (low, high) = health.status;
    match timeout(health.timeout, question.ask(&replica.address)).await {
        Ok(Ok(status)) if (low..=high).contains(&status) => Heard::Good,
        Ok(Ok(status)) => Heard::Wrong(format!("it answered {status}")),
        Ok(Err(error)) => Heard::Silence(error.to_string()),
        Err(_) => Heard::Silence(format!("no answer within {} s", health.timeout.as_secs_f32())),
    }
}

fn is_general(sick: usize, all: usize) -> bool {
    sick > FEW && sick * 2 > all
}

/// The interval at which so many can be asked.
fn fair_interval(count: usize) -> Duration {
    Duration::from_secs(1) * u32::try_from(count).unwrap_or(u32::MAX) / A_SECOND
}

/// A tenth more or less, so that nobody is asked in step with another.
fn jittered(pause: Duration, seed: u64) -> Duration {
    pause.mul_f64(0.9 + share(seed) / 5.0)
}

/// A number from 0 to 1, the same for the same seed.
fn share(seed: u64) -> f64 {
    let stirred = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
    stirred as f64 / f64::from(1_u32 << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_most_have_at_once_is_not_theirs() {
        assert!(!is_general(3, 3) && !is_general(4, 8) && is_general(4, 7) && is_general(100, 150));
    }

    #[test]
    fn many_are_asked_more_rarely_and_never_in_step() {
        assert_eq!((fair_interval(100), fair_interval(2000)), (Duration::from_secs(2), Duration::from_secs(40)));
        let pauses: std::collections::BTreeSet<_> = (0..100).map(|id| jittered(Duration::from_secs(10), id)).collect();
        assert!(pauses.len() > 90);
        assert!(pauses.iter().all(|pause| (9.0..=11.0).contains(&pause.as_secs_f64())));
    }
}
