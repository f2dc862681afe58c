//! The contract of the command line: help texts, bad input with its exit code and advice, the target that is meant, what
//! happens to outputs and to a started program.
//!
//! `PERFKIT_BLESS=1 cargo test --test suite cli` rewrites the help texts under `tests/data/cli`; look at the diff.

mod live;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use perfkit::clock::Mono;
use perfkit::record::{Event, Frame, Process, Recorder, Sample, SampleFlags, State, Store, Thread};
use tempfile::{TempDir, tempdir};

use crate::rig::{self, Output, PATIENCE, is_root, perfkit, repository, run, run_command, run_unprivileged};

/// A shell of the test's own that says READY, runs `script` and ends when its standard input closes.
struct Shell {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Shell {
    fn start(script: &str) -> Self {
        Self::of(Command::new("sh").args(["-c", script]))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let mut shell = Self { child, stdin };
        assert_eq!(shell.line(), "READY");
        shell
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// The next line it prints.
    fn line(&mut self) -> String {
        let mut line = Vec::new();
        let stdout = self.child.stdout.as_mut().unwrap();
        let mut byte = [0];
        while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// Runs a command that must be refused: exit code, nothing on standard output, and every `word` on standard error.
#[track_caller]
fn refused(args: &[&str], code: i32, words: &[&str]) {
    check_refused(&run(args), args, code, words);
}

#[track_caller]
fn check_refused(out: &Output, args: &[&str], code: i32, words: &[&str]) {
    assert!(out.code == Some(code) && out.stdout.is_empty(), "{args:?} should be refused with {code}: {out:#?}");
    for word in words {
        assert!(out.stderr.contains(word), "{args:?} should say '{word}': {out:#?}");
    }
    assert!(!out.stderr.contains("panicked"), "{args:?}: {out:#?}");
}

/// A small recording of ten seconds, a sample each half second: ten of `early`, then ten of `late`.
fn recording(dir: &Path) -> PathBuf {
    let path = dir.join("run.perfkit");
    let mut store = Store::create(&path, false).unwrap();
    let recorder = Recorder::new();
    let process = recorder.process(Process { pid: 7, name: "app".into(), exe: "/app".into(), ..Process::default() });
    let thread = recorder.thread(Thread { process, tid: 7, name: "app".into() });
    let stacks = ["early", "late"].map(|name| {
        let frame = recorder.frame(Frame::python(name.into(), "/srv/app.py".into(), Some(3), Some(2)));
        recorder.stack(&[frame])
    });
    for i in 0..20_u64 {
        recorder.put(Event::Sample(Sample {
            at: Mono(1_000_000_000 + i * 500_000_000),
            thread,
            stack: stacks[usize::from(i >= 10)],
            weight_ns: 500_000_000,
            state: State::OnCpu,
            reason: None,
            flags: SampleFlags(SampleFlags::PYTHON),
        }));
    }
    store.set_meta("started_ns", "1000000000").unwrap();
    store.set_meta("ended_ns", "11000000000").unwrap();
    store.set_meta("rate_hz", "2").unwrap();
    store.flush(&recorder).unwrap();
    store.close().unwrap();
    path
}

#[test]
fn help_texts_are_the_committed_ones() {
    for (name, args) in [
        ("perfkit", &["--help"][..]),
        ("cpu-short", &["cpu", "-h"]),
        ("cpu", &["cpu", "--help"]),
        ("dump", &["dump", "--help"]),
        ("mem", &["mem", "--help"]),
        ("load", &["load", "--help"]),
        ("report", &["report", "--help"]),
        ("demo", &["demo", "--help"]),
    ] {
        let out = run(args).expect(0);
        assert_eq!(out.stderr, "", "help is a result");
        let path = repository().join(format!("tests/data/cli/{name}.txt"));
        if std::env::var_os("PERFKIT_BLESS").is_some() {
            fs::write(&path, &out.stdout).unwrap();
        }
        let want = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}; bless it with PERFKIT_BLESS=1"));
        assert!(out.stdout == want, "{name}: the help text changed; bless it with PERFKIT_BLESS=1:\n{}", out.stdout);
    }
}

#[test]
fn every_flag_says_its_default() {
    for command in ["cpu", "dump", "report", "demo"] {
        let help = run([command, "-h"]).expect(0).stdout;
        let flat = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for flag in ["--duration", "--output", "--force", "--title", "--from", "--subprocesses"] {
            let Some((_, rest)) = flat.split_once(&format!("{flag} ")) else { continue };
            let own = rest.split(" --").next().unwrap();
            assert!(own.contains("[default: "), "{command} {flag}: {own}");
        }
    }
    assert!(run(["--version"]).expect(0).stdout.starts_with("perfkit "));
}

#[test]
fn numbers_that_cannot_be_are_refused_with_their_range() {
    let own = std::process::id().to_string();
    for rate in ["0", "100001", "1e9", "-1", "abc", "", "nan", "inf"] {
        refused(&["cpu", "--pid", &own, "-r", rate], 2, &["--rate"]);
    }
    for rate in ["0", "100001"] {
        refused(&["cpu", "--pid", &own, "-r", rate], 2, &["from 0.01 to 100000 samples a second"]);
    }
    for duration in ["0", "0s", "-5", "abc", "", "5x", "1s30", "1e99h"] {
        refused(&["cpu", "--pid", &own, "-d", duration], 2, &["--duration"]);
    }
    refused(&["cpu", "--pid", &own, "-d", "0"], 2, &["leave it out to record until Ctrl-C"]);
    refused(&["cpu", "--pid", &own, "-d", "nonsense"], 2, &["500ms, 1m30"]);
    // The limits themselves are taken: the process that is not there is what is wrong.
    for rate in ["1", "99", "100000", "0.01"] {
        refused(&["cpu", "--pid", "999999999", "-r", rate], 3, &["no process 999999999"]);
    }
}

#[test]
fn what_is_missing_or_unknown_is_usage() {
    refused(&["cpu"], 2, &["--pid", "Usage: perfkit cpu"]);
    refused(&["cpu", "--pid", "1", "--name", "x"], 2, &["cannot be used with"]);
    refused(&["report"], 2, &["<RECORDING>"]);
    refused(&["dump"], 2, &["--pid", "Usage: perfkit dump"]);
    refused(&["dump", "--", "true"], 2, &["Usage: perfkit dump"]);
    refused(&["dump", "--pid", "1", "-o", "/nonexistent/dir/x.json"], 2, &["cannot write", "No such file"]);
    refused(&["dump", "--pid", "999999999"], 3, &["no process 999999999"]);
    refused(&["dump", "--pid", "0"], 2, &["0 is not a process id"]);
    refused(&["nonsense"], 2, &["nonsense"]);
    refused(&["cpu", "--pid", "1", "--wat"], 2, &["--wat"]);
    refused(&["cpu", "--name", "("], 2, &["--name"]);
    let bare = run::<&str>([]);
    assert_eq!(bare.code, Some(2));
    assert!(bare.stderr.contains("Commands:"), "{bare:#?}");
}

#[test]
fn outputs_that_cannot_be_written_are_refused_before_anything_starts() {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let proof = at("proof");
    let start = ["--", "touch", &proof];
    let refused = |outputs: &[&str], words: &[&str]| {
        let args: Vec<&str> = ["cpu"].iter().chain(outputs).chain(&start).copied().collect();
        refused(&args, 2, words);
        assert!(!Path::new(&proof).exists(), "{args:?} ran the program");
    };
    refused(&["-o", "/nonexistent/dir/x.svg"], &["cannot write /nonexistent/dir/x.svg", "No such file"]);
    refused(&["-o", dir.path().to_str().unwrap()], &["names no format"]);
    refused(&["-o", dir.path().to_str().unwrap(), "-f", "svg"], &["it is a directory"]);
    refused(&["-o", &at("x.png")], &[".speedscope.json", "--format"]);
    refused(&["-o", &at("x")], &["names no format"]);
    refused(&["-o", &at("x.html")], &["not there yet"]);
    refused(&["-o", &at("x.svg"), "-f", "bmp"], &["svg, folded"]);
    refused(&["-o", "-", "--json"], &["standard output"]);
    refused(&["-o", "-", "-o", "-"], &["twice"]);
    refused(&["-o", &at("x.svg"), "-o", &at("x.svg")], &["twice"]);
    refused(&["-f", "perfkit"], &["-o run.perfkit"]);
    refused(&["-o", &at("a.perfkit"), "-o", &at("b.perfkit")], &["more than one recording"]);
    // The format is for every -o: it would make a text file of what is named like a recording.
    let recording = at("run.perfkit");
    refused(&["-o", &recording, "-o", "-", "--format", "text"], &["run.perfkit is named like a recording", "-o -"]);
    refused(&["-o", &recording, "-f", "json"], &["named like a recording", "--json"]);
    refused(&["-o", &recording, "-o", &at("x"), "-f", "svg"], &["named like a recording", "perfkit report"]);
    fs::write(at("old.perfkit"), "precious").unwrap();
    refused(&["-o", &at("old.perfkit")], &["exists already", "--force"]);
    // One that can be written does not help, and nothing is left of it.
    refused(&["-o", &at("good.svg"), "-o", "/nonexistent/dir/x.svg"], &["cannot write"]);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["old.perfkit"]);
    assert_eq!(fs::read_to_string(at("old.perfkit")).unwrap(), "precious");
}

/// With `--force` the old recording goes when the new one has begun, and not before.
#[test]
fn what_cannot_begin_leaves_the_old_recording_as_it_was() {
    let dir = tempdir().unwrap();
    let kept = dir.path().join("old.perfkit");
    let kept = kept.to_str().unwrap();
    fs::write(kept, "precious").unwrap();
    let script = dir.path().join("script");
    fs::write(&script, "#!/nonexistent/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let with = |rest: &[&'static str]| [&["cpu", "-o", kept, "--force"], rest].concat();
    let shell = Shell::start("echo READY; read line");
    // The command turns out to be none at its exec; the rung that is asked for cannot be had; the target is gone.
    refused(&[&with(&["--"])[..], &[script.to_str().unwrap()]].concat(), 2, &["cannot run"]);
    let cycles = with(&["--sampler", "memory", "--event", "cycles", "-p"]);
    refused(&[&cycles[..], &[&shell.pid()]].concat(), 3, &["cycles"]);
    refused(&with(&["--pid", "4194304"]), 3, &["4194304"]);
    assert_eq!(fs::read_to_string(kept).unwrap(), "precious");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    // One that can begin replaces it.
    run(with(&["-q", "--", "true"])).expect(0);
    run(["report", kept]).expect(0);
}

#[test]
fn a_full_disk_is_named_and_the_table_is_left() {
    let dir = tempdir().unwrap();
    let file = recording(dir.path());
    let file = file.to_str().unwrap();
    let out = run(["report", file, "-f", "svg", "-o", "/dev/full"]).expect(4);
    assert!(out.stderr.contains("cannot write /dev/full: No space left"), "{out:#?}");
    assert!(out.stdout.contains("early"), "no table instead: {out:#?}");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec '{}' report '{file}' >/dev/full", perfkit().display())]);
    let out = run_command(command, PATIENCE).expect(4);
    assert!(out.stderr.contains("standard output: No space left"), "{out:#?}");
}

#[test]
fn a_directory_of_another_user_is_refused_by_name() {
    let dir = tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
    let file = dir.path().join("x.svg");
    let args = ["cpu", "-o", file.to_str().unwrap(), "--", "true"];
    check_refused(&run_unprivileged(args), &args, 2, &["cannot write", "Permission denied"]);
}

#[test]
fn processes_that_cannot_be_targets_say_why() {
    refused(&["cpu", "--pid", "0"], 2, &["0 is not a process id"]);
    refused(&["cpu", "--pid", "x"], 2, &["a number such as 4711"]);
    refused(&["cpu", "--pid", "-1"], 2, &["--pid"]);
    refused(&["cpu", "--pid", "999999999"], 3, &["no process 999999999", "--name"]);
    refused(&["cpu", "--pid", "4294967295"], 3, &["no process"]);
    refused(&["cpu", "--pid", "4294967296"], 2, &["--pid"]);
    refused(&["cpu", "--pid", "999999999", "999999998"], 3, &["no process"]);
    let thread = std::thread::scope(|scope| {
        let (send, tid) = std::sync::mpsc::channel();
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || {
            send.send(nix::unistd::gettid().to_string()).unwrap();
            let _ = wait.recv();
        });
        let tid = tid.recv().unwrap();
        let out = run(["cpu", "--pid", &tid]);
        drop(stop);
        out
    });
    check_refused(&thread, &["cpu", "--pid", "TID"], 2, &["is a thread of process", &std::process::id().to_string()]);
}

#[test]
fn a_zombie_is_gone() {
    let mut child = Command::new("true").spawn().unwrap();
    let stat = format!("/proc/{}/stat", child.id());
    rig::wait_until("the child's end", PATIENCE, || fs::read_to_string(&stat).unwrap().contains(") Z "));
    refused(&["cpu", "--pid", &child.id().to_string()], 3, &["zombie", &std::process::id().to_string()]);
    child.wait().unwrap();
}

#[test]
fn a_kernel_thread_is_not_supported() {
    let name = fs::read_to_string("/proc/2/comm").unwrap_or_default();
    if name.trim() != "kthreadd" {
        let _ = rig::skip("the machine's kernel threads (a PID namespace hides them)");
        return;
    }
    refused(&["cpu", "--pid", "2"], 3, &["kthreadd", "kernel thread"]);
}

#[test]
fn another_users_process_names_the_right_that_is_missing() {
    if !is_root() {
        let _ = rig::skip("root");
        return;
    }
    let args = ["cpu", "--pid", &std::process::id().to_string()];
    check_refused(&run_unprivileged(args), &args, 3, &["root", "CAP_SYS_PTRACE", "setcap", "sudo"]);
}

#[test]
fn programs_that_cannot_be_run_are_usage() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data.txt");
    let out = dir.path().join("run.perfkit");
    fs::write(&data, "x").unwrap();
    let out_arg = out.to_str().unwrap();
    refused(&["cpu", "-o", out_arg, "--", "no-such-program-anywhere"], 2, &["cannot run", "PATH"]);
    refused(&["cpu", "-o", out_arg, "--", "/nonexistent/program"], 2, &["cannot run", "No such file"]);
    refused(&["cpu", "-o", out_arg, "--", data.to_str().unwrap()], 2, &["cannot run", "chmod +x"]);
    // It may be executed, but is none: found out by the exec itself.
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&data, b"\x7fELF nonsense").unwrap();
    let broken = run(["cpu", "-o", out_arg, "--", data.to_str().unwrap()]);
    // execvp runs what is no program as a shell script, as shells do: then it is the script that fails.
    assert!(matches!(broken.code, Some(2 | 126 | 127)), "{broken:#?}");
    refused(&["cpu", "--"], 2, &["Usage"]);
}

