//! The second rung at work: perf events without eBPF.
//!
//! ```text
//! perthread (timers) -> rings -> pinned (a reader a CPU: Python frames) -> roster (assembly) -> recorder
//! ```

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::kerneltime::{CpuTime, KernelTime};
use super::perthread::{PerThread, Settings};
use super::process::Shared;
use super::roster::{Reads, Roster, Tick};
use super::sampler::{Tally, Target, Wanted};
use super::watch::{Times, Watch};
use crate::clock::{Clock, Mono, SystemClock};
use crate::collect::Running;
use crate::error::Result;
use crate::os::perf::Record;
use crate::record::{Event, Loss, Reading, Recorder, State};

/// How often what the readers have read becomes samples.
const BEAT: Duration = Duration::from_millis(20);
/// How often counters become readings and losses.
const ACCOUNT_NS: u64 = 1_000_000_000;

/// Less than one in so many of the CPU time without a sample is noise, and so are a few samples.
const MISSED_PART: u64 = 10;
const MISSED_SAMPLES: u64 = 10;

/// The running second rung.
pub struct PerfSampler {
    timers: PerThread,
    roster: Roster,
    accounted: Mono,
    lost: u64,
    malformed: u64,
    told: Reads,
    throttled: u64,
    /// Looks at the threads that wait.
    waits: Option<Watch>,
    kernel: KernelTime,
    cpu: CpuTime,
    begun: Mono,
    rate_hz: f64,
}

impl std::fmt::Debug for PerfSampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PerfSampler").finish_non_exhaustive()
    }
}

impl PerfSampler {
    /// Opens everything and knows the targets; nothing ticks yet.
    ///
    /// # Errors
    /// `Denied` or `Unsupported` when this rung cannot be used here; nothing was changed then.
    pub fn open(targets: &[Target], wanted: Wanted, mut shared: Shared, now: Mono) -> Result<Self> {
        let settings = Settings { rate_hz: wanted.rate_hz, cycles: wanted.cycles, follow: wanted.follow };
        let mut timers = PerThread::open(settings, now)?;
        if wanted.on_cpu {
            for t in targets {
                timers.add_process(t.pid, now)?;
            }
        }
        let waits = wanted.off_cpu.then(|| Watch::new(wanted.rate_hz, Times { on: false, off: true }, now));
        // Python frames that are read late find their place by the native ones.
        shared.kept.native = true;
        let roster = Roster::new(targets, wanted.follow, shared, now);
        Ok(Self {
            timers,
            roster,
            accounted: now,
            lost: 0,
            malformed: 0,
            told: Reads::default(),
            throttled: 0,
            waits,
            kernel: KernelTime::default(),
            cpu: CpuTime::default(),
            begun: now,
            rate_hz: wanted.rate_hz,
        })
    }

    /// Whether time in the kernel goes unsampled, for want of the right.
    pub fn excludes_kernel(&self) -> bool {
        self.timers.excludes_kernel()
    }

    /// Threads that could not be given timers, for want of file descriptors.
    pub fn unseen_threads(&self) -> u64 {
        self.timers.refused
    }

    fn drain(&mut self, now: Mono) {
        let Self { timers, roster, lost, malformed, .. } = self;
        timers.drain(now, |record, read, weight_ns| match &record {
            Record::Stack(sample) => {
                let tick = Tick {
                    pid: sample.pid,
                    tid: sample.tid,
                    at: Mono(sample.time),
                    native: Some(sample),
                    read: Some(read),
                    weight_ns,
                    state: State::OnCpu,
                    reason: None,
                };
                roster.sample(tick, now);
            }
            Record::Lost(n) => *lost += n,
            Record::Malformed => *malformed += 1,
            other => roster.side_band(other, now),
        });
        roster.settle(now);
    }

