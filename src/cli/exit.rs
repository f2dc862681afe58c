//! Exit codes, and which error means which.

use std::error::Error as _;
use std::io;

use crate::error::{Error, Kind};

/// How perfkit ends; the numbers are a contract with scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Done, and the answer is no: a target was missed.
    No,
    /// Usage or bad input: nothing was started.
    Usage,
    /// Could not attach or measure.
    CannotMeasure,
    /// A result was written, but a part of what was asked for failed.
    Partial,
    /// Done, and the answer could not be found.
    Undecided,
    /// The code of the program that perfkit started, or that the user asked for.
    Program(i32),
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::No => 1,
            Self::Usage => 2,
            Self::CannotMeasure => 3,
            Self::Partial => 4,
            Self::Undecided => 5,
            // A program's code is 0 to 255 already (128 + n for signal n).
            Self::Program(code) => code as u8,
        }
    }

    /// What an error that ends perfkit means.
    pub fn of(error: &Error) -> Self {
        if is_broken_pipe(error) {
            return Self::Done;
        }
        match error.kind() {
            Kind::Usage | Kind::Malformed => Self::Usage,
            Kind::Gone | Kind::Denied | Kind::Unsupported | Kind::Io | Kind::Bug => Self::CannotMeasure,
        }
    }
}

/// Whether the reader of our output has gone away (`perfkit … | head`), which is no failure of ours.
pub fn is_broken_pipe(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(c) = cause {
        if c.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        cause = c.source();
    }
    false
}

/// The same error as one about what the user gave: a file to read or to write, whatever the system's reason is.
#[allow(clippy::needless_pass_by_value, reason = "it is made for map_err")]
pub fn input(error: Error) -> Error {
    let mut told = Error::usage(error.to_string());
    if let Some(advice) = error.advice() {
        told = told.advise(advice);
    }
    match error.source().map(ToString::to_string) {
        Some(cause) => told.caused_by(cause),
        None => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_codes_and_a_closed_pipe_is_success() {
        for (kind, code) in [
            (Kind::Usage, 2),
            (Kind::Malformed, 2),
            (Kind::Gone, 3),
            (Kind::Denied, 3),
            (Kind::Unsupported, 3),
            (Kind::Io, 3),
        ] {
            assert_eq!(Exit::of(&Error::new(kind, "x")).code(), code, "{kind:?}");
        }
        let pipe = Error::io("cannot write", io::Error::from(io::ErrorKind::BrokenPipe)).within("stdout");
        assert_eq!(Exit::of(&pipe), Exit::Done);
        assert_eq!(Exit::Program(139).code(), 139);
    }

    #[test]
    fn trouble_with_a_file_of_the_user_is_bad_input() {
        let e = Error::io("cannot open x", io::Error::from_raw_os_error(libc::ENOENT)).advise("look again");
        let e = input(e);
        assert_eq!((e.kind(), e.advice()), (Kind::Usage, Some("look again")));
        assert!(format!("{e:#}").contains("No such file"), "{e:#}");
    }
}
