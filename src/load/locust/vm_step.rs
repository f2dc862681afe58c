//! One instruction of the machine after the other.

use super::{
    Args, Binary, ClassKind, Dict, Func, IndexMap, Instr, Kids, R, Raise, Rc, RefCell, Step, Value, Vm, advance, bug,
    extend, is_instance, modules, ops, push_to, put, raise, truth, type_error,
};

impl Vm<'_> {
    /// Does the next instruction.
    pub(super) fn step(&mut self) -> R<Step> {
        let frame = self.t.frames.last_mut().ok_or_else(|| bug("no frame"))?;
        let program = &self.m.program;
        let body = program.bodies.get(frame.body as usize).ok_or_else(|| bug("no body"))?;
        let instr = *body.code.get(frame.pc as usize).ok_or_else(|| bug("beyond the code"))?;
        frame.pc += 1;
        match instr {
            Instr::Const(i) => {
                let value = self.m.consts.get(i as usize).cloned().unwrap_or(Value::None);
                return Ok(self.push(value));
            }
            Instr::Load(out, slot) => {
                let value = self.variable(out, slot)?;
                return Ok(self.push(value));
            }
            Instr::Store(out, slot) => {
                let value = self.pop()?;
                self.set_variable(out, slot, Some(value))?;
            }
            Instr::Delete(out, slot) => self.set_variable(out, slot, None)?,
            Instr::LoadGlobal(slot) => {
                let value = self.global(slot)?;
                return Ok(self.push(value));
            }
            Instr::StoreGlobal(slot) => {
                let value = self.pop()?;
                if let Some(global) = self.m.globals.get_mut(slot as usize) {
                    drop(global.replace(value));
                }
            }
            Instr::DeleteGlobal(slot) => {
                if let Some(global) = self.m.globals.get_mut(slot as usize) {
                    drop(global.take());
                }
            }
            Instr::LoadName(sym, slot) => {
                let own = self.t.frames.last().and_then(|f| f.names.as_ref()).and_then(|n| n.0.get(&sym).cloned());
                let value = match own {
                    Some(value) => value,
                    None => self.global(slot)?,
                };
                return Ok(self.push(value));
            }
            Instr::StoreName(sym) => {
                let value = self.pop()?;
                if let Some(names) = self.t.frames.last_mut().and_then(|f| f.names.as_mut()) {
                    names.0.insert(sym, value);
                }
            }
            Instr::LoadBuiltin(number) => {
                let value = modules::builtin_value(self.m, number).ok_or_else(|| bug("no such builtin"))?;
                return Ok(self.push(value));
            }
            Instr::LoadModule(number) => return Ok(self.push(Value::Module(number))),
            Instr::Attr(sym) => {
                let object = self.pop()?;
                let value = self.attr(&object, sym)?;
                return Ok(self.push(value));
            }
            Instr::StoreAttr(sym) => {
                let object = self.pop()?;
                let value = self.pop()?;
                self.set_attr(&object, sym, value)?;
            }
            Instr::DeleteAttr(sym) => {
                if let Value::Object(o) = self.pop()? {
                    let gone: Vec<_> = o.attrs.borrow_mut().extract_if(.., |(n, _)| *n == sym).collect();
                    drop(gone);
                }
            }
            Instr::Index => {
                let at = self.pop()?;
                let object = self.pop()?;
                let value = self.index(&object, &at)?;
                return Ok(self.push(value));
            }
            Instr::StoreIndex => {
                let at = self.pop()?;
                let object = self.pop()?;
                let value = self.pop()?;
                store_index(&object, &at, value)?;
            }
            Instr::DeleteIndex => {
                let at = self.pop()?;
                let object = self.pop()?;
                delete_index(&object, &at)?;
            }
            Instr::Slice => {
                let parts: [Value; 3] = self.pop_many(3)?.try_into().map_err(|_| bug("no slice"))?;
                return Ok(self.push(Value::Slice(Rc::new(parts))));
            }
            Instr::List(n) => {
                let values = self.pop_many(n as usize)?;
                return Ok(self.push(Value::list(values)));
            }
            Instr::Tuple(n) => {
                let values = self.pop_many(n as usize)?;
                return Ok(self.push(Value::tuple(values)));
            }
            Instr::Set(n) => {
                let values = self.pop_many(n as usize)?;
                let mut map = IndexMap::new();
                for value in values {
                    map.insert(ops::key(&value)?, Value::None);
                }
                return Ok(self.push(Value::Set(Rc::new(Dict::new(map)))));
            }
            Instr::Dict(n) => {
                let mut values = self.pop_many(n as usize * 2)?.into_iter();
                let mut map = IndexMap::with_capacity(n as usize);
                while let (Some(key), Some(value)) = (values.next(), values.next()) {
                    map.insert(ops::key(&key)?, value);
                }
                return Ok(self.push(Value::dict(map)));
            }
            Instr::Append(below) => {
                let value = self.pop()?;
                if let Value::List(list) = self.peek(below as usize)? {
                    push_to(list, value)?;
                }
            }
            Instr::Insert(below) => {
                let key = ops::key(&self.pop()?)?;
                if let Value::Set(set) = self.peek(below as usize)? {
                    put(set, key, Value::None)?;
                }
            }
            Instr::Put(below) => {
                let value = self.pop()?;
                let key = ops::key(&self.pop()?)?;
                if let Value::Dict(dict) = self.peek(below as usize)? {
                    put(dict, key, value)?;
                }
            }
            Instr::Extend => {
                let more = self.pop()?;
                let more = self.all_of(&more)?;
                if let Value::List(list) = self.peek(0)? {
                    extend(list, more)?;
                }
            }
            Instr::Merge => {
                let more = self.pop()?;
                let (Value::Dict(dict), Value::Dict(more)) = (self.peek(0)?, &more) else {
                    return Err(type_error("** needs a dict"));
                };
                let more: Vec<_> = more.map.borrow().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                for (key, value) in more {
                    put(dict, key, value)?;
                }
            }
            Instr::Join(n) => {
                let parts = self.pop_many(n as usize)?;
                ops::fits(parts.iter().filter_map(Value::as_str).map(str::len).sum())?;
                let text: String = parts.iter().filter_map(Value::as_str).collect();
                return Ok(self.push(Value::string(text)));
            }
            Instr::Format(conversion, has_spec) => {
                let spec = if has_spec { Some(self.pop()?) } else { None };
                let mut value = self.pop()?;
                if conversion == b'r' || conversion == b'a' {
                    value = Value::string(super::super::format::repr(&value)?);
                } else if matches!(value, Value::Object(_)) {
                    value = self.text_of(&value)?;
                }
                let text = super::super::format::format(&value, spec.as_ref().and_then(Value::as_str).unwrap_or(""))?;
                return Ok(self.push(Value::string(text)));
            }
            Instr::Binary(op) => {
                let b = self.pop()?;
                let a = self.pop()?;
                let value = self.binary(op, &a, &b)?;
                return Ok(self.push(value));
            }
            Instr::InPlace(op) => {
                let b = self.pop()?;
                let a = self.pop()?;
                if let (Binary::Add, Value::List(list)) = (op, &a) {
                    let more = self.all_of(&b)?;
                    extend(list, more)?;
                    return Ok(self.push(a));
                }
                let value = self.binary(op, &a, &b)?;
                return Ok(self.push(value));
            }
            Instr::Unary(op) => {
                let a = self.pop()?;
                let value = ops::unary(op, &a)?;
                return Ok(self.push(value));
            }
            Instr::Jump(to) => self.jump(to),
            Instr::JumpIfFalse(to) => {
                if !truth(&self.pop()?) {
                    self.jump(to);
                }
            }
            Instr::JumpIfTrue(to) => {
                if truth(&self.pop()?) {
                    self.jump(to);
                }
            }
            Instr::JumpIfFalseKeep(to) => {
                if truth(self.peek(0)?) {
                    self.pop()?;
                } else {
                    self.jump(to);
                }
            }
            Instr::JumpIfTrueKeep(to) => {
                if truth(self.peek(0)?) {
                    self.jump(to);
                } else {
                    self.pop()?;
                }
            }
            Instr::Iter => {
                let value = self.pop()?;
                let iter = self.iterate(&value)?;
                return Ok(self.push(iter));
            }
            Instr::Next(to) => {
                let Value::Iter(iter) = self.peek(0)?.clone() else { return Err(bug("no iterator")) };
                if let Some(value) = advance(&iter) {
                    return Ok(self.push(value));
                }
                self.pop()?;
                self.jump(to);
            }
            Instr::Unpack(n) => {
                let value = self.pop()?;
                let values = self.all_of(&value)?;
                if values.len() != n as usize {
                    let message =
                        format!("not enough or too many values to unpack (expected {n}, got {})", values.len());
                    return Err(raise("ValueError", message));
                }
                self.t.stack.extend(values.into_iter().rev());
            }
            Instr::UnpackStar(first, last) => {
                let value = self.pop()?;
                let mut values = self.all_of(&value)?;
                let (first, last) = (first as usize, last as usize);
                if values.len() < first + last {
                    return Err(raise("ValueError", "not enough values to unpack"));
                }
                let tail = values.split_off(values.len() - last);
                let middle = values.split_off(first);
                self.t.stack.extend(tail.into_iter().rev());
                self.t.stack.push(Value::list(middle));
                self.t.stack.extend(values.into_iter().rev());
            }
            Instr::Call(count, names) => {
                let args = self.args(count, names)?;
                let callee = self.pop()?;
                self.invoke(callee, args)?;
            }
            Instr::CallMethod(sym, count, names) => {
                let args = self.args(count, names)?;
                let object = self.pop()?;
                self.call_method(object, sym, args)?;
            }
            Instr::CallSpread => {
                let (kw, pos, callee) = (self.pop()?, self.pop()?, self.pop()?);
                let pos = self.all_of(&pos)?;
                let mut args = Args::of(pos);
                if let Value::Dict(kw) = kw {
                    let entries: Vec<_> = kw.map.borrow().iter().map(|(k, v)| (k.0.clone(), v.clone())).collect();
                    for (key, value) in entries {
                        let name = key.as_str().ok_or_else(|| type_error("keywords must be strings"))?;
                        args.kw.push((self.m.sym(name), value));
                    }
                }
                self.invoke(callee, args)?;
            }
            Instr::Function(body, count) => {
                let defaults = Kids::new(self.pop_many(count as usize)?);
                let env = self.t.frames.last().map(|frame| frame.env.clone());
                let func = Func {
                    body,
                    env,
                    defaults,
                    keyword_defaults: RefCell::default(),
                    marks: RefCell::default(),
                    owner: RefCell::default(),
                };
                return Ok(self.push(Value::Func(Rc::new(func))));
            }
            Instr::KeywordDefaults(names) => {
                let names = self.names_of(names);
                if let Value::Func(f) = self.peek(0)? {
                    let at = f.defaults.len().saturating_sub(names.len());
                    let values = f.defaults.get(at..).unwrap_or_default().to_vec();
                    *f.keyword_defaults.borrow_mut() = names.into_iter().zip(values).collect();
                }
            }
            Instr::Class(body, count) => self.class_body(body, count)?,
            Instr::Try(target) => {
                let height = self.t.stack.len();
                if let Some(frame) = self.t.frames.last_mut() {
                    frame.tries.push((target, height));
                }
            }
            Instr::EndTry => {
                if let Some(frame) = self.t.frames.last_mut() {
                    frame.tries.pop();
                }
            }
            Instr::Raise => {
                let value = self.pop()?;
                let value = match value {
                    Value::Class(_) => self.call_now(&value, Args::default())?,
                    value => value,
                };
                return Err(match &value {
                    Value::Object(o) if o.class.kind == ClassKind::Exception => Raise::Python(value),
                    _ => type_error("exceptions must derive from BaseException"),
                });
            }
            Instr::Matches => {
                let class = self.pop()?;
                let is = is_instance(self.peek(0)?, &class);
                return Ok(self.push(Value::Bool(is)));
            }
            Instr::Enter => {
                let manager = self.peek(0)?.clone();
                let value = self.enter(&manager)?;
                return Ok(self.push(value));
            }
            Instr::Leave => {
                let manager = self.pop()?;
                self.exit(&manager, None)?;
            }
            Instr::LeaveRaising => {
                let exception = self.pop()?;
                let manager = self.pop()?;
                // Both results stand on the stack before the verdict goes out, since going on does not come back here.
                self.t.stack.push(exception.clone());
                let swallowed = self.swallows(&manager, &exception)?;
                self.t.stack.push(Value::Bool(swallowed));
                if matches!(manager, Value::Response(_)) {
                    self.exit(&manager, Some(&exception))?;
                }
            }
            Instr::Dup => {
                let value = self.peek(0)?.clone();
                return Ok(self.push(value));
            }
            Instr::Dup2 => {
                let (a, b) = (self.peek(1)?.clone(), self.peek(0)?.clone());
                self.t.stack.push(a);
                self.t.stack.push(b);
            }
            Instr::Pop => drop(self.pop()?),
            Instr::Swap => {
                let (b, a) = (self.pop()?, self.pop()?);
                self.t.stack.push(b);
                self.t.stack.push(a);
            }
            Instr::Rot3 => {
                let (c, b, a) = (self.pop()?, self.pop()?, self.pop()?);
                self.t.stack.push(c);
                self.t.stack.push(a);
                self.t.stack.push(b);
            }
            Instr::Return => return self.leave_frame(),
        }
        Ok(Step::On)
    }

    fn global(&self, slot: u32) -> R<Value> {
        let found = self.m.globals.get(slot as usize).cloned().flatten();
        found.ok_or_else(|| {
            let name = self.m.program.globals.get(slot as usize).map(|s| self.m.name(*s));
            raise("NameError", format!("name '{}' is not defined", name.as_deref().unwrap_or("?")))
        })
    }

    fn leave_frame(&mut self) -> R<Step> {
        let mut value = self.pop()?;
        let frame = self.t.frames.pop().ok_or_else(|| bug("no frame"))?;
        self.t.stack.truncate(frame.base);
        if let Some(names) = frame.names {
            let (attrs, bases) = *names;
            value = self.make_class(frame.body, attrs, bases)?;
        } else if let Some(made) = frame.made {
            value = made;
        }
        Ok(Step::Returned(value))
    }
}

