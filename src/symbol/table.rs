//! The functions of a module in address order, 12 bytes each; names stay in the file until they are asked for.
//!
//! In: symbol tables of one or more files of the same module (the module itself, its debug file, its `.gnu_debugdata`).
//! Out: [`Table::find`]. Invariants: an address outside of every symbol's own range has no name (nearest-symbol guesses
//! put cold code of stripped binaries under whatever precedes it); a symbol without a size reaches to the next symbol or
//! the end of its section, and gives way to any sized one; sizes of the tables are bounded before memory is taken.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use super::elf64::{Fields, Headers, Section, elf};
use super::files::read_up_to;
use crate::error::{Error, Result};

/// Bytes of a symbol in the file.
const SYMBOL: usize = 24;
/// Symbols looked at in one table; the largest browsers have three million.
const SCAN_LIMIT: u64 = 16_000_000;
/// Functions kept of a module.
const KEEP_LIMIT: usize = 4_000_000;
/// Names longer than this are cut.
const NAME_LIMIT: usize = 4096;
/// Aliases of one address that are compared.
const ALIAS_LIMIT: usize = 16;
/// How far back a symbol that encloses others is searched.
const NEST_LIMIT: usize = 64;

/// `Entry::name`: number of the string table in the top bits, whether the symbol is local, then the offset.
const SOURCE_SHIFT: u32 = 30;
const LOCAL: u32 = 1 << 29;

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Offset from the table's base.
    start: u32,
    size: u32,
    name: u32,
}

impl Entry {
    fn holds(self, at: u32) -> bool {
        at >= self.start && at - self.start < self.size
    }
}

/// Where names of one symbol table stand.
#[derive(Debug)]
struct Names {
    file: Arc<File>,
    strings: Range<u64>,
    suffix: &'static str,
}

/// The functions of a module.
#[derive(Debug, Default)]
pub struct Table {
    base: u64,
    entries: Vec<Entry>,
    names: Vec<Names>,
}

/// A symbol that holds the address that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Its number in the table, the same for every address in it.
    pub index: usize,
    /// Its first address in the file's own numbering.
    pub start: u64,
    /// Its size in bytes, as the file says or as deduced.
    pub size: u64,
}

/// Gathers symbols of several sources into a [`Table`].
#[derive(Debug)]
pub struct Builder {
    table: Table,
    code: Vec<Range<u64>>,
    machine: u16,
}

impl Builder {
    /// A table for the module with these headers (the module's own: a debug file's sections have no bytes but the same
    /// addresses).
    pub fn new(headers: &Headers) -> Self {
        let code = headers.code();
        let base = code.first().map_or(0, |r| r.start);
        Self { table: Table { base, ..Table::default() }, code, machine: headers.machine }
    }

    /// Adds the functions of `section` (`.symtab` or `.dynsym`) of `file`; their number.
    pub fn add(&mut self, file: &Arc<File>, headers: &Headers, section: &Section) -> Result<usize> {
        let Some(strings) = headers.sections.get(section.link as usize).filter(|s| s.has_bytes()) else { return Ok(0) };
        if !section.has_bytes() || section.is_compressed() || strings.is_compressed() {
            return Ok(0);
        }
        let Some(source) = self.source(file, strings.offset..strings.offset.saturating_add(strings.size), "") else {
            return Ok(0);
        };
        let before = self.table.entries.len();
        let count = (section.size / SYMBOL as u64).min(SCAN_LIMIT);
        let mut chunk = vec![0; SYMBOL * 16384];
        let mut done = 0;
        while done < count && self.table.entries.len() < KEEP_LIMIT {
            let n = (count - done).min(16384) as usize;
            let wanted = chunk.get_mut(..n * SYMBOL).unwrap_or_default();
            let offset = section.offset.saturating_add(done * SYMBOL as u64);
            let got = read_up_to(file, offset, wanted).map_err(|e| Error::io("cannot read a symbol table", e))?;
            for symbol in wanted.chunks_exact(SYMBOL).take(got / SYMBOL) {
                self.take(symbol, source, strings.size);
            }
            if got < n * SYMBOL {
                break;
            }
            done += n as u64;
        }
        Ok(self.table.entries.len() - before)
    }

    /// A place for names; at most four.
    fn source(&mut self, file: &Arc<File>, strings: Range<u64>, suffix: &'static str) -> Option<u32> {
        let number = self.table.names.len() as u32;
        (number < 4).then(|| self.table.names.push(Names { file: file.clone(), strings, suffix }))?;
        Some(number << SOURCE_SHIFT)
    }

