//! A process held still for a moment: PTRACE_SEIZE and PTRACE_INTERRUPT (ptrace(2)), never SIGSTOP or the freezer.
//!
//! In: a pid and how long it may stand. Out: [`Freeze`], whose threads do not run until it is dropped or the time is up.
//! Invariant: a thread of its own traces and lets go again at the deadline, whatever the rest of perfkit does meanwhile,
//! and when that thread or perfkit ends in any way, `kill -9` included, the kernel detaches it and the target runs on
//! (`exit_ptrace`). Signals that come meanwhile are handed on; a process that was stopped before stays stopped.
//!
//! Limits: a thread in an uninterruptible wait does not stop before that ends. Calls that no handler's return restarts
//! (`epoll_wait`, `semop`, …: signal(7)) may return EINTR. SIGSTOP to perfkit itself would hold the target for as long as
//! perfkit stands; Ctrl-Z is put off.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// How long to leave the CPU to others between looks at threads that are about to stop.
const BEAT: Duration = Duration::from_micros(200);
/// Times that the list of threads is read again for threads born meanwhile.
const LISTINGS: u32 = 8;

/// RBP, RSP and RIP of a thread that stands still.
pub type Registers = [u64; 3];

/// What became of a [`Freeze`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thawed {
    /// How long the target's threads stood, from the first one's stop to the last one's release.
    pub stood: Duration,
    /// It was released at the deadline, not by us.
    pub expired: bool,
}

/// A process whose threads stand still.
#[derive(Debug)]
pub struct Freeze {
    threads: BTreeMap<u32, Registers>,
    all: bool,
    release: Option<Sender<()>>,
    guard: Option<JoinHandle<Thawed>>,
    _later: CtrlZLater,
}

/// While it lives, the terminal's stop signal waits.
#[derive(Debug)]
struct CtrlZLater(Option<SigSet>);

impl CtrlZLater {
    fn begin() -> Self {
        let mut stop = SigSet::empty();
        stop.add(Signal::SIGTSTP);
        Self(stop.thread_swap_mask(SigmaskHow::SIG_BLOCK).ok())
    }
}

impl Drop for CtrlZLater {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            before.thread_set_mask().ok();
        }
    }
}

impl Freeze {
    /// Stops the threads of `pid` for `limit` at most, the time that stopping takes included.
    ///
    /// # Errors
    /// Of the first thread: `PermissionDenied` without the right to trace it or when somebody else does, `NotFound` when
    /// it is gone. What was stopped runs again.
    pub fn start(pid: u32, limit: Duration) -> io::Result<Self> {
        let (ready, stopped) = channel();
        let (release, released) = channel();
        // The guard inherits the mask: a Ctrl-Z stops neither of the two before the target runs again.
        let later = CtrlZLater::begin();
        let guard = std::thread::Builder::new()
            .name("perfkit-freeze".into())
            .spawn(move || hold(pid, limit, &ready, &released))?;
        match stopped.recv() {
            Ok(Ok((threads, all))) => {
                Ok(Self { threads, all, release: Some(release), guard: Some(guard), _later: later })
            }
            Ok(Err(e)) => Err(e.into()),
            Err(_) => Err(io::Error::other("the thread that holds the target ended")),
        }
    }

    /// The registers of a thread that stands still; `None` for one that does not.
    pub fn registers(&self, tid: u32) -> Option<Registers> {
        self.threads.get(&tid).copied()
    }

    /// Whether every thread of the process stood.
    pub fn has_all(&self) -> bool {
        self.all
    }

    /// Lets the target run.
    pub fn release(mut self) -> Thawed {
        self.thaw().unwrap_or(Thawed { stood: Duration::ZERO, expired: true })
    }

    fn thaw(&mut self) -> Option<Thawed> {
        // The guard ends when nobody is left who could release.
        drop(self.release.take());
        self.guard.take().and_then(|g| g.join().ok())
    }
}

impl Drop for Freeze {
    fn drop(&mut self) {
        self.thaw();
    }
}

/// What the guard says once everything stands: the threads' registers, and whether they are all.
type Stopped = Result<(BTreeMap<u32, Registers>, bool), Errno>;

/// The guard's life: stop, say so, wait, let go.
fn hold(pid: u32, limit: Duration, ready: &Sender<Stopped>, released: &Receiver<()>) -> Thawed {
    let begun = Instant::now();
    let mut held = Held::default();
    match held.stop(pid, begun, limit) {
        Ok(all) => {
            let registers = held.registers();
            let all = all && registers.len() == held.threads.len();
            // Nobody listens any more: then nobody is to be waited for either.
            ready.send(Ok((registers, all))).ok();
        }
        Err(e) => {
            held.detach();
            ready.send(Err(e)).ok();
            return Thawed { stood: begun.elapsed(), expired: false };
        }
    }
    let left = limit.saturating_sub(begun.elapsed());
    let expired = released.recv_timeout(left) == Err(RecvTimeoutError::Timeout);
    held.detach();
    Thawed { stood: begun.elapsed(), expired }
}

/// Threads that are traced by this thread.
#[derive(Default)]
struct Held {
    threads: BTreeMap<u32, Hold>,
}

