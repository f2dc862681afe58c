//! Where CPython keeps what, version by version: offsets in bytes on 64-bit little-endian builds with a GIL.
//!
//! In: a version. Out: a [`Layout`], flat, so that the walker in the kernel can take it as it is. Source: the DWARF of
//! release builds, by `scripts/python_layout.py`; a test repeats that for every interpreter on the machine. From 3.13 on
//! the target publishes most of these numbers itself (`debug_offsets.rs` reads them) and the row of the newest version
//! stands in for the rest. Limits: patch releases of one minor version are taken to agree, which CPython promises for
//! its public structures and has kept for these; debug and free-threaded builds differ and are refused elsewhere.

use super::version::Version;

/// How a thread state leads to its innermost Python frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameSource {
    /// `tstate->frame`, a `PyFrameObject` on the heap (up to 3.10).
    FrameObject,
    /// `tstate->cframe->current_frame`; the cframe lies on the C stack (3.11, 3.12).
    CFrame {
        /// Offset of the frame pointer in the cframe.
        current_frame: u32,
        /// Offset of the pointer to the outer cframe.
        previous: u32,
    },
    /// `tstate->current_frame` (3.13 and later).
    Direct,
}

/// In which form a frame says where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instr {
    /// `f_lasti`, an i32 in bytes of bytecode, -1 before the first instruction (3.8, 3.9).
    LastiBytes,
    /// `f_lasti`, an i32 in code units of 2 bytes (3.10).
    LastiUnits,
    /// The address of the instruction, a u64, inside the code object from `code_adaptive` on (3.11 and later).
    Pointer,
}

/// How an instance of a class defined in Python keeps its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attributes {
    /// In a dict, at the type's `tp_dictoffset` (3.8 to 3.10).
    Dict,
    /// Classes with a managed dict: values at object - 32, or else a dict at object - 24 (3.11).
    ValuesBefore,
    /// One word at object - 24: a dict, or if it is odd the address before that of the values (3.12).
    TaggedBefore,
    /// A dict at object - 24, or else values inside the object behind its `tp_basicsize` (3.13 and later).
    Inline,
}

/// The format of a code object's line table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineTable {
    /// `co_lnotab`: pairs of (byte delta, signed line delta) (3.8, 3.9).
    Lnotab,
    /// PEP 626 pairs of (bytes this entry covers, signed line delta or -128 for none) (3.10).
    Pairs,
    /// The location table with columns (3.11 and later).
    Locations,
}

/// The minor versions that have a row here.
const MINORS: std::ops::RangeInclusive<u8> = 8..=13;

