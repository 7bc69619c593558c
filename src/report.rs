//! How an error reaches a person: what is wrong, where it stands, why, and what to do next.
//!
//! Called by every verb of the command line; conf makes its faults with it, and control sends them to the command line as
//! JSON. The rule it keeps: whatever a message quotes, a terminal gets no control character from it and no second
//! `error:` of its own.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write as _};
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// One thing that is wrong in a file, or with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    pub message: String,
    /// The file, as the person named it.
    pub file: String,
    /// Absent when it is about the file as a whole.
    pub excerpt: Option<Excerpt>,
    /// What to say of the marked words; may be empty.
    pub label: String,
    pub hint: Option<String>,
}

/// What is not wrong in a file, and may be wrong all the same: nothing is refused for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning(pub Fault);

/// The line that a fault is about, and the words in it. Counts are of characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excerpt {
    /// From 1.
    pub line: usize,
    /// From 1, in the whole line.
    pub column: usize,
    /// The line, or the part of a long one around the marked words.
    pub text: String,
    /// Where in `text` the marked words begin, from 0.
    pub start: usize,
    pub width: usize,
}

impl Excerpt {
    /// The first line that bytes `at` of `source` touch.
    pub fn of(source: &str, at: Range<usize>) -> Self {
        let from = boundary(source, at.start);
        let to = boundary(source, at.end).max(from);
        let line_start = source[..from].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = source[from..].find('\n').map_or(source.len(), |length| from + length);
        let before = source[line_start..from].chars().count();
        let marked = source[from..to.min(line_end)].chars().count();
        let whole = source[line_start..line_end].trim_end_matches('\r');
        let (text, start) = cut(whole, before);
        let width = marked.min(text.chars().count().saturating_sub(start)).max(1);
        Self { line: source[..from].matches('\n').count() + 1, column: before + 1, text, start, width }
    }
}

/// Writes an error with its causes, and a hint, to standard error.
pub fn print(error: &dyn Error, hint: Option<&str>) {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_error(&mut text, &Paint::for_stderr(), error, hint);
    put(&text);
}

/// Writes what went wrong, in words that hold their causes already, and a hint, to standard error.
pub fn print_text(error: &str, hint: Option<&str>) {
    let paint = Paint::for_stderr();
    let mut text = format!("{} {}\n", paint.red("error:"), clean_lines(error));
    let _ = write_hint(&mut text, &paint, hint);
    put(&text);
}

/// An error and what caused it, in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    for _ in 0..CAUSES_MAX {
        let Some(cause) = source else { break };
        let words = cause.to_string();
        // Many messages end with their cause already.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

/// Writes faults to standard error, with an empty line between two.
pub fn print_faults(faults: &[Fault]) {
    print_findings(faults, &[]);
}

/// The same with warnings behind them.
pub fn print_findings(faults: &[Fault], warnings: &[Warning]) {
    let paint = Paint::for_stderr();
    let mut text = String::new();
    let faults = faults.iter().map(|fault| (fault, Weight::Error));
    let warnings = warnings.iter().map(|Warning(fault)| (fault, Weight::Warning));
    for (index, (fault, weight)) in faults.chain(warnings).enumerate() {
        let _ = write!(text, "{}", if index == 0 { "" } else { "\n" });
        let _ = fault.write(&mut text, &paint, weight);
    }
    put(&text);
}

fn put(text: &str) {
    // A closed standard error leaves nobody to tell.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

impl fmt::Display for Fault {
    /// The plain text, with a final newline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &Paint { is_on: false }, Weight::Error)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, &Paint { is_on: false }, Weight::Warning)
    }
}

/// How a report begins, and what colour it has.
#[derive(Clone, Copy)]
enum Weight {
    Error,
    Warning,
}

