//! The process that reads what strangers send is a user of its own, and that user can do nothing with this machine.
//!
//! Debian's `nobody` stands for the user of its own. Only root can become another user, so without root these are skipped.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use ::http::StatusCode;
use serde_json::Value;

use crate::certificates::issue;
use crate::docker;
use crate::http;
use crate::visitors::Visitors;
use crate::world::{LOOK_AGAIN, PATIENCE, Prime, World, opri};

const USER: &str = "\n[edge]\nuser = \"nobody\"\n";

#[test]
fn an_edge_with_a_user_of_its_own_serves_all_the_same_and_can_do_nothing_else() {
    let Some((world, nobody)) = world() else { return };
    let shop = world.repo("shop");
    shop.commit("page 1");
    let prime = world.prime().with(USER).hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    prime.says("http://shop.test", "page 1");
    prime.says("https://shop.test", "page 1");
    shop.commit("page 2");
    prime.deploys(&shop, "master");
    prime.says("https://shop.test", "page 2");
    prime.until("the access log is written", || prime.does(&["logs", "--access", "shop"]).contains("shop.test"));
    assert!(prime.metrics().contains("opri_deployments_total"), "control's metrics are shown too");
    nobody.is(prime.edge_pid());
}

#[test]
fn its_descriptors_and_environment_are_its_own() {
    let Some((world, _)) = world() else { return };
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().with(USER).hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    let edge = format!("/proc/{}", prime.edge_pid());
    let targets = fs::read_dir(format!("{edge}/fd")).unwrap().flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
    let state = world.path().join("state");
    let is_of_edge = |target: &PathBuf| ["edge", "cache"].iter().any(|own| target.starts_with(state.join(own)));
    let is_foreign = |target: &PathBuf| target.is_absolute() && !is_of_edge(target);
    let files: BTreeSet<PathBuf> = targets.filter(is_foreign).collect();
    let own = ["/dev/null".into(), state.join("logs/edge.log"), state.join("run/edge.lock")];
    assert_eq!(files, own.into(), "no file of control's");
    assert_eq!(fs::read_link(format!("{edge}/cwd")).unwrap(), Path::new("/"));
    // Control's environment may hold secrets, and has at least a PATH.
    let environment = fs::read_to_string(format!("{edge}/environ")).unwrap();
    assert!(!environment.contains("PATH="), "{environment:?}");
}

#[test]
fn its_user_may_reach_the_apps_and_neither_keys_nor_state_nor_the_admin_socket() {
    let Some((world, nobody)) = world() else { return };
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().with(USER).hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    prime.says("https://shop.test", "page");
    let (state, certs) = (world.path().join("state"), world.path().join("certs"));
    let is_written = |name: &str| state.join("edge").join(name).exists();
    prime.until("snapshot and log are kept", || is_written("edge.json") && is_written("access.log"));

    let app = only(&state.join("run/a")).join("s");
    let may_connect = [state.join("run/control.sock"), state.join("run/metrics.sock"), app];
    let is_settled = |path: &PathBuf| path.extension().is_none_or(|extension| extension != "new");
    let all: Vec<PathBuf> = below(&state).into_iter().chain(below(&certs)).filter(is_settled).collect();
    let mut own = vec![state.join("edge"), state.join("edge/edge.json"), state.join("edge/access.log")];
    own.extend(all.iter().filter(|path| path.starts_with(state.join("cache"))).cloned());
    assert!(own.contains(&state.join("cache/objects/mark.json")), "{own:?}");
    for secret in ["state.redb", "run/admin.sock", "run/edge.sock", "run/edge.lock", "logs/edge.log", "git/shop.git"] {
        assert!(all.contains(&state.join(secret)), "{secret} is looked at");
    }
    let keys: Vec<PathBuf> = all.iter().filter(|path| holds_a_key(path)).cloned().collect();
    assert!(keys.iter().any(|key| key.ends_with("privkey.pem")), "{keys:?}");
    assert!(keys.iter().any(|key| key.starts_with(certs.join("ca"))), "{keys:?}");

    let set = |paths: &[PathBuf]| paths.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(nobody.may("test -w", &all), set(&[&may_connect[..], &own].concat()));
    let of_state: Vec<_> = all.iter().filter(|path| path.starts_with(&state)).cloned().collect();
    assert_eq!(nobody.may("test -r", &of_state), set(&[&may_connect[..], &own].concat()));
    // The certificates' directory is a person's, who may show it to anybody; keys are not shown.
    assert_eq!(nobody.may("test -r", &keys), set(&[]));
}

