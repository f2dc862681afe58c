//! Python values of the target as short text: what `repr` would say, cut, and without secrets.
//!
//! In: the address of an object. Out: one line of text. Only built-in types are opened, no code of the target runs; all
//! else is `<module.Class at 0x…>`. Invariant: a value takes at most [`Limits::chars`] characters and a bounded number of
//! reads, whatever the memory says. What is named like a secret, and passwords in URLs, are never read out.

use std::fmt::{self, Write as _};

use super::heap::Heap;
use super::secrets;
use crate::os::memory::Fault;

/// How much of a value is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Containers in containers.
    pub depth: u8,
    /// Items of a container.
    pub items: usize,
    /// Characters of a str, and bytes of a bytes object.
    pub text: usize,
    /// Characters of the whole.
    pub chars: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: 3, items: 8, text: 80, chars: 400 }
    }
}

/// `Py_TPFLAGS_HEAPTYPE`: a class made at run time, not one of the interpreter's own.
const HEAP_TYPE: u64 = 1 << 9;
/// `Py_TPFLAGS_UNICODE_SUBCLASS`, `Py_TPFLAGS_TYPE_SUBCLASS`.
const STR_SUBCLASS: u64 = 1 << 28;
const TYPE_SUBCLASS: u64 = 1 << 31;
/// Slots of a set's table that are looked at for its first items.
const SET_SLOTS: usize = 4096;

/// What stands for a secret.
pub const REDACTED: &str = "<redacted>";

/// A type as far as we know it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Class {
    name: String,
    flags: u64,
}

impl Heap<'_> {
    /// Whether `object` is a str or of a class derived from it.
    pub fn is_str(self, object: u64) -> bool {
        let flags = self.type_of(object).and_then(|class| self.word(class, self.layout.type_flags));
        flags.is_ok_and(|flags| flags & STR_SUBCLASS != 0)
    }

    /// Whether `object`, of type `class`, is a class made at run time.
    pub fn is_python_class(self, object: u64, class: u64) -> bool {
        let flags = |class| self.word(class, self.layout.type_flags).unwrap_or(0);
        flags(class) & TYPE_SUBCLASS != 0 && flags(object) & HEAP_TYPE != 0
    }

    /// `module.Class` of a type; `Class` alone for the built-in ones.
    pub fn class_name(self, class: u64) -> Result<String, Fault> {
        let name = self.type_name(class)?;
        if self.word(class, self.layout.type_flags)? & HEAP_TYPE == 0 {
            return Ok(name);
        }
        let qualname = self.word(class, self.layout.heap_type_qualname).ok();
        let qualname = qualname.filter(|q| self.is_str(*q)).and_then(|q| self.str(q).ok());
        let dict = self.word(class, self.layout.type_dict)?;
        let module = self.dict_get(dict, "__module__").ok().flatten().filter(|m| self.is_str(*m));
        let module = module.and_then(|m| self.str(m).ok());
        let name = qualname.unwrap_or(name);
        Ok(match module {
            Some(module) if module != "builtins" => format!("{module}.{name}"),
            _ => name,
        })
    }

    fn class(self, class: u64) -> Result<Class, Fault> {
        Ok(Class { name: self.type_name(class)?, flags: self.word(class, self.layout.type_flags)? })
    }
}

/// The value at `object` as text. An address that cannot be read is shown as such.
pub fn render(heap: Heap<'_>, object: u64, limits: Limits) -> String {
    let mut writer = Writer { heap, limits, out: String::new(), reads: 4096 };
    writer.value(object, limits.depth);
    let mut out = writer.out;
    if let Some((cut, _)) = out.char_indices().nth(limits.chars) {
        out.truncate(cut);
        out.push('…');
    }
    out
}

struct Writer<'a> {
    heap: Heap<'a>,
    limits: Limits,
    out: String,
    /// Values still to be opened: containers in containers multiply.
    reads: u32,
}

