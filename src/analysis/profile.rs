//! A profile: the selected samples of a recording as weighted stacks of shown frames, with what to think of them.
//!
//! In: a [`Recording`] and a [`Selection`]. Out: a [`Profile`], which every renderer starts from. Samples are first added
//! up by stack, so that names are made once a distinct stack. Off-CPU intervals that reach beyond the slice count with
//! the part inside (where the sampler gave an interval the weight of several, that part is an estimate).

use rustc_hash::FxHashMap;

use super::cost::SelfCost;
use super::frames::FrameTable;
use super::functions::{self, FunctionRow};
use super::paths::{NodeId, Paths};
use super::quality::{Quality, Rates};
use super::selection::{Selection, States};
use super::slice::Window;
use crate::clock::Mono;
use crate::error::Result;
use crate::record::{ProcessId, Recording, Sample, SampleFlags, StackId, State, ThreadId};

/// Which time a profile shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockKind {
    /// Time on a CPU.
    Cpu,
    /// All time of the threads.
    Wall,
    /// Time waiting, for a CPU or anything else.
    OffCpu,
    /// Time on a CPU while holding the GIL.
    Gil,
    /// Time in which `/proc` called the thread running or runnable, not known which.
    Active,
}

impl ClockKind {
    /// As a title says it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Wall => "Wall-clock",
            Self::OffCpu => "Off-CPU",
            Self::Gil => "GIL",
            Self::Active => "Active-time",
        }
    }

    /// As file formats name the type of the samples' second value.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Wall => "wall",
            Self::OffCpu => "offcpu",
            Self::Gil => "gil",
            Self::Active => "active",
        }
    }

    /// What the time is, for a closing line.
    pub fn explain(self) -> &'static str {
        match self {
            Self::Cpu => "time on a CPU",
            Self::Wall => "all time of the threads: on a CPU, waiting for one, waiting for anything else",
            Self::OffCpu => "time waiting, for a CPU or anything else",
            Self::Gil => "time on a CPU while holding the GIL",
            Self::Active => "time running or runnable, not known which (read from memory)",
        }
    }

    /// Whether each sample stands for about the same time, so that counts of samples are a fair measure.
    pub fn counts_samples(self) -> bool {
        matches!(self, Self::Cpu | Self::Gil | Self::Active)
    }
}

/// All samples of one thread with the same stack, state and reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weighted {
    /// The thread.
    pub thread: ThreadId,
    /// The stack as recorded.
    pub stack: StackId,
    /// The stack as shown.
    pub node: NodeId,
    /// The state.
    pub state: State,
    /// What it waited for.
    pub reason: Option<&'static str>,
    /// Whether it held the GIL.
    pub gil: bool,
    /// How many samples.
    pub samples: u64,
    /// Their time together, ns.
    pub weight_ns: u64,
}

impl Weighted {
    /// The remark at the leaf that says what a thread waits for: `futex`, `runnable`. `None` while it runs.
    pub fn waits_for(&self) -> Option<&'static str> {
        match self.state {
            State::OnCpu | State::Active => None,
            State::OffCpu => Some(self.reason.unwrap_or("off-cpu")),
            State::Runnable => Some("runnable"),
        }
    }
}

/// One selected sample, in time order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// When it was taken, or the interval's begin inside the slice.
    pub at: Mono,
    /// Index in [`Profile::weighted`].
    pub weighted: u32,
    /// The time it stands for, ns.
    pub weight_ns: u64,
}

/// A process with samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessRow {
    /// The process.
    pub process: ProcessId,
    /// Its samples.
    pub samples: u64,
    /// Their time, ns.
    pub weight_ns: u64,
}

/// A thread with samples.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadRow {
    /// The thread.
    pub thread: ThreadId,
    /// Its samples.
    pub samples: u64,
    /// Time on a CPU, ns; `None` when not selected or not recorded.
    pub on_cpu_ns: Option<u64>,
    /// Time waiting for something other than a CPU, ns.
    pub off_cpu_ns: Option<u64>,
    /// Time waiting for a CPU, ns.
    pub runnable_ns: Option<u64>,
    /// Time running or runnable, not known which, ns.
    pub active_ns: Option<u64>,
    /// Time waiting by what it waited for, longest first.
    pub reasons: Vec<(&'static str, u64)>,
}