#[test]
fn certificates_reach_an_edge_that_cannot_read_them_also_when_it_or_control_begins_anew() {
    let Some((world, nobody)) = world() else { return };
    let shop = world.repo("shop");
    shop.commit("secure");
    let prime = world.prime().with(USER).hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    let mut root = put_certificate(&world);
    is_shown(&prime, &root);
    for _ in 0..2 {
        root = put_certificate(&world);
        is_shown(&prime, &root);
    }
    let edge = prime.status()["edge"]["pid"].as_u64().unwrap();
    kill(edge);
    is_shown(&prime, &root);
    let edge = prime.status()["edge"]["pid"].as_u64().unwrap();
    nobody.is(edge);
    prime.kill_control();
    prime.start();
    assert_eq!(prime.edge_pid(), edge, "the same edge");
    is_shown(&prime, &root);
    root = put_certificate(&world);
    is_shown(&prime, &root);
    assert!(!prime.logs().contains("cannot be handed"), "{}", prime.logs());
    assert!(!below(&world.path().join("state")).iter().any(|path| holds_a_key(path)), "no key is copied");
}

#[test]
fn nobody_notices_when_control_or_the_edge_dies() {
    let Some((world, nobody)) = world() else { return };
    let shop = world.repo("shop");
    shop.commit("page 1");
    let prime = world.prime().with(USER).hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    let (edge, address) = (prime.edge_pid(), prime.address("http"));
    let visitors = Visitors::come(&prime, 8, "shop.test", "page");
    prime.kill_control();
    visitors.ask_more(100);
    prime.start();
    assert_eq!(prime.edge_pid(), edge);
    shop.commit("page 2");
    prime.deploys(&shop, "master");
    visitors.go().is_flawless();
    kill(edge);
    prime.says("http://shop.test", "page 2");
    let status = prime.status();
    assert_eq!(status["listeners"]["http"][0].as_str(), Some(address.to_string().as_str()));
    nobody.is(status["edge"]["pid"].as_u64().unwrap());
}

#[test]
fn it_reaches_the_socket_of_a_container_with_a_user_of_its_own() {
    let Some((world, nobody)) = world() else { return };
    if !docker::engine() {
        return;
    }
    let shop = world.repo("rightsshop");
    let _cleaning = docker::Cleaning("rightsshop".to_owned());
    docker::commit(&shop, "contained", "FROM scratch\nCOPY server /server\nUSER 999:999\nCMD [\"/server\"]\n");
    let prime = world.prime().with(USER).hosting(&shop, "").start_with("docker");
    prime.deploys(&shop, "master");
    prime.says("http://rightsshop.test", "contained");
    nobody.is(prime.edge_pid());
    prime.kill_control();
    kill(prime.edge_pid());
    prime.start();
    prime.says("http://rightsshop.test", "contained");
}

#[test]
fn a_state_directory_of_an_edge_that_was_root_goes_on_and_back() {
    let Some((world, nobody)) = world() else { return };
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    let (edge, app) = (prime.edge_pid(), prime.app_pids());
    assert_eq!(status_field(edge, "Uid"), ["0"; 4]);
    assert_eq!((status_field(edge, "NoNewPrivs"), core_limit(edge)), (vec!["1".to_owned()], "0 0".to_owned()));
    let modes = || ["", "run", "run/a"].map(|dir| mode(&world.path().join("state").join(dir)));
    assert_eq!(modes(), [0o700; 3]);
    // What the version before left: the snapshot beside the edge's directory, and sockets that only root reaches.
    let state = world.path().join("state");
    prime.kill_control();
    kill(edge);
    fs::rename(state.join("edge/edge.json"), state.join("edge.json")).unwrap();
    fs::remove_dir_all(state.join("edge")).unwrap();
    fs::set_permissions(only(&state.join("run/a")), Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(state.join("state.redb"), Permissions::from_mode(0o644)).unwrap();

    world.prime().with(USER).write("process");
    prime.start();
    prime.says("http://shop.test", "page");
    prime.says("https://shop.test", "page");
    assert_eq!(prime.app_pids(), app, "the app went on");
    nobody.is(prime.edge_pid());
    assert_eq!(fs::metadata(state.join("edge/edge.json")).unwrap().uid(), nobody.uid);
    assert_eq!((modes(), mode(&state.join("state.redb"))), ([0o710; 3], 0o600));

    // And back: an edge that runs stays who it is, and the next one is root again.
    prime.kill_control();
    world.prime().write("process");
    prime.start();
    prime.says("http://shop.test", "page");
    assert!(prime.logs().contains("another user than conf says"), "{}", prime.logs());
    kill(prime.edge_pid());
    prime.says("https://shop.test", "page");
    assert_eq!(status_field(prime.status()["edge"]["pid"].as_u64().unwrap(), "Uid"), ["0"; 4]);
    assert_eq!(modes(), [0o700; 3]);
}

#[test]
fn a_user_that_cannot_be_is_refused_and_a_change_waits_for_a_restart() {
    let Some((world, _)) = world() else { return };
    for (name, reason) in [("no-such-user", "useradd --system"), ("root", "root's user or group")] {
        world.prime().with(&format!("\n[edge]\nuser = \"{name}\"\n")).write("process");
        let refused = opri().args(["serve", "--conf"]).arg(world.path().join("conf")).output().unwrap();
        let words = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && words.contains(reason), "{words}");
    }
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "").start();
    prime.deploys(&shop, "master");
    world.prime().with(USER).write("process");
    let reload = prime.opri(&["reload"]);
    let words = String::from_utf8_lossy(&reload.stderr);
    assert!(!reload.status.success() && words.contains("`[edge] user` cannot change while Prime runs"), "{words}");
    prime.says("http://shop.test", "page");
}

