//! The growing side of a recording: interns what samples refer to and gathers events until the next flush.
//!
//! In: collectors on their own threads. Out: each flush hands one batch to the [`Store`](super::Store). A single short lock
//! guards it all; nothing in here does I/O, so that a slow disk delays the writer and never a sampler.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use super::census::{Census, CensusRows, CensusTables, Holder};
use super::model::{Event, Frame, FrameId, FrameKind, Process, ProcessId, Stack, StackId, Thread, ThreadId};
use super::requests::{RequestError, RequestWindow, SlowRequest};

/// Events held before the writer takes them; past that new ones are dropped and counted.
const QUEUE_LIMIT: usize = 1_000_000;

/// What makes two native, JIT or kernel frames the same before they have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameKey {
    /// Native, kernel or JIT.
    pub kind: FrameKind,
    /// The collector's own number for the module (or the process, for JIT code), so that equal paths of different files stay apart.
    pub space: u32,
    /// The address in that space.
    pub address: u64,
}

/// Everything that is new since the last flush.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) processes: Vec<(ProcessId, Process)>,
    pub(super) threads: Vec<(ThreadId, Thread)>,
    pub(super) frames: Vec<(FrameId, Frame)>,
    pub(super) named: Vec<(FrameId, Frame)>,
    pub(super) stacks: Vec<(StackId, Stack)>,
    pub(super) events: Vec<Event>,
    pub(super) dropped: u64,
    pub(super) endpoints: Vec<(u32, String, String)>,
    pub(super) windows: Vec<RequestWindow>,
    pub(super) errors: Vec<RequestError>,
    pub(super) slow: Vec<SlowRequest>,
    pub(super) census: CensusRows,
}

#[derive(Default)]
struct Tables {
    processes: u32,
    threads: u32,
    frames: u32,
    stacks: u32,
    by_key: FxHashMap<FrameKey, FrameId>,
    by_stack: FxHashMap<(StackId, FrameId), StackId>,
    labels: FxHashMap<&'static str, FrameId>,
    censuses: CensusTables,
    batch: Batch,
}

