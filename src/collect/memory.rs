//! Memory of processes over time: cheap files at every tick, dear ones as seldom as their cost asks.
//!
//! In: processes, an interval, whether children are followed. Out: the series of [`crate::record::series`], a scope a process,
//! with the time of each reading; a mark when a process comes or goes. Invariants: the target is neither stopped nor written
//! to; `mem.rss` and `mem.anon` are recorded at every tick, the other series when they change and at least once in
//! [`REPEAT_NS`] (the last value holds until the next); what `smaps` costs stays below [`SHARE`] of one core, for all
//! processes together. Limits: `smaps` takes the target's mmap lock for reading, as `ps` and `top` do for the command line;
//! a process that lives less than a tick is not seen.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::Running;
use crate::clock::{Clock, Mono, SystemClock, thread_cpu_ns};
use crate::error::{Error, Kind, Result};
use crate::record::series as names;
use crate::record::{Event, Loss, Mark, Reading, Recorder};
use crate::target::memory::{MemoryFiles, Parts, parts};
use crate::target::{Cgroup, Identity, describe, is_running};

/// The share of one core that reading `smaps` may take: the period is the cost of the last read by this.
pub const SHARE: f64 = 0.001;
/// `smaps` is read no more often than this, ns.
const DETAIL_MIN_NS: u64 = 1_000_000_000;
/// And no more seldom, ns: a recording of some minutes wants a few.
const DETAIL_MAX_NS: u64 = 300_000_000_000;
/// A value that does not change is repeated after this, ns.
pub const REPEAT_NS: u64 = 1_000_000_000;
/// How often children are looked for, ns.
const CHILDREN_NS: u64 = 1_000_000_000;
/// How often the cgroup is read, ns.
const CGROUP_NS: u64 = 1_000_000_000;

/// What to sample.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The processes.
    pub targets: Vec<Identity>,
    /// Whether their children are followed.
    pub subprocesses: bool,
    /// The time between two ticks, ns.
    pub interval_ns: u64,
    /// Where `/proc` is: `/`, but for tests.
    pub root: PathBuf,
}

/// The latest of a family, for the line of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Latest {
    /// Resident memory of all processes, bytes; shared pages count in each.
    pub rss: u64,
    /// Processes alive.
    pub processes: u64,
    /// Ticks until now.
    pub ticks: u64,
    /// Ticks that were missed.
    pub missed: u64,
}

/// A process that is watched.
struct Watched {
    pid: u32,
    start_ticks: u64,
    files: MemoryFiles,
    scope: String,
    /// Value and time of the last reading of each series.
    last: FxHashMap<&'static str, (f64, Mono)>,
    /// When `smaps` may be read again; `None` before the first time.
    detail_at: Option<Mono>,
    rss: u64,
}

/// The sampler.
pub struct MemorySampler {
    wanted: Wanted,
    watched: Vec<Watched>,
    seen: FxHashMap<u32, u32>,
    cgroup: Option<Cgroup>,
    cgroup_last: FxHashMap<&'static str, (f64, Mono)>,
    next: Mono,
    children_at: Mono,
    cgroup_at: Mono,
    /// No `smaps` before this, whatever process it is of.
    detail_free: Mono,
    ticks: u64,
    missed: u64,
}

impl std::fmt::Debug for MemorySampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemorySampler").field("processes", &self.watched.len()).finish_non_exhaustive()
    }
}

impl MemorySampler {
    /// A sampler of these processes; the first tick is due at once. The processes are put into `recorder`.
    ///
    /// # Errors
    /// `Gone` when none of them is left; `Unsupported` for one that has no memory of its own.
    pub fn new(wanted: Wanted, now: Mono, recorder: &Recorder) -> Result<Self> {
        let mut sampler = Self {
            watched: Vec::new(),
            seen: FxHashMap::default(),
            cgroup: None,
            cgroup_last: FxHashMap::default(),
            next: now,
            children_at: now,
            cgroup_at: now,
            detail_free: now,
            ticks: 0,
            missed: 0,
            wanted,
        };
        for target in sampler.wanted.targets.clone() {
            sampler.enter(&target, recorder);
        }
        if sampler.wanted.subprocesses {
            sampler.look_for_children(now, recorder);
        }
        let readable = sampler.watched.iter().any(|w| w.files.status().is_some());
        if !readable {
            let pid = sampler.wanted.targets.first().map_or(0, |t| t.pid);
            return Err(Error::new(Kind::Gone, format!("process {pid} has ended, or has no memory of its own")));
        }
        sampler.cgroup = sampler.watched.first().and_then(|w| w.files.cgroup());
        Ok(sampler)
    }

