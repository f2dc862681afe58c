//! What a recording's memory says, as the verdict takes it: series by second, and what grew from census to census.
//!
//! In: a [`MemoryView`]. Out: [`Evidence`]. Invariant: a family is judged as one: by the sum over its processes.

use super::growth::verdict::{Evidence, Grown, Objects, Series};
use super::memory::MemoryView;
use crate::clock::Mono;
use crate::record::census::{HeapPart, Holder, Origin};
use crate::record::series as names;

/// A container or type that grew by fewer than this is not worth a word.
const FEW: u64 = 20;
/// The second half's rate is at least this share of the first's, where it is steady, and where it is as good as constant.
const STEADY: f64 = 0.5;
const LINEAR: f64 = 0.85;
/// Of each kind so many are kept.
const KEPT: usize = 20;

pub(super) fn evidence(view: &MemoryView) -> Evidence {
    let total = |metric: &str| -> Series {
        view.total(metric).into_iter().map(|(at, value)| (view.seconds(at), value)).collect()
    };
    Evidence {
        rss: total(names::RSS),
        anon: total(names::ANON),
        file: total(names::FILE),
        shmem: total(names::SHMEM),
        heap: total(names::HEAP),
        anon_maps: total(names::ANON_MAPS),
        arenas: total(names::ARENAS),
        uss: total(names::USS),
        threads: total(names::THREADS),
        fds: total(names::FDS),
        arena_count: total(names::ARENA_COUNT),
        python: view.python.clone(),
        objects: objects(view),
    }
}

/// The heap with the most censuses: in a family, that of the worker which was there the longest.
fn objects(view: &MemoryView) -> Option<Objects> {
    let heap = view.heaps.iter().max_by_key(|h| h.censuses.len()).filter(|h| !h.censuses.is_empty())?;
    let live = heap.censuses.iter().map(|c| (view.seconds(c.at), c.bytes as f64)).collect();
    let mut containers = containers(heap);
    let mut types = types(heap);
    containers.sort_by(|a, b| b.per_second().total_cmp(&a.per_second()));
    types.sort_by(|a, b| {
        (b.user, b.bytes_per_second()).partial_cmp(&(a.user, a.bytes_per_second())).unwrap_or(std::cmp::Ordering::Equal)
    });
    containers.truncate(KEPT);
    types.truncate(KEPT);
    Some(Objects { censuses: heap.censuses.len(), live, containers, types, largest: largest(heap) })
}

/// Whether a count grows steadily: at nearly every census, in the second half at `least` of the first half's rate or more.
fn steady(at: impl Fn(Mono) -> u64, times: &[Mono], least: f64) -> bool {
    // The first third is left aside: what was begun when perfkit came ends in it.
    let Some(rest) = times.get(times.len() / 3..).filter(|r| r.len() >= 3) else { return false };
    let counts: Vec<u64> = rest.iter().map(|t| at(*t)).collect();
    // Censuses are not evenly apart: the last one comes when the run ends.
    let rate = |from: usize, to: usize| {
        let grown = counts.get(to)?.saturating_sub(*counts.get(from)?) as f64;
        Some(grown / seconds(*rest.get(from)?, *rest.get(to)?).max(f64::MIN_POSITIVE))
    };
    let (middle, last) = (counts.len() / 2, counts.len() - 1);
    let rises = counts.windows(2).filter(|w| w[1] > w[0]).count();
    rate(0, middle).zip(rate(middle, last)).is_some_and(|(early, late)| late > 0.0 && late >= least * early)
        && rises * 4 >= last * 3
}

fn seconds(from: Mono, to: Mono) -> f64 {
    to.since(from) as f64 / 1e9
}

fn containers(heap: &HeapPart) -> Vec<Grown> {
    let times: Vec<Mono> = heap.censuses.iter().map(|c| c.at).collect();
    let (Some(&first), Some(&last)) = (times.first(), times.last()) else { return Vec::new() };
    let mut all = Vec::new();
    for (key, points) in &heap.containers {
        // One that came later is judged from its first census on.
        let Some(born) = points.first().map(|p| p.0.max(first)) else { continue };
        let begin = heap.length_at(key, born);
        let end = heap.length_at(key, last);
        if end < begin.saturating_add(FEW) {
            continue;
        }
        let known: Vec<Mono> = times.iter().copied().filter(|t| *t >= born).collect();
        let holder = heap.holders.iter().rev().find(|h| h.container == Some(key.0));
        all.push(Grown {
            name: key.1.clone(),
            container: Some(key.0),
            user: false,
            count: (begin, end),
            bytes: (0, 0),
            seconds: seconds(born, last),
            steady: steady(|t| heap.length_at(key, t), &known, STEADY),
            linear: steady(|t| heap.length_at(key, t), &known, LINEAR),
            path: holder.map(|h| h.path.clone()).unwrap_or_default(),
            of_sample: holder.map_or((0, 0), |h| h.of_sample),
            limit: holder.and_then(|h| h.limit),
        });
    }
    all
}

/// Containers whose holders were looked for, though they may not have grown, with a holder in a module or class.
fn largest(heap: &HeapPart) -> Vec<Grown> {
    let last = heap.censuses.last().map(|c| c.at).unwrap_or_default();
    let of = |h: &Holder| {
        let address = h.container?;
        let length = heap.length_at(&(address, h.held.clone()), last);
        let known = !h.path.is_empty() && length > 0;
        known.then(|| Grown {
            name: h.held.clone(),
            container: Some(address),
            count: (length, length),
            path: h.path.clone(),
            of_sample: h.of_sample,
            ..Grown::default()
        })
    };
    let mut all: Vec<Grown> = heap.holders.iter().filter_map(of).collect();
    all.sort_by_key(|g| (std::cmp::Reverse(g.count.1), g.container));
    all.dedup_by_key(|g| g.container);
    all
}

fn types(heap: &HeapPart) -> Vec<Grown> {
    let times: Vec<Mono> = heap.censuses.iter().map(|c| c.at).collect();
    let (Some(&first), Some(&last)) = (times.first(), times.last()) else { return Vec::new() };
    let mut all = Vec::new();
    for (name, (origin, _)) in &heap.types {
        let (begin, end) = (heap.type_at(name, first), heap.type_at(name, last));
        if end.0 < begin.0.saturating_add(FEW) {
            continue;
        }
        let holder = heap.holders.iter().rev().find(|h| h.container.is_none() && h.held == *name);
        all.push(Grown {
            name: name.clone(),
            container: None,
            user: *origin == Some(Origin::User),
            count: (begin.0, end.0),
            bytes: (begin.1, end.1),
            seconds: seconds(first, last),
            steady: steady(|t| heap.type_at(name, t).0, &times, STEADY),
            linear: steady(|t| heap.type_at(name, t).0, &times, LINEAR),
            path: holder.map(|h| h.path.clone()).unwrap_or_default(),
            of_sample: holder.map_or((0, 0), |h| h.of_sample),
            limit: holder.and_then(|h| h.limit),
        });
    }
    all
}