impl Fault {
    fn write(&self, out: &mut dyn fmt::Write, paint: &Paint, weight: Weight) -> fmt::Result {
        let (word, colour): (_, fn(&Paint, &str) -> String) = match weight {
            Weight::Error => ("error:", Paint::red),
            Weight::Warning => ("warning:", Paint::yellow),
        };
        writeln!(out, "{} {}", colour(paint, word), clean(&self.message))?;
        match &self.excerpt {
            Some(excerpt) => self.write_excerpt(out, |marks| colour(paint, marks), excerpt)?,
            None if self.label.is_empty() => writeln!(out, "  {}", clean(&self.file))?,
            None => writeln!(out, "  {}: {}", clean(&self.file), clean(&self.label))?,
        }
        write_hint(out, paint, self.hint.as_deref())
    }

    fn write_excerpt(
        &self,
        out: &mut dyn fmt::Write,
        coloured: impl Fn(&str) -> String,
        excerpt: &Excerpt,
    ) -> fmt::Result {
        let characters: Vec<char> = excerpt.text.chars().collect();
        let start = excerpt.start.min(characters.len());
        let end = start.saturating_add(excerpt.width).min(characters.len());
        let length = |part: &[char]| clean(&part.iter().collect::<String>()).chars().count();
        let (indent, width) = (length(&characters[..start]), length(&characters[start..end]).max(1));
        let gutter = excerpt.line.to_string();
        let marks = format!("{} {}", coloured(&"^".repeat(width)), clean(&self.label));
        writeln!(out, "  {}:{}:{}", clean(&self.file), excerpt.line, excerpt.column)?;
        writeln!(out, "{gutter} | {}", clean(&excerpt.text).trim_end())?;
        writeln!(out, "{:blank$} | {:indent$}{}", "", "", marks.trim_end(), blank = gutter.len())
    }
}

fn write_error(out: &mut dyn fmt::Write, paint: &Paint, error: &dyn Error, hint: Option<&str>) -> fmt::Result {
    let mut said = error.to_string();
    writeln!(out, "{} {}", paint.red("error:"), clean_lines(&said))?;
    let mut source = error.source();
    for _ in 0..CAUSES_MAX {
        let Some(cause) = source else { break };
        let text = cause.to_string();
        // Many messages end with their cause already.
        if !said.ends_with(&text) {
            writeln!(out, "  because: {}", clean_lines(&text))?;
        }
        said = text;
        source = cause.source();
    }
    write_hint(out, paint, hint)
}

fn write_hint(out: &mut dyn fmt::Write, paint: &Paint, hint: Option<&str>) -> fmt::Result {
    match hint {
        Some(hint) => writeln!(out, "{} {}", paint.cyan("hint:"), clean_lines(hint)),
        None => Ok(()),
    }
}

/// `text` on one line, with everything escaped that could move a cursor, change a colour or turn the direction of reading.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\t' => out.push(' '),
            _ if commands_terminal(character) => out.extend(character.escape_default()),
            _ => out.push(character),
        }
    }
    out
}

/// Whether a terminal would obey the character instead of showing it.
pub fn commands_terminal(character: char) -> bool {
    // Marks and overrides of direction, separators of lines, the byte order mark.
    let turns = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    );
    turns || character.is_control()
}

/// `text` with its lines kept, each after the first set in, so that none can pass for a line of ours.
fn clean_lines(text: &str) -> String {
    text.trim_end().lines().map(clean).collect::<Vec<_>>().join("\n  ")
}

/// The last start of a character at or before `byte`.
fn boundary(text: &str, byte: usize) -> usize {
    (0..=byte.min(text.len())).rev().find(|byte| text.is_char_boundary(*byte)).unwrap_or(0)
}

