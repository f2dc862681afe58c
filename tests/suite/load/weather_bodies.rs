//! Bad weather in answers: informational ones without end, redirects in circles, bodies in crumbs and of a gigabyte, heads
//! without end, lengths that lie.

use std::io::Write;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::server::{Reply, Server, ok, raw, request, status};
use super::{load, scenario};
use crate::rig::{perfkit, run_command, wait_until};

const GB: usize = 1 << 30;

#[test]
fn informational_answers_are_passed_over_up_to_a_limit() {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        // 100 Continue that nobody asked for, and early hints; every third answer has seventeen of them.
        let hints = if count.fetch_add(1, Ordering::SeqCst) % 3 == 2 { 17 } else { 1 };
        let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </s.css>\r\n\r\n".repeat(hints);
        Reply::Keep([b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), hints, ok("", "ab")].concat())
    });
    let (_dir, path) = scenario(
        "[[user]]\nname = \"u\"\n[[user.task]]\nname = \"t\"\n\
         steps = [{ post = \"/x\", body = \"b\", headers = { expect = \"100-continue\" } }]\n",
    );
    let ran = load(&[&path, "-H", &server.url(), "--arrivals", "60/s", "-t", "500ms", "--fail-on", "never"]);
    assert_eq!((ran.count("requests"), ran.count("failures")), (30, 10), "{}", ran.report);
    let (kind, message) = ran.error();
    assert!(kind == "protocol" && message.contains("informational"), "{kind} {message}");
    let server = Server::start(|_| Reply::Hang(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_vec()));
    let ran = load(&[&format!("{}/x", server.url()), "-u", "1", "-t", "100ms", "--fail-on", "never"]);
    assert!(ran.error().1.contains("switched protocols"), "{}", ran.report);
}

#[test]
fn redirects_in_circles_are_failures_and_server_errors_too() {
    let server = Server::start(|r| {
        Reply::Keep(match r.target.as_str() {
            "/a" => status("302 Found", "Location: /b\r\n", ""),
            "/b" => status("302 Found", "Location: /a\r\n", ""),
            "/500" => status("500 Internal Server Error", "", "sorry"),
            _ => status("503 Busy", "Retry-After: 1\r\n", ""),
        })
    });
    let (_dir, path) = scenario(
        r#"
        [[user]]
        name = "u"
        sequence = true
        [[user.task]]
        name = "t"
        steps = [{ get = "/a" }]
        [[user.task]]
        name = "s"
        steps = [{ get = "/500" }]
        [[user.task]]
        name = "r"
        steps = [{ get = "/503", as = "busy" }]
        "#,
    );
    let ran = load(&[&path, "-H", &server.url(), "--arrivals", "3/s", "-u", "1", "-t", "1s", "--fail-on", "never"]);
    // The first and ten that follow it, then the others.
    assert_eq!(server.requests().len(), 13, "{}", ran.report);
    assert_eq!((ran.count("requests"), ran.count("failures")), (3, 3), "{}", ran.report);
    let mut errors: Vec<(String, String, String)> = ran.report["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            let text = |k: &str| e[k].as_str().unwrap().to_owned();
            (text("name"), text("kind"), text("error"))
        })
        .collect();
    errors.sort();
    let wanted = [
        ("/500", "status", "status 500"),
        ("/a", "redirect", "more than 10 redirects, the last one to /b"),
        ("busy", "status", "status 503"),
    ];
    let wanted: Vec<_> = wanted.iter().map(|(n, k, e)| ((*n).to_owned(), (*k).to_owned(), (*e).to_owned())).collect();
    assert_eq!(errors, wanted);
}

#[test]
fn answers_in_crumbs_are_whole() {
    // Each byte in a packet of its own: heads, chunks and the end of chunks.
    for answer in [
        &b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2;x=\"y\"\r\nbc\r\n1\r\nd\r\n0\r\nT: u\r\n\r\n",
    ] {
        let port = raw(move |mut stream, _| {
            stream.set_nodelay(true).unwrap();
            while request(&stream) {
                for byte in answer {
                    stream.write_all(&[*byte]).unwrap();
                    std::thread::yield_now();
                }
            }
        });
        let (_dir, path) = scenario(
            "[[user]]\nname = \"u\"\n[[user.task]]\nname = \"t\"\nsteps = [{ get = \"/x\", expect = { text = \"abcd\" } }]\n",
        );
        let host = format!("http://127.0.0.1:{port}");
        let ran = load(&[&path, "-H", &host, "--arrivals", "50/s", "-t", "400ms", "--fail-on", "never"]);
        assert_eq!((ran.count("requests"), ran.count("failures"), ran.count("bytes")), (20, 0, 80), "{}", ran.report);
    }
}

/// The most memory that a process ever had, bytes; `None` once it is gone.
pub fn peak_rss(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024)
}

