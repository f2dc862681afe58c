//! One file a source; each ends in one collector that feeds the recorder.

pub mod cpu;
