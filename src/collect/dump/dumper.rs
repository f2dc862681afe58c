//! The work of a dump on one process: which thread is read how, and when it is looked at again.
//!
//! In: what was found in the process. Out: one [`ThreadDump`] for every thread, in `done`.

use std::time::Duration;

use rustc_hash::FxHashMap;

use super::Options;
use super::native::{Natives, parse_kernel_stack};
use super::python::{self, PyStack, Pythons};
use super::stack::{self, Assembled};
use super::task::{self, TaskFacts};
use crate::clock::{Clock, Mono, SystemClock};
use crate::collect::cpu::once::{Caught, Round};
use crate::error::{Error, Kind, Result};
use crate::native::asleep::{self, Asleep, Call, Look, Proof, Task};
use crate::os::bpf::flag;
use crate::os::freeze::Freeze;
use crate::os::memory::LiveMemory;
use crate::python::gil;
use crate::record::dump::{Doing, Gil, GilRole, Taken, ThreadDump};
use crate::target::Identity;
use crate::units::Nanos;

/// Bytes that a GIL takes in memory: what is waited on inside of it is the GIL.
const GIL_BYTES: u64 = 208;
/// How long to wait at most before threads are looked at again.
const BEAT: Duration = Duration::from_millis(4);
/// The longest that lines and inlined functions are waited for; the target has long gone on.
const INLINES_BUDGET: Duration = Duration::from_secs(2);
/// What is said of a thread whose Python frames are later than its native ones.
const LATE: &str = "it runs: its Python frames were read a moment after its native ones";

/// When a thread is to be looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// If it kept waking up.
    IfTorn,
    /// The same, and while it waits for a GIL whose holder has not been seen: it may be the next holder itself.
    IfItWaitsForTheGil,
    /// Whatever there is, is taken.
    Never,
}

/// What is read while a thread sleeps.
pub(super) struct Meanwhile {
    python: Option<PyStack>,
    kernel: Option<String>,
    holds_gil: bool,
}

/// A process that is being dumped.
pub(super) struct Dumper {
    pub(super) pid: u32,
    pub(super) options: Options,
    pub(super) memory: LiveMemory,
    pub(super) natives: Natives,
    pub(super) pythons: Option<Pythons>,
    /// How often thread states may be listed again.
    pub(super) listings: u32,
    pub(super) done: FxHashMap<u32, ThreadDump>,
    pub(super) remarks: Vec<String>,
    /// While the process stands still.
    pub(super) still: Option<Freeze>,
    /// How long it stood, ns.
    pub(super) stopped_ns: Option<u64>,
    /// The GILs as they were then, each with its interpreter.
    pub(super) still_gils: Option<Vec<gil::Gil>>,
}

/// A thread that was read, its frames still to be named.
pub(super) struct Read {
    asleep: Asleep,
    meanwhile: Meanwhile,
    role: Option<GilRole>,
    doing: Doing,
    taken: Taken,
    at: Mono,
}

/// What looking at a thread came to.
pub(super) enum Seen {
    /// It runs, or it is to be looked at again.
    Running,
    /// It is among those that are done.
    Done,
    /// It stood still.
    Read(Box<Read>),
}

impl Dumper {
    /// Every thread: first those that sleep, then those that run.
    pub(super) fn all(&mut self, target: &Identity) -> Result<()> {
        let mut awake = Vec::new();
        if let Some(limit) = self.options.freeze {
            self.standing(limit)?;
        }
        for tid in task::tasks(target.pid) {
            if self.done.contains_key(&tid) {
                continue;
            }
            let Some(facts) = task::facts(Task { pid: target.pid, tid }) else { continue };
            if !self.asleep(&facts, Again::IfTorn)? {
                awake.push(facts);
            }
        }
        if !awake.is_empty() {
            self.running(target, awake)?;
        }
        // Who holds the GIL is what its waiters' stacks are read for; it may have changed hands since each was seen.
        let contenders = self.contenders();
        if contenders.is_empty() { Ok(()) } else { self.running(target, contenders) }
    }

    /// Lines and inlined functions of the native frames.
    pub(super) fn add_inlines(&mut self) {
        let frames = self.done.values_mut().flat_map(|t| &mut t.frames).map(|f| &mut f.frame);
        // What DWARF does not tell is left out, as where there is none.
        drop(self.natives.add_inlines(frames, INLINES_BUDGET));
    }

    /// The threads of which one holds the GIL, when none was seen with it.
    fn contenders(&self) -> Vec<TaskFacts> {
        if self.holder_seen() {
            return Vec::new();
        }
        let holders: Vec<u32> = self.gils().iter().filter_map(|g| g.holder).collect();
        let is_one = |t: &&ThreadDump| t.gil == Some(GilRole::Waits) || holders.contains(&t.tid);
        let tids = self.done.values().filter(is_one).map(|t| t.tid);
        if holders.is_empty() {
            return Vec::new();
        }
        tids.filter_map(|tid| task::facts(Task { pid: self.pid, tid })).collect()
    }

