//! What of a recording is looked at, and how fine: the analysis side of `cpu` and `report` flags.

use super::slice::Slice;
use crate::record::State;

/// A set of thread states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct States(u8);

impl States {
    /// No state.
    pub const NONE: Self = Self(0);
    /// Running; with the memory-reading sampler, running or runnable.
    pub const CPU: Self = Self(1 << State::OnCpu as u8 | 1 << State::Active as u8);
    /// Waiting for something other than a CPU.
    pub const OFF_CPU: Self = Self(1 << State::OffCpu as u8);
    /// Waiting for something other than a CPU, or for a CPU.
    pub const WAITING: Self = Self(1 << State::OffCpu as u8 | 1 << State::Runnable as u8);
    /// Every state: all of the wall time.
    pub const ALL: Self = Self(Self::CPU.0 | Self::WAITING.0);

    /// The set of one.
    pub fn one(state: State) -> Self {
        Self(1 << state as u8)
    }

    /// Whether `state` is in it.
    pub fn has(self, state: State) -> bool {
        self.0 & Self::one(state).0 != 0
    }

    /// Both.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What both have.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether a state of `other` is in it.
    pub fn meets(self, other: Self) -> bool {
        self.and(other) != Self::NONE
    }
}

/// How fine Python frames are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    /// By line: `tick (npc/world.py:88)`.
    #[default]
    Line,
    /// By function, named with the line of its definition (`--function`): `tick (npc/world.py:80)`.
    Definition,
    /// By name and file (`--nolineno`): `tick (npc/world.py)`.
    Name,
}

/// How Python file names are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileNames {
    /// Relative to site-packages, the standard library or the project's common directory.
    #[default]
    Short,
    /// As the target has them.
    Full,
}

/// Which frames of a stack are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    /// Kernel frames.
    pub kernel: bool,
    /// Native frames and those of JIT compilers.
    pub native: bool,
}

impl Layers {
    /// Everything.
    pub const ALL: Self = Self { kernel: true, native: true };
    /// Python frames alone (`--python-only`).
    pub const PYTHON: Self = Self { kernel: false, native: false };
}

/// What stands at the root of flame graphs and collapsed stacks, below `all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// One root a process; without effect when there is only one.
    pub processes: bool,
    /// One root a thread.
    pub threads: bool,
}

/// What of a recording is looked at. The default is everything that was recorded, one root a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The stretch of time.
    pub slice: Slice,
    /// The states that count.
    pub states: States,
    /// Only samples whose thread held the GIL.
    pub gil_only: bool,
    /// Only these thread ids; empty for all.
    pub threads: Vec<u32>,
    /// The frames shown.
    pub layers: Layers,
    /// How fine Python frames are told apart.
    pub detail: Detail,
    /// How file names are written.
    pub file_names: FileNames,
    /// The roots.
    pub split: Split,
}

impl Default for Selection {
    fn default() -> Self {
        Self {
            slice: Slice::default(),
            states: States::ALL,
            gil_only: false,
            threads: Vec::new(),
            layers: Layers::ALL,
            detail: Detail::Line,
            file_names: FileNames::Short,
            split: Split { processes: true, threads: false },
        }
    }
}

impl Selection {
    /// `--mode cpu`: the time on a CPU.
    pub fn cpu() -> Self {
        Self { states: States::CPU, ..Self::default() }
    }

    /// `--mode off-cpu`: the time waiting, for a CPU too.
    pub fn off_cpu() -> Self {
        Self { states: States::WAITING, ..Self::default() }
    }

    /// `--mode wall`: all of the time.
    pub fn wall() -> Self {
        Self::default()
    }

    /// `--mode gil`: the time on a CPU while holding the GIL.
    pub fn gil() -> Self {
        Self { states: States::CPU, gil_only: true, ..Self::default() }
    }
}
