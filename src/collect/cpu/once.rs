//! One sample of every thread of a process that runs: what a dump needs where there is no sleep to read it in.
//!
//! In: a process. Out: [`Caught`], each the native stack of one instant; by eBPF with the Python frames of the same
//! instant, by perf events alone without. It ticks fast and for a short time; the caller ends it as soon as it has what it
//! wants, by dropping it.

use std::sync::Arc;
use std::time::Duration;

use super::perthread::{self, PerThread};
use super::python::walker;
use super::ticker::{Settings, Ticker};
use crate::clock::Mono;
use crate::error::{Error, Result};
use crate::os::bpf::{self, PyFrame};
use crate::os::perf::{Record, StackSample};
use crate::python::Runtime;

/// Ticks a second on each CPU: a thread that has a CPU to itself is met within a millisecond.
const RATE_HZ: f64 = 1999.0;
/// Ticks a second of each thread's own time, without eBPF.
const THREAD_RATE_HZ: f64 = 999.0;
/// How often what the readers of the rings have is taken.
const READ_INTERVAL: Duration = Duration::from_millis(2);
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
    /// What eBPF walked at the same instant; `None` without eBPF.
    pub walked: Option<Walked>,
}

/// The Python side of a thread met on a CPU.
#[derive(Debug, Clone)]
pub(in crate::collect) struct Walked {
    /// Python frames and entry marks, leaf first.
    pub frames: Vec<PyFrame>,
    /// What the walker says, [`bpf::flag`] bits.
    pub flags: u32,
}

/// A short round of ticks over one process.
pub(in crate::collect) struct Round {
    ticks: Ticks,
    pid: u32,
    /// Why the round is not as good as could be.
    pub(in crate::collect) loses: Option<Error>,
}

enum Ticks {
    Bpf(Box<Ticker>),
    Perf(Box<PerThread>),
}

impl Round {
    /// Starts to tick, by eBPF if it can be used, else by perf events.
    ///
    /// # Errors
    /// `Denied` or `Unsupported`, those of eBPF, where neither can be used.
    pub(in crate::collect) fn start(pid: u32, start_ticks: u64, runtime: Option<&Runtime>, now: Mono) -> Result<Self> {
        let refused = match start_bpf(pid, start_ticks, runtime, now) {
            Ok(ticker) => return Ok(Self { ticks: Ticks::Bpf(Box::new(ticker)), pid, loses: None }),
            Err(e) => e,
        };
        match start_perf(pid, now) {
            Ok(timers) => Ok(Self { ticks: Ticks::Perf(Box::new(timers)), pid, loses: Some(refused) }),
            Err(_) => Err(refused),
        }
    }

    /// Waits for what comes next, at most for `limit`.
    pub(in crate::collect) fn wait(&self, limit: Duration) {
        match &self.ticks {
            Ticks::Bpf(ticker) => std::thread::sleep(ticker.interval().min(limit)),
            Ticks::Perf(_) => std::thread::sleep(READ_INTERVAL.min(limit)),
        }
    }

    /// Gives what has come to `take`.
    pub(in crate::collect) fn drain(&mut self, now: Mono, mut take: impl FnMut(Caught)) {
        let pid = self.pid;
        let caught = |record: &StackSample<'_>, walked| Caught {
            tid: record.tid,
            at: Mono(record.time),
            regs: record.regs,
            stack: record.stack.to_vec(),
            kernel: record.kernel().collect(),
            walked,
        };
        match &mut self.ticks {
            Ticks::Bpf(ticker) => ticker.drain(|_, record| {
                let Record::Stack(record) = record else { return };
                if let Some(sample) = bpf::Sample::parse(record.raw).filter(|_| record.pid == pid) {
                    let walked = Walked { frames: sample.frames().collect(), flags: sample.flags };
                    take(caught(&record, Some(walked)));
                }
            }),
            Ticks::Perf(timers) => timers.drain(now, |record, _, _| {
                if let Record::Stack(record) = &record
                    && record.pid == pid
                {
                    take(caught(record, None));
                }
            }),
        }
    }
}

fn start_bpf(pid: u32, start_ticks: u64, runtime: Option<&Runtime>, now: Mono) -> Result<Ticker> {
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
    Ok(ticker)
}

fn start_perf(pid: u32, now: Mono) -> Result<PerThread> {
    let settings = perthread::Settings { rate_hz: THREAD_RATE_HZ, cycles: false, follow: false };
    let mut timers = PerThread::open(settings, now)?;
    timers.add_process(pid, now)?;
    timers.start(&Arc::default())?;
    Ok(timers)
}
