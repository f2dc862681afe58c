//! What a locustfile can import, and what is there without importing.
//!
//! Invariant: each member is in one table, so that the compiler can refuse by name what the machine would not find.

use std::cell::RefCell;
use std::rc::Rc;

use indexmap::IndexMap;

use super::value::{ClassKind, Key, Object, Value};
use super::vm::{Machine, Native};

pub mod core;
pub mod data;
pub mod fake;
pub mod hooks;
pub mod numbers;
pub mod text;

/// A constant of a module.
#[derive(Debug, Clone, Copy)]
pub enum Fixed {
    /// A text.
    Text(&'static str),
    /// A whole number.
    Whole(i64),
    /// A number.
    Number(f64),
    /// `None`: there so that it can be imported.
    Nothing,
    /// An empty list.
    Empty,
    /// The environment's variables.
    Environment,
}

/// A module: its name, functions, classes and constants.
type Module = (&'static str, &'static [Native], &'static [&'static str], &'static [(&'static str, Fixed)]);

/// Built-in classes: name, base, kind. A base stands before what derives from it; those before `LocustError` are there
/// without importing.
pub const CLASSES: &[(&str, &str, ClassKind)] = &[
    ("BaseException", "", ClassKind::Exception),
    ("Exception", "BaseException", ClassKind::Exception),
    ("ValueError", "Exception", ClassKind::Exception),
    ("TypeError", "Exception", ClassKind::Exception),
    ("LookupError", "Exception", ClassKind::Exception),
    ("KeyError", "LookupError", ClassKind::Exception),
    ("IndexError", "LookupError", ClassKind::Exception),
    ("AttributeError", "Exception", ClassKind::Exception),
    ("NameError", "Exception", ClassKind::Exception),
    ("UnboundLocalError", "NameError", ClassKind::Exception),
    ("ArithmeticError", "Exception", ClassKind::Exception),
    ("ZeroDivisionError", "ArithmeticError", ClassKind::Exception),
    ("OverflowError", "ArithmeticError", ClassKind::Exception),
    ("RuntimeError", "Exception", ClassKind::Exception),
    ("RecursionError", "RuntimeError", ClassKind::Exception),
    ("NotImplementedError", "RuntimeError", ClassKind::Exception),
    ("AssertionError", "Exception", ClassKind::Exception),
    ("StopIteration", "Exception", ClassKind::Exception),
    ("MemoryError", "Exception", ClassKind::Exception),
    ("OSError", "Exception", ClassKind::Exception),
    ("IOError", "OSError", ClassKind::Exception),
    ("FileNotFoundError", "OSError", ClassKind::Exception),
    ("ConnectionError", "OSError", ClassKind::Exception),
    ("ConnectionRefusedError", "ConnectionError", ClassKind::Exception),
    ("ConnectionResetError", "ConnectionError", ClassKind::Exception),
    ("ConnectionAbortedError", "ConnectionError", ClassKind::Exception),
    ("BrokenPipeError", "ConnectionError", ClassKind::Exception),
    ("PermissionError", "OSError", ClassKind::Exception),
    ("TimeoutError", "OSError", ClassKind::Exception),
    ("ImportError", "Exception", ClassKind::Exception),
    ("ModuleNotFoundError", "ImportError", ClassKind::Exception),
    ("UnicodeDecodeError", "ValueError", ClassKind::Exception),
    ("JSONDecodeError", "ValueError", ClassKind::Exception),
    ("SystemExit", "BaseException", ClassKind::Exception),
    ("KeyboardInterrupt", "BaseException", ClassKind::Exception),
    ("LocustError", "Exception", ClassKind::Exception),
    ("ResponseError", "Exception", ClassKind::Exception),
    ("CatchResponseError", "ResponseError", ClassKind::Exception),
    ("RescheduleTask", "Exception", ClassKind::Exception),
    ("RescheduleTaskImmediately", "Exception", ClassKind::Exception),
    ("InterruptTaskSet", "Exception", ClassKind::Exception),
    ("StopUser", "Exception", ClassKind::Exception),
    ("StopLocust", "StopUser", ClassKind::Exception),
    ("RequestException", "OSError", ClassKind::Exception),
    ("HTTPError", "RequestException", ClassKind::Exception),
    ("Timeout", "RequestException", ClassKind::Exception),
    ("User", "", ClassKind::User),
    ("HttpUser", "User", ClassKind::User),
    ("FastHttpUser", "User", ClassKind::User),
    ("HttpLocust", "User", ClassKind::User),
    ("FastHttpLocust", "User", ClassKind::User),
    ("TaskSet", "", ClassKind::TaskSet),
    ("SequentialTaskSet", "TaskSet", ClassKind::Sequence),
    ("TaskSequence", "TaskSet", ClassKind::Sequence),
    ("LoadTestShape", "", ClassKind::Shape),
    ("HttpSession", "", ClassKind::Plain),
    ("FastHttpSession", "", ClassKind::Plain),
    ("ResponseContextManager", "", ClassKind::Plain),
    ("MasterRunner", "", ClassKind::Plain),
    ("WorkerRunner", "", ClassKind::Plain),
    ("LocalRunner", "", ClassKind::Plain),
    ("Environment", "", ClassKind::Plain),
    ("File", "", ClassKind::Plain),
    ("Lock", "", ClassKind::Plain),
    ("RLock", "", ClassKind::Plain),
    ("Namespace", "", ClassKind::Plain),
    ("Runner", "", ClassKind::Plain),
    ("Semaphore", "", ClassKind::Plain),
    ("InsecureRequestWarning", "Exception", ClassKind::Exception),
    ("InsecurePlatformWarning", "Exception", ClassKind::Exception),
];

