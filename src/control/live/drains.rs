//! What drains in the edge, and who waits for the end of it.
//!
//! Kept by the owner of what is live. The rule: an asker never waits for an end that was told before it asked.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::model::route::UpstreamId;

/// The drains of all edges.
#[derive(Debug, Default)]
pub struct Drains {
    /// As each edge said last, by its pid. It says so before it says that the routes hold that began a drain.
    under_way: HashMap<u32, Vec<UpstreamId>>,
    /// How many requests were cut where the drain is over, while it is not everywhere.
    cut: HashMap<UpstreamId, u64>,
    askers: HashMap<UpstreamId, Vec<oneshot::Sender<u64>>>,
}

impl Drains {
    pub fn are(&mut self, edge: u32, under_way: Vec<UpstreamId>) {
        self.under_way.insert(edge, under_way);
    }

    /// Answers with how many requests were cut, once the drain is over in every edge: at once where there is none.
    pub fn ask(&mut self, upstream: UpstreamId, reply: oneshot::Sender<u64>) {
        if self.is_under_way(&upstream) {
            self.askers.entry(upstream).or_default().push(reply);
        } else {
            let _ = reply.send(0);
        }
    }

    /// The edge tells the end of a drain before it tells what still drains; an asker may come between the two.
    pub fn end(&mut self, edge: u32, upstream: &UpstreamId, cut: u64) {
        if let Some(under_way) = self.under_way.get_mut(&edge) {
            under_way.retain(|other| other != upstream);
        }
        *self.cut.entry(upstream.clone()).or_default() += cut;
        self.answer(upstream);
    }

    /// This edge is no more, and neither is what drained in it.
    pub fn gone(&mut self, edge: u32) {
        for upstream in self.under_way.remove(&edge).unwrap_or_default() {
            self.answer(&upstream);
        }
    }

    fn answer(&mut self, upstream: &UpstreamId) {
        if self.is_under_way(upstream) {
            return;
        }
        let cut = self.cut.remove(upstream).unwrap_or(0);
        for reply in self.askers.remove(upstream).unwrap_or_default() {
            let _ = reply.send(cut);
        }
    }

    fn is_under_way(&self, upstream: &UpstreamId) -> bool {
        self.under_way.values().any(|under_way| under_way.contains(upstream))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(drains: &mut Drains, upstream: &UpstreamId) -> oneshot::Receiver<u64> {
        let (reply, answer) = oneshot::channel();
        drains.ask(upstream.clone(), reply);
        answer
    }

    #[test]
    fn an_asker_hears_the_end_of_a_drain_whenever_it_asks() {
        let old = UpstreamId("shop/master#1".to_owned());
        let mut drains = Drains::default();
        assert_eq!(asked(&mut drains, &old).try_recv(), Ok(0), "nothing drains");

        drains.are(1, vec![old.clone()]);
        let mut early = asked(&mut drains, &old);
        assert!(early.try_recv().is_err(), "it drains");
        drains.end(1, &old, 3);
        assert_eq!(early.try_recv(), Ok(3));
        assert_eq!(asked(&mut drains, &old).try_recv(), Ok(0), "between the end and the next list");
    }
    #[test]
    fn a_drain_is_over_when_it_is_in_every_edge() {
        let old = UpstreamId("shop/master#1".to_owned());
        let mut drains = Drains::default();
        (1..=3).for_each(|edge| drains.are(edge, vec![old.clone()]));
        let mut asker = asked(&mut drains, &old);
        drains.end(2, &old, 1);
        drains.gone(3);
        assert!(asker.try_recv().is_err(), "the first still drains");
        drains.end(1, &old, 2);
        assert_eq!(asker.try_recv(), Ok(3));
        assert_eq!(asked(&mut drains, &old).try_recv(), Ok(0));
    }
}
