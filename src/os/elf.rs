//! ELF files, read piece by piece through an open file: no mmap, so that a file truncated under us is a read error and
//! not a SIGBUS, and no path, so that a binary replaced on disk keeps its names.
//!
//! Invariant: whatever the headers claim, one look takes no more memory than [`LOOK_LIMIT`]. A file may be as large as it
//! likes without having a byte on disk (a sparse one), so its size bounds nothing.

use std::cell::Cell;
use std::fs::File;
use std::ops::Range;

use object::read::{ReadCache, ReadRef};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol};

use crate::error::{Error, Kind, Result};

/// Bytes that one look may read: the symbols and strings of the largest interpreters are a few MB, of browsers 200 MB.
pub const LOOK_LIMIT: u64 = 256 << 20;
/// What an entry of the cache costs beside its bytes: a short name is no small thing a hundred million times.
const ENTRY_COST: u64 = 64;

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

/// A file of which no more than [`LOOK_LIMIT`] is read; more is an error, as if the file ended there.
#[derive(Debug)]
pub struct Bounded<'f> {
    cache: ReadCache<&'f File>,
    left: Cell<u64>,
}

impl Bounded<'_> {
    fn spend(&self, bytes: u64) -> std::result::Result<(), ()> {
        let left = self.left.get().checked_sub(bytes.saturating_add(ENTRY_COST));
        self.left.set(left.unwrap_or(0));
        left.map(drop).ok_or(())
    }

    fn is_spent(&self) -> bool {
        self.left.get() == 0
    }
}

impl<'a> ReadRef<'a> for &'a Bounded<'_> {
    fn len(self) -> std::result::Result<u64, ()> {
        (&self.cache).len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> std::result::Result<&'a [u8], ()> {
        self.spend(size)?;
        (&self.cache).read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> std::result::Result<&'a [u8], ()> {
        let found = (&self.cache).read_bytes_at_until(range, delimiter)?;
        self.spend(found.len() as u64)?;
        Ok(found)
    }
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
    pub fn with<T>(&self, look: impl FnOnce(&object::File<'_, &Bounded<'_>>) -> T) -> Result<T> {
        let bounded = Bounded { cache: ReadCache::new(&self.file), left: Cell::new(LOOK_LIMIT) };
        let parsed = object::File::parse(&bounded).map_err(|e| {
            let what = if bounded.is_spent() {
                "an ELF file with absurdly large tables"
            } else {
                "not an ELF file, or a damaged one"
            };
            Error::new(Kind::Malformed, what).caused_by(e)
        })?;
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
            let data = f.section_by_name(name)?.compressed_data().ok()?;
            // What it unpacks to is one more claim.
            (data.uncompressed_size <= LOOK_LIMIT).then_some(())?;
            data.decompress().ok().map(std::borrow::Cow::into_owned)
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

    /// A symbol table of a terabyte, in a file that is as large as that and has no byte of it on disk.
    #[test]
    fn a_sparse_file_with_absurd_tables_is_refused_and_takes_no_memory() {
        use std::os::unix::fs::FileExt;
        const HUGE: u64 = 1 << 40;
        let file = tempfile::tempfile().unwrap();
        file.set_len(HUGE + (1 << 20)).unwrap();
        let (mut head, mut sections) = (vec![0_u8; 64], vec![0_u8; 3 * 64]);
        head[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        for (at, value) in [(16, 3_u16), (18, 62), (52, 64), (58, 64), (60, 3), (62, 2)] {
            head[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        head[40..48].copy_from_slice(&64_u64.to_le_bytes());
        // Section 1 the symbols (type 2, strings in section 2), section 2 the strings (type 3), both huge.
        for (section, kind, link, entry) in [(1, 2_u32, 2_u32, 24_u64), (2, 3, 0, 0)] {
            let header = &mut sections[section * 64..][..64];
            header[4..8].copy_from_slice(&kind.to_le_bytes());
            header[24..32].copy_from_slice(&4096_u64.to_le_bytes());
            header[32..40].copy_from_slice(&(HUGE / 24 * 24).to_le_bytes());
            header[40..44].copy_from_slice(&link.to_le_bytes());
            header[56..64].copy_from_slice(&entry.to_le_bytes());
        }
        file.write_all_at(&[head, sections].concat(), 0).unwrap();
        let begun = std::time::Instant::now();
        let e = Elf::new(file).symbol("_PyRuntime").unwrap_err();
        assert_eq!(e.kind(), Kind::Malformed);
        assert!(e.to_string().contains("absurdly large"), "{e:?}");
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}
