//! `perfkit mem`: the curve of a process's memory, what it is made of, and the verdict on it.

mod outputs;
mod report;

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum, ValueHint};

use super::cpu::see_off;
use super::exit::Exit;
use super::load::BesideArgs;
use super::screen::Screen;
use super::shared::{Lasting, OUTPUT, ProgramArgs, TIME, TalkArgs, TargetArgs, duration, quoted, told, told_by};
use super::signals::Signals;
use super::view::wants_color;
use crate::analysis::memory::{Judged, MemoryView, judge};
use crate::collect::memory::Latest;
use crate::collect::objects::ObjectsWanted;
use crate::error::{Error, Result};
use crate::record::Store;
use crate::render::{MemFormat, MemOptions, load_text, render_mem, sparkline};
use crate::session::mem::Objects;
use crate::session::plan::{Plan, Targets};
use crate::session::{Outcome, Painter, Progress, Remark, Status, mem};
use crate::units::{Bytes, Hertz, Nanos, grouped};

use outputs::{MemOutputs, Wishes};
pub use report::{has_memory, report};

/// Examples under `perfkit mem --help`.
pub const EXAMPLES: &str = "\
Examples:
  Does it grow, and what is it made of:
      perfkit mem --pid 4711 -d 120
  The curve as a picture, while a load drives it:
      perfkit mem --port 8000 --load 'world.toml -u 100' -d 5m -o mem.svg
  A service with its workers, kept for later:
      perfkit mem --name 'uvicorn.*app' -s -d 1h -o mem.perfkit -o mem.csv
  In place of `mprof run`; `mprof plot` reads the .dat:
      perfkit mem -o mprofile.dat -- python app.py
  What is alive in the Python heap now, and who holds it:
      perfkit mem --pid 4711 --snapshot
  A soak test that fails on a leak:
      perfkit mem --load world.toml -d 10m --fail-on leak --port 8000

Formats, by the ending of -o:
  .svg   the curve, stacked by kind     .json      the result as one document
  .csv   a line a reading               .dat       mprof's file
  .txt   the table                      .perfkit   the recording

Signals:
  The first Ctrl-C (or SIGTERM) finishes and writes everything, the second
  aborts. SIGUSR1 writes what there is, and goes on.

Exit codes:
  0  done
  1  done, and --fail-on found what it names
  2  usage or bad input; nothing was started
  3  could not attach or measure: the process is gone, a right is missing, or
     it is not supported; the message says which
  4  partial: a result was written, but a part of what was asked for failed
  5  undecided: --fail-on was given and the verdict is unknown
  With -- COMMAND: its code when it is not 0.";

/// How it is called.
pub const USAGE: &str = "\
perfkit mem [OPTIONS] --pid <PID>...
       perfkit mem [OPTIONS] --name <REGEX> | --port <PORT> | --container <ID|NAME>
       perfkit mem [OPTIONS] -- <COMMAND>...";

/// The time between two readings when none is given: 5 a second.
const INTERVAL: Nanos = Nanos(200_000_000);
/// The shortest and the longest.
const INTERVALS: std::ops::RangeInclusive<u64> = 10_000_000..=60_000_000_000;
/// Columns of the curve on the terminal.
const CURVE: usize = 48;

/// Flags of `perfkit mem`.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("target").required(true).args(["pid", "name", "port", "container", "program"]))]
pub struct MemArgs {
    #[command(flatten)]
    target: TargetArgs,

    #[command(flatten)]
    program: ProgramArgs,

    /// How long to watch: 60, 60s, 1m30, 500ms [default: until Ctrl-C or the target's end]
    #[arg(short, long, value_name = "TIME", allow_negative_numbers = true, value_parser = duration, help_heading = TIME)]
    duration: Option<Lasting>,

    /// The time between two readings, from 10ms to 60s; PSS, USS and the kinds are read as seldom as their cost asks
    /// [default: 200ms]
    #[arg(short = 'T', long, value_name = "TIME", value_parser = told::<Nanos>, help_heading = TIME)]
    interval: Option<Nanos>,

    #[command(flatten)]
    beside: BesideArgs,

