//! CPU and memory of a process beside a load run: the target's, and perfkit's own.

use procfs::process::Process;

use crate::clock::{Clock, Mono, SystemClock};

/// A process that is looked at now and then. A process id that is given to another program is not followed.
#[derive(Debug)]
pub struct Watched {
    pid: u32,
    started: u64,
    last: Option<(Mono, u64)>,
}

/// What it used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Used {
    /// CPU since the last look, percent of one core; `None` at the first.
    pub cpu_pct: Option<f64>,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
}

impl Watched {
    /// Process `pid`; `None` when there is none.
    pub fn new(pid: u32) -> Option<Self> {
        let stat = Process::new(pid as i32).ok()?.stat().ok()?;
        Some(Self { pid, started: stat.starttime, last: None })
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it uses now; `None` when it is gone.
    pub fn look(&mut self) -> Option<Used> {
        let stat = Process::new(self.pid as i32).ok()?.stat().ok()?;
        if stat.starttime != self.started || stat.state == 'Z' {
            return None;
        }
        let (now, ticks) = (SystemClock.now(), stat.utime + stat.stime);
        let rate = procfs::ticks_per_second() as f64;
        let cpu_pct = self.last.and_then(|(at, before)| {
            let seconds = now.since(at) as f64 / 1e9;
            (seconds > 0.0).then(|| 100.0 * ticks.saturating_sub(before) as f64 / rate / seconds)
        });
        self.last = Some((now, ticks));
        Some(Used { cpu_pct, rss_bytes: stat.rss * procfs::page_size() })
    }
}