    fn take(&mut self, symbol: &[u8], source: u32, strings: u64) {
        let f = Fields(symbol);
        let (name, info, section, address, size) = (f.u32(0), f.u8(4), f.u16(6), f.u64(8), f.u64(16));
        let (kind, local) = (info & 0xf, info >> 4 == elf::STB_LOCAL);
        let unsized_label = kind == elf::STT_NOTYPE && size == 0;
        let wanted = matches!(kind, elf::STT_FUNC | elf::STT_GNU_IFUNC | elf::STT_NOTYPE);
        // Outside of x86 nameless local labels mark where code and data change places; they are no functions.
        let mapping_mark = unsized_label && local && self.machine != elf::EM_X86_64;
        if !wanted || mapping_mark || section == elf::SHN_UNDEF || section == elf::SHN_ABS {
            return;
        }
        if name == 0 || u64::from(name) >= strings || name >= LOCAL || self.section_end(address).is_none() {
            return;
        }
        let name = source | if local { LOCAL } else { 0 } | name;
        self.push(address, size, name);
    }

    fn push(&mut self, address: u64, size: u64, name: u32) {
        let start = address.checked_sub(self.table.base).and_then(|o| u32::try_from(o).ok());
        if let Some(start) = start {
            let size = u32::try_from(size).unwrap_or(u32::MAX);
            self.table.entries.push(Entry { start, size, name });
        }
    }

    /// Adds stubs: address, size, and offset of the name in `strings`; they are named `name@plt`.
    pub fn add_stubs(&mut self, file: &Arc<File>, strings: &Section, stubs: impl Iterator<Item = (u64, u64, u32)>) {
        let range = strings.offset..strings.offset.saturating_add(strings.size);
        let Some(source) = self.source(file, range, "@plt") else { return };
        for (address, size, name) in stubs.take(KEEP_LIMIT) {
            if name < LOCAL && u64::from(name) < strings.size && self.section_end(address).is_some() {
                self.push(address, size, source | name);
            }
        }
    }

    /// The end of the code section that holds `address`.
    fn section_end(&self, address: u64) -> Option<u64> {
        let i = self.code.partition_point(|r| r.start <= address);
        // Sections do not overlap in honest files; in others the one that starts last decides.
        self.code.get(i.checked_sub(1)?).filter(|r| r.contains(&address)).map(|r| r.end)
    }

    /// The finished table: sorted, symbols without size given one or left out.
    pub fn finish(mut self) -> Table {
        let mut entries = std::mem::take(&mut self.table.entries);
        // Of equal starts the sized come first, so that they can cover the others.
        entries.sort_unstable_by_key(|e| (e.start, std::cmp::Reverse(e.size), e.name));
        let mut covered = 0_u32;
        // Start of the symbols after those with a given start; kept, since a lying table may have millions at one place.
        let mut after = (u32::MAX, None);
        let mut kept = 0;
        for i in 0..entries.len() {
            let Some(&(mut entry)) = entries.get(i) else { break };
            if entry.size > 0 {
                covered = covered.max(entry.start.saturating_add(entry.size));
            } else if entry.start < covered {
                continue;
            } else {
                if after.0 != entry.start {
                    let rest = entries.get(i..).unwrap_or_default();
                    after = (entry.start, rest.get(rest.partition_point(|e| e.start <= entry.start)).map(|e| e.start));
                }
                let address = self.table.base.saturating_add(entry.start.into());
                let end = self.section_end(address).unwrap_or(address).saturating_sub(self.table.base);
                let end = after.1.map_or(end, |next| end.min(next.into()));
                entry.size = u32::try_from(end).unwrap_or(u32::MAX).saturating_sub(entry.start);
            }
            // In place: what is written lies before what is still to be read.
            if let Some(place) = entries.get_mut(kept) {
                *place = entry;
                kept += 1;
            }
        }
        entries.truncate(kept);
        entries.dedup_by_key(|e| (e.start, e.size, e.name));
        entries.shrink_to_fit();
        self.table.entries = entries;
        self.table
    }
}

impl Table {
    /// How many functions there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Memory that the table holds, bytes.
    pub fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    /// The innermost symbol that holds the file's own address `svma`.
    pub fn find(&self, svma: u64) -> Option<Found> {
        let at = u32::try_from(svma.checked_sub(self.base)?).ok()?;
        let after = self.entries.partition_point(|e| e.start <= at);
        let before = self.entries.get(..after)?;
        let hit = before.iter().rev().take(NEST_LIMIT).position(|e| e.holds(at))?;
        let start = before.get(after - 1 - hit)?.start;
        // The first of those with this start is the largest, and its number stands for them all.
        let index = self.entries.partition_point(|e| e.start < start);
        let entry = self.entries.get(index)?;
        Some(Found { index, start: self.base + u64::from(start), size: entry.size.into() })
    }

    /// The linker's name of the symbol, the best of its aliases: exported before local, few underscores, short.
    pub fn name(&self, found: Found) -> Option<Vec<u8>> {
        let start = self.entries.get(found.index)?.start;
        let aliases = self.entries.get(found.index..)?.iter().take_while(|e| e.start == start).take(ALIAS_LIMIT);
        let named = aliases.filter_map(|e| Some((e.name & LOCAL != 0, self.string(e.name)?)));
        let usable = named.filter(|(_, n)| !n.is_empty() && !n.starts_with(b".annobin") && !n.starts_with(b"$"));
        let rank = |(local, name): &(bool, Vec<u8>)| {
            let underscores = name.iter().take_while(|&&b| b == b'_').count();
            (*local, if name.starts_with(b"_Z") || name.starts_with(b"_R") { 0 } else { underscores }, name.len())
        };
        usable.min_by_key(rank).map(|(_, name)| name)
    }

