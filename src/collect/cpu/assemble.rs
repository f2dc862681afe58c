//! One instant of one thread, put together: kernel, native and Python frames become one stack of the recording.
//!
//! In: a record's native part (or none), the Python frames of the same instant in the walker's form, wherever they were
//! read. Out: an interned stack and what is known about its quality. Every rung of the ladder ends here, so that a stack
//! looks the same whoever took it.

use std::ops::Range;

use super::late::{Fit, merge_late};
use super::merge::{Piece, PyItem, merge};
use super::naming::{Unnamed, What};
use super::process::{Process, Shared};
use crate::clock::Mono;
use crate::native::unwind::{End, NativeFrame, StackCopy};
use crate::os::bpf::{ENTRY_MARK, PyFrame, flag};
use crate::os::perf::StackSample;
use crate::record::{FrameId, FrameKey, FrameKind, Recorder, SampleFlags, StackId, Thread, ThreadId};

/// The frames of tracing above the scheduler are no more than this.
const TRACING_FRAMES: usize = 8;

/// What a sample is made of, Python frames aside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'a> {
    /// The thread.
    pub(super) tid: u32,
    /// Kernel frames, registers and stack; `None` where only memory was read.
    pub(super) native: Option<&'a StackSample<'a>>,
    /// Its native frames, where they are unwound already.
    pub(super) unwound: Option<(&'a [NativeFrame], End)>,
    /// What the walker of the Python frames says, [`flag`] bits.
    pub(super) walker: u32,
    /// The Python frames were read later than the rest was taken.
    pub(super) late: bool,
    /// Where the scheduler lies, for a sample taken inside it: the frames above are the tracing's.
    pub(super) scheduler: Option<&'a Range<u64>>,
}

/// A sample put together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Assembled {
    pub(super) thread: ThreadId,
    pub(super) stack: StackId,
    pub(super) flags: SampleFlags,
    /// The native stack was longer than the largest copy.
    pub(super) cut: bool,
}

/// The scratch space of [`Assembler::assemble`], kept from sample to sample.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    native: Vec<NativeFrame>,
    python: Vec<PyItem<FrameId>>,
    pieces: Vec<Piece<FrameId>>,
    stack: Vec<FrameId>,
}

