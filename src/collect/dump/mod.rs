//! A dump: the stacks of all threads of a process now, Python and native in one order, without stopping it.
//!
//! ```text
//! threads that sleep: native::asleep (proved not to run meanwhile) ─┐
//! threads that run:   one short round of the eBPF sampler ──────────┼─> merge -> record::dump
//! without the rights: Python frames from memory, said to be ────────┘
//!                     approximate
//! ```
//!
//! In: a process. Out: [`ProcessDump`]. Invariant: the target is never signalled or written to, and stopped and traced
//! only where [`Options::freeze`] allows it: then, and for as long, all threads are read as if they slept. Each
//! thread's stack is of one instant or says that it is not; the stacks of two threads are of two instants, some
//! microseconds to milliseconds apart.

mod dumper;
mod native;
mod python;
mod stack;
mod standing;
mod task;

use rustc_hash::FxHashMap;

use self::dumper::Dumper;
use self::native::Natives;
use self::python::Pythons;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Kind, Result};
use crate::os::memory::LiveMemory;
use crate::python::{Located, locate};
use crate::record::dump::{Dump, ProcessDump, ThreadDump};
use crate::target::{Identity, Maps};
use crate::units::Nanos;

/// What to dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Read the variables of Python frames.
    pub locals: bool,
    /// Take native and kernel frames too.
    pub native: bool,
    /// How long to wait at most until every thread that runs has been met on a CPU; a thread that can run is kept from it
    /// by others on a busy machine, and by its cgroup's quota for tens of milliseconds at a time.
    pub patience: Nanos,
    /// Stop the process while its stacks are read, for this long at most.
    pub freeze: Option<Nanos>,
}

/// Times that thread states are listed again for threads that are new.
const LISTINGS: u32 = 32;

impl Default for Options {
    fn default() -> Self {
        Self { locals: false, native: true, patience: Nanos(500_000_000), freeze: None }
    }
}

/// Dumps `targets`, one after the other. One that ends meanwhile is left out, if there is another.
///
/// # Errors
/// `Gone`, or `Denied` with the right that is missing, when there was nothing to dump.
pub fn take(targets: &[Identity], options: Options) -> Result<Dump> {
    let at = SystemClock.anchor();
    let mut processes = Vec::new();
    let mut failed = None;
    for target in targets {
        match take_process(target, options) {
            Ok(process) => processes.push(process),
            Err(e) => failed = failed.or(Some(e)),
        }
    }
    match failed {
        Some(e) if processes.is_empty() => Err(e),
        _ => Ok(Dump { at, took_ns: SystemClock.now().since(at.mono), processes }),
    }
}

fn take_process(target: &Identity, options: Options) -> Result<ProcessDump> {
    let (pid, window) = (target.pid, target.window);
    let memory = LiveMemory::new(window);
    let maps = Maps::of(window)?;
    let mut remarks = Vec::new();
    let mut process = crate::target::describe(pid, target.parent, target.start_ticks);
    let pythons = match locate(window, &maps, &memory) {
        Located::Found(runtime) => {
            process.runtime = format!("CPython {}", runtime.text);
            Some(Pythons::new(*runtime, memory, target.nspid))
        }
        Located::NotPython => None,
        Located::Refused(why) => {
            remarks.push(format!("its Python frames are not shown: {why:#}"));
            None
        }
    };
    let natives = Natives::new(window, memory, maps);
    let done = FxHashMap::default();
    let (still, stopped_ns, still_gils) = (None, None, None);
    let mut dumper = Dumper {
        pid,
        options,
        memory,
        natives,
        pythons,
        listings: LISTINGS,
        done,
        remarks,
        still,
        stopped_ns,
        still_gils,
    };
    dumper.all(target)?;
    dumper.add_inlines();
    let gils = dumper.gils();
    let interpreter = dumper.pythons.as_ref().map(|p| p.runtime.image.clone());
    let Dumper { done, mut remarks, pythons, stopped_ns, .. } = dumper;
    if pythons.is_some_and(|p| !p.whole) {
        remarks.push("threads ended while they were listed: others may be without their Python frames".to_owned());
    }
    let mut threads: Vec<ThreadDump> = done.into_values().collect();
    threads.sort_unstable_by_key(|t| (t.tid != pid, t.tid));
    // A pid that was given to another process while we looked would mix the two.
    if threads.is_empty() || !target.still_alive() {
        return Err(Error::new(Kind::Gone, format!("process {pid} has ended")));
    }
    Ok(ProcessDump { process, command: target.command.clone(), interpreter, gils, threads, stopped_ns, remarks })
}
