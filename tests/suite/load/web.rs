//! The web UI: what scripts written for Locust's routes get, and what strangers do not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::scenario;
use super::server::{Reply, Server, ok, status};
use crate::rig;

/// `perfkit load` with its web UI on a free port; ended when dropped.
struct Ui {
    child: Child,
    port: u16,
    base: String,
}

impl Ui {
    fn start(words: &[&str]) -> Self {
        let mut child = Command::new(rig::perfkit())
            .args(["load", "-P", "0"])
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut all = String::new();
        let url = loop {
            let from = all.len();
            assert!(said.read_line(&mut all).unwrap() > 0, "no web UI: {all}");
            if let Some(at) = all[from..].find("http://127.0.0.1:") {
                break all[from + at..].split_whitespace().next().unwrap().to_owned();
            }
        };
        // What it says later must find room.
        std::thread::spawn(move || drop(said.read_to_end(&mut Vec::new())));
        let rest = url.strip_prefix("http://127.0.0.1:").unwrap();
        let (port, path) = rest.split_once('/').unwrap();
        let base = format!("/{}", path.trim_end_matches('/')).trim_end_matches('/').to_owned();
        Self { child, port: port.parse().unwrap(), base }
    }

    /// Sends a request with these header lines; status, head and body of the answer.
    fn send(&self, method: &str, path: &str, head: &str, body: &[u8]) -> (u16, String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let host = if head.contains("Host:") { String::new() } else { format!("Host: 127.0.0.1:{}\r\n", self.port) };
        let request = format!(
            "{method} {}{path} HTTP/1.1\r\n{host}Connection: close\r\n{head}Content-Length: {}\r\n\r\n",
            self.base,
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        // A server that refuses a body may close before it has all of it.
        let _ = stream.write_all(body);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    fn get(&self, path: &str) -> String {
        let (status, _, body) = self.send("GET", path, "", b"");
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path)).unwrap()
    }

    fn post(&self, path: &str, form: &str) -> Value {
        let (status, _, body) =
            self.send("POST", path, "Content-Type: application/x-www-form-urlencoded\r\n", form.as_bytes());
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or(Value::String(body))
    }

    /// Asks until `is` holds.
    fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Value::Null;
        rig::wait_until(what, rig::PATIENCE, || {
            seen = self.json("/stats/requests");
            is(&seen)
        });
        seen
    }

    /// Ends it as Ctrl-C does; exit code and standard output.
    fn end(mut self) -> (Option<i32>, String) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code(), text)
    }
}

