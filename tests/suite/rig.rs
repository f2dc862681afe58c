//! The rig: real targets with a known truth, started, heard and ended without a sleep.
//!
//! In: programs under `tests/targets/`. Out: [`Target`] (running, ready, answering), [`run`] (perfkit with a time limit).
//! The protocol of every target: it prints one JSON line when it is ready; for each command line on its standard input
//! (`report`, and what its header says) it prints one JSON line; when its input closes it prints its last report and ends.
//! Invariant: every wait has a limit, and a limit that strikes says who hung and where; only processes started here are
//! ended, by their PID.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

mod pythons;
mod world;
pub use pythons::{Python, for_each_python, interpreters, pyenv, python};
pub use world::{World, ask};

/// How long a target may take to get ready or to answer. Generous: it is there to name a hang, not to measure.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// Limit of [`run`]: longer than any duration a test asks perfkit for.
pub const RUN_LIMIT: Duration = Duration::from_mins(2);
/// The user that stands for "nobody special" in tests of rights.
pub const NOBODY: &str = "nobody";

/// The perfkit binary under test.
pub fn perfkit() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_perfkit"))
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file under `tests/targets/`.
pub fn target_file(name: &str) -> PathBuf {
    let path = repository().join("tests/targets").join(name);
    assert!(path.is_file(), "no such target: {}", path.display());
    path
}

