//! Python frames read from outside, a moment after (or without) a sample: what the rungs without eBPF have.
//!
//! In: a thread id, the target's memory, its CPython, and the sample's copy of the C stack where there is one. Out: frames
//! and entry marks as the eBPF walker (walk.h) writes them, so that everything after it is the same on every rung.
//! Invariant: nothing is stopped or written. Bias: the thread runs on meanwhile; `moved` says that its innermost frame was
//! another one after the read than before.

use rustc_hash::FxHashMap;

use super::snapshot::Guess;
use super::walk::{CStack, Hints, Walker};
use crate::clock::Mono;
use crate::os::bpf::{PyFrame, Python, flag};
use crate::os::memory::{LiveMemory, Memory};
use crate::python::{Runtime, frames};

/// For so long "this thread has no Python state" is believed.
const NEGATIVE_TTL_NS: u64 = 100_000_000;
/// Walks at most: the first finds out which pages are needed, and one that goes astray is made again.
const ATTEMPTS: usize = 3;
/// Times that the list of thread states is followed while threads that end cut it short.
const LISTINGS: usize = 4;
/// Threads remembered; those that ended are not always told of.
const KNOWN_LIMIT: usize = 4096;
/// glibc x86-64: `struct pthread` to its kernel thread id.
const GLIBC_PTHREAD_TID: u64 = 720;

/// What a walk found, beside the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// [`flag`] bits, as the eBPF walker gives them.
    pub(super) flags: u32,
    /// The thread entered or left a function while it was read.
    pub(super) moved: bool,
}

/// A thread as it was found the last time.
#[derive(Debug)]
struct Known {
    /// Its id in the target's own PID namespace.
    inner: u32,
    guess: Guess,
    /// Where the pointer to its innermost frame was: the thread state or a CFrame.
    top_at: u64,
}

/// Reads the Python frames of a process's threads.
#[derive(Debug)]
pub(super) struct Reader {
    pid: u32,
    live: LiveMemory,
    walker: Walker,
    /// Thread states by inner id; sub-interpreters give a thread several.
    states: FxHashMap<u32, Vec<u64>>,
    listed: Option<Mono>,
    /// The list was followed to its end: a thread that is not in it has no state.
    whole: bool,
    known: FxHashMap<u32, Known>,
}

impl Reader {
    /// A reader of `pid`'s threads; nothing is read yet.
    pub(super) fn new(pid: u32) -> Self {
        Self {
            pid,
            live: LiveMemory::new(pid),
            walker: Walker::new(pid),
            states: FxHashMap::default(),
            listed: None,
            whole: false,
            known: FxHashMap::default(),
        }
    }

    /// Forgets everything: another program runs in the process now.
    pub(super) fn exec(&mut self) {
        *self = Self::new(self.pid);
    }

    /// Forgets a thread that ended.
    pub(super) fn forget(&mut self, tid: u32) {
        if let Some(known) = self.known.remove(&tid) {
            self.states.remove(&known.inner);
        }
    }

