//! Methods of what is built in: texts, lists, dicts, sets, matches, dates.

use std::rc::Rc;

use super::format;
use super::ops::{self, key, type_error};
use super::value::{Dict, Key, Match, Value};
use super::vm::{Args, R, Raise, Vm, extend, push_to, put, raise};

/// All names that [`call`] knows, and those of clients, answers, users and hooks: a call of anything else is refused before
/// the run.
pub const KNOWN: &[&str] = &[
    "upper",
    "lower",
    "strip",
    "lstrip",
    "rstrip",
    "split",
    "rsplit",
    "splitlines",
    "join",
    "replace",
    "startswith",
    "endswith",
    "format",
    "find",
    "rfind",
    "index",
    "count",
    "title",
    "capitalize",
    "zfill",
    "isdigit",
    "isalpha",
    "isalnum",
    "isnumeric",
    "isupper",
    "islower",
    "isspace",
    "encode",
    "decode",
    "ljust",
    "rjust",
    "center",
    "partition",
    "rpartition",
    "removeprefix",
    "removesuffix",
    "swapcase",
    "append",
    "extend",
    "insert",
    "pop",
    "remove",
    "sort",
    "reverse",
    "clear",
    "copy",
    "get",
    "keys",
    "values",
    "items",
    "update",
    "setdefault",
    "popitem",
    "fromkeys",
    "add",
    "discard",
    "union",
    "intersection",
    "difference",
    "group",
    "groups",
    "groupdict",
    "start",
    "end",
    "search",
    "match",
    "findall",
    "sub",
    "fullmatch",
    "isoformat",
    "strftime",
    "timestamp",
    "total_seconds",
    "date",
    "time",
    "weekday",
    "hex",
    "popleft",
    "appendleft",
    "put",
    "get_nowait",
    "empty",
    "put_nowait",
    "qsize",
    "isdisjoint",
    "issubset",
    "issuperset",
    "casefold",
    "acquire",
    "release",
    "read",
    "readline",
    "readlines",
    "write",
    "close",
    "post",
    "patch",
    "delete",
    "head",
    "options",
    "request",
    "json",
    "success",
    "failure",
    "iter_lines",
    "iter_content",
    "raise_for_status",
    "add_listener",
    "interrupt",
    "wait",
    "schedule_task",
    "quit",
    "stop",
    "fire",
    "on_start",
    "on_stop",
    "setup",
    "teardown",
    "run",
    "get_run_time",
    "get_current_user_count",
    "rename_request",
    "mount",
    "add_argument",
    "info",
    "debug",
    "warning",
    "warn",
    "error",
    "critical",
    "exception",
    "setLevel",
    "__init__",
    "replace",
    "seek",
    "flush",
    "choice",
    "randint",
    "random",
    "uniform",
    "shuffle",
    "sample",
    "nextrow",
    "rename",
    "writerow",
    "astimezone",
    "dict",
    "set",
    "set_header",
    "reset_all",
];

fn strings(values: impl Iterator<Item = impl AsRef<str>>) -> Value {
    Value::list(values.map(|s| Value::str(s.as_ref())).collect())
}

fn text_arg(args: &Args, i: usize) -> R<&str> {
    args.pos.get(i).and_then(Value::as_str).ok_or_else(|| type_error("a string is needed here"))
}

fn wrong(object: &Value, name: &str) -> Raise {
    raise("AttributeError", format!("'{}' object has no attribute '{name}'", object.type_name()))
}

