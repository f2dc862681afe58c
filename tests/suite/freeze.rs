//! `perfkit dump --freeze`: the target stands still, is told so, and runs on whatever becomes of perfkit.

use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::rig::{PATIENCE, Target, is_root, perfkit, python, run, signal, skip, wait_until};

/// Tries at meeting a perfkit in the milliseconds of a freeze.
const TRIES: usize = 200;

fn state(pid: u32) -> char {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    text[text.rfind(')').unwrap() + 2..].chars().next().unwrap()
}

#[test]
fn live_a_frozen_dump_has_every_thread_at_one_instant() {
    let mut target = Target::python(python("3.11"), "dump/waits.py").start();
    let all = target.ask("busy");
    let pid = target.pid().to_string();
    let document = run(["dump", "--json", "--pid", &pid, "--freeze", "20000"]).expect(0).json();
    let process = &document["processes"][0];
    let stopped = process["stopped_ms"].as_f64().unwrap();
    assert!(stopped > 0.0 && stopped < 20_000.0, "{process:#}");
    assert_eq!(process["remarks"].as_array().unwrap().len(), 0, "{process:#}");
    for (name, wanted) in all["threads"].as_object().unwrap() {
        let threads = process["threads"].as_array().unwrap();
        let thread = threads.iter().find(|t| t["python_name"] == **name).unwrap();
        assert!(thread["taken"] == "stopped" && thread["native_end"] == "root", "{thread:#}");
        assert!(thread["merged"] == true && thread["python_complete"] == true, "{thread:#}");
        assert_ne!(thread["state"], "traced", "what it did before it was stopped is told");
        let leaf = &wanted["chain"][0];
        assert!(thread["frames"].as_array().unwrap().iter().any(|f| f["function"] == *leaf), "{thread:#}");
    }
    assert_ne!(state(target.pid()), 't');
    target.finish();
}

#[test]
fn live_kill_9_in_the_freeze_lets_the_target_run() {
    let mut target = Target::python(python("3.11"), "dump/waits.py").start();
    let pid = target.pid();
    let met = (0..TRIES).any(|_| {
        let mut dump = Command::new(perfkit());
        dump.args(["dump", "--pid", &pid.to_string(), "--freeze", "20000"]);
        let mut dump = dump.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while state(pid) != 't' && dump.try_wait().unwrap().is_none() {}
        // Held in its tracks, to be sure that the kill comes in the freeze.
        signal(dump.id(), Signal::SIGSTOP);
        wait_until("perfkit's stop or end", PATIENCE, || matches!(state(dump.id()), 'T' | 'Z'));
        let met = state(dump.id()) == 'T' && state(pid) == 't';
        signal(dump.id(), Signal::SIGKILL);
        dump.wait().unwrap();
        met
    });
    assert!(met, "no freeze was met in {TRIES} dumps");
    wait_until("the target runs on", PATIENCE, || state(pid) != 't');
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("TracerPid:\t0\n"), "{status}");
    // It answers, so it runs.
    target.ask("busy");
    target.finish();
}

#[test]
fn live_without_the_right_to_stop_it_the_dump_is_the_usual_one() {
    if !is_root() {
        let _ = skip("root for a traced process");
        return;
    }
    let target = Target::python(python("3.11"), "dump/waits.py").start();
    let pid = target.pid().to_string();
    // Whom a debugger holds already nobody else can stop. It lets go when its thread ends.
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let traced = nix::unistd::Pid::from_raw(target.pid() as i32);
    let tracer = std::thread::spawn(move || {
        nix::sys::ptrace::seize(traced, nix::sys::ptrace::Options::empty()).unwrap();
        ended.recv().unwrap_err();
    });
    let status = || std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    wait_until("a tracer", PATIENCE, || !status().contains("TracerPid:\t0\n"));
    let document = run(["dump", "--json", "--pid", &pid, "--freeze", "1000"]).expect(0).json();
    let process = &document["processes"][0];
    assert!(process["stopped_ms"].is_null() && process["remarks"].to_string().contains("debugger"), "{process:#}");
    assert!(!process["threads"].as_array().unwrap().is_empty());
    drop(end);
    tracer.join().unwrap();
    target.finish();
}
