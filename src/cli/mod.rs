//! The command line: turns words into a [`Plan`](crate::session::Plan), paints progress, writes results, picks the exit code.
