//! How a running session is told to end, and how it tells how it is getting on.
//!
//! In: requests, set from signal handlers ([`Stop`]). Out: [`Status`] and remarks, handed to whoever paints them
//! ([`Progress`]). Invariant: nothing here blocks, prints or allocates on the asking side.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::plan::Verbosity;
use crate::units::{Bytes, Nanos};

/// Requests to a running session. Cheap to clone; the clones are one.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    finish: Arc<AtomicBool>,
    snapshot: Arc<AtomicBool>,
}

impl Stop {
    /// Nothing asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The flag for "finish and write everything", for a signal handler to set.
    pub fn finish_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.finish)
    }

    /// The flag for "write what there is and go on", for a signal handler to set.
    pub fn snapshot_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.snapshot)
    }

    /// Asks the session to finish.
    pub fn finish(&self) {
        self.finish.store(true, Ordering::SeqCst);
    }

    /// Whether the session should finish; stays so.
    pub fn is_finishing(&self) -> bool {
        self.finish.load(Ordering::SeqCst)
    }

    /// Whether a snapshot was asked for since the last call.
    pub fn take_snapshot(&self) -> bool {
        self.snapshot.swap(false, Ordering::SeqCst)
    }
}

/// How a session is getting on.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Status {
    /// Time since the first tick.
    pub elapsed: Nanos,
    /// Samples until now.
    pub samples: u64,
    /// Samples lost until now.
    pub lost: u64,
    /// CPU time that perfkit itself used since the last status, percent of one core.
    pub self_pct: Option<f64>,
    /// perfkit's own resident memory.
    pub self_rss: Option<Bytes>,
}

/// Something worth a line on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remark {
    /// How it is done; shown with `-v`.
    Detail,
    /// What the reader should know; not shown with `-q`.
    Note,
    /// What makes the result less than was asked for; always shown.
    Warning,
}

impl Remark {
    /// Whether a line of this weight is shown.
    pub fn is_shown(self, verbosity: Verbosity) -> bool {
        match self {
            Self::Detail => verbosity >= Verbosity::Verbose,
            Self::Note => verbosity >= Verbosity::Normal,
            Self::Warning => true,
        }
    }
}

/// Who paints progress and remarks.
pub trait Painter: Send + Sync {
    /// A new status; called a few times a second.
    fn status(&self, status: &Status);
    /// A line to be kept on the screen.
    fn remark(&self, remark: Remark, text: &str);
    /// The session measures no more: the line of progress goes away.
    fn done(&self) {}
}

/// The way from the session to the reader's eyes.
pub struct Progress(Box<dyn Painter>);

impl Progress {
    /// Painted by `painter`.
    pub fn new(painter: impl Painter + 'static) -> Self {
        Self(Box::new(painter))
    }

    /// Into nowhere.
    pub fn silent() -> Self {
        Self::new(Silent)
    }

    /// Says how it is getting on.
    pub fn update(&self, status: &Status) {
        self.0.status(status);
    }

    /// Says something of weight `remark`: one line, without a full stop or newline at its end.
    pub fn say(&self, remark: Remark, text: &str) {
        self.0.remark(remark, text);
    }

    /// [`Remark::Note`]: what the reader should know.
    pub fn note(&self, text: &str) {
        self.say(Remark::Note, text);
    }

    /// Says that measuring has ended.
    pub fn done(&self) {
        self.0.done();
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}

struct Silent;

impl Painter for Silent {
    fn status(&self, _: &Status) {}
    fn remark(&self, _: Remark, _: &str) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finishing_stays_and_a_snapshot_is_taken_once() {
        let stop = Stop::new();
        let copy = stop.clone();
        assert!(!stop.is_finishing() && !stop.take_snapshot());
        copy.finish();
        copy.snapshot_flag().store(true, Ordering::SeqCst);
        assert!(stop.is_finishing() && stop.is_finishing());
        assert!(stop.take_snapshot() && !stop.take_snapshot());
    }

    #[test]
    fn quiet_shows_warnings_only() {
        let shown = |v| [Remark::Detail, Remark::Note, Remark::Warning].map(|r| r.is_shown(v));
        assert_eq!(shown(Verbosity::Quiet), [false, false, true]);
        assert_eq!(shown(Verbosity::Normal), [false, true, true]);
        assert_eq!(shown(Verbosity::Verbose), [true, true, true]);
    }
}
