//! The world of a story: throw-away repositories, a Travis key, and a real Prime on free ports.
//!
//! Nothing sleeps: `eventually` asks again until its deadline, and when that is over it shows Prime's logs.

use std::cell::RefCell;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ::http::{Request, StatusCode};
use bytes::Bytes;
use http_body_util::Full;
use open_prime::cli::travis;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::http::{self, Answer, Url};

pub const PATIENCE: Duration = Duration::from_secs(30);
pub const LOOK_AGAIN: Duration = Duration::from_millis(10);

pub struct World {
    dir: tempfile::TempDir,
    pub travis: travis::TravisKey,
    pub runtime: Runtime,
}

impl World {
    pub fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        // Short, because Unix sockets lie below it.
        let dir = tempfile::Builder::new().prefix("o").rand_bytes(5).tempdir_in("/tmp").unwrap();
        let travis = travis::TravisKey::generate().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { dir, travis, runtime }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The program that Prime is started from: the one that was built, or the one that lies in this world.
    pub fn binary(&self) -> PathBuf {
        let own = self.path().join("opri");
        if own.exists() { own } else { PathBuf::from(env!("CARGO_BIN_EXE_opri")) }
    }

    /// Puts a program of its own into this world, or another in place of that one: a copy of what was built.
    pub fn install(&self) {
        let aside = self.path().join("opri.new");
        fs::copy(env!("CARGO_BIN_EXE_opri"), &aside).unwrap();
        fs::rename(aside, self.path().join("opri")).unwrap();
    }

    /// As `install`, with a shell script.
    pub fn install_script(&self, lines: &str) {
        use std::os::unix::fs::PermissionsExt;
        let aside = self.path().join("opri.new");
        fs::write(&aside, format!("#!/bin/sh\n{lines}\n")).unwrap();
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(aside, self.path().join("opri")).unwrap();
    }

    /// A repository `acme/<name>` with the story app on its master branch.
    pub fn repo(&self, name: &str) -> Repo {
        let repo = self.empty_repo(name);
        repo.write("Procfile", &format!("web: exec '{}'\n", story_app().display()));
        repo
    }

    /// A repository with nothing in it.
    pub fn empty_repo(&self, name: &str) -> Repo {
        let path = self.path().join("acme").join(name);
        fs::create_dir_all(&path).unwrap();
        let repo = Repo { name: name.to_owned(), path };
        repo.git(&["init", "--quiet", "--initial-branch", "master"]);
        repo
    }

    /// A Prime of this world, not started yet, on free ports of the loopback.
    pub fn prime(&self) -> Conf<'_> {
        let http = "127.0.0.1:0".to_owned();
        let [above, listen, machine] = Default::default();
        let conf = Conf { world: self, http, above, listen, machine, environment: Vec::new() };
        fs::create_dir_all(self.path().join("conf/projects")).unwrap();
        fs::write(self.path().join("conf/travis.pem"), self.travis.public_pem()).unwrap();
        conf
    }
}

pub struct Repo {
    pub name: String,
    pub path: PathBuf,
}

impl Repo {
    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.path.join(file), text).unwrap();
    }

    /// Commits a page that says `text` on the current branch; tells the commit.
    pub fn commit(&self, text: &str) -> String {
        self.write("page.txt", text);
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "A change"]);
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    pub fn on(&self, branch: &str) -> &Self {
        self.git(&["checkout", "--quiet", "-B", branch]);
        self
    }

    pub fn slug(&self) -> String {
        format!("acme/{}", self.name)
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=Story", "-c", "user.email=story@localhost", "-c", "commit.gpgSign=false"])
            .args(arguments)
            .current_dir(&self.path)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// The conf of a Prime that is about to start.
pub struct Conf<'w> {
    world: &'w World,
    http: String,
    above: String,
    listen: String,
    machine: String,
    environment: Vec<(String, String)>,
}

