//! How many releases of a site that were replaced may go on at once for whoever they still answer.
//!
//! Joined by whoever waits for the end of a drain. The rule: the newest have the places, so that a site that is deployed again
//! and again never runs more apps than conf allows.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use crate::model::name::Site;

/// The places of every site, oldest first; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Drains(Arc<Mutex<HashMap<Site, VecDeque<Weak<Notify>>>>>);

/// The place of one drain, for as long as this is kept.
#[derive(Debug)]
pub struct Place(Arc<Notify>);

impl Drains {
    /// Takes a place; when there are `most` already, the oldest loses its own.
    pub fn join(&self, site: &Site, most: u16) -> Place {
        let place = Arc::new(Notify::new());
        let mut sites = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sites.retain(|_, places| {
            places.retain(|place| place.strong_count() > 0);
            !places.is_empty()
        });
        let places = sites.entry(site.clone()).or_default();
        while places.len() >= usize::from(most.max(1)) {
            places.pop_front().and_then(|oldest| oldest.upgrade()).inspect(|oldest| oldest.notify_one());
        }
        places.push_back(Arc::downgrade(&place));
        Place(place)
    }
}

impl Place {
    /// Returns when newer ones need it.
    pub async fn lost(&self) {
        self.0.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_oldest_of_a_site_gives_way() {
        let (drains, [shop, blog]) =
            (Drains::default(), ["shop/master", "blog/master"].map(|site| site.parse().unwrap()));
        let other = drains.join(&blog, 2);
        let first = drains.join(&shop, 2);
        let second = drains.join(&shop, 2);
        assert_eq!(first.lost().now_or_never(), None);
        let third = drains.join(&shop, 2);
        assert_eq!(first.lost().now_or_never(), Some(()));
        // One that is over leaves its place to the next.
        drop(second);
        let fourth = drains.join(&shop, 2);
        for place in [&other, &third, &fourth] {
            assert_eq!(place.lost().now_or_never(), None);
        }
    }
}
