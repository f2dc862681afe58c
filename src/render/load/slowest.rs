//! The slowest requests of a run, one a line.

use std::fmt::Write;

use super::csv::cell;
use super::text::{cut, ms};
use crate::clock::Mono;
use crate::record::requests::SlowRequest;

/// As CSV: times in seconds since the start, durations in ms; what was not measured is empty.
pub fn slowest_csv(
    rows: &[SlowRequest],
    name: impl Fn(u32) -> (String, String),
    start: Mono,
    start_wall_s: f64,
) -> String {
    let mut out = "Timestamp,Due,Method,Name,Latency,Lag,Service,First Byte,Status,Bytes,Kind,Error\n".to_owned();
    for r in rows {
        let (method, endpoint) = name(r.endpoint);
        let since = |at: Mono| at.0 as f64 / 1e9 - start.0 as f64 / 1e9;
        let ms = |later: Mono, earlier: Mono| later.since(earlier) as f64 / 1e6;
        let first = r.first.map_or_else(String::new, |f| format!("{:.6}", ms(f, r.sent)));
        let status = r.status.map_or_else(String::new, |s| s.to_string());
        let (kind, error) = r.failure.clone().unwrap_or_default();
        let due = r.due.0.saturating_sub(start.0) as f64 / 1e9;
        let _ = writeln!(
            out,
            "{:.6},{due:.9},{},{},{:.6},{:.6},{:.6},{first},{status},{},{},{}",
            start_wall_s + since(r.due),
            cell(&method),
            cell(&endpoint),
            ms(r.end, r.due),
            ms(r.sent, r.due),
            ms(r.end, r.sent),
            r.bytes,
            cell(&kind),
            cell(&error)
        );
    }
    out
}

/// The `n` slowest as a small table.
pub fn slowest_text(rows: &[SlowRequest], name: impl Fn(u32) -> (String, String), start: Mono, n: usize) -> String {
    let mut worst: Vec<&SlowRequest> = rows.iter().collect();
    worst.sort_by_key(|r| std::cmp::Reverse(r.latency_ns()));
    let mut out = String::new();
    if worst.is_empty() {
        return out;
    }
    let _ = writeln!(out, "\nslowest requests ({} are kept)", rows.len());
    let _ = writeln!(
        out,
        "{:>10} {:>9} {:>9} {:>9}  {:<6} request",
        "due at", "latency", "sent after", "service", "status"
    );
    for r in worst.into_iter().take(n) {
        let (method, endpoint) = name(r.endpoint);
        let span = |a: Mono, b: Mono| ms(Some(a.since(b) as f64 / 1e6));
        let status = r.status.map_or_else(|| "-".to_owned(), |s| s.to_string());
        let failed = r.failure.as_ref().map_or_else(String::new, |(_, m)| format!(": {}", cut(m, 60)));
        let _ = writeln!(
            out,
            "{:>8.3} s {:>9} {:>10} {:>9}  {status:<6} {} {}{failed}",
            r.due.since(start) as f64 / 1e9,
            span(r.end, r.due),
            span(r.sent, r.due),
            span(r.end, r.sent),
            cut(&method, 10),
            cut(&endpoint, 50)
        );
    }
    out
}
