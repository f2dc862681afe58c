//! The processes under observation on the rungs without eBPF, and the way from a tick to a sample of the recording.
//!
//! In: targets, side-band records, ticks. Out: rows of the recording. Python frames are read from memory when a sample is
//! put together, so every sample that has them is marked approximate.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::assemble::{Assembled, Assembler, Parts, thread_of};
use super::perthread::threads_of;
use super::pinned::{Interpreter, Interpreters, Read};
use super::process::{Process, Shared};
use super::reader::{Reader, Seen};
use super::sampler::{Tally, Target};
use crate::clock::Mono;
use crate::error::{Error, Kind, Result};
use crate::os::bpf::{PyFrame, flag};
use crate::os::perf::{Record, StackSample};
use crate::record::{Event, Mark, ProcessId, Sample, SampleFlags, StackId, State, Thread, ThreadId};

/// Between two looks for an interpreter: at first, and at the longest.
const PATIENCE_NS: (u64, u64) = (50_000_000, 5_000_000_000);

/// A process and the reader of its Python frames.
pub(super) struct Member {
    pub(super) process: Process,
    pub(super) reader: Reader,
    start_ticks: u64,
    /// The auxiliary vector, whose addresses are other ones after an exec.
    marks: Vec<u8>,
    /// When to look for an interpreter again where nothing tells that mappings changed.
    look_at: Mono,
    patience_ns: u64,
}

impl Member {
    /// Looks at a process for the first time.
    fn meet(pid: u32, id: ProcessId, start_ticks: u64, shared: &Shared, now: Mono) -> Self {
        // Before anything else is read: an exec from here on will be noticed.
        let marks = auxiliary_vector(pid);
        let mut process = Process::new((pid, start_ticks), id, now);
        process.refresh(shared, now);
        let reader = Reader::new(pid);
        Self { process, reader, start_ticks, marks, look_at: Mono(0), patience_ns: PATIENCE_NS.0 }
    }
}

/// What one tick says, its Python frames aside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tick<'a> {
    pub(super) pid: u32,
    pub(super) tid: u32,
    /// When it was.
    pub(super) at: Mono,
    /// Registers and stack; `None` where only memory is read.
    pub(super) native: Option<&'a StackSample<'a>>,
    /// Its Python frames, where they have been read already.
    pub(super) read: Option<Read<'a>>,
    /// The time it stands for, ns.
    pub(super) weight_ns: u64,
    pub(super) state: State,
    pub(super) reason: Option<&'static str>,
}

/// Counts of reading Python frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Reads {
    /// Stacks read.
    pub(super) stacks: u64,
    /// Of them: the thread moved on while it was read.
    pub(super) moved: u64,
    /// Of them: the frames do not fit the native stack.
    pub(super) stale: u64,
    /// Time from the tick to the read, summed, ns.
    pub(super) delay_ns: u64,
}

/// The processes and everything that ticks are turned into samples with.
pub(super) struct Roster {
    pub(super) shared: Shared,
    pub(super) members: FxHashMap<u32, Member>,
    /// What runs in the members, for readers on other threads.
    pub(super) interpreters: Arc<Interpreters>,
    ending: Vec<u32>,
    pub(super) tally: Tally,
    pub(super) reads: Reads,
    /// Time on a CPU that the samples stand for, ns.
    pub(super) on_ns: u64,
    follow: bool,
    assembler: Assembler,
    frames: Vec<PyFrame>,
}

impl Roster {
    /// The targets, with what is mapped into them.
    pub(super) fn new(targets: &[Target], follow: bool, shared: Shared, now: Mono) -> Self {
        let mut roster = Self {
            shared,
            members: FxHashMap::default(),
            interpreters: Arc::default(),
            ending: Vec::new(),
            tally: Tally::default(),
            reads: Reads::default(),
            on_ns: 0,
            follow,
            assembler: Assembler::default(),
            frames: Vec::new(),
        };
        for t in targets {
            let member = Member::meet(t.pid, t.id, t.start_ticks, &roster.shared, now);
            roster.announce(&member);
            roster.members.insert(t.pid, member);
        }
        roster
    }

    /// Pythons that cannot be read: pid and reason.
    pub(super) fn refusals(&self) -> Vec<(u32, String)> {
        self.members.values().filter_map(|m| Some((m.process.pid, m.process.refused.clone()?))).collect()
    }

    /// After a batch of records: lets go of what ended, looks again at mappings that changed.
    pub(super) fn settle(&mut self, now: Mono) {
        for pid in std::mem::take(&mut self.ending) {
            self.ended(pid, now);
        }
        self.refresh(now);
    }

    /// Looks again at mappings that changed.
    fn refresh(&mut self, now: Mono) {
        let mut found = Vec::new();
        for (pid, m) in &mut self.members {
            if m.process.refresh(&self.shared, now) {
                found.push(*pid);
            }
        }
        for pid in found {
            if let Some(m) = self.members.get(&pid) {
                self.announce(m);
            }
        }
    }

