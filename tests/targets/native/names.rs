// Functions of Rust: generics, traits, closures, inlined ones.
//
// build: -O -Cdebuginfo=1 --crate-name names
//
// Truth: where each function is, by its own program counter. Generic arguments are left out of the names, since only one
// of the two manglings has them.

use std::arch::asm;
use std::hint::black_box;
use std::io::{BufRead, Write};

struct At {
    pc: u64,
    function: &'static str,
    line: u32,
    inlined: &'static str,
}

// The lines of the places and not those in here.
#[collapse_debuginfo(yes)]
macro_rules! here {
    ($all:expr, $function:expr, $inlined:expr) => {{
        let pc: u64;
        unsafe {
            #[cfg(target_arch = "x86_64")]
            asm!("lea {}, [rip - 1]", out(reg) pc);
            #[cfg(target_arch = "aarch64")]
            asm!("adr {}, .", out(reg) pc);
        }
        $all.push(At { pc, function: $function, line: line!(), inlined: $inlined });
    }};
}

#[inline(never)]
fn plain(all: &mut Vec<At>) {
    here!(all, "names::plain", "");
}

mod inside {
    use super::*;

    #[inline(never)]
    pub fn generic<T: Default>(all: &mut Vec<At>) -> T {
        here!(all, "names::inside::generic", "");
        T::default()
    }
}

trait Run {
    fn run(&self, all: &mut Vec<At>);
}

struct Thing(u32);

impl Run for Thing {
    #[inline(never)]
    fn run(&self, all: &mut Vec<At>) {
        here!(all, "<names::Thing as names::Run>::run", "");
        black_box(self.0);
    }
}

#[inline(always)]
fn inlined(all: &mut Vec<At>) {
    here!(all, "names::outer", "\"names::inlined\"");
}

#[inline(never)]
fn outer(all: &mut Vec<At>) {
    inlined(all);
    black_box(all.len());
}

#[inline(never)]
fn apply(all: &mut Vec<At>, f: &dyn Fn(&mut Vec<At>)) {
    f(all);
}

fn main() {
    let mut all = Vec::new();
    plain(&mut all);
    black_box(inside::generic::<u32>(&mut all));
    black_box(inside::generic::<String>(&mut all));
    Thing(3).run(&mut all);
    outer(&mut all);
    apply(black_box(&mut all), black_box(&|all: &mut Vec<At>| here!(all, "names::main::{closure}", "")));
    let all: Vec<String> = all
        .iter()
        .map(|a| {
            format!(
                "{{\"pc\": {}, \"line\": {}, \"inlined\": [{}], \"function\": \"{}\"}}",
                a.pc, a.line, a.inlined, a.function
            )
        })
        .collect();
    println!("{{\"at\": [{}]}}", all.join(", "));
    std::io::stdout().flush().unwrap();
    for _ in std::io::stdin().lock().lines() {}
    println!("{{}}");
}
