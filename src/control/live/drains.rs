//! What drains in the edge, and who waits for the end of it.
//!
//! Kept by the owner of what is live. The rule: an asker never waits for an end that was told before it asked.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::model::route::UpstreamId;

/// The drains of one edge.
#[derive(Debug, Default)]
pub struct Drains {
    /// As the edge said last. It says so before it says that the routes hold that began a drain.
    under_way: Vec<UpstreamId>,
    askers: HashMap<UpstreamId, Vec<oneshot::Sender<u64>>>,
}

impl Drains {
    pub fn are(&mut self, under_way: Vec<UpstreamId>) {
        self.under_way = under_way;
    }

    /// Answers with how many requests were cut, once the drain is over: at once where there is none.
    pub fn ask(&mut self, upstream: UpstreamId, reply: oneshot::Sender<u64>) {
        if self.under_way.contains(&upstream) {
            self.askers.entry(upstream).or_default().push(reply);
        } else {
            let _ = reply.send(0);
        }
    }

    /// The edge tells the end of a drain before it tells what still drains; an asker may come between the two.
    pub fn end(&mut self, upstream: &UpstreamId, cut: u64) {
        self.under_way.retain(|other| other != upstream);
        for reply in self.askers.remove(upstream).unwrap_or_default() {
            let _ = reply.send(cut);
        }
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

        drains.are(vec![old.clone()]);
        let mut early = asked(&mut drains, &old);
        assert!(early.try_recv().is_err(), "it drains");
        drains.end(&old, 3);
        assert_eq!(early.try_recv(), Ok(3));
        assert_eq!(asked(&mut drains, &old).try_recv(), Ok(0), "between the end and the next list");
    }
}
