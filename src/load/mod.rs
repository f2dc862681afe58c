//! The load generator: scenarios compiled before the run, users as state machines on a thread a core.

pub mod chance;
pub mod locust;
