//! Which names a body assigns: what Python decides a variable's scope by.

use std::collections::BTreeSet;

use ruff_python_ast::visitor::{Visitor, walk_expr, walk_stmt};
use ruff_python_ast::{ExceptHandler, Expr, ExprContext, Stmt};

/// Names that a body assigns, without those of functions and classes inside it.
#[derive(Debug, Default)]
pub(super) struct Assigned {
    pub(super) names: BTreeSet<String>,
    pub(super) elsewhere: BTreeSet<String>,
}

impl Assigned {
    pub(super) fn statements(&mut self, body: &[Stmt]) {
        for statement in body {
            self.visit_stmt(statement);
        }
    }

    fn add(&mut self, name: &str) {
        self.names.insert(name.to_owned());
    }
}

impl<'a> Visitor<'a> for Assigned {
    fn visit_stmt(&mut self, statement: &'a Stmt) {
        match statement {
            Stmt::FunctionDef(f) => return self.add(&f.name),
            Stmt::ClassDef(c) => return self.add(&c.name),
            Stmt::Import(i) => {
                for alias in &i.names {
                    let name = alias.asname.as_ref().unwrap_or(&alias.name);
                    self.add(name.split('.').next().unwrap_or(name));
                }
                return;
            }
            Stmt::ImportFrom(i) => {
                for alias in i.names.iter().filter(|a| &*a.name != "*") {
                    self.add(alias.asname.as_ref().unwrap_or(&alias.name));
                }
                return;
            }
            Stmt::Global(g) => self.elsewhere.extend(g.names.iter().map(ToString::to_string)),
            Stmt::Nonlocal(n) => self.elsewhere.extend(n.names.iter().map(ToString::to_string)),
            Stmt::Try(t) => {
                for ExceptHandler::ExceptHandler(handler) in &t.handlers {
                    if let Some(name) = &handler.name {
                        self.add(name);
                    }
                }
            }
            _ => {}
        }
        walk_stmt(self, statement);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::Name(name) if matches!(name.ctx, ExprContext::Store | ExprContext::Del) => self.add(&name.id),
            // Their variables are their own.
            Expr::ListComp(_) | Expr::SetComp(_) | Expr::DictComp(_) | Expr::Generator(_) | Expr::Lambda(_) => return,
            _ => {}
        }
        walk_expr(self, expr);
    }
}

/// Names that functions anywhere in the file declare `global`.
pub(super) fn declared_global(body: &[Stmt]) -> BTreeSet<String> {
    #[derive(Default)]
    struct Globals(BTreeSet<String>);
    impl<'a> Visitor<'a> for Globals {
        fn visit_stmt(&mut self, statement: &'a Stmt) {
            if let Stmt::Global(g) = statement {
                self.0.extend(g.names.iter().map(ToString::to_string));
            }
            walk_stmt(self, statement);
        }
        fn visit_expr(&mut self, _: &'a Expr) {}
    }
    let mut globals = Globals::default();
    for statement in body {
        globals.visit_stmt(statement);
    }
    globals.0
}
