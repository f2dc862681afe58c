//! Texts of values: `str`, `repr`, `%`, `format`, JSON.
//!
//! Invariant: as in [`super::ops`], size and depth are bounded.

use std::fmt::Write;
use std::rc::Rc;

use indexmap::IndexMap;

use super::ops::{DEPTH_LIMIT, SIZE_LIMIT, fits, type_error};
use super::value::{Key, Value};
use super::vm::{R, raise};

/// `str(value)`.
pub fn text(value: &Value) -> R<String> {
    match value {
        Value::Str(s) => Ok(s.to_string()),
        Value::Object(o) if o.class.kind == super::value::ClassKind::Exception => {
            // The arguments are the first attribute of every exception.
            let args = o.attrs.borrow().first().map(|(_, v)| v.clone());
            match args {
                // The text of a KeyError is its key as Python writes it, so that an empty key can be seen.
                Some(Value::Tuple(t)) if t.len() == 1 && o.class.is_named("KeyError") => repr(&t[0]),
                Some(Value::Tuple(t)) if t.len() == 1 => t.first().map_or(Ok(String::new()), text_of_part),
                Some(Value::Tuple(t)) if t.is_empty() => Ok(String::new()),
                Some(other) => repr(&other),
                None => Ok(String::new()),
            }
        }
        _ => repr(value),
    }
}

fn text_of_part(value: &Value) -> R<String> {
    if matches!(value, Value::Object(_)) { repr(value) } else { text(value) }
}

/// `repr(value)`.
pub fn repr(value: &Value) -> R<String> {
    let mut out = String::new();
    write_repr(&mut out, value, 0)?;
    Ok(out)
}

/// A number as Python prints it.
pub fn float(x: f64) -> String {
    if x.is_nan() {
        "nan".into()
    } else if x.is_infinite() {
        if x > 0.0 { "inf".into() } else { "-inf".into() }
    } else if x != 0.0 && !(1e-4..1e16).contains(&x.abs()) {
        let text = format!("{x:e}");
        match text.split_once('e') {
            Some((mantissa, exponent)) => {
                let (sign, digits) = exponent.strip_prefix('-').map_or(("+", exponent), |d| ("-", d));
                format!("{mantissa}e{sign}{digits:0>2}")
            }
            None => text,
        }
    } else if x.fract() == 0.0 {
        format!("{x:.1}")
    } else {
        format!("{x}")
    }
}

fn quote(out: &mut String, text: &str) {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(mark);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == mark => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 32 => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(mark);
}

fn write_repr(out: &mut String, value: &Value, depth: u32) -> R<()> {
    if depth > DEPTH_LIMIT || out.len() > SIZE_LIMIT {
        return Err(raise("RecursionError", "a value too deep or long to print"));
    }
    let some = |out: &mut String, values: &mut dyn Iterator<Item = Value>| -> R<()> {
        for (i, v) in values.enumerate() {
            if i > 0 {
                out.push_str(", ");
            }
            write_repr(out, &v, depth + 1)?;
        }
        Ok(())
    };
    match value {
        Value::None => out.push_str("None"),
        Value::Bool(b) => out.push_str(if *b { "True" } else { "False" }),
        Value::Int(n) => {
            let _ = write!(out, "{n}");
        }
        Value::Float(x) => out.push_str(&float(*x)),
        Value::Str(s) => quote(out, s),
        Value::Bytes(b) => {
            out.push('b');
            quote(out, &String::from_utf8_lossy(b));
        }
        Value::List(l) => {
            out.push('[');
            let items: Vec<Value> = l.0.borrow().to_vec();
            some(out, &mut items.into_iter())?;
            out.push(']');
        }
        Value::Tuple(t) => {
            out.push('(');
            some(out, &mut t.iter().cloned())?;
            out.push_str(if t.len() == 1 { ",)" } else { ")" });
        }
        Value::Dict(d) => {
            out.push('{');
            let entries: Vec<_> = d.map.borrow().iter().map(|(k, v)| (k.0.clone(), v.clone())).collect();
            for (i, (k, v)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                write_repr(out, &k, depth + 1)?;
                out.push_str(": ");
                write_repr(out, &v, depth + 1)?;
            }
            out.push('}');
        }
        Value::Set(d) if d.map.borrow().is_empty() => out.push_str("set()"),
        Value::Set(d) => {
            out.push('{');
            let items: Vec<Value> = d.map.borrow().keys().map(|k| k.0.clone()).collect();
            some(out, &mut items.into_iter())?;
            out.push('}');
        }
        Value::Object(o) if o.class.kind == super::value::ClassKind::Exception => {
            out.push_str(&o.class.name);
            out.push('(');
            let args = o.attrs.borrow().first().map(|(_, v)| v.clone());
            if let Some(Value::Tuple(t)) = args {
                some(out, &mut t.iter().cloned())?;
            }
            out.push(')');
        }
        Value::Object(o) => {
            let _ = write!(out, "<{} object>", o.class.name);
        }
        Value::Class(c) => {
            let _ = write!(out, "<class '{}'>", c.name);
        }
        Value::Response(r) => {
            let _ = write!(out, "<Response [{}]>", r.response.status);
        }
        Value::Date(d) => out.push_str(&super::dates::iso(**d, ' ')),
        Value::Delta(d) => out.push_str(&super::dates::delta(**d)),
        Value::Range(r) => {
            let _ = write!(out, "range({}, {})", r[0], r[1]);
        }
        Value::Native(n) => {
            let _ = write!(out, "<built-in function {}>", n.name);
        }
        other => {
            let _ = write!(out, "<{}>", other.type_name());
        }
    }
    Ok(())
}

