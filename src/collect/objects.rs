//! The heap of a CPython process over time: a census now and then, and who holds what grew.
//!
//! In: a process. Out: censuses and holders in the recorder, and the readings `heap.python_live` and `heap.python_pools`.
//! Invariants: the target is neither stopped nor written to; censuses take at most [`SHARE`] of one core, holders are
//! looked for only when something grew from census to census, and once more at the end. Limits: what lives between two
//! censuses is not seen; see `python::census` for what a census misses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::clock::{Clock, Mono, SystemClock};
use crate::error::{Error, Kind, Result};
use crate::os::memory::LiveMemory;
use crate::python::census::{Census as Scan, Held, Holders, Library, Scanner};
use crate::python::{Located, Runtime, locate};
use crate::record::census::{Census, CensusHead, ContainerLength, Holder, Origin, TypeCount};
use crate::record::{Event, Reading, Recorder, series};
use crate::target::{Identity, Maps, is_running};

/// The share of one core that censuses may take: the period is the CPU time of the last one by this.
pub const SHARE: f64 = 0.01;
/// Censuses are no closer than this, ns.
const PERIOD_MIN: u64 = 2_000_000_000;
/// And no further apart, ns.
const PERIOD_MAX: u64 = 120_000_000_000;
/// The search for holders is begun again no sooner than this, ns.
const SEARCH_PERIOD: u64 = 30_000_000_000;
/// How often a process that has no interpreter yet is looked at, and for how long.
const LOOK: Duration = Duration::from_millis(250);
const LOOKS: u32 = 40;
/// Containers and types whose holders are looked for.
const SUSPECTS: usize = 4;
/// Instances of a type whose holders are looked for.
const SAMPLE: usize = 16;
/// Growth by fewer is not followed.
const FEW: u64 = 20;

/// What is wanted of the heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ObjectsWanted {
    /// One census, then the end.
    pub snapshot: bool,
    /// Whether those who hold the largest containers are looked for too when nothing grew.
    pub largest: bool,
}

/// How a process's heap came to its end.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// It has no interpreter.
    NotPython,
    /// Told to halt, the process ended, or the snapshot is done.
    Done,
}

/// How often something was seen, and how often it had grown since the time before.
#[derive(Debug, Clone, Copy)]
struct Track {
    first: u64,
    last: u64,
    seen: u32,
    rises: u32,
}

impl Track {
    fn follow(slot: Option<Self>, now: u64) -> Self {
        let Some(mut t) = slot else { return Self { first: now, last: now, seen: 1, rises: 0 } };
        t.seen += 1;
        t.rises += u32::from(now > t.last);
        t.last = now;
        t
    }

    /// By how much it grew, if it did nearly every time.
    fn growth(self) -> Option<u64> {
        let by = self.last.saturating_sub(self.first);
        (self.seen >= 3 && by >= FEW && self.rises * 4 >= (self.seen - 1) * 3).then_some(by)
    }
}

/// Takes censuses of `who` until `halt` is set or it ends. To be run on a thread of its own, which `unpark` wakes.
///
/// # Errors
/// Why its heap cannot be read: a version that is not supported, a right that is missing.
pub fn watch(
    who: &Identity,
    scope: &str,
    recorder: &Arc<Recorder>,
    wanted: ObjectsWanted,
    halt: &AtomicBool,
) -> Result<Ended> {
    let memory = LiveMemory::new(who.pid);
    let Some(runtime) = find(who, &memory, halt)? else { return Ok(Ended::NotPython) };
    let mut scanner = Scanner::new(who.pid, &memory, &runtime);
    // An interpreter that starts has no modules yet.
    for _ in 0..LOOKS {
        if scanner.is_ok() || halt.load(Ordering::SeqCst) || !is_running(who.pid, who.start_ticks) {
            break;
        }
        std::thread::park_timeout(LOOK);
        scanner = Scanner::new(who.pid, &memory, &runtime);
    }
    let scanner = scanner?;
    let mut heap = Heap {
        who,
        scope,
        recorder,
        scanner: &scanner,
        runtime: format!("CPython {}", runtime.text.split(' ').next().unwrap_or_default()),
        names: FxHashMap::default(),
        library: scanner.library(),
        types: FxHashMap::default(),
        containers: FxHashMap::default(),
        searched: None,
    };
    heap.run(wanted, halt)
}