const LOCUST_CLASSES: &[&str] = &[
    "User",
    "HttpUser",
    "FastHttpUser",
    "HttpLocust",
    "TaskSet",
    "SequentialTaskSet",
    "TaskSequence",
    "LoadTestShape",
];

const MODULES: &[Module] = &[
    ("locust", hooks::LOCUST, LOCUST_CLASSES, &[]),
    ("locust.events", &[], &[], &[]),
    ("locust.user", hooks::LOCUST, LOCUST_CLASSES, &[]),
    ("locust.user.task", hooks::LOCUST, LOCUST_CLASSES, &[]),
    ("locust.user.users", hooks::LOCUST, LOCUST_CLASSES, &[]),
    ("locust.user.wait_time", hooks::LOCUST, &[], &[]),
    ("locust.user.sequential_taskset", &[], LOCUST_CLASSES, &[]),
    ("locust.wait_time", hooks::LOCUST, &[], &[]),
    ("locust.shape", &[], &["LoadTestShape"], &[]),
    ("locust.contrib", &[], &[], &[]),
    ("locust.contrib.fasthttp", &[], &["FastHttpUser", "FastHttpLocust", "FastHttpSession"], &[]),
    (
        "locust.exception",
        &[],
        &[
            "LocustError",
            "ResponseError",
            "CatchResponseError",
            "RescheduleTask",
            "RescheduleTaskImmediately",
            "InterruptTaskSet",
            "StopUser",
            "StopLocust",
        ],
        &[],
    ),
    ("locust.clients", &[], &["HttpSession", "ResponseContextManager"], &[]),
    ("locust.env", &[], &["Environment"], &[]),
    (
        "locust.runners",
        &[],
        &["MasterRunner", "WorkerRunner", "LocalRunner", "Runner"],
        &[
            ("STATE_STOPPING", Fixed::Text("stopping")),
            ("STATE_STOPPED", Fixed::Text("stopped")),
            ("STATE_CLEANUP", Fixed::Text("cleanup")),
            ("STATE_RUNNING", Fixed::Text("running")),
            ("STATE_INIT", Fixed::Text("ready")),
        ],
    ),
    ("locust.log", hooks::NOTHING, &[], &[]),
    ("random", numbers::RANDOM, &[], &[]),
    ("secrets", numbers::SECRETS, &[], &[]),
    ("time", numbers::TIME, &[], &[]),
    ("gevent", numbers::GEVENT, &[], &[]),
    (
        "math",
        numbers::MATH,
        &[],
        &[
            ("pi", Fixed::Number(std::f64::consts::PI)),
            ("e", Fixed::Number(std::f64::consts::E)),
            ("inf", Fixed::Number(f64::INFINITY)),
        ],
    ),
    ("uuid", numbers::UUID, &[], &[]),
    ("datetime", numbers::DATETIME, &[], &[]),
    ("datetime.datetime", numbers::DATETIME_CLASS, &[], &[]),
    ("datetime.date", numbers::DATETIME_CLASS, &[], &[]),
    ("datetime.timezone", &[], &[], &[("utc", Fixed::Nothing)]),
    ("json", data::JSON, &["JSONDecodeError"], &[]),
    ("json.decoder", &[], &["JSONDecodeError"], &[]),
    ("simplejson", data::JSON, &["JSONDecodeError"], &[]),
    ("csv", data::CSV, &[], &[("QUOTE_ALL", Fixed::Whole(1)), ("QUOTE_MINIMAL", Fixed::Whole(0))]),
    ("collections", data::COLLECTIONS, &[], &[]),
    ("itertools", data::ITERTOOLS, &[], &[]),
    ("copy", data::COPY, &[], &[]),
    ("queue", data::QUEUE, &[], &[]),
    (
        "os",
        text::OS,
        &[],
        &[("environ", Fixed::Environment), ("sep", Fixed::Text("/")), ("linesep", Fixed::Text("\n"))],
    ),
    ("os.path", text::OS_PATH, &[], &[]),
    (
        "sys",
        text::SYS,
        &[],
        &[
            ("argv", Fixed::Empty),
            ("path", Fixed::Empty),
            ("maxsize", Fixed::Whole(i64::MAX)),
            ("platform", Fixed::Text("linux")),
        ],
    ),
    (
        "re",
        text::RE,
        &[],
        &[
            ("IGNORECASE", Fixed::Whole(2)),
            ("I", Fixed::Whole(2)),
            ("MULTILINE", Fixed::Whole(8)),
            ("M", Fixed::Whole(8)),
            ("DOTALL", Fixed::Whole(16)),
            ("S", Fixed::Whole(16)),
        ],
    ),
    (
        "string",
        &[],
        &[],
        &[
            ("ascii_letters", Fixed::Text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")),
            ("ascii_lowercase", Fixed::Text("abcdefghijklmnopqrstuvwxyz")),
            ("ascii_uppercase", Fixed::Text("ABCDEFGHIJKLMNOPQRSTUVWXYZ")),
            ("digits", Fixed::Text("0123456789")),
            ("hexdigits", Fixed::Text("0123456789abcdefABCDEF")),
            ("punctuation", Fixed::Text("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")),
            ("whitespace", Fixed::Text(" \t\n\r\x0b\x0c")),
        ],
    ),
    ("base64", text::BASE64, &[], &[]),
    ("urllib", &[], &[], &[]),
    ("urllib.parse", text::URLLIB, &[], &[]),
    (
        "logging",
        hooks::LOGGING,
        &[],
        &[
            ("DEBUG", Fixed::Whole(10)),
            ("INFO", Fixed::Whole(20)),
            ("WARNING", Fixed::Whole(30)),
            ("ERROR", Fixed::Whole(40)),
            ("CRITICAL", Fixed::Whole(50)),
        ],
    ),
    ("threading", &[], &["Lock", "RLock", "Semaphore"], &[]),
    ("gevent.lock", &[], &["Semaphore", "RLock"], &[]),
    ("warnings", hooks::NOTHING, &[], &[]),
    ("urllib3", hooks::NOTHING, &[], &[]),
    ("urllib3.exceptions", &[], &["InsecureRequestWarning"], &[]),
    ("requests.exceptions", &[], &["RequestException", "HTTPError", "ConnectionError", "Timeout"], &[]),
    ("http", &[], &[], &[]),
    // Members of the enumeration are whole numbers in all that files do with them: compared with a status code.
    (
        "http.HTTPStatus",
        &[],
        &[],
        &[
            ("OK", Fixed::Whole(200)),
            ("CREATED", Fixed::Whole(201)),
            ("ACCEPTED", Fixed::Whole(202)),
            ("NO_CONTENT", Fixed::Whole(204)),
            ("MOVED_PERMANENTLY", Fixed::Whole(301)),
            ("FOUND", Fixed::Whole(302)),
            ("SEE_OTHER", Fixed::Whole(303)),
            ("NOT_MODIFIED", Fixed::Whole(304)),
            ("TEMPORARY_REDIRECT", Fixed::Whole(307)),
            ("PERMANENT_REDIRECT", Fixed::Whole(308)),
            ("BAD_REQUEST", Fixed::Whole(400)),
            ("UNAUTHORIZED", Fixed::Whole(401)),
            ("FORBIDDEN", Fixed::Whole(403)),
            ("NOT_FOUND", Fixed::Whole(404)),
            ("METHOD_NOT_ALLOWED", Fixed::Whole(405)),
            ("CONFLICT", Fixed::Whole(409)),
            ("GONE", Fixed::Whole(410)),
            ("UNPROCESSABLE_ENTITY", Fixed::Whole(422)),
            ("TOO_MANY_REQUESTS", Fixed::Whole(429)),
            ("INTERNAL_SERVER_ERROR", Fixed::Whole(500)),
            ("BAD_GATEWAY", Fixed::Whole(502)),
            ("SERVICE_UNAVAILABLE", Fixed::Whole(503)),
            ("GATEWAY_TIMEOUT", Fixed::Whole(504)),
        ],
    ),
    ("faker", fake::FAKER, &[], &[]),
    ("faker.here", fake::MEMBERS, &[], &[]),
];

/// The first number of a class among what is there without importing.
const CLASS_BASE: u16 = 10_000;

/// The number of a name that is there without importing.
pub fn builtin(name: &str) -> Option<u16> {
    if let Some(i) = core::NATIVES.iter().position(|n| n.name == name) {
        return u16::try_from(i).ok();
    }
    let is_exception = |(_, _, kind): &&(&str, &str, ClassKind)| *kind == ClassKind::Exception;
    let i = CLASSES.iter().take_while(|c| c.0 != "LocustError").position(|c| c.0 == name && is_exception(&c))?;
    u16::try_from(i).ok().map(|i| i + CLASS_BASE)
}

/// The value of such a number.
pub fn builtin_value(m: &Machine, number: u16) -> Option<Value> {
    match number.checked_sub(CLASS_BASE) {
        Some(class) => m.classes.get(class as usize).cloned().map(Value::Class),
        None => core::NATIVES.get(number as usize).map(Value::Native),
    }
}

/// The number of a module.
pub fn find(name: &str) -> Option<u16> {
    let i = MODULES.iter().position(|m| m.0 == name)?;
    u16::try_from(i).ok()
}

/// Its name.
pub fn name(number: u16) -> &'static str {
    MODULES.get(number as usize).map_or("?", |m| m.0)
}

