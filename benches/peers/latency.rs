//! Latency at half the peak: the same rate for all, half of what the slower of Prime and the best peer can do.

use std::time::Duration;

use crate::crowd::request;
use crate::gateway::Gateway;
use crate::lines::Line;
use crate::machine::Look;
use crate::measure::{Spent, median};
use crate::pace::{self, Latency};
use crate::rounds::Rounds;

/// Of both cores; a queue on either shows at once.
const DISTURBED: f64 = 0.15;

/// One line at one rate.
pub struct Paced {
    pub line: &'static Line,
    pub rate: f64,
    /// By gateway: the medians of p50 and p99 in milliseconds.
    pub found: Vec<(&'static str, f64, f64)>,
    pub discarded: usize,
    pub failures: Vec<String>,
}

pub fn measure(rounds: &mut Rounds<'_>, count: usize, line: &'static Line, gateways: &[&Gateway]) -> Paced {
    let mut gateways: Vec<&Gateway> = gateways.iter().copied().filter(|gateway| line.suits(gateway)).collect();
    let mut paced = Paced {
        line,
        rate: half_of_the_peak(rounds, line, &gateways),
        found: Vec::new(),
        discarded: 0,
        failures: Vec::new(),
    };
    let mut taken: Vec<(&'static str, Latency)> = Vec::new();
    for _ in 0..count {
        rounds.repeats_left.set(rounds.repeats / 4);
        rounds.dice.shuffle(&mut gateways);
        for gateway in &gateways {
            match once(rounds, &mut paced, gateway) {
                Ok(latency) => taken.push((gateway.name, latency)),
                Err(why) => paced.failures.push(format!("{} at a rate on {}: {why}", line.name, gateway.name)),
            }
        }
    }
    gateways.sort_by_key(|gateway| gateway.name);
    for gateway in gateways {
        let of = |figure: fn(&Latency) -> f64| {
            let figures = taken.iter().filter(|(name, _)| *name == gateway.name).map(|(_, latency)| figure(latency));
            median(&figures.collect::<Vec<_>>())
        };
        paced.found.push((gateway.name, of(|latency| latency.half), of(|latency| latency.hundredth)));
    }
    paced
}

fn half_of_the_peak(rounds: &Rounds<'_>, line: &Line, gateways: &[&Gateway]) -> f64 {
    let peak = |gateway: &&Gateway| rounds.once(line, gateway).map_or(0.0, |sample| sample.rate);
    let (ours, peers): (Vec<&Gateway>, Vec<&Gateway>) = gateways.iter().partition(|gateway| gateway.name == "opri");
    let best = |gateways: &[&Gateway]| gateways.iter().map(peak).fold(0.0, f64::max);
    // Hundreds are exact enough, and read well.
    (best(&ours).min(best(&peers)) / 200.0).floor() * 100.0
}

fn once(rounds: &Rounds<'_>, paced: &mut Paced, gateway: &Gateway) -> Result<Latency, String> {
    let address = gateway.address(paced.line.door).ok_or("it has no such door")?;
    let request = request(paced.line.door.host(), paced.line.path);
    let processes = gateway.processes();
    let mut best: Option<(f64, Latency)> = None;
    for _ in 0..=rounds.retries {
        rounds.load.interrupt.check();
        let (look, spent) = (Look::now(), Spent::now(&processes));
        let latency = pace::run(address, request.as_bytes(), paced.rate, Duration::from_secs(rounds.seconds))?;
        let noise = look.noise(Spent::now(&processes).since(&spent));
        let disturbance = noise.stolen.max(noise.foreign);
        if best.is_none_or(|(least, _)| disturbance < least) {
            best = Some((disturbance, latency));
        }
        if disturbance <= DISTURBED || !rounds.may_repeat() {
            break;
        }
        paced.discarded += 1;
    }
    best.map(|(_, latency)| latency).ok_or_else(|| "nothing was measured".to_owned())
}
