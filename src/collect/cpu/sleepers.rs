//! Threads that are asleep, whose stack at the start of the wait is not known: read from memory, without stopping them.
//!
//! In: a process and a thread id. Out: what it waits for and its stack, which is that of the whole wait, for a thread that
//! does not run does not change its stack. One that woke while it was read is labelled, not guessed at.

use super::assemble::{Assembler, Parts};
use super::process::{Process, Shared};
use super::reader::Reader;
use super::reason::Wait;
use crate::clock::Mono;
use crate::native::asleep::{Look, Proof, Task, look};
use crate::native::unwind::{NativeFrame, StackCopy};
use crate::os::memory::LiveMemory;
use crate::os::perf::StackSample;
use crate::record::{SampleFlags, StackId};
use crate::target::Maps;

/// A thread that sleeps.
pub(super) struct Sleeper {
    pub(super) stack: StackId,
    pub(super) flags: SampleFlags,
    pub(super) reason: &'static str,
    /// The stack was read; else it is a label.
    pub(super) seen: bool,
}

/// Looks at thread `tid` of `process`.
pub(super) fn sleeper(process: &mut Process, tid: u32, shared: &Shared, now: Mono) -> Sleeper {
    let pid = process.pid;
    let memory = LiveMemory::new(pid);
    let label = |process: &mut Process, wait: Option<(Option<u32>, u64)>| {
        let (system_call, argument) = wait.unwrap_or_default();
        let reason = process.reason(Wait { state: 1, system_call, argument, io_wait: false });
        let stack = shared.recorder.stack(&[shared.recorder.label("[asleep since before the recording]")]);
        Sleeper { stack, flags: SampleFlags::default(), reason, seen: false }
    };
    let Ok(maps) = Maps::of(pid) else { return label(process, None) };
    let mut reader = Reader::new(pid);
    let mut python = Vec::new();
    let looked = look(Task { pid, tid }, &memory, &maps, |_| {
        process.python.as_ref().map(|p| reader.read((&p.runtime, &p.walker()), tid, None, now, &mut python).flags)
    });
    let Ok(Look::Asleep(mut asleep, walker, proof)) = looked else { return label(process, None) };
    let wait = asleep.call.map(|c| (Some(c.number), c.args[0]));
    if proof == Proof::Torn {
        return label(process, wait);
    }
    // Finds the frame pointer where a rule up the stack needs it, steps over vfork and out of stacks of signal handlers.
    let mut frames = Vec::new();
    let end = asleep.unwind(&memory, &maps, &mut frames, &mut |copy: StackCopy<'_>, frames: &mut Vec<NativeFrame>| {
        process.unwind(copy, frames, shared, now)
    });
    let record = StackSample::of_memory(pid, tid, asleep.regs, &asleep.bytes);
    let (unwound, walker) = (Some((&frames[..], end)), walker.unwrap_or(0));
    let parts = Parts { tid, native: Some(&record), unwound, walker, scheduler: None, late: false };
    let assembled = Assembler::default().assemble(process, shared, parts, python.into_iter(), now);
    let (system_call, argument) = wait.unwrap_or_default();
    let reason = process.reason(Wait { state: 1, system_call, argument, io_wait: false });
    Sleeper { stack: assembled.stack, flags: assembled.flags, reason, seen: true }
}
