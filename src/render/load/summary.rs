//! What Locust prints: statistics every two seconds, and the shares of tasks.

use std::fmt::Write;

use crate::record::load::Spread;
use crate::record::load_view::{ClassShare, LoadView, Rates, TaskShare};

/// The longest name that is shown whole.
const NAME: usize = 60;

/// A table of the run until now, with Locust's columns: counts from the start, rates of the last ten seconds, ms.
pub fn summary_text(view: &LoadView) -> String {
    let r = &view.report;
    let longest = r.by_name.iter().map(|e| e.name.chars().count()).max().unwrap_or(0).clamp(10, NAME);
    let rule = format!("{}|{}|{}", "-".repeat(8), "-".repeat(longest + 2), "-".repeat(75));
    let mut out = format!(
        "{:<8} {:<longest$} {:>9} {:>15} | {:>7} {:>7} {:>7} {:>7} | {:>7} {:>11}\n{rule}\n",
        "Type", "Name", "# reqs", "# fails", "Avg", "Min", "Max", "Med", "req/s", "failures/s"
    );
    let mut line = |method: &str, name: &str, n: u64, bad: u64, l: &Spread, rate: Rates| {
        let share = if n > 0 { 100.0 * bad as f64 / n as f64 } else { 0.0 };
        let fails = format!("{bad}({share:.2}%)");
        let name: String = name.chars().take(longest).collect();
        let ms = |v: Option<f64>| v.map_or_else(|| "0".to_owned(), |v| format!("{v:.0}"));
        let (avg, min, max, med) = (ms(l.mean), ms(l.min), ms(l.max), ms(l.p50));
        let _ = writeln!(
            out,
            "{method:<8} {name:<longest$} {n:>9} {fails:>15} | {avg:>7} {min:>7} {max:>7} {med:>7} | {:>7.2} {:>11.2}",
            rate.requests, rate.failures
        );
    };
    for (i, e) in r.by_name.iter().enumerate() {
        let rate = view.rates.get(i).copied().unwrap_or_default();
        line(&e.method, &e.name, e.requests, e.failures, &e.latency_ms, rate);
    }
    let t = &r.totals;
    line("", "Aggregated", t.requests, t.failures, &r.latency_ms, view.rate);
    out
}

/// Shares of classes and tasks, percent, within each class and of all.
pub fn task_ratio_text(shares: &[ClassShare]) -> String {
    let mut out = String::new();
    for (title, total) in [("Task ratio per User class", false), ("Total task ratio", true)] {
        let _ = writeln!(out, " {title}\n{}", "-".repeat(80));
        for class in shares {
            let _ = writeln!(out, " {:<10} {}", format!("{:.1}", class.ratio * 100.0), class.name);
            tasks(&mut out, &class.tasks, if total { class.ratio } else { 1.0 }, total, 1);
        }
        out.push('\n');
    }
    out
}

fn tasks(out: &mut String, all: &[TaskShare], parent: f64, total: bool, depth: usize) {
    let pad = "  ".repeat(depth);
    for t in all {
        let ratio = t.ratio * parent;
        let _ = writeln!(out, " {:<10} {pad}{}", format!("{pad}{:.1}", ratio * 100.0), t.name);
        tasks(out, &t.tasks, if total { ratio } else { 1.0 }, total, depth + 1);
    }
}
