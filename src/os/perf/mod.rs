//! `perf_event_open(2)`: events, and the rings that the kernel writes their records into.
//!
//! In: what to count, on which thread or CPU. Out: [`Event`] (an fd that ends with us) and [`Ring`] (a mapped ring, read in
//! place). Everything hangs on file descriptors: kill -9 of perfkit removes it all from the target.
//! Source: linux/perf_event.h, perf_event_open(2).

mod event;
mod record;
mod ring;

pub use event::{Attr, Clockwork, Event, Layout, Scope};
pub use record::{Exit, Mmap, Record, StackSample, parse};
pub use ring::Ring;