    fn holder_seen(&self) -> bool {
        self.done.values().any(|t| t.gil == Some(GilRole::Holds))
    }

    /// Its thread state. For a thread that was born a moment ago they are listed again.
    fn state_of(&mut self, facts: &TaskFacts) -> Option<python::StateOf> {
        let pythons = self.pythons.as_mut()?;
        if pythons.state(facts.own_tid).is_none() && self.listings > 0 && task::is_young(facts.born) {
            self.listings -= 1;
            pythons.refresh();
        }
        pythons.state(facts.own_tid)
    }

    /// Takes a thread that sleeps. `false`: it runs, or it is to be looked at again.
    fn asleep(&mut self, facts: &TaskFacts, again: Again) -> Result<bool> {
        Ok(match self.look(facts, again)? {
            Seen::Running => false,
            Seen::Done => true,
            Seen::Read(read) => {
                self.keep(facts, *read);
                true
            }
        })
    }

    /// Looks at a thread, and reads it if it stands still.
    pub(super) fn look(&mut self, facts: &TaskFacts, again: Again) -> Result<Seen> {
        let task = facts.task;
        if facts.doing == Doing::Zombie {
            let remark = Some("it has ended; the process goes on without it".to_owned());
            self.done.insert(task.tid, ThreadDump { remark, ..blank(facts) });
            return Ok(Seen::Done);
        }
        let own = self.state_of(facts);
        let Self { options, memory, natives, pythons, still, .. } = self;
        // The kernel's part of a thread that was stopped tells of the stop.
        let kernel = options.native && still.is_none();
        let meanwhile = |_: Option<Call>| Meanwhile {
            python: pythons.as_ref().zip(own).and_then(|(p, s)| p.read(s, options.locals)),
            kernel: kernel.then(|| task::kernel_stack(task)).flatten(),
            holds_gil: pythons.as_ref().zip(own).is_some_and(|(p, s)| holds_gil(p, s)),
        };
        let look = match asleep::look(task, memory, natives.maps(), meanwhile) {
            Ok(look) => look,
            Err(e) if e.kind() == Kind::Gone => return Ok(Seen::Done),
            Err(e) if e.kind() == Kind::Denied => return Err(denied(task.pid, e)),
            Err(e) => return Err(e),
        };
        match look {
            Look::Running => Ok(Seen::Running),
            Look::Asleep(_, _, Proof::Torn) if again != Again::Never => Ok(Seen::Running),
            // The stack of a thread that was born since the mappings were read.
            Look::Asleep(asleep, ..) if asleep.bytes.is_empty() && self.natives.refresh() => self.look(facts, again),
            Look::Asleep(mut asleep, meanwhile, proof) => {
                let role = self.role(facts, &meanwhile, asleep.call);
                if again == Again::IfItWaitsForTheGil && role == Some(GilRole::Waits) && !self.holder_seen() {
                    return Ok(Seen::Running);
                }
                let standing = self.still.as_ref().and_then(|f| f.registers(task.tid));
                let (doing, taken) = match (standing, proof) {
                    (Some([bp, sp, ip]), Proof::Held) => {
                        if asleep.regs[1..] == [sp, ip] {
                            asleep.regs[0] = bp;
                        }
                        // Outside of a system call it was stopped as it ran.
                        let ran = asleep.call.is_none() && facts.doing == Doing::Sleeping;
                        (if ran { Doing::Runnable } else { facts.doing }, Taken::Stopped)
                    }
                    (_, proof) => {
                        let doing = task::doing(task).filter(|d| *d != Doing::Runnable).unwrap_or(Doing::Sleeping);
                        (doing, if proof == Proof::Held { Taken::Asleep } else { Taken::Approximate })
                    }
                };
                let at = SystemClock.now();
                Ok(Seen::Read(Box::new(Read { asleep, meanwhile, role, doing, taken, at })))
            }
            Look::KernelOnly => {
                let wait = Some(task::wait(task, None));
                let frames = stack::kernel_only(task::kernel_stack(task).as_deref().map(parse_kernel_stack));
                let remark = Some("it works for the kernel and has no user side".to_owned());
                self.done
                    .insert(task.tid, ThreadDump { wait, frames, remark, taken: Taken::Approximate, ..blank(facts) });
                Ok(Seen::Done)
            }
        }
    }

