//! The native stack of a thread that sleeps, taken without ptrace and without stopping anything.
//!
//! In: `/proc/PID/task/TID/syscall`, which tells of a blocked thread its system call, SP and PC; the memory of its stack.
//! Out: [`Asleep`], shaped like what a sample carries, so that it unwinds and merges the same way. Invariant: a stack that
//! is said to have [`Held`](Proof::Held) is one instant's stack: the scheduler's count of the thread's turns was the same
//! before and after everything was read, and in between the kernel vouched that it was off the CPU. Limits: RBP is not
//! told; [`Asleep::unwind`] finds it where a rule needs it. Bias: none from stopping; the threads of one process are read
//! one after the other, so two stacks are a few microseconds apart.

use std::fmt;
use std::ops::Range;

use super::backchain::{Code, Function, candidates};
use super::functions::function_at;
use super::unwind::{End, NativeFrame, StackCopy, interrupted};
use crate::error::{Error, Kind, Result};
use crate::os::memory::Memory;
use crate::target::Maps;

/// Most bytes of a stack that are read, the usual limit of a whole stack. Up to 3.10 a Python call takes about 430.
const STACK_LIMIT: u64 = 8 << 20;
/// Looks at a thread that keeps waking up before what was read is called torn.
const LOOKS: usize = 6;
/// What stands in [`Asleep::regs`] for an RBP that is not known: no stack lies there, so a rule that needs it fails.
pub const UNKNOWN_BP: u64 = 1;

/// A thread, by perfkit's own names for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Its process.
    pub pid: u32,
    /// Its thread id.
    pub tid: u32,
}

/// The system call in which a thread sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Its number (x86-64).
    pub number: u32,
    /// Its arguments.
    pub args: [u64; 6],
}

/// Where a thread is, as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On a CPU, or ready to be.
    Running,
    /// Blocked; outside of a system call it is in a page fault, stopped, or about to handle a signal.
    Blocked {
        /// The system call, if it is in one.
        call: Option<Call>,
        /// The user's stack pointer.
        sp: u64,
        /// Where it goes on in user space.
        pc: u64,
    },
    /// A worker of the kernel inside the process (io_uring, vhost): it has no user side.
    KernelOnly,
}

/// A sleeping thread's user side.
#[derive(Clone, PartialEq, Eq)]
pub struct Asleep {
    /// BP (as yet [`UNKNOWN_BP`]), SP, IP.
    pub regs: [u64; 3],
    /// The stack from SP upwards.
    pub bytes: Vec<u8>,
    /// The stack is longer than that.
    pub cut: bool,
    /// The system call in which it sleeps.
    pub call: Option<Call>,
    /// [`Self::unwind`] had to guess RBP: an older frame may have been taken for a present one.
    pub guessed: bool,
    /// The frame of `vfork`, which has left no trace on the stack.
    leaf: Option<NativeFrame>,
}

impl fmt::Debug for Asleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [bp, sp, ip] = self.regs;
        write!(f, "Asleep {{ bp: {bp:#x}, sp: {sp:#x}, ip: {ip:#x}, {} bytes, {:?} }}", self.bytes.len(), self.call)
    }
}

/// Whether what was read belongs to one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The thread did not run from the first read to the last.
    Held,
    /// It ran, however often we looked; parts may belong to different instants.
    Torn,
}

/// What looking at a thread came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look<T> {
    /// It sleeps: its user side, what else was read meanwhile, and whether all of it is of one instant.
    Asleep(Asleep, T, Proof),
    /// It runs or is ready to.
    Running,
    /// It has no user side.
    KernelOnly,
}

/// Where the thread is now.
///
/// # Errors
/// `Gone` when it has ended; `Denied` without the right to look (that of ptrace: same user, or CAP_SYS_PTRACE).
pub fn place(task: Task) -> Result<Place> {
    let path = format!("/proc/{}/task/{}/syscall", task.pid, task.tid);
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(format!("cannot read {path}"), e))?;
    parse_place(&text).ok_or_else(|| Error::new(Kind::Malformed, format!("{path} says '{}'", text.trim_end())))
}

/// `running`, or `CALL ARG… SP PC` with `-1` and no arguments outside of a system call (proc(5)).
fn parse_place(text: &str) -> Option<Place> {
    let mut words = text.split_ascii_whitespace();
    let first = words.next()?;
    if first == "running" {
        return Some(Place::Running);
    }
    let number: i64 = first.parse().ok()?;
    let hex = |w: &str| u64::from_str_radix(w.strip_prefix("0x")?, 16).ok();
    let values: Vec<u64> = words.map(hex).collect::<Option<_>>()?;
    let (call, sp, pc) = match (u32::try_from(number), &values[..]) {
        (Ok(number), &[a, b, c, d, e, f, sp, pc]) => (Some(Call { number, args: [a, b, c, d, e, f] }), sp, pc),
        (Err(_), &[sp, pc]) => (None, sp, pc),
        _ => return None,
    };
    Some(if sp == 0 && pc == 0 { Place::KernelOnly } else { Place::Blocked { call, sp, pc } })
}

