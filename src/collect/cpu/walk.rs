//! The walk over a thread's Python frames from outside: walk.h, where each read is a copy from a [`Snapshot`].
//!
//! In: the walker's view of a CPython, a thread state, and the sample's copy of the C stack where there is one. Out: frames
//! and entry marks, as the eBPF walker writes them. Invariant: every chain is bounded; memory that is no frame ends a walk.
//! From 3.11 on a frame keeps the top of its stack only while a frame that it called runs: one that does not, below others,
//! runs itself, and the others are leftovers of calls that are over. So what is read from one page belongs together.
//!
//! The thread runs on between the sample and the walk. What the copied C stack proves is used: an eval call below the
//! sample's stack pointer is younger than the sample and left out, and in 3.11 and 3.12 the copy holds each eval call's
//! innermost frame, so that frames entered since are left out and frames left since are a `[python code gone]`.

use rustc_hash::FxHashMap;

use super::python::fingerprint;
use super::snapshot::Snapshot;
use crate::clock::Mono;
use crate::os::bpf::{ENTRY_MARK, MAX_FRAMES, PyFrame, Python, flag};
use crate::os::memory::{LiveMemory, Memory};

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

/// What is known beside the pages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hints<'a> {
    /// The innermost CFrame (3.11 and 3.12).
    pub(super) cframe: u64,
    /// The innermost frame.
    pub(super) top: u64,
    /// The innermost frame after the pages were read.
    pub(super) at_end: u64,
    /// A frame keeps a pointer to the top of its stack (3.14 and later) and not a number.
    pub(super) wide_top: bool,
    /// The sample's copy of the C stack.
    pub(super) stack: Option<CStack<'a>>,
}

/// Walks, and remembers the code objects it met.
#[derive(Debug)]
pub(super) struct Walker {
    live: LiveMemory,
    pub(super) snapshot: Snapshot,
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

impl Walker {
    /// A walker over the frames of `pid`'s threads.
    pub(super) fn new(pid: u32) -> Self {
        let live = LiveMemory::new(pid);
        Self { live, snapshot: Snapshot::new(live), codes: FxHashMap::default() }
    }

    /// Frames and entry marks of the thread with this state, leaf first, into `out` (cleared first). Returns [`flag`] bits.
    pub(super) fn walk(
        &mut self,
        (py, state): (&Python, u64),
        hints: Hints<'_>,
        now: Mono,
        out: &mut Vec<PyFrame>,
    ) -> u32 {
        out.clear();
        let mut flags = flag::HAS_TSTATE;
        let word = |s: &Self, at: u64, offset: u32| s.snapshot.u64_at(at.wrapping_add(u64::from(offset))).unwrap_or(0);
        let Hints { mut cframe, top: mut frame, at_end, wide_top, stack } = hints;
        if frame == 0 {
            return flags;
        }
        if py.entry_rule == 1 {
            cframe = word(self, state, py.ts_cframe);
        }
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
        // The frame before was called without a C call between, so this one must have laid down its work for it.
        let mut inlined = false;
        let mut buffer = [0; BUFFER];
        for _ in 0..MAX_FRAMES {
            if frame == 0 {
                break;
            }
            if out.len() >= MAX_FRAMES - 2 {
                flags |= flag::PY_TRUNCATED;
                break;
            }
            let Some(bytes) = buffer.get_mut(..(py.frame_size as usize).min(BUFFER)) else { break };
            if self.snapshot.read(frame, bytes).is_err() {
                flags |= flag::PY_LOST;
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
            if at_end == frame {
                // All before this one was left while we read: it may be half overwritten.
                out.clear();
            }
            if std::mem::take(&mut inlined) && works(bytes, py, wide_top) {
                // It runs itself: all before it is what earlier calls left behind.
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
                    flags |= flag::PY_LOST;
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
            } else {
                inlined = py.entry_rule >= 2;
            }
            frame = previous;
        }
        if py.entry_rule == 1 {
            self.pair(py, cframe, stack, out);
        }
        if out.is_empty() {
            // There is a frame, and it led nowhere.
            flags |= flag::PY_LOST;
        }
        if out.is_empty() || (then.is_some() && !passed) {
            out.insert(0, GONE);
        }
        flags
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
        let found = look(&self.live, py, code);
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

/// Whether a frame of 3.11 or later runs itself, and has called no other one: it keeps the top of its stack only while
/// another runs (`_PyFrame_SetStackPointer`, `_PyFrame_GetStackPointer`), in the field after `frame_instr`.
fn works(bytes: &[u8], py: &Python, wide_top: bool) -> bool {
    let top = word_in(bytes, py.frame_instr.saturating_add(8));
    top.is_some_and(|top| if wide_top { top == 0 } else { top as u32 == u32::MAX })
}

fn word_in(bytes: &[u8], offset: u32) -> Option<u64> {
    let offset = offset as usize;
    Some(u64::from_le_bytes(bytes.get(offset..offset.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_runs_has_laid_nothing_down() {
        let py = Python { frame_instr: 56, ..Python::default() };
        let frame = |top: u64| [vec![0; 64], top.to_le_bytes().to_vec()].concat();
        // The upper half holds other fields up to 3.13.
        assert!(works(&frame(0x0102_0304_ffff_ffff), &py, false));
        assert!(!works(&frame(0x0102_0304_0000_0003), &py, false));
        assert!(works(&frame(0), &py, true) && !works(&frame(0x7f00_1000), &py, true));
        assert!(!works(&[0; 64], &py, false));
    }

    #[test]
    fn the_copy_of_the_stack_tells_what_is_younger() {
        let stack = CStack { sp: 0x7f_0010_0000, bytes: &[1, 0, 0, 0, 0, 0, 0, 0, 2] };
        assert_eq!(
            (stack.word(0x7f_0010_0000), stack.word(0x7f_0010_0001), stack.word(0x7f_000f_fff8)),
            (Some(1), Some(2 << 56), None)
        );
        assert!(stack.is_above(0x7f_000f_ff00) && !stack.is_above(0x7f_0010_0000) && !stack.is_above(0x10));
    }
}
