//! What was purged, and whether a stored response has outlived it.
//!
//! Told by `control_link` and `purging`, asked by `memory` at every hit. A purge only counts: it writes its number beside what
//! it is of, whatever is stored. Each response carries the number that was the newest when the app was asked for it. The
//! rule: a response is shown only when nothing that concerns it has a higher one, and in doubt it is not.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use ahash::RandomState;
use aws_lc_rs::digest::{SHA256, digest};
use tokio::sync::Notify;

use super::key::Key;
use super::tags;
use crate::edge::field::Fields;
use crate::link::{Purge, PurgeScope};
use crate::model::host::HostName;
use crate::model::name::Site;
use crate::model::route::UpstreamId;

/// What one table remembers before it takes all of that for one purge of everything.
const NAMES_MAX: usize = 4096;
/// Each is looked at for a response that is judged.
const PREFIXES_MAX: usize = 256;

#[derive(Debug)]
pub struct Purges {
    /// The number of the newest.
    newest: AtomicU64,
    /// By project, and by site for what concerns one branch alone.
    tables: RwLock<HashMap<Box<str>, Table, RandomState>>,
    /// URLs are kept as what this makes of them, in 64 bits that nobody outside can foresee; tags as the begin of their
    /// SHA-256, which is the same in the next process. Two that share theirs are purged together.
    hasher: RandomState,
    /// How many responses are on their way that were asked for after so many purges.
    coming: Mutex<BTreeMap<u64, usize>>,
    /// Told when there is room to be given back.
    pub happened: Notify,
}

/// What is purged by its name. A collision within these purges more than was asked for, never less.
#[derive(Hash)]
enum Name<'n> {
    All,
    Release(&'n str),
    Target(&'n str),
    Url(&'n str, &'n str),
}

/// The purges of a project, or of one of its sites.
#[derive(Debug, Default)]
struct Table {
    newest: u64,
    newest_of_tags: u64,
    /// Nothing is remembered up to here: whatever was not judged since then is gone.
    forgotten: u64,
    names: HashMap<u64, Mark, RandomState>,
    prefixes: Vec<(Box<str>, Mark)>,
}

/// The newest purges of one thing.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    hard: u64,
    soft: Option<(u64, Instant)>,
}

/// What purges say of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Holds,
    StaleSince(Instant),
    Gone,
}

/// What a stored response is to purges.
#[derive(Debug)]
pub struct Standing {
    tags: Option<Box<Tags>>,
    /// When it came.
    pub since: Instant,
    /// The newest purge that it outlived.
    outlived: AtomicU64,
    /// How long after it came a soft purge made it stale, in milliseconds.
    stale_after: AtomicU32,
}

/// Most have none.
#[derive(Debug)]
struct Tags(Box<[u64]>);

/// No soft purge has made it stale.
const NEVER: u32 = u32::MAX;

impl Standing {
    /// Of a response that came at `since`, and was asked for after so many purges.
    pub fn new(tags: Box<[u64]>, since: Instant, asked: u64) -> Self {
        let tags = (!tags.is_empty()).then(|| Box::new(Tags(tags)));
        Self { tags, since, outlived: AtomicU64::new(asked), stale_after: AtomicU32::new(NEVER) }
    }

    pub fn tags(&self) -> &[u64] {
        self.tags.as_ref().map_or(&[], |tags| &tags.0)
    }

    /// Since when a soft purge has it stale.
    pub fn stale_since(&self) -> Option<Instant> {
        let after = Some(self.stale_after.load(Ordering::Acquire)).filter(|after| *after != NEVER)?;
        Some(self.since + Duration::from_millis(after.into()))
    }

    /// Bytes it takes beside itself.
    pub fn weight(&self) -> usize {
        size_of_val(self.tags())
    }

    /// The first time counts.
    fn stale(&self, at: Instant) {
        // After 49 days it counts as stale since then.
        let after = at.saturating_duration_since(self.since).as_millis().min(u128::from(NEVER - 1)) as u32;
        // Or another was first.
        let _ = self.stale_after.compare_exchange(NEVER, after, Ordering::AcqRel, Ordering::Acquire);
    }
}

impl Purges {
    pub fn new() -> Self {
        let (tables, hasher, coming) = (RwLock::default(), RandomState::new(), Mutex::default());
        Self { newest: AtomicU64::new(0), tables, hasher, coming, happened: Notify::new() }
    }

