//! Hostile bytes without a fuzzer: the entries of `tests/fuzz`, fed with a fixed number of mutations of true inputs, the same
//! ones each time. Tolerance: no panic, no input takes longer than [`PATIENCE`], no test more memory than [`ROOM`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

#[path = "../fuzz/entries.rs"]
mod entries;

/// For one input; they take micro- to milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// Peak resident memory of the test's process, bytes.
const ROOM: u64 = 1 << 30;

/// xorshift64*: the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// One to eight changes, of the kinds that break parsers: bits, extreme numbers, other pointers, cuts, repetitions.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    const EXTREMES: [u64; 12] =
        [0, 1, 7, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 47, i64::MAX as u64, u64::MAX];
    for _ in 0..=random.below(8) {
        if bytes.is_empty() {
            bytes.push(random.next() as u8);
        }
        let at = random.below(bytes.len());
        match random.below(8) {
            0 | 1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = random.next() as u8,
            3 | 4 => {
                let value = EXTREMES[random.below(EXTREMES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][random.below(4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&value[..width]);
            }
            5 => {
                let from = random.below(bytes.len());
                let len = random.below(64).min(bytes.len() - from.max(at));
                bytes.copy_within(from..from + len, at);
            }
            6 => bytes.truncate(at.max(1)),
            _ => {
                let piece = bytes[at..bytes.len().min(at + 32)].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}

fn attack(name: &str, inputs: usize) {
    let (_, run) = *entries::ENTRIES.iter().find(|(n, _)| *n == name).expect("an entry of that name");
    let seeds = entries::seeds(name);
    assert!(seeds.iter().any(|s| !s.is_empty()), "{name} has no seed");
    let (to_attacker, orders) = channel::<Vec<u8>>();
    let (done, results) = channel();
    std::thread::spawn(move || {
        for input in orders {
            let result = catch_unwind(AssertUnwindSafe(|| run(&input)));
            if done.send(result.is_ok()).is_err() {
                break;
            }
        }
    });
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for number in 0..inputs + seeds.len() {
        let mut input = seeds[number % seeds.len()].clone();
        // The first round is the seeds as they are.
        if number >= seeds.len() {
            mutate(&mut input, &mut random);
        }
        to_attacker.send(input.clone()).unwrap();
        let trouble = match results.recv_timeout(PATIENCE) {
            Ok(true) => continue,
            Ok(false) => "panics",
            Err(RecvTimeoutError::Timeout) => "takes for ever",
            Err(RecvTimeoutError::Disconnected) => "ends the thread",
        };
        let kept = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{number}"));
        std::fs::write(&kept, &input).unwrap();
        panic!("input {number} {trouble}; it is kept as {}", kept.display());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    let peak = peak.trim().parse::<u64>().unwrap() * 1024;
    assert!(peak < ROOM, "{name} made the process {peak} bytes large");
}

macro_rules! attacks {
    ($($name:ident $inputs:literal),* $(,)?) => {$(
        #[test]
        fn $name() {
            attack(stringify!($name), $inputs);
        }
    )*

        #[test]
        fn every_entry_is_attacked() {
            let here = [$(stringify!($name)),*];
            let missing: Vec<_> = entries::ENTRIES.iter().filter(|(name, _)| !here.contains(name)).collect();
            assert!(missing.is_empty(), "{missing:?}");
        }
    };
}

attacks! {
    text 40_000,
    recording 2_000,
    elf 6_000,
    unwind 30_000,
    python 40_000,
    lines 80_000,
    rings 80_000,
    locustfile 3_000,
    kernel 20_000,
    scenario 4_000,
    answers 20_000,
}
