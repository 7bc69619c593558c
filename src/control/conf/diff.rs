//! What changed between two confs, in words.
//!
//! Called after a reload, for the line in the log and the answer to `opri reload`.

use super::Conf;

/// `changed: machine, shop; added: blog; removed: wiki`, or `None` when nothing did.
pub fn changes(old: &Conf, new: &Conf) -> Option<String> {
    let machine = (old.machine != new.machine).then_some("machine");
    let differs = |name: &&_| old.projects.get(*name).is_some_and(|was| Some(was) != new.projects.get(*name));
    let stayed = new.projects.keys().filter(differs).map(|name| name.as_str());
    let added = new.projects.keys().filter(|name| !old.projects.contains_key(*name)).map(|name| name.as_str());
    let removed = old.projects.keys().filter(|name| !new.projects.contains_key(*name)).map(|name| name.as_str());
    let parts = [
        ("changed", machine.into_iter().chain(stayed).collect::<Vec<_>>()),
        ("added", added.collect()),
        ("removed", removed.collect()),
    ];
    let said = parts.iter().filter(|(_, names)| !names.is_empty());
    let said: Vec<String> = said.map(|(what, names)| format!("{what}: {}", names.join(", "))).collect();
    (!said.is_empty()).then(|| said.join("; "))
}
