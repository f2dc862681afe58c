//! How late sleeps end on this machine, and so how long before something is due the clock is watched instead of slept on.
//!
//! Timers of a virtual machine end late by some ten µs, now and then by hundreds. The margin follows the latest sleeps: at
//! once up to the worst of them, slowly down again. Bounded, so that a machine which is overloaded is not loaded with
//! watching the clock too.

/// The margin where sleeps end in time, ns.
const LEAST_NS: u64 = 60_000;
/// The longest margin, ns.
const MOST_NS: u64 = 500_000;
/// The share of the way down that each sleep which ended in time takes back: one in so many.
const FORGETS: u64 = 256;

/// What is known of sleeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Oversleep {
    margin_ns: u64,
}

impl Default for Oversleep {
    fn default() -> Self {
        Self { margin_ns: LEAST_NS }
    }
}

impl Oversleep {
    /// How long before the due time to wake, ns.
    pub(super) fn margin(&self) -> u64 {
        self.margin_ns
    }

    /// A sleep ended so late, ns.
    pub(super) fn ended(&mut self, late_ns: u64) {
        // A quarter more than was needed.
        let wanted = (late_ns + late_ns / 4).clamp(LEAST_NS, MOST_NS);
        self.margin_ns =
            if wanted > self.margin_ns { wanted } else { self.margin_ns - (self.margin_ns - wanted).div_ceil(FORGETS) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_grows_at_once_and_shrinks_slowly() {
        let mut sleep = Oversleep::default();
        assert_eq!(sleep.margin(), LEAST_NS);
        sleep.ended(200_000);
        assert_eq!(sleep.margin(), 250_000);
        sleep.ended(10_000);
        assert!(sleep.margin() < 250_000 && sleep.margin() > 240_000, "{}", sleep.margin());
        sleep.ended(u64::MAX / 2);
        assert_eq!(sleep.margin(), MOST_NS);
        for _ in 0..10_000 {
            sleep.ended(0);
        }
        assert_eq!(sleep.margin(), LEAST_NS);
    }
}
