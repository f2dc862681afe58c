//! Bad weather: targets that vanish, change or lie, disks that fill, rights that lack, users that interrupt. perfkit must
//! say what happened, end with the right code, leave the target as it was, and keep what it has.

mod disk;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use perfkit::record::{FrameKind, Recording};

use crate::profiled::{profile, profile_with, samples_of};
use crate::rig::{
    NOBODY, Output, PATIENCE, Target, become_user, compile, is_root, perfkit, python, reachable, run, run_command,
    run_unprivileged, signal, skip, target_file, wait_for_sampler, wait_until,
};

/// perfkit in the background, ended by its PID when dropped.
struct Background(Child);

impl Background {
    fn start(args: &[&str]) -> Self {
        let mut command = Command::new(perfkit());
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    /// Fails, with what it said, when it has ended.
    #[track_caller]
    fn expect_alive(&mut self) {
        if let Some(status) = self.0.try_wait().unwrap() {
            let mut said = String::new();
            let _ = std::io::Read::read_to_string(&mut self.0.stderr.take().unwrap(), &mut said);
            panic!("perfkit ended with {status}: {said}");
        }
    }

    /// Its exit code, after it ended by itself.
    #[track_caller]
    fn code(&mut self) -> Option<i32> {
        let mut status = None;
        wait_until("perfkit's end", PATIENCE, || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            signal(self.id(), Signal::SIGKILL);
            let _ = self.0.wait();
        }
    }
}

/// Fails unless the message names `about`, in one place and without a panic.
#[track_caller]
fn expect_message(output: &Output, about: &[&str]) {
    let text = output.stderr.to_lowercase();
    assert!(!text.contains("panicked"), "{output:#?}");
    assert!(about.iter().any(|a| text.contains(&a.to_lowercase())), "none of {about:?} is said: {output:#?}");
}

#[test]
fn live_the_target_ends_in_mid_run() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("run.perfkit");
    for killed in [false, true] {
        let mut target = Target::python(python("3.11"), "truth/flutter.py").start();
        let pid = target.pid().to_string();
        // No duration: until the target ends.
        let mut run = Background::start(&["cpu", "--pid", &pid, "-r", "999", "-o", path.to_str().unwrap(), "--force"]);
        wait_for_sampler(target.pid());
        let rounds = target.report()["rounds"].as_u64().unwrap();
        wait_until("some work", PATIENCE, || target.report()["rounds"].as_u64().unwrap() > rounds + 1_000_000);
        if killed {
            target.kill();
        } else {
            target.finish();
        }
        assert_eq!(run.code(), Some(0));
        let recording = Recording::open(&path).unwrap();
        let named = samples_of(&recording).iter().filter(|s| s.has("main")).count();
        assert!(named > 10, "{named} samples with names");
    }
}

#[test]
fn live_the_target_ends_while_perfkit_attaches() {
    for round in 0..15_u32 {
        let mut target = Target::native("truth/nofp.c").start();
        let pid = target.pid().to_string();
        let mut run = Background::start(&["cpu", "--pid", &pid, "-r", "999", "--json"]);
        // At any moment of the first half second, which the slow start of a debug build fills.
        std::thread::park_timeout(Duration::from_millis(u64::from(30 * round)));
        target.kill();
        let code = run.code();
        assert!(matches!(code, Some(0 | 3)), "round {round}: {code:?}");
    }
}

/// CPU time that a process has used, s.
fn cpu_time_s(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    stat.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
}

#[test]
fn live_the_target_becomes_another_program() {
    let mut target = Target::python(python("3.11"), "truth/forker.py").start();
    let pid = target.pid();
    let seen = std::thread::scope(|scope| {
        let run = scope.spawn(move || profile(pid, &["-d", "8", "-r", "999"]));
        wait_for_sampler(pid);
        let worked = cpu_time_s(pid);
        wait_until("some work", PATIENCE, || cpu_time_s(pid) > worked + 1.0);
        target.ask("exec");
        run.join().unwrap()
    });
    for function in ["parent_work", "fresh_work"] {
        assert!(seen.samples.iter().any(|s| s.has(function)), "no sample of {function}");
    }
    target.finish();
}

