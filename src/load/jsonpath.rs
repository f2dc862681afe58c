//! JSONPath of the kind that captures need, found by scanning the bytes: no document is built.
//!
//! `$.key`, `$['key']`, `[0]`, `[-1]`, `[*]` and `.*` (the first that fits). Invariant: hostile bodies cost time linear in
//! their length for each `[-n]` or `[*]` of the path, and no memory; nesting deeper than `DEPTH` finds nothing.

/// The deepest nesting that is followed.
const DEPTH: usize = 128;

/// A path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath(Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Key(String),
    Index(i64),
    Any,
}

impl JsonPath {
    /// Reads a path; the `$` may be left out.
    ///
    /// # Errors
    /// What is not understood.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut segments = Vec::new();
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        if rest.len() == text.len() && !text.starts_with(['.', '[']) {
            return Err("it begins with $");
        }
        while !rest.is_empty() {
            if segments.len() >= DEPTH {
                return Err("too long");
            }
            if rest.starts_with("..") {
                return Err("'..' is not supported");
            }
            if let Some(r) = rest.strip_prefix('.') {
                let end = r.find(['.', '[']).unwrap_or(r.len());
                match &r[..end] {
                    "" => return Err("a key is missing"),
                    "*" => segments.push(Segment::Any),
                    key => segments.push(Segment::Key(key.to_owned())),
                }
                rest = &r[end..];
            } else if let Some(r) = rest.strip_prefix('[') {
                if let Some(quote) = r.chars().next().filter(|c| "'\"".contains(*c)) {
                    let (key, r) = r[1..].split_once(quote).ok_or("a quotation mark is missing")?;
                    segments.push(Segment::Key(key.to_owned()));
                    rest = r.strip_prefix(']').ok_or("']' is missing")?;
                } else {
                    let (inner, r) = r.split_once(']').ok_or("']' is missing")?;
                    segments.push(match inner.trim() {
                        "*" => Segment::Any,
                        n => Segment::Index(n.parse().map_err(|_| "an index, '*' or a key in quotes is wanted in []")?),
                    });
                    rest = r;
                }
            } else {
                return Err("'.' or '[' is missing");
            }
        }
        Ok(Self(segments))
    }

    /// The bytes of the value that it leads to.
    pub fn find<'a>(&self, body: &'a [u8]) -> Option<&'a [u8]> {
        let at = find(body, blanks(body, 0), &self.0)?;
        let end = skip(body, at)?;
        body.get(at..end)
    }
}

impl std::fmt::Display for JsonPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("$")?;
        for s in &self.0 {
            match s {
                Segment::Key(k) => write!(f, ".{k}")?,
                Segment::Index(i) => write!(f, "[{i}]")?,
                Segment::Any => f.write_str("[*]")?,
            }
        }
        Ok(())
    }
}

/// The text of a JSON value: strings without quotes and escapes, everything else as it stands.
pub fn text_of(raw: &[u8]) -> Option<String> {
    if raw.first() == Some(&b'"') {
        return serde_json::from_slice(raw).ok();
    }
    std::str::from_utf8(raw).ok().map(str::to_owned)
}

fn find(b: &[u8], at: usize, path: &[Segment]) -> Option<usize> {
    let Some((first, rest)) = path.split_first() else { return Some(at) };
    match (first, b.get(at)?) {
        (Segment::Key(key), b'{') => {
            members(b, at, |name, value| (name == key.as_bytes() || escaped(name, key)).then_some(value))
                .and_then(|v| find(b, v, rest))
        }
        (Segment::Index(i), b'[') => {
            let index = if *i >= 0 { *i as usize } else { count(b, at).checked_sub(i.unsigned_abs() as usize)? };
            let mut n = 0;
            let found = elements(b, at, |value| {
                n += 1;
                (n == index + 1).then_some(value)
            })?;
            find(b, found, rest)
        }
        (Segment::Any, b'[') => elements(b, at, |value| find(b, value, rest)),
        (Segment::Any, b'{') => members(b, at, |_, value| find(b, value, rest)),
        _ => None,
    }
}

fn escaped(name: &[u8], key: &str) -> bool {
    if !name.contains(&b'\\') {
        return false;
    }
    let mut quoted = Vec::with_capacity(name.len() + 2);
    quoted.push(b'"');
    quoted.extend_from_slice(name);
    quoted.push(b'"');
    serde_json::from_slice::<String>(&quoted).is_ok_and(|n| n == key)
}

