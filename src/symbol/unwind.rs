//! The sections of a module that unwinding by `.eh_frame` needs, as bytes and address ranges.
//!
//! In: a [`Module`]. Out: [`UnwindSections`], shaped like what framehop asks for. Invariant: bytes are owned copies, so a
//! file that changes later changes nothing here. Cost: `.eh_frame` and `.eh_frame_hdr` in anonymous memory (0.3 MB for
//! libpython, 3.3 MB for node), held once a module for the length of the recording.

use std::ops::Range;
use std::sync::Arc;

use super::elf64::{Fields, Section, read_exactly};
use super::modules::Module;
use crate::error::Result;

/// Unwind tables larger than this are not read; the largest browsers have 30 MB.
const TABLE_LIMIT: u64 = 64 << 20;

/// Address range and bytes of a section.
#[derive(Debug, Clone)]
pub struct Bytes {
    /// Addresses in the file's own numbering.
    pub svma: Range<u64>,
    /// The bytes.
    pub data: Arc<[u8]>,
}

/// What the unwinder gets to know of a module. Addresses are the file's own; subtract nothing, add [`Module::bias`].
#[derive(Debug, Clone)]
pub struct UnwindSections {
    /// The address that relative addresses count from: 0, but for files linked above 4 GB.
    pub base_svma: u64,
    /// `.text`.
    pub text_svma: Option<Range<u64>>,
    /// `.plt` (framehop wants it as "stubs").
    pub plt_svma: Option<Range<u64>>,
    /// `.got`.
    pub got_svma: Option<Range<u64>>,
    /// `.eh_frame`.
    pub eh_frame: Option<Bytes>,
    /// `.eh_frame_hdr`, the sorted index of the former.
    pub eh_frame_hdr: Option<Bytes>,
    /// `.debug_frame` of the module itself, read only when there is no `.eh_frame`.
    pub debug_frame: Option<Arc<[u8]>>,
}

impl UnwindSections {
    /// Bytes that it holds.
    pub fn heap_bytes(&self) -> usize {
        let of = |b: &Option<Bytes>| b.as_ref().map_or(0, |b| b.data.len());
        of(&self.eh_frame) + of(&self.eh_frame_hdr) + self.debug_frame.as_ref().map_or(0, |d| d.len())
    }

    /// Reads the sections of `module`; `None` when it has no unwind table at all.
    pub(super) fn of(module: &Module) -> Result<Option<Self>> {
        let (file, headers) = (module.file()?, &module.headers);
        let read = |s: &Section| -> Result<Option<Bytes>> {
            Ok(s.bytes(file, TABLE_LIMIT)?.map(|data| Bytes { svma: s.range(), data: data.into() }))
        };
        let section = |name: &str| match headers.section(name) {
            Some(s) => read(s),
            None => Ok(None),
        };
        let mut eh_frame = section(".eh_frame")?;
        let mut eh_frame_hdr = section(".eh_frame_hdr")?;
        if eh_frame.is_none()
            && let Some((hdr, table)) = by_program_header(module)?
        {
            (eh_frame_hdr, eh_frame) = (Some(hdr), Some(table));
        }
        // A header whose table of addresses is missing or empty is of no use: then the unwinder makes its own index.
        let usable = |h: &Bytes| h.data.len() > 12 && h.data.first() == Some(&1) && Fields(&h.data).u32(8) > 0;
        eh_frame_hdr = eh_frame_hdr.filter(usable);
        let debug_frame = match headers.section(".debug_frame") {
            Some(s) if eh_frame.is_none() && !s.is_compressed() => s.bytes(file, TABLE_LIMIT)?.map(Arc::from),
            _ => None,
        };
        if eh_frame.is_none() && debug_frame.is_none() {
            return Ok(None);
        }
        let range = |name: &str| headers.section(name).map(Section::range);
        let lowest = headers.segments.iter().map(|s| s.address).min().unwrap_or(0) & !0xfff;
        let highest = headers.segments.iter().map(|s| s.address.saturating_add(s.memory_size)).max().unwrap_or(0);
        Ok(Some(Self {
            base_svma: if highest > u64::from(u32::MAX) { lowest } else { 0 },
            text_svma: range(".text"),
            plt_svma: range(".plt"),
            got_svma: range(".got"),
            eh_frame,
            eh_frame_hdr,
            debug_frame,
        }))
    }
}

/// The tables of a file whose section headers were stripped away: the header by its program header, and the table where
/// the header points to, until the end of its segment.
fn by_program_header(module: &Module) -> Result<Option<(Bytes, Bytes)>> {
    let (file, headers) = (module.file()?, &module.headers);
    let Some(hdr) = headers.eh_frame_hdr.filter(|h| (12..=TABLE_LIMIT).contains(&h.size)) else { return Ok(None) };
    let data = read_exactly(file, hdr.offset, hdr.size as usize)?;
    // Version 1, and the pointer relative to itself in four signed bytes, as every linker writes it.
    let pc_relative = (data.first() == Some(&1) && data.get(1) == Some(&0x1b)).then(|| Fields(&data).u32(4) as i32);
    let Some(relative) = pc_relative else { return Ok(None) };
    let table = hdr.address.wrapping_add(4).wrapping_add_signed(i64::from(relative));
    let Some((offset, len)) = headers.offset_of(table) else { return Ok(None) };
    if len > TABLE_LIMIT {
        return Ok(None);
    }
    let bytes = read_exactly(file, offset, len as usize)?;
    let header = Bytes { svma: hdr.address..hdr.address.saturating_add(hdr.size), data: data.into() };
    Ok(Some((header, Bytes { svma: table..table.saturating_add(len), data: bytes.into() })))
}
