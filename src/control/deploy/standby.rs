//! Replicas of releases that were replaced and run still, for a rollback that then need not start any.
//!
//! Put here by the pipeline at a swap, taken out by whoever ends them or has them serve again. The rule: who takes them out has
//! them to himself.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::history::ActiveRecord;
use crate::model::route::UpstreamId;

#[derive(Debug, Default)]
pub struct Standby(Mutex<BTreeMap<UpstreamId, ActiveRecord>>);

impl Standby {
    pub fn keep(&self, upstream: UpstreamId, replaced: ActiveRecord) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(upstream, replaced);
    }

    /// To serve again.
    pub fn take(&self, upstream: &UpstreamId) -> Option<ActiveRecord> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(upstream)
    }

    /// To be ended: only those that began to serve then. The release may have served and been replaced again meanwhile.
    pub fn take_of(&self, upstream: &UpstreamId, since: SystemTime) -> Option<ActiveRecord> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = all.get(upstream).is_some_and(|active| active.since == since);
        if is_it { all.remove(upstream) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_takes_them_has_them_to_himself() {
        let (standby, upstream) = (Standby::default(), UpstreamId("shop/master#r1".to_owned()));
        let served = |seconds: u64| ActiveRecord {
            release: 1,
            since: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            replicas: Vec::new(),
            replaced: Vec::new(),
            is_monitored: false,
        };
        standby.keep(upstream.clone(), served(1));
        assert_eq!(standby.take(&upstream), Some(served(1)));
        assert_eq!(standby.take_of(&upstream, served(1).since), None);
        standby.keep(upstream.clone(), served(2));
        assert_eq!(standby.take_of(&upstream, served(1).since), None, "it served again since");
        assert_eq!(standby.take_of(&upstream, served(2).since), Some(served(2)));
    }
}
