//! A recorded load run as the report that it had, or as much of it as the recording holds.
//!
//! Invariant: the report of a run that ended is the one that was made at its end; of a cut recording, and of a slice, counts
//! and latencies come from the windows (values keep eleven bits: an error of at most 1 in 2048) and what is not known is
//! `None`.

use std::collections::BTreeMap;

use crate::clock::Mono;
use crate::error::{Error, Result};
use crate::record::load::{Endpoint, ErrorRow, LOCUST_PERCENTILES, LoadReport, PhaseRow, Second, Spread, Totals};
use crate::record::load_part::{LoadPart, pairs};
use crate::record::requests::SlowRequest;

/// A recorded run, ready to be shown.
#[derive(Debug)]
pub struct Rebuilt {
    /// The report.
    pub report: LoadReport,
    /// Second by second.
    pub seconds: Vec<Second>,
    /// Wall-clock time of the start, seconds since 1970.
    pub start_wall_s: i64,
    /// The slowest requests, slowest last to be sent last.
    pub slowest: Vec<SlowRequest>,
    /// When the run began.
    pub start: Mono,
}

/// Latencies of some windows.
#[derive(Debug, Default)]
struct Sum {
    requests: u64,
    failures: u64,
    bytes: u64,
    latencies: BTreeMap<u32, u64>,
}

