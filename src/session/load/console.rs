//! The console of load runs: starts, stops and resets them as a panel (the web UI) asks, one run at a time.
//!
//! In: a plan and what a [`Panel`] asks. Out: a [`LoadView`] for whoever looks, and what the last run left. A console belongs
//! to one thread, which calls [`Console::turn`] again and again; panels are handles for other threads, which only send
//! questions and wait for answers, so that nothing of theirs can hold up the engine. Invariants: at most one run at a time;
//! each question gets an answer or sees the console go.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tokio::sync::oneshot;

use super::players::Players;
use super::shares::{choices, shares};
use super::{Drive, Driven, Live, LoadPlan};
use crate::clock::{Clock, Mono, SystemClock};
use crate::error::{Error, Kind, Result};
use crate::record::Recorder;
use crate::record::load::Second;
use crate::record::load_view::{Asked, LoadState, LoadView};

/// Lines of the log that are kept.
const LOGS: usize = 1000;
/// A view serves everybody who looks within this time, ns.
const FRESH_NS: u64 = 250_000_000;

/// How long a run is to go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RunTime {
    /// As the plan has it.
    #[default]
    Planned,
    /// Until it is stopped.
    Endless,
    /// So many ns.
    For(u64),
}

impl RunTime {
    /// What was asked for, ns.
    pub fn asked_ns(self) -> Option<u64> {
        if let Self::For(ns) = self { Some(ns) } else { None }
    }
}

/// How a run is to be started; what is `None` stays as the plan has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Start {
    /// Users.
    pub users: Option<u32>,
    /// Users that come a second.
    pub spawn_rate: Option<f64>,
    /// Where requests go.
    pub host: Option<String>,
    /// How long.
    pub run_time: RunTime,
    /// The classes that take part; all when empty.
    pub classes: Option<Vec<String>>,
}

/// A question, with the way back for its answer.
#[derive(Debug)]
pub enum Ask {
    /// Start a run, or change the users of the one under way.
    Start(Start, oneshot::Sender<Result<Asked>>),
    /// Stop it.
    Stop(oneshot::Sender<()>),
    /// Count anew.
    Reset(oneshot::Sender<()>),
    /// Change a class, for the next run: its name, its weight, its fixed count (0 for none).
    Class(String, Option<u32>, Option<u32>, oneshot::Sender<Result<()>>),
    /// Show.
    Look(oneshot::Sender<Arc<LoadView>>),
}

/// A handle on a console for other threads.
#[derive(Debug, Clone)]
pub struct Panel {
    asks: Sender<Ask>,
}