fn gigabyte(stream: &mut TcpStream, chunked: bool) -> std::io::Result<()> {
    let piece = vec![b'x'; 1 << 20];
    let head = if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {GB}") };
    stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").as_bytes())?;
    for _ in 0..GB / piece.len() {
        if chunked {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
        }
        stream.write_all(&piece)?;
        if chunked {
            stream.write_all(b"\r\n")?;
        }
    }
    if chunked { stream.write_all(b"0\r\n\r\n") } else { Ok(()) }
}

#[test]
fn bodies_of_a_gigabyte_take_no_memory() {
    let pid = Arc::new(AtomicU64::new(0));
    let peaks: Arc<Mutex<Vec<u64>>> = Arc::default();
    let (of, seen) = (Arc::clone(&pid), Arc::clone(&peaks));
    let port = raw(move |mut stream, _| {
        let mut answers = 0;
        while request(&stream) {
            answers += 1;
            if answers > 2 {
                let _ = stream.write_all(&ok("", "end"));
                continue;
            }
            // What the client had before, and when it had taken nearly all.
            let before = peak_rss(of.load(Ordering::SeqCst) as u32).unwrap();
            gigabyte(&mut stream, answers == 2).unwrap();
            let after = peak_rss(of.load(Ordering::SeqCst) as u32).unwrap();
            seen.lock().unwrap().push(after - before);
        }
    });
    // The answer is looked into as well: a capture and an expectation keep a part of the body.
    let (_dir, path) = scenario(
        "[[user]]\nname = \"u\"\nsequence = true\n[[user.task]]\nname = \"t\"\n\
         steps = [{ get = \"/1\", expect = { text = \"xxx\" } }, { get = \"/2\", capture = { a = { regex = \"x{8}\" } } }, { get = \"/3\" }, { wait = 1000 }]\n",
    );
    let host = format!("http://127.0.0.1:{port}");
    let mut child = Command::new(perfkit())
        .args(["load", &path, "-H", &host, "-u", "1", "-t", "60s", "--json", "-q", "--fail-on", "never"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    pid.store(u64::from(child.id()), Ordering::SeqCst);
    wait_until("two gigabytes", std::time::Duration::from_mins(1), || peaks.lock().unwrap().len() == 2);
    crate::rig::signal(child.id(), nix::sys::signal::Signal::SIGINT);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut text).unwrap();
    child.wait().unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["totals"]["failures"], 0, "{report}");
    assert!(report["totals"]["bytes"].as_u64().unwrap() >= 2 * GB as u64, "{report}");
    let grown = peaks.lock().unwrap().clone();
    // 4 MB: what is kept of a body for captures, twice while it grows.
    assert!(grown.iter().all(|g| *g <= 8 << 20), "grew by {grown:?} bytes");
}

#[test]
fn heads_without_end_are_given_up() {
    // Many header lines, and one that never ends.
    for piece in [&b"a: b\r\n"[..], b"aaaaaaaa"] {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let port = raw(move |mut stream, _| {
            if request(&stream) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
                let piece = piece.repeat(1000);
                // Ends when the client has gone; without it, never.
                while stream.write_all(&piece).is_ok() {
                    count.fetch_add(piece.len(), Ordering::SeqCst);
                }
            }
        });
        let url = format!("http://127.0.0.1:{port}/x");
        let ran = load(&[&url, "-u", "1", "-t", "200ms", "--fail-on", "never"]);
        assert!(ran.count("requests") > 0 && ran.count("failures") == ran.count("requests"), "{}", ran.report);
        let (kind, message) = ran.error();
        assert!(kind == "protocol" && message.contains("longer than 64 kB"), "{kind} {message}");
    }
}

#[test]
fn lengths_that_lie_cost_one_request_and_never_the_next() {
    // Too short, too long with an end, too long without one: in turn, each followed by an answer that is right. What stands
    // in the body of an answer is told by a check, so that a rest taken for an answer would show.
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        let right = ok("", "right");
        match count.fetch_add(1, Ordering::SeqCst) % 6 {
            0 => Reply::Keep(
                b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nrightHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
                    .to_vec(),
            ),
            2 => Reply::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nright".to_vec()),
            4 => Reply::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nright".to_vec()),
            _ => Reply::Keep(right),
        }
    });
    let (_dir, path) = scenario(
        "[[user]]\nname = \"u\"\n[[user.task]]\nname = \"t\"\nsteps = [{ get = \"/x\", timeout = 0.1, expect = { text = \"right\" } }]\n",
    );
    let ran = load(&[
        &path,
        "-H",
        &server.url(),
        "--arrivals",
        "30/s",
        "-u",
        "1",
        "-t",
        "1s",
        "--fail-on",
        "never",
        "-s",
        "9",
    ]);
    assert_eq!((ran.count("requests"), ran.count("failures")), (30, 10), "{}", ran.report);
    let kinds: Vec<_> = ran.report["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["kind"].as_str().unwrap(), e["count"].as_u64().unwrap()))
        .collect();
    assert!(kinds.contains(&("closed", 5)) && kinds.contains(&("timeout", 5)), "{kinds:?}");
}

