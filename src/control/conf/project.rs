//! The meaning of one file in `projects/`: words in, a `Project` out.
//!
//! Called by `load` for each file. The rule it keeps: a project's file is read without any other's; what two projects
//! both claim is settled afterwards, in `claims`.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

use crate::model::compression::CompressionPolicy;
use crate::model::host::HostPattern;
use crate::model::name::{BranchName, ProjectName};
use crate::model::project::{Branch, Ci, Origin, Previews, Project, ProjectHooks, SiteLimits};

use super::claims::Claim;
use super::machine::Ground;
use super::raw::{Table, Word};
use super::sheet::Sheet;
use super::{app, cache, repository};

/// What a project's file says.
#[derive(Debug, Default)]
pub struct Said {
    /// `None` when a fault was noted.
    pub project: Option<Project>,
    pub claims: Vec<Claim>,
}

/// Reads the file of the project `name`.
pub fn read(sheet: &Sheet, name: &ProjectName, ground: &Ground<'_>) -> Said {
    let Some(tree) = sheet.parse() else { return Said::default() };
    let mut root = Table::root(sheet, &tree);
    let has_upstream = root.has("upstream");
    let origin = origin(&mut root, ground);
    let ci = root.word("ci").map_or(Some(Ci::Travis), |word| word.choice(&CIS));
    let mut hosts = Hosts { sheet, name, ground, claims: Vec::new(), seen: HashMap::new() };
    let branches = match root.table("branches") {
        Some(table) => hosts.branches(&table),
        None => hosts.default_branches(has_upstream),
    };
    let app = root.table("app").map(app::read).unwrap_or_default();
    let mut purge_secret = None;
    let cache = root.table("cache").map_or_else(
        || ground.cache_policy(),
        |mut table| {
            purge_secret = table.word("purge").and_then(|word| word.secret(ground.base));
            cache::read(table, ground)
        },
    );
    let limits = root.table("limits").map(limits).unwrap_or_default();
    let compression = root.table("compression").map(compression).unwrap_or_default();
    let https_only = root.word("https").and_then(|word| word.choice(&HTTPS));
    let hooks = root.table("hooks").map(|table| hooks(table, ground)).unwrap_or_default();
    let previews = root.table("previews").and_then(|table| previews(table, has_upstream));
    root.close();
    let claims = hosts.claims;
    let project = origin.zip(ci).filter(|_| sheet.is_good()).map(|(origin, ci)| Project {
        name: name.clone(),
        origin,
        ci,
        branches,
        app,
        cache,
        limits,
        compression,
        https_only,
        hooks,
        purge_secret,
        previews,
    });
    Said { project, claims }
}

fn origin(root: &mut Table<'_>, ground: &Ground<'_>) -> Option<Origin> {
    let (repo, upstream) = (root.word("repo"), root.list("upstream"));
    match (repo, upstream) {
        (Some(repo), None) => repository::read(&repo, ground.base).map(Origin::Repository),
        (None, Some(words)) if words.is_empty() => {
            root.sheet().note(None, "`upstream` is empty", "", Some("give an address, or a `repo`".to_owned()));
            None
        }
        (None, Some(words)) => Some(Origin::Upstream(words.iter().filter_map(address).collect())),
        (Some(repo), Some(_)) => {
            let hint = "`repo` is built and run by Prime, `upstream` runs already: keep one";
            repo.wrong("a project has either `repo` or `upstream`", hint.to_owned())
        }
        (None, None) => {
            let hint = "repo = \"https://…\", or upstream = \"127.0.0.1:9000\" for what runs already";
            root.sheet().note(None, "the project has neither `repo` nor `upstream`", "", Some(hint.to_owned()));
            None
        }
    }
}

fn address(word: &Word<'_>) -> Option<crate::model::address::Address> {
    let text = word.line()?;
    match text.strip_prefix("localhost:") {
        Some(port) => {
            let hint = format!("names are not looked up on the way of a request: \"127.0.0.1:{port}\"");
            word.wrong(format!("`{text}` is not an address"), hint)
        }
        None => word.parsed(),
    }
}

/// Finds the hosts of a project's branches, and keeps a claim for each.
struct Hosts<'h> {
    sheet: &'h Sheet,
    name: &'h ProjectName,
    ground: &'h Ground<'h>,
    claims: Vec<Claim>,
    seen: HashMap<HostPattern, Option<Range<usize>>>,
}

