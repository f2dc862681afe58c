//! Load runs: a recorded one as a report, and two of them beside each other.
//!
//! In: the load part of a recording, or slices of a run that has just ended. Out: [`LoadReport`](crate::record::load::LoadReport)
//! and [`Comparison`](crate::record::load::Comparison). Nothing here looks at anything but its arguments.

mod compare;
mod rebuild;

pub use compare::{Run, compare};
pub use rebuild::{Rebuilt, rebuild};
