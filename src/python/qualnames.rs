//! Qualified names for 3.8 to 3.10, whose code objects only know their bare name.
//!
//! In: a code object. Out: `Class.method`, `outer.<locals>.inner`, or nothing. The module of the code's file is scanned
//! once: its functions and classes lead to code objects, their qualified names are those of the functions, and inner code
//! objects are constants of outer ones. Invariant: a name is given only to a code object that was reached that way, and
//! only if it ends in the code's own name; a function that a decorator renamed names nothing. Limits: code that no module
//! holds (made by `exec`, deleted, or kept in containers only) keeps its bare name.

use rustc_hash::{FxHashMap, FxHashSet};

use super::budget::Budget;
use super::code::Code;
use super::heap::Heap;
use super::locate::Runtime;
use crate::os::memory::{Fault, Memory};

/// Reads for the scan of one module, and for the list of modules.
const BUDGET: u64 = 200_000;
/// Reads in all, for the life of a target.
const TOTAL_BUDGET: u64 = 4_000_000;
/// Modules, and names kept.
const MODULE_LIMIT: usize = 20_000;
const NAME_LIMIT: usize = 50_000;
/// Longest name, and longest path of a module, in characters.
const LENGTH: usize = 512;
const PATH_LENGTH: usize = 1024;
/// Functions in functions, classes in classes.
const DEPTH: u8 = 12;
/// Entries of a class or module, constants of a code object.
const ENTRIES: usize = 10_000;
/// `CO_OPTIMIZED`: a function's code, not that of a class body.
const OPTIMIZED: i32 = 1;

/// The qualified names of one process, found as they are asked for.
#[derive(Debug, Default)]
pub struct Qualnames {
    /// By address of the code object: address of its name (which tells whether it is still the same) and the qualname.
    names: FxHashMap<u64, (u64, Box<str>)>,
    /// Dicts of modules by file.
    modules: FxHashMap<String, Vec<u64>>,
    /// Number of modules when they were listed.
    listed: usize,
    scanned: FxHashSet<u64>,
    spent: u64,
}

impl Qualnames {
    /// The qualified name of `code`; `None` where it is not known, or the code object knows it itself (3.11 and later).
    pub fn of(&mut self, memory: &dyn Memory, runtime: &Runtime, code: &Code) -> Option<String> {
        if runtime.layout.code_qualname.is_some() || code.name == "<module>" {
            return None;
        }
        if let Some(known) = self.known(code) {
            return Some(known);
        }
        self.scan(memory, runtime, &code.file);
        self.known(code)
    }

    fn known(&self, code: &Code) -> Option<String> {
        let (name_at, qualname) = self.names.get(&code.address)?;
        (*name_at == code.marks.0).then(|| qualname.to_string())
    }

    /// Scans the modules of `file` that were not scanned yet.
    fn scan(&mut self, memory: &dyn Memory, runtime: &Runtime, file: &str) {
        if self.spent >= TOTAL_BUDGET {
            return;
        }
        let budget = Budget::new(memory, BUDGET.min(TOTAL_BUDGET - self.spent));
        let heap = Heap::new(&budget, &runtime.layout);
        if !self.modules.contains_key(file) {
            // A fault leaves the list as it is.
            let _ = self.list_modules(heap, runtime);
        }
        let dicts = self.modules.get(file).cloned().unwrap_or_default();
        for dict in dicts {
            if self.scanned.insert(dict) {
                let module = heap.dict_get(dict, "__name__").ok().flatten().and_then(|name| heap.str(name).ok());
                let mut scan = Scan { heap, module, names: &mut self.names, seen: FxHashSet::default() };
                scan.namespace(dict, DEPTH);
            }
        }
        self.spent += budget.spent();
    }

    /// Lists the modules by file, if there are more of them than last time.
    fn list_modules(&mut self, heap: Heap<'_>, runtime: &Runtime) -> Result<(), Fault> {
        let l = heap.layout;
        let interp = heap.word(runtime.address, l.runtime_interpreters_head)?;
        let modules = heap.word(interp, l.interp_modules)?;
        let count = heap.dict_len(modules)?;
        if count == self.listed {
            return Ok(());
        }
        self.listed = count;
        self.modules.clear();
        for (_, module) in heap.dict_items(modules, MODULE_LIMIT)? {
            let file_of = |dict| heap.dict_get(dict, "__file__").ok().flatten().filter(|file| heap.is_str(*file));
            let Ok(dict) = heap.word(module, l.module_dict) else { continue };
            if let Some(file) = file_of(dict).and_then(|file| heap.str_start(file, PATH_LENGTH).ok()) {
                self.modules.entry(file).or_default().push(dict);
            }
        }
        Ok(())
    }
}

