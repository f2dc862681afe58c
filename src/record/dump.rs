//! The plain data of a dump: where every thread of a process stands at one moment.
//!
//! In: nothing; `collect::dump` fills it. Out: `render::dump` prints it. Invariant: what was not measured is `None`; how far
//! a stack can be trusted stands beside it ([`Taken`], [`Ending`]).

use crate::clock::{Anchor, Mono};

use super::model::{Frame, Process};

/// A dump of one process or several.
#[derive(Debug, Clone, PartialEq)]
pub struct Dump {
    /// When it began, on both clocks.
    pub at: Anchor,
    /// How long it took, ns.
    pub took_ns: u64,
    /// The processes, in the order in which they were asked for.
    pub processes: Vec<ProcessDump>,
}

/// A process.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessDump {
    /// Who it is, and what runs in it.
    pub process: Process,
    /// Its command line.
    pub command: Vec<String>,
    /// The file that holds its interpreter, as the target sees its path.
    pub interpreter: Option<String>,
    /// Its GILs: one, or one for each interpreter that has its own. Empty without Python.
    pub gils: Vec<Gil>,
    /// Its threads, the main one first, then by number.
    pub threads: Vec<ThreadDump>,
    /// How long it was stopped, ns; `None` when it was not.
    pub stopped_ns: Option<u64>,
    /// What the reader should know: Python that cannot be read, rights that are missing.
    pub remarks: Vec<String>,
}

/// A GIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gil {
    /// Its address in the target.
    pub address: u64,
    /// Whether it was held.
    pub locked: bool,
    /// The thread that held it.
    pub holder: Option<u32>,
    /// Threads that waited for it.
    pub waiters: u32,
}

/// What a thread does, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// On a CPU, seen there.
    Running,
    /// Running or ready to run; not known which.
    Runnable,
    /// It waits and can be interrupted.
    Sleeping,
    /// It waits and cannot be interrupted: disk, page fault, driver.
    Uninterruptible,
    /// Stopped by a signal.
    Stopped,
    /// Stopped by a debugger.
    Traced,
    /// A worker of the kernel that waits for work.
    Idle,
    /// It has ended.
    Zombie,
    /// A letter that this list does not have.
    Other(char),
}

impl Doing {
    /// From the letter of `/proc/PID/stat`.
    pub fn from_letter(letter: char) -> Self {
        match letter {
            'R' => Self::Runnable,
            'S' => Self::Sleeping,
            'D' => Self::Uninterruptible,
            'T' => Self::Stopped,
            't' => Self::Traced,
            'I' => Self::Idle,
            'Z' | 'X' | 'x' => Self::Zombie,
            other => Self::Other(other),
        }
    }

    /// The word users see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Runnable => "runnable",
            Self::Sleeping => "sleeping",
            Self::Uninterruptible => "uninterruptible",
            Self::Stopped => "stopped",
            Self::Traced => "traced",
            Self::Idle => "idle",
            Self::Zombie => "ended",
            Self::Other(_) => "other",
        }
    }
}

/// What a thread waits in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wait {
    /// The system call's name, or its number where the name is not known.
    pub call: Option<String>,
    /// The system call's arguments as the thread passed them.
    pub args: Option<[u64; 6]>,
    /// The file descriptor it is about, and what is behind it.
    pub descriptor: Option<(u32, Option<String>)>,
    /// The kernel function it sleeps in.
    pub channel: Option<String>,
}

/// What a thread has to do with the GIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GilRole {
    /// It held the GIL.
    Holds,
    /// It waited for the GIL.
    Waits,
}

/// How a stack was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// While the thread slept, from first to last byte: one instant.
    Asleep,
    /// While the whole process stood still: one instant, the same for all threads.
    Stopped,
    /// At a timer tick on its CPU: one instant.
    Sampled,
    /// While it ran or kept waking up: parts may belong to different instants.
    Approximate,
    /// Not at all.
    Nothing,
}

impl Taken {
    /// The word in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asleep => "asleep",
            Self::Stopped => "stopped",
            Self::Sampled => "sampled",
            Self::Approximate => "approximate",
            Self::Nothing => "none",
        }
    }
}

/// How the native part of a stack ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// At the thread's entry.
    Root,
    /// At the thread's entry, through a frame pointer that was guessed: frames may be missing in between.
    Guessed,
    /// It goes on beyond what was copied.
    Truncated,
    /// At something that could not be followed.
    Lost,
}

impl Ending {
    /// The word in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Guessed => "guessed",
            Self::Truncated => "truncated",
            Self::Lost => "lost",
        }
    }
}

/// A variable of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// It is an argument of the function.
    pub argument: bool,
    /// Its value as text, cut, without secrets.
    pub value: String,
}

/// A frame of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpFrame {
    /// Where it is.
    pub frame: Frame,
    /// Native: it belongs to the Python interpreter.
    pub interpreter: bool,
    /// Its variables, when they were asked for and could be read.
    pub locals: Option<Vec<Variable>>,
}

/// A thread.
#[derive(Debug, Clone, PartialEq)]
pub struct ThreadDump {
    /// The kernel's thread id in perfkit's own PID namespace.
    pub tid: u32,
    /// The kernel's thread id in the target's own PID namespace, where that is another one.
    pub own_tid: Option<u32>,
    /// Its name (`comm`).
    pub name: String,
    /// The name that Python's `threading` has for it.
    pub python_name: Option<String>,
    /// Python's `threading.get_ident()`.
    pub python_id: Option<u64>,
    /// What it does.
    pub doing: Doing,
    /// What it waits in; `None` when it does not wait.
    pub wait: Option<Wait>,
    /// What it has to do with the GIL.
    pub gil: Option<GilRole>,
    /// When its stack was taken.
    pub at: Mono,
    /// How its stack was taken.
    pub taken: Taken,
    /// How the native part of its stack ends; `None` without a native part.
    pub ending: Option<Ending>,
    /// Its Python frames are all there.
    pub python_complete: Option<bool>,
    /// Python and native frames could be put in one order.
    pub merged: Option<bool>,
    /// Its frames, innermost first: kernel, then native and Python.
    pub frames: Vec<DumpFrame>,
    /// Why there is no stack, or less than a stack.
    pub remark: Option<String>,
}
