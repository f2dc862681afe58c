//! The lower rungs of the ladder of rights: perf events without eBPF, and reading memory only.
//!
//! Truth: the targets under `tests/targets/truth/`. Tolerances are wide, and each test states its own: machines that run
//! tests are busy, and what these rungs read a moment late gets later with the load. Rights are those of `nobody` without
//! any capability, or of root behind a seccomp filter; a rung that is forced is taken whoever asks.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use perfkit::record::{FrameKind, Recording, SampleFlags, State};
use serde_json::Value;

use crate::profiled::{Profiled, Seen, expect_share, profile, samples_of};
use crate::rig::{
    NOBODY, Output, PATIENCE, RUN_LIMIT, Target, compile, for_each_python, is_root, perfkit, python, reachable,
    run_command, run_unprivileged, skip, target_file, wait_until,
};

/// The rungs under test, as `--sampler` takes them.
const RUNGS: [&str; 2] = ["perf", "memory"];

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {path} in {report}"))
}

/// The system's Python running a target as a user without rights: nobody for root, else ourselves.
fn own_target(script: &str, args: &[&str]) -> Target {
    reachable(&target_file("truth/talk.py"));
    let script = reachable(&target_file(&format!("truth/{script}")));
    let words = ["-B".into(), script.into_os_string()].into_iter().chain(args.iter().map(Into::into));
    let launch = Target::program(Path::new("/usr/bin/python3")).args(words);
    if is_root() { launch.user(NOBODY).start() } else { launch.start() }
}

/// Runs `perfkit cpu ARGS` without any right; it must end with 0.
#[track_caller]
fn profile_unprivileged(args: &[&str]) -> Profiled {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let path = home.path().join("run.perfkit");
    let mut words: Vec<OsString> = ["cpu".into(), "--json".into(), "-o".into(), path.clone().into()].into();
    words.extend(args.iter().map(Into::into));
    let output = run_unprivileged(words).expect(0);
    let json = output.json();
    let recording = Recording::open(&path).unwrap();
    Profiled { samples: samples_of(&recording), recording, json, output }
}

/// The line about the sampler; there must be exactly one.
#[track_caller]
fn note(output: &Output) -> &str {
    let mut lines = output.stderr.lines().filter(|l| l.contains("sampler perf:") || l.contains("sampler memory:"));
    let line = lines.next().unwrap_or_else(|| panic!("no word about the sampler: {output:#?}"));
    assert_eq!(lines.next(), None, "more than one line about the sampler: {output:#?}");
    line
}

fn kinds(seen: &Profiled, kind: FrameKind) -> usize {
    seen.samples.iter().filter(|s| s.stack.iter().any(|(k, _)| *k == kind)).count()
}

/// Shares within five sigmas and 6 percentage points: a busy machine delays reads, and each rung has a bias of its own
/// (perf: kernel time without stacks; memory: threads are met where the scheduler lets go of them).
fn shares_are_about_right(seen: &Profiled, before: &Value, after: &Value, but: &[&str]) {
    let cpu = number(after, "/cpu_ns") - number(before, "/cpu_ns");
    for (unit, ns) in after["truth"].as_object().unwrap() {
        if but.contains(&unit.as_str()) {
            continue;
        }
        let truth = (ns.as_f64().unwrap() - number(&before["truth"], &format!("/{unit}"))) / cpu;
        expect_share(unit, seen.share(|s| s.has(unit), |_| true), truth, 0.06);
    }
}

#[test]
fn live_perf_is_taken_by_itself_without_rights() {
    let mut target = own_target("shares.py", &[]);
    let pid = target.pid().to_string();
    let before = target.report();
    let seen = profile_unprivileged(&["--pid", &pid, "-d", "4", "-r", "250"]);
    let after = target.report();
    assert_eq!(seen.json["sampler"], "perf");
    let line = note(&seen.output);
    assert!(line.contains("eBPF needs CAP_BPF and CAP_PERFMON"), "{line}");
    // What system calls cost is there, though their stacks are not.
    assert!(line.contains("time in the kernel has no stacks"), "{line}");
    let (kernel, _) = seen.share(|s| s.has("[kernel]"), |_| true);
    assert!((0.01..0.25).contains(&kernel), "{kernel} of the time is the kernel's");
    assert_eq!(kinds(&seen, FrameKind::Kernel), 0);
    shares_are_about_right(&seen, &before, &after, &["unit_stat"]);
    let own: Vec<_> = seen.samples.iter().filter(|s| !s.has("[kernel]")).collect();
    let part = |of: &dyn Fn(&Seen) -> bool| own.iter().filter(|s| of(s)).count() as f64 / own.len() as f64;
    assert!(part(&|s| s.flags.has(SampleFlags::ROOTED)) > 0.95);
    assert!(part(&|s| s.has("<module>") && s.has("main")) > 0.95);
    assert!(part(&|s| s.flags.has(SampleFlags::APPROXIMATE)) > 0.95);
    assert!(part(&|s| s.stack.iter().any(|(kind, _)| *kind == FrameKind::Native)) > 0.95);
    assert!(target.is_untouched());
    target.finish();
}

