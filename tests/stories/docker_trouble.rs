//! The Docker engine is in trouble: what serves goes on, the deployment fails and says why, and the next one works.

use std::time::Duration;

use crate::engine::{Engine, Trouble, dockerfile};
use crate::visitors::Visitors;
use crate::world::{Prime, Repo, World, deployment, story_app};

/// A site in containers of a played engine, with its first release.
struct Shop<'w> {
    repo: Repo,
    engine: Engine,
    prime: Prime<'w>,
}

impl<'w> Shop<'w> {
    fn open(world: &'w World, project: &str) -> Self {
        let (repo, engine) = (world.empty_repo("shop"), Engine::start(world));
        repo.write("Dockerfile", &dockerfile(&story_app()));
        repo.commit("page 1");
        let prime =
            world.prime().environment("DOCKER_HOST", &engine.host()).hosting(&repo, project).start_with("docker");
        prime.deploys(&repo, "master");
        prime.says("http://shop.test", "page 1");
        Self { repo, engine, prime }
    }

    /// The engine is well, the next deployment serves, and what the trouble left is gone.
    fn works_again(&self) {
        self.engine.is_well();
        self.repo.write("Dockerfile", &dockerfile(&story_app()));
        self.repo.commit("page after it");
        self.prime.deploys(&self.repo, "master");
        self.prime.says("http://shop.test", "page after it");
        self.prime.until("one container is left", || self.engine.containers().len() == 1);
        let releases: serde_json::Value =
            serde_json::from_str(&self.prime.does(&["releases", "shop", "--json"])).unwrap();
        assert_eq!(self.engine.images(), releases.as_array().unwrap().len(), "an image a release");
    }
}

#[test]
fn a_deployment_in_an_engine_in_trouble_fails_with_the_reason_and_the_next_one_works() {
    let troubles = [
        (Trouble::Refused, "Connection refused"),
        (Trouble::Failing, "the engine is unwell"),
        (Trouble::Half, "docker could not answer"),
        (Trouble::Old, "1.41 is the least"),
        (Trouble::Hung, "docker did not answer within 10 s"),
        (Trouble::Slow, "docker did not answer within 10 s"),
    ];
    let world = World::new();
    let shop = Shop::open(&world, "");
    let visitors = Visitors::come(&shop.prime, 4, "shop.test", "page");
    for (trouble, reason) in troubles {
        shop.engine.has(trouble);
        shop.repo.commit("page that never comes");
        let failed = shop.prime.until_ended(&deployment(&shop.prime.push(&shop.repo, "master")), "failed");
        assert!(failed.contains(reason), "{trouble:?}: {failed}");
        visitors.ask_more(20);
        shop.works_again();
    }
    visitors.go().is_flawless();
}

#[test]
fn a_build_in_which_the_engine_restarts_breaks_off_or_hangs_fails_and_the_next_one_works() {
    type Happens = fn(&Engine);
    let cases: [(Happens, &str); 3] = [
        (Engine::restart, "docker could not build the image"),
        (|engine| engine.has(Trouble::Refused), "docker could not build the image"),
        (|engine| engine.has(Trouble::Hung), "docker did not answer within 10 s"),
    ];
    for (happens, reason) in cases {
        let world = World::new();
        let shop = Shop::open(&world, "");
        let visitors = Visitors::come(&shop.prime, 4, "shop.test", "page");
        let hold = world.path().join("hold");
        std::fs::write(&hold, "").unwrap();
        let wait = format!("FROM scratch\nRUN echo waiting; while test -e {}; do sleep 0.02; done\n", hold.display());
        shop.repo.write("Dockerfile", &wait);
        shop.repo.commit("page that never comes");
        let id = deployment(&shop.prime.push(&shop.repo, "master"));
        shop.prime
            .until("it builds", || shop.prime.does(&["logs", "--build", "shop"]).lines().any(|line| line == "waiting"));
        happens(&shop.engine);
        let failed = shop.prime.until_ended_within(Duration::from_secs(90), &id, "failed");
        assert!(failed.contains(reason), "{failed}");
        visitors.ask_more(20);
        shop.works_again();
        visitors.go().is_flawless();
    }
}

#[test]
fn what_an_engine_did_not_do_in_time_is_looked_at_again_and_nothing_is_left() {
    // What was asked when it ceased to answer, and what becomes of the deployment.
    let cases = [
        ("POST /containers/create", "failed", "docker did not create the container within 30 s"),
        ("/start", "failed", "docker did not start the container within 30 s"),
        ("/stop", "live", ""),
        ("DELETE /containers", "live", ""),
    ];
    let stories = cases.map(|(call, outcome, reason)| {
        std::thread::spawn(move || {
            let world = World::new();
            let shop = Shop::open(&world, "[app]\ndrain = \"1s\"\n");
            let visitors = Visitors::come(&shop.prime, 2, "shop.test", "page");
            shop.engine.has_in(Trouble::Hung, call);
            shop.repo.commit("page 2");
            let id = deployment(&shop.prime.push(&shop.repo, "master"));
            let said = shop.prime.until_ended_within(Duration::from_secs(90), &id, outcome);
            assert!(said.contains(reason), "{call}: {said}");
            visitors.ask_more(20);
            shop.works_again();
            visitors.go().is_flawless();
        })
    });
    for story in stories {
        story.join().unwrap();
    }
}
