//! Conf: the files under `conf/`, from words to a checked machine and its projects.
//!
//! `load` is called at the start and for a reload, `check` by `opri check`. First words (`sheet`, `raw`), then their meaning
//! (`machine`, `project`, `app`), then what only all files together show (`claims`). The rule it keeps: all faults at
//! once, and a fault in a project's file touches that project alone.

mod app;
mod cache;
mod claims;
mod diff;
mod files;
mod kept;
mod machine;
mod mention;
mod outside;
mod previews;
mod project;
mod raw;
mod repository;
mod sheet;
mod units;
mod watch;
mod word;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use crate::model::host::HostPattern;
use crate::model::machine::Machine;
use crate::model::name::ProjectName;
use crate::model::project::{Project, Repository};
use crate::report::{Fault, Warning};

pub use app::repository_wish;
pub use diff::changes;
pub use files::fingerprint;
pub use kept::{keep, last};
pub use watch::watch;

use claims::Entrant;
use machine::Ground;
use sheet::Sheet;

/// Everything conf says, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conf {
    pub machine: Machine,
    pub projects: BTreeMap<ProjectName, Project>,
}

impl Conf {
    /// Every host that is answered: those of the projects and Prime's own.
    pub fn hosts(&self) -> Vec<HostPattern> {
        let own = [Some(&self.machine.hooks.host), self.machine.dashboard.as_ref()];
        let own = own.into_iter().flatten().cloned().map(HostPattern::from);
        let branches = self.projects.values().flat_map(|project| project.branches.values());
        branches.flat_map(|branch| branch.hosts.iter().cloned()).chain(own).collect()
    }
}

/// What can be applied, and what was wrong beside it.
#[derive(Debug)]
pub struct Loaded {
    pub conf: Conf,
    /// Of the projects that stayed as they were in the conf before, or out.
    pub faults: Vec<Fault>,
}

/// Reads the conf directory `dir`. `previous` is what holds now: where a project's file has a fault, its project stays as
/// it is there. Blocks on the file system.
///
/// `Err` when `prime.toml` has a fault, or the directory cannot be read: then nothing is to be applied, and the faults of
/// all files are there.
pub fn load(dir: &Path, previous: Option<&Conf>) -> Result<Loaded, Vec<Fault>> {
    load_below(dir, dir, previous)
}

/// As `load` for a first time, and what conf names that is not on this machine. Blocks on the file system.
pub fn check(dir: &Path) -> (Result<Loaded, Vec<Fault>>, Vec<Warning>) {
    match read(dir, dir, None) {
        Ok(read) => {
            let warnings = read.entrants.iter().flat_map(|entrant| entrant.sheet.warnings()).collect();
            (read.settle(), warnings)
        }
        Err(faults) => (Err(faults), Vec::new()),
    }
}

/// As `load`, with relative paths as they are meant in the conf directory `home`.
fn load_below(dir: &Path, home: &Path, previous: Option<&Conf>) -> Result<Loaded, Vec<Fault>> {
    read(dir, home, previous)?.settle()
}

/// All files, with their faults still on their sheets.
struct Read {
    /// `None` when its file has a fault.
    machine: Option<Machine>,
    projects: BTreeMap<ProjectName, Project>,
    /// The machine's first.
    entrants: Vec<Entrant>,
}

impl Read {
    fn settle(self) -> Result<Loaded, Vec<Fault>> {
        let faults = self.entrants.into_iter().flat_map(|entrant| entrant.sheet.into_faults()).collect();
        match self.machine {
            Some(machine) => Ok(Loaded { conf: Conf { machine, projects: self.projects }, faults }),
            None => Err(faults),
        }
    }
}

