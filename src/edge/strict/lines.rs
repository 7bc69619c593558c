//! The lines of a head: where they begin and end, and the fields on them.
//!
//! Called by `request` and `response`. The rule: a line ends with CR LF, and neither stands anywhere else.

use smallvec::SmallVec;

use crate::edge::field::Kind;

/// Why bytes are not a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Malformed,
    TooManyFields,
}

/// One field: where its name and value lie in the head's bytes, and what it is.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    start: u32,
    name_len: u16,
    value_start: u32,
    value_end: u32,
    /// After the line's CR LF.
    end: u32,
    pub kind: Kind,
}

/// Fields that most heads stay below, kept without asking for memory.
const USUAL: usize = 24;

/// Where the fields of a head lie in its bytes.
#[derive(Debug, Default)]
pub struct Index(SmallVec<[Line; USUAL]>);

/// The fields of a head, with its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Lines<'b> {
    bytes: &'b [u8],
    index: &'b [Line],
}

impl Index {
    pub fn of<'b>(&'b self, bytes: &'b [u8]) -> Lines<'b> {
        Lines { bytes, index: &self.0 }
    }
}

impl Line {
    pub fn name<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        let start = self.start as usize;
        bytes.get(start..start + usize::from(self.name_len)).unwrap_or_default()
    }

    /// Without the white space around it.
    pub fn value<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        bytes.get(self.value_start as usize..self.value_end as usize).unwrap_or_default()
    }

    /// The whole line, from its name's first byte to after its CR LF.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl<'b> Lines<'b> {
    pub fn iter(self) -> impl Iterator<Item = &'b Line> {
        self.index.iter()
    }

    pub fn bytes(self) -> &'b [u8] {
        self.bytes
    }

    /// Names and values in order.
    pub fn fields(self) -> impl Iterator<Item = (&'b [u8], &'b [u8])> {
        self.index.iter().map(move |line| (line.name(self.bytes), line.value(self.bytes)))
    }

    /// All values of a field, in order. `name` in lower case.
    pub fn values(self, name: &'static [u8]) -> impl Iterator<Item = &'b [u8]> {
        let is_it = move |line: &&Line| {
            usize::from(line.name_len) == name.len() && line.name(self.bytes).eq_ignore_ascii_case(name)
        };
        self.index.iter().filter(is_it).map(move |line| line.value(self.bytes))
    }

    /// All values of the fields of one kind, in order.
    pub fn of_kind(self, kind: Kind) -> impl Iterator<Item = &'b [u8]> {
        self.index.iter().filter(move |line| line.kind == kind).map(move |line| line.value(self.bytes))
    }
}

/// The first line in `bytes` from `at`, without its CR LF, and where the next one begins; `None` when it is not whole.
pub fn line(bytes: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, Fault> {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(feed) = memchr::memchr(b'\n', rest) else { return Ok(None) };
    match rest[..feed].split_last() {
        Some((b'\r', line)) => Ok(Some((line, at + feed + 1))),
        _ => Err(Fault::Malformed),
    }
}

/// Reads the fields from `at` to the empty line; where the head ends, or `None` when it is not whole.
pub fn fields(bytes: &[u8], mut at: usize, index: &mut Index, most: usize) -> Result<Option<usize>, Fault> {
    loop {
        let Some((line, next)) = line(bytes, at)? else { return Ok(None) };
        if line.is_empty() {
            return Ok(Some(next));
        }
        if index.0.len() == most {
            return Err(Fault::TooManyFields);
        }
        index.0.push(field(line, at, next)?);
        at = next;
    }
}

fn field(line: &[u8], at: usize, next: usize) -> Result<Line, Fault> {
    let colon = memchr::memchr(b':', line).ok_or(Fault::Malformed)?;
    let (name, rest) = line.split_at(colon);
    // A line that continues the one before (obs-fold) begins with white space, which no name has.
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(Fault::Malformed);
    }
    let value = &rest[1..];
    if !is_text(value) {
        return Err(Fault::Malformed);
    }
    let before = value.iter().take_while(|byte| is_white(**byte)).count();
    let after = value[before..].iter().rev().take_while(|byte| is_white(**byte)).count();
    let place = |place: usize| u32::try_from(place).map_err(|_| Fault::Malformed);
    Ok(Line {
        start: place(at)?,
        name_len: u16::try_from(colon).map_err(|_| Fault::Malformed)?,
        value_start: place(at + colon + 1 + before)?,
        value_end: place(at + line.len() - after)?,
        end: place(next)?,
        kind: Kind::of(name),
    })
}

pub fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// RFC 9110 section 5.6.2.
pub fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

/// Whether a field's value holds neither control bytes nor a stray CR (RFC 9110 section 5.5). Without a branch a byte, so
/// that it is done in vectors.
pub fn is_text(value: &[u8]) -> bool {
    let odd = |byte: u8| ((byte < b' ') & (byte != b'\t')) | (byte == 0x7f);
    !value.iter().fold(false, |found, byte| found | odd(*byte))
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let one = byte as u8;
        table[byte] = one.is_ascii_alphanumeric()
            || matches!(
                one,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Result<Option<Vec<(String, String)>>, Fault> {
        let mut index = Index::default();
        let end = fields(head.as_bytes(), 0, &mut index, 3)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let all = index.of(head.as_bytes()).fields().map(|(name, value)| (text(name), text(value))).collect();
        Ok(end.map(|end| {
            assert_eq!(end, head.len());
            all
        }))
    }

    #[test]
    fn fields_are_read_with_the_white_space_around_them_gone() {
        let read = read("A: b\r\nC:\t d e \t\r\nF:\r\n\r\n").unwrap().unwrap();
        let expected = [("A", "b"), ("C", "d e"), ("F", "")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for odd in [
            "A: b\n\r\n",
            "A: b\rc\r\n\r\n",
            "A: b\r\r\n\r\n",
            "A: \0\r\n\r\n",
            "A: \x1b\r\n\r\n",
            "A: \x7f\r\n\r\n",
            "A : b\r\n\r\n",
            " A: b\r\n\r\n",
            "A: b\r\n c\r\n\r\n",
            ": b\r\n\r\n",
            "A\r\n\r\n",
            "A(: b\r\n\r\n",
            "\u{e9}: b\r\n\r\n",
            "\n",
        ] {
            assert_eq!(read(odd), Err(Fault::Malformed), "{odd:?}");
        }
        assert_eq!(read("A:1\r\nB:2\r\nC:3\r\nD:4\r\n\r\n"), Err(Fault::TooManyFields));
        assert_eq!(read("A: \u{e9}\r\n\r\n").unwrap().unwrap().len(), 1, "obs-text is allowed in values");
    }

    #[test]
    fn a_head_that_is_not_whole_is_waited_for() {
        for part in ["", "A", "A: b", "A: b\r", "A: b\r\n", "A: b\r\n\r"] {
            assert_eq!(read(part), Ok(None), "{part:?}");
        }
    }
}
