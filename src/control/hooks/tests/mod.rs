//! Deliveries of every kind against one conf: what is believed, what is passed over, what is refused.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

mod forges;
mod github;
mod mutated;
mod travis;

use super::*;
// The demo's Travis signs for these tests as well; no code of control calls it.
use crate::cli::travis::{TravisKey as Sender, body, passed};
use crate::model::machine::{self, BuildLimits, CacheSizes, Limits, Listeners, RuntimeChoice};
use crate::model::project::{Branch, Ci, Origin, Repository, Secret};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// 2026-11-24T10:02:00Z, in seconds since 1970.
const NOW: u64 = 1_795_514_520;
const SECRET: &str = "It's a Secret to Everybody";

static TRAVIS: LazyLock<Sender> = LazyLock::new(|| Sender::generate().unwrap());
static STRANGER: LazyLock<Sender> = LazyLock::new(|| Sender::generate().unwrap());

struct World {
    dir: tempfile::TempDir,
    machine: Machine,
    projects: BTreeMap<ProjectName, Project>,
    hooks: Hooks,
}

/// `shop` believes Travis, `blog` GitHub, `wiki` any push, `lab` GitLab, `tea` Gitea, `any` whoever signs; `forum` has a
/// secret of its own.
fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let travis = machine::TravisKey::PublicKey(file("travis.pem", TRAVIS.public_pem()));
    let secret = |provider: Provider, text: &str| (provider, Secret::File(file(provider.as_str(), text)));
    let secrets = [
        secret(Provider::Github, &format!("{SECRET}\n")),
        secret(Provider::Gitlab, SECRET),
        secret(Provider::Gitea, SECRET),
        secret(Provider::Generic, &format!("whsec_{}", STANDARD.encode(SECRET))),
    ];
    let mut forum = project("forum", Ci::None);
    forum.hooks.secret = Some(Secret::File(file("forum", "forum's own")));
    let all = [
        project("shop", Ci::Travis),
        project("blog", Ci::Github),
        project("wiki", Ci::None),
        forum,
        project("lab", Ci::Gitlab),
        project("tea", Ci::Gitea),
        project("any", Ci::Generic),
    ];
    let projects = all.into_iter().map(|project| (project.name.clone(), project)).collect();
    World { machine: machine_with(dir.path(), travis, secrets.into()), dir, projects, hooks: Hooks::default() }
}

fn project(name: &str, ci: Ci) -> Project {
    let hosts = vec![format!("{name}.test").parse().unwrap()];
    let branch = |branch: &str| (branch.parse().unwrap(), Branch::of(hosts.clone()));
    Project {
        name: name.parse().unwrap(),
        origin: Origin::Repository(Repository::Url(format!("https://github.com/Hasadna/{name}.git"))),
        ci,
        branches: [branch("master"), branch("dev")].into(),
        app: Default::default(),
        cache: Default::default(),
        limits: Default::default(),
        compression: Default::default(),
        https_only: None,
        hooks: Default::default(),
        purge_secret: None,
        previews: None,
    }
}

fn machine_with(dir: &Path, travis: machine::TravisKey, secrets: BTreeMap<Provider, Secret>) -> Machine {
    let host = "opri.test".parse().unwrap();
    Machine {
        domain: "test".parse().unwrap(),
        state_dir: dir.to_owned(),
        certs_dir: dir.to_owned(),
        runtime: RuntimeChoice::Process,
        listeners: Listeners::default(),
        acme: None,
        hooks: machine::Hooks { host, travis, secrets, apis: Default::default(), reconcile: Duration::from_secs(300) },
        dashboard: None,
        cache: CacheSizes { memory: 0, disk: 0, object_max: 0 },
        trusted_proxies: Vec::new(),
        limits: Limits::default(),
        access_log: Default::default(),
        edge_user: None,
        build: BuildLimits { parallel: 1, timeout: Duration::from_secs(1), memory: 0, cpus: 1.0, pids: 1024 },
        keep_releases: 1,
        keep_free: 0,
    }
}

impl World {
    async fn judge(&self, headers: &[(&str, &str)], body: &[u8]) -> Verdict {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        self.hooks.judge(&Delivery { headers: &map, body, at }, &self.machine, &self.projects).await.verdict
    }

    async fn travis(&self, payload: &str) -> Verdict {
        self.judge(&[("content-type", FORM), ("signature", &TRAVIS.sign(payload))], body(payload).as_bytes()).await
    }

    async fn github(&self, event: &str, payload: &Value) -> Verdict {
        self.github_signed(event, payload, SECRET).await
    }