    /// Takes a record that is no sample.
    pub(super) fn side_band(&mut self, record: &Record<'_>, now: Mono) {
        match *record {
            Record::Mmap(map) => {
                if let Some(m) = self.members.get_mut(&map.pid) {
                    m.process.set_stale();
                }
            }
            Record::Comm { pid, tid, exec, name } => self.renamed(pid, tid, exec, name, now),
            Record::Fork(task) if self.follow && task.pid != task.parent && self.members.contains_key(&task.parent) => {
                self.born(task.pid, task.parent, now);
            }
            Record::Exit(task) => self.thread_ended(task.pid, task.tid),
            _ => {}
        }
    }

    fn renamed(&mut self, pid: u32, tid: u32, exec: bool, name: &[u8], now: Mono) {
        let Some(m) = self.members.get_mut(&pid) else { return };
        let name = String::from_utf8_lossy(name).into_owned();
        if let Some(&id) = m.process.threads.get(&tid) {
            let row = Thread { process: m.process.id, tid, name: name.clone() };
            self.shared.recorder.update_thread(id, row);
        }
        if exec {
            m.process.exec(&self.shared);
            m.reader.exec();
            (m.look_at, m.patience_ns) = (Mono(0), PATIENCE_NS.0);
            m.process.refresh(&self.shared, now);
            let text = format!("process {pid} runs {name}");
            self.shared.recorder.put(Event::Mark(Mark { at: now, kind: "exec", text }));
            if let Some(m) = self.members.get(&pid) {
                self.announce(m);
            }
        }
    }

    /// A child of a target.
    pub(super) fn born(&mut self, pid: u32, parent: u32, now: Mono) {
        if self.members.contains_key(&pid) {
            return;
        }
        let start_ticks = crate::target::start_ticks(pid).unwrap_or(0);
        let id = self.shared.recorder.process(crate::target::describe(pid, parent, start_ticks));
        let member = Member::meet(pid, id, start_ticks, &self.shared, now);
        self.announce(&member);
        self.members.insert(pid, member);
    }

    /// A thread ended; with its leader the process is gone.
    fn thread_ended(&mut self, pid: u32, tid: u32) {
        let Some(m) = self.members.get_mut(&pid) else { return };
        m.process.threads.remove(&tid);
        m.reader.forget(tid);
        if pid == tid {
            // Records of other CPUs may still be about it.
            self.ending.push(pid);
        }
    }

    /// A process ended.
    pub(super) fn ended(&mut self, pid: u32, now: Mono) {
        if self.members.remove(&pid).is_some() {
            self.interpreters.set(pid, None);
            self.shared.naming.forget(pid);
            let text = format!("process {pid} ended");
            self.shared.recorder.put(Event::Mark(Mark { at: now, kind: "exit", text }));
        }
    }

    /// Says in the recording, and to the readers, what runs in a process.
    fn announce(&self, member: &Member) {
        let process = &member.process;
        let mut row = crate::target::describe(process.pid, 0, member.start_ticks);
        if let Some(python) = &process.python {
            row.runtime = format!("CPython {}", python.runtime.text);
        } else if let Some(why) = &process.refused {
            row.runtime.clone_from(why);
        }
        self.shared.recorder.update_process(process.id, row);
        let python = process.python.as_ref();
        let interpreter = python.map(|p| Interpreter { runtime: p.runtime.clone(), py: p.walker() });
        self.interpreters.set(process.pid, interpreter);
    }

    /// Reads the Python frames of the tick's thread and records the sample. `now` is the time of the read.
    pub(super) fn sample(&mut self, tick: Tick<'_>, now: Mono) {
        let Some(made) = self.assemble(&tick, now) else { return };
        let Assembled { thread, stack, flags, .. } = made;
        self.tally.samples += 1;
        let Tick { at, weight_ns, state, reason, .. } = tick;
        self.count(weight_ns, state);
        self.shared.recorder.put(Event::Sample(Sample { at, thread, stack, weight_ns, state, reason, flags }));
    }

    /// The stack of the tick's thread, without a sample.
    pub(super) fn stack(&mut self, tick: &Tick<'_>, now: Mono) -> Option<(StackId, SampleFlags)> {
        self.assemble(tick, now).map(|made| (made.stack, made.flags))
    }

    /// The row of a thread.
    pub(super) fn thread(&mut self, pid: u32, tid: u32) -> Option<ThreadId> {
        let Self { members, shared, .. } = self;
        Some(thread_of(&mut members.get_mut(&pid)?.process, tid, &shared.recorder))
    }

