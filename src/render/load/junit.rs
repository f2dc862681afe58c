//! JUnit XML: a test case for each target, for each endpoint, for each comparison with an earlier run, and for a rule that
//! ended the run. Elements and attributes are those that both common schemas know: Ant's (JUnit.xsd, which knows few) and
//! Jenkins' (junit-10.xsd); so the numbers of cases that did not fail stand in the suite's output.

use std::fmt::Write;

use super::text::{amount, target};
use super::verdict::words;
use crate::record::load::{Grade, LoadReport, Verdict};
use crate::units::utc;

/// A test case.
struct Case {
    class: &'static str,
    name: String,
    seconds: f64,
    /// Message and text of its failure.
    failure: Option<(String, String)>,
    out: String,
}

/// The document. `since` is the wall-clock time of the start, seconds since 1970.
pub fn junit(r: &LoadReport, start_wall_s: i64) -> String {
    let cases = cases(r);
    let failures = cases.iter().filter(|c| c.failure.is_some()).count();
    let (n, seconds) = (cases.len(), r.totals.duration_s);
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n\
         <testsuite name=\"perfkit load\" package=\"perfkit.load\" id=\"0\" tests=\"{n}\" failures=\"{failures}\" errors=\"0\" \
         skipped=\"0\" time=\"{seconds:.3}\" timestamp=\"{}\" hostname=\"localhost\">\n<properties>\n",
        timestamp(start_wall_s)
    );
    let t = &r.totals;
    for (name, value) in [
        ("requests", t.requests.to_string()),
        ("failures", t.failures.to_string()),
        ("rps", format!("{:.3}", t.rps)),
        ("model", r.model.clone()),
    ] {
        let _ = writeln!(out, "<property name=\"{name}\" value=\"{}\"/>", escaped(&value));
    }
    out.push_str("</properties>\n");
    for case in &cases {
        let (name, class) = (escaped(&case.name), case.class);
        let _ = write!(out, "<testcase name=\"{name}\" classname=\"{class}\" time=\"{:.6}\">", case.seconds);
        if let Some((message, text)) = &case.failure {
            let _ =
                write!(out, "<failure message=\"{}\" type=\"{class}\">{}</failure>", escaped(message), escaped(text));
        }
        out.push_str("</testcase>\n");
    }
    let numbers = cases.iter().filter(|c| !c.out.is_empty()).map(|c| format!("{}: {}", c.name, c.out));
    let said: Vec<String> = r.marks.iter().map(|m| format!("! {m}")).chain(numbers).collect();
    let _ = write!(out, "<system-out>{}</system-out>\n<system-err></system-err>\n", escaped(&said.join("\n")));
    out.push_str("</testsuite>\n</testsuites>\n");
    out
}

