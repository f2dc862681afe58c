//! The file that holds an interpreter: opened as the target mapped it, and asked for the few symbols that matter.
//!
//! In: a target's mappings. Out: an [`Image`]: where it is loaded and where its symbols are in the target. Invariant: a
//! path from the target is resolved inside the target's own root (`openat2`, `RESOLVE_IN_ROOT`), and the file opened is
//! the one that is mapped (same inode, or the same first bytes), else it is not used.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use object::read::ReadRef;
use object::read::elf::{ElfFile64, SectionHeader as _, Sym as _, SymbolTable};
use object::{Endianness, Object as _, ObjectSection as _};

use crate::error::{Error, Kind, Result};
use crate::os::elf::{Elf, Segment};
use crate::os::memory::Memory;
use crate::target::{Mapping, Maps};

/// More eval ranges than any build has; a hostile symbol table must not grow ours.
const EVAL_LIMIT: usize = 1024;

/// An ELF file in the target's memory, with the symbols of CPython that it defines. Addresses are the target's.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Its path as the target sees it.
    pub path: String,
    /// What to add to an address in the file to get one in the target.
    pub bias: u64,
    /// `_PyRuntime`, or the section made for it.
    pub runtime: Option<u64>,
    /// `Py_Version`, a word that holds the version (3.11 and later).
    pub version_word: Option<u64>,
    /// `PyCode_Type`.
    pub code_type: Option<u64>,
    /// It defines `PyEval_EvalFrameEx`, which CPython exports since 2.5.
    pub exports_eval: bool,
    /// The code of the eval function and of the parts that the compiler split off it.
    pub eval: Vec<Range<u64>>,
    /// Its sections with initialised and with zeroed data.
    pub data: Vec<Range<u64>>,
}

type Symbols<'a, R> = SymbolTable<'a, object::elf::FileHeader64<Endianness>, R>;

/// Opens the file behind `mapping` of process `pid`.
///
/// # Errors
/// `Denied` or `Gone` when it cannot be opened (any more), `Malformed` when the path now leads to something else.
pub fn open(pid: u32, mapping: &Mapping, memory: &dyn Memory) -> Result<File> {
    // Needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE, but then it is the very file, whatever became of its path.
    let direct = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(mapping.map_file(pid));
    if let Ok(file) = direct {
        return Ok(file);
    }
    // The executable can be opened without capabilities even when it was deleted.
    let exe = File::open(format!("/proc/{pid}/exe")).ok().filter(|f| is_inode(f, mapping.inode));
    if let Some(file) = exe {
        return Ok(file);
    }
    let file = open_in_root(pid, &mapping.path)?;
    if is_inode(&file, mapping.inode) && !mapping.deleted || same_start(&file, mapping, memory) {
        Ok(file)
    } else {
        Err(Error::new(
            Kind::Malformed,
            format!("{} was replaced or deleted since process {pid} mapped it", mapping.path),
        )
        .advise("run as root or add CAP_CHECKPOINT_RESTORE: then the mapped file is read through /proc/PID/map_files"))
    }
}

/// Opens `path` as process `pid` sees it; symbolic links cannot lead out of its root.
fn open_in_root(pid: u32, path: &str) -> Result<File> {
    let root_path = format!("/proc/{pid}/root");
    let root = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY)
        .open(&root_path)
        .map_err(|e| Error::io(format!("cannot open {root_path}"), e))?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let fd =
        openat2(&root, path, how).map_err(|e| Error::io(format!("cannot open {path} of process {pid}"), e.into()))?;
    let file = File::from(fd);
    match file.metadata() {
        Ok(meta) if meta.is_file() => Ok(file),
        Ok(_) => Err(Error::new(Kind::Malformed, format!("{path} of process {pid} is not a regular file"))),
        Err(e) => Err(Error::io(format!("cannot look at {path} of process {pid}"), e)),
    }
}

fn is_inode(file: &File, inode: u64) -> bool {
    file.metadata().is_ok_and(|m| m.is_file() && m.ino() == inode)
}

/// Whether the first page of the file (headers, build id) is what the target has mapped of it: overlay file systems show
/// another inode in the maps than in `stat`.
fn same_start(file: &File, mapping: &Mapping, memory: &dyn Memory) -> bool {
    let mut on_disk = [0; 4096];
    let mut mapped = [0; 4096];
    mapping.offset == 0
        && file.read_exact_at(&mut on_disk, 0).is_ok()
        && memory.read(mapping.start, &mut mapped).is_ok()
        && on_disk == mapped
}

