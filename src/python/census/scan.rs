//! The scan: every pool, every block in use, its type.

use rustc_hash::FxHashMap;

use super::pages::Pages;
use super::pools::{Pool, pool_size, word};
use super::types::{Content, Shape, TypeInfo, Types};
use crate::clock::thread_cpu_ns;
use crate::error::{Error, Kind, Result};
use crate::os::memory::Memory;
use crate::python::Runtime;
use crate::python::heap::Heap;
use crate::target::Maps;

/// Containers with fewer items are not kept.
const ITEMS: u64 = 50;
/// Containers that are kept at most; past that those of fewer items than twice [`ITEMS`], four times, … are left out.
const CONTAINERS: usize = 100_000;
/// Deque to the most items that it takes (i64, -1: any number).
const DEQUE_LIMIT: usize = 64;

/// Instances of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TypeTotal {
    /// How many.
    pub count: u64,
    /// Their blocks, bytes.
    pub bytes: u64,
}

/// A container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container {
    /// Where.
    pub at: u64,
    /// Its type.
    pub type_at: u64,
    /// Its items.
    pub length: u64,
}

/// What a scan found.
#[derive(Debug, Clone, Default)]
pub struct Census {
    /// By the address of the type.
    pub types: FxHashMap<u64, (TypeInfo, TypeTotal)>,
    /// Those of 50 items and more that may still grow.
    pub containers: Vec<Container>,
    /// Pools in use.
    pub pools: u64,
    /// Their blocks in use.
    pub blocks: u64,
    /// Bytes of these blocks.
    pub live_bytes: u64,
    /// Bytes of the pools.
    pub pool_bytes: u64,
    /// Objects among the blocks.
    pub objects: u64,
    /// Pools that changed while they were read.
    pub torn: u64,
    /// Pieces that could not be read.
    pub unread: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// CPU time of ours, ns.
    pub cpu_ns: u64,
}

impl Census {
    /// What keeps it from being whole; empty when nothing does.
    pub fn missing(&self) -> &'static str {
        if self.pools == 0 {
            "no pools of pymalloc: is PYTHONMALLOC=malloc set?"
        } else if self.objects.saturating_mul(4) < self.blocks {
            "most blocks hold no object that is recognised: is PYTHONMALLOC=debug set?"
        } else {
            ""
        }
    }
}

/// Scans one process again and again.
#[derive(Debug)]
pub struct Scanner<'a> {
    pub(super) pid: u32,
    pub(super) heap: Heap<'a>,
    pub(super) types: Types<'a>,
    pub(super) pool: usize,
    pub(super) modules: u64,
    /// The type of code objects, where it is known.
    pub(super) code: Option<u64>,
}

impl<'a> Scanner<'a> {
    /// A scanner of `pid`, whose memory is `memory` and whose interpreter is `runtime`.
    ///
    /// # Errors
    /// `Gone` when it cannot be read, `Malformed` when it is not laid out as expected or has no modules yet.
    pub fn new(pid: u32, memory: &'a dyn Memory, runtime: &'a Runtime) -> Result<Self> {
        let heap = Heap::new(memory, &runtime.layout);
        let cannot = |what: &str| {
            Error::new(Kind::Malformed, format!("the heap of CPython {} cannot be read: {what}", runtime.text))
        };
        let interp = heap.word(runtime.address, runtime.layout.runtime_interpreters_head);
        let modules = interp.and_then(|i| heap.word(i, runtime.layout.interp_modules));
        let modules = modules.map_err(|e| cannot(&e.to_string()))?;
        let sys = heap.dict_get(modules, "sys").map_err(|e| cannot(&e.to_string()))?;
        if sys.is_none() {
            return Err(cannot("sys.modules is not where it should be"));
        }
        let pool = pool_size(runtime.version);
        let types = Types::new(heap, modules, pool).map_err(|e| cannot(&format!("type 'type' is not found: {e}")))?;
        Ok(Self { pid, heap, types, pool, modules, code: runtime.code_type })
    }

    /// Where objects can be now.
    pub(super) fn pages(&self) -> Result<Pages> {
        Ok(Pages::new(self.pid, &Maps::of(self.pid)?))
    }

    /// One census.
    ///
    /// # Errors
    /// `Gone` when the process has ended.
    pub fn scan(&self) -> Result<Census> {
        let begun = thread_cpu_ns();
        let pages = self.pages()?;
        let mut census = Census::default();
        let mut least = ITEMS;
        let mut buffer = Vec::new();
        let mut read = 0;
        let unread = pages.each(self.heap.memory, &mut buffer, &mut |at, bytes| {
            read += bytes.len() as u64;
            self.each_pool(at, bytes, &mut |pool_at, pool, bytes| {
                census.pools += 1;
                census.pool_bytes += bytes.len() as u64;
                census.torn += u64::from(pool.torn);
                let (mut likely, mut blocks) = (16, 0_u64);
                // Neighbours are of one type more often than not: a look into the table for each run of them.
                let mut run: Option<(TypeInfo, u64)> = None;
                let mut settle = |run: Option<(TypeInfo, u64)>| {
                    let Some((info, count)) = run else { return };
                    let total = &mut census.types.entry(info.at).or_insert((info, TypeTotal::default())).1;
                    total.count += count;
                    total.bytes += count * pool.block as u64;
                    census.objects += count;
                };
                for offset in pool.used() {
                    let Some(block) = bytes.get(offset..offset + pool.block) else { continue };
                    blocks += 1;
                    let Content::Object(within, info) = self.types.in_block_as(block, &pages, likely) else { continue };
                    likely = within;
                    match &mut run {
                        Some((of, count)) if of.at == info.at => *count += 1,
                        _ => settle(run.replace((info, 1))),
                    }
                    let object = block.get(within..).unwrap_or_default();
                    if let Some(length) = self.length(info.shape, object).filter(|n| *n >= least) {
                        let at = pool_at + (offset + within) as u64;
                        census.containers.push(Container { at, type_at: info.at, length });
                    }
                    if census.containers.len() >= CONTAINERS {
                        least *= 2;
                        census.containers.retain(|c| c.length >= least);
                    }
                }
                settle(run);
                census.blocks += blocks;
                census.live_bytes += blocks * pool.block as u64;
            });
        });
        (census.unread, census.bytes_read) = (unread, read);
        census.cpu_ns = thread_cpu_ns().saturating_sub(begun);
        if census.bytes_read == 0 {
            return Err(Error::new(
                Kind::Gone,
                format!("the memory of process {} cannot be read (any more)", self.pid),
            ));
        }
        Ok(census)
    }

