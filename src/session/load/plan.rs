//! What is to be driven, and how.

use std::sync::Arc;

use super::judged::Judging;
use crate::error::Result;
use crate::load::course::{Course, ENDLESS, Level};
use crate::load::locust::{Locustfile, UserClass};
use crate::load::program::Choice;
use crate::load::scenario::{Scenario, Stage, Target};

/// The most tasks at the same time in the open model, where nothing is said.
const OPEN_CAP: u32 = 10_000;

/// A locustfile that is to be run.
#[derive(Debug, Clone)]
pub struct LocustRun {
    /// The file.
    pub file: Arc<Locustfile>,
    /// Its classes, with the tasks that the choice of tags leaves them.
    pub classes: Arc<[UserClass]>,
    /// Whether it has a `LoadTestShape`, which then says how many users there are.
    pub has_shape: bool,
}

impl LocustRun {
    /// Runs the module once to see its classes.
    ///
    /// # Errors
    /// `Usage` when the module raises.
    pub fn new(file: Locustfile, choice: &Choice) -> Result<Self> {
        let (classes, has_shape) = file.survey(choice)?;
        Ok(Self { file: Arc::new(file), classes: classes.into(), has_shape })
    }

    /// What the reader should know of the file before it is run with `threads` threads, a line each.
    pub fn remarks(&self, threads: Option<u32>) -> Vec<String> {
        let name = self.file.name();
        let mut all: Vec<String> =
            self.file.remarks().iter().map(|(line, what)| format!("{name}:{line}: {what}")).collect();
        if threads.is_some_and(|n| n > 1)
            && let Some((line, what)) = self.file.shared_state()
        {
            all.push(format!("{name}:{line}: {what}, and each thread has its own, as with Locust's --processes"));
        }
        all
    }
}

/// A load run as it was asked for.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// What users do.
    pub scenario: Scenario,
    /// A locustfile whose users do it; of the scenario, seed, timeout, TLS and targets count.
    pub locustfile: Option<LocustRun>,
    /// What of it.
    pub choice: Choice,
    /// How many users; in the open model the most tasks at the same time.
    pub users: Option<u32>,
    /// How many users come a second.
    pub spawn_rate: Option<f64>,
    /// How long, ns; `None` until it is stopped.
    pub run_time_ns: Option<u64>,
    /// Arrivals, for the open model.
    pub arrivals: Option<String>,
    /// Whether arrivals are Poisson's instead of evenly spaced.
    pub poisson: bool,
    /// Threads; by itself one for each 20,000 users or arrivals a second, at most a core each.
    pub threads: Option<u32>,
    /// How long requests may go on after the end, ns.
    pub stop_timeout_ns: Option<u64>,
    /// What the run is graded by.
    pub targets: Vec<Target>,
    /// What ends it early, and what is kept for judging it.
    pub judging: Judging,
    /// Count anew when the ramp is over.
    pub reset_stats: bool,
}

impl LoadPlan {
    /// Whether a locustfile's `LoadTestShape` says how many users there are.
    pub fn has_shape(&self) -> bool {
        self.locustfile.as_ref().is_some_and(|run| run.has_shape) && self.arrivals.is_none()
    }

    /// The course of the run.
    ///
    /// # Errors
    /// `Usage` for arrivals that cannot be read, and for both models at once.
    pub fn course(&self) -> Result<Course> {
        let end = self.run_time_ns.or(self.scenario.run.run_time_ns).unwrap_or(ENDLESS);
        let own = self.users.is_some() || self.spawn_rate.is_some();
        let arrivals = self.arrivals.as_ref().or(self.scenario.run.arrivals.as_ref().filter(|_| !own));
        if let Some(text) = arrivals {
            let rate = Level::arrivals(text, end)?;
            return Ok(Course::Open { rate, poisson: self.poisson, cap: self.users.unwrap_or(OPEN_CAP).max(1) });
        }
        if self.has_shape() {
            // The shape speaks up at once.
            return Ok(Course::Closed(Level::ramp(0, 1.0, end)));
        }
        if !own && !self.scenario.stages.is_empty() {
            let mut stages = self.scenario.stages.clone();
            if let Some(limit) = self.run_time_ns {
                truncate(&mut stages, limit);
            }
            return Ok(Course::Closed(Level::stages(&stages)));
        }
        let users = self.users.or(self.scenario.run.users).unwrap_or(1);
        let rate = self.spawn_rate.or(self.scenario.run.spawn_rate).unwrap_or(1.0);
        Ok(Course::Closed(Level::ramp(users, rate, end)))
    }
}

fn truncate(stages: &mut Vec<Stage>, limit: u64) {
    let mut left = limit;
    stages.retain_mut(|s| {
        s.duration_ns = s.duration_ns.min(left);
        left -= s.duration_ns;
        s.duration_ns > 0
    });
}
