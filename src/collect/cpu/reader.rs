//! Python frames read from outside, a moment after (or without) a sample: what the rungs without eBPF have.
//!
//! In: a thread id, the target's memory, its CPython. Out: frames and entry marks in the walker's form, so that everything
//! after it is the same on every rung. Pages are read whole and kept for the length of one walk: 3.11 and later keep a
//! thread's frames side by side, so that a stack is two or three reads and close to one instant. Invariant: nothing is
//! stopped or written. Bias: the thread runs on meanwhile; `moved` says that its innermost frame was another one after the
//! walk than before, and a walk that ends astray is `PY_LOST`.

use std::cell::RefCell;

use rustc_hash::FxHashMap;

use super::python::{code_size, fingerprint};
use crate::clock::Mono;
use crate::os::bpf::{ENTRY_MARK, MAX_FRAMES, PyFrame, flag};
use crate::os::memory::{Fault, LiveMemory, Memory};
use crate::python::layout::{FrameSource, Instr, Layout};
use crate::python::{Cut, Runtime, Thread, frames, gil};

/// For so long "this thread has no Python state" is believed.
const NEGATIVE_TTL_NS: u64 = 100_000_000;
/// For so long a code object is taken to be what it was: its memory may be freed and used anew.
const CODE_TTL_NS: u64 = 50_000_000;
/// Code objects remembered.
const CODE_LIMIT: usize = 20_000;
/// The bits of [`PyFrame::at`] that hold a position.
const AT_MASK: u32 = 0x7fff_ffff;
const PAGE: usize = 4096;

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
    codes: FxHashMap<u64, (Option<u32>, Mono)>,
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

    /// Walks the frames of thread `tid` into `out` (cleared first).
    pub(super) fn read(&mut self, runtime: &Runtime, tid: u32, now: Mono, out: &mut Vec<PyFrame>) -> Seen {
        out.clear();
        self.snapshot.clear();
        let fresh = !self.inner_ids.contains_key(&tid);
        let pid = self.pid;
        let inner = *self.inner_ids.entry(tid).or_insert_with(|| inner_id(pid, tid));
        let mut thread = self.thread(runtime, inner);
        let expired = self.listed.is_none_or(|at| now.since(at) > NEGATIVE_TTL_NS);
        // A thread that is new, or whose state was freed: look for it once more.
        if thread.is_none() && (fresh || expired) {
            self.list(runtime, now);
            self.snapshot.clear();
            thread = self.thread(runtime, inner);
        }
        let Some(thread) = thread else { return Seen::default() };
        // The second look comes at once: the shorter the time between, the less is taken for movement that did no harm.
        let again = frames::thread(&self.live, runtime, thread.state, 1);
        let top = |t: &Thread| t.frames.first().map(|f| (f.address, f.code));
        let moved = again.as_ref().and_then(top) != top(&thread);
        let mut seen = Seen { flags: flag::HAS_TSTATE, moved };
        if gil::of(&self.snapshot, runtime, thread.interpreter_at).is_ok_and(|g| g.holder == Some(thread.state)) {
            seen.flags |= flag::HOLDS_GIL;
        }
        self.translate(runtime, &thread, now, &mut seen.flags, out);
        seen
    }

    /// The thread with this id, as memory has it now: of several states the one that has frames.
    fn thread(&self, runtime: &Runtime, inner: u32) -> Option<Thread> {
        let states = self.states.get(&inner)?;
        let mut idle = None;
        for &state in states {
            let Some(thread) = frames::thread(&self.snapshot, runtime, state, MAX_FRAMES) else { continue };
            if thread.native_id != Some(inner) {
                continue;
            }
            if !thread.frames.is_empty() || thread.cut.is_some() {
                return Some(thread);
            }
            idle = Some(thread);
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

    /// Frames and entry marks, leaf first, as the eBPF walker writes them.
    fn translate(&mut self, runtime: &Runtime, thread: &Thread, now: Mono, flags: &mut u32, out: &mut Vec<PyFrame>) {
        let layout = &runtime.layout;
        match thread.cut {
            Some(Cut::Limit) => *flags |= flag::PY_TRUNCATED,
            Some(Cut::Broken) => *flags |= flag::PY_LOST,
            None => {}
        }
        for (i, frame) in thread.frames.iter().enumerate() {
            match self.check(runtime, frame.code, now) {
                Some(check) => {
                    let at = match layout.instr {
                        Instr::Pointer => frame.instr.wrapping_sub(frame.code) as u32 & AT_MASK,
                        Instr::LastiBytes | Instr::LastiUnits => frame.instr as u32 & AT_MASK,
                    };
                    out.push(PyFrame { code: frame.code, at, check });
                }
                // 3.11 and 3.12 publish a CFrame before they fill it; nothing behind it can be trusted.
                None if i == 0 && matches!(layout.frame_source, FrameSource::CFrame { .. }) => {
                    *flags |= flag::PY_LOST;
                    return;
                }
                // 3.13: None and other things may stand where the code should.
                None => {}
            }
            if let Some(address) = frame.c_stack.filter(|_| frame.entry) {
                out.push(PyFrame { code: address, at: ENTRY_MARK, check: 0 });
            }
        }
    }

    /// The fingerprint of the code object at `code`; `None`: it is none.
    fn check(&mut self, runtime: &Runtime, code: u64, now: Mono) -> Option<u32> {
        if let Some((check, at)) = self.codes.get(&code)
            && now.since(*at) < CODE_TTL_NS
        {
            return *check;
        }
        let check = look(&self.snapshot, runtime, code);
        if self.codes.len() >= CODE_LIMIT {
            self.codes.clear();
        }
        self.codes.insert(code, (check, now));
        check
    }
}

/// Reads the fingerprint of a code object.
fn look(memory: &dyn Memory, runtime: &Runtime, code: u64) -> Option<u32> {
    let l: &Layout = &runtime.layout;
    let mut buffer = [0; 256];
    let bytes = buffer.get_mut(..code_size(l) as usize)?;
    memory.read(code, bytes).ok()?;
    let word = |offset: u32| {
        let offset = offset as usize;
        Some(u64::from_le_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
    };
    if runtime.code_type.is_some_and(|t| word(l.ob_type) != Some(t)) {
        return None;
    }
    Some(fingerprint(word(l.code_firstlineno)? as u32, (word(l.code_name)?, word(l.code_linetable)?)))
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
        let index = match starts.iter().position(|p| *p == start) {
            Some(index) => index,
            None => {
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
            }
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
