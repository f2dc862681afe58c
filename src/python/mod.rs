//! CPython seen from outside: which interpreter a process holds, what its threads run, at which line, with which locals.
//!
//! In: [`Memory`](crate::os::memory::Memory) of the target, its [`Maps`](crate::target::Maps) and its ELF files. Out:
//! plain data. Invariant: nothing here stops, writes to or runs code in the target; memory is foreign, so every loop is
//! bounded, every length checked, and a lie in it costs a wrong answer at most, never a panic or a hang.

mod budget;
pub mod census;
pub mod code;
pub mod debug_offsets;
mod dicts;
pub mod frames;
pub mod gil;
pub mod heap;
#[cfg(test)]
mod hostile;
mod image;
pub mod layout;
pub mod lines;
pub mod locals;
mod locate;
pub mod names;
pub mod qualnames;
mod secrets;
pub mod values;
mod version;

pub use budget::Budget;
pub use code::Code;
pub use dicts::ENTRY_LIMIT;
pub use frames::{Cut, Frame, Thread, Walked};
pub use locate::{Located, Runtime, locate};
pub use version::{FullVersion, Version};
