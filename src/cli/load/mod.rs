//! `perfkit load`: a scenario, a drive, and the report with its grades.

mod config;
mod drive;
mod follow;
mod judge;
mod live;
mod options;
mod recorded;
mod web;

pub use config::complete;
pub use drive::BesideArgs;
pub use recorded::RecordedLoad;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use self::drive::DriveArgs;
use self::follow::{History, Keep, Left, Wishes, follow};
use self::judge::{Judge, JudgeArgs};
use self::live::Live;
use self::options::{Level, LocustOnlyArgs, LogArgs, ScenarioArgs, StatsArgs, html_name, make_directory};
use self::web::WebArgs;
use super::exit::{Exit, is_broken_pipe};
use super::outputs::{Place, Written};
use super::screen::Screen;
use super::shared::{OUTPUT, TALK, TalkArgs};
use super::signals::Signals;
use super::view::wants_color;
use crate::error::{Error, Kind, Result};
use crate::load::report::is_partial;
use crate::os::terminal::Keys;
use crate::record::load::LoadReport;
use crate::record::load_view::LoadView;
use crate::render::{
    as_locust_rounds, exceptions_csv, failures_csv, load_html, load_json, load_text, round_second, stats_csv,
    task_ratio_text, tasks_json,
};
use crate::session::Remark;
use crate::session::load::{Console, LoadPlan, Watched, choices, shares};

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
  One level of users after the other:
      perfkit load world.toml --stages '100 at 10/s for 1m, 500 at 50/s for 2m'
  Ended when more than 5 % fail, compared with an earlier run, told to a CI job:
      perfkit load world.toml -u 100 -t 5m --headless --stop-on 'errors>5% for 10s' \
          --baseline before.perfkit -o after.perfkit -o junit.xml --github
  One URL, 50 connections, no pause:
      perfkit load http://127.0.0.1:8000/world -u 50 -r 1000 -t 10s --headless

Presets (-u, -r, -t overrule them):
  normal 100 users at 10/s for 10m    peak  500 at 50/s for 5m
  stress 1000 at 100/s for 3m         spike 1000 at 500/s for 2m

Exit codes:
  0  done
  1  done, and a target was missed, a rule of --stop-on ended it, or it is
     worse than the --baseline (see --fail-on)
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

    #[command(flatten)]
    judge: JudgeArgs,

    /// Print the report as one JSON document on standard output [default: a table]
    #[arg(long, help_heading = OUTPUT)]
    json: bool,

    /// Replace a recording that exists [default: off]
    #[arg(long, help_heading = OUTPUT)]
    force: bool,

    #[command(flatten)]
    stats: StatsArgs,

    #[command(flatten)]
    scenario: ScenarioArgs,

    #[command(flatten)]
    log: LogArgs,

    /// Show CPU and memory of this process in the live view, too; several are taken
    #[arg(short, long, value_name = "PID", num_args = 1.., help_heading = TALK)]
    pid: Vec<u32>,

    #[command(flatten)]
    locust_only: LocustOnlyArgs,

    #[command(flatten)]
    talk: TalkArgs,
}

impl LoadArgs {
    /// Whether there is no web UI: by --headless, and where a program reads the result.
    fn is_headless(&self) -> bool {
        self.web.headless || self.json
    }

    /// Standard error, or the file of --logfile.
    fn screen(&self) -> Result<Screen> {
        let mut talk = self.talk;
        match self.log.loglevel {
            Some(Level::Debug) => talk.verbose = !talk.quiet,
            Some(Level::Warning | Level::Error | Level::Critical) => talk.quiet = !talk.verbose,
            Some(Level::Info) | None => {}
        }
        talk.quiet |= self.log.skip_log_setup;
        let screen = Screen::new(talk);
        let Some(path) = &self.log.logfile else { return Ok(screen) };
        make_directory(path)?;
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|e| Error::usage(format!("cannot write the log {}", path.display())).caused_by(e))?;
        Ok(screen.into_file(file))
    }
}

