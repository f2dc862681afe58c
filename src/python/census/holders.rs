//! Who holds an object: from the object up to a module, by scanning for words that are its address.
//!
//! In: a [`Scanner`] and objects. Out: [`Held`]: the way from a root down. A scan finds every block with a word that is
//! one of the wanted addresses, whatever kind of object it is; blocks that are no objects (tables of dicts, items of lists,
//! values of instances) lead on to who points to them; tables outside the pools are found by their owners' bounds. Invariants:
//! at most [`WANTED`] addresses a scan and [`SCANS`] scans, so that time and memory are bounded; a word that looks like an
//! address by chance makes a wrong holder at most, and the way that most of the sample takes is told.

use rustc_hash::{FxHashMap, FxHashSet};

use super::pages::Pages;
use super::pools::word;
use super::scan::Scanner;
use super::types::{Content, Shape, TypeInfo};
use crate::error::Result;
use crate::python::heap::Heap;

/// Addresses that are looked for in one scan.
const WANTED: usize = 512;
/// Scans at most.
const SCANS: usize = 24;
/// Instances of a type that are kept to look for those that others point to: 16 MB.
const INSTANCES: usize = 1 << 20;
/// Bits of the filter before the table of what is wanted.
const FILTER: usize = 1 << 20;
/// Steps of a path at most.
const STEPS: usize = 12;
/// Items of one table of a deque (`Modules/_collectionsmodule.c` BLOCKLEN), and tables that are followed.
const DEQUE_ITEMS: u64 = 64;
const DEQUE_TABLES: u64 = 4096;
/// `lru_cache` object to its dict, and to the most entries that it keeps (i64) (`Modules/_functoolsmodule.c`).
const LRU_CACHE: u64 = 72;
const LRU_LIMIT: u64 = 96;
/// Where static types and a module's own data may be: words this far into a class are its.
const CLASS: u64 = 1600;

/// A way by which something is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// From the root down: `module npc.memory`, `REGISTRY`, `dict`; empty when no root was found.
    pub path: Vec<String>,
    /// How many of the sample are held this way.
    pub of: u32,
    /// The most items that a cache on the way keeps (`functools.lru_cache`), where it has a limit.
    pub limit: Option<u64>,
}

/// Something on the way up.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// Where it is: of an object its address, of a block its start.
    at: u64,
    /// Bytes of a block that is no object; 0 for an object, whose address alone counts.
    block: u64,
    /// The node below.
    below: Option<usize>,
    /// Which of the sample it leads to, a bit each.
    sample: u64,
    info: Option<TypeInfo>,
    /// It was looked for already.
    done: bool,
}

/// A word that points to something wanted, in no block of a pool.
struct Loose {
    at: u64,
    node: usize,
}

/// The search for holders.
#[derive(Debug)]
pub struct Holders<'s, 'a> {
    scanner: &'s Scanner<'a>,
    nodes: Vec<Node>,
    by_address: FxHashMap<u64, usize>,
    modules: FxHashMap<u64, String>,
}

impl<'s, 'a> Holders<'s, 'a> {
    /// A search in the target of `scanner`.
    pub fn new(scanner: &'s Scanner<'a>) -> Self {
        let modules = scanner.modules().into_iter().map(|(name, dict)| (dict, name)).collect();
        Self { scanner, nodes: Vec::new(), by_address: FxHashMap::default(), modules }
    }