impl Assembler {
    /// Turns the parts of one instant into one stack. `frames` are Python frames and entry marks, leaf first.
    pub(super) fn assemble(
        &mut self,
        process: &mut Process,
        shared: &Shared,
        parts: Parts<'_>,
        frames: impl Iterator<Item = PyFrame>,
        now: Mono,
    ) -> Assembled {
        let Self { native, python, pieces, stack } = self;
        let recorder = &shared.recorder;
        let mut flags = 0;

        native.clear();
        let kept = shared.kept;
        let end = match (parts.unwound, parts.native.and_then(|r| Some((r, r.regs?)))) {
            _ if !kept.native => End::Root,
            (Some((frames, end)), _) => {
                native.extend_from_slice(frames);
                end
            }
            (None, Some((record, regs))) => {
                let copy = StackCopy { regs, bytes: record.stack };
                process.unwind(copy, native, shared, now)
            }
            // Without a user side the kernel's part is all there is.
            (None, None) => End::Root,
        };
        match end {
            End::Root if parts.native.is_some() && kept.native => flags |= SampleFlags::ROOTED,
            End::Truncated => flags |= SampleFlags::TRUNCATED,
            End::Root | End::Lost => {}
        }

        python.clear();
        let mut lost = parts.walker & flag::PY_LOST != 0;
        for f in frames.take_while(|_| kept.python) {
            if f.at == ENTRY_MARK {
                python.push(PyItem::Entry(f.code));
                continue;
            }
            let id = process.python_frame(f, recorder).unwrap_or_else(|| {
                lost = true;
                recorder.label("[python code gone]")
            });
            python.push(PyItem::Frame(id));
        }
        if process.pairs_frames() && !parts.late {
            pair_from_root(python);
        }
        // A thread state without a frame, at its start or its end, has none to miss.
        let expected = kept.python && parts.walker & flag::HAS_TSTATE != 0 && (lost || !python.is_empty());
        for (set, ours) in [
            (expected, SampleFlags::HAS_PYTHON),
            (parts.walker & flag::HOLDS_GIL != 0, SampleFlags::GIL),
            (parts.walker & flag::PY_TRUNCATED != 0, SampleFlags::TRUNCATED),
        ] {
            if set {
                flags |= ours;
            }
        }
        if lost && kept.python {
            flags |= SampleFlags::PYTHON_LOST;
        } else if !python.is_empty() {
            flags |= SampleFlags::PYTHON;
        }

        let rule = process.rule().filter(|_| !python.is_empty());
        let merged = match rule {
            Some(rule) if !native.is_empty() => {
                let eval = process.eval_ranges();
                let is_eval = |a: u64| eval.iter().any(|r| r.contains(&a));
                if parts.late {
                    let is_eval: Option<&dyn Fn(u64) -> bool> = if eval.is_empty() { None } else { Some(&is_eval) };
                    let fit = merge_late(rule, native, end, python, is_eval, pieces);
                    if fit == Fit::Left {
                        flags = flags & !SampleFlags::PYTHON | SampleFlags::PYTHON_LOST;
                    }
                    fit != Fit::None
                } else {
                    merge(rule, native, end, python, is_eval, pieces)
                }
            }
            _ => {
                pieces.clear();
                pieces.extend((0..native.len()).map(Piece::Native));
                pieces.extend(python.iter().filter_map(|p| match p {
                    PyItem::Frame(f) => Some(Piece::Python(*f)),
                    PyItem::Entry(_) => None,
                }));
                true
            }
        };
        if !merged {
            flags |= SampleFlags::UNMERGED;
        }

        stack.clear();
        let tracing = parts.scheduler.map_or(0, |range| {
            let mut kernel = parts.native.iter().flat_map(|r| r.kernel()).take(TRACING_FRAMES);
            kernel.position(|a| range.contains(&a)).map_or(0, |at| at + 1)
        });
        let kernel = parts.native.iter().filter(|_| kept.kernel).flat_map(|r| r.kernel());
        for (depth, address) in kernel.enumerate().skip(tracing) {
            // But for the leaf these are return addresses; the call is the instruction before.
            let address = if depth == 0 { address } else { address - 1 };
            let key = FrameKey { kind: FrameKind::Kernel, space: 0, address };
            let (frame, new) = recorder.address_frame(key, || None);
            if new {
                shared.naming.ask(Unnamed { frame, what: What::Kernel(address), module: None });
            }
            stack.push(frame);
        }
        let gap = match end {
            End::Lost => "[unwind lost]",
            End::Root | End::Truncated => "[truncated]",
        };
        let mut filled = end == End::Root;
        for piece in &*pieces {
            stack.push(match piece {
                Piece::Native(i) => process.native_frame(native[*i].address, recorder),
                Piece::Python(f) => *f,
                Piece::Gap => {
                    filled = true;
                    recorder.label(gap)
                }
                Piece::Unmerged => recorder.label("[unmerged]"),
                Piece::Gone => recorder.label("[python code gone]"),
            });
        }
        if !filled {
            stack.push(recorder.label(gap));
        }
        if stack.is_empty() {
            stack.push(recorder.label(if kept.native { "[no frames]" } else { "[no Python]" }));
        }
        stack.reverse();
        Assembled {
            thread: thread_of(process, parts.tid, recorder),
            stack: recorder.stack(stack),
            flags: SampleFlags(flags),
            cut: end == End::Truncated && parts.native.is_some_and(|r| r.stack_full),
        }
    }
}

/// The thread's row, added with its name when it is new.
pub(super) fn thread_of(process: &mut Process, tid: u32, recorder: &Recorder) -> ThreadId {
    let (pid, id) = (process.pid, process.id);
    *process.threads.entry(tid).or_insert_with(|| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_default();
        recorder.thread(Thread { process: id, tid, name: name.trim_end().to_owned() })
    })
}

/// 3.10 gives each call a CFrame and a frame, but not at the same instant: the innermost call may have one of them only. The
/// marks then belong to one frame further in or out than they stand; what is paired from the root is right.
fn pair_from_root<F: Copy>(python: &mut Vec<PyItem<F>>) {
    let marks: Vec<u64> =
        python.iter().filter_map(|p| if let PyItem::Entry(at) = p { Some(*at) } else { None }).collect();
    let frames = python.len() - marks.len();
    if marks.len() == frames {
        return;
    }
    let mut marks = marks.into_iter().rev();
    let mut paired = Vec::with_capacity(python.len());
    for item in python.iter().rev() {
        if let PyItem::Frame(_) = item {
            paired.extend(marks.next().map(PyItem::Entry));
            paired.push(*item);
        }
    }
    paired.reverse();
    *python = paired;
}

#[cfg(test)]
mod tests {
    use super::*;
    use PyItem::{Entry, Frame};

    #[test]
    fn a_call_without_its_frame_or_its_cframe_shifts_no_other() {
        let mut entering = vec![Frame('b'), Entry(9), Frame('a'), Entry(2), Entry(1)];
        pair_from_root(&mut entering);
        assert_eq!(entering, [Frame('b'), Entry(2), Frame('a'), Entry(1)]);
        let mut leaving = vec![Frame('b'), Entry(1), Frame('a')];
        pair_from_root(&mut leaving);
        assert_eq!(leaving, [Frame('b'), Frame('a'), Entry(1)]);
    }
}
