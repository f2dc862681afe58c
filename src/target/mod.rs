//! The process under observation: who it is, what is mapped into it, which runtimes it holds, how it may be attached.
//!
//! In: `/proc` and ELF files, read through the target's own root. Out: [`Identity`], [`Mapping`]s. Invariant: pid and
//! start time together are the identity; a reused pid is never taken for the target.

mod cgroup;
mod container;
mod family;
mod identity;
mod launch;
mod maps;
pub mod memory;
mod process;
mod select;

pub use cgroup::{Cgroup, CgroupMemory};
pub use family::{Member, ProcessTree, children};
pub use identity::{Identity, Pinned};
pub use launch::{Launched, Program, RunAs};
pub use maps::{Mapping, Maps};
pub use process::{describe, is_running, start_ticks};
pub use select::{Selected, Wanted, select};
