//! Who holds the GIL now.
//!
//! In: memory, a [`Runtime`]. Out: a [`Gil`] for the process, or one for each interpreter that has its own (3.12 and
//! later). A look is three reads at different instants; a GIL that changes hands between them shows either holder.

use super::heap::Heap;
use super::locate::Runtime;
use crate::os::memory::{Fault, Memory};

/// One GIL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gil {
    /// Its address in the target.
    pub address: u64,
    /// Whether it is held.
    pub locked: bool,
    /// Address of the thread state that holds it.
    pub holder: Option<u64>,
    /// How often it changed hands since it was made.
    pub switches: u64,
}

/// The GIL that rules interpreter `interpreter` (the address of its state; up to 3.11 there is only one GIL).
pub fn of(memory: &dyn Memory, runtime: &Runtime, interpreter: u64) -> Result<Gil, Fault> {
    let l = &runtime.layout;
    let heap = Heap::new(memory, l);
    let address = match (l.runtime_gil, l.interp_gil) {
        (Some(inside), _) => runtime.address.wrapping_add(u64::from(inside)),
        (None, Some(pointer)) => heap.word(interpreter, pointer)?,
        (None, None) => return Err(Fault { at: interpreter, len: 8 }),
    };
    let locked = heap.int(address, l.gil_locked)? > 0;
    // Up to 3.11 the runtime names the running thread state; the GIL's last holder may be one that just let go.
    let holder = match l.runtime_tstate_current {
        Some(current) => heap.word(runtime.address, current)?,
        None if locked => heap.word(address, l.gil_last_holder)?,
        None => 0,
    };
    Ok(Gil {
        address,
        locked,
        holder: (locked && holder != 0).then_some(holder),
        switches: heap.word(address, l.gil_switch_number)?,
    })
}
