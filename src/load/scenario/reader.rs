//! Taking a table apart: each key is asked for once, what was not asked for is a mistake.

use crate::error::{Error, Result};
use crate::load::tree::{Key, Node, Place, Source, Value};
use crate::units::Nanos;

/// A table being read.
pub struct Table<'a> {
    pub source: Source<'a>,
    pub at: Place,
    what: &'static str,
    entries: Vec<Option<(&'a Key, &'a Node)>>,
    asked: Vec<&'static str>,
}

impl<'a> Table<'a> {
    /// The table that `node` is; `what` names it in errors.
    pub fn of(source: Source<'a>, node: &'a Node, what: &'static str) -> Result<Self> {
        match &node.value {
            Value::Table(entries) => Ok(Self {
                source,
                at: node.at,
                what,
                entries: entries.iter().map(|(k, v)| Some((k, v))).collect(),
                asked: Vec::new(),
            }),
            other => {
                Err(source.error(node.at, format_args!("{what} must be a table with keys, this is {}", other.kind())))
            }
        }
    }

    /// The value of `key`, once.
    pub fn take(&mut self, key: &'static str) -> Option<(&'a Key, &'a Node)> {
        self.asked.push(key);
        self.entries.iter_mut().find(|e| e.is_some_and(|(k, _)| k.name == key))?.take()
    }

    /// Everything that is left, in order.
    pub fn rest(&mut self) -> Vec<(&'a Key, &'a Node)> {
        self.entries.iter_mut().filter_map(Option::take).collect()
    }

    /// Refuses keys that were not asked for.
    pub fn finish(self) -> Result<()> {
        let Some((key, _)) = self.entries.iter().flatten().next() else { return Ok(()) };
        let near = self.asked.iter().find(|a| is_near(a, &key.name));
        let hint = near.map_or_else(String::new, |n| format!(" (did you mean '{n}'?)"));
        Err(self
            .source
            .error(key.at, format_args!("{} has no key '{}'{hint}", self.what, key.name))
            .advise(format!("allowed here: {}", self.asked.join(", "))))
    }

    pub fn text(&mut self, key: &'static str) -> Result<Option<(Place, &'a str)>> {
        let Some((_, node)) = self.take(key) else { return Ok(None) };
        text(self.source, node, key).map(|t| Some((node.at, t)))
    }

    pub fn duration(&mut self, key: &'static str) -> Result<Option<u64>> {
        let Some((_, node)) = self.take(key) else { return Ok(None) };
        duration(self.source, node, key).map(Some)
    }

    pub fn whole(&mut self, key: &'static str, low: i64, high: i64) -> Result<Option<i64>> {
        let Some((_, node)) = self.take(key) else { return Ok(None) };
        match node.value {
            Value::Integer(i) if (low..=high).contains(&i) => Ok(Some(i)),
            _ => Err(wrong(self.source, node, key, &format!("a whole number from {low} to {high}"))),
        }
    }

    pub fn flag(&mut self, key: &'static str) -> Result<Option<bool>> {
        let Some((_, node)) = self.take(key) else { return Ok(None) };
        match node.value {
            Value::Bool(b) => Ok(Some(b)),
            _ => Err(wrong(self.source, node, key, "true or false")),
        }
    }

    /// A list; a single value counts as a list of one.
    pub fn list(&mut self, key: &'static str) -> Vec<&'a Node> {
        match self.take(key) {
            None => Vec::new(),
            Some((_, node)) => items(node),
        }
    }

    pub fn texts(&mut self, key: &'static str) -> Result<Vec<String>> {
        let source = self.source;
        self.list(key).into_iter().map(|n| text(source, n, key).map(str::to_owned)).collect()
    }
}

/// The items of a list, or the value itself.
pub fn items(node: &Node) -> Vec<&Node> {
    match &node.value {
        Value::List(list) => list.iter().collect(),
        _ => vec![node],
    }
}

/// What a value should have been.
pub fn wrong(source: Source<'_>, node: &Node, key: &str, wanted: &str) -> Error {
    let found = match &node.value {
        Value::Integer(i) => i.to_string(),
        Value::Float(f) => f.to_string(),
        Value::Text(t) => format!("'{}'", t.chars().take(40).collect::<String>()),
        other => other.kind().to_owned(),
    };
    source.error(node.at, format_args!("'{key}' is {found}")).advise(format!("'{key}' takes {wanted}"))
}

pub fn text<'a>(source: Source<'_>, node: &'a Node, key: &str) -> Result<&'a str> {
    match &node.value {
        Value::Text(t) => Ok(t),
        _ => Err(wrong(source, node, key, "text in quotation marks")),
    }
}

pub fn number(source: Source<'_>, node: &Node, key: &str) -> Result<f64> {
    match node.value {
        Value::Integer(i) => Ok(i as f64),
        Value::Float(f) if f.is_finite() => Ok(f),
        _ => Err(wrong(source, node, key, "a number")),
    }
}

/// Nanoseconds of a number (seconds) or a text such as `500ms`.
pub fn duration(source: Source<'_>, node: &Node, key: &str) -> Result<u64> {
    const WANTED: &str = "seconds (1.5) or a duration ('500ms', '2s', '1m30')";
    match &node.value {
        Value::Integer(i) if (0..=1_000_000_000).contains(i) => Ok(*i as u64 * 1_000_000_000),
        Value::Float(f) if (0.0..=1e9).contains(f) => Ok(Nanos::from_secs_f64(*f).0),
        Value::Text(t) => t.parse::<Nanos>().map(|n| n.0).map_err(|_| wrong(source, node, key, WANTED)),
        _ => Err(wrong(source, node, key, WANTED)),
    }
}

/// Whether one is the other with a letter changed, added, left out or two swapped.
fn is_near(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().take(64).collect());
    let front = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let back = a[front..].iter().rev().zip(b[front..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[front..a.len() - back], &b[front..b.len() - back]);
    a.len().max(b.len()) == 1 || (a.len() == 2 && b.len() == 2 && a[0] == b[1] && a[1] == b[0])
}
