//! Line tables of code objects: which line an instruction stands in.
//!
//! In: the bytes of a table, its format, the first line. Out: [`Lines`]. Three formats: `co_lnotab` (3.8, 3.9; semantics
//! of `PyCode_Addr2Line`), PEP 626 pairs (3.10), the location table (3.11 and later; CPython's
//! `InternalDocs/code_objects.md`). The table is kept as it is, with a mark every so often to start from, so that a table
//! full of lies takes no more memory than its bytes. Invariant: any bytes decode to something. A test compares every
//! instruction of the standard library with what each interpreter itself says.

use super::layout::LineTable;

/// Bytes of table between two marks.
const STRIDE: usize = 256;

/// Lines by offset in the bytecode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lines {
    format: LineTable,
    table: Box<[u8]>,
    /// The state before the entry at or behind each multiple of [`STRIDE`]; the first is the start.
    marks: Vec<Cursor>,
    /// One past the last byte of bytecode; `None` where the last entry has no end.
    end: Option<u32>,
}

/// A place in the table, and what the entries before it add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cursor {
    /// Byte of the table.
    at: usize,
    /// Offset in bytes of bytecode.
    start: u32,
    /// The running line.
    line: i32,
}

/// One entry: where it starts, its line, and the place behind it.
#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u32,
    line: Option<i32>,
    next: Cursor,
}

impl Lines {
    /// Takes `table` of a code object whose first line is `first`.
    pub fn new(format: LineTable, first: i32, table: Vec<u8>) -> Self {
        let begin = Cursor { at: 0, start: 0, line: first };
        let mut lines = Self { format, table: table.into_boxed_slice(), marks: vec![begin], end: None };
        let mut cursor = begin;
        while let Some(entry) = lines.entry(cursor) {
            if entry.next.at / STRIDE > cursor.at / STRIDE {
                lines.marks.push(entry.next);
            }
            cursor = entry.next;
        }
        if format != LineTable::Lnotab {
            lines.end = Some(cursor.start);
        }
        lines
    }

    /// The line of the instruction at `lasti` bytes; the first line before any instruction ran (`lasti` < 0). `None`: it
    /// belongs to no line, or lies outside.
    pub fn at(&self, lasti: i64) -> Option<u32> {
        let first = self.marks.first()?;
        let Ok(lasti) = u32::try_from(lasti) else {
            return if lasti < 0 { u32::try_from(first.line).ok() } else { None };
        };
        if self.end.is_some_and(|end| lasti >= end) {
            return None;
        }
        // In lnotab an entry changes the line at its end, in the others it covers what starts at the cursor.
        let mark = self.marks.partition_point(|m| m.start <= lasti).checked_sub(1)?;
        let mut cursor = *self.marks.get(mark)?;
        let mut line = (self.format == LineTable::Lnotab).then_some(cursor.line);
        while let Some(entry) = self.entry(cursor).filter(|entry| entry.start <= lasti) {
            let empty = self.format != LineTable::Lnotab && entry.next.start == entry.start;
            line = if empty { line } else { entry.line };
            cursor = entry.next;
        }
        line.and_then(|l| u32::try_from(l).ok())
    }

    /// Bytes of memory that this takes.
    pub fn weight(&self) -> usize {
        self.table.len() + self.marks.len() * size_of::<Cursor>()
    }

    /// The entry at `cursor`; `None` at the end of the table.
    fn entry(&self, cursor: Cursor) -> Option<Entry> {
        let rest = self.table.get(cursor.at..)?;
        match self.format {
            LineTable::Lnotab => {
                let [bytes, delta] = *rest.first_chunk()?;
                let start = cursor.start.saturating_add(u32::from(bytes));
                let line = cursor.line.wrapping_add(i32::from(delta as i8));
                Some(Entry { start, line: Some(line), next: Cursor { at: cursor.at + 2, start, line } })
            }
            LineTable::Pairs => {
                let [bytes, delta] = *rest.first_chunk()?;
                let none = delta as i8 == -128;
                let line = if none { cursor.line } else { cursor.line.wrapping_add(i32::from(delta as i8)) };
                let start = cursor.start.saturating_add(u32::from(bytes));
                let next = Cursor { at: cursor.at + 2, start, line };
                Some(Entry { start: cursor.start, line: (!none).then_some(line), next })
            }
            LineTable::Locations => {
                let (head, after) = rest.split_first()?;
                let length = after.iter().position(|b| b & 0x80 != 0).unwrap_or(after.len());
                let code = head >> 3 & 15;
                let line = cursor.line.wrapping_add(match code {
                    10..=12 => i32::from(code) - 10,
                    13 | 14 => signed_varint(after.get(..length)?),
                    _ => 0,
                });
                // In code units of two bytes.
                let start = cursor.start.saturating_add((u32::from(head & 7) + 1) * 2);
                let next = Cursor { at: cursor.at + 1 + length, start, line };
                Some(Entry { start: cursor.start, line: (code != 15).then_some(line), next })
            }
        }
    }
}

/// Six bits a byte, the lowest first, bit 6 says that more follow; the lowest bit of the value is the sign.
fn signed_varint(bytes: &[u8]) -> i32 {
    let mut value = 0_u32;
    for (i, b) in bytes.iter().take(6).enumerate() {
        value |= u32::from(b & 63).checked_shl(i as u32 * 6).unwrap_or(0);
        if b & 64 == 0 {
            break;
        }
    }
    let magnitude = (value >> 1) as i32;
    if value & 1 == 1 { magnitude.wrapping_neg() } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_formats() {
        // Line 10 for 4 bytes, then line 12, then back to 11.
        let old = Lines::new(LineTable::Lnotab, 10, vec![4, 2, 6, 0xff]);
        assert_eq!([-1, 0, 3, 4, 9, 10, 99].map(|i| old.at(i)), [10, 10, 10, 12, 12, 11, 11].map(Some));
        let pairs = Lines::new(LineTable::Pairs, 10, vec![4, 1, 2, 0x80, 0, 5, 4, 0xfe]);
        assert_eq!([0, 4, 6, 9, 10].map(|i| pairs.at(i)), [Some(11), None, Some(14), Some(14), None]);
        // Short form on the first line for 2 units, one line on, none, long form 40 lines on (varint 80).
        let new = Lines::new(LineTable::Locations, 10, vec![0x81, 0x12, 0xd8, 0, 0, 0xf8, 0xf0, 0x50, 0x01, 0, 1, 1]);
        assert_eq!([0, 3, 4, 6, 8, 10].map(|i| new.at(i)), [Some(10), Some(10), Some(11), None, Some(51), None]);
    }

    #[test]
    fn any_bytes_decode() {
        let mut seed = 1_u32;
        for n in 0..2000 {
            let bytes: Vec<u8> = (0..n % 97)
                .map(|_| {
                    seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
                    (seed >> 24) as u8
                })
                .collect();
            for format in [LineTable::Lnotab, LineTable::Pairs, LineTable::Locations] {
                let lines = Lines::new(format, i32::MAX, bytes.clone());
                assert!(lines.weight() <= bytes.len() * 2 + 64);
                let _ = (lines.at(7), lines.at(i64::MIN), lines.at(i64::MAX));
            }
        }
    }
}
