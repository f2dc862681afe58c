//! `perfkit report` of a recording of memory.

use std::io;
use std::path::Path;

use super::super::exit::{Exit, input};
use super::super::screen::Screen;
use super::super::shared::{OutputArgs, TalkArgs, quoted};
use super::super::view::wants_color;
use super::outputs::{MemOutputs, Wishes};
use crate::analysis::Slice;
use crate::analysis::memory::{MemoryView, judge};
use crate::error::{Error, Result};
use crate::record::{Recording, series};
use crate::render::{MemFormat, MemOptions, render_mem};

/// Whether memory is what a recording is of: it has the curve, and no samples of stacks.
pub fn has_memory(recording: &Recording) -> bool {
    recording.samples.is_empty() && recording.readings.iter().any(|r| r.1 == series::RSS)
}

/// Shows a slice of a recording of memory; `requests` were made in it by a load beside it.
///
/// # Errors
/// `Usage` for outputs that cannot be, and a slice outside of the recording.
pub fn report(
    (path, recording): (&Path, &Recording),
    slice: Slice,
    requests: Option<u64>,
    output: &OutputArgs,
    talk: TalkArgs,
) -> Result<Exit> {
    let format = output.format.map(|f| MemFormat::from_name(f.name())).transpose()?;
    let wishes = Wishes { output: &output.output, format, json: output.json, force: output.force };
    if output.output.iter().any(|o| o == path) || format == Some(MemFormat::Perfkit) {
        return Err(no_recording());
    }
    let view = MemoryView::within(recording, slice).map_err(input)?;
    let mut outputs = MemOutputs::open(&wishes)?;
    if outputs.has_recording() {
        return Err(no_recording());
    }
    let judged = judge(&view);
    let options = MemOptions {
        target: quoted(&path.to_string_lossy()),
        color: wants_color(talk.color, &io::stdout()),
        width: terminal_size::terminal_size().map_or(80, |(w, _)| usize::from(w.0)),
        requests,
    };
    let document = |format| {
        let mut bytes = Vec::new();
        render_mem(&view, &judged, &options, format, &mut bytes).map(|()| bytes)
    };
    let written = outputs.write(&document, false);
    Ok(if Screen::new(talk).wrote(&written) { Exit::Done } else { Exit::Partial })
}

fn no_recording() -> Error {
    Error::usage("a report is a view of a recording and cannot be one")
        .advise("to keep the whole recording elsewhere, copy its file")
}
