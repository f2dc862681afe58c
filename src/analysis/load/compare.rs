//! Two load runs beside each other: what changed, and whether that could be chance.
//!
//! Where both runs are known slice by slice, blocks of neighbouring slices are drawn again and again with replacement
//! (moving block bootstrap: Künsch 1989; neighbours depend on each other, so that single seconds would promise too much).
//! A change is significant when 99 % of the drawn differences lie on one side of zero (more of them, the more comparisons are
//! made: Bonferroni), it is at least [`LEAST`] (smaller ones are not worth a word), and enough requests lie above a
//! percentile. Where one of
//! them is known by its sums alone, a plain threshold decides, and the result says so.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::load::{Change, Comparison, LoadReport, Spread, Verdict};
use crate::record::slices::{Cell, Slices};

/// The smallest change that is called significant: a share of the earlier value, for errors percentage points.
const LEAST: (f64, f64) = (0.05, 0.1);
/// The same where only sums are known.
const THRESHOLD: (f64, f64) = (0.10, 0.5);
/// Slices that both runs must have to be drawn from.
const ENOUGH: usize = 8;
/// How often is drawn.
const DRAWS: usize = 1000;
/// A latency must also change by so much, ms: below lies the grain of clocks and schedulers.
const GRAIN_MS: f64 = 0.05;
/// Requests that must lie above a percentile for it to be judged: drawing again tells little of the few slowest.
const ABOVE: f64 = 30.0;
const PERCENTILES: [f64; 3] = [50.0, 95.0, 99.0];

/// A run to be compared.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Its report.
    pub report: &'a LoadReport,
    /// The run in slices, where it is known so.
    pub slices: Option<&'a Slices>,
}

type Slice = BTreeMap<u32, Cell>;

/// Compares a run with an earlier one, which is named `baseline`.
pub fn compare(baseline: &str, before: Run<'_>, after: Run<'_>) -> Comparison {
    let mut remarks = differences(before.report, after.report);
    let parts = match (before.slices, after.slices) {
        (Some(a), Some(b)) => match (a.steady(), b.steady()) {
            (Some(x), Some(y)) if x.len() >= ENOUGH && y.len() >= ENOUGH => Some((a, x, b, y, true)),
            _ => Some((a, &a.list[..], b, &b.list[..], false)),
        },
        _ => None,
    };
    let parts = parts.filter(|(_, x, _, y, _)| x.len() >= ENOUGH && y.len() >= ENOUGH);
    let (mut changes, method) = match parts {
        Some((a, x, b, y, steady)) => {
            let method = format!(
                "{}block bootstrap over {} and {} slices; significant: beyond chance at 99 %, and at least {:.0} % \
                 (errors: {} percentage points), percentiles with {ABOVE} requests above them",
                if steady { "steady state, " } else { "" },
                x.len(),
                y.len(),
                100.0 * LEAST.0,
                LEAST.1
            );
            (drawn((a, x), (b, y)), method)
        }
        None => (
            by_sums(before.report, after.report),
            format!(
                "totals alone (no {ENOUGH} slices of both runs to judge chance by): called a change from {:.0} % on \
                 (errors: {} percentage points), which may be chance",
                100.0 * THRESHOLD.0,
                THRESHOLD.1
            ),
        ),
    };
    let names =
        |r: &LoadReport| -> BTreeSet<String> { r.by_name.iter().map(|e| format!("{} {}", e.method, e.name)).collect() };
    let (old, new) = (names(before.report), names(after.report));
    for (what, list) in [("is new", new.difference(&old)), ("is gone", old.difference(&new))] {
        remarks.extend(list.take(20).map(|name| format!("{name} {what}: it is compared with nothing")));
    }
    changes.sort_by(|a, b| {
        let size = |c: &Change| c.change.map_or(f64::INFINITY, f64::abs);
        a.verdict.cmp(&b.verdict).then(if a.verdict == Verdict::Same {
            a.name.cmp(&b.name)
        } else {
            size(b).total_cmp(&size(a))
        })
    });
    Comparison { baseline: baseline.to_owned(), method, remarks, changes }
}

