//! Stage one: names from ELF symbols, while the recording runs.
//!
//! In: (module, file's own address) pairs that are new, about once a second. Out: the function that holds the address,
//! demangled. Invariants: a module's symbols are read when it is first asked about and not before; the tables together
//! stay under a budget, those unused for longest go first (they are read again if asked); nothing here can fail loudly:
//! without symbols there is no name, and [`Namer::trouble`] says why.

use std::fs::File;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::debuginfo::{self, DebugFile, SearchPaths};
use super::demangle::demangle;
use super::elf64::elf;
use super::modules::{Module, ModuleId, Modules};
use super::plt;
use super::table::{Builder, Table};
use crate::error::Result;

/// Tables of all modules together, bytes.
const TABLES_LIMIT: usize = 16 << 20;
/// A table that was asked within so many questions is in use and stays.
const IN_USE: u64 = 1000;
/// Demangled names kept of one module.
const CACHE_LIMIT: usize = 10_000;

/// The function that holds an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its demangled name.
    pub function: Arc<str>,
    /// Its first address in the file's own numbering.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
}

#[derive(Debug, Default)]
struct Loaded {
    table: Table,
    names: FxHashMap<usize, Option<Arc<str>>>,
    trouble: Option<String>,
    used: u64,
}

/// Names addresses from the symbols of their modules.
#[derive(Debug)]
pub struct Namer {
    modules: Arc<Modules>,
    paths: SearchPaths,
    loaded: FxHashMap<ModuleId, Loaded>,
    clock: u64,
}

impl Namer {
    /// A namer for the modules of `modules`; nothing is read yet.
    pub fn new(modules: Arc<Modules>, paths: SearchPaths) -> Self {
        Self { modules, paths, loaded: FxHashMap::default(), clock: 0 }
    }

    /// The function of `module` that holds the file's own address `svma`. For a return address the caller asks for the
    /// byte before it. `None` where no symbol holds it: to be shown as `[module+offset]`.
    pub fn name(&mut self, module: ModuleId, svma: u64) -> Option<Named> {
        let loaded = self.load(module)?;
        let found = loaded.table.find(svma)?;
        if loaded.names.len() >= CACHE_LIMIT {
            loaded.names.clear();
        }
        let table = &loaded.table;
        let name = loaded.names.entry(found.index).or_insert_with(|| table.name(found).map(|n| demangle(&n).into()));
        Some(Named { function: name.clone()?, start: found.start, size: found.size })
    }

    /// How many functions of `module` have symbols.
    pub fn functions(&mut self, module: ModuleId) -> usize {
        self.load(module).map_or(0, |l| l.table.len())
    }

    /// Why `module` has no names, where that is known.
    pub fn trouble(&mut self, module: ModuleId) -> Option<String> {
        self.load(module)?.trouble.clone()
    }

    fn load(&mut self, id: ModuleId) -> Option<&mut Loaded> {
        self.clock += 1;
        if !self.loaded.contains_key(&id) {
            let module = self.modules.get(id)?;
            let loaded = match read_table(&module, &self.paths) {
                Ok(table) => Loaded { table, ..Loaded::default() },
                Err(e) => Loaded {
                    trouble: Some(module.trouble.clone().unwrap_or_else(|| format!("{}: {e:#}", module.path))),
                    ..Loaded::default()
                },
            };
            self.make_room(loaded.table.heap_bytes());
            self.loaded.insert(id, loaded);
        }
        let loaded = self.loaded.get_mut(&id)?;
        loaded.used = self.clock;
        Some(loaded)
    }

    fn make_room(&mut self, wanted: usize) {
        let mut held: usize = wanted + self.loaded.values().map(|l| l.table.heap_bytes()).sum::<usize>();
        while held > TABLES_LIMIT {
            let large = self.loaded.iter().filter(|(_, l)| l.table.heap_bytes() > 0);
            let Some((&oldest, l)) = large.min_by_key(|(_, l)| l.used) else { return };
            // Rather too much memory for a while than tables that are read again for every address.
            if self.clock - l.used < IN_USE {
                return;
            }
            held -= l.table.heap_bytes();
            self.loaded.remove(&oldest);
        }
    }
}

/// The functions of `module`: its own `.symtab`, else the one split off, and always `.dynsym` and the stubs.
fn read_table(module: &Module, paths: &SearchPaths) -> Result<Table> {
    let file = module.file()?;
    let mut builder = Builder::new(&module.headers);
    let mut own = 0;
    if let Some(section) = module.headers.section_of_kind(elf::SHT_SYMTAB) {
        own = builder.add(file, &module.headers, section).unwrap_or(0);
    }
    if own == 0 {
        let split = debuginfo::find(module, paths);
        let split = split.map_or_else(|| debuginfo::packed(module).ok().flatten(), Some);
        if let Some(DebugFile { file, headers }) = &split
            && let Some(section) = headers.section_of_kind(elf::SHT_SYMTAB)
        {
            builder.add(file, headers, section).ok();
        }
    }
    add_dynamic(&mut builder, file, module)?;
    Ok(builder.finish())
}

fn add_dynamic(builder: &mut Builder, file: &Arc<File>, module: &Module) -> Result<()> {
    if let Some(section) = module.headers.section_of_kind(elf::SHT_DYNSYM) {
        builder.add(file, &module.headers, section)?;
    }
    plt::add(builder, file, &module.headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::memory::LiveMemory;
    use crate::target::Maps;

    fn name_of(address: u64) -> Option<Named> {
        let pid = std::process::id();
        let (modules, maps) = (Arc::new(Modules::new()), Maps::of(pid).unwrap());
        let mapping = maps.at(address).unwrap();
        let id = modules.open(pid, mapping, &LiveMemory::new(pid)).unwrap();
        let svma = modules.svma(id, mapping, address).unwrap();
        Namer::new(modules, SearchPaths::default()).name(id, svma)
    }

    #[test]
    fn our_own_function_libc_and_the_vdso_have_names() {
        let ours = name_of(name_of as *const () as u64).unwrap();
        assert_eq!(&*ours.function, "perfkit::symbol::namer::tests::name_of");
        let libc = name_of(libc::getpid as *const () as u64).unwrap();
        assert!(libc.function.contains("getpid"), "{libc:?}");
        let maps = Maps::of(std::process::id()).unwrap();
        let vdso = maps.0.iter().find(|m| m.path == "[vdso]").unwrap();
        let found = (vdso.start..vdso.end).filter_map(name_of).any(|n| n.function.contains("clock_gettime"));
        assert!(found);
    }
}
