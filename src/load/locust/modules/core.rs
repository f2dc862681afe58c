//! Python's own functions.

use std::rc::Rc;

use indexmap::IndexMap;

use crate::load::locust::format;
use crate::load::locust::ops::{self, key, truth, type_error};
use crate::load::locust::value::{Dict, Value};
use crate::load::locust::vm::{Args, Native, R, Vm, advance, is_instance, raise};

/// The longest data file that is read, bytes.
const FILE_LIMIT: u64 = 64 << 20;

impl Args {
    /// The argument number `i`, or the one of that name.
    pub fn get(&self, vm: &Vm<'_>, i: usize, name: &str) -> Option<Value> {
        self.pos.get(i).cloned().or_else(|| self.named(vm, name))
    }

    /// The argument of that name.
    pub fn named(&self, vm: &Vm<'_>, name: &str) -> Option<Value> {
        self.kw.iter().find(|(n, _)| &*vm.m.name(*n) == name).map(|(_, v)| v.clone())
    }

    /// The first argument.
    pub fn first(&self) -> R<&Value> {
        self.pos.first().ok_or_else(|| type_error("an argument is missing"))
    }

    /// A text.
    pub fn text(&self, i: usize) -> R<&str> {
        self.pos.get(i).and_then(Value::as_str).ok_or_else(|| type_error("a string is needed here"))
    }

    /// A number.
    pub fn number(&self, i: usize) -> R<f64> {
        self.pos.get(i).and_then(Value::as_f64).ok_or_else(|| type_error("a number is needed here"))
    }

    /// A whole number.
    pub fn whole(&self, i: usize) -> R<i64> {
        self.pos.get(i).and_then(Value::as_int).ok_or_else(|| type_error("a whole number is needed here"))
    }
}

macro_rules! natives {
    ($($name:literal => $f:expr),* $(,)?) => { &[$(Native { name: $name, call: $f }),*] };
}
pub(super) use natives;

