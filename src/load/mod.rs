//! The load generator: scenarios compiled before the run, users as state machines on a thread a core.

pub mod chance;
pub mod http;
pub mod jsonpath;
pub mod scenario;
pub mod tree;
pub mod wheel;
pub mod program;
pub mod script;
pub mod course;
pub mod tally;
pub mod engine;
pub mod report;
