//! The CPU collector: samples of stacks and the time they stand for.
//!
//! ```text
//! ticker (perf events, eBPF) -> sampler -> process (mappings, unwinder, Python) -> merge -> recorder
//!                                             naming -> the thread that names addresses
//! ```

pub mod merge;
mod naming;
mod process;
mod python;
mod sampler;
mod ticker;

pub use naming::{Naming, Unnamed, What};
pub use sampler::{Sampler, Tally, Target, Wanted};
