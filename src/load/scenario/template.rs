//! `${…}` in texts of a scenario: parsed here, resolved when the scenario is compiled.
//!
//! `${name}` a captured variable · `${data.column}` a column of the feeder's row for this task · `${user.id}` ·
//! `${rand(1,50)}` · `${uuid()}` and the other functions of [`FUNCTIONS`] · `$${` is `${` itself.

use crate::error::Result;
use crate::load::tree::{Place, Source};

/// The functions that templates may call.
pub const FUNCTIONS: &str = "rand(LOW,HIGH), rand_float(LOW,HIGH), rand_text(LENGTH), pick(DATA[,COLUMN]), uuid(), \
                             counter([NAME]), now(), now_ms(), due_ns(), env(NAME[,DEFAULT]), json(CALL)";

/// A text with its blanks.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// Where the text begins.
    pub at: Place,
    /// Its pieces in order.
    pub parts: Vec<Part>,
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Text as it is.
    Text(String),
    /// A blank.
    Call(Call),
}

/// What stands in a blank.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The variable or function.
    pub name: String,
    /// Its arguments; `None` without parentheses.
    pub args: Option<Vec<Arg>>,
}

/// An argument.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    /// A word, number or quoted text.
    Word(String),
    /// A call.
    Call(Call),
}

impl Template {
    /// Reads `text`, which begins at `at`.
    ///
    /// # Errors
    /// `Usage` with the place of a blank that is not closed or not understood.
    pub fn parse(source: Source<'_>, at: Place, text: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(found) = rest.find("${") {
            let (before, after) = rest.split_at(found);
            if let Some(escaped) = before.strip_suffix('$') {
                plain.push_str(escaped);
                plain.push_str("${");
                rest = &after[2..];
                continue;
            }
            plain.push_str(before);
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            let mut words = Words { text: &after[2..] };
            let call = words.call(0).and_then(|call| {
                words.blanks();
                words.text.strip_prefix('}').map(|rest| (call, rest)).ok_or("'}' is missing")
            });
            let (call, next) = call.map_err(|why| {
                let shown: String = after.chars().take(40).collect();
                source.error(at, format_args!("'{shown}': {why}")).advise(format!(
                    "write ${{variable}}, ${{user.id}}, ${{data.column}}, or one of {FUNCTIONS}; $${{ is a plain ${{"
                ))
            })?;
            parts.push(Part::Call(call));
            rest = next;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { at, parts })
    }

    /// The text, if there is no blank in it.
    pub fn constant(&self) -> Option<&str> {
        match &self.parts[..] {
            [] => Some(""),
            [Part::Text(t)] => Some(t),
            _ => None,
        }
    }

    /// The text with `[name]` for each blank: how requests are grouped that were given no name.
    pub fn shape(&self) -> String {
        let mut shape = String::new();
        for part in &self.parts {
            match part {
                Part::Text(t) => shape.push_str(t),
                Part::Call(c) => {
                    shape.push('[');
                    shape.push_str(&c.name);
                    shape.push(']');
                }
            }
        }
        shape
    }
}

/// The deepest nesting of calls.
const DEPTH: usize = 8;

struct Words<'a> {
    text: &'a str,
}

impl Words<'_> {
    fn blanks(&mut self) {
        self.text = self.text.trim_start();
    }

    fn take(&mut self, c: char) -> bool {
        self.blanks();
        let Some(rest) = self.text.strip_prefix(c) else { return false };
        self.text = rest;
        true
    }

    fn word(&mut self) -> String {
        self.blanks();
        let is_word = |c: char| c.is_alphanumeric() || "_.-+".contains(c);
        let end = self.text.find(|c| !is_word(c)).unwrap_or(self.text.len());
        let (word, rest) = self.text.split_at(end);
        self.text = rest;
        word.to_owned()
    }

    fn call(&mut self, depth: usize) -> std::result::Result<Call, &'static str> {
        if depth > DEPTH {
            return Err("nested too deeply");
        }
        let name = self.word();
        if name.is_empty() {
            return Err("a name is missing");
        }
        let args = if self.take('(') { Some(self.args(depth)?) } else { None };
        Ok(Call { name, args })
    }

    fn args(&mut self, depth: usize) -> std::result::Result<Vec<Arg>, &'static str> {
        let mut args = Vec::new();
        if self.take(')') {
            return Ok(args);
        }
        loop {
            self.blanks();
            let quote = self.text.chars().next().filter(|c| *c == '"' || *c == '\'');
            if let Some(quote) = quote {
                let (word, rest) = self.text[1..].split_once(quote).ok_or("a quotation mark is missing")?;
                args.push(Arg::Word(word.to_owned()));
                self.text = rest;
            } else {
                let call = self.call(depth + 1)?;
                args.push(if call.args.is_some() { Arg::Call(call) } else { Arg::Word(call.name) });
            }
            if self.take(')') {
                return Ok(args);
            }
            if !self.take(',') {
                return Err("',' or ')' is missing");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Template> {
        Template::parse(Source("a.toml"), Place { line: 3, column: 4 }, text)
    }

    #[test]
    fn blanks_are_found() {
        let t = parse("/npc/${rand(1, 50)}/${ id }?a=$${x}").unwrap();
        assert_eq!(t.shape(), "/npc/[rand]/[id]?a=${x}");
        let Part::Call(c) = &t.parts[1] else { panic!() };
        assert_eq!(c.args, Some(vec![Arg::Word("1".into()), Arg::Word("50".into())]));
        assert!(parse("${json(pick(lines, 'a b'))}").is_ok());
        assert_eq!(parse("plain").unwrap().constant(), Some("plain"));
    }

    #[test]
    fn mistakes_name_the_place() {
        for bad in ["${", "${}", "${a", "${rand(1,}", "${rand(1 2)}", "${f('x)}", &format!("${{{}", "f(".repeat(100))] {
            let e = parse(bad).unwrap_err();
            assert!(e.to_string().starts_with("a.toml:3:4: "), "{e}");
        }
    }
}
