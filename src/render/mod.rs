//! From a [`Profile`] to bytes: flame graphs, collapsed stacks, files for other viewers, and the table on the terminal.
//!
//! In: a profile and [`Options`]. Out: one document, written to any `Write`. Invariant: a renderer reads nothing but the
//! profile and writes nothing but the document; the same profile gives the same bytes. Loss is said where it can be
//! seen: the first line of the table, the title of the picture, a field of each file that has room for it.

mod dump;
mod facts;
mod folded;
mod json;
mod load;
mod mem;
mod pprof;
mod pstats;
mod speedscope;
mod svg;
mod text;

use std::io::Write;
use std::path::Path;

pub use dump::{DumpOptions, NativeFrames, dump_json, dump_text};
pub use load::{
    CHARTS_JS, PAGE_CSS, as_locust_rounds, embedded, exceptions_csv, exceptions_json, failures_csv, github_annotations,
    github_summary, history_csv, history_head, history_rows, junit, load_html, load_json, load_page, load_text,
    logs_json, page_json, requests_json, round_recent, round_second, slowest_csv, slowest_text, stats_csv,
    summary_text, task_ratio_text, tasks_json,
};
pub use mem::{MemFormat, MemOptions, render_mem, sparkline};
pub use text::closing_lines;

use crate::analysis::Profile;
use crate::error::{Error, Kind, Result};

/// An output format of `perfkit cpu` and of `perfkit report` on a CPU recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// A flame graph as one SVG file with search and zoom.
    Svg,
    /// Collapsed stacks, a line each: `a;b;c 12`.
    Folded,
    /// speedscope's JSON.
    Speedscope,
    /// pprof's gzipped protocol buffer.
    Pprof,
    /// A file for Python's `pstats.Stats`.
    Pstats,
    /// The result as one JSON document.
    Json,
    /// The table for the terminal.
    Text,
    /// The recording itself; not a rendering, so [`render`] refuses it.
    Perfkit,
}

/// The endings in the order in which they are tried, so that `.speedscope.json` is not taken for `.json`.
const ENDINGS: [(&str, Format); 8] = [
    (".svg", Format::Svg),
    (".folded", Format::Folded),
    (".txt", Format::Folded),
    (".speedscope.json", Format::Speedscope),
    (".pb.gz", Format::Pprof),
    (".pstats", Format::Pstats),
    (".json", Format::Json),
    (".perfkit", Format::Perfkit),
];

/// The names that `--format` takes; the first of a format is the one that is printed.
const NAMES: [(&str, Format); 13] = [
    ("svg", Format::Svg),
    ("flamegraph", Format::Svg),
    ("folded", Format::Folded),
    ("collapsed", Format::Folded),
    ("raw", Format::Folded),
    ("speedscope", Format::Speedscope),
    ("pprof", Format::Pprof),
    ("pstats", Format::Pstats),
    ("json", Format::Json),
    ("text", Format::Text),
    ("table", Format::Text),
    ("perfkit", Format::Perfkit),
    ("recording", Format::Perfkit),
];

const KNOWN: &str = ".svg, .folded, .txt, .speedscope.json, .pb.gz, .pstats, .json, .perfkit";

impl Format {
    /// The format that a file's ending asks for.
    ///
    /// # Errors
    /// `Usage` for an ending that is not known, or not yet.
    pub fn from_path(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let show = path.display();
        for (ending, what) in [
            (".html", "the interactive report"),
            (".profile.json", "Firefox Profiler output"),
            (".profile.json.gz", "Firefox Profiler output"),
        ] {
            if name.ends_with(ending) {
                return Err(not_yet(&format!("cannot write {show}"), what, ending));
            }
        }
        let found = ENDINGS.into_iter().find(|(ending, _)| name.ends_with(ending));
        found.map(|(_, format)| format).ok_or_else(|| {
            Error::usage(format!("the ending of {show} names no format"))
                .advise(format!("end it in one of {KNOWN}, or say --format"))
        })
    }

    /// The format called `name` (`--format`).
    ///
    /// # Errors
    /// `Usage` for a name that is not known, or not yet.
    pub fn from_name(name: &str) -> Result<Self> {
        let lower = name.to_ascii_lowercase();
        match lower.as_str() {
            "html" => return Err(not_yet("--format html", "the interactive report", ".html")),
            "firefox" | "gecko" => {
                return Err(not_yet(&format!("--format {lower}"), "Firefox Profiler output", ".profile.json"));
            }
            _ => {}
        }
        NAMES.into_iter().find(|(n, _)| *n == lower).map(|(_, format)| format).ok_or_else(|| {
            Error::usage(format!("there is no format '{name}'"))
                .advise("choose one of svg, folded, speedscope, pprof, pstats, json, text, perfkit")
        })
    }