fn store_index(object: &Value, at: &Value, value: Value) -> R<()> {
    match object {
        Value::List(l) => {
            let n = at.as_int().ok_or_else(|| type_error("list indices must be integers"))?;
            let mut values = l.0.borrow_mut();
            let place =
                ops::place(n, values.len()).ok_or_else(|| raise("IndexError", "list assignment index out of range"))?;
            let old = values.get_mut(place).map(|slot| std::mem::replace(slot, value));
            drop(values);
            drop(old);
            Ok(())
        }
        Value::Dict(d) => put(d, ops::key(at)?, value),
        _ => Err(type_error(format!("'{}' object does not support item assignment", object.type_name()))),
    }
}

fn delete_index(object: &Value, at: &Value) -> R<()> {
    match object {
        Value::List(l) => {
            let n = at.as_int().ok_or_else(|| type_error("list indices must be integers"))?;
            let mut values = l.0.borrow_mut();
            let place = ops::place(n, values.len()).ok_or_else(|| raise("IndexError", "list index out of range"))?;
            let old = values.remove(place);
            drop(values);
            drop(old);
            Ok(())
        }
        Value::Dict(d) => {
            let old = d.map.borrow_mut().shift_remove(&ops::key(at)?);
            if old.is_none() { Err(Raise::Missing(at.clone())) } else { Ok(()) }
        }
        _ => Err(type_error("this cannot be deleted from")),
    }
}