fn cases(r: &LoadReport) -> Vec<Case> {
    let mut cases = Vec::new();
    for t in &r.targets {
        let name = format!("{} {}", t.name.as_deref().unwrap_or("all"), t.metric);
        let seconds = if t.unit == "ms" { t.value.unwrap_or_default() / 1e3 } else { 0.0 };
        let failure = (t.grade == Grade::Missed).then(|| (target(t), target(t)));
        cases.push(Case { class: "perfkit.load.target", name, seconds, failure, out: target(t) });
    }
    for e in &r.by_name {
        let own = r.errors.iter().filter(|x| x.method == e.method && x.name == e.name);
        let errors: Vec<String> = own.map(|x| format!("{} times {}: {}", x.count, x.kind, x.error)).collect();
        // An endpoint is judged by its targets where it has some or the run has one on errors; without any, by its errors.
        let named = |t: &crate::record::load::Graded| {
            t.metric == "errors"
                && t.name.as_ref().is_none_or(|n| *n == e.name || *n == format!("{} {}", e.method, e.name))
        };
        let graded = r.targets.iter().find(|t| named(t) && t.name.is_some()).or(r.targets.iter().find(|t| named(t)));
        let share = if e.requests > 0 { 100.0 * e.failures as f64 / e.requests as f64 } else { 0.0 };
        let allowed = graded.map_or(0.0, |t| t.acceptable.unwrap_or(t.target));
        let failure = (e.failures > 0 && share >= allowed).then(|| {
            (format!("{} of {} requests failed ({})", e.failures, e.requests, amount(share, "%")), errors.join("\n"))
        });
        let p = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| amount(v, "ms"));
        let l = &e.latency_ms;
        let out = format!(
            "{} requests, {} failed, {}, p50 {}, p95 {}, p99 {}, max {}",
            e.requests,
            e.failures,
            amount(e.rps, "/s"),
            p(l.p50),
            p(l.p95),
            p(l.p99),
            p(l.max)
        );
        let name = format!("{} {}", e.method, e.name);
        let seconds = l.mean.unwrap_or_default() / 1e3;
        cases.push(Case { class: "perfkit.load.endpoint", name, seconds, failure, out });
    }
    if let Some(c) = &r.baseline {
        for change in &c.changes {
            let name = format!("{} {}", change.name.as_deref().unwrap_or("all"), change.metric);
            let failure = (change.verdict == Verdict::Worse).then(|| (words(change), c.method.clone()));
            cases.push(Case { class: "perfkit.load.baseline", name, seconds: 0.0, failure, out: words(change) });
        }
    }
    if let Some(why) = &r.stopped {
        let failure = Some((why.clone(), why.clone()));
        let name = "runs to its end".to_owned();
        cases.push(Case { class: "perfkit.load.stop-on", name, seconds: 0.0, failure, out: String::new() });
    }
    cases
}

/// Text for elements and attributes; what XML 1.0 cannot have at all becomes U+FFFD.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            '\t' => out.push(c),
            c if c.is_control() || c == '\u{fffe}' || c == '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// `2026-11-24T04:19:03`, UTC, as the schemas have it.
fn timestamp(seconds: i64) -> String {
    utc(seconds).replace(' ', "T")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::load::{Endpoint, ErrorRow, Graded, Totals};

    #[test]
    fn each_target_and_each_endpoint_is_a_case() {
        let endpoint = |name: &str, failures| Endpoint {
            method: "GET".into(),
            name: name.into(),
            requests: 1000,
            failures,
            ..Endpoint::default()
        };
        let error = ErrorRow {
            method: "GET".into(),
            name: "/<b>".into(),
            error: "status \u{1} 500 & more".into(),
            count: 20,
            ..ErrorRow::default()
        };
        let r = LoadReport {
            totals: Totals { requests: 2000, duration_s: 1.5, ..Totals::default() },
            by_name: vec![endpoint("/a", 5), endpoint("/<b>", 20)],
            errors: vec![error],
            targets: vec![
                Graded {
                    metric: "p95".into(),
                    unit: "ms".into(),
                    value: Some(48.0),
                    target: 20.0,
                    ..Graded::default()
                },
                Graded {
                    metric: "errors".into(),
                    unit: "%".into(),
                    value: Some(0.5),
                    target: 0.1,
                    acceptable: Some(1.0),
                    grade: Grade::Acceptable,
                    ..Graded::default()
                },
            ],
            stopped: Some("p95 was 3".into()),
            ..LoadReport::default()
        };
        let text = junit(&r, 1_795_500_000);
        assert!(text.contains("tests=\"5\" failures=\"3\" errors=\"0\""), "{text}");
        assert!(text.contains("name=\"GET /&lt;b&gt;\""), "{text}");
        assert!(text.contains("\u{fffd} 500 &amp; more"), "{text}");
        assert!(text.contains("timestamp=\"2026-11-24T06:00:00\""), "{text}");
        assert_eq!(timestamp(951_782_400), "2000-02-29T00:00:00");
        assert_eq!(timestamp(0), "1970-01-01T00:00:00");
    }
}
