//! Does a series grow, how, and how sure is that: the statistics under the verdict of `perfkit mem`.
//!
//! In: points of a series by seconds. Out: a [`Trend`]. Invariants: pure; no threshold is crossed by one point: the
//! series' lower envelope is judged, so that garbage collections and bursts do not count as growth; a series that could
//! yet come to rest is never called growing. Sources of the rule: Mann 1945 and Kendall (the test), Theil 1950 and Sen
//! 1968 (slope and interval); why not the test alone: `src/docs/memory.md`.

mod rank;
mod shape;
pub mod verdict;

pub use rank::{mann_kendall, theil_sen};
pub use shape::{Plateau, Shape, Trend, trend};
pub use verdict::{Evidence, Grown, Judged, Objects, Suspect, judge};

#[cfg(test)]
mod synthetic;
