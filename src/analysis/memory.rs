//! Memory over time, as a recording has it: series of each process, the family's sum, the parts at the end.
//!
//! In: a [`Recording`] with the series of [`crate::record::series`]. Out: [`MemoryView`]. Invariants: a value holds until the
//! next reading of its series; a process counts from its first reading to its last; the parts are those of one moment, and
//! what they leave unexplained is said. Limits: a family's sum of RSS counts shared pages in each process, its sum of PSS
//! does not; the kinds of anonymous memory between two reads of `smaps` are interpolated.

use std::collections::BTreeMap;

use super::evidence::evidence;
use super::growth;
pub use super::growth::{Judged, Suspect};
use super::slice::Slice;
use crate::clock::{Anchor, Mono};
use crate::error::Result;
use crate::record::census::HeapPart;
use crate::record::{Recording, series as names};

/// Points of a slope at most: it takes every pair of them.
const SLOPE_POINTS: usize = 200;

/// Points of a series, by time.
pub type Points = Vec<(Mono, f64)>;

/// A process and its series.
#[derive(Debug, Clone, Default)]
pub struct ProcessMemory {
    /// The scope of its series: the pid, `4711#2` when it was used again.
    pub scope: String,
    /// Its short name.
    pub name: String,
    /// Points by the name of the series.
    pub series: BTreeMap<String, Points>,
}

/// A kind of resident memory and its size.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// In JSON.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// Bytes.
    pub bytes: f64,
}

/// What a recording says of memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryView {
    /// When it began.
    pub start: Mono,
    /// When it ended.
    pub end: Mono,
    /// The processes in the order in which they came.
    pub processes: Vec<ProcessMemory>,
    /// The cgroup's series.
    pub cgroup: BTreeMap<String, Points>,
    /// What happened: time, kind, text.
    pub marks: Vec<(Mono, String, String)>,
    /// Ticks that were missed.
    pub lost: u64,
    /// Managed heaps, as censuses found them.
    pub heaps: Vec<HeapPart>,
    /// Version of CPython of the first process that has one.
    pub python: Option<String>,
    /// Ties to the wall clock.
    anchors: Vec<Anchor>,
}

/// The kinds of anonymous memory: series, name in JSON, title.
const ANONYMOUS: [(&str, &str, &str); 5] = [
    (names::HEAP, "heap", "heap (brk)"),
    (names::ARENAS, "arenas", "glibc thread arenas"),
    (names::ANON_MAPS, "anonymous", "other anonymous"),
    (names::STACKS, "stacks", "stacks"),
    (names::FILE_PRIVATE, "file_private", "files, written pages"),
];

/// Resident memory by kind over time: a layer a kind, each with a value for each of [`Layers::times`].
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// The moments.
    pub times: Vec<Mono>,
    /// Title and bytes at each moment, the lowest layer first.
    pub layers: Vec<(&'static str, Vec<f64>)>,
    /// The sum of RSS: the greatest since the moment before.
    pub rss: Vec<f64>,
}

impl MemoryView {
    /// What `recording` says.
    pub fn new(recording: &Recording) -> Self {
        Self::between(recording, recording.started(), end_of(recording))
    }

    /// What a slice of `recording` says.
    ///
    /// # Errors
    /// `Usage` when the slice is empty or lies outside of the recording.
    pub fn within(recording: &Recording, slice: Slice) -> Result<Self> {
        let (from, to) = slice.bounds(recording.started(), end_of(recording))?;
        Ok(Self::between(recording, from, to))
    }

    fn between(recording: &Recording, from: Mono, to: Mono) -> Self {
        let mut view = Self { start: from, end: to, ..Self::default() };
        let inside = |at: Mono| from <= at && at <= to;
        for (at, metric, scope, value) in recording.readings.iter().filter(|r| inside(r.0)) {
            if names::memory(metric).is_none() || !value.is_finite() {
                continue;
            }
            let series = if scope.is_empty() {
                &mut view.cgroup
            } else {
                let index = view.processes.iter().position(|p| p.scope == *scope).unwrap_or_else(|| {
                    let pid = scope.split('#').next().and_then(|p| p.parse::<u32>().ok());
                    let row = recording.processes.iter().find(|p| Some(p.pid) == pid);
                    let name = row.map(|p| p.name.clone()).unwrap_or_default();
                    view.processes.push(ProcessMemory { scope: scope.clone(), name, series: BTreeMap::new() });
                    view.processes.len() - 1
                });
                &mut view.processes[index].series
            };
            series.entry(metric.clone()).or_default().push((*at, *value));
        }
        view.heaps.clone_from(&recording.heaps);
        for heap in &mut view.heaps {
            heap.censuses.retain(|c| inside(c.at));
        }
        let runtime = recording.heaps.iter().flat_map(|h| &h.censuses).find_map(|c| c.runtime.strip_prefix("CPython "));
        view.python = runtime.map(str::to_owned);
        view.marks = recording.marks.iter().filter(|m| inside(m.0)).cloned().collect();
        view.anchors.clone_from(&recording.anchors);
        view.lost = recording.losses.iter().filter(|l| l.2 == "memory" && inside(l.1)).map(|l| l.3).sum();
        view
    }

