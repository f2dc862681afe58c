//! What a pointer to a type is worth: whether it is one, its name, and what its instances look like.

use std::cell::RefCell;

use rustc_hash::{FxHashMap, FxHashSet};

use super::pages::Pages;
use super::pools::{head, word};
use crate::os::memory::Fault;
use crate::python::heap::Heap;
use crate::python::layout::Attributes;

/// `Py_TPFLAGS_*`.
const HEAP_TYPE: u64 = 1 << 9;
const HAVE_GC: u64 = 1 << 14;
const MANAGED_DICT: u64 = 1 << 4;
const INLINE_VALUES: u64 = 1 << 2;
const MANAGED_WEAKREF: u64 = 1 << 3;
const LIST: u64 = 1 << 25;
const DICT: u64 = 1 << 29;
const TYPE: u64 = 1 << 31;
/// The offset of an object with a head of the collector, the usual one.
const HEAD_FIRST: usize = 16;
/// Longest chain of bases that is followed.
const BASES: usize = 64;
/// Types that are known at most: a program has some thousands.
const TYPES: usize = 1 << 20;

/// What instances of a type look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A dict, or of a class derived from it.
    Dict,
    /// A list.
    List,
    /// A set or frozenset.
    Set,
    /// A `collections.deque`.
    Deque,
    /// A class.
    Type,
    /// Anything else.
    Other,
}

/// A type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeInfo {
    /// Its address.
    pub at: u64,
    /// What its instances look like.
    pub shape: Shape,
    /// Whether its instances have a head for the collector of garbage before them.
    pub gc: bool,
    /// Whether they have two words more before that.
    pub managed: bool,
    /// Whether it was made at run time: a class.
    pub heap_type: bool,
    /// Bytes of an instance without what comes before it and items behind it.
    pub size: u32,
    /// Whether an instance may have more bytes behind these.
    pub variable: bool,
}

impl TypeInfo {
    /// Whether a block of `block` bytes is one for an instance that begins at `offset`.
    fn fits(&self, offset: usize, block: usize) -> bool {
        let bytes = offset + self.size as usize;
        if self.variable { bytes <= block + 16 } else { bytes.next_multiple_of(16) == block }
    }
}

/// The types of a target, as they are met.
pub(super) struct Types<'a> {
    heap: Heap<'a>,
    /// `PyType_Type`.
    root: u64,
    pool: usize,
    known: RefCell<FxHashMap<u64, Option<TypeInfo>>>,
    /// Stretches of the size of a pool that are pools, and that are none.
    pools: RefCell<FxHashMap<u64, bool>>,
    recent: RefCell<[(u64, Option<TypeInfo>); 256]>,
}

impl<'a> Types<'a> {
    /// The types of `heap`; `dict` is any object of type `dict`.
    pub(super) fn new(heap: Heap<'a>, dict: u64, pool: usize) -> Result<Self, Fault> {
        let root = heap.type_of(heap.type_of(dict)?)?;
        // `type` is its own type, which nothing else is.
        if heap.type_of(root)? != root || heap.type_name(root)? != "type" {
            return Err(Fault { at: root, len: 8 });
        }
        let (known, pools) = (RefCell::default(), RefCell::default());
        Ok(Self { heap, root, pool, known, pools, recent: RefCell::new([(0, None); 256]) })
    }

    /// What is known of the type at `at`; `None` when there is none.
    pub(super) fn get(&self, at: u64, pages: &Pages) -> Option<TypeInfo> {
        // Types are aligned, and in the lower half of the addresses.
        if !at.is_multiple_of(8) || !(0x1000..1 << 47).contains(&at) {
            return None;
        }
        let slot = (at >> 4 ^ at >> 12) as usize % 256;
        if let Some((found, info)) = self.recent.borrow().get(slot)
            && *found == at
        {
            return *info;
        }
        let info = self.look_up(at, pages);
        if let Some(entry) = self.recent.borrow_mut().get_mut(slot) {
            *entry = (at, info);
        }
        info
    }

    fn look_up(&self, at: u64, pages: &Pages) -> Option<TypeInfo> {
        if let Some(known) = self.known.borrow().get(&at) {
            return *known;
        }
        // A type is larger than any block of a pool: most pointers that are none are told by a read a pool.
        if pages.contains(at) && self.is_pool(at) {
            return None;
        }
        let info = self.read(at).ok().flatten();
        let mut known = self.known.borrow_mut();
        if known.len() < TYPES {
            known.insert(at, info);
        }
        info
    }

