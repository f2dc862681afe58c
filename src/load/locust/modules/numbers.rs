//! `random`, `time`, `math`, `uuid`, `datetime`.

use std::rc::Rc;

use super::core::natives;
use crate::load::locust::border::Effect;
use crate::load::locust::ops::{self, type_error};
use crate::load::locust::value::Value;
use crate::load::locust::vm::{Args, Native, R, Raise, Vm, raise};
use crate::load::locust::{dates, format};

fn below(vm: &mut Vm<'_>, n: usize) -> usize {
    vm.chance.below(n as u64) as usize
}

fn whole(args: &Args, i: usize) -> R<i64> {
    match args.pos.get(i) {
        Some(Value::Float(x)) if x.fract() == 0.0 => Ok(*x as i64),
        _ => args.whole(i),
    }
}

/// Evenly spread with this deviation: the sum of twelve, which is what a load needs of a bell curve... by Box and Muller.
fn gauss(vm: &mut Vm<'_>, mean: f64, deviation: f64) -> f64 {
    let (u, v) = (1.0 - vm.chance.share(), vm.chance.share());
    mean + deviation * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

fn choice(vm: &mut Vm<'_>, args: Args) -> R<Value> {
    let of = args.get(vm, 0, "seq").ok_or_else(|| type_error("choice() needs a sequence"))?;
    let len = match &of {
        Value::List(l) => l.0.borrow().len(),
        Value::Tuple(t) => t.len(),
        Value::Str(s) => s.chars().count(),
        Value::Range(r) => ops::range_len(r) as usize,
        Value::Bytes(b) => b.len(),
        other => return Err(type_error(format!("choice() of '{}'", other.type_name()))),
    };
    if len == 0 {
        return Err(raise("IndexError", "Cannot choose from an empty sequence"));
    }
    let at = below(vm, len);
    ops::index(&of, &Value::Int(at as i64))
}

fn randint(vm: &mut Vm<'_>, args: Args) -> R<Value> {
    let low = args.get(vm, 0, "a").and_then(|v| v.as_int());
    let high = args.get(vm, 1, "b").and_then(|v| v.as_int());
    let (Some(low), Some(high)) = (low, high) else { return Err(type_error("randint(a, b) needs two whole numbers")) };
    if low > high {
        Err(raise("ValueError", "empty range for randint()"))
    } else {
        Ok(Value::Int(vm.chance.between(low, high)))
    }
}

/// `random`
pub const RANDOM: &[Native] = natives! {
    "random" => |vm, _| Ok(Value::Float(vm.chance.share())),
    "randint" => randint,
    "uniform" => |vm, args| {
        let (a, b) = (args.number(0)?, args.number(1)?);
        Ok(Value::Float(a + (b - a) * vm.chance.share()))
    },
    "choice" => choice,
    "choices" => |vm, args| {
        let values = vm.all_of(args.first()?)?;
        let weights = match args.get(vm, 1, "weights") {
            Some(w) if !matches!(w, Value::None) => vm.all_of(&w)?.iter().filter_map(Value::as_f64).collect(),
            _ => vec![1.0; values.len()],
        };
        let k = args.named(vm, "k").and_then(|v| v.as_int()).unwrap_or(1).max(0) as usize;
        let total: f64 = weights.iter().sum();
        if values.is_empty() || weights.len() != values.len() || total <= 0.0 || !total.is_finite() {
            return Err(raise("ValueError", "choices() needs values and as many weights"));
        }
        ops::fits(k)?;
        let mut picked = Vec::with_capacity(k);
        for _ in 0..k {
            let mut at = vm.chance.share() * total;
            let i = weights.iter().position(|w| { at -= w; at < 0.0 }).unwrap_or(values.len() - 1);
            picked.extend(values.get(i).cloned());
        }
        Ok(Value::list(picked))
    },
    "sample" => |vm, args| {
        let mut values = vm.all_of(args.first()?)?;
        let k = args.get(vm, 1, "k").and_then(|v| v.as_int()).unwrap_or(1).max(0) as usize;
        if k > values.len() {
            return Err(raise("ValueError", "Sample larger than population or is negative"));
        }
        for i in 0..k {
            let j = i + below(vm, values.len() - i);
            values.swap(i, j);
        }
        values.truncate(k);
        Ok(Value::list(values))
    },
    "shuffle" => |vm, args| {
        if let Value::List(l) = args.first()? {
            let mut values = l.0.borrow_mut();
            for i in (1..values.len()).rev() {
                let j = vm.chance.below(i as u64 + 1) as usize;
                values.swap(i, j);
            }
        }
        Ok(Value::None)
    },
    "randrange" => |vm, args| {
        let (start, stop) = if args.pos.len() == 1 { (0, whole(&args, 0)?) } else { (whole(&args, 0)?, whole(&args, 1)?) };
        let step = args.pos.get(2).and_then(Value::as_int).unwrap_or(1);
        if step == 0 {
            return Err(raise("ValueError", "zero step for randrange()"));
        }
        let range = [start, stop, step];
        match ops::range_len(&range) {
            0 => Err(raise("ValueError", "empty range for randrange()")),
            n => Ok(Value::Int(start.wrapping_add(step.wrapping_mul(vm.chance.below(n as u64) as i64)))),
        }
    },
    "seed" => |_, _| Ok(Value::None),
    "getrandbits" => |vm, args| {
        let bits = args.whole(0)?;
        if (0..=62).contains(&bits) { Ok(Value::Int((vm.chance.bits() & ((1 << bits) - 1)) as i64)) } else { Err(raise("OverflowError", "at most 62 random bits here")) }
    },
    "gauss" => |vm, args| { let (m, s) = (args.number(0)?, args.number(1)?); Ok(Value::Float(gauss(vm, m, s))) },
    "normalvariate" => |vm, args| { let (m, s) = (args.number(0)?, args.number(1)?); Ok(Value::Float(gauss(vm, m, s))) },
    "expovariate" => |vm, args| Ok(Value::Float(vm.chance.exponential() / args.number(0)?)),
    "triangular" => |vm, args| {
        let (low, high) = (args.number(0)?, args.number(1)?);
        Ok(Value::Float(low + (high - low) * (vm.chance.share() + vm.chance.share()) / 2.0))
    },
};

fn hex(vm: &mut Vm<'_>, bytes: usize) -> String {
    format::hex((0..bytes.min(4096)).map(|_| vm.chance.bits() as u8))
}

/// `secrets`
pub const SECRETS: &[Native] = natives! {
    "choice" => choice,
    "token_hex" => |vm, args| { let n = args.whole(0).unwrap_or(32).max(0) as usize; Ok(Value::string(hex(vm, n))) },
    "token_urlsafe" => |vm, args| { let n = args.whole(0).unwrap_or(32).max(0) as usize; Ok(Value::string(hex(vm, n))) },
    "randbelow" => |vm, args| { let n = args.whole(0)?.max(0) as u64; Ok(Value::Int(vm.chance.below(n) as i64)) },
};

fn sleep(vm: &mut Vm<'_>, args: Args) -> R<Value> {
    let seconds = args.pos.first().and_then(Value::as_f64).unwrap_or(0.0);
    if !(0.0..=1e9).contains(&seconds) {
        return Err(raise("ValueError", "sleep length must be non-negative"));
    }
    vm.t.awaits = crate::load::locust::vm::Awaits::Go;
    Err(Raise::Suspend(Box::new(Effect::Sleep((seconds * 1e9) as u64))))
}

fn wall(vm: &mut Vm<'_>) -> Value {
    Value::Float(vm.wall_us as f64 / 1e6)
}

/// `time`
pub const TIME: &[Native] = natives! {
    "sleep" => sleep,
    "time" => |vm, _| Ok(wall(vm)),
    "time_ns" => |vm, _| Ok(Value::Int(vm.wall_us.saturating_mul(1000))),
    "perf_counter" => |vm, _| Ok(Value::Float(vm.now_ns as f64 / 1e9)),
    "monotonic" => |vm, _| Ok(Value::Float(vm.now_ns as f64 / 1e9)),
    "process_time" => |vm, _| Ok(Value::Float(vm.now_ns as f64 / 1e9)),
    "strftime" => |vm, args| {
        let at = match args.pos.get(1) { Some(Value::Date(us)) => **us, _ => vm.wall_us };
        Ok(Value::string(dates::strftime(at, args.text(0)?)))
    },
    "gmtime" => |vm, _| Ok(Value::Date(Rc::new(vm.wall_us))),
    "localtime" => |vm, _| Ok(Value::Date(Rc::new(vm.wall_us))),
    "ctime" => |vm, _| Ok(Value::string(dates::strftime(vm.wall_us, "%a %b %d %H:%M:%S %Y"))),
};

/// `gevent`
pub const GEVENT: &[Native] = natives! { "sleep" => sleep };

macro_rules! of_one {
    ($($name:literal $f:expr),* $(,)?) => { natives! { $($name => |_, args| Ok(Value::Float($f(args.number(0)?)))),*,
        "floor" => |_, args| Ok(Value::Int(args.number(0)?.floor() as i64)),
        "ceil" => |_, args| Ok(Value::Int(args.number(0)?.ceil() as i64)),
        "trunc" => |_, args| Ok(Value::Int(args.number(0)? as i64)),
        "pow" => |_, args| Ok(Value::Float(args.number(0)?.powf(args.number(1)?))),
        "isnan" => |_, args| Ok(Value::Bool(args.number(0)?.is_nan())),
        "log" => |_, args| Ok(Value::Float(match args.number(1) { Ok(base) => args.number(0)?.log(base), Err(_) => args.number(0)?.ln() })),
    } };
}

/// `math`
pub const MATH: &[Native] = of_one! {
    "sqrt" f64::sqrt, "exp" f64::exp, "sin" f64::sin, "cos" f64::cos, "tan" f64::tan, "log2" f64::log2, "log10" f64::log10,
    "fabs" f64::abs, "radians" f64::to_radians, "degrees" f64::to_degrees, "atan" f64::atan,
};

#[allow(clippy::unnecessary_wraps, reason = "the signature of all natives")]
fn uuid(vm: &mut Vm<'_>, _: Args) -> R<Value> {
    let (a, b) = (vm.chance.bits(), vm.chance.bits());
    let (a, b) = ((a & !0xf000) | 0x4000, (b & !(3 << 62)) | (2 << 62));
    Ok(Value::string(format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xffff,
        a & 0xffff,
        b >> 48,
        b & 0xffff_ffff_ffff
    )))
}

