//! What our things in the engine are labelled with, and how a replica is read back from its labels.
//!
//! Used by the Docker runtime. The rule: `openprime.state` says whose they are, and a container whose labels do not
//! read as a replica is none.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::super::places::Places;
use super::super::replica::{Replica, ReplicaId, What};
use crate::model::address::Address;
use crate::model::app::Listen;
use crate::model::name::{ProjectName, Site};
use crate::model::release::Release;

pub type Labels = HashMap<String, String>;

/// Chooses everything of one state directory.
pub fn filter(state: &str) -> String {
    format!("{STATE}={state}")
}

pub fn of_project(project: &ProjectName, state: &str) -> Labels {
    let labels = [(MANAGED, "true".to_owned()), (STATE, state.to_owned()), (PROJECT, project.to_string())];
    labels.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Of an image. Each label is a step of the build, so there are only two: whose it is, and what it is, which also makes
/// the images of two releases distinct when their files are the same.
pub fn of_image(site: &Site, number: u64, state: &str) -> Labels {
    let labels = [(STATE, state.to_owned()), (UPSTREAM, format!("{site}#r{number}"))];
    labels.map(|(name, value)| (name.to_owned(), value)).into()
}

/// Of a container.
fn of_release(release: &Release, role: &str, state: &str) -> Labels {
    let mut labels = of_project(&release.site.project, state);
    labels.insert(BRANCH.to_owned(), release.site.branch.to_string());
    labels.insert(RELEASE.to_owned(), release.number.to_string());
    labels.insert(COMMIT.to_owned(), release.commit.to_string());
    labels.insert(ROLE.to_owned(), role.to_owned());
    labels
}

/// Of a container that runs one command.
pub fn of_task(release: &Release, state: &str) -> Labels {
    of_release(release, TASK, state)
}

pub fn of_replica(release: &Release, id: &ReplicaId, number: u16, state: &str) -> Labels {
    let mut labels = of_release(release, APP, state);
    let listen = match release.app.listen {
        Listen::Socket => "socket",
        Listen::Port => "port",
        Listen::Auto => "auto",
    };
    let own = [
        (ID, id.to_string()),
        (REPLICA, number.to_string()),
        (LISTEN, listen.to_owned()),
        (PORT, release.app.port.to_string()),
    ];
    labels.extend(own.map(|(name, value)| (name.to_owned(), value)));
    labels
}

/// Whose it is.
pub fn project(labels: &Labels) -> Option<ProjectName> {
    labels.get(PROJECT)?.parse().ok()
}

pub fn is_task(labels: &Labels) -> bool {
    labels.get(ROLE).is_some_and(|role| role == TASK)
}

/// The replica that a container is; `address` is the one it has in its network.
pub fn replica(container: &str, labels: &Labels, address: Option<&str>, places: &Places) -> Option<Replica> {
    let label = |name: &str| labels.get(name).map(String::as_str);
    let id = ReplicaId::try_from(label(ID)?.to_owned()).ok()?;
    let port: u16 = label(PORT)?.parse().ok()?;
    let socket = Address::Unix(places.socket(&id));
    let address = address.and_then(|address| address.parse().ok());
    let tcp = address.map(|address| Address::Tcp(SocketAddr::new(address, port)));
    let candidates = match label(LISTEN)? {
        "socket" => vec![socket],
        "port" => tcp.into_iter().collect(),
        "auto" => [socket].into_iter().chain(tcp).collect(),
        _ => return None,
    };
    Some(Replica {
        site: Site::new(label(PROJECT)?.parse().ok()?, label(BRANCH)?.parse().ok()?),
        release: label(RELEASE)?.parse().ok()?,
        number: label(REPLICA)?.parse().ok()?,
        what: What::Container(container.to_owned()),
        candidates,
        id,
    })
}

const MANAGED: &str = "openprime.managed";
const STATE: &str = "openprime.state";
const PROJECT: &str = "openprime.project";
const BRANCH: &str = "openprime.branch";
const RELEASE: &str = "openprime.release";
const UPSTREAM: &str = "openprime.upstream";
const REPLICA: &str = "openprime.replica";
const ID: &str = "openprime.id";
const LISTEN: &str = "openprime.listen";
const PORT: &str = "openprime.port";
const ROLE: &str = "openprime.role";
const TASK: &str = "task";
const APP: &str = "app";
const COMMIT: &str = "openprime.commit";
