//! Whether a replica may have requests, by how it did with those before: a state machine in one word, told the time.
//!
//! Called by `upstream` for every request. The rules: three failures in a row eject for a time that grows; then one
//! request at a time tries, and its success ends the ejection; what began before an ejection has no say in its end.

use std::time::Duration;

use super::sync::{AtomicU64, Ordering};

/// So many failures in a row eject.
const FAILURES: u8 = 3;
/// How long the first ejection lasts; each that follows twice as long.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// More would not make the pause longer.
const TIMES_MAX: u8 = 6;
/// Whoever was not ejected for so long starts over.
const FORGIVEN: Duration = Duration::from_secs(60);

/// Where things lie in the word, from its lowest bit: 2 bits of failures, four flags, 4 bits of times, 8 of era, and the
/// time in the rest.
const FAILED: u64 = 0b11;
const EJECTED: u64 = 1 << 2;
const PROBED: u64 = 1 << 3;
const SICK: u64 = 1 << 4;
const SIGN: u64 = 1 << 5;
const TIMES_AT: u32 = 6;
const ERA_AT: u32 = 10;
const UNTIL_AT: u32 = 18;

/// How a replica stands. Times are those since its upstream began.
#[derive(Debug)]
pub struct Ejection(AtomicU64);

/// What a request is let in with, and judged by when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    era: u8,
    is_probe: bool,
}

/// An ejection that has just begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejected {
    pub pause: Duration,
    /// Whether it is the first after a good time.
    pub is_first: bool,
}

impl Ejection {
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Whether a request may be sent. The clock is only asked when the replica is not well.
    pub fn is_open(&self, now: impl FnOnce() -> Duration) -> bool {
        let word = self.0.load(Ordering::Relaxed);
        word & (EJECTED | SICK) == 0 || State::of(word).is_open(now())
    }

    /// Lets a request in; `None` when it is shut, or when another request is trying it right now.
    pub fn enter(&self, now: impl Fn() -> Duration) -> Option<Pass> {
        let word = self.0.load(Ordering::Relaxed);
        if word & (EJECTED | SICK) == 0 {
            return Some(Pass { era: State::of(word).era, is_probe: false });
        }
        let before =
            self.change(|state| state.is_open(now()).then_some(State { is_probed: state.is_ejected, ..state }))?;
        Some(Pass { era: before.era, is_probe: before.is_ejected })
    }

    /// Lets a request in that has nowhere else to go.
    pub fn enter_anyway(&self) -> Pass {
        Pass { era: State::of(self.0.load(Ordering::Relaxed)).era, is_probe: false }
    }

    /// A request is over, judged or not.
    pub fn leave(&self, pass: Pass) {
        if pass.is_probe {
            let is_mine = |state: &State| state.is_ejected && state.era == pass.era;
            self.change(|state| is_mine(&state).then_some(State { is_probed: false, ..state }));
        }
    }

    /// A request was answered.
    pub fn worked(&self, pass: Pass) {
        if self.0.load(Ordering::Relaxed) & (FAILED | EJECTED | SICK) != 0 {
            self.change(|state| Some(state.after_success(pass.era)));
        }
    }

    /// A request got no answer; whether that ejects. `is_last` tells whether no other replica is well.
    pub fn failed(&self, pass: Pass, now: Duration, is_last: impl Fn() -> bool) -> Option<Ejected> {
        let mut after = None;
        let before = self.change(|state| {
            after = state.after_failure(pass.era, now, &is_last);
            after
        })?;
        let after = after.filter(|after| after.era != before.era)?;
        Some(Ejected { pause: pause(after.times), is_first: after.times == 1 })
    }

    /// The health check says that it is not to be asked, until `recover`.
    pub fn sicken(&self) {
        self.0.fetch_or(SICK, Ordering::Relaxed);
    }

    pub fn recover(&self) {
        self.0.fetch_and(!(SICK | SIGN), Ordering::Relaxed);
    }

    /// Whether a request was answered while it was sick, since this was asked last.
    pub fn take_sign(&self) -> bool {
        self.0.fetch_and(!SIGN, Ordering::Relaxed) & SIGN != 0
    }

    /// Whether it has requests for the asking: neither ejected nor sick.
    pub fn is_well(&self) -> bool {
        self.0.load(Ordering::Relaxed) & (EJECTED | SICK) == 0
    }