    /// Walks the frames of thread `tid` into `out` (cleared first). `py` is the walker's view of `runtime`.
    pub(super) fn read(
        &mut self,
        (runtime, py): (&Runtime, &Python),
        tid: u32,
        stack: Option<CStack<'_>>,
        now: Mono,
        out: &mut Vec<PyFrame>,
    ) -> Seen {
        out.clear();
        let fresh = !self.known.contains_key(&tid);
        let pid = self.pid;
        let met = || Known { inner: inner_id(pid, tid), guess: Guess::default(), top_at: 0 };
        if fresh && self.known.len() >= KNOWN_LIMIT {
            self.known.clear();
        }
        let known = self.known.entry(tid).or_insert_with(met);
        let (inner, mut guess, mut top_at) = (known.inner, std::mem::take(&mut known.guess), known.top_at);
        let mut seen = Seen::default();
        for attempt in 0..ATTEMPTS {
            let words = self.walker.snapshot.take(&guess, top_at);
            let mut state = self.state(runtime, py, inner);
            let expired = self.listed.is_none_or(|at| now.since(at) > NEGATIVE_TTL_NS);
            // A thread that is new, or whose state was freed: look for it once more.
            if state.is_none() && attempt == 0 && (fresh || expired) {
                self.list(runtime, now);
                state = self.state(runtime, py, inner);
            }
            let Some(state) = state else {
                // It may be one of those that were out of sight.
                seen.flags = if self.whole { 0 } else { flag::PY_LOST };
                break;
            };
            let snapshot = &self.walker.snapshot;
            let at = |base: u64, offset: u32| base.wrapping_add(u64::from(offset));
            let first = at(state, py.ts_frame);
            let cframe = snapshot.u64_at(first).ok().filter(|cframe| py.frame_source == 1 && *cframe != 0);
            let now_at = cframe.map_or(first, |cframe| at(cframe, py.cframe_current_frame));
            let (top, at_end) = match words {
                Some(words) if now_at == top_at => words,
                _ => (snapshot.u64_at(now_at).unwrap_or(0), 0),
            };
            top_at = now_at;
            let wide_top = runtime.version.minor >= 14;
            let hints = Hints { cframe: cframe.unwrap_or(0), top, at_end, wide_top, stack };
            let flags = self.walker.walk((py, state), hints, now, out);
            let moved = top != at_end;
            seen = Seen { flags, moved };
            let snapshot = &self.walker.snapshot;
            let whole = snapshot.is_whole() || guess.is_full();
            snapshot.learn(&mut guess, top);
            // Better a little later than astray, piecemeal or torn. It favours what stands still for the microsecond that a
            // read takes, and nothing beyond.
            if whole && !moved && flags & flag::PY_LOST == 0 {
                break;
            }
        }
        if seen.flags & flag::HAS_TSTATE != 0 && self.holds_gil(py, inner) {
            seen.flags |= flag::HOLDS_GIL;
        }
        if let Some(known) = self.known.get_mut(&tid) {
            (known.guess, known.top_at) = (guess, top_at);
        }
        seen
    }

    /// The thread state of the thread with this id: of several the one that has frames.
    fn state(&self, runtime: &Runtime, py: &Python, inner: u32) -> Option<u64> {
        let memory = &self.walker.snapshot;
        let mut idle = None;
        for &state in self.states.get(&inner)? {
            if native_id(memory, runtime, state) != Some(inner) {
                continue;
            }
            if memory.u64_at(state.wrapping_add(u64::from(py.ts_frame))).is_ok_and(|frame| frame != 0) {
                return Some(state);
            }
            idle = Some(state);
        }
        idle
    }

    fn list(&mut self, runtime: &Runtime, now: Mono) {
        self.listed = Some(now);
        self.states.clear();
        for _ in 0..LISTINGS {
            let walked = frames::walk(&self.live, runtime, 0).unwrap_or_default();
            for thread in walked.threads {
                let Some(states) = thread.native_id.map(|id| self.states.entry(id).or_default()) else { continue };
                if !states.contains(&thread.state) {
                    states.push(thread.state);
                }
            }
            self.whole = walked.whole;
            if self.whole {
                break;
            }
        }
    }

    /// Whether one of the thread's states holds the GIL, as walk.h decides it.
    fn holds_gil(&self, py: &Python, inner: u32) -> bool {
        let word = |at: u64, offset: u32| self.live.u64_at(at.wrapping_add(u64::from(offset))).unwrap_or(0);
        let states = self.states.get(&inner).map_or(&[][..], Vec::as_slice);
        states.iter().any(|&state| match py.gil_rule {
            1 => word(py.runtime, py.gil_holder) == state,
            2 | 3 => {
                let interp = word(state, py.ts_interp);
                let at = if py.gil_rule == 3 { word(interp, py.gil_pointer) } else { interp };
                word(at, py.gil_locked) as u32 == 1 && word(at, py.gil_holder) == state
            }
            _ => false,
        })
    }
}

/// The kernel's thread id, in the target's own PID namespace, of the thread with this state.
fn native_id(memory: &dyn Memory, runtime: &Runtime, state: u64) -> Option<u32> {
    let l = &runtime.layout;
    if let Some(offset) = l.ts_native_thread_id {
        return memory.u32_at(state.checked_add(u64::from(offset))?).ok();
    }
    let pthread = memory.u64_at(state.checked_add(u64::from(l.ts_thread_id))?).ok()?;
    memory.u32_at(pthread.checked_add(GLIBC_PTHREAD_TID)?).ok()
}

/// The thread's id in its own PID namespace: the last number of `NSpid`.
fn inner_id(pid: u32, tid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("NSpid:"));
    line.and_then(|l| l.split_ascii_whitespace().last()?.parse().ok()).unwrap_or(tid)
}
