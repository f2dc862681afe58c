//! A limit on reading: memory that stops answering after so much work.
//!
//! Containers in containers multiply, and in memory that lies every bound is met by the worst case of all others. One
//! budget over them all makes the whole bounded, wherever the reads come from.

use std::cell::Cell;

use crate::os::memory::{Fault, Memory};

/// Bytes that cost as much as a read of their own.
const BYTES_A_READ: usize = 4096;

/// Memory that can be read `reads` times (4 KiB each), then not any more.
pub struct Budget<'a> {
    memory: &'a dyn Memory,
    granted: u64,
    left: Cell<u64>,
}

impl<'a> Budget<'a> {
    /// Grants `reads` reads of `memory`.
    pub fn new(memory: &'a dyn Memory, reads: u64) -> Self {
        Self { memory, granted: reads, left: Cell::new(reads) }
    }

    /// Reads done so far.
    pub fn spent(&self) -> u64 {
        self.granted.saturating_sub(self.left.get())
    }

    /// Whether reads were refused for want of budget.
    pub fn is_spent(&self) -> bool {
        self.left.get() == 0
    }
}

impl std::fmt::Debug for Budget<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budget").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Memory for Budget<'_> {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let cost = 1 + (into.len() / BYTES_A_READ) as u64;
        let Some(left) = self.left.get().checked_sub(cost) else {
            self.left.set(0);
            return Err(Fault { at, len: into.len() });
        };
        self.left.set(left);
        self.memory.read(at, into)
    }
}
