//! What operators do: arithmetic, comparison, indexing, texts of values.
//!
//! Invariant: no operation allocates more than [`SIZE_LIMIT`] or recurses deeper than [`DEPTH_LIMIT`]; whole numbers have 64
//! bits and an operation that would need more raises `OverflowError`.

use std::cmp::Ordering;
use std::rc::Rc;

use super::code::{Binary, Unary};
use super::value::{Key, Value};
use super::vm::{R, Raise, raise};

/// The longest text or list, elements.
pub const SIZE_LIMIT: usize = 4 << 20;
/// How deep values are followed.
pub const DEPTH_LIMIT: u32 = 60;

/// Whether a value counts as true.
pub fn truth(value: &Value) -> bool {
    match value {
        Value::None => false,
        Value::Bool(b) => *b,
        Value::Int(n) => *n != 0,
        Value::Float(x) => *x != 0.0,
        Value::Str(s) => !s.is_empty(),
        Value::Bytes(b) => !b.is_empty(),
        Value::List(l) => !l.0.borrow().is_empty(),
        Value::Tuple(t) => !t.is_empty(),
        Value::Dict(d) | Value::Set(d) => !d.map.borrow().is_empty(),
        Value::Range(r) => range_len(r) > 0,
        Value::Response(r) => r.response.error.is_none() && r.response.status < 400,
        Value::Delta(d) => **d != 0,
        _ => true,
    }
}

/// How many numbers a range has.
pub fn range_len(r: &[i64; 3]) -> i64 {
    let [start, stop, step] = r.map(i128::from);
    let n = if step > 0 { (stop - start + step - 1) / step } else { (start - stop - step - 1) / -step };
    n.clamp(0, i128::from(i64::MAX)) as i64
}

/// Whether two values are equal.
pub fn equal(a: &Value, b: &Value, depth: u32) -> R<bool> {
    if depth > DEPTH_LIMIT {
        return Err(raise("RecursionError", "values nested too deep to compare"));
    }
    Ok(match (a, b) {
        (Value::None, Value::None) => true,
        (Value::Str(a), Value::Str(b)) => ***a == ***b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::List(a), Value::List(b)) => {
            if Rc::ptr_eq(a, b) {
                return Ok(true);
            }
            all_equal(&a.0.borrow(), &b.0.borrow(), depth)?
        }
        (Value::Tuple(a), Value::Tuple(b)) => all_equal(a, b, depth)?,
        (Value::Dict(a), Value::Dict(b)) | (Value::Set(a), Value::Set(b)) => {
            if Rc::ptr_eq(a, b) {
                return Ok(true);
            }
            let (a, b) = (a.map.borrow(), b.map.borrow());
            if a.len() != b.len() {
                return Ok(false);
            }
            for (key, value) in a.iter() {
                match b.get(key) {
                    Some(other) if equal(value, other, depth + 1)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Value::Object(a), Value::Object(b)) => Rc::ptr_eq(a, b),
        (Value::Class(a), Value::Class(b)) => Rc::ptr_eq(a, b),
        (Value::Func(a), Value::Func(b)) => Rc::ptr_eq(a, b),
        (Value::Response(a), Value::Response(b)) => Rc::ptr_eq(a, b),
        (Value::Native(a), Value::Native(b)) => std::ptr::eq(*a, *b),
        (Value::Date(a), Value::Date(b)) | (Value::Delta(a), Value::Delta(b)) => a == b,
        (Value::Range(a), Value::Range(b)) => a == b,
        _ => match (a.as_f64(), b.as_f64()) {
            #[allow(clippy::float_cmp, reason = "Python compares numbers exactly")]
            (Some(x), Some(y)) => x == y,
            _ => false,
        },
    })
}

fn all_equal(a: &[Value], b: &[Value], depth: u32) -> R<bool> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for (x, y) in a.iter().zip(b) {
        if !equal(x, y, depth + 1)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Which of two values comes first.
pub fn order(a: &Value, b: &Value, depth: u32) -> R<Ordering> {
    if depth > DEPTH_LIMIT {
        return Err(raise("RecursionError", "values nested too deep to compare"));
    }
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Str(a), Value::Str(b)) => Ok((***a).cmp(&***b)),
        (Value::Date(a), Value::Date(b)) | (Value::Delta(a), Value::Delta(b)) => Ok(a.cmp(b)),
        (Value::Tuple(a), Value::Tuple(b)) => order_all(a, b, depth),
        (Value::List(a), Value::List(b)) => order_all(&a.0.borrow(), &b.0.borrow(), depth),
        _ => match (a.as_f64(), b.as_f64()) {
            (Some(x), Some(y)) => Ok(x.partial_cmp(&y).unwrap_or(Ordering::Greater)),
            _ => Err(type_error(format!(
                "'<' not supported between instances of '{}' and '{}'",
                a.type_name(),
                b.type_name()
            ))),
        },
    }
}

