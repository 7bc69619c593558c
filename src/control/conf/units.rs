//! What words with a unit mean: lengths of time and sizes.
//!
//! Used by the checks of both kinds of file. The rule it keeps: no number without its unit, for nobody remembers which
//! one a bare number is in.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::raw::Word;

impl Word<'_> {
    /// A length of time: a whole number with its unit.
    pub fn duration(&self, allowed: RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.quantity("s")?;
        let wrong = || self.wrong(format!("`{text}` is not a length of time"), TIME_HINT.to_owned());
        let Some((number, unit)) = split(text) else { return wrong() };
        if unit.is_empty() {
            return self.wrong(format!("`{}` needs a unit", self.name()), format!("write \"{number}s\" for seconds"));
        }
        let Some((_, milliseconds)) = TIME_UNITS.iter().find(|(known, _)| *known == unit) else { return wrong() };
        let length = number.checked_mul(*milliseconds).map(Duration::from_millis);
        match length.filter(|length| allowed.contains(length)) {
            Some(length) => Some(length),
            None => {
                let (min, max) = (spell_time(*allowed.start()), spell_time(*allowed.end()));
                self.wrong(format!("`{}` must be between {min} and {max}", self.name()), None)
            }
        }
    }

    /// A number of bytes with its unit; `"0"` needs none.
    pub fn size(&self, min: u64) -> Option<u64> {
        let text = self.quantity("MiB")?;
        let wrong = || self.wrong(format!("`{text}` is not a size"), SIZE_HINT.to_owned());
        let Some((number, unit)) = split(text) else { return wrong() };
        let bytes = match SIZE_UNITS.iter().find(|(known, _)| *known == unit) {
            Some((_, bytes)) => number.checked_mul(*bytes).filter(|bytes| *bytes <= SIZE_MAX),
            None if unit.is_empty() && number == 0 => Some(0),
            None if unit.is_empty() => {
                let hint = format!("write \"{number}MiB\" for mebibytes");
                return self.wrong(format!("`{}` needs a unit", self.name()), hint);
            }
            None => return wrong(),
        };
        match bytes {
            Some(bytes) if bytes >= min => Some(bytes),
            Some(_) => self.wrong(format!("`{}` must be at least {min} bytes", self.name()), None),
            None => self.wrong(format!("`{text}` is more than any machine has"), None),
        }
    }

    /// The text of a number with a unit. A bare number is what people write first.
    fn quantity(&self, unit: &str) -> Option<&str> {
        match self.value() {
            DeValue::Integer(number) => {
                self.wrong(format!("`{}` needs a unit", self.name()), format!("write \"{number}{unit}\""))
            }
            _ => self.text(),
        }
    }
}

/// `"30s"` → 30 and `s`.
fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start_matches(' ')))
}

/// The longest unit that leaves a whole number.
fn spell_time(length: Duration) -> String {
    let all = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    let (unit, each) = TIME_UNITS.iter().rev().find(|(_, each)| all >= *each && all % each == 0).unwrap_or(&("ms", 1));
    format!("{}{unit}", all / each)
}

const TIME_UNITS: [(&str, u64); 7] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 7 * 86_400_000),
    ("y", 365 * 86_400_000),
];
const TIME_HINT: &str = "a whole number with ms, s, m, h, d, w or y: \"30s\"";

const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];
const SIZE_HINT: &str = "a whole number with B, KiB, MiB, GiB or TiB: \"64MiB\"";
/// A pebibyte: what is larger is a slip of the keyboard.
const SIZE_MAX: u64 = 1 << 50;

#[cfg(test)]
mod tests {
    use super::super::word::tests::read;
    use super::*;

    fn duration(value: &str) -> Option<Duration> {
        read(value, |word| word.duration(Duration::ZERO..=Duration::from_secs(3_153_600_000)))
    }

    #[test]
    fn lengths_of_time_have_units() {
        for (value, milliseconds) in [("\"500ms\"", 500), ("\"30s\"", 30_000), ("\"0s\"", 0), ("\"2 m\"", 120_000)] {
            assert_eq!(duration(value), Some(Duration::from_millis(milliseconds)), "{value}");
        }
        assert_eq!(duration("\"1y\""), Some(Duration::from_secs(31_536_000)));
        for value in
            ["30", "\"30\"", "\"s\"", "\"\"", "\"-1s\"", "\"1.5h\"", "\"99999999999999999y\"", "\"200y\"", "true"]
        {
            assert_eq!(duration(value), None, "{value}");
        }
        assert_eq!(spell_time(Duration::from_secs(86_400)), "1d");
    }

    #[test]
    fn sizes_have_units_but_for_none() {
        let size = |value: &str| read(value, |word| word.size(0));
        assert_eq!(size("\"64MiB\""), Some(64 << 20));
        assert_eq!(size("\"0\""), Some(0));
        assert_eq!(size("\"1GB\""), Some(1_000_000_000));
        for value in ["64", "\"64\"", "\"64mb\"", "\"99999TiB\"", "\"\"", "[1]"] {
            assert_eq!(size(value), None, "{value}");
        }
    }
}