/// In what the runs were not driven alike.
fn differences(a: &LoadReport, b: &LoadReport) -> Vec<String> {
    let mut all = Vec::new();
    if a.model != b.model && !a.model.is_empty() {
        all.push(format!("driven by another model: {} then, {} now", a.model, b.model));
    } else if b.model == "open" {
        let rate = |r: &LoadReport| r.totals.arrivals_asked.map(|n| n as f64 / r.totals.duration_s.max(1e-9));
        if let (Some(x), Some(y)) = (rate(a), rate(b))
            && (x / y - 1.0).abs() > 0.02
        {
            all.push(format!("driven by another rate: {x:.0} arrivals/s then, {y:.0} now"));
        }
    } else if a.totals.peak_users != b.totals.peak_users && a.totals.peak_users > 0 {
        all.push(format!("driven by other users: {} then, {} now", a.totals.peak_users, b.totals.peak_users));
    }
    all
}

/// What is known of one endpoint in the slices of a run: counts, and latencies by the number of their value.
struct Table {
    width_s: f64,
    requests: Vec<u64>,
    failures: Vec<u64>,
    /// For each slice, (value's number, how often).
    latencies: Vec<Vec<(u32, u64)>>,
}

impl Table {
    fn new(slices: &[Slice], width_ns: u64, ids: &BTreeSet<u32>, values: &BTreeMap<u32, u32>) -> Self {
        let mut it = Self {
            width_s: width_ns as f64 / 1e9,
            requests: Vec::with_capacity(slices.len()),
            failures: Vec::with_capacity(slices.len()),
            latencies: Vec::with_capacity(slices.len()),
        };
        for slice in slices {
            let (mut requests, mut failures) = (0, 0);
            let mut latencies: BTreeMap<u32, u64> = BTreeMap::new();
            for cell in slice.iter().filter(|(id, _)| ids.contains(id)).map(|(_, cell)| cell) {
                requests += cell.requests;
                failures += cell.failures;
                for (us, n) in &cell.latencies {
                    if let Some(number) = values.get(&coarse(*us)) {
                        *latencies.entry(*number).or_default() += n;
                    }
                }
            }
            it.requests.push(requests);
            it.failures.push(failures);
            it.latencies.push(latencies.into_iter().collect());
        }
        it
    }

    fn len(&self) -> usize {
        self.requests.len()
    }

    /// p50, p95, p99 in ms, requests a second, errors in percent, of slices that count so often each.
    fn numbers(&self, weights: &[u32], values: &[u32], counts: &mut Vec<u64>) -> [Option<f64>; 5] {
        counts.clear();
        counts.resize(values.len(), 0);
        let (mut requests, mut failures, mut slices) = (0, 0, 0_u64);
        for (i, weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0) {
            let weight = u64::from(*weight);
            slices += weight;
            requests += weight * self.requests.get(i).copied().unwrap_or_default();
            failures += weight * self.failures.get(i).copied().unwrap_or_default();
            for (number, n) in self.latencies.get(i).into_iter().flatten() {
                if let Some(count) = counts.get_mut(*number as usize) {
                    *count += weight * n;
                }
            }
        }
        let total: u64 = counts.iter().sum();
        let ranks = PERCENTILES.map(|p| ((p / 100.0 * total as f64).ceil() as u64).max(1));
        let mut found = [None; 3];
        let mut seen = 0;
        for (count, us) in counts.iter().zip(values) {
            seen += count;
            for (slot, rank) in found.iter_mut().zip(ranks) {
                if slot.is_none() && seen >= rank {
                    *slot = Some(f64::from(*us) / 1e3);
                }
            }
        }
        let rps = requests as f64 / (slices as f64 * self.width_s);
        let errors = (requests > 0).then(|| 100.0 * failures as f64 / requests as f64);
        [found[0], found[1], found[2], Some(rps), errors]
    }
}

/// Values keep nine bits: finer than any change that is called one.
fn coarse(us: u32) -> u32 {
    let spare = (u32::BITS - us.leading_zeros()).saturating_sub(9);
    if spare == 0 { us } else { (us >> spare << spare) | 1 << (spare - 1) }
}

