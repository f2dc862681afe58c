//! What was asked for, resolved and validated once.
//!
//! In: the command line (through `cli`, which turns text into these types). Out: a [`Plan`], plain data that the session
//! carries out and that is stored as JSON in the recording (`meta.plan`). Invariant: a plan that passed
//! [`Plan::validate`] can be carried out as far as numbers and names go; what the kernel allows is found out later.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::target::{Identity, Program};
use crate::units::{Hertz, Nanos};

/// The highest rate, in samples a second and thread: the kernel's own default for `kernel.perf_event_max_sample_rate`.
pub const MAX_RATE: Hertz = Hertz(100_000.0);
/// The lowest rate: a sample every hundred seconds.
pub const MIN_RATE: Hertz = Hertz(0.01);
/// The rate when none is given. Not 100, so that it does not run in step with timers of 10 ms.
pub const DEFAULT_RATE: Hertz = Hertz(99.0);

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The subcommand: `cpu`.
    pub command: String,
    /// Whom to look at.
    pub targets: Targets,
    /// Whether children are followed: those that exist and those that come.
    pub subprocesses: bool,
    /// How long; `None` until Ctrl-C or the end of the target.
    pub duration: Option<Nanos>,
    /// Samples a second and thread.
    pub rate: Hertz,
    /// Which time counts.
    pub mode: Mode,
    /// What makes the sampler tick.
    pub event: EventChoice,
    /// Which frames are collected.
    pub frames: Frames,
    /// Where results go, in the order given. Empty means a table on standard output.
    pub outputs: Vec<Output>,
    /// Whether an existing recording may be replaced.
    pub force: bool,
    /// How much is said on standard error.
    pub verbosity: Verbosity,
    /// Which rung of the ladder of rights to use; `None` takes the best that works.
    pub sampler: Option<SamplerChoice>,
    /// The longest time for which the target may be stopped; `None` never stops it.
    pub freeze: Option<Nanos>,
    /// Sample in windows of this length, to measure what sampling costs (`scripts/peers/cpu-overhead`).
    pub pulse: Option<Nanos>,
}

/// Whom to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Targets {
    /// Processes that run already; at least one.
    Processes(Vec<Identity>),
    /// A program to start, followed from its first instruction.
    Launch(Program),
}

/// Which time counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Time on a CPU.
    #[default]
    Cpu,
    /// All of it: on a CPU, waiting for one, and waiting for anything else.
    Wall,
    /// Waiting only.
    OffCpu,
    /// Time on a CPU while holding Python's global interpreter lock, and the waits for it.
    Gil,
}

/// What makes the sampler tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventChoice {
    /// A timer on CPU time; works everywhere.
    #[default]
    CpuClock,
    /// The processor's cycle counter; needs a PMU, which most virtual machines lack.
    Cycles,
}

/// A rung of the ladder of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerChoice {
    /// perf events with an eBPF program that walks Python's frames at the sample.
    Ebpf,
    /// perf events; Python's frames are read from memory a moment later.
    Perf,
    /// Reading memory and `/proc` only.
    Memory,
}

/// Which frames are collected. The eBPF sampler neither unwinds nor names frames that are not wanted; on the lower rungs
/// native frames are recorded all the same, since Python frames find their place by them, and the view hides them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frames {
    /// Python functions.
    pub python: bool,
    /// Compiled code, JIT code included.
    pub native: bool,
    /// The kernel.
    pub kernel: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self { python: true, native: true, kernel: true }
    }
}

/// One place where a result goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The place.
    pub to: Destination,
    /// The format's name as `--format` takes it; [`Output::RECORDING`] for the recording itself.
    pub format: String,
}

impl Output {
    /// The format of the recording itself.
    pub const RECORDING: &'static str = "perfkit";
}

/// A place for a result.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// How much is said on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verbosity {
    /// Errors and what makes a result partial.
    Quiet,
    /// Remarks, progress and closing lines too.
    #[default]
    Normal,
    /// How things were done too.
    Verbose,
}

impl Plan {
    /// The plan of `command` for `targets` with every default.
    pub fn new(command: &str, targets: Targets) -> Self {
        Self {
            command: command.to_owned(),
            targets,
            subprocesses: false,
            duration: None,
            rate: DEFAULT_RATE,
            mode: Mode::Cpu,
            event: EventChoice::CpuClock,
            frames: Frames::default(),
            outputs: Vec::new(),
            force: false,
            verbosity: Verbosity::Normal,
            sampler: None,
            freeze: None,
            pulse: None,
        }
    }

