//! The releases of each site that may have stored responses: the one that is routed, and those that may come back.
//!
//! Told by `control_link`; asked by `cache` when a write makes a URL untrue. A response is found under its release alone, and
//! a rollback finds its own again. The rule: what has become untrue has become so for every release.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use super::key::Key;
use crate::model::route::UpstreamId;

/// Of one site. Control keeps fewer for a rollback; addresses of a legacy upstream may change more often.
const RELEASES_MAX: usize = 64;

/// By the names of sites, the newest last.
#[derive(Debug, Default)]
pub struct Releases(RwLock<HashMap<Box<str>, Vec<UpstreamId>>>);

impl Releases {
    /// Notes one that is routed from now on; the one that there is no room for any more.
    pub fn note(&self, id: &UpstreamId) -> Option<UpstreamId> {
        let mut sites = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let known = sites.entry(id.site().into()).or_default();
        known.retain(|other| other != id);
        known.push(id.clone());
        (known.len() > RELEASES_MAX).then(|| known.remove(0))
    }

    pub fn has(&self, id: &UpstreamId) -> bool {
        let sites = self.0.read().unwrap_or_else(PoisonError::into_inner);
        sites.get(id.site()).is_some_and(|known| known.contains(id))
    }

    /// One that cannot come back.
    pub fn forget(&self, id: &UpstreamId) {
        let mut sites = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = sites.get_mut(id.site()) {
            known.retain(|other| other != id);
        }
    }

    /// The same URL under every release.
    pub fn all(&self, key: &Key) -> Vec<Key> {
        let sites = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let others = sites.get(key.site()).into_iter().flatten().filter(|id| id.0 != key.parts()[1]);
        std::iter::once(key.clone()).chain(others.map(|id| key.under(id))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::request::tests::asking;

    fn id(text: &str) -> UpstreamId {
        UpstreamId(text.to_owned())
    }

    fn key(id: &UpstreamId) -> Key {
        asking("/a", "Host: a\r\n", false, |asked| Key::new(&"shop".parse().unwrap(), id, &asked.unwrap()))
    }

    #[test]
    fn a_url_is_found_under_every_release_of_its_site_and_no_other() {
        let releases = Releases::default();
        let ids = ["shop/master#r1", "shop/master#r2", "shop/dev#r1", "shops/master#r1", "shop/master@127.0.0.1:1"];
        ids.iter().for_each(|name| assert_eq!(releases.note(&id(name)), None));
        let own = [ids[1], ids[0], ids[4]].map(|name| key(&id(name)));
        assert_eq!(releases.all(&key(&id(ids[1]))), own);
        releases.forget(&id(ids[0]));
        assert_eq!(releases.all(&key(&id(ids[1]))), [ids[1], ids[4]].map(|name| key(&id(name))));
    }

    #[test]
    fn the_oldest_makes_room_unless_it_came_back() {
        let releases = Releases::default();
        let of = |number: usize| id(&format!("shop/master#r{number}"));
        (0..RELEASES_MAX).for_each(|number| assert_eq!(releases.note(&of(number)), None));
        assert_eq!(releases.note(&of(0)), None);
        assert_eq!(releases.note(&of(RELEASES_MAX)), Some(of(1)));
    }
}
