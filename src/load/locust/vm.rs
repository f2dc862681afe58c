//! The stack machine: runs bodies until they end, raise, or want something of the engine.
//!
//! Invariants: the whole state of a running function is in [`Thread`], so that it can be left anywhere and taken up again;
//! steps, memory, depth of calls and the size of each operation are bounded, and what passes a bound ends the task and
//! cannot be caught by the file.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use indexmap::IndexMap;

use super::border::{Effect, Exception};
use super::code::{Binary, Const, Instr, Program, Sym};
use super::modules;
use super::ops::{self, truth, type_error};
use super::value::{Class, ClassKind, Dict, Env, Func, Iter, Key, Kids, List, Object, Text, Value, live_bytes};
use crate::load::chance::Chance;

#[path = "vm_calls.rs"]
mod calls;

/// What a call of the machine brings.
pub type R<T> = Result<T, Raise>;

/// Why something did not end in a value.
#[derive(Debug)]
pub enum Raise {
    /// An exception of the file.
    Python(Value),
    /// An exception that has no object yet: its class and text.
    Named(&'static str, String),
    /// Something is wanted of the engine.
    Suspend(Box<Effect>),
    /// A bound was passed.
    Fatal(String),
}

/// An exception of a built-in class.
pub fn raise(class: &'static str, message: impl Into<String>) -> Raise {
    Raise::Named(class, message.into())
}

/// A built-in function.
pub struct Native {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub call: fn(&mut Vm<'_>, Args) -> R<Value>,
}

impl std::fmt::Debug for Native {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// The arguments of a call.
#[derive(Debug, Default)]
pub struct Args {
    /// By place.
    pub pos: Vec<Value>,
    /// By name.
    pub kw: Vec<(Sym, Value)>,
}

impl Args {
    /// Only by place.
    pub fn of(pos: Vec<Value>) -> Self {
        Args { pos, kw: Vec::new() }
    }
}

/// Bounds of a machine.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Steps of a user between two effects.
    pub steps: u64,
    /// Steps until others have their turn.
    pub slice: u32,
    /// What the values of a thread may hold together, bytes.
    pub memory: usize,
    /// How deep calls nest.
    pub frames: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { steps: 50_000_000, slice: 20_000, memory: 1 << 30, frames: 150 }
    }
}

/// What all users of a thread share: the module's variables and the classes.
#[derive(Debug)]
pub struct Machine {
    /// The file.
    pub program: Arc<Program>,
    pub(super) consts: Vec<Value>,
    pub(super) names: Vec<Rc<str>>,
    pub(super) syms: HashMap<Rc<str>, Sym>,
    pub(super) globals: Vec<Option<Value>>,
    pub(super) classes: Vec<Rc<Class>>,
    pub(super) environment: Option<Rc<Object>>,
    pub(super) listeners: Vec<(Sym, Value)>,
    pub(super) log: VecDeque<String>,
    pub(super) limits: Limits,
}

/// How many lines of output are kept.
const LOG_LINES: usize = 1000;

impl Machine {
    pub(super) fn blank(program: Arc<Program>, limits: Limits) -> Self {
        let mut machine = Machine {
            consts: Vec::new(),
            names: Vec::new(),
            syms: HashMap::new(),
            globals: vec![None; program.globals.len()],
            classes: Vec::new(),
            environment: None,
            listeners: Vec::new(),
            log: VecDeque::new(),
            limits,
            program: program.clone(),
        };
        for name in &program.names {
            let name: Rc<str> = Rc::from(name.as_str());
            machine.syms.insert(name.clone(), Sym(machine.names.len() as u32));
            machine.names.push(name);
        }
        machine.consts = program.consts.iter().map(|c| machine.materialize(c)).collect();
        for (name, base, kind) in modules::CLASSES {
            let bases = machine.classes.iter().filter(|c| c.name == *base).cloned().collect();
            machine.classes.push(Rc::new(Class {
                name: (*name).to_owned(),
                bases,
                kind: *kind,
                attrs: RefCell::default(),
                tasks: RefCell::default(),
                marks: RefCell::default(),
                own: false,
            }));
        }
        machine
    }

    fn materialize(&self, constant: &Const) -> Value {
        match constant {
            Const::None => Value::None,
            Const::Bool(b) => Value::Bool(*b),
            Const::Int(n) => Value::Int(*n),
            Const::Float(x) => Value::Float(*x),
            Const::Str(s) => Value::Str(Rc::new(Text::new(&**s))),
            Const::Bytes(b) => Value::Bytes(Rc::from(&**b)),
            // Names of arguments are only read by the instruction that makes a call.
            Const::Names(_) => Value::None,
        }
    }

