//! The kernel, wrapped in owned, safe types. The only place with `unsafe`.
//!
//! In: system calls, perf rings, eBPF, `/proc`. Out: plain data and Drop types. Invariant: whatever ends perfkit, a
//! panic and kill -9 included, the target is as it was found: nothing here writes to it or leaves a trace that outlives
//! our file descriptors, and nothing stops it but [`freeze`], for as long as the user allows.

pub mod bpf;
pub mod elf;
pub mod epoll;
pub mod freeze;
pub mod launch;
pub mod limits;
pub mod memory;
pub mod perf;
pub mod pidfd;
pub mod schedule;
pub mod terminal;
