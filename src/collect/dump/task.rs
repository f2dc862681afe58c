//! What `/proc` tells of one thread: name, state, the call it waits in, the kernel's part of its stack.

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
    let (name, doing, flags) = parse_stat(&read(task, "stat")?)?;
    let status = read(task, "status")?;
    let own_tid = status.lines().find_map(|l| l.strip_prefix("NSpid:")?.split_ascii_whitespace().last()?.parse().ok());
    let kernel_worker = flags & (PF_IO_WORKER | PF_USER_WORKER) != 0;
    Some(TaskFacts { task, own_tid: own_tid.unwrap_or(task.tid), name, doing, kernel_worker })
}

/// What the thread does now; `None` when it has ended.
pub(super) fn doing(task: Task) -> Option<Doing> {
    parse_stat(&read(task, "stat")?).map(|(_, doing, _)| doing)
}

/// Name, state and flags. The name stands in parentheses and may hold anything (proc(5)).
fn parse_stat(text: &str) -> Option<(String, Doing, u32)> {
    let (open, close) = (text.find('(')?, text.rfind(')')?);
    let mut fields = text.get(close + 1..)?.split_ascii_whitespace();
    let doing = Doing::from_letter(fields.next()?.chars().next()?);
    let flags = fields.nth(5)?.parse().ok()?;
    Some((text.get(open + 1..close)?.to_owned(), doing, flags))
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
        let stat = "42 (a) S (b) D 7 42 42 0 -1 4194320 1 2 3\n";
        let (name, doing, flags) = parse_stat(stat).unwrap();
        assert_eq!((name.as_str(), doing, flags & PF_IO_WORKER), ("a) S (b", Doing::Uninterruptible, PF_IO_WORKER));
        assert_eq!(parse_stat("42 (x) S"), None);
    }

    #[test]
    fn our_own_threads() {
        let pid = std::process::id();
        let tids = tasks(pid);
        assert_eq!(tids.first(), Some(&pid));
        let us = facts(Task { pid, tid: nix::unistd::gettid().as_raw() as u32 }).unwrap();
        assert_eq!((us.doing, us.kernel_worker), (Doing::Runnable, false));
        assert!(facts(Task { pid, tid: u32::MAX }).is_none());
        let read_of = |fd| Some(Call { number: 0, args: [fd, 0, 0, 0, 0, 0] });
        let wait = wait(us.task, read_of(u64::from(u32::MAX)));
        assert_eq!((wait.call.as_deref(), wait.descriptor), (Some("read"), None));
    }
}
