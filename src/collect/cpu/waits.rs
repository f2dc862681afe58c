//! The waits of the first rung: threads that sleep are looked for, long waits are told in pieces, sums are made exact.
//!
//! In: the exact times of all threads that the programs keep, and the intervals under way. Out: samples of waits and the
//! readings `thread.*_ns`. Where switches are thinned the stacks of those asleep for long are read from their memory, so
//! that a long wait is never missed and never stands for others.

use super::account::OffTimes;
use super::assemble::thread_of;
use super::sampler::{Sampler, Table};
use super::sleepers::{Sleeper, sleeper};
use super::switches::Away;
use crate::clock::{Clock, Mono, SystemClock};
use crate::error::Result;
use crate::os::bpf::{LONG_WAIT_NS, ThreadTimes};
use crate::record::{Event, Reading};

/// linux/sched.h: it left the CPU for the last time.
const TASK_DEAD: u32 = 0x80;
/// Between two looks for sleepers at the least, and the part of the time that looking may take.
const LOOK_NS: u64 = 100_000_000;
const LOOK_SHARE: u64 = 300;
/// Sleepers whose stacks are read at one look; with more it does not count as one.
const LOOK_LIMIT: usize = 64;

/// When the sleepers are looked for.
#[derive(Debug)]
pub(super) struct Lookout {
    next: Mono,
    thinned: u64,
}

impl Lookout {
    pub(super) fn new(now: Mono) -> Self {
        Self { next: now, thinned: 0 }
    }
}

impl Sampler {
    /// Enters the threads that exist already: those asleep wait since before the recording. All are entered before the first
    /// stack is read, which takes a while.
    pub(super) fn enter_threads(&mut self) -> Result<Mono> {
        let mut asleep = Vec::new();
        for process in self.table.processes.values_mut() {
            let Ok(tasks) = std::fs::read_dir(format!("/proc/{}/task", process.pid)) else { continue };
            for tid in tasks.flatten().filter_map(|t| t.file_name().to_str()?.parse::<u32>().ok()) {
                let runs = std::fs::read_to_string(format!("/proc/{}/task/{tid}/stat", process.pid))
                    .is_ok_and(|s| s.rsplit(") ").next().is_some_and(|rest| rest.starts_with('R')));
                let since = SystemClock.now();
                let times = ThreadTimes {
                    since_ns: since.0,
                    off: (!runs).into(),
                    state: (!runs).into(),
                    told: (!runs).into(),
                    target: process.id.0,
                    ..ThreadTimes::default()
                };
                if self.ticker.programs.set_thread_times(tid, times)? && !runs {
                    asleep.push((process.pid, tid, since));
                }
            }
        }
        let entered = SystemClock.now();
        for (pid, tid, at) in asleep {
            let Some(process) = self.table.processes.get_mut(&pid) else { continue };
            let recorder = &self.table.shared.recorder;
            let thread = thread_of(process, tid, recorder);
            let Sleeper { stack, flags, reason, .. } = sleeper(process, tid, &self.table.shared, at);
            let away = Away { sequence: 0, at, thread, stack, flags, reason: Some(reason), share: 256, told_ns: 0 };
            self.table.switches.left(tid, away, recorder);
        }
        Ok(entered)
    }

