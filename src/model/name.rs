//! Names that people choose, checked once when they come in: projects, branches, commits, and the site they make.
//!
//! They end up in paths, container names, metric labels and git's arguments, so the rules are narrow, and nothing in the
//! project takes a bare string where one of these is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name was refused; the text says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    #[error("`{0}` is not a project name: 1 to 40 of a-z, 0-9 and `-`, beginning and ending with a letter or digit")]
    Project(String),
    #[error("`{0}` is not a branch name that can be deployed")]
    Branch(String),
    #[error("`{0}` is not a full commit id: 40 or 64 lower-case hexadecimal digits")]
    Commit(String),
    #[error("`{0}` is neither <project> nor <project>/<branch>")]
    Site(String),
}

macro_rules! checked_string {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameFault;
            fn try_from(text: String) -> Result<Self, NameFault> {
                text.parse()
            }
        }
    };
}

checked_string! {
    /// A project's name, `[a-z0-9-]{1,40}`: it is a DNS label, a directory and part of container names.
    ProjectName
}
checked_string! {
    /// A branch as git names it below `refs/heads/`, at most 100 bytes of `[A-Za-z0-9._/-]`, by git's own rules for refs.
    BranchName
}
checked_string! {
    /// A whole commit id (SHA-1 or SHA-256 in lower-case hexadecimal). A short one is never enough to deploy.
    Commit
}

impl FromStr for ProjectName {
    type Err = NameFault;
    fn from_str(text: &str) -> Result<Self, NameFault> {
        let alphabet = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_name = (1..=40).contains(&text.len())
            && text.bytes().all(alphabet)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if is_name { Ok(Self(text.to_owned())) } else { Err(NameFault::Project(text.to_owned())) }
    }
}

impl FromStr for BranchName {
    type Err = NameFault;
    /// Stricter than `git check-ref-format --branch`: what is left needs no quoting in a URL, a path or a shell.
    fn from_str(text: &str) -> Result<Self, NameFault> {
        let alphabet = |b: u8| b.is_ascii_alphanumeric() || b"._/-".contains(&b);
        let component = |part: &str| {
            !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with('.') && !part.ends_with(".lock")
        };
        let is_name = (1..=100).contains(&text.len())
            && text.bytes().all(alphabet)
            && !text.contains("..")
            && text.split('/').all(component);
        if is_name { Ok(Self(text.to_owned())) } else { Err(NameFault::Branch(text.to_owned())) }
    }
}

impl BranchName {
    /// The branch that a bare `<project>` means.
    pub fn master() -> Self {
        Self("master".to_owned())
    }

    /// The second branch every project has by default.
    pub fn dev() -> Self {
        Self("dev".to_owned())
    }

    /// The name as one path component, distinct for distinct branches (`/` becomes `+`, which no branch contains).
    pub fn as_component(&self) -> String {
        self.0.replace('/', "+")
    }
}

impl FromStr for Commit {
    type Err = NameFault;
    fn from_str(text: &str) -> Result<Self, NameFault> {
        let digits = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if digits && matches!(text.len(), 40 | 64) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameFault::Commit(text.chars().take(80).collect()))
        }
    }
}

impl Commit {
    /// The first seven digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..7]
    }
}

/// One deployable line of one project: what a deployment, a release and a host belong to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Site {
    pub project: ProjectName,
    pub branch: BranchName,
}

impl Site {
    pub fn new(project: ProjectName, branch: BranchName) -> Self {
        Self { project, branch }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.branch)
    }
}

impl FromStr for Site {
    type Err = NameFault;
    /// `shop` and `shop/dev`; a project without a branch means its `master`.
    fn from_str(text: &str) -> Result<Self, NameFault> {
        let wrong = |_| NameFault::Site(text.to_owned());
        match text.split_once('/') {
            Some((project, branch)) => Ok(Self::new(project.parse().map_err(wrong)?, branch.parse().map_err(wrong)?)),
            None => Ok(Self::new(text.parse().map_err(wrong)?, BranchName::master())),
        }
    }
}

impl TryFrom<String> for Site {
    type Error = NameFault;
    fn try_from(text: String) -> Result<Self, NameFault> {
        text.parse()
    }
}

impl From<Site> for String {
    fn from(site: Site) -> String {
        site.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn project_names_are_dns_labels() {
        for good in ["a", "open-knesset", "x1", &"a".repeat(40)] {
            assert!(good.parse::<ProjectName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "a_b", "..", &"a".repeat(41)] {
            assert!(bad.parse::<ProjectName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn branch_names_cannot_be_options_paths_or_shell() {
        for good in ["master", "dev", "feature/x-1", "v1.2"] {
            assert!(good.parse::<BranchName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-x",
            "--upload-pack=x",
            "a..b",
            "a//b",
            "/a",
            "a/",
            ".a",
            "a/.b",
            "a.lock",
            "a b",
            "a;b",
            "$(x)",
            "a\n",
        ] {
            assert!(bad.parse::<BranchName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn commits_are_whole_and_lower_case() {
        assert!("a".repeat(40).parse::<Commit>().is_ok());
        assert!("0".repeat(64).parse::<Commit>().is_ok());
        for bad in ["a".repeat(39), "A".repeat(40), "g".repeat(40), String::new()] {
            assert!(bad.parse::<Commit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bare_project_means_master() {
        assert_eq!("shop".parse::<Site>().map(|s| s.to_string()), Ok("shop/master".to_owned()));
        assert_eq!("shop/dev".parse::<Site>().map(|s| s.to_string()), Ok("shop/dev".to_owned()));
    }
}
