//! The interpreters of this machine.
//!
//! Invariant: what perfkit promises to read (CPython 3.8 to 3.13) and this machine lacks is a skip with its name, so CI fails
//! on it and a bare machine goes on with what it has.

use std::fmt;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::skip;

/// The minor versions of CPython 3 that perfkit promises to read and that must be tested.
const MINORS: std::ops::RangeInclusive<u32> = 8..=13;

/// A CPython to test with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Python {
    /// The executable.
    pub path: PathBuf,
    /// Major, minor, micro.
    pub version: (u32, u32, u32),
}

impl fmt::Display for Python {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, micro) = self.version;
        write!(f, "{major}.{minor}.{micro} ({})", self.path.display())
    }
}

/// Every CPython 3.8 to 3.13 of pyenv, and `/usr/bin/python3` if it is one of 3.8 or later. `PERFKIT_PYTHONS` (paths with
/// colons between) overrides; a path in it that is no CPython fails by name.
pub fn interpreters() -> &'static [Python] {
    static ALL: OnceLock<Vec<Python>> = OnceLock::new();
    ALL.get_or_init(|| {
        if let Some(paths) = std::env::var_os("PERFKIT_PYTHONS") {
            return std::env::split_paths(&paths)
                .map(|p| {
                    let found = identify(&p);
                    found.unwrap_or_else(|| panic!("PERFKIT_PYTHONS names {}: no CPython runs there", p.display()))
                })
                .collect();
        }
        let promised = |p: &Python| p.version.0 == 3 && MINORS.contains(&p.version.1);
        let mut all: Vec<_> = of_pyenv().into_iter().filter(promised).collect();
        all.sort_by_key(|p| p.version);
        all.extend(identify(Path::new("/usr/bin/python3")).filter(|p| p.version >= (3, 8, 0)));
        for minor in MINORS {
            if !all.iter().any(|p| p.version.1 == minor) {
                let _ = skip(&format!("CPython 3.{minor}"));
            }
        }
        all
    })
}

/// The interpreter of a version such as `3.11` (pyenv's before the system's), or the newest for `""`. A version that this
/// machine lacks is a skip, and the newest takes its place.
///
/// # Panics
/// By name, when there is no CPython at all.
pub fn python(version: &str) -> &'static Python {
    let is_asked = |p: &&Python| {
        let (major, minor, micro) = p.version;
        version == format!("{major}.{minor}") || version == format!("{major}.{minor}.{micro}")
    };
    let newest = || {
        let newest = interpreters().iter().max_by_key(|p| p.version);
        newest.expect("no CPython 3.8 or later on this machine (set PERFKIT_PYTHONS)")
    };
    if version.is_empty() {
        return newest();
    }
    interpreters().iter().find(is_asked).unwrap_or_else(|| {
        let _ = skip(&format!("CPython {version}"));
        newest()
    })
}

/// The interpreter that pyenv has of a version such as `2.7`, supported by perfkit or not; the newest of several.
pub fn pyenv(version: &str) -> Option<PathBuf> {
    let (major, minor) = version.split_once('.')?;
    let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
    let fitting = of_pyenv().into_iter().filter(|p| (p.version.0, p.version.1) == (major, minor));
    fitting.max_by_key(|p| p.version).map(|p| p.path)
}

/// Runs `test` on every interpreter, all of them, and fails with the names of those it failed on.
pub fn for_each_python(test: impl Fn(&Python) + std::panic::RefUnwindSafe) {
    assert!(!interpreters().is_empty(), "no CPython 3.8 or later on this machine (set PERFKIT_PYTHONS)");
    let failed: Vec<_> = interpreters()
        .iter()
        .filter(|p| {
            let _ = writeln!(std::io::stderr(), "---- on CPython {p}");
            std::panic::catch_unwind(|| test(p)).is_err()
        })
        .map(ToString::to_string)
        .collect();
    assert!(failed.is_empty(), "failed on {}", failed.join(", "));
}

/// What pyenv has, by the names of its directories: CPython's are bare versions; `pypy3.9-7.3`, `3.13.0t` and the like are
/// other things.
fn of_pyenv() -> Vec<Python> {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".pyenv");
    let root = std::env::var_os("PYENV_ROOT").map_or_else(home, PathBuf::from);
    let entries = fs::read_dir(root.join("versions")).into_iter().flatten().flatten();
    let python = |entry: fs::DirEntry| {
        let version = parse_version(entry.file_name().to_str()?)?;
        Some(Python { path: entry.path().join("bin/python"), version })
    };
    entries.filter_map(python).collect()
}

fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.trim().split('.').map(str::parse);
    let version = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    parts.next().is_none().then_some(version)
}

fn identify(path: &Path) -> Option<Python> {
    let ask = "import sys; print(sys.implementation.name, '%d.%d.%d' % sys.version_info[:3])";
    let out = Command::new(path).args(["-I", "-c", ask]).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    let version = parse_version(text.strip_prefix("cpython ")?)?;
    Some(Python { path: path.to_owned(), version })
}