    /// Addresses of some instances of a type, `count` at most, from all over the heap.
    ///
    /// # Errors
    /// `Gone` when the process has ended.
    pub fn sample(&self, type_at: u64, count: usize) -> Result<Vec<u64>> {
        let pages = self.pages()?;
        let (mut buffer, mut kept, mut seen) = (Vec::new(), Vec::new(), 0_u64);
        // Vitter's algorithm R; the same heap gives the same sample.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        pages.each(self.heap.memory, &mut buffer, &mut |at, bytes| {
            self.each_pool(at, bytes, &mut |pool_at, pool, bytes| {
                for offset in pool.used() {
                    let Some(block) = bytes.get(offset..offset + pool.block) else { continue };
                    let Content::Object(within, info) = self.types.in_block(block, &pages) else { continue };
                    if info.at != type_at {
                        continue;
                    }
                    seen += 1;
                    let object = pool_at + (offset + within) as u64;
                    if kept.len() < count {
                        kept.push(object);
                        continue;
                    }
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    let place = ((state >> 33) % seen) as usize;
                    if let Some(slot) = kept.get_mut(place) {
                        *slot = object;
                    }
                }
            });
        });
        Ok(kept)
    }

    /// Calls `each` with every pool in use in `bytes`, which are those at `at`.
    pub(super) fn each_pool(&self, at: u64, bytes: &[u8], each: &mut dyn FnMut(u64, &Pool, &[u8])) {
        let first = at.next_multiple_of(self.pool as u64) - at;
        let mut offset = first as usize;
        while let Some(stretch) = bytes.get(offset..offset + self.pool) {
            let pool_at = at + offset as u64;
            if let Some(pool) = Pool::read(stretch, pool_at) {
                each(pool_at, &pool, stretch);
            }
            offset += self.pool;
        }
    }

    /// Items of an object that may grow.
    fn length(&self, shape: Shape, object: &[u8]) -> Option<u64> {
        let l = self.heap.layout;
        let length = match shape {
            Shape::Dict => word(object, l.dict_used as usize),
            Shape::List => word(object, l.ob_size as usize),
            Shape::Set => word(object, l.set_used as usize),
            // One that is bounded comes to rest by itself.
            Shape::Deque if word(object, DEQUE_LIMIT).is_some_and(|limit| (limit as i64) < 0) => {
                word(object, l.ob_size as usize)
            }
            _ => None,
        };
        // A length that no memory has is of a block that was torn.
        length.filter(|n| *n < 1 << 40)
    }

    /// `module.Class`.
    pub fn type_name(&self, type_at: u64) -> String {
        self.heap.class_name(type_at).unwrap_or_else(|_| format!("type at {type_at:#x}"))
    }

    /// Names and dicts of the modules that are loaded, and where `__file__` says they are from.
    pub(super) fn modules(&self) -> Vec<(String, u64)> {
        let items = self.heap.dict_items(self.modules, 1 << 16).unwrap_or_default();
        let module = |(key, value): (u64, u64)| {
            let name = self.heap.str(key).ok()?;
            let dict = self.heap.word(value, self.heap.layout.module_dict).ok()?;
            // Some put other things than modules there.
            let is_dict = self.heap.type_of(dict).ok()? == self.heap.type_of(self.modules).ok()?;
            is_dict.then_some((name, dict))
        };
        items.into_iter().filter_map(module).collect()
    }

    /// Where module `name` was loaded from.
    fn file(&self, modules: &FxHashMap<String, u64>, name: &str) -> Option<String> {
        let file = self.heap.dict_get(*modules.get(name)?, "__file__").ok()??;
        self.heap.is_str(file).then(|| self.heap.str(file).ok()).flatten()
    }

    /// Tells modules of the standard library from others, by where they are.
    pub fn library(&self) -> Library {
        let modules: FxHashMap<String, u64> = self.modules().into_iter().collect();
        let dir = self.file(&modules, "os").and_then(|f| Some(f.rsplit_once('/')?.0.to_owned()));
        let is = |name: &str| match (self.file(&modules, name), &dir) {
            (Some(file), Some(dir)) => {
                file.starts_with(dir.as_str()) && !file.contains("site-packages") && !file.contains("dist-packages")
            }
            // Built into the interpreter, or frozen.
            (None, _) => modules.contains_key(name) && name != "__main__",
            _ => false,
        };
        Library { standard: modules.keys().filter(|n| is(n)).cloned().collect() }
    }
}

/// Which modules are of the standard library.
#[derive(Debug, Clone, Default)]
pub struct Library {
    standard: rustc_hash::FxHashSet<String>,
}

impl Library {
    /// Whether the type called `name` (`module.Class`) is of the standard library.
    pub fn has(&self, name: &str) -> bool {
        name.match_indices('.').any(|(dot, _)| name.get(..dot).is_some_and(|m| self.standard.contains(m)))
    }
}
