//! The way from the sampler to the thread that gives addresses their names.
//!
//! In: frames that are new, with where they lie. Out: names in the recorder, about once a second. Reading a large symbol
//! table takes longer than a ring has room for, so it is never done on the sampler's thread.

use std::sync::mpsc::{Receiver, Sender, channel};

use crate::record::FrameId;
use crate::symbol::ModuleId;

/// Where a frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// In a module, at an address of the module's own.
    Native(ModuleId, u64),
    /// In the kernel.
    Kernel(u64),
    /// In code that a process made at run time.
    Jit(u32, u64),
}

/// A frame that wants a name.
#[derive(Debug, Clone)]
pub struct Unnamed {
    /// The frame.
    pub frame: FrameId,
    /// Where it lies.
    pub what: What,
    /// The path of its module as the target sees it.
    pub module: Option<String>,
}

/// What comes through the queue, in the order in which it happened.
#[derive(Debug, Clone)]
pub enum Ask {
    /// A frame that wants a name.
    Name(Unnamed),
    /// The process ended or called exec: the code that it made at run time is gone, and so are its names.
    Forget(u32),
}

/// The sampler's end of the queue.
#[derive(Debug, Clone)]
pub struct Naming(Sender<Ask>);

impl Naming {
    /// A queue, and the end at which the names are given.
    pub fn new() -> (Self, Receiver<Ask>) {
        let (send, receive) = channel();
        (Self(send), receive)
    }

    /// Asks for a name. After the other end is gone frames keep their addresses.
    pub(super) fn ask(&self, frame: Unnamed) {
        drop(self.0.send(Ask::Name(frame)));
    }

    /// Says that the code which process `pid` made at run time is gone.
    pub(super) fn forget(&self, pid: u32) {
        drop(self.0.send(Ask::Forget(pid)));
    }
}
