//! A timer of our own that looks at every thread of the targets: who runs, who sleeps, on which Python stack.
//!
//! In: a roster of processes. Out: samples of state active, runnable or off-CPU. A tick finds *where* a thread is; how much
//! *time* the sample stands for is what the scheduler counted since the thread's last one, so that a busy machine, a late
//! tick or a thread that is seldom caught does not distort the sums. The gaps between ticks are drawn anew each time, so
//! that no timer of the target can stay in step with ours. Limits: no native frames; a thread that never runs at a tick
//! keeps its time as `[never caught running]`.

use rustc_hash::FxHashMap;

use super::roster::{Roster, Tick};
use super::states::{Rest, Threads};
use crate::clock::{Clock, Mono, SystemClock};
use crate::record::{Event, Sample, SampleFlags, State};

/// Our own part of the time is kept under one in this many.
const DUTY: u64 = 10;
/// A wait under way becomes a sample at least this often.
const REST_NS: u64 = 1_000_000_000;

/// Which times are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    /// Time on a CPU.
    pub(super) on: bool,
    /// Waits, and time runnable.
    pub(super) off: bool,
}

/// The timer and what it knows of the threads.
#[derive(Debug)]
pub(super) struct Watch {
    wanted: Times,
    mean_ns: u64,
    next: Mono,
    random: u64,
    processes: FxHashMap<u32, Threads>,
    /// Ticks so far.
    pub(super) ticks: u64,
}

impl Watch {
    /// A watch that ticks `rate_hz` times a second on average.
    pub(super) fn new(rate_hz: f64, wanted: Times, now: Mono) -> Self {
        Self {
            wanted,
            mean_ns: (1e9 / rate_hz) as u64,
            next: now,
            random: now.0 | 1,
            processes: FxHashMap::default(),
            ticks: 0,
        }
    }

    /// Begins to count the times of the threads that there are.
    pub(super) fn start(&mut self, roster: &Roster, now: Mono) {
        for &pid in roster.members.keys() {
            self.processes.insert(pid, Threads::new(pid, now, false));
        }
        self.next = now;
        self.schedule(now);
    }

    /// When the next tick is due.
    pub(super) fn next(&self) -> Mono {
        self.next
    }

    /// Half to one and a half times the mean from the last due time, or from now when that is past: never to catch up.
    fn schedule(&mut self, now: Mono) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let unit = (self.random >> 11) as f64 / (1_u64 << 53) as f64;
        let gap = (self.mean_ns as f64 * (0.5 + unit)) as u64;
        let due = self.next.plus(gap);
        self.next = if due > now { due } else { now.plus(gap) };
    }

    /// Looks at every thread, if it is time to.
    pub(super) fn tick(&mut self, roster: &mut Roster, now: Mono) {
        if now < self.next {
            return;
        }
        self.ticks += 1;
        let pids: Vec<u32> = roster.members.keys().copied().collect();
        self.processes.retain(|pid, _| roster.members.contains_key(pid));
        for pid in pids {
            let threads = self.processes.entry(pid).or_insert_with(|| Threads::new(pid, now, true));
            let Some(tids) = threads.list(now) else {
                roster.ended(pid, now);
                continue;
            };
            for tid in tids {
                look(threads, roster, self.wanted, pid, tid, SystemClock.now());
            }
        }
        let after = SystemClock.now();
        self.schedule(after);
        let rest = after.plus(after.since(now) * (DUTY - 1));
        if self.next < rest {
            self.next = rest;
        }
    }

    /// Accounts for what is left: waits under way, and time of threads that no tick caught running.
    pub(super) fn finish(&mut self, roster: &mut Roster, now: Mono) {
        for (&pid, threads) in &mut self.processes {
            let tids: Vec<u32> = threads.known.keys().copied().collect();
            for tid in tids {
                if threads.look(tid, now).is_none() {
                    continue;
                }
                flush_rest(threads, roster, pid, tid, now);
                let Some(known) = threads.known.get_mut(&tid) else { continue };
                let left = std::mem::take(&mut known.due);
                if self.wanted.on && left.on > 0 {
                    roster.unseen((pid, tid), "[never caught running]", left.on, State::Active, now);
                }
            }
        }
    }
}

fn look(threads: &mut Threads, roster: &mut Roster, wanted: Times, pid: u32, tid: u32, now: Mono) {
    let Some(glance) = threads.look(tid, now) else { return };
    let due = threads.known.get(&tid).map(|k| k.due).unwrap_or_default();
    let long = |threads: &Threads| {
        let rest = threads.known.get(&tid).and_then(|k| k.rest);
        rest.is_some_and(|r| now.since(r.from) >= REST_NS)
    };
    if !glance.ran {
        // Asleep where it was, and nothing to look at.
        if wanted.off && long(threads) {
            flush_rest(threads, roster, pid, tid, now);
        }
        return;
    }
    if wanted.off {
        flush_rest(threads, roster, pid, tid, now);
    }
    if !wanted.off && due.on == 0 {
        return;
    }
    let Some(state) = glance.state.or_else(|| threads.state(tid)) else { return };
    let tick =
        |weight_ns, state, reason| Tick { pid, tid, at: now, native: None, read: None, weight_ns, state, reason };
    let Some(known) = threads.known.get_mut(&tid) else { return };
    match state {
        'R' => {
            let on = if wanted.on { std::mem::take(&mut known.due.on) } else { 0 };
            let runnable = if wanted.off { std::mem::take(&mut known.due.runnable) } else { 0 };
            known.rest = None;
            if on > 0 {
                roster.sample(tick(on, State::Active, None), now);
            }
            if runnable > 0 {
                roster.sample(tick(runnable, State::Runnable, None), now);
            }
        }
        // A zombie's or a dying thread's time is over.
        'Z' | 'X' | 'x' => known.rest = None,
        _ if wanted.off => {
            let wait = threads.wait(tid, state);
            let Some((stack, flags)) = roster.stack(&tick(0, State::OffCpu, None), now) else { return };
            let reason = roster.members.get_mut(&pid).map_or("other", |m| m.process.reason(wait));
            if let Some(known) = threads.known.get_mut(&tid) {
                known.rest = Some(Rest { stack, flags, reason, from: now });
            }
        }
        _ => {}
    }
}

/// Turns the time that a thread has slept until now into a sample; its rest goes on from here.
fn flush_rest(threads: &mut Threads, roster: &mut Roster, pid: u32, tid: u32, now: Mono) {
    let Some(known) = threads.known.get_mut(&tid) else { return };
    let Some(rest) = &mut known.rest else { return };
    let weight_ns = std::mem::take(&mut known.due.off);
    let Rest { stack, flags, reason, from } = *rest;
    rest.from = now;
    if weight_ns == 0 {
        return;
    }
    let Some(thread) = roster.thread(pid, tid) else { return };
    roster.tally.samples += 1;
    let (state, reason) = (State::OffCpu, Some(reason));
    let flags = SampleFlags(flags.0);
    roster.shared.recorder.put(Event::Sample(Sample { at: from, thread, stack, weight_ns, state, reason, flags }));
}
