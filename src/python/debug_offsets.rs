//! `_Py_DebugOffsets`: the offsets that CPython 3.13 and later publish at the start of `_PyRuntime`.
//!
//! In: memory and the address of `_PyRuntime`. Out: a [`Layout`] for exactly that build, so that a new version needs no
//! table. The block is a sequence of u64 after the cookie `xdebugpy`; the sequence grew with each minor version, so it
//! is parsed by version, and a version newer than all known is tried with the newest known sequence. Invariant: every
//! offset is checked against the size of its structure and for alignment; a block that fails is refused, never guessed.
//! Source: CPython's `Include/internal/pycore_debug_offsets.h` of 3.13, 3.14 and 3.15. Free-threaded builds have other
//! object headers and per-thread bytecode; they are recognised here and refused by the caller.

use super::layout::Layout;
use super::version::{FullVersion, Version};
use crate::error::{Error, Kind, Result};
use crate::os::memory::{Fault, Memory};

/// The first 8 bytes of the block.
pub const COOKIE: &[u8; 8] = b"xdebugpy";

/// Name of a structure and of its fields, in the order of the block.
type Sequence = &'static [(&'static str, &'static [&'static str])];

const V313: Sequence = &[
    ("runtime", &["size", "finalizing", "interpreters_head"]),
    ("interp", INTERP_313),
    ("thread", THREAD_313),
    ("frame", &["size", "previous", "executable", "instr_ptr", "localsplus", "owner"]),
    ("code", CODE_313),
    ("object", &["size", "ob_type"]),
    ("type", &["size", "tp_name", "tp_repr", "tp_flags"]),
    ("tuple", &["size", "ob_item", "ob_size"]),
    ("list", &["size", "ob_item", "ob_size"]),
    ("dict", &["size", "ma_keys", "ma_values"]),
    ("float", &["size", "ob_fval"]),
    ("long", &["size", "lv_tag", "ob_digit"]),
    ("bytes", &["size", "ob_size", "ob_sval"]),
    ("str", &["size", "state", "length", "ascii_size"]),
];

const V314: Sequence = &[
    ("runtime", &["size", "finalizing", "interpreters_head"]),
    ("interp", INTERP_314),
    ("thread", THREAD_313),
    ("frame", FRAME_314),
    ("code", CODE_314),
    ("object", &["size", "ob_type"]),
    ("type", &["size", "tp_name", "tp_repr", "tp_flags"]),
    ("tuple", &["size", "ob_item", "ob_size"]),
    ("list", &["size", "ob_item", "ob_size"]),
    ("set", &["size", "used", "table", "mask"]),
    ("dict", &["size", "ma_keys", "ma_values"]),
    ("float", &["size", "ob_fval"]),
    ("long", &["size", "lv_tag", "ob_digit"]),
    ("bytes", &["size", "ob_size", "ob_sval"]),
    ("str", &["size", "state", "length", "ascii_size"]),
];

const V315: Sequence = &[
    ("runtime", &["size", "finalizing", "interpreters_head"]),
    ("interp", INTERP_314),
    ("thread", THREAD_315),
    ("error", &["exc_value"]),
    ("frame", FRAME_314),
    ("code", CODE_314),
    ("object", &["size", "ob_type"]),
    ("type", &["size", "tp_name", "tp_repr", "tp_flags", "tp_basicsize", "tp_dictoffset"]),
    ("heap_type", &["size", "ht_cached_keys"]),
    ("tuple", &["size", "ob_item", "ob_size"]),
    ("list", &["size", "ob_item", "ob_size"]),
    ("set", &["size", "used", "table", "mask"]),
    ("dict", &["size", "ma_keys", "ma_values"]),
    ("float", &["size", "ob_fval"]),
    ("long", &["size", "lv_tag", "ob_digit"]),
    ("bytes", &["size", "ob_size", "ob_sval"]),
    ("str", &["size", "state", "length", "ascii_size", "compact_size"]),
];