/// Where compiled targets are kept between runs.
pub fn cache() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("targets");
    fs::create_dir_all(&dir).unwrap();
    dir
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Ends a test that cannot run here. `missing` names the right or program. Under `scripts/test` (`PERFKIT_SKIPS` set: the
/// comma-separated skips that are expected) a skip that is not expected is a failure.
#[must_use = "return after a skip"]
pub fn skip(missing: &str) -> Skipped {
    if let Ok(expected) = std::env::var("PERFKIT_SKIPS") {
        assert!(expected.split(',').any(|e| e == missing), "unexpected skip: {missing} is missing");
    }
    let _ = writeln!(std::io::stderr(), "SKIPPED: {missing} is missing");
    if let Some(log) = std::env::var_os("PERFKIT_SKIP_LOG") {
        let mut log = fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
        writeln!(log, "{missing}").unwrap();
    }
    Skipped
}

/// What [`skip`] leaves.
#[derive(Debug)]
pub struct Skipped;

// ---- compiled targets -------------------------------------------------------------------------------------------------

/// Compiles a target (`.c` by cc, `.cpp` by c++, `.rs` by rustc) with the flags of its `build:` line and `extra` ones, and
/// returns the executable. Kept by content: the same source and flags compile once.
pub fn compile(source: &str, extra: &[&str]) -> PathBuf {
    let path = target_file(source);
    let text = fs::read_to_string(&path).unwrap();
    let flags = text.lines().find_map(|l| l.split_once("build:")).map_or("", |(_, f)| f);
    let flags: Vec<&str> = flags.split_whitespace().chain(extra.iter().copied()).collect();
    let compiler = match path.extension().and_then(OsStr::to_str) {
        Some("c") => "cc",
        Some("cpp") => "c++",
        Some("rs") => "rustc",
        other => panic!("no compiler for {other:?}: {source}"),
    };
    let shared = fs::read(path.with_file_name("talk.h")).unwrap_or_default();
    let mut hash = DefaultHasher::new();
    (&text, shared, &flags, compiler).hash(&mut hash);
    let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
    let built = cache().join(format!("{stem}-{:016x}", hash.finish()));
    if !built.exists() {
        // Another test process may build the same: each into a file of its own, and the rename decides.
        let fresh = built.with_extension(std::process::id().to_string());
        // Libraries come last: a linker takes from `-lm` only what the source before it asked for.
        let mut cc = Command::new(compiler);
        cc.arg("-o").arg(&fresh).arg(&path).args(&flags).stdin(Stdio::null());
        let out = cc.output().unwrap_or_else(|e| panic!("{compiler} does not run: {e} (scripts/setup installs it)"));
        assert!(out.status.success(), "{cc:?}\n{}", String::from_utf8_lossy(&out.stderr));
        fs::rename(&fresh, &built).unwrap();
    }
    built
}

// ---- targets ----------------------------------------------------------------------------------------------------------

/// A target to be started.
#[derive(Debug)]
pub struct Launch {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
    user: Option<&'static str>,
    prefix: Vec<String>,
}

/// A running target; ended when dropped.
#[derive(Debug)]
pub struct Target {
    child: Child,
    pid: u32,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    ready: Value,
    what: String,
}

impl Target {
    /// The script `script` (under `tests/targets/`) by `python`.
    pub fn python(python: &Python, script: &str) -> Launch {
        let mut launch = Self::program(&python.path);
        launch.args.push(target_file(script).into());
        launch.env.push(("PYTHONDONTWRITEBYTECODE".into(), "1".into()));
        launch.env.push(("PERFKIT_TARGET_CACHE".into(), cache().into()));
        launch
    }

    /// The program compiled from `source` (under `tests/targets/`).
    pub fn native(source: &str) -> Launch {
        Self::program(&compile(source, &[]))
    }

    /// Any program that speaks the protocol.
    pub fn program(path: &Path) -> Launch {
        Launch { program: path.to_owned(), args: Vec::new(), env: Vec::new(), user: None, prefix: Vec::new() }
    }

    /// Its PID (that of the program itself, not of a `prefix`).
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it said when it was ready.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    /// Sends a command and returns its answer.
    pub fn ask(&mut self, command: &str) -> Value {
        self.send(command);
        self.hear(&format!("the answer to '{command}'"))
    }

    /// Its truth until now.
    pub fn report(&mut self) -> Value {
        self.ask("report")
    }

    /// Sends a command that has no answer, or a later one.
    pub fn send(&mut self, command: &str) {
        let stdin = self.stdin.as_mut().expect("the target's input is closed");
        writeln!(stdin, "{command}").unwrap_or_else(|e| panic!("{} does not listen: {e}", self.what));
    }

    /// The next line it prints.
    pub fn hear(&mut self, waiting_for: &str) -> Value {
        let line = match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => {
                panic!("{}: no {waiting_for} in {PATIENCE:?}: {}", self.what, state(self.pid))
            }
            Err(RecvTimeoutError::Disconnected) => {
                panic!("{} ended before {waiting_for}: {:?}", self.what, self.child.wait())
            }
        };
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{} said {line:?}: {e}", self.what))
    }

    /// Closes its input, and returns its last report when it has ended well.
    pub fn finish(mut self) -> Value {
        drop(self.stdin.take());
        let last = self.hear("the last report");
        let status = wait(&mut self.child, &self.what, PATIENCE);
        assert!(status.success(), "{} ended with {status}", self.what);
        last
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child, &self.what, PATIENCE)
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        signal(self.pid, nix::sys::signal::Signal::SIGKILL);
        self.wait();
    }

    /// Whether it still runs, and no one traces or stopped it.
    pub fn is_untouched(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(str::trim).unwrap_or_default();
        field("TracerPid:") == "0" && !field("State:").starts_with(['T', 't', 'Z', 'X'])
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if let Ok(None) = self.child.try_wait() {
            // It would end by itself soon; a test that failed need not wait for that.
            signal(self.pid, nix::sys::signal::Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

impl Launch {
    /// With these arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// As another user (root only; the program and its files must be readable to that user).
    #[must_use]
    pub fn user(mut self, user: &'static str) -> Self {
        self.user = Some(user);
        self
    }

    /// Through another program that runs it as its child or in its own place: `["unshare", "--pid", "--fork"]`.
    #[must_use]
    pub fn through(mut self, prefix: &[&str]) -> Self {
        self.prefix = prefix.iter().map(ToString::to_string).collect();
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Target {
        let mut words: Vec<OsString> = self.prefix.iter().map(Into::into).collect();
        words.extend(self.user.into_iter().flat_map(become_user));
        words.push(self.program.clone().into());
        words.extend(self.args);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).envs(self.env).stdin(Stdio::piped()).stdout(Stdio::piped());
        let what = format!("target {}", self.program.file_name().unwrap_or_default().to_string_lossy());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{what} does not start: {e}: {command:?}"));
        let (said, lines) = channel();
        let stdout = child.stdout.take().expect("piped");
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    break;
                }
            }
        });
        let stdin = child.stdin.take();
        let pid = child.id();
        let mut target = Target { child, pid, stdin, lines, ready: Value::Null, what };
        target.ready = target.hear("its READY line");
        // Behind a prefix the program is the last of a chain of only children; its own idea of its PID may be of another
        // namespace.
        while let Some(only) = only_child(target.pid).filter(|_| !self.prefix.is_empty()) {
            target.pid = only;
        }
        target
    }
}

fn only_child(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let mut children = text.split_whitespace();
    let first = children.next()?.parse().ok()?;
    children.next().is_none().then_some(first)
}

// ---- running perfkit --------------------------------------------------------------------------------------------------

/// What a finished run left.
#[derive(Debug)]
pub struct Output {
    /// The exit code, `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Output {
    /// Fails, with all it said, unless it ended with `code`.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert!(self.code == Some(code), "expected exit code {code}: {self:#?}");
        self
    }

    /// Its standard output as one JSON document.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("no JSON document ({e}): {self:#?}"))
    }
}

/// Runs `perfkit ARGS` to its end.
pub fn run<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    let mut command = Command::new(perfkit());
    command.args(args);
    run_command(command, RUN_LIMIT)
}

/// Runs `perfkit ARGS` as an unprivileged user: as [`NOBODY`] for root, and as ourselves for anyone else.
pub fn run_unprivileged<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    let command = if is_root() {
        let words = become_user(NOBODY);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(reachable(perfkit())).current_dir("/").args(args);
        command
    } else {
        let mut command = Command::new(perfkit());
        command.args(args);
        command
    };
    run_command(command, RUN_LIMIT)
}