    /// Names the frames of a thread that was read.
    pub(super) fn keep(&mut self, facts: &TaskFacts, read: Read) {
        let Read { mut asleep, meanwhile, role, doing, taken, at } = read;
        let kernel = meanwhile.kernel.as_deref().map(parse_kernel_stack).unwrap_or_default();
        let mut wait = task::wait(facts.task, asleep.call);
        if taken == Taken::Stopped {
            wait.channel = None;
        }
        let assembled = stack::assemble_asleep(
            &mut self.natives,
            self.pythons.as_ref(),
            self.options.native.then_some(&mut asleep),
            &self.memory,
            kernel,
            meanwhile.python,
        );
        let thread = ThreadDump { at, doing, taken, gil: role, wait: Some(wait), ..self.with(facts, assembled) };
        self.done.insert(facts.task.tid, thread);
    }

    fn with(&self, facts: &TaskFacts, assembled: Assembled) -> ThreadDump {
        let own = self.pythons.as_ref().and_then(|p| Some((p, p.state(facts.own_tid)?)));
        let Assembled { frames, ending, merged, python_complete } = assembled;
        ThreadDump {
            python_name: own.and_then(|(p, s)| p.name(s.ident).map(str::to_owned)),
            python_id: own.map(|(_, s)| s.ident),
            ending,
            merged,
            python_complete,
            frames,
            ..blank(facts)
        }
    }

    /// Whether a thread that sleeps holds the GIL, or sleeps on an address inside of it.
    fn role(&self, facts: &TaskFacts, meanwhile: &Meanwhile, call: Option<Call>) -> Option<GilRole> {
        if meanwhile.holds_gil {
            return Some(GilRole::Holds);
        }
        let pythons = self.pythons.as_ref()?;
        let own = pythons.state(facts.own_tid)?;
        let call = call.filter(|c| i64::from(c.number) == libc::SYS_futex)?;
        let gil = pythons.gil(own.interpreter)?;
        let inside = gil.address..gil.address.saturating_add(GIL_BYTES);
        inside.contains(&call.args[0]).then_some(GilRole::Waits)
    }

    /// The threads that run: sampled on their CPUs, or taken asleep if they fall asleep before that.
    fn running(&mut self, target: &Identity, mut awake: Vec<TaskFacts>) -> Result<()> {
        let mut round = self.options.native.then(|| self.start_round(target)).flatten();
        // Without the sampler only sleep can be waited for, and a thread that computes may not sleep for long.
        let patience = if round.is_some() { self.options.patience } else { Nanos(self.options.patience.0 / 20) };
        let started = SystemClock.now();
        while !awake.is_empty() && SystemClock.now().since(started) < patience.0 {
            let mut met = Vec::new();
            match &mut round {
                Some(round) => {
                    round.wait(BEAT);
                    round.drain(SystemClock.now(), |caught| met.push(caught));
                }
                None => std::thread::sleep(BEAT),
            }
            for caught in met {
                if let Some(i) = awake.iter().position(|f| f.task.tid == caught.tid) {
                    let facts = awake.swap_remove(i);
                    self.caught(&facts, &caught);
                }
            }
            let mut still = Vec::new();
            for facts in awake {
                if !self.asleep(&facts, Again::IfItWaitsForTheGil)? {
                    still.push(facts);
                }
            }
            awake = still;
        }
        drop(round);
        for facts in awake {
            let seen = self.done.contains_key(&facts.task.tid);
            if !self.asleep(&facts, Again::Never)? && !seen {
                self.remembered(&facts);
            }
        }
        Ok(())
    }

    /// Starts the sampler, as good as it can be had here.
    fn start_round(&mut self, target: &Identity) -> Option<Round> {
        let runtime = self.pythons.as_ref().map(|p| p.runtime.clone());
        match Round::start(target.pid, target.start_ticks, runtime.as_ref(), SystemClock.now()) {
            Ok(round) => {
                if let Some(e) = round.loses.as_ref().filter(|_| runtime.is_some()) {
                    self.remarks.push(format!("Python frames of threads that run are read a moment late: {e:#}"));
                }
                Some(round)
            }
            Err(e) => {
                self.remarks.push(format!("threads that run are shown without native frames: {e:#}"));
                None
            }
        }
    }