    /// The number of the newest purge, to be taken before the app is asked.
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// All tags of a response, as they are kept; `None` when there are more than can be.
    pub fn tags_of(&self, fields: Fields<'_>, conf: &[String]) -> Option<Box<[u64]>> {
        tags::said(fields).map(|said| self.tags(said.into_iter().chain(conf.iter().map(String::as_bytes))))
    }

    /// Goes on with at least this number.
    pub fn go_on_from(&self, number: u64) {
        self.newest.fetch_max(number, Ordering::AcqRel);
    }

    /// What tags are kept as. Letters count the same whether large or small.
    pub fn tags<'t>(&self, said: impl IntoIterator<Item = &'t [u8]>) -> Box<[u64]> {
        let mut tags: Vec<u64> = said.into_iter().map(|tag| self.tag(tag)).collect();
        tags.sort_unstable();
        tags.dedup();
        tags.into()
    }

    fn tag(&self, tag: &[u8]) -> u64 {
        let hash = digest(&SHA256, &tag.to_ascii_lowercase());
        hash.as_ref().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    /// When this returns, no request that starts later is answered by what was purged.
    pub fn add(&self, purge: &Purge, now: Instant) {
        let table = match &purge.branch {
            Some(branch) => Site::new(purge.project.clone(), branch.clone()).to_string(),
            None => purge.project.to_string(),
        };
        if let Some(what) = self.what(&purge.scope) {
            self.note(&table, what, purge.is_soft.then_some(now));
        }
    }

    /// Purges everything of a release.
    pub fn add_release(&self, release: &UpstreamId) {
        self.note(release.site(), What::Named(self.hasher.hash_one(Name::Release(&release.0))), None);
    }

    /// `soft` says since when what is purged is stale.
    fn note(&self, table: &str, what: What<'_>, soft: Option<Instant>) {
        let all = self.hasher.hash_one(Name::All);
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        let number = self.newest.load(Ordering::Relaxed) + 1;
        let mark = match soft {
            Some(since) => Mark { hard: 0, soft: Some((number, since)) },
            None => Mark { hard: number, soft: None },
        };
        let table = tables.entry(table.into()).or_default();
        table.make_room(all);
        table.add(what, number, mark);
        self.newest.store(number, Ordering::Release);
        drop(tables);
        self.happened.notify_one();
    }

    /// `None` for what is no URL.
    fn what<'p>(&self, scope: &'p PurgeScope) -> Option<What<'p>> {
        let named = |name| Some(What::Named(self.hasher.hash_one(name)));
        match scope {
            PurgeScope::All => named(Name::All),
            PurgeScope::Tag(tag) => Some(What::Tag(self.tag(tag.as_bytes()))),
            PurgeScope::Prefix(prefix) => Some(What::Prefix(prefix)),
            PurgeScope::Url(url) => {
                let whole = url.split_once("://").filter(|_| !url.starts_with('/'));
                let Some((_, rest)) = whole else { return named(Name::Target(url)) };
                let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
                let slash = if target.starts_with('/') { "" } else { "/" };
                let host = HostName::from_authority(authority).ok()?;
                named(Name::Url(host.as_str(), &format!("{slash}{target}")))
            }
        }
    }

    /// Whether a stored response may be found. Costs a look at two numbers where nothing was purged since it was found last.
    pub fn allow(&self, key: &Key, standing: &Standing) -> bool {
        let (outlived, newest) = (standing.outlived.load(Ordering::Acquire), self.newest());
        if outlived >= newest {
            return true;
        }
        match self.judge(key, Some(standing.tags()), outlived) {
            Verdict::Gone => return false,
            // The first one that made it stale counts.
            Verdict::StaleSince(at) => standing.stale(at),
            Verdict::Holds => {}
        }
        standing.outlived.fetch_max(newest, Ordering::Release);
        true
    }

    /// Whether nothing concerns a response that was asked for after so many purges, whatever its tags are going to be.
    pub fn hold(&self, key: &Key, asked: u64) -> bool {
        asked >= self.newest() || self.judge(key, None, asked) == Verdict::Holds
    }

    /// `tags` is `None` for a response that has not said them yet.
    fn judge(&self, key: &Key, tags: Option<&[u64]>, outlived: u64) -> Verdict {
        let [project, release, _, authority, target] = key.parts();
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let newer = [project, key.site()].map(|name| tables.get(name).filter(|table| table.newest > outlived));
        if newer.iter().all(Option::is_none) {
            return Verdict::Holds;
        }
        let host = HostName::from_authority(authority).map(String::from).unwrap_or_default();
        let names = [Name::All, Name::Release(release), Name::Target(target), Name::Url(&host, target)];
        let names = names.map(|name| self.hasher.hash_one(name));
        let verdicts = newer.into_iter().flatten().map(|table| table.judge((&names, target), tags, outlived));
        verdicts.fold(Verdict::Holds, Verdict::and)
    }

    /// Has what is purged from now on remembered for a response that was asked for after so many purges, while it comes.
    pub fn remember(self: &Arc<Self>, asked: u64) -> Remembered {
        *self.coming.lock().unwrap_or_else(PoisonError::into_inner).entry(asked).or_default() += 1;
        Remembered { purges: self.clone(), asked }
    }

    /// To be called when whatever is stored has been judged since there were so many: they need not be remembered any more, but
    /// for what is still to come.
    pub fn forget(&self, upto: u64) {
        let oldest = self.coming.lock().unwrap_or_else(PoisonError::into_inner).keys().next().copied();
        let upto = oldest.map_or(upto, |oldest| oldest.min(upto));
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.values_mut().for_each(|table| table.forget(upto));
    }
}

