//! THE MODEL: what a recording holds, in memory while it grows and in one SQLite file when it is kept.
//!
//! In: [`Event`]s from collectors, with the processes, threads, frames and stacks they refer to (interned here). Out: the
//! tables of `schema.sql`, written a transaction a second, and [`Recording`], the read side that analysis starts from.
//! Invariants: every fact carries CLOCK_MONOTONIC nanoseconds; ids are row ids and never change; a lost sample or a gap
//! is a row, never an absence; frame names may come later than the frame (`UPDATE frame`), samples are never rewritten.

pub mod census;
pub mod dump;
pub mod load;
pub mod load_part;
pub mod load_view;
mod model;
mod read;
mod recorder;
pub mod requests;
pub mod series;
pub mod slices;
mod store;
#[cfg(test)]
mod views;

pub use model::{
    Event, Frame, FrameId, FrameKind, Inline, Loss, Mark, Process, ProcessId, Reading, Sample, SampleFlags, Stack,
    StackId, State, Thread, ThreadId,
};
pub use read::Recording;
pub use recorder::{FrameKey, Recorder};
pub use store::{SCHEMA, SCHEMA_VERSION, Store};