#[test]
fn what_cannot_be_a_target_is_named() {
    let nobody = run(["cpu", "--pid", "4194304", "-d", "1"]).expect(3);
    expect_message(&nobody, &["4194304"]);
    // A child of ours that has ended and that we have not waited for.
    let mut zombie = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
    let state = || fs::read_to_string(format!("/proc/{}/stat", zombie.id())).unwrap();
    wait_until("a zombie", PATIENCE, || state().contains(") Z "));
    let output = run(["cpu", "--pid", &zombie.id().to_string(), "-d", "1"]).expect(3);
    expect_message(&output, &["zombie", "ended", "exited"]);
    zombie.wait().unwrap();
    // kthreadd; in a PID namespace of its own this machine may not have it.
    if fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd") {
        expect_message(&run(["cpu", "--pid", "2", "-d", "1"]).expect(3), &["kernel"]);
    }
    for bad in [["--pid", "0"], ["--pid", "-5"], ["--pid", "abc"], ["--name", "["]] {
        run(["cpu", bad[0], bad[1], "-d", "1"]).expect(2);
    }
    expect_message(&run(["cpu", "--name", "no such process is running here", "-d", "1"]).expect(3), &["no such"]);
}

#[test]
fn live_a_process_of_another_user_is_refused_with_the_command_that_helps() {
    if !is_root() {
        let _ = skip("root to be someone else");
        return;
    }
    let target = Target::python(python(""), "truth/flutter.py").start();
    let output = run_unprivileged(["cpu", "--pid", &target.pid().to_string(), "-d", "1"]).expect(3);
    expect_message(&output, &["root", "cap_", "sudo"]);
    assert!(target.is_untouched());
}

/// What the targets need, where a user without a home of ours can read it.
fn reachable_script(name: &str) -> PathBuf {
    reachable(&target_file("truth/talk.py"));
    reachable(&target_file(&format!("truth/{name}")))
}

#[test]
fn live_own_processes_are_profiled_without_any_right() {
    if !is_root() {
        let _ = skip("root to become nobody");
        return;
    }
    let native = reachable(&compile("truth/nofp.c", &[]));
    let script = reachable_script("flutter.py");
    let interpreter = Path::new("/usr/bin/python3");
    for (mut target, function) in [
        (Target::program(&native).user(NOBODY).start(), "leaf_many"),
        (Target::program(interpreter).args(["-B".into(), script]).user(NOBODY).start(), "hot_a"),
    ] {
        let output = run_unprivileged(["cpu", "--pid", &target.pid().to_string(), "-d", "2", "--json"]).expect(0);
        let json = output.json();
        let functions = json["functions"].as_array().unwrap();
        assert!(functions.iter().any(|f| f["function"] == function), "no {function}: {output:#?}");
        assert_ne!(json["sampler"], "eBPF", "{json}");
        assert!(target.is_untouched());
        target.report();
    }
}

#[test]
fn live_a_binary_that_is_deleted_or_replaced_keeps_its_names() {
    let home = tempfile::tempdir().unwrap();
    let program = home.path().join("world");
    for replaced in [false, true] {
        fs::copy(compile("truth/nofp.c", &[]), &program).unwrap();
        let mut target = Target::program(&program).start();
        fs::remove_file(&program).unwrap();
        if replaced {
            fs::copy(compile("truth/shares.c", &[]), &program).unwrap();
        }
        let seen = profile(target.pid(), &["-d", "1", "-r", "999"]);
        let named = seen.samples.iter().filter(|s| s.has("leaf_many")).count();
        assert!(named * 3 > seen.samples.len(), "replaced {replaced}: {named} of {}", seen.samples.len());
        assert!(!seen.samples.iter().any(|s| s.has("unit_spin")), "names of the file that took its place");
        target.report();
    }
}

#[test]
fn live_an_interpreter_library_that_is_replaced_keeps_its_frames() {
    // Through a link, as package managers do it: the name then leads to another version.
    let home = tempfile::tempdir().unwrap();
    let link = home.path().join("python");
    symlink(&python("3.11").path, &link).unwrap();
    let target = Target::program(&link).args(["-B".into(), target_file("truth/flutter.py")]).start();
    fs::remove_file(&link).unwrap();
    symlink(&python("3.13").path, &link).unwrap();
    let seen = profile(target.pid(), &["-d", "1", "-r", "999"]);
    assert!(seen.samples.iter().filter(|s| s.has("main")).count() * 2 > seen.samples.len());
}

#[test]
fn live_rates_and_durations_at_their_ends() {
    let mut target = Target::native("truth/nofp.c").start();
    let pid = target.pid().to_string();
    let cpu = |rest: &[&str]| run(["cpu", "--pid", &pid].iter().chain(rest));
    for bad in [["-r", "0"], ["-r", "-1"], ["-r", "100001"], ["-r", "often"], ["-d", "-1"], ["-d", "soon"]] {
        let output = cpu(&bad).expect(2);
        assert!(output.stderr.contains(bad[1]), "{output:#?}");
    }
    let slow = cpu(&["-r", "1", "-d", "2", "--json"]).expect(0).json();
    assert!(slow["samples"].as_u64().unwrap() <= 8, "{slow}");
    let fast = cpu(&["-r", "100000", "-d", "1", "--json"]).expect(0).json();
    assert!(fast["samples"].as_u64().unwrap() > 0, "{fast}");
    let none = cpu(&["-d", "0", "--json"]).expect(2);
    expect_message(&none, &["leave it out to record until Ctrl-C"]);
    assert!(none.took < Duration::from_secs(10), "{none:#?}");
    target.report();
}

