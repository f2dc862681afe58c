//! `perfkit dump` on real processes: every thread's stack against what the target says of itself, states, the GIL, rights,
//! and that the target never notices.
//!
//! Tolerance: none for threads that sleep (names, files and lines are equal); threads that run are on one of their chains.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::Value;

use crate::rig::{
    Launch, NOBODY, PATIENCE, Python, RUN_LIMIT, Target, compile, for_each_python, is_root, perfkit, python, reachable,
    run, run_command, run_unprivileged, skip, target_file, wait_until,
};

/// The one process of a dump.
fn dump(target: &Target, flags: &[&str]) -> Value {
    let pid = target.pid().to_string();
    let words = ["dump", "--json", "--pid", &pid];
    one_process(&run(words.iter().chain(flags)).expect(0).json())
}

fn one_process(document: &Value) -> Value {
    let processes = document["processes"].as_array().unwrap();
    assert_eq!(processes.len(), 1, "{document}");
    processes[0].clone()
}

fn threads(process: &Value) -> &Vec<Value> {
    process["threads"].as_array().unwrap()
}

/// The functions of a thread, frames of one kind.
fn functions<'a>(thread: &'a Value, kind: &str) -> Vec<&'a str> {
    let frames = thread["frames"].as_array().unwrap();
    frames.iter().filter(|f| f["kind"] == kind).map(|f| f["function"].as_str().unwrap_or("?")).collect()
}

/// Whether `wanted` stand in `found` in this order, perhaps with others in between.
fn has_in_order<'a>(found: &[&str], wanted: impl IntoIterator<Item = &'a str>) -> bool {
    let mut rest = found.iter();
    wanted.into_iter().all(|w| rest.any(|f| *f == w))
}

/// Waits until no thread of a process has got a CPU for 50 ms: all of them have come to rest.
fn rest(target: &Target) {
    let turns = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", target.pid())).unwrap().flatten();
        tasks.map(|t| std::fs::read_to_string(t.path().join("schedstat")).unwrap_or_default()).collect::<Vec<_>>()
    };
    let (mut last, mut calm) = (turns(), 0);
    wait_until("rest", PATIENCE, || {
        let now = turns();
        calm = if now == last { calm + 1 } else { 0 };
        last = now;
        calm >= 25
    });
}

/// Starts a target whose threads all sleep.
fn waiting(launch: Launch) -> Target {
    let target = launch.start();
    rest(&target);
    target
}

/// A stack of a thread that sleeps is of one instant, reaches the root and is in order.
#[track_caller]
fn is_exact(thread: &Value) {
    let facts = ["taken", "native_end", "python_complete", "merged"].map(|field| &thread[field]);
    assert!(facts[0] == "asleep" && facts[1] == "root" && *facts[2] == true && *facts[3] == true, "{thread:#}");
}

#[test]
fn live_stacks_of_threads_that_sleep_equal_what_python_says() {
    for_each_python(|python| {
        let target = waiting(Target::python(python, "py/reader_stacks.py"));
        let process = dump(&target, &[]);
        let truth = target.ready();
        assert_eq!(process["runtime"], format!("CPython {}", truth["version"].as_str().unwrap()));
        let expected = truth["threads"].as_array().unwrap();
        assert_eq!(threads(&process).len(), expected.len());
        for wanted in expected {
            let ident = format!("{:#x}", wanted["ident"].as_u64().unwrap());
            let thread = threads(&process).iter().find(|t| t["python_id"] == *ident).unwrap();
            assert_eq!(thread["python_name"], wanted["name"]);
            is_exact(thread);
            let frames = thread["frames"].as_array().unwrap().iter().filter(|f| f["kind"] == "python");
            let found: Vec<_> = frames.map(|f| [&f["function"], &f["file"], &f["line"]]).collect();
            let stack = wanted["stack"].as_array().unwrap();
            assert_eq!(found.len(), stack.len(), "{thread:#}");
            for (found, wanted) in found.iter().zip(stack) {
                // Up to 3.10 the interpreter tells the bare name only, and we may know better.
                let (function, bare) = (found[0].as_str().unwrap(), wanted[0].as_str().unwrap());
                let same = function == bare || (python.version < (3, 11, 0) && function.ends_with(&format!(".{bare}")));
                assert!(same && *found[1] == wanted[1] && *found[2] == wanted[2], "{found:?} is not {wanted}");
            }
            let roots = functions(thread, "native");
            assert!(has_in_order(&roots, ["_start"]) || has_in_order(&roots, ["start_thread"]), "{thread:#}");
        }
        assert!(target.is_untouched());
    });
}