/// How often the thread has got a CPU: the same count twice means that it did not run in between. From `schedstat`, or
/// where the kernel keeps none, from the switches in `status`.
pub fn turns(task: Task) -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/task/{}/{name}", task.pid, task.tid)).ok();
    let slices = read("schedstat").and_then(|t| t.split_ascii_whitespace().nth(2)?.parse().ok());
    slices.filter(|n| *n > 0).or_else(|| {
        let status = read("status")?;
        let of = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)?.trim().parse::<u64>().ok());
        of("voluntary_ctxt_switches:")?.checked_add(of("nonvoluntary_ctxt_switches:")?)
    })
}

/// Takes the stack of a thread if it sleeps, and with it whatever `also` reads (its Python frames): all of it from one
/// instant, or called [`Proof::Torn`]. `maps` are those of the process; a stack mapped since then counts as unreadable.
///
/// # Errors
/// `Gone` when the thread has ended, `Denied` without the right to look.
pub fn look<T>(
    task: Task,
    memory: &dyn Memory,
    maps: &Maps,
    mut also: impl FnMut(Option<Call>) -> T,
) -> Result<Look<T>> {
    let mut torn = None;
    for _ in 0..LOOKS {
        let before = turns(task);
        let (call, sp, pc) = match place(task)? {
            Place::Running if torn.is_some() => continue,
            Place::Running => return Ok(Look::Running),
            Place::KernelOnly => return Ok(Look::KernelOnly),
            Place::Blocked { call, sp, pc } => (call, sp, pc),
        };
        let (bytes, cut) = stack(memory, maps, sp);
        let asleep = Asleep { regs: [UNKNOWN_BP, sp, pc], bytes, cut, call, guessed: false, leaf: None };
        let other = also(call);
        // Blocked after the first count, and no turn since: everything in between stood still. Without any count a second
        // look at the same place has to do.
        let held = match before {
            Some(before) => turns(task) == Some(before),
            None => place(task)? == Place::Blocked { call, sp, pc },
        };
        if held {
            return Ok(Look::Asleep(asleep, other, Proof::Held));
        }
        torn = Some((asleep, other));
    }
    Ok(torn.map_or(Look::Running, |(asleep, other)| Look::Asleep(asleep, other, Proof::Torn)))
}

/// The stack from `sp` to the end of its mapping, and whether that is more than is read. Empty when it cannot be read.
fn stack(memory: &dyn Memory, maps: &Maps, sp: u64) -> (Vec<u8>, bool) {
    let Some(mapping) = maps.at(sp).filter(|m| m.readable) else { return (Vec::new(), false) };
    let all = mapping.end - sp;
    let len = all.min(STACK_LIMIT);
    (memory.bytes_at(sp, len as usize, STACK_LIMIT as usize).unwrap_or_default(), all > len)
}

/// How the stacks of a process unwind. A closure that unwinds is one, too.
pub trait Unwinding {
    /// Unwinds `stack` into `frames` (cleared first).
    fn unwind(&mut self, stack: StackCopy<'_>, frames: &mut Vec<NativeFrame>) -> End;

    /// The function that holds `address`, where symbols tell. Without an answer the unwind table is asked.
    fn function(&mut self, address: u64) -> Option<Range<u64>> {
        let _ = address;
        None
    }
}

impl<F: FnMut(StackCopy<'_>, &mut Vec<NativeFrame>) -> End> Unwinding for F {
    fn unwind(&mut self, stack: StackCopy<'_>, frames: &mut Vec<NativeFrame>) -> End {
        self(stack, frames)
    }
}

impl Asleep {
    /// The stack as a sample would have it.
    pub fn copy(&self) -> StackCopy<'_> {
        StackCopy { regs: self.regs, bytes: &self.bytes }
    }

    /// Unwinds by `unwinding` into `frames`. Where a rule needs RBP while it is not known, the places on the stack where it
    /// can point are tried; the one that leads to the root is kept in [`Self::regs`]. A signal handler on a stack of its
    /// own is followed back to the stack that it interrupted.
    pub fn unwind(
        &mut self,
        memory: &dyn Memory,
        maps: &Maps,
        frames: &mut Vec<NativeFrame>,
        unwinding: &mut dyn Unwinding,
    ) -> End {
        self.step_over_vfork(maps, frames, unwinding);
        let end = self.settle(Code { memory, maps }, frames, unwinding);
        let end = match elsewhere(&self.copy(), frames).filter(|_| end != End::Root) {
            Some((trampoline, regs)) => {
                frames.truncate(trampoline + 1);
                let (bytes, cut) = stack(memory, maps, regs[1]);
                let mut further = Vec::new();
                let end = unwinding.unwind(StackCopy { regs, bytes: &bytes }, &mut further);
                frames.append(&mut further);
                whole_or_lost(end, cut)
            }
            None => end,
        };
        frames.splice(0..0, self.leaf);
        end
    }

