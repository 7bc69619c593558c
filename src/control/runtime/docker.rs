//! Releases as images and containers of the Docker engine, through its socket.
//!
//! Called through `Runtime`. The rule: no call to the engine waits for ever, since the client's own timeout ends with
//! the response's head; and only what carries this state directory's label is ours.

mod build;
mod container;
mod labels;
mod leftover;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use bollard::errors::Error as EngineError;
use bollard::models::NetworkCreateRequest;
use bollard::query_parameters::{
    ListContainersOptionsBuilder, ListImagesOptionsBuilder, ListNetworksOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptions, RemoveImageOptionsBuilder,
};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::error::RuntimeError;
use super::places::{self, Places, remove_tree};
use crate::model::name::ProjectName;
use crate::model::release::{Artifact, Release};
use crate::report::with_causes;

use leftover::{Leftover, Leftovers};

/// What the engine of this machine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    pub version: String,
    /// The version of what starts its containers, where it says so.
    pub runc: Option<String>,
}

/// Asks the engine, which must answer within 2 s.
pub async fn engine() -> Result<Engine, RuntimeError> {
    let docker = Docker::connect(Places::new(Path::new("/"))).await?;
    let version = call("say its version", LIST_LIMIT, docker.client.version()).await?;
    let runc = version.components.unwrap_or_default().into_iter().find(|component| component.name == "runc");
    let unknown = || "unknown".to_owned();
    Ok(Engine { version: version.version.unwrap_or_else(unknown), runc: runc.map(|runc| runc.version) })
}

/// The Docker engine, as one state directory uses it.
#[derive(Debug, Clone)]
pub struct Docker {
    client: bollard::Docker,
    places: Places,
    /// Tells our things in the engine from another Prime's: the beginning of the state directory's hash.
    state: String,
    /// The engine makes two networks of one name when asked twice.
    networks: Arc<Semaphore>,
    leftovers: Leftovers,
}

impl Docker {
    /// Asks the engine whether it is there; an answer must come within 2 s.
    pub(super) async fn connect(places: Places) -> Result<Self, RuntimeError> {
        let host = std::env::var("DOCKER_HOST").ok();
        let socket = host.as_deref().and_then(|host| host.strip_prefix("unix://")).unwrap_or(SOCKET);
        Self::connect_to(socket.to_owned(), places).await
    }

    pub(super) async fn connect_to(socket: String, places: Places) -> Result<Self, RuntimeError> {
        let none = |why: String| RuntimeError::NoEngine { socket: socket.clone(), why };
        let client = bollard::Docker::connect_with_unix(&socket, HEADERS_LIMIT.as_secs(), bollard::API_DEFAULT_VERSION)
            .map_err(|error| none(error.to_string()))?;
        greet(&client, CONNECT_LIMIT).await.map_err(|error| match error {
            RuntimeError::Engine { why, .. } => none(why),
            RuntimeError::EngineSlow { limit, .. } => none(format!("no answer within {} s", limit.as_secs())),
            other => other,
        })?;
        let (state, (leftovers, told)) = (state_label(places.state()), leftover::channel());
        let docker = Self { client, places, state, networks: Arc::new(Semaphore::new(1)), leftovers };
        tokio::spawn(leftover::sweep(docker.clone(), told));
        Ok(docker)
    }

    /// Long work in the engine, given up when it answers nothing any more.
    async fn attended<T>(&self, work: impl Future<Output = Result<T, RuntimeError>>) -> Result<T, RuntimeError> {
        greet(&self.client, LIST_LIMIT).await?;
        tokio::select! {
            done = work => done,
            fault = self.silence() => Err(fault),
        }
    }

    /// Returns once the engine has failed to answer a few times in a row, with the last reason.
    async fn silence(&self) -> RuntimeError {
        let mut misses = 0;
        loop {
            sleep(ATTEND_EVERY).await;
            match greet(&self.client, LIST_LIMIT).await {
                Ok(()) => misses = 0,
                Err(fault) if misses + 1 == MISSES_MAX => return fault,
                Err(_) => misses += 1,
            }
        }
    }

    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    pub(super) async fn discard(&self, artifact: &Artifact) -> Result<(), RuntimeError> {
        let removed = self.remove_image(artifact).await;
        if let (Err(RuntimeError::Engine { .. } | RuntimeError::EngineSlow { .. }), Artifact::Image(id)) =
            (&removed, artifact)
        {
            self.remove_later(Leftover::Image(id.clone()));
        }
        removed
    }