fn order_all(a: &[Value], b: &[Value], depth: u32) -> R<Ordering> {
    for (x, y) in a.iter().zip(b) {
        if !equal(x, y, depth + 1)? {
            return order(x, y, depth + 1);
        }
    }
    Ok(a.len().cmp(&b.len()))
}

/// A `TypeError`.
pub fn type_error(message: impl Into<String>) -> Raise {
    raise("TypeError", message)
}

fn overflow() -> Raise {
    raise("OverflowError", "whole numbers have 64 bits here")
}

/// `a op b`.
pub fn binary(op: Binary, a: &Value, b: &Value) -> R<Value> {
    match op {
        Binary::Eq => return Ok(Value::Bool(equal(a, b, 0)?)),
        Binary::NotEq => return Ok(Value::Bool(!equal(a, b, 0)?)),
        Binary::Lt => return Ok(Value::Bool(order(a, b, 0)?.is_lt())),
        Binary::LtEq => return Ok(Value::Bool(order(a, b, 0)?.is_le())),
        Binary::Gt => return Ok(Value::Bool(order(a, b, 0)?.is_gt())),
        Binary::GtEq => return Ok(Value::Bool(order(a, b, 0)?.is_ge())),
        Binary::Is => return Ok(Value::Bool(same(a, b))),
        Binary::IsNot => return Ok(Value::Bool(!same(a, b))),
        Binary::In => return Ok(Value::Bool(contains(b, a)?)),
        Binary::NotIn => return Ok(Value::Bool(!contains(b, a)?)),
        _ => {}
    }
    if let (Some(x), Some(y)) = (a.as_int(), b.as_int()) {
        return whole(op, x, y);
    }
    if let (Some(x), Some(y)) = (a.as_f64(), b.as_f64()) {
        return fraction(op, x, y);
    }
    mixed(op, a, b)
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::List(a), Value::List(b)) => Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Bool(_), _) | (_, Value::Bool(_)) => false,
        _ => equal(a, b, 0).unwrap_or(false),
    }
}

fn whole(op: Binary, x: i64, y: i64) -> R<Value> {
    let zero = || raise("ZeroDivisionError", "division by zero");
    let made = match op {
        Binary::Add => x.checked_add(y),
        Binary::Sub => x.checked_sub(y),
        Binary::Mul => x.checked_mul(y),
        Binary::Div => return if y == 0 { Err(zero()) } else { Ok(Value::Float(x as f64 / y as f64)) },
        Binary::FloorDiv | Binary::Mod if y == 0 => return Err(zero()),
        Binary::FloorDiv => x.checked_div(y).map(|q| if x % y != 0 && (x < 0) != (y < 0) { q - 1 } else { q }),
        Binary::Mod => x.checked_rem(y).map(|r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r }),
        Binary::Pow if y < 0 => return Ok(Value::Float((x as f64).powf(y as f64))),
        Binary::Pow => u32::try_from(y).ok().and_then(|y| x.checked_pow(y)),
        Binary::ShiftLeft => u32::try_from(y).ok().filter(|y| *y < 63).and_then(|y| x.checked_mul(1 << y)),
        Binary::ShiftRight => Some(x >> y.clamp(0, 63)),
        Binary::Or => Some(x | y),
        Binary::Xor => Some(x ^ y),
        Binary::And => Some(x & y),
        _ => None,
    };
    made.map(Value::Int).ok_or_else(overflow)
}

