//! Bad weather: what servers do wrong is a failure with a name, and nothing hangs or grows.

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::load;
use super::server::{Reply, Server, ok, status};

/// Requests of one user for a moment; the kind and message of what failed.
fn weather(answer: impl Fn(usize) -> Reply + Send + Sync + 'static) -> (super::Ran, Server) {
    let count = AtomicUsize::new(0);
    let server = Server::start(move |_| answer(count.fetch_add(1, Ordering::SeqCst)));
    let ran = load(&[&format!("{}/x", server.url()), "-u", "1", "-t", "300ms", "--timeout", "100ms", "-s", "2s"]);
    (ran, server)
}

fn fails_as(kind: &str, message: &str, bytes: impl Fn() -> Reply + Send + Sync + 'static) {
    let (ran, _server) = weather(move |_| bytes());
    assert!(ran.count("requests") > 0 && ran.count("failures") == ran.count("requests"), "{kind}: {}", ran.report);
    let (k, m) = ran.error();
    assert!(k == kind && m.contains(message), "{kind}, {message}: {k}, {m}");
}

#[test]
fn nobody_listens() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ran = load(&[&format!("http://127.0.0.1:{port}/"), "-u", "3", "-r", "1000", "-t", "200ms"]);
    assert_eq!(ran.error().0, "refused", "{}", ran.report);
    assert!(
        ran.count("failures") > 3 && ran.count("failures") < 200,
        "without a pause between attempts: {}",
        ran.report
    );
    let ran = load(&["http://no-such-host.invalid/", "-t", "1s"]);
    assert!(ran.code == 3 && ran.stderr.contains("'no-such-host.invalid' cannot be found"), "{}", ran.stderr);
}