impl ThreadRow {
    /// All of its time, ns.
    pub fn total_ns(&self) -> u64 {
        [self.on_cpu_ns, self.off_cpu_ns, self.runnable_ns, self.active_ns].into_iter().flatten().sum()
    }
}

/// Something lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LossRow {
    /// Which collector lost it.
    pub source: String,
    /// Why.
    pub why: String,
    /// How many samples or intervals.
    pub count: u64,
}

/// A profile of the selected samples of a recording.
#[derive(Debug)]
pub struct Profile<'a> {
    /// Where it comes from.
    pub recording: &'a Recording,
    /// What was selected.
    pub selection: Selection,
    /// The slice on the recording's clock.
    pub window: Window,
    /// Which time it shows.
    pub clock: ClockKind,
    /// The states that the recording has at all; the time in others was not measured.
    pub recorded: States,
    /// The frames and functions.
    pub frames: FrameTable,
    /// The tree of shown stacks.
    pub paths: Paths,
    /// The samples, added up by thread, stack, state and reason.
    pub weighted: Vec<Weighted>,
    /// The samples one by one, in time order.
    pub moments: Vec<Moment>,
    /// The number of samples.
    pub samples: u64,
    /// Their time together, ns.
    pub weight_ns: u64,
    /// The functions, hottest first.
    pub functions: Vec<FunctionRow>,
    /// The processes with samples, busiest first.
    pub processes: Vec<ProcessRow>,
    /// The threads with samples, busiest first.
    pub threads: Vec<ThreadRow>,
    /// Time by state and, for waits, by reason, longest first.
    pub reasons: Vec<(&'static str, u64)>,
    /// What was lost in the slice, largest first.
    pub losses: Vec<LossRow>,
    /// How much was lost in all.
    pub lost: u64,
    /// What could be read.
    pub quality: Quality,
    /// How fast it sampled.
    pub rates: Rates,
    /// What perfkit cost.
    pub self_cost: SelfCost,
}

/// What makes two samples one [`Weighted`].
type Key = (ThreadId, StackId, State, Option<&'static str>, bool);

impl<'a> Profile<'a> {
    /// The profile of what `selection` takes from `recording`.
    ///
    /// # Errors
    /// `Usage` when the slice is empty or lies outside of the recording.
    pub fn new(recording: &'a Recording, selection: &Selection) -> Result<Self> {
        let window = selection.slice.window(recording)?;
        let mut recorded = States::NONE;
        let mut by_key: FxHashMap<Key, u32> = FxHashMap::default();
        let (mut weighted, mut moments, mut selected) = (Vec::<Weighted>::new(), Vec::new(), Vec::new());
        for s in &recording.samples {
            recorded = recorded.or(States::one(s.state));
            let Some((at, weight_ns)) = take(recording, selection, &window, s) else { continue };
            let gil = s.flags.has(SampleFlags::GIL);
            let at_index = *by_key.entry((s.thread, s.stack, s.state, s.reason, gil)).or_insert_with(|| {
                let (thread, stack, state, reason) = (s.thread, s.stack, s.state, s.reason);
                weighted.push(Weighted {
                    thread,
                    stack,
                    node: NodeId::ROOT,
                    state,
                    reason,
                    gil,
                    samples: 0,
                    weight_ns: 0,
                });
                weighted.len() as u32 - 1
            });
            let sum = &mut weighted[at_index as usize];
            sum.samples += 1;
            sum.weight_ns += weight_ns;
            moments.push(Moment { at, weighted: at_index, weight_ns });
            selected.push(s);
        }
        drop(by_key);
        let (frames, paths) = shape(recording, selection, &mut weighted);
        let of_rates: Vec<_> =
            moments.iter().map(|m: &Moment| (weighted[m.weighted as usize].state, m.weight_ns)).collect();
        let losses = losses(recording, selection, &window);
        let lost = losses.iter().map(|l| l.count).sum();
        let lost_on_cpu = losses.iter().filter(|l| l.source != "off-cpu").map(|l| l.count).sum();
        let clock = clock_of(recording, selection, &weighted);
        Ok(Self {
            recording,
            window,
            clock,
            recorded,
            samples: moments.len() as u64,
            weight_ns: weighted.iter().map(|w| w.weight_ns).sum(),
            functions: functions::rank(recording, &frames, &paths, &weighted),
            processes: processes(recording, &weighted),
            threads: threads(selection.states.and(recorded), &weighted),
            reasons: reasons(&weighted),
            losses,
            lost,
            quality: Quality::of(recording, selected.into_iter()),
            rates: Rates::of(recording, &window, &of_rates, lost_on_cpu),
            self_cost: SelfCost::of(recording, &window),
            selection: selection.clone(),
            frames,
            paths,
            weighted,
            moments,
        })
    }

    /// `ns` in percent of all time of the profile; 0 when there is none.
    pub fn pct(&self, ns: u64) -> f64 {
        if self.weight_ns == 0 { 0.0 } else { 100.0 * ns as f64 / self.weight_ns as f64 }
    }

    /// Which sampler made the recording.
    pub fn sampler(&self) -> Option<&'a str> {
        self.recording.meta.get("sampler").map(String::as_str)
    }
}

