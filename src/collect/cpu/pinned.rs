//! A reader beside each CPU: it wakes where the sample was taken.
//!
//! In: the rings. Out: their records, samples with the Python frames of their thread. A sample wakes the thread that is
//! bound to its CPU; to run, that thread takes the CPU from the sampled one, which then stands still, as any thread does
//! whose slice is over, while its frames are read. So they are those of the sample's instant, unless the scheduler let the
//! thread run on for a while or moved it to another CPU; what the C stack proves then is used (`walk`, `late`). All that
//! takes longer, unwinding and names, is done elsewhere. Invariant: no lock is held while a target is read. Limits: where a
//! CPU is closed to us (a cpuset), its reader runs on another one and comes a little later.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use rustc_hash::FxHashMap;

use super::reader::{Reader, Seen};
use super::walk::CStack;
use crate::clock::{Clock, Mono, SystemClock};
use crate::error::{Error, Kind, Result};
use crate::os::bpf::{PyFrame, Python};
use crate::os::perf::{Event, Layout, Record, Ring, parse};
use crate::os::schedule::wake_promptly;
use crate::python::Runtime;

/// How long a reader waits for a sample before it looks whether it is still wanted, ms.
const BEAT_MS: u8 = 50;
/// Bytes of records that wait to be taken; past that the ring fills up, and the kernel counts what is lost.
const WAITING_LIMIT: usize = 16 << 20;

/// The CPython of a process, for those who read its frames.
#[derive(Debug)]
pub(super) struct Interpreter {
    pub(super) runtime: Runtime,
    pub(super) py: Python,
}

/// The interpreters by pid.
#[derive(Debug, Default)]
pub(super) struct Interpreters(RwLock<FxHashMap<u32, Arc<Interpreter>>>);

impl Interpreters {
    /// Says what runs in a process now.
    pub(super) fn set(&self, pid: u32, interpreter: Option<Interpreter>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match interpreter {
            Some(interpreter) => drop(all.insert(pid, Arc::new(interpreter))),
            None => drop(all.remove(&pid)),
        }
    }

    fn get(&self, pid: u32) -> Option<Arc<Interpreter>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&pid).map(Arc::clone)
    }
}

/// Records that have come, one after another in one piece of memory.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    frames: Vec<PyFrame>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    bytes: (usize, usize),
    frames: (usize, usize),
    seen: Seen,
    read_at: Mono,
}

/// The Python frames that were read for a sample.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read<'a> {
    pub(super) frames: &'a [PyFrame],
    pub(super) seen: Seen,
    /// When.
    pub(super) at: Mono,
}

impl Batch {
    /// The records, each with what was read for it.
    pub(super) fn records(&self) -> impl Iterator<Item = (&[u8], Read<'_>)> {
        self.entries.iter().filter_map(|e| {
            let frames = self.frames.get(e.frames.0..e.frames.1)?;
            Some((self.bytes.get(e.bytes.0..e.bytes.1)?, Read { frames, seen: e.seen, at: e.read_at }))
        })
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.frames.clear();
        self.entries.clear();
    }

    fn push(&mut self, record: &[u8], frames: &[PyFrame], seen: Seen, read_at: Mono) {
        let from = (self.bytes.len(), self.frames.len());
        self.bytes.extend_from_slice(record);
        self.frames.extend_from_slice(frames);
        let to = (self.bytes.len(), self.frames.len());
        self.entries.push(Entry { bytes: (from.0, to.0), frames: (from.1, to.1), seen, read_at });
    }

    fn append(&mut self, other: &mut Self) {
        let base = (self.bytes.len(), self.frames.len());
        self.bytes.append(&mut other.bytes);
        self.frames.append(&mut other.frames);
        self.entries.extend(other.entries.drain(..).map(|e| Entry {
            bytes: (e.bytes.0 + base.0, e.bytes.1 + base.0),
            frames: (e.frames.0 + base.1, e.frames.1 + base.1),
            ..e
        }));
    }
}

/// What a reader and its master share.
#[derive(Debug, Default)]
struct Post {
    waiting: Mutex<Batch>,
    stop: AtomicBool,
}

/// One CPU's reader.
#[derive(Debug)]
pub(super) struct Pinned {
    post: Arc<Post>,
    thread: Option<JoinHandle<()>>,
    spare: Batch,
}

