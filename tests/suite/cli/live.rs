//! Runs that really measure: the target that was named, signals, and the life of a started program.

use std::os::unix::process::CommandExt;

use nix::sys::signal::Signal;

use super::*;

/// perfkit at work on `sh -c 'echo READY; read line'`, started by it; both share the test's pipes.
struct Work {
    perfkit: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<std::process::ChildStdout>,
    /// The program's pid.
    program: u32,
    dir: TempDir,
}

impl Work {
    fn start(args: &[&str]) -> Self {
        let dir = tempdir().unwrap();
        let mut command = Command::new(perfkit());
        command.arg("cpu").args(args).args(["--", "sh", "-c", "echo $$; read line; exit ${line:-0}"]);
        // In a group of its own, so that a test can send what a terminal sends: to perfkit and to the program.
        command.current_dir(dir.path()).process_group(0);
        let mut perfkit = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdin = perfkit.stdin.take();
        let mut stdout = BufReader::new(perfkit.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let program = line.trim().parse().unwrap_or_else(|_| panic!("the program should say its pid, not {line:?}"));
        Self { perfkit, stdin, stdout, program, dir }
    }

    fn signal(&self, signal: Signal) {
        rig::signal(self.perfkit.id(), signal);
    }

    fn wrote(&self, name: &str) -> bool {
        self.dir.path().join(name).exists()
    }

    /// Lets the program end with this code.
    fn answer(&mut self, code: u8) {
        writeln!(self.stdin.take().unwrap(), "{code}").unwrap();
    }

    fn program_runs(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.program)).is_ok_and(|s| !s.contains(") Z "))
    }

    /// perfkit's exit code, and what it said on standard output and error.
    #[track_caller]
    fn end(mut self) -> (Option<i32>, String, String, TempDir) {
        drop(self.stdin.take());
        let stat = format!("/proc/{}/stat", self.perfkit.id());
        let ended = || fs::read_to_string(&stat).is_ok_and(|s| s.contains(") Z "));
        rig::wait_until("perfkit's end", PATIENCE, ended);
        let code = self.perfkit.wait().unwrap().code();
        let (mut out, mut err) = (String::new(), String::new());
        self.stdout.read_to_string(&mut out).unwrap();
        self.perfkit.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (code, out, err, self.dir)
    }
}

#[test]
fn live_a_program_has_its_own_exit_code() {
    run(["cpu", "-q", "--", "sh", "-c", "exit 0"]).expect(0);
    run(["cpu", "-q", "--", "sh", "-c", "exit 7"]).expect(7);
    run(["cpu", "-q", "--", "sh", "-c", "kill -9 $$"]).expect(137);
}

/// Files of modules and events of threads are many; a program that uses `select` breaks on descriptors from 1024 on.
#[test]
fn live_perfkit_may_open_many_files_and_the_program_as_many_as_before() {
    let told = "ulimit -Sn; ulimit -Hn; grep 'Max open files' /proc/$PPID/limits";
    let mut command = Command::new("sh");
    let line = format!("ulimit -Sn 256 && exec '{}' cpu -q --json -- sh -c \"{told}\" >&2", perfkit().display());
    command.args(["-c", &line.replace("$PPID", "\\$PPID")]);
    let out = run_command(command, PATIENCE).expect(0);
    let lines: Vec<&str> = out.stderr.lines().collect();
    assert_eq!(lines[0], "256", "{out:#?}");
    let limits: Vec<&str> = lines[2].split_whitespace().skip(3).take(2).collect();
    assert_eq!(limits, [lines[1]; 2], "soft and hard limit of perfkit: {out:#?}");
}

#[test]
fn live_a_program_that_outlives_the_duration_is_asked_to_end() {
    let dir = tempdir().unwrap();
    let svg = dir.path().join("x.svg");
    let out = run(["cpu", "-d", "300ms", "-o", svg.to_str().unwrap(), "--", "sleep", "1000"]).expect(0);
    assert!(svg.exists());
    assert!(out.stderr.contains("asked") && out.stderr.contains("(sleep)"), "{out:#?}");
}

