//! The Python side of a dumped process: which thread states belong to which threads, their frames, names and variables.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::collect::cpu::merge::{PyItem, Rule};
use crate::collect::cpu::merge_rule;
use crate::os::bpf::{ENTRY_MARK, PyFrame};
use crate::os::memory::LiveMemory;
use crate::python::code::Code;
use crate::python::heap::Heap;
use crate::python::layout::Instr;
use crate::python::qualnames::Qualnames;
use crate::python::values::Limits;
use crate::python::{self, Runtime, frames, gil, locals, names};
use crate::record::Frame;
use crate::record::dump::Variable;

/// Frames of a thread that are shown at most.
const DEPTH: usize = 4096;
/// Memory that the code objects kept may take, bytes; past that they are read again. A target that lies claims line tables
/// of megabytes.
const CODE_BYTES: usize = 64 << 20;
/// Times that the list of thread states is followed until it is whole.
const WALKS: usize = 16;
/// Looks at a thread that runs before torn frames are taken as they are.
const TRIES: usize = 8;
/// `f_lasti` of a frame that has not run an instruction, -1, as the walker in the kernel passes it on.
const NOT_STARTED: u32 = 0x7fff_ffff;

/// A Python frame as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PyRead {
    /// The code object.
    pub(super) code: u64,
    /// Where in it, in the form of the layout.
    pub(super) instr: u64,
    /// Its variables.
    pub(super) locals: Option<Vec<Variable>>,
}

/// The Python part of a stack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PyStack {
    /// The frames, innermost first.
    pub(super) frames: Vec<PyRead>,
    /// The frames by their index, and the marks of eval calls between them.
    pub(super) items: Vec<PyItem<usize>>,
    /// All frames are there.
    pub(super) complete: bool,
    /// The thread ran on while it was read.
    pub(super) moved: bool,
}

/// A thread state and what tells its thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StateOf {
    /// Address of the thread state.
    pub(super) state: u64,
    /// Address of its interpreter.
    pub(super) interpreter: u64,
    /// `threading.get_ident()`.
    pub(super) ident: u64,
}

/// The CPython of a process.
pub(super) struct Pythons {
    pub(super) runtime: Runtime,
    memory: LiveMemory,
    main: u32,
    codes: RefCell<FxHashMap<u64, Option<Arc<Code>>>>,
    /// Memory that `codes` takes, bytes.
    weight: Cell<usize>,
    qualnames: RefCell<Qualnames>,
    /// By the thread id of the target's own PID namespace.
    states: FxHashMap<u32, StateOf>,
    /// The list of thread states was followed to its end.
    pub(super) whole: bool,
    names: FxHashMap<u64, String>,
}

impl Pythons {
    /// Finds the threads of an interpreter and their names. `main` is the main thread, by its id in the target's own PID
    /// namespace.
    pub(super) fn new(runtime: Runtime, memory: LiveMemory, main: u32) -> Self {
        let mut found = Self {
            runtime,
            memory,
            main,
            codes: RefCell::default(),
            weight: Cell::default(),
            qualnames: RefCell::default(),
            states: FxHashMap::default(),
            whole: false,
            names: FxHashMap::default(),
        };
        found.refresh();
        found
    }

    /// Lists the thread states and the names again.
    ///
    /// The list begins with the newest thread, and one that ends while it is followed takes the rest out of sight: it is
    /// followed until it reaches the main thread, the oldest, or twice says the same.
    pub(super) fn refresh(&mut self) {
        let state = |t: &python::Thread| StateOf { state: t.state, interpreter: t.interpreter_at, ident: t.thread_id };
        let mut before = None;
        for _ in 0..WALKS {
            let walked = frames::walk(&self.memory, &self.runtime, 1).unwrap_or_default();
            let (threads, whole) = (walked.threads, walked.whole);
            self.whole = whole;
            // A thread can have several states: one in each interpreter whose code it runs, the newest first; and up to
            // 3.11 that of a thread which it is about to start, which has no frames yet.
            let mut found: FxHashMap<u32, StateOf> = FxHashMap::default();
            for with_frames in [false, true] {
                let some = threads.iter().rev().filter(|t| t.frames.is_empty() != with_frames);
                found.extend(some.filter_map(|t| Some((t.native_id?, state(t)))));
            }
            let reached = threads.iter().any(|t| t.native_id == Some(self.main) && !t.frames.is_empty());
            if reached && whole || before.as_ref() == Some(&found) && !found.is_empty() {
                self.whole |= reached;
                before = Some(found);
                break;
            }
            before = Some(found);
        }
        self.states = before.unwrap_or_default();
        let main = self.state(self.main).map(|s| s.ident);
        for round in 0..WALKS {
            for interpreter in self.interpreters() {
                self.names.extend(names::of_threads(&self.memory, &self.runtime, interpreter).unwrap_or_default());
            }
            // The dict that has them changes with every thread that comes or goes. None at all: never imported.
            if (self.names.is_empty() && round >= 3) || main.is_none_or(|ident| self.names.contains_key(&ident)) {
                break;
            }
        }
    }

