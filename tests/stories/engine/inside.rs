//! What the played engine holds: images, containers and networks, and what each call does to them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::http::{Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::{mpsc, watch};

/// An answer.
pub enum Said {
    Nothing(StatusCode),
    Json(StatusCode, Value),
    Fault(StatusCode, String),
    /// Parts as they come.
    Stream(mpsc::Receiver<Bytes>),
}

#[derive(Debug)]
pub struct Inside {
    dir: PathBuf,
    numbers: AtomicU64,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    images: BTreeMap<String, Image>,
    containers: BTreeMap<String, Container>,
    /// By name, with their labels.
    networks: BTreeMap<String, Value>,
}

#[derive(Debug, Clone)]
struct Image {
    dir: PathBuf,
    labels: Value,
    tag: String,
    command: Vec<String>,
}

#[derive(Debug, Clone)]
struct Container {
    name: String,
    image: String,
    labels: Value,
    command: Vec<String>,
    env: Vec<(String, String)>,
    network: String,
    log: PathBuf,
    process: Option<Pid>,
    /// `Some` once it has ended.
    exit: watch::Sender<Option<i32>>,
}

impl Container {
    fn state(&self) -> &'static str {
        match (self.process, *self.exit.borrow()) {
            (None, _) => "created",
            (Some(_), None) => "running",
            (Some(_), Some(_)) => "exited",
        }
    }

    fn signal(&self, signal: Signal) {
        if let (Some(process), "running") = (self.process, self.state()) {
            let _ = kill_process_group(process, signal);
        }
    }
}