    /// Where switches are thinned: reads the stacks of threads that have been asleep for long and were not told of. The rings
    /// have just been visited.
    pub(super) fn look_for_sleepers(&mut self, now: Mono) {
        let thinned = self.ticker.counters().thinned;
        if now < self.lookout.next || thinned == self.lookout.thinned {
            return;
        }
        self.lookout.thinned = thinned;
        let started = SystemClock.now();
        let sleeps = |t: &ThreadTimes| t.off != 0 && t.woken_ns == 0 && t.state & TASK_DEAD == 0;
        let mut untold: Vec<(u32, ThreadTimes)> = self.ticker.programs.thread_times();
        untold.retain(|(tid, t)| {
            sleeps(t)
                && t.told == 0
                && started.0.saturating_sub(t.since_ns) >= LONG_WAIT_NS
                && !self.table.switches.knows(*tid, t.sequence)
        });
        let all = untold.len() <= LOOK_LIMIT;
        for (tid, then) in untold.into_iter().take(LOOK_LIMIT) {
            let Some(process) = self.table.processes.values_mut().find(|p| p.id.0 == then.target) else { continue };
            let Sleeper { stack, flags, reason, seen } = sleeper(process, tid, &self.table.shared, now);
            let same = |t: ThreadTimes| sleeps(&t) && t.sequence == then.sequence;
            if !seen || !self.ticker.programs.thread(tid).is_some_and(same) {
                continue;
            }
            let recorder = &self.table.shared.recorder;
            let thread = thread_of(process, tid, recorder);
            let (sequence, at) = (then.sequence, Mono(then.since_ns));
            let away = Away { sequence, at, thread, stack, flags, reason: Some(reason), share: 256, told_ns: 0 };
            self.table.switches.left(tid, away, recorder);
        }
        if all {
            self.table.switches.looked(started);
        }
        let took = SystemClock.now().since(started);
        self.lookout.next = now.plus(LOOK_NS.max(took.saturating_mul(LOOK_SHARE)));
    }

    /// Tells the pieces of long waits, and makes the sums of ended ones exact.
    pub(super) fn tell_waits(&mut self, now: Mono) {
        if !self.off_cpu {
            return;
        }
        self.tell_long(now, false);
        // The exact times come first: what the rings hold from before is told by then.
        let times = self.ticker.programs.thread_times();
        self.drain(now);
        for (tid, t) in times {
            self.table.settle(tid, &t, now, false);
        }
    }

    /// At the end: tells all that is known of waits, under way and ended, and the exact time of every thread so far. `times`
    /// were read before the rings were emptied.
    pub(super) fn tell_last_waits(&mut self, times: &[(u32, ThreadTimes)], now: Mono) {
        self.tell_long(now, true);
        let ended = std::mem::take(&mut self.table.ended_threads);
        self.table.settle_ended(ended, now);
        for (tid, t) in times {
            self.table.settle(*tid, t, now, true);
            self.table.totals(*tid, *t, now);
        }
    }

    fn tell_long(&mut self, now: Mono, all: bool) {
        let programs = &self.ticker.programs;
        let still_away =
            |tid: u32, sequence: u64| programs.thread(tid).is_some_and(|t| t.off != 0 && t.sequence == sequence);
        self.endless += self.table.switches.tell_long(now, all, still_away, &self.table.shared.recorder);
    }
}

impl Table {
    /// Makes what was told of a thread's ended waits add up to its exact times.
    fn settle(&mut self, tid: u32, t: &ThreadTimes, now: Mono, last: bool) {
        let exact = OffTimes { waited: t.off_ns, runnable: t.runnable_ns };
        self.switches.settle(tid, exact, now, last, &self.shared.recorder);
    }

    /// The same for threads that have ended.
    pub(super) fn settle_ended(&mut self, ended: Vec<(u32, ThreadTimes)>, now: Mono) {
        for (tid, t) in ended {
            self.settle(tid, &t, now, true);
        }
    }

    /// A thread's exact times up to `now` as readings.
    pub(super) fn totals(&self, tid: u32, t: ThreadTimes, now: Mono) {
        let open = now.0.saturating_sub(t.since_ns);
        let (mut on, mut off, mut runnable) = (t.on_ns, t.off_ns, t.runnable_ns);
        match (t.off != 0, t.woken_ns) {
            (true, _) if t.state & TASK_DEAD != 0 => {}
            (false, _) => on += open,
            (true, 0) => off += open,
            (true, woken) => {
                let ready = now.0.saturating_sub(woken).min(open);
                off += open - ready;
                runnable += ready;
            }
        }
        for (metric, ns) in [("thread.on_ns", on), ("thread.off_ns", off), ("thread.runnable_ns", runnable)] {
            let (scope, value) = (tid.to_string(), ns as f64);
            self.shared.recorder.put(Event::Reading(Reading { at: now, metric, scope, value }));
        }
    }
}
