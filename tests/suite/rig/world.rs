//! The real target: the NPC world service (FastAPI, Redis, PostgreSQL, a language model's stub), see `tests/targets/world/`.
//!
//! Invariant: everything it starts is a descendant of this test process and ends with the [`World`]; ports are free ones of
//! 127.0.0.1; what it writes is in a directory that goes with it.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;
use tempfile::TempDir;

use super::{Launch, PATIENCE, Target, repository, skip, target_file, wait_until};

/// A running world; ended, all four programs of it, when dropped.
#[derive(Debug)]
pub struct World {
    launcher: Option<Target>,
    ready: Value,
    _directory: TempDir,
}

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header, as it came.
    pub head: String,
    /// The body, without chunk sizes where it was chunked.
    pub body: String,
}

impl World {
    /// A world with these variables in its environment (`WORLD_FAULT_BLOCK_MS`, …), or `None` (with a named skip) where
    /// its packages or servers are missing.
    pub fn start(settings: &[(&str, &str)]) -> Option<World> {
        let python = repository().join("target/world/bin/python");
        let wanted = fs::read(target_file("world/requirements.txt")).unwrap();
        if fs::read(repository().join("target/world/requirements.txt")).ok() != Some(wanted) {
            let _ = skip("target/world (scripts/setup --world makes it)");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("perfkit-world-").tempdir().unwrap();
        let mut launch: Launch = Target::program(&python)
            .args([target_file("world/start.py").as_os_str(), "--directory".as_ref(), directory.path().as_os_str()])
            .env("PYTHONDONTWRITEBYTECODE", "1");
        for (name, value) in settings {
            launch = launch.env(name, value);
        }
        let launcher = launch.start();
        let ready = launcher.ready().clone();
        Some(World { launcher: Some(launcher), ready, _directory: directory })
    }

    /// What the launcher said: `service`, `redis`, `postgres`, `llm`, each with `url`, `port` and `pid`.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// The port of the service.
    pub fn port(&self) -> u16 {
        self.number("service", "port") as u16
    }

    /// The PID of the service (the supervisor's, with several workers).
    pub fn pid(&self) -> u32 {
        self.number("service", "pid") as u32
    }

    /// The URL of a part.
    pub fn url(&self, part: &str) -> &str {
        self.ready[part]["url"].as_str().unwrap()
    }

    /// The PIDs of all four parts.
    pub fn pids(&self) -> Vec<u32> {
        ["service", "redis", "postgres", "llm"].iter().map(|part| self.number(part, "pid") as u32).collect()
    }

    fn number(&self, part: &str, field: &str) -> u64 {
        self.ready[part][field].as_u64().unwrap_or_else(|| panic!("no {part}.{field} in {}", self.ready))
    }

    /// What the service itself counts.
    pub fn truth(&mut self) -> Value {
        self.launcher.as_mut().unwrap().report()
    }

    /// The events of one kind that the service has written down until now.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let text = fs::read_to_string(self.ready["events"].as_str().unwrap()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|event| event["event"] == kind).collect()
    }

    /// Waits for an event of this kind.
    #[track_caller]
    pub fn await_event(&self, kind: &str) {
        wait_until(&format!("the event '{kind}'"), PATIENCE, || !self.events(kind).is_empty());
    }

    /// One request on a connection of its own.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        ask(self.port(), method, path, body)
    }

    /// Ends it in order and returns its last truth.
    pub fn finish(mut self) -> Value {
        self.launcher.take().unwrap().finish()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // In order where that is possible: the directory goes after the programs.
        if let Some(mut launcher) = self.launcher.take() {
            drop(launcher.stdin.take());
            if !std::thread::panicking() {
                launcher.wait();
            }
        }
    }
}

/// One request to a port of 127.0.0.1, on a connection of its own.
pub fn ask(port: u16, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: world\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap_or_else(|e| panic!("{method} {path}: {e} after {text:?}"));
    let (head, rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: no header in {text:?}"));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status in {head:?}"));
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(rest) } else { rest.to_owned() };
    Answer { status, head: head.to_owned(), body }
}

fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        body.push_str(&after[..size]);
        rest = &after[size + 2..];
        if size == 0 {
            break;
        }
    }
    body
}

impl Answer {
    /// Its JSON document; fails unless the status is 200.
    #[track_caller]
    pub fn good(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}
