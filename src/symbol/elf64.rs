//! The headers of a 64-bit little-endian ELF file: segments and sections, read by `pread` and bounded.
//!
//! In: an open file, whose bytes may say anything. Out: [`Headers`]. Invariant: no table is larger than the file or the
//! limits below, no arithmetic wraps, and a file that shrinks under us is an error. Limits: 32-bit and big-endian objects
//! are `Unsupported`; compressed sections are not decompressed here.

use std::fs::File;
use std::ops::Range;

use super::files::read_up_to;
use crate::error::{Error, Kind, Result};

/// Numbers of the ELF specification that are needed here.
pub mod elf {
    /// The first bytes of every ELF file.
    pub const ELFMAG: [u8; 4] = *b"\x7fELF";
    /// 64-bit.
    pub const ELFCLASS64: u8 = 2;
    /// Little-endian.
    pub const ELFDATA2LSB: u8 = 1;
    /// x86-64.
    pub const EM_X86_64: u16 = 62;
    /// A loadable segment.
    pub const PT_LOAD: u32 = 1;
    /// The segment of `.eh_frame_hdr`.
    pub const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
    /// An executable segment.
    pub const PF_X: u32 = 1;
    /// No section.
    pub const SHT_NULL: u32 = 0;
    /// The full symbol table.
    pub const SHT_SYMTAB: u32 = 2;
    /// Relocations with addends.
    pub const SHT_RELA: u32 = 4;
    /// Notes.
    pub const SHT_NOTE: u32 = 7;
    /// A section without bytes in the file.
    pub const SHT_NOBITS: u32 = 8;
    /// The dynamic symbol table.
    pub const SHT_DYNSYM: u32 = 11;
    /// Loaded into memory.
    pub const SHF_ALLOC: u64 = 2;
    /// Holds code.
    pub const SHF_EXECINSTR: u64 = 4;
    /// Compressed.
    pub const SHF_COMPRESSED: u64 = 0x800;
    /// The symbol is defined elsewhere.
    pub const SHN_UNDEF: u16 = 0;
    /// The symbol is a number and no address.
    pub const SHN_ABS: u16 = 0xfff1;
    /// The number did not fit and stands elsewhere.
    pub const SHN_XINDEX: u16 = 0xffff;
    /// A symbol without a type: a label.
    pub const STT_NOTYPE: u8 = 0;
    /// A function.
    pub const STT_FUNC: u8 = 2;
    /// A function that chooses its implementation when it is linked.
    pub const STT_GNU_IFUNC: u8 = 10;
    /// Seen in its own file only.
    pub const STB_LOCAL: u8 = 0;
    /// The slot of a stub.
    pub const R_X86_64_JUMP_SLOT: u32 = 7;
    /// The slot of an address.
    pub const R_X86_64_GLOB_DAT: u32 = 6;
}

/// More program or section headers than this are not looked at; linkers make dozens.
const HEADER_LIMIT: usize = 1 << 16;
/// A name of a section longer than this is cut.
const SECTION_NAME_LIMIT: usize = 256;

/// A loadable part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its address in the file's own numbering.
    pub address: u64,
    /// Where it lies in the file.
    pub offset: u64,
    /// Its bytes in the file.
    pub size: u64,
    /// Its bytes in memory.
    pub memory_size: u64,
    /// Whether code runs from it.
    pub executable: bool,
}

/// A section header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// `SHT_…`.
    pub kind: u32,
    /// `SHF_…`.
    pub flags: u64,
    /// Its address in the file's own numbering, 0 when it is not loaded.
    pub address: u64,
    /// Where it lies in the file.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u64,
    /// The section that belongs to it: the strings of a symbol table.
    pub link: u32,
}

impl Section {
    /// Its addresses in the file's own numbering.
    pub fn range(&self) -> Range<u64> {
        self.address..self.address.saturating_add(self.size)
    }

    /// Whether the file holds bytes of it (debug files keep the headers of the code sections alone).
    pub fn has_bytes(&self) -> bool {
        self.kind != elf::SHT_NOBITS && self.kind != elf::SHT_NULL && self.size > 0
    }

    /// Whether code is in it.
    pub fn is_code(&self) -> bool {
        let code = elf::SHF_ALLOC | elf::SHF_EXECINSTR;
        self.flags & code == code
    }

    /// Whether its bytes are compressed.
    pub fn is_compressed(&self) -> bool {
        self.flags & elf::SHF_COMPRESSED != 0
    }

    /// Its bytes as they stand in the file; `None` when there are none or more than `limit`.
    pub fn bytes(&self, file: &File, limit: u64) -> Result<Option<Vec<u8>>> {
        if !self.has_bytes() || self.size > limit {
            return Ok(None);
        }
        read_exactly(file, self.offset, self.size as usize).map(Some)
    }
}

