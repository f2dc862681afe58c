//! The native side of a dumped process: its modules, how its stacks unwind, what its addresses are called.
//!
//! In: stack copies and addresses. Out: native frames, and named frames of the model. Everything is looked up once a dump.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::collect::cpu::load_module;
use crate::native::asleep::Unwinding;
use crate::native::unwind::{End, NativeFrame, ProcessUnwinder, StackCopy};
use crate::os::memory::LiveMemory;
use crate::record::{Frame, FrameId, FrameKind};
use crate::symbol::{Inliner, Jit, Kernel, ModuleId, Modules, Namer, SearchPaths, Wanted};
use crate::target::Maps;

/// Times that mappings are read again in one dump: large processes have many, and some stacks cannot be followed anyway.
const REREADS: u32 = 8;

/// Modules, unwinder and names of one process.
pub(super) struct Natives {
    pid: u32,
    memory: LiveMemory,
    maps: Arc<Maps>,
    modules: Arc<Modules>,
    unwinder: ProcessUnwinder,
    /// What is behind the mapping that starts here: a module and what is added to its addresses, or nothing known.
    loaded: FxHashMap<u64, Option<(ModuleId, u64)>>,
    namer: Namer,
    jit: Jit,
    kernel: Kernel,
    rereads: u32,
    /// The native frames that were named, for their lines and inlined functions at the end.
    met: FxHashMap<(ModuleId, u64), Frame>,
}

/// Where a native frame is: its module's path and its address in there.
type Place = (Option<String>, Option<u64>);

impl Natives {
    pub(super) fn new(pid: u32, memory: LiveMemory, maps: Maps) -> Self {
        let modules = Arc::new(Modules::new());
        let namer = Namer::new(Arc::clone(&modules), SearchPaths::default());
        Self {
            pid,
            memory,
            maps: Arc::new(maps),
            modules,
            unwinder: ProcessUnwinder::default(),
            loaded: FxHashMap::default(),
            namer,
            jit: Jit::new(),
            kernel: Kernel::new(),
            rereads: REREADS,
            met: FxHashMap::default(),
        }
    }

    pub(super) fn maps(&self) -> &Maps {
        &self.maps
    }

    /// The mappings, for use beside `&mut self`.
    pub(super) fn shared_maps(&self) -> Arc<Maps> {
        Arc::clone(&self.maps)
    }

    /// Reads the mappings again, when something lies in none of them: a thread or module that came meanwhile. `false` when
    /// that was done often enough.
    pub(super) fn refresh(&mut self) -> bool {
        let Some(left) = self.rereads.checked_sub(1) else { return false };
        self.rereads = left;
        let Ok(maps) = Maps::of(self.pid) else { return false };
        self.maps = Arc::new(maps);
        true
    }

    /// The frame of an address that unwinding passed.
    pub(super) fn frame(&mut self, address: u64) -> Frame {
        let mapping = self.maps.at(address);
        let module = mapping.and_then(|m| *self.loaded.get(&m.start)?);
        let path = mapping.map(|m| m.path.clone()).filter(|p| !p.is_empty());
        if let Some((module, bias)) = module {
            let svma = address.wrapping_sub(bias);
            let namer = &mut self.namer;
            let met = self.met.entry((module, svma)).or_insert_with(|| {
                let function = namer.name(module, svma).map(|n| n.function.to_string());
                Frame { function, module: path, ..blank(FrameKind::Native, svma) }
            });
            return met.clone();
        }
        let named = self.jit.name(self.pid, address);
        let (function, file, line) = named.map_or((None, None, None), |n| (Some(n.function), n.file, n.line));
        Frame { function, file, line, module: path, ..blank(FrameKind::Jit, address) }
    }

    /// Gives `frames` their source lines and inlined functions, as far as the modules' DWARF tells them within `budget`;
    /// the lines that say what could not be read.
    pub(super) fn add_inlines<'a>(
        &mut self,
        frames: impl Iterator<Item = &'a mut Frame>,
        budget: Duration,
    ) -> Vec<String> {
        let met = std::mem::take(&mut self.met).into_iter().zip(1..);
        let wanted = met.map(|(((module, address), frame), id)| Wanted { id: FrameId(id), module, address, frame });
        let found = Inliner::new(SearchPaths::default()).run(&self.modules, wanted.collect(), budget);
        let place = |f: &Frame| -> Place { (f.module.clone(), f.address) };
        let known: FxHashMap<Place, Frame> = found.frames.into_iter().map(|(_, f)| (place(&f), f)).collect();
        for frame in frames.filter(|f| f.kind == FrameKind::Native) {
            if let Some(told) = known.get(&place(frame)) {
                *frame = told.clone();
            }
        }
        found.troubles
    }

    /// The frame of a kernel address.
    pub(super) fn kernel_frame(&mut self, address: u64) -> Frame {
        let named = self.kernel.name(address);
        let (function, module) = named.map_or((None, None), |n| (Some(n.function), n.module));
        Frame { function, module, ..blank(FrameKind::Kernel, address) }
    }
}

impl Unwinding for Natives {
    fn unwind(&mut self, stack: StackCopy<'_>, frames: &mut Vec<NativeFrame>) -> End {
        let Self { pid, memory, maps, modules, unwinder, loaded, .. } = self;
        unwinder.unwind(stack, frames, |unwinder, address| {
            let Some(mapping) = maps.at(address).filter(|m| m.executable) else { return false };
            loaded.entry(mapping.start).or_insert_with(|| load_module(unwinder, mapping, *pid, memory, modules));
            true
        })
    }

    fn function(&mut self, address: u64) -> Option<Range<u64>> {
        let (module, bias) = (*self.loaded.get(&self.maps.at(address)?.start)?)?;
        let named = self.namer.name(module, address.wrapping_sub(bias)).filter(|n| n.size > 0)?;
        let start = named.start.wrapping_add(bias);
        Some(start..start.checked_add(named.size)?)
    }
}

fn blank(kind: FrameKind, address: u64) -> Frame {
    Frame { address: Some(address), ..Frame::blank(kind) }
}

/// Whether an address lies in one of `ranges`.
pub(super) fn within(ranges: &[Range<u64>], address: u64) -> bool {
    ranges.iter().any(|r| r.contains(&address))
}

/// The kernel's part of a stack, from `/proc/PID/task/TID/stack`: lines of `[<0>] function+0x1/0x2 [module]`, leaf first.
pub(super) fn parse_kernel_stack(text: &str) -> Vec<Frame> {
    let frame = |line: &str| {
        let rest = line.trim().strip_prefix("[<")?.split_once(">] ")?.1;
        let (place, module) = rest.split_once(' ').unwrap_or((rest, ""));
        let function = place.split_once('+').map_or(place, |(name, _)| name);
        let module = module.strip_prefix('[').and_then(|m| m.strip_suffix(']')).map(str::to_owned);
        let known = !function.is_empty() && !function.starts_with("0x");
        known.then(|| Frame {
            function: Some(function.to_owned()),
            module,
            address: None,
            ..blank(FrameKind::Kernel, 0)
        })
    };
    text.lines().filter_map(frame).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_stacks() {
        let text = "[<0>] futex_wait_queue+0x63/0x90\n[<0>] fuse_wait+0x1/0x2 [fuse]\n[<0>] 0xffffffff\nnonsense\n";
        let frames = parse_kernel_stack(text);
        let told: Vec<_> = frames.iter().map(|f| (f.function.as_deref().unwrap(), f.module.as_deref())).collect();
        assert_eq!(told, [("futex_wait_queue", None), ("fuse_wait", Some("fuse"))]);
    }
}
