//! The flame graph: one SVG file with search and zoom, drawn by inferno, coloured by where a frame comes from.
//!
//! Widths are time. The title says which clock, who, how many samples, at which rate and what was lost; the line below it
//! how good the stacks are; a strip at the bottom explains the colours. A function has the same colour in every picture.
//! Limit: branches narrower than 0.05 % are not drawn (their time stays in the width of their callers).

use std::fmt::Write as _;
use std::io::{self, Write};

use inferno::flamegraph::color::{BackgroundColor, Color, PaletteMap, SearchColor};
use inferno::flamegraph::{self, Direction, TextTruncateDirection};

use super::facts::{self, clean, pct};
use super::{Growth, Options};
use crate::analysis::{CallTree, Profile, Tone, Unit};
use crate::record::FrameKind;
use crate::units::Bytes;

/// Branches narrower than this share of the whole are left to their callers.
const NARROWEST: f64 = 0.0005;
/// What a search paints its matches with.
const SEARCH: &str = "#ff5fd2";
/// Width of the picture before a browser makes it as wide as its window, px.
const WIDTH: usize = 1200;
/// Height of the strip at the bottom, px.
const STRIP: usize = 26;

/// Hue (degrees), saturation and lightness (percent) of a tone, and how far hue and lightness wander with the name.
struct Paint {
    hue: f64,
    saturation: f64,
    lightness: f64,
    hue_range: f64,
    lightness_range: f64,
}

/// The tones in the order of the legend, with their words.
const LEGEND: [(Tone, &str); 6] = [
    (Tone::Code(FrameKind::Python), "Python"),
    (Tone::Code(FrameKind::Native), "native"),
    (Tone::Code(FrameKind::Kernel), "kernel"),
    (Tone::Code(FrameKind::Jit), "JIT"),
    (Tone::Wait, "waits for"),
    (Tone::Code(FrameKind::Label), "remark"),
];

fn paint(tone: Tone) -> Paint {
    let (hue, saturation, lightness, hue_range, lightness_range) = match tone {
        Tone::Code(FrameKind::Python) => (44.0, 92.0, 66.0, 14.0, 12.0),
        Tone::Code(FrameKind::Native) => (207.0, 62.0, 77.0, 18.0, 10.0),
        Tone::Code(FrameKind::Kernel) => (8.0, 78.0, 77.0, 12.0, 8.0),
        Tone::Code(FrameKind::Jit) => (145.0, 45.0, 72.0, 20.0, 8.0),
        Tone::Wait => (272.0, 48.0, 82.0, 16.0, 6.0),
        Tone::Code(FrameKind::Label) => (0.0, 0.0, 80.0, 0.0, 4.0),
        Tone::Root => (0.0, 0.0, 90.0, 0.0, 0.0),
    };
    Paint { hue, saturation, lightness, hue_range, lightness_range }
}

/// The colour of a name: its tone's, shifted a little by the name, so that neighbours can be told apart.
fn color(name: &str, tone: Tone) -> Color {
    // The line belongs to the function: `f (a.py:3)` and `f (a.py:7)` share a colour.
    let function = match tone {
        Tone::Code(FrameKind::Python) => name.rsplit_once(':').map_or(name, |(function, _)| function),
        _ => name,
    };
    // FNV-1a: the colours are the same with every compiler.
    let hash =
        function.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let hash = hash ^ (hash >> 32);
    let wander = |bits: u64, range: f64| ((bits & 0xff) as f64 / 255.0 - 0.5) * range;
    let p = paint(tone);
    rgb(
        p.hue + wander(hash, p.hue_range),
        p.saturation / 100.0,
        (p.lightness + wander(hash >> 8, p.lightness_range)) / 100.0,
    )
}

