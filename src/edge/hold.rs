//! Sites that are paused: their requests wait, in bounded number and time, until they are resumed.
//!
//! `routing` makes one `Pause` for each site that is paused, `answer` lets requests wait at it, `control_link` ends those that
//! are over. The rule: a pause that stays keeps whoever waits, and one ends only after the routes that do without it hold.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::model::hold;
use crate::model::hold::Notice;
use crate::model::name::Site;
use crate::model::route::Route;

/// Requests of one site that may wait. Each keeps its connection, and all go to the app at once when they may.
const WAITING: usize = 1000;

/// What stands before a route's app.
#[derive(Debug, Clone)]
pub enum Hold {
    Pause(Arc<Pause>),
    Maintenance(Arc<Notice>),
}

/// The pauses of a table.
#[derive(Debug, Default)]
pub struct Pauses(HashMap<Site, Arc<Pause>>);

#[derive(Debug)]
pub struct Pause {
    within: Duration,
    places: Arc<Semaphore>,
    is_over: watch::Sender<bool>,
}

/// A request's place at a pause.
#[derive(Debug)]
pub struct Place {
    pause: Arc<Pause>,
    until: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Pauses {
    /// What a route is held by; a pause is the one it was `before`.
    pub fn of(&mut self, route: &Route, before: &Pauses) -> Option<Hold> {
        let within = match route.hold.as_ref()? {
            hold::Hold::Maintenance(notice) => return Some(Hold::Maintenance(Arc::new(notice.clone()))),
            hold::Hold::Pause { within } => *within,
        };
        let site = route.site.as_ref()?;
        let known = self.0.get(site).or_else(|| before.0.get(site)).filter(|pause| pause.within == within).cloned();
        let pause = known.unwrap_or_else(|| Arc::new(Pause::new(within)));
        self.0.insert(site.clone(), pause.clone());
        Some(Hold::Pause(pause))
    }

    /// Lets go those who wait at pauses that are not among these `now`.
    pub fn end(&self, now: &Pauses) {
        let stays = |site: &Site, pause: &Arc<Pause>| now.0.get(site).is_some_and(|same| Arc::ptr_eq(same, pause));
        for (_, pause) in self.0.iter().filter(|(site, pause)| !stays(site, pause)) {
            pause.is_over.send_replace(true);
        }
    }
}

impl Pause {
    fn new(within: Duration) -> Self {
        Self { within, places: Arc::new(Semaphore::new(WAITING)), is_over: watch::Sender::new(false) }
    }

    /// A place to wait at; `None` when there are too many.
    pub fn wait(self: &Arc<Self>) -> Option<Place> {
        let _permit = self.places.clone().try_acquire_owned().ok()?;
        Some(Place { pause: self.clone(), until: Instant::now() + self.within, _permit })
    }
}

impl Place {
    /// When the request has waited long enough.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Returns when the site is resumed.
    pub async fn over(&self) {
        // The sender lives in the pause, so that waiting cannot fail.
        let _ = self.pause.is_over.subscribe().wait_for(|is_over| *is_over).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::model::route::Target;

    fn route(site: &str, hold: Option<hold::Hold>) -> Route {
        let (host, to, site) = ("shop.test".parse().unwrap(), Target::Absent, Some(site.parse().unwrap()));
        let (cache, limits, compression) = Default::default();
        let (path, https_only, purge_key, is_unlisted, replaced) = Default::default();
        Route { host, path, to, site, https_only, cache, limits, compression, purge_key, is_unlisted, replaced, hold }
    }

    fn paused(seconds: u64) -> Option<hold::Hold> {
        Some(hold::Hold::Pause { within: Duration::from_secs(seconds) })
    }

    /// The pauses of these routes, after those.
    fn pauses(routes: &[Route], before: &Pauses) -> (Pauses, Vec<Arc<Pause>>) {
        let mut pauses = Pauses::default();
        let pause = |route: &Route| match pauses.of(route, before) {
            Some(Hold::Pause(pause)) => Some(pause),
            _ => None,
        };
        let all = routes.iter().filter_map(pause).collect();
        (pauses, all)
    }

    #[test]
    fn a_pause_that_stays_keeps_whoever_waits_and_one_that_does_not_lets_them_go() {
        let (first, at) = pauses(&[route("shop", paused(1)), route("blog", paused(1))], &Pauses::default());
        let (shop, blog) = (at[0].wait().unwrap(), at[1].wait().unwrap());
        let (second, same) = pauses(&[route("shop", paused(1)), route("blog", None)], &first);
        first.end(&second);
        assert!(Arc::ptr_eq(&at[0], &same[0]));
        assert_eq!((shop.over().now_or_never(), blog.over().now_or_never()), (None, Some(())));
        let (third, longer) = pauses(&[route("shop", paused(2))], &second);
        second.end(&third);
        assert!(shop.over().now_or_never().is_some() && !Arc::ptr_eq(&longer[0], &same[0]));
    }

    #[test]
    fn only_so_many_wait_and_who_leaves_makes_room() {
        let (_, at) = pauses(&[route("shop", paused(1))], &Pauses::default());
        let mut places: Vec<_> = (0..WAITING).map(|_| at[0].wait().unwrap()).collect();
        assert!(at[0].wait().is_none());
        places.pop();
        assert!(at[0].wait().is_some());
    }
}
