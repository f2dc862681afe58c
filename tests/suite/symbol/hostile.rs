//! No damaged or lying file may bring perfkit down, keep it busy for ever or bloat it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use perfkit::os::memory::FakeMemory;
use perfkit::record::FrameId;
use perfkit::symbol::{Inliner, Modules, Namer, SearchPaths, Wanted};

use super::{Attached, BUDGET, copy, mapping_of, nameless, places, tool, utf8};
use crate::rig::{self, Target};

/// A small generator with a fixed seed: the same corpus every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides.max(1)
    }
}

/// The bytes with some of them changed: half of the damage in the headers, which decide most.
fn damaged(original: &[u8], dice: &mut Dice, from: u64) -> Vec<u8> {
    let mut bytes = original.to_vec();
    let tables = bytes.len() as u64 - u64::from_le_bytes(bytes[40..48].try_into().unwrap());
    for _ in 0..=dice.roll(8) {
        let at = match dice.roll(4) {
            0 => dice.roll(64 + 56 * 13),
            1 => bytes.len() as u64 - 1 - dice.roll(tables),
            _ => from + dice.roll(bytes.len() as u64 - from),
        } as usize;
        bytes[at] = match dice.roll(3) {
            0 => bytes[at] ^ (1 << dice.roll(8)),
            1 => 0xff,
            _ => dice.roll(256) as u8,
        };
    }
    if dice.roll(10) == 0 {
        bytes.truncate(dice.roll(original.len() as u64) as usize);
    }
    bytes
}

#[test]
fn thousands_of_damaged_files_cost_names_and_nothing_else() {
    let (dir, path) = copy(&rig::compile("native/names.c", &["-DSTUB", "-no-pie", "-fno-pie", "-rdynamic"]));
    let original = fs::read(&path).unwrap();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let victim = dir.path().join("victim");
    let begun = Instant::now();
    let mut named = 0;
    for _ in 0..4000 {
        // A new file each time: the old inode may be held open.
        let _ = fs::remove_file(&victim);
        fs::File::create(&victim).unwrap().write_all(&damaged(&original, &mut dice, 0)).unwrap();
        let modules = Arc::new(Modules::new());
        let mapping = mapping_of(&victim);
        let Some(id) = modules.open(std::process::id(), &mapping, &FakeMemory::default()) else { continue };
        modules.svma(id, &mapping, 0x11_000);
        modules.unwind_sections(id);
        let mut namer = Namer::new(modules, SearchPaths::default());
        named += (0x40_0000..0x40_2000).step_by(16).filter(|&a| namer.name(id, a).is_some()).count();
    }
    let took = begun.elapsed();
    assert!(named > 1000, "the damage leaves no name at all: {named}");
    assert!(took < Duration::from_mins(2), "{took:?}");
}

#[test]
fn damaged_debug_information_ends_its_reader_at_worst() {
    let (dir, path) = copy(&rig::compile("native/names.cpp", &["-g"]));
    let original = fs::read(&path).unwrap();
    let target = Target::program(&path).start();
    let places = places(&target);
    let attached = Attached::new(target.pid(), &[]);
    let addresses: Vec<u64> = places.iter().map(|p| attached.locate(p.pc).1).collect();
    let debug = original.windows(7).position(|w| w == b"GNU C++").unwrap() as u64 / 2;
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let modules = Arc::new(Modules::new());
    let mut wanted = Vec::new();
    for i in 0..150_u32 {
        let victim = dir.path().join(format!("victim{i}"));
        fs::write(&victim, damaged(&original, &mut dice, debug)).unwrap();
        let Some(module) = modules.open(std::process::id(), &mapping_of(&victim), &FakeMemory::default()) else {
            continue;
        };
        wanted.extend(addresses.iter().map(|&address| Wanted {
            id: FrameId(i),
            module,
            address,
            frame: nameless(address),
        }));
    }
    let inliner = Inliner::new(SearchPaths::default()).with_program(rig::perfkit().to_owned());
    let begun = Instant::now();
    let done = inliner.run(&modules, wanted, BUDGET);
    assert!(begun.elapsed() < BUDGET + Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!done.frames.is_empty());
    println!("{} troubles, {} frames", done.troubles.len(), done.frames.len());
}

