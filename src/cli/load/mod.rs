//! `perfkit load`: a scenario, a drive, and the report with its grades.

mod drive;
mod web;

pub use drive::BesideArgs;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::drive::DriveArgs;
use self::web::{Keep, WebArgs};
use super::exit::{Exit, is_broken_pipe};
use super::outputs::{Place, Written};
use super::screen::Screen;
use super::shared::{OUTPUT, TalkArgs};
use super::signals::Signals;
use super::view::wants_color;
use crate::error::{Error, Result};
use crate::load::report::is_partial;
use crate::record::Recorder;
use crate::record::load::{Grade, LoadReport};
use crate::render::{exceptions_csv, failures_csv, history_csv, load_json, load_text, stats_csv};
use crate::session::Remark;
use crate::session::load::{Drive, Driven, Live, LoadRecording};

/// Examples under `perfkit load --help`.
pub const EXAMPLES: &str = "\
Examples:
  A hundred users of the ready world scenario, ten new ones a second, for five minutes:
      perfkit load world -H http://127.0.0.1:8000 -u 100 -r 10 -t 5m --headless
  The same from the browser: the web UI waits for its start form
      perfkit load world -H http://127.0.0.1:8000
  One class of a scenario file, with Locust's CSV files:
      perfkit load world.toml NPCInteractionTest -u 500 -r 50 -t 5m --headless --csv run
  500 arrivals a second whatever the answers take, as one JSON document:
      perfkit load world.toml --arrivals 500/s -t 1m --json
  One URL, 50 connections, no pause:
      perfkit load http://127.0.0.1:8000/world -u 50 -r 1000 -t 10s --headless

Presets (-u, -r, -t overrule them):
  normal 100 users at 10/s for 10m    peak  500 at 50/s for 5m
  stress 1000 at 100/s for 3m         spike 1000 at 500/s for 2m

Exit codes:
  0  done
  1  done, and a target was missed (see --fail-on)
  2  usage or a mistake in the scenario; nothing was sent
  3  could not drive: the host is not to be found, threads cannot be started
  4  partial: the generator could not keep its schedule, or a file could not
     be written; the report says which";

/// How it is called.
pub const USAGE: &str = "\
perfkit load [OPTIONS] <SCENARIO.toml|.yaml|URL|world> [USER CLASS]...
       perfkit load [OPTIONS] -f <FILE> [USER CLASS]...";

/// Flags of `perfkit load`.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    #[command(flatten)]
    drive: DriveArgs,

    #[command(flatten)]
    web: WebArgs,

    /// What makes the exit code 1: missed (a target), acceptable (that or worse), never
    #[arg(long, value_enum, value_name = "GRADE", hide_possible_values = true, help_heading = OUTPUT)]
    fail_on: Option<FailOn>,

    /// Print the report as one JSON document on standard output [default: a table]
    #[arg(long, help_heading = OUTPUT)]
    json: bool,

    /// Keep the run in a recording: FILE.perfkit
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    output: Option<PathBuf>,

    /// Replace a recording that exists [default: off]
    #[arg(long, help_heading = OUTPUT)]
    force: bool,

    /// Write Locust's PREFIX_stats.csv, _stats_history.csv, _failures.csv and _exceptions.csv
    #[arg(long, value_name = "PREFIX", help_heading = OUTPUT)]
    csv: Option<String>,

    #[command(flatten)]
    talk: TalkArgs,
}