#[test]
fn live_the_first_ctrl_c_finishes_and_the_programs_code_is_waited_for() {
    let mut work = Work::start(&["-o", "x.svg"]);
    work.signal(Signal::SIGINT);
    rig::wait_until("the picture", PATIENCE, || work.wrote("x.svg"));
    assert!(work.program_runs());
    work.answer(5);
    let (code, _, err, _) = work.end();
    assert_eq!(code, Some(5), "{err}");
    assert!(err.contains("wrote x.svg"), "{err}");
}

#[test]
fn live_the_second_ctrl_c_aborts_and_leaves_the_program_alone() {
    let mut work = Work::start(&["-o", "x.svg", "-o", "run.perfkit"]);
    work.signal(Signal::SIGINT);
    rig::wait_until("the picture", PATIENCE, || work.wrote("x.svg"));
    work.signal(Signal::SIGINT);
    let stat = format!("/proc/{}/stat", work.perfkit.id());
    rig::wait_until("the abort", PATIENCE, || fs::read_to_string(&stat).is_ok_and(|s| s.contains(") Z ")));
    assert!(work.program_runs(), "the program goes on without perfkit");
    work.answer(0);
    rig::wait_until("the program's end", PATIENCE, || !work.program_runs());
    let (code, _, _, dir) = work.end();
    assert_eq!(code, Some(130));
    run(["report", dir.path().join("run.perfkit").to_str().unwrap()]).expect(0);
}

#[test]
fn live_sigterm_finishes_and_ends_the_program() {
    let work = Work::start(&["--json"]);
    work.signal(Signal::SIGTERM);
    let program = work.program;
    let stat = format!("/proc/{}/stat", work.perfkit.id());
    rig::wait_until("perfkit's end", PATIENCE, || fs::read_to_string(&stat).is_ok_and(|s| s.contains(") Z ")));
    assert!(!Path::new(&format!("/proc/{program}")).exists());
    let (code, out, err, _) = work.end();
    assert_eq!(code, Some(0), "{err}");
    assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok(), "{out}");
}

#[test]
fn live_sigusr1_writes_what_there_is_and_goes_on() {
    let mut work = Work::start(&["-o", "x.svg"]);
    for _ in 0..2 {
        work.signal(Signal::SIGUSR1);
        rig::wait_until("the snapshot", PATIENCE, || work.wrote("x.svg"));
        fs::remove_file(work.dir.path().join("x.svg")).unwrap();
    }
    assert!(work.program_runs());
    work.answer(0);
    let (code, _, err, dir) = work.end();
    assert_eq!(code, Some(0), "{err}");
    assert!(dir.path().join("x.svg").exists());
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 1, "nothing but the picture is left");
}

#[test]
fn live_a_killed_perfkit_leaves_the_program_running() {
    let mut work = Work::start(&["-o", "run.perfkit"]);
    work.signal(Signal::SIGKILL);
    let stat = format!("/proc/{}/stat", work.perfkit.id());
    rig::wait_until("perfkit's end", PATIENCE, || fs::read_to_string(&stat).is_ok_and(|s| s.contains(") Z ")));
    assert!(work.program_runs());
    work.answer(0);
    rig::wait_until("the program's end", PATIENCE, || !work.program_runs());
}

#[test]
fn live_several_outputs_of_one_run_agree() {
    let dir = tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let spin = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
    let (svg, folded, kept) = (at("a.svg"), at("b.folded"), at("run.perfkit"));
    let out = run(["cpu", "--json", "-o", &svg, "-o", &folded, "-o", &kept, "--", "sh", "-c", spin]).expect(0);
    let json = out.json();
    let samples = json["samples"].as_u64().unwrap();
    assert!(samples > 0, "{out:#?}");
    let again = run(["report", &kept, "--json"]).expect(0).json();
    assert_eq!(again["samples"], samples);
    assert_eq!(again["functions"], json["functions"]);
    assert!(fs::read_to_string(&svg).unwrap().contains("<svg"));
    assert!(!fs::read_to_string(&folded).unwrap().is_empty());
    let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["a.svg", "b.folded", "run.perfkit"], "one file a recording, nothing beside it");
}