impl<'w> Conf<'w> {
    /// Hosts a repository at `<name>.test`, with these further lines in its file.
    pub fn hosting(self, repo: &Repo, lines: &str) -> Self {
        self.project(&repo.name, &format!("repo = \"acme/{}\"\n{lines}", repo.name))
    }

    pub fn project(self, name: &str, text: &str) -> Self {
        fs::write(self.world.path().join(format!("conf/projects/{name}.toml")), text).unwrap();
        self
    }

    /// Further lines of `prime.toml`, tables.
    pub fn with(mut self, lines: &str) -> Self {
        self.machine.push_str(lines);
        self
    }

    /// Further keys of `prime.toml` that stand in no table.
    pub fn above(mut self, lines: &str) -> Self {
        self.above.push_str(lines);
        self
    }

    pub fn http(mut self, address: &str) -> Self {
        self.http = address.to_owned();
        self
    }

    /// Further lines of `[listen]`.
    pub fn listening(mut self, lines: &str) -> Self {
        self.listen.push_str(lines);
        self
    }

    /// A variable that `opri serve` is started with.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn write(&self, runtime: &str) {
        let text = format!(
            "domain = \"test\"\nruntime = \"{runtime}\"\n{}\n[listen]\nhttp = \"{}\"\nhttps = \"127.0.0.1:0\"\n\
             metrics = \"127.0.0.1:0\"\n{}\n[hooks]\ntravis = {{ public_key = \"conf/travis.pem\" }}\n{}",
            self.above, self.http, self.listen, self.machine
        );
        fs::write(self.world.path().join("conf/prime.toml"), text).unwrap();
    }

    pub fn start(self) -> Prime<'w> {
        self.start_with("process")
    }

    pub fn start_with(self, runtime: &str) -> Prime<'w> {
        self.write(runtime);
        let prime = Prime {
            world: self.world,
            environment: self.environment,
            control: RefCell::new(None),
            status: RefCell::new(Value::Null),
            number: RefCell::new(0),
        };
        prime.start();
        prime
    }
}

/// A running Prime.
pub struct Prime<'w> {
    pub world: &'w World,
    environment: Vec<(String, String)>,
    control: RefCell<Option<Child>>,
    status: RefCell<Value>,
    number: RefCell<u64>,
}