#[test]
fn live_memory_is_enough_without_rights() {
    let mut target = own_target("shares.py", &[]);
    let pid = target.pid().to_string();
    let before = target.report();
    let seen = profile_unprivileged(&["--pid", &pid, "-d", "4", "-r", "250", "--sampler", "memory"]);
    let after = target.report();
    assert_eq!(seen.json["sampler"], "memory");
    assert!(note(&seen.output).contains("no native and kernel frames"), "{}", note(&seen.output));
    shares_are_about_right(&seen, &before, &after, &[]);
    assert_eq!(kinds(&seen, FrameKind::Native) + kinds(&seen, FrameKind::Kernel), 0);
    assert!(seen.samples.iter().all(|s| s.state == State::Active));
    // The weights are the scheduler's own account: the sum is the thread's CPU time, less the start of perfkit.
    let weight: u64 = seen.samples.iter().map(|s| s.weight).sum();
    let cpu = number(&after, "/cpu_ns") - number(&before, "/cpu_ns");
    assert!((0.5..1.05).contains(&(weight as f64 / cpu)), "{weight} ns of {cpu}");
    assert!(target.is_untouched());
    target.finish();
}

#[test]
fn live_ebpf_by_force_says_what_it_needs() {
    let target = own_target("flutter.py", &[]);
    let output =
        run_unprivileged(["cpu", "--pid", &target.pid().to_string(), "-d", "1", "--sampler", "ebpf"]).expect(3);
    assert!(output.stderr.contains("CAP_BPF and CAP_PERFMON"), "{output:#?}");
}

#[test]
fn live_a_started_program_is_a_rung_of_its_own() {
    reachable(&target_file("truth/talk.py"));
    let script = reachable(&target_file("truth/shares.py"));
    let script = script.to_str().unwrap();
    for sampler in [&[][..], &["--sampler", "perf"], &["--sampler", "memory"]] {
        let mut args = vec!["-r", "250"];
        args.extend(sampler);
        args.extend(["--", "/usr/bin/python3", "-B", script, "--seconds", "2"]);
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let path = home.path().join("run.perfkit");
        let mut words = vec!["cpu", "-o", path.to_str().unwrap()];
        words.extend(&args);
        let output = run_unprivileged(words).expect(0);
        let samples = samples_of(&Recording::open(&path).unwrap());
        let units = samples.iter().filter(|s| s.has_like("unit_")).count();
        assert!(units > 50, "{sampler:?}: {units} of {} samples in a unit: {output:#?}", samples.len());
    }
}

/// At most this part of the stacks of `flutter.py` may be impossible. On the second rung the thread stands still while it is
/// read, unless the scheduler moves it; on the third it runs. (py-spy --nonblocking: 10 %.)
const IMPOSSIBLE: [(&str, f64); 2] = [("perf", 0.01), ("memory", 0.02)];

#[test]
fn live_impossible_stacks_are_few_on_every_python() {
    let possible = [["<module>", "main", "hot_a", "leaf_a"], ["<module>", "main", "hot_b", "leaf_b"]];
    for_each_python(|python| {
        for (rung, limit) in IMPOSSIBLE {
            let target = Target::python(python, "truth/flutter.py").start();
            let seen = profile(target.pid(), &["-d", "3", "-r", "499", "--sampler", rung]);
            let hot = |f: &&str| f.starts_with("hot_") || f.starts_with("leaf_");
            let (mut bad, mut read) = (Vec::new(), 0_u32);
            for sample in &seen.samples {
                let stack = sample.python();
                read += u32::from(!stack.is_empty());
                if stack.iter().any(hot) && !possible.iter().any(|p| p.starts_with(&stack)) {
                    bad.push(stack);
                }
            }
            assert!(read > 100, "{rung}: {read} stacks of {}", seen.samples.len());
            assert!(f64::from(read) > 0.95 * seen.count(), "{rung}: {read} stacks of {}", seen.samples.len());
            assert!(bad.len() as f64 <= limit * f64::from(read), "{rung}: {} of {read} impossible: {bad:?}", bad.len());
            // What is known to be torn or stale is counted.
            assert!(seen.reading("python.stacks", "").is_some_and(|n| n >= f64::from(read) * 0.9));
            assert!(seen.reading("python.moved", "").is_some() && seen.reading("python.stale", "").is_some());
            assert!(target.is_untouched());
        }
    });
}

