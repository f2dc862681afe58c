//! The slowest requests of a run, each whole, in constant memory.
//!
//! Invariants: at most [`KEPT`] and a quarter are in memory, a thread; what is left at the end are exactly the slowest 1 %
//! of all (or [`KEPT`]); a request that is not among the slowest so far costs one comparison.

use rustc_hash::FxHashMap;

use super::script::NameId;
use super::tally::{Failure, MESSAGES, Outcome};

/// Requests that are kept at most.
pub const KEPT: usize = 100_000;
/// One in so many.
const SHARE: u64 = 100;

/// A request as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowRow {
    /// When it was due, ns of the one clock.
    pub due: u64,
    /// When it was sent.
    pub sent: u64,
    /// When its first byte came, 0 for never.
    pub first: u64,
    /// When it ended.
    pub end: u64,
    /// Content, bytes.
    pub bytes: u64,
    /// Its name.
    pub name: NameId,
    /// Its status, 0 for none.
    pub status: u16,
    /// Its failure's number plus one, 0 for none.
    failure: u16,
}

impl SlowRow {
    fn latency(&self) -> u64 {
        self.end.saturating_sub(self.due)
    }
}

/// The slowest until now.
#[derive(Debug, Clone, Default)]
pub struct Slowest {
    /// How many are wanted; 0 keeps none.
    room: usize,
    /// No request that is not slower is among them.
    floor: u64,
    rows: Vec<SlowRow>,
    failures: Vec<Failure>,
    ids: FxHashMap<Failure, u16>,
}

impl Slowest {
    /// Keeps up to `room`.
    pub fn new(room: usize) -> Self {
        Self { room, ..Self::default() }
    }

    /// Takes a request that ended.
    #[inline]
    pub fn offer(&mut self, o: &Outcome, failure: Option<&Failure>) {
        if self.room > 0 && o.end.saturating_sub(o.due) > self.floor {
            self.take(o, failure);
        }
    }

    fn take(&mut self, o: &Outcome, failure: Option<&Failure>) {
        let failure = failure.map_or(0, |f| self.id(f));
        let Outcome { due, sent, first, end, bytes, name, status, .. } = *o;
        self.push(SlowRow { due, sent, first, end, bytes, name, status, failure });
    }

    fn push(&mut self, row: SlowRow) {
        self.rows.push(row);
        if self.rows.len() > self.room + self.room / 4 {
            self.cut(self.room);
        }
    }

    fn id(&mut self, failure: &Failure) -> u16 {
        if let Some(id) = self.ids.get(failure) {
            return *id;
        }
        if self.failures.len() >= MESSAGES {
            let other = Failure { kind: failure.kind, message: "(other messages)".to_owned() };
            if *failure != other {
                // Kinds are few, so that this does not go on.
                return self.id(&other);
            }
        }
        self.failures.push(failure.clone());
        let id = u16::try_from(self.failures.len()).unwrap_or(u16::MAX);
        self.ids.insert(failure.clone(), id);
        id
    }

    /// Leaves the slowest `n`.
    fn cut(&mut self, n: usize) {
        if n == 0 || self.rows.len() <= n {
            self.rows.truncate(n);
            return;
        }
        let (_, last, _) = self.rows.select_nth_unstable_by_key(n - 1, |r| std::cmp::Reverse(r.latency()));
        self.floor = self.floor.max(last.latency());
        self.rows.truncate(n);
    }

    /// Takes all of `other`.
    pub fn add(&mut self, other: &Self) {
        self.room = self.room.max(other.room);
        let ids: Vec<u16> = other.failures.iter().map(|f| self.id(f)).collect();
        for row in &other.rows {
            let failure = row.failure.checked_sub(1).and_then(|i| ids.get(i as usize)).copied().unwrap_or(0);
            self.push(SlowRow { failure, ..*row });
        }
    }

    /// The slowest 1 % of `requests`, in the order of their due times, each with its failure.
    pub fn finish(mut self, requests: u64) -> Vec<(SlowRow, Option<Failure>)> {
        let wanted = usize::try_from(requests.div_ceil(SHARE)).unwrap_or(KEPT).min(KEPT);
        self.cut(wanted.min(self.room));
        self.rows.sort_unstable_by_key(|r| (r.due, r.end));
        let failure = |row: &SlowRow| row.failure.checked_sub(1).and_then(|i| self.failures.get(i as usize)).cloned();
        self.rows.iter().map(|row| (*row, failure(row))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::chance::Chance;

    #[test]
    fn exactly_the_slowest_are_kept_whatever_the_order() {
        for order in 0..3 {
            let mut parts = [Slowest::new(1000), Slowest::new(1000)];
            let mut all = Vec::new();
            let mut chance = Chance::new(7, order);
            for i in 0..50_000_u64 {
                let latency = match order {
                    0 => i + 1,
                    1 => 50_000 - i,
                    _ => 1 + chance.below(1_000_000_000),
                };
                all.push(latency);
                let o = Outcome {
                    name: NameId(0),
                    due: i,
                    sent: i,
                    first: 0,
                    token: 0,
                    end: i + latency,
                    bytes: 1,
                    events: 0,
                    status: 0,
                };
                let failure = Failure { kind: "check", message: format!("m{}", latency % 600) };
                parts[(i % 2) as usize].offer(&o, Some(&failure));
                assert!(parts[0].rows.len() <= 1251);
            }
            let mut joint = Slowest::default();
            joint.add(&parts[0]);
            joint.add(&parts[1]);
            let rows = joint.finish(50_000);
            all.sort_unstable();
            let mut kept: Vec<u64> = rows.iter().map(|(r, _)| r.latency()).collect();
            kept.sort_unstable();
            assert_eq!(kept, all[49_500..], "order {order}");
            assert!(rows.windows(2).all(|w| w[0].0.due <= w[1].0.due));
            for (row, failure) in &rows {
                let message = failure.as_ref().unwrap().message.clone();
                assert!(message == format!("m{}", row.latency() % 600) || message.starts_with("(other"), "{message}");
            }
        }
        assert!(Slowest::default().finish(10).is_empty());
    }
}