/// Runs `perfkit load`.
///
/// # Errors
/// Those of the scenario and of [`Console::start`]; nothing was sent then.
pub fn run(args: &LoadArgs) -> Result<Exit> {
    args.locust_only.check()?;
    let mut screen = args.screen()?;
    let (mut plan, own_targets) = args.drive.plan()?;
    args.scenario.change(&mut plan)?;
    plan.reset_stats = args.stats.reset_stats;
    if let Some(text) = instead(&args.scenario, &plan)? {
        return put(&text).map(|()| Exit::Done);
    }
    // A mistake in the plan is told now, not when somebody presses the button.
    plan.course()?;
    for remark in plan.locustfile.iter().flat_map(|run| run.remarks(plan.threads)) {
        screen.note(&remark);
    }
    let files = Files::open(args, &plan)?;
    let judge = args.judge.open(args.force, own_targets, &mut plan)?;
    let targets = args.pid.iter().map(|pid| {
        let gone = || Error::new(Kind::Gone, format!("there is no process {pid} to watch")).advise("look at --pid");
        Watched::new(*pid).ok_or_else(gone)
    });
    let targets = targets.collect::<Result<Vec<_>>>()?;
    let is_shown = !args.stats.only_summary && !args.stats.print_stats && screen.open_view();
    // Before signals are taken over: the terminal is put back first.
    let keys = if is_shown { Keys::listen().map_err(|e| Error::io("cannot ask for keys", e))? } else { None };
    let signals = Signals::listen()?;
    let (mut console, panel) = Console::new(plan, judge.recording.is_some());
    let web = if args.is_headless() {
        None
    } else {
        // A mistake is told now, not when somebody presses the button.
        console.check()?;
        Some(args.web.serve(panel, &screen)?)
    };
    let url = web.as_ref().map(|w| w.url().to_owned());
    let color = wants_color(args.talk.color, &io::stderr());
    let history = args.stats.csv.as_ref().map(|prefix| {
        let path = PathBuf::from(format!("{prefix}_stats_history.csv"));
        History::open(path, args.stats.csv_full_history, args.stats.locust_buckets)
    });
    let prints = args.stats.print_stats && !args.stats.only_summary;
    if web.is_none() && !is_shown && !prints && history.is_none() && args.stats.html.is_none() {
        console.without_watchers();
    }
    let wishes = Wishes {
        keep: judge.recording.as_ref().map(|path| Keep {
            path,
            replace: args.force,
            words: args.drive.words.join(" "),
        }),
        history: history.transpose()?,
        live: is_shown.then(|| Live::new(keys, targets, url, color)),
        prints,
        starts: args.web.autostart,
        web,
        autoquit: args.web.autoquit(),
    };
    let mut written = Written::default();
    let left = follow(&mut console, wishes, &signals, &screen, &mut written)?;
    match left {
        Some(left) => finish(args, &screen, left, files, written, judge),
        // Nothing was started, and so there is nothing to tell.
        None => Ok(Exit::Done),
    }
}

/// What is shown instead of a run, if that is asked for.
fn instead(args: &ScenarioArgs, plan: &LoadPlan) -> Result<Option<String>> {
    if args.list {
        let names = choices(plan).into_iter().map(|c| format!("    {}\n", c.name));
        return Ok(Some(format!("Available Users:\n{}", names.collect::<String>())));
    }
    let shares = || shares(plan, plan.users.unwrap_or(0));
    if args.show_task_ratio {
        return Ok(Some(task_ratio_text(&shares())));
    }
    if args.show_task_ratio_json {
        let view = LoadView { shares: shares(), ..LoadView::default() };
        let text = serde_json::to_string_pretty(&tasks_json(&view));
        let text = text.map_err(|e| Error::new(Kind::Bug, "the ratios cannot be written as JSON").caused_by(e))?;
        return Ok(Some(text + "\n"));
    }
    Ok(None)
}

