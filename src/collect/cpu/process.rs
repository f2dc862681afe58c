//! One sampled process: what is mapped into it, how its stacks unwind, what its Python frames are called.
//!
//! In: parts of a sample. Out: interned frames. Everything that was looked up once stays in a cache that lives as long as
//! the mapping it belongs to; a sample of known code costs hash lookups and the unwind itself.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use framehop::ExplicitModuleSectionInfo;
use rustc_hash::FxHashMap;

use super::naming::{Naming, Unnamed, What};
use super::python::{self as walker, PythonSide};
use super::reason::{self, Wait};
use super::sampler::Kept;
use crate::clock::Mono;
use crate::native::unwind::{End, NativeFrame, ProcessUnwinder, StackCopy};
use crate::os::bpf::PyFrame;
use crate::os::memory::LiveMemory;
use crate::python::{Located, locate};
use crate::record::{Frame, FrameId, FrameKey, FrameKind, ProcessId, Recorder, ThreadId};
use crate::symbol::{ModuleId, Modules};
use crate::target::{Mapping, Maps};

/// The next number for code made at run time.
static SPACES: AtomicU32 = AtomicU32::new(1);

/// Mappings are read again for an address in none of them at most this often.
const UNKNOWN_RETRY_NS: u64 = 100_000_000;

/// What all parts of a sampler share.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Where samples go.
    pub recorder: Arc<Recorder>,
    /// The modules met so far.
    pub modules: Arc<Modules>,
    /// Where addresses get their names.
    pub naming: Naming,
    /// The frames that are wanted.
    pub kept: Kept,
}

/// A mapping with what is behind it.
struct Region {
    mapping: Mapping,
    code: Code,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    /// Not looked at yet.
    Fresh,
    /// A module: its number and what is added to its own addresses.
    Module(ModuleId, u64),
    /// Code made at run time.
    Jit,
}

/// A process under observation.
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) id: ProcessId,
    pub(super) python: Option<PythonSide>,
    pub(super) refused: Option<String>,
    pub(super) threads: FxHashMap<u32, ThreadId>,
    /// In clock ticks since boot; 0 when it was gone already.
    start_ticks: u64,
    /// Tells the code that this program makes at run time from that of programs before it under the same pid.
    space: u32,
    memory: LiveMemory,
    regions: Vec<Region>,
    unwinder: ProcessUnwinder,
    addresses: FxHashMap<u64, FrameId>,
    gil: Option<Range<u64>>,
    holders: FxHashMap<u64, FrameId>,
    stale: bool,
    read_at: Mono,
}

impl Process {
    /// Looks at `pid` for the first time. A process that is gone already is an empty one: its samples keep addresses.
    pub(super) fn new((pid, start_ticks): (u32, u64), id: ProcessId, now: Mono) -> Self {
        Self {
            pid,
            id,
            python: None,
            refused: None,
            threads: FxHashMap::default(),
            start_ticks,
            space: SPACES.fetch_add(1, Ordering::Relaxed),
            memory: LiveMemory::new(pid),
            regions: Vec::new(),
            unwinder: ProcessUnwinder::default(),
            addresses: FxHashMap::default(),
            gil: None,
            holders: FxHashMap::default(),
            stale: true,
            read_at: now,
        }
    }

    /// Says that the mappings changed.
    pub(super) fn set_stale(&mut self) {
        self.stale = true;
    }

    /// Whether it still runs.
    pub(super) fn is_running(&self) -> bool {
        crate::target::is_running(self.pid, self.start_ticks)
    }

    /// Forgets everything about the program that ran here before exec.
    pub(super) fn exec(&mut self, shared: &Shared) {
        shared.naming.forget(self.pid);
        self.space = SPACES.fetch_add(1, Ordering::Relaxed);
        self.regions.clear();
        self.unwinder = ProcessUnwinder::default();
        self.addresses.clear();
        self.python = None;
        self.refused = None;
        self.gil = None;
        self.holders.clear();
        self.stale = true;
    }

