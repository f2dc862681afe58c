//! From a scenario to a program: names, hosts and blanks are looked up here, once.

use std::fmt::Write as _;

use super::fill::{Blank, Escape, Piece, Pieces, escaped};
use super::{Checks, Naming, Op, Play, Program, Request};
use crate::error::{Error, Result};
use crate::load::http::{Url, Wanted};
use crate::load::scenario::{
    Arg, Body, Call, FUNCTIONS, From, Part, RequestStep, Scenario, Step, Task, Template, UserClass,
};
use crate::load::script::{Class, Names};
use crate::load::tree::{Node, Source, Value};

/// Bytes of an answer's body that captures and expectations see.
const BODY: usize = 4 << 20;

/// What of a scenario is played.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// In place of the scenario's hosts.
    pub host: Option<String>,
    /// Only these classes; all when empty.
    pub classes: Vec<String>,
    /// Only tasks with one of these tags; all when empty.
    pub tags: Vec<String>,
    /// No tasks with one of these tags.
    pub exclude_tags: Vec<String>,
}

/// Compiles `scenario`.
///
/// # Errors
/// `Usage` with the place of what cannot be filled in, a class that does not exist, a missing host, or nothing left to do.
pub fn compile(scenario: &Scenario, choice: &Choice, names: &Names) -> Result<Program> {
    let mut c = Compiler { scenario, choice, names, hosts: Vec::new(), counters: Vec::new() };
    for wanted in &choice.classes {
        if !scenario.users.iter().any(|u| u.name == *wanted) {
            let all: Vec<&str> = scenario.users.iter().map(|u| u.name.as_str()).collect();
            return Err(Error::usage(format!("{} has no user '{wanted}'", scenario.file))
                .advise(format!("there are: {}", all.join(", "))));
        }
    }
    let (mut classes, mut plays) = (Vec::new(), Vec::new());
    for user in scenario.users.iter().filter(|u| choice.classes.is_empty() || choice.classes.contains(&u.name)) {
        let tasks: Vec<&Task> = user.tasks.iter().filter(|t| c.is_wanted(user, t)).collect();
        if tasks.is_empty() || tasks.iter().all(|t| t.weight == 0) && !user.sequence {
            continue;
        }
        plays.push(c.play(user, &tasks)?);
        let weight = if user.fixed_count.is_some() { 0 } else { user.weight };
        let name = user.name.clone();
        classes.push(Class { name, weight, fixed_count: user.fixed_count, cookies: user.cookies });
    }
    if classes.iter().all(|c| c.weight == 0 && c.fixed_count.is_none()) {
        return Err(Error::usage(format!("{} has nothing to do: no task is left", scenario.file))
            .advise("look at --tags, --exclude-tags and the weights of users and tasks"));
    }
    let data = scenario.data.clone();
    let counts = data.len() + c.counters.len();
    Ok(Program { classes, plays, hosts: c.hosts, counters: data.len(), counts, data, seed: scenario.seed })
}

struct Compiler<'a> {
    scenario: &'a Scenario,
    choice: &'a Choice,
    names: &'a Names,
    hosts: Vec<Url>,
    counters: Vec<String>,
}

/// A user class being compiled.
struct Scope<'a> {
    user: &'a UserClass,
    host: Option<Url>,
    variables: Vec<String>,
}