#[test]
fn a_name_or_port_that_nothing_has_is_gone() {
    refused(&["cpu", "--name", "no-such-command-line-[0-9]{40}"], 3, &["no command line matches"]);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    refused(&["cpu", "--port", &free], 3, &["nothing listens on TCP port", &free]);
}

#[test]
fn unrelated_matches_are_listed_and_refused() {
    let token = format!("unrelated-{}", std::process::id());
    let script = format!("echo READY; read line # {token}");
    let (one, two) = (Shell::start(&script), Shell::start(&script));
    let out = run(["cpu", "--name", &token]);
    check_refused(&out, &["cpu", "--name"], 2, &["2 unrelated processes", &one.pid(), &two.pid(), "--pid"]);
}

#[test]
fn files_that_are_no_recordings_are_bad_input() {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("text.perfkit"), "this is no database at all, but long enough to look like one\n".repeat(100))
        .unwrap();
    fs::write(at("empty.perfkit"), "").unwrap();
    rusqlite::Connection::open(at("other.db")).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    refused(&["report", &at("missing.perfkit")], 2, &["cannot open", "missing.perfkit", "No such file"]);
    refused(&["report", &at("text.perfkit")], 2, &["not a perfkit recording"]);
    refused(&["report", &at("empty.perfkit")], 2, &["not a perfkit recording"]);
    refused(&["report", &at("other.db")], 2, &["not a perfkit recording"]);
    refused(&["report", dir.path().to_str().unwrap()], 2, &[]);
    let good = recording(dir.path());
    let good = good.to_str().unwrap();
    refused(&["report", good, "--from", "20s"], 2, &["10.0 s long"]);
    refused(&["report", good, "--from", "soon"], 2, &["--from"]);
    refused(&["report", good, "-o", &at("again.perfkit")], 2, &["copy"]);
    refused(&["report", good, "-o", good, "-f", "svg"], 2, &["named like a recording"]);
    std::os::unix::fs::symlink(good, at("view.svg")).unwrap();
    refused(&["report", good, "-o", &at("view.svg")], 2, &["view of a recording"]);
    let cut = fs::read(good).unwrap();
    fs::write(at("cut.perfkit"), &cut[..cut.len() / 2]).unwrap();
    assert_eq!(run(["report", &at("cut.perfkit")]).code, Some(2));
}

