//! A minute at 999 Hz of two busy CPUs: how long it takes from the recording to each file, and how large the files are.

use std::time::{Duration, Instant};

use perfkit::analysis::{Profile, Selection};
use perfkit::clock::Mono;
use perfkit::record::{
    Frame, FrameId, FrameKind, Process, ProcessId, Recording, Sample, SampleFlags, Stack, StackId, State, Thread,
    ThreadId,
};
use perfkit::render::{Format, Options, render};

const SAMPLES: u64 = 120_000;

/// 30 Python and 15 native frames a stack; half of the samples have a stack of their own, since instruction addresses at
/// the leaves differ.
fn recording() -> Recording {
    let mut rec = Recording::default();
    let mut seed = 1u64;
    let mut below = move |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    rec.meta.insert("started_ns".into(), "0".into());
    rec.meta.insert("ended_ns".into(), "60000000000".into());
    rec.meta.insert("rate_hz".into(), "999".into());
    rec.processes.push(Process { pid: 7, name: "npc".into(), ..Process::default() });
    for tid in 0..8 {
        rec.threads.push(Thread { process: ProcessId(1), tid: 7 + tid, name: format!("worker-{tid}") });
    }
    for i in 0..600u32 {
        let file = format!("/srv/npc/app/package_{}/module_{}.py", i % 7, i % 40);
        rec.frames.push(Frame::python(format!("Class{}.method_{i}", i % 50), file, Some(10 + i), Some(10)));
    }
    for i in 0..3000u64 {
        rec.frames.push(Frame {
            kind: FrameKind::Native,
            function: Some(format!("ns::function_{}<alloc::Vec<u8>>", i / 6)),
            file: None,
            line: None,
            first_line: None,
            module: Some(format!("/usr/lib/lib{}.so", i % 12)),
            address: Some(i * 16),
            inlines: Vec::new(),
        });
    }
    // Callers branch rarely, leaves often, as in a real program.
    let mut leaves = Vec::new();
    let push = |rec: &mut Recording, parent: StackId, frame: u64| {
        rec.stacks.push(Stack { parent, frame: FrameId(frame as u32 + 1) });
        StackId(rec.stacks.len() as u32)
    };
    for root in 0..40u64 {
        let mut at = StackId::EMPTY;
        for depth in 0..28 {
            at = push(&mut rec, at, (root * 7 + depth * 13) % 600);
        }
        for _ in 0..60 {
            let mut inner = at;
            for _ in 0..2 {
                inner = push(&mut rec, inner, below(600));
            }
            for _ in 0..12 {
                inner = push(&mut rec, inner, 600 + below(3000));
            }
            for _ in 0..25 {
                let mut leaf = inner;
                for _ in 0..3 {
                    leaf = push(&mut rec, leaf, 600 + below(3000));
                }
                leaves.push(leaf);
            }
        }
    }
    for i in 0..SAMPLES {
        let leaf = leaves[below(leaves.len() as u64) as usize];
        rec.samples.push(Sample {
            at: Mono(i * 500_000),
            thread: ThreadId(1 + below(8) as u32),
            stack: leaf,
            weight_ns: 1_001_001,
            state: State::OnCpu,
            reason: None,
            flags: SampleFlags(SampleFlags::HAS_PYTHON | SampleFlags::PYTHON | SampleFlags::ROOTED),
        });
    }
    rec
}

#[test]
fn a_minute_at_999_hz_is_rendered_at_once() {
    let rec = recording();
    let began = Instant::now();
    let profile = Profile::new(&rec, &Selection::cpu()).unwrap();
    let analysed = began.elapsed();
    let mut took = Vec::new();
    for format in
        [Format::Svg, Format::Folded, Format::Speedscope, Format::Pprof, Format::Pstats, Format::Json, Format::Text]
    {
        let began = Instant::now();
        let mut out = Vec::new();
        render(&profile, &Options::default(), format, &mut out).unwrap();
        took.push((format, began.elapsed(), out.len()));
    }
    println!("{} stacks, {} nodes; analysis {analysed:?}; {took:?}", profile.weighted.len(), profile.paths.len());
    // The goal is a second, optimised; the limit leaves room for a debug build on a busy machine.
    let svg = took[0].1 + analysed;
    assert!(svg < Duration::from_secs(20), "recording to SVG took {svg:?}");
    assert!(took[0].2 < 3_000_000, "the SVG has {} bytes", took[0].2);
}