const INTERP_313: &[&str] = &[
    "size",
    "id",
    "next",
    "threads_head",
    "gc",
    "modules",
    "sysdict",
    "builtins",
    "ceval_gil",
    "gil",
    "gil_enabled",
    "gil_locked",
    "gil_holder",
];
const INTERP_314: &[&str] = &[
    "size",
    "id",
    "next",
    "threads_head",
    "threads_main",
    "gc",
    "modules",
    "sysdict",
    "builtins",
    "ceval_gil",
    "gil",
    "gil_enabled",
    "gil_locked",
    "gil_holder",
    "code_generation",
    "tlbc_generation",
];
const THREAD_313: &[&str] =
    &["size", "prev", "next", "interp", "current_frame", "thread_id", "native_thread_id", "datastack_chunk", "status"];
const THREAD_315: &[&str] = &[
    "size",
    "prev",
    "next",
    "interp",
    "current_frame",
    "base_frame",
    "last_profiled_frame",
    "last_profiled_frame_seq",
    "thread_id",
    "native_thread_id",
    "datastack_chunk",
    "status",
    "holds_gil",
    "gil_requested",
    "current_exception",
    "exc_state",
];
const FRAME_314: &[&str] =
    &["size", "previous", "executable", "instr_ptr", "localsplus", "owner", "stackpointer", "tlbc_index"];
const CODE_313: &[&str] = &[
    "size",
    "filename",
    "name",
    "qualname",
    "linetable",
    "firstlineno",
    "argcount",
    "localsplusnames",
    "localspluskinds",
    "code_adaptive",
];
const CODE_314: &[&str] = &[
    "size",
    "filename",
    "name",
    "qualname",
    "linetable",
    "firstlineno",
    "argcount",
    "localsplusnames",
    "localspluskinds",
    "code_adaptive",
    "tlbc",
];

/// The head of the block: enough to name the build before its offsets are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// `PY_VERSION_HEX`, e.g. `0x030d00f0` for 3.13.0.
    pub hex: u32,
    /// Built without a GIL.
    pub free_threaded: bool,
}

impl Head {
    /// Major and minor version.
    pub fn version(self) -> Version {
        Version::new((self.hex >> 24) as u8, (self.hex >> 16) as u8)
    }

    /// Version and text.
    pub fn full(self) -> FullVersion {
        FullVersion { version: self.version(), text: self.text() }
    }

    /// The full version as text: `3.14.0rc2`, `3.13.1`.
    pub fn text(self) -> String {
        let (version, micro, serial) = (self.version(), self.hex >> 8 & 0xff, self.hex & 0xf);
        match self.hex >> 4 & 0xf {
            0xa => format!("{version}.{micro}a{serial}"),
            0xb => format!("{version}.{micro}b{serial}"),
            0xc => format!("{version}.{micro}rc{serial}"),
            _ => format!("{version}.{micro}"),
        }
    }
}

/// Reads the head of the block at `runtime`; `None` when there is no cookie (3.12 and earlier).
pub fn head(memory: &dyn Memory, runtime: u64) -> std::result::Result<Option<Head>, Fault> {
    let mut bytes = [0; 8];
    memory.read(runtime, &mut bytes)?;
    if &bytes != COOKIE {
        return Ok(None);
    }
    let hex = memory.u64_at(runtime.wrapping_add(8))? as u32;
    let free_threaded = memory.u64_at(runtime.wrapping_add(16))? != 0;
    Ok(Some(Head { hex, free_threaded }))
}

/// Reads the whole block at `runtime` into a layout.
///
/// # Errors
/// `Unsupported` when the version cannot have such a block, `Malformed` when its numbers contradict each other,
/// `Gone` when the memory cannot be read.
pub fn layout(memory: &dyn Memory, runtime: u64, head: Head) -> Result<Layout> {
    let version = head.version();
    let sequence = match (version.major, version.minor) {
        (3, 13) => V313,
        (3, 14) => V314,
        (3, 15..) => V315,
        _ => return Err(Error::new(Kind::Unsupported, format!("CPython {version} with a debug block it cannot have"))),
    };
    let words: usize = sequence.iter().map(|(_, fields)| fields.len()).sum();
    let bytes = memory
        .bytes_at(runtime.wrapping_add(24), words * 8, 4096)
        .map_err(|fault| Error::new(Kind::Gone, "cannot read the debug offsets of CPython").caused_by(fault))?;
    Block { sequence, bytes: &bytes }.layout(version).map_err(|wrong| {
        Error::new(
            Kind::Malformed,
            format!("CPython {} publishes debug offsets that cannot be right: {wrong}", head.text()),
        )
        .advise("this version may be newer than this perfkit: look for a newer perfkit")
    })
}