/// A response on its way, that will be judged by every purge since it was asked for.
#[derive(Debug)]
pub struct Remembered {
    purges: Arc<Purges>,
    asked: u64,
}

impl Drop for Remembered {
    fn drop(&mut self) {
        let mut coming = self.purges.coming.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = coming.get_mut(&self.asked) {
            *count -= 1;
            if *count == 0 {
                coming.remove(&self.asked);
            }
        }
    }
}

/// What a purge is of, within its table.
enum What<'p> {
    Named(u64),
    Tag(u64),
    Prefix(&'p str),
}

impl Table {
    /// Takes everything for one purge of `all` when there is too much.
    fn make_room(&mut self, all: u64) {
        if self.names.len() >= NAMES_MAX || self.prefixes.len() >= PREFIXES_MAX {
            let marks = self.names.drain().map(|(_, mark)| mark).chain(self.prefixes.drain(..).map(|(_, mark)| mark));
            let one = marks.fold(Mark::default(), Mark::and);
            self.names.insert(all, one);
        }
    }

    fn add(&mut self, what: What<'_>, number: u64, mark: Mark) {
        self.newest = number;
        let before = match what {
            What::Tag(tag) => {
                self.newest_of_tags = number;
                self.names.entry(tag).or_default()
            }
            What::Named(name) => self.names.entry(name).or_default(),
            What::Prefix(prefix) => match self.prefixes.iter_mut().find(|(known, _)| **known == *prefix) {
                Some((_, before)) => before,
                None => return self.prefixes.push((prefix.into(), mark)),
            },
        };
        *before = before.and(mark);
    }

    fn judge(&self, (names, target): (&[u64], &str), tags: Option<&[u64]>, outlived: u64) -> Verdict {
        let may_be_tagged = tags.is_none() && self.newest_of_tags > outlived;
        if self.forgotten > outlived || may_be_tagged {
            return Verdict::Gone;
        }
        let named = names.iter().chain(tags.unwrap_or_default()).filter_map(|name| self.names.get(name));
        let prefixed = self.prefixes.iter().filter(|(prefix, _)| target.starts_with(&**prefix)).map(|(_, mark)| mark);
        named.chain(prefixed).map(|mark| mark.verdict(outlived)).fold(Verdict::Holds, Verdict::and)
    }

    fn forget(&mut self, upto: u64) {
        self.names.retain(|_, mark| mark.newest() > upto);
        self.prefixes.retain(|(_, mark)| mark.newest() > upto);
        self.forgotten = self.forgotten.max(self.newest.min(upto));
    }
}

impl Mark {
    /// The newer of each kind.
    fn and(self, other: Self) -> Self {
        Self { hard: self.hard.max(other.hard), soft: self.soft.max(other.soft) }
    }

    fn newest(self) -> u64 {
        self.soft.map_or(0, |(number, _)| number).max(self.hard)
    }

    fn verdict(self, outlived: u64) -> Verdict {
        match self.soft {
            _ if self.hard > outlived => Verdict::Gone,
            Some((number, at)) if number > outlived => Verdict::StaleSince(at),
            _ => Verdict::Holds,
        }
    }
}