    /// Whether the last that was heard of it was good.
    pub fn is_up(&self) -> bool {
        self.0.load(Ordering::Relaxed) & (FAILED | EJECTED | SICK) == 0
    }

    /// Makes another state of it, unless it stays; tells the one before.
    fn change(&self, mut next: impl FnMut(State) -> Option<State>) -> Option<State> {
        let change = |word| next(State::of(word)).map(State::word);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, change).ok().map(State::of)
    }
}

/// The word, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    /// In a row; no more than are needed.
    failures: u8,
    is_ejected: bool,
    /// Whether a request is trying it.
    is_probed: bool,
    is_sick: bool,
    has_sign: bool,
    /// How often it was ejected without a good time in between.
    times: u8,
    /// Another one with each ejection.
    era: u8,
    /// When the last ejection was to end, in milliseconds.
    until: u64,
}

impl State {
    fn of(word: u64) -> Self {
        let part = |at: u32, mask: u64| u8::try_from((word >> at) & mask).unwrap_or(u8::MAX);
        Self {
            failures: part(0, FAILED),
            is_ejected: word & EJECTED != 0,
            is_probed: word & PROBED != 0,
            is_sick: word & SICK != 0,
            has_sign: word & SIGN != 0,
            times: part(TIMES_AT, 0xf),
            era: part(ERA_AT, 0xff),
            until: word >> UNTIL_AT,
        }
    }

    fn word(self) -> u64 {
        let flag = |is_set: bool, flag: u64| if is_set { flag } else { 0 };
        let flags = flag(self.is_ejected, EJECTED) | flag(self.is_probed, PROBED);
        let health = flag(self.is_sick, SICK) | flag(self.has_sign, SIGN);
        let counts = u64::from(self.failures) | u64::from(self.times) << TIMES_AT | u64::from(self.era) << ERA_AT;
        counts | flags | health | self.until << UNTIL_AT
    }

    fn is_open(self, now: Duration) -> bool {
        let may_probe = !self.is_probed && millis(now) >= self.until;
        !self.is_sick && (!self.is_ejected || may_probe)
    }

    fn after_success(self, era: u8) -> Self {
        let is_judged = !self.is_ejected || self.era == era;
        let seen = Self { has_sign: self.is_sick, ..self };
        if is_judged { Self { failures: 0, is_ejected: false, is_probed: false, ..seen } } else { seen }
    }

    fn after_failure(self, era: u8, now: Duration, is_last: &impl Fn() -> bool) -> Option<Self> {
        if self.era != era {
            return None;
        }
        if self.is_ejected {
            return (millis(now) >= self.until).then(|| self.ejected(now));
        }
        let counted = Self { failures: (self.failures + 1).min(FAILURES), ..self };
        Some(if counted.failures == FAILURES && !is_last() { counted.ejected(now) } else { counted })
    }

    fn ejected(self, now: Duration) -> Self {
        let is_forgiven = !self.is_ejected && millis(now) >= self.until + millis(FORGIVEN);
        let times = if is_forgiven { 1 } else { (self.times + 1).min(TIMES_MAX) };
        let (era, until) = (self.era.wrapping_add(1), millis(now + pause(times)));
        Self { is_ejected: true, is_probed: false, times, era, until, ..self }
    }
}

