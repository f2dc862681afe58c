//! What `/proc` says of a process in one look, for the recording.

use crate::record::Process;

/// Start time of `pid` in clock ticks since boot, the half of its identity that a reused pid does not share. `None` when it is
/// gone.
pub fn start_ticks(pid: u32) -> Option<u64> {
    stat(pid).map(|s| s.1)
}

/// Whether `pid` still is the process that started at `start_ticks`, and not a zombie.
pub fn is_running(pid: u32, start_ticks: u64) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let zombie = text.rfind(") ").and_then(|at| text.get(at + 2..at + 3)).is_none_or(|s| matches!(s, "Z" | "X" | "x"));
    !zombie && parse(&text).is_some_and(|s| s.1 == start_ticks)
}

/// Whether `pid` is gone, or a zombie without a living thread.
pub fn has_ended(pid: u32) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    let state = text.rsplit(") ").next().and_then(|rest| rest.chars().next());
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    matches!(state, Some('Z' | 'X')) && threads() <= 1
}

/// A process row: `parent` 0 asks `/proc`. What cannot be read any more stays empty.
pub fn describe(pid: u32, parent: u32, start_ticks: u64) -> Process {
    let parent = if parent == 0 { stat(pid).map_or(0, |s| s.0) } else { parent };
    let read = |what: &str| std::fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
    let exe =
        std::fs::read_link(format!("/proc/{pid}/exe")).map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    Process { pid, start_ticks, parent, name: read("comm").trim_end().to_owned(), exe, runtime: "native".to_owned() }
}

/// Parent pid and start time, fields 4 and 22 of `/proc/PID/stat`. The name in between may contain anything.
fn stat(pid: u32) -> Option<(u32, u64)> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(text: &str) -> Option<(u32, u64)> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    Some((parent, fields.nth(17)?.parse().ok()?))
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
        assert!(has_ended(u32::MAX) && !has_ended(me));
        assert!(is_running(me, row.start_ticks) && !is_running(me, row.start_ticks + 1) && !is_running(u32::MAX, 0));
    }
}