/// `object.name(args)`
pub fn call(vm: &mut Vm<'_>, object: &Value, name: &str, args: Args) -> R<Value> {
    match object {
        Value::Str(s) => text(vm, s, name, args),
        Value::Bytes(b) => match name {
            "decode" => Ok(Value::string(String::from_utf8_lossy(b).into_owned())),
            "hex" => Ok(Value::string(format::hex(b.iter().copied()))),
            _ => text(vm, &String::from_utf8_lossy(b), name, args),
        },
        Value::List(_) => list(vm, object, name, args),
        Value::Tuple(t) => match (name, args.pos.first()) {
            ("index", Some(x)) => {
                let mut found = None;
                for (i, v) in t.iter().enumerate() {
                    if found.is_none() && ops::equal(v, x, 0)? {
                        found = Some(i);
                    }
                }
                found.map(|i| Value::Int(i as i64)).ok_or_else(|| raise("ValueError", "tuple.index(x): x not in tuple"))
            }
            ("count", Some(x)) => {
                Ok(Value::Int(t.iter().filter(|v| ops::equal(v, x, 0).unwrap_or(false)).count() as i64))
            }
            _ => Err(wrong(object, name)),
        },
        Value::Dict(d) => dict(vm, d, name, args),
        Value::Set(s) => set(vm, s, name, args),
        Value::Match(m) => matched(m, name, &args),
        Value::Regex(regex) => super::modules::text::regex_method(vm, regex, name, args),
        Value::Int(_) | Value::Float(_) => match name {
            "hex" => Ok(Value::string(format!("{:x}", object.as_int().unwrap_or(0)))),
            "is_integer" => Ok(Value::Bool(object.as_f64().is_some_and(|x| x.fract() == 0.0))),
            _ => Err(wrong(object, name)),
        },
        Value::Date(us) => match name {
            "isoformat" => Ok(Value::string(super::dates::iso(**us, 'T'))),
            "strftime" => Ok(Value::string(super::dates::strftime(**us, text_arg(&args, 0)?))),
            "timestamp" => Ok(Value::Float(**us as f64 / 1e6)),
            "date" => Ok(Value::Date(Rc::new(us.div_euclid(86_400_000_000) * 86_400_000_000))),
            "weekday" => Ok(Value::Int((us.div_euclid(86_400_000_000) + 3).rem_euclid(7))),
            "replace" | "astimezone" => Ok(object.clone()),
            _ => Err(wrong(object, name)),
        },
        Value::Delta(us) if name == "total_seconds" => Ok(Value::Float(**us as f64 / 1e6)),
        _ => Err(wrong(object, name)),
    }
}

fn text(vm: &mut Vm<'_>, s: &str, name: &str, args: Args) -> R<Value> {
    let arg = |i: usize| args.pos.get(i).and_then(Value::as_str);
    let chars = |i: usize| arg(i).map(|c| c.chars().collect::<Vec<_>>());
    let trim = |c: char, set: &Option<Vec<char>>| set.as_ref().map_or(c.is_whitespace(), |set| set.contains(&c));
    let made = match name {
        "upper" => s.to_uppercase(),
        "lower" | "casefold" => s.to_lowercase(),
        "strip" => s.trim_matches(|c| trim(c, &chars(0))).to_owned(),
        "lstrip" => s.trim_start_matches(|c| trim(c, &chars(0))).to_owned(),
        "rstrip" => s.trim_end_matches(|c| trim(c, &chars(0))).to_owned(),
        "title" | "capitalize" => {
            let mut start = true;
            let all = name == "title";
            s.chars()
                .map(|c| {
                    let out =
                        if start { c.to_uppercase().next().unwrap_or(c) } else { c.to_lowercase().next().unwrap_or(c) };
                    start = all && !c.is_alphabetic();
                    out
                })
                .collect()
        }
        "swapcase" => {
            s.chars().map(|c| if c.is_uppercase() { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() }).collect()
        }
        "replace" => {
            let (from, to) = (text_arg(&args, 0)?, text_arg(&args, 1)?);
            ops::fits(s.len().saturating_add(s.matches(from).count().saturating_mul(to.len())))?;
            match args.pos.get(2).and_then(Value::as_int) {
                Some(n) => s.replacen(from, to, usize::try_from(n).unwrap_or(usize::MAX)),
                None => s.replace(from, to),
            }
        }
        "zfill" => {
            let width = args.pos.first().and_then(Value::as_int).unwrap_or(0).clamp(0, 10_000) as usize;
            format!("{s:0>width$}")
        }
        "ljust" | "rjust" | "center" => {
            let width = args.pos.first().and_then(Value::as_int).unwrap_or(0).clamp(0, 10_000);
            let fill = arg(1).unwrap_or(" ");
            let side = match name {
                "ljust" => '<',
                "rjust" => '>',
                _ => '^',
            };
            format::format(&Value::str(s), &format!("{fill}{side}{width}"))?
        }
        "removeprefix" => s.strip_prefix(text_arg(&args, 0)?).unwrap_or(s).to_owned(),
        "removesuffix" => s.strip_suffix(text_arg(&args, 0)?).unwrap_or(s).to_owned(),
        "format" => {
            let named: Vec<_> = args.kw.iter().map(|(n, v)| (vm.m.name(*n).to_string(), v.clone())).collect();
            format::braces(s, &args.pos, &named)?
        }
        "join" => {
            let parts = args.pos.first().cloned().unwrap_or(Value::None);
            let parts = vm.all_of(&parts)?;
            let parts: Vec<&str> = parts.iter().filter_map(Value::as_str).collect();
            ops::fits(parts.iter().map(|p| p.len() + s.len()).sum())?;
            parts.join(s)
        }
        _ => return text_facts(vm, s, name, &args),
    };
    Ok(Value::string(made))
}

