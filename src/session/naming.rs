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
use crate::symbol::{Modules, Namer, SearchPaths};

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
            let mut namer = Namer::new(modules, SearchPaths::default());
            let mut native = Vec::new();
            for unnamed in queue {
                let frame = name(&mut namer, &unnamed);
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

fn name(namer: &mut Namer, unnamed: &Unnamed) -> Frame {
    let (kind, address) = match unnamed.what {
        What::Native(_, svma) => (FrameKind::Native, svma),
        What::Kernel(address) => (FrameKind::Kernel, address),
        What::Jit(_, address) => (FrameKind::Jit, address),
    };
    let mut frame = Frame {
        kind,
        function: None,
        file: None,
        line: None,
        module: unnamed.module.clone(),
        address: Some(address),
        inlines: Vec::new(),
    };
    if let What::Native(module, svma) = unnamed.what {
        frame.function = namer.name(module, svma).map(|n| n.function.to_string());
    }
    frame
}
