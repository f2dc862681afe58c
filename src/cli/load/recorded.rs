//! A recorded load run in `perfkit report`: its tables, and the documents that `perfkit load` itself writes.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::judge::{Document, Shown};
use crate::analysis::Slice;
use crate::analysis::load::{Rebuilt, rebuild};
use crate::cli::exit::{Exit, is_broken_pipe};
use crate::cli::outputs::{Place, Written};
use crate::cli::screen::Screen;
use crate::cli::shared::{OutputArgs, TalkArgs};
use crate::cli::view::wants_color;
use crate::error::{Error, Result};
use crate::record::load_part::LoadPart;
use crate::render::{Format, load_text, slowest_text};

/// Slowest requests in the table.
const SLOWEST: usize = 10;

/// The load run of a recording.
#[derive(Debug)]
pub struct RecordedLoad {
    part: LoadPart,
    path: PathBuf,
}

impl RecordedLoad {
    /// That of the recording at `path`, if it has one.
    ///
    /// # Errors
    /// As [`LoadPart::open`].
    pub fn open(path: &Path) -> Result<Option<Self>> {
        Ok(LoadPart::open(path)?.map(|part| Self { part, path: path.to_owned() }))
    }

    /// Whether there is a measurement beside it.
    pub fn has_samples(&self) -> bool {
        self.part.has_samples
    }

    fn rebuilt(&self, slice: Slice) -> Result<Rebuilt> {
        let (start, end) = (self.part.start, self.part.end);
        let whole = slice.from.is_none() && slice.to.is_none();
        let bounds = slice.bounds(start, end)?;
        rebuild(&self.part, (!whole).then(|| (bounds.0.since(start), bounds.1.since(start))))
    }

    fn name(&self, id: u32) -> (String, String) {
        self.part.names.get(&id).cloned().unwrap_or_default()
    }

    fn table(&self, run: &Rebuilt, color: bool) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        load_text(&run.report, color, &mut bytes)?;
        bytes.extend(slowest_text(&run.slowest, |id| self.name(id), run.start, SLOWEST).into_bytes());
        Ok(bytes)
    }

    /// Prints the tables below those of the measurement.
    ///
    /// # Errors
    /// `Usage` for a slice in which nothing ended is no error here; `Io` when it cannot be printed.
    pub fn beside(&self, slice: Slice, talk: TalkArgs) -> Result<()> {
        let Ok(run) = self.rebuilt(slice) else { return Ok(()) };
        let color = wants_color(talk.color, &io::stdout());
        put(&[b"\nthe load beside it\n".to_vec(), self.table(&run, color)?].concat())
    }

    /// The requests that ended in a slice of it.
    ///
    /// # Errors
    /// `Usage` for a slice outside of the run.
    pub fn requests(&self, slice: Slice) -> Result<u64> {
        Ok(self.rebuilt(slice)?.report.totals.requests)
    }

    /// Writes what was asked for.
    ///
    /// # Errors
    /// `Usage` for a slice that is none and for formats that a load run does not have.
    pub fn show(&self, slice: Slice, output: &OutputArgs, talk: TalkArgs, screen: &Screen) -> Result<Exit> {
        let run = self.rebuilt(slice)?;
        let as_format = match output.format {
            None => None,
            Some(Format::Json) => Some(Document::Json),
            Some(Format::Text) => Some(Document::Text),
            Some(other) => {
                return Err(Error::usage(format!("a load run is not shown as {}", other.name()))
                    .advise("take --format json or text, or -o with .json, .csv, .xml, .md or .txt"));
            }
        };
        let mut stdout = output.json.then_some(Document::Json);
        let mut places = Vec::new();
        for path in &output.output {
            if path.as_os_str() == "-" {
                if stdout.is_some() {
                    return Err(Error::usage("standard output is wanted twice").advise("give one of -o - and --json"));
                }
                stdout = Some(as_format.unwrap_or(Document::Text));
                continue;
            }
            let same = |p: &Path| p.canonicalize().ok();
            if path.extension().is_some_and(|e| e == "perfkit") || (path.exists() && same(path) == same(&self.path)) {
                return Err(Error::usage("a report is a view of a recording and cannot be one")
                    .advise("to keep the whole recording elsewhere, copy its file"));
            }
            let document = as_format.map_or_else(|| Document::of(path), Ok)?;
            places.push((path, Place::open(path)?, document));
        }
        if places.is_empty() && stdout.is_none() {
            stdout = Some(as_format.unwrap_or(Document::Text));
        }
        let shown = Shown {
            report: &run.report,
            slowest: &run.slowest,
            name: Box::new(|id| self.name(id)),
            start: run.start,
            start_wall_s: (run.start.0 as i64 + self.part.wall_offset_ns) as f64 / 1e9,
        };
        let mut written = Written::default();
        for (path, place, document) in &mut places {
            match document.bytes(&shown).and_then(|bytes| place.put(&bytes)) {
                Ok(size) => written.files.push((path.to_owned(), size)),
                Err(e) => written.failures.push(e),
            }
        }
        match stdout {
            None => {}
            Some(Document::Text) => put(&self.table(&run, wants_color(talk.color, &io::stdout()))?)?,
            Some(document) => put(&document.bytes(&shown)?)?,
        }
        Ok(if screen.wrote(&written) { Exit::Done } else { Exit::Partial })
    }
}

fn put(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    let done = out.write_all(bytes).and_then(|()| out.flush());
    match done.map_err(|e| Error::io("cannot write to standard output", e)) {
        Err(e) if !is_broken_pipe(&e) => Err(e),
        _ => Ok(()),
    }
}
