//! From Python's syntax tree to the compact form: names, scopes and the bodies they make.
//!
//! In: the text of a locustfile. Out: a [`Program`], or every construct that cannot be run, by line. Invariant: nothing of
//! the file is run here; depth of nesting and size are bounded before they cost anything.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use ruff_python_ast::{Expr, Stmt};
use ruff_text_size::Ranged;

use super::code::{Body, Const, Instr, Program, Sym};
use super::modules;

#[path = "lower_expr.rs"]
mod expr;
#[path = "lower_names.rs"]
mod names;
#[path = "lower_stmt.rs"]
mod stmt;

/// The longest file that is read, bytes: the longest public one seen has 60 kB.
pub const FILE_LIMIT: usize = 512 * 1024;
/// How deep expressions and statements may nest.
const DEPTH_LIMIT: u32 = 120;
/// Stack of the thread that parses and compiles. Pages that are not touched cost nothing.
const STACK: usize = 1 << 30;

/// A construct that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The line, from 1.
    pub line: u32,
    /// What stands there and why it cannot be run.
    pub what: String,
}

/// Compiles a locustfile.
///
/// # Errors
/// All that cannot be run, by line.
pub fn compile(file: &str, directory: &Path, source: &str) -> Result<Program, Vec<Problem>> {
    if source.len() > FILE_LIMIT {
        return Err(vec![Problem { line: 1, what: format!("the file is longer than {FILE_LIMIT} bytes") }]);
    }
    // The parser recurses on a stack that it grows, but its tree is taken down by recursion: on a stack of its own.
    let work = || compile_here(file, directory, source);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("locustfile".into()).stack_size(STACK).spawn_scoped(scope, work);
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(vec![Problem { line: 1, what: "the parser failed on this file".into() }]),
            Err(e) => Err(vec![Problem { line: 1, what: format!("no thread to parse it on: {e}") }]),
        }
    })
}

fn compile_here(file: &str, directory: &Path, source: &str) -> Result<Program, Vec<Problem>> {
    let starts: Vec<usize> = std::iter::once(0).chain(source.match_indices('\n').map(|(i, _)| i + 1)).collect();
    if let Some(offset) = too_deep(source) {
        let line = starts.partition_point(|s| *s <= offset) as u32;
        return Err(vec![Problem { line, what: "nested too deep".into() }]);
    }
    let parsed = ruff_python_parser::parse_module(source).map_err(|e| {
        let line = starts.partition_point(|s| *s <= e.location.start().to_usize()) as u32;
        vec![Problem { line, what: format!("not Python 3: {}", e.error) }]
    })?;
    let module = parsed.into_syntax();
    let program = Program { file: file.into(), directory: directory.into(), ..Program::default() };
    let mut lower = Lower::new(starts, program);
    lower.module(&module.body);
    lower.finish()
}

/// Where brackets or chains of prefixes nest deeper than any real file's: the parser would follow them on a stack that it
/// grows without end.
fn too_deep(source: &str) -> Option<usize> {
    let (mut depth, mut run) = (0_u32, 0_u32);
    for (offset, byte) in source.bytes().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        run = if matches!(byte, b'-' | b'+' | b'~' | b'*')
            && !matches!(source.as_bytes().get(offset + 1), Some(b'-' | b'=' | b'*' | b'#'))
        {
            run + 1
        } else if byte == b' ' {
            run
        } else {
            0
        };
        if depth > 5000 || run > 5000 {
            return Some(offset);
        }
    }
    None
}

/// Where a variable lives.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Var {
    Local(u8, u16),
    Global(u32),
    Name(Sym),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScopeKind {
    Module,
    Class,
    Function,
}

/// A body under construction.
struct Scope<'a> {
    kind: ScopeKind,
    body: Body,
    /// Variables of a function by name, and names that a class body assigns.
    vars: HashMap<String, u16>,
    /// Names that `global` sends to the module, and `nonlocal` outwards.
    elsewhere: HashSet<String>,
    /// Names that a comprehension hides for its length.
    shadows: Vec<(String, Var)>,
    contexts: Vec<Context<'a>>,
    /// The exceptions being handled, for a bare `raise`.
    handling: Vec<Var>,
}

