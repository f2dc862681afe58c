//! The curve as a picture: resident memory stacked by kind, the sum as a line, the limit, and what happened.
//!
//! Invariants: no script, no font of its own, no colour that carries a meaning alone (each layer has its name beside it and
//! a hatching of its own); it follows the reader's light or dark scheme.

use std::fmt::Write;

use super::MemOptions;
use crate::analysis::memory::{Judged, Layers, MemoryView};
use crate::record::series as names;
use crate::units::Bytes;

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 480.0;
/// The plot: left, top, right, bottom.
const LEFT: f64 = 80.0;
const TOP: f64 = 70.0;
const RIGHT: f64 = 800.0;
const BOTTOM: f64 = 430.0;
/// Moments at most: more than the plot has pixels across show nothing.
const POINTS: usize = 480;
/// Marks at most.
const MARKS: usize = 20;

/// Fill and hatching (its angle, 0 none) of each layer, by its title. Colours that are told apart with any colour vision
/// (Okabe and Ito 2008).
const LOOKS: [(&str, &str, u32); 8] = [
    ("files", "#999999", 0),
    ("shared memory", "#cc79a7", 45),
    ("files, written pages", "#f0e442", 0),
    ("stacks", "#d55e00", 135),
    ("other anonymous", "#56b4e9", 0),
    ("glibc thread arenas", "#009e73", 45),
    ("heap (brk)", "#0072b2", 135),
    ("anonymous", "#56b4e9", 0),
];

const STYLE: &str = "\
svg{background:#fff;color:#222;font:13px system-ui,sans-serif}\
text{fill:currentColor}.axis{stroke:currentColor;stroke-opacity:.25}.line{fill:none;stroke:currentColor;stroke-width:2}\
.limit{stroke:#d00;stroke-width:2;stroke-dasharray:8 5}.mark{stroke:currentColor;stroke-opacity:.6;stroke-dasharray:2 3}\
.hatch{stroke:#fff;stroke-opacity:.55;stroke-width:2}.small{font-size:11px}.title{font-size:17px;font-weight:600}\
@media(prefers-color-scheme:dark){svg{background:#16181c;color:#e6e6e6}.limit{stroke:#ff6b6b}.hatch{stroke:#16181c}}";

