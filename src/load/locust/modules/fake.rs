//! A small `faker`: names, words and numbers that look real enough for a load.

use super::core::natives;
use crate::load::locust::value::Value;
use crate::load::locust::vm::{Args, Native, R, Vm};

const FIRST: &[&str] =
    &["Ada", "Bruno", "Clara", "David", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kira", "Leon"];
const LAST: &[&str] =
    &["Adler", "Brand", "Costa", "Dorn", "Engel", "Fuchs", "Graf", "Huber", "Ivanov", "Jansen", "Kern", "Lang"];
const WORDS: &[&str] = &[
    "river", "stone", "light", "morning", "paper", "window", "garden", "silver", "letter", "winter", "bridge", "cloud",
];

fn one(vm: &mut Vm<'_>, of: &[&'static str]) -> &'static str {
    of.get(vm.chance.below(of.len() as u64) as usize).copied().unwrap_or("")
}

fn words(vm: &mut Vm<'_>, n: i64) -> String {
    (0..n.clamp(1, 1000)).map(|_| one(vm, WORDS)).collect::<Vec<_>>().join(" ")
}

fn count(args: &Args, default: i64) -> i64 {
    args.pos.first().and_then(Value::as_int).unwrap_or(default)
}

#[allow(clippy::unnecessary_wraps, reason = "the signature of all natives")]
fn text(vm: &mut Vm<'_>, args: Args) -> R<Value> {
    let n = count(&args, 30) / 6;
    Ok(Value::string(words(vm, n) + "."))
}

#[allow(clippy::unnecessary_wraps, reason = "the signature of all natives")]
fn email(vm: &mut Vm<'_>, _: Args) -> R<Value> {
    let (a, b, n) = (one(vm, FIRST), one(vm, LAST), vm.chance.below(10_000));
    Ok(Value::string(format!("{a}.{b}{n}@example.org").to_lowercase()))
}

#[allow(clippy::unnecessary_wraps, reason = "the signature of all natives")]
fn name(vm: &mut Vm<'_>, _: Args) -> R<Value> {
    Ok(Value::string(format!("{} {}", one(vm, FIRST), one(vm, LAST))))
}

/// `faker`
pub const FAKER: &[Native] =
    natives! { "Faker" => |_, _| Ok(super::find("faker.here").map_or(Value::None, Value::Module)) };

/// What a `Faker()` has.
pub const MEMBERS: &[Native] = natives! {
    "name" => name,
    "first_name" => |vm, _| Ok(Value::str(one(vm, FIRST))),
    "last_name" => |vm, _| Ok(Value::str(one(vm, LAST))),
    "email" => email,
    "user_name" => |vm, _| { let n = vm.chance.below(100_000); Ok(Value::string(format!("{}{n}", one(vm, FIRST).to_lowercase()))) },
    "password" => |vm, _| { let n = vm.chance.bits(); Ok(Value::string(format!("Pw!{n:012x}"))) },
    "text" => text,
    "paragraph" => text,
    "sentence" => |vm, args| { let n = count(&args, 6); Ok(Value::string(words(vm, n) + ".")) },
    "word" => |vm, _| Ok(Value::str(one(vm, WORDS))),
    "company" => |vm, _| Ok(Value::string(format!("{} & Co", one(vm, LAST)))),
    "city" => |vm, _| Ok(Value::string(format!("{}ville", one(vm, LAST)))),
    "job" => |vm, _| Ok(Value::string(format!("{} keeper", one(vm, WORDS)))),
    "address" => |vm, _| { let n = vm.chance.below(200) + 1; Ok(Value::string(format!("{n} {} Street", one(vm, LAST)))) },
    "phone_number" => |vm, _| { let n = vm.chance.below(10_000_000); Ok(Value::string(format!("555-{n:07}"))) },
    "random_int" => |vm, args| {
        let low = args.get(vm, 0, "min").and_then(|v| v.as_int()).unwrap_or(0);
        let high = args.get(vm, 1, "max").and_then(|v| v.as_int()).unwrap_or(9999);
        Ok(Value::Int(vm.chance.between(low, high.max(low))))
    },
    "uuid4" => |vm, _| { let n = (vm.chance.bits(), vm.chance.bits()); Ok(Value::string(format!("{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}", n.0 >> 32, n.0 & 0xffff, n.0 >> 16 & 0xfff, n.1 >> 48 & 0xfff, n.1 & 0xffff_ffff_ffff))) },
};
