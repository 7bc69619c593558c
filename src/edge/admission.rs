//! How many connections there may be, in all and from one address, and how many streams within them.
//!
//! Called by `listen` for every accepted connection, by `connection` once a proxy has said whose it is, and by `streams` for
//! every request of HTTP/2. The rules: a place is given back when its `Place` is dropped, and there are never more places
//! than descriptors for them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, getrlimit};
use tokio::sync::Notify;

use crate::model::machine::Limits;

/// Descriptors kept for everything else: listeners, the operators' listener, control, files, idle connections to apps. Where
/// there are few descriptors it is a quarter of them.
const RESERVE: u64 = 1024;
/// Descriptors of one place: the client's connection and the app's.
const EACH: u64 = 2;
/// The streams of one address may take one place of so many.
const SHARE: u32 = 4;

#[derive(Debug)]
pub struct Admission {
    /// Places that there are descriptors for.
    room: u32,
    places: Mutex<Places>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Places {
    all: u32,
    by_address: HashMap<IpAddr, Taken>,
}

/// What one address has.
#[derive(Debug, Default)]
struct Taken {
    connections: u32,
    streams: u32,
}

/// Why a connection or a stream is not taken; also the name it is counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    Descriptors,
    Connections,
    Address,
    Streams,
}

impl Full {
    pub fn name(self) -> &'static str {
        match self {
            Full::Descriptors => "descriptors",
            Full::Connections => "connections",
            Full::Address => "connections_per_address",
            Full::Streams => "streams_per_address",
        }
    }
}

impl Admission {
    /// With places for as many connections as the process has descriptors for.
    pub fn new() -> Arc<Self> {
        Self::with(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn with(descriptors: u64) -> Arc<Self> {
        let room = (descriptors - RESERVE.min(descriptors / 4)) / EACH;
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        Arc::new(Self { room, places: Mutex::default(), emptied: Notify::new() })
    }

    /// A place for a connection. Without an address, only the sum is counted: a proxy's connections are those of many
    /// visitors.
    pub fn enter(self: &Arc<Self>, address: Option<IpAddr>, limits: &Limits) -> Result<Place, Full> {
        self.take(address.map(network), Kind::Connection, limits)
    }

    fn take(self: &Arc<Self>, address: Option<IpAddr>, kind: Kind, limits: &Limits) -> Result<Place, Full> {
        let mut places = self.lock();
        if places.all >= self.room {
            return Err(Full::Descriptors);
        }
        if places.all >= limits.connections {
            return Err(Full::Connections);
        }
        if let Some(address) = address {
            places.take(address, kind, limits, self.room)?;
        }
        places.all += 1;
        Ok(Place { admission: self.clone(), address, kind })
    }

    /// Returns when no connection is left.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.lock().all == 0 {
                return;
            }
            emptied.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn take(&mut self, address: IpAddr, kind: Kind, limits: &Limits, room: u32) -> Result<(), Full> {
        let (most, full) = match kind {
            Kind::Connection => (limits.connections_per_address, Full::Address),
            Kind::Stream => ((room.min(limits.connections) / SHARE).max(1), Full::Streams),
        };
        let taken = self.by_address.entry(address).or_default().of(kind);
        if *taken >= most {
            return Err(full);
        }
        *taken += 1;
        Ok(())
    }
}

impl Taken {
    fn of(&mut self, kind: Kind) -> &mut u32 {
        match kind {
            Kind::Connection => &mut self.connections,
            Kind::Stream => &mut self.streams,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Connection,
    Stream,
}

/// The place of one connection or stream.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    address: Option<IpAddr>,
    kind: Kind,
}

impl Place {
    /// Counts a place that had no address yet under this one.
    pub fn is_of(&mut self, address: IpAddr, limits: &Limits) -> Result<(), Full> {
        let address = network(address);
        if self.address.is_none() {
            self.admission.lock().take(address, self.kind, limits, self.admission.room)?;
            self.address = Some(address);
        }
        Ok(())
    }

    /// Another place, for a stream of the connection that has this one: a stream may need a connection to an app, and its
    /// head takes as much room as another connection's.
    pub fn join(&self, limits: &Limits) -> Result<Place, Full> {
        self.admission.take(self.address, Kind::Stream, limits)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.admission.lock();
        places.all -= 1;
        if let Some(address) = self.address
            && let Some(taken) = places.by_address.get_mut(&address)
        {
            *taken.of(self.kind) -= 1;
            if taken.connections + taken.streams == 0 {
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
        let admission = Admission::with(100_000);
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
        let admission = Admission::with(100_000);
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

    #[test]
    fn streams_take_places_and_one_address_has_its_share() {
        let admission = Admission::with(100_000);
        let limits = Limits { connections: 8, connections_per_address: 2, ..Limits::default() };
        let enter = |address: &str| admission.enter(address.parse().ok(), &limits);
        let one = enter("10.0.0.1").unwrap();
        let first = one.join(&limits).unwrap();
        let _second = one.join(&limits).unwrap();
        assert_eq!(one.join(&limits).unwrap_err(), Full::Streams);
        let other = enter("10.0.0.1").unwrap();
        drop(first);
        let _third = other.join(&limits).unwrap();
        assert_eq!(other.join(&limits).unwrap_err(), Full::Streams, "whichever connection they are of");
        let proxy = enter("a proxy").unwrap();
        let _of_many = [proxy.join(&limits).unwrap(), proxy.join(&limits).unwrap(), proxy.join(&limits).unwrap()];
        assert_eq!(proxy.join(&limits).unwrap_err(), Full::Connections);
    }

    #[test]
    fn there_are_no_more_places_than_descriptors_for_them() {
        for (descriptors, room) in [(0, 0), (8, 3), (256, 96), (1024, 384), (20_000, 9_488), (u64::MAX, u32::MAX)] {
            assert_eq!(Admission::with(descriptors).room, room, "{descriptors}");
        }
        let admission = Admission::with(8);
        let enter = || admission.enter(None, &Limits::default());
        let _three = [enter().unwrap(), enter().unwrap(), enter().unwrap()];
        assert_eq!(enter().unwrap_err(), Full::Descriptors);
    }
}
