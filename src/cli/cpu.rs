//! `perfkit cpu`: a plan, a session, and the pictures of what it recorded.

use clap::{Args, ValueEnum};

use super::exit::Exit;
use super::outputs::{Outputs, Written};
use super::screen::Screen;
use super::shared::{Found, OutputArgs, TalkArgs, TargetArgs, TimeArgs};
use super::signals::Signals;
use super::view::{ModeArg, ViewArgs};
use crate::analysis::{Layers, Profile, Selection, Slice};
use crate::error::Result;
use crate::record::Store;
use crate::render::{Options, closing_lines};
use crate::session::plan::{EventChoice, Frames, Mode, Plan, SamplerChoice};
use crate::session::{self, Outcome, Progress, Remark};
use crate::target::Launched;

/// Examples under `perfkit cpu --help`.
pub const EXAMPLES: &str = "\
Examples:
  perfkit cpu --pid 4711 -d 60 -o profile.svg      a flame graph of one minute
  perfkit cpu --name 'uvicorn.*app' -s -d 30       master and workers; the hottest functions as a table
  perfkit cpu --port 8000 --mode wall -o wall.svg  waiting included, until Ctrl-C
  perfkit cpu --pid $(pgrep -f worker) -d 60 -o all.pb.gz -o all.speedscope.json
  perfkit cpu -o run.perfkit -- python app.py      from the first instruction, kept for `perfkit report`

Formats by the ending of -o:
  .svg flame graph · .folded .txt collapsed stacks · .speedscope.json speedscope · .pb.gz pprof ·
  .pstats Python's pstats · .json the result · .perfkit the recording

Signals: the first Ctrl-C (or SIGTERM) finishes and writes everything, the second aborts; SIGUSR1 writes what there is
and goes on.

Exit codes: 0 done · 2 usage or bad input, nothing started · 3 could not attach or measure · 4 partial: a result was
written, but a part of what was asked for failed · with `-- COMMAND`: its code when it is not 0";

/// Flags about what is sampled.
const SAMPLE: &str = "Sampling";