/// The sink of every collector: interning, and a queue that never blocks.
#[derive(Default)]
pub struct Recorder {
    tables: Mutex<Tables>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl Recorder {
    /// An empty recorder.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // A panic under this lock leaves counters and vectors that are each whole; going on loses nothing.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a process; the caller keeps the id and adds it once.
    pub fn process(&self, process: Process) -> ProcessId {
        let mut t = self.lock();
        t.processes += 1;
        let id = ProcessId(t.processes);
        t.batch.processes.push((id, process));
        id
    }

    /// Says again what is known of a process (it called exec, its runtime was recognised).
    pub fn update_process(&self, id: ProcessId, process: Process) {
        self.lock().batch.processes.push((id, process));
    }

    /// Adds a thread; the caller keeps the id and adds it once.
    pub fn thread(&self, thread: Thread) -> ThreadId {
        let mut t = self.lock();
        t.threads += 1;
        let id = ThreadId(t.threads);
        t.batch.threads.push((id, thread));
        id
    }

    /// Says a thread's name again (threads rename themselves).
    pub fn update_thread(&self, id: ThreadId, thread: Thread) {
        self.lock().batch.threads.push((id, thread));
    }

    /// Adds a frame whose name is known; the caller caches the id.
    pub fn frame(&self, frame: Frame) -> FrameId {
        let mut t = self.lock();
        t.frames += 1;
        let id = FrameId(t.frames);
        t.batch.frames.push((id, frame));
        id
    }

    /// The frame for `key`; `module` is asked only when it is new. `true` when it is new and wants a name.
    pub fn address_frame(&self, key: FrameKey, module: impl FnOnce() -> Option<String>) -> (FrameId, bool) {
        let mut t = self.lock();
        if let Some(&id) = t.by_key.get(&key) {
            return (id, false);
        }
        t.frames += 1;
        let id = FrameId(t.frames);
        t.by_key.insert(key, id);
        let (kind, address) = (key.kind, Some(key.address));
        let frame = Frame { module: module(), address, ..Frame::blank(kind) };
        t.batch.frames.push((id, frame));
        (id, true)
    }

    /// The frame of a remark such as `[truncated]`.
    pub fn label(&self, text: &'static str) -> FrameId {
        if let Some(&id) = self.lock().labels.get(text) {
            return id;
        }
        let id = self.frame(Frame::label(text.to_owned()));
        self.lock().labels.insert(text, id);
        id
    }

    /// Gives an address frame its name, module and inlined functions; `frame.kind`, `module` and `address` are stored too.
    pub fn name_frame(&self, id: FrameId, frame: Frame) {
        self.lock().batch.named.push((id, frame));
    }

    /// The stack of these frames, outermost first.
    pub fn stack(&self, frames: &[FrameId]) -> StackId {
        let mut t = self.lock();
        frames.iter().fold(StackId::EMPTY, |caller, &frame| push(&mut t, caller, frame))
    }

    /// The stack that is `caller` with one more frame at its leaf.
    pub fn callee(&self, caller: StackId, frame: FrameId) -> StackId {
        push(&mut self.lock(), caller, frame)
    }

    /// Takes an event; never blocks. Past the queue's limit it is dropped, and the drop becomes a loss row.
    pub fn put(&self, event: Event) {
        let mut t = self.lock();
        if t.batch.events.len() < QUEUE_LIMIT { t.batch.events.push(event) } else { t.batch.dropped += 1 }
    }

    /// Names an endpoint of a load run; `id` is the caller's own count from 0.
    pub fn endpoint(&self, id: u32, method: &str, name: &str) {
        self.lock().batch.endpoints.push((id, method.to_owned(), name.to_owned()));
    }

    /// Takes a window of a load run. Unlike events these are never dropped: they come ten times a second, however many
    /// requests there are.
    pub fn window(&self, window: RequestWindow) {
        self.lock().batch.windows.push(window);
    }

    /// Takes what failed in a load run.
    pub fn request_error(&self, error: RequestError) {
        self.lock().batch.errors.push(error);
    }

    /// Takes a census of a heap.
    pub fn census(&self, census: &Census) {
        let mut t = self.lock();
        let Tables { censuses, batch, .. } = &mut *t;
        censuses.put(census, &mut batch.census);
    }

    /// Takes who holds something.
    pub fn holder(&self, holder: Holder) {
        CensusTables::hold(holder, &mut self.lock().batch.census);
    }

    /// Takes one of the slowest requests of a load run.
    pub fn slow_request(&self, request: SlowRequest) {
        self.lock().batch.slow.push(request);
    }

    pub(super) fn take(&self) -> Batch {
        std::mem::take(&mut self.lock().batch)
    }
}

fn push(t: &mut Tables, parent: StackId, frame: FrameId) -> StackId {
    let Tables { stacks, batch, by_stack, .. } = t;
    *by_stack.entry((parent, frame)).or_insert_with(|| {
        *stacks += 1;
        let id = StackId(*stacks);
        batch.stacks.push((id, Stack { parent, frame }));
        id
    })
}

impl Frame {
    /// A frame of which only the kind is known.
    pub fn blank(kind: FrameKind) -> Self {
        let (function, file, module) = (None, None, None);
        Self { kind, function, file, line: None, first_line: None, module, address: None, inlines: Vec::new() }
    }

    /// A remark that is not code.
    pub fn label(text: String) -> Self {
        Self { function: Some(text), ..Self::blank(FrameKind::Label) }
    }

    /// A Python frame; `first_line` is where the function's definition begins.
    pub fn python(function: String, file: String, line: Option<u32>, first_line: Option<u32>) -> Self {
        Self { function: Some(function), file: Some(file), line, first_line, ..Self::blank(FrameKind::Python) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_stacks_share_a_node_and_only_new_ones_are_batched() {
        let r = Recorder::new();
        let f: Vec<_> =
            (0..3).map(|i| r.frame(Frame::python(format!("f{i}"), "a.py".into(), Some(i), Some(1)))).collect();
        let abc = r.stack(&f);
        assert_eq!(r.stack(&f), abc);
        assert_ne!(r.stack(&f[..2]), abc);
        let batch = r.take();
        assert_eq!((batch.frames.len(), batch.stacks.len()), (3, 3));
        r.stack(&f);
        assert!(r.take().stacks.is_empty());
    }

    #[test]
    fn an_address_is_interned_once() {
        let r = Recorder::new();
        let key = FrameKey { kind: FrameKind::Native, space: 1, address: 0x10 };
        let (a, new) = r.address_frame(key, || Some("/bin/a".into()));
        assert!(new);
        assert_eq!(r.address_frame(key, || None), (a, false));
        assert_eq!(r.label("[truncated]"), r.label("[truncated]"));
    }
}
