//! Containers: started hardened and without a published port, watched, stopped, found again.
//!
//! Used by the Docker runtime. The rule: when the engine does not answer in time nothing is known, so what matters is
//! asked again; "it has ended" is only ever said on the engine's own word.

use std::future::Future;
use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, LogsOptionsBuilder, StopContainerOptionsBuilder,
};
use futures_util::StreamExt;

use super::super::error::RuntimeError;
use super::super::log::last_lines;
use super::super::replica::{Exit, Replica, ReplicaId, What};
use super::super::{BuildLog, ByteStream, Environment, Task};
use super::build::branch_part;
use super::leftover::Leftover;
use super::{CREATE_LIMIT, Docker, LIST_LIMIT, call, fault, image, labels, other_runtime};
use crate::model::release::Release;

impl Docker {
    pub(in super::super) async fn start(
        &self,
        release: &Release,
        number: u16,
        env: &Environment,
    ) -> Result<Replica, RuntimeError> {
        let id = self.places.make_nest(0o777)?;
        let started = self.launch(release, &id, number, env).await;
        if started.is_err() {
            self.forget_nest(&id);
        }
        started
    }

    async fn launch(
        &self,
        release: &Release,
        id: &ReplicaId,
        number: u16,
        env: &Environment,
    ) -> Result<Replica, RuntimeError> {
        // Ours win, and each name comes once: of two, which one holds would be for the app's C library to say.
        let mut env = env.clone();
        let own = [("SOCKET", INNER_SOCKET), ("HOST", "0.0.0.0"), ("PORT", &release.app.port.to_string())];
        env.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let mut body = self.body(release, &env).await?;
        body.labels = Some(labels::of_replica(release, id, number, &self.state));
        // A missing source of a mount is an error, where that of a bind would be made, by root.
        let nest = Mount {
            typ: Some(MountType::BIND),
            source: Some(self.places.nest(id).display().to_string()),
            target: Some(INNER_NEST.to_owned()),
            read_only: Some(false),
            ..Default::default()
        };
        body.host_config.get_or_insert_default().mounts = Some(vec![nest]);
        let site = &release.site;
        let name = format!("opri-{}-{}-{}-{id}", site.project, branch_part(site), release.name());
        let container = self.create(&name, body).await?;
        crash_point!("container.created");
        call("start the container", CREATE_LIMIT, self.client.start_container(&container.id, None)).await?;
        crash_point!("container.started");
        // One that ended at once is a replica all the same: its end and its last words are still to be asked for.
        let gone = || RuntimeError::Failed { what: "start", why: "the container was gone at once".to_owned() };
        let (replica, _) = self.look(&container.id).await?.ok_or_else(gone)?;
        container.keep();
        Ok(replica)
    }

    pub(in super::super) async fn run_once(
        &self,
        release: &Release,
        task: Task<'_>,
        log: &BuildLog,
    ) -> Result<(), RuntimeError> {
        let mut body = self.body(release, task.env).await?;
        body.entrypoint = Some(["/bin/sh", "-c"].map(str::to_owned).to_vec());
        body.cmd = Some(vec![task.command.to_owned()]);
        body.labels = Some(labels::of_task(release, &self.state));
        let site = &release.site;
        let number = ReplicaId::random()?;
        let name = format!("opri-{}-{}-{}-task-{number}", site.project, branch_part(site), release.name());
        let container = self.create(&name, body).await?;
        call("start the container", CREATE_LIMIT, self.client.start_container(&container.id, None)).await?;
        let work = async {
            let mut output = self.output(&container.id, true, "all");
            // The log is for people; whether it worked is what the container's end says.
            while let Some(Ok(bytes)) = output.next().await {
                log.write(&bytes);
            }
            Ok(self.ended(container.id.clone()).await)
        };
        let ended = tokio::time::timeout(task.limit, self.attended(work)).await;
        match self.remove_container(&container.id).await {
            Ok(()) => container.keep(),
            Err(error) => tracing::warn!(%error, "the container of a release command stays for now"),
        }
        match ended {
            Err(_) => Err(RuntimeError::TimedOut { what: "release command", limit: task.limit }),
            Ok(Err(error)) => Err(error),
            Ok(Ok(exit)) if exit.is_success() => Ok(()),
            Ok(Ok(exit)) => Err(RuntimeError::Ended { what: "release command", exit }),
        }
    }

