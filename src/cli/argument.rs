//! Arguments that are judged when they are typed, where a type of `model` alone would not do.
//!
//! The rule: what could only match nothing is refused, with what to write instead.

use std::fmt;
use std::num::NonZeroU16;
use std::time::Duration;

use crate::model::host::HostName;
use crate::model::name::{BranchName, NameFault, ProjectName, Site};
use crate::report;

/// `r7` and `7`.
pub fn release_number(text: &str) -> Result<u64, String> {
    text.strip_prefix('r').unwrap_or(text).parse().map_err(|_| format!("`{text}` is not a release like r7"))
}

/// What a path is to begin with. Whatever else is given would match nothing, without a word.
pub fn prefix(text: &str) -> Result<String, String> {
    let (before, path) = (text.split('*').next().unwrap_or_default(), path_of(text));
    match text {
        _ if !text.starts_with('/') && text.contains("://") => {
            Err(format!("`{text}` is a whole URL: give how its path begins, {path}"))
        }
        _ if text.contains('*') => {
            Err(format!("`{text}` has a `*`, which stands for itself: {before} is every path below"))
        }
        _ if !text.starts_with('/') => Err(format!("`{text}` is no path: give /{text}")),
        _ => Ok(text.to_owned()),
    }
}

/// A whole URL, read as browsers do, or a path.
pub fn url(text: &str) -> Result<String, String> {
    match text {
        _ if path_of(text).ends_with('*') && !text.contains('?') => Err(format!(
            "`{text}` has a `*`, which stands for itself: give --prefix {}",
            path_of(text).trim_end_matches('*')
        )),
        _ if !text.starts_with('/') && !text.contains("://") => {
            Err(format!("`{text}` is neither a path nor a whole URL: give /{text} or https://{text}"))
        }
        _ if text.starts_with('/') => Ok(text.to_owned()),
        _ => web_url(text).map(|url| url.to_string()),
    }
}

/// A URL as a client would ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebUrl {
    pub is_secure: bool,
    /// With its port, where that does not go without saying.
    pub authority: String,
    /// Path and query, escaped.
    pub target: String,
}

impl fmt::Display for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.target)
    }
}

/// A whole URL, read as browsers do.
pub fn web_url(text: &str) -> Result<WebUrl, String> {
    let (scheme, rest) =
        text.split_once("://").ok_or_else(|| format!("`{text}` is no whole URL: give https://{text}"))?;
    let is_secure = match scheme.to_ascii_lowercase().as_str() {
        "https" => true,
        "http" => false,
        _ => return Err(format!("`{scheme}` is neither http nor https")),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let after_host = authority.rfind(']').map_or(0, |end| end + 1);
    let port = authority[after_host..].find(':').map_or("", |colon| &authority[after_host + colon..]);
    let name = &authority[..authority.len() - port.len()];
    let host = HostName::from_authority(name).or_else(|_| name.parse()).map_err(|fault| fault.to_string())?;
    if port.len() > 1 && port[1..].parse::<NonZeroU16>().is_err() {
        return Err(format!("`{}` is no port", &port[1..]));
    }
    let port = if matches!((is_secure, port), (true, ":443") | (false, ":80") | (_, ":")) { "" } else { port };
    let authority = format!("{}{port}", host.in_url());
    HostName::from_authority(&authority).map_err(|fault| fault.to_string())?;
    let slash = if target.starts_with('/') { "" } else { "/" };
    Ok(WebUrl { is_secure, authority, target: format!("{slash}{}", escaped(target)) })
}

fn escaped(target: &str) -> String {
    let escape = |byte: u8| match byte {
        b'"' | b'<' | b'>' | b'`' => format!("%{byte:02X}"),
        _ if byte.is_ascii_graphic() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    target.bytes().map(escape).collect()
}

/// A field of a request, `Name: value`.
pub fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("`{text}` is no field: give \"Name: value\""))?;
    let is_value = !value.contains(|character: char| character.is_control() && character != '\t');
    match http::HeaderName::try_from(name).is_ok() && is_value {
        true if name.eq_ignore_ascii_case("host") => Err("the host is taken from the URL".to_owned()),
        true => Ok((name.to_owned(), value.trim().to_owned())),
        false => Err(format!("`{}` is not the name of a field with a value on one line", report::clean(text))),
    }
}

pub fn method(text: &str) -> Result<String, String> {
    let method = text.parse::<http::Method>().map_err(|_| format!("`{text}` is no method"))?;
    match method.as_str() {
        "PURGE" => Err("PURGE is for the cache itself and no request to an app: see `opri purge`".to_owned()),
        method => Ok(method.to_owned()),
    }
}

/// The path of a URL, from its first slash.
fn path_of(url: &str) -> &str {
    let whole = url.split_once("://").filter(|_| !url.starts_with('/'));
    let rest = whole.map_or(url, |(_, rest)| rest);
    rest.find('/').map_or("/", |slash| &rest[slash..])
}

