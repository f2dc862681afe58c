//! Rules that end a run before its time: `errors>5% for 10s`, over a sliding window.
//!
//! In: rules as written, and the windows of the engine's threads as they come. Out: the first rule that holds, in words.
//! Invariants: a rule is looked at only once its whole time has passed; memory is bounded by its time and the number of
//! distinct latencies in it. Limit: a percentile is that of requests that ended; while none ends there is none (a rule on
//! `rps` or `errors` with a timeout is for that).

use std::collections::{BTreeMap, VecDeque};

use super::scenario::Measure;
use super::tally::Window;
use crate::error::{Error, Result};
use crate::record::requests::kept;
use crate::units::Nanos;

/// The time of a rule that names none, ns.
const DEFAULT_NS: u64 = 10_000_000_000;
/// The longest time of a rule, ns.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// What a rule is about.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Watched {
    /// What targets know, too.
    Of(Measure),
    /// The longest generator lag, ms.
    Lag,
}

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct StopOn {
    /// As it was written.
    pub text: String,
    watched: Watched,
    above: bool,
    limit: f64,
    over_ns: u64,
}

impl Watched {
    fn unit(self) -> &'static str {
        match self {
            Self::Of(measure) => measure.unit(),
            Self::Lag => "ms",
        }
    }

    fn name(self) -> String {
        match self {
            Self::Of(measure) => measure.name(),
            Self::Lag => "lag".to_owned(),
        }
    }
}

impl StopOn {
    /// Reads `errors>5% for 10s`; without a time it is ten seconds.
    ///
    /// # Errors
    /// `Usage` with what would be allowed.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::usage(format!("'{text}' is no rule to stop on: {why}")).advise(
                "write errors>5% for 10s; or p50, p95, p99, mean or max > 2s for 30s, rps < 10 for 1m, lag > 100ms for 10s",
            )
        };
        let (condition, time) = text.split_once(" for ").map_or((text, None), |(c, t)| (c, Some(t)));
        let at = condition.find(['<', '>']).ok_or_else(|| wrong("< or > is missing"))?;
        let watched = match condition[..at].trim() {
            "lag" => Watched::Lag,
            name => Watched::Of(Measure::parse(name).ok_or_else(|| wrong(&format!("'{name}' is not measured")))?),
        };
        let value = condition[at + 1..].trim_start_matches('=').trim();
        let number = match watched.unit() {
            "ms" => value.parse::<Nanos>().ok().map(|n| n.0 as f64 / 1e6),
            unit => value.trim_end_matches(unit).trim().parse::<f64>().ok(),
        };
        let limit = number
            .filter(|n| n.is_finite() && *n >= 0.0)
            .ok_or_else(|| wrong(&format!("'{value}' is not a value in {}", watched.unit())))?;
        let over_ns = match time {
            None => DEFAULT_NS,
            Some(t) => t.trim().parse::<Nanos>().map_err(|_| wrong(&format!("'{}' is not a time", t.trim())))?.0,
        };
        if !(100_000_000..=LONGEST_NS).contains(&over_ns) {
            return Err(wrong("the time is from 100ms to 1h"));
        }
        Ok(Self { text: text.to_owned(), watched, above: condition[at..].starts_with('>'), limit, over_ns })
    }
}

#[derive(Debug)]
struct Slot {
    end: u64,
    requests: u64,
    failures: u64,
    lag_max_ns: u64,
    latencies: Vec<(u32, u64)>,
}

/// What ended in the last so many ns.
#[derive(Debug, Default)]
struct Sliding {
    slots: VecDeque<Slot>,
    requests: u64,
    failures: u64,
    /// The sum of all latencies, µs.
    sum_us: u128,
    latencies: BTreeMap<u32, u64>,
}

impl Sliding {
    fn take(&mut self, window: &Window) {
        let mut latencies: BTreeMap<u32, u64> = BTreeMap::new();
        for us in window.rows.iter().flat_map(|r| &r.latencies_us) {
            *latencies.entry(kept(*us)).or_default() += 1;
        }
        for (us, n) in &latencies {
            *self.latencies.entry(*us).or_default() += n;
            self.sum_us += u128::from(*us) * u128::from(*n);
        }
        let requests = window.rows.iter().map(|r| r.latencies_us.len() as u64).sum();
        let failures = window.rows.iter().map(|r| r.failures).sum();
        self.requests += requests;
        self.failures += failures;
        let latencies = latencies.into_iter().collect();
        self.slots.push_back(Slot { end: window.end, requests, failures, lag_max_ns: window.lag_max_ns, latencies });
    }

    /// Forgets what ended until `from`.
    fn forget(&mut self, from: u64) {
        while let Some(slot) = self.slots.pop_front_if(|s| s.end <= from) {
            self.requests -= slot.requests;
            self.failures -= slot.failures;
            for (us, n) in slot.latencies {
                self.sum_us -= u128::from(us) * u128::from(n);
                if let Some(left) = self.latencies.get_mut(&us) {
                    *left -= n;
                    if *left == 0 {
                        self.latencies.remove(&us);
                    }
                }
            }
        }
    }