#[test]
fn live_a_name_means_one_process_or_its_family() {
    let token = format!("family-{}", std::process::id());
    let single = Shell::start(&format!("echo READY; read line # single-{token}"));
    let out = run(["cpu", "-d", "200ms", "--name", &format!("single-{token}")]).expect(0);
    assert!(out.stderr.contains(&format!("matches {} (sh)", single.pid())), "{out:#?}");
    // The subshell is a fork with the same command line: a worker.
    let family = Shell::start(&format!("exec 3<&0; (read line; : master-{token}) <&3 & echo READY; wait"));
    let out = run(["cpu", "-d", "200ms", "--name", &format!("master-{token}")]).expect(0);
    assert!(out.stderr.contains(&format!("{} (sh) and 1 of its descendants", family.pid())), "{out:#?}");
    let out = run(["cpu", "-d", "200ms", "--pid", &family.pid()]).expect(0);
    assert!(out.stderr.contains("1 child process") && out.stderr.contains("-s"), "{out:#?}");
    let both = format!("{}\n{}\n999999999", single.pid(), family.pid());
    let out = run(["cpu", "-d", "200ms", "--pid", &both]).expect(0);
    assert!(out.stderr.contains("no process 999999999"), "{out:#?}");
    // A shell in front of perfkit has the pattern in its own command line; it is not what is meant.
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("'{}' cpu -d 200ms --name single-{token}; true", perfkit().display())]);
    let out = run_command(shell, PATIENCE).expect(0);
    assert!(out.stderr.contains(&format!("matches {} (sh)", single.pid())), "{out:#?}");
}

#[test]
fn live_a_port_means_who_listens_there() {
    let python = rig::python("");
    let listen = "import os, socket, sys\n\
                  s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n\
                  worker = os.fork() if sys.argv[1] == 'worker' else 1\n\
                  if worker: print('READY', s.getsockname()[1], sep='\\n', flush=True)\n\
                  sys.stdin.read()\n";
    for (how, word) in [("alone", "listens on port"), ("worker", "with 1 of its descendants")] {
        let mut server = Shell::of(Command::new(&python.path).args(["-c", listen, how]));
        let port = server.line();
        let out = run(["cpu", "-d", "200ms", "--port", &port]).expect(0);
        assert!(out.stderr.contains(word) && out.stderr.contains(&server.pid()), "{how}: {out:#?}");
    }
}

#[test]
fn live_sudo_starts_the_program_as_its_caller() {
    if !is_root() {
        let _ = rig::skip("root");
        return;
    }
    let nobody = nix::unistd::User::from_name(rig::NOBODY).unwrap().expect("every Linux has this user");
    let start = |keep: &[&str]| {
        let mut command = Command::new(perfkit());
        command.args(["cpu", "--json"]).args(keep).args(["--", "sh", "-c", "id -un >&2; echo home $HOME >&2"]);
        command.env("SUDO_UID", nobody.uid.to_string()).env("SUDO_GID", nobody.gid.to_string());
        run_command(command, PATIENCE).expect(0).stderr
    };
    let err = start(&[]);
    assert!(err.contains("nobody\n") && err.contains(&format!("home {}", nobody.dir.display())), "{err}");
    assert!(err.contains("--keep-root"), "{err}");
    assert!(start(&["--keep-root"]).contains("root\n"));
}

#[test]
fn live_remarks_of_py_spys_flags_are_one_line() {
    let shell = Shell::start("echo READY; read line");
    let out = run(["cpu", "-p", &shell.pid(), "-d", "200ms", "-n", "--nonblocking", "-F", "-t"]).expect(0);
    assert!(out.stderr.contains("--native: ") && out.stderr.contains("--nonblocking: "), "{out:#?}");
    let quiet = run(["cpu", "-p", &shell.pid(), "-d", "200ms", "-n", "-q"]).expect(0);
    assert_eq!(quiet.stderr, "");
}