impl Writer<'_> {
    fn value(&mut self, object: u64, depth: u8) {
        if object == 0 {
            self.out.push_str("<unset>");
            return;
        }
        self.reads = self.reads.saturating_sub(1);
        if self.reads == 0 || self.out.len() > self.limits.chars.saturating_mul(4) {
            self.out.push('…');
            return;
        }
        let begin = self.out.len();
        if self.known(object, depth).is_err() {
            self.out.truncate(begin);
            self.put(format_args!("<unreadable at {object:#x}>"));
        }
    }

    fn put(&mut self, what: fmt::Arguments<'_>) {
        // A String takes everything.
        let _ = self.out.write_fmt(what);
    }

    /// Opens the built-in types.
    fn known(&mut self, object: u64, depth: u8) -> Result<(), Fault> {
        let heap = self.heap;
        let type_at = heap.type_of(object)?;
        let class = heap.class(type_at)?;
        let builtin = class.flags & HEAP_TYPE == 0;
        match class.name.as_str() {
            "NoneType" if builtin => self.out.push_str("None"),
            "ellipsis" if builtin => self.out.push_str("Ellipsis"),
            "bool" if builtin => {
                let truth = heap.int(object, heap.layout.long_digits)? != 0;
                self.out.push_str(if truth { "True" } else { "False" });
            }
            "int" if builtin => {
                let text = int(heap, object)?;
                self.out.push_str(&text);
            }
            "float" if builtin => {
                let value = f64::from_bits(heap.word(object, heap.layout.float_value)?);
                self.out.push_str(&float(value));
            }
            "str" if builtin => self.text(object)?,
            "bytes" if builtin => self.bytes(object)?,
            "list" if builtin => {
                let size = heap.size(object)?;
                let at = heap.word(object, heap.layout.list_items)?;
                let items = heap.words(at, size.min(self.limits.items))?;
                self.sequence(("[", "]"), &items, size, depth);
            }
            "tuple" if builtin => {
                let size = heap.size(object)?;
                let items = heap.tuple(object, self.limits.items)?;
                if self.is_secret_pair(&items, size) {
                    self.out.push('(');
                    self.value(items.first().copied().unwrap_or(0), depth);
                    self.put(format_args!(", {REDACTED})"));
                } else {
                    self.sequence(("(", if size == 1 { ",)" } else { ")" }), &items, size, depth);
                }
            }
            "set" | "frozenset" if builtin => self.set(object, &class.name, depth)?,
            "dict" if builtin => self.dict(object, depth)?,
            _ if class.flags & TYPE_SUBCLASS != 0 => {
                let name = heap.class_name(object)?;
                self.put(format_args!("<class '{name}'>"));
            }
            _ => {
                let name = heap.class_name(type_at)?;
                self.put(format_args!("<{name} at {object:#x}>"));
            }
        }
        Ok(())
    }

    fn text(&mut self, object: u64) -> Result<(), Fault> {
        let length = self.heap.str_length(object)?;
        // A little more than is shown, so that a secret at the cut is still recognised.
        let text = secrets::mask(&self.heap.str_start(object, self.limits.text.saturating_mul(2))?);
        let shown: String = text.chars().take(self.limits.text).collect();
        self.out.push_str(&quoted(&shown));
        if length > self.limits.text {
            self.put(format_args!("… {length} characters"));
        }
        Ok(())
    }

    fn bytes(&mut self, object: u64) -> Result<(), Fault> {
        let heap = self.heap;
        let size = heap.size(object)?;
        let at = object.wrapping_add(u64::from(heap.layout.bytes_data));
        let wanted = size.min(self.limits.text.saturating_mul(2));
        let bytes = heap.memory.bytes_at(at, wanted, 1 << 20)?;
        let text: String = bytes.iter().map(|b| char::from(*b)).collect();
        let masked = secrets::mask(&text);
        self.out.push_str("b'");
        for c in masked.chars().take(self.limits.text) {
            match c {
                '\'' | '\\' => self.out.extend(['\\', c]),
                ' '..='~' => self.out.push(c),
                _ => self.put(format_args!("\\x{:02x}", c as u32)),
            }
        }
        self.out.push('\'');
        if size > self.limits.text {
            self.put(format_args!("… {size} bytes"));
        }
        Ok(())
    }

    fn sequence(&mut self, (open, close): (&str, &str), items: &[u64], size: usize, depth: u8) {
        self.out.push_str(open);
        if let Some(deeper) = depth.checked_sub(1) {
            for (i, item) in items.iter().enumerate() {
                self.out.push_str(if i == 0 { "" } else { ", " });
                self.value(*item, deeper);
            }
            self.rest(items.len(), size);
        } else {
            self.rest(0, size);
        }
        self.out.push_str(close);
    }

    fn rest(&mut self, shown: usize, size: usize) {
        if size > shown {
            self.out.push_str(if shown == 0 { "…" } else { ", …" });
            self.put(format_args!(" {size} items"));
        }
    }

    fn set(&mut self, object: u64, name: &str, depth: u8) -> Result<(), Fault> {
        let heap = self.heap;
        let size = usize::try_from(heap.word(object, heap.layout.set_used)?).unwrap_or(usize::MAX);
        let slots = usize::try_from(heap.word(object, heap.layout.set_mask)?).unwrap_or(0).saturating_add(1);
        let table = heap.words(heap.word(object, heap.layout.set_table)?, slots.min(SET_SLOTS) * 2)?;
        // Slots are (key, hash); a deleted key is a dummy with hash -1, which no key has.
        let keys = table.as_chunks::<2>().0.iter().filter(|[key, hash]| *key != 0 && *hash != u64::MAX);
        let items: Vec<u64> = keys.map(|[key, _]| *key).take(self.limits.items).collect();
        let (open, close) = match (size, name) {
            (0, _) => (format!("{name}("), ")"),
            (_, "set") => ("{".to_owned(), "}"),
            _ => (format!("{name}({{"), "})"),
        };
        self.sequence((&open, close), &items, size, depth);
        Ok(())
    }

    fn dict(&mut self, object: u64, depth: u8) -> Result<(), Fault> {
        let size = self.heap.dict_len(object)?;
        let Some(deeper) = depth.checked_sub(1).filter(|_| size > 0) else {
            self.out.push('{');
            self.rest(0, size);
            self.out.push('}');
            return Ok(());
        };
        // Deleted entries stay in the table: look a little further than what is shown.
        let mut items = self.heap.dict_items(object, self.limits.items.saturating_mul(4))?;
        items.truncate(self.limits.items);
        self.out.push('{');
        for (i, (key, value)) in items.iter().enumerate() {
            self.out.push_str(if i == 0 { "" } else { ", " });
            self.value(*key, deeper);
            self.out.push_str(": ");
            if self.is_secret_name(*key) {
                self.out.push_str(REDACTED);
            } else {
                self.value(*value, deeper);
            }
        }
        self.rest(items.len(), size);
        self.out.push('}');
        Ok(())
    }

    /// A header or a row such as `("authorization", …)`.
    fn is_secret_pair(&self, items: &[u64], size: usize) -> bool {
        size == 2 && items.first().is_some_and(|key| self.is_secret_name(*key))
    }

    fn is_secret_name(&self, key: u64) -> bool {
        let heap = self.heap;
        let name = if heap.is_str(key) {
            heap.str_start(key, 128).ok()
        } else {
            let is_bytes = heap.type_of(key).and_then(|class| heap.type_name(class)).is_ok_and(|name| name == "bytes");
            is_bytes.then(|| heap.bytes(key, 128).ok()).flatten().and_then(|b| String::from_utf8(b).ok())
        };
        name.is_some_and(|name| secrets::is_secret(&name))
    }
}

