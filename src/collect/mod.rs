//! One file (or folder) a source; each ends in one running collector ([`Running`]) that feeds the recorder.
//!
//! In: a plan and a target. Out: events in `record::Recorder`. Invariant: a collector that fails ends alone; what it gave
//! the recorder stays.

use std::time::Duration;

use crate::clock::Mono;
use crate::error::Result;

pub mod cpu;
pub mod cpu_clock;
pub mod dump;
pub mod memory;
pub mod objects;
pub mod selfcost;

/// Whether a collector can work here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// As asked.
    Yes,
    /// With something missing; the text says what is lost.
    Limited(String),
}

/// A collector that has been started.
pub trait Running: Send {
    /// How long it can be left alone before [`Running::step`] is due.
    fn due(&self) -> Duration;

    /// Takes what has come since the last step and gives it to the recorder.
    ///
    /// # Errors
    /// Ends this collector; what it recorded stays.
    fn step(&mut self, now: Mono) -> Result<()>;

    /// Takes the rest, detaches, and says what was lost. The target is as it was found.
    fn finish(&mut self, now: Mono) -> Result<()>;
}