#[test]
fn live_threads_say_where_they_wait() {
    for_each_python(|python| {
        let target = waiting(Target::python(python, "dump/waits.py"));
        let process = dump(&target, &["--locals"]);
        for (name, wanted) in target.ready()["threads"].as_object().unwrap() {
            let thread = threads(&process).iter().find(|t| t["python_name"] == **name).unwrap();
            is_exact(thread);
            assert!(thread["state"] == "sleeping" && thread["gil"].is_null(), "{thread:#}");
            assert_eq!(thread["wait"]["call"], wanted["call"], "{name}");
            let chain: Vec<&str> = wanted["chain"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
            let bare: Vec<&str> =
                functions(thread, "python").into_iter().map(|f| f.rsplit('.').next().unwrap()).collect();
            assert!(has_in_order(&bare, chain), "{name}: {bare:?} against {wanted}");
            let digs = bare.iter().filter(|f| **f == "dig").count();
            assert_eq!(digs, if name == "deep" { 501 } else { 0 });
        }
        let of = |name: &str| threads(&process).iter().find(|t| t["python_name"] == *name).unwrap();
        assert!(of("pipe")["wait"]["fd_target"].as_str().unwrap().starts_with("pipe:["));
        assert_eq!(of("event_loop")["wait"]["fd_target"], "anon_inode:[eventpoll]");
        // The key function stands above list.sort, which stands above the frame that called it.
        let sort = of("in_sort")["frames"].as_array().unwrap();
        let all: Vec<&str> =
            sort.iter().map(|f| f["function"].as_str().unwrap_or("?").rsplit('.').next().unwrap()).collect();
        assert!(has_in_order(&all, ["acquire_one", "<lambda>", "in_sort"]), "{all:?}");
        let at = |name: &str| all.iter().position(|f| *f == name).unwrap();
        let between = &sort[at("<lambda>") + 1..at("in_sort")];
        assert!(between.len() > 2 && between.iter().all(|f| f["interpreter"] == true), "{all:?}");
        let nap = of("nap")["frames"].as_array().unwrap().iter().find(|f| f["function"] == "nap").unwrap();
        let local = |name: &str| {
            nap["locals"].as_array().unwrap().iter().find(|l| l["name"] == *name).unwrap()["value"].clone()
        };
        assert!(local("count") == "3" && local("token") == "<redacted>", "{nap:#}");
        // Nobody runs, so nobody has the GIL.
        assert_eq!(process["gil"][0]["locked"], false, "{}", process["gil"]);
        assert!(target.is_untouched());
    });
}

#[test]
fn live_threads_that_run_are_met_on_their_cpu() {
    if !is_root() {
        let _ = skip("root for eBPF");
        return;
    }
    let (all, starved) = (AtomicU32::new(0), AtomicU32::new(0));
    for_each_python(|python| {
        let mut target = waiting(Target::python(python, "dump/waits.py"));
        target.ask("busy");
        let process = dump(&target, &[]);
        let of = |name: &str| threads(&process).iter().find(|t| t["python_name"] == *name).unwrap();
        let mut holders = 0;
        for name in ["compute_one", "compute_two"] {
            let thread = of(name);
            assert!(functions(thread, "python").contains(&name), "{thread:#}");
            all.fetch_add(1, Ordering::Relaxed);
            if thread["taken"] == "approximate" {
                // It did not get a CPU for as long as we waited.
                starved.fetch_add(1, Ordering::Relaxed);
                assert!(thread["state"] == "runnable" && !thread["remark"].is_null(), "{thread:#}");
                continue;
            }
            assert!(thread["merged"] == true && thread["native_end"] == "root", "{thread:#}");
            holders += u32::from(thread["gil"] == "holds");
            if thread["taken"] == "asleep" {
                // A thread that computes sleeps for nothing but the GIL.
                assert!(thread["gil"] == "waits" && thread["wait"]["call"] == "futex", "{thread:#}");
            } else {
                assert!(thread["taken"] == "sampled" && thread["state"] == "running", "{thread:#}");
            }
        }
        // Each thread is seen at an instant of its own: the GIL may pass from one to the other in between.
        assert!((1..=2).contains(&holders) || starved.load(Ordering::Relaxed) > 0, "{process:#}");
        assert_eq!(process["gil"].as_array().unwrap().len(), 1);
        assert!(target.is_untouched());
    });
    let (starved, all) = (starved.into_inner(), all.into_inner());
    assert!(starved * 4 <= all, "{starved} of {all} threads that run were not met on a CPU");
}

#[test]
fn live_a_restless_thread_is_never_torn_in_silence() {
    for_each_python(|python| {
        let mut target = Target::python(python, "dump/waits.py").args(["restless"]).start();
        let ident = format!("{:#x}", target.ready()["threads"]["restless"]["ident"].as_u64().unwrap());
        let mut taken = BTreeMap::new();
        for _ in 0..10 {
            let process = dump(&target, &["--python-only"]);
            let thread = threads(&process).iter().find(|t| t["python_id"] == *ident).unwrap();
            let how = thread["taken"].as_str().unwrap().to_owned();
            let stack = functions(thread, "python");
            let possible = match &stack[..] {
                ["restless", ..] | ["pause_a" | "pause_b", "restless", ..] => true,
                // Starting and ending of the bodies are seen as well, by whoever looks early.
                _ => false,
            };
            assert!(possible || how == "approximate", "{thread:#}");
            *taken.entry(how).or_insert(0) += 1;
        }
        assert!(taken.get("asleep").is_some_and(|n| *n > 5), "{taken:?}");
        assert!(target.report()["pauses"].as_u64().unwrap() > 0);
    });
}

#[test]
fn live_threads_that_come_and_go_cost_nobody_his_stack() {
    for_each_python(|python| {
        let target = Target::python(python, "dump/mayflies.py").start();
        for _ in 0..10 {
            let process = dump(&target, &[]);
            let main = &threads(&process)[0];
            assert_eq!(main["python_name"], "MainThread");
            assert!(functions(main, "python").contains(&"main"), "{main:#}");
            assert_eq!(main["native_end"], "root", "{main:#}");
        }
        assert!(target.is_untouched());
    });
}

#[test]
fn live_native_threads_reach_the_root() {
    // With and without frame pointers, unoptimised, and without the sorted unwind table.
    for flags in [&[][..], &["-fno-omit-frame-pointer"], &["-O0"], &["-static"]] {
        let mut target = Target::program(&compile("dump/sleepers.c", flags)).start();
        let process = dump(&target, &[]);
        sleepers(&target, &process, &["middle", "outer", "start_thread"]);
        let main = &threads(&process)[0];
        assert!(has_in_order(&functions(main, "native"), ["poll", "main", "_start"]), "{flags:?} {main:#}");
        if target.ready()["ring"] == true {
            let worker =
                threads(&process).iter().find(|t| t["name"].as_str().unwrap().starts_with("iou-wrk-")).unwrap();
            assert!(worker["remark"].as_str().unwrap().contains("works for the kernel"), "{worker:#}");
            assert_eq!(functions(worker, "native"), Vec::<&str>::new());
        }
        assert!(target.is_untouched());
        target.kill();
    }
    for flags in [&[][..], &["-Cforce-frame-pointers=yes"], &["-Copt-level=0"]] {
        let target = waiting(Target::program(&compile("dump/sleepers.rs", flags)));
        sleepers(&target, &dump(&target, &[]), &["start_thread"]);
        assert!(target.is_untouched());
        target.finish();
    }
}

/// Every thread of the ready line under its known frames, `root` below them.
fn sleepers(target: &Target, process: &Value, root: &[&str]) {
    for wanted in target.ready()["threads"].as_array().unwrap() {
        let thread = threads(process).iter().find(|t| t["tid"] == wanted["tid"]).unwrap();
        let name = &wanted["name"];
        assert_eq!((&thread["name"], &thread["wait"]["call"]), (name, &wanted["call"]), "{thread:#}");
        assert_eq!(thread["taken"], "asleep", "{thread:#}");
        let state = if name == "vfork" { "uninterruptible" } else { "sleeping" };
        assert_eq!(thread["state"], state, "{thread:#}");
        // Where SP was moved at run time nothing but a search finds the frame pointer; it says so.
        let searched = (name == "alloca" || name == "aligned") && thread["native_end"] == "guessed";
        assert!(searched || thread["native_end"] == "root", "{thread:#}");
        let found = functions(thread, "native");
        let frames = wanted["frames"].as_array().unwrap().iter().map(|f| f.as_str().unwrap());
        assert!(has_in_order(&found, frames.chain(root.iter().copied())), "{name}: {found:?}");
        if name == "deep" {
            assert_eq!(found.iter().filter(|f| **f == "in_deep").count(), 301);
        }
    }
}

#[test]
fn live_a_process_whose_main_thread_has_ended() {
    let target = &mut waiting(Target::native("dump/sleepers.c").args(["orphan"]));
    let process = dump(target, &[]);
    let main = &threads(&process)[0];
    assert!(main["state"] == "ended" && main["tid"] == target.pid(), "{main:#}");
    sleepers(target, &process, &["middle", "outer", "start_thread"]);
    let refused = run(["cpu", "-d", "1", "--pid", &target.pid().to_string()]).expect(3);
    assert!(refused.stderr.contains("main thread") && refused.stderr.contains("perfkit dump"), "{refused:?}");
    target.kill();
}

#[test]
fn live_a_target_is_never_stopped_traced_signalled_or_written_to() {
    let mut target = waiting(Target::python(python(""), "dump/waits.py"));
    target.ask("busy");
    let (pid, done) = (target.pid(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Looks at every thread's state as often as it can while dumps are taken.
        let watcher = scope.spawn(|| {
            let (mut looks, mut touched) = (0_u64, Vec::new());
            while !done.load(Ordering::SeqCst) {
                for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
                    let status = std::fs::read_to_string(task.path().join("status")).unwrap();
                    let field =
                        |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().to_owned();
                    looks += 1;
                    if field("TracerPid:") != "0" || field("State:").starts_with(['T', 't']) {
                        touched.push(status);
                    }
                }
            }
            (looks, touched)
        });
        for flags in [&["--locals"][..], &["--python-only"], &["--all"]] {
            // A process that may not ptrace, signal or write to another: it is killed if it tries.
            let mut command = Command::new(&python("").path);
            command
                .arg(target_file("dump/harmless.py"))
                .arg(perfkit())
                .args(["dump", "--pid", &pid.to_string()])
                .args(flags);
            let out = run_command(command, RUN_LIMIT).expect(0);
            assert!(out.stdout.contains("compute_one"), "{out:?}");
        }
        done.store(true, Ordering::SeqCst);
        let (looks, touched) = watcher.join().unwrap();
        assert!(looks > 100, "only {looks} looks");
        assert!(touched.is_empty(), "{touched:?}");
    });
    target.report();
}

