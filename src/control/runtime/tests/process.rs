//! The process runtime with real shells.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

use super::*;
use crate::model::address::Address;

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::Process(Process::new(Places::new(dir.path())));
    World { dir, runtime }
}

fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

#[tokio::test]
async fn an_app_is_built_started_watched_and_stopped() {
    let world = world();
    let app = AppWish { build: Some("echo building; cp in out".into()), ..run("cat out; env; exec sleep 1000") };
    let release = world.build(app, &[("in", b"content\n")]).await.unwrap();
    assert!(world.build_output().contains("building\n"), "{}", world.build_output());

    let replica = world.runtime.start(&release, 0, &env(&[("OPRI_PROJECT", "shop")])).await.unwrap();
    let log = world.places().log(&release.site, 7);
    let socket = world.places().socket(&replica.id);
    let said = eventually(|| read(&log).filter(|log| log.contains("SOCKET="))).await;
    let Address::Tcp(port) = &replica.candidates[1] else { panic!("{:?}", replica.candidates) };
    assert_eq!(replica.candidates[0], Address::Unix(socket.clone()));
    for line in
        ["content", "OPRI_PROJECT=shop", &format!("SOCKET={}", socket.display()), &format!("PORT={}", port.port())]
    {
        assert!(said.lines().any(|said| said == line), "{line} in {said}");
    }
    assert!(!said.contains("CARGO"), "the environment of control leaks: {said}");
    assert_eq!(world.runtime.running().await.unwrap(), std::slice::from_ref(&replica));

    let mut exited = world.runtime.exited(&replica);
    assert!(timeout(Duration::from_millis(50), &mut exited).await.is_err());
    soon(world.runtime.stop(&replica, Duration::from_secs(10))).await.unwrap();
    assert_eq!(soon(exited).await, Exit::Signal(15));
    soon(world.runtime.stop(&replica, Duration::from_secs(10))).await.unwrap();
    assert!(!socket.parent().unwrap().exists() && !world.places().record(&replica.id).exists());
    assert_eq!(world.runtime.running().await.unwrap(), []);
}

#[tokio::test]
async fn a_new_control_adopts_what_the_old_one_started() {
    let world = world();
    let release = world.build(run("sleep 1000"), &[]).await.unwrap();
    let replica = world.runtime.start(&release, 0, &env(&[])).await.unwrap();
    let stored: Replica = serde_json::from_slice(&serde_json::to_vec(&replica).unwrap()).unwrap();

    let next = Runtime::Process(Process::new(world.places()));
    assert_eq!(next.running().await.unwrap(), std::slice::from_ref(&stored));
    assert!(matches!(next.discard(&release.artifact).await, Err(RuntimeError::InUse(_))));
    let exited = next.exited(&stored);
    soon(next.stop(&stored, Duration::from_secs(10))).await.unwrap();
    assert_eq!(soon(exited).await, Exit::Unknown);
    next.discard(&release.artifact).await.unwrap();
    next.discard(&release.artifact).await.unwrap();
    assert!(!world.places().release(&release.site, 7).exists());
}

#[tokio::test]
async fn an_exit_is_told_with_its_status() {
    let world = world();
    let release = world.build(run("./app"), &[("app!", b"#!/bin/sh\necho last words; exit 3\n")]).await.unwrap();
    let replica = world.runtime.start(&release, 0, &env(&[])).await.unwrap();
    assert_eq!(soon(world.runtime.exited(&replica)).await, Exit::Code(3));
    assert_eq!(world.runtime.tail(&replica, 5).await.unwrap(), "last words\n");
    assert_eq!(soon(world.runtime.exited(&replica)).await, Exit::Code(3));
    assert_eq!(world.runtime.running().await.unwrap(), []);
    assert!(!world.places().nest(&replica.id).exists());
}

