//! Which right is missing, in words: what the kernel's settings say, and the command that helps.
//!
//! In: an error of a rung, a pid. Out: one sentence and one piece of advice. Everything is read from `/proc`; nothing is
//! tried.

use crate::error::{Error, Kind};
use crate::os::memory::LiveMemory;
use crate::target::Maps;

/// The command that gives perfkit all it can use.
const SETCAP: &str = "sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace+ep \"$(command -v perfkit)\"";

/// Numbers of capabilities (linux/capability.h).
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// What this process may do and what the kernel is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights {
    capabilities: u64,
    /// A seccomp filter is in force.
    filtered: bool,
    /// `kernel.perf_event_paranoid`.
    paranoid: Option<i32>,
    /// `kernel.yama.ptrace_scope`; `None`: the kernel is without Yama.
    yama: Option<u32>,
}

impl Rights {
    /// As they are now.
    pub(super) fn now() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        let number = |path: &str| std::fs::read_to_string(path).ok();
        Self {
            capabilities: field("CapEff:").and_then(|f| u64::from_str_radix(f, 16).ok()).unwrap_or(0),
            filtered: field("Seccomp:").is_some_and(|f| f == "2"),
            paranoid: number("/proc/sys/kernel/perf_event_paranoid").and_then(|t| t.trim().parse().ok()),
            yama: number("/proc/sys/kernel/yama/ptrace_scope").and_then(|t| t.trim().parse().ok()),
        }
    }

    fn has(self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }

    /// The rights that eBPF needs and we have not; `None`: there is no such right.
    pub(super) fn ebpf_needs(self) -> Option<String> {
        let mut missing = Vec::new();
        if !self.has(CAP_SYS_ADMIN) {
            for (capability, name) in [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")] {
                if !self.has(capability) {
                    missing.push(name);
                }
            }
        }
        (!missing.is_empty()).then(|| missing.join(" and "))
    }

    /// Why perf events are refused, with the value found.
    pub(super) fn perf(self, cause: Error) -> Error {
        // What knows its own remedy (a ring that is too large) is told as it is.
        if cause.kind() != Kind::Denied || cause.advice().is_some() {
            return cause;
        }
        let privileged = self.has(CAP_PERFMON) || self.has(CAP_SYS_ADMIN);
        let (what, advice) = match self.paranoid {
            Some(paranoid) if paranoid > 2 && !privileged => (
                format!(
                    "kernel.perf_event_paranoid is {paranoid}, which keeps perf events from users without CAP_PERFMON"
                ),
                format!("sudo sysctl kernel.perf_event_paranoid=2, or {SETCAP}"),
            ),
            _ if self.filtered => (
                "a seccomp filter forbids perf_event_open (containers are often run with one)".to_owned(),
                "run the container with --cap-add PERFMON --cap-add SYS_PTRACE, or perfkit outside of it".to_owned(),
            ),
            _ => ("perf events on this process are refused".to_owned(), format!("run as root, or {SETCAP}")),
        };
        Error::new(Kind::Denied, what).caused_by(cause).advise(advice)
    }

    /// Why the memory of `pid` cannot be read; `None`: it can, or the process is gone.
    pub(super) fn memory(self, pid: u32) -> Option<Error> {
        let maps = match Maps::of(pid) {
            Ok(maps) => maps,
            Err(e) if e.kind() == Kind::Denied => return Some(Self::foreign(pid, e)),
            Err(_) => return None,
        };
        let at = maps.0.iter().find(|m| m.readable && m.is_file())?.start;
        match LiveMemory::new(pid).probe(at) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)) => {
                let cause = Error::io(format!("cannot read the memory of process {pid}"), e);
                Some(self.unreadable(pid, cause))
            }
            _ => None,
        }
    }

    /// Same user, and yet its memory is closed.
    fn unreadable(self, pid: u32, cause: Error) -> Error {
        let (what, advice) = match self.yama {
            Some(scope @ 1..) if !self.has(CAP_SYS_PTRACE) => (
                format!(
                    "kernel.yama.ptrace_scope is {scope}, which closes the memory of process {pid} to all but its parents"
                ),
                match scope {
                    1 => format!(
                        "start it with `perfkit cpu -- COMMAND`, or sudo sysctl kernel.yama.ptrace_scope=0, or {SETCAP}"
                    ),
                    2 => SETCAP.to_owned(),
                    _ => "only a reboot with another kernel.yama.ptrace_scope opens it".to_owned(),
                },
            ),
            _ if self.filtered => (
                format!(
                    "a seccomp filter forbids reading the memory of process {pid} (containers are often run with one)"
                ),
                "run the container with --cap-add SYS_PTRACE, or perfkit outside of it".to_owned(),
            ),
            _ => return Self::foreign(pid, cause),
        };
        Error::new(Kind::Denied, what).caused_by(cause).advise(advice)
    }

    /// Another user's process, or one that protects itself.
    fn foreign(pid: u32, cause: Error) -> Error {
        let what = format!("process {pid} is closed to this user: looking into it takes CAP_SYS_PTRACE");
        Error::new(Kind::Denied, what).caused_by(cause).advise(format!("run perfkit as root (sudo), or {SETCAP}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Rights = Rights { capabilities: 0, filtered: false, paranoid: Some(2), yama: Some(0) };

    fn denied() -> Error {
        Error::io("cannot open a perf event", std::io::Error::from_raw_os_error(libc::EACCES))
    }

    #[test]
    fn the_value_found_and_the_command() {
        let e = Rights { paranoid: Some(4), ..NONE }.perf(denied());
        assert!(e.to_string().contains("perf_event_paranoid is 4"), "{e:?}");
        assert!(e.advice().unwrap().contains("sysctl kernel.perf_event_paranoid=2"), "{e:?}");
        let e = Rights { filtered: true, ..NONE }.perf(denied());
        assert!(e.to_string().contains("seccomp") && e.advice().unwrap().contains("--cap-add"), "{e:?}");
        let e = Rights { yama: Some(1), ..NONE }.unreadable(7, denied());
        assert!(e.to_string().contains("ptrace_scope is 1") && e.advice().unwrap().contains("-- COMMAND"), "{e:?}");
        let e = NONE.unreadable(7, denied());
        assert!(e.to_string().contains("CAP_SYS_PTRACE") && e.advice().unwrap().contains("root"), "{e:?}");
        for e in [Rights { paranoid: Some(4), ..NONE }.perf(denied()), Rights::foreign(7, denied())] {
            assert_eq!(e.kind(), Kind::Denied);
        }
    }

    #[test]
    fn what_ebpf_lacks() {
        assert_eq!(NONE.ebpf_needs().as_deref(), Some("CAP_BPF and CAP_PERFMON"));
        assert_eq!(Rights { capabilities: 1 << CAP_BPF, ..NONE }.ebpf_needs().as_deref(), Some("CAP_PERFMON"));
        assert_eq!(Rights { capabilities: 1 << CAP_SYS_ADMIN, ..NONE }.ebpf_needs(), None);
    }

    #[test]
    fn our_own_memory_is_open() {
        assert!(Rights::now().memory(std::process::id()).is_none());
        assert!(Rights::now().memory(u32::MAX).is_none());
    }
}