    /// Whether there is anything of memory in it.
    pub fn is_empty(&self) -> bool {
        self.processes.iter().all(|p| !p.series.contains_key(names::RSS))
    }

    /// Seconds from the start.
    pub fn seconds(&self, at: Mono) -> f64 {
        at.since(self.start) as f64 / 1e9
    }

    /// Seconds since 1970, by the nearest anchor; `None` without one.
    pub fn unix_seconds(&self, at: Mono) -> Option<f64> {
        let near = self.anchors.iter().min_by_key(|a| a.mono.0.abs_diff(at.0))?;
        Some((near.wall_ns + at.0.wrapping_sub(near.mono.0) as i64) as f64 / 1e9)
    }

    /// The sum over all processes that live then of what `metric` was at `at`; `None` when no process had it then.
    pub fn sum_at(&self, metric: &str, at: Mono) -> Option<f64> {
        let values = self.processes.iter().filter(|p| p.lives_at(at)).filter_map(|p| p.at(metric, at));
        values.fold(None, |sum, v| Some(sum.unwrap_or(0.0) + v))
    }

    /// The family's RSS over time: at each reading the sum of what was last read.
    pub fn total(&self, metric: &str) -> Points {
        let mut all: Vec<(Mono, usize, f64)> = Vec::new();
        for (i, p) in self.processes.iter().enumerate() {
            all.extend(p.points(metric).iter().map(|(at, v)| (*at, i, *v)));
        }
        all.sort_by_key(|(at, ..)| *at);
        let mut now = vec![0.0; self.processes.len()];
        let ends: Vec<Mono> = self.processes.iter().map(|p| p.ended().unwrap_or_default()).collect();
        let mut points = Points::new();
        for (at, i, value) in all {
            now[i] = value;
            for (value, end) in now.iter_mut().zip(&ends) {
                if *end < at {
                    *value = 0.0;
                }
            }
            points.push((at, now.iter().sum()));
        }
        // Until every process that was there at the start has been read once, the sum is of some of them.
        let first = self.processes.iter().filter_map(|p| p.points(metric).first()).map(|f| f.0);
        let begun = first.filter(|at| at.since(self.start) < 50_000_000).max();
        points.retain(|(at, _)| begun.is_none_or(|b| *at >= b));
        points
    }

    /// RSS at the start and at the end, bytes.
    pub fn ends(&self) -> Option<(f64, f64)> {
        let total = self.total(names::RSS);
        Some((total.first()?.1, total.last()?.1))
    }

    /// The slope of RSS, bytes a second: the median of the slopes between all pairs of points (Theil 1950, Sen 1968).
    pub fn slope(&self) -> Option<f64> {
        let total = self.total(names::RSS);
        let step = total.len().div_ceil(SLOPE_POINTS).max(1);
        let points: Vec<(f64, f64)> = total.iter().step_by(step).map(|(at, v)| (self.seconds(*at), *v)).collect();
        let mut slopes: Vec<f64> = Vec::new();
        for (i, (t, v)) in points.iter().enumerate() {
            slopes.extend(points[i + 1..].iter().filter(|(u, _)| u > t).map(|(u, w)| (w - v) / (u - t)));
        }
        slopes.sort_by(f64::total_cmp);
        slopes.get(slopes.len() / 2).copied()
    }

    /// The parts of RSS at the end of each process, summed, and what they leave unexplained (either sign).
    pub fn parts(&self) -> (Vec<Part>, f64) {
        let mut parts: Vec<Part> = Vec::new();
        let mut add = |name, title, bytes: f64| match parts.iter_mut().find(|p| p.name == name) {
            Some(part) => part.bytes += bytes,
            None => parts.push(Part { name, title, bytes }),
        };
        let mut rss = 0.0;
        for p in self.processes.iter().filter(|p| p.lives_at(self.last_tick())) {
            let detailed = p.points(names::HEAP).last().map(|h| h.0);
            let Some(at) = detailed.or_else(|| p.ended()) else { continue };
            let of = |metric| p.at(metric, at).unwrap_or(0.0);
            rss += of(names::RSS);
            if detailed.is_some() {
                for (metric, name, title) in ANONYMOUS {
                    add(name, title, of(metric));
                }
            } else {
                add("anonymous", "anonymous", of(names::ANON));
            }
            add("file", "files", of(names::FILE));
            add("shmem", "shared memory", of(names::SHMEM));
        }
        let sum: f64 = parts.iter().map(|p| p.bytes).sum();
        (parts, rss - sum)
    }

