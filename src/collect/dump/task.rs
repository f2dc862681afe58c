//! What `/proc` tells of one thread: name, state, the call it waits in, the kernel's part of its stack.

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use crate::native::asleep::{Call, Task};
use crate::native::syscalls::{self, Subject};
use crate::record::dump::{Doing, Wait};

/// A worker of io_uring, and any worker of the kernel inside of a process (include/linux/sched.h).
const PF_IO_WORKER: u32 = 0x10;
const PF_USER_WORKER: u32 = 0x4000;

/// A thread in one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TaskFacts {
    pub(super) task: Task,
    /// Its id in its own PID namespace.
    pub(super) own_tid: u32,
    pub(super) name: String,
    pub(super) doing: Doing,
    /// It works for the kernel and has no user side.
    pub(super) kernel_worker: bool,
    /// When it was born, in clock ticks since boot.
    pub(super) born: u64,
}

/// The threads of `pid`, the main one first, then by number. Empty when it is gone.
pub(super) fn tasks(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut tids: Vec<u32> = entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    tids.sort_unstable_by_key(|tid| (*tid != pid, *tid));
    tids
}

/// Looks at a thread; `None` when it has ended.
pub(super) fn facts(task: Task) -> Option<TaskFacts> {
    let Stat { name, doing, flags, born } = Stat::parse(&read(task, "stat")?)?;
    let status = read(task, "status")?;
    let own_tid = status.lines().find_map(|l| l.strip_prefix("NSpid:")?.split_ascii_whitespace().last()?.parse().ok());
    let kernel_worker = flags & (PF_IO_WORKER | PF_USER_WORKER) != 0;
    Some(TaskFacts { task, own_tid: own_tid.unwrap_or(task.tid), name, doing, kernel_worker, born })
}

/// What the thread does now; `None` when it has ended.
pub(super) fn doing(task: Task) -> Option<Doing> {
    Stat::parse(&read(task, "stat")?).map(|s| s.doing)
}

/// Whether a thread born at `born` is younger than a second.
pub(super) fn is_young(born: u64) -> bool {
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|n| u64::try_from(n).ok()).unwrap_or(100);
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |t| t.tv_sec() as u64);
    born / per_second.max(1) + 2 > now
}

/// What `/proc/PID/task/TID/stat` says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    name: String,
    doing: Doing,
    flags: u32,
    born: u64,
}

impl Stat {
    /// The name stands in parentheses and may hold anything (proc(5)).
    fn parse(text: &str) -> Option<Self> {
        let (open, close) = (text.find('(')?, text.rfind(')')?);
        let mut fields = text.get(close + 1..)?.split_ascii_whitespace();
        Some(Self {
            name: text.get(open + 1..close)?.to_owned(),
            doing: Doing::from_letter(fields.next()?.chars().next()?),
            // Fields 4 to 8 lie between the state (3) and the flags (9), 10 to 21 between them and the start (22).
            flags: fields.nth(5)?.parse().ok()?,
            born: fields.nth(12)?.parse().ok()?,
        })
    }
}

/// What the thread waits in. `call` is its system call.
pub(super) fn wait(task: Task, call: Option<Call>) -> Wait {
    let channel = read(task, "wchan").map(|c| c.trim().to_owned()).filter(|c| !c.is_empty() && c != "0");
    let Some(call) = call else { return Wait { channel, ..Wait::default() } };
    let name = syscalls::name(call.number).map_or_else(|| format!("system call {}", call.number), str::to_owned);
    let descriptor = match syscalls::subject(call.number) {
        // The kernel takes the lower half; -1 is none.
        Subject::Descriptor => i32::try_from(call.args[0] as u32).ok().map(|fd| (fd as u32, behind(task, fd as u32))),
        Subject::Futex | Subject::None => None,
    };
    Wait { call: Some(name), args: Some(call.args), descriptor, channel }
}

/// What is behind a file descriptor: a path, `socket:[7]`, `anon_inode:[eventpoll]`.
fn behind(task: Task, fd: u32) -> Option<String> {
    let to = std::fs::read_link(format!("/proc/{}/task/{}/fd/{fd}", task.pid, task.tid)).ok()?;
    Some(to.to_string_lossy().into_owned())
}

/// The kernel's part of its stack as text; `None` without the right to it (CAP_SYS_ADMIN).
pub(super) fn kernel_stack(task: Task) -> Option<String> {
    read(task, "stack")
}

fn read(task: Task, what: &str) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{}/task/{}/{what}", task.pid, task.tid)).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_any_name() {
        let text = "42 (a) S (b) D 7 42 42 0 -1 4194320 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 200\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.doing, stat.born), ("a) S (b", Doing::Uninterruptible, 98765));
        assert_eq!(stat.flags & PF_IO_WORKER, PF_IO_WORKER);
        assert_eq!(Stat::parse("42 (x) S"), None);
    }

    #[test]
    fn our_own_threads() {
        let pid = std::process::id();
        let tids = tasks(pid);
        assert_eq!(tids.first(), Some(&pid));
        let us = facts(Task { pid, tid: nix::unistd::gettid().as_raw() as u32 }).unwrap();
        assert_eq!((us.doing, us.kernel_worker), (Doing::Runnable, false));
        // The test's thread has just been started, and boot was longer ago.
        assert!(is_young(us.born) && !is_young(1));
        assert!(facts(Task { pid, tid: u32::MAX }).is_none());
        let read_of = |fd| Some(Call { number: 0, args: [fd, 0, 0, 0, 0, 0] });
        let wait = wait(us.task, read_of(u64::from(u32::MAX)));
        assert_eq!((wait.call.as_deref(), wait.descriptor), (Some("read"), None));
    }
}
