//! What each project has of a tier, and what nobody may take from it.
//!
//! Kept by `memory` and by the disk's `writer`. The rule: whoever has something stored keeps it while it is no more than a
//! guarded share, however much the others store; all shares together are half of the tier, so that what is evicted makes
//! room, and what is asked for most still gets the rest.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// One part of so many is guarded, in equal shares.
const GUARDED: u64 = 2;

/// By project, the bytes that it has.
#[derive(Debug)]
pub struct Shares<P>(HashMap<P, u64>);

impl<P: Hash + Eq> Shares<P> {
    pub fn add<Q>(&mut self, project: &Q, bytes: u64)
    where
        P: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = P> + ?Sized,
    {
        match self.0.get_mut(project) {
            Some(has) => *has += bytes,
            None => drop(self.0.insert(project.to_owned(), bytes)),
        }
    }

    pub fn give_back<Q>(&mut self, project: &Q, bytes: u64)
    where
        P: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let Some(has) = self.0.get_mut(project) else { return };
        *has = has.saturating_sub(bytes);
        if *has == 0 {
            self.0.remove(project);
        }
    }

    /// Whether nothing may be taken from a project, out of so many bytes that there are for all.
    pub fn guard<Q>(&self, project: &Q, of: u64) -> bool
    where
        P: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let has = self.0.get(project).copied().unwrap_or(0);
        // One alone has nobody to be guarded from.
        self.0.len() > 1 && has <= of / GUARDED / self.0.len() as u64
    }
}

impl<P> Default for Shares<P> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_is_guarded_in_equal_shares_of_those_who_have_something() {
        let mut shares = Shares::<String>::default();
        shares.add("one", 60);
        shares.add("one", 40);
        assert!(!shares.guard("one", 1 << 20), "from whom?");
        shares.add("other", 1);
        assert!(shares.guard("one", 400) && !shares.guard("one", 399));
        shares.add("third", 1);
        assert!(shares.guard("one", 600) && !shares.guard("one", 599));
        shares.give_back("third", 1);
        assert!(shares.guard("one", 400));
        shares.give_back("one", 99);
        assert!(shares.guard("one", 4));
        shares.give_back("other", 1);
        assert!(!shares.guard("one", 4));
    }
}
