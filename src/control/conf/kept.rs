//! The conf that held last, kept below the state directory: for the day control begins anew and a project's file has a
//! fault. Then that project stays as it was, as it does at a reload.
//!
//! Called by control at its start and after each reload. The rule: only what held is kept, each file written aside and
//! renamed, so that what is there is whole.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{Conf, files, load_below};
use crate::report::Fault;

/// Where it lies.
pub fn place(state_dir: &Path) -> PathBuf {
    state_dir.join("conf")
}

/// What was kept for the conf directory `dir`; `None` when nothing was, or nothing that can be read.
pub fn last(dir: &Path, state_dir: &Path) -> Option<Conf> {
    load_below(&place(state_dir), dir, None).ok().map(|loaded| loaded.conf)
}

/// Keeps the files of `dir` that hold. Blocks on the file system.
pub fn keep(dir: &Path, conf: &Conf, faults: &[Fault]) -> io::Result<()> {
    let kept = place(&conf.machine.state_dir);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(files::projects_dir(&kept))?;
    let faulty: HashSet<&str> = faults.iter().map(|fault| fault.file.as_str()).collect();
    let present = files::projects(dir)?;
    for path in std::iter::once(&files::prime(dir)).chain(&present) {
        let is_good = !faulty.contains(path.display().to_string().as_str());
        if let (true, Ok(text), Ok(below)) = (is_good, files::read(path), path.strip_prefix(dir)) {
            write_aside(&kept.join(below), &text)?;
        }
    }
    let names: HashSet<_> = present.iter().filter_map(|path| path.file_name()).collect();
    for path in files::projects(&kept)? {
        if path.file_name().is_some_and(|name| !names.contains(name)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn write_aside(path: &Path, text: &str) -> io::Result<()> {
    if files::read(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let aside = path.with_extension("new");
    fs::write(&aside, text)?;
    fs::File::open(&aside)?.sync_all()?;
    fs::rename(aside, path)
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::*;

    #[test]
    fn a_project_with_a_fault_is_as_it_was_also_for_a_control_that_begins_anew() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("conf");
        fs::create_dir_all(dir.join("projects")).unwrap();
        fs::write(dir.join("prime.toml"), "domain = \"test\"\n").unwrap();
        fs::write(dir.join("projects/shop.toml"), "repo = \"acme/shop\"\n").unwrap();
        fs::write(dir.join("projects/blog.toml"), "repo = \"acme/blog\"\n").unwrap();
        let good = load(&dir, None).unwrap();
        let state_dir = good.conf.machine.state_dir.clone();
        keep(&dir, &good.conf, &good.faults).unwrap();
        assert_eq!(last(&dir, &state_dir).as_ref(), Some(&good.conf), "relative paths mean the same");

        fs::write(dir.join("projects/shop.toml"), "repo = 7\n").unwrap();
        fs::remove_file(dir.join("projects/blog.toml")).unwrap();
        let faulty = load(&dir, last(&dir, &state_dir).as_ref()).unwrap();
        assert_eq!(faulty.faults.len(), 1);
        assert_eq!(faulty.conf.projects.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["shop"]);
        keep(&dir, &faulty.conf, &faulty.faults).unwrap();
        let kept = last(&dir, &state_dir).unwrap();
        assert_eq!(kept.projects, faulty.conf.projects, "the good shop is kept, the blog is gone");
    }
}
