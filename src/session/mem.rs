//! The conductor of `perfkit mem`: the sampler of memory on a thread of its own, the recording, the load beside it.
//!
//! In: a [`Plan`] whose rate is the ticks a second. Out: an [`Outcome`]. Invariants: the first tick comes before a started
//! program's first load and after its exec; whatever ends the run, what was recorded until then can be read.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::control::{Progress, Remark, Status, Stop};
use super::load::{Beside, LoadPlan, describe};
use super::plan::{Plan, Targets};
use super::{Outcome, Snapshot};
use crate::clock::{Clock, Mono, SystemClock};
use crate::collect::Running;
use crate::collect::memory::{Latest, MemoryCollector, MemorySampler, Wanted};
use crate::collect::objects::{Ended, ObjectsWanted, refuse, watch};
use crate::collect::selfcost::SelfCost;
use crate::error::{Error, Kind, Result};
use crate::record::{Event, Mark, Recorder, Store};
use crate::target::{Identity, Launched};
use crate::units::{Bytes, Nanos};

/// How often the conductor looks up.
const BEAT: Duration = Duration::from_millis(50);
const FLUSH_NS: u64 = 1_000_000_000;
const ANCHOR_NS: u64 = 10_000_000_000;

/// Who wants to see how memory stands while it is watched.
pub type Glance<'a> = dyn FnMut(Nanos, Latest) + 'a;

/// What the sampler's thread and the conductor share.
#[derive(Default)]
struct Board {
    halt: AtomicBool,
    done: AtomicBool,
    latest: Mutex<Latest>,
}