    /// The last tick of any process.
    fn last_tick(&self) -> Mono {
        self.processes.iter().filter_map(ProcessMemory::ended).max().unwrap_or_default()
    }

    /// Resident memory by kind at `count` moments from the first to the last tick.
    pub fn layers(&self, count: usize) -> Layers {
        let total = self.total(names::RSS);
        let (Some(first), Some(last)) = (total.first(), total.last()) else { return Layers::default() };
        let span = last.0.since(first.0);
        let count = count.min(total.len()).max(2) as u64;
        let times: Vec<Mono> =
            (0..count).map(|i| first.0.plus((span as u128 * u128::from(i) / u128::from(count - 1)) as u64)).collect();
        let mut layers: Vec<(&'static str, Vec<f64>)> = vec![("files", Vec::new()), ("shared memory", Vec::new())];
        layers.extend(ANONYMOUS.iter().rev().map(|(_, _, title)| (*title, Vec::new())));
        layers.push(("anonymous", Vec::new()));
        let mut rss = Vec::new();
        let mut from = 0;
        for at in &times {
            let mut values = vec![0.0; layers.len()];
            for p in self.processes.iter().filter(|p| p.lives_at(*at)) {
                values[0] += p.at(names::FILE, *at).unwrap_or(0.0);
                values[1] += p.at(names::SHMEM, *at).unwrap_or(0.0);
                let anon = p.at(names::ANON, *at).unwrap_or(0.0);
                let shares: Vec<f64> = ANONYMOUS.iter().rev().map(|(m, ..)| p.between(m, *at).unwrap_or(0.0)).collect();
                let known: f64 = shares.iter().sum();
                for (value, share) in values[2..].iter_mut().zip(&shares) {
                    *value += if known > 0.0 { anon * share / known } else { 0.0 };
                }
                if known <= 0.0 {
                    *values.last_mut().unwrap_or(&mut 0.0) += anon;
                }
            }
            for ((_, layer), value) in layers.iter_mut().zip(values) {
                layer.push(value);
            }
            let to = total.partition_point(|(t, _)| t <= at).max(from + 1).min(total.len());
            let peak = total.get(from..to).into_iter().flatten().map(|p| p.1).fold(0.0, f64::max);
            rss.push(peak);
            from = to.saturating_sub(1);
        }
        layers.retain(|(_, layer)| layer.iter().any(|v| *v > 0.0));
        Layers { times, layers, rss }
    }
}

/// The end, also of a recording that was cut.
fn end_of(recording: &Recording) -> Mono {
    recording.ended().max(recording.readings.last().map_or(recording.started(), |r| r.0))
}

impl ProcessMemory {
    /// The points of a series, none where it was not read.
    pub fn points(&self, metric: &str) -> &[(Mono, f64)] {
        self.series.get(metric).map_or(&[], Vec::as_slice)
    }

    /// When it was first read.
    pub fn began(&self) -> Option<Mono> {
        self.points(names::RSS).first().map(|p| p.0)
    }

    /// When it was last read.
    pub fn ended(&self) -> Option<Mono> {
        self.points(names::RSS).last().map(|p| p.0)
    }

    fn lives_at(&self, at: Mono) -> bool {
        // Processes of one tick are read one after the other.
        const APART_NS: u64 = 50_000_000;
        // Its last value holds for nearly as long as the one before did: then the next would have come.
        let holds = match self.points(names::RSS) {
            [.., before, last] => last.0.since(before.0) / 10 * 9,
            _ => APART_NS,
        };
        self.began().zip(self.ended()).is_some_and(|(b, e)| b <= at.plus(APART_NS) && at <= e.plus(holds))
    }

    /// What was read last at `at`, the first reading before that.
    pub fn at(&self, metric: &str, at: Mono) -> Option<f64> {
        let points = self.points(metric);
        let after = points.partition_point(|p| p.0 <= at);
        points.get(after.saturating_sub(1)).map(|p| p.1)
    }

