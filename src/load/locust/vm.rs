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
#[path = "vm_iter.rs"]
mod iter;
pub(super) use iter::advance;
#[path = "vm_step.rs"]
mod step;

/// What a call of the machine brings.
pub type R<T> = Result<T, Raise>;

/// Why something did not end in a value.
#[derive(Debug)]
pub enum Raise {
    /// An exception of the file.
    Python(Value),
    /// An exception that has no object yet: its class and text.
    Named(&'static str, String),
    /// A `KeyError`: the key is its argument.
    Missing(Value),
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
        machine.consts = program.consts.iter().map(Self::materialize).collect();
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

    fn materialize(constant: &Const) -> Value {
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

    /// Makes an exception with one argument.
    pub(super) fn exception(&mut self, class: &str, argument: Value) -> Value {
        let args = self.sym("args");
        let class = self.class(class).or_else(|| self.class("Exception"));
        let value = Value::tuple(vec![argument]);
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

/// What a class body assigns, and the bases of the class.
type Namespace = (IndexMap<Sym, Value>, Vec<Rc<Class>>);

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
    names: Option<Box<Namespace>>,
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
            Raise::Missing(key) => ("KeyError".to_owned(), super::format::repr(key).ok()),
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
            Raise::Named(class, message) => self.m.exception(class, Value::str(&message)),
            Raise::Missing(key) => self.m.exception("KeyError", key),
            Raise::Fatal(message) => self.m.exception("RuntimeError", Value::str(&message)),
            Raise::Suspend(_) => self.m.exception("RuntimeError", Value::str("suspended")),
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
        let (class, message) = match raised {
            Raise::Fatal(why) => (String::new(), why),
            other => {
                let value = self.object_of(other);
                let class = if let Value::Object(o) = &value { o.class.name.clone() } else { "Exception".to_owned() };
                (class, super::format::text(&value).unwrap_or_else(|_| "(its text cannot be made)".into()))
            }
        };
        Exception { class, message, traceback: std::mem::take(&mut self.t.traceback) }
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
}

/// What should not be.
pub(super) fn bug(what: &str) -> Raise {
    Raise::Fatal(format!("perfkit's machine is wrong: {what}"))
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
