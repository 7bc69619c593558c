//! Where a story may kill control: a named point on either side of every step that a crash must not confuse.
//!
//! Reached by `crash_point!` alone, which is nothing in a release build, as this module is: a call that stood there bare
//! would not compile. The rule: nothing happens unless `OPRI_CRASH` names a file, and that file the point.

use std::path::Path;

use rustix::process::{Pid, Signal, getpid, kill_process};

/// Kills those whose numbers follow the point's name in the file, and then this process, without a last word.
pub fn point(name: &str) {
    let Some(file) = std::env::var_os("OPRI_CRASH") else { return };
    let Some(others) = ordered(Path::new(&file), name) else { return };
    for process in others.into_iter().chain([getpid()]) {
        let _ = kill_process(process, Signal::KILL);
    }
}

/// Whom to kill too, where the file asks for this point. It is taken away, so that the next control lives.
fn ordered(file: &Path, name: &str) -> Option<Vec<Pid>> {
    let order = std::fs::read_to_string(file).ok()?;
    let mut words = order.split_whitespace();
    let is_asked_for = words.next() == Some(name) && std::fs::remove_file(file).is_ok();
    is_asked_for.then(|| words.filter_map(|word| Pid::from_raw(word.parse().ok()?)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_asked_for_by_its_name_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("crash");
        assert_eq!(ordered(&file, "a"), None, "no file");
        std::fs::write(&file, "a 17\n").unwrap();
        assert_eq!(ordered(&file, "a.before"), None);
        assert_eq!(ordered(&file, "a"), Some(vec![Pid::from_raw(17).unwrap()]));
        assert_eq!(ordered(&file, "a"), None, "it was taken");
    }
}
