//! The threads of an interpreter and their Python frames, walked without stopping them.
//!
//! In: memory, a [`Runtime`]. Out: [`Thread`]s with their frames, innermost first. Invariant: every chain is bounded and
//! cannot loop. Bias: a thread that runs while it is read may have moved between two reads; `moved` says so, and a chain
//! that leads to something that is no frame ends there, `cut`.

use super::heap::{Heap, half, word};
use super::layout::{FrameSource, Instr, Layout};
use super::locate::Runtime;
use crate::os::memory::{Fault, Memory};

/// Most interpreters, and most thread states of all, that are followed.
const INTERPRETER_LIMIT: usize = 1024;
const THREAD_LIMIT: usize = 65_536;
/// Most frames of one walk over all threads, hidden ones included.
const FRAME_BUDGET: usize = 1 << 18;
/// glibc's `struct pthread` on x86-64 has the kernel's thread id here (2.31 to 2.41).
const GLIBC_TID: u64 = 720;
/// `PID_MAX_LIMIT` of the kernel.
const TID_LIMIT: u64 = 1 << 22;

/// One Python frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Address of the frame.
    pub address: u64,
    /// Address of its code object.
    pub code: u64,
    /// Where it stands, in the form that `layout.instr` says.
    pub instr: u64,
    /// Who owns its memory (3.11 and later): 0 the thread, 1 a generator or coroutine, 2 a frame object.
    pub owner: Option<u8>,
    /// A call of the eval function in C begins here: this frame and the ones inside it, up to the next such frame, belong
    /// to one native frame.
    pub entry: bool,
    /// An address on the C stack inside that native frame (3.10 and later, at entry frames).
    pub c_stack: Option<u64>,
}

/// Why a chain of frames ended before the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// More frames than asked for.
    Limit,
    /// A pointer that leads nowhere, or in a circle.
    Broken,
}

/// One thread of an interpreter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    /// Address of its thread state.
    pub state: u64,
    /// Number of its interpreter, 0 for the main one.
    pub interpreter: i64,
    /// Address of its interpreter.
    pub interpreter_at: u64,
    /// `pthread_self()`, Python's `threading.get_ident()`.
    pub thread_id: u64,
    /// The kernel's thread id in the target's own PID namespace.
    pub native_id: Option<u32>,
    /// Its frames, innermost first.
    pub frames: Vec<Frame>,
    /// The frames are not all.
    pub cut: Option<Cut>,
    /// The thread ran on while it was read: frames near the leaf may not belong together.
    pub moved: bool,
}

/// What following the lists of interpreters and threads came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walked {
    /// The threads that were met.
    pub threads: Vec<Thread>,
    /// Every list was followed to its end. Not so where a thread ended while it was looked at: its state leads no further,
    /// and the threads behind it stay out of sight.
    pub whole: bool,
}

/// Detects a circle in a chain: remembers one address, at doubling distances (Brent).
#[derive(Debug, Default)]
struct Circle {
    seen: u64,
    steps: u64,
    next: u64,
}

impl Circle {
    /// Whether `address` was seen before.
    fn closes(&mut self, address: u64) -> bool {
        if address == self.seen {
            return true;
        }
        self.steps += 1;
        if self.steps > self.next {
            (self.seen, self.next) = (address, self.steps * 2);
        }
        false
    }
}

/// Follows pointers from `first`; `next` gives the following one. Ends at null, a fault, a circle, or `limit`: whether it
/// was null.
fn chain(first: u64, limit: usize, mut next: impl FnMut(u64) -> Option<u64>) -> bool {
    let mut circle = Circle::default();
    let mut at = first;
    for _ in 0..limit {
        if at == 0 {
            return true;
        }
        if circle.closes(at) {
            return false;
        }
        let Some(following) = next(at) else { return false };
        at = following;
    }
    at == 0
}

