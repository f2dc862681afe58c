//! Signals: the first Ctrl-C finishes, the second aborts, SIGTERM finishes, SIGUSR1 asks for a snapshot.
//!
//! A file that grows over `ulimit -f` is no end either. SIGHUP finishes too (the terminal went away), unless it was ignored when perfkit started (nohup). Aborting ends perfkit
//! at once with code 130: everything it holds on the target is file descriptors, which the kernel closes.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::flag;

use crate::error::{Error, Result};
use crate::session::Stop;

/// The code of a run that was aborted: 128 + SIGINT, as shells have it.
const ABORTED: i32 = 130;

/// Signals wired to a [`Stop`].
#[derive(Debug)]
pub struct Signals {
    stop: Stop,
    interrupted: Arc<AtomicBool>,
}

impl Signals {
    /// Takes over the signals for the rest of perfkit's life.
    ///
    /// # Errors
    /// `Io` when a handler cannot be installed.
    pub fn listen() -> Result<Self> {
        let stop = Stop::new();
        let interrupted = Arc::new(AtomicBool::new(false));
        let wire = || -> std::io::Result<()> {
            // Handlers run in the order of their registration: this one sees what the Ctrl-C before has left.
            flag::register_conditional_shutdown(SIGINT, ABORTED, Arc::clone(&interrupted))?;
            flag::register(SIGINT, Arc::clone(&interrupted))?;
            flag::register(SIGUSR1, stop.snapshot_flag())?;
            // A file over the limit (ulimit -f) is then an error of the write, as on a full disk, and not our end.
            flag::register(SIGXFSZ, Arc::default())?;
            for signal in [SIGINT, SIGTERM] {
                flag::register(signal, stop.finish_flag())?;
            }
            if !is_ignored(SIGHUP) {
                flag::register(SIGHUP, stop.finish_flag())?;
            }
            Ok(())
        };
        wire().map_err(|e| Error::io("cannot listen to signals", e))?;
        Ok(Self { stop, interrupted })
    }

    /// What the session looks at.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Whether a Ctrl-C came: the terminal sent it to a program started by us, too.
    pub fn was_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::SeqCst)
    }
}

/// Whether perfkit was started with `signal` ignored (bit `signal - 1` of `SigIgn`, proc(5)).
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (signal - 1)) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_ignores_sigpipe_and_nothing_else_of_ours() {
        assert!(is_ignored(signal_hook::consts::SIGPIPE));
        assert!(!is_ignored(SIGTERM));
    }
}
