//! `perfkit mem` on programs that know what they hold.
//!
//! Tolerance: each kind within 3 % or 3 MB of what the program says; the parts add up to RSS within 1 %.

use std::process::Command;

use serde_json::Value;

use crate::rig::{Target, perfkit, run};

const MB: f64 = 1e6;

fn close(what: &str, found: f64, truth: f64) {
    assert!((found - truth).abs() < (truth * 0.03).max(3.0 * MB), "{what}: {found}, not {truth}");
}

fn part(doc: &Value, name: &str) -> f64 {
    let parts = doc["rss"]["parts"].as_array().unwrap();
    parts.iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("no {name}: {doc}"))["bytes"].as_f64().unwrap()
}

fn process(doc: &Value, pid: u64) -> &Value {
    doc["processes"].as_array().unwrap().iter().find(|p| p["pid"] == pid).unwrap_or_else(|| panic!("no {pid}: {doc}"))
}

#[test]
fn live_mem_every_kind_has_its_size() {
    let target = Target::native("truth/kinds.c").start();
    let (pid, truth) = (target.pid().to_string(), target.ready().clone());
    let doc = run(["mem", "--pid", &pid, "-d", "1", "--json", "-q"]).expect(0).json();
    for kind in ["heap", "anonymous", "shmem", "file_private", "file", "arenas", "stacks"] {
        // Of files there are libc and the program, of which more than 3 MB can be resident.
        let own = if kind == "file" { 2.0 * MB } else { 0.0 };
        close(kind, part(&doc, kind), truth[kind].as_f64().unwrap() + own);
    }
    let (end, rest) = (&doc["rss"]["end_bytes"], &doc["rss"]["unexplained_bytes"]);
    assert!(rest.as_f64().unwrap().abs() < end.as_f64().unwrap() * 0.01, "{rest} of {end}");
    assert_eq!(process(&doc, u64::from(target.pid()))["threads"], 2);
    assert!(target.is_untouched());
}

#[test]
fn live_mem_a_family_shares_and_each_has_its_own() {
    let target = Target::native("truth/kinds.c").start();
    let (pid, truth) = (target.pid(), target.ready().clone());
    let doc = run(["mem", "--pid", &pid.to_string(), "-s", "-d", "1", "--json", "-q"]).expect(0).json();
    let child = process(&doc, truth["child"].as_u64().unwrap());
    close("the child's own", child["uss"]["end_bytes"].as_f64().unwrap(), truth["child_own"].as_f64().unwrap());
    let parent = process(&doc, u64::from(pid));
    // The main heap, the large mapping and the written file pages are both's, half of each.
    let both = ["heap", "anonymous", "file_private"].iter().map(|k| truth[*k].as_f64().unwrap()).sum::<f64>();
    let saved = parent["rss"]["end_bytes"].as_f64().unwrap() - parent["pss"]["end_bytes"].as_f64().unwrap();
    // Shared memory and files may or may not be in the child's page tables: fork leaves them to be faulted in.
    assert!(saved > both / 2.0 * 0.97, "{saved} of {both}");
    assert!(target.is_untouched());
}

#[test]
fn live_mem_ends_with_its_target_and_keeps_what_it_saw() {
    let dir = tempfile::tempdir().unwrap();
    let recording = dir.path().join("a.perfkit");
    let dat = dir.path().join("a.dat");
    let script = "import sys; kept = bytearray(b'x' * (30 << 20)); sys.stdin.read(); sys.exit(7)";
    let mut command = Command::new(perfkit());
    command.args(["mem", "-q", "-o"]).arg(&recording).arg("-o").arg(&dat);
    command.args(["--", "python3", "-c", script]).stdin(std::process::Stdio::piped());
    let mut run = command.spawn().unwrap();
    crate::rig::wait_until("a recording", std::time::Duration::from_secs(20), || {
        // Read-only: an open that makes the file would take perfkit's place.
        rusqlite::Connection::open_with_flags(&recording, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
            .and_then(|db| db.query_row("SELECT max(value) FROM reading WHERE metric='mem.rss'", [], |r| r.get(0)))
            .is_ok_and(|rss: f64| rss > 31.0 * MB)
    });
    drop(run.stdin.take());
    assert_eq!(run.wait().unwrap().code(), Some(7));
    let text = std::fs::read_to_string(&dat).unwrap();
    assert!(text.starts_with("CMDLINE python3 -c") && text.lines().skip(1).all(|l| l.starts_with("MEM ")), "{text}");
}

#[test]
fn live_mem_refuses_what_it_cannot_do() {
    run(["mem", "--pid", "1", "-o", "/nonexistent/x.svg"]).expect(2);
    run(["mem", "--pid", "1", "-o", "x.html"]).expect(2);
    run(["mem", "--pid", "1", "--interval", "1ms"]).expect(2);
    run(["mem", "--pid", "4194305"]).expect(3);
}
