//! What was measured: histograms and counts by name, the same whole run long, and what is new in each window.
//!
//! Invariants: memory does not grow with the number of requests (it grows with the number of names, of distinct error
//! messages up to [`MESSAGES`], and with the largest latency); every request that was begun is counted once, as done, failed
//! or unfinished; adding tallies loses nothing.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use rustc_hash::FxHashMap;

use super::script::NameId;
use super::slowest::Slowest;

/// Distinct errors that are kept apart, a thread.
pub const MESSAGES: usize = 500;
/// The longest latency that is told exactly, µs; longer ones (a day) count as this.
const LONGEST_US: u64 = 86_400_000_000;

/// Times in µs, to three digits.
#[derive(Debug, Clone)]
pub struct Times {
    /// The histogram, µs.
    pub histogram: Histogram<u64>,
    /// The sum of all, ns.
    pub sum_ns: u128,
    /// The shortest, ns.
    pub min_ns: u64,
    /// The longest, ns.
    pub max_ns: u64,
}

impl Default for Times {
    fn default() -> Self {
        Self::new(3)
    }
}

impl Times {
    fn new(digits: u8) -> Self {
        // One to five digits are always accepted; the other constructor's bound is only there to have no panic here.
        let histogram = Histogram::new(digits).or_else(|_| Histogram::new(3));
        let histogram = histogram.unwrap_or_else(|_| unreachable_histogram());
        Self { histogram, sum_ns: 0, min_ns: u64::MAX, max_ns: 0 }
    }

    /// Takes one.
    pub fn record(&mut self, ns: u64) {
        // Grows as it must; that can only fail past the longest value, which is cut off here.
        let _: Result<_, _> = self.histogram.record((ns / 1000).min(LONGEST_US));
        self.sum_ns += u128::from(ns);
        self.min_ns = self.min_ns.min(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// Takes all of `other`.
    pub fn add(&mut self, other: &Self) {
        // Both grow as they must, so that adding cannot fail.
        let _: Result<_, _> = self.histogram.add(&other.histogram);
        self.sum_ns += other.sum_ns;
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The percentile `p`, ms; `None` of none.
    pub fn percentile_ms(&self, p: f64) -> Option<f64> {
        if self.count() == 0 {
            return None;
        }
        let exact = self.max_ns as f64 / 1e6;
        Some((self.histogram.value_at_percentile(p) as f64 / 1e3).min(exact))
    }

    /// The mean, ms; `None` of none.
    pub fn mean_ms(&self) -> Option<f64> {
        (self.count() > 0).then(|| self.sum_ns as f64 / self.count() as f64 / 1e6)
    }

    /// The longest, ms; `None` of none.
    pub fn max_ms(&self) -> Option<f64> {
        (self.count() > 0).then_some(self.max_ns as f64 / 1e6)
    }

    /// The shortest, ms; `None` of none.
    pub fn min_ms(&self) -> Option<f64> {
        (self.count() > 0).then_some(self.min_ns as f64 / 1e6)
    }
}

#[allow(clippy::panic, reason = "three significant digits are within the library's documented range of 0 to 5")]
fn unreachable_histogram() -> Histogram<u64> {
    panic!("hdrhistogram refuses three significant digits")
}

/// What is known of a name.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Requests that ended, failures among them.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Content received, bytes.
    pub bytes: u64,
    /// From the due time to the last byte.
    pub latency: Times,
    /// From sending (connecting, where that was needed) to the last byte.
    pub service: Times,
    /// From sending to the first byte.
    pub first_byte: Times,
    /// From sending to the first event of a stream, where there are streams.
    pub first_token: Option<Box<Times>>,
    /// Events of streams.
    pub events: u64,
    /// How often each status code came.
    pub statuses: BTreeMap<u16, u64>,
}

impl Stats {
    /// Takes all of `other`.
    pub fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.bytes += other.bytes;
        self.latency.add(&other.latency);
        self.service.add(&other.service);
        self.first_byte.add(&other.first_byte);
        if let Some(times) = &other.first_token {
            self.first_token.get_or_insert_default().add(times);
        }
        self.events += other.events;
        for (status, n) in &other.statuses {
            *self.statuses.entry(*status).or_default() += n;
        }
    }
}

/// A failure, by kind and message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Failure {
    /// Of what kind: `refused`, `reset`, `closed`, `timeout`, `tls`, `protocol`, `status`, `check`, …
    pub kind: &'static str,
    /// What happened.
    pub message: String,
}

