//! Driving a target: starts the engine's threads, listens to their windows, ends them, and makes the report.
//!
//! In: a [`LoadPlan`]. Out: a [`Drive`] that runs beside whatever else the session does, and at its end a [`Driven`].
//! Windows come over a channel ten times a second and thread; nothing of a request passes between threads.

mod console;
mod control;
mod follow;
mod judged;
mod plan;
mod players;
mod recorded;
mod servers;
mod shape;
mod shares;
mod view;
mod watched;

pub use console::{Ask, Console, Panel, RunTime, Start, Turn};
pub use judged::Judging;
pub use plan::{LoadPlan, LocustRun};
use players::Players;
pub use recorded::{Beside, LoadRecording, describe};
use servers::{raise_fd_limit, servers};
use shape::Shape;
pub use shares::{choices, shares};
pub use view::view_of;
pub use watched::{Used, Watched};

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::Histogram;
use nix::unistd::{SysconfVar, sysconf};

use crate::clock::{Clock, Mono, SystemClock, thread_cpu_ns};
use crate::collect::selfcost::leave_out;
use crate::error::{Error, Kind, Result};
use crate::load::course::{Course, Level};
use crate::load::engine::{Board, Order};
use crate::load::journal::Journal;
use crate::load::report::{Facts, report};
use crate::load::script::{Names, Stripe};
use crate::load::slowest::KEPT;
use crate::load::stop_on::Watch;
use crate::load::tally::{Tally, Window};
use crate::record::load::{LoadReport, Second};
use crate::record::requests::{RequestError, RequestWindow, SlowRequest, encode};
use crate::record::slices::Slices;
use crate::record::{Event, Mark, Reading, Recorder};

/// How long the threads have to get ready before the run begins.
const LEAD_NS: u64 = 5_000_000;
/// What requests under way may take after the end, where nothing is said: closed and open model, ns.
const PATIENCE: (u64, u64) = (5_000_000_000, 30_000_000_000);

/// Cores of the machine, whichever of them we may use: one that is not ours has room for the others.
fn machine_cores() -> u64 {
    sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().and_then(|n| u64::try_from(n).ok()).unwrap_or(1)
}

/// What a run looks like while it goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Live {
    /// Time since the start, ns; 0 before it.
    pub elapsed_ns: u64,
    /// Users or tasks now.
    pub users: u32,
    /// Requests until now.
    pub requests: u64,
    /// Failures until now.
    pub failures: u64,
    /// Requests a second over the last ten seconds.
    pub rps: f64,
    /// The median latency of the last ten seconds, ms.
    pub p50_ms: Option<f64>,
    /// The 95th percentile.
    pub p95_ms: Option<f64>,
    /// The 99th percentile.
    pub p99_ms: Option<f64>,
    /// The longest generator lag of the last ten seconds, ms.
    pub lag_max_ms: f64,
    /// Whether all threads are done.
    pub done: bool,
}

/// A run under way.
#[derive(Debug)]
pub struct Drive {
    /// The closed model's users over time, as they were asked for last.
    level: Option<Level>,
    board: Arc<Board>,
    journal: Arc<Journal>,
    shape: Option<Shape>,
    threads: Vec<JoinHandle<Result<Tally>>>,
    windows: Receiver<Window>,
    names: Arc<Names>,
    plan: LoadPlan,
    open: bool,
    start: u64,
    end: u64,
    /// CPU time of each thread, ns, up to its last window.
    used_ns: Vec<Arc<AtomicU64>>,
    live: Live,
    users: Vec<u32>,
    current: Second,
    latencies: Histogram<u64>,
    seconds: Vec<Second>,
    recent: VecDeque<(u64, Histogram<u64>)>,
    recorder: Option<Arc<Recorder>>,
    recorded_names: usize,
    steady: Option<u64>,
    watch: Watch,
    stopped: Option<String>,
    slices: Option<Slices>,
    /// When the last stretch begins, ns after the start.
    level_from: u64,
    follower: Option<follow::Follower>,
    /// When the ramp is over and counting begins anew, ns of the one clock.
    fresh: Option<u64>,
}

/// What a run left.
#[derive(Debug)]
pub struct Driven {
    /// The report.
    pub report: LoadReport,
    /// The run second by second.
    pub seconds: Vec<Second>,
    /// When it began, on the one clock.
    pub start: Mono,
    /// Wall-clock time of the start, seconds since 1970.
    pub start_wall_s: i64,
    /// Method and name of each endpoint.
    pub names: Vec<(String, String)>,
    /// The slowest 1 %, where they were kept, in the order of their due times.
    pub slowest: Vec<SlowRequest>,
    /// The run in slices, where they were kept.
    pub slices: Option<Slices>,
    /// What a locustfile printed that nobody has taken yet.
    pub lines: Vec<String>,
}

