//! A load run cut into slices of time, each endpoint's counts and latencies in each: what two runs are compared by.
//!
//! Invariant: however long the run, there are at most [`SLICES`] slices; when there would be more, two and two become one.

use std::collections::BTreeMap;

/// Slices at most.
pub const SLICES: usize = 512;
/// The width of slices at first, ns.
const SECOND: u64 = 1_000_000_000;

/// What ended in a slice, of one endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    /// Requests, failures among them.
    pub requests: u64,
    /// Failures.
    pub failures: u64,
    /// How often each latency came, by µs as [`super::requests::kept`] has it.
    pub latencies: BTreeMap<u32, u64>,
}

impl Cell {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        for (us, n) in other.latencies {
            *self.latencies.entry(us).or_default() += n;
        }
    }
}

/// A run in slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slices {
    /// The width of each, ns.
    pub width_ns: u64,
    /// The slices from the start on: endpoint's number to what ended.
    pub list: Vec<BTreeMap<u32, Cell>>,
    /// Method and name of each endpoint.
    pub names: Vec<(String, String)>,
    /// When the load was as high as it was to be, ns since the start.
    pub steady_ns: Option<u64>,
}

impl Default for Slices {
    fn default() -> Self {
        Self { width_ns: SECOND, list: Vec::new(), names: Vec::new(), steady_ns: None }
    }
}

impl Slices {
    /// Takes what ended until `at_ns` after the start (the end of a window), of one endpoint.
    pub fn add(&mut self, at_ns: u64, endpoint: u32, cell: Cell) {
        // The end of a window belongs to what lies before it.
        let at = at_ns.saturating_sub(1);
        while at / self.width_ns >= SLICES as u64 {
            self.widen();
        }
        let index = (at / self.width_ns) as usize;
        if self.list.len() <= index {
            self.list.resize_with(index + 1, BTreeMap::new);
        }
        if let Some(slice) = self.list.get_mut(index) {
            slice.entry(endpoint).or_default().add(cell);
        }
    }

    fn widen(&mut self) {
        self.width_ns *= 2;
        let old = std::mem::take(&mut self.list);
        let mut old = old.into_iter();
        while let Some(mut first) = old.next() {
            for (endpoint, cell) in old.next().into_iter().flatten() {
                first.entry(endpoint).or_default().add(cell);
            }
            self.list.push(first);
        }
    }

    /// Leaves out what lies past `duration_ns` and a last slice that is not whole, where enough is left.
    pub fn end_at(&mut self, duration_ns: u64) {
        let whole = (duration_ns / self.width_ns) as usize;
        if whole >= 3 {
            self.list.truncate(whole);
        }
    }

    /// The slices in which the load was as high as it was to be.
    pub fn steady(&self) -> Option<&[BTreeMap<u32, Cell>]> {
        let from = self.steady_ns?.div_ceil(self.width_ns) as usize;
        self.list.get(from..).filter(|s| !s.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_bounded_and_lose_nothing() {
        let mut s = Slices::default();
        for i in 1..=20_000_u64 {
            s.add(i * 100_000_000, (i % 3) as u32, Cell { requests: 1, failures: i % 2, latencies: [(5, 1)].into() });
        }
        assert!(s.list.len() <= SLICES && s.width_ns == 4 * SECOND, "{} of {}", s.list.len(), s.width_ns);
        let all: u64 = s.list.iter().flat_map(BTreeMap::values).map(|c| c.requests).sum();
        let held: u64 = s.list.iter().flat_map(BTreeMap::values).flat_map(|c| c.latencies.values()).sum();
        assert_eq!((all, held, s.list.len()), (20_000, 20_000, 500));
        s.steady_ns = Some(1_000 * SECOND);
        assert_eq!(s.steady().map(<[_]>::len), Some(250));
        s.end_at(1_001 * SECOND);
        assert_eq!(s.list.len(), 250);
        assert!(s.steady().is_none());
    }
}
