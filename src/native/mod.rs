//! Native code seen from outside: unwinding stacks that were copied with a sample.

pub mod asleep;
mod backchain;
mod functions;
mod instruction;
pub mod syscalls;
pub mod unwind;
