//! `json`, `csv`, `collections`, `itertools`, `copy`, `queue`.

use std::cell::RefCell;
use std::rc::Rc;

use indexmap::IndexMap;

use super::core::natives;
use crate::load::locust::code::Sym;
use crate::load::locust::format;
use crate::load::locust::ops::{self, DEPTH_LIMIT, key, type_error};
use crate::load::locust::value::{Iter, Key, Kids, Value};
use crate::load::locust::vm::{Args, Native, R, Vm, raise};

fn text_of_file(vm: &mut Vm<'_>, value: &Value) -> R<Vec<u8>> {
    let sym = vm.m.sym("_text");
    match value {
        Value::Str(s) => Ok(s.as_bytes().to_vec()),
        Value::Bytes(b) => Ok(b.to_vec()),
        Value::Object(o) => match o.get(sym) {
            Some(Value::Str(s)) => Ok(s.as_bytes().to_vec()),
            Some(Value::Bytes(b)) => Ok(b.to_vec()),
            _ => Err(type_error("a text or a file is needed here")),
        },
        other => Err(type_error(format!("a text or a file is needed here, not {}", other.type_name()))),
    }
}

/// `json`
pub const JSON: &[Native] = natives! {
    "dumps" => |vm, args| {
        let compact = match args.named(vm, "separators") {
            Some(Value::Tuple(t)) => t.first().and_then(Value::as_str) == Some(","),
            _ => false,
        };
        Ok(Value::string(format::to_json(args.first()?, compact)?))
    },
    "loads" => |vm, args| { let text = text_of_file(vm, args.first()?)?; format::from_json(&text) },
    "load" => |vm, args| { let text = text_of_file(vm, args.first()?)?; format::from_json(&text) },
};

fn rows(vm: &mut Vm<'_>, args: &Args) -> R<Vec<Vec<String>>> {
    let delimiter = args.named(vm, "delimiter").or_else(|| args.pos.get(1).cloned());
    let delimiter = delimiter.as_ref().and_then(Value::as_str).and_then(|s| s.chars().next()).unwrap_or(',');
    let lines = vm.all_of(args.first()?)?;
    let text: String = lines
        .iter()
        .filter_map(Value::as_str)
        .map(|l| if l.ends_with('\n') { l.to_owned() } else { format!("{l}\n") })
        .collect();
    let (mut rows, mut row, mut field) = (Vec::new(), Vec::new(), String::new());
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            '\r' if !quoted => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut field));
                let empty = row.len() == 1 && row.first().is_some_and(String::is_empty);
                let done = std::mem::take(&mut row);
                if !empty {
                    rows.push(done);
                }
            }
            c if c == delimiter && !quoted => row.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    Ok(rows)
}

fn reader(vm: &mut Vm<'_>, rows: Vec<Value>, names: Value) -> Value {
    super::object(vm.m, "File", vec![("_lines", Value::list(rows)), ("fieldnames", names)])
}

/// `csv`
pub const CSV: &[Native] = natives! {
    "reader" => |vm, args| {
        let rows = rows(vm, &args)?;
        let rows = rows.into_iter().map(|r| Value::list(r.into_iter().map(Value::string).collect())).collect();
        Ok(reader(vm, rows, Value::None))
    },
    "DictReader" => |vm, args| {
        let mut rows = rows(vm, &args)?.into_iter();
        let names: Vec<String> = match args.named(vm, "fieldnames") {
            Some(names) if !matches!(names, Value::None) => vm.all_of(&names)?.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
            _ => rows.next().unwrap_or_default(),
        };
        let keys: Vec<Value> = names.iter().map(|n| Value::str(n.trim_start_matches('\u{feff}'))).collect();
        let row = |r: Vec<String>| {
            let mut cells = r.into_iter();
            let map: IndexMap<Key, Value> = keys.iter().map(|k| (Key(k.clone()), cells.next().map_or(Value::None, Value::string))).collect();
            Value::dict(map)
        };
        let rows = rows.map(row).collect();
        Ok(reader(vm, rows, Value::list(keys.clone())))
    },
};

fn list_of(vm: &mut Vm<'_>, args: Args) -> R<Value> {
    let values = match args.pos.first() {
        Some(v) => vm.all_of(v)?,
        None => Vec::new(),
    };
    Ok(Value::list(values))
}

/// `collections`
pub const COLLECTIONS: &[Native] = natives! {
    "defaultdict" => |_, args| {
        let mut map = IndexMap::new();
        if let Some(factory) = args.pos.first() {
            map.insert(Key(Value::Hook(Sym(u32::MAX))), factory.clone());
        }
        Ok(Value::dict(map))
    },
    "OrderedDict" => |vm, args| {
        let mut map = IndexMap::new();
        if let Some(from) = args.pos.first() {
            for pair in vm.all_of(from)? {
                if let [k, v] = &vm.all_of(&pair)?[..] {
                    map.insert(key(k)?, v.clone());
                }
            }
        }
        Ok(Value::dict(map))
    },
    "deque" => list_of,
    "Counter" => |vm, args| {
        let mut map: IndexMap<Key, Value> = IndexMap::new();
        if let Some(from) = args.pos.first() {
            for value in vm.all_of(from)? {
                let slot = map.entry(key(&value)?).or_insert(Value::Int(0));
                *slot = Value::Int(slot.as_int().unwrap_or(0) + 1);
            }
        }
        Ok(Value::dict(map))
    },
};

fn iterator(iter: Iter) -> Value {
    Value::Iter(Rc::new(RefCell::new(iter)))
}

/// `itertools`
pub const ITERTOOLS: &[Native] = natives! {
    "cycle" => |vm, args| {
        let values = vm.all_of(args.first()?)?;
        if values.is_empty() { Err(raise("ValueError", "cycle() of nothing")) } else { Ok(iterator(Iter::Cycle(Kids::new(values), 0))) }
    },
    "count" => |_, args| Ok(iterator(Iter::Count(args.whole(0).unwrap_or(0), args.whole(1).unwrap_or(1)))),
    "chain" => |vm, args| {
        let mut all = Vec::new();
        for value in &args.pos {
            all.extend(vm.all_of(value)?);
            ops::fits(all.len())?;
        }
        Ok(Value::list(all))
    },
};

fn deep(value: &Value, depth: u32) -> R<Value> {
    if depth > DEPTH_LIMIT {
        return Err(raise("RecursionError", "a value too deep to copy"));
    }
    Ok(match value {
        Value::List(l) => {
            let values = l.0.borrow().to_vec();
            Value::list(values.iter().map(|v| deep(v, depth + 1)).collect::<R<_>>()?)
        }
        Value::Dict(d) => {
            let entries: Vec<_> = d.map.borrow().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            Value::dict(entries.into_iter().map(|(k, v)| Ok((k, deep(&v, depth + 1)?))).collect::<R<_>>()?)
        }
        other => other.clone(),
    })
}

/// `copy`
pub const COPY: &[Native] = natives! {
    "deepcopy" => |_, args| deep(args.first()?, 0),
    "copy" => |_, args| Ok(match args.first()? {
        Value::List(l) => Value::list(l.0.borrow().to_vec()),
        Value::Dict(d) => Value::dict(d.map.borrow().clone()),
        other => other.clone(),
    }),
};

/// `queue`
pub const QUEUE: &[Native] = natives! {
    "Queue" => |_, _| Ok(Value::list(Vec::new())),
    "LifoQueue" => |_, _| Ok(Value::list(Vec::new())),
};
