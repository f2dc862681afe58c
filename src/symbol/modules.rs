//! The module files of the processes under observation, held open from the moment they are first seen, so that a binary
//! that is replaced, deleted or whose process exits keeps its names.
//!
//! In: mappings of `/proc/PID/maps`. Out: a [`ModuleId`] per file, the way from run-time addresses to the file's own
//! ("svma"), and the sections that an unwinder wants. Invariants: one id a file content, however many processes and
//! mappings show it; files are opened inside the target's own mount namespace; only `pread`, so that a file truncated
//! under us is an error and not a SIGBUS. Limits: a file that is rewritten in place while it runs (same inode) is
//! recognised by its size and time and loses its names, since its bytes are not those that run; one descriptor a module.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustc_hash::FxHashMap;

use super::elf64::{Headers, elf, read_exactly};
use super::files::{FileIdentity, Root, in_memory, open_regular};
use super::unwind::UnwindSections;
use crate::error::{Error, Kind, Result};
use crate::os::memory::Memory;
use crate::target::Mapping;

/// A vDSO is two pages; more than this is not copied.
const VDSO_LIMIT: u64 = 1 << 20;
/// Notes larger than this are not searched for a build id.
const NOTE_LIMIT: u64 = 1 << 16;
/// Nor are more notes than this.
const NOTES: usize = 16;
/// Unwind tables of all modules together, bytes; what a process needs is some 10 MB.
const UNWIND_LIMIT: usize = 256 << 20;

/// Number of a module file in [`Modules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleId(pub u32);

/// A module: what the file is, and the file itself where it could be opened.
#[derive(Debug)]
pub struct Module {
    /// Its number.
    pub id: ModuleId,
    /// Its path as the target sees it, or `[vdso]`.
    pub path: String,
    /// The GNU build id, where the file has one.
    pub build_id: Option<Vec<u8>>,
    /// Segments and sections; empty when the file could not be opened.
    pub headers: Headers,
    /// Why the file could not be opened, in one line.
    pub trouble: Option<String>,
    pub(super) root: Option<Arc<Root>>,
    file: Option<(Arc<File>, FileIdentity)>,
    unwind: OnceLock<Option<Arc<UnwindSections>>>,
}

impl Module {
    /// The open file, if there is one and it still holds what it held when it was opened.
    ///
    /// # Errors
    /// `Gone` when it was never opened or has been rewritten in place.
    pub fn file(&self) -> Result<&Arc<File>> {
        let Some((file, then)) = &self.file else {
            return Err(Error::new(Kind::Gone, format!("{} could not be opened", self.path)));
        };
        match FileIdentity::of(file) {
            Ok(now) if now == *then => Ok(file),
            // Only touched: the same headers and the same build are taken for the same content.
            Ok(_) if Headers::read(file).is_ok_and(|h| h == self.headers && build_id(file, &h) == self.build_id) => {
                Ok(file)
            }
            _ => Err(Error::new(Kind::Gone, format!("{} was rewritten in place while it was in use", self.path))),
        }
    }

    /// What is added to the file's own addresses where `mapping` shows it (wraps around for files linked high).
    pub fn bias(&self, mapping: &Mapping) -> Option<u64> {
        if self.headers.segments.is_empty() {
            // An unknown file: its offsets serve as addresses, so that `[module+offset]` can be looked up by hand.
            return Some(mapping.start.wrapping_sub(mapping.offset));
        }
        let len = mapping.end.checked_sub(mapping.start)?;
        let segment = self.headers.segment_at(mapping.offset, len, mapping.executable)?;
        let start = segment.address.wrapping_add(mapping.offset.wrapping_sub(segment.offset));
        Some(mapping.start.wrapping_sub(start))
    }

    /// The file's own address of the run-time `address` in `mapping`; `None` when it is not in there.
    pub fn svma(&self, mapping: &Mapping, address: u64) -> Option<u64> {
        (mapping.start..mapping.end).contains(&address).then_some(())?;
        Some(address.wrapping_sub(self.bias(mapping)?))
    }
}

/// A mapping that was seen before: its file is held open, so device and inode cannot mean another one (a path is needed
/// beside them, since some file systems number the inodes of each subvolume from one).
#[derive(Debug, PartialEq, Eq, Hash)]
struct Seen {
    device: (u32, u32),
    inode: u64,
    path: String,
    /// Set where the file could not be opened: then the next process gets a chance of its own.
    pid: Option<u32>,
}

