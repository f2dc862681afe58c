//! The client against a service that answers as a script says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// A service on the loopback that does to each request what `answer` says for its number (from 0), and counts them.
/// `None` leaves the client waiting; an empty answer closes the connection.
fn service(answer: fn(u64) -> Option<&'static str>) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let count = Arc::clone(&seen);
    // Both kinds of threads end with the test process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let count = Arc::clone(&count);
            std::thread::spawn(move || serve(&stream, &count, answer));
        }
    });
    (address, seen)
}

fn serve(mut stream: &TcpStream, seen: &AtomicU64, answer: fn(u64) -> Option<&'static str>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if let Some(text) = line.strip_prefix("Content-Length: ") {
                length = text.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        match answer(seen.fetch_add(1, Ordering::SeqCst)) {
            Some("") => return,
            Some(text) => stream.write_all(text.as_bytes()).unwrap(),
            None => {}
        }
    }
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

fn load(requests: u64) -> Load {
    Load { users: 4, pause: (Duration::ZERO, Duration::ZERO), requests, ..Load::default() }
}

#[test]
fn every_request_is_counted_once() {
    let (address, seen) = service(|_| Some(GOOD));
    let summary = Drive::start(address, load(200)).unwrap().wait().unwrap();
    assert_eq!((summary.total.answered, summary.total.failed, summary.total.cut), (200, 0, 0), "{summary}");
    assert_eq!(seen.load(Ordering::SeqCst), 200);
    let (counts, operations): (Vec<_>, Vec<_>) = summary.by_operation.iter().map(|(o, t)| (t.answered, *o)).unzip();
    assert_eq!(operations, Operation::ALL);
    assert_eq!(counts.iter().sum::<u64>(), 200);
    assert!(counts[0] > counts[1] && counts[1] > counts[2], "weights 5, 2 and 1: {counts:?}");
    let latency = summary.total.latency.unwrap();
    assert!(latency.p50 <= latency.p95 && latency.p95 <= latency.p99 && latency.p99 <= latency.max);
    assert!(latency.max <= summary.elapsed && summary.throughput().unwrap() > 0.0);
}

#[test]
fn each_failure_is_told_by_its_kind_and_the_next_request_is_not_spoiled() {
    let (address, seen) = service(|n| match n % 7 {
        0 => Some("HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}"),
        1 => Some("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}}"),
        2 => Some(""),
        3 => Some("SSH-2.0 hello there\r\n\r\n"),
        4 => Some("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"),
        5 => Some("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"),
        _ => Some(GOOD),
    });
    let summary = Drive::start(address, Load { users: 1, ..load(70) }).unwrap().wait().unwrap();
    assert_eq!((summary.total.answered, summary.total.failed, summary.total.cut), (20, 50, 0), "{summary}");
    assert_eq!(seen.load(Ordering::SeqCst), 70);
    let of = |text: &str| summary.failures.iter().filter(|(f, _)| f.contains(text)).map(|(_, n)| n).sum::<u64>();
    assert_eq!([of("status 503"), of("not JSON"), of("unexpected end of file"), of("invalid data")], [10, 10, 10, 20]);
    assert_eq!(summary.by_operation.iter().map(|(_, t)| t.failed).sum::<u64>(), 50);
}

#[test]
fn what_is_not_answered_in_time_has_failed() {
    let (address, _) = service(|_| None);
    let load = Load { users: 2, timeout: Duration::from_millis(20), ..load(4) };
    let summary = Drive::start(address, load).unwrap().wait().unwrap();
    assert_eq!((summary.total.answered, summary.total.failed, summary.total.latency), (0, 4, None), "{summary}");
    assert!(summary.failures.iter().all(|(f, _)| f.contains("no answer in 20.0 ms")), "{summary}");
}

#[test]
fn a_stop_cuts_what_is_in_flight_and_says_so() {
    let (address, seen) = service(|n| (n < 6).then_some(GOOD));
    let drive = Drive::start(address, load(u64::MAX)).unwrap();
    while seen.load(Ordering::SeqCst) < 10 {
        assert!(drive.is_running());
        std::thread::yield_now();
    }
    let begun = Instant::now();
    let summary = drive.finish().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "it did not wait for the answers");
    assert_eq!((summary.total.answered, summary.total.failed, summary.total.cut), (6, 0, 4), "{summary}");
    assert!(summary.to_string().contains("4 more cut off"), "{summary}");
}

#[test]
fn time_ends_a_run_too_and_no_service_is_a_failure() {
    // Bound, so that nobody else gets the port, and not listening.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let gone = socket.local_addr().unwrap();
    let some = Load {
        duration: Duration::from_millis(50),
        pause: (Duration::from_millis(1), Duration::from_millis(2)),
        ..load(u64::MAX)
    };
    let summary = Drive::start(gone, some).unwrap().wait().unwrap();
    assert_eq!(summary.total.answered, 0);
    assert!(summary.total.failed > 0 && summary.failures[0].0.contains("connection refused"), "{summary}");
    assert!(summary.elapsed >= Nanos(50_000_000));
    let nobody = Drive::start(gone, Load { users: 0, ..Load::default() });
    assert_eq!(nobody.unwrap_err().kind(), Kind::Usage);
}
