//! Askers who wait for what the edge says of a request.
//!
//! Kept by the owner of what is live. The rule: an edge that is older knows no such question and says nothing, so nobody waits
//! for ever.

use std::collections::HashMap;
use std::time::Duration;

use super::edge::EdgeError;
use super::waiting::Reply;
use crate::link::why::Verdict;

/// How long an edge may take. It needs less than a millisecond.
pub const ANSWER: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub struct Whys(HashMap<u64, Reply<Verdict>>);

impl Whys {
    pub fn ask(&mut self, token: u64, reply: Reply<Verdict>) {
        // Those who did not wait any longer.
        self.0.retain(|_, reply| !reply.is_closed());
        self.0.insert(token, reply);
    }

    pub fn answer(&mut self, token: u64, verdict: Verdict) {
        if let Some(reply) = self.0.remove(&token) {
            let _ = reply.send(Ok(verdict));
        }
    }

    /// The edge that was asked is gone.
    pub fn give_up(&mut self) {
        for (_, reply) in self.0.drain() {
            let _ = reply.send(Err(EdgeError::Silent.into()));
        }
    }
}