    fn is_pool(&self, at: u64) -> bool {
        let base = at - at % self.pool as u64;
        if let Some(is) = self.pools.borrow().get(&base) {
            return *is;
        }
        let mut bytes = [0; 48];
        let is = self.heap.memory.read(base, &mut bytes).is_ok() && head(&bytes, base, self.pool).is_some();
        self.pools.borrow_mut().insert(base, is);
        is
    }

    fn read(&self, at: u64) -> Result<Option<TypeInfo>, Fault> {
        let l = self.heap.layout;
        let meta = self.heap.type_of(at)?;
        if !self.is_metatype(meta)? {
            return Ok(None);
        }
        let flags = self.heap.word(at, l.type_flags)?;
        let shape = if flags & TYPE != 0 {
            Shape::Type
        } else if flags & DICT != 0 {
            Shape::Dict
        } else if flags & LIST != 0 {
            Shape::List
        } else {
            self.by_base(at)?
        };
        let gc = flags & HAVE_GC != 0;
        // 3.11 and later; before, these bits have other meanings and no class sets them.
        let managed = l.attributes != Attributes::Dict && flags & (MANAGED_DICT | MANAGED_WEAKREF) != 0;
        let size = self.heap.word(at, l.type_basicsize)?.min(u64::from(u32::MAX)) as u32;
        let items = self.heap.word(at, l.type_basicsize + 8)?;
        let values_inside = l.attributes == Attributes::Inline && flags & INLINE_VALUES != 0;
        let variable = items != 0 || values_inside;
        Ok(Some(TypeInfo { at, shape, gc, managed, heap_type: flags & HEAP_TYPE != 0, size, variable }))
    }

    /// Whether `meta` is `type` or derived from it.
    fn is_metatype(&self, meta: u64) -> Result<bool, Fault> {
        let mut at = meta;
        for _ in 0..BASES {
            if at == self.root {
                return Ok(true);
            }
            if at == 0 || !at.is_multiple_of(8) {
                return Ok(false);
            }
            at = self.heap.word(at, self.heap.layout.type_base)?;
        }
        Ok(false)
    }

    fn by_base(&self, at: u64) -> Result<Shape, Fault> {
        let mut base = at;
        let mut seen = FxHashSet::default();
        for _ in 0..BASES {
            let flags = self.heap.word(base, self.heap.layout.type_flags)?;
            if flags & HEAP_TYPE == 0 || self.heap.type_name(base).is_ok_and(|n| n == "collections.deque") {
                match self.heap.type_name(base)?.as_str() {
                    "set" | "frozenset" => return Ok(Shape::Set),
                    "collections.deque" => return Ok(Shape::Deque),
                    _ => {}
                }
            }
            base = self.heap.word(base, self.heap.layout.type_base)?;
            if base == 0 || !seen.insert(base) {
                break;
            }
        }
        Ok(Shape::Other)
    }

    /// What a block in use holds.
    pub(super) fn in_block(&self, block: &[u8], pages: &Pages) -> Content {
        self.in_block_as(block, pages, HEAD_FIRST)
    }

    /// What a block in use holds; `likely` is the offset of the object in the block before, whose neighbours are often alike.
    pub(super) fn in_block_as(&self, block: &[u8], pages: &Pages, likely: usize) -> Content {
        // With a head of the collector before it; with two words more before that; with neither.
        const HEAD: (usize, bool, bool) = (16, true, false);
        const MANAGED: (usize, bool, bool) = (32, true, true);
        const BARE: (usize, bool, bool) = (0, false, false);
        // A tuple that begins with a class looks like an instance of it two words later: that way never comes before
        // the head. The bare way can: what the collector has there is the address of a head, which no type has.
        let ways = if likely == 0 { [BARE, HEAD, MANAGED] } else { [HEAD, MANAGED, BARE] };
        for (offset, gc, managed) in ways {
            let Some(at) = word(block, offset + 8) else { continue };
            let Some(info) = self.get(at, pages) else { continue };
            if info.gc != gc || info.managed != managed || !info.fits(offset, block.len()) {
                continue;
            }
            let references = word(block, offset).unwrap_or(0);
            return match (references as u32, references >> 32) {
                // An instance that is about to be freed, or kept to be used again, has no references.
                (0, 0) => Content::Dead,
                (_, 0) => Content::Object(offset, info),
                _ => continue,
            };
        }
        Content::Other
    }
}

/// What a block in use holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// An object: its offset in the block, its type.
    Object(usize, TypeInfo),
    /// An object that is no more.
    Dead,
    /// A table of an object, or something of C.
    Other,
}

impl std::fmt::Debug for Types<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Types").field("known", &self.known.borrow().len()).finish_non_exhaustive()
    }
}
