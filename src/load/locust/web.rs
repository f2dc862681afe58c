//! The HTTP client and its answers, as a locustfile sees them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use indexmap::IndexMap;

use super::border::{Effect, Request, Response, Verdict};
use super::format;
use super::modules::text::{base64, is_on};
use super::ops::{key, truth, type_error};
use super::value::{Answer, Client, Dict, Key, Value};
use super::vm::{Args, Awaits, R, Raise, Vm, raise};

/// A fresh client.
pub fn client() -> Client {
    Client { headers: Rc::new(Dict::default()), auth: RefCell::new(None) }
}

/// Encodes all but letters, digits and `keep`.
pub fn percent_encode(text: &str, keep: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || keep.as_bytes().contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Pairs as a form or a query.
pub fn form(vm: &mut Vm<'_>, value: &Value) -> R<String> {
    let pairs: Vec<(Value, Value)> = match value {
        Value::Dict(d) => d.map.borrow().iter().map(|(k, v)| (k.0.clone(), v.clone())).collect(),
        Value::Str(s) => return Ok(s.to_string()),
        other => {
            let mut pairs = Vec::new();
            for pair in vm.all_of(other)? {
                if let [k, v] = &vm.all_of(&pair)?[..] {
                    pairs.push((k.clone(), v.clone()));
                }
            }
            pairs
        }
    };
    let encode = |v: &Value| -> R<String> {
        let text = match v {
            Value::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
            other => format::text(other)?,
        };
        Ok(percent_encode(&text, "-._~ ").replace(' ', "+"))
    };
    let mut out = Vec::new();
    for (name, value) in &pairs {
        let values = match value {
            Value::List(l) => l.0.borrow().to_vec(),
            Value::Tuple(t) => t.to_vec(),
            Value::None => continue,
            one => vec![one.clone()],
        };
        for value in values {
            out.push(format!("{}={}", encode(name)?, encode(&value)?));
        }
    }
    Ok(out.join("&"))
}

fn headers_of(value: &Value, into: &mut Vec<(String, String)>) -> R<()> {
    let Value::Dict(d) = value else { return Ok(()) };
    for (name, value) in d.map.borrow().iter() {
        let name = format::text(&name.0)?;
        into.retain(|(n, _)| !n.eq_ignore_ascii_case(&name));
        let text = match value {
            Value::None => continue,
            Value::Bytes(b) => String::from_utf8_lossy(b).into_owned(),
            other => format::text(other)?,
        };
        if name.bytes().chain(text.bytes()).any(|b| b == b'\r' || b == b'\n' || b == 0) {
            return Err(raise("ValueError", format!("a header with a line break: {name:?}")));
        }
        into.push((name, text));
    }
    Ok(())
}

/// `client.get(…)` and the others: leaves the user waiting for the answer.
pub fn request(vm: &mut Vm<'_>, client: &Client, method: &str, args: Args) -> R<Value> {
    let (verb, at) = match method {
        "get" | "post" | "put" | "delete" | "patch" | "head" | "options" => (method.to_uppercase(), 0),
        "request" => (args.text(0)?.to_uppercase(), 1),
        "close" | "mount" | "rename_request" => return Ok(Value::None),
        _ => return Err(raise("AttributeError", format!("the client has no method '{method}' here"))),
    };
    let url = args.get(vm, at, "url").or_else(|| args.named(vm, "path"));
    let url = url
        .as_ref()
        .and_then(Value::as_str)
        .ok_or_else(|| type_error("a request needs its URL as a string"))?
        .to_owned();
    let option = |vm: &Vm<'_>, name: &str| args.named(vm, name).filter(|v| !matches!(v, Value::None));
    for name in ["files", "hooks"] {
        if option(vm, name).is_some() {
            return Err(raise("NotImplementedError", format!("{name}= in a request is not supported here")));
        }
    }
    let mut request = Request {
        method: verb,
        redirects: is_on(vm, &args, "allow_redirects", true),
        wants_body: true,
        ..Request::default()
    };
    headers_of(&Value::Dict(client.headers.clone()), &mut request.headers)?;
    let has = |request: &Request, name: &str| request.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if let Some(headers) = option(vm, "headers") {
        headers_of(&headers, &mut request.headers)?;
    }
    let second = match method {
        "post" | "put" | "patch" => args.pos.get(at + 1).cloned(),
        _ => None,
    };
    let data = option(vm, "data").or(second).or_else(|| option(vm, "content"));
    let mut kind = None;
    if let Some(json) = option(vm, "json").or_else(|| args.pos.get(at + 2).cloned()) {
        request.body = format::to_json(&json, false)?.into_bytes();
        kind = Some("application/json");
    } else if let Some(data) = data {
        request.body = match &data {
            Value::Str(s) => s.as_bytes().to_vec(),
            Value::Bytes(b) => b.to_vec(),
            other => {
                kind = Some("application/x-www-form-urlencoded");
                form(vm, other)?.into_bytes()
            }
        };
    }
    if let Some(kind) = kind
        && !has(&request, "content-type")
    {
        request.headers.push(("Content-Type".into(), kind.into()));
    }
    let mut auth = client.auth.borrow().clone();
    if let Some(pair) = option(vm, "auth") {
        auth = pair_of(&pair);
    }
    if let Some((user, password)) = auth {
        request
            .headers
            .push(("Authorization".into(), format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))));
    }
    if let Some(Value::Dict(cookies)) = option(vm, "cookies") {
        let pairs: Vec<String> = cookies
            .map
            .borrow()
            .iter()
            .map(|(k, v)| Ok(format!("{}={}", format::text(&k.0)?, format::text(v)?)))
            .collect::<R<_>>()?;
        request.headers.push(("Cookie".into(), pairs.join("; ").replace(['\r', '\n'], "")));
    }
    request.timeout_ns = match option(vm, "timeout") {
        Some(Value::Tuple(t)) => t.last().and_then(Value::as_f64),
        Some(v) => v.as_f64(),
        None => None,
    }
    .filter(|s| *s > 0.0)
    .map(|s| (s.min(1e6) * 1e9) as u64);
    request.url.clone_from(&url);
    if let Some(params) = option(vm, "params") {
        let query = form(vm, &params)?;
        if !query.is_empty() {
            request.url = format!("{url}{}{query}", if url.contains('?') { '&' } else { '?' });
        }
    }
    // Bytes that HTTP does not allow in a target are encoded, as requests does it.
    request.url = request
        .url
        .chars()
        .map(|c| if c.is_ascii_graphic() { c.to_string() } else { percent_encode(&c.to_string(), "") })
        .collect();
    request.name = match option(vm, "name") {
        Some(name) => format::text(&name)?,
        None => request.url.clone(),
    };
    request.caught = is_on(vm, &args, "catch_response", false);
    vm.t.awaits = Awaits::Response;
    Err(Raise::Suspend(Box::new(Effect::Request(Box::new(request)))))
}