impl Drop for Ui {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const TWO_CLASSES: &str = r#"
    [[user]]
    name = "A"
    weight = 3
    wait = 0.005
    [[user.task]]
    name = "five"
    weight = 5
    steps = [{ get = "/five" }]
    [[user.task]]
    name = "bad"
    steps = [{ get = "/bad" }]
    [[user]]
    name = "B"
    wait = 0.005
    [[user.task]]
    name = "b"
    steps = [{ get = "/b" }]
"#;

fn world() -> Server {
    Server::start(|r| Reply::Keep(if r.target == "/bad" { status("500 No", "", "x") } else { ok("", "hello") }))
}

fn keys(v: &Value) -> Vec<&str> {
    v.as_object().unwrap_or_else(|| panic!("no object: {v}")).keys().map(String::as_str).collect()
}

fn has(v: &Value, wanted: &[&str]) {
    let keys = keys(v);
    for key in wanted {
        assert!(keys.contains(key), "{key} in {keys:?}");
    }
}

#[test]
fn a_load_is_started_watched_reset_and_stopped_as_with_locust() {
    let server = world();
    let (_dir, path) = scenario(TWO_CLASSES);
    let ui = Ui::start(&[&path, "-H", &server.url(), "--class-picker", "--fail-on", "never"]);
    let page = ui.get("/");
    assert!(page.starts_with("<!doctype html>") && page.contains("Current Ratio"));
    let before = ui.json("/stats/requests");
    assert_eq!((&before["state"], before["stats"].as_array().unwrap().len()), (&"ready".into(), 1));
    assert!(server.requests().is_empty(), "nothing is sent before the form is");

    let reply = ui.post("/swarm", "user_count=4&spawn_rate=100&host=&user_classes=A&user_classes=B");
    assert_eq!((&reply["success"], &reply["host"]), (&true.into(), &server.url().into()), "{reply}");
    assert_eq!(reply["user_classes"], serde_json::json!(["A", "B"]));
    let seen = ui.until("failures are there", |v| {
        v["user_count"] == 4 && v["stats"].as_array().unwrap().len() == 4 && v["current_rps"].as_f64() > Some(0.0)
    });
    // The keys of Locust 2.47, golden.
    has(
        &seen,
        &[
            "stats",
            "errors",
            "current_rps",
            "current_fail_per_sec",
            "total_rps",
            "total_fail_per_sec",
            "fail_ratio",
            "current_response_time_percentiles",
            "state",
            "user_count",
        ],
    );
    has(
        &seen["stats"][0],
        &[
            "method",
            "name",
            "num_requests",
            "num_failures",
            "min_response_time",
            "max_response_time",
            "current_rps",
            "current_fail_per_sec",
            "avg_response_time",
            "median_response_time",
            "total_rps",
            "total_fail_per_sec",
            "response_time_percentile_0.95",
            "response_time_percentile_0.99",
            "avg_content_length",
        ],
    );
    has(&seen["errors"][0], &["method", "name", "error", "occurrences", "first_seen", "last_seen"]);
    has(&seen["current_response_time_percentiles"], &["response_time_percentile_0.5", "response_time_percentile_0.95"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - seen["errors"][0]["last_seen"].as_f64().unwrap()).abs() < 30.0, "{}", seen["errors"]);
    let running = ui.json("/stats/requests");
    assert!(
        running["state"] == "running" && running["stats"].as_array().unwrap().last().unwrap()["name"] == "Aggregated"
    );
    let tasks = ui.json("/tasks");
    assert_eq!(tasks["per_class"]["A"]["ratio"], 0.75);
    let five = |kind: &str| tasks[kind]["A"]["tasks"]["five"]["ratio"].as_f64().unwrap();
    assert!((five("per_class") - 5.0 / 6.0).abs() < 1e-9 && (five("total") - 0.625).abs() < 1e-9, "{tasks}");

    let (code, head, _) = ui.send("GET", "/stats/requests/csv", "", b"");
    assert!(
        code == 200 && head.contains("content-type: text/csv") && head.contains("content-disposition: attachment"),
        "{head}"
    );
    assert!(ui.get("/stats/requests_full_history/csv").starts_with("Timestamp,User Count,Type,Name,Requests/s"));
    assert_eq!(ui.json("/exceptions")["exceptions"], serde_json::json!([]));
    assert_eq!(ui.get("/exceptions/csv").trim(), "Count,Message,Traceback,Nodes");
    assert_eq!(ui.json("/worker-count")["worker_count"], 0);
    assert!(ui.json("/logs")["master"][0].as_str().unwrap().contains("run 1 begins"));

    assert_eq!(ui.post("/stop", "")["success"], true);
    let left = ui.until("it has stopped", |v| v["state"] == "stopped");
    let all = left["stats"].as_array().unwrap().last().unwrap();
    // Nothing is lost between the server, the page and the files.
    let sent = server.requests();
    assert_eq!(all["num_requests"], sent.len() as u64);
    let bad = sent.iter().filter(|r| r.target == "/bad").count() as u64;
    assert_eq!((&all["num_failures"], &left["errors"][0]["occurrences"]), (&bad.into(), &bad.into()));
    let (_, head, report) = ui.send("GET", "/stats/report?download=1&theme=dark", "", b"");
    assert!(head.contains("attachment; filename=\"perfkit_") && head.contains("sandbox"), "{head}");
    for part in ["<!doctype html>", "data-theme=\"dark\"", "Request statistics", "status 500", "/five", "62.5 %"] {
        assert!(report.contains(part), "{part} in the report");
    }
    let csv = ui.get("/stats/requests/csv");
    assert!(csv.lines().last().unwrap().starts_with(&format!(",Aggregated,{},{bad},", sent.len())), "{csv}");
    let failures = ui.get("/stats/failures/csv");
    assert!(failures.starts_with("Method,Name,Error,Occurrences,First Seen,Last Seen\nGET,/bad,"), "{failures}");

    assert_eq!(ui.post("/stats/reset", ""), "ok");
    assert_eq!(ui.json("/stats/requests")["stats"].as_array().unwrap().len(), 1);
    // A second run, of one class, that ends by itself.
    let reply = ui.post("/swarm", "user_count=2&spawn_rate=100&run_time=1s&user_classes=B");
    assert_eq!((&reply["success"], &reply["run_time"]), (&true.into(), &1.0.into()));
    let left = ui.until("it has stopped again", |v| v["state"] == "stopped");
    assert_eq!(left["stats"].as_array().unwrap().len(), 2, "the first run's endpoints are gone: {left}");
    let second = left["stats"][1]["num_requests"].as_u64().unwrap();
    assert_eq!(second as usize, server.requests().len() - sent.len());
    let (code, text) = ui.end();
    assert!(matches!(code, Some(0 | 4)), "{text}");
    assert!(text.contains(" requests in 1.0 s"), "the last run's table is printed at the end: {text}");
}

#[test]
fn users_are_changed_and_statistics_reset_in_the_middle() {
    let server = world();
    let (_dir, path) = scenario(TWO_CLASSES);
    let ui = Ui::start(&[&path, "-H", &server.url(), "-u", "3", "-r", "100", "--autostart", "--fail-on", "never"]);
    ui.until("it runs", |v| v["stats"].as_array().unwrap().last().unwrap()["num_requests"].as_u64() > Some(100));
    // The users of a run under way are changed by the same form.
    let reply = ui.post("/swarm", "user_count=6&spawn_rate=1000&host=");
    assert_eq!(reply["success"], true, "{reply}");
    ui.until("more users", |v| v["user_count"] == 6);
    let reply = ui.post("/swarm", "user_count=1&spawn_rate=1000");
    assert_eq!(reply["success"], true, "{reply}");
    ui.until("fewer users", |v| v["user_count"] == 1 && v["state"] == "running");
    let reply = ui.post("/swarm", "user_count=2&spawn_rate=9&host=http%3A%2F%2F127.0.0.1%3A1");
    assert!(reply["success"] == false && reply["message"].as_str().unwrap().contains("stop it"), "{reply}");
    ui.post("/stats/reset", "");
    let anew = ui.json("/stats/requests");
    let sent = server.requests().len() as u64;
    let shown = anew["stats"].as_array().unwrap().last().unwrap()["num_requests"].as_u64().unwrap();
    assert!(shown < sent && anew["state"] == "running", "{shown} of {sent}");
    ui.post("/stop", "");
    let left = ui.until("it has stopped", |v| v["state"] == "stopped");
    let shown = left["stats"].as_array().unwrap().last().unwrap()["num_requests"].as_u64().unwrap();
    assert!(shown <= server.requests().len() as u64 - 100, "{shown}");
}

#[test]
fn strangers_and_mistakes_are_refused_and_nothing_is_sent() {
    let server = world();
    let (_dir, path) = scenario(TWO_CLASSES);
    let ui = Ui::start(&[&path, "-H", &server.url(), "--web-base-path", "/a/load"]);
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let start = b"user_count=1&spawn_rate=1";
    for head in [
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Host: evil.example\r\n",
        "Host: evil.example:8089\r\nOrigin: http://evil.example:8089\r\n",
    ] {
        let (code, _, body) = ui.send("POST", "/swarm", &format!("{form}{head}"), start);
        assert_eq!(code, 403, "{head}: {body}");
    }
    assert_eq!(ui.send("GET", "/stats/requests", "Host: evil.example\r\n", b"").0, 403, "a rebound name may not read");
    for path in ["/swarm", "/stop", "/stats/reset", "/user"] {
        assert_eq!(ui.send("GET", path, "", b"").0, 405, "{path} by a link or a picture");
    }
    assert_eq!(ui.send("POST", "/swarm", form, &vec![b'x'; 70_000]).0, 413);
    assert_eq!(ui.send("POST", "/swarm", "Content-Type: multipart/form-data; boundary=x\r\n", b"--x--").0, 415);
    assert_eq!(ui.send("GET", "/nothing", "", b"").0, 404);
    assert_eq!(ui.send("POST", "/tasks", "", b"").0, 405);
    let long = format!("X-Long: {}\r\n", "x".repeat(100_000));
    assert!(matches!(ui.send("GET", "/", &long, b"").0, 0 | 431), "a head of 100 kB");
    for bad in ["user_count=x&spawn_rate=1", "user_count=0", "spawn_rate=-1", "run_time=soon", "host=ftp%3A%2F%2Fx"] {
        let reply = ui.post("/swarm", bad);
        assert!(reply["success"] == false && !reply["message"].as_str().unwrap().is_empty(), "{bad}: {reply}");
    }
    let reply = ui.post("/swarm", "host=http%3A%2F%2Fno-such-host.invalid%2F");
    assert!(reply["message"].as_str().unwrap().contains("no-such-host.invalid"), "{reply}");
    assert_eq!(ui.send("POST", "/user", "", b"{").0, 400);
    assert_eq!(ui.send("POST", "/user", "", br#"{"user_class_name": "Nobody", "weight": 1}"#).0, 400);
    assert_eq!(ui.send("POST", "/user", "", br#"{"user_class_name": "B", "weight": 9}"#).0, 201);
    assert_eq!(ui.json("/tasks")["per_class"]["B"]["ratio"], 0.75);
    let (_, head, _) = ui.send("GET", "/", "", b"");
    for part in
        ["default-src 'none'", "frame-ancestors 'none'", "x-content-type-options: nosniff", "cache-control: no-store"]
    {
        assert!(head.contains(part), "{part} in {head}");
    }
    assert!(!head.contains("access-control-allow"), "{head}");
    // A connection that says nothing, and one that stops in the middle, keep nobody waiting.
    let silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(("127.0.0.1", ui.port)).unwrap()).collect();
    let mut half = TcpStream::connect(("127.0.0.1", ui.port)).unwrap();
    half.write_all(b"POST /a/load/swarm HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nu").unwrap();
    assert_eq!(ui.json("/stats/requests")["state"], "ready");
    drop((silent, half));
    assert!(server.requests().is_empty(), "nothing was sent");
    // A mistake is told at once, without a page that would wait for somebody; a host may still come from the form.
    let (_bad, wrong) =
        scenario("[[user]]\nname = \"a\"\n[[user.task]]\nname = \"t\"\nsteps = [{ get = \"/${nobody}\" }]\n");
    let told = rig::run(["load", wrong.as_str(), "-P", "0"]);
    assert!(told.code == Some(2) && told.stderr.contains("nothing is called 'nobody'"), "{}", told.stderr);
    drop(Ui::start(&[&path]));
    let port = ui.port.to_string();
    let taken = rig::run(["load", path.as_str(), "-H", &server.url(), "-P", &port]);
    assert!(taken.code == Some(2) && taken.stderr.contains("-P 8090"), "{}", taken.stderr);
    let (code, text) = ui.end();
    assert_eq!((code, text.as_str()), (Some(0), ""), "nothing ran, nothing is told");
}

#[test]
fn autostart_and_autoquit_need_nobody() {
    let server = world();
    let (dir, path) = scenario(TWO_CLASSES);
    let kept = dir.path().join("run.perfkit");
    let words = [
        "load",
        &path,
        "-H",
        &server.url(),
        "-u",
        "2",
        "-r",
        "100",
        "-t",
        "1s",
        "--autostart",
        "--autoquit",
        "0",
        "-P",
        "0",
        "--fail-on",
        "never",
        "-o",
        kept.to_str().unwrap(),
    ];
    let out = rig::run(words);
    assert!(matches!(out.code, Some(0 | 4)), "{}", out.stderr);
    assert!(
        out.stdout.contains(" requests in 1.0 s") && out.stderr.contains("web UI: http://127.0.0.1:"),
        "{}",
        out.stderr
    );
    let db = rusqlite::Connection::open(&kept).unwrap();
    let requests: i64 = db.query_row("select sum(requests) from request_window", [], |r| r.get(0)).unwrap();
    assert_eq!(requests as usize, server.requests().len());
    for flag in [&["--tls-cert", "x"][..], &["--web-login"]] {
        let out = rig::run([&["load", &path, "-H", &server.url()], flag].concat());
        assert!(out.code == Some(2) && out.stderr.contains("ssh -L"), "{}", out.stderr);
    }
}
