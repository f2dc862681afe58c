//! `-- CMD`: a program that perfkit starts and follows from its first instruction.
//!
//! In: a [`Program`]. Out: a [`Launched`] process, held before its first instruction until [`Launched::release`]. When
//! perfkit runs under sudo, the program runs as the user who called sudo (as py-spy does it): a profiler's rights are no
//! reason to run a service as root and to leave root's files in its directories. `HOME`, `USER`, `LOGNAME` and `SHELL` are
//! set to that user's, everything else of the environment is as sudo left it; `--keep-root` keeps root.
//! Limit: launchers such as `uv run` or `npm` start the real program as a child: it is followed with `--subprocesses`.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, User, geteuid, getgrouplist};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::identity::Identity;
use crate::error::{Error, Kind, Result};
use crate::os::launch::{Credentials, Held, Spec};
use crate::os::pidfd::PidFd;

/// A program to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The program and its arguments. In JSON, bytes that are not UTF-8 are replaced.
    #[serde(serialize_with = "write_words", deserialize_with = "read_words")]
    pub argv: Vec<OsString>,
    /// The user to run it as, where that is not perfkit's own.
    pub run_as: Option<RunAs>,
}

/// A user to run a program as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunAs {
    /// The user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The login name.
    pub name: String,
    /// The home directory.
    pub home: PathBuf,
    /// The login shell.
    pub shell: PathBuf,
}

impl RunAs {
    /// The user who called sudo, if perfkit runs as root through it.
    pub fn sudo_caller() -> Option<Self> {
        Self::caller(geteuid().is_root(), std::env::var("SUDO_UID").ok().as_deref())
    }

    fn caller(root: bool, sudo_uid: Option<&str>) -> Option<Self> {
        let uid = sudo_uid?.parse().ok().filter(|uid| root && *uid != 0)?;
        let user = User::from_uid(Uid::from_raw(uid)).ok()??;
        Some(Self { uid, gid: user.gid.as_raw(), name: user.name, home: user.dir, shell: user.shell })
    }

    fn credentials(&self) -> Result<Credentials> {
        let broken = |e: String| Error::new(Kind::Io, format!("cannot become user {}: {e}", self.name));
        let name = CString::new(self.name.as_str()).map_err(|e| broken(e.to_string()))?;
        let groups = getgrouplist(&name, Gid::from_raw(self.gid)).map_err(|e| broken(e.to_string()))?;
        Ok(Credentials { uid: self.uid, gid: self.gid, groups: groups.into_iter().map(Gid::as_raw).collect() })
    }
}

impl Program {
    /// The program `argv[0]` with its arguments, run as perfkit's own user.
    pub fn new<W: Into<OsString>>(argv: impl IntoIterator<Item = W>) -> Self {
        Self { argv: argv.into_iter().map(Into::into).collect(), run_as: None }
    }

    /// Looks whether it can be started, without starting it.
    ///
    /// # Errors
    /// `Usage` when there is no such program, or it may not be executed.
    pub fn check(&self) -> Result<()> {
        let Some(word) = self.argv.first() else { return Err(Error::usage("no command is given")) };
        let found = if word.as_encoded_bytes().contains(&b'/') {
            runnable(Path::new(word))
        } else {
            in_path(word, std::env::var_os("PATH").as_deref())
        };
        found.map_err(|e| cannot_run(word, e))
    }

    /// The environment it gets.
    fn environment(&self) -> Vec<(OsString, OsString)> {
        let mut env: Vec<_> = std::env::vars_os().collect();
        if let Some(user) = &self.run_as {
            let own: [(&str, &OsStr); 4] = [
                ("HOME", user.home.as_os_str()),
                ("USER", OsStr::new(&user.name)),
                ("LOGNAME", OsStr::new(&user.name)),
                ("SHELL", user.shell.as_os_str()),
            ];
            env.retain(|(name, _)| own.iter().all(|(n, _)| name != n));
            env.extend(own.map(|(n, v)| (OsString::from(n), v.to_owned())));
        }
        env
    }
}

/// A started program. Dropped before its release, it goes away without having run an instruction; dropped after, it goes
/// on without perfkit.
#[derive(Debug)]
pub struct Launched {
    held: Held,
    identity: Identity,
    word: OsString,
}

impl Launched {
    /// Makes the process and holds it before the program's first instruction. Until [`Self::release`] its executable is
    /// still perfkit's own.
    ///
    /// # Errors
    /// `Usage` for words that no process can get; `Io` when the system has no process left.
    pub fn start(program: &Program) -> Result<Self> {
        let user = program.run_as.as_ref().map(RunAs::credentials).transpose()?;
        let spec = Spec { argv: &program.argv, env: program.environment(), user };
        let word = program.argv.first().cloned().unwrap_or_default();
        let held = Held::start(&spec).map_err(|e| cannot_run(&word, e))?;
        let identity = Identity::of(held.pid())?;
        Ok(Self { held, identity, word })
    }

    /// Who it is: the same pid and start time before and after the release; name, exe and command line as of the last look.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The kernel's handle on it; readable when it has ended.
    pub fn fd(&self) -> &PidFd {
        self.held.fd()
    }

    /// Lets it run the program.
    ///
    /// # Errors
    /// `Usage` when it cannot be run (not found, not executable, not for this machine): nothing has run then.
    pub fn release(&mut self) -> Result<()> {
        self.held.release().map_err(|e| cannot_run(&self.word, e))?;
        // A program that has ended already keeps the identity of before.
        if let Ok(now) = self.identity.again() {
            self.identity = now;
        }
        Ok(())
    }

