//! The meaning of what `prime.toml` says about the outside: `[listen]`, `[acme]`, `[hooks]` and `[dashboard]`.
//!
//! Called by `machine`. The rule it keeps: a secret that stands in the file itself is refused, and shown to nobody.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::model::host::{HostName, HostPattern};
use crate::model::machine::{Acme, Api, Challenge, Hooks, Listeners, TravisKey};
use crate::model::project::Secret;
use crate::model::push::Provider;

use super::claims::Claim;
use super::raw::{Table, Word};

/// `[listen]`. `trusts_nobody` says that there is no proxy whose word could be taken.
pub fn listeners(root: &mut Table<'_>, trusts_nobody: bool) -> Listeners {
    let defaults = |port: u16| vec![SocketAddr::from(([0, 0, 0, 0], port)), SocketAddr::from(([0u16; 8], port))];
    let metrics = Some(SocketAddr::from(([127, 0, 0, 1], 9464)));
    let Some(mut table) = root.table("listen") else {
        return Listeners { http: defaults(80), https: defaults(443), metrics, ..Listeners::default() };
    };
    let mut taken = HashSet::new();
    let (http, https) = (table.list("http"), table.list("https"));
    let proxied = [table.list("proxied_http"), table.list("proxied_https")].map(Option::unwrap_or_default);
    let is_none = |words: &Option<Vec<Word<'_>>>| words.as_ref().is_some_and(Vec::is_empty);
    if is_none(&http) && is_none(&https) && proxied.iter().all(Vec::is_empty) {
        table.sheet().note(Some(table.at()), "there is no address to listen on", "", None);
    }
    let mut addresses = |words: Option<Vec<Word<'_>>>, port| match words {
        Some(words) => words.iter().filter_map(|word| listen(word, &mut taken)).collect(),
        None => defaults(port),
    };
    let (http, https) = (addresses(http, 80), addresses(https, 443));
    let metrics = match table.word("metrics") {
        Some(word) if word.value().as_str() == Some("none") => None,
        Some(word) => listen(&word, &mut taken),
        None => metrics,
    };
    let [proxied_http, proxied_https] = proxied.map(|words| {
        if let Some(first) = words.first().filter(|_| trusts_nobody) {
            let hint = "name the proxies that connect there: [trust] proxies = [\"10.0.0.0/8\"]";
            first.wrong::<()>(format!("`{}` needs `[trust] proxies`, which is empty", first.name()), hint.to_owned());
        }
        words.iter().filter_map(|word| listen(word, &mut taken)).collect()
    });
    table.close();
    Listeners { http, https, metrics, proxied_http, proxied_https }
}

/// One address, which nothing else may have taken. Port 0 is any free port, as often as one likes.
fn listen(word: &Word<'_>, taken: &mut HashSet<SocketAddr>) -> Option<SocketAddr> {
    let address = word.socket_address()?;
    match taken.insert(address) {
        false if address.port() != 0 => word.wrong(format!("`{address}` is listened on twice"), None),
        _ => Some(address),
    }
}

/// `[acme]`.
pub fn acme(mut table: Table<'_>, base: &Path) -> Acme {
    let email = table.word("email").and_then(|word| email(&word));
    let directories = some_of(&mut table, "directory", directory).unwrap_or_else(|| vec![LETS_ENCRYPT.to_owned()]);
    let root = table.word("root").and_then(|word| word.file(base));
    let all = || CHALLENGES.iter().map(|(_, challenge)| *challenge).collect();
    let challenges = some_of(&mut table, "challenges", |word| word.choice(&CHALLENGES)).unwrap_or_else(all);
    table.close();
    Acme { email, directories, root, challenges }
}

