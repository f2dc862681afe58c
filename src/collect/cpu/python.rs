//! The Python side of a sampled process: what the eBPF walker must know of its CPython, and what its code objects say.

use std::ops::Range;

use rustc_hash::FxHashMap;

use super::merge::Rule;
use crate::os::bpf::{PyFrame, Python};
use crate::os::memory::{LiveMemory, Memory};
use crate::python::Code;
use crate::python::Runtime;
use crate::python::heap::Heap;
use crate::python::layout::{FrameSource, Instr, Layout};
use crate::python::qualnames::Qualnames;
use crate::record::{Frame, FrameId, Recorder};

/// Memory that the code objects kept may take, bytes: some fifty thousand usual ones. A target that compiles code for
/// ever, or claims line tables of megabytes, starts the cache anew.
const CODE_BYTES: usize = 32 << 20;
/// Places in code objects kept. A service has some ten thousand; one that lies has a new one each time.
const FRAME_LIMIT: usize = 500_000;
/// `f_lasti` of a frame that has not run an instruction, -1, as the walker passes it on.
const NOT_STARTED: u32 = 0x7fff_ffff;

/// `struct _gil_runtime_state`: two words, the flag, two conditions and two mutexes of glibc (Python/ceval_gil.h).
const GIL_BYTES: u64 = 8 + 8 + 8 + 8 + 48 + 40 + 48 + 40;
/// glibc x86-64: `struct pthread` to its kernel thread id.
const GLIBC_PTHREAD_TID: u64 = 720;

/// A CPython with the code objects and frames seen so far.
pub(super) struct PythonSide {
    pub(super) runtime: Runtime,
    memory: LiveMemory,
    qualnames: Qualnames,
    codes: FxHashMap<(u64, u32), Option<Code>>,
    /// Memory that `codes` takes, bytes.
    weight: usize,
    frames: FxHashMap<PyFrame, Option<FrameId>>,
    lines: FxHashMap<(u64, u32, Option<u32>), FrameId>,
}

impl PythonSide {
    pub(super) fn new(runtime: Runtime, memory: LiveMemory) -> Self {
        Self {
            runtime,
            memory,
            qualnames: Qualnames::default(),
            codes: FxHashMap::default(),
            weight: 0,
            frames: FxHashMap::default(),
            lines: FxHashMap::default(),
        }
    }

    /// What the walker must know.
    pub(super) fn walker(&self) -> Python {
        walker(&self.runtime.layout, self.runtime.address, self.runtime.code_type.unwrap_or(0))
    }

    /// Where the GIL's lock and conditions lie in the target, `None` while it is not known.
    pub(super) fn gil(&self) -> Option<Range<u64>> {
        let l = &self.runtime.layout;
        let at = match (l.runtime_gil, l.interp_gil) {
            (Some(offset), _) => self.runtime.address.checked_add(u64::from(offset))?,
            (None, Some(offset)) => {
                let interp = self
                    .memory
                    .u64_at(self.runtime.address.checked_add(u64::from(l.runtime_interpreters_head))?)
                    .ok()?;
                self.memory.u64_at(interp.checked_add(u64::from(offset))?).ok()?
            }
            (None, None) => return None,
        };
        Some(at..at.checked_add(GIL_BYTES)?)
    }

    /// The thread id, in the target's own PID namespace, of the thread with this thread state.
    pub(super) fn thread_of(&self, tstate: u64) -> Option<u32> {
        let l = &self.runtime.layout;
        if let Some(offset) = l.ts_native_thread_id {
            return self.memory.u32_at(tstate.checked_add(u64::from(offset))?).ok();
        }
        let pthread = self.memory.u64_at(tstate.checked_add(u64::from(l.ts_thread_id))?).ok()?;
        self.memory.u32_at(pthread.checked_add(GLIBC_PTHREAD_TID)?).ok()
    }

    /// The interned frame for what the walker saw. `None`: the code object cannot be read or is another one by now.
    pub(super) fn frame(&mut self, frame: PyFrame, recorder: &Recorder) -> Option<FrameId> {
        if let Some(known) = self.frames.get(&frame) {
            return *known;
        }
        if self.weight > CODE_BYTES || self.frames.len() >= FRAME_LIMIT {
            self.codes.clear();
            self.weight = 0;
            self.frames.clear();
            self.lines.clear();
        }
        let layout = &self.runtime.layout;
        let code = self.codes.entry((frame.code, frame.check)).or_insert_with(|| {
            self.weight += size_of::<Option<Code>>();
            let heap = Heap { memory: &self.memory, layout };
            let code = Code::read(heap, frame.code, self.runtime.code_type).ok()?;
            // Freed and reused since the sample: a name would be a lie.
            if frame.check != 0 && fingerprint(code.first_line as u32, code.marks) != frame.check {
                return None;
            }
            // Up to 3.10 a code object has its bare name alone; its function or class knows the qualified one.
            let qualname = self.qualnames.of(&self.memory, &self.runtime, &code);
            // It was alive to the end, so its strings were: what was read is of this object and no other.
            if !is_alive(&self.memory, &self.runtime, &code) {
                return None;
            }
            // Names die with their code objects; one that does not end in the bare name is another's.
            let fits =
                |q: &String| q.strip_suffix(code.name.as_str()).is_some_and(|p| p.is_empty() || p.ends_with('.'));
            let code = Code { qualname: qualname.filter(fits).unwrap_or_else(|| code.qualname.clone()), ..code };
            self.weight += code.weight();
            Some(code)
        });
        let id = code.as_ref().map(|code| {
            let instr = match layout.instr {
                Instr::Pointer => frame.code.wrapping_add(u64::from(frame.at)),
                _ if frame.at == NOT_STARTED => u64::from(u32::MAX),
                _ => u64::from(frame.at),
            };
            let line = code.line(layout, instr);
            let name = || Frame::python(code.qualname.clone(), code.file.clone(), line, code.first_line());
            *self.lines.entry((frame.code, frame.check, line)).or_insert_with(|| recorder.frame(name()))
        });
        self.frames.insert(frame, id);
        id
    }
}

