//! One file of conf, with the faults that were found in it.
//!
//! Used by everything in this folder that reads a file's words. The rules it keeps: what is wrong is noted with its place
//! and the reading goes on, so that a person sees all faults at once; and a secret that stands where it does not belong
//! is in no excerpt. What a file names beyond itself is kept with its place, to be looked at when somebody asks.

use std::cell::RefCell;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeTable;

use super::mention::Mention;
use crate::report::{Excerpt, Fault, Warning};

/// One file with what is wrong in it.
#[derive(Debug)]
pub struct Sheet {
    /// The path as the person named it.
    shown: String,
    text: String,
    notes: RefCell<Vec<Note>>,
    /// What no excerpt may show: secrets written where they do not belong.
    masked: RefCell<Vec<Range<usize>>>,
    mentions: RefCell<Vec<(Range<usize>, Mention)>>,
}

#[derive(Debug)]
struct Note {
    at: Option<Range<usize>>,
    message: String,
    label: String,
    hint: Option<String>,
}

impl Sheet {
    pub fn new(shown: String, text: String) -> Self {
        let (notes, masked, mentions) = Default::default();
        Self { shown, text, notes, masked, mentions }
    }

    pub fn shown(&self) -> &str {
        &self.shown
    }

    pub fn text_len(&self) -> usize {
        self.text.len()
    }

    pub fn is_good(&self) -> bool {
        self.notes.borrow().is_empty()
    }

    /// The file's tree; `None` when it is not TOML, which is then noted.
    pub fn parse(&self) -> Option<Spanned<DeTable<'_>>> {
        let (tree, errors) = DeTable::parse_recoverable(&self.text);
        for error in errors.iter().take(SYNTAX_ERRORS_MAX) {
            // At the end of the file there is no line to show but the last one.
            let at = error.span().map(|at| at.start.min(self.text.trim_end().len())..at.end);
            self.note(at, error.message(), "", None);
        }
        errors.is_empty().then_some(tree)
    }

    /// Notes a fault: at a place in the file, or about the file as a whole.
    pub fn note(&self, at: Option<Range<usize>>, message: impl Into<String>, label: &str, hint: Option<String>) {
        let note = Note { at, message: message.into(), label: label.to_owned(), hint };
        self.notes.borrow_mut().push(note);
    }

    /// Keeps these bytes out of every excerpt.
    pub fn mask(&self, at: Range<usize>) {
        self.masked.borrow_mut().push(at);
    }

    /// Keeps what the file names beyond itself, with the place where it does.
    pub fn mention(&self, at: Range<usize>, mention: Mention) {
        self.mentions.borrow_mut().push((at, mention));
    }

    /// What the file names and this machine does not have, in the order of the file. Blocks on the file system.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut mentions = self.mentions.borrow().clone();
        mentions.sort_by_key(|(at, _)| at.start);
        let text = masked(self.text.clone(), &self.masked.borrow());
        let warning = |(at, mention): (Range<usize>, Mention)| {
            let (message, hint) = mention.look()?;
            Some(Warning(self.fault(Note { at: Some(at), message, label: String::new(), hint: Some(hint) }, &text)))
        };
        mentions.into_iter().filter_map(warning).collect()
    }

    /// The file and the line of a place in it, for another file's fault.
    pub fn place(&self, at: Option<&Range<usize>>) -> String {
        match at {
            Some(at) => format!("{}:{}", self.shown, Excerpt::of(&self.text, at.clone()).line),
            None => self.shown.clone(),
        }
    }

    /// All that was noted, in the order of the file.
    pub fn into_faults(self) -> Vec<Fault> {
        let mut notes = self.notes.take();
        if notes.is_empty() {
            return Vec::new();
        }
        notes.sort_by_key(|note| note.at.as_ref().map_or(0, |at| at.start));
        let more = notes.len().saturating_sub(NOTES_MAX);
        notes.truncate(NOTES_MAX);
        if more > 0 {
            let message = format!("{more} more faults in this file");
            notes.push(Note { at: None, message, label: String::new(), hint: None });
        }
        let text = masked(self.text.clone(), &self.masked.borrow());
        notes.into_iter().map(|note| self.fault(note, &text)).collect()
    }

    fn fault(&self, note: Note, text: &str) -> Fault {
        Fault {
            message: note.message,
            file: self.shown.clone(),
            excerpt: note.at.map(|at| Excerpt::of(text, at)),
            label: note.label,
            hint: note.hint,
        }
    }
}

/// `text` with stars for the characters of `ranges`; every byte keeps its place.
fn masked(text: String, ranges: &[Range<usize>]) -> String {
    if ranges.is_empty() {
        return text;
    }
    let is_masked = |byte: usize| ranges.iter().any(|range| range.contains(&byte));
    let cover = |(at, character): (usize, char)| match is_masked(at) && character != '\n' {
        true => "*".repeat(character.len_utf8()),
        false => character.to_string(),
    };
    text.char_indices().map(cover).collect()
}

/// After the first syntax errors of a file, the later ones are often their echo.
const SYNTAX_ERRORS_MAX: usize = 3;
/// More faults than this in one file are counted, not shown.
const NOTES_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::super::raw::Table;
    use super::*;

    #[test]
    fn a_masked_word_is_in_no_excerpt_of_its_line() {
        let sheet = Sheet::new("a.toml".into(), "a = { secret = \"hünter2\", x = 1 }".into());
        {
            let tree = sheet.parse().unwrap();
            let mut root = Table::root(&sheet, &tree);
            let mut table = root.table("a").unwrap();
            let secret = table.word("secret").unwrap();
            secret.mask();
            secret.wrong::<()>("inline", None);
            table.close();
        }
        let faults = sheet.into_faults();
        assert_eq!(faults.len(), 2);
        assert!(faults.iter().all(|fault| !fault.to_string().contains("nter")), "{faults:?}");
        assert_eq!(faults[1].excerpt.as_ref().unwrap().text.find("x = 1"), Some(27));
    }

    #[test]
    fn a_file_of_faults_alone_is_told_in_part() {
        let sheet = Sheet::new("a.toml".into(), "x\n".repeat(1000));
        for line in 0..1000 {
            sheet.note(Some(line * 2..line * 2 + 1), "wrong", "", None);
        }
        let faults = sheet.into_faults();
        assert_eq!((faults.len(), faults[100].message.as_str()), (101, "900 more faults in this file"));
    }
}
