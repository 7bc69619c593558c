//! Control is killed at every step of a deployment and of a start: what serves goes on, what was begun is finished, and
//! nothing is left lying.
//!
//! The points are those of `crash_point!`, which debug builds alone have. Each is met once; with `OPRI_CRASHES=20` each so
//! often, and control is killed ten times as often at any moment.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::http::StatusCode;
use serde_json::Value;

use crate::engine::{Engine, dockerfile};
use crate::visitors::Visitors;
use crate::world::{LOOK_AGAIN, Prime, Repo, World, story_app};

/// Then nothing may be left that belongs to nothing.
const TIDY: Duration = Duration::from_secs(60);

/// Every deployment passes these.
const DEPLOYMENT: [&str; 28] = [
    "admit.before",
    "admit.after",
    "fetching.before",
    "fetching.after",
    "building.before",
    "building.after",
    "built",
    "starting.before",
    "starting.after",
    "release-command.after",
    "replica.begun",
    "replica.half-recorded",
    "replica.recorded",
    "gating.before",
    "gating.after",
    "swapping.before",
    "swapping.after",
    "activated",
    "draining.before",
    "draining.after",
    "retire.before",
    "drained",
    "retire.after",
    "prune.before",
    "forgotten",
    "prune.after",
    "ended.before",
    "ended.after",
];
/// And one that fails.
const FAILURE: [&str; 3] = ["failing", "ended.before", "ended.after"];
/// A start passes the second after control was killed at the first.
const START: [(&str, &str); 7] = [
    ("building.after", "settled"),
    ("gating.after", "clean.before"),
    ("gating.after", "undecided.stopped"),
    ("built", "clean.after"),
    ("swapping.after", "settled"),
    ("activated", "leftover.before"),
    ("drained", "leftover.after"),
];
/// The restart of an app that ended passes these.
const RESTART: [&str; 5] =
    ["replica.begun", "replica.half-recorded", "replica.recorded", "replaced.before", "replaced.after"];

#[test]
fn control_is_killed_at_each_step_of_a_deployment_and_every_visitor_is_answered() {
    let world = World::new();
    let Some(mut shop) = Shop::open(&world, None) else { return };
    for point in times().flat_map(|_| DEPLOYMENT) {
        shop.writes(Change::Good);
        let visitors = shop.visitors();
        shop.arm(point, &[]);
        let accepted = shop.pushes();
        shop.prime.control_ends();
        visitors.ask_more(20);
        shop.prime.start();
        shop.is_pushed_again_unless(accepted, point == "admit.before");
        shop.ends_well(point);
        visitors.go().is_flawless();
    }
}

#[test]
fn control_is_killed_at_each_step_of_a_deployment_into_containers() {
    let world = World::new();
    let Some(mut shop) = Shop::open(&world, Some(Engine::start(&world))) else { return };
    let points = DEPLOYMENT.into_iter().filter(|point| !point.starts_with("replica."));
    let points: Vec<_> = points.chain(["container.created", "container.started"]).collect();
    for point in times().flat_map(|_| points.clone()) {
        shop.writes(Change::Good);
        let visitors = shop.visitors();
        shop.arm(point, &[]);
        let accepted = shop.pushes();
        shop.prime.control_ends();
        visitors.ask_more(20);
        shop.prime.start();
        shop.is_pushed_again_unless(accepted, point == "admit.before");
        shop.ends_well(point);
        visitors.go().is_flawless();
    }
}

#[test]
fn control_and_edge_are_killed_at_each_step_and_a_whole_release_serves_again() {
    let world = World::new();
    let Some(mut shop) = Shop::open(&world, None) else { return };
    for point in times().flat_map(|_| DEPLOYMENT) {
        shop.writes(Change::Good);
        shop.arm(point, &[shop.prime.edge_pid()]);
        let accepted = shop.pushes();
        shop.prime.control_ends();
        shop.prime.start();
        shop.serves_a_page();
        shop.is_pushed_again_unless(accepted, point == "admit.before");
        shop.ends_well(point);
    }
}

#[test]
fn control_is_killed_while_a_deployment_fails_and_the_reason_is_kept() {
    let world = World::new();
    let Some(mut shop) = Shop::open(&world, None) else { return };
    for point in times().flat_map(|_| FAILURE) {
        shop.writes(Change::Bad);
        let visitors = shop.visitors();
        shop.arm(point, &[]);
        shop.pushes();
        shop.prime.control_ends();
        shop.prime.start();
        let reason = shop.prime.until_ended(&shop.newest(), "failed");
        assert!(reason.contains("the reason why it crashed"), "{point}: {reason}");
        shop.is_tidy(point);
        visitors.go().is_flawless();
    }
}

