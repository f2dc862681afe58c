//! The closing table.

use std::io::{self, Write};

use crate::error::{Error, Result};
use crate::record::load::{Grade, Graded, LoadReport, Spread};
use crate::units::grouped;

/// Errors shown in the table; JSON and CSV have all.
const ERRORS: usize = 20;
/// The longest name of an endpoint that is shown whole.
const NAME: usize = 44;

/// Writes the table.
///
/// # Errors
/// `Io` when `out` cannot be written.
pub fn load_text(report: &LoadReport, color: bool, out: &mut dyn Write) -> Result<()> {
    write(report, color, out).map_err(|e| Error::io("cannot write the report", e))
}

fn write(r: &LoadReport, color: bool, out: &mut dyn Write) -> io::Result<()> {
    let paint = |text: String, code: &str| if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text };
    for mark in &r.marks {
        writeln!(out, "{}", paint(format!("! {mark}"), "33"))?;
    }
    super::verdict::first_lines(r, color, out)?;
    let t = &r.totals;
    let share = if t.requests > 0 { 100.0 * t.failures as f64 / t.requests as f64 } else { 0.0 };
    write!(
        out,
        "{} requests in {:.1} s ({}/s), {} failed ({}), {} {} at most, {} connections",
        grouped(t.requests),
        t.duration_s,
        short(t.rps),
        grouped(t.failures),
        percent(share),
        grouped(u64::from(t.peak_users)),
        if r.model == "open" { "tasks at once" } else { "users" },
        grouped(t.connections)
    )?;
    if let (Some(asked), Some(made)) = (t.arrivals_asked, t.arrivals_made) {
        write!(out, ", {} of {} arrivals made", grouped(made), grouped(asked))?;
    }
    writeln!(out)?;
    writeln!(out, "latency from when each request was due; service from when it was sent")?;
    writeln!(out)?;
    let width = r.by_name.iter().map(|e| e.name.chars().count()).max().unwrap_or(0).clamp(9, NAME);
    let head = format!(
        "{:<7} {:<width$} {:>10} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "method", "name", "requests", "failed", "%", "req/s", "p50", "p95", "p99", "max"
    );
    writeln!(out, "{}", paint(head, "1"))?;
    let line = |out: &mut dyn Write, method: &str, name: &str, n: u64, bad: u64, rps: f64, s: &Spread| {
        let share = if n > 0 { 100.0 * bad as f64 / n as f64 } else { 0.0 };
        let row = format!(
            "{method:<7} {:<width$} {:>10} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}",
            cut(name, width),
            grouped(n),
            grouped(bad),
            number(share),
            short(rps),
            ms(s.p50),
            ms(s.p95),
            ms(s.p99),
            ms(s.max)
        );
        writeln!(out, "{}", if bad > 0 { paint(row, "31") } else { row })
    };
    for e in &r.by_name {
        line(out, &e.method, &e.name, e.requests, e.failures, e.rps, &e.latency_ms)?;
    }
    line(out, "", "all", t.requests, t.failures, t.rps, &r.latency_ms)?;
    for (name, s) in [("service", &r.service_ms), ("first byte", &r.first_byte_ms), ("generator lag", &r.lag_ms)] {
        if s.p50.is_some() {
            let row = format!(
                "{:<7} {name:<width$} {:>10} {:>9} {:>7} {:>9} {:>9} {:>9} {:>9} {:>9}",
                "",
                "",
                "",
                "",
                "",
                ms(s.p50),
                ms(s.p95),
                ms(s.p99),
                ms(s.max)
            );
            writeln!(out, "{}", paint(row, "2"))?;
        }
    }
    for e in r.by_name.iter().filter(|e| e.first_token_ms.is_some()) {
        let s = e.first_token_ms.unwrap_or_default();
        let (n, name) = (grouped(e.events), cut(&e.name, NAME));
        writeln!(
            out,
            "{} {name}: first token p50 {}, p95 {}, p99 {}; {n} events",
            e.method,
            ms(s.p50),
            ms(s.p95),
            ms(s.p99)
        )?;
    }
    if !r.errors.is_empty() {
        writeln!(out, "\n{}", paint("errors".to_owned(), "1"))?;
        for e in r.errors.iter().take(ERRORS) {
            writeln!(out, "{:>10}  {} {}: {}", grouped(e.count), e.method, cut(&e.name, NAME), clean(&e.error))?;
        }
        if r.errors.len() > ERRORS {
            writeln!(out, "            and {} more kinds (--json has all)", r.errors.len() - ERRORS)?;
        }
    }
    if !r.exceptions.is_empty() {
        writeln!(out, "\n{}", paint("exceptions".to_owned(), "1"))?;
        for e in r.exceptions.iter().take(ERRORS) {
            // The last line has the class too, the one before it the innermost function, which says most.
            let mut lines = e.traceback.lines().rev();
            let what = lines.next().unwrap_or(&e.message);
            let place = lines.next().map_or_else(String::new, |l| format!("  ({})", l.trim()));
            writeln!(out, "{:>10}  {}{}", grouped(e.count), clean(what), clean(&place))?;
        }
        if r.exceptions.len() > ERRORS {
            writeln!(out, "            and {} more (--json has all)", r.exceptions.len() - ERRORS)?;
        }
    }
    if !r.targets.is_empty() {
        writeln!(out, "\n{}", paint("targets".to_owned(), "1"))?;
        for t in &r.targets {
            let (word, code) = match t.grade {
                Grade::Target => ("target", "32"),
                Grade::Acceptable => ("acceptable", "33"),
                Grade::Missed => ("missed", "31"),
            };
            writeln!(out, "  {} {}", paint(format!("{word:<10}"), code), target(t))?;
        }
    }
    super::verdict::baseline(r, color, out)
}