#[test]
fn live_mixed_frames_keep_their_order_without_ebpf() {
    for version in ["3.8", "3.10", "3.11", "3.12", "3.13"] {
        let target = Target::python(python(version), "truth/mixed.py").start();
        let chain: Vec<(String, String)> = serde_json::from_value(target.ready()["chain"].clone()).unwrap();
        let seen = profile(target.pid(), &["-d", "3", "-r", "250", "--sampler", "perf"]);
        let in_order = |s: &Seen| {
            let mut steps = chain.iter();
            let mut next = steps.next();
            for (kind, name) in &s.stack {
                if next.is_some_and(|(k, n)| k == kind.name() && name.starts_with(n.as_str())) {
                    next = steps.next();
                }
            }
            // A part from the root: whatever is not reached must not be there at all.
            next.into_iter().chain(steps).all(|(_, n)| !s.has_like(n))
        };
        // Late reads leave out what came or went since; an order that never was is what must not be.
        let deep: Vec<_> = seen.samples.iter().filter(|s| s.has("outer") && s.has_like("mixed_enter")).collect();
        let wrong =
            deep.iter().filter(|s| !in_order(s) && !s.has("[python code gone]") && !s.has("[unmerged]")).count();
        assert!(deep.len() > 50, "{version}: {} samples", deep.len());
        assert!(wrong * 20 <= deep.len(), "{version}: {wrong} of {} out of order", deep.len());
    }
}

#[test]
fn live_threads_that_live_for_milliseconds_are_seen() {
    for rung in RUNGS {
        let mut target = Target::python(python("3.11"), "truth/threads.py").start();
        let before = target.report();
        let seen = profile(target.pid(), &["-d", "6", "-r", "250", "--sampler", rung]);
        let after = target.report();
        let between = |part: &str| number(&after, part) - number(&before, part);
        let (a, b) = (between("/truth/half_a"), between("/truth/half_b"));
        let within = |s: &Seen| s.has("half_a") || s.has("half_b");
        // Timers that fire a period after birth would see next to nothing of the first half.
        expect_share(rung, seen.share(|s| s.has("half_a"), within), a / (a + b), 0.08);
        let weight: u64 = seen.samples.iter().filter(|s| within(s)).map(|s| s.weight).sum();
        let part = weight as f64 / (a + b);
        assert!((0.4..1.5).contains(&part), "{rung}: {part} of the threads' time");
        target.finish();
    }
}

#[test]
fn live_threads_born_later_do_not_run_in_step_with_their_timers() {
    for rung in RUNGS {
        // Changes over after 30 % and 100 % of each 1.001 ms of its own CPU time: what a timer of 999 Hz follows.
        let mut target = Target::python(python("3.11"), "truth/lockstep.py").args(["--clock", "cpu"]).start();
        let pid = target.pid();
        let seen = std::thread::scope(|scope| {
            let run = scope.spawn(move || profile(pid, &["-d", "6", "-r", "999", "--sampler", rung]));
            wait_for_sampler(pid);
            target.ask("go 2");
            run.join().unwrap()
        });
        let report = target.report();
        let late: Vec<u32> =
            report["threads"].as_array().unwrap()[1..].iter().map(|t| number(t, "/tid") as u32).collect();
        let born_late = |s: &Seen| late.contains(&s.tid) && (s.has("phase_a") || s.has("phase_b"));
        let truth = number(&report, "/a_pct") / 100.0;
        expect_share(rung, seen.share(|s| s.has("phase_a"), born_late), truth, 0.06);
        target.finish();
    }
}

/// Waits until a perfkit that was told `pid` samples.
fn wait_for_sampler(pid: u32) {
    let argument = pid.to_string();
    wait_until("a perfkit that samples", PATIENCE, || {
        fs::read_dir("/proc").into_iter().flatten().flatten().any(|process| {
            let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let mut words = command.split(|b| *b == 0);
            let ours = words.next().is_some_and(|w| w == perfkit().as_os_str().as_encoded_bytes());
            let tasks = || fs::read_dir(process.path().join("task")).into_iter().flatten().flatten();
            let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            ours && words.any(|w| w == argument.as_bytes()) && tasks().any(|t| name(t).trim_end() == "perfkit-sampler")
        })
    });
}

