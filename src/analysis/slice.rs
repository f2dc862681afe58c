//! A stretch of a recording: `--from 10s --to 20s`, `--from -10s`.
//!
//! In: two optional points as the user typed them. Out: a [`Window`] on the recording's clock. Invariant: a window that
//! was asked for is not empty and touches the recording; else it is a usage error that says how long the recording is.

use std::str::FromStr;

use crate::clock::Mono;
use crate::error::{Error, Result};
use crate::record::Recording;
use crate::units::Nanos;

/// A point of a recording, counted from its start or back from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// That long after the start.
    AfterStart(Nanos),
    /// That long before the end.
    BeforeEnd(Nanos),
}

impl FromStr for Point {
    type Err = Error;

    /// `12s`, `1m30`, `-10s` (the last ten seconds).
    fn from_str(text: &str) -> Result<Self> {
        match text.trim().strip_prefix('-') {
            Some(back) => back.parse().map(Self::BeforeEnd),
            None => text.parse().map(Self::AfterStart),
        }
    }
}

/// What was asked for; `None` is the recording's own edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slice {
    /// Where the slice begins.
    pub from: Option<Point>,
    /// Where it ends.
    pub to: Option<Point>,
}

/// A slice on the recording's clock. An edge that was not asked for does not cut: facts stamped a little outside of the
/// recording's own start and end still belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The first instant.
    pub from: Mono,
    /// The first instant behind it.
    pub to: Mono,
    /// Whether `from` was asked for and cuts.
    pub cut_from: bool,
    /// Whether `to` was asked for and cuts.
    pub cut_to: bool,
}

impl Slice {
    /// The window on `rec`'s clock.
    ///
    /// # Errors
    /// `Usage` when the slice is empty or lies outside of the recording.
    pub fn window(&self, rec: &Recording) -> Result<Window> {
        let (from, to) = self.bounds(rec.started(), rec.ended().max(rec.started()))?;
        Ok(Window { from, to, cut_from: self.from.is_some(), cut_to: self.to.is_some() })
    }

    /// The first instant, and the first one behind, of something that lasts from `start` to `end`.
    ///
    /// # Errors
    /// As [`Self::window`].
    pub fn bounds(&self, start: Mono, end: Mono) -> Result<(Mono, Mono)> {
        let at = |point: Point| match point {
            Point::AfterStart(n) => start.plus(n.0),
            Point::BeforeEnd(n) => Mono(end.0.saturating_sub(n.0)).max(start),
        };
        let from = self.from.map_or(start, at);
        let to = self.to.map_or(end, at).min(end);
        if (self.from.is_some() || self.to.is_some()) && from >= to {
            let length = Nanos(end.since(start));
            return Err(Error::usage(format!("nothing lies between --from and --to: the recording is {length} long"))
                .advise("give times from its start (--from 10s --to 20s) or back from its end (--from -10s)"));
        }
        Ok((from, to))
    }
}

impl Window {
    /// Its length.
    pub fn length(&self) -> Nanos {
        Nanos(self.to.since(self.from))
    }

    /// Whether this is the whole recording.
    pub fn is_whole(&self) -> bool {
        !self.cut_from && !self.cut_to
    }

    /// Whether the instant `at` belongs to it.
    pub fn contains(&self, at: Mono) -> bool {
        (!self.cut_from || at >= self.from) && (!self.cut_to || at < self.to)
    }

    /// The part of the interval `[at, at + length)` that lies in the window, as `(begin, length)`; `None` where they do
    /// not overlap. An interval of no length belongs to the window that contains its instant.
    pub fn clip(&self, at: Mono, length: u64) -> Option<(Mono, u64)> {
        if length == 0 {
            return self.contains(at).then_some((at, 0));
        }
        let begin = if self.cut_from { at.max(self.from) } else { at };
        let end = if self.cut_to { at.plus(length).min(self.to) } else { at.plus(length) };
        (end > begin).then(|| (begin, end.since(begin)))
    }

    /// Whether `[from, to]` touches the window.
    pub fn touches(&self, from: Mono, to: Mono) -> bool {
        (!self.cut_from || to >= self.from) && (!self.cut_to || from < self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording() -> Recording {
        let mut rec = Recording::default();
        rec.meta.insert("started_ns".into(), "1000000000".into());
        rec.meta.insert("ended_ns".into(), "61000000000".into());
        rec
    }

    fn window(from: Option<&str>, to: Option<&str>) -> Result<Window> {
        let point = |t: Option<&str>| t.map(|t| t.parse().unwrap());
        Slice { from: point(from), to: point(to) }.window(&recording())
    }

    #[test]
    fn points_count_from_both_ends() {
        let w = window(Some("10s"), Some("20s")).unwrap();
        assert_eq!((w.from.0, w.to.0), (11_000_000_000, 21_000_000_000));
        let w = window(Some("-10s"), None).unwrap();
        assert_eq!((w.from.0, w.to.0, w.cut_to), (51_000_000_000, 61_000_000_000, false));
        assert_eq!(window(None, None).unwrap().length(), Nanos(60_000_000_000));
        assert_eq!(window(Some("50s"), Some("5m")).unwrap().length(), Nanos(10_000_000_000));
    }

    #[test]
    fn an_empty_slice_is_refused_with_the_length() {
        for (from, to) in [(Some("20s"), Some("10s")), (Some("2m"), None), (None, Some("0"))] {
            assert!(window(from, to).unwrap_err().to_string().contains("60.0 s long"));
        }
    }

    #[test]
    fn intervals_are_clipped_and_instants_are_not() {
        let w = window(Some("10s"), Some("20s")).unwrap();
        assert_eq!(w.clip(Mono(1_000_000_000), 60_000_000_000), Some((w.from, 10_000_000_000)));
        assert_eq!(w.clip(Mono(20_000_000_000), 9_000_000_000), Some((Mono(20_000_000_000), 1_000_000_000)));
        assert_eq!(w.clip(Mono(1_000_000_000), 10_000_000_000), None);
        assert!(w.contains(w.from) && !w.contains(w.to));
    }
}
