//! The one integration test binary of perfkit: one link, one rig, one module a subject.
//!
//! Conventions: a test whose name contains `live` runs real targets under a real perfkit and gets the machine for itself
//! (nextest's group `live`). No test sleeps to wait, retries, or skips in silence: see [`rig::skip`].

#![allow(
    clippy::unwrap_used,
    reason = "everything here is a test: what cannot be done fails it, helpers of tests included"
)]

mod cli;
mod container;
mod demo;
mod dump;
mod freeze;
mod ladder;
mod layers;
mod live_truth;
mod live_weather;
mod load;
mod mem;
mod mem_leaks;
mod mutation;
#[allow(dead_code, reason = "what a recording says is wider than what one state of the tests asks")]
mod profiled;
mod python;
mod render;
#[allow(dead_code, reason = "the rig is wider than what one state of the tests uses")]
mod rig;
mod symbol;
mod targets;
mod world;