/// `text % values`.
pub fn percent(text: &str, values: &Value) -> R<Value> {
    let mut out = String::new();
    let mut next = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut named = None;
        if chars.peek() == Some(&'(') {
            chars.next();
            named = Some(chars.by_ref().take_while(|c| *c != ')').collect::<String>());
        }
        let mut spec = String::new();
        while let Some(c) = chars.peek().filter(|c| matches!(c, '0'..='9' | '.' | '-' | '+' | ' ' | '#')) {
            spec.push(*c);
            chars.next();
        }
        let kind = chars.next().ok_or_else(|| raise("ValueError", "incomplete format"))?;
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match (&named, values) {
            (Some(name), Value::Dict(d)) => d.text(name).ok_or_else(|| raise("KeyError", name.clone()))?,
            (None, Value::Tuple(t)) => {
                next += 1;
                t.get(next - 1).cloned().ok_or_else(|| type_error("not enough arguments for format string"))?
            }
            (None, one) if next == 0 => {
                next = 1;
                one.clone()
            }
            _ => return Err(type_error("not enough arguments for format string")),
        };
        let (align, spec) = match spec.strip_prefix('-') {
            Some(rest) => ("<", rest.to_owned()),
            None => (if matches!(kind, 's' | 'r') { ">" } else { "" }, spec),
        };
        let shown = match kind {
            's' => Value::string(self::text(&value)?),
            'r' => Value::string(repr(&value)?),
            'd' | 'i' | 'u' => {
                Value::Int(value.as_f64().ok_or_else(|| type_error("%d format: a number is required"))? as i64)
            }
            _ => value,
        };
        let kind = match kind {
            's' | 'r' => 's',
            'i' | 'u' => 'd',
            kind => kind,
        };
        let align = if spec.is_empty() || spec.starts_with('.') || spec.starts_with('0') { "" } else { align };
        out.push_str(&format(&shown, &format!("{align}{spec}{kind}"))?);
        fits(out.len())?;
    }
    Ok(Value::string(out))
}

