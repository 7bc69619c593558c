//! What single words mean: numbers, choices, hosts, addresses, paths, secrets.
//!
//! Used by the checks of both kinds of file. Every reading notes what is wrong and gives `None`.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::IpNet;
use toml::de::DeValue;

use crate::model::host::HostName;
use crate::model::project::Secret;

use super::mention::Mention;
use super::raw::{Word, closest};

impl Word<'_> {
    /// Whatever reads itself from a string and says what is wrong.
    pub fn parsed<T: FromStr<Err: Display>>(&self) -> Option<T> {
        self.text()?.parse().map_or_else(|fault: T::Err| self.wrong(fault.to_string(), None), Some)
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, choice)) = choices.iter().find(|(known, _)| *known == text) {
            return Some(*choice);
        }
        let known: Vec<&str> = choices.iter().map(|(known, _)| *known).collect();
        let hint = match closest(text, &known) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("one of: {}", known.join(", ")),
        };
        self.wrong(format!("`{}` cannot be `{text}`", self.name()), hint)
    }

    pub fn flag(&self) -> Option<bool> {
        match self.value() {
            DeValue::Boolean(flag) => Some(*flag),
            _ => self.wrong_type("true or false"),
        }
    }

    pub fn whole(&self, allowed: RangeInclusive<u64>) -> Option<u64> {
        let DeValue::Integer(integer) = self.value() else { return self.wrong_type("a whole number") };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        match number.and_then(|number| u64::try_from(number).ok()).filter(|number| allowed.contains(number)) {
            Some(number) => Some(number),
            None => {
                self.wrong(format!("`{}` must be between {} and {}", self.name(), allowed.start(), allowed.end()), None)
            }
        }
    }

    /// A positive number, with a point or without.
    pub fn decimal(&self, max: f64) -> Option<f64> {
        let number = match self.value() {
            DeValue::Integer(integer) => integer.as_str().parse().ok(),
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            _ => return self.wrong_type("a number"),
        };
        match number.filter(|number| *number > 0.0 && *number <= max) {
            Some(number) => Some(number),
            None => self.wrong(format!("`{}` must be above 0 and at most {max}", self.name()), None),
        }
    }

    pub fn host(&self) -> Option<HostName> {
        self.text()?.parse().map_or_else(|fault| self.wrong_host(&fault), Some)
    }

    /// Notes a host that does not read, with a hint for what people paste instead.
    pub fn wrong_host<T>(&self, fault: &dyn Display) -> Option<T> {
        let text = self.text()?;
        let name = text.split_once("://").map_or(text, |(_, rest)| rest);
        let name = name.split(['/', ':']).next().unwrap_or_default();
        let is_name = name != text && name.parse::<HostName>().is_ok();
        let hint = is_name.then(|| format!("a host is a name alone: \"{name}\""));
        self.wrong(fault.to_string(), hint)
    }

    /// `IP:PORT` to listen on.
    pub fn socket_address(&self) -> Option<SocketAddr> {
        let text = self.text()?;
        if let Ok(address) = text.parse() {
            return Some(address);
        }
        let port = text.rsplit_once(':').map_or(text, |(_, port)| port);
        let port = if port.parse::<u16>().is_ok() { port } else { "80" };
        let host = if text.starts_with("localhost") { "127.0.0.1" } else { "0.0.0.0" };
        self.wrong(format!("`{text}` is not an address to listen on"), format!("give IP:PORT: \"{host}:{port}\""))
    }

    /// A network, or one address.
    pub fn network(&self) -> Option<IpNet> {
        let text = self.text()?;
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(IpNet::from(address));
        }
        match text.parse::<IpNet>() {
            Ok(network) => Some(network.trunc()),
            Err(_) => self.wrong(format!("`{text}` is not a network"), "give ADDRESS/BITS: \"10.0.0.0/8\"".to_owned()),
        }
    }

    /// A path; a relative one begins at `base`.
    pub fn path(&self, base: &Path) -> Option<PathBuf> {
        let text = self.line()?;
        std::path::absolute(base.join(text)).map_or_else(|error| self.wrong(error.to_string(), None), Some)
    }

    /// The same for a file that has to be there where Prime serves.
    pub fn file(&self, base: &Path) -> Option<PathBuf> {
        let path = self.path(base)?;
        self.mention(Mention::File(path.clone()));
        Some(path)
    }

    /// A string that is not empty, on one line.
    pub fn line(&self) -> Option<&str> {
        let text = self.text()?;
        match text {
            "" => self.wrong(format!("`{}` is empty", self.name()), None),
            _ if text.contains(char::is_control) => {
                self.wrong(format!("`{}` has a control character", self.name()), None)
            }
            _ => Some(text),
        }
    }

    /// A command for a shell, which may have several lines.
    pub fn command(&self) -> Option<String> {
        let text = self.text()?;
        match text.trim() {
            "" => self.wrong(format!("`{}` is empty", self.name()), None),
            _ if text.contains('\0') => self.wrong(format!("`{}` has a zero byte", self.name()), None),
            _ => Some(text.to_owned()),
        }
    }

    /// `https://…`, and `http://…` on this machine alone: what comes back is trusted.
    pub fn url(&self) -> Option<String> {
        let text = self.line()?;
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let is_safe = |host: HostName| match scheme {
            "https" => true,
            "http" => host.as_str() == "localhost" || host.as_ip().is_some_and(|ip| ip.is_loopback()),
            _ => false,
        };
        match HostName::from_authority(authority).is_ok_and(is_safe) && !text.contains(' ') {
            true => Some(text.to_owned()),
            false => self.wrong(format!("`{}` must be an https URL", self.name()), None),
        }
    }

    /// `{ file = "…" }` or `{ env = "…" }`.
    pub fn secret(self, base: &Path) -> Option<Secret> {
        let DeValue::Table(_) = self.value() else {
            self.mask();
            let hint =
                "write it to a file that only Prime can read, and give { file = \"secrets/…\" }, or { env = \"…\" }";
            return self.wrong(format!("`{}` must not stand in conf itself", self.name()), hint.to_owned());
        };
        let word = self.clone();
        let mut table = self.table()?;
        let (file, env) = (table.word("file"), table.word("env"));
        table.close();
        match (file, env) {
            (Some(file), None) => {
                let path = file.path(base)?;
                file.mention(Mention::Secret(path.clone()));
                Some(Secret::File(path))
            }
            (None, Some(env)) => env.variable().map(Secret::Env),
            _ => word.wrong(format!("`{}` needs either `file` or `env`", word.name()), None),
        }
    }

    /// The name of an environment variable.
    fn variable(&self) -> Option<String> {
        let text = self.text()?;
        match is_variable(text) {
            true => Some(text.to_owned()),
            false => self.wrong(format!("`{text}` is not a name for an environment variable"), None),
        }
    }
}

