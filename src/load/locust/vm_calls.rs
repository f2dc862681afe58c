//! Calls, attributes, classes and `with`.

use std::cell::RefCell;
use std::rc::Rc;

use indexmap::IndexMap;

use super::super::border::{Effect, Verdict};
use super::super::code::{Binary, Sym};
use super::super::value::{Bound, Class, ClassKind, Env, Func, Kids, Marks, Object, Value};
use super::super::{format, methods, modules, ops, web};
use super::{Args, Awaits, Frame, R, Raise, Vm, bug, raise, type_error};

impl Vm<'_> {
    /// Calls something: a function of the file begins (its frame is on top), anything else has its result on the stack.
    pub(super) fn invoke(&mut self, callee: Value, args: Args) -> R<()> {
        match callee {
            Value::Func(func) => self.enter_function(&func, None, args, None),
            Value::Bound(bound) => self.enter_function(&bound.function.clone(), Some(bound.this.clone()), args, None),
            Value::Native(native) => {
                let value = self.native(native, args)?;
                self.t.stack.push(value);
                Ok(())
            }
            Value::Partial(native, first) => {
                let pos = first.iter().cloned().chain(args.pos).collect();
                let value = self.native(native, Args { pos, kw: args.kw })?;
                self.t.stack.push(value);
                Ok(())
            }
            Value::Method(first, name) => {
                let this = first.first().cloned().unwrap_or(Value::None);
                let value = self.builtin_method(&this, name, args)?;
                self.t.stack.push(value);
                Ok(())
            }
            Value::Class(class) => self.instantiate(class, args),
            Value::Module(number) if modules::name(number).starts_with("datetime.date") => {
                self.t.stack.push(modules::numbers::make_date(&args));
                Ok(())
            }
            Value::Wait(wait) => {
                let seconds = super::super::user::wait_seconds(*wait, self.chance);
                self.t.stack.push(Value::Float(seconds));
                Ok(())
            }
            other => Err(type_error(format!("'{}' object is not callable", other.type_name()))),
        }
    }

    fn native(&mut self, native: &super::Native, args: Args) -> R<Value> {
        (native.call)(self, args)
    }

    fn enter_function(&mut self, func: &Rc<Func>, this: Option<Value>, args: Args, made: Option<Value>) -> R<()> {
        if self.t.frames.len() >= self.m.limits.frames {
            return Err(raise("RecursionError", "maximum recursion depth exceeded"));
        }
        let program = self.m.program.clone();
        let body = program.bodies.get(func.body as usize).ok_or_else(|| bug("no body"))?;
        let mut slots: Vec<Option<Value>> = vec![None; body.slots as usize];
        let (positional, named) = (body.positional as usize, (body.positional + body.keyword_only) as usize);
        let mut extra = Vec::new();
        for (i, value) in this.into_iter().chain(args.pos).enumerate() {
            match slots.get_mut(i) {
                Some(slot) if i < positional => *slot = Some(value),
                _ if body.star => extra.push(value),
                _ => {
                    return Err(type_error(format!(
                        "{}() takes {positional} positional arguments but more were given",
                        body.name
                    )));
                }
            }
        }
        let mut more = IndexMap::new();
        for (name, value) in args.kw {
            match body.params.iter().take(named).position(|p| *p == name) {
                Some(i) if slots.get(i).is_some_and(Option::is_none) => slots[i] = Some(value),
                Some(_) => {
                    return Err(type_error(format!("{}() got multiple values for '{}'", body.name, self.m.name(name))));
                }
                None if body.double_star => {
                    more.insert(ops::key(&Value::str(&self.m.name(name)))?, value);
                }
                None => {
                    return Err(type_error(format!(
                        "{}() got an unexpected keyword argument '{}'",
                        body.name,
                        self.m.name(name)
                    )));
                }
            }
        }
        let of_keywords = func.keyword_defaults.borrow();
        let count = func.defaults.len().saturating_sub(of_keywords.len());
        for (i, default) in func.defaults.iter().take(count).enumerate() {
            if let Some(slot) = slots.get_mut((positional + i).wrapping_sub(count)).filter(|s| s.is_none()) {
                *slot = Some(default.clone());
            }
        }
        for (name, default) in of_keywords.iter() {
            let at = body.params.iter().position(|p| p == name);
            if let Some(slot) = at.and_then(|i| slots.get_mut(i)).filter(|s| s.is_none()) {
                *slot = Some(default.clone());
            }
        }
        if let Some(i) = slots.iter().take(named).position(Option::is_none) {
            let name = body.params.get(i).map(|p| self.m.name(*p));
            return Err(type_error(format!(
                "{}() missing the argument '{}'",
                body.name,
                name.as_deref().unwrap_or("?")
            )));
        }
        let mut at = named;
        if body.star {
            if let Some(slot) = slots.get_mut(at) {
                *slot = Some(Value::tuple(extra));
            }
            at += 1;
        }
        if body.double_star
            && let Some(slot) = slots.get_mut(at)
        {
            *slot = Some(Value::dict(more));
        }
        drop(of_keywords);
        self.t.frames.push(Frame {
            body: func.body,
            pc: 0,
            base: self.t.stack.len(),
            env: Rc::new(Env { slots: RefCell::new(slots), outer: func.env.clone() }),
            tries: Vec::new(),
            func: Some(func.clone()),
            names: None,
            made,
        });
        Ok(())
    }

    /// Begins the module's body.
    pub(in super::super) fn begin_module(&mut self) {
        let env = Rc::new(Env { slots: RefCell::default(), outer: None });
        self.t.frames.push(Frame {
            body: 0,
            pc: 0,
            base: 0,
            env,
            tries: Vec::new(),
            func: None,
            names: None,
            made: None,
        });
    }

    // ---- classes ----

    pub(super) fn class_body(&mut self, body: u32, count: u16) -> R<()> {
        let mut bases = Vec::new();
        for base in self.pop_many(count as usize)? {
            match base {
                Value::Class(class) => bases.push(class),
                Value::Native(n) if n.name == "object" => {}
                other => {
                    return Err(type_error(format!("a class cannot be derived from '{}' here", other.type_name())));
                }
            }
        }
        if self.t.frames.len() >= self.m.limits.frames {
            return Err(raise("RecursionError", "maximum recursion depth exceeded"));
        }
        let env = self.t.frames.last().map(|f| f.env.clone()).ok_or_else(|| bug("no frame"))?;
        let names = Some(Box::new((IndexMap::new(), bases)));
        let base = self.t.stack.len();
        self.t.frames.push(Frame { body, pc: 0, base, env, tries: Vec::new(), func: None, names, made: None });
        Ok(())
    }

    pub(super) fn make_class(&mut self, body: u32, attrs: IndexMap<Sym, Value>, bases: Vec<Rc<Class>>) -> R<Value> {
        let depth = |class: &Class| {
            let (mut n, mut at) = (0, class);
            while let Some(base) = at.bases.first() {
                (n, at) = (n + 1, base);
            }
            n
        };
        if bases.len() > 20 || bases.iter().any(|b| depth(b) > 40) {
            return Err(type_error("too many base classes"));
        }
        let name = self.m.program.bodies.get(body as usize).map(|b| b.name.clone()).unwrap_or_default();
        let kind = bases.iter().map(|b| b.kind).find(|k| *k != ClassKind::Plain).unwrap_or(ClassKind::Plain);
        let class = Rc::new(Class {
            name,
            bases,
            kind,
            attrs: RefCell::new(attrs),
            tasks: RefCell::default(),
            marks: RefCell::new(Marks::default()),
            own: true,
        });
        for value in class.attrs.borrow().values() {
            if let Value::Func(f) = value {
                *f.owner.borrow_mut() = Rc::downgrade(&class);
            }
        }
        super::super::user::collect_tasks(self.m, &class)?;
        Ok(Value::Class(class))
    }

    fn instantiate(&mut self, class: Rc<Class>, args: Args) -> R<()> {
        let init = self.m.sym("__init__");
        let attrs = if class.kind == ClassKind::Exception {
            vec![(self.m.sym("args"), Value::tuple(args.pos.clone()))]
        } else {
            Vec::new()
        };
        let found = class.find(init);
        let object = Value::Object(Rc::new(Object { class, attrs: RefCell::new(attrs) }));
        if let Some(Value::Func(func)) = found {
            return self.enter_function(&func, Some(object.clone()), args, Some(object));
        }
        self.t.stack.push(object);
        Ok(())
    }

    /// `super()`: of the class in whose body the running method stands.
    pub(in super::super) fn super_of(&self, this: Value) -> R<Value> {
        let owner = self.t.frames.last().and_then(|f| f.func.as_ref()).and_then(|f| f.owner.borrow().upgrade());
        let owner = owner.ok_or_else(|| raise("RuntimeError", "super(): no class around"))?;
        Ok(Value::Super(Rc::new((owner, this))))
    }

    // ---- attributes ----

    /// `object.name`
    pub fn attr(&mut self, object: &Value, name: Sym) -> R<Value> {
        match object {
            Value::Object(o) => {
                if let Some(value) = o.get(name) {
                    return Ok(value);
                }
                if let Some(value) = o.class.find(name) {
                    return self.bind(object, value);
                }
                if let Some(value) = super::super::user::attribute(self, o, name) {
                    return Ok(value);
                }
            }
            Value::Super(s) => {
                let found = s.0.bases.iter().find_map(|base| base.find(name));
                return match found {
                    Some(value) => self.bind(&s.1, value),
                    None => Ok(Value::Method(Rc::new(Kids::new(vec![object.clone()])), name)),
                };
            }
            Value::Class(c) => {
                if let Some(value) = c.find(name) {
                    return match &value {
                        Value::Func(f) if f.marks.borrow().kind == Some("classmethod") => self.bind(object, value),
                        _ => Ok(value),
                    };
                }
                if &*self.m.name(name) == "__name__" {
                    return Ok(Value::str(&c.name));
                }
            }
            Value::Module(number) => {
                let text = self.m.name(name);
                if let Some(value) = modules::member(self.m, *number, &text) {
                    return Ok(value);
                }
                return Err(raise(
                    "AttributeError",
                    format!("module '{}' has no attribute '{text}' here", modules::name(*number)),
                ));
            }
            _ => {}
        }
        let text = self.m.name(name);
        if let Some(value) = web::attribute(self, object, &text)? {
            return Ok(value);
        }
        if let Value::Func(f) = object
            && &*text == "__name__"
        {
            let body = self.m.program.bodies.get(f.body as usize);
            return Ok(Value::str(body.map_or("", |b| &b.name)));
        }
        let builtin = !matches!(object, Value::Object(_) | Value::Class(_) | Value::None | Value::Func(_));
        if builtin && modules::is_known_method(&text) {
            return Ok(Value::Method(Rc::new(Kids::new(vec![object.clone()])), name));
        }
        Err(raise("AttributeError", format!("'{}' object has no attribute '{text}'", object.type_name())))
    }

    fn bind(&mut self, object: &Value, value: Value) -> R<Value> {
        let Value::Func(function) = value else { return Ok(value) };
        let kind = function.marks.borrow().kind;
        match kind {
            Some("staticmethod") => Ok(Value::Func(function)),
            Some("property") => self.call_now(&Value::Func(function), Args::of(vec![object.clone()])),
            Some("classmethod") => {
                let this = match object {
                    Value::Object(o) => Value::Class(o.class.clone()),
                    other => other.clone(),
                };
                Ok(Value::Bound(Rc::new(Bound { this, function })))
            }
            _ => Ok(Value::Bound(Rc::new(Bound { this: object.clone(), function }))),
        }
    }

    pub(super) fn set_attr(&mut self, object: &Value, name: Sym, value: Value) -> R<()> {
        match object {
            Value::Object(o) => o.set(name, value),
            Value::Class(c) => {
                c.attrs.borrow_mut().insert(name, value);
            }
            Value::Client(c) => {
                let text = self.m.name(name);
                web::set_client(c, &text, &value);
            }
            Value::Response(_) | Value::Func(_) | Value::Module(_) => {}
            other => {
                return Err(raise(
                    "AttributeError",
                    format!("'{}' object has no settable attributes", other.type_name()),
                ));
            }
        }
        Ok(())
    }

    /// `object.name(args)`
    pub(super) fn call_method(&mut self, object: Value, name: Sym, args: Args) -> R<()> {
        match &object {
            Value::Object(o) if o.get(name).is_none() => {
                if let Some(Value::Func(f)) = o.class.find(name)
                    && f.marks.borrow().kind.is_none()
                {
                    return self.enter_function(&f, Some(object.clone()), args, None);
                }
                let found = o.class.find(name);
                if let Some(value) = found {
                    let callee = self.bind(&object, value)?;
                    self.invoke(callee, args)
                } else {
                    let value = self.builtin_method(&object, name, args)?;
                    self.t.stack.push(value);
                    Ok(())
                }
            }
            Value::Object(_) | Value::Class(_) | Value::Module(_) => {
                let callee = self.attr(&object, name)?;
                self.invoke(callee, args)
            }
            Value::Super(s) => {
                let found = s.0.bases.iter().find_map(|base| base.find(name));
                if let Some(value) = found {
                    let callee = self.bind(&s.1, value)?;
                    self.invoke(callee, args)
                } else {
                    // What Locust's own classes do in these is nothing.
                    self.t.stack.push(Value::None);
                    Ok(())
                }
            }
            _ => {
                let value = self.builtin_method(&object, name, args)?;
                self.t.stack.push(value);
                Ok(())
            }
        }
    }

    fn builtin_method(&mut self, object: &Value, name: Sym, args: Args) -> R<Value> {
        let text = self.m.name(name);
        match object {
            Value::Client(client) => web::request(self, &client.clone(), &text, args),
            Value::Response(answer) => web::response_method(self, &answer.clone(), &text, args),
            Value::Object(o) => super::super::user::method(self, &o.clone(), name, args),
            Value::Hook(hook) => {
                if let (true, Some(listener)) = (&*text == "add_listener", args.pos.first()) {
                    self.m.listeners.push((*hook, listener.clone()));
                    return Ok(listener.clone());
                }
                Ok(Value::None)
            }
            Value::Super(_) => Ok(Value::None),
            _ => methods::call(self, object, &text, args),
        }
    }

    pub(super) fn index(&mut self, object: &Value, at: &Value) -> R<Value> {
        if let Value::Object(o) = object {
            let sym = self.m.sym("__getitem__");
            if let Some(found) = o.class.find(sym) {
                return self.call_now(&found, Args::of(vec![object.clone(), at.clone()]));
            }
        }
        if let (Value::Dict(d), Value::Str(_)) = (object, at) {
            // A defaultdict keeps its factory under a key that no text equals.
            let factory = d.map.borrow().get(&super::super::value::Key(Value::Hook(Sym(u32::MAX)))).cloned();
            if let Some(factory) = factory
                && !d.map.borrow().contains_key(&ops::key(at)?)
            {
                let value = self.call_now(&factory, Args::default())?;
                super::put(d, ops::key(at)?, value.clone())?;
                return Ok(value);
            }
        }
        ops::index(object, at)
    }

    pub(super) fn binary(&mut self, op: Binary, a: &Value, b: &Value) -> R<Value> {
        if let Value::Object(o) = a {
            let name = match op {
                Binary::Add => "__add__",
                Binary::Eq => "__eq__",
                Binary::Lt => "__lt__",
                _ => "",
            };
            let sym = self.m.sym(name);
            if let Some(found) = o.class.find(sym) {
                return self.call_now(&found, Args::of(vec![a.clone(), b.clone()]));
            }
        }
        ops::binary(op, a, b)
    }

    /// `str(value)`, by the object's own method if it has one.
    pub fn text_of(&mut self, value: &Value) -> R<Value> {
        if let Value::Object(o) = value {
            for name in ["__str__", "__repr__"] {
                let sym = self.m.sym(name);
                if let Some(found) = o.class.find(sym) {
                    return self.call_now(&found, Args::of(vec![value.clone()]));
                }
            }
        }
        Ok(Value::string(format::text(value)?))
    }

    // ---- with ----

    pub(super) fn enter(&mut self, manager: &Value) -> R<Value> {
        if let Value::Object(o) = manager {
            let sym = self.m.sym("__enter__");
            if let Some(found) = o.class.find(sym) {
                return self.call_now(&found, Args::of(vec![manager.clone()]));
            }
        }
        match manager {
            Value::Response(_) | Value::Object(_) | Value::Client(_) => Ok(manager.clone()),
            other => Err(type_error(format!("'{}' object does not support with", other.type_name()))),
        }
    }

    pub(super) fn exit(&mut self, manager: &Value, exception: Option<&Value>) -> R<()> {
        match manager {
            Value::Response(answer) => {
                if answer.reported.replace(true) {
                    return Ok(());
                }
                let judged = answer.verdict.borrow().clone();
                let failure = match (judged, exception) {
                    (Some(verdict), _) => verdict.err(),
                    (None, Some(Value::Object(o))) if o.class.is_named("ResponseError") => {
                        Some(format::repr(&Value::Object(o.clone()))?)
                    }
                    (None, _) => web::failure_of(&answer.request, &answer.response),
                };
                let verdict = Verdict {
                    method: answer.request.method.clone(),
                    name: answer.request.name.clone(),
                    failure,
                    token: answer.response.token,
                };
                self.t.awaits = Awaits::Nothing;
                Err(Raise::Suspend(Box::new(Effect::Verdict(Box::new(verdict)))))
            }
            Value::Object(o) if exception.is_none() => {
                let sym = self.m.sym("__exit__");
                if let Some(found) = o.class.find(sym) {
                    let none = || Value::None;
                    self.call_now(&found, Args::of(vec![manager.clone(), none(), none(), none()]))?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn swallows(&mut self, manager: &Value, exception: &Value) -> R<bool> {
        match (manager, exception) {
            (Value::Response(_), Value::Object(e)) => Ok(e.class.is_named("ResponseError")),
            (Value::Object(o), Value::Object(e)) => {
                let sym = self.m.sym("__exit__");
                match o.class.find(sym) {
                    Some(found) => {
                        let class = Value::Class(e.class.clone());
                        let args = vec![manager.clone(), class, exception.clone(), Value::None];
                        let value = self.call_now(&found, Args::of(args))?;
                        Ok(ops::truth(&value))
                    }
                    None => Ok(false),
                }
            }
            _ => Ok(false),
        }
    }
}
