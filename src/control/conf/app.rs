//! The meaning of `[app]`: in a project's conf, and in the `opri.toml` that a repository may carry.
//!
//! The rule it keeps: committers are half trusted. Of a repository's file only keys on a list are taken; hosts, services,
//! environment and everything about the machine come from conf alone.

use std::collections::BTreeMap;
use std::time::Duration;

use toml::de::DeValue;

use crate::model::app::{AppWish, ContainerWish, HealthWish, Listen, Protocol};
use crate::report::Fault;

use super::raw::{Table, Word};
use super::sheet::Sheet;
use super::word::is_variable;

/// Reads `[app]` of a project's conf.
pub fn read(mut table: Table<'_>) -> AppWish {
    let mut wish = repository_keys(&mut table);
    let number = |word: Word<'_>| word.whole(1..=REPLICAS_MAX).and_then(|number| u16::try_from(number).ok());
    wish.replicas = table.word("replicas").and_then(number);
    wish.drain_max = table.word("drain_max").and_then(number);
    wish.env = table.table("env").map(environment).unwrap_or_default();
    wish.services = table.list("services").map(|words| named_once(words, &SERVICES));
    wish.container = container(&mut table);
    table.close();
    wish
}

/// Reads a repository's own `opri.toml`: the keys stand alone, or in `[app]`.
pub fn repository_wish(text: &str) -> Result<AppWish, Vec<Fault>> {
    let sheet = Sheet::new("opri.toml".to_owned(), text.to_owned());
    let wish = read_repository(&sheet);
    match wish {
        Some(wish) if sheet.is_good() => Ok(wish),
        _ => Err(sheet.into_faults()),
    }
}

fn read_repository(sheet: &Sheet) -> Option<AppWish> {
    if sheet.text_len() > REPOSITORY_FILE_MAX {
        sheet.note(None, format!("the file is larger than {REPOSITORY_FILE_MAX} bytes"), "", None);
        return None;
    }
    let tree = sheet.parse()?;
    let mut root = Table::root(sheet, &tree);
    let has_app = root.has("app");
    let mut table = if has_app { root.table("app")? } else { Table::root(sheet, &tree) };
    if has_app {
        refuse_machine_keys(&mut root);
        root.close();
    }
    let wish = repository_keys(&mut table);
    refuse_machine_keys(&mut table);
    table.close();
    Some(wish)
}

/// The keys that are not about the machine.
fn repository_keys(table: &mut Table<'_>) -> AppWish {
    let port = |word: Word<'_>| word.whole(1..=65535).and_then(|number| u16::try_from(number).ok());
    AppWish {
        listen: table.word("listen").and_then(|word| word.choice(&LISTEN)),
        port: table.word("port").and_then(port),
        protocol: table.word("protocol").and_then(|word| word.choice(&PROTOCOLS)),
        health: table.table("health").map(health).unwrap_or_default(),
        drain: table.word("drain").and_then(|word| word.duration(Duration::ZERO..=DAY)),
        drain_long: table.word("drain_long").and_then(|word| word.duration(Duration::ZERO..=DAY)),
        standby: table.word("standby").and_then(|word| word.duration(Duration::ZERO..=DAY)),
        monitor: table.word("monitor").and_then(|word| word.duration(Duration::ZERO..=DAY)),
        dockerfile: table.word("dockerfile").and_then(|word| path_inside(&word)),
        release: table.word("release").and_then(|word| word.command()),
        build: table.word("build").and_then(|word| word.command()),
        run: table.word("run").and_then(|word| word.command()),
        ..AppWish::default()
    }
}

fn refuse_machine_keys(table: &mut Table<'_>) {
    for key in MACHINE_KEYS {
        let why = format!("`{key}` cannot come from a repository");
        table.refuse(key, &why, "it is said in the project's conf alone, by whoever runs the machine");
    }
}

fn health(mut table: Table<'_>) -> HealthWish {
    let health = HealthWish {
        path: table.word("path").and_then(|word| url_path(&word)),
        status: table.word("status").and_then(|word| statuses(&word)),
        interval: table.word("interval").and_then(|word| word.duration(Duration::from_millis(10)..=HOUR)),
        timeout: table.word("timeout").and_then(|word| word.duration(Duration::from_millis(100)..=HOUR)),
    };
    table.close();
    health
}

/// A path as it stands in a request.
fn url_path(word: &Word<'_>) -> Option<String> {
    let text = word.line()?;
    match text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        true => Some(text.to_owned()),
        false => word.wrong(format!("`{text}` is not the path of a URL"), "it begins with `/`".to_owned()),
    }
}

/// `"200"` or `"200-399"`.
fn statuses(word: &Word<'_>) -> Option<(u16, u16)> {
    let text = word.text()?;
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| text.trim().parse().ok().filter(|status| (100..=599).contains(status));
    match (status(low), status(high)) {
        (Some(low), Some(high)) if low <= high => Some((low, high)),
        _ => {
            let hint = "one status or two with a dash: \"200\", \"200-399\"";
            word.wrong(format!("`{text}` is not a range of statuses"), hint.to_owned())
        }
    }
}

/// A path that cannot leave the repository.
fn path_inside(word: &Word<'_>) -> Option<String> {
    let text = word.line()?;
    match text.starts_with(['/', '-']) || text.split('/').any(|part| part == "..") {
        true => word.wrong(format!("`{text}` must be a path inside the repository"), None),
        false => Some(text.to_owned()),
    }
}

