//! The targets themselves: each starts, answers and ends on every interpreter or compiler here, and what it says of itself
//! adds up. A truth that is wrong would make every test of perfkit wrong.

use serde_json::Value;

use crate::rig::{Python, Target, compile, for_each_python, python, wait_until};

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {path} in {report}"))
}

/// Lets the target work until its report satisfies `enough`.
fn work_until(target: &mut Target, enough: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    wait_until("enough work", crate::rig::PATIENCE, || {
        last = target.report();
        enough(&last)
    });
    last
}

fn sum_of(truth: &Value) -> f64 {
    truth.as_object().unwrap().values().map(|v| v.as_f64().unwrap()).sum()
}

#[test]
fn live_shares_add_up_in_every_mode() {
    for_each_python(|python| {
        for args in [&[][..], &["--threads", "3"], &["--asyncio", "3"]] {
            let mut target = Target::python(python, "truth/shares.py").args(args).start();
            let report = work_until(&mut target, |r| number(r, "/cpu_ns") > 3e8);
            let (cpu, rest) = (number(&report, "/cpu_ns"), number(&report, "/rest_ns"));
            assert!((sum_of(&report["truth"]) + rest - cpu).abs() < 1.0, "{report}");
            assert!((-0.02..0.2).contains(&(rest / cpu)), "the clock costs too much: {report}");
            let smallest = report["truth"].as_object().unwrap().values().map(|v| v.as_f64().unwrap() / cpu);
            assert!(smallest.fold(1.0, f64::min) > 0.01, "a unit has next to no share: {report}");
            target.finish();
        }
    });
}

#[test]
fn live_other_python_targets_tell_their_truth() {
    for_each_python(|python| {
        clock_wrapper(python);
        lockstep(Target::python(python, "truth/lockstep.py").args(["--clock", "cpu"]).start(), 30.0);
        lockstep(Target::python(python, "truth/lockstep.py").start(), 37.5);
        waits(Target::python(python, "truth/offcpu.py").start());
        depth(python);
        mixed(python);
        dlopen(python);
        churn(python);
        forker(python);
        let mut target = Target::python(python, "truth/threads.py").start();
        let report = work_until(&mut target, |r| number(r, "/threads") >= 20.0);
        assert!(number(&report, "/truth/half_b") > number(&report, "/truth/half_a"), "{report}");
        target.finish();
        units(python);
    });
}

fn clock_wrapper(python: &Python) {
    let mut target = Target::python(python, "truth/clock_wrapper.py").start();
    let report = work_until(&mut target, |r| number(r, "/cpu_ns") > 1e8);
    assert!((1.0..4.0).contains(&number(&report, "/wrapper_pct")), "not about 2 %: {report}");
    target.finish();
}

fn lockstep(mut target: Target, a_pct: f64) {
    let begun = target.ask("go 2");
    assert_eq!(begun["threads"].as_array().unwrap().len(), 3, "{begun}");
    let done =
        |r: &Value| r["threads"].as_array().unwrap().iter().all(|t| t["b_ns"].as_u64().is_some_and(|b| b > 50_000_000));
    let report = work_until(&mut target, done);
    assert!((number(&report, "/a_pct") - a_pct).abs() < 3.0, "{report}");
    target.finish();
}

fn waits(mut target: Target) {
    let report = work_until(&mut target, |r| number(r, "/threads/sleeper/waits") >= 5.0);
    for (name, thread) in report["threads"].as_object().unwrap() {
        let elapsed = number(&report, "/at_ns") - number(thread, "/born_ns");
        let off = elapsed - number(thread, "/on_ns") - number(thread, "/runnable_ns");
        // The report is not made in an instant: others may run between the reading of the clock and that of a thread.
        assert!(off > -20e6, "{name} was on the CPU for longer than it lives: {report}");
        if thread["reason"] == "sleep" {
            assert!(off > 0.5 * elapsed, "{name} hardly slept: {report}");
        }
    }
    target.finish();
}

fn depth(python: &Python) {
    let mut target = Target::python(python, "truth/depth.py").start();
    assert_eq!(target.ready()["python_frames"], 30);
    assert_eq!(target.ask("deep")["python_frames"], 404);
    assert_eq!(target.ask("native")["python_frames"], Value::Null);
    target.finish();
}

fn mixed(python: &Python) {
    let mut target = Target::python(python, "truth/mixed.py").start();
    assert_eq!(target.ready()["chain"].as_array().unwrap().len(), 9);
    let report = work_until(&mut target, |r| number(r, "/rounds") > 50.0);
    for (part, ns) in report["truth"].as_object().unwrap() {
        assert!(ns.as_f64().unwrap() > 0.05 * sum_of(&report["truth"]), "{part} has next to no share: {report}");
    }
    target.finish();
}

