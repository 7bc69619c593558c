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

    let inspect = |format: &str| {
        let filter = ["ps", "-q", "--filter", "label=openprime.project=dockershop"];
        let ids = Command::new("docker").args(filter).output().unwrap().stdout;
        let id = String::from_utf8_lossy(&ids).split_whitespace().next().unwrap().to_owned();
        let output = Command::new("docker").args(["inspect", "--format", format, &id]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    assert_eq!(inspect("{{len .HostConfig.PortBindings}}"), "0", "no port is published");
    assert_eq!(inspect("{{.HostConfig.CapDrop}}"), "[ALL]");
    assert!(inspect("{{.HostConfig.SecurityOpt}}").contains("no-new-privileges"));

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
