//! What the kernel counts of CPU time, where timers do not see it all.
//!
//! [`KernelTime`]: time in the kernel, for users whose timers may not look there.
//! In: the processes. Out: samples of each thread's time in the kernel, under the label `[kernel]` and nothing else. With
//! `exclude_kernel` a tick inside the kernel is no sample: without this, functions that make system calls would seem
//! cheaper than they are and the shares of all others too large. Source: `stime` of `/proc/PID/task/TID/stat`. Limits:
//! in clock ticks (10 ms); a thread that ends takes up to a second of it with it.

use nix::time::ClockId;
use nix::unistd::Pid;
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

/// The CPU time of whole processes, ended threads included: what all samples together should come to.
#[derive(Debug, Default)]
pub(super) struct CpuTime(FxHashMap<u32, (u64, u64)>);

impl CpuTime {
    /// Reads the clocks; the first reading of a process that was `met` while sampling counts from its birth.
    pub(super) fn read(&mut self, roster: &Roster, met: bool) {
        for &pid in roster.members.keys() {
            let Some(now) = cpu_clock(pid) else { continue };
            self.0.entry(pid).or_insert((if met { 0 } else { now }, now)).1 = now;
        }
    }

    /// CPU time of all of them from the first reading to the last, ns.
    pub(super) fn total(&self) -> u64 {
        self.0.values().map(|(first, last)| last.saturating_sub(*first)).sum()
    }
}

/// CPU time of a process, ns; anybody may read it.
fn cpu_clock(pid: u32) -> Option<u64> {
    let time = ClockId::pid_cpu_clock_id(Pid::from_raw(pid as i32)).ok()?.now().ok()?;
    Some(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
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
        assert!(super::cpu_clock(me).is_some_and(|ns| ns > 0));
        assert_eq!(super::cpu_clock((1 << 22) - 1), None);
    }
}