impl Drive {
    /// Compiles, resolves and starts. Nothing is sent when it fails.
    ///
    /// # Errors
    /// `Usage` for what the scenario or the plan gets wrong, `Gone` for a host that has no address, `Io` for threads that
    /// cannot be started.
    pub fn start(plan: LoadPlan, recorder: Option<Arc<Recorder>>) -> Result<Self> {
        let course = plan.course()?;
        let names = Arc::new(Names::default());
        let journal = Arc::new(Journal::default());
        let players = Players::of(&plan, &names)?;
        let servers = servers(&players, &plan)?;
        let (open, peak, work, end) = match &course {
            Course::Closed(level) => (false, level.peak() as u64, level.peak(), level.end()),
            Course::Open { rate, cap, .. } => (true, u64::from(*cap), rate.peak(), rate.end()),
        };
        let end = plan.run_time_ns.map_or(end, |t| end.min(t));
        raise_fd_limit(peak.min(u64::from(u32::MAX)), open)?;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let wanted = ((work / 20_000.0).ceil() as u32).clamp(1, cores);
        let threads = u64::from(plan.threads.filter(|t| *t > 0).unwrap_or(wanted));
        let anchor = SystemClock.anchor();
        let start = anchor.mono.0 + LEAD_NS;
        let board = Arc::new(Board::default());
        let shape = players.shape(&plan, &journal, start)?;
        let (told, windows) = channel();
        let (mut handles, mut used_ns) = (Vec::new(), Vec::new());
        for index in 0..threads {
            let order = Order {
                stripe: Stripe { index, total: threads },
                course: course.clone(),
                seed: plan.scenario.seed,
                start,
                end: start.saturating_add(end),
                patience: plan.stop_timeout_ns.unwrap_or(if open { PATIENCE.1 } else { PATIENCE.0 }),
                finishes_tasks: plan.stop_timeout_ns.is_some_and(|t| t > 0),
                spin: open && machine_cores() > threads,
                servers: servers.clone(),
                wall_offset_ns: anchor.wall_ns - anchor.mono.0 as i64,
                slowest: if plan.judging.slowest || recorder.is_some() { KEPT } else { 0 },
            };
            let (players, names, board_of, told) =
                (players.clone(), Arc::clone(&names), Arc::clone(&board), told.clone());
            let journal = Arc::clone(&journal);
            let used = Arc::new(AtomicU64::new(0));
            leave_out(Arc::clone(&used));
            used_ns.push(Arc::clone(&used));
            let work = move || {
                let tally = players.run(&order, &names, &journal, &board_of, |window| {
                    used.store(thread_cpu_ns(), Ordering::Relaxed);
                    // Whoever listened may have gone; the tally has everything all the same.
                    drop(told.send(window));
                });
                used.store(thread_cpu_ns(), Ordering::Relaxed);
                tally
            };
            let handle = std::thread::Builder::new().name(format!("perfkit-load-{index}")).spawn(work);
            match handle {
                Ok(handle) => handles.push(handle),
                Err(e) => {
                    board.abort.store(true, Ordering::SeqCst);
                    return Err(Error::io("cannot start a thread of the load engine", e));
                }
            }
        }
        let steady = match &course {
            Course::Closed(level) | Course::Open { rate: level, .. } => level.steady_from(),
        };
        let level = match course {
            Course::Closed(level) => Some(level),
            Course::Open { .. } => None,
        };
        let fresh = (plan.reset_stats && steady > 0).then(|| start.saturating_add(steady));
        board.fresh.store(fresh.unwrap_or(0), Ordering::SeqCst);
        mark(recorder.as_deref(), start, &format!("load: {}", if steady > 0 { "ramp" } else { "steady" }));
        let rules = if plan.judging.stop_on.is_empty() { &plan.scenario.run.stop_on } else { &plan.judging.stop_on };
        let steady_ns = Some(steady).filter(|s| *s < end);
        Ok(Self {
            watch: Watch::new(rules),
            stopped: None,
            slices: plan.judging.slices.then(|| Slices { steady_ns, ..Slices::default() }),
            recorder,
            recorded_names: 0,
            steady: (steady > 0 && steady < end).then(|| start + steady),
            level_from: steady,
            fresh,
            follower: None,
            level,
            board,
            journal,
            shape,
            threads: handles,
            windows,
            names,
            plan,
            open,
            start,
            end: start.saturating_add(end),
            used_ns,
            live: Live::default(),
            users: vec![0; threads as usize],
            current: Second::default(),
            latencies: times(),
            seconds: Vec::new(),
            recent: VecDeque::new(),
        })
    }

