//! The lines of a head: where they begin and end, and the fields on them.
//!
//! Called by `request` and `response`. The rule: a line ends with CR LF, and neither stands anywhere else.

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

/// Fields that most heads stay below.
const USUAL: usize = 24;

/// Where the fields of a head lie in its bytes.
#[derive(Debug)]
pub struct Index {
    /// Not within the index itself: a head is moved more often than it is made.
    lines: Vec<Line>,
    /// Which lengths the names have, a bit each: most fields that are looked for are not there.
    lengths: u64,
}

/// The fields of a head, with its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Lines<'b> {
    bytes: &'b [u8],
    index: &'b [Line],
    lengths: u64,
}

impl Default for Index {
    fn default() -> Self {
        Self { lines: Vec::with_capacity(USUAL), lengths: 0 }
    }
}

impl Index {
    pub fn of<'b>(&'b self, bytes: &'b [u8]) -> Lines<'b> {
        Lines { bytes, index: &self.lines, lengths: self.lengths }
    }

    /// Takes in the sound line that begins at `place`.
    pub fn append(&mut self, bytes: &[u8], place: usize) {
        if let Ok(Some(line)) = field(bytes, place) {
            self.push(line);
        }
    }

    fn push(&mut self, line: Line) {
        self.lengths |= length_bit(usize::from(line.name_len));
        self.lines.push(line);
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
        let is_it =
            move |line: &&Line| usize::from(line.name_len) == name.len() && is_named(line.name(self.bytes), name);
        let may_be_there = self.lengths & length_bit(name.len()) != 0;
        let index = if may_be_there { self.index } else { &[] };
        index.iter().filter(is_it).map(move |line| line.value(self.bytes))
    }

    /// All values of the fields of one kind, in order.
    pub fn of_kind(self, kind: Kind) -> impl Iterator<Item = &'b [u8]> {
        self.index.iter().filter(move |line| line.kind == kind).map(move |line| line.value(self.bytes))
    }
}

/// Whether a name that was judged is this one, of small letters, digits and hyphens: the bit that makes letters small makes
/// none of these of any other byte that a name may have.
fn is_named(name: &[u8], other: &[u8]) -> bool {
    name.iter().zip(other).fold(0, |differences, (one, other)| differences | ((one | 0x20) ^ other)) == 0
}

/// Long names share a bit.
fn length_bit(length: usize) -> u64 {
    1 << length.min(63)
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
        match bytes.get(at..).unwrap_or_default() {
            [b'\r', b'\n', ..] => return Ok(Some(at + 2)),
            [] | [b'\r'] => return Ok(None),
            _ => {}
        }
        let Some(line) = field(bytes, at)? else { return Ok(None) };
        if index.lines.len() == most {
            return Err(Fault::TooManyFields);
        }
        at = line.end as usize;
        index.push(line);
    }
}

/// Reads the field that begins at `at`, in one go; `None` when its line is not whole.
fn field(bytes: &[u8], at: usize) -> Result<Option<Line>, Fault> {
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(name_len) = rest.iter().position(|byte| !is_token(*byte)) else { return Ok(None) };
    // A line that continues the one before (obs-fold) begins with white space, which no name has.
    if name_len == 0 || rest[name_len] != b':' {
        return Err(Fault::Malformed);
    }
    let value_start = at + name_len + 1;
    let value_end = first_odd(bytes, value_start);
    match bytes.get(value_end..).unwrap_or_default() {
        [b'\r', b'\n', ..] => {}
        [] | [b'\r'] => return Ok(None),
        _ => return Err(Fault::Malformed),
    }
    let value = &bytes[value_start..value_end];
    let before = value.iter().take_while(|byte| is_white(**byte)).count();
    let after = value[before..].iter().rev().take_while(|byte| is_white(**byte)).count();
    let place = |place: usize| u32::try_from(place).map_err(|_| Fault::Malformed);
    Ok(Some(Line {
        start: place(at)?,
        name_len: u16::try_from(name_len).map_err(|_| Fault::Malformed)?,
        value_start: place(value_start + before)?,
        value_end: place(value_end - after)?,
        end: place(value_end + 2)?,
        kind: Kind::of(&rest[..name_len]),
    }))
}

/// Whether a field's value holds what a value may.
pub fn is_text(value: &[u8]) -> bool {
    first_odd(value, 0) == value.len()
}

/// Where from `at` on the first byte is that no value of a field holds: a control byte other than a tab (RFC 9110 section
/// 5.5); the end, when there is none. Eight bytes at a time: values are what a head mostly is.
fn first_odd(bytes: &[u8], mut at: usize) -> usize {
    while let Some(word) = bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map(u64::from_le_bytes) {
        // The top bit of each byte that is below a space, or DEL. Borrows may mark more, but only behind a true one.
        let deletes = word ^ (EACH * 0x7f);
        let below_space = word.wrapping_sub(EACH * 0x20) & !word;
        let marks = (below_space | (deletes.wrapping_sub(EACH) & !deletes)) & (EACH * 0x80);
        let marked = at + marks.trailing_zeros() as usize / 8;
        match bytes.get(marked) {
            _ if marks == 0 => at += 8,
            Some(b'\t') => at = marked + 1,
            _ => return marked,
        }
    }
    let is_odd = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    bytes.get(at..).unwrap_or_default().iter().position(is_odd).map_or(bytes.len(), |odd| at + odd)
}

/// A one in each of eight bytes.
const EACH: u64 = u64::from_ne_bytes([1; 8]);

pub fn is_white(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// RFC 9110 section 5.6.2.
pub fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
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
    fn an_odd_byte_is_found_wherever_it_stands() {
        for odd in (0..=255u8).filter(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
            for place in 0..40 {
                for filling in [b" ", b"~", b"\t", b"\x80", b"\xff"] {
                    let mut bytes = vec![filling[0]; 40];
                    bytes[place] = odd;
                    for from in 0..=place {
                        assert_eq!(first_odd(&bytes, from), place, "{odd:#x} at {place} from {from} in {filling:?}");
                    }
                }
            }
        }
        for length in 0..40 {
            assert_eq!(first_odd(&vec![0xff; length], 0), length);
        }
    }

    #[test]
    fn a_head_that_is_not_whole_is_waited_for() {
        for part in ["", "A", "A: b", "A: b\r", "A: b\r\n", "A: b\r\n\r"] {
            assert_eq!(read(part), Ok(None), "{part:?}");
        }
    }
}
