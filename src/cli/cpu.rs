//! `perfkit cpu`: a plan, a session, and the pictures of what it recorded.

use std::io::Write as _;

use clap::{ArgGroup, Args, ValueEnum};

use super::exit::Exit;
use super::load::BesideArgs;
use super::outputs::{Outputs, Written};
use super::screen::Screen;
use super::shared::{OutputArgs, ProgramArgs, TalkArgs, TargetArgs, TimeArgs, quoted};
use super::signals::Signals;
use super::view::{ModeArg, ViewArgs};
use crate::analysis::{Layers, Profile, Selection, Slice};
use crate::error::Result;
use crate::record::Store;
use crate::render::{Options, Subject, closing_lines, load_text};
use crate::session::plan::{EventChoice, Frames, Mode, Plan, SamplerChoice, Targets};
use crate::session::{self, Outcome, Progress, Remark};
use crate::target::Launched;

/// Examples under `perfkit cpu --help`.
pub const EXAMPLES: &str = "\
Examples:
  A flame graph of one minute of a running process:
      perfkit cpu --pid 4711 -d 60 -o profile.svg
  A service with its workers, the hottest functions as a table:
      perfkit cpu --name 'uvicorn.*app' -s -d 30
  What the process behind port 8000 spends its time on, waiting included:
      perfkit cpu --port 8000 --mode wall -d 30 -o wall.svg
  Several processes, for pprof and for speedscope:
      perfkit cpu --pid $(pgrep -f worker) -d 60 -o all.pb.gz -o all.speedscope.json
  A program from its first instruction, kept for `perfkit report`:
      perfkit cpu -o run.perfkit -- python app.py

Formats, by the ending of -o:
  .svg               flame graph         .pb.gz    pprof
  .folded, .txt      collapsed stacks    .pstats   Python's pstats
  .speedscope.json   speedscope          .json     the result as one document
                                         .perfkit  the recording

Signals:
  The first Ctrl-C (or SIGTERM) finishes and writes everything, the second
  aborts. SIGUSR1 writes what there is, and goes on.

Exit codes:
  0  done
  2  usage or bad input; nothing was started
  3  could not attach or measure: the process is gone, a right is missing, or
     it is not supported; the message says which
  4  partial: a result was written, but a part of what was asked for failed
  With -- COMMAND: its code when it is not 0. When COMMAND outlives -d, it is
  asked to end (SIGTERM) after the results are written.";

/// How it is called.
pub const USAGE: &str = "\
perfkit cpu [OPTIONS] --pid <PID>...
       perfkit cpu [OPTIONS] --name <REGEX> | --port <PORT> | --container <ID|NAME>
       perfkit cpu [OPTIONS] -- <COMMAND>...";

/// Flags about what is sampled.
const SAMPLE: &str = "Sampling";

