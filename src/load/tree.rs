//! A scenario file as a tree whose every key and value knows its line and column, the same for TOML and YAML.
//!
//! In: text. Out: a [`Node`], or an error with file, line and column. Invariant: hostile files cost bounded time, depth
//! and memory: at most [`DEPTH`] levels, no YAML aliases (they are how a small file becomes a big one).

use rustc_hash::FxHashSet;
use saphyr_parser::{Event, Parser, ScalarStyle};
use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result};

/// The deepest nesting that is read.
pub const DEPTH: usize = 64;
/// The largest scenario file, bytes.
pub const SIZE: usize = 16 << 20;

/// A position in a file, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The line.
    pub line: u32,
    /// The column, in characters.
    pub column: u32,
}

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where it begins.
    pub at: Place,
    /// What it is.
    pub value: Value,
}

/// A key with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Where it begins.
    pub at: Place,
    /// Its text.
    pub name: String,
}

/// What both formats can say.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing (YAML alone).
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys with their values, in the order of the file; keys are unique.
    Table(Vec<(Key, Node)>),
}

impl Value {
    /// What it is, for an error message.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// A file's name for errors about it.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a>(pub &'a str);

impl Source<'_> {
    /// An error about `at`.
    pub fn error(self, at: Place, what: impl std::fmt::Display) -> Error {
        Error::usage(format!("{}:{}:{}: {what}", self.0, at.line, at.column))
    }
}

/// Reads TOML.
///
/// # Errors
/// `Usage` with the place of the mistake.
pub fn parse_toml(source: Source<'_>, text: &str) -> Result<Node> {
    check_size(source, text)?;
    let lines = Lines::new(text);
    let table = DeTable::parse(text).map_err(|e| {
        let at = lines.place(e.span().map_or(0, |s| s.start));
        source.error(at, format_args!("not TOML: {}", e.message().trim().replace('\n', ", ")))
    })?;
    Ok(Node { at: Place { line: 1, column: 1 }, value: from_table(source, &lines, table.get_ref(), 0)? })
}

fn from_table(source: Source<'_>, lines: &Lines<'_>, table: &DeTable<'_>, depth: usize) -> Result<Value> {
    let mut entries = Vec::with_capacity(table.len());
    for (key, value) in table {
        let key = Key { at: lines.place(key.span().start), name: key.get_ref().to_string() };
        entries.push((key, from_toml(source, lines, value, depth + 1)?));
    }
    entries.sort_by_key(|(k, _)| (k.at.line, k.at.column));
    Ok(Value::Table(entries))
}

fn from_toml(source: Source<'_>, lines: &Lines<'_>, value: &toml::Spanned<DeValue<'_>>, depth: usize) -> Result<Node> {
    let at = lines.place(value.span().start);
    if depth > DEPTH {
        return Err(source.error(at, "nested too deeply"));
    }
    let value = match value.get_ref() {
        DeValue::String(s) => Value::Text(s.to_string()),
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix())
            .map(Value::Integer)
            .map_err(|_| source.error(at, "this whole number does not fit into 64 bits"))?,
        DeValue::Float(f) => {
            Value::Float(f.as_str().parse().map_err(|_| source.error(at, "this number cannot be read"))?)
        }
        DeValue::Datetime(d) => Value::Text(d.to_string()),
        DeValue::Array(list) => {
            Value::List(list.iter().map(|v| from_toml(source, lines, v, depth + 1)).collect::<Result<_>>()?)
        }
        DeValue::Table(table) => from_table(source, lines, table, depth)?,
    };
    Ok(Node { at, value })
}

/// Reads YAML (one document, no aliases, core schema).
///
/// # Errors
/// `Usage` with the place of the mistake.
pub fn parse_yaml(source: Source<'_>, text: &str) -> Result<Node> {
    check_size(source, text)?;
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            let at = Place { line: e.marker().line() as u32, column: e.marker().col() as u32 + 1 };
            source.error(at, format_args!("not YAML: {}", e.info()))
        })?;
        let at = Place { line: span.start.line() as u32, column: span.start.col() as u32 + 1 };
        let done = match event {
            Event::Alias(_) => return Err(source.error(at, "aliases (*name) are not supported in scenarios")),
            Event::Scalar(text, style, _, _) => Node { at, value: scalar(&text, style) },
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                if open.len() >= DEPTH {
                    return Err(source.error(at, "nested too deeply"));
                }
                let is_map = matches!(event, Event::MappingStart(..));
                open.push(Open {
                    at,
                    is_map,
                    key: None,
                    list: Vec::new(),
                    entries: Vec::new(),
                    names: FxHashSet::default(),
                });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(o) = open.pop() else { continue };
                Node { at: o.at, value: if o.is_map { Value::Table(o.entries) } else { Value::List(o.list) } }
            }
            Event::DocumentStart(_) if root.is_some() => {
                return Err(source.error(at, "a second document begins here; a scenario is one document"));
            }
            _ => continue,
        };
        match open.last_mut() {
            None => root = Some(done),
            Some(o) => o.take(source, done)?,
        }
    }
    root.ok_or_else(|| source.error(Place { line: 1, column: 1 }, "the file is empty"))
}