fn count(b: &[u8], at: usize) -> usize {
    let mut n = 0;
    elements(b, at, |_| {
        n += 1;
        None::<usize>
    });
    n
}

fn elements<T>(b: &[u8], at: usize, mut each: impl FnMut(usize) -> Option<T>) -> Option<T> {
    let mut i = blanks(b, at + 1);
    while *b.get(i)? != b']' {
        if let Some(found) = each(i) {
            return Some(found);
        }
        i = blanks(b, skip(b, i)?);
        match b.get(i)? {
            b',' => i = blanks(b, i + 1),
            b']' => {}
            _ => return None,
        }
    }
    None
}

fn members<T>(b: &[u8], at: usize, mut each: impl FnMut(&[u8], usize) -> Option<T>) -> Option<T> {
    let mut i = blanks(b, at + 1);
    while *b.get(i)? == b'"' {
        let end = string(b, i)?;
        let name = b.get(i + 1..end - 1)?;
        i = blanks(b, end);
        if *b.get(i)? != b':' {
            return None;
        }
        i = blanks(b, i + 1);
        if let Some(found) = each(name, i) {
            return Some(found);
        }
        i = blanks(b, skip(b, i)?);
        match b.get(i)? {
            b',' => i = blanks(b, i + 1),
            _ => return None,
        }
    }
    None
}

fn blanks(b: &[u8], mut i: usize) -> usize {
    while b.get(i).is_some_and(u8::is_ascii_whitespace) {
        i += 1;
    }
    i
}

/// The end of the string that begins at `i`.
fn string(b: &[u8], i: usize) -> Option<usize> {
    let mut i = i + 1;
    loop {
        match b.get(i)? {
            b'"' => return Some(i + 1),
            b'\\' => i += 2,
            _ => i += 1,
        }
    }
}

/// The end of the value that begins at `i`.
fn skip(b: &[u8], i: usize) -> Option<usize> {
    match b.get(i)? {
        b'"' => string(b, i),
        b'{' | b'[' => {
            let (mut depth, mut i) = (0_usize, i);
            loop {
                match b.get(i)? {
                    b'"' => {
                        i = string(b, i)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                i += 1;
                if depth == 0 {
                    return Some(i);
                }
                if depth > DEPTH {
                    return None;
                }
            }
        }
        b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => {
            let end = b.get(i..)?.iter().position(|c| !(c.is_ascii_alphanumeric() || b"+-.".contains(c)));
            Some(end.map_or(b.len(), |e| i + e))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, body: &str) -> Option<String> {
        JsonPath::parse(path).unwrap().find(body.as_bytes()).and_then(text_of)
    }

    #[test]
    fn values_are_found() {
        let body = r#" {"a": {"b": [1, {"c": "x\"yé"}, -3.5]}, "odd key": true, "n": null, "k\u0065y": "v"} "#;
        for (path, value) in [
            ("$.a.b[0]", "1"),
            ("$.a.b[1].c", "x\"yé"),
            ("$.a.b[-1]", "-3.5"),
            ("$.a.b[*].c", "x\"yé"),
            ("$.*.b[0]", "1"),
            ("$['odd key']", "true"),
            ("$.n", "null"),
            ("$.key", "v"),
        ] {
            assert_eq!(get(path, body).as_deref(), Some(value), "{path}");
        }
        for none in ["$.x", "$.a.b[3]", "$.a.b[-4]", "$.a[0]", "$.n.x"] {
            assert_eq!(get(none, body), None, "{none}");
        }
        assert_eq!(get("$", "5").as_deref(), Some("5"));
    }

    #[test]
    fn hostile_bodies_find_nothing() {
        let deep = "[".repeat(100_000);
        for body in
            ["", "{", "{\"a\"", "{\"a\":", "{\"a\":}", "[1 2]", "\"", "{\"a\\", &deep, "}{", "{\"b\":1 \"a\":2}"]
        {
            assert_eq!(get("$.a", body), None, "{body:.20}");
        }
        for bad in ["", "x", "$..a", "$[", "$['a", "$.", "$[a]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }
}
