//! What scripts have to tell beside their requests: exceptions that nobody caught, lines they printed, and that the run is
//! to end. Shared by all threads, written seldom.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::record::load::ExceptionRow;

/// Distinct exceptions that are kept apart.
const EXCEPTIONS: usize = 500;
/// Lines that are kept, the newest.
const LINES: usize = 1000;

/// The journal of a run.
#[derive(Debug, Default)]
pub struct Journal {
    inner: Mutex<Inner>,
    end: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    exceptions: Vec<ExceptionRow>,
    lines: VecDeque<String>,
}

impl Journal {
    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts an exception; those beyond 500 different ones share a line.
    pub fn raised(&self, message: String, traceback: String) {
        self.with(|inner| {
            let known = |e: &&mut ExceptionRow| e.message == message && e.traceback == traceback;
            if let Some(seen) = inner.exceptions.iter_mut().find(known) {
                seen.count += 1;
            } else if inner.exceptions.len() < EXCEPTIONS {
                inner.exceptions.push(ExceptionRow { message, traceback, count: 1 });
            } else if let Some(rest) = inner.exceptions.get_mut(EXCEPTIONS - 1) {
                "(other exceptions)".clone_into(&mut rest.message);
                rest.traceback.clear();
                rest.count += 1;
            }
        });
    }

    /// The exceptions until now.
    pub fn exceptions(&self) -> Vec<ExceptionRow> {
        self.with(|inner| inner.exceptions.clone())
    }

    /// Notes what was printed or logged, a line or several; what would steer a terminal becomes U+FFFD.
    pub fn say(&self, text: &str) {
        self.with(|inner| {
            for line in text.lines() {
                if inner.lines.len() >= LINES {
                    inner.lines.pop_front();
                }
                let shown = |c: char| if c.is_control() && c != '\t' { '\u{fffd}' } else { c };
                inner.lines.push_back(line.chars().map(shown).collect());
            }
        });
    }

    /// The lines since the last call, the newest thousand.
    pub fn take_lines(&self) -> Vec<String> {
        self.with(|inner| inner.lines.drain(..).collect())
    }

    /// Forgets the exceptions (`--reset-stats`).
    pub fn reset(&self) {
        self.with(|inner| inner.exceptions.clear());
    }

    /// Asks for the end of the run.
    pub fn end_run(&self) {
        self.end.store(true, Ordering::Relaxed);
    }

    /// Whether a script has asked for the end of the run.
    pub fn wants_end(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_counted_and_bounded() {
        let journal = Journal::default();
        for i in 0..1000 {
            journal.raised(format!("KeyError({})", i % 600), String::new());
        }
        let seen = journal.exceptions();
        assert_eq!(seen.len(), EXCEPTIONS);
        assert_eq!(seen.iter().map(|e| e.count).sum::<u64>(), 1000);
        assert_eq!(seen[0].count, 2);
        for i in 0..1500 {
            journal.say(&format!("line {i}"));
        }
        let lines = journal.take_lines();
        assert_eq!((lines.len(), lines[0].as_str()), (LINES, "line 500"));
        assert!(journal.take_lines().is_empty() && !journal.wants_end());
        journal.say("two\nlines, \x1b[2J steered");
        assert_eq!(journal.take_lines(), ["two", "lines, \u{fffd}[2J steered"]);
    }
}
