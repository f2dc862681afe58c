//! The HTML report of a load run: one file that needs nothing else, with what Locust's has and how far its numbers go.
//!
//! In: a [`LoadView`]. Out: a page. Its tables are plain HTML, readable without scripts and on paper; only the charts are drawn by
//! a script, the same as in the web UI. Texts of servers and scenarios are escaped, and the page's own policy lets it load and
//! send nothing.

use std::fmt::Write as _;

use serde_json::json;

use super::page::{CHARTS_JS, PAGE_CSS, embedded};
use crate::record::load::{Endpoint, ErrorRow, Grade, LOCUST_PERCENTILES, Spread};
use crate::record::load_view::{ClassShare, LoadView, TaskShare};
use crate::units::{grouped, utc};

/// Failures in the report; the CSV file and JSON have all.
const ERRORS: usize = 1000;
/// What the script does: charts from the seconds that stand in the page.
const SCRIPT: &str = r#""use strict";
perfkitCharts.load(document.getElementById("charts")).update(JSON.parse(document.getElementById("seconds").textContent));"#;
const STYLE: &str = "\
main > section { margin: 0 0 26px; } main > h2, section > h2 { font-size: 19px; margin: 0 0 10px; } \
.report-facts { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0 0 22px; } \
.report-facts dt { color: var(--muted); } .report-facts dd { margin: 0; overflow-wrap: anywhere; } \
@media print { body { background: none; } .wide { overflow: visible; } th, td { padding: 3px 5px; font-size: 11px; } }";

/// Writes the report. `theme` is `light` or `dark`; anything else is as the reader's system has it.
pub fn load_html(view: &LoadView, theme: &str) -> String {
    let r = &view.report;
    let mut out = String::with_capacity(64 * 1024);
    let theme = match theme {
        "light" => " data-theme=\"light\"",
        "dark" => " data-theme=\"dark\"",
        _ => "",
    };
    let title = format!("perfkit load: {}", view.scenario);
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"{theme}>\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'; \
         style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<style>{PAGE_CSS}{STYLE}</style>\n</head>\n<body>\n\
         <header><div class=\"bar\"><h1 class=\"name\">perfkit load<small>{}</small></h1></div></header>\n<main>\n",
        text(&title),
        text(&view.scenario)
    );
    for mark in &r.marks {
        let _ = writeln!(out, "<p class=\"note\">{}</p>", text(mark));
    }
    facts(&mut out, view);
    section(&mut out, "Request statistics", |out| statistics(out, view));
    section(&mut out, "Response time statistics (ms)", |out| percentiles(out, view));
    if !r.targets.is_empty() && r.totals.requests > 0 {
        section(&mut out, "Targets", |out| targets(out, view));
    }
    if !r.errors.is_empty() {
        section(&mut out, "Failures", |out| failures(out, &r.errors));
    }
    if !view.report.exceptions.is_empty() {
        section(&mut out, "Exceptions", |out| {
            let rows =
                view.report.exceptions.iter().map(|e| vec![grouped(e.count), e.message.clone(), e.traceback.clone()]);
            table(out, &["#Count", "~Message", "~Traceback"], rows, None);
        });
    }
    section(&mut out, "Charts", |out| {
        let without = "<noscript><p class=\"under\">The charts need scripts; the tables do not.</p></noscript>";
        let _ = write!(out, "<div id=\"charts\" class=\"charts\"></div>{without}");
    });
    section(&mut out, "Ratio", |out| {
        out.push_str("<div class=\"ratios\">");
        for (title, total) in [("Ratio per class", false), ("Total ratio", true)] {
            let _ = write!(out, "<div class=\"card\"><h2>{title}</h2>");
            ratios(out, &view.shares, total);
            out.push_str("</div>");
        }
        out.push_str("</div>");
    });
    let seconds = embedded(&json!(*view.seconds));
    let _ = write!(
        out,
        "</main>\n<script type=\"application/json\" id=\"seconds\">{seconds}</script>\n<script>{CHARTS_JS}</script>\n\
         <script>{SCRIPT}</script>\n</body>\n</html>\n"
    );
    out
}

