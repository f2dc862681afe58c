//! Which function holds an address, by the unwind table in the target's own memory.
//!
//! In: memory and mappings. Out: the range of code that one entry (FDE) of `.eh_frame` covers. Source: the sorted table of
//! `.eh_frame_hdr` (LSB Core, "Exception Frames"), found through the program headers that every loaded file shows in
//! memory. Invariant: a bounded number of reads; a table of another form than linkers write has no functions.

use std::ops::Range;

use crate::os::memory::Memory;
use crate::target::Maps;

const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
/// Program headers of a file; real ones have about a dozen.
const HEADERS: usize = 64;
/// Version 1; pointer to `.eh_frame` relative to itself, count in four bytes, table of signed words relative to here.
const USUAL: [u8; 4] = [1, 0x1b, 0x03, 0x3b];

/// The code around `address` that one unwind entry covers. `None`: no entry does, or there is no table.
pub(super) fn function_at(memory: &dyn Memory, maps: &Maps, address: u64) -> Option<Range<u64>> {
    let table = table_of(memory, maps, address)?;
    let entry = |i: u64| -> Option<(u64, u64)> {
        let at = table.checked_add(12)?.checked_add(i.checked_mul(8)?)?;
        let word = |at| memory.u32_at(at).ok().map(|w| table.wrapping_add_signed(i64::from(w as i32)));
        Some((word(at)?, word(at + 4)?))
    };
    let count = u64::from(memory.u32_at(table.checked_add(8)?).ok()?);
    // The last entry that begins at or before the address.
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if entry(middle)?.0 <= address {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let (start, fde) = entry(low.checked_sub(1)?)?;
    // Length, distance to its CIE, start relative to here, size: as the table's own form implies.
    let size = u64::from(memory.u32_at(fde.checked_add(12)?).ok()?);
    let range = start..start.checked_add(size)?;
    range.contains(&address).then_some(range)
}

/// The address of `.eh_frame_hdr` of the file that holds `address`.
fn table_of(memory: &dyn Memory, maps: &Maps, address: u64) -> Option<u64> {
    let own = maps.at(address)?;
    let i = maps.0.partition_point(|m| m.start <= address);
    let same = |m: &&crate::target::Mapping| (m.device, m.inode, &m.path) == (own.device, own.inode, &own.path);
    let first = maps.0.get(..i)?.iter().rev().filter(same).find(|m| m.offset == 0)?;
    let head = memory.bytes_at(first.start, 64, 64).ok()?;
    let half = |at: usize| Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?));
    let word = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (offset, size, count) = (word(&head, 32)?, half(54)?, usize::from(half(56)?).min(HEADERS));
    if size != 56 {
        return None;
    }
    let headers = memory.bytes_at(first.start.checked_add(offset)?, count * 56, HEADERS * 56).ok()?;
    let kind = |h: &&[u8]| h.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let lowest = headers.chunks_exact(56).filter(|h| kind(h) == Some(1)).filter_map(|h| word(h, 16)).min()? & !0xfff;
    let hdr = headers.chunks_exact(56).find(|h| kind(h) == Some(PT_GNU_EH_FRAME))?;
    let table = first.start.checked_add(word(hdr, 16)?.checked_sub(lowest)?)?;
    let form: [u8; 4] = memory.bytes_at(table, 4, 4).ok()?.try_into().ok()?;
    (form == USUAL).then_some(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::memory::{FakeMemory, LiveMemory};

    #[inline(never)]
    fn here() -> u64 {
        std::hint::black_box(here as *const () as u64)
    }

    #[test]
    fn our_own_functions_and_those_of_libc() {
        let pid = std::process::id();
        let (memory, maps) = (LiveMemory::new(pid), Maps::of(pid).unwrap());
        for function in [here(), libc::getpid as *const () as u64, libc::qsort as *const () as u64] {
            let range = function_at(&memory, &maps, function + 1).unwrap();
            assert_eq!(range.start, function, "{range:x?}");
            assert!(range.end > function + 1 && range.end < function + 100_000, "{range:x?}");
        }
        let stack = &raw const pid as u64;
        assert_eq!(function_at(&memory, &maps, stack), None);
        assert_eq!(function_at(&FakeMemory::default(), &maps, here()), None);
    }
}