#[test]
fn live_children_and_new_programs_are_followed_without_ebpf() {
    for rung in RUNGS {
        let mut target = Target::python(python("3.11"), "truth/forker.py").start();
        let pid = target.pid();
        let early = target.ask("fork");
        let (seen, forked, spawned) = std::thread::scope(|scope| {
            let run = scope.spawn(move || profile(pid, &["-d", "6", "-r", "250", "--subprocesses", "--sampler", rung]));
            wait_for_sampler(pid);
            let (forked, spawned) = (target.ask("fork"), target.ask("spawn"));
            (run.join().unwrap(), forked, spawned)
        });
        for (child, function) in [(&early, "forked_work"), (&forked, "forked_work"), (&spawned, "fresh_work")] {
            let found = seen.samples.iter().filter(|s| child["pid"] == s.pid && s.has(function)).count();
            assert!(found > 5, "{rung}: {found} samples of {function} in {child}");
        }
        assert!(seen.samples.iter().any(|s| s.pid == pid && s.has("parent_work")));
        let seen = std::thread::scope(|scope| {
            let run = scope.spawn(move || profile(pid, &["-d", "6", "-r", "250", "--sampler", rung]));
            wait_for_sampler(pid);
            target.ask("exec");
            run.join().unwrap()
        });
        let fresh = seen.samples.iter().filter(|s| s.has("fresh_work")).count();
        assert!(fresh > 20, "{rung}: {fresh} samples after exec");
        target.finish();
    }
}

#[test]
fn live_waits_are_met_by_a_timer() {
    for rung in RUNGS {
        let mut target = Target::python(python("3.11"), "truth/offcpu.py").start();
        let before = target.report();
        let seen = profile(target.pid(), &["-d", "5", "-r", "199", "--mode", "wall", "--sampler", rung]);
        let after = target.report();
        let elapsed = (seen.recording.ended().0 - seen.recording.started().0) as f64;
        let span = number(&after, "/at_ns") - number(&before, "/at_ns");
        for (name, thread) in after["threads"].as_object().unwrap() {
            let tid = number(thread, "/tid") as u32;
            let sum = |state: &[State]| -> f64 {
                let of = seen.samples.iter().filter(|s| s.tid == tid && state.contains(&s.state));
                of.map(|s| s.weight as f64).sum()
            };
            let all = sum(&[State::OnCpu, State::Active, State::OffCpu, State::Runnable]);
            // From the first look on, until the last.
            assert!((all / elapsed - 1.0).abs() < 0.1, "{rung}, {name}: {all:.3e} of {elapsed:.3e} ns");
            let on = (number(thread, "/on_ns") - number(&before["threads"][name], "/on_ns")) * elapsed / span;
            let off = sum(&[State::OffCpu]);
            assert!(off <= elapsed - on + 0.1 * elapsed, "{rung}, {name}: off {off:.3e}, on the CPU {on:.3e} ns");
            let reason = thread["reason"].as_str().unwrap();
            if reason != "none" && reason != "disk" {
                let waits = |s: &Seen| s.tid == tid && s.state == State::OffCpu;
                let (share, _) = seen.share(|s| s.reason == Some(reason), waits);
                assert!(share > 0.8, "{rung}, {name}: {reason} is {share:.3} of its waits");
            }
        }
        target.finish();
    }
}

#[test]
fn live_native_code_without_events_is_times_alone() {
    let target = Target::native("truth/shares.c").start();
    let seen = profile(target.pid(), &["-d", "2", "-r", "99", "--sampler", "memory"]);
    assert!(note(&seen.output).contains("only the times of its threads"), "{}", note(&seen.output));
    let weight: u64 = seen.samples.iter().map(|s| s.weight).sum();
    assert!(weight > 200_000_000 && seen.samples.iter().all(|s| s.stack.len() == 1), "{weight} ns");
    let seen = profile(target.pid(), &["-d", "2", "-r", "250", "--sampler", "perf"]);
    seen.expect_flag(SampleFlags::ROOTED, 0.99, "unwound");
    assert!(seen.samples.iter().all(|s| !s.flags.has(SampleFlags::APPROXIMATE)));
}

