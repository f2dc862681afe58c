//! The third rung at work: no events at all, only a timer of our own, `/proc` and the target's memory.

use std::time::Duration;

use super::Engine;
use super::perf::record_reads;
use super::process::Shared;
use super::roster::Roster;
use super::sampler::{Tally, Target, Wanted};
use super::watch::{Times, Watch};
use crate::clock::{Clock, Mono, SystemClock};
use crate::collect::Running;
use crate::error::{Error, Kind, Result};
use crate::os::schedule::wake_promptly;
use crate::record::{Event, Reading};

/// How often counters become readings.
const ACCOUNT_NS: u64 = 1_000_000_000;
/// How often we ask whether the targets still live and run the same program, which nothing tells us on this rung.
const CENSUS_NS: u64 = 100_000_000;

/// The running third rung.
pub struct MemorySampler {
    roster: Roster,
    watch: Watch,
    follow: bool,
    accounted: Mono,
    census: Mono,
    prompt: bool,
}

impl std::fmt::Debug for MemorySampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemorySampler").finish_non_exhaustive()
    }
}

impl MemorySampler {
    /// Knows the targets; nothing ticks yet.
    ///
    /// # Errors
    /// `Denied` when the memory of no target can be read; `Gone` when they have all ended; `Unsupported` for `cycles`.
    pub fn open(targets: &[Target], wanted: Wanted, shared: Shared, now: Mono) -> Result<Self> {
        if wanted.cycles {
            return Err(Error::new(Kind::Unsupported, "cycles cannot be counted by reading memory"));
        }
        let mut roster = Roster::new(targets, wanted.follow, shared, now);
        roster.drop_gone(now)?;
        let times = Times { on: wanted.on_cpu, off: wanted.off_cpu };
        let watch = Watch::new(wanted.rate_hz, times, now);
        Ok(Self { roster, watch, follow: wanted.follow, accounted: now, census: now, prompt: false })
    }

    /// Whether there is a target whose Python frames can be read.
    pub fn has_python(&self) -> bool {
        self.roster.members.values().any(|m| m.process.python.is_some())
    }

    fn account(&mut self, now: Mono) {
        self.accounted = now;
        let recorder = &self.roster.shared.recorder;
        record_reads(recorder, now, self.roster.reads);
        let (metric, value) = ("watch.ticks", self.watch.ticks as f64);
        recorder.put(Event::Reading(Reading { at: now, metric, scope: String::new(), value }));
    }
}

impl Engine for MemorySampler {
    fn start(&mut self, now: Mono) -> Result<Mono> {
        self.watch.start(&self.roster, now);
        Ok(now)
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

impl Running for MemorySampler {
    fn due(&self) -> Duration {
        Duration::from_nanos(self.watch.next().since(SystemClock.now()))
    }

    fn step(&mut self, now: Mono) -> Result<()> {
        if !self.prompt {
            // Here and not at the start: this is the thread that waits.
            self.prompt = true;
            wake_promptly();
        }
        self.watch.tick(&mut self.roster, now);
        if now.since(self.census) >= CENSUS_NS {
            self.census = now;
            self.roster.census(self.follow, now);
        }
        if now.since(self.accounted) >= ACCOUNT_NS {
            self.account(now);
        }
        Ok(())
    }

    fn finish(&mut self, now: Mono) -> Result<()> {
        self.watch.finish(&mut self.roster, now);
        self.account(now);
        Ok(())
    }
}
