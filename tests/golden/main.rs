//! Conf in, report out: each `NAME.conf` here is a conf directory, each `NAME.report` what Open Prime says of it.
//!
//! A line `--- path` begins a file, `--- path/` makes a directory, `--- path (removed)` takes a file away. `=== then` lets
//! all before it be loaded first, and what follows be a change to it. A file `opri.toml` is read as a repository's own.
//! Of a case `check-…` is told what `opri check` says, which looks for what conf names beyond itself.
//!
//! `OPRI_GOLDEN=write cargo test --test golden` writes all reports anew; read the difference before you keep it.

use std::fs;
use std::path::{Path, PathBuf};

use open_prime::control::conf::{self, Conf, changes};
use open_prime::report::Fault;

#[test]
fn every_conf_gets_its_report() {
    let mut cases: Vec<PathBuf> = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    cases.sort();
    assert!(cases.len() >= 25, "only {} cases", cases.len());
    let is_writing = std::env::var_os("OPRI_GOLDEN").is_some_and(|value| value == "write");
    let mut wrong = Vec::new();
    for case in cases {
        let is_check = case.file_name().unwrap().to_str().unwrap().starts_with("check-");
        let text = fs::read_to_string(&case).unwrap();
        let report = if is_check { check(&text) } else { report(&text) };
        let golden = case.with_extension("report");
        if is_writing {
            fs::write(&golden, &report).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        if report != expected {
            wrong.push(format!("{}\n--- expected\n{expected}--- got\n{report}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_report_has_its_conf() {
    for entry in fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "report") {
            assert!(path.with_extension("conf").exists(), "{} has no conf", path.display());
        }
    }
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// What is said of the last stage of a case.
fn report(case: &str) -> String {
    let home = tempfile::tempdir_in("/tmp").unwrap();
    let mut previous: Option<Conf> = None;
    let mut said = String::new();
    for stage in case.split("=== then\n") {
        lay_out(home.path(), stage);
        said.clear();
        if let Ok(text) = fs::read_to_string(home.path().join("opri.toml")) {
            said = match conf::repository_wish(&text) {
                Ok(wish) => format!("{wish:#?}\n"),
                Err(faults) => written(&faults),
            };
            continue;
        }
        match conf::load(&home.path().join("conf"), previous.as_ref()) {
            Ok(loaded) => {
                said += &written(&loaded.faults);
                said += &applied(previous.as_ref(), &loaded.conf);
                previous = Some(loaded.conf);
            }
            Err(faults) => said += &(written(&faults) + "nothing applied\n"),
        }
    }
    said.replace(&format!("{}/", home.path().display()), "")
}

/// What `opri check` says of a case.
fn check(case: &str) -> String {
    let home = tempfile::tempdir_in("/tmp").unwrap();
    lay_out(home.path(), case);
    let (loaded, warnings) = conf::check(&home.path().join("conf"));
    let faults = loaded.map_or_else(|faults| faults, |loaded| loaded.faults);
    let warnings: String = warnings.iter().map(|warning| format!("{warning}\n")).collect();
    (written(&faults) + &warnings).replace(&format!("{}/", home.path().display()), "")
}

fn lay_out(home: &Path, stage: &str) {
    for file in stage.split("--- ").skip(1) {
        let (path, text) = file.split_once('\n').unwrap_or((file, ""));
        let (path, is_removed) = match path.strip_suffix(" (removed)") {
            Some(path) => (path, true),
            None => (path, false),
        };
        let whole = home.join(path);
        fs::create_dir_all(whole.parent().unwrap()).unwrap();
        match (is_removed, path.ends_with('/')) {
            (true, _) => fs::remove_file(whole).unwrap(),
            (_, true) => fs::create_dir_all(whole).unwrap(),
            _ => fs::write(whole, text).unwrap(),
        }
    }
}

fn written(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("{fault}\n")).collect()
}

/// What holds now, host by host, or what changed.
fn applied(previous: Option<&Conf>, conf: &Conf) -> String {
    if let Some(previous) = previous {
        return changes(previous, conf).unwrap_or_else(|| "nothing changed".to_owned()) + "\n";
    }
    let mut text = String::new();
    for (site, branch) in conf.projects.values().flat_map(|project| project.sites()) {
        let hosts: Vec<String> = branch.hosts.iter().map(ToString::to_string).collect();
        text += &format!("{site}: {}\n", hosts.join(", "));
    }
    if text.is_empty() { "no project applied\n".to_owned() } else { text }
}
