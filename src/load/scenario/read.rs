//! From the tree to the scenario.

use std::path::Path;

use super::feed;
use super::reader::{Table, duration, items, number, text, wrong};
use super::targets;
use super::template::Template;
use super::{
    Body, Capture, Expect, From, RequestStep, RunDefaults, Scenario, Stage, Step, Task, TlsChoice, UserClass, Wait,
};
use crate::error::Result;
use crate::load::jsonpath::JsonPath;
use crate::load::stop_on::StopOn;
use crate::load::tree::{Node, Source, Value, parse_toml, parse_yaml};

const METHODS: [&str; 7] = ["get", "post", "put", "patch", "delete", "head", "options"];
/// Classes of users in a scenario, and tasks or steps in a row: far more than anybody writes by hand.
const CLASSES: usize = 5_000;
const IN_A_ROW: usize = 50_000;
pub(super) const DEFAULT_TIMEOUT_NS: u64 = 60_000_000_000;

/// Reads the text of a scenario; `base` is where its data files are.
///
/// # Errors
/// `Usage` with the place of the first mistake.
pub fn from_text(file: &str, content: &str, base: &Path) -> Result<Scenario> {
    let source = Source(file);
    let is_yaml = Path::new(file).extension().is_some_and(|e| e == "yaml" || e == "yml");
    let root = if is_yaml { parse_yaml(source, content)? } else { parse_toml(source, content)? };
    let mut t = Table::of(source, &root, "a scenario")?;
    let mut s = Scenario { file: file.to_owned(), ..Scenario::default() };
    s.host = t.text("host")?.map(|(_, h)| h.to_owned());
    s.headers = pairs(source, t.take("headers").map(|(_, n)| n), "headers")?;
    s.timeout_ns = t.duration("timeout")?.unwrap_or(DEFAULT_TIMEOUT_NS).max(1);
    s.redirects = redirects(&mut t)?.unwrap_or(10);
    s.seed = t.whole("seed", 0, i64::MAX)?.unwrap_or(1) as u64;
    if let Some((_, node)) = t.take("tls") {
        s.tls = tls(source, node, base)?;
    }
    if let Some((_, node)) = t.take("run") {
        s.run = run(source, node)?;
    }
    for node in t.list("stage") {
        s.stages.push(stage(source, node)?);
    }
    if let Some((_, node)) = t.take("data") {
        let mut data = Table::of(source, node, "data")?;
        for (key, node) in data.rest() {
            s.data.push(feed::read(source, key, node, base)?);
        }
    }
    if let Some((_, node)) = t.take("targets") {
        s.targets = targets::read(source, node)?;
    }
    for node in t.list("user") {
        if s.users.len() == CLASSES {
            return Err(source.error(node.at, format_args!("a scenario has at most {CLASSES} classes of users")));
        }
        s.users.push(user(source, node)?);
    }
    let at = t.at;
    t.finish()?;
    if s.users.is_empty() {
        return Err(source
            .error(at, "there is no user in this scenario")
            .advise("add a [[user]] with a name and tasks"));
    }
    for (i, user) in s.users.iter().enumerate() {
        if s.users[..i].iter().any(|u| u.name == user.name) {
            return Err(source.error(user.at, format_args!("a second user is named '{}'", user.name)));
        }
    }
    Ok(s)
}

fn redirects(t: &mut Table<'_>) -> Result<Option<u8>> {
    let Some((_, node)) = t.take("redirects") else { return Ok(None) };
    match node.value {
        Value::Bool(true) => Ok(Some(10)),
        Value::Bool(false) => Ok(Some(0)),
        Value::Integer(i) if (0..=100).contains(&i) => Ok(Some(i as u8)),
        _ => Err(wrong(t.source, node, "redirects", "true, false or a number from 0 to 100")),
    }
}

fn tls(source: Source<'_>, node: &Node, base: &Path) -> Result<TlsChoice> {
    let mut t = Table::of(source, node, "tls")?;
    let choice =
        TlsChoice { ca: t.text("ca")?.map(|(_, p)| base.join(p)), insecure: t.flag("insecure")?.unwrap_or(false) };
    t.finish().map(|()| choice)
}

fn run(source: Source<'_>, node: &Node) -> Result<RunDefaults> {
    let mut t = Table::of(source, node, "run")?;
    let run = RunDefaults {
        users: t.whole("users", 1, 10_000_000)?.map(|u| u as u32),
        spawn_rate: positive(&mut t, "spawn_rate")?,
        run_time_ns: t.duration("run_time")?,
        arrivals: t.text("arrivals")?.map(|(_, a)| a.to_owned()),
        stop_on: t.list("stop_on").into_iter().map(|n| stop_on(source, n)).collect::<Result<_>>()?,
    };
    t.finish().map(|()| run)
}

