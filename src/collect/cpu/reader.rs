//! Python frames read from outside, a moment after (or without) a sample: what the rungs without eBPF have.
//!
//! In: a thread id, the target's memory, its CPython, and the sample's copy of the C stack where there is one. Out: frames
//! and entry marks as the eBPF walker (walk.h) writes them, so that everything after it is the same on every rung. Pages
//! are read whole and kept for the length of one walk: 3.11 and later keep a thread's frames side by side, so that a stack
//! is two or three reads and close to one instant. Invariant: nothing is stopped or written.
//!
//! Bias: the thread runs on meanwhile. What the copied C stack proves is used: an eval call below the sample's stack
//! pointer is younger than the sample and left out, and in 3.11 and 3.12 the copy holds each eval call's innermost frame, so
//! that frames entered since are left out and frames left since are a `[python code gone]`. What cannot be proved stays as
//! it was read: `moved` says that the innermost frame was another one after the walk than before.

use std::cell::RefCell;

use rustc_hash::FxHashMap;

use super::python::fingerprint;
use crate::clock::Mono;
use crate::os::bpf::{ENTRY_MARK, MAX_FRAMES, PyFrame, Python, flag};
use crate::os::memory::{Fault, LiveMemory, Memory};
use crate::python::{Runtime, frames};

/// For so long "this thread has no Python state" is believed.
const NEGATIVE_TTL_NS: u64 = 100_000_000;
/// For so long a code object is taken to be what it was: its memory may be freed and used anew.
const CODE_TTL_NS: u64 = 50_000_000;
/// Code objects remembered.
const CODE_LIMIT: usize = 20_000;
/// The bits of [`PyFrame::at`] that hold a position.
const AT_MASK: u32 = 0x7fff_ffff;
/// Frames and code objects are smaller, as far as they are read.
const BUFFER: usize = 256;
/// Eval calls entered since the sample, at most.
const YOUNGER_LIMIT: usize = 256;
/// And the stack they take; farther off lie other things.
const YOUNGER_BYTES: u64 = 1 << 20;
/// A frame that is not there (any more); it is labelled, and the sample counts as one whose Python frames were lost.
const GONE: PyFrame = PyFrame { code: 0, at: 0, check: 0 };
/// Frames without a code object in one walk; more are no frames.
const STRANGE_LIMIT: u32 = 4;
/// Walks at most, when they go astray.
const ATTEMPTS: usize = 3;
/// glibc x86-64: `struct pthread` to its kernel thread id.
const GLIBC_PTHREAD_TID: u64 = 720;
const PAGE: usize = 4096;

/// The sample's copy of the C stack.
#[derive(Debug, Clone, Copy)]
pub(super) struct CStack<'a> {
    /// The stack pointer at the sample.
    pub(super) sp: u64,
    /// The bytes from there upwards.
    pub(super) bytes: &'a [u8],
}

impl CStack<'_> {
    /// Whether `at` lies where calls made since the sample have their part of the stack.
    fn is_above(&self, at: u64) -> bool {
        at < self.sp && self.sp - at < YOUNGER_BYTES
    }

    fn word(&self, at: u64) -> Option<u64> {
        let from = usize::try_from(at.checked_sub(self.sp)?).ok()?;
        self.bytes.get(from..from.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
    }
}

/// What a walk found, beside the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Seen {
    /// [`flag`] bits, as the eBPF walker gives them.
    pub(super) flags: u32,
    /// The thread entered or left a function while it was read.
    pub(super) moved: bool,
}

/// Reads the Python frames of a process's threads.
pub(super) struct Reader {
    pid: u32,
    live: LiveMemory,
    snapshot: Snapshot,
    /// Thread states by the thread's id in the target's own PID namespace; sub-interpreters give a thread several.
    states: FxHashMap<u32, Vec<u64>>,
    listed: Option<Mono>,
    inner_ids: FxHashMap<u32, u32>,
    codes: FxHashMap<u64, (Code, Mono)>,
}

/// What is behind a frame's pointer to its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    /// A code object with this fingerprint.
    Is(u32),
    /// Something else: None and others stand there in 3.13, garbage in a CFrame that was just made.
    Other,
    /// Nothing that can be read.
    Unreadable,
}

impl Reader {
    /// A reader of `pid`'s threads; nothing is read yet.
    pub(super) fn new(pid: u32) -> Self {
        let live = LiveMemory::new(pid);
        Self {
            pid,
            live,
            snapshot: Snapshot::new(live),
            states: FxHashMap::default(),
            listed: None,
            inner_ids: FxHashMap::default(),
            codes: FxHashMap::default(),
        }
    }