/// A unit with one function that covers 0x1000 to 0x2000, and in it `depth` inlined ones, each in the one before.
fn nested_dwarf(depth: usize) -> [(&'static str, Vec<u8>); 3] {
    let with_length = |bytes: Vec<u8>| [(bytes.len() as u32).to_le_bytes().to_vec(), bytes].concat();
    // Abbreviations, each with children: 1 a unit (first and last address, lines), 2 a function (first and last address), 3 an
    // inlined function without attributes.
    let abbreviations = b"\x01\x11\x01\x11\x01\x12\x07\x10\x17\0\0\x02\x2e\x01\x11\x01\x12\x07\0\0\x03\x1d\x01\0\0\0";
    let range = [0x1000_u64.to_le_bytes(), 0x1000_u64.to_le_bytes()].concat();
    let mut info = vec![4, 0, 0, 0, 0, 0, 8, 1];
    info.extend(&range);
    info.extend([0, 0, 0, 0, 2]);
    info.extend(&range);
    info.extend(vec![3; depth]);
    // A line table with the file a.c and one row from 0x1000 to 0x2000.
    let tables = b"\x01\x01\x01\xfb\x0e\x0d\0\x01\x01\x01\x01\0\0\0\x01\0\0\x01\0a.c\0\0\0\0\0";
    let mut line = vec![4, 0];
    line.extend((tables.len() as u32).to_le_bytes());
    line.extend(tables);
    line.extend(b"\0\x09\x02\0\x10\0\0\0\0\0\0\x01\x02\x80\x20\0\x01\x01");
    [("debug_info", with_length(info)), ("debug_abbrev", abbreviations.to_vec()), ("debug_line", with_length(line))]
}

/// Debug entries nested so deep that any reader that recurses runs out of stack.
#[test]
fn a_reader_that_crashes_costs_the_lines_of_that_module_only() {
    let (dir, path) = copy(&rig::compile("native/names.c", &["-g"]));
    let victim = dir.path().join("victim");
    tool("objcopy", &["--strip-debug", utf8(&path), utf8(&victim)]);
    for (section, bytes) in nested_dwarf(8 << 20) {
        let part = dir.path().join(section);
        fs::write(&part, bytes).unwrap();
        tool("objcopy", &["--add-section", &format!(".{section}={}", utf8(&part)), utf8(&victim)]);
    }

    let modules = Arc::new(Modules::new());
    let mut wanted = Vec::new();
    for (i, file) in [&victim, &path].into_iter().enumerate() {
        let module = modules.open(std::process::id(), &mapping_of(file), &FakeMemory::default()).unwrap();
        wanted.extend((0x1000..0x1400).step_by(8).map(|address| Wanted {
            id: FrameId(i as u32),
            module,
            address,
            frame: nameless(address),
        }));
    }
    let inliner = Inliner::new(SearchPaths::default()).with_program(rig::perfkit().to_owned());
    let done = inliner.run(&modules, wanted, BUDGET);
    let by_file: BTreeMap<u32, usize> = done.frames.iter().fold(BTreeMap::new(), |mut all, (id, _)| {
        *all.entry(id.0).or_default() += 1;
        all
    });
    assert!(by_file.get(&1).is_some_and(|&n| n > 10), "{by_file:?} {:?}", done.troubles);
    assert!(done.troubles.len() == 1 && done.troubles[0].contains("ended the reader (signal"), "{:?}", done.troubles);
}

#[test]
fn a_budget_of_nothing_ends_at_once_and_says_what_is_missing() {
    let target = Target::program(&rig::compile("native/names.c", &["-g"])).start();
    let (attached, places) = (Attached::new(target.pid(), &[]), places(&target));
    let wanted: Vec<_> = places
        .iter()
        .map(|p| {
            let (module, address) = attached.locate(p.pc);
            Wanted { id: FrameId(0), module, address, frame: nameless(address) }
        })
        .collect();
    let inliner = Inliner::new(SearchPaths::default()).with_program(rig::perfkit().to_owned());
    let begun = Instant::now();
    let done = inliner.run(&attached.modules, wanted, Duration::ZERO);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!((done.frames.len(), done.unfinished, done.troubles.len()), (0, places.len(), 1));
    // A helper that cannot be started is a trouble too, and no panic.
    let broken = Inliner::new(SearchPaths::default()).with_program("/nowhere/perfkit".into());
    let (module, address) = attached.locate(places[0].pc);
    let one = Wanted { id: FrameId(0), module, address, frame: nameless(address) };
    assert_eq!(broken.run(&attached.modules, vec![one], BUDGET).troubles.len(), 1);
}

#[test]
fn a_reader_that_never_answers_is_ended_when_the_time_is_up() {
    let (dir, path) = copy(&rig::compile("native/names.c", &["-g"]));
    let (script, pid) = (dir.path().join("helper"), dir.path().join("pid"));
    // Moved into place by another process, so that nothing holds it open for writing while tests fork.
    fs::write(dir.path().join("text"), format!("#!/bin/sh\necho $$ >{}\nexec sleep 1000\n", utf8(&pid))).unwrap();
    tool("cp", &[utf8(&dir.path().join("text")), utf8(&script)]);
    tool("chmod", &["+x", utf8(&script)]);
    let modules = Arc::new(Modules::new());
    let module = modules.open(std::process::id(), &mapping_of(&path), &FakeMemory::default()).unwrap();
    let wanted = Wanted { id: FrameId(0), module, address: 0x1200, frame: nameless(0x1200) };
    let inliner = Inliner::new(SearchPaths::default()).with_program(script);
    let begun = Instant::now();
    let done = inliner.run(&modules, vec![wanted], Duration::from_secs(2));
    assert!((2..12).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!((done.frames.len(), done.unfinished), (0, 1));
    assert!(done.troubles[0].contains("no time"), "{:?}", done.troubles);
    let helper = fs::read_to_string(&pid).unwrap();
    assert!(!Path::new(&format!("/proc/{}", helper.trim())).exists(), "the helper is left behind");
}