impl Sum {
    fn percentile_ms(&self, p: f64) -> Option<f64> {
        let total: u64 = self.latencies.values().sum();
        let rank = ((p / 100.0 * total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let mut all = self.latencies.iter();
        all.find(|(_, n)| {
            seen += **n;
            seen >= rank
        })
        .map(|(us, _)| f64::from(*us) / 1e3)
    }

    fn spread(&self) -> Spread {
        let p = |p| self.percentile_ms(p);
        let total: u64 = self.latencies.values().sum();
        let sum: f64 = self.latencies.iter().map(|(us, n)| f64::from(*us) * *n as f64).sum();
        Spread {
            mean: (total > 0).then(|| sum / total as f64 / 1e3),
            min: p(0.0),
            p50: p(50.0),
            p75: p(75.0),
            p90: p(90.0),
            p95: p(95.0),
            p99: p(99.0),
            p99_9: p(99.9),
            max: p(100.0),
        }
    }

    fn percentiles(&self) -> Vec<Option<f64>> {
        LOCUST_PERCENTILES.iter().map(|p| self.percentile_ms(*p)).collect()
    }
}

/// The run as a report; with `from` and `to` (ns since its start) only that slice of it.
///
/// # Errors
/// `Usage` for a slice in which nothing ended, `Malformed` for latencies that cannot be read.
pub fn rebuild(part: &LoadPart, slice: Option<(u64, u64)>) -> Result<Rebuilt> {
    let length = part.end.since(part.start);
    let (from, to) = slice.unwrap_or((0, u64::MAX));
    let mut sums: BTreeMap<u32, Sum> = BTreeMap::new();
    let mut total = Sum::default();
    let mut seconds: BTreeMap<u64, Sum> = BTreeMap::new();
    for w in &part.windows {
        let at = w.at.since(part.start);
        if at <= from || at > to {
            continue;
        }
        let own = sums.entry(w.endpoint).or_default();
        let second = seconds.entry(at.saturating_sub(1) / 1_000_000_000).or_default();
        for sum in [own, second, &mut total] {
            sum.requests += w.requests;
            sum.failures += w.failures;
            sum.bytes += w.bytes;
            for (us, n) in pairs(w)? {
                *sum.latencies.entry(us).or_default() += n;
            }
        }
    }
    if slice.is_some() && total.requests == 0 {
        return Err(Error::usage("no request ended in this slice")
            .advise(format!("the run lasted {:.1} s", length as f64 / 1e9)));
    }
    let mut report = match (&part.report, slice) {
        (Some(report), None) => report.clone(),
        _ => from_windows(part, &sums, &total, (from, to.min(length)), slice.is_some()),
    };
    report.percentiles = total.percentiles();
    let phase = |(at, text): &(u64, String)| PhaseRow {
        at_s: *at as f64 / 1e9,
        phase: text.strip_prefix("load: ").unwrap_or(text).to_owned(),
    };
    report.phases = part.marks.iter().filter(|(at, _)| *at >= from && *at <= to).map(phase).collect();
    let by_name: BTreeMap<&(String, String), &Sum> =
        sums.iter().filter_map(|(id, s)| Some((part.names.get(id)?, s))).collect();
    for e in &mut report.by_name {
        let key = (e.method.clone(), e.name.clone());
        e.percentiles = by_name.get(&key).map_or_else(|| vec![None; LOCUST_PERCENTILES.len()], |s| s.percentiles());
    }
    let wall = part.start.0 as i64 + part.wall_offset_ns;
    let slowest = part.slow.iter().filter(|s| {
        let at = s.end.since(part.start);
        at > from && at <= to
    });
    Ok(Rebuilt {
        report,
        seconds: seconds.iter().map(|(second, sum)| second_of(part, *second, sum)).collect(),
        start_wall_s: wall / 1_000_000_000,
        slowest: slowest.cloned().collect(),
        start: part.start,
    })
}

fn second_of(part: &LoadPart, second: u64, sum: &Sum) -> Second {
    let end = part.start.plus((second + 1) * 1_000_000_000);
    // Each thread says how many users it has; of those that end at nearly the same time the last ones count.
    let near = |at: Mono| at <= end && end.since(at) < 1_000_000_000;
    let users = part.users.iter().filter(|(at, _)| near(*at)).map(|(_, n)| *n).fold(0.0, f64::max);
    Second {
        at_s: (second + 1) as f64,
        users: users as u32,
        requests: sum.requests,
        failures: sum.failures,
        bytes: sum.bytes,
        p50_ms: sum.percentile_ms(50.0),
        p95_ms: sum.percentile_ms(95.0),
        p99_ms: sum.percentile_ms(99.0),
        lag_max_ms: 0.0,
    }
}

fn from_windows(
    part: &LoadPart,
    sums: &BTreeMap<u32, Sum>,
    total: &Sum,
    (from, to): (u64, u64),
    is_slice: bool,
) -> LoadReport {
    let seconds = to.saturating_sub(from) as f64 / 1e9;
    let rate = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
    let mut by_name: Vec<Endpoint> = sums
        .iter()
        .map(|(id, s)| {
            let (method, name) = part.names.get(id).cloned().unwrap_or_default();
            Endpoint {
                method,
                name,
                requests: s.requests,
                failures: s.failures,
                rps: rate(s.requests),
                latency_ms: s.spread(),
                bytes: s.bytes,
                ..Endpoint::default()
            }
        })
        .collect();
    by_name.sort_by(|a, b| (&a.method, &a.name).cmp(&(&b.method, &b.name)));
    let since = |at: Mono| at.since(part.start);
    let mut errors: Vec<ErrorRow> = part
        .errors
        .iter()
        .filter(|e| since(e.last) > from && since(e.first) <= to)
        .map(|e| {
            let (method, name) = part.names.get(&e.endpoint).cloned().unwrap_or_default();
            ErrorRow {
                method,
                name,
                error: e.message.clone(),
                kind: e.kind.clone(),
                count: e.count,
                first_ms: since(e.first) / 1_000_000,
                last_ms: since(e.last) / 1_000_000,
            }
        })
        .collect();
    errors.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| (&a.name, &a.error).cmp(&(&b.name, &b.error))));
    let mut marks = Vec::new();
    if part.report.is_none() {
        marks.push("the recording was cut off: what failed is counted, but not why".to_owned());
    } else if is_slice && !errors.is_empty() {
        marks.push("errors are counted over the whole run, those that happened in the slice are shown".to_owned());
    }
    let whole = part.report.as_ref();
    LoadReport {
        totals: Totals {
            requests: total.requests,
            failures: total.failures,
            rps: rate(total.requests),
            duration_s: seconds,
            bytes: total.bytes,
            peak_users: whole.map_or(0, |r| r.totals.peak_users),
            threads: whole.map_or(0, |r| r.totals.threads),
            seed: whole.map_or(0, |r| r.totals.seed),
            ..Totals::default()
        },
        latency_ms: total.spread(),
        by_name,
        errors,
        marks,
        model: whole.map_or_else(String::new, |r| r.model.clone()),
        ..LoadReport::default()
    }
}