#[test]
fn files_that_never_end_are_no_scenarios() {
    let dir = tempfile::tempdir().unwrap();
    let endless = dir.path().join("endless.yaml");
    std::os::unix::fs::symlink("/dev/zero", &endless).unwrap();
    let data = dir.path().join("s.toml");
    std::fs::write(
        &data,
        "host = \"http://127.0.0.1:1\"\n[[user]]\nname = \"u\"\n[[user.task]]\nname = \"t\"\nsteps = [{ get = \"/${pick(d)}\" }]\n\
         [data]\nd = { csv = \"/dev/zero\" }\n",
    )
    .unwrap();
    for file in [&endless, &data] {
        // 2 GB of address space: what is read without end fails early instead of taking the machine along.
        let mut command = Command::new("prlimit");
        command.args(["--as=2147483648", "--"]).arg(perfkit()).args(["load", "-t", "1", "-f"]).arg(file);
        let out = run_command(command, std::time::Duration::from_secs(30)).expect(2);
        assert!(out.stderr.contains("larger than"), "{}", out.stderr);
    }
}

#[test]
fn hostile_scenarios_end_at_once_in_little_memory() {
    let whole = |user: &str, task: &str| {
        format!("host: http://127.0.0.1:1\nuser:\n - name: u\n   {user}\n   task:\n    - name: t\n      {task}\n")
    };
    let many = |n: usize, line: &dyn Fn(usize) -> String| (0..n).map(line).collect::<Vec<_>>().concat();
    let bomb = many(12, &|i| format!("a{}: &a{} [*a{i},*a{i},*a{i},*a{i},*a{i},*a{i},*a{i},*a{i}]\n", i + 1, i + 1));
    let classes =
        many(500, &|i| format!(" - {{name: u{i}, fixed_count: 10000000, task: [{{name: t, steps: [{{get: /}}]}}]}}\n"));
    let deep = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    let columns = many(100_000, &|i| format!("k{i}: 1,"));
    let users = many(100_000, &|i| format!(" - {{name: u{i}, task: [{{name: t, steps: [{{get: /}}]}}]}}\n"));
    let tasks = "{name: t, steps: [{get: /}]},".repeat(70_000);
    let keys = many(60_000, &|i| format!("k{i}: 1\n"));
    for (ending, text, code) in [
        ("yaml", format!("a0: &a0 [x]\n{bomb}"), 2),
        ("yaml", format!("a: {}", deep(100_000)), 2),
        ("toml", format!("a = {}", deep(100_000)), 2),
        ("toml", format!("{} = 1", "a.".repeat(100_000) + "a"), 2),
        ("yaml", format!("a: {}", "? ".repeat(100_000)), 2),
        ("yaml", keys, 2),
        ("yaml", format!("{}\ndata:\n  d:\n  - {{{columns}}}\n", whole("weight: 1", "steps: [{get: /}]")), 2),
        ("yaml", format!("host: http://127.0.0.1:1\nuser:\n{users}"), 2),
        ("yaml", format!("host: http://127.0.0.1:1\nuser:\n - {{name: u, task: [{tasks}]}}"), 2),
        ("yaml", whole("weight: 99999999999999999999999", "steps: [{get: /}]"), 2),
        ("yaml", whole("wait: 1.0e308", "steps: [{get: /}]"), 2),
        ("yaml", whole("wait: {pacing: 1000000000}", "steps: [{get: /, timeout: 1000000000}]"), 0),
        ("yaml", whole("wait: {throughput: 1.0e300}", "steps: [{get: /}]"), 0),
        (
            "yaml",
            whole(
                "weight: 1000000",
                "weight: 1000000\n      steps: [{get: '/${rand(-9223372036854775808,9223372036854775807)}'}]",
            ),
            0,
        ),
        (
            "yaml",
            whole(
                "weight: 1",
                "steps: [{get: '/', expect: {regex: '((((((a{1000}){1000}){1000}){1000}){1000}){1000})'}}]",
            ),
            2,
        ),
        ("yaml", format!("host: http://127.0.0.1:1\nuser:\n{classes}"), 0),
        (
            "yaml",
            format!(
                "stage: [{}]\n{}",
                ["{users: 10000000, duration: 1000000000}"; 50].join(","),
                whole("weight: 1", "steps: [{get: /}]")
            ),
            2,
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("s.{ending}"));
        std::fs::write(&path, &text).unwrap();
        let mut command = Command::new("prlimit");
        command.args(["--as=2147483648", "--nofile=1024:1024", "--cpu=20", "--"]).arg(perfkit());
        command.args(["load", "--headless", "-q", "-t", "200ms", "-s", "0", "--fail-on", "never", "-f"]).arg(&path);
        let out = run_command(command, std::time::Duration::from_secs(30));
        let head: String = text.chars().take(120).collect();
        // 4 where the machine is too busy to keep the schedule.
        assert!(out.code == Some(code) || (code == 0 && out.code == Some(4)), "{head}\n{out:?}");
        assert!(out.took < std::time::Duration::from_secs(5), "{head}\n{out:?}");
    }
}
