//! The meaning of `prime.toml`: words in, a `Machine` out.
//!
//! Called by `load`. The rule it keeps: what is not said has the default that the reference conf shows, and every word is
//! looked at even when an earlier one is wrong.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::cache::CachePolicy;
use crate::model::host::HostName;
use crate::model::machine::{
    AccessLog, Acme, BuildLimits, CacheSizes, Hooks, Limits, Listeners, Machine, RuntimeChoice,
};

use super::claims::Claim;
use super::mention::Mention;
use super::outside::{acme, dashboard, hooks, listeners};
use super::raw::{Table, Word};
use super::sheet::Sheet;

/// What the machine's file says.
#[derive(Debug, Default)]
pub struct Said {
    /// `None` when a fault was noted.
    pub machine: Option<Machine>,
    pub claims: Vec<Claim>,
    /// Known even when something else is wrong, so that projects' files can be checked all the same.
    pub domain: Option<HostName>,
}

/// What a project's file is read against.
#[derive(Debug)]
pub struct Ground<'g> {
    /// Where relative paths begin.
    pub base: &'g Path,
    pub domain: Option<HostName>,
    /// The machine's `[cache] object_max`.
    pub object_max: u64,
}

/// Reads the machine's file. `base` is where relative paths begin.
pub fn read(sheet: &Sheet, base: &Path) -> Said {
    let Some(tree) = sheet.parse() else { return Said::default() };
    let mut root = Table::root(sheet, &tree);
    let domain = domain(&mut root);
    let mut claims = Vec::new();
    let hooks = hooks(root.table("hooks"), base, domain.as_ref(), &mut claims);
    let proxies = root.table("trust").map_or_else(Vec::new, trust);
    let machine = Draft {
        state_dir: state_dir(&mut root, base),
        certs_dir: root.word("certs_dir").map_or_else(|| Some(base.join("certs")), |word| word.path(base)),
        runtime: root.word("runtime").map_or(Some(RuntimeChoice::Auto), |word| word.choice(&RUNTIMES)),
        listeners: listeners(&mut root, proxies.is_empty()),
        acme: root.table("acme").map(|table| acme(table, base)),
        dashboard: dashboard(root.table("dashboard"), &mut claims),
        cache: root.table("cache").map_or_else(CacheSizes::default, cache),
        trusted_proxies: proxies.iter().filter_map(Word::network).collect(),
        limits: root.table("limits").map_or_else(Limits::default, limits),
        access_log: root.table("log").map_or_else(AccessLog::default, access_log),
        edge_user: root.table("edge").and_then(edge_user),
        build: build(root.table("build")),
        keep_releases: root.word("keep_releases").map_or(Some(5), |word| word.whole(0..=1000)),
        keep_free: root.word("keep_free").map_or(Some(1 << 30), |word| word.size(0)),
    };
    root.close();
    let machine = machine.settle(domain.clone(), hooks).filter(|_| sheet.is_good());
    Said { machine, claims, domain }
}

/// All but the domain and the hooks, with `None` for what is wrong and has no default.
struct Draft {
    state_dir: Option<PathBuf>,
    certs_dir: Option<PathBuf>,
    runtime: Option<RuntimeChoice>,
    listeners: Listeners,
    acme: Option<Acme>,
    dashboard: Option<HostName>,
    cache: CacheSizes,
    trusted_proxies: Vec<ipnet::IpNet>,
    limits: Limits,
    access_log: AccessLog,
    edge_user: Option<String>,
    build: BuildLimits,
    keep_releases: Option<u64>,
    keep_free: Option<u64>,
}

impl Draft {
    fn settle(self, domain: Option<HostName>, hooks: Option<Hooks>) -> Option<Machine> {
        Some(Machine {
            domain: domain?,
            state_dir: self.state_dir?,
            certs_dir: self.certs_dir?,
            runtime: self.runtime?,
            listeners: self.listeners,
            acme: self.acme,
            hooks: hooks?,
            dashboard: self.dashboard,
            cache: self.cache,
            trusted_proxies: self.trusted_proxies,
            limits: self.limits,
            access_log: self.access_log,
            edge_user: self.edge_user,
            build: self.build,
            keep_releases: usize::try_from(self.keep_releases?).ok()?,
            keep_free: self.keep_free?,
        })
    }
}

fn domain(root: &mut Table<'_>) -> Option<HostName> {
    let Some(word) = root.word("domain") else {
        let hint = "projects live at <name>.<domain>: domain = \"example.org\"";
        root.sheet().note(None, "`domain` is missing", "", Some(hint.to_owned()));
        return None;
    };
    let domain = word.host()?;
    match domain.as_ip() {
        Some(_) => word.wrong("`domain` must be a name: nothing can live below an address", None),
        None => Some(domain),
    }
}