    fn string(&self, name: u32) -> Option<Vec<u8>> {
        let names = self.names.get((name >> SOURCE_SHIFT) as usize)?;
        let at = names.strings.start.checked_add(u64::from(name & (LOCAL - 1)))?;
        let mut bytes = Vec::new();
        // Most names end within the first read.
        for len in [128, NAME_LIMIT] {
            let len = len.min(usize::try_from(names.strings.end.checked_sub(at)?).unwrap_or(usize::MAX));
            bytes.resize(len, 0);
            let got = read_up_to(&names.file, at, &mut bytes).ok()?;
            bytes.truncate(got);
            if let Some(end) = bytes.iter().position(|&b| b == 0) {
                bytes.truncate(end);
                break;
            }
        }
        bytes.extend_from_slice(names.suffix.as_bytes());
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbol::elf64::Segment;
    use crate::symbol::files::in_memory;

    fn symbol(name: u32, info: u8, address: u64, size: u64) -> Vec<u8> {
        let mut s = Vec::new();
        s.extend(name.to_le_bytes());
        s.extend([info, 0]);
        s.extend(1_u16.to_le_bytes());
        s.extend(address.to_le_bytes());
        s.extend(size.to_le_bytes());
        s
    }

    fn table(symbols: &[(&str, u8, u64, u64)]) -> Table {
        let (mut bytes, mut strings) = (Vec::new(), vec![0]);
        for &(name, info, address, size) in symbols {
            bytes.extend(symbol(strings.len() as u32, info, address, size));
            strings.extend(name.as_bytes());
            strings.push(0);
        }
        let (n, m) = (bytes.len() as u64, strings.len() as u64);
        bytes.extend(strings);
        let section =
            |kind, offset, size| Section { name: String::new(), kind, flags: 0, address: 0, offset, size, link: 0 };
        let code = Segment { address: 0x1000, offset: 0, size: 0x1000, memory_size: 0x1000, executable: true };
        let headers = Headers {
            machine: elf::EM_X86_64,
            segments: vec![code],
            sections: vec![section(3, n, m)],
            ..Headers::default()
        };
        let file = Arc::new(in_memory("t", &bytes).unwrap());
        let mut builder = Builder::new(&headers);
        builder.add(&file, &headers, &section(elf::SHT_SYMTAB, 0, n)).unwrap();
        builder.finish()
    }

    fn name(table: &Table, at: u64) -> Option<String> {
        Some(String::from_utf8(table.name(table.find(at)?)?).unwrap())
    }

    const GLOBAL_FUNC: u8 = 1 << 4 | 2;
    const LOCAL_FUNC: u8 = 2;
    const LABEL: u8 = 0;

    #[test]
    fn sizes_are_honoured_and_labels_reach_to_the_next_symbol() {
        let t = table(&[
            ("sized", GLOBAL_FUNC, 0x1000, 0x10),
            ("inside", LABEL, 0x1008, 0),
            ("asm", LABEL, 0x1020, 0),
            ("next", GLOBAL_FUNC, 0x1040, 4),
            ("tail", GLOBAL_FUNC, 0x1f00, 0),
            ("elsewhere", GLOBAL_FUNC, 0x3000, 16),
        ]);
        for (at, want) in [
            (0xfff, None),
            (0x1000, Some("sized")),
            (0x100f, Some("sized")),
            (0x1010, None),
            (0x1020, Some("asm")),
            (0x103f, Some("asm")),
            (0x1043, Some("next")),
            (0x1044, None),
            (0x1fff, Some("tail")),
            (0x2000, None),
            (0x3000, None),
        ] {
            assert_eq!(name(&t, at).as_deref(), want, "{at:#x}");
        }
    }

    #[test]
    fn of_aliases_the_readable_one_and_of_nested_the_inner_one() {
        let t = table(&[
            ("__GI_read", LOCAL_FUNC, 0x1000, 8),
            ("__read", GLOBAL_FUNC, 0x1000, 8),
            ("read", GLOBAL_FUNC, 0x1000, 8),
            ("outer", GLOBAL_FUNC, 0x1100, 0x100),
            ("inner", GLOBAL_FUNC, 0x1140, 0x10),
        ]);
        assert_eq!(name(&t, 0x1004).as_deref(), Some("read"));
        assert_eq!(name(&t, 0x1148).as_deref(), Some("inner"));
        assert_eq!(name(&t, 0x1158).as_deref(), Some("outer"));
    }

    #[test]
    fn a_table_that_says_one_place_a_hundred_thousand_times_costs_no_more_than_another() {
        let label = ("label", LABEL, 0x1000, 0);
        let begun = std::time::Instant::now();
        let t = table(&vec![label; 100_000]);
        assert_eq!(name(&t, 0x1fff).as_deref(), Some("label"));
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}