/// Segments and sections of an ELF file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// `EM_…`.
    pub machine: u16,
    /// The loadable segments, as the file orders them.
    pub segments: Vec<Segment>,
    /// The exception-frame header by its program header (`PT_GNU_EH_FRAME`), for files without sections.
    pub eh_frame_hdr: Option<Segment>,
    /// The sections; their index is the one that `link` means.
    pub sections: Vec<Section>,
}

impl Headers {
    /// Reads the headers of `file`.
    ///
    /// # Errors
    /// `Malformed` when it is no ELF file or its tables lie outside of it, `Unsupported` for 32-bit or big-endian ones.
    pub fn read(file: &File) -> Result<Self> {
        let size = file.metadata().map_err(|e| Error::io("cannot look at a module file", e))?.len();
        let mut head = [0; 64];
        let n = read_up_to(file, 0, &mut head).map_err(|e| Error::io("cannot read a module file", e))?;
        if n < head.len() || head.get(..4) != Some(&elf::ELFMAG) {
            return Err(malformed("not an ELF file"));
        }
        let head = Fields(&head);
        if (head.u8(4), head.u8(5)) != (elf::ELFCLASS64, elf::ELFDATA2LSB) {
            return Err(Error::new(Kind::Unsupported, "an ELF file that is not 64-bit little-endian"));
        }
        let mut headers = Self { machine: head.u16(18), ..Self::default() };
        headers.read_segments(file, size, head.u64(32), head.u16(54), head.u16(56))?;
        // Section headers are a help and not a must: without them the segments still give addresses.
        if let Ok(sections) = read_sections(file, size, &head) {
            headers.sections = sections;
        }
        Ok(headers)
    }

    fn read_segments(&mut self, file: &File, size: u64, at: u64, entry: u16, count: u16) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        if entry != 56 {
            return Err(malformed("program headers of a wrong size"));
        }
        let bytes = table(file, size, at, usize::from(count), 56)?;
        for h in bytes.chunks_exact(56).map(Fields) {
            let segment = Segment {
                address: h.u64(16),
                offset: h.u64(8),
                size: h.u64(32),
                memory_size: h.u64(40),
                executable: h.u32(4) & elf::PF_X != 0,
            };
            match h.u32(0) {
                elf::PT_LOAD => self.segments.push(segment),
                elf::PT_GNU_EH_FRAME => self.eh_frame_hdr = Some(segment),
                _ => {}
            }
        }
        Ok(())
    }

    /// The section `name`.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.name == name)
    }

    /// The first section of that `SHT_…` kind.
    pub fn section_of_kind(&self, kind: u32) -> Option<&Section> {
        self.sections.iter().find(|s| s.kind == kind)
    }

    /// The segment that a mapping of the bytes from `offset` on shows. Mappings are whole pages, and a page on which two
    /// segments meet is mapped twice, so the kind of the mapping (`executable`) decides before the offset does.
    pub fn segment_at(&self, offset: u64, len: u64, executable: bool) -> Option<&Segment> {
        let same = || self.segments.iter().filter(|s| s.executable == executable && s.size > 0);
        let holds = |s: &&Segment| offset >= s.offset && offset - s.offset < s.size;
        let starts_in = |s: &&Segment| s.offset >= offset && s.offset - offset < len;
        same()
            .find(|s| s.offset & !0xfff == offset)
            .or_else(|| same().find(holds))
            .or_else(|| same().filter(starts_in).min_by_key(|s| s.offset))
            .or_else(|| self.segments.iter().find(holds))
    }

    /// Where the byte at the file's own address lies in the file, and how many follow in its segment.
    pub fn offset_of(&self, address: u64) -> Option<(u64, u64)> {
        let s = self.segments.iter().find(|s| address >= s.address && address - s.address < s.size)?;
        let into = address - s.address;
        Some((s.offset.checked_add(into)?, s.size - into))
    }

    /// The address ranges of code: sections where the file has them, else segments; in address order.
    pub fn code(&self) -> Vec<Range<u64>> {
        let mut code: Vec<_> = self.sections.iter().filter(|s| s.is_code()).map(Section::range).collect();
        if code.is_empty() {
            let end = |s: &Segment| s.address.saturating_add(s.memory_size);
            code = self.segments.iter().filter(|s| s.executable).map(|s| s.address..end(s)).collect();
        }
        code.sort_by_key(|r| (r.start, r.end));
        code
    }
}

