//! `perfkit report`: any view of a recording, in any format; nothing but the file is looked at.

use std::path::PathBuf;

use clap::{Args, ValueHint};

use super::exit::{Exit, input};
use super::load::RecordedLoad;
use super::mem;
use super::outputs::Outputs;
use super::screen::Screen;
use super::shared::{OutputArgs, TalkArgs, quoted};
use super::view::{ModeArg, SHOW, SliceArgs, ViewArgs};
use crate::analysis::{Layers, Profile};
use crate::error::{Error, Result};
use crate::record::Recording;
use crate::render::{Options, Subject, closing_lines};
use crate::session::plan::{Mode, Plan};

/// Examples under `perfkit report --help`.
pub const EXAMPLES: &str = "\
Examples:
  The hottest functions as a table:
      perfkit report run.perfkit
  A flame graph, and a file for pprof:
      perfkit report run.perfkit -o profile.svg -o profile.pb.gz
  Ten seconds of it:
      perfkit report run.perfkit --from 10s --to 20s -o slice.svg
  The last ten seconds, by thread:
      perfkit report run.perfkit --from -10s --threads
  The memory of a recording, its last ten minutes:
      perfkit report mem.perfkit --from -10m -o mem.svg
  A load run as its tables, as Locust's CSV, as JUnit, and its slowest requests:
      perfkit report load.perfkit -o stats.csv -o junit.xml -o slowest.csv

A recording that was cut off (kill -9, a full disk) is read as far as it goes,
with names.

Exit codes:
  0  done
  2  usage, or the file is no recording
  4  partial: some of the outputs could not be written";

/// Flags of `perfkit report`.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct ReportArgs {
    /// The recording, made with -o FILE.perfkit
    #[arg(value_name = "RECORDING", value_hint = ValueHint::FilePath)]
    recording: PathBuf,

    /// Show the load run that drove the target, where there is a measurement beside it [default: both in the table]
    #[arg(long, help_heading = SHOW)]
    load: bool,

    #[command(flatten)]
    slice: SliceArgs,

    /// Which of the recorded time counts [default: as it was recorded]
    #[arg(long, value_enum, help_heading = SHOW)]
    mode: Option<ModeArg>,

    /// Show Python frames only [default: all that were recorded]
    #[arg(long, help_heading = SHOW)]
    python_only: bool,

    /// Leave kernel frames out [default: shown]
    #[arg(long, help_heading = SHOW)]
    no_kernel: bool,

    /// Leave native frames out [default: shown]
    #[arg(long, help_heading = SHOW)]
    no_native: bool,

    #[command(flatten)]
    view: ViewArgs,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    talk: TalkArgs,
}

/// Runs `perfkit report`.
///
/// # Errors
/// `Usage` for outputs that cannot be, a file that is no recording, a slice outside of it.
pub fn run(args: &ReportArgs) -> Result<Exit> {
    let screen = Screen::new(args.talk);
    let load = RecordedLoad::open(&args.recording).map_err(input)?;
    if !args.load && load.as_ref().is_none_or(|l| !l.has_samples()) {
        let recording = Recording::open(&args.recording).map_err(input)?;
        if mem::has_memory(&recording) {
            let slice = args.slice.slice();
            let requests = load.as_ref().map(|l| l.requests(slice)).transpose()?;
            return mem::report((&args.recording, &recording), slice, requests, &args.output, args.talk);
        }
    }
    match &load {
        Some(load) if args.load || !load.has_samples() => {
            return load.show(args.slice.slice(), &args.output, args.talk, &screen);
        }
        None if args.load => {
            return Err(Error::usage(format!("{} holds no load run", args.recording.display()))
                .advise("make one with: perfkit load … -o run.perfkit"));
        }
        _ => {}
    }
    let mut outputs = Outputs::open(&args.output, args.talk.color)?;
    if outputs.has_recording() || outputs.has_file(&args.recording) {
        return Err(Error::usage("a report is a view of a recording and cannot be one")
            .advise("to keep the whole recording elsewhere, copy its file"));
    }
    let recording = Recording::open(&args.recording).map_err(input)?;
    let mode = args.mode.map_or_else(|| recorded_mode(&recording), Mode::from);
    let layers =
        Layers { kernel: !(args.no_kernel || args.python_only), native: !(args.no_native || args.python_only) };
    let selection = args.view.selection(mode, layers, args.slice.slice());
    let profile = Profile::new(&recording, &selection).map_err(input)?;
    let subject = Subject::Recording(quoted(&args.recording.to_string_lossy()));
    let options = Options { subject, ..args.view.options() };
    let written = outputs.write(&profile, &options);
    if !outputs.has_table() && args.talk.verbose {
        drop(closing_lines(&profile, &options.subject, &mut std::io::stderr().lock()));
    }
    if let Some(load) = load.filter(|_| outputs.has_table()) {
        load.beside(args.slice.slice(), args.talk)?;
    }
    Ok(if screen.wrote(&written) { Exit::Done } else { Exit::Partial })
}

/// The mode it was recorded in; all of the time, where the recording does not say.
fn recorded_mode(recording: &Recording) -> Mode {
    let plan = recording.meta.get("plan").and_then(|json| serde_json::from_str::<Plan>(json).ok());
    plan.map_or(Mode::Wall, |p| p.mode)
}
