//! The users of a locustfile: which task comes next, when, and what happens when one ends.
//!
//! A [`User`] is a state machine: [`User::resume`] runs it until it wants something. Between two tasks it holds no running
//! function, only its attributes, the task sets it is in and its stream of chance.

use std::cell::RefCell;
use std::rc::Rc;

use super::border::{Effect, Exception, Input, Request};
use super::code::Sym;
use super::modules;
use super::ops::type_error;
use super::value::{Class, ClassKind, Object, Value, Wait};
use super::vm::{Args, Awaits, Machine, R, Raise, Thread, Vm, raise};
use super::web;
use crate::load::chance::Chance;

/// A task set that a user is in, the user itself first.
#[derive(Debug)]
struct Level {
    object: Rc<Object>,
    next: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has happened yet.
    Fresh,
    /// `on_start` of the innermost level runs.
    Starting,
    /// A task is to be chosen.
    Choose,
    /// A task runs.
    Task,
    /// `on_stop` of a task set runs that is being left; then it waits, or not.
    Leaving(bool),
    /// The user ends: `on_stop` of the innermost level is to run.
    Stop,
    /// It runs.
    Stopping,
    Ended,
}

/// A user.
#[derive(Debug)]
pub struct User {
    levels: Vec<Level>,
    thread: Thread,
    chance: Chance,
    phase: Phase,
    asked: Option<Request>,
    host: Option<String>,
}

/// The seconds of a wait function.
pub(super) fn wait_seconds(wait: Wait, chance: &mut Chance) -> f64 {
    match wait {
        Wait::Constant(s) | Wait::Pacing(s) => s,
        Wait::Between(low, high) => low + (high - low) * chance.share(),
    }
}

/// What Locust collects when a class is made: the tasks of its bases, its list or dict of tasks, and those with `@task`.
pub(super) fn collect_tasks(m: &mut Machine, class: &Rc<Class>) -> R<()> {
    let names = ["tasks", "task_set"].map(|n| m.sym(n));
    let mut tasks = Vec::new();
    for base in &class.bases {
        tasks.extend(base.tasks.borrow().iter().cloned());
    }
    let mut add = |value: &Value, weight: i64| -> R<()> {
        if weight > 0 && matches!(value, Value::Func(_) | Value::Class(_)) {
            tasks.push((value.clone(), weight));
        }
        if tasks.len() > 10_000 { Err(type_error("more than 10000 tasks")) } else { Ok(()) }
    };
    let mut ordered = Vec::new();
    for (name, value) in class.attrs.borrow().iter() {
        if names.contains(name) {
            match value {
                Value::List(l) => l.0.borrow().iter().try_for_each(|v| add(v, 1))?,
                Value::Tuple(t) => t.iter().try_for_each(|v| add(v, 1))?,
                Value::Dict(d) => d.map.borrow().iter().try_for_each(|(k, w)| add(&k.0, w.as_int().unwrap_or(1)))?,
                Value::Class(_) => add(value, 1)?,
                _ => {}
            }
            continue;
        }
        let marks = match value {
            Value::Func(f) => f.marks.borrow().clone(),
            Value::Class(c) => c.marks.borrow().clone(),
            _ => continue,
        };
        if let Some(weight) = marks.weight {
            match marks.order {
                Some(order) => ordered.push((order, value.clone(), weight)),
                None => add(value, weight)?,
            }
        }
    }
    ordered.sort_by_key(|(order, ..)| *order);
    for (_, value, weight) in ordered {
        add(&value, weight)?;
    }
    *class.tasks.borrow_mut() = tasks;
    Ok(())
}

/// An attribute that a user or task set has from Locust.
pub(super) fn attribute(vm: &mut Vm<'_>, object: &Rc<Object>, name: Sym) -> Option<Value> {
    let text = vm.m.name(name);
    match (object.class.kind, &*text) {
        (ClassKind::User | ClassKind::TaskSet | ClassKind::Sequence, "environment") => {
            vm.m.environment.clone().map(Value::Object)
        }
        (ClassKind::User, "client") => {
            let client = Value::Client(Rc::new(web::client()));
            object.set(name, client.clone());
            Some(client)
        }
        (ClassKind::User, "host") => {
            let host = vm.m.sym("host");
            vm.m.environment.as_ref().and_then(|e| e.get(host))
        }
        (ClassKind::User, "user") => Some(Value::Object(object.clone())),
        (ClassKind::TaskSet | ClassKind::Sequence, "client") => {
            let user = vm.m.sym("user");
            let user = object.get(user)?;
            vm.attr(&user, name).ok()
        }
        (_, "__class__") => Some(Value::Class(object.class.clone())),
        (_, "__dict__") => Some(Value::dict(indexmap::IndexMap::new())),
        _ => None,
    }
}