/// What a jump out of a statement has to undo.
#[derive(Clone)]
enum Context<'a> {
    Loop { breaks: Vec<usize>, again: u32, keeps_iterator: bool },
    Try,
    Finally(&'a [Stmt]),
    With(Var),
}

struct Lower<'a> {
    starts: Vec<usize>,
    program: Program,
    syms: HashMap<String, Sym>,
    globals: HashMap<String, u32>,
    /// Global names that an import we cannot follow binds: line and module.
    foreign: HashMap<String, (u32, String)>,
    /// Modules whose names are all there (`from x import *`).
    stars: Vec<u16>,
    /// Modules by the names the file gives them.
    aliases: HashMap<String, u16>,
    scopes: Vec<Scope<'a>>,
    problems: Vec<Problem>,
    /// Attributes that the file gives to something, and methods it calls.
    given: HashSet<String>,
    called: Vec<(String, u32)>,
    line: u32,
    depth: u32,
    in_try: u32,
}

impl<'a> Lower<'a> {
    fn new(starts: Vec<usize>, program: Program) -> Self {
        Lower {
            starts,
            program,
            syms: HashMap::new(),
            globals: HashMap::new(),
            foreign: HashMap::new(),
            stars: Vec::new(),
            aliases: HashMap::new(),
            scopes: Vec::new(),
            problems: Vec::new(),
            given: HashSet::new(),
            called: Vec::new(),
            line: 1,
            depth: 0,
            in_try: 0,
        }
    }

    fn module(&mut self, body: &'a [Stmt]) {
        let mut assigned = names::Assigned::default();
        assigned.statements(body);
        let mut all: Vec<String> = assigned.names.into_iter().chain(names::declared_global(body)).collect();
        all.sort();
        all.dedup();
        for name in all {
            self.global(&name);
        }
        // The module's body is the first, whatever is finished before it.
        self.program.bodies.push(Body::default());
        self.open(ScopeKind::Module, "<module>");
        self.statements(body);
        let none = self.constant(Const::None);
        self.emit(Instr::Const(none));
        self.emit(Instr::Return);
        if let Some(scope) = self.scopes.pop()
            && let Some(first) = self.program.bodies.first_mut()
        {
            *first = scope.body;
        }
    }

    fn finish(mut self) -> Result<Program, Vec<Problem>> {
        for (name, line) in std::mem::take(&mut self.called) {
            if !self.given.contains(&name) && !modules::is_known_method(&name) {
                self.problems
                    .push(Problem { line, what: format!("a call of .{name}(): no object here has such a method") });
            }
        }
        self.program.remarks.sort();
        self.problems.sort();
        self.problems.dedup();
        if self.problems.is_empty() { Ok(self.program) } else { Err(self.problems) }
    }

    // ---- tables ----

    fn sym(&mut self, name: &str) -> Sym {
        if let Some(sym) = self.syms.get(name) {
            return *sym;
        }
        let sym = Sym(self.program.names.len() as u32);
        self.program.names.push(name.to_owned());
        self.syms.insert(name.to_owned(), sym);
        sym
    }

    fn global(&mut self, name: &str) -> u32 {
        if let Some(slot) = self.globals.get(name) {
            return *slot;
        }
        let sym = self.sym(name);
        let slot = self.program.globals.len() as u32;
        self.program.globals.push(sym);
        self.globals.insert(name.to_owned(), slot);
        slot
    }

    fn constant(&mut self, value: Const) -> u32 {
        let same = |c: &Const| match (c, &value) {
            (Const::Float(a), Const::Float(b)) => a.to_bits() == b.to_bits(),
            (a, b) => a == b,
        };
        // Files are short: most constants are found among the last.
        if let Some(i) = self.program.consts.iter().rposition(same) {
            return i as u32;
        }
        self.program.consts.push(value);
        self.program.consts.len() as u32 - 1
    }