/// One file of the target: the mapping of its start, and whether any of it can run.
#[derive(Debug, Clone, Copy)]
pub struct MappedFile<'a> {
    /// The mapping with the lowest offset.
    pub first: &'a Mapping,
}

/// The files with executable mappings, the main executable first, then those named like Python, then the others.
pub fn mapped_files<'a>(maps: &'a Maps, exe: Option<&str>) -> Vec<MappedFile<'a>> {
    let mut files: Vec<MappedFile<'a>> = Vec::new();
    let mut start: Option<&Mapping> = None;
    for m in maps.0.iter().filter(|m| m.is_file()) {
        let continues = start.is_some_and(|s| (s.inode, s.device) == (m.inode, m.device) && m.offset > s.offset);
        if !continues {
            start = Some(m);
        }
        if let Some(first) = start.filter(|_| m.executable)
            && files.last().is_none_or(|f| f.first.start != first.start)
        {
            files.push(MappedFile { first });
        }
    }
    files.sort_by_key(|f| match &f.first.path {
        p if Some(p.as_str()) == exe => 0,
        p if is_named_python(p) => 1,
        _ => 2,
    });
    files
}

/// Whether the file is named like an interpreter or its library.
pub fn is_named_python(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.starts_with("python") || name.starts_with("libpython")
}

impl Image {
    /// Asks `file`, mapped with its start at `first`, for CPython's symbols. With `thorough` the full symbol table is
    /// read too, else the exported names alone.
    pub fn read(file: File, first: &Mapping, thorough: bool) -> Result<Self> {
        let elf = Elf::new(file);
        let bias = bias(&elf.segments()?, first)
            .ok_or_else(|| Error::new(Kind::Malformed, format!("{} does not say where it is mapped", first.path)))?;
        let mut image = elf.with(|f| {
            let mut image = Self { path: first.path.clone(), bias, ..Self::default() };
            // 32-bit interpreters are not supported: without symbols they are none.
            if let object::File::Elf64(f) = f {
                image.take_all(f, f.elf_dynamic_symbol_table());
                if thorough {
                    image.take_all(f, f.elf_symbol_table());
                }
            }
            for section in f.sections() {
                let range = || section.address()..section.address().saturating_add(section.size());
                match section.name_bytes().unwrap_or_default() {
                    b".PyRuntime" => image.runtime = image.runtime.or(Some(section.address())),
                    b".data" | b".bss" => image.data.push(range()),
                    _ => {}
                }
            }
            image
        })?;
        image.relocate();
        Ok(image)
    }

    /// Whether anything of CPython's core is defined here.
    pub fn is_interpreter(&self) -> bool {
        self.runtime.is_some() || self.exports_eval
    }

    /// Takes the symbols of a table. All strings are read at once: an interpreter has ten thousand names.
    fn take_all<'a, R: ReadRef<'a>>(&mut self, file: &ElfFile64<'a, Endianness, R>, table: &Symbols<'a, R>) {
        let endian = file.endian();
        let Ok(strings) = file.elf_section_table().section(table.string_section()) else { return };
        let Ok(strings) = strings.data(endian, file.data()) else { return };
        for symbol in table.iter().filter(|s| !s.is_undefined(endian)) {
            let Some(name) = strings.get(symbol.st_name(endian) as usize..) else { continue };
            let end = name.iter().position(|b| *b == 0).unwrap_or_default();
            self.take(name.get(..end).unwrap_or_default(), symbol.st_value(endian), symbol.st_size(endian));
        }
    }

    fn take(&mut self, name: &[u8], address: u64, size: u64) {
        match name {
            b"_PyRuntime" => self.runtime = Some(address),
            b"Py_Version" => self.version_word = Some(address),
            b"PyCode_Type" => self.code_type = Some(address),
            b"PyEval_EvalFrameEx" => self.exports_eval = true,
            _ if is_eval(name) && size > 0 && self.eval.len() < EVAL_LIMIT => {
                self.eval.push(address..address.saturating_add(size));
            }
            _ => {}
        }
    }

    /// Turns addresses of the file into addresses of the target.
    fn relocate(&mut self) {
        let bias = self.bias;
        for address in [&mut self.runtime, &mut self.version_word, &mut self.code_type].into_iter().flatten() {
            *address = address.wrapping_add(bias);
        }
        for range in self.eval.iter_mut().chain(&mut self.data) {
            *range = range.start.wrapping_add(bias)..range.end.wrapping_add(bias);
        }
        self.eval.sort_by_key(|r| (r.start, r.end));
        self.eval.dedup();
    }
}

