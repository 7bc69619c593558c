//! How many requests an upstream has in flight, and whether it drains: both in one word, so that no request can slip in
//! between the look and the count.
//!
//! Called by `upstream`. The rule it keeps: exactly one caller is told that a draining upstream has become empty, and
//! nobody enters after that. `tests/interleavings.rs` proves it under loom, which is why the atomics come from `super`.

use super::sync::{AtomicU64, Ordering};

/// Set while draining; the bits below count.
const DRAINING: u64 = 1 << 63;

#[derive(Debug)]
pub struct InFlight(AtomicU64);

impl InFlight {
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Counts one more, unless it drains.
    #[must_use]
    pub fn enter(&self) -> bool {
        let mut word = self.0.load(Ordering::Relaxed);
        while word & DRAINING == 0 {
            match self.0.compare_exchange_weak(word, word + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Counts one less; true for the one that left a draining upstream empty.
    #[must_use]
    pub fn leave(&self) -> bool {
        self.0.fetch_sub(1, Ordering::AcqRel) == DRAINING | 1
    }

    /// Lets nobody in from now on; true when there was nobody inside, and this was the first call.
    #[must_use]
    pub fn drain(&self) -> bool {
        self.0.fetch_or(DRAINING, Ordering::AcqRel) == 0
    }

    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed) & !DRAINING
    }
}
