//! What is alive in the heap of a CPython process, read while it runs: types, containers, and who holds them.
//!
//! In: the target's memory, its mappings and its [`Runtime`](super::Runtime). Out: a [`Census`] a scan; [`Holders`]. The scan
//! looks at pymalloc's pools (`pools`), which hold every object of up to 512 bytes, whether the collector of garbage knows it
//! or not; it follows no list, so that a heap that changes under it costs a wrong block at most. Invariants: the target is
//! neither stopped nor written to; only pages that are there are read; memory of ours grows with the number of types and of
//! large containers, not with that of objects. Limits: objects over 512 bytes, and those of an interpreter that runs with
//! `PYTHONMALLOC=malloc`, are not seen; what the census misses is said in [`Census::missing`].

mod holders;
mod pages;
mod pools;
mod scan;
mod types;

pub use holders::{Held, Holders};
pub use scan::{Census, Container, Library, Scanner, TypeTotal};
pub use types::{Shape, TypeInfo};