impl Hosts<'_> {
    fn default_branches(&mut self, has_upstream: bool) -> BTreeMap<BranchName, Branch> {
        let names =
            if has_upstream { vec![BranchName::master()] } else { vec![BranchName::master(), BranchName::dev()] };
        names.into_iter().map(|name| (name.clone(), Branch::of(self.default_hosts(&name, None)))).collect()
    }

    fn branches(&mut self, table: &Table<'_>) -> BTreeMap<BranchName, Branch> {
        let mut branches = BTreeMap::new();
        for (at, word) in table.entries() {
            let parsed = word.name().parse::<BranchName>();
            let Some(mut table) = word.table() else { continue };
            let hosts = table.list("hosts");
            table.close();
            match (parsed, hosts) {
                (Err(fault), _) => {
                    let hint = "1 to 100 of letters, digits and `.`, `_`, `/`, `-`, as git allows them";
                    self.sheet.note(Some(at), fault.to_string(), "", Some(hint.to_owned()));
                }
                (Ok(name), None) => {
                    let hosts = self.default_hosts(&name, Some(at));
                    branches.insert(name, Branch::of(hosts));
                }
                (Ok(name), Some(words)) => {
                    if words.is_empty() {
                        let hint = "leave `hosts` out for the default, or name at least one";
                        self.sheet.note(Some(at), format!("branch `{name}` has no host"), "", Some(hint.to_owned()));
                    }
                    let hosts = words.iter().filter_map(|word| self.host(word)).collect();
                    branches.insert(name, Branch::of(hosts));
                }
            }
        }
        if table.entries().is_empty() {
            let hint = "leave [branches] out for master and dev, or name at least one";
            self.sheet.note(Some(table.at()), "the project has no branch", "", Some(hint.to_owned()));
        }
        branches
    }

    fn host(&mut self, word: &Word<'_>) -> Option<HostPattern> {
        let host = match word.text()?.parse::<HostPattern>() {
            Ok(host) => host,
            Err(fault) => return word.wrong_host(&fault),
        };
        self.claim(host, Some(word.at()))
    }

    /// `<name>.<domain>` for master, `<branch>.<name>.<domain>` for the others.
    fn default_hosts(&mut self, branch: &BranchName, at: Option<Range<usize>>) -> Vec<HostPattern> {
        let Some(domain) = &self.ground.domain else { return Vec::new() };
        let prefix = if *branch == BranchName::master() { String::new() } else { format!("{branch}.") };
        let is_label = !branch.as_str().contains(['.', '/', '_']) && !branch.as_str().ends_with('-');
        let host = format!("{prefix}{}.{domain}", self.name).parse::<HostPattern>();
        match host.ok().filter(|_| is_label) {
            Some(host) => self.claim(host, at).into_iter().collect(),
            None => {
                let hint = format!("[branches.\"{branch}\"] with hosts = [\"…\"]");
                let why = format!("branch `{branch}` has no default host: its name cannot be part of one");
                self.sheet.note(at, why, "", Some(hint));
                Vec::new()
            }
        }
    }

    fn claim(&mut self, host: HostPattern, at: Option<Range<usize>>) -> Option<HostPattern> {
        if let Some(first) = self.seen.get(&host) {
            let label = format!("`{host}` is claimed already ({})", self.sheet.place(first.as_ref()));
            self.sheet.note(at, "the project claims a host twice", &label, Some("name it once".to_owned()));
            return None;
        }
        self.seen.insert(host.clone(), at.clone());
        self.claims.push(Claim { host: host.clone(), at, what: format!("project `{}`", self.name) });
        Some(host)
    }
}

fn hooks(mut table: Table<'_>, ground: &Ground<'_>) -> ProjectHooks {
    let hooks = ProjectHooks {
        secret: table.word("secret").and_then(|word| word.secret(ground.base)),
        token: table.word("token").and_then(|word| word.secret(ground.base)),
        repository_id: table.word("repository_id").and_then(|word| word.whole(1..=i64::MAX.unsigned_abs())),
    };
    table.close();
    hooks
}

fn previews(mut table: Table<'_>, has_upstream: bool) -> Option<Previews> {
    let (max, ttl) = (table.word("max"), table.word("ttl"));
    let previews = Previews {
        max: max.and_then(|word| word.whole(1..=PREVIEWS_MAX)).and_then(|max| usize::try_from(max).ok()).unwrap_or(5),
        ttl: ttl.and_then(|word| word.duration(Duration::from_secs(1)..=PREVIEW_TTL_MAX)).unwrap_or(PREVIEW_TTL),
    };
    if has_upstream {
        let hint = "previews are built from a repository: take [previews] out".to_owned();
        table.sheet().note(Some(table.at()), "a project with `upstream` has no previews", "", Some(hint));
    }
    table.close();
    (!has_upstream).then_some(previews)
}