macro_rules! layout {
    ($($(#[$doc:meta])* $field:ident: $kind:ty = [$($value:expr),+],)+) => {
        /// Offsets in bytes of the fields we read, and the forms in which they come. `None`: this version has no such
        /// field.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct Layout {
            $($(#[$doc])* pub $field: $kind,)+
        }

        impl Layout {
            /// Row `i` of the table, 0 for 3.8. Indexes constant arrays of six.
            const fn row(i: usize) -> Self {
                Self { $($field: { const VALUES: [$kind; 6] = [$($value),+]; VALUES[i] },)+ }
            }

            /// Every field with its value as text, in order (tests and `-v` output).
            pub fn fields(&self) -> Vec<(&'static str, String)> {
                vec![$((stringify!($field), format!("{:?}", self.$field)),)+]
            }
        }
    };
}

#[rustfmt::skip]
layout! {
    /// `_PyRuntime` to the newest interpreter (pointer).
    runtime_interpreters_head: u32 = [32, 32, 32, 40, 40, 632],
    /// `_PyRuntime` to the thread state that holds the GIL (pointer); `None` where each interpreter has a GIL.
    runtime_tstate_current: Option<u32> = [Some(1368), Some(568), Some(568), Some(576), None, None],
    /// `_PyRuntime` to the GIL, which lies inside it; `None` where `interp_gil` leads to it.
    runtime_gil: Option<u32> = [Some(1152), Some(352), Some(352), Some(360), None, None],
    /// Interpreter to the next older interpreter (pointer).
    interp_next: u32 = [0, 0, 0, 0, 0, 7264],
    /// Interpreter to its number (i64; 0 is the main one).
    interp_id: u32 = [16, 24, 24, 48, 8, 7272],
    /// Interpreter to its newest thread state (pointer).
    interp_threads_head: u32 = [8, 8, 8, 16, 72, 7344],
    /// Interpreter to the dict `sys.modules` (pointer).
    interp_modules: u32 = [56, 856, 856, 888, 944, 7656],
    /// Interpreter to its GIL (pointer); `None` where the runtime holds the only one.
    interp_gil: Option<u32> = [None, None, None, None, Some(384), Some(16)],
    /// GIL to the thread state that holds it or held it last (pointer).
    gil_last_holder: u32 = [8, 8, 8, 8, 8, 8],
    /// GIL to whether it is held (i32).
    gil_locked: u32 = [16, 16, 16, 16, 16, 16],
    /// GIL to the number of times it changed hands (u64).
    gil_switch_number: u32 = [24, 24, 24, 24, 24, 24],
    /// Thread state to the next older one (pointer).
    ts_next: u32 = [8, 8, 8, 8, 8, 8],
    /// Thread state to its interpreter (pointer).
    ts_interp: u32 = [16, 16, 16, 16, 16, 16],
    /// Thread state to `pthread_self()` of its thread (u64), on glibc and musl x86-64 the thread's `fs` base.
    ts_thread_id: u32 = [176, 176, 176, 152, 136, 152],
    /// Thread state to the kernel's thread id, in the target's own PID namespace (u64).
    ts_native_thread_id: Option<u32> = [None, None, None, Some(160), Some(144), Some(160)],
    /// Thread state to its innermost frame, or to the `CFrame` that has it; `frame_source` says which (pointer).
    ts_frame: u32 = [24, 24, 24, 56, 56, 72],
    /// Thread state to its innermost `CFrame` (pointer), a structure on the C stack of an eval call.
    ts_cframe: Option<u32> = [None, None, Some(48), Some(56), Some(56), None],
    /// `CFrame` to the current frame (pointer); in 3.10 it carries none.
    cframe_current_frame: Option<u32> = [None, None, None, Some(8), Some(0), None],
    /// `CFrame` to that of the calling eval function (pointer).
    cframe_previous: Option<u32> = [None, None, Some(8), Some(16), Some(8), None],
    /// Frame to its caller's frame (pointer).
    frame_previous: u32 = [24, 24, 24, 48, 8, 8],
    /// Frame to its code object (pointer; from 3.13 on any object, from 3.14 on tagged, see `tag_mask`).
    frame_code: u32 = [32, 32, 32, 32, 0, 0],
    /// Frame to where it stands; see `instr` for its form.
    frame_instr: u32 = [104, 104, 96, 56, 56, 56],
    /// Frame to who owns its memory (u8): 0 thread, 1 generator, 2 frame object, `owner_shim` and more the C stack.
    frame_owner: Option<u32> = [None, None, None, Some(69), Some(70), Some(70)],
    /// Frame to whether an eval function was called for it (u8).
    frame_is_entry: Option<u32> = [None, None, None, Some(68), None, None],
    /// Frame to its first local variable (array of pointers; from 3.14 on tagged).
    frame_localsplus: u32 = [360, 360, 352, 72, 72, 72],
    /// Code to its file name (str).
    code_filename: u32 = [104, 104, 104, 112, 112, 112],
    /// Code to its bare name (str).
    code_name: u32 = [112, 112, 112, 120, 120, 120],
    /// Code to its qualified name (str).
    code_qualname: Option<u32> = [None, None, None, Some(128), Some(128), Some(128)],
    /// Code to its first line (i32).
    code_firstlineno: u32 = [40, 40, 40, 72, 68, 68],
    /// Code to its line table (bytes); see `line_table` for its form.
    code_linetable: u32 = [120, 120, 120, 136, 136, 136],
    /// Code to its bytecode, inside the code object.
    code_adaptive: Option<u32> = [None, None, None, Some(184), Some(192), Some(200)],
    /// Code to its bytecode (bytes).
    code_bytecode: Option<u32> = [Some(48), Some(48), Some(48), None, None, None],
    /// Code to the number of positional arguments (i32).
    code_argcount: u32 = [16, 16, 16, 56, 52, 52],
    /// Code to the number of keyword-only arguments (i32).
    code_kwonlyargcount: u32 = [24, 24, 24, 64, 60, 60],
    /// Code to its flags (i32).
    code_flags: u32 = [36, 36, 36, 48, 48, 48],
    /// Code to the number of plain local variables, arguments included (i32).
    code_nlocals: u32 = [28, 28, 28, 80, 80, 80],
    /// Code to the names of its plain locals (tuple of str).
    code_varnames: Option<u32> = [Some(72), Some(72), Some(72), None, None, None],
    /// Code to the names of the locals that inner functions use (tuple of str).
    code_cellvars: Option<u32> = [Some(88), Some(88), Some(88), None, None, None],
    /// Code to the names of the outer variables it uses (tuple of str).
    code_freevars: Option<u32> = [Some(80), Some(80), Some(80), None, None, None],
    /// Code to the names of locals, cells and free variables (tuple of str).
    code_localsplusnames: Option<u32> = [None, None, None, Some(96), Some(96), Some(96)],
    /// Code to the kinds of these (bytes).
    code_localspluskinds: Option<u32> = [None, None, None, Some(104), Some(104), Some(104)],
    /// Object to its type (pointer).
    ob_type: u32 = [8, 8, 8, 8, 8, 8],
    /// Variable-sized object (tuple, list, bytes, before 3.12 int) to its number of items (i64).
    ob_size: u32 = [16, 16, 16, 16, 16, 16],
    /// Str to its length in characters (i64).
    str_length: u32 = [16, 16, 16, 16, 16, 16],
    /// Str to its kind, compact and ascii bits (u32).
    str_state: u32 = [32, 32, 32, 32, 32, 32],
    /// Shift of the kind in `str_state` (3 bits; then a bit compact, a bit ASCII).
    str_kind_shift: u32 = [2, 2, 2, 2, 2, 2],
    /// Compact ASCII str to its characters: the size of `PyASCIIObject`.
    str_ascii_data: u32 = [48, 48, 48, 48, 40, 40],
    /// Other compact str to its characters: the size of `PyCompactUnicodeObject`; there a str that is not compact has a pointer to them.
    str_compact_data: u32 = [72, 72, 72, 72, 56, 56],
    /// Bytes to its first byte.
    bytes_data: u32 = [32, 32, 32, 32, 32, 32],
    /// Tuple to its first item.
    tuple_items: u32 = [24, 24, 24, 24, 24, 24],
    /// List to its array of items (pointer).
    list_items: u32 = [24, 24, 24, 24, 24, 24],
    /// Cell to the object it holds (pointer).
    cell_value: u32 = [16, 16, 16, 16, 16, 16],
    /// Float to its value (f64).
    float_value: u32 = [16, 16, 16, 16, 16, 16],
    /// Int to its sign and number of digits (u64; digits above bit 3, sign 0 positive, 1 zero, 2 negative).
    long_tag: Option<u32> = [None, None, None, None, Some(16), Some(16)],
    /// Int to its first 30-bit digit (u32).
    long_digits: u32 = [24, 24, 24, 24, 24, 24],
    /// Dict to its number of items (i64).
    dict_used: u32 = [16, 16, 16, 16, 16, 16],
    /// Dict to its keys (pointer).
    dict_keys: u32 = [32, 32, 32, 32, 32, 32],
    /// Dict to its values, where they lie apart from the keys (pointer).
    dict_values: u32 = [40, 40, 40, 40, 40, 40],
    /// Keys to the number of slots in the index (i64).
    keys_size: Option<u32> = [Some(8), Some(8), Some(8), None, None, None],
    /// Keys to the logarithm of the number of slots in the index (u8).
    keys_log2_size: Option<u32> = [None, None, None, Some(8), Some(8), Some(8)],
    /// Keys to the logarithm of the bytes that the index takes (u8).
    keys_log2_index_bytes: Option<u32> = [None, None, None, Some(9), Some(9), Some(9)],
    /// Keys to the kind of the entries (u8): 0 hash, key, value; else key, value.
    keys_kind: Option<u32> = [None, None, None, Some(10), Some(10), Some(10)],
    /// Keys to the number of entries in use, deleted ones included (i64).
    keys_nentries: u32 = [32, 32, 32, 24, 24, 24],
    /// Keys to the index, which the entries follow.
    keys_indices: u32 = [40, 40, 40, 32, 32, 32],
    /// Set to its number of items (i64).
    set_used: u32 = [24, 24, 24, 24, 24, 24],
    /// Set to the number of slots of its table, less one (i64).
    set_mask: u32 = [32, 32, 32, 32, 32, 32],
    /// Set to its table of (key, hash) (pointer).
    set_table: u32 = [40, 40, 40, 40, 40, 40],
    /// Type to its name (pointer to a C string).
    type_name: u32 = [24, 24, 24, 24, 24, 24],
    /// Type to its flags (u64).
    type_flags: u32 = [168, 168, 168, 168, 168, 168],
    /// Type to its base type (pointer).
    type_base: u32 = [256, 256, 256, 256, 256, 256],
    /// Type to its dict (pointer; 3.12 and later: null for static types).
    type_dict: u32 = [264, 264, 264, 264, 264, 264],
    /// Type to the size of its instances (i64).
    type_basicsize: u32 = [32, 32, 32, 32, 32, 32],
    /// Type to the offset of the pointer to the instance's dict (i64; negative: from the end, 0: none).
    type_dictoffset: u32 = [288, 288, 288, 288, 288, 288],
    /// Heap type (a class of Python) to its qualified name (str).
    heap_type_qualname: u32 = [864, 856, 864, 864, 872, 872],
    /// Heap type to the keys that its instances share (pointer).
    heap_type_cached_keys: u32 = [872, 864, 872, 872, 880, 880],
    /// Module to its dict (pointer).
    module_dict: u32 = [16, 16, 16, 16, 16, 16],
    /// Function to its code.
    func_code: u32 = [16, 16, 48, 48, 48, 48],
    /// Function to its qualified name (str).
    func_qualname: u32 = [104, 104, 40, 40, 40, 40],
    /// Function to the cells of the outer variables that it uses (tuple, or null).
    func_closure: u32 = [48, 48, 72, 72, 72, 72],
    /// Classmethod and staticmethod to what they wrap.
    method_function: u32 = [16, 16, 16, 16, 16, 16],
    /// Property to its getter.
    property_getter: u32 = [16, 16, 16, 16, 16, 16],
    /// Code to its constants, the code objects of inner functions among them (tuple).
    code_consts: u32 = [56, 56, 56, 24, 24, 24],
    /// How an instance keeps its attributes.
    attributes: Attributes = [
        Attributes::Dict, Attributes::Dict, Attributes::Dict, Attributes::ValuesBefore, Attributes::TaggedBefore,
        Attributes::Inline
    ],
    /// Values of a dict that shares its keys to the first one.
    values_data: u32 = [0, 0, 0, 0, 0, 8],
    /// How to get from a thread state to its innermost frame.
    frame_source: FrameSource = [
        FrameSource::FrameObject, FrameSource::FrameObject, FrameSource::FrameObject,
        FrameSource::CFrame { current_frame: 8, previous: 16 }, FrameSource::CFrame { current_frame: 0, previous: 8 },
        FrameSource::Direct
    ],
    /// The form of `frame_instr`.
    instr: Instr = [
        Instr::LastiBytes, Instr::LastiBytes, Instr::LastiUnits, Instr::Pointer, Instr::Pointer, Instr::Pointer
    ],
    /// The form of the bytes at `code_linetable`.
    line_table: LineTable = [
        LineTable::Lnotab, LineTable::Lnotab, LineTable::Pairs, LineTable::Locations, LineTable::Locations, LineTable::Locations
    ],
    /// From this value on, `frame_owner` marks the shim frame of an eval call: it lies on the C stack and is not shown.
    owner_shim: Option<u8> = [None, None, None, None, Some(3), Some(3)],
    /// Bits to clear in `frame_code` and the locals before they are pointers (3.14 and later: 3).
    tag_mask: u64 = [0, 0, 0, 0, 0, 0],
}

impl Layout {
    /// The layout of `version` as built in here; `None` for versions without a row.
    pub fn of(version: Version) -> Option<Self> {
        (version.major == 3 && MINORS.contains(&version.minor)).then(|| Self::row(usize::from(version.minor - 8)))
    }

    /// The newest row: the best guess for what later versions do not publish.
    pub const fn newest() -> Self {
        Self::row(5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_exist_for_the_supported_versions_alone() {
        let of = |minor| Layout::of(Version::new(3, minor));
        assert_eq!(of(7), None);
        assert_eq!(of(14), None);
        assert_eq!(of(8).map(|l| l.ts_thread_id), Some(176));
        assert_eq!(of(10).and_then(|l| l.ts_cframe), Some(48));
        assert_eq!(of(12).map(|l| l.frame_code), Some(0));
        assert_eq!(of(13), Some(Layout::newest()));
    }
}
