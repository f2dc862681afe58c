//! The course of a run: how many users there are at each moment, or how many arrivals, and when exactly each one comes.
//!
//! Invariant: everything here is a pure function of the seed, the course, and a stripe (index and total): any thread or
//! machine can compute its part, and the parts together are the whole, whatever their number.

use super::chance::Chance;
use super::scenario::Stage;
use super::script::{Class, Stripe};
use crate::error::{Error, Result};
use crate::units::Nanos;

/// Time without end, ns.
pub const ENDLESS: u64 = u64::MAX;

/// A stretch in which a level goes evenly from one value to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stretch {
    /// When it begins, ns since the start.
    pub from: u64,
    /// When it ends; the last one may be [`ENDLESS`].
    pub to: u64,
    /// The level at its beginning.
    pub low: f64,
    /// The level at its end.
    pub high: f64,
}

/// A level over time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Level(pub Vec<Stretch>);

/// How a run goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Course {
    /// Users, each of whom does one thing after the other.
    Closed(Level),
    /// Arrivals a second, each of which is one task, whoever does it.
    Open {
        /// The rate.
        rate: Level,
        /// Whether arrivals are independent of each other (Poisson) or evenly spaced.
        poisson: bool,
        /// The most tasks at the same time.
        cap: u32,
    },
}

impl Level {
    /// `users` that come at `rate` a second and stay until `end`.
    pub fn ramp(users: u32, rate: f64, end: u64) -> Self {
        Self::stages(&[Stage { users, spawn_rate: rate, duration_ns: end }])
    }

    /// One stage after the other, each from the level of the one before.
    pub fn stages(stages: &[Stage]) -> Self {
        let (mut all, mut now, mut level) = (Vec::new(), 0_u64, 0.0);
        for stage in stages {
            let goal = f64::from(stage.users);
            let end = now.saturating_add(stage.duration_ns);
            let needed = ((goal - level).abs() / stage.spawn_rate * 1e9) as u64;
            let there = now.saturating_add(needed).min(end);
            let reached =
                if needed <= end - now { goal } else { level + (goal - level) * (end - now) as f64 / needed as f64 };
            if there > now {
                all.push(Stretch { from: now, to: there, low: level, high: reached });
            }
            if end > there {
                all.push(Stretch { from: there, to: end, low: reached, high: reached });
            }
            (now, level) = (end, reached);
        }
        Self(all)
    }

    /// Reads arrivals: `500/s`, `100/s for 30s, 100/s..500/s in 1m, 500/s`. A last one without a time lasts until `end`.
    ///
    /// # Errors
    /// `Usage` with what would be allowed.
    pub fn arrivals(text: &str, end: u64) -> Result<Self> {
        let wrong = |why: String| {
            Error::usage(format!("'{text}' are no arrivals: {why}"))
                .advise("write 500/s, or stretches: 100/s for 30s, 100/s..500/s in 1m, 500/s for 2m")
        };
        let rate = |t: &str| {
            let number = t.trim().strip_suffix("/s").unwrap_or(t.trim()).trim();
            let number = number.strip_suffix('k').map_or((number, 1.0), |n| (n, 1e3));
            let value = number.0.parse::<f64>().ok().map(|n| n * number.1).filter(|n| (0.0..=1e8).contains(n));
            value.ok_or_else(|| wrong(format!("'{}' is not a rate", t.trim())))
        };
        let (mut all, mut now) = (Vec::new(), 0_u64);
        let parts: Vec<&str> = text.split(',').collect();
        for (i, part) in parts.iter().enumerate() {
            let (rates, time) = match part.split_once(" for ").or_else(|| part.split_once(" in ")) {
                Some((r, t)) => (r, Some(t.trim().parse::<Nanos>().map_err(|e| wrong(e.to_string()))?.0)),
                None => (*part, None),
            };
            let (low, high) = match rates.split_once("..") {
                Some((a, b)) => (rate(a)?, rate(b)?),
                None => (rate(rates)?, rate(rates)?),
            };
            let to = match time {
                Some(0) => return Err(wrong("a stretch of no length".to_owned())),
                Some(t) => now.saturating_add(t),
                None if i + 1 == parts.len() && low.total_cmp(&high).is_eq() => end.max(now),
                None => return Err(wrong(format!("'{}' needs a time", part.trim()))),
            };
            all.push(Stretch { from: now, to, low, high });
            now = to;
        }
        if all.iter().all(|s| s.low + s.high <= 0.0) {
            return Err(wrong("nothing arrives".to_owned()));
        }
        Ok(Self(all))
    }