/// The time and weight with which a sample counts, if it does.
fn take(rec: &Recording, selection: &Selection, window: &Window, s: &Sample) -> Option<(Mono, u64)> {
    let wanted = selection.states.has(s.state)
        && (!selection.gil_only || s.flags.has(SampleFlags::GIL))
        && (selection.threads.is_empty() || selection.threads.contains(&rec.thread(s.thread).tid));
    if !wanted {
        return None;
    }
    match s.state {
        State::OnCpu | State::Active => window.contains(s.at).then_some((s.at, s.weight_ns)),
        State::OffCpu | State::Runnable => window.clip(s.at, s.weight_ns),
    }
}

/// The shown frames and the tree of shown stacks; sets each weighted stack's node.
fn shape(rec: &Recording, selection: &Selection, weighted: &mut [Weighted]) -> (FrameTable, Paths) {
    let mut frames = FrameTable::new(rec, selection.layers, selection.detail, selection.file_names);
    let empty = frames.remark("[no stack]");
    let hidden = frames.remark(match (selection.layers.native, selection.layers.kernel) {
        (false, false) => "[no Python]",
        (false, true) => "[native]",
        _ => "[kernel]",
    });
    let paths = Paths::new(rec, &frames, weighted.iter().map(|w| w.stack), empty, hidden);
    for w in weighted {
        w.node = paths.end(w.stack);
    }
    (frames, paths)
}

/// Which time these samples show.
fn clock_of(rec: &Recording, selection: &Selection, weighted: &[Weighted]) -> ClockKind {
    let mode = rec.meta.get("mode").map(String::as_str);
    if selection.gil_only || mode == Some("gil") {
        return ClockKind::Gil;
    }
    let mut seen = weighted.iter().fold(States::NONE, |all, w| all.or(States::one(w.state)));
    if seen == States::NONE {
        let asked = match mode {
            Some("wall") => States::ALL,
            Some("off-cpu") => States::WAITING,
            _ => States::CPU,
        };
        seen = if selection.states == States::ALL { asked } else { selection.states };
    }
    match (seen.meets(States::CPU), seen.meets(States::WAITING)) {
        (true, true) => ClockKind::Wall,
        (false, true) => ClockKind::OffCpu,
        _ if seen == States::one(State::Active) => ClockKind::Active,
        _ => ClockKind::Cpu,
    }
}