    /// The thread state of a thread, by its id in the target's own PID namespace.
    pub(super) fn state(&self, own_tid: u32) -> Option<StateOf> {
        self.states.get(&own_tid).copied()
    }

    /// The thread that has the thread state at `state`.
    pub(super) fn thread_of(&self, state: u64) -> Option<u32> {
        self.states.iter().find(|(_, s)| s.state == state).map(|(tid, _)| *tid)
    }

    /// Addresses of the interpreters that have threads.
    pub(super) fn interpreters(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.states.values().map(|s| s.interpreter).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The name that `threading` has for a thread.
    pub(super) fn name(&self, ident: u64) -> Option<&str> {
        self.names.get(&ident).map(String::as_str)
    }

    /// The GIL of an interpreter.
    pub(super) fn gil(&self, interpreter: u64) -> Option<gil::Gil> {
        gil::of(&self.memory, &self.runtime, interpreter).ok()
    }

    /// How Python frames find their place among native ones.
    pub(super) fn rule(&self) -> Rule {
        merge_rule(&self.runtime.layout)
    }

    /// Reads the frames of a thread, with their variables if they are wanted. `None` when its state has become another's.
    pub(super) fn read(&self, own: StateOf, with_locals: bool) -> Option<PyStack> {
        let thread = frames::thread(&self.memory, &self.runtime, own.state, DEPTH)?;
        if thread.thread_id != own.ident {
            return None;
        }
        let mut stack = PyStack { complete: thread.cut.is_none(), moved: thread.moved, ..PyStack::default() };
        for frame in &thread.frames {
            stack.items.push(PyItem::Frame(stack.frames.len()));
            stack.items.extend(frame.c_stack.filter(|_| frame.entry).map(PyItem::Entry));
            let locals = with_locals.then(|| self.locals(frame)).flatten();
            stack.frames.push(PyRead { code: frame.code, instr: frame.instr, locals });
        }
        Some(stack)
    }

    /// The same of a thread that runs: the first of several tries in which it stood still, or the last.
    pub(super) fn read_steady(&self, own: StateOf, with_locals: bool) -> Option<PyStack> {
        let mut last = None;
        for _ in 0..TRIES {
            let read = self.read(own, with_locals)?;
            if !read.moved {
                return Some(read);
            }
            last = Some(read);
        }
        last
    }

    /// The frames that the walker in the kernel met.
    pub(super) fn walked(&self, walked: &[PyFrame], complete: bool) -> PyStack {
        let mut stack = PyStack { complete, ..PyStack::default() };
        for f in walked {
            if f.at == ENTRY_MARK {
                stack.items.push(PyItem::Entry(f.code));
                continue;
            }
            let instr = match self.runtime.layout.instr {
                Instr::Pointer => f.code.wrapping_add(u64::from(f.at)),
                _ if f.at == NOT_STARTED => u64::from(u32::MAX),
                _ => u64::from(f.at),
            };
            stack.items.push(PyItem::Frame(stack.frames.len()));
            stack.frames.push(PyRead { code: f.code, instr, locals: None });
        }
        stack
    }

    fn locals(&self, frame: &frames::Frame) -> Option<Vec<Variable>> {
        let found = locals::read(self.heap(), frame, Limits::default()).ok()?;
        let variable = |l: locals::Local| Variable { name: l.name, argument: l.argument, value: l.value };
        Some(found.into_iter().map(variable).collect())
    }

    /// The model's frame; `None` when its code object cannot be read.
    pub(super) fn frame(&self, read: &PyRead) -> Option<Frame> {
        let mut codes = self.codes.borrow_mut();
        if self.weight.get() > CODE_BYTES {
            codes.clear();
            self.weight.set(0);
        }
        let fresh = || {
            let code = Code::read(self.heap(), read.code, self.runtime.code_type).ok()?;
            self.weight.set(self.weight.get() + code.weight());
            Some(Arc::new(code))
        };
        let code = codes.entry(read.code).or_insert_with(fresh).clone()?;
        let line = code.line(&self.runtime.layout, read.instr);
        let qualname = self.qualnames.borrow_mut().of(&self.memory, &self.runtime, &code);
        let name = qualname.unwrap_or_else(|| code.qualname.clone());
        Some(Frame::python(name, code.file.clone(), line, code.first_line()))
    }

    fn heap(&self) -> Heap<'_> {
        Heap { memory: &self.memory, layout: &self.runtime.layout }
    }
}
