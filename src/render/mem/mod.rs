//! Memory over time as documents: the table, JSON, CSV, mprof's `.dat`, a picture.
//!
//! In: a [`MemoryView`], a [`Judged`] and [`MemOptions`]. Out: one document. Invariant: a renderer reads nothing else; the same
//! view gives the same bytes.

mod json;
mod svg;
mod table;
mod text;

use std::io::Write;
use std::path::Path;

use crate::analysis::memory::{Judged, MemoryView};
use crate::error::{Error, Kind, Result};

pub use text::sparkline;

/// An output format of `perfkit mem`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemFormat {
    /// The table for the terminal.
    Text,
    /// The result as one document.
    Json,
    /// A line a reading.
    Csv,
    /// The curve as a picture.
    Svg,
    /// What mprof writes and plots.
    Dat,
    /// The recording itself; not a rendering.
    Perfkit,
}

const FORMATS: [(&str, &str, MemFormat); 6] = [
    ("text", ".txt", MemFormat::Text),
    ("json", ".json", MemFormat::Json),
    ("csv", ".csv", MemFormat::Csv),
    ("svg", ".svg", MemFormat::Svg),
    ("dat", ".dat", MemFormat::Dat),
    ("perfkit", ".perfkit", MemFormat::Perfkit),
];

impl MemFormat {
    /// The format that a file's ending asks for.
    ///
    /// # Errors
    /// `Usage` for an ending that is not known, or not yet.
    pub fn from_path(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let show = path.display();
        for (ending, what) in [(".html", "the report as a page"), (".png", "the picture as PNG")] {
            if name.ends_with(ending) {
                return Err(Error::usage(format!("cannot write {show}: {what} is not there yet"))
                    .advise("for now write .svg, which browsers show, or keep the recording with .perfkit"));
            }
        }
        FORMATS.into_iter().find(|(_, ending, _)| name.ends_with(ending)).map(|(.., f)| f).ok_or_else(|| {
            Error::usage(format!("the ending of {show} names no format"))
                .advise("end it in one of .svg, .csv, .json, .txt, .dat (mprof's), .perfkit, or say --format")
        })
    }

    /// The format called `name` (`--format`).
    ///
    /// # Errors
    /// `Usage` for a name that is not known.
    pub fn from_name(name: &str) -> Result<Self> {
        let lower = name.to_ascii_lowercase();
        FORMATS.into_iter().find(|(n, ..)| *n == lower).map(|(.., f)| f).ok_or_else(|| {
            Error::usage(format!("there is no format '{name}'"))
                .advise("choose one of text, json, csv, svg, dat, perfkit")
        })
    }

    /// The name that `--format` takes.
    pub fn name(self) -> &'static str {
        FORMATS.into_iter().find(|(.., f)| *f == self).map_or("", |(n, ..)| n)
    }
}

/// How to render.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemOptions {
    /// What was watched: `4711 (uvicorn)`, or the command.
    pub target: String,
    /// Whether the table may use colours.
    pub color: bool,
    /// Columns of the terminal.
    pub width: usize,
    /// Requests of the load beside it.
    pub requests: Option<u64>,
}

/// Writes `view` to `out` as `format`.
///
/// # Errors
/// `Io` when `out` cannot be written; `Bug` for the recording, which is no rendering.
pub fn render_mem(
    view: &MemoryView,
    judged: &Judged,
    options: &MemOptions,
    format: MemFormat,
    out: &mut dyn Write,
) -> Result<()> {
    let document = match format {
        MemFormat::Text => text::text(view, judged, options),
        MemFormat::Json => json::json(view, judged, options)?,
        MemFormat::Csv => table::csv(view),
        MemFormat::Svg => svg::svg(view, judged, options),
        MemFormat::Dat => table::dat(view, options),
        MemFormat::Perfkit => return Err(Error::new(Kind::Bug, "a recording is not rendered")),
    };
    out.write_all(document.as_bytes()).map_err(|e| Error::io("cannot write the result", e))
}
