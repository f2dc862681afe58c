//! Where the results of `perfkit mem` go, and in which format.

use std::io::{self, Write as _};
use std::path::PathBuf;

use super::super::exit::is_broken_pipe;
use super::super::outputs::{Place, Written};
use crate::error::{Error, Result};
use crate::render::MemFormat;
use crate::session::plan::{Destination, Output};

/// What the command line says of outputs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wishes<'a> {
    /// `-o`.
    pub(super) output: &'a [PathBuf],
    /// `--format`.
    pub(super) format: Option<MemFormat>,
    /// `--json`.
    pub(super) json: bool,
    /// `--force`.
    pub(super) force: bool,
}

/// Every place where results go.
#[derive(Debug)]
pub(super) struct MemOutputs {
    files: Vec<(PathBuf, Place, MemFormat)>,
    stdout: Option<MemFormat>,
}

impl MemOutputs {
    /// Opens or proves every output.
    ///
    /// # Errors
    /// `Usage` for outputs that cannot be together, and those of the files.
    pub(super) fn open(args: &Wishes<'_>) -> Result<Self> {
        let mut files: Vec<(PathBuf, Place, MemFormat)> = Vec::new();
        let mut stdout = args.json.then_some(MemFormat::Json);
        for path in args.output {
            if path.as_os_str() == "-" {
                if stdout.is_some() {
                    return Err(Error::usage("standard output is wanted twice")
                        .advise("give one of -o - and --json; --json is the same as -o - --format json"));
                }
                stdout = Some(args.format.unwrap_or(MemFormat::Text));
                continue;
            }
            if files.iter().any(|(f, ..)| f == path) {
                return Err(Error::usage(format!("-o {} is given twice", path.display())));
            }
            let format = args.format.map_or_else(|| MemFormat::from_path(path), Ok)?;
            if format != MemFormat::Perfkit && MemFormat::from_path(path).ok() == Some(MemFormat::Perfkit) {
                let (name, show) = (format.name(), path.display());
                return Err(Error::usage(format!(
                    "--format {name} is for every -o, and {show} is named like a recording"
                ))
                .advise("leave --format out and give each file the ending of its format"));
            }
            let place = match format {
                MemFormat::Perfkit => Place::for_recording(path, args.force)?,
                _ => Place::open(path)?,
            };
            files.push((path.clone(), place, format));
        }
        if stdout == Some(MemFormat::Perfkit) || (files.is_empty() && args.format == Some(MemFormat::Perfkit)) {
            return Err(Error::usage("a recording needs a file").advise("give it a name: -o run.perfkit"));
        }
        if files.is_empty() && stdout.is_none() {
            stdout = Some(args.format.unwrap_or(MemFormat::Text));
        }
        Ok(Self { files, stdout })
    }

    /// For the plan in the recording.
    pub(super) fn planned(&self) -> Vec<Output> {
        let files = self.files.iter().map(|(path, _, format)| (Destination::File(path.clone()), *format));
        let stdout = self.stdout.map(|format| (Destination::Stdout, format));
        files.chain(stdout).map(|(to, format)| Output { to, format: format.name().to_owned() }).collect()
    }

    /// Writes every result; one that fails does not keep the others from being written. Where none can be, the table goes to
    /// standard output.
    pub(super) fn write(&mut self, document: &dyn Fn(MemFormat) -> Result<Vec<u8>>, recorded: bool) -> Written {
        let mut written = Written::default();
        for (path, place, format) in &mut self.files {
            let result = match format {
                MemFormat::Perfkit if !recorded => continue,
                // The session has written it already.
                MemFormat::Perfkit => Ok(std::fs::metadata(&*path).ok().map(|m| m.len())),
                _ => document(*format).and_then(|bytes| place.put(&bytes)),
            };
            match result {
                Ok(size) => written.files.push((path.clone(), size)),
                Err(e) if is_broken_pipe(&e) => {}
                Err(e) => written.failures.push(e),
            }
        }
        let nothing_left = written.files.is_empty() && !written.failures.is_empty();
        if let Some(format) = self.stdout.or_else(|| nothing_left.then_some(MemFormat::Text)) {
            let printed = document(format).and_then(|bytes| {
                let mut out = io::stdout().lock();
                let done = out.write_all(&bytes).and_then(|()| out.flush());
                done.map_err(|e| Error::io("cannot write to standard output", e))
            });
            written.failures.extend(printed.err().filter(|e| !is_broken_pipe(e)));
        }
        written
    }
}

impl MemOutputs {
    /// Whether one of them is a recording.
    pub(super) fn has_recording(&self) -> bool {
        self.files.iter().any(|(.., format)| *format == MemFormat::Perfkit)
    }
}