/// Names that every shell can set (POSIX, 8.1).
pub fn is_variable(name: &str) -> bool {
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    starts_well && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
pub mod tests {
    use super::super::raw::Table;
    use super::super::sheet::Sheet;
    use super::*;

    /// What `meaning` makes of a value as it stands in a file.
    pub fn read<T>(value: &str, meaning: impl Fn(Word<'_>) -> Option<T>) -> Option<T> {
        let sheet = Sheet::new("a.toml".into(), format!("a = {value}"));
        let tree = sheet.parse()?;
        let read = meaning(Table::root(&sheet, &tree).word("a")?);
        assert_eq!(read.is_some(), sheet.is_good(), "nothing is refused without a word: {value}");
        read
    }

    #[test]
    fn urls_that_are_believed_are_encrypted_or_local() {
        let url = |text: &str| read(&format!("{text:?}"), |word| word.url()).is_some();
        assert!(url("https://acme.test/dir") && url("http://127.0.0.1:14000/dir") && url("http://[::1]/"));
        assert!(!url("http://acme.test/dir") && !url("https://a@b.test/") && !url("https:///x") && !url("ftp://a"));
    }

    #[test]
    fn networks_may_be_one_address() {
        let network = |text: &str| read(&format!("{text:?}"), |word| word.network()).map(|n| n.to_string());
        assert_eq!(network("10.1.2.3/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(network("::1").as_deref(), Some("::1/128"));
        assert_eq!(network("10.0.0.0/33"), None);
    }
}
