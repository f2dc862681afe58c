//! Arguments and local variables of a frame, with their values as short text (`perfkit dump --locals`).
//!
//! In: a [`Frame`] of a thread that is not running, or soon after. Out: [`Local`]s. Invariant: values are
//! only read when asked for here; secrets by name are never read at all. Bias: a frame that runs on while it is read may
//! show values that never stood together.

use super::budget::Budget;
use super::frames::Frame;
use super::heap::Heap;
use super::secrets;
use super::values::{Limits, REDACTED, render};
use crate::os::memory::Fault;

/// Most variables of one frame.
const LOCAL_LIMIT: usize = 2048;
/// Reads for all the variables of one frame.
pub const BUDGET: u64 = 100_000;
/// Longest name, in characters.
const NAME_LIMIT: usize = 256;
/// `CO_VARARGS`, `CO_VARKEYWORDS`.
const VARARGS: i32 = 4;
const VARKEYWORDS: i32 = 8;
/// `CO_FAST_HIDDEN`: a variable of an inlined comprehension (3.12 and later).
const HIDDEN: u8 = 0x10;

/// A variable of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Its name.
    pub name: String,
    /// It is an argument of the function.
    pub argument: bool,
    /// Its value as text.
    pub value: String,
}

/// The variables of `frame` that are set: arguments first, then in the order of the code object. Takes at most
/// [`BUDGET`] reads; what is left then is shown as unreadable. For many frames give `heap` a [`Budget`] over all.
pub fn read(heap: Heap<'_>, frame: &Frame, limits: Limits) -> Result<Vec<Local>, Fault> {
    let l = heap.layout;
    let budget = Budget::new(heap.memory, BUDGET);
    let heap = Heap::new(&budget, l);
    let code = frame.code;
    let flags = heap.int(code, l.code_flags)?;
    let counted = heap.int(code, l.code_argcount)?.saturating_add(heap.int(code, l.code_kwonlyargcount)?);
    let stars = i32::from(flags & VARARGS != 0) + i32::from(flags & VARKEYWORDS != 0);
    let arguments = usize::try_from(counted.saturating_add(stars)).unwrap_or(0);
    let names = variable_names(heap, code)?;
    let at = frame.address.wrapping_add(u64::from(l.frame_localsplus));
    let slots = heap.words(at, names.len())?;

    let mut found: Vec<(Local, bool)> = Vec::new();
    for (i, (name, slot)) in names.into_iter().zip(slots).enumerate() {
        let Ok(name) = heap.str_start(name.unwrap_or(0), NAME_LIMIT) else { continue };
        let set = contents(heap, slot & !l.tag_mask);
        let value = match set {
            Some(_) if secrets::is_secret(&name) => REDACTED.to_owned(),
            Some(value) => render(heap, value, limits),
            None => String::new(),
        };
        // Up to 3.10 an argument that an inner function uses stands twice, and its second slot has the value.
        match found.iter_mut().find(|(l, _)| l.name == name) {
            Some((_, true)) => {}
            Some((local, is_set)) => (local.value, *is_set) = (value, set.is_some()),
            None => found.push((Local { name, argument: i < arguments, value }, set.is_some())),
        }
    }
    let mut found: Vec<Local> = found.into_iter().filter(|(_, is_set)| *is_set).map(|(local, _)| local).collect();
    found.sort_by_key(|l| !l.argument);
    Ok(found)
}

/// The names of all slots, `None` for those not shown.
fn variable_names(heap: Heap<'_>, code: u64) -> Result<Vec<Option<u64>>, Fault> {
    let l = heap.layout;
    if let (Some(names), Some(kinds)) = (l.code_localsplusnames, l.code_localspluskinds) {
        let names = heap.tuple(heap.word(code, names)?, LOCAL_LIMIT)?;
        let kinds = heap.bytes(heap.word(code, kinds)?, LOCAL_LIMIT).unwrap_or_default();
        let shown = |i: usize| kinds.get(i).is_none_or(|kind| kind & HIDDEN == 0);
        return Ok(names.into_iter().enumerate().map(|(i, name)| shown(i).then_some(name)).collect());
    }
    let parts = [l.code_varnames, l.code_cellvars, l.code_freevars];
    let mut names = Vec::new();
    for part in parts.into_iter().flatten() {
        names.extend(heap.tuple(heap.word(code, part)?, LOCAL_LIMIT)?.into_iter().map(Some));
    }
    Ok(names)
}

/// What a slot holds, through a cell; `None` when it is unset.
fn contents(heap: Heap<'_>, slot: u64) -> Option<u64> {
    if slot == 0 {
        return None;
    }
    let is_cell = heap.type_of(slot).and_then(|class| heap.type_name(class)).is_ok_and(|name| name == "cell");
    let value = if is_cell { heap.word(slot, heap.layout.cell_value).ok()? } else { slot };
    (value != 0).then_some(value)
}
