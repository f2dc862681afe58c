//! The ladder of rights: the best sampler that works here, chosen by itself, and what is lost on the rung it stands on.
//!
//! In: a plan and targets. Out: an engine, opened but quiet. Order: eBPF, perf events without it, reading memory only. A
//! program that perfkit starts itself is its child, whose memory is open to it where others' is not (Yama 1). Invariant: a
//! rung that cannot be had changes nothing and leaves nothing behind.

use std::fmt::Write as _;

use super::plan::{EventChoice, Mode, Plan, SamplerChoice};
use super::rights::Rights;
use crate::clock::Mono;
use crate::collect::cpu::{Engine, MemorySampler, PerfSampler, Sampler, Shared, Target, Wanted};
use crate::error::{Error, Kind, Result};

/// Over this rate the lower rungs, which wake up for each sample, cost more than they find.
const GENTLE_HZ: f64 = 250.0;

/// A rung that was reached.
pub(super) struct Rung {
    /// The engine.
    pub(super) engine: Box<dyn Engine>,
    /// Its name, as the recording and the closing lines have it.
    pub(super) name: &'static str,
    /// What is lost against the rung above, in one line.
    pub(super) loses: Option<String>,
}

impl std::fmt::Debug for Rung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rung").field("name", &self.name).field("loses", &self.loses).finish_non_exhaustive()
    }
}

/// What every rung needs.
pub(super) struct Ground<'a> {
    pub(super) plan: &'a Plan,
    pub(super) targets: &'a [Target],
    pub(super) shared: Shared,
    pub(super) now: Mono,
}

/// Opens the best rung that works, or the one that was asked for.
///
/// # Errors
/// That of the rung asked for; when none works, the last one's, which needs the least: what it lacks helps all others too.
pub(super) fn climb(ground: &Ground<'_>) -> Result<Rung> {
    let rights = Rights::now();
    if let Some(choice) = ground.plan.sampler {
        return open(ground, choice, rights);
    }
    let mut lacks = Vec::new();
    let mut last = None;
    for choice in [SamplerChoice::Ebpf, SamplerChoice::Perf, SamplerChoice::Memory] {
        match open(ground, choice, rights) {
            Ok(mut rung) => {
                if !lacks.is_empty() {
                    rung.loses = rung.loses.map(|loses| format!("{loses} ({})", lacks.join("; ")));
                }
                return Ok(rung);
            }
            // Nobody to sample is no question of rights.
            Err(e) if matches!(e.kind(), Kind::Gone | Kind::Usage) => return Err(e),
            Err(e) => {
                lacks.push(match (choice, rights.ebpf_needs()) {
                    (SamplerChoice::Ebpf, Some(needs)) => format!("eBPF needs {needs}"),
                    (SamplerChoice::Ebpf, None) => format!("eBPF: {e:#}"),
                    _ => format!("perf events: {e}"),
                });
                last = Some(e);
            }
        }
    }
    Err(last.unwrap_or_else(|| Error::new(Kind::Bug, "no sampler was tried")))
}

fn open(ground: &Ground<'_>, choice: SamplerChoice, rights: Rights) -> Result<Rung> {
    let plan = ground.plan;
    let wanted = Wanted {
        rate_hz: plan.rate.0,
        cycles: plan.event == EventChoice::Cycles,
        on_cpu: plan.mode != Mode::OffCpu,
        off_cpu: plan.mode != Mode::Cpu,
        follow: plan.subprocesses,
        pulse_ns: plan.pulse.map(|p| p.0),
    };
    let shared = ground.shared.clone();
    match choice {
        SamplerChoice::Ebpf => {
            let engine = Sampler::open(ground.targets, wanted, shared, ground.now)?;
            Ok(Rung { engine: Box::new(engine), name: "eBPF", loses: None })
        }
        SamplerChoice::Perf => {
            let engine = PerfSampler::open(ground.targets, wanted, shared, ground.now).map_err(|e| rights.perf(e))?;
            let mut loses = match unreadable(ground, rights) {
                Some(why) => format!("sampler perf: no Python frames ({})", with_advice(&why)),
                None => "sampler perf: Python frames are read a moment after each sample".to_owned(),
            };
            if engine.excludes_kernel() {
                loses.push_str(", time in the kernel has no stacks");
            }
            if engine.unseen_threads() > 0 {
                let _ = write!(loses, ", {} threads are not seen (raise `ulimit -Hn`)", engine.unseen_threads());
            }
            if wanted.off_cpu {
                loses.push_str(", waits are met by a timer, without native frames");
            }
            Ok(Rung { engine: Box::new(engine), name: "perf", loses: Some(loses + &haste(plan)) })
        }
        SamplerChoice::Memory => {
            if let Some(why) = unreadable(ground, rights) {
                return Err(why);
            }
            let engine = MemorySampler::open(ground.targets, wanted, shared, ground.now)?;
            let mut loses = "sampler memory: no native and kernel frames, functions in C count as their Python callers";
            if !engine.has_python() {
                loses = "sampler memory: no native and kernel frames; without Python in the process only the times of its threads are left";
            }
            Ok(Rung { engine: Box::new(engine), name: "memory", loses: Some(loses.to_owned() + &haste(plan)) })
        }
    }
}

/// Why no target's memory can be read; `None`: one's can.
fn unreadable(ground: &Ground<'_>, rights: Rights) -> Option<Error> {
    let mut why = None;
    for target in ground.targets {
        why = Some(rights.memory(target.pid)?);
    }
    why
}

fn with_advice(e: &Error) -> String {
    e.advice().map_or_else(|| e.to_string(), |advice| format!("{e}; {advice}"))
}

/// A word about rates for which a wake-up a sample is too dear.
fn haste(plan: &Plan) -> String {
    if plan.rate.0 <= GENTLE_HZ {
        return String::new();
    }
    format!("; {} is much for it, {GENTLE_HZ} Hz is enough", plan.rate)
}
