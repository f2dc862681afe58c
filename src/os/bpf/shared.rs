//! `shared.h` in Rust: what the eBPF programs and user space tell each other. Same order, same sizes.

#![allow(unsafe_code, reason = "the structures are plain data for the kernel's maps")]

/// Python frames and entry marks of one sample at most.
pub const MAX_FRAMES: usize = 512;
/// `PyFrame::at` of an entry mark.
pub const ENTRY_MARK: u32 = u32::MAX;
/// The end of a wait of so long is told whether or not its start was.
pub const LONG_WAIT_NS: u64 = 20_000_000;

/// How the programs behave; set once at load.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Config {
    /// Inode of perfkit's PID namespace, 0 when it is the initial one.
    pub own_pid_ns: u32,
    /// Children of a target become targets.
    pub follow_forks: u32,
    /// Length of a clock tick (`sysconf(_SC_CLK_TCK)`) in ns.
    pub clock_tick_ns: u32,
    /// Switches are reported.
    pub off_cpu: u32,
    /// Stacks of switches to take, a CPU and 100 ms.
    pub switch_budget: u32,
    /// 0.
    pub reserved: u32,
}

/// Where things lie in a target's CPython, offsets in bytes; all 0 for a target without.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of python::Layout, documented there")]
pub struct Python {
    pub runtime: u64,
    pub code_type: u64,
    pub frame_source: u32,
    pub entry_rule: u32,
    pub interpreters_head: u32,
    pub interp_next: u32,
    pub threads_head: u32,
    pub ts_next: u32,
    pub ts_interp: u32,
    pub ts_thread_id: u32,
    pub ts_frame: u32,
    pub ts_cframe: u32,
    pub cframe_current_frame: u32,
    pub cframe_previous: u32,
    pub frame_size: u32,
    pub frame_previous: u32,
    pub frame_code: u32,
    pub frame_instr: u32,
    pub frame_owner: u32,
    pub frame_is_entry: u32,
    pub code_size: u32,
    pub code_firstlineno: u32,
    pub code_name: u32,
    pub code_linetable: u32,
    pub gil_rule: u32,
    pub gil_holder: u32,
    pub gil_locked: u32,
    pub gil_pointer: u32,
}

/// A process to sample.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Target {
    /// Start time in clock ticks.
    pub start_tick: u64,
    /// User space's number for it.
    pub id: u32,
    /// 0.
    pub reserved: u32,
    /// Its Python.
    pub python: Python,
}

/// How many stacks of switches are taken in 100 ms: by a thread, and by a CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Thinning {
    /// Start of the present 100 ms.
    pub window_ns: u64,
    /// Switches seen in them.
    pub switches: u32,
    /// Stacks taken since the share was last set.
    pub stacks: u32,
    /// Switches that each stack stands for, in 1/256; 0 at first.
    pub share: u32,
    /// 0.
    pub reserved: u32,
}

/// Exact times of a thread.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct ThreadTimes {
    /// Start of the present interval, ns.
    pub since_ns: u64,
    /// Off the CPU: when it was woken, 0 before.
    pub woken_ns: u64,
    /// Number of the present off-CPU interval.
    pub sequence: u64,
    /// Time on a CPU in ended intervals.
    pub on_ns: u64,
    /// Time waiting in ended intervals.
    pub off_ns: u64,
    /// Time runnable in ended intervals.
    pub runnable_ns: u64,
    /// Whether it is off the CPU.
    pub off: u32,
    /// Task state with which it left it.
    pub state: u32,
    /// User space was told of the start of this interval.
    pub told: u32,
    /// The target it belongs to.
    pub target: u32,
    /// Which of its switches have their stacks taken.
    pub thinning: Thinning,
}

/// What a CPU counted.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Timer ticks, whoever ran.
    pub ticks: u64,
    /// Time of the last.
    pub last_tick_ns: u64,
    /// Ticks that hit a target.
    pub target_ticks: u64,
    /// Samples without room in the ring.
    pub lost: u64,
    /// Time in the timer's program for targets.
    pub run_ns: u64,
    /// All switches of targets.
    pub switches_all: u64,
    /// Switch records without room in the ring.
    pub switch_lost: u64,
    /// Time in the switch program for targets.
    pub switch_run_ns: u64,
    /// Switches whose stack was not taken.
    pub thinned: u64,
    /// Which of the switches have their stacks taken that the threads' own thinning lets through.
    pub thinning: Thinning,
    /// Threads that switched in the present window.
    pub threads: u32,
    /// Stacks that each may take in it.
    pub quota: u32,
}

// SAFETY: repr(C), only integers, no padding between them, any bit pattern is a value.
unsafe impl aya::Pod for Config {}
// SAFETY: as above.
unsafe impl aya::Pod for Target {}
// SAFETY: as above.
unsafe impl aya::Pod for ThreadTimes {}
// SAFETY: as above.
unsafe impl aya::Pod for Counters {}

const _: () = assert!(size_of::<Python>() == 120 && size_of::<Target>() == 136);
const _: () = assert!(size_of::<ThreadTimes>() == 88 && size_of::<Counters>() == 104);

/// What kind of record a program wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleKind {
    /// A timer tick hit a target.
    Cpu,
    /// A target's thread left a CPU.
    SwitchOut,
}

