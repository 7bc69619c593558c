//! What a connection costs that waits, and whether it is given back: memory of a fresh gateway at 0, 1,000 and 5,000
//! idle connections after one request each, and after all have left.

use std::thread::JoinHandle;
use std::time::Duration;

use crate::gateway::{Door, Gateway};
use crate::load::Load;
use crate::measure;

pub const FEW: usize = 1000;
pub const MANY: usize = 5000;
const SOON: Duration = Duration::from_secs(2);
const LATER: Duration = Duration::from_secs(12);

/// All in KiB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pub rest: f64,
    pub few: f64,
    pub many: f64,
    pub soon: f64,
    pub later: f64,
}

impl Memory {
    /// Of one connection more.
    pub fn of_one(&self) -> f64 {
        (self.many - self.few) / (MANY - FEW) as f64
    }

    /// Which part of what came with the connections went with them.
    pub fn given_back(&self) -> f64 {
        (self.many - self.later) / (self.many - self.rest)
    }
}

/// What is known of a gateway's memory when its connections have left.
pub struct Emptying {
    measuring: JoinHandle<Memory>,
    /// Runs until it has been looked at for the last time.
    _gateway: Gateway,
}

impl Emptying {
    pub fn memory(self) -> Memory {
        self.measuring.join().unwrap()
    }
}

pub fn measure(load: &Load, gateway: Gateway, door: Door, path: &str) -> Result<Emptying, String> {
    let address = gateway.address(door).ok_or("it has no such door")?;
    load.crowd.ask(door, address, path)?;
    let processes = gateway.processes();
    let rest = measure::memory(&processes);
    let mut staying = load.crowd.stay(door, address, path, FEW)?;
    let few = measure::memory(&processes);
    load.interrupt.check();
    staying.extend(load.crowd.stay(door, address, path, MANY - FEW)?);
    let many = measure::memory(&processes);
    load.crowd.leave(staying);
    load.interrupt.check();
    let measuring = std::thread::spawn(move || {
        std::thread::sleep(SOON);
        let soon = measure::memory(&processes);
        std::thread::sleep(LATER - SOON);
        Memory { rest, few, many, soon, later: measure::memory(&processes) }
    });
    Ok(Emptying { measuring, _gateway: gateway })
}