/// A list with at least one word in it; `None` when the key is absent.
fn some_of<T>(table: &mut Table<'_>, key: &'static str, meaning: impl Fn(&Word<'_>) -> Option<T>) -> Option<Vec<T>> {
    let words = table.list(key)?;
    if words.is_empty() {
        let hint = "leave it out for the default".to_owned();
        table.sheet().note(Some(table.at()), format!("`{key}` is empty"), "", Some(hint));
    }
    Some(words.iter().filter_map(meaning).collect())
}

fn email(word: &Word<'_>) -> Option<String> {
    let text = word.line()?;
    match text.split_once('@') {
        Some((name, host)) if !name.is_empty() && !text.contains(' ') && host.parse::<HostName>().is_ok() => {
            Some(text.to_owned())
        }
        _ => word.wrong(format!("`{text}` is not an e-mail address"), None),
    }
}

/// A CA by name, or by the URL of its directory.
fn directory(word: &Word<'_>) -> Option<String> {
    match word.text()?.contains("://") {
        true => word.url(),
        false => word.choice(&DIRECTORIES).map(str::to_owned),
    }
}

/// `[hooks]`, with a claim for its host.
pub fn hooks(
    table: Option<Table<'_>>,
    base: &Path,
    domain: Option<&HostName>,
    claims: &mut Vec<Claim>,
) -> Option<Hooks> {
    let default_host = || format!("opri.{}", domain?).parse().ok();
    let default_key = || TravisKey::ConfigUrl(TRAVIS_CONFIG.to_owned());
    let (secrets, apis) = Default::default();
    let Some(mut table) = table else {
        let host: HostName = default_host()?;
        claims.push(hooks_claim(&host, None));
        return Some(Hooks { host, travis: default_key(), secrets, apis, reconcile: RECONCILE });
    };
    let word = table.word("host");
    let host = word.as_ref().map_or_else(default_host, Word::host);
    let mut said = Said { base, secrets, apis };
    let travis = table.table("travis").map_or_else(|| Some(default_key()), |table| said.travis(table));
    for (name, provider) in SIGNERS {
        if let Some(word) = table.word(name) {
            said.signer(word, provider);
        }
    }
    let time = |word: Word<'_>| word.duration(Duration::from_secs(1)..=Duration::from_secs(86_400));
    let reconcile = table.word("reconcile").and_then(time).unwrap_or(RECONCILE);
    table.close();
    claims.extend(host.as_ref().map(|host| hooks_claim(host, word)));
    Some(Hooks { host: host?, travis: travis?, secrets: said.secrets, apis: said.apis, reconcile })
}

fn hooks_claim(host: &HostName, word: Option<Word<'_>>) -> Claim {
    Claim { host: HostPattern::Exact(host.clone()), at: word.map(|word| word.at()), what: "the hooks".to_owned() }
}

/// What `[hooks]` says of the providers.
struct Said<'b> {
    base: &'b Path,
    secrets: BTreeMap<Provider, Secret>,
    apis: BTreeMap<Provider, Api>,
}

impl Said<'_> {
    /// `{ secret = { … }, api = "https://…", token = { … } }`, of which one must be there.
    fn signer(&mut self, word: Word<'_>, provider: Provider) -> Option<()> {
        if word.value().as_table().is_none() {
            // What stands here instead is likely the secret itself.
            word.mask();
            let hint = format!("{0} = {{ secret = {{ file = \"secrets/{0}\" }} }}", word.name());
            return word.wrong(format!("`{}` must be a table", word.name()), hint);
        }
        let mut table = word.clone().table()?;
        let is_empty = !["secret", "api", "token"].iter().any(|key| table.has(key));
        if let Some(secret) = table.word("secret").and_then(|secret| secret.secret(self.base)) {
            self.secrets.insert(provider, secret);
        }
        if provider != Provider::Generic {
            self.api(&mut table, provider);
        }
        table.close();
        match is_empty {
            true => word.wrong(format!("`{}` needs a `secret`", word.name()), "secret = { file = \"…\" }".to_owned()),
            false => Some(()),
        }
    }

    fn api(&mut self, table: &mut Table<'_>, provider: Provider) {
        let base = table.word("api").and_then(|word| word.url()).map(|url| url.trim_end_matches('/').to_owned());
        let token = table.word("token").and_then(|word| word.secret(self.base));
        if base.is_some() || token.is_some() {
            self.apis.insert(provider, Api { base, token });
        }
    }

    fn travis(&mut self, mut table: Table<'_>) -> Option<TravisKey> {
        self.api(&mut table, Provider::Travis);
        let is_asked = self.apis.contains_key(&Provider::Travis);
        let (url, key) = (table.word("config_url"), table.word("public_key"));
        let (at, sheet) = (table.at(), table.sheet());
        table.close();
        match (url, key) {
            (Some(url), None) => url.url().map(TravisKey::ConfigUrl),
            (None, Some(key)) => key.file(self.base).map(TravisKey::PublicKey),
            (None, None) if is_asked => Some(TravisKey::ConfigUrl(TRAVIS_CONFIG.to_owned())),
            _ => {
                sheet.note(Some(at), "`travis` needs either `config_url` or `public_key`", "", None);
                None
            }
        }
    }
}

/// `[dashboard]`, with a claim for its host.
pub fn dashboard(table: Option<Table<'_>>, claims: &mut Vec<Claim>) -> Option<HostName> {
    let mut table = table?;
    let word = table.word("host");
    table.close();
    let word = word?;
    let host = HostPattern::Exact(word.host()?);
    if claims.iter().any(|claim| claim.host == host) {
        return word.wrong("the dashboard and the hooks need a host each", None);
    }
    claims.push(Claim { host: host.clone(), at: Some(word.at()), what: "the dashboard".to_owned() });
    host.exact().cloned()
}

const TRAVIS_CONFIG: &str = "https://api.travis-ci.com/config";
const RECONCILE: Duration = Duration::from_secs(300);
/// Who signs with a secret.
const SIGNERS: [(&str, Provider); 4] = [
    ("github", Provider::Github),
    ("gitlab", Provider::Gitlab),
    ("gitea", Provider::Gitea),
    ("generic", Provider::Generic),
];
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
const DIRECTORIES: [(&str, &str); 2] =
    [("letsencrypt", LETS_ENCRYPT), ("letsencrypt-staging", "https://acme-staging-v02.api.letsencrypt.org/directory")];
const CHALLENGES: [(&str, Challenge); 2] = [("http-01", Challenge::Http01), ("tls-alpn-01", Challenge::TlsAlpn01)];
