//! From the parts of a thread's stack to the frames of the model, in one order.

use super::native::{Natives, within};
use super::python::{PyStack, Pythons};
use crate::collect::cpu::merge::{Piece, merge};
use crate::collect::cpu::once::Caught;
use crate::collect::cpu::{Fit, merge_late};
use crate::native::asleep::{Asleep, Unwinding as _};
use crate::native::unwind::{End, NativeFrame, StackCopy};
use crate::os::memory::LiveMemory;
use crate::record::Frame;
use crate::record::dump::{DumpFrame, Ending};

/// A stack put together.
#[derive(Debug, Default)]
pub(super) struct Assembled {
    pub(super) frames: Vec<DumpFrame>,
    pub(super) ending: Option<Ending>,
    pub(super) merged: Option<bool>,
    pub(super) python_complete: Option<bool>,
}

/// A thread that sleeps. `asleep` is left out when only Python frames are wanted.
pub(super) fn assemble_asleep(
    natives: &mut Natives,
    pythons: Option<&Pythons>,
    asleep: Option<&mut Asleep>,
    memory: &LiveMemory,
    kernel: Vec<Frame>,
    python: Option<PyStack>,
) -> Assembled {
    let mut native = Vec::new();
    let mut guessed = false;
    let end = asleep.map(|asleep| {
        let mut unwind = |natives: &mut Natives| {
            let maps = natives.shared_maps();
            asleep.unwind(memory, &maps, &mut native, natives)
        };
        let end = match unwind(natives) {
            // Code that came after the mappings were read.
            End::Lost if natives.refresh() => unwind(natives),
            end => end,
        };
        guessed = asleep.guessed;
        end
    });
    let assembled = assemble(natives, pythons, kernel, (native, end), (python, false));
    let ending = assembled.ending.map(|e| if guessed && e == Ending::Root { Ending::Guessed } else { e });
    Assembled { ending, ..assembled }
}

/// A thread met on its CPU.
pub(super) fn assemble_caught(
    natives: &mut Natives,
    pythons: Option<&Pythons>,
    caught: &Caught,
    kernel: Vec<Frame>,
    (python, late): (Option<PyStack>, bool),
) -> Assembled {
    let mut native = Vec::new();
    let end = caught.regs.map(|regs| {
        let copy = StackCopy { regs, bytes: &caught.stack };
        match natives.unwind(copy, &mut native) {
            End::Lost if natives.refresh() => natives.unwind(copy, &mut native),
            end => end,
        }
    });
    assemble(natives, pythons, kernel, (native, end), (python, late))
}

/// Python frames alone.
pub(super) fn assemble_python(pythons: Option<&Pythons>, python: Option<PyStack>) -> Assembled {
    let python_complete = python.as_ref().map(|p| p.complete);
    let read = python.unwrap_or_default();
    let frames = pythons.map(|p| (0..read.frames.len()).map(|i| python_frame(p, &read, i)).collect());
    Assembled { frames: frames.unwrap_or_default(), python_complete, ..Assembled::default() }
}

/// The frames of a worker of the kernel.
pub(super) fn kernel_only(kernel: Option<Vec<Frame>>) -> Vec<DumpFrame> {
    kernel.unwrap_or_default().into_iter().map(plain).collect()
}

fn assemble(
    natives: &mut Natives,
    pythons: Option<&Pythons>,
    kernel: Vec<Frame>,
    (native, end): (Vec<NativeFrame>, Option<End>),
    (python, late): (Option<PyStack>, bool),
) -> Assembled {
    let (Some(end), false) = (end, native.is_empty()) else {
        return assemble_python(pythons, python);
    };
    let python_complete = python.as_ref().map(|p| p.complete);
    let read = python.unwrap_or_default();
    let mut pieces = Vec::new();
    let mut merged = None;
    match pythons.filter(|_| !read.frames.is_empty()) {
        Some(p) => {
            let eval = &p.runtime.eval;
            let is_eval = |a| within(eval, a);
            merged = Some(if late {
                let is_eval: Option<&dyn Fn(u64) -> bool> = if eval.is_empty() { None } else { Some(&is_eval) };
                merge_late(p.rule(), &native, end, &read.items, is_eval, &mut pieces) != Fit::None
            } else {
                merge(p.rule(), &native, end, &read.items, is_eval, &mut pieces)
            });
        }
        None => pieces.extend((0..native.len()).map(Piece::Native)),
    }
    let gap = if end == End::Lost { "[unwind lost]" } else { "[truncated]" };
    let label = |text: &str| plain(Frame::label(text.to_owned()));
    let mut filled = end == End::Root;
    let mut frames: Vec<DumpFrame> = kernel.into_iter().map(plain).collect();
    let image = pythons.map(|p| p.runtime.image.as_str());
    for piece in pieces {
        frames.push(match (piece, pythons) {
            (Piece::Native(i), _) => {
                let frame = natives.frame(native[i].address);
                let interpreter = image.is_some() && frame.module.as_deref() == image;
                DumpFrame { frame, interpreter, locals: None }
            }
            (Piece::Python(i), Some(p)) => python_frame(p, &read, i),
            (Piece::Python(_), None) => label("[unmerged]"),
            (Piece::Gap, _) => {
                filled = true;
                label(gap)
            }
            (Piece::Unmerged, _) => label("[unmerged]"),
            (Piece::Gone, _) => label("[python frames left since]"),
        });
    }
    if !filled {
        frames.push(label(gap));
    }
    let ending = Some(match end {
        End::Root => Ending::Root,
        End::Truncated => Ending::Truncated,
        End::Lost => Ending::Lost,
    });
    Assembled { frames, ending, merged, python_complete }
}

fn plain(frame: Frame) -> DumpFrame {
    DumpFrame { frame, interpreter: false, locals: None }
}

fn python_frame(pythons: &Pythons, read: &PyStack, i: usize) -> DumpFrame {
    let found = read.frames.get(i).and_then(|f| Some((pythons.frame(f)?, f.locals.clone())));
    let (frame, locals) = found.unwrap_or_else(|| (Frame::label("[python code gone]".to_owned()), None));
    DumpFrame { frame, interpreter: false, locals }
}

/// Gives the frames of `stack` the variables that `later` found in the same frames, counted from the root.
pub(super) fn adopt_locals(stack: &mut PyStack, later: PyStack) {
    for (frame, same) in stack.frames.iter_mut().rev().zip(later.frames.into_iter().rev()) {
        if frame.code != same.code {
            return;
        }
        frame.locals = same.locals;
    }
}

#[cfg(test)]
mod tests {
    use super::super::python::PyRead;
    use super::*;

    #[test]
    fn variables_go_to_the_frames_that_are_still_there() {
        let read = |code, with: bool| PyRead { code, instr: 0, locals: with.then(Vec::new) };
        let stack = |codes: &[u64], with| PyStack {
            frames: codes.iter().map(|c| read(*c, with)).collect(),
            ..PyStack::default()
        };
        let mut sampled = stack(&[4, 3, 2, 1], false);
        adopt_locals(&mut sampled, stack(&[9, 2, 1], true));
        let has: Vec<bool> = sampled.frames.iter().map(|f| f.locals.is_some()).collect();
        assert_eq!(has, [false, false, true, true]);
    }
}
