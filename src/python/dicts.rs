//! Dicts and attributes of the target.
//!
//! In: a dict or an instance. Out: pairs of key and value addresses. Source: `Objects/dictobject.c` of each version:
//! combined tables (24-byte entries with a hash, or 16-byte ones for str keys from 3.11 on), tables that share their keys
//! (values apart), and instances that keep values without any dict. Invariant: at most [`ENTRY_LIMIT`] entries are read.

use super::heap::{Heap, word};
use super::layout::Attributes;
use crate::os::memory::Fault;

/// Entries of a dict that are read at most.
pub const ENTRY_LIMIT: usize = 1 << 18;
/// Entries that are searched for a name: more than any program has modules.
const SEARCH_LIMIT: usize = 1 << 16;
/// `Py_TPFLAGS_MANAGED_DICT` (3.11 and later) and `Py_TPFLAGS_INLINE_VALUES` (3.13 and later).
const MANAGED_DICT: u64 = 1 << 4;
const INLINE_VALUES: u64 = 1 << 2;

/// Where the values of a dict are.
#[derive(Debug, Clone, Copy)]
enum Values {
    /// Beside their keys.
    Entries,
    /// In an array of their own at this address.
    At(u64),
}

impl Heap<'_> {
    /// Number of items of a dict.
    pub fn dict_len(self, dict: u64) -> Result<usize, Fault> {
        let used = self.word(dict, self.layout.dict_used)?;
        usize::try_from(used as i64).map_err(|_| Fault { at: dict, len: usize::MAX })
    }

    /// The first `limit` items of a dict, as (key, value).
    pub fn dict_items(self, dict: u64, limit: usize) -> Result<Vec<(u64, u64)>, Fault> {
        let keys = self.word(dict, self.layout.dict_keys)?;
        let values = match self.word(dict, self.layout.dict_values)? {
            0 => Values::Entries,
            at => Values::At(at.wrapping_add(u64::from(self.layout.values_data))),
        };
        self.items(keys, values, limit)
    }

    /// The value at the str key `name`.
    pub fn dict_get(self, dict: u64, name: &str) -> Result<Option<u64>, Fault> {
        Ok(self.find(&self.dict_items(dict, SEARCH_LIMIT)?, name))
    }

    /// The attribute `name` that `object` itself has (not its class).
    pub fn attribute(self, object: u64, name: &str) -> Result<Option<u64>, Fault> {
        Ok(self.find(&self.attributes(object)?, name))
    }

    /// The attributes that `object` itself has.
    pub fn attributes(self, object: u64) -> Result<Vec<(u64, u64)>, Fault> {
        let l = self.layout;
        let class = self.type_of(object)?;
        let flags = self.word(class, l.type_flags)?;
        let before = |bytes: u64| self.memory.u64_at(object.wrapping_sub(bytes));
        let shared_keys = || self.word(class, l.heap_type_cached_keys);
        let dict = |at: u64| if at == 0 { Ok(Vec::new()) } else { self.dict_items(at, ENTRY_LIMIT) };
        if l.attributes == Attributes::Dict || flags & MANAGED_DICT == 0 {
            let offset = self.word(class, l.type_dictoffset)? as i64;
            // Negative ones count from the end of variable-sized objects: no class whose instances we look into.
            return if offset > 0 {
                dict(self.memory.u64_at(object.wrapping_add(offset as u64))?)
            } else {
                Ok(Vec::new())
            };
        }
        match l.attributes {
            Attributes::ValuesBefore => match before(32)? {
                0 => dict(before(24)?),
                values => self.items(shared_keys()?, Values::At(values), ENTRY_LIMIT),
            },
            Attributes::TaggedBefore => match before(24)? {
                tagged if tagged & 1 == 1 => {
                    self.items(shared_keys()?, Values::At(tagged.wrapping_add(1)), ENTRY_LIMIT)
                }
                at => dict(at),
            },
            Attributes::Dict | Attributes::Inline => match before(24)? {
                0 if flags & INLINE_VALUES != 0 => {
                    let values = object.wrapping_add(self.word(class, l.type_basicsize)?);
                    let at = values.wrapping_add(u64::from(l.values_data));
                    self.items(shared_keys()?, Values::At(at), ENTRY_LIMIT)
                }
                at => dict(at),
            },
        }
    }

    fn find(self, items: &[(u64, u64)], name: &str) -> Option<u64> {
        let wanted = name.chars().count();
        let is = |key: u64| {
            self.str_length(key).is_ok_and(|length| length == wanted)
                && self.is_str(key)
                && self.str_start(key, wanted).is_ok_and(|text| text == name)
        };
        items.iter().find(|(key, _)| is(*key)).map(|(_, value)| *value)
    }

    /// The entries of `keys` that have a value, `limit` at most.
    fn items(self, keys: u64, values: Values, limit: usize) -> Result<Vec<(u64, u64)>, Fault> {
        let l = self.layout;
        let fault = Fault { at: keys, len: usize::MAX };
        let head = self.memory.bytes_at(keys, l.keys_indices as usize, 256)?;
        let byte = |offset: Option<u32>| offset.and_then(|o| head.get(o as usize).copied());
        let index_bytes = if let Some(log2) = byte(l.keys_log2_index_bytes) {
            1_u64.checked_shl(log2.into()).ok_or(fault)?
        } else {
            let slots = l.keys_size.and_then(|o| word(&head, o)).ok_or(fault)?;
            slots.checked_mul(index_width(slots)).ok_or(fault)?
        };
        // Kind 0 and before 3.11: hash, key, value; else key, value.
        let width = if byte(l.keys_kind).unwrap_or(0) == 0 { 3 } else { 2 };
        let count = word(&head, l.keys_nentries).and_then(|n| usize::try_from(n).ok()).ok_or(fault)?;
        let count = count.min(limit).min(ENTRY_LIMIT);
        let entries_at = keys.wrapping_add(u64::from(l.keys_indices)).wrapping_add(index_bytes);
        let entries = self.words(entries_at, count * width)?;
        let apart = match values {
            Values::Entries => None,
            Values::At(at) => Some(self.words(at, count)?),
        };
        let pair = |i: usize| {
            let entry = entries.get(i * width..(i + 1) * width)?;
            let (own, key) = (entry.last()?, entry.get(width - 2)?);
            let value = apart.as_ref().map_or(Some(own), |values| values.get(i))?;
            (*key != 0 && *value != 0).then_some((*key, *value))
        };
        let order = match values {
            Values::At(at) if l.values_data > 0 => self.insertion_order(at),
            _ => None,
        };
        Ok(match order {
            Some(order) => order.into_iter().filter_map(|i| pair(usize::from(i))).collect(),
            None => (0..count).filter_map(pair).collect(),
        })
    }

    /// The order in which values at `at` were set, where they say so (3.13 and later): a byte each behind the last of
    /// them; their header has the capacity and the number set.
    fn insertion_order(self, at: u64) -> Option<Vec<u8>> {
        let header = at.checked_sub(u64::from(self.layout.values_data))?;
        let [capacity, size] = [self.memory.u8_at(header).ok()?, self.memory.u8_at(header.wrapping_add(1)).ok()?];
        let order = at.wrapping_add(u64::from(capacity) * 8);
        (size <= capacity).then(|| self.memory.bytes_at(order, size.into(), 255).ok()).flatten()
    }
}

/// Bytes of an index slot before 3.11.
fn index_width(slots: u64) -> u64 {
    match slots {
        0..=0xff => 1,
        0x100..=0xffff => 2,
        0x10000..=0xffff_ffff => 4,
        _ => 8,
    }
}