fn dlopen(python: &Python) {
    let mut target = Target::python(python, "truth/dlopen.py").start();
    assert_eq!(target.report()["loaded"], Value::Null);
    let loaded = target.ask("load");
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", target.pid())).unwrap();
    assert!(maps.contains(loaded["loaded"].as_str().unwrap()), "{loaded}");
    work_until(&mut target, |r| number(r, "/truth/call_late") > 1e7);
    target.finish();
}

fn churn(python: &Python) {
    let mut target = Target::python(python, "truth/churn.py").start();
    let report = work_until(&mut target, |r| number(r, "/made") > 50.0);
    assert!(number(&report, "/truth/run_made") > number(&report, "/truth/compile_one"), "{report}");
    target.finish();
}

fn forker(python: &Python) {
    let mut target = Target::python(python, "truth/forker.py").start();
    let forked = target.ask("fork");
    let spawned = target.ask("spawn");
    let exists = |child: &Value| std::path::Path::new(&format!("/proc/{}", child["pid"])).exists();
    assert!(exists(&forked) && exists(&spawned));
    assert_eq!(target.ask(&format!("end {}", forked["pid"]))["status"], 9);
    assert!(!exists(&forked));
    let pid = target.pid();
    let fresh = target.ask("exec");
    assert_eq!((&fresh["execed"], fresh["pid"].as_u64()), (&Value::Bool(true), Some(u64::from(pid))));
    // The new image does not know the spawned child; being the same process, it is still its parent, so the child lives on
    // until this process ends.
    target.finish();
    wait_until("the child's end", crate::rig::PATIENCE, || !exists(&spawned));
}

fn units(python: &Python) {
    let mut target = Target::python(python, "truth/units.py").start();
    work_until(&mut target, |r| number(r, "/units") > 100.0);
    let file = tempfile::NamedTempFile::new().unwrap();
    let dumped = target.ask(&format!("dump {}", file.path().display()));
    let bytes = std::fs::read(file.path()).unwrap();
    assert_eq!(bytes.len() as u64, 24 * dumped["units"].as_u64().unwrap());
    let words: Vec<u64> = bytes.chunks(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect();
    let mut cpu: Vec<u64> = words.chunks(3).map(|u| u[2]).collect();
    cpu.sort_unstable();
    assert!((300_000..3_000_000).contains(&cpu[cpu.len() / 2]), "a unit takes {} ns", cpu[cpu.len() / 2]);
    assert!(words.chunks(3).zip(words.chunks(3).skip(1)).all(|(a, b)| a[0] + a[1] <= b[0]), "units overlap");
    target.finish();
}

#[test]
fn live_native_targets_tell_their_truth() {
    for args in [&[][..], &["3"]] {
        let mut target = Target::native("truth/shares.c").args(args).start();
        let report = work_until(&mut target, |r| number(r, "/cpu_ns") > 2e8);
        assert!((0.0..0.03).contains(&(number(&report, "/rest_ns") / number(&report, "/cpu_ns"))), "{report}");
        target.finish();
    }
    lockstep(Target::native("truth/lockstep.c").args(["cpu"]).start(), 30.0);
    lockstep(Target::native("truth/lockstep.c").args(["wall"]).start(), 37.5);
    waits(Target::native("truth/offcpu.c").start());
    for (flags, parts, share) in [(&[][..], ["leaf_many", "leaf_few"], 0.7), (&["-s"], ["leaf_many", "leaf_few"], 0.7)]
    {
        ratio(Target::program(&compile("truth/nofp.c", flags)).start(), parts, share);
    }
    ratio(Target::native("truth/templates.cpp").start(), ["weigh", "provoke"], 0.5);
    ratio(Target::native("truth/nest.rs").start(), ["elf", "ogre"], 0.6);
}

/// The two parts' times, of which the first should have `share` within what a busy machine does to calibrated work.
fn ratio(mut target: Target, parts: [&str; 2], share: f64) {
    let times = |r: &Value| parts.map(|p| number(&r["truth"], &format!("/{p}")));
    let report = work_until(&mut target, |r| times(r).iter().sum::<f64>() > 1e8);
    let [first, second] = times(&report);
    assert!((first / (first + second) - share).abs() < 0.25, "{report}");
    target.finish();
}

#[test]
fn live_a_target_in_another_pid_namespace_is_known_by_our_pid() {
    if !crate::rig::is_root() {
        let _ = crate::rig::skip("root for unshare");
        return;
    }
    let mut target =
        Target::python(python(""), "truth/flutter.py").through(&["unshare", "--pid", "--mount", "--fork"]).start();
    assert_eq!(target.ready()["pid"], 1);
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", target.pid())).unwrap();
    assert!(line.contains("flutter.py") && !line.contains("unshare"), "{line}");
    target.report();
    target.finish();
}
