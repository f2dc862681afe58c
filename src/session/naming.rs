//! The thread that names addresses while the recording grows.
//!
//! In: new frames from the samplers. Out: names in the recorder. It works through whatever has come and then sleeps on
//! the queue; when the samplers are gone it ends by itself, with everything named that has a name. Invariant: a bug met in
//! the symbols of one address costs that name and no other, and no recording.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;

use crate::collect::cpu::{Ask, Unnamed, What};
use crate::error::{Error, Result};
use crate::record::{Frame, FrameKind, Recorder};
use crate::symbol::{Jit, Kernel, Modules, Namer, SearchPaths};

/// A native frame that was named, for the inlined frames at the end.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) unnamed: Unnamed,
    pub(super) frame: Frame,
}

/// What the thread came to.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The native frames that it met.
    pub(super) native: Vec<Named>,
    /// Why some that should have names have none.
    pub(super) trouble: Option<String>,
}

/// The running thread; joining it gives what it met.
pub(super) struct NamingThread(JoinHandle<Names>);

impl NamingThread {
    /// Starts it.
    pub(super) fn start(queue: Receiver<Ask>, modules: Arc<Modules>, recorder: Arc<Recorder>) -> Result<Self> {
        let work = move || {
            let new = || Books {
                namer: Namer::new(Arc::clone(&modules), SearchPaths::default()),
                kernel: Kernel::new(),
                jit: Jit::new(),
            };
            work_through(queue, &recorder, new)
        };
        std::thread::Builder::new()
            .name("perfkit-names".into())
            .spawn(work)
            .map(Self)
            .map_err(|e| Error::io("cannot start the naming thread", e))
    }

    /// Waits for it; every sender must be gone.
    pub(super) fn finish(self) -> Names {
        let ended = |_| Names { native: Vec::new(), trouble: Some("the naming thread panicked".to_owned()) };
        self.0.join().unwrap_or_else(ended)
    }
}

/// Names whatever comes, by books that `new` opens.
fn work_through<B: NameBooks>(queue: Receiver<Ask>, recorder: &Recorder, new: impl Fn() -> B) -> Names {
    let mut books = new();
    let mut names = Names::default();
    let mut panics = 0_u32;
    for ask in queue {
        let unnamed = match ask {
            Ask::Name(unnamed) => unnamed,
            Ask::Forget(pid) => {
                books.forget(pid);
                continue;
            }
        };
        let Ok(frame) = catch_unwind(AssertUnwindSafe(|| books.name(&unnamed))) else {
            panics += 1;
            // They may be half written.
            books = new();
            continue;
        };
        if frame.function.is_some() {
            recorder.name_frame(unnamed.frame, frame.clone());
        }
        if matches!(unnamed.what, What::Native(..)) {
            names.native.push(Named { unnamed, frame });
        }
    }
    if panics > 0 {
        names.trouble = Some(format!("a bug in perfkit cost {panics} addresses their names"));
    }
    names
}

/// Whoever knows names.
trait NameBooks {
    /// The frame with its name, or without where there is none.
    fn name(&mut self, unnamed: &Unnamed) -> Frame;

    /// The code that a process made at run time is gone.
    fn forget(&mut self, pid: u32);
}

/// Everything that knows names.
struct Books {
    namer: Namer,
    kernel: Kernel,
    jit: Jit,
}

impl NameBooks for Books {
    fn forget(&mut self, pid: u32) {
        self.jit.forget(pid);
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{FrameKey, Recording, Store};

    struct Brittle(Arc<std::sync::Mutex<Vec<u32>>>);

    impl NameBooks for Brittle {
        fn name(&mut self, unnamed: &Unnamed) -> Frame {
            let What::Jit(_, address) = unnamed.what else { panic!("only JIT code is asked for") };
            assert_ne!(address, 2, "a damaged table");
            Frame::label(format!("name {address}"))
        }

        fn forget(&mut self, pid: u32) {
            self.0.lock().unwrap().push(pid);
        }
    }

    #[test]
    fn a_panic_costs_one_name_and_no_other() {
        let recorder = Recorder::new();
        let forgotten = Arc::default();
        let (send, queue) = std::sync::mpsc::channel();
        for address in 1..=3 {
            let key = FrameKey { kind: FrameKind::Jit, space: 1, address };
            let (frame, _) = recorder.address_frame(key, || None);
            send.send(Ask::Name(Unnamed { frame, what: What::Jit(7, address), module: None })).unwrap();
        }
        send.send(Ask::Forget(7)).unwrap();
        drop(send);
        let names = work_through(queue, &recorder, || Brittle(Arc::clone(&forgotten)));
        assert!(names.trouble.unwrap().contains("cost 1 addresses"));
        assert_eq!(*forgotten.lock().unwrap(), [7]);
        let mut store = Store::in_memory().unwrap();
        store.flush(&recorder).unwrap();
        let recording: Recording = store.recording().unwrap();
        let found: Vec<_> = recording.frames.iter().map(|f| f.function.as_deref()).collect();
        assert_eq!(found, [Some("name 1"), None, Some("name 3")]);
    }
}