fn text_facts(vm: &mut Vm<'_>, s: &str, name: &str, args: &Args) -> R<Value> {
    let any = |f: fn(char) -> bool| Value::Bool(!s.is_empty() && s.chars().all(f));
    let prefix = |f: &dyn Fn(&str) -> bool| match args.pos.first() {
        Some(Value::Str(p)) => Ok(Value::Bool(f(p))),
        Some(Value::Tuple(t)) => Ok(Value::Bool(t.iter().filter_map(Value::as_str).any(f))),
        _ => Err(type_error("a string or a tuple of strings is needed here")),
    };
    let at = |byte: Option<usize>| byte.map_or(-1, |b| s.get(..b).map_or(0, |head| head.chars().count()) as i64);
    Ok(match name {
        "startswith" => prefix(&|p| s.starts_with(p))?,
        "endswith" => prefix(&|p| s.ends_with(p))?,
        "isdigit" | "isnumeric" => any(char::is_numeric),
        "isalpha" => any(char::is_alphabetic),
        "isalnum" => any(char::is_alphanumeric),
        "isspace" => any(char::is_whitespace),
        "isupper" => Value::Bool(s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase)),
        "islower" => Value::Bool(s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase)),
        "find" => Value::Int(at(s.find(text_arg(args, 0)?))),
        "rfind" => Value::Int(at(s.rfind(text_arg(args, 0)?))),
        "index" => match s.find(text_arg(args, 0)?) {
            Some(b) => Value::Int(at(Some(b))),
            None => return Err(raise("ValueError", "substring not found")),
        },
        "count" => Value::Int(s.matches(text_arg(args, 0)?).count() as i64),
        "encode" => Value::Bytes(s.as_bytes().into()),
        "splitlines" => strings(s.lines()),
        "split" | "rsplit" => {
            let sep = args
                .pos
                .first()
                .cloned()
                .or_else(|| args.kw.iter().find(|(n, _)| &*vm.m.name(*n) == "sep").map(|(_, v)| v.clone()));
            let max =
                args.pos.get(1).or_else(|| args.kw.iter().find(|(n, _)| &*vm.m.name(*n) == "maxsplit").map(|(_, v)| v));
            let max = max
                .and_then(Value::as_int)
                .and_then(|n| usize::try_from(n).ok())
                .map_or(usize::MAX, |n| n.saturating_add(1));
            match sep.as_ref().and_then(Value::as_str) {
                Some("") => return Err(raise("ValueError", "empty separator")),
                Some(sep) if name == "rsplit" => {
                    let mut parts: Vec<&str> = s.rsplitn(max, sep).collect();
                    parts.reverse();
                    strings(parts.into_iter())
                }
                Some(sep) => strings(s.splitn(max, sep)),
                None => strings(s.split_whitespace()),
            }
        }
        "partition" | "rpartition" => {
            let sep = text_arg(args, 0)?;
            let split = if name == "partition" { s.split_once(sep) } else { s.rsplit_once(sep) };
            let parts = match split {
                Some((a, b)) => [a, sep, b],
                None if name == "partition" => [s, "", ""],
                None => ["", "", s],
            };
            Value::tuple(parts.iter().map(|p| Value::str(p)).collect())
        }
        "isoformat" | "hex" => return Err(wrong(&Value::str(s), name)),
        _ => return Err(wrong(&Value::str(s), name)),
    })
}