fn state_dir(root: &mut Table<'_>, base: &Path) -> Option<PathBuf> {
    let word = root.word("state_dir");
    let path = word.as_ref().map_or_else(|| Some(base.join("state")), |word| word.path(base))?;
    let length = path.as_os_str().len();
    if length <= STATE_DIR_MAX {
        return Some(path);
    }
    let why = format!("the state directory's path is too long: {length} bytes, and at most {STATE_DIR_MAX} leave room");
    let hint = "Unix sockets lie below it, and the path of one has at most 107 bytes: give a shorter `state_dir`";
    root.sheet().note(word.map(|word| word.at()), why, "", Some(hint.to_owned()));
    None
}

fn cache(mut table: Table<'_>) -> CacheSizes {
    let mut sizes = CacheSizes::default();
    take(&mut sizes.memory, &mut table, "memory", |word| word.size(0));
    take(&mut sizes.disk, &mut table, "disk", |word| word.size(0));
    take(&mut sizes.object_max, &mut table, "object_max", |word| word.size(1));
    table.close();
    sizes
}

fn trust(mut table: Table<'_>) -> Vec<Word<'_>> {
    let words = table.list("proxies").unwrap_or_default();
    table.close();
    words
}

fn limits(mut table: Table<'_>) -> Limits {
    let mut limits = Limits::default();
    let time = |word: &Word<'_>| word.duration(SHORTEST..=DAY);
    let count = |word: &Word<'_>| word.whole(1..=1_000_000).and_then(|number| u32::try_from(number).ok());
    let t = &mut table;
    take(&mut limits.header_timeout, t, "header_timeout", time);
    take(&mut limits.header_bytes, t, "header_bytes", |word| word.size(1 << 10));
    take(&mut limits.headers, t, "headers", count);
    take(&mut limits.handshake_timeout, t, "handshake_timeout", time);
    take(&mut limits.keepalive_timeout, t, "keepalive_timeout", time);
    take(&mut limits.keepalive_requests, t, "keepalive_requests", count);
    take(&mut limits.body_timeout, t, "body_timeout", time);
    take(&mut limits.body_max, t, "body_max", |word| word.size(1));
    take(&mut limits.body_rate, t, "body_rate", |word| word.size(0));
    take(&mut limits.write_timeout, t, "write_timeout", time);
    take(&mut limits.write_rate, t, "write_rate", |word| word.size(0));
    take(&mut limits.upstream_connect_timeout, t, "upstream_connect_timeout", time);
    take(&mut limits.upstream_timeout, t, "upstream_timeout", time);
    take(&mut limits.connections, t, "connections", count);
    take(&mut limits.connections_per_address, t, "connections_per_address", count);
    table.close();
    limits
}

fn access_log(mut table: Table<'_>) -> AccessLog {
    let mut log = AccessLog::default();
    take(&mut log.enabled, &mut table, "access", |word| word.flag());
    take(&mut log.size, &mut table, "size", |word| word.size(LOG_MIN));
    take(&mut log.keep, &mut table, "keep", |word| word.whole(0..=1000).and_then(|number| u32::try_from(number).ok()));
    table.close();
    log
}

/// `[edge] user`.
fn edge_user(mut table: Table<'_>) -> Option<String> {
    let word = table.word("user");
    table.close();
    let word = word?;
    let name = word.line()?;
    match is_user(name) {
        true => {
            word.mention(Mention::User(name.to_owned()));
            Some(name.to_owned())
        }
        false => {
            let hint = "a name as useradd takes it: \"opri-edge\"";
            word.wrong(format!("`{name}` is not the name of a user"), hint.to_owned())
        }
    }
}

/// useradd(8): at most 32 of small letters, digits, `_` and `-`, and no digit or dash to begin with.
fn is_user(name: &str) -> bool {
    let starts_well = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
    let is_good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
    starts_well && name.len() <= 32 && name.bytes().all(is_good)
}

fn build(table: Option<Table<'_>>) -> BuildLimits {
    let timeout = Duration::from_secs(20 * 60);
    let mut limits = BuildLimits { parallel: 1, timeout, memory: 2 << 30, cpus: 1.5, pids: 1024 };
    let Some(mut table) = table else { return limits };
    let few = |word: &Word<'_>| word.whole(1..=64).and_then(|number| usize::try_from(number).ok());
    take(&mut limits.parallel, &mut table, "parallel", few);
    take(&mut limits.timeout, &mut table, "timeout", |word| word.duration(Duration::from_secs(1)..=DAY));
    take(&mut limits.memory, &mut table, "memory", |word| word.size(6 << 20));
    take(&mut limits.cpus, &mut table, "cpus", |word| word.decimal(1024.0));
    let many = |word: &Word<'_>| word.whole(PIDS_LEAST..=4_194_304).and_then(|number| u32::try_from(number).ok());
    take(&mut limits.pids, &mut table, "pids", many);
    table.close();
    limits
}

/// Replaces a default by what the table says, if it says something that has a meaning.
fn take<T>(place: &mut T, table: &mut Table<'_>, key: &'static str, meaning: impl Fn(&Word<'_>) -> Option<T>) {
    if let Some(value) = table.word(key).and_then(|word| meaning(&word)) {
        *place = value;
    }
}

impl Ground<'_> {
    /// The project's cache policy where its file says nothing.
    pub fn cache_policy(&self) -> CachePolicy {
        CachePolicy { object_max: self.object_max, ..CachePolicy::default() }
    }
}

/// What is left of the 107 bytes of a Unix socket's path (unix(7)) for the directory, with `/run/` and 40 for a name.
const STATE_DIR_MAX: usize = crate::model::address::SOCKET_PATH_MAX - "/run/".len() - 40;
/// A shorter timeout would refuse visitors who do nothing wrong.
const SHORTEST: Duration = Duration::from_millis(10);
/// With fewer not even a shell can start a compiler.
const PIDS_LEAST: u64 = 16;
/// Smaller files would be changed more often than they are read.
const LOG_MIN: u64 = 64 << 10;
const DAY: Duration = Duration::from_secs(86_400);
const RUNTIMES: [(&str, RuntimeChoice); 3] =
    [("docker", RuntimeChoice::Docker), ("process", RuntimeChoice::Process), ("auto", RuntimeChoice::Auto)];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const REFERENCE: &str = include_str!("../../../conf/prime.toml");

    fn machine(text: &str) -> Machine {
        let sheet = Sheet::new("prime.toml".into(), text.into());
        let said = read(&sheet, Path::new("/srv"));
        said.machine.unwrap_or_else(|| panic!("{:?}", sheet.into_faults()))
    }

    /// The reference with the keys that have no default.
    fn whole_reference() -> String {
        let is_key =
            |line: &str| line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        let uncover = |line: &'static str| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line);
        REFERENCE.lines().map(uncover).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_reference_shows_the_defaults() {
        assert_eq!(machine(REFERENCE), machine("domain = \"localhost\""));
        let whole = machine(&whole_reference());
        let defaults = machine("domain = \"localhost\"\n[acme]").acme.unwrap();
        let acme = whole.acme.unwrap();
        assert_eq!((acme.directories, acme.challenges), (defaults.directories, defaults.challenges));
    }

    #[test]
    fn the_reference_has_every_key_and_says_why() {
        let mut tree: toml::Table = toml::from_str(&whole_reference()).unwrap();
        let mut shown = BTreeSet::new();
        let tables: Vec<String> =
            tree.iter().filter(|(_, value)| value.is_table()).map(|(key, _)| key.clone()).collect();
        for table in &tables {
            let table = tree[table].as_table_mut().unwrap();
            shown.insert(table.keys().cloned().collect::<BTreeSet<_>>());
            table.insert("zzzzzzzzzzzz".into(), 1.into());
        }
        shown.insert(tree.keys().cloned().collect());
        tree.insert("zzzzzzzzzzzz".into(), 1.into());
        // Each unknown key is answered by the list of those that are known.
        let sheet = Sheet::new("prime.toml".into(), toml::to_string(&tree).unwrap());
        read(&sheet, Path::new("/srv"));
        let known = |hint: String| hint.trim_start_matches("known here: ").split(", ").map(str::to_owned).collect();
        let known: BTreeSet<BTreeSet<String>> =
            sheet.into_faults().into_iter().filter_map(|f| f.hint).map(known).collect();
        assert_eq!(shown, known);

        let lines: Vec<&str> = REFERENCE.lines().collect();
        for pair in lines.windows(2).filter(|pair| pair[1].contains(" = ") && !pair[1].starts_with("# ")) {
            let is_explained = pair[0].starts_with("# ") || pair[1].starts_with("https");
            assert!(is_explained, "no word on `{}`", pair[1]);
        }
    }

    #[test]
    fn paths_begin_beside_the_conf_directory() {
        let machine = machine("domain = \"a.test\"\nstate_dir = \"./s\"\ncerts_dir = \"/c\"");
        assert_eq!((machine.state_dir, machine.certs_dir), ("/srv/s".into(), "/c".into()));
    }
}
