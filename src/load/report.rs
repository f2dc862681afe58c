//! From a tally to the report: percentiles, rates, grades, and what must be said about their worth.

use super::scenario::{Bound, Measure, Target};
use super::tally::{Stats, Tally, Times};
use crate::record::load::{Endpoint, ErrorRow, Grade, Graded, LOCUST_PERCENTILES, LoadReport, Spread, Totals};

/// A lag below this never marks a run, ms.
const LAG_FLOOR_MS: f64 = 1.0;
/// Above the floor, the share of the median latency that the lag's 99th percentile may have.
const LAG_SHARE: f64 = 0.05;

/// What the report needs beside the tally.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Method and name of each number.
    pub names: Vec<(String, String)>,
    /// Whether there were more names than are kept apart.
    pub crowded: bool,
    /// When the run began, ns of the one clock.
    pub start: u64,
    /// From the start until no more was begun, ns.
    pub duration_ns: u64,
    /// Whether arrivals drove.
    pub open: bool,
    /// Threads.
    pub threads: u32,
    /// Where chance began.
    pub seed: u64,
    /// CPU time of the generator's threads, ns.
    pub cpu_ns: Option<u64>,
}

/// Makes the report.
pub fn report(tally: &Tally, facts: &Facts, targets: &[Target]) -> LoadReport {
    let total = tally.total();
    let seconds = facts.duration_ns as f64 / 1e9;
    let rate = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
    let mut by_name: Vec<Endpoint> = tally
        .names
        .iter()
        .zip(&facts.names)
        .filter(|(s, _)| s.requests > 0)
        .map(|(s, (method, name))| endpoint(s, method, name, rate(s.requests)))
        .collect();
    by_name.sort_by(|a, b| (&a.method, &a.name).cmp(&(&b.method, &b.name)));
    let mut errors: Vec<ErrorRow> = tally
        .errors
        .iter()
        .map(|((id, failure), seen)| {
            let (method, name) = facts.names.get(id.0 as usize).cloned().unwrap_or_default();
            let since = |at: u64| at.saturating_sub(facts.start) / 1_000_000;
            let error = failure.message.clone();
            let kind = failure.kind.to_owned();
            ErrorRow {
                method,
                name,
                error,
                kind,
                count: seen.count,
                first_ms: since(seen.first),
                last_ms: since(seen.last),
            }
        })
        .collect();
    errors.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| (&a.name, &a.error).cmp(&(&b.name, &b.error))));
    let mut report = LoadReport {
        totals: Totals {
            requests: total.requests,
            failures: total.failures,
            rps: rate(total.requests),
            duration_s: seconds,
            arrivals_asked: facts.open.then_some(tally.arrivals_asked),
            arrivals_made: facts.open.then_some(tally.arrivals_made),
            unfinished: tally.unfinished,
            bytes: total.bytes,
            peak_users: tally.peak_users,
            connections: tally.connections,
            threads: facts.threads,
            seed: facts.seed,
            cpu_s: facts.cpu_ns.map(|ns| ns as f64 / 1e9),
        },
        latency_ms: spread(&total.latency),
        service_ms: spread(&total.service),
        lag_ms: spread(&tally.lag),
        first_byte_ms: spread(&total.first_byte),
        first_token_ms: total.first_token.as_deref().map(spread),
        by_name,
        errors,
        targets: Vec::new(),
        exceptions: Vec::new(),
        marks: Vec::new(),
        model: if facts.open { "open" } else { "closed" }.to_owned(),
        phases: Vec::new(),
        stopped: None,
        baseline: None,
        percentiles: LOCUST_PERCENTILES.iter().map(|p| total.latency.percentile_ms(*p)).collect(),
    };
    report.targets = targets.iter().map(|t| grade(t, tally, &total, facts)).collect();
    report.marks = marks(&report, facts, tally);
    report
}

fn marks(r: &LoadReport, facts: &Facts, tally: &Tally) -> Vec<String> {
    let mut marks = Vec::new();
    if let (Some(lag), Some(p50)) = (r.lag_ms.p99, r.latency_ms.p50) {
        let limit = LAG_FLOOR_MS.max(LAG_SHARE * p50);
        if lag > limit {
            marks.push(format!(
                "the generator did not keep its schedule: 1 % of the requests left more than {lag:.1} ms late \
                 (limit {limit:.1} ms); latencies contain this delay"
            ));
        }
    }
    if let (Some(asked), Some(made)) = (r.totals.arrivals_asked, r.totals.arrivals_made)
        && made < asked
    {
        marks.push(format!("{} of {asked} arrivals were not begun before the run ended", asked - made));
    }
    if r.totals.unfinished > 0 {
        marks.push(format!(
            "{} requests were still under way when the run ended; they are in no percentile",
            r.totals.unfinished
        ));
    }
    if tally.stray > 0 {
        marks.push(format!(
            "{} answers were followed by bytes that belong to none; their connections were closed",
            tally.stray
        ));
    }
    if facts.crowded {
        marks.push(format!(
            "more than {} distinct names: the rest is counted as '{}'; group them with `as = \"/npc/[id]\"`",
            super::script::NAME_LIMIT,
            super::script::Names::OTHERS
        ));
    }
    marks
}