/// Even 64 bits (SplitMix64), so that a comparison is the same each time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * limit as u128) >> 64) as usize
    }

    /// How often each of `n` slices is drawn, in blocks, round the end.
    fn weights(&mut self, n: usize, into: &mut Vec<u32>) {
        into.clear();
        into.resize(n, 0);
        let block = ((n as f64).cbrt().round() as usize).clamp(1, n);
        let mut left = n;
        while left > 0 {
            let from = self.below(n);
            for i in 0..block.min(left) {
                into[(from + i) % n] += 1;
            }
            left -= block.min(left);
        }
    }
}

fn drawn((a, x): (&Slices, &[Slice]), (b, y): (&Slices, &[Slice])) -> Vec<Change> {
    let ids = |s: &Slices| -> BTreeMap<String, BTreeSet<u32>> {
        let mut ids: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for (id, (method, name)) in s.names.iter().enumerate() {
            ids.entry(format!("{method} {name}")).or_default().insert(id as u32);
        }
        ids
    };
    let (ids_a, ids_b) = (ids(a), ids(b));
    let all = |slices: &[Slice]| slices.iter().flat_map(BTreeMap::keys).copied().collect::<BTreeSet<u32>>();
    let mut subjects = vec![(None, all(x), all(y))];
    let (seen_a, seen_b) = (all(x), all(y));
    for (name, a) in &ids_a {
        if let Some(b) = ids_b.get(name).filter(|b| !b.is_disjoint(&seen_b) && !a.is_disjoint(&seen_a)) {
            subjects.push((Some(name.clone()), a.clone(), b.clone()));
        }
    }
    // The deviation that chance reaches in one of a hundred such reports.
    let z = normal_quantile(1.0 - 0.005 / (5.0 * subjects.len() as f64));
    // Hundreds of endpoints would take minutes: they share the draws of ten.
    let draws = (DRAWS * 10 / subjects.len().max(10)).max(200);
    subjects
        .into_iter()
        .flat_map(|(name, ids_a, ids_b)| {
            let mut values: BTreeMap<u32, u32> = BTreeMap::new();
            for (slices, ids) in [(x, &ids_a), (y, &ids_b)] {
                for (_, cell) in slices.iter().flatten().filter(|(id, _)| ids.contains(id)) {
                    values.extend(cell.latencies.keys().map(|us| (coarse(*us), 0)));
                }
            }
            for (number, slot) in values.values_mut().enumerate() {
                *slot = number as u32;
            }
            let list: Vec<u32> = values.keys().copied().collect();
            let before = Table::new(x, a.width_ns, &ids_a, &values);
            let after = Table::new(y, b.width_ns, &ids_b, &values);
            resampled(name.as_deref(), &before, &after, &list, (z, draws))
        })
        .collect()
}

/// The changes of one endpoint.
fn resampled(
    name: Option<&str>,
    before: &Table,
    after: &Table,
    values: &[u32],
    (z, draws): (f64, usize),
) -> Vec<Change> {
    let mut counts = Vec::new();
    let first = before.numbers(&vec![1; before.len()], values, &mut counts);
    let second = after.numbers(&vec![1; after.len()], values, &mut counts);
    let fewest = before.requests.iter().sum::<u64>().min(after.requests.iter().sum());
    let mut draw = Draw(1);
    let mut weights = Vec::new();
    let mut deviations: [Vec<f64>; 5] = Default::default();
    for _ in 0..draws {
        draw.weights(before.len(), &mut weights);
        let a = before.numbers(&weights, values, &mut counts);
        draw.weights(after.len(), &mut weights);
        let b = after.numbers(&weights, values, &mut counts);
        for (i, all) in deviations.iter_mut().enumerate() {
            if let (Some(a), Some(b)) = (a[i], b[i]) {
                all.push(if i == 4 { b - a } else { (b.max(1e-9) / a.max(1e-9)).ln() });
            }
        }
    }
    let mut changes = Vec::new();
    for (i, all) in deviations.iter_mut().enumerate() {
        let (Some(a), Some(b)) = (first[i], second[i]) else { continue };
        all.sort_by(f64::total_cmp);
        let at = |p: f64| all.get(((all.len() as f64 - 1.0) * p).round() as usize).copied();
        let ends = at(0.005).zip(at(0.995));
        // The ends, drawn out as far as a normal distribution's would be for as many comparisons as are made.
        let beyond = ends.zip(at(0.5)).is_some_and(|((low, high), middle)| {
            let reach = z / 2.576;
            middle - (middle - low) * reach > 0.0 || middle + (high - middle) * reach < 0.0
        });
        let enough = PERCENTILES.get(i).is_none_or(|p| fewest as f64 * (1.0 - p / 100.0) >= ABOVE);
        let beyond = beyond && enough;
        let as_change = |d: f64| if i == 4 { d } else { 100.0 * d.exp_m1() };
        let between = ends.map(|(low, high)| (as_change(low), as_change(high)));
        changes.push(change(name, i, (a, b), between, beyond, LEAST));
    }
    changes
}