/// What is there without importing.
pub const NATIVES: &[Native] = natives! {
    "print" => |vm, args| {
        let mut line = Vec::new();
        for value in &args.pos {
            let text = vm.text_of(value)?;
            line.push(text.as_str().unwrap_or_default().to_owned());
        }
        vm.m.say(line.join(" "));
        Ok(Value::None)
    },
    "len" => |vm, args| {
        let n = match args.first()? {
            Value::Str(s) => s.chars().count(),
            Value::Bytes(b) => b.len(),
            Value::List(l) => l.0.borrow().len(),
            Value::Tuple(t) => t.len(),
            Value::Dict(d) | Value::Set(d) => d.map.borrow().len(),
            Value::Range(r) => ops::range_len(r) as usize,
            Value::Object(o) => {
                let sym = vm.m.sym("__len__");
                match o.class.find(sym) {
                    Some(found) => return vm.call_now(&found, args),
                    None => return Err(type_error("this has no len()")),
                }
            }
            other => return Err(type_error(format!("object of type '{}' has no len()", other.type_name()))),
        };
        Ok(Value::Int(n as i64))
    },
    "range" => |_, args| {
        let n = |i: usize| args.whole(i);
        let parts = match args.pos.len() {
            1 => [0, n(0)?, 1],
            2 => [n(0)?, n(1)?, 1],
            _ => [n(0)?, n(1)?, n(2)?],
        };
        if parts[2] == 0 { Err(raise("ValueError", "range() arg 3 must not be zero")) } else { Ok(Value::Range(Rc::new(parts))) }
    },
    "str" => |vm, args| match args.pos.first() {
        None => Ok(Value::str("")),
        Some(Value::Bytes(b)) if args.pos.len() + args.kw.len() > 1 => Ok(Value::string(String::from_utf8_lossy(b).into_owned())),
        Some(value) => vm.text_of(value),
    },
    "int" => |_, args| match args.pos.first() {
        None => Ok(Value::Int(0)),
        Some(Value::Float(x)) if x.is_finite() && x.abs() < 9.2e18 => Ok(Value::Int(*x as i64)),
        Some(Value::Str(s)) => {
            let base = args.pos.get(1).and_then(Value::as_int).unwrap_or(10).clamp(2, 36) as u32;
            let digits = s.trim().replace('_', "");
            let digits = digits.trim_start_matches("0x").trim_start_matches('+');
            i64::from_str_radix(digits, base).map(Value::Int).map_err(|_| {
                raise("ValueError", format!("invalid literal for int() with base {base}: {}", format::repr(&Value::Str(s.clone())).unwrap_or_default()))
            })
        }
        Some(other) => other.as_int().map(Value::Int).ok_or_else(|| type_error("int() needs a string or a number")),
    },
    "float" => |_, args| match args.pos.first() {
        None => Ok(Value::Float(0.0)),
        Some(Value::Str(s)) => s.trim().parse().map(Value::Float).map_err(|_| raise("ValueError", format!("could not convert string to float: '{}'", &***s))),
        Some(other) => other.as_f64().map(Value::Float).ok_or_else(|| type_error("float() needs a string or a number")),
    },
    "bool" => |_, args| Ok(Value::Bool(args.pos.first().is_some_and(truth))),
    "list" => |vm, args| {
        let values = match args.pos.first() {
            Some(v) => vm.all_of(v)?,
            None => Vec::new(),
        };
        Ok(Value::list(values))
    },
    "tuple" => |vm, args| {
        let values = match args.pos.first() {
            Some(v) => vm.all_of(v)?,
            None => Vec::new(),
        };
        Ok(Value::tuple(values))
    },
    "set" => set_of,
    "frozenset" => set_of,
    "dict" => |vm, args| {
        let mut map = IndexMap::new();
        match args.pos.first() {
            Some(Value::Dict(d)) => map.extend(d.map.borrow().iter().map(|(k, v)| (k.clone(), v.clone()))),
            Some(other) => {
                for pair in vm.all_of(other)? {
                    let pair = vm.all_of(&pair)?;
                    if let [k, v] = &pair[..] {
                        map.insert(key(k)?, v.clone());
                    }
                }
            }
            None => {}
        }
        for (name, value) in args.kw {
            map.insert(key(&Value::str(&vm.m.name(name)))?, value);
        }
        Ok(Value::dict(map))
    },
    "isinstance" => |_, args| Ok(Value::Bool(is_instance(args.first()?, args.pos.get(1).unwrap_or(&Value::None)))),
    "issubclass" => |_, args| match (args.pos.first(), args.pos.get(1)) {
        (Some(Value::Class(a)), Some(Value::Class(b))) => Ok(Value::Bool(a.is(b))),
        _ => Err(type_error("issubclass() needs classes")),
    },
    "enumerate" => |vm, args| {
        let start = args.get(vm, 1, "start").and_then(|v| v.as_int()).unwrap_or(0);
        let values = vm.all_of(args.first()?)?;
        let pair = |(i, v)| Value::tuple(vec![Value::Int(start.wrapping_add(i as i64)), v]);
        Ok(Value::list(values.into_iter().enumerate().map(pair).collect()))
    },
    "zip" => |vm, args| {
        let mut columns = Vec::new();
        for value in &args.pos {
            columns.push(vm.iterate(value)?);
        }
        let mut rows = Vec::new();
        while !columns.is_empty() {
            let row: Vec<Value> = columns.iter().map_while(|c| if let Value::Iter(i) = c { advance(i) } else { None }).collect();
            if row.len() < columns.len() {
                break;
            }
            rows.push(Value::tuple(row));
            ops::fits(rows.len())?;
        }
        Ok(Value::list(rows))
    },
    "map" => |vm, args| {
        let function = args.first()?.clone();
        let values = vm.all_of(args.pos.get(1).unwrap_or(&Value::None))?;
        let mut made = Vec::new();
        for value in values {
            made.push(vm.call_now(&function, Args::of(vec![value]))?);
        }
        Ok(Value::list(made))
    },
    "filter" => |vm, args| {
        let function = args.first()?.clone();
        let mut kept = Vec::new();
        for value in vm.all_of(args.pos.get(1).unwrap_or(&Value::None))? {
            let keep = if matches!(function, Value::None) { value.clone() } else { vm.call_now(&function, Args::of(vec![value.clone()]))? };
            if truth(&keep) {
                kept.push(value);
            }
        }
        Ok(Value::list(kept))
    },
    "sorted" => |vm, args| {
        let values = vm.all_of(args.first()?)?;
        Ok(Value::list(sort(vm, values, &args)?))
    },
    "reversed" => |vm, args| {
        let mut values = vm.all_of(args.first()?)?;
        values.reverse();
        Ok(Value::list(values))
    },
    "sum" => |vm, args| {
        let mut total = args.get(vm, 1, "start").unwrap_or(Value::Int(0));
        for value in vm.all_of(args.first()?)? {
            total = ops::binary(crate::load::locust::code::Binary::Add, &total, &value)?;
        }
        Ok(total)
    },
    "min" => |vm, args| extreme(vm, &args, std::cmp::Ordering::Less),
    "max" => |vm, args| extreme(vm, &args, std::cmp::Ordering::Greater),
    "abs" => |_, args| match args.first()? {
        Value::Float(x) => Ok(Value::Float(x.abs())),
        other => other.as_int().and_then(i64::checked_abs).map(Value::Int).ok_or_else(|| type_error("abs() needs a number")),
    },
    "round" => |vm, args| {
        let places = args.get(vm, 1, "ndigits").and_then(|v| v.as_int());
        match (args.first()?, places) {
            (Value::Int(n), _) => Ok(Value::Int(*n)),
            (v, None) => Ok(Value::Int(v.as_f64().unwrap_or(0.0).round_ties_even() as i64)),
            (v, Some(places)) => {
                let places = places.clamp(0, 300) as usize;
                Ok(Value::Float(format!("{:.places$}", v.as_f64().unwrap_or(0.0)).parse().unwrap_or(0.0)))
            }
        }
    },
    "any" => |vm, args| Ok(Value::Bool(vm.all_of(args.first()?)?.iter().any(truth))),
    "all" => |vm, args| Ok(Value::Bool(vm.all_of(args.first()?)?.iter().all(truth))),
    "type" => |vm, args| Ok(match args.first()? {
        Value::Object(o) => Value::Class(o.class.clone()),
        other => {
            let name = other.type_name().to_owned();
            super::builtin(&name).and_then(|n| super::builtin_value(vm.m, n)).unwrap_or(Value::str(&name))
        }
    }),
    "repr" => |_, args| Ok(Value::string(format::repr(args.first()?)?)),
    "getattr" => |vm, args| {
        let name = vm.m.sym(args.text(1)?);
        match (vm.attr(args.first()?, name), args.pos.get(2)) {
            (Err(crate::load::locust::vm::Raise::Named("AttributeError", _)), Some(default)) => Ok(default.clone()),
            (result, _) => result,
        }
    },
    "setattr" => |vm, args| {
        let name = vm.m.sym(args.text(1)?);
        if let Value::Object(o) = args.first()? {
            o.set(name, args.pos.get(2).cloned().unwrap_or(Value::None));
        }
        Ok(Value::None)
    },
    "hasattr" => |vm, args| {
        let name = vm.m.sym(args.text(1)?);
        Ok(Value::Bool(vm.attr(args.first()?, name).is_ok()))
    },
    "super" => |vm, args| {
        let this = args.pos.last().cloned().unwrap_or(Value::None);
        vm.super_of(this)
    },
    "staticmethod" => |_, args| super::hooks::mark(args.first()?, "staticmethod"),
    "classmethod" => |_, args| super::hooks::mark(args.first()?, "classmethod"),
    "property" => |_, args| super::hooks::mark(args.first()?, "property"),
    "ord" => |_, args| Ok(Value::Int(args.text(0)?.chars().next().map_or(0, |c| c as i64))),
    "chr" => |_, args| {
        let c = u32::try_from(args.whole(0)?).ok().and_then(char::from_u32);
        c.map(|c| Value::string(c.to_string())).ok_or_else(|| raise("ValueError", "chr() arg not in range"))
    },
    "iter" => |vm, args| vm.iterate(args.first()?),
    "next" => |vm, args| {
        let iter = vm.iterate(args.first()?)?;
        // A file or reader keeps its place in its list: taking the first away is moving on.
        if let (Value::Object(o), Value::Iter(_)) = (args.first()?, &iter) {
            let sym = vm.m.sym("_lines");
            if let Some(Value::List(l)) = o.get(sym) {
                let mut lines = l.0.borrow_mut();
                return if lines.is_empty() { Err(raise("StopIteration", "")) } else { Ok(lines.remove(0)) };
            }
        }
        let Value::Iter(iter) = iter else { return Err(type_error("not an iterator")) };
        match advance(&iter) {
            Some(value) => Ok(value),
            None => args.pos.get(1).cloned().ok_or_else(|| raise("StopIteration", "")),
        }
    },
    "format" => |_, args| Ok(Value::string(format::format(args.first()?, args.pos.get(1).and_then(Value::as_str).unwrap_or(""))?)),
    "callable" => |_, args| Ok(Value::Bool(matches!(args.first()?, Value::Func(_) | Value::Bound(_) | Value::Native(_) | Value::Class(_) | Value::Partial(..) | Value::Method(..)))),
    "id" => |_, args| Ok(Value::Int(match args.first()? {
        Value::Object(o) => Rc::as_ptr(o) as usize as i64,
        Value::List(l) => Rc::as_ptr(l) as usize as i64,
        Value::Dict(d) => Rc::as_ptr(d) as usize as i64,
        other => other.as_int().unwrap_or(1),
    })),
    "hash" => |_, args| {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        key(args.first()?)?.hash(&mut hasher);
        Ok(Value::Int((hasher.finish() >> 2) as i64))
    },
    "hex" => |_, args| Ok(Value::string(format!("{:#x}", args.whole(0)?))),
    "bin" => |_, args| Ok(Value::string(format!("{:#b}", args.whole(0)?))),
    "divmod" => |_, args| {
        use crate::load::locust::code::Binary::{FloorDiv, Mod};
        let (a, b) = (args.first()?, args.pos.get(1).unwrap_or(&Value::None));
        Ok(Value::tuple(vec![ops::binary(FloorDiv, a, b)?, ops::binary(Mod, a, b)?]))
    },
    "pow" => |_, args| ops::binary(crate::load::locust::code::Binary::Pow, args.first()?, args.pos.get(1).unwrap_or(&Value::None)),
    "object" => |vm, _| Ok(super::object(vm.m, "Namespace", Vec::new())),
    "bytes" => |_, args| Ok(Value::Bytes(match args.pos.first() {
        Some(Value::Str(s)) => s.as_bytes().into(),
        Some(Value::Bytes(b)) => b.clone(),
        Some(Value::Int(n)) => {
            let n = usize::try_from(*n).unwrap_or(0);
            ops::fits(n)?;
            vec![0; n].into()
        }
        _ => Rc::from(&b""[..]),
    })),
    "open" => |vm, args| {
        let mode = args.get(vm, 1, "mode");
        let mode = mode.as_ref().and_then(Value::as_str).unwrap_or("r");
        let path = args.text(0)?.to_owned();
        if mode.contains(['w', 'a', 'x', '+']) {
            return Err(raise("OSError", format!("{path}: a locustfile may only read files here")));
        }
        let bytes = read_file(vm, &path)?;
        if mode.contains('b') {
            return Ok(super::object(vm.m, "File", vec![("_text", Value::Bytes(bytes.into())), ("_lines", Value::list(Vec::new()))]));
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let lines: Vec<Value> = text.split_inclusive('\n').map(Value::str).collect();
        ops::fits(lines.len())?;
        let attrs = vec![("_text", Value::string(text)), ("_lines", Value::list(lines)), ("name", Value::string(path))];
        Ok(super::object(vm.m, "File", attrs))
    },
    "exit" => |_, _| Err(raise("SystemExit", "exit()")),
    "vars" => |_, _| Ok(Value::dict(IndexMap::new())),
};

/// Reads a regular file, looked for from the current directory and from the locustfile's.
fn read_file(vm: &Vm<'_>, path: &str) -> R<Vec<u8>> {
    let near = vm.m.program.directory.join(path);
    for place in [std::path::Path::new(path), &near] {
        let Ok(about) = std::fs::metadata(place) else { continue };
        if !about.is_file() || about.len() > FILE_LIMIT {
            return Err(raise("OSError", format!("{path}: not a file of at most {FILE_LIMIT} bytes")));
        }
        return std::fs::read(place).map_err(|e| raise("OSError", format!("{path}: {e}")));
    }
    Err(raise("FileNotFoundError", format!("No such file: '{path}'")))
}

fn set_of(vm: &mut Vm<'_>, args: Args) -> R<Value> {
    let mut map = IndexMap::new();
    if let Some(values) = args.pos.first() {
        for value in vm.all_of(values)? {
            map.insert(key(&value)?, Value::None);
        }
    }
    Ok(Value::Set(Rc::new(Dict::new(map))))
}

fn extreme(vm: &mut Vm<'_>, args: &Args, wanted: std::cmp::Ordering) -> R<Value> {
    let values = if args.pos.len() > 1 { args.pos.clone() } else { vm.all_of(args.first()?)? };
    let by = args.named(vm, "key");
    let mut best: Option<(Value, Value)> = None;
    for value in values {
        let rank = match &by {
            Some(by) => vm.call_now(by, Args::of(vec![value.clone()]))?,
            None => value.clone(),
        };
        let better = match &best {
            Some((other, _)) => ops::order(&rank, other, 0)? == wanted,
            None => true,
        };
        if better {
            best = Some((rank, value));
        }
    }
    match best {
        Some((_, value)) => Ok(value),
        None => args.named(vm, "default").ok_or_else(|| raise("ValueError", "the sequence is empty")),
    }
}

/// Sorts by `key` and `reverse`.
pub fn sort(vm: &mut Vm<'_>, values: Vec<Value>, args: &Args) -> R<Vec<Value>> {
    let by = args.named(vm, "key").filter(|k| !matches!(k, Value::None));
    let reverse = args.named(vm, "reverse").is_some_and(|v| truth(&v));
    let mut ranked = Vec::with_capacity(values.len());
    for value in values {
        let rank = match &by {
            Some(by) => vm.call_now(by, Args::of(vec![value.clone()]))?,
            None => value.clone(),
        };
        ranked.push((rank, value));
    }
    // Values that cannot be compared are found before the sort, which must have a total order.
    for pair in ranked.windows(2) {
        if let [a, b] = pair {
            ops::order(&a.0, &b.0, 0)?;
        }
    }
    ranked.sort_by(|a, b| {
        let order = ops::order(&a.0, &b.0, 0).unwrap_or(std::cmp::Ordering::Equal);
        if reverse { order.reverse() } else { order }
    });
    Ok(ranked.into_iter().map(|(_, v)| v).collect())
}
