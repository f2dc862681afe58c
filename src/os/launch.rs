//! A child process that is made, held before its first instruction, and let go when whoever watches it is ready.
//!
//! In: words, an environment, perhaps a user. Out: a [`Held`] child. The child waits on a pipe between fork and exec, so
//! that perf events can be opened on its pid and enabled by the exec itself; no ptrace, no signal. Invariants: a child
//! that was never released never runs the program (the pipe closes, it exits), even if perfkit is killed; a released one
//! does not depend on perfkit any more; it stays in the terminal's foreground group and gets its Ctrl-C.

#![allow(unsafe_code, reason = "fork and what a child may do before exec have no safe form")]

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::limits::{OpenFiles, original_open_files};
use super::pidfd::PidFd;

/// What to start.
#[derive(Debug, Clone)]
pub struct Spec<'a> {
    /// The program, looked up in `PATH` when it holds no slash, and its arguments; at least one.
    pub argv: &'a [OsString],
    /// The whole environment of the program.
    pub env: Vec<(OsString, OsString)>,
    /// The user to become first; takes root.
    pub user: Option<Credentials>,
}

/// A user to become.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
}

/// A child of ours. Before [`Held::release`] it waits; dropped unreleased, it goes away without having run the program.
#[derive(Debug)]
pub struct Held {
    pid: u32,
    fd: PidFd,
    /// Ours to write to: a byte lets the child go.
    gate: Option<File>,
    /// Closed by a successful exec; else the errno of what failed comes through it.
    failure: File,
    ended: Option<ExitStatus>,
}

impl Held {
    /// Makes the child. The program is not looked at yet.
    pub fn start(spec: &Spec<'_>) -> io::Result<Self> {
        let argv = spec.argv.iter().map(|w| c_string(w)).collect::<io::Result<Vec<_>>>()?;
        let env = spec.env.iter().map(|(k, v)| variable(k, v)).collect::<io::Result<Vec<_>>>()?;
        if argv.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program is named"));
        }
        let (gate_out, gate_in) = pipe2(OFlag::O_CLOEXEC)?;
        let (failure_out, failure_in) = pipe2(OFlag::O_CLOEXEC)?;
        // Everything that allocates happens before the fork: in the child of a process with threads nothing may.
        let child = ChildSide {
            argv: pointers(&argv),
            env: pointers(&env),
            user: spec.user.clone(),
            open_files: original_open_files(),
            gate: gate_out.as_raw_fd(),
            gate_in: gate_in.as_raw_fd(),
            failure: failure_in.as_raw_fd(),
        };
        // SAFETY: the child calls nothing but async-signal-safe functions (see `ChildSide::run`) and never returns.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            child.run();
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        let pid = pid as u32;
        // Our child stays a zombie until we wait for it, so the pid cannot mean anyone else.
        let fd = PidFd::open(pid)?;
        Ok(Self { pid, fd, gate: Some(File::from(gate_in)), failure: File::from(failure_out), ended: None })
    }

    /// Its pid; the program will have the same.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The kernel's handle on it.
    pub fn fd(&self) -> &PidFd {
        &self.fd
    }

    /// Lets it exec, and returns when it has. On an error it never became the program and has ended.
    pub fn release(&mut self) -> io::Result<()> {
        let Some(mut gate) = self.gate.take() else { return Ok(()) };
        gate.write_all(&[1])?;
        let mut errno = [0; 4];
        match read_up_to(&mut self.failure, &mut errno)? {
            0 => Ok(()),
            4 => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(errno))),
            _ => Err(io::Error::other("the child ended before it ran the program")),
        }
    }

    /// Its exit status if it has ended; never blocks.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.collect(libc::WNOHANG)
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.collect(0)? {
                return Ok(status);
            }
        }
    }

    fn collect(&mut self, options: i32) -> io::Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            let mut status = 0;
            // SAFETY: `status` is ours and lives through the call; the pid is that of a child not waited for yet.
            let done = unsafe { libc::waitpid(self.pid as i32, &raw mut status, options) };
            match done {
                0 => {}
                n if n > 0 => self.ended = Some(ExitStatus::from_raw(status)),
                _ => match Errno::last() {
                    Errno::EINTR => {}
                    e => return Err(e.into()),
                },
            }
        }
        Ok(self.ended)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            drop(gate);
            // It ends at once now. A failed wait leaves a zombie until we end ourselves; nothing else to do about it here.
            let _ = self.wait();
        }
    }
}

/// What the child needs between fork and exec: numbers and pointers into memory that the fork copied.
struct ChildSide {
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    user: Option<Credentials>,
    open_files: Option<OpenFiles>,
    gate: RawFd,
    gate_in: RawFd,
    failure: RawFd,
}