/// A method that an object has from Locust, or of a file, a lock, a parser.
pub(super) fn method(vm: &mut Vm<'_>, object: &Rc<Object>, name: Sym, args: Args) -> R<Value> {
    let text = vm.m.name(name);
    let file = |vm: &mut Vm<'_>, name: &str| {
        let sym = vm.m.sym(name);
        object.get(sym).unwrap_or(Value::None)
    };
    match (object.class.name.as_str(), object.class.kind, &*text) {
        (_, ClassKind::User, "stop") => Err(raise("StopUser", "")),
        (_, ClassKind::TaskSet | ClassKind::Sequence, "interrupt") => {
            let again = args.get(vm, 0, "reschedule").is_none_or(|v| super::ops::truth(&v));
            Err(raise("InterruptTaskSet", if again { "" } else { "wait" }))
        }
        (_, ClassKind::User | ClassKind::TaskSet | ClassKind::Sequence, "wait") => {
            let seconds = wait_of(vm, &Value::Object(object.clone()))?.unwrap_or(0.0);
            vm.t.awaits = Awaits::Go;
            Err(Raise::Suspend(Box::new(Effect::Sleep(to_ns(seconds)))))
        }
        (
            _,
            ClassKind::User | ClassKind::TaskSet | ClassKind::Sequence,
            "on_start" | "on_stop" | "schedule_task" | "setup" | "teardown",
        ) => Ok(Value::None),
        (_, ClassKind::Shape, "get_run_time") => Ok(file(vm, "_run_time")),
        (_, ClassKind::Shape, "get_current_user_count") => Ok(file(vm, "_user_count")),
        (_, ClassKind::Shape, "reset_time") => Ok(Value::None),
        ("File", _, "read") => Ok(file(vm, "_text")),
        ("File", _, "readlines") => Ok(file(vm, "_lines")),
        ("File", _, "readline") => match file(vm, "_lines") {
            Value::List(l) if !l.0.borrow().is_empty() => Ok(l.0.borrow_mut().remove(0)),
            _ => Ok(Value::str("")),
        },
        ("File", _, "close" | "seek" | "flush") => Ok(Value::None),
        ("Lock" | "RLock" | "Semaphore", _, "acquire" | "release") => Ok(Value::Bool(true)),
        ("Runner", _, "quit" | "stop") => {
            vm.t.awaits = Awaits::Go;
            Err(Raise::Suspend(Box::new(Effect::StopRun)))
        }
        ("Namespace", _, "add_argument") => {
            let default = args.named(vm, "default").unwrap_or(Value::None);
            let long = args.pos.iter().filter_map(Value::as_str).find(|a| a.starts_with("--"));
            if let (Some(long), Some(environment)) = (long, vm.m.environment.clone()) {
                let name = vm.m.sym(&long.trim_start_matches('-').replace('-', "_"));
                let options = vm.m.sym("parsed_options");
                if let Some(Value::Object(options)) = environment.get(options) {
                    options.set(name, default);
                }
            }
            Ok(Value::None)
        }
        _ => Err(raise("AttributeError", format!("'{}' object has no attribute '{text}'", object.class.name))),
    }
}

fn to_ns(seconds: f64) -> u64 {
    (seconds.clamp(0.0, 1e9) * 1e9) as u64
}

/// What the object's `wait_time` says, in seconds; `None`: it has none.
fn wait_of(vm: &mut Vm<'_>, object: &Value) -> R<Option<f64>> {
    let Value::Object(o) = object else { return Ok(None) };
    let names = ["wait_time", "min_wait", "max_wait", "wait_function", "user"].map(|n| vm.m.sym(n));
    let mut found = o.get(names[0]).or_else(|| o.class.find(names[0]));
    let mut of = o.clone();
    if found.is_none()
        && o.class.find(names[2]).is_none()
        && let Some(Value::Object(user)) = o.get(names[4])
    {
        found = user.get(names[0]).or_else(|| user.class.find(names[0]));
        of = user;
    }
    let Some(found) = found else {
        // Locust before 1.0: milliseconds.
        let bound = |name: Sym| of.get(name).or_else(|| of.class.find(name)).and_then(|v| v.as_f64());
        return Ok(match (bound(names[1]), bound(names[2])) {
            (Some(low), Some(high)) => Some(wait_seconds(Wait::Between(low / 1e3, high / 1e3), vm.chance)),
            _ => None,
        });
    };
    let value = match &found {
        Value::Wait(w) => return Ok(Some(wait_seconds(**w, vm.chance))),
        Value::Func(_) => vm.call_now(&found, Args::of(vec![Value::Object(of)]))?,
        Value::Int(_) | Value::Float(_) => found.clone(),
        other => vm.call_now(other, Args::of(vec![Value::Object(of)]))?,
    };
    let seconds = value.as_f64().ok_or_else(|| type_error("wait_time must give a number of seconds"))?;
    Ok(Some(seconds))
}