#[test]
fn control_is_killed_again_at_each_step_of_its_start() {
    let world = World::new();
    let Some(mut shop) = Shop::open(&world, None) else { return };
    for (first, second) in times().flat_map(|_| START) {
        shop.writes(Change::Good);
        let visitors = shop.visitors();
        shop.arm(first, &[]);
        shop.pushes();
        shop.prime.control_ends();
        shop.arm(second, &[]);
        shop.prime.begin_control();
        shop.prime.control_ends();
        visitors.ask_more(20);
        shop.prime.start();
        shop.ends_well(&format!("{first}, {second}"));
        visitors.go().is_flawless();
    }
}

#[test]
fn control_is_killed_while_an_app_that_ended_is_started_again() {
    let world = World::new();
    let Some(shop) = Shop::open(&world, None) else { return };
    for point in times().flat_map(|_| RESTART) {
        shop.arm(point, &[]);
        for pid in shop.prime.app_pids() {
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL)
                .unwrap();
        }
        shop.prime.control_ends();
        shop.prime.start();
        shop.prime.says("http://shop.test", &shop.page);
        shop.is_tidy(point);
    }
}

#[test]
fn control_is_killed_at_any_moment_and_every_visitor_is_answered() {
    let world = World::new();
    let Some(mut shop) = Shop::open(&world, None) else { return };
    for _ in times().flat_map(|_| 0..10) {
        shop.writes(Change::Good);
        let visitors = shop.visitors();
        let accepted = shop.pushes();
        let moment = Duration::from_micros(random() % 1_000_000);
        // The moment is what is tried, and no wait for something.
        std::thread::sleep(moment);
        shop.prime.kill_control();
        shop.prime.begin_control();
        std::thread::sleep(Duration::from_micros(random() % 200_000));
        shop.prime.kill_control();
        visitors.ask_more(20);
        shop.prime.start();
        shop.is_pushed_again_unless(accepted, false);
        shop.ends_well(&format!("{moment:?}"));
        visitors.go().is_flawless();
    }
}

/// How often each point is met.
fn times() -> std::ops::Range<u32> {
    0..std::env::var("OPRI_CRASHES").map_or(1, |times| times.parse().unwrap())
}

fn random() -> u64 {
    RandomState::new().hash_one(())
}

#[derive(Clone, Copy)]
enum Change {
    Good,
    /// Its app ends at once.
    Bad,
}

/// A site with a first release, and a control that can be killed at a point.
struct Shop<'w> {
    world: &'w World,
    repo: Repo,
    prime: Prime<'w>,
    /// Where its apps are containers.
    engine: Option<Engine>,
    /// What the newest good commit says.
    page: String,
    pages: u32,
    /// Deployments that were accepted.
    deployments: Cell<u32>,
}

impl<'w> Shop<'w> {
    fn open(world: &'w World, engine: Option<Engine>) -> Option<Self> {
        if cfg!(not(debug_assertions)) {
            eprintln!("SKIPPED: a release build has no crash points, so control was not killed at any");
            return None;
        }
        let repo = world.repo("shop");
        repo.write("Dockerfile", &dockerfile(&story_app()));
        repo.commit("page 0");
        let conf =
            world.prime().above("keep_releases = 1\n").environment("OPRI_CRASH", &order(world).display().to_string());
        let conf = conf.hosting(&repo, "[app]\nrelease = \"true\"\n");
        let prime = match &engine {
            Some(engine) => conf.environment("DOCKER_HOST", &engine.host()).start_with("docker"),
            None => conf.start(),
        };
        prime.deploys(&repo, "master");
        let shop = Self { world, repo, prime, engine, page: "page 0".to_owned(), pages: 0, deployments: Cell::new(1) };
        shop.is_tidy("the first");
        Some(shop)
    }

