//! Stage two, at the end of a recording: source lines and inlined functions of the addresses that were met, from DWARF.
//!
//! In: frames with their modules and addresses. Out: the same frames with file, line and inlined functions. Invariants: it
//! ends when its time is up, with what it has by then; a module whose debug information crashes, stalls or bloats its
//! reader costs the inlined frames of that module and nothing else, since it is read in child processes (see `helper`);
//! the function's name stays the one that stage one gave it.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::debuginfo::{self, SearchPaths};
use super::elf64::{Headers, Section};
use super::helper::{Answer, INLINES_SUBCOMMAND, REQUEST_LIMIT, write_request};
use super::modules::{Module, ModuleId, Modules};
use crate::error::{Error, Kind, Result};
use crate::record::{Frame, FrameId, Inline};

/// Children at the same time.
const WORKERS: usize = 2;
/// A module with more addresses than this is shared between the workers.
const SHARED_FROM: usize = 512;
/// A line of an answer longer than this is none.
const LINE_LIMIT: usize = 1 << 20;
/// Levels of inlining that are kept; compilers reach some thirty.
const LEVEL_LIMIT: usize = 256;

/// A native frame that stage one has seen.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The frame.
    pub id: FrameId,
    /// Its module.
    pub module: ModuleId,
    /// Its address in the module's own numbering.
    pub address: u64,
    /// What is known of it so far.
    pub frame: Frame,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Inlined {
    /// The frames of which more is known now.
    pub frames: Vec<(FrameId, Frame)>,
    /// Addresses that were not reached before the time was up, or whose module could not be read.
    pub unfinished: usize,
    /// A line for each module that could not be read to the end, and why.
    pub troubles: Vec<String>,
}

/// Finds inlined functions and lines.
#[derive(Debug, Clone)]
pub struct Inliner {
    program: PathBuf,
    paths: SearchPaths,
}

/// Addresses of one file.
struct Job {
    path: String,
    file: File,
    wanted: Vec<Wanted>,
}

impl Inliner {
    /// With perfkit itself as the helper.
    pub fn new(paths: SearchPaths) -> Self {
        // The link names this very binary even when it has been replaced on disk.
        Self { program: PathBuf::from("/proc/self/exe"), paths }
    }

    /// With another perfkit as the helper: tests are not perfkit.
    #[must_use]
    pub fn with_program(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    /// Looks up every frame of `wanted`; ends after `budget` at the latest (and a moment to stop the children).
    pub fn run(&self, modules: &Modules, wanted: Vec<Wanted>, budget: Duration) -> Inlined {
        let deadline = Instant::now() + budget;
        let jobs = Mutex::new(self.jobs(modules, wanted));
        let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let work = || {
            let mut done = Inlined::default();
            while let Some(job) = next() {
                self.run_job(job, deadline, &mut done);
            }
            done
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map_while(|_| {
                    std::thread::Builder::new().name("perfkit-inlines".into()).spawn_scoped(scope, work).ok()
                })
                .collect();
            let mut all = Inlined::default();
            for done in workers.into_iter().filter_map(|w| w.join().ok()) {
                all.frames.extend(done.frames);
                all.troubles.extend(done.troubles);
                all.unfinished += done.unfinished;
            }
            all
        })
    }

    /// One job a module with DWARF; large ones are cut in two at an address, so that each reads its own part.
    fn jobs(&self, modules: &Modules, wanted: Vec<Wanted>) -> VecDeque<Job> {
        let mut by_module: FxHashMap<ModuleId, Vec<Wanted>> = FxHashMap::default();
        for one in wanted {
            by_module.entry(one.module).or_default().push(one);
        }
        let mut jobs = Vec::new();
        for (id, mut wanted) in by_module {
            let Some(module) = modules.get(id) else { continue };
            let Some(file) = self.file_with_dwarf(&module) else { continue };
            wanted.sort_by_key(|w| w.address);
            let parts = if wanted.len() > SHARED_FROM { WORKERS } else { 1 };
            let size = wanted.len().div_ceil(parts).clamp(1, REQUEST_LIMIT as usize);
            for part in wanted.chunks(size) {
                // Without a descriptor left the rest of the module stays without lines.
                let Ok(file) = file.try_clone() else { break };
                jobs.push(Job { path: module.path.clone(), file, wanted: part.to_vec() });
            }
        }
        // The longest first, so that the workers end together.
        jobs.sort_by_key(|j| std::cmp::Reverse(j.wanted.len()));
        jobs.into()
    }

