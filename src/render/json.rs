//! The result of `perfkit cpu` as one JSON document: the contract's fields first, then what else is known.
//!
//! Percentages are of the profile's whole time. What was not measured is `null`, never 0.

use std::io::{self, Write};

use serde::Serialize;

use super::facts;
use crate::analysis::{FunctionRow, Profile, ThreadRow};

#[derive(Serialize)]
struct Document<'a> {
    samples: u64,
    lost: u64,
    duration_s: f64,
    rate_hz: Option<f64>,
    sampler: Option<&'a str>,
    functions: Vec<Function<'a>>,
    threads: Vec<Thread<'a>>,
    self_cost: Cost,
    clock: &'static str,
    title: String,
    weight_s: f64,
    achieved_hz: Option<f64>,
    cores_used: Option<f64>,
    steal_pct: Option<f64>,
    bound_of_1_pct_pp: Option<f64>,
    quality: Quality,
    reasons: Vec<Reason>,
    losses: Vec<Loss<'a>>,
    processes: Vec<Process<'a>>,
    from_s: f64,
    to_s: f64,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the contract")]
struct Function<'a> {
    pid: u32,
    function: &'a str,
    file: Option<&'a str>,
    line: Option<u32>,
    first_line: Option<u32>,
    kind: &'static str,
    self_pct: f64,
    total_pct: f64,
    self_samples: u64,
    total_samples: u64,
    self_s: f64,
    total_s: f64,
    path: Option<&'a str>,
    module: Option<&'a str>,
}

#[derive(Serialize)]
struct Thread<'a> {
    pid: u32,
    tid: u32,
    name: &'a str,
    samples: u64,
    share_pct: f64,
    on_cpu_s: Option<f64>,
    off_cpu_s: Option<f64>,
    runnable_s: Option<f64>,
    active_s: Option<f64>,
    reasons: Vec<Reason>,
}

#[derive(Serialize)]
struct Reason {
    reason: &'static str,
    seconds: f64,
}

#[derive(Serialize)]
struct Cost {
    cpu_pct_of_one_core: Option<f64>,
    rss_bytes: Option<u64>,
    anon_bytes: Option<u64>,
    bpf_pct_of_one_core: Option<f64>,
    bpf_ns_per_run: Option<f64>,
}

#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "raw numbers carry their unit in the name")]
struct Quality {
    python_pct: Option<f64>,
    rooted_pct: Option<f64>,
    merged_pct: Option<f64>,
    truncated_pct: Option<f64>,
    approximate_pct: Option<f64>,
    unnamed_frames_pct: Option<f64>,
}

#[derive(Serialize)]
struct Loss<'a> {
    source: &'a str,
    why: &'a str,
    count: u64,
}

#[derive(Serialize)]
struct Process<'a> {
    pid: u32,
    name: &'a str,
    exe: &'a str,
    runtime: &'a str,
    samples: u64,
    share_pct: f64,
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// Nanoseconds as seconds, to the microsecond.
fn seconds(ns: u64) -> f64 {
    rounded(ns as f64 / 1e9, 6)
}

fn reasons(rows: &[(&'static str, u64)]) -> Vec<Reason> {
    rows.iter().map(|&(reason, ns)| Reason { reason, seconds: seconds(ns) }).collect()
}

fn function<'a>(profile: &'a Profile<'_>, row: &FunctionRow) -> Function<'a> {
    let key = profile.frames.function(row.function);
    Function {
        pid: profile.recording.process(row.process).pid,
        function: &key.function,
        file: key.file.as_deref(),
        line: row.line,
        first_line: key.first_line,
        kind: key.kind.name(),
        self_pct: rounded(profile.pct(row.self_ns), 3),
        total_pct: rounded(profile.pct(row.total_ns), 3),
        self_samples: row.self_samples,
        total_samples: row.total_samples,
        self_s: seconds(row.self_ns),
        total_s: seconds(row.total_ns),
        path: key.path.as_deref(),
        module: key.module.as_deref(),
    }
}

fn thread<'a>(profile: &'a Profile<'_>, row: &ThreadRow) -> Thread<'a> {
    let t = profile.recording.thread(row.thread);
    Thread {
        pid: profile.recording.process(t.process).pid,
        tid: t.tid,
        name: &t.name,
        samples: row.samples,
        share_pct: rounded(profile.pct(row.total_ns()), 3),
        on_cpu_s: row.on_cpu_ns.map(seconds),
        off_cpu_s: row.off_cpu_ns.map(seconds),
        runnable_s: row.runnable_ns.map(seconds),
        active_s: row.active_ns.map(seconds),
        reasons: reasons(&row.reasons),
    }
}

/// Writes `profile` as JSON, on one line with a newline behind it.
pub(super) fn write(profile: &Profile<'_>, mut out: &mut dyn Write) -> io::Result<()> {
    let round = |v: Option<f64>| v.map(|v| rounded(v, 3));
    let (cost, quality, start) = (&profile.self_cost, &profile.quality, profile.recording.started());
    let document = Document {
        samples: profile.samples,
        lost: profile.lost,
        duration_s: seconds(profile.window.length().0),
        rate_hz: profile.rates.asked_hz,
        sampler: profile.sampler(),
        functions: profile.functions.iter().map(|row| function(profile, row)).collect(),
        threads: profile.threads.iter().map(|row| thread(profile, row)).collect(),
        self_cost: Cost {
            cpu_pct_of_one_core: round(cost.cpu_pct_of_one_core),
            rss_bytes: cost.rss_bytes,
            anon_bytes: cost.anon_bytes,
            bpf_pct_of_one_core: round(cost.bpf_pct_of_one_core),
            bpf_ns_per_run: round(cost.bpf_ns_per_run),
        },
        clock: profile.clock.type_name(),
        title: facts::title(profile),
        weight_s: seconds(profile.weight_ns),
        achieved_hz: round(profile.rates.achieved_hz),
        cores_used: round(profile.rates.cores_used),
        steal_pct: round(profile.rates.steal_pct),
        bound_of_1_pct_pp: round(profile.rates.bound_of_1_pct),
        quality: Quality {
            python_pct: round(quality.python_pct()),
            rooted_pct: round(quality.rooted_pct()),
            merged_pct: round(quality.merged_pct()),
            truncated_pct: round(quality.truncated_pct()),
            approximate_pct: round(quality.approximate_pct()),
            unnamed_frames_pct: round(quality.unnamed_pct()),
        },
        reasons: reasons(&profile.reasons),
        losses: profile.losses.iter().map(|l| Loss { source: &l.source, why: &l.why, count: l.count }).collect(),
        processes: profile
            .processes
            .iter()
            .map(|row| {
                let p = profile.recording.process(row.process);
                let share_pct = rounded(profile.pct(row.weight_ns), 3);
                Process { pid: p.pid, name: &p.name, exe: &p.exe, runtime: &p.runtime, samples: row.samples, share_pct }
            })
            .collect(),
        from_s: seconds(profile.window.from.since(start)),
        to_s: seconds(profile.window.to.since(start)),
    };
    serde_json::to_writer(&mut out, &document)?;
    writeln!(out)
}