    /// Between two readings a line.
    fn between(&self, metric: &str, at: Mono) -> Option<f64> {
        let points = self.points(metric);
        let after = points.partition_point(|p| p.0 <= at);
        let (before, next) = (points.get(after.wrapping_sub(1)), points.get(after));
        match (before, next) {
            (Some(b), Some(n)) if n.0 > b.0 => Some(b.1 + (n.1 - b.1) * at.since(b.0) as f64 / n.0.since(b.0) as f64),
            (Some(p), _) | (None, Some(p)) => Some(p.1),
            (None, None) => None,
        }
    }
}

/// The verdict on what `view` shows.
pub fn judge(view: &MemoryView) -> Judged {
    if view.is_empty() {
        return Judged::unknown("a recording with memory in it: perfkit mem --pid P -o run.perfkit");
    }
    growth::judge(&evidence(view))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Two processes: one grows by 1 MB/s from 100 MB, half of it heap; one lives from 2 s to 4 s with 10 MB.
    pub(crate) fn grown() -> MemoryView {
        let mut rec = Recording::default();
        let mut put = |at: u64, metric: &str, scope: &str, value: f64| {
            rec.readings.push((Mono(at), metric.to_owned(), scope.to_owned(), value));
        };
        for i in 0..=50_u64 {
            let at = SECOND + i * SECOND / 5;
            let mb = 100.0 + i as f64 / 5.0;
            put(at, names::RSS, "7", mb * 1e6);
            put(at, names::ANON, "7", (mb - 20.0) * 1e6);
            put(at, names::FILE, "7", 20e6);
            if i % 10 == 0 {
                for name in [names::HEAP, names::ANON_MAPS] {
                    put(at, name, "7", (mb - 20.0) / 2.0 * 1e6);
                }
                put(at, names::CGROUP_LIMIT, "", 200e6);
                put(at, names::PSS, "7", (mb - 10.0) * 1e6);
            }
            if (10..=20).contains(&i) {
                put(at + 1000, names::RSS, "8", 10e6);
            }
        }
        rec.marks.push((Mono(5 * SECOND), "exit".into(), "process 8 ended".into()));
        rec.meta.insert("started_ns".into(), SECOND.to_string());
        rec.meta.insert("ended_ns".into(), (11 * SECOND).to_string());
        MemoryView::new(&rec)
    }

    /// A leak with its suspect.
    pub(crate) fn blamed() -> Judged {
        let path = ["module npc.memory", "REGISTRY", "dict", "NpcState"];
        let suspect = Suspect {
            rank: 1,
            kind: "container",
            name: "npc.memory.REGISTRY <b>".into(),
            growth_bytes_per_s: Some(24_800.0),
            growth_count_per_s: Some(1000.0),
            path: path.map(str::to_owned).to_vec(),
            evidence: "its length rose in 30 of 30 looks".into(),
        };
        Judged {
            verdict: "leak".into(),
            kind: "container-leak".into(),
            confidence: "high".into(),
            suspects: vec![suspect],
            reclaimable_bytes: Some(14.2e6),
            ..Judged::unknown("")
        }
    }

    #[test]
    fn growth_parts_and_layers() {
        let view = grown();
        assert_eq!(view.ends(), Some((100e6, 110e6)));
        assert!((view.slope().unwrap() / 1e6 - 1.0).abs() < 0.1, "{:?}", view.slope());
        let (parts, rest) = view.parts();
        let sum: f64 = parts.iter().map(|p| p.bytes).sum();
        assert!((sum - 110e6).abs() < 1.0 && rest.abs() < 1.0, "{parts:?} {rest}");
        let layers = view.layers(20);
        for (i, rss) in layers.rss.iter().enumerate() {
            let sum: f64 = layers.layers.iter().map(|(_, l)| l[i]).sum();
            // Within a step of the one that comes and goes, whose kind of memory is not known.
            let (at, whole) = (view.seconds(layers.times[i]), (sum - rss).abs() < 0.6e6);
            assert!(whole || (1.8..4.7).contains(&at), "{at}: {sum} {rss}");
        }
        assert_eq!(layers.layers.iter().map(|l| l.0).collect::<Vec<_>>(), ["files", "other anonymous", "heap (brk)"]);
        // Process 8 has ended by then.
        assert_eq!(view.sum_at(names::RSS, view.end), Some(110e6));
        let during = view.total(names::RSS).iter().filter(|(at, _)| *at == Mono(4 * SECOND)).map(|p| p.1).next();
        assert_eq!(during, Some(113e6));
        assert!(MemoryView::new(&Recording::default()).is_empty());
    }
}
