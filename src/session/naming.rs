//! The thread that names addresses while the recording grows.
//!
//! In: new frames from the samplers. Out: names in the recorder. It works through whatever has come and then sleeps on
//! the queue; when the samplers are gone it ends by itself, with everything named that has a name.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use crate::collect::cpu::{Unnamed, What};
use crate::error::{Error, Kind, Result};
use crate::record::{Frame, FrameKind, Recorder};
use crate::symbol::{Jit, Kernel, Modules, Namer, SearchPaths};

/// A native frame that was named, for the inlined frames at the end.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) unnamed: Unnamed,
    pub(super) frame: Frame,
}

/// The running thread; joining it gives the native frames it met.
pub(super) struct NamingThread(JoinHandle<Vec<Named>>);

impl NamingThread {
    /// Starts it.
    pub(super) fn start(queue: Receiver<Unnamed>, modules: Arc<Modules>, recorder: Arc<Recorder>) -> Result<Self> {
        let work = move || {
            let mut books =
                Books { namer: Namer::new(modules, SearchPaths::default()), kernel: Kernel::new(), jit: Jit::new() };
            let mut native = Vec::new();
            for unnamed in queue {
                let frame = books.name(&unnamed);
                if frame.function.is_some() {
                    recorder.name_frame(unnamed.frame, frame.clone());
                }
                if matches!(unnamed.what, What::Native(..)) {
                    native.push(Named { unnamed, frame });
                }
            }
            native
        };
        std::thread::Builder::new()
            .name("perfkit-names".into())
            .spawn(work)
            .map(Self)
            .map_err(|e| Error::io("cannot start the naming thread", e))
    }

    /// Waits for it; every sender must be gone.
    pub(super) fn finish(self) -> Result<Vec<Named>> {
        self.0.join().map_err(|_| Error::new(Kind::Bug, "the naming thread panicked"))
    }
}

/// Everything that knows names.
struct Books {
    namer: Namer,
    kernel: Kernel,
    jit: Jit,
}

impl Books {
    fn name(&mut self, unnamed: &Unnamed) -> Frame {
        let (kind, address) = match unnamed.what {
            What::Native(_, svma) => (FrameKind::Native, svma),
            What::Kernel(address) => (FrameKind::Kernel, address),
            What::Jit(_, address) => (FrameKind::Jit, address),
        };
        let module = unnamed.module.clone();
        let blank = Frame { module, address: Some(address), ..Frame::blank(kind) };
        match unnamed.what {
            What::Native(module, svma) => {
                Frame { function: self.namer.name(module, svma).map(|n| n.function.to_string()), ..blank }
            }
            What::Kernel(address) => match self.kernel.name(address) {
                Some(n) => Frame { function: Some(n.function), module: n.module, ..blank },
                None => blank,
            },
            What::Jit(pid, address) => match self.jit.name(pid, address) {
                Some(n) => Frame { function: Some(n.function), file: n.file, line: n.line, ..blank },
                None => blank,
            },
        }
    }
}