fn pause(times: u8) -> Duration {
    (PAUSE_FIRST * (1 << (times - 1))).min(PAUSE_MAX)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Requests that fail one after the other, until one ejects or there were enough.
    fn fail(replica: &Ejection, count: usize, now: Duration) -> Option<Ejected> {
        (0..count).find_map(|_| replica.failed(replica.enter_anyway(), now, || false))
    }

    #[test]
    fn a_word_comes_apart_as_it_was_put_together() {
        for word in [0, u64::MAX, FAILED, EJECTED, PROBED, SICK, SIGN, 5 << TIMES_AT, 200 << ERA_AT, 77 << UNTIL_AT] {
            assert_eq!(State::of(word).word(), word);
        }
    }

    #[test]
    fn three_failures_in_a_row_eject_and_a_success_between_starts_over() {
        let replica = Ejection::new();
        assert_eq!(fail(&replica, 2, at(1)), None);
        replica.worked(replica.enter_anyway());
        assert_eq!(fail(&replica, 2, at(1)), None);
        assert!(replica.is_open(|| at(1)) && !replica.is_up());
        assert_eq!(fail(&replica, 1, at(1)), Some(Ejected { pause: at(1), is_first: true }));
        assert!(!replica.is_open(|| at(1)) && !replica.is_well());
        assert_eq!(replica.enter(|| at(1)), None);
    }

    #[test]
    fn after_its_time_one_request_at_a_time_tries() {
        let replica = Ejection::new();
        fail(&replica, 3, at(0));
        assert!(replica.is_open(|| at(1)));
        let probe = replica.enter(|| at(1)).unwrap();
        assert!(!replica.is_open(|| at(1)));
        assert_eq!(replica.enter(|| at(1)), None);
        // One that ends without a verdict, because its client left, makes room for the next.
        replica.leave(probe);
        let probe = replica.enter(|| at(1)).unwrap();
        replica.worked(probe);
        replica.leave(probe);
        assert!(replica.is_well() && replica.is_up());
    }

    #[test]
    fn of_many_at_once_one_tries() {
        let replica = Ejection::new();
        fail(&replica, 3, at(0));
        let tries = |_| {
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| replica.enter(|| at(1)))).collect();
                let passes: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
                passes.iter().for_each(|pass| replica.leave(*pass));
                passes.len()
            })
        };
        assert!((0..50).map(tries).all(|entered| entered == 1));
    }

    #[test]
    fn each_ejection_lasts_longer_until_half_a_minute() {
        let replica = Ejection::new();
        let mut now = at(0);
        let mut pauses = vec![fail(&replica, 3, now).unwrap().pause];
        for _ in 0..6 {
            now += *pauses.last().unwrap();
            let probe = replica.enter(|| now).unwrap();
            let again = replica.failed(probe, now, || false).unwrap();
            replica.leave(probe);
            assert!(!again.is_first);
            pauses.push(again.pause);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30].map(at));
    }

    #[test]
    fn one_that_comes_and_goes_is_out_for_longer_and_one_that_was_well_is_forgiven() {
        let replica = Ejection::new();
        fail(&replica, 3, at(0));
        replica.worked(replica.enter(|| at(1)).unwrap());
        assert_eq!(fail(&replica, 3, at(2)), Some(Ejected { pause: at(2), is_first: false }));
        replica.worked(replica.enter(|| at(4)).unwrap());
        assert_eq!(fail(&replica, 3, at(4) + FORGIVEN), Some(Ejected { pause: at(1), is_first: true }));
    }

    #[test]
    fn what_began_before_an_ejection_has_no_say_in_its_end() {
        let replica = Ejection::new();
        let old = replica.enter(|| at(0)).unwrap();
        fail(&replica, 3, at(0));
        replica.worked(old);
        assert!(!replica.is_well());
        assert_eq!(replica.failed(old, at(60), || false), None);
        assert!(replica.is_open(|| at(1)), "a late failure makes the time no longer");
    }

    #[test]
    fn the_last_one_that_is_well_stays_and_goes_when_another_is_back() {
        let replica = Ejection::new();
        for _ in 0..10 {
            assert_eq!(replica.failed(replica.enter_anyway(), at(0), || true), None);
        }
        assert!(replica.is_well() && !replica.is_up());
        assert!(fail(&replica, 1, at(0)).is_some());
    }

    #[test]
    fn when_all_are_out_a_success_counts_at_once_and_a_failure_does_not() {
        let replica = Ejection::new();
        fail(&replica, 3, at(0));
        assert_eq!(replica.failed(replica.enter_anyway(), Duration::from_millis(500), || false), None);
        replica.worked(replica.enter_anyway());
        assert!(replica.is_well());
    }

    #[test]
    fn a_sick_one_stays_out_until_it_recovers_and_answers_are_a_sign_of_life() {
        let replica = Ejection::new();
        replica.sicken();
        assert!(!replica.is_open(|| at(1000)) && !replica.is_up());
        assert_eq!(replica.enter(|| at(1000)), None);
        assert!(!replica.take_sign());
        replica.worked(replica.enter_anyway());
        assert!(!replica.is_well(), "requests do not overrule the health check");
        assert!(replica.take_sign() && !replica.take_sign());
        replica.recover();
        assert!(replica.is_open(|| at(1000)) && replica.is_up());
    }
}
