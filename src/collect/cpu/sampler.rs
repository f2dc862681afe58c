//! The first rung at work: records of the rings become samples of the recording.

use std::ops::Range;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::Engine;
use super::assemble::{Assembled, Assembler, Parts};
use super::process::{Process, Shared};
use super::pulse::Pulse;
use super::reason::Wait;
use super::scheduler;
use super::switches::{Away, Switches};
use super::ticker::{Settings, Ticker};
use super::waits::Lookout;
use crate::clock::{Clock, Mono, SystemClock};
use crate::collect::Running;
use crate::error::Result;
use crate::os::bpf::{self, Counters, Programs, SampleKind, SwitchIn, ThreadTimes, flag};
use crate::os::perf::{Record, StackSample};
use crate::record::{Event, Loss, Mark, ProcessId, Reading, Sample, State, Thread};

/// For so long after an exec the rings are visited often, so that a Python that starts is met early.
const YOUNG_NS: u64 = 1_000_000_000;
/// How often then.
const YOUNG_INTERVAL: Duration = Duration::from_millis(4);
/// More cut stacks than one in this many make the copies larger.
const CUT_LIMIT: u64 = 200;
/// The largest copy that fits a record beside the Python frames.
const WIDEST: u32 = 56 * 1024;
/// How often counters become readings and losses.
const ACCOUNT_NS: u64 = 1_000_000_000;

/// A process to sample from the start.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its pid.
    pub pid: u32,
    /// Its start time in clock ticks: a reused pid has another one.
    pub start_ticks: u64,
    /// Its row in the recording.
    pub id: ProcessId,
}

/// What to sample.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Samples a second of CPU time.
    pub rate_hz: f64,
    /// Hardware cycles instead of the timer.
    pub cycles: bool,
    /// On-CPU samples.
    pub on_cpu: bool,
    /// Off-CPU intervals.
    pub off_cpu: bool,
    /// Children too.
    pub follow: bool,
    /// Sample in windows of so many ns, to measure what it costs.
    pub pulse_ns: Option<u64>,
}

/// Which frames are recorded. What is not is neither unwound nor named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Python functions. Without them the interpreter's own show.
    pub python: bool,
    /// Compiled code. Where Python frames are read later than a sample was taken, it is recorded all the same, since they
    /// find their place by it.
    pub native: bool,
    /// The kernel.
    pub kernel: bool,
}

impl Default for Kept {
    fn default() -> Self {
        Self { python: true, native: true, kernel: true }
    }
}

/// Counts of what was seen, for the progress line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Samples recorded.
    pub samples: u64,
    /// Samples lost.
    pub lost: u64,
    /// Stacks unwound that were cut by the copy's size.
    cut: u64,
    malformed: u64,
}

/// The running first rung.
pub struct Sampler {
    pub(super) ticker: Ticker,
    pub(super) table: Table,
    accounted: Mono,
    counted: Counters,
    lost_records: u64,
    /// Waits whose end was not seen.
    pub(super) endless: u64,
    pub(super) lookout: Lookout,
    pub(super) off_cpu: bool,
    pulse: Option<Pulse>,
}

impl std::fmt::Debug for Sampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler").finish_non_exhaustive()
    }
}

/// Everything that records are turned into samples with.
pub(super) struct Table {
    pub(super) shared: Shared,
    pub(super) processes: FxHashMap<u32, Process>,
    follow: bool,
    young_until: Mono,
    tally: Tally,
    assembler: Assembler,
    ended: Vec<u32>,
    /// Threads that ended since the rings were last emptied, with their exact times.
    pub(super) ended_threads: Vec<(u32, ThreadTimes)>,
    lost: u64,
    pub(super) switches: Switches,
    scheduler: Option<Range<u64>>,
}

