//! `perfkit load` against small servers of the test's own: what scenarios do, what bad weather is called, what is counted.
//!
//! Servers listen on free ports of the loopback and say what they saw; nothing here waits by sleeping.

mod beside;
mod flags;
mod judge;
mod locust;
mod scenarios;
mod server;
mod terminal;
mod weather;
mod weather_bodies;
mod weather_limits;
mod weather_wire;
mod web;

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::rig::{self, run};

/// The result of a run: exit code, report, standard error.
struct Ran {
    code: i32,
    report: Value,
    stderr: String,
}

/// Runs `perfkit load WORDS --json`.
fn load(words: &[&str]) -> Ran {
    let mut args = vec!["load"];
    args.extend_from_slice(words);
    args.push("--json");
    let out = run(&args);
    let report = serde_json::from_str(&out.stdout).unwrap_or(Value::Null);
    Ran { code: out.code.unwrap_or(-1), report, stderr: out.stderr }
}

/// A scenario file with this text, and the directory that keeps it.
fn scenario(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.toml");
    fs::write(&path, text).unwrap();
    let name = path.to_str().unwrap().to_owned();
    (dir, name)
}

impl Ran {
    fn count(&self, key: &str) -> u64 {
        self.report["totals"][key]
            .as_u64()
            .unwrap_or_else(|| panic!("no totals.{key} in {}\n{}", self.report, self.stderr))
    }

    /// Kind and message of the most frequent error.
    fn error(&self) -> (String, String) {
        let e = &self.report["errors"][0];
        (e["kind"].as_str().unwrap_or_default().to_owned(), e["error"].as_str().unwrap_or_default().to_owned())
    }
}

#[test]
fn mistakes_are_named_with_their_place_before_anything_is_sent() {
    let task = "[[user.task]]\nname = \"t\"\n";
    for (text, place, help) in [
        (
            "host = \"http://127.0.0.1:1\"\n[[user]]\nname = \"a\"\nwiat = 1\n".to_owned()
                + task
                + "steps = [{get=\"/\"}]",
            ":4:1: a user has no key 'wiat' (did you mean 'wait'?)",
            "allowed here: name",
        ),
        (
            "[[user]]\nname = \"a\"\n".to_owned() + task + "steps = [{get=\"/${nobody}\"}]",
            ":5:15: nothing is called 'nobody'",
            "user.id",
        ),
        (
            "[[user]]\nname = \"a\"\n".to_owned() + task + "steps = [{get=\"/\"}]",
            ":5:10: the user 'a' has no host",
            "-H",
        ),
        (
            "[[user]]\nname = \"a\"\nwait = { between = [3, 1] }\n".to_owned() + task + "steps = [{get=\"/\"}]",
            ":3:20: 'between' has its larger end first",
            "",
        ),
        (
            "[[user]]\nname = \"a\"\n".to_owned() + task + "steps = [{get=\"/\", expect={status=20}}]",
            ":5:35: 'status' is 20",
            "'2xx'",
        ),
        (
            "[targets]\nall = \"p95 > 3ms\"\n[[user]]\nname = \"a\"\n".to_owned() + task + "steps = [{get=\"/\"}]",
            ":2:7: 'p95 > 3ms' is not a target",
            "write p95 < 500ms",
        ),
        ("[[user]\n".to_owned(), ":1:", ""),
    ] {
        let (_dir, path) = scenario(&text);
        let ran = load(&[&path, "-t", "1"]);
        assert_eq!(ran.code, 2, "{text}\n{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("s.toml{place}")), "{place} in\n{}", ran.stderr);
        assert!(ran.stderr.contains(help), "{help} in\n{}", ran.stderr);
    }
    let ran = load(&["nothing", "-t", "1"]);
    assert!(ran.code == 2 && ran.stderr.contains("ready: world"), "{}", ran.stderr);
    let ran = load(&["world", "NoSuchTest", "-t", "1"]);
    assert!(ran.code == 2 && ran.stderr.contains("NPCInteractionTest, ChatCommandTest"), "{}", ran.stderr);
    assert!(Path::new(rig::perfkit()).exists());
}
