//! A measurement from its first tick to its last name.
//!
//! Threads: this one conducts (deadline, stop, progress, a transaction a second), `perfkit-sampler` drains the engine and
//! allocates nothing it can avoid, `perfkit-names` names addresses. Whatever ends the run, what was flushed stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::control::{Progress, Remark, Status, Stop};
use super::ladder::{Ground, climb};
use super::naming::{Named, NamingThread};
use super::plan::Plan;
use crate::clock::{Clock, Mono, SystemClock};
use crate::collect::cpu::{Engine, Kept, Naming, Shared, Tally, Target, What};
use crate::collect::cpu_clock::CpuClock;
use crate::collect::selfcost::SelfCost;
use crate::error::{Error, Kind, Result};
use crate::record::{Event, Mark, Recorder, Store};
use crate::symbol::{Inliner, Modules, SearchPaths, Wanted};
use crate::units::{Bytes, Nanos};

/// How often the conductor looks up.
const BEAT: Duration = Duration::from_millis(50);
/// The longest that anybody waits for inlined frames after the end.
const INLINES_BUDGET: Duration = Duration::from_secs(4);
const FLUSH_NS: u64 = 1_000_000_000;
const ANCHOR_NS: u64 = 10_000_000_000;

/// What a measurement came to.
pub(super) struct Measured {
    /// The recording: the file that was asked for, or a temporary one.
    pub(super) store: Store,
    /// Why it is less than was asked for.
    pub(super) partial: Option<String>,
}

/// What the sampler's thread and the conductor share.
#[derive(Default)]
struct Board {
    halt: AtomicBool,
    done: AtomicBool,
    samples: AtomicU64,
    lost: AtomicU64,
}

/// Measures `targets`. The recording is made when everything runs that it takes: what fails before that leaves a file of
/// its name as it was.
///
/// # Errors
/// When nothing could be measured; nothing was written then.
pub(super) fn measure(
    plan: &Plan,
    targets: &[Target],
    recorder: &Arc<Recorder>,
    stop: &Stop,
    progress: &Progress,
    hooks: &mut dyn Hooks,
) -> Result<Measured> {
    let modules = Arc::new(Modules::new());
    let (naming, queue) = Naming::new();
    let names = NamingThread::start(queue, Arc::clone(&modules), Arc::clone(recorder))?;
    let ground = Ground {
        plan,
        targets,
        shared: Shared {
            recorder: Arc::clone(recorder),
            modules: Arc::clone(&modules),
            naming,
            kept: Kept { python: plan.frames.python, native: plan.frames.native, kernel: plan.frames.kernel },
        },
        now: SystemClock.now(),
    };
    let rung = climb(&ground)?;
    drop(ground);
    if let Some(loses) = &rung.loses {
        progress.note(loses);
    }
    for (pid, why) in rung.engine.refusals() {
        progress.say(Remark::Warning, &format!("process {pid}: its Python frames are not shown: {why}"));
    }
    let mut engine = rung.engine;
    let start = engine.start(SystemClock.now())?;
    recorder.put(Event::Mark(Mark { at: start, kind: "start", text: format!("sampling by {}", rung.name) }));
    let mut clock = CpuClock::start(targets.iter().map(|t| t.pid), plan.subprocesses);
    clock.record(start, recorder);
    let board = Arc::new(Board::default());
    let mut course = Course { start, clock, board: Arc::clone(&board) };
    let sampler = spawn(engine, Arc::clone(&board))?;
    if let Err(e) = hooks.released() {
        board.halt.store(true, Ordering::SeqCst);
        drop(sampler.join());
        drop(names.finish());
        return Err(e);
    }

    let begun = begin(plan, rung.name, start);
    let (mut store, unkept) = match begun {
        Ok(begun) => begun,
        Err(e) => {
            board.halt.store(true, Ordering::SeqCst);
            drop(sampler.join());
            drop(names.finish());
            return Err(e);
        }
    };
    if let Some(why) = &unkept {
        progress.say(Remark::Warning, why);
    }

    let partial = conduct(plan, recorder, &mut store, stop, progress, hooks, &mut course);

    board.halt.store(true, Ordering::SeqCst);
    sampler.thread().unpark();
    let ended = SystemClock.now();
    course.clock.record(ended, recorder);
    let engine = sampler.join().map_err(|_| Error::new(Kind::Bug, "the sampling thread panicked"));
    progress.done();
    let failed = match engine {
        Ok(Ok(())) => None,
        Ok(Err(e)) | Err(e) => Some(format!("sampling stopped early: {e:#}")),
    };
    let names = names.finish();
    find_inlines(names.native, &modules, recorder, progress);
    SelfCost::now().record(SystemClock.now(), recorder);
    recorder.put(Event::Mark(Mark { at: ended, kind: "stop", text: "sampling ended".to_owned() }));
    let written = store
        .set_meta("ended_ns", &ended.0.to_string())
        .and_then(|()| store.anchor(SystemClock.anchor()))
        .and_then(|()| store.flush(recorder));
    let unwritten = written.err().map(|e| format!("the recording is cut short: {e:#}"));
    Ok(Measured { store, partial: unkept.or(partial).or(failed).or(unwritten).or(names.trouble) })
}