#[test]
fn answers_that_are_none() {
    fails_as("closed", "without an answer", || Reply::Close(Vec::new()));
    fails_as("closed", "within the head", || Reply::Close(b"HTTP/1.1 200 OK\r\nContent-".to_vec()));
    fails_as("closed", "Content-Length is larger", || {
        Reply::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab".to_vec())
    });
    fails_as("closed", "before the last chunk", || {
        Reply::Close(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab".to_vec())
    });
    fails_as("protocol", "not an HTTP answer", || Reply::Keep(b"220 mail.test ESMTP\r\n".to_vec()));
    fails_as("protocol", "longer than 64 kB", || {
        Reply::Hang([&b"HTTP/1.1 200 OK\r\n"[..], &b"a: b\r\n".repeat(30_000)].concat())
    });
    fails_as("timeout", "waiting for an answer", || Reply::Hang(Vec::new()));
    fails_as("timeout", "within the answer", || {
        Reply::Hang(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nab".to_vec())
    });
    fails_as("status", "status 503", || Reply::Keep(status("503 Busy", "", "later")));
    fails_as("status", "status 404", || Reply::Keep(status("404 No", "", "")));
}

#[test]
fn answers_that_are_odd_but_right() {
    for answer in [
        &b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1;x\r\nb\r\n0\r\nTrailer: y\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab",
    ] {
        let closes = answer.windows(5).any(|w| w == b"close");
        let (ran, server) =
            weather(move |_| if closes { Reply::Close(answer.to_vec()) } else { Reply::Keep(answer.to_vec()) });
        assert_eq!(ran.count("failures"), 0, "{}", ran.report);
        assert_eq!(ran.count("bytes"), 2 * ran.count("requests"));
        assert_eq!(ran.count("requests") as usize, server.requests().len());
    }
    // A body that only the end ends.
    let (ran, _server) = weather(|_| Reply::Close(b"HTTP/1.1 200 OK\r\n\r\nab".to_vec()));
    assert!(ran.count("failures") == 0 && ran.count("connections") == ran.count("requests"), "{}", ran.report);
}

#[test]
fn more_than_was_promised_does_not_reach_the_next_answer() {
    let (ran, _server) = weather(|n| {
        Reply::Keep(if n % 2 == 0 {
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 500 Lie\r\n\r\n".to_vec()
        } else {
            ok("", "ab")
        })
    });
    assert_eq!(ran.count("failures"), 0, "{}", ran.report);
    assert!(
        ran.report["marks"].as_array().unwrap().iter().any(|m| m.as_str().unwrap().contains("belong to none")),
        "{}",
        ran.report
    );
}

#[test]
fn a_kept_connection_that_the_server_gave_up_is_not_a_failure() {
    // Every second request on a connection finds it closed: by an end that comes with the answer before.
    let (ran, server) = weather(|n| if n % 2 == 0 { Reply::Keep(ok("", "a")) } else { Reply::Close(ok("", "b")) });
    assert_eq!(ran.count("failures"), 0, "{}", ran.report);
    assert_eq!(ran.count("requests") as usize, server.requests().len());
}

#[test]
fn names_without_end_are_bounded_and_said() {
    let server = Server::start(|_| Reply::Keep(ok("", "")));
    let (_dir, path) = super::scenario(
        "[[user]]\nname = \"u\"\n[[user.task]]\nname = \"t\"\nsteps = [{ get = \"/x\", as = \"/${counter()}\" }]\n",
    );
    let ran = load(&[&path, "-H", &server.url(), "--arrivals", "3000/s", "-t", "1s", "--fail-on", "never"]);
    let rows = ran.report["by_name"].as_array().unwrap();
    assert_eq!(rows.len(), 2001, "{}", ran.stderr);
    assert_eq!((ran.count("requests"), ran.count("failures")), (3000, 0));
    assert!(ran.stderr.contains("more than 2000 distinct names"), "{}", ran.stderr);
}

#[test]
fn arrivals_that_wait_for_a_seat_are_made_and_count_from_their_due_time() {
    // One seat, answers after 20 ms: 100 arrivals in half a second take two.
    let server = Server::start(|_| {
        std::thread::park_timeout(std::time::Duration::from_millis(20));
        Reply::Keep(ok("", ""))
    });
    let ran =
        load(&[&format!("{}/x", server.url()), "--arrivals", "200/s", "-u", "1", "-t", "500ms", "--fail-on", "never"]);
    assert_eq!((ran.count("arrivals_asked"), ran.count("arrivals_made"), ran.count("requests")), (100, 100, 100));
    assert_eq!((ran.count("peak_users"), ran.count("unfinished")), (1, 0));
    let p50 = ran.report["latency_ms"]["p50"].as_f64().unwrap();
    assert!(p50 > 500.0, "latency runs from the due time: {p50}");
    let service = ran.report["service_ms"]["p50"].as_f64().unwrap();
    assert!(service < p50 / 2.0, "{service}");
}

#[test]
fn the_first_ctrl_c_finishes_and_reports() {
    use std::io::Read;
    use std::process::{Command, Stdio};

    let server = Server::start(|_| Reply::Keep(ok("", "")));
    let seen = std::sync::Arc::clone(&server.seen);
    for users in ["1", "1000"] {
        seen.lock().unwrap().clear();
        // With 1000 users at 10/s the signal comes within the ramp.
        let mut child = Command::new(crate::rig::perfkit())
            .args([
                "load",
                &format!("{}/x", server.url()),
                "-u",
                users,
                "-r",
                "10",
                "--json",
                "-q",
                "--fail-on",
                "never",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while seen.lock().unwrap().len() < 20 {
            std::thread::yield_now();
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), nix::sys::signal::Signal::SIGINT)
            .unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let code = child.wait().unwrap().code();
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        let requests = report["totals"]["requests"].as_u64().unwrap();
        assert_eq!((requests as usize, report["totals"]["unfinished"].as_u64()), (seen.lock().unwrap().len(), Some(0)));
        assert!(matches!(code, Some(0 | 4)), "{code:?}");
    }
}
