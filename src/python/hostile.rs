//! Memory that lies, against everything here that reads memory.

use std::cell::Cell;

use super::layout::{Layout, LineTable};
use super::qualnames::Qualnames;
use super::values::Limits;
use super::{Code, Frame, Runtime, Version, debug_offsets, frames, gil, heap::Heap, locals, names, values};
use crate::os::memory::{Fault, Memory};

/// Answers every read with words that look like what a reader hopes for: pointers, small numbers, text, now and then a
/// hole. The same address always reads the same.
struct Liar {
    seed: u64,
    /// The words that it tells the truth about, so that it is believed.
    truths: rustc_hash::FxHashMap<u64, u64>,
    /// One word in this many is a hole.
    holes: u64,
    reads: Cell<u64>,
    bytes: Cell<u64>,
}

impl Liar {
    fn new(seed: u64, l: &Layout) -> Self {
        let mut truths = rustc_hash::FxHashMap::default();
        truths.insert(0x10000 + u64::from(l.runtime_interpreters_head), 0x8_0000);
        truths.insert(0x8_0000 + u64::from(l.interp_threads_head), 0x9_0000);
        for i in 0..64 {
            let state = 0x9_0000 + i * 0x1000;
            truths.insert(state + u64::from(l.ts_interp), 0x8_0000);
            truths.insert(state + u64::from(l.ts_next), state + 0x1000);
        }
        Self { seed, truths, holes: 5 + seed % 400, reads: Cell::new(0), bytes: Cell::new(0) }
    }

    fn word(&self, at: u64) -> u64 {
        if (0x1_0000..0x20_0000).contains(&at)
            && let Some(truth) = self.truths.get(&at)
        {
            return *truth;
        }
        let mut x = (at ^ self.seed.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x ^= x >> 32;
        match x % 11 {
            // A few hundred objects that point at each other, so that chains close.
            0..=4 => 0x10000 + (x >> 8) % 512 * 64,
            // An endless chain: always further on.
            5 => at.wrapping_add(64) & !7,
            6 => (x >> 8) % 9,
            7 => u64::from_le_bytes(*b"list\0int"),
            8 => u64::MAX - (x >> 8) % 3,
            9 => 1 << (x >> 8 & 63),
            _ => x,
        }
    }
}

impl Memory for Liar {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.reads.set(self.reads.get() + 1);
        self.bytes.set(self.bytes.get() + into.len() as u64);
        let fault = Fault { at, len: into.len() };
        at.checked_add(into.len() as u64).ok_or(fault)?;
        if (at / 64).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(self.seed).is_multiple_of(self.holes)
            && !(0x8_0000..0x20_0000).contains(&at)
        {
            return Err(fault);
        }
        let (mut at, mut rest) = (at, into);
        while !rest.is_empty() {
            let skip = (at % 8) as usize;
            let word = self.word(at & !7).to_le_bytes();
            let len = rest.len().min(8 - skip);
            let (now, later) = rest.split_at_mut(len);
            now.copy_from_slice(&word[skip..skip + len]);
            (at, rest) = (at + len as u64, later);
        }
        Ok(())
    }
}

fn runtime(version: Version, layout: &Layout) -> Runtime {
    Runtime {
        version,
        text: version.to_string(),
        image: "liar".into(),
        address: 0x10000,
        code_type: None,
        layout: *layout,
        eval: Vec::new(),
        started: true,
    }
}

#[test]
fn memory_that_lies_costs_little() {
    let mut walked = 0;
    for seed in 0..36 {
        let version = Version::new(3, 8 + (seed % 6) as u8);
        let layout = Layout::of(version).unwrap();
        let liar = Liar::new(seed, &layout);
        let runtime = runtime(version, &layout);
        let heap = Heap::new(&liar, &layout);
        let _ = runtime.verify(&liar);
        for thread in frames::walk(&liar, &runtime, 200).unwrap_or_default().threads {
            assert!(thread.frames.len() <= 200);
            walked += thread.frames.len();
        }
        let object = 0x10000 + seed * 64;
        let _ = gil::of(&liar, &runtime, object);
        let _ = names::of_threads(&liar, &runtime, object);
        let _ = heap.attributes(object);
        let _ = heap.class_name(object);
        let _ = heap.str(object);
        let shown = values::render(heap, object, Limits::default());
        assert!(shown.chars().count() <= Limits::default().chars + 1);
        let frame =
            Frame { address: object, code: object + 64, instr: object, owner: None, entry: true, c_stack: None };
        let _ = locals::read(heap, &frame, Limits::default());
        if let Ok(code) = Code::read(heap, object, liar.word(object + 8).into()) {
            let _ = (code.line(&layout, seed), code.line(&layout, object + 300));
        }
        let code = Code {
            address: object,
            file: "list".into(),
            name: "list".into(),
            qualname: "list".into(),
            first_line: 1,
            lines: super::lines::Lines::new(layout.line_table, 1, Vec::new()),
            marks: (0, 0),
        };
        let _ = Qualnames::default().of(&liar, &runtime, &code);
        let head = debug_offsets::Head { hex: 0x030d_00f0 + ((seed as u32 % 3) << 16), free_threaded: false };
        let _ = debug_offsets::layout(&liar, object, head);
        assert!(liar.reads.get() < 1_500_000 && liar.bytes.get() < 1 << 28, "{seed}: {:?}", liar.reads);
    }
    assert!(walked > 1_500, "the liar is not believable enough to test anything: {walked}");
}

/// Memory that is one endless chain of hidden frames, or of threads.
struct Endless;

impl Memory for Endless {
    fn read(&self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        for (i, byte) in into.iter_mut().enumerate() {
            let address = at.wrapping_add(i as u64);
            *byte = ((address & !7).wrapping_add(4096) >> (address % 8 * 8)) as u8;
        }
        Ok(())
    }
}

#[test]
fn endless_chains_end() {
    for minor in 8..=13 {
        let version = Version::new(3, minor);
        let mut layout = Layout::of(version).unwrap();
        // Every thread state points back at its interpreter only if the offset says so.
        layout.ts_interp = layout.ts_next;
        let found = frames::walk(&Endless, &runtime(version, &layout), 1 << 20).unwrap();
        assert!(!found.whole, "a circle has no end");
        assert!(found.threads.iter().map(|t| t.frames.len()).sum::<usize>() <= 1 << 18);
    }
}

#[test]
fn any_table_is_looked_up_quickly() {
    let table: Vec<u8> = (0..1_u32 << 20).map(|i| (i.wrapping_mul(2654435761) >> 24) as u8).collect();
    for format in [LineTable::Lnotab, LineTable::Pairs, LineTable::Locations] {
        let lines = super::lines::Lines::new(format, 1, table.clone());
        assert!(lines.weight() < table.len() * 2);
        (0..10_000).for_each(|i| {
            let _ = lines.at(i * 311);
        });
    }
}