/// How often a failure happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occurred {
    /// How often.
    pub count: u64,
    /// First, ns of the one clock.
    pub first: u64,
    /// Last, ns of the one clock.
    pub last: u64,
    /// How many of them windows have told of.
    pub told: u64,
    /// The first that no window has told of, ns of the one clock.
    pub untold_first: u64,
}

/// Failures of a window that are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowFailure {
    /// Which name.
    pub name: NameId,
    /// What failed.
    pub failure: Failure,
    /// How often in this window, and when.
    pub seen: Occurred,
}

/// A request that ended.
#[derive(Debug, Clone, Copy)]
pub struct Outcome {
    /// Its name.
    pub name: NameId,
    /// When it was due, ns of the one clock.
    pub due: u64,
    /// When it was sent.
    pub sent: u64,
    /// When its first byte came, 0 for never.
    pub first: u64,
    /// When its first event came, 0 for never.
    pub token: u64,
    /// When it ended.
    pub end: u64,
    /// Content, bytes.
    pub bytes: u64,
    /// Events.
    pub events: u32,
    /// Its status, 0 for none.
    pub status: u16,
}

/// The tally of a thread, or of the run.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// By [`NameId`].
    pub names: Vec<Stats>,
    /// What failed.
    pub errors: FxHashMap<(NameId, Failure), Occurred>,
    /// How much later than it could have been a scheduled request was sent.
    pub lag: Times,
    /// Arrivals that were begun.
    pub arrivals_made: u64,
    /// Arrivals that the schedule has.
    pub arrivals_asked: u64,
    /// Requests that were under way when the run ended.
    pub unfinished: u64,
    /// Users or tasks at the same time, at most.
    pub peak_users: u32,
    /// Connections that were opened.
    pub connections: u64,
    /// Answers after which the server sent bytes that nobody asked for.
    pub stray: u64,
    /// The slowest requests, where they are wanted.
    pub slowest: Slowest,
    /// Whether there are failures that no window has told of.
    untold: bool,
}

impl Tally {
    /// An empty one that keeps up to `room` of the slowest requests.
    pub fn keeping(room: usize) -> Self {
        Self { slowest: Slowest::new(room), ..Self::default() }
    }

    /// Takes a request that ended.
    pub fn record(&mut self, o: &Outcome, failure: Option<Failure>) {
        let at = o.name.0 as usize;
        if self.names.len() <= at {
            self.names.resize_with(at + 1, Stats::default);
        }
        let stats = &mut self.names[at];
        stats.requests += 1;
        stats.bytes += o.bytes;
        stats.events += u64::from(o.events);
        stats.latency.record(o.end.saturating_sub(o.due));
        stats.service.record(o.end.saturating_sub(o.sent));
        if o.first > 0 {
            stats.first_byte.record(o.first.saturating_sub(o.sent));
        }
        if o.token > 0 {
            stats.first_token.get_or_insert_default().record(o.token.saturating_sub(o.sent));
        }
        if o.status > 0 {
            *stats.statuses.entry(o.status).or_default() += 1;
        }
        self.slowest.offer(o, failure.as_ref());
        if let Some(failure) = failure {
            stats.failures += 1;
            self.fail(o.name, failure, o.end);
        }
    }

    fn fail(&mut self, name: NameId, failure: Failure, at: u64) {
        let mut key = (name, failure);
        if self.errors.len() >= MESSAGES && !self.errors.contains_key(&key) {
            "(other messages)".clone_into(&mut key.1.message);
        }
        let new = Occurred { count: 0, first: at, last: at, told: 0, untold_first: at };
        let seen = self.errors.entry(key).or_insert(new);
        if seen.count == seen.told {
            seen.untold_first = at;
        }
        seen.count += 1;
        seen.last = at;
        self.untold = true;
    }

    /// Failures since this was asked last, with the times of those.
    pub fn untold(&mut self) -> Vec<WindowFailure> {
        if !std::mem::take(&mut self.untold) {
            return Vec::new();
        }
        let fresh = self.errors.iter_mut().filter(|(_, seen)| seen.count > seen.told);
        fresh
            .map(|((name, failure), seen)| {
                let count = seen.count - std::mem::replace(&mut seen.told, seen.count);
                let seen = Occurred { count, first: seen.untold_first, ..*seen };
                WindowFailure { name: *name, failure: failure.clone(), seen }
            })
            .collect()
    }