    /// Whether a process is left to look at.
    pub fn has_targets(&self) -> bool {
        !self.watched.is_empty()
    }

    /// How it stands.
    pub fn latest(&self) -> Latest {
        let rss = self.watched.iter().map(|w| w.rss).fold(0, u64::saturating_add);
        Latest { rss, processes: self.watched.len() as u64, ticks: self.ticks, missed: self.missed }
    }

    /// Why `smaps` cannot be read, if it cannot.
    pub fn limits(&self) -> Option<String> {
        let first = self.watched.first()?;
        let error = std::fs::File::open(self.wanted.root.join(format!("proc/{}/smaps", first.pid))).err()?;
        Some(format!(
            "process {}: smaps cannot be read ({error}): PSS, USS and the kinds of memory are missing; run as root or add \
             CAP_SYS_PTRACE",
            first.pid
        ))
    }

    fn enter(&mut self, who: &Identity, recorder: &Recorder) {
        if self.watched.iter().any(|w| (w.pid, w.start_ticks) == (who.pid, who.start_ticks)) {
            return;
        }
        let times = self.seen.entry(who.pid).and_modify(|n| *n += 1).or_insert(1);
        let scope = if *times == 1 { who.pid.to_string() } else { format!("{}#{times}", who.pid) };
        let _ = recorder.process(describe(who.pid, who.parent, who.start_ticks));
        let files = MemoryFiles::new(&self.wanted.root, who.window);
        let (last, detail_at) = (FxHashMap::default(), None);
        let (pid, start_ticks) = (who.pid, who.start_ticks);
        self.watched.push(Watched { pid, start_ticks, files, scope, last, detail_at, rss: 0 });
    }

    fn look_for_children(&mut self, now: Mono, recorder: &Recorder) {
        let mut queue: Vec<u32> = self.watched.iter().map(|w| w.pid).collect();
        let mut known: Vec<u32> = queue.clone();
        while let Some(pid) = queue.pop() {
            for child in crate::target::children(pid) {
                if known.contains(&child) {
                    continue;
                }
                known.push(child);
                queue.push(child);
                // A child that is gone by now, or may not be looked at, is none of the targets.
                let Ok(who) = Identity::of(child) else { continue };
                self.enter(&who, recorder);
                if self.ticks > 0 {
                    let text = format!("process {child} ({}) began", who.name);
                    recorder.put(Event::Mark(Mark { at: now, kind: "fork", text }));
                }
            }
        }
        self.children_at = now.plus(CHILDREN_NS);
    }

    fn read_cgroup(&mut self, recorder: &Recorder) {
        let Some(cgroup) = &self.cgroup else { return };
        let at = SystemClock.now();
        let memory = cgroup.memory();
        let values = [
            (names::CGROUP_MEMORY, memory.usage),
            (names::CGROUP_LIMIT, memory.limit),
            (names::CGROUP_OOM_KILLS, memory.oom_kills),
        ];
        for (metric, value) in values {
            put(recorder, &mut self.cgroup_last, "", metric, value, at);
        }
        self.cgroup_at = at.plus(CGROUP_NS);
    }

