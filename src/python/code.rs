//! Code objects, resolved once: file, name, lines.
//!
//! In: the address of a code object. Out: a [`Code`] of our own, which outlives the object. Limits: up to 3.10 a code
//! object does not know its qualified name; the bare name stands in.

use super::heap::{Heap, half, word};
use super::layout::{Instr, Layout};
use super::lines::Lines;
use crate::os::memory::Fault;

/// Largest line table read: more than a million lines in one function. Tables of a few KiB are common and generated code
/// reaches megabytes; to drop a table would be to move all its samples elsewhere.
const TABLE_LIMIT: usize = 16 << 20;

/// A resolved code object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// Where it was in the target.
    pub address: u64,
    /// Its file, as the interpreter names it.
    pub file: String,
    /// Its bare name.
    pub name: String,
    /// Its qualified name, `Class.method`; up to 3.10 the bare name.
    pub qualname: String,
    /// Line of its first line (`def` or decorator).
    pub first_line: i32,
    /// Its lines by instruction.
    pub lines: Lines,
    /// What tells it from another code object that took its place: pointers to its name and to its line table.
    pub marks: (u64, u64),
}

impl Code {
    /// Reads the code object at `address`. With `code_type` (the address of `PyCode_Type`) anything else is a fault.
    pub fn read(heap: Heap<'_>, address: u64, code_type: Option<u64>) -> Result<Self, Fault> {
        let l = heap.layout;
        let last = [Some(l.code_linetable), l.code_qualname, Some(l.code_firstlineno), Some(l.code_name)];
        let len = last.into_iter().flatten().max().map_or(0, |o| o as usize + 8);
        let fault = Fault { at: address, len };
        let bytes = heap.memory.bytes_at(address, len, 4096)?;
        let field = |offset| word(&bytes, offset).ok_or(fault);
        let type_object = field(l.ob_type)?;
        let is_code = match code_type {
            Some(code_type) => type_object == code_type,
            None => heap.type_name(type_object)? == "code",
        };
        if !is_code {
            return Err(fault);
        }
        let first_line = half(&bytes, l.code_firstlineno).ok_or(fault)? as i32;
        let (name_at, table_at) = (field(l.code_name)?, field(l.code_linetable)?);
        let name = heap.str(name_at)?;
        let qualname = match l.code_qualname {
            Some(offset) => heap.str(field(offset)?)?,
            None => name.clone(),
        };
        let table = heap.bytes(table_at, TABLE_LIMIT)?;
        Ok(Self {
            address,
            file: heap.str(field(l.code_filename)?)?,
            name,
            qualname,
            first_line,
            lines: Lines::new(l.line_table, first_line, table),
            marks: (name_at, table_at),
        })
    }

    /// The line where its definition begins, from 1; `None` for code without one.
    pub fn first_line(&self) -> Option<u32> {
        u32::try_from(self.first_line).ok().filter(|&line| line > 0)
    }

    /// Bytes of memory that this takes, for caches that must not grow with what a target claims.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.file.len() + self.name.len() + self.qualname.len() + self.lines.weight()
    }

    /// The line of a frame of this code that stands at `instr`, in the form that `layout.instr` says.
    pub fn line(&self, layout: &Layout, instr: u64) -> Option<u32> {
        self.lines.at(lasti(layout, self.address, instr))
    }
}

/// Offset of the instruction in bytes of bytecode; negative before the first one.
pub fn lasti(layout: &Layout, code: u64, instr: u64) -> i64 {
    match layout.instr {
        Instr::LastiBytes => i64::from(instr as u32 as i32),
        Instr::LastiUnits => i64::from(instr as u32 as i32) * 2,
        Instr::Pointer => {
            let start = code.wrapping_add(u64::from(layout.code_adaptive.unwrap_or(0)));
            instr.wrapping_sub(start) as i64
        }
    }
}
