//! Values of a running locustfile.
//!
//! Invariants: reference-counted and of one thread; 16 bytes each; what they hold is charged to the thread's account
//! ([`live_bytes`]) so that the machine can refuse to grow; taking a deep structure down never recurses (its parts are
//! buried in a list first), since a hostile file may nest as deep as its steps allow. Cycles are not collected.

use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use indexmap::IndexMap;

use super::border::{Request, Response};
use super::code::Sym;
use super::vm::Native;

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static GRAVE: RefCell<Option<Vec<Value>>> = const { RefCell::new(None) };
}

/// What the values of this thread hold, bytes, about.
pub fn live_bytes() -> usize {
    LIVE.with(Cell::get)
}

fn charge(bytes: usize) {
    LIVE.with(|live| live.set(live.get().wrapping_add(bytes)));
}

fn discharge(bytes: usize) {
    LIVE.with(|live| live.set(live.get().wrapping_sub(bytes)));
}

/// A value.
#[allow(missing_docs, reason = "the names are Python's")]
#[derive(Debug, Clone)]
pub enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Rc<Text>),
    Bytes(Rc<[u8]>),
    List(Rc<List>),
    Tuple(Rc<Kids>),
    Dict(Rc<Dict>),
    Set(Rc<Dict>),
    Range(Rc<[i64; 3]>),
    Slice(Rc<[Value; 3]>),
    Iter(Rc<RefCell<Iter>>),
    Func(Rc<Func>),
    Class(Rc<Class>),
    Object(Rc<Object>),
    /// A function with its first argument.
    Bound(Rc<Bound>),
    /// A method of something built in.
    Method(Rc<Kids>, Sym),
    Native(&'static Native),
    /// A native function with its first arguments.
    Partial(&'static Native, Rc<Kids>),
    Module(u16),
    Response(Rc<Answer>),
    Client(Rc<Client>),
    Regex(Rc<regex::Regex>),
    Match(Rc<Match>),
    /// Microseconds since 1970-01-01, in no time zone.
    Date(Rc<i64>),
    /// Microseconds.
    Delta(Rc<i64>),
    /// A wait function.
    Wait(Rc<Wait>),
    /// Something of Locust that only takes notes: an event hook.
    Hook(Sym),
    /// `super()`: the bases of a class, and the object.
    Super(Rc<(Rc<Class>, Value)>),
}

/// A text.
#[derive(Debug)]
pub struct Text(Box<str>);

impl Text {
    /// A text of its own.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        let text = text.into();
        charge(text.len() + 32);
        Text(text)
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        discharge(self.0.len() + 32);
    }
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// Values that something owns.
#[derive(Debug, Default)]
pub struct Kids {
    values: Vec<Value>,
    charged: usize,
}

impl Kids {
    /// These values.
    pub fn new(values: Vec<Value>) -> Self {
        let mut kids = Kids { values, charged: 0 };
        kids.settle();
        kids
    }

    /// Brings the account up to date after the values changed in number.
    pub fn settle(&mut self) {
        let now = self.values.capacity() * size_of::<Value>() + 48;
        charge(now);
        discharge(self.charged);
        self.charged = now;
    }
}

impl Deref for Kids {
    type Target = Vec<Value>;
    fn deref(&self) -> &Vec<Value> {
        &self.values
    }
}

impl DerefMut for Kids {
    fn deref_mut(&mut self) -> &mut Vec<Value> {
        &mut self.values
    }
}

impl Drop for Kids {
    fn drop(&mut self) {
        discharge(self.charged);
        bury(std::mem::take(&mut self.values));
    }
}

/// Takes values down one after the other, whatever they hold.
fn bury(values: Vec<Value>) {
    if values
        .iter()
        .all(|v| matches!(v, Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Str(_)))
    {
        return;
    }
    // At the end of a thread the grave may be gone already; then there is nothing to be careful about any more.
    let _ = GRAVE.try_with(|grave| {
        if let Some(open) = &mut *grave.borrow_mut() {
            open.extend(values);
            return;
        }
        *grave.borrow_mut() = Some(values);
        loop {
            let next = grave.borrow_mut().as_mut().and_then(Vec::pop);
            match next {
                Some(value) => drop(value),
                None => break,
            }
        }
        *grave.borrow_mut() = None;
    });
}

/// A list.
#[derive(Debug, Default)]
pub struct List(pub RefCell<Kids>);

/// A dict, and a set (whose values are `None`): in order of insertion.
#[derive(Debug, Default)]
pub struct Dict {
    /// Its entries.
    pub map: RefCell<IndexMap<Key, Value>>,
    charged: Cell<usize>,
}

impl Dict {
    /// With these entries.
    pub fn new(map: IndexMap<Key, Value>) -> Self {
        let dict = Dict { map: RefCell::new(map), charged: Cell::new(0) };
        dict.settle();
        dict
    }

    /// Brings the account up to date.
    pub fn settle(&self) {
        let now = self.map.borrow().capacity() * 56 + 64;
        charge(now);
        discharge(self.charged.get());
        self.charged.set(now);
    }

    /// The value of a text key.
    pub fn text(&self, key: &str) -> Option<Value> {
        self.map.borrow().get(&Key(Value::str(key))).cloned()
    }
}

impl Drop for Dict {
    fn drop(&mut self) {
        discharge(self.charged.get());
        let map = std::mem::take(&mut *self.map.borrow_mut());
        let mut kids = Vec::with_capacity(map.len());
        for (key, value) in map {
            kids.push(value);
            if matches!(key.0, Value::Tuple(_)) {
                kids.push(key.0);
            }
        }
        bury(kids);
    }
}

/// A value that can be a key: `None`, a bool, a number, a text, bytes, a class, or a tuple of such.
#[derive(Debug, Clone)]
pub struct Key(pub Value);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.0 {
            Value::None => 0_u8.hash(state),
            Value::Bool(b) => i64::from(*b).hash(state),
            Value::Int(n) => n.hash(state),
            Value::Float(x) if x.fract() == 0.0 && x.abs() < 9e15 => (*x as i64).hash(state),
            Value::Float(x) => x.to_bits().hash(state),
            Value::Str(s) => (***s).hash(state),
            Value::Bytes(b) => b.hash(state),
            Value::Tuple(t) => {
                for v in t.iter() {
                    Key(v.clone()).hash(state);
                }
            }
            Value::Func(f) => Rc::as_ptr(f).hash(state),
            Value::Class(c) => Rc::as_ptr(c).hash(state),
            Value::Object(o) => Rc::as_ptr(o).hash(state),
            _ => 1_u8.hash(state),
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        super::ops::equal(&self.0, &other.0, 0).unwrap_or(false)
    }
}