    /// What a locustfile has printed since the last call, the newest thousand lines.
    pub fn take_lines(&self) -> Vec<String> {
        self.journal.take_lines()
    }

    /// When it begins, on the one clock.
    pub fn begins(&self) -> Mono {
        Mono(self.start)
    }

    /// When it is to end, ns after its beginning; `None` until it is stopped.
    pub fn length_ns(&self) -> Option<u64> {
        (self.end < u64::MAX).then(|| self.end - self.start)
    }

    /// Takes in what the threads have told, waiting at most so long for something new.
    pub fn listen(&mut self, longest: Duration) -> Live {
        if let Ok(window) = self.windows.recv_timeout(longest) {
            self.take(window);
        }
        while let Ok(window) = self.windows.try_recv() {
            self.take(window);
        }
        self.take_shape();
        if self.journal.wants_end() {
            self.stop();
        }
        self.live.elapsed_ns = SystemClock.now().since(Mono(self.start));
        self.live.done = self.threads.iter().all(JoinHandle::is_finished);
        self.live
    }

    fn take(&mut self, window: Window) {
        let second = window.end.saturating_sub(self.start) / 1_000_000_000;
        if second as f64 >= self.current.at_s + 1.0 {
            self.close_second(second);
        }
        if let Some(users) = self.users.get_mut(window.worker as usize) {
            *users = window.users;
        }
        self.live.users = self.users.iter().sum();
        self.current.users = self.live.users;
        self.current.lag_max_ms = self.current.lag_max_ms.max(window.lag_max_ns as f64 / 1e6);
        if self.steady.is_some_and(|at| window.end >= at) {
            mark(self.recorder.as_deref(), self.steady.take().unwrap_or_default(), "load: steady");
        }
        self.record(&window);
        self.judge(&window);
        if let Some(follower) = &mut self.follower {
            if let Some(fresh) = self.fresh.filter(|at| window.end >= *at && follower.since().is_none_or(|s| s < *at)) {
                follower.reset(fresh);
            }
            follower.take(&window);
        }
        for row in &window.rows {
            for us in &row.latencies_us {
                // Grows as it must.
                let _: std::result::Result<_, _> = self.latencies.record(u64::from(*us));
            }
            self.current.requests += row.latencies_us.len() as u64;
            self.current.failures += row.failures;
            self.current.bytes += row.bytes;
            self.live.requests += row.latencies_us.len() as u64;
            self.live.failures += row.failures;
        }
    }

    /// Puts a window into the recording, if there is one.
    fn record(&mut self, window: &Window) {
        let Some(recorder) = &self.recorder else { return };
        if window.rows.iter().any(|r| r.name as usize >= self.recorded_names) {
            let names = self.names.list();
            for (id, (method, name)) in names.iter().enumerate().skip(self.recorded_names) {
                recorder.endpoint(id as u32, method, name);
            }
            self.recorded_names = names.len();
        }
        let at = Mono(window.end);
        for row in &window.rows {
            recorder.window(RequestWindow {
                at,
                endpoint: row.name,
                requests: row.latencies_us.len() as u64,
                failures: row.failures,
                bytes: row.bytes,
                latency: encode(&row.latencies_us),
            });
        }
        for failed in &window.failed {
            let (kind, message) = (failed.failure.kind.to_owned(), failed.failure.message.clone());
            let (endpoint, count) = (failed.name.0, failed.seen.count);
            let (first, last) = (Mono(failed.seen.first), Mono(failed.seen.last));
            recorder.request_error(RequestError { endpoint, kind, message, count, first, last });
        }
        let lag_ms = window.lag_max_ns as f64 / 1e6;
        for (metric, value) in [("load.users", f64::from(window.users)), ("load.lag_max_ms", lag_ms)] {
            recorder.put(Event::Reading(Reading { at, metric, scope: window.worker.to_string(), value }));
        }
    }

