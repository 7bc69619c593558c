//! Keeps a certificate at hand for every wanted host, and publishes the set at every change.
//!
//! Run once by control's composition root. The rule it keeps: what serves stays until something better is on disk, and
//! one host's trouble delays no other's.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::challenge::Challenges;
use super::issue::Orders;
use super::local_ca::LocalCa;
use super::store::{self, Found};
use super::{CertFault, Certificate};
use crate::model::certificate::{CertificateFiles, Issuer};
use crate::model::host::{HostName, HostPattern};
use crate::model::machine::Acme;

/// What conf wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub certs_dir: PathBuf,
    pub hosts: Vec<HostPattern>,
    pub acme: Option<Acme>,
}

/// Runs until the sender of `wanted` is gone. Publishes first what is on disk or can be made at once, later what orders
/// bring. In what it publishes, each wanted host stands with one certificate, the best there is.
pub async fn run(mut wanted: watch::Receiver<Wanted>, challenges: Challenges, out: watch::Sender<Vec<Certificate>>) {
    let first = wanted.borrow_and_update().clone();
    let mut keeper = Keeper::new(first, challenges);
    loop {
        if keeper.look().await {
            out.send_if_modified(|published| {
                let is_new = *published != keeper.serving;
                published.clone_from(&keeper.serving);
                is_new
            });
            keeper.start_orders();
        }
        tokio::select! {
            changed = wanted.changed() => match changed {
                Ok(()) => keeper.want(wanted.borrow_and_update().clone()),
                Err(_) => return,
            },
            Some(finished) = keeper.running.join_next() => keeper.finish(finished),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

struct Keeper {
    wanted: Wanted,
    challenges: Challenges,
    orders: Option<Orders>,
    /// What the last look found, and the state of the directory it found it in.
    found: Found,
    seen: Option<Vec<(PathBuf, u64, SystemTime)>>,
    serving: Vec<Certificate>,
    running: JoinSet<(HostName, Result<(), CertFault>)>,
    ordering: HashSet<HostName>,
    failed: HashMap<HostName, Failure>,
    /// The faults that were told, so that each is told once.
    told: HashSet<String>,
}

/// Orders that failed in a row, and when the next may begin.
struct Failure {
    count: usize,
    next: Instant,
}

impl Keeper {
    fn new(wanted: Wanted, challenges: Challenges) -> Self {
        let mut keeper = Self {
            wanted: Wanted::default(),
            challenges,
            orders: None,
            found: Found::default(),
            seen: None,
            serving: Vec::new(),
            running: JoinSet::new(),
            ordering: HashSet::new(),
            failed: HashMap::new(),
            told: HashSet::new(),
        };
        keeper.want(wanted);
        keeper
    }

    /// Takes a new conf. Orders that run go on: what they bring lies in the directory they were begun for.
    fn want(&mut self, wanted: Wanted) {
        if wanted.acme != self.wanted.acme || wanted.certs_dir != self.wanted.certs_dir {
            let orders = |acme| Orders::new(wanted.certs_dir.clone(), acme, self.challenges.clone());
            self.orders = wanted.acme.clone().map(orders);
            self.failed.clear();
        }
        self.wanted = wanted;
        self.seen = None;
    }

    /// Looks at the disk, makes what the local CA has to make, and settles what serves. Answers whether it could look:
    /// who has not seen the certificates must not order others.
    async fn look(&mut self) -> bool {
        let (wanted, seen) = (self.wanted.clone(), self.seen.take());
        let known = std::mem::take(&mut self.found);
        // Reading and signing thousands of certificates takes seconds: not on a thread that others wait for.
        let looked = tokio::task::spawn_blocking(move || {
            let state = store::state(&wanted.certs_dir);
            let mut found = if seen.as_ref() == Some(&state) { known } else { store::scan(&wanted.certs_dir) };
            // What could not be made is tried again, and told again, from a fresh look.
            let is_whole = make_local(&wanted, &mut found);
            (is_whole.then(|| store::state(&wanted.certs_dir)), found)
        });
        match looked.await {
            Ok((state, found)) => {
                self.seen = state;
                self.found = found;
                self.serving = serving(&self.wanted.hosts, &self.found.certificates);
                self.tell();
                true
            }
            Err(error) => {
                tracing::error!(%error, "the look at the certificates failed; what serves stays");
                false
            }
        }
    }

    fn tell(&mut self) {
        let faults: HashSet<String> = self.found.faults.iter().map(ToString::to_string).collect();
        for fault in faults.difference(&self.told) {
            tracing::warn!(fault, "a certificate cannot be used");
        }
        self.told = faults;
    }

    fn start_orders(&mut self) {
        let Some(orders) = &self.orders else { return };
        let now = SystemTime::now();
        let shelf = Shelf::new(&self.found.certificates, now);
        for pattern in &self.wanted.hosts {
            let Some(host) = pattern.exact().filter(|host| is_orderable(host)) else { continue };
            let waits = self.failed.get(host).is_some_and(|failure| failure.next > Instant::now());
            let is_due = is_order_due(shelf.best(pattern), now);
            if !is_due || waits || self.ordering.contains(host) || self.running.len() >= ORDERS_AT_ONCE {
                continue;
            }
            self.ordering.insert(host.clone());
            self.running.spawn(order(orders.clone(), self.wanted.certs_dir.clone(), host.clone()));
        }
    }

    fn finish(&mut self, finished: Result<(HostName, Result<(), CertFault>), tokio::task::JoinError>) {
        match finished {
            Ok((host, outcome)) => {
                self.ordering.remove(&host);
                self.settle(host, outcome);
            }
            // Nothing in an order panics or is cancelled; should it happen, every host may be tried again.
            Err(error) => {
                tracing::error!(%error, "an order ended without an outcome");
                self.ordering.clear();
            }
        }
    }

    fn settle(&mut self, host: HostName, outcome: Result<(), CertFault>) {
        match outcome {
            Ok(()) => {
                tracing::info!(%host, "has a new certificate");
                self.failed.remove(&host);
                self.seen = None;
            }
            Err(fault) => {
                let count = self.failed.get(&host).map_or(1, |failure| failure.count + 1);
                let pause = pause(count);
                tracing::warn!(%host, %fault, retry_in = ?pause, "no new certificate; what serves stays");
                self.failed.insert(host, Failure { count, next: Instant::now() + pause });
            }
        }
    }
}

async fn order(orders: Orders, certs_dir: PathBuf, host: HostName) -> (HostName, Result<(), CertFault>) {
    let outcome = match orders.order(&host).await {
        Ok(pair) => store::save(&certs_dir, &host.clone().into(), &pair, Issuer::Acme).map(|_| ()),
        Err(fault) => Err(fault),
    };
    (host, outcome)
}

/// Whether a host with this certificate should have another from a CA. A person's is never replaced while it holds.
fn is_order_due(best: Option<&Certificate>, now: SystemTime) -> bool {
    best.is_none_or(|best| match best.issuer {
        Issuer::Operator => false,
        Issuer::Acme => best.validity.renew_at() <= now,
        Issuer::Local => true,
    })
}

/// Has the local CA make what no certificate covers, and renews its own. A host whose ACME certificate ran out gets one
/// too: a warning in the browser is better than no answer. Answers whether all of it could be made.
fn make_local(wanted: &Wanted, found: &mut Found) -> bool {
    let now = SystemTime::now();
    let shelf = Shelf::new(&found.certificates, now);
    // Without the CA that signed them, nobody can be told to trust them.
    let ca_is_gone = !LocalCa::exists(&wanted.certs_dir);
    let is_needed = |host: &&HostPattern| match shelf.best(host) {
        None => true,
        Some(best) => best.issuer == Issuer::Local && (ca_is_gone || best.validity.renew_at() <= now),
    };
    let needed: Vec<&HostPattern> = wanted.hosts.iter().filter(is_needed).collect();
    if needed.is_empty() {
        return true;
    }
    let outcomes: Vec<Result<Certificate, CertFault>> = match LocalCa::open(&wanted.certs_dir, now) {
        Ok(ca) => {
            let make = |host: &&HostPattern| store::save(&wanted.certs_dir, host, &ca.issue(host, now)?, Issuer::Local);
            needed.iter().map(make).collect()
        }
        Err(fault) => vec![Err(fault)],
    };
    let faults = found.faults.len();
    for outcome in outcomes {
        match outcome {
            Ok(certificate) => found.certificates.push(certificate),
            Err(fault) => found.faults.push(fault),
        }
    }
    found.faults.len() == faults
}

/// The best certificates for these hosts, each with the hosts that it is to serve.
fn serving(hosts: &[HostPattern], certificates: &[Certificate]) -> Vec<Certificate> {
    let shelf = Shelf::new(certificates, SystemTime::now());
    let mut places: HashMap<&Path, usize> = HashMap::new();
    let mut serving: Vec<Certificate> = Vec::new();
    for host in hosts.iter().collect::<BTreeSet<_>>() {
        let Some(best) = shelf.best(host) else { continue };
        let place = *places.entry(&best.files.chain).or_insert(serving.len());
        if place == serving.len() {
            let files = CertificateFiles { hosts: Vec::new(), ..best.files.clone() };
            serving.push(Certificate { files, ..best.clone() });
        }
        serving[place].files.hosts.push(host.clone());
    }
    serving
}

/// The certificates that hold now, by the names on them.
struct Shelf<'c> {
    by_name: HashMap<String, Vec<&'c Certificate>>,
}

impl<'c> Shelf<'c> {
    fn new(certificates: &'c [Certificate], now: SystemTime) -> Self {
        let mut by_name: HashMap<String, Vec<&Certificate>> = HashMap::new();
        for certificate in certificates.iter().filter(|certificate| certificate.validity.holds_at(now)) {
            for name in &certificate.files.hosts {
                by_name.entry(name.to_string()).or_default().push(certificate);
            }
        }
        Self { by_name }
    }

    /// A person's certificate before one from a CA before our own; among equals the one that holds longest.
    fn best(&self, host: &HostPattern) -> Option<&'c Certificate> {
        let rank = |issuer| match issuer {
            Issuer::Operator => 2,
            Issuer::Acme => 1,
            Issuer::Local => 0,
        };
        let parent = host.exact().filter(|host| host.as_ip().is_none()).and_then(HostName::parent);
        let wildcard = parent.and_then(|parent| self.by_name.get(&format!("*.{parent}")));
        let own = self.by_name.get(&host.to_string());
        let candidates = own.into_iter().chain(wildcard).flatten().copied();
        candidates.max_by_key(|certificate| (rank(certificate.issuer), certificate.validity.not_after))
    }
}

/// No CA vouches for these names over HTTP-01: localhost (RFC 6761) and addresses.
fn is_orderable(host: &HostName) -> bool {
    let name = host.as_str();
    host.as_ip().is_none() && name != "localhost" && !name.ends_with(".localhost")
}

/// How long after the `count`th failure in a row, with up to a fifth more so that hosts that failed together do not
/// come back together.
fn pause(count: usize) -> Duration {
    let minutes = PAUSES.get(count.saturating_sub(1)).copied().unwrap_or(LAST_PAUSE);
    let mut random = [0];
    // Without randomness there is no jitter, which is no reason to stop.
    let _ = aws_lc_rs::rand::fill(&mut random);
    Duration::from_secs(minutes * 60).mul_f64(1.0 + f64::from(random[0]) / 1275.0)
}

/// Minutes. Five failed validations a host and hour are what Let's Encrypt allows.
const PAUSES: [u64; 9] = [1, 2, 5, 10, 20, 20, 30, 60, 120];
const LAST_PAUSE: u64 = 360;
const ORDERS_AT_ONCE: usize = 16;
const LOOK_EVERY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