struct Open {
    at: Place,
    is_map: bool,
    key: Option<Key>,
    list: Vec<Node>,
    entries: Vec<(Key, Node)>,
    /// Of the keys, so that a million of them are no million times a million comparisons.
    names: FxHashSet<String>,
}

impl Open {
    fn take(&mut self, source: Source<'_>, node: Node) -> Result<()> {
        if !self.is_map {
            self.list.push(node);
            return Ok(());
        }
        let Some(key) = self.key.take() else {
            let name = match &node.value {
                Value::Text(t) => t.clone(),
                Value::Integer(i) => i.to_string(),
                Value::Bool(b) => b.to_string(),
                Value::Float(f) => f.to_string(),
                other => return Err(source.error(node.at, format_args!("{} cannot be a key", other.kind()))),
            };
            if !self.names.insert(name.clone()) {
                return Err(source.error(node.at, format_args!("the key '{name}' stands here twice")));
            }
            self.key = Some(Key { at: node.at, name });
            return Ok(());
        };
        self.entries.push((key, node));
        Ok(())
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::Text(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => {
            let numeric = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
            match (numeric, text.parse::<i64>(), text.parse::<f64>()) {
                (true, Ok(i), _) => Value::Integer(i),
                (true, _, Ok(f)) => Value::Float(f),
                _ => Value::Text(text.to_owned()),
            }
        }
    }
}

fn check_size(source: Source<'_>, text: &str) -> Result<()> {
    if text.len() > SIZE {
        return Err(source.error(Place { line: 1, column: 1 }, "the file is larger than 16 MB"));
    }
    Ok(())
}

/// Byte offsets to places.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Self { text, starts }
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|&s| s <= offset).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(0, |t| t.chars().count());
        Place { line: line as u32, column: column as u32 + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(node: &Node) -> String {
        match &node.value {
            Value::List(l) => format!("[{}]", l.iter().map(plain).collect::<Vec<_>>().join(",")),
            Value::Table(t) => {
                format!(
                    "{{{}}}",
                    t.iter().map(|(k, v)| format!("{}:{}", k.name, plain(v))).collect::<Vec<_>>().join(",")
                )
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn toml_and_yaml_give_the_same_tree() {
        let toml =
            parse_toml(Source("a"), "host = \"x\"\n[[user]]\nwait = { between = [1.0, 3] }\nok = true\n").unwrap();
        let yaml = parse_yaml(Source("a"), "host: x\nuser:\n - wait: {between: [1.0, 3]}\n   ok: true\n").unwrap();
        assert_eq!(plain(&toml), plain(&yaml));
        let Value::Table(t) = &toml.value else { panic!() };
        assert_eq!(t[1].0.at.line, 2);
    }

    #[test]
    fn mistakes_have_a_place() {
        let e = parse_toml(Source("a.toml"), "x = 1\ny = = 2\n").unwrap_err().to_string();
        assert!(e.starts_with("a.toml:2:5: not TOML"), "{e}");
        let e = parse_yaml(Source("a.yaml"), "x: 1\ny: [1\n").unwrap_err().to_string();
        assert!(e.starts_with("a.yaml:"), "{e}");
        for bad in ["a: &x [1]\nb: *x\n", "a: 1\na: 2\n", "", "--- 1\n--- 2\n"] {
            assert!(parse_yaml(Source("a"), bad).is_err(), "{bad}");
        }
        assert!(parse_yaml(Source("a"), &"[".repeat(1000)).is_err());
        assert!(parse_toml(Source("a"), &format!("a = {}", "[".repeat(1000))).is_err());
    }
}
