//! What the sites answered over the last minute, from the counters that the edge reports.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::control::live::Live;
use crate::link::SiteTraffic;
use crate::model::name::Site;

const EVERY: Duration = Duration::from_secs(5);
/// With the one above: a minute.
const SAMPLES: usize = 12;

/// Traffic per second of one site.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rate {
    pub requests_per_second: f64,
    pub errors: f64,
    pub cache_hits: f64,
}

/// What the edge had counted at one moment.
type Sample = (Instant, Vec<SiteTraffic>);

/// The samples; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    samples: Arc<Mutex<VecDeque<Sample>>>,
}

impl Rates {
    /// Samples until the process ends.
    pub fn begin(live: Live) -> Self {
        let rates = Self::default();
        tokio::spawn(rates.clone().sample(live));
        rates
    }

    async fn sample(self, live: Live) {
        loop {
            {
                let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
                samples.push_back((Instant::now(), live.view().traffic));
                if samples.len() > SAMPLES {
                    samples.pop_front();
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    /// From the oldest sample to what the edge says now.
    pub fn of(&self, site: &Site, now: &[SiteTraffic]) -> Rate {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let find = |traffic: &[SiteTraffic]| traffic.iter().find(|traffic| traffic.site == *site).cloned();
        // An edge that was adopted has counted before anybody sampled: only a difference of two samples is a rate.
        let first = samples.iter().find_map(|(since, traffic)| Some((since, find(traffic)?)));
        let (Some((since, first)), Some(last)) = (first, find(now)) else { return Rate::default() };
        // An edge that began anew counts from zero again.
        let requests = last.requests.saturating_sub(first.requests) as f64;
        let share = |of: u64| if requests > 0.0 { of as f64 / requests } else { 0.0 };
        Rate {
            requests_per_second: requests / since.elapsed().as_secs_f64().max(1.0),
            errors: share(last.errors.saturating_sub(first.errors)),
            cache_hits: share(last.cache_hits.saturating_sub(first.cache_hits)),
        }
    }
}
