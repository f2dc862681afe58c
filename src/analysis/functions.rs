//! The table of functions: how much time each spent itself, and how much with what it called.
//!
//! Invariant: a function counts once in the total of a stack, however often it recurs there. A wait belongs to the
//! function that waits. Remarks such as `[truncated]` are rows too, since their time is part of the whole.

use super::frames::{FrameTable, FunctionId};
use super::paths::{NodeId, Paths};
use super::profile::Weighted;
use crate::record::{ProcessId, Recording};

/// One function of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionRow {
    /// The process.
    pub process: ProcessId,
    /// The function.
    pub function: FunctionId,
    /// The line in which most of its time passed, its callees' time included; `None` where lines are not known.
    pub line: Option<u32>,
    /// Samples in which it was the leaf.
    pub self_samples: u64,
    /// Samples that have it anywhere.
    pub total_samples: u64,
    /// The time of the samples in which it was the leaf, ns.
    pub self_ns: u64,
    /// The time of the samples that have it anywhere, ns.
    pub total_ns: u64,
}

/// The functions of all processes, hottest first (own time, then total, then name).
pub(super) fn rank(rec: &Recording, frames: &FrameTable, paths: &Paths, weighted: &[Weighted]) -> Vec<FunctionRow> {
    let mut of_process: Vec<&Weighted> = weighted.iter().collect();
    of_process.sort_by_key(|w| rec.thread(w.thread).process);
    let recursive = recursive(frames, paths);
    let mut rows = Vec::new();
    for group in of_process.chunk_by(|a, b| rec.thread(a.thread).process == rec.thread(b.thread).process) {
        if let Some(first) = group.first() {
            rank_process(rec.thread(first.thread).process, frames, (paths, &recursive), group, &mut rows);
        }
    }
    rows.sort_by(|a, b| {
        let name = |r: &FunctionRow| frames.function(r.function);
        (b.self_ns, b.total_ns, b.self_samples)
            .cmp(&(a.self_ns, a.total_ns, a.self_samples))
            .then_with(|| name(a).function.cmp(&name(b).function))
            .then_with(|| name(a).file.cmp(&name(b).file))
            .then(a.process.cmp(&b.process))
    });
    rows
}

fn rank_process(
    process: ProcessId,
    frames: &FrameTable,
    (paths, recursive): (&Paths, &[bool]),
    group: &[&Weighted],
    rows: &mut Vec<FunctionRow>,
) {
    // Own weight of each node.
    let mut own = vec![(0u64, 0u64); paths.len()];
    for w in group {
        let slot = &mut own[w.node.0 as usize];
        *slot = (slot.0 + w.samples, slot.1 + w.weight_ns);
    }
    let total = paths.totals(&own);
    let mut of_function: Vec<FunctionRow> = (0..frames.function_count() as u32)
        .map(|f| FunctionRow {
            process,
            function: FunctionId(f),
            line: None,
            self_samples: 0,
            total_samples: 0,
            self_ns: 0,
            total_ns: 0,
        })
        .collect();
    let mut of_line = vec![0u64; frames.shown_count()];
    for i in (1..paths.len() as u32).map(NodeId) {
        let (samples, ns) = total[i.0 as usize];
        let Some(node) = paths.node(i).filter(|_| samples > 0) else { continue };
        let function = frames.shown(node.frame).function;
        let row = &mut of_function[function.0 as usize];
        row.self_samples += own[i.0 as usize].0;
        row.self_ns += own[i.0 as usize].1;
        // A recursive call is already in the total of the outermost one.
        if !recursive[i.0 as usize] {
            row.total_samples += samples;
            row.total_ns += ns;
        }
        of_line[node.frame.0 as usize] += ns.max(1);
    }
    let mut best = vec![0u64; of_function.len()];
    for (shown, &weight) in frames.all_shown().iter().zip(&of_line) {
        let at = shown.function.0 as usize;
        if shown.line.is_some() && weight > best[at] {
            best[at] = weight;
            of_function[at].line = shown.line;
        }
    }
    rows.extend(of_function.into_iter().filter(|r| r.total_samples > 0));
}

/// For each node, whether its function is already among its callers.
fn recursive(frames: &FrameTable, paths: &Paths) -> Vec<bool> {
    let mut out = vec![false; paths.len()];
    let mut open = vec![0u32; frames.function_count()];
    paths.walk(|node, frame, entering| {
        let depth = &mut open[frames.shown(frame).function.0 as usize];
        if entering {
            out[node.0 as usize] = *depth > 0;
            *depth += 1;
        } else {
            *depth -= 1;
        }
    });
    out
}
