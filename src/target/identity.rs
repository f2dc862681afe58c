//! Who a process is: pid and start time, and what `/proc` tells about it.
//!
//! In: a pid. Out: an [`Identity`], or an error that says why this process cannot be a target. Invariant: two identities
//! are equal when they are the same process; a reused pid never is. Limits: exe and command line are those of the moment
//! (a process can exec and can rewrite its command line); [`Identity::again`] reads them anew.

use std::fmt;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use serde::{Deserialize, Serialize};

use super::process::is_running;
use crate::error::{Error, Kind, Result};
use crate::os::pidfd::PidFd;

/// The right that reading another user's process takes, and how to get it.
const RIGHTS_ADVICE: &str = "run perfkit as root (sudo), or give it the rights once: \
                             sudo setcap cap_bpf,cap_perfmon,cap_sys_ptrace+ep \"$(command -v perfkit)\"";

/// A process, told apart from every other one that had or will have its pid.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    /// The pid in perfkit's own PID namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot (`/proc/PID/stat` field 22).
    pub start_ticks: u64,
    /// The parent's pid, 0 where it is outside of perfkit's PID namespace.
    pub parent: u32,
    /// The effective user.
    pub uid: u32,
    /// The short name (`comm`).
    pub name: String,
    /// Path of the executable as the target sees it, without ` (deleted)`.
    pub exe: PathBuf,
    /// The command line, word by word; bytes that are not UTF-8 are replaced.
    pub command: Vec<String>,
    /// The pid in the target's own PID namespace (the name in `/tmp/perf-PID.map`).
    pub nspid: u32,
    /// The number under which `/proc` and its memory can be read: the pid, or a thread's when the main thread has ended
    /// (`pthread_exit`) while others go on, for the pid then shows a zombie.
    pub window: u32,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        (self.pid, self.start_ticks) == (other.pid, other.start_ticks)
    }
}

impl Eq for Identity {}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.pid, self.start_ticks).hash(state);
    }
}

impl fmt::Display for Identity {
    /// `4711 (uvicorn)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.pid, self.name)
    }
}

impl Identity {
    /// The process `pid`, if it can be a target at all.
    ///
    /// # Errors
    /// `Usage` for pid 0, a thread id and perfkit itself; `Gone` for a process that is not there or a zombie; `Unsupported`
    /// for a kernel thread; `Denied`, with the missing right, for a process that we may not look into.
    pub fn of(pid: u32) -> Result<Self> {
        if pid == std::process::id() {
            return Err(Error::usage(format!("process {pid} is perfkit itself"))
                .advise("give the pid of the process to look at; `--name PATTERN` finds it"));
        }
        Self::read(pid)
    }

    /// Reads everything anew, after an exec for example; `Gone` when the process has ended since.
    pub fn again(&self) -> Result<Self> {
        let now = Self::read(self.pid)?;
        if now == *self { Ok(now) } else { Err(gone(self.pid)) }
    }

    /// Whether it still runs, as [`is_running`] has it.
    pub fn still_alive(&self) -> bool {
        is_running(self.pid, self.start_ticks)
    }

    /// A handle on it that the kernel keeps from ever meaning another process.
    ///
    /// # Errors
    /// `Gone` when it has ended.
    pub fn pin(&self) -> Result<Pinned> {
        let fd = PidFd::open(self.pid).map_err(|e| Error::io(format!("cannot hold on to process {}", self.pid), e))?;
        // The pid may have been reused between our look and the open; after the open it cannot be.
        if self.still_alive() { Ok(Pinned { identity: self.clone(), fd }) } else { Err(gone(self.pid)) }
    }

    fn read(pid: u32) -> Result<Self> {
        if pid == 0 {
            return Err(Error::usage("0 is not a process id").advise("give the pid of a running process, from 1 up"));
        }
        let stat = Stat::of(pid).ok_or_else(|| missing(pid))?;
        let status = Status::of(pid).ok_or_else(|| gone(pid))?;
        if status.tgid != pid {
            let tgid = status.tgid;
            return Err(Error::usage(format!("{pid} is a thread of process {tgid}, not a process"))
                .advise(format!("give --pid {tgid}; all of its threads are sampled")));
        }
        let window = if stat.is_zombie() { living_thread(pid) } else { Some(pid) };
        let Some(window) = window else {
            return Err(Error::new(
                Kind::Gone,
                format!("process {pid} ({}) is a zombie: it has ended and waits to be collected", stat.name),
            )
            .advise(format!("its parent is process {}", stat.parent)));
        };
        if stat.is_kernel_thread() {
            return Err(Error::new(
                Kind::Unsupported,
                format!("process {pid} ({}) is a kernel thread: it has no program to look into", stat.name),
            )
            .advise("give the process whose system calls it works for; kernel frames show up in its stacks"));
        }
        let exe = match fs::read_link(format!("/proc/{window}/exe")) {
            Ok(path) => without_deleted(path),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Err(denied(pid, &stat.name, status.uid)),
            // A process in the middle of its exit has no executable any more.
            Err(_) => return Err(gone(pid)),
        };
        let command = command_line(window);
        Ok(Self {
            pid,
            start_ticks: stat.start_ticks,
            parent: stat.parent,
            uid: status.uid,
            name: stat.name,
            exe,
            command,
            nspid: status.nspid,
            window,
        })
    }

