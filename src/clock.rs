//! The one clock of a recording: CLOCK_MONOTONIC nanoseconds, and the anchors that tie it to the wall.
//!
//! perf events (by `use_clockid`), BPF (`bpf_ktime_get_ns`), CPython's `time.monotonic()` and Rust's `Instant` all read
//! this clock. Wall-clock facts are converted at the edge, through the nearest anchor, and keep its error.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// A point in time: nanoseconds of CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// Nanoseconds from `earlier` to here, 0 if it is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The point `ns` later.
    #[must_use]
    pub fn plus(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }
}

/// CPU time that the calling thread has used, ns; 0 where its clock cannot be read.
pub fn thread_cpu_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

/// One reading of both clocks at (nearly) one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// The monotonic time.
    pub mono: Mono,
    /// Nanoseconds since the Unix epoch at that time.
    pub wall_ns: i64,
    /// Half the width of the bracket in which the wall clock was read: the two belong together within this.
    pub error_ns: u64,
}

/// A source of time; the tests have one of their own.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Mono;
    /// Both clocks now.
    fn anchor(&self) -> Anchor;
}

/// The system's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Mono {
        // CLOCK_MONOTONIC cannot fail on Linux; zero would only ever make a time "unknown early".
        clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_or(Mono(0), |t| Mono(t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64))
    }

    /// The best of five bracketed reads.
    fn anchor(&self) -> Anchor {
        let read = || {
            let before = self.now();
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
            let width = self.now().since(before);
            Anchor { mono: before.plus(width / 2), wall_ns: wall, error_ns: width.div_ceil(2) }
        };
        let mut best = read();
        for _ in 0..4 {
            let next = read();
            if next.error_ns < best.error_ns {
                best = next;
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_tight_and_time_goes_on() {
        let (a, b) = (SystemClock.anchor(), SystemClock.anchor());
        assert!(b.mono >= a.mono);
        assert!(a.error_ns < 10_000_000, "{a:?}");
    }
}