fn fraction(op: Binary, x: f64, y: f64) -> R<Value> {
    let zero = y == 0.0 && matches!(op, Binary::Div | Binary::FloorDiv | Binary::Mod);
    if zero {
        return Err(raise("ZeroDivisionError", "float division by zero"));
    }
    Ok(Value::Float(match op {
        Binary::Add => x + y,
        Binary::Sub => x - y,
        Binary::Mul => x * y,
        Binary::Div => x / y,
        Binary::FloorDiv => (x / y).floor(),
        Binary::Mod => x - y * (x / y).floor(),
        Binary::Pow => x.powf(y),
        _ => return Err(type_error("unsupported operand types for this operator: float")),
    }))
}

fn mixed(op: Binary, a: &Value, b: &Value) -> R<Value> {
    match (op, a, b) {
        (Binary::Add, Value::Str(x), Value::Str(y)) => {
            fits(x.len() + y.len())?;
            Ok(Value::string([&***x, &***y].concat()))
        }
        (Binary::Add, Value::Bytes(x), Value::Bytes(y)) => {
            fits(x.len() + y.len())?;
            Ok(Value::Bytes([&**x, &**y].concat().into()))
        }
        (Binary::Add, Value::List(x), Value::List(y)) => {
            fits(x.0.borrow().len() + y.0.borrow().len())?;
            Ok(Value::list(x.0.borrow().iter().chain(y.0.borrow().iter()).cloned().collect()))
        }
        (Binary::Add, Value::Tuple(x), Value::Tuple(y)) => {
            fits(x.len() + y.len())?;
            Ok(Value::tuple(x.iter().chain(y.iter()).cloned().collect()))
        }
        (Binary::Mul, Value::Int(n), other) | (Binary::Mul, other, Value::Int(n)) => repeat(other, *n),
        (Binary::Mod, Value::Str(s), _) => super::format::percent(s, b),
        (Binary::Or, Value::Dict(x), Value::Dict(y)) => {
            let mut map = x.map.borrow().clone();
            map.extend(y.map.borrow().iter().map(|(k, v)| (k.clone(), v.clone())));
            Ok(Value::dict(map))
        }
        (Binary::Or | Binary::And | Binary::Sub | Binary::Xor, Value::Set(x), Value::Set(y)) => {
            let (x, y) = (x.map.borrow(), y.map.borrow());
            let both = |k: &Key| (x.contains_key(k), y.contains_key(k));
            let keep = |k: &Key| match (op, both(k)) {
                (Binary::Or, _) | (Binary::And, (true, true)) | (Binary::Sub, (true, false)) => true,
                (Binary::Xor, (p, q)) => p != q,
                _ => false,
            };
            let map = x.keys().chain(y.keys()).filter(|k| keep(k)).map(|k| (k.clone(), Value::None)).collect();
            Ok(Value::Set(Rc::new(super::value::Dict::new(map))))
        }
        (Binary::Sub, Value::Date(x), Value::Date(y)) => Ok(Value::Delta(Rc::new(x.wrapping_sub(**y)))),
        (Binary::Add, Value::Date(x), Value::Delta(y)) | (Binary::Add, Value::Delta(y), Value::Date(x)) => {
            Ok(Value::Date(Rc::new(x.wrapping_add(**y))))
        }
        (Binary::Sub, Value::Date(x), Value::Delta(y)) => Ok(Value::Date(Rc::new(x.wrapping_sub(**y)))),
        (Binary::Add, Value::Delta(x), Value::Delta(y)) => Ok(Value::Delta(Rc::new(x.wrapping_add(**y)))),
        (Binary::Sub, Value::Delta(x), Value::Delta(y)) => Ok(Value::Delta(Rc::new(x.wrapping_sub(**y)))),
        _ => Err(type_error(format!(
            "unsupported operand types for {op:?}: '{}' and '{}'",
            a.type_name(),
            b.type_name()
        ))),
    }
}