    fn file_with_dwarf(&self, module: &Module) -> Option<File> {
        let has_dwarf = |h: &Headers| h.section(".debug_info").is_some_and(Section::has_bytes);
        if has_dwarf(&module.headers) {
            return module.file().ok()?.try_clone().ok();
        }
        let split = debuginfo::find(module, &self.paths).filter(|d| has_dwarf(&d.headers))?;
        split.file.try_clone().ok()
    }

    fn run_job(&self, job: Job, deadline: Instant, done: &mut Inlined) {
        let before = done.frames.len();
        let count = job.wanted.len();
        let path = job.path.clone();
        if let Err(e) = self.ask(job, deadline, done) {
            let answered = done.frames.len() - before;
            done.unfinished += count.saturating_sub(answered);
            done.troubles.push(format!("{path}: {e:#}"));
        }
    }

    fn ask(&self, job: Job, deadline: Instant, done: &mut Inlined) -> Result<()> {
        let cannot = |e| Error::io("cannot talk to the helper", e);
        let (mut ours, theirs) = UnixStream::pair().map_err(cannot)?;
        let remaining = remaining(deadline)?;
        let child = Command::new(&self.program)
            .arg(INLINES_SUBCOMMAND)
            .env_clear()
            .stdin(Stdio::from(job.file))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::null())
            // Ctrl-C on the terminal is meant for us.
            .process_group(0)
            .spawn()
            .map_err(|e| Error::io("cannot start the helper for inlined frames", e))?;
        let mut child = Guard(child);
        ours.set_write_timeout(Some(remaining)).map_err(cannot)?;
        let addresses: Vec<u64> = job.wanted.iter().map(|w| w.address).collect();
        write_request(&mut ours, &addresses, &self.paths.debug_dirs).map_err(cannot)?;
        read_answers(&mut ours, deadline, &mut |answer| take(&job.wanted, answer, done))?;
        match child.0.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => {
                Err(Error::new(Kind::Malformed, format!("its debug information ended the reader ({status})")))
            }
            Err(e) => Err(cannot(e)),
        }
    }
}

/// A child that does not outlive its job.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // It may be gone already; either way nothing is left to do about it.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn remaining(deadline: Instant) -> Result<Duration> {
    deadline
        .checked_duration_since(Instant::now())
        .filter(|d| !d.is_zero())
        .ok_or_else(|| Error::new(Kind::Io, "no time was left to read its debug information"))
}

/// Reads lines until the other side closes; each wait ends at the deadline, so that a drip does not stretch it.
fn read_answers(from: &mut UnixStream, deadline: Instant, take: &mut dyn FnMut(Answer)) -> Result<()> {
    let (mut held, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        from.set_read_timeout(Some(remaining(deadline)?)).map_err(|e| Error::io("cannot wait for the helper", e))?;
        let n = match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) => continue,
            Err(e) => return Err(Error::io("cannot hear the helper", e)),
        };
        held.extend_from_slice(chunk.get(..n).unwrap_or_default());
        let whole = held.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        for line in held.get(..whole).unwrap_or_default().split(|&b| b == b'\n').filter(|l| !l.is_empty()) {
            if let Ok(answer) = serde_json::from_slice(line) {
                take(answer);
            }
        }
        held.drain(..whole);
        if held.len() > LINE_LIMIT {
            return Err(Error::new(Kind::Malformed, "an answer without an end"));
        }
    }
}

fn take(wanted: &[Wanted], answer: Answer, done: &mut Inlined) {
    let Some(wanted) = wanted.get(answer.index as usize) else { return };
    let mut levels = answer.levels.into_iter().take(LEVEL_LIMIT);
    let Some(outer) = levels.next() else { return };
    let mut frame = wanted.frame.clone();
    let nameless = outer.function.is_empty();
    frame.function = frame.function.or((!nameless).then_some(outer.function));
    frame.file = outer.file;
    frame.line = outer.line;
    frame.inlines = levels.map(|l| Inline { function: l.function, file: l.file, line: l.line }).collect();
    done.frames.push((wanted.id, frame));
}