    /// The command line as one line for people, cut to `limit` characters.
    pub fn command_text(&self, limit: usize) -> String {
        command_text(&self.command, &self.name, limit)
    }
}

/// A live process held by a pidfd.
#[derive(Debug)]
pub struct Pinned {
    identity: Identity,
    fd: PidFd,
}

impl Pinned {
    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The pidfd: becomes readable when the process ends.
    pub fn fd(&self) -> &PidFd {
        &self.fd
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        !self.fd.has_ended()
    }
}

/// What `/proc/PID/stat` says, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) name: String,
    pub(super) state: char,
    pub(super) parent: u32,
    pub(super) flags: u32,
    pub(super) start_ticks: u64,
}

impl Stat {
    pub(super) fn of(pid: u32) -> Option<Self> {
        Self::parse(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))
    }

    /// The name stands in parentheses and may hold anything, parentheses and blanks included (proc(5)).
    fn parse(text: &str) -> Option<Self> {
        let (open, close) = (text.find('(')?, text.rfind(')')?);
        let mut fields = text.get(close + 1..)?.split_ascii_whitespace();
        Some(Self {
            name: text.get(open + 1..close)?.to_owned(),
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            // Fields 5 to 8 lie between the parent (4) and the flags (9), 10 to 21 between them and the start time (22).
            flags: fields.nth(4)?.parse().ok()?,
            start_ticks: fields.nth(12)?.parse().ok()?,
        })
    }

    pub(super) fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    pub(super) fn is_kernel_thread(&self) -> bool {
        const PF_KTHREAD: u32 = 0x0020_0000; // include/linux/sched.h
        self.flags & PF_KTHREAD != 0
    }
}

struct Status {
    tgid: u32,
    uid: u32,
    nspid: u32,
}

impl Status {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/status")).ok()?))
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        let tgid = field("Tgid")?.trim().parse().ok()?;
        let uid = field("Uid")?.split_ascii_whitespace().nth(1)?.parse().ok()?;
        // From the outermost namespace to the process's own.
        let nspid = field("NSpid").and_then(|f| f.split_ascii_whitespace().last()?.parse().ok()).unwrap_or(tgid);
        Some(Self { tgid, uid, nspid })
    }
}

/// The words of `/proc/PID/cmdline`; empty for kernel threads, zombies and processes that are gone.
pub(super) fn command_line(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    split_command(&bytes)
}

fn split_command(bytes: &[u8]) -> Vec<String> {
    // A process that writes a title of its own leaves padding of zeros behind it.
    let end = bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
    let words = bytes.get(..end).unwrap_or_default();
    if words.is_empty() {
        return Vec::new();
    }
    words.split(|&b| b == 0).map(|w| String::from_utf8_lossy(w).into_owned()).collect()
}

/// A command line as one line for people: control characters replaced, cut to `limit` characters.
pub(super) fn command_text(command: &[String], name: &str, limit: usize) -> String {
    let text = if command.is_empty() { format!("[{name}]") } else { command.join(" ") };
    let mut shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if let Some((at, _)) = shown.char_indices().nth(limit) {
        shown.truncate(at);
        shown.push('…');
    }
    shown
}

/// A user's name with the number, or the number alone.
fn user_text(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("user {} (uid {uid})", user.name),
        _ => format!("uid {uid}"),
    }
}

fn without_deleted(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|p| p.strip_suffix(" (deleted)")) {
        Some(p) => Path::new(p).to_owned(),
        None => path,
    }
}

/// A thread of `pid` that has not ended, other than the main one.
pub(super) fn living_thread(pid: u32) -> Option<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let mut tids = threads.filter_map(|t| t.file_name().to_str()?.parse::<u32>().ok());
    tids.find(|tid| *tid != pid && Stat::of(*tid).is_some_and(|s| !s.is_zombie()))
}

fn gone(pid: u32) -> Error {
    Error::new(Kind::Gone, format!("process {pid} has ended"))
}

