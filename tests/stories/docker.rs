//! The same with the Docker engine, where there is one.

use std::path::{Path, PathBuf};
use std::process::Command;

use ::http::StatusCode;

use crate::visitors::Visitors;
use crate::world::{Repo, World, deployment};

/// Whether an engine answers; says loudly when none does.
pub fn engine() -> bool {
    let answers = Command::new("docker").arg("version").output().is_ok_and(|output| output.status.success());
    if !answers {
        eprintln!("SKIPPED: no Docker engine answers, so no image was built and no container was run");
    }
    answers
}

/// What the engine's command line prints.
fn told(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What a world made in the engine, removed at its end.
pub struct Cleaning(pub String);

impl Drop for Cleaning {
    fn drop(&mut self) {
        let filter = format!("label=openprime.project={}", self.0);
        let images = format!("reference=opri-*/{}", self.0);
        for (list, remove) in [
            (vec!["ps", "-aq", "--filter", &filter], vec!["rm", "-f"]),
            (vec!["images", "-q", "--filter", &images], vec!["rmi", "-f"]),
            (vec!["network", "ls", "-q", "--filter", &filter], vec!["network", "rm"]),
        ] {
            let Ok(output) = Command::new("docker").args(&list).output() else { return };
            for id in String::from_utf8_lossy(&output.stdout).split_whitespace() {
                let _ = Command::new("docker").args(&remove).arg(id).output();
            }
        }
    }
}

/// A static HTTP server on `$SOCKET`, or on `$PORT` when it is told so, from the standard library alone.
const SERVER: &str = r#"
use std::io::{Read, Write};
fn answer<S: Read + Write>(mut stream: S) {
    let mut head = [0u8; 4096];
    let _ = stream.read(&mut head);
    let page = include_str!("page.txt");
    let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{page}", page.len());
}
fn main() {
    if std::env::args().nth(1).as_deref() == Some("port") {
        let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
        let listener = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
        for stream in listener.incoming().flatten() { answer(stream); }
    } else {
        let listener = std::os::unix::net::UnixListener::bind(std::env::var("SOCKET").unwrap()).unwrap();
        for stream in listener.incoming().flatten() { answer(stream); }
    }
}
"#;

/// Compiles the server for a page, and commits it with its Dockerfile.
pub fn commit(repo: &Repo, page: &str, dockerfile: &str) {
    repo.write("page.txt", page);
    repo.write("server.rs", SERVER);
    let binary: PathBuf = repo.path.join("server");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let compiled = Command::new(rustc)
        .args(["-O", "--edition", "2021", "-C", "target-feature=+crt-static", "-o"])
        .arg(&binary)
        .arg(repo.path.join("server.rs"))
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    repo.write("Dockerfile", dockerfile);
    repo.commit(page);
}

#[test]
fn an_image_is_built_from_scratch_run_on_a_socket_and_swapped_under_visitors() {
    if !engine() {
        return;
    }
    let world = World::new();
    let shop = world.repo("dockershop");
    let _cleaning = Cleaning("dockershop".to_owned());
    let dockerfile = "FROM scratch\nCOPY server /server\nCMD [\"/server\"]\n";
    commit(&shop, "page one", dockerfile);
    let prime = world.prime().hosting(&shop, "[app]\ndrain = \"2s\"\n").start_with("docker");
    prime.deploys(&shop, "master");
    prime.says("http://dockershop.test", "page one");

    let visitors = Visitors::come(&prime, 8, "dockershop.test", "page ");
    commit(&shop, "page two", dockerfile);
    prime.deploys(&shop, "master");
    assert_eq!(prime.get("http://dockershop.test").body, "page two");
    visitors.go().is_flawless();

    let ids = told(&["ps", "-q", "--filter", "label=openprime.project=dockershop"]);
    let id = ids.split_whitespace().next().unwrap().to_owned();
    for (format, expected) in [
        ("{{len .HostConfig.PortBindings}} {{.HostConfig.PublishAllPorts}}", "0 false"),
        ("{{.HostConfig.CapDrop}} {{.HostConfig.CapAdd}}", "[ALL] []"),
        ("{{.HostConfig.Privileged}} {{.HostConfig.SecurityOpt}}", "false [no-new-privileges:true]"),
        ("{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.PidsLimit}}", "1073741824 1073741824 512"),
        ("{{.HostConfig.Init}} {{.HostConfig.ReadonlyRootfs}}", "true false"),
        (
            "{{index .HostConfig.LogConfig.Config \"max-size\"}} {{index .HostConfig.LogConfig.Config \"max-file\"}}",
            "10m 3",
        ),
        ("{{len .NetworkSettings.Networks}} {{len .Mounts}}", "1 1"),
        (
            "{{index .Config.Labels \"openprime.project\"}} {{index .Config.Labels \"openprime.release\"}}",
            "dockershop 2",
        ),
    ] {
        assert_eq!(told(&["inspect", "--format", format, &id]), expected, "{format}");
    }

    prime.does(&["rollback", "dockershop"]);
    prime.says("http://dockershop.test", "page one");
}

#[test]
fn an_app_in_a_container_may_answer_on_a_port_that_is_not_published() {
    if !engine() {
        return;
    }
    let world = World::new();
    let shop = world.repo("portshop");
    let _cleaning = Cleaning("portshop".to_owned());
    commit(&shop, "on a port", "FROM scratch\nCOPY server /server\nCMD [\"/server\", \"port\"]\n");
    let prime = world.prime().hosting(&shop, "").start_with("docker");
    prime.deploys(&shop, "master");
    prime.says("http://portshop.test", "on a port");
}

#[test]
fn a_base_image_from_a_busybox_root_runs_build_steps_and_a_failing_one_keeps_its_log() {
    if !engine() {
        return;
    }
    if !Path::new("/bin/busybox").exists() {
        eprintln!("SKIPPED: Debian's busybox-static is not installed, so no base image was imported");
        return;
    }
    let world = World::new();
    let shop = world.repo("busyshop");
    let _cleaning = Cleaning("busyshop".to_owned());
    import_busybox(&world);
    let good = "FROM opri-story/busybox:1\nRUN [\"/bin/busybox\", \"--install\", \"/bin\"]\nRUN echo building > /built\n\
                COPY server /server\nCMD [\"/server\"]\n";
    commit(&shop, "from busybox", good);
    let prime = world.prime().hosting(&shop, "").start_with("docker");
    prime.deploys(&shop, "master");
    prime.says("http://busyshop.test", "from busybox");

    commit(&shop, "broken", &format!("{good}RUN echo the reason it broke && exit 3\n"));
    let reason = prime.until_ended(&deployment(&prime.push(&shop, "master")), "failed");
    assert!(reason.contains("non-zero code: 3"), "{reason}");
    assert!(prime.does(&["logs", "--build", "busyshop"]).contains("the reason it broke"));
    prime.says("http://busyshop.test", "from busybox");
}

#[test]
fn what_conf_grants_a_container_holds_for_the_next_release() {
    if !engine() {
        return;
    }
    let world = World::new();
    let shop = world.repo("grantshop");
    let _cleaning = Cleaning("grantshop".to_owned());
    commit(&shop, "granted", "FROM scratch\nCOPY server /server\nCMD [\"/server\"]\n");
    let app = "[app]\nmemory = \"64MiB\"\npids = 40\ncapabilities = [\"NET_BIND_SERVICE\"]\nread_only = true\n";
    let prime = world.prime().hosting(&shop, app).start_with("docker");
    prime.deploys(&shop, "master");
    prime.says("http://grantshop.test", "granted");
    let id = told(&["ps", "-q", "--filter", "label=openprime.project=grantshop"]);
    let format =
        "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}";
    assert_eq!(told(&["inspect", "--format", format, &id]), "67108864 40 true [ALL]");
    assert!(told(&["inspect", "--format", "{{.HostConfig.CapAdd}}", &id]).contains("NET_BIND_SERVICE"));
}

#[test]
fn a_build_in_the_engine_is_cancelled_and_leaves_one_name_for_its_layers() {
    if !engine() {
        return;
    }
    if !Path::new("/bin/busybox").exists() {
        eprintln!("SKIPPED: Debian's busybox-static is not installed, so no build in the engine was cancelled");
        return;
    }
    let world = World::new();
    let shop = world.repo("haltshop");
    let _cleaning = Cleaning("haltshop".to_owned());
    import_busybox(&world);
    let base = "FROM opri-story/busybox:1\nCOPY server /server\n";
    commit(&shop, "halts", &format!("{base}RUN [\"/bin/busybox\", \"sleep\", \"4242\"]\n"));
    let prime = world.prime().hosting(&shop, "").start_with("docker");
    // By its command line: a build's containers have no label of ours.
    let sleeping = || {
        let ids = told(&["ps", "-q", "--no-trunc"]);
        ids.split_whitespace().any(|id| {
            let output = Command::new("docker").args(["inspect", "--format", "{{.Path}} {{.Args}}", id]).output();
            output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("4242"))
        })
    };
    for _ in 0..2 {
        let id = deployment(&prime.push(&shop, "master"));
        prime.until("it builds in the engine", sleeping);
        assert!(prime.does(&["deploy", "--cancel", "haltshop"]).contains("is cancelled while building"));
        prime.until_ended(&id, "cancelled");
        prime.until("the engine has ended it", || !sleeping());
        let named = || told(&["images", "-q", "--filter", "reference=opri-*/haltshop:*.failed"]);
        prime.until("its layers have a name", || named().lines().count() == 1);
        shop.git(&["commit", "--quiet", "--allow-empty", "--message", "Again"]);
    }
    // The next good build takes them over.
    shop.write("Dockerfile", &format!("{base}CMD [\"/server\"]\n"));
    shop.commit("halts");
    prime.deploys(&shop, "master");
    let named = || told(&["images", "-q", "--filter", "reference=opri-*/haltshop:*.failed"]);
    prime.until("no layers are left over", || named().is_empty());
}

