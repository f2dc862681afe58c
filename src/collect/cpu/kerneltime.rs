//! Time in the kernel, for users whose timers may not look there.
//!
//! In: the processes. Out: samples of each thread's time in the kernel, under the label `[kernel]` and nothing else. With
//! `exclude_kernel` a tick inside the kernel is no sample: without this, functions that make system calls would seem
//! cheaper than they are and the shares of all others too large. Source: `stime` of `/proc/PID/task/TID/stat`. Limits:
//! in clock ticks (10 ms); a thread that ends takes up to a second of it with it.

use rustc_hash::FxHashMap;

use super::perthread::threads_of;
use super::roster::Roster;
use crate::clock::Mono;
use crate::record::State;

/// A clock tick (`sysconf(_SC_CLK_TCK)`, 100 on every Linux since 2.6), ns.
const TICK_NS: u64 = 10_000_000;

/// What each thread had spent at the last look, clock ticks.
#[derive(Debug, Default)]
pub(super) struct KernelTime(FxHashMap<u32, u64>);

impl KernelTime {
    /// Counts from here on.
    pub(super) fn start(&mut self, roster: &Roster) {
        for &pid in roster.members.keys() {
            for tid in threads_of(pid) {
                self.0.insert(tid, stime(pid, tid).unwrap_or(0));
            }
        }
    }

    /// Records what came since the last look.
    pub(super) fn account(&mut self, roster: &mut Roster, now: Mono) {
        let pids: Vec<u32> = roster.members.keys().copied().collect();
        let mut alive = FxHashMap::default();
        for pid in pids {
            for tid in threads_of(pid) {
                let Some(spent) = stime(pid, tid) else { continue };
                alive.insert(tid, spent);
                let new = spent.saturating_sub(self.0.get(&tid).copied().unwrap_or(0));
                if new > 0 {
                    roster.unseen((pid, tid), "[kernel]", new * TICK_NS, State::OnCpu, now);
                }
            }
        }
        self.0 = alive;
    }
}

/// Time in the kernel, clock ticks: field 15 (proc(5)).
fn stime(pid: u32, tid: u32) -> Option<u64> {
    let text = std::fs::read(format!("/proc/{pid}/task/{tid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace().nth(12)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn our_own() {
        let me = std::process::id();
        assert!(super::stime(me, me).is_some());
        assert_eq!(super::stime(me, 0), None);
    }
}
