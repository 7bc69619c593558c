//! What single words mean: lengths of time, sizes, hosts, addresses, paths, secrets.
//!
//! Used by the checks of both kinds of file. Every reading notes what is wrong and gives `None`.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use crate::model::host::HostName;
use crate::model::project::Secret;

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

    /// A length of time: a whole number with its unit.
    pub fn duration(&self, allowed: RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.quantity("s")?;
        let wrong = || self.wrong(format!("`{text}` is not a length of time"), TIME_HINT.to_owned());
        let Some((number, unit)) = split(text) else { return wrong() };
        if unit.is_empty() {
            return self.wrong(format!("`{}` needs a unit", self.name()), format!("write \"{number}s\" for seconds"));
        }
        let Some((_, milliseconds)) = TIME_UNITS.iter().find(|(known, _)| *known == unit) else { return wrong() };
        let length = number.checked_mul(*milliseconds).map(Duration::from_millis);
        match length.filter(|length| allowed.contains(length)) {
            Some(length) => Some(length),
            None => {
                let (min, max) = (spell_time(*allowed.start()), spell_time(*allowed.end()));
                self.wrong(format!("`{}` must be between {min} and {max}", self.name()), None)
            }
        }
    }

    /// A number of bytes with its unit; `"0"` needs none.
    pub fn size(&self, min: u64) -> Option<u64> {
        let text = self.quantity("MiB")?;
        let wrong = || self.wrong(format!("`{text}` is not a size"), SIZE_HINT.to_owned());
        let Some((number, unit)) = split(text) else { return wrong() };
        let bytes = match SIZE_UNITS.iter().find(|(known, _)| *known == unit) {
            Some((_, bytes)) => number.checked_mul(*bytes).filter(|bytes| *bytes <= SIZE_MAX),
            None if unit.is_empty() && number == 0 => Some(0),
            None if unit.is_empty() => {
                let hint = format!("write \"{number}MiB\" for mebibytes");
                return self.wrong(format!("`{}` needs a unit", self.name()), hint);
            }
            None => return wrong(),
        };
        match bytes {
            Some(bytes) if bytes >= min => Some(bytes),
            Some(_) => self.wrong(format!("`{}` must be at least {min} bytes", self.name()), None),
            None => self.wrong(format!("`{text}` is more than any machine has"), None),
        }
    }

    /// The text of a number with a unit. A bare number is what people write first.
    fn quantity(&self, unit: &str) -> Option<&str> {
        match self.value() {
            DeValue::Integer(number) => {
                self.wrong(format!("`{}` needs a unit", self.name()), format!("write \"{number}{unit}\""))
            }
            _ => self.text(),
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
            (Some(file), None) => file.path(base).map(Secret::File),
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

/// `"30s"` → 30 and `s`.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start_matches(' ')))
}

/// The longest unit that leaves a whole number.
fn spell_time(length: Duration) -> String {
    let all = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    let (unit, each) = TIME_UNITS.iter().rev().find(|(_, each)| all >= *each && all % each == 0).unwrap_or(&("ms", 1));
    format!("{}{unit}", all / each)
}

const TIME_UNITS: [(&str, u64); 7] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 7 * 86_400_000),
    ("y", 365 * 86_400_000),
];
const TIME_HINT: &str = "a whole number with ms, s, m, h, d, w or y: \"30s\"";

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];
const SIZE_HINT: &str = "a whole number with B, KiB, MiB, GiB or TiB: \"64MiB\"";
/// A pebibyte: what is larger is a slip of the keyboard.
const SIZE_MAX: u64 = 1 << 50;

#[cfg(test)]
mod tests {
    use super::super::raw::{Sheet, Table};
    use super::*;

    fn read<T>(value: &str, meaning: impl Fn(Word<'_>) -> Option<T>) -> Option<T> {
        let sheet = Sheet::new("a.toml".into(), format!("a = {value}"));
        let tree = sheet.parse()?;
        let read = meaning(Table::root(&sheet, &tree).word("a")?);
        assert_eq!(read.is_some(), sheet.is_good(), "nothing is refused without a word: {value}");
        read
    }

    fn duration(value: &str) -> Option<Duration> {
        read(value, |word| word.duration(Duration::ZERO..=Duration::from_secs(3_153_600_000)))
    }

    #[test]
    fn lengths_of_time_have_units() {
        for (value, milliseconds) in [("\"500ms\"", 500), ("\"30s\"", 30_000), ("\"0s\"", 0), ("\"2 m\"", 120_000)] {
            assert_eq!(duration(value), Some(Duration::from_millis(milliseconds)), "{value}");
        }
        assert_eq!(duration("\"1y\""), Some(Duration::from_secs(31_536_000)));
        for value in
            ["30", "\"30\"", "\"s\"", "\"\"", "\"-1s\"", "\"1.5h\"", "\"99999999999999999y\"", "\"200y\"", "true"]
        {
            assert_eq!(duration(value), None, "{value}");
        }
        assert_eq!(spell_time(Duration::from_secs(86_400)), "1d");
    }

    #[test]
    fn sizes_have_units_but_for_none() {
        let size = |value: &str| read(value, |word| word.size(0));
        assert_eq!(size("\"64MiB\""), Some(64 << 20));
        assert_eq!(size("\"0\""), Some(0));
        assert_eq!(size("\"1GB\""), Some(1_000_000_000));
        for value in ["64", "\"64\"", "\"64mb\"", "\"99999TiB\"", "\"\"", "[1]"] {
            assert_eq!(size(value), None, "{value}");
        }
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
