//! Opening and steering perf events.

#![allow(unsafe_code, reason = "perf_event_open and its ioctls")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `struct perf_event_attr` of linux/perf_event.h, version 7 (128 bytes); bit fields are in `flags`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct RawAttr {
    kind: u32,
    size: u32,
    config: u64,
    period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    regs_user: u64,
    stack_user: u32,
    clockid: i32,
    regs_intr: u64,
    aux_watermark: u32,
    max_stack: u16,
    reserved: u16,
    aux_sample_size: u32,
    reserved3: u32,
    sig_data: u64,
}
const _: () = assert!(size_of::<RawAttr>() == 128);

const TYPE_HARDWARE: u32 = 0;
const TYPE_SOFTWARE: u32 = 1;
const HW_CPU_CYCLES: u64 = 0;
const SW_CPU_CLOCK: u64 = 0;
const SW_DUMMY: u64 = 9;
const SW_BPF_OUTPUT: u64 = 10;

const SAMPLE_TID: u64 = 1 << 1;
const SAMPLE_TIME: u64 = 1 << 2;
const SAMPLE_CALLCHAIN: u64 = 1 << 5;
const SAMPLE_PERIOD: u64 = 1 << 8;
const SAMPLE_RAW: u64 = 1 << 10;
const SAMPLE_REGS_USER: u64 = 1 << 12;
const SAMPLE_STACK_USER: u64 = 1 << 13;
const SAMPLE_IDENTIFIER: u64 = 1 << 16;

const FLAG_DISABLED: u64 = 1;
const FLAG_INHERIT: u64 = 1 << 1;
const FLAG_EXCLUDE_KERNEL: u64 = 1 << 5;
const FLAG_EXCLUDE_HV: u64 = 1 << 6;
const FLAG_MMAP: u64 = 1 << 8;
const FLAG_COMM: u64 = 1 << 9;
const FLAG_ENABLE_ON_EXEC: u64 = 1 << 12;
const FLAG_TASK: u64 = 1 << 13;
const FLAG_WATERMARK: u64 = 1 << 14;
const FLAG_SAMPLE_ID_ALL: u64 = 1 << 18;
const FLAG_EXCLUDE_CALLCHAIN_USER: u64 = 1 << 22;
const FLAG_MMAP2: u64 = 1 << 23;
const FLAG_COMM_EXEC: u64 = 1 << 24;
const FLAG_USE_CLOCKID: u64 = 1 << 25;
/// Linux 5.13.
const FLAG_INHERIT_THREAD: u64 = 1 << 35;

/// `PERF_FLAG_FD_CLOEXEC`.
const CLOEXEC: libc::c_ulong = 8;

/// x86-64 numbers of `enum perf_event_x86_regs`: BP, SP, IP. All that unwinding needs.
const REGS_BP_SP_IP: u64 = 1 << 6 | 1 << 7 | 1 << 8;

/// What drives the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clockwork {
    /// The CPU's high-resolution timer; needs no PMU.
    CpuClock,
    /// Hardware cycles, where the machine has them.
    Cycles,
    /// Nothing: the event only carries side-band records (mmap, comm, fork, exit).
    Dummy,
    /// What an eBPF program writes.
    BpfOutput,
}

/// Which parts the records of an event have; see [`super::parse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// No records: an eBPF program looks at the event.
    None,
    /// Identifier, tid, time, kernel callchain, (raw,) user registers and user stack.
    Stacks {
        /// Raw data of an eBPF program comes with it.
        raw: bool,
    },
    /// Identifier, tid, time, raw.
    Plain,
}

/// What to open.
#[derive(Debug, Clone, Copy)]
pub struct Attr {
    /// What drives the samples.
    pub clockwork: Clockwork,
    /// Nanoseconds (or cycles) between samples.
    pub period: u64,
    /// The parts of a record.
    pub layout: Layout,
    /// Bytes of user stack to copy at most; a multiple of 8, under 65,528.
    pub stack_bytes: u32,
    /// Report mmap, comm, fork, exec and exit too.
    pub side_band: bool,
    /// Threads and children born later have the event too.
    pub inherit: bool,
    /// With `inherit`: threads only, no children (Linux 5.13).
    pub threads_only: bool,
    /// Whoever polls the ring's event is woken by each sample.
    pub wake_each: bool,
    /// Leave the kernel's part out (what an unprivileged user may do).
    pub exclude_kernel: bool,
    /// Start at the target's next exec.
    pub enable_on_exec: bool,
}

/// Whose time is sampled.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    /// Everything that runs on this CPU.
    Cpu(u32),
    /// One thread, wherever it runs.
    Thread(u32),
    /// One thread (and, inherited, its children) while it is on this CPU.
    ThreadOnCpu(u32, u32),
}

/// An open event; it ends with this value.
#[derive(Debug)]
pub struct Event {
    fd: OwnedFd,
}