fn repeat(value: &Value, n: i64) -> R<Value> {
    let n = usize::try_from(n).unwrap_or(0);
    let check = |len: usize| fits(len.saturating_mul(n));
    match value {
        Value::Str(s) => {
            check(s.len())?;
            Ok(Value::string(s.repeat(n)))
        }
        Value::Bytes(b) => {
            check(b.len())?;
            Ok(Value::Bytes(b.repeat(n).into()))
        }
        Value::List(l) => {
            check(l.0.borrow().len())?;
            Ok(Value::list(std::iter::repeat_n(l.0.borrow().iter().cloned(), n).flatten().collect()))
        }
        Value::Tuple(t) => {
            check(t.len())?;
            Ok(Value::tuple(std::iter::repeat_n(t.iter().cloned(), n).flatten().collect()))
        }
        _ => Err(type_error(format!("can't multiply '{}' by a number", value.type_name()))),
    }
}

/// Refuses what would be too long.
pub fn fits(len: usize) -> R<()> {
    if len > SIZE_LIMIT {
        Err(raise("MemoryError", format!("{len} elements or bytes: at most {SIZE_LIMIT} are kept here")))
    } else {
        Ok(())
    }
}

/// `op a`.
pub fn unary(op: Unary, a: &Value) -> R<Value> {
    match (op, a) {
        (Unary::Not, _) => Ok(Value::Bool(!truth(a))),
        (Unary::Minus, Value::Float(x)) => Ok(Value::Float(-x)),
        (Unary::Plus, Value::Float(_)) => Ok(a.clone()),
        (Unary::Minus, Value::Delta(d)) => Ok(Value::Delta(Rc::new(d.wrapping_neg()))),
        _ => {
            let n = a
                .as_int()
                .ok_or_else(|| type_error(format!("bad operand type for unary operator: '{}'", a.type_name())))?;
            match op {
                Unary::Minus => n.checked_neg().map(Value::Int).ok_or_else(overflow),
                Unary::Invert => Ok(Value::Int(!n)),
                _ => Ok(Value::Int(n)),
            }
        }
    }
}

/// `needle in hay`.
pub fn contains(hay: &Value, needle: &Value) -> R<bool> {
    match (hay, needle) {
        (Value::Str(h), Value::Str(n)) => Ok(h.contains(&***n)),
        (Value::Bytes(h), Value::Bytes(n)) => Ok(n.is_empty() || h.windows(n.len()).any(|w| w == &**n)),
        (Value::List(l), _) => any_equal(&l.0.borrow(), needle),
        (Value::Tuple(t), _) => any_equal(t, needle),
        (Value::Dict(d) | Value::Set(d), _) => Ok(d.map.borrow().contains_key(&key(needle)?)),
        (Value::Range(r), Value::Int(n)) => {
            let inside = if r[2] > 0 { *n >= r[0] && *n < r[1] } else { *n <= r[0] && *n > r[1] };
            Ok(inside && (i128::from(*n) - i128::from(r[0])) % i128::from(r[2]) == 0)
        }
        _ => Err(type_error(format!("argument of type '{}' is not iterable", hay.type_name()))),
    }
}

