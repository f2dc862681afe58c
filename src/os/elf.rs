//! ELF files, read piece by piece through an open file: no mmap, so that a file truncated under us is a read error and
//! not a SIGBUS, and no path, so that a binary replaced on disk keeps its names.

use std::fs::File;
use std::ops::Range;

use object::read::ReadCache;
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol};

use crate::error::{Error, Kind, Result};

/// Sections larger than this are not read (a hostile header must not make us allocate).
const SECTION_LIMIT: u64 = 1 << 30;

/// A loadable part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its address in the file's own numbering.
    pub address: u64,
    /// Where it lies in the file.
    pub offset: u64,
    /// Bytes of it in the file.
    pub size: u64,
}

/// A symbol: address in the file's own numbering, and size (0 where unknown).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol {
    /// Its address in the file's own numbering.
    pub address: u64,
    /// Its size in bytes.
    pub size: u64,
}

/// An ELF file that can be asked for its parts. Each call parses the headers anew: cheap, and nothing large stays in
/// memory; callers keep what they need.
#[derive(Debug)]
pub struct Elf {
    file: File,
}

impl Elf {
    /// Takes an open file; it is looked at only when asked.
    pub fn new(file: File) -> Self {
        Self { file }
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs `look` over the parsed file.
    ///
    /// # Errors
    /// `Malformed` when it is no ELF file, `Io` when it cannot be read.
    pub fn with<T>(&self, look: impl FnOnce(&object::File<'_, &ReadCache<&File>>) -> T) -> Result<T> {
        let cache = ReadCache::new(&self.file);
        let parsed = object::File::parse(&cache)
            .map_err(|e| Error::new(Kind::Malformed, "not an ELF file, or a damaged one").caused_by(e))?;
        Ok(look(&parsed))
    }

    /// The loadable segments.
    pub fn segments(&self) -> Result<Vec<Segment>> {
        self.with(|f| {
            f.segments()
                .map(|s| {
                    let (offset, size) = s.file_range();
                    Segment { address: s.address(), offset, size }
                })
                .collect()
        })
    }

    /// The symbol `name` of `.symtab` or `.dynsym`.
    pub fn symbol(&self, name: &str) -> Result<Option<Symbol>> {
        self.with(|f| {
            f.symbols()
                .chain(f.dynamic_symbols())
                .find(|s| s.is_definition() && s.name_bytes() == Ok(name.as_bytes()))
                .map(|s| Symbol { address: s.address(), size: s.size() })
        })
    }

    /// Address range of the section `name` in the file's own numbering.
    pub fn section(&self, name: &str) -> Result<Option<Range<u64>>> {
        self.with(|f| f.section_by_name(name).map(|s| s.address()..s.address().saturating_add(s.size())))
    }

    /// The section's bytes, decompressed. `None` when there is no such section or it is absurdly large.
    pub fn section_data(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.with(|f| {
            let section = f.section_by_name(name)?;
            (section.size() <= SECTION_LIMIT).then_some(())?;
            section.uncompressed_data().ok().map(std::borrow::Cow::into_owned)
        })
    }

    /// The GNU build id.
    pub fn build_id(&self) -> Result<Option<Vec<u8>>> {
        self.with(|f| f.build_id().ok().flatten().map(<[u8]>::to_vec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_binary_has_segments_and_sections() {
        let elf = Elf::new(File::open("/proc/self/exe").unwrap());
        assert!(!elf.segments().unwrap().is_empty());
        assert!(elf.section(".eh_frame").unwrap().is_some());
        assert!(elf.section_data(".text").unwrap().unwrap().len() > 1000);
        assert_eq!(elf.section_data(".nonsense").unwrap(), None);
    }
}