/// The scan of one module.
struct Scan<'a> {
    heap: Heap<'a>,
    /// Name of the module.
    module: Option<String>,
    names: &'a mut FxHashMap<u64, (u64, Box<str>)>,
    /// Objects looked at.
    seen: FxHashSet<u64>,
}

impl Scan<'_> {
    /// The values of a module's or class's dict.
    fn namespace(&mut self, dict: u64, depth: u8) {
        for (_, value) in self.heap.dict_items(dict, ENTRIES).unwrap_or_default() {
            // One value that cannot be read does not end the scan.
            let _ = self.value(value, depth);
        }
    }

    fn value(&mut self, object: u64, depth: u8) -> Result<(), Fault> {
        let Some(deeper) = depth.checked_sub(1) else { return Ok(()) };
        if self.names.len() >= NAME_LIMIT || !self.seen.insert(object) {
            return Ok(());
        }
        let heap = self.heap;
        let l = heap.layout;
        let class = heap.type_of(object)?;
        match heap.type_name(class)?.as_str() {
            "function" => self.function(object, deeper),
            "classmethod" | "staticmethod" => self.value(heap.word(object, l.method_function)?, deeper),
            "property" => {
                // Getter, setter, deleter.
                for accessor in heap.words(object.wrapping_add(u64::from(l.property_getter)), 3)? {
                    if accessor != 0 {
                        self.value(accessor, deeper)?;
                    }
                }
                Ok(())
            }
            "functools._lru_cache_wrapper" => match heap.attribute(object, "__wrapped__")? {
                Some(wrapped) => self.value(wrapped, deeper),
                None => Ok(()),
            },
            _ if heap.is_python_class(object, class) => {
                let dict = heap.word(object, l.type_dict)?;
                let module = heap.dict_get(dict, "__module__")?.and_then(|module| heap.str(module).ok());
                if module == self.module {
                    self.namespace(dict, deeper);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn function(&mut self, function: u64, depth: u8) -> Result<(), Fault> {
        let heap = self.heap;
        let l = heap.layout;
        let qualname = heap.str_start(heap.word(function, l.func_qualname)?, LENGTH)?;
        self.code(heap.word(function, l.func_code)?, &qualname, depth)?;
        // What a decorator wrapped is in a cell of the wrapper.
        let closure = heap.word(function, l.func_closure)?;
        if closure != 0 {
            for cell in heap.tuple(closure, ENTRIES)? {
                let wrapped = heap.word(cell, l.cell_value)?;
                if wrapped != 0 {
                    self.value(wrapped, depth)?;
                }
            }
        }
        Ok(())
    }

    /// Names `code` and the code objects inside it.
    fn code(&mut self, code: u64, qualname: &str, depth: u8) -> Result<(), Fault> {
        let Some(deeper) = depth.checked_sub(1) else { return Ok(()) };
        let heap = self.heap;
        let l = heap.layout;
        let name_at = heap.word(code, l.code_name)?;
        let name = heap.str_start(name_at, LENGTH)?;
        let is_its_own = qualname.len() <= LENGTH * 4
            && qualname.strip_suffix(&name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        if !is_its_own || self.names.len() >= NAME_LIMIT {
            return Ok(());
        }
        self.names.insert(code, (name_at, qualname.into()));
        let scope = if heap.int(code, l.code_flags)? & OPTIMIZED == 0 { "" } else { "<locals>." };
        let code_type = heap.type_of(code)?;
        for inner in heap.tuple(heap.word(code, l.code_consts)?, ENTRIES)? {
            if heap.type_of(inner) == Ok(code_type) {
                let name = heap.str_start(heap.word(inner, l.code_name)?, LENGTH)?;
                self.code(inner, &format!("{qualname}.{scope}{name}"), deeper)?;
            }
        }
        Ok(())
    }
}