impl Event {
    /// Opens the event, disabled.
    ///
    /// # Errors
    /// The errno of perf_event_open: `EACCES`/`EPERM` without rights, `ENOENT` where the machine has no such event, `ESRCH`
    /// when the thread is gone, `EMFILE` when file descriptors ran out.
    pub fn open(attr: &Attr, scope: Scope) -> io::Result<Self> {
        let (kind, config) = match attr.clockwork {
            Clockwork::CpuClock => (TYPE_SOFTWARE, SW_CPU_CLOCK),
            Clockwork::Cycles => (TYPE_HARDWARE, HW_CPU_CYCLES),
            Clockwork::Dummy => (TYPE_SOFTWARE, SW_DUMMY),
            Clockwork::BpfOutput => (TYPE_SOFTWARE, SW_BPF_OUTPUT),
        };
        let base = SAMPLE_IDENTIFIER | SAMPLE_TID | SAMPLE_TIME;
        let stack = SAMPLE_CALLCHAIN | SAMPLE_REGS_USER | SAMPLE_STACK_USER;
        let (sample_type, stacks) = match attr.layout {
            Layout::None => (base, false),
            Layout::Stacks { raw: true } => (base | stack | SAMPLE_RAW, true),
            Layout::Stacks { raw: false } => (base | stack | SAMPLE_PERIOD, true),
            Layout::Plain => (base | SAMPLE_RAW, false),
        };
        let mut flags =
            FLAG_DISABLED | FLAG_EXCLUDE_HV | FLAG_SAMPLE_ID_ALL | FLAG_USE_CLOCKID | FLAG_EXCLUDE_CALLCHAIN_USER;
        for (wanted, flag) in [
            (attr.side_band, FLAG_MMAP | FLAG_MMAP2 | FLAG_COMM | FLAG_COMM_EXEC | FLAG_TASK),
            (attr.inherit, FLAG_INHERIT),
            (attr.inherit && attr.threads_only, FLAG_INHERIT_THREAD),
            (!attr.wake_each, FLAG_WATERMARK),
            (attr.exclude_kernel, FLAG_EXCLUDE_KERNEL),
            (attr.enable_on_exec, FLAG_ENABLE_ON_EXEC),
        ] {
            if wanted {
                flags |= flag;
            }
        }
        let raw = RawAttr {
            kind,
            size: size_of::<RawAttr>() as u32,
            config,
            period: attr.period,
            sample_type,
            flags,
            // Else a watermark that is never reached: the reader comes by itself, no wake-up a sample.
            wakeup: if attr.wake_each { 1 } else { u32::MAX },
            regs_user: if stacks { REGS_BP_SP_IP } else { 0 },
            stack_user: if stacks { attr.stack_bytes & !7 } else { 0 },
            clockid: libc::CLOCK_MONOTONIC,
            ..RawAttr::default()
        };
        let (pid, cpu) = match scope {
            Scope::Cpu(cpu) => (-1, cpu as i32),
            Scope::Thread(tid) => (tid as i32, -1),
            Scope::ThreadOnCpu(tid, cpu) => (tid as i32, cpu as i32),
        };
        // SAFETY: `raw` is a live perf_event_attr whose size field is its size; the call keeps no reference to it.
        let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const raw, pid, cpu, -1, CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor and nobody else has it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd as i32) } })
    }

    fn ioctl(&self, request: u64, argument: u64) -> io::Result<()> {
        // SAFETY: our own perf fd; the requests used here take a number or read a u64 that lives through the call.
        let done = unsafe { libc::ioctl(self.fd.as_raw_fd(), request as libc::c_ulong, argument) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Starts it.
    pub fn enable(&self) -> io::Result<()> {
        self.ioctl(0x2400, 0)
    }

    /// Stops it.
    pub fn disable(&self) -> io::Result<()> {
        self.ioctl(0x2401, 0)
    }

    /// Changes the period; the interval under way starts anew. Inherited copies of the event keep theirs.
    pub fn set_period(&self, period: u64) -> io::Result<()> {
        self.ioctl(0x4008_2404, &raw const period as u64)
    }

    /// Runs `program` at each sample.
    pub fn set_bpf(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        self.ioctl(0x4004_2408, program.as_raw_fd() as u64)
    }

    /// Lets this event write into the ring of `other` (of the same CPU).
    pub fn output_to(&self, other: &Self) -> io::Result<()> {
        self.ioctl(0x2405, other.fd.as_raw_fd() as u64)
    }

    /// The number that stands in the identifier field of its records.
    pub fn id(&self) -> io::Result<u64> {
        let mut id = 0_u64;
        self.ioctl(0x8008_2407, &raw mut id as u64)?;
        Ok(id)
    }

    /// The descriptor, for a BPF map or mmap.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}
