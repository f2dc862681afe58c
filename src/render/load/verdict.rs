//! What a run came to in words: why it ended early, and how it compares with an earlier one.

use std::io::{self, Write};

use super::text::{amount, clean, cut};
use crate::record::load::{Change, Comparison, LoadReport, Verdict};

/// Changes that are shown; JSON has all.
const CHANGES: usize = 30;

/// What stands above the tables.
pub(super) fn first_lines(r: &LoadReport, color: bool, out: &mut dyn Write) -> io::Result<()> {
    let paint = |text: String, code: &str| if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text };
    if let Some(why) = &r.stopped {
        writeln!(out, "{}", paint(format!("! the run was ended early: {}", clean(why)), "31"))?;
    }
    if let Some(c) = &r.baseline {
        let code = if c.is_regression() { "31" } else { "32" };
        writeln!(out, "{}", paint(summary(c), code))?;
    }
    Ok(())
}

/// One line about a comparison.
pub(super) fn summary(c: &Comparison) -> String {
    let (worse, better) = (c.count(Verdict::Worse), c.count(Verdict::Better));
    let head = match (worse, better) {
        (0, 0) => "no significant change".to_owned(),
        (0, n) => format!("better, in {n} of {} numbers", c.changes.len()),
        (n, 0) => format!("WORSE, in {n} of {} numbers", c.changes.len()),
        (n, m) => format!("WORSE in {n} of {} numbers, better in {m}", c.changes.len()),
    };
    format!("against {}: {head}", clean(&c.baseline))
}

/// A change in words: `GET /x p95: 48.0 ms then, 75.3 ms now (+57 %, at 99 % between +41 % and +70 %)`.
pub(super) fn words(c: &Change) -> String {
    let name = c.name.as_deref().map_or_else(|| "all".to_owned(), |n| cut(n, 60));
    let points = if c.metric == "errors" { " points" } else { " %" };
    let percent = |v: f64| if v.abs() < 10.0 { format!("{v:+.1}{points}") } else { format!("{v:+.0}{points}") };
    let change = c.change.map_or_else(|| "from nothing".to_owned(), percent);
    let between = c
        .between
        .map_or_else(String::new, |(low, high)| format!(", at 99 % between {} and {}", percent(low), percent(high)));
    let (before, after) = (amount(c.before, &c.unit), amount(c.after, &c.unit));
    format!("{name} {}: {before} then, {after} now ({change}{between})", c.metric)
}

/// The parts of the run in one line, where they are known.
fn phases(r: &LoadReport, out: &mut dyn Write) -> io::Result<()> {
    if r.phases.is_empty() {
        return Ok(());
    }
    let all: Vec<String> = r.phases.iter().map(|p| format!("{} at {:.1} s", clean(&p.phase), p.at_s)).collect();
    writeln!(out, "\nphases: {}", all.join(" · "))
}

/// The sections about the run's parts and the earlier run.
pub(super) fn baseline(r: &LoadReport, color: bool, out: &mut dyn Write) -> io::Result<()> {
    phases(r, out)?;
    let Some(c) = &r.baseline else { return Ok(()) };
    let paint = |text: String, code: &str| if color { format!("\x1b[{code}m{text}\x1b[0m") } else { text };
    writeln!(out, "\n{}", paint(summary(c), "1"))?;
    for remark in &c.remarks {
        writeln!(out, "  ! {}", clean(remark))?;
    }
    let mut left = CHANGES;
    for change in c.changes.iter().filter(|c| c.verdict != Verdict::Same || c.name.is_none()) {
        if left == 0 {
            writeln!(out, "  and more (--json has all)")?;
            break;
        }
        left -= 1;
        let (word, code) = match change.verdict {
            Verdict::Worse => ("worse", "31"),
            Verdict::Better => ("better", "32"),
            Verdict::Same => ("as before", "2"),
        };
        writeln!(out, "  {} {}", paint(format!("{word:<10}"), code), words(change))?;
    }
    writeln!(out, "  by {}", c.method)
}
