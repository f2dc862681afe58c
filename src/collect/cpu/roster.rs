//! The processes under observation on the rungs without eBPF, and the way from a tick to a sample of the recording.
//!
//! In: targets, side-band records, ticks. Out: rows of the recording. Python frames are read from memory when a sample is
//! put together, so every sample that has them is marked approximate.

use rustc_hash::FxHashMap;

use super::assemble::{Assembled, Assembler, Parts};
use super::process::{Process, Shared};
use super::reader::{CStack, Reader, Seen};
use super::sampler::{Tally, Target};
use crate::clock::Mono;
use crate::os::bpf::{PyFrame, flag};
use crate::os::perf::{Record, StackSample};
use crate::record::{Event, Mark, Sample, SampleFlags, State, Thread};

/// A process and the reader of its Python frames.
pub(super) struct Member {
    pub(super) process: Process,
    pub(super) reader: Reader,
    start_ticks: u64,
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
    pub(super) tally: Tally,
    pub(super) reads: Reads,
    /// Stacks that were cut by the copy's size.
    pub(super) cut: u64,
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
            tally: Tally::default(),
            reads: Reads::default(),
            cut: 0,
            follow,
            assembler: Assembler::default(),
            frames: Vec::new(),
        };
        for t in targets {
            let mut process = Process::new(t.pid, t.id, now);
            process.refresh(&roster.shared, now);
            let member = Member { process, reader: Reader::new(t.pid), start_ticks: t.start_ticks };
            roster.announce(&member);
            roster.members.insert(t.pid, member);
        }
        roster
    }

    /// Pythons that cannot be read: pid and reason.
    pub(super) fn refusals(&self) -> Vec<(u32, String)> {
        self.members.values().filter_map(|m| Some((m.process.pid, m.process.refused.clone()?))).collect()
    }

    /// Looks again at mappings that changed.
    pub(super) fn refresh(&mut self, now: Mono) {
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
            Record::Exit(task) => self.thread_ended(task.pid, task.tid, now),
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
            m.process.exec();
            m.reader.exec();
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
        let mut process = Process::new(pid, id, now);
        process.refresh(&self.shared, now);
        let member = Member { process, reader: Reader::new(pid), start_ticks };
        self.announce(&member);
        self.members.insert(pid, member);
    }

    /// A thread ended; with its leader the process is gone.
    pub(super) fn thread_ended(&mut self, pid: u32, tid: u32, now: Mono) {
        let Some(m) = self.members.get_mut(&pid) else { return };
        m.process.threads.remove(&tid);
        m.reader.forget(tid);
        if pid == tid {
            self.ended(pid, now);
        }
    }

    /// A process ended.
    pub(super) fn ended(&mut self, pid: u32, now: Mono) {
        if self.members.remove(&pid).is_some() {
            let text = format!("process {pid} ended");
            self.shared.recorder.put(Event::Mark(Mark { at: now, kind: "exit", text }));
        }
    }

    /// Says in the recording what runs in a process.
    fn announce(&self, member: &Member) {
        let process = &member.process;
        let mut row = crate::target::describe(process.pid, 0, member.start_ticks);
        if let Some(python) = &process.python {
            row.runtime = format!("CPython {}", python.runtime.text);
        } else if let Some(why) = &process.refused {
            row.runtime = why.clone();
        }
        self.shared.recorder.update_process(process.id, row);
    }

    /// Reads the Python frames of the tick's thread and records the sample. `now` is the time of the read.
    pub(super) fn sample(&mut self, tick: Tick<'_>, now: Mono) {
        if !self.members.contains_key(&tick.pid) {
            if !self.follow {
                return;
            }
            self.born(tick.pid, 0, now);
        }
        let Self { shared, members, frames, assembler, reads, .. } = self;
        let Some(Member { process, reader, .. }) = members.get_mut(&tick.pid) else { return };
        // First of all: each microsecond that passes here takes the frames further from the tick.
        let seen = match &process.python {
            Some(python) => {
                let stack = tick.native.and_then(|r| Some(CStack { sp: r.regs?[1], bytes: r.stack }));
                reader.read((&python.runtime, &python.walker()), tick.tid, stack, now, frames)
            }
            None => {
                frames.clear();
                Seen::default()
            }
        };
        let has_python = seen.flags & flag::HAS_TSTATE != 0;
        let parts = Parts { tid: tick.tid, native: tick.native, walker: seen.flags, late: true, scheduler: None };
        let made = assembler.assemble(process, shared, parts, frames.iter().copied(), now);
        let Assembled { thread, stack, flags, cut } = made;
        let mut flags = flags;
        if has_python {
            flags.0 |= SampleFlags::APPROXIMATE;
            reads.stacks += 1;
            reads.moved += u64::from(seen.moved);
            reads.stale += u64::from(flags.has(SampleFlags::UNMERGED));
            reads.delay_ns += now.since(tick.at);
        }
        self.cut += u64::from(cut);
        self.tally.samples += 1;
        let Tick { at, weight_ns, state, reason, .. } = tick;
        shared.recorder.put(Event::Sample(Sample { at, thread, stack, weight_ns, state, reason, flags }));
    }
}