/// HSL (degrees, 0..1, 0..1) as RGB.
fn rgb(hue: f64, saturation: f64, lightness: f64) -> Color {
    let a = saturation * lightness.min(1.0 - lightness);
    let channel = |n: f64| {
        let k = (n + hue / 30.0).rem_euclid(12.0);
        let value = lightness - a * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0);
        (value * 255.0).round() as u8
    };
    Color { r: channel(0.0), g: channel(8.0), b: channel(4.0) }
}

/// Writes `profile` as a flame graph.
pub(super) fn write(profile: &Profile<'_>, options: &Options, out: &mut dyn Write) -> io::Result<()> {
    let title = clean(options.title.as_ref().unwrap_or(&facts::title(profile)));
    if profile.samples == 0 {
        return out.write_all(nothing(&title, profile).as_bytes());
    }
    let unit = if profile.weight_ns > 0 { Unit::Nanos } else { Unit::Samples };
    let tree = CallTree::new(profile, unit);
    let total = tree.node(0).total;
    let mut lines = Vec::new();
    tree.collapsed((total as f64 * NARROWEST) as u64, &mut |stack, weight| {
        let weight = if unit == Unit::Nanos { ((weight + 500) / 1000).max(1) } else { weight };
        lines.push(format!("{stack} {weight}"));
        Ok::<(), io::Error>(())
    })?;

    let mut palette = PaletteMap::default();
    palette.insert("", color("", Tone::Root));
    for (name, tone) in tree.names() {
        palette.insert(name, color(name, tone));
    }
    let mut flame = flamegraph::Options::default();
    flame.title = title;
    flame.subtitle = Some(subtitle(profile));
    flame.direction = match options.growth {
        Growth::Flames => Direction::Straight,
        Growth::Icicle => Direction::Inverted,
    };
    (flame.count_name, flame.factor) = match unit {
        Unit::Samples => ("samples".to_owned(), 1.0),
        // Below a second, milliseconds would all be 0 or 1.
        Unit::Nanos if total < 1_000_000_000 => ("µs".to_owned(), 1.0),
        Unit::Nanos => ("ms".to_owned(), 1e-3),
    };
    flame.palette_map = Some(&mut palette);
    flame.bgcolors = Some(BackgroundColor::Flat(Color { r: 255, g: 255, b: 255 }));
    // Pink that no tone comes near, light enough for black text.
    flame.search_color = SEARCH.parse::<SearchColor>().unwrap_or(flame.search_color);
    // The head of a name tells more than its file.
    flame.text_truncate_direction = TextTruncateDirection::Right;
    flame.min_width = 0.0;
    // Somewhat more than a monospaced character needs, so that no name runs into its neighbour.
    flame.font_width = 0.62;
    flame.frame_height = 17;
    "Frame:".clone_into(&mut flame.name_type);
    flame.notes = format!("{}; perfkit {}", facts::title(profile), env!("CARGO_PKG_VERSION"));
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut flame, lines.iter().map(String::as_str), &mut svg)?;
    let svg = String::from_utf8(svg).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    let present: Vec<Tone> = tree.names().map(|(_, tone)| tone).collect();
    out.write_all(with_strip(&svg, &legend(&present)).as_bytes())
}

/// What the picture says below its title: the slice, CPUs used, how good the stacks are, what perfkit cost.
fn subtitle(profile: &Profile<'_>) -> String {
    let (rates, quality, cost) = (&profile.rates, &profile.quality, &profile.self_cost);
    let mut parts: Vec<String> = facts::slice(profile).into_iter().collect();
    if let Some(cores) = rates.cores_used {
        parts.push(format!("{cores:.2} cores used"));
    }
    let mut say = |what: &str, value: Option<f64>| {
        if let Some(value) = value {
            parts.push(format!("{what} {}", pct(value)));
        }
    };
    say("Python frames in", quality.python_pct());
    say("rooted", quality.rooted_pct());
    say("merged", quality.merged_pct());
    say("truncated", quality.truncated_pct().filter(|p| *p > 0.0));
    if let Some(bound) = rates.bound_of_1_pct {
        parts.push(format!("1 % is ±{bound:.2}"));
    }
    if let Some(cpu) = cost.cpu_pct_of_one_core {
        let memory = cost.rss_bytes.map_or_else(String::new, |b| format!(", {}", Bytes(b)));
        parts.push(format!("perfkit {} of a core{memory}", pct(cpu)));
    }
    parts.join(" · ")
}