/// Flags of `perfkit cpu`.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("target").required(true).args(["pid", "name", "port", "container", "program"]))]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct CpuArgs {
    #[command(flatten)]
    target: TargetArgs,

    #[command(flatten)]
    program: ProgramArgs,

    #[command(flatten)]
    time: TimeArgs,

    #[command(flatten)]
    beside: BesideArgs,

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

    /// What makes the sampler tick: cpu-clock, or cycles (a hardware counter, which most virtual machines lack)
    #[arg(long, value_enum, hide_possible_values = true, default_value_t = EventArg::CpuClock, help_heading = SAMPLE)]
    event: EventArg,

    /// How to sample: ebpf, perf (without eBPF), memory (reading memory only) [default: the best that works here]
    #[arg(long, value_enum, value_name = "RUNG", hide_possible_values = true, help_heading = SAMPLE)]
    sampler: Option<SamplerArg>,

    /// Sample in windows of this length, to measure what sampling costs the target
    #[arg(long, value_name = "TIME", hide = true)]
    pulse: Option<crate::units::Nanos>,

    /// Accepted for py-spy's sake: native frames are always on
    #[arg(short, long, help_heading = SAMPLE)]
    native: bool,

    /// Accepted for py-spy's sake: perfkit never stops the target anyway
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

    /// The targets, and whether their children belong to them.
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

    /// The plan for these targets.
    fn plan(&self, targets: Targets, subprocesses: bool, outputs: &Outputs) -> Result<Plan> {
        let plan = Plan {
            subprocesses,
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
            pulse: self.pulse,
            ..Plan::new("cpu", targets)
        };
        plan.validate()?;
        Ok(plan)
    }

    /// How the closing lines name what was looked at.
    fn subject(&self) -> Subject {
        let program: Vec<String> = self.program.program.iter().map(|w| quoted(&w.to_string_lossy())).collect();
        match self.target.words() {
            _ if !program.is_empty() => Subject::Program(program.join(" ")),
            Some(words) if self.target.subprocesses => Subject::Live(format!("{words} -s")),
            Some(words) => Subject::Live(words),
            None => Subject::Busiest,
        }
    }

    /// What of the recording the results show.
    fn selection(&self) -> Selection {
        let Frames { native, kernel, .. } = self.frames();
        self.view.selection(self.mode(), Layers { kernel, native }, Slice::default())
    }

    fn compatible(&self, screen: &Screen) {
        if self.native {
            screen.note("--native: native frames are always on (--no-native leaves them out)");
        }
        if self.time.freeze.is_some() {
            screen.note("--freeze: sampling never stops the target; perfkit dump makes use of it");
        }
        if self.nonblocking {
            screen.note("--nonblocking: perfkit never stops the target anyway");
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
    let (targets, subprocesses) = args.targets(&screen)?;
    args.compatible(&screen);
    let plan = args.plan(targets, subprocesses, &outputs)?;
    let view =
        View { selection: args.selection(), options: Options { subject: args.subject(), ..args.view.options() } };
    let load = args.beside.plan()?;
    let signals = Signals::listen()?;
    let screen = screen.for_plan(&plan);
    let progress = Progress::new(screen.clone());
    let mut snapshot = |store: &Store| {
        view.write(store, &mut outputs, Outputs::snapshot).map(|written| {
            let _: bool = screen.wrote(&written);
        })
    };
    let outcome = session::run_under_load(&plan, load, signals.stop(), &progress, &mut snapshot);
    progress.done();
    finish(outcome?, &view, &mut outputs, &screen, &signals)
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
    let Outcome { store, partial, child_exit, load, child } = outcome;
    let recording = store.recording()?;
    if store.path().is_none() {
        outputs.forget_recording();
    }
    // Closed before it is said to be written: one file, without a WAL beside it.
    let closed = store.close();
    let profile = Profile::new(&recording, &view.selection)?;
    let mut written = outputs.write(&profile, &view.options);
    written.failures.extend(closed.err());
    if !outputs.has_table() && !screen.is_quiet() {
        drop(closing_lines(&profile, &view.options.subject, &mut std::io::stderr().lock()));
    }
    if let Some(driven) = &load
        && !screen.is_quiet()
    {
        drop(writeln!(std::io::stderr(), "\nthe load beside it"));
        drop(load_text(&driven.report, false, &mut std::io::stderr().lock()));
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
    Ok(match code {
        Some(code) if code != 0 => Exit::Program(code),
        _ if failed => Exit::Partial,
        _ => Exit::Done,
    })
}

/// The end of a program that outlives its recording. After the duration, or SIGTERM to perfkit, it is asked to end, as
/// py-spy and perf end theirs; a Ctrl-C of the terminal has reached it already. A further Ctrl-C leaves it alone.
/// `None` when it did not end by itself.
pub(super) fn see_off(child: &mut Launched, screen: &Screen, signals: &Signals) -> Result<Option<i32>> {
    // It may have become another program since it was let go.
    let target = child.identity().again().unwrap_or_else(|_| child.identity().clone());
    if signals.was_interrupted() {
        screen.note(&format!("waiting for {target} to end; Ctrl-C leaves it running"));
        return child.wait_unless(|| false);
    }
    // It may have ended by itself while the results were written; then its code is its own.
    if let Some(code) = child.try_wait()? {
        return Ok(Some(code));
    }
    drop(child.terminate());
    screen.note(&format!("asked {target} to end; Ctrl-C leaves it running"));
    child.wait_unless(|| signals.was_interrupted())?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

    use super::*;
    use crate::target::Program;
    use crate::units::Nanos;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: CpuArgs,
    }

    fn parse(words: &str) -> clap::error::Result<CpuArgs> {
        Line::try_parse_from(std::iter::once("cpu").chain(words.split_whitespace())).map(|l| l.args)
    }

    fn plan(words: &str) -> Plan {
        let args = parse(words).unwrap_or_else(|e| panic!("{words}: {e}"));
        let outputs = Outputs::open(&args.output, args.talk.color).unwrap();
        args.plan(Targets::Launch(Program::new(["true"])), args.target.subprocesses, &outputs).unwrap()
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let plan = plan("-p 1");
        assert_eq!((plan.rate.0, plan.duration, plan.mode), (99.0, None, Mode::Cpu));
        assert_eq!((plan.event, plan.frames), (EventChoice::CpuClock, Frames::default()));
        assert_eq!((plan.sampler, plan.freeze, plan.subprocesses, plan.force), (None, None, false, false));
        assert_eq!(plan.outputs.len(), 1);
        assert_eq!(plan.outputs[0].format, "text");
    }

    #[test]
    fn py_spys_command_lines_are_understood() {
        let p = plan("-p 12 -d 30 -r 100 -s -n -f speedscope -o /dev/null --nonblocking");
        assert_eq!((p.duration, p.rate.0, p.subprocesses), (Some(Nanos(30_000_000_000)), 100.0, true));
        assert_eq!(p.outputs[0].format, "speedscope");
        assert_eq!(plan("--pid 12 --idle").mode, Mode::Wall);
        assert_eq!(plan("-p 12 -g").mode, Mode::Gil);
        assert_eq!(plan("-p 12 --duration unlimited").duration, None);
        assert_eq!(plan("-p 12 -f raw").outputs[0].format, "folded");
        assert_eq!(plan("-p 12 -f flamegraph -o /dev/null").outputs[0].format, "svg");
        let args = parse("-p 12 -t -F --nolineno --full-filenames").unwrap();
        let selection = args.selection();
        assert!(selection.split.threads);
        assert_eq!(selection.detail, crate::analysis::Detail::Name);
        assert_eq!(parse("-p 12 -F").unwrap().selection().detail, crate::analysis::Detail::Definition);
        assert_eq!(selection.file_names, crate::analysis::FileNames::Full);
        assert_eq!(parse("-o /dev/null -f svg -- python -m app --pid 3").unwrap().output.output.len(), 1);
    }

    #[test]
    fn modes_frames_and_rungs() {
        for (word, mode) in [("cpu", Mode::Cpu), ("wall", Mode::Wall), ("off-cpu", Mode::OffCpu), ("gil", Mode::Gil)] {
            assert_eq!(plan(&format!("-p 1 --mode {word}")).mode, mode);
        }
        let frames = |words: &str| {
            let Frames { python, native, kernel } = plan(words).frames;
            (python, native, kernel)
        };
        assert_eq!(frames("-p 1 --python-only"), (true, false, false));
        assert_eq!(frames("-p 1 --no-kernel"), (true, true, false));
        assert_eq!(frames("-p 1 --no-native --no-kernel"), (true, false, false));
        assert_eq!(frames("-p 1 --no-python"), (false, true, true));
        assert_eq!(plan("-p 1 --sampler memory").sampler, Some(SamplerChoice::Memory));
        assert_eq!(plan("-p 1 --event cycles").event, EventChoice::Cycles);
        assert_eq!(plan("-p 1 --freeze 5").freeze, Some(Nanos(5_000_000)));
        assert_eq!(plan("-p 1 -d 1m30 -r 5k").duration, Some(Nanos(90_000_000_000)));
        assert_eq!(plan("-p 1 -r 0.5").rate.to_string(), "0.5 Hz");
        assert!(parse("-p 12 13 -p 14 -d 1").is_ok());
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for (words, kind) in [
            ("", ErrorKind::MissingRequiredArgument),
            ("-p", ErrorKind::InvalidValue),
            ("-p x", ErrorKind::ValueValidation),
            ("-p 1 --name x", ErrorKind::ArgumentConflict),
            ("-p 1 --port 80", ErrorKind::ArgumentConflict),
            ("-p 1 -- true", ErrorKind::ArgumentConflict),
            ("--port 0", ErrorKind::ValueValidation),
            ("--port 65536", ErrorKind::ValueValidation),
            ("--name (", ErrorKind::ValueValidation),
            ("-p 1 -i -g", ErrorKind::ArgumentConflict),
            ("-p 1 -i --mode cpu", ErrorKind::ArgumentConflict),
            ("-p 1 -n --no-native", ErrorKind::ArgumentConflict),
            ("-p 1 -n --python-only", ErrorKind::ArgumentConflict),
            ("-p 1 -q -v", ErrorKind::ArgumentConflict),
            ("-p 1 -r 0", ErrorKind::ValueValidation),
            ("-p 1 -r -5", ErrorKind::ValueValidation),
            ("-p 1 -d 0", ErrorKind::ValueValidation),
            ("-p 1 -d -5", ErrorKind::ValueValidation),
            ("-p 1 -f bmp", ErrorKind::ValueValidation),
            ("-p 1 --freeze 0", ErrorKind::ValueValidation),
            ("-p 1 --top 0", ErrorKind::ValueValidation),
            ("-p 1 --nonblocking --freeze 5", ErrorKind::ArgumentConflict),
            ("-p 1 --keep-root", ErrorKind::ArgumentConflict),
            ("--keep-root", ErrorKind::MissingRequiredArgument),
            ("-p 1 --mode io", ErrorKind::InvalidValue),
            ("-p 1 stray", ErrorKind::ValueValidation),
            ("--stray", ErrorKind::UnknownArgument),
        ] {
            let e = parse(words).expect_err(words);
            assert_eq!(e.kind(), kind, "{words}: {e}");
            assert_eq!(e.exit_code(), 2, "{words}");
        }
    }
}