    /// The number of a name.
    pub(super) fn sym(&mut self, name: &str) -> Sym {
        if let Some(sym) = self.syms.get(name) {
            return *sym;
        }
        let (sym, name) = (Sym(self.names.len() as u32), Rc::<str>::from(name));
        self.syms.insert(name.clone(), sym);
        self.names.push(name);
        sym
    }

    /// The name of a number.
    pub(super) fn name(&self, sym: Sym) -> Rc<str> {
        self.names.get(sym.0 as usize).cloned().unwrap_or_else(|| Rc::from("?"))
    }

    pub(super) fn class(&self, name: &str) -> Option<Rc<Class>> {
        self.classes.iter().find(|c| c.name == name).cloned()
    }

    /// Makes an exception.
    pub(super) fn exception(&mut self, class: &str, message: &str) -> Value {
        let args = self.sym("args");
        let class = self.class(class).or_else(|| self.class("Exception"));
        let value = Value::tuple(vec![Value::str(message)]);
        match class {
            Some(class) => Value::Object(Rc::new(Object { class, attrs: RefCell::new(vec![(args, value)]) })),
            None => Value::None,
        }
    }

    /// Keeps a line of output, the newest thousand.
    pub(super) fn say(&mut self, line: String) {
        if self.log.len() >= LOG_LINES {
            self.log.pop_front();
        }
        let end = line.char_indices().nth(2000).map_or(line.len(), |(i, _)| i);
        self.log.push_back(line.get(..end).unwrap_or_default().to_owned());
    }
}

/// A running function.
#[derive(Debug)]
struct Frame {
    body: u32,
    pc: u32,
    base: usize,
    env: Rc<Env>,
    tries: Vec<(u32, usize)>,
    func: Option<Rc<Func>>,
    /// What a class body assigns.
    names: Option<Box<(IndexMap<Sym, Value>, Vec<Rc<Class>>)>>,
    /// The object whose `__init__` this is: the call's value.
    made: Option<Value>,
}

/// What a suspended function waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Awaits {
    /// Nothing: it goes on.
    #[default]
    Nothing,
    /// A value, which is `None`.
    Go,
    /// An answer.
    Response,
}

/// The running functions of a user.
#[derive(Debug, Default)]
pub struct Thread {
    stack: Vec<Value>,
    frames: Vec<Frame>,
    steps: u64,
    pub(super) awaits: Awaits,
    pub(super) traceback: Vec<(String, u32)>,
}

impl Thread {
    /// Gives up whatever runs.
    pub(super) fn clear(&mut self) {
        *self = Thread::default();
    }

    pub(super) fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    pub(super) fn is_running(&self) -> bool {
        !self.frames.is_empty()
    }
}

impl Raise {
    /// The name of the exception's class, and its text if it is made from one.
    pub(super) fn class_of(raised: &Raise) -> (String, Option<String>) {
        match raised {
            Raise::Named(class, text) => ((*class).to_owned(), Some(text.clone())),
            Raise::Python(value @ Value::Object(o)) => {
                let base = ["StopUser", "RescheduleTask", "RescheduleTaskImmediately", "InterruptTaskSet"];
                let named = base.iter().find(|b| o.class.is_named(b)).map_or(o.class.name.clone(), |b| (*b).to_owned());
                (named, super::format::text(value).ok())
            }
            _ => (String::new(), None),
        }
    }
}

/// A machine at work for a user.
pub struct Vm<'a> {
    /// What all share.
    pub m: &'a mut Machine,
    /// What runs.
    pub t: &'a mut Thread,
    /// Where chance comes from.
    pub chance: &'a mut Chance,
    /// Now, on the clock that never jumps, ns.
    pub now_ns: u64,
    /// Now, in the world's time, µs since 1970.
    pub wall_us: i64,
    /// How deep built-in functions call back.
    pub(super) nested: u32,
}

impl std::fmt::Debug for Vm<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vm").field("thread", &self.t).finish_non_exhaustive()
    }
}

/// What one instruction led to.
enum Step {
    On,
    Returned(Value),
}