/// Flags of `perfkit cpu`.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct CpuArgs {
    #[command(flatten)]
    target: TargetArgs,

    #[command(flatten)]
    time: TimeArgs,

    /// Which time counts
    #[arg(long, value_enum, default_value_t = ModeArg::Cpu, help_heading = SAMPLE)]
    mode: ModeArg,

    /// The same as --mode wall (py-spy's -i)
    #[arg(short, long, conflicts_with_all = ["mode", "gil"], help_heading = SAMPLE)]
    idle: bool,

    /// The same as --mode gil (py-spy's -g)
    #[arg(short, long, conflicts_with = "mode", help_heading = SAMPLE)]
    gil: bool,

    /// Collect Python frames only [default: Python, native and kernel frames in one stack]
    #[arg(long, conflicts_with_all = ["no_python", "native"], help_heading = SAMPLE)]
    python_only: bool,

    /// Leave kernel frames out [default: collected]
    #[arg(long, help_heading = SAMPLE)]
    no_kernel: bool,

    /// Leave native frames out [default: collected]
    #[arg(long, conflicts_with = "native", help_heading = SAMPLE)]
    no_native: bool,

    /// Leave Python frames out: the interpreter's own functions show instead [default: collected]
    #[arg(long, help_heading = SAMPLE)]
    no_python: bool,

    /// What makes the sampler tick; cycles needs a hardware counter, which most virtual machines lack
    #[arg(long, value_enum, default_value_t = EventArg::CpuClock, help_heading = SAMPLE)]
    event: EventArg,

    /// How to sample: ebpf, perf (without eBPF), memory (reading memory only) [default: the best that works here]
    #[arg(long, value_enum, value_name = "RUNG", hide_possible_values = true, help_heading = SAMPLE)]
    sampler: Option<SamplerArg>,

    /// Taken as py-spy takes it; native frames are on anyway
    #[arg(short, long, help_heading = SAMPLE)]
    native: bool,

    /// Taken as py-spy takes it; perfkit never stops the target anyway
    #[arg(long, conflicts_with = "freeze", help_heading = SAMPLE)]
    nonblocking: bool,

    #[command(flatten)]
    view: ViewArgs,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    talk: TalkArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EventArg {
    CpuClock,
    Cycles,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SamplerArg {
    Ebpf,
    Perf,
    Memory,
}

impl CpuArgs {
    fn mode(&self) -> Mode {
        match (self.idle, self.gil) {
            (true, _) => Mode::Wall,
            (_, true) => Mode::Gil,
            _ => self.mode.into(),
        }
    }

    fn frames(&self) -> Frames {
        Frames {
            python: !self.no_python,
            native: !(self.no_native || self.python_only),
            kernel: !(self.no_kernel || self.python_only),
        }
    }

    /// The plan for the targets that were found.
    fn plan(&self, found: Found, outputs: &Outputs) -> Result<Plan> {
        let plan = Plan {
            subprocesses: found.subprocesses,
            duration: self.time.duration(),
            rate: self.time.rate.0,
            mode: self.mode(),
            event: match self.event {
                EventArg::CpuClock => EventChoice::CpuClock,
                EventArg::Cycles => EventChoice::Cycles,
            },
            frames: self.frames(),
            outputs: outputs.planned(),
            force: self.output.force,
            verbosity: self.talk.verbosity(),
            sampler: self.sampler.map(|s| match s {
                SamplerArg::Ebpf => SamplerChoice::Ebpf,
                SamplerArg::Perf => SamplerChoice::Perf,
                SamplerArg::Memory => SamplerChoice::Memory,
            }),
            freeze: self.time.freeze(),
            ..Plan::new("cpu", found.targets)
        };
        plan.validate()?;
        Ok(plan)
    }

    /// What of the recording the results show.
    fn selection(&self) -> Selection {
        let Frames { native, kernel, .. } = self.frames();
        self.view.selection(self.mode(), Layers { kernel, native }, Slice::default())
    }

    fn compatible(&self, screen: &Screen) {
        if self.native {
            screen.note("--native: native frames are always on; --no-native leaves them out");
        }
        if self.nonblocking {
            screen.note("--nonblocking: perfkit never stops the target");
        }
    }
}

/// Runs `perfkit cpu`.
///
/// # Errors
/// Those of the target, the outputs and the session; nothing was written then.
pub fn run(args: &CpuArgs) -> Result<Exit> {
    let screen = Screen::new(args.talk);
    let mut outputs = Outputs::open(&args.output, args.talk.color)?;
    let found = args.target.find()?;
    args.compatible(&screen);
    for remark in &found.remarks {
        screen.note(remark);
    }
    let plan = args.plan(found, &outputs)?;
    let view = View { selection: args.selection(), options: args.view.options() };
    let signals = Signals::listen()?;
    let screen = screen.for_plan(&plan);
    let progress = Progress::new(screen.clone());
    let mut snapshot = |store: &Store| {
        view.write(store, &mut outputs, Outputs::snapshot).map(|written| {
            let _: bool = screen.wrote(&written);
        })
    };
    let outcome = session::run(&plan, signals.stop(), &progress, &mut snapshot)?;
    progress.done();
    finish(outcome, &view, &mut outputs, &screen, &signals)
}

/// What is shown of a recording, and how.
struct View {
    selection: Selection,
    options: Options,
}

impl View {
    fn write(
        &self,
        store: &Store,
        outputs: &mut Outputs,
        how: fn(&mut Outputs, &Profile<'_>, &Options) -> Written,
    ) -> Result<Written> {
        let recording = store.recording()?;
        let profile = Profile::new(&recording, &self.selection)?;
        Ok(how(outputs, &profile, &self.options))
    }
}

/// Writes the results, then sees to the program that was started.
fn finish(outcome: Outcome, view: &View, outputs: &mut Outputs, screen: &Screen, signals: &Signals) -> Result<Exit> {
    let Outcome { store, partial, child_exit, child } = outcome;
    let recording = store.recording()?;
    // Closed before it is said to be written: one file, without a WAL beside it.
    let closed = store.close();
    let profile = Profile::new(&recording, &view.selection)?;
    let mut written = outputs.write(&profile, &view.options);
    written.failures.extend(closed.err());
    if !outputs.has_table() && !screen.is_quiet() {
        drop(closing_lines(&profile, &mut std::io::stderr().lock()));
    }
    let mut failed = !screen.wrote(&written);
    if let Some(why) = partial {
        screen.say(Remark::Warning, &why);
        failed = true;
    }
    let code = match child {
        Some(child) => see_off(child, screen, signals)?,
        None => child_exit,
    };
    Ok(match code {
        Some(code) if code != 0 => Exit::Program(code),
        _ if failed => Exit::Partial,
        _ => Exit::Done,
    })
}

/// The end of a program that outlives its recording. After the duration, or SIGTERM to perfkit, it is asked to end, as
/// py-spy and perf end theirs; a Ctrl-C of the terminal has reached it already. A further Ctrl-C leaves it alone.
/// `None` when it did not end by itself.
fn see_off(mut child: Launched, screen: &Screen, signals: &Signals) -> Result<Option<i32>> {
    let target = child.identity().to_string();
    if signals.was_interrupted() {
        screen.note(&format!("waiting for {target} to end; Ctrl-C leaves it running"));
        return child.wait_unless(|| false);
    }
    // It may have ended in this moment; then there is nobody to tell.
    drop(child.terminate());
    screen.note(&format!("asked {target} to end; Ctrl-C leaves it running"));
    child.wait_unless(|| signals.was_interrupted())?;
    Ok(None)
}
