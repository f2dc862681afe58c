//! Names of threads as Python knows them (`threading.Thread.name`): before 3.14 the kernel does not.
//!
//! In: memory, a [`Runtime`]. Out: name by thread id. The names are in `threading._active`, found through `sys.modules`;
//! threads that Python did not start have none.

use super::budget::Budget;
use super::heap::Heap;
use super::locate::Runtime;
use super::values::int;
use crate::os::memory::{Fault, Memory};

/// Most threads that are named.
const THREAD_LIMIT: usize = 65_536;
/// Reads that this may take: some ten a thread.
const BUDGET: u64 = 1_000_000;
/// Longest name, in characters.
const NAME_LIMIT: usize = 256;

/// The name of each thread that interpreter `interpreter` (the address of its state) knows, by `pthread_self()`.
/// Empty when the program never imported `threading`.
pub fn of_threads(memory: &dyn Memory, runtime: &Runtime, interpreter: u64) -> Result<Vec<(u64, String)>, Fault> {
    let budget = Budget::new(memory, BUDGET);
    let heap = Heap::new(&budget, &runtime.layout);
    let modules = heap.word(interpreter, runtime.layout.interp_modules)?;
    let Some(threading) = heap.dict_get(modules, "threading")? else { return Ok(Vec::new()) };
    let dict = heap.word(threading, runtime.layout.module_dict)?;
    let Some(active) = heap.dict_get(dict, "_active")? else { return Ok(Vec::new()) };
    let name_of = |(ident, thread): (u64, u64)| {
        let ident = int(heap, ident).ok()?.parse().ok()?;
        let name = heap.attribute(thread, "_name").ok().flatten().filter(|name| heap.is_str(*name))?;
        Some((ident, heap.str_start(name, NAME_LIMIT).ok()?))
    };
    Ok(heap.dict_items(active, THREAD_LIMIT)?.into_iter().filter_map(name_of).collect())
}
