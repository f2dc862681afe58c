//! A load run as it is seen while it goes on, and between runs: what the web UI and its routes show.
//!
//! Plain data: made by the session's console, drawn by `render`. Rates are a second, times ms, `None` means not measured.

use std::sync::Arc;

use super::load::{LoadReport, Second};

/// Where a console is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LoadState {
    /// Nothing has run yet.
    #[default]
    Ready,
    /// Users are coming (or, in the open model, arrivals become more).
    Spawning,
    /// As many as were asked for.
    Running,
    /// No more is begun, what is under way is finished.
    Stopping,
    /// A run is over.
    Stopped,
}

impl LoadState {
    /// Whether a run is under way.
    pub fn is_active(self) -> bool {
        !matches!(self, Self::Ready | Self::Stopped)
    }

    /// The word of Locust's routes.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Spawning => "spawning",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// Rates of the last seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Requests a second.
    pub requests: f64,
    /// Failures a second.
    pub failures: f64,
}

/// How often a task is done, relative to the others beside it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskShare {
    /// Its name.
    pub name: String,
    /// Its share of its class (or of the task it is part of), 0 to 1.
    pub ratio: f64,
    /// What it consists of, where it is a set of tasks.
    pub tasks: Vec<TaskShare>,
}

/// A class of users.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClassShare {
    /// Its name.
    pub name: String,
    /// Its share of the users, 0 to 1.
    pub ratio: f64,
    /// What its users do.
    pub tasks: Vec<TaskShare>,
}

/// A class that could be chosen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClassChoice {
    /// Its name.
    pub name: String,
    /// Its own host.
    pub host: Option<String>,
    /// Its weight.
    pub weight: u32,
    /// Exactly so many users.
    pub fixed_count: Option<u32>,
    /// Names of its tasks.
    pub tasks: Vec<String>,
}

/// What a run was asked for, as the start form has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    /// Users.
    pub users: Option<u32>,
    /// Users that come a second.
    pub spawn_rate: Option<f64>,
    /// Where requests go.
    pub host: Option<String>,
    /// How long, ns.
    pub run_time_ns: Option<u64>,
    /// Arrivals or stages that take the place of users and rate.
    pub schedule: Option<String>,
    /// The classes that were chosen; all when empty.
    pub classes: Vec<String>,
}

/// A console, at a moment.
#[derive(Debug, Clone, Default)]
pub struct LoadView {
    /// Where it is.
    pub state: LoadState,
    /// Which run it is, from 1; 0 before the first.
    pub run: u64,
    /// Users (open model: tasks) now.
    pub users: u32,
    /// The scenario's file or name.
    pub scenario: String,
    /// What the next run does when nothing else is said, or what the run under way was asked for.
    pub asked: Asked,
    /// Classes to choose from.
    pub choices: Vec<ClassChoice>,
    /// The report until now; since the last reset, if there was one.
    pub report: LoadReport,
    /// Rates now, in the order of [`LoadReport::by_name`].
    pub rates: Vec<Rates>,
    /// Rates of all together.
    pub rate: Rates,
    /// Latencies of the last ten seconds at [`super::load::LOCUST_PERCENTILES`], ms: of each endpoint in the order of
    /// [`LoadReport::by_name`], then of all together; empty without a run under way.
    pub recent: Vec<Vec<Option<f64>>>,
    /// Median, 95th and 99th percentile of the last ten seconds, ms.
    pub recent_ms: [Option<f64>; 3],
    /// The longest generator lag of the last ten seconds, ms.
    pub lag_max_ms: f64,
    /// The run second by second.
    pub seconds: Arc<Vec<Second>>,
    /// Wall-clock time of the start, seconds since 1970.
    pub start_wall_s: Option<i64>,
    /// Wall-clock time when no more was begun, or now.
    pub end_wall_s: Option<i64>,
    /// What users do, in which shares.
    pub shares: Vec<ClassShare>,
    /// What was said, oldest first.
    pub logs: Vec<String>,
}