impl ChildSide {
    /// Runs in the child alone: no allocation, no lock, no panic; plain system calls on plain memory.
    fn run(&self) -> ! {
        // Until it is released, a Ctrl-C should end it as it would end the program, not set perfkit's flags in a copy.
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGCHLD] {
            default_unless_ignored(signal);
        }
        // Rust ignores SIGPIPE in every program it starts; the program expects the default.
        // SAFETY: SIG_DFL is no handler of ours; only this child is affected.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        // SAFETY: an all-zero sigset is a valid one for sigemptyset to fill.
        let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: `none` is ours.
        unsafe { libc::sigemptyset(&raw mut none) };
        // SAFETY: `none` was filled above; a null old set is allowed.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
        // Our copy of the writing end would keep the gate from ever closing.
        // SAFETY: the descriptor is this child's own copy; nothing in it uses it any more.
        unsafe { libc::close(self.gate_in) };
        let mut byte = 0_u8;
        let released = loop {
            // SAFETY: one byte into a byte of ours.
            let n = unsafe { libc::read(self.gate, (&raw mut byte).cast(), 1) };
            if n >= 0 || Errno::last_raw() != libc::EINTR {
                break n == 1;
            }
        };
        if !released {
            // SAFETY: ends this child without running perfkit's exit handlers.
            unsafe { libc::_exit(127) };
        }
        if let Some(OpenFiles { soft, hard }) = self.open_files {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
            // SAFETY: `limit` is ours and read only. Lowering a soft limit cannot fail, and there is nobody to tell.
            unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        }
        if self.become_user()
            && let Some(&program) = self.argv.first()
        {
            // SAFETY: both arrays end with a null pointer and point to strings that the fork copied; on success this
            // does not return.
            unsafe { libc::execvpe(program, self.argv.as_ptr(), self.env.as_ptr()) };
        }
        let errno = Errno::last_raw().to_ne_bytes();
        // SAFETY: four bytes of ours; a pipe takes so few at once. If it fails there is nobody to tell.
        unsafe { libc::write(self.failure, errno.as_ptr().cast(), errno.len()) };
        // SAFETY: as above.
        unsafe { libc::_exit(127) }
    }

    /// Groups first, the user last: after that there is no right left to change the groups.
    fn become_user(&self) -> bool {
        let Some(user) = &self.user else { return true };
        // SAFETY: pointer and length are of one vector.
        if unsafe { libc::setgroups(user.groups.len(), user.groups.as_ptr()) } != 0 {
            return false;
        }
        // SAFETY: a number.
        if unsafe { libc::setgid(user.gid) } != 0 {
            return false;
        }
        // SAFETY: a number.
        unsafe { libc::setuid(user.uid) == 0 }
    }
}

/// Takes perfkit's handler from `signal`, but leaves it ignored where perfkit was started so (nohup).
fn default_unless_ignored(signal: i32) {
    // SAFETY: an all-zero sigaction is valid to be filled.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action asks only; `old` is ours.
    let asked = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut old) };
    if asked == 0 && old.sa_sigaction != libc::SIG_IGN {
        // SAFETY: SIG_DFL is no handler of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

fn c_string(word: &OsStr) -> io::Result<CString> {
    CString::new(word.as_bytes()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

fn variable(name: &OsStr, value: &OsStr) -> io::Result<CString> {
    let mut both = name.to_owned();
    both.push("=");
    both.push(value);
    c_string(&both)
}

/// Pointers to the strings, and a null.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
}

/// Fills `into` as far as the pipe gives before it closes.
fn read_up_to(from: &mut File, into: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = into.get_mut(got..).filter(|r| !r.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(words: &[&str]) -> (Vec<OsString>, Vec<(OsString, OsString)>) {
        (words.iter().map(OsString::from).collect(), std::env::vars_os().collect())
    }

    fn start(words: &[&str]) -> Held {
        let (argv, env) = spec(words);
        Held::start(&Spec { argv: &argv, env, user: None }).unwrap()
    }

    #[test]
    fn it_waits_until_it_is_released() {
        let mut held = start(&["sh", "-c", "exit 7"]);
        assert!(held.try_wait().unwrap().is_none());
        let own = std::fs::read_link("/proc/self/exe").unwrap();
        assert_eq!(std::fs::read_link(format!("/proc/{}/exe", held.pid())).unwrap(), own);
        held.release().unwrap();
        assert_ne!(std::fs::read_link(format!("/proc/{}/exe", held.pid())).ok(), Some(own));
        assert_eq!(held.wait().unwrap().code(), Some(7));
        assert!(held.fd().has_ended());
    }

    #[test]
    fn what_cannot_run_says_why() {
        let mut held = start(&["/nonexistent/program"]);
        assert_eq!(held.release().unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert_eq!(held.wait().unwrap().code(), Some(127));
        assert_eq!(start(&["/etc/passwd"]).release().unwrap_err().raw_os_error(), Some(libc::EACCES));
        let (argv, env) = (vec![OsString::from("a\0b")], Vec::new());
        assert!(Held::start(&Spec { argv: &argv, env, user: None }).is_err());
    }

    #[test]
    fn dropped_unreleased_it_never_runs() {
        let dir = tempfile::tempdir().unwrap();
        let proof = dir.path().join("ran");
        let held = start(&["touch", proof.to_str().unwrap()]);
        let pid = held.pid();
        drop(held);
        assert!(!proof.exists());
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn the_program_has_the_limit_of_open_files_that_we_were_started_with() {
        super::super::limits::raise_open_files();
        let OpenFiles { soft, hard } = original_open_files().unwrap();
        let mut held = start(&["sh", "-c", &format!("test $(ulimit -Sn) = {soft} && test $(ulimit -Hn) = {hard}")]);
        held.release().unwrap();
        assert_eq!(held.wait().unwrap().code(), Some(0));
    }

    #[test]
    fn the_program_starts_with_default_signals() {
        // Bit 12 of SigIgn is SIGPIPE, which Rust ignores in perfkit; a shell cannot unignore what it inherits.
        let mut held = start(&["sh", "-c", "test $((0x$(sed -n 's/^SigIgn:\\s*//p' /proc/$$/status) & 0x1000)) -eq 0"]);
        held.release().unwrap();
        assert_eq!(held.wait().unwrap().code(), Some(0));
    }
}