    /// Count the objects of the Python heap, and end with code 4 where that cannot be done [default: count them where the
    /// process is CPython]
    #[arg(long, conflicts_with = "no_objects", help_heading = "Python heap")]
    objects: bool,

    /// Do not read the Python heap [default: off]
    #[arg(long, help_heading = "Python heap")]
    no_objects: bool,

    /// Look who holds the largest containers also when nothing grew [default: who holds what grew]
    #[arg(long, conflicts_with = "no_objects", help_heading = "Python heap")]
    holders: bool,

    /// One census, who holds the largest containers, and the end [default: off]
    #[arg(long, conflicts_with_all = ["no_objects", "duration"], help_heading = "Python heap")]
    snapshot: bool,

    /// End with code 1 when the verdict is a leak of any kind (leak), or any growth (growing), or never
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = FailOn::Never, help_heading = "Verdict")]
    fail_on: FailOn,

    /// Write a result to FILE, in the format of its ending; may be given several times; - is standard output
    /// [default: a table on standard output]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    output: Vec<PathBuf>,

    /// The format of every -o, whatever its ending: text, json, csv, svg, dat, perfkit
    #[arg(short, long, value_name = "FORMAT", value_parser = told_by(MemFormat::from_name), help_heading = OUTPUT)]
    format: Option<MemFormat>,

    /// Print the result as one JSON document on standard output (the same as -o x.json) [default: off]
    #[arg(long, help_heading = OUTPUT)]
    json: bool,

    /// Replace a recording (.perfkit) that exists; other files are always replaced [default: off]
    #[arg(long, help_heading = OUTPUT)]
    force: bool,

    #[command(flatten)]
    talk: TalkArgs,
}

/// What ends it with code 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailOn {
    Leak,
    Growing,
    Never,
}

impl FailOn {
    /// What the verdict means for the exit code; `None`: nothing.
    fn exit(self, judged: &Judged) -> Option<Exit> {
        let bad = match self {
            Self::Never => return None,
            Self::Leak => judged.is_leak(),
            Self::Growing => judged.is_leak() || judged.verdict == "leak" || judged.verdict == "growing",
        };
        match judged.verdict.as_str() {
            _ if bad => Some(Exit::No),
            "unknown" => Some(Exit::Undecided),
            _ => None,
        }
    }
}

impl MemArgs {
    fn interval(&self) -> Result<Nanos> {
        let interval = self.interval.unwrap_or(INTERVAL);
        if INTERVALS.contains(&interval.0) {
            return Ok(interval);
        }
        Err(Error::usage(format!("an interval of {interval} is out of range"))
            .advise("give --interval from 10ms to 60s; 200ms is the default"))
    }

    fn targets(&self, screen: &Screen) -> Result<(Targets, bool)> {
        if let Some(program) = self.program.find()? {
            if let Some(user) = &program.run_as {
                let name = &user.name;
                screen.note(&format!("starting it as {name}, who called sudo; --keep-root starts it as root"));
            }
            return Ok((Targets::Launch(program), self.target.subprocesses));
        }
        let found = self.target.find()?;
        for remark in &found.remarks {
            screen.note(remark);
        }
        Ok((Targets::Processes(found.targets), found.family))
    }

    fn plan(&self, targets: Targets, subprocesses: bool, outputs: &MemOutputs) -> Result<Plan> {
        let plan = Plan {
            subprocesses,
            duration: self.duration.and_then(|d| d.0),
            rate: Hertz(1e9 / self.interval()?.0 as f64),
            outputs: outputs.planned(),
            force: self.force,
            verbosity: self.talk.verbosity(),
            ..Plan::new("mem", targets)
        };
        plan.validate()?;
        Ok(plan)
    }

    fn wishes(&self) -> Wishes<'_> {
        Wishes { output: &self.output, format: self.format, json: self.json, force: self.force }
    }

    /// What is wanted of the Python heap.
    fn heap(&self) -> (Objects, ObjectsWanted) {
        let objects = match (self.no_objects, self.objects || self.snapshot) {
            (true, _) => Objects::Never,
            (false, true) => Objects::Always,
            (false, false) => Objects::Auto,
        };
        (objects, ObjectsWanted { snapshot: self.snapshot, largest: self.holders })
    }

    /// How the results name what was watched.
    fn subject(&self, targets: &Targets) -> String {
        match targets {
            Targets::Launch(_) => {
                let words: Vec<String> = self.program.program.iter().map(|w| quoted(&w.to_string_lossy())).collect();
                words.join(" ")
            }
            Targets::Processes(all) => match &all[..] {
                [one] => format!("process {one}"),
                [first, rest @ ..] => format!("process {first} and {} more", rest.len()),
                [] => String::new(),
            },
        }
    }
}

