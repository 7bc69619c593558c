//! What drains in the edge, and who waits for the end of it.
//!
//! Kept by the owner of what is live. The rule: an asker never waits for an end that was told before it asked.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::model::address::Address;

/// The drains of all edges, by the replicas that drain: a release that was brought back has others than before.
#[derive(Debug, Default)]
pub struct Drains {
    /// As each edge said last, by its pid. It says so before it says that the routes hold that began a drain.
    under_way: HashMap<u32, Vec<Address>>,
    askers: Vec<Asker>,
}

#[derive(Debug)]
struct Asker {
    replicas: Vec<Address>,
    /// How many requests did not end by themselves, in the edges where the drain is over.
    cut: u64,
    reply: oneshot::Sender<u64>,
}

impl Drains {
    pub fn are(&mut self, edge: u32, under_way: Vec<Address>) {
        self.under_way.insert(edge, under_way);
    }

    /// Answers with how many requests were cut, once the drain is over in every edge: at once where there is none.
    pub fn ask(&mut self, replicas: Vec<Address>, reply: oneshot::Sender<u64>) {
        self.askers.push(Asker { replicas, cut: 0, reply });
        self.answer();
    }

    /// The edge tells the end of a drain before it tells what still drains; an asker may come between the two.
    pub fn end(&mut self, edge: u32, replicas: &[Address], cut: u64) {
        if let Some(under_way) = self.under_way.get_mut(&edge) {
            under_way.retain(|other| !replicas.contains(other));
        }
        for asker in self.askers.iter_mut().filter(|asker| asker.replicas.iter().any(|one| replicas.contains(one))) {
            asker.cut += cut;
        }
        self.answer();
    }

    /// This edge is no more, and neither is what drained in it.
    pub fn gone(&mut self, edge: u32) {
        self.under_way.remove(&edge);
        self.answer();
    }

    fn answer(&mut self) {
        let is_under_way = |one: &Address| self.under_way.values().any(|under_way| under_way.contains(one));
        for asker in self.askers.extract_if(.., |asker| !asker.replicas.iter().any(is_under_way)) {
            let _ = asker.reply.send(asker.cut);
        }
        // Those who did not wait any longer.
        self.askers.retain(|asker| !asker.reply.is_closed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(drains: &mut Drains, replica: &Address) -> oneshot::Receiver<u64> {
        let (reply, answer) = oneshot::channel();
        drains.ask(vec![replica.clone()], reply);
        answer
    }

    #[test]
    fn an_asker_hears_the_end_of_a_drain_whenever_it_asks() {
        let old: Address = "127.0.0.1:1".parse().unwrap();
        let mut drains = Drains::default();
        assert_eq!(asked(&mut drains, &old).try_recv(), Ok(0), "nothing drains");

        drains.are(1, vec![old.clone()]);
        let mut early = asked(&mut drains, &old);
        assert!(early.try_recv().is_err(), "it drains");
        drains.end(1, std::slice::from_ref(&old), 3);
        assert_eq!(early.try_recv(), Ok(3));
        assert_eq!(asked(&mut drains, &old).try_recv(), Ok(0), "between the end and the next list");
    }
    #[test]
    fn a_drain_is_over_when_it_is_in_every_edge() {
        let old: Address = "127.0.0.1:1".parse().unwrap();
        let mut drains = Drains::default();
        (1..=3).for_each(|edge| drains.are(edge, vec![old.clone()]));
        let mut asker = asked(&mut drains, &old);
        drains.end(2, std::slice::from_ref(&old), 1);
        drains.gone(3);
        assert!(asker.try_recv().is_err(), "the first still drains");
        drains.end(1, std::slice::from_ref(&old), 2);
        assert_eq!(asker.try_recv(), Ok(3));
        assert_eq!(asked(&mut drains, &old).try_recv(), Ok(0));
    }
}