    /// The level from `at` on, when it goes on to `goal` at `rate` a second and stays there until `end`: what a change while the
    /// run goes on makes of it.
    #[must_use]
    pub fn turned(&self, at: u64, goal: f64, rate: f64, end: u64) -> Self {
        let now = self.at(at);
        let end = end.max(at);
        let needed = ((goal - now).abs() / rate * 1e9) as u64;
        let there = at.saturating_add(needed).min(end);
        let reached = if there == end && needed > end - at {
            now + (goal - now) * (end - at) as f64 / needed as f64
        } else {
            goal
        };
        let mut all = Vec::new();
        if there > at {
            all.push(Stretch { from: at, to: there, low: now, high: reached });
        }
        all.push(Stretch { from: there, to: end, low: reached, high: reached });
        Self(all)
    }

    /// The level that the stretch at `at` goes to.
    pub fn goal_at(&self, at: u64) -> f64 {
        self.0.iter().find(|s| at < s.to).or(self.0.last()).map_or(0.0, |s| s.high)
    }

    /// How fast the level changes at `at`, a second.
    pub fn slope_at(&self, at: u64) -> Option<f64> {
        let s = self.0.iter().find(|s| at < s.to)?;
        Some(if s.to == ENDLESS { 0.0 } else { (s.high - s.low) * 1e9 / (s.to - s.from) as f64 })
    }

    /// The number of users that a level of `level` has: a user comes when the level passes its number.
    pub fn users_of(level: f64) -> u64 {
        level.ceil().max(0.0) as u64
    }

    /// When it ends, ns since the start.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |s| s.to)
    }

    /// The level at `at`.
    pub fn at(&self, at: u64) -> f64 {
        let stretch = self.0.iter().find(|s| at < s.to).or(self.0.last());
        stretch.map_or(0.0, |s| {
            if s.to == ENDLESS || s.to == s.from {
                return s.high;
            }
            s.low + (s.high - s.low) * (at.saturating_sub(s.from) as f64 / (s.to - s.from) as f64).min(1.0)
        })
    }

    /// The highest level.
    pub fn peak(&self) -> f64 {
        self.0.iter().map(|s| s.low.max(s.high)).fold(0.0, f64::max)
    }

    /// When it stops changing: the beginning of the last even stretch.
    pub fn steady_from(&self) -> u64 {
        self.0.last().filter(|s| s.low.total_cmp(&s.high).is_eq()).map_or(self.end(), |s| s.from)
    }
}

/// The arrivals of a stripe: their numbers in the whole run, and when each is due.
#[derive(Debug, Clone)]
pub struct Arrivals {
    rate: Level,
    poisson: bool,
    chance: Chance,
    stripe: Stripe,
    number: u64,
    /// How many arrivals lie before the next one, as a point on the sum of the rate.
    point: f64,
    stretch: usize,
    /// The sum of the rate before `stretch`.
    before: f64,
}

impl Arrivals {
    /// Those of `rate`.
    pub fn new(rate: Level, poisson: bool, seed: u64, stripe: Stripe) -> Self {
        let mut chance = Chance::new(seed, u64::MAX);
        let point = if poisson { chance.exponential() } else { 0.0 };
        Self { rate, poisson, chance, stripe, number: 0, point, stretch: 0, before: 0.0 }
    }

