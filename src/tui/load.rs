//! A load run while it goes on: a compact table that is redrawn in place.
//!
//! In: a [`LoadView`] and what was measured of the target. Out: lines no wider than the terminal. Limits: endpoints that do not
//! fit are counted, the busiest are shown.

use crate::record::load::{Endpoint, LoadReport};
use crate::record::load_view::{LoadState, LoadView, Rates};
use crate::units::{Bytes, grouped};

/// What a process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessUse {
    /// CPU since the last look, percent of one core; `None` at the first.
    pub cpu_pct: Option<f64>,
    /// Resident memory, bytes.
    pub rss_bytes: Option<u64>,
}

/// What else there is to show, and how.
#[derive(Debug, Clone, Default)]
pub struct LoadFrame {
    /// Time since the start, ns.
    pub elapsed_ns: u64,
    /// When the run ends by itself, ns after its start.
    pub length_ns: Option<u64>,
    /// How many users there are to be.
    pub wanted_users: Option<u32>,
    /// perfkit itself.
    pub generator: ProcessUse,
    /// The processes that are watched, by their ids; `None` for one that is gone.
    pub targets: Vec<(u32, Option<ProcessUse>)>,
    /// Where the web UI is.
    pub url: Option<String>,
    /// Whether keys are listened to.
    pub keys: bool,
    /// Columns of the terminal.
    pub width: usize,
    /// Lines that may be used.
    pub height: usize,
    /// Whether colours are wanted.
    pub color: bool,
}

/// The lines.
pub fn load_frame(view: &LoadView, frame: &LoadFrame) -> Vec<String> {
    let width = frame.width.max(20);
    let paint = |text: String, code: &str| if frame.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text };
    let r = &view.report;
    let mut lines = Vec::new();
    lines.push(cut(&first_line(view, frame), width));
    let [p50, p95, p99] = view.recent_ms;
    let failed = if r.totals.requests > 0 { 100.0 * r.totals.failures as f64 / r.totals.requests as f64 } else { 0.0 };
    let line = format!(
        "{} req/s · p50 {} p95 {} p99 {} ms (last 10 s) · {} requests · {} failed ({} %)",
        short(view.rate.requests),
        ms(p50),
        ms(p95),
        ms(p99),
        grouped(r.totals.requests),
        grouped(r.totals.failures),
        short(failed)
    );
    let line = cut(&line, width);
    lines.push(if r.totals.failures > 0 { paint(line, "31") } else { line });
    lines.push(cut(&costs(view, frame), width));
    let room = frame.height.saturating_sub(6).min(20);
    if room >= 2 && !r.by_name.is_empty() {
        lines.extend(table(r, &view.rates, width, room, &paint));
    }
    if frame.keys {
        let browser = if frame.url.is_some() { " · Enter web UI" } else { "" };
        let keys = format!("w/W +1/+10 users · s/S -1/-10{browser} · q end");
        lines.push(paint(cut(&keys, width), "2"));
    }
    lines
}

fn first_line(view: &LoadView, frame: &LoadFrame) -> String {
    let elapsed = frame.elapsed_ns / 1_000_000_000;
    let time = frame.length_ns.map_or_else(|| format!("{elapsed} s"), |l| format!("{elapsed}/{} s", l / 1_000_000_000));
    let open = view.report.model == "open";
    let users = match frame.wanted_users {
        Some(wanted) if wanted != view.users => {
            format!("{} of {} users", grouped(view.users.into()), grouped(wanted.into()))
        }
        _ => format!("{} {}", grouped(view.users.into()), if open { "tasks" } else { "users" }),
    };
    let state = match view.state {
        LoadState::Spawning if open => "ramp",
        state => state.word(),
    };
    format!("load {} · {state} · {time} · {users}", view.scenario)
}

fn costs(view: &LoadView, frame: &LoadFrame) -> String {
    let used = |u: &ProcessUse| {
        let cpu = u.cpu_pct.map_or_else(|| "–".to_owned(), |p| format!("{p:.0} %"));
        let rss = u.rss_bytes.map_or_else(|| "–".to_owned(), |b| Bytes(b).to_string());
        format!("CPU {cpu}, {rss}")
    };
    let mut line = format!("generator lag {:.1} ms, {}", view.lag_max_ms, used(&frame.generator));
    for (pid, state) in &frame.targets {
        let told = state.as_ref().map_or_else(|| "gone".to_owned(), used);
        line.push_str(&format!(" · target {pid} {told}"));
    }
    line
}