/// `500ms`, `10s`, `5m`, `2h` and `1d`.
pub fn span(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let milliseconds = UNITS.iter().find(|(known, _)| *known == unit).map(|(_, milliseconds)| *milliseconds);
    let span = number.parse::<u64>().ok().zip(milliseconds).and_then(|(number, each)| number.checked_mul(each));
    span.map(Duration::from_millis).ok_or_else(|| format!("`{text}` is no time: give 500ms, 10s, 5m, 2h or 1d"))
}

/// As an app gives it to its answers: where it stands in a list, it has no comma, or no white space.
pub fn tag(text: &str) -> Result<String, String> {
    let could_be = !text.is_empty() && text.trim() == text && !text.contains(char::is_control);
    match could_be && !(text.contains(',') && text.contains(char::is_whitespace)) {
        true => Ok(text.to_owned()),
        false => Err(format!("`{text}` is not one tag: give each by itself")),
    }
}

/// A project with all its branches, or one branch.
pub fn project_or_branch(text: &str) -> Result<(ProjectName, Option<BranchName>), String> {
    let said = |fault: NameFault| fault.to_string();
    match text.contains('/') {
        true => text.parse().map(|site: Site| (site.project, Some(site.branch))).map_err(said),
        false => text.parse().map(|project| (project, None)).map_err(said),
    }
}

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_match_nothing_is_not_taken_for_a_path() {
        for path in ["/", "/static/", "/a?b=", "/go?to=http://other.test/", "/http://"] {
            assert_eq!(prefix(path).as_deref(), Ok(path));
        }
        let says = |refused: Result<String, String>, word: &str| {
            assert!(refused.is_err_and(|text| text.contains(word)), "{word}")
        };
        says(prefix("static/"), "give /static/");
        says(prefix("/static/*"), "/static/ is every path below");
        says(prefix("https://shop.test/static/"), "begins, /static/");
        for (typed, meant) in [
            ("/a", "/a"),
            ("/search?q=*", "/search?q=*"),
            ("https://shop.test/a", "https://shop.test/a"),
            ("http://Shop.test", "http://shop.test/"),
        ] {
            assert_eq!(url(typed).as_deref(), Ok(meant));
        }
        assert!(["http://", "http:///a", "ftp://shop.test/a"].iter().all(|wrong| url(wrong).is_err()));
        says(url("shop.test/a"), "give /shop.test/a or https://shop.test/a");
        says(url("https://shop.test/a/*"), "give --prefix /a/");
        says(url("/http://a/*"), "give --prefix /http://a/");
    }

    #[test]
    fn a_url_is_asked_for_as_browsers_do() {
        for (text, is_secure, authority, target) in [
            ("http://Shop.test", false, "shop.test", "/"),
            ("HTTPS://shop.test:443/a?b#c", true, "shop.test", "/a?b"),
            ("http://shop.test:8080?a=b", false, "shop.test:8080", "/?a=b"),
            ("http://[::1]:81/ä b", false, "[::1]:81", "/%C3%A4%20b"),
            ("http://[::1]/%20", false, "[::1]", "/%20"),
            ("https://בגרות.test/", true, "xn--5dbcj9el.test", "/"),
        ] {
            let url = WebUrl { is_secure, authority: authority.to_owned(), target: target.to_owned() };
            assert_eq!(web_url(text), Ok(url), "{text}");
        }
        for wrong in [
            "shop.test/a",
            "/a",
            "ftp://shop.test/",
            "http://",
            "http://a b/",
            "http://a:x/",
            "http://u@a/",
            "http://a:99999/",
            "http://a:0/",
        ] {
            assert!(web_url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(span("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "5", "ms", "-1s", "1.5h", "99999999999999999999s", "999999999999999999d", "5 m", "5é"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_field_is_one_line() {
        let both = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(field("Accept: */*"), both("Accept", "*/*"));
        assert_eq!(field("X-A:"), both("X-A", ""));
        for wrong in ["Accept", "A b: c", ": x", "Host: a", "X-A: b\r\nX-B: c"] {
            assert!(field(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            (method("purge"), method("a b").is_err(), method("PURGE").is_err()),
            (Ok("purge".to_owned()), true, true)
        );
    }

    #[test]
    fn a_project_stands_for_all_its_branches() {
        let named = |text: &str| {
            project_or_branch(text)
                .map(|(project, branch)| (project.to_string(), branch.map(|branch| branch.to_string())))
        };
        assert_eq!(named("blog"), Ok(("blog".to_owned(), None)));
        assert_eq!(named("blog/master"), Ok(("blog".to_owned(), Some("master".to_owned()))));
        assert_eq!(named("blog/feature/x"), Ok(("blog".to_owned(), Some("feature/x".to_owned()))));
        assert!(["Blog", "Blog/main", "blog/", ""].iter().all(|odd| named(odd).is_err()));
    }

    #[test]
    fn a_tag_is_one_as_it_can_stand_in_a_list() {
        assert!(["a", "product-7", "a b", "a,b", "ü"].iter().all(|text| tag(text).is_ok()));
        assert!(["", " a", "a ", "a, b", "a\tb, c", "a\n"].iter().all(|text| tag(text).is_err()));
    }
}