    /// glibc's `vfork` takes its return address off the stack and keeps it in RDI, the first argument, since parent and
    /// child share the stack: the frame of `vfork` itself is set aside, and unwinding begins at its caller.
    fn step_over_vfork(&mut self, maps: &Maps, frames: &mut Vec<NativeFrame>, unwinding: &mut dyn Unwinding) {
        let [_, sp, pc] = self.regs;
        let call = self.call.filter(|c| i64::from(c.number) == libc::SYS_vfork && self.leaf.is_none());
        let Some(call) = call.filter(|c| maps.at(c.args[0]).is_some_and(|m| m.executable)) else { return };
        // Makes the module of the leaf known.
        unwinding.unwind(self.copy(), frames);
        self.leaf = Some(NativeFrame { address: pc, sp, cfa: sp });
        self.regs[2] = call.args[0].wrapping_sub(1);
    }

    /// Unwinds, and finds RBP if that is what is missing.
    fn settle(&mut self, code: Code<'_>, frames: &mut Vec<NativeFrame>, unwinding: &mut dyn Unwinding) -> End {
        let end = whole_or_lost(unwinding.unwind(self.copy(), frames), self.cut);
        let (End::Lost, Some(stuck), UNKNOWN_BP) = (end, frames.last().copied(), self.regs[0]) else { return end };
        let ruled = function_at(code.memory, code.maps, stuck.address);
        let has_rule = ruled.is_some();
        let function = Function { range: unwinding.function(stuck.address).or(ruled), has_rule };
        let known = frames.len();
        let mut trial = Vec::new();
        for candidate in candidates(&self.copy(), stuck, function, code) {
            self.regs[0] = candidate.bp;
            let end = whole_or_lost(unwinding.unwind(self.copy(), &mut trial), self.cut);
            let further = trial.len() > known && trial.get(..known - 1) == frames.get(..known - 1);
            if further && (end != End::Lost || elsewhere(&self.copy(), &trial).is_some()) {
                std::mem::swap(frames, &mut trial);
                self.guessed = candidate.guess;
                return end;
            }
        }
        self.regs[0] = UNKNOWN_BP;
        End::Lost
    }
}

/// Past the end of a stack that was read to its end there is nothing: who looks there has lost the way.
fn whole_or_lost(end: End, cut: bool) -> End {
    if end == End::Truncated && !cut { End::Lost } else { end }
}

/// The frame in which a signal handler on a stack of its own returns, and the registers of what it interrupted.
fn elsewhere(copy: &StackCopy<'_>, frames: &[NativeFrame]) -> Option<(usize, [u64; 3])> {
    let range = copy.regs[1]..copy.regs[1].saturating_add(copy.bytes.len() as u64);
    let leads_away = |f: &NativeFrame| interrupted(f.sp, |at| copy.word(at)).filter(|regs| !range.contains(&regs[1]));
    frames.iter().enumerate().find_map(|(i, f)| Some((i, leads_away(f)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::memory::LiveMemory;

    #[test]
    fn the_forms_of_the_syscall_file() {
        let call = |number, args| Some(Call { number, args });
        let blocked = |call, sp, pc| Some(Place::Blocked { call, sp, pc });
        assert_eq!(parse_place("running\n"), Some(Place::Running));
        assert_eq!(
            parse_place("202 0x10 0x80 0x0 0x0 0x0 0xffffffff 0x7ffe 0x7f00\n"),
            blocked(call(202, [0x10, 0x80, 0, 0, 0, 0xffff_ffff]), 0x7ffe, 0x7f00)
        );
        assert_eq!(parse_place("-1 0x7ffe 0x7f00"), blocked(None, 0x7ffe, 0x7f00));
        assert_eq!(parse_place("-1 0x0 0x0"), Some(Place::KernelOnly));
        for bad in ["", "x", "1 2 3", "0 0x1 0x2", "-1 0x1", "running?", "1 0x1 0x2 0x3 0x4 0x5 0x6 0x7"] {
            assert_eq!(parse_place(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_thread_that_waits_is_read_whole_and_one_that_runs_is_not() {
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let (tell, hear) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw() as u32).unwrap();
            let _ = receive.recv();
        });
        let task = Task { pid: std::process::id(), tid: hear.recv().unwrap() };
        let memory = LiveMemory::new(task.pid);
        let maps = Maps::of(task.pid).unwrap();
        // It is on its way to sleep: the first looks may still find it running.
        let asleep = loop {
            if let Look::Asleep(asleep, (), proof) = look(task, &memory, &maps, |_| ()).unwrap() {
                assert_eq!(proof, Proof::Held);
                break asleep;
            }
            std::thread::yield_now();
        };
        assert_eq!(asleep.call.map(|c| c.number), Some(libc::SYS_futex as u32));
        assert!(asleep.bytes.len() > 256 && !asleep.cut, "{asleep:?}");
        let us = Task { pid: task.pid, tid: nix::unistd::gettid().as_raw() as u32 };
        assert!(turns(us).is_some_and(|n| n > 0));
        drop(send);
        waiter.join().unwrap();
        assert_eq!(place(task).unwrap_err().kind(), Kind::Gone);
    }
}