/// Whether the code object is still there: it is referred to, and its name and line table are where they were. The
/// allocator writes a pointer or 0 over the reference count of what is freed.
fn is_alive(memory: &LiveMemory, runtime: &Runtime, code: &Code) -> bool {
    let l = &runtime.layout;
    let word = |offset: u32| memory.u64_at(code.address.checked_add(u64::from(offset))?).ok();
    let (Some(count), Some(name), Some(table)) =
        (memory.u64_at(code.address).ok(), word(l.code_name), word(l.code_linetable))
    else {
        return false;
    };
    // From 3.14 on the upper half of the word has flags.
    let counted = if runtime.version.minor >= 14 { count as u32 != 0 } else { (1..1 << 40).contains(&count) };
    counted && (name, table) == code.marks
}

/// The fingerprint that the walker computes of a code object (walk.h), from its first line and its [`Code::marks`].
pub(super) fn fingerprint(first_line: u32, (name, table): (u64, u64)) -> u32 {
    first_line.wrapping_mul(31).wrapping_add(((name >> 4) as u32).wrapping_mul(17)).wrapping_add((table >> 4) as u32)
        | 1
}

/// The largest offset read in a code object, plus a word.
pub(super) fn code_size(l: &Layout) -> u32 {
    [l.code_firstlineno, l.code_name, l.code_linetable, l.ob_type].into_iter().max().unwrap_or(0) + 8
}

/// The layout in the form of the walker's map. `runtime` and `code_type` are addresses in the target, 0 when not known.
pub(super) fn walker(l: &Layout, runtime: u64, code_type: u64) -> Python {
    let (frame_source, current, previous) = match l.frame_source {
        FrameSource::FrameObject => (0, 0, l.cframe_previous.unwrap_or(0)),
        FrameSource::CFrame { current_frame, previous } => (1, current_frame, previous),
        FrameSource::Direct => (2, 0, 0),
    };
    let entry_rule = match (l.owner_shim, l.frame_is_entry, l.ts_cframe) {
        (Some(_), ..) => 3,
        (None, Some(_), _) => 2,
        (None, None, Some(_)) => 1,
        _ => 0,
    };
    let (gil_rule, gil_holder, gil_pointer) = match (l.runtime_tstate_current, l.interp_gil) {
        (Some(holder), _) => (1, holder, 0),
        (None, Some(gil)) => (3, l.gil_last_holder, gil),
        _ => (0, 0, 0),
    };
    let frame_words = [
        l.frame_previous,
        l.frame_code,
        l.frame_instr,
        l.frame_owner.unwrap_or(0) & !7,
        l.frame_is_entry.unwrap_or(0) & !7,
    ];
    Python {
        runtime,
        code_type,
        frame_source,
        entry_rule,
        interpreters_head: l.runtime_interpreters_head,
        interp_next: l.interp_next,
        threads_head: l.interp_threads_head,
        ts_next: l.ts_next,
        ts_interp: l.ts_interp,
        ts_thread_id: l.ts_thread_id,
        ts_frame: l.ts_frame,
        ts_cframe: l.ts_cframe.unwrap_or(0),
        cframe_current_frame: current,
        cframe_previous: previous,
        // Not a byte more: a frame may be the last thing in its page.
        frame_size: frame_words.into_iter().max().unwrap_or(0) + 8,
        frame_previous: l.frame_previous,
        frame_code: l.frame_code,
        frame_instr: l.frame_instr,
        frame_owner: l.frame_owner.unwrap_or(0),
        frame_is_entry: l.frame_is_entry.unwrap_or(0),
        code_size: code_size(l),
        code_firstlineno: l.code_firstlineno,
        code_name: l.code_name,
        code_linetable: l.code_linetable,
        gil_rule,
        gil_holder,
        gil_locked: l.gil_locked,
        gil_pointer,
    }
}

/// How Python frames find their place among the native ones.
pub(in crate::collect) fn merge_rule(l: &Layout) -> Rule {
    if l.ts_cframe.is_some() || l.owner_shim.is_some() { Rule::EntryMarks } else { Rule::EvalCalls }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::Version;

    #[test]
    fn every_version_fits_the_walkers_buffers() {
        for minor in 8..=13 {
            let layout = Layout::of(Version::new(3, minor)).unwrap();
            let w = walker(&layout, 1, 2);
            assert!(w.frame_size <= 256 && w.code_size <= 256, "{w:?}");
            assert_eq!(w.frame_size, if minor < 11 { layout.frame_instr + 8 } else { 72 });
            assert_eq!(w.entry_rule, [0, 0, 1, 2, 3, 3][usize::from(minor) - 8]);
            assert_eq!(merge_rule(&layout) == Rule::EvalCalls, minor < 10);
        }
    }
}
