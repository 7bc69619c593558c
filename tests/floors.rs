//! The rules of the house that no compiler knows: who may import whom, how long things may be, and what may not stand in
//! `src/` at all. ARCHITECTURE.md says why; this reads every file and names each line that breaks a rule.
//!
//! Code of tests is not judged: items under `#[cfg(test)]`, files named `tests.rs`, files in folders named `tests`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file without its tests.
const FILE_MAX: usize = 500;
/// Lines of a function, from `fn` to its last brace.
const FUNCTION_MAX: usize = 60;

/// What each top module may import of ours, beside itself.
const FLOORS: &[(&str, &[&str], &str)] = &[
    ("main", &["cli"], "the program is the command line and nothing else"),
    ("report", &[], "how an error is shown depends on nobody's errors"),
    ("model", &[], "nouns and rules stand alone, so that they are tested without waiting"),
    ("dial", &[], "how a socket is reached depends on nobody's words"),
    ("ask", &["dial", "model", "report"], "what an app is asked depends on nobody's reason to ask"),
    ("link", &["model"], "the link carries nouns; it knows neither plane"),
    (
        "edge",
        &["ask", "dial", "link", "model", "report"],
        "the process that reads the Internet's bytes knows nothing of control",
    ),
    (
        "control",
        &["ask", "dial", "link", "model", "report"],
        "control speaks to the edge over the link, never by a call",
    ),
    ("cli", &["control", "edge", "link", "model", "report"], "the command line starts and asks everything"),
];

/// What each room of control may import of control, beside itself. `a::b` allows that one path.
const ROOMS: &[(&str, &[&str], &str)] = &[
    ("child", &[], TOOL),
    ("crash", &[], TOOL),
    ("https", &[], TOOL),
    ("secret", &[], TOOL),
    ("certs", &["https"], OUTSIDE),
    ("conf", &["secret"], OUTSIDE),
    ("forge", &["https", "secret"], OUTSIDE),
    ("hooks", &["https", "secret"], OUTSIDE),
    // The one noun that a gauge is about; model has no place for a certificate's issuer on disk.
    ("observe", &["certs::Certificate"], OUTSIDE),
    ("runtime", &["child"], OUTSIDE),
    ("source", &["child"], OUTSIDE),
    ("store", &[], OUTSIDE),
    ("live", &["certs::Certificate", "conf", "secret"], "what runs is told what is wanted, and asks no other room"),
    (
        "deploy",
        &["conf", "forge", "live", "observe", "runtime", "source", "store"],
        "a deployment uses what is below it; hooks, reload and web come to it",
    ),
    // A reload's outcome is what the admin API sends, so it has one shape.
    ("reload", &["conf", "deploy", "web::api"], "a reload changes what is live; only web and the root ask for one"),
    ("previews", &["conf", "deploy", "reload"], "a preview is a line of conf that a push writes"),
    (
        "web",
        &["certs", "conf", "deploy", "forge", "hooks", "live", "observe", "previews", "reload", "runtime"],
        "what answers over HTTP stands above everything but the composition root",
    ),
];

const TOOL: &str = "a tool serves the rooms and knows none";
const OUTSIDE: &str = "one room per outside thing, and no outside thing knows another";

/// What may not stand in code that is not a test.
const BANNED: &[(&str, &str)] = &[
    (".unwrap()", "an error is handled or passed on, never a panic"),
    (".expect(", "an error is handled or passed on, never a panic"),
    ("panic!(", "nothing from outside may end a process"),
    ("unreachable!(", "let the types say it, or pass an error on"),
    ("todo!(", "a part that is not done is not there"),
    ("unimplemented!(", "a part that is not done is not there"),
    ("thread::sleep(", "it stops a thread that others wait for; use tokio's"),
    ("process::exit(", "it drops nothing on its way; end by returning from main"),
    ("lazy_static!", "no process-wide state: it is made in a composition root and handed down"),
    ("thread_local!", "no process-wide state: it is made in a composition root and handed down"),
];

#[test]
fn nobody_imports_against_the_arrows() {
    hold(arrows);
}

#[test]
fn files_and_functions_are_short() {
    hold(sizes);
}

#[test]
fn nothing_banned_stands_outside_tests() {
    hold(banned);
}

