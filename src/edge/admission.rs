//! How many connections there may be, in all and from one address.
//!
//! Called by `listen` for every accepted connection. The rule: a place is given back when its `Place` is dropped.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::model::machine::Limits;

#[derive(Debug, Default)]
pub struct Admission {
    places: Mutex<Places>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Places {
    all: u32,
    by_address: HashMap<IpAddr, u32>,
}

/// Why a connection is not taken; also the name it is counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    Connections,
    Address,
}

impl Full {
    pub fn name(self) -> &'static str {
        match self {
            Full::Connections => "connections",
            Full::Address => "connections_per_address",
        }
    }
}

impl Admission {
    pub fn enter(self: &Arc<Self>, address: IpAddr, limits: &Limits) -> Result<Place, Full> {
        let address = network(address);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.all >= limits.connections {
            return Err(Full::Connections);
        }
        let here = places.by_address.entry(address).or_default();
        if *here >= limits.connections_per_address {
            return Err(Full::Address);
        }
        *here += 1;
        places.all += 1;
        Ok(Place { admission: self.clone(), address })
    }

    /// Returns when no connection is left.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.places.lock().unwrap_or_else(PoisonError::into_inner).all == 0 {
                return;
            }
            emptied.await;
        }
    }
}

/// The place of one connection.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.admission.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.all -= 1;
        if let Some(here) = places.by_address.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                places.by_address.remove(&self.address);
            }
        }
        if places.all == 0 {
            self.admission.emptied.notify_waiters();
        }
    }
}

/// What counts as one address: one household has a whole /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_address_and_given_back() {
        let admission = Arc::new(Admission::default());
        let limits = Limits { connections: 3, connections_per_address: 2, ..Limits::default() };
        let enter = |address: &str| admission.enter(address.parse().unwrap(), &limits);
        let first = enter("::1").unwrap();
        let _second = enter("::2").unwrap();
        assert_eq!(enter("::3").unwrap_err(), Full::Address, "one /64 is one address");
        let _third = enter("10.0.0.1").unwrap();
        assert_eq!(enter("10.0.0.2").unwrap_err(), Full::Connections);
        drop(first);
        assert!(enter("::3").is_ok());
    }
}