#[test]
fn outputs_that_cannot_be_written_fail_before_attaching() {
    let target = Target::native("truth/nofp.c").start();
    let home = tempfile::tempdir().unwrap();
    let kept = home.path().join("kept.perfkit");
    fs::write(&kept, "mine").unwrap();
    let pid = target.pid().to_string();
    for path in ["/nonexistent/x.svg", "/proc/x.svg", "/nonexistent/x.perfkit", "x.nonsense", kept.to_str().unwrap()] {
        let output = run(["cpu", "--pid", &pid, "-d", "20", "-o", path]).expect(2);
        assert!(output.took < Duration::from_secs(10), "it measured first: {output:#?}");
        expect_message(&output, &[path]);
    }
    assert_eq!(fs::read_to_string(&kept).unwrap(), "mine");
}

#[test]
fn live_interrupts_finish_and_write_everything() {
    let home = tempfile::tempdir().unwrap();
    let target = Target::python(python("3.11"), "truth/flutter.py").start();
    let pid = target.pid().to_string();
    for by in [Signal::SIGINT, Signal::SIGTERM] {
        let file = |ending: &str| home.path().join(format!("{by}{ending}"));
        let outputs: Vec<_> = [".svg", ".perfkit", ".json"].map(file).into();
        let mut args = vec!["cpu", "--pid", &pid, "-r", "999"];
        for path in &outputs {
            args.extend(["-o", path.to_str().unwrap()]);
        }
        let mut run = Background::start(&args);
        wait_for_sampler(target.pid());
        // SIGUSR1 writes what there is, and goes on.
        signal(run.id(), Signal::SIGUSR1);
        wait_until("a snapshot", PATIENCE, || fs::metadata(&outputs[0]).is_ok_and(|m| m.len() > 0));
        assert!(run.0.try_wait().unwrap().is_none(), "it ended at the snapshot");
        signal(run.id(), by);
        assert_eq!(run.code(), Some(0), "{by}");
        assert!(fs::read_to_string(&outputs[0]).unwrap().trim_end().ends_with("</svg>"));
        assert!(!Recording::open(&outputs[1]).unwrap().samples.is_empty());
        serde_json::from_str::<serde_json::Value>(&fs::read_to_string(&outputs[2]).unwrap()).unwrap();
    }
    assert!(target.is_untouched());
}

/// The ids of the eBPF programs that are loaded now.
fn programs() -> Vec<String> {
    let Ok(output) = Command::new("bpftool").args(["prog", "show"]).stdin(Stdio::null()).output() else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter(|l| !l.starts_with([' ', '\t'])).map(str::to_owned).collect()
}

#[test]
fn live_killed_two_hundred_times_it_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let mut target = Target::python(python("3.11"), "truth/flutter.py").start();
    let pid = target.pid().to_string();
    let before = programs();
    let mut rounds = 0;
    for kill in 0..200_u64 {
        let path = home.path().join(format!("{kill}.perfkit"));
        let args = ["cpu", "--pid", &pid, "-r", "999", "-o", path.to_str().unwrap(), "-q"];
        let mut run = Background::start(&args);
        if kill % 20 == 19 {
            // Some live long enough to have written: a second's transaction and its names.
            wait_until("a recording of two seconds", PATIENCE, || {
                run.expect_alive();
                // Names of native frames may be a transaction late.
                let span = |r: &Recording| Some(r.samples.last()?.at.since(r.samples.first()?.at));
                Recording::open(&path).is_ok_and(|r| span(&r).is_some_and(|ns| ns > 2_000_000_000))
            });
        } else {
            // The others die at any moment of their first tenths of a second: before, while and after they attach.
            std::thread::park_timeout(Duration::from_millis(7 * (kill * 13 % 40)));
        }
        signal(run.id(), Signal::SIGKILL);
        run.0.wait().unwrap();
        assert!(target.is_untouched(), "kill {kill}");
        if kill % 20 == 19 {
            let recording = Recording::open(&path).unwrap();
            let samples = samples_of(&recording);
            let python = samples.iter().filter(|s| s.has("main")).count();
            let nameless = |s: &&crate::profiled::Seen| {
                s.stack.iter().any(|(kind, name)| *kind == FrameKind::Native && name.starts_with('['))
            };
            let nameless = samples.iter().filter(nameless).count();
            assert!(python * 10 > samples.len() * 9, "kill {kill}: {python} of {} with Python names", samples.len());
            assert!(nameless * 10 < samples.len(), "kill {kill}: {nameless} of {} without a name", samples.len());
        }
        let now = target.report()["rounds"].as_u64().unwrap();
        assert!(now >= rounds, "the target serves on");
        rounds = now;
    }
    wait_until("the kernel's clearing up", PATIENCE, || programs().len() <= before.len());
    target.finish();
}