    fn whole(&mut self) -> Option<(u64, u64)> {
        loop {
            let s = self.rate.0.get(self.stretch)?;
            let length = if s.to == ENDLESS { f64::INFINITY } else { (s.to - s.from) as f64 / 1e9 };
            let sum = if s.low + s.high > 0.0 { f64::midpoint(s.low, s.high) * length } else { 0.0 };
            let inside = self.point - self.before;
            if inside >= sum - 1e-9 {
                self.before += sum;
                self.stretch += 1;
                continue;
            }
            let slope = if length.is_finite() { (s.high - s.low) / length } else { 0.0 };
            // From low·x + slope·x²/2 = inside; this form does not cancel.
            let root = (s.low * s.low + 2.0 * slope * inside).max(0.0).sqrt();
            let seconds = if inside <= 0.0 { 0.0 } else { 2.0 * inside / (s.low + root) };
            let due = s.from + (seconds * 1e9).round() as u64;
            let number = self.number;
            self.number += 1;
            self.point = if self.poisson { self.point + self.chance.exponential() } else { self.number as f64 };
            return Some((number, due));
        }
    }
}

impl Iterator for Arrivals {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        loop {
            let (number, due) = self.whole()?;
            if number % self.stripe.total == self.stripe.index {
                return Some((number, due));
            }
        }
    }
}

/// Which class each user (or arrival) is of: fixed counts first, then by weight, in proportion at every moment.
#[derive(Debug, Clone)]
pub struct Mix {
    fixed: Vec<u16>,
    round: Vec<u16>,
}

/// The longest round of classes; larger sums of weights are rounded to it.
const ROUND: u64 = 10_000;

impl Mix {
    /// Of these classes; of fixed counts at most ten million are kept.
    pub fn new(classes: &[Class], with_fixed: bool) -> Self {
        let mut fixed = Vec::new();
        let mut weights: Vec<i64> = classes.iter().map(|c| i64::from(c.weight)).collect();
        for (i, class) in classes.iter().enumerate() {
            match class.fixed_count {
                Some(n) if with_fixed => {
                    // No run has more users; a hostile file may ask for any number in each of its classes.
                    let room = 10_000_000_usize.saturating_sub(fixed.len());
                    fixed.extend(std::iter::repeat_n(i as u16, (n as usize).min(room)));
                }
                Some(n) => weights[i] = i64::from(n),
                None => {}
            }
        }
        let total: i64 = weights.iter().sum();
        let gcd = weights.iter().fold(0, |a, &b| gcd(a, b)).max(1);
        let scale = |w: i64| {
            if (total / gcd) as u64 <= ROUND {
                w / gcd
            } else {
                (w as f64 * ROUND as f64 / total as f64).round() as i64
            }
        };
        let weights: Vec<i64> = weights.into_iter().map(scale).collect();
        let total: i64 = weights.iter().sum();
        // Smooth weighted round robin: each turn everybody gains his weight, the richest is taken and pays the total.
        let mut purse = vec![0_i64; weights.len()];
        let mut round = Vec::with_capacity(total as usize);
        for _ in 0..total {
            for (p, w) in purse.iter_mut().zip(&weights) {
                *p += w;
            }
            let richest = purse.iter().enumerate().max_by_key(|(i, p)| (**p, usize::MAX - i)).map_or(0, |(i, _)| i);
            purse[richest] -= total;
            round.push(richest as u16);
        }
        Self { fixed, round }
    }

