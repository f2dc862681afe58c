//! The one error type of the library: what went wrong, of which kind, and what to do about it.
//!
//! In: causes from the kernel, files and foreign data. Out: one chain that `main` prints, and a [`Kind`] that decides
//! the exit code. Invariant: a message says what was found, the advice says which command helps. A thread that died or a
//! page that could not be read is *data*, not an error.

use std::error::Error as StdError;
use std::fmt;

/// What kind of failure this is; callers branch on it, users never see its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The target (or a file) is no longer there.
    Gone,
    /// A right is missing.
    Denied,
    /// Understood, but this build of the target, kernel or format is not supported.
    Unsupported,
    /// Foreign bytes that do not say what they should.
    Malformed,
    /// The operating system failed us.
    Io,
    /// The command line or another input of the user asks for something that cannot be.
    Usage,
    /// A promise inside perfkit was broken.
    Bug,
}

/// An error with its kind, its context and the advice that goes with it.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    what: String,
    advice: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What an error about a recording says when there was no room.
pub const DISK_FULL: &str = "the disk is full";

/// The result of everything in the library that can fail.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind`; `what` is lower-case and names the pid, path or address it is about.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, what: what.into(), advice: None, source: None }))
    }

    /// Something the user asked for that cannot be.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what)
    }

    /// A failure of the operating system; the kind follows the errno (`ENOENT`, `ESRCH` gone; `EPERM`, `EACCES` denied).
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => Kind::Gone,
            Some(libc::EPERM | libc::EACCES) => Kind::Denied,
            // Temporary files give their errors without the number.
            _ => match source.kind() {
                std::io::ErrorKind::NotFound => Kind::Gone,
                std::io::ErrorKind::PermissionDenied => Kind::Denied,
                _ => Kind::Io,
            },
        };
        Self::new(kind, what).caused_by(source)
    }

    /// The same error with the cause it came from.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error with what the reader should do next: the value found, and a command.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// The same error, read in a wider context: `context: what`.
    #[must_use]
    pub fn within(mut self, context: &str) -> Self {
        self.0.what = format!("{context}: {}", self.0.what);
        self
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What to do about it, where something can be done.
    pub fn advice(&self) -> Option<&str> {
        self.0.advice.as_deref()
    }
}

impl fmt::Display for Error {
    /// `what` alone; `{:#}` adds the causes, each after a colon.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        if f.alternate() {
            let mut cause = self.source();
            while let Some(c) = cause {
                write!(f, ": {c}")?;
                cause = c.source();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self:#}", self.0.kind)?;
        if let Some(advice) = self.advice() {
            write!(f, " ({advice})")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|s| s as &(dyn StdError + 'static))
    }
}

impl From<rusqlite::Error> for Error {
    fn from(e: rusqlite::Error) -> Self {
        let kind = match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => Kind::Malformed,
            _ => Kind::Io,
        };
        if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) {
            return Self::new(kind, DISK_FULL);
        }
        Self::new(kind, "the recording could not be read or written").caused_by(e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternate_form_shows_the_causes_and_kind_follows_errno() {
        let e = Error::io("cannot read /proc/7/maps", std::io::Error::from_raw_os_error(libc::EACCES)).within("attach");
        assert_eq!(e.kind(), Kind::Denied);
        assert_eq!(e.to_string(), "attach: cannot read /proc/7/maps");
        assert!(format!("{e:#}").contains("Permission denied"));
    }
}
