//! Timers on the threads of processes, for users who may not watch a whole CPU.
//!
//! In: process ids, a rate. Out: records of one ring a CPU. An event that is inherited and has a ring must be bound to a CPU
//! (perf_event_open(2)), so each thread that exists has one a CPU, all writing into that CPU's ring; threads born later
//! inherit. The timers follow the thread's own CPU time; see `period` for what a fire stands for.
//!
//! Changing the period of an event does not reach the copies that were inherited from it, only those still to be born. So a
//! thread that gives birth gets a new period each time; a thread that outlives its childhood is adopted, it gets timers of
//! its own; and then the timers of the thread that bore it are opened anew, since closing them is the only way to be rid of
//! the copies. Invariants: a thread with timers of its own counts by those alone, whatever it inherited, so nobody counts
//! twice; a period is drawn anew only after a fire or a birth, since that starts the interval anew: at any other time it
//! would keep threads that use little CPU from ever being hit.

use std::cell::Cell;
use std::io;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustc_hash::{FxHashMap, FxHashSet};

use super::period::{Draw, Periods};
use super::pinned::{Interpreters, Pinned, Read};
use super::ticker::{map_ring, online};
use crate::clock::Mono;
use crate::error::{Error, Kind, Result};
use crate::os::perf::{Attr, Clockwork, Event, Exit, Layout, Record, Ring, Scope, StackSample, parse};

/// A timer that fired gets a new period when its present one is this old.
const REDRAW_NS: u64 = 1_000_000_000;
/// A thread that lives longer gets timers of its own.
const CHILDHOOD_NS: u64 = 150_000_000;
/// How often threads are adopted and those that ended forgotten.
const ADOPT_NS: u64 = 250_000_000;
/// Bytes of stack copied, at least and at most.
const STACK_BYTES: (f64, f64) = (8192.0, 49152.0);
/// The longest the rings wait for us, at the worst: their room is shared out for that.
const LATE: f64 = 0.025;
/// Rounds of listing threads until none is new.
const ROUNDS: usize = 50;
/// A guess at a processor's clock, for `cycles`.
const CYCLES_HZ: f64 = 3e9;

/// What to sample and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    /// Samples a second of each thread's CPU time.
    pub(super) rate_hz: f64,
    /// Hardware cycles instead of the timer.
    pub(super) cycles: bool,
    /// Children too, not threads alone.
    pub(super) follow: bool,
}

struct Cpu {
    number: u32,
    /// Owns the ring; says nothing itself. Bound to a thread of ours, so that it outlives every target.
    owner: Event,
    /// Until its reader starts.
    ring: Option<Ring>,
    reader: Option<Pinned>,
}

struct Timer {
    event: Event,
    /// The thread it was opened on.
    tid: u32,
    period: u64,
    drawn: Mono,
    /// Fires since then.
    fires: u32,
}

/// A thread with timers of its own.
struct Own {
    pid: u32,
    /// An event that nobody inherits. Where a child has all of its mother's events, the kernel swaps their contexts when one
    /// follows the other on a CPU, instead of stopping and starting timers; then ours hang on the child, end with it, and
    /// take no more new periods. With this one the two are not alike.
    _ballast: Event,
}

/// A thread that inherited its timers.
#[derive(Debug)]
struct Child {
    pid: u32,
    /// The thread whose timers they are copies of.
    root: u32,
    met: Mono,
    /// Fires of each, by the original's id.
    fires: FxHashMap<u64, u32>,
}

impl Child {
    fn new(pid: u32, root: u32, met: Mono) -> Self {
        Self { pid, root, met, fires: FxHashMap::default() }
    }
}

/// The timers of all threads and the rings they write into.
pub(super) struct PerThread {
    cpus: Vec<Cpu>,
    timers: FxHashMap<u64, Timer>,
    /// Threads with timers of their own.
    own: FxHashMap<u32, Own>,
    children: FxHashMap<u32, Child>,
    /// Threads that gave birth since their period was drawn.
    mothers: FxHashSet<u32>,
    settings: Settings,
    attr: Attr,
    periods: Periods,
    running: bool,
    adopted: Mono,
    /// Threads that could not be given timers.
    pub(super) refused: u64,
    /// Times the kernel slowed a timer down.
    pub(super) throttled: u64,
    /// Threads born while sampling.
    pub(super) births: u64,
}

