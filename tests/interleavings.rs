//! Claim and drain under loom: every interleaving of the threads below is run.
//!
//! The file under test takes its atomics from the module above it, so that here they are loom's.

mod sync {
    pub use loom::sync::atomic::{AtomicU64, Ordering};
}
#[path = "../src/edge/upstream/in_flight.rs"]
mod in_flight;

use in_flight::InFlight;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

#[test]
fn exactly_one_is_told_that_a_draining_upstream_is_empty() {
    loom::model(|| {
        let in_flight = Arc::new(InFlight::new());
        let told = Arc::new(AtomicUsize::new(0));
        let visitors: Vec<_> = (0..2)
            .map(|_| {
                let (in_flight, told) = (in_flight.clone(), told.clone());
                thread::spawn(move || {
                    if in_flight.enter() {
                        assert_eq!(told.load(Ordering::SeqCst), 0, "entered after it was called empty");
                        if in_flight.leave() {
                            told.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        if in_flight.drain() {
            told.fetch_add(1, Ordering::SeqCst);
        }
        for visitor in visitors {
            visitor.join().unwrap();
        }
        assert_eq!(told.load(Ordering::SeqCst), 1);
        assert_eq!(in_flight.count(), 0);
        assert!(!in_flight.enter());
    });
}
