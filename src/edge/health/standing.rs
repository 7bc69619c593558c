//! What the answers to one replica's health checks add up to: pure, told the time.
//!
//! Called by `health` for each answer. The rules: three bad ones in a row make it sick and two good ones well; a sick one
//! that shows no life at all for half a minute is stuck, and an answer of any status is life.

use std::time::Duration;

/// So many bad answers in a row make a replica sick.
const BAD: u8 = 3;
/// So many good ones make it well again.
const GOOD: u8 = 2;
/// A sick one that shows no life for so long is stuck. Apps that are merely busy answer something sooner.
const STUCK: Duration = Duration::from_secs(30);
/// An answer that is not like those before is checked after this, so that neither change waits for whole intervals.
const AGAIN: Duration = Duration::from_secs(1);

/// How a health check went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Good,
    /// An answer, but not one that counts.
    Wrong(String),
    /// No answer.
    Silence(String),
}

/// What an answer changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Sick,
    Stuck,
    /// It shows life again, and is still sick.
    Unstuck,
    Well,
}

/// A replica that has just passed the gate is well.
#[derive(Debug)]
pub struct Standing {
    /// Answers in a row that say the other of what it is.
    against: u8,
    is_sick: bool,
    is_stuck: bool,
    lived: Duration,
}

impl Standing {
    pub fn new(now: Duration) -> Self {
        Self { against: 0, is_sick: false, is_stuck: false, lived: now }
    }

    /// Hears an answer; `shows_life` tells whether requests were answered meanwhile.
    pub fn hear(&mut self, heard: &Heard, shows_life: bool, now: Duration) -> Option<Change> {
        if shows_life || !matches!(heard, Heard::Silence(_)) {
            self.lived = now;
        }
        let is_against = (*heard == Heard::Good) == self.is_sick;
        self.against = if is_against { self.against + 1 } else { 0 };
        let needed = if self.is_sick { GOOD } else { BAD };
        if self.against == needed {
            *self = Self { against: 0, is_sick: !self.is_sick, is_stuck: false, lived: self.lived };
            return Some(if self.is_sick { Change::Sick } else { Change::Well });
        }
        let was_stuck = self.is_stuck;
        self.is_stuck = self.is_sick && now.saturating_sub(self.lived) >= STUCK;
        match (was_stuck, self.is_stuck) {
            (false, true) => Some(Change::Stuck),
            (true, false) => Some(Change::Unstuck),
            _ => None,
        }
    }

    pub fn is_sick(&self) -> bool {
        self.is_sick
    }

    pub fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    /// When it is to be asked again.
    pub fn pause(&self, interval: Duration) -> Duration {
        if self.against == 0 { interval } else { AGAIN.min(interval) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn silence() -> Heard {
        Heard::Silence(String::new())
    }

    #[test]
    fn three_bad_answers_make_sick_and_two_good_ones_well() {
        let mut standing = Standing::new(at(0));
        let wrong = Heard::Wrong("500".to_owned());
        let said = [
            &wrong,
            &wrong,
            &Heard::Good,
            &wrong,
            &silence(),
            &wrong,
            &Heard::Good,
            &wrong,
            &Heard::Good,
            &Heard::Good,
        ];
        let changes: Vec<_> = said.iter().filter_map(|heard| standing.hear(heard, false, at(1))).collect();
        assert_eq!(changes, [Change::Sick, Change::Well]);
    }

    #[test]
    fn a_change_is_looked_into_soon_and_what_stays_is_asked_at_leisure() {
        let mut standing = Standing::new(at(0));
        let mut pauses = Vec::new();
        for heard in [Heard::Good, silence(), silence(), silence(), silence(), Heard::Good, Heard::Good] {
            standing.hear(&heard, false, at(1));
            pauses.push(standing.pause(at(5)).as_secs());
        }
        assert_eq!(pauses, [5, 1, 1, 5, 5, 1, 5]);
    }

    #[test]
    fn only_one_that_shows_no_life_at_all_is_stuck() {
        let mut standing = Standing::new(at(0));
        let mut hear = |heard: Heard, shows_life, now| standing.hear(&heard, shows_life, at(now));
        assert_eq!([5, 6, 7].map(|now| hear(silence(), false, now)), [None, None, Some(Change::Sick)]);
        assert_eq!(hear(silence(), true, 29), None, "requests are answered");
        assert_eq!(hear(silence(), false, 58), None);
        assert_eq!(hear(silence(), false, 59), Some(Change::Stuck));
        assert_eq!(hear(silence(), false, 60), None);
        assert_eq!(hear(Heard::Wrong("503".to_owned()), false, 61), Some(Change::Unstuck));
        assert_eq!([90, 91].map(|now| hear(Heard::Good, false, now)), [None, Some(Change::Well)]);
    }
}
