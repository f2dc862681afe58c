//! A CPython for the demo's world: found on `PATH`, asked what it is, and run as itself.
//!
//! A `python3` may be a shim (pyenv, asdf) that ends in an `exec`, a symlink of a virtual environment or a wrapper; so
//! it is asked for its `sys.executable`, and that is what runs the world. The program goes in through stdin, and no file
//! is left behind. Isolated mode (`-I -S`) keeps the user's packages and `PYTHON*` variables out of the picture.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::process::Process;
use crate::error::{Error, Kind, Result};

/// The program: its files, under the names that stand in a stack (`find_path (world.py:95)`), the main one last.
const FILES: [(&str, &str); 2] = [("world.py", include_str!("world.py")), ("service.py", include_str!("service.py"))];

/// The names that a CPython goes by, the best first.
const NAMES: [&str; 8] =
    ["python3", "python3.13", "python3.12", "python3.11", "python3.10", "python3.9", "python3.8", "python"];

/// The oldest version that runs the world.
const OLDEST: (u32, u32) = (3, 8);

/// How long an interpreter may take to say what it is; a shim on a cold disk takes a second.
const PROBE_LIMIT: Duration = Duration::from_secs(15);

/// Says what the interpreter is, and fails where a module is missing that the world needs.
const PROBE: &str = "import sys, json, asyncio, hashlib, sqlite3, zlib; print(json.dumps({\
    'implementation': sys.implementation.name, 'version': list(sys.version_info[:3]), 'executable': sys.executable, \
    'free_threaded': 't' in getattr(sys, 'abiflags', '')}))";

/// Reads files from stdin, which stays open behind them; its arguments are their names and lengths in bytes. The last one
/// is run, those before it can be imported by it.
const LOADER: &str = r#"
import sys, types
*modules, main = list(zip(sys.argv[1::2], map(int, sys.argv[2::2])))
def load(file, length, module):
    exec(compile(sys.stdin.buffer.read(length), file, "exec"), module.__dict__)
for file, length in modules:
    module = sys.modules[file[:-3]] = types.ModuleType(file[:-3])
    load(file, length, module)
load(*main, sys.modules["__main__"])
"#;

/// A CPython that can run the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interpreter {
    /// Its own executable, behind any shim.
    executable: PathBuf,
    /// `3.11.7`.
    pub(super) version: String,
}

#[derive(Deserialize)]
struct Answer {
    implementation: String,
    version: (u32, u32, u32),
    executable: PathBuf,
    free_threaded: bool,
}

impl Interpreter {
    /// The command that runs the world, once [`source`] has been written to its stdin.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        command.args(["-I", "-S", "-c", LOADER]);
        for (name, text) in FILES {
            command.arg(name).arg(text.len().to_string());
        }
        command
    }
}

/// What the interpreter reads from its stdin.
pub(super) fn source() -> String {
    FILES.map(|(_, text)| text).concat()
}

/// The Pythons on `PATH`, each file once, in the order in which they should be tried.
pub(super) fn candidates() -> Vec<PathBuf> {
    candidates_in(&std::env::var_os("PATH").unwrap_or_default())
}

fn candidates_in(path: &std::ffi::OsStr) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    let places: Vec<_> = std::env::split_paths(path).filter(|p| p.is_absolute()).collect();
    NAMES
        .iter()
        .flat_map(|name| places.iter().map(move |place| place.join(name)))
        .filter(|p| p.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
        .filter(|p| seen.insert(p.canonicalize().unwrap_or_else(|_| p.clone())))
        .collect()
}

/// Asks the Python at `program` what it is.
///
/// Errors: `Unsupported` where the world cannot run on it, with the reason; `Gone`, `Denied` or `Io` where it cannot be
/// started at all.
pub(super) fn probe(program: &Path) -> Result<Interpreter> {
    let mut command = Command::new(program);
    command.args(["-I", "-S", "-c", PROBE]);
    let mut process = Process::spawn(command)?;
    let line = process.read_line(PROBE_LIMIT)?;
    let answer: Answer =
        serde_json::from_str(&line).map_err(|e| process.failure("does not answer as a Python does").caused_by(e))?;
    judge(&program.display().to_string(), answer)
}

/// Whether the world runs on what answered so.
fn judge(program: &str, answer: Answer) -> Result<Interpreter> {
    let (major, minor, patch) = answer.version;
    let version = format!("{major}.{minor}.{patch}");
    let refuse = |why: &str| Err(Error::new(Kind::Unsupported, format!("{program}: {why}")));
    if answer.implementation != "cpython" {
        return refuse(&format!("{} is not CPython", answer.implementation));
    }
    if (major, minor) < OLDEST {
        return refuse(&format!("CPython {version} is older than 3.8"));
    }
    if answer.free_threaded {
        return refuse(&format!("CPython {version} is a free-threaded build"));
    }
    if !answer.executable.is_absolute() {
        return refuse("it does not know its own executable");
    }
    Ok(Interpreter { executable: answer.executable, version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_fits_into_a_pipe() {
        // A pipe holds 64 KiB: feeding the program never waits for the interpreter to come up.
        assert!(source().len() < 64 * 1024);
    }

    #[test]
    fn candidates_are_executable_files_and_each_stands_once() {
        let dir = tempfile::tempdir().unwrap();
        let bin = |name: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let real = bin("python3.9", 0o755);
        bin("python3.10", 0o644);
        std::fs::create_dir(dir.path().join("python3.11")).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("python3")).unwrap();
        let other = bin("python", 0o755);
        let path = std::env::join_paths([Path::new("relative"), dir.path(), dir.path()]).unwrap();
        assert_eq!(candidates_in(&path), [dir.path().join("python3"), other]);
    }

    #[test]
    fn what_is_no_usable_python_is_refused_by_name() {
        let judged = |implementation: &str, minor: u32, executable: &str, free_threaded: bool| {
            let executable = PathBuf::from(executable);
            judge(
                "x",
                Answer { implementation: implementation.to_owned(), version: (3, minor, 1), executable, free_threaded },
            )
        };
        for (answer, why) in [
            (judged("cpython", 7, "/x", false), "CPython 3.7.1 is older than 3.8"),
            (judged("pypy", 10, "/x", false), "pypy is not CPython"),
            (judged("cpython", 13, "/x", true), "free-threaded"),
            (judged("cpython", 13, "", false), "does not know its own executable"),
        ] {
            let error = answer.unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.to_string().contains(why), "{error:?}");
        }
        let good = judged("cpython", 8, "/opt/python3.8", false).unwrap();
        assert_eq!((good.version.as_str(), good.executable), ("3.8.1", PathBuf::from("/opt/python3.8")));
    }

    #[test]
    fn what_answers_otherwise_is_no_python() {
        let error = probe(Path::new("/bin/echo")).unwrap_err();
        assert!(error.to_string().contains("does not answer as a Python does"), "{error:?}");
        assert_eq!(probe(Path::new("/bin/true")).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(probe(Path::new("/nonexistent/python3")).unwrap_err().kind(), Kind::Gone);
    }
}