    /// Records time of a thread whose stack nobody saw.
    pub(super) fn unseen(
        &mut self,
        (pid, tid): (u32, u32),
        label: &'static str,
        weight_ns: u64,
        state: State,
        at: Mono,
    ) {
        let Some(thread) = self.thread(pid, tid) else { return };
        self.count(weight_ns, state);
        let recorder = &self.shared.recorder;
        let stack = recorder.stack(&[recorder.label(label)]);
        let (reason, flags) = (None, SampleFlags(SampleFlags::APPROXIMATE));
        recorder.put(Event::Sample(Sample { at, thread, stack, weight_ns, state, reason, flags }));
    }

    fn count(&mut self, weight_ns: u64, state: State) {
        if state == State::OnCpu {
            self.on_ns += weight_ns;
        }
    }

    fn assemble(&mut self, tick: &Tick<'_>, now: Mono) -> Option<Assembled> {
        if !self.members.contains_key(&tick.pid) {
            if !self.follow {
                return None;
            }
            self.born(tick.pid, 0, now);
        }
        let Self { shared, members, frames, assembler, reads, .. } = self;
        let Member { process, reader, .. } = members.get_mut(&tick.pid)?;
        let Read { frames, seen, at } = match (tick.read, &process.python) {
            (Some(read), _) => read,
            (None, Some(python)) => {
                let seen = reader.read((&python.runtime, &python.walker()), tick.tid, None, now, frames);
                Read { frames, seen, at: now }
            }
            (None, None) => Read { frames: &[], seen: Seen::default(), at: now },
        };
        let (walker, native) = (seen.flags, tick.native);
        let parts = Parts { tid: tick.tid, native, unwound: None, walker, late: true, scheduler: None };
        let mut made = assembler.assemble(process, shared, parts, frames.iter().copied(), now);
        if seen.flags & flag::HAS_TSTATE != 0 {
            made.flags.0 |= SampleFlags::APPROXIMATE;
            reads.stacks += 1;
            reads.moved += u64::from(seen.moved);
            let astray = SampleFlags::UNMERGED | SampleFlags::PYTHON_LOST;
            reads.stale += u64::from(made.flags.has(astray));
            reads.delay_ns += at.since(tick.at);
        }
        if tick.native.is_none() {
            made.flags.0 |= SampleFlags::APPROXIMATE;
        }
        Some(made)
    }

    /// Forgets targets that have ended since they were chosen.
    ///
    /// # Errors
    /// `Gone` when none is left.
    pub(super) fn drop_gone(&mut self, now: Mono) -> Result<()> {
        let gone = self.gone();
        for pid in &gone {
            self.ended(*pid, now);
        }
        match gone.first() {
            Some(pid) if self.members.is_empty() => Err(Error::new(Kind::Gone, format!("process {pid} has ended"))),
            _ => Ok(()),
        }
    }

    /// Lets go of members whose end was not told: they ended before that was watched.
    pub(super) fn bury(&mut self, now: Mono) {
        for pid in self.gone() {
            self.ended(pid, now);
        }
    }

    fn gone(&self) -> Vec<u32> {
        self.members.values().filter(|m| !m.process.is_running()).map(|m| m.process.pid).collect()
    }

    /// Finds out what nobody tells: targets that ended, that run another program, and children that were born.
    pub(super) fn census(&mut self, follow: bool, now: Mono) {
        self.bury(now);
        let mut changed = Vec::new();
        let mut children = Vec::new();
        for (&pid, m) in &mut self.members {
            let marks = auxiliary_vector(pid);
            let old = std::mem::replace(&mut m.marks, marks);
            if !old.is_empty() && !m.marks.is_empty() && old != m.marks {
                changed.push(pid);
            } else if m.process.python.is_none() && m.process.refused.is_none() && now >= m.look_at {
                // It may load an interpreter yet; the longer it has not, the less likely.
                m.process.set_stale();
                m.patience_ns = (m.patience_ns * 2).min(PATIENCE_NS.1);
                m.look_at = now.plus(m.patience_ns);
            }
            if follow {
                children.extend(children_of(pid).into_iter().map(|child| (child, pid)));
            }
        }
        for pid in changed {
            let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
            self.renamed(pid, pid, true, name.trim_ascii_end(), now);
        }
        for (child, parent) in children {
            self.born(child, parent, now);
        }
        self.refresh(now);
    }
}

/// Empty where it may not be read.
fn auxiliary_vector(pid: u32) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/auxv")).unwrap_or_default()
}

/// The children that the threads of `pid` gave birth to, where the kernel lists them (CONFIG_PROC_CHILDREN).
fn children_of(pid: u32) -> Vec<u32> {
    let of = |tid: u32| std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")).unwrap_or_default();
    threads_of(pid)
        .into_iter()
        .flat_map(|t| of(t).split_ascii_whitespace().filter_map(|w| w.parse().ok()).collect::<Vec<u32>>())
        .collect()
}
