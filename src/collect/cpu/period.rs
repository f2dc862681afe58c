//! How long until the next sample, and for how much time a sample stands.
//!
//! In: the rate. Out: periods, and the weight of each fire of a timer with such a period. Two kinds, told apart by the lowest
//! bit, so that the period in a record says which it was:
//!
//! *steady* (even): within a third of the mean, for threads that live long. Every fire stands for one period.
//!
//! *wide* (odd): anything up to twice the mean, evenly, for threads that may be born with it. A timer that a thread inherits
//! at its birth fires for the first time after a whole period of its CPU time: with steady periods a thread that lives
//! shorter would never be seen, and one that lives a little longer always at the same point of its life. With wide ones
//! every moment of its life is as likely as the other, so the first fire stands for the whole range of periods, whatever
//! its own was; later fires within that range are moments that other periods answer for and stand for nothing; beyond it
//! they stand for a period each. The expected sum is the thread's CPU time for lives up to twice the mean, and about one mean
//! less for longer ones (a unit test measures it).

/// Steady frequencies lie evenly within this part of the asked one, up and down.
const SPREAD: f64 = 0.25;
/// Wide periods reach up to so many means.
const REACH: f64 = 2.0;
/// And down to one in so many of the mean: a shorter one would be an interrupt storm.
const FLOOR: f64 = 50.0;

/// The two kinds of periods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Draw {
    /// For threads that live long.
    Steady,
    /// For threads that may be born with it, or may end soon.
    Wide,
}

/// Draws periods, in whatever unit the mean has.
#[derive(Debug, Clone)]
pub(super) struct Periods {
    mean: f64,
    random: u64,
}

impl Periods {
    /// Periods of this mean.
    pub(super) fn new(mean: f64, seed: u64) -> Self {
        Self { mean: mean.max(4.0), random: seed | 1 }
    }

    fn unit(&mut self) -> f64 {
        // xorshift64: any sequence without a period near the target's will do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A period of this kind.
    pub(super) fn draw(&mut self, kind: Draw) -> u64 {
        match kind {
            Draw::Steady => self.steady(),
            Draw::Wide => self.wide(),
        }
    }

    /// For a thread that is there: the frequency, not the period, is spread evenly, so that its mean is what was asked for.
    fn steady(&mut self) -> u64 {
        let part = 1.0 - SPREAD + 2.0 * SPREAD * self.unit();
        (self.mean / part) as u64 & !1
    }

    /// For threads that may be born.
    fn wide(&mut self) -> u64 {
        let (from, to) = self.range();
        (from + (to - from) * self.unit()) as u64 | 1
    }

    fn range(&self) -> (f64, f64) {
        (self.mean / FLOOR, self.mean * REACH)
    }

    /// What the `fire`-th fire (from 1) of a timer with this period stands for; 0: nothing.
    pub(super) fn weight(&self, period: u64, fire: u32) -> u64 {
        if period & 1 == 0 {
            return period;
        }
        let (from, to) = self.range();
        match fire {
            0 | 1 => (to - from) as u64,
            _ if period as f64 * f64::from(fire) <= to => 0,
            _ => period,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEAN: f64 = 10_000.0;

    /// The mean of what a life of `length` is taken for, and of where in it the weight lies (0 its birth, 1 its end).
    fn lives(length: f64, draw: impl Fn(&mut Periods) -> u64) -> (f64, f64) {
        let mut periods = Periods::new(MEAN, 7);
        let rounds = 200_000;
        let (mut sum, mut place) = (0.0, 0.0);
        for _ in 0..rounds {
            let period = draw(&mut periods);
            let mut fire = 1;
            while period as f64 * f64::from(fire) < length {
                let weight = periods.weight(period, fire) as f64;
                sum += weight;
                place += weight * period as f64 * f64::from(fire) / length;
                fire += 1;
            }
        }
        (sum / f64::from(rounds), if sum > 0.0 { place / sum } else { f64::NAN })
    }

    #[test]
    fn short_lives_are_seen_whole() {
        for life in [0.3, 0.5, 1.0, 2.0] {
            let (sum, place) = lives(life * MEAN, Periods::wide);
            let seen = sum / MEAN;
            // The floor costs a fiftieth of the mean.
            assert!((seen - (life - 1.0 / FLOOR)).abs() < 0.02, "{life} means are taken for {seen}");
            assert!((place - 0.5).abs() < 0.05, "the middle of a life of {life} is at {place}");
            // With steady periods: nothing, or all of it at one point.
            let (sum, place) = lives(life * MEAN, Periods::steady);
            assert!(life > 1.0 || sum == 0.0 || (place - 0.5).abs() > 0.15, "{life} means: {sum} at {place}");
        }
    }

    #[test]
    fn longer_lives_lose_about_one_mean() {
        for life in [5.0, 20.0, 100.0] {
            let short = life - lives(life * MEAN, Periods::wide).0 / MEAN;
            assert!((0.0..1.3).contains(&short), "{life} means lose {short}");
        }
    }

    #[test]
    fn steady_periods_keep_the_rate() {
        let mut periods = Periods::new(MEAN, 3);
        let rate: f64 = (0..100_000).map(|_| 1.0 / periods.steady() as f64).sum::<f64>() / 1e5;
        assert!((rate * MEAN - 1.0).abs() < 0.01, "{rate}");
        let all: Vec<u64> = (0..1000).map(|_| periods.steady()).collect();
        assert!(all.iter().all(|p| (7_999..13_334).contains(p)));
    }
}
