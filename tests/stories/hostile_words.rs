//! Five hundred words that want to be a command, an option or a path: as branch, URL, commit, project, release and tag.
//!
//! Programs of the same names stand first in PATH and write down what they are called with. The rule: nothing is called with
//! a word from outside, unless behind `--`, where git takes everything for a repository; and nothing is made by any.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::world::{Prime, World, opri};

/// In every word, and in nothing else.
const MARK: &str = "pwn7";
/// Who could be called by one of them.
const PROGRAMS: [&str; 6] = ["git", "sh", "docker", "ssh", "bash", "touch"];

const WORDS: [&str; 50] = [
    "$(touch pwn7)",
    "`touch pwn7`",
    ";touch pwn7",
    "master;touch pwn7",
    "master;touch${IFS}pwn7",
    "|touch pwn7",
    "||touch pwn7",
    "&touch pwn7",
    "&&touch pwn7",
    "master&&touch pwn7&&",
    "> pwn7",
    ">pwn7",
    "< /etc/passwd > pwn7",
    "'; touch pwn7; '",
    "\"; touch pwn7; \"",
    "\\\"; touch pwn7",
    "master\ntouch pwn7",
    "master\r\ntouch pwn7",
    "master\0touch pwn7",
    "\u{1b}]0;pwn7\u{7}",
    "\u{202e}pwn7",
    "$IFS$9pwn7",
    "${PATH}pwn7",
    "%0atouch%20pwn7",
    "{touch,pwn7}",
    "*pwn7",
    "?pwn7",
    "~pwn7",
    "#pwn7",
    "!pwn7",
    "-pwn7",
    "--pwn7",
    "--upload-pack=touch pwn7",
    "--upload-pack=touch${IFS}pwn7;",
    "-u touch pwn7",
    "--exec=touch pwn7",
    "--output=pwn7",
    "--help=pwn7",
    "-oProxyCommand=touch pwn7",
    "ssh://-oProxyCommand=touch pwn7/x",
    "ext::sh -c touch% pwn7",
    "file:///etc/pwn7",
    "fd::pwn7",
    "http://127.0.0.1:1/`touch pwn7`",
    "git@-oProxyCommand=pwn7:x",
    "../../../pwn7",
    "/tmp/../pwn7",
    "master/../../pwn7",
    "refs/heads/../../pwn7.lock",
    "@{pwn7}~1^{tree}:pwn7",
];

/// Programs that write down their arguments and then are what they are named.
fn shims(world: &World) -> (PathBuf, PathBuf) {
    let (dir, log) = (world.path().join("shims"), world.path().join("calls"));
    fs::create_dir(&dir).unwrap();
    for name in PROGRAMS {
        // 31 ends an argument, 30 a call.
        let Some(real) = real(name) else { continue };
        let lines = [
            "#!/bin/sh".to_owned(),
            format!("printf '%s\\037' {name} \"$@\" >>'{}'; printf '\\036' >>'{0}'", log.display()),
            format!("exec '{}' \"$@\"\n", real.display()),
        ];
        fs::write(dir.join(name), lines.join("\n")).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    (dir, log)
}

/// Where the program itself is.
fn real(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.exists())
}

/// Every call, as a list of words.
fn calls(log: &Path) -> Vec<Vec<String>> {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
    let call = |call: &str| call.split('\u{1f}').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    text.split('\u{1e}').filter(|call| !call.is_empty()).map(call).collect()
}

/// Each word in each place of a webhook that is honestly signed.
fn as_webhooks(prime: &Prime<'_>, repo: &crate::world::Repo) -> usize {
    let commit = repo.git(&["rev-parse", "HEAD"]);
    let places = ["/branch", "/commit", "/repository/name", "/repository/owner_name", "/tag"];
    for place in places {
        for word in WORDS {
            let mut payload = prime.payload(repo, "master", commit.trim());
            *payload.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = Value::from(word);
            let answer = prime.hook(&payload);
            assert_ne!(answer.status.as_u16(), 202, "{place} {word:?}: {}", answer.body);
            assert!(!answer.status.is_server_error(), "{place} {word:?}: {}", answer.body);
        }
    }
    places.len() * WORDS.len()
}

/// Each word in each place that a person types.
fn as_arguments(prime: &Prime<'_>) -> usize {
    type Place<'p> = &'p dyn Fn(&str) -> Vec<String>;
    let places: [Place<'_>; 4] = [
        &|word| vec!["deploy".to_owned(), "--".to_owned(), format!("shop/{word}")],
        &|word| vec!["deploy".to_owned(), "--".to_owned(), "shop".to_owned(), word.to_owned()],
        &|word| vec!["host".to_owned(), "--".to_owned(), word.to_owned(), "acme/shop".to_owned()],
        &|word| vec!["host".to_owned(), "--".to_owned(), "evil".to_owned(), word.to_owned()],
    ];
    let typed = WORDS.into_iter().filter(|word| !word.contains('\0'));
    for word in typed.clone() {
        for place in places {
            let mut verb = opri();
            // With options before `--`.
            let arguments = place(word);
            verb.arg("--conf").arg(prime.conf_file("")).args(&arguments).current_dir(prime.world.path());
            let output = verb.stdin(Stdio::null()).output().unwrap();
            assert!(!output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
            assert!(!output.stderr.contains(&0x1b), "a terminal would obey it: {output:?}");
        }
    }
    places.len() * typed.count()
}

/// Each word as a branch in conf, where it is a fault or does nothing.
fn as_branches(prime: &Prime<'_>) -> usize {
    for word in WORDS {
        let mut branches = toml::Table::new();
        branches.insert(word.to_owned(), toml::Table::new().into());
        let text = format!("repo = \"acme/shop\"\n[branches]\n{}", toml_of(&branches));
        fs::write(prime.conf_file("projects/evil.toml"), text).unwrap();
        let _ = prime.opri(&["reload"]);
    }
    fs::remove_file(prime.conf_file("projects/evil.toml")).unwrap();
    prime.does(&["reload"]);
    WORDS.len()
}

fn toml_of(table: &toml::Table) -> String {
    table.keys().map(|key| format!("{} = {{}}\n", toml::Value::from(key.as_str()))).collect()
}

#[test]
fn five_hundred_hostile_words_call_nothing_and_make_nothing() {
    let world = World::new();
    let (dir, log) = shims(&world);
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let shop = world.repo("shop");
    shop.commit("page");
    let prime = world.prime().hosting(&shop, "").environment("PATH", &path).start();
    prime.deploys(&shop, "master");
    let honest = calls(&log);
    assert!(honest.iter().any(|call| call[0] == "git") && honest.iter().any(|call| call[0] == "sh"), "{honest:?}");

    let words = as_webhooks(&prime, &shop) + as_arguments(&prime) + as_branches(&prime);
    assert!(words >= 490, "only {words}");

    for call in calls(&log) {
        let options = call.iter().take_while(|word| *word != "--");
        assert!(!options.clone().any(|word| word.contains(MARK)), "called with a word from outside: {call:?}");
        let is_other = call[0] != "git" && call.iter().any(|word| word.contains(MARK));
        assert!(!is_other, "only git is told where a repository is: {call:?}");
        assert_ne!(call[0], "touch", "{call:?}");
    }
    let found = Command::new("find").arg(world.path()).args(["-name", &format!("*{MARK}*")]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
    assert!(!Path::new(MARK).exists() && !Path::new("/tmp").join(MARK).exists());
    assert_eq!(prime.does(&["list", "--json"]).matches("\"project\"").count(), 2, "master and dev, and no other site");
    prime.says("http://shop.test", "page");
}
