//! What the client saw: counts, failures in words and exact latencies.
//!
//! Invariant: a request that was begun and neither answered nor failed was cut off; nothing else is a remainder.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::client::Operation;
use crate::units::Nanos;

/// Latencies of answered requests, from the first byte sent to the last byte read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    /// Half of the requests were answered within this.
    pub p50: Nanos,
    /// 95 % were.
    pub p95: Nanos,
    /// 99 % were.
    pub p99: Nanos,
    /// All were.
    pub max: Nanos,
}

impl Latency {
    /// Exact percentiles by nearest rank; `None` of nothing.
    fn of(nanos: &mut [u64]) -> Option<Self> {
        nanos.sort_unstable();
        let rank = |percent: usize| nanos.get((nanos.len() * percent).div_ceil(100).max(1) - 1).map(|&n| Nanos(n));
        Some(Self { p50: rank(50)?, p95: rank(95)?, p99: rank(99)?, max: rank(100)? })
    }
}

/// What became of the requests of one kind, or of all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Requests that were answered with 200 and a JSON body.
    pub answered: u64,
    /// Requests that failed: another status, no connection, no answer in time, an answer that is none.
    pub failed: u64,
    /// Requests in flight when the run ended; neither answered nor failed.
    pub cut: u64,
    /// Of the answered ones; `None` when there are none.
    pub latency: Option<Latency>,
}

/// What the client saw.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// All requests.
    pub total: Tally,
    /// Each operation that was tried, in the order of [`Operation::ALL`].
    pub by_operation: Vec<(Operation, Tally)>,
    /// Each failure in words, and how often it happened, the most frequent first.
    pub failures: Vec<(String, u64)>,
    /// From the first request to the end of the last.
    pub elapsed: Nanos,
}

impl Summary {
    /// Answered requests a second; `None` for a run without length.
    pub fn throughput(&self) -> Option<f64> {
        (self.elapsed.0 > 0).then(|| self.total.answered as f64 / self.elapsed.secs())
    }
}

impl fmt::Display for Summary {
    /// A table of a line for each operation and one for all, then the failures.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<22} {:>8} {:>7} {:>10} {:>10} {:>10} {:>10}",
            "", "answers", "failed", "p50", "p95", "p99", "max"
        )?;
        let all = self.by_operation.iter().map(|(o, t)| (o.name(), t)).chain([("all", &self.total)]);
        for (name, tally) in all {
            write!(f, "{name:<22} {:>8} {:>7}", tally.answered, tally.failed)?;
            for value in [|l: &Latency| l.p50, |l: &Latency| l.p95, |l: &Latency| l.p99, |l: &Latency| l.max] {
                let text = tally.latency.as_ref().map_or_else(|| "-".to_owned(), |l| value(l).to_string());
                write!(f, " {text:>10}")?;
            }
            writeln!(f)?;
        }
        let rate = self.throughput().map_or_else(String::new, |r| format!(", {r:.1} requests/s"));
        write!(f, "{} requests in {}{rate}", self.total.answered + self.total.failed, self.elapsed)?;
        if self.total.cut > 0 {
            write!(f, ", {} more cut off by the end", self.total.cut)?;
        }
        writeln!(f)?;
        for (failure, count) in &self.failures {
            writeln!(f, "{count} × {failure}")?;
        }
        Ok(())
    }
}

/// What is known while the run goes on; one thread, so no lock.
#[derive(Default)]
pub(super) struct Log {
    /// Requests that were begun.
    pub(super) begun: u64,
    done: BTreeMap<Operation, Done>,
    failures: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Done {
    begun: u64,
    failed: u64,
    latencies_ns: Vec<u64>,
}

impl Done {
    fn tally(&mut self) -> Tally {
        let answered = self.latencies_ns.len() as u64;
        let cut = self.begun - answered - self.failed;
        Tally { answered, failed: self.failed, cut, latency: Latency::of(&mut self.latencies_ns) }
    }
}

impl Log {
    pub(super) fn begin(&mut self, operation: Operation) {
        self.begun += 1;
        self.done.entry(operation).or_default().begun += 1;
    }

    pub(super) fn end(&mut self, operation: Operation, outcome: Result<Duration, String>) {
        let done = self.done.entry(operation).or_default();
        match outcome {
            Ok(latency) => done.latencies_ns.push(latency.as_nanos() as u64),
            Err(failure) => {
                done.failed += 1;
                *self.failures.entry(format!("{}: {failure}", operation.name())).or_default() += 1;
            }
        }
    }

    pub(super) fn summary(mut self, elapsed: Duration) -> Summary {
        let by_operation: Vec<_> = self.done.iter_mut().map(|(&o, done)| (o, done.tally())).collect();
        let mut all = Done::default();
        for done in self.done.into_values() {
            all.begun += done.begun;
            all.failed += done.failed;
            all.latencies_ns.extend(done.latencies_ns);
        }
        let mut failures: Vec<_> = self.failures.into_iter().collect();
        failures.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        Summary { total: all.tally(), by_operation, failures, elapsed: Nanos(elapsed.as_nanos() as u64) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut hundred: Vec<u64> = (1..=100).rev().collect();
        let latency = Latency::of(&mut hundred).unwrap();
        assert_eq!([latency.p50, latency.p95, latency.p99, latency.max], [50, 95, 99, 100].map(Nanos));
        assert_eq!(Latency::of(&mut [7]).unwrap().p50, Nanos(7));
        assert_eq!(Latency::of(&mut []), None);
    }
}