#[test]
fn live_a_started_program_is_followed_and_its_code_passed_on() {
    let script = "import time\ndef early():\n    end = time.process_time() + 1\n    while time.process_time() < end: pass\nearly()\nraise SystemExit(7)\n";
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("early.py");
    fs::write(&path, script).unwrap();
    let program = python("3.11").path.clone();
    let mut command = Command::new(perfkit());
    let recording = home.path().join("run.perfkit");
    command.args(["cpu", "-r", "999", "-q", "-o"]).arg(&recording).arg("--").arg(&program).arg(&path);
    run_command(command, PATIENCE).expect(7);
    let samples = samples_of(&Recording::open(&recording).unwrap());
    let early = samples.iter().filter(|s| s.has("early")).count();
    assert!(early > 100, "{early} of {} samples in early()", samples.len());
    run(["cpu", "--", "/nonexistent/program"]).expect(2);
    let quick = profile_with(["cpu", "-q", "--", "true"].map(Into::into).into());
    assert!(quick.samples.len() < 1000);
}

#[test]
fn live_a_target_in_other_namespaces_has_its_names() {
    if !is_root() {
        let _ = skip("root for unshare");
        return;
    }
    for version in ["3.8", "3.11", "3.13"] {
        let words = ["unshare", "--pid", "--mount", "--fork", "--mount-proc"];
        let target = Target::python(python(version), "truth/flutter.py").through(&words).start();
        let seen = profile(target.pid(), &["-d", "1", "-r", "999"]);
        let whole = seen.samples.iter().filter(|s| s.has("main") && s.has("<module>")).count();
        assert!(seen.samples.len() > 50 && whole * 100 > seen.samples.len() * 95, "{whole} of {}", seen.samples.len());
    }
}

#[test]
fn live_a_target_is_found_by_name_and_by_port() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("npc_world_service.py");
    let serve = "import socket, sys, json, os\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n\
                 print(json.dumps({'ready': True, 'pid': os.getpid(), 'port': s.getsockname()[1]}), flush=True)\n\
                 def serve():\n    while True: sum(range(1000))\nimport threading\n\
                 threading.Thread(target=serve, daemon=True).start()\nsys.stdin.read()\nprint('{}', flush=True)\n";
    fs::File::create(&path).unwrap().write_all(serve.as_bytes()).unwrap();
    let target = Target::program(&python("3.11").path).args([path.clone()]).start();
    let port = target.ready()["port"].to_string();
    let name = format!("{}$", path.display());
    for way in [["--name", &name], ["--port", &port]] {
        let words = ["cpu", way[0], way[1], "-d", "1", "-r", "499"];
        let seen = profile_with(words.map(Into::into).into());
        assert!(seen.samples.iter().any(|s| s.pid == target.pid() && s.has("serve")), "{way:?}");
    }
    // A port on which nobody listens.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    expect_message(&run(["cpu", "--port", &free.to_string(), "-d", "1"]).expect(3), &[&free.to_string()]);
}

#[test]
fn setpriv_really_takes_every_right_away() {
    if !is_root() {
        let _ = skip("root to become nobody");
        return;
    }
    let words = become_user(NOBODY);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["cat", "/proc/self/status"]).current_dir("/");
    let status = run_command(command, PATIENCE).expect(0).stdout;
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
    }
}

/// Waits that began before the recording are shown where they are, also those that leave little on the stack: vfork, which
/// takes its return address away, and handlers on a stack of their own.
#[test]
fn live_threads_asleep_since_before_have_their_stacks() {
    if !is_root() {
        let _ = skip("root for the times of each thread");
        return;
    }
    let mut target = Target::native("dump/sleepers.c").start();
    let seen = profile(target.pid(), &["--mode", "off-cpu", "-d", "1"]);
    for wanted in target.ready()["threads"].as_array().unwrap() {
        let name = wanted["name"].as_str().unwrap();
        if matches!(name, "alloca" | "aligned") {
            // The frame pointer that they need is found by a search that a recording does not make.
            continue;
        }
        let mine: Vec<_> = seen.samples.iter().filter(|s| wanted["tid"] == s.tid).collect();
        let frames = wanted["frames"].as_array().unwrap().iter().map(|f| f.as_str().unwrap());
        for function in frames.chain(["middle", "outer", "start_thread"]) {
            assert!(mine.iter().any(|s| s.has(function)), "{name}: no {function} in {mine:#?}");
        }
    }
    assert!(target.is_untouched());
    target.kill();
}