/// `uuid`: values are texts.
pub const UUID: &[Native] =
    natives! { "uuid4" => uuid, "uuid1" => uuid, "UUID" => |_, args| Ok(Value::str(args.text(0)?)) };

#[allow(clippy::unnecessary_wraps, reason = "the signature of all natives")]
fn delta(vm: &mut Vm<'_>, args: Args) -> R<Value> {
    let units = [
        ("days", 86_400e6),
        ("seconds", 1e6),
        ("microseconds", 1.0),
        ("milliseconds", 1e3),
        ("minutes", 60e6),
        ("hours", 3600e6),
        ("weeks", 604_800e6),
    ];
    let us: f64 =
        units.iter().enumerate().filter_map(|(i, (name, us))| Some(args.get(vm, i, name)?.as_f64()? * us)).sum();
    Ok(Value::Delta(Rc::new(us as i64)))
}

#[allow(clippy::unnecessary_wraps, reason = "the signature of all natives")]
fn now(vm: &mut Vm<'_>, _: Args) -> R<Value> {
    Ok(Value::Date(Rc::new(vm.wall_us)))
}

/// `datetime`
pub const DATETIME: &[Native] = natives! { "timedelta" => delta };

/// `datetime.datetime` and `datetime.date`
pub const DATETIME_CLASS: &[Native] = natives! {
    "now" => now,
    "utcnow" => now,
    "today" => now,
    "fromtimestamp" => |_, args| Ok(Value::Date(Rc::new((args.number(0)? * 1e6) as i64))),
    "utcfromtimestamp" => |_, args| Ok(Value::Date(Rc::new((args.number(0)? * 1e6) as i64))),
    "fromisoformat" => |_, args| {
        let mut f = [1970, 1, 1, 0, 0, 0, 0];
        for (slot, part) in f.iter_mut().zip(args.text(0)?.split(|c: char| !c.is_ascii_digit())) {
            *slot = part.parse().unwrap_or(*slot);
        }
        Ok(Value::Date(Rc::new(dates::from_fields(f))))
    },
};

/// `datetime(2026, 1, 1)`
pub fn make_date(args: &Args) -> Value {
    let mut f = [1970, 1, 1, 0, 0, 0, 0];
    for (slot, value) in f.iter_mut().zip(&args.pos) {
        *slot = value.as_int().unwrap_or(*slot);
    }
    Value::Date(Rc::new(dates::from_fields(f)))
}