    async fn github_signed(&self, event: &str, payload: &Value, secret: &str) -> Verdict {
        let (payload, delivery) = (payload.to_string(), "72d3162e-cc78-11e3-81ab-4c9367dc0958");
        let signature = hub_signature(secret, payload.as_bytes());
        let headers = [
            ("content-type", "application/json"),
            ("x-github-event", event),
            ("x-github-delivery", delivery),
            ("x-hub-signature-256", &signature),
        ];
        self.judge(&headers, payload.as_bytes()).await
    }
}

fn hub_signature(secret: &str, body: &[u8]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body);
    format!("sha256={}", tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

fn build(slug: &str, branch: &str) -> Value {
    serde_json::from_str(&passed(slug, branch, COMMIT, 7, "2026-11-24T02:00:00Z")).unwrap()
}

fn with(mut payload: Value, changes: &[(&str, Value)]) -> Value {
    for (pointer, value) in changes {
        *payload.pointer_mut(pointer).unwrap() = value.clone();
    }
    payload
}

fn status(verdict: &Verdict) -> u16 {
    match verdict {
        Verdict::Push(_) => 202,
        Verdict::Ignored(_) | Verdict::Look(_) => 200,
        Verdict::Refused(refusal) => refusal.status().as_u16(),
    }
}

fn reason(verdict: Verdict) -> String {
    match verdict {
        Verdict::Push(pushes) => panic!("accepted: {pushes:?}"),
        Verdict::Ignored(reason) => reason,
        Verdict::Look(projects) => format!("a look at {projects:?}"),
        Verdict::Refused(refusal) => refusal.to_string(),
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]
    #[test]
    fn nothing_unsigned_is_ever_a_push_and_nothing_panics(
        picked in proptest::sample::subsequence(HEADERS.to_vec(), 0..=HEADERS.len()),
        payload in "\\PC{0,200}",
        is_form: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bytes = if is_form { body(&payload).into_bytes() } else { payload.into_bytes() };
        let verdict = runtime.block_on(WORLD.judge(&picked, &bytes));
        proptest::prop_assert!(matches!(verdict, Verdict::Refused(_)), "{verdict:?}");
    }
}

static WORLD: LazyLock<World> = LazyLock::new(world);

const HEADERS: [(&str, &str); 9] = [
    ("content-type", FORM),
    ("content-type", "application/json; charset=UTF-8"),
    ("content-type", ";"),
    ("signature", "AAAA"),
    ("x-hub-signature-256", "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
    ("x-github-event", "push"),
    ("x-github-event", "ping"),
    ("travis-repo-slug", "hasadna/shop"),
    ("user-agent", "Travis CI Notifications"),
];

/// A delivery as its provider sends it, for one of our projects and with our commit.
fn fixture(name: &str, project: &str) -> Value {
    let text = match name {
        "travis-passed" => include_str!("../../../../tests/fixtures/hooks/travis-passed.json"),
        "github-push" => include_str!("../../../../tests/fixtures/hooks/github-push.json"),
        "github-workflow-run" => include_str!("../../../../tests/fixtures/hooks/github-workflow-run.json"),
        "github-check-suite" => include_str!("../../../../tests/fixtures/hooks/github-check-suite.json"),
        "github-ping" => include_str!("../../../../tests/fixtures/hooks/github-ping.json"),
        "github-status" => include_str!("../../../../tests/fixtures/hooks/github-status.json"),
        "gitlab-push" => include_str!("../../../../tests/fixtures/hooks/gitlab-push.json"),
        "gitlab-pipeline" => include_str!("../../../../tests/fixtures/hooks/gitlab-pipeline.json"),
        "gitlab-tag-push" => include_str!("../../../../tests/fixtures/hooks/gitlab-tag-push.json"),
        "gitlab-merge-request-pipeline" => {
            include_str!("../../../../tests/fixtures/hooks/gitlab-merge-request-pipeline.json")
        }
        "gitea-push" => include_str!("../../../../tests/fixtures/hooks/gitea-push.json"),
        "gitea-workflow-run" => include_str!("../../../../tests/fixtures/hooks/gitea-workflow-run.json"),
        "gitea-status" => include_str!("../../../../tests/fixtures/hooks/gitea-status.json"),
        "forgejo-action-run-success" => {
            include_str!("../../../../tests/fixtures/hooks/forgejo-action-run-success.json")
        }
        "generic" => include_str!("../../../../tests/fixtures/hooks/generic.json"),
        other => panic!("no fixture {other}"),
    };
    let text = text.replace("acme/shop", &format!("hasadna/{project}"));
    let text = text.replace("\"owner_name\": \"acme\"", "\"owner_name\": \"hasadna\"");
    serde_json::from_str(&text.replace("\"project\": \"shop\"", &format!("\"project\": \"{project}\""))).unwrap()
}
