//! Rounds: each measures every line on every gateway once, in random order, so that what disturbs the machine disturbs
//! all alike. A sample that was disturbed too much is thrown away and taken again.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::gateway::{Gateway, Stage};
use crate::lines::Line;
use crate::load::Load;
use crate::machine::{Look, Noise};
use crate::measure::{Spent, median};

/// Of a core; more, and a sample says more of the machine than of the gateway.
const STOLEN_MAX: f64 = 0.04;
const FOREIGN_MAX: f64 = 0.15;

/// One line on one gateway, once.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Microseconds of the gateway's processes a request.
    pub cpu: f64,
    /// Requests a second of the clock.
    pub rate: f64,
    pub stolen: f64,
    pub foreign: f64,
}

/// All samples, by line and gateway, in the order of the rounds.
#[derive(Default)]
pub struct Samples {
    taken: BTreeMap<(&'static str, &'static str), Vec<Sample>>,
    pub discarded: usize,
    /// Disturbed, and kept because there was no time left or every repetition was disturbed too.
    pub kept_noisy: usize,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
}

pub struct Rounds<'r> {
    pub load: &'r Load,
    pub stage: &'r Stage,
    pub seconds: u64,
    /// How often a disturbed sample is taken again.
    pub retries: usize,
    /// How many samples a round may take again in all, so that it ends.
    pub repeats: usize,
    pub repeats_left: Cell<usize>,
    pub dice: Dice,
}

impl Rounds<'_> {
    pub fn run(&mut self, count: usize, lines: &[&Line], gateways: &[&Gateway]) -> Samples {
        let mut samples = Samples::default();
        for round in 0..count {
            eprintln!("round {} of {count}", round + 1);
            self.repeats_left.set(self.repeats);
            let mut lines = lines.to_vec();
            self.dice.shuffle(&mut lines);
            for line in lines {
                let mut gateways: Vec<_> = gateways.iter().filter(|gateway| line.suits(gateway)).collect();
                self.dice.shuffle(&mut gateways);
                gateways.into_iter().for_each(|gateway| self.take(line, gateway, &mut samples));
            }
        }
        samples
    }

    /// Takes one sample, again when it was disturbed; the least disturbed one counts.
    fn take(&self, line: &Line, gateway: &Gateway, samples: &mut Samples) {
        let mut best: Option<Sample> = None;
        for again in 0..=self.retries {
            let sample = match self.once(line, gateway) {
                Ok(sample) => sample,
                Err(why) => return samples.failures.push(format!("{} on {}: {why}", line.name, gateway.name)),
            };
            if best.is_none_or(|best| sample.disturbance() < best.disturbance()) {
                best = Some(sample);
            }
            if sample.disturbance() <= 1.0 {
                break;
            }
            if again == self.retries || !self.may_repeat() {
                samples.kept_noisy += 1;
                break;
            }
            samples.discarded += 1;
        }
        samples.taken.entry((line.name, gateway.name)).or_default().extend(best);
    }

    /// Takes one of the round's repetitions, if any is left.
    pub fn may_repeat(&self) -> bool {
        let left = self.repeats_left.get();
        self.repeats_left.set(left.saturating_sub(1));
        left > 0
    }

    /// Waits until what the load before left behind has been answered.
    fn calm(&self) {
        let mut before = self.stage.origin.served();
        self.load.interrupt.until(Duration::from_secs(1), || {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.stage.origin.served();
            std::mem::replace(&mut before, now) == now
        });
    }

    pub fn once(&self, line: &Line, gateway: &Gateway) -> Result<Sample, String> {
        let address = gateway.address(line.door).ok_or("it has no such door")?;
        let probe = self.load.crowd.ask(line.door, address, line.path)?;
        if probe.length != line.size() {
            return Err(format!("{} bytes instead of {}: {}", probe.length, line.size(), probe.head));
        }
        let processes = gateway.processes();
        self.calm();
        let (served, look, spent) = (self.stage.origin.served(), Look::now(), Spent::now(&processes));
        let answered = self.load.run(line, address, self.seconds)?;
        let cpu = Spent::now(&processes).since(&spent);
        let Noise { stolen, foreign } = look.noise(cpu);
        let served = (self.stage.origin.served() - served) as f64 / answered.requests as f64;
        if line.is_hit() && served > 0.001 {
            return Err(format!("{:.1} % of the hits went to the origin", served * 100.0));
        }
        if !line.is_hit() && served < 0.99 {
            return Err(format!("only {:.1} % of the requests went to the origin", served * 100.0));
        }
        let requests = answered.requests as f64;
        Ok(Sample { cpu: cpu * 1e6 / requests, rate: requests / answered.seconds, stolen, foreign })
    }
}

impl Sample {
    /// Above 1, the sample is not to be used.
    fn disturbance(&self) -> f64 {
        (self.stolen / STOLEN_MAX).max(self.foreign / FOREIGN_MAX)
    }
}

impl Samples {
    pub fn of(&self, line: &Line, gateway: &str) -> &[Sample] {
        self.taken.iter().find(|((l, g), _)| *l == line.name && *g == gateway).map_or(&[], |(_, samples)| samples)
    }

    /// The median of CPU microseconds, if there is any sample.
    pub fn cpu(&self, line: &Line, gateway: &str) -> Option<f64> {
        self.figure(line, gateway, |sample| sample.cpu)
    }

    pub fn rate(&self, line: &Line, gateway: &str) -> Option<f64> {
        self.figure(line, gateway, |sample| sample.rate)
    }

    fn figure(&self, line: &Line, gateway: &str, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        let figures: Vec<f64> = self.of(line, gateway).iter().map(figure).collect();
        (!figures.is_empty()).then(|| median(&figures))
    }

    /// The median of the rounds' own ratios of CPU time, which what disturbs whole rounds does not touch.
    pub fn ratio(&self, one: (&Line, &str), other: (&Line, &str)) -> Option<f64> {
        let pairs = self.of(one.0, one.1).iter().zip(self.of(other.0, other.1));
        let ratios: Vec<f64> = pairs.map(|(one, other)| one.cpu / other.cpu).collect();
        (!ratios.is_empty()).then(|| median(&ratios))
    }

    /// What the machine was like: the median and the worst of what the hypervisor stole and others used, in percent.
    pub fn weather(&self) -> Option<String> {
        let all: Vec<&Sample> = self.taken.values().flatten().collect();
        if all.is_empty() {
            return None;
        }
        let said = |name: &str, figure: fn(&Sample) -> f64| {
            let figures: Vec<f64> = all.iter().map(|sample| figure(sample) * 100.0).collect();
            format!("{name} {:.1} % (at most {:.1} %)", median(&figures), figures.iter().copied().fold(0.0, f64::max))
        };
        Some(format!(
            "{}, {} of a core; {} samples discarded and taken again, {} disturbed ones of {} kept",
            said("stolen", |sample| sample.stolen),
            said("foreign", |sample| sample.foreign),
            self.discarded,
            self.kept_noisy,
            all.len()
        ))
    }
}

/// Chance, for the order alone: a multiplicative generator after Lehmer.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::from_secs(1));
        Self((u64::from(now.subsec_nanos()) << 16) | 1)
    }

    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for at in (1..things.len()).rev() {
            self.0 = self.0.wrapping_mul(0xda94_2042_e4dd_58b5);
            things.swap(at, (self.0 >> 33) as usize % (at + 1));
        }
    }
}