/// Makes the recording and writes what is known at its start. Where the file cannot be made any more, though it could be
/// when we looked before attaching, a temporary one serves the other outputs, and the text says why.
fn begin(plan: &Plan, sampler: &str, start: Mono) -> Result<(Store, Option<String>)> {
    let describe = |store: Store| {
        store.set_meta("command", &plan.command)?;
        store.set_meta("plan", &plan.to_json()?)?;
        store.set_meta("rate_hz", &plan.rate.0.to_string())?;
        store.set_meta("perfkit", env!("CARGO_PKG_VERSION"))?;
        store.set_meta("sampler", sampler)?;
        store.set_meta("started_ns", &start.0.to_string())?;
        store.anchor(SystemClock.anchor())?;
        Ok(store)
    };
    let Some(path) = plan.recording() else { return Ok((describe(Store::temporary()?)?, None)) };
    match Store::create(path, plan.force).and_then(describe) {
        Ok(store) => Ok((store, None)),
        Err(e) => {
            Ok((describe(Store::temporary()?)?, Some(format!("nothing is recorded in {}: {e:#}", path.display()))))
        }
    }
}

/// Source lines and inlined functions for every native frame that was met, within the budget.
fn find_inlines(named: Vec<Named>, modules: &Modules, recorder: &Recorder, progress: &Progress) {
    let wanted = named
        .into_iter()
        .filter_map(|n| match n.unnamed.what {
            What::Native(module, address) => Some(Wanted { id: n.unnamed.frame, module, address, frame: n.frame }),
            What::Kernel(_) | What::Jit(..) => None,
        })
        .collect();
    let found = Inliner::new(SearchPaths::default()).run(modules, wanted, INLINES_BUDGET);
    for (id, frame) in found.frames {
        recorder.name_frame(id, frame);
    }
    for trouble in &found.troubles {
        progress.say(Remark::Detail, trouble);
    }
    if found.unfinished > 0 {
        progress.note(&format!("{} addresses are without source lines and inlined functions", found.unfinished));
    }
}

/// What a measurement asks of its caller.
pub(super) trait Hooks {
    /// The first tick may come.
    fn released(&mut self) -> Result<()>;
    /// A snapshot was asked for; the store is flushed.
    fn snapshot(&mut self, store: &Store) -> Result<()>;
}

/// What is watched while the sampler works.
struct Course {
    start: Mono,
    clock: CpuClock,
    board: Arc<Board>,
}

/// Waits for the end; gives the reason when it is an early one.
fn conduct(
    plan: &Plan,
    recorder: &Recorder,
    store: &mut Store,
    stop: &Stop,
    progress: &Progress,
    hooks: &mut dyn Hooks,
    course: &mut Course,
) -> Option<String> {
    let Course { start, clock, board } = course;
    let start = *start;
    let deadline = plan.duration.map(|d| start.plus(d.0));
    let (mut flushed, mut anchored) = (start, start);
    let mut cost = SelfCost::now();
    loop {
        let now = SystemClock.now();
        let left = deadline.map_or(u64::MAX, |d| d.since(now));
        if left == 0 || stop.is_finishing() || board.done.load(Ordering::SeqCst) {
            return None;
        }
        std::thread::park_timeout(BEAT.min(Duration::from_nanos(left)));
        clock.glance();
        let now = SystemClock.now();
        let wants_snapshot = stop.take_snapshot();
        if now.since(flushed) < FLUSH_NS && !wants_snapshot {
            continue;
        }
        let next = SelfCost::now();
        next.record(now, recorder);
        clock.record(now, recorder);
        let used = next
            .cpu_ns
            .zip(cost.cpu_ns)
            .map(|(b, a)| 100.0 * b.saturating_sub(a) as f64 / now.since(flushed).max(1) as f64);
        cost = next;
        progress.update(&Status {
            elapsed: Nanos(now.since(start)),
            samples: board.samples.load(Ordering::Relaxed),
            lost: board.lost.load(Ordering::Relaxed),
            self_pct: used,
            self_rss: next.rss_bytes.map(Bytes),
        });
        flushed = now;
        let mut written = store.flush(recorder);
        if now.since(anchored) >= ANCHOR_NS {
            anchored = now;
            written = written.and_then(|()| store.anchor(SystemClock.anchor()));
        }
        if let Err(e) = written {
            return Some(format!("the recording ends here: {e:#}"));
        }
        if wants_snapshot && let Err(e) = hooks.snapshot(store) {
            progress.say(Remark::Warning, &format!("the snapshot could not be written: {e:#}"));
        }
    }
}

fn spawn(mut engine: Box<dyn Engine>, board: Arc<Board>) -> Result<JoinHandle<Result<()>>> {
    let conductor = std::thread::current();
    let work = move || {
        let show = |tally: Tally| {
            board.samples.store(tally.samples, Ordering::Relaxed);
            board.lost.store(tally.lost, Ordering::Relaxed);
        };
        let mut result = Ok(());
        while !board.halt.load(Ordering::SeqCst) && engine.has_targets() {
            std::thread::park_timeout(engine.due());
            result = engine.step(SystemClock.now());
            show(engine.tally());
            if result.is_err() {
                break;
            }
        }
        let finished = engine.finish(SystemClock.now());
        show(engine.tally());
        board.done.store(true, Ordering::SeqCst);
        conductor.unpark();
        result.and(finished)
    };
    std::thread::Builder::new()
        .name("perfkit-sampler".into())
        .spawn(work)
        .map_err(|e| Error::io("cannot start the sampling thread", e))
}
