//! Against real git repositories in a temporary directory.

use std::path::Path;
use std::process::Command;

use futures_util::StreamExt;

use super::*;

struct World {
    dir: tempfile::TempDir,
    source: Source,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = Source::new(dir.path().join("state"));
        let world = Self { dir, source };
        std::fs::create_dir(world.work()).unwrap();
        world.git(&["init", "-q", "-b", "master"]);
        world
    }

    fn work(&self) -> std::path::PathBuf {
        self.dir.path().join("work")
    }

    fn repository(&self) -> Repository {
        Repository::Directory(self.work())
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").current_dir(self.work());
        let output = command.args(["-c", "user.name=a", "-c", "user.email=a@b"]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn commit(&self, path: &str, content: &str) -> Commit {
        let file = self.work().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, content).unwrap();
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", "change"]);
        self.git(&["rev-parse", "HEAD"]).parse().unwrap()
    }

    async fn fetch(&self, branch: &str, commit: Option<&Commit>) -> Result<Commit, SourceError> {
        self.source.fetch(&shop(), &self.repository(), &branch.parse().unwrap(), commit).await
    }

    async fn files(&self, commit: &Commit) -> Vec<String> {
        let bytes = whole(self.source.archive(&shop(), commit).await.unwrap()).await.unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().unwrap().map(|entry| entry.unwrap());
        entries.map(|entry| entry.path().unwrap().display().to_string()).filter(|p| !p.ends_with('/')).collect()
    }
}

fn shop() -> ProjectName {
    "shop".parse().unwrap()
}

async fn whole(mut archive: Archive) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(chunk) = archive.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn the_main_branch_is_master_or_the_one_that_head_names() {
    let world = World::new();
    let heads = async || world.source.heads(&shop(), &world.repository()).await;
    let of = |main: &str, has_dev| Heads { main: main.parse().unwrap(), has_dev };
    assert!(matches!(heads().await, Err(SourceError::NoHead(_))));
    world.git(&["checkout", "-q", "-b", "main"]);
    world.commit("a", "1");
    // Their refs end as the usual ones do.
    world.git(&["update-ref", "refs/x/refs/heads/master", "HEAD"]);
    world.git(&["branch", "old/dev"]);
    assert_eq!(heads().await.unwrap(), of("main", false));
    world.git(&["checkout", "-q", "-b", "dev"]);
    assert_eq!(heads().await.unwrap(), of("dev", true));
    world.git(&["branch", "master"]);
    assert_eq!(heads().await.unwrap(), of("master", true));
    world.git(&["branch", "-D", "-q", "master"]);
    world.git(&["checkout", "-q", "--detach"]);
    assert!(matches!(heads().await, Err(SourceError::NoHead(_))));
}

#[tokio::test]
async fn a_commit_is_fetched_only_from_its_own_branch() {
    let world = World::new();
    let first = world.commit("a", "1");
    let second = world.commit("a", "2");
    world.git(&["checkout", "-q", "-b", "dev/x", first.as_str()]);
    let foreign = world.commit("a", "3");

    assert_eq!(world.fetch("master", None).await.unwrap(), second);
    assert_eq!(world.fetch("master", Some(&first)).await.unwrap(), first);
    assert_eq!(world.fetch("dev/x", Some(&foreign)).await.unwrap(), foreign);
    let error = world.fetch("master", Some(&foreign)).await.unwrap_err();
    assert!(matches!(error, SourceError::NotOnBranch { .. }), "{error}");
    assert!(error.to_string().contains(&format!("commit {} is not on branch master", foreign.short())), "{error}");
    let unknown = "0123456789012345678901234567890123456789".parse().unwrap();
    assert!(matches!(world.fetch("master", Some(&unknown)).await, Err(SourceError::NotOnBranch { .. })));
    assert!(matches!(world.fetch("none", None).await, Err(SourceError::NoBranch { .. })));
    let head = world.source.head(&shop(), &world.repository(), &"dev/x".parse().unwrap()).await;
    assert_eq!(head.unwrap(), foreign);
}

#[tokio::test]
async fn a_tag_is_not_a_commit_and_a_forced_push_is_followed() {
    let world = World::new();
    let first = world.commit("a", "1");
    let dropped = world.commit("a", "2");
    world.git(&["tag", "-a", "-m", "t", "v1"]);
    let tag: Commit = world.git(&["rev-parse", "v1"]).parse().unwrap();
    assert_eq!(world.fetch("master", None).await.unwrap(), dropped);
    assert!(matches!(world.fetch("master", Some(&tag)).await, Err(SourceError::NotOnBranch { .. })));

    world.git(&["reset", "-q", "--hard", first.as_str()]);
    let other = world.commit("a", "3");
    assert!(matches!(world.fetch("master", Some(&dropped)).await, Err(SourceError::NotOnBranch { .. })));
    assert_eq!(world.fetch("master", None).await.unwrap(), other);
}

#[tokio::test]
async fn an_archive_holds_every_file_whatever_attributes_say() {
    let world = World::new();
    world.commit(".gitattributes", "secret export-ignore\nsub export-subst\n");
    world.commit("secret", "kept");
    let commit = world.commit("sub", "$Format:%H$");
    world.fetch("master", None).await.unwrap();
    let files = world.files(&commit).await;
    assert!(files.contains(&"secret".to_owned()), "{files:?}");
    let sub = world.source.file(&shop(), &commit, "sub").await.unwrap();
    assert_eq!(sub.as_deref(), Some(b"$Format:%H$".as_slice()));
    let bytes = whole(world.source.archive(&shop(), &commit).await.unwrap()).await.unwrap();
    assert!(String::from_utf8_lossy(&bytes).contains("$Format:%H$"));
}

