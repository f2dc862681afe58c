//! The CPU collector: samples of stacks and the time they stand for.
//!
//! ```text
//! ticker (perf events, eBPF) -> sampler -> process (mappings, unwinder, Python) -> merge -> recorder
//!                                             naming -> the thread that names addresses
//! ```

mod account;
mod assemble;
mod kerneltime;
mod late;
mod memory;
pub mod merge;
mod naming;
pub(in crate::collect) mod once;
mod perf;
mod period;
mod perthread;
mod pinned;
mod process;
mod pulse;
mod python;
mod reader;
mod reason;
mod roster;
mod sampler;
mod scheduler;
mod sleepers;
mod snapshot;
mod states;
mod switches;
mod ticker;
mod waits;
mod walk;
mod watch;

use crate::clock::Mono;
use crate::collect::Running;
use crate::error::Result;

pub(in crate::collect) use late::{Fit, merge_late};
pub(in crate::collect) use process::load as load_module;
pub(in crate::collect) use python::merge_rule;

pub use memory::MemorySampler;
pub use naming::{Ask, Naming, Unnamed, What};
pub use perf::PerfSampler;
pub use process::Shared;
pub use sampler::{Kept, Sampler, Tally, Target, Wanted};

/// A rung of the ladder: an engine that samples stacks.
pub trait Engine: Running {
    /// Lets the first tick come; says since when everything counts.
    fn start(&mut self, now: Mono) -> Result<Mono>;
    /// Counts so far.
    fn tally(&self) -> Tally;
    /// Whether any target is left.
    fn has_targets(&self) -> bool;
    /// Pythons whose frames cannot be read: pid and reason.
    fn refusals(&self) -> Vec<(u32, String)>;
}