    /// Ends the second under way; the next one is number `second`.
    fn close_second(&mut self, second: u64) {
        let h = std::mem::replace(&mut self.latencies, times());
        let at = |p| (!h.is_empty()).then(|| h.value_at_percentile(p) as f64 / 1e3);
        if let Some(follower) = &mut self.follower {
            follower.close_second();
        }
        let done = Second { p50_ms: at(50.0), p95_ms: at(95.0), p99_ms: at(99.0), ..self.current };
        self.seconds.push(Second { at_s: done.at_s + 1.0, ..done });
        self.current = Second { at_s: second as f64, users: done.users, ..Second::default() };
        self.recent.push_back((done.requests, h));
        if self.recent.len() > 10 {
            self.recent.pop_front();
        }
        let mut joint = times();
        for (_, h) in &self.recent {
            // Of the same make; they grow as they must.
            let _: std::result::Result<_, _> = joint.add(h);
        }
        let at = |p| (!joint.is_empty()).then(|| joint.value_at_percentile(p) as f64 / 1e3);
        self.live.rps = self.recent.iter().map(|(n, _)| n).sum::<u64>() as f64 / self.recent.len() as f64;
        (self.live.p50_ms, self.live.p95_ms, self.live.p99_ms) = (at(50.0), at(95.0), at(99.0));
        self.live.lag_max_ms = self.seconds.iter().rev().take(10).map(|s| s.lag_max_ms).fold(0.0, f64::max);
    }

    /// Begins no more, from now on; what is under way is finished.
    pub fn stop(&self) {
        if !self.board.finish.load(Ordering::SeqCst) {
            self.board.finish_at.store(SystemClock.now().0, Ordering::SeqCst);
            self.board.finish.store(true, Ordering::SeqCst);
        }
    }

    /// Waits for the end (see [`Self::stop`]) and makes the report.
    ///
    /// # Errors
    /// `Bug` when a thread panicked, `Io` when its event loop failed.
    pub fn finish(mut self) -> Result<Driven> {
        while !self.listen(Duration::from_millis(50)).done {}
        self.listen(Duration::ZERO);
        let finished_at = self.board.finish_at.load(Ordering::SeqCst);
        let ended = if self.board.finish.load(Ordering::SeqCst) { self.end.min(finished_at) } else { self.end };
        let ended = ended.min(SystemClock.now().0);
        let mut tally = Tally::default();
        let threads = self.threads.len() as u32;
        for handle in std::mem::take(&mut self.threads) {
            let part = handle.join().map_err(|_| Error::new(Kind::Bug, "a thread of the load engine panicked"))??;
            tally.add(&part);
        }
        if self.current.requests > 0 {
            self.close_second(u64::MAX);
        }
        mark(self.recorder.as_deref(), ended, "load: stop");
        let names = self.names.list();
        let (slowest, slices) = self.kept(&mut tally, &names, ended);
        let facts = Facts {
            names,
            crowded: self.names.is_crowded(),
            start: self.start,
            duration_ns: ended.saturating_sub(self.fresh.filter(|at| *at < ended).unwrap_or(self.start)),
            open: self.open,
            threads,
            seed: self.plan.scenario.seed,
            cpu_ns: Some(self.used_ns.iter().map(|ns| ns.load(Ordering::Relaxed)).sum::<u64>()).filter(|ns| *ns > 0),
        };
        let mut report = report(&tally, &facts, &self.plan.targets);
        report.stopped = self.stopped.take();
        report.exceptions = self.journal.exceptions();
        let anchor = SystemClock.anchor();
        let wall_ns = anchor.wall_ns - (anchor.mono.0 as i64 - self.start as i64);
        let start_wall_s = wall_ns / 1_000_000_000;
        Ok(Driven {
            report,
            seconds: std::mem::take(&mut self.seconds),
            start: Mono(self.start),
            start_wall_s,
            names: facts.names,
            slowest,
            slices,
            lines: self.take_lines(),
        })
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        // Whoever drops a drive that was not finished wants nothing of it; no thread outlives it.
        self.board.abort.store(true, Ordering::SeqCst);
        for handle in self.threads.drain(..) {
            drop(handle.join());
        }
    }
}

fn mark(recorder: Option<&Recorder>, at: u64, text: &str) {
    if let Some(recorder) = recorder {
        recorder.put(Event::Mark(Mark { at: Mono(at), kind: "phase", text: text.to_owned() }));
    }
}

fn times() -> Histogram<u64> {
    Histogram::new(3).unwrap_or_else(|_| Histogram::new_from(&crate::load::tally::Times::default().histogram))
}
