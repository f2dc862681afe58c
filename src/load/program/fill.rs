//! Pieces of a request: bytes as they are, and blanks that are filled in anew each time.

use std::io::Write as _;

use super::Program;
use super::play::Player;
use crate::load::scenario::FeederMode;
use crate::load::script::Context;

/// Bytes and blanks in order.
#[derive(Debug, Default)]
pub(super) struct Pieces(pub(super) Vec<Piece>);

#[derive(Debug)]
pub(super) enum Piece {
    Bytes(Vec<u8>),
    Blank(Blank, Escape),
}

/// What is filled in.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Blank {
    Variable(u16),
    /// A column of the row that the task has.
    Row(u16, u16),
    /// A column of a row of its own.
    Pick(u16, u16),
    Rand(i64, i64),
    RandFloat(f64, f64),
    RandText(u32),
    Uuid,
    Counter(u16),
    NowSeconds,
    NowMs,
    DueNs,
    UserId,
}

/// How what is filled in is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Escape {
    /// As it is.
    None,
    /// Without line breaks, so that nothing captured adds a header.
    Header,
    /// In a URL's path or query: what may not stand there as `%XX`.
    Path,
    /// As a value in a query or form.
    Form,
    /// Within a JSON string.
    Json,
}

impl Pieces {
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        if let Some(Piece::Bytes(last)) = self.0.last_mut() {
            last.extend_from_slice(bytes);
        } else {
            self.0.push(Piece::Bytes(bytes.to_vec()));
        }
    }

    /// The bytes, if there is no blank.
    pub(super) fn constant(&self) -> Option<&[u8]> {
        match &self.0[..] {
            [] => Some(b""),
            [Piece::Bytes(b)] => Some(b),
            _ => None,
        }
    }

    /// Appends it all to `out`. `false` when unique data are used up.
    pub(super) fn write(&self, out: &mut Vec<u8>, program: &Program, user: &mut Player, cx: &mut Context<'_>) -> bool {
        for piece in &self.0 {
            match piece {
                Piece::Bytes(b) => out.extend_from_slice(b),
                Piece::Blank(blank, how) => {
                    let from = out.len();
                    if !fill(blank, out, program, user, cx) {
                        return false;
                    }
                    escape(out, from, *how);
                }
            }
        }
        true
    }
}

fn fill(blank: &Blank, out: &mut Vec<u8>, program: &Program, user: &mut Player, cx: &mut Context<'_>) -> bool {
    // Writing to a vector cannot fail.
    match *blank {
        Blank::Variable(v) => {
            if let Some(Some(text)) = user.variables.get(v as usize) {
                out.extend_from_slice(text.as_bytes());
            }
        }
        Blank::Row(feeder, column) => {
            let Some(row) = user.rows.get(feeder as usize).copied() else { return true };
            let row = if row == u32::MAX {
                let Some(next) = next_row(program, feeder, user, cx) else { return false };
                if let Some(r) = user.rows.get_mut(feeder as usize) {
                    *r = next;
                }
                next
            } else {
                row
            };
            out.extend_from_slice(cell(program, feeder, row, column));
        }
        Blank::Pick(feeder, column) => {
            let Some(row) = next_row(program, feeder, user, cx) else { return false };
            out.extend_from_slice(cell(program, feeder, row, column));
        }
        Blank::Rand(low, high) => drop(write!(out, "{}", user.chance.between(low, high))),
        Blank::RandFloat(low, high) => drop(write!(out, "{}", low + (high - low) * user.chance.share())),
        Blank::RandText(n) => {
            const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz012345";
            for _ in 0..n {
                out.push(LETTERS[(user.chance.bits() >> 59) as usize]);
            }
        }
        Blank::Uuid => {
            let (a, b) = (user.chance.bits(), user.chance.bits());
            // Version 4, variant 10 (RFC 9562, 5.4).
            let (c, d) = (a & 0xfff | 0x4000, b >> 48 & 0x3fff | 0x8000);
            drop(write!(out, "{:08x}-{:04x}-{c:04x}-{d:04x}-{:012x}", a >> 32, a >> 16 & 0xffff, b & 0xffff_ffff_ffff));
        }
        Blank::Counter(n) => {
            if let Some(count) = cx.counts.get_mut(program.counters + n as usize) {
                drop(write!(out, "{}", *count * cx.stripe.total + cx.stripe.index + 1));
                *count += 1;
            }
        }
        Blank::NowSeconds => drop(write!(out, "{}", wall_ns(cx) / 1_000_000_000)),
        Blank::NowMs => drop(write!(out, "{}", wall_ns(cx) / 1_000_000)),
        Blank::DueNs => drop(write!(out, "{}", cx.now)),
        Blank::UserId => drop(write!(out, "{}", user.number + 1)),
    }
    true
}

