//! What `/proc` says of threads without any right: how long each ran, waited for a CPU and slept, and what it does now.
//!
//! In: a process id. Out: for each thread the time since the last look, and its state. Invariants: the three times add up to
//! the time that passed, but for a tick; they are the scheduler's own (`schedstat`), so a look that comes late loses
//! nothing. Limits: the time of a thread that runs is brought up to date by the kernel's tick, a few milliseconds late; a thread that ends takes
//! the time since the last look with it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use rustc_hash::FxHashMap;

use super::perthread::threads_of;
use super::reason::Wait;
use crate::clock::Mono;
use crate::record::{SampleFlags, StackId};

/// More threads than this are listed anew only every so many looks.
const CROWD: usize = 100;
const CROWD_LOOKS: u32 = 10;
/// A thread that lives longer counts by the scheduler's times alone.
const YOUTH_NS: u64 = 1_000_000_000;
/// Without `schedstat` a look that comes late does not stand for more than this.
const LATE_LIMIT_NS: u64 = 100_000_000;

/// Times of a thread since some moment, ns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Times {
    /// On a CPU.
    pub(super) on: u64,
    /// Able to run, without a CPU.
    pub(super) runnable: u64,
    /// Everything else.
    pub(super) off: u64,
}

impl Times {
    /// The time active that a look at a young thread stands for: all that passed since the look before. Young threads may
    /// end before the next look; those that do so unseen are made up for by those that are seen, which counting only what
    /// was seen of each would not do. One that is met asleep stands for sleep.
    fn share(&mut self, between: u64, on: u64, runnable: u64, state: Option<char>) {
        if state.is_some_and(|s| s != 'R') {
            self.off = between;
            return;
        }
        // The kernel's tick brings the times up to date a little late: a thread that just began to run has none yet.
        let on_part = if on + runnable == 0 { 1.0 } else { on as f64 / (on + runnable) as f64 };
        self.on = (between as f64 * on_part) as u64;
        self.runnable = between - self.on;
    }
}

/// The file of a thread: time on a CPU, time runnable (both ns) and the number of times it was given a CPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Schedstat {
    on: u64,
    runnable: u64,
    slices: u64,
}

impl Schedstat {
    fn read(file: &File) -> Option<Self> {
        let mut buffer = [0; 96];
        let n = file.read_at(&mut buffer, 0).ok()?;
        let text = std::str::from_utf8(buffer.get(..n)?).ok()?;
        Self::parse(text)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split_ascii_whitespace().map(str::parse);
        let mut next = || fields.next()?.ok();
        Some(Self { on: next()?, runnable: next()?, slices: next()? })
    }
}

/// What a sleeping thread was last seen doing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest {
    pub(super) stack: StackId,
    pub(super) flags: SampleFlags,
    pub(super) reason: &'static str,
    /// From when.
    pub(super) from: Mono,
}

/// A thread as of the last look.
#[derive(Debug)]
pub(super) struct Known {
    file: Option<File>,
    stat: Option<File>,
    last: Schedstat,
    at: Mono,
    /// Time that no sample stands for yet.
    pub(super) due: Times,
    /// Where it sleeps, while it does.
    pub(super) rest: Option<Rest>,
    /// When it was met, while it is young.
    young: Option<Mono>,
}

/// What one look at a thread found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Glance {
    /// It was given a CPU since the last look, or this is the first.
    pub(super) ran: bool,
    /// The letter of its state, where it was asked for.
    pub(super) state: Option<char>,
}

/// The threads of a process.
#[derive(Debug)]
pub(super) struct Threads {
    pid: u32,
    pub(super) known: FxHashMap<u32, Known>,
    looks: u32,
    /// The time between the last two looks.
    between: u64,
    looked: Mono,
    /// When the threads were listed before.
    listed: Mono,
}

impl Threads {
    /// Those of `pid`. With `from` their time counts from there on; without, from their birth (a child that was just met).
    pub(super) fn new(pid: u32, now: Mono, newborn: bool) -> Self {
        let mut threads = Self { pid, known: FxHashMap::default(), looks: 0, between: 0, looked: now, listed: now };
        if !newborn {
            for tid in threads_of(pid) {
                let mut known = Known::open(pid, tid, now);
                known.last = known.file.as_ref().and_then(Schedstat::read).unwrap_or_default();
                threads.known.insert(tid, known);
            }
        }
        threads
    }

    /// Meets new threads and forgets those that ended. Returns the thread ids, `None` when the process is gone.
    pub(super) fn list(&mut self, now: Mono) -> Option<Vec<u32>> {
        self.looks += 1;
        self.between = now.since(self.looked);
        self.looked = now;
        if self.known.len() > CROWD && !self.looks.is_multiple_of(CROWD_LOOKS) {
            return Some(self.known.keys().copied().collect());
        }
        let tids = threads_of(self.pid);
        if tids.is_empty() {
            return None;
        }
        let between = now.since(self.listed);
        self.listed = now;
        if self.known.len() > tids.len() || tids.iter().any(|t| !self.known.contains_key(t)) {
            let pid = self.pid;
            self.known.retain(|tid, _| tids.contains(tid));
            for &tid in &tids {
                self.known.entry(tid).or_insert_with(|| Known::born(pid, tid, now, between));
            }
        }
        Some(tids)
    }