    /// Its exit code if it has ended: as a shell gives it, 128 + n for signal n.
    ///
    /// # Errors
    /// `Io` when it cannot be waited for.
    pub fn try_wait(&mut self) -> Result<Option<i32>> {
        let pid = self.identity.pid;
        let status = self.held.try_wait().map_err(|e| Error::io(format!("cannot wait for process {pid}"), e))?;
        Ok(status.map(exit_code))
    }

    /// Waits for its end and gives its exit code; `None` when `give_up` said so first (asked ten times a second).
    ///
    /// # Errors
    /// `Io` when it cannot be waited for.
    pub fn wait_unless(&mut self, give_up: impl Fn() -> bool) -> Result<Option<i32>> {
        while !self.held.fd().wait_for(100) {
            if give_up() {
                return Ok(None);
            }
        }
        self.try_wait()
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Errors
    /// `Gone` when it has ended, `Denied` when it changed its user.
    pub fn terminate(&self) -> Result<()> {
        let pid = self.identity.pid;
        self.held.fd().send(Signal::SIGTERM).map_err(|e| Error::io(format!("cannot end process {pid}"), e))
    }
}

/// As a shell gives it.
fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn cannot_run(word: &OsStr, e: io::Error) -> Error {
    let show = word.to_string_lossy();
    let error = Error::usage(format!("cannot run '{show}'"));
    let error = match e.raw_os_error() {
        Some(libc::ENOENT) if !show.contains('/') => error.advise("no directory of PATH has it: give its path"),
        Some(libc::EACCES) => error.advise(format!("make it executable: chmod +x {show}")),
        Some(libc::ENOEXEC) => error.advise("it is no program for this machine"),
        Some(libc::EAGAIN | libc::ENOMEM) => Error::new(Kind::Io, format!("cannot start '{show}'")),
        _ => error,
    };
    error.caused_by(e)
}

fn in_path(word: &OsStr, path: Option<&OsStr>) -> io::Result<()> {
    let mut worst = io::Error::from_raw_os_error(libc::ENOENT);
    for dir in path.map(std::env::split_paths).into_iter().flatten() {
        match runnable(&dir.join(word)) {
            Ok(()) => return Ok(()),
            Err(e) if e.raw_os_error() == Some(libc::EACCES) => worst = e,
            Err(_) => {}
        }
    }
    Err(worst)
}

fn runnable(path: &Path) -> io::Result<()> {
    let meta = fs::metadata(path)?;
    if meta.is_dir() || meta.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    Ok(())
}

fn write_words<S: Serializer>(words: &[OsString], to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_seq(words.iter().map(|w| w.to_string_lossy()))
}

fn read_words<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<OsString>, D::Error> {
    Ok(Vec::<String>::deserialize(from)?.into_iter().map(OsString::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_held_released_and_collected() {
        let mut launched = Launched::start(&Program::new(["sh", "-c", "exit 3"])).unwrap();
        let before = launched.identity().clone();
        assert!(before.still_alive());
        launched.release().unwrap();
        assert_eq!(launched.identity(), &before);
        assert_eq!(launched.wait_unless(|| false).unwrap(), Some(3));
        assert_eq!(launched.try_wait().unwrap(), Some(3));
    }

    #[test]
    fn a_program_that_goes_on_can_be_ended() {
        let mut launched = Launched::start(&Program::new(["sleep", "1000"])).unwrap();
        launched.release().unwrap();
        assert_eq!(launched.try_wait().unwrap(), None);
        assert_eq!(launched.wait_unless(|| true).unwrap(), None);
        assert_eq!(launched.identity().name, "sleep");
        launched.terminate().unwrap();
        assert_eq!(launched.wait_unless(|| false).unwrap(), Some(128 + 15));
    }

    #[test]
    fn what_cannot_run_is_a_usage_error_before_and_after_the_fork() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("data");
        fs::write(&file, "x").unwrap();
        for word in ["no-such-program-anywhere", "/nonexistent/x", file.to_str().unwrap(), "/"] {
            let program = Program::new([word]);
            let e = program.check().unwrap_err();
            assert_eq!(e.kind(), Kind::Usage, "{e:?}");
            let e = Launched::start(&program).unwrap().release().unwrap_err();
            assert_eq!(e.kind(), Kind::Usage, "{e:?}");
            assert!(e.to_string().contains(word), "{e:?}");
        }
        assert!(Program::new(["sh"]).check().is_ok());
        assert!(in_path(OsStr::new("sh"), None).is_err());
    }

    #[test]
    fn sudo_means_its_caller_and_only_for_root() {
        assert_eq!(RunAs::caller(false, Some("1000")), None);
        assert_eq!(RunAs::caller(true, None), None);
        assert_eq!(RunAs::caller(true, Some("0")), None);
        assert_eq!(RunAs::caller(true, Some("x")), None);
        let nobody = User::from_name("nobody").unwrap().expect("every Linux has the user nobody");
        let user = RunAs::caller(true, Some(&nobody.uid.to_string())).unwrap();
        assert_eq!(user.name, "nobody");
        let program = Program { run_as: Some(user), ..Program::new(["true"]) };
        let env = program.environment();
        let of = |n: &str| env.iter().filter(|(k, _)| k == n).map(|(_, v)| v.clone()).collect::<Vec<_>>();
        assert_eq!(of("USER"), ["nobody"]);
        assert_eq!(of("HOME"), [nobody.dir.as_os_str()]);
    }
}
