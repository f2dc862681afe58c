//! Locust's command line: every option of 2.47 does what it does there, or says what to use instead; files, codes, settings.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::server::{Reply, Server, ok, status};
use super::{load, scenario};
use crate::rig::{self, Output, run_command};

const USERS: &str = r#"
[[user]]
name = "A"
weight = 3
wait = 0.01
[[user.task]]
name = "look"
weight = 3
steps = [{ get = "/look" }]
[[user.task]]
name = "break"
steps = [{ get = "/broken" }]
[[user]]
name = "B"
wait = 0.01
[[user.task]]
name = "one"
steps = [{ get = "/b" }]
"#;

/// What becomes of an option.
enum Then {
    /// It is taken.
    Taken,
    /// Exit code 2, and this in what is said.
    Refused(&'static str),
}

/// Runs `perfkit load WORDS` in `dir` with nothing of Locust in the environment but `environment`.
fn go(dir: &std::path::Path, words: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(rig::perfkit());
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("LOCUST_")) {
        command.env_remove(name);
    }
    command.arg("load").args(words).envs(environment.iter().copied()).env("HOME", dir).current_dir(dir);
    run_command(command, Duration::from_mins(1))
}

fn server() -> Server {
    Server::start(|r| Reply::Keep(if r.target == "/broken" { status("500 Oh", "", "no") } else { ok("", "yes") }))
}