/// `sample.flags`.
pub mod flag {
    /// The thread has a Python state.
    pub const HAS_TSTATE: u32 = 1;
    /// It holds the GIL.
    pub const HOLDS_GIL: u32 = 2;
    /// A frame could not be read.
    pub const PY_LOST: u32 = 4;
    /// More than [`super::MAX_FRAMES`].
    pub const PY_TRUNCATED: u32 = 8;
    /// Waits for a block device.
    pub const IO_WAIT: u32 = 16;
}

/// Bytes before the frames.
const HEAD: usize = 72;

/// The head of a sample that a program wrote, and its Python frames.
#[derive(Debug, Clone)]
pub struct Sample<'a> {
    /// Timer or switch.
    pub kind: SampleKind,
    /// Time since this CPU's last tick, ns.
    pub weight_ns: u64,
    /// Number of the off-CPU interval.
    pub sequence: u64,
    /// [`flag`] bits.
    pub flags: u32,
    /// Switch out: the task state.
    pub state: u32,
    /// Switch out: how many switches this one stands for, in 1/256.
    pub share: u32,
    /// Switch out: the system call it waits in; `None` outside of one (a page fault, a preemption).
    pub system_call: Option<u32>,
    /// Switch out: the call's first argument.
    pub argument: u64,
    /// Switch out: the Python thread state that holds the GIL, 0 when nobody does or it is not known.
    pub gil_holder: u64,
    frames: &'a [u8],
}

/// A Python frame as the program found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PyFrame {
    /// The code object, or with [`ENTRY_MARK`] the C-stack address of the eval call.
    pub code: u64,
    /// Where in it: ≥ 3.11 instruction pointer minus code address, before `f_lasti`; or [`ENTRY_MARK`].
    pub at: u32,
    /// Fingerprint of the code object, 0 when it could not be read.
    pub check: u32,
}

impl<'a> Sample<'a> {
    /// Takes the raw part of a stack record apart; `None` when it is not one of ours.
    pub fn parse(raw: &'a [u8]) -> Option<Self> {
        let word = |i: usize| raw.get(i * 8..i * 8 + 8)?.try_into().ok().map(u64::from_le_bytes);
        let half = |i: usize| raw.get(24 + i * 4..28 + i * 4)?.try_into().ok().map(u32::from_le_bytes);
        let kind = match half(0)? {
            0 => SampleKind::Cpu,
            1 => SampleKind::SwitchOut,
            _ => return None,
        };
        let n = half(5)? as usize;
        let frames = raw.get(HEAD..HEAD.checked_add(n.checked_mul(16)?)?)?;
        Some(Self {
            kind,
            weight_ns: word(0)?,
            sequence: word(2)?,
            flags: half(1)?,
            state: half(3)?,
            share: half(4)?,
            system_call: Some(half(10)?).filter(|n| *n != u32::MAX),
            argument: word(6)?,
            gil_holder: word(7)?,
            frames,
        })
    }

    /// The Python frames and entry marks, leaf first.
    pub fn frames(&self) -> impl Iterator<Item = PyFrame> + use<'a> {
        self.frames.chunks_exact(16).map(|c| PyFrame {
            code: u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]]),
            at: u32::from_le_bytes([c[8], c[9], c[10], c[11]]),
            check: u32::from_le_bytes([c[12], c[13], c[14], c[15]]),
        })
    }
}

/// The end of an off-CPU interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwitchIn {
    /// Time from leaving the CPU to coming back, ns.
    pub away_ns: u64,
    /// The part of it after the wake-up, ns.
    pub runnable_ns: u64,
    /// Number of the interval.
    pub sequence: u64,
    /// The thread.
    pub tid: u32,
    /// User space was told of its beginning; else it may have found the interval by itself.
    pub told: bool,
}

impl SwitchIn {
    /// Takes the raw part of a plain record apart.
    pub fn parse(raw: &[u8]) -> Option<Self> {
        let word = |i: usize| raw.get(i * 8..i * 8 + 8)?.try_into().ok().map(u64::from_le_bytes);
        let half = |at: usize| raw.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let (tid, told) = (half(24)?, half(28)? != 0);
        Some(Self { away_ns: word(0)?, runnable_ns: word(1)?, sequence: word(2)?, tid, told })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_and_its_cuts() {
        let mut raw = Vec::new();
        for w in [10_u64, 0, 3] {
            raw.extend_from_slice(&w.to_le_bytes());
        }
        for h in [0_u32, flag::HOLDS_GIL, 1, 0, 256, 2] {
            raw.extend_from_slice(&h.to_le_bytes());
        }
        raw.extend_from_slice(&[0; 24]);
        for f in [(0x1000_u64, 4_u32, 5_u32), (0x7fff, ENTRY_MARK, 0)] {
            raw.extend_from_slice(&f.0.to_le_bytes());
            raw.extend_from_slice(&f.1.to_le_bytes());
            raw.extend_from_slice(&f.2.to_le_bytes());
        }
        let s = Sample::parse(&raw).unwrap();
        assert_eq!((s.kind, s.weight_ns, s.flags), (SampleKind::Cpu, 10, flag::HOLDS_GIL));
        assert_eq!(s.frames().nth(1).unwrap(), PyFrame { code: 0x7fff, at: ENTRY_MARK, check: 0 });
        for cut in 0..raw.len() {
            assert!(Sample::parse(&raw[..cut]).is_none());
        }
    }
}