    /// Forgets everything: another program runs in the process now.
    pub(super) fn exec(&mut self) {
        *self = Self::new(self.pid);
    }

    /// Forgets a thread that ended.
    pub(super) fn forget(&mut self, tid: u32) {
        if let Some(inner) = self.inner_ids.remove(&tid) {
            self.states.remove(&inner);
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
        self.snapshot.clear();
        let fresh = !self.inner_ids.contains_key(&tid);
        let pid = self.pid;
        let inner = *self.inner_ids.entry(tid).or_insert_with(|| inner_id(pid, tid));
        let mut state = self.state(runtime, py, inner);
        let expired = self.listed.is_none_or(|at| now.since(at) > NEGATIVE_TTL_NS);
        // A thread that is new, or whose state was freed: look for it once more.
        if state.is_none() && (fresh || expired) {
            self.list(runtime, now);
            self.snapshot.clear();
            state = self.state(runtime, py, inner);
        }
        let Some(state) = state else { return Seen::default() };
        let top = |memory: &dyn Memory| {
            let at = memory.u64_at(state.wrapping_add(u64::from(py.ts_frame))).ok()?;
            let through = py.frame_source == 1 && at != 0;
            if through { memory.u64_at(at.wrapping_add(u64::from(py.cframe_current_frame))).ok() } else { Some(at) }
        };
        let mut seen = Seen::default();
        for _ in 0..ATTEMPTS {
            let before = top(&self.snapshot);
            seen = Seen { flags: flag::HAS_TSTATE, moved: false };
            self.walk(py, state, before.unwrap_or(0), stack, now, &mut seen.flags, out);
            seen.moved = top(&self.live) != before;
            // A walk that went astray read a frame while it was made or unmade. It is as late as it is: a little later is
            // better. One that only moved on is good: to take it again would favour code that stands still.
            if seen.flags & flag::PY_LOST == 0 {
                break;
            }
            self.snapshot.clear();
        }
        if holds_gil(&self.snapshot, py, state) {
            seen.flags |= flag::HOLDS_GIL;
        }
        seen
    }

    /// The thread state of the thread with this id: of several the one that has frames.
    fn state(&self, runtime: &Runtime, py: &Python, inner: u32) -> Option<u64> {
        let mut idle = None;
        for &state in self.states.get(&inner)? {
            if native_id(&self.snapshot, runtime, state) != Some(inner) {
                continue;
            }
            if self.snapshot.u64_at(state.wrapping_add(u64::from(py.ts_frame))).is_ok_and(|frame| frame != 0) {
                return Some(state);
            }
            idle = Some(state);
        }
        idle
    }

    fn list(&mut self, runtime: &Runtime, now: Mono) {
        self.listed = Some(now);
        self.states.clear();
        for thread in frames::walk(&self.live, runtime, 0).unwrap_or_default() {
            if let Some(id) = thread.native_id {
                self.states.entry(id).or_default().push(thread.state);
            }
        }
    }

    /// Frames and entry marks, leaf first.
    fn walk(
        &mut self,
        py: &Python,
        state: u64,
        top: u64,
        stack: Option<CStack<'_>>,
        now: Mono,
        flags: &mut u32,
        out: &mut Vec<PyFrame>,
    ) {
        let word = |s: &Self, at: u64, offset: u32| s.snapshot.u64_at(at.wrapping_add(u64::from(offset))).unwrap_or(0);
        let mut frame = top;
        let mut cframe = match (py.frame_source, py.entry_rule) {
            (1, _) => word(self, state, py.ts_frame),
            (_, 1) => word(self, state, py.ts_cframe),
            _ => 0,
        };
        // Where the frames stood at the sample, as far as the copy of the C stack says.
        let mut then = None;
        if let (Some(stack), 1) = (stack, py.frame_source) {
            let mut younger = 0;
            while stack.is_above(cframe) && younger < YOUNGER_LIMIT {
                cframe = word(self, cframe, py.cframe_previous);
                frame = if cframe == 0 { 0 } else { word(self, cframe, py.cframe_current_frame) };
                younger += 1;
            }
            then = stack.word(cframe.wrapping_add(u64::from(py.cframe_current_frame))).filter(|f| *f != frame);
        }
        let mut leaf = true;
        let mut strange = 0;
        // Set when the walk comes by the frame that ran at the sample.
        let mut passed = false;
        let mut buffer = [0; BUFFER];
        for _ in 0..MAX_FRAMES {
            if frame == 0 {
                break;
            }
            if out.len() >= MAX_FRAMES - 2 {
                *flags |= flag::PY_TRUNCATED;
                break;
            }
            let Some(bytes) = buffer.get_mut(..(py.frame_size as usize).min(BUFFER)) else { break };
            if self.snapshot.read(frame, bytes).is_err() {
                *flags |= flag::PY_LOST;
                out.push(GONE);
                break;
            }
            let field = |offset: u32| word_in(bytes, offset).unwrap_or(0);
            let byte = |offset: u32| bytes.get(offset as usize).copied().unwrap_or(0);
            let (previous, code) = (field(py.frame_previous), field(py.frame_code) & !7);
            if then == Some(frame) && !passed {
                // All before this one was entered since the sample.
                passed = true;
                out.clear();
            }
            if py.entry_rule == 3 && byte(py.frame_owner) >= 3 {
                if stack.is_some_and(|s| s.is_above(frame)) {
                    out.clear();
                } else {
                    out.push(PyFrame { code: frame, at: ENTRY_MARK, check: 0 });
                }
                frame = previous;
                continue;
            }
            let check = match self.code(py, code, now) {
                Code::Is(check) => check,
                // 3.11 and 3.12 publish a new CFrame before they fill it: the caller's is the last good one.
                _ if leaf && py.frame_source == 1 => {
                    leaf = false;
                    cframe = word(self, cframe, py.cframe_previous);
                    frame = if cframe == 0 { 0 } else { word(self, cframe, py.cframe_current_frame) };
                    continue;
                }
                // 3.13: None and other things may stand there.
                Code::Other if strange < STRANGE_LIMIT => {
                    strange += 1;
                    frame = previous;
                    continue;
                }
                Code::Other | Code::Unreadable => {
                    *flags |= flag::PY_LOST;
                    out.push(GONE);
                    break;
                }
            };
            leaf = false;
            let instr = field(py.frame_instr);
            let at = if py.frame_source == 0 { instr as u32 } else { instr.wrapping_sub(code) as u32 };
            out.push(PyFrame { code, at: at & AT_MASK, check });
            if py.entry_rule == 2 && byte(py.frame_is_entry) != 0 {
                out.push(PyFrame { code: cframe, at: ENTRY_MARK, check: 0 });
                cframe = if cframe == 0 { 0 } else { word(self, cframe, py.cframe_previous) };
            }
            frame = previous;
        }
        if py.entry_rule == 1 {
            self.pair(py, cframe, stack, out);
        }
        if then.is_some() && !passed {
            out.insert(0, GONE);
        }
    }

    /// 3.10: each frame has a CFrame of its own. They are made and dropped a moment before and after each other, so they
    /// are paired from the root, where nothing moves.
    fn pair(&self, py: &Python, innermost: u64, stack: Option<CStack<'_>>, out: &mut Vec<PyFrame>) {
        let mut cframes = Vec::new();
        let mut at = innermost;
        while at != 0 && cframes.len() < MAX_FRAMES {
            let previous = self.snapshot.u64_at(at.wrapping_add(u64::from(py.cframe_previous))).unwrap_or(0);
            // The last one belongs to the thread state and to no frame.
            if previous != 0 {
                cframes.push(at);
            }
            at = previous;
        }
        let bare = out.len().saturating_sub(cframes.len());
        let early = cframes.len().saturating_sub(out.len());
        let marks = std::iter::repeat_n(None, bare).chain(cframes.into_iter().skip(early).map(Some));
        let frames = std::mem::take(out);
        for (frame, mark) in frames.into_iter().zip(marks) {
            out.push(frame);
            match mark {
                Some(at) if stack.is_some_and(|s| s.is_above(at)) => out.clear(),
                Some(at) => out.push(PyFrame { code: at, at: ENTRY_MARK, check: 0 }),
                None => {}
            }
        }
    }

    /// What is behind a frame's pointer to its code.
    fn code(&mut self, py: &Python, code: u64, now: Mono) -> Code {
        if let Some((known, at)) = self.codes.get(&code)
            && now.since(*at) < CODE_TTL_NS
        {
            return *known;
        }
        let found = look(&self.snapshot, py, code);
        if self.codes.len() >= CODE_LIMIT {
            self.codes.clear();
        }
        self.codes.insert(code, (found, now));
        found
    }
}

fn look(memory: &dyn Memory, py: &Python, code: u64) -> Code {
    /// `ob_type` of an object.
    const OB_TYPE: u32 = 8;
    let mut buffer = [0; BUFFER];
    let Some(bytes) = buffer.get_mut(..(py.code_size as usize).min(BUFFER)) else { return Code::Unreadable };
    if memory.read(code, bytes).is_err() {
        return Code::Unreadable;
    }
    let word = |offset| word_in(bytes, offset).unwrap_or(0);
    if py.code_type != 0 && word(OB_TYPE) != py.code_type {
        return Code::Other;
    }
    Code::Is(fingerprint(word(py.code_firstlineno) as u32, (word(py.code_name), word(py.code_linetable))))
}

fn word_in(bytes: &[u8], offset: u32) -> Option<u64> {
    let offset = offset as usize;
    Some(u64::from_le_bytes(bytes.get(offset..offset.checked_add(8)?)?.try_into().ok()?))
}

/// Whether the thread with this state holds the GIL, as walk.h decides it.
fn holds_gil(memory: &dyn Memory, py: &Python, state: u64) -> bool {
    let word = |at: u64, offset: u32| memory.u64_at(at.wrapping_add(u64::from(offset))).unwrap_or(0);
    match py.gil_rule {
        1 => word(py.runtime, py.gil_holder) == state,
        2 | 3 => {
            let interp = word(state, py.ts_interp);
            let at = if py.gil_rule == 3 { word(interp, py.gil_pointer) } else { interp };
            word(at, py.gil_locked) as u32 == 1 && word(at, py.gil_holder) == state
        }
        _ => false,
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

/// Memory of a process whose pages are read once and then kept until [`Snapshot::clear`].
struct Snapshot {
    live: LiveMemory,
    pages: RefCell<Pages>,
}

#[derive(Default)]
struct Pages {
    at: Vec<u64>,
    bytes: Vec<[u8; PAGE]>,
}

/// Pages kept at most; a walk that needs more reads the rest directly.
const PAGE_LIMIT: usize = 64;

impl Snapshot {
    fn new(live: LiveMemory) -> Self {
        Self { live, pages: RefCell::default() }
    }

    fn clear(&self) {
        self.pages.borrow_mut().at.clear();
    }

    /// Copies from one page.
    fn piece(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let fault = Fault { at, len: into.len() };
        let start = at & !(PAGE as u64 - 1);
        let offset = (at - start) as usize;
        let mut pages = self.pages.borrow_mut();
        let Pages { at: starts, bytes } = &mut *pages;
        let index = if let Some(index) = starts.iter().position(|p| *p == start) {
            index
        } else {
            let index = starts.len();
            if index >= PAGE_LIMIT {
                return self.live.read(at, into);
            }
            if bytes.len() <= index {
                bytes.push([0; PAGE]);
            }
            self.live.read(start, bytes.get_mut(index).ok_or(fault)?)?;
            starts.push(start);
            index
        };
        let from = bytes.get(index).and_then(|page| page.get(offset..offset + into.len())).ok_or(fault)?;
        into.copy_from_slice(from);
        Ok(())
    }
}

impl Memory for Snapshot {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        while done < into.len() {
            let from = at.checked_add(done as u64).ok_or(Fault { at, len: into.len() })?;
            let room = PAGE - (from as usize & (PAGE - 1));
            let to = into.len().min(done + room);
            self.piece(from, into.get_mut(done..to).unwrap_or_default())?;
            done = to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_holds_still_until_it_is_cleared() {
        let cell = Box::new(std::sync::atomic::AtomicU64::new(1));
        let at = &raw const *cell as u64;
        let snapshot = Snapshot::new(LiveMemory::new(std::process::id()));
        assert_eq!(snapshot.u64_at(at), Ok(1));
        cell.store(2, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(snapshot.u64_at(at), Ok(1));
        snapshot.clear();
        assert_eq!(snapshot.u64_at(at), Ok(2));
        assert!(snapshot.u64_at(8).is_err());
    }

    #[test]
    fn reads_over_page_borders_are_whole() {
        let bytes: Vec<u8> = (0..3 * PAGE).map(|i| (i * 31 % 251) as u8).collect();
        let snapshot = Snapshot::new(LiveMemory::new(std::process::id()));
        let read = snapshot.bytes_at(bytes.as_ptr() as u64, bytes.len(), 1 << 20).unwrap();
        assert_eq!(read, bytes);
    }
}