#[test]
fn every_room_has_its_rule() {
    let rooms = sources().into_iter().map(|source| source.module);
    for module in rooms.filter(|module| !module.is_empty()) {
        let (list, name) = match (module[0].as_str(), module.get(1)) {
            ("control", Some(room)) => (ROOMS, room.as_str()),
            (top, _) => (FLOORS, top),
        };
        assert!(list.iter().any(|(known, ..)| *known == name), "say in tests/floors.rs what `{name}` may import");
    }
}

/// The module of the crash points is in debug builds alone, so a release that reached one would not compile; and no
/// profile makes a release a debug build in this.
#[test]
fn a_release_has_no_crash_points() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let control = bare(&fs::read_to_string(root.join("src/control/mod.rs")).unwrap());
    let guard = "#[cfg(debug_assertions)]";
    assert_eq!(control.matches("mod crash;").count(), 1);
    assert!(control.contains(&format!("{guard}\nmod crash;")));
    let call = "$crate::control::crash::point";
    assert!(control.split_once(call).is_some_and(|(before, _)| before.trim_end().ends_with(guard)));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert!(!manifest.contains("debug-assertions"), "a release would have the points");
}

/// The rules do find what they are for.
#[test]
fn each_rule_finds_its_offence() {
    let found = |module: &str, text: &str| -> Vec<String> {
        let module = module.split("::").map(str::to_owned).collect();
        let source = Source { path: PathBuf::from("x.rs"), module, text: without_tests(&bare(text)) };
        let all = arrows(&source).into_iter().chain(sizes(&source)).chain(banned(&source));
        all.map(|offence| offence.what).collect()
    };
    let offences = [
        ("model::a", "use crate::link::Up;"),
        ("model::a", "use crate::{model::b, report};"),
        ("link", "fn f() { crate::report::print() }"),
        ("edge::a", "use crate::control::conf;"),
        ("control::a", "use super::super::edge::Tls;"),
        ("control::store", "use crate::control::{\n    conf::Conf,\n};"),
        ("control::store::embedded", "use super::super::hooks::Hooks;"),
        ("control::observe", "use crate::control::certs::{Certificate, store};"),
        ("control::deploy", "use crate::control::web;"),
        ("cli", "fn f() { x.unwrap() }"),
        ("cli", "fn f() { x.expect(\"y\") }"),
        ("cli", "static A: u8 = 1;"),
        ("cli", "fn f() {\n    static A: u8 = 1;\n}"),
    ];
    for (module, text) in offences {
        assert_eq!(found(module, text).len(), 1, "{module}: {text}: {:?}", found(module, text));
    }
    assert_eq!(found("cli", &format!("fn long() {{{}}}", "\n".repeat(60))).len(), 1);
    assert_eq!(found("cli", &"//\n".repeat(501)).len(), 1);
    let fine = [
        ("control::observe", "use crate::control::certs::Certificate;"),
        (
            "cli",
            "// panic!( \n/* .unwrap() /* */ .expect( */ const A: &'static str = \"todo!(\"; const B: char = '\"';",
        ),
        ("cli", "const A: &str = r#\"\" .unwrap() \"#; const B: u8 = b'\\''; fn f<'a>(x: &'a str) {}"),
        ("model", "#[cfg(test)]\nmod tests { use crate::edge; fn f() { x.unwrap() } }\n#[cfg(test)]\nuse crate::cli;"),
    ];
    for (module, text) in fine {
        assert_eq!(found(module, text), Vec::<String>::new(), "{module}: {text}");
    }
}

/// One file of `src/`, as the rules see it.
struct Source {
    path: PathBuf,
    /// `["control", "deploy", "gate"]`; empty for `lib.rs`.
    module: Vec<String>,
    /// Its code without comments, the content of strings and tests; every line still has its number.
    text: String,
}

struct Offence {
    line: usize,
    what: String,
    why: &'static str,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})", self.line, self.what, self.why)
    }
}

/// Applies a rule to every file, and fails with all offences at once.
fn hold(rule: impl Fn(&Source) -> Vec<Offence>) {
    let mut told = Vec::new();
    for source in sources() {
        told.extend(rule(&source).iter().map(|offence| format!("{}:{offence}", source.path.display())));
    }
    assert!(told.is_empty(), "\n{}\n", told.join("\n"));
}

fn arrows(source: &Source) -> Vec<Offence> {
    let Some(top) = source.module.first() else { return Vec::new() };
    let mut offences = Vec::new();
    for (line, path) in imports(source) {
        let (Some(to), room) = (path.first(), path.get(1)) else { continue };
        let offence = match (top.as_str(), source.module.get(1), to.as_str(), room) {
            ("control", Some(own), "control", Some(room)) if own != room => judge(ROOMS, own, &path[1..]),
            // The composition root makes every part.
            (top, _, to, _) if top == to => None,
            (top, ..) => judge(FLOORS, top, &path),
        };
        offences.extend(offence.map(|(what, why)| Offence { line, what, why }));
    }
    offences
}