#[derive(Debug, Default)]
struct Inner {
    modules: Vec<Arc<Module>>,
    by_mapping: FxHashMap<Seen, Option<ModuleId>>,
    by_file: FxHashMap<FileIdentity, ModuleId>,
    by_vdso: FxHashMap<u64, ModuleId>,
    roots: FxHashMap<(u64, u64, PathBuf), Arc<Root>>,
    /// Modules with an open file.
    held: usize,
}

/// The registry of module files. Shared by the threads that unwind and those that name.
#[derive(Debug, Default)]
pub struct Modules {
    inner: Mutex<Inner>,
    unwind_bytes: AtomicUsize,
}

impl Modules {
    /// No modules yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each map is whole between two statements; a panic elsewhere does not make it wrong.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The module that `mapping` of `pid` shows, opened when it is new. `None` when no module file is behind it:
    /// anonymous memory, a device, a shared-memory file with code made at run time.
    ///
    /// A file that cannot be opened is a module too, with its path and [`Module::trouble`], but without names.
    pub fn open(&self, pid: u32, mapping: &Mapping, memory: &dyn Memory) -> Option<ModuleId> {
        if mapping.path == "[vdso]" {
            return self.open_vdso(mapping, memory);
        }
        if !mapping.is_file() {
            return None;
        }
        let key = |pid| Seen { device: mapping.device, inode: mapping.inode, path: mapping.path.clone(), pid };
        let mut inner = self.lock();
        if let Some(&known) = inner.by_mapping.get(&key(None)).or_else(|| inner.by_mapping.get(&key(Some(pid)))) {
            return known;
        }
        let opened = if inner.held < most_held() { open_mapped(pid, mapping) } else { Err(too_many(mapping)) };
        let (found, held) = match opened {
            Ok(file) => (inner.add_file(pid, mapping, file), true),
            Err(e) => (Some(inner.add_closed(mapping, &e)), false),
        };
        // A file that is no module is not held open either, so its inode may come back as another file.
        let held = held && found.is_some();
        inner.by_mapping.insert(key((!held).then_some(pid)), found);
        found
    }

    fn open_vdso(&self, mapping: &Mapping, memory: &dyn Memory) -> Option<ModuleId> {
        let len = mapping.end.checked_sub(mapping.start)?;
        let bytes = memory.bytes_at(mapping.start, len as usize, VDSO_LIMIT as usize).ok()?;
        let hash = {
            use std::hash::Hasher;
            let mut hasher = rustc_hash::FxHasher::default();
            hasher.write(&bytes);
            hasher.finish()
        };
        let mut inner = self.lock();
        if let Some(&id) = inner.by_vdso.get(&hash) {
            return Some(id);
        }
        let file = in_memory("vdso", &bytes).ok()?;
        let headers = Headers::read(&file).ok()?;
        let id = inner.push(mapping.path.clone(), Some(file), headers, None, None);
        inner.by_vdso.insert(hash, id);
        Some(id)
    }

    /// The module with that number.
    pub fn get(&self, id: ModuleId) -> Option<Arc<Module>> {
        self.lock().modules.get(id.0 as usize).cloned()
    }

    /// Its path as the target sees it, or `[vdso]`.
    pub fn path(&self, id: ModuleId) -> Option<String> {
        Some(self.get(id)?.path.clone())
    }

    /// The file's own address of the run-time `address` in `mapping` of module `id`. Callers that ask for each frame
    /// take [`Module::bias`] once and subtract.
    pub fn svma(&self, id: ModuleId, mapping: &Mapping, address: u64) -> Option<u64> {
        self.get(id)?.svma(mapping, address)
    }

    /// The sections that an unwinder wants; read once and shared. `None` when the module has no unwind information.
    pub fn unwind_sections(&self, id: ModuleId) -> Option<Arc<UnwindSections>> {
        let module = self.get(id)?;
        let read = || {
            let sections = UnwindSections::of(&module).ok().flatten()?;
            let held = self.unwind_bytes.fetch_add(sections.heap_bytes(), Ordering::Relaxed);
            // Only files that lie get here; their code is followed by frame pointers.
            (held < UNWIND_LIMIT).then(|| Arc::new(sections))
        };
        module.unwind.get_or_init(read).clone()
    }