/// An int in decimal, up to 120 bits; of larger ones the size.
pub(super) fn int(heap: Heap<'_>, object: u64) -> Result<String, Fault> {
    let l = heap.layout;
    // Up to 3.11 the sign of `ob_size` is the int's; later the two lowest bits of the tag say it: 0, 1 zero, 2 negative.
    let (negative, digits) = if let Some(tag) = l.long_tag {
        let tag = heap.word(object, tag)?;
        (tag & 3 == 2, tag >> 3)
    } else {
        let size = heap.word(object, l.ob_size)? as i64;
        (size < 0, size.unsigned_abs())
    };
    let sign = if negative { "-" } else { "" };
    if digits > 4 {
        return Ok(format!(
            "<{} of about {} bits>",
            if negative { "negative int" } else { "int" },
            digits.saturating_mul(30)
        ));
    }
    let at = object.wrapping_add(u64::from(l.long_digits));
    let bytes = heap.memory.bytes_at(at, digits as usize * 4, 64)?;
    let words = bytes.as_chunks::<4>().0.iter().map(|c| u128::from(u32::from_le_bytes(*c) & ((1 << 30) - 1)));
    let value = words.enumerate().fold(0_u128, |sum, (i, digit)| sum | digit << (30 * i));
    Ok(format!("{sign}{value}"))
}

/// A float as Python writes it: the shortest digits, an exponent outside 1e-4 to 1e16.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(e) if !(-4..16).contains(&e) => format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs()),
        _ if value.fract() == 0.0 => format!("{value:.1}"),
        _ => format!("{value}"),
    }
}

/// A str in quotes, with escapes for what does not print.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_python_writes_them() {
        let cases = [(1.0, "1.0"), (-0.0, "-0.0"), (0.1, "0.1"), (1e16, "1e+16"), (123456789.0, "123456789.0")];
        let more = [(1.5e-5, "1.5e-05"), (1e-4, "0.0001"), (f64::NEG_INFINITY, "-inf"), (1e300, "1e+300")];
        for (value, text) in cases.into_iter().chain(more) {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn quotes_and_escapes() {
        assert_eq!(quoted("a'b"), "\"a'b\"");
        assert_eq!(quoted("a'\"b\n"), "'a\\'\"b\\n'");
    }
}