impl LoadArgs {
    /// Whether there is no web UI: by --headless, and where a program reads the result.
    fn is_headless(&self) -> bool {
        self.web.headless || self.json
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Missed,
    Acceptable,
    Never,
}

/// Runs `perfkit load`.
///
/// # Errors
/// Those of the scenario and of [`Drive::start`]; nothing was sent then.
pub fn run(args: &LoadArgs) -> Result<Exit> {
    let screen = Screen::new(args.talk);
    let (plan, own_targets) = args.drive.plan()?;
    let files = match &args.csv {
        None => Vec::new(),
        Some(prefix) => ["stats", "stats_history", "failures", "exceptions"]
            .iter()
            .map(|kind| {
                let path = PathBuf::from(format!("{prefix}_{kind}.csv"));
                Place::open(&path).map(|place| (path, place))
            })
            .collect::<Result<Vec<_>>>()?,
    };
    let fail_on = args.fail_on.unwrap_or(if own_targets { FailOn::Missed } else { FailOn::Never });
    if let Some(path) = &args.output {
        Place::for_recording(path, args.force)?;
    }
    let signals = Signals::listen()?;
    let mut written = Written::default();
    if !args.is_headless() {
        let keep =
            args.output.as_ref().map(|path| Keep { path, replace: args.force, words: args.drive.words.join(" ") });
        let seen = args.web.run(plan, keep, &signals, &screen, &mut written)?;
        return match seen {
            Some((driven, recording)) => finish(args, &screen, &driven, recording, files, written, fail_on),
            // Nothing was started, and so there is nothing to tell.
            None => Ok(Exit::Done),
        };
    }
    let recorder = args.output.as_ref().map(|_| Arc::new(Recorder::new()));
    let drive = Drive::start(plan, recorder.clone())?;
    // Only now that it runs an older file of that name is replaced.
    let mut recording = None;
    if let (Some(path), Some(recorder)) = (&args.output, recorder) {
        match LoadRecording::create(path, args.force, &args.drive.words.join(" "), recorder) {
            Ok(created) => recording = Some(created),
            Err(e) => written.failures.push(e),
        }
    }
    let driven = watch(drive, &signals, &screen, args.talk, &mut recording, &mut written)?;
    finish(args, &screen, &driven, recording, files, written, fail_on)
}

/// Prints and writes what a run left.
fn finish(
    args: &LoadArgs,
    screen: &Screen,
    driven: &Driven,
    recording: Option<LoadRecording>,
    mut files: Vec<(PathBuf, Place)>,
    mut written: Written,
    fail_on: FailOn,
) -> Result<Exit> {
    let report = &driven.report;
    print(report, args)?;
    if let (Some(recording), Some(path)) = (recording, &args.output) {
        match recording.close(driven) {
            Ok(()) => written.files.push((path.clone(), std::fs::metadata(path).ok().map(|m| m.len()))),
            Err(e) => written.failures.push(e),
        }
    }
    let texts = |kind: usize| match kind {
        0 => stats_csv(report),
        1 => history_csv(&driven.seconds, driven.start_wall_s, report),
        2 => failures_csv(report, driven.start_wall_s),
        _ => exceptions_csv(&driven.exceptions),
    };
    for (kind, (path, place)) in files.iter_mut().enumerate() {
        match place.put(texts(kind).as_bytes()) {
            Ok(size) => written.files.push((path.clone(), size)),
            Err(e) => written.failures.push(e),
        }
    }
    let complete = screen.wrote(&written);
    if args.json {
        for mark in &report.marks {
            screen.say(Remark::Warning, mark);
        }
    }
    let worst = report.targets.iter().map(|t| t.grade).max();
    let fails = match fail_on {
        FailOn::Never => false,
        FailOn::Missed => worst >= Some(Grade::Missed),
        FailOn::Acceptable => worst >= Some(Grade::Acceptable),
    };
    Ok(match (fails, complete && !is_partial(report)) {
        (true, _) => Exit::No,
        (false, false) => Exit::Partial,
        (false, true) => Exit::Done,
    })
}

/// Follows the run to its end.
fn watch(
    mut drive: Drive,
    signals: &Signals,
    screen: &Screen,
    talk: TalkArgs,
    recording: &mut Option<LoadRecording>,
    written: &mut Written,
) -> Result<Driven> {
    let bar =
        if io::stderr().is_terminal() && !talk.quiet { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    if !bar.is_hidden() {
        bar.set_draw_target(ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
    }
    let length = drive.length_ns();
    loop {
        let live = drive.listen(Duration::from_millis(200));
        bar.set_message(line(&live, length));
        if let Some(Err(e)) = recording.as_mut().map(LoadRecording::flush) {
            // The run goes on: what was written until now can be read, and the report does not need the file.
            screen.say(Remark::Warning, &format!("the recording ends here: {e:#}"));
            written.failures.push(e);
            *recording = None;
        }
        if live.done {
            break;
        }
        if signals.stop().is_finishing() {
            screen.note("ending: what is under way is finished; Ctrl-C again drops it");
            drive.stop();
            break;
        }
    }
    let driven = drive.finish();
    bar.finish_and_clear();
    driven
}

fn line(live: &Live, length: Option<u64>) -> String {
    let elapsed = live.elapsed_ns / 1_000_000_000;
    let time = length.map_or_else(|| format!("{elapsed} s"), |l| format!("{elapsed}/{} s", l / 1_000_000_000));
    let ms = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.1} ms"));
    format!(
        "load · {time} · {} users · {:.0} req/s · p50 {} p95 {} p99 {} · {} requests · {} failed · lag {:.1} ms",
        live.users,
        live.rps,
        ms(live.p50_ms),
        ms(live.p95_ms),
        ms(live.p99_ms),
        live.requests,
        live.failures,
        live.lag_max_ms
    )
}

fn print(report: &LoadReport, args: &LoadArgs) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut bytes = Vec::new();
    if args.json {
        load_json(report, &mut bytes)?;
    } else {
        load_text(report, wants_color(args.talk.color, &out), &mut bytes)?;
    }
    match out.write_all(&bytes).and_then(|()| out.flush()).map_err(|e| Error::io("cannot write to standard output", e))
    {
        Err(e) if !is_broken_pipe(&e) => Err(e),
        _ => Ok(()),
    }
}