    /// How many modules there are.
    pub fn len(&self) -> usize {
        self.lock().modules.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Inner {
    fn push(
        &mut self,
        path: String,
        file: Option<File>,
        headers: Headers,
        root: Option<Arc<Root>>,
        trouble: Option<String>,
    ) -> ModuleId {
        let id = ModuleId(self.modules.len() as u32);
        let build_id = file.as_ref().and_then(|f| build_id(f, &headers));
        let file = file.and_then(|f| FileIdentity::of(&f).ok().map(|i| (Arc::new(f), i)));
        let unwind = OnceLock::new();
        self.held += usize::from(file.is_some());
        self.modules.push(Arc::new(Module { id, path, build_id, headers, trouble, root, file, unwind }));
        id
    }

    fn add_file(&mut self, pid: u32, mapping: &Mapping, file: File) -> Option<ModuleId> {
        let identity = FileIdentity::of(&file).ok()?;
        if let Some(&id) = self.by_file.get(&identity) {
            return Some(id);
        }
        match Headers::read(&file) {
            Ok(headers) => {
                let root = self.root(pid);
                let id = self.push(mapping.path.clone(), Some(file), headers, root, None);
                self.by_file.insert(identity, id);
                Some(id)
            }
            Err(e) if e.kind() == Kind::Malformed => None,
            Err(e) => Some(self.add_closed(mapping, &e)),
        }
    }

    fn add_closed(&mut self, mapping: &Mapping, why: &Error) -> ModuleId {
        self.push(mapping.path.clone(), None, Headers::default(), None, Some(format!("{why:#}")))
    }

    /// The root of `pid`, shared with the processes that have the same.
    fn root(&mut self, pid: u32) -> Option<Arc<Root>> {
        let root = Root::of(pid).ok()?;
        let (device, inode) = root.inode().ok()?;
        let namespace = std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap_or_default();
        Some(self.roots.entry((device, inode, namespace)).or_insert_with(|| Arc::new(root)).clone())
    }
}

/// How many files may be held: half of the descriptors, so that the other half is left for everything else.
fn most_held() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| {
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        limit.map_or(512, |(soft, _)| usize::try_from(soft / 2).unwrap_or(usize::MAX))
    })
}

fn too_many(mapping: &Mapping) -> Error {
    Error::new(Kind::Io, format!("{} is one module file too many to be held open", mapping.path))
        .advise("raise the hard limit of open files: `ulimit -Hn`")
}

/// Opens the file behind a mapping: the mapped file itself where the kernel lets us, else what stands under its name in
/// the target's root, if that is still the same file.
fn open_mapped(pid: u32, mapping: &Mapping) -> Result<File> {
    let (first, refused) = match open_regular(&mapping.map_file(pid)) {
        Ok(file) => return Ok(file),
        Err(e) => (e.raw_os_error(), e),
    };
    // Not a regular file: a device that maps code has no names for us.
    if first.is_none() {
        return Err(Error::io(format!("cannot open {}", mapping.path), refused));
    }
    let same = |file: &File| FileIdentity::of(file).is_ok_and(|i| is_mapped(mapping, i.inode));
    if let Ok(file) = Root::of(pid).and_then(|root| root.open(Path::new(&mapping.path)))
        && same(&file)
    {
        return Ok(file);
    }
    // The program's own file opens even when its name is gone.
    match open_regular(Path::new(&format!("/proc/{pid}/exe"))) {
        Ok(file) if same(&file) => Ok(file),
        _ => Err(Error::io(format!("cannot open {} of process {pid}", mapping.path), refused).advise(
            "the file was deleted or replaced, or belongs to another user: run as root or add CAP_SYS_ADMIN and \
             CAP_SYS_PTRACE",
        )),
    }
}

/// Whether the file with that device and inode is the mapped one. Stacked and subvolume file systems (device major 0)
/// show other device numbers in maps than in `stat`; there the inode decides, and the name as long as it is not deleted.
fn is_mapped(mapping: &Mapping, (device, inode): (u64, u64)) -> bool {
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    if (major, minor) == (u64::from(mapping.device.0), u64::from(mapping.device.1)) {
        return inode == mapping.inode;
    }
    (major == 0 || mapping.device.0 == 0) && (inode == mapping.inode || !mapping.deleted)
}

