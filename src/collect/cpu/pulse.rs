//! Sampling in windows, to measure what it costs: off, the bare timer interrupt, full samples, and again.
//!
//! Comparing whole runs with and without a profiler drowns in the noise of a shared machine; windows of some ten
//! milliseconds inside one run, paired with their neighbours, do not. Each change is a mark in the recording, from which
//! `scripts/peers/cpu-overhead` computes the price of a window against that of the one before and after.

use std::time::Duration;

use crate::clock::Mono;

/// What ticks in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    /// Nothing.
    Off,
    /// The timer alone, without a program.
    Bare,
    /// The timer with its sample.
    Full,
}

impl Beat {
    /// The word in the mark.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Bare => "bare",
            Self::Full => "full",
        }
    }
}

/// The order of windows: each of the two is next to as many quiet ones as the other.
const ORDER: [Beat; 4] = [Beat::Off, Beat::Full, Beat::Off, Beat::Bare];

/// The windows' clockwork.
#[derive(Debug)]
pub(super) struct Pulse {
    window_ns: u64,
    turn: usize,
    until: Mono,
}

impl Pulse {
    /// Windows of `window_ns` from `now` on.
    pub(super) fn new(window_ns: u64, now: Mono) -> Self {
        Self { window_ns, turn: ORDER.len() - 1, until: now }
    }

    /// What begins now, if a window ended.
    pub(super) fn turn(&mut self, now: Mono) -> Option<Beat> {
        if now < self.until {
            return None;
        }
        self.turn = (self.turn + 1) % ORDER.len();
        self.until = now.plus(self.window_ns);
        Some(ORDER[self.turn])
    }

    /// How long the present window lasts from `now`.
    pub(super) fn left(&self, now: Mono) -> Duration {
        Duration::from_nanos(self.until.since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_alternate_with_quiet_ones() {
        let mut pulse = Pulse::new(10, Mono(0));
        let seen: Vec<_> = (0..8).map(|i| pulse.turn(Mono(i * 10)).map(Beat::name)).collect();
        let once = [Some("off"), Some("full"), Some("off"), Some("bare")];
        assert_eq!(seen, [once, once].concat());
        assert_eq!(pulse.turn(Mono(75)), None);
        assert_eq!(pulse.left(Mono(75)), Duration::from_nanos(5));
    }
}
