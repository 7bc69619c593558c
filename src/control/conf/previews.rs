//! The hosts of previews: branches that no file names, and that somebody pushed to all the same.
//!
//! Called for every conf that is about to hold, with the previews that are stored. The rule: a preview takes nobody's host,
//! also none that somebody's wildcard answers for.

use std::collections::HashMap;
use std::fmt::Write;

use aws_lc_rs::digest::{SHA256, digest};

use super::Conf;
use crate::model::host::{HostName, HostPattern};
use crate::model::name::Site;
use crate::model::project::Branch;

/// The longest label of a host that is made of a branch's name; a label may have 63 bytes (RFC 1035 section 2.3.4).
const LABEL_MAX: usize = 40;
/// Bytes of a digest that tell branches apart whose names make the same label.
const DIGEST: usize = 4;

impl Conf {
    /// With these previews and no others. One whose project has none by now, or whose host is another's, is left out.
    pub fn with_previews<'s>(mut self, sites: impl IntoIterator<Item = &'s Site>) -> Self {
        for project in self.projects.values_mut() {
            project.branches.retain(|_, branch| !branch.is_preview);
        }
        let mut taken = self.claimants();
        for site in sites {
            let Some(host) = host(site, &self.machine.domain) else { continue };
            let Some(project) = self.projects.get_mut(&site.project).filter(|project| project.previews.is_some())
            else {
                continue;
            };
            let is_taken = taken.iter().any(|(pattern, owner)| pattern.matches(&host) && owner.as_ref() != Some(site));
            if is_taken || project.branches.contains_key(&site.branch) {
                continue;
            }
            let host = HostPattern::from(host);
            taken.insert(host.clone(), Some(site.clone()));
            project.branches.insert(site.branch.clone(), Branch { hosts: vec![host], is_preview: true });
        }
        self
    }

    /// Every host with the site that it is of; `None` for Prime's own.
    fn claimants(&self) -> HashMap<HostPattern, Option<Site>> {
        let mut all: HashMap<_, _> = self.hosts().into_iter().map(|host| (host, None)).collect();
        for (site, branch) in self.projects.values().flat_map(|project| project.sites()) {
            all.extend(branch.hosts.iter().map(|host| (host.clone(), Some(site.clone()))));
        }
        all
    }
}

/// `<branch>.<name>.<domain>`. Of a branch whose name cannot stand there, what of it can, and a digest of the whole.
fn host(site: &Site, domain: &HostName) -> Option<HostName> {
    let branch = site.branch.as_str();
    let is_label = |text: &str| {
        let alphabet = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        text.len() <= LABEL_MAX && text.bytes().all(alphabet) && !text.ends_with('-') && !text.contains("--")
    };
    let label = if is_label(branch) { branch.to_owned() } else { label(branch) };
    format!("{label}.{}.{domain}", site.project).parse().ok()
}

fn label(branch: &str) -> String {
    let words = branch.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut label = words.collect::<Vec<_>>().join("-").to_ascii_lowercase();
    label.truncate(LABEL_MAX);
    let mut label = label.trim_end_matches('-').to_owned();
    label.push('-');
    for byte in digest(&SHA256, branch.as_bytes()).as_ref().iter().take(DIGEST) {
        // Writing into a string cannot fail.
        let _ = write!(label, "{byte:02x}");
    }
    label
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::*;

    fn conf(projects: &[(&str, &str)]) -> Conf {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("projects")).unwrap();
        std::fs::write(dir.path().join("prime.toml"), "domain = \"test\"\n").unwrap();
        for (name, text) in projects {
            let text = format!("repo = \"acme/{name}\"\n{text}");
            std::fs::write(dir.path().join(format!("projects/{name}.toml")), text).unwrap();
        }
        let loaded = load(dir.path(), None).unwrap();
        assert!(loaded.faults.is_empty(), "{:?}", loaded.faults);
        loaded.conf
    }

    fn sites(names: &[&str]) -> Vec<Site> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn hosts(conf: &Conf) -> Vec<String> {
        let branches = conf.projects.values().flat_map(|project| project.branches.values());
        let previews = branches.filter(|branch| branch.is_preview);
        previews.flat_map(|branch| branch.hosts.iter().map(ToString::to_string)).collect()
    }

    #[test]
    fn a_branch_has_a_host_of_its_own_whatever_it_is_called() {
        let conf = conf(&[("shop", "[previews]\n")]);
        let names = ["feature", "fix-7", "Fix/7", "fix/7", "fix_7", "a--b", "dev"];
        let all: Vec<String> = names.iter().map(|name| format!("shop/{name}")).collect();
        let all = sites(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let conf = conf.with_previews(&all);
        let shown = hosts(&conf);
        assert_eq!(shown.len(), names.len() - 1, "dev has its host already: {shown:?}");
        assert!(shown.contains(&"feature.shop.test".to_owned()) && shown.contains(&"fix-7.shop.test".to_owned()));
        let made = |host: &&String| host.starts_with("fix-7-") && host.len() == "fix-7-01234567.shop.test".len();
        assert_eq!(shown.iter().filter(made).count(), 3, "{shown:?}");
        assert!(hosts(&conf.with_previews(&[])).is_empty());
    }

    #[test]
    fn a_preview_takes_nobodys_host() {
        let conf = conf(&[
            ("shop", "[previews]\n[branches.master]\nhosts = [\"shop.test\", \"www.shop.test\"]\n"),
            ("blog", "[branches.master]\nhosts = [\"help.shop.test\"]\n"),
            ("wiki", "[previews]\n[branches.master]\nhosts = [\"wiki.test\", \"*.wiki.test\"]\n"),
        ]);
        let wanted = sites(&["shop/www", "shop/help", "shop/free", "wiki/any", "blog/free", "gone/free"]);
        assert_eq!(hosts(&conf.with_previews(&wanted)), ["free.shop.test"]);
    }
}
