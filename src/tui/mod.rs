//! The live terminal views: lines of text out of what is known, redrawn in place by whoever owns the terminal.

mod load;

pub use load::{LoadFrame, ProcessUse, load_frame};
