//! `locustfile.py` as it is: parsed, compiled to a compact form, and run without Python.
//!
//! In: the text of a locustfile. Out: [`Locustfile`] (shared by all threads), from which each engine thread makes its
//! [`Machine`] and its [`User`]s; a user is resumed with an [`Input`] and answers with an [`Effect`] (see [`border`]).
//!
//! What it runs is the part of Python that locustfiles use (tiers T0 to T2 of the research: classes, tasks, the client,
//! `random`, `json`, `re`, data files, helper functions). What it cannot run is named by line before anything is sent.
//! Limits: whole numbers of 64 bits; no generators, `async`, threads or foreign packages; module variables are per engine
//! thread, as with `locust --processes` ([`Locustfile::shared_state`] says where a file depends on them); reference cycles
//! are not collected. The second way, the file in the user's own interpreter, meets the engine at the same border.
//!
//! `ruff_python_parser` promises no stable interface, so it is pinned, and only `lower*.rs` know it.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::load::chance::Chance;
use crate::load::http::Url;

pub mod border;
pub mod code;
mod dates;
mod format;
mod lower;
mod methods;
mod modules;
mod ops;
pub mod play;
mod user;
mod value;
mod vm;
mod web;

pub use border::{Effect, Exception, Input, Request, Response, Verdict};
pub use lower::Problem;
pub use user::User;
pub use vm::{Limits, Machine};

use value::{Class, ClassKind, Value};
use vm::{Args, Raise, Thread, Vm};

/// A locustfile, compiled.
#[derive(Debug, Clone)]
pub struct Locustfile {
    program: Arc<code::Program>,
    wants_body: bool,
}

/// What a run wants of a locustfile.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The host that `-H` named.
    pub host: Option<String>,
    /// Only tasks with one of these tags.
    pub tags: Vec<String>,
    /// No tasks with one of these.
    pub exclude_tags: Vec<String>,
    /// Bounds.
    pub limits: Limits,
}

/// A class of users that a run can have.
#[derive(Debug, Clone, PartialEq)]
pub struct UserClass {
    /// Its name.
    pub name: String,
    /// Its weight among the others.
    pub weight: f64,
    /// Exactly so many users.
    pub fixed_count: Option<u32>,
    /// Its host, if it names one.
    pub host: Option<String>,
    /// Its tasks with their weights, as Locust's ratio shows them; a task set is followed by its own, indented.
    pub tasks: Vec<(usize, String, i64)>,
}

/// The user classes and the machine they live in: of one thread.
#[derive(Debug)]
pub struct World {
    /// What its users share.
    pub machine: Machine,
    classes: Vec<Rc<Class>>,
    shape: Option<Value>,
    /// Whether it was said that a shape's classes are left aside.
    said_classes: bool,
}

impl Locustfile {
    /// Reads and compiles a file.
    ///
    /// # Errors
    /// `Usage` for a file that cannot be read, or with all that cannot be run, a line each.
    pub fn load(path: &Path) -> Result<Self> {
        let file = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let source = std::fs::read(path)
            .map_err(|e| Error::usage(format!("cannot read the locustfile {}", path.display())).caused_by(e))?;
        let directory = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
        Self::of_source(&file, &directory, &String::from_utf8_lossy(&source)).map_err(|problems| {
            let mut text = format!("{} cannot be run without Python:", path.display());
            for problem in problems.iter().take(20) {
                text.push_str(&format!("\n  {}:{}: {}", path.display(), problem.line, problem.what));
            }
            if problems.len() > 20 {
                text.push_str(&format!("\n  and {} more", problems.len() - 20));
            }
            Error::usage(text)
        })
    }

    /// Compiles a text.
    ///
    /// # Errors
    /// All that cannot be run.
    pub fn of_source(file: &str, directory: &Path, source: &str) -> std::result::Result<Self, Vec<Problem>> {
        let program = lower::compile(file, directory, source.trim_start_matches('\u{feff}'))?;
        let looks = ["json", "text", "content", "iter_lines", "iter_content"];
        let wants_body = program.names.iter().any(|n| looks.contains(&n.as_str()));
        Ok(Locustfile { program: Arc::new(program), wants_body })
    }

    /// What is accepted but has no effect here: line and what.
    pub fn remarks(&self) -> &[(u32, String)] {
        &self.program.remarks
    }

    /// Where a function changes what all users share; with more than one engine thread each has its own copy.
    pub fn shared_state(&self) -> Option<&(u32, String)> {
        self.program.shared_state.as_ref()
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.program.file
    }

    /// Whether any code has one of these names.
    pub fn mentions(&self, names: &[&str]) -> bool {
        self.program.names.iter().any(|n| names.contains(&n.as_str()))
    }

