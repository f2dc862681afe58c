//! Recordings of load runs: alone, and beside a CPU measurement on the same clock.

use std::path::Path;

use perfkit::record::requests::decode;
use rusqlite::Connection;
use serde_json::Value;

use super::load;
use super::server::{Reply, Server, ok};
use crate::rig::{is_root, run, skip};

/// Requests of all windows, those that their histograms hold, and the report that lies beside them.
fn recorded(path: &Path) -> (u64, u64, Value, Connection) {
    let db = Connection::open(path).unwrap();
    let mut query = db.prepare("select requests, latency from request_window").unwrap();
    let rows = query.query_map([], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, Vec<u8>>(1)?))).unwrap();
    let (mut requests, mut held) = (0, 0);
    for row in rows {
        let (n, latency) = row.unwrap();
        requests += n as u64;
        held += decode(&latency).unwrap().iter().map(|(_, n)| n).sum::<u64>();
    }
    let text: String = db.query_row("select value from meta where key = 'load_report'", [], |r| r.get(0)).unwrap();
    let report = serde_json::from_str(&text).unwrap();
    drop(query);
    (requests, held, report, db)
}

fn marks(db: &Connection) -> Vec<(i64, String)> {
    let mut query = db.prepare("select at_ns, text from mark order by at_ns").unwrap();
    let rows = query.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

#[test]
fn a_recorded_run_has_every_request_and_its_phases() {
    let server = Server::start(|r| {
        Reply::Keep(if r.target == "/x" {
            ok("", "")
        } else {
            b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_vec()
        })
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.perfkit");
    let name = path.to_str().unwrap();
    let url = format!("{}/y", server.url());
    let ran = load(&[&url, "-u", "10", "-r", "20", "-t", "1s", "-o", name, "--fail-on", "never"]);
    let (requests, held, report, db) = recorded(&path);
    assert_eq!((requests, held), (ran.count("requests"), ran.count("requests")), "{}", ran.stderr);
    assert_eq!(report["totals"], ran.report["totals"]);
    assert_eq!(requests as usize, server.requests().len());
    let failed: i64 =
        db.query_row("select sum(count) from request_error where kind = 'status'", [], |r| r.get(0)).unwrap();
    assert_eq!(failed as u64, requests);
    let texts: Vec<String> = marks(&db).into_iter().map(|(_, t)| t).collect();
    assert_eq!(texts, ["load: ramp", "load: steady", "load: stop"]);
    // A run that cannot begin leaves the older recording as it was.
    let kept = std::fs::read(&path).unwrap();
    let lost = load(&["http://no-such-host.invalid/", "-t", "1s", "-o", name, "--force"]);
    assert!(lost.code == 3 && std::fs::read(&path).unwrap() == kept, "{}", lost.stderr);
    let again = load(&[&url, "-t", "1s", "-o", name]);
    assert!(again.code == 2 && again.stderr.contains("--force"), "{}", again.stderr);
}

#[test]
fn live_load_beside_cpu_lies_in_the_same_recording() {
    if !is_root() {
        let _ = skip("root");
        return;
    }
    let server = Server::start(|_| Reply::Keep(ok("", "")));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.perfkit");
    let me = std::process::id().to_string();
    let words = format!("{}/x -u 4 -r 1000 --headless", server.url());
    let out = run(["cpu", "--pid", &me, "-d", "1500ms", "-o", path.to_str().unwrap(), "--load", &words]).expect(0);
    assert!(out.stderr.contains("the load beside it") && out.stderr.contains("GET     /x"), "{}", out.stderr);
    let (requests, held, report, db) = recorded(&path);
    assert_eq!((requests, Some(requests)), (held, report["totals"]["requests"].as_u64()));
    assert_eq!(requests as usize, server.requests().len());
    let samples: i64 = db.query_row("select count(*) from sample", [], |r| r.get(0)).unwrap();
    assert!(samples > 0 && requests > 100, "{samples} samples, {requests} requests");
    let ours: f64 = db
        .query_row("select max(value) - min(value) from reading where metric = 'self.cpu_ns'", [], |r| r.get(0))
        .unwrap();
    // Four users without a pause keep a thread of the generator busy; that is no cost of measuring.
    let drove = report["totals"]["cpu_s"].as_f64().unwrap() * 1e9;
    assert!(ours < drove / 2.0, "perfkit {ours:.2e} ns, the load beside it {drove:.2e} ns");
    let marks = marks(&db);
    let at =
        |text: &str| marks.iter().find(|(_, t)| t.starts_with(text)).unwrap_or_else(|| panic!("{text} in {marks:?}")).0;
    assert!(at("sampling by") <= at("load: ") && at("load: stop") > at("sampling by"));
    let bad = run(["cpu", "--pid", &me, "-d", "1", "--load", "world --nonsense"]).expect(2);
    assert!(bad.stderr.contains("--nonsense"), "{}", bad.stderr);
}