fn pair_of(value: &Value) -> Option<(String, String)> {
    let Value::Tuple(t) = value else { return None };
    Some((t.first()?.as_str()?.to_owned(), t.get(1)?.as_str()?.to_owned()))
}

/// `client.name = value`
pub fn set_client(client: &Client, name: &str, value: &Value) {
    match (name, value) {
        ("headers", Value::Dict(d)) => {
            let map = d.map.borrow().clone();
            *client.headers.map.borrow_mut() = map;
        }
        ("auth", pair) => *client.auth.borrow_mut() = pair_of(pair),
        _ => {}
    }
}

/// Why an answer counts as a failure when the file does not say otherwise: Locust's words.
pub fn failure_of(request: &Request, response: &Response) -> Option<String> {
    if let Some(error) = &response.error {
        return Some(error.clone());
    }
    let side = match response.status {
        400..=499 => "Client",
        500..=599 => "Server",
        0 => return Some("no answer".into()),
        _ => return None,
    };
    Some(format!("HTTPError('{} {side} Error: {} for url: {}')", response.status, response.reason, request.name))
}

/// The answer as the file sees it, and its verdict where the file does not judge it.
pub fn arrived(request: Request, response: Response) -> (Value, Option<Verdict>) {
    let verdict = (!request.caught).then(|| Verdict {
        method: request.method.clone(),
        name: request.name.clone(),
        failure: failure_of(&request, &response),
        token: response.token,
    });
    let reported = Cell::new(verdict.is_some());
    let answer = Answer { response, request, verdict: RefCell::new(None), reported, json: RefCell::new(None) };
    (Value::Response(Rc::new(answer)), verdict)
}