impl User {
    /// A user of this class, which has not begun.
    pub(super) fn new(m: &mut Machine, class: &Rc<Class>, chance: Chance) -> Self {
        let object = Rc::new(Object { class: class.clone(), attrs: RefCell::default() });
        let host = m.sym("host");
        let host = class.find(host).and_then(|v| v.as_str().map(|s| s.trim_end_matches('/').to_owned()));
        User {
            levels: vec![Level { object, next: 0 }],
            thread: Thread::default(),
            chance,
            phase: Phase::Fresh,
            asked: None,
            host: host.filter(|h| !h.is_empty()),
        }
    }

    /// Runs it until it wants something. `now_ns` never jumps; `wall_us` is the world's time since 1970, µs.
    pub fn resume(&mut self, m: &mut Machine, input: Input, now_ns: u64, wall_us: i64) -> Effect {
        match input {
            Input::Stop if self.phase != Phase::Ended => {
                self.thread.clear();
                self.phase = Phase::Stop;
            }
            Input::Response(response) => {
                if self.thread.awaits == Awaits::Response
                    && let Some(request) = self.asked.take()
                {
                    self.thread.awaits = Awaits::Nothing;
                    let (value, verdict) = web::arrived(request, *response);
                    self.thread.push(value);
                    if let Some(verdict) = verdict {
                        return Effect::Verdict(Box::new(verdict));
                    }
                }
            }
            Input::Go | Input::Stop => {
                if self.thread.awaits == Awaits::Go {
                    self.thread.push(Value::None);
                }
                self.thread.awaits = Awaits::Nothing;
            }
        }
        loop {
            match self.advance(m, now_ns, wall_us) {
                Some(Effect::Request(mut request)) => {
                    request.host.clone_from(&self.host);
                    self.asked = Some((*request).clone());
                    return Effect::Request(request);
                }
                Some(effect) => return effect,
                None => {}
            }
        }
    }

    /// One transition; an effect ends the turn.
    fn advance(&mut self, m: &mut Machine, now_ns: u64, wall_us: i64) -> Option<Effect> {
        let (thread, chance) = (&mut self.thread, &mut self.chance);
        let mut vm = Vm { m, t: thread, chance, now_ns, wall_us, nested: 0 };
        match self.phase {
            Phase::Ended => Some(Effect::Ended),
            Phase::Fresh => {
                self.phase = Phase::Starting;
                let level = self.levels.last()?;
                let init = vm.m.sym("__init__");
                if let Some(init) = level.object.class.find(init) {
                    let environment = vm.m.environment.clone().map_or(Value::None, Value::Object);
                    let args = vec![Value::Object(level.object.clone()), environment];
                    if let Err(raised) = vm.call_now(&init, Args::of(args)) {
                        let exception = vm.exception_of(raised);
                        self.phase = Phase::Ended;
                        return Some(Effect::Exception(Box::new(exception)));
                    }
                }
                begin(&mut vm, &level.object.clone(), "on_start").unwrap_or_else(|e| self.failed(m, e, now_ns, wall_us))
            }
            Phase::Choose => {
                vm.fresh_steps();
                self.choose(m, now_ns, wall_us)
            }
            Phase::Stop => {
                self.phase = Phase::Stopping;
                let object = self.levels.last()?.object.clone();
                begin(&mut vm, &object, "on_stop").unwrap_or_else(|e| self.failed(m, e, now_ns, wall_us))
            }
            Phase::Starting | Phase::Task | Phase::Leaving(_) | Phase::Stopping => {
                if !vm.t.is_running() {
                    return self.done(m, now_ns, wall_us);
                }
                match vm.go() {
                    Ok(_) => self.done(m, now_ns, wall_us),
                    Err(Raise::Suspend(effect)) => Some(*effect),
                    Err(raised) => self.failed(m, raised, now_ns, wall_us),
                }
            }
        }
    }

