//! One sample of every thread of a process that runs: what a dump needs where there is no sleep to read it in.
//!
//! In: a process. Out: [`Caught`], each the stack of one instant, Python frames included. It ticks fast and for a short
//! time; the caller ends it as soon as it has what it wants, by dropping it.

use std::time::Duration;

use super::python::walker;
use super::ticker::{Settings, Ticker};
use crate::clock::Mono;
use crate::error::Result;
use crate::os::bpf::{self, PyFrame};
use crate::os::perf::Record;
use crate::python::Runtime;

/// Ticks a second on each CPU: a thread that has a CPU to itself is met within a millisecond.
const RATE_HZ: f64 = 1999.0;
/// Bytes of stack; the largest copy that fits a record.
const STACK_BYTES: u32 = 56 << 10;

/// A thread met on a CPU.
#[derive(Debug, Clone)]
pub(in crate::collect) struct Caught {
    /// The thread.
    pub tid: u32,
    /// When.
    pub at: Mono,
    /// Its registers BP, SP, IP; `None` without a user side.
    pub regs: Option<[u64; 3]>,
    /// Its stack from SP upwards.
    pub stack: Vec<u8>,
    /// Kernel addresses, leaf first.
    pub kernel: Vec<u64>,
    /// Python frames and entry marks, leaf first.
    pub frames: Vec<PyFrame>,
    /// What the walker says, [`bpf::flag`] bits.
    pub flags: u32,
}

/// A short round of ticks over one process.
pub(in crate::collect) struct Round {
    ticker: Ticker,
    pid: u32,
}

impl Round {
    /// Starts to tick.
    ///
    /// # Errors
    /// `Denied` or `Unsupported` where eBPF cannot be used.
    pub(in crate::collect) fn start(pid: u32, start_ticks: u64, runtime: Option<&Runtime>, now: Mono) -> Result<Self> {
        let settings = Settings {
            rate_hz: RATE_HZ,
            cycles: false,
            stack_bytes: STACK_BYTES,
            ticks: true,
            switches: false,
            follow: false,
            pulse: false,
        };
        let mut ticker = Ticker::open(settings, now)?;
        let python = runtime.map_or_else(Default::default, |r| walker(&r.layout, r.address, r.code_type.unwrap_or(0)));
        ticker.programs.set_target(pid, bpf::Target { start_tick: start_ticks, id: 1, reserved: 0, python })?;
        ticker.start(now)?;
        Ok(Self { ticker, pid })
    }

    /// How long to wait between two looks.
    pub(in crate::collect) fn interval(&self) -> Duration {
        self.ticker.interval()
    }

    /// Gives what has come to `take`.
    pub(in crate::collect) fn drain(&mut self, mut take: impl FnMut(Caught)) {
        let pid = self.pid;
        self.ticker.drain(|_, record| {
            let Record::Stack(record) = record else { return };
            let Some(sample) = bpf::Sample::parse(record.raw).filter(|_| record.pid == pid) else { return };
            take(Caught {
                tid: record.tid,
                at: Mono(record.time),
                regs: record.regs,
                stack: record.stack.to_vec(),
                kernel: record.kernel().collect(),
                frames: sample.frames().collect(),
                flags: sample.flags,
            });
        });
    }
}