fn stop_on(source: Source<'_>, node: &Node) -> Result<StopOn> {
    StopOn::parse(text(source, node, "stop_on")?).map_err(|e| {
        let told = source.error(node.at, &e);
        match e.advice() {
            Some(a) => told.advise(a),
            None => told,
        }
    })
}

fn positive(t: &mut Table<'_>, key: &'static str) -> Result<Option<f64>> {
    let Some((_, node)) = t.take(key) else { return Ok(None) };
    match number(t.source, node, key)? {
        n if n > 0.0 => Ok(Some(n)),
        _ => Err(wrong(t.source, node, key, "a number above 0")),
    }
}

fn stage(source: Source<'_>, node: &Node) -> Result<Stage> {
    let mut t = Table::of(source, node, "a stage")?;
    let users = t.whole("users", 0, 10_000_000)?;
    let spawn_rate = positive(&mut t, "spawn_rate")?;
    let duration_ns = t.duration("duration")?;
    t.finish()?;
    let (Some(users), Some(duration_ns)) = (users, duration_ns) else {
        return Err(source.error(node.at, "a stage needs 'users' and 'duration'"));
    };
    let users = users as u32;
    Ok(Stage { users, spawn_rate: spawn_rate.unwrap_or(f64::from(users.max(1))), duration_ns })
}

fn user(source: Source<'_>, node: &Node) -> Result<UserClass> {
    let mut t = Table::of(source, node, "a user")?;
    let Some((_, name)) = t.text("name")? else {
        return Err(source.error(node.at, "this user has no 'name'"));
    };
    let steps = |t: &mut Table<'_>, key| t.list(key).into_iter().map(|n| step(source, n)).collect::<Result<Vec<_>>>();
    let class = UserClass {
        name: name.to_owned(),
        weight: t.whole("weight", 0, 1_000_000)?.unwrap_or(1) as u32,
        fixed_count: t.whole("fixed_count", 0, 10_000_000)?.map(|n| n as u32),
        host: t.text("host")?.map(|(_, h)| h.to_owned()),
        headers: pairs(source, t.take("headers").map(|(_, n)| n), "headers")?,
        on_start: steps(&mut t, "on_start")?,
        on_stop: steps(&mut t, "on_stop")?,
        wait: t.take("wait").map_or(Ok(Wait::None), |(_, n)| wait(source, n))?,
        sequence: t.flag("sequence")?.unwrap_or(false),
        cookies: t.flag("cookies")?.unwrap_or(true),
        tags: t.texts("tags")?,
        tasks: t.list("task").into_iter().map(|n| task(source, n)).collect::<Result<_>>()?,
        at: node.at,
    };
    t.finish()?;
    for (what, n) in [("tasks", class.tasks.len()), ("steps", class.on_start.len().max(class.on_stop.len()))] {
        if n > IN_A_ROW {
            return Err(source.error(node.at, format_args!("the user '{name}' has more than {IN_A_ROW} {what}")));
        }
    }
    if class.tasks.is_empty() {
        return Err(source.error(node.at, format_args!("the user '{name}' has no task")).advise("add a [[user.task]]"));
    }
    if class.tasks.iter().all(|t| t.weight == 0) && !class.sequence {
        return Err(source.error(node.at, format_args!("all tasks of the user '{name}' have weight 0")));
    }
    Ok(class)
}

fn wait(source: Source<'_>, node: &Node) -> Result<Wait> {
    const WANTED: &str =
        "seconds, or a table with one of constant = 1.0, between = [1.0, 3.0], pacing = 1.0, throughput = 10";
    let Value::Table(entries) = &node.value else {
        return duration(source, node, "wait")
            .map(Wait::Constant)
            .map_err(|e| e.advise(format!("'wait' takes {WANTED}")));
    };
    let [(key, value)] = &entries[..] else { return Err(wrong(source, node, "wait", WANTED)) };
    match key.name.as_str() {
        "constant" => duration(source, value, "constant").map(Wait::Constant),
        "pacing" => match duration(source, value, "pacing")? {
            0 => Err(wrong(source, value, "pacing", "a duration above 0")),
            ns => Ok(Wait::Pacing(ns)),
        },
        "throughput" => match number(source, value, "throughput")? {
            n if n > 0.0 => Ok(Wait::Pacing(((1e9 / n) as u64).max(1))),
            _ => Err(wrong(source, value, "throughput", "tasks a second and user, above 0")),
        },
        "between" => {
            let both = items(value);
            let [low, high] = both[..] else {
                return Err(wrong(source, value, "between", "two durations: [1.0, 3.0]"));
            };
            let (a, b) = (duration(source, low, "between")?, duration(source, high, "between")?);
            if a > b {
                return Err(source.error(value.at, "'between' has its larger end first"));
            }
            Ok(Wait::Between(a, b))
        }
        other => Err(source
            .error(key.at, format_args!("'wait' has no kind '{other}'"))
            .advise("allowed here: constant, between, pacing, throughput")),
    }
}