/// Files that are written at the end, proved writable before.
#[derive(Debug)]
struct Files {
    csv: Vec<(&'static str, PathBuf, Place)>,
    html: Option<(PathBuf, Place)>,
    json: Option<(PathBuf, Place)>,
}

impl Files {
    fn open(args: &LoadArgs, plan: &LoadPlan) -> Result<Self> {
        let place = |path: PathBuf| {
            make_directory(&path)?;
            Place::open(&path).map(|place| (path, place))
        };
        let prefix = args.stats.csv.as_deref();
        let csv = prefix.map_or_else(Vec::new, |p| {
            ["stats", "failures", "exceptions"].map(|kind| (kind, PathBuf::from(format!("{p}_{kind}.csv")))).to_vec()
        });
        let csv = csv.into_iter().map(|(kind, path)| place(path).map(|(path, place)| (kind, path, place)));
        let users = plan.users.or(plan.scenario.run.users).unwrap_or(1);
        let rate = plan.spawn_rate.or(plan.scenario.run.spawn_rate).unwrap_or(1.0);
        let seconds = plan.run_time_ns.or(plan.scenario.run.run_time_ns).map(|ns| ns / 1_000_000_000);
        let html = args.stats.html.as_ref().map(|name| place(html_name(name, users, rate, seconds)));
        let json = args.stats.json_file.as_ref().map(|name| place(PathBuf::from(format!("{name}.json"))));
        Ok(Self { csv: csv.collect::<Result<_>>()?, html: html.transpose()?, json: json.transpose()? })
    }
}

/// Prints and writes what a run left.
fn finish(
    args: &LoadArgs,
    screen: &Screen,
    left: Left,
    mut files: Files,
    mut written: Written,
    mut judge: Judge,
) -> Result<Exit> {
    let Left { mut driven, recording, history, view } = left;
    let mut view = LoadView::clone(&view);
    judge.compare(&mut driven);
    // The recording keeps what was measured, whatever is shown.
    if let (Some(recording), Some(path)) = (recording, &judge.recording) {
        match recording.close(&driven) {
            Ok(()) => written.files.push((path.clone(), std::fs::metadata(path).ok().map(|m| m.len()))),
            Err(e) => written.failures.push(e),
        }
    }
    if args.stats.locust_buckets {
        as_locust_rounds(&mut driven.report);
        driven.seconds.iter_mut().for_each(round_second);
        as_locust_rounds(&mut view.report);
    }
    let report = &driven.report;
    print(report, args)?;
    let mut put = |path: &PathBuf, place: &mut Place, text: &str| match place.put(text.as_bytes()) {
        Ok(size) => written.files.push((path.clone(), size)),
        Err(e) => written.failures.push(e),
    };
    for (kind, path, place) in &mut files.csv {
        let text = match *kind {
            "stats" => stats_csv(report),
            "failures" => failures_csv(report, driven.start_wall_s),
            _ => exceptions_csv(&report.exceptions),
        };
        put(path, place, &text);
    }
    if let Some((path, place)) = &mut files.html {
        put(path, place, &load_html(&view, ""));
    }
    if let Some((path, place)) = &mut files.json {
        let mut bytes = Vec::new();
        load_json(report, &mut bytes)?;
        put(path, place, &String::from_utf8_lossy(&bytes));
    }
    if let Some(path) = history {
        let size = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
        written.files.push((path, size));
    }
    judge.write(&driven, &mut written);
    let complete = screen.wrote(&written);
    if args.json {
        for mark in &report.marks {
            screen.say(Remark::Warning, mark);
        }
    }
    let fails = judge.fails(report);
    // Whoever asks for Locust's codes gets those alone, unless grades are asked for, too.
    if let Some(code) = args.stats.exit_code_on_error
        && !(fails && args.judge.grades_exit())
    {
        let failed = report.totals.failures > 0 || !report.exceptions.is_empty();
        return Ok(if failed { Exit::Program(code) } else { Exit::Done });
    }
    Ok(match (fails, complete && !is_partial(report)) {
        (true, _) => Exit::No,
        (false, false) => Exit::Partial,
        (false, true) => Exit::Done,
    })
}

fn put(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let done = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match done.map_err(|e| Error::io("cannot write to standard output", e)) {
        Err(e) if !is_broken_pipe(&e) => Err(e),
        _ => Ok(()),
    }
}

fn print(report: &LoadReport, args: &LoadArgs) -> Result<()> {
    let mut bytes = Vec::new();
    if args.json {
        load_json(report, &mut bytes)?;
    } else {
        load_text(report, wants_color(args.talk.color, &io::stdout()), &mut bytes)?;
    }
    put(&String::from_utf8_lossy(&bytes))
}
