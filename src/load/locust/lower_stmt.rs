//! Statements.

use std::sync::Arc;

use ruff_python_ast::{
    ExceptHandler, Expr, Parameters, Stmt, StmtClassDef, StmtFunctionDef, StmtImportFrom, StmtTry, StmtWith,
};

use super::super::code::{Const, Instr};
use super::super::modules;
use super::expr::binary;
use super::names::Assigned;
use super::{Context, Lower, Problem, ScopeKind};

#[path = "lower_imports.rs"]
mod imports;

impl<'a> Lower<'a> {
    pub(super) fn statements(&mut self, body: &'a [Stmt]) {
        for statement in body {
            self.at(statement);
            self.deeper(|lower| lower.statement(statement));
        }
    }

    fn statement(&mut self, statement: &'a Stmt) {
        match statement {
            Stmt::Expr(e) => {
                if !e.value.is_string_literal_expr() && !e.value.is_ellipsis_literal_expr() {
                    self.expr(&e.value);
                    self.emit(Instr::Pop);
                }
            }
            Stmt::Assign(a) => {
                self.expr(&a.value);
                for (i, target) in a.targets.iter().enumerate() {
                    if i + 1 < a.targets.len() {
                        self.emit(Instr::Dup);
                    }
                    self.assign(target);
                }
            }
            Stmt::AnnAssign(a) => {
                if let Some(value) = &a.value {
                    self.expr(value);
                    self.assign(&a.target);
                }
            }
            Stmt::AugAssign(a) => {
                let Some(op) = binary(a.op) else { return self.refuse_statement("the operator @=") };
                match &*a.target {
                    Expr::Name(n) => {
                        self.load(&n.id);
                        self.expr(&a.value);
                        self.emit(Instr::InPlace(op));
                        self.store(&n.id);
                    }
                    Expr::Attribute(t) => {
                        self.expr(&t.value);
                        self.emit(Instr::Dup);
                        let sym = self.sym(&t.attr);
                        self.given.insert(t.attr.to_string());
                        self.emit(Instr::Attr(sym));
                        self.expr(&a.value);
                        self.emit(Instr::InPlace(op));
                        self.emit(Instr::Swap);
                        self.emit(Instr::StoreAttr(sym));
                    }
                    Expr::Subscript(t) => {
                        self.expr(&t.value);
                        self.expr(&t.slice);
                        self.emit(Instr::Dup2);
                        self.emit(Instr::Index);
                        self.expr(&a.value);
                        self.emit(Instr::InPlace(op));
                        self.emit(Instr::Rot3);
                        self.emit(Instr::StoreIndex);
                    }
                    _ => self.refuse_statement("an assignment to this"),
                }
            }
            Stmt::Return(r) => {
                match &r.value {
                    Some(value) => self.expr(value),
                    None => self.push(Const::None),
                }
                self.leave(0);
                self.emit(Instr::Return);
            }
            Stmt::If(i) => {
                if is_main(&i.test) {
                    return;
                }
                self.expr(&i.test);
                let mut next = self.jump(Instr::JumpIfFalse(0));
                self.statements(&i.body);
                let mut ends = Vec::new();
                for clause in &i.elif_else_clauses {
                    ends.push(self.jump(Instr::Jump(0)));
                    self.land(next);
                    next = match &clause.test {
                        Some(test) => {
                            self.expr(test);
                            self.jump(Instr::JumpIfFalse(0))
                        }
                        None => usize::MAX,
                    };
                    self.statements(&clause.body);
                }
                self.land(next);
                for end in ends {
                    self.land(end);
                }
            }
            Stmt::While(w) => {
                let again = self.here();
                self.expr(&w.test);
                let end = self.jump(Instr::JumpIfFalse(0));
                let breaks = self.in_loop(again, false, &w.body);
                self.emit(Instr::Jump(again));
                self.land(end);
                self.statements(&w.orelse);
                for at in breaks {
                    self.land(at);
                }
            }
            Stmt::For(f) => {
                if f.is_async {
                    return self.refuse_statement("async for");
                }
                self.expr(&f.iter);
                self.emit(Instr::Iter);
                let again = self.here();
                let end = self.jump(Instr::Next(0));
                self.assign(&f.target);
                let breaks = self.in_loop(again, true, &f.body);
                self.emit(Instr::Jump(again));
                self.land(end);
                self.statements(&f.orelse);
                for at in breaks {
                    self.land(at);
                }
            }
            Stmt::Break(_) => self.leave_loop(true),
            Stmt::Continue(_) => self.leave_loop(false),
            Stmt::Pass(_) => {}
            Stmt::FunctionDef(f) => self.function(f),
            Stmt::ClassDef(c) => self.class(c),
            Stmt::Import(i) => {
                for alias in &i.names {
                    let whole = alias.name.as_str();
                    let top = whole.split('.').next().unwrap_or(whole);
                    let bound = alias.asname.as_ref().map_or(top, |a| a.as_str());
                    let module = if alias.asname.is_some() { whole } else { top };
                    match modules::find(module).filter(|_| modules::find(whole).is_some()) {
                        Some(number) => {
                            self.alias(bound, number);
                            self.emit(Instr::LoadModule(number));
                            self.store(bound);
                        }
                        None => self.foreign(bound, whole),
                    }
                }
            }
            Stmt::ImportFrom(i) => self.import_from(i),
            Stmt::Global(g) => {
                for name in &g.names {
                    self.scope().elsewhere.insert(name.to_string());
                }
            }
            Stmt::Nonlocal(n) => {
                for name in &n.names {
                    self.scope().elsewhere.insert(name.to_string());
                }
            }
            Stmt::Delete(d) => {
                for target in &d.targets {
                    self.delete(target);
                }
            }
            Stmt::Assert(a) => {
                self.expr(&a.test);
                let good = self.jump(Instr::JumpIfTrue(0));
                let class = modules::builtin("AssertionError").unwrap_or(0);
                self.emit(Instr::LoadBuiltin(class));
                if let Some(message) = &a.msg {
                    self.expr(message);
                }
                self.emit(Instr::Call(u16::from(a.msg.is_some()), u32::MAX));
                self.emit(Instr::Raise);
                self.land(good);
            }
            Stmt::Raise(r) => match &r.exc {
                Some(exception) => {
                    self.expr(exception);
                    self.emit(Instr::Raise);
                }
                None => match self.scope().handling.last().copied() {
                    Some(var) => {
                        self.load_var(var, "");
                        self.emit(Instr::Raise);
                    }
                    None => self.refuse_statement("raise without an exception, outside of except"),
                },
            },
            Stmt::Try(t) => self.try_statement(t),
            Stmt::With(w) => self.with(w, 0),
            Stmt::Match(_) => self.refuse_statement("match"),
            Stmt::TypeAlias(_) => {}
            Stmt::IpyEscapeCommand(_) => self.refuse_statement("a notebook's command"),
        }
    }

