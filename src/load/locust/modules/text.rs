//! `re`, `os`, `sys`, `base64`, `urllib.parse`.

use std::rc::Rc;

use super::core::natives;
use crate::load::locust::ops::{self, truth, type_error};
use crate::load::locust::value::{Match, Value};
use crate::load::locust::vm::{Args, Native, R, Vm, raise};
use crate::load::locust::web::percent_encode;

fn regex_of(value: &Value, flags: i64) -> R<Rc<regex::Regex>> {
    match value {
        Value::Regex(r) => Ok(r.clone()),
        Value::Str(s) => {
            let mut builder = regex::RegexBuilder::new(s);
            builder
                .case_insensitive(flags & 2 != 0)
                .multi_line(flags & 8 != 0)
                .dot_matches_new_line(flags & 16 != 0)
                .size_limit(1 << 20);
            builder
                .build()
                .map(Rc::new)
                .map_err(|e| raise("ValueError", format!("a regular expression that is not supported here: {e}")))
        }
        other => Err(type_error(format!("a pattern is needed here, not {}", other.type_name()))),
    }
}

fn matched(regex: &regex::Regex, captures: &regex::Captures<'_>) -> Value {
    let groups = captures.iter().map(|g| g.map(|g| (g.start(), g.end(), g.as_str().to_owned()))).collect();
    let names = regex.capture_names().enumerate().filter_map(|(i, n)| Some((n?.to_owned(), i))).collect();
    Value::Match(Rc::new(Match { groups, names }))
}

/// A method of a compiled pattern.
pub fn regex_method(vm: &mut Vm<'_>, regex: &regex::Regex, name: &str, args: Args) -> R<Value> {
    let subject = |i: usize| -> R<String> {
        match args.pos.get(i) {
            Some(Value::Bytes(b)) => Ok(String::from_utf8_lossy(b).into_owned()),
            _ => args.text(i).map(str::to_owned),
        }
    };
    match name {
        "search" | "match" | "fullmatch" => {
            let text = subject(0)?;
            let found = regex.captures(&text).filter(|c| {
                let whole = c.get(0).map_or((1, 0), |g| (g.start(), g.end()));
                match name {
                    "match" => whole.0 == 0,
                    "fullmatch" => whole == (0, text.len()),
                    _ => true,
                }
            });
            Ok(found.map_or(Value::None, |c| matched(regex, &c)))
        }
        "findall" | "finditer" => {
            let text = subject(0)?;
            let one = |c: regex::Captures<'_>| {
                let group = |i: usize| Value::str(c.get(i).map_or("", |g| g.as_str()));
                match (name, c.len()) {
                    ("finditer", _) => matched(regex, &c),
                    (_, 1) => group(0),
                    (_, 2) => group(1),
                    (_, n) => Value::tuple((1..n).map(group).collect()),
                }
            };
            let all: Vec<Value> = regex.captures_iter(&text).take(ops::SIZE_LIMIT).map(one).collect();
            Ok(Value::list(all))
        }
        "sub" => {
            let text = subject(1)?;
            let mut out = String::new();
            let mut last = 0;
            for c in regex.captures_iter(&text) {
                let Some(whole) = c.get(0) else { continue };
                out.push_str(text.get(last..whole.start()).unwrap_or_default());
                last = whole.end();
                match args.first()? {
                    Value::Str(by) => {
                        let by = by
                            .replace('$', "$$")
                            .replace("\\1", "${1}")
                            .replace("\\2", "${2}")
                            .replace("\\g<0>", "${0}");
                        c.expand(&by, &mut out);
                    }
                    function => {
                        let made = vm.call_now(&function.clone(), Args::of(vec![matched(regex, &c)]))?;
                        out.push_str(made.as_str().unwrap_or_default());
                    }
                }
                ops::fits(out.len())?;
            }
            out.push_str(text.get(last..).unwrap_or_default());
            Ok(Value::string(out))
        }
        "split" => {
            let text = subject(0)?;
            Ok(Value::list(regex.split(&text).map(Value::str).collect()))
        }
        _ => Err(raise("AttributeError", format!("'Pattern' object has no attribute '{name}'"))),
    }
}

fn by_pattern(vm: &mut Vm<'_>, mut args: Args, name: &str) -> R<Value> {
    let place = if name == "sub" { 3 } else { 2 };
    let flags = args.get(vm, place, "flags").and_then(|v| v.as_int()).unwrap_or(0);
    let regex = regex_of(args.first()?, flags)?;
    args.pos.remove(0);
    regex_method(vm, &regex, name, args)
}

/// `re`
pub const RE: &[Native] = natives! {
    "compile" => |vm, args| {
        let flags = args.get(vm, 1, "flags").and_then(|v| v.as_int()).unwrap_or(0);
        Ok(Value::Regex(regex_of(args.first()?, flags)?))
    },
    "search" => |vm, args| by_pattern(vm, args, "search"),
    "match" => |vm, args| by_pattern(vm, args, "match"),
    "fullmatch" => |vm, args| by_pattern(vm, args, "fullmatch"),
    "findall" => |vm, args| by_pattern(vm, args, "findall"),
    "finditer" => |vm, args| by_pattern(vm, args, "finditer"),
    "sub" => |vm, args| by_pattern(vm, args, "sub"),
    "split" => |vm, args| by_pattern(vm, args, "split"),
    "escape" => |_, args| Ok(Value::string(regex::escape(args.text(0)?))),
};