/// Walks all threads of all interpreters, `depth` frames each at most.
///
/// # Errors
/// A fault when not even the runtime can be read: the process is gone, or not ours to read.
pub fn walk(memory: &dyn Memory, runtime: &Runtime, depth: usize) -> Result<Walked, Fault> {
    let l = &runtime.layout;
    let heap = Heap::new(memory, l);
    let mut threads = Vec::new();
    let mut threads_whole = true;
    let mut budget = FRAME_BUDGET;
    let first = heap.word(runtime.address, l.runtime_interpreters_head)?;
    let interpreters_whole = chain(first, INTERPRETER_LIMIT, |interp| {
        let id = heap.word(interp, l.interp_id).ok()? as i64;
        let head = heap.word(interp, l.interp_threads_head).ok()?;
        threads_whole &= chain(head, THREAD_LIMIT, |state| {
            if threads.len() >= THREAD_LIMIT {
                return None;
            }
            let (mut thread, next) = read_thread(heap, runtime, (state, interp), depth, &mut budget)?;
            thread.interpreter = id;
            threads.push(thread);
            Some(next)
        });
        heap.word(interp, l.interp_next).ok()
    });
    Ok(Walked { threads, whole: interpreters_whole && threads_whole })
}

/// Reads the thread at `state` alone.
pub fn thread(memory: &dyn Memory, runtime: &Runtime, state: u64, depth: usize) -> Option<Thread> {
    let heap = Heap::new(memory, &runtime.layout);
    let interp = heap.word(state, runtime.layout.ts_interp).ok()?;
    let (mut thread, _) = read_thread(heap, runtime, (state, interp), depth, &mut { FRAME_BUDGET })?;
    thread.interpreter = heap.word(interp, runtime.layout.interp_id).ok()? as i64;
    Some(thread)
}

/// Reads the thread state at `state` of the interpreter at `interp`, and where the next one is.
fn read_thread(
    heap: Heap<'_>,
    runtime: &Runtime,
    (state, interp): (u64, u64),
    depth: usize,
    budget: &mut usize,
) -> Option<(Thread, u64)> {
    let l = heap.layout;
    let last = [l.ts_thread_id, l.ts_native_thread_id.unwrap_or(0), l.ts_frame, l.ts_cframe.unwrap_or(0)];
    let len = last.into_iter().max().unwrap_or(0) as usize + 8;
    let bytes = heap.memory.bytes_at(state, len, 1 << 20).ok()?;
    let field = |offset| word(&bytes, offset);
    if field(l.ts_interp)? != interp {
        // Freed under us, or never a thread state.
        return None;
    }
    let thread_id = field(l.ts_thread_id)?;
    let native_id = match l.ts_native_thread_id {
        Some(offset) => field(offset),
        None => heap.memory.u32_at(thread_id.wrapping_add(GLIBC_TID)).ok().map(u64::from),
    };
    let mut thread = Thread {
        state,
        interpreter: 0,
        interpreter_at: interp,
        thread_id,
        native_id: native_id.filter(|id| (1..=TID_LIMIT).contains(id)).map(|id| id as u32),
        frames: Vec::new(),
        cut: None,
        moved: false,
    };
    let read_start = |frame| Start::read(heap, frame, l.ts_cframe.and_then(field));
    let start = read_start(field(l.ts_frame)?).map(|start| start.settled(heap, runtime.code_type));
    if let Some(start) = start {
        walk_frames(heap, start, depth, budget, &mut thread);
        let top = |t: &Thread| t.frames.first().and_then(|f| read_frame(heap, f.address));
        let again = heap.word(state, l.ts_frame).ok();
        let start_again = again.and_then(read_start).map(|start| start.settled(heap, runtime.code_type));
        thread.moved = again != field(l.ts_frame)
            || start_again.map(|s| s.frame) != Some(start.frame)
            || top(&thread).map(|f| (f.code, f.instr)) != thread.frames.first().map(|f| (f.code, f.instr));
    } else {
        thread.cut = Some(Cut::Broken);
    }
    Some((thread, field(l.ts_next)?))
}

/// Where the frames of a thread begin.
#[derive(Debug, Clone, Copy)]
struct Start {
    /// The innermost frame, 0 for none.
    frame: u64,
    /// The innermost cframe (3.10 to 3.12).
    cframe: Option<u64>,
}

impl Start {
    /// From what `ts_frame` and `ts_cframe` hold.
    fn read(heap: Heap<'_>, frame: u64, cframe: Option<u64>) -> Option<Self> {
        match heap.layout.frame_source {
            FrameSource::FrameObject | FrameSource::Direct => Some(Self { frame, cframe }),
            FrameSource::CFrame { .. } if frame == 0 => Some(Self { frame: 0, cframe: None }),
            FrameSource::CFrame { current_frame, .. } => {
                Some(Self { frame: heap.word(frame, current_frame).ok()?, cframe: Some(frame) })
            }
        }
    }
}

