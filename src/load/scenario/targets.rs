//! Targets: what a run is graded by.
//!
//! `p95 < 500ms, acceptable 1000ms` · `p50|p75|p90|p95|p99|p99.9|mean|max < TIME` · `rps > N` · `errors < N%`.

use super::reader::{Table, items, text};
use crate::error::{Error, Result};
use crate::load::tree::{Node, Source};
use crate::units::Nanos;

/// One target.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The endpoint, `None` for all together.
    pub name: Option<String>,
    /// What is measured.
    pub measure: Measure,
    /// What it should be.
    pub bound: Bound,
    /// What would still do.
    pub acceptable: Option<f64>,
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// Below it.
    Below(f64),
    /// Above it.
    Above(f64),
}

/// What is measured; times in ms, rates in requests a second, errors in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Measure {
    /// A percentile of the latency.
    Percentile(f64),
    /// The mean latency.
    Mean,
    /// The longest latency.
    Max,
    /// Requests a second.
    Throughput,
    /// The share of failures.
    Errors,
}

impl Measure {
    /// What users call `text`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "mean" | "avg" | "average" => Self::Mean,
            "max" => Self::Max,
            "rps" | "throughput" => Self::Throughput,
            "errors" | "error_rate" | "failures" => Self::Errors,
            "median" => Self::Percentile(50.0),
            other => Self::Percentile(other.strip_prefix('p')?.parse().ok().filter(|p| (0.0..=100.0).contains(p))?),
        })
    }

    /// As users write it.
    pub fn name(self) -> String {
        match self {
            Self::Percentile(p) => format!("p{p}"),
            Self::Mean => "mean".to_owned(),
            Self::Max => "max".to_owned(),
            Self::Throughput => "rps".to_owned(),
            Self::Errors => "errors".to_owned(),
        }
    }

    /// The unit of its values.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "/s",
            Self::Errors => "%",
            _ => "ms",
        }
    }
}

impl Target {
    /// Reads `p95 < 500ms, acceptable 1000ms`, for the endpoint `name`.
    ///
    /// # Errors
    /// `Usage` with what would be allowed.
    pub fn parse(name: Option<&str>, text: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::usage(format!("'{text}' is not a target: {why}"))
                .advise("write p95 < 500ms, acceptable 1000ms; or mean, max, rps > 100/s, errors < 0.1%")
        };
        let (main, rest) = text.split_once(',').map_or((text, None), |(a, b)| (a, Some(b)));
        let at = main.find(['<', '>']).ok_or_else(|| wrong("< or > is missing"))?;
        let what = main[..at].trim();
        let measure = Measure::parse(what).ok_or_else(|| wrong(&format!("'{what}' is not measured")))?;
        let value = |t: &str| -> Result<f64> {
            let t = t.trim().trim_start_matches('=').trim();
            let number = match measure.unit() {
                "ms" => t.parse::<Nanos>().ok().map(|n| n.0 as f64 / 1e6),
                unit => t.trim_end_matches(unit).trim().parse::<f64>().ok(),
            };
            number
                .filter(|n| n.is_finite() && *n >= 0.0)
                .ok_or_else(|| wrong(&format!("'{t}' is not a value in {}", measure.unit())))
        };
        let limit = value(&main[at + 1..])?;
        let below = main[at..].starts_with('<');
        if below == (measure == Measure::Throughput) {
            return Err(wrong(if below { "throughput wants >" } else { "this wants <" }));
        }
        let acceptable = match rest.map(str::trim) {
            None => None,
            Some(r) => Some(value(
                r.strip_prefix("acceptable").ok_or_else(|| wrong("after the comma, 'acceptable' is wanted"))?,
            )?),
        };
        if acceptable.is_some_and(|a| if below { a < limit } else { a > limit }) {
            return Err(wrong("what is acceptable is stricter than the target"));
        }
        let bound = if below { Bound::Below(limit) } else { Bound::Above(limit) };
        Ok(Self { name: name.map(str::to_owned), measure, bound, acceptable })
    }
}

/// `[targets]`: endpoint (or `all`) = text or list of texts.
pub fn read(source: Source<'_>, node: &Node) -> Result<Vec<Target>> {
    let mut all = Vec::new();
    for (key, value) in Table::of(source, node, "targets")?.rest() {
        let name = Some(key.name.as_str()).filter(|n| *n != "all");
        for item in items(value) {
            let line = text(source, item, &key.name)?;
            let target = Target::parse(name, line).map_err(|e| {
                let told = source.error(item.at, &e);
                match e.advice() {
                    Some(a) => told.advise(a),
                    None => told,
                }
            })?;
            all.push(target);
        }
    }
    Ok(all)
}

/// The user's own table, where nothing else is said.
pub fn default_targets() -> Vec<Target> {
    let lines = [
        "p50 < 200ms, acceptable 500ms",
        "p95 < 500ms, acceptable 1000ms",
        "p99 < 1000ms, acceptable 2000ms",
        "rps > 100/s, acceptable 50/s",
        "errors < 0.1%, acceptable 1%",
    ];
    lines.iter().filter_map(|l| Target::parse(None, l).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_as_written() {
        assert_eq!(default_targets().len(), 5);
        let t = Target::parse(Some("/x"), "p99.9 < 1.5s").unwrap();
        assert_eq!((t.measure, t.bound, t.acceptable), (Measure::Percentile(99.9), Bound::Below(1500.0), None));
        let t = Target::parse(None, "rps > 90").unwrap();
        assert_eq!(t.bound, Bound::Above(90.0));
        for bad in [
            "",
            "p95",
            "p95 > 5ms",
            "rps < 5",
            "p95 < x",
            "p101 < 5ms",
            "speed < 1",
            "p95 < 5ms, acceptable 2ms",
            "p95 < 5ms, or 6ms",
        ] {
            assert!(Target::parse(None, bad).is_err(), "{bad}");
        }
    }
}