#[test]
fn control_is_killed_and_finds_its_containers_again() {
    if !engine() {
        return;
    }
    let world = World::new();
    let shop = world.repo("keptshop");
    let _cleaning = Cleaning("keptshop".to_owned());
    commit(&shop, "kept", "FROM scratch\nCOPY server /server\nCMD [\"/server\"]\n");
    let prime = world.prime().hosting(&shop, "").start_with("docker");
    prime.deploys(&shop, "master");
    let containers = || {
        let filter = ["ps", "-q", "--filter", "label=openprime.project=keptshop"];
        String::from_utf8_lossy(&Command::new("docker").args(filter).output().unwrap().stdout).trim().to_owned()
    };
    let before = containers();
    prime.kill_control();
    assert_eq!(prime.get("http://keptshop.test").status, StatusCode::OK);
    prime.start();
    prime.says("http://keptshop.test", "kept");
    assert_eq!(containers(), before);
}

fn import_busybox(world: &World) {
    let root = world.path().join("root/bin");
    std::fs::create_dir_all(&root).unwrap();
    std::fs::copy("/bin/busybox", root.join("busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("sh")).unwrap();
    let tar = world.path().join("root.tar");
    let made = Command::new("tar").arg("-C").arg(world.path().join("root")).arg("-cf").arg(&tar).arg(".").status();
    assert!(made.unwrap().success());
    let imported = Command::new("docker").arg("import").arg(&tar).arg("opri-story/busybox:1").output().unwrap();
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
}
