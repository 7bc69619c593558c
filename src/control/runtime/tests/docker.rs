//! The Docker runtime with a real engine; skipped, and it says so, where there is none. Images are made `FROM scratch`
//! with one static program, so no registry is asked.

use std::os::unix::fs::FileTypeExt;
use std::sync::OnceLock;

use bollard::query_parameters::{ListContainersOptionsBuilder, ListImagesOptionsBuilder, ListNetworksOptionsBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::*;
use crate::model::address::Address;
use crate::model::app::ContainerWish;

/// As `/app` it answers on both addresses; as `/bin/sh -c` it does what the first word says.
const PROGRAM: &str = r#"
use std::io::{Read, Write};
fn answer(mut stream: impl Read + Write) {
    let mut head = [0; 1024];
    let _ = stream.read(&mut head);
    let body = std::env::var("OPRI_PROJECT").unwrap_or_default();
    let _ = write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}
fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(line) = args.get(2) {
        println!("ran {line} with {}", std::env::var("A").unwrap_or_default());
        let mut words = line.split(' ');
        match (words.next(), words.next().and_then(|word| word.parse().ok())) {
            (Some("exit"), Some(code)) => std::process::exit(code),
            (Some("threads"), _) => {
                // The limit comes a moment after the start.
                for number in 0..1000 {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                    let sleep = || std::thread::sleep(std::time::Duration::from_secs(1000));
                    if std::thread::Builder::new().stack_size(65536).spawn(sleep).is_err() {
                        println!("no more threads after {number}");
                        std::process::exit(7);
                    }
                }
            }
            (Some("sleep"), _) => std::thread::sleep(std::time::Duration::from_secs(1000)),
            _ => return,
        }
    }
    println!("started");
    let socket = std::os::unix::net::UnixListener::bind(std::env::var("SOCKET").unwrap()).unwrap();
    let port = std::net::TcpListener::bind(("0.0.0.0", std::env::var("PORT").unwrap().parse().unwrap())).unwrap();
    std::thread::spawn(move || for stream in port.incoming() { answer(stream.unwrap()) });
    for stream in socket.incoming() { answer(stream.unwrap()) }
}
"#;

const DOCKERFILE: &[u8] = b"FROM scratch\nCOPY app /app\nCOPY app /bin/sh\nRUN hello\nUSER 10001\nCMD [\"/app\"]\n";

fn program() -> &'static [u8] {
    static PROGRAM_FILE: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM_FILE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("app.rs"), PROGRAM).unwrap();
        let mut rustc = std::process::Command::new("rustc");
        rustc.args(["-C", "target-feature=+crt-static", "-o", "app", "app.rs"]).current_dir(dir.path());
        assert!(rustc.status().unwrap().success());
        std::fs::read(dir.path().join("app")).unwrap()
    })
}

/// Takes everything of its state directory out of the engine again, however the test ends.
struct Engine {
    world: World,
    docker: Docker,
}

async fn engine() -> Option<Engine> {
    let dir = tempfile::tempdir().unwrap();
    match Docker::connect(Places::new(dir.path())).await {
        Ok(docker) => Some(Engine { world: World { dir, runtime: Runtime::Docker(docker.clone()) }, docker }),
        Err(error) => {
            eprintln!("\n*** skipped: no Docker engine ({error}) ***\n");
            None
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let places = self.world.places();
        let sweep = async move {
            let docker = Docker::connect(places).await.unwrap();
            for replica in docker.running().await.unwrap() {
                docker.stop(&replica, Duration::ZERO).await.unwrap();
            }
            // The engine takes a moment to end a build that was cancelled.
            for _ in 0..50 {
                docker.clean(&[]).await.unwrap();
                if left(&docker).await == (0, 0, 0) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            panic!("the engine still holds something");
        };
        // A runtime cannot be waited for within another.
        let thread = std::thread::spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(sweep));
        if thread.join().is_err() {
            eprintln!("*** containers of this test may be left in the engine ***");
        }
    }
}

async fn asks<S: AsyncReadExt + AsyncWriteExt + Unpin>(stream: io::Result<S>) -> Option<String> {
    let mut stream = stream.ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).filter(|body| !body.is_empty())
}