impl Prime<'_> {
    /// Starts `opri serve`, and waits until it answers.
    pub fn start(&self) {
        self.begin_control();
        self.is_up();
    }

    /// Starts `opri serve`, which may end before it answers.
    pub fn begin_control(&self) {
        self.spawn(Command::new(self.world.binary()), Stdio::null());
    }

    /// As `start`, by a program that becomes `opri` with these arguments, and with something for its standard input.
    pub fn start_by(&self, program: Command, input: Stdio) {
        self.spawn(program, input);
        self.is_up();
    }

    fn spawn(&self, mut program: Command, input: Stdio) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let child = program
            .args(["serve", "--conf"])
            .arg(self.world.path().join("conf"))
            .current_dir(self.world.path())
            .envs(self.environment.iter().cloned())
            .stdin(input)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.control.borrow_mut() = Some(child);
    }

    /// Waits until control answers.
    fn is_up(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.opri(&["status", "--json"]);
            if output.status.success() {
                *self.status.borrow_mut() = serde_json::from_slice(&output.stdout).unwrap();
                return;
            }
            let ended = self.control.borrow_mut().as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "`opri serve` does not come up:\n{}", self.logs());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Ends control as a crash would.
    pub fn kill_control(&self) {
        let mut control = self.control.borrow_mut().take().unwrap();
        control.kill().unwrap();
        control.wait().unwrap();
    }

    /// Waits until control has ended by itself.
    pub fn control_ends(&self) {
        let mut control = self.control.borrow_mut().take().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while control.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "control does not end:\n{}", self.logs());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    pub fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill")
                .args([&format!("-{signal}"), &self.control_pid().to_string()])
                .status()
                .unwrap()
                .success()
        );
    }

    pub fn control_pid(&self) -> u32 {
        self.control.borrow().as_ref().unwrap().id()
    }

    pub fn status(&self) -> Value {
        let output = self.opri(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// The edges of this Prime that run: the one that serves, and those that finish.
    pub fn edge_pids(&self) -> Vec<u32> {
        let state = format!("edge\0--state\0{}", self.world.path().join("state").display());
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_edge = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&state)
        };
        pids.filter(is_edge).collect()
    }

    pub fn edge_pid(&self) -> u64 {
        self.status.borrow()["edge"]["pid"].as_u64().unwrap()
    }

    pub fn address(&self, kind: &str) -> SocketAddr {
        let listeners = &self.status.borrow()["listeners"];
        let address = if kind == "metrics" { &listeners[kind] } else { &listeners[kind][0] };
        address.as_str().unwrap_or_else(|| panic!("no {kind} address in {listeners}")).parse().unwrap()
    }

    /// The root of Prime's own CA.
    pub fn root(&self) -> String {
        fs::read_to_string(self.world.path().join("certs/ca/root.pem")).unwrap()
    }

    /// The command line, for this Prime.
    pub fn opri(&self, arguments: &[&str]) -> Output {
        let conf = self.world.path().join("conf");
        opri().args(arguments).arg("--conf").arg(conf).current_dir(self.world.path()).output().unwrap()
    }

    /// A verb that goes on beside the story.
    pub fn begin_opri(&self, arguments: &[&str]) -> Child {
        let conf = self.world.path().join("conf");
        let mut verb = opri();
        verb.args(arguments).arg("--conf").arg(conf).current_dir(self.world.path());
        verb.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// A verb that must do its work; tells what it printed.
    pub fn does(&self, arguments: &[&str]) -> String {
        let output = self.opri(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "opri {arguments:?}: {out}{err}\n{}", self.logs());
        out.into_owned()
    }

    pub fn get(&self, url: &str) -> Answer {
        self.ask(Request::get(url).body(Full::default()).unwrap())
    }

    pub fn ask(&self, request: Request<Full<Bytes>>) -> Answer {
        self.try_ask(request).unwrap_or_else(|error| panic!("{error}\n{}", self.logs()))
    }

    /// One request over a connection of its own; the URL's host is what is asked for, whatever it resolves to.
    pub fn try_ask(&self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let url = request.uri().to_string();
        let url = Url::new(&url);
        let request = self.addressed(request, &url);
        self.world.runtime.block_on(async {
            let asking = async {
                let mut sender = if url.is_secure {
                    http::http1(http::tls(self.address("https"), url.host, &self.root(), "http/1.1").await?).await?
                } else {
                    http::http1(http::tcp(self.address("http")).await?).await?
                };
                http::send(&mut sender, request).await
            };
            tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| Err("no answer".to_owned()))
        })
    }

    /// Begins a request and goes on; the answer is waited for later.
    pub fn begin(&self, host: &str, path: &str) -> JoinHandle<Result<Answer, String>> {
        self.begin_with(Request::get(format!("http://{host}{path}")).body(Full::default()).unwrap())
    }

    /// As `begin`, with any request.
    pub fn begin_with(&self, request: Request<Full<Bytes>>) -> JoinHandle<Result<Answer, String>> {
        let (address, url) = (self.address("http"), request.uri().to_string());
        let request = self.addressed(request, &Url::new(&url));
        self.world.runtime.spawn(async move {
            let mut sender = http::http1(http::tcp(address).await?).await?;
            http::send(&mut sender, request).await
        })
    }

    /// The answer to what was begun.
    pub fn answer(&self, begun: JoinHandle<Result<Answer, String>>) -> Answer {
        let answer = self.world.runtime.block_on(async { tokio::time::timeout(PATIENCE, begun).await });
        answer.expect("an answer in time").unwrap().unwrap_or_else(|error| panic!("{error}\n{}", self.logs()))
    }

    /// With the target as an HTTP/1 client sends it.
    pub fn addressed(&self, mut request: Request<Full<Bytes>>, url: &Url<'_>) -> Request<Full<Bytes>> {
        if !request.headers().contains_key("host") {
            request.headers_mut().insert("host", url.host.parse().unwrap());
        }
        *request.uri_mut() = url.path.parse().unwrap();
        request
    }

    /// A Travis delivery for the head of a branch, signed with this world's key.
    pub fn push(&self, repo: &Repo, branch: &str) -> Answer {
        let commit = repo.git(&["rev-parse", branch]);
        self.hook(&self.payload(repo, branch, commit.trim()))
    }

    /// The payload of the next build.
    pub fn payload(&self, repo: &Repo, branch: &str, commit: &str) -> Value {
        let number = {
            let mut number = self.number.borrow_mut();
            *number += 1;
            *number
        };
        serde_json::from_str(&travis::passed(&repo.slug(), branch, commit, number, &today())).unwrap()
    }

    pub fn hook(&self, payload: &Value) -> Answer {
        let payload = payload.to_string();
        self.deliver(&payload, &self.world.travis.sign(&payload))
    }

    pub fn deliver(&self, payload: &str, signature: &str) -> Answer {
        self.try_deliver(payload, signature).unwrap_or_else(|error| panic!("{error}\n{}", self.logs()))
    }

    pub fn try_deliver(&self, payload: &str, signature: &str) -> Result<Answer, String> {
        let request = Request::post("http://opri.test/events")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("signature", signature)
            .body(Full::new(travis::body(payload).into()));
        self.try_ask(request.unwrap())
    }

    /// A push that must be accepted, and served in the end; tells the deployment's id.
    pub fn deploys(&self, repo: &Repo, branch: &str) -> String {
        let answer = self.push(repo, branch);
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}\n{}", answer.body, self.logs());
        let id = deployment(&answer);
        self.until_ended(&id, "live");
        id
    }

    /// Waits for a deployment's outcome, which must be this one; tells its reason.
    pub fn until_ended(&self, id: &str, outcome: &str) -> String {
        self.until_ended_within(PATIENCE, id, outcome)
    }

    pub fn until_ended_within(&self, patience: Duration, id: &str, outcome: &str) -> String {
        let mut last = String::new();
        self.until_within(patience, &format!("{id} is {outcome}"), || {
            last = self.last_word_of(id);
            let serves = outcome == "live" && last.contains("\"stage\":\"draining\"");
            serves || last.contains(&format!("\"outcome\":{{\"{outcome}\""))
        });
        last
    }

    /// The last line that the admin API says of a deployment.
    pub fn last_word_of(&self, id: &str) -> String {
        let path = format!("/v1/follow?deployment={}", id.replace('/', "%2F").replace('#', "%23"));
        let socket = self.world.path().join("state/run/admin.sock");
        let answer = self.world.runtime.block_on(async {
            let stream = tokio::net::UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
            let mut sender = http::http1(stream).await?;
            let request = Request::get(path).header("host", "opri").body(Full::default()).unwrap();
            tokio::time::timeout(PATIENCE, http::send(&mut sender, request)).await.map_err(|error| error.to_string())?
        });
        answer.map(|answer| answer.body.lines().last().unwrap_or_default().to_owned()).unwrap_or_default()
    }

    /// Asks until the answer is as it should be.
    pub fn eventually(&self, url: &str, is_right: impl Fn(&Answer) -> bool) -> Answer {
        let mut right = None;
        self.until(url, || {
            let request = Request::get(url).body(Full::default()).unwrap();
            right = self.try_ask(request).ok().filter(|answer| is_right(answer));
            right.is_some()
        });
        right.unwrap()
    }

    pub fn says(&self, url: &str, text: &str) -> Answer {
        self.eventually(url, |answer| answer.status == StatusCode::OK && answer.body == text)
    }

    /// Looks again until it holds.
    pub fn until(&self, what: &str, holds: impl FnMut() -> bool) {
        self.until_within(PATIENCE, what, holds);
    }

    pub fn until_within(&self, patience: Duration, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + patience;
        while !holds() {
            assert!(Instant::now() < deadline, "never: {what}\n{}", self.logs());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// What Prometheus would be told.
    pub fn metrics(&self) -> String {
        let address = self.address("metrics");
        let answer = self.world.runtime.block_on(async {
            let mut sender = http::http1(http::tcp(address).await?).await?;
            let request = Request::get("/metrics").header("host", "metrics").body(Full::default()).unwrap();
            http::send(&mut sender, request).await
        });
        answer.unwrap_or_else(|error| panic!("{error}\n{}", self.logs())).body
    }

    /// The sum of a metric's series.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.metrics();
        let series = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub fn conf_file(&self, name: &str) -> PathBuf {
        self.world.path().join("conf").join(name)
    }

    /// Apps of this Prime that run, as the process runtime recorded them.
    pub fn app_pids(&self) -> Vec<i32> {
        let records = fs::read_dir(self.world.path().join("state/run/a")).into_iter().flatten().flatten();
        let records = records.filter(|entry| entry.path().extension().is_some_and(|e| e == "json"));
        let pid = |entry: fs::DirEntry| {
            let record: Value = serde_json::from_slice(&fs::read(entry.path()).ok()?).ok()?;
            find_pid(&record)
        };
        records.filter_map(pid).filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect()
    }

    fn log(&self) -> PathBuf {
        self.world.path().join("serve.log")
    }

    pub fn logs(&self) -> String {
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        let edge = read(self.world.path().join("state/logs/edge.log"));
        format!("--- serve ---\n{}\n--- edge ---\n{edge}", read(self.log()))
    }
}

impl Drop for Prime<'_> {
    /// Leaves nothing running: control ends edge and apps, and where it was killed they are ended one by one.
    fn drop(&mut self) {
        if self.control.borrow().is_some() {
            self.signal("TERM");
            let mut control = self.control.borrow_mut().take().unwrap();
            let deadline = Instant::now() + PATIENCE;
            while control.try_wait().unwrap().is_none() && Instant::now() < deadline {
                std::thread::sleep(LOOK_AGAIN);
            }
            let _ = control.kill();
            let _ = control.wait();
        }
        let edge = self.status.borrow()["edge"]["pid"].as_i64();
        let is_ours = |pid: &i64| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains(&self.world.path().display().to_string())
        };
        for pid in edge.filter(is_ours).into_iter().chain(self.edge_pids().into_iter().map(i64::from)) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        for pid in self.app_pids() {
            let _ = Command::new("kill").args(["-9", "--", &format!("-{pid}")]).stderr(Stdio::null()).status();
        }
    }
}