    /// The way by which most of `objects` (64 at most) are held.
    ///
    /// # Errors
    /// `Gone` when the process has ended.
    pub fn of(&mut self, objects: &[u64]) -> Result<Held> {
        self.nodes.clear();
        self.by_address.clear();
        for (i, at) in objects.iter().take(64).enumerate() {
            let index = self.nodes.len();
            self.by_address.insert(*at, index);
            let sample = 1 << i;
            self.nodes.push(Node { at: *at, block: 0, below: None, sample, info: None, done: false });
        }
        for _ in 0..SCANS {
            let wanted: Vec<usize> =
                (0..self.nodes.len()).filter(|i| self.nodes.get(*i).is_some_and(|n| !n.done)).take(WANTED).collect();
            if wanted.is_empty() {
                break;
            }
            let pages = self.scanner.pages()?;
            let before = self.nodes.len();
            self.climb(&wanted, &pages);
            let roots = (before..self.nodes.len()).filter(|i| self.is_root(*i));
            if let Some(root) = roots.max_by_key(|i| self.nodes.get(*i).map_or(0, |n| n.sample.count_ones())) {
                return Ok(self.told(root));
            }
        }
        Ok(Held { path: Vec::new(), of: 0, limit: None })
    }

    /// The way by which instances of a type are held: that of most of a sample, or, where they hold each other in chains too
    /// long to climb, of those that something else points to.
    ///
    /// # Errors
    /// `Gone` when the process has ended.
    pub fn of_type(&mut self, type_at: u64, sample: usize) -> Result<(Held, usize)> {
        let some = self.scanner.sample(type_at, sample)?;
        let held = self.of(&some)?;
        if !held.path.is_empty() {
            return Ok((held, some.len()));
        }
        let heads = self.pointed_to(type_at)?;
        Ok((self.of(&heads)?, heads.len()))
    }

    /// Instances of a type that are pointed to from outside of the pools or by an object of another type, 64 at most.
    fn pointed_to(&self, type_at: u64) -> Result<Vec<u64>> {
        let scanner = self.scanner;
        let all: FxHashSet<u64> = scanner.sample(type_at, INSTANCES)?.into_iter().collect();
        let pages = scanner.pages()?;
        let (mut buffer, mut heads) = (Vec::new(), Vec::new());
        pages.each(scanner.heap.memory, &mut buffer, &mut |at, bytes| {
            for (i, chunk) in bytes.as_chunks::<8>().0.iter().enumerate() {
                let value = u64::from_le_bytes(*chunk);
                if heads.len() >= 64 || !value.is_multiple_of(8) || !all.contains(&value) || heads.contains(&value) {
                    continue;
                }
                let other = match block_of(scanner, at, bytes, at + i as u64 * 8, &pages) {
                    Place::Outside => true,
                    Place::Object(_, info) => info.at != type_at,
                    // The values of an instance of the type itself are such a block.
                    Place::Free | Place::Block(..) => false,
                };
                if other {
                    heads.push(value);
                }
            }
        });
        Ok(heads)
    }

    fn is_root(&self, index: usize) -> bool {
        self.nodes
            .get(index)
            .is_some_and(|n| self.modules.contains_key(&n.at) || n.info.is_some_and(|i| i.shape == Shape::Type))
    }

    /// One scan for `wanted`; what points to them becomes new nodes.
    fn climb(&mut self, wanted: &[usize], pages: &Pages) {
        let mut filter = vec![0_u64; FILTER / 64];
        // By granules of 16 bytes, to which all that is allocated is aligned.
        let mut granules: FxHashMap<u64, usize> = FxHashMap::default();
        for &index in wanted {
            let Some(node) = self.nodes.get_mut(index) else { continue };
            node.done = true;
            let granule = node.at >> 4;
            for g in granule..=(node.at + node.block.saturating_sub(1)) >> 4 {
                granules.insert(g, index);
                let bit = g as usize % FILTER;
                if let Some(bits) = filter.get_mut(bit / 64) {
                    *bits |= 1 << (bit % 64);
                }
            }
        }
        let nodes = &self.nodes;
        let hit = |value: u64| -> Option<usize> {
            let granule = value >> 4;
            let bit = granule as usize % FILTER;
            if filter.get(bit / 64)? >> (bit % 64) & 1 == 0 {
                return None;
            }
            let index = *granules.get(&granule)?;
            let node = nodes.get(index)?;
            (node.block > 0 || node.at == value).then_some(index)
        };
        let scanner = self.scanner;
        let code = scanner.code;
        let mut found: Vec<(u64, u64, Option<TypeInfo>, usize)> = Vec::new();
        let mut loose: Vec<Loose> = Vec::new();
        let mut buffer = Vec::new();
        pages.each(scanner.heap.memory, &mut buffer, &mut |at, bytes| {
            for (i, chunk) in bytes.as_chunks::<8>().0.iter().enumerate() {
                let value = u64::from_le_bytes(*chunk);
                let Some(index) = hit(value) else { continue };
                let word_at = at + i as u64 * 8;
                if found.len() + loose.len() >= WANTED * 8 {
                    continue;
                }
                match block_of(scanner, at, bytes, word_at, pages) {
                    Place::Free => {}
                    Place::Outside => loose.push(Loose { at: word_at, node: index }),
                    // Code remembers what its globals were, without holding them.
                    Place::Object(_, info) if Some(info.at) == code => {}
                    Place::Object(object, info) => found.push((object, 0, Some(info), index)),
                    Place::Block(start, size) => found.push((start, size, None, index)),
                }
            }
        });
        loose.sort_by_key(|l| l.at);
        if !loose.is_empty() {
            owners(scanner, pages, &loose, nodes, &mut found);
        }
        for (at, block, info, below) in found {
            self.add(at, block, info, below);
        }
    }