#[tokio::test]
async fn an_image_is_built_and_its_container_answers_on_both_addresses() {
    let Some(engine) = engine().await else { return };
    let (world, runtime) = (&engine.world, &engine.world.runtime);
    let release = world.build(AppWish::default(), &[("Dockerfile", DOCKERFILE), ("app!", program())]).await.unwrap();
    assert!(matches!(&release.artifact, Artifact::Image(id) if id.starts_with("sha256:")));
    assert!(world.build_output().contains("RUN hello"), "{}", world.build_output());

    let replica = runtime.start(&release, 0, &env(&[("OPRI_PROJECT", "shop")])).await.unwrap();
    assert_eq!(runtime.running().await.unwrap(), std::slice::from_ref(&replica));
    let [Address::Unix(socket), Address::Tcp(port)] = replica.candidates.as_slice() else { panic!("{replica:?}") };
    eventually(|| runtime.prepare_socket(&replica).unwrap().then_some(())).await;
    assert!(std::fs::symlink_metadata(socket).unwrap().file_type().is_socket());
    assert_eq!(asks(UnixStream::connect(socket).await).await.as_deref(), Some("shop"));
    assert_eq!(asks(TcpStream::connect(port).await).await.as_deref(), Some("shop"));
    assert_eq!(runtime.tail(&replica, 3).await.unwrap(), "started\n");
    let mut following = runtime.follow(&replica, 1);
    assert_eq!(soon(futures_util::StreamExt::next(&mut following)).await.unwrap().unwrap(), "started\n");
    assert!(matches!(runtime.discard(&release.artifact).await, Err(RuntimeError::InUse(_))));
    is_hardened(&engine, &replica).await;

    // Another control finds it, and is told when it ends.
    let next = Runtime::Docker(Docker::connect(world.places()).await.unwrap());
    next.clean(&[]).await.unwrap();
    assert_eq!(next.running().await.unwrap(), std::slice::from_ref(&replica));
    let exited = next.exited(&replica);
    soon(runtime.stop(&replica, Duration::from_secs(5))).await.unwrap();
    soon(exited).await;
    soon(runtime.stop(&replica, Duration::from_secs(5))).await.unwrap();
    assert!(!world.places().nest(&replica.id).exists());
    runtime.discard(&release.artifact).await.unwrap();
    runtime.discard(&release.artifact).await.unwrap();
    runtime.clean(&[]).await.unwrap();
    assert_eq!(left(&engine.docker).await, (0, 0, 0));
}

async fn is_hardened(engine: &Engine, replica: &Replica) {
    let What::Container(id) = &replica.what else { panic!() };
    let container = engine.docker.client().inspect_container(id, None).await.unwrap();
    let name = container.name.unwrap();
    assert!(name.starts_with("/opri-shop-") && name.ends_with(&format!("-r7-{}", replica.id)), "{name}");
    let host = container.host_config.unwrap();
    assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
    assert_eq!(host.cap_add.unwrap_or_default(), Vec::<String>::new());
    assert_eq!(host.security_opt, Some(vec!["no-new-privileges:true".to_owned()]));
    assert_eq!((host.pids_limit, host.memory, host.init), (Some(512), Some(1 << 30), Some(true)));
    assert_eq!(host.memory_swap, host.memory, "no swap beyond it");
    assert_eq!((host.privileged, host.publish_all_ports), (Some(false), Some(false)));
    assert_eq!(host.readonly_rootfs, Some(false));
    assert!(host.port_bindings.unwrap_or_default().is_empty());
    assert_eq!(host.mounts.unwrap().len(), 1);
    let rotated = host.log_config.unwrap().config.unwrap();
    assert_eq!((rotated["max-size"].as_str(), rotated["max-file"].as_str()), ("10m", "3"));
    let host_namespaces = [host.pid_mode, host.uts_mode, host.userns_mode].map(Option::unwrap_or_default);
    assert_eq!(host_namespaces, [""; 3]);
    let networks = container.network_settings.unwrap().networks.unwrap();
    let network = networks.keys().next().unwrap();
    assert!(networks.len() == 1 && network.starts_with("opri-shop-"), "one network, the project's: {networks:?}");
    assert_eq!(host.network_mode.as_ref(), Some(network));
    let labels = container.config.unwrap().labels.unwrap();
    let label = |name: &str| labels[&format!("openprime.{name}")].clone();
    let known = ["managed", "project", "branch", "release", "role", "replica"].map(label);
    assert_eq!(known, ["true", "shop", "feature/x", "7", "app", "0"]);
    assert_eq!((label("id"), label("commit").len()), (replica.id.to_string(), 40));
}