    /// Reads the mappings again if they changed, opens their files, and looks for Python where there was none. Returns
    /// whether Python was found now.
    pub(super) fn refresh(&mut self, shared: &Shared, now: Mono) -> bool {
        if !self.stale {
            return false;
        }
        self.stale = false;
        self.read_at = now;
        // Gone or going: what was known stays good for the samples that are still in the ring.
        let Ok(maps) = Maps::of(self.pid) else { return false };
        if maps.0.is_empty() {
            return false;
        }
        let mut old: FxHashMap<(u64, u64), Region> =
            self.regions.drain(..).map(|r| ((r.mapping.start, r.mapping.end), r)).collect();
        let mut changed = false;
        for mapping in maps.0.iter().filter(|m| m.executable) {
            let kept = old.remove(&(mapping.start, mapping.end)).filter(|r| r.mapping == *mapping);
            changed |= kept.is_none();
            let mut region = kept.unwrap_or_else(|| Region { mapping: mapping.clone(), code: Code::Fresh });
            if region.code == Code::Fresh && mapping.is_file() {
                // Held open from now on, so that a file that is replaced does not cost the names.
                shared.modules.open(self.pid, mapping, &self.memory);
            }
            if region.code == Code::Fresh && !mapping.is_file() && !mapping.path.starts_with('[') {
                region.code = Code::Jit;
            }
            self.regions.push(region);
        }
        for (_, gone) in old {
            if let Code::Module(..) = gone.code {
                self.unwinder.remove(gone.mapping.start);
            }
            let range = gone.mapping.start..gone.mapping.end;
            self.addresses.retain(|a, _| !range.contains(a));
        }
        self.python.is_none() && self.refused.is_none() && changed && self.look_for_python(&maps)
    }

    fn look_for_python(&mut self, maps: &Maps) -> bool {
        match locate(self.pid, maps, &self.memory) {
            Located::Found(runtime) => {
                self.python = Some(PythonSide::new(*runtime, self.memory));
                true
            }
            Located::NotPython => false,
            Located::Refused(why) => {
                self.refused = Some(format!("{why:#}"));
                false
            }
        }
    }

    /// What the eBPF walker must know; all zeros without Python.
    pub(super) fn walker(&self) -> crate::os::bpf::Python {
        self.python.as_ref().map_or_else(Default::default, PythonSide::walker)
    }

    /// Unwinds a stack copy into `frames`, making the modules known that it passes through.
    pub(super) fn unwind(
        &mut self,
        stack: StackCopy<'_>,
        frames: &mut Vec<NativeFrame>,
        shared: &Shared,
        now: Mono,
    ) -> End {
        let mut unwinder = std::mem::take(&mut self.unwinder);
        let mut retried = false;
        let end = loop {
            let mut unknown = false;
            let end = unwinder.unwind(stack, frames, |unwinder, address| {
                if self.addresses.contains_key(&address) {
                    return true;
                }
                let known = self.enter(unwinder, address, shared);
                unknown |= !known;
                known
            });
            // Code that came since the mappings were read: read them again and give this very sample a second chance.
            if !unknown || retried || (!self.stale && now.since(self.read_at) < UNKNOWN_RETRY_NS) {
                break end;
            }
            retried = true;
            self.stale = true;
            self.unwinder = unwinder;
            self.refresh(shared, now);
            unwinder = std::mem::take(&mut self.unwinder);
        };
        self.unwinder = unwinder;
        end
    }

    /// Makes the module of `address` known to the unwinder and gives the address its frame. `false`: it is in no mapping.
    fn enter(&mut self, unwinder: &mut ProcessUnwinder, address: u64, shared: &Shared) -> bool {
        let i = self.regions.partition_point(|r| r.mapping.end <= address);
        let Some(region) = self.regions.get_mut(i).filter(|r| r.mapping.start <= address) else { return false };
        if region.code == Code::Fresh {
            let loaded = load(unwinder, &region.mapping, self.pid, &self.memory, &shared.modules);
            region.code = loaded.map_or(Code::Jit, |(module, bias)| Code::Module(module, bias));
        }
        let (key, what, path) = match region.code {
            Code::Module(module, bias) => {
                let svma = address.wrapping_sub(bias);
                let key = FrameKey { kind: FrameKind::Native, space: module.0, address: svma };
                (key, What::Native(module, svma), Some(&region.mapping.path))
            }
            Code::Fresh | Code::Jit => {
                let key = FrameKey { kind: FrameKind::Jit, space: self.space, address };
                (key, What::Jit(self.pid, address), None)
            }
        };
        let (frame, new) = shared.recorder.address_frame(key, || path.cloned());
        if new {
            shared.naming.ask(Unnamed { frame, what, module: path.cloned() });
        }
        self.addresses.insert(address, frame);
        true
    }

