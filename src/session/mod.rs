//! The conductor: carries out a [`Plan`]: collectors, recording, names.
//!
//! In: a [`Plan`], a [`Stop`], a [`Progress`]. Out: an [`Outcome`] with the filled recording.

mod control;
pub mod plan;

pub use control::{Painter, Progress, Remark, Status, Stop};
pub use plan::Plan;

use crate::error::{Error, Kind, Result};
use crate::record::Store;
use crate::target::Launched;

/// What a session left.
#[derive(Debug)]
pub struct Outcome {
    /// The recording, complete with names: in the plan's file, or in memory when none was asked for.
    pub store: Store,
    /// Why the result is less than what was asked for, if it is (exit code 4).
    pub partial: Option<String>,
    /// The exit code of the started program, if it ended before the session did.
    pub child_exit: Option<i32>,
    /// The started program, if it still runs: waited for (or ended) after the results are written.
    pub child: Option<Launched>,
}

/// What happens when a snapshot is asked for: the store is flushed, and measuring goes on meanwhile.
pub type Snapshot<'a> = dyn FnMut(&Store) -> Result<()> + 'a;

/// Carries out `plan` until its duration, its targets or `stop` end it.
///
/// # Errors
/// `Gone`, `Denied`, `Unsupported` when nothing could be measured.
pub fn run(plan: &Plan, stop: &Stop, progress: &Progress, snapshot: &mut Snapshot<'_>) -> Result<Outcome> {
    let _ = (plan, stop, progress, snapshot);
    Err(Error::new(Kind::Unsupported, "no sampler is built into this perfkit"))
}
