//! Iterators: over lists, texts, tables, ranges and what is made of them.

use super::{Iter, R, Rc, RefCell, Value, Vm, bug, ops, type_error};

impl Vm<'_> {
    /// All elements of something iterable.
    pub fn all_of(&mut self, value: &Value) -> R<Vec<Value>> {
        match value {
            Value::List(l) => Ok(l.0.borrow().to_vec()),
            Value::Tuple(t) => Ok(t.to_vec()),
            _ => {
                let Value::Iter(iter) = self.iterate(value)? else { return Err(bug("no iterator")) };
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
    pub fn iterate(&mut self, value: &Value) -> R<Value> {
        let iter = match value {
            Value::Iter(_) => return Ok(value.clone()),
            Value::List(l) => Iter::List(l.clone(), 0),
            Value::Tuple(t) => Iter::Values(t.iter().cloned().collect::<Vec<_>>().into_iter()),
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

/// The next of an iterator.
pub(in crate::load::locust) fn advance(iter: &RefCell<Iter>) -> Option<Value> {
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