fn read(dir: &Path, home: &Path, previous: Option<&Conf>) -> Result<Read, Vec<Fault>> {
    let sheet_of_dir = Sheet::new(dir.display().to_string(), String::new());
    let listed = base(home).and_then(|base| Ok((base, files::projects(dir)?)));
    let (base, paths) = match listed {
        Ok(listed) => listed,
        Err(error) => {
            sheet_of_dir.note(None, format!("the conf directory cannot be read: {error}"), "", None);
            return Err(sheet_of_dir.into_faults());
        }
    };
    if previous.is_some_and(|previous| !previous.projects.is_empty()) && !files::projects_dir(dir).exists() {
        let hint = "put it back; an empty directory says that no project is hosted any more".to_owned();
        sheet_of_dir.note(None, "the directory `projects` is gone", "", Some(hint));
        return Err(sheet_of_dir.into_faults());
    }
    let (said, prime) = read_machine(&files::prime(dir), &base);
    let object_max = said.machine.as_ref().map_or(u64::MAX, |machine| machine.cache.object_max);
    let ground = Ground { base: &base, domain: said.domain, object_max };
    let mut projects = HashMap::new();
    let entrants: Vec<Entrant> = paths.iter().map(|path| read_project(path, &ground, &mut projects)).collect();
    let staying = claims::settle(&prime, &entrants, previous);

    let is_machine_good = prime.sheet.is_good();
    let kept = |name: &ProjectName| previous.and_then(|previous| previous.projects.get(name).cloned());
    let chosen = entrants.iter().filter_map(|entrant| entrant.name.clone()).filter_map(|name| {
        let project = if staying.contains(&name) { kept(&name) } else { projects.remove(&name) };
        Some((name, project?))
    });
    let projects = chosen.collect();
    let machine = said.machine.filter(|_| is_machine_good);
    Ok(Read { machine, projects, entrants: std::iter::once(prime).chain(entrants).collect() })
}

/// Where the state of a Prime with this conf lies, also while `prime.toml` has faults: whoever asks a running Prime must
/// find it then too. Blocks on the file system.
pub fn state_dir(dir: &Path) -> io::Result<PathBuf> {
    let text = std::fs::read_to_string(files::prime(dir))?;
    let said = |text: &str| text.parse::<toml::Table>().ok()?.get("state_dir")?.as_str().map(PathBuf::from);
    let is_key = |line: &&str| line.trim_start().starts_with("state_dir");
    // Where the file does not parse, the line may.
    let said = said(&text).or_else(|| said(text.lines().find(is_key)?));
    Ok(base(dir)?.join(said.unwrap_or_else(|| PathBuf::from("state"))))
}

/// Where relative paths begin: the parent of the conf directory.
fn base(dir: &Path) -> io::Result<PathBuf> {
    let whole = std::path::absolute(dir)?;
    // `a/..` has no name to take away.
    let whole = if whole.ends_with("..") { whole.canonicalize()? } else { whole };
    Ok(whole.parent().unwrap_or(&whole).to_owned())
}

/// Reads what could stand as `repo` in a project's file below `dir`.
pub fn repository(dir: &Path, text: &str) -> Result<Repository, Vec<Fault>> {
    let sheet = Sheet::new("repo".to_owned(), format!("repo = {}", toml::Value::String(text.to_owned())));
    let repository = read_repository(&sheet, dir);
    repository.ok_or_else(|| sheet.into_faults())
}

fn read_repository(sheet: &Sheet, dir: &Path) -> Option<Repository> {
    let tree = sheet.parse()?;
    let word = raw::Table::root(sheet, &tree).word("repo")?;
    match base(dir) {
        Ok(base) => repository::read(&word, &base),
        Err(error) => word.wrong(error.to_string(), None),
    }
}

fn read_machine(path: &Path, base: &Path) -> (machine::Said, Entrant) {
    let shown = path.display().to_string();
    let (sheet, mut said) = match files::read(path) {
        Ok(text) => {
            let sheet = Sheet::new(shown, text);
            let said = machine::read(&sheet, base);
            (sheet, said)
        }
        Err(fault) => {
            let sheet = Sheet::new(shown, String::new());
            note_unreadable_machine(&sheet, &fault);
            (sheet, machine::Said::default())
        }
    };
    let entrant = Entrant { name: None, is_good: sheet.is_good(), sheet, claims: std::mem::take(&mut said.claims) };
    (said, entrant)
}

fn note_unreadable_machine(sheet: &Sheet, fault: &files::FileFault) {
    match fault {
        files::FileFault::Unreadable(error) if error.kind() == io::ErrorKind::NotFound => {
            let hint = "begin with a line like `domain = \"example.org\"`; --conf names another directory";
            sheet.note(None, "there is no conf for the machine", "", Some(hint.to_owned()));
        }
        other => sheet.note(None, other.to_string(), "", None),
    }
}

