//! The compact form of a locustfile: what the file says, compiled once, shared by all threads.
//!
//! In: nothing. Out: [`Program`]. Invariant: plain data without interior mutability; every operand of an instruction is in
//! range of the table it points into (the compiler's promise; the machine checks again and raises).

use std::sync::Arc;

/// A name, as its place in [`Program::names`] (a machine appends names that only exist while it runs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sym(pub u32);

/// A compiled locustfile.
#[derive(Debug, Default)]
pub struct Program {
    /// The file's name, for messages.
    pub file: String,
    /// The directory that relative paths of data files are tried in, beside the current one.
    pub directory: std::path::PathBuf,
    /// All function, class and module bodies; the module's is the first.
    pub bodies: Vec<Body>,
    /// Constants.
    pub consts: Vec<Const>,
    /// Names.
    pub names: Vec<String>,
    /// The names of the module's variables, by slot.
    pub globals: Vec<Sym>,
    /// What the file says that is accepted but has no effect here, by line.
    pub remarks: Vec<(u32, String)>,
    /// Where functions change what all users share, which is then shared by the users of one thread only.
    pub shared_state: Option<(u32, String)>,
}

/// A constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Const {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// A text.
    Str(Arc<str>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// The names of keyword arguments of a call.
    Names(Vec<Sym>),
}

/// The body of the module, a class or a function.
#[derive(Debug, Default)]
pub struct Body {
    /// Its name.
    pub name: String,
    /// What to do.
    pub code: Vec<Instr>,
    /// The line of each instruction.
    pub lines: Vec<u32>,
    /// How many variables it has, parameters first.
    pub slots: u16,
    /// Names of the parameters, in the order of their slots: positional, keyword-only, `*args`, `**kwargs`.
    pub params: Vec<Sym>,
    /// How many of them are positional.
    pub positional: u16,
    /// How many are keyword-only.
    pub keyword_only: u16,
    /// Whether there is a `*args`.
    pub star: bool,
    /// Whether there is a `**kwargs`.
    pub double_star: bool,
}

/// Operators of two operands.
#[allow(missing_docs, reason = "the names say it")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
    ShiftLeft,
    ShiftRight,
    Or,
    Xor,
    And,
    Eq,
    NotEq,
    Lt,
    LtEq,
    Gt,
    GtEq,
    Is,
    IsNot,
    In,
    NotIn,
}

/// Operators of one operand.
#[allow(missing_docs, reason = "the names say it")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unary {
    Not,
    Minus,
    Plus,
    Invert,
}

/// An instruction of the stack machine. `u32` jump targets are indices into the same body.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Instr {
    /// Pushes a constant.
    Const(u32),
    /// Pushes a variable of the function `.0` levels out.
    Load(u8, u16),
    /// Pops into it.
    Store(u8, u16),
    /// Unsets it.
    Delete(u8, u16),
    /// Pushes a variable of the module.
    LoadGlobal(u32),
    /// Pops into it.
    StoreGlobal(u32),
    /// Unsets it.
    DeleteGlobal(u32),
    /// Pushes a name of the class body, or else the module's variable in that slot (`u32::MAX`: there is none).
    LoadName(Sym, u32),
    /// Pops into a name of the class body.
    StoreName(Sym),
    /// Pushes something built in: a function, a class.
    LoadBuiltin(u16),
    /// Pushes a module by its number.
    LoadModule(u16),
    /// Replaces the top by one of its attributes.
    Attr(Sym),
    /// `value, object` → nothing.
    StoreAttr(Sym),
    /// `object` → nothing.
    DeleteAttr(Sym),
    /// `object, index` → element.
    Index,
    /// `value, object, index` → nothing.
    StoreIndex,
    /// `object, index` → nothing.
    DeleteIndex,
    /// `low, high, step` → slice.
    Slice,
    /// The last `n` as a list.
    List(u32),
    /// The last `n` as a tuple.
    Tuple(u32),
    /// The last `n` as a set.
    Set(u32),
    /// The last `n` pairs as a dict.
    Dict(u32),
    /// Pops a value onto the list `n` below it.
    Append(u16),
    /// Pops a value into the set `n` below it.
    Insert(u16),
    /// Pops key and value into the dict `n` below them.
    Put(u16),
    /// `list, iterable` → list with all of it.
    Extend,
    /// `dict, mapping` → dict with all of it.
    Merge,
    /// The last `n` texts as one.
    Join(u32),
    /// `value` (and `spec`, if so) → text; the conversion `s`, `r`, `a` or 0.
    Format(u8, bool),
    /// Two operands.
    Binary(Binary),
    /// The same, changing a list, dict or set in its place.
    InPlace(Binary),
    /// One operand.
    Unary(Unary),
    /// Goes on elsewhere.
    Jump(u32),
    /// Pops; goes on elsewhere if it was false.
    JumpIfFalse(u32),
    /// Pops; goes on elsewhere if it was true.
    JumpIfTrue(u32),
    /// Goes on elsewhere if the top is false, else pops it.
    JumpIfFalseKeep(u32),
    /// Goes on elsewhere if the top is true, else pops it.
    JumpIfTrueKeep(u32),
    /// Replaces the top by an iterator over it.
    Iter,
    /// Pushes the iterator's next, or pops it and goes on elsewhere.
    Next(u32),
    /// An iterable into `n` values, the first on top.
    Unpack(u16),
    /// The same with a list of what is left over between the first `.0` and the last `.1`.
    UnpackStar(u16, u16),
    /// `callee, args…` → result. Names of the last of them: a constant, or `u32::MAX`.
    Call(u16, u32),
    /// `object, args…` → result of its method.
    CallMethod(Sym, u16, u32),
    /// `callee, list, dict` → result.
    CallSpread,
    /// `defaults…` → function: body, how many defaults (those of positional parameters first).
    Function(u32, u16),
    /// `bases…` → class.
    Class(u32, u16),
    /// Names of keyword-only parameters that have a default (constant), for the function on top.
    KeywordDefaults(u32),
    /// From here on an exception goes on there, with the exception pushed.
    Try(u32),
    /// Until here.
    EndTry,
    /// `exception` → raised.
    Raise,
    /// `exception, class` → `exception`, whether it is one.
    Matches,
    /// `manager` → `manager`, what it enters as.
    Enter,
    /// `manager` → nothing: leaves it in order.
    Leave,
    /// `manager, exception` → `exception`, whether it was swallowed.
    LeaveRaising,
    /// Duplicates the top.
    Dup,
    /// Duplicates the two topmost.
    Dup2,
    /// Drops the top.
    Pop,
    /// Exchanges the two topmost.
    Swap,
    /// `a, b, c` → `c, a, b`.
    Rot3,
    /// Ends the body with the top as its result.
    Return,
}