    fn percentile_ms(&self, p: f64) -> Option<f64> {
        let rank = ((p / 100.0 * self.requests as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let mut found = self.latencies.iter().find(|(_, n)| {
            seen += **n;
            seen >= rank
        });
        found.take().map(|(us, _)| f64::from(*us) / 1e3)
    }

    fn value(&self, watched: Watched, over_ns: u64) -> Option<f64> {
        let some = self.requests > 0;
        match watched {
            Watched::Lag => self.slots.iter().map(|s| s.lag_max_ns).max().map(|ns| ns as f64 / 1e6),
            Watched::Of(Measure::Errors) => some.then(|| 100.0 * self.failures as f64 / self.requests as f64),
            Watched::Of(Measure::Throughput) => Some(self.requests as f64 / (over_ns as f64 / 1e9)),
            Watched::Of(Measure::Percentile(p)) => self.percentile_ms(p),
            Watched::Of(Measure::Max) => self.percentile_ms(100.0),
            Watched::Of(Measure::Mean) => some.then(|| self.sum_us as f64 / self.requests as f64 / 1e3),
        }
    }
}

/// Rules with what they look at.
#[derive(Debug, Default)]
pub struct Watch(Vec<(StopOn, Sliding)>);

impl Watch {
    /// Of these rules.
    pub fn new(rules: &[StopOn]) -> Self {
        Self(rules.iter().map(|r| (r.clone(), Sliding::default())).collect())
    }

    /// Takes a window of a run that began at `start`; why the run should end, if it should.
    pub fn take(&mut self, window: &Window, start: u64) -> Option<String> {
        for (rule, sliding) in &mut self.0 {
            sliding.take(window);
            sliding.forget(window.end.saturating_sub(rule.over_ns));
            if window.end < start.saturating_add(rule.over_ns) {
                continue;
            }
            let Some(value) = sliding.value(rule.watched, rule.over_ns) else { continue };
            if if rule.above { value > rule.limit } else { value < rule.limit } {
                let (name, unit) = (rule.watched.name(), rule.watched.unit());
                let value = if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") };
                let over = rule.over_ns as f64 / 1e9;
                return Some(format!("{name} was {value} {unit} over the last {over} s (--stop-on '{}')", rule.text));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tally::WindowRow;

    fn window(end_ms: u64, ms: &[u32], failures: u64) -> Window {
        let row = WindowRow { latencies_us: ms.iter().map(|m| m * 1000).collect(), failures, ..WindowRow::default() };
        Window { end: end_ms * 1_000_000, rows: vec![row], ..Window::default() }
    }

    fn strikes(rule: &str, windows: impl IntoIterator<Item = Window>) -> Option<(u64, String)> {
        let mut watch = Watch::new(&[StopOn::parse(rule).unwrap()]);
        windows.into_iter().find_map(|w| watch.take(&w, 0).map(|why| (w.end / 1_000_000, why)))
    }

    #[test]
    fn rules_hold_over_their_whole_time() {
        let errors = |i: u64| window(i * 100, &[1; 10], if i > 20 { 2 } else { 0 });
        let (at, why) = strikes("errors>5% for 1s", (1..100).map(errors)).unwrap();
        // Three of ten windows have two errors each among a hundred requests.
        assert_eq!((at, why.as_str()), (2300, "errors was 6.00 % over the last 1 s (--stop-on 'errors>5% for 1s')"));
        let (at, _) = strikes("errors>5% for 1s", (1..100).map(|i| window(i * 100, &[1; 10], 10))).unwrap();
        assert_eq!(at, 1000, "not before the time is over");
        let slow = |i: u64| window(i * 100, &[if i > 30 { 500 } else { 5 }; 10], 0);
        assert_eq!(strikes("p95 > 100ms for 2s", (1..100).map(slow)).unwrap().0, 3200);
        assert_eq!(strikes("p50 > 100ms for 2s", (1..100).map(slow)).unwrap().0, 4100);
        assert_eq!(strikes("max>100ms for 2s", (1..100).map(slow)).unwrap().0, 3100);
        let thin = |i: u64| window(i * 100, if i > 10 { &[] } else { &[1, 1] }, 0);
        assert_eq!(strikes("rps < 5 for 1s", (1..100).map(thin)).unwrap().0, 1800);
        assert_eq!(strikes("p99>1ms", (1..300).map(|i| window(i * 100, &[], 0))), None);
        let late = |i: u64| Window { lag_max_ns: if i == 15 { 300_000_000 } else { 0 }, ..window(i * 100, &[1], 0) };
        assert_eq!(strikes("lag > 200ms for 1s", (1..100).map(late)).unwrap().0, 1500);
        assert_eq!(strikes("mean > 4.9ms for 1s", (1..100).map(slow)).unwrap().0, 1000);
    }

    #[test]
    fn what_is_no_rule_is_told() {
        for bad in ["", "errors", "errors > x", "speed > 1", "errors > 5% for x", "p95 > 2s for 2h", "p95>1s for 1ms"] {
            assert!(StopOn::parse(bad).is_err(), "{bad}");
        }
        let r = StopOn::parse("p99.9 >= 1.5s for 1m30").unwrap();
        assert_eq!((r.limit, r.over_ns, r.above), (1500.0, 90_000_000_000, true));
        assert_eq!(StopOn::parse("errors>5%").unwrap().over_ns, DEFAULT_NS);
    }
}
