//! What a load run came to: the document of `perfkit load`, as plain data.
//!
//! Times are ms, rates a second, shares percent. `None` means not measured. Field names are those of the JSON contract.

use serde::{Deserialize, Serialize};

/// A load run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadReport {
    /// Counts of the run.
    pub totals: Totals,
    /// From when requests were due to their last byte.
    pub latency_ms: Spread,
    /// From sending to the last byte.
    pub service_ms: Spread,
    /// From when a scheduled request could have been sent to when it was: the generator's own delay.
    pub lag_ms: Spread,
    /// From sending to the first byte.
    pub first_byte_ms: Spread,
    /// From sending to the first event of a stream, where there are streams.
    pub first_token_ms: Option<Spread>,
    /// Each endpoint, in the order of method and name.
    pub by_name: Vec<Endpoint>,
    /// What failed, most frequent first.
    pub errors: Vec<ErrorRow>,
    /// What a locustfile raised and did not catch.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<ExceptionRow>,
    /// What the run is graded by.
    pub targets: Vec<Graded>,
    /// Why the numbers are less than they should be; empty when they are not.
    pub marks: Vec<String>,
    /// What drove: `closed` or `open`.
    pub model: String,
    /// The parts of the run, where they are known from its recording.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PhaseRow>,
    /// Why the run ended before its time, where a rule of `--stop-on` ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// How it compares with an earlier run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Comparison>,
    /// Latencies of all together at [`LOCUST_PERCENTILES`].
    #[serde(skip)]
    pub percentiles: Vec<Option<f64>>,
}

impl LoadReport {
    /// All endpoints together as one, under the name that Locust gives it.
    pub fn aggregated(&self) -> Endpoint {
        Endpoint {
            name: "Aggregated".to_owned(),
            requests: self.totals.requests,
            failures: self.totals.failures,
            rps: self.totals.rps,
            latency_ms: self.latency_ms,
            service_ms: self.service_ms,
            bytes: self.totals.bytes,
            percentiles: self.percentiles.clone(),
            ..Endpoint::default()
        }
    }
}

/// Counts of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Requests that ended, failures among them.
    pub requests: u64,
    /// Requests that failed.
    pub failures: u64,
    /// Requests a second, over `duration_s`.
    pub rps: f64,
    /// From the start until no more was begun.
    pub duration_s: f64,
    /// Arrivals that the schedule has; open model.
    pub arrivals_asked: Option<u64>,
    /// Arrivals that were begun; open model.
    pub arrivals_made: Option<u64>,
    /// Requests under way when the run was ended.
    pub unfinished: u64,
    /// Content received, bytes.
    pub bytes: u64,
    /// Users (open model: tasks) at the same time, at most.
    pub peak_users: u32,
    /// Connections that were opened.
    pub connections: u64,
    /// Threads that drove.
    pub threads: u32,
    /// Where chance began.
    pub seed: u64,
    /// CPU time of the generator, user and system, seconds.
    pub cpu_s: Option<f64>,
}

/// How times are spread, ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spread {
    /// The mean.
    pub mean: Option<f64>,
    /// The shortest.
    pub min: Option<f64>,
    /// The median.
    pub p50: Option<f64>,
    /// Three of four are shorter.
    pub p75: Option<f64>,
    /// Nine of ten are shorter.
    pub p90: Option<f64>,
    /// 95 % are shorter.
    pub p95: Option<f64>,
    /// 99 % are shorter.
    pub p99: Option<f64>,
    /// 99.9 % are shorter.
    pub p99_9: Option<f64>,
    /// The longest.
    pub max: Option<f64>,
}

/// Percentiles that Locust's files have beside those of [`Spread`]: 66, 80, 98, 99.99 and 100, and those again.
pub const LOCUST_PERCENTILES: [f64; 11] = [50.0, 66.0, 75.0, 80.0, 90.0, 95.0, 98.0, 99.0, 99.9, 99.99, 100.0];