#[test]
fn live_without_rights_ones_own_process_has_whole_stacks() {
    let system = crate::rig::interpreters().iter().find(|p| p.path.starts_with("/usr"));
    let Some(system) = system else {
        let _ = skip("a system python3");
        return;
    };
    let script = reachable(&target_file("dump/waits.py"));
    reachable(&target_file("truth/talk.py"));
    let launch = Target::program(&system.path).args([script.as_os_str()]);
    let launch = launch.env("PYTHONPATH", script.parent().unwrap()).env("PYTHONDONTWRITEBYTECODE", "1");
    let mut target = waiting(if is_root() { launch.user(NOBODY) } else { launch });
    let all = target.ask("busy");
    let pid = target.pid().to_string();
    let process = one_process(&run_unprivileged(["dump", "--json", "--pid", &pid]).expect(0).json());
    for (name, wanted) in all["threads"].as_object().unwrap() {
        let thread = threads(&process).iter().find(|t| t["python_name"] == **name).unwrap();
        let leaf = wanted["chain"][0].as_str().unwrap();
        assert!(functions(thread, "python").contains(&leaf), "{thread:#}");
        if wanted["call"].is_null() {
            // Met without eBPF: the Python frames are later than the native ones, and say so.
            assert!(matches!(thread["taken"].as_str(), Some("approximate" | "asleep")), "{thread:#}");
        } else {
            is_exact(thread);
        }
    }
    assert!(!process["remarks"].as_array().unwrap().is_empty(), "what is lost is not said");
}

