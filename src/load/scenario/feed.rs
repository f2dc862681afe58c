//! Feeders: rows of data that templates pick from.

use std::io::Read;
use std::path::Path;

use super::reader::{Table, items, text, wrong};
use crate::error::Result;
use crate::load::tree::{Key, Node, Source, Value};

/// The largest data file, bytes.
const SIZE: u64 = 256 << 20;
/// Columns of data; each is looked for in each row.
const COLUMNS: usize = 1000;

/// Rows with named columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feeder {
    /// Its name in templates.
    pub name: String,
    /// How rows are chosen.
    pub mode: FeederMode,
    /// Names of the columns; data without names have one, `value`.
    pub columns: Vec<String>,
    /// The rows, each as wide as `columns`; there is at least one.
    pub rows: Vec<Vec<String>>,
}

/// How rows are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FeederMode {
    /// Any row, again and again.
    #[default]
    Random,
    /// One after the other, from the first again at the end.
    Sequential,
    /// Each row once in the whole run; a user that gets none ends.
    Unique,
}

/// Reads one entry of `[data]`: a list of values or of tables, or `{ csv|json = "FILE", mode = … }`, or
/// `{ values = […], mode = … }`.
pub fn read(source: Source<'_>, key: &Key, node: &Node, base: &Path) -> Result<Feeder> {
    let name = key.name.clone();
    let mut mode = FeederMode::default();
    let (columns, rows) = if let Value::List(_) = node.value {
        from_list(source, node)?
    } else {
        let mut t = Table::of(source, node, "data")?;
        let (csv, json, values) = (t.text("csv")?, t.text("json")?, t.take("values"));
        if let Some((_, n)) = t.take("mode") {
            mode = match text(source, n, "mode")? {
                "random" => FeederMode::Random,
                "sequential" => FeederMode::Sequential,
                "unique" => FeederMode::Unique,
                _ => return Err(wrong(source, n, "mode", "'random', 'sequential' or 'unique'")),
            };
        }
        t.finish()?;
        let open = |at, file: &str| {
            let path = base.join(file);
            read_whole(&path, SIZE).map_err(|e| source.error(at, format_args!("cannot read {}: {e}", path.display())))
        };
        match (csv, json, values) {
            (Some((at, file)), None, None) => {
                let content = open(at, file)?;
                parse_csv(&content).map_err(|(line, e)| source.error(at, format_args!("{file}:{line}: {e}")))?
            }
            (None, Some((at, file)), None) => {
                let content = open(at, file)?;
                from_json(&content).map_err(|e| source.error(at, format_args!("{file}: {e}")))?
            }
            (None, None, Some((_, list))) => from_list(source, list)?,
            _ => return Err(source.error(node.at, format_args!("the data '{name}' take one of csv, json and values"))),
        }
    };
    if rows.is_empty() {
        return Err(source.error(node.at, format_args!("the data '{name}' have no rows")));
    }
    Ok(Feeder { name, mode, columns, rows })
}

/// The text of a file of at most `limit` bytes; devices and pipes that never end are told from files by nothing else.
pub(super) fn read_whole(path: &Path, limit: u64) -> std::result::Result<String, String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mut text = String::new();
    let read = file.take(limit + 1).read_to_string(&mut text);
    if text.len() as u64 > limit {
        return Err(format!("it is larger than {} MB", limit >> 20));
    }
    read.map(|_| text).map_err(|e| e.to_string())
}

type Rows = (Vec<String>, Vec<Vec<String>>);

fn from_list(source: Source<'_>, node: &Node) -> Result<Rows> {
    let plain = |n: &Node| match &n.value {
        Value::Text(t) => Ok(t.clone()),
        Value::Integer(i) => Ok(i.to_string()),
        Value::Float(f) => Ok(f.to_string()),
        Value::Bool(b) => Ok(b.to_string()),
        _ => Err(wrong(source, n, "data", "texts or numbers, or tables of them")),
    };
    let list = items(node);
    let Some(Node { value: Value::Table(first), .. }) = list.first() else {
        let rows = list.into_iter().map(|n| plain(n).map(|t| vec![t])).collect::<Result<_>>()?;
        return Ok((vec!["value".to_owned()], rows));
    };
    let columns: Vec<String> = first.iter().map(|(k, _)| k.name.clone()).collect();
    if columns.len() > COLUMNS {
        return Err(source.error(node.at, format_args!("a row of data has at most {COLUMNS} columns")));
    }
    let mut rows = Vec::with_capacity(list.len());
    for n in list {
        let Value::Table(entries) = &n.value else {
            return Err(wrong(source, n, "data", "a table like the first row"));
        };
        let cell = |c: &String| match entries.iter().find(|(k, _)| k.name == *c) {
            Some((_, v)) => plain(v),
            None => Err(source.error(n.at, format_args!("this row has no '{c}'"))),
        };
        rows.push(columns.iter().map(cell).collect::<Result<_>>()?);
    }
    Ok((columns, rows))
}