#[test]
fn a_report_shows_the_slice_that_is_asked_for() {
    let dir = tempdir().unwrap();
    let file = recording(dir.path());
    let file = file.to_str().unwrap();
    let names = |args: &[&str]| {
        let out = run([&["report", file, "--json"], args].concat()).expect(0);
        let json = out.json();
        let functions =
            json["functions"].as_array().unwrap().iter().map(|f| f["function"].as_str().unwrap().to_owned());
        let mut names: Vec<_> = functions.collect();
        names.sort();
        (json["samples"].as_u64().unwrap(), names.join(" "))
    };
    assert_eq!(names(&[]), (20, "early late".into()));
    assert_eq!(names(&["--to", "5s"]), (10, "early".into()));
    assert_eq!(names(&["--from", "-2s"]), (4, "late".into()));
    assert_eq!(names(&["--from", "4s", "--to", "6s"]), (4, "early late".into()));
    let svg = dir.path().join("a.svg");
    let folded = dir.path().join("b.folded");
    let out = run(["report", file, "-o", svg.to_str().unwrap(), "-o", folded.to_str().unwrap(), "-o", "-"]).expect(0);
    assert!(fs::read_to_string(svg).unwrap().contains("<svg"));
    assert!(fs::read_to_string(folded).unwrap().contains("early (app.py:3)"));
    assert!(out.stdout.contains("early (app.py:3)") && out.stdout.contains("50.00 %"), "{out:#?}");
    assert_eq!(out.stderr.matches("wrote ").count(), 2, "{out:#?}");
    let quiet = run(["report", file, "-q", "-o", "/dev/null", "-f", "svg"]).expect(0);
    assert_eq!((quiet.stdout, quiet.stderr), (String::new(), String::new()));
}

#[test]
fn a_reader_that_went_away_is_no_failure() {
    let dir = tempdir().unwrap();
    let file = recording(dir.path());
    for format in ["text", "json", "folded"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(perfkit());
        command.args(["report", file.to_str().unwrap(), "-f", format]).stdout(writer).stderr(Stdio::piped());
        let out = command.spawn().unwrap().wait_with_output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{format}: {out:?}");
    }
}

#[test]
fn colours_are_for_those_who_ask() {
    let dir = tempdir().unwrap();
    let file = recording(dir.path());
    let colored = |args: &[&str], env: Option<(&str, &str)>| {
        let mut command = Command::new(perfkit());
        command.args(["report", file.to_str().unwrap()]).args(args).envs(env);
        run_command(command, PATIENCE).expect(0).stdout.contains('\x1b')
    };
    assert!(!colored(&[], None), "no terminal, no colours");
    assert!(colored(&["--color", "always"], None));
    assert!(colored(&["--color", "always"], Some(("NO_COLOR", "1"))), "a flag is stronger than the environment");
    assert!(!colored(&["--color", "never"], None));
    assert!(!colored(&[], Some(("NO_COLOR", "1"))));
}