    async fn remove_image(&self, artifact: &Artifact) -> Result<(), RuntimeError> {
        let Artifact::Image(image) = artifact else { return Err(other_runtime("this release")) };
        // Without force: the engine refuses while a container, running or not, was made of it.
        let options = RemoveImageOptionsBuilder::default().force(false).build();
        let removal = self.client.remove_image(image, Some(options), None);
        match call("remove the image", REMOVE_LIMIT, removal).await {
            Err(RuntimeError::Engine { status: Some(409), .. }) => Err(RuntimeError::InUse(image.clone())),
            removed => gone(removed.map(drop)),
        }
    }

    pub(super) async fn clean(&self, keep: &[Artifact]) -> Result<(), RuntimeError> {
        self.clean_containers().await?;
        self.clean_images(keep).await?;
        self.clean_leftovers().await?;
        self.clean_networks(&BTreeSet::new()).await?;
        let running: Vec<_> = self.running().await?.into_iter().map(|replica| self.places.nest(&replica.id)).collect();
        for nest in places::entries(&self.places.nests())? {
            // A nest with a record is the process runtime's.
            if nest.is_dir()
                && !running.contains(&nest)
                && !nest.with_extension("json").exists()
                && let Err(error) = remove_tree(&nest)
            {
                tracing::warn!(%error, "the directory of a socket stays");
            }
        }
        Ok(())
    }

    /// Containers that do not run, and commands that a control before this one ran: nobody waits for those.
    async fn clean_containers(&self) -> Result<(), RuntimeError> {
        let options = ListContainersOptionsBuilder::default().all(true).filters(&self.ours()).build();
        for container in call("list containers", LIST_LIMIT, self.client.list_containers(Some(options))).await? {
            let is_running = container.state.is_some_and(|state| state.as_ref() == "running");
            let is_task = container.labels.is_some_and(|labels| labels::is_task(&labels));
            if let Some(id) = container.id.filter(|_| is_task || !is_running) {
                self.remove_container(&id).await?;
            }
        }
        Ok(())
    }

    async fn clean_images(&self, keep: &[Artifact]) -> Result<(), RuntimeError> {
        let options = ListImagesOptionsBuilder::default().filters(&self.ours()).build();
        for image in call("list images", LIST_LIMIT, self.client.list_images(Some(options))).await? {
            let artifact = Artifact::Image(image.id);
            if !keep.contains(&artifact) {
                match self.discard(&artifact).await {
                    Err(RuntimeError::InUse(_)) => (),
                    discarded => discarded?,
                }
            }
        }
        Ok(())
    }

    /// What failed builds left: the layers before the step that failed, under a tag.
    async fn clean_leftovers(&self) -> Result<(), RuntimeError> {
        let filters = [("reference".to_owned(), vec![build::leftovers(&self.state)])].into();
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        for image in call("list images", LIST_LIMIT, self.client.list_images(Some(options))).await? {
            for tag in image.repo_tags.iter().filter(|tag| build::is_leftover(tag, &self.state)) {
                self.remove_tag(tag).await?;
            }
        }
        Ok(())
    }

    /// Takes a tag away, and with the last one its layers, as far as no other image has them.
    async fn remove_tag(&self, tag: &str) -> Result<(), RuntimeError> {
        let removal = self.client.remove_image(tag, None::<RemoveImageOptions>, None);
        match gone(call("remove the image", REMOVE_LIMIT, removal).await.map(drop)) {
            // A container was made of it, which keeps it.
            Err(RuntimeError::Engine { status: Some(409), .. }) => Ok(()),
            removed => removed,
        }
    }

    /// Bytes of all images of ours; what they share counts for each.
    pub(super) async fn images(&self) -> Result<u64, RuntimeError> {
        let options = ListImagesOptionsBuilder::default().filters(&self.ours()).build();
        let images = call("list images", LIST_LIMIT, self.client.list_images(Some(options))).await?;
        Ok(images.iter().map(|image| u64::try_from(image.size).unwrap_or(0)).sum())
    }

    /// Removes those of all projects but these.
    pub(super) async fn clean_networks(&self, known: &BTreeSet<ProjectName>) -> Result<(), RuntimeError> {
        let options = ListNetworksOptionsBuilder::default().filters(&self.ours()).build();
        for network in call("list networks", LIST_LIMIT, self.client.list_networks(Some(options))).await? {
            let is_known =
                labels::project(&network.labels.unwrap_or_default()).is_some_and(|name| known.contains(&name));
            let Some(id) = network.id.filter(|_| !is_known) else { continue };
            // Refused while a container is in it, which is what keeps it.
            if let Err(error) = call("remove the network", REMOVE_LIMIT, self.client.remove_network(&id)).await {
                tracing::debug!(%error, "this network stays");
            }
        }
        Ok(())
    }

