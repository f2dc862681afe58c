//! What a run is judged by, and where the verdict goes: rules that end it, an earlier run, documents for CI, the slowest
//! requests, and the recording as a report.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::Value;

use super::server::{Reply, Server, ok, status};
use super::{Ran, load, scenario};
use crate::rig::{RUN_LIMIT, perfkit, run, run_command};

/// Due, sent, first byte and end, status, kind, message and name of a slow request.
type Row = ([i64; 4], i64, Option<String>, Option<String>, String);

/// Answers after so many µs; they can be changed while it runs.
fn paced(micros: Arc<AtomicU64>) -> Server {
    Server::start(move |_| {
        let until = Instant::now() + Duration::from_micros(micros.load(Ordering::SeqCst));
        // The pace of the server is what is tested.
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left);
        }
        Reply::Keep(ok("", "ab"))
    })
}

#[test]
fn a_rule_ends_the_run_orderly_and_says_why() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let server = Server::start(move |_| {
        let n = seen.fetch_add(1, Ordering::SeqCst);
        // Half of the answers fail from the hundredth on.
        Reply::Keep(if n > 100 && n.is_multiple_of(2) { status("500 No", "", "") } else { ok("", "") })
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.perfkit");
    let url = format!("{}/x", server.url());
    let words = ["--arrivals", "100/s", "-t", "60s", "--stop-on", "p99>50s", "--stop-on", "errors>40% for 1s", "-o"];
    let ran = load(&[&[url.as_str()], &words[..], &[path.to_str().unwrap()]].concat());
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    let why = ran.report["stopped"].as_str().unwrap();
    // The share is that of the moment it was looked at: 40 % or, on a busy machine, some 10 ms later, a little more.
    let share: f64 =
        why.strip_prefix("errors was ").and_then(|w| w.split_whitespace().next()).unwrap().parse().unwrap();
    assert!((40.0..52.0).contains(&share) && why.ends_with("(--stop-on 'errors>40% for 1s')"), "{why}");
    // 40 % of a second are reached 0.8 s after the errors began, and nothing is lost by ending early.
    let took = ran.report["totals"]["duration_s"].as_f64().unwrap();
    assert!((1.7..3.0).contains(&took), "{took}");
    assert_eq!(ran.count("requests") as usize, count.load(Ordering::SeqCst));
    assert_eq!(ran.count("arrivals_asked"), ran.count("arrivals_made"));
    let db = Connection::open(&path).unwrap();
    let marks: i64 = db
        .query_row("select count(*) from mark where text like 'load: ended early: errors was%'", [], |r| r.get(0))
        .unwrap();
    assert_eq!(marks, 1);
    let report = run(["report", path.to_str().unwrap()]).expect(0);
    assert!(report.stdout.contains("! the run was ended early: errors was "), "{}", report.stdout);
    // A rule that never holds changes nothing; one in the scenario does as one on the command line.
    let ran = load(&[&url, "--arrivals", "50/s", "-t", "1s", "--stop-on", "rps<1 for 500ms", "--fail-on", "never"]);
    assert!(is_good(ran.code) && ran.report["stopped"].is_null(), "{}", ran.stderr);
    let (_dir, path) = scenario(
        "[run]\nstop_on = [\"p50>10s for 200ms\", \"rps>10 for 500ms\"]\n[[user]]\nname = \"u\"\n[[user.task]]\nname = \"t\"\nsteps = [{ get = \"/x\" }]\n",
    );
    let ran = load(&[&path, "-H", &server.url(), "-u", "2", "-t", "60s"]);
    assert!(ran.code == 1 && ran.report["stopped"].as_str().unwrap().contains("rps>10 for 500ms"), "{}", ran.stderr);
    let (_dir, path) = scenario("[run]\nstop_on = \"errors over 5\"\n[[user]]\nname = \"u\"\n");
    let ran = load(&[&path]);
    assert!(
        ran.code == 2 && ran.stderr.contains("s.toml:2:11") && ran.stderr.contains("errors>5% for 10s"),
        "{}",
        ran.stderr
    );
}

/// Done, or done by a generator that was late because the machine was busy: that is not what is tested here.
fn is_good(code: i32) -> bool {
    matches!(code, 0 | 4)
}

fn verdicts(ran: &Ran, verdict: &str) -> Vec<String> {
    let changes = ran.report["baseline"]["changes"].as_array().unwrap_or_else(|| panic!("{}", ran.stderr));
    let of = |c: &Value| format!("{} {}", c["name"].as_str().unwrap_or("all"), c["metric"].as_str().unwrap());
    changes.iter().filter(|c| c["verdict"] == verdict).map(of).collect()
}

#[test]
fn live_a_run_is_compared_with_an_earlier_one() {
    let micros = Arc::new(AtomicU64::new(5000));
    let server = paced(Arc::clone(&micros));
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (before, json) = (file("before.perfkit"), file("before.json"));
    let url = format!("{}/x", server.url());
    let base = [url.as_str(), "--arrivals", "100/s", "-t", "10s"];
    let run = |more: &[&str]| load(&[&base[..], more].concat());
    let ran = run(&["-o", &before, "-o", &json]);
    assert!(is_good(ran.code), "{}", ran.stderr);
    // The same again: nothing changed, or not worth a word.
    let ran = run(&["--baseline", &before]);
    assert!(is_good(ran.code) && verdicts(&ran, "worse").is_empty(), "{} {}", ran.stderr, ran.report["baseline"]);
    assert!(
        ran.report["baseline"]["method"].as_str().unwrap().contains("block bootstrap over 10 and 10"),
        "{}",
        ran.report["baseline"]
    );
    // Twice as slow: the median is worse, in total and by endpoint; rate and errors are not.
    micros.store(10_000, Ordering::SeqCst);
    let ran = run(&["--baseline", &before]);
    let worse = verdicts(&ran, "worse");
    assert!(
        ran.code == 1 && worse.contains(&"all p50".to_owned()) && worse.contains(&"GET /x p50".to_owned()),
        "{worse:?}"
    );
    assert!(worse.iter().all(|w| !w.contains("rps") && !w.contains("errors")), "{worse:?}");
    let p50 = ran.report["baseline"]["changes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["metric"] == "p50" && c["name"].is_null());
    let change = p50.unwrap()["change"].as_f64().unwrap();
    assert!((60.0..130.0).contains(&change), "{change}");
    // By sums alone, in words, and without an exit code where none is wanted.
    let words =
        [&["load"], &base[..3], &["-t", "5s", "--headless", "--baseline", &json, "--fail-on", "never"]].concat();
    let out = crate::rig::run(words);
    assert!(is_good(out.code.unwrap()), "{out:?}");
    // Marks of a generator that was late may stand before it.
    let first = out.stdout.lines().find(|line| !line.starts_with('!')).unwrap();
    assert!(first.starts_with(&format!("against {json}: WORSE, in ")), "{}", out.stdout);
    for part in ["totals alone", "worse      all p50: ", " then, "] {
        assert!(out.stdout.contains(part), "{part} in {}", out.stdout);
    }
    // Another load is said to be one.
    let ran = load(&[&url, "--arrivals", "50/s", "-t", "1s", "--baseline", &before, "--fail-on", "never"]);
    assert!(
        ran.report["baseline"]["remarks"][0].as_str().unwrap().contains("100 arrivals/s then, 50 now"),
        "{}",
        ran.report["baseline"]
    );
    // What is no run is told before anything is sent.
    let nothing = file("nothing.json");
    fs::write(&nothing, "{}").unwrap();
    for bad in [nothing, file("none.perfkit"), url.clone()] {
        let ran = load(&[&url, "-t", "1s", "--baseline", &bad]);
        assert_eq!(ran.code, 2, "{bad}: {}", ran.stderr);
    }
}

/// `perfkit load WORDS` as in a GitHub job.
fn in_a_job(words: &[&str], summary: &std::path::Path) -> crate::rig::Output {
    let mut command = Command::new(perfkit());
    command.arg("load").args(words).env("GITHUB_STEP_SUMMARY", summary);
    run_command(command, RUN_LIMIT)
}

#[test]
fn documents_for_people_and_machines() {
    let server = Server::start(|r| Reply::Keep(if r.target == "/bad" { status("500 No", "", "") } else { ok("", "") }));
    let (_s, path) = scenario(
        "[[user]]\nname = \"u\"\nsequence = true\n[[user.task]]\nname = \"t\"\nsteps = [{ get = \"/<good>&\" }]\n\
         [[user.task]]\nname = \"b\"\nsteps = [{ get = \"/bad\" }]\n\
         [targets]\nall = [\"p95 < 60s\", \"errors < 1%\"]\n\"/bad\" = \"p50 < 60s\"\n",
    );
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let summary = dir.path().join("summary.md");
    fs::write(&summary, "# before\n").unwrap();
    let (json, csv, xml, own, text) = (file("x.json"), file("x.csv"), file("x.xml"), file("own.xml"), file("x.txt"));
    let words =
        [&path, "-H", &server.url(), "--arrivals", "100/s", "-u", "1", "-t", "1s", "--headless", "--json", "--github"]
            .map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let files = ["-o", &json, "-o", &csv, "-o", &xml, "-o", &text, "--junit", &own];
    let out = in_a_job(&[&words[..], &files[..]].concat(), &summary).expect(1);
    assert_eq!(fs::read_to_string(&json).unwrap(), out.stdout, "-o x.json is the document of --json");
    let csv = fs::read_to_string(&csv).unwrap();
    assert!(csv.starts_with("Type,Name,Request Count,Failure Count,") && csv.contains("GET,/bad,50,50,"), "{csv}");
    assert!(fs::read_to_string(&text).unwrap().contains("missed     errors 50.0 %"));
    let xml = fs::read_to_string(&xml).unwrap();
    assert_eq!(xml, fs::read_to_string(&own).unwrap());
    // Three targets and two endpoints, of which a target and an endpoint fail.
    assert!(xml.contains("tests=\"5\" failures=\"2\" errors=\"0\" skipped=\"0\""), "{xml}");
    for part in [
        "<testcase name=\"all errors\" classname=\"perfkit.load.target\" time=\"0.000000\"><failure message=\"errors 50.0 % (wanted &lt; 1.0 %)\"",
        "<testcase name=\"GET /&lt;good&gt;&amp;\" classname=\"perfkit.load.endpoint\"",
        "50 of 50 requests failed (100.0 %)",
        "50 times status: status 500",
    ] {
        assert!(xml.contains(part), "{part} in {xml}");
    }
    nested(&xml);
    let summary = fs::read_to_string(&summary).unwrap();
    assert!(summary.starts_with("# before\n## perfkit load: 1 of 3 targets missed"), "{summary}");
    assert!(summary.contains("| GET /bad | 50 | 50 |"), "{summary}");
    let commands: Vec<&str> = out.stderr.lines().filter(|l| l.starts_with("::error")).collect();
    assert_eq!(commands, ["::error title=perfkit load::target missed: errors 50.0 %25 (wanted < 1.0 %25)"]);
    // Outside of a job that is a mistake, and so are endings that mean nothing.
    let mut command = Command::new(perfkit());
    command.arg("load").args(&words).env_remove("GITHUB_STEP_SUMMARY");
    assert!(run_command(command, RUN_LIMIT).expect(2).stderr.contains("GITHUB_STEP_SUMMARY"));
    let ran = load(&[&path, "-H", &server.url(), "-t", "1s", "-o", &file("x.pdf")]);
    assert!(ran.code == 2 && ran.stderr.contains(".xml (JUnit)"), "{}", ran.stderr);
}

/// Every element is closed by its own end, and the suite's parts come in the order that Ant's schema wants.
fn nested(xml: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut parts = Vec::new();
    for tag in xml.split('<').skip(2) {
        let name = tag.split(['>', ' ', '/']).find(|n| !n.is_empty()).unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{xml}");
        } else if !tag.contains("/>") {
            if open.last() == Some(&"testsuite") && parts.last() != Some(&name) {
                parts.push(name);
            }
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert_eq!(parts, ["properties", "testcase", "system-out", "system-err"]);
}

#[test]
fn the_slowest_requests_are_kept_whole() {
    // Of a thousand requests ten are slow: every hundredth waits 60 ms, and of those one fails.
    let count = AtomicUsize::new(0);
    let slow: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&slow);
    let server = Server::start(move |r| {
        let n = count.fetch_add(1, Ordering::SeqCst) + 1;
        if n % 100 == 50 {
            log.lock().unwrap().push(r.target.clone());
            std::thread::park_timeout(Duration::from_millis(60));
        }
        Reply::Keep(if n == 550 { status("503 Busy", "", "") } else { ok("", "") })
    });
    let (dir, path) = scenario(
        "[[user]]\nname = \"u\"\n[[user.task]]\nname = \"t\"\nsteps = [{ get = \"/${counter()}\", as = \"/[n]\" }]\n",
    );
    let run_file = dir.path().join("run.perfkit");
    let (recording, csv) = (run_file.to_str().unwrap().to_owned(), dir.path().join("slowest.csv"));
    let words =
        ["--arrivals", "200/s", "-t", "5s", "--fail-on", "never", "-o", &recording, "--slowest", csv.to_str().unwrap()];
    let ran = load(&[&[path.as_str(), "-H", &server.url()], &words[..]].concat());
    assert_eq!((ran.count("requests"), slow.lock().unwrap().len()), (1000, 10), "{}", ran.stderr);
    let db = Connection::open(&run_file).unwrap();
    let mut query = db.prepare("select due_ns, sent_ns, first_ns, end_ns, status, kind, message, name from slow_request join endpoint on endpoint.id = endpoint order by due_ns").unwrap();
    let rows: Vec<Row> = query
        .query_map([], |r| {
            Ok(([r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?], r.get(4)?, r.get(5)?, r.get(6)?, r.get(7)?))
        })
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(rows.len(), 10, "one in a hundred");
    for ([due, sent, first, end], .., name) in &rows {
        assert!(due <= sent && sent <= first && first <= end && end - due >= 59_000_000, "{due} {sent} {first} {end}");
        assert_eq!(name, "/[n]");
    }
    let failed: Vec<_> = rows.iter().filter(|r| r.1 == 503).collect();
    assert_eq!(failed.len(), 1);
    assert_eq!((failed[0].2.as_deref(), failed[0].3.as_deref()), (Some("status"), Some("status 503")));
    // The same as CSV, then and later.
    let text = fs::read_to_string(&csv).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 11, "{text}");
    assert!(lines[0].starts_with("Timestamp,Due,Method,Name,Latency,Lag,Service,First Byte,Status"), "{text}");
    assert!(lines[1..].iter().all(|l| l.split(',').nth(4).unwrap().parse::<f64>().unwrap() >= 59.0), "{text}");
    let later = dir.path().join("slow-later.csv");
    run(["report", &recording, "-o", later.to_str().unwrap()]).expect(0);
    let later = fs::read_to_string(&later).unwrap();
    let tail = |t: &str| t.lines().map(|l| l.split_once(',').unwrap().1.to_owned()).collect::<Vec<_>>();
    assert_eq!(tail(&later), tail(&text));
    let table = run(["report", &recording]).expect(0).stdout;
    assert!(
        table.contains("slowest requests (10 are kept)") && table.contains("503    GET /[n]: status 503"),
        "{table}"
    );
}

#[test]
fn a_recording_shows_what_the_run_said() {
    let server = Server::start(|r| Reply::Keep(if r.target == "/b" { status("500 No", "", "") } else { ok("", "ab") }));
    let (dir, path) = scenario(
        "[[user]]\nname = \"u\"\nsequence = true\nwait = 0.01\n[[user.task]]\nname = \"a\"\nsteps = [{ get = \"/a\" }]\n\
         [[user.task]]\nname = \"b\"\nsteps = [{ get = \"/b\" }]\n",
    );
    let file = dir.path().join("run.perfkit");
    let recording = file.to_str().unwrap().to_owned();
    let ran =
        load(&[&path, "-H", &server.url(), "-u", "10", "-r", "10", "-t", "2s", "-o", &recording, "--fail-on", "never"]);
    let table = run(["report", &recording]).expect(0).stdout;
    for part in [
        "GET     /a",
        "errors",
        "500",
        "targets",
        "missed     errors",
        "phases: ramp at 0.0 s · steady at 1.0 s · stop at 2.0 s",
    ] {
        assert!(table.contains(part), "{part} in {table}");
    }
    let again = run(["report", &recording, "--json"]).expect(0).json();
    for part in ["totals", "targets", "errors", "marks", "model"] {
        assert_eq!(again[part], ran.report[part], "{part}");
    }
    let close = |a: &Value, b: &Value| (a.as_f64().unwrap() / b.as_f64().unwrap() - 1.0).abs() < 1e-9;
    assert!(close(&again["latency_ms"]["p99"], &ran.report["latency_ms"]["p99"]), "{again}");
    // Half of it, from the windows alone.
    let half = run(["report", &recording, "--json", "--from", "1s"]).expect(0).json();
    let (some, all) = (half["totals"]["requests"].as_u64().unwrap(), ran.count("requests"));
    assert!(some > all / 2 && some < all, "{some} of {all}");
    let rows = half["by_name"].as_array().unwrap();
    assert!(rows.iter().any(|r| r["name"] == "/b" && r["failures"] == r["requests"]), "{half}");
    let out = run(["report", &recording, "--from", "90s"]).expect(2);
    assert!(out.stderr.contains("nothing lies between"), "{}", out.stderr);
    // A recording that was cut has no report in it: counts and latencies are there all the same.
    let db = Connection::open(&file).unwrap();
    db.execute("delete from meta where key in ('load_report', 'ended_ns')", []).unwrap();
    db.execute("delete from mark where text = 'load: stop'", []).unwrap();
    drop(db);
    let cut = run(["report", &recording, "--json"]).expect(0).json();
    assert_eq!(
        (&cut["totals"]["requests"], &cut["totals"]["failures"]),
        (&ran.report["totals"]["requests"], &ran.report["totals"]["failures"])
    );
    let near = |p: &str| {
        let (a, b) = (cut["latency_ms"][p].as_f64().unwrap(), ran.report["latency_ms"][p].as_f64().unwrap());
        assert!((a / b - 1.0).abs() < 0.002, "{p}: {a} {b}");
    };
    for p in ["p50", "p95", "p99"] {
        near(p);
    }
    let table = run(["report", &recording]).expect(0).stdout;
    assert!(table.starts_with("! the recording was cut off"), "{table}");
    let csv = dir.path().join("x.csv");
    run(["report", &recording, "-o", csv.to_str().unwrap()]).expect(0);
    assert!(fs::read_to_string(csv).unwrap().contains("GET,/a,"));
    assert_eq!(run(["report", &recording, "-o", "x.svg"]).code, Some(2));
}

#[test]
fn a_run_that_is_killed_leaves_what_it_recorded() {
    let answered = Arc::new(AtomicBool::new(false));
    let server = Server::start(|_| Reply::Keep(status("503 No", "", "")));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.perfkit");
    let recording = file.to_str().unwrap().to_owned();
    let url = format!("{}/x", server.url());
    let mut child = Command::new(perfkit())
        .args(["load", &url, "--headless", "-q", "-u", "2", "-r", "100", "-o", &recording])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    crate::rig::wait_until("two seconds of windows", RUN_LIMIT, || {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let windows = Connection::open_with_flags(&file, flags)
            .and_then(|db| db.query_row("select count(*) from request_window", [], |r| r.get::<_, i64>(0)));
        answered.store(windows.is_ok_and(|n| n > 15), Ordering::SeqCst);
        answered.load(Ordering::SeqCst)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let cut = run(["report", &recording, "--json"]).expect(0).json();
    assert!(cut["totals"]["requests"].as_u64().unwrap() > 10 && cut["latency_ms"]["p50"].is_number(), "{cut}");
    // Why requests failed is kept as they are.
    let error = &cut["errors"][0];
    assert_eq!(
        (error["count"].as_u64(), cut["errors"].as_array().unwrap().len()),
        (cut["totals"]["failures"].as_u64(), 1)
    );
    assert!(error["error"].as_str().unwrap().contains("503"), "{error}");
    assert!(cut["marks"][0].as_str().unwrap().contains("cut off"), "{cut}");
}
