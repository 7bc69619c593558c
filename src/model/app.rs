//! How an app of a project is built, started and judged: `[app]` of a project's conf, and the part of it that a
//! repository may say for itself in its `opri.toml`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What somebody wishes; `None` means "not said". Conf's wishes win over the repository's, both over the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppWish {
    pub listen: Option<Listen>,
    pub port: Option<u16>,
    pub protocol: Option<Protocol>,
    pub replicas: Option<u16>,
    pub health: HealthWish,
    pub drain: Option<Duration>,
    pub drain_long: Option<Duration>,
    pub drain_max: Option<u16>,
    pub standby: Option<Duration>,
    pub monitor: Option<Duration>,
    pub dockerfile: Option<String>,
    pub release: Option<String>,
    pub build: Option<String>,
    pub run: Option<String>,
    pub env: BTreeMap<String, String>,
    pub services: Option<Vec<String>>,
    /// Conf's alone.
    pub container: ContainerWish,
}

/// What conf says of its containers, key by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerWish {
    pub memory: Option<u64>,
    pub pids: Option<u32>,
    pub capabilities: Option<Vec<String>>,
    pub read_only: Option<bool>,
}

/// The wishes of `health = { … }`, key by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthWish {
    pub path: Option<String>,
    pub status: Option<(u16, u16)>,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
}

/// Where an app is expected to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Listen {
    Socket,
    Port,
    /// Whichever answers first.
    Auto,
}

/// What an app speaks to the edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Http1,
    /// HTTP/2 without TLS and without being asked first (RFC 9113 section 3.3), as gRPC wants it.
    H2c,
}

/// The settled specification: it belongs to a release and is stored with it, so that a rollback brings it back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppSpec {
    pub listen: Listen,
    /// The TCP port in a container. A process gets one of its own in `$PORT`.
    pub port: u16,
    #[serde(default)]
    pub protocol: Protocol,
    pub replicas: u16,
    pub health: HealthCheck,
    /// How long a release that was replaced may take to begin the answers to requests in flight.
    pub drain: Duration,
    /// How long answers that have begun may go on with it: WebSockets, event streams, downloads.
    #[serde(default = "drain_long")]
    pub drain_long: Duration,
    /// How many replaced releases of a site may go on for that at once.
    #[serde(default = "drain_max")]
    pub drain_max: u16,
    /// For how long it runs on, beyond that, when it was replaced: a rollback then starts nothing.
    #[serde(default)]
    pub standby: Duration,
    /// For how long after the swap it is rolled back by itself when it does badly; zero for never.
    #[serde(default = "monitored")]
    pub monitor: Duration,
    /// Relative to the repository's root.
    pub dockerfile: String,
    /// Run once a deployment, before the swap; its failure ends the deployment.
    pub release: Option<String>,
    /// Process runtime: run once, in a fresh checkout.
    pub build: Option<String>,
    /// Process runtime: what to start; `None` means the Procfile's `web` line.
    pub run: Option<String>,
    pub env: BTreeMap<String, String>,
    pub services: Vec<String>,
    #[serde(default)]
    pub container: ContainerBounds,
}

/// What a container of the app may have; a plain process is not held to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerBounds {
    /// Bytes, with no swap beyond them.
    pub memory: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Of all that root has (capabilities(7)), without `CAP_`; everything else is dropped.
    pub capabilities: Vec<String>,
    /// Whether its root file system is read-only, with a `/tmp` in memory.
    pub read_only: bool,
}

impl Default for ContainerBounds {
    fn default() -> Self {
        Self { memory: 1 << 30, pids: 512, capabilities: Vec::new(), read_only: false }
    }
}

/// When an app counts as ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    pub path: String,
    /// Lowest and highest status that counts, both included.
    pub status: (u16, u16),
    /// Between two askings.
    pub interval: Duration,
    /// From the start of the app until it must have answered.
    pub timeout: Duration,
}

impl HealthCheck {
    pub fn accepts(&self, status: u16) -> bool {
        (self.status.0..=self.status.1).contains(&status)
    }
}

