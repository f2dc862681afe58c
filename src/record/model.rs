//! The plain data of a recording: ids, frames, samples, marks and losses.

use crate::clock::Mono;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);
    };
}
id!(/// A row of `process`.
    ProcessId);
id!(/// A row of `thread`.
    ThreadId);
id!(/// A row of `frame`.
    FrameId);
id!(/// A row of `stack`: the leaf of a path through the parent-pointer tree. [`StackId::EMPTY`] is the empty stack.
    StackId);

impl StackId {
    /// The stack without a frame; it has no row.
    pub const EMPTY: Self = Self(0);
}

/// A process seen by the recording. Pid and start time together are its identity.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// The pid in perfkit's own PID namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot (`/proc/PID/stat` field 22).
    pub start_ticks: u64,
    /// The parent's pid when first seen.
    pub parent: u32,
    /// The short name (`comm`).
    pub name: String,
    /// Path of the executable as the target sees it.
    pub exe: String,
    /// What runs in it: `CPython 3.11.7`, `native`.
    pub runtime: String,
}

/// A thread of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// The process it belongs to.
    pub process: ProcessId,
    /// The kernel's thread id in perfkit's own PID namespace.
    pub tid: u32,
    /// Its name (`comm`).
    pub name: String,
}

/// Where a frame comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrameKind {
    /// A Python function at a line.
    Python,
    /// Compiled code of a module file.
    Native,
    /// The kernel.
    Kernel,
    /// Code made at run time, named by `/tmp/perf-PID.map` or not at all.
    Jit,
    /// Not code: a remark about the stack, such as `[truncated]`.
    Label,
}

impl FrameKind {
    /// The word that stands in the `frame.kind` column and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Native => "native",
            Self::Kernel => "kernel",
            Self::Jit => "jit",
            Self::Label => "label",
        }
    }

    /// The kind that `name` prints.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Python, Self::Native, Self::Kernel, Self::Jit, Self::Label].into_iter().find(|k| k.name() == name)
    }
}

/// One frame: a code location, named or still to be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Where it comes from.
    pub kind: FrameKind,
    /// Python: the qualified name. Native, JIT, kernel: the demangled symbol, `None` while (or if it stays) unknown.
    pub function: Option<String>,
    /// The source file, where known.
    pub file: Option<String>,
    /// The source line, from 1, where known.
    pub line: Option<u32>,
    /// Python: the line where the function's definition begins (`co_firstlineno`), from 1. `None` for other kinds.
    pub first_line: Option<u32>,
    /// Native: the module's path as the target sees it. Kernel: the kernel module, if any.
    pub module: Option<String>,
    /// Native: the address in the module's own numbering (as in its ELF file). Kernel, JIT: the run-time address.
    pub address: Option<u64>,
    /// Functions inlined at this address, outermost first; the frame itself is outside of them all.
    pub inlines: Vec<Inline>,
}

/// A function that the compiler inlined into a native frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inline {
    /// Its demangled name.
    pub function: String,
    /// Its source file at the sampled address.
    pub file: Option<String>,
    /// Its line at the sampled address.
    pub line: Option<u32>,
}

/// A node of the tree of stacks: a frame below its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stack {
    /// The caller's node, [`StackId::EMPTY`] for a root.
    pub parent: StackId,
    /// The frame of this node.
    pub frame: FrameId,
}

/// What a thread was doing while the time of a sample passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// It ran.
    OnCpu,
    /// It waited for something other than a CPU; the sample's reason says for what.
    OffCpu,
    /// It could run and waited for a CPU.
    Runnable,
    /// Read from memory at a moment when `/proc` called it running or runnable; not known which (lowest rungs).
    Active,
}

impl State {
    /// The number in the `sample.state` column.
    pub fn code(self) -> i64 {
        self as i64
    }

    /// The state with that number.
    pub fn from_code(code: i64) -> Option<Self> {
        [Self::OnCpu, Self::OffCpu, Self::Runnable, Self::Active].into_iter().find(|s| s.code() == code)
    }

    /// The word users see.
    pub fn name(self) -> &'static str {
        match self {
            Self::OnCpu => "on-cpu",
            Self::OffCpu => "off-cpu",
            Self::Runnable => "runnable",
            Self::Active => "active",
        }
    }
}

/// What is known about the quality of a sample; bits of the `sample.flags` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SampleFlags(pub u32);

impl SampleFlags {
    /// The thread held the GIL.
    pub const GIL: u32 = 1;
    /// The target has Python, and this thread's Python frames are in the stack.
    pub const PYTHON: u32 = 1 << 1;
    /// The native unwind reached the thread's entry.
    pub const ROOTED: u32 = 1 << 2;
    /// Python and native frames could not be put in one order; they stand in two blocks.
    pub const UNMERGED: u32 = 1 << 3;
    /// Frames at the root are missing: the stack is deeper than what was copied.
    pub const TRUNCATED: u32 = 1 << 4;
    /// The thread has a Python state whose frames could not be read.
    pub const PYTHON_LOST: u32 = 1 << 5;
    /// The Python frames were read a moment after the sample and may be torn (rungs without eBPF).
    pub const APPROXIMATE: u32 = 1 << 6;
    /// The thread has a Python state (so Python frames were to be expected).
    pub const HAS_PYTHON: u32 = 1 << 7;

    /// Whether `bit` is set.
    pub fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }
}

/// A stack and the time it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// When it was taken; for off-CPU and runnable intervals, when the interval began.
    pub at: Mono,
    /// The thread.
    pub thread: ThreadId,
    /// Its stack.
    pub stack: StackId,
    /// The time it stands for, ns: the sampling period, or the (weighted) length of the interval.
    pub weight_ns: u64,
    /// What the thread did in that time.
    pub state: State,
    /// Off-CPU: what it waited for (`futex`, `GIL`, `epoll`, `disk`, `sleep`, `socket`, `pipe`, `other`, …).
    pub reason: Option<&'static str>,
    /// What is known about its quality.
    pub flags: SampleFlags,
}

/// One value of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// When it was read.
    pub at: Mono,
    /// The metric's name, `self.cpu_ns`.
    pub metric: &'static str,
    /// The thread, pool or endpoint it is about; empty for the process or host as a whole.
    pub scope: String,
    /// The value in the metric's unit.
    pub value: f64,
}

/// Something that happened: a phase, a snapshot, the target's exec, fork or exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// When.
    pub at: Mono,
    /// Of what kind: `start`, `stop`, `exit`, `exec`, `fork`, `note`.
    pub kind: &'static str,
    /// One line for the reader.
    pub text: String,
}

/// Something that should be in the recording and is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// From when.
    pub from: Mono,
    /// Until when.
    pub to: Mono,
    /// Which collector lost it: `cpu`, `off-cpu`.
    pub source: &'static str,
    /// How many samples, intervals or readings.
    pub count: u64,
    /// Why: `ring full`, `throttled`, `queue full`.
    pub why: String,
}

/// Everything a collector can say.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A stack with the time it stands for.
    Sample(Sample),
    /// A value.
    Reading(Reading),
    /// Something that happened.
    Mark(Mark),
    /// Something missing.
    Loss(Loss),
}
