//! Bad weather on this side: no descriptors, no ports, no disk, names without end, Ctrl-C, and a server that stands still.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use nix::sys::signal::Signal;
use perfkit::record::requests::decode;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use super::server::{Reply, Server, ok, raw, request};
use super::weather_bodies::peak_rss;
use super::{Ran, scenario};
use crate::rig::{RUN_LIMIT, Target, is_root, perfkit, run_command, signal, skip};

const NEVER: &str = "--fail-on=never";

/// Runs a command whose standard output is a report.
fn report_of(command: Command) -> Ran {
    let out = run_command(command, RUN_LIMIT);
    let report = serde_json::from_str(&out.stdout).unwrap_or(Value::Null);
    Ran { code: out.code.unwrap_or(-1), report, stderr: out.stderr }
}

/// `perfkit load WORDS --json`, to be run or watched.
fn command(words: &[&str]) -> Command {
    let mut command = Command::new(perfkit());
    command.arg("load").args(words).arg("--json");
    command
}

/// Requests in the windows of a recording, those in their histograms, and failures by kind.
fn recorded(path: &Path) -> (u64, u64, u64) {
    let db = Connection::open(path).unwrap();
    let mut query = db.prepare("select requests, latency from request_window").unwrap();
    let rows = query.query_map([], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, Vec<u8>>(1)?))).unwrap();
    let (mut requests, mut held) = (0, 0);
    for row in rows {
        let (n, latency) = row.unwrap();
        requests += n as u64;
        held += decode(&latency).unwrap().iter().map(|(_, n)| n).sum::<u64>();
    }
    let failures: i64 = db.query_row("select coalesce(sum(count), 0) from request_error", [], |r| r.get(0)).unwrap();
    (requests, held, failures as u64)
}

#[test]
fn without_descriptors_the_rest_is_named_and_everything_is_written() {
    // Every connection is kept busy, so that each arrival needs one of its own.
    let port = raw(|stream, _| while request(&stream) {});
    let url = format!("http://127.0.0.1:{port}/x");
    let dir = tempfile::tempdir().unwrap();
    let (run, csv) = (dir.path().join("run.perfkit"), dir.path().join("c"));
    let limited = |words: &[&str]| {
        // Without the right to raise the limit, which root has.
        let mut command = Command::new(if is_root() { "setpriv" } else { "env" });
        if is_root() {
            command.args(["--bounding-set=-sys_resource", "--inh-caps=-sys_resource", "--"]);
        }
        command
            .args(["prlimit", "--nofile=96:96", "--"])
            .arg(perfkit())
            .args(["load", &url, "--json", NEVER])
            .args(words);
        report_of(command)
    };
    let ran = limited(&[
        "--arrivals",
        "300/s",
        "-t",
        "1s",
        "--timeout",
        "500ms",
        "-o",
        run.to_str().unwrap(),
        "--csv",
        csv.to_str().unwrap(),
    ]);
    assert_eq!(
        (ran.count("arrivals_asked"), ran.count("arrivals_made"), ran.count("requests")),
        (300, 300, 300),
        "{}",
        ran.stderr
    );
    let errors = ran.report["errors"].as_array().unwrap();
    let of =
        |kind: &str| errors.iter().filter(|e| e["kind"] == kind).map(|e| e["count"].as_u64().unwrap()).sum::<u64>();
    assert!(of("no-fd") > 0 && of("timeout") > 0 && of("no-fd") + of("timeout") == 300, "{errors:?}");
    assert!(errors.iter().any(|e| e["error"].as_str().unwrap().contains("ulimit -n")), "{errors:?}");
    assert_eq!(recorded(&run), (300, 300, 300));
    assert!(
        fs::read_to_string(format!("{}_failures.csv", csv.display())).unwrap().contains("no file descriptor is free")
    );
    // A number of users that cannot be is said before anything is sent.
    let ran = limited(&["-u", "200", "-r", "1000", "-t", "1s"]);
    assert!(ran.code == 2 && ran.stderr.contains("ulimit -n"), "{}", ran.stderr);
}