    pub(in super::super) async fn stop(&self, replica: &Replica, grace: Duration) -> Result<(), RuntimeError> {
        let id = container_id(replica)?;
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        let client = self.patient(grace + STOP_MARGIN);
        let stopping = client.stop_container(id, Some(options));
        let removed = match call("stop the container", grace + STOP_MARGIN, stopping).await {
            // An engine that is silent is not asked for more just now.
            Err(error @ RuntimeError::EngineSlow { .. }) => Err(error),
            // 304 is "not running", which the client takes for success; whatever else went wrong, a removal by force
            // ends the container and says so.
            _ => self.remove_container(id).await,
        };
        if removed.is_err() {
            // Unknown: the engine may have done it all the same, or may do it yet.
            self.remove_later(Leftover::Container(id.to_owned()));
        }
        self.forget_nest(&replica.id);
        removed
    }

    /// A container's user may have made what we, when not root, cannot remove: that keeps nothing from going on.
    fn forget_nest(&self, id: &ReplicaId) {
        if let Err(error) = self.places.remove_nest(id) {
            tracing::warn!(%error, "the directory of a socket stays");
        }
    }

    pub(in super::super) fn exited(&self, replica: &Replica) -> impl Future<Output = Exit> + Send + 'static {
        let (docker, replica) = (self.clone(), replica.clone());
        async move {
            match container_id(&replica) {
                Ok(id) => docker.ended(id.to_owned()).await,
                Err(_) => Exit::Unknown,
            }
        }
    }

    pub(in super::super) async fn running(&self) -> Result<Vec<Replica>, RuntimeError> {
        let options = ListContainersOptionsBuilder::default().filters(&self.ours()).build();
        let listed = call("list containers", LIST_LIMIT, self.client.list_containers(Some(options))).await?;
        let mut running = Vec::new();
        for id in listed.into_iter().filter_map(|container| container.id) {
            running.extend(self.look(&id).await?.filter(|(_, is_running)| *is_running).map(|(replica, _)| replica));
        }
        Ok(running)
    }

    pub(in super::super) async fn tail(&self, replica: &Replica, lines: usize) -> Result<String, RuntimeError> {
        let mut output = self.output(container_id(replica)?, false, &lines.to_string());
        let reading = async {
            let mut text = Vec::new();
            while let Some(bytes) = output.next().await {
                text.extend_from_slice(&bytes.map_err(|error| RuntimeError::at("the container's log", error))?);
                let surplus = text.len().saturating_sub(TAIL_MAX);
                text.drain(..surplus);
            }
            Ok(last_lines(&String::from_utf8_lossy(&text), lines).to_owned())
        };
        let slow = |_| RuntimeError::EngineSlow { step: "read the log", limit: LIST_LIMIT };
        tokio::time::timeout(LIST_LIMIT, reading).await.map_err(slow)?
    }

    pub(in super::super) fn follow(&self, replica: &Replica, lines: usize) -> ByteStream {
        match container_id(replica) {
            Ok(id) => self.output(id, true, &lines.to_string()),
            Err(error) => Box::pin(futures_util::stream::iter([Err(std::io::Error::other(error))])),
        }
    }

    /// A container of this release, with all that any of ours has.
    async fn body(&self, release: &Release, env: &Environment) -> Result<ContainerCreateBody, RuntimeError> {
        let log_options = [("max-size", "10m"), ("max-file", "3")].map(|(name, value)| (name.into(), value.into()));
        let bounds = &release.app.container;
        let memory = i64::try_from(bounds.memory).unwrap_or(i64::MAX);
        let host = HostConfig {
            network_mode: Some(self.network(&release.site.project).await?),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(bounds.capabilities.clone()),
            security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
            pids_limit: Some(i64::from(bounds.pids)),
            memory: Some(memory),
            memory_swap: Some(memory),
            readonly_rootfs: Some(bounds.read_only),
            tmpfs: bounds.read_only.then(|| [("/tmp".to_owned(), TMP.to_owned())].into()),
            publish_all_ports: Some(false),
            init: Some(true),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some(log_options.into()),
            }),
            ..Default::default()
        };
        Ok(ContainerCreateBody {
            image: Some(image(release)?.to_owned()),
            env: Some(env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            host_config: Some(host),
            ..Default::default()
        })
    }

    async fn create(&self, name: &str, body: ContainerCreateBody) -> Result<Doomed, RuntimeError> {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let created = self.client.create_container(Some(options), body);
        let created = call("create the container", CREATE_LIMIT, created).await.inspect_err(|error| {
            // Without a whole answer it may be there all the same, or come yet.
            if let RuntimeError::EngineSlow { .. } | RuntimeError::Engine { status: None, .. } = error {
                self.remove_later(Leftover::Container(name.to_owned()));
            }
        })?;
        Ok(Doomed { docker: self.clone(), id: created.id, is_kept: false })
    }

    /// The replica that a container is, and whether it runs.
    async fn look(&self, id: &str) -> Result<Option<(Replica, bool)>, RuntimeError> {
        let looked = call("look at the container", LIST_LIMIT, self.client.inspect_container(id, None)).await;
        let container = match looked {
            Err(RuntimeError::Engine { status: Some(404), .. }) => return Ok(None),
            looked => looked?,
        };
        let is_running = container.state.and_then(|state| state.running) == Some(true);
        let networks = container.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let address = networks.into_values().find_map(|network| network.ip_address.filter(|ip| !ip.is_empty()));
        let labels = container.config.and_then(|config| config.labels).unwrap_or_default();
        let replica = labels::replica(id, &labels, address.as_deref(), &self.places);
        Ok(replica.map(|replica| (replica, is_running)))
    }

    /// Waits until the engine says that the container runs no more, over its restarts and silences.
    async fn ended(&self, id: String) -> Exit {
        let code = |code| i32::try_from(code).map_or(Exit::Unknown, Exit::Code);
        loop {
            let waiting = async { self.client.wait_container(&id, None).boxed().next().await };
            match tokio::time::timeout(WAIT_LIMIT, waiting).await {
                Ok(Some(Ok(end))) => return code(end.status_code),
                // How the client says a status other than 0.
                Ok(Some(Err(EngineError::DockerContainerWaitError { code: status, .. }))) => return code(status),
                Ok(Some(Err(EngineError::DockerResponseServerError { status_code: 404, .. }))) => return Exit::Unknown,
                Ok(_) => tokio::time::sleep(ASK_AGAIN).await,
                Err(_) => (),
            }
        }
    }

    fn output(&self, id: &str, is_followed: bool, tail: &str) -> ByteStream {
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).follow(is_followed).tail(tail).build();
        let output = self.client.logs(id, Some(options));
        Box::pin(output.map(|part| {
            let part = part.map_err(|error| std::io::Error::other(fault("read the log", error)));
            part.map(|part| part.into_bytes())
        }))
    }
}

fn container_id(replica: &Replica) -> Result<&str, RuntimeError> {
    match &replica.what {
        What::Container(id) => Ok(id),
        What::Process { .. } => Err(other_runtime(&format!("replica {} of {}", replica.id, replica.site))),
    }
}

/// A container that is removed, with what runs in it, unless it is kept: also when whoever made it is dropped.
struct Doomed {
    docker: Docker,
    id: String,
    is_kept: bool,
}

impl Doomed {
    fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Doomed {
    fn drop(&mut self) {
        if !self.is_kept {
            self.docker.remove_later(Leftover::Container(std::mem::take(&mut self.id)));
        }
    }
}

const INNER_NEST: &str = "/run/opri";
const INNER_SOCKET: &str = "/run/opri/s";
/// Where a root file system is read-only: counts as the container's memory.
const TMP: &str = "rw,nosuid,nodev,noexec,size=64m";
const TAIL_MAX: usize = 256 << 10;
/// What the engine may need beside the grace an app has.
const STOP_MARGIN: Duration = Duration::from_secs(20);
/// A connection that died in silence is not waited at for ever.
const WAIT_LIMIT: Duration = Duration::from_secs(300);
const ASK_AGAIN: Duration = Duration::from_secs(2);