impl Start {
    /// In 3.11 and 3.12 an eval call first puts its cframe in place and sets its current frame a little later: until then
    /// it is garbage, and the calling cframe has the truth.
    fn settled(self, heap: Heap<'_>, code_type: Option<u64>) -> Self {
        let (FrameSource::CFrame { current_frame, previous }, Some(code_type)) = (heap.layout.frame_source, code_type)
        else {
            return self;
        };
        let is_frame = |at| read_frame(heap, at).is_some_and(|raw| heap.type_of(raw.code) == Ok(code_type));
        let before = || {
            let cframe = heap.word(self.cframe?, previous).ok().filter(|c| *c != 0)?;
            let frame = heap.word(cframe, current_frame).ok()?;
            (frame == 0 || is_frame(frame)).then_some(Self { frame, cframe: Some(cframe) })
        };
        if self.frame == 0 || is_frame(self.frame) { self } else { before().unwrap_or(self) }
    }
}

/// A frame as it lies in memory.
#[derive(Debug, Clone, Copy)]
struct RawFrame {
    previous: u64,
    code: u64,
    instr: u64,
    owner: Option<u8>,
    is_entry: Option<bool>,
}

fn read_frame(heap: Heap<'_>, at: u64) -> Option<RawFrame> {
    let l = heap.layout;
    let mut buffer = [0; 128];
    let bytes = buffer.get_mut(..frame_len(l))?;
    heap.memory.read(at, bytes).ok()?;
    let byte = |offset: Option<u32>| offset.and_then(|o| bytes.get(o as usize).copied());
    Some(RawFrame {
        previous: word(bytes, l.frame_previous)?,
        code: word(bytes, l.frame_code)? & !l.tag_mask,
        instr: match l.instr {
            Instr::Pointer => word(bytes, l.frame_instr)?,
            Instr::LastiBytes | Instr::LastiUnits => u64::from(half(bytes, l.frame_instr)?),
        },
        owner: byte(l.frame_owner),
        is_entry: byte(l.frame_is_entry).map(|b| b != 0),
    })
}

/// Bytes of a frame that hold all we read.
fn frame_len(l: &Layout) -> usize {
    let last = [l.frame_previous, l.frame_code, l.frame_instr, l.frame_owner.unwrap_or(0)];
    (last.into_iter().max().unwrap_or(0) as usize).saturating_add(8)
}

fn walk_frames(heap: Heap<'_>, start: Start, depth: usize, budget: &mut usize, thread: &mut Thread) {
    let l = heap.layout;
    let mut cframe = start.cframe.unwrap_or(0);
    let mut circle = Circle::default();
    let mut at = start.frame;
    let shim = |raw: &RawFrame| l.owner_shim.zip(raw.owner).is_some_and(|(shim, owner)| owner >= shim);
    loop {
        if at == 0 {
            return;
        }
        let Some(left) = budget.checked_sub(1) else {
            thread.cut = Some(Cut::Limit);
            return;
        };
        *budget = left;
        if circle.closes(at) {
            break;
        }
        let Some(raw) = read_frame(heap, at) else { break };
        if shim(&raw) {
            if let Some(last) = thread.frames.last_mut().filter(|f| !f.entry) {
                (last.entry, last.c_stack) = (true, Some(at));
            }
        } else {
            if thread.frames.len() >= depth {
                thread.cut = Some(Cut::Limit);
                return;
            }
            // Up to 3.10 every frame has an eval call of its own; in 3.11 the frame says so; later the shim does.
            let entry = raw.is_entry.unwrap_or(l.owner_shim.is_none());
            let c_stack = (entry && cframe != 0).then_some(cframe);
            if let (true, Some(previous)) = (entry, l.cframe_previous.filter(|_| cframe != 0)) {
                cframe = heap.word(cframe, previous).unwrap_or(0);
            }
            let RawFrame { code, instr, owner, .. } = raw;
            thread.frames.push(Frame { address: at, code, instr, owner, entry, c_stack });
        }
        at = raw.previous;
    }
    thread.cut = Some(Cut::Broken);
}