impl Vm<'_> {
    /// Starts a function: [`Self::go`] runs it.
    pub(super) fn begin(&mut self, function: &Value, args: Args) -> R<Option<Value>> {
        let before = self.t.frames.len();
        self.t.steps = 0;
        self.invoke(function.clone(), args)?;
        Ok(if self.t.frames.len() == before { self.t.stack.pop() } else { None })
    }

    /// Runs until everything on the thread has ended.
    pub(super) fn go(&mut self) -> R<Value> {
        self.run(0)
    }

    pub(super) fn fresh_steps(&mut self) {
        self.t.steps = 0;
    }

    /// Calls a function and runs it to its end at once; it may want nothing of the engine.
    pub fn call_now(&mut self, function: &Value, args: Args) -> R<Value> {
        if self.nested >= 12 {
            return Err(raise("RecursionError", "built-in functions call back too deep"));
        }
        let floor = self.t.frames.len();
        self.nested += 1;
        let result = match self.invoke(function.clone(), args) {
            Ok(()) if self.t.frames.len() == floor => self.t.stack.pop().ok_or_else(|| bug("no result")),
            Ok(()) => self.run(floor),
            Err(e) => Err(e),
        };
        self.nested -= 1;
        match result {
            Err(Raise::Suspend(_)) => {
                let base = self.t.frames.get(floor).map(|f| f.base);
                self.t.frames.truncate(floor);
                if let Some(base) = base {
                    self.t.stack.truncate(base);
                }
                self.t.awaits = Awaits::Nothing;
                Err(raise(
                    "RuntimeError",
                    "a request or a pause in this place (a callback, a property) is not supported here",
                ))
            }
            other => other,
        }
    }

    fn run(&mut self, floor: usize) -> R<Value> {
        let mut slice = self.m.limits.slice;
        loop {
            if slice == 0 {
                self.t.steps += u64::from(self.m.limits.slice);
                slice = self.m.limits.slice;
                if self.t.steps > self.m.limits.steps {
                    let limit = self.m.limits.steps;
                    return self.fatal(floor, format!("more than {limit} steps without a request or a pause"));
                }
                if live_bytes() > self.m.limits.memory {
                    let limit = self.m.limits.memory;
                    return self.fatal(floor, format!("the users of a thread hold more than {limit} bytes"));
                }
                if self.nested == 0 {
                    self.t.awaits = Awaits::Nothing;
                    return Err(Raise::Suspend(Box::new(Effect::Yield)));
                }
            }
            slice -= 1;
            match self.step() {
                Ok(Step::On) => {}
                Ok(Step::Returned(value)) => {
                    if self.t.frames.len() <= floor {
                        return Ok(value);
                    }
                    self.t.stack.push(value);
                }
                Err(Raise::Suspend(effect)) => return Err(Raise::Suspend(effect)),
                Err(Raise::Fatal(why)) => return self.fatal(floor, why),
                Err(raised) => {
                    // An exception costs more than a step, and a loop of them must come to its turn's end.
                    slice = slice.saturating_sub(20);
                    let exception = self.object_of(raised);
                    self.unwind(exception, floor)?;
                }
            }
        }
    }

    fn fatal(&mut self, floor: usize, why: String) -> R<Value> {
        self.t.traceback = self.trace();
        let base = self.t.frames.get(floor).map(|f| f.base);
        self.t.frames.truncate(floor);
        if let Some(base) = base {
            self.t.stack.truncate(base);
        }
        Err(Raise::Fatal(why))
    }

    fn trace(&self) -> Vec<(String, u32)> {
        let frames = self.t.frames.iter().rev().take(20).rev();
        frames
            .map(|f| {
                let body = self.m.program.bodies.get(f.body as usize);
                let line = body.and_then(|b| b.lines.get((f.pc as usize).saturating_sub(1))).copied().unwrap_or(0);
                (body.map(|b| b.name.clone()).unwrap_or_default(), line)
            })
            .collect()
    }

    /// The exception object of what was raised.
    pub(super) fn object_of(&mut self, raised: Raise) -> Value {
        match raised {
            Raise::Python(value) => value,
            Raise::Named(class, message) => self.m.exception(class, &message),
            Raise::Fatal(message) => self.m.exception("RuntimeError", &message),
            Raise::Suspend(_) => self.m.exception("RuntimeError", "suspended"),
        }
    }

    /// Goes to the handler of an exception, or ends the functions above `floor`.
    fn unwind(&mut self, exception: Value, floor: usize) -> R<()> {
        let trace = self.trace();
        while self.t.frames.len() > floor {
            let Some(frame) = self.t.frames.last_mut() else { break };
            if let Some((target, height)) = frame.tries.pop() {
                frame.pc = target;
                self.t.stack.truncate(height);
                self.t.stack.push(exception);
                return Ok(());
            }
            let base = frame.base;
            self.t.frames.pop();
            self.t.stack.truncate(base);
        }
        self.t.traceback = trace;
        Err(Raise::Python(exception))
    }

    /// An exception that nothing caught, for the engine.
    pub(super) fn exception_of(&mut self, raised: Raise) -> Exception {
        let message = match raised {
            Raise::Fatal(why) => why,
            other => {
                let value = self.object_of(other);
                super::format::repr(&value).unwrap_or_else(|_| "an exception".into())
            }
        };
        Exception { message, traceback: std::mem::take(&mut self.t.traceback) }
    }

    fn pop(&mut self) -> R<Value> {
        self.t.stack.pop().ok_or_else(|| bug("the stack is empty"))
    }

    fn pop_many(&mut self, n: usize) -> R<Vec<Value>> {
        let at = self.t.stack.len().checked_sub(n).ok_or_else(|| bug("the stack is short"))?;
        Ok(self.t.stack.split_off(at))
    }

    fn peek(&self, below: usize) -> R<&Value> {
        let at = self.t.stack.len().checked_sub(below + 1);
        at.and_then(|at| self.t.stack.get(at)).ok_or_else(|| bug("the stack is short"))
    }

    fn push(&mut self, value: Value) -> Step {
        self.t.stack.push(value);
        Step::On
    }

    fn jump(&mut self, target: u32) {
        if let Some(frame) = self.t.frames.last_mut() {
            frame.pc = target;
        }
    }

    fn names_of(&self, constant: u32) -> Vec<Sym> {
        match self.m.program.consts.get(constant as usize) {
            Some(Const::Names(names)) => names.clone(),
            _ => Vec::new(),
        }
    }

    fn args(&mut self, count: u16, names: u32) -> R<Args> {
        let mut pos = self.pop_many(count as usize)?;
        let names = if names == u32::MAX { Vec::new() } else { self.names_of(names) };
        let at = pos.len().saturating_sub(names.len());
        let kw = names.into_iter().zip(pos.split_off(at)).collect();
        Ok(Args { pos, kw })
    }

    fn variable(&self, out: u8, slot: u16) -> R<Value> {
        let frame = self.t.frames.last().ok_or_else(|| bug("no frame"))?;
        let mut env = &frame.env;
        for _ in 0..out {
            env = env.outer.as_ref().ok_or_else(|| bug("no outer function"))?;
        }
        let found = env.slots.borrow().get(slot as usize).cloned().flatten();
        found.ok_or_else(|| raise("UnboundLocalError", "a variable is used before it has a value"))
    }

    fn set_variable(&self, out: u8, slot: u16, value: Option<Value>) -> R<()> {
        let frame = self.t.frames.last().ok_or_else(|| bug("no frame"))?;
        let mut env = &frame.env;
        for _ in 0..out {
            env = env.outer.as_ref().ok_or_else(|| bug("no outer function"))?;
        }
        let old = env.slots.borrow_mut().get_mut(slot as usize).map(|s| std::mem::replace(s, value));
        drop(old);
        Ok(())
    }

    fn step(&mut self) -> R<Step> {
        let frame = self.t.frames.last_mut().ok_or_else(|| bug("no frame"))?;
        let program = &self.m.program;
        let body = program.bodies.get(frame.body as usize).ok_or_else(|| bug("no body"))?;
        let instr = *body.code.get(frame.pc as usize).ok_or_else(|| bug("beyond the code"))?;
        frame.pc += 1;
        match instr {
            Instr::Const(i) => {
                let value = self.m.consts.get(i as usize).cloned().unwrap_or(Value::None);
                return Ok(self.push(value));
            }
            Instr::Load(out, slot) => {
                let value = self.variable(out, slot)?;
                return Ok(self.push(value));
            }
            Instr::Store(out, slot) => {
                let value = self.pop()?;
                self.set_variable(out, slot, Some(value))?;
            }
            Instr::Delete(out, slot) => self.set_variable(out, slot, None)?,
            Instr::LoadGlobal(slot) => {
                let value = self.global(slot)?;
                return Ok(self.push(value));
            }
            Instr::StoreGlobal(slot) => {
                let value = self.pop()?;
                if let Some(global) = self.m.globals.get_mut(slot as usize) {
                    drop(global.replace(value));
                }
            }
            Instr::DeleteGlobal(slot) => {
                if let Some(global) = self.m.globals.get_mut(slot as usize) {
                    drop(global.take());
                }
            }
            Instr::LoadName(sym, slot) => {
                let own = self.t.frames.last().and_then(|f| f.names.as_ref()).and_then(|n| n.0.get(&sym).cloned());
                let value = match own {
                    Some(value) => value,
                    None => self.global(slot)?,
                };
                return Ok(self.push(value));
            }
            Instr::StoreName(sym) => {
                let value = self.pop()?;
                if let Some(names) = self.t.frames.last_mut().and_then(|f| f.names.as_mut()) {
                    names.0.insert(sym, value);
                }
            }
            Instr::LoadBuiltin(number) => {
                let value = modules::builtin_value(self.m, number).ok_or_else(|| bug("no such builtin"))?;
                return Ok(self.push(value));
            }
            Instr::LoadModule(number) => return Ok(self.push(Value::Module(number))),
            Instr::Attr(sym) => {
                let object = self.pop()?;
                let value = self.attr(&object, sym)?;
                return Ok(self.push(value));
            }
            Instr::StoreAttr(sym) => {
                let object = self.pop()?;
                let value = self.pop()?;
                self.set_attr(&object, sym, value)?;
            }
            Instr::DeleteAttr(sym) => {
                if let Value::Object(o) = self.pop()? {
                    let gone: Vec<_> = o.attrs.borrow_mut().extract_if(.., |(n, _)| *n == sym).collect();
                    drop(gone);
                }
            }
            Instr::Index => {
                let at = self.pop()?;
                let object = self.pop()?;
                let value = self.index(&object, &at)?;
                return Ok(self.push(value));
            }
            Instr::StoreIndex => {
                let at = self.pop()?;
                let object = self.pop()?;
                let value = self.pop()?;
                store_index(&object, &at, value)?;
            }
            Instr::DeleteIndex => {
                let at = self.pop()?;
                let object = self.pop()?;
                delete_index(&object, &at)?;
            }
            Instr::Slice => {
                let parts: [Value; 3] = self.pop_many(3)?.try_into().map_err(|_| bug("no slice"))?;
                return Ok(self.push(Value::Slice(Rc::new(parts))));
            }
            Instr::List(n) => {
                let values = self.pop_many(n as usize)?;
                return Ok(self.push(Value::list(values)));
            }
            Instr::Tuple(n) => {
                let values = self.pop_many(n as usize)?;
                return Ok(self.push(Value::tuple(values)));
            }
            Instr::Set(n) => {
                let values = self.pop_many(n as usize)?;
                let mut map = IndexMap::new();
                for value in values {
                    map.insert(ops::key(&value)?, Value::None);
                }
                return Ok(self.push(Value::Set(Rc::new(Dict::new(map)))));
            }
            Instr::Dict(n) => {
                let mut values = self.pop_many(n as usize * 2)?.into_iter();
                let mut map = IndexMap::with_capacity(n as usize);
                while let (Some(key), Some(value)) = (values.next(), values.next()) {
                    map.insert(ops::key(&key)?, value);
                }
                return Ok(self.push(Value::dict(map)));
            }
            Instr::Append(below) => {
                let value = self.pop()?;
                if let Value::List(list) = self.peek(below as usize)? {
                    push_to(list, value)?;
                }
            }
            Instr::Insert(below) => {
                let key = ops::key(&self.pop()?)?;
                if let Value::Set(set) = self.peek(below as usize)? {
                    put(set, key, Value::None)?;
                }
            }
            Instr::Put(below) => {
                let value = self.pop()?;
                let key = ops::key(&self.pop()?)?;
                if let Value::Dict(dict) = self.peek(below as usize)? {
                    put(dict, key, value)?;
                }
            }
            Instr::Extend => {
                let more = self.pop()?;
                let more = self.all_of(&more)?;
                if let Value::List(list) = self.peek(0)? {
                    extend(list, more)?;
                }
            }
            Instr::Merge => {
                let more = self.pop()?;
                let (Value::Dict(dict), Value::Dict(more)) = (self.peek(0)?, &more) else {
                    return Err(type_error("** needs a dict"));
                };
                let more: Vec<_> = more.map.borrow().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                for (key, value) in more {
                    put(dict, key, value)?;
                }
            }
            Instr::Join(n) => {
                let parts = self.pop_many(n as usize)?;
                ops::fits(parts.iter().filter_map(Value::as_str).map(str::len).sum())?;
                let text: String = parts.iter().filter_map(Value::as_str).collect();
                return Ok(self.push(Value::string(text)));
            }
            Instr::Format(conversion, has_spec) => {
                let spec = if has_spec { Some(self.pop()?) } else { None };
                let mut value = self.pop()?;
                if conversion == b'r' || conversion == b'a' {
                    value = Value::string(super::format::repr(&value)?);
                } else if matches!(value, Value::Object(_)) {
                    value = self.text_of(&value)?;
                }
                let text = super::format::format(&value, spec.as_ref().and_then(Value::as_str).unwrap_or(""))?;
                return Ok(self.push(Value::string(text)));
            }
            Instr::Binary(op) => {
                let b = self.pop()?;
                let a = self.pop()?;
                let value = self.binary(op, &a, &b)?;
                return Ok(self.push(value));
            }
            Instr::InPlace(op) => {
                let b = self.pop()?;
                let a = self.pop()?;
                if let (Binary::Add, Value::List(list)) = (op, &a) {
                    let more = self.all_of(&b)?;
                    extend(list, more)?;
                    return Ok(self.push(a));
                }
                let value = self.binary(op, &a, &b)?;
                return Ok(self.push(value));
            }
            Instr::Unary(op) => {
                let a = self.pop()?;
                let value = ops::unary(op, &a)?;
                return Ok(self.push(value));
            }
            Instr::Jump(to) => self.jump(to),
            Instr::JumpIfFalse(to) => {
                if !truth(&self.pop()?) {
                    self.jump(to);
                }
            }
            Instr::JumpIfTrue(to) => {
                if truth(&self.pop()?) {
                    self.jump(to);
                }
            }
            Instr::JumpIfFalseKeep(to) => {
                if truth(self.peek(0)?) {
                    self.pop()?;
                } else {
                    self.jump(to);
                }
            }
            Instr::JumpIfTrueKeep(to) => {
                if truth(self.peek(0)?) {
                    self.jump(to);
                } else {
                    self.pop()?;
                }
            }
            Instr::Iter => {
                let value = self.pop()?;
                let iter = self.iter(&value)?;
                return Ok(self.push(iter));
            }
            Instr::Next(to) => {
                let Value::Iter(iter) = self.peek(0)?.clone() else { return Err(bug("no iterator")) };
                if let Some(value) = advance(&iter) { return Ok(self.push(value)) }
                self.pop()?;
                self.jump(to);
            }
            Instr::Unpack(n) => {
                let value = self.pop()?;
                let values = self.all_of(&value)?;
                if values.len() != n as usize {
                    let message =
                        format!("not enough or too many values to unpack (expected {n}, got {})", values.len());
                    return Err(raise("ValueError", message));
                }
                self.t.stack.extend(values.into_iter().rev());
            }
            Instr::UnpackStar(first, last) => {
                let value = self.pop()?;
                let mut values = self.all_of(&value)?;
                let (first, last) = (first as usize, last as usize);
                if values.len() < first + last {
                    return Err(raise("ValueError", "not enough values to unpack"));
                }
                let tail = values.split_off(values.len() - last);
                let middle = values.split_off(first);
                self.t.stack.extend(tail.into_iter().rev());
                self.t.stack.push(Value::list(middle));
                self.t.stack.extend(values.into_iter().rev());
            }
            Instr::Call(count, names) => {
                let args = self.args(count, names)?;
                let callee = self.pop()?;
                self.invoke(callee, args)?;
            }
            Instr::CallMethod(sym, count, names) => {
                let args = self.args(count, names)?;
                let object = self.pop()?;
                self.call_method(object, sym, args)?;
            }
            Instr::CallSpread => {
                let (kw, pos, callee) = (self.pop()?, self.pop()?, self.pop()?);
                let pos = self.all_of(&pos)?;
                let mut args = Args::of(pos);
                if let Value::Dict(kw) = kw {
                    let entries: Vec<_> = kw.map.borrow().iter().map(|(k, v)| (k.0.clone(), v.clone())).collect();
                    for (key, value) in entries {
                        let name = key.as_str().ok_or_else(|| type_error("keywords must be strings"))?;
                        args.kw.push((self.m.sym(name), value));
                    }
                }
                self.invoke(callee, args)?;
            }
            Instr::Function(body, count) => {
                let defaults = Kids::new(self.pop_many(count as usize)?);
                let env = self.t.frames.last().map(|frame| frame.env.clone());
                let func = Func {
                    body,
                    env,
                    defaults,
                    keyword_defaults: RefCell::default(),
                    marks: RefCell::default(),
                    owner: RefCell::default(),
                };
                return Ok(self.push(Value::Func(Rc::new(func))));
            }
            Instr::KeywordDefaults(names) => {
                let names = self.names_of(names);
                if let Value::Func(f) = self.peek(0)? {
                    let at = f.defaults.len().saturating_sub(names.len());
                    let values = f.defaults.get(at..).unwrap_or_default().to_vec();
                    *f.keyword_defaults.borrow_mut() = names.into_iter().zip(values).collect();
                }
            }
            Instr::Class(body, count) => self.class_body(body, count)?,
            Instr::Try(target) => {
                let height = self.t.stack.len();
                if let Some(frame) = self.t.frames.last_mut() {
                    frame.tries.push((target, height));
                }
            }
            Instr::EndTry => {
                if let Some(frame) = self.t.frames.last_mut() {
                    frame.tries.pop();
                }
            }
            Instr::Raise => {
                let value = self.pop()?;
                let value = match value {
                    Value::Class(_) => self.call_now(&value, Args::default())?,
                    value => value,
                };
                return Err(match &value {
                    Value::Object(o) if o.class.kind == ClassKind::Exception => Raise::Python(value),
                    _ => type_error("exceptions must derive from BaseException"),
                });
            }
            Instr::Matches => {
                let class = self.pop()?;
                let is = is_instance(self.peek(0)?, &class);
                return Ok(self.push(Value::Bool(is)));
            }
            Instr::Enter => {
                let manager = self.peek(0)?.clone();
                let value = self.enter(&manager)?;
                return Ok(self.push(value));
            }
            Instr::Leave => {
                let manager = self.pop()?;
                self.exit(&manager, None)?;
            }
            Instr::LeaveRaising => {
                let exception = self.pop()?;
                let manager = self.pop()?;
                // Both results stand on the stack before the verdict goes out, since going on does not come back here.
                self.t.stack.push(exception.clone());
                let swallowed = self.swallows(&manager, &exception)?;
                self.t.stack.push(Value::Bool(swallowed));
                if matches!(manager, Value::Response(_)) {
                    self.exit(&manager, Some(&exception))?;
                }
            }
            Instr::Dup => {
                let value = self.peek(0)?.clone();
                return Ok(self.push(value));
            }
            Instr::Dup2 => {
                let (a, b) = (self.peek(1)?.clone(), self.peek(0)?.clone());
                self.t.stack.push(a);
                self.t.stack.push(b);
            }
            Instr::Pop => drop(self.pop()?),
            Instr::Swap => {
                let (b, a) = (self.pop()?, self.pop()?);
                self.t.stack.push(b);
                self.t.stack.push(a);
            }
            Instr::Rot3 => {
                let (c, b, a) = (self.pop()?, self.pop()?, self.pop()?);
                self.t.stack.push(c);
                self.t.stack.push(a);
                self.t.stack.push(b);
            }
            Instr::Return => return self.leave_frame(),
        }
        Ok(Step::On)
    }

    fn global(&self, slot: u32) -> R<Value> {
        let found = self.m.globals.get(slot as usize).cloned().flatten();
        found.ok_or_else(|| {
            let name = self.m.program.globals.get(slot as usize).map(|s| self.m.name(*s));
            raise("NameError", format!("name '{}' is not defined", name.as_deref().unwrap_or("?")))
        })
    }

    fn leave_frame(&mut self) -> R<Step> {
        let mut value = self.pop()?;
        let frame = self.t.frames.pop().ok_or_else(|| bug("no frame"))?;
        self.t.stack.truncate(frame.base);
        if let Some(names) = frame.names {
            let (attrs, bases) = *names;
            value = self.make_class(frame.body, attrs, bases)?;
        } else if let Some(made) = frame.made {
            value = made;
        }
        Ok(Step::Returned(value))
    }

    /// All elements of something iterable.
    pub fn all_of(&mut self, value: &Value) -> R<Vec<Value>> {
        match value {
            Value::List(l) => Ok(l.0.borrow().to_vec()),
            Value::Tuple(t) => Ok(t.to_vec()),
            _ => {
                let Value::Iter(iter) = self.iter(value)? else { return Err(bug("no iterator")) };
                let mut all = Vec::new();
                while let Some(value) = advance(&iter) {
                    all.push(value);
                    ops::fits(all.len())?;
                }
                Ok(all)
            }
        }
    }

    /// An iterator over a value.
    pub fn iter(&mut self, value: &Value) -> R<Value> {
        let iter = match value {
            Value::Iter(_) => return Ok(value.clone()),
            Value::List(l) => Iter::List(l.clone(), 0),
            Value::Tuple(t) => Iter::Values(t.to_vec().into_iter()),
            Value::Str(s) => {
                Iter::Values(s.chars().map(|c| Value::string(c.to_string())).collect::<Vec<_>>().into_iter())
            }
            Value::Bytes(b) => {
                Iter::Values(b.iter().map(|b| Value::Int(i64::from(*b))).collect::<Vec<_>>().into_iter())
            }
            Value::Dict(d) | Value::Set(d) => {
                Iter::Values(d.map.borrow().keys().map(|k| k.0.clone()).collect::<Vec<_>>().into_iter())
            }
            Value::Range(r) => Iter::Range(r[0], r[1], r[2]),
            Value::Response(r) => {
                let text = String::from_utf8_lossy(&r.response.body).into_owned();
                Iter::Values(text.lines().map(Value::str).collect::<Vec<_>>().into_iter())
            }
            Value::Object(o) => {
                // A file, and what csv reads: its lines or rows.
                let lines = self.m.sym("_lines");
                match o.get(lines) {
                    Some(Value::List(l)) => Iter::List(l, 0),
                    _ => return Err(type_error(format!("'{}' object is not iterable", value.type_name()))),
                }
            }
            _ => return Err(type_error(format!("'{}' object is not iterable", value.type_name()))),
        };
        Ok(Value::Iter(Rc::new(RefCell::new(iter))))
    }
}