#[tokio::test]
async fn a_container_has_what_conf_grants_and_no_more() {
    let Some(engine) = engine().await else { return };
    let (world, runtime) = (&engine.world, &engine.world.runtime);
    let container = ContainerWish {
        memory: Some(64 << 20),
        pids: Some(20),
        capabilities: Some(vec!["NET_BIND_SERVICE".to_owned()]),
        read_only: Some(true),
    };
    let wish = AppWish { container, ..Default::default() };
    let release = world.build(wish, &[("Dockerfile", DOCKERFILE), ("app!", program())]).await.unwrap();
    let replica = runtime.start(&release, 0, &env(&[("OPRI_PROJECT", "shop")])).await.unwrap();
    let What::Container(id) = &replica.what else { panic!() };
    let host = engine.docker.client().inspect_container(id, None).await.unwrap().host_config.unwrap();
    assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
    // Newer engines say `CAP_` before the name.
    let granted: Vec<String> = host.cap_add.unwrap().iter().map(|name| name.replace("CAP_", "")).collect();
    assert_eq!(granted, ["NET_BIND_SERVICE"]);
    assert_eq!((host.pids_limit, host.memory, host.readonly_rootfs), (Some(20), Some(64 << 20), Some(true)));
    assert!(host.tmpfs.unwrap()["/tmp"].contains("size=64m"));
    // It serves all the same, by a socket in the one directory that is its own.
    eventually(|| runtime.prepare_socket(&replica).unwrap().then_some(())).await;
    assert_eq!(asks(UnixStream::connect(socket_of(&replica)).await).await.as_deref(), Some("shop"));
    runtime.stop(&replica, Duration::from_secs(5)).await.unwrap();
}

fn socket_of(replica: &Replica) -> &Path {
    let Some(Address::Unix(socket)) = replica.candidates.first() else { panic!("{replica:?}") };
    socket
}

/// Containers, images and networks of ours that are in the engine.
async fn left(docker: &Docker) -> (usize, usize, usize) {
    let (client, ours) = (docker.client(), docker.ours());
    let containers = ListContainersOptionsBuilder::default().all(true).filters(&ours).build();
    let images = ListImagesOptionsBuilder::default().all(true).filters(&ours).build();
    let networks = ListNetworksOptionsBuilder::default().filters(&ours).build();
    (
        client.list_containers(Some(containers)).await.unwrap().len(),
        client.list_images(Some(images)).await.unwrap().len(),
        client.list_networks(Some(networks)).await.unwrap().len(),
    )
}

#[tokio::test]
async fn a_build_in_the_engine_fails_clearly_and_is_cancelled() {
    let Some(engine) = engine().await else { return };
    let world = &engine.world;
    let error = world.build(AppWish::default(), &[("app!", program())]).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NoDockerfile { .. }), "{error}");
    assert!(error.to_string().contains("the repository has no Dockerfile"));

    // Labelled at once, so that what a failed build leaves is taken away as well.
    let base = format!("FROM scratch\nLABEL {}\nCOPY app /bin/sh\n", engine.docker.ours()["label"][0]);
    let dockerfile = format!("{base}RUN exit 3\n");
    let files = [("Dockerfile", dockerfile.as_bytes()), ("app!", program())];
    let error = world.build(AppWish::default(), &files).await.unwrap_err();
    assert!(error.to_string().contains("returned a non-zero code: 3"), "{error}");
    assert!(world.build_output().contains("ran exit 3"), "{}", world.build_output());

    // No fork bomb gets further than this.
    let dockerfile = format!("{base}RUN threads\n");
    let files = [("Dockerfile", dockerfile.as_bytes()), ("app!", program())];
    let error = world.build_of(AppWish::default(), &files, BuildLimits { pids: 16, ..limits() }).await.unwrap_err();
    assert!(error.to_string().contains("returned a non-zero code: 7"), "{error}: {}", world.build_output());
    assert!(world.build_output().contains("no more threads after"), "{}", world.build_output());

    let dockerfile = format!("{base}RUN sleep\n");
    let files = [("Dockerfile", dockerfile.as_bytes()), ("app!", program())];
    let error = world.build_within(AppWish::default(), &files, Duration::from_secs(4)).await.unwrap_err();
    assert!(matches!(error, RuntimeError::TimedOut { what: "build", .. }), "{error}");

    let files = tar_of(&[("Dockerfile", DOCKERFILE)]);
    let cut: ByteStream = Box::pin(futures_util::StreamExt::chain(
        files,
        futures_util::stream::iter([Err(io::Error::other("git archive failed"))]),
    ));
    let limits = BuildLimits { parallel: 1, timeout: Duration::from_secs(20), memory: 1 << 29, cpus: 1.0, pids: 1024 };
    let site: Site = "shop/master".parse().unwrap();
    let commit = "0123456789012345678901234567890123456789".parse().unwrap();
    let order = BuildOrder { site, number: 1, commit, app: AppWish::default().settle(), limits };
    let log = world.runtime.build_log(&order.site, 1).unwrap();
    let error = world.runtime.build(&order, cut, &log).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Source(_)), "{error}");
}

