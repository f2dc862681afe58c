//! The CPU collector: samples of stacks and the time they stand for.

pub mod merge;
