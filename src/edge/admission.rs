//! How many connections there may be, in all and from one address.
//!
//! Called by `listen` for every accepted connection, and by `connection` once a proxy has said whose it is. The rule: a
//! place is given back when its `Place` is dropped.

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
    /// Without an address, only the sum is counted: a proxy's connections are those of many visitors.
    pub fn enter(self: &Arc<Self>, address: Option<IpAddr>, limits: &Limits) -> Result<Place, Full> {
        let address = address.map(network);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.all >= limits.connections {
            return Err(Full::Connections);
        }
        if let Some(address) = address {
            places.enter(address, limits)?;
        }
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

impl Places {
    fn enter(&mut self, address: IpAddr, limits: &Limits) -> Result<(), Full> {
        let here = self.by_address.entry(address).or_default();
        if *here >= limits.connections_per_address {
            return Err(Full::Address);
        }
        *here += 1;
        Ok(())
    }
}

/// The place of one connection.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    address: Option<IpAddr>,
}

impl Place {
    /// Counts a place that had no address yet under this one.
    pub fn is_of(&mut self, address: IpAddr, limits: &Limits) -> Result<(), Full> {
        let address = network(address);
        if self.address.is_none() {
            self.admission.places.lock().unwrap_or_else(PoisonError::into_inner).enter(address, limits)?;
            self.address = Some(address);
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.admission.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.all -= 1;
        if let Some(address) = self.address
            && let Some(here) = places.by_address.get_mut(&address)
        {
            *here -= 1;
            if *here == 0 {
                places.by_address.remove(&address);
            }
        }
        if places.all == 0 {
            self.admission.emptied.notify_waiters();
        }
    }
}

/// What counts as one address: one household has a whole /64 of IPv6.
pub fn network(address: IpAddr) -> IpAddr {
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
        let enter = |address: &str| admission.enter(address.parse().ok(), &limits);
        let first = enter("::1").unwrap();
        let _second = enter("::2").unwrap();
        assert_eq!(enter("::3").unwrap_err(), Full::Address, "one /64 is one address");
        let _third = enter("10.0.0.1").unwrap();
        assert_eq!(enter("10.0.0.2").unwrap_err(), Full::Connections);
        drop(first);
        assert!(enter("::3").is_ok());
    }

    #[test]
    fn a_proxy_may_have_many_connections_and_each_of_its_visitors_few() {
        let admission = Arc::new(Admission::default());
        let limits = Limits { connections: 4, connections_per_address: 1, ..Limits::default() };
        let enter = || admission.enter(None, &limits);
        let visitor = "10.0.0.1".parse().unwrap();
        let (mut first, mut second, _third) = (enter().unwrap(), enter().unwrap(), enter().unwrap());
        assert_eq!(first.is_of(visitor, &limits), Ok(()));
        assert_eq!(second.is_of(visitor, &limits), Err(Full::Address));
        drop(first);
        assert_eq!(second.is_of(visitor, &limits), Ok(()));
        let _more = [enter().unwrap(), enter().unwrap()];
        assert_eq!(enter().unwrap_err(), Full::Connections);
    }
}