fn by_sums(before: &LoadReport, after: &LoadReport) -> Vec<Change> {
    let numbers = |l: &Spread, rps: f64, requests: u64, failures: u64| {
        let errors = (requests > 0).then(|| 100.0 * failures as f64 / requests as f64);
        [l.p50, l.p95, l.p99, Some(rps), errors]
    };
    let of = |r: &LoadReport| {
        let t = &r.totals;
        let mut all = BTreeMap::from([(None, numbers(&r.latency_ms, t.rps, t.requests, t.failures))]);
        for e in &r.by_name {
            let name = format!("{} {}", e.method, e.name);
            all.insert(Some(name), numbers(&e.latency_ms, e.rps, e.requests, e.failures));
        }
        all
    };
    let (a, b) = (of(before), of(after));
    let mut changes = Vec::new();
    for (name, first) in &a {
        let Some(second) = b.get(name) else { continue };
        for (i, pair) in first.iter().zip(second).enumerate() {
            if let (Some(x), Some(y)) = pair {
                changes.push(change(name.as_deref(), i, (*x, *y), None, true, THRESHOLD));
            }
        }
    }
    changes
}

/// Number `i` of p50, p95, p99, rps, errors; `beyond` says that it is more than chance.
fn change(
    name: Option<&str>,
    i: usize,
    (before, after): (f64, f64),
    between: Option<(f64, f64)>,
    beyond: bool,
    least: (f64, f64),
) -> Change {
    let (metric, unit) = [("p50", "ms"), ("p95", "ms"), ("p99", "ms"), ("rps", "/s"), ("errors", "%")]
        .get(i)
        .copied()
        .unwrap_or(("", ""));
    let change = match i {
        4 => Some(after - before),
        _ => (before > 0.0).then(|| 100.0 * (after / before - 1.0)),
    };
    let large = match i {
        4 => (after - before).abs() >= least.1,
        3 => change.is_none_or(|c| c.abs() >= 100.0 * least.0),
        _ => change.is_none_or(|c| c.abs() >= 100.0 * least.0) && (after - before).abs() >= GRAIN_MS,
    };
    // More requests a second are better, more of everything else is worse.
    let verdict = match (beyond && large, (after > before) == (i == 3)) {
        (false, _) => Verdict::Same,
        (true, true) => Verdict::Better,
        (true, false) => Verdict::Worse,
    };
    let (name, metric, unit) = (name.map(str::to_owned), metric.to_owned(), unit.to_owned());
    Change { name, metric, unit, before, after, change, between, verdict }
}

