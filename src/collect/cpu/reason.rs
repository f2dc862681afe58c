//! What a thread waits for, told from the system call in which it left the CPU.
//!
//! In: task state, system call number (x86-64), its first argument. Out: one of the words of `sample.reason`. Limits: a
//! wait inside the kernel without a system call is a page fault; a call that is in no list here is `other`.

use std::ops::Range;

/// From linux/sched.h.
const TASK_UNINTERRUPTIBLE: u32 = 2;
const STOPPED_OR_TRACED: u32 = 4 | 8;

/// A switch away from the CPU, as far as the reason goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    /// `task->__state`.
    pub(super) state: u32,
    /// The system call, `None` outside of one.
    pub(super) system_call: Option<u32>,
    /// Its first argument.
    pub(super) argument: u64,
    /// It waits for a block device.
    pub(super) io_wait: bool,
}

/// The word for a wait. `gil` is where the GIL's lock lies in the target; `fd_kind` says what a file descriptor is.
pub(super) fn reason(wait: Wait, gil: Option<&Range<u64>>, fd_kind: impl FnOnce(u64) -> &'static str) -> &'static str {
    if wait.state & STOPPED_OR_TRACED != 0 {
        return "stopped";
    }
    let Some(call) = wait.system_call else {
        return if wait.io_wait || wait.state & TASK_UNINTERRUPTIBLE != 0 { "page-fault" } else { "other" };
    };
    match call {
        // futex, futex_waitv
        202 | 449 if gil.is_some_and(|g| g.contains(&wait.argument)) => "GIL",
        202 | 449 => "futex",
        // epoll_wait, epoll_pwait, epoll_pwait2
        232 | 281 | 441 => "epoll",
        // select, pselect6 on no descriptor: the way older Pythons sleep
        23 | 270 if wait.argument == 0 => "sleep",
        // poll, select, pselect6, ppoll
        7 | 23 | 270 | 271 => "poll",
        // nanosleep, clock_nanosleep
        35 | 230 => "sleep",
        _ if wait.io_wait => "disk",
        // pread64, pwrite64, preadv, pwritev: of what can be positioned alone
        17 | 18 | 295 | 296 => "disk",
        // read, write, readv, writev, sendfile
        0 | 1 | 19 | 20 | 40 => match fd_kind(wait.argument) {
            // Closed by now, and it slept so that no signal wakes it, which sockets and pipes do not do.
            "other" if wait.state & TASK_UNINTERRUPTIBLE != 0 => "disk",
            kind => kind,
        },
        // connect, accept, sendto, recvfrom, sendmsg, recvmsg, accept4, recvmmsg, sendmmsg
        42..=47 | 288 | 299 | 307 => "socket",
        // fsync, fdatasync, sync_file_range, msync
        74 | 75 | 277 | 26 => "disk",
        // wait4, waitid, pause, rt_sigsuspend, rt_sigtimedwait
        61 | 247 | 34 | 130 | 128 => "wait",
        // io_uring_enter
        426 => "io-uring",
        _ => "other",
    }
}

/// What descriptor `fd` of `pid` is, in the words of `sample.reason`.
pub(super) fn fd_kind(pid: u32, fd: u64) -> &'static str {
    let Ok(to) = std::fs::read_link(format!("/proc/{pid}/fd/{fd}")) else { return "other" };
    match to.to_string_lossy() {
        t if t.starts_with("socket:") => "socket",
        t if t.starts_with("pipe:") => "pipe",
        t if t.starts_with("anon_inode:") || t.starts_with("/dev/") => "other",
        _ => "disk",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words() {
        let gil = 0x1000..0x1100;
        let of = |call: Option<u32>, argument, state, io_wait| {
            reason(Wait { state, system_call: call, argument, io_wait }, Some(&gil), |_| "pipe")
        };
        assert_eq!(of(Some(202), 0x1010, 1, false), "GIL");
        assert_eq!(of(Some(202), 0x2000, 1, false), "futex");
        assert_eq!(of(Some(23), 0, 1, false), "sleep");
        assert_eq!(of(Some(0), 3, 1, false), "pipe");
        assert_eq!(of(Some(0), 3, 2, true), "disk");
        assert_eq!(of(None, 0, 2, false), "page-fault");
        assert_eq!(of(Some(232), 5, 4, false), "stopped");
        assert_eq!(of(Some(45), 5, 1, false), "socket");
    }
}