    /// The network of a project's containers, made when it is missing.
    async fn network(&self, project: &ProjectName) -> Result<String, RuntimeError> {
        let name = format!("opri-{project}-{}", self.state);
        let _turn = self.networks.acquire().await;
        match call("look at the network", LIST_LIMIT, self.client.inspect_network(&name, None)).await {
            Ok(_) => return Ok(name),
            Err(RuntimeError::Engine { status: Some(404), .. }) => (),
            Err(error) => return Err(error),
        }
        let request = NetworkCreateRequest {
            name: name.clone(),
            driver: Some("bridge".to_owned()),
            internal: Some(false),
            labels: Some(labels::of_project(project, &self.state)),
            ..Default::default()
        };
        call("make the network", CREATE_LIMIT, self.client.create_network(request)).await.map(|_| name)
    }

    /// A client that waits this long for a response's head.
    fn patient(&self, limit: Duration) -> bollard::Docker {
        self.client.clone().with_timeout(limit)
    }

    /// One that is gone already is success.
    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        let removal = self.client.remove_container(id, Some(options));
        match gone(call("remove the container", REMOVE_LIMIT, removal).await) {
            // Somebody else is removing it.
            Err(RuntimeError::Engine { status: Some(409), .. }) => Ok(()),
            removed => removed,
        }
    }

    /// The engine itself, for a test to look at what was made.
    #[cfg(test)]
    pub(super) fn client(&self) -> &bollard::Docker {
        &self.client
    }

    pub(super) fn ours(&self) -> std::collections::HashMap<String, Vec<String>> {
        [("label".to_owned(), vec![labels::filter(&self.state)])].into()
    }
}

/// Asks the engine whether it is there, and speaks what we do.
async fn greet(client: &bollard::Docker, limit: Duration) -> Result<(), RuntimeError> {
    let spoken = call("answer", limit, client.version()).await?.api_version.unwrap_or_default();
    let version = spoken.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    match version {
        Some(version) if version >= OLDEST => Ok(()),
        _ => Err(RuntimeError::EngineOld { spoken }),
    }
}

/// One call to the engine within a limit that covers its whole answer.
async fn call<T>(
    step: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, RuntimeError> {
    match timeout(limit, work).await {
        Ok(answer) => answer.map_err(|error| fault(step, error)),
        Err(_) => Err(RuntimeError::EngineSlow { step, limit }),
    }
}

fn fault(step: &'static str, error: EngineError) -> RuntimeError {
    match error {
        EngineError::DockerResponseServerError { status_code, message } => {
            RuntimeError::Engine { step, status: Some(status_code), why: message }
        }
        EngineError::DockerStreamError { error } => RuntimeError::Engine { step, status: None, why: error },
        other => RuntimeError::Engine { step, status: None, why: with_causes(&other) },
    }
}

/// What is not there needs no removing.
fn gone(removed: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match removed {
        Err(RuntimeError::Engine { status: Some(404), .. }) => Ok(()),
        other => other,
    }
}

fn image(release: &Release) -> Result<&str, RuntimeError> {
    match &release.artifact {
        Artifact::Image(id) => Ok(id),
        Artifact::Directory(_) => Err(other_runtime(&format!("release {} of {}", release.name(), release.site))),
    }
}

fn other_runtime(what: &str) -> RuntimeError {
    RuntimeError::OtherRuntime { what: what.to_owned(), runtime: "docker" }
}

fn state_label(state: &Path) -> String {
    short_hash(state.as_os_str().as_encoded_bytes())
}

/// The first eight hexadecimal digits of the SHA-256.
fn short_hash(bytes: &[u8]) -> String {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

const SOCKET: &str = "/var/run/docker.sock";
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The client's own, until a response's head. What takes its time by nature brings another.
const HEADERS_LIMIT: Duration = Duration::from_secs(60);
const LIST_LIMIT: Duration = Duration::from_secs(10);
const CREATE_LIMIT: Duration = Duration::from_secs(30);
const REMOVE_LIMIT: Duration = Duration::from_secs(30);
/// An engine that is busy may miss a question or two.
const ATTEND_EVERY: Duration = Duration::from_secs(2);
const MISSES_MAX: u32 = 3;
/// As `EngineOld` says it. Docker 20.10 is the oldest that this is tried with.
const OLDEST: (u32, u32) = (1, 41);
