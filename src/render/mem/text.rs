//! The table for the terminal: verdict, curve, parts, processes.

use std::fmt::Write;

use super::MemOptions;
use crate::analysis::memory::{Judged, MemoryView};
use crate::record::series as names;
use crate::units::{Bytes, grouped};

/// Columns of the curve at most.
const CURVE: usize = 60;

pub(super) fn text(view: &MemoryView, judged: &Judged, options: &MemOptions) -> String {
    let mut out = String::new();
    if view.lost > 0 {
        let _ = writeln!(out, "{} ticks missed: the machine was too busy", grouped(view.lost));
    }
    let ticks = view.total(names::RSS).len();
    let seconds = view.seconds(view.end);
    let _ = writeln!(out, "{} · {seconds:.0} s · {} readings", options.target, grouped(ticks as u64));
    verdict(&mut out, judged, options);
    let Some((start, end)) = view.ends() else {
        let _ = writeln!(out, "no memory was read");
        return out;
    };
    let rate = view.slope().map_or_else(String::new, |s| format!(" · {}/s", signed(s)));
    let _ = writeln!(out, "\nRSS  {} → {} ({}){rate}", size(start), size(end), signed(end - start));
    if let Some(n) = options.requests.filter(|n| *n > 0) {
        let _ = writeln!(out, "     {} per request over {} requests", signed((end - start) / n as f64), grouped(n));
    }
    let layers = view.layers(CURVE.min(options.width.saturating_sub(6).max(20)));
    let (low, high) = layers.rss.iter().fold((f64::MAX, 0.0_f64), |(l, h), v| (l.min(*v), h.max(*v)));
    let _ = writeln!(out, "     {}  {} to {}", sparkline(&layers.rss), size(low), size(high));
    limit(&mut out, view, end);
    let (parts, rest) = view.parts();
    let total: f64 = parts.iter().map(|p| p.bytes).sum::<f64>() + rest;
    let _ = writeln!(out, "\nwhat it is made of at the end");
    let mut rows: Vec<_> = parts.iter().filter(|p| p.bytes > 0.0).map(|p| (p.title, p.bytes)).collect();
    rows.sort_by(|a, b| b.1.total_cmp(&a.1));
    rows.push(("unexplained", rest));
    for (title, bytes) in rows {
        let _ = writeln!(out, "  {title:<22} {:>10} {:>6.1} %", signless(bytes), 100.0 * bytes / total.max(1.0));
    }
    if let Some(bytes) = judged.reclaimable_bytes {
        let _ = writeln!(out, "  {:<22} {:>10}  by malloc_trim: part of the above", "would be given back", size(bytes));
    }
    suspects(&mut out, judged);
    processes(&mut out, view);
    out
}

/// Who may hold what grew.
fn suspects(out: &mut String, judged: &Judged) {
    if judged.suspects.is_empty() {
        return;
    }
    let grew = judged.suspects.iter().any(|s| s.growth_count_per_s.is_some_and(|g| g > 0.0));
    let _ = writeln!(out, "\n{}", if grew { "who holds what grew" } else { "who holds the most" });
    for s in &judged.suspects {
        let growth = Some(s.growth()).filter(|g| !g.is_empty()).map_or_else(String::new, |g| format!("  {g}"));
        let _ = writeln!(out, "  {}. {} ({}){growth}", s.rank, clean(&s.name), s.kind);
        if !s.path.is_empty() {
            let _ = writeln!(out, "     {}", clean(&s.path.join(" → ")));
        }
        if !s.evidence.is_empty() {
            let _ = writeln!(out, "     {}", clean(&s.evidence));
        }
    }
}

/// Names of the target without what would steer the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn verdict(out: &mut String, judged: &Judged, options: &MemOptions) {
    let word = if judged.kind == judged.verdict {
        judged.kind.clone()
    } else {
        format!("{} ({})", judged.verdict, judged.kind)
    };
    let word = match (options.color, judged.is_leak()) {
        (true, true) => format!("\x1b[1;31m{word}\x1b[0m"),
        (true, false) => format!("\x1b[1m{word}\x1b[0m"),
        _ => word,
    };
    let sure = if judged.confidence == "none" { String::new() } else { format!(", confidence {}", judged.confidence) };
    let _ = writeln!(out, "verdict  {word}{sure}");
    for line in &judged.evidence {
        let _ = writeln!(out, "         {line}");
    }
    if !judged.decides.is_empty() {
        let _ = writeln!(out, "         {}", judged.decides);
    }
}

