//! The tally of a run while it goes on, put together from its windows, for those who look before the end.
//!
//! In: windows. Out: a [`Tally`] and the rates of the last ten seconds, by name. Invariants: nothing is lost of what windows
//! tell, so that at the end counts are those of the engine's own tallies; memory grows with names, not with requests. Limits:
//! of service times windows tell sums only, so that until the end there is a mean and no percentile; a reset begins counting
//! anew with the next window, up to 100 ms late.

use std::collections::{BTreeMap, VecDeque};

use rustc_hash::FxHashMap;

use crate::load::tally::{Stats, Tally, Window};
use crate::record::load::LOCUST_PERCENTILES;
use crate::record::load_view::Rates;
use crate::record::requests::kept;

/// Over how many seconds rates are taken, as Locust does.
const SECONDS: usize = 10;

/// What a name had in a second.
#[derive(Debug, Clone, Default)]
struct Counts {
    requests: u32,
    failures: u32,
    /// Latencies, µs to eleven bits, and how often.
    latencies: FxHashMap<u32, u32>,
}

/// What is known so far.
#[derive(Debug, Default)]
pub struct Follower {
    tally: Tally,
    /// Sums of service times, µs, by name.
    service_us: Vec<u64>,
    /// By name.
    current: Vec<Counts>,
    recent: VecDeque<Vec<Counts>>,
    /// When counting began, ns of the one clock; `None` for with the run.
    since: Option<u64>,
}

impl Follower {
    /// Takes a window in.
    pub fn take(&mut self, window: &Window) {
        for row in &window.rows {
            let at = row.name as usize;
            if self.tally.names.len() <= at {
                self.tally.names.resize_with(at + 1, Stats::default);
                self.service_us.resize(at + 1, 0);
            }
            if self.current.len() <= at {
                self.current.resize_with(at + 1, Counts::default);
            }
            let stats = &mut self.tally.names[at];
            let requests = row.latencies_us.len() as u64;
            stats.requests += requests;
            stats.failures += row.failures;
            stats.bytes += row.bytes;
            for us in &row.latencies_us {
                stats.latency.record(u64::from(*us) * 1000);
            }
            self.service_us[at] += row.service_us;
            let now = &mut self.current[at];
            now.requests = now.requests.saturating_add(requests as u32);
            now.failures = now.failures.saturating_add(row.failures as u32);
            for us in &row.latencies_us {
                *now.latencies.entry(kept(*us)).or_default() += 1;
            }
        }
        for failed in &window.failed {
            self.tally.take_failure(failed);
        }
        self.tally.peak_users = self.tally.peak_users.max(window.users);
    }

    /// A second is over.
    pub fn close_second(&mut self) {
        self.recent.push_back(std::mem::take(&mut self.current));
        if self.recent.len() > SECONDS {
            self.recent.pop_front();
        }
    }

    /// Forgets what was counted; `at` is now, ns of the one clock.
    pub fn reset(&mut self, at: u64) {
        *self = Self { since: Some(at), ..Self::default() };
    }

    /// When counting began, if there was a reset.
    pub fn since(&self) -> Option<u64> {
        self.since
    }

    /// Everything that was counted.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The mean service time of a name, ms.
    pub fn service_ms(&self, name: usize) -> Option<f64> {
        let requests = self.tally.names.get(name)?.requests;
        let sum = self.service_us.get(name)?;
        (requests > 0).then(|| *sum as f64 / requests as f64 / 1e3)
    }

    /// The mean service time of all, ms.
    pub fn mean_service_ms(&self) -> Option<f64> {
        let requests: u64 = self.tally.names.iter().map(|s| s.requests).sum();
        (requests > 0).then(|| self.service_us.iter().sum::<u64>() as f64 / requests as f64 / 1e3)
    }

    /// Rates of the last seconds, by name.
    pub fn rates(&self) -> Vec<Rates> {
        let seconds = self.recent.len().max(1) as f64;
        let mut all = vec![Rates::default(); self.tally.names.len()];
        for counts in &self.recent {
            for (rates, counts) in all.iter_mut().zip(counts) {
                rates.requests += f64::from(counts.requests);
                rates.failures += f64::from(counts.failures);
            }
        }
        for rates in &mut all {
            rates.requests /= seconds;
            rates.failures /= seconds;
        }
        all
    }

    /// Latencies of the last seconds at [`LOCUST_PERCENTILES`], ms: of a name, or of all.
    pub fn recent_percentiles(&self, name: Option<usize>) -> Vec<Option<f64>> {
        let mut joint: BTreeMap<u32, u64> = BTreeMap::new();
        for (at, counts) in self.recent.iter().flat_map(|second| second.iter().enumerate()) {
            if name.is_none_or(|n| n == at) {
                counts.latencies.iter().for_each(|(us, n)| *joint.entry(*us).or_default() += u64::from(*n));
            }
        }
        let total: u64 = joint.values().sum();
        let at = |p: f64| {
            let rank = ((p / 100.0 * total as f64).ceil() as u64).max(1);
            let mut seen = 0;
            let found = joint.iter().find(|(_, n)| {
                seen += **n;
                seen >= rank
            });
            found.map(|(us, _)| f64::from(*us) / 1e3)
        };
        LOCUST_PERCENTILES.map(at).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::script::NameId;
    use crate::load::tally::{Failure, Occurred, WindowFailure, WindowRow};

    #[test]
    fn windows_add_up_and_a_reset_forgets() {
        let failure = Failure { kind: "status", message: "status 500".into() };
        let row = WindowRow { name: 1, failures: 1, bytes: 7, latencies_us: vec![1000, 2000], service_us: 2000 };
        let seen = Occurred { count: 1, first: 5, last: 6, told: 0, untold_first: 5 };
        let window = Window {
            users: 3,
            rows: vec![row],
            failed: vec![WindowFailure { name: NameId(1), failure, seen }],
            ..Window::default()
        };
        let mut follower = Follower::default();
        for _ in 0..20 {
            follower.take(&window);
            follower.close_second();
        }
        let stats = &follower.tally().names[1];
        assert_eq!((stats.requests, stats.failures, stats.bytes), (40, 20, 140));
        assert_eq!(follower.tally().errors.values().map(|o| o.count).sum::<u64>(), 20);
        assert_eq!(follower.service_ms(1), Some(1.0));
        assert_eq!(follower.rates()[1], Rates { requests: 2.0, failures: 1.0 });
        // Ten seconds count, and what was before them does not.
        let fast = WindowRow { name: 0, latencies_us: vec![500], ..WindowRow::default() };
        let fast = Window { rows: vec![fast], ..Window::default() };
        for _ in 0..5 {
            follower.take(&fast);
            follower.close_second();
        }
        let (all, one) = (follower.recent_percentiles(None), follower.recent_percentiles(Some(1)));
        assert_eq!((all[0], all[10], one[0], one[10]), (Some(1.0), Some(2.0), Some(1.0), Some(2.0)));
        assert_eq!(follower.recent_percentiles(Some(0))[0], Some(0.5));
        assert_eq!(follower.recent_percentiles(Some(9)), vec![None; 11]);
        follower.reset(9);
        assert_eq!((follower.since(), follower.tally().names.len(), follower.rates().len()), (Some(9), 0, 0));
    }
}