/// Runs a command to its end; after `limit` it is killed and the test fails, saying where it hung.
pub fn run_command(mut command: Command, limit: Duration) -> Output {
    let what = format!("{command:?}");
    let begin = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{what} does not start: {e}"));
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = wait(&mut child, &what, limit);
    let took = begin.elapsed();
    let text = |pipe: Receiver<Vec<u8>>| {
        // A grandchild that kept the pipe would keep us waiting here for ever.
        let bytes =
            pipe.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what} ended, but someone holds its output"));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Output { code: status.code(), stdout: text(stdout), stderr: text(stderr), took }
}

/// A copy of `program` that every user can reach (homes are closed to others), kept for this process's life.
pub fn reachable(program: &Path) -> PathBuf {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = tempfile::Builder::new().prefix("perfkit-test-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        dir
    });
    let copy = dir.path().join(program.file_name().unwrap());
    if !copy.exists() {
        fs::copy(program, &copy).unwrap();
    }
    copy
}

/// The words that run a command as `user`, without any capability.
pub fn become_user(user: &str) -> Vec<OsString> {
    let found = nix::unistd::User::from_name(user).unwrap().unwrap_or_else(|| panic!("no user {user} on this machine"));
    let ids = [format!("--reuid={}", found.uid), format!("--regid={}", found.gid)];
    let rest = ["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--"];
    ["setpriv"].iter().map(Into::into).chain(ids.iter().map(Into::into)).chain(rest.iter().map(Into::into)).collect()
}

/// Sends a signal to a process that this test started.
pub fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal);
}

/// Looks again and again (every 2 ms) until `condition` holds, for states of other processes that announce nothing. Use an
/// answer of the target ([`Target::hear`]) where there is one.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < end, "{what} did not come true in {limit:?}");
        thread::park_timeout(Duration::from_millis(2));
    }
}

/// Waits until someone samples `pid`: this process's own perf events, or perfkit's tracing of it, show in nothing of the
/// target, so the sampler's side is looked at: a perfkit that has opened perf events.
#[track_caller]
pub fn wait_for_sampler(pid: u32) {
    let argument = pid.to_string();
    wait_until("a perfkit that samples", PATIENCE, || {
        fs::read_dir("/proc").into_iter().flatten().flatten().any(|entry| {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let mut words = command.split(|b| *b == 0);
            let ours = words.next().is_some_and(|w| w == perfkit().as_os_str().as_encoded_bytes());
            ours && words.any(|w| w == argument.as_bytes()) && has_perf_events(&entry.path())
        })
    });
}

fn has_perf_events(process: &Path) -> bool {
    let fds = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| to.to_string_lossy().contains("perf_event"))
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (done, bytes) = channel();
    let mut pipe = pipe.expect("piped");
    thread::spawn(move || {
        let mut all = Vec::new();
        let _ = pipe.read_to_end(&mut all);
        let _ = done.send(all);
    });
    bytes
}

/// Waits for the end of `child`, which announces it by closing its side of nothing: so a thread waits, and we for it.
fn wait(child: &mut Child, what: &str, limit: Duration) -> ExitStatus {
    let pid = child.id();
    thread::scope(|scope| {
        let (done, ended) = channel();
        scope.spawn(move || done.send(child.wait()));
        ended.recv_timeout(limit).unwrap_or_else(|_| {
            let state = state(pid);
            signal(pid, nix::sys::signal::Signal::SIGKILL);
            panic!("{what} did not end in {limit:?}: {state}")
        })
    })
    .unwrap_or_else(|e| panic!("{what} cannot be waited for: {e}"))
}

/// Where the threads of a process are, for the message about a hang.
fn state(pid: u32) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let read =
            |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default().trim().replace('\n', " < ");
        let stat = read("stat");
        let state = stat.rsplit_once(") ").and_then(|(_, s)| s.get(..1)).unwrap_or("?").to_owned();
        let _ = write!(text, "\n  {} {state} syscall {} kernel {}", read("comm"), read("syscall"), read("stack"));
    }
    if text.is_empty() { "no such process".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_python_targets_are_ready_answer_and_end() {
        for_each_python(|python| {
            let mut target = Target::python(python, "truth/flutter.py").start();
            assert_eq!(target.ready()["pid"], target.pid());
            assert!(target.is_untouched());
            let first = target.report()["rounds"].as_u64().unwrap();
            let last = target.finish()["rounds"].as_u64().unwrap();
            assert!(last >= first);
        });
    }

    #[test]
    fn a_command_that_hangs_is_named_and_ended() {
        let caught = std::panic::catch_unwind(|| {
            let mut sleeper = Command::new("sleep");
            sleeper.arg("1000");
            run_command(sleeper, Duration::from_millis(50))
        });
        let message = *caught.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains(r#""sleep" "1000""#) && message.contains("did not end in 50ms"), "{message}");
    }

    #[test]
    fn perfkit_runs_with_and_without_rights() {
        run(["--version"]);
        run_unprivileged(["--version"]);
    }
}