impl Panel {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// `Gone` when the console has ended.
    pub async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T> {
        let (back, answer) = oneshot::channel();
        let gone = || Error::new(Kind::Gone, "the run is over and perfkit is ending");
        self.asks.send(question(back)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

/// The console.
#[derive(Debug)]
pub struct Console {
    plan: LoadPlan,
    asked: Asked,
    asks: Receiver<Ask>,
    drive: Option<Drive>,
    /// What the last run left, as it is shown.
    last: LoadView,
    run: u64,
    recorded: bool,
    recorder: Option<Arc<Recorder>>,
    /// Whether somebody looks at runs before their end.
    is_watched: bool,
    shown: Option<(Mono, Arc<LoadView>)>,
    /// Seconds of the run under way that were looked at.
    seconds: Arc<Vec<Second>>,
    /// When a change asked the run to end, before its own end.
    stop_at: Option<Mono>,
    logs: VecDeque<String>,
    /// What a locustfile printed, until it is taken.
    said: VecDeque<String>,
}

/// What a turn brought.
#[derive(Debug)]
pub enum Turn {
    /// Nothing runs.
    Idle,
    /// A run has begun.
    Began,
    /// A run goes on.
    Live(Live),
    /// A run is over.
    Ended(Box<Driven>),
}

impl Console {
    /// For runs of `plan`; each gets a recorder when `recorded`.
    pub fn new(plan: LoadPlan, recorded: bool) -> (Self, Panel) {
        let (sender, asks) = channel();
        let asked = asked(&plan);
        let console = Self {
            plan,
            asked,
            asks,
            drive: None,
            last: LoadView::default(),
            run: 0,
            recorded,
            recorder: None,
            is_watched: true,
            shown: None,
            seconds: Arc::default(),
            stop_at: None,
            logs: VecDeque::new(),
            said: VecDeque::new(),
        };
        (console, Panel { asks: sender })
    }

    /// Nobody looks at runs before their end: no tally by name is kept beside the engine's own, which costs CPU.
    pub fn without_watchers(&mut self) {
        self.is_watched = false;
    }

    /// How many users there are to be, and when the run under way ends by itself, ns after its start.
    pub fn course(&self) -> (Option<u32>, Option<u64>) {
        self.drive.as_ref().map_or((None, None), |d| (d.wanted_users(), d.length_ns()))
    }

    /// Answers what was asked and follows the run, for about `longest`.
    ///
    /// # Errors
    /// As [`Drive::finish`].
    pub fn turn(&mut self, longest: Duration) -> Result<Turn> {
        let runs = self.run;
        if self.stop_at.is_some_and(|at| SystemClock.now() >= at) {
            self.stop_at = None;
            self.stop();
        }
        let live = if let Some(drive) = &mut self.drive {
            let live = drive.listen(longest);
            let lines = drive.take_lines();
            self.hear(lines);
            Some(live)
        } else {
            if let Ok(ask) = self.asks.recv_timeout(longest) {
                self.answer(ask);
            }
            None
        };
        if live.is_some_and(|l| l.done) {
            return self.end().map(|d| Turn::Ended(Box::new(d)));
        }
        while let Ok(ask) = self.asks.try_recv() {
            self.answer(ask);
        }
        if self.run > runs {
            return Ok(Turn::Began);
        }
        Ok(live.map_or(Turn::Idle, Turn::Live))
    }

    /// Whether the plan could be started, with the host that a form may still name.
    ///
    /// # Errors
    /// `Usage` for what the scenario or the plan gets wrong.
    pub fn check(&self) -> Result<()> {
        self.plan.course()?;
        if Players::of(&self.plan, &Arc::default()).is_ok() || self.plan.choice.host.is_some() {
            return Players::of(&self.plan, &Arc::default()).map(drop);
        }
        let mut hosted = self.plan.clone();
        hosted.choice.host = Some("http://localhost".to_owned());
        Players::of(&hosted, &Arc::default()).map(drop)
    }

    /// Starts a run, or changes the users of the one under way.
    ///
    /// # Errors
    /// Those of [`Drive::start`]; while a run is under way, `Usage` for what cannot be changed.
    pub fn start(&mut self, start: Start) -> Result<Asked> {
        if self.drive.is_some() {
            return self.change(&start);
        }
        let mut plan = self.plan.clone();
        plan.users = start.users.or(plan.users);
        plan.spawn_rate = start.spawn_rate.or(plan.spawn_rate);
        plan.run_time_ns = match start.run_time {
            RunTime::Planned => plan.run_time_ns,
            RunTime::Endless => None,
            RunTime::For(ns) => Some(ns),
        };
        plan.choice.host = start.host.or(plan.choice.host);
        plan.choice.classes = start.classes.unwrap_or(plan.choice.classes);
        let recorder = self.recorded.then(|| Arc::new(Recorder::new()));
        let mut drive = Drive::start(plan.clone(), recorder.clone()).inspect_err(|e| {
            self.log(&format!("could not start: {e:#}"));
        })?;
        if self.is_watched {
            drive.follow();
        }
        self.recorder = recorder;
        self.plan = plan;
        self.asked = asked(&self.plan);
        self.run += 1;
        (self.shown, self.stop_at, self.seconds) = (None, None, Arc::default());
        self.last = LoadView::default();
        let wall_ns = SystemClock.anchor().wall_ns;
        self.last.start_wall_s = Some(wall_ns / 1_000_000_000);
        self.drive = Some(drive);
        self.log(&format!("run {} begins: {}", self.run, sentence(&self.asked)));
        Ok(self.asked.clone())
    }

    /// Changes users and rate of the run under way; a run time counts from now.
    fn change(&mut self, start: &Start) -> Result<Asked> {
        let Some(drive) = &mut self.drive else { return Err(Error::new(Kind::Bug, "no run to change")) };
        let differs = |asked: &Option<String>, now: &Option<String>| asked.is_some() && asked != now;
        let other_classes = start.classes.as_ref().is_some_and(|c| {
            let all = self.plan.choice.classes.is_empty();
            if all { choices(&self.plan).iter().any(|u| !c.contains(&u.name)) } else { *c != self.plan.choice.classes }
        });
        if differs(&start.host, &self.asked.host) || other_classes {
            return Err(Error::usage("host and classes of a run under way cannot be changed")
                .advise("stop it, and start a new one"));
        }
        let users = start.users.or(drive.wanted_users()).unwrap_or(1);
        let rate = start.spawn_rate.or(self.asked.spawn_rate).unwrap_or(1.0);
        let now = SystemClock.now();
        let stop_at = start.run_time.asked_ns().map(|ns| now.plus(ns));
        if stop_at.is_some_and(|at| at.0 > drive.end) {
            return Err(Error::usage("the run under way ends before that").advise("stop it, and start a new one"));
        }
        drive.set_users(users, rate)?;
        self.stop_at = stop_at.or(self.stop_at);
        self.asked.users = Some(users);
        self.asked.spawn_rate = Some(rate);
        self.asked.schedule = None;
        self.shown = None;
        self.log(&format!("changed: {users} users, by {rate} a second"));
        Ok(self.asked.clone())
    }

    /// So many users more, or less, as [`Drive::add_users`]; how many that are.
    ///
    /// # Errors
    /// `Usage` where nothing runs, and as [`Drive::add_users`].
    pub fn add_users(&mut self, change: i32) -> Result<u32> {
        let drive = self.drive.as_mut().ok_or_else(|| Error::usage("nothing runs"))?;
        let users = drive.add_users(change)?;
        self.asked.users = Some(users);
        self.shown = None;
        self.log(&format!("{users} users"));
        Ok(users)
    }

    /// Ends the run under way, if there is one: no more is begun.
    pub fn stop(&mut self) {
        if let Some(drive) = &self.drive {
            drive.stop();
            self.shown = None;
            self.log("stopping: what is under way is finished");
        }
    }

    /// What a locustfile has printed since the last call, the newest thousand lines.
    pub fn take_said(&mut self) -> Vec<String> {
        self.said.drain(..).collect()
    }

    fn hear(&mut self, lines: Vec<String>) {
        for line in lines {
            self.log(&line);
            if self.said.len() >= LOGS {
                self.said.pop_front();
            }
            self.said.push_back(line);
        }
    }

    /// What the run under way (or the last one) is recorded by, if runs are recorded.
    pub fn recorder(&self) -> Option<Arc<Recorder>> {
        self.recorder.clone()
    }

    /// Whether a run is under way.
    pub fn is_active(&self) -> bool {
        self.drive.is_some()
    }

    /// Puts a line into the log that panels show.
    pub fn log(&mut self, text: &str) {
        if self.logs.len() >= LOGS {
            self.logs.pop_front();
        }
        self.logs.push_back(format!("{} {text}", wall_text()));
        self.shown = None;
    }

    fn answer(&mut self, ask: Ask) {
        // Whoever asked may be gone; then nobody wants to know.
        match ask {
            Ask::Start(start, back) => drop(back.send(self.start(start))),
            Ask::Stop(back) => {
                self.stop();
                back.send(()).ok();
            }
            Ask::Reset(back) => {
                self.reset();
                back.send(()).ok();
            }
            Ask::Class(name, weight, fixed, back) => drop(back.send(self.change_class(&name, weight, fixed))),
            Ask::Look(back) => drop(back.send(self.view())),
        }
    }

    fn reset(&mut self) {
        self.shown = None;
        if let Some(drive) = &mut self.drive {
            drive.reset();
        } else {
            self.last = LoadView { state: self.last.state, ..LoadView::default() };
        }
        self.log("statistics were reset");
    }

    fn change_class(&mut self, name: &str, weight: Option<u32>, fixed: Option<u32>) -> Result<()> {
        if self.plan.locustfile.is_some() {
            return Err(Error::usage("weights of a locustfile's classes stand in the file").advise("change them there"));
        }
        let file = self.plan.scenario.file.clone();
        let class = self.plan.scenario.users.iter_mut().find(|u| u.name == name);
        let class = class.ok_or_else(|| Error::usage(format!("{file} has no user '{name}'")))?;
        class.weight = weight.unwrap_or(class.weight);
        if let Some(fixed) = fixed {
            class.fixed_count = Some(fixed).filter(|n| *n > 0);
        }
        self.shown = None;
        self.log(&format!("{name} changed; the next run takes it up"));
        Ok(())
    }

    /// The run is over: what it left, and what is shown from now on.
    fn end(&mut self) -> Result<Driven> {
        let Some(mut drive) = self.drive.take() else { return Err(Error::new(Kind::Bug, "no run to end")) };
        drive.listen(Duration::ZERO);
        let mut view = std::mem::take(&mut self.last);
        let was_reset = drive.was_reset();
        drive.describe(&mut view);
        let mut driven = drive.finish()?;
        self.hear(std::mem::take(&mut driven.lines));
        if !was_reset || self.plan.reset_stats {
            view.report = driven.report.clone();
        }
        view.rates.clear();
        view.recent.clear();
        view.rate = crate::record::load_view::Rates::default();
        view.state = LoadState::Stopped;
        view.users = 0;
        view.seconds = Arc::new(driven.seconds.clone());
        view.start_wall_s = Some(driven.start_wall_s);
        view.end_wall_s = Some(driven.start_wall_s + driven.report.totals.duration_s.round() as i64);
        self.last = view;
        self.shown = None;
        let t = &driven.report.totals;
        self.log(&format!("run {} is over: {} requests, {} failed", self.run, t.requests, t.failures));
        for mark in &driven.report.marks {
            self.log(&format!("warning: {mark}"));
        }
        Ok(driven)
    }

    /// What there is to see.
    pub fn view(&mut self) -> Arc<LoadView> {
        let now = SystemClock.now();
        if let Some((at, view)) = &self.shown
            && (self.drive.is_none() || now.since(*at) < FRESH_NS)
        {
            return Arc::clone(view);
        }
        let mut view = self.last.clone();
        if let Some(drive) = &self.drive {
            drive.describe(&mut view);
            // Only what is new is copied, unless somebody still reads the last one.
            self.shown = None;
            let fresh = drive.seconds().get(self.seconds.len()..).unwrap_or_default();
            Arc::make_mut(&mut self.seconds).extend_from_slice(fresh);
            view.seconds = Arc::clone(&self.seconds);
            view.end_wall_s = Some(SystemClock.anchor().wall_ns / 1_000_000_000);
        }
        view.run = self.run;
        view.scenario.clone_from(&self.plan.scenario.file);
        view.asked = self.asked.clone();
        view.choices = choices(&self.plan);
        view.shares = shares(&self.plan, view.users);
        view.logs = self.logs.iter().cloned().collect();
        let view = Arc::new(view);
        self.shown = Some((now, Arc::clone(&view)));
        view
    }
}

/// What a plan asks for, as a form shows it.
pub(super) fn asked(plan: &LoadPlan) -> Asked {
    let own = plan.users.is_some() || plan.spawn_rate.is_some();
    let run = &plan.scenario.run;
    let arrivals = plan.arrivals.clone().or_else(|| run.arrivals.clone().filter(|_| !own));
    let stages = &plan.scenario.stages;
    let schedule = arrivals.map(|a| format!("arrivals {a}")).or_else(|| {
        (!own && !stages.is_empty()).then(|| {
            let peak = stages.iter().map(|s| s.users).max().unwrap_or(0);
            format!("{} stages, at most {peak} users", stages.len())
        })
    });
    let hosts = |plan: &LoadPlan| {
        let mut all: Vec<String> = choices(plan).into_iter().filter_map(|c| c.host).collect();
        all.dedup();
        if all.len() == 1 { all.pop() } else { None }
    };
    Asked {
        users: plan.users.or(run.users),
        spawn_rate: plan.spawn_rate.or(run.spawn_rate),
        host: plan.choice.host.clone().or_else(|| hosts(plan)),
        run_time_ns: plan.run_time_ns.or(run.run_time_ns),
        schedule,
        classes: plan.choice.classes.clone(),
    }
}

fn sentence(asked: &Asked) -> String {
    let what = asked.schedule.clone().unwrap_or_else(|| {
        let (users, rate) = (asked.users.unwrap_or(1), asked.spawn_rate.unwrap_or(1.0));
        format!("{users} users, {rate} more a second")
    });
    let time = asked.run_time_ns.map_or_else(String::new, |ns| format!(", for {}", crate::units::Nanos(ns)));
    let host = asked.host.as_ref().map_or_else(String::new, |h| format!(", against {h}"));
    format!("{what}{time}{host}")
}

/// The wall clock as `2026-11-24 04:30:00`, UTC.
fn wall_text() -> String {
    crate::units::utc(SystemClock.anchor().wall_ns / 1_000_000_000)
}