    /// The class of number `n`.
    pub fn class(&self, n: u64) -> u16 {
        match self.fixed.get(n as usize) {
            Some(c) => *c,
            None if self.round.is_empty() => self.fixed.last().copied().unwrap_or(0),
            None => self.round[((n - self.fixed.len() as u64) % self.round.len() as u64) as usize],
        }
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::attendance::Changes;

    const S: u64 = 1_000_000_000;
    const ALONE: Stripe = Stripe { index: 0, total: 1 };

    #[test]
    fn a_ramp_is_smooth_and_stages_go_down_too() {
        let level = Level::ramp(1000, 500.0, 10 * S);
        let all: Vec<_> = Changes::new(level.clone(), ALONE).collect();
        assert_eq!(all.len(), 1000);
        for (i, c) in all.iter().enumerate() {
            assert_eq!((c.user, c.comes), (i as u64, true));
            assert!(c.at.abs_diff(i as u64 * 2_000_000) < 10, "{c:?}");
        }
        assert_eq!((level.at(S), level.steady_from(), level.end()), (500.0, 2 * S, 10 * S));
        let stage = |users, duration_ns| Stage { users, spawn_rate: 10.0, duration_ns };
        let level = Level::stages(&[stage(20, 5 * S), stage(5, 5 * S), stage(7, 100_000_000)]);
        let mut alive = std::collections::BTreeSet::new();
        for c in Changes::new(level.clone(), ALONE) {
            assert!(if c.comes { alive.insert(c.user) } else { alive.remove(&c.user) }, "{c:?}");
        }
        assert_eq!(alive.len(), 6);
        let mut parts: Vec<_> = (0..3)
            .flat_map(|index| Changes::new(level.clone(), Stripe { index, total: 3 }))
            .map(|c| (c.at, c.user))
            .collect();
        let mut whole: Vec<_> = Changes::new(level, ALONE).map(|c| (c.at, c.user)).collect();
        parts.sort_unstable();
        whole.sort_unstable();
        assert_eq!(parts, whole);
    }

    #[test]
    fn arrivals_are_exact_and_stripes_make_the_whole() {
        let rate = Level::arrivals("500/s", 10 * S).unwrap();
        let all: Vec<_> = Arrivals::new(rate.clone(), false, 1, ALONE).collect();
        assert_eq!(all.len(), 5000);
        assert_eq!((all[0], all[1], all[4999]), ((0, 0), (1, 2_000_000), (4999, 9_998_000_000)));
        let rate = Level::arrivals("100/s for 1s, 100/s..300/s in 10s, 0 for 1s, 50", 20 * S).unwrap();
        let all: Vec<_> = Arrivals::new(rate.clone(), false, 1, ALONE).collect();
        assert_eq!(all.len(), 100 + 2000 + 8 * 50);
        assert!(all.windows(2).all(|w| w[0].1 < w[1].1));
        let poisson: Vec<_> = Arrivals::new(rate.clone(), true, 1, ALONE).collect();
        assert!((2300..2700).contains(&poisson.len()), "{}", poisson.len());
        let mut parts: Vec<_> =
            (0..4).flat_map(|index| Arrivals::new(rate.clone(), true, 1, Stripe { index, total: 4 })).collect();
        parts.sort_unstable();
        assert_eq!(parts, poisson);
        for bad in ["", "x", "0", "10/s..20/s", "10/s for x", "10, 20", "-5", "10 for 0s"] {
            assert!(Level::arrivals(bad, S).is_err(), "{bad}");
        }
    }

    #[test]
    fn classes_come_in_proportion() {
        let class = |name: &str, weight, fixed_count| Class { name: name.into(), weight, fixed_count, cookies: true };
        let mix = Mix::new(&[class("a", 3, None), class("b", 1, None), class("f", 0, Some(2))], true);
        let first: Vec<u16> = (0..10).map(|n| mix.class(n)).collect();
        assert_eq!(first[..2], [2, 2]);
        assert_eq!(first[2..].iter().filter(|c| **c == 0).count(), 6);
        assert_eq!(Mix::new(&[class("a", 1_000_000, None), class("b", 999_999, None)], true).round.len(), 10_000);
        assert_eq!(Mix::new(&[class("f", 0, Some(2))], true).class(9), 0);
    }
}