impl Sampler {
    /// Opens everything and knows the targets; nothing ticks yet.
    ///
    /// # Errors
    /// `Denied` or `Unsupported` when this rung cannot be used here; nothing was changed then.
    pub fn open(targets: &[Target], wanted: Wanted, shared: Shared, now: Mono) -> Result<Self> {
        // Up to 3.10 every Python call is a C call too; a copy that is not used costs only room in the ring.
        let stack_bytes = match (shared.kept.native, wanted.rate_hz > 2000.0) {
            // Nothing is unwound.
            (false, _) => 1 << 10,
            (true, true) => 16 << 10,
            (true, false) => 32 << 10,
        };
        let settings = Settings {
            rate_hz: wanted.rate_hz,
            cycles: wanted.cycles,
            stack_bytes,
            ticks: wanted.on_cpu,
            switches: wanted.off_cpu,
            follow: wanted.follow,
            pulse: wanted.pulse_ns.is_some(),
        };
        let mut ticker = Ticker::open(settings, now)?;
        let mut table = Table {
            shared,
            processes: FxHashMap::default(),
            follow: wanted.follow,
            young_until: now,
            tally: Tally::default(),
            assembler: Assembler::default(),
            ended: Vec::new(),
            ended_threads: Vec::new(),
            lost: 0,
            switches: Switches::default(),
            scheduler: if wanted.off_cpu { scheduler::range() } else { None },
        };
        for t in targets {
            let mut process = Process::new((t.pid, t.start_ticks), t.id, now);
            process.refresh(&table.shared, now);
            ticker.programs.set_target(t.pid, target(&process, t.start_ticks))?;
            table.announce(&process, t.start_ticks);
            table.processes.insert(t.pid, process);
        }
        Ok(Self {
            ticker,
            table,
            accounted: now,
            counted: Counters::default(),
            lost_records: 0,
            endless: 0,
            lookout: Lookout::new(now),
            off_cpu: wanted.off_cpu,
            pulse: wanted.pulse_ns.map(|ns| Pulse::new(ns, now)),
        })
    }

    pub(super) fn drain(&mut self, now: Mono) {
        let Self { ticker, table, .. } = self;
        // What the others' rings held of their last waits when their ends were read comes with this visit.
        let ended = std::mem::take(&mut table.ended_threads);
        ticker.drain(|programs, record| table.take(programs, record, now));
        table.settle_ended(ended, now);
        for process in table.processes.values_mut() {
            if process.refresh(&table.shared, now) {
                // Found only now: from the next tick on its frames are walked.
                let start = crate::target::start_ticks(process.pid).unwrap_or(0);
                drop(ticker.programs.set_target(process.pid, target(process, start)));
            }
        }
        for pid in std::mem::take(&mut table.ended) {
            ticker.programs.remove_target(pid);
            table.let_go(pid);
        }
    }

    /// Children that were born after the targets were listed and before their births were watched.
    fn meet_children(&mut self, now: Mono) {
        let mut to_ask: Vec<u32> = self.table.processes.keys().copied().collect();
        while let Some(parent) = to_ask.pop() {
            for child in crate::target::children(parent) {
                if !self.table.processes.contains_key(&child) {
                    self.table.born(&mut self.ticker.programs, child, parent, now);
                    to_ask.push(child);
                }
            }
        }
    }

    /// Lets go of processes whose end was not told: they ended before their ends were watched.
    fn bury(&mut self, now: Mono) {
        let gone = self.table.processes.values().filter(|p| !p.is_running());
        for pid in gone.map(|p| p.pid).collect::<Vec<u32>>() {
            let text = format!("process {pid} ended");
            self.table.shared.recorder.put(Event::Mark(Mark { at: now, kind: "exit", text }));
            self.ticker.programs.remove_target(pid);
            self.table.let_go(pid);
        }
    }

    fn account(&mut self, now: Mono) {
        let (then, from) = (self.counted, self.accounted);
        let counters = self.ticker.counters();
        self.counted = counters;
        self.accounted = now;
        let recorder = &self.table.shared.recorder;
        let mut lose = |count: u64, source, why: &str| {
            if count > 0 {
                recorder.put(Event::Loss(Loss { from, to: now, source, count, why: why.to_owned() }));
                self.table.tally.lost += count;
            }
        };
        lose(counters.lost - then.lost, "cpu", "the ring was full");
        lose(counters.switch_lost - then.switch_lost, "off-cpu", "the ring was full");
        lose(std::mem::take(&mut self.endless), "off-cpu", "the end of a wait was not seen");
        lose(std::mem::take(&mut self.lost_records), "cpu", "the kernel dropped records");
        lose(std::mem::take(&mut self.table.tally.malformed), "cpu", "records that could not be read");
        let runs = counters.target_ticks + counters.switches_all;
        for (metric, value) in [
            ("bpf.run_ns", (counters.run_ns + counters.switch_run_ns) as f64),
            ("bpf.runs", runs as f64),
            ("cpu.ticks", counters.ticks as f64),
            ("cpu.switches", counters.switches_all as f64),
            ("cpu.switches_thinned", counters.thinned as f64),
        ] {
            recorder.put(Event::Reading(Reading { at: now, metric, scope: String::new(), value }));
        }
    }
}