    /// Checks what can be checked without the system.
    ///
    /// # Errors
    /// `Usage`, with the allowed range, for a rate or duration that cannot be, for no target, no kind of frame, or two
    /// recordings.
    pub fn validate(&self) -> Result<()> {
        check_rate(self.rate)?;
        check_duration(self.duration)?;
        let Frames { python, native, kernel } = self.frames;
        if !(python || native || kernel) {
            return Err(Error::usage("no kind of frame is left to collect")
                .advise("give at most two of --no-python, --no-native, --no-kernel"));
        }
        match &self.targets {
            Targets::Processes(all) if all.is_empty() => return Err(Error::usage("no target is given")),
            Targets::Launch(program) if program.argv.is_empty() => return Err(Error::usage("no command is given")),
            _ => {}
        }
        if self.recordings().count() > 1 {
            return Err(Error::usage("more than one recording is asked for")
                .advise("give one -o FILE.perfkit and copy the file"));
        }
        Ok(())
    }

    /// The file in which the recording is kept, if it is.
    pub fn recording(&self) -> Option<&Path> {
        self.recordings().next()
    }

    fn recordings(&self) -> impl Iterator<Item = &Path> {
        self.outputs.iter().filter(|o| o.format == Output::RECORDING).filter_map(|o| match &o.to {
            Destination::File(path) => Some(path.as_path()),
            Destination::Stdout => None,
        })
    }

    /// As JSON, for the recording's `meta`.
    ///
    /// # Errors
    /// `Bug`: a plan can always be written.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|e| Error::new(crate::error::Kind::Bug, "the plan cannot be written as JSON").caused_by(e))
    }
}

/// Checks a rate in samples a second.
///
/// # Errors
/// `Usage` with the allowed range.
pub fn check_rate(rate: Hertz) -> Result<()> {
    if rate >= MIN_RATE && rate <= MAX_RATE {
        return Ok(());
    }
    let why = if rate.0 == 0.0 { "never samples" } else { "is out of range" };
    Err(Error::usage(format!("a rate of {rate} {why}"))
        .advise(format!("give --rate from {} to {} samples a second; 99 is the default", MIN_RATE.0, MAX_RATE.0)))
}

/// Checks a duration.
///
/// # Errors
/// `Usage` for one of no length.
pub fn check_duration(duration: Option<Nanos>) -> Result<()> {
    if duration == Some(Nanos(0)) {
        return Err(Error::usage("a duration of 0 s records nothing")
            .advise("give --duration 10s, or leave it out to record until Ctrl-C or the target's end"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::new("cpu", Targets::Launch(Program::new(["true"])))
    }

    #[test]
    fn rates_and_durations_have_ranges() {
        for (rate, good) in
            [(0.0, false), (0.01, true), (1.0, true), (99.0, true), (100_000.0, true), (100_001.0, false)]
        {
            let result = Plan { rate: Hertz(rate), ..plan() }.validate();
            assert_eq!(result.is_ok(), good, "{rate}: {result:?}");
        }
        assert!(Plan { rate: Hertz(f64::NAN), ..plan() }.validate().is_err());
        let e = Plan { rate: Hertz(0.0), ..plan() }.validate().unwrap_err();
        assert!(e.advice().unwrap().contains("100000"), "{e:?}");
        assert!(Plan { duration: Some(Nanos(0)), ..plan() }.validate().is_err());
        assert!(Plan { duration: Some(Nanos(1)), ..plan() }.validate().is_ok());
    }

    #[test]
    fn a_plan_comes_back_from_its_json() {
        let file = |name: &str, format: &str| Output { to: Destination::File(name.into()), format: format.into() };
        let plan = Plan {
            duration: Some(Nanos::SECOND),
            outputs: vec![file("a.svg", "svg"), file("run.perfkit", Output::RECORDING)],
            sampler: Some(SamplerChoice::Memory),
            ..plan()
        };
        assert_eq!(plan.recording(), Some(Path::new("run.perfkit")));
        let json = plan.to_json().unwrap();
        assert!(json.contains(r#""mode":"cpu""#) && json.contains(r#""rate":99.0"#), "{json}");
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
    }

    #[test]
    fn there_is_one_recording_and_some_kind_of_frame() {
        let out = |name: &str| Output { to: Destination::File(name.into()), format: Output::RECORDING.into() };
        assert!(Plan { outputs: vec![out("a.perfkit"), out("b.perfkit")], ..plan() }.validate().is_err());
        let frames = Frames { python: false, native: false, kernel: false };
        assert!(Plan { frames, ..plan() }.validate().is_err());
    }
}
