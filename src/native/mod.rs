//! Native code seen from outside: unwinding stacks that were copied with a sample.

pub mod unwind;