    fn visitors(&self) -> Visitors<'_> {
        Visitors::come(&self.prime, 4, "shop.test", "page")
    }

    fn writes(&mut self, change: Change) {
        self.pages += 1;
        let page = format!("page {}", self.pages);
        match change {
            Change::Good => {
                let _ = fs::remove_file(self.repo.path.join("crash"));
                self.page.clone_from(&page);
            }
            Change::Bad => self.repo.write("crash", ""),
        }
        self.repo.commit(&page);
    }

    /// Has the next control that comes to this point killed, and others with it.
    fn arm(&self, point: &str, others: &[u64]) {
        let others: String = others.iter().map(|pid| format!(" {pid}")).collect();
        let aside = order(self.world).with_extension("tmp");
        fs::write(&aside, format!("{point}{others}")).unwrap();
        fs::rename(aside, order(self.world)).unwrap();
    }

    /// Whether the hook was answered with a deployment.
    fn pushes(&self) -> bool {
        let commit = self.repo.git(&["rev-parse", "master"]);
        let payload = self.prime.payload(&self.repo, "master", commit.trim()).to_string();
        let answer = self.prime.try_deliver(&payload, &self.world.travis.sign(&payload));
        let is_accepted = answer.is_ok_and(|answer| answer.status == StatusCode::ACCEPTED);
        self.deployments.update(|number| number + 1);
        is_accepted
    }

    /// A hook without an answer may have been stored or not, and of two for one commit the later is ignored.
    fn is_pushed_again_unless(&self, accepted: bool, is_lost: bool) {
        assert!(!(accepted && is_lost), "a hook was accepted before it was stored");
        if accepted {
            return;
        }
        let answer = self.prime.push(&self.repo, "master");
        let is_new = answer.status == StatusCode::ACCEPTED;
        assert!(is_new || answer.status == StatusCode::OK, "{} {}", answer.status, answer.body);
        assert!(is_new || !is_lost, "what was not stored is known: {}", answer.body);
    }

    fn newest(&self) -> String {
        format!("shop/master#{}", self.deployments.get())
    }

    /// After a crash of both, before anything else is done.
    fn serves_a_page(&self) {
        self.prime.eventually("http://shop.test", |answer| {
            answer.status == StatusCode::OK && answer.body.starts_with("page")
        });
    }

    fn ends_well(&self, point: &str) {
        self.prime.until_ended(&self.newest(), "live");
        self.prime.says("http://shop.test", &self.page);
        self.is_tidy(point);
    }

    /// The deployment is over, and there is nothing on the machine but what serves.
    fn is_tidy(&self, point: &str) {
        let deadline = Instant::now() + TIDY;
        loop {
            let left = self.leftovers();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left after {point}: {left:#?}\n{}", self.prime.logs());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let newest = self.prime.last_word_of(&self.newest());
        if !newest.contains("\"outcome\":{") {
            left.push(format!("{newest} is not over"));
        }
        let apps = self.engine.as_ref().map_or_else(|| self.prime.app_pids(), Engine::pids);
        let apps: BTreeSet<u64> = apps.into_iter().map(|pid| u64::try_from(pid).unwrap()).collect();
        if apps.len() != 1 {
            left.push(format!("{} apps", apps.len()));
        }
        let status = self.prime.status();
        let ours = [Some(u64::from(self.prime.control_pid())), status["edge"]["pid"].as_u64()];
        let is_known = |pid: &u64| apps.contains(pid) || ours.contains(&Some(*pid));
        left.extend(processes(self.world.path()).into_iter().filter(|pid| !is_known(pid)).map(told));
        let state = self.world.path().join("state");
        // A directory for the app, and for a process its record.
        let nests = entries(&state.join("run/a"));
        let each = if self.engine.is_some() { 1 } else { 2 };
        if nests.len() != each * apps.len() {
            left.push(format!("{nests:?} for {} apps", apps.len()));
        }
        let releases: Value = serde_json::from_str(&self.prime.does(&["releases", "shop", "--json"])).unwrap();
        let known: BTreeSet<&str> = releases.as_array().unwrap().iter().filter_map(|r| r["release"].as_str()).collect();
        let lie = entries(&state.join("releases/shop/master"));
        left.extend(lie.into_iter().filter(|path| !known.contains(path.rsplit('/').next().unwrap())));
        if let Some(engine) = &self.engine {
            left.extend(engine.containers().into_iter().skip(1));
            if engine.images() != known.len() {
                left.push(format!("{} images for {known:?}", engine.images()));
            }
        }
        left.extend(entries(&state).into_iter().filter(|path| path.ends_with(".tmp")));
        let mirrors = [state.join("git"), state.join("git/shop.git"), state.join("git/shop.git/objects/pack")];
        let is_half = |path: &String| path.ends_with(".lock") || path.rsplit('/').next().unwrap().starts_with("tmp");
        left.extend(mirrors.iter().flat_map(|dir| entries(dir)).filter(is_half));
        left
    }
}

/// What a point is armed by.
fn order(world: &World) -> PathBuf {
    world.path().join("crash")
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<String> = entries.map(|entry| entry.path().display().to_string()).collect();
    paths.sort();
    paths
}

/// Whoever works below a directory, or was told of it.
fn processes(dir: &Path) -> Vec<u64> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_here = |pid: &u64| {
        let works_here = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        works_here || told(*pid).contains(&dir.display().to_string())
    };
    pids.filter(is_here).collect()
}

/// A process with its command line.
fn told(pid: u64) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid}: {}", String::from_utf8_lossy(&line).replace('\0', " "))
}