impl PerThread {
    /// Opens the rings; no thread has a timer yet.
    ///
    /// # Errors
    /// `Denied` when perf events or rings are not to be had.
    pub(super) fn open(settings: Settings, now: Mono) -> Result<Self> {
        raise_file_limit();
        let mut cpus = Vec::new();
        for number in online()? {
            let owner = match Event::open(&ring_attr(), Scope::ThreadOnCpu(std::process::id(), number)) {
                Ok(owner) => owner,
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => continue,
                Err(e) => return Err(Error::io("cannot open a perf event", e)),
            };
            let ring = map_ring(&owner)?;
            cpus.push(Cpu { number, owner, ring: Some(ring), reader: None });
        }
        let Some(first) = cpus.first() else {
            return Err(Error::new(Kind::Unsupported, "no CPU could be opened for sampling"));
        };
        let capacity = first.ring.as_ref().map_or(0, Ring::capacity);
        let room = capacity as f64 / 2.0 / (settings.rate_hz * LATE).max(2.0);
        let attr = Attr {
            clockwork: if settings.cycles { Clockwork::Cycles } else { Clockwork::CpuClock },
            period: 0,
            layout: Layout::Stacks { raw: false },
            stack_bytes: room.clamp(STACK_BYTES.0, STACK_BYTES.1) as u32 & !4095,
            side_band: true,
            inherit: true,
            threads_only: !settings.follow,
            wake_each: true,
            exclude_kernel: false,
            enable_on_exec: false,
        };
        let units_a_second = if settings.cycles { CYCLES_HZ } else { 1e9 };
        Ok(Self {
            cpus,
            timers: FxHashMap::default(),
            own: FxHashMap::default(),
            children: FxHashMap::default(),
            mothers: FxHashSet::default(),
            settings,
            attr,
            periods: Periods::new(units_a_second / settings.rate_hz, now.0),
            running: false,
            adopted: now,
            refused: 0,
            throttled: 0,
            births: 0,
        })
    }

    /// Whether time in the kernel goes unsampled, for want of the right.
    pub(super) fn excludes_kernel(&self) -> bool {
        self.attr.exclude_kernel
    }

    /// Gives every thread of `pid` timers of its own.
    ///
    /// # Errors
    /// `Denied` with the errno when not even one thread could be given any; `Gone` when the process is.
    pub(super) fn add_process(&mut self, pid: u32, now: Mono) -> Result<()> {
        let mut last = None;
        for _ in 0..ROUNDS {
            let mut new = false;
            for tid in threads_of(pid) {
                if self.own.contains_key(&tid) {
                    continue;
                }
                match self.add_thread(pid, tid, Draw::Steady, now) {
                    Ok(()) => new = true,
                    // Ended between the list and here.
                    Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(e) => {
                        self.refused += 1;
                        last = Some(e);
                    }
                }
            }
            if !new {
                break;
            }
        }
        match last {
            _ if self.own.values().any(|own| own.pid == pid) => Ok(()),
            Some(e) => Err(Error::io(format!("cannot open a perf event on process {pid}"), e)),
            None => Err(Error::new(Kind::Gone, format!("process {pid} has ended"))),
        }
    }

    /// Opens timers on a thread, besides those that it may have.
    fn add_thread(&mut self, pid: u32, tid: u32, kind: Draw, now: Mono) -> io::Result<()> {
        let ballast = Event::open(&ring_attr(), Scope::Thread(tid))?;
        let mut opened = Vec::new();
        for cpu in &self.cpus {
            let period = self.periods.draw(kind);
            let event = match open_fitting(&mut self.attr, period, Scope::ThreadOnCpu(tid, cpu.number)) {
                Ok(event) => event,
                Err(e) if e.raw_os_error() == Some(libc::ENODEV) => continue,
                Err(e) => return Err(e),
            };
            event.output_to(&cpu.owner)?;
            if self.running {
                event.enable()?;
            }
            opened.push((event.id()?, Timer { event, tid, period, drawn: now, fires: 0 }));
        }
        self.timers.extend(opened);
        self.own.insert(tid, Own { pid, _ballast: ballast });
        self.children.remove(&tid);
        Ok(())
    }