fn task(source: Source<'_>, node: &Node) -> Result<Task> {
    let mut t = Table::of(source, node, "a task")?;
    let Some((_, name)) = t.text("name")? else {
        return Err(source.error(node.at, "this task has no 'name'"));
    };
    let task = Task {
        name: name.to_owned(),
        weight: t.whole("weight", 0, 1_000_000)?.unwrap_or(1) as u32,
        tags: t.texts("tags")?,
        steps: t.list("steps").into_iter().map(|n| step(source, n)).collect::<Result<_>>()?,
    };
    t.finish()?;
    if task.steps.len() > IN_A_ROW {
        return Err(source.error(node.at, format_args!("the task '{name}' has more than {IN_A_ROW} steps")));
    }
    if task.steps.is_empty() {
        return Err(source.error(node.at, format_args!("the task '{name}' has no steps")));
    }
    Ok(task)
}

fn step(source: Source<'_>, node: &Node) -> Result<Step> {
    let mut t = Table::of(source, node, "a step")?;
    if let Some((_, value)) = t.take("wait") {
        t.finish()?;
        return match wait(source, value)? {
            Wait::Pacing(_) => Err(wrong(source, value, "wait", "constant or between, within a task")),
            pause => Ok(Step::Pause(pause)),
        };
    }
    let mut found: Option<(String, &Node)> = None;
    for method in METHODS {
        if let Some((key, path)) = t.take(method) {
            if found.is_some() {
                return Err(source.error(key.at, "a step is one request; this is its second method"));
            }
            found = Some((method.to_ascii_uppercase(), path));
        }
    }
    if let Some((at, method)) = t.text("method")? {
        let path = t.take("path");
        let good =
            !method.is_empty() && method.len() <= 20 && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
        match (path, found.is_some()) {
            (Some((_, path)), false) if good => found = Some((method.to_owned(), path)),
            _ => {
                return Err(source
                    .error(at, "'method' goes with 'path', and stands in capitals")
                    .advise("write get = \"/path\", or method = \"PROPFIND\" and path = \"/path\""));
            }
        }
    }
    let Some((method, path)) = found else {
        let mistake = t.finish().err();
        return Err(mistake.unwrap_or_else(|| {
            source
                .error(node.at, "this step names no request")
                .advise(format!("give one of {}, or wait", METHODS.join(", ")))
        }));
    };
    let template = |node: &Node, key: &str| Template::parse(source, node.at, text(source, node, key)?);
    let json = t.take("json");
    let form = t.take("form");
    let raw = t.take("body");
    let body = match (json, form, raw) {
        (None, None, None) => Body::None,
        (Some((_, n)), None, None) => Body::Json(n.clone()),
        (None, Some((_, n)), None) => Body::Form(pairs(source, Some(n), "form")?),
        (None, None, Some((_, n))) => Body::Raw(template(n, "body")?),
        _ => return Err(source.error(node.at, "a step takes one of json, form and body")),
    };
    let request = RequestStep {
        method,
        path: template(path, "path")?,
        name: t.take("as").map(|(_, n)| template(n, "as")).transpose()?,
        headers: pairs(source, t.take("headers").map(|(_, n)| n), "headers")?,
        query: pairs(source, t.take("query").map(|(_, n)| n), "query")?,
        body,
        captures: t.take("capture").map_or_else(|| Ok(Vec::new()), |(_, n)| captures(source, n))?,
        expect: t.take("expect").map_or_else(|| Ok(Expect::default()), |(_, n)| expect(source, n))?,
        timeout_ns: t.duration("timeout")?,
        redirects: redirects(&mut t)?,
        sse: t.flag("sse")?.unwrap_or(false),
        at: node.at,
    };
    t.finish()?;
    Ok(Step::Request(Box::new(request)))
}

/// A table of names and templates; numbers and truth values count as their text.
fn pairs(source: Source<'_>, node: Option<&Node>, what: &'static str) -> Result<Vec<(String, Template)>> {
    let Some(node) = node else { return Ok(Vec::new()) };
    let mut pairs = Vec::new();
    for (key, value) in Table::of(source, node, what)?.rest() {
        if what == "headers" && (key.name.is_empty() || !key.name.bytes().all(is_token)) {
            return Err(source.error(key.at, format_args!("'{}' cannot be the name of a header", key.name)));
        }
        let text = match &value.value {
            Value::Text(t) => t.clone(),
            Value::Integer(i) => i.to_string(),
            Value::Float(f) => f.to_string(),
            Value::Bool(b) => b.to_string(),
            _ => return Err(wrong(source, value, &key.name, "text")),
        };
        if what == "headers" && text.contains(['\r', '\n', '\0']) {
            return Err(source.error(value.at, "a header cannot have a line break"));
        }
        pairs.push((key.name.clone(), Template::parse(source, value.at, &text)?));
    }
    Ok(pairs)
}