fn any_equal(values: &[Value], needle: &Value) -> R<bool> {
    for value in values {
        if equal(value, needle, 0)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The value as a key.
pub fn key(value: &Value) -> R<Key> {
    fn hashable(value: &Value, depth: u32) -> bool {
        match value {
            Value::List(_) | Value::Dict(_) | Value::Set(_) => false,
            Value::Tuple(t) => depth < DEPTH_LIMIT && t.iter().all(|v| hashable(v, depth + 1)),
            _ => true,
        }
    }
    if hashable(value, 0) {
        Ok(Key(value.clone()))
    } else {
        Err(type_error(format!("unhashable type: '{}'", value.type_name())))
    }
}

/// The place an index means in something of this length.
pub fn place(index: i64, len: usize) -> Option<usize> {
    let at = if index < 0 { index + len as i64 } else { index };
    usize::try_from(at).ok().filter(|at| *at < len)
}

/// `object[index]`.
pub fn index(object: &Value, at: &Value) -> R<Value> {
    if let Value::Slice(parts) = at {
        return slice(object, parts);
    }
    let number = || at.as_int().ok_or_else(|| type_error(format!("indices must be integers, not {}", at.type_name())));
    let beyond = || raise("IndexError", format!("{} index out of range", object.type_name()));
    match object {
        Value::List(l) => {
            let l = l.0.borrow();
            place(number()?, l.len()).and_then(|i| l.get(i).cloned()).ok_or_else(beyond)
        }
        Value::Tuple(t) => place(number()?, t.len()).and_then(|i| t.get(i).cloned()).ok_or_else(beyond),
        Value::Dict(d) => {
            let found = d.map.borrow().get(&key(at)?).cloned();
            found.ok_or_else(|| Raise::Missing(at.clone()))
        }
        Value::Str(s) => {
            let n = number()?;
            let found =
                if n >= 0 { s.chars().nth(n as usize) } else { s.chars().rev().nth(n.unsigned_abs() as usize - 1) };
            found.map(|c| Value::string(c.to_string())).ok_or_else(beyond)
        }
        Value::Bytes(b) => {
            place(number()?, b.len()).and_then(|i| b.get(i)).map(|b| Value::Int(i64::from(*b))).ok_or_else(beyond)
        }
        Value::Range(r) => {
            let n = place(number()?, range_len(r) as usize).ok_or_else(beyond)?;
            Ok(Value::Int(r[0] + n as i64 * r[2]))
        }
        Value::Match(m) => Ok(m.group(at)),
        _ => Err(type_error(format!("'{}' object is not subscriptable", object.type_name()))),
    }
}

fn slice(object: &Value, parts: &[Value; 3]) -> R<Value> {
    let step = parts[2].as_int().unwrap_or(1);
    if step == 0 {
        return Err(raise("ValueError", "slice step cannot be zero"));
    }
    let pick = |len: usize| -> Vec<usize> {
        let n = len as i64;
        let clamp = |v: &Value, default: i64| match v.as_int() {
            None => default,
            Some(i) if step > 0 => (if i < 0 { i.saturating_add(n) } else { i }).clamp(0, n),
            Some(i) => (if i < 0 { i.saturating_add(n) } else { i }).clamp(-1, n - 1),
        };
        let (mut at, end) = if step > 0 {
            (clamp(&parts[0], 0), clamp(&parts[1], n))
        } else {
            (clamp(&parts[0], n - 1), clamp(&parts[1], -1))
        };
        let mut picked = Vec::new();
        while (step > 0 && at < end) || (step < 0 && at > end) {
            picked.push(at as usize);
            at = at.saturating_add(step);
        }
        picked
    };
    match object {
        Value::List(l) => {
            let l = l.0.borrow();
            Ok(Value::list(pick(l.len()).into_iter().filter_map(|i| l.get(i).cloned()).collect()))
        }
        Value::Tuple(t) => Ok(Value::tuple(pick(t.len()).into_iter().filter_map(|i| t.get(i).cloned()).collect())),
        Value::Str(s) => {
            let chars: Vec<char> = s.chars().collect();
            Ok(Value::string(pick(chars.len()).into_iter().filter_map(|i| chars.get(i)).collect()))
        }
        Value::Bytes(b) => Ok(Value::Bytes(pick(b.len()).into_iter().filter_map(|i| b.get(i).copied()).collect())),
        _ => Err(type_error(format!("'{}' object cannot be sliced", object.type_name()))),
    }
}