    /// The frame of a native address that [`Self::unwind`] passed; an address in no mapping gets one without a module.
    pub(super) fn native_frame(&mut self, address: u64, recorder: &Recorder) -> FrameId {
        if let Some(&frame) = self.addresses.get(&address) {
            return frame;
        }
        let key = FrameKey { kind: FrameKind::Jit, space: self.space, address };
        let (frame, _) = recorder.address_frame(key, || None);
        frame
    }

    /// The frame of a Python frame; `None` when its code object is gone.
    pub(super) fn python_frame(&mut self, frame: PyFrame, recorder: &Recorder) -> Option<FrameId> {
        self.python.as_mut()?.frame(frame, recorder)
    }

    /// Whether a native address lies in the eval function, as far as its symbols tell.
    pub(super) fn eval_ranges(&self) -> &[Range<u64>] {
        self.python.as_ref().map_or(&[], |p| &p.runtime.eval)
    }

    /// Why a thread of this process left the CPU.
    pub(super) fn reason(&mut self, wait: Wait) -> &'static str {
        if self.gil.is_none() {
            self.gil = self.python.as_ref().and_then(PythonSide::gil);
        }
        let pid = self.pid;
        reason::reason(wait, self.gil.as_ref(), |fd| reason::fd_kind(pid, fd))
    }

    /// `[held by NAME]` for the thread that holds the GIL.
    pub(super) fn holder_label(&mut self, tstate: u64, recorder: &Recorder) -> Option<FrameId> {
        if let Some(&known) = self.holders.get(&tstate) {
            return Some(known);
        }
        let tid = self.python.as_ref()?.thread_of(tstate)?;
        let name = std::fs::read_to_string(format!("/proc/{}/task/{tid}/comm", self.pid)).unwrap_or_default();
        let text = format!("[held by {} {tid}]", name.trim_end());
        let frame = recorder.frame(Frame::label(text));
        self.holders.insert(tstate, frame);
        Some(frame)
    }

    /// Whether each Python frame of this version has a C structure of its own (3.10).
    pub(super) fn pairs_frames(&self) -> bool {
        self.python.as_ref().is_some_and(|p| p.walker().entry_rule == 1)
    }

    /// How this version ties eval calls to Python frames.
    pub(super) fn rule(&self) -> Option<super::merge::Rule> {
        self.python.as_ref().map(|p| walker::merge_rule(&p.runtime.layout))
    }
}

/// Opens what is behind a mapping and teaches it to the unwinder. `None`: no module file is behind it.
pub(in crate::collect) fn load(
    unwinder: &mut ProcessUnwinder,
    mapping: &Mapping,
    pid: u32,
    memory: &LiveMemory,
    modules: &Modules,
) -> Option<(ModuleId, u64)> {
    let id = modules.open(pid, mapping, memory)?;
    let bias = modules.get(id)?.bias(mapping)?;
    if let Some(s) = modules.unwind_sections(id) {
        let sections = ExplicitModuleSectionInfo {
            base_svma: s.base_svma,
            text_svma: s.text_svma.clone(),
            stubs_svma: s.plt_svma.clone(),
            got_svma: s.got_svma.clone(),
            eh_frame_svma: s.eh_frame.as_ref().map(|b| b.svma.clone()),
            eh_frame: s.eh_frame.as_ref().map(|b| b.data.clone()),
            eh_frame_hdr_svma: s.eh_frame_hdr.as_ref().map(|b| b.svma.clone()),
            eh_frame_hdr: s.eh_frame_hdr.as_ref().map(|b| b.data.clone()),
            debug_frame: s.debug_frame.clone(),
            ..ExplicitModuleSectionInfo::default()
        };
        unwinder.add(mapping.path.clone(), mapping.start..mapping.end, s.base_svma.wrapping_add(bias), sections);
    }
    Some((id, bias))
}

#[cfg(test)]
mod tests {
    use super::super::naming::Ask;
    use super::*;

    #[test]
    fn after_an_exec_no_code_has_a_name_of_the_program_before() {
        let (naming, asked) = Naming::new();
        let shared = Shared {
            recorder: Arc::new(Recorder::new()),
            modules: Arc::new(Modules::new()),
            naming,
            kept: Kept::default(),
        };
        let pid = std::process::id();
        let mut process = Process::new((pid, 0), ProcessId(1), Mono(0));
        let before = process.native_frame(0x10, &shared.recorder);
        assert_eq!(process.native_frame(0x10, &shared.recorder), before);
        process.exec(&shared);
        assert_ne!(process.native_frame(0x10, &shared.recorder), before);
        assert!(matches!(asked.try_recv(), Ok(Ask::Forget(p)) if p == pid));
    }
}