fn limit(out: &mut String, view: &MemoryView, rss: f64) {
    let last = |metric: &str| view.cgroup.get(metric).and_then(|p| p.last()).map(|p| p.1);
    let Some(limit) = last(names::CGROUP_LIMIT) else { return };
    let used = last(names::CGROUP_MEMORY).unwrap_or(rss);
    let _ = write!(out, "     cgroup {} of {} ({:.0} %)", size(used), size(limit), 100.0 * used / limit.max(1.0));
    match view.slope() {
        Some(slope) if slope > 1000.0 && limit > used => {
            let minutes = (limit - used) / slope / 60.0;
            let _ = writeln!(out, ", full in {minutes:.0} min at this rate");
        }
        _ => out.push('\n'),
    }
}

fn processes(out: &mut String, view: &MemoryView) {
    let head = ["pid", "name", "RSS", "growth", "PSS", "USS", "swap", "threads", "fds"];
    let [pid, name, rss, growth, pss, uss, swap, threads, fds] = head;
    let _ = writeln!(
        out,
        "\n  {pid:>8}  {name:<15} {rss:>10} {growth:>11} {pss:>10} {uss:>10} {swap:>9} {threads:>7} {fds:>6}"
    );
    let end = view.processes.iter().filter_map(crate::analysis::memory::ProcessMemory::ended).max().unwrap_or_default();
    for p in &view.processes {
        let last = |metric| p.points(metric).last().map(|p| p.1);
        let bytes = |metric| last(metric).map_or_else(|| "-".to_owned(), size);
        let count = |metric| last(metric).map_or_else(|| "-".to_owned(), |v| grouped(v as u64));
        let points = p.points(names::RSS);
        let grown = points.first().zip(points.last()).map_or_else(|| "-".to_owned(), |(a, b)| signed(b.1 - a.1));
        let name: String = p.name.chars().take(15).collect();
        let _ = write!(
            out,
            "  {:>8}  {name:<15} {:>10} {grown:>11} {:>10} {:>10} {:>9} {:>7} {:>6}",
            p.scope,
            bytes(names::RSS),
            bytes(names::PSS),
            bytes(names::USS),
            bytes(names::SWAP),
            count(names::THREADS),
            count(names::FDS),
        );
        match p.ended() {
            Some(ended) if end.since(ended) > 2_000_000_000 => {
                let _ = writeln!(out, "  ended at {:.0} s", view.seconds(ended));
            }
            _ => out.push('\n'),
        }
    }
    let (pss, alive) = (view.sum_at(names::PSS, end), view.processes.len());
    if let Some(pss) = pss.filter(|_| alive > 1) {
        let _ = writeln!(out, "  together {} of PSS: shared pages counted once", size(pss));
    }
}

/// Values as a line of blocks, from the lowest to the highest.
pub fn sparkline(values: &[f64]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    // A curve that moves by less than 1 % is flat.
    let span = (high - low).max(high.abs() * 0.01).max(f64::MIN_POSITIVE);
    let block = |v: &f64| BLOCKS[(((v - low) / span * 7.0).round() as usize).min(7)];
    values.iter().map(block).collect()
}

fn size(bytes: f64) -> String {
    Bytes(bytes.max(0.0).round() as u64).to_string()
}

fn signless(bytes: f64) -> String {
    if bytes < 0.0 { format!("-{}", size(-bytes)) } else { size(bytes) }
}

fn signed(bytes: f64) -> String {
    if bytes < 0.0 { format!("-{}", size(-bytes)) } else { format!("+{}", size(bytes)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::memory::{judge, tests::grown};

    #[test]
    fn the_table_has_curve_parts_and_processes() {
        let view = grown();
        let text =
            text(&view, &judge(&view), &MemOptions { target: "7 (app)".into(), width: 80, ..MemOptions::default() });
        for wanted in [
            "7 (app) · 10 s",
            "verdict  growing (unknown), confidence low",
            "RSS  100.0 MB → 110.0 MB (+10.0 MB) · +",
            "▁",
            "█",
        ] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        for wanted in
            ["heap (brk)                45.0 MB   40.9 %", "unexplained                   0 B", "ended at 4 s"]
        {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
        let blamed = super::text(&view, &crate::analysis::memory::tests::blamed(), &MemOptions::default());
        for wanted in [
            "verdict  leak (container-leak), confidence high",
            "  1. npc.memory.REGISTRY <b> (container)  +24.8 kB/s, +1,000/s",
            "module npc.memory → REGISTRY → dict → NpcState",
            "would be given back       14.2 MB",
        ] {
            assert!(blamed.contains(wanted), "{wanted}: {blamed}");
        }
        assert_eq!(sparkline(&[0.0, 7.0, 3.0]), "▁█▄");
        assert_eq!(sparkline(&[100.0, 100.1]), "▁▂");
        assert_eq!(sparkline(&[]), "");
    }
}