    // ---- targets ----

    /// Pops a value into a target.
    pub(super) fn assign(&mut self, target: &'a Expr) {
        match target {
            Expr::Name(n) => self.store(&n.id),
            Expr::Attribute(a) => {
                self.expr(&a.value);
                let sym = self.sym(&a.attr);
                self.given.insert(a.attr.to_string());
                self.emit(Instr::StoreAttr(sym));
            }
            Expr::Subscript(s) => {
                self.expr(&s.value);
                self.expr(&s.slice);
                self.emit(Instr::StoreIndex);
            }
            Expr::Tuple(_) | Expr::List(_) => {
                let elements: &[Expr] = match target {
                    Expr::Tuple(t) => &t.elts,
                    Expr::List(l) => &l.elts,
                    _ => &[],
                };
                let star = elements.iter().position(Expr::is_starred_expr);
                match star {
                    Some(at) => self.emit(Instr::UnpackStar(at as u16, (elements.len() - at - 1) as u16)),
                    None => self.emit(Instr::Unpack(elements.len() as u16)),
                }
                for element in elements {
                    let inner = if let Expr::Starred(s) = element { &s.value } else { element };
                    self.deeper(|lower| lower.assign(inner));
                }
            }
            _ => {
                self.emit(Instr::Pop);
                self.refuse_statement("an assignment to this");
            }
        }
    }

    fn delete(&mut self, target: &'a Expr) {
        match target {
            Expr::Name(n) => match self.resolve(&n.id) {
                Some(super::Var::Local(out, slot)) => self.emit(Instr::Delete(out, slot)),
                Some(super::Var::Global(slot)) => self.emit(Instr::DeleteGlobal(slot)),
                _ => self.refuse_statement("del of this"),
            },
            Expr::Attribute(a) => {
                self.expr(&a.value);
                let sym = self.sym(&a.attr);
                self.emit(Instr::DeleteAttr(sym));
            }
            Expr::Subscript(s) => {
                self.expr(&s.value);
                self.expr(&s.slice);
                self.emit(Instr::DeleteIndex);
            }
            _ => self.refuse_statement("del of this"),
        }
    }

    // ---- jumps ----

    fn in_loop(&mut self, again: u32, keeps_iterator: bool, body: &'a [Stmt]) -> Vec<usize> {
        self.scope().contexts.push(Context::Loop { breaks: Vec::new(), again, keeps_iterator });
        self.statements(body);
        match self.scope().contexts.pop() {
            Some(Context::Loop { breaks, .. }) => breaks,
            _ => Vec::new(),
        }
    }

