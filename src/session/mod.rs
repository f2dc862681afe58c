//! The conductor: carries out a [`Plan`]: collectors, recording, names.
//!
//! In: a [`Plan`], a [`Stop`], a [`Progress`]. Out: an [`Outcome`] with the filled recording.

mod control;
mod ladder;
pub mod load;
mod measure;
pub mod mem;
mod naming;
pub mod plan;
mod rights;

pub use control::{Painter, Progress, Remark, Status, Stop};
pub use plan::Plan;

use std::sync::Arc;

use crate::collect::cpu::Target;
use crate::error::{Error, Kind, Result};
use crate::record::{Recorder, Store};
use crate::target::{Identity, Launched, ProcessTree};
use load::{Beside, Driven, LoadPlan};
use measure::Measured;
use plan::Targets;

/// What a session left.
#[derive(Debug)]
pub struct Outcome {
    /// The recording, complete with names: in the plan's file, or a temporary one when none was asked for.
    pub store: Store,
    /// Why the result is less than what was asked for, if it is (exit code 4).
    pub partial: Option<String>,
    /// The exit code of the started program, if it ended before the session did.
    pub child_exit: Option<i32>,
    /// What the load run beside it left, where there was one.
    pub load: Option<Driven>,
    /// The started program, if it still runs: waited for (or ended) after the results are written.
    pub child: Option<Launched>,
}

/// What happens when a snapshot is asked for: the store is flushed, and measuring goes on meanwhile.
pub type Snapshot<'a> = dyn FnMut(&Store) -> Result<()> + 'a;

/// Carries out `plan` until its duration, its targets or `stop` end it.
///
/// # Errors
/// `Gone`, `Denied`, `Unsupported` when nothing could be measured, `Usage` when the program to start cannot be.
pub fn run(plan: &Plan, stop: &Stop, progress: &Progress, snapshot: &mut Snapshot<'_>) -> Result<Outcome> {
    run_under_load(plan, None, stop, progress, snapshot)
}

/// As [`run`], while `load` drives the target: from the first tick to the end of the measurement, at most.
///
/// # Errors
/// As [`run`], and those of [`load::Drive::start`].
pub fn run_under_load(
    plan: &Plan,
    load: Option<LoadPlan>,
    stop: &Stop,
    progress: &Progress,
    snapshot: &mut Snapshot<'_>,
) -> Result<Outcome> {
    if let Targets::Processes(targets) = &plan.targets
        && let Some(headless) = targets.iter().find(|t| t.window != t.pid)
    {
        return Err(Error::new(
            Kind::Unsupported,
            format!(
                "the main thread of process {headless} has ended while others go on; such a process is not sampled"
            ),
        )
        .advise(format!("perfkit dump --pid {} shows where its threads stand", headless.pid)));
    }
    let recorder = Arc::new(Recorder::new());
    let mut child = match &plan.targets {
        Targets::Processes(_) => None,
        Targets::Launch(program) => Some(Launched::start(program)?),
    };
    let targets: Vec<Target> = match &plan.targets {
        Targets::Processes(identities) => {
            family(identities, plan.subprocesses).iter().map(|i| enter(i, &recorder)).collect()
        }
        Targets::Launch(_) => child.iter().map(|c| enter(c.identity(), &recorder)).collect(),
    };
    let load = load.map(|mut l| {
        // The measurement's duration rules.
        l.run_time_ns = [l.run_time_ns, plan.duration.map(|d| d.0)].into_iter().flatten().min();
        l
    });
    let mut beside = None;
    let mut hooks = Hooks { child: child.as_mut(), snapshot, load, beside: &mut beside, recorder: &recorder, stop };
    let measured = measure::measure(plan, &targets, &recorder, stop, progress, &mut hooks);
    // It ends with the measurement, however that ended.
    let driven = beside.map(Beside::finish).transpose();
    let Measured { mut store, mut partial } = measured?;
    let load = driven.unwrap_or_else(|e| {
        partial = partial.take().or(Some(format!("the load beside it failed: {e:#}")));
        None
    });
    if let Some(driven) = &load {
        let written = load::describe(&store, driven).and_then(|()| store.flush(&recorder));
        partial = partial.or(written.err().map(|e| format!("the recording lacks the load: {e:#}")));
    }
    let child_exit = child.as_mut().and_then(|c| c.try_wait().ok().flatten());
    let child = child.filter(|_| child_exit.is_none());
    Ok(Outcome { store, partial, child_exit, load, child })
}

/// The targets, and where children are followed those that exist already.
fn family(roots: &[Identity], follow: bool) -> Vec<Identity> {
    let mut all = roots.to_vec();
    if follow {
        let tree = ProcessTree::now();
        // A child that is gone by now, or may not be looked at, is none of the targets.
        let children = roots.iter().flat_map(|r| tree.descendants(r.pid)).filter_map(|m| Identity::of(m.pid).ok());
        for child in children {
            if !all.contains(&child) {
                all.push(child);
            }
        }
    }
    all
}

fn enter(identity: &Identity, recorder: &Recorder) -> Target {
    let row = crate::target::describe(identity.pid, identity.parent, identity.start_ticks);
    Target { pid: identity.pid, start_ticks: identity.start_ticks, id: recorder.process(row) }
}

struct Hooks<'a, 'b> {
    child: Option<&'a mut Launched>,
    snapshot: &'a mut Snapshot<'b>,
    load: Option<LoadPlan>,
    beside: &'a mut Option<Beside>,
    recorder: &'a Arc<Recorder>,
    stop: &'a Stop,
}

impl measure::Hooks for Hooks<'_, '_> {
    fn released(&mut self) -> Result<()> {
        self.child.as_mut().map_or(Ok(()), |c| c.release())?;
        if let Some(load) = self.load.take() {
            *self.beside = Some(Beside::start(load, Arc::clone(self.recorder), self.stop)?);
        }
        Ok(())
    }

    fn snapshot(&mut self, store: &Store) -> Result<()> {
        (self.snapshot)(store)
    }
}