fn list(vm: &mut Vm<'_>, object: &Value, name: &str, args: Args) -> R<Value> {
    let Value::List(l) = object else { return Err(wrong(object, name)) };
    let first = args.pos.first().cloned();
    match (name, first) {
        ("append" | "put" | "put_nowait", Some(value)) => push_to(l, value).map(|()| Value::None),
        ("extend", Some(more)) => {
            let more = vm.all_of(&more)?;
            extend(l, more).map(|()| Value::None)
        }
        ("insert", Some(at)) => {
            let value = args.pos.get(1).cloned().unwrap_or(Value::None);
            let mut values = l.0.borrow_mut();
            ops::fits(values.len() + 1)?;
            let len = values.len();
            let at = at.as_int().unwrap_or(0);
            let at = (if at < 0 { at.saturating_add(len as i64) } else { at }).clamp(0, len as i64) as usize;
            values.insert(at, value);
            values.settle();
            Ok(Value::None)
        }
        ("appendleft", Some(value)) => {
            l.0.borrow_mut().insert(0, value);
            Ok(Value::None)
        }
        ("pop", at) => {
            let at = at.and_then(|v| v.as_int()).unwrap_or(-1);
            let mut values = l.0.borrow_mut();
            let place = ops::place(at, values.len()).ok_or_else(|| raise("IndexError", "pop from empty list"))?;
            Ok(values.remove(place))
        }
        ("popleft" | "get_nowait" | "get", _) => {
            let mut values = l.0.borrow_mut();
            if values.is_empty() { Err(raise("IndexError", "pop from an empty deque")) } else { Ok(values.remove(0)) }
        }
        ("remove" | "index" | "count", Some(x)) => {
            let values = l.0.borrow().to_vec();
            let mut found = Vec::new();
            for (i, v) in values.iter().enumerate() {
                if ops::equal(v, &x, 0)? {
                    found.push(i);
                }
            }
            match (name, found.first()) {
                ("count", _) => Ok(Value::Int(found.len() as i64)),
                ("index", Some(i)) => Ok(Value::Int(*i as i64)),
                (_, Some(i)) => {
                    let old = l.0.borrow_mut().remove(*i);
                    drop(old);
                    Ok(Value::None)
                }
                _ => Err(raise("ValueError", format!("list.{name}(x): x not in list"))),
            }
        }
        ("sort", _) => {
            let values = l.0.borrow().to_vec();
            let sorted = super::modules::core::sort(vm, values, &args)?;
            **l.0.borrow_mut() = sorted;
            Ok(Value::None)
        }
        ("reverse", _) => {
            l.0.borrow_mut().reverse();
            Ok(Value::None)
        }
        ("clear", _) => {
            let old = std::mem::take(&mut **l.0.borrow_mut());
            drop(Value::list(old));
            Ok(Value::None)
        }
        ("copy", _) => Ok(Value::list(l.0.borrow().to_vec())),
        ("empty", _) => Ok(Value::Bool(l.0.borrow().is_empty())),
        ("qsize", _) => Ok(Value::Int(l.0.borrow().len() as i64)),
        _ => Err(wrong(object, name)),
    }
}

fn dict(vm: &mut Vm<'_>, d: &Rc<Dict>, name: &str, args: Args) -> R<Value> {
    let or_none = |v: Option<&Value>| v.cloned().unwrap_or(Value::None);
    let object = || Value::Dict(d.clone());
    match (name, args.pos.first()) {
        ("get", Some(k)) => {
            let found = d.map.borrow().get(&key(k)?).cloned();
            Ok(found.unwrap_or_else(|| or_none(args.pos.get(1))))
        }
        ("keys", _) => Ok(Value::list(d.map.borrow().keys().map(|k| k.0.clone()).collect())),
        ("values", _) => Ok(Value::list(d.map.borrow().values().cloned().collect())),
        ("items", _) => {
            Ok(Value::list(d.map.borrow().iter().map(|(k, v)| Value::tuple(vec![k.0.clone(), v.clone()])).collect()))
        }
        ("update", more) => {
            let mut entries: Vec<(Key, Value)> = Vec::new();
            match more {
                Some(Value::Dict(more)) => {
                    entries.extend(more.map.borrow().iter().map(|(k, v)| (k.clone(), v.clone())));
                }
                Some(other) => {
                    for pair in vm.all_of(other)? {
                        let pair = vm.all_of(&pair)?;
                        if let [k, v] = &pair[..] {
                            entries.push((key(k)?, v.clone()));
                        }
                    }
                }
                None => {}
            }
            for (name, value) in &args.kw {
                entries.push((Key(Value::str(&vm.m.name(*name))), value.clone()));
            }
            for (k, v) in entries {
                put(d, k, v)?;
            }
            Ok(Value::None)
        }
        ("setdefault", Some(k)) => {
            let k = key(k)?;
            if let Some(found) = d.map.borrow().get(&k) {
                return Ok(found.clone());
            }
            let value = or_none(args.pos.get(1));
            put(d, k, value.clone())?;
            Ok(value)
        }
        ("pop", Some(k)) => {
            let found = d.map.borrow_mut().shift_remove(&key(k)?);
            match (found, args.pos.get(1)) {
                (Some(value), _) => Ok(value),
                (None, Some(default)) => Ok(default.clone()),
                (None, None) => Err(Raise::Missing(k.clone())),
            }
        }
        ("popitem", _) => {
            let last = d.map.borrow_mut().pop();
            last.map(|(k, v)| Value::tuple(vec![k.0, v]))
                .ok_or_else(|| raise("KeyError", "popitem(): dictionary is empty"))
        }
        ("copy" | "dict", _) => Ok(Value::dict(d.map.borrow().clone())),
        ("clear", _) => {
            let old = std::mem::take(&mut *d.map.borrow_mut());
            drop(Value::dict(old));
            Ok(Value::None)
        }
        // What a client's cookies and Locust's own containers are asked for, and which a dict has not.
        ("set", Some(k)) => {
            put(d, key(k)?, or_none(args.pos.get(1)))?;
            Ok(Value::None)
        }
        _ => Err(wrong(&object(), name)),
    }
}