fn from_json(content: &str) -> std::result::Result<Rows, String> {
    use serde_json::Value as J;
    let plain = |v: &J| match v {
        J::String(s) => s.clone(),
        other => other.to_string(),
    };
    let J::Array(list) = serde_json::from_str(content).map_err(|e| e.to_string())? else {
        return Err("a list of rows is wanted".to_owned());
    };
    match list.first() {
        Some(J::Object(first)) => {
            let columns: Vec<String> = first.keys().cloned().collect();
            let cell = |row: &J, c: &String| row.get(c).map(plain).ok_or_else(|| format!("a row has no '{c}'"));
            let row = |r: &J| columns.iter().map(|c| cell(r, c)).collect::<std::result::Result<Vec<_>, _>>();
            let rows = list.iter().map(row).collect::<std::result::Result<_, _>>()?;
            Ok((columns, rows))
        }
        _ => Ok((vec!["value".to_owned()], list.iter().map(|v| vec![plain(v)]).collect())),
    }
}

/// CSV by RFC 4180; the first line has the columns' names.
fn parse_csv(content: &str) -> std::result::Result<Rows, (usize, String)> {
    let content = content.strip_prefix('\u{feff}').unwrap_or(content);
    let mut table: Vec<Vec<String>> = Vec::new();
    let (mut row, mut cell, mut quoted, mut line, mut started) = (Vec::new(), String::new(), false, 1, false);
    let mut chars = content.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\n' {
            line += 1;
        }
        if quoted {
            match (c, chars.peek()) {
                ('"', Some('"')) => {
                    chars.next();
                    cell.push('"');
                }
                ('"', _) => quoted = false,
                _ => cell.push(c),
            }
            continue;
        }
        match c {
            '"' if cell.is_empty() => (quoted, started) = (true, true),
            ',' => {
                row.push(std::mem::take(&mut cell));
                started = true;
            }
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                if started || !cell.is_empty() {
                    row.push(std::mem::take(&mut cell));
                    table.push(std::mem::take(&mut row));
                }
                started = false;
            }
            _ => cell.push(c),
        }
    }
    if quoted {
        return Err((line, "a quotation mark is not closed".to_owned()));
    }
    if started || !cell.is_empty() {
        row.push(cell);
        table.push(row);
    }
    let mut rows = table.into_iter();
    let columns: Vec<String> = rows.next().ok_or((1, "the file is empty".to_owned()))?;
    let rows: Vec<_> = rows.collect();
    match rows.iter().position(|r| r.len() != columns.len()) {
        Some(i) => Err((i + 2, format!("row {} has {} cells, the first line {}", i + 1, rows[i].len(), columns.len()))),
        None => Ok((columns.iter().map(|c| c.trim().to_owned()).collect(), rows)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_with_quotes() {
        let (columns, rows) = parse_csv("a,b\r\n1,\"x, \"\"y\"\"\nz\"\n\n,2\n").unwrap();
        assert_eq!(columns, ["a", "b"]);
        assert_eq!(rows, [["1", "x, \"y\"\nz"], ["", "2"]]);
        assert_eq!(parse_csv("a\n1,2\n").unwrap_err().0, 2);
        assert!(parse_csv("").is_err() && parse_csv("a\n\"").is_err());
    }

    #[test]
    fn json_rows() {
        assert_eq!(from_json(r#"[{"a":1},{"a":"x"}]"#).unwrap().1, [["1"], ["x"]]);
        assert_eq!(from_json(r#"["x", 2]"#).unwrap().1, [["x"], ["2"]]);
        assert!(from_json("{}").is_err() && from_json(r#"[{"a":1},{}]"#).is_err());
    }
}
