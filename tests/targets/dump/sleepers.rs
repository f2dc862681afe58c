//! Rust threads that sleep in the ways of the standard library, each under a known stack.
//!
//! build: --edition 2021 -C opt-level=2 -C debuginfo=1
//!
//! Truth: the ready line has {"threads": [{"tid", "name", "call", "frames": [innermost first]}]}; `frames` are the program's
//! own functions (with their module path). Compile with `-C force-frame-pointers=yes` or `-C opt-level=0` for the same truth.

use std::hint::black_box;
use std::io::{BufRead, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::{mpsc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

static HELD: Mutex<u32> = Mutex::new(0);
static NEVER: Condvar = Condvar::new();
static MINE: Mutex<u32> = Mutex::new(0);

#[inline(never)]
fn in_mutex() {
    black_box(*HELD.lock().unwrap());
}

#[inline(never)]
fn in_condvar() {
    let mut guard = MINE.lock().unwrap();
    loop {
        guard = black_box(NEVER.wait(guard).unwrap());
    }
}

#[inline(never)]
fn in_channel() {
    let (send, receive) = mpsc::channel::<u32>();
    black_box(receive.recv().ok());
    drop(send);
}

#[inline(never)]
fn in_sleep() {
    thread::sleep(Duration::from_secs(86_400));
    black_box(());
}

#[inline(never)]
fn in_park() {
    loop {
        thread::park();
        black_box(());
    }
}

#[inline(never)]
fn in_accept() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    black_box(listener.accept().is_ok());
}

#[inline(never)]
fn in_read() {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut byte = [0];
    black_box(ours.read(&mut byte).is_ok());
    drop(theirs);
}

trait Wait {
    fn wait(&self);
}

struct Patient(u32);

impl Wait for Patient {
    #[inline(never)]
    fn wait(&self) {
        let nested = || {
            in_read();
            black_box(self.0)
        };
        black_box(nested());
    }
}

#[inline(never)]
fn in_trait() {
    let boxed: Box<dyn Wait> = Box::new(Patient(black_box(3)));
    boxed.wait();
    black_box(());
}

#[inline(never)]
fn middle(park: fn()) {
    park();
    black_box(());
}

const WAYS: [(&str, fn(), &str, &[&str]); 8] = [
    ("mutex", in_mutex, "futex", &["sleepers::in_mutex"]),
    ("condvar", in_condvar, "futex", &["sleepers::in_condvar"]),
    ("channel", in_channel, "futex", &["sleepers::in_channel"]),
    ("sleep", in_sleep, "clock_nanosleep", &["sleepers::in_sleep"]),
    ("park", in_park, "futex", &["sleepers::in_park"]),
    ("accept", in_accept, "accept4", &["sleepers::in_accept"]),
    ("read", in_read, "recvfrom", &["sleepers::in_read"]),
    ("trait", in_trait, "recvfrom", &["sleepers::in_read", "<sleepers::Patient as sleepers::Wait>::wait", "sleepers::in_trait"]),
];

fn own_tid() -> u32 {
    let link = std::fs::read_link("/proc/thread-self").unwrap();
    link.file_name().unwrap().to_str().unwrap().parse().unwrap()
}

fn asleep(tid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('S')
}

fn main() {
    let held = HELD.lock().unwrap();
    let mut rows = Vec::new();
    for (name, park, call, frames) in WAYS {
        let (tell, hear) = mpsc::channel();
        let body = move || {
            tell.send(own_tid()).unwrap();
            middle(park);
        };
        thread::Builder::new().name(name.into()).spawn(body).unwrap();
        let tid = hear.recv().unwrap();
        while !asleep(tid) {
            thread::yield_now();
        }
        let mut frames: Vec<String> = frames.iter().map(|f| format!("\"{f}\"")).collect();
        frames.push("\"sleepers::middle\"".into());
        let frames = frames.join(", ");
        rows.push(format!("{{\"tid\": {tid}, \"name\": \"{name}\", \"call\": \"{call}\", \"frames\": [{frames}]}}"));
    }
    let (pid, rows) = (std::process::id(), rows.join(", "));
    let mut out = std::io::stdout();
    writeln!(out, "{{\"ready\": true, \"pid\": {pid}, \"threads\": [{rows}]}}").and_then(|()| out.flush()).unwrap();
    for _ in std::io::stdin().lock().lines() {}
    drop(held);
    writeln!(out, "{{\"last\": true}}").and_then(|()| out.flush()).unwrap();
    std::process::exit(0);
}
