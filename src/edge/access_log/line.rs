//! One line of JSON in the making: always valid, never more than 4 KiB, and harmless to a terminal.
//!
//! Used by `record` for every request, so it formats by hand and allocates nothing. The rule: what others wrote is
//! escaped where a terminal would obey it, `\ufffd` where it is not UTF-8, and cut with a `…` where it is long.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

use crate::model::address::Address;
use crate::report;

/// No line is longer, in bytes with its newline.
pub const LINE_MAX: usize = 4096;
/// Room that no text takes: for the names of the fields after it, and the line's end.
const RESERVE: usize = 64;
/// What an address of an app may fill, in bytes.
const PATH_MAX: usize = 128;
const CUT: &str = "…";

/// The second at hand as text; a new one is made once a second.
#[derive(Debug)]
pub struct Clock {
    second: u64,
    text: [u8; 20],
}

impl Default for Clock {
    fn default() -> Self {
        Self { second: 0, text: *b"1970-01-01T00:00:00." }
    }
}

impl Clock {
    fn set(&mut self, second: u64) {
        let at = i64::try_from(second).ok().and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok());
        let Some(at) = at else { return };
        let (year, month, day) = at.to_calendar_date();
        let (hour, minute, second_of) = at.to_hms();
        let text = format!("{year:04}-{:02}-{day:02}T{hour:02}:{minute:02}:{second_of:02}.", u8::from(month));
        if let Ok(text) = text.into_bytes().try_into() {
            *self = Self { second, text };
        }
    }
}

/// A line in the making. The bounds of its texts see to it that there is room for everything.
pub struct Line<'o> {
    out: &'o mut [u8; LINE_MAX],
    length: usize,
    /// Where texts must have ended.
    end: usize,
}

impl<'o> Line<'o> {
    pub fn new(out: &'o mut [u8; LINE_MAX]) -> Self {
        Self { out, length: 0, end: LINE_MAX - RESERVE }
    }

    pub fn length(&self) -> usize {
        self.length
    }

    /// What follows takes so many bytes at most.
    pub fn bound(&mut self, length: usize) {
        self.end = self.length + length - RESERVE;
    }

    /// Bytes of ours, whose number is known here.
    #[inline]
    pub fn put<const N: usize>(&mut self, bytes: &[u8; N]) {
        if let Some(place) = self.out.get_mut(self.length..self.length + N) {
            place.copy_from_slice(bytes);
            self.length += N;
        }
    }

    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        if let Some(place) = self.out.get_mut(self.length..self.length + bytes.len()) {
            place.copy_from_slice(bytes);
            self.length += bytes.len();
        }
    }

    #[inline]
    pub fn field<const N: usize>(&mut self, name: &[u8; N], bytes: &[u8], max: usize) {
        self.put(name);
        self.text(bytes, max);
        self.put(b"\"");
    }

    /// What somebody else wrote, in `max` bytes at most.
    pub fn text(&mut self, bytes: &[u8], max: usize) {
        let room = max.min(self.end.saturating_sub(self.length));
        let place = self.out.get_mut(self.length..self.length + bytes.len().min(room));
        if bytes.len() <= room && place.is_some_and(|place| copy_plain(bytes, place)) {
            self.length += bytes.len();
        } else {
            self.escaped(bytes, room);
        }
    }

    #[cold]
    fn escaped(&mut self, bytes: &[u8], room: usize) {
        let mut left = room.saturating_sub(CUT.len());
        // Every byte takes one at least, so that what is beyond the room need not be looked at.
        let bytes = &bytes[..bytes.len().min(room + 1)];
        for chunk in bytes.utf8_chunks() {
            let is_whole = chunk.valid().chars().all(|character| self.character(character, &mut left))
                && (chunk.invalid().is_empty() || self.within(&mut left, b"\\ufffd"));
            if !is_whole {
                return self.raw(CUT.as_bytes());
            }
        }
    }

    /// False when there is no room for it.
    fn character(&mut self, character: char, left: &mut usize) -> bool {
        match character {
            '"' => self.within(left, b"\\\""),
            '\\' => self.within(left, b"\\\\"),
            _ if report::commands_terminal(character) => {
                let digit = |shift: u32| HEX[(character as usize >> shift) & 15];
                self.within(left, &[b'\\', b'u', digit(12), digit(8), digit(4), digit(0)])
            }
            _ => self.within(left, character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }

    fn within(&mut self, left: &mut usize, bytes: &[u8]) -> bool {
        let after = left.checked_sub(bytes.len());
        if let Some(after) = after {
            *left = after;
            self.raw(bytes);
        }
        after.is_some()
    }

    pub fn time(&mut self, at: SystemTime, clock: &mut Clock) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() != clock.second {
            clock.set(since.as_secs());
        }
        self.put(&clock.text);
        self.three_digits(since.subsec_millis());
        self.put(b"Z");
    }

    /// With three digits behind the point.
    pub fn milliseconds(&mut self, duration: Duration) {
        let (micros, rest) = (duration.subsec_micros(), duration.subsec_micros() % 1000);
        self.number(duration.as_secs().saturating_mul(1000).saturating_add(u64::from(micros / 1000)));
        self.put(b".");
        self.three_digits(rest);
    }

    pub fn number(&mut self, number: u64) {
        if number < 1000 {
            return self.small(number as u32);
        }
        self.number(number / 1000);
        self.three_digits((number % 1000) as u32);
    }

    /// A number below 1000.
    #[inline]
    pub fn small(&mut self, number: u32) {
        match number {
            0..10 => self.put(&[digit(number)]),
            10..100 => self.put(&[digit(number / 10), digit(number)]),
            _ => self.three_digits(number),
        }
    }

    #[inline]
    fn three_digits(&mut self, number: u32) {
        self.put(&[digit(number / 100), digit(number / 10), digit(number)]);
    }

    pub fn address(&mut self, address: &Address) {
        match address {
            Address::Unix(path) => {
                self.put(b"unix:");
                self.text(path.as_os_str().as_encoded_bytes(), PATH_MAX);
            }
            Address::Tcp(tcp) => {
                let (open, close): (&[u8], &[u8]) = if tcp.is_ipv6() { (b"[", b"]:") } else { (b"", b":") };
                self.raw(open);
                self.ip(tcp.ip());
                self.raw(close);
                self.number(tcp.port().into());
            }
        }
    }

    pub fn ip(&mut self, ip: IpAddr) {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.ipv4(ip),
            IpAddr::V6(ip) => self.ipv6(ip),
        }
    }

    fn ipv4(&mut self, ip: Ipv4Addr) {
        for octet in ip.octets() {
            let (text, length) = &OCTETS[usize::from(octet)];
            let start = self.length;
            self.put(text);
            self.length = start + length;
        }
        // The last one's dot.
        self.length -= 1;
    }

    /// Its longest run of zeros, the first of several, as `::` (RFC 5952 section 4.2).
    fn ipv6(&mut self, ip: Ipv6Addr) {
        let groups = ip.segments();
        let run = |from: &usize| groups[*from..].iter().take_while(|group| **group == 0).count();
        let from = (0..groups.len()).rev().max_by_key(run).unwrap_or_default();
        let length = run(&from);
        let (before, after) = if length > 1 { (from, from + length) } else { (8, 8) };
        self.groups(&groups[..before]);
        if length > 1 {
            self.put(b"::");
            self.groups(&groups[after..]);
        }
    }

    fn groups(&mut self, groups: &[u16]) {
        for (place, group) in groups.iter().enumerate() {
            if place > 0 {
                self.put(b":");
            }
            let significant = (4 - group.leading_zeros() / 4).max(1);
            for digit in (0..significant).rev() {
                self.put(&[HEX[usize::from(group >> (4 * digit)) & 15]]);
            }
        }
    }
}

