//! Python objects of the target, read one at a time: strings, bytes, tuples, types.
//!
//! In: memory and a layout. Out: values of ours. Invariant: lengths come from foreign memory and are bounded before
//! anything is allocated; whatever does not look like what it should be is a [`Fault`].

use super::layout::Layout;
use crate::os::memory::{Fault, Memory};

/// Longest string read, in characters; names and paths are far shorter.
pub const STR_LIMIT: usize = 1 << 16;

/// The little-endian u64 at `offset` of `bytes`.
pub(super) fn word(bytes: &[u8], offset: u32) -> Option<u64> {
    let offset = offset as usize;
    let found = bytes.get(offset..offset.checked_add(8)?)?;
    Some(u64::from_le_bytes(found.try_into().ok()?))
}

/// The little-endian u32 at `offset` of `bytes`.
pub(super) fn half(bytes: &[u8], offset: u32) -> Option<u32> {
    let offset = offset as usize;
    let found = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(found.try_into().ok()?))
}

/// The target's heap: its memory, and where things are in it.
#[derive(Clone, Copy)]
pub struct Heap<'a> {
    /// The target's memory.
    pub memory: &'a dyn Memory,
    /// Where everything is.
    pub layout: &'a Layout,
}

impl std::fmt::Debug for Heap<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heap").finish_non_exhaustive()
    }
}

/// The head of a str object.
#[derive(Debug, Clone, Copy)]
struct StrHead {
    /// Characters.
    length: usize,
    /// Bytes a character: 1, 2 or 4.
    width: usize,
    /// Where they are.
    data: u64,
}

impl<'a> Heap<'a> {
    /// The heap of `memory` laid out as `layout`.
    pub fn new(memory: &'a dyn Memory, layout: &'a Layout) -> Self {
        Self { memory, layout }
    }

    /// The u64 at `object + offset`.
    pub fn word(self, object: u64, offset: u32) -> Result<u64, Fault> {
        self.memory.u64_at(object.wrapping_add(u64::from(offset)))
    }

    /// The i32 at `object + offset`.
    pub fn int(self, object: u64, offset: u32) -> Result<i32, Fault> {
        self.memory.u32_at(object.wrapping_add(u64::from(offset))).map(|v| v as i32)
    }

    /// The type of `object`.
    pub fn type_of(self, object: u64) -> Result<u64, Fault> {
        self.word(object, self.layout.ob_type)
    }

    /// `tp_name` of a type: `list`, `collections.OrderedDict`, or the bare name of a class defined in Python.
    pub fn type_name(self, type_object: u64) -> Result<String, Fault> {
        let at = self.word(type_object, self.layout.type_name)?;
        self.c_string(at)
    }

    /// A C string of at most 255 bytes.
    fn c_string(self, at: u64) -> Result<String, Fault> {
        let fault = Fault { at, len: 256 };
        // Not to run over the end of the mapping: up to the next 64-byte boundary at a time.
        let mut bytes = Vec::new();
        while bytes.len() < 256 {
            let from = at.checked_add(bytes.len() as u64).ok_or(fault)?;
            let piece = self.memory.bytes_at(from, 64 - (from % 64) as usize, 64)?;
            if let Some(end) = piece.iter().position(|b| *b == 0) {
                bytes.extend(piece.get(..end).unwrap_or_default());
                return String::from_utf8(bytes).map_err(|_| fault);
            }
            bytes.extend(piece);
        }
        Err(fault)
    }

    fn str_head(self, object: u64) -> Result<StrHead, Fault> {
        let l = self.layout;
        let fault = Fault { at: object, len: 64 };
        let head = self.memory.bytes_at(object, l.str_state as usize + 4, 256)?;
        let state = half(&head, l.str_state).ok_or(fault)?;
        let length = word(&head, l.str_length).and_then(|v| usize::try_from(v).ok()).ok_or(fault)?;
        let bits = state >> l.str_kind_shift;
        let (kind, compact, ascii) = (bits & 7, bits >> 3 & 1 == 1, bits >> 4 & 1 == 1);
        let width = match kind {
            1 | 2 | 4 => kind as usize,
            _ => return Err(fault),
        };
        let data = match (compact, ascii) {
            (true, true) => object.wrapping_add(u64::from(l.str_ascii_data)),
            (true, false) => object.wrapping_add(u64::from(l.str_compact_data)),
            (false, _) => self.word(object, l.str_compact_data)?,
        };
        Ok(StrHead { length, width, data })
    }