    /// Undoes what stands between here and the context number `down_to`, from the innermost outwards.
    fn leave(&mut self, down_to: usize) {
        let contexts = self.scope().contexts.clone();
        for (i, context) in contexts.iter().enumerate().skip(down_to).rev() {
            match context {
                Context::Loop { .. } => {}
                Context::Try => self.emit(Instr::EndTry),
                Context::With(manager) => {
                    self.emit(Instr::EndTry);
                    self.load_var(*manager, "");
                    self.emit(Instr::Leave);
                }
                Context::Finally(body) => {
                    self.emit(Instr::EndTry);
                    let inner = self.scope().contexts.split_off(i);
                    // A finally inside a finally, each with returns, doubles with every level: bounded like nesting.
                    self.deeper(|lower| lower.statements(body));
                    self.scope().contexts.extend(inner);
                }
            }
        }
    }

    fn leave_loop(&mut self, for_good: bool) {
        let found = self.scope().contexts.iter().rposition(|c| matches!(c, Context::Loop { .. }));
        let Some(at) = found else { return self.refuse_statement("break or continue outside of a loop") };
        self.leave(at + 1);
        let Some(Context::Loop { again, keeps_iterator, .. }) = self.scope().contexts.get(at).cloned() else { return };
        if !for_good {
            return self.emit(Instr::Jump(again));
        }
        if keeps_iterator {
            self.emit(Instr::Pop);
        }
        let jump = self.jump(Instr::Jump(0));
        if let Some(Context::Loop { breaks, .. }) = self.scope().contexts.get_mut(at) {
            breaks.push(jump);
        }
    }

    // ---- try, with ----

    fn try_statement(&mut self, t: &'a StmtTry) {
        if t.is_star {
            return self.refuse_statement("except*");
        }
        let finally = (!t.finalbody.is_empty()).then(|| {
            let at = self.jump(Instr::Try(0));
            self.scope().contexts.push(Context::Finally(&t.finalbody));
            at
        });
        if t.handlers.is_empty() {
            self.statements(&t.body);
        } else {
            let handlers = self.jump(Instr::Try(0));
            self.scope().contexts.push(Context::Try);
            self.in_try += 1;
            self.statements(&t.body);
            self.in_try -= 1;
            self.scope().contexts.pop();
            self.emit(Instr::EndTry);
            self.statements(&t.orelse);
            let mut ends = vec![self.jump(Instr::Jump(0))];
            self.land(handlers);
            for ExceptHandler::ExceptHandler(handler) in &t.handlers {
                self.at(handler);
                let next = handler.type_.as_ref().map(|class| {
                    self.expr(class);
                    self.emit(Instr::Matches);
                    self.jump(Instr::JumpIfFalse(0))
                });
                let hidden = self.fresh();
                if let Some(name) = &handler.name {
                    self.emit(Instr::Dup);
                    self.store(name);
                }
                self.store_var(hidden);
                self.scope().handling.push(hidden);
                self.statements(&handler.body);
                self.scope().handling.pop();
                ends.push(self.jump(Instr::Jump(0)));
                match next {
                    Some(next) => self.land(next),
                    None => break,
                }
            }
            self.emit(Instr::Raise);
            for end in ends {
                self.land(end);
            }
        }
        if let Some(at) = finally {
            self.scope().contexts.pop();
            self.emit(Instr::EndTry);
            self.deeper(|lower| lower.statements(&t.finalbody));
            let out = self.jump(Instr::Jump(0));
            self.land(at);
            let hidden = self.fresh();
            self.store_var(hidden);
            self.deeper(|lower| lower.statements(&t.finalbody));
            self.load_var(hidden, "");
            self.emit(Instr::Raise);
            self.land(out);
        }
    }

    fn with(&mut self, w: &'a StmtWith, item: usize) {
        if w.is_async {
            return self.refuse_statement("async with");
        }
        let Some(manager) = w.items.get(item) else { return self.statements(&w.body) };
        self.expr(&manager.context_expr);
        self.emit(Instr::Enter);
        match &manager.optional_vars {
            Some(target) => self.assign(target),
            None => self.emit(Instr::Pop),
        }
        let hidden = self.fresh();
        self.store_var(hidden);
        let raised = self.jump(Instr::Try(0));
        self.scope().contexts.push(Context::With(hidden));
        self.deeper(|lower| lower.with(w, item + 1));
        self.scope().contexts.pop();
        self.emit(Instr::EndTry);
        self.load_var(hidden, "");
        self.emit(Instr::Leave);
        let end = self.jump(Instr::Jump(0));
        self.land(raised);
        self.load_var(hidden, "");
        self.emit(Instr::Swap);
        self.emit(Instr::LeaveRaising);
        let swallowed = self.jump(Instr::JumpIfTrue(0));
        self.emit(Instr::Raise);
        self.land(swallowed);
        self.emit(Instr::Pop);
        self.land(end);
    }

