//! The load generator: scenarios compiled before the run, users as state machines on a thread a core.

pub mod attendance;
pub mod chance;
pub mod course;
pub mod engine;
pub mod http;
pub mod journal;
pub mod jsonpath;
pub mod locust;
pub mod program;
pub mod report;
pub mod scenario;
pub mod script;
pub mod slowest;
pub mod stop_on;
pub mod tally;
pub mod tree;
pub mod wheel;