#[tokio::test]
async fn a_stop_ends_the_whole_group_and_one_that_will_not_go() {
    let world = world();
    let line =
        "trap '' TERM; (trap '' TERM; echo $$ >/dev/null; exec sleep 1000) & echo $! >child; sleep 1000 & wait; wait";
    let release = world.build(run(line), &[]).await.unwrap();
    let replica = world.runtime.start(&release, 0, &env(&[])).await.unwrap();
    let child = eventually(|| read(&world.places().release(&release.site, 7).join("child"))).await;
    soon(world.runtime.stop(&replica, Duration::from_millis(300))).await.unwrap();
    assert!(!is_running(&child));
}

#[tokio::test]
async fn what_outlives_its_leader_is_found_and_others_are_left_alone() {
    let world = world();
    let release = world.build(run("sleep 1000 & echo $! >child; exit 0"), &[]).await.unwrap();
    let replica = world.runtime.start(&release, 0, &env(&[])).await.unwrap();
    let child = eventually(|| read(&world.places().release(&release.site, 7).join("child"))).await;
    assert_eq!(soon(world.runtime.exited(&replica)).await, Exit::Code(0));

    // The same numbers said by a record of another replica: the process does not carry its socket.
    let foreign = Replica { id: "00000000".to_owned().try_into().unwrap(), ..replica.clone() };
    soon(world.runtime.stop(&foreign, Duration::ZERO)).await.unwrap();
    assert!(is_running(&child));
    soon(world.runtime.stop(&replica, Duration::from_secs(5))).await.unwrap();
    assert!(!is_running(&child));
}