/// The share of a schedule's marks that make a run partial: a generator that was late, arrivals that were not made.
pub fn is_partial(report: &LoadReport) -> bool {
    report.marks.iter().any(|m| m.starts_with("the generator") || m.contains("arrivals were not begun"))
}

fn endpoint(s: &Stats, method: &str, name: &str, rps: f64) -> Endpoint {
    Endpoint {
        method: method.to_owned(),
        name: name.to_owned(),
        requests: s.requests,
        failures: s.failures,
        rps,
        latency_ms: spread(&s.latency),
        service_ms: spread(&s.service),
        first_byte_ms: spread(&s.first_byte),
        first_token_ms: s.first_token.as_deref().map(spread),
        events: s.events,
        bytes: s.bytes,
        statuses: s.statuses.iter().map(|(k, v)| (*k, *v)).collect(),
        percentiles: LOCUST_PERCENTILES.iter().map(|p| s.latency.percentile_ms(*p)).collect(),
    }
}

fn spread(t: &Times) -> Spread {
    let p = |p| t.percentile_ms(p);
    Spread {
        mean: t.mean_ms(),
        min: t.min_ms(),
        p50: p(50.0),
        p75: p(75.0),
        p90: p(90.0),
        p95: p(95.0),
        p99: p(99.0),
        p99_9: p(99.9),
        max: t.max_ms(),
    }
}

fn grade(target: &Target, tally: &Tally, total: &Stats, facts: &Facts) -> Graded {
    let mut joint = Stats::default();
    let stats = match &target.name {
        None => total,
        Some(wanted) => {
            // An endpoint may be named with or without its method.
            for (stats, (method, name)) in tally.names.iter().zip(&facts.names) {
                if name == wanted || format!("{method} {name}") == *wanted {
                    joint.add(stats);
                }
            }
            &joint
        }
    };
    let seconds = facts.duration_ns as f64 / 1e9;
    let some = stats.requests > 0;
    let value = match target.measure {
        Measure::Percentile(p) => stats.latency.percentile_ms(p),
        Measure::Mean => stats.latency.mean_ms(),
        Measure::Max => stats.latency.max_ms(),
        Measure::Throughput => (seconds > 0.0).then(|| stats.requests as f64 / seconds),
        Measure::Errors => some.then(|| 100.0 * stats.failures as f64 / stats.requests as f64),
    };
    let (limit, above) = match target.bound {
        Bound::Below(l) => (l, false),
        Bound::Above(l) => (l, true),
    };
    // No error is below any bound, a bound of 0 too.
    let meets = |limit: f64| value.is_some_and(|v| if above { v > limit } else { v < limit || v == 0.0 });
    let grade = if meets(limit) {
        Grade::Target
    } else if target.acceptable.is_some_and(meets) {
        Grade::Acceptable
    } else {
        Grade::Missed
    };
    Graded {
        name: target.name.clone(),
        metric: target.measure.name(),
        value,
        target: limit,
        acceptable: target.acceptable,
        unit: target.measure.unit().to_owned(),
        above,
        grade,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::script::NameId;
    use crate::load::tally::{Failure, Outcome};

    fn tally() -> (Tally, Facts) {
        let mut tally = Tally::default();
        for i in 1..=1000_u64 {
            let o = Outcome {
                name: NameId(0),
                due: 0,
                sent: 0,
                first: 1,
                token: 0,
                end: i * 1_000_000,
                bytes: 1,
                events: 0,
                status: 200,
            };
            tally.record(&o, (i == 1).then(|| Failure { kind: "status", message: "status 500".into() }));
            tally.lag.record(10_000);
        }
        let names = vec![("GET".to_owned(), "/x".to_owned())];
        let facts = Facts {
            names,
            crowded: false,
            start: 0,
            duration_ns: 10_000_000_000,
            open: false,
            threads: 1,
            seed: 1,
            cpu_ns: None,
        };
        (tally, facts)
    }

    use Grade::{Acceptable as A, Missed as M, Target as T};

    #[test]
    fn grades_are_those_of_the_table() {
        let (tally, facts) = tally();
        let targets: Vec<Target> =
            ["p50 < 600ms", "p50 < 400ms, acceptable 600ms", "p95 < 500ms", "rps > 99", "errors < 0.2%", "errors < 0%"]
                .iter()
                .map(|t| Target::parse(None, t).unwrap())
                .chain([
                    Target::parse(Some("GET /x"), "max < 2s").unwrap(),
                    Target::parse(Some("/y"), "p50 < 1s").unwrap(),
                ])
                .collect();
        let r = report(&tally, &facts, &targets);
        let grades: Vec<Grade> = r.targets.iter().map(|t| t.grade).collect();
        assert_eq!(grades, [T, A, M, T, T, M, T, M]);
        assert_eq!((r.errors[0].count, r.totals.failures, r.marks.len()), (1, 1, 0));
    }

    #[test]
    fn a_late_generator_is_said() {
        let (mut tally, mut facts) = tally();
        for _ in 0..100 {
            tally.lag.record(60_000_000);
        }
        (facts.open, tally.arrivals_asked, tally.arrivals_made) = (true, 10, 9);
        let r = report(&tally, &facts, &[]);
        assert_eq!(r.marks.len(), 2, "{:?}", r.marks);
        assert!(is_partial(&r));
    }
}