/// Copies text into a place as long; whether it may stand in a line as it is. Sixteen bytes at a time, for which the
/// compiler has a few instructions; the last sixteen overlap those before.
#[inline]
fn copy_plain(from: &[u8], to: &mut [u8]) -> bool {
    let Some(last) = from.len().checked_sub(16) else {
        return from.iter().zip(to).all(|(from, to)| {
            *to = *from;
            PLAIN[usize::from(*from)]
        });
    };
    let mut at = 0;
    while let (Some(from), Some(to)) = (chunk(from, at), to.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<16>)) {
        *to = *from;
        if !are_plain(from) || at == last {
            return are_plain(from);
        }
        at = (at + 16).min(last);
    }
    false
}

fn chunk(bytes: &[u8], at: usize) -> Option<&[u8; 16]> {
    bytes.get(at..)?.first_chunk()
}

#[inline]
fn are_plain(bytes: &[u8; 16]) -> bool {
    bytes.iter().fold(true, |all, byte| all & is_plain(*byte))
}

#[inline]
const fn is_plain(byte: u8) -> bool {
    // From the space to the tilde.
    (byte.wrapping_sub(b' ') < 95) & (byte != b'"') & (byte != b'\\')
}

/// For single bytes looking up is cheaper.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < plain.len() {
        plain[byte] = is_plain(byte as u8);
        byte += 1;
    }
    plain
};

/// Numbers of an address, each with its dot, and how long that is.
const OCTETS: [([u8; 4], usize); 256] = {
    let mut octets = [([0; 4], 0); 256];
    let mut number = 0;
    while number < octets.len() {
        let (hundreds, tens, ones) = (digit(number as u32 / 100), digit(number as u32 / 10), digit(number as u32));
        octets[number] = match number {
            0..10 => ([ones, b'.', 0, 0], 2),
            10..100 => ([tens, ones, b'.', 0], 3),
            _ => ([hundreds, tens, ones, b'.'], 4),
        };
        number += 1;
    }
    octets
};

/// The last digit of a number.
#[inline]
const fn digit(number: u32) -> u8 {
    b'0' + (number % 10) as u8
}

const HEX: [u8; 16] = *b"0123456789abcdef";