    /// One process. `false` when it has ended.
    fn read(&mut self, index: usize, recorder: &Recorder) -> bool {
        let Some(w) = self.watched.get_mut(index) else { return false };
        let at = SystemClock.now();
        let live = self.wanted.root == Path::new("/");
        if live && !is_running(w.pid, w.start_ticks) {
            return false;
        }
        let Some(status) = w.files.status() else { return false };
        w.rss = status.rss.unwrap_or(0);
        let faults = w.files.faults();
        let values = [
            (names::RSS, status.rss),
            (names::ANON, status.anon),
            (names::FILE, status.file),
            (names::SHMEM, status.shmem),
            (names::SWAP, status.swap),
            (names::PAGE_TABLES, status.page_tables),
            (names::THREADS, status.threads),
            (names::FAULTS_MINOR, faults.map(|f| f.minor)),
            (names::FAULTS_MAJOR, faults.map(|f| f.major)),
        ];
        for (metric, value) in values {
            put(recorder, &mut w.last, &w.scope, metric, value, at);
        }
        if w.last.get(names::FDS).is_none_or(|(_, last)| at.since(*last) >= REPEAT_NS) {
            put(recorder, &mut w.last, &w.scope, names::FDS, w.files.fds(), at);
        }
        true
    }

    /// Whose `smaps` is to be read at `now`, one a tick: a process that has none yet, then the one that waits longest.
    fn turn(&self, now: Mono) -> Option<usize> {
        let fresh = self.watched.iter().position(|w| w.detail_at.is_none());
        let due = || {
            let waiting = self.watched.iter().enumerate().filter_map(|(i, w)| Some((w.detail_at?, i)));
            waiting.min().filter(|(at, _)| now >= *at && now >= self.detail_free).map(|(_, i)| i)
        };
        fresh.or_else(due)
    }

    /// `smaps`: kinds, PSS and USS of one process.
    fn read_detail(&mut self, index: usize, recorder: &Recorder) {
        let Some(w) = self.watched.get_mut(index) else { return };
        let before = thread_cpu_ns();
        let found = w.files.regions().map(|r| parts(&r));
        let at = SystemClock.now();
        // The kernel frees the pages of a process before its files go: nothing resident is the moment of its end.
        if let Some(found) = found.filter(|p| p.rss() > 0) {
            record_parts(recorder, w, &found, at);
        }
        let cost = thread_cpu_ns().saturating_sub(before);
        let pause = ((cost as f64 / SHARE) as u64).clamp(DETAIL_MIN_NS, DETAIL_MAX_NS);
        w.detail_at = Some(at.plus(pause));
        // Several processes take turns: the share is for all together. The first read of each comes on top, and is paid back.
        self.detail_free = self.detail_free.max(at).plus((cost as f64 / SHARE) as u64);
    }
}

fn record_parts(recorder: &Recorder, w: &mut Watched, found: &Parts, at: Mono) {
    let values = [
        (names::PSS, found.pss),
        (names::USS, found.uss),
        (names::HEAP, found.heap),
        (names::ARENAS, found.arenas),
        (names::ANON_MAPS, found.anon_maps),
        (names::STACKS, found.stacks),
        (names::FILE_PRIVATE, found.file_private),
        (names::MAPPINGS, found.mappings),
        (names::ARENA_COUNT, found.arena_count),
    ];
    for (metric, value) in values {
        record(recorder, &mut w.last, &w.scope, metric, value, at);
    }
}

/// Records a value at once.
fn record(
    recorder: &Recorder,
    last: &mut FxHashMap<&'static str, (f64, Mono)>,
    scope: &str,
    metric: &'static str,
    value: u64,
    at: Mono,
) {
    let value = value as f64;
    last.insert(metric, (value, at));
    recorder.put(Event::Reading(Reading { at, metric, scope: scope.to_owned(), value }));
}

/// Records a value if it is known and new, one of the two that are always recorded, or old enough to be said again.
fn put(
    recorder: &Recorder,
    last: &mut FxHashMap<&'static str, (f64, Mono)>,
    scope: &str,
    metric: &'static str,
    value: Option<u64>,
    at: Mono,
) {
    let Some(value) = value else { return };
    let always = metric == names::RSS || metric == names::ANON;
    // Slightly less than the interval, so that a tick that comes a little early does not skip a beat.
    let due = last.get(metric).is_none_or(|(v, t)| *v as u64 != value || at.since(*t) >= REPEAT_NS - REPEAT_NS / 20);
    if always || due {
        record(recorder, last, scope, metric, value, at);
    }
}

