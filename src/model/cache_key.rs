//! How the key of a URL is made where conf says so, in place of the URL as it was sent.
//!
//! Pure. Read by the edge for every request that the cache has a part in. The rule: what is not in the key is not shown to the
//! app either, or the answer is not stored, so that nothing that is stored can depend on what somebody put beside the key.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::pattern::Pattern;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheKey {
    pub query: QueryKey,
    /// Whether parameters are put in the order of their names; those of one name stay as they were.
    pub sort: bool,
    /// Names of cookies whose values are part of the key.
    pub cookies: Vec<String>,
}

/// Which parameters of a query are part of the key. The names are compared as the app reads them, decoded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueryKey {
    #[default]
    Whole,
    /// All but these.
    Without(Vec<Pattern>),
    /// None but these.
    Only(Vec<Pattern>),
}

/// The cookies of a request by what the key says of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cookies {
    /// Those in the key, by name and as they were sent, with `;` between them, which none of them can contain.
    pub keyed: Box<[u8]>,
    /// Whether there are others.
    pub has_others: bool,
}

impl CacheKey {
    /// The target that stands in the key, and by which the app is asked; `None` when it is the one that was sent.
    ///
    /// `&` alone separates parameters: what an app takes for two by a `;` is one here, and stays together or goes together.
    pub fn target(&self, target: &str) -> Option<String> {
        if self.query == QueryKey::Whole && !self.sort {
            return None;
        }
        let (path, query) = target.split_once('?')?;
        let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
        let mut kept: Vec<_> = parameters.map(|parameter| (name(parameter), parameter)).collect();
        kept.retain(|(name, _)| self.query.has(name));
        if self.sort {
            kept.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        let mut own = path.to_owned();
        for (at, (_, parameter)) in kept.iter().enumerate() {
            own.push(if at == 0 { '?' } else { '&' });
            own.push_str(parameter);
        }
        (own != target).then_some(own)
    }

    /// The cookies in the lines of the field; `None` when the key says nothing of cookies.
    pub fn cookies<'v>(&self, lines: impl Iterator<Item = &'v [u8]>) -> Option<Cookies> {
        if self.cookies.is_empty() {
            return None;
        }
        let (mut keyed, mut has_others) = (Vec::new(), false);
        let crumbs = lines.flat_map(|line| line.split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
        for crumb in crumbs.filter(|crumb| !crumb.is_empty()) {
            let name = crumb.split(|byte| *byte == b'=').next().unwrap_or_default();
            match self.cookies.iter().any(|own| own.as_bytes() == name) && crumb.len() > name.len() {
                true => keyed.push((name, crumb)),
                false => has_others = true,
            }
        }
        // Browsers send them in the order in which they got them.
        keyed.sort_by_key(|(name, _)| *name);
        let keyed: Vec<&[u8]> = keyed.into_iter().map(|(_, crumb)| crumb).collect();
        Some(Cookies { keyed: keyed.join(&b';').into(), has_others })
    }
}

impl QueryKey {
    fn has(&self, name: &[u8]) -> bool {
        let is_one = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(name));
        match self {
            QueryKey::Whole => true,
            QueryKey::Without(patterns) => !is_one(patterns),
            QueryKey::Only(patterns) => is_one(patterns),
        }
    }
}

/// The name of a parameter as an app reads it: decoded once. What is no escape stands for itself.
fn name(parameter: &str) -> Cow<'_, [u8]> {
    let name = parameter.split('=').next().unwrap_or_default().as_bytes();
    if !name.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(name);
    }
    let (mut decoded, mut rest) = (Vec::with_capacity(name.len()), name);
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'+', _) => (b' ', after),
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', &rest[1..]),
            },
            _ => (*first, after),
        };
        decoded.push(byte);
        rest = after;
    }
    Cow::Owned(decoded)
}