impl Verdict {
    /// The stricter.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Verdict::Gone, _) | (_, Verdict::Gone) => Verdict::Gone,
            (Verdict::StaleSince(one), Verdict::StaleSince(other)) => Verdict::StaleSince(one.min(other)),
            (Verdict::StaleSince(at), Verdict::Holds) | (Verdict::Holds, Verdict::StaleSince(at)) => {
                Verdict::StaleSince(at)
            }
            (Verdict::Holds, Verdict::Holds) => Verdict::Holds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::request::tests::asking;

    const SCOPES: [fn() -> PurgeScope; 5] = [
        || PurgeScope::All,
        || PurgeScope::Url("/a?b".to_owned()),
        || PurgeScope::Url("https://Shop.test:444/a?b".to_owned()),
        || PurgeScope::Prefix("/a".to_owned()),
        || PurgeScope::Tag("Seven".to_owned()),
    ];

    fn key(site: &str, release: &str, host: &str, target: &str) -> Key {
        let site: Site = site.parse().unwrap();
        let id = UpstreamId(format!("{site}{release}"));
        asking(target, &format!("Host: {host}\r\n"), false, |asked| Key::new(&site, &id, &asked.unwrap()))
    }

    fn own() -> Key {
        key("shop", "#r1", "shop.test", "/a?b")
    }

    fn purge(site: &str, scope: PurgeScope, is_soft: bool) -> Purge {
        let (project, branch) = match site.split_once('/') {
            Some((project, branch)) => (project, Some(branch.parse().unwrap())),
            None => (site, None),
        };
        Purge { project: project.parse().unwrap(), branch, scope, is_soft }
    }

    fn standing(purges: &Purges, tags: &[&str]) -> Standing {
        Standing::new(purges.tags(tags.iter().map(|tag| tag.as_bytes())), Instant::now(), purges.newest())
    }

    #[test]
    fn a_path_is_a_path_whatever_its_query_says() {
        let (purges, scope) = (Purges::new(), PurgeScope::Url("/go?to=http://other.test/x".to_owned()));
        let key = key("shop", "#r1", "shop.test", "/go?to=http://other.test/x");
        let (project, standing) = ("shop".parse().unwrap(), Standing::new(Box::default(), Instant::now(), 0));
        purges.add(&Purge { project, branch: None, scope, is_soft: false }, Instant::now());
        assert!(!purges.allow(&key, &standing));
    }

    #[test]
    fn a_purge_reaches_what_it_names_in_every_release_and_nothing_else() {
        let scope = |at: usize| SCOPES[at]();
        for (site, scope, others) in [
            ("shop", scope(0), [true; 5]),
            ("shop/master", scope(0), [true, true, true, false, true]),
            ("shop/dev", scope(0), [false, false, false, true, false]),
            ("shops", scope(0), [false; 5]),
            ("shop", scope(1), [true, true, false, true, true]),
            ("shop", scope(2), [true, true, false, true, false]),
            ("shop", PurgeScope::Url("http://shop.test".to_owned()), [false; 5]),
            ("shop", PurgeScope::Url("http://[/a?b".to_owned()), [false; 5]),
            ("shop", scope(3), [true; 5]),
            ("shop", PurgeScope::Prefix("/a?".to_owned()), [true, true, false, true, true]),
            ("shop", PurgeScope::Prefix("a".to_owned()), [false; 5]),
            ("shop", scope(4), [false, true, false, false, true]),
            ("shop/master", scope(4), [false, true, false, false, true]),
            ("shop", PurgeScope::Tag("sev".to_owned()), [false; 5]),
        ] {
            let purges = Purges::new();
            let stored = [
                (own(), &[][..]),
                (key("shop", "@127.0.0.1:1", "SHOP.test:80", "/a?b"), &["six", "seven"]),
                (key("shop", "#r2", "shop.test", "/abc"), &["seventh"]),
                (key("shop/dev", "#r1", "shop.test", "/a?b"), &[]),
                (key("shop", "#r1", "www.shop.test", "/a?b"), &["SEVEN"]),
            ];
            let stored = stored.map(|(key, tags)| (key, standing(&purges, tags)));
            purges.add(&purge(site, scope.clone(), false), Instant::now());
            let gone = stored.each_ref().map(|(key, standing)| !purges.allow(key, standing));
            assert_eq!(gone, others, "{site} {scope:?}");
            let again = stored.map(|(key, standing)| !purges.allow(&key, &standing));
            assert_eq!(gone, again, "{site} {scope:?}");
        }
    }

