//! A load run that is recorded: alone, or beside a measurement on the same clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Drive, Driven, LoadPlan};
use crate::clock::{Clock, Mono, SystemClock};
use crate::error::{Error, Kind, Result};
use crate::record::{Recorder, Store};
use crate::session::Stop;

/// A load run beside a measurement: listened to on a thread of its own, ended with the measurement.
#[derive(Debug)]
pub struct Beside {
    halt: Arc<AtomicBool>,
    thread: JoinHandle<Result<Driven>>,
}

impl Beside {
    /// Starts `plan`; it ends by itself, by `stop`, or by [`Beside::finish`]. When it ends by itself, so does the session.
    ///
    /// # Errors
    /// As [`Drive::start`].
    pub fn start(plan: LoadPlan, recorder: Arc<Recorder>, stop: &Stop) -> Result<Self> {
        let mut drive = Drive::start(plan, Some(recorder))?;
        let halt = Arc::new(AtomicBool::new(false));
        let (halted, stop) = (Arc::clone(&halt), stop.clone());
        let work = move || {
            while !drive.listen(Duration::from_millis(50)).done {
                if halted.load(Ordering::SeqCst) || stop.is_finishing() {
                    drive.stop();
                }
            }
            stop.finish();
            drive.finish()
        };
        let thread = std::thread::Builder::new().name("perfkit-load".into()).spawn(work);
        Ok(Self { halt, thread: thread.map_err(|e| Error::io("cannot start the thread that listens to the load", e))? })
    }

    /// Ends the run, if it has not ended, and takes what it left.
    ///
    /// # Errors
    /// As [`Drive::finish`].
    pub fn finish(self) -> Result<Driven> {
        self.halt.store(true, Ordering::SeqCst);
        self.thread.join().map_err(|_| Error::new(Kind::Bug, "the thread that listens to the load panicked"))?
    }
}

/// The recording of a load run alone.
#[derive(Debug)]
pub struct LoadRecording {
    store: Store,
    recorder: Arc<Recorder>,
    flushed: Mono,
}

impl LoadRecording {
    /// Creates it at `path`, for what a run puts into `recorder`.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub fn create(path: &std::path::Path, replace: bool, words: &str, recorder: Arc<Recorder>) -> Result<Self> {
        let store = Store::create(path, replace)?;
        store.set_meta("command", "load")?;
        store.set_meta("load", words)?;
        store.set_meta("perfkit", env!("CARGO_PKG_VERSION"))?;
        store.anchor(SystemClock.anchor())?;
        // Rows are added and never looked at again.
        store.keep_small(256)?;
        Ok(Self { store, recorder, flushed: SystemClock.now() })
    }

    /// Writes what is new, once a second.
    ///
    /// # Errors
    /// `Io` when the file cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        let now = SystemClock.now();
        if now.since(self.flushed) < 1_000_000_000 {
            return Ok(());
        }
        self.flushed = now;
        self.store.flush(&self.recorder)
    }

    /// Writes the rest.
    ///
    /// # Errors
    /// `Io` when the file cannot be written.
    pub fn close(mut self, driven: &Driven) -> Result<()> {
        describe(&self.store, driven)?;
        self.store.set_meta("started_ns", &driven.start.0.to_string())?;
        let ended = driven.start.plus((driven.report.totals.duration_s * 1e9) as u64);
        self.store.set_meta("ended_ns", &ended.0.to_string())?;
        self.store.anchor(SystemClock.anchor())?;
        self.store.flush(&self.recorder)?;
        self.store.close()
    }
}

/// Keeps the report of a load run in a recording.
///
/// # Errors
/// `Io` when it cannot be written.
pub fn describe(store: &Store, driven: &Driven) -> Result<()> {
    let text = serde_json::to_string(&driven.report)
        .map_err(|e| Error::new(Kind::Bug, "the report cannot be written as JSON").caused_by(e))?;
    store.set_meta("load_report", &text)
}
