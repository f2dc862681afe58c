//! The limit of open files: raised for perfkit, as it was for the programs that perfkit starts.
//!
//! perfkit holds a file for each module and, without eBPF, an event for each thread and CPU, which soon passes the soft
//! limit of 1024 that most shells set. Raising it up to the hard limit takes no right. A program that we start must not
//! inherit that: one that uses `select()` breaks on descriptors from 1024 on, which is why the soft limit is what it is.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A soft and a hard limit of open files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// What counts; may be raised up to `hard`.
    pub soft: u64,
    /// The most that may be had without a right.
    pub hard: u64,
}

static ORIGINAL: OnceLock<OpenFiles> = OnceLock::new();

/// Raises the soft limit to the hard one for the rest of our life. Where the system does not let us, everything goes on
/// under the limit that there is.
pub fn raise_open_files() {
    let Some(now) = open_files() else { return };
    ORIGINAL.get_or_init(|| now);
    if now.soft < now.hard {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, now.hard, now.hard);
    }
}

/// Raises both limits to `needed` where they are lower, as far as the system lets us: past the hard limit only with
/// CAP_SYS_RESOURCE. Returns what they came to; `None` when the system does not say.
pub fn raise_open_files_to(needed: u64) -> Option<OpenFiles> {
    raise_open_files();
    let now = open_files()?;
    if now.soft < needed {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, needed, needed.max(now.hard));
    }
    open_files()
}

/// The limits now.
pub fn open_files() -> Option<OpenFiles> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, hard)| OpenFiles { soft, hard })
}

/// What the limits were when we started, for the programs that we start; `None` when they have not been touched.
pub fn original_open_files() -> Option<OpenFiles> {
    ORIGINAL.get().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raised_to_the_hard_limit_and_remembered() {
        let before = open_files().unwrap();
        raise_open_files();
        let after = open_files().unwrap();
        assert_eq!((after.soft, after.hard), (before.hard, before.hard));
        raise_open_files();
        // Another test of this process may have been the first to raise it.
        assert_eq!(original_open_files().unwrap().hard, before.hard);
    }
}
