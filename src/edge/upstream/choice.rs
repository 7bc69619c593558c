//! Which of several replicas: of two drawn at random, the one with fewer requests in flight.
//!
//! Called by `upstream`. The rule: it takes no lock and makes nothing, because every request that no cache answers comes
//! by here. Two are enough to keep loads even, and unlike the least of all they do not send everybody to one at once.

use std::sync::Arc;

use super::Replica;
use super::sync::{AtomicU64, Ordering};

/// Random numbers that nobody needs to be good at guessing: a count, well stirred (splitmix64).
#[derive(Debug)]
pub struct Draws(AtomicU64);

impl Draws {
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    fn next(&self) -> u64 {
        let count = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let stirred = (count ^ (count >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let stirred = (stirred ^ (stirred >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        stirred ^ (stirred >> 31)
    }

    /// Two different numbers below `count`, which is two at least.
    fn two_below(&self, count: usize) -> (usize, usize) {
        let number = self.next();
        let below = |number: u64, count: usize| usize::try_from((number * count as u64) >> 32).unwrap_or(0);
        let (one, other) = (below(number >> 32, count), below(number & 0xffff_ffff, count - 1));
        (one, if other >= one { other + 1 } else { other })
    }
}

/// The choice among those that `may`; `None` when none may.
pub fn of_two<'r>(
    replicas: &'r [Arc<Replica>],
    draws: &Draws,
    may: impl Fn(&Replica) -> bool,
) -> Option<&'r Arc<Replica>> {
    match replicas {
        [] => None,
        [only] => may(only).then_some(only),
        [one, other] => match (may(one), may(other)) {
            (true, true) => Some(lighter(one, other, || draws.next() & 1 == 0)),
            (true, false) => Some(one),
            (false, true) => Some(other),
            (false, false) => None,
        },
        many => {
            let (one, other) = draws.two_below(many.len());
            match may(&many[one]) && may(&many[other]) {
                // They were drawn in random order.
                true => Some(lighter(&many[one], &many[other], || true)),
                false => of_those_left(many, draws, may),
            }
        }
    }
}

/// The same, when some may not: counted first, so that nobody is drawn more often for standing beside one of these.
fn of_those_left<'r>(
    many: &'r [Arc<Replica>],
    draws: &Draws,
    may: impl Fn(&Replica) -> bool,
) -> Option<&'r Arc<Replica>> {
    let left = || many.iter().filter(|replica| may(replica));
    match left().count() {
        0 => None,
        1 => left().next(),
        count => {
            let (one, other) = draws.two_below(count);
            // What may can change in between; then there are fewer than were counted.
            match (left().nth(one), left().nth(other)) {
                (Some(one), Some(other)) => Some(lighter(one, other, || true)),
                (one, other) => one.or(other),
            }
        }
    }
}

fn lighter<'r>(one: &'r Arc<Replica>, other: &'r Arc<Replica>, first: impl Fn() -> bool) -> &'r Arc<Replica> {
    match one.in_flight().cmp(&other.in_flight()) {
        std::cmp::Ordering::Less => one,
        std::cmp::Ordering::Greater => other,
        std::cmp::Ordering::Equal => {
            if first() {
                one
            } else {
                other
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pairs_are_drawn_about_as_often() {
        let draws = Draws::new(1);
        let mut counts = [[0_u32; 4]; 4];
        for _ in 0..12_000 {
            let (one, other) = draws.two_below(4);
            counts[one][other] += 1;
        }
        for (one, row) in counts.iter().enumerate() {
            for (other, count) in row.iter().enumerate() {
                assert!(if one == other { *count == 0 } else { (800..1200).contains(count) }, "{counts:?}");
            }
        }
    }
}