#[test]
fn live_another_pid_namespace() {
    if !is_root() {
        let _ = skip("root for unshare");
        return;
    }
    for_each_python(|python: &Python| {
        let through = ["unshare", "--pid", "--mount", "--mount-proc", "--fork"];
        let mut target = waiting(Target::python(python, "dump/waits.py").through(&through));
        assert_eq!(target.ready()["pid"], 1);
        let all = target.ask("busy");
        let process = dump(&target, &[]);
        for (name, wanted) in all["threads"].as_object().unwrap() {
            let thread = threads(&process).iter().find(|t| t["python_name"] == **name).unwrap();
            assert!(functions(thread, "python").contains(&wanted["chain"][0].as_str().unwrap()), "{thread:#}");
            assert_ne!(thread["own_tid"], thread["tid"]);
            assert_eq!(thread["native_end"], "root", "{thread:#}");
        }
    });
}

#[test]
fn what_cannot_be_dumped_is_told() {
    let told = |pid: &str, code: i32, words: &[&str]| {
        let out = run(["dump", "--pid", pid]).expect(code);
        assert!(out.stdout.is_empty(), "{out:?}");
        assert!(words.iter().all(|w| out.stderr.contains(w)), "{out:?}");
    };
    told("999999999", 3, &["no process 999999999"]);
    told("0", 2, &["0 is not"]);
    if std::fs::read_to_string("/proc/2/comm").is_ok_and(|c| c.trim() == "kthreadd") {
        told("2", 3, &["kernel thread"]);
    }
    let mut child = Command::new("true").spawn().unwrap();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    wait_until("a zombie", PATIENCE, || state().contains(") Z "));
    told(&child.id().to_string(), 3, &["zombie"]);
    child.wait().unwrap();
    if is_root() {
        let target = Target::python(python(""), "dump/waits.py").start();
        let out = run_unprivileged(["dump", "--pid", &target.pid().to_string()]).expect(3);
        assert!(out.stderr.contains("user root") && out.stderr.contains("help:"), "{out:?}");
    } else {
        let _ = skip("root for another user's process");
    }
}

#[test]
fn live_text_for_people() {
    let target = waiting(Target::python(python(""), "dump/waits.py"));
    let pid = target.pid().to_string();
    let text = |flags: &[&str]| run(["dump", "--pid", &pid].iter().chain(flags)).expect(0).stdout;
    let usual = text(&[]);
    assert!(usual.starts_with(&format!("Process {pid}: ")), "{usual}");
    assert!(usual.contains("\"pipe\": sleeping in read on fd ") && usual.contains("    pipe (waits.py:"), "{usual}");
    assert!(usual.contains("frames of ") && usual.contains("… the same "), "{usual}");
    assert!(!text(&["--python-only"]).contains("libc.so.6"));
    assert!(text(&["--all", "--full-filenames"]).contains("/dump/waits.py:"));
    assert!(!text(&["--locals"]).contains("s3cr3t"));
    assert!(!usual.contains('\x1b') && text(&["--color", "always"]).contains('\x1b'));
}
