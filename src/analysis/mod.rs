//! What a recording says: pure functions from a [`Recording`](crate::record::Recording) to numbers, trees and tables.
//!
//! In: a recording and a [`Selection`] (a slice of time, states, threads, frames). Out: a [`Profile`] that the renderers
//! turn into bytes. Invariant: nothing here touches the operating system, so that the same recording gives the same
//! result on another machine, next year. Limit: everything is held in memory; a distinct stack is expanded once, however
//! many samples it has.

mod cost;
mod evidence;
mod frames;
mod functions;
pub mod growth;
pub mod load;
pub mod memory;
mod paths;
mod profile;
mod quality;
mod selection;
mod shorten;
mod slice;
mod tree;

pub use cost::SelfCost;
pub use frames::{FrameTable, FunctionId, FunctionKey, Name, NameId, Shown, ShownId};
pub use functions::FunctionRow;
pub use paths::{Node, NodeId, Paths};
pub use profile::{ClockKind, LossRow, Moment, ProcessRow, Profile, ThreadRow, Weighted};
pub use quality::{Quality, Rates};
pub use selection::{Detail, FileNames, Layers, Selection, Split, States};
pub use shorten::shorten;
pub use slice::{Point, Slice, Window};
pub use tree::{CallTree, Tone, TreeNode, Unit};

#[cfg(test)]
pub(crate) mod fixture;
