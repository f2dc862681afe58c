//! Line tables of code objects, decoded once into ranges: which line an instruction stands in.
//!
//! In: the bytes of a table, its format, the first line. Out: [`Lines`]. Three formats: `co_lnotab` (3.8, 3.9; semantics
//! of `PyCode_Addr2Line`), PEP 626 pairs (3.10), the location table (3.11 and later; CPython's
//! `InternalDocs/code_objects.md`). Invariant: any bytes decode to something; the number of ranges is at most that of the
//! bytes. A test compares every instruction of the standard library with what each interpreter itself says.

use super::layout::LineTable;

/// Lines by offset in the bytecode.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lines {
    /// Line of the `def`, where an instruction before the first one stands.
    first: i32,
    /// Start of each range in bytes of bytecode, ascending, and its line.
    ranges: Vec<(u32, Option<u32>)>,
    /// One past the last byte; `None` where the last range has no end.
    end: Option<u32>,
}

impl Lines {
    /// Decodes `table`.
    pub fn decode(format: LineTable, first: i32, table: &[u8]) -> Self {
        let mut lines = Self { first, ranges: Vec::new(), end: None };
        match format {
            LineTable::Lnotab => lines.decode_lnotab(table),
            LineTable::Pairs => lines.decode_pairs(table),
            LineTable::Locations => lines.decode_locations(table),
        }
        lines
    }

    /// The line of the instruction at `lasti` bytes; the first line before any instruction ran (`lasti` < 0). `None`: it
    /// belongs to no line, or lies outside.
    pub fn at(&self, lasti: i64) -> Option<u32> {
        let Ok(lasti) = u32::try_from(lasti) else {
            return (lasti < 0).then_some(self.first).and_then(|l| u32::try_from(l).ok());
        };
        if self.end.is_some_and(|end| lasti >= end) {
            return None;
        }
        let i = self.ranges.partition_point(|(start, _)| *start <= lasti).checked_sub(1)?;
        self.ranges.get(i)?.1
    }

    fn push(&mut self, start: u32, line: Option<i32>) {
        let line = line.and_then(|l| u32::try_from(l).ok());
        match self.ranges.last_mut() {
            Some(last) if last.0 == start => last.1 = line,
            Some(last) if last.1 == line => {}
            _ => self.ranges.push((start, line)),
        }
    }

    fn decode_lnotab(&mut self, table: &[u8]) {
        let (mut start, mut line) = (0_u32, self.first);
        self.push(start, Some(line));
        for [bytes, delta] in table.as_chunks::<2>().0 {
            start = start.saturating_add(u32::from(*bytes));
            line = line.wrapping_add(i32::from(*delta as i8));
            self.push(start, Some(line));
        }
    }

    fn decode_pairs(&mut self, table: &[u8]) {
        let (mut start, mut line) = (0_u32, self.first);
        for [bytes, delta] in table.as_chunks::<2>().0 {
            let none = *delta as i8 == -128;
            if !none {
                line = line.wrapping_add(i32::from(*delta as i8));
            }
            if *bytes > 0 {
                self.push(start, (!none).then_some(line));
                start = start.saturating_add(u32::from(*bytes));
            }
        }
        self.end = Some(start);
    }

    fn decode_locations(&mut self, table: &[u8]) {
        let (mut start, mut line) = (0_u32, self.first);
        let mut rest = table;
        while let Some((head, after)) = rest.split_first() {
            let length = after.iter().position(|b| b & 0x80 != 0).unwrap_or(after.len());
            let (payload, next) = after.split_at(length);
            rest = next;
            let code = head >> 3 & 15;
            line = line.wrapping_add(match code {
                10..=12 => i32::from(code) - 10,
                13 | 14 => signed_varint(payload),
                _ => 0,
            });
            self.push(start, (code != 15).then_some(line));
            // In code units of two bytes.
            start = start.saturating_add((u32::from(head & 7) + 1) * 2);
        }
        self.end = Some(start);
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
        let old = Lines::decode(LineTable::Lnotab, 10, &[4, 2, 6, 0xff]);
        assert_eq!([-1, 0, 3, 4, 9, 10, 99].map(|i| old.at(i)), [10, 10, 10, 12, 12, 11, 11].map(Some));
        let pairs = Lines::decode(LineTable::Pairs, 10, &[4, 1, 2, 0x80, 0, 5, 4, 0xfe]);
        assert_eq!([0, 4, 6, 9, 10].map(|i| pairs.at(i)), [Some(11), None, Some(14), Some(14), None]);
        // Short form on the first line for 2 units, one line on, none, long form 40 lines on (varint 80).
        let new = Lines::decode(LineTable::Locations, 10, &[0x81, 0x12, 0xd8, 0, 0, 0xf8, 0xf0, 0x50, 0x01, 0, 1, 1]);
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
                let lines = Lines::decode(format, i32::MAX, &bytes);
                assert!(lines.ranges.len() <= bytes.len() + 1);
                let _ = (lines.at(7), lines.at(i64::MIN), lines.at(i64::MAX));
            }
        }
    }
}