/// The GNU build id of `file`: note type 3 of owner `GNU`.
pub(super) fn build_id(file: &File, headers: &Headers) -> Option<Vec<u8>> {
    let notes = headers.sections.iter().filter(|s| s.kind == elf::SHT_NOTE && s.size <= NOTE_LIMIT).take(NOTES);
    let in_sections = notes.filter_map(|s| s.bytes(file, NOTE_LIMIT).ok().flatten());
    in_sections.into_iter().find_map(|bytes| build_id_note(&bytes)).or_else(|| {
        // Without section headers: the note stands in the first page of every linker's output.
        let first = headers.segments.iter().find(|s| s.offset == 0)?;
        let page = read_exactly(file, 0, first.size.min(4096) as usize).ok()?;
        let at = page.windows(8).position(|w| w == b"\x03\0\0\0GNU\0")?;
        build_id_note(page.get(at.checked_sub(8)?..)?)
    })
}

fn build_id_note(mut notes: &[u8]) -> Option<Vec<u8>> {
    let aligned = |n: u32| (n as usize).checked_add(3).map(|n| n & !3);
    // Each round takes at least the twelve bytes of a header, so this ends.
    while notes.len() >= 12 {
        let fields = super::elf64::Fields(notes);
        let (name, desc, kind) = (fields.u32(0), fields.u32(4), fields.u32(8));
        let desc_at = 12usize.checked_add(aligned(name)?)?;
        if kind == 3 && notes.get(12..16) == Some(b"GNU\0") && (1..=64).contains(&desc) {
            return notes.get(desc_at..desc_at.checked_add(desc as usize)?).map(<[u8]>::to_vec);
        }
        notes = notes.get(desc_at.checked_add(aligned(desc)?)?..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::memory::LiveMemory;
    use crate::target::Maps;

    fn own_modules() -> (Modules, Maps, LiveMemory) {
        let pid = std::process::id();
        (Modules::new(), Maps::of(pid).unwrap(), LiveMemory::new(pid))
    }

    #[test]
    fn our_own_functions_have_the_address_that_the_file_says() {
        let (modules, maps, memory) = own_modules();
        let here = own_modules as *const () as u64;
        let mapping = maps.at(here).unwrap();
        let id = modules.open(std::process::id(), mapping, &memory).unwrap();
        let module = modules.get(id).unwrap();
        let svma = module.svma(mapping, here).unwrap();
        assert_eq!(module.bias(mapping), Some(here - svma));
        let elf = crate::os::elf::Elf::new(File::open("/proc/self/exe").unwrap());
        let text = elf.section(".text").unwrap().unwrap();
        assert!(text.contains(&svma), "{svma:#x} not in {text:#x?}");
        assert_eq!(module.build_id, elf.build_id().unwrap());
        // Every mapping of the file, by another process too, is the same module.
        for m in maps.0.iter().filter(|m| m.path == mapping.path) {
            assert_eq!(modules.open(1, m, &memory), Some(id));
        }
        assert_eq!(modules.len(), 1);
    }

    #[test]
    fn the_vdso_is_copied_once_and_anonymous_memory_is_no_module() {
        let (modules, maps, memory) = own_modules();
        let vdso = maps.0.iter().find(|m| m.path == "[vdso]").unwrap();
        let id = modules.open(7, vdso, &memory).unwrap();
        assert_eq!(modules.open(8, vdso, &memory), Some(id));
        assert!(modules.unwind_sections(id).is_some());
        let stack = maps.0.iter().find(|m| m.path == "[stack]").unwrap();
        assert_eq!(modules.open(7, stack, &memory), None);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_a_module_with_a_reason() {
        let (modules, _, memory) = own_modules();
        let line = "1000-2000 r-xp 00003000 fe:00 4242 /nowhere/lib.so";
        let mapping = Maps::parse(line).0.remove(0);
        let id = modules.open(std::process::id(), &mapping, &memory).unwrap();
        let module = modules.get(id).unwrap();
        assert!(module.trouble.as_ref().unwrap().contains("/nowhere/lib.so"));
        assert_eq!(module.svma(&mapping, 0x1010), Some(0x3010));
        assert!(module.file().is_err());
    }

    #[test]
    fn notes_that_lie_end() {
        assert_eq!(build_id_note(&[0xff; 64]), None);
        assert_eq!(build_id_note(b"\x04\0\0\0\x02\0\0\0\x03\0\0\0GNU\0\xab\xcd\0\0"), Some(vec![0xab, 0xcd]));
    }
}