/// Remarks as the screen has them; the curve is drawn by the glances.
struct Quiet(Screen);

impl Painter for Quiet {
    fn status(&self, _: &Status) {}

    fn remark(&self, remark: Remark, text: &str) {
        self.0.say(remark, text);
    }

    fn done(&self) {
        self.0.close_view();
    }
}

/// The curve of the last minute, as it grows.
#[derive(Default)]
struct Curve {
    label: String,
    first: Option<u64>,
    values: Vec<f64>,
}

impl Curve {
    fn lines(&mut self, elapsed: Nanos, latest: Latest) -> Vec<String> {
        let first = *self.first.get_or_insert(latest.rss);
        self.values.push(latest.rss as f64);
        if self.values.len() > CURVE {
            self.values.remove(0);
        }
        let grown = latest.rss.abs_diff(first);
        let sign = if latest.rss < first { '-' } else { '+' };
        let many = if latest.processes == 1 { String::new() } else { format!(" · {} processes", latest.processes) };
        let missed = if latest.missed == 0 { String::new() } else { format!(" · {} missed", grouped(latest.missed)) };
        let seconds = elapsed.0 / 1_000_000_000;
        let rss = Bytes(latest.rss);
        vec![
            format!("mem {} · {seconds} s · RSS {rss} ({sign}{}){many}{missed}", self.label, Bytes(grown)),
            sparkline(&self.values),
        ]
    }
}

/// Runs `perfkit mem`.
///
/// # Errors
/// Those of the target, the outputs and the session; nothing was written then.
pub fn run(args: &MemArgs) -> Result<Exit> {
    let mut screen = Screen::new(args.talk);
    let mut outputs = MemOutputs::open(&args.wishes())?;
    args.interval()?;
    let (targets, subprocesses) = args.targets(&screen)?;
    let plan = args.plan(targets, subprocesses, &outputs)?;
    let load = args.beside.plan()?;
    let signals = Signals::listen()?;
    let shown = screen.open_view();
    let subject = args.subject(&plan.targets);
    let progress = Progress::new(Quiet(screen.clone()));
    let options = MemOptions {
        target: subject.clone(),
        color: wants_color(args.talk.color, &io::stdout()),
        width: terminal_size::terminal_size().map_or(80, |(w, _)| usize::from(w.0)),
        requests: None,
    };
    let snapshot_screen = screen.clone();
    let mut snapshot = |store: &Store| {
        let (view, judged) = viewed(store)?;
        let written = outputs.write(&|format| document(&view, &judged, &options, format), true);
        let _: bool = snapshot_screen.wrote(&written);
        Ok(())
    };
    let mut curve = Curve { label: subject, ..Curve::default() };
    let drawn = screen.clone();
    let mut glance = move |elapsed: Nanos, latest: Latest| {
        let lines = curve.lines(elapsed, latest);
        if shown {
            drawn.draw(&lines);
        }
    };
    let outcome = mem::run(&plan, args.heap(), load, signals.stop(), &progress, &mut snapshot, &mut glance);
    progress.done();
    finish(outcome?, args, options, &mut outputs, &screen, &signals)
}

fn viewed(store: &Store) -> Result<(MemoryView, Judged)> {
    let view = MemoryView::new(&store.recording()?);
    let judged = judge(&view);
    Ok((view, judged))
}

fn document(view: &MemoryView, judged: &Judged, options: &MemOptions, format: MemFormat) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    render_mem(view, judged, options, format, &mut bytes)?;
    Ok(bytes)
}