/// The interpreter of a process, as soon as it has one.
fn find(who: &Identity, memory: &LiveMemory, halt: &AtomicBool) -> Result<Option<Box<Runtime>>> {
    for look in 0..LOOKS {
        match Maps::of(who.pid).map(|maps| locate(who.pid, &maps, memory)) {
            Ok(Located::Found(runtime)) if runtime.started => return Ok(Some(runtime)),
            Ok(Located::Refused(e)) if look + 1 == LOOKS || e.kind() == Kind::Unsupported => return Err(e),
            // What runs for a while and is no Python will not become one; what was just started may exec it.
            Ok(Located::NotPython) if look >= 8 => return Ok(None),
            Err(e) => return Err(e),
            _ => {}
        }
        if halt.load(Ordering::SeqCst) || !is_running(who.pid, who.start_ticks) {
            return Ok(None);
        }
        std::thread::park_timeout(LOOK);
    }
    Ok(None)
}

/// A heap that is watched.
struct Heap<'h> {
    who: &'h Identity,
    scope: &'h str,
    recorder: &'h Recorder,
    scanner: &'h Scanner<'h>,
    runtime: String,
    names: FxHashMap<u64, (String, Origin)>,
    library: Library,
    types: FxHashMap<u64, Track>,
    containers: FxHashMap<(u64, u64), Track>,
    searched: Option<Mono>,
}

