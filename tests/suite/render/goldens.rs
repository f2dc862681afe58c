//! Every renderer's output of the hand-built service, byte for byte.

use std::path::PathBuf;

use perfkit::analysis::{Detail, Layers, Profile, Selection, Split};
use perfkit::render::{Format, Growth, Options, render};

use super::service;

/// `profile` as `format`.
pub fn rendered(selection: &Selection, options: &Options, format: Format) -> Vec<u8> {
    let rec = service::recording();
    let profile = Profile::new(&rec, selection).unwrap();
    let mut out = Vec::new();
    render(&profile, options, format, &mut out).unwrap();
    out
}

/// Compares with the golden file, or writes it when `PERFKIT_BLESS` is set.
fn golden(name: &str, got: &str) {
    let got = got.replace(env!("CARGO_PKG_VERSION"), "VERSION");
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/render").join(name);
    if std::env::var_os("PERFKIT_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &got).unwrap();
        return;
    }
    let want = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}; bless it with PERFKIT_BLESS=1"));
    if let Some((n, (want, got))) = want.lines().zip(got.lines()).enumerate().find(|(_, (a, b))| a != b) {
        panic!("{name} line {} differs:\n want {want}\n  got {got}", n + 1);
    }
    assert_eq!(want.len(), got.len(), "{name} is longer or shorter");
}

fn text(selection: &Selection, options: &Options, format: Format) -> String {
    String::from_utf8(rendered(selection, options, format)).unwrap()
}

/// An SVG without inferno's script and style, which are not ours to keep, an element a line.
fn bare(svg: &str) -> String {
    let mut rest = svg;
    let mut out = String::new();
    for tag in ["style", "script"] {
        let (before, after) = rest.split_once(&format!("<{tag}")).unwrap();
        out.push_str(before);
        rest = after.split_once(&format!("</{tag}>")).unwrap().1;
    }
    out.push_str(rest);
    let comment = out.find("<!--Flame").unwrap();
    let end = comment + out[comment..].find("-->").unwrap() + 3;
    out.replace_range(comment..end, "");
    out.replace("><", ">\n<")
}

#[test]
fn svg() {
    golden("cpu.svg.txt", &bare(&text(&Selection::cpu(), &Options::default(), Format::Svg)));
    let icicle = Options { growth: Growth::Icicle, title: Some("Saturday's raid".into()), ..Options::default() };
    let split = Split { processes: true, threads: true };
    golden("wall-icicle.svg.txt", &bare(&text(&Selection { split, ..Selection::wall() }, &icicle, Format::Svg)));
}

#[test]
fn folded() {
    let plain = Options::default();
    golden("cpu.folded", &text(&Selection::cpu(), &plain, Format::Folded));
    golden("wall.folded", &text(&Selection::wall(), &plain, Format::Folded));
    let python = Selection { layers: Layers::PYTHON, detail: Detail::Definition, ..Selection::cpu() };
    golden("python-function.folded", &text(&python, &plain, Format::Folded));
}

#[test]
fn json() {
    golden("wall.json", &pretty(&text(&Selection::wall(), &Options::default(), Format::Json)));
}

/// JSON with a field a line, so that a difference can be read.
fn pretty(json: &str) -> String {
    json.replace("},{", "},\n{").replace(":[{", ":[\n{").replace("],\"", "],\n\"")
}

#[test]
fn table() {
    golden("cpu.txt", &text(&Selection::cpu(), &Options::default(), Format::Text));
    let narrow = Options { rows: 6, width: 72, ..Options::default() };
    let slice = perfkit::analysis::Slice { from: Some("-4s".parse().unwrap()), to: None };
    golden("wall-slice.txt", &text(&Selection { slice, ..Selection::wall() }, &narrow, Format::Text));
    let color = Options { color: true, rows: 4, ..Options::default() };
    golden("gil-color.txt", &text(&Selection::gil(), &color, Format::Text));
}