    fn account(&mut self, now: Mono) {
        let from = std::mem::replace(&mut self.accounted, now);
        let recorder = Arc::clone(&self.roster.shared.recorder);
        let mut lose = |count: u64, why: &str| {
            if count > 0 {
                recorder.put(Event::Loss(Loss { from, to: now, source: "cpu", count, why: why.to_owned() }));
                self.roster.tally.lost += count;
            }
        };
        lose(std::mem::take(&mut self.lost), "the ring was full");
        lose(std::mem::take(&mut self.malformed), "records that could not be read");
        lose(self.timers.throttled - self.throttled, "the kernel throttled the timer");
        self.throttled = self.timers.throttled;
        self.cpu.read(&self.roster, true);
        if self.timers.excludes_kernel() {
            self.kernel.account(&mut self.roster, now);
        }
        let (old, new) = (self.told, self.roster.reads);
        self.told = new;
        record_reads(&recorder, now, new);
        let stacks = new.stacks - old.stacks;
        if stacks > 0 {
            let delay = (new.delay_ns - old.delay_ns) as f64 / stacks as f64;
            let scope = String::new();
            recorder.put(Event::Reading(Reading { at: now, metric: "python.delay_ns", scope, value: delay }));
        }
    }
}

impl PerfSampler {
    /// Says how much of the targets' CPU time no sample stands for, if that is much: threads that live for less than a
    /// period of their timers are seen in part only.
    fn miss(&mut self, now: Mono) {
        let total = self.cpu.total();
        let missed = total.saturating_sub(self.roster.on_ns);
        let count = (missed as f64 / 1e9 * self.rate_hz) as u64;
        if self.timers.births == 0 || missed < total / MISSED_PART || count < MISSED_SAMPLES {
            return;
        }
        let why = "threads ended before their timers saw them".to_owned();
        let (from, to) = (self.begun, now);
        self.roster.shared.recorder.put(Event::Loss(Loss { from, to, source: "cpu", count, why }));
        self.roster.tally.lost += count;
    }
}

/// Counts of reading Python frames, as readings.
pub(super) fn record_reads(recorder: &Recorder, at: Mono, reads: Reads) {
    for (metric, value) in
        [("python.stacks", reads.stacks), ("python.moved", reads.moved), ("python.stale", reads.stale)]
    {
        recorder.put(Event::Reading(Reading { at, metric, scope: String::new(), value: value as f64 }));
    }
}

impl Engine for PerfSampler {
    fn start(&mut self, now: Mono) -> Result<Mono> {
        if let Some(waits) = &mut self.waits {
            waits.start(&self.roster, now);
        }
        self.begun = now;
        self.cpu.read(&self.roster, false);
        if self.timers.excludes_kernel() {
            self.kernel.start(&self.roster);
        }
        self.timers.start(&self.roster.interpreters).map(|()| now)
    }

    fn tally(&self) -> Tally {
        self.roster.tally
    }

    fn has_targets(&self) -> bool {
        !self.roster.members.is_empty()
    }

    fn refusals(&self) -> Vec<(u32, String)> {
        self.roster.refusals()
    }
}

impl Running for PerfSampler {
    fn due(&self) -> Duration {
        let wait = self.waits.as_ref().map(|w| Duration::from_nanos(w.next().since(SystemClock.now())));
        wait.map_or(BEAT, |w| w.min(BEAT))
    }

    fn step(&mut self, _: Mono) -> Result<()> {
        let now = SystemClock.now();
        self.drain(now);
        if let Some(waits) = &mut self.waits {
            waits.tick(&mut self.roster, now);
        }
        if now.since(self.accounted) >= ACCOUNT_NS {
            self.roster.bury(now);
            self.account(now);
        }
        Ok(())
    }

    fn finish(&mut self, now: Mono) -> Result<()> {
        let stopped = self.timers.stop();
        self.drain(now);
        if let Some(waits) = &mut self.waits {
            waits.finish(&mut self.roster, now);
        }
        self.account(now);
        self.miss(now);
        stopped
    }
}