    fn add(&mut self, at: u64, block: u64, info: Option<TypeInfo>, below: usize) {
        let Some(sample) = self.nodes.get(below).map(|n| n.sample) else { return };
        if at == self.nodes.get(below).map_or(0, |n| n.at) {
            return;
        }
        if let Some(node) = self.by_address.get(&at).and_then(|i| self.nodes.get_mut(*i)) {
            node.sample |= sample;
            return;
        }
        self.by_address.insert(at, self.nodes.len());
        self.nodes.push(Node { at, block, below: Some(below), sample, info, done: false });
    }

    /// The path from a root down.
    fn told(&self, root: usize) -> Held {
        let heap = self.scanner.heap;
        let mut path = Vec::new();
        let mut at = Some(root);
        let of = self.nodes.get(root).map_or(0, |n| n.sample.count_ones());
        // Blocks between objects are no steps.
        let mut chain: Vec<Node> = Vec::new();
        while let Some(node) = at.and_then(|i| self.nodes.get(i)) {
            if node.block == 0 {
                chain.push(*node);
            }
            at = node.below;
        }
        let mut named_dict = false;
        for (i, node) in chain.iter().enumerate().take(STEPS) {
            let below = chain.get(i + 1).map(|n| n.at);
            if let Some(module) = self.modules.get(&node.at) {
                path.push(format!("module {module}"));
                path.extend(below.and_then(|b| key_of(heap, node.at, b)));
                continue;
            }
            let Some(info) = node.info.or_else(|| heap_type(self, node.at)) else { continue };
            let below_dict = chain.get(i + 1).filter(|n| self.is_dict_of(node, info, n));
            if info.shape == Shape::Type {
                path.push(format!("class {}", self.scanner.type_name(node.at)));
            } else if !named_dict {
                path.push(self.scanner.type_name(info.at));
            }
            named_dict = false;
            // The attribute by which an instance or a class holds what is below.
            if let Some(dict) = below_dict {
                let item = chain.get(i + 2).map(|n| n.at);
                path.extend(item.and_then(|item| key_of(heap, dict.at, item)));
                named_dict = true;
            } else if let Some(below) = below
                && !matches!(info.shape, Shape::Dict | Shape::List | Shape::Set | Shape::Deque)
            {
                let items = heap.attributes(node.at).unwrap_or_default();
                path.extend(items.iter().find(|(_, v)| *v == below).and_then(|(k, _)| heap.str_start(*k, 64).ok()));
            }
        }
        Held { path, of, limit: self.limit(&chain) }
    }

