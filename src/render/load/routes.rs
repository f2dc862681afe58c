//! The JSON of the web UI's routes: Locust's keys, so that what reads Locust reads this, and the page's own document.
//!
//! In: a [`LoadView`]. Out: documents. Times are ms and rates a second, as there. Percentiles are exact to three digits where
//! Locust rounds to two; keys that Locust does not have come after its own.

use serde_json::{Map, Value, json};

use crate::record::load::{Endpoint, LoadReport, Spread};
use crate::record::load_view::{ClassShare, LoadView, Rates, TaskShare};

/// Rows and errors in a document, as in Locust: more would only make a page slow.
const ROWS: usize = 500;

/// Seconds in a document; who has fewer of them asks again.
const SECONDS: usize = 5000;

/// `/stats/requests`.
pub fn requests_json(view: &LoadView) -> Value {
    let r = &view.report;
    let mut stats: Vec<Value> = r
        .by_name
        .iter()
        .take(ROWS)
        .enumerate()
        .map(|(i, e)| row(e, view.rates.get(i).copied().unwrap_or_default(), r))
        .collect();
    let all = r.aggregated();
    stats.push(row(&all, view.rate, r));
    let start = view.start_wall_s.unwrap_or(0) as f64;
    let errors: Vec<Value> = r
        .errors
        .iter()
        .take(ROWS)
        .map(|e| {
            json!({
                "method": e.method,
                "name": e.name,
                "error": e.error,
                "occurrences": e.count,
                "first_seen": start + e.first_ms as f64 / 1e3,
                "last_seen": start + e.last_ms as f64 / 1e3,
                "kind": e.kind,
            })
        })
        .collect();
    let t = &r.totals;
    let active = view.state.is_active();
    let recent = |i: usize| view.recent_ms.get(i).copied().flatten().filter(|_| active);
    json!({
        "stats": stats,
        "errors": errors,
        "current_rps": view.rate.requests,
        "current_fail_per_sec": view.rate.failures,
        "total_rps": t.rps,
        "total_fail_per_sec": per_second(t.failures, t.duration_s),
        "fail_ratio": if t.requests > 0 { t.failures as f64 / t.requests as f64 } else { 0.0 },
        "total_avg_response_time": r.latency_ms.mean.unwrap_or(0.0),
        "current_response_time_percentiles": {
            "response_time_percentile_0.5": recent(0),
            "response_time_percentile_0.95": recent(1),
            "response_time_percentile_0.99": recent(2),
        },
        "state": view.state.word(),
        "user_count": view.users,
        "workers": [],
        "worker_count": 0,
    })
}

fn per_second(n: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { n as f64 / seconds } else { 0.0 }
}

fn row(e: &Endpoint, now: Rates, r: &LoadReport) -> Value {
    let l: &Spread = &e.latency_ms;
    let ms = |v: Option<f64>| v.unwrap_or(0.0);
    let whole = |v: Option<f64>| v.unwrap_or(0.0).round() as u64;
    json!({
        "method": e.method,
        "name": e.name,
        "num_requests": e.requests,
        "num_failures": e.failures,
        "min_response_time": whole(l.min),
        "max_response_time": whole(l.max),
        "current_rps": now.requests,
        "current_fail_per_sec": now.failures,
        "avg_response_time": ms(l.mean),
        "median_response_time": ms(l.p50),
        "total_rps": e.rps,
        "total_fail_per_sec": per_second(e.failures, r.totals.duration_s),
        "response_time_percentile_0.95": ms(l.p95),
        "response_time_percentile_0.99": ms(l.p99),
        "response_time_percentile_0.999": ms(l.p99_9),
        "avg_content_length": if e.requests > 0 { e.bytes as f64 / e.requests as f64 } else { 0.0 },
        "avg_service_time": e.service_ms.mean,
        "min_response_time_ms": l.min,
        "max_response_time_ms": l.max,
    })
}

/// `/exceptions`.
pub fn exceptions_json(view: &LoadView) -> Value {
    let all: Vec<Value> = view
        .report
        .exceptions
        .iter()
        .map(|e| json!({ "count": e.count, "msg": e.message, "traceback": e.traceback, "nodes": "local" }))
        .collect();
    json!({ "exceptions": all })
}

/// `/tasks`: the shares of classes and tasks, within each class and in all.
pub fn tasks_json(view: &LoadView) -> Value {
    let classes = |total: bool| -> Map<String, Value> {
        let one = |c: &ClassShare| {
            let parent = if total { c.ratio } else { 1.0 };
            (c.name.clone(), json!({ "ratio": c.ratio, "tasks": tasks(&c.tasks, parent, total) }))
        };
        view.shares.iter().map(one).collect()
    };
    json!({ "per_class": classes(false), "total": classes(true) })
}

fn tasks(all: &[TaskShare], parent: f64, total: bool) -> Map<String, Value> {
    let mut map = Map::new();
    for t in all {
        let ratio = t.ratio * parent;
        let mut value = json!({ "ratio": ratio });
        if !t.tasks.is_empty() {
            value["tasks"] = Value::Object(tasks(&t.tasks, if total { ratio } else { 1.0 }, total));
        }
        map.insert(t.name.clone(), value);
    }
    map
}

/// `/logs`.
pub fn logs_json(view: &LoadView) -> Value {
    json!({ "master": view.logs, "workers": {} })
}

/// What the page asks for each second: [`requests_json`], what it shows beside that, and the seconds from number `from` of
/// run `run` on, some thousands at a time (`more` says that there are more).
pub fn page_json(view: &LoadView, run: u64, from: usize) -> Value {
    let from = if run == view.run { from } else { 0 };
    let r = &view.report;
    let mut all = requests_json(view);
    let rest = view.seconds.get(from..).unwrap_or_default();
    let seconds = rest.get(..SECONDS).unwrap_or(rest);
    let asked = &view.asked;
    all["run"] = view.run.into();
    all["from"] = from.into();
    all["seconds"] = json!(seconds);
    all["more"] = (rest.len() > seconds.len()).into();
    all["scenario"] = json!(view.scenario);
    all["asked"] = json!({
        "users": asked.users,
        "spawn_rate": asked.spawn_rate,
        "host": asked.host,
        "run_time_s": asked.run_time_ns.map(|ns| ns as f64 / 1e9),
        "schedule": asked.schedule,
        "classes": asked.classes,
    });
    all["classes"] = view.choices.iter().map(|c| {
        json!({ "name": c.name, "host": c.host, "weight": c.weight, "fixed_count": c.fixed_count, "tasks": c.tasks })
    }).collect();
    all["totals"] = json!(r.totals);
    all["model"] = json!(r.model);
    all["latency_ms"] = json!(r.latency_ms);
    all["service_ms"] = json!(r.service_ms);
    all["lag_ms"] = json!(r.lag_ms);
    all["lag_max_ms"] = json!(view.lag_max_ms);
    all["targets"] = json!(r.targets);
    all["marks"] = json!(r.marks);
    all["start_s"] = json!(view.start_wall_s);
    all["end_s"] = json!(view.end_wall_s);
    all["version"] = json!(env!("CARGO_PKG_VERSION"));
    all
}