/// The block after its head, with the names of its words.
struct Block<'a> {
    sequence: Sequence,
    bytes: &'a [u8],
}

impl Block<'_> {
    /// The word `group.field` as it stands there; `None` when this version has none.
    fn word(&self, group: &str, field: &str) -> Option<u64> {
        let names = self.sequence.iter().flat_map(|(g, fields)| fields.iter().map(move |f| (*g, *f)));
        let (i, _) = names.enumerate().find(|(_, name)| *name == (group, field))?;
        let bytes = self.bytes.get(i * 8..i * 8 + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// The offset `group.field` of something of `width` bytes: aligned, and inside its structure.
    fn offset(&self, group: &str, field: &str, width: u64) -> std::result::Result<u32, String> {
        let size = self.word(group, "size").unwrap_or(0);
        let offset = self.word(group, field).ok_or_else(|| format!("no {group}.{field}"))?;
        // The largest structure, the interpreter state, is below 1 MiB; the runtime holds the first one.
        let fits = size <= 16 << 20 && offset.checked_add(width).is_some_and(|end| end <= size);
        if fits && offset.is_multiple_of(width) {
            Ok(offset as u32)
        } else {
            Err(format!("{group}.{field} at {offset} of {size}"))
        }
    }

    fn layout(&self, version: Version) -> std::result::Result<Layout, String> {
        let pointer = |group, field| self.offset(group, field, 8);
        let gil = pointer("interp", "gil")?;
        let inside_gil = |field| Some(pointer("interp", field).ok()?.checked_sub(gil)?).filter(|o| *o < 256);
        let newest = Layout::newest();
        let ascii_size = self.word("str", "ascii_size").filter(|s| (24..=128).contains(s)).ok_or("str.ascii_size")?;
        let owner = self.offset("frame", "owner", 1)?;
        // In every version `ht_qualname` stands before `ht_cached_keys`.
        let cached_keys = pointer("heap_type", "ht_cached_keys").unwrap_or(newest.heap_type_cached_keys);
        Ok(Layout {
            runtime_interpreters_head: pointer("runtime", "interpreters_head")?,
            interp_next: pointer("interp", "next")?,
            interp_id: pointer("interp", "id")?,
            interp_threads_head: pointer("interp", "threads_head")?,
            interp_modules: pointer("interp", "modules")?,
            interp_gil: Some(pointer("interp", "ceval_gil")?),
            gil_locked: self.offset("interp", "gil_locked", 4)?.checked_sub(gil).filter(|o| *o < 256).ok_or("gil")?,
            gil_last_holder: inside_gil("gil_holder").ok_or("gil holder")?,
            ts_next: pointer("thread", "next")?,
            ts_interp: pointer("thread", "interp")?,
            ts_thread_id: pointer("thread", "thread_id")?,
            ts_native_thread_id: Some(pointer("thread", "native_thread_id")?),
            ts_frame: pointer("thread", "current_frame")?,
            frame_previous: pointer("frame", "previous")?,
            frame_code: pointer("frame", "executable")?,
            frame_instr: pointer("frame", "instr_ptr")?,
            frame_owner: Some(owner),
            frame_localsplus: pointer("frame", "localsplus")?,
            code_filename: pointer("code", "filename")?,
            code_name: pointer("code", "name")?,
            code_qualname: Some(pointer("code", "qualname")?),
            code_firstlineno: self.offset("code", "firstlineno", 4)?,
            code_linetable: pointer("code", "linetable")?,
            code_adaptive: Some(self.offset("code", "code_adaptive", 1)?),
            code_argcount: self.offset("code", "argcount", 4)?,
            code_localsplusnames: Some(pointer("code", "localsplusnames")?),
            code_localspluskinds: Some(pointer("code", "localspluskinds")?),
            ob_type: pointer("object", "ob_type")?,
            ob_size: pointer("bytes", "ob_size")?,
            str_length: pointer("str", "length")?,
            str_state: self.offset("str", "state", 4)?,
            str_ascii_data: ascii_size as u32,
            str_compact_data: self.word("str", "compact_size").unwrap_or(ascii_size + 16) as u32,
            bytes_data: self.offset("bytes", "ob_sval", 1)?,
            tuple_items: pointer("tuple", "ob_item")?,
            list_items: pointer("list", "ob_item")?,
            float_value: pointer("float", "ob_fval")?,
            long_tag: Some(pointer("long", "lv_tag")?),
            long_digits: self.offset("long", "ob_digit", 4)?,
            dict_keys: pointer("dict", "ma_keys")?,
            dict_values: pointer("dict", "ma_values")?,
            set_used: pointer("set", "used").unwrap_or(newest.set_used),
            set_mask: pointer("set", "mask").unwrap_or(newest.set_mask),
            set_table: pointer("set", "table").unwrap_or(newest.set_table),
            heap_type_qualname: cached_keys.saturating_sub(8),
            heap_type_cached_keys: cached_keys,
            type_name: pointer("type", "tp_name")?,
            type_flags: pointer("type", "tp_flags")?,
            tag_mask: if version.minor >= 14 { 3 } else { 0 },
            ..newest
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::memory::FakeMemory;

    fn block(hex: u64, words: &[u64]) -> FakeMemory {
        let mut bytes = COOKIE.to_vec();
        for w in [hex, 0].iter().chain(words) {
            bytes.extend(w.to_le_bytes());
        }
        FakeMemory { pieces: vec![(0x1000, bytes)] }
    }

    /// The block of pyenv's 3.13.0, as read from a live process.
    #[rustfmt::skip]
    const REAL_313: [u64; 68] = [
        283320, 608, 632, 194968, 7272, 7264, 7344, 7400, 7656, 7640, 7648, 16, 7752, 0, 7768, 7760, 304, 0, 8, 16, 72, 152, 160, 232, 32, 80, 8, 0, 56, 72, 70, 208, 112, 120, 128, 136, 68, 52, 96, 104, 200, 16, 8, 416, 24, 88, 168, 32, 24, 16, 40, 24, 16, 48, 32, 40, 24, 16, 32, 16, 24, 40, 16, 32, 64, 32, 16, 40,
    ];

    #[test]
    fn versions_are_named() {
        assert_eq!(Head { hex: 0x030d00f0, free_threaded: false }.text(), "3.13.0");
        assert_eq!(Head { hex: 0x030e00c2, free_threaded: false }.text(), "3.14.0rc2");
        assert_eq!(Head { hex: 0x030f0b1a, free_threaded: false }.version(), Version::new(3, 15));
    }

    #[test]
    fn the_block_of_3_13_equals_the_table() {
        let memory = block(0x030d00f0, &REAL_313);
        let found = head(&memory, 0x1000).unwrap().unwrap();
        assert_eq!(layout(&memory, 0x1000, found).unwrap(), Layout::newest());
    }

    #[test]
    fn nonsense_is_refused_and_no_cookie_is_none() {
        let zeros = block(0x030d00f0, &[0; 80]);
        let found = head(&zeros, 0x1000).unwrap().unwrap();
        assert_eq!(layout(&zeros, 0x1000, found).unwrap_err().kind(), Kind::Malformed);
        let short = block(0x030d00f0, &[]);
        assert_eq!(layout(&short, 0x1000, found).unwrap_err().kind(), Kind::Gone);
        assert_eq!(head(&FakeMemory { pieces: vec![(0x1000, vec![0; 64])] }, 0x1000), Ok(None));
        assert!(head(&zeros, 0).is_err());
    }
}
