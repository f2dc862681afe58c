//! CSV with Locust's columns. Percentiles are exact to three digits, where Locust rounds to two.

use std::fmt::Write;

use crate::record::load::{Endpoint, ExceptionRow, LoadReport, Second};
use crate::record::load_view::{LoadView, Rates};
use crate::units::utc;

const STATS: &str = "Type,Name,Request Count,Failure Count,Median Response Time,Average Response Time,Min Response Time,\
                     Max Response Time,Average Content Size,Requests/s,Failures/s,50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%\n";
const HISTORY: &str = "Timestamp,User Count,Type,Name,Requests/s,Failures/s,50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%,\
                       Total Request Count,Total Failure Count,Total Median Response Time,Total Average Response Time,\
                       Total Min Response Time,Total Max Response Time,Total Average Content Size\n";

/// `PREFIX_stats.csv`.
pub fn stats_csv(r: &LoadReport) -> String {
    let mut out = STATS.to_owned();
    for e in &r.by_name {
        row(&mut out, e, r.totals.duration_s);
    }
    row(&mut out, &r.aggregated(), r.totals.duration_s);
    out
}

fn row(out: &mut String, e: &Endpoint, seconds: f64) {
    let l = &e.latency_ms;
    let size = if e.requests > 0 { e.bytes as f64 / e.requests as f64 } else { 0.0 };
    let failures = if seconds > 0.0 { e.failures as f64 / seconds } else { 0.0 };
    let _ = write!(
        out,
        "{},{},{},{},{},{},{},{},{size},{},{failures}",
        cell(&e.method),
        cell(&e.name),
        e.requests,
        e.failures,
        number(l.p50),
        number(l.mean),
        number(l.min),
        number(l.max),
        e.rps
    );
    for p in &e.percentiles {
        let _ = write!(out, ",{}", number(*p));
    }
    out.push('\n');
}

/// The first line of `PREFIX_stats_history.csv`.
pub fn history_head() -> &'static str {
    HISTORY
}

/// Lines of `PREFIX_stats_history.csv` for a moment: the run as a whole, after each endpoint if `full`. Rates are those of the
/// last ten seconds, with `full` the percentiles are too; all else is counted from the start, as in Locust.
pub fn history_rows(view: &LoadView, wall_s: i64, full: bool) -> String {
    let mut out = String::new();
    let r = &view.report;
    if full {
        for (i, e) in r.by_name.iter().enumerate() {
            let recent = view.recent.get(i).unwrap_or(&e.percentiles);
            history_row(&mut out, wall_s, view.users, e, (view.rates.get(i).copied().unwrap_or_default(), recent));
        }
    }
    let recent = view.recent.last().filter(|_| full).unwrap_or(&r.percentiles);
    history_row(&mut out, wall_s, view.users, &r.aggregated(), (view.rate, recent));
    out
}

fn history_row(out: &mut String, wall_s: i64, users: u32, e: &Endpoint, (rate, percentiles): (Rates, &[Option<f64>])) {
    let (method, name) = (cell(&e.method), cell(&e.name));
    let _ = write!(out, "{wall_s},{users},{method},{name},{:.6},{:.6}", rate.requests, rate.failures);
    for p in percentiles {
        let _ = write!(out, ",{}", number(*p));
    }
    let l = &e.latency_ms;
    let size = if e.requests > 0 { e.bytes as f64 / e.requests as f64 } else { 0.0 };
    let zero = |v: Option<f64>| v.unwrap_or(0.0);
    let (p50, mean, min, max) = (zero(l.p50), zero(l.mean), zero(l.min), zero(l.max));
    let _ = writeln!(out, ",{},{},{p50},{mean},{min},{max},{size}", e.requests, e.failures);
}

/// As `PREFIX_stats_history.csv` when nobody wrote it meanwhile: the run as a whole, second by second; the percentiles of each line are that second's own.
pub fn history_csv(seconds: &[Second], start_wall_s: i64, r: &LoadReport) -> String {
    let mut out = HISTORY.to_owned();
    let (mut requests, mut failures, mut bytes) = (0, 0, 0);
    for s in seconds {
        requests += s.requests;
        failures += s.failures;
        bytes += s.bytes;
        let time = start_wall_s + s.at_s as i64;
        let _ = write!(out, "{time},{},,Aggregated,{:.6},{:.6}", s.users, s.requests as f64, s.failures as f64);
        let (p50, p95, p99) = (number(s.p50_ms), number(s.p95_ms), number(s.p99_ms));
        let _ = write!(out, ",{p50},N/A,N/A,N/A,N/A,{p95},N/A,{p99},N/A,N/A,N/A,{requests},{failures}");
        let l = &r.latency_ms;
        let size = if requests > 0 { bytes as f64 / requests as f64 } else { 0.0 };
        let _ = writeln!(out, ",{},{},{},{},{size}", number(l.p50), number(l.mean), number(l.min), number(l.max));
    }
    out
}

/// `PREFIX_failures.csv`.
pub fn failures_csv(r: &LoadReport, start_wall_s: i64) -> String {
    let mut out = "Method,Name,Error,Occurrences,First Seen,Last Seen\n".to_owned();
    for e in &r.errors {
        let at = |ms: u64| format!("{}Z", utc(start_wall_s + (ms / 1000) as i64).replacen(' ', "T", 1));
        let (method, name, error) = (cell(&e.method), cell(&e.name), cell(&e.error));
        let _ = writeln!(out, "{method},{name},{error},{},{},{}", e.count, at(e.first_ms), at(e.last_ms));
    }
    out
}

/// `PREFIX_exceptions.csv`.
pub fn exceptions_csv(all: &[ExceptionRow]) -> String {
    let mut out = "Count,Message,Traceback,Nodes\n".to_owned();
    for e in all {
        let _ = writeln!(out, "{},{},{},local", e.count, cell(&e.message), cell(&e.traceback));
    }
    out
}

fn number(v: Option<f64>) -> String {
    v.map_or_else(|| "N/A".to_owned(), |v| v.to_string())
}

/// A cell by RFC 4180; what a spreadsheet would take for a formula is kept from it by an apostrophe.
pub(super) fn cell(text: &str) -> String {
    let text = if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text.to_owned() };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_many_as_the_head_has() {
        let r = LoadReport {
            by_name: vec![Endpoint {
                method: "GET".into(),
                name: "/a,\"b\"".into(),
                percentiles: vec![None; 11],
                ..Endpoint::default()
            }],
            percentiles: vec![None; 11],
            ..LoadReport::default()
        };
        let text = stats_csv(&r);
        assert!(text.contains("\"/a,\"\"b\"\"\""));
        let last = text.lines().last().unwrap();
        assert_eq!(last.split(',').count(), STATS.split(',').count());
        let view = LoadView { report: LoadReport { by_name: Vec::new(), ..r }, ..LoadView::default() };
        let history = history_rows(&view, 0, true);
        assert_eq!(history.lines().last().unwrap().split(',').count(), HISTORY.split(',').count());
        assert_eq!(cell("=1+1"), "'=1+1");
    }
}