fn read_project(path: &Path, ground: &Ground<'_>, projects: &mut HashMap<ProjectName, Project>) -> Entrant {
    let shown = path.display().to_string();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = stem.parse::<ProjectName>();
    let (sheet, said) = match (&name, files::read(path)) {
        (Ok(name), Ok(text)) => {
            let sheet = Sheet::new(shown, text);
            let said = project::read(&sheet, name, ground);
            (sheet, said)
        }
        (Err(fault), _) => {
            let sheet = Sheet::new(shown, String::new());
            sheet.note(None, fault.to_string(), "", Some("the file's name is the project's name".to_owned()));
            (sheet, project::Said::default())
        }
        (Ok(_), Err(fault)) => {
            let sheet = Sheet::new(shown, String::new());
            sheet.note(None, fault.to_string(), "", None);
            (sheet, project::Said::default())
        }
    };
    let entrant = Entrant { name: name.ok(), is_good: said.project.is_some(), sheet, claims: said.claims };
    projects.extend(said.project.map(|project| (project.name.clone(), project)));
    entrant
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    /// Pieces that files are made of, in any order.
    fn scribbles() -> impl Strategy<Value = String> {
        let pieces = [
            "repo",
            "upstream",
            "branches",
            "master",
            "hosts",
            "app",
            "health",
            "env",
            "cache",
            "rules",
            "hooks",
            "secret",
            "domain",
            "listen",
            "http",
            "acme",
            "limits",
            "file",
            "ttl",
            "path",
            " = ",
            "[",
            "]",
            "{ ",
            " }",
            ", ",
            "\n",
            "\"",
            "\"\"\"",
            "'",
            "\"a.test\"",
            "\"-\"",
            "\"ext::x\"",
            "\"https://a:b@c/d\"",
            "\"1y\"",
            "1",
            "1.5",
            "-1",
            "true",
            "#",
            ".",
            "\\",
            "\u{0}",
            "\u{feff}",
            "é",
            "\r\n",
            "0x",
            "1979-05-27",
            "[[",
            "]]",
        ];
        proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn whatever_stands_in_a_file_is_a_meaning_or_a_fault(text in scribbles()) {
            let ground = Ground { base: Path::new("/srv"), domain: "a.test".parse().ok(), object_max: 1 };
            let sheet = Sheet::new("shop.toml".into(), text.clone());
            let said = project::read(&sheet, &"shop".parse().unwrap(), &ground);
            prop_assert_eq!(said.project.is_some(), sheet.is_good());
            let faults = sheet.into_faults();
            prop_assert_eq!(said.project.is_some(), faults.is_empty());
            faults.iter().for_each(|fault| drop(fault.to_string()));

            let sheet = Sheet::new("prime.toml".into(), text.clone());
            prop_assert_eq!(machine::read(&sheet, Path::new("/srv")).machine.is_some(), sheet.is_good());
            let _ = repository_wish(&text);
        }
    }

    #[test]
    fn relative_paths_begin_at_the_parent() {
        let here = std::env::current_dir().unwrap();
        for dir in ["conf", "conf/", "./conf"] {
            assert_eq!(base(Path::new(dir)).unwrap(), here, "{dir}");
        }
        assert_eq!(base(Path::new(".")).unwrap(), here.parent().unwrap());
        assert_eq!(base(Path::new("src/..")).unwrap(), here.canonicalize().unwrap().parent().unwrap());
        assert_eq!(base(Path::new("/")).unwrap(), Path::new("/"));
    }

    #[test]
    fn files_that_cannot_be_read_are_faults_of_their_projects() {
        let home = tempfile::tempdir().unwrap();
        let projects = home.path().join("projects");
        fs::create_dir(&projects).unwrap();
        fs::write(home.path().join("prime.toml"), "domain = \"a.test\"").unwrap();
        fs::write(projects.join("good.toml"), "upstream = \"127.0.0.1:1\"").unwrap();
        fs::write(projects.join("large.toml"), vec![b'#'; (1 << 20) + 1]).unwrap();
        fs::write(projects.join("latin.toml"), b"# a\n# \xe9").unwrap();
        std::os::unix::fs::symlink("/no/such", projects.join("lost.toml")).unwrap();
        let loaded = load(home.path(), None).unwrap();
        let messages: Vec<&str> = loaded.faults.iter().map(|fault| fault.message.as_str()).collect();
        assert_eq!(loaded.conf.projects.len(), 1);
        assert!(messages[0].contains("larger than") && messages[1].contains("line 2 has"), "{messages:?}");
        assert!(messages[2].contains("cannot be read: No such file"), "{messages:?}");
    }

    #[test]
    fn a_directory_that_cannot_be_listed_removes_nothing() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("prime.toml"), "domain = \"a.test\"").unwrap();
        fs::write(home.path().join("projects"), "").unwrap();
        assert!(load(home.path(), None).is_err());
    }
}