#[tokio::test]
async fn a_release_command_runs_in_a_container_of_its_own() {
    let Some(engine) = engine().await else { return };
    let (world, runtime) = (&engine.world, &engine.world.runtime);
    let release = world.build(AppWish::default(), &[("Dockerfile", DOCKERFILE), ("app!", program())]).await.unwrap();
    let log = runtime.build_log(&release.site, 7).unwrap();
    let given = env(&[("A", "b")]);
    let task = |command| Task { command, env: &given, limit: Duration::from_secs(20) };
    runtime.run_once(&release, task("migrate all"), &log).await.unwrap();
    assert_eq!(tail_file(log.path(), 9).unwrap(), "ran migrate all with b\n");
    let error = runtime.run_once(&release, task("exit 4"), &log).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Ended { exit: Exit::Code(4), .. }), "{error}");
    let slow = Task { limit: Duration::from_secs(2), ..task("sleep") };
    let error = runtime.run_once(&release, slow, &log).await.unwrap_err();
    assert!(matches!(error, RuntimeError::TimedOut { .. }), "{error}");
    assert_eq!(left(&engine.docker).await.0, 0);
}

#[tokio::test]
async fn a_container_that_ends_by_itself_is_told_with_its_status_and_last_words() {
    let Some(engine) = engine().await else { return };
    let runtime = &engine.world.runtime;
    let dockerfile = b"FROM scratch\nCOPY app /bin/sh\nCMD exit 5\n".as_slice();
    let files = [("Dockerfile", dockerfile), ("app!", program())];
    let release = engine.world.build(AppWish::default(), &files).await.unwrap();
    let replica = runtime.start(&release, 0, &env(&[])).await.unwrap();
    assert_eq!(soon(runtime.exited(&replica)).await, Exit::Code(5));
    assert_eq!(runtime.tail(&replica, 5).await.unwrap(), "ran exit 5 with \n");
    assert_eq!(runtime.running().await.unwrap(), []);
    runtime.stop(&replica, Duration::from_secs(1)).await.unwrap();
    assert_eq!(soon(runtime.exited(&replica)).await, Exit::Unknown);
}

#[tokio::test]
async fn a_silent_engine_is_no_engine_within_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let error = soon(Docker::connect_to(socket.display().to_string(), Places::new(dir.path()))).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NoEngine { .. }), "{error}");
    let gone = dir.path().join("none.sock").display().to_string();
    let error = Docker::connect_to(gone, Places::new(dir.path())).await.unwrap_err();
    assert!(error.to_string().contains("hint: start it"), "{error}");
}

/// Answers the first question properly and breaks off in the middle of every other answer.
async fn breaks_off(listener: tokio::net::UnixListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut head = [0; 4096];
        let read = stream.read(&mut head).await.unwrap_or(0);
        let (body, length) = match head[..read].starts_with(b"GET /version") {
            true => (r#"{"ApiVersion":"1.41"}"#, 21),
            false => ("[{", 100),
        };
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n";
        let _ = stream.write_all(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes()).await;
    }
}

#[tokio::test]
async fn half_an_answer_is_an_error_and_never_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    tokio::spawn(breaks_off(tokio::net::UnixListener::bind(&socket).unwrap()));
    let docker = Docker::connect_to(socket.display().to_string(), Places::new(dir.path())).await.unwrap();
    assert!(matches!(soon(docker.running()).await, Err(RuntimeError::Engine { .. })));
    assert!(matches!(soon(docker.clean(&[])).await, Err(RuntimeError::Engine { .. })));
    let replica = Replica {
        id: "0a0a0a0a".to_owned().try_into().unwrap(),
        site: "shop/master".parse().unwrap(),
        release: 1,
        number: 0,
        what: What::Container("c".repeat(64)),
        candidates: Vec::new(),
    };
    assert!(timeout(Duration::from_millis(300), docker.exited(&replica)).await.is_err());
}