fn limits(mut table: Table<'_>) -> SiteLimits {
    let rate = |word: Word<'_>| word.whole(1..=RATE_MAX).and_then(|number| u32::try_from(number).ok());
    let limits = SiteLimits {
        body_max: table.word("body_max").and_then(|word| word.size(1)),
        rate: table.word("requests_per_second").and_then(rate),
        rate_per_address: table.word("requests_per_second_per_address").and_then(rate),
    };
    table.close();
    limits
}

fn compression(mut table: Table<'_>) -> CompressionPolicy {
    let mut policy = CompressionPolicy::default();
    if let Some(enabled) = table.word("enabled").and_then(|word| word.flag()) {
        policy.enabled = enabled;
    }
    policy.skip =
        table.list("skip").unwrap_or_default().iter().filter_map(|word| cache::path_pattern(word, "to skip")).collect();
    table.close();
    policy
}

const RATE_MAX: u64 = 1_000_000;
const PREVIEWS_MAX: u64 = 100;
/// A week.
const PREVIEW_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
const PREVIEW_TTL_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
const CIS: [(&str, Ci); 6] = [
    ("travis", Ci::Travis),
    ("github", Ci::Github),
    ("gitlab", Ci::Gitlab),
    ("gitea", Ci::Gitea),
    ("generic", Ci::Generic),
    ("none", Ci::None),
];
const HTTPS: [(&str, bool); 2] = [("redirect", true), ("both", false)];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const REFERENCE: &str = include_str!("../../../conf/project.toml");

    fn read_text(text: &str) -> (Option<Project>, Vec<crate::report::Fault>) {
        let ground = Ground { base: Path::new("/srv"), domain: "test".parse().ok(), object_max: 1 };
        let sheet = Sheet::new("shop.toml".into(), text.into());
        let said = read(&sheet, &"shop".parse().unwrap(), &ground);
        (said.project, sheet.into_faults())
    }

    #[test]
    fn the_reference_shows_the_defaults() {
        let (shown, faults) = read_text(REFERENCE);
        let mut shown = shown.unwrap_or_else(|| panic!("{faults:?}"));
        let mut default = read_text("repo = \"https://github.com/example/shop\"").0.unwrap();
        let wishes = [std::mem::take(&mut shown.app), std::mem::take(&mut default.app)];
        assert_eq!(shown, default);
        let [shown, default] = wishes.map(crate::model::app::AppWish::settle);
        assert_eq!(shown, default);
    }

    /// The reference with the keys that have no default.
    fn whole_reference() -> String {
        let is_key = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        let uncover = |line: &'static str| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line);
        REFERENCE.lines().map(uncover).collect::<Vec<_>>().join("\n")
    }

    /// A key that nobody knows in every table whose keys are known.
    fn spoil(name: &str, value: &mut toml::Value) {
        match value {
            toml::Value::Table(table) => {
                table.iter_mut().for_each(|(name, value)| spoil(name, value));
                if !matches!(name, "env" | "branches") {
                    table.insert("zzzzzzzzzzzz".into(), 1.into());
                }
            }
            toml::Value::Array(items) => items.iter_mut().for_each(|item| spoil(name, item)),
            _ => {}
        }
    }

    #[test]
    fn the_reference_has_every_key_and_says_why() {
        let mut tree = toml::Value::Table(toml::from_str(&whole_reference()).unwrap());
        spoil("", &mut tree);
        // Each unknown key is answered by the list of those that are known.
        let (_, faults) = read_text(&toml::to_string(&tree).unwrap());
        let lists: Vec<String> =
            faults.into_iter().filter_map(|fault| Some(fault.hint?.strip_prefix("known here: ")?.to_owned())).collect();
        assert!(lists.len() >= 11, "{lists:?}");
        // `env` of a secret is shown in words.
        for key in lists.iter().flat_map(|list| list.split(", ")).filter(|key| *key != "env") {
            let is_shown =
                [format!("\n{key} = "), format!("\n# {key} = "), format!("{{ {key} = "), format!(", {key} = ")];
            let is_table = REFERENCE.contains(&format!("[{key}"));
            assert!(is_table || is_shown.iter().any(|form| REFERENCE.contains(form)), "`{key}` is not shown");
        }
        let lines: Vec<&str> = REFERENCE.lines().collect();
        for pair in lines.windows(2).filter(|pair| pair[1].contains(" = ")) {
            assert!(pair[0].starts_with("# "), "no word on `{}`", pair[1]);
        }
    }
}
