//! A timer wheel: any number of due times at constant cost, given back in exact order.
//!
//! Two wheels of 1024 slots (131 µs and 134 ms wide) and a far list; what comes near is sorted in a small heap, so that a
//! timer fires at its own nanosecond and not at its slot's. Times are nanoseconds of the one clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const SLOTS: u64 = 1024;
/// log2 of a fine slot's width in ns.
const FINE: u32 = 17;
/// log2 of a coarse slot's width.
const COARSE: u32 = FINE + 10;

/// A due time and whom it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timer {
    /// When, ns.
    pub due: u64,
    /// For whom; the wheel does not look at it.
    pub key: u64,
}

/// The wheel.
#[derive(Debug)]
pub struct Wheel {
    /// The fine slot up to which (inclusive) all timers are in `near`.
    at: u64,
    near: BinaryHeap<Reverse<Timer>>,
    fine: Vec<Vec<Timer>>,
    coarse: Vec<Vec<Timer>>,
    far: Vec<Timer>,
    /// Timers in `fine` and `coarse`, to leave empty stretches fast.
    in_fine: usize,
    in_coarse: usize,
}

impl Wheel {
    /// Empty, at `now`.
    pub fn new(now: u64) -> Self {
        let empty = || (0..SLOTS).map(|_| Vec::new()).collect();
        Self {
            at: now >> FINE,
            near: BinaryHeap::new(),
            fine: empty(),
            coarse: empty(),
            far: Vec::new(),
            in_fine: 0,
            in_coarse: 0,
        }
    }

    /// How many timers wait.
    pub fn len(&self) -> usize {
        self.near.len() + self.in_fine + self.in_coarse + self.far.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a timer; one in the past fires at the next call of [`Wheel::pop`].
    pub fn add(&mut self, timer: Timer) {
        let slot = timer.due >> FINE;
        if slot <= self.at {
            self.near.push(Reverse(timer));
        } else if slot >> 10 == self.at >> 10 {
            self.fine[(slot % SLOTS) as usize].push(timer);
            self.in_fine += 1;
        } else if (slot >> 10) - (self.at >> 10) < SLOTS {
            self.coarse[((slot >> 10) % SLOTS) as usize].push(timer);
            self.in_coarse += 1;
        } else {
            self.far.push(timer);
        }
    }

    /// The next timer that is due at `now`, in order of their due times.
    pub fn pop(&mut self, now: u64) -> Option<Timer> {
        self.advance(now >> FINE);
        let Reverse(first) = *self.near.peek()?;
        if first.due > now {
            return None;
        }
        self.near.pop();
        Some(first)
    }

    /// A time at or before the next timer, and after `now`'s slot if none is near; `None` when empty.
    pub fn next_due(&self) -> Option<u64> {
        if let Some(Reverse(first)) = self.near.peek() {
            return Some(first.due);
        }
        if self.in_fine > 0 {
            let end = (self.at >> 10 << 10) + SLOTS;
            let full = (self.at + 1..end).find(|s| !self.fine[(s % SLOTS) as usize].is_empty());
            // Within the slot the earliest counts: a wake-up for nothing costs more than a look.
            if let Some(slot) = full {
                return self.fine[(slot % SLOTS) as usize].iter().map(|t| t.due).min();
            }
        }
        if self.in_coarse > 0 {
            let here = self.at >> 10;
            let full = (here + 1..here + SLOTS).find(|s| !self.coarse[(s % SLOTS) as usize].is_empty());
            if let Some(slot) = full {
                return self.coarse[(slot % SLOTS) as usize].iter().map(|t| t.due).min();
            }
        }
        self.far.iter().map(|t| t.due).min()
    }

    fn advance(&mut self, to: u64) {
        while self.at < to {
            if self.in_fine == 0 && self.at >> 10 < to >> 10 {
                // Nothing until the end of this coarse slot.
                self.at |= SLOTS - 1;
            }
            self.at += 1;
            if self.at.is_multiple_of(SLOTS) {
                self.turn();
            }
            let slot = &mut self.fine[(self.at % SLOTS) as usize];
            self.in_fine -= slot.len();
            self.near.extend(slot.drain(..).map(Reverse));
            if slot.capacity() > 4096 {
                *slot = Vec::new();
            }
            if self.in_fine == 0 && self.at >> 10 == to >> 10 {
                self.at = to;
            }
        }
    }

    /// Takes the coarse slot that begins now into the fine wheel, and what the far list has come near with.
    fn turn(&mut self) {
        let here = self.at >> 10;
        let slot = std::mem::take(&mut self.coarse[(here % SLOTS) as usize]);
        self.in_coarse -= slot.len();
        for timer in slot {
            // `at` is the first fine slot of this coarse one, which the caller empties next.
            self.fine[((timer.due >> FINE) % SLOTS) as usize].push(timer);
            self.in_fine += 1;
        }
        if here.is_multiple_of(SLOTS / 2) && !self.far.is_empty() {
            for timer in std::mem::take(&mut self.far) {
                self.add(timer);
            }
        }
        const { assert!(COARSE == 27) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::chance::Chance;

    #[test]
    fn timers_fire_in_order_and_never_early() {
        let mut chance = Chance::new(7, 7);
        let start = 123_456_789_000;
        let mut wheel = Wheel::new(start);
        let mut left = Vec::new();
        let add = |wheel: &mut Wheel, left: &mut Vec<u64>, due: u64| {
            wheel.add(Timer { due, key: due });
            left.push(due);
        };
        for _ in 0..5000 {
            let reach = [1_000, 1_000_000, 1_000_000_000, 400_000_000_000][chance.below(4) as usize];
            add(&mut wheel, &mut left, start + chance.below(reach));
        }
        let mut now = start;
        let mut fired = Vec::new();
        let mut last = 0;
        while let Some(due) = wheel.next_due() {
            now = now.max(due) + if chance.below(2) == 0 { 0 } else { chance.below(3_000_000) };
            last = 0.max(last);
            let mut batch = 0;
            while let Some(t) = wheel.pop(now) {
                assert!(t.due <= now && t.due >= batch, "{} after {batch} at {now}", t.due);
                batch = t.due;
                fired.push(t.due);
                if chance.below(10) == 0 && left.len() < 20_000 {
                    add(&mut wheel, &mut left, now + chance.below(2_000_000_000));
                }
            }
            assert!(batch > 0, "a wake-up for nothing at {now}, due {due}");
        }
        assert!(wheel.is_empty());
        left.sort_unstable();
        fired.sort_unstable();
        assert_eq!(left, fired);
    }
}