fn wall_ns(cx: &Context<'_>) -> i64 {
    cx.now as i64 + cx.wall_offset_ns
}

fn cell(program: &Program, feeder: u16, row: u32, column: u16) -> &[u8] {
    let rows = program.data.get(feeder as usize).map(|f| &f.rows);
    rows.and_then(|r| r.get(row as usize)?.get(column as usize)).map_or(b"", |c| c.as_bytes())
}

fn next_row(program: &Program, feeder: u16, user: &mut Player, cx: &mut Context<'_>) -> Option<u32> {
    let data = program.data.get(feeder as usize)?;
    let rows = data.rows.len() as u64;
    if data.mode == FeederMode::Random {
        return Some(user.chance.below(rows) as u32);
    }
    let count = cx.counts.get_mut(feeder as usize)?;
    let row = *count * cx.stripe.total + cx.stripe.index;
    if data.mode == FeederMode::Unique && row >= rows {
        return None;
    }
    *count += 1;
    Some((row % rows) as u32)
}

/// Rewrites what stands in `out` from `from` on.
fn escape(out: &mut Vec<u8>, from: usize, how: Escape) {
    let safe = |b: u8| match how {
        Escape::None => true,
        Escape::Header => b >= b' ' && b != 0x7f || b == b'\t',
        Escape::Path => b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&b),
        Escape::Form => b.is_ascii_alphanumeric() || b"-._~*".contains(&b),
        Escape::Json => b >= b' ' && b != b'"' && b != b'\\',
    };
    if out.get(from..).is_none_or(|new| new.iter().all(|b| safe(*b))) {
        return;
    }
    let raw = out.split_off(from);
    for b in raw {
        match how {
            _ if safe(b) => out.push(b),
            Escape::None => out.push(b),
            Escape::Header => {}
            Escape::Form if b == b' ' => out.push(b'+'),
            Escape::Path | Escape::Form => drop(write!(out, "%{b:02X}")),
            Escape::Json => match b {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
                b'\n' => out.extend_from_slice(b"\\n"),
                b => drop(write!(out, "\\u{b:04x}")),
            },
        }
    }
}

/// `bytes`, written as `how` wants it.
pub(super) fn escaped(bytes: &[u8], how: Escape) -> Vec<u8> {
    let mut out = bytes.to_vec();
    escape(&mut out, 0, how);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_its_own_escapes() {
        for (how, text, written) in [
            (Escape::Json, "a\"b\\\n\u{1}é", "a\\\"b\\\\\\n\\u0001é"),
            (Escape::Form, "a b&c=é", "a+b%26c%3D%C3%A9"),
            (Escape::Path, "/a b?c=%20\r\n", "/a%20b?c=%20%0D%0A"),
            (Escape::Header, "a\r\nX: y", "aX: y"),
            (Escape::None, "a b", "a b"),
        ] {
            assert_eq!(escaped(text.as_bytes(), how), written.as_bytes(), "{how:?}");
        }
    }
}