fn digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(names: &[&str]) -> Vec<Pattern> {
        names.iter().map(|name| Pattern::from((*name).to_owned())).collect()
    }

    fn told(key: &CacheKey, target: &str) -> String {
        key.target(target).unwrap_or_else(|| target.to_owned())
    }

    #[test]
    fn parameters_that_are_ignored_are_gone_in_every_spelling() {
        let key = CacheKey { query: QueryKey::Without(patterns(&["utm_*", "fbclid"])), ..CacheKey::default() };
        for (target, own) in [
            ("/x", "/x"),
            ("/x?a=1&b=2", "/x?a=1&b=2"),
            ("/x?utm_source=a", "/x"),
            ("/x?utm_source=a&a=1&utm_medium=b", "/x?a=1"),
            ("/x?fbclid", "/x"),
            ("/x?fbclid=&a=", "/x?a="),
            ("/x?a&fbclid=1", "/x?a"),
            ("/x?%75tm_source=a&a=1", "/x?a=1"),
            ("/x?%75%54m_source=a", "/x?%75%54m_source=a"),
            ("/x?utm%5Fsource=a", "/x"),
            ("/x?fbclid%3D=1", "/x?fbclid%3D=1"),
            ("/x?UTM_source=a", "/x?UTM_source=a"),
            ("/x?%2575tm_source=a", "/x?%2575tm_source=a"),
            ("/x?utm_source=a;b=1", "/x"),
            ("/x?b=1;utm_source=a", "/x?b=1;utm_source=a"),
            ("/x?utm_x%26b=1", "/x"),
            ("/x?fbclid[]=1", "/x?fbclid[]=1"),
            ("/x?a=utm_source=1", "/x?a=utm_source=1"),
            ("/x?a=%75&b=+&a=%2B", "/x?a=%75&b=+&a=%2B"),
            ("/x?", "/x"),
            ("/x?&&a=1&", "/x?a=1"),
            ("/x?a=1?utm_source=b", "/x?a=1?utm_source=b"),
            ("/x?%", "/x?%"),
            ("/x?%7", "/x?%7"),
            ("/x?%zzutm_a=1", "/x?%zzutm_a=1"),
            ("/utm_source?fbclid=1", "/utm_source"),
        ] {
            assert_eq!(told(&key, target), own, "{target}");
        }
    }

    #[test]
    fn an_allow_list_leaves_nothing_else() {
        let key = CacheKey { query: QueryKey::Only(patterns(&["page", "q", "f_*"])), ..CacheKey::default() };
        for (target, own) in [
            ("/x?q=1&page=2", "/x?q=1&page=2"),
            ("/x?page=2&utm_source=a&q=1", "/x?page=2&q=1"),
            ("/x?%71=1", "/x?%71=1"),
            ("/x?q=1;evil=2", "/x?q=1;evil=2"),
            ("/x?evil=2;q=1", "/x"),
            ("/x?q[]=1", "/x"),
            ("/x?f_a=1&f=2", "/x?f_a=1"),
            ("/x?=1", "/x"),
            ("/x?q=1&q=2", "/x?q=1&q=2"),
        ] {
            assert_eq!(told(&key, target), own, "{target}");
        }
        let none = CacheKey { query: QueryKey::Only(Vec::new()), ..CacheKey::default() };
        assert_eq!(told(&none, "/x?a=1&b"), "/x");
    }

    #[test]
    fn sorting_keeps_what_one_name_says_in_its_order() {
        let key = CacheKey { sort: true, ..CacheKey::default() };
        for (target, own) in [
            ("/x?b=1&a=2", "/x?a=2&b=1"),
            ("/x?a=2&b=1", "/x?a=2&b=1"),
            ("/x?b=2&a=2&b=1&a=1", "/x?a=2&a=1&b=2&b=1"),
            ("/x?b=1&a=2&%61=1", "/x?a=2&%61=1&b=1"),
            ("/x?b&a", "/x?a&b"),
            ("/x?b=1;c=2&a=1", "/x?a=1&b=1;c=2"),
            ("/x?", "/x"),
        ] {
            assert_eq!(told(&key, target), own, "{target}");
        }
        let both = CacheKey { query: QueryKey::Without(patterns(&["b"])), ..key };
        assert_eq!(told(&both, "/x?c=1&b=1&a=1"), "/x?a=1&c=1");
        assert_eq!(CacheKey::default().target("/x?b=1&&a=2"), None);
    }

    #[test]
    fn what_is_made_once_is_made_the_same_again() {
        let key = CacheKey { query: QueryKey::Without(patterns(&["u*"])), sort: true, ..CacheKey::default() };
        for target in ["/x?b=1&u=2&a=%61&&", "/x?=&u", "/x?b=+&%62=1&a", "/?u", "/x"] {
            let once = told(&key, target);
            assert_eq!(told(&key, &once), once, "{target}");
        }
    }

    #[test]
    fn cookies_are_in_the_key_or_others() {
        let key = CacheKey { cookies: vec!["lang".to_owned(), "theme".to_owned()], ..CacheKey::default() };
        for (lines, keyed, has_others) in [
            (&[][..], "", false),
            (&["lang=de"], "lang=de", false),
            (&["theme=x; lang=de"], "lang=de;theme=x", false),
            (&["lang=de", "theme=x"], "lang=de;theme=x", false),
            (&["lang=de; lang=en"], "lang=de;lang=en", false),
            (&["lang=en; lang=de"], "lang=en;lang=de", false),
            (&["lang=de; session=1"], "lang=de", true),
            (&["lang="], "lang=", false),
            (&["lang"], "", true),
            (&["Lang=de"], "", true),
            (&["l%61ng=de"], "", true),
            (&["lang =de"], "", true),
            (&["lang= de"], "lang= de", false),
            (&["lang=\"de; x=1\""], "lang=\"de", true),
            (&["lang=a=b,session=1"], "lang=a=b,session=1", false),
            (&["; ;lang=de;"], "lang=de", false),
            (&["=lang"], "", true),
        ] {
            let cookies = key.cookies(lines.iter().map(|line| line.as_bytes())).unwrap();
            assert_eq!((&*cookies.keyed, cookies.has_others), (keyed.as_bytes(), has_others), "{lines:?}");
        }
        assert_eq!(CacheKey::default().cookies([&b"a=b"[..]].into_iter()), None);
    }
}
