//! The result as one JSON document, as CLI.md has it.

use serde_json::{Value, json};

use super::MemOptions;
use crate::analysis::memory::{Judged, MemoryView, Suspect};
use crate::error::{Error, Kind, Result};
use crate::record::series as names;

pub(super) fn json(view: &MemoryView, judged: &Judged, options: &MemOptions) -> Result<String> {
    let ends = view.ends();
    let (parts, unexplained) = view.parts();
    let whole = |v: f64| v.round() as i64;
    let per_request = options.requests.filter(|n| *n > 0).zip(ends).map(|(n, (a, b))| (b - a) / n as f64);
    let last = |metric: &str| view.cgroup.get(metric).and_then(|p| p.last()).map(|p| whole(p.1));
    let processes: Vec<Value> = view
        .processes
        .iter()
        .map(|p| {
            let ends = |metric| {
                let points = p.points(metric);
                json!({ "start_bytes": points.first().map(|p| whole(p.1)), "end_bytes": points.last().map(|p| whole(p.1)) })
            };
            let last = |metric| p.points(metric).last().map(|p| whole(p.1));
            json!({
                "pid": pid(&p.scope), "scope": p.scope, "name": p.name,
                "began_s": p.began().map(|t| view.seconds(t)), "ended_s": p.ended().map(|t| view.seconds(t)),
                "rss": ends(names::RSS), "pss": ends(names::PSS), "uss": ends(names::USS),
                "swap_bytes": last(names::SWAP), "page_tables_bytes": last(names::PAGE_TABLES),
                "threads": last(names::THREADS), "fds": last(names::FDS), "mappings": last(names::MAPPINGS),
                "arenas": last(names::ARENA_COUNT),
            })
        })
        .collect();
    let document = json!({
        "pid": view.processes.first().and_then(|p| pid(&p.scope)),
        "verdict": judged.verdict, "kind": judged.kind, "confidence": judged.confidence, "decides": judged.decides,
        "evidence": judged.evidence,
        "duration_s": view.seconds(view.end),
        "rss": {
            "start_bytes": ends.map(|e| whole(e.0)), "end_bytes": ends.map(|e| whole(e.1)),
            "slope_bytes_per_s": view.slope(), "slope_ci": judged.slope_ci.map(|(lo, hi)| [lo, hi]),
            "bytes_per_request": per_request,
            "parts": parts.iter().map(|p| json!({ "name": p.name, "bytes": whole(p.bytes) })).collect::<Vec<_>>(),
            "unexplained_bytes": whole(unexplained),
            "reclaimable_bytes": judged.reclaimable_bytes.map(whole),
        },
        "cgroup": { "memory_bytes": last(names::CGROUP_MEMORY), "limit_bytes": last(names::CGROUP_LIMIT),
                    "oom_kills": last(names::CGROUP_OOM_KILLS) },
        "processes": processes,
        "lost_ticks": view.lost,
        "suspects": judged.suspects.iter().map(suspect).collect::<Vec<_>>(),
    });
    let text = serde_json::to_string_pretty(&document)
        .map_err(|e| Error::new(Kind::Bug, "the result cannot be written as JSON").caused_by(e))?;
    Ok(text + "\n")
}

fn suspect(s: &Suspect) -> Value {
    json!({
        "rank": s.rank, "kind": s.kind, "name": s.name, "growth_bytes_per_s": s.growth_bytes_per_s,
        "growth_count_per_s": s.growth_count_per_s, "path": s.path, "evidence": s.evidence,
    })
}

fn pid(scope: &str) -> Option<u32> {
    scope.split('#').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::memory::tests::{blamed, grown};

    #[test]
    fn the_document_has_what_is_promised() {
        let options = MemOptions { requests: Some(1000), ..MemOptions::default() };
        let doc: Value = serde_json::from_str(&json(&grown(), &blamed(), &options).unwrap()).unwrap();
        assert_eq!((&doc["pid"], &doc["verdict"], &doc["kind"]), (&json!(7), &json!("leak"), &json!("container-leak")));
        let rss = &doc["rss"];
        assert_eq!((&rss["end_bytes"], &rss["bytes_per_request"]), (&json!(110_000_000), &json!(10_000.0)));
        assert_eq!((&rss["reclaimable_bytes"], &rss["unexplained_bytes"]), (&json!(14_200_000), &json!(0)));
        let suspect = &doc["suspects"][0];
        assert_eq!((&suspect["rank"], &suspect["path"][1]), (&json!(1), &json!("REGISTRY")));
        assert_eq!(suspect["growth_count_per_s"], json!(1000.0));
    }
}