/// A target in words, with its value.
pub(super) fn target(t: &Graded) -> String {
    let sign = if t.above { ">" } else { "<" };
    let value = t.value.map_or_else(|| "not measured".to_owned(), |v| amount(v, &t.unit));
    let acceptable = t.acceptable.map_or_else(String::new, |a| format!(", acceptable {}", amount(a, &t.unit)));
    let name = t.name.as_ref().map_or_else(String::new, |n| format!("{n} "));
    format!("{name}{} {value} (wanted {sign} {}{acceptable})", t.metric, amount(t.target, &t.unit))
}

pub(super) fn amount(v: f64, unit: &str) -> String {
    match unit {
        "ms" => ms(Some(v)),
        "/s" => format!("{}/s", short(v)),
        _ => percent(v),
    }
}

fn percent(v: f64) -> String {
    format!("{} %", number(v))
}

fn number(v: f64) -> String {
    match v {
        0.0 => "0".to_owned(),
        v if v < 0.01 => format!("{v:.3}"),
        v if v < 1.0 => format!("{v:.2}"),
        v => format!("{v:.1}"),
    }
}

/// A time with its unit, three digits.
pub(super) fn ms(v: Option<f64>) -> String {
    match v {
        None => "-".to_owned(),
        Some(v) if v < 0.9995 => format!("{:.0} µs", v * 1e3),
        Some(v) if v < 9.995 => format!("{v:.2} ms"),
        Some(v) if v < 99.95 => format!("{v:.1} ms"),
        Some(v) if v < 9999.5 => format!("{v:.0} ms"),
        Some(v) => format!("{:.1} s", v / 1e3),
    }
}

fn short(v: f64) -> String {
    if v < 100.0 { format!("{v:.1}") } else { grouped(v.round() as u64) }
}

/// At most `width` characters, without what would steer a terminal.
pub(super) fn cut(text: &str, width: usize) -> String {
    let text = clean(text);
    if text.chars().count() <= width {
        text
    } else {
        text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
    }
}

pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::load::{Endpoint, ErrorRow, Totals};

    #[test]
    fn the_table_says_what_matters() {
        let spread =
            Spread { p50: Some(1.234), p95: Some(48.0), p99: Some(450.0), max: Some(12_000.0), ..Spread::default() };
        let r = LoadReport {
            totals: Totals { requests: 12_345, failures: 3, rps: 123.4, duration_s: 100.0, ..Totals::default() },
            latency_ms: spread,
            by_name: vec![Endpoint {
                method: "GET".into(),
                name: "/x\u{1b}[31m".into(),
                requests: 12_345,
                failures: 3,
                rps: 123.4,
                latency_ms: spread,
                ..Endpoint::default()
            }],
            errors: vec![ErrorRow {
                method: "GET".into(),
                name: "/x".into(),
                error: "status 500".into(),
                count: 3,
                ..ErrorRow::default()
            }],
            targets: vec![Graded {
                metric: "p95".into(),
                value: Some(48.0),
                target: 50.0,
                unit: "ms".into(),
                grade: Grade::Target,
                ..Graded::default()
            }],
            marks: vec!["late".into()],
            ..LoadReport::default()
        };
        let mut out = Vec::new();
        load_text(&r, false, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("! late\n12,345 requests in 100.0 s (123/s), 3 failed (0.02 %)"), "{text}");
        for part in ["1.23 ms", "450 ms", "12.0 s", "GET /x: status 500", "target     p95 48.0 ms (wanted < 50.0 ms)"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