fn facts(out: &mut String, view: &LoadView) {
    let (r, t) = (&view.report, &view.report.totals);
    let mut all: Vec<(&str, String)> = Vec::new();
    if let Some(start) = view.start_wall_s {
        let end = view.end_wall_s.unwrap_or(start);
        all.push(("During", format!("{} to {} UTC ({:.1} s)", utc(start), utc(end), t.duration_s)));
    }
    all.push(("Host", view.asked.host.clone().unwrap_or_else(|| "of each class".to_owned())));
    all.push(("Scenario", view.scenario.clone()));
    let users = if r.model == "open" { "tasks at once" } else { "users" };
    let asked = view.asked.schedule.clone().map_or_else(String::new, |s| format!(", {s}"));
    all.push(("Load", format!("{} {users} at most{asked}", grouped(u64::from(t.peak_users)))));
    if let (Some(asked), Some(made)) = (t.arrivals_asked, t.arrivals_made) {
        all.push(("Arrivals", format!("{} of {} made", grouped(made), grouped(asked))));
    }
    all.push(("Times", "from when a request was due; service from when it was sent".to_owned()));
    for (name, s) in
        [("Service", &r.service_ms), ("First byte", &r.first_byte_ms), ("Generator's own delay", &r.lag_ms)]
    {
        if s.p50.is_some() {
            let line =
                format!("median {}, 95 % {}, 99 % {}, longest {} ms", ms(s.p50), ms(s.p95), ms(s.p99), ms(s.max));
            all.push((name, line));
        }
    }
    let _ = write!(out, "<dl class=\"report-facts\">");
    for (name, value) in all {
        let _ = write!(out, "<dt>{}</dt><dd>{}</dd>", text(name), text(&value));
    }
    out.push_str("</dl>\n");
}

fn section(out: &mut String, title: &str, fill: impl FnOnce(&mut String)) {
    let _ = write!(out, "<section><h2>{}</h2>", text(title));
    fill(out);
    out.push_str("</section>\n");
}

/// A table; heads that begin with `#` are of numbers, with `~` of long texts, and lose that. `foot` is its last row.
fn table(out: &mut String, heads: &[&str], rows: impl Iterator<Item = Vec<String>>, foot: Option<Vec<String>>) {
    out.push_str("<div class=\"wide\"><table><thead><tr>");
    let class = |i: usize| match heads.get(i) {
        Some(head) if head.starts_with('#') => "n",
        Some(head) if head.starts_with('~') => "text",
        Some(&"Name") => "name-cell",
        _ => "",
    };
    for (i, head) in heads.iter().enumerate() {
        let _ =
            write!(out, "<th scope=\"col\" class=\"{}\">{}</th>", class(i), text(head.trim_start_matches(['#', '~'])));
    }
    out.push_str("</tr></thead><tbody>");
    let row = |out: &mut String, cells: &[String]| {
        out.push_str("<tr>");
        for (i, cell) in cells.iter().enumerate() {
            let _ = write!(out, "<td class=\"{}\">{}</td>", class(i), text(cell));
        }
        out.push_str("</tr>");
    };
    for cells in rows {
        row(out, &cells);
    }
    out.push_str("</tbody>");
    if let Some(cells) = foot {
        out.push_str("<tfoot>");
        row(out, &cells);
        out.push_str("</tfoot>");
    }
    out.push_str("</table></div>");
}

fn statistics(out: &mut String, view: &LoadView) {
    let r = &view.report;
    let seconds = r.totals.duration_s;
    let rate = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
    let row = |method: &str, name: &str, n: u64, failed: u64, l: &Spread, service: &Spread, bytes: u64| {
        let size = (n > 0).then(|| bytes as f64 / n as f64);
        vec![
            method.to_owned(),
            name.to_owned(),
            grouped(n),
            grouped(failed),
            ms(l.mean),
            ms(l.min),
            ms(l.max),
            ms(service.mean),
            ms(size),
            ms(Some(rate(n))),
            ms(Some(rate(failed))),
        ]
    };
    let heads = [
        "Method",
        "Name",
        "#Requests",
        "#Fails",
        "#Average (ms)",
        "#Min (ms)",
        "#Max (ms)",
        "#Service (ms)",
        "#Average size (bytes)",
        "#RPS",
        "#Failures/s",
    ];
    let rows = r
        .by_name
        .iter()
        .map(|e: &Endpoint| row(&e.method, &e.name, e.requests, e.failures, &e.latency_ms, &e.service_ms, e.bytes));
    let t = &r.totals;
    let all = row("", "Aggregated", t.requests, t.failures, &r.latency_ms, &r.service_ms, t.bytes);
    table(out, &heads, rows, Some(all));
}

