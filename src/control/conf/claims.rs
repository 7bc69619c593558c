//! Who has which host, when two want it.
//!
//! Called by `load` when every file has been read. The rule it keeps: whoever has a host keeps it, and the fault is with
//! whoever newly claims it; of two that are both new, the machine goes before projects and `a` before `b`. A project with
//! a fault stays as it was, and so do its claims.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use crate::model::host::HostPattern;
use crate::model::name::ProjectName;
use crate::model::project::Project;

use super::Conf;
use super::sheet::Sheet;

/// One host that a file wants.
#[derive(Debug)]
pub struct Claim {
    pub host: HostPattern,
    /// `None` for a default host that nothing in the file names.
    pub at: Option<Range<usize>>,
    /// Whose it would be, in words.
    pub what: String,
}

/// A file with what was read in it.
#[derive(Debug)]
pub struct Entrant {
    /// `None` for the machine's file.
    pub name: Option<ProjectName>,
    pub sheet: Sheet,
    pub claims: Vec<Claim>,
    /// Whether it can be applied, so far as the file alone shows.
    pub is_good: bool,
}

/// Notes every conflict on the sheet of the one at fault, and gives the projects that have to stay as they were.
/// `projects` are in alphabetical order.
pub fn settle(machine: &Entrant, projects: &[Entrant], previous: Option<&Conf>) -> HashSet<ProjectName> {
    let contest = Contest { machine, projects, before: previous.map(holders).unwrap_or_default(), previous };
    let faulty = projects.iter().filter(|project| !project.is_good);
    let mut staying: HashSet<ProjectName> = faulty.filter_map(|project| project.name.clone()).collect();
    // Whoever has to stay as it was takes up hosts again that it had given away: look once more.
    let taken = loop {
        let (taken, refused) = contest.round(&staying);
        if refused.is_empty() {
            break taken;
        }
        staying.extend(refused);
    };
    let faulty = projects.iter().filter(|project| !project.is_good);
    for entrant in std::iter::once(machine).chain(faulty) {
        contest.note_conflicts(entrant, &taken);
    }
    staying
}

struct Contest<'c> {
    machine: &'c Entrant,
    projects: &'c [Entrant],
    previous: Option<&'c Conf>,
    /// The project that has a host now.
    before: HashMap<&'c HostPattern, &'c ProjectName>,
}

/// Who has a host: a claim of a file, or a project as it was.
enum Holder<'c> {
    Claim(&'c Entrant, &'c Claim),
    AsItWas(&'c Entrant),
}

type Taken<'c> = HashMap<&'c HostPattern, Holder<'c>>;

impl<'c> Contest<'c> {
    /// Gives out all hosts, with those that stay and those that had theirs before everybody else.
    fn round(&self, staying: &HashSet<ProjectName>) -> (Taken<'c>, Vec<ProjectName>) {
        let mut taken = Taken::new();
        for project in self.projects {
            match project.name.as_ref().is_some_and(|name| staying.contains(name)) {
                true => {
                    let hosts = self.as_it_was(project).into_iter().flat_map(hosts);
                    taken.extend(hosts.map(|host| (host, Holder::AsItWas(project))));
                }
                false => {
                    let had = |claim: &&Claim| self.before.get(&claim.host).copied() == project.name.as_ref();
                    let kept = project.claims.iter().filter(had);
                    taken.extend(kept.map(|claim| (&claim.host, Holder::Claim(project, claim))));
                }
            }
        }
        for claim in &self.machine.claims {
            taken.entry(&claim.host).or_insert(Holder::Claim(self.machine, claim));
        }
        let mut refused = Vec::new();
        for project in self.projects {
            let Some(name) = project.name.as_ref().filter(|name| !staying.contains(*name)) else { continue };
            if self.note_conflicts(project, &taken) {
                refused.push(name.clone());
            } else {
                taken.extend(project.claims.iter().map(|claim| (&claim.host, Holder::Claim(project, claim))));
            }
        }
        (taken, refused)
    }

    fn as_it_was(&self, project: &Entrant) -> Option<&'c Project> {
        self.previous?.projects.get(project.name.as_ref()?)
    }

    /// Notes every claim of `entrant` that somebody else holds; whether there was one.
    fn note_conflicts(&self, entrant: &Entrant, taken: &Taken<'_>) -> bool {
        let mut has_conflict = false;
        for claim in &entrant.claims {
            let Some(holder) = taken.get(&claim.host).filter(|holder| holder.name() != entrant.name.as_ref()) else {
                continue;
            };
            has_conflict = true;
            let message = match (entrant.name.is_some(), holder.name().is_some()) {
                (true, true) => "two projects claim the same host".to_owned(),
                (true, false) => format!("a project claims the machine's own host `{}`", claim.host),
                (false, _) => format!("the machine claims the host `{}` of a project", claim.host),
            };
            let label = match claim.at {
                Some(_) => format!("also claimed by {holder}"),
                None => format!("`{}`, its default host, is also claimed by {holder}", claim.host),
            };
            entrant.sheet.note(claim.at.clone(), message, &label, Some("give one of them another host".to_owned()));
        }
        has_conflict
    }
}

impl Holder<'_> {
    fn name(&self) -> Option<&ProjectName> {
        let (Holder::Claim(entrant, _) | Holder::AsItWas(entrant)) = self;
        entrant.name.as_ref()
    }
}

impl std::fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Holder::Claim(entrant, claim) => {
                write!(f, "{} ({})", claim.what, entrant.sheet.place(claim.at.as_ref()))
            }
            Holder::AsItWas(entrant) => {
                let name = entrant.name.as_ref().map_or("", ProjectName::as_str);
                write!(f, "project `{name}`, which stays as it was ({})", entrant.sheet.shown())
            }
        }
    }
}

fn hosts(project: &Project) -> impl Iterator<Item = &HostPattern> {
    project.branches.values().flat_map(|branch| &branch.hosts)
}

fn holders(conf: &Conf) -> HashMap<&HostPattern, &ProjectName> {
    conf.projects.values().flat_map(|project| hosts(project).map(|host| (host, &project.name))).collect()
}