    // ---- definitions ----

    /// Pushes the defaults of parameters: how many, and the names of those that are keyword-only (a constant).
    pub(super) fn defaults(&mut self, parameters: &'a Parameters) -> (u16, Option<u32>) {
        let mut count = 0;
        for parameter in parameters.posonlyargs.iter().chain(&parameters.args) {
            if let Some(default) = &parameter.default {
                self.expr(default);
                count += 1;
            }
        }
        let mut names = Vec::new();
        for parameter in &parameters.kwonlyargs {
            if let Some(default) = &parameter.default {
                self.expr(default);
                names.push(self.sym(&parameter.parameter.name));
                count += 1;
            }
        }
        let names = (!names.is_empty()).then(|| self.constant(Const::Names(names)));
        (count, names)
    }

    /// Declares parameters in the function's scope, which has just been opened.
    pub(super) fn parameters(&mut self, parameters: &'a Parameters) {
        let positional = parameters.posonlyargs.iter().chain(&parameters.args).map(|p| &p.parameter);
        let named: Vec<_> = positional.chain(parameters.kwonlyargs.iter().map(|p| &p.parameter)).collect();
        let extra = [&parameters.vararg, &parameters.kwarg];
        for parameter in named.into_iter().chain(extra.into_iter().flatten().map(|p| &**p)) {
            let sym = self.sym(&parameter.name);
            let scope = self.scope();
            scope.vars.insert(parameter.name.to_string(), scope.body.slots);
            scope.body.slots = scope.body.slots.saturating_add(1);
            scope.body.params.push(sym);
        }
        let body = &mut self.scope().body;
        body.positional = (parameters.posonlyargs.len() + parameters.args.len()) as u16;
        body.keyword_only = parameters.kwonlyargs.len() as u16;
        body.star = parameters.vararg.is_some();
        body.double_star = parameters.kwarg.is_some();
    }

    fn function(&mut self, f: &'a StmtFunctionDef) {
        if f.is_async {
            return self.refuse_statement("async def");
        }
        for decorator in &f.decorator_list {
            self.expr(&decorator.expression);
        }
        let (count, names) = self.defaults(&f.parameters);
        self.open(ScopeKind::Function, &f.name);
        self.parameters(&f.parameters);
        let mut assigned = Assigned::default();
        assigned.statements(&f.body);
        for name in assigned.names {
            if assigned.elsewhere.contains(&name) {
                self.scope().elsewhere.insert(name);
            } else if !self.scope().vars.contains_key(&name) {
                let scope = self.scope();
                scope.vars.insert(name, scope.body.slots);
                scope.body.slots = scope.body.slots.saturating_add(1);
            }
        }
        self.statements(&f.body);
        self.push(Const::None);
        self.emit(Instr::Return);
        if self.scope().body.slots == u16::MAX {
            self.refuse_statement("a function with too many variables");
        }
        let body = self.close();
        self.at(f);
        self.emit(Instr::Function(body, count));
        if let Some(names) = names {
            self.emit(Instr::KeywordDefaults(names));
        }
        for _ in &f.decorator_list {
            self.emit(Instr::Call(1, u32::MAX));
        }
        self.given.insert(f.name.to_string());
        self.store(&f.name);
    }

    fn class(&mut self, c: &'a StmtClassDef) {
        for decorator in &c.decorator_list {
            self.expr(&decorator.expression);
        }
        let mut count = 0;
        if let Some(arguments) = &c.arguments {
            if !arguments.keywords.is_empty()
                && !arguments.keywords.iter().all(|k| k.arg.as_ref().is_some_and(|a| a == "metaclass"))
            {
                self.refuse_statement("keywords of a class");
            }
            for base in &arguments.args {
                self.expr(base);
                count += 1;
            }
        }
        self.open(ScopeKind::Class, &c.name);
        let mut assigned = Assigned::default();
        assigned.statements(&c.body);
        for name in assigned.names {
            self.sym(&name);
            self.given.insert(name.clone());
            self.scope().vars.insert(name, 0);
        }
        self.statements(&c.body);
        self.push(Const::None);
        self.emit(Instr::Return);
        let body = self.close();
        self.emit(Instr::Class(body, count));
        for _ in &c.decorator_list {
            self.emit(Instr::Call(1, u32::MAX));
        }
        self.given.insert(c.name.to_string());
        self.store(&c.name);
    }
}

/// `__name__ == "__main__"`: never so in a locustfile.
fn is_main(test: &Expr) -> bool {
    let Expr::Compare(c) = test else { return false };
    c.left.as_name_expr().is_some_and(|n| n.id.as_str() == "__name__")
        && c.comparators.iter().any(|e| e.as_string_literal_expr().is_some_and(|s| s.value.to_str() == "__main__"))
}