fn judge(list: &[(&str, &[&str], &'static str)], from: &str, to: &[String]) -> Option<(String, &'static str)> {
    let (_, allowed, why) = list.iter().find(|(name, ..)| *name == from)?;
    let path = to.join("::");
    let is_below =
        |allowed: &&str| path.strip_prefix(*allowed).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let may = allowed.iter().any(is_below);
    (!may).then(|| (format!("`{from}` imports `{path}`"), *why))
}

fn sizes(source: &Source) -> Vec<Offence> {
    let mut offences = Vec::new();
    let lines = source.text.lines().filter(|line| !line.starts_with(TESTS)).count();
    if lines > FILE_MAX {
        let what = format!("{lines} lines without tests, and {FILE_MAX} are the most");
        offences.push(Offence {
            line: 1,
            what,
            why: "a file is read in one sitting; split it by what changes together",
        });
    }
    for at in words(&source.text, "fn") {
        let Some(end) = end_of_item(&source.text, at) else { continue };
        let length = source.text[at..end].lines().count();
        if length > FUNCTION_MAX {
            let what = format!("a function of {length} lines, and {FUNCTION_MAX} are the most");
            let why = "a function is seen at one look; name its parts";
            offences.push(Offence { line: line_of(&source.text, at), what, why });
        }
    }
    offences
}

fn banned(source: &Source) -> Vec<Offence> {
    let mut offences = Vec::new();
    for (words, why) in BANNED {
        for (at, _) in source.text.match_indices(words) {
            // `core::panic!(` is meant too; `my_panic!(` is another macro.
            let before = source.text[..at].chars().next_back();
            if words.starts_with('.') || before.is_none_or(|c| !is_word(c)) {
                offences.push(Offence { line: line_of(&source.text, at), what: format!("`{words}`"), why });
            }
        }
    }
    for at in words(&source.text, "static") {
        // The language lets an allocator be named in no other way.
        let is_allocator = source.text[..at].trim_end().ends_with("#[global_allocator]");
        if !source.text[..at].ends_with('\'') && !is_allocator {
            let why = "no process-wide state: it is made in a composition root and handed down";
            offences.push(Offence { line: line_of(&source.text, at), what: "a `static`".to_owned(), why });
        }
    }
    offences
}

/// Every path to a module of ours, from the crate's root, with its line: those after `crate::` and those after `super::`,
/// each branch of `{…}` by itself.
fn imports(source: &Source) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for at in words(&source.text, "crate") {
        // `pub(crate)` is no path.
        if let Some(rest) = source.text[at..].strip_prefix("crate::") {
            found.extend(branches(rest).into_iter().map(|path| (line_of(&source.text, at), path)));
        }
    }
    for at in words(&source.text, "super") {
        if source.text[..at].ends_with("super::") {
            continue;
        }
        let (mut rest, mut base) = (&source.text[at..], source.module.clone());
        while let Some(after) = rest.strip_prefix("super::") {
            rest = after;
            base.pop();
        }
        // Within a `mod x { … }` of its own a file would go up one less; there is none outside tests.
        let whole = |path: Vec<String>| base.iter().cloned().chain(path).collect();
        found.extend(branches(rest).into_iter().map(|path| (line_of(&source.text, at), whole(path))));
    }
    found
}

/// `a::{b, c::d}` into `a::b` and `a::c::d`.
fn branches(text: &str) -> Vec<Vec<String>> {
    let word: String = text.chars().take_while(|c| is_word(*c)).collect();
    let rest = &text[word.len()..];
    if word.is_empty() {
        let Some(inner) = text.strip_prefix('{') else { return vec![Vec::new()] };
        return pieces(inner).iter().flat_map(|piece| branches(piece.trim_start())).collect();
    }
    let after = rest.strip_prefix("::").map_or_else(|| vec![Vec::new()], branches);
    after.into_iter().map(|path| std::iter::once(word.clone()).chain(path).collect()).collect()
}

/// The parts of a `{…}` whose opening brace is behind, parted by commas that stand in no inner brace.
fn pieces(inner: &str) -> Vec<String> {
    let (mut pieces, mut depth) = (vec![String::new()], 0);
    for c in inner.chars() {
        match c {
            '}' if depth == 0 => break,
            ',' if depth == 0 => {
                pieces.push(String::new());
                continue;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        pieces.last_mut().unwrap().push(c);
    }
    pieces.retain(|piece| !piece.trim().is_empty());
    pieces
}

/// The files of `src/`, but those of tests.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    assert!(paths.len() > 50, "only {} files were found under {}", paths.len(), root.display());
    let read = |path: PathBuf| {
        let below = path.strip_prefix(&root).unwrap().with_extension("");
        let mut module: Vec<String> = below.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
            module.pop();
        }
        let text = without_tests(&bare(&fs::read_to_string(&path).unwrap()));
        let path = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_owned();
        Source { path, module, text }
    };
    paths.into_iter().map(read).collect()
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.file_name().and_then(|name| name.to_str()) {
            Some("tests" | "tests.rs") => {}
            _ if path.is_dir() => collect(&path, paths),
            Some(name) if name.ends_with(".rs") => paths.push(path),
            _ => {}
        }
    }
}