/// What should not be.
pub(super) fn bug(what: &str) -> Raise {
    Raise::Fatal(format!("perfkit's machine is wrong: {what}"))
}

/// The next of an iterator.
pub(super) fn advance(iter: &RefCell<Iter>) -> Option<Value> {
    match &mut *iter.borrow_mut() {
        Iter::List(list, at) => {
            *at += 1;
            list.0.borrow().get(*at - 1).cloned()
        }
        Iter::Range(at, stop, step) => {
            let now = *at;
            if (*step > 0 && now >= *stop) || (*step < 0 && now <= *stop) {
                return None;
            }
            *at = now.checked_add(*step).unwrap_or(*stop);
            Some(Value::Int(now))
        }
        Iter::Values(values) => values.next(),
        Iter::Cycle(values, at) => {
            let value = values.get(*at % values.len().max(1)).cloned();
            *at = (*at + 1) % values.len().max(1);
            value
        }
        Iter::Count(at, step) => {
            let now = *at;
            *at = now.wrapping_add(*step);
            Some(Value::Int(now))
        }
    }
}

/// Appends to a list.
pub(super) fn push_to(list: &List, value: Value) -> R<()> {
    let mut values = list.0.borrow_mut();
    ops::fits(values.len() + 1)?;
    values.push(value);
    values.settle();
    Ok(())
}

