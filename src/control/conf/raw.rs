//! A file of conf as typed: its tables and words, with their places.
//!
//! Used by everything in this folder that gives words a meaning. The rule it keeps: a wrong word never ends the reading of
//! a file. For that the tree of values is walked by hand: serde would stop at the first.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mention::Mention;
use super::sheet::Sheet;

/// One table, from which words are taken by key. What nobody took is unknown.
#[derive(Debug)]
pub struct Table<'s> {
    sheet: &'s Sheet,
    entries: &'s DeTable<'s>,
    at: Range<usize>,
    asked: Vec<&'static str>,
}

impl<'s> Table<'s> {
    pub fn root(sheet: &'s Sheet, tree: &'s Spanned<DeTable<'s>>) -> Self {
        Self { sheet, entries: tree.get_ref(), at: tree.span(), asked: Vec::new() }
    }

    pub fn sheet(&self) -> &'s Sheet {
        self.sheet
    }

    pub fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    pub fn word(&mut self, key: &'static str) -> Option<Word<'s>> {
        self.asked.push(key);
        let value = self.entries.get(key)?;
        Some(Word { sheet: self.sheet, name: key, value: value.get_ref(), at: value.span() })
    }

    pub fn table(&mut self, key: &'static str) -> Option<Table<'s>> {
        self.word(key)?.table()
    }

    /// The words of a list; one word alone is a list of one. `None` when the key is absent.
    pub fn list(&mut self, key: &'static str) -> Option<Vec<Word<'s>>> {
        self.word(key).map(Word::list)
    }

    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Every key's place with its word, in the order of the file: for tables whose keys people choose.
    pub fn entries(&self) -> Vec<(Range<usize>, Word<'s>)> {
        let word = |(key, value): (&'s Spanned<_>, &'s Spanned<_>)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            (key.span(), Word { sheet: self.sheet, name, value: value.get_ref(), at: value.span() })
        };
        let mut entries: Vec<_> = self.entries.iter().map(word).collect();
        entries.sort_by_key(|(at, _)| at.start);
        entries
    }

    /// Notes a fault at a key that is known and not wanted here.
    pub fn refuse(&mut self, key: &'static str, why: &str, hint: &str) {
        self.asked.push(key);
        if let Some((key, _)) = self.entries.get_key_value(key) {
            self.sheet.note(Some(key.span()), why, "", Some(hint.to_owned()));
        }
    }

    /// Notes every key that was not asked for.
    pub fn close(self) {
        for key in self.entries.keys().filter(|key| !self.asked.contains(&key.get_ref().as_ref())) {
            let hint = match closest(key.get_ref(), &self.asked) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("known here: {}", self.asked.join(", ")),
            };
            self.sheet.note(Some(key.span()), format!("unknown key `{}`", key.get_ref()), "", Some(hint));
        }
    }
}

/// One value, with the name that it goes by.
#[derive(Debug, Clone)]
pub struct Word<'s> {
    sheet: &'s Sheet,
    name: &'s str,
    value: &'s DeValue<'s>,
    at: Range<usize>,
}

impl<'s> Word<'s> {
    pub fn name(&self) -> &'s str {
        self.name
    }

    pub fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    pub fn value(&self) -> &'s DeValue<'s> {
        self.value
    }

    pub fn text(&self) -> Option<&'s str> {
        match self.value {
            DeValue::String(text) => Some(text.as_ref()),
            _ => self.wrong_type("a string"),
        }
    }

    pub fn table(self) -> Option<Table<'s>> {
        match self.value {
            DeValue::Table(entries) => Some(Table { sheet: self.sheet, entries, at: self.at, asked: Vec::new() }),
            _ => self.wrong_type("a table"),
        }
    }

    pub fn list(self) -> Vec<Word<'s>> {
        match self.value {
            DeValue::Array(items) => {
                let word = |item: &'s Spanned<DeValue<'s>>| Word { value: item.get_ref(), at: item.span(), ..self };
                items.iter().map(word).collect()
            }
            _ => vec![self],
        }
    }

    /// Notes what is wrong with this word. Gives `None`, for whoever has to give something.
    pub fn wrong<T>(&self, message: impl Into<String>, hint: impl Into<Option<String>>) -> Option<T> {
        self.wrong_at(message, "", hint)
    }

    /// The same with a label beside the mark.
    pub fn wrong_at<T>(&self, message: impl Into<String>, label: &str, hint: impl Into<Option<String>>) -> Option<T> {
        self.sheet.note(Some(self.at()), message, label, hint.into());
        None
    }

    pub fn wrong_type<T>(&self, wanted: &str) -> Option<T> {
        self.wrong_at(format!("`{}` must be {wanted}", self.name), &format!("this is {}", kind(self.value)), None)
    }

    /// Keeps what this word names beyond the file.
    pub fn mention(&self, mention: Mention) {
        self.sheet.mention(self.at(), mention);
    }

    /// Keeps this word out of every excerpt.
    pub fn mask(&self) {
        self.sheet.mask(self.at());
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// What somebody may have meant who wrote `text`.
pub fn closest<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    let likeness = |known: &&str| strsim::normalized_damerau_levenshtein(text, known);
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) >= 0.6).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_likely_word_is_proposed() {
        assert_eq!(closest("drian", &["drain", "health"]), Some("drain"));
        assert_eq!(closest("zebra", &["drain", "health"]), None);
    }
}