impl Pinned {
    /// Starts the reader of `ring`, which `owner` has on CPU `number`.
    pub(super) fn start(number: u32, owner: &Event, ring: Ring, interpreters: Arc<Interpreters>) -> Result<Self> {
        let post = Arc::new(Post::default());
        let fd = owner.fd().try_clone().map_err(|e| Error::io("cannot keep a perf event", e))?;
        let mut work = Work {
            ring,
            post: Arc::clone(&post),
            interpreters,
            readers: FxHashMap::default(),
            frames: Vec::new(),
            batch: Batch::default(),
        };
        let thread = std::thread::Builder::new()
            .name(format!("perfkit-cpu{number}"))
            .spawn(move || {
                bind(number);
                wake_promptly();
                while !work.post.stop.load(Ordering::SeqCst) {
                    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
                    // A signal ends the wait early, which is as good.
                    let _ = poll(&mut fds, PollTimeout::from(BEAT_MS));
                    work.drain();
                }
                work.drain();
            })
            .map_err(|e| Error::io("cannot start a reader of samples", e))?;
        Ok(Self { post, thread: Some(thread), spare: Batch::default() })
    }

    /// What has come since the last call.
    pub(super) fn take(&mut self) -> &Batch {
        self.spare.clear();
        let mut waiting = self.post.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *waiting, &mut self.spare);
        drop(waiting);
        &self.spare
    }

    /// Ends the reader once it has emptied its ring; [`Pinned::take`] gives the rest.
    ///
    /// # Errors
    /// `Bug` when it panicked.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.post.stop.store(true, Ordering::SeqCst);
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(Error::new(Kind::Bug, "a reader of samples panicked")),
            _ => Ok(()),
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Ends by itself within a beat.
        self.post.stop.store(true, Ordering::SeqCst);
    }
}

/// Binds the calling thread to a CPU; where that is not allowed it stays free.
fn bind(number: u32) {
    let mut set = CpuSet::new();
    if set.set(number as usize).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

struct Work {
    ring: Ring,
    post: Arc<Post>,
    interpreters: Arc<Interpreters>,
    readers: FxHashMap<u32, (Arc<Interpreter>, Reader)>,
    frames: Vec<PyFrame>,
    batch: Batch,
}

impl Work {
    fn drain(&mut self) {
        let waiting = self.post.waiting.lock().unwrap_or_else(PoisonError::into_inner).bytes.len();
        if waiting > WAITING_LIMIT {
            return;
        }
        let Self { ring, interpreters, readers, frames, batch, .. } = self;
        ring.drain(|bytes| {
            let now = SystemClock.now();
            frames.clear();
            let mut seen = Seen::default();
            if let Record::Stack(sample) = parse(bytes, |_| Layout::Stacks { raw: false })
                && let Some(known) = interpreters.get(sample.pid)
            {
                let fresh = || (Arc::clone(&known), Reader::new(sample.pid));
                let (interpreter, reader) = readers.entry(sample.pid).or_insert_with(fresh);
                if !Arc::ptr_eq(interpreter, &known) {
                    *interpreter = known;
                    reader.exec();
                }
                let stack = sample.regs.map(|regs| CStack { sp: regs[1], bytes: sample.stack });
                seen = reader.read((&interpreter.runtime, &interpreter.py), sample.tid, stack, now, frames);
            }
            batch.push(bytes, frames, seen, now);
        });
        if !batch.entries.is_empty() {
            self.post.waiting.lock().unwrap_or_else(PoisonError::into_inner).append(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_records_and_frames_together() {
        let frame = |code| PyFrame { code, at: 0, check: 0 };
        let mut all = Batch::default();
        for round in 0..3_u8 {
            let mut batch = Batch::default();
            batch.push(&[round; 3], &[frame(round.into())], Seen::default(), Mono(1));
            batch.push(&[], &[], Seen::default(), Mono(2));
            all.append(&mut batch);
        }
        let seen: Vec<_> = all.records().map(|(bytes, read)| (bytes.to_vec(), read.frames.len(), read.at.0)).collect();
        assert_eq!(seen.len(), 6);
        assert_eq!(seen[2], (vec![1; 3], 1, 1));
        assert_eq!(seen[5], (vec![], 0, 2));
    }
}