fn losses(rec: &Recording, selection: &Selection, window: &Window) -> Vec<LossRow> {
    let mut rows: Vec<LossRow> = Vec::new();
    for (from, to, source, count, why) in &rec.losses {
        let of_states = match source.as_str() {
            "cpu" => States::CPU,
            "off-cpu" => States::WAITING,
            _ => States::ALL,
        };
        // A loss without a time may have been anywhere.
        let timed = (*from, *to) != (Mono(0), Mono(0));
        if *count == 0 || !selection.states.meets(of_states) || (timed && !window.touches(*from, *to)) {
            continue;
        }
        match rows.iter_mut().find(|r| r.source == *source && r.why == *why) {
            Some(row) => row.count += count,
            None => rows.push(LossRow { source: source.clone(), why: why.clone(), count: *count }),
        }
    }
    rows.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.why.cmp(&b.why)));
    rows
}

fn processes(rec: &Recording, weighted: &[Weighted]) -> Vec<ProcessRow> {
    let mut rows: Vec<ProcessRow> = (1..=rec.processes.len() as u32)
        .map(|i| ProcessRow { process: ProcessId(i), samples: 0, weight_ns: 0 })
        .collect();
    for w in weighted {
        let row = &mut rows[rec.thread(w.thread).process.0 as usize - 1];
        row.samples += w.samples;
        row.weight_ns += w.weight_ns;
    }
    rows.retain(|r| r.samples > 0);
    rows.sort_by_key(|r| (std::cmp::Reverse(r.weight_ns), r.process));
    rows
}