    /// Takes in failures that a window told of.
    pub fn take_failure(&mut self, told: &WindowFailure) {
        let key = (told.name, told.failure.clone());
        let mine = self.errors.entry(key).or_insert(Occurred { count: 0, ..told.seen });
        mine.count += told.seen.count;
        mine.first = mine.first.min(told.seen.first);
        mine.last = mine.last.max(told.seen.last);
    }

    /// Forgets the requests, but not who drove: users, arrivals and connections go on.
    pub fn begin_anew(&mut self) {
        let old = std::mem::take(self);
        *self = Self {
            arrivals_made: old.arrivals_made,
            arrivals_asked: old.arrivals_asked,
            peak_users: old.peak_users,
            connections: old.connections,
            slowest: old.slowest.emptied(),
            ..Self::default()
        };
    }

    /// Takes all of `other`.
    pub fn add(&mut self, other: &Self) {
        if self.names.len() < other.names.len() {
            self.names.resize_with(other.names.len(), Stats::default);
        }
        for (mine, theirs) in self.names.iter_mut().zip(&other.names) {
            mine.add(theirs);
        }
        for (key, o) in &other.errors {
            let mine = self.errors.entry(key.clone()).or_insert(Occurred { count: 0, ..*o });
            mine.count += o.count;
            mine.first = mine.first.min(o.first);
            mine.last = mine.last.max(o.last);
        }
        self.lag.add(&other.lag);
        self.arrivals_made += other.arrivals_made;
        self.arrivals_asked += other.arrivals_asked;
        self.unfinished += other.unfinished;
        self.peak_users += other.peak_users;
        self.connections += other.connections;
        self.stray += other.stray;
        self.slowest.add(&other.slowest);
    }

    /// All names together.
    pub fn total(&self) -> Stats {
        let mut all = Stats::default();
        for stats in &self.names {
            all.add(stats);
        }
        all
    }
}

/// What ended in a window, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WindowRow {
    /// Which name.
    pub name: u32,
    /// Failures among them.
    pub failures: u64,
    /// Content received, bytes.
    pub bytes: u64,
    /// The latency of each request, µs, in no order.
    pub latencies_us: Vec<u32>,
    /// The sum of their service times, µs.
    pub service_us: u64,
}

/// What a thread has to tell of a window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    /// Which thread.
    pub worker: u64,
    /// When it ends, ns of the one clock.
    pub end: u64,
    /// Users (or tasks) now.
    pub users: u32,
    /// The longest generator lag in it, ns.
    pub lag_max_ns: u64,
    /// What ended.
    pub rows: Vec<WindowRow>,
    /// What failed.
    pub failed: Vec<WindowFailure>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up_and_messages_are_bounded() {
        let outcome = |name, ms: u64| Outcome {
            name: NameId(name),
            due: 0,
            sent: 10,
            first: 20,
            token: 0,
            end: ms * 1_000_000,
            bytes: 5,
            events: 0,
            status: 200,
        };
        let (mut a, mut b) = (Tally::default(), Tally::default());
        for i in 0..1000 {
            a.record(&outcome(0, i + 1), None);
            let message = format!("m{i}");
            b.record(&outcome(2, i + 1), Some(Failure { kind: "check", message }));
        }
        assert_eq!(b.errors.len(), MESSAGES + 1);
        a.add(&b);
        let total = a.total();
        assert_eq!((total.requests, total.failures, total.bytes), (2000, 1000, 10_000));
        assert_eq!(total.statuses[&200], 2000);
        let p50 = total.latency.percentile_ms(50.0).unwrap();
        assert!((p50 - 500.0).abs() < 1.5, "{p50}");
        assert_eq!(total.latency.max_ms(), Some(1000.0));
        let p99 = total.latency.percentile_ms(99.0).unwrap();
        assert!((p99 - 990.0).abs() < 1.5, "{p99}");
        assert_eq!(a.errors.values().map(|o| o.count).sum::<u64>(), 1000);
        assert_eq!(Times::default().percentile_ms(50.0), None);
    }
}