#[tokio::test]
async fn files_are_regular_small_and_inside() {
    let world = World::new();
    world.commit("dir/opri.toml", "x = 1");
    world.commit("*.toml", "star");
    world.commit("big", &"x".repeat(FILE_MAX + 1));
    std::os::unix::fs::symlink("/etc/passwd", world.work().join("link")).unwrap();
    let commit = world.commit("a", "1");
    world.fetch("master", None).await.unwrap();
    let file = async |path: &str| world.source.file(&shop(), &commit, path).await;
    assert_eq!(file("dir/opri.toml").await.unwrap().as_deref(), Some(b"x = 1".as_slice()));
    assert_eq!(file("*.toml").await.unwrap().as_deref(), Some(b"star".as_slice()));
    for absent in ["none", "link", "dir", ":(glob)**", "--help"] {
        assert_eq!(file(absent).await.unwrap(), None, "{absent}");
    }
    assert!(matches!(file("big").await, Err(SourceError::TooLarge { .. })));
    for outside in ["", "/etc/passwd", "../x", "dir/../a", "./a"] {
        assert!(matches!(file(outside).await, Err(SourceError::Path(_))), "{outside}");
    }
}

#[tokio::test]
async fn hostile_locations_run_nothing() {
    let world = World::new();
    world.commit("a", "1");
    let proof = world.dir.path().join("proof");
    let touch = format!("touch {}", proof.display());
    let hostile = [
        format!("ext::sh -c '{touch}'"),
        format!("--upload-pack={touch}"),
        format!("file://{}", world.work().display()),
        world.work().display().to_string(),
        format!("ssh://-oProxyCommand={touch}/x"),
        format!("http://127.0.0.1:1/{touch}"),
    ];
    for url in hostile {
        let repository = Repository::Url(url.clone());
        let error = world.source.fetch(&shop(), &repository, &BranchName::master(), None).await.unwrap_err();
        assert!(matches!(error, SourceError::Unreachable { .. }), "{url}: {error}");
    }
    assert!(!Path::new(&proof).exists());
}

#[tokio::test]
async fn a_directory_of_another_user_is_read_and_its_own_conf_runs_nothing() {
    let world = World::new();
    let commit = world.commit("a", "1");
    let proof = world.dir.path().join("proof");
    let touch = format!("touch {}", proof.display());
    let hooks = world.dir.path().join("work/.git/hooks");
    std::fs::create_dir_all(&hooks).unwrap();
    std::fs::write(hooks.join("post-upload-pack"), format!("#!/bin/sh\n{touch}\n")).unwrap();
    for key in ["uploadpack.packObjectsHook", "core.fsmonitor", "core.alternateRefsCommand", "core.sshCommand"] {
        world.git(&["config", key, &touch]);
    }
    if rustix::process::geteuid().is_root() {
        let chown = Command::new("chown").args(["-R", "12345"]).arg(world.work()).status().unwrap();
        assert!(chown.success());
    } else {
        eprintln!("*** skipped: only root can give a repository to another user ***");
    }
    assert_eq!(world.fetch("master", None).await.unwrap(), commit);
    assert!(!proof.exists());
}

#[tokio::test]
async fn passwords_stay_out_of_messages() {
    let world = World::new();
    let repository = Repository::Url("https://me:hunter2@127.0.0.1:1/a/b".to_owned());
    let error = world.source.head(&shop(), &repository, &BranchName::master()).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("https://127.0.0.1:1/a/b") && !text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn leftovers_of_a_killed_git_do_not_stop_the_next() {
    let world = World::new();
    world.commit("a", "1");
    world.fetch("master", None).await.unwrap();
    let second = world.commit("a", "2");
    let mirror = world.dir.path().join("state/git/shop.git");
    for lock in ["refs/opri/heads/master.lock", "packed-refs.lock", "objects/pack/tmp_pack_x"] {
        std::fs::create_dir_all(mirror.join(lock).parent().unwrap()).unwrap();
        std::fs::write(mirror.join(lock), "").unwrap();
    }
    assert_eq!(world.fetch("master", None).await.unwrap(), second);
    assert!(!mirror.join("objects/pack/tmp_pack_x").exists());
    world.source.prune(&shop()).await.unwrap();
}

#[tokio::test]
async fn fetches_of_one_project_take_turns() {
    let world = World::new();
    let commit = world.commit("a", "1");
    let fetches = (0..4).map(|_| world.fetch("master", Some(&commit)));
    for fetched in futures_util::future::join_all(fetches).await {
        assert_eq!(fetched.unwrap(), commit);
    }
}

#[tokio::test]
async fn an_unknown_commit_has_no_archive() {
    let world = World::new();
    world.commit("a", "1");
    let unknown: Commit = "0".repeat(40).parse().unwrap();
    assert!(matches!(world.source.archive(&shop(), &unknown).await, Err(SourceError::NotFetched { .. })));
    world.fetch("master", None).await.unwrap();
    assert!(matches!(world.source.file(&shop(), &unknown, "a").await, Err(SourceError::NotFetched { .. })));
}