fn threads(measured: States, weighted: &[Weighted]) -> Vec<ThreadRow> {
    let zero = |state| measured.has(state).then_some(0u64);
    let mut rows: FxHashMap<ThreadId, ThreadRow> = FxHashMap::default();
    for w in weighted {
        let row = rows.entry(w.thread).or_insert_with(|| ThreadRow {
            thread: w.thread,
            samples: 0,
            on_cpu_ns: zero(State::OnCpu),
            off_cpu_ns: zero(State::OffCpu),
            runnable_ns: zero(State::Runnable),
            active_ns: zero(State::Active),
            reasons: Vec::new(),
        });
        row.samples += w.samples;
        let slot = match w.state {
            State::OnCpu => &mut row.on_cpu_ns,
            State::OffCpu => &mut row.off_cpu_ns,
            State::Runnable => &mut row.runnable_ns,
            State::Active => &mut row.active_ns,
        };
        *slot = Some(slot.unwrap_or(0) + w.weight_ns);
        if w.state == State::OffCpu {
            add_reason(&mut row.reasons, w);
        }
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    for row in &mut rows {
        row.reasons.sort_by_key(|r| (std::cmp::Reverse(r.1), r.0));
    }
    rows.sort_by_key(|r| (std::cmp::Reverse(r.total_ns()), r.thread));
    rows
}

fn reasons(weighted: &[Weighted]) -> Vec<(&'static str, u64)> {
    let mut all = Vec::new();
    for w in weighted {
        add_reason(&mut all, w);
    }
    all.sort_by_key(|r| (std::cmp::Reverse(r.1), r.0));
    all
}

fn add_reason(reasons: &mut Vec<(&'static str, u64)>, w: &Weighted) {
    let Some(reason) = w.waits_for() else { return };
    match reasons.iter_mut().find(|r| r.0 == reason) {
        Some(r) => r.1 += w.weight_ns,
        None => reasons.push((reason, w.weight_ns)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::fixture::{SECOND, Script, WHOLE};
    use crate::analysis::{CallTree, Detail, Layers, Split, Unit};

    fn folded(profile: &Profile<'_>, unit: Unit) -> Vec<String> {
        let mut lines = Vec::new();
        let done = CallTree::new(profile, unit).collapsed(0, &mut |stack, n| {
            lines.push(format!("{stack} {n}"));
            Ok::<(), ()>(())
        });
        assert!(done.is_ok());
        lines
    }

    /// One busy thread (30 samples), one that waits 2 s on a futex and is then 0.5 s runnable.
    fn two_threads() -> Recording {
        let s = Script::new(10);
        let p = s.process(7, "npc");
        let (a, b) = (s.thread(p, 7, "main"), s.thread(p, 8, "worker"));
        let tick = s.stack(&["py:main:/app/m.py:3", "py:tick:/app/w.py:8", "nat:memcpy:/lib/libc.so.6:16"]);
        let tock = s.stack(&["py:main:/app/m.py:4", "py:tick:/app/w.py:9"]);
        let lock = s.stack(&["py:run:/app/m.py:5", "nat:lock:/lib/libc.so.6:32", "ker:futex_wait"]);
        s.on_cpu(a, tick, 0, 20);
        s.on_cpu(a, tock, 200, 10);
        s.wait(b, lock, 1000, 2000, "futex");
        s.sample(b, lock, (3000, SECOND / 2), (State::Runnable, None), WHOLE);
        s.lost(100, "cpu", 3, "ring full");
        s.lost(1500, "off-cpu", 4, "queue full");
        s.done()
    }

    #[test]
    fn modes_take_their_states_and_their_losses() {
        let rec = two_threads();
        let cpu = Profile::new(&rec, &Selection::cpu()).unwrap();
        assert_eq!((cpu.clock, cpu.samples, cpu.weight_ns, cpu.lost), (ClockKind::Cpu, 30, 300_000_000, 3));
        let off = Profile::new(&rec, &Selection::off_cpu()).unwrap();
        assert_eq!((off.clock, off.samples, off.weight_ns, off.lost), (ClockKind::OffCpu, 2, 2_500_000_000, 4));
        let wall = Profile::new(&rec, &Selection::wall()).unwrap();
        assert_eq!((wall.clock, wall.samples, wall.lost), (ClockKind::Wall, 32, 7));
        assert_eq!(wall.reasons, [("futex", 2_000_000_000), ("runnable", 500_000_000)]);
        let gil = Profile::new(&rec, &Selection::gil()).unwrap();
        assert_eq!((gil.clock, gil.samples), (ClockKind::Gil, 0));
    }

    #[test]
    fn stacks_merge_by_name_and_waits_end_in_their_reason() {
        let rec = two_threads();
        let cpu = Profile::new(&rec, &Selection::cpu()).unwrap();
        let want = ["main (m.py:3);tick (w.py:8);memcpy (libc.so.6) 20", "main (m.py:4);tick (w.py:9) 10"];
        assert_eq!(folded(&cpu, Unit::Samples), want);
        let by_function = Selection { detail: Detail::Name, layers: Layers::PYTHON, ..Selection::cpu() };
        let cpu = Profile::new(&rec, &by_function).unwrap();
        assert_eq!(folded(&cpu, Unit::Samples), ["main (m.py);tick (w.py) 30"]);
        let split = Split { processes: true, threads: true };
        let off = Profile::new(&rec, &Selection { split, ..Selection::off_cpu() }).unwrap();
        let want = [
            "worker (tid 8);run (m.py:5);lock (libc.so.6);futex_wait_[k];[futex] 2000000000",
            "worker (tid 8);run (m.py:5);lock (libc.so.6);futex_wait_[k];[runnable] 500000000",
        ];
        assert_eq!(folded(&off, Unit::Nanos), want);
    }

    #[test]
    fn the_function_table_charges_waits_to_who_waits() {
        let rec = two_threads();
        let wall = Profile::new(&rec, &Selection::wall()).unwrap();
        let row = |name: &str| {
            let of = |r: &&FunctionRow| wall.frames.function(r.function).function == name;
            wall.functions.iter().find(of).unwrap()
        };
        assert_eq!(row("futex_wait").self_ns, 2_500_000_000);
        assert_eq!((row("tick").self_samples, row("tick").total_samples, row("tick").line), (10, 30, Some(8)));
        assert_eq!(row("main").line, Some(3), "the line where most of its time passes");
        assert_eq!(wall.functions[0].self_ns, 2_500_000_000, "hottest first");
    }

    #[test]
    fn recursion_counts_once_in_the_total() {
        let s = Script::new(1);
        let t = s.thread(s.process(7, "fib"), 7, "main");
        let fib = "py:fib:/a.py:2";
        s.on_cpu(t, s.stack(&["py:main:/a.py:9", fib, fib, fib]), 0, 5);
        s.on_cpu(t, s.stack(&["py:main:/a.py:9", fib, "py:g:/a.py:4", fib]), 100, 5);
        let rec = s.done();
        let p = Profile::new(&rec, &Selection::cpu()).unwrap();
        let fib = p.functions.iter().find(|r| p.frames.function(r.function).function == "fib").unwrap();
        assert_eq!((fib.self_samples, fib.total_samples), (10, 10));
    }

    #[test]
    fn a_slice_clips_waits_and_keeps_instants_whole() {
        let rec = two_threads();
        let slice = super::super::Slice { from: Some("2s".parse().unwrap()), to: Some("3.1s".parse().unwrap()) };
        let p = Profile::new(&rec, &Selection { slice, ..Selection::wall() }).unwrap();
        assert_eq!((p.samples, p.weight_ns, p.lost), (2, 1_100_000_000, 0));
        assert_eq!(p.moments[0].at, Mono(Script::START + 2 * SECOND));
        let slice = super::super::Slice { from: None, to: Some("100ms".parse().unwrap()) };
        let p = Profile::new(&rec, &Selection { slice, ..Selection::cpu() }).unwrap();
        assert_eq!(p.samples, 10);
    }

    #[test]
    fn nothing_is_lost_when_filters_leave_no_frame() {
        let s = Script::new(1);
        let t = s.thread(s.process(7, "npc"), 7, "main");
        s.on_cpu(t, s.stack(&["nat:main:/bin/a:1", "ker:read"]), 0, 2);
        s.on_cpu(t, StackId::EMPTY, 50, 1);
        s.on_cpu(t, s.stack(&["py:f:/a.py:1"]), 80, 3);
        let rec = s.done();
        let p = Profile::new(&rec, &Selection { layers: Layers::PYTHON, ..Selection::cpu() }).unwrap();
        assert_eq!(folded(&p, Unit::Samples), ["[no Python] 2", "[no stack] 1", "f (a.py:1) 3"]);
        let total: u64 = p.functions.iter().map(|f| f.self_samples).sum();
        assert_eq!(total, p.samples);
    }

    #[test]
    fn threads_add_up_and_quality_is_of_those_it_applies_to() {
        let rec = two_threads();
        let wall = Profile::new(&rec, &Selection::wall()).unwrap();
        let worker = &wall.threads[0];
        assert_eq!((worker.on_cpu_ns, worker.off_cpu_ns), (Some(0), Some(2_000_000_000)));
        assert_eq!(worker.active_ns, None, "a state that was not measured is not zero");
        assert_eq!((wall.quality.python_pct(), wall.quality.rooted_pct()), (Some(100.0), Some(100.0)));
        let cpu = Profile::new(&rec, &Selection { threads: vec![7], ..Selection::cpu() }).unwrap();
        assert_eq!((cpu.threads.len(), cpu.rates.asked_hz), (1, Some(100.0)));
        assert!((cpu.rates.cores_used.unwrap() - 0.03).abs() < 1e-9);
        assert!((cpu.rates.achieved_hz.unwrap() - 30.0 / 0.33).abs() < 1e-9, "three of 33 were lost");
        let bound = 196.0 * (0.01f64 * 0.99 / 30.0).sqrt();
        assert!((cpu.rates.bound_of_1_pct.unwrap() - bound).abs() < 1e-9);
    }

    #[test]
    fn several_processes_are_roots_of_their_own() {
        let s = Script::new(1);
        for pid in [7, 9] {
            let t = s.thread(s.process(pid, "uvicorn"), pid, "main");
            s.on_cpu(t, s.stack(&["py:f:/a.py:1"]), 0, u64::from(pid));
        }
        let rec = s.done();
        let p = Profile::new(&rec, &Selection::cpu()).unwrap();
        assert_eq!(folded(&p, Unit::Samples), ["uvicorn (pid 7);f (a.py:1) 7", "uvicorn (pid 9);f (a.py:1) 9"]);
        assert_eq!(p.functions.len(), 2);
        let split = Split { processes: false, threads: false };
        let p = Profile::new(&rec, &Selection { split, ..Selection::cpu() }).unwrap();
        assert_eq!(folded(&p, Unit::Samples), ["f (a.py:1) 16"]);
    }
}