fn percentiles(out: &mut String, view: &LoadView) {
    let r = &view.report;
    let names: Vec<String> = LOCUST_PERCENTILES.iter().map(|p| format!("#{p}%ile")).collect();
    let heads: Vec<&str> = ["Method", "Name"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let row = |method: &str, name: &str, all: &[Option<f64>]| {
        [method.to_owned(), name.to_owned()].into_iter().chain(all.iter().map(|p| ms(*p))).collect::<Vec<_>>()
    };
    let rows = r.by_name.iter().map(|e| row(&e.method, &e.name, &e.percentiles));
    table(out, &heads, rows, Some(row("", "Aggregated", &r.percentiles)));
}

fn targets(out: &mut String, view: &LoadView) {
    let rows = view.report.targets.iter().map(|t| {
        let grade = match t.grade {
            Grade::Target => "target",
            Grade::Acceptable => "acceptable",
            Grade::Missed => "missed",
        };
        let value = t.value.map_or_else(|| "not measured".to_owned(), |v| format!("{} {}", ms(Some(v)), t.unit));
        let sign = if t.above { ">" } else { "<" };
        let acceptable = t.acceptable.map_or_else(String::new, |a| format!("{sign} {} {}", ms(Some(a)), t.unit));
        let name = t.name.as_ref().map_or_else(|| t.metric.clone(), |n| format!("{n} {}", t.metric));
        vec![grade.to_owned(), name, value, format!("{sign} {} {}", ms(Some(t.target)), t.unit), acceptable]
    });
    table(out, &["Grade", "Metric", "#Value", "#Target", "#Acceptable"], rows, None);
}

fn failures(out: &mut String, errors: &[ErrorRow]) {
    let rows = errors
        .iter()
        .take(ERRORS)
        .map(|e| vec![grouped(e.count), e.method.clone(), e.name.clone(), e.error.clone(), e.kind.clone()]);
    table(out, &["#Failures", "Method", "Name", "~Message", "Kind"], rows, None);
    if errors.len() > ERRORS {
        let _ = write!(out, "<p class=\"under\">And {} more kinds.</p>", grouped((errors.len() - ERRORS) as u64));
    }
}

fn ratios(out: &mut String, classes: &[ClassShare], total: bool) {
    out.push_str("<ul>");
    for c in classes {
        share(out, &c.name, c.ratio);
        tasks(out, &c.tasks, if total { c.ratio } else { 1.0 }, total);
        out.push_str("</li>");
    }
    out.push_str("</ul>");
}

fn tasks(out: &mut String, all: &[TaskShare], parent: f64, total: bool) {
    if all.is_empty() {
        return;
    }
    out.push_str("<ul>");
    for t in all {
        share(out, &t.name, t.ratio * parent);
        tasks(out, &t.tasks, if total { t.ratio * parent } else { 1.0 }, total);
        out.push_str("</li>");
    }
    out.push_str("</ul>");
}

fn share(out: &mut String, name: &str, ratio: f64) {
    let _ = write!(out, "<li><div class=\"ratio\"><b>{:.1} %</b><span>{}</span></div>", ratio * 100.0, text(name));
}

/// A number with three digits, `–` for none.
fn ms(v: Option<f64>) -> String {
    match v {
        None => "–".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(v) if v >= 99.95 => grouped(v.round() as u64),
        Some(v) if v >= 9.995 => format!("{v:.1}"),
        Some(v) => format!("{v:.2}"),
    }
}

/// Text as HTML; what would steer a terminal or hide is shown as a blank.
fn text(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push('\n'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::load::{LoadReport, Second, Totals};

    #[test]
    fn a_report_is_whole_and_texts_stay_texts() {
        let evil = "</script><img src=x onerror=alert(1)>";
        let endpoint =
            Endpoint { name: evil.into(), requests: 2, percentiles: vec![Some(1.5); 11], ..Endpoint::default() };
        let error = ErrorRow { name: evil.into(), error: evil.into(), count: 1, ..ErrorRow::default() };
        let task = TaskShare { name: evil.into(), ratio: 0.5, tasks: Vec::new() };
        let view = LoadView {
            scenario: evil.into(),
            report: LoadReport {
                totals: Totals { requests: 2, failures: 1, duration_s: 2.0, ..Totals::default() },
                by_name: vec![endpoint],
                errors: vec![error],
                marks: vec![evil.into()],
                percentiles: vec![None; 11],
                ..LoadReport::default()
            },
            shares: vec![ClassShare { name: evil.into(), ratio: 0.5, tasks: vec![task] }],
            seconds: std::sync::Arc::new(vec![Second::default()]),
            start_wall_s: Some(0),
            ..LoadView::default()
        };
        let page = load_html(&view, "dark");
        assert!(!page.contains("<img") && page.contains("&lt;img"));
        assert_eq!((page.matches("<script").count(), page.matches("</script>").count()), (3, 3));
        for part in
            ["data-theme=\"dark\"", "1970-01-01 00:00:00", "Aggregated", "25.0 %", "50.0 %", "1.50", "99.99%ile"]
        {
            assert!(page.contains(part), "{part}");
        }
        assert!(!page.contains("http://") && !page.contains("https://"), "it loads nothing");
    }
}
