//! The memory in which objects can be: anonymous, writable, and there.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use crate::os::memory::{Fault, Memory};
use crate::target::Maps;

const PAGE: u64 = 4096;
/// Entries of the page map read at once: 64 MiB of addresses.
const ENTRIES: usize = 1 << 14;
/// Read at once.
pub(super) const PIECE: usize = 1 << 20;
/// A page that is there, and one that is swapped out (`Documentation/admin-guide/mm/pagemap.rst`).
const PRESENT: u64 = 1 << 63;

/// Where objects can be.
#[derive(Debug)]
pub(super) struct Pages {
    map: Option<File>,
    regions: Vec<Range<u64>>,
}

impl Pages {
    /// Of `pid`, whose mappings are `maps`.
    pub(super) fn new(pid: u32, maps: &Maps) -> Self {
        let wanted = maps.0.iter().filter(|m| m.readable && m.writable && m.inode == 0 && !m.path.starts_with("[v"));
        let mut regions: Vec<Range<u64>> = Vec::new();
        for m in wanted.filter(|m| !m.path.starts_with("[stack")) {
            match regions.last_mut() {
                Some(last) if last.end == m.start => last.end = m.end,
                _ => regions.push(m.start..m.end),
            }
        }
        Self { map: File::open(format!("/proc/{pid}/pagemap")).ok(), regions }
    }

    /// Whether `address` is in one of the regions.
    pub(super) fn contains(&self, address: u64) -> bool {
        let after = self.regions.partition_point(|r| r.start <= address);
        after.checked_sub(1).and_then(|i| self.regions.get(i)).is_some_and(|r| address < r.end)
    }

    /// Calls `each` with address and bytes of every piece that has a page which is there; pieces end at multiples of
    /// [`PIECE`]. Pages that are not there are zeros and are not read: that would make, or swap in, pages of the target.
    /// Without the right to see which are there all are read. Returns the pieces that could not be read.
    pub(super) fn each(&self, memory: &dyn Memory, buffer: &mut Vec<u8>, each: &mut dyn FnMut(u64, &[u8])) -> u64 {
        let mut failed = 0;
        let mut entries = vec![0; ENTRIES * 8];
        for region in &self.regions {
            let mut at = region.start;
            while at < region.end {
                let span = (ENTRIES as u64 * PAGE).min(region.end - at);
                let known = self.map.as_ref().and_then(|map| {
                    let raw = entries.get_mut(..(span / PAGE) as usize * 8)?;
                    map.read_exact_at(raw, at / PAGE * 8).ok()?;
                    Some(&*raw)
                });
                let is_there = |page: u64| {
                    let of = |raw: &[u8]| raw.as_chunks::<8>().0.get(page as usize).map(|e| u64::from_le_bytes(*e));
                    known.is_none_or(|raw| of(raw).is_some_and(|entry| entry & PRESENT != 0))
                };
                let mut from = at;
                while from < at + span {
                    let to = ((from / PIECE as u64 + 1) * PIECE as u64).min(at + span);
                    let pages = (from - at) / PAGE..(to - at) / PAGE;
                    let here = pages.clone().filter(|p| is_there(*p)).count();
                    if here > 0 {
                        match fill(memory, from, to, &|address| is_there((address - at) / PAGE), buffer) {
                            Ok(()) => each(from, buffer),
                            // Given back by the target meanwhile, or moved.
                            Err(Fault { .. }) => failed += 1,
                        }
                    }
                    from = to;
                }
                at += span;
            }
        }
        failed
    }
}

/// Reads the pages of `from..to` that are there; the others are zeros.
fn fill(
    memory: &dyn Memory,
    from: u64,
    to: u64,
    is_there: &dyn Fn(u64) -> bool,
    buffer: &mut Vec<u8>,
) -> Result<(), Fault> {
    buffer.resize((to - from) as usize, 0);
    let mut at = from;
    while at < to {
        let here = is_there(at);
        let mut end = at + PAGE;
        while end < to && is_there(end) == here {
            end += PAGE;
        }
        let stretch = buffer.get_mut((at - from) as usize..(end.min(to) - from) as usize);
        let stretch = stretch.ok_or(Fault { at, len: 0 })?;
        if here {
            memory.read(at, stretch)?;
        } else {
            stretch.fill(0);
        }
        at = end;
    }
    Ok(())
}