/// How far a thread's stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// It will stop when the kernel next looks.
    Seized,
    /// It stands, with the signal that it was about to take.
    Stands(Option<Signal>),
}

impl Held {
    /// Seizes and interrupts all threads. `true` when all of them stand.
    fn stop(&mut self, pid: u32, begun: Instant, limit: Duration) -> Result<bool, Errno> {
        for _ in 0..LISTINGS {
            let new: Vec<u32> = tasks(pid).into_iter().filter(|tid| !self.threads.contains_key(tid)).collect();
            if new.is_empty() {
                break;
            }
            for tid in new {
                let seized = ptrace::seize(pid_of(tid), Options::empty()).and_then(|()| {
                    self.threads.insert(tid, Hold::Seized);
                    ptrace::interrupt(pid_of(tid))
                });
                match seized {
                    // Without the first there will be no other one; later ones may just have ended.
                    Err(e) if self.threads.is_empty() => return Err(e),
                    _ => {}
                }
            }
            while self.wait() && begun.elapsed() < limit / 2 {
                std::thread::sleep(BEAT);
            }
        }
        if self.threads.is_empty() {
            return Err(Errno::ESRCH);
        }
        Ok(self.threads.values().all(|h| *h != Hold::Seized)
            && tasks(pid).iter().all(|tid| self.threads.contains_key(tid)))
    }

    /// Takes what has stopped or ended; `true` while something is still to come.
    fn wait(&mut self) -> bool {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
        self.threads.retain(|tid, state| {
            if *state != Hold::Seized {
                return true;
            }
            match waitpid(pid_of(*tid), Some(flags)) {
                // By the interrupt, or with the whole process by a stop signal, which goes on being in force.
                Ok(WaitStatus::PtraceEvent(..)) => *state = Hold::Stands(None),
                // About to take a signal, which it gets when it is let go.
                Ok(WaitStatus::Stopped(_, signal)) => *state = Hold::Stands(Some(signal)),
                Ok(WaitStatus::StillAlive | WaitStatus::PtraceSyscall(_)) | Err(Errno::EINTR) => {}
                // It has ended.
                Ok(_) | Err(_) => return false,
            }
            true
        });
        self.threads.values().any(|h| *h == Hold::Seized)
    }

    fn registers(&self) -> BTreeMap<u32, Registers> {
        let standing = self.threads.iter().filter(|(_, state)| **state != Hold::Seized);
        let read = |tid: u32| ptrace::getregs(pid_of(tid)).ok().map(|r| (tid, [r.rbp, r.rsp, r.rip]));
        standing.filter_map(|(tid, _)| read(*tid)).collect()
    }

    /// Lets all of them go. One that does not stand yet cannot be detached: it is when this thread ends, at once.
    fn detach(&mut self) {
        self.wait();
        for (tid, state) in std::mem::take(&mut self.threads) {
            let signal = if let Hold::Stands(signal) = state { signal } else { None };
            ptrace::detach(pid_of(tid), signal).ok();
        }
    }
}

fn pid_of(tid: u32) -> Pid {
    Pid::from_raw(i32::try_from(tid).unwrap_or(i32::MAX))
}

fn tasks(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn state(pid: u32) -> char {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        text[text.rfind(')').unwrap() + 2..].chars().next().unwrap()
    }

    fn until(what: &str, mut done: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::yield_now();
        }
    }

    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> Self {
            Self(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    #[test]
    fn it_stands_until_it_is_released() {
        let child = Sleeper::start();
        let pid = child.0.id();
        let freeze = Freeze::start(pid, Duration::from_secs(20)).unwrap();
        assert!(freeze.has_all() && freeze.registers(pid).is_some_and(|[_, sp, ip]| sp > 0 && ip > 0));
        assert_eq!(state(pid), 't');
        let thawed = freeze.release();
        assert!(!thawed.expired && thawed.stood < Duration::from_secs(20), "{thawed:?}");
        until("it runs on", || state(pid) == 'S');
    }

    #[test]
    fn the_deadline_releases_it_without_us() {
        let child = Sleeper::start();
        let pid = child.0.id();
        let freeze = Freeze::start(pid, Duration::from_millis(30)).unwrap();
        until("it runs on", || state(pid) == 'S');
        assert!(freeze.release().expired);
    }

    #[test]
    fn a_drop_releases_it_and_a_stopped_process_stays_stopped() {
        let child = Sleeper::start();
        let pid = child.0.id();
        let target = Pid::from_raw(pid as i32);
        nix::sys::signal::kill(target, Signal::SIGSTOP).unwrap();
        until("it stops", || state(pid) == 'T');
        drop(Freeze::start(pid, Duration::from_secs(20)).unwrap());
        until("it stays stopped", || state(pid) == 'T');
        nix::sys::signal::kill(target, Signal::SIGCONT).unwrap();
        until("it goes on", || state(pid) == 'S');
    }

    #[test]
    fn who_is_gone_or_traced_is_an_error() {
        assert_eq!(Freeze::start(999_999_999, Duration::from_secs(1)).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        let child = Sleeper::start();
        let first = Freeze::start(child.0.id(), Duration::from_secs(20)).unwrap();
        let second = Freeze::start(child.0.id(), Duration::from_secs(20)).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::PermissionDenied);
        drop(first);
    }
}