/// The day's first second, as builds say when they finished.
pub fn today() -> String {
    format!("{}T00:00:00Z", time::OffsetDateTime::now_utc().date())
}

/// The deployment that an answer names.
pub fn deployment(answer: &Answer) -> String {
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("not JSON: {}", answer.body));
    body["deployment"].as_str().unwrap_or_else(|| panic!("no deployment in {}", answer.body)).to_owned()
}

/// Why an answer says that nothing follows.
pub fn ignored(answer: &Answer) -> String {
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("not JSON: {}", answer.body));
    body["ignored"].as_str().unwrap_or_else(|| panic!("not ignored: {}", answer.body)).to_owned()
}

pub fn opri() -> Command {
    Command::new(env!("CARGO_BIN_EXE_opri"))
}

fn find_pid(value: &Value) -> Option<i32> {
    match value {
        Value::Object(map) => match map.get("pid").and_then(Value::as_i64) {
            Some(pid) => i32::try_from(pid).ok(),
            None => map.values().find_map(find_pid),
        },
        _ => None,
    }
}

pub fn story_app() -> PathBuf {
    let opri = PathBuf::from(env!("CARGO_BIN_EXE_opri"));
    let app = opri.parent().unwrap().join("examples/story-app");
    assert!(app.exists(), "{} is missing: `cargo test` builds it", app.display());
    app
}