fn set(vm: &mut Vm<'_>, s: &Rc<Dict>, name: &str, args: Args) -> R<Value> {
    let other = |vm: &mut Vm<'_>| -> R<indexmap::IndexMap<Key, Value>> {
        let more = args.pos.first().cloned().unwrap_or(Value::None);
        vm.all_of(&more)?.iter().map(|v| Ok((key(v)?, Value::None))).collect()
    };
    let make = |map| Ok(Value::Set(Rc::new(Dict::new(map))));
    match (name, args.pos.first()) {
        ("add", Some(v)) => put(s, key(v)?, Value::None).map(|()| Value::None),
        ("discard" | "remove", Some(v)) => {
            let old = s.map.borrow_mut().shift_remove(&key(v)?);
            if old.is_none() && name == "remove" { Err(Raise::Missing(v.clone())) } else { Ok(Value::None) }
        }
        ("pop", _) => {
            let last = s.map.borrow_mut().pop();
            last.map(|(k, _)| k.0).ok_or_else(|| raise("KeyError", "pop from an empty set"))
        }
        ("copy", _) => make(s.map.borrow().clone()),
        ("clear", _) => {
            let old = std::mem::take(&mut *s.map.borrow_mut());
            drop(Value::dict(old));
            Ok(Value::None)
        }
        ("update", _) => {
            for (k, v) in other(vm)? {
                put(s, k, v)?;
            }
            Ok(Value::None)
        }
        ("union", _) => {
            let mut map = s.map.borrow().clone();
            map.extend(other(vm)?);
            make(map)
        }
        ("intersection" | "difference", _) => {
            let other = other(vm)?;
            let keep = name == "intersection";
            make(
                s.map
                    .borrow()
                    .iter()
                    .filter(|(k, _)| other.contains_key(*k) == keep)
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect(),
            )
        }
        ("issubset", _) => {
            let other = other(vm)?;
            Ok(Value::Bool(s.map.borrow().keys().all(|k| other.contains_key(k))))
        }
        ("issuperset", _) => {
            let other = other(vm)?;
            Ok(Value::Bool(other.keys().all(|k| s.map.borrow().contains_key(k))))
        }
        _ => Err(wrong(&Value::Set(s.clone()), name)),
    }
}

impl Match {
    /// The group of that number or name; `None` where there is none.
    pub fn group(&self, which: &Value) -> Value {
        let number = match which {
            Value::Str(name) => self.names.iter().find(|(n, _)| **n == ***name).map(|(_, i)| *i),
            other => other.as_int().and_then(|n| usize::try_from(n).ok()),
        };
        number
            .and_then(|i| self.groups.get(i))
            .and_then(Option::as_ref)
            .map_or(Value::None, |(_, _, text)| Value::str(text))
    }
}

fn matched(m: &Match, name: &str, args: &Args) -> R<Value> {
    let text = |g: &Option<(usize, usize, String)>| g.as_ref().map_or(Value::None, |(_, _, t)| Value::str(t));
    let place = args.pos.first().and_then(Value::as_int).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let span = m.groups.get(place).and_then(Option::as_ref);
    match name {
        "group" if args.pos.len() > 1 => Ok(Value::tuple(args.pos.iter().map(|a| m.group(a)).collect())),
        "group" => Ok(m.group(args.pos.first().unwrap_or(&Value::Int(0)))),
        "groups" => Ok(Value::tuple(m.groups.iter().skip(1).map(text).collect())),
        "groupdict" => {
            let entry = |(name, i): &(String, usize)| (Key(Value::str(name)), m.group(&Value::Int(*i as i64)));
            Ok(Value::dict(m.names.iter().map(entry).collect()))
        }
        "start" => Ok(Value::Int(span.map_or(-1, |s| s.0 as i64))),
        "end" => Ok(Value::Int(span.map_or(-1, |s| s.1 as i64))),
        _ => Err(raise("AttributeError", format!("'Match' object has no attribute '{name}'"))),
    }
}