/// Writes the results, then sees to the program that was started.
fn finish(
    outcome: Outcome,
    args: &MemArgs,
    options: MemOptions,
    outputs: &mut MemOutputs,
    screen: &Screen,
    signals: &Signals,
) -> Result<Exit> {
    let Outcome { store, partial, child_exit, load, child } = outcome;
    let (view, judged) = viewed(&store)?;
    let recorded = store.path().is_some();
    // Closed before it is said to be written: one file, without a WAL beside it.
    let closed = store.close();
    let options = MemOptions { requests: load.as_ref().map(|l| l.report.totals.requests), ..options };
    let mut written = outputs.write(&|format| document(&view, &judged, &options, format), recorded);
    written.failures.extend(closed.err());
    if let Some(driven) = &load
        && !screen.is_quiet()
    {
        drop(writeln!(io::stderr(), "\nthe load beside it"));
        drop(load_text(&driven.report, false, &mut io::stderr().lock()));
    }
    let mut failed = !screen.wrote(&written);
    if let Some(why) = partial {
        screen.say(Remark::Warning, &why);
        failed = true;
    }
    let code = match child {
        Some(mut child) => see_off(&mut child, screen, signals)?,
        None => child_exit,
    };
    let answer = args.fail_on.exit(&judged);
    if let Some(Exit::Undecided) = answer {
        screen.say(Remark::Warning, &format!("--fail-on: the verdict is unknown: {}", judged.decides));
    }
    Ok(match (code, answer) {
        (Some(code), _) if code != 0 => Exit::Program(code),
        _ if failed => Exit::Partial,
        (_, Some(answer)) => answer,
        _ => Exit::Done,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::target::Program;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: MemArgs,
    }

    fn parse(words: &str) -> clap::error::Result<MemArgs> {
        Line::try_parse_from(std::iter::once("mem").chain(words.split_whitespace())).map(|l| l.args)
    }

    fn plan(words: &str) -> Result<Plan> {
        let args = parse(words).unwrap_or_else(|e| panic!("{words}: {e}"));
        let outputs = MemOutputs::open(&args.wishes())?;
        args.plan(Targets::Launch(Program::new(["true"])), args.target.subprocesses, &outputs)
    }

    #[test]
    fn defaults_and_ranges() {
        let p = plan("-p 1").unwrap();
        assert_eq!((p.rate.0, p.duration, p.command.as_str()), (5.0, None, "mem"));
        assert_eq!(p.outputs[0].format, "text");
        let p = plan("-p 1 --interval 1s -d 2m -s --json -o /dev/null -f csv").unwrap();
        assert_eq!((p.rate.0, p.duration, p.subprocesses), (1.0, Some(Nanos(120_000_000_000)), true));
        assert_eq!(p.outputs.iter().map(|o| o.format.as_str()).collect::<Vec<_>>(), ["csv", "json"]);
        for bad in ["-p 1 --interval 1ms", "-p 1 --json -o -", "-p 1 -f perfkit", "-p 1 -o /x.html", "-p 1 -o /x.png"] {
            assert!(plan(bad).is_err(), "{bad}");
        }
        assert!(parse("").is_err() && parse("-p 1 --fail-on x").is_err());
    }

    #[test]
    fn the_verdict_decides_the_exit_code() {
        let unknown = Judged::unknown("more time");
        let judged =
            |verdict: &str, kind: &str| Judged { verdict: verdict.into(), kind: kind.into(), ..unknown.clone() };
        assert_eq!(FailOn::Never.exit(&judged("leak", "type-leak")), None);
        assert_eq!(FailOn::Leak.exit(&judged("leak", "type-leak")), Some(Exit::No));
        assert_eq!(FailOn::Leak.exit(&judged("stable", "stable")), None);
        assert_eq!(FailOn::Growing.exit(&judged("growing", "unknown")), Some(Exit::No));
        assert_eq!(FailOn::Leak.exit(&unknown), Some(Exit::Undecided));
    }

    #[test]
    fn the_curve_grows() {
        let mut curve = Curve { label: "7".into(), ..Curve::default() };
        let at = |rss| Latest { rss, processes: 1, ..Latest::default() };
        curve.lines(Nanos(0), at(1_000_000));
        let lines = curve.lines(Nanos::SECOND, at(3_000_000));
        assert_eq!(lines, ["mem 7 · 1 s · RSS 3.0 MB (+2.0 MB)", "▁█"]);
    }
}
