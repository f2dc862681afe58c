//! `perfkit mem` on services that leak, and on some that only look so.
//!
//! Truth: `tests/targets/leaks/service.py`, of which each shape says what it leaks and who holds it. Tolerance: none for the
//! kind and the culprit of what leaks; of the healthy ones none may be called a leak.

use std::thread;

use serde_json::Value;

use crate::rig::{Target, for_each_python, python, run};

const SERVICE: &str = "leaks/service.py";

/// What perfkit says of `shape` after `seconds`, beside what the service says itself.
fn judged(target: &Target, seconds: &str) -> (Value, Value) {
    let pid = target.pid().to_string();
    let doc = run(["mem", "--pid", &pid, "-d", seconds, "--json", "-q"]).expect(0).json();
    assert!(target.is_untouched());
    (target.ready().clone(), doc)
}

fn is_named(truth: &Value, doc: &Value) -> Result<(), String> {
    let shape = &truth["shape"];
    let told = || format!("{shape}: {}, {}, {:#}", doc["verdict"], doc["evidence"], doc["suspects"][0]);
    if doc["kind"] != truth["kind"] || doc["verdict"] != "leak" {
        return Err(format!("not {}: {}", truth["kind"], told()));
    }
    let first = &doc["suspects"][0];
    let words = first["path"].to_string() + &first["name"].to_string();
    let culprits = truth["culprit"].as_array().unwrap().iter().chain(truth["class"].as_str().map(|_| &truth["class"]));
    for culprit in culprits {
        let culprit = culprit.as_str().unwrap();
        if !words.contains(culprit) {
            return Err(format!("{culprit} is not named: {}", told()));
        }
    }
    Ok(())
}

#[test]
fn live_mem_names_what_leaks() {
    let shapes = ["registry", "unbounded_cache", "closure", "callbacks", "linked", "threads", "descriptors"];
    let python = python("3.11");
    let results: Vec<_> = thread::scope(|scope| {
        let start = |shape: &'static str| {
            let target = Target::python(python, SERVICE).args([shape, "300"]).start();
            scope.spawn(move || judged(&target, "25"))
        };
        let runs: Vec<_> = shapes.into_iter().map(start).collect();
        runs.into_iter().map(|r| r.join().unwrap()).collect()
    });
    let wrong: Vec<String> = results.iter().filter_map(|(truth, doc)| is_named(truth, doc).err()).collect();
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), results.len(), wrong.join("\n"));
}

#[test]
fn live_mem_is_silent_on_what_does_not_leak() {
    let python = python("3.11");
    thread::scope(|scope| {
        for shape in ["lru", "ring", "churn", "cycles", "idle"] {
            let target = Target::python(python, SERVICE).args([shape, "300"]).start();
            scope.spawn(move || {
                let (truth, doc) = judged(&target, "20");
                let kind = doc["kind"].as_str().unwrap();
                assert!(
                    !kind.ends_with("-leak"),
                    "{}: {kind}, {}, {:#}",
                    truth["shape"],
                    doc["evidence"],
                    doc["suspects"]
                );
            });
        }
    });
}

#[test]
fn live_mem_snapshot_names_what_has_leaked_before_on_every_python() {
    for_each_python(|python| {
        // Ten thousand of them before it is ready, and not one after.
        let target = Target::python(python, SERVICE).args(["ring", "0.001"]).start();
        let pid = target.pid().to_string();
        let doc = run(["mem", "--pid", &pid, "--snapshot", "--json", "-q"]).expect(0).json();
        let suspects = doc["suspects"].as_array().unwrap();
        let names: Vec<&str> = suspects.iter().filter_map(|s| s["name"].as_str()).collect();
        assert!(names.contains(&"__main__.base (list)"), "{names:?}");
        assert!(target.is_untouched());
    });
}

#[test]
fn live_mem_objects_refuses_what_is_no_python() {
    let target = Target::native("truth/kinds.c").start();
    let pid = target.pid().to_string();
    let out = run(["mem", "--pid", &pid, "-d", "4", "--objects", "--json", "-q"]).expect(4);
    assert!(out.stderr.contains("runs no CPython"), "{}", out.stderr);
}

#[test]
fn live_mem_report_says_what_the_run_said_and_takes_slices() {
    let dir = tempfile::tempdir().unwrap();
    let recording = dir.path().join("a.perfkit");
    let target = Target::python(python("3.11"), SERVICE).args(["registry", "300"]).start();
    let pid = target.pid().to_string();
    let of = recording.to_str().unwrap();
    let said = run(["mem", "--pid", &pid, "-d", "20", "--json", "-q", "-o", of]).expect(0).json();
    let told = run(["report", of, "--json", "-q"]).expect(0).json();
    assert_eq!((&told["verdict"], &told["kind"]), (&said["verdict"], &said["kind"]));
    assert_eq!(told["suspects"], said["suspects"]);
    assert_eq!(told["rss"], said["rss"]);
    let slice = run(["report", of, "--from", "-5s", "--json", "-q"]).expect(0).json();
    let seconds = slice["duration_s"].as_f64().unwrap();
    assert!((4.0..6.0).contains(&seconds), "{seconds}");
    assert_eq!(slice["verdict"], "unknown", "five seconds are too few: {}", slice["evidence"]);
    run(["report", of, "-o", of]).expect(2);
    run(["report", of, "--from", "10m"]).expect(2);
}