/// The eval function, parts of it that the compiler moved away (`.cold`, `.part.0`, `.localalias`), and the functions of
/// a tail-calling build (3.14 and later).
fn is_eval(name: &[u8]) -> bool {
    name.strip_prefix(b"_PyEval_EvalFrameDefault").is_some_and(|rest| matches!(rest.first(), None | Some(b'.')))
        || name.starts_with(b"_TAIL_CALL_")
}

/// What to add to an address of the file, from the mapping of its lowest offset.
fn bias(segments: &[Segment], first: &Mapping) -> Option<u64> {
    const PAGE: u64 = 4096;
    let segment = segments.iter().find(|s| {
        let start = s.offset & !(PAGE - 1);
        s.size > 0 && (start..s.offset.saturating_add(s.size)).contains(&first.offset)
    })?;
    // In the file's numbering the mapping starts at address - offset + mapping.offset.
    Some(first.start.wrapping_sub(segment.address.wrapping_sub(segment.offset).wrapping_add(first.offset)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> Maps {
        Maps::parse(text)
    }

    #[test]
    fn files_come_in_the_order_of_likelihood() {
        let maps = map("1000-2000 r--p 00000000 fe:00 7 /lib/libz.so\n2000-3000 r-xp 00001000 fe:00 7 /lib/libz.so\n\
                        4000-5000 r--p 00000000 fe:00 8 /lib/libpython3.8.so.1.0\n5000-6000 r-xp 00001000 fe:00 8 /lib/libpython3.8.so.1.0\n\
                        7000-8000 r--p 00000000 fe:00 9 /data/table\n8000-9000 r-xp 00000000 fe:00 3 /srv/app\n");
        let files = mapped_files(&maps, Some("/srv/app"));
        let order: Vec<_> = files.iter().map(|f| (f.first.path.as_str(), f.first.start)).collect();
        assert_eq!(order, [("/srv/app", 0x8000), ("/lib/libpython3.8.so.1.0", 0x4000), ("/lib/libz.so", 0x1000)]);
    }

    #[test]
    fn the_bias_of_fixed_and_of_moved_files() {
        let segments = [
            Segment { address: 0x400000, offset: 0, size: 0x1234 },
            Segment { address: 0x403e10, offset: 0x2e10, size: 0x300 },
        ];
        let at = |start: u64, offset: u64| map(&format!("{start:x}-ffffffff r-xp {offset:x} fe:00 7 /x")).0[0].clone();
        assert_eq!(bias(&segments, &at(0x400000, 0)), Some(0));
        assert_eq!(bias(&segments, &at(0x403000, 0x2000)), Some(0));
        assert_eq!(bias(&segments, &at(0x7f0000400000, 0)), Some(0x7f0000000000));
        assert_eq!(bias(&segments, &at(0x400000, 0x9000)), None);
    }

    #[test]
    fn a_file_is_opened_inside_the_target_s_root_and_only_a_regular_one() {
        let pid = std::process::id();
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let kind = |path: &std::path::Path| open_in_root(pid, path.to_str().unwrap()).map(drop).map_err(|e| e.kind());
        assert_eq!(kind(&fifo), Err(Kind::Malformed));
        assert_eq!(kind(dir.path()), Err(Kind::Malformed));
        assert_eq!(kind(&dir.path().join("none")), Err(Kind::Gone));
        // A link through /proc would lead out of the target's root.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(concat!("/proc/1/root", "/etc/passwd"), &link).unwrap();
        assert!(kind(&link).is_err());
        let own = std::env::current_exe().unwrap();
        assert_eq!(kind(&own), Ok(()));
    }

    #[test]
    fn a_file_that_was_replaced_is_not_taken_for_the_mapped_one() {
        let maps = Maps::of(std::process::id()).unwrap();
        let exe = std::env::current_exe().unwrap();
        let first = maps.0.iter().find(|m| m.offset == 0 && exe.to_str() == Some(&m.path)).unwrap();
        let memory = crate::os::memory::LiveMemory::new(std::process::id());
        assert!(same_start(&File::open(&exe).unwrap(), first, &memory));
        let mut other = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut other, &[0; 8192]).unwrap();
        assert!(!same_start(&other, first, &memory));
    }

    #[test]
    fn parts_of_the_eval_function() {
        assert!(is_eval(b"_PyEval_EvalFrameDefault") && is_eval(b"_PyEval_EvalFrameDefault.cold"));
        assert!(is_eval(b"_TAIL_CALL_LOAD_FAST") && !is_eval(b"_PyEval_EvalFrameDefaultish"));
    }
}
