//! Which texts name a git repository.
//!
//! Called for `repo` of a project. The rule it keeps: what git is given can be nothing but a place to fetch from: no
//! option, no helper that runs a command (`ext::`), no password that ends in a log.

use std::path::Path;

use crate::model::host::HostName;
use crate::model::project::Repository;

use super::mention::Mention;
use super::raw::Word;

/// Reads a repository; a relative directory begins at `base`.
pub fn read(word: &Word<'_>, base: &Path) -> Option<Repository> {
    let text = word.text()?;
    match judge(text) {
        Ok(Kind::Url) => Some(Repository::Url(text.to_owned())),
        Ok(Kind::Directory) => {
            let path = word.path(base)?;
            word.mention(Mention::Repository(path.clone()));
            Some(Repository::Directory(path))
        }
        Err(Refusal::Credentials) => {
            word.mask();
            let hint = "take them out, and use ssh with a deploy key, or a credential helper of git";
            word.wrong("`repo` has credentials in its URL", hint.to_owned())
        }
        Err(Refusal::NoScheme) => {
            let hint = format!("write \"https://{text}\", or \"./{text}\" for a directory");
            word.wrong(format!("`{text}` looks like a URL without its scheme"), hint)
        }
        Err(Refusal::Other(why)) => word.wrong(format!("`repo` {why}"), FORMS.to_owned()),
    }
}

#[derive(Debug, PartialEq)]
enum Kind {
    Url,
    Directory,
}

#[derive(Debug, PartialEq)]
enum Refusal {
    Credentials,
    NoScheme,
    Other(&'static str),
}

fn judge(text: &str) -> Result<Kind, Refusal> {
    let other = |why| Err(Refusal::Other(why));
    if text.is_empty() {
        return other("is empty");
    }
    if text.starts_with('-') {
        return other("begins with `-`, which git takes for an option");
    }
    if text.contains(|c: char| c.is_control()) {
        return other("has a control character");
    }
    if is_helper(text) {
        return other("names a helper of git, which may run commands");
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        return judge_url(scheme, rest);
    }
    match text.split_once(':') {
        Some((host, path)) if !host.contains('/') => judge_scp(host, path),
        _ if looks_like_url(text) => Err(Refusal::NoScheme),
        _ => Ok(Kind::Directory),
    }
}

/// `name::address`, gitremote-helpers(7).
fn is_helper(text: &str) -> bool {
    text.split_once("::").is_some_and(|(name, _)| !name.is_empty() && !name.contains(['/', '@', '[', ':']))
}

fn judge_url(scheme: &str, rest: &str) -> Result<Kind, Refusal> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    match (scheme, user) {
        ("https", None) | ("ssh", None) => {}
        // A user alone can be a token, too.
        ("https", Some(_)) => return Err(Refusal::Credentials),
        ("ssh", Some(user)) if user.contains(':') => return Err(Refusal::Credentials),
        ("ssh", Some(user)) if is_user(user) => {}
        ("ssh", Some(_)) => return Err(Refusal::Other("has a user that cannot be one")),
        (_, Some(_)) => return Err(Refusal::Credentials),
        _ => return Err(Refusal::Other("has a scheme that Prime does not fetch from")),
    }
    if path.contains(['?', '#']) {
        // Tokens travel there as well.
        return Err(Refusal::Credentials);
    }
    if path.trim_matches('/').is_empty() || path.contains(' ') {
        return Err(Refusal::Other("has no good path"));
    }
    match HostName::from_authority(host) {
        Ok(_) => Ok(Kind::Url),
        Err(_) => Err(Refusal::Other("has no good host")),
    }
}

/// `user@host:path`, as ssh and git take it.
fn judge_scp(host: &str, path: &str) -> Result<Kind, Refusal> {
    let (user, host) = host.rsplit_once('@').unwrap_or(("git", host));
    if path.is_empty() || path.starts_with('-') || path.contains(' ') {
        return Err(Refusal::Other("has no good path"));
    }
    match HostName::from_authority(host) {
        Ok(_) if is_user(user) => Ok(Kind::Url),
        _ => Err(Refusal::Other("has no good host")),
    }
}

fn is_user(user: &str) -> bool {
    !user.is_empty() && !user.starts_with('-') && user.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// `github.com/hasadna/shop`: a first part with a point inside it, and more behind it.
fn looks_like_url(text: &str) -> bool {
    text.split_once('/').is_some_and(|(first, rest)| {
        !first.starts_with('.') && first.contains('.') && !rest.is_empty() && first.parse::<HostName>().is_ok()
    })
}

const FORMS: &str = "give https://host/path, ssh://git@host/path, git@host:path or a directory";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_fetch_from_are_taken() {
        for url in [
            "https://github.com/hasadna/Open-Knesset",
            "https://git.test:8443/a/b.git",
            "ssh://git@github.com/hasadna/shop",
            "ssh://git@[::1]:22/shop",
            "git@github.com:hasadna/shop.git",
        ] {
            assert_eq!(judge(url), Ok(Kind::Url), "{url}");
        }
        for directory in ["repos/shop", "/srv/git/shop", "./git.test/x", "../x", "shop.git"] {
            assert_eq!(judge(directory), Ok(Kind::Directory), "{directory}");
        }
    }

    #[test]
    fn options_helpers_and_credentials_are_refused() {
        for bad in ["https://me@git.test/x", "https://a:b@git.test/x", "ssh://a:b@git.test/x", "https://git.test/x?t=1"]
        {
            assert_eq!(judge(bad), Err(Refusal::Credentials), "{bad}");
        }
        for bad in [
            "",
            "-u",
            "--upload-pack=x",
            "ext::sh -c x",
            "fd::3",
            "http://git.test/x",
            "git://git.test/x",
            "file:///srv/x",
            "ssh://-oProxyCommand=x/y",
            "ssh://-x@git.test/y",
            "-x@git.test:y",
            "git@-x:y",
            "git@git.test:-y",
            "https://git.test",
            "https:///x",
            "a\nb",
        ] {
            assert!(matches!(judge(bad), Err(Refusal::Other(_))), "{bad}: {:?}", judge(bad));
        }
        assert_eq!(judge("github.com/hasadna/shop"), Err(Refusal::NoScheme));
    }
}