    #[test]
    fn what_is_asked_for_after_a_purge_outlives_it_and_what_was_on_its_way_does_not() {
        for scope in SCOPES {
            let purges = Purges::new();
            let asked = purges.newest();
            assert!(purges.hold(&own(), asked));
            purges.add(&purge("shop", scope(), false), Instant::now());
            assert!(!purges.hold(&own(), asked), "{:?}", scope());
            assert!(purges.hold(&key("blog", "#r1", "shop.test", "/a?b"), asked));
            let late = Standing::new(purges.tags([&b"seven"[..]]), Instant::now(), asked);
            assert!(!purges.allow(&own(), &late) && purges.allow(&own(), &standing(&purges, &["seven"])));
            purges.forget(purges.newest());
            assert!(!purges.hold(&own(), asked) && !purges.allow(&own(), &late), "what is forgotten still holds");
            assert!(purges.allow(&own(), &standing(&purges, &["seven"])) && purges.hold(&own(), purges.newest()));
            assert!(purges.hold(&key("blog", "#r1", "shop.test", "/a?b"), asked));
        }
    }

    #[test]
    fn a_soft_purge_makes_stale_from_the_first_on_and_a_hard_one_ends_it() {
        let (purges, first) = (Purges::new(), Instant::now());
        let (seen, unseen) = (standing(&purges, &["seven"]), standing(&purges, &["seven"]));
        for (scope, at) in SCOPES.iter().zip(1..) {
            purges.add(&purge("shop", scope(), true), first + Duration::from_secs(at));
            assert!(purges.allow(&own(), &seen));
            let early = first + Duration::from_secs(1) - seen.stale_since().unwrap();
            assert!(early < Duration::from_millis(1), "never later than it was");
        }
        assert_eq!(unseen.stale_since(), None, "nobody has looked");
        assert!(
            purges.allow(&own(), &unseen)
                && unseen.stale_since().is_some_and(|since| since <= first + Duration::from_secs(1))
        );
        assert!(purges.allow(&own(), &standing(&purges, &["seven"])));
        purges.add(&purge("shop", SCOPES[4](), false), first);
        assert!(!purges.allow(&own(), &seen));
        purges.add(&purge("shop", SCOPES[4](), true), first);
        assert!(!purges.allow(&own(), &seen), "a softer one takes nothing back");
    }

    #[test]
    fn a_release_that_is_forgotten_is_gone_and_its_url_under_another_is_not() {
        let purges = Purges::new();
        let (one, two) = (standing(&purges, &[]), standing(&purges, &[]));
        purges.add_release(&UpstreamId("shop/master#r1".to_owned()));
        assert!(!purges.allow(&own(), &one));
        assert!(purges.allow(&key("shop", "#r2", "shop.test", "/a?b"), &two));
    }

    #[test]
    fn more_than_can_be_remembered_is_taken_for_everything() {
        for scope in [PurgeScope::Tag, PurgeScope::Prefix, PurgeScope::Url] {
            let purges = Purges::new();
            let (old, other) = (standing(&purges, &[]), standing(&purges, &[]));
            for number in 0..NAMES_MAX {
                purges.add(&purge("shop", scope(format!("/{number}")), true), Instant::now());
            }
            purges.add(&purge("shop", scope("/x".to_owned()), false), Instant::now());
            assert!(purges.allow(&own(), &old) && old.stale_since().is_some(), "softly, as each was meant");
            let table = &purges.tables.read().unwrap()["shop"];
            assert!(table.names.len() + table.prefixes.len() <= NAMES_MAX);
            assert!(purges.allow(&key("blog", "#r1", "a", "/"), &other) && other.stale_since().is_none());
        }
    }

    #[test]
    fn while_others_purge_nothing_that_was_purged_is_seen() {
        let purges = Purges::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2000 {
                    purges.add(&purge("shop", PurgeScope::Tag("other".to_owned()), false), Instant::now());
                    purges.forget(purges.newest());
                }
            });
            for tag in ["a", "b"] {
                let purges = &purges;
                scope.spawn(move || {
                    for _ in 0..2000 {
                        let stored = standing(purges, &[tag]);
                        purges.add(&purge("shop", PurgeScope::Tag(tag.to_owned()), false), Instant::now());
                        assert!(!purges.allow(&own(), &stored));
                    }
                });
            }
        });
    }
}