    fn vm<'a>(&'a mut self, m: &'a mut Machine, now_ns: u64, wall_us: i64) -> Vm<'a> {
        Vm { m, t: &mut self.thread, chance: &mut self.chance, now_ns, wall_us, nested: 0 }
    }

    /// What was running has ended in order.
    fn done(&mut self, m: &mut Machine, now_ns: u64, wall_us: i64) -> Option<Effect> {
        self.thread.clear();
        match self.phase {
            Phase::Starting => {
                self.phase = Phase::Choose;
                // The engine may count the start as a part of its own.
                (self.levels.len() == 1).then_some(Effect::Yield)
            }
            Phase::Task => self.wait(m, now_ns, wall_us),
            Phase::Leaving(waits) => {
                self.levels.pop();
                self.phase = Phase::Choose;
                if waits { self.wait(m, now_ns, wall_us) } else { None }
            }
            Phase::Stopping => {
                self.levels.pop();
                self.phase = if self.levels.is_empty() { Phase::Ended } else { Phase::Stop };
                (self.phase == Phase::Ended).then_some(Effect::Ended)
            }
            _ => None,
        }
    }

    /// What was running raised.
    fn failed(&mut self, m: &mut Machine, raised: Raise, now_ns: u64, wall_us: i64) -> Option<Effect> {
        let phase = self.phase;
        let fatal = matches!(raised, Raise::Fatal(_));
        let (named, waits, exception): (String, bool, Exception) = {
            let mut vm = self.vm(m, now_ns, wall_us);
            let (named, value) = if fatal { (String::new(), None) } else { Raise::class_of(&raised) };
            let waits = value.as_deref() == Some("wait");
            (named, waits, vm.exception_of(raised))
        };
        self.thread.clear();
        let in_task = matches!(phase, Phase::Task | Phase::Starting);
        match named.as_str() {
            "StopUser" | "StopLocust" if in_task => {
                self.phase = Phase::Stop;
                return None;
            }
            "RescheduleTask" | "RescheduleTaskImmediately" if in_task => {
                self.phase = Phase::Choose;
                // A task that is always put off must not spin: others have their turn.
                return Some(Effect::Yield);
            }
            "InterruptTaskSet" if in_task && self.levels.len() > 1 => {
                self.phase = Phase::Leaving(waits);
                let object = self.levels.last()?.object.clone();
                let mut vm = self.vm(m, now_ns, wall_us);
                return match begin(&mut vm, &object, "on_stop") {
                    Ok(effect) => effect.or(Some(Effect::Yield)),
                    Err(raised) => Some(Effect::Exception(Box::new(vm.exception_of(raised)))),
                };
            }
            _ => {}
        }
        match phase {
            // A user that cannot start ends, as in Locust.
            Phase::Starting if self.levels.len() == 1 => self.phase = Phase::Ended,
            Phase::Stopping => {
                self.levels.pop();
                self.phase = if self.levels.is_empty() { Phase::Ended } else { Phase::Stop };
            }
            Phase::Leaving(_) => {
                self.levels.pop();
                self.phase = Phase::Choose;
            }
            // The task counts as done, and its wait follows once the exception is counted.
            _ => self.phase = Phase::Task,
        }
        Some(Effect::Exception(Box::new(exception)))
    }

    fn wait(&mut self, m: &mut Machine, now_ns: u64, wall_us: i64) -> Option<Effect> {
        self.phase = Phase::Choose;
        let object = Value::Object(self.levels.last()?.object.clone());
        let pacing = self.pacing(m);
        let seconds = {
            let mut vm = self.vm(m, now_ns, wall_us);
            match wait_of(&mut vm, &object) {
                Ok(seconds) => seconds.unwrap_or(0.0),
                Err(raised) => {
                    let exception = vm.exception_of(raised);
                    self.thread.clear();
                    return Some(Effect::Exception(Box::new(exception)));
                }
            }
        };
        self.thread.clear();
        let ns = to_ns(seconds);
        Some(if pacing { Effect::Pace(ns) } else { Effect::Wait(ns) })
    }

    fn pacing(&self, m: &mut Machine) -> bool {
        let (wait, user) = (m.sym("wait_time"), m.sym("user"));
        let Some(level) = self.levels.last() else { return false };
        let found = level.object.class.find(wait).or_else(|| match level.object.get(user) {
            Some(Value::Object(user)) => user.class.find(wait),
            _ => None,
        });
        matches!(found, Some(Value::Wait(w)) if matches!(*w, Wait::Pacing(_)))
    }