/// Whether a module has a member of that name.
pub fn has(number: u16, member: &str) -> bool {
    let Some((name, natives, classes, fixed)) = MODULES.get(number as usize) else { return false };
    *name == "locust.events"
        || natives.iter().any(|n| n.name == member)
        || classes.contains(&member)
        || fixed.iter().any(|f| f.0 == member)
        || find(&format!("{name}.{member}")).is_some()
        || (*name == "os" && member == "environ")
}

/// A member of a module.
pub fn member(m: &mut Machine, number: u16, member: &str) -> Option<Value> {
    let (name, natives, classes, fixed) = MODULES.get(number as usize)?;
    if *name == "locust.events" {
        return Some(Value::Hook(m.sym(member)));
    }
    if let Some(native) = natives.iter().find(|n| n.name == member) {
        return Some(Value::Native(native));
    }
    if classes.contains(&member) {
        return m.class(member).map(Value::Class);
    }
    if let Some((_, fixed)) = fixed.iter().find(|f| f.0 == member) {
        return Some(match fixed {
            Fixed::Text(s) => Value::str(s),
            Fixed::Whole(n) => Value::Int(*n),
            Fixed::Number(x) => Value::Float(*x),
            Fixed::Nothing => Value::None,
            Fixed::Empty => Value::list(Vec::new()),
            Fixed::Environment => {
                let vars = std::env::vars_os()
                    .map(|(k, v)| (k.to_string_lossy().into_owned(), v.to_string_lossy().into_owned()));
                Value::dict(vars.map(|(k, v)| (Key(Value::string(k)), Value::string(v))).collect::<IndexMap<_, _>>())
            }
        });
    }
    find(&format!("{name}.{member}")).map(Value::Module)
}

/// Whether any object that is built in has a method of that name.
pub fn is_known_method(name: &str) -> bool {
    super::methods::KNOWN.contains(&name)
        || MODULES.iter().any(|m| m.1.iter().any(|n| n.name == name) || m.2.contains(&name))
}

/// An object of a built-in class with these attributes.
pub fn object(m: &mut Machine, class: &str, attrs: Vec<(&str, Value)>) -> Value {
    let attrs = attrs.into_iter().map(|(name, value)| (m.sym(name), value)).collect();
    match m.class(class) {
        Some(class) => Value::Object(Rc::new(Object { class, attrs: RefCell::new(attrs) })),
        None => Value::None,
    }
}