    /// A thread met on its CPU.
    fn caught(&mut self, facts: &TaskFacts, caught: &Caught) {
        let own = self.state_of(facts);
        let own = self.pythons.as_ref().zip(own);
        let kernel = caught.kernel.iter().map(|a| self.natives.kernel_frame(*a)).collect();
        // Up to 3.11 the walker in the kernel can take the state of a thread that is about to be started for that of the
        // thread that starts it; then it meets no frames.
        let walked = caught.walked.as_ref().filter(|w| !w.frames.is_empty());
        let (python, holds, late) = match (walked, own) {
            (Some(walked), Some((pythons, own))) => {
                let complete = walked.flags & (flag::PY_LOST | flag::PY_TRUNCATED) == 0;
                let mut stack = pythons.walked(&walked.frames, complete);
                if self.options.locals {
                    // Read a moment later: they belong to the frames that are still the same ones.
                    stack::adopt_locals(&mut stack, pythons.read(own, true).unwrap_or_default());
                }
                (Some(stack), walked.flags & flag::HOLDS_GIL != 0, false)
            }
            (None, Some((pythons, own))) => {
                (pythons.read_steady(own, self.options.locals), holds_gil(pythons, own), true)
            }
            (_, None) => (None, false, false),
        };
        let late = late && python.as_ref().is_some_and(|p| !p.frames.is_empty());
        let taken = if late { Taken::Approximate } else { Taken::Sampled };
        let remark = (taken == Taken::Approximate).then(|| LATE.to_owned());
        let pythons = self.pythons.as_ref();
        let assembled = stack::assemble_caught(&mut self.natives, pythons, caught, kernel, (python, late));
        let (doing, gil) = (Doing::Running, holds.then_some(GilRole::Holds));
        let thread = ThreadDump { at: caught.at, doing, gil, taken, remark, ..self.with(facts, assembled) };
        self.done.insert(facts.task.tid, thread);
    }

    /// What memory tells of a thread that runs: its Python frames, which may not belong together.
    fn remembered(&mut self, facts: &TaskFacts) {
        let own = self.pythons.as_ref().and_then(|p| Some((p, p.state(facts.own_tid)?)));
        let role = own.filter(|(p, s)| holds_gil(p, *s)).map(|_| GilRole::Holds);
        let python = own.and_then(|(p, s)| p.read_steady(s, self.options.locals));
        let taken = if python.is_some() { Taken::Approximate } else { Taken::Nothing };
        let remark = if python.is_some() {
            "it runs: its frames were read from memory and may not belong together"
        } else {
            "it runs, and was not met on a CPU"
        };
        let assembled = stack::assemble_python(self.pythons.as_ref(), python);
        let thread = self.with(facts, assembled);
        let doing = task::doing(facts.task).unwrap_or(facts.doing);
        let thread =
            ThreadDump { at: SystemClock.now(), doing, gil: role, taken, remark: Some(remark.to_owned()), ..thread };
        self.done.insert(facts.task.tid, thread);
    }

    /// The GILs now, with those who waited for them.
    pub(super) fn gils(&self) -> Vec<Gil> {
        let Some(pythons) = &self.pythons else { return Vec::new() };
        let mut gils: Vec<Gil> = Vec::new();
        let waits = self.done.values().filter(|t| t.gil == Some(GilRole::Waits)).filter_map(|t| t.wait.as_ref()?.args);
        let futexes: Vec<u64> = waits.map(|args| args[0]).collect();
        let now = || pythons.interpreters().into_iter().filter_map(|i| pythons.gil(i)).collect();
        for gil in self.still_gils.clone().unwrap_or_else(now) {
            if gils.iter().any(|g| g.address == gil.address) {
                continue;
            }
            let inside = gil.address..gil.address.saturating_add(GIL_BYTES);
            let holder = gil.holder.and_then(|state| pythons.thread_of(state));
            let holder =
                holder.map(|own| self.done.values().find(|t| t.own_tid.unwrap_or(t.tid) == own).map_or(own, |t| t.tid));
            let waiters = futexes.iter().filter(|f| inside.contains(f)).count() as u32;
            gils.push(Gil { address: gil.address, locked: gil.locked, holder, waiters });
        }
        gils
    }
}

fn holds_gil(pythons: &Pythons, own: python::StateOf) -> bool {
    pythons.gil(own.interpreter).is_some_and(|g| g.holder == Some(own.state))
}

fn blank(facts: &TaskFacts) -> ThreadDump {
    ThreadDump {
        tid: facts.task.tid,
        own_tid: (facts.own_tid != facts.task.tid).then_some(facts.own_tid),
        name: facts.name.clone(),
        python_name: None,
        python_id: None,
        doing: facts.doing,
        wait: None,
        gil: None,
        at: Mono(SystemClock.now().0),
        taken: Taken::Nothing,
        ending: None,
        python_complete: None,
        merged: None,
        frames: Vec::new(),
        remark: None,
    }
}

fn denied(pid: u32, cause: Error) -> Error {
    Error::new(Kind::Denied, format!("cannot look into process {pid}"))
        .caused_by(cause)
        .advise("run as root or add CAP_SYS_PTRACE; as the same user, `sysctl kernel.yama.ptrace_scope=0` allows it")
}