    /// Starts the readers and the timers.
    pub(super) fn start(&mut self, interpreters: &Arc<Interpreters>) -> Result<()> {
        for cpu in &mut self.cpus {
            if let Some(ring) = cpu.ring.take() {
                cpu.reader = Some(Pinned::start(cpu.number, &cpu.owner, ring, Arc::clone(interpreters))?);
            }
        }
        self.running = true;
        for timer in self.timers.values() {
            timer.event.enable().map_err(|e| Error::io("cannot start sampling", e))?;
        }
        Ok(())
    }

    /// Stops the timers and the readers; what they have read can still be drained.
    ///
    /// # Errors
    /// `Bug` when a reader panicked.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.running = false;
        for timer in self.timers.values() {
            drop(timer.event.disable());
        }
        self.cpus.iter_mut().filter_map(|c| c.reader.as_mut()).try_for_each(Pinned::finish)
    }

    /// Gives every record that has come to `take`, samples with the time they stand for in ns.
    pub(super) fn drain(&mut self, now: Mono, mut take: impl FnMut(Record<'_>, Read<'_>, u64)) {
        let mut readers: Vec<_> = self.cpus.iter_mut().map(|c| c.reader.take()).collect();
        for reader in readers.iter_mut().flatten() {
            for (bytes, read) in reader.take().records() {
                let id = Cell::new(0);
                let record = parse(bytes, |from| {
                    id.set(from);
                    Layout::Stacks { raw: false }
                });
                let weight = match &record {
                    Record::Stack(sample) => self.weight(id.get(), sample, now),
                    Record::Fork(task) => {
                        self.born(task, now);
                        0
                    }
                    Record::Exit(task) => {
                        self.ended(task.tid);
                        0
                    }
                    Record::Throttle => {
                        self.throttled += 1;
                        0
                    }
                    _ => 0,
                };
                if weight > 0 || !matches!(record, Record::Stack(_)) {
                    take(record, read, weight);
                }
            }
        }
        for (cpu, reader) in self.cpus.iter_mut().zip(readers) {
            cpu.reader = reader;
        }
        self.redraw(now);
        if self.running && now.since(self.adopted) >= ADOPT_NS {
            self.adopted = now;
            self.adopt(now);
        }
    }

    /// The time that a fire stands for, ns; 0 for one that does not count.
    fn weight(&mut self, id: u64, sample: &StackSample<'_>, now: Mono) -> u64 {
        let tid = sample.tid;
        let units = match self.timers.get_mut(&id) {
            Some(timer) if timer.tid == tid => {
                timer.fires += 1;
                // The record has the period with which the timer was opened.
                self.periods.weight(timer.period, timer.fires)
            }
            // An inherited timer of a thread that has its own, or one that was closed since.
            _ if self.own.contains_key(&tid) => 0,
            Some(timer) => {
                let child = self.children.entry(tid).or_insert_with(|| Child::new(sample.pid, timer.tid, now));
                let fires = child.fires.entry(id).or_insert(0);
                *fires += 1;
                self.periods.weight(sample.period, *fires)
            }
            None => self.periods.weight(sample.period, 1),
        };
        if self.settings.cycles { (units as f64 / CYCLES_HZ * 1e9) as u64 } else { units }
    }

    fn born(&mut self, task: &Exit, now: Mono) {
        if task.pid != task.parent && !self.settings.follow {
            return;
        }
        let root = self.children.get(&task.parent_tid).map_or(task.parent_tid, |mother| mother.root);
        self.births += 1;
        self.mothers.insert(root);
        if !self.own.contains_key(&task.tid) {
            self.children.entry(task.tid).or_insert_with(|| Child::new(task.pid, root, now));
        }
    }

    fn ended(&mut self, tid: u32) {
        self.children.remove(&tid);
        // Closing timers takes the copies along that its children have.
        if self.own.contains_key(&tid) && !self.children.values().any(|c| c.root == tid) {
            self.own.remove(&tid);
            self.timers.retain(|_, t| t.tid != tid);
        }
    }

    /// Draws new periods where that loses nothing.
    fn redraw(&mut self, now: Mono) {
        for timer in self.timers.values_mut() {
            let kind = if self.mothers.contains(&timer.tid) {
                Draw::Wide
            } else if timer.fires > 0 && now.since(timer.drawn) >= REDRAW_NS {
                Draw::Steady
            } else {
                continue;
            };
            let period = self.periods.draw(kind);
            (timer.drawn, timer.fires) = (now, 0);
            if timer.event.set_period(period).is_ok() {
                timer.period = period;
            }
        }
        self.mothers.clear();
    }

    /// Gives threads that outlived their childhood timers of their own, and rids everybody of the copies of the old ones.
    fn adopt(&mut self, now: Mono) {
        // The records of two CPUs do not come in order, so that a thread's end may come before its birth.
        let pids: FxHashSet<u32> = self.children.values().map(|c| c.pid).collect();
        let alive: FxHashSet<u32> = pids.into_iter().flat_map(threads_of).collect();
        self.children.retain(|tid, c| alive.contains(tid) || now.since(c.met) < CHILDHOOD_NS);
        let grown = |c: &&Child| now.since(c.met) >= CHILDHOOD_NS;
        let roots: FxHashSet<u32> = self.children.values().filter(grown).map(|c| c.root).collect();
        let old: Vec<u64> = self.timers.iter().filter(|(_, t)| roots.contains(&t.tid)).map(|(id, _)| *id).collect();
        let mut pids: FxHashSet<u32> = FxHashSet::default();
        for root in &roots {
            if let Some(pid) = self.own.get(root).map(|own| own.pid) {
                // First the new ones: a thread that is born meanwhile has both, and keeps these. Wide ones, for whoever is
                // cut off here may end as soon as one that is born.
                match self.add_thread(pid, *root, Draw::Wide, now) {
                    Ok(()) => {}
                    // It ended, its children live on.
                    Err(e) if e.raw_os_error() == Some(libc::ESRCH) => drop(self.own.remove(root)),
                    // No descriptors are left: everything stays as it is.
                    Err(_) => return self.put_off(&roots, now),
                }
            }
            pids.extend(self.children.values().filter(|c| c.root == *root).map(|c| c.pid));
        }
        for pid in pids {
            for tid in threads_of(pid) {
                if !self.own.contains_key(&tid) && self.add_thread(pid, tid, Draw::Wide, now).is_err() {
                    self.children.remove(&tid);
                }
            }
        }
        for id in old {
            self.timers.remove(&id);
        }
        self.children.retain(|_, c| !roots.contains(&c.root) || now.since(c.met) < CHILDHOOD_NS);
        self.forget();
    }

    fn put_off(&mut self, roots: &FxHashSet<u32>, now: Mono) {
        for child in self.children.values_mut().filter(|c| roots.contains(&c.root)) {
            child.met = now;
        }
    }

    /// Closes the timers of threads that ended, unless children live on with copies of them.
    fn forget(&mut self) {
        let needed: FxHashSet<u32> = self.children.values().map(|c| c.root).collect();
        let pids: FxHashSet<u32> = self.own.values().map(|own| own.pid).collect();
        let alive: FxHashSet<u32> = pids.into_iter().flat_map(threads_of).collect();
        self.own.retain(|tid, _| alive.contains(tid) || needed.contains(tid));
        self.timers.retain(|_, t| self.own.contains_key(&t.tid));
    }
}

fn ring_attr() -> Attr {
    Attr {
        clockwork: Clockwork::Dummy,
        period: 1,
        layout: Layout::Stacks { raw: false },
        stack_bytes: 0,
        side_band: false,
        inherit: false,
        threads_only: false,
        wake_each: false,
        exclude_kernel: true,
        enable_on_exec: false,
    }
}

/// Opens an event; what this user or this kernel cannot have is left out, from then on.
fn open_fitting(attr: &mut Attr, period: u64, scope: Scope) -> io::Result<Event> {
    loop {
        match Event::open(&Attr { period, ..*attr }, scope) {
            Err(e) => match e.raw_os_error() {
                Some(libc::EACCES | libc::EPERM) if !attr.exclude_kernel => attr.exclude_kernel = true,
                Some(libc::EINVAL) if attr.threads_only => attr.threads_only = false,
                _ => return Err(e),
            },
            opened => return opened,
        }
    }
}

/// The threads of a process at this moment; none when it is gone.
pub(super) fn threads_of(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task"));
    entries.into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// A descriptor a thread and CPU: the soft limit of 1024 is soon reached.
fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Failing leaves the old limit; a thread without a timer is counted.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