#[test]
fn without_ports_the_rest_is_named() {
    if !is_root() {
        let _ = skip("root to make a network of its own");
        return;
    }
    // A network of its own for this thread and what it starts.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let port = raw(|stream, _| while request(&stream) {});
    fs::write("/proc/thread-self/root/proc/sys/net/ipv4/ip_local_port_range", "40000 40019").unwrap();
    let url = format!("http://127.0.0.1:{port}/x");
    let ran = report_of(command(&[&url, "-u", "30", "-r", "1000", "-t", "300ms", "--timeout", "5s", "-s", "0", NEVER]));
    let (kind, message) = ran.error();
    assert!(kind == "no-port" && message.contains("ip_local_port_range"), "{kind} {message}\n{}", ran.stderr);
    assert_eq!(ran.count("unfinished"), 20, "{}", ran.report);
    // Ten users try again and again, but not in circles.
    assert!((10..1000).contains(&ran.count("failures")), "{}", ran.report);
}

/// Starts perfkit, sends it SIGINT once the server saw `after` requests, and takes what it wrote.
fn interrupted(words: &[&str], seen: &Mutex<Vec<super::server::Request>>, after: usize) -> (i32, Value) {
    let mut child = command(words).arg("-q").stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    crate::rig::wait_until("the first requests", RUN_LIMIT, || seen.lock().unwrap().len() >= after);
    signal(child.id(), Signal::SIGINT);
    let report = json_of(&mut child);
    (child.wait().unwrap().code().unwrap_or(-1), report)
}

fn json_of(child: &mut Child) -> Value {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut text).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn ctrl_c_in_the_ramp_and_in_steady_state_writes_everything() {
    let server = Server::start(|_| Reply::Keep(ok("", "")));
    let dir = tempfile::tempdir().unwrap();
    let url = format!("{}/x", server.url());
    for (name, users, phases) in [
        ("steady", "2", &["load: ramp", "load: steady", "load: stop"][..]),
        ("ramp", "1000", &["load: ramp", "load: stop"]),
    ] {
        server.seen.lock().unwrap().clear();
        let (run, csv) = (dir.path().join(format!("{name}.perfkit")), dir.path().join(name));
        let (run_name, csv_name) = (run.to_str().unwrap(), csv.to_str().unwrap());
        let words = [&url, "-u", users, "-r", "10", "--target", "p95 < 60s", "-o", run_name, "--csv", csv_name];
        let (code, report) = interrupted(&words, &server.seen, 3000);
        let requests = report["totals"]["requests"].as_u64().unwrap();
        assert!(matches!(code, 0 | 4), "{code} {report}");
        assert_eq!((requests as usize, report["totals"]["unfinished"].as_u64()), (server.requests().len(), Some(0)));
        assert_eq!(recorded(&run), (requests, requests, 0), "{name}");
        let db = Connection::open(&run).unwrap();
        let mut query = db.prepare("select text from mark where kind = 'phase' order by at_ns").unwrap();
        let marks: Vec<String> = query.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(marks, phases);
        let stats = fs::read_to_string(format!("{csv_name}_stats.csv")).unwrap();
        assert!(stats.contains(&format!("Aggregated,{requests},0,")), "{stats}");
    }
    // A target that was missed until then is missed.
    server.seen.lock().unwrap().clear();
    let (code, report) = interrupted(&[&url, "-u", "2", "--target", "rps > 9000000"], &server.seen, 100);
    assert!(code == 1 && report["targets"][0]["grade"] == "missed", "{code} {report}");
}

