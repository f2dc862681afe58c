//! Imports: what of a module is known here, and what is a stranger.

use super::{Arc, Const, Instr, Lower, Problem, StmtImportFrom};
use crate::load::locust::modules;

impl<'a> Lower<'a> {
    pub(super) fn alias(&mut self, name: &str, module: u16) {
        if self.scopes.len() == 1 {
            self.aliases.insert(name.to_owned(), module);
        }
    }

    pub(super) fn import_from(&mut self, i: &'a StmtImportFrom) {
        let module = i.module.as_ref().map_or("", |m| m.as_str());
        let found = if i.level == 0 { modules::find(module) } else { None };
        if module == "__future__" || module == "typing" {
            // Annotations are not looked at, so their names are never read; those that are, are refused where they are.
            for alias in &i.names {
                let name = alias.asname.as_ref().unwrap_or(&alias.name);
                self.push(Const::None);
                self.store(name);
            }
            return;
        }
        for alias in &i.names {
            let bound = alias.asname.as_ref().unwrap_or(&alias.name);
            match found {
                Some(number) if &*alias.name == "*" => self.stars.push(number),
                Some(number) if modules::has(number, &alias.name) => {
                    if let Some(inner) = modules::find(&format!("{module}.{}", alias.name)) {
                        self.alias(bound, inner);
                    }
                    let sym = self.sym(&alias.name);
                    self.emit(Instr::LoadModule(number));
                    self.emit(Instr::Attr(sym));
                    self.store(bound);
                }
                _ if &*alias.name == "*" => {
                    let what = format!("import of {}{module}: not built in here", ".".repeat(i.level as usize));
                    self.problems.push(Problem { line: self.line, what });
                }
                _ => {
                    let whole = format!("{}{module}.{}", ".".repeat(i.level as usize), alias.name.as_str());
                    self.foreign(bound, &whole);
                }
            }
        }
    }

    /// An import that cannot be followed: fine as long as nothing uses it, and in a `try` as if it were not installed.
    pub(super) fn foreign(&mut self, bound: &str, module: &str) {
        if self.in_try > 0 {
            let class = modules::builtin("ImportError").unwrap_or(0);
            self.emit(Instr::LoadBuiltin(class));
            self.push(Const::Str(Arc::from(format!("No module named '{module}'"))));
            self.emit(Instr::Call(1, u32::MAX));
            return self.emit(Instr::Raise);
        }
        if self.scopes.len() == 1 {
            self.foreign.insert(bound.to_owned(), (self.line, module.to_owned()));
            self.program.remarks.push((self.line, format!("import of {module} is passed over: nothing uses it")));
        } else {
            self.refuse_statement(&format!("import of {module}: not built in here"));
        }
    }
}