impl Eq for Key {}

/// An iterator.
#[allow(missing_docs, reason = "the names are Python's")]
#[derive(Debug)]
pub enum Iter {
    List(Rc<List>, usize),
    Range(i64, i64, i64),
    Values(std::vec::IntoIter<Value>),
    Cycle(Kids, usize),
    Count(i64, i64),
}

/// The variables of a running function, which functions made inside it keep.
#[derive(Debug)]
pub struct Env {
    /// By slot; `None` while unset.
    pub slots: RefCell<Vec<Option<Value>>>,
    /// Those of the function around it.
    pub outer: Option<Rc<Env>>,
}

impl Drop for Env {
    fn drop(&mut self) {
        bury(std::mem::take(&mut *self.slots.borrow_mut()).into_iter().flatten().collect());
        // A chain of environments is as deep as functions are nested in the source, which the compiler bounds.
    }
}

/// A function of the file.
#[derive(Debug)]
pub struct Func {
    /// Its body's number.
    pub body: u32,
    /// The variables around it.
    pub env: Option<Rc<Env>>,
    /// Defaults of the last positional parameters.
    pub defaults: Kids,
    /// Defaults of keyword-only parameters.
    pub keyword_defaults: RefCell<Vec<(Sym, Value)>>,
    /// What decorators said.
    pub marks: RefCell<Marks>,
    /// The class in whose body it stands.
    pub owner: RefCell<std::rc::Weak<Class>>,
}

/// What `@task`, `@tag` and the like said of a function or class.
#[derive(Debug, Default, Clone)]
pub struct Marks {
    /// The weight of a task.
    pub weight: Option<i64>,
    /// Its tags.
    pub tags: Vec<Rc<str>>,
    /// `staticmethod`, `classmethod` or `property`.
    pub kind: Option<&'static str>,
    /// Its place in an old-style sequence.
    pub order: Option<i64>,
}

/// A class.
#[derive(Debug)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// It and its bases, nearest first.
    pub bases: Vec<Rc<Class>>,
    /// What it is descended from.
    pub kind: ClassKind,
    /// Its attributes.
    pub attrs: RefCell<IndexMap<Sym, Value>>,
    /// Of a user or task set: its tasks, each as often as its weight says... with the weights.
    pub tasks: RefCell<Vec<(Value, i64)>>,
    /// What decorators said of it.
    pub marks: RefCell<Marks>,
    /// Whether the file defines it.
    pub own: bool,
}

/// What a class is descended from.
#[allow(missing_docs, reason = "the names are Locust's")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClassKind {
    Plain,
    User,
    TaskSet,
    Sequence,
    Shape,
    Exception,
}

impl Class {
    /// An attribute of it or of its bases.
    pub fn find(&self, name: Sym) -> Option<Value> {
        if let Some(value) = self.attrs.borrow().get(&name) {
            return Some(value.clone());
        }
        self.bases.iter().find_map(|base| base.find(name))
    }