impl Inside {
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), numbers: AtomicU64::new(1), held: Mutex::default() }
    }

    pub fn containers(&self) -> Vec<String> {
        self.held.lock().unwrap().containers.values().map(|container| container.name.clone()).collect()
    }

    pub fn pids(&self) -> Vec<i32> {
        let held = self.held.lock().unwrap();
        let running = held.containers.values().filter(|container| container.state() == "running");
        running.filter_map(|container| Some(container.process?.as_raw_nonzero().get())).collect()
    }

    pub fn images(&self) -> usize {
        self.held.lock().unwrap().images.len()
    }

    /// Leaves no process.
    pub fn end(&self) {
        self.held.lock().unwrap().containers.values().for_each(|container| container.signal(Signal::KILL));
    }

    pub async fn answer(self: std::sync::Arc<Self>, request: Request<Incoming>) -> Said {
        let (head, body) = request.into_parts();
        let path = head.uri.path().replace("%3A", ":");
        let query: BTreeMap<String, String> =
            form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let Ok(body) = body.collect().await else { return Said::Nothing(StatusCode::BAD_REQUEST) };
        let body = body.to_bytes();
        let json = || serde_json::from_slice::<Value>(&body).unwrap_or_default();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (&head.method, parts.as_slice()) {
            (_, ["_ping"]) => Said::Json(StatusCode::OK, json!("OK")),
            (&Method::GET, ["version"]) => {
                Said::Json(StatusCode::OK, json!({ "ApiVersion": "1.41", "Version": "20.10.24" }))
            }
            (&Method::POST, ["build"]) => self.build(query, body),
            (&Method::GET, ["images", "json"]) => self.list_images(&query),
            (&Method::DELETE, ["images", id]) => self.remove_image(id),
            (&Method::GET, ["networks"]) => self.list_networks(),
            (&Method::POST, ["networks", "create"]) => self.create_network(&json()),
            (&Method::GET, ["networks", name]) => self.network(name),
            (&Method::DELETE, ["networks", name]) => self.remove_network(name),
            (&Method::GET, ["containers", "json"]) => self.list_containers(&query),
            (&Method::POST, ["containers", "create"]) => self.create(&query, &json()),
            (&Method::POST, ["containers", id, "start"]) => self.start(id),
            (&Method::GET, ["containers", id, "json"]) => self.inspect(id),
            (&Method::GET, ["containers", id, "logs"]) => {
                self.logs(id, query.get("follow").is_some_and(|f| f == "true"))
            }
            (&Method::POST, ["containers", id, "wait"]) => self.wait(id),
            (&Method::POST, ["containers", id, "stop"]) => self.stop(id, &query).await,
            (&Method::DELETE, ["containers", id]) => self.remove(id).await,
            _ => Said::Fault(StatusCode::NOT_FOUND, format!("the played engine knows no {} {path}", head.method)),
        }
    }

    /// Ends with the connection of whoever asked for it, as the engine's own does.
    fn build(self: std::sync::Arc<Self>, query: BTreeMap<String, String>, context: Bytes) -> Said {
        let (parts, said) = mpsc::channel(16);
        tokio::spawn(async move {
            let work = self.build_image(&query, &context, &parts);
            let last = tokio::select! {
                built = work => match built {
                    Ok(id) => json!({ "aux": { "ID": id } }),
                    Err(error) => json!({ "errorDetail": { "message": error }, "error": error }),
                },
                () = parts.closed() => return,
            };
            let _ = parts.send(line(&last)).await;
        });
        Said::Stream(said)
    }

    async fn build_image(
        &self,
        query: &BTreeMap<String, String>,
        context: &[u8],
        parts: &mpsc::Sender<Bytes>,
    ) -> Result<String, String> {
        let number = self.number();
        let dir = self.dir.join(format!("image-{number}"));
        tar::Archive::new(context).unpack(&dir).map_err(|error| error.to_string())?;
        let name = query.get("dockerfile").map_or("Dockerfile", String::as_str);
        let file = fs::read_to_string(dir.join(name));
        let file = file.map_err(|_| format!("Cannot locate specified Dockerfile: {name}"))?;
        let mut command = Vec::new();
        for step in file.lines() {
            let _ = parts.send(line(&json!({ "stream": format!("Step : {step}\n") }))).await;
            if let Some(run) = step.strip_prefix("RUN ") {
                run_step(&dir, run, parts).await?;
            } else if let Some(words) = step.strip_prefix("CMD ") {
                command = serde_json::from_str(words).map_err(|error| error.to_string())?;
            }
        }
        let id = format!("sha256:{number:064x}");
        let labels = query.get("labels").and_then(|labels| serde_json::from_str(labels).ok()).unwrap_or_default();
        let image = Image { dir, labels, tag: query.get("t").cloned().unwrap_or_default(), command };
        self.held.lock().unwrap().images.insert(id.clone(), image);
        Ok(id)
    }

    fn list_images(&self, query: &BTreeMap<String, String>) -> Said {
        let held = self.held.lock().unwrap();
        let images = held.images.iter().filter(|(_, image)| is_asked_for(query, &image.labels)).map(|(id, image)| {
            json!({ "Id": id, "ParentId": "", "RepoTags": [image.tag], "RepoDigests": [], "Created": 0, "Size": 0,
                    "SharedSize": 0, "Containers": -1, "Labels": image.labels })
        });
        Said::Json(StatusCode::OK, images.collect())
    }

    fn remove_image(&self, id: &str) -> Said {
        let mut held = self.held.lock().unwrap();
        if held.containers.values().any(|container| container.image == id) {
            return Said::Fault(StatusCode::CONFLICT, "image is being used by a container".to_owned());
        }
        match held.images.remove(id) {
            Some(image) => {
                let _ = fs::remove_dir_all(image.dir);
                Said::Json(StatusCode::OK, json!([]))
            }
            None => missing("image"),
        }
    }

    fn list_networks(&self) -> Said {
        let held = self.held.lock().unwrap();
        let networks = held.networks.iter().map(|(name, labels)| json!({ "Id": name, "Name": name, "Labels": labels }));
        Said::Json(StatusCode::OK, networks.collect())
    }

    fn create_network(&self, wish: &Value) -> Said {
        let name = wish["Name"].as_str().unwrap_or_default().to_owned();
        self.held.lock().unwrap().networks.insert(name.clone(), wish["Labels"].clone());
        Said::Json(StatusCode::CREATED, json!({ "Id": name, "Warning": "" }))
    }

    fn network(&self, name: &str) -> Said {
        match self.held.lock().unwrap().networks.get(name) {
            Some(labels) => Said::Json(StatusCode::OK, json!({ "Id": name, "Name": name, "Labels": labels })),
            None => missing("network"),
        }
    }

    fn remove_network(&self, name: &str) -> Said {
        let mut held = self.held.lock().unwrap();
        if held.containers.values().any(|container| container.network == name) {
            return Said::Fault(StatusCode::FORBIDDEN, "network has active endpoints".to_owned());
        }
        held.networks.remove(name).map_or_else(|| missing("network"), |_| Said::Nothing(StatusCode::NO_CONTENT))
    }

    fn list_containers(&self, query: &BTreeMap<String, String>) -> Said {
        let has_all = query.get("all").is_some_and(|all| all == "true");
        let held = self.held.lock().unwrap();
        let asked = held.containers.iter().filter(|(_, container)| {
            (has_all || container.state() == "running") && is_asked_for(query, &container.labels)
        });
        let containers = asked.map(|(id, container)| {
            json!({ "Id": id, "Names": [format!("/{}", container.name)], "State": container.state(),
                    "Labels": container.labels })
        });
        Said::Json(StatusCode::OK, containers.collect())
    }

    fn create(&self, query: &BTreeMap<String, String>, wish: &Value) -> Said {
        let mut held = self.held.lock().unwrap();
        let image = wish["Image"].as_str().unwrap_or_default().to_owned();
        let Some(own) = held.images.get(&image) else { return missing("image") };
        let mounts = wish["HostConfig"]["Mounts"].as_array().cloned().unwrap_or_default();
        let mounts: Vec<(&str, &str)> =
            mounts.iter().filter_map(|mount| Some((mount["Target"].as_str()?, mount["Source"].as_str()?))).collect();
        if mounts.iter().any(|(_, source)| !Path::new(source).exists()) {
            return Said::Fault(StatusCode::BAD_REQUEST, "bind source path does not exist".to_owned());
        }
        // No file system of its own, so what lies in a mount is named as it is outside.
        let outside =
            |value: &str| mounts.iter().fold(value.to_owned(), |value, (inner, outer)| value.replace(inner, outer));
        let env = words(&wish["Env"]).into_iter().filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((name.to_owned(), outside(value)))
        });
        let command = match words(&wish["Entrypoint"]) {
            entry if entry.is_empty() => own.command.clone(),
            entry => entry.into_iter().chain(words(&wish["Cmd"])).collect(),
        };
        let id = format!("{:064x}", self.number());
        let container = Container {
            name: query.get("name").cloned().unwrap_or_default(),
            image,
            labels: wish["Labels"].clone(),
            command,
            env: env.collect(),
            network: wish["HostConfig"]["NetworkMode"].as_str().unwrap_or_default().to_owned(),
            log: self.dir.join(format!("{id}.log")),
            process: None,
            exit: watch::Sender::new(None),
        };
        held.containers.insert(id.clone(), container);
        Said::Json(StatusCode::CREATED, json!({ "Id": id, "Warnings": [] }))
    }

    fn start(&self, id: &str) -> Said {
        let mut held = self.held.lock().unwrap();
        let Held { images, containers, .. } = &mut *held;
        let Some(container) = containers.get_mut(id) else { return missing("container") };
        let Some(image) = images.get(&container.image) else { return missing("image") };
        let Some((program, arguments)) = container.command.split_first() else {
            return Said::Fault(StatusCode::BAD_REQUEST, "No command specified".to_owned());
        };
        let log = fs::File::create(&container.log).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&image.dir).env_clear().env("PATH", "/usr/bin:/bin");
        command.envs(container.env.iter().map(|(name, value)| (name, value))).process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Said::Fault(StatusCode::BAD_REQUEST, error.to_string()),
        };
        container.process = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let exit = container.exit.clone();
        tokio::spawn(async move {
            let code = child.wait().await.ok().and_then(|status| status.code());
            exit.send_replace(Some(code.unwrap_or(137)));
        });
        Said::Nothing(StatusCode::NO_CONTENT)
    }

    fn inspect(&self, id: &str) -> Said {
        let held = self.held.lock().unwrap();
        let Some(container) = held.containers.get(id) else { return missing("container") };
        let state = json!({ "Running": container.state() == "running", "Status": container.state() });
        Said::Json(
            StatusCode::OK,
            json!({ "Id": id, "Name": format!("/{}", container.name), "State": state,
                    "Config": { "Labels": container.labels }, "NetworkSettings": { "Networks": {} } }),
        )
    }

    fn logs(&self, id: &str, is_followed: bool) -> Said {
        let Some(container) = self.held.lock().unwrap().containers.get(id).cloned() else {
            return missing("container");
        };
        let (parts, said) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut told = 0;
            loop {
                // Looked at before the file, which may grow in between.
                let goes_on = is_followed && container.state() == "running";
                let text = fs::read(&container.log).unwrap_or_default();
                // A frame: the stream's number, and the length of what follows.
                let length = u32::try_from(text.len() - told).unwrap();
                let frame = [&[1, 0, 0, 0], &length.to_be_bytes()[..], &text[told..]].concat();
                if (length > 0 && parts.send(frame.into()).await.is_err()) || !goes_on {
                    return;
                }
                told = text.len();
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                    () = parts.closed() => return,
                }
            }
        });
        Said::Stream(said)
    }

    fn wait(&self, id: &str) -> Said {
        let held = self.held.lock().unwrap();
        let Some(container) = held.containers.get(id) else { return missing("container") };
        let mut exit = container.exit.subscribe();
        let (parts, said) = mpsc::channel(1);
        tokio::spawn(async move {
            let code = tokio::select! {
                code = exit.wait_for(Option::is_some) => code.ok().and_then(|code| *code),
                () = parts.closed() => return,
            };
            let _ = parts.send(line(&json!({ "StatusCode": code }))).await;
        });
        Said::Stream(said)
    }

    async fn stop(&self, id: &str, query: &BTreeMap<String, String>) -> Said {
        let Some(container) = self.held.lock().unwrap().containers.get(id).cloned() else {
            return missing("container");
        };
        if container.state() != "running" {
            return Said::Nothing(StatusCode::NOT_MODIFIED);
        }
        container.signal(Signal::TERM);
        let grace = query.get("t").and_then(|seconds| seconds.parse().ok()).unwrap_or(10);
        let mut exit = container.exit.subscribe();
        let _ = tokio::time::timeout(Duration::from_secs(grace), exit.wait_for(Option::is_some)).await;
        container.signal(Signal::KILL);
        let _ = exit.wait_for(Option::is_some).await;
        Said::Nothing(StatusCode::NO_CONTENT)
    }

    async fn remove(&self, id: &str) -> Said {
        let found = {
            let held = self.held.lock().unwrap();
            // By its name, too.
            let found = held.containers.iter().find(|(own, container)| *own == id || container.name == id);
            found.map(|(id, container)| (id.clone(), container.clone()))
        };
        let Some((id, container)) = found else { return missing("container") };
        container.signal(Signal::KILL);
        if container.state() == "running" {
            let _ = container.exit.subscribe().wait_for(Option::is_some).await;
        }
        self.held.lock().unwrap().containers.remove(&id);
        let _ = fs::remove_file(container.log);
        Said::Nothing(StatusCode::NO_CONTENT)
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

/// A line of a Dockerfile, whose output is told as it comes.
async fn run_step(dir: &Path, run: &str, parts: &mpsc::Sender<Bytes>) -> Result<(), String> {
    let mut command = Command::new("sh");
    command.args(["-c", run]).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Ok(Some(text)) = lines.next_line().await {
        let _ = parts.send(line(&json!({ "stream": format!("{text}\n") }))).await;
    }
    match child.wait().await.ok().and_then(|status| status.code()) {
        Some(0) => Ok(()),
        code => Err(format!("The command '/bin/sh -c {run}' returned a non-zero code: {}", code.unwrap_or(137))),
    }
}

fn line(value: &Value) -> Bytes {
    format!("{value}\r\n").into()
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|word| Some(word.as_str()?.to_owned())).collect()
}

/// Whether labels hold what the call's filter wants of them.
fn is_asked_for(query: &BTreeMap<String, String>, labels: &Value) -> bool {
    let filters: Value = query.get("filters").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    words(&filters["label"]).iter().all(|wanted| match wanted.split_once('=') {
        Some((name, value)) => labels[name] == value,
        None => !labels[wanted].is_null(),
    })
}

fn missing(what: &str) -> Said {
    Said::Fault(StatusCode::NOT_FOUND, format!("No such {what}"))
}