    /// Length of a str in characters.
    pub fn str_length(self, object: u64) -> Result<usize, Fault> {
        self.str_head(object).map(|h| h.length)
    }

    /// The first `limit` characters of a str. Lone surrogates become U+FFFD.
    pub fn str_start(self, object: u64, limit: usize) -> Result<String, Fault> {
        let head = self.str_head(object)?;
        let bytes = head.length.min(limit).checked_mul(head.width).ok_or(Fault { at: object, len: usize::MAX })?;
        let bytes = self.memory.bytes_at(head.data, bytes, STR_LIMIT * 4)?;
        let char_of = |unit: u32| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER);
        Ok(match head.width {
            1 => bytes.iter().map(|b| char::from(*b)).collect(),
            2 => bytes.as_chunks::<2>().0.iter().map(|c| char_of(u16::from_le_bytes(*c).into())).collect(),
            _ => bytes.as_chunks::<4>().0.iter().map(|c| char_of(u32::from_le_bytes(*c))).collect(),
        })
    }

    /// A whole str, if it is not longer than [`STR_LIMIT`].
    pub fn str(self, object: u64) -> Result<String, Fault> {
        if self.str_length(object)? > STR_LIMIT {
            return Err(Fault { at: object, len: STR_LIMIT });
        }
        self.str_start(object, STR_LIMIT)
    }

    /// Number of items of a tuple, list or bytes object.
    pub fn size(self, object: u64) -> Result<usize, Fault> {
        let size = self.word(object, self.layout.ob_size)?;
        usize::try_from(size as i64).map_err(|_| Fault { at: object, len: usize::MAX })
    }

    /// A bytes object of at most `limit` bytes.
    pub fn bytes(self, object: u64, limit: usize) -> Result<Vec<u8>, Fault> {
        let size = self.size(object)?;
        self.memory.bytes_at(object.wrapping_add(u64::from(self.layout.bytes_data)), size, limit)
    }

    /// The first `limit` items of a tuple.
    pub fn tuple(self, object: u64, limit: usize) -> Result<Vec<u64>, Fault> {
        let size = self.size(object)?.min(limit);
        self.words(object.wrapping_add(u64::from(self.layout.tuple_items)), size)
    }

    /// `count` words at `at`; at most 2^20.
    pub fn words(self, at: u64, count: usize) -> Result<Vec<u64>, Fault> {
        let bytes = self.memory.bytes_at(at, count.saturating_mul(8), 8 << 20)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|c| u64::from_le_bytes(*c)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::memory::FakeMemory;

    /// State bits of a str: kind, and ready, ASCII, compact.
    fn state(kind: u32, bits: u32) -> u32 {
        bits << 5 | kind << 2
    }

    /// A compact str object of 3.11 at 0x1000.
    fn str_object(length: u64, state: u32, data_at: usize, data: &[u8]) -> FakeMemory {
        let mut bytes = vec![0; data_at.max(80)];
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
        bytes[32..36].copy_from_slice(&state.to_le_bytes());
        bytes.truncate(data_at);
        bytes.extend(data);
        FakeMemory { pieces: vec![(0x1000, bytes)] }
    }

    #[test]
    fn strings_of_all_widths() {
        let layout = Layout::of(super::super::Version::new(3, 11)).unwrap();
        let text = |memory: &FakeMemory| Heap::new(memory, &layout).str(0x1000);
        assert_eq!(text(&str_object(3, state(0b1, 0b111), 48, b"abc")), Ok("abc".into()));
        assert_eq!(text(&str_object(2, state(0b1, 0b101), 72, &[0xe9, 0x41])), Ok("éA".into()));
        assert_eq!(text(&str_object(2, state(0b10, 0b101), 72, &[0x3b, 0x04, 0x00, 0xd8])), Ok("л\u{fffd}".into()));
        assert_eq!(text(&str_object(1, state(0b100, 0b101), 72, &[0x00, 0xf6, 0x01, 0x00])), Ok("😀".into()));
        assert!(text(&str_object(u64::MAX, state(0b100, 0b101), 72, &[0])).is_err());
        assert!(text(&str_object(1, 0, 72, &[0])).is_err());
        assert!(text(&str_object(4, state(0b1, 0b111), 48, b"abc")).is_err());
    }
}