    /// Servers that texts in the file name.
    pub fn mentioned_urls(&self) -> impl Iterator<Item = Url> {
        self.program.consts.iter().filter_map(|c| match c {
            code::Const::Str(text) if text.starts_with("http://") || text.starts_with("https://") => {
                let end = text.find(|c: char| c.is_whitespace() || "{?#".contains(c)).unwrap_or(text.len());
                let url = Url::parse(text.get(..end)?).ok()?;
                Some(Url { target: "/".to_owned(), ..url })
            }
            _ => None,
        })
    }

    /// Whether any code looks at bodies of answers.
    pub fn wants_body(&self) -> bool {
        self.wants_body
    }

    /// Runs the module's body and makes what a thread needs.
    ///
    /// # Errors
    /// `Usage` when the module itself raises, with its line.
    pub fn world(&self, options: &Options, seed: u64) -> Result<World> {
        let mut machine = Machine::blank(self.program.clone(), options.limits);
        machine.environment = Some(user::environment(&mut machine, options.host.as_deref()));
        let mut thread = Thread::default();
        let mut chance = Chance::new(seed, u64::MAX);
        let mut turns = 0_u64;
        loop {
            let mut vm =
                Vm { m: &mut machine, t: &mut thread, chance: &mut chance, now_ns: 0, wall_us: now_us(), nested: 0 };
            if turns == 0 {
                vm.begin_module();
            }
            turns += 1;
            match vm.go() {
                Ok(_) => break,
                Err(Raise::Suspend(effect)) if matches!(*effect, Effect::Yield) => {}
                Err(Raise::Suspend(effect)) => {
                    let what = match *effect {
                        Effect::Request(_) => "a request",
                        _ => "a pause",
                    };
                    return Err(Error::usage(format!(
                        "{}: {what} while the file is loaded is not supported",
                        self.program.file
                    )));
                }
                Err(raised) => {
                    let exception = vm.exception_of(raised);
                    let line = exception.traceback.last().map_or(0, |t| t.1);
                    return Err(Error::usage(format!("{}:{line}: {}", self.program.file, exception.summary())));
                }
            }
        }
        let mut world = World { machine, classes: Vec::new(), shape: None, said_classes: false };
        world.find_classes(options);
        for event in ["init_command_line_parser", "init"] {
            world.fire(event);
        }
        Ok(world)
    }
}

fn now_us() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}

impl World {
    fn find_classes(&mut self, options: &Options) {
        let abstracts = self.machine.sym("abstract");
        let mut seen: Vec<Rc<Class>> = Vec::new();
        for value in self.machine.globals.clone().into_iter().flatten() {
            let Value::Class(class) = value else { continue };
            if !class.own || seen.iter().any(|c| Rc::ptr_eq(c, &class)) {
                continue;
            }
            filter_tasks(&class, options, 0);
            seen.push(class.clone());
            let is_abstract = class.attrs.borrow().get(&abstracts).is_some_and(ops::truth);
            match class.kind {
                ClassKind::User if !is_abstract && !class.tasks.borrow().is_empty() => self.classes.push(class),
                ClassKind::Shape if !is_abstract && self.shape.is_none() => {
                    self.shape = self.call(&Value::Class(class), Vec::new()).ok();
                }
                _ => {}
            }
        }
    }

    fn call(&mut self, function: &Value, args: Vec<Value>) -> std::result::Result<Value, Exception> {
        let mut thread = Thread::default();
        let mut chance = Chance::new(0, u64::MAX - 1);
        let mut vm =
            Vm { m: &mut self.machine, t: &mut thread, chance: &mut chance, now_ns: 0, wall_us: now_us(), nested: 0 };
        vm.call_now(function, Args::of(args)).map_err(|e| vm.exception_of(e))
    }

    /// Calls the listeners of an event of the run (`test_start`, `test_stop`, `quitting`); what they raise goes to the log.
    pub fn fire(&mut self, event: &str) {
        let sym = self.machine.sym(event);
        let listeners: Vec<Value> =
            self.machine.listeners.iter().filter(|(e, _)| *e == sym).map(|(_, f)| f.clone()).collect();
        for listener in listeners {
            let environment = self.machine.environment.clone().map_or(Value::None, Value::Object);
            let kw = match event {
                "init_command_line_parser" => ("parser", modules::object(&mut self.machine, "Namespace", Vec::new())),
                _ => ("environment", environment),
            };
            let kw = vec![(self.machine.sym(kw.0), kw.1)];
            let mut thread = Thread::default();
            let mut chance = Chance::new(0, u64::MAX - 1);
            let mut vm = Vm {
                m: &mut self.machine,
                t: &mut thread,
                chance: &mut chance,
                now_ns: 0,
                wall_us: now_us(),
                nested: 0,
            };
            let pos = if event == "init_command_line_parser" {
                kw.iter().map(|(_, v)| v.clone()).collect()
            } else {
                Vec::new()
            };
            let kw = if event == "init_command_line_parser" { Vec::new() } else { kw };
            if let Err(raised) = vm.call_now(&listener, Args { pos, kw }) {
                let exception = vm.exception_of(raised);
                self.machine.say(format!("listener of {event}: {}", exception.summary()));
            }
        }
    }