    fn text(&mut self, text: &str) -> u32 {
        self.constant(Const::Str(Arc::from(text)))
    }

    // ---- code ----

    fn scope(&mut self) -> &mut Scope<'a> {
        self.scopes.last_mut().expect("the module's scope is open while anything is compiled")
    }

    fn open(&mut self, kind: ScopeKind, name: &str) {
        self.scopes.push(Scope {
            kind,
            body: Body { name: name.to_owned(), ..Body::default() },
            vars: HashMap::new(),
            elsewhere: HashSet::new(),
            shadows: Vec::new(),
            contexts: Vec::new(),
            handling: Vec::new(),
        });
    }

    /// Ends the scope and returns its body's number.
    fn close(&mut self) -> u32 {
        if let Some(scope) = self.scopes.pop() {
            self.program.bodies.push(scope.body);
        }
        self.program.bodies.len() as u32 - 1
    }

    fn emit(&mut self, instr: Instr) {
        let line = self.line;
        let body = &mut self.scope().body;
        body.code.push(instr);
        body.lines.push(line);
    }

    fn here(&mut self) -> u32 {
        self.scope().body.code.len() as u32
    }

    /// A jump whose target comes later: its place, for [`Self::land`].
    fn jump(&mut self, instr: Instr) -> usize {
        self.emit(instr);
        self.scope().body.code.len() - 1
    }

    /// Makes the jump at `at` go here.
    fn land(&mut self, at: usize) {
        let target = self.here();
        let Some(instr) = self.scope().body.code.get_mut(at) else { return };
        match instr {
            Instr::Jump(to)
            | Instr::JumpIfFalse(to)
            | Instr::JumpIfTrue(to)
            | Instr::JumpIfFalseKeep(to)
            | Instr::JumpIfTrueKeep(to)
            | Instr::Next(to)
            | Instr::Try(to) => *to = target,
            _ => {}
        }
    }

    // ---- names ----

    /// A variable without a name in the source.
    fn fresh(&mut self) -> Var {
        let kind = self.scope().kind;
        match kind {
            ScopeKind::Function => {
                let body = &mut self.scope().body;
                body.slots = body.slots.saturating_add(1);
                Var::Local(0, body.slots - 1)
            }
            ScopeKind::Module => {
                let name = format!(".{}", self.program.globals.len());
                Var::Global(self.global(&name))
            }
            ScopeKind::Class => {
                let name = format!(".{}", self.program.names.len());
                Var::Name(self.sym(&name))
            }
        }
    }

    /// Where a name that is read lives; `None`: nowhere in the file.
    fn resolve(&self, name: &str) -> Option<Var> {
        let mut out = 0_u8;
        for (i, scope) in self.scopes.iter().enumerate().rev() {
            let innermost = i + 1 == self.scopes.len();
            if let Some((_, var)) = scope.shadows.iter().rev().find(|(n, _)| n == name) {
                match var {
                    Var::Local(_, slot) => return Some(Var::Local(out, *slot)),
                    Var::Global(slot) => return Some(Var::Global(*slot)),
                    Var::Name(_) if innermost => return Some(*var),
                    Var::Name(_) => {}
                }
            }
            match scope.kind {
                ScopeKind::Function => {
                    if !scope.elsewhere.contains(name)
                        && let Some(slot) = scope.vars.get(name)
                    {
                        return Some(Var::Local(out, *slot));
                    }
                    out = out.saturating_add(1);
                }
                ScopeKind::Class if innermost && scope.vars.contains_key(name) => {
                    let sym = self.syms.get(name)?;
                    return Some(Var::Name(*sym));
                }
                _ => {}
            }
        }
        self.globals.get(name).map(|slot| Var::Global(*slot))
    }

    fn load_var(&mut self, var: Var, name: &str) {
        match var {
            Var::Local(out, slot) => self.emit(Instr::Load(out, slot)),
            Var::Global(slot) => self.emit(Instr::LoadGlobal(slot)),
            Var::Name(sym) => {
                let outer = self.globals.get(name).copied().unwrap_or(u32::MAX);
                self.emit(Instr::LoadName(sym, outer));
            }
        }
    }

    fn store_var(&mut self, var: Var) {
        match var {
            Var::Local(out, slot) => self.emit(Instr::Store(out, slot)),
            Var::Global(slot) => self.emit(Instr::StoreGlobal(slot)),
            Var::Name(sym) => self.emit(Instr::StoreName(sym)),
        }
    }

    fn load(&mut self, name: &str) {
        if let Some(var) = self.resolve(name) {
            if matches!(var, Var::Global(_))
                && let Some((line, module)) = self.foreign.get(name)
            {
                let what = format!("import of {module}: not built in here (used on line {})", self.line);
                let problem = Problem { line: *line, what };
                if !self
                    .problems
                    .iter()
                    .any(|p| p.line == problem.line && p.what.starts_with(&format!("import of {module}:")))
                {
                    self.problems.push(problem);
                }
            }
            self.load_var(var, name);
        } else if let Some(number) = modules::builtin(name) {
            self.emit(Instr::LoadBuiltin(number));
        } else if let Some(module) = self.stars.iter().copied().find(|m| modules::has(*m, name)) {
            let sym = self.sym(name);
            self.emit(Instr::LoadModule(module));
            self.emit(Instr::Attr(sym));
        } else if name == "__name__" || name == "__file__" {
            let text = if name == "__name__" {
                "locustfile".to_owned()
            } else {
                self.program.directory.join(&self.program.file).display().to_string()
            };
            let text = self.text(&text);
            self.emit(Instr::Const(text));
        } else {
            self.refuse(format!("the name {name}: nothing here is called so"));
        }
    }

    fn store(&mut self, name: &str) {
        let in_module = self.scope().kind == ScopeKind::Module;
        let elsewhere = self.scope().elsewhere.contains(name);
        if elsewhere && self.program.shared_state.is_none() {
            self.program.shared_state = Some((self.line, format!("'{name}' is changed")));
        }
        match self.resolve(name) {
            Some(var) => self.store_var(var),
            None if in_module => {
                let slot = self.global(name);
                self.emit(Instr::StoreGlobal(slot));
            }
            None => self.refuse(format!("the name {name} is assigned where it cannot be")),
        }
    }

    // ---- trouble ----

    /// Notes what cannot be run, and keeps the stack in balance where a value is expected.
    fn refuse(&mut self, what: String) {
        let problem = Problem { line: self.line, what };
        if self.problems.len() < 100 {
            self.problems.push(problem);
        }
        let none = self.constant(Const::None);
        self.emit(Instr::Const(none));
    }

    fn refuse_statement(&mut self, what: &str) {
        if self.problems.len() < 100 {
            self.problems.push(Problem { line: self.line, what: what.to_owned() });
        }
    }

    fn at(&mut self, node: &impl Ranged) {
        let offset = node.range().start().to_usize();
        self.line = self.starts.partition_point(|s| *s <= offset) as u32;
    }

    /// Goes one level deeper, unless that is too deep.
    fn deeper(&mut self, work: impl FnOnce(&mut Self)) -> bool {
        if self.depth >= DEPTH_LIMIT {
            self.refuse_statement("nested too deep");
            return false;
        }
        self.depth += 1;
        work(self);
        self.depth -= 1;
        true
    }

    /// The function that the innermost `def` around makes has a first parameter (for `super()`).
    fn first_parameter(&self) -> Option<Var> {
        let scope = self.scopes.last()?;
        (scope.kind == ScopeKind::Function && !scope.body.params.is_empty()).then_some(Var::Local(0, 0))
    }

    fn is_module_alias(&self, value: &Expr) -> Option<u16> {
        let name = value.as_name_expr()?;
        match self.resolve(name.id.as_str()) {
            Some(Var::Global(_)) => self.aliases.get(name.id.as_str()).copied(),
            _ => None,
        }
    }
}