fn read_sections(file: &File, size: u64, head: &Fields<'_>) -> Result<Vec<Section>> {
    let (at, entry) = (head.u64(40), head.u16(58));
    let (mut count, mut names) = (usize::from(head.u16(60)), usize::from(head.u16(62)));
    if at == 0 {
        return Ok(Vec::new());
    }
    if entry != 64 {
        return Err(malformed("section headers of a wrong size"));
    }
    // Counts that do not fit stand in the first header.
    let first = table(file, size, at, 1, 64)?;
    let first = Fields(&first);
    if count == 0 {
        count = usize::try_from(first.u64(32)).unwrap_or(usize::MAX);
    }
    if names == usize::from(elf::SHN_XINDEX) {
        names = first.u32(40) as usize;
    }
    let bytes = table(file, size, at, count, 64)?;
    let parse = |h: &[u8]| {
        let h = Fields(h);
        let section = Section {
            name: String::new(),
            kind: h.u32(4),
            flags: h.u64(8),
            address: h.u64(16),
            offset: h.u64(24),
            size: h.u64(32),
            link: h.u32(40),
        };
        (h.u32(0) as usize, section)
    };
    let parsed: Vec<_> = bytes.chunks_exact(64).map(parse).collect();
    let strings = match parsed.get(names) {
        Some((_, s)) => s.bytes(file, 1 << 24)?.unwrap_or_default(),
        None => Vec::new(),
    };
    let name = |offset: usize| {
        let rest = strings.get(offset..).unwrap_or_default();
        let end = rest.iter().take(SECTION_NAME_LIMIT).position(|&b| b == 0);
        String::from_utf8_lossy(rest.get(..end.unwrap_or(0)).unwrap_or_default()).into_owned()
    };
    Ok(parsed.into_iter().map(|(offset, section)| Section { name: name(offset), ..section }).collect())
}

fn table(file: &File, file_size: u64, at: u64, count: usize, entry: usize) -> Result<Vec<u8>> {
    let bytes = count.checked_mul(entry).filter(|_| count <= HEADER_LIMIT);
    match bytes {
        Some(bytes) if at.checked_add(bytes as u64).is_some_and(|end| end <= file_size) => {
            read_exactly(file, at, bytes)
        }
        _ => Err(malformed("a header table that reaches out of the file")),
    }
}

/// `len` bytes at `offset`.
pub fn read_exactly(file: &File, offset: u64, len: usize) -> Result<Vec<u8>> {
    let size = file.metadata().map_err(|e| Error::io("cannot look at a module file", e))?.len();
    // Checked before allocating: a header may claim anything.
    if offset.checked_add(len as u64).is_none_or(|end| end > size) {
        return Err(malformed("a part that reaches out of the file"));
    }
    let mut bytes = vec![0; len];
    match read_up_to(file, offset, &mut bytes) {
        Ok(n) if n == len => Ok(bytes),
        Ok(_) => Err(malformed("the file became shorter")),
        Err(e) => Err(Error::io("cannot read a module file", e)),
    }
}

fn malformed(what: &str) -> Error {
    Error::new(Kind::Malformed, what)
}

/// Little-endian fields of a record; outside of it there are zeros.
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|r| r.first_chunk()).copied().unwrap_or([0; N])
    }
    /// The byte at `at`.
    pub fn u8(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }
    /// The u16 at `at`.
    pub fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.take(at))
    }
    /// The u32 at `at`.
    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.take(at))
    }
    /// The u64 at `at`.
    pub fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.take(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbol::files::in_memory;

    #[test]
    fn our_own_headers_agree_with_the_object_crate() {
        let file = File::open("/proc/self/exe").unwrap();
        let headers = Headers::read(&file).unwrap();
        let elf = crate::os::elf::Elf::new(file);
        let theirs = elf.segments().unwrap();
        assert_eq!(headers.segments.len(), theirs.len());
        assert_eq!(headers.segments[0].address, theirs[0].address);
        for name in [".text", ".eh_frame", ".symtab", ".strtab"] {
            assert_eq!(Some(headers.section(name).unwrap().range()), elf.section(name).unwrap(), "{name}");
        }
        let text = headers.section(".text").unwrap();
        let segment = headers.segment_at(text.offset & !0xfff, 0x2000, true).unwrap();
        assert_eq!(text.address - segment.address, text.offset - segment.offset);
        assert_eq!(headers.offset_of(text.address).unwrap().0, text.offset);
    }

    #[test]
    fn headers_that_lie_are_errors() {
        assert_eq!(Headers::read(&in_memory("a", b"#!/bin/sh").unwrap()).unwrap_err().kind(), Kind::Malformed);
        let mut head = vec![0; 64];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[32] = 64;
        head[54] = 56;
        head[56] = 200; // program headers beyond the end
        assert_eq!(Headers::read(&in_memory("b", &head).unwrap()).unwrap_err().kind(), Kind::Malformed);
        head[4] = 1;
        assert_eq!(Headers::read(&in_memory("c", &head).unwrap()).unwrap_err().kind(), Kind::Unsupported);
    }
}
