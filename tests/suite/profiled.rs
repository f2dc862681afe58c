//! A recording as the truth tests ask it: whole stacks with names, and shares.
//!
//! In: a target and flags. Out: [`Profiled`], read back from the `.perfkit` file by the library's own reader.

use std::ffi::OsString;

use perfkit::record::{FrameKind, Recording, SampleFlags, State};
use serde_json::Value;

use crate::rig::{Output, run};

/// One frame by its kind and function; a frame without a name has its module in brackets.
pub type Step = (FrameKind, String);

/// One sample.
#[derive(Debug)]
pub struct Seen {
    /// Root first.
    pub stack: Vec<Step>,
    /// ns.
    pub weight: u64,
    /// What the thread did.
    pub state: State,
    /// What it waited for.
    pub reason: Option<&'static str>,
    /// Its quality.
    pub flags: SampleFlags,
    /// The thread.
    pub tid: u32,
    /// The thread's name.
    pub thread: String,
    /// The process.
    pub pid: u32,
    /// CLOCK_MONOTONIC ns.
    pub at: u64,
}

/// What a run of `perfkit cpu` recorded and said.
#[derive(Debug)]
pub struct Profiled {
    /// All samples, in time order.
    pub samples: Vec<Seen>,
    /// The recording.
    pub recording: Recording,
    /// The JSON document.
    pub json: Value,
    /// What it printed.
    pub output: Output,
}

/// Runs `perfkit cpu --pid PID FLAGS` to its end.
#[track_caller]
pub fn profile(pid: u32, flags: &[&str]) -> Profiled {
    let mut args: Vec<OsString> = vec!["cpu".into(), "--pid".into(), pid.to_string().into()];
    args.extend(flags.iter().map(Into::into));
    profile_with(args)
}

/// Runs perfkit with these arguments and a recording and JSON as output; it must end with 0.
#[track_caller]
pub fn profile_with(mut args: Vec<OsString>) -> Profiled {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("run.perfkit");
    // Before a `--`, behind which the words belong to the target.
    let at = args.iter().position(|a| a == "--").unwrap_or(args.len());
    args.splice(at..at, ["-o".into(), path.clone().into_os_string(), "--json".into()]);
    let output = run(args).expect(0);
    let json = output.json();
    let recording = Recording::open(&path).unwrap();
    let samples = samples_of(&recording);
    Profiled { samples, recording, json, output }
}

/// The samples of a recording with names for ids.
pub fn samples_of(recording: &Recording) -> Vec<Seen> {
    let step = |id| {
        let frame = recording.frame(id);
        let unnamed = || format!("[{}]", frame.module.as_deref().unwrap_or("?"));
        (frame.kind, frame.function.clone().unwrap_or_else(unnamed))
    };
    let seen = |s: &perfkit::record::Sample| {
        let thread = recording.thread(s.thread);
        let mut stack: Vec<Step> = recording.leaf_first(s.stack).map(step).collect();
        stack.reverse();
        Seen {
            stack,
            weight: s.weight_ns,
            state: s.state,
            reason: s.reason,
            flags: s.flags,
            tid: thread.tid,
            thread: thread.name.clone(),
            pid: recording.process(thread.process).pid,
            at: s.at.0,
        }
    };
    recording.samples.iter().map(seen).collect()
}

impl Seen {
    /// Its Python functions, root first.
    pub fn python(&self) -> Vec<&str> {
        self.stack.iter().filter(|(kind, _)| *kind == FrameKind::Python).map(|(_, name)| name.as_str()).collect()
    }

    /// Whether a frame with exactly this function is in the stack.
    pub fn has(&self, function: &str) -> bool {
        self.stack.iter().any(|(_, name)| name == function)
    }

    /// Whether a native or Python frame's function begins like this.
    pub fn has_like(&self, start: &str) -> bool {
        self.stack.iter().any(|(_, name)| name.starts_with(start))
    }
}

impl Profiled {
    /// The last value of a metric for this scope.
    pub fn reading(&self, metric: &str, scope: &str) -> Option<f64> {
        self.recording.readings.iter().rev().find(|r| r.1 == metric && r.2 == scope).map(|r| r.3)
    }

    /// How many samples, as a number to divide by.
    pub fn count(&self) -> f64 {
        self.samples.len() as f64
    }

    /// The share of the weight of all samples that satisfy `of` which `part` has, and the number of samples behind it.
    pub fn share(&self, part: impl Fn(&Seen) -> bool, of: impl Fn(&Seen) -> bool) -> (f64, usize) {
        let base: Vec<_> = self.samples.iter().filter(|s| of(s)).collect();
        let all: u64 = base.iter().map(|s| s.weight).sum();
        let found: u64 = base.iter().filter(|s| part(s)).map(|s| s.weight).sum();
        (found as f64 / all.max(1) as f64, base.len())
    }

    /// Fails unless at least `least` of the samples have the flag.
    #[track_caller]
    pub fn expect_flag(&self, flag: u32, least: f64, what: &str) {
        let with = self.samples.iter().filter(|s| s.flags.has(flag)).count() as f64;
        assert!(with >= least * self.count(), "{what}: only {with} of {} samples", self.samples.len());
    }
}

/// Fails unless `found` lies within five sigmas of sampling noise and `slack` (a share) of `truth`.
#[track_caller]
pub fn expect_share(what: &str, (found, samples): (f64, usize), truth: f64, slack: f64) {
    assert!(samples >= 50, "{what}: only {samples} samples");
    // The noise at the truth, but never that of a share below one sample in n.
    let p = truth.clamp(1.0 / samples as f64, 1.0 - 1.0 / samples as f64);
    let sigma = (p * (1.0 - p) / samples as f64).sqrt();
    let room = 5.0 * sigma + slack;
    assert!((found - truth).abs() <= room, "{what}: {found:.4} of {samples} samples, truth {truth:.4} ± {room:.4}");
}
