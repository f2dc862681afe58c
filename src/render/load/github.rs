//! A run as a job summary (Markdown for `$GITHUB_STEP_SUMMARY`) and as annotations (workflow commands on standard output).

use std::fmt::Write;

use super::text::{amount, target};
use super::verdict::{summary, words};
use crate::record::load::{Comparison, Grade, LoadReport, Verdict};
use crate::units::grouped;

/// Rows of a table that are shown; a summary has at most 1 MB.
const ROWS: usize = 200;
const ERRORS: usize = 20;
/// Annotations of a step that are shown at all.
const ANNOTATIONS: usize = 10;

/// The Markdown.
pub fn github_summary(r: &LoadReport) -> String {
    let t = &r.totals;
    let missed = r.targets.iter().filter(|t| t.grade == Grade::Missed).count();
    let verdict = match (&r.stopped, missed, r.baseline.as_ref().is_some_and(Comparison::is_regression)) {
        (Some(_), ..) => "ended early".to_owned(),
        (_, n, _) if n > 0 => format!("{n} of {} targets missed", r.targets.len()),
        (.., true) => "worse than the baseline".to_owned(),
        _ if r.targets.is_empty() => "done".to_owned(),
        _ => "targets met".to_owned(),
    };
    let mut out = format!("## perfkit load: {verdict}\n\n");
    if let Some(why) = &r.stopped {
        let _ = writeln!(out, "**The run was ended early:** {}\n", cell(why));
    }
    for mark in &r.marks {
        let _ = writeln!(out, "> {}\n", cell(mark));
    }
    let _ = writeln!(
        out,
        "{} requests in {:.1} s ({}), {} failed. Latency runs from when each request was due.\n",
        grouped(t.requests),
        t.duration_s,
        amount(t.rps, "/s"),
        grouped(t.failures)
    );
    if !r.targets.is_empty() {
        out.push_str("| target | |\n|---|---|\n");
        for t in &r.targets {
            let word = match t.grade {
                Grade::Target => "met",
                Grade::Acceptable => "acceptable",
                Grade::Missed => "**missed**",
            };
            let _ = writeln!(out, "| {} | {word} |", cell(&target(t)));
        }
        out.push('\n');
    }
    if let Some(c) = &r.baseline {
        let _ = writeln!(out, "**{}**\n", cell(&summary(c)));
        for remark in &c.remarks {
            let _ = writeln!(out, "> {}\n", cell(remark));
        }
        for change in c.changes.iter().filter(|c| c.verdict != Verdict::Same).take(ROWS) {
            let word = if change.verdict == Verdict::Worse { "worse" } else { "better" };
            let _ = writeln!(out, "- {word}: {}", cell(&words(change)));
        }
        let _ = writeln!(out, "\nBy {}.\n", cell(&c.method));
    }
    out.push_str(
        "| endpoint | requests | failed | req/s | p50 | p95 | p99 | max |\n|---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let ms = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| amount(v, "ms"));
    for e in r.by_name.iter().take(ROWS) {
        let l = &e.latency_ms;
        let _ = writeln!(
            out,
            "| {} {} | {} | {} | {} | {} | {} | {} | {} |",
            cell(&e.method),
            cell(&e.name),
            grouped(e.requests),
            grouped(e.failures),
            amount(e.rps, "/s"),
            ms(l.p50),
            ms(l.p95),
            ms(l.p99),
            ms(l.max)
        );
    }
    if r.by_name.len() > ROWS {
        let _ = writeln!(out, "\nand {} more endpoints", r.by_name.len() - ROWS);
    }
    if !r.errors.is_empty() {
        out.push_str("\n| errors | endpoint | what |\n|--:|---|---|\n");
        for e in r.errors.iter().take(ERRORS) {
            let _ =
                writeln!(out, "| {} | {} {} | {} |", grouped(e.count), cell(&e.method), cell(&e.name), cell(&e.error));
        }
    }
    out
}

/// Workflow commands, a line each: missed targets, regressions, an early end.
pub fn github_annotations(r: &LoadReport) -> String {
    let mut lines = Vec::new();
    if let Some(why) = &r.stopped {
        lines.push(("error", format!("load ended early: {why}")));
    }
    for t in r.targets.iter().filter(|t| t.grade != Grade::Target) {
        let level = if t.grade == Grade::Missed { "error" } else { "warning" };
        lines.push((level, format!("target {}: {}", grade(t.grade), target(t))));
    }
    for c in r.baseline.iter().flat_map(|b| &b.changes).filter(|c| c.verdict == Verdict::Worse) {
        lines.push(("error", format!("worse than the baseline: {}", words(c))));
    }
    for mark in &r.marks {
        lines.push(("warning", mark.clone()));
    }
    let mut out = String::new();
    for (level, text) in lines.into_iter().take(ANNOTATIONS) {
        let text = text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        let _ = writeln!(out, "::{level} title=perfkit load::{text}");
    }
    out
}

fn grade(g: Grade) -> &'static str {
    match g {
        Grade::Target => "met",
        Grade::Acceptable => "only acceptable",
        Grade::Missed => "missed",
    }
}

/// Text that ends no row of a table and is no markup.
fn cell(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            '|' | '<' | '>' | '*' | '_' | '`' | '[' | ']' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::load::{Endpoint, Graded};

    #[test]
    fn foreign_text_neither_breaks_tables_nor_gives_commands() {
        let r = LoadReport {
            by_name: vec![Endpoint { method: "GET".into(), name: "/a|b\n::error::x".into(), ..Endpoint::default() }],
            targets: vec![Graded {
                name: Some("/a\n::set-output name=x::y".into()),
                metric: "p95".into(),
                unit: "ms".into(),
                value: Some(48.0),
                target: 20.0,
                ..Graded::default()
            }],
            ..LoadReport::default()
        };
        let text = github_summary(&r);
        assert!(text.starts_with("## perfkit load: 1 of 1 targets missed"), "{text}");
        assert!(text.contains("/a\\|b ::error::x"), "{text}");
        let commands = github_annotations(&r);
        assert_eq!(commands.lines().count(), 1, "{commands}");
        assert!(commands.starts_with("::error title=perfkit load::target missed: "), "{commands}");
    }
}