#[test]
fn an_edge_that_could_not_reach_the_apps_says_so_at_the_start() {
    let Some((world, _)) = world() else { return };
    fs::set_permissions(world.path(), Permissions::from_mode(0o700)).unwrap();
    world.prime().with(USER).write("process");
    let refused = opri().args(["serve", "--conf"]).arg(world.path().join("conf")).output().unwrap();
    let words = String::from_utf8_lossy(&refused.stderr);
    let reason = format!("may not pass {}", world.path().display());
    assert!(!refused.status.success() && words.contains(&reason), "{words}");
}

#[test]
fn without_root_the_key_has_no_effect_and_the_edge_keeps_no_capability() {
    let Some((world, nobody)) = world() else { return };
    let opri = opri();
    if nobody.may("test -x", &[PathBuf::from(opri.get_program())]).is_empty() {
        eprintln!("SKIPPED: nobody may not execute {opri:?}, so Prime was not run without root");
        return;
    }
    world.prime().with(USER).write("process");
    let owner = format!("{}:{}", nobody.uid, nobody.gid);
    assert!(Command::new("chown").arg("-R").arg(owner).arg(world.path()).status().unwrap().success());
    let binds_low_ports = ["--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"];
    let mut serve = Serving::start(&world, nobody.command(binds_low_ports, opri.get_program().to_str().unwrap()));
    nobody.is(serve.edge);
    let control = status_field(u64::from(serve.control.id()), "CapEff");
    assert_ne!(control, ["0000000000000000"], "control keeps its own");
    assert!(serve.end() && serve.words.contains("`[edge] user` has no effect"), "{}", serve.words);
}

#[test]
fn it_leaves_the_groups_of_a_control_behind_that_a_service_manager_has_bounded() {
    let Some((world, nobody)) = world() else { return };
    world.prime().with(USER).write("process");
    let mut control = Command::new("setpriv");
    // What README.md's unit gives, and the group of another service.
    let capabilities = "-all,+chown,+dac_override,+fowner,+kill,+setgid,+setuid,+net_bind_service";
    control.args(["--groups=4,24", "--no-new-privs", "--bounding-set", capabilities]).arg(opri().get_program());
    let mut serve = Serving::start(&world, control);
    nobody.is(serve.edge);
    assert!(serve.end());
}

/// A Prime that takes its edge along when it ends.
struct Serving {
    control: Child,
    edge: u64,
    words: String,
}

impl Serving {
    /// Runs `opri serve` by a command that ends in the program's name, until it answers.
    fn start(world: &World, mut command: Command) -> Self {
        let (conf, words) = (world.path().join("conf"), world.path().join("serve.log"));
        let log = fs::File::create(&words).unwrap();
        command.args(["serve", "--conf"]).arg(&conf).stdout(log.try_clone().unwrap()).stderr(log);
        let mut serving = Self { control: command.spawn().unwrap(), edge: 0, words: String::new() };
        let edge = || -> Option<u64> {
            let status = opri().args(["status", "--json", "--conf"]).arg(&conf).output().unwrap();
            serde_json::from_slice::<Value>(&status.stdout).ok()?["edge"]["pid"].as_u64()
        };
        let deadline = Instant::now() + PATIENCE;
        while serving.edge == 0 {
            serving.words = fs::read_to_string(&words).unwrap();
            assert!(Instant::now() < deadline, "{}", serving.words);
            serving.edge = edge().unwrap_or_default();
            std::thread::sleep(LOOK_AGAIN);
        }
        serving.words = fs::read_to_string(&words).unwrap();
        serving
    }

    fn end(&mut self) -> bool {
        let asked = Command::new("kill").arg(self.control.id().to_string()).stderr(Stdio::null()).status();
        asked.is_ok_and(|asked| asked.success()) && self.control.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.end();
    }
}

struct Nobody {
    uid: u32,
    gid: u32,
}