/// No `/proc/PID`: there is none, or `/proc` hides it.
fn missing(pid: u32) -> Error {
    let raw = i32::try_from(pid).ok().map(nix::unistd::Pid::from_raw);
    if raw.is_some_and(|raw| nix::sys::signal::kill(raw, None).is_ok_or_denied()) {
        return Error::new(Kind::Denied, format!("process {pid} runs, but /proc hides it (mounted with hidepid)"))
            .advise(RIGHTS_ADVICE);
    }
    Error::new(Kind::Gone, format!("there is no process {pid}"))
        .advise("`--name PATTERN` or `--port N` finds the process by its command line or listening port")
}

trait Answered {
    fn is_ok_or_denied(&self) -> bool;
}

impl Answered for nix::Result<()> {
    /// Signal 0 reached a process, or was refused because it is another user's: either way there is one.
    fn is_ok_or_denied(&self) -> bool {
        matches!(self, Ok(()) | Err(nix::errno::Errno::EPERM))
    }
}

fn denied(pid: u32, name: &str, uid: u32) -> Error {
    let ours = nix::unistd::geteuid().as_raw() == uid;
    let why = if ours {
        "runs as this user, but protects itself (it holds capabilities or is marked as not dumpable)".to_owned()
    } else {
        format!("belongs to {}", user_text(uid))
    };
    Error::new(Kind::Denied, format!("process {pid} ({name}) {why}; looking into it takes CAP_SYS_PTRACE"))
        .advise(RIGHTS_ADVICE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_survives_any_name() {
        let text = "42 (a) b (c) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765 1000 200\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.name.as_str(), stat.state, stat.parent), ("a) b (c", 'S', 7));
        assert_eq!((stat.flags, stat.start_ticks), (4_194_560, 98_765));
        for cut in 0..text.find("98765").unwrap() {
            assert_eq!(Stat::parse(&text[..cut]), None, "{cut}");
        }
        assert!(Stat { flags: 0x0020_8040, ..stat.clone() }.is_kernel_thread());
        assert!(Stat { state: 'Z', ..stat }.is_zombie());
    }

    #[test]
    fn status_takes_the_effective_user_and_the_innermost_pid() {
        let status = Status::parse("Name:\tx\nTgid:\t9\nUid:\t1\t2\t3\t4\nNSpid:\t9\t5\t1\n").unwrap();
        assert_eq!((status.tgid, status.uid, status.nspid), (9, 2, 1));
        assert!(Status::parse("Name:\tx\n").is_none());
    }

    #[test]
    fn command_lines_with_padding_and_nothing() {
        assert_eq!(split_command(b"a\0b c\0\0d\0\0\0"), ["a", "b c", "", "d"]);
        assert!(split_command(b"").is_empty());
        assert_eq!(command_text(&["a\nb".into(), "cdef".into()], "", 6), "a b cd…");
        assert_eq!(command_text(&[], "kworker", 80), "[kworker]");
    }

    #[test]
    fn what_cannot_be_a_target_says_why() {
        for (pid, kind, word) in [
            (0, Kind::Usage, "0 is not"),
            (std::process::id(), Kind::Usage, "itself"),
            (999_999_999, Kind::Gone, "no process 999999999"),
            (u32::MAX, Kind::Gone, "no process"),
        ] {
            let e = Identity::of(pid).unwrap_err();
            assert_eq!(e.kind(), kind, "{e:?}");
            assert!(e.to_string().contains(word), "{e:?}");
        }
    }

    #[test]
    fn a_child_lives_until_it_is_gone() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        let pinned = identity.pin().unwrap();
        assert_eq!(identity.parent, std::process::id());
        assert!(identity.still_alive() && pinned.is_alive());
        drop(child.stdin.take());
        pinned.fd().wait();
        // Not collected yet: a zombie.
        assert!(!identity.still_alive() && !pinned.is_alive());
        assert_eq!(Identity::of(child.id()).unwrap_err().kind(), Kind::Gone);
        assert!(Identity::of(child.id()).unwrap_err().to_string().contains("zombie"));
        child.wait().unwrap();
        assert_eq!(identity.again().unwrap_err().kind(), Kind::Gone);
        assert!(identity.pin().is_err());
    }

    #[test]
    fn a_thread_id_names_its_process() {
        let (send, receive) = std::sync::mpsc::channel();
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let child = std::thread::spawn(move || {
            send.send(nix::unistd::gettid().as_raw() as u32).unwrap();
            let _ = wait.recv();
        });
        let tid = receive.recv().unwrap();
        let e = Identity::of(tid).unwrap_err();
        assert_eq!(e.kind(), Kind::Usage);
        assert!(e.advice().unwrap().contains(&std::process::id().to_string()), "{e:?}");
        drop(stop);
        child.join().unwrap();
    }
}