    /// The limit of the `lru_cache` on the way.
    fn limit(&self, chain: &[Node]) -> Option<u64> {
        let heap = self.scanner.heap;
        chain.windows(2).find_map(|pair| {
            let [cache, dict] = pair else { return None };
            let is = cache.info.is_some_and(|i| self.scanner.type_name(i.at) == "functools._lru_cache_wrapper");
            // Its layout is the same from 3.8 to 3.13; that the dict is where it should be proves it.
            let proven = is && heap.memory.u64_at(cache.at.wrapping_add(LRU_CACHE)).ok()? == dict.at;
            let limit = heap.memory.u64_at(cache.at.wrapping_add(LRU_LIMIT)).ok().filter(|_| proven)?;
            // -1: any number.
            (limit >> 63 == 0).then_some(limit)
        })
    }

    /// Whether `below` is the dict of the instance or class `node`.
    fn is_dict_of(&self, node: &Node, info: TypeInfo, below: &Node) -> bool {
        let heap = self.scanner.heap;
        let l = heap.layout;
        if below.info.is_none_or(|i| i.shape != Shape::Dict) || info.shape == Shape::Dict {
            return false;
        }
        if info.shape == Shape::Type {
            return heap.word(node.at, l.type_dict).is_ok_and(|d| d == below.at);
        }
        let offset = heap.word(info.at, l.type_dictoffset).unwrap_or(0) as i64;
        let at_offset =
            offset > 0 && heap.memory.u64_at(node.at.wrapping_add(offset as u64)).is_ok_and(|d| d == below.at);
        let before = info.managed && heap.memory.u64_at(node.at.wrapping_sub(24)).is_ok_and(|d| d == below.at);
        at_offset || before
    }
}

fn heap_type(holders: &Holders<'_, '_>, at: u64) -> Option<TypeInfo> {
    let type_at = holders.scanner.heap.type_of(at).ok()?;
    let pages = holders.scanner.pages().ok()?;
    holders.scanner.types.get(type_at, &pages)
}

/// The key of a dict at which `value` is.
fn key_of(heap: Heap<'_>, dict: u64, value: u64) -> Option<String> {
    let items = heap.dict_items(dict, 1 << 16).ok()?;
    let (key, _) = items.into_iter().find(|(_, v)| *v == value)?;
    heap.is_str(key).then(|| heap.str_start(key, 64).ok()).flatten()
}

/// Whether a dict has `value` as a value or a key.
fn value_in(heap: Heap<'_>, dict: u64, value: u64) -> bool {
    heap.dict_items(dict, crate::python::ENTRY_LIMIT)
        .is_ok_and(|items| items.iter().any(|(k, v)| *v == value || *k == value))
}

enum Place {
    /// In a block that is not in use, or in a pool's head.
    Free,
    /// In no pool.
    Outside,
    /// In an object.
    Object(u64, TypeInfo),
    /// In a block that is none: start and bytes.
    Block(u64, u64),
}

/// Where a word is that lies in `bytes`, which are those at `at`.
fn block_of(scanner: &Scanner<'_>, at: u64, bytes: &[u8], word_at: u64, pages: &Pages) -> Place {
    let size = scanner.pool as u64;
    let base = word_at - word_at % size;
    let Some(stretch) = base.checked_sub(at).and_then(|o| bytes.get(o as usize..(o + size) as usize)) else {
        return Place::Outside;
    };
    let Some(pool) = super::pools::Pool::read(stretch, base) else { return Place::Outside };
    let Some(start) = pool.block_at((word_at - base) as usize) else { return Place::Free };
    let Some(block) = stretch.get(start..start + pool.block) else { return Place::Free };
    let block_at = base + start as u64;
    match scanner.types.in_block(block, pages) {
        Content::Object(within, info) => Place::Object(block_at + within as u64, info),
        Content::Other => Place::Block(block_at, pool.block as u64),
        Content::Dead => Place::Free,
    }
}