/// `os`
pub const OS: &[Native] = natives! {
    "getenv" => |_, args| {
        let found = std::env::var_os(args.text(0)?);
        Ok(found.map_or_else(|| args.pos.get(1).cloned().unwrap_or(Value::None), |v| Value::string(v.to_string_lossy().into_owned())))
    },
    "getcwd" => |_, _| Ok(Value::string(std::env::current_dir().unwrap_or_default().display().to_string())),
    "getpid" => |_, _| Ok(Value::Int(i64::from(std::process::id()))),
    "urandom" => |vm, args| {
        let n = args.whole(0)?.max(0) as usize;
        ops::fits(n)?;
        Ok(Value::Bytes((0..n).map(|_| (vm.chance.bits() & 255) as u8).collect()))
    },
};

fn path(args: &Args) -> R<&std::path::Path> {
    args.text(0).map(std::path::Path::new)
}

fn as_it_is(_: &mut Vm<'_>, args: Args) -> R<Value> {
    args.first().cloned()
}

/// `os.path`
pub const OS_PATH: &[Native] = natives! {
    "join" => |_, args| {
        let mut whole = std::path::PathBuf::new();
        for i in 0..args.pos.len() {
            whole.push(args.text(i)?);
        }
        Ok(Value::string(whole.display().to_string()))
    },
    "dirname" => |_, args| Ok(Value::string(path(&args)?.parent().map(|p| p.display().to_string()).unwrap_or_default())),
    "basename" => |_, args| Ok(Value::string(path(&args)?.file_name().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default())),
    "abspath" => as_it_is,
    "realpath" => as_it_is,
    "normpath" => as_it_is,
    "expanduser" => as_it_is,
    "exists" => |_, args| Ok(Value::Bool(path(&args)?.exists())),
    "isfile" => |_, args| Ok(Value::Bool(path(&args)?.is_file())),
};

/// `sys`
pub const SYS: &[Native] = natives! { "exit" => |_, _| Err(raise("SystemExit", "sys.exit()")) };

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn bytes_of(value: &Value) -> R<&[u8]> {
    match value {
        Value::Bytes(b) => Ok(b),
        Value::Str(s) => Ok(s.as_bytes()),
        other => Err(type_error(format!("bytes are needed here, not {}", other.type_name()))),
    }
}

/// Base 64 of some bytes.
pub fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let n = three.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for i in 0..4 {
            let six = (n >> (18 - 6 * i)) & 63;
            out.push(if i <= three.len() { char::from(ALPHABET[six as usize]) } else { '=' });
        }
    }
    out
}

/// `base64`
pub const BASE64: &[Native] = natives! {
    "b64encode" => |_, args| Ok(Value::Bytes(base64(bytes_of(args.first()?)?).into_bytes().into())),
    "urlsafe_b64encode" => |_, args| Ok(Value::Bytes(base64(bytes_of(args.first()?)?).replace('+', "-").replace('/', "_").into_bytes().into())),
    "b64decode" => |_, args| {
        let mut out = Vec::new();
        let (mut n, mut bits) = (0_u32, 0);
        for byte in bytes_of(args.first()?)? {
            let Some(six) = ALPHABET.iter().position(|a| a == byte) else { continue };
            n = n << 6 | six as u32;
            bits += 6;
            if bits >= 8 {
                bits -= 8;
                out.push((n >> bits & 255) as u8);
            }
        }
        Ok(Value::Bytes(out.into()))
    },
};

/// `urllib.parse`
pub const URLLIB: &[Native] = natives! {
    "quote" => |_, args| Ok(Value::string(percent_encode(args.text(0)?, "-._~/"))),
    "quote_plus" => |_, args| Ok(Value::string(percent_encode(args.text(0)?, "-._~ ").replace(' ', "+"))),
    "urlencode" => |vm, args| Ok(Value::string(crate::load::locust::web::form(vm, args.first()?)?)),
    "urljoin" => |_, args| {
        let (base, rest) = (args.text(0)?, args.text(1)?);
        if rest.contains("://") {
            return Ok(Value::str(rest));
        }
        let origin_end = base.find("://").and_then(|i| base.get(i + 3..)?.find('/').map(|j| i + 3 + j)).unwrap_or(base.len());
        let root = if rest.starts_with('/') { base.get(..origin_end) } else { base.get(..base.rfind('/').map_or(0, |i| i + 1).max(origin_end)) };
        Ok(Value::string(format!("{}{rest}", root.unwrap_or_default())))
    },
    "unquote" => |_, args| {
        let text = args.text(0)?;
        let mut out = Vec::new();
        let mut bytes = text.bytes();
        while let Some(b) = bytes.next() {
            let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
            let pair = if b == b'%' { (hex(bytes.clone().next()), hex(bytes.clone().nth(1))) } else { (None, None) };
            match pair {
                (Some(high), Some(low)) => {
                    out.push((high * 16 + low) as u8);
                    bytes.nth(1);
                }
                _ => out.push(b),
            }
        }
        Ok(Value::string(String::from_utf8_lossy(&out).into_owned()))
    },
};

/// Whether an option of a call was given and is true.
pub fn is_on(vm: &Vm<'_>, args: &Args, name: &str, default: bool) -> bool {
    args.named(vm, name).map_or(default, |v| truth(&v))
}