fn environment(table: Table<'_>) -> BTreeMap<String, String> {
    let variable = |(at, word): (std::ops::Range<usize>, Word<'_>)| {
        let name = word.name();
        let sheet = table.sheet();
        let refuse = |why: String, hint: &str| sheet.note(Some(at.clone()), why, "", Some(hint.to_owned()));
        if !is_variable(name) {
            refuse(format!("`{name}` is not a name for an environment variable"), "letters, digits and `_`");
        } else if matches!(name, "SOCKET" | "PORT") || name.starts_with("OPRI_") {
            refuse(format!("`{name}` is set by Prime itself"), "`port` says which port an app in a container has");
        }
        Some((name.to_owned(), env_value(&word)?))
    };
    table.entries().into_iter().filter_map(variable).collect()
}

fn env_value(word: &Word<'_>) -> Option<String> {
    match word.value() {
        DeValue::String(text) if text.contains('\0') => word.wrong(format!("`{}` has a zero byte", word.name()), None),
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(number) => Some(number.to_string()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        _ => word.wrong_type("a string, a number, true or false"),
    }
}

/// What a container may have is said by whoever runs the machine.
fn container(table: &mut Table<'_>) -> ContainerWish {
    let pids = |word: Word<'_>| word.whole(1..=PIDS_MAX).and_then(|number| u32::try_from(number).ok());
    ContainerWish {
        memory: table.word("memory").and_then(|word| word.size(CONTAINER_LEAST)),
        pids: table.word("pids").and_then(pids),
        capabilities: table.list("capabilities").map(|words| named_once(words, &CAPABILITIES)),
        read_only: table.word("read_only").and_then(|word| word.flag()),
    }
}

fn named_once(words: Vec<Word<'_>>, known: &[(&'static str, &'static str)]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for word in words {
        match word.choice(known) {
            Some(name) if names.iter().any(|other| other == name) => {
                word.wrong::<()>(format!("`{name}` is named twice"), None);
            }
            Some(name) => names.push(name.to_owned()),
            None => {}
        }
    }
    names
}

const LISTEN: [(&str, Listen); 3] = [("socket", Listen::Socket), ("port", Listen::Port), ("auto", Listen::Auto)];
const PROTOCOLS: [(&str, Protocol); 2] = [("http1", Protocol::Http1), ("h2c", Protocol::H2c)];
const SERVICES: [(&str, &str); 4] =
    [("postgres", "postgres"), ("mongo", "mongo"), ("redis", "redis"), ("smtp", "smtp")];
/// Known keys of conf that a repository may not say.
const MACHINE_KEYS: [&str; 20] = [
    "hosts",
    "env",
    "services",
    "replicas",
    "memory",
    "pids",
    "capabilities",
    "read_only",
    "mounts",
    "volumes",
    "limits",
    "secrets",
    "repo",
    "upstream",
    "ci",
    "branches",
    "hooks",
    "cache",
    "compression",
    "https",
];
/// Those that the engine itself gives by default: none of them leads out of a container.
const CAPABILITIES: [(&str, &str); 14] = [
    ("AUDIT_WRITE", "AUDIT_WRITE"),
    ("CHOWN", "CHOWN"),
    ("DAC_OVERRIDE", "DAC_OVERRIDE"),
    ("FOWNER", "FOWNER"),
    ("FSETID", "FSETID"),
    ("KILL", "KILL"),
    ("MKNOD", "MKNOD"),
    ("NET_BIND_SERVICE", "NET_BIND_SERVICE"),
    ("NET_RAW", "NET_RAW"),
    ("SETFCAP", "SETFCAP"),
    ("SETGID", "SETGID"),
    ("SETPCAP", "SETPCAP"),
    ("SETUID", "SETUID"),
    ("SYS_CHROOT", "SYS_CHROOT"),
];
/// The engine takes no less.
const CONTAINER_LEAST: u64 = 6 << 20;
const PIDS_MAX: u64 = 4_194_304;
const REPLICAS_MAX: u64 = 100;
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const REPOSITORY_FILE_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_says_how_it_is_built_and_judged() {
        let said = "listen = \"port\"\nport = 9000\nprotocol = \"h2c\"\nhealth = { path = \"/up\", status = \"200\" }\nrun = \"./serve\"";
        for text in [said.to_owned(), format!("[app]\n{said}")] {
            let wish = repository_wish(&text).unwrap();
            assert_eq!(
                (wish.listen, wish.port, wish.protocol, wish.health.status),
                (Some(Listen::Port), Some(9000), Some(Protocol::H2c), Some((200, 200)))
            );
        }
        assert_eq!(repository_wish("").unwrap(), AppWish::default());
    }

    #[test]
    fn a_repository_says_nothing_about_the_machine() {
        for key in MACHINE_KEYS {
            for text in [format!("{key} = \"x\""), format!("[app]\n{key} = \"x\""), format!("{key} = \"x\"\n[app]\n")] {
                let faults = repository_wish(&text).unwrap_err();
                assert_eq!(faults[0].message, format!("`{key}` cannot come from a repository"), "{text}");
            }
        }
        assert!(repository_wish("port = 1\n[app]\nport = 2").is_err());
        assert!(repository_wish("dockerfile = \"../x\"").is_err());
        assert!(repository_wish(&"#".repeat(REPOSITORY_FILE_MAX + 1)).is_err());
    }
}