impl Heap<'_> {
    fn run(&mut self, wanted: ObjectsWanted, halt: &AtomicBool) -> Result<Ended> {
        loop {
            let begun = SystemClock.now();
            let Some(scan) = self.census(begun)? else { return Ok(Ended::Done) };
            if wanted.snapshot {
                self.search_largest(&scan);
                return Ok(Ended::Done);
            }
            if self.searched.is_none_or(|at| begun.since(at) >= SEARCH_PERIOD) {
                self.search(&scan);
            }
            let period = ((scan.cpu_ns as f64 / SHARE) as u64).clamp(PERIOD_MIN, PERIOD_MAX);
            let next = begun.plus(period);
            while !halt.load(Ordering::SeqCst) && SystemClock.now() < next {
                // Woken by the conductor at the end; a process that is gone is seen soon.
                std::thread::park_timeout(
                    Duration::from_nanos(next.since(SystemClock.now())).min(Duration::from_secs(1)),
                );
                if !is_running(self.who.pid, self.who.start_ticks) {
                    return Ok(Ended::Done);
                }
            }
            if halt.load(Ordering::SeqCst) {
                return self.finish(wanted);
            }
        }
    }

    fn finish(&mut self, wanted: ObjectsWanted) -> Result<Ended> {
        let now = SystemClock.now();
        if let Some(scan) = self.census(now)? {
            let found = self.search(&scan);
            if !found && wanted.largest {
                self.search_largest(&scan);
            }
        }
        Ok(Ended::Done)
    }

    /// One census into the recorder. `None` when the process is gone.
    fn census(&mut self, at: Mono) -> Result<Option<Scan>> {
        let scan = match self.scanner.scan() {
            Ok(scan) => scan,
            Err(e) if e.kind() == Kind::Gone || !is_running(self.who.pid, self.who.start_ticks) => return Ok(None),
            Err(e) => return Err(e),
        };
        if !is_running(self.who.pid, self.who.start_ticks) {
            // What was read may be of its last moments, or of who has the number now.
            return Ok(None);
        }
        let took_ns = SystemClock.now().since(at);
        let mut by_name: FxHashMap<String, TypeCount> = FxHashMap::default();
        for (type_at, (info, total)) in &scan.types {
            let (name, origin) = self.name(*type_at, info.heap_type);
            // Classes of one name (made anew at each call, or reloaded) count together.
            let entry = by_name.entry(name.clone()).or_insert(TypeCount { name, origin, count: 0, bytes: 0 });
            entry.count += total.count;
            entry.bytes += total.bytes;
            let track = Track::follow(self.types.get(type_at).copied(), total.count);
            self.types.insert(*type_at, track);
        }
        let mut containers = Vec::with_capacity(scan.containers.len());
        let mut tracks = FxHashMap::default();
        for c in &scan.containers {
            let (kind, _) = self.name(c.type_at, false);
            containers.push(ContainerLength { address: c.at, kind, length: c.length });
            let key = (c.at, c.type_at);
            tracks.insert(key, Track::follow(self.containers.get(&key).copied(), c.length));
        }
        self.containers = tracks;
        let mut types: Vec<TypeCount> = by_name.into_values().collect();
        types.sort_by(|a, b| a.name.cmp(&b.name));
        let head = CensusHead {
            at,
            runtime: self.runtime.clone(),
            took_ns,
            cpu_ns: scan.cpu_ns,
            objects: scan.objects,
            bytes: scan.live_bytes,
            torn: scan.torn,
            missing: scan.missing().to_owned(),
        };
        self.recorder.census(&Census { scope: self.scope.to_owned(), head, types, containers });
        for (metric, value) in [(series::PY_LIVE, scan.live_bytes), (series::PY_POOLS, scan.pool_bytes)] {
            let reading = Reading { at, metric, scope: self.scope.to_owned(), value: value as f64 };
            self.recorder.put(Event::Reading(reading));
        }
        Ok(Some(scan))
    }

    fn name(&mut self, type_at: u64, heap_type: bool) -> (String, Origin) {
        if let Some(known) = self.names.get(&type_at) {
            return known.clone();
        }
        let name = self.scanner.type_name(type_at);
        let origin = match (heap_type, self.library.has(&name)) {
            (_, true) => Origin::Library,
            (true, false) if name.contains('.') => Origin::User,
            _ => Origin::Builtin,
        };
        self.names.insert(type_at, (name.clone(), origin));
        (name, origin)
    }

    /// Looks who holds what grows. Whether anything does.
    fn search(&mut self, scan: &Scan) -> bool {
        let mut containers: Vec<((u64, u64), u64)> =
            self.containers.iter().filter_map(|(key, t)| Some((*key, t.growth()?))).collect();
        containers.sort_by_key(|(key, by)| (std::cmp::Reverse(*by), *key));
        let mut types: Vec<(u64, u64)> = self.types.iter().filter_map(|(at, t)| Some((*at, t.growth()?))).collect();
        types.retain(|(at, _)| self.names.get(at).is_some_and(|(_, origin)| *origin == Origin::User));
        types.sort_by_key(|(at, by)| (std::cmp::Reverse(*by), *at));
        if containers.is_empty() && types.is_empty() {
            return false;
        }
        let at = SystemClock.now();
        self.searched = Some(at);
        let scanner = self.scanner;
        let mut holders = Holders::new(scanner);
        for ((address, type_at), _) in containers.into_iter().take(SUSPECTS) {
            let (held, _) = self.name(type_at, false);
            self.hold(at, held, Some(address), holders.of(&[address]), 1);
        }
        for (type_at, _) in types.into_iter().take(SUSPECTS) {
            let (held, _) = self.name(type_at, true);
            let Ok((found, sample)) = holders.of_type(type_at, SAMPLE) else { continue };
            self.hold(at, held, None, Ok(found), sample as u64);
        }
        let _ = scan;
        true
    }

    /// Looks who holds the containers with the most items.
    fn search_largest(&mut self, scan: &Scan) {
        let at = SystemClock.now();
        let mut containers = scan.containers.clone();
        containers.sort_by_key(|c| (std::cmp::Reverse(c.length), c.at));
        let mut holders = Holders::new(self.scanner);
        // Those of the interpreter (the table of interned strings, modules) are among the largest of any program.
        for c in containers.into_iter().take(3 * SUSPECTS) {
            let (held, _) = self.name(c.type_at, false);
            self.hold(at, held, Some(c.at), holders.of(&[c.at]), 1);
        }
    }

    fn hold(&self, at: Mono, held: String, container: Option<u64>, found: Result<Held>, sample: u64) {
        let Ok(found) = found else { return };
        let of_sample = (u64::from(found.of), sample);
        let scope = self.scope.to_owned();
        let Held { path, limit, .. } = found;
        self.recorder.holder(Holder { at, scope, held, container, path, of_sample, limit });
    }
}

/// That a process was to be looked into, and is not Python.
///
/// # Errors
/// Always: the error that says so.
pub fn refuse(who: &Identity) -> Error {
    Error::new(Kind::Unsupported, format!("process {who} runs no CPython: it has no objects to count"))
        .advise("leave --objects out: the curve and its kinds are measured for every process")
}