/// A world that this user may pass, as the way to a state directory must be.
fn world() -> Option<(World, Nobody)> {
    let id = |option| Command::new("id").args([option, "nobody"]).output().ok().filter(|id| id.status.success());
    let number = |option| String::from_utf8_lossy(&id(option)?.stdout).trim().parse::<u32>().ok();
    let is_root = rustix::process::geteuid().is_root();
    let has_tool = Command::new("setpriv").arg("--version").output().is_ok();
    let (Some(uid), Some(gid), true, true) = (number("-u"), number("-g"), is_root, has_tool) else {
        eprintln!("SKIPPED: this needs root, setpriv and the user nobody, so no edge was run as another user");
        return None;
    };
    let world = World::new();
    fs::set_permissions(world.path(), Permissions::from_mode(0o711)).unwrap();
    Some((world, Nobody { uid, gid }))
}

impl Nobody {
    /// That a process is this user, in each of its threads, for ever, and shows nothing to its own kind.
    fn is(&self, pid: u64) {
        let (uid, gid) = (vec![self.uid.to_string(); 4], vec![self.gid.to_string(); 4]);
        let none = vec!["0000000000000000".to_owned()];
        let tasks: Vec<_> = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().collect();
        assert!(tasks.len() > 1, "it has threads");
        for task in tasks {
            let field = |name| field(&task.path().join("status"), name);
            assert_eq!((field("Uid"), field("Gid"), field("Groups")), (uid.clone(), gid.clone(), vec![]));
            for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(field(name), none, "{name}");
            }
            assert_eq!(field("NoNewPrivs"), ["1"]);
        }
        assert_eq!(core_limit(pid), "0 0");
        // The files of a process that must not be dumped belong to root (proc(5)).
        assert_eq!(fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid(), 0);
        let memory = ["environ", "maps", "auxv"].map(|name| PathBuf::from(format!("/proc/{pid}/{name}")));
        let ones_own = PathBuf::from("/proc/self/environ");
        let seen = self.may("cat >/dev/null 2>&1", &[&memory[..], std::slice::from_ref(&ones_own)].concat());
        assert_eq!(seen, BTreeSet::from([ones_own]), "not even its user looks into it");
    }

    /// Those of the paths with which this command of this user succeeds.
    fn may(&self, command: &str, paths: &[PathBuf]) -> BTreeSet<PathBuf> {
        let script = format!("while read -r path; do if {command} \"$path\"; then echo \"$path\"; fi; done");
        let mut shell = self.command([], "sh");
        shell.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let lines: Vec<String> = paths.iter().map(|path| format!("{}\n", path.display())).collect();
        child.stdin.take().unwrap().write_all(lines.concat().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect()
    }

    fn command<const N: usize>(&self, options: [&str; N], program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(options)
            .arg(format!("--reuid={}", self.uid))
            .arg(format!("--regid={}", self.gid))
            .arg("--clear-groups");
        command.arg(program);
        command
    }
}

fn status_field(pid: u64, name: &str) -> Vec<String> {
    field(Path::new(&format!("/proc/{pid}/status")), name)
}

fn field(status: &Path, name: &str) -> Vec<String> {
    let text = fs::read_to_string(status).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.split_whitespace().map(str::to_owned).collect()
}

/// Soft and hard, in bytes.
fn core_limit(pid: u64) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    core.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

/// Everything below a directory, without following links.
fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let with_its = |path: PathBuf| {
        let deeper = if path.is_dir() && !path.is_symlink() { below(&path) } else { Vec::new() };
        std::iter::once(path).chain(deeper)
    };
    entries.map(|entry| entry.path()).flat_map(with_its).collect()
}

/// The one directory in there.
fn only(dir: &Path) -> PathBuf {
    let mut dirs = fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    dirs.next().unwrap()
}

fn holds_a_key(path: &Path) -> bool {
    path.is_file() && fs::read(path).is_ok_and(|bytes| bytes.windows(11).any(|part| part == b"PRIVATE KEY"))
}

/// A certificate of another CA in place of the one before; its root.
fn put_certificate(world: &World) -> String {
    let (root, chain, key) = issue("shop.test");
    let dir = world.path().join("certs/shop.test");
    fs::create_dir_all(&dir).unwrap();
    let put = |name: &str, text: String| {
        let aside = dir.join(format!(".{name}"));
        fs::write(&aside, text).unwrap();
        fs::set_permissions(&aside, Permissions::from_mode(0o600)).unwrap();
        fs::rename(&aside, dir.join(name)).unwrap();
    };
    put("privkey.pem", key);
    put("fullchain.pem", chain);
    root
}

fn is_shown(prime: &Prime<'_>, root: &str) {
    prime.does(&["reload"]);
    prime.until("the certificate is served", || {
        let shaken = http::tls(prime.address("https"), "shop.test", root, "http/1.1");
        prime.world.runtime.block_on(shaken).is_ok()
    });
    let redirect = prime.eventually("http://shop.test/", |answer| answer.status == StatusCode::PERMANENT_REDIRECT);
    assert!(redirect.header("location").starts_with("https://"));
}

fn kill(pid: u64) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}