impl Board {
    fn latest(&self) -> Latest {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether censuses of a Python heap are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Objects {
    /// Of processes that run CPython.
    #[default]
    Auto,
    /// Of processes that must run CPython.
    Always,
    /// Of none.
    Never,
}

/// Processes whose heap is watched at most, each on a thread of its own.
const HEAPS: usize = 16;

/// The threads that watch heaps.
struct Heaps {
    halt: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(Identity, Result<Ended>)>>,
}

impl Heaps {
    fn start(
        targets: &[Identity],
        wanted: ObjectsWanted,
        recorder: &Arc<Recorder>,
        board: &Arc<Board>,
    ) -> Result<Self> {
        let mut heaps = Self { halt: Arc::new(AtomicBool::new(false)), threads: Vec::new() };
        let left = Arc::new(AtomicUsize::new(targets.len().min(HEAPS)));
        for who in targets.iter().take(HEAPS) {
            let (who, halt, recorder) = (who.clone(), Arc::clone(&heaps.halt), Arc::clone(recorder));
            let (left, board, conductor) = (Arc::clone(&left), Arc::clone(board), std::thread::current());
            let work = move || {
                let ended = watch(&who, &who.pid.to_string(), &recorder, wanted, &halt);
                if left.fetch_sub(1, Ordering::SeqCst) == 1 && wanted.snapshot {
                    board.done.store(true, Ordering::SeqCst);
                    conductor.unpark();
                }
                (who, ended)
            };
            let thread = std::thread::Builder::new().name("perfkit-objects".into()).spawn(work);
            match thread {
                Ok(thread) => heaps.threads.push(thread),
                Err(e) => {
                    drop(heaps.finish());
                    return Err(Error::io("cannot start the thread that counts objects", e));
                }
            }
        }
        Ok(heaps)
    }

    /// The last census of each, and how each ended.
    fn finish(self) -> Vec<(Identity, Result<Ended>)> {
        self.halt.store(true, Ordering::SeqCst);
        self.threads.iter().for_each(|t| t.thread().unpark());
        self.threads.into_iter().filter_map(|t| t.join().ok()).collect()
    }
}

/// The targets, and with their families whoever belongs to them now.
fn with_children(targets: &[Identity], subprocesses: bool) -> Vec<Identity> {
    let mut all = targets.to_vec();
    let mut next = 0;
    while subprocesses && next < all.len() {
        for child in crate::target::children(all[next].pid) {
            if all.iter().all(|w| w.pid != child) {
                all.extend(Identity::of(child));
            }
        }
        next += 1;
    }
    all
}

/// What is said of heaps that could not be read.
fn heap_troubles(ended: Vec<(Identity, Result<Ended>)>, objects: Objects, progress: &Progress) -> Option<String> {
    let mut trouble = None;
    for (who, ended) in ended {
        match ended {
            Ok(Ended::NotPython) if objects == Objects::Always => {
                trouble = trouble.or(Some(format!("{:#}", refuse(&who))));
            }
            Ok(_) => {}
            Err(e) if objects == Objects::Always => trouble = trouble.or(Some(format!("no censuses: {e:#}"))),
            Err(e) => progress.say(Remark::Warning, &format!("no censuses of process {who}: {e:#}")),
        }
    }
    trouble
}

/// Carries out `plan` until its duration, its targets, `stop` or `load` end it; `glance` is called once a second.
///
/// # Errors
/// `Gone` and `Denied` when nothing could be measured, `Usage` when the program to start cannot be; those of the load.
pub fn run(
    plan: &Plan,
    (objects, heap): (Objects, ObjectsWanted),
    load: Option<LoadPlan>,
    stop: &Stop,
    progress: &Progress,
    snapshot: &mut Snapshot<'_>,
    glance: &mut Glance<'_>,
) -> Result<Outcome> {
    let recorder = Arc::new(Recorder::new());
    let mut child = match &plan.targets {
        Targets::Processes(_) => None,
        Targets::Launch(program) => Some(Launched::start(program)?),
    };
    // The program runs from here on: what perfkit itself has in memory would be the first point otherwise.
    child.as_mut().map_or(Ok(()), Launched::release)?;
    let targets = match &plan.targets {
        Targets::Processes(all) => all.clone(),
        Targets::Launch(_) => child.iter().map(|c| c.identity().clone()).collect(),
    };
    let start = SystemClock.now();
    let wanted = Wanted {
        targets: targets.clone(),
        subprocesses: plan.subprocesses,
        interval_ns: (1e9 / plan.rate.0) as u64,
        root: PathBuf::from("/"),
    };
    let sampler = MemorySampler::new(wanted, start, &recorder)?;
    if let Some(why) = sampler.limits() {
        progress.say(Remark::Warning, &why);
    }
    // Made when everything runs that it takes: what fails before that leaves a file of its name as it was.
    let mut store = begin(plan)?;
    store.set_meta("started_ns", &start.0.to_string())?;
    recorder.put(Event::Mark(Mark { at: start, kind: "start", text: "watching memory".to_owned() }));
    let board = Arc::new(Board::default());
    let collector = MemoryCollector { sampler, recorder: Arc::clone(&recorder) };
    let thread = spawn(collector, Arc::clone(&board))?;
    let watched = match objects {
        Objects::Never => Vec::new(),
        _ => with_children(&targets, plan.subprocesses),
    };
    let load = load.map(|mut l| {
        // The measurement's duration rules.
        l.run_time_ns = [l.run_time_ns, plan.duration.map(|d| d.0)].into_iter().flatten().min();
        l
    });
    let halt = |thread: JoinHandle<Result<()>>| {
        board.halt.store(true, Ordering::SeqCst);
        thread.thread().unpark();
        thread.join().map_err(|_| Error::new(Kind::Bug, "the thread that samples memory panicked")).and_then(|r| r)
    };
    let heaps = match Heaps::start(&watched, heap, &recorder, &board) {
        Ok(heaps) => heaps,
        Err(e) => {
            let _ = halt(thread);
            return Err(e);
        }
    };
    let beside = match load.map(|l| Beside::start(l, Arc::clone(&recorder), stop)).transpose() {
        Ok(beside) => beside,
        Err(e) => {
            let _ = halt(thread);
            drop(heaps.finish());
            return Err(e);
        }
    };
    let mut course = Course { plan, recorder: &recorder, stop, progress, snapshot, glance, start, board: &board };
    let mut partial = course.conduct(&mut store);
    let ended = SystemClock.now();
    partial = partial.or(heap_troubles(heaps.finish(), objects, progress));
    let sampled = halt(thread);
    progress.done();
    partial = partial.or(sampled.err().map(|e| format!("sampling stopped early: {e:#}")));
    let driven = match beside.map(Beside::finish).transpose() {
        Ok(driven) => driven,
        Err(e) => {
            partial = partial.or(Some(format!("the load beside it failed: {e:#}")));
            None
        }
    };
    if let Some(driven) = &driven {
        let written = describe(&store, driven);
        partial = partial.or(written.err().map(|e| format!("the recording lacks the load: {e:#}")));
    }
    SelfCost::now().record(SystemClock.now(), &recorder);
    recorder.put(Event::Mark(Mark { at: ended, kind: "stop", text: "watching ended".to_owned() }));
    let written = store
        .set_meta("ended_ns", &ended.0.to_string())
        .and_then(|()| store.anchor(SystemClock.anchor()))
        .and_then(|()| store.flush(&recorder));
    partial = partial.or(written.err().map(|e| format!("the recording is cut short: {e:#}")));
    let child_exit = child.as_mut().and_then(|c| c.try_wait().ok().flatten());
    let child = child.filter(|_| child_exit.is_none());
    Ok(Outcome { store, partial, child_exit, load: driven, child })
}

fn begin(plan: &Plan) -> Result<Store> {
    let store = match plan.recording() {
        Some(path) => Store::create(path, plan.force)?,
        None => Store::temporary()?,
    };
    store.set_meta("command", &plan.command)?;
    store.set_meta("plan", &plan.to_json()?)?;
    store.set_meta("rate_hz", &plan.rate.0.to_string())?;
    store.set_meta("perfkit", env!("CARGO_PKG_VERSION"))?;
    store.anchor(SystemClock.anchor())?;
    Ok(store)
}

struct Course<'a, 'b> {
    plan: &'a Plan,
    recorder: &'a Recorder,
    stop: &'a Stop,
    progress: &'a Progress,
    snapshot: &'a mut Snapshot<'b>,
    glance: &'a mut Glance<'b>,
    start: Mono,
    board: &'a Board,
}

impl Course<'_, '_> {
    /// Waits for the end; gives the reason when it is an early one.
    fn conduct(&mut self, store: &mut Store) -> Option<String> {
        let deadline = self.plan.duration.map(|d| self.start.plus(d.0));
        let (mut flushed, mut anchored) = (self.start, self.start);
        let mut cost = SelfCost::now();
        loop {
            let left = deadline.map_or(u64::MAX, |d| d.since(SystemClock.now()));
            if left == 0 || self.stop.is_finishing() || self.board.done.load(Ordering::SeqCst) {
                return None;
            }
            std::thread::park_timeout(BEAT.min(Duration::from_nanos(left)));
            let now = SystemClock.now();
            let wants_snapshot = self.stop.take_snapshot();
            if now.since(flushed) < FLUSH_NS && !wants_snapshot {
                continue;
            }
            let next = SelfCost::now();
            next.record(now, self.recorder);
            self.show(now, now.since(flushed), cost, next);
            (cost, flushed) = (next, now);
            let mut written = store.flush(self.recorder);
            if now.since(anchored) >= ANCHOR_NS {
                anchored = now;
                written = written.and_then(|()| store.anchor(SystemClock.anchor()));
            }
            if let Err(e) = written {
                return Some(format!("the recording ends here: {e:#}"));
            }
            if wants_snapshot && let Err(e) = (self.snapshot)(store) {
                self.progress.say(Remark::Warning, &format!("the snapshot could not be written: {e:#}"));
            }
        }
    }

    fn show(&mut self, now: Mono, passed_ns: u64, before: SelfCost, next: SelfCost) {
        let used = next.cpu_ns.zip(before.cpu_ns);
        let self_pct = used.map(|(b, a)| 100.0 * b.saturating_sub(a) as f64 / passed_ns.max(1) as f64);
        let latest = self.board.latest();
        let elapsed = Nanos(now.since(self.start));
        let self_rss = next.rss_bytes.map(Bytes);
        let (samples, lost) = (latest.ticks, latest.missed);
        self.progress.update(&Status { elapsed, samples, lost, self_pct, self_rss });
        (self.glance)(elapsed, latest);
    }
}

fn spawn(mut collector: MemoryCollector, board: Arc<Board>) -> Result<JoinHandle<Result<()>>> {
    let conductor = std::thread::current();
    let work = move || {
        let mut result = Ok(());
        while !board.halt.load(Ordering::SeqCst) && collector.sampler.has_targets() && result.is_ok() {
            std::thread::park_timeout(collector.due());
            if board.halt.load(Ordering::SeqCst) {
                break;
            }
            result = collector.step(SystemClock.now());
            *board.latest.lock().unwrap_or_else(PoisonError::into_inner) = collector.sampler.latest();
        }
        let finished = collector.finish(SystemClock.now());
        board.done.store(true, Ordering::SeqCst);
        conductor.unpark();
        result.and(finished)
    };
    std::thread::Builder::new()
        .name("perfkit-memory".into())
        .spawn(work)
        .map_err(|e| Error::io("cannot start the thread that samples memory", e))
}
