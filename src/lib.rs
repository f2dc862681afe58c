//! perfkit: find out why a running service is slow, why it grows and what it waits for, from outside, on one clock.
//!
//! ```text
//! target process ──> collect ──> record (one SQLite file, one clock) ──> analysis ──> render
//! ```
//!
//! The layer rule (a test enforces it): nothing imports `cli`; `analysis` and `render` never import `os`, `target`,
//! `collect` or `session`; `record` imports nothing above `clock`, `units` and `error`; `unsafe` lives in `os` alone.

pub mod analysis;
pub mod cli;
pub mod clock;
pub mod collect;
pub mod demo;
pub mod error;
pub mod load;
pub mod native;
pub mod os;
pub mod python;
pub mod record;
pub mod render;
pub mod session;
pub mod symbol;
pub mod target;
pub mod tui;
pub mod units;
pub mod web;