/// An endpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// The method.
    pub method: String,
    /// Its name.
    pub name: String,
    /// Requests that ended.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Requests a second.
    pub rps: f64,
    /// Latency.
    pub latency_ms: Spread,
    /// Service time.
    pub service_ms: Spread,
    /// Time to the first byte.
    pub first_byte_ms: Spread,
    /// Time to the first event, where it streams.
    pub first_token_ms: Option<Spread>,
    /// Events of streams.
    pub events: u64,
    /// Content received, bytes.
    pub bytes: u64,
    /// How often each status came.
    pub statuses: Vec<(u16, u64)>,
    /// Latencies at [`LOCUST_PERCENTILES`].
    #[serde(skip)]
    pub percentiles: Vec<Option<f64>>,
}

/// A failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorRow {
    /// The method.
    pub method: String,
    /// The endpoint's name.
    pub name: String,
    /// What happened, the message of its first time.
    pub error: String,
    /// Of what kind: `refused`, `reset`, `closed`, `timeout`, `tls`, `protocol`, `status`, `check`, …
    pub kind: String,
    /// How often.
    pub count: u64,
    /// When first, ms since the start of the run.
    pub first_ms: u64,
    /// When last.
    pub last_ms: u64,
}

/// An exception that a locustfile did not catch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExceptionRow {
    /// How often.
    pub count: u64,
    /// What it says.
    pub message: String,
    /// Where it was raised.
    pub traceback: String,
}

/// A target with its grade.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Graded {
    /// The endpoint; `None` for all.
    pub name: Option<String>,
    /// What is measured: `p95`, `rps`, `errors`.
    pub metric: String,
    /// The value; `None` when nothing was measured.
    pub value: Option<f64>,
    /// What it should be.
    pub target: f64,
    /// What would still do.
    pub acceptable: Option<f64>,
    /// `ms`, `/s` or `%`.
    pub unit: String,
    /// Whether larger is better.
    pub above: bool,
    /// The grade.
    pub grade: Grade,
}

/// Where a part of a run begins.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PhaseRow {
    /// When, seconds since the start.
    pub at_s: f64,
    /// What: `ramp`, `steady`, `stop`, or why the run ended early.
    pub phase: String,
}

/// A run beside an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Comparison {
    /// The earlier run, as it was named.
    pub baseline: String,
    /// How it was decided what is significant, in words.
    pub method: String,
    /// What must be known to read the rest: the runs were not driven alike, endpoints are new or gone.
    pub remarks: Vec<String>,
    /// Everything that was compared; what changed comes first, the worst first.
    pub changes: Vec<Change>,
}

impl Comparison {
    /// Whether anything got worse.
    pub fn is_regression(&self) -> bool {
        self.changes.iter().any(|c| c.verdict == Verdict::Worse)
    }

    /// How many changes have this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.changes.iter().filter(|c| c.verdict == verdict).count()
    }
}

/// A number of both runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// The endpoint, `METHOD name`; `None` for all together.
    pub name: Option<String>,
    /// What was measured: `p50`, `p95`, `p99`, `rps`, `errors`.
    pub metric: String,
    /// `ms`, `/s` or `%`.
    pub unit: String,
    /// Its value in the earlier run.
    pub before: f64,
    /// Its value in this one.
    pub after: f64,
    /// The change: percent of the earlier value, for errors percentage points; `None` where there was nothing before.
    pub change: Option<f64>,
    /// Where the change lies with 99 % probability, where that could be estimated.
    pub between: Option<(f64, f64)>,
    /// What to make of it.
    pub verdict: Verdict,
}

/// What a change means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Significantly worse.
    Worse,
    /// Significantly better.
    Better,
    /// No significant change.
    #[default]
    Same,
}

/// How well a target was met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Target,
    /// As it may be.
    Acceptable,
    /// Worse.
    #[default]
    Missed,
}

/// A second of the run, for curves and history files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Second {
    /// Its end, seconds since the start.
    pub at_s: f64,
    /// Users at its end.
    pub users: u32,
    /// Requests that ended in it.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Content received in it, bytes.
    pub bytes: u64,
    /// The median latency in it, ms.
    pub p50_ms: Option<f64>,
    /// The 95th percentile.
    pub p95_ms: Option<f64>,
    /// The 99th.
    pub p99_ms: Option<f64>,
    /// The longest generator lag in it, ms.
    pub lag_max_ms: f64,
}