#[test]
fn every_option_of_locust_is_taken_or_says_what_to_use_instead() {
    use Then::{Refused, Taken};
    let (dir, path) = scenario(USERS);
    let config = dir.path().join("more.conf");
    fs::write(&config, "users = 3\n").unwrap();
    let config = config.to_str().unwrap();
    let process = "--processes N";
    let options: &[(&[&str], Then)] = &[
        (&["-f", &path], Taken),
        (&["--locustfile", &path], Taken),
        (&["--config", config], Taken),
        (&["-H", "http://127.0.0.1:1"], Taken),
        (&["--host", "http://127.0.0.1:1"], Taken),
        (&["-u", "3"], Taken),
        (&["--users", "3"], Taken),
        (&["--users=3"], Taken),
        (&["-r", "0.5"], Taken),
        (&["--spawn-rate", "10"], Taken),
        (&["--spawn-rate", "0"], Refused("above 0")),
        (&["-t", "1h30m"], Taken),
        (&["--run-time", "300s"], Taken),
        (&["--run-time", "20m"], Taken),
        (&["-t", "50"], Taken),
        (&["-l"], Taken),
        (&["--list"], Taken),
        (&["--config-users", r#"{"user_class_name": "A", "weight": 2}"#], Taken),
        (&["--config-users", r#"{"user_class_name": "Z"}"#], Refused("no class 'Z'")),
        (&["--web-host", "127.0.0.1"], Taken),
        (&["--web-host-display-name", "here"], Taken),
        (&["--web-port", "8090"], Taken),
        (&["-P", "8090"], Taken),
        (&["--headless"], Taken),
        (&["--autostart"], Taken),
        (&["--autostart", "--headless"], Taken),
        (&["--autoquit", "3"], Taken),
        (&["--autoquit", "-1"], Taken),
        (&["--headful"], Taken),
        (&["--web-auth", "a:b"], Refused("ssh -L")),
        (&["--class-picker"], Taken),
        (&["--web-base-path", "/x"], Taken),
        (&["--build-path", "x"], Refused("leave it out")),
        (&["--legacy-ui"], Refused("leave it out")),
        (&["--master"], Refused(process)),
        (&["--master-bind-host", "*"], Taken),
        (&["--master-bind-port", "5557"], Taken),
        (&["--expect-workers", "1"], Taken),
        (&["--expect-workers-max-wait", "1"], Taken),
        (&["--enable-rebalancing"], Taken),
        (&["--expect-slaves", "1"], Refused(process)),
        (&["--worker"], Refused(process)),
        (&["--slave"], Refused(process)),
        (&["--processes", "2"], Taken),
        (&["--processes", "-1"], Taken),
        (&["--processes", "0"], Refused("-1")),
        (&["--master-host", "h"], Taken),
        (&["--master-port", "1"], Taken),
        (&["-T", "a", "b"], Taken),
        (&["--tags", "a"], Taken),
        (&["-E", "a", "b"], Taken),
        (&["--exclude-tags", "a"], Taken),
        (&["--csv", "x"], Taken),
        (&["--csv", "x", "--csv-full-history"], Taken),
        (&["--csv-full-history"], Refused("--csv")),
        (&["--print-stats"], Taken),
        (&["--only-summary"], Taken),
        (&["--reset-stats"], Taken),
        (&["--html", "r_{u}.html"], Taken),
        (&["--json"], Taken),
        (&["--json-file", "x"], Taken),
        (&["--skip-log-setup"], Taken),
        (&["--skip-log"], Taken),
        (&["-L", "DEBUG"], Taken),
        (&["--loglevel", "warning"], Taken),
        (&["--loglevel", "loud"], Refused("loud")),
        (&["--logfile", "x.log"], Taken),
        (&["--show-task-ratio"], Taken),
        (&["--show-task-ratio-json"], Taken),
        (&["--exit-code-on-error", "3"], Taken),
        (&["-s", "99"], Taken),
        (&["--stop-timeout", "0"], Taken),
        (&["--stop-timeout", "1.5"], Taken),
        (&["--equal-weights"], Taken),
        (&["--profile", "x"], Refused("-o NAME.perfkit")),
        (&["--otel"], Refused("perfkit cpu")),
        (&["--locust-buckets"], Taken),
        (&["--stages", "100 at 10/s for 1m, 500 for 2m"], Taken),
        (&["--preset", "peak"], Taken),
        (&["A", "B"], Taken),
        (&["--userz", "3"], Refused("'--users'")),
        (&["--hedless"], Refused("'--headless'")),
    ];
    for (words, then) in options {
        // Lists and ends, where it is taken.
        let mut all = vec![path.as_str(), "--list"];
        all.retain(|w| *w != path || !words.iter().any(|w| w.contains("locustfile") || *w == "-f"));
        all.retain(|w| *w != "--list" || !words.iter().any(|w| *w == "-l" || *w == "--list"));
        all.extend_from_slice(words);
        let out = go(dir.path(), &all, &[]);
        match then {
            Taken => {
                let listed = out.code == Some(0) && out.stdout == "Available Users:\n    A\n    B\n";
                assert!(listed, "{words:?}: {out:?}");
            }
            Refused(instead) => assert!(out.code == Some(2) && out.stderr.contains(instead), "{words:?}: {out:?}"),
        }
    }
    for words in [&["--web-login"][..], &["--tls-cert", "a", "--tls-key", "b"]] {
        let out = go(dir.path(), &[&[path.as_str(), "-P", "0"], words].concat(), &[]);
        assert!(out.code == Some(2) && out.stderr.contains("ssh -L"), "{words:?}: {out:?}");
    }
    let version = go(dir.path(), &["-V"], &[]);
    assert!(version.code == Some(0) && version.stdout.starts_with("perfkit "), "{version:?}");
}

#[test]
fn files_have_locusts_names_and_heads_and_codes_are_locusts() {
    let server = server();
    let (dir, path) = scenario(USERS);
    let words = [
        &path,
        "-H",
        &server.url(),
        "--headless",
        "-u",
        "4",
        "-r",
        "100",
        "-t",
        "2",
        "--csv",
        "out/deep/run",
        "--csv-full-history",
        "--html",
        "html/r_{u}_{r}_{t}.html",
        "--json-file",
        "sub/all",
        "--exit-code-on-error",
        "9",
        "--locust-buckets",
        "--logfile",
        "l/log",
    ];
    let out = go(dir.path(), &words, &[]);
    assert_eq!((out.code, out.stderr.as_str()), (Some(9), ""), "{out:?}");
    let read =
        |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}\n{out:?}"));
    let stats = read("out/deep/run_stats.csv");
    let percentiles = "50%,66%,75%,80%,90%,95%,98%,99%,99.9%,99.99%,100%";
    let head = format!(
        "Type,Name,Request Count,Failure Count,Median Response Time,Average Response Time,Min Response Time,Max Response Time,\
         Average Content Size,Requests/s,Failures/s,{percentiles}"
    );
    assert_eq!(stats.lines().next(), Some(head.as_str()));
    let names: Vec<&str> = stats.lines().skip(1).map(|l| l.split(',').nth(1).unwrap()).collect();
    assert_eq!(names, ["/b", "/broken", "/look", "Aggregated"]);
    for line in stats.lines().skip(1) {
        let cells: Vec<f64> = line.split(',').skip(11).map(|c| c.parse().unwrap()).collect();
        assert!(cells.len() == 11 && cells.iter().all(|c| c.fract() == 0.0), "whole milliseconds, as Locust: {line}");
    }
    let history = read("out/deep/run_stats_history.csv");
    let head = format!(
        "Timestamp,User Count,Type,Name,Requests/s,Failures/s,{percentiles},Total Request Count,Total Failure Count,\
         Total Median Response Time,Total Average Response Time,Total Min Response Time,Total Max Response Time,\
         Total Average Content Size"
    );
    assert_eq!(history.lines().next(), Some(head.as_str()));
    let rows: Vec<Vec<&str>> = history.lines().skip(1).map(|l| l.split(',').collect()).collect();
    assert!(rows.iter().all(|r| r.len() == head.split(',').count()), "{history}");
    for name in ["/b", "/broken", "/look", "Aggregated"] {
        assert!(rows.iter().any(|r| r[3] == name), "no {name} in\n{history}");
    }
    let failures = read("out/deep/run_failures.csv");
    let head = "Method,Name,Error,Occurrences,First Seen,Last Seen\nGET,/broken,";
    assert!(failures.starts_with(head), "{failures}");
    let seen = failures.trim_end().rsplit(',').next().unwrap();
    assert!(seen.len() == 20 && &seen[10..11] == "T" && seen.ends_with('Z'), "Locust's way to write a time: {seen}");
    assert_eq!(read("out/deep/run_exceptions.csv"), "Count,Message,Traceback,Nodes\n");
    let page = read("html/r_4_100_2.html");
    assert!(page.contains("/broken") && page.contains("Request statistics") && !page.contains("src=\"http"), "{page}");
    let document: Value = serde_json::from_str(&read("sub/all.json")).unwrap();
    assert!(document["totals"]["failures"].as_u64().unwrap() > 0, "{document}");
    assert!(read("l/log").contains("wrote out/deep/run_stats.csv"), "{}", read("l/log"));
    let fine =
        go(dir.path(), &[&path, "B", "-H", &server.url(), "--headless", "-t", "1", "--exit-code-on-error", "9"], &[]);
    assert_eq!(fine.code, Some(0), "{fine:?}");
}

#[test]
fn settings_come_from_files_and_the_environment() {
    let server = server();
    let (dir, path) = scenario(USERS);
    fs::write(
        dir.path().join("locust.conf"),
        format!("host = {}\nusers = 9\nrun-time = 1s\nheadless = true\n", server.url()),
    )
    .unwrap();
    fs::write(dir.path().join("pyproject.toml"), "[project]\nname = 'x'\n[tool.locust]\nusers = 7\nspawn_rate = 100\n")
        .unwrap();
    let environment = [("LOCUST_LOCUSTFILE", path.as_str()), ("LOCUST_USERS", "2"), ("LOCUST_USER_CLASSES", "B")];
    let out = go(dir.path(), &["--json"], &environment);
    let report: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    assert_eq!(report["totals"]["peak_users"], 2, "{out:?}");
    let names: Vec<&str> = report["by_name"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["/b"], "the class of the environment alone");
    let out = go(dir.path(), &[&path, "A", "-u", "1", "--json"], &environment);
    let report: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    assert_eq!(report["totals"]["peak_users"], 1);
    fs::write(dir.path().join("locust.conf"), "hedless = true\n").unwrap();
    let out = go(dir.path(), &[&path], &[]);
    assert!(
        out.code == Some(2) && out.stderr.contains("locust.conf:1") && out.stderr.contains("'headless'"),
        "{out:?}"
    );
}

#[test]
fn ratios_are_those_of_the_weights() {
    let (dir, path) = scenario(USERS);
    let out = go(dir.path(), &[&path, "--show-task-ratio-json"], &[]);
    let ratios: Value = serde_json::from_str(&out.stdout).unwrap();
    assert_eq!(ratios["per_class"]["A"]["ratio"], 0.75);
    assert_eq!(ratios["per_class"]["A"]["tasks"]["look"]["ratio"], 0.75);
    assert_eq!(ratios["total"]["A"]["tasks"]["break"]["ratio"], 0.1875);
    let out = go(dir.path(), &[&path, "--show-task-ratio", "--equal-weights"], &[]);
    assert!(out.stdout.contains(" 50.0       A\n   50.0       look\n"), "{}", out.stdout);
}

#[test]
fn statistics_begin_anew_when_all_users_are_there() {
    let server = server();
    let (_dir, path) = scenario(USERS);
    let ran = load(&[&path, "-H", &server.url(), "-u", "20", "-r", "10", "-t", "3s", "--reset-stats"]);
    let seconds = ran.report["totals"]["duration_s"].as_f64().unwrap();
    assert!((0.9..1.2).contains(&seconds), "{seconds}: the ramp takes two seconds of three");
    let (counted, all) = (ran.count("requests") as usize, server.requests().len());
    assert!(counted > 0 && counted < all * 4 / 5, "{counted} of {all}");
    assert_eq!(ran.count("peak_users"), 20);
}

#[test]
fn a_locustfile_in_the_directory_is_the_one_that_is_meant() {
    let server = server();
    let dir = tempfile::tempdir().unwrap();
    let text = "from locust import HttpUser, task, constant\n\n\nclass A(HttpUser):\n    weight = 3\n    wait_time = constant(0.01)\n\n    \
                @task\n    def look(self):\n        self.client.get(\"/look\")\n\n\nclass B(HttpUser):\n    \
                wait_time = constant(0.01)\n\n    @task\n    def one(self):\n        self.client.get(\"/b\")\n";
    fs::write(dir.path().join("locustfile.py"), text).unwrap();
    let out = go(dir.path(), &["--list"], &[]);
    assert_eq!(out.stdout, "Available Users:\n    A\n    B\n", "{out:?}");
    let ratio = |words: &[&str]| {
        let out = go(dir.path(), &[&["--show-task-ratio-json"], words].concat(), &[]);
        let all: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
        all["per_class"]["A"]["ratio"].as_f64().unwrap()
    };
    assert!((ratio(&[]) - 0.75).abs() < 1e-9 && (ratio(&["--equal-weights"]) - 0.5).abs() < 1e-9);
    let names = |words: &[&str]| {
        let host = server.url();
        let out = go(dir.path(), &[&["-H", &host, "-t", "1", "-u", "8", "-r", "100", "--json"], words].concat(), &[]);
        let report: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
        let names = report["by_name"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(names(&["B"]), ["/b"]);
    assert_eq!(names(&["--config-users", r#"{"user_class_name": "A", "weight": 0}"#]), ["/b"]);
    let out = go(dir.path(), &["-l", "--config-users", r#"{"user_class_name": "A", "host": "x"}"#], &[]);
    assert!(out.code == Some(2) && out.stderr.contains("-H changes the host"), "{out:?}");
}