fn target(process: &Process, start_tick: u64) -> bpf::Target {
    bpf::Target { start_tick, id: process.id.0, reserved: 0, python: process.walker() }
}

impl Engine for Sampler {
    fn start(&mut self, now: Mono) -> Result<Mono> {
        self.ticker.start(now)?;
        if self.table.follow {
            self.meet_children(now);
        }
        if self.off_cpu { self.enter_threads() } else { Ok(SystemClock.now()) }
    }

    fn tally(&self) -> Tally {
        self.table.tally
    }

    fn has_targets(&self) -> bool {
        !self.table.processes.is_empty()
    }

    fn refusals(&self) -> Vec<(u32, String)> {
        self.table.processes.values().filter_map(|p| Some((p.pid, p.refused.clone()?))).collect()
    }
}

impl Running for Sampler {
    fn due(&self) -> Duration {
        let usual = self.ticker.interval();
        let usual = self.pulse.as_ref().map_or(usual, |p| usual.min(p.left(SystemClock.now())));
        if self.accounted < self.table.young_until { usual.min(YOUNG_INTERVAL) } else { usual }
    }

    fn step(&mut self, now: Mono) -> Result<()> {
        if let Some(beat) = self.pulse.as_mut().and_then(|p| p.turn(now)) {
            self.ticker.beat(beat)?;
            let (at, text) = (SystemClock.now(), beat.name().to_owned());
            self.table.shared.recorder.put(Event::Mark(Mark { at, kind: "pulse", text }));
        }
        self.ticker.dither(now, false);
        self.drain(now);
        self.lost_records += std::mem::take(&mut self.table.lost);
        let t = self.table.tally;
        if t.cut * CUT_LIMIT > t.samples.max(100) {
            self.ticker.widen(WIDEST);
        }
        self.look_for_sleepers(now);
        if now.since(self.accounted) >= ACCOUNT_NS {
            self.bury(now);
            self.account(now);
            self.tell_waits(now);
        }
        Ok(())
    }

    fn finish(&mut self, now: Mono) -> Result<()> {
        self.ticker.stop();
        // Before the last processes are let go of: the programs know every thread's times to the end.
        let times = if self.off_cpu { self.ticker.programs.thread_times() } else { Vec::new() };
        self.drain(now);
        self.tell_last_waits(&times, now);
        self.account(now);
        Ok(())
    }
}

impl Table {
    fn take(&mut self, programs: &mut Programs, record: Record<'_>, now: Mono) {
        match record {
            Record::Stack(sample) => self.stack_record(programs, &sample, now),
            Record::Lost(n) => self.lost += n,
            Record::Malformed => self.tally.malformed += 1,
            Record::Mmap(map) => {
                if let Some(p) = self.processes.get_mut(&map.pid) {
                    p.set_stale();
                }
            }
            Record::Comm { pid, tid, exec, name } => self.renamed(programs, pid, tid, exec, name, now),
            Record::Fork(task)
                if self.follow && task.pid != task.parent && self.processes.contains_key(&task.parent) =>
            {
                self.born(programs, task.pid, task.parent, now);
            }
            Record::Exit(task) => {
                let mut ended = false;
                if let Some(p) = self.processes.get_mut(&task.pid) {
                    p.threads.remove(&task.tid);
                    self.switches.ended(task.tid);
                    ended = true;
                    if task.pid == task.tid {
                        let text = format!("process {} ended", task.pid);
                        self.shared.recorder.put(Event::Mark(Mark { at: now, kind: "exit", text }));
                        self.ended.push(task.pid);
                    }
                }
                if ended && let Some(times) = programs.take_thread(task.tid) {
                    self.totals(task.tid, times, now);
                    self.ended_threads.push((task.tid, times));
                }
            }
            Record::Plain(_, raw) => match SwitchIn::parse(raw) {
                Some(back) if self.switches.came_back(back, &self.shared.recorder) => self.tally.samples += 1,
                Some(_) => {}
                None => self.tally.malformed += 1,
            },
            Record::Fork(_) | Record::Throttle | Record::Other => {}
        }
    }