    /// The classes that can be run.
    pub fn classes(&mut self) -> Vec<UserClass> {
        let names = ["weight", "fixed_count", "host"].map(|n| self.machine.sym(n));
        let mut all = Vec::new();
        for class in &self.classes {
            let mut tasks = Vec::new();
            list_tasks(&self.machine, class, 0, &mut tasks);
            all.push(UserClass {
                name: class.name.clone(),
                weight: class.find(names[0]).and_then(|v| v.as_f64()).unwrap_or(1.0),
                fixed_count: class
                    .find(names[1])
                    .and_then(|v| v.as_int())
                    .and_then(|n| u32::try_from(n).ok())
                    .filter(|n| *n > 0),
                host: class.find(names[2]).and_then(|v| v.as_str().map(str::to_owned)),
                tasks,
            });
        }
        all
    }

    /// A user of the class number `class`; `index` tells its stream of chance from those of others.
    ///
    /// # Errors
    /// `Usage` when there is no such class.
    pub fn user(&mut self, class: usize, seed: u64, index: u64) -> Result<User> {
        let class =
            self.classes.get(class).cloned().ok_or_else(|| Error::usage(format!("no user class number {class}")))?;
        Ok(User::new(&mut self.machine, &class, Chance::new(seed, index)))
    }

    /// What the file's `LoadTestShape` wants now: users and spawn rate; `None`: the run ends.
    ///
    /// # Errors
    /// What its `tick` raised.
    pub fn shape(&mut self, run_time_s: f64, users: u32) -> std::result::Result<Option<(u32, f64)>, Exception> {
        let Some(shape) = self.shape.clone() else { return Ok(None) };
        let (tick, time, count) =
            (self.machine.sym("tick"), self.machine.sym("_run_time"), self.machine.sym("_user_count"));
        let Value::Object(object) = &shape else { return Ok(None) };
        object.set(time, Value::Float(run_time_s));
        object.set(count, Value::Int(i64::from(users)));
        let Some(function) = object.class.find(tick) else { return Ok(None) };
        let wanted = self.call(&function, vec![shape.clone()])?;
        let Value::Tuple(t) = wanted else { return Ok(None) };
        if t.get(2).is_some_and(|classes| !matches!(classes, Value::None)) && !self.said_classes {
            self.said_classes = true;
            self.machine
                .say("the shape names classes of users: left aside, all classes take part by their weights".into());
        }
        Ok(t.first().and_then(Value::as_f64).zip(t.get(1).and_then(Value::as_f64)).map(|(u, r)| (u as u32, r)))
    }

    /// Whether the file has a `LoadTestShape`.
    pub fn has_shape(&self) -> bool {
        self.shape.is_some()
    }

    /// Whether there is something to take by [`Self::take_log`].
    pub fn has_log(&self) -> bool {
        !self.machine.log.is_empty()
    }

    /// Lines that the file printed or logged since the last call, the newest thousand.
    pub fn take_log(&mut self) -> Vec<String> {
        self.machine.log.drain(..).collect()
    }
}

/// Keeps the tasks that the tags of a run let through; a task set stays if any of its tasks does.
fn filter_tasks(class: &Rc<Class>, options: &Options, depth: u32) {
    if (options.tags.is_empty() && options.exclude_tags.is_empty()) || depth > 16 {
        return;
    }
    let mut tasks = class.tasks.borrow().clone();
    tasks.retain(|(task, _)| match task {
        Value::Func(f) => {
            let marks = f.marks.borrow();
            let has = |wanted: &[String]| marks.tags.iter().any(|t| wanted.iter().any(|w| **w == **t));
            (options.tags.is_empty() || has(&options.tags)) && !has(&options.exclude_tags)
        }
        Value::Class(inner) => {
            filter_tasks(inner, options, depth + 1);
            !inner.tasks.borrow().is_empty()
        }
        _ => false,
    });
    *class.tasks.borrow_mut() = tasks;
}

fn list_tasks(m: &Machine, class: &Class, depth: usize, out: &mut Vec<(usize, String, i64)>) {
    if depth > 16 || out.len() > 1000 {
        return;
    }
    for (task, weight) in class.tasks.borrow().iter() {
        match task {
            Value::Func(f) => {
                let name = m.program.bodies.get(f.body as usize).map_or("?", |b| &b.name);
                out.push((depth, name.to_owned(), *weight));
            }
            Value::Class(inner) => {
                out.push((depth, inner.name.clone(), *weight));
                list_tasks(m, inner, depth + 1, out);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