#[test]
fn a_disk_that_fills_costs_the_files_and_not_the_report() {
    if !is_root() {
        let _ = skip("root to mount a small disk");
        return;
    }
    let server = Server::start(|_| Reply::Keep(ok("", "")));
    let home = tempfile::tempdir().unwrap();
    let options = Some("size=512k");
    nix::mount::mount(None::<&str>, home.path(), Some("tmpfs"), nix::mount::MsFlags::empty(), options).unwrap();
    // Two hundred endpoints fill it within a second; the server tells when there was enough.
    let (_dir, path) = many_endpoints(200);
    let (run, csv) = (home.path().join("run.perfkit"), home.path().join("c"));
    let (run_name, csv_name) = (run.to_str().unwrap(), csv.to_str().unwrap());
    let url = server.url();
    let words = [&path, "-H", &url, "-u", "4", "-r", "1000", "-t", "5s", "-o", run_name, "--csv", csv_name, NEVER];
    let ran = report_of(command(&words));
    let requests = ran.count("requests");
    assert_eq!((ran.code, requests as usize, ran.count("failures")), (4, server.requests().len(), 0), "{}", ran.stderr);
    assert!(ran.stderr.contains("the disk is full"), "{}", ran.stderr);
    // What was written until then is there.
    let (kept, held, _) = recorded(&run);
    assert!(kept > 0 && kept == held && kept < requests, "{kept} {held} {requests}");
    nix::mount::umount2(home.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
}

/// A scenario of `n` endpoints, each once and then again.
fn many_endpoints(n: usize) -> (tempfile::TempDir, String) {
    let mut text = "[[user]]\nname = \"u\"\nsequence = true\n".to_owned();
    for i in 0..n {
        text.push_str(&format!("[[user.task]]\nname = \"t{i}\"\nsteps = [{{ get = \"/{i}\" }}]\n"));
    }
    scenario(&text)
}

#[test]
fn two_hundred_endpoints_are_kept_apart() {
    let server = Server::start(|_| Reply::Keep(ok("", "")));
    let (dir, path) = many_endpoints(200);
    let run = dir.path().join("run.perfkit");
    let ran = super::load(&[
        &path,
        "-H",
        &server.url(),
        "--arrivals",
        "1000/s",
        "-t",
        "1s",
        "-u",
        "1",
        "-o",
        run.to_str().unwrap(),
        NEVER,
    ]);
    // One seat that goes round: each endpoint five times.
    let rows = ran.report["by_name"].as_array().unwrap();
    assert_eq!((rows.len(), ran.count("requests")), (200, 1000), "{}", ran.stderr);
    assert!(rows.iter().all(|r| r["requests"] == 5), "{:?}", rows[0]);
    let db = Connection::open(&run).unwrap();
    let counts: i64 = db
        .query_row(
            "select count(*) from (select endpoint from request_window group by endpoint having sum(requests) = 5)",
            [],
            |r| r.get(0),
        )
        .unwrap();
    assert_eq!(counts, 200);
}

/// Requests under ever new names until there were `count`; the most memory the generator had, and its report.
fn peak_with(names: &str, count: usize) -> (u64, Value) {
    let (all, seen) = channel();
    let answered = std::sync::atomic::AtomicUsize::new(0);
    let port = raw_answers(move || {
        if answered.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1 == count {
            let _ = all.send(());
        }
    });
    let (_dir, path) = scenario(&format!(
        "[[user]]\nname = \"u\"\n[[user.task]]\nname = \"t\"\nsteps = [{{ get = \"/npc/${{counter()}}\", as = \"{names}\" }}]\n"
    ));
    let host = format!("http://127.0.0.1:{port}");
    let words = [&path, "-H", &host, "-u", "20", "-r", "1000", NEVER];
    let mut child = command(&words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    seen.recv_timeout(RUN_LIMIT).unwrap();
    let peak = peak_rss(child.id()).unwrap();
    signal(child.id(), Signal::SIGINT);
    let report = json_of(&mut child);
    child.wait().unwrap();
    (peak, report)
}

fn raw_answers(told: impl Fn() + Send + Sync + 'static) -> u16 {
    raw(move |mut stream, _| {
        while request(&stream) {
            told();
            if std::io::Write::write_all(&mut stream, &ok("", "")).is_err() {
                return;
            }
        }
    })
}

#[test]
fn a_hundred_thousand_urls_without_grouping_are_bounded_and_said() {
    let (few, _) = peak_with("/npc/[id]", 100_000);
    let (many, report) = peak_with("/npc/${counter()}", 100_000);
    assert_eq!(report["by_name"].as_array().unwrap().len(), 2001);
    let others = report["by_name"].as_array().unwrap().iter().find(|r| r["name"] == "(other names)").unwrap();
    assert_eq!(others["requests"].as_u64().unwrap() + 2000, report["totals"]["requests"].as_u64().unwrap());
    assert!(report["marks"].to_string().contains("group them"), "{}", report["marks"]);
    eprintln!("names: {:.1} MB grouped, {:.1} MB not", few as f64 / 1e6, many as f64 / 1e6);
    // Two thousand names with three histograms each.
    assert!(many - few < 200 << 20, "{few} {many}");
}

/// A server of its own that can be stopped: it answers at once, whatever is asked.
fn stoppable() -> Target {
    Target::native("../../scripts/peers/load_server.c").args(["0"]).start()
}

/// Runs `words` (and the server's URL where they say `URL`) and stops the server from the first recorded request on, for
/// six seconds.
fn with_a_stall(words: &[&str]) -> Value {
    let server = stoppable();
    let url = format!("http://127.0.0.1:{}/x", server.ready()["port"]);
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run.perfkit");
    let mut all: Vec<&str> = words.iter().map(|w| if *w == "URL" { url.as_str() } else { w }).collect();
    all.extend(["-o", run.to_str().unwrap(), NEVER]);
    let mut child = command(&all).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    crate::rig::wait_until("a recorded request", RUN_LIMIT, || {
        let counted = |db: Connection| db.query_row("select count(*) from request_window", [], |r| r.get::<_, i64>(0));
        let db = Connection::open_with_flags(&run, OpenFlags::SQLITE_OPEN_READ_ONLY);
        db.is_ok_and(|db| counted(db).is_ok_and(|n| n > 0))
    });
    signal(server.pid(), Signal::SIGSTOP);
    // How long the server stands still is what is tested: nobody ends this wait early.
    let (_nobody, never) = channel::<()>();
    assert!(never.recv_timeout(Duration::from_secs(6)).is_err());
    signal(server.pid(), Signal::SIGCONT);
    let report = json_of(&mut child);
    child.wait().unwrap();
    report
}

#[test]
fn live_a_server_that_stands_still_for_six_seconds_is_in_the_latencies_of_both_models() {
    // 500 requests in ten seconds, 300 of them due while it stands still: those wait 0 to 6 s, evenly. So a tenth waits longer
    // than 5 s, and half of all longer than 1 s. Ten users that keep a pace of 200 ms are the same: what they missed counts
    // from when it was due.
    let pace = "wait = { pacing = 0.2 }\n[[user.task]]\nname = \"t\"\nsteps = [{ get = \"/x\" }]\n";
    let (_dir, path) = scenario(&format!("[[user]]\nname = \"u\"\n{pace}"));
    for words in
        [&["URL", "--arrivals", "50/s", "-t", "10s"][..], &[&path, "-H", "URL", "-u", "10", "-r", "1000", "-t", "10s"]]
    {
        let report = with_a_stall(words);
        let near = |p: &str, wanted: f64| {
            let value = report["latency_ms"][p].as_f64().unwrap();
            assert!((value - wanted).abs() < 200.0, "{p}: {value}, wanted {wanted}: {report}");
        };
        let totals = &report["totals"];
        assert!(totals["requests"].as_u64().unwrap().abs_diff(500) <= 10 && totals["failures"] == 0, "{report}");
        near("p50", 1000.0);
        near("p90", 5000.0);
        near("max", 6000.0);
    }
}