/// Finds whose tables the loose words are in: of a list, dict, set or deque block, or of a class.
fn owners(
    scanner: &Scanner<'_>,
    pages: &Pages,
    loose: &[Loose],
    nodes: &[Node],
    found: &mut Vec<(u64, u64, Option<TypeInfo>, usize)>,
) {
    let l = scanner.heap.layout;
    // For each loose word the nearest table that begins before it.
    let mut best: Vec<Option<(u64, u64, TypeInfo)>> = vec![None; loose.len()];
    let mut offer = |start: u64, bytes: u64, object: u64, info: TypeInfo| {
        let from = loose.partition_point(|w| w.at < start);
        let to = loose.partition_point(|w| w.at < start.saturating_add(bytes));
        for slot in best.get_mut(from..to).into_iter().flatten() {
            if slot.is_none_or(|(s, ..)| s < start) {
                *slot = Some((start, object, info));
            }
        }
    };
    let mut buffer = Vec::new();
    pages.each(scanner.heap.memory, &mut buffer, &mut |at, bytes| {
        scanner.each_pool(at, bytes, &mut |pool_at, pool, bytes| {
            for offset in pool.used() {
                let Some(block) = bytes.get(offset..offset + pool.block) else { continue };
                let Content::Object(within, info) = scanner.types.in_block(block, pages) else { continue };
                let object = block.get(within..).unwrap_or_default();
                let of = |offset: u32| word(object, offset as usize).unwrap_or(0);
                let object_at = pool_at + (offset + within) as u64;
                match info.shape {
                    Shape::List => offer(of(l.list_items), of(l.ob_size).saturating_mul(8), object_at, info),
                    // Of a dict's table the size is in its head, elsewhere: as much as it can have grown to.
                    Shape::Dict => {
                        let items = of(l.dict_used).max(8);
                        offer(of(l.dict_keys), items.saturating_mul(120).saturating_add(256), object_at, info);
                    }
                    Shape::Set => {
                        let slots = of(l.set_mask).saturating_add(1);
                        offer(of(l.set_table), slots.saturating_mul(16), object_at, info);
                    }
                    Shape::Deque => {
                        let mut table = of(24);
                        let tables = of(l.ob_size) / DEQUE_ITEMS + 2;
                        for _ in 0..tables.min(DEQUE_TABLES) {
                            offer(table, (DEQUE_ITEMS + 2) * 8, object_at, info);
                            let next = scanner.heap.memory.u64_at(table.wrapping_add((DEQUE_ITEMS + 1) * 8));
                            match next {
                                Ok(next) if next != 0 => table = next,
                                _ => break,
                            }
                        }
                    }
                    _ => {}
                }
            }
        });
    });
    for (word, best) in loose.iter().zip(best) {
        let wanted = nodes.get(word.node).filter(|n| n.block == 0);
        if let Some((_, object, info)) = best {
            // The bounds of a dict's table are a guess: does it have what was found?
            let has = || wanted.is_some_and(|w| value_in(scanner.heap, object, w.at));
            if info.shape != Shape::Dict || has() {
                found.push((object, 0, Some(info), word.node));
                continue;
            }
        }
        if wanted.is_none_or(|w| w.info.is_none_or(|i| i.shape != Shape::Dict)) {
            continue;
        }
        // The dict of a class, or what one of its fields is, is in the class itself: the type before the word.
        if let Some(info) = class_before(scanner, pages, word.at) {
            found.push((info.at, 0, Some(TypeInfo { shape: Shape::Type, ..info }), word.node));
        }
    }
}

/// The class in whose structure the word at `at` is.
fn class_before(scanner: &Scanner<'_>, pages: &Pages, at: u64) -> Option<TypeInfo> {
    (0..CLASS / 8).map(|i| at - i * 8).find_map(|start| {
        let info = scanner.types.get(start, pages)?;
        let dict = scanner.heap.layout.type_dict;
        // Only its dict: other fields (bases, caches, weak references) do not keep a program's data.
        let own = start + u64::from(dict) == at && info.heap_type;
        // One that was freed may still look like a class; its dict does not.
        let dict = own.then(|| scanner.heap.memory.u64_at(at).ok()).flatten()?;
        scanner.heap.dict_get(dict, "__module__").ok().flatten().map(|_| info)
    })
}
