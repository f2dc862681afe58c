//! A Rust program with generics, trait objects, closures and a named thread.
//!
//! build: --edition 2021 -C opt-level=2 -C debuginfo=1
//!
//! Truth: thread `npc-brain` runs nest::think > nest::Crowd<nest::Elf>::feel | <nest::Ogre as nest::Mood>::feel, the first
//! with 60 % of the CPU time, the second with 40 %; the main thread waits for its input. The report has the measured times.
//! Report: {"truth": {"elf": ns, "ogre": ns}}, where ns are of the thread's own CPU clock. The wall clock would not do: on a
//! busy machine the thread's turn ends every few milliseconds, in step with the two, and one of them gets all the waiting.

use std::hint::black_box;
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

extern "C" {
    fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
}

/// CLOCK_THREAD_CPUTIME_ID, ns.
fn cpu_ns() -> u64 {
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: the structure is that of a 64-bit Linux, and outlives the call.
    assert_eq!(unsafe { clock_gettime(3, &mut time) }, 0);
    time.seconds as u64 * 1_000_000_000 + time.nanoseconds as u64
}

static ELF_NS: AtomicU64 = AtomicU64::new(0);
static OGRE_NS: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

trait Mood {
    fn feel(&self, turns: u64) -> u64;
}

struct Elf(u64);
struct Ogre(u64);

struct Crowd<T> {
    members: Vec<T>,
}

impl Crowd<Elf> {
    #[inline(never)]
    fn feel(&self, turns: u64) -> u64 {
        let step = |i: u64, by: u64| black_box(i ^ by);
        (0..turns).map(|i| self.members.iter().map(|e| step(i, e.0)).sum::<u64>()).sum()
    }
}

impl Mood for Ogre {
    #[inline(never)]
    fn feel(&self, turns: u64) -> u64 {
        (0..turns).map(|i| black_box(i ^ self.0)).sum()
    }
}

#[inline(never)]
fn think(crowd: &Crowd<Elf>, ogre: &dyn Mood, size: (u64, u64)) {
    let begin = cpu_ns();
    black_box(crowd.feel(size.0));
    let between = cpu_ns();
    black_box(ogre.feel(size.1));
    OGRE_NS.fetch_add(cpu_ns() - between, Relaxed);
    ELF_NS.fetch_add(between - begin, Relaxed);
}

/// Turns that make the two take 3 ms and 2 ms.
fn calibrate(crowd: &Crowd<Elf>, ogre: &dyn Mood) -> (u64, u64) {
    let per_turn = |work: &dyn Fn(u64) -> u64| {
        (0..5)
            .map(|_| {
                let begin = cpu_ns();
                black_box(work(100_000));
                (cpu_ns() - begin) as f64 / 100_000.0
            })
            .fold(f64::INFINITY, f64::min)
    };
    ((3e6 / per_turn(&|n| crowd.feel(n))) as u64, (2e6 / per_turn(&|n| ogre.feel(n))) as u64)
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{text}").and_then(|()| out.flush()).expect("the rig listens");
}

fn report(prefix: &str) {
    say(&format!("{{{prefix}\"truth\": {{\"elf\": {}, \"ogre\": {}}}}}", ELF_NS.load(Relaxed), OGRE_NS.load(Relaxed)));
}

fn main() {
    let brain = std::thread::Builder::new().name("npc-brain".into()).spawn(|| {
        let crowd = Crowd { members: vec![Elf(1), Elf(2), Elf(3)] };
        let ogre: Box<dyn Mood> = Box::new(Ogre(7));
        let size = calibrate(&crowd, &*ogre);
        say(&format!("{{\"ready\": true, \"pid\": {}}}", std::process::id()));
        while !STOP.load(Relaxed) {
            think(&crowd, &*ogre, size);
        }
    });
    for _ in std::io::stdin().lock().lines() {
        report("");
    }
    STOP.store(true, Relaxed);
    brain.expect("a thread").join().expect("no panic");
    report("\"last\": true, ");
}