/// The value below which a standard normal number lies with this probability (above one half), to 4.5e-4 (Abramowitz and
/// Stegun, 26.2.23).
fn normal_quantile(p: f64) -> f64 {
    let t = (-2.0 * (1.0 - p).max(1e-12).ln()).sqrt();
    t - (2.515_517 + 0.802_853 * t + 0.010_328 * t * t)
        / (1.0 + 1.432_788 * t + 0.189_269 * t * t + 0.001_308 * t * t * t)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::load::Totals;

    /// A run of `n` seconds with 50 requests each; `latency` gives each one's µs.
    fn run(n: u64, failures: u64, mut latency: impl FnMut(u64, u64) -> u32) -> (Slices, LoadReport) {
        let mut slices = Slices { names: vec![("GET".into(), "/x".into())], ..Slices::default() };
        for second in 0..n {
            let mut cell = Cell { requests: 50, failures, ..Cell::default() };
            for i in 0..50 {
                *cell.latencies.entry(latency(second, i)).or_default() += 1;
            }
            slices.add((second + 1) * 1_000_000_000, 0, cell);
        }
        let totals = Totals { requests: n * 50, failures: n * failures, rps: 50.0, ..Totals::default() };
        (slices, LoadReport { totals, ..LoadReport::default() })
    }

    fn verdicts(a: &(Slices, LoadReport), b: &(Slices, LoadReport)) -> BTreeMap<String, Verdict> {
        let of = |r: &(Slices, LoadReport)| -> Run<'static> {
            let leaked: &'static (Slices, LoadReport) = Box::leak(Box::new(r.clone()));
            Run { report: &leaked.1, slices: Some(&leaked.0) }
        };
        let c = compare("a", of(a), of(b));
        c.changes.iter().filter(|c| c.name.is_none()).map(|c| (c.metric.clone(), c.verdict)).collect()
    }

    #[test]
    fn chance_is_called_chance_and_a_change_a_change() {
        // Noise of 30 % around 10 ms, in runs of seconds that hang together.
        let noisy = |seed: u64, scale: u32| {
            let mut draw = Draw(seed);
            let mut slow = 0;
            move |_: u64, i: u64| {
                if i == 0 {
                    slow = (slow * 7 + draw.below(3000)) / 8;
                }
                (8000 + slow as u32 + draw.below(3000) as u32) * scale / 100
            }
        };
        let base = run(60, 0, noisy(1, 100));
        let mut wrong = 0;
        for seed in 2..42 {
            let same = run(60, 0, noisy(seed, 100));
            wrong += usize::from(verdicts(&base, &same).values().any(|v| *v != Verdict::Same));
        }
        assert!(wrong <= 2, "{wrong} of 40 equal runs are called different");
        let slower = verdicts(&base, &run(60, 0, noisy(50, 115)));
        assert!(slower["p50"] == Verdict::Worse && slower["p95"] == Verdict::Worse, "{slower:?}");
        assert!(slower["rps"] == Verdict::Same && slower["errors"] == Verdict::Same, "{slower:?}");
        let faster = verdicts(&base, &run(60, 0, noisy(51, 80)));
        assert_eq!(faster["p50"], Verdict::Better);
        let failing = verdicts(&base, &run(60, 1, noisy(52, 100)));
        assert_eq!((failing["errors"], failing["p50"]), (Verdict::Worse, Verdict::Same));
        // One slow second in a run of sixty is no change of the median, and of the 99th percentile perhaps chance.
        let stalled =
            verdicts(&base, &run(60, 0, |s, _| if s == 30 { 900_000 } else { 9000 + (s as u32 * 37) % 1500 }));
        assert_ne!(stalled["p99"], Verdict::Better);
    }

    #[test]
    fn sums_are_judged_by_a_threshold_that_is_said() {
        let report = |p95: f64, users: u32| {
            let latency_ms = Spread { p50: Some(1.0), p95: Some(p95), p99: Some(p95), ..Spread::default() };
            let totals = Totals { requests: 100, rps: 10.0, peak_users: users, ..Totals::default() };
            LoadReport { totals, latency_ms, model: "closed".into(), ..LoadReport::default() }
        };
        let (a, b) = (report(10.0, 5), report(12.0, 6));
        let c = compare("a.json", Run { report: &a, slices: None }, Run { report: &b, slices: None });
        assert!(c.method.contains("10 %") && c.method.contains("may be chance"), "{}", c.method);
        assert!(c.is_regression() && c.count(Verdict::Worse) == 2 && c.remarks.len() == 1, "{c:?}");
        assert_eq!(c.changes[0].metric, "p95");
        assert!((c.changes[0].change.unwrap() - 20.0).abs() < 1e-9);
    }

    #[test]
    fn quantiles_are_those_of_tables() {
        for (p, z) in [(0.995, 2.5758), (0.975, 1.96), (0.9995, 3.2905)] {
            assert!((normal_quantile(p) - z).abs() < 1e-3, "{p}");
        }
    }
}
