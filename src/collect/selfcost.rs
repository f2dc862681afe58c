//! What perfkit itself costs: CPU time and memory, as readings like any other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Mono;
use crate::record::{Event, Reading, Recorder};

/// CPU time, ns, of threads of this process that drive a load: no cost of measuring. Each counts up.
static LOAD_NS: Mutex<Vec<Arc<AtomicU64>>> = Mutex::new(Vec::new());

/// Leaves the CPU time that `ns` counts, in nanoseconds and from 0 up, out of perfkit's own cost from now on.
pub fn leave_out(ns: Arc<AtomicU64>) {
    LOAD_NS.lock().unwrap_or_else(PoisonError::into_inner).push(ns);
}

/// What all loads have used.
fn load_ns() -> u64 {
    let all = LOAD_NS.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().map(|ns| ns.load(Ordering::Relaxed)).sum()
}

/// perfkit's own consumption at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SelfCost {
    /// User and system time of all threads since the start, but for those that drive a load ([`leave_out`]), ns. `None`
    /// when the kernel does not say.
    pub cpu_ns: Option<u64>,
    /// Resident memory, bytes.
    pub rss_bytes: Option<u64>,
    /// The anonymous part of it (no file or ring behind it), bytes.
    pub anon_bytes: Option<u64>,
}

impl SelfCost {
    /// Reads it.
    pub fn now() -> Self {
        let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).ok();
        let ns = |t: nix::sys::time::TimeVal| t.tv_sec() as u64 * 1_000_000_000 + t.tv_usec() as u64 * 1_000;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name))?;
            Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
        };
        Self {
            cpu_ns: usage.map(|u| (ns(u.user_time()) + ns(u.system_time())).saturating_sub(load_ns())),
            rss_bytes: field("VmRSS:"),
            anon_bytes: field("RssAnon:"),
        }
    }

    /// Records it at `at`.
    pub fn record(&self, at: Mono, recorder: &Recorder) {
        for (metric, value) in
            [("self.cpu_ns", self.cpu_ns), ("self.rss_bytes", self.rss_bytes), ("self.anon_bytes", self.anon_bytes)]
        {
            if let Some(value) = value {
                recorder.put(Event::Reading(Reading { at, metric, scope: String::new(), value: value as f64 }));
            }
        }
    }
}
