//! Whether a second worker carries a second worker's load: the rate of hits on two cores against one.

use crate::gateway::{Door, Gateway};
use crate::lines::Line;
use crate::load::Load;
use crate::measure::median;

/// The cores of one worker, of two, and of the load in both cases.
pub const ONE: &[usize] = &[1];
pub const TWO: &[usize] = &[1, 2];
const LOAD: &[usize] = &[0, 3];
pub const CORES: usize = 4;
/// Two workers do at least this much more.
const TARGET: f64 = 1.8;

/// Compares a Prime on `ONE` with a Prime on `TWO`; tells it in a sentence.
pub fn compare(
    load: &Load,
    line: &Line,
    rounds: usize,
    seconds: u64,
    gateways: [&Gateway; 2],
) -> Result<String, String> {
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let mut rates = [0.0; 2];
        for (rate, gateway) in rates.iter_mut().zip(gateways) {
            let address = gateway.address(Door::Hit).ok_or("it has no such door")?;
            let answered = load.wrk(&[], LOAD, line, address, seconds)?;
            *rate = answered.requests as f64 / answered.seconds;
        }
        ratios.push(rates[1] / rates[0]);
    }
    let ratio = median(&ratios);
    let verdict = if ratio >= TARGET { "met" } else { "MISSED" };
    Ok(format!("two workers answer {ratio:.2} times as many hits as one, of {TARGET} wanted: {verdict}"))
}