    /// Brings a thread's times up to date.
    pub(super) fn look(&mut self, tid: u32, now: Mono) -> Option<Glance> {
        let pid = self.pid;
        let known = self.known.get_mut(&tid)?;
        let elapsed = now.since(known.at);
        known.at = now;
        let Some(next) = known.file.as_ref().and_then(Schedstat::read) else {
            // A kernel without schedstat: the state at the look stands for the time since the last one.
            known.file = None;
            let state = known.state(pid, tid)?;
            let elapsed = elapsed.min(LATE_LIMIT_NS);
            if state == 'R' {
                known.due.on += elapsed;
            } else {
                known.due.off += elapsed;
            }
            return Some(Glance { ran: true, state: Some(state) });
        };
        let last = std::mem::replace(&mut known.last, next);
        let on = next.on.saturating_sub(last.on);
        let runnable = next.runnable.saturating_sub(last.runnable);
        known.due.off += elapsed.saturating_sub(on).saturating_sub(runnable);
        match known.young {
            Some(met) if now.since(met) < YOUTH_NS => {
                let state = known.state(pid, tid);
                known.due.share(self.between, on, runnable, state);
            }
            _ => {
                known.young = None;
                known.due.on += on;
                known.due.runnable += runnable;
            }
        }
        let ran = on > 0 || next.slices != last.slices || known.rest.is_none();
        Some(Glance { ran, state: None })
    }

    /// The letter of a thread's state (proc(5)); `None` when it is gone.
    pub(super) fn state(&mut self, tid: u32) -> Option<char> {
        let pid = self.pid;
        self.known.get_mut(&tid)?.state(pid, tid)
    }

    /// What a sleeping thread waits in, as far as `/proc` tells.
    pub(super) fn wait(&self, tid: u32, state: char) -> Wait {
        let text = std::fs::read_to_string(format!("/proc/{}/task/{tid}/syscall", self.pid)).unwrap_or_default();
        let (system_call, argument) = parse_syscall(&text);
        let state = match state {
            'D' => 2,
            'T' | 't' => 4,
            _ => 1,
        };
        Wait { state, system_call, argument, io_wait: false }
    }
}

/// `nr arguments… sp pc`, `-1 sp pc` outside of a system call, or `running`.
fn parse_syscall(text: &str) -> (Option<u32>, u64) {
    let mut words = text.split_ascii_whitespace();
    let call = words.next().and_then(|w| w.parse::<u32>().ok());
    let hex = |w: &str| u64::from_str_radix(w.trim_start_matches("0x"), 16).ok();
    let argument = words.next().filter(|_| call.is_some()).and_then(hex);
    (call, argument.unwrap_or(0))
}

impl Known {
    fn open(pid: u32, tid: u32, now: Mono) -> Self {
        let file = File::open(format!("/proc/{pid}/task/{tid}/schedstat")).ok();
        Self { file, stat: None, last: Schedstat::default(), at: now, due: Times::default(), rest: None, young: None }
    }

    /// A thread that was born in the last `between` ns.
    fn born(pid: u32, tid: u32, now: Mono, between: u64) -> Self {
        let mut known = Self::open(pid, tid, now);
        if let Some(lived) = known.file.as_ref().and_then(Schedstat::read) {
            known.last = lived;
            let state = known.state(pid, tid);
            known.due.share(between, lived.on, lived.runnable, state);
            known.young = Some(now);
        }
        known
    }

    fn state(&mut self, pid: u32, tid: u32) -> Option<char> {
        if self.stat.is_none() {
            self.stat = File::open(format!("/proc/{pid}/task/{tid}/stat")).ok();
        }
        let mut buffer = [0; 512];
        let n = self.stat.as_ref()?.read_at(&mut buffer, 0).ok()?;
        let text = buffer.get(..n)?;
        // The name stands in parentheses and may hold anything but more than 15 bytes (proc(5)).
        let end = text.iter().rposition(|b| *b == b')')?;
        text.get(end + 2).map(|b| char::from(*b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};

    #[test]
    fn the_files_as_the_kernel_writes_them() {
        let s = Schedstat::parse("1234 56 7\n").unwrap();
        assert_eq!((s.on, s.runnable, s.slices), (1234, 56, 7));
        assert_eq!(Schedstat::parse("12 x"), None);
        assert_eq!(parse_syscall("202 0x7f00 0x80 0x0 0x0 0x0 0x0 0x7ffc 0x7f01\n"), (Some(202), 0x7f00));
        assert_eq!(parse_syscall("-1 0x7ffc 0x7f01\n"), (None, 0));
        assert_eq!(parse_syscall("running\n"), (None, 0));
        assert_eq!(parse_syscall(""), (None, 0));
    }

    #[test]
    fn our_own_times_add_up() {
        let me = std::process::id();
        let tid = nix::unistd::gettid().as_raw() as u32;
        let start = SystemClock.now();
        let mut threads = Threads::new(me, start, false);
        let begun = std::time::Instant::now();
        let mut turns = 0_u64;
        while begun.elapsed().as_millis() < 30 {
            turns = std::hint::black_box(turns + 1);
        }
        let now = SystemClock.now();
        assert!(threads.list(now).unwrap().contains(&tid));
        let glance = threads.look(tid, now).unwrap();
        assert!(glance.ran);
        assert_eq!(threads.state(tid), Some('R'));
        let read = SystemClock.now();
        let Times { on, runnable, off } = threads.known[&tid].due;
        // The scheduler's account of a running thread may lag by a tick at the start, and went on until it was read.
        let (sum, tick) = (on + runnable + off, 10_000_000);
        assert!((now.since(start)..=read.since(start) + tick).contains(&sum), "{sum} ns");
        assert!(on > 0, "{on}");
        assert!(Threads::new(u32::MAX, now, false).list(now).is_none());
    }
}