    /// Chooses the next task and begins it.
    fn choose(&mut self, m: &mut Machine, now_ns: u64, wall_us: i64) -> Option<Effect> {
        let level = self.levels.last_mut()?;
        let class = level.object.class.clone();
        let tasks = class.tasks.borrow();
        let total: i64 = tasks.iter().map(|(_, w)| w).sum();
        let picked = if total <= 0 {
            None
        } else if class.kind == ClassKind::Sequence {
            // A weight in a sequence is how often the task comes before the next one.
            let mut at = (level.next as i64) % total;
            level.next = level.next.wrapping_add(1);
            tasks.iter().find(|(_, w)| {
                at -= w;
                at < 0
            })
        } else {
            let mut at = self.chance.below(total as u64) as i64;
            tasks.iter().find(|(_, w)| {
                at -= w;
                at < 0
            })
        }
        .map(|(t, _)| t.clone());
        drop(tasks);
        let object = level.object.clone();
        match picked {
            Some(Value::Class(set)) => {
                if self.levels.len() >= 16 {
                    self.phase = Phase::Ended;
                    let message = "task sets nest deeper than 16".to_owned();
                    return Some(Effect::Exception(Box::new(Exception::own(message))));
                }
                let user = self.levels.first().map_or(Value::None, |l| Value::Object(l.object.clone()));
                let names = ["user", "locust", "parent"].map(|n| m.sym(n));
                let attrs = vec![(names[0], user.clone()), (names[1], user), (names[2], Value::Object(object))];
                let inner = Rc::new(Object { class: set, attrs: RefCell::new(attrs) });
                self.levels.push(Level { object: inner.clone(), next: 0 });
                self.phase = Phase::Starting;
                let mut vm = self.vm(m, now_ns, wall_us);
                let init = vm.m.sym("__init__");
                let begun = match inner.class.find(init) {
                    Some(init) => {
                        let parent = vm.m.sym("parent");
                        let args = vec![Value::Object(inner.clone()), inner.get(parent).unwrap_or(Value::None)];
                        vm.call_now(&init, Args::of(args)).map(|_| ())
                    }
                    None => Ok(()),
                }
                .and_then(|()| begin(&mut vm, &inner, "on_start"));
                begun.unwrap_or_else(|e| self.failed(m, e, now_ns, wall_us))
            }
            Some(task) => {
                self.phase = Phase::Task;
                let mut vm = self.vm(m, now_ns, wall_us);
                let begun = vm.begin(&task, Args::of(vec![Value::Object(object)]));
                match begun {
                    Ok(_) => None,
                    Err(Raise::Suspend(effect)) => Some(*effect),
                    Err(raised) => self.failed(m, raised, now_ns, wall_us),
                }
            }
            None => {
                self.phase = Phase::Stop;
                let message = format!("No tasks defined on {}", class.name);
                Some(Effect::Exception(Box::new(Exception::own(message))))
            }
        }
    }

    /// Whether `on_start` is behind it.
    pub fn has_started(&self) -> bool {
        !matches!(self.phase, Phase::Fresh | Phase::Starting)
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }
}

/// Begins a method without arguments, if the object's class has it.
fn begin(vm: &mut Vm<'_>, object: &Rc<Object>, name: &str) -> R<Option<Effect>> {
    let sym = vm.m.sym(name);
    if let Some(function) = object.class.find(sym) {
        vm.begin(&function, Args::of(vec![Value::Object(object.clone())]))?;
    }
    Ok(None)
}

/// What surrounds the users: host, options, runner.
pub(super) fn environment(m: &mut Machine, host: Option<&str>) -> Rc<Object> {
    let host = host.map_or(Value::None, Value::str);
    let options = modules::object(m, "Namespace", vec![("host", host.clone())]);
    let runner = modules::object(
        m,
        "Runner",
        vec![("user_count", Value::Int(0)), ("state", Value::str("running")), ("environment", Value::None)],
    );
    let events = modules::find("locust.events").map_or(Value::None, Value::Module);
    let attrs = vec![
        ("host", host),
        ("parsed_options", options),
        ("runner", runner),
        ("events", events),
        ("process_exit_code", Value::Int(0)),
        ("web_ui", Value::None),
    ];
    match modules::object(m, "Environment", attrs) {
        Value::Object(o) => o,
        _ => unreachable!("the class is in the table"),
    }
}