impl AppWish {
    /// These wishes, with `other`'s where nothing is said here. Environments are merged name by name.
    pub fn or(self, other: AppWish) -> AppWish {
        let mut env = other.env;
        env.extend(self.env);
        AppWish {
            listen: self.listen.or(other.listen),
            port: self.port.or(other.port),
            protocol: self.protocol.or(other.protocol),
            replicas: self.replicas.or(other.replicas),
            health: HealthWish {
                path: self.health.path.or(other.health.path),
                status: self.health.status.or(other.health.status),
                interval: self.health.interval.or(other.health.interval),
                timeout: self.health.timeout.or(other.health.timeout),
            },
            drain: self.drain.or(other.drain),
            drain_long: self.drain_long.or(other.drain_long),
            drain_max: self.drain_max.or(other.drain_max),
            standby: self.standby.or(other.standby),
            monitor: self.monitor.or(other.monitor),
            dockerfile: self.dockerfile.or(other.dockerfile),
            release: self.release.or(other.release),
            build: self.build.or(other.build),
            run: self.run.or(other.run),
            env,
            services: self.services.or(other.services),
            container: self.container,
        }
    }

    /// The specification, with the defaults of the reference conf for what nobody said.
    pub fn settle(self) -> AppSpec {
        AppSpec {
            listen: self.listen.unwrap_or(Listen::Auto),
            port: self.port.unwrap_or(8000),
            protocol: self.protocol.unwrap_or_default(),
            replicas: self.replicas.unwrap_or(1),
            health: HealthCheck {
                path: self.health.path.unwrap_or_else(|| "/".to_owned()),
                status: self.health.status.unwrap_or((200, 399)),
                interval: self.health.interval.unwrap_or(Duration::from_secs(1)),
                timeout: self.health.timeout.unwrap_or(Duration::from_secs(60)),
            },
            drain: self.drain.unwrap_or(Duration::from_secs(30)),
            drain_long: self.drain_long.unwrap_or_else(drain_long),
            drain_max: self.drain_max.unwrap_or_else(drain_max),
            standby: self.standby.unwrap_or_default(),
            monitor: self.monitor.unwrap_or_else(monitored),
            dockerfile: self.dockerfile.unwrap_or_else(|| "Dockerfile".to_owned()),
            release: self.release,
            build: self.build,
            run: self.run,
            env: self.env,
            services: self.services.unwrap_or_default(),
            container: self.container.settle(),
        }
    }
}

impl ContainerWish {
    fn settle(self) -> ContainerBounds {
        let usual = ContainerBounds::default();
        ContainerBounds {
            memory: self.memory.unwrap_or(usual.memory),
            pids: self.pids.unwrap_or(usual.pids),
            capabilities: self.capabilities.unwrap_or(usual.capabilities),
            read_only: self.read_only.unwrap_or(usual.read_only),
        }
    }
}

/// How long a release is monitored when nobody says.
fn monitored() -> Duration {
    Duration::from_secs(300)
}

/// Half an hour, unless somebody wishes otherwise.
pub fn drain_long() -> Duration {
    Duration::from_secs(30 * 60)
}

fn drain_max() -> u16 {
    5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conf_wins_over_the_repository_and_both_over_the_defaults() {
        let conf = AppWish { port: Some(1), env: [("A".into(), "conf".into())].into(), ..Default::default() };
        let repository = AppWish {
            port: Some(2),
            replicas: Some(3),
            env: [("A".into(), "repo".into()), ("B".into(), "repo".into())].into(),
            ..Default::default()
        };
        let spec = conf.or(repository).settle();
        assert_eq!((spec.port, spec.replicas, spec.drain.as_secs()), (1, 3, 30));
        assert_eq!((spec.env["A"].as_str(), spec.env["B"].as_str()), ("conf", "repo"));
    }

    #[test]
    fn a_specification_stored_before_there_was_a_choice_has_what_was_usual() {
        let spec = AppWish::default().settle();
        let mut stored = serde_json::to_value(&spec).unwrap();
        for key in ["protocol", "drain_long", "drain_max", "standby", "monitor", "container"] {
            assert!(stored.as_object_mut().unwrap().remove(key).is_some(), "{key}");
        }
        assert_eq!(serde_json::from_value::<AppSpec>(stored).unwrap(), spec);
    }
}