    /// The name that `--format` takes.
    pub fn name(self) -> &'static str {
        NAMES.into_iter().find(|(_, f)| *f == self).map_or("", |(n, _)| n)
    }
}

fn not_yet(what: &str, which: &str, ending: &str) -> Error {
    Error::usage(format!("{what}: {which} ({ending}) is not there yet"))
        .advise("for now write .svg, or .speedscope.json for speedscope, or keep the recording with .perfkit")
}

/// How to render.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Replaces the title of the picture.
    pub title: Option<String>,
    /// Which way a flame graph grows.
    pub growth: Growth,
    /// Whether the table may use terminal colours.
    pub color: bool,
    /// Columns of the terminal.
    pub width: usize,
    /// Rows of the table of functions.
    pub rows: usize,
    /// What the closing lines tell to look at next.
    pub subject: Subject,
}

/// How what was looked at is named in a command, as words for a shell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Subject {
    /// By the pid of the busiest process.
    #[default]
    Busiest,
    /// By flags that find it: `--name 'uvicorn.*app'`.
    Live(String),
    /// By the program and its arguments, which are started again.
    Program(String),
    /// By the file of the recording.
    Recording(String),
}

impl Default for Options {
    fn default() -> Self {
        Self { title: None, growth: Growth::Flames, color: false, width: 100, rows: 20, subject: Subject::Busiest }
    }
}

/// Which way a flame graph grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Growth {
    /// Upwards, the root at the bottom.
    #[default]
    Flames,
    /// Downwards, the root at the top (`--icicle`).
    Icicle,
}

/// Writes `profile` as `format` to `out`.
///
/// # Errors
/// `Io` when `out` cannot be written; `Bug` for [`Format::Perfkit`], which is the recording and not a rendering of it.
pub fn render(profile: &Profile<'_>, options: &Options, format: Format, out: &mut dyn Write) -> Result<()> {
    let written = match format {
        Format::Svg => svg::write(profile, options, out),
        Format::Folded => folded::write(profile, out),
        Format::Speedscope => speedscope::write(profile, out),
        Format::Pprof => pprof::write(profile, out),
        Format::Pstats => pstats::write(profile, out),
        Format::Json => json::write(profile, out),
        Format::Text => text::write(profile, options, out),
        Format::Perfkit => return Err(Error::new(Kind::Bug, "a recording is not rendered, it is copied")),
    };
    written.and_then(|()| out.flush()).map_err(|e| Error::io(format!("cannot write the {} output", format.name()), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_follow_the_ending() {
        for (path, format) in [
            ("a.svg", Format::Svg),
            ("dir.json/A.SVG", Format::Svg),
            ("a.folded", Format::Folded),
            ("a.txt", Format::Folded),
            ("a.speedscope.json", Format::Speedscope),
            ("a.json", Format::Json),
            ("a.pb.gz", Format::Pprof),
            ("a.pstats", Format::Pstats),
            ("run.perfkit", Format::Perfkit),
        ] {
            assert_eq!(Format::from_path(Path::new(path)).unwrap(), format, "{path}");
        }
        for path in ["a.html", "a.profile.json", "a.profile.json.gz"] {
            let e = Format::from_path(Path::new(path)).unwrap_err();
            assert_eq!(e.kind(), Kind::Usage);
            assert!(e.to_string().contains("not there yet"), "{e}");
        }
        assert!(Format::from_path(Path::new("a.png")).unwrap_err().advice().unwrap().contains(".pb.gz"));
        assert!(Format::from_path(Path::new("svg")).is_err());
    }

    #[test]
    fn formats_have_names_and_py_spys_too() {
        for format in [Format::Svg, Format::Folded, Format::Speedscope, Format::Pprof, Format::Pstats, Format::Json] {
            assert_eq!(Format::from_name(format.name()).unwrap(), format);
        }
        assert_eq!(Format::from_name("flamegraph").unwrap(), Format::Svg);
        assert_eq!(Format::from_name("raw").unwrap(), Format::Folded);
        assert_eq!(Format::from_name("gecko").unwrap_err().kind(), Kind::Usage);
    }
}
