//! Addresses to names: module files held open from attach, ELF symbols while recording, inlined frames at the end.
//!
//! In: mappings and run-time addresses. Out: function names, and at the end `record::Frame`s with their inlined functions
//! and lines. Invariants: no look-up by "nearest symbol": outside of any symbol's own range there is no name; foreign
//! files are read by `pread`, bounded, and never trusted.

mod debuginfo;
mod demangle;
mod elf64;
mod files;
mod helper;
mod inlines;
mod jit;
mod kernel;
mod modules;
mod namer;
mod plt;
mod table;
mod unwind;

pub use debuginfo::SearchPaths;
pub use demangle::demangle;
pub use helper::{INLINES_SUBCOMMAND, serve_inlines};
pub use inlines::{Inlined, Inliner, Wanted};
pub use jit::{Jit, JitName};
pub use kernel::{Kernel, KernelName};
pub use modules::{Module, ModuleId, Modules};
pub use namer::{Named, Namer};
pub use unwind::{Bytes as SectionBytes, UnwindSections};