/// A method of an answer.
pub fn response_method(vm: &mut Vm<'_>, answer: &Rc<Answer>, name: &str, args: Args) -> R<Value> {
    match name {
        "json" => {
            if let Some(json) = &*answer.json.borrow() {
                return Ok(json.clone());
            }
            let json = format::from_json(&answer.response.body)?;
            *answer.json.borrow_mut() = Some(json.clone());
            Ok(json)
        }
        "success" => {
            *answer.verdict.borrow_mut() = Some(Ok(()));
            Ok(Value::None)
        }
        "failure" => {
            let why =
                args.pos.first().cloned().or_else(|| args.kw.first().map(|(_, v)| v.clone())).unwrap_or(Value::None);
            let text = match &why {
                Value::Object(_) => format::repr(&why)?,
                other => format!("CatchResponseError({})", format::repr(&Value::string(format::text(other)?))?),
            };
            *answer.verdict.borrow_mut() = Some(Err(text));
            Ok(Value::None)
        }
        "raise_for_status" => match failure_of(&answer.request, &answer.response) {
            Some(why) => Err(raise("HTTPError", why)),
            None => Ok(Value::None),
        },
        "iter_lines" | "iter_content" => vm.iterate(&Value::Response(answer.clone())),
        "close" => Ok(Value::None),
        _ => Err(raise("AttributeError", format!("'Response' object has no attribute '{name}'"))),
    }
}

/// An attribute of an answer, a client or a text.
pub fn attribute(vm: &mut Vm<'_>, object: &Value, name: &str) -> R<Option<Value>> {
    Ok(Some(match (object, name) {
        (Value::Response(r), _) => match name {
            "status_code" => Value::Int(i64::from(r.response.status)),
            "text" => Value::string(String::from_utf8_lossy(&r.response.body).into_owned()),
            "content" => Value::Bytes(r.response.body.as_slice().into()),
            "ok" => Value::Bool(truth(object)),
            "reason" => Value::str(&r.response.reason),
            "url" => Value::string(format!("{}{}", r.request.host.as_deref().unwrap_or(""), r.request.url)),
            "elapsed" => Value::Delta(Rc::new((r.response.latency_ns / 1000) as i64)),
            "encoding" => Value::str("utf-8"),
            "error" | "request" => r.response.error.as_ref().map_or(Value::None, |e| Value::str(e)),
            "history" => Value::list(Vec::new()),
            "headers" => {
                let mut map = IndexMap::new();
                for (name, value) in &r.response.headers {
                    // Look-ups ignore case in requests: the usual spellings are there.
                    map.insert(key(&Value::str(name))?, Value::str(value));
                    map.insert(key(&Value::string(name.to_lowercase()))?, Value::str(value));
                    map.insert(key(&Value::string(titled(name)))?, Value::str(value));
                }
                Value::dict(map)
            }
            "cookies" => {
                let mut map: IndexMap<Key, Value> = IndexMap::new();
                for (_, value) in r.response.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case("set-cookie")) {
                    if let Some((name, value)) = value.split(';').next().and_then(|c| c.split_once('=')) {
                        map.insert(key(&Value::str(name.trim()))?, Value::str(value.trim()));
                    }
                }
                Value::dict(map)
            }
            _ => return Ok(None),
        },
        (Value::Client(c), "headers") => Value::Dict(c.headers.clone()),
        (Value::Client(_), "cookies") => Value::dict(IndexMap::new()),
        (Value::Client(_), "base_url") => {
            let host = vm.m.sym("host");
            vm.m.environment.as_ref().and_then(|e| e.get(host)).unwrap_or(Value::None)
        }
        (Value::Client(_), "verify" | "trust_env" | "auth" | "request_name" | "proxies") => Value::None,
        (Value::Str(s), "hex") => Value::string(s.replace('-', "")),
        (Value::Date(us), _) => {
            let fields = super::dates::fields(**us);
            let names = ["year", "month", "day", "hour", "minute", "second", "microsecond"];
            match names.iter().position(|n| *n == name).and_then(|i| fields.get(i)) {
                Some(n) => Value::Int(*n),
                None => return Ok(None),
            }
        }
        (Value::Delta(us), "seconds") => Value::Int(us.rem_euclid(86_400_000_000) / 1_000_000),
        (Value::Delta(us), "days") => Value::Int(us.div_euclid(86_400_000_000)),
        (Value::Delta(us), "microseconds") => Value::Int(us.rem_euclid(1_000_000)),
        _ => return Ok(None),
    }))
}

fn titled(name: &str) -> String {
    name.split('-')
        .map(|part| {
            let mut chars = part.chars();
            chars
                .next()
                .map_or(String::new(), |c| c.to_uppercase().collect::<String>() + &chars.as_str().to_lowercase())
        })
        .collect::<Vec<_>>()
        .join("-")
}