#[tokio::test]
async fn a_build_that_fails_or_takes_too_long_leaves_nothing() {
    let world = world();
    let failing = AppWish { build: Some("echo broken >&2; exit 9".into()), ..run("x") };
    let error = world.build(failing, &[]).await.unwrap_err();
    assert_eq!(error.to_string(), "the build ended with exit status 9");
    assert!(world.build_output().ends_with("broken\n"));
    let folder = world.places().release(&"shop/feature/x".parse().unwrap(), 7);
    assert!(!folder.exists());

    let pids = world.dir.path().join("pids");
    let line = format!("sleep 1000 & echo $! $$ >{}; wait", pids.display());
    let slow = AppWish { build: Some(line), ..run("x") };
    let error = world.build_within(slow, &[], Duration::from_millis(1500)).await.unwrap_err();
    assert!(matches!(error, RuntimeError::TimedOut { what: "build", .. }), "{error}");
    let pids = read(&pids).unwrap();
    for pid in pids.split_whitespace() {
        eventually(|| (!is_running(pid)).then_some(())).await;
    }
    assert!(!folder.exists());
    assert_eq!(std::fs::read_dir(folder.parent().unwrap()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_build_does_not_wait_for_what_it_left_in_the_background() {
    let world = world();
    let app = AppWish { build: Some("sleep 1000 & echo $! >child".into()), ..run("x") };
    let release = soon(world.build(app, &[])).await.unwrap();
    let child = read(&world.places().release(&release.site, 7).join("child")).unwrap();
    eventually(|| (!is_running(&child)).then_some(())).await;
}

#[tokio::test]
async fn without_a_run_line_it_says_what_to_do() {
    let world = world();
    let error = world.build(AppWish::default(), &[("index.html", b"x")]).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NothingToRun), "{error}");
    assert!(error.to_string().starts_with("no Dockerfile and no run line"));
    let error = world.build(AppWish::default(), &[("Dockerfile", b"FROM x")]).await.unwrap_err();
    assert!(matches!(error, RuntimeError::NeedsDocker), "{error}");
    world.build(AppWish::default(), &[("Procfile", b"web: sleep 1\n")]).await.unwrap();
}

#[tokio::test]
async fn a_release_command_runs_in_the_release() {
    let world = world();
    let release = world.build(run("x"), &[("file", b"here\n")]).await.unwrap();
    let log = world.runtime.build_log(&release.site, 7).unwrap();
    let given = env(&[("A", "b")]);
    let task = |command| Task { command, env: &given, limit: Duration::from_secs(20) };
    world.runtime.run_once(&release, task("cat file; echo $A"), &log).await.unwrap();
    assert_eq!(tail_file(log.path(), 9).unwrap(), "here\nb\n");
    let error = world.runtime.run_once(&release, task("exit 4"), &log).await.unwrap_err();
    assert!(matches!(error, RuntimeError::Ended { exit: Exit::Code(4), .. }), "{error}");
}

#[tokio::test]
async fn a_socket_is_opened_and_anything_else_in_its_place_refused() {
    let world = world();
    let id = world.places().make_nest(0o777).unwrap();
    let socket = world.places().socket(&id);
    assert!(!world.places().open_socket(&id).unwrap());
    let _listener = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(world.places().open_socket(&id).unwrap());
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o666);

    let victim = world.dir.path().join("victim");
    std::fs::write(&victim, "x").unwrap();
    std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::remove_file(&socket).unwrap();
    std::os::unix::fs::symlink(&victim, &socket).unwrap();
    assert!(matches!(world.places().open_socket(&id), Err(RuntimeError::NotASocket { .. })));
    assert_eq!(std::fs::metadata(&victim).unwrap().permissions().mode() & 0o777, 0o600);

    let admin = world.dir.path().join("run/admin.sock");
    let _admin = UnixListener::bind(&admin).unwrap();
    std::fs::set_permissions(&admin, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::remove_file(&socket).unwrap();
    std::fs::hard_link(&admin, &socket).unwrap();
    assert!(matches!(world.places().open_socket(&id), Err(RuntimeError::NotASocket { .. })));
    assert_eq!(std::fs::metadata(&admin).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_state_directory_too_deep_for_a_socket_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::Process(Process::new(Places::new(&dir.path().join("x".repeat(100)))));
    let world = World { dir, runtime };
    let release = world.build(run("x"), &[]).await.unwrap();
    let error = world.runtime.start(&release, 0, &env(&[])).await.unwrap_err();
    assert!(matches!(error, RuntimeError::SocketPath { .. }), "{error}");
}

#[tokio::test]
async fn leftovers_of_a_crash_are_cleaned() {
    let world = world();
    let release = world.build(run("sleep 1000"), &[]).await.unwrap();
    let replica = world.runtime.start(&release, 0, &env(&[])).await.unwrap();
    let folder = world.places().release(&release.site, 7);
    let stale =
        [folder.with_file_name("r6"), folder.with_file_name(".unpacking-x"), world.places().nests().join("0a0a0a0a")];
    let kept = folder.with_file_name("r5");
    stale.iter().chain([&kept]).for_each(|path| std::fs::create_dir_all(path.join("x")).unwrap());

    world.runtime.clean(&[Artifact::Directory(kept.clone())]).await.unwrap();
    assert!(stale.iter().all(|path| !path.exists()));
    assert!(kept.exists() && folder.exists() && world.places().nest(&replica.id).exists());
    soon(world.runtime.stop(&replica, Duration::from_secs(5))).await.unwrap();
    world.runtime.clean(&[]).await.unwrap();
    assert!(!kept.exists() && !folder.exists());
}

#[tokio::test]
async fn only_the_directory_of_a_release_is_discarded() {
    let world = world();
    let releases = world.places().releases();
    for wrong in [releases.join("shop/master"), releases.join("../../x/y/z"), "/etc".into(), releases.join("a/../../c")]
    {
        let error = world.runtime.discard(&Artifact::Directory(wrong)).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Io { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_log_is_followed_across_its_new_beginning() {
    use futures_util::StreamExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r1.log");
    std::fs::write(&path, "1\n2\n3\n").unwrap();
    let mut stream = log::follow_file(path.clone(), 2);
    assert_eq!(stream.next().await.unwrap().unwrap(), "2\n3\n");
    std::fs::write(&path, "4\n").unwrap();
    assert_eq!(soon(stream.next()).await.unwrap().unwrap(), "4\n");
}
