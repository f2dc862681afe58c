//! Locust's own functions, and those of `logging` and others that only take notes.

use std::rc::Rc;

use super::core::natives;
use crate::load::locust::ops::type_error;
use crate::load::locust::value::{Kids, Value, Wait};
use crate::load::locust::vm::{Native, R, Vm, raise};

fn wait(wait: Wait) -> Value {
    Value::Wait(Rc::new(wait))
}

static TASK: Native = Native {
    name: "task",
    call: |_, args| {
        let (weight, target) = (args.pos.first().and_then(Value::as_int), args.pos.last());
        weigh(target.unwrap_or(&Value::None), weight.unwrap_or(1))
    },
};

static TAG: Native = Native {
    name: "tag",
    call: |_, args| {
        let target = args.pos.last().cloned().unwrap_or(Value::None);
        let tags = args.pos.iter().filter_map(Value::as_str).map(Rc::from);
        match &target {
            Value::Func(f) => f.marks.borrow_mut().tags.extend(tags),
            Value::Class(c) => c.marks.borrow_mut().tags.extend(tags),
            // As in Locust: nothing looks at the tags of what is no task.
            _ => {}
        }
        Ok(target)
    },
};

static ORDER: Native = Native {
    name: "seq_task",
    call: |_, args| {
        let target = args.pos.last().cloned().unwrap_or(Value::None);
        if let Value::Func(f) = &target {
            let mut marks = f.marks.borrow_mut();
            marks.order = args.pos.first().and_then(Value::as_int);
            marks.weight = marks.weight.or(Some(1));
        }
        Ok(target)
    },
};

fn weigh(target: &Value, weight: i64) -> R<Value> {
    if !(0..=1_000_000).contains(&weight) {
        return Err(raise("ValueError", "a task's weight is from 0 to 1000000"));
    }
    match target {
        Value::Func(f) => f.marks.borrow_mut().weight = Some(weight),
        Value::Class(c) => c.marks.borrow_mut().weight = Some(weight),
        _ => return Err(type_error("@task is for functions and task sets")),
    }
    Ok(target.clone())
}

/// What a decorator of Python's own says of a function.
#[allow(clippy::unnecessary_wraps, reason = "called among natives, which all may raise")]
pub fn mark(target: &Value, kind: &'static str) -> R<Value> {
    if let Value::Func(f) = target {
        f.marks.borrow_mut().kind = Some(kind);
    }
    Ok(target.clone())
}

/// `locust` and its parts.
pub const LOCUST: &[Native] = natives! {
    "between" => |vm, args| {
        let low = args.get(vm, 0, "min_wait").and_then(|v| v.as_f64());
        let high = args.get(vm, 1, "max_wait").and_then(|v| v.as_f64());
        match (low, high) {
            (Some(low), Some(high)) => Ok(wait(Wait::Between(low, high))),
            _ => Err(type_error("between(min, max) needs two numbers")),
        }
    },
    "constant" => |_, args| Ok(wait(Wait::Constant(args.number(0)?))),
    "constant_pacing" => |_, args| Ok(wait(Wait::Pacing(args.number(0)?))),
    "constant_throughput" => |_, args| {
        let rate = args.number(0)?;
        if rate > 0.0 { Ok(wait(Wait::Pacing(1.0 / rate))) } else { Err(raise("ValueError", "constant_throughput needs more than 0")) }
    },
    "task" => |vm, args| match args.get(vm, 0, "weight") {
        Some(Value::Int(n)) => Ok(Value::Partial(&TASK, Rc::new(Kids::new(vec![Value::Int(n)])))),
        Some(target) => weigh(&target, 1),
        None => Ok(Value::Native(&TASK)),
    },
    "seq_task" => |_, args| Ok(Value::Partial(&ORDER, Rc::new(Kids::new(args.pos)))),
    "tag" => |_, args| Ok(Value::Partial(&TAG, Rc::new(Kids::new(args.pos)))),
    "run_single_user" => |_, _| Ok(Value::None),
};

fn note(vm: &mut Vm<'_>, args: &crate::load::locust::vm::Args) -> R<Value> {
    let Some(first) = args.pos.first() else { return Ok(Value::None) };
    let text = vm.text_of(first)?;
    let rest = args.pos.get(1..).unwrap_or_default();
    let line = match (text.as_str(), rest) {
        (Some(pattern), [_, ..]) => {
            let values = Value::tuple(rest.to_vec());
            crate::load::locust::format::percent(pattern, &values).unwrap_or(text)
        }
        _ => text,
    };
    vm.m.say(line.as_str().unwrap_or_default().to_owned());
    Ok(Value::None)
}

/// `logging`, and a logger, which is the module again.
pub const LOGGING: &[Native] = natives! {
    "debug" => |_, _| Ok(Value::None),
    "info" => |vm, args| note(vm, &args),
    "warning" => |vm, args| note(vm, &args),
    "warn" => |vm, args| note(vm, &args),
    "error" => |vm, args| note(vm, &args),
    "critical" => |vm, args| note(vm, &args),
    "exception" => |vm, args| note(vm, &args),
    "log" => |_, _| Ok(Value::None),
    "getLogger" => |_, _| Ok(super::find("logging").map_or(Value::None, Value::Module)),
    "basicConfig" => |_, _| Ok(Value::None),
    "setLevel" => |_, _| Ok(Value::None),
    "disable" => |_, _| Ok(Value::None),
    "addHandler" => |_, _| Ok(Value::None),
    "StreamHandler" => |_, _| Ok(super::find("logging").map_or(Value::None, Value::Module)),
    "Formatter" => |_, _| Ok(Value::None),
    "setFormatter" => |_, _| Ok(Value::None),
};

/// Functions that have nothing to do here.
pub const NOTHING: &[Native] = natives! {
    "setup_logging" => |_, _| Ok(Value::None),
    "filterwarnings" => |_, _| Ok(Value::None),
    "simplefilter" => |_, _| Ok(Value::None),
    "disable_warnings" => |_, _| Ok(Value::None),
    "warn" => |_, _| Ok(Value::None),
};