/// `format(value, spec)`.
pub fn format(value: &Value, spec: &str) -> R<String> {
    if spec.is_empty() {
        return text(value);
    }
    if let Value::Date(d) = value {
        return Ok(super::dates::strftime(**d, spec));
    }
    let mut rest: Vec<char> = spec.chars().collect();
    let (mut fill, mut align) = (' ', None);
    if let [f, a @ ('<' | '>' | '^' | '='), ..] = rest[..] {
        (fill, align) = (f, Some(a));
        rest.drain(..2);
    } else if let [a @ ('<' | '>' | '^' | '='), ..] = rest[..] {
        align = Some(a);
        rest.drain(..1);
    }
    let mut chars = rest.into_iter().peekable();
    let sign = chars.next_if(|c| matches!(c, '+' | '-' | ' '));
    let alternate = chars.next_if_eq(&'#').is_some();
    if chars.next_if_eq(&'0').is_some() {
        (fill, align) = ('0', align.or(Some('=')));
    }
    let digits = |chars: &mut std::iter::Peekable<std::vec::IntoIter<char>>| {
        let mut n: Option<usize> = None;
        while let Some(d) = chars.peek().and_then(|c| c.to_digit(10)) {
            n = Some(n.unwrap_or(0).saturating_mul(10).saturating_add(d as usize));
            chars.next();
        }
        n
    };
    let width = digits(&mut chars).unwrap_or(0);
    let comma = chars.next_if(|c| matches!(c, ',' | '_'));
    let precision = if chars.next_if_eq(&'.').is_some() { digits(&mut chars) } else { None };
    let kind = chars.next();
    if chars.next().is_some() || width > 4096 || precision.is_some_and(|p| p > 4096) {
        return Err(raise("ValueError", format!("invalid format specifier '{spec}'")));
    }
    let mut body = match (kind, value) {
        (None | Some('s'), Value::Str(s)) => precision.map_or_else(|| s.to_string(), |p| s.chars().take(p).collect()),
        (Some('d'), _) => {
            value.as_int().ok_or_else(|| raise("ValueError", "format code 'd' needs a whole number"))?.to_string()
        }
        (Some('x'), _) => format!("{}{:x}", if alternate { "0x" } else { "" }, value.as_int().unwrap_or(0)),
        (Some('X'), _) => format!("{:X}", value.as_int().unwrap_or(0)),
        (Some('b'), _) => format!("{:b}", value.as_int().unwrap_or(0)),
        (Some('o'), _) => format!("{:o}", value.as_int().unwrap_or(0)),
        (Some('f' | 'F'), _) => format!("{:.*}", precision.unwrap_or(6), number(value)?),
        (Some('%'), _) => format!("{:.*}%", precision.unwrap_or(6), number(value)? * 100.0),
        (Some('e'), _) => format!("{:.*e}", precision.unwrap_or(6), number(value)?),
        (Some('g') | None, Value::Float(x)) if precision.is_some() => {
            let digits = precision.unwrap_or(6).max(1) as i32;
            let places = (digits - 1 - x.abs().max(1e-300).log10().floor() as i32).clamp(0, 300) as usize;
            let text = format!("{x:.places$}");
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
        }
        _ => text(value)?,
    };
    let numeric = matches!(value, Value::Int(_) | Value::Float(_));
    if let Some(mark) = comma {
        body = grouped(&body, mark);
    }
    if numeric && sign == Some('+') && !body.starts_with('-') {
        body.insert(0, '+');
    }
    let missing = width.saturating_sub(body.chars().count());
    let pad = |n: usize| fill.to_string().repeat(n);
    Ok(match align.unwrap_or(if numeric { '>' } else { '<' }) {
        '<' => body + &pad(missing),
        '^' => pad(missing / 2) + &body + &pad(missing - missing / 2),
        '=' => match body.strip_prefix('-') {
            Some(digits) => format!("-{}{digits}", pad(missing)),
            None => pad(missing) + &body,
        },
        _ => pad(missing) + &body,
    })
}

fn number(value: &Value) -> R<f64> {
    value
        .as_f64()
        .ok_or_else(|| raise("ValueError", format!("a number is needed for this format, not {}", value.type_name())))
}

fn grouped(number: &str, mark: char) -> String {
    let whole = number.find('.').unwrap_or(number.len());
    let mut out = String::new();
    for (i, c) in number.chars().enumerate() {
        if i > 0 && i < whole && (whole - i).is_multiple_of(3) && !out.ends_with('-') {
            out.push(mark);
        }
        out.push(c);
    }
    out
}