    /// Whether it is, or descends from, `other`.
    pub fn is(&self, other: &Class) -> bool {
        std::ptr::eq(self, other) || self.bases.iter().any(|base| base.is(other))
    }

    /// Whether it is, or descends from, the built-in class of that name.
    pub fn is_named(&self, name: &str) -> bool {
        (!self.own && self.name == name) || self.bases.iter().any(|base| base.is_named(name))
    }
}

/// An instance.
#[derive(Debug)]
pub struct Object {
    /// Its class.
    pub class: Rc<Class>,
    /// Its attributes: few, so a list.
    pub attrs: RefCell<Vec<(Sym, Value)>>,
}

impl Object {
    /// One of its own attributes.
    pub fn get(&self, name: Sym) -> Option<Value> {
        self.attrs.borrow().iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone())
    }

    /// Sets one.
    pub fn set(&self, name: Sym, value: Value) {
        let mut attrs = self.attrs.borrow_mut();
        match attrs.iter_mut().find(|(n, _)| *n == name) {
            Some(slot) => slot.1 = value,
            None => attrs.push((name, value)),
        }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        bury(std::mem::take(&mut *self.attrs.borrow_mut()).into_iter().map(|(_, v)| v).collect());
    }
}

/// A method of an instance.
#[derive(Debug)]
pub struct Bound {
    /// The first argument.
    pub this: Value,
    /// The function.
    pub function: Rc<Func>,
}

/// An answer, and what the file says of it.
#[derive(Debug)]
pub struct Answer {
    /// What came.
    pub response: Response,
    /// What was asked.
    pub request: Request,
    /// The verdict: none yet, success, failure with its text.
    pub verdict: RefCell<Option<Result<(), String>>>,
    /// Whether the verdict was handed out.
    pub reported: Cell<bool>,
    /// The parsed body, once asked for.
    pub json: RefCell<Option<Value>>,
}

/// The HTTP client of a user.
#[derive(Debug)]
pub struct Client {
    /// Headers of all its requests.
    pub headers: Rc<Dict>,
    /// User and password.
    pub auth: RefCell<Option<(String, String)>>,
}

/// A match of a regular expression.
#[derive(Debug)]
pub struct Match {
    /// The groups, the whole first.
    pub groups: Vec<Option<(usize, usize, String)>>,
    /// The named ones.
    pub names: Vec<(String, usize)>,
}

/// A wait function of Locust.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wait {
    /// The same, s.
    Constant(f64),
    /// Evenly between, s.
    Between(f64, f64),
    /// From task start to task start, s.
    Pacing(f64),
}

impl Value {
    /// A text.
    pub fn str(text: &str) -> Value {
        Value::Str(Rc::new(Text::new(text)))
    }

    /// A text that is ours already.
    pub fn string(text: String) -> Value {
        Value::Str(Rc::new(Text::new(text)))
    }

    /// A list.
    pub fn list(values: Vec<Value>) -> Value {
        Value::List(Rc::new(List(RefCell::new(Kids::new(values)))))
    }

    /// A tuple.
    pub fn tuple(values: Vec<Value>) -> Value {
        Value::Tuple(Rc::new(Kids::new(values)))
    }

    /// A dict.
    pub fn dict(map: IndexMap<Key, Value>) -> Value {
        Value::Dict(Rc::new(Dict::new(map)))
    }

    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::Str(s) => Some(s),
            _ => None,
        }
    }

    /// As a number with a fraction.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Int(n) => Some(*n as f64),
            Value::Float(x) => Some(*x),
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            _ => None,
        }
    }

    /// As a whole number.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(n) => Some(*n),
            Value::Bool(b) => Some(i64::from(*b)),
            _ => None,
        }
    }

    /// What Python calls its type.
    pub fn type_name(&self) -> &str {
        match self {
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::Set(_) => "set",
            Value::Range(_) => "range",
            Value::Slice(_) => "slice",
            Value::Iter(_) => "iterator",
            Value::Func(_) | Value::Partial(..) => "function",
            Value::Class(_) => "type",
            Value::Object(o) => &o.class.name,
            Value::Bound(_) | Value::Method(..) => "method",
            Value::Native(_) => "builtin_function_or_method",
            Value::Module(_) => "module",
            Value::Response(_) => "Response",
            Value::Client(_) => "HttpSession",
            Value::Regex(_) => "Pattern",
            Value::Match(_) => "Match",
            Value::Date(_) => "datetime",
            Value::Delta(_) => "timedelta",
            Value::Wait(_) => "function",
            Value::Hook(_) => "EventHook",
            Value::Super(_) => "super",
        }
    }
}
