//! Renderers against goldens, and against the programs that their files are for.
//!
//! `PERFKIT_BLESS=1 cargo test --test suite render` rewrites the goldens under `tests/data/render`; look at the diff.

mod consumers;
mod goldens;
mod large;
mod service;
