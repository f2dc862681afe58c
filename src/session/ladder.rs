//! The ladder of rights: the best sampler that works here, chosen by itself, and what is lost on the rung it stands on.
//!
//! In: a plan and targets. Out: an engine, opened but quiet. Order: eBPF, perf events without it, reading memory only.

use std::sync::Arc;

use super::plan::{EventChoice, Mode, Plan, SamplerChoice};
use crate::clock::Mono;
use crate::collect::cpu::{Engine, Naming, PerfSampler, Sampler, Target, Wanted};
use crate::error::{Error, Kind, Result};
use crate::record::Recorder;
use crate::symbol::Modules;

/// A rung that was reached.
pub(super) struct Rung {
    /// The engine.
    pub(super) engine: Box<dyn Engine>,
    /// Its name, as the recording and the closing lines have it.
    pub(super) name: &'static str,
    /// What is lost against the rung above, in one line.
    pub(super) loses: Option<String>,
}

/// What every rung needs.
pub(super) struct Ground<'a> {
    pub(super) plan: &'a Plan,
    pub(super) targets: &'a [Target],
    pub(super) recorder: Arc<Recorder>,
    pub(super) modules: Arc<Modules>,
    pub(super) naming: Naming,
    pub(super) now: Mono,
}

/// Opens the best rung that works, or the one that was asked for.
///
/// # Errors
/// The first rung's error, with what would help, when none works.
pub(super) fn climb(ground: &Ground<'_>) -> Result<Rung> {
    let mut refused: Option<Error> = None;
    let asked = ground.plan.sampler;
    for choice in [SamplerChoice::Ebpf, SamplerChoice::Perf, SamplerChoice::Memory] {
        if asked.is_some_and(|a| a != choice) {
            continue;
        }
        match open(ground, choice) {
            Ok(mut rung) => {
                if let Some(why) = &refused {
                    let loses = rung.loses.take().unwrap_or_default();
                    rung.loses = Some(format!("{loses} ({why:#})"));
                }
                return Ok(rung);
            }
            Err(e) => refused = refused.or(Some(e)),
        }
    }
    Err(refused.unwrap_or_else(|| Error::new(Kind::Bug, "no sampler was tried")))
}

fn open(ground: &Ground<'_>, choice: SamplerChoice) -> Result<Rung> {
    let plan = ground.plan;
    let wanted = Wanted {
        rate_hz: plan.rate.0,
        cycles: plan.event == EventChoice::Cycles,
        on_cpu: plan.mode != Mode::OffCpu,
        off_cpu: plan.mode != Mode::Cpu,
        follow: plan.subprocesses,
        pulse_ns: plan.pulse.map(|p| p.0),
    };
    let (recorder, modules, naming) =
        (Arc::clone(&ground.recorder), Arc::clone(&ground.modules), ground.naming.clone());
    match choice {
        SamplerChoice::Ebpf => {
            let engine = Sampler::open(ground.targets, wanted, recorder, modules, naming, ground.now)?;
            Ok(Rung { engine: Box::new(engine), name: "eBPF", loses: None })
        }
        SamplerChoice::Perf => {
            let engine = PerfSampler::open(ground.targets, wanted, recorder, modules, naming, ground.now)?;
            let kernel = if engine.excludes_kernel() { ", time in the kernel is not sampled" } else { "" };
            let loses = format!(
                "sampling by perf events without eBPF: Python frames are read up to a millisecond after the sample{kernel}"
            );
            Ok(Rung { engine: Box::new(engine), name: "perf", loses: Some(loses) })
        }
        SamplerChoice::Memory => Err(Error::new(Kind::Unsupported, "this rung of the sampler is not built yet")),
    }
}
