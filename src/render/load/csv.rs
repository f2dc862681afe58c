//! CSV with Locust's columns. Percentiles are exact to three digits, where Locust rounds to two.

use std::fmt::Write;

use crate::record::load::{Endpoint, LoadReport, Second};

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
    let l = &r.latency_ms;
    let all = Endpoint {
        method: String::new(),
        name: "Aggregated".to_owned(),
        requests: r.totals.requests,
        failures: r.totals.failures,
        rps: r.totals.rps,
        latency_ms: *l,
        bytes: r.totals.bytes,
        percentiles: r.percentiles.clone(),
        ..Endpoint::default()
    };
    row(&mut out, &all, r.totals.duration_s);
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

/// `PREFIX_stats_history.csv`: the run as a whole, second by second; the percentiles of each line are that second's own.
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
        let at = |ms: u64| start_wall_s as f64 + ms as f64 / 1e3;
        let (method, name, error) = (cell(&e.method), cell(&e.name), cell(&e.error));
        let _ = writeln!(out, "{method},{name},{error},{},{},{}", e.count, at(e.first_ms), at(e.last_ms));
    }
    out
}

fn number(v: Option<f64>) -> String {
    v.map_or_else(|| "N/A".to_owned(), |v| v.to_string())
}

/// A cell by RFC 4180; what a spreadsheet would take for a formula is kept from it by an apostrophe.
fn cell(text: &str) -> String {
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
        let history = history_csv(&[Second::default()], 0, &r);
        assert_eq!(history.lines().last().unwrap().split(',').count(), HISTORY.split(',').count());
        assert_eq!(cell("=1+1"), "'=1+1");
    }
}
