//! Users as they come and go: what a thread makes of the closed model's level, turns while the run goes on included.
//!
//! Invariant: the changes of all stripes together are those of the whole, whatever their number.

use std::collections::VecDeque;
use std::iter::Peekable;

use super::course::{ENDLESS, Level};
use super::script::Stripe;

/// A user that comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// When, ns since the start.
    pub at: u64,
    /// Which user.
    pub user: u64,
    /// Whether it comes.
    pub comes: bool,
}

/// The changes of a stripe, in order.
#[derive(Debug, Clone)]
pub struct Changes {
    level: Level,
    stripe: Stripe,
    stretch: usize,
    /// The next user of the stretch, `None` at its beginning.
    next: Option<u64>,
}

impl Changes {
    /// Of users whose number is `level`.
    pub fn new(level: Level, stripe: Stripe) -> Self {
        Self { level, stripe, stretch: 0, next: None }
    }
}

impl Iterator for Changes {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        loop {
            let s = *self.level.0.get(self.stretch)?;
            let Stripe { index, total } = self.stripe;
            let rising = s.high > s.low;
            let (first, end) = (s.low.min(s.high).ceil() as u64, s.low.max(s.high).ceil() as u64);
            // Users whose number gives `index` when divided by `total`.
            let lowest = first + (index + total - first % total) % total;
            let user = if rising {
                self.next.unwrap_or(lowest)
            } else {
                let above = (end + total - 1 - index) / total * total + index;
                self.next.unwrap_or(if above >= end { above.wrapping_sub(total) } else { above })
            };
            let inside = s.high.total_cmp(&s.low).is_ne() && user >= first && user < end && user >= lowest;
            if !inside {
                self.stretch += 1;
                self.next = None;
                continue;
            }
            let share = ((user as f64 - s.low) / (s.high - s.low)).clamp(0.0, 1.0);
            let at = s.from + (share * (s.to - s.from) as f64) as u64;
            self.next = Some(if rising { user + total } else { user.wrapping_sub(total) });
            return Some(Change { at, user, comes: rising });
        }
    }
}

/// The users of a stripe as they come and go, with turns of the level that were not known at the start.
///
/// Invariant: whenever a thread learns of a turn, afterwards it has the users that the level after it wants; told before the
/// turn, all threads together do what one would.
#[derive(Debug)]
pub struct Attendance {
    stripe: Stripe,
    changes: Peekable<Changes>,
    /// Levels to come, each with the time from which on it counts.
    turns: VecDeque<(u64, Level)>,
    /// Users of the stripe below this number are here.
    here: u64,
    /// What has to be made up for after a turn that was learned of late.
    late: VecDeque<Change>,
}

impl Attendance {
    /// Of users whose number is `level`.
    pub fn new(level: Level, stripe: Stripe) -> Self {
        let changes = Changes::new(level, stripe).peekable();
        Self { stripe, changes, turns: VecDeque::new(), here: 0, late: VecDeque::new() }
    }

    /// From `level`'s beginning on the number is `level`.
    pub fn turn(&mut self, level: Level) {
        let from = level.0.first().map_or(0, |s| s.from);
        self.turns.push_back((from, level));
    }

    /// The next change, if it is due at `now`, ns since the start.
    pub fn due(&mut self, now: u64) -> Option<Change> {
        loop {
            if let Some(change) = self.late.pop_front() {
                return Some(change);
            }
            let turn = self.turns.front().map_or(u64::MAX, |t| t.0);
            if let Some(change) = self.changes.next_if(|c| c.at <= now && c.at < turn) {
                self.here = if change.comes { change.user + 1 } else { change.user };
                return Some(change);
            }
            if turn > now {
                return None;
            }
            let (at, level) = self.turns.pop_front()?;
            let wanted = Level::users_of(level.at(at));
            let (low, high) = (self.here.min(wanted), self.here.max(wanted));
            let Stripe { index, total } = self.stripe;
            let lowest = low + (index + total - low % total) % total;
            let comes = wanted > self.here;
            self.late.extend((lowest..high).step_by(total as usize).map(|user| Change { at, user, comes }));
            self.here = wanted;
            self.changes = Changes::new(level, self.stripe).peekable();
        }
    }

    /// When the next change is due, ns since the start; [`ENDLESS`] for never.
    pub fn next_at(&mut self) -> u64 {
        let turn = self.turns.front().map_or(ENDLESS, |t| t.0);
        self.changes.peek().map_or(ENDLESS, |c| c.at).min(turn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const ALONE: Stripe = Stripe { index: 0, total: 1 };

    #[test]
    fn turns_of_the_level_are_the_same_for_any_number_of_threads() {
        let ramp = Level::ramp(1000, 100.0, 60 * S);
        let down = ramp.turned(5 * S, 200.0, 150.0, 60 * S);
        assert_eq!((ramp.at(5 * S), down.at(5 * S), down.at(6 * S), down.at(30 * S)), (500.0, 500.0, 350.0, 200.0));
        let up = down.turned(6 * S, 403.0, 1000.0, 60 * S);
        let run = |stripe, told: [u64; 2]| {
            let mut all = Attendance::new(ramp.clone(), stripe);
            let (mut here, mut log) = (std::collections::BTreeSet::new(), Vec::new());
            for at in (0..60 * S).step_by(10_000_000) {
                for (when, level) in told.iter().zip([&down, &up]) {
                    if *when == at {
                        all.turn(level.clone());
                    }
                }
                while let Some(c) = all.due(at) {
                    assert!(if c.comes { here.insert(c.user) } else { here.remove(&c.user) }, "{c:?}");
                    log.push((c.at, c.user));
                }
                assert!(all.next_at() > at);
            }
            (here, log)
        };
        let (whole, mut log) = run(ALONE, [4 * S, 6 * S - 10_000_000]);
        assert_eq!(whole, (0..403).collect());
        let stripes = || (0..3).map(|index| Stripe { index, total: 3 });
        let mut parts: Vec<_> = stripes().flat_map(|s| run(s, [4 * S, 4 * S]).1).collect();
        parts.sort_unstable();
        log.sort_unstable();
        assert_eq!(parts, log);
        // A thread that hears of it late has gone on with the old level, and makes up for it.
        let late: Vec<u64> = stripes().flat_map(|s| run(s, [5 * S + 500_000_000 * s.index, 9 * S]).0).collect();
        assert_eq!(late.into_iter().collect::<std::collections::BTreeSet<_>>(), whole);
        assert_eq!((down.goal_at(6 * S), down.slope_at(6 * S)), (200.0, Some(-150.0)));
        assert_eq!(Level::default().turned(S, 3.0, 1.0, ENDLESS).at(3 * S).to_bits(), 2.0_f64.to_bits());
    }
}