/// `text.format(…)`.
pub fn braces(text: &str, args: &[Value], named: &[(String, Value)]) -> R<String> {
    let mut out = String::new();
    let mut next = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '{' if chars.next_if_eq(&'{').is_some() => out.push('{'),
            '}' => {
                chars.next_if_eq(&'}');
                out.push('}');
            }
            '{' => {
                let field: String = chars.by_ref().take_while(|c| *c != '}').collect();
                let (name, spec) = field.split_once(':').unwrap_or((&field, ""));
                let (name, conversion) = name.split_once('!').unwrap_or((name, ""));
                let base = name.split(['.', '[']).next().unwrap_or(name);
                let mut value = if base.is_empty() {
                    next += 1;
                    args.get(next - 1).cloned()
                } else if let Ok(i) = base.parse::<usize>() {
                    args.get(i).cloned()
                } else {
                    named.iter().find(|(n, _)| n == base).map(|(_, v)| v.clone())
                }
                .ok_or_else(|| raise("IndexError", format!("no value for '{{{field}}}'")))?;
                if let Some(rest) = name.strip_prefix(base).filter(|r| !r.is_empty()) {
                    for part in rest.split('[').skip(1) {
                        let part = part.trim_end_matches(']');
                        let at = part.parse::<i64>().map_or_else(|_| Value::str(part), Value::Int);
                        value = super::ops::index(&value, &at)?;
                    }
                }
                if conversion == "r" {
                    value = Value::string(repr(&value)?);
                }
                out.push_str(&format(&value, spec)?);
            }
            c => out.push(c),
        }
        fits(out.len())?;
    }
    Ok(out)
}

// ---- JSON -------------------------------------------------------------------------------------------------------------

/// `json.dumps(value)`; `compact` without blanks after marks.
pub fn to_json(value: &Value, compact: bool) -> R<String> {
    let mut out = String::new();
    write_json(&mut out, value, compact, 0)?;
    Ok(out)
}

fn write_json(out: &mut String, value: &Value, compact: bool, depth: u32) -> R<()> {
    if depth > DEPTH_LIMIT || out.len() > SIZE_LIMIT {
        return Err(raise("RecursionError", "a value too deep or long for JSON"));
    }
    let (comma, colon) = if compact { (",", ":") } else { (", ", ": ") };
    let string = |out: &mut String, s: &str| out.push_str(&serde_json::to_string(s).unwrap_or_default());
    match value {
        Value::None => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Int(_) | Value::Float(_) => out.push_str(&repr(value)?),
        Value::Str(s) => string(out, s),
        Value::List(_) | Value::Tuple(_) => {
            let items: Vec<Value> = match value {
                Value::List(l) => l.0.borrow().to_vec(),
                Value::Tuple(t) => t.to_vec(),
                _ => Vec::new(),
            };
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(comma);
                }
                write_json(out, item, compact, depth + 1)?;
            }
            out.push(']');
        }
        Value::Dict(d) => {
            let entries: Vec<_> = d.map.borrow().iter().map(|(k, v)| (k.0.clone(), v.clone())).collect();
            out.push('{');
            for (i, (k, v)) in entries.iter().enumerate() {
                if i > 0 {
                    out.push_str(comma);
                }
                match k {
                    Value::Str(s) => string(out, s),
                    Value::None => out.push_str("\"null\""),
                    Value::Bool(b) => out.push_str(if *b { "\"true\"" } else { "\"false\"" }),
                    k => string(out, &text(k)?),
                }
                out.push_str(colon);
                write_json(out, v, compact, depth + 1)?;
            }
            out.push('}');
        }
        other => return Err(type_error(format!("Object of type {} is not JSON serializable", other.type_name()))),
    }
    Ok(())
}

/// `json.loads(text)`.
pub fn from_json(text: &[u8]) -> R<Value> {
    // serde_json refuses what nests deeper than 128.
    let parsed: serde_json::Value =
        serde_json::from_slice(text).map_err(|e| raise("JSONDecodeError", format!("not JSON: {e}")))?;
    Ok(of_json(parsed))
}

fn of_json(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::None,
        serde_json::Value::Bool(b) => Value::Bool(b),
        serde_json::Value::Number(n) => n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap_or(0.0)), Value::Int),
        serde_json::Value::String(s) => Value::string(s),
        serde_json::Value::Array(a) => Value::list(a.into_iter().map(of_json).collect()),
        serde_json::Value::Object(o) => {
            let map: IndexMap<Key, Value> = o.into_iter().map(|(k, v)| (Key(Value::string(k)), of_json(v))).collect();
            Value::Dict(Rc::new(super::value::Dict::new(map)))
        }
    }
}

/// Bytes as pairs of hexadecimal digits.
pub fn hex(bytes: impl IntoIterator<Item = u8>) -> String {
    let digit = |n: u8| char::from_digit(u32::from(n), 16).unwrap_or('0');
    bytes.into_iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}
