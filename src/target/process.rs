//! What `/proc` says of a process in one look, for the recording.

use super::identity::{Stat, living_thread};
use crate::record::Process;

/// Start time of `pid` in clock ticks since boot, the half of its identity that a reused pid does not share. `None` when it is
/// gone.
pub fn start_ticks(pid: u32) -> Option<u64> {
    Stat::of(pid).map(|s| s.start_ticks)
}

/// Whether `pid` still is the process that started at `start_ticks`, and a thread of it lives. A process whose main thread
/// has ended while others go on shows as a zombie and runs nevertheless.
pub fn is_running(pid: u32, start_ticks: u64) -> bool {
    let same = Stat::of(pid).filter(|s| s.start_ticks == start_ticks);
    same.is_some_and(|s| !s.is_zombie() || living_thread(pid).is_some())
}

/// A process row: `parent` 0 asks `/proc`. What cannot be read any more stays empty.
pub fn describe(pid: u32, parent: u32, start_ticks: u64) -> Process {
    let parent = if parent == 0 { Stat::of(pid).map_or(0, |s| s.parent) } else { parent };
    let read = |what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
    let exe =
        std::fs::read_link(format!("/proc/{pid}/exe")).map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    Process { pid, start_ticks, parent, name: read("comm").trim_end().to_owned(), exe, runtime: "native".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_somebody() {
        let me = std::process::id();
        let row = describe(me, 0, start_ticks(me).unwrap());
        assert!(row.parent > 0 && row.start_ticks > 0 && !row.exe.is_empty());
        assert_eq!(start_ticks(u32::MAX), None);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let start = start_ticks(child.id()).unwrap();
        let pinned = crate::os::pidfd::PidFd::open(child.id()).unwrap();
        pinned.wait();
        assert_eq!((start_ticks(child.id()), is_running(child.id(), start)), (Some(start), false), "a zombie");
        child.wait().unwrap();
        assert!(is_running(me, row.start_ticks) && !is_running(me, row.start_ticks + 1) && !is_running(u32::MAX, 0));
    }
}