/// Characters of header names (RFC 9110, 5.6.2).
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn json_path(source: Source<'_>, node: &Node, text: &str) -> Result<JsonPath> {
    JsonPath::parse(text).map_err(|why| {
        source
            .error(node.at, format_args!("'{text}' is not a path that perfkit reads: {why}"))
            .advise("write $.key, $.list[0], $.list[-1], $.list[*].key, $['odd key']")
    })
}

fn regex(source: Source<'_>, node: &Node, text: &str) -> Result<regex::bytes::Regex> {
    regex::bytes::RegexBuilder::new(text).size_limit(1 << 20).build().map_err(|e| {
        source.error(node.at, format_args!("not a regular expression: {e}").to_string().replace('\n', " "))
    })
}

fn captures(source: Source<'_>, node: &Node) -> Result<Vec<Capture>> {
    let mut all = Vec::new();
    for (key, value) in Table::of(source, node, "capture")?.rest() {
        let variable = key.name.clone();
        let word = |c: char| c.is_alphanumeric() || c == '_';
        if variable.is_empty() || !variable.chars().all(word) {
            return Err(
                source.error(key.at, format_args!("'{variable}' cannot be a variable: letters, digits and _ can"))
            );
        }
        let (from, default) = if let Value::Text(path) = &value.value {
            (From::Json(json_path(source, value, path)?), None)
        } else {
            let mut t = Table::of(source, value, "a capture")?;
            let (json, expression, header) = (t.text("json")?, t.text("regex")?, t.text("header")?);
            let default = t.text("default")?.map(|(_, d)| d.to_owned());
            t.finish()?;
            let from = match (json, expression, header) {
                (Some((_, p)), None, None) => From::Json(json_path(source, value, p)?),
                (None, Some((_, r)), None) => From::Regex(regex(source, value, r)?),
                (None, None, Some((_, h))) => From::Header(h.to_ascii_lowercase()),
                _ => return Err(source.error(value.at, "a capture takes one of json, regex and header")),
            };
            (from, default)
        };
        all.push(Capture { variable, from, default, at: key.at });
    }
    Ok(all)
}

fn expect(source: Source<'_>, node: &Node) -> Result<Expect> {
    let mut t = Table::of(source, node, "expect")?;
    let mut e = Expect::default();
    for n in t.list("status") {
        e.status.push(status(source, n)?);
    }
    if let Some((_, n)) = t.take("json") {
        for (key, value) in Table::of(source, n, "json")?.rest() {
            e.json.push((json_path(source, value, &key.name)?, plain_json(value)));
        }
    }
    e.text = t.texts("text")?;
    e.not_text = t.texts("not_text")?;
    for n in t.list("regex") {
        e.regex.push(regex(source, n, text(source, n, "regex")?)?);
    }
    e.under_ns = t.duration("under")?;
    t.finish()?;
    Ok(e)
}

/// `200`, `"2xx"`, `"200-204"`.
fn status(source: Source<'_>, node: &Node) -> Result<(u16, u16)> {
    let fail =
        || wrong(source, node, "status", "a code such as 200, a class such as '2xx', or a range such as '200-204'");
    match &node.value {
        Value::Integer(i) if (100..=999).contains(i) => Ok((*i as u16, *i as u16)),
        Value::Text(t) => match (t.strip_suffix("xx"), t.split_once('-')) {
            (Some(c), _) => {
                let class: u16 = c.parse().ok().filter(|c| (1..=9).contains(c)).ok_or_else(fail)?;
                Ok((class * 100, class * 100 + 99))
            }
            (None, Some((a, b))) => {
                let range = a.trim().parse().ok().zip(b.trim().parse().ok());
                range.filter(|(a, b)| a <= b && *b <= 999).ok_or_else(fail)
            }
            (None, None) => t.parse().map(|c| (c, c)).map_err(|_| fail()),
        },
        _ => Err(fail()),
    }
}

/// A value as JSON, texts as they are.
fn plain_json(node: &Node) -> serde_json::Value {
    use serde_json::Value as J;
    match &node.value {
        Value::Null => J::Null,
        Value::Bool(b) => J::from(*b),
        Value::Integer(i) => J::from(*i),
        Value::Float(f) => J::from(*f),
        Value::Text(t) => J::from(t.clone()),
        Value::List(l) => J::Array(l.iter().map(plain_json).collect()),
        Value::Table(t) => J::Object(t.iter().map(|(k, v)| (k.name.clone(), plain_json(v))).collect()),
    }
}