impl<'a> Compiler<'a> {
    fn source(&self) -> Source<'a> {
        Source(&self.scenario.file)
    }

    fn is_wanted(&self, user: &UserClass, task: &Task) -> bool {
        let has = |wanted: &[String]| task.tags.iter().chain(&user.tags).any(|t| wanted.contains(t));
        (self.choice.tags.is_empty() || has(&self.choice.tags)) && !has(&self.choice.exclude_tags)
    }

    fn play(&mut self, user: &'a UserClass, tasks: &[&'a Task]) -> Result<Play> {
        let host = self.choice.host.as_ref().or(user.host.as_ref()).or(self.scenario.host.as_ref());
        let host = host.map(|h| Url::parse(h).map_err(|e| e.within(&self.scenario.file))).transpose()?;
        let all = user.on_start.iter().chain(tasks.iter().flat_map(|t| &t.steps)).chain(&user.on_stop);
        let mut variables: Vec<String> = Vec::new();
        for step in all {
            let Step::Request(r) = step else { continue };
            for capture in &r.captures {
                if !variables.contains(&capture.variable) {
                    variables.push(capture.variable.clone());
                }
            }
        }
        let scope = Scope { user, host, variables };
        let mut ops = |steps: &'a [Step]| steps.iter().map(|s| self.op(&scope, s)).collect::<Result<Vec<_>>>();
        let (on_start, on_stop) = (ops(&user.on_start)?, ops(&user.on_stop)?);
        let compiled = tasks.iter().map(|t| ops(&t.steps)).collect::<Result<Vec<_>>>()?;
        let mut sum = 0;
        let weights = tasks.iter().map(|t| {
            sum += u64::from(t.weight);
            sum
        });
        let weights = if user.sequence { Vec::new() } else { weights.collect() };
        Ok(Play { on_start, on_stop, tasks: compiled, weights, wait: user.wait, variables: scope.variables.len() })
    }

    fn op(&mut self, scope: &Scope<'_>, step: &Step) -> Result<Op> {
        match step {
            Step::Pause(wait) => Ok(Op::Pause(*wait)),
            Step::Request(r) => self.request(scope, r).map(|r| Op::Request(Box::new(r))),
        }
    }

    fn request(&mut self, scope: &Scope<'_>, r: &RequestStep) -> Result<Request> {
        let (base, path) = self.target(scope, r)?;
        let mut head = Pieces::default();
        head.bytes(r.method.as_bytes());
        head.bytes(b" ");
        if !base.is_empty() {
            head.bytes(base.as_bytes());
        }
        self.template(scope, &path, Escape::Path, &mut head)?;
        let mut joint =
            if path.parts.iter().any(|p| matches!(p, Part::Text(t) if t.contains('?'))) { b'&' } else { b'?' };
        for (key, value) in &r.query {
            head.bytes(&[joint]);
            head.bytes(&escaped(key.as_bytes(), Escape::Form));
            head.bytes(b"=");
            self.template(scope, value, Escape::Form, &mut head)?;
            joint = b'&';
        }
        head.bytes(b" HTTP/1.1\r\n");
        let (body, kind) = self.body(scope, r)?;
        let host = self.host(scope, r)?;
        let authority = self.hosts.get(host as usize).map(Url::authority).unwrap_or_default();
        let accept = if r.sse { "text/event-stream" } else { "*/*" };
        let agent = concat!("perfkit/", env!("CARGO_PKG_VERSION"));
        let mut given: Vec<(&str, &Template)> = Vec::new();
        for (name, value) in self.scenario.headers.iter().chain(&scope.user.headers).chain(&r.headers) {
            // The nearest one counts.
            given.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
            given.push((name, value));
        }
        let defaults =
            [("Host", authority.as_str()), ("User-Agent", agent), ("Accept", accept), ("Content-Type", kind)];
        for (name, value) in defaults {
            if !value.is_empty() && !given.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)) {
                head.bytes(format!("{name}: {value}\r\n").as_bytes());
            }
        }
        for (name, value) in given {
            if name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(self.source().error(value.at, format_args!("perfkit sets {name} itself")));
            }
            head.bytes(format!("{name}: ").as_bytes());
            self.template(scope, value, Escape::Header, &mut head)?;
            head.bytes(b"\r\n");
        }
        let mut tail = Vec::new();
        let mut dynamic = None;
        match body {
            None => {
                if matches!(r.method.as_str(), "POST" | "PUT" | "PATCH") {
                    head.bytes(b"Content-Length: 0\r\n");
                }
                tail.extend_from_slice(b"\r\n");
            }
            Some(pieces) => match pieces.constant() {
                Some(bytes) => {
                    head.bytes(format!("Content-Length: {}\r\n", bytes.len()).as_bytes());
                    tail.extend_from_slice(b"\r\n");
                    tail.extend_from_slice(bytes);
                }
                None => dynamic = Some(pieces),
            },
        }
        let name = match &r.name {
            None => Naming::Fixed(self.names.id(&r.method, &path.shape())),
            Some(t) => {
                if let Some(text) = t.constant() {
                    Naming::Fixed(self.names.id(&r.method, text))
                } else {
                    let mut pieces = Pieces::default();
                    self.template(scope, t, Escape::None, &mut pieces)?;
                    Naming::Filled(pieces)
                }
            }
        };
        let checks = Self::checks(scope, r);
        let sees_body = !(checks.json.is_empty()
            && checks.text.is_empty()
            && checks.not_text.is_empty()
            && checks.regex.is_empty())
            || checks.captures.iter().any(|(_, _, f, _)| !matches!(f, From::Header(_)));
        let wanted = Wanted {
            body: if sees_body { BODY } else { 0 },
            head: checks.captures.iter().any(|(_, _, f, _)| matches!(f, From::Header(_))),
            no_body: r.method == "HEAD",
            events: r.sse,
        };
        let timeout_ns = r.timeout_ns.unwrap_or(self.scenario.timeout_ns).max(1);
        let redirects = r.redirects.unwrap_or(self.scenario.redirects);
        let method = r.method.clone();
        Ok(Request { method, head, body: dynamic, tail, host, name, wanted, timeout_ns, redirects, checks })
    }

    /// The path of the host that goes before the step's, and the step's path as a template that begins with `/`.
    fn target(&self, scope: &Scope<'_>, r: &RequestStep) -> Result<(String, Template)> {
        let mut path = r.path.clone();
        if let Some(Part::Text(first)) = path.parts.first_mut()
            && (first.starts_with("http://") || first.starts_with("https://"))
        {
            let after = first.find("://").map_or(0, |i| i + 3);
            let slash = first[after..].find(['/', '?']).map_or(first.len(), |i| i + after);
            let target = first.split_off(slash);
            *first = if target.starts_with('/') { target } else { format!("/{target}") };
            return Ok((String::new(), path));
        }
        let base = scope.host.as_ref().map_or("", |h| h.target.trim_end_matches('/'));
        match path.parts.first() {
            Some(Part::Text(t)) if t.starts_with('/') => {}
            // A blank may bring its own slash or not; only what is written can be seen here.
            Some(Part::Call(_)) => {}
            _ => path.parts.insert(0, Part::Text("/".to_owned())),
        }
        if let Some(bad) = path.parts.iter().find_map(|p| match p {
            Part::Text(t) => t.chars().find(|c| c.is_control() || *c == ' ' || *c == '#'),
            Part::Call(_) => None,
        }) {
            return Err(self
                .source()
                .error(r.path.at, format_args!("a path cannot have {bad:?}"))
                .advise("write a blank as %20"));
        }
        Ok((base.to_owned(), path))
    }

    fn host(&mut self, scope: &Scope<'_>, r: &RequestStep) -> Result<u16> {
        let own = match r.path.parts.first() {
            Some(Part::Text(t)) if t.starts_with("http://") || t.starts_with("https://") => {
                Some(Url::parse(t.trim_end_matches('?')).map_err(|e| self.source().error(r.path.at, e))?)
            }
            _ => None,
        };
        let Some(url) = own.as_ref().or(scope.host.as_ref()) else {
            return Err(self
                .source()
                .error(r.at, format_args!("the user '{}' has no host", scope.user.name))
                .advise("give -H http://127.0.0.1:8000, or host = \"…\" in the scenario"));
        };
        if let Some(at) = self.hosts.iter().position(|h| h.same_origin(url)) {
            return Ok(at as u16);
        }
        self.hosts.push(url.clone());
        u16::try_from(self.hosts.len() - 1).map_err(|_| self.source().error(r.at, "more than 65,536 hosts"))
    }

    fn body(&mut self, scope: &Scope<'_>, r: &RequestStep) -> Result<(Option<Pieces>, &'static str)> {
        let mut pieces = Pieces::default();
        let kind = match &r.body {
            Body::None => return Ok((None, "")),
            Body::Json(node) => {
                self.json(scope, node, &mut pieces)?;
                "application/json"
            }
            Body::Form(pairs) => {
                for (i, (key, value)) in pairs.iter().enumerate() {
                    if i > 0 {
                        pieces.bytes(b"&");
                    }
                    pieces.bytes(&escaped(key.as_bytes(), Escape::Form));
                    pieces.bytes(b"=");
                    self.template(scope, value, Escape::Form, &mut pieces)?;
                }
                "application/x-www-form-urlencoded"
            }
            Body::Raw(t) => {
                self.template(scope, t, Escape::None, &mut pieces)?;
                "text/plain; charset=utf-8"
            }
        };
        Ok((Some(pieces), kind))
    }

    fn json(&mut self, scope: &Scope<'_>, node: &Node, out: &mut Pieces) -> Result<()> {
        let quoted = |t: &str| serde_json::to_string(t).unwrap_or_default();
        match &node.value {
            Value::Null => out.bytes(b"null"),
            Value::Bool(b) => out.bytes(b.to_string().as_bytes()),
            Value::Integer(i) => out.bytes(i.to_string().as_bytes()),
            Value::Float(f) => out.bytes(serde_json::json!(f).to_string().as_bytes()),
            Value::Text(text) => {
                let t = Template::parse(self.source(), node.at, text)?;
                if let [Part::Call(Call { name, args: Some(args) })] = &t.parts[..]
                    && name == "json"
                {
                    // A value of its own, without quotation marks.
                    let blank = self.inner(scope, &t, args)?;
                    out.0.push(Piece::Blank(blank, Escape::None));
                } else {
                    out.bytes(b"\"");
                    self.template(scope, &t, Escape::Json, out)?;
                    out.bytes(b"\"");
                }
            }
            Value::List(list) => {
                out.bytes(b"[");
                for (i, item) in list.iter().enumerate() {
                    out.bytes(if i > 0 { b"," } else { b"" });
                    self.json(scope, item, out)?;
                }
                out.bytes(b"]");
            }
            Value::Table(table) => {
                out.bytes(b"{");
                for (i, (key, value)) in table.iter().enumerate() {
                    out.bytes(if i > 0 { b"," } else { b"" });
                    out.bytes(quoted(&key.name).as_bytes());
                    out.bytes(b":");
                    self.json(scope, value, out)?;
                }
                out.bytes(b"}");
            }
        }
        Ok(())
    }

    fn checks(scope: &Scope<'_>, r: &RequestStep) -> Checks {
        let e = &r.expect;
        let slot = |v: &String| scope.variables.iter().position(|n| n == v).unwrap_or(0) as u16;
        let captures = r.captures.iter();
        Checks {
            status: e.status.clone(),
            json: e.json.clone(),
            text: e.text.clone(),
            not_text: e.not_text.clone(),
            regex: e.regex.clone(),
            under_ns: e.under_ns,
            captures: captures
                .map(|c| (slot(&c.variable), c.variable.clone(), c.from.clone(), c.default.clone()))
                .collect(),
        }
    }

    fn template(&mut self, scope: &Scope<'_>, t: &Template, how: Escape, out: &mut Pieces) -> Result<()> {
        for part in &t.parts {
            match part {
                // What the user wrote is taken at its word, but for what would break the format around it.
                Part::Text(text) if matches!(how, Escape::Json | Escape::Form) => {
                    out.bytes(&escaped(text.as_bytes(), how));
                }
                Part::Text(text) => out.bytes(text.as_bytes()),
                Part::Call(call) => match self.blank(scope, t, call)? {
                    Filled::Blank(b) => out.0.push(Piece::Blank(b, how)),
                    Filled::Text(text) => out.bytes(&escaped(text.as_bytes(), how)),
                },
            }
        }
        Ok(())
    }

    fn inner(&mut self, scope: &Scope<'_>, t: &Template, args: &[Arg]) -> Result<Blank> {
        let call = match args {
            [Arg::Call(call)] => call.clone(),
            [Arg::Word(name)] => Call { name: name.clone(), args: None },
            _ => return Err(self.source().error(t.at, "json() takes one variable or call")),
        };
        match self.blank(scope, t, &call)? {
            Filled::Blank(b) => Ok(b),
            Filled::Text(_) => Err(self.source().error(t.at, "json() takes a variable or a call that is not constant")),
        }
    }

    fn blank(&mut self, scope: &Scope<'_>, t: &Template, call: &Call) -> Result<Filled> {
        let source = self.source();
        let fail = |what: String| source.error(t.at, what);
        let Some(args) = &call.args else { return self.word(scope, t, &call.name).map(Filled::Blank) };
        let word = |i: usize| match args.get(i) {
            Some(Arg::Word(w)) => Some(w.as_str()),
            _ => None,
        };
        let numbers = |n: usize| -> Option<Vec<f64>> {
            let all: Option<Vec<f64>> = (0..n).map(|i| word(i)?.parse().ok().filter(|f: &f64| f.is_finite())).collect();
            all.filter(|a| a.len() == args.len())
        };
        let usage =
            |example: &str| fail(format!("'{}' is called wrongly", call.name)).advise(format!("write ${{{example}}}"));
        let blank = match call.name.as_str() {
            "rand" => {
                let whole = |i| word(i).and_then(|w| w.parse::<i64>().ok());
                match (whole(0), whole(1), args.len()) {
                    (Some(a), Some(b), 2) if a <= b => Blank::Rand(a, b),
                    _ => return Err(usage("rand(1,50)")),
                }
            }
            "rand_float" => match numbers(2).as_deref() {
                Some([a, b]) if a <= b => Blank::RandFloat(*a, *b),
                _ => return Err(usage("rand_float(0.5,1.5)")),
            },
            "rand_text" => match numbers(1).as_deref() {
                Some([n]) if (0.0..=1e6).contains(n) => Blank::RandText(*n as u32),
                _ => return Err(usage("rand_text(16)")),
            },
            "pick" => {
                let Some(name) = word(0).filter(|_| args.len() <= 2) else { return Err(usage("pick(lines)")) };
                let (feeder, column) = self.column(t, name, word(1))?;
                Blank::Pick(feeder, column)
            }
            "uuid" if args.is_empty() => Blank::Uuid,
            "now" if args.is_empty() => Blank::NowSeconds,
            "now_ms" if args.is_empty() => Blank::NowMs,
            "due_ns" if args.is_empty() => Blank::DueNs,
            "counter" if args.len() <= 1 => {
                let name = word(0).unwrap_or("").to_owned();
                let at = self.counters.iter().position(|c| *c == name).unwrap_or_else(|| {
                    self.counters.push(name);
                    self.counters.len() - 1
                });
                Blank::Counter(at as u16)
            }
            "env" => {
                let Some(name) = word(0).filter(|_| args.len() <= 2) else { return Err(usage("env(HOME)")) };
                let value = std::env::var(name).ok().or_else(|| word(1).map(str::to_owned));
                return value.map(Filled::Text).ok_or_else(|| {
                    fail(format!("the environment has no '{name}'"))
                        .advise(format!("set it, or give a default: ${{env({name},value)}}"))
                });
            }
            "json" => return Err(fail("json() is only for a whole value in a json body".to_owned())),
            "uuid" | "now" | "now_ms" | "due_ns" | "counter" => return Err(usage(&format!("{}()", call.name))),
            other => {
                return Err(fail(format!("there is no function '{other}'")).advise(format!("there are: {FUNCTIONS}")));
            }
        };
        Ok(Filled::Blank(blank))
    }

    /// A blank without parentheses: a variable, `user.id`, or a column of data.
    fn word(&self, scope: &Scope<'_>, t: &Template, name: &str) -> Result<Blank> {
        if let Some(at) = scope.variables.iter().position(|v| v == name) {
            return Ok(Blank::Variable(at as u16));
        }
        if name == "user.id" {
            return Ok(Blank::UserId);
        }
        let (data, column) = name.split_once('.').map_or((name, None), |(d, c)| (d, Some(c)));
        if self.scenario.data.iter().any(|d| d.name == data) {
            let (feeder, column) = self.column(t, data, column)?;
            return Ok(Blank::Row(feeder, column));
        }
        let mut known = String::from("user.id");
        for v in scope.variables.iter().chain(self.scenario.data.iter().map(|d| &d.name)) {
            let _ = write!(known, ", {v}");
        }
        Err(self
            .source()
            .error(t.at, format_args!("nothing is called '{name}': no capture of this user and no data"))
            .advise(format!("there are: {known}; and {FUNCTIONS}")))
    }

    fn column(&self, t: &Template, data: &str, column: Option<&str>) -> Result<(u16, u16)> {
        let Some(at) = self.scenario.data.iter().position(|d| d.name == data) else {
            let all: Vec<&str> = self.scenario.data.iter().map(|d| d.name.as_str()).collect();
            return Err(self
                .source()
                .error(t.at, format_args!("there are no data '{data}'"))
                .advise(format!("[data] has: {}", all.join(", "))));
        };
        let columns = &self.scenario.data[at].columns;
        let column = match column {
            None => 0,
            Some(c) => columns.iter().position(|n| n == c).ok_or_else(|| {
                self.source()
                    .error(t.at, format_args!("the data '{data}' have no column '{c}'"))
                    .advise(format!("there are: {}", columns.join(", ")))
            })?,
        };
        Ok((at as u16, column as u16))
    }
}

enum Filled {
    Blank(Blank),
    Text(String),
}