pub(super) fn svg(view: &MemoryView, judged: &Judged, options: &MemOptions) -> String {
    let layers = view.layers(POINTS);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n\
         <style>{STYLE}</style>\n"
    );
    let title = format!("Memory of {}", options.target);
    let _ = writeln!(out, "<title>{}</title>", escaped(&title));
    hatches(&mut out);
    let _ = writeln!(out, "<text class=\"title\" x=\"20\" y=\"28\">{}</text>", escaped(&shortened(&title, 95)));
    let _ = writeln!(out, "<text x=\"20\" y=\"50\">{}</text>", escaped(&subtitle(view, judged)));
    let (Some(first), Some(last)) = (layers.times.first().copied(), layers.times.last().copied()) else {
        out.push_str("<text x=\"20\" y=\"90\">no memory was read</text>\n</svg>\n");
        return out;
    };
    let peak = layers.rss.iter().copied().fold(1.0, f64::max);
    let limit = view.cgroup.get(names::CGROUP_LIMIT).and_then(|p| p.last()).map(|p| p.1);
    // A limit far above the curve would press it flat; it is told in words then.
    let shown = limit.filter(|l| *l < peak * 3.0);
    let step = nice(shown.unwrap_or(0.0).max(peak) * 1.05 / 5.0);
    let top = step * (shown.unwrap_or(0.0).max(peak) * 1.05 / step).ceil();
    let span = last.since(first).max(1) as f64;
    let x = |at: crate::clock::Mono| LEFT + (RIGHT - LEFT) * (at.since(first) as f64 / span).min(1.0);
    let y = |bytes: f64| BOTTOM - (BOTTOM - TOP) * (bytes / top).clamp(0.0, 1.0);
    axes(&mut out, step, top, span / 1e9, y);
    areas(&mut out, &layers, x, y);
    let line: Vec<String> =
        layers.times.iter().zip(&layers.rss).map(|(t, v)| format!("{:.1},{:.1}", x(*t), y(*v))).collect();
    let _ = writeln!(out, "<polyline class=\"line\" points=\"{}\"/>", line.join(" "));
    if let Some(limit) = limit {
        let (at, text) = if shown.is_some() {
            let at = y(limit);
            let _ = writeln!(out, "<line class=\"limit\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
            (at - 5.0, format!("limit {}", Bytes(limit as u64)))
        } else {
            (TOP + 12.0, format!("limit {} (far above)", Bytes(limit as u64)))
        };
        let _ = writeln!(out, "<text class=\"small\" x=\"{}\" y=\"{at:.1}\">{text}</text>", LEFT + 6.0);
    }
    let marks = view.marks.iter().filter(|m| !matches!(m.1.as_str(), "start" | "stop") && m.0 >= first && m.0 <= last);
    for (i, (at, _, text)) in marks.take(MARKS).enumerate() {
        let (x, y) = (x(*at), TOP + 12.0 + 13.0 * (i % 5) as f64);
        let _ = writeln!(out, "<line class=\"mark\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\"/>");
        // To the left of its line where there is no room to the right.
        let (at, anchor) = if x > LEFT.midpoint(RIGHT) { (x - 4.0, "end") } else { (x + 4.0, "start") };
        let text = escaped(&shortened(text, 40));
        let _ =
            writeln!(out, "<text class=\"small\" x=\"{at:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
    }
    legend(&mut out, &layers);
    out.push_str("</svg>\n");
    out
}

fn subtitle(view: &MemoryView, judged: &Judged) -> String {
    let Some((start, end)) = view.ends() else { return String::new() };
    let sized = |v: f64| Bytes(v.max(0.0) as u64).to_string();
    let rate = view
        .slope()
        .map_or_else(String::new, |s| format!(" · {}{}/s", if s < 0.0 { "-" } else { "+" }, Bytes(s.abs() as u64)));
    let verdict =
        if judged.verdict == "unknown" { String::new() } else { format!(" · {} ({})", judged.verdict, judged.kind) };
    let lost = if view.lost > 0 { format!(" · {} ticks missed", view.lost) } else { String::new() };
    format!("RSS {} → {} in {:.0} s{rate}{verdict}{lost}", sized(start), sized(end), view.seconds(view.end))
}

fn look(title: &str) -> (usize, &'static str, u32) {
    let found = LOOKS.iter().position(|l| l.0 == title).unwrap_or(0);
    LOOKS.get(found).map_or((0, "#999999", 0), |l| (found, l.1, l.2))
}

fn hatches(out: &mut String) {
    out.push_str("<defs>");
    for (i, (_, color, angle)) in LOOKS.iter().enumerate() {
        let _ = write!(
            out,
            "<pattern id=\"p{i}\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate({angle})\">\
             <rect width=\"8\" height=\"8\" fill=\"{color}\"/>"
        );
        if *angle > 0 {
            out.push_str("<line class=\"hatch\" x1=\"0\" y1=\"0\" x2=\"0\" y2=\"8\"/>");
        }
        out.push_str("</pattern>");
    }
    out.push_str("</defs>\n");
}

fn axes(out: &mut String, step: f64, top: f64, seconds: f64, y: impl Fn(f64) -> f64) {
    let mut bytes = 0.0;
    while bytes <= top * 1.001 {
        let at = y(bytes);
        let _ = writeln!(out, "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        let text = if bytes == 0.0 { "0".to_owned() } else { Bytes(bytes as u64).to_string() };
        let _ = writeln!(
            out,
            "<text class=\"small\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            LEFT - 6.0,
            at + 4.0
        );
        bytes += step;
    }
    let tick = nice(seconds / 8.0);
    let mut t = 0.0;
    while tick > 0.0 && t <= seconds * 1.001 {
        let at = LEFT + (RIGHT - LEFT) * t / seconds;
        let text = if seconds < 10.0 { format!("{t:.1} s") } else { format!("{t:.0} s") };
        let _ = writeln!(
            out,
            "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{BOTTOM}\" y2=\"{}\"/>",
            BOTTOM + 5.0
        );
        let _ = writeln!(
            out,
            "<text class=\"small\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
            BOTTOM + 20.0
        );
        t += tick;
    }
}

fn areas(out: &mut String, layers: &Layers, x: impl Fn(crate::clock::Mono) -> f64, y: impl Fn(f64) -> f64) {
    let mut floor = vec![0.0; layers.times.len()];
    for (title, values) in &layers.layers {
        let ceiling: Vec<f64> = floor.iter().zip(values).map(|(f, v)| f + v).collect();
        let up = layers.times.iter().zip(&ceiling).map(|(t, v)| format!("{:.1},{:.1}", x(*t), y(*v)));
        let back = layers.times.iter().zip(&floor).rev().map(|(t, v)| format!("{:.1},{:.1}", x(*t), y(*v)));
        let points: Vec<String> = up.chain(back).collect();
        let (i, ..) = look(title);
        let _ = writeln!(
            out,
            "<polygon fill=\"url(#p{i})\" points=\"{}\"><title>{title}</title></polygon>",
            points.join(" ")
        );
        floor = ceiling;
    }
}

/// Names and sizes beside the plot, the topmost layer first.
fn legend(out: &mut String, layers: &Layers) {
    let x = RIGHT + 16.0;
    let mut y = TOP + 8.0;
    let last = layers.rss.last().copied().unwrap_or(0.0);
    let _ = writeln!(out, "<line class=\"line\" x1=\"{x}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\"/>", x + 14.0);
    let _ = writeln!(out, "<text x=\"{}\" y=\"{}\">RSS {}</text>", x + 20.0, y + 4.0, Bytes(last as u64));
    for (title, values) in layers.layers.iter().rev() {
        y += 36.0;
        let (i, ..) = look(title);
        let _ = writeln!(out, "<rect x=\"{x}\" y=\"{}\" width=\"14\" height=\"14\" fill=\"url(#p{i})\"/>", y - 11.0);
        let size = Bytes(values.last().copied().unwrap_or(0.0) as u64);
        let _ = writeln!(out, "<text x=\"{}\" y=\"{y}\">{title}</text>", x + 20.0);
        let _ = writeln!(out, "<text class=\"small\" x=\"{}\" y=\"{}\">{size}</text>", x + 20.0, y + 14.0);
    }
}

/// The next 1, 2 or 5 times a power of ten.
fn nice(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * power >= value * 0.999).unwrap_or(10.0);
    factor * power
}

fn shortened(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit { text.to_owned() } else { text.chars().take(limit - 1).chain(['…']).collect() }
}

fn escaped(text: &str) -> String {
    let clean = text.chars().filter(|c| !c.is_control());
    clean.collect::<String>().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::memory::{judge, tests::grown};

    #[test]
    fn the_picture_has_every_layer_the_limit_and_the_marks() {
        let view = grown();
        let options = MemOptions { target: "a <b> & c".into(), ..MemOptions::default() };
        let text = svg(&view, &judge(&view), &options);
        for wanted in
            ["Memory of a &lt;b&gt; &amp; c", "limit 200.0 MB", "process 8 ended", "heap (brk)", "other anonymous"]
        {
            assert!(text.contains(wanted), "{wanted}");
        }
        assert_eq!(text.matches("<polygon").count(), 3);
        assert!(!text.contains("NaN") && !text.contains("inf"));
        let empty = svg(&MemoryView::default(), &judge(&MemoryView::default()), &options);
        assert!(empty.contains("no memory was read") && empty.ends_with("</svg>\n"));
        assert_eq!([0.3, 1.0, 3.0, 70.0].map(|v| (nice(v) * 10.0).round() as u64), [5, 10, 50, 1000]);
    }
}