#[test]
fn live_rungs_reach_into_other_namespaces() {
    if !is_root() {
        let _ = skip("root for unshare");
        return;
    }
    let words = ["unshare", "--pid", "--mount", "--fork", "--mount-proc"];
    for version in ["3.8", "3.11", "3.13"] {
        let target = Target::python(python(version), "truth/flutter.py").through(&words).start();
        for rung in RUNGS {
            let seen = profile(target.pid(), &["-d", "2", "-r", "250", "--sampler", rung]);
            let whole = seen.samples.iter().filter(|s| s.has("main") && s.has("<module>")).count();
            let n = seen.samples.len();
            assert!(n > 10 && whole * 100 > n * 95, "{version}, {rung} from outside: {whole} of {n}");
        }
        // perfkit in the target's own namespaces, where it has another pid.
        for sampler in ["ebpf", "perf", "memory"] {
            let home = tempfile::tempdir().unwrap();
            let path = home.path().join("run.perfkit");
            let mut command = Command::new("nsenter");
            command.args(["--target", &target.pid().to_string(), "--pid", "--mount", "--"]).arg(perfkit());
            command.args(["cpu", "--pid", "1", "-d", "2", "-r", "250", "--sampler", sampler, "-o"]).arg(&path);
            run_command(command, RUN_LIMIT).expect(0);
            let samples = samples_of(&Recording::open(&path).unwrap());
            let whole = samples.iter().filter(|s| s.has("main") && s.has("<module>")).count();
            let n = samples.len();
            assert!(n > 50 && whole * 100 > n * 95, "{version}, {sampler} from inside: {whole} of {n}");
        }
    }
}

/// Runs the command behind a seccomp filter that answers EPERM to the system calls named first, as containers do.
const FILTER: &str = "
import ctypes, os, struct, sys
calls = [int(n) for n in sys.argv[1].split(',')]
code = [struct.pack('HBBI', 0x20, 0, 0, 0)]
code += [struct.pack('HBBI', 0x15, len(calls) - i, 0, n) for i, n in enumerate(calls)]
code += [struct.pack('HBBI', 0x06, 0, 0, 0x7fff0000), struct.pack('HBBI', 0x06, 0, 0, 0x00050001)]
text = ctypes.create_string_buffer(b''.join(code))
program = struct.pack('HxxxxxxQ', len(code), ctypes.addressof(text))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.create_string_buffer(program)) == 0, ctypes.get_errno()
os.execv(sys.argv[2], sys.argv[2:])
";
const PERF_EVENT_OPEN: u32 = 298;
const PROCESS_VM_READV: u32 = 310;
const BPF: u32 = 321;

fn run_filtered(calls: &[u32], args: &[&str]) -> Output {
    let calls: Vec<String> = calls.iter().map(ToString::to_string).collect();
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", FILTER, &calls.join(",")]).arg(perfkit()).args(args);
    run_command(command, RUN_LIMIT)
}

#[test]
fn live_a_seccomp_filter_leads_to_the_next_rung_and_is_named() {
    let target = Target::python(python("3.11"), "truth/flutter.py").start();
    let pid = target.pid().to_string();
    let cpu = ["cpu", "--pid", &pid, "-d", "1", "--json"];
    let output = run_filtered(&[BPF, PERF_EVENT_OPEN], &cpu).expect(0);
    assert_eq!(output.json()["sampler"], "memory");
    let line = note(&output);
    assert!(line.contains("perf events: a seccomp filter forbids perf_event_open"), "{line}");
    // And nothing at all: one sentence, and what to do.
    let output = run_filtered(&[BPF, PERF_EVENT_OPEN, PROCESS_VM_READV], &cpu).expect(3);
    let said: Vec<_> = output.stderr.lines().collect();
    assert!(said[0].contains("a seccomp filter forbids reading the memory of process"), "{said:?}");
    assert!(output.stderr.contains("--cap-add SYS_PTRACE"), "{output:#?}");
    // Events without memory: native stacks, and a word about the rest.
    let output = run_filtered(&[BPF, PROCESS_VM_READV], &cpu).expect(0);
    assert_eq!(output.json()["sampler"], "perf");
    assert!(note(&output).contains("no Python frames"), "{output:#?}");
    assert!(target.is_untouched());
}

#[test]
fn live_another_users_process_is_refused_on_every_rung() {
    if !is_root() {
        let _ = skip("root to be someone else");
        return;
    }
    let native: PathBuf = compile("truth/nofp.c", &[]);
    let target = Target::program(&native).start();
    let pid = target.pid().to_string();
    for sampler in [&[][..], &["--sampler", "ebpf"], &["--sampler", "perf"], &["--sampler", "memory"]] {
        let mut args = vec!["cpu", "--pid", &pid, "-d", "1"];
        args.extend(sampler);
        let output = run_unprivileged(args).expect(3);
        assert!(output.stderr.contains("CAP_SYS_PTRACE") && output.stderr.contains("sudo"), "{output:#?}");
    }
    assert!(target.is_untouched());
}