/// Squares with words, left to right.
fn legend(present: &[Tone]) -> String {
    let mut out = String::new();
    let mut x = 10;
    for (tone, word) in LEGEND.into_iter().filter(|(tone, _)| present.contains(tone)) {
        let p = paint(tone);
        let c = rgb(p.hue, p.saturation / 100.0, p.lightness / 100.0);
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "<rect x=\"{x}\" y=\"2\" width=\"12\" height=\"12\" rx=\"2\" fill=\"rgb({},{},{})\"/><text x=\"{}\" y=\"12\">{word}</text>",
            c.r,
            c.g,
            c.b,
            x + 17
        );
        x += 17 + 8 * word.len() + 14;
    }
    let _ = write!(
        out,
        "<text x=\"{x}\" y=\"12\" class=\"hint\">width is time · click zooms · Ctrl-F searches · perfkit {}</text>",
        env!("CARGO_PKG_VERSION")
    );
    out
}

/// inferno's picture with a strip below it, and our small changes of style.
fn with_strip(svg: &str, strip: &str) -> String {
    let height: usize = svg
        .split_once("height=\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .and_then(|(digits, _)| digits.parse().ok())
        .unwrap_or(0);
    let taller = height + STRIP;
    // The frames come last, so that everything to be changed lies in the head; a picture is then copied once.
    let (head, frames) = svg.split_at(svg.find("<svg id=\"frames\"").unwrap_or(svg.len()));
    let head = head
        .replacen(&format!("height=\"{height}\" onload"), &format!("height=\"{taller}\" onload"), 1)
        .replacen(&format!("viewBox=\"0 0 {WIDTH} {height}\""), &format!("viewBox=\"0 0 {WIDTH} {taller}\""), 1)
        .replacen(&format!("height=\"{height}\" fill=\"url"), &format!("height=\"{taller}\" fill=\"url"), 1)
        .replacen("</style>", &format!("{STYLE}</style>"), 1);
    // A picture that no script has filled in leaves the lowest frame blank.
    let root = frames.rfind("<title>all (").and_then(|at| frames[at..].find("></text>").map(|end| at + end + 1));
    let (frames, rest) = frames.split_at(root.unwrap_or(frames.len()));
    let all = if root.is_some() { "all" } else { "" };
    format!(
        "{head}<g id=\"legend\" transform=\"translate(0,{})\">{strip}</g>{frames}{all}{rest}",
        height.saturating_sub(2)
    )
}

/// Beside inferno's: thin white seams between frames, calmer captions.
const STYLE: &str = "#title { font-weight:600; }
#subtitle, #details, #matched, #legend text { fill:#444; }
#legend .hint { fill:#888; }
#search { opacity:0.6; }
#frames > g > rect { stroke:#fff; stroke-width:0.25px; stroke-opacity:0.7; }
#frames > g:hover > rect { stroke:#000; stroke-width:0.8px; }
";

/// The picture of a profile without samples: a sentence instead of an empty frame.
fn nothing(title: &str, profile: &Profile<'_>) -> String {
    let escape = |text: &str| clean(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!(
        "<?xml version=\"1.0\" standalone=\"no\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"90\" \
         viewBox=\"0 0 {WIDTH} 90\" font-family=\"monospace\" font-size=\"12\" text-anchor=\"middle\">\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/><text x=\"50%\" y=\"30\" font-size=\"17\" font-weight=\"600\">{}</text>\
         <text x=\"50%\" y=\"58\" fill=\"#444\">{}</text></svg>\n",
        escape(title),
        escape(&facts::why_empty(profile))
    )
}