/// The part of a line around character `column`, and where in it that character stands.
fn cut(line: &str, column: usize) -> (String, usize) {
    let length = line.chars().count();
    if length <= LINE_MAX {
        return (line.to_owned(), column);
    }
    let from = column.saturating_sub(LINE_MAX / 3).min(length.saturating_sub(LINE_MAX));
    let part: String = line.chars().skip(from).take(LINE_MAX).collect();
    let (left, right) = (if from > 0 { "…" } else { "" }, if from + LINE_MAX < length { "…" } else { "" });
    (format!("{left}{part}{right}"), column - from + left.chars().count())
}

/// Colours, when somebody looks.
struct Paint {
    is_on: bool,
}

impl Paint {
    /// A terminal that did not ask for silence (<https://no-color.org>).
    fn for_stderr() -> Self {
        let is_asked_off = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { is_on: std::io::stderr().is_terminal() && !is_asked_off && !is_dumb }
    }

    fn red(&self, text: &str) -> String {
        self.coloured(text, "1;31")
    }

    fn yellow(&self, text: &str) -> String {
        self.coloured(text, "1;33")
    }

    fn cyan(&self, text: &str) -> String {
        self.coloured(text, "36")
    }

    fn coloured(&self, text: &str, code: &str) -> String {
        if self.is_on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A longer line is shown in part, in characters.
const LINE_MAX: usize = 120;
/// More causes than this say nothing new, and a chain that runs in a circle ends.
const CAUSES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(source: &str, at: Range<usize>) -> Fault {
        let excerpt = Some(Excerpt::of(source, at));
        Fault { message: "wrong".into(), file: "a.toml".into(), excerpt, label: "this".into(), hint: None }
    }

    #[test]
    fn carets_stand_below_the_words_even_behind_escapes_and_wide_gutters() {
        let source = format!("{}a\x1b = \"é\"\r\n", "\n".repeat(11));
        let at = source.find('"').unwrap();
        let text = fault(&source, at..at + 4).to_string();
        let expected = "error: wrong\n  a.toml:12:6\n12 | a\\u{1b} = \"é\"\n   |           ^^^ this\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn long_lines_are_cut_around_the_words() {
        let source = format!("{}X{}", "a".repeat(5000), "b".repeat(5000));
        let excerpt = Excerpt::of(&source, 5000..5001);
        assert_eq!((excerpt.column, excerpt.text.chars().count()), (5001, LINE_MAX + 2));
        assert_eq!(excerpt.text.chars().nth(excerpt.start), Some('X'));
    }

    #[test]
    fn an_excerpt_at_the_end_of_a_file_still_points_somewhere() {
        assert_eq!(Excerpt::of("", 0..0).width, 1);
        assert_eq!(Excerpt::of("a = \n", 5..5).line, 2);
        assert_eq!(Excerpt::of("é", 1..9).column, 1);
    }

    #[test]
    fn messages_cannot_write_lines_of_their_own_or_move_the_cursor() {
        assert_eq!(clean("a\x1b[2J\u{202e}b\tc\u{7f}\u{61c}"), "a\\u{1b}[2J\\u{202e}b c\\u{7f}\\u{61c}");
        let mut text = String::new();
        let error = std::io::Error::other("one\nerror: two\r");
        write_error(&mut text, &Paint { is_on: false }, &error, Some("three")).unwrap();
        assert_eq!(text, "error: one\n  error: two\nhint: three\n");
    }

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        enum Trouble {
            #[error("it broke: {0}")]
            Inline(#[source] std::io::Error),
            #[error("it fell")]
            Apart(#[source] Box<Trouble>),
        }
        let mut text = String::new();
        let error = Trouble::Apart(Box::new(Trouble::Inline(std::io::Error::other("no disk"))));
        write_error(&mut text, &Paint { is_on: false }, &error, None).unwrap();
        assert_eq!(text, "error: it fell\n  because: it broke: no disk\n");
    }

    #[test]
    fn faults_travel_as_json() {
        let fault = fault("a = 1", 4..5);
        let json = serde_json::to_string(&fault).unwrap();
        assert_eq!(serde_json::from_str::<Fault>(&json).unwrap(), fault);
    }
}