/// Appends all of them.
pub(super) fn extend(list: &List, more: Vec<Value>) -> R<()> {
    let mut values = list.0.borrow_mut();
    ops::fits(values.len() + more.len())?;
    values.extend(more);
    values.settle();
    Ok(())
}

/// Puts an entry.
pub(super) fn put(dict: &Dict, key: Key, value: Value) -> R<()> {
    ops::fits(dict.map.borrow().len() + 1)?;
    let old = dict.map.borrow_mut().insert(key, value);
    drop(old);
    dict.settle();
    Ok(())
}

fn store_index(object: &Value, at: &Value, value: Value) -> R<()> {
    match object {
        Value::List(l) => {
            let n = at.as_int().ok_or_else(|| type_error("list indices must be integers"))?;
            let mut values = l.0.borrow_mut();
            let place =
                ops::place(n, values.len()).ok_or_else(|| raise("IndexError", "list assignment index out of range"))?;
            let old = values.get_mut(place).map(|slot| std::mem::replace(slot, value));
            drop(values);
            drop(old);
            Ok(())
        }
        Value::Dict(d) => put(d, ops::key(at)?, value),
        _ => Err(type_error(format!("'{}' object does not support item assignment", object.type_name()))),
    }
}

fn delete_index(object: &Value, at: &Value) -> R<()> {
    match object {
        Value::List(l) => {
            let n = at.as_int().ok_or_else(|| type_error("list indices must be integers"))?;
            let mut values = l.0.borrow_mut();
            let place = ops::place(n, values.len()).ok_or_else(|| raise("IndexError", "list index out of range"))?;
            let old = values.remove(place);
            drop(values);
            drop(old);
            Ok(())
        }
        Value::Dict(d) => {
            let old = d.map.borrow_mut().shift_remove(&ops::key(at)?);
            if old.is_none() { Err(raise("KeyError", super::format::repr(at)?)) } else { Ok(()) }
        }
        _ => Err(type_error("this cannot be deleted from")),
    }
}

/// `isinstance(value, class)`; `class` may be a tuple of classes.
pub(super) fn is_instance(value: &Value, class: &Value) -> bool {
    match class {
        Value::Tuple(classes) => classes.iter().any(|c| !matches!(c, Value::Tuple(_)) && is_instance(value, c)),
        Value::Class(class) => match value {
            Value::Object(o) => o.class.is(class),
            _ => false,
        },
        Value::Native(native) => {
            let name = value.type_name();
            name == native.name || (native.name == "int" && name == "bool")
        }
        _ => false,
    }
}