fn table(
    r: &LoadReport,
    rates: &[Rates],
    width: usize,
    room: usize,
    paint: &impl Fn(String, &str) -> String,
) -> Vec<String> {
    let mut rows: Vec<(&Endpoint, Rates)> =
        r.by_name.iter().enumerate().map(|(i, e)| (e, rates.get(i).copied().unwrap_or_default())).collect();
    rows.sort_by(|a, b| b.0.requests.cmp(&a.0.requests));
    let shown = if rows.len() > room { room - 1 } else { rows.len() };
    let longest = rows.iter().take(shown).map(|(e, _)| e.method.chars().count() + e.name.chars().count() + 1);
    // Eight columns of numbers stand beside the name.
    let name = longest.max().unwrap_or(8).clamp(8, width.saturating_sub(62).max(8));
    let head = format!(
        "{:<name$} {:>9} {:>8} {:>8} {:>7} {:>8} {:>8} {:>8}",
        "endpoint", "requests", "failed", "req/s", "fail/s", "p50 ms", "p95 ms", "p99 ms"
    );
    let mut lines = vec![paint(cut(&head, width), "1")];
    for (e, rate) in rows.iter().take(shown) {
        let l = &e.latency_ms;
        let line = format!(
            "{:<name$} {:>9} {:>8} {:>8} {:>7} {:>8} {:>8} {:>8}",
            cut(&format!("{} {}", e.method, e.name), name),
            grouped(e.requests),
            grouped(e.failures),
            short(rate.requests),
            short(rate.failures),
            ms(l.p50),
            ms(l.p95),
            ms(l.p99)
        );
        let line = cut(&line, width);
        lines.push(if e.failures > 0 { paint(line, "31") } else { line });
    }
    if rows.len() > shown {
        let requests: u64 = rows.iter().skip(shown).map(|(e, _)| e.requests).sum();
        lines.push(cut(&format!("… and {} more, {} requests", rows.len() - shown, grouped(requests)), width));
    }
    lines
}

/// At most `width` characters, none of which moves the cursor.
fn cut(text: &str, width: usize) -> String {
    let clean = |c: char| if c.is_control() { '?' } else { c };
    if text.chars().count() <= width {
        return text.chars().map(clean).collect();
    }
    text.chars().take(width.saturating_sub(1)).map(clean).chain(['…']).collect()
}

fn ms(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), short)
}

/// Three digits or so.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e4 => grouped(v.round() as u64),
        v if v >= 100.0 || v == 0.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::load::Totals;

    #[test]
    fn the_lines_fit_and_the_busiest_are_shown() {
        let endpoint = |i: u64| Endpoint {
            method: "GET".into(),
            name: format!("/a/very/long/name/of/an/endpoint/\x1b[2J/{i}"),
            requests: i,
            failures: u64::from(i == 40),
            ..Endpoint::default()
        };
        let report = LoadReport {
            totals: Totals { requests: 1_234_567, failures: 3, ..Totals::default() },
            by_name: (1..=40).map(endpoint).collect(),
            ..LoadReport::default()
        };
        let view = LoadView {
            state: LoadState::Running,
            users: 90,
            scenario: "world".into(),
            report,
            recent_ms: [Some(1.5), Some(22.0), None],
            ..LoadView::default()
        };
        let frame = LoadFrame {
            elapsed_ns: 12_300_000_000,
            length_ns: Some(60_000_000_000),
            wanted_users: Some(100),
            targets: vec![(77, Some(ProcessUse { cpu_pct: Some(88.4), rss_bytes: Some(64 << 20) })), (78, None)],
            keys: true,
            width: 100,
            height: 16,
            ..LoadFrame::default()
        };
        let lines = load_frame(&view, &frame);
        assert_eq!(lines[0], "load world · running · 12/60 s · 90 of 100 users");
        assert!(
            lines[1].starts_with("0 req/s · p50 1.50 p95 22.0 p99 – ms") && lines[1].contains("1,234,567 requests")
        );
        assert!(lines[2].contains("target 77 CPU 88 %, 64") && lines[2].ends_with("target 78 gone"), "{}", lines[2]);
        assert!(
            lines.len() <= 16 && lines.iter().all(|l| l.chars().count() <= 100 && !l.contains('\x1b')),
            "{lines:#?}"
        );
        assert!(lines[4].contains("/40") || lines[4].contains('…'), "{}", lines[4]);
        assert!(lines[lines.len() - 2].starts_with("… and 31 more"), "{lines:#?}");
        let narrow = load_frame(&view, &LoadFrame { width: 30, height: 3, ..frame });
        assert!(narrow.len() <= 4 && narrow.iter().all(|l| l.chars().count() <= 30), "{narrow:#?}");
    }
}
