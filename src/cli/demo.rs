//! `perfkit demo`: the tour, on a small service that perfkit brings along.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueHint};

use super::exit::{Exit, is_broken_pipe};
use super::outputs::Outputs;
use super::screen::Screen;
use super::shared::{Lasting, OutputArgs, Rate, TIME, TalkArgs, duration, rate};
use super::signals::Signals;
use crate::analysis::{Profile, Selection};
use crate::collect::selfcost::leave_out;
use crate::demo::{Drive, Load, Summary, World, serve_native};
use crate::error::{Error, Kind, Result};
use crate::render::{Options, Subject};
use crate::session::plan::{DEFAULT_RATE, Plan, Targets};
use crate::session::{self, Progress, Remark};
use crate::target::Identity;
use crate::units::Nanos;

/// Examples under `perfkit demo --help`.
pub const EXAMPLES: &str = "\
Examples:
  Ten seconds, a table and profile.svg:
      perfkit demo
  Keep the recording, and look at its last ten seconds:
      perfkit demo -d 30 -o run.perfkit
      perfkit report run.perfkit --from -10s

Nothing leaves this machine: the service listens on the loopback and ends with
the demo. Where the rights to sample are missing, the demo says which, shows
what its client saw, and ends with 0.";

/// How long the demo lasts when nothing is said.
const TEN_SECONDS: Nanos = Nanos(10_000_000_000);
/// How long the load alone is shown where nothing can be sampled.
const LOAD_ALONE: Duration = Duration::from_secs(3);

/// Flags of `perfkit demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// How long to look: 10, 30s, 1m [default: 10s]
    #[arg(short, long, value_name = "TIME", value_parser = duration, help_heading = TIME)]
    duration: Option<Lasting>,

    /// Samples a second and thread, from 0.01 to 100000
    #[arg(short, long, value_name = "HZ", default_value_t = Rate(DEFAULT_RATE), value_parser = rate,
          help_heading = TIME)]
    rate: Rate,

    /// Write a result to FILE, in the format of its ending; may be given several times [default: profile.svg]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = super::shared::OUTPUT)]
    output: Vec<PathBuf>,

    /// Replace a recording (.perfkit) that exists; other files are always replaced [default: off]
    #[arg(long, help_heading = super::shared::OUTPUT)]
    force: bool,

    #[command(flatten)]
    talk: TalkArgs,
}

/// Runs `perfkit demo`.
///
/// # Errors
/// `Usage` for outputs that cannot be; what keeps the service from starting.
pub fn run(args: &DemoArgs) -> Result<Exit> {
    let screen = Screen::new(args.talk);
    let mut files = args.output.clone();
    if files.is_empty() {
        files.push(PathBuf::from("profile.svg"));
    }
    if !files.iter().any(|f| f.as_os_str() == "-") {
        files.push(PathBuf::from("-"));
    }
    let asked = OutputArgs { output: files, format: None, json: false, force: args.force };
    let mut outputs = Outputs::open(&asked, args.talk.color)?;
    let signals = Signals::listen()?;
    let world = World::start()?;
    let target = Identity::of(world.pid())?;
    screen.note(&format!(
        "the demo's world: a small NPC service ({}, process {}) on {}, driven by {} users",
        world.runtime(),
        world.pid(),
        world.url(),
        Load::default().users
    ));
    let drive = Drive::start(world.address(), Load::default())?;
    leave_out(drive.used_ns());
    let plan = Plan {
        duration: args.duration.map_or(Some(TEN_SECONDS), |d| d.0),
        rate: args.rate.0,
        outputs: outputs.planned(),
        force: args.force,
        verbosity: args.talk.verbosity(),
        ..Plan::new("demo", Targets::Processes(vec![target]))
    };
    plan.validate()?;
    let screen = screen.for_plan(&plan);
    let progress = Progress::new(screen.clone());
    let outcome = session::run(&plan, signals.stop(), &progress, &mut |_| Ok(()));
    progress.done();
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(e) if matches!(e.kind(), Kind::Denied | Kind::Unsupported) => {
            drop(drive);
            return load_alone(&world, &screen, &e);
        }
        Err(e) => return Err(e),
    };
    let summary = drive.finish()?;
    let recording = outcome.store.recording()?;
    outcome.store.close()?;
    let profile = Profile::new(&recording, &Selection::cpu())?;
    // The service ends with the demo: its pid leads nowhere.
    let subject = Subject::Live("--pid PID".to_owned());
    let written = outputs.write(&profile, &Options { subject, ..Options::default() });
    print(&summary)?;
    let complete = screen.wrote(&written);
    let partial = outcome.partial.inspect(|why| screen.say(Remark::Warning, why));
    Ok(if complete && partial.is_none() { Exit::Done } else { Exit::Partial })
}

/// What can be shown without the rights to sample: the missing right, and how the service answers.
fn load_alone(world: &World, screen: &Screen, why: &Error) -> Result<Exit> {
    screen.say(Remark::Warning, &format!("nothing can be sampled here: {why:#}"));
    if let Some(advice) = why.advice() {
        screen.say(Remark::Warning, advice);
    }
    print(&Drive::start(world.address(), Load { duration: LOAD_ALONE, ..Load::default() })?.wait()?)?;
    Ok(Exit::Done)
}

fn print(summary: &Summary) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = write!(out, "\nwhat the client saw\n{summary}").and_then(|()| out.flush());
    match written.map_err(|e| Error::io("cannot write to standard output", e)) {
        Err(e) if !is_broken_pipe(&e) => Err(e),
        _ => Ok(()),
    }
}

/// The native service, until its standard input closes.
///
/// # Errors
/// `Io` when it cannot listen.
pub fn serve() -> Result<Exit> {
    serve_native(io::stdin().lock(), &mut io::stdout().lock())?;
    Ok(Exit::Done)
}