/// What the thread of a sampler does.
impl MemorySampler {
    /// One tick: every process once.
    pub fn tick(&mut self, now: Mono, recorder: &Recorder) {
        if self.wanted.subprocesses && now >= self.children_at {
            self.look_for_children(now, recorder);
        }
        let mut index = 0;
        while index < self.watched.len() {
            if self.read(index, recorder) {
                index += 1;
            } else {
                let gone = self.watched.remove(index);
                let text = format!("process {} ended", gone.pid);
                recorder.put(Event::Mark(Mark { at: SystemClock.now(), kind: "exit", text }));
            }
        }
        if let Some(index) = self.turn(SystemClock.now()) {
            self.read_detail(index, recorder);
        }
        if now >= self.cgroup_at {
            self.read_cgroup(recorder);
        }
        self.ticks += 1;
        let interval = self.wanted.interval_ns.max(1);
        let late = now.since(self.next) / interval;
        if late > 0 {
            self.missed += late;
            let (from, to) = (self.next, now);
            recorder.put(Event::Loss(Loss {
                from,
                to,
                source: "memory",
                count: late,
                why: "the tick came late".into(),
            }));
        }
        self.next = self.next.plus(interval.saturating_mul(late + 1));
    }

    /// The time until the next tick.
    pub fn due_at(&self, now: Mono) -> Duration {
        Duration::from_nanos(self.next.since(now))
    }

    /// Takes the detail of every process once more, so that the end of the recording has its parts.
    pub fn close(&mut self, recorder: &Recorder) {
        for index in 0..self.watched.len() {
            if self.read(index, recorder) {
                self.read_detail(index, recorder);
            }
        }
        self.read_cgroup(recorder);
    }
}

/// A sampler with its recorder, as the conductor takes it.
pub struct MemoryCollector {
    /// The sampler.
    pub sampler: MemorySampler,
    /// Where its readings go.
    pub recorder: std::sync::Arc<Recorder>,
}

impl std::fmt::Debug for MemoryCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.sampler.fmt(f)
    }
}

impl Running for MemoryCollector {
    fn due(&self) -> Duration {
        self.sampler.due_at(SystemClock.now())
    }

    fn step(&mut self, now: Mono) -> Result<()> {
        if now >= self.sampler.next {
            self.sampler.tick(now, &self.recorder);
        }
        Ok(())
    }

    fn finish(&mut self, _now: Mono) -> Result<()> {
        self.sampler.close(&self.recorder);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Store;

    #[test]
    fn a_process_gives_its_series_and_its_end() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let who = Identity::of(child.id()).unwrap();
        let recorder = Recorder::new();
        let now = SystemClock.now();
        let wanted =
            Wanted { targets: vec![who], subprocesses: true, interval_ns: 1_000_000, root: PathBuf::from("/") };
        let mut sampler = MemorySampler::new(wanted, now, &recorder).unwrap();
        for _ in 0..3 {
            sampler.tick(SystemClock.now(), &recorder);
        }
        sampler.close(&recorder);
        drop(child.stdin.take());
        child.wait().unwrap();
        sampler.tick(SystemClock.now(), &recorder);
        assert!(!sampler.has_targets());
        let mut store = Store::in_memory().unwrap();
        store.flush(&recorder).unwrap();
        let rec = store.recording().unwrap();
        let of = |name: &str| rec.readings.iter().filter(|r| r.1 == name).collect::<Vec<_>>();
        assert_eq!(of(names::RSS).len(), 4);
        assert_eq!(of(names::RSS)[0].2, child.id().to_string());
        for name in [names::PSS, names::USS, names::HEAP, names::STACKS, names::FDS, names::THREADS, names::PAGE_TABLES]
        {
            assert!(!of(name).is_empty() && of(name).len() < 4, "{name}: {:?}", of(name));
        }
        assert!(rec.marks.iter().any(|m| m.1 == "exit"));
    }
}