/// Stands at the begin of every line of tests, in place of the code.
const TESTS: &str = "\u{7f}";

/// Blanks every item under `#[cfg(test)]`.
fn without_tests(text: &str) -> String {
    let mut out = text.to_owned();
    while let Some(at) = out.find("#[cfg(test)]") {
        let Some(end) = end_of_item(&out, at + "#[cfg(test)]".len()) else { break };
        let blank: Vec<&str> = out[at..end].split('\n').map(|_| TESTS).collect();
        out.replace_range(at..end, &blank.join("\n"));
    }
    out
}

/// Where the item that begins at `from` ends: behind its `;`, or the brace that closes its body.
fn end_of_item(text: &str, from: usize) -> Option<usize> {
    let (mut braces, mut others) = (0, 0);
    for (place, c) in text[from..].char_indices() {
        match c {
            '(' | '[' => others += 1,
            ')' | ']' => others -= 1,
            '{' => braces += 1,
            '}' => {
                braces -= 1;
                if braces == 0 && others == 0 {
                    return Some(from + place + 1);
                }
            }
            ';' if braces == 0 && others == 0 => return Some(from + place + 1),
            _ => {}
        }
        // `fn(u8)` as a type ends with what it stands in.
        if braces < 0 || others < 0 {
            return None;
        }
    }
    None
}

/// The code with spaces for comments and for what stands in strings and characters; lines keep their numbers.
fn bare(source: &str) -> String {
    let (mut out, mut rest) = (String::new(), source);
    while let Some(first) = rest.chars().next() {
        let length = literal(rest, out.chars().next_back());
        match length {
            0 => {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
            _ => {
                out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
                rest = &rest[length..];
            }
        }
    }
    out
}

/// How long the comment, string or character is that `text` begins with, in bytes; 0 when it begins with none.
fn literal(text: &str, before: Option<char>) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment(text);
    }
    let is_prefix = before.is_none_or(|c| !is_word(c));
    let string = text.strip_prefix('b').or_else(|| text.strip_prefix('c')).filter(|_| is_prefix).unwrap_or(text);
    let skipped = text.len() - string.len();
    if let Some(raw) = string.strip_prefix('r').filter(|_| is_prefix) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let end = raw[hashes + 1..].find(&close).map_or(raw.len(), |end| hashes + 1 + end + close.len());
            return skipped + 1 + end;
        }
    }
    let quoted = |quote: char| -> usize {
        let mut is_escaped = true;
        let end = string.char_indices().find(|(_, c)| {
            let ends = *c == quote && !is_escaped;
            is_escaped = *c == '\\' && !is_escaped;
            ends
        });
        end.map_or(text.len(), |(end, _)| skipped + end + 1)
    };
    match string.chars().next() {
        Some('"') => quoted('"'),
        // `'a'` is a character, `'a` alone a lifetime.
        Some('\'') if string[1..].starts_with('\\') || string.chars().nth(2) == Some('\'') => quoted('\''),
        _ => 0,
    }
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        let step = match () {
            () if rest.starts_with("/*") => {
                depth += 1;
                2
            }
            () if rest.starts_with("*/") => {
                depth -= 1;
                2
            }
            () => rest.chars().next().map_or(1, char::len_utf8),
        };
        at += step;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// Where a whole word stands.
fn words<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = usize> + 't {
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = text[..*at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        before.is_none_or(|c| !is_word(c)) && after.is_none_or(|c| !is_word(c))
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}