    /// A process called exec, or a thread took another name.
    fn renamed(&mut self, programs: &mut Programs, pid: u32, tid: u32, exec: bool, name: &[u8], now: Mono) {
        let Some(p) = self.processes.get_mut(&pid) else { return };
        let name = String::from_utf8_lossy(name).into_owned();
        if let Some(&id) = p.threads.get(&tid) {
            self.shared.recorder.update_thread(id, Thread { process: p.id, tid, name: name.clone() });
        }
        if !exec {
            return;
        }
        p.exec(&self.shared);
        p.refresh(&self.shared, now);
        let start = crate::target::start_ticks(pid).unwrap_or(0);
        drop(programs.set_target(pid, target(p, start)));
        self.young_until = now.plus(YOUNG_NS);
        let text = format!("process {pid} runs {name}");
        self.shared.recorder.put(Event::Mark(Mark { at: now, kind: "exec", text }));
        if let Some(p) = self.processes.get(&pid) {
            self.announce(p, start);
        }
    }

    /// A child of a target, met by its fork record or by its first sample.
    fn born(&mut self, programs: &mut Programs, pid: u32, parent: u32, now: Mono) {
        if self.processes.contains_key(&pid) {
            return;
        }
        let start = crate::target::start_ticks(pid).unwrap_or(0);
        let id = self.shared.recorder.process(crate::target::describe(pid, parent, start));
        let mut process = Process::new((pid, start), id, now);
        process.refresh(&self.shared, now);
        // The program entered the child itself, with its parent's Python; now it gets its own number.
        if start != 0 {
            drop(programs.set_target(pid, target(&process, start)));
        }
        self.announce(&process, start);
        self.young_until = now.plus(YOUNG_NS);
        self.processes.insert(pid, process);
    }

    /// A process has ended, and all that was sampled of it has been looked at.
    fn let_go(&mut self, pid: u32) {
        if self.processes.remove(&pid).is_some() {
            self.shared.naming.forget(pid);
        }
    }

    /// Says in the recording what runs in a process.
    fn announce(&self, process: &Process, start_ticks: u64) {
        let mut row = crate::target::describe(process.pid, 0, start_ticks);
        if let Some(python) = &process.python {
            row.runtime = format!("CPython {}", python.runtime.text);
        } else if let Some(why) = &process.refused {
            row.runtime.clone_from(why);
        }
        self.shared.recorder.update_process(process.id, row);
    }

    fn stack_record(&mut self, programs: &mut Programs, record: &StackSample<'_>, now: Mono) {
        let Some(sample) = bpf::Sample::parse(record.raw) else {
            self.tally.malformed += 1;
            return;
        };
        if !self.processes.contains_key(&record.pid) {
            if !self.follow {
                return;
            }
            self.born(programs, record.pid, 0, now);
        }
        let Some(process) = self.processes.get_mut(&record.pid) else { return };
        let scheduler = self.scheduler.as_ref().filter(|_| sample.kind == SampleKind::SwitchOut);
        let parts = Parts {
            tid: record.tid,
            native: Some(record),
            unwound: None,
            walker: sample.flags,
            late: false,
            scheduler,
        };
        let assembled = self.assembler.assemble(process, &self.shared, parts, sample.frames(), now);
        self.tally.cut += u64::from(assembled.cut);
        match sample.kind {
            SampleKind::Cpu => {
                let (at, weight_ns) = (Mono(record.time), sample.weight_ns);
                let Assembled { thread, stack, flags, .. } = assembled;
                self.tally.samples += 1;
                let (state, reason) = (State::OnCpu, None);
                self.shared.recorder.put(Event::Sample(Sample { at, thread, stack, weight_ns, state, reason, flags }));
            }
            SampleKind::SwitchOut => self.left_cpu(record, &sample, &assembled),
        }
    }

    /// A thread left the CPU: its wait begins, to be told when it comes back.
    fn left_cpu(&mut self, record: &StackSample<'_>, sample: &bpf::Sample<'_>, assembled: &Assembled) {
        let Some(process) = self.processes.get_mut(&record.pid) else { return };
        let recorder = &self.shared.recorder;
        let &Assembled { thread, mut stack, flags, .. } = assembled;
        // State 0: it was preempted and waits for nothing but a CPU.
        let reason = (sample.state != 0).then(|| {
            let io_wait = sample.flags & flag::IO_WAIT != 0;
            process.reason(Wait {
                state: sample.state,
                system_call: sample.system_call,
                argument: sample.argument,
                io_wait,
            })
        });
        if reason == Some("GIL")
            && let Some(holder) = process.holder_label(sample.gil_holder, recorder)
        {
            stack = recorder.callee(stack, holder);
        }
        let (sequence, at, share, told_ns) = (sample.sequence, Mono(record.time), sample.share, 0);
        let away = Away { sequence, at, thread, stack, flags, reason, share, told_ns };
        if self.switches.left(record.tid, away, recorder) {
            self.tally.samples += 1;
        }
    }
}
