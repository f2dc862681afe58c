//! What the targets used of the CPUs, by the kernel's own account, and what the hypervisor took from the machine.
//!
//! In: the targets' pids. Out: the readings `target.cpu_ns` (CPU time since attaching, of all threads, ended ones
//! included), `host.cpu_ns` (time of all CPUs, idle included) and `host.steal_ns` (of that, what the hypervisor gave to
//! others). Samples are held against them: the achieved rate is samples a second of `target.cpu_ns`.
//!
//! Limits: followed children count while they live and, by `/proc/PID/stat`'s 10 ms ticks, once their parent has reaped
//! them; one that nobody waits for is lost with what it used. A process that is reaped counts up to the last look.

use std::fs;

use nix::sys::time::TimeValLike;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::clock::Mono;
use crate::record::{Event, Reading, Recorder};
use crate::target::children;

/// Length of a tick of `/proc`, ns: USER_HZ is 100 on x86-64 (include/uapi/asm-generic/param.h).
const TICK_NS: u64 = 10_000_000;
/// Descendants that are looked at; a family that is larger is counted by those.
const FAMILY_LIMIT: usize = 4096;

/// The CPU time of a set of processes since it was made.
#[derive(Debug)]
pub struct CpuClock {
    roots: Vec<Root>,
    follow: bool,
    /// The largest sum so far: a process that ends takes its clock along.
    used_ns: u64,
}

/// A process that is a target by itself.
#[derive(Debug)]
struct Root {
    pid: u32,
    before_ns: u64,
    last_ns: u64,
}

impl CpuClock {
    /// Starts at zero now. With `follow` the children of `pids` count too, those that exist and those that come.
    pub fn start(pids: impl IntoIterator<Item = u32>, follow: bool) -> Self {
        let mut pids: Vec<u32> = pids.into_iter().collect();
        if follow {
            // A child of another target counts with its parent.
            let families: Vec<u32> = pids.iter().flat_map(|&pid| descendants(pid)).collect();
            pids.retain(|pid| !families.contains(pid));
        }
        let mut clock = Self { roots: Vec::new(), follow, used_ns: 0 };
        clock.roots = pids.iter().map(|&pid| Root { pid, before_ns: 0, last_ns: 0 }).collect();
        for root in &mut clock.roots {
            root.before_ns = of_root(root.pid, follow).unwrap_or(0);
            root.last_ns = root.before_ns;
        }
        clock
    }

    fn look(&mut self) {
        for root in &mut self.roots {
            if let Some(ns) = of_root(root.pid, self.follow) {
                root.last_ns = root.last_ns.max(ns);
            }
        }
        self.used_ns = self.roots.iter().map(|r| r.last_ns - r.before_ns).sum();
    }

    /// Looks where that is cheap. Between two readings this keeps what a process had used before it was reaped.
    pub fn glance(&mut self) {
        if !self.follow {
            self.look();
        }
    }

    /// Looks, and records it as of `at`, with the host's account.
    pub fn record(&mut self, at: Mono, recorder: &Recorder) {
        self.look();
        let put = |metric, value: u64| {
            recorder.put(Event::Reading(Reading { at, metric, scope: String::new(), value: value as f64 }));
        };
        put("target.cpu_ns", self.used_ns);
        if let Some((all, stolen)) = fs::read_to_string("/proc/stat").ok().and_then(|text| host(&text)) {
            put("host.cpu_ns", all);
            put("host.steal_ns", stolen);
        }
    }
}

/// CPU time of `pid`, with that of its family; `None` when it is gone.
fn of_root(pid: u32, follow: bool) -> Option<u64> {
    let own = of_process(pid)?;
    if !follow {
        return Some(own);
    }
    let living: u64 = descendants(pid).into_iter().filter_map(|d| Some(of_process(d)? + reaped(d))).sum();
    Some(own + reaped(pid) + living)
}

/// CPU time of all threads of `pid`, living or ended (`clock_getcpuclockid(3)`), ns.
fn of_process(pid: u32) -> Option<u64> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?);
    let time = clock_gettime(ClockId::pid_cpu_clock_id(pid).ok()?).ok()?;
    u64::try_from(time.num_nanoseconds()).ok()
}

/// CPU time of the children of `pid` that have ended and were waited for, ns.
fn reaped(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields 16 and 17 of proc(5); the name in brackets may hold anything.
    let fields = text.rfind(')').and_then(|at| text.get(at + 1..)).unwrap_or_default();
    let ticks: u64 = fields.split_ascii_whitespace().skip(13).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    ticks.saturating_mul(TICK_NS)
}

/// All that descend from `pid`, without itself.
fn descendants(pid: u32) -> Vec<u32> {
    let mut all: Vec<u32> = children(pid);
    let mut next = 0;
    while let Some(&one) = all.get(next) {
        next += 1;
        let new: Vec<u32> = children(one).into_iter().filter(|c| *c != pid && !all.contains(c)).collect();
        all.extend(new);
        all.truncate(FAMILY_LIMIT);
    }
    all
}

/// Time of all CPUs and what of it was stolen, ns, from the first line of `/proc/stat`.
fn host(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; guests are in user and nice already.
    let ticks: Vec<u64> = line.split_ascii_whitespace().take(8).map(|f| f.parse().ok()).collect::<Option<_>>()?;
    let all: u64 = ticks.iter().fold(0u64, |sum, t| sum.saturating_add(*t));
    Some((all.saturating_mul(TICK_NS), ticks.get(7)?.saturating_mul(TICK_NS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_s_line_is_added_up() {
        let text = "cpu  100 0 50 800 10 0 5 35 7 0\ncpu0 1 2 3\n";
        assert_eq!(host(text), Some((10_000_000_000, 350_000_000)));
        assert_eq!(host("cpu  1 2 x"), None);
        assert_eq!(host(""), None);
        assert!(host(&fs::read_to_string("/proc/stat").unwrap()).is_some());
    }

    #[test]
    fn our_own_work_is_counted_and_nothing_before() {
        let own = || {
            let ns = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap().num_nanoseconds();
            u64::try_from(ns).unwrap()
        };
        let before = own();
        let mut clock = CpuClock::start([std::process::id(), 999_999_999], false);
        while own() - before < 20_000_000 {
            std::hint::black_box(before);
        }
        clock.look();
        let after = own();
        assert!(clock.used_ns > 0 && clock.used_ns <= after - before, "{clock:?}");
    }

    #[test]
    fn a_child_that_was_waited_for_still_counts() {
        let mut clock = CpuClock::start([std::process::id()], true);
        let spin = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("sh").args(["-c", spin]).status().unwrap().success());
        clock.look();
        let with = clock.used_ns;
        assert!(with >= 2 * TICK_NS, "{clock:?}");
    }
}
